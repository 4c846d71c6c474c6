"""A network inside the process: the ``Net`` seam joined to sans-I/O emulators, with faults by seed.

``SimNet`` connects clients to ``Emulator`` objects over virtual time. Without faults every frame
arrives once, in order and whole, after a small latency. ``NetFaults`` gives the rate of each fault:

    drop, duplicate, reorder   a server frame is lost, comes twice, or comes after its successors
    split                      a server frame is torn: its halves come as two frames, or only the first
    malformed                  garbage comes instead of, or in addition to, a server frame
    stall                      the connection delivers nothing for a while, then everything in order
    reset                      the connection breaks; frames on their way are lost
    partition                  nobody is reachable; connections outlive a short one, not a long one
    refuse                     a connection attempt fails
    rate_limit, ban            an HTTP request is answered by 429, or by 418 for a while
    request                    an HTTP request fails: no answer, 5xx, or a torn body

Real TCP delivers in order and once; the first group stands for what proxies, exchanges and bugs do.
Faults hit only what the server sends: a lost client frame without a reset does not exist on TCP.
The emulator stays undamaged and is the oracle; its clock never jumps.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from cmd_common.emulation import Close, Emulator, Pending, Ping, Text
from cmd_common.errors import BlockedError, DisconnectedError, VenueError
from cmd_common.http import HttpRequest, HttpResponse

from .virtual import VirtualClock, VirtualLoop

__all__ = ["GARBAGE", "NetFaults", "SimNet", "SimSocket"]

_MS = 1_000_000
_SECOND = 1_000_000_000

GARBAGE: tuple[str | bytes, ...] = (
    "",
    "{",
    "null",
    "[]",
    "0",
    '"text"',
    "{}",
    "[[[[[[[[[[[[[[[[",
    '{"e":"depthUpdate"}',
    '{"e":"trade","s":17}',
    '{"stream":null,"data":null}',
    '{"stream":"x@depth","data":[]}',
    '{"stream":"!nothing","data":{"e":"neverHeardOf","E":1}}',
    '{"result":{},"id":"?"}',
    '{"code":-1,"msg":"made up","id":null}',
    '{"error":{"code":2,"msg":"made up"}}',
    '{"e":"depthUpdate","E":"x","s":"?","U":1,"u":0,"b":[["a","b"]],"a":[[]]}',
    "\x00\x01\x02",
    b"\xff\xfe\x00bytes",
    "x" * 70_000,
)
"""Frames that no exchange documents; none of them is a complete message."""


class NetFaults(Struct, frozen=True):
    """Probability of each fault: per server frame, per connection attempt or per HTTP request."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    split: float = 0.0
    malformed: float = 0.0
    stall: float = 0.0
    reset: float = 0.0
    refuse: float = 0.0
    rate_limit: float = 0.0
    ban: float = 0.0
    request: float = 0.0


