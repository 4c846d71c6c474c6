"""A writer's frames are those of ``encode``, behind each other and numbered on; what does not fit changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import wire_ways
import wire_world as world
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cmd_common.errors import UsageError
from cmd_common.records import Record, Trade
from cmd_server import codec, wire_native, writer
from cmd_server.errors import WireError
from cmd_server.writer import FrameWriter

TRADE = Trade(5, 6, "v", "s", "12", 12, 1.5, 2.5, "buy", 8)


@pytest.fixture(params=wire_ways.WAYS, scope="module", autouse=True)
def way(request: pytest.FixtureRequest) -> Any:
    before = writer.CODEC
    writer.CODEC = None if request.param == "pure" else wire_native.make(wire_ways.native_module())  # type: ignore[misc]
    yield request.param
    writer.CODEC = before  # type: ignore[misc]


@given(st.lists(world.records, max_size=8), world.u32, st.integers(0, 1 << 40), st.booleans())
def test_frames_follow_each_other(records: list[Record], instrument: int, seq: int, view: bool) -> None:
    frames = [codec.encode(record, instrument, n, 3, 64, 2) for n, record in enumerate(records, seq)]
    data = b"".join(frames)
    buffer = bytearray(len(data) + 5)
    made = FrameWriter(memoryview(buffer) if view else buffer, instrument, seq, 3, 64, 2)
    for record, frame in zip(records, frames, strict=True):
        assert made.write(record) == len(frame)
    assert (made.end, made.seq) == (len(data), seq + len(records))
    assert buffer == data + bytes(5)


def test_a_full_buffer_is_told_and_writing_goes_on_after_a_rewind() -> None:
    frame = codec.encode(TRADE, 1, 1)
    buffer = bytearray(2 * len(frame) + 3)
    made = FrameWriter(buffer, 1)
    assert [made.write(TRADE), made.write(TRADE)] == [len(frame)] * 2
    before = bytes(buffer)
    with pytest.raises(WireError, match=f"buffer of {len(buffer)} bytes is too short for {len(frame)} bytes"):
        made.write(TRADE)
    assert (made.end, made.seq, bytes(buffer)) == (2 * len(frame), 3, before)
    made.rewind()
    made.write(TRADE)
    assert buffer[: len(frame)] == codec.encode(TRADE, 1, 3)
    made.rewind(3)
    made.write(TRADE)
    assert buffer[3 : 3 + len(frame)] == codec.encode(TRADE, 1, 4)
    for place in (-1, len(buffer) + 1):
        with pytest.raises(UsageError, match="is no place"):
            made.rewind(place)


@pytest.mark.parametrize("wrong", [replace(TRADE, trade_id="x" * 65_535), replace(TRADE, price="1"), "no record", None])
def test_what_fits_no_frame_is_the_error_of_encode_and_changes_nothing(wrong: Any) -> None:
    made = FrameWriter(bytearray(70_000), 1)
    with pytest.raises(WireError) as expected:
        codec.encode(wrong, 1, 1)
    with pytest.raises(WireError) as found:
        made.write(wrong)
    assert str(found.value) == str(expected.value)
    assert (made.end, made.seq) == (0, 1)
    assert made.write(replace(TRADE, price=1)) > 0  # an int is a price too


def test_numbers_that_fit_no_frame_are_refused() -> None:
    for head in ((1 << 32,), (1, -1), (1, 1 << 64), (1, 1, 1 << 16), (1, 1, 0, 256), (1, 1, 0, 0, 256)):
        with pytest.raises(UsageError, match="must be a number of"):
            FrameWriter(bytearray(10), *head)
    last = FrameWriter(bytearray(100), 1, (1 << 64) - 1)
    last.write(TRADE)
    assert last.seq == 0  # belongs to no stream, as nothing comes after the last of all


def test_a_buffer_that_cannot_be_written_is_told() -> None:
    with pytest.raises(WireError, match="does not fit"):
        FrameWriter(memoryview(bytes(500)), 1).write(TRADE)
    with pytest.raises(WireError, match="too short"):
        FrameWriter(bytearray(), 1).write(TRADE)


def test_the_buffer_is_free_again_after_the_writer() -> None:
    buffer = bytearray(100)
    made = FrameWriter(buffer, 1)
    made.write(TRADE)
    del made
    buffer += b"x"
