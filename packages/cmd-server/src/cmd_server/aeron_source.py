"""Packets of a shared stream of Aeron as a source for ``GroupLink``, and what its two ends need of a driver."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from .aeron import Settings, native
from .aeron_driver import ClientHandle, acquire_client, acquire_driver, explained
from .errors import ConnectionBrokenError, ServerError

if TYPE_CHECKING:
    from cmd_aeron import Client, ExclusivePublication, Subscription

__all__ = ["ADD", "FIRST_WAIT", "LONGEST_WAIT", "SharedSource", "Way"]

ADD: Final = 5_000_000_000
"""ns for a publication or a subscription to be made."""
FIRST_WAIT: Final = 0.1
"""s until what was lost is made again, doubled each time."""
LONGEST_WAIT: Final = 2.0
"""s at most."""
_POLL: Final = 200_000_000  # ns
_QUIET: Final = 1.5  # s without a packet, not even a heartbeat, before a reader looks at the driver
_READY_MAX: Final = 4 << 20  # bytes that wait for the event loop; more are left to Aeron, which puts the reader off
_AT_ONCE: Final = 64  # packets before the loop gets its turn
_UNTETHERED: Final = {"tether": "false", "rejoin": "true"}
_T = TypeVar("_T", "ExclusivePublication", "Subscription")


class Way(Generic[_T]):
    """A publication or a subscription, with the client and the driver that it needs; made and closed in threads."""

    def __init__(self, settings: Settings, add: Callable[[Client], _T]) -> None:
        """Make it; raises ServerError in one line."""
        aeron = native()
        self.driver = acquire_driver(settings)
        client: ClientHandle | None = None
        try:
            self.pid = int(aeron.driver_status(self.driver.directory).pid)
            self.client = client = acquire_client(self.driver.directory)
            deadline = time.monotonic_ns() + ADD
            while True:
                try:
                    self.made: _T = add(client.client)
                    break
                except aeron.EndpointClosingError:  # of one who has just left; it takes a moment
                    if time.monotonic_ns() > deadline:
                        raise
                    time.sleep(0.05)
        except BaseException as error:
            if client is not None:
                # Nobody knows better than one who got no answer: the next one shall get a new client.
                client.release(retire=isinstance(error, aeron.AeronTimeoutError))
            self.driver.release()
            if isinstance(error, aeron.AeronError):
                raise explained(error) from error
            raise

    def alive(self) -> bool:
        """Whether client and driver are still what they were; takes a second where that is hard to tell."""
        if not self.client.usable:
            return False
        if self.driver.embedded:
            return self.driver.intact
        try:
            status = native().driver_status(self.driver.directory)  # Aeron itself notices late
        except native().AeronError:  # its files are another driver's, or being written
            return False
        return bool(status.running) and status.pid == self.pid

    def close(self) -> None:
        """Close all of it; never raises."""
        with contextlib.suppress(native().AeronError):
            self.made.close()
        self.client.release(retire=not self.client.usable)
        self.driver.release()


class SharedSource:
    """Packets of a shared stream, for ``GroupLink``; a thread of its own waits for them.

    ``opened`` is done when the stream is subscribed to, or has the error. At most 4 MiB wait for the event loop; then
    the thread waits too, Aeron's window fills, and the driver puts this reader off: what it missed is fetched by
    control. ``rebuilt`` counts how often the subscription was made anew.
    """

    def __init__(self, settings: Settings) -> None:
        self.name = f"aeron stream {settings.stream}"
        self.rebuilt = 0
        self.evicted = 0  # how often the driver put this reader off, or the publication ended
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._take: Callable[[Sequence[bytes]], None] | None = None
        self._deaf: Callable[[], None] | None = None
        self._on = True
        self._room = threading.Condition()
        # Of the condition:
        self._waiting: deque[bytes | None] = deque()  # None: nothing can be heard from here on
        self._bytes = 0
        self._scheduled = False
        self._stopping = False
        self._reading: Way[Subscription] | None = None
        self._thread = threading.Thread(target=self._run, name="cmd-aeron-shared", daemon=True)
        self._thread.start()

    # -- in the event loop

    def start(self, take: Callable[[Sequence[bytes]], None], deaf: Callable[[], None]) -> None:
        """Hand on what has come, and what comes."""
        self._take, self._deaf = take, deaf
        self.read(True)

    def read(self, on: bool) -> None:
        """Keep what comes, up to the limit, or hand it on again."""
        self._on = on
        if on:
            with self._room:
                if self._scheduled or not self._waiting:
                    return
                self._scheduled = True
            self._loop.call_soon(self._deliver)

    def stop(self) -> None:
        """Tell the thread to end."""
        self._take = self._deaf = None
        with self._room:
            self._stopping = True
            self._room.notify_all()
            reading = self._reading
            if reading is not None:
                with contextlib.suppress(native().AeronError):
                    reading.made.stop()
        if self.opened.done() and not self.opened.cancelled():
            self.opened.exception()  # seen
        else:
            self.opened.cancel()

    async def close(self) -> None:
        """Wait until the thread has ended, and with it everything that it has made."""
        self.stop()
        await asyncio.shield(self._ended)

    def _deliver(self) -> None:
        found: list[bytes] = []
        deaf = False
        with self._room:
            self._scheduled = False
            if not self._on or self._take is None:
                return
            while self._waiting and len(found) < _AT_ONCE:
                packet = self._waiting.popleft()
                if packet is None:
                    deaf = True
                    break
                found.append(packet)
                self._bytes -= len(packet)
            more = self._scheduled = bool(self._waiting)
            self._room.notify_all()
        if more:
            self._loop.call_soon(self._deliver)
        if found:
            self._take(found)
        if deaf and self._deaf is not None:
            self._deaf()

    def _open(self, error: Exception | None) -> None:
        if self.opened.done():
            return
        if error is not None:
            self.opened.set_exception(error)
        else:
            self.opened.set_result(None)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # -- in the thread

    def _run(self) -> None:
        try:
            self._work()
        except RuntimeError:
            pass  # the loop was closed: nobody waits any more
        finally:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)

    def _work(self) -> None:
        wait = FIRST_WAIT
        first = True
        while not self._stopping:
            try:
                reading = self._make()
            except Exception as error:
                if first:
                    self._loop.call_soon_threadsafe(self._open, error)
                    return
                with self._room:
                    self._room.wait_for(lambda: self._stopping, wait)
                wait = min(LONGEST_WAIT, wait * 2)
                continue
            with self._room:
                self._reading = reading
            try:
                if first:
                    self._loop.call_soon_threadsafe(self._open, None)
                else:
                    self.rebuilt += 1
                first, wait = False, FIRST_WAIT
                self._poll(reading)
            finally:
                with self._room:
                    self._reading = None
                reading.close()
            self._hand([None])

    def _make(self) -> Way[Subscription]:
        """Subscribe; raises ConnectionBrokenError, UsageError."""
        channel, stream = self._settings.subscription("", None, **_UNTETHERED), self._settings.stream
        try:
            return Way(self._settings, lambda client: client.add_subscription(channel, stream, ADD))
        except ServerError as error:
            raise ConnectionBrokenError(error.message, hint=error.hint) from error

    def _poll(self, reading: Way[Subscription]) -> None:
        """Hand over what comes until the subscription is of no use any more, or until ``stop``."""
        subscription, idle = reading.made, self._settings.idle
        heard = looked = time.monotonic()
        connected = False
        while not self._stopping:
            try:
                packets = subscription.poll_wait(_POLL, idle=idle)
                events = subscription.take_events()
                images = bool(subscription.images) if events else connected
            except native().AeronError:
                return
            now = time.monotonic()
            if packets:
                heard = now
                self._hand(packets)
            if connected and not images:
                self.evicted += 1
                self._hand([None])
            connected = images
            # A heartbeat comes every second; without it Aeron may not have noticed yet that its driver is gone.
            if now - max(heard, looked) >= _QUIET:
                looked = now
                if not reading.alive():
                    return

    def _hand(self, packets: Iterable[bytes | None]) -> None:
        """Put packets before the event loop; waits where it has too many."""
        with self._room:
            self._room.wait_for(lambda: self._bytes < _READY_MAX or self._stopping)
            if self._stopping:
                return
            for packet in packets:
                self._waiting.append(packet)
                self._bytes += len(packet) if packet is not None else 0
            if self._scheduled:
                return
            self._scheduled = True
        self._loop.call_soon_threadsafe(self._deliver)
