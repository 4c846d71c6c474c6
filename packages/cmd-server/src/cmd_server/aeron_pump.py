"""A thread that waits for an Aeron stream and hands its bytes to an event loop.

Theory of operation. A subscription has no descriptor that a loop could wait for, so a thread polls it, with the
interpreter released, straight into one of a few buffers that are used in turn. Full buffers wait for the loop, which
is woken at most once until it has looked. Where all are full the thread waits, Aeron's window fills behind it, and
the server sees a client that does not read: its policy applies. Nothing is copied but into the reader's own buffer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .errors import ConnectionBrokenError

if TYPE_CHECKING:
    from cmd_aeron import Subscription

__all__ = ["BUFFERS", "SIZE", "Pump", "gone"]

BUFFERS: Final = 4
SIZE: Final = 256 << 10
"""Bytes of one buffer; a longer message comes in parts."""
_WAIT: Final = 100_000_000  # ns of one poll; then it is seen whether anybody is left
_TURN: Final = 0.5  # s of one wait for an empty buffer
_DRAIN: Final = 250_000_000  # ns without a byte after which a stream whose server is gone has ended
_DRAIN_MAX: Final = 5_000_000_000  # ns


def gone(peer: str, why: str) -> ConnectionBrokenError:
    """Return the one-line error of a stream that ended."""
    return ConnectionBrokenError(f"{peer}: {why}")


class Pump:
    """Polls ``subscription`` in a thread of its own until it ends, or ``stop``; ``wake`` is called from that thread.

    ``state`` says why nothing more can come, "" where it can. ``patience`` is how many ns the publisher has to appear.
    ``alive`` says whether the loop is still there; where it is not the thread ends, and ``wake`` may raise
    RuntimeError. ``ended`` is called last, in the thread.
    """

    def __init__(
        self,
        subscription: Subscription,
        peer: str,
        *,
        idle: str,
        patience: int,
        state: Callable[[], str],
        wake: Callable[[], None],
        alive: Callable[[], bool],
        ended: Callable[[], None],
        size: int = SIZE,
    ) -> None:
        self.error: ConnectionBrokenError | None = None  # set before the last wake
        self.finished = False  # nothing more is put behind what waits
        self.wakes = 0
        self._subscription = subscription
        self._peer = peer
        self._idle = idle
        self._patience = patience
        self._state = state
        self._wake = wake
        self._alive = alive
        self._ended = ended
        self._turn = threading.Condition()
        # Of the condition:
        self._free = [bytearray(size) for _ in range(BUFFERS)]
        self._full: deque[tuple[bytearray, int]] = deque()
        self._awake = False  # the loop was told and has not looked yet
        self._stopping = False
        self._draining = 0  # since when, ns
        self._reading: tuple[bytearray, int] | None = None
        self._offset = 0
        self._thread = threading.Thread(target=self._run, name="cmd-aeron-pump", daemon=True)

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def drain(self) -> None:
        """Say that the server is gone: what is under way still comes, then it ends without an error."""
        with self._turn:
            self._draining = self._draining or time.monotonic_ns()

    def stop(self) -> None:
        """End soon; never waits."""
        with self._turn:
            self._stopping = True
            self._turn.notify()
        self._subscription.stop()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, for so long at most."""
        self._thread.join(seconds)

    def take(self, buffer: memoryview) -> int:
        """Copy what has come to ``buffer``, as much as fits; 0: nothing waits now. For one reader."""
        size, room = 0, len(buffer)
        while size < room:
            if self._reading is None:
                with self._turn:
                    self._awake = False
                    if not self._full:
                        break
                    self._reading = self._full.popleft()
                self._offset = 0
            data, end = self._reading
            piece = min(end - self._offset, room - size)
            buffer[size : size + piece] = memoryview(data)[self._offset : self._offset + piece]
            size += piece
            self._offset += piece
            if self._offset == end:
                self._reading = None
                with self._turn:
                    self._free.append(data)
                    self._turn.notify()
        return size

    def check(self) -> None:
        """Assert the invariants; for tests."""
        with self._turn:
            held = len(self._free) + len(self._full) + (self._reading is not None)
            assert BUFFERS - 1 <= held <= BUFFERS  # one may be with the thread, or between two places

    # -- in the thread

    def _run(self) -> None:
        try:
            self._poll()
        except Exception as error:  # of cmd_aeron: closed under our feet
            self.error = gone(self._peer, str(error))
        finally:
            self.finished = True
            self._tell(last=True)
            self._ended()

    def _poll(self) -> None:
        subscription, idle = self._subscription, self._idle
        began = heard = time.monotonic_ns()
        seen = False
        while (buffer := self._empty()) is not None:
            size = subscription.poll_into(buffer, _WAIT, idle)
            with self._turn:
                if size:
                    self._full.append((buffer, size))
                else:
                    self._free.append(buffer)
            if size:
                seen, heard = True, time.monotonic_ns()
                self._tell()
                continue
            if not self._alive():
                return
            now = time.monotonic_ns()
            draining = self._draining
            why = self._state()
            connected = not why and subscription.connected
            seen = seen or connected
            if draining and (not connected or now - max(heard, draining) > _DRAIN or now - draining > _DRAIN_MAX):
                return
            if why:
                self.error = gone(self._peer, why)
                return
            if seen and not connected:
                # What came between the last poll and the end was taken, or the stream would still be there.
                self.error = gone(self._peer, "the server's stream has ended")
                return
            if not seen and now - began > self._patience:
                self.error = gone(self._peer, "the server's stream never came")
                return

    def _empty(self) -> bytearray | None:
        """Return a buffer that is free, None at the end; waits."""
        with self._turn:
            while not self._stopping:
                if self._free:
                    return self._free.pop()
                if not self._turn.wait(_TURN) and not self._alive():
                    break
        return None

    def _tell(self, *, last: bool = False) -> None:
        with self._turn:
            if self._awake and not last:
                return
            self._awake = True
        self.wakes += 1
        with contextlib.suppress(RuntimeError):  # the loop was closed this moment: seen at the next look
            self._wake()
