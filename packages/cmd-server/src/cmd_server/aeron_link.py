"""A client's links by Aeron: frames by a stream of its own, requests by a control connection.

For asyncio a thread polls (``aeron_pump``); for threads the caller's own thread does, straight into the caller's
buffer. Whichever of the two ways ends, the link ends: the client connects again and resumes, as over any transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from .aeron import Settings, native
from .aeron_pump import Pump, gone
from .aeron_switch import Switch, Way
from .errors import ConnectionBrokenError, ServerError
from .transport import Address, BlockingLink, Link, LinkOptions, transport_of

if TYPE_CHECKING:
    from cmd_aeron import Subscription

__all__ = ["AeronLink", "BlockingAeronLink", "connect", "open_blocking"]

_CONTROL: Final = 64 << 10  # bytes of control read at once
_SLICE: Final = 0.05  # s for which a thread waits before it looks at control
_DRAIN: Final = 0.25  # s without a byte after which a stream whose server is gone has ended
_DRAIN_MAX: Final = 5.0
_GRACE: Final = 0.5  # s for control to say why, once the stream has ended
_JOIN: Final = 5.0
_T = TypeVar("_T")


async def connect(address: Address, settings: Settings, options: LinkOptions) -> AeronLink:
    """Open control, then what is needed of Aeron; raises ConnectionBrokenError, RefusedError."""
    where = Address.parse(settings.control)
    control = await transport_of(where).connect(where, options)
    try:
        way = await _in_thread(lambda: Way(address, settings), Way.close)
    except BaseException:
        await control.close()
        raise
    return AeronLink(str(address), control, way, settings, options)


def open_blocking(address: Address, settings: Settings, options: LinkOptions) -> BlockingAeronLink:
    """Do the same for threads; raises as ``connect``."""
    where = Address.parse(settings.control)
    control = transport_of(where).open(where, options)
    try:
        way = Way(address, settings)
    except BaseException:
        control.close()
        raise
    return BlockingAeronLink(str(address), control, way, settings, options)


async def _in_thread(make: Callable[[], _T], undo: Callable[[_T], None]) -> _T:
    """Make something in a thread; where nobody waits for it any more it is undone there."""
    lock = threading.Lock()
    found: list[_T] = []
    left = False

    def work() -> _T:
        made = make()
        with lock:
            if not left:
                found.append(made)
                return made
        undo(made)
        raise ConnectionBrokenError("nobody waits for it any more")

    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        with lock:
            left = True
        for made in found:
            await asyncio.to_thread(undo, made)
        raise


class AeronLink:
    """A link for asyncio; see ``Link``."""

    def __init__(self, peer: str, control: Link, way: Way, settings: Settings, options: LinkOptions) -> None:
        self.peer = peer
        self._control = control
        self._way = way
        self._idle = settings.idle
        self._patience = options.timeout
        self._switch = Switch(way.route, options.max_message)
        self._loop = asyncio.get_running_loop()
        self._come = asyncio.Event()
        self._first = bytearray()  # what control has brought, in front of everything that comes by Aeron
        self._pump: Pump | None = None
        self._ended = False  # control
        self._error: Exception | None = None
        self._closed = False
        self._task = self._loop.create_task(self._read_control(), name="cmd-aeron control")

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; see ``Link``."""
        while not self._closed:
            self._come.clear()
            if self._first:
                return _shift(self._first, buffer)
            pump = self._pump
            if pump is None:
                if self._ended:
                    return self._end(buffer)
            else:
                finished = pump.finished  # asked first: what was put before it is seen below
                if size := pump.take(buffer):
                    return size
                if finished:
                    if pump.error is not None and await self._unexplained():
                        raise pump.error
                    return self._end(buffer)
            await self._come.wait()
        return 0

    async def _unexplained(self) -> bool:
        """Whether control does not say why the stream has ended, soon: its word may be on its way still."""
        end = self._loop.time() + _GRACE
        while not (self._ended or self._switch.late or self._closed):
            self._come.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._come.wait()
            except TimeoutError:
                return True
        return False

    async def send(self, frame: bytes) -> None:
        """Send by control; see ``Link``."""
        await self._control.send(self._switch.outgoing(frame))

    async def close(self) -> None:
        """Close both ways; see ``Link``."""
        if self._closed:
            return
        self._closed = True
        self._come.set()
        self._task.cancel()
        pump = self._pump
        if pump is not None:
            pump.stop()
        try:
            await self._control.close()
            await asyncio.gather(self._task, return_exceptions=True)
        finally:
            last = self._way.close if pump is None else lambda: pump.join(_JOIN)  # which closes it itself
            await asyncio.shield(asyncio.to_thread(last))

    def _end(self, buffer: memoryview) -> int:
        """Return what control said last, then how it ended."""
        if self._switch.late:
            return _shift(self._switch.late, buffer)
        if self._error is not None:
            raise self._error
        return 0

    async def _read_control(self) -> None:
        data = bytearray(_CONTROL)
        view = memoryview(data)
        try:
            while size := await self._control.receive_into(view):
                moved = self._switch.route is not None
                self._first += self._switch.incoming(view[:size])
                self._come.set()
                if self._switch.route is not None and not moved and not await self._follow(view):
                    break
        except ServerError as error:
            self._error = error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._error = gone(self.peer, str(error))
        self._ended = True
        if self._pump is not None:
            if self._pump.error is None and isinstance(self._error, ConnectionBrokenError):
                self._error = gone(self.peer, "the control connection was lost")
            self._pump.drain()
        self._come.set()

    async def _follow(self, view: memoryview) -> bool:
        """Subscribe where the server sends to from now on; where that fails control may say why."""
        route = self._switch.route
        assert route is not None
        way = self._way
        try:
            subscription = await _in_thread(lambda: way.follow(route), lambda made: made.close())
        except ConnectionBrokenError as error:
            self._error = error
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    while not self._switch.late and (size := await self._control.receive_into(view)):
                        self._switch.incoming(view[:size])
            return False
        self._pump = Pump(
            subscription,
            self.peer,
            idle=self._idle,
            patience=self._patience,
            state=way.state,
            wake=self._wake,
            alive=lambda: not self._loop.is_closed(),
            ended=way.close,
        )
        self._pump.start()
        return True

    def _wake(self) -> None:
        """Called in the pump's thread; raises RuntimeError where the loop is closed."""
        self._loop.call_soon_threadsafe(self._come.set)