class SimSocket:
    """The client's end of one simulated WebSocket connection."""

    def __init__(self, net: SimNet, number: int, emulator: Emulator) -> None:
        self.number = number
        self._net = net
        self._emulator = emulator
        self._frames: deque[str | bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._close_code: int | None = None
        self._reason = ""
        self._last_due = 0  # frames arrive in order: never before this
        self._sent_until = 0
        self._held: list[str | bytes] = []  # reordered frames that wait for a successor
        self.server_open = True

    @property
    def close_code(self) -> int | None:
        """The close code once closed, else None."""
        return self._close_code

    async def send(self, frame: str) -> None:
        """Send a text frame; raises DisconnectedError once the connection is closed."""
        if self._close_code is not None:
            raise DisconnectedError(f"connection closed with code {self._close_code}: {self._reason}")
        net = self._net
        net.trace("send", self.number, frame)
        due = max(self._sent_until, net.loop.ns + net.latency())
        if net.partitioned_until > net.loop.ns:
            due = max(due, net.partitioned_until)
        self._sent_until = due
        net.loop.call_at_ns(due, self._arrive_at_server, frame)

    def _arrive_at_server(self, frame: str) -> None:
        if self.server_open:
            net = self._net
            net.route(self._emulator.ws_receive(self.number, frame, net.clock.true_now()), self._emulator)
            net.wake(self._emulator)

    async def receive(self) -> str | bytes:
        """Return the next frame; raises DisconnectedError once closed and read to its end."""
        while not self._frames:
            if self._close_code is not None:
                raise DisconnectedError(f"connection closed with code {self._close_code}: {self._reason}")
            self._waiter = self._net.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._frames.popleft()

    async def receive_all(self) -> list[str | bytes]:
        """Return the next frame alone; raises as ``receive`` does."""
        return [await self.receive()]

    async def close(self) -> None:
        """Close from the client's side."""
        if self._close_code is None:
            self._end(1000, "closed by us")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, code: int, reason: str, *, lose: bool = False) -> None:
        """The client sees the end of the connection; the server is told."""
        if self._close_code is not None:
            return
        self._close_code = code
        self._reason = reason
        if lose:
            self._frames.clear()
        self._wake()
        if self.server_open:
            self.server_open = False
            self._emulator.ws_closed(self.number, self._net.clock.true_now())
        self._net.forget(self)

    def _arrive(self, frame: str | bytes) -> None:
        if self._close_code is None:
            self._frames.append(frame)
            self._wake()

    def _transmit(self, frame: str | bytes) -> None:
        net = self._net
        self._last_due = due = max(self._last_due, net.loop.ns + net.latency())
        net.loop.call_at_ns(due, self._arrive, frame)

    def from_server(self, text: str) -> None:
        """A frame leaves the server: apply faults, then put it on the wire."""
        net = self._net
        kind = net.choose_frame_fault()
        if kind is None:
            self._transmit(text)
        elif kind == "drop":
            net.note("drop", self.number, text)
        elif kind == "duplicate":
            net.note("duplicate", self.number, text)
            self._transmit(text)
            self._transmit(text)
        elif kind == "reorder":
            net.note("reorder", self.number, text)
            self._held.append(text)
            net.loop.call_at_ns(net.loop.ns + 2 * _SECOND, self._release)
            return
        elif kind == "split":
            net.note("split", self.number, text)
            cut = net.rng.randrange(1, len(text)) if len(text) > 1 else 0
            self._transmit(text[:cut])
            if net.rng.random() < 0.5:
                self._transmit(text[cut:])
        elif kind == "malformed":
            net.note("malformed", self.number, text)
            self._transmit(net.rng.choice(GARBAGE))
            if net.rng.random() < 0.5:
                self._transmit(text)
        elif kind == "stall":
            net.note("stall", self.number, "")
            self._last_due = max(self._last_due, net.loop.ns + net.rng.randrange(_SECOND, 20 * _SECOND))
            self._transmit(text)
        elif kind == "reset":
            net.note("reset", self.number, "")
            self._end(1006, "connection reset", lose=net.rng.random() < 0.5)
            return
        if self._held and kind != "drop":
            self._release()

    def _release(self) -> None:
        """Let reordered frames go, latest first."""
        while self._held:
            self._transmit(self._held.pop())

    def from_server_close(self, code: int, reason: str) -> None:
        """The server closes; code 0 drops the connection without a close frame."""
        self.server_open = False
        self._release()
        self._last_due = due = max(self._last_due, self._net.loop.ns + self._net.latency())
        self._net.loop.call_at_ns(due, self._end, code or 1006, reason)

    def partition(self, until: int, keepalive: int) -> None:
        """Nothing arrives before ``until``; past the keepalive the client gives the connection up."""
        now = self._net.loop.ns
        if until - now > keepalive:
            self._last_due = until
            self._net.loop.call_at_ns(now + keepalive, self._partition_end)
        else:
            self._last_due = max(self._last_due, until)

    def _partition_end(self) -> None:
        if self._net.partitioned_until > self._net.loop.ns:
            self._end(1006, "no answer to a ping", lose=True)


