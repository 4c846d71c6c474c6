"""UDP multicast: one sender for any number of receivers, with recovery over a stream connection.

    server: multicast:239.1.2.3:9997?interface=127.0.0.1&ttl=0&topics=trades *,book *
    client: multicast:239.1.2.3:9997?interface=127.0.0.1&recovery=tcp:127.0.0.1:9999

The server's side is a client of the hub with fixed topics; what the hub gives it is packed into datagrams (see
``cmd_server.datagrams``). Snapshots are not sent: a book begins over the recovery connection. At least once a
second a heartbeat names the next packet, the topics, and the instruments in turn.

The client's side joins the group, speaks to the server over ``recovery`` as any client, and merges the two
(``cmd_server.merger``), so that what it hands on is one stream of frames with every message once.

With ``ttl=0``, the default, datagrams do not leave this machine. Whoever receives the group reads it without a token,
and whoever can send to it can forge packets: with a larger ttl use a network that is yours; ``source`` takes datagrams
of one address only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from ipaddress import IPv4Address
from typing import Any, Final

from cmd_common.errors import CmdError, UsageError

from .datagrams import unpack
from .errors import ConnectionBrokenError, FrameError, ServerError
from .framing import Splitter
from .group import Group
from .merger import Merger
from .messages import Login, Ping, Policy, Subscribe
from .topics import Topic
from .transport import Address, Link, LinkOptions, ListenOptions, ServerSide, only, transport_of

__all__ = ["DEFAULT_TOPICS", "TRANSPORT", "MulticastTransport"]

DEFAULT_TOPICS: Final = ("trades *", "agg_trades *", "quotes *", "book *")

_KEYS: Final = {
    "interface": "both",
    "recovery": "both",  # a server ignores it, so that one text serves both sides
    "ttl": "server",
    "topics": "server",
    "heartbeat": "server",
    "source": "client",
}
_READY_MAX: Final = 16 << 20  # bytes that wait for the client; more are left to the kernel, lost and fetched again
_AT_ONCE: Final = 64  # datagrams read before the loop gets its turn
_RECEIVE: Final = 256 << 10
_GONE: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)
Seam = Callable[[bytes], Iterable[bytes]]
"""What becomes of a datagram on its way; tests lose, double and reorder with it."""


class MulticastTransport:
    """The transport ``multicast``; see the module. ``seam`` stands between the socket and the receiver."""

    def __init__(self, seam: Seam | None = None) -> None:
        self._seam = seam

    def local(self, address: Address) -> bool:
        """Whether datagrams stay on this machine: ttl 0."""
        return _ttl(address) == 0

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> MulticastListener:
        """Begin to send to the group; raises UsageError, ServerError where the socket cannot be made."""
        only(address, _KEYS, "server")
        group, port = _group(address)
        carried = Group(_topics(address))
        if not carried.fits:
            raise UsageError("the topics of a multicast group must fit into one datagram", hint="use wildcards")
        interface, ttl = _interface(address), _ttl(address)
        interval = address.number("heartbeat", 1000, 10, 1000) / 1000
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            if options.send_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer)
            if interface is not None:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            sock.connect((group, port))
        except OSError as error:
            sock.close()
            raise ServerError(
                f"cannot send to {address}: {error.strerror}",
                hint="name an interface of this machine, interface=ADDRESS",
            ) from error
        sender = _Sender(sock, f"multicast {group}:{port}", carried, interval)
        sender.start(server)
        return MulticastListener(address, sender)

    async def connect(self, address: Address, options: LinkOptions) -> MulticastLink:
        """Join the group and open the recovery connection; raises as its transport does."""
        recovery = self._recovery(address)
        sock = _join(address, options)
        try:
            link = await transport_of(recovery).connect(recovery, options)
        except BaseException:
            sock.close()
            raise
        return MulticastLink(sock, link, options, self._seam or _as_it_is, address.options.get("source", ""))

    def open(self, address: Address, options: LinkOptions) -> BlockingMulticastLink:
        """Do the same for threads: the merging runs in a thread of its own."""
        return BlockingMulticastLink(lambda: self.connect(address, options))

    @staticmethod
    def _recovery(address: Address) -> Address:
        only(address, _KEYS, "client")
        text = address.options.get("recovery", "")
        if not text:
            raise UsageError(
                f"{str(address)!r} names no recovery address",
                hint="add recovery=tcp:HOST:PORT, a stream address of the same server",
            )
        recovery = Address.parse(text)
        if recovery.scheme == "multicast":
            raise UsageError("the recovery address is a multicast group itself", hint="use tcp, unix or ws")
        return recovery


TRANSPORT: Final = MulticastTransport()


def _as_it_is(data: bytes) -> Iterable[bytes]:
    return (data,)


def _ttl(address: Address) -> int:
    return address.number("ttl", 0, 0, 255)


def _interface(address: Address) -> str | None:
    text = address.options.get("interface")
    if text is None:
        return None
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise UsageError(f"interface={text} is no IPv4 address", hint="the address of the interface") from None


def _group(address: Address) -> tuple[str, int]:
    host, port, _ = address.host_port()
    try:
        group = IPv4Address(host)
    except ValueError:
        group = IPv4Address(0)
    if not group.is_multicast:
        raise UsageError(f"{host} is no IPv4 multicast group", hint="groups of an organization are 239.0.0.0/8")
    if not port:
        raise UsageError(f"{str(address)!r} needs a port: sender and receivers must agree on it")
    return str(group), port


def _topics(address: Address) -> tuple[str, ...]:
    text = address.options.get("topics")
    topics = DEFAULT_TOPICS if text is None else tuple(t.strip() for t in text.split(",") if t.strip())
    if not topics:
        raise UsageError(f"{str(address)!r} names no topics")
    for topic in topics:
        Topic(topic)
    return topics


def _join(address: Address, options: LinkOptions) -> socket.socket:
    group, port = _group(address)
    interface = _interface(address) or "0.0.0.0"
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A burst must find room: what does not is lost and costs a recovery. The system may give less.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer or 4 << 20)
        sock.bind((group, port))  # of this port only datagrams to this group
        members = socket.inet_aton(group) + socket.inet_aton(interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, members)
    except OSError as error:
        sock.close()
        raise ConnectionBrokenError(
            f"cannot join {address}: {error.strerror}", hint="name an interface of this machine, interface=ADDRESS"
        ) from error
    return sock


class MulticastListener:
    """A group that is sent to."""

    def __init__(self, address: Address, sender: _Sender) -> None:
        self.address = address
        self.sender = sender

    async def close(self) -> None:
        """Tell the group that nothing follows, and stop sending."""
        self.sender.close("shutdown")


class _Sender:
    """The server's side of a group: a port whose frames become datagrams."""

    form = "sbe"
    multicast = True

    def __init__(self, sock: socket.socket, peer: str, group: Group, interval: float) -> None:
        self.peer = peer
        self.packets = 0
        self.failed = 0  # datagrams that the system refused for another reason than a full buffer
        self._sock = sock
        self._interval = interval
        self._group = group
        self._backlog: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._closing = False
        self._closed = False
        self._server: ServerSide | None = None
        self._session: Any = None

    def start(self, server: ServerSide) -> None:
        """Become a client of the server."""
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._session = server.opened(self, trusted=True, snapshots=False)
        server.request(self._session, Login("", self.peer))
        # A group is never slow but by a full socket buffer; then the oldest go, and the receivers fetch them.
        server.request(self._session, Subscribe(1, self._group.topics, Policy.DROP_OLDEST, server.hub.limits.queue_max))
        self._timer = self._loop.call_later(self._interval, self._beat)

    @property
    def writable(self) -> bool:
        """Whether no datagram waits for the socket."""
        return not self._backlog and not self._closing

    @property
    def unsent(self) -> int:
        """Bytes of datagrams that wait for the socket."""
        return sum(map(len, self._backlog))

    def send(self, frames: Sequence[bytes]) -> None:
        """Pack frames into datagrams and send them."""
        if self._closing:
            return
        self._backlog.extend(self._group.pack(frames, self._now()))
        self._flush()

    def pause(self) -> None:
        """Do nothing: nothing is read."""

    def resume(self) -> None:
        """Do nothing: nothing is read."""

    def close(self, code: str = "", text: str = "") -> None:
        """Say that nothing follows, and close."""
        if self._closing:
            return
        self._closing = True
        self._backlog.extend(self._group.heartbeat(self._now(), end=True))
        self._flush()
        self._loop.call_soon(self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._closed:
            return
        self._closing = self._closed = True
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self._sock.close()
        self._backlog.clear()
        if self._server is not None:
            self._server.closed(self._session, None)

    def _now(self) -> int:
        assert self._server is not None
        return self._server.hub.now

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._beat)
        if self._server is None or self._closing:
            return
        self._server.request(self._session, Ping(self._now()))
        if not self._backlog:
            self._backlog.extend(self._group.heartbeat(self._now()))
            self._flush()

    def _flush(self) -> None:
        backlog = self._backlog
        while backlog:
            try:
                self._sock.send(backlog[0])
            except OSError as error:
                if error.errno in _GONE:
                    if self._retry is None and not self._closing:
                        # Some systems say that a socket is writable while the interface's queue is full.
                        self._retry = self._loop.call_later(0.001, self._again)
                    return
                self.failed += 1  # no route, or nobody listens (a refusal that came back): receivers see a hole
            else:
                self.packets += 1
            backlog.popleft()

    def _again(self) -> None:
        self._retry = None
        if self._closing or not self._backlog:
            return
        self._flush()
        if not self._backlog and self._server is not None:
            self._server.writable(self._session)


