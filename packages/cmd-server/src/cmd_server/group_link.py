"""A client's side of a group: packets from any source and a connection to the same server, as one stream of frames.

The source (a socket of a multicast group, a shared stream of Aeron) brings packets of ``cmd_server.datagrams``; the
connection is an ordinary link. ``cmd_server.merger`` says what is handed on and what is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Protocol

from cmd_common.errors import CmdError

from .datagrams import unpack
from .errors import ConnectionBrokenError
from .framing import Splitter
from .merger import Merger
from .transport import Link, LinkOptions

__all__ = ["BlockingGroupLink", "GroupLink", "Seam", "Source", "as_it_is"]

_READY_MAX: Final = 16 << 20  # bytes that wait for the client; more are left to the source, lost and fetched again
_RECEIVE: Final = 256 << 10
Seam = Callable[[bytes], Iterable[bytes]]
"""What becomes of a packet on its way; tests lose, double and reorder with it."""


def as_it_is(data: bytes) -> Iterable[bytes]:
    """Return a packet alone: the seam that changes nothing."""
    return (data,)


class Source(Protocol):
    """Where packets come from; all is called in the event loop."""

    name: str  # for people: group 239.1.2.3:9997

    def start(self, take: Callable[[Sequence[bytes]], None], deaf: Callable[[], None]) -> None:
        """Begin: call ``take``, in this event loop, with packets as they come, ``deaf`` when none can come for now."""

    def read(self, on: bool) -> None:
        """Bring nothing more, or go on."""

    def stop(self) -> None:
        """Bring nothing more for good; never raises."""

    async def close(self) -> None:
        """Wait until all of it is closed; after ``stop``, never raises."""


class GroupLink:
    """A client's side for asyncio: a group and its connection as one stream of frames.

    ``broken`` counts packets that could not be read.
    """

    def __init__(
        self, source: Source, link: Link, options: LinkOptions, seam: Seam = as_it_is, merger: Merger | None = None
    ) -> None:
        self.peer = f"{link.peer} and {source.name}"
        self.merger = merger or Merger()
        self.source = source
        self.broken = 0
        self._link = link
        self._seam = seam
        self._splitter = Splitter(options.max_message)
        self._requests = Splitter(options.max_message)
        self._loop = asyncio.get_running_loop()
        self._ready: deque[bytes] = deque()
        self._ready_bytes = 0
        self._offset = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._to_send = asyncio.Event()
        self._outgoing: deque[bytes] = deque()
        self._error: Exception | None = None
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = [self._loop.create_task(self._receive()), self._loop.create_task(self._send())]
        source.start(self._packets, self._deaf)

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and write them to ``buffer``; 0: closed in order. Raises ConnectionBrokenError, FrameError."""
        while not self._ready:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return 0
            self._wake.clear()
            await self._wake.wait()
        size = 0
        ready, room = self._ready, len(buffer)
        while ready and size < room:
            piece = memoryview(ready[0])[self._offset :][: room - size]
            buffer[size : size + len(piece)] = piece
            size += len(piece)
            self._offset += len(piece)
            if self._offset == len(ready[0]):
                ready.popleft()
                self._offset = 0
        self._ready_bytes -= size
        if self._ready_bytes < _READY_MAX // 2 and not self._ended and not self._room.is_set():
            self._room.set()
            self.source.read(True)
        return size

    async def send(self, frame: bytes) -> None:
        """Take one or more whole frames; those that only the server can answer go to it."""
        if self._ended:
            raise ConnectionBrokenError("connection broken")
        for request in self._requests.feed(frame):
            self.merger.request(bytes(request), self._now())
        self._collect()

    async def close(self) -> None:
        """Leave the group and close the connection."""
        self._end(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()
        await self.source.close()

    def _now(self) -> int:
        return int(self._loop.time() * 1e9)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        self.source.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._wake.set()
        self._room.set()

    def _packets(self, packets: Sequence[bytes]) -> None:
        if self._ended:
            return
        now = self._now()
        for data in packets:
            for piece in self._seam(data):
                try:
                    self.merger.datagram(unpack(piece), now)
                except CmdError:
                    self.broken += 1
        self._collect()

    def _deaf(self) -> None:
        if not self._ended:
            self.merger.deaf(self._now())
            self._collect()

    def _tick(self) -> None:
        self._timer = None
        self.merger.tick(self._now())
        self._collect()

    def _collect(self) -> None:
        """Hand on what the merger has, and set the clock for it."""
        if self._ended:
            return
        frames = self.merger.take_frames()
        if frames:
            joined = b"".join(frames)
            self._ready.append(joined)
            self._ready_bytes += len(joined)
            self._wake.set()
            if self._ready_bytes > _READY_MAX and self._room.is_set():
                self._room.clear()
                self.source.read(False)
        requests = self.merger.take_requests()
        if requests:
            self._outgoing.append(b"".join(requests))
            self._to_send.set()
        if self._timer is None:
            deadline = self.merger.deadline
            if deadline is not None:
                self._timer = self._loop.call_later(max(0.002, (deadline - self._now()) / 1e9), self._tick)
            else:
                self._timer = self._loop.call_later(1.0, self._tick)

    async def _receive(self) -> None:
        buffer = memoryview(bytearray(_RECEIVE))
        error: Exception | None = None
        try:
            while True:
                await self._room.wait()
                size = await self._link.receive_into(buffer)
                if not size:
                    break
                self.merger.frames(self._splitter.feed(bytes(buffer[:size])), self._now())
                self._collect()
        except Exception as caught:
            error = caught  # raised where the client receives
        finally:
            self._end(error)

    async def _send(self) -> None:
        with contextlib.suppress(CmdError):  # the receiving side says what is broken
            while True:
                await self._to_send.wait()
                self._to_send.clear()
                while self._outgoing:
                    await self._link.send(self._outgoing.popleft())


class BlockingGroupLink:
    """A client's side for threads, around a loop in a thread of its own."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, GroupLink]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cmd-group", daemon=True)
        self._thread.start()
        self._pending: Future[bytes] | None = None
        self._rest = memoryview(b"")
        self._closed = False
        self._lock = threading.Lock()
        try:
            self.link = asyncio.run_coroutine_threadsafe(connect(), self._loop).result()
        except BaseException:
            self._stop()
            raise
        self.peer = self.link.peer

    def receive_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        """Wait for bytes; raises TimeoutError, ConnectionBrokenError."""
        if not self._rest:
            with self._lock:
                if self._closed:
                    return 0
                if self._pending is None:
                    self._pending = asyncio.run_coroutine_threadsafe(self._chunk(), self._loop)
                pending = self._pending
            try:
                data = pending.result(timeout)
            except CancelledError:
                return 0
            except TimeoutError:
                if not pending.done():
                    raise
                data = pending.result()
            self._pending = None
            self._rest = memoryview(data)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def send(self, frame: bytes) -> None:
        """Send frames; raises ConnectionBrokenError."""
        with self._lock:
            if self._closed:
                raise ConnectionBrokenError("connection broken")
            future = asyncio.run_coroutine_threadsafe(self.link.send(frame), self._loop)
        future.result()

    def close(self) -> None:
        """Close; wakes a waiting ``receive_into``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(self.link.close(), self._loop).result()
        if self._pending is not None:
            with contextlib.suppress(Exception):
                self._pending.result(5)
        self._stop()

    async def _chunk(self) -> bytes:
        buffer = bytearray(_RECEIVE)
        size = await self.link.receive_into(memoryview(buffer))
        return bytes(buffer[:size])

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(5)
        if not self._loop.is_running():
            self._loop.close()