class SimNet:
    """The ``Net`` seam over emulators: ``hosts`` maps ``host`` or ``host:port`` of URLs to an Emulator.

    ``trace(kind, connection, detail)`` is told every fault, and every connect, send and http of the
    client. ``sent(text)`` is told each data frame that leaves the server for a client, before any fault.
    ``faults`` may be replaced at any moment; ``calm()`` ends all of them.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        clock: VirtualClock,
        hosts: Mapping[str, Emulator],
        rng: random.Random,
        *,
        faults: NetFaults | None = None,
        max_latency: int = 5 * _MS,
        keepalive: int = 20 * _SECOND,
        trace: Callable[[str, int, str], None] = lambda kind, connection, detail: None,
        sent: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.rng = rng
        self.hosts = dict(hosts)
        self.max_latency = max_latency
        self.keepalive = keepalive
        self.counts: Counter[str] = Counter()
        self.partitioned_until = 0
        self.banned_until = 0
        self.trace = trace
        self._sent = sent
        self._sockets: dict[int, SimSocket] = {}
        self._spies: dict[int, Callable[[str], None]] = {}
        self._next_connection = 1
        self._pending: dict[tuple[int, int], asyncio.Future[HttpResponse]] = {}
        self._polls: dict[int, tuple[int, asyncio.TimerHandle]] = {}
        self.faults = faults or NetFaults()

    @property
    def faults(self) -> NetFaults:
        """The rates in force."""
        return self._faults

    @faults.setter
    def faults(self, faults: NetFaults) -> None:
        self._faults = faults
        self._table: list[tuple[float, str]] = []
        total = 0.0
        for kind in ("drop", "duplicate", "reorder", "split", "malformed", "stall", "reset"):
            rate: float = getattr(faults, kind)
            if rate > 0:
                total += rate
                self._table.append((total, kind))

    # Faults.

    def note(self, kind: str, connection: int, detail: str) -> None:
        """Count and trace one fault."""
        self.counts[kind] += 1
        self.trace(kind, connection, detail)

    def latency(self) -> int:
        """A one-way delay in ns."""
        return self.rng.randrange(100_000, self.max_latency)

    def choose_frame_fault(self) -> str | None:
        """The fault that hits the next server frame, if any."""
        if not self._table:
            return None
        roll = self.rng.random()
        for limit, kind in self._table:
            if roll < limit:
                return kind
        return None

    def partition(self, duration: int) -> None:
        """Cut everybody off for ``duration`` ns from now."""
        self.note("partition", 0, f"{duration / 1e9:.3f} s")
        self.partitioned_until = max(self.partitioned_until, self.loop.ns + duration)
        for socket in list(self._sockets.values()):
            socket.partition(self.partitioned_until, self.keepalive)

    def ban(self, duration: int) -> None:
        """Answer every request by 418 for ``duration`` ns from now."""
        self.note("ban", 0, f"{duration / 1e9:.3f} s")
        self.banned_until = max(self.banned_until, self.loop.ns + duration)

    def reset_all(self) -> None:
        """Break every open connection."""
        for socket in list(self._sockets.values()):
            self.note("reset", socket.number, "")
            socket._end(1006, "connection reset", lose=True)

    def drop_client(self) -> None:
        """The client process died: its connections end, without a word to it."""
        for socket in list(self._sockets.values()):
            socket._end(1006, "client killed", lose=True)
        self._pending.clear()

    def calm(self) -> None:
        """No new faults; a partition or ban that is under way ends now."""
        self.faults = NetFaults()
        self.partitioned_until = min(self.partitioned_until, self.loop.ns)
        self.banned_until = min(self.banned_until, self.loop.ns)

    # The seam.

    async def connect(self, url: str, *, headers: Mapping[str, str] | None = None) -> SimSocket:
        """Open a connection; raises DisconnectedError or BlockedError."""
        emulator, target = self._resolve(url)
        if self.partitioned_until > self.loop.ns:
            await self._sleep(10 * _SECOND)
            raise DisconnectedError(f"cannot connect to {url}: timed out")
        await self._sleep(2 * self.latency())
        if self.faults.refuse and self.rng.random() < self.faults.refuse:
            self.note("refuse", 0, "")
            raise DisconnectedError(f"cannot connect to {url}: connection refused")
        number = self._next_connection
        self._next_connection += 1
        answer = emulator.ws_open(number, target, headers or {}, self.clock.true_now())
        if isinstance(answer, HttpResponse):
            if answer.status in (403, 451):
                raise BlockedError(f"{url} answered {answer.status}", status=answer.status)
            raise DisconnectedError(f"{url} refused the connection: {answer.status}", status=answer.status)
        self.trace("connect", number, url)
        socket = self._sockets[number] = SimSocket(self, number, emulator)
        self.wake(emulator)
        return socket

    async def request(self, request: HttpRequest) -> HttpResponse:
        """Make a request; raises DisconnectedError when there is no answer."""
        emulator, target = self._resolve(request.url)
        self.trace("http", 0, target)
        if self.partitioned_until > self.loop.ns:
            await self._sleep(10 * _SECOND)
            raise DisconnectedError(f"{request.method} {request.url}: timed out")
        await self._sleep(self.latency())
        faults = self.faults
        if self.banned_until > self.loop.ns:
            left = -(-(self.banned_until - self.loop.ns) // _SECOND)
            return HttpResponse(418, b'{"code":-1003,"msg":"banned"}', {"retry-after": str(left)})
        if faults.ban and self.rng.random() < faults.ban:
            seconds = self.rng.randrange(2, 60)
            self.ban(seconds * _SECOND)
            return HttpResponse(418, b'{"code":-1003,"msg":"banned"}', {"retry-after": str(seconds)})
        if faults.rate_limit and self.rng.random() < faults.rate_limit:
            seconds = self.rng.randrange(1, 10)
            self.note("rate_limit", 0, f"{seconds} s")
            return HttpResponse(429, b'{"code":-1003,"msg":"slow down"}', {"retry-after": str(seconds)})
        broken = bool(faults.request) and self.rng.random() < faults.request
        kind = self.rng.randrange(3) if broken else -1
        if kind == 0:
            self.note("request", 0, "no answer")
            raise DisconnectedError(f"{request.method} {request.url}: connection reset")
        if kind == 1:
            self.note("request", 0, "503")
            return HttpResponse(503, b"<html>Service Unavailable</html>")
        answer = emulator.http(request.method, target, request.headers, self.clock.true_now())
        self.wake(emulator)
        if isinstance(answer, Pending):
            key = (id(emulator), answer.token)
            future = self._pending[key] = self.loop.create_future()
            try:
                answer = await future
            finally:
                self._pending.pop(key, None)
        await self._sleep(self.latency())
        if self.partitioned_until > self.loop.ns:
            raise DisconnectedError(f"{request.method} {request.url}: timed out")
        if kind == 2:
            self.note("request", 0, "torn body")
            cut = self.rng.randrange(len(answer.body)) if answer.body else 0
            return HttpResponse(answer.status, answer.body[:cut], answer.headers)
        return answer

    async def _stream(self, request: HttpRequest) -> AsyncIterator[bytes]:
        response = await self.request(request)
        if response.status not in (200, 206):
            raise VenueError(f"{request.url} answered {response.status}", status=response.status)
        for at in range(0, len(response.body), 65536):
            yield response.body[at : at + 65536]

    def stream(self, request: HttpRequest) -> AsyncIterator[bytes]:
        """Stream a body in chunks; raises VenueError unless 200 or 206."""
        return self._stream(request)

    async def close(self) -> None:
        """Nothing is pooled."""

    # Hosting the emulators.

    def spy(self, url: str, take: Callable[[str], None], subscribe: Sequence[str] = ()) -> None:
        """Open a connection that no fault ever touches and that sees each frame as it leaves the server."""
        emulator, target = self._resolve(url)
        number = self._next_connection
        self._next_connection += 1
        answer = emulator.ws_open(number, target, {}, self.clock.true_now())
        if isinstance(answer, HttpResponse):
            raise ValueError(f"the emulator refuses {url}: {answer.status} {answer.body!r}")
        self._spies[number] = take
        for frame in subscribe:
            self.route(emulator.ws_receive(number, frame, self.clock.true_now()), emulator)
        self.wake(emulator)

    def forget(self, socket: SimSocket) -> None:
        """A connection has ended."""
        self._sockets.pop(socket.number, None)

    def wake(self, emulator: Emulator) -> None:
        """Poll an emulator now: something was sent to it."""
        self._schedule(emulator, self.loop.ns)

    def route(self, frames: Sequence[Text | Ping | Close], emulator: Emulator) -> None:
        """Hand an emulator's frames to their connections."""
        for frame in frames:
            if isinstance(frame, Text):
                take = self._spies.get(frame.connection)
                if take is not None:
                    take(frame.text)
                    continue
                socket = self._sockets.get(frame.connection)
                if socket is not None and socket.server_open:
                    self._sent(frame.text)
                    socket.from_server(frame.text)
            elif isinstance(frame, Close):
                socket = self._sockets.get(frame.connection)
                if socket is not None:
                    socket.from_server_close(frame.code, frame.reason)
            # a Ping is answered by any WebSocket implementation

    def _resolve(self, url: str) -> tuple[Emulator, str]:
        parts = urlsplit(url)
        emulator = self.hosts.get(parts.netloc) or self.hosts.get(parts.hostname or "")
        if emulator is None:
            raise DisconnectedError(f"no such host in the simulation: {parts.netloc}")
        return emulator, parts.path + (f"?{parts.query}" if parts.query else "")

    async def _sleep(self, ns: int) -> None:
        await asyncio.sleep(ns / 1e9)

    def _schedule(self, emulator: Emulator, at: int) -> None:
        planned = self._polls.get(id(emulator))
        if planned is not None:
            if planned[0] <= at:
                return
            planned[1].cancel()
        self._polls[id(emulator)] = (at, self.loop.call_at_ns(at, self._poll, emulator))

    def _poll(self, emulator: Emulator) -> None:
        self._polls.pop(id(emulator), None)
        now = self.clock.true_now()
        poll = emulator.poll(now)
        self.route(poll.frames, emulator)
        for token, response in poll.responses:
            future = self._pending.get((id(emulator), token))
            if future is not None and not future.done():
                future.set_result(response)
        if poll.next_time is not None:
            self._schedule(emulator, self.loop.ns + max(1, poll.next_time - now))
