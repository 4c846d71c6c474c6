"""Sockets over virtual time: what the server's channels and the clients' links use instead of the system's.

Bytes arrive later, in order, in other pieces than they were sent in; buffers are small; a send takes what it likes or
nothing; connections are cut, frozen and refused. ``SimLoop`` watches them as a selector would. Everything above them
is the real thing: listener, channel, send buffer, port, server, hub; link, client.
"""

from __future__ import annotations

import errno
import random
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from cmd_common.testing.virtual import VirtualLoop
from cmd_server.errors import ConnectionBrokenError
from cmd_server.links import SocketLink
from cmd_server.sockets import SocketListener, port_maker
from cmd_server.transport import Address, Link, LinkOptions, ListenOptions, ServerSide

MS = 1_000_000


class SimLoop(VirtualLoop):
    """A virtual loop with readers and writers, level-triggered."""

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.sockets: dict[int, SimSocket] = {}
        self._reads: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self._writes: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self._poked: set[int] = set()

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        self._reads[fd] = (callback, args)
        self.poke(fd)

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        return self._reads.pop(fd, None) is not None

    def add_writer(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        self._writes[fd] = (callback, args)
        self.poke(fd)

    def remove_writer(self, fd: int) -> bool:  # type: ignore[override]
        return self._writes.pop(fd, None) is not None

    def poke(self, fd: int) -> None:
        """Look at a socket soon."""
        if fd not in self._poked:
            self._poked.add(fd)
            self.call_soon(self._look, fd)

    def _look(self, fd: int) -> None:
        self._poked.discard(fd)
        for watched, able in ((self._reads, "readable"), (self._writes, "writable")):
            sock = self.sockets.get(fd)
            found = watched.get(fd)
            if sock is not None and found is not None and getattr(sock, able)():
                self.poke(fd)
                found[0](*found[1])


class SimNet:
    """One network: a place to listen at, and its faults."""

    def __init__(self, loop: SimLoop, rng: random.Random, *, capacity: int, partial: float, again: float) -> None:
        self.loop = loop
        self.rng = rng
        self.capacity = capacity
        self.partial = partial
        self.again = again
        self.listener: SimSocket | None = None
        self.server: list[SimSocket] = []  # the server's ends
        self.connections = 0
        self.bytes = 0
        self._fd = 100

    def socket(self) -> SimSocket:
        self._fd += 1
        sock = SimSocket(self, self._fd)
        self.loop.sockets[self._fd] = sock
        return sock

    def connect(self) -> SimSocket:
        listener = self.listener
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there")
        near, far = self.socket(), self.socket()
        near.peer, far.peer = far, near
        self.connections += 1
        self.server.append(far)
        listener.backlog.append(far)
        self.loop.poke(listener.fd)
        return near

    def send_all(self, fds: list[int], data: bytes) -> list[int] | None:
        """What cmd-native's call of that name does to descriptors: None, or bytes taken or minus an error of each."""
        found = [self._offer(self.loop.sockets[fd], data) for fd in fds]
        return None if all(taken == len(data) for taken in found) else found

    @staticmethod
    def _offer(sock: SimSocket, data: bytes) -> int:
        try:
            return sock.send(memoryview(data))
        except BlockingIOError:
            return -errno.EAGAIN
        except OSError as error:
            return -(error.errno or errno.EIO)

    def open(self) -> list[SimSocket]:
        self.server = [s for s in self.server if s.alive]
        return self.server

    def crash(self) -> None:
        """The server's process is gone: its sockets are reset, and none of its callbacks is called any more."""
        for sock in [*self.open(), *([self.listener] if self.listener else [])]:
            self.loop.remove_reader(sock.fd)
            self.loop.remove_writer(sock.fd)
            sock.reset()
            sock.gone()
        self.listener = None
        self.server.clear()


class SimSocket:
    """One end of a connection, or a listening socket."""

    family = socket.AF_UNIX

    def __init__(self, net: SimNet, fd: int) -> None:
        self.net = net
        self.fd = fd
        self.peer: SimSocket | None = None
        self.backlog: deque[SimSocket] = deque()
        self.alive = True
        self.frozen_until = 0
        self._arrived = bytearray()
        self._coming: deque[tuple[int, bytes | None]] = deque()  # None: the end
        self._used = 0  # bytes on their way to this end, or not read by it
        self._due = 0
        self._end = self._broken = self._shut = False

    # what the selector sees

    def frozen(self) -> bool:
        return self.frozen_until > self.net.loop.ns

    def readable(self) -> bool:
        if self.backlog:
            return True
        return not self.frozen() and bool(self._arrived or self._end or self._broken)

    def writable(self) -> bool:
        peer = self.peer
        return self._broken or (peer is not None and not self.frozen() and peer._used < self.net.capacity)

    # what a socket does

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def fileno(self) -> int:
        return self.fd if self.alive else -1

    def accept(self) -> tuple[SimSocket, str]:
        if not self.backlog:
            raise BlockingIOError
        sock = self.backlog.popleft()
        return sock, f"client {sock.fd}"

    def send(self, data: memoryview) -> int:
        net, peer = self.net, self.peer
        if self._broken or peer is None:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if self._shut:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        room = net.capacity - peer._used
        if room <= 0 or self.frozen() or net.rng.random() < net.again:
            raise BlockingIOError
        n = min(len(data), room)
        if n > 1 and net.rng.random() < net.partial:
            n = net.rng.randint(1, n)
        peer._take(bytes(data[:n]))
        net.bytes += n
        return n

    def _take(self, data: bytes | None) -> None:
        loop = self.net.loop
        self._due = max(self._due, loop.ns + self.net.rng.randint(0, 3 * MS))
        self._coming.append((self._due, data))
        self._used += len(data or b"")
        loop.call_at_ns(max(self._due, self.frozen_until), self._arrive)

    def _arrive(self) -> None:
        now = self.net.loop.ns
        while self._coming and self._coming[0][0] <= now:
            data = self._coming.popleft()[1]
            if data is None:
                self._end = True
            else:
                self._arrived += data
        self.net.loop.poke(self.fd)

    def recv_into(self, buffer: memoryview) -> int:
        if self._arrived and not self.frozen():
            n = min(len(buffer), len(self._arrived))
            if n > 1 and self.net.rng.random() < self.net.partial:
                n = self.net.rng.randint(1, n)
            buffer[:n] = self._arrived[:n]
            del self._arrived[:n]
            self._used -= n
            if self.peer is not None:
                self.net.loop.poke(self.peer.fd)
            return n
        if self._broken:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if self._end and not self.frozen():
            return 0
        raise BlockingIOError

    def shutdown(self, how: int) -> None:
        if self._broken:
            raise OSError(errno.ENOTCONN, "not connected")
        if not self._shut:
            self._shut = True
            if self.peer is not None:
                self.peer._take(None)

    def close(self) -> None:
        if not self.alive:
            return
        if self.peer is not None and not self._broken:
            if self._arrived or self._coming:
                self.peer.reset()  # what was not read: the system answers with a reset
            elif not self._shut:
                self.shutdown(socket.SHUT_WR)
        self.gone()

    def gone(self) -> None:
        self.alive = False
        self._broken = True
        self.net.loop.sockets.pop(self.fd, None)

    # faults

    def reset(self) -> None:
        """Cut the connection: what is on its way is lost."""
        for end in (self, self.peer):
            if end is not None and end.alive:
                end._broken = True
                end._coming.clear()
                end._arrived.clear()
                self.net.loop.poke(end.fd)

    def freeze(self, ns: int) -> None:
        """Neither read nor write for a while, as if its process stood still."""
        self.frozen_until = self.net.loop.ns + ns
        self.net.loop.call_at_ns(self.frozen_until, self.net.loop.poke, self.fd)
        if self.peer is not None:
            self.net.loop.call_at_ns(self.frozen_until, self.net.loop.poke, self.peer.fd)


class SimTransport:
    """The transport ``sim``: the server's listener and channels, and the client's links, over such sockets."""

    def __init__(self, net: SimNet) -> None:
        self.net = net

    def local(self, address: Address) -> bool:
        return True

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> SocketListener:
        sock = self.net.listener = self.net.socket()
        return SocketListener(address, sock, port_maker(server), options, peer=lambda _, name: str(name))  # type: ignore[arg-type]

    async def connect(self, address: Address, options: LinkOptions) -> Link:
        try:
            sock = self.net.connect()
        except OSError as error:
            raise ConnectionBrokenError(f"{address}: {error.strerror}") from error
        return SocketLink(sock, str(address))  # type: ignore[arg-type]

    def open(self, address: Address, options: LinkOptions) -> Any:
        raise NotImplementedError
