"""Every record, answer and request comes back as it was; lies of the bytes end as one kind of error."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
import wire_world as world
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from cmd_common.records import BookDelta, BookSnapshot, Candle, Quote, Record, Trade, pack_levels
from cmd_server import codec
from cmd_server.errors import WireError
from cmd_server.formats import FLAGS_AT, HEADER, LAYOUTS
from cmd_server.messages import CONFLATED, REPLAYED, BookFlag, Heartbeat, Policy, Subscribe, Template

pytestmark = pytest.mark.usefixtures("both_ways")

TRADE = Trade(5, 6, "v", "s", "12", 12, 1.5, 2.5, "buy", 8)


@given(
    world.records, world.u32, world.u64, st.integers(0, 65_535), st.sampled_from((0, 64, 128, 192)), st.integers(0, 4)
)
@example(replace(TRADE, trade_id="", trade_seq=5), 1, 1, 0, 0, 0)
@example(replace(TRADE, trade_id="+5", trade_seq=5), 1, 1, 0, 0, 0)
@example(replace(TRADE, price=-0.0, quantity=math.inf), 1, 1, 0, 0, 0)
def test_a_record_comes_back_with_its_head(
    record: Record, instrument_id: int, seq: int, view: int, bits: int, state: int
) -> None:
    frame = codec.encode(record, instrument_id, seq, view, bits, state)
    head = codec.head(frame)
    assert int.from_bytes(frame[:4], "big") == len(frame)
    assert head[1:2] + head[4:] == (seq, instrument_id, view, bits | getattr(record, "flags", 0), state)
    assert head.template in codec.RECORD_TEMPLATES
    for data in (frame, bytearray(frame), memoryview(frame)):
        back = codec.decode(data, "v", "s")
        assert back == record
        assert all(type(getattr(back, side, b"")) is bytes for side in ("bids", "asks"))
        assert codec.decode(data, "v", "s", copy=False) == record
        assert codec.head(data) == head


@given(world.records, st.integers(0, 40), st.integers(0, 300))
def test_into_a_buffer_are_the_same_bytes_and_nothing_beside_them(record: Record, offset: int, spare: int) -> None:
    frame = codec.encode(record, 7, 9, 2, 64, 3)
    size = offset + len(frame) + spare
    for buffer in (bytearray(b"\xaa" * size), memoryview(bytearray(b"\xaa" * size))):
        end = codec.encode_into(record, buffer, offset, 7, 9, 2, 64, 3)
        assert end == offset + len(frame)
        assert bytes(buffer) == b"\xaa" * offset + frame + b"\xaa" * spare


_runs = st.one_of(
    st.lists(world.records, max_size=5),
    st.lists(world.trades, max_size=8),
    st.lists(world.numbered, max_size=8),
    st.lists(world.quotes, max_size=8),
)


@given(_runs, st.integers(0, 40), st.integers(0, 300))
@example([replace(TRADE, trade_id="null", trade_seq=None)], 0, 0)
@example([TRADE, replace(TRADE, trade_id="1,2", trade_seq=1), replace(TRADE, trade_id="3", trade_seq=2)], 0, 0)
@example([replace(TRADE, trade_id="1,2", trade_seq=1), replace(TRADE, trade_id="", trade_seq=2)], 0, 0)
@example([replace(TRADE, trade_id="true", trade_seq=True)], 0, 0)
@example([TRADE, replace(TRADE, trade_id="012")], 0, 0)
@example([replace(TRADE, trade_id="x" * 65_534), replace(TRADE, trade_id="é" * 70, trade_seq=None)], 0, 0)
@example([TRADE, replace(TRADE, flags=0), replace(TRADE, flags=63, side="unknown")], 3, 1)
def test_many_at_once_are_the_same_bytes(records: list[Record], offset: int, spare: int) -> None:
    frames = [codec.encode(record, 7, seq, 2, 64, 3) for seq, record in enumerate(records, 9)]
    assert codec.encode_many(records, 7, 9, 2, 64, 3) == frames
    data = b"".join(frames)
    for buffer in (bytearray(b"\xaa" * (offset + len(data) + spare)), memoryview(bytearray(offset + len(data)))):
        before = bytes(buffer)
        end = codec.encode_many_into(tuple(records), buffer, offset, 7, 9, 2, 64, 3)
        assert bytes(buffer) == before[:offset] + data + before[end:]
        assert end == offset + len(data)


@given(_runs.filter(len), st.integers(0, 9), st.integers(1, 400))
def test_a_buffer_too_short_for_many_stays_as_it_is(records: list[Record], offset: int, missing: int) -> None:
    size = max(0, offset + sum(map(len, codec.encode_many(records, 7, 9))) - missing)
    buffer = bytearray(b"\xaa" * size)
    with pytest.raises(WireError, match=rf"buffer of {size} bytes is too short"):
        codec.encode_many_into(records, buffer, offset, 7, 9)
    assert buffer == b"\xaa" * size
    with pytest.raises(WireError, match="too short"):
        codec.encode_many_into(records, bytearray(100_000), -1, 7, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(TRADE, trade_seq=1 << 63, trade_id=str(1 << 63)),
        replace(TRADE, trade_seq="5,6"),  # type: ignore[arg-type]
        replace(TRADE, trade_id="x" * 65_535),
        replace(TRADE, flags=None),  # type: ignore[arg-type]
        replace(TRADE, flags=256),
        replace(TRADE, side="none"),  # type: ignore[arg-type]
        replace(TRADE, price="1"),  # type: ignore[arg-type]
        replace(TRADE, trade_id="\ud800"),
        Quote(1, 2, "v", "s", 1 << 63, 1.0, 2.0, 3.0, 4.0),
        Quote(1, 2, "v", "s", None, 1.0, 2.0, 3.0, 4.0),  # type: ignore[arg-type]
        "no record",
    ],
)
def test_one_among_many_that_fits_no_message_is_the_same_error(wrong: Any) -> None:
    fine: Record = Quote(1, 2, "v", "s", 3, 1.0, 2.0, 3.0, 4.0) if isinstance(wrong, Quote) else TRADE
    for records in ([wrong], [fine, wrong, fine]):
        with pytest.raises(WireError) as one:
            codec.encode(wrong, 7, 9)
        with pytest.raises(WireError) as many:
            codec.encode_many(records, 7, 9)
        assert str(many.value) == str(one.value)
    for head in ((1 << 32, 1), (1, -1), (1, 1, 65_536), (1, 1, 0, 256), (1, 1, 0, 0, 256)):
        with pytest.raises(WireError):
            codec.encode_many([fine, fine], *head)


@given(world.records, st.integers(0, 9), st.integers(1, 400))
def test_a_buffer_too_short_is_one_error_and_never_grows(record: Record, offset: int, missing: int) -> None:
    size = max(0, offset + len(codec.encode(record, 7, 9)) - missing)
    buffer = bytearray(size)
    with pytest.raises(WireError, match=rf"buffer of {size} bytes is too short"):
        codec.encode_into(record, buffer, offset, 7, 9)
    assert len(buffer) == size


@given(world.services)
def test_an_answer_comes_back(message: Any) -> None:
    frame = codec.encode_service(message)
    assert codec.decode_service(memoryview(frame)) == message
    head = codec.head(frame)
    assert (head.seq, head.template in codec.SERVICE_TEMPLATES) == (0, True)


@given(world.requests)
def test_a_request_comes_back(message: Any) -> None:
    frame = codec.encode_request(message)
    assert codec.decode_request(memoryview(frame)) == message
    assert codec.head(frame).template in codec.REQUEST_TEMPLATES


def test_nan_survives() -> None:
    candle = Candle(0, 1, 2, 3, "v", "s", "1m", "built", "final", 1, 2, 3, 4, 5, math.nan, -1, math.nan, math.nan)
    back = codec.decode(codec.encode(candle, 1, 1), "v", "s")
    assert isinstance(back, Candle)
    assert all(map(math.isnan, (back.quote_volume, back.taker_buy_volume, back.taker_buy_quote_volume)))


def test_flags_are_added_to_a_copy() -> None:
    frame = codec.encode(TRADE, 1, 2, flags=REPLAYED)
    marked = codec.with_flags(memoryview(frame), CONFLATED)
    assert codec.head(marked).flags == TRADE.flags | REPLAYED | CONFLATED
    assert codec.decode(marked, "v", "s") == TRADE  # the record has only its own
    assert [i for i, (a, b) in enumerate(zip(frame, marked, strict=True)) if a != b] == [FLAGS_AT]


def test_sides_without_a_copy_are_views_of_the_frame() -> None:
    side = pack_levels([(1.0, 2.0), (3.0, 4.0)])
    frame = bytearray(codec.encode(BookDelta(1, 2, "v", "s", 1, 2, 2, side, side), 1, 1))
    found = codec.decode(frame, "v", "s", copy=False)
    assert isinstance(found, BookDelta)
    assert memoryview(found.bids).obj is frame
    copied = codec.decode(frame, "v", "s")
    frame[-16:] = bytes(16)
    assert found.asks != side
    assert copied.asks == side  # type: ignore[union-attr]


def test_the_layout_is_the_documented_one() -> None:
    frame = codec.encode(replace(TRADE, trade_id="x", trade_seq=None), 9, 77, 3, 64, BookFlag.LIVE)
    block = struct.pack("<QqqIHBBddqBB", 77, 5, 6, 9, 3, 72, 3, 1.5, 2.5, -(1 << 63), 1, 0)
    assert frame == struct.pack(">IH", 75, 0xEB50) + struct.pack("<HHHH", 58, 2, 7100, 2) + block + b"\x01\0x"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace(TRADE, ts_event=1 << 63), "does not fit"),
        (replace(TRADE, trade_seq=1 << 63, trade_id=str(1 << 63)), "does not fit"),
        (replace(TRADE, trade_id="x" * 65_535), "a text of 65535 bytes"),
        (replace(TRADE, trade_id="\ud800"), "does not fit"),
        (replace(TRADE, side="both"), "does not fit"),
        (replace(TRADE, price="1"), "does not fit"),
        (Quote(1, 2, "v", "s", 1, None, 1.0, 1.0, 1.0), "does not fit"),  # type: ignore[arg-type]
        (BookDelta(1, 2, "v", "s", 1, 2, 2, b"x" * 17, b""), "17 bytes is not made of levels of 16"),
        (BookSnapshot(1, 2, "v", "s", 1, 2, 0, 0, b"", b"x" * 8), "8 bytes is not made of levels of 16"),
        (object(), "object does not fit"),
    ],
)
def test_values_that_no_field_holds_are_one_error(record: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        codec.encode(record, 1, 1)
    with pytest.raises(WireError, match=message):
        codec.encode_into(record, bytearray(100_000), 0, 1, 1)


def test_the_head_arguments_are_checked_too() -> None:
    for arguments in ((1 << 32, 1), (1, -1), (1, 1, 1 << 16), (1, 1, 0, 256), (1, 1, 0, 0, 256)):
        with pytest.raises(WireError):
            codec.encode(TRADE, *arguments)
    with pytest.raises(WireError):
        codec.encode_service(Heartbeat(1, 1 << 32))
    with pytest.raises(WireError):
        codec.encode_request(Subscribe(-1, ()))


def read(frame: bytes) -> None:
    """Read a frame in every way there is."""
    head = codec.head(frame)
    if head.template in codec.RECORD_TEMPLATES:
        codec.decode(frame, "v", "s")
        codec.decode(frame, "v", "s", copy=False)
    elif head.template in codec.SERVICE_TEMPLATES:
        codec.decode_service(frame)
    elif head.template in codec.REQUEST_TEMPLATES:
        codec.decode_request(frame)


def complaint(frame: bytes) -> str:
    """What is said of a frame; any other exception than WireError is a failure."""
    try:
        read(frame)
    except WireError as error:
        return str(error)
    return ""


def test_a_trade_without_the_length_of_its_id_is_cut() -> None:
    frame = codec.encode(TRADE, 1, 1)
    for size in (len(frame) - 1, len(frame) - 2):
        with pytest.raises(WireError):
            codec.decode(frame[:size], "v", "s")


@given(world.frames, st.data())
def test_a_cut_frame_is_an_error_and_nothing_else(frame: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(frame) - 1))
    for part in (frame[:cut], memoryview(frame)[:cut]):
        with pytest.raises(WireError):
            read(part)  # type: ignore[arg-type]


@given(world.frames, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_changed_frame_is_read_or_a_wire_error(frame: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(frame)
    for at, value in changes:
        changed[at % len(changed)] = value
    assert "\n" not in complaint(bytes(changed))


@given(st.binary(max_size=300), st.sampled_from(sorted(LAYOUTS)), st.booleans())
def test_garbage_behind_a_header_is_read_or_a_wire_error(data: bytes, template: int, ours: bool) -> None:
    header = LAYOUTS[template].header
    frame = (HEADER + len(data)).to_bytes(4, "big") + (header if ours else header[:2] + data[:2] + header[4:]) + data
    assert "\n" not in complaint(frame)


def test_what_is_not_of_the_kind_asked_for_is_refused() -> None:
    trade, beat = codec.encode(TRADE, 1, 1), codec.encode_service(Heartbeat(1))
    with pytest.raises(WireError, match="template 24 is no record"):
        codec.decode(beat, "v", "s")
    with pytest.raises(WireError, match="template 2 is no answer"):
        codec.decode_service(trade)
    with pytest.raises(WireError, match="template 24 is no request"):
        codec.decode_request(beat)
    foreign = trade[:10] + b"\x01\x00" + trade[12:]
    with pytest.raises(WireError, match="schema 1, not 7100"):
        codec.head(foreign)
    with pytest.raises(WireError, match="schema 1, not 7100"):
        codec.decode(foreign, "v", "s")
    with pytest.raises(WireError, match="too short"):
        codec.head(b"")


def test_codes_of_later_versions() -> None:
    side = HEADER + 32 + 24
    frame = bytearray(codec.encode(TRADE, 1, 1))
    assert frame[side] == 1
    frame[side] = 77
    assert codec.decode(frame, "v", "s") == replace(TRADE, side="unknown")
    subscribe = bytearray(codec.encode_request(Subscribe(1, ("a",), Policy.CONFLATE)))
    subscribe[HEADER + 32 + 8] = 9
    with pytest.raises(WireError, match="policy 9 is not known"):
        codec.decode_request(subscribe)


def test_a_group_that_claims_too_much_costs_nothing() -> None:
    frame = bytearray(codec.encode_request(Subscribe(1, ("a", "b"))))
    at = HEADER + LAYOUTS[Template.SUBSCRIBE].block
    frame[at : at + 8] = struct.pack("<II", 0, 0xFFFFFFFF)
    with pytest.raises(WireError, match="group of 4294967295 entries"):
        codec.decode_request(frame)
