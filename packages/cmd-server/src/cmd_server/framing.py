"""The Simple Open Framing Header on streams: where one message ends and the next begins.

A frame is u32 length (big-endian, of the whole frame, these six bytes included), u16 encoding type 0xEB50, then the
SBE message. Pure: bytes in, views out. "Need more" is an empty answer; only a stream that can no longer be read
raises.
"""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any, Final

from cmd_common._native import module

from .errors import FrameError
from .formats import ENCODING_TYPE, HEADER

__all__ = ["MAX_FRAME", "Splitter", "frames", "make", "pure_frames", "pure_split", "split"]

MAX_FRAME: Final = 64 << 20
"""Limit of a client that has no better one: bytes of the longest frame that it takes from a server."""

_PREFIX: Final = struct.Struct(">IH")
_prefix = _PREFIX.unpack_from
_PREFIX_SIZE: Final = _PREFIX.size

Buffer = bytes | bytearray | memoryview


def pure_split(buffer: Buffer, end: int, limit: int = MAX_FRAME, start: int = 0) -> tuple[list[tuple[int, int]], int]:
    """Find the whole frames in ``buffer[start:end]``: their ``(start, stop)``, and up to where bytes are consumed.

    Nothing is copied; the caller keeps the rest. Raises FrameError for an encoding type that is not SBE's or a
    length that no frame can have, as soon as the first six bytes of that frame are there.
    """
    frames: list[tuple[int, int]] = []
    add = frames.append
    last = end - _PREFIX_SIZE
    while start <= last:
        length, kind = _prefix(buffer, start)
        if kind != ENCODING_TYPE or not HEADER <= length <= limit:
            raise _bad(length, kind, limit)
        stop = start + length
        if stop > end:
            break
        add((start, stop))
        start = stop
    return frames, start


def pure_frames(buffer: Buffer, end: int, limit: int = MAX_FRAME, start: int = 0) -> tuple[list[bytes], int]:
    """Return copies of the whole frames that ``split`` finds, and up to where bytes are consumed."""
    found, used = pure_split(buffer, end, limit, start)
    data = bytes(
        memoryview(buffer)[start:used]
    )  # slices of bytes cost half of what views cost, which the collector tracks
    return [data[first - start : last - start] for first, last in found], used


def make(native: ModuleType | None) -> tuple[Any, Any]:
    """Return ``split`` and ``frames``: those of that module, which leave errors to the pure ones, or the pure ones."""
    if native is None:
        return pure_split, pure_frames
    calls = native.WireFraming(pure_split, pure_frames)
    return calls.function("split"), calls.function("frames")


split = pure_split
frames = pure_frames
split, frames = make(module)


class Splitter:
    """Cuts a stream of chunks into frames; keeps the bytes of an unfinished one, at most ``limit`` of them.

    Frames are views into the chunk that was fed, so the chunk must not be written again while they are used. Only
    a frame that came in several chunks is copied, once, in time proportional to its length.
    """

    __slots__ = ("_need", "_rest", "limit")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._rest = bytearray()
        self._need = 0  # length of the unfinished frame once its prefix is known

    @property
    def pending(self) -> int:
        """Bytes of the unfinished frame that are kept."""
        return len(self._rest)

    def feed(self, data: Buffer) -> list[memoryview]:
        """Take the next chunk, return the frames that are whole now; raises FrameError as ``split`` does."""
        if not data:
            return []
        view = memoryview(data)
        frames: list[memoryview] = []
        if self._rest:
            # Only what the unfinished frame misses is appended: the frames behind it are not copied.
            if not self._need:
                take = _PREFIX_SIZE - len(self._rest)
                self._rest += view[:take]
                view = view[take:]
                if len(self._rest) < _PREFIX_SIZE:
                    return []
                self._need = _length(self._rest, self.limit)
            take = self._need - len(self._rest)
            self._rest += view[:take]
            if len(view) < take:
                return []
            frames.append(memoryview(self._rest))
            view = view[take:]
            self._rest = bytearray()
            self._need = 0
        found, consumed = split(view, len(view), self.limit)
        frames.extend([view[start:stop] for start, stop in found])
        if consumed < len(view):
            self._rest = bytearray(view[consumed:])
            if len(self._rest) >= _PREFIX_SIZE:
                self._need = _length(self._rest, self.limit)
        return frames


def _length(buffer: Buffer, limit: int) -> int:
    """Return the length that a prefix announces; raises FrameError."""
    length, kind = _prefix(buffer)
    if kind != ENCODING_TYPE or not HEADER <= length <= limit:
        raise _bad(length, kind, limit)
    return int(length)


def _bad(length: int, kind: int, limit: int) -> FrameError:
    if kind != ENCODING_TYPE:
        return FrameError(
            f"a frame has encoding type 0x{kind:04X}, not 0x{ENCODING_TYPE:04X}",
            hint="is the other side a cmd-server of this protocol?",
        )
    return FrameError(
        f"a frame of {length} bytes is announced; {HEADER} to {limit} are allowed",
        hint="raise the limit on message size if the other side is trusted" if length > limit else "",
    )
