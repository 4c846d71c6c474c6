"""Streams cut anywhere give the frames that went in, once and in order, and never hold more than one of them."""

from __future__ import annotations

import struct

import pytest
import wire_world as world
from hypothesis import given
from hypothesis import strategies as st

from cmd_server import framing
from cmd_server.errors import FrameError
from cmd_server.framing import Splitter, split

pytestmark = pytest.mark.usefixtures("both_ways")


@given(st.lists(world.frames, max_size=8), st.lists(st.integers(1, 200), min_size=1, max_size=60))
def test_however_a_stream_is_cut_the_frames_come_out(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frames)
    longest = max(map(len, frames), default=14)
    splitter = Splitter(longest)
    found: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        chunk = bytearray(stream[at : at + size])
        found += [bytes(frame) for frame in splitter.feed(chunk)]
        chunk[:] = bytes(len(chunk))  # what was kept of it is a copy
        assert splitter.pending < longest
        at, turn = at + size, turn + 1
    assert found == frames
    assert splitter.pending == 0


@given(st.lists(world.frames, max_size=8), st.integers(0, 60), st.integers(0, 20))
def test_split_works_on_the_callers_buffer(frames: list[bytes], spare: int, start: int) -> None:
    stream = b"\xff" * start + b"".join(frames)
    buffer = bytearray(stream + b"\xff" * spare)
    found, consumed = split(buffer, len(stream), start=start)
    assert [bytes(buffer[a:b]) for a, b in found] == frames
    assert consumed == len(stream)
    assert framing.frames(buffer, len(stream), 1 << 20, start) == (frames, consumed)
    assert split(memoryview(buffer), len(stream), 1 << 20, start) == (found, consumed)
    if frames:
        found, consumed = split(buffer, len(stream) - 1, start=start)
        assert [bytes(buffer[a:b]) for a, b in found] == frames[:-1]
        assert consumed == len(stream) - len(frames[-1])
        assert framing.frames(bytes(buffer), len(stream) - 1, 1 << 20, start) == (frames[:-1], consumed)


def test_whole_frames_are_not_copied() -> None:
    data = bytearray(struct.pack(">IH", 20, 0xEB50) + bytes(14)) * 3
    assert all(frame.obj is data for frame in Splitter(20).feed(data))


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (struct.pack(">IH", 20, 0x5BE0), "encoding type 0x5BE0, not 0xEB50"),
        (b"GET / HTTP/1.1\r\n", "is the other side a cmd-server"),
        (struct.pack(">IH", 13, 0xEB50), "frame of 13 bytes is announced; 14 to 100"),
        (struct.pack(">IH", 101, 0xEB50), "raise the limit"),
        (struct.pack(">IH", 0xFFFFFFFF, 0xEB50), "frame of 4294967295 bytes"),
    ],
)
def test_a_stream_that_cannot_be_read_is_told_as_soon_as_the_prefix_is_there(prefix: bytes, message: str) -> None:
    good = struct.pack(">IH", 20, 0xEB50) + bytes(14)
    with pytest.raises(FrameError, match=message):
        Splitter(100).feed(good + prefix[:6])
    with pytest.raises(FrameError, match=message):
        split(good + prefix, 20 + len(prefix), 100)
    splitter = Splitter(100)
    assert len(splitter.feed(good + prefix[:2])) == 1
    assert splitter.feed(prefix[2:5]) == []
    with pytest.raises(FrameError, match=message):
        splitter.feed(prefix[5:])


def test_a_large_frame_in_many_chunks_is_copied_once() -> None:
    size = 4 << 20
    frame = struct.pack(">IH", size, 0xEB50) + bytes(size - 6)
    splitter = Splitter(size)
    found: list[memoryview] = []
    for at in range(0, size, 64):  # 65,536 chunks: quadratic copying would take minutes
        found += splitter.feed(memoryview(frame)[at : at + 64])
    assert found == [frame]
    assert splitter.feed(b"") == []
