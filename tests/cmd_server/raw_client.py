"""A client made of a bare socket, so that it can misbehave; and what server tests share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from cmd_common.records import BookSnapshot, Trade, pack_levels
from cmd_server import codec
from cmd_server.framing import Splitter
from cmd_server.messages import Login, Policy, Service, Subscribe, Template
from cmd_server.transport import Address

DEADLINE = 60.0  # s; a wait ends as soon as what it waits for is there
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine in one of the two kinds of loops."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(main, 2 * DEADLINE))


async def until(what: Callable[[], Any], why: str = "") -> None:
    """Wait until something is true."""
    end = asyncio.get_running_loop().time() + DEADLINE
    while not what():
        assert asyncio.get_running_loop().time() < end, why or "it never happened"
        await asyncio.sleep(0.002)


def trade(n: int, symbol: str = "A", venue: str = "v") -> Trade:
    return Trade(n + 1, n + 2, venue, symbol, str(n), n, 100.0 + n, 1.0, "buy")


def big_book(n: int, levels: int = 2_000, symbol: str = "B") -> BookSnapshot:
    side = pack_levels([(100.0 - i / 64 - n / 4096, 1.0 + n) for i in range(levels)])
    return BookSnapshot(n + 1, n + 2, "v", symbol, n + 1, n, levels, 0, side, b"")


class Raw:
    """One bare connection. ``services`` and ``heads`` are what came, in order; ``frames`` all of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ended = False
        self.received = 0
        self.frames: list[bytes] = []
        self._splitter = Splitter()

    @classmethod
    async def connect(cls, address: Address, *, receive_buffer: int = 0) -> Raw:
        if address.scheme == "unix":
            family, place = socket.AF_UNIX, address.target
            target: Any = "\0" + place[1:] if place.startswith("@") else place
        else:
            host, port, _ = address.host_port()
            family, target = socket.AF_INET, (host, port)
        sock = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, target)
        except OSError:
            sock.close()
            raise
        return cls(sock)

    async def send(self, *data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(data))

    async def login(self, *topics: str, policy: Policy = Policy.CONFLATE, queue: int = 0, token: str = "") -> None:
        frames = [codec.encode_request(Login(token, "raw"))]
        if topics:
            frames.append(codec.encode_request(Subscribe(1, topics, policy, queue)))
        await self.send(*frames)

    async def read(self) -> bool:
        """Read once; False at the end of the stream."""
        try:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), DEADLINE)
        except ConnectionError:
            data = b""
        self.received += len(data)
        self.ended = not data
        self.frames += [bytes(f) for f in self._splitter.feed(data)]
        return bool(data)

    async def read_until(self, what: Callable[[Raw], Any]) -> None:
        while not what(self):
            assert await self.read() or what(self), f"the stream ended: {self.templates}"

    async def read_to_end(self) -> None:
        while await self.read():
            pass

    async def messages(self, template: Template, count: int = 1) -> list[bytes]:
        """Read until so many messages of a kind came; all of that kind."""
        await self.read_until(lambda raw: len(raw.of(template)) >= count)
        return self.of(template)

    async def service(self, template: Template) -> Any:
        """Read until one message of the server came; the first of its kind."""
        return codec.decode_service((await self.messages(template))[0])

    def of(self, template: Template) -> list[bytes]:
        return [f for f in self.frames if codec.head(f).template == template]

    @property
    def templates(self) -> list[int]:
        return [codec.head(f).template for f in self.frames]

    @property
    def services(self) -> list[Service]:
        return [codec.decode_service(f) for f in self.frames if codec.head(f).template >= Template.HELLO]

    def close(self) -> None:
        self.sock.close()
