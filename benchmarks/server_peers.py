"""Publishers and clients that the server is measured against, and the server itself, behind one interface.

A publisher takes records and delivers their frames to every client. ``ours`` is hub and server as they are; the
others send frames that are ready, so that they are measured without routing, sequence or encoding:

    zmq             pyzmq XPUB, no high-water mark: its own thread joins messages and writes
    zmq_records     the same from records, encoded by our codec: what a program without the server would do
    streams         asyncio streams, one ``write`` a message and client, ``drain`` after each burst
    joined          the same with one ``write`` a burst and client, as somebody who measured would do
    uvloop          an asyncio Protocol on uvloop, one ``transport.write`` a message and client
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from server_work import FRAME, READ, STAMP, TOPIC, Sink, instrument, login, plug

from cmd_common.records import Trade
from cmd_server.codec import encode


class Publisher(Protocol):
    async def open(self, address: str) -> None: ...
    def clients(self) -> int: ...
    def send(self, records: Sequence[Trade], frames: Sequence[bytes]) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...


class Ours:
    """Hub and server, nothing left out."""

    def __init__(self, queue: int = 0) -> None:
        from cmd_server.limits import Limits
        from cmd_server.server import Server

        self.server = Server(limits=Limits(queue=queue, queue_max=queue) if queue else Limits())

    async def open(self, address: str) -> None:
        self.server.publish([instrument()])
        await self.server.listen_all(address.split(","))

    def clients(self) -> int:
        return len(self.server.sessions)

    def send(self, records: Sequence[Trade], frames: Sequence[bytes]) -> None:
        self.server.publish(records)

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        await self.server.close()


class Zmq:
    """ZeroMQ's PUB/SUB; XPUB, so that subscriptions can be counted."""

    def __init__(self, high_water: int = 0, encoding: bool = False) -> None:
        import zmq

        self.encoding = encoding
        self.seq = 0
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.SNDHWM, high_water)
        self.socket.setsockopt(zmq.LINGER, 5_000)
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # every subscription is told, not only the first of a topic
        self.nothing = zmq.Again
        self.noblock = zmq.NOBLOCK
        self.count = 0

    async def open(self, address: str) -> None:
        for text in address.split(","):
            self.socket.bind(zmq_address(text))

    def clients(self) -> int:
        with contextlib.suppress(self.nothing):
            while True:
                self.socket.recv(self.noblock)
                self.count += 1
        return self.count

    def send(self, records: Sequence[Trade], frames: Sequence[bytes]) -> None:
        send = self.socket.send
        if self.encoding:
            for seq, record in enumerate(records, self.seq + 1):
                send(encode(record, 1, seq))
            self.seq += len(records)
            return
        for frame in frames:
            send(frame)

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        self.socket.close()
        self.context.term()


class Streams:
    """asyncio streams."""

    def __init__(self, joined: bool = False) -> None:
        self.joined = joined
        self.writers: list[asyncio.StreamWriter] = []
        self.servers: list[asyncio.Server] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)

    async def open(self, address: str) -> None:
        for text in address.split(","):
            scheme, _, target = text.partition(":")
            if scheme == "unix":
                self.servers.append(await asyncio.start_unix_server(self._serve, target))
            else:
                host, _, port = target.rpartition(":")
                self.servers.append(await asyncio.start_server(self._serve, host, int(port)))

    def clients(self) -> int:
        return len(self.writers)

    def send(self, records: Sequence[Trade], frames: Sequence[bytes]) -> None:
        if self.joined:
            data = b"".join(frames)
            for writer in self.writers:
                writer.write(data)
            return
        for frame in frames:
            for writer in self.writers:
                writer.write(frame)

    async def drain(self) -> None:
        for writer in self.writers:
            await writer.drain()

    async def close(self) -> None:
        for server in self.servers:
            server.close()
        for writer in self.writers:
            writer.close()