class MulticastLink:
    """A client's side for asyncio: a group and its recovery connection as one stream of frames."""

    def __init__(
        self, sock: socket.socket, link: Link, options: LinkOptions, seam: Seam = _as_it_is, source: str = ""
    ) -> None:
        self.peer = f"{link.peer} and group {sock.getsockname()[0]}:{sock.getsockname()[1]}"
        self.merger = Merger()
        self.broken = 0  # datagrams that could not be read
        self._sock = sock
        self._link = link
        self._seam = seam
        self._source = source
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
        self._reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = [self._loop.create_task(self._receive()), self._loop.create_task(self._send())]
        self._read(True)

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
        if self._ready_bytes < _READY_MAX // 2 and not self._ended:
            self._room.set()
            self._read(True)
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

    def _now(self) -> int:
        return int(self._loop.time() * 1e9)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._read(False)
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self._wake.set()
        self._room.set()

    def _read(self, on: bool) -> None:
        if on != self._reading:
            self._reading = on
            if on:
                self._loop.add_reader(self._sock.fileno(), self._datagrams)
            else:
                self._loop.remove_reader(self._sock.fileno())

    def _datagrams(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, sender = self._sock.recvfrom(65536)
            except BlockingIOError:
                break
            except OSError:
                break  # an error that belongs to another datagram
            if self._source and sender[0] != self._source:
                continue
            for piece in self._seam(data):
                try:
                    self.merger.datagram(unpack(piece), self._now())
                except (FrameError, CmdError):
                    self.broken += 1
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
            if self._ready_bytes > _READY_MAX:
                self._room.clear()
                self._read(False)
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


class BlockingMulticastLink:
    """A client's side for threads, around a loop in a thread of its own."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cmd-multicast", daemon=True)
        self._thread.start()
        self._pending: Future[bytes] | None = None
        self._rest = memoryview(b"")
        self._closed = False
        self._lock = threading.Lock()
        try:
            self._link: MulticastLink = asyncio.run_coroutine_threadsafe(connect(), self._loop).result()
        except BaseException:
            self._stop()
            raise
        self.peer = self._link.peer

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
            future = asyncio.run_coroutine_threadsafe(self._link.send(frame), self._loop)
        future.result()

    def close(self) -> None:
        """Close; wakes a waiting ``receive_into``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._link.close(), self._loop).result()
        if self._pending is not None:
            with contextlib.suppress(Exception):
                self._pending.result(5)
        self._stop()

    async def _chunk(self) -> bytes:
        buffer = bytearray(_RECEIVE)
        size = await self._link.receive_into(memoryview(buffer))
        return bytes(buffer[:size])

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(5)
        if not self._loop.is_running():
            self._loop.close()
