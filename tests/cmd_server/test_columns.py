"""Many frames as arrays hold what decoding them one by one gives."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import wire_world as world
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import UsageError
from cmd_common.records import BookDelta, BookSnapshot, Candle, Record
from cmd_server import codec
from cmd_server.errors import WireError
from cmd_server.formats import NULL_INT
from cmd_server.messages import Template

pytestmark = pytest.mark.usefixtures("both_ways")

CODES: dict[str, Any] = {
    "side": {"unknown": 0, "buy": 1, "sell": 2},
    "source": {"exchange": 1, "built": 2},
    "state": {"provisional": 1, "final": 2, "corrected": 3},
}
lists = st.one_of(
    *(st.lists(kind, max_size=6) for kind in (world.trades, world.agg_trades, world.quotes, world.candles)),
    *(st.lists(kind, max_size=6) for kind in (world.snapshots, world.deltas)),
)


def value(record: Record, name: str) -> Any:
    found = getattr(record, name)
    if name == "trade_id":
        return "" if found == str(record.trade_seq) and record.trade_seq is not None else found  # type: ignore[union-attr]
    return NULL_INT if found is None else CODES[name][found] if name in CODES else found


@given(lists, st.booleans())
def test_columns_are_what_decoding_gives(records: list[Any], joined: bool) -> None:
    frames = [codec.encode(r, n, 10 + n, 3, 64, 2) for n, r in enumerate(records)]
    template = codec.head(frames[0]).template if frames else Template.TRADE
    found = codec.columns(b"".join(frames) if joined else frames, template)
    assert {len(a) for name, a in found.items() if not name.startswith(("bids", "asks"))} == {len(records)}
    assert found.pop("stream_seq").tolist() == list(range(10, 10 + len(records)))
    assert found.pop("instrument_id").tolist() == list(range(len(records)))
    assert found.pop("view").tolist() == [3] * len(records)
    assert found.pop("book_state").tolist() == [2] * len(records)
    assert found.pop("flags").tolist() == [64 | r.flags for r in records]
    for side in ("bids", "asks"):
        if side in found:
            levels, at = found.pop(side), found.pop(side + "_at").tolist()
            parts = [levels[a:b] for a, b in pairwise(at)]
            assert [p.tobytes() for p in parts] == [getattr(r, side) for r in records]
    for name, array in found.items():
        assert array.tolist() == [value(r, name) for r in records], name
    if records:
        missing = {"venue", "symbol", "bids", "asks", "flags"}
        assert found.keys() == set(records[0].__struct_fields__) - missing


@given(st.integers(1, 50))
def test_one_buffer_of_frames_of_one_length(count: int) -> None:
    quotes = [codec.encode(world.Quote(n, n, "v", "s", n, 1.0, 2.0, 3.0, 4.0), 1, n) for n in range(count)]
    found = codec.columns(bytearray(b"".join(quotes)), Template.QUOTE)
    assert found["seq"].tolist() == list(range(count))
    assert all(array.flags.c_contiguous for array in found.values())


def test_books_and_candles_keep_their_types() -> None:
    book = BookSnapshot(1, 2, "v", "s", 1, 2, 0, 0, bytes(32), b"")
    found = codec.columns([codec.encode(book, 1, 1)], Template.BOOK_SNAPSHOT)
    assert (found["bids"].shape, found["asks"].shape) == ((2, 2), (0, 2))
    candle = Candle(0, 1, 2, 3, "v", "s", "1m", "built", "final", 1, 2, 3, 4, 5, 6, 7, 8, 9)
    found = codec.columns([codec.encode(candle, 1, 1)] * 2, Template.CANDLE)
    assert found["interval"].tolist() == ["1m", "1m"]
    assert found["open"].dtype == np.dtype("<f8")


def test_what_cannot_be_columns_is_told() -> None:
    quote = codec.encode(world.Quote(1, 1, "v", "s", 1, 1.0, 2.0, 3.0, 4.0), 1, 1)
    delta = codec.encode(BookDelta(1, 2, "v", "s", 1, 2, 2, bytes(16), b""), 1, 1)
    with pytest.raises(WireError, match="template 4, not 2"):
        codec.columns([quote], Template.TRADE)
    with pytest.raises(WireError, match="template 4, not 2"):
        codec.columns(quote, Template.TRADE)
    with pytest.raises(UsageError, match="template 9 has no columns"):
        codec.columns([], Template.STATUS)
    with pytest.raises(WireError, match="ends within its block"):
        codec.columns([quote[:60]], Template.QUOTE)
    with pytest.raises(WireError, match="ends before its bids"):
        codec.columns([delta[:70]], Template.BOOK_DELTA)
    with pytest.raises(WireError, match="do not fit a BookDelta frame"):
        codec.columns([delta[:80]], Template.BOOK_DELTA)
    with pytest.raises(WireError, match="no whole frame"):
        codec.columns(quote + delta[:-1], Template.QUOTE)


def test_without_numpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(UsageError, match=r"cmd-server\[arrow\]"):
        codec.columns([], Template.TRADE)
