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
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Final

from cmd_common.errors import UsageError

from .errors import ConnectionBrokenError, ServerError
from .group import Group
from .group_link import BlockingGroupLink, GroupLink, Seam, as_it_is
from .group_sender import GroupSender
from .topics import Topic
from .transport import Address, LinkOptions, ListenOptions, ServerSide, only, transport_of

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
_AT_ONCE: Final = 64  # datagrams read before the loop gets its turn
_GONE: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


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

    async def connect(self, address: Address, options: LinkOptions) -> GroupLink:
        """Join the group and open the recovery connection; raises as its transport does."""
        recovery = self._recovery(address)
        sock = _join(address, options)
        try:
            link = await transport_of(recovery).connect(recovery, options)
        except BaseException:
            sock.close()
            raise
        return GroupLink(_Socket(sock, address.options.get("source", "")), link, options, self._seam or as_it_is)

    def open(self, address: Address, options: LinkOptions) -> BlockingGroupLink:
        """Do the same for threads: the merging runs in a thread of its own."""
        return BlockingGroupLink(lambda: self.connect(address, options))

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


class _Sender(GroupSender):
    """The server's side of a group: packets become datagrams."""

    def __init__(self, sock: socket.socket, peer: str, group: Group, interval: float) -> None:
        super().__init__(peer, group, interval)
        self._sock = sock

    def _put(self, backlog: deque[bytes]) -> float:
        while backlog:
            try:
                self._sock.send(backlog[0])
            except OSError as error:
                if error.errno in _GONE:
                    return 0.001  # some systems say that a socket is writable while the interface's queue is full
                self.failed += 1  # no route, or nobody listens (a refusal that came back)
            else:
                self.packets += 1
            backlog.popleft()
        return 0

    def _release(self) -> None:
        self._sock.close()


class _Socket:
    """A socket that has joined a group, as a source of packets; with ``source`` only of those from one address."""

    def __init__(self, sock: socket.socket, source: str = "") -> None:
        host, port = sock.getsockname()
        self.name = f"group {host}:{port}"
        self._sock = sock
        self._source = source
        self._reading = False
        self._loop = asyncio.get_running_loop()

    def start(self, take: Callable[[Sequence[bytes]], None], deaf: Callable[[], None]) -> None:
        """Begin to read; a group is silent rather than deaf."""
        self._take = take
        self.read(True)

    def read(self, on: bool) -> None:
        """Leave datagrams to the kernel, or read them again."""
        if on != self._reading:
            self._reading = on
            if on:
                self._loop.add_reader(self._sock.fileno(), self._datagrams)
            else:
                self._loop.remove_reader(self._sock.fileno())

    def stop(self) -> None:
        """Leave the group."""
        self.read(False)
        self._sock.close()

    async def close(self) -> None:
        """Do nothing: it is closed."""

    def _datagrams(self) -> None:
        found: list[bytes] = []
        for _ in range(_AT_ONCE):
            try:
                data, sender = self._sock.recvfrom(65536)
            except OSError:
                break  # nothing waits, or an error that belongs to another datagram
            if not self._source or sender[0] == self._source:
                found.append(data)
        self._take(found)
