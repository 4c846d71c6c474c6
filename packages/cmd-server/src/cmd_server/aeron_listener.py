"""The server's side of ``aeron:ipc`` and ``aeron:udp``: a media driver, a client of it, and a publication per client.

Theory of operation. Nobody connects here: clients come by control and ask (``Divert``); ``divert`` makes an exclusive
publication and a port over it. Everything that waits for the driver is done by a few threads, within time limits, and
what is made for somebody who is gone meanwhile is closed again. Five times a second the ports are looked at, and the
Aeron client: where its driver is gone, or it was itself taken for dead (the process was stopped), all its sessions
end, and a new one is made as soon as a driver runs, so that clients that come back are served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cmd_common.errors import UsageError

from .aeron import Route, Settings, native
from .aeron_driver import ClientHandle, DriverHandle, acquire_client, acquire_driver, explained
from .aeron_port import AeronPort
from .errors import ConnectionBrokenError, RefusedError, ServerError
from .transport import Address, ListenOptions, Port, ServerSide

if TYPE_CHECKING:
    from cmd_aeron import ExclusivePublication

__all__ = ["AeronListener", "listen"]

_LOG: Final = logging.getLogger("cmd_server")
_THREADS: Final = 4  # which wait for the driver at the same time
_LOOK: Final = 0.2  # s between two looks at the ports
_ASK: Final = 5  # looks between two at a driver of another process
_ADD: Final = 5_000_000_000  # ns for a publication to be made
_FIRST_WAIT: Final = 0.1  # s until a new client is tried again, doubled each time
_LONGEST_WAIT: Final = 2.0  # s at most
_IPC_MTU: Final = 8 << 10  # unless the address says another: fewer messages for the same frames
_STREAMS: Final = 1_000_000  # ids before they begin anew; a session tells streams of one id apart
_T = TypeVar("_T")


async def listen(address: Address, settings: Settings, server: ServerSide, options: ListenOptions) -> AeronListener:
    """Find or start a driver and serve clients that ask for it; raises ServerError in one line."""
    listener = AeronListener(address, settings, server, options)
    try:
        await listener.start()
    except BaseException:
        await listener.finish()
        raise
    return listener


class AeronListener:
    """A driver at which clients may be served; see the module."""

    def __init__(self, address: Address, settings: Settings, server: ServerSide, options: ListenOptions) -> None:
        self.address = address
        self.settings = settings
        self.rebuilt = 0  # how often the Aeron client was made anew
        self._server = server
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(_THREADS, "cmd-aeron")
        self._ports: set[AeronPort] = set()
        self._driver: DriverHandle | None = None
        self._client: ClientHandle | None = None
        self._pid = -1  # of a driver in another process
        self._stream = settings.stream
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Future[Any] | None = None
        self._rebuilding: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def directory(self) -> str:
        """Where the driver is."""
        return self.settings.directory

    @property
    def ports(self) -> int:
        """How many clients are served."""
        return len(self._ports)

    async def start(self) -> None:
        """Find or start the driver; raises ServerError."""
        self._take(await self._thread(self._acquire, _give_back))
        self._timer = self._loop.call_later(_LOOK, self._watch)

    async def divert(self, to: str, control: Port) -> tuple[AeronPort, str]:
        """Make the port for a client; see ``Diverting``."""
        route = self._route(to, control)
        handle = self._client
        if self._closed or handle is None:
            text = "the server shuts down" if self._closed else f"no media driver runs in {self.directory} now"
            raise RefusedError(text, "unavailable", hint="try again later")
        stream = route.stream if route.medium == "udp" else self._next_stream()
        more = {"mtu": _IPC_MTU} if route.medium == "ipc" and not self.settings.mtu else {}
        channel = self.settings.publication(route.endpoint, **more)
        publication = await self._thread(lambda: self._add(handle, channel, stream), lambda made: made.close())
        port = AeronPort(
            self._server,
            control,
            publication,
            low_water=self._options.low_water,
            patience=self._options.handshake,
            released=self._released,
        )
        self._ports.add(port)
        if handle is not self._client:  # its driver died meanwhile
            port.release()
            raise RefusedError(f"the media driver in {self.directory} is gone", "unavailable", hint="try again later")
        found = Route(
            medium=route.medium, endpoint=route.endpoint, stream=publication.stream_id, session=publication.session_id
        )
        return port, str(found)

    async def close(self) -> None:
        """Serve nobody new; what there is goes on until ``finish``, or until the last port is gone."""
        self._closed = True
        if not self._ports:
            await self.finish()

    async def finish(self) -> None:
        """End all sessions and give back client and driver; a driver of this process ends, its directory goes."""
        self._closed = True
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            await asyncio.gather(self._rebuilding, return_exceptions=True)
        for port in list(self._ports):
            port.lose(ConnectionBrokenError("the server shuts down"))
            port.release()
        client, driver = self._client, self._driver
        self._client = self._driver = None

        def end() -> None:
            self._pool.shutdown(wait=True)  # what is being made is made, and closed, first
            _give_back((client, driver))

        await self._loop.run_in_executor(None, end)

    # -- in threads

    def _acquire(self) -> tuple[ClientHandle, DriverHandle]:
        driver = acquire_driver(self.settings)
        try:
            return acquire_client(driver.directory), driver
        except BaseException:
            driver.release()
            raise

    def _add(self, handle: ClientHandle, channel: str, stream: int) -> ExclusivePublication:
        aeron = native()
        try:
            made: ExclusivePublication = handle.client.add_exclusive_publication(channel, stream, _ADD)
        except aeron.StorageError as error:
            raise RefusedError(explained(error).message, "limit", hint=explained(error).hint) from error
        except aeron.AeronError as error:
            raise explained(error) from error
        return made

    def _status(self) -> tuple[bool, int]:
        aeron = native()
        try:
            status = aeron.driver_status(self.directory)
        except aeron.AeronError:  # its files are another driver's, of another version
            return False, -1
        return bool(status.running), int(status.pid)

    async def _thread(self, work: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
        """Do something in a thread; what it made for somebody who does not wait any more is undone there."""
        try:
            future: Future[_T] = self._pool.submit(work)
        except RuntimeError:
            raise RefusedError("the server shuts down", "unavailable") from None
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(_seen)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:

            def late(done: Future[_T]) -> None:
                if not done.cancelled() and done.exception() is None:
                    with contextlib.suppress(Exception):
                        undo(done.result())

            future.add_done_callback(late)
            raise

    # -- clients

    def _next_stream(self) -> int:
        stream, first = self._stream, self.settings.stream
        self._stream = first + (stream + 1 - first) % _STREAMS
        return stream

    def _route(self, to: str, control: Port) -> Route:
        """Read where a client wants its stream, and see that it is the client's to ask for; raises UsageError."""
        route = Route.parse(to)
        if route.session is not None:
            raise UsageError("the server chooses the session")
        host = _host(control.peer)
        if route.medium == "ipc":
            if route.stream:
                raise UsageError("the server chooses the stream")
            if not _loopback(host):
                raise UsageError("aeron:ipc is for clients on the server's machine", hint="use aeron:udp")
            return route
        if not route.stream:
            raise UsageError(f"{to[:100]!r} names no stream", hint="add stream=N, which was subscribed to")
        theirs, _, port = route.endpoint.rpartition(":")
        ours, _, only = self.settings.endpoint.rpartition(":")
        if ours:
            if _address(theirs) != _address(ours) or only not in ("0", port):
                raise UsageError(f"this server sends to {self.settings.endpoint} only")
        elif _address(theirs) != _address(host) and not (_loopback(theirs) and _loopback(host)):
            # Else anybody could make the server send to anybody.
            raise UsageError(
                f"{route.endpoint} is not where your control connection comes from",
                hint=f"receive at {host}, or start the server with endpoint={route.endpoint}",
            )
        return route

    def _released(self, port: AeronPort) -> None:
        self._ports.discard(port)
        publication = port.publication
        try:
            self._pool.submit(publication.close)
        except RuntimeError:  # the pool has ended: the client's end closes it
            return
        if self._closed and not self._ports and self._ending is None:
            self._ending = self._loop.create_task(self._end())

    # -- the driver

    def _take(self, found: tuple[ClientHandle, DriverHandle]) -> None:
        self._client, self._driver = found
        self._pid = -1

    def _watch(self) -> None:
        self._timer = self._loop.call_later(_LOOK, self._watch)
        for port in list(self._ports):
            port.look()
        handle, driver = self._client, self._driver
        if handle is None or driver is None:
            return
        self._looks += 1
        if not handle.usable or (self._looks % _ASK == 0 and not driver.intact):
            self._lost(handle)
        elif not driver.embedded and self._looks % _ASK == 0 and self._asking is None:
            self._asking = self._loop.run_in_executor(self._pool, self._status)
            self._asking.add_done_callback(lambda done: self._told(handle, done))

    def _told(self, handle: ClientHandle, done: asyncio.Future[Any]) -> None:
        """Take what was found out about the driver: a client itself notices late that it is gone."""
        self._asking = None
        _seen(done)
        if handle is not self._client or done.cancelled() or done.exception() is not None:
            return
        running, pid = done.result()
        if self._pid < 0:
            self._pid = pid
        if not running or pid != self._pid:
            self._lost(handle)

    def _lost(self, handle: ClientHandle) -> None:
        driver, self._client, self._driver = self._driver, None, None
        _LOG.warning(
            "%s: the media driver in %s is gone; %d clients are let go, and served again when one runs",
            self.address,
            self.directory,
            len(self._ports),
        )
        for port in list(self._ports):
            port.lose(ConnectionBrokenError("connection broken: the media driver is gone"))
        if self._ending is None:
            self._rebuilding = self._loop.create_task(self._rebuild((handle, driver)))

    async def _rebuild(self, old: tuple[ClientHandle, DriverHandle | None]) -> None:
        await self._thread(lambda: _give_back(old), lambda _: None)
        wait = _FIRST_WAIT
        while True:
            try:
                self._take(await self._thread(self._acquire, _give_back))
            except ServerError:
                await asyncio.sleep(wait)
                wait = min(_LONGEST_WAIT, wait * 2)
            except Exception:
                _LOG.exception("%s: no client of the media driver can be made", self.address)
                await asyncio.sleep(_LONGEST_WAIT)
            else:
                self.rebuilt += 1
                _LOG.warning("%s: a media driver runs in %s again", self.address, self.directory)
                return


def _seen(done: asyncio.Future[Any]) -> None:
    """Take an error for known, also where nobody waits for it any more."""
    if not done.cancelled():
        done.exception()


def _give_back(handles: tuple[ClientHandle | None, DriverHandle | None]) -> None:
    client, driver = handles
    if client is not None:
        client.release(retire=not client.usable)
    if driver is not None:
        driver.release()


def _host(peer: str) -> str:
    """Return the host of a port's peer; loopback for a Unix socket."""
    return "127.0.0.1" if peer.startswith("unix:") else peer.rpartition(":")[0]


def _address(host: str) -> object:
    try:
        found = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _loopback(host: str) -> bool:
    found = _address(host)
    return not isinstance(found, str) and bool(getattr(found, "is_loopback", False))
