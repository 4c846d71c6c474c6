"""The send buffer: what the network has not taken yet, sent exactly once and in order.

Theory of operation. ``send`` is given the unsent bytes and says how many it took. A partial send continues at the
offset that it reached; bytes that were taken are never offered again. A send that takes nothing, although it was
given something, means that the connection is broken: it raises instead of going round in circles. Where the network
takes nothing now (``BlockingIOError``) the rest waits for the next ``flush``; the very same bytes are offered first
then, as TLS asks for. Pure: no socket, no loop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final

from cmd_common._native import module

from .errors import ConnectionBrokenError, ServerError

__all__ = ["SendBuffer", "write_all"]

_send_all: Callable[[list[int], bytes], list[int] | None] | None = getattr(module, "send_all", None)
_NOTHING_NOW: Final = frozenset((errno.EAGAIN, errno.EWOULDBLOCK))

_NOTHING: Final = memoryview(b"")


_last: tuple[Sequence[bytes], bytes] = ((), b"")


def _joined(chunks: Sequence[bytes]) -> bytes:
    """Return chunks in one piece, made once where one tuple goes to many receivers one after the other."""
    global _last  # replaced as a whole, so that threads may share it
    shared, data = _last
    if chunks is not shared:
        data = b"".join(chunks)
        if type(chunks) is tuple:  # what can change is not the same the next time
            _last = chunks, data
    return data


class SendBuffer:
    """Bytes on their way to one receiver. ``waiting`` counts those that were not taken yet.

    ``bound`` limits memory: a write is accepted while fewer than ``bound`` bytes wait, so that at most that and one
    write are kept. ``send`` takes a memoryview that is never empty and returns how many of its bytes it took, or
    raises BlockingIOError (nothing now) or another OSError (broken). ``fd``: the descriptor of a plain socket whose
    ``send`` it is, and which is open as long as this is not ``broken``.
    """

    __slots__ = ("_head", "_rest", "_send", "bound", "broken", "fd", "sent", "waiting")

    def __init__(self, send: Callable[[memoryview], int], bound: int = 1 << 20, fd: int = -1) -> None:
        self._send = send
        self.fd = fd
        self._head = _NOTHING  # the part of the oldest bytes that was not taken
        self._rest: list[bytes] = []  # what comes after it
        self.bound = bound
        self.waiting = 0
        self.sent = 0  # bytes that were taken since the beginning
        self.broken = False

    def write(self, chunks: Sequence[bytes]) -> None:
        """Send ``chunks``, now if nothing waits, else behind what waits. One system call when all goes well.

        Raises ConnectionBrokenError, and ServerError where ``bound`` bytes wait already.
        """
        if self.waiting:
            if self.waiting >= self.bound:
                raise ServerError(f"{self.waiting} bytes wait for a connection that takes none; {self.bound} may")
            self._rest += chunks
            self.waiting += sum(map(len, chunks))
            return
        if self.broken:
            raise ConnectionBrokenError("connection broken")
        data = chunks[0] if len(chunks) == 1 else _joined(chunks)
        if data:
            self._head = memoryview(data)
            self.waiting = len(data)
            self.flush()

    def flush(self) -> bool:
        """Send what waits; True when nothing waits any more. Raises ConnectionBrokenError, after which all is dropped."""
        while self.waiting:
            head = self._head
            if not head:
                head = self._head = memoryview(b"".join(self._rest))
                self._rest.clear()
            try:
                taken = self._send(head)
            except BlockingIOError:
                return False
            except OSError as error:
                self._break()
                raise ConnectionBrokenError(f"connection broken: {error.strerror or error}") from error
            self._took(head, taken)
        self._head = _NOTHING  # lets go of the bytes behind the view
        return not self.broken

    def offered(self, data: bytes, taken: int) -> None:
        """Take over after somebody else offered ``data``, while nothing waited: ``taken`` bytes, or minus an error.

        Raises as ``write`` does.
        """
        self._head, self.waiting = memoryview(data), len(data)
        if taken < 0:
            if -taken in _NOTHING_NOW:
                return
            self._break()
            raise ConnectionBrokenError(f"connection broken: {os.strerror(-taken)}")
        self._took(self._head, taken)
        self.flush()

    def clear(self) -> None:
        """Drop what waits, of a connection that is being closed at once; nothing can be sent after it."""
        self._break()

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert self.waiting == len(self._head) + sum(map(len, self._rest))
        assert self.waiting >= 0
        assert not (self.broken and self.waiting)

    def _took(self, head: memoryview, taken: int) -> None:
        if not 0 < taken <= len(head):
            self._break()
            raise ConnectionBrokenError("connection broken")
        self._head = head[taken:]  # from the offset that was reached: what was taken is never offered again
        self.waiting -= taken
        self.sent += taken

    def _break(self) -> None:
        self.broken = True
        self._head = _NOTHING
        self._rest.clear()
        self.waiting = 0


def write_all(buffers: Sequence[SendBuffer], data: bytes) -> list[tuple[int, ServerError | None]]:
    """Write the same bytes, at least one, to buffers in which nothing waits and which are not broken.

    Returned are the places of those that are not done with it, each with its error where it is broken now.
    """
    left: list[tuple[int, ServerError | None]] = []
    if _send_all is not None:
        fds = [buffer.fd for buffer in buffers]
        if -1 not in fds:
            found = _send_all(fds, data)
            if found is None:
                size = len(data)
                for buffer in buffers:
                    buffer.sent += size
                return left
            for place, (buffer, taken) in enumerate(zip(buffers, found, strict=True)):
                try:
                    buffer.offered(data, taken)
                except ServerError as error:
                    left.append((place, error))
                else:
                    if buffer.waiting:
                        left.append((place, None))
            return left
    chunks = (data,)
    for place, buffer in enumerate(buffers):
        try:
            buffer.write(chunks)
        except ServerError as error:
            left.append((place, error))
        else:
            if buffer.waiting:
                left.append((place, None))
    return left