class Transports(asyncio.Protocol):
    """A bare Protocol; with uvloop what it writes in one turn of the loop goes out together."""

    def __init__(self) -> None:
        self.transports: list[Any] = []
        self.servers: list[asyncio.AbstractServer] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.set_write_buffer_limits(1 << 30)  # type: ignore[attr-defined]
        self.transports.append(transport)

    def connection_lost(self, error: Exception | None) -> None:
        pass

    async def open(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        for text in address.split(","):
            scheme, _, target = text.partition(":")
            if scheme == "unix":
                self.servers.append(await loop.create_unix_server(lambda: self, target))
            else:
                host, _, port = target.rpartition(":")
                self.servers.append(await loop.create_server(lambda: self, host, int(port)))

    def clients(self) -> int:
        return len(self.transports)

    def send(self, records: Sequence[Trade], frames: Sequence[bytes]) -> None:
        for frame in frames:
            for transport in self.transports:
                transport.write(frame)

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        for server in self.servers:
            server.close()
        for transport in self.transports:
            transport.close()


PUBLISHERS: dict[str, Callable[[], Any]] = {
    "ours": lambda: Ours(1_000_000),
    "ours_pure": lambda: Ours(1_000_000),
    "ours_uvloop": lambda: Ours(1_000_000),
    "zmq": Zmq,
    "zmq_records": lambda: Zmq(encoding=True),
    "streams": Streams,
    "joined": lambda: Streams(joined=True),
    "uvloop": Transports,
}
ON_UVLOOP = ("ours_uvloop", "uvloop")


def run_on(kind: str, work: Coroutine[Any, Any, Any]) -> Any:
    """Run on the loop that the competitor is measured on."""
    if kind in ON_UVLOOP:
        import uvloop

        return uvloop.run(work)
    return asyncio.run(work)


async def line_from_stdin() -> None:
    """Wait until whoever started this process says a line."""
    loop = asyncio.get_running_loop()
    said = loop.create_future()
    loop.add_reader(0, lambda: said.done() or said.set_result(sys.stdin.readline()))
    await said
    loop.remove_reader(0)


def zmq_address(address: str) -> str:
    scheme, _, target = address.partition(":")
    return f"ipc://{target}" if scheme == "unix" else f"tcp://{target}"


def is_ours(kind: str) -> bool:
    return kind.startswith("ours")


# -- clients that only count and keep, in a process of their own


class Counter:
    """One SUB socket: keeps every frame."""

    def __init__(self, context: Any, address: str, *, keep: bool, high_water: int) -> None:
        import zmq

        self.socket = context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, high_water)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(zmq_address(address))
        self.keep, self.seen, self.data, self.bad = keep, 0, [], ""
        self.last = 0

    verify = Sink.verify

    def read(self) -> None:
        import zmq

        receive = self.socket.recv
        with contextlib.suppress(zmq.Again):
            while True:
                frame = receive(zmq.NOBLOCK)
                self.seen += 1
                if self.keep:
                    self.data.append(frame)
                else:
                    seq = int.from_bytes(frame[14:22], "little")
                    if seq != self.last + 1:
                        self.bad = self.bad or f"sequence {seq} after {self.last}"
                    self.last = seq


def sinks(
    kind: str,
    addresses: Sequence[str],
    count: int,
    *,
    keep: bool,
    high_water: int,
    said: Callable[[], None],
    ask: bytes = b"",
) -> Any:
    """Open ``count`` clients, call ``said`` once the server knows all, and return (clients, pump).

    ``pump(seconds)`` reads what is there; it is False once every connection is closed. ``ask`` is what a client of
    ours says first.
    """
    if kind.startswith("zmq"):
        import zmq

        context = zmq.Context()
        counters = [
            Counter(context, addresses[n % len(addresses)], keep=keep, high_water=high_water) for n in range(count)
        ]
        poller = zmq.Poller()
        by_socket = {counter.socket: counter for counter in counters}
        for counter in counters:
            poller.register(counter.socket, zmq.POLLIN)
        said()

        def pump_zmq(seconds: float) -> bool:
            for ready, _ in poller.poll(seconds * 1000):
                by_socket[ready].read()
            return True

        return counters, pump_zmq
    import selectors

    selector = selectors.DefaultSelector()
    found = []
    for n in range(count):
        sock = plug(addresses[n % len(addresses)])
        sink = Sink(sock, keep=keep)
        found.append(sink)
        if is_ours(kind):
            sock.sendall(ask or login())
            while sink.acks < 2 and not sink.bad:
                if not sink.read():
                    raise SystemExit("the server closed a connection at login")
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, sink)
    said()

    def pump(seconds: float) -> bool:
        for key, _ in selector.select(seconds):
            if not key.data.read():
                selector.unregister(key.fileobj)
        return bool(selector.get_map())

    return found, pump