class BlockingAeronLink:
    """A link for threads; see ``BlockingLink``. One thread receives."""

    def __init__(self, peer: str, control: BlockingLink, way: Way, settings: Settings, options: LinkOptions) -> None:
        self.peer = peer
        self._control = control
        self._way = way
        self._idle = settings.idle
        self._patience = options.timeout / 1e9
        self._switch = Switch(way.route, options.max_message)
        self._sending = threading.Lock()
        self._first = bytearray()
        self._data = memoryview(bytearray(_CONTROL))
        self._subscription: Subscription | None = None
        self._since = 0.0  # when the stream began
        self._seen = False  # its publisher was there
        self._ended = 0.0  # when control ended
        self._error: Exception | None = None
        self._heard = 0.0
        self._lost = 0.0  # when the stream ended without a word
        self._over = False
        self._count = threading.Lock()
        self._users = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return self._closed

    @property
    def over(self) -> bool:
        """Whether the stream has ended in order, or as far as can be told."""
        return self._over

    def receive_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        """Wait for bytes; see ``BlockingLink``."""
        with self._count:
            if self._closed:
                return 0
            self._users += 1
        try:
            return self._receive(buffer, None if timeout is None else time.monotonic() + timeout)
        finally:
            self._leave()

    def send(self, frame: bytes) -> None:
        """Send by control; see ``BlockingLink``."""
        with self._sending:
            self._control.send(self._switch.outgoing(frame))

    def close(self) -> None:
        """Close both ways; see ``BlockingLink``."""
        with self._count:
            if self._closed:
                return
            self._closed = True
            self._users += 1
        subscription = self._subscription
        if subscription is not None:
            subscription.stop()
        self._control.close()
        self._leave()

    def _leave(self) -> None:
        with self._count:
            self._users -= 1
            last = self._closed and not self._users
        if last:
            self._way.close()

    def _receive(self, buffer: memoryview, end: float | None) -> int:
        while not self._closed:
            if self._first:
                return _shift(self._first, buffer)
            if self._over or (self._ended and self._subscription is None):
                return self._last(buffer)
            left = _SLICE if end is None else min(_SLICE, end - time.monotonic())
            if self._lost and self._subscription is None:  # it could not be subscribed to: control may say why
                self._over = bool(self._switch.late) or time.monotonic() - self._lost > _GRACE
                if not self._over:
                    with contextlib.suppress(TimeoutError):
                        self._look(max(0.0, left))
                    self._in_time(end)
                continue
            if self._subscription is None:
                self._look(None if end is None else max(0.0, end - time.monotonic()))
                continue
            size, failed = 0, ""
            try:
                size = self._subscription.poll_into(buffer, max(0, int(left * 1e9)), self._idle)
            except native().AeronError as error:  # its client is gone
                failed = str(error)
            if size:
                self._seen, self._heard, self._lost = True, time.monotonic(), 0.0
                return size
            if self.closed:
                break
            if not self._ended:
                with contextlib.suppress(TimeoutError):
                    self._look(max(0.0, left) if failed else 0.0)
            self._judge(failed)
            self._in_time(end)
        return 0

    def _in_time(self, end: float | None) -> None:
        if end is not None and time.monotonic() >= end and not (self._over or self._first):
            raise TimeoutError

    def _look(self, timeout: float | None) -> None:
        """Read control; raises TimeoutError."""
        try:
            size = self._control.receive_into(self._data, timeout)
            if size:
                self._first += self._switch.incoming(self._data[:size])
        except TimeoutError:
            raise
        except ServerError as error:
            self._error = error
            size = 0
        if not size:
            self._ended = time.monotonic()
            if self._subscription is not None and isinstance(self._error, ConnectionBrokenError):
                self._error = gone(self.peer, "the control connection was lost")
        elif self._switch.route is not None and self._subscription is None and not self._lost:
            self._since = time.monotonic()
            try:
                self._subscription = self._way.follow(self._switch.route)
            except ConnectionBrokenError as error:
                self._error, self._lost = error, self._since
                return
            if self._closed:
                self._subscription.stop()

    def _judge(self, why: str) -> None:
        """See whether anything more can come, now that nothing has."""
        assert self._subscription is not None
        now = time.monotonic()
        why = why or self._way.state()
        connected = not why and self._subscription.connected
        self._seen = self._seen or connected
        if self._ended:
            quiet = now - max(self._heard, self._ended) > _DRAIN
            self._over = not connected or quiet or now - self._ended > _DRAIN_MAX
        elif why or (self._seen and not connected):
            self._lost = self._lost or now
            if self._switch.late:
                self._over = True
            elif now - self._lost > _GRACE:  # control's word may be on its way still
                raise gone(self.peer, why or "the server's stream has ended")
        elif not self._seen and now - self._since > self._patience:
            raise gone(self.peer, "the server's stream never came")

    def _last(self, buffer: memoryview) -> int:
        if self._switch.late:
            return _shift(self._switch.late, buffer)
        if self._error is not None:
            raise self._error
        return 0


def _shift(waiting: bytearray, buffer: memoryview) -> int:
    """Move bytes from the front of what waits to a buffer; how many."""
    size = min(len(waiting), len(buffer))
    buffer[:size] = waiting[:size]
    del waiting[:size]
    return size
