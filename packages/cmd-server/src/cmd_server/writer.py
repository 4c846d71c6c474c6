"""One stream's frames behind each other in the caller's buffer: the shortest way from a record to its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cmd_common.errors import UsageError
from cmd_common.records import Record

from .encoder import encode_into
from .wire_native import CODEC

__all__ = ["FrameWriter"]

_LARGEST: Final = (("instrument_id", 32), ("seq", 64), ("view", 16), ("flags", 8), ("state", 8))


class FrameWriter:
    """Writes records as ``encode_into`` does, each behind the last one and with the next sequence.

    ``write(record)`` returns the length of the frame in bytes; it raises WireError as ``encode_into`` does, also where
    the buffer is full, and then neither ``end`` nor ``seq`` have changed. ``buffer`` is a bytearray or a writable
    memoryview of bytes that keeps its length as long as the writer lives. Raises UsageError for numbers that fit no
    frame.
    """

    __slots__ = ("_at", "_buffer", "_head", "_native", "_next", "write")

    write: Callable[[Record], int]

    def __init__(
        self,
        buffer: bytearray | memoryview,
        instrument_id: int,
        seq: int = 1,
        view: int = 0,
        flags: int = 0,
        state: int = 0,
    ) -> None:
        head = instrument_id, seq, view, flags, state
        for (name, bits), value in zip(_LARGEST, head, strict=True):
            if not 0 <= value < 1 << bits:
                raise UsageError(f"{name} must be a number of {bits} bits, not {value}")
        self._buffer = buffer
        self._head = instrument_id, view, flags, state
        self._at, self._next = 0, seq
        self._native: Any = None if CODEC is None else CODEC.writer(buffer, *head)
        self.write = self._write if self._native is None else self._native.function()

    @property
    def end(self) -> int:
        """Where the last frame ends, and the next one begins."""
        return self._at if self._native is None else self._native.end

    @property
    def seq(self) -> int:
        """The sequence of the next frame."""
        return self._next if self._native is None else self._native.seq

    def rewind(self, end: int = 0) -> None:
        """Go on writing at another place of the buffer; sequences go on as they were."""
        if not 0 <= end <= len(self._buffer):
            raise UsageError(f"{end} is no place in a buffer of {len(self._buffer)} bytes")
        if self._native is None:
            self._at = end
        else:
            self._native.rewind(end)

    def _write(self, record: Record) -> int:
        instrument_id, view, flags, state = self._head
        start = self._at
        end = encode_into(record, self._buffer, start, instrument_id, self._next, view, flags, state)
        self._at = end
        self._next = self._next + 1 & 0xFFFFFFFFFFFFFFFF
        return end - start