# -- clients whose latency is measured: each appends (now - stamp) for every message of trades


def latency_client(kind: str, address: str, count: int, said: Callable[[], None]) -> list[int]:
    """Return the one-way latencies in ns of ``count`` messages in order."""
    now = time.time_ns
    found: list[int] = []
    if kind == "zmq":
        import zmq

        context = zmq.Context()
        sock = context.socket(zmq.SUB)
        sock.setsockopt(zmq.SUBSCRIBE, b"")
        sock.connect(zmq_address(address))
        said()
        for n in range(count):
            frame = sock.recv()
            found.append(now() - STAMP(frame, 30)[0])
            check(frame, n + 1)
        return found
    if kind == "streams":
        return asyncio.run(_streams_client(address, count, said))
    if kind in ON_UVLOOP and not is_ours(kind):
        import uvloop

        return uvloop.run(_protocol_client(address, count, said))  # type: ignore[no-any-return]
    if kind == "ours_raw":
        return _raw_client(address, count, said)
    return _library_client(address, count, said)


def check(frame: bytes | memoryview, seq: int) -> None:
    got = int.from_bytes(frame[14:22], "little")
    if got != seq or len(frame) != FRAME:
        raise SystemExit(f"message {seq} came as {got}, {len(frame)} bytes")


async def _streams_client(address: str, count: int, said: Callable[[], None]) -> list[int]:
    now, found = time.time_ns, []
    scheme, _, target = address.partition(":")
    if scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(target)
    else:
        host, _, port = target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    said()
    for n in range(count):
        frame = await reader.readexactly(FRAME)
        found.append(now() - STAMP(frame, 30)[0])
        check(frame, n + 1)
    writer.close()
    return found


class _Receiver(asyncio.Protocol):
    def __init__(self, count: int) -> None:
        self.count, self.rest, self.found = count, b"", []
        self.done = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        data = self.rest + data if self.rest else data
        at = 0
        while len(data) - at >= FRAME:
            self.found.append(time.time_ns() - STAMP(data, at + 30)[0])
            check(data[at : at + FRAME], len(self.found))
            at += FRAME
        self.rest = data[at:]
        if len(self.found) >= self.count and not self.done.done():
            self.done.set_result(None)


async def _protocol_client(address: str, count: int, said: Callable[[], None]) -> list[int]:
    loop = asyncio.get_running_loop()
    receiver = _Receiver(count)
    scheme, _, target = address.partition(":")
    if scheme == "unix":
        await loop.create_unix_connection(lambda: receiver, target)
    else:
        host, _, port = target.rpartition(":")
        await loop.create_connection(lambda: receiver, host, int(port))
    said()
    await receiver.done
    return receiver.found


def _raw_client(address: str, count: int, said: Callable[[], None]) -> list[int]:
    """A socket, one buffer, and the library's split: what the client library stands on."""
    from cmd_server import codec, framing
    from cmd_server.messages import Template

    now, found, told = time.time_ns, [], 0
    sock = plug(address)
    sock.sendall(login())
    buffer = memoryview(bytearray(READ))
    end = 0
    while len(found) < count:
        size = sock.recv_into(buffer[end:])
        if not size:
            raise SystemExit(f"the server closed after {len(found)} messages")
        end += size
        spans, used = framing.split(buffer, end, 1 << 20)
        for start, stop in spans:
            frame = buffer[start:stop]
            head = codec.head(frame)
            if head.template == Template.TRADE:
                found.append(now() - head.ts_recv)
                check(frame, len(found))
            elif head.template == Template.ACK:
                told += 1
                if told == 2:
                    said()
        buffer[: end - used] = buffer[used:end]
        end -= used
    return found


def _library_client(address: str, count: int, said: Callable[[], None]) -> list[int]:
    """The client library: decoded records."""
    from cmd_server.client import connect

    now, found = time.time_ns, []
    with connect(address, topics=[TOPIC], policy="disconnect", queue=100_000) as client:
        said()
        before = 0
        for record in client:
            if type(record) is not Trade:
                continue
            found.append(now() - record.ts_recv)
            assert record.trade_seq is not None
            if before and record.trade_seq != before + 1:
                raise SystemExit(f"trade {record.trade_seq} after {before}")
            before = record.trade_seq
            if len(found) == count:
                break
    return found
