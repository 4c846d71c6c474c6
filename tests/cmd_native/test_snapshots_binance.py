"""Binance's REST snapshots read natively: what is read equals what the parser in Python reads, or it is left to that."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.conftest import require

from cmd_binance import COINM, SPOT, USDM, BinanceExchange
from cmd_binance._snapshots import read_snapshot
from cmd_common import _native, native
from cmd_common.builder import OrderBookBuilder
from cmd_common.errors import DataError, UsageError
from cmd_common.feed_books import ParsedBook
from cmd_common.orderbook import OrderBook, PureOrderBook
from cmd_common.recording import read
from cmd_common.records import pack_levels


@pytest.fixture(scope="module", autouse=True)
def native_runs() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
    require("native", native, "leave CMD_PURE alone")


def body(count: int = 50, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A snapshot of ``count`` levels a side around 100."""
    rng = random.Random(seed)
    sides: list[list[list[str]]] = []
    for sign in (-1, 1):
        tick, side = 10_000, []
        for _ in range(count):
            tick += sign * rng.randint(1, 9)
            side.append([f"{tick / 100:.8f}", f"{rng.random() * 9:.8f}"])
        sides.append(side)
    return {"lastUpdateId": 1027024, "bids": sides[0], "asks": sides[1], **more}


def encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def read_natively(raw: bytes, tick: str | None = "0.01") -> Any:
    assert _native.module is not None
    return _native.module.binance_snapshot(OrderBook(Decimal(tick) if tick else None), raw)


def pure(raw: bytes) -> ParsedBook:
    return read_snapshot(PureOrderBook(), raw)  # type: ignore[arg-type]


def same(raw: bytes, tick: str | None = "0.01") -> bool:
    """Compare both ways; whether it was read natively. What is refused in Python must not be read natively."""
    found = read_natively(raw, tick)
    if found is None:
        return False
    expected = pure(raw)
    last, ts, bids, asks = found
    assert (last, list(bids), list(asks)) == (expected.id, list(expected.bids), list(expected.asks))
    assert bids.packed() + asks.packed() == pack_levels(expected.bids) + pack_levels(expected.asks)
    shown = read_snapshot(OrderBook(Decimal(tick) if tick else None), raw)
    assert (shown.id, shown.ts, shown.complete) == (expected.id, expected.ts, expected.complete)
    book, other = OrderBook(Decimal("0.01")), PureOrderBook(0.01)
    book.load(shown.bids, shown.asks, complete=False)
    other.load(list(expected.bids), list(expected.asks), complete=False)
    assert (book.bids(), book.asks(), book.known_range) == (other.bids(), other.asks(), other.known_range)
    assert bool(ts) == (expected.ts is not None)
    return True


@pytest.mark.parametrize(
    "value",
    [
        body(),
        body(1000, 7),
        body(0),
        body(3, E=1_767_225_600_001, T=1_767_225_600_000),
        body(3, E=1_767_225_600_001, T=1_767_225_600_000_123),
        body(3, E=1, T=2, symbol="BTCUSD_PERP", pair="BTCUSD"),
        dict(reversed(body(4).items())),
        body(2) | {"bids": [["99", "0.00000000"], ["98.123456789", "1"], ["0.00000001", "123456789.5"]]},
    ],
)
@pytest.mark.parametrize("tick", ["0.01", "0.5", "0.0000001", None])
def test_usual_snapshots_are_read_natively(value: dict[str, Any], tick: str | None) -> None:
    assert same(encoded(value), tick)
    assert same(json.dumps(value, indent=1).encode(), tick)


@pytest.mark.parametrize(
    "value",
    [
        body(2) | {"bids": [["99", "1"], ["99.5", "1"]]},
        body(2) | {"asks": [["101", "1"], ["101.0", "2"]]},
        body(2) | {"bids": [["9.9e1", "1"]]},
        body(2) | {"bids": [[99.0, 1.0]]},
        body(2) | {"bids": [["0", "1"]]},
        body(2) | {"bids": [["-1", "1"]]},
        body(2) | {"bids": [["99", "1", []]]},
        body(2) | {"unknown": {}},
        body(2) | {"lastUpdateId": -1},
        body(2) | {"lastUpdateId": "5"},
        body(2, T=0),
        body(2, T=9_200_000_000_000_000),
        body(2, E=-5),
        {"lastUpdateId": 1, "bids": []},
        {"bids": [], "asks": []},
        {},
        [],
    ],
)
def test_unusual_snapshots_are_left_to_python(value: Any) -> None:
    raw = encoded(value)
    assert read_natively(raw) is None
    try:
        expected = pure(raw)
    except DataError:
        with pytest.raises(DataError):
            read_snapshot(OrderBook(0.01), raw)
    else:
        assert read_snapshot(OrderBook(0.01), raw) == expected


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"lastUpdateId":1,"bids":[],"bids":[],"asks":[]}', encoded(body(2)) + b"x", encoded(body(2))[:-1]],
)
def test_damage_is_left_to_python(raw: bytes) -> None:
    assert read_natively(raw) is None


RAW = encoded(body(6, 3, E=1_767_225_600_001, T=1_767_225_600_000))


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1, max_size=3), st.booleans())
@example([(2, ord("\\"))], False)
def test_changed_bytes_are_read_as_python_reads_them_or_not_at_all(changes: list[tuple[int, int]], cut: bool) -> None:
    raw = bytearray(RAW)
    for at, byte in changes:
        raw[at] = byte
    same(bytes(raw[: changes[0][0]] if cut else raw))


@pytest.mark.parametrize("exchange", [SPOT, USDM, COINM])
def test_a_decoder_takes_snapshots(exchange: BinanceExchange) -> None:
    raw = encoded(body(20))
    shown = []
    for book in (OrderBook(0.01, symbol="BTCUSDT"), PureOrderBook(0.01, symbol="BTCUSDT")):
        decoder = exchange.book_decoder()
        builder = OrderBookBuilder(book, exchange.sequence_rule, snapshot_levels=20)  # type: ignore[arg-type]
        decoder.add(builder)
        builder.start()
        assert decoder.snapshot("BTCUSDT", raw).live
        with pytest.raises(UsageError, match="ETHUSDT was not added"):
            decoder.snapshot("ETHUSDT", raw)
        with pytest.raises(DataError):
            decoder.snapshot("BTCUSDT", b"{}")
        shown.append((book.bids(), book.asks(), book.last_id, book.known_range))
    assert shown[0] == shown[1]


def test_recorded_snapshots_are_read_natively(recordings: Path) -> None:
    found = 0
    for path in sorted(p for p in recordings.glob("binance*/*.ndjson*") if p.is_file()):
        for line in read(path):
            if line.src == "rest" and '"lastUpdateId"' in line.text[:400]:
                assert same(line.text.encode()), path.name
                found += 1
    assert found
