"""The buffer that a client receives into: the system writes to it, frames are taken out of it."""

from __future__ import annotations

from typing import Final

from cmd_server import framing

__all__ = ["RECEIVE", "Inbox"]

RECEIVE: Final = 256 << 10  # bytes that are read at once


class Inbox:
    """One buffer, that grows for a message that is longer, up to twice ``limit`` bytes, and shrinks again after it.

    Write to ``space``, then call ``frames`` with how many bytes were written.
    """

    __slots__ = ("_buffer", "_end", "_used", "_view", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._room(RECEIVE)
        self._used = 0  # bytes of frames that were handed out
        self._end = 0

    def clear(self) -> None:
        """Forget what is there: another connection begins."""
        self._used = self._end = 0

    @property
    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        view, used = self._view, self._used
        if used:
            rest = self._end - used
            view[:rest] = view[used : self._end]
            self._used, self._end = 0, rest
        if self._end == len(view):
            self._room(2 * len(view))
            self._view[: self._end] = view
        elif not self._end and len(view) > RECEIVE:
            self._room(RECEIVE)
        return self._view[self._end :]

    def frames(self, size: int) -> list[bytes]:
        """Return the whole frames that ``size`` more bytes complete; raises FrameError. O(bytes of these frames)."""
        self._end += size
        found, self._used = framing.frames(self._buffer, self._end, self.limit)
        return found

    def _room(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
