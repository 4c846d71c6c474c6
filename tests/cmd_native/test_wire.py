"""The wire codec in Rust says the same as the pure one, about whatever it is given: same bytes, records, words."""

from __future__ import annotations

import array
import gc
import math
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cmd_common.records import (
    AggregatedBook,
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "cmd_server"))
import wire_ways
import wire_world as world

PURE = wire_ways.codec_of("pure")
SIDE = bytes(range(48))


@pytest.fixture(scope="module")
def native() -> Any:
    return wire_ways.codec_of("native")


def said(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a call answers, or says of what it was given; views as what they show."""
    try:
        found = call(*arguments, **named)
    except Exception as error:
        return type(error), str(error), getattr(error, "hint", None)
    return found


TRADE = Trade(5, 6, "v", "s", "12", 12, 1.5, 2.5, "buy", 8)
SAMPLES: tuple[Record, ...] = (
    TRADE,
    replace(TRADE, trade_id="é1", trade_seq=None, side="sell"),
    AggTrade(5, 6, "v", "s", "12", 12, 10, 12, 1.5, 2.5, "unknown"),
    Quote(5, 6, "v", "s", 7, 1.0, 2.0, 3.0, 4.0),
    BookSnapshot(5, 6, "v", "s", 1, 2, 3, 4, SIDE, b""),
    BookDelta(5, 6, "v", "s", 1, 2, 2, SIDE, SIDE[:16]),
    Candle(0, 1, 2, 3, "v", "s", "1m", "built", "final", 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7, 8.0, math.nan),
    AggregatedBook(5, 6, "A-B", 0, "v:s", "", SIDE, b"", 5),
    FeedStatus(5, 6, "v", "s", "book", "c", "LIVE", "why"),
    Gap(5, 6, "v", "s", "trades", "silence", "lost", 1, None, "", "more"),
    InstrumentRecord(5, 6, "v", "s", "A", "B", "", "spot", "1", "1", "1", "1", "", True, None, "trading"),
)


class Number(int):
    pass


class Text(str):
    pass


class Real(float):
    pass


class Indexed:
    def __index__(self) -> int:
        return 7


class Code(IntEnum):
    SEVEN = 7


ODD: tuple[Any, ...] = (
    None, True, False, 0, 7, -1, 255, 256, 1 << 16, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), -(1 << 63) - 1,
    1.5, math.inf, math.nan, "", "7", "07", "+7", "-7", "٧", "buy", "sell", "".join(["bu", "y"]), "exchange", "final", "\ud800", "x" * 65_534,
    "x" * 65_535, "x" * 65_536, b"", b"\0" * 16, b"\0" * 24, b"\0" * 17, bytearray(16), memoryview(bytes(48)), Number(7), Text("buy"), Text("7"),
    Real(1.5), Indexed(), Code.SEVEN, [], object,
)  # fmt: skip


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_any_value_in_any_field_is_encoded_or_refused_alike(native: Any, record: Record) -> None:
    for name in record.__struct_fields__:
        for value in ODD:
            odd = replace(record, **{name: value})
            frame = said(PURE.encode, odd, 1, 2, 3, 4, 1)
            assert said(native.encode, odd, 1, 2, 3, 4, 1) == frame, (name, value)
            one, other = bytearray(70_000), bytearray(70_000)
            assert said(native.encode_into, odd, one, 3, 1, 2) == said(PURE.encode_into, odd, other, 3, 1, 2)
            assert one == other
            assert said(native.encode_many, [record, odd], 1, 2) == said(PURE.encode_many, [record, odd], 1, 2)


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_the_head_arguments_and_buffers_are_judged_alike(native: Any, record: Record) -> None:
    for place in range(5):
        for value in ODD:
            head: list[Any] = [1, 2, 3, 4, 1]
            head[place] = value
            assert said(native.encode, record, *head) == said(PURE.encode, record, *head), (place, value)
            assert said(native.encode_many, (record,), *head) == said(PURE.encode_many, (record,), *head)
    size = len(PURE.encode(record, 1, 2))
    buffers: list[Callable[[], Any]] = [
        lambda: bytearray(size), lambda: bytearray(size - 1), lambda: memoryview(bytearray(size + 9))[5:],
        lambda: memoryview(bytearray(2 * size))[::2], lambda: memoryview(bytearray(8 * size)).cast("d"),
        lambda: memoryview(bytearray(8 * size)).cast("c"), lambda: memoryview(bytes(size)), lambda: bytes(size),
        lambda: memoryview(bytearray(4 * size)).cast("B", (4, size)), lambda: array.array("B", bytes(size)), lambda: None, lambda: "",
    ]  # fmt: skip
    for make in buffers:
        for offset in (0, 4, -size, -1, 1 << 40, True, None, 1.0):
            for call in ("encode_into", "encode_many_into"):
                one, other = make(), make()
                what = [record] if call == "encode_many_into" else record
                found = said(getattr(native, call), what, one, offset, 1, 2)
                assert found == said(getattr(PURE, call), what, other, offset, 1, 2), (call, offset, other)
                if isinstance(other, bytearray):
                    assert one == other


def test_arguments_by_name_and_wrong_calls_are_the_twins_to_judge(native: Any) -> None:
    for record in SAMPLES:
        assert native.encode(record, 1, seq=2, flags=64) == PURE.encode(record, 1, seq=2, flags=64)
        assert native.encode(record=record, instrument_id=1, seq=2) == PURE.encode(record, 1, 2)
        frame = PURE.encode(record, 1, 2)
        assert repr(native.decode(frame, symbol="s", venue="v")) == repr(PURE.decode(frame, "v", "s"))
    for name in ("encode", "encode_into", "encode_many", "encode_many_into", "decode", "head"):
        for arguments in ((), (TRADE,), (TRADE,) * 9):
            with pytest.raises(Exception) as one:
                getattr(PURE, name)(*arguments)
            with pytest.raises(type(one.value)) as other:
                getattr(native, name)(*arguments)
            assert str(other.value) == str(one.value)


def read(codec: Any, frame: Any) -> list[Any]:
    """All that can be read of a frame, damaged or not."""
    found = [
        said(codec.head, frame),
        said(codec.decode, frame, "v", "s"),
        said(codec.decode, frame, "v", "s", copy=False),
    ]
    return [repr(each) for each in found]  # of views too, where it shows that they are ones; NaN is equal to itself


@settings(max_examples=150)
@given(world.frames, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.integers(0, 40))
def test_damaged_frames_are_read_or_refused_alike(
    native: Any, frame: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    changed = bytearray(frame)
    for at, value in changes:
        changed[at % len(changed)] = value
    data = bytes(changed[: len(changed) - cut]) if cut else bytes(changed)
    assert read(native, data)[:2] == read(PURE, data)[:2]
    for kind in (bytearray, memoryview):
        assert read(native, kind(data))[:2] == read(PURE, kind(data))[:2]


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_every_byte_changed_and_every_cut(native: Any, record: Record) -> None:
    frame = PURE.encode(record, 1, 2, 3, 64, 1)
    for at in range(len(frame)):
        for value in (0, 1, 0x7F, 0xFF):
            changed = frame[:at] + bytes([value]) + frame[at + 1 :]
            assert read(native, changed)[:2] == read(PURE, changed)[:2], (at, value)
        assert read(native, frame[:at])[:2] == read(PURE, frame[:at])[:2], at
        later = frame + b"\0" * at
        assert read(native, later)[:2] == read(PURE, later)[:2], at
    for other in (world.grown(frame), world.news(), b"", frame[:13], "text", None, memoryview(bytes(80)).cast("d")):
        assert read(native, other)[:2] == read(PURE, other)[:2]


def same_columns(one: Any, other: Any) -> None:
    if isinstance(one, tuple) or isinstance(other, tuple):
        assert one == other
        return
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        assert (
            one[name].tobytes() == other[name].tobytes()
            if one[name].dtype != object
            else (one[name] == other[name]).all()
        )
        assert one[name].flags.writeable == other[name].flags.writeable, name


_lists = st.one_of([st.lists(kind, max_size=5) for kind in (
    world.trades, world.numbered, world.agg_trades, world.quotes, world.candles, world.snapshots, world.deltas, world.statuses,
)])  # fmt: skip


@settings(max_examples=150)
@given(_lists, st.booleans(), st.none() | st.tuples(st.integers(0, 10_000), st.integers(0, 255)), st.integers(1, 10))
def test_columns_are_the_same_or_refused_alike(
    native: Any, records: list[Any], joined: bool, change: tuple[int, int] | None, template: int
) -> None:
    frames = [PURE.encode(r, n, 10 + n, 3, 64, 2) for n, r in enumerate(records)]
    template = PURE.head(frames[0]).template if frames else template
    if change is not None and frames:
        broken = bytearray(frames[change[0] % len(frames)])
        broken[change[0] % len(broken)] = change[1]
        frames[change[0] % len(frames)] = bytes(broken)
    given_: Any = b"".join(frames) if joined else frames
    same_columns(said(native.columns, given_, template), said(PURE.columns, given_, template))
    if joined and given_:
        same_columns(said(native.columns, given_[:-1], template), said(PURE.columns, given_[:-1], template))
        same_columns(said(native.columns, bytearray(given_), template), said(PURE.columns, bytearray(given_), template))


@settings(max_examples=150)
@given(
    st.lists(world.frames, max_size=5),
    st.integers(0, 30),
    st.none() | st.tuples(st.integers(0, 5), st.integers(0, 255)),
)
def test_streams_are_split_alike(frames: list[bytes], cut: int, change: tuple[int, int] | None) -> None:
    pure, native = wire_ways.framing_of("pure"), wire_ways.framing_of("native")
    data = bytearray(b"".join(frames))
    if change is not None and data:
        data[change[0] % len(data)] = change[1]
    end = max(0, len(data) - cut)
    for one, other in zip(native, pure, strict=True):
        for buffer in (data, bytes(data), memoryview(data)):
            for arguments in ((end, 1 << 20), (end, 60, min(3, end)), (end, 1 << 20, end)):
                assert said(one, buffer, *arguments) == said(other, buffer, *arguments)
    for arguments in ((len(data) + 6, 100), (-1, 100), (end, None), (end, 100, -3), (1 << 70, 100), (1.0, 100)):
        for one, other in zip(native, pure, strict=True):
            assert said(one, data, *arguments) == said(other, data, *arguments)


def test_nothing_is_kept_and_nothing_is_let_go_twice(native: Any) -> None:
    pure_split, native_split = wire_ways.framing_of("pure")[0], wire_ways.framing_of("native")[0]
    word = "".join(["LIVE", "LY"])
    record = FeedStatus(1 << 40, 1 << 41, word, word, word, word, word, word)
    held = sys.getrefcount(word), sys.getrefcount(record)
    frame = native.encode(record, 1, 2)
    stream = bytearray(frame * 3)
    for _ in range(500):
        native.encode(record, 1, 2)
        native.encode_into(record, bytearray(400), 0, 1, 2)
        native.encode_many([record, TRADE], 1, 2)
        native.encode_many_into([record, TRADE], bytearray(800), 0, 1, 2)
        native.decode(frame, word, word)
        native.head(frame)
        native.columns([PURE.encode(TRADE, 1, 2)], 2)
        assert native_split(stream, len(stream), 1 << 20) == pure_split(stream, len(stream), 1 << 20)
        said(native.encode, replace(record, state=None), 1, 2)
        said(native.decode, frame[:60], word, word)
    gc.collect()
    assert (sys.getrefcount(word), sys.getrefcount(record)) == held
    stream += b"x"  # no view of it is left


def test_a_buffer_is_let_go_after_an_error_too(native: Any) -> None:
    data = bytearray(PURE.encode(TRADE, 1, 2)[:50])
    said(native.decode, data, "v", "s")
    said(native.columns, [data, data], 2)
    said(native.columns, data, 2)
    said(native.encode_into, TRADE, memoryview(data), 0, 1, 2)
    data += b"x"


@given(
    st.lists(st.tuples(st.sampled_from(("v", "w", "é", "\ud800", 5, None)), st.sampled_from(("s", "t"))), max_size=6),
    st.integers(-1, 7),
    st.integers(-1, 8),
)
def test_where_another_stream_begins(native: Any, names: list[tuple[Any, str]], start: int, stop: int) -> None:
    records: list[Any] = [replace(TRADE, venue=venue, symbol="".join([symbol, "x"])) for venue, symbol in names]
    for what in (records, tuple(records), [*records, SAMPLES[3]], [SAMPLES[3], *records], [*records, None]):
        assert said(native.same_stream, what, start, stop) == said(PURE.same_stream, what, start, stop)


def test_numbers_are_read_the_same_by_calls_and_where_they_lie(native: Any) -> None:
    """The second is a matter of how CPython lays numbers out, which is looked at once; without it calls are made."""
    codec = wire_ways.native_module().WireCodec
    ints = sorted(
        {sign * ((1 << bits) + more) for bits in range(66) for more in (-1, 0, 1, 12_345) for sign in (1, -1)}
    )
    reals = (0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, 0.1, -61_837.12)
    records: list[Record] = [replace(TRADE, ts_event=n, trade_seq=n, trade_id=str(n)) for n in ints]
    records += [replace(TRADE, price=real, quantity=-real) for real in reals]
    try:
        assert codec.direct(True)
        direct = [said(native.encode, record, 1, 2) for record in records]
        assert not codec.direct(False)
        called = [said(native.encode, record, 1, 2) for record in records]
    finally:
        codec.direct(True)
    assert direct == called == [said(PURE.encode, record, 1, 2) for record in records]
    assert sum(type(frame) is bytes for frame in direct) > 400
