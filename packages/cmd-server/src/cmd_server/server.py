"""The asyncio shell around the hub: sessions and their limits, the clock, and when what is written.

Theory of operation. ``publish`` gives records to the hub, which says by ``wake`` for which clients something waits
now. Such a client is served at once, so that a lone message is never late; a client that was served in this turn of
the loop already is served again at its end, with all that came meanwhile in one system call. While a port is not
writable nothing is taken for it: messages stay in the client's queue of the hub, where its policy applies. So a
connection holds at most its port's low-water mark and one portion, whatever its client does.

A connection that has not logged in is worth little: it may keep few bytes, not for long, and where the limit of
clients is reached the oldest of these makes room. Requests are counted by a token bucket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from cmd_common.commands import AggregateOptions
from cmd_common.errors import CmdError, UsageError
from cmd_common.records import Record
from cmd_common.registry import load
from cmd_common.seams import Clock, SystemClock

from .codec import decode_request, decode_service, encode_service
from .errors import FrameError, RefusedError, ServerError
from .framing import Splitter
from .hub import Client, Hub
from .limits import Limits
from .messages import Bye, Divert, Diverted, Request, Resume, Subscribe, Unsubscribe
from .security import authorizer, check_exposure
from .sendbuffer import write_all
from .sockets import Channel
from .transport import (
    Accompanied,
    Address,
    Buffer,
    CarriedPort,
    Diverting,
    Lasting,
    Listener,
    ListenOptions,
    Port,
    Transport,
    transport_of,
)

__all__ = ["Server", "Session"]

_LOG: Final = logging.getLogger("cmd_server")
_SECOND: Final = 1_000_000_000
_PORTION: Final = 256 << 10  # bytes of one take, hence of one system call
_TICK: Final = 100_000_000  # ns
_FAREWELL: Final = 5 * _SECOND  # from Bye to the end, for a client that does not read
_STRANGER: Final = 16 << 10  # bytes that are kept of a message before the login
_BURST: Final = 5  # seconds' worth of requests at once
_WILD: Final = frozenset("*?[")
_COMPARED: Final = 1_000  # instruments that are compared with wildcards count as one more request
_POSITIONS: Final = 100  # so do positions, each of which may be answered
_DIVERTED: Final = 50  # requests as which one counts that makes something outside of this process


_LONGEST_WAY: Final = 500  # characters
_ELSEWHERE: Final = "start it with --listen aeron:ipc or aeron:udp too, or leave the transport out"


class Session:
    """One connected client: its port, its side in the hub, and what it has used of its limits."""

    __slots__ = (
        "_allowance",
        "_counted",
        "carried",
        "client",
        "closed",
        "direct",
        "diverting",
        "error",
        "farewell",
        "last",
        "port",
        "served",
        "since",
        "splitter",
    )

    def __init__(self, port: Port, client: Client, now: int, max_message: int) -> None:
        self.port = port
        # The channel of a port whose bytes are frames and nothing else: the same bytes may go to many at once.
        self.direct: Channel | None = getattr(port, "direct", None)
        self.client = client
        self.since = now  # ns
        self.splitter = Splitter(max_message)
        self.served = False  # in this turn of the loop
        self.closed = False
        self.farewell = 0  # when it is cut off, once Bye was said
        self.error: Exception | None = None
        self.last = b""  # frame that was sent last
        self.carried: CarriedPort | None = None  # the port, once it was diverted
        self.diverting: asyncio.Task[None] | None = None
        self._allowance = 0.0  # requests; filled by the first look
        self._counted = -1

    def ended(self) -> bool:
        """Whether Bye was said, or the client is gone."""
        return self.client.closing

    def allowed(self, now: int, rate: int, cost: int = 1) -> bool:
        """Count a request that costs as much as ``cost``; False where there were more than ``rate`` a second, a burst apart."""
        most = float(rate * _BURST)
        if self._counted < 0:
            self._allowance = most
        else:
            self._allowance = min(most, self._allowance + (now - self._counted) * rate / _SECOND)
        self._counted = now
        self._allowance -= cost
        return self._allowance >= 0


class Server:
    """Serves a hub over any transports, inside the running event loop; ``hub`` is made here.

    ``token``: what clients must show; empty: none, and then only loopback and Unix sockets may be listened at.
    ``limits`` bound the clients, ``options`` the connections, ``requests`` a client's requests a second.
    ``epoch`` names this run; 0: the time. Enter it (``async with``) or call ``close`` at the end.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        token: str = "",
        limits: Limits | None = None,
        options: ListenOptions | None = None,
        aggregate: AggregateOptions | None = None,
        epoch: int = 0,
        requests: int = 200,
        name: str = "cmd-server",
        loader: Callable[[str, str], Any] = load,
    ) -> None:
        self.clock: Clock = SystemClock() if clock is None else clock
        self._offset = self.clock.now() - self.clock.monotonic()
        now = self.now()
        self._authorized = authorizer(token)
        self.hub = Hub(
            epoch=epoch or now,
            now=now,
            limits=limits,
            aggregate=aggregate,
            wake=self._wake,
            fan=self._fan,
            authorize=self._authorized,
            server=name,
        )
        self.limits = self.hub.limits
        self.sessions: dict[Session, None] = {}
        self.listeners: list[Listener] = []
        self.accepted = 0  # connections so far
        self.options = ListenOptions(max_message=self.limits.max_message) if options is None else options
        self._token = token
        self._requests = requests
        self._loader = loader
        self._served: list[Session] = []  # in this turn of the loop
        self._again: list[Session] = []  # to serve at its end
        self._strangers: dict[Session, None] = {}  # not logged in, oldest first
        self._ticking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = asyncio.Event()
        self._closing = False

    def now(self) -> int:
        """The server's time, ns UTC: it never jumps, because time limits are measured by it."""
        return self.clock.monotonic() + self._offset

    # -- what the owner calls

    async def listen(self, text: str | Address) -> Listener:
        """Listen at one more address; raises CmdError in one line. See ``listen_all`` for several."""
        return (await self.listen_all([text]))[0]

    async def listen_all(self, texts: Sequence[str | Address]) -> list[Listener]:
        """Listen at all addresses or, where one cannot be used, at none of them.

        Returned are their listeners in this order, then those of addresses that they need beside them (control).
        """
        addresses = [Address.parse(text) if isinstance(text, str) else text for text in texts]
        transports = [transport_of(address, self._loader) for address in addresses]
        self._add_companions(addresses, transports)
        check_exposure([(a, t.local(a)) for a, t in zip(addresses, transports, strict=True)], self._token)
        self.start()
        bound: dict[int, Listener] = {}
        try:
            # Those with a companion first: who comes by the companion finds them.
            for n in sorted(range(len(addresses)), key=lambda n: not isinstance(transports[n], Accompanied)):
                bound[n] = await transports[n].listen(addresses[n], self, self.options)
                self.listeners.append(bound[n])
        except BaseException:
            for listener in bound.values():
                self.listeners.remove(listener)
                await listener.close()
            raise
        return [bound[n] for n in range(len(addresses))]

    def _add_companions(self, addresses: list[Address], transports: list[Transport]) -> None:
        """Add the addresses at which the others need this server to listen too."""
        for address, transport in zip(addresses[:], transports[:], strict=True):
            if isinstance(transport, Accompanied):
                others = [*addresses, *(listener.address for listener in self.listeners)]
                more = transport.companion(address, others)
                if more is not None and all((o.scheme, o.target) != (more.scheme, more.target) for o in others):
                    addresses.append(more)
                    transports.append(transport_of(more, self._loader))

    def start(self) -> None:
        """Start the clock; ``listen`` does it too."""
        if self._closing:
            raise UsageError("this server was closed")
        if self._ticking is None:
            self._loop = asyncio.get_running_loop()
            self._ticking = self._loop.create_task(self._tick(), name="cmd-server clock")

    def publish(self, records: Sequence[Record], *, flags: int = 0) -> None:
        """Send records to all who asked for them; what nobody waits behind goes out before this returns."""
        self.hub.publish(records, self.now(), flags=flags)

    async def close(self, *, drain: float = 2.0) -> None:
        """Say goodbye to everyone, wait up to ``drain`` seconds until they have read it, then close everything."""
        if self._closing:
            return
        self._closing = True
        for listener in self.listeners:
            await listener.close()
        for session in list(self.sessions):
            self.hub.dismiss(session.client, "shutdown", "the server shuts down")
            self._serve(session)
        await self._gone(drain)
        for session in list(self.sessions):
            session.port.abort()
        await self._gone(drain + 1)  # only what the loop still has to call
        for listener in self.listeners:
            if isinstance(listener, Lasting):
                await listener.finish()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    async def __aenter__(self) -> Server:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- what transports call

    def opened(self, port: Port, *, token: str = "", trusted: bool = False, snapshots: bool = True) -> Session:
        """Greet a client; see ``ServerSide``."""
        now = self.now()
        self.accepted += 1
        if len(self.hub.clients) >= self.limits.clients and self._strangers:
            stranger = next(iter(self._strangers))
            stranger.port.abort()
            self.closed(stranger)
        shown = trusted or (bool(token) and self._authorized is not None and self._authorized(token))
        authorize = _anyone if shown and self._authorized is not None else None
        client = self.hub.attach(port.peer, now, authorize=authorize, snapshots=snapshots)
        session = Session(port, client, now, self.limits.max_message)
        client.context = session
        self.sessions[session] = None
        self._strangers[session] = None
        self._serve(session)
        if self._closing:
            self.hub.dismiss(client, "shutdown", "the server shuts down")
            self._serve(session)
        return session

    def received(self, session: Session, data: Buffer) -> None:
        """Take bytes of a client; see ``ServerSide``."""
        client = session.client
        if session.ended():
            return
        try:
            if session.port.form == "json":
                self._json(session, data)
                return
            frames = session.splitter.feed(data)
            for frame in frames:
                if session.ended():
                    return
                self._frame(session, frame)
            if not client.logged_in and session.splitter.pending > _STRANGER:
                raise FrameError(f"more than {_STRANGER} bytes and no login")
        except FrameError as error:
            self.hub.dismiss(client, "protocol", str(error))
        except Exception:
            # A defect that one client has found must not become another's.
            _LOG.exception("a request of %s could not be handled", client.name)
            session.port.abort()
        finally:
            if session.ended():
                self._serve(session)

    def request(self, session: Session, request: Request) -> None:
        """Take a request; see ``ServerSide``."""
        client = session.client
        now = self.now()
        if not session.allowed(now, self._requests, self._cost(client, request)):
            text = f"more than {self._requests} requests a second, where wildcards count by the instruments that they search"
            self.hub.dismiss(client, "limit", text)
            return
        if isinstance(request, Divert) and client.logged_in and not client.closing:
            client.heard = now
            self._divert(session, request)
        else:
            self.hub.handle(client, request, now)
        if client.logged_in:
            self._strangers.pop(session, None)

    def writable(self, session: Session) -> None:
        """Go on sending; see ``ServerSide``."""
        self._serve(session)

    def closed(self, session: Session, error: Exception | None = None) -> None:
        """Forget a client; see ``ServerSide``."""
        if session.closed:
            return
        session.closed = True
        session.error = error
        self.sessions.pop(session, None)
        self._strangers.pop(session, None)
        self.hub.detach(session.client)
        if session.diverting is not None:
            session.diverting.cancel()
        if session.carried is not None:
            session.carried.release()
        if not self.sessions:
            self._empty.set()

    def names(self, instrument_id: int) -> tuple[str, str]:
        """Return venue and symbol of an instrument; raises IndexError."""
        return self.hub.name_of(instrument_id)

    # -- inside

    def _cost(self, client: Client, request: Request) -> int:
        """How many simple requests take as long as this one: every wildcard is compared with every instrument."""
        topics: Collection[str] = ()
        if isinstance(request, Divert):
            return _DIVERTED
        if isinstance(request, Subscribe | Resume):
            topics = request.topics
        elif isinstance(request, Unsubscribe):
            topics = client.topics  # what is left is matched anew
        wild = sum(":" not in text or not _WILD.isdisjoint(text) for text in topics)
        positions = len(request.positions) if isinstance(request, Resume) else 0
        return 1 + wild * len(self.hub.entries) // _COMPARED + positions // _POSITIONS

    def _frame(self, session: Session, frame: Buffer) -> None:
        try:
            request = decode_request(frame)
        except FrameError:
            raise
        except CmdError as error:
            self._misunderstood(session, error)
            return
        self.request(session, request)

    def _json(self, session: Session, data: Buffer) -> None:
        from .json_form import request as read

        try:
            request = read(bytes(data).decode())
        except UnicodeDecodeError:
            self._misunderstood(session, UsageError("text that is not UTF-8"))
        except CmdError as error:
            self._misunderstood(session, error)
        else:
            self.request(session, request)

    def _divert(self, session: Session, request: Divert) -> None:
        """Begin to move what a client receives to another transport."""
        try:
            if session.port.form != "sbe":
                raise UsageError("only a connection that speaks SBE can be diverted")
            if session.diverting is not None:
                raise UsageError("this connection is diverted already")
            if len(request.to) > _LONGEST_WAY:
                raise UsageError(f"{len(request.to)} characters are no address")
            to = Address.parse(request.to)
            for listener in self.listeners:
                address = listener.address
                if isinstance(listener, Diverting) and (address.scheme, address.target) == (to.scheme, to.target):
                    assert self._loop is not None
                    session.diverting = self._loop.create_task(self._moved(session, request, listener))
                    return
            raise UsageError(f"this server does not listen at {to.scheme}:{to.target}", hint=_ELSEWHERE)
        except CmdError as error:
            self.hub.refuse(session.client, request.request_id, "usage", error.message, error.hint)

    async def _moved(self, session: Session, request: Divert, listener: Diverting) -> None:
        """Move what a client receives; what was sent before, and Diverted, come by the old way."""
        client = session.client
        try:
            port, to = await listener.divert(request.to, session.port)
        except CmdError as error:
            session.diverting = None  # it may ask for something better
            code = "unavailable" if isinstance(error, ServerError) else "usage"
            if isinstance(error, RefusedError):
                code = error.code
            self.hub.refuse(client, request.request_id, code, error.message, error.hint)
            return
        except Exception:
            _LOG.exception("%s could not be diverted", client.name)
            session.port.abort()
            return
        if session.closed or client.closing:
            port.release()
            return
        session.port.send([encode_service(Diverted(request.request_id, to))])
        session.port = session.carried = port
        session.direct = None
        port.start(session)
        self._serve(session)

    def _misunderstood(self, session: Session, error: CmdError) -> None:
        """Refuse what is no request: one who is logged in may go on, a stranger may not."""
        client = session.client
        if not session.allowed(self.now(), self._requests):
            self.hub.dismiss(client, "limit", f"more than {self._requests} requests a second")
            return
        self.hub.refuse(client, 0, "protocol", error.message, error.hint)
        if not client.logged_in:
            self.hub.dismiss(client, "protocol", error.message)

    def _wake(self, client: Client) -> None:
        """Serve a client for which something waits: now, or at the end of this turn where it was served already."""
        session: Session | None = client.context
        if session is None:
            return  # it is being attached
        if session.served:
            self._again.append(session)
        elif self._loop is None:
            self._serve(session)
        else:
            first = not self._served
            session.served = True
            self._served.append(session)
            try:
                self._serve(session)
            finally:
                if first:  # only now: the bytes are on their way, and nobody waits for this
                    self._loop.call_soon(self._turn)

    def _fan(self, clients: Iterable[Client], frames: list[bytes], size: int) -> list[Client]:
        """Send the same frames to the clients for which nothing waits; return the others.

        It is what ``_wake`` does for each of them, with one system call a client and nothing else.
        """
        left: list[Client] = []
        if self._loop is None or size > _PORTION:
            return list(clients)
        count, last = len(frames), frames[-1]
        served = self._served
        first = not served
        channels, buffers = [], []
        for client in clients:
            session: Session | None = client.context
            if session is None or session.served or session.direct is None or not client.takes(count):
                left.append(client)
                continue
            channel = session.direct
            buffer = channel.empty
            if buffer is None:
                left.append(client)
                continue
            session.served = True
            session.last = last
            served.append(session)
            client.passed(count, size)
            channels.append(channel)
            buffers.append(buffer)
        if buffers:
            try:
                for place, error in write_all(buffers, b"".join(frames)):
                    channels[place].wrote(error)
            finally:
                if first:
                    self._loop.call_soon(self._turn)
        return left

    def _turn(self) -> None:
        served, self._served = self._served, []
        again, self._again = self._again, []
        for session in served:
            session.served = False
        for session in again:
            self._serve(session)

    def _serve(self, session: Session) -> None:
        """Send what waits for a client as far as its port takes it; after Bye, close the port."""
        port, client = session.port, session.client
        try:
            while port.writable:
                frames = client.take(_PORTION)
                if not frames:
                    if client.closing and not session.closed and not client.pending:
                        bye = _bye(session.last)
                        port.close(bye.code, bye.text)
                    return
                session.last = frames[-1]
                port.send(frames)
                if client.idle and not client.closing:
                    return
        except Exception:
            # This may be in the middle of a publish: the clients behind this one in the row must not miss theirs.
            _LOG.exception("what waits for %s could not be sent", client.name)
            port.abort()

    async def _tick(self) -> None:
        while True:
            await self.clock.sleep(_TICK)
            try:
                self.tick()
            except Exception:
                # A defect must not stop the clock of everybody: time limits are what protects the server.
                _LOG.exception("the server's clock stumbled")

    def tick(self) -> None:
        """Look at the time limits; called ten times a second."""
        now = self.now()
        self.hub.tick(now)
        for session in list(self.sessions):
            if not session.client.closing:
                continue
            if not session.farewell:
                session.farewell = now + _FAREWELL
                self._serve(session)
            elif now >= session.farewell:
                session.port.abort()

    async def _gone(self, seconds: float) -> None:
        if self.sessions:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)


def _anyone(_: str) -> bool:
    return True


def _bye(frame: bytes) -> Bye:
    """Return the Bye that a frame holds; the last frame of a client is one."""
    with contextlib.suppress(CmdError):
        message = decode_service(frame)
        if isinstance(message, Bye):
            return message
    return Bye("", "")
