"""The send buffer: what the network has not taken yet, sent exactly once and in order.

Theory of operation. ``send`` is given the unsent bytes and says how many it took. A partial send continues at the
offset that it reached; bytes that were taken are never offered again. A send that takes nothing, although it was
given something, means that the connection is broken: it raises instead of going round in circles. Where the network
takes nothing now (``BlockingIOError``) the rest waits for the next ``flush``; the very same bytes are offered first
then, as TLS asks for. Pure: no socket, no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .errors import ConnectionBrokenError, ServerError

__all__ = ["SendBuffer"]

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
    raises BlockingIOError (nothing now) or another OSError (broken).
    """

    __slots__ = ("_head", "_rest", "_send", "bound", "broken", "sent", "waiting")

    def __init__(self, send: Callable[[memoryview], int], bound: int = 1 << 20) -> None:
        self._send = send
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
            if not 0 < taken <= len(head):
                self._break()
                raise ConnectionBrokenError("connection broken")
            self._head = head[taken:]  # from the offset that was reached: what was taken is never offered again
            self.waiting -= taken
            self.sent += taken
        self._head = _NOTHING  # lets go of the bytes behind the view
        return not self.broken

    def clear(self) -> None:
        """Drop what waits, of a connection that is being closed at once; nothing can be sent after it."""
        self._break()

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert self.waiting == len(self._head) + sum(map(len, self._rest))
        assert self.waiting >= 0
        assert not (self.broken and self.waiting)

    def _break(self) -> None:
        self.broken = True
        self._head = _NOTHING
        self._rest.clear()
        self.waiting = 0
