"""Ways for messages of 64 bytes from one process to others, for benchmarks/aeron_run.py.

A way has a sender, which gives away bursts or single messages, and a reader, which calls ``take`` with every batch
until that returns False. Only the standard library and the package that is measured are imported.
"""

# ruff: noqa: ASYNC110, ASYNC251  one thing at a time, and what waits shall wait

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SIZE = 64
POOL = 20_000  # different messages, sent again and again
BURST = 1_000  # messages that a sender gives away at once
READ = 1 << 18
STREAM = 1001
TERM = "term-length=16m"
CHANNELS = {
    "aeron": f"aeron:ipc?{TERM}",
    "aeron_call": f"aeron:ipc?{TERM}",
    "aeron_poll": f"aeron:ipc?{TERM}",
    "aeron_claim": f"aeron:ipc?{TERM}",
    "aeron_joined": f"aeron:ipc?{TERM}",
    "aeron_low-cpu": f"aeron:ipc?{TERM}",
    "aeron_balanced": f"aeron:ipc?{TERM}",
    "aeron_spin": f"aeron:ipc?{TERM}",
    "pyaeron": f"aeron:ipc?{TERM}",
    "aeron_udp": f"aeron:udp?endpoint=127.0.0.1:PORT|{TERM}",
    "aeron_udp8k": f"aeron:udp?endpoint=127.0.0.1:PORT|{TERM}|mtu=8k",
}


def pool() -> list[bytes]:
    filling = bytes(range(33, 33 + SIZE - 8))
    return [n.to_bytes(8, "little") + filling for n in range(POOL)]


def cut(data: bytes) -> tuple[list[bytes], bytes]:
    """Messages and what is left of the last."""
    whole = len(data) - len(data) % SIZE
    return [data[at : at + SIZE] for at in range(0, whole, SIZE)], data[whole:]


def bursts(count: int) -> Iterator[list[bytes]]:
    """What is to be sent: parts of the pool, in turn."""
    made = pool()
    parts = [made[n : n + BURST] for n in range(0, POOL, BURST)]
    left, number = count, 0
    while left:
        part = parts[number % len(parts)]
        yield part if left >= BURST else part[:left]
        left -= min(left, BURST)
        number += 1


def connect(place: str) -> socket.socket:
    scheme, _, target = place.partition(":")
    if scheme == "unix":
        made = socket.socket(socket.AF_UNIX)
        made.connect(target)
        return made
    host, _, port = target.rpartition(":")
    made = socket.create_connection((host, int(port)))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


# -- the sending side


class Sender:
    """How messages go out: ``send`` a burst, ``one`` message at once."""

    place = ""  # what a reader has to know
    later = False  # readers have to be there first

    def __init__(self, kind: str, readers: int, folder: str) -> None:
        raise NotImplementedError

    async def accept(self) -> None:
        """Wait until all readers are there."""

    async def send(self, part: Sequence[bytes]) -> None:
        raise NotImplementedError

    def one(self, message: bytes) -> None:
        raise NotImplementedError


class SocketSender(Sender):
    """Blocking sockets, a call a message."""

    def __init__(self, kind: str, readers: int, folder: str) -> None:
        self.readers = readers
        if "tcp" in kind:
            self.listening = socket.create_server(("127.0.0.1", 0))
            self.place = f"tcp:127.0.0.1:{self.listening.getsockname()[1]}"
        else:
            self.place = f"unix:{folder}/s.sock"
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(f"{folder}/s.sock")
            self.listening.listen()

    async def accept(self) -> None:
        self.sockets = [self.listening.accept()[0] for _ in range(self.readers)]
        for sock in self.sockets:
            if sock.family is not socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.calls = [sock.sendall for sock in self.sockets]

    async def send(self, part: Sequence[bytes]) -> None:
        calls = self.calls
        for message in part:
            for call in calls:
                call(message)

    def one(self, message: bytes) -> None:
        for call in self.calls:
            call(message)


class StreamSender(Sender):
    """asyncio: ``write`` a message and reader, ``drain`` a burst; ``joined``: the burst joined by hand."""

    def __init__(self, kind: str, readers: int, folder: str) -> None:
        self.kind, self.readers = kind, readers
        self.writers: list[asyncio.StreamWriter] = []
        self.path = f"{folder}/s.sock"
        if "tcp" in kind:
            self.listening = socket.create_server(("127.0.0.1", 0))
            self.place = f"tcp:127.0.0.1:{self.listening.getsockname()[1]}"
        else:
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(self.path)
            self.listening.listen()
            self.place = f"unix:{self.path}"

    async def accept(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers.append(writer)

        begin = asyncio.start_unix_server if self.listening.family is socket.AF_UNIX else asyncio.start_server
        self.server = await begin(serve, sock=self.listening)
        while len(self.writers) < self.readers:
            await asyncio.sleep(0.001)
        self.calls = [writer.write for writer in self.writers]

    async def send(self, part: Sequence[bytes]) -> None:
        calls = self.calls
        if self.kind.endswith("joined"):
            data = b"".join(part)
            for call in calls:
                call(data)
        else:
            for message in part:
                for call in calls:
                    call(message)
        for writer in self.writers:
            await writer.drain()

    def one(self, message: bytes) -> None:
        for call in self.calls:
            call(message)


class AeronSender(Sender):
    """A publication of ours: lists (``aeron``), a call a message (``_call``), claimed buffers (``_claim``), ``joined``."""

    later = True

    def __init__(self, kind: str, readers: int, folder: str) -> None:
        import cmd_aeron

        self.kind, self.readers, self.folder = kind, readers, folder
        self.client = cmd_aeron.Client(folder)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
            found.bind(("127.0.0.1", 0))
            self.place = CHANNELS[kind].replace("PORT", str(found.getsockname()[1]))

    async def accept(self) -> None:
        self.publication = self.client.add_exclusive_publication(self.place, STREAM)
        while not self.publication.connected:
            time.sleep(0.001)
        self.call = self.publication.offer

    async def send(self, part: Sequence[bytes]) -> None:
        if self.kind == "aeron_call":
            offer = self.call
            for message in part:
                while offer(message) < 0:
                    time.sleep(0.000_05)
        elif self.kind == "aeron_claim":
            for message in part:
                while isinstance(claim := self.publication.try_claim(SIZE), int):
                    time.sleep(0.000_05)
                memoryview(claim)[:] = message
                claim.commit()
        elif self.kind == "aeron_joined":
            data = b"".join(part)
            while self.call(data) < 0:
                time.sleep(0.000_05)
        else:
            offer_many, at = self.publication.offer_many, 0
            while True:
                at += offer_many(part, at)[0]
                if at == len(part):
                    break
                time.sleep(0.000_05)

    def one(self, message: bytes) -> None:
        while self.call(message) < 0:
            pass


class PyaeronSender(Sender):
    later = True

    def __init__(self, kind: str, readers: int, folder: str) -> None:
        import pyaeron

        self.client = pyaeron.Aeron(dir=folder)
        self.place = CHANNELS[kind]

    async def accept(self) -> None:
        self.publication = self.client.add_exclusive_publication(self.place, STREAM)
        self.publication.await_connected()
        self.call = self.publication.offer

    async def send(self, part: Sequence[bytes]) -> None:
        offer = self.call
        for message in part:
            while not offer(message):
                time.sleep(0.000_05)

    def one(self, message: bytes) -> None:
        while not self.call(message):
            pass


def sender_of(kind: str) -> type[Sender]:
    if kind.startswith("aeron"):
        return AeronSender
    if kind.startswith("pyaeron"):
        return PyaeronSender
    return StreamSender if kind.startswith("asyncio") else SocketSender


# -- the reading side: calls ``take`` with every batch until it is told that this was all


Take = Callable[[Sequence[bytes]], bool]
Ready = Callable[[], None]


def read(kind: str, place: str, folder: str, take: Take, ready: Ready, spinning: bool = False) -> None:
    """Read from ``place`` until ``take`` returns False; ``ready`` is called when nothing is missed any more.

    ``spinning``: a reader that has no way to wait of its own does not leave the CPU.
    """
    if kind.startswith("pyaeron"):
        _read_pyaeron(place, folder, take, ready, spinning)
    elif kind.startswith("aeron"):
        _read_aeron(kind, place, folder, take, ready)
    elif kind.startswith("asyncio"):
        asyncio.run(_read_asyncio(place, take, ready))
    else:
        _read_socket(place, take, ready)


def _read_socket(place: str, take: Take, ready: Ready) -> None:
    sock = connect(place)
    ready()
    rest = b""
    going = True
    while going:
        data = sock.recv(READ)
        if not data:
            raise SystemExit("the other side has closed")
        batch, rest = cut(rest + data if rest else data)
        going = not batch or take(batch)


class _Receiver(asyncio.Protocol):
    def __init__(self, take: Take) -> None:
        self.take, self.rest = take, b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        batch, self.rest = cut(self.rest + data if self.rest else data)
        if batch and not self.take(batch) and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or EOFError("the other side has closed"))


async def _read_asyncio(place: str, take: Take, ready: Ready) -> None:
    receiver = _Receiver(take)
    sock = connect(place)
    sock.setblocking(False)
    make = asyncio.get_running_loop()
    if sock.family is socket.AF_UNIX:
        await make.create_unix_connection(lambda: receiver, sock=sock)
    else:
        await make.create_connection(lambda: receiver, sock=sock)
    ready()
    await receiver.done


def _read_aeron(kind: str, place: str, folder: str, take: Take, ready: Ready) -> None:
    import cmd_aeron

    client = cmd_aeron.Client(folder)
    subscription = client.add_subscription(place.partition(f"|{TERM}")[0].partition(f"?{TERM}")[0], STREAM)
    ready()
    idle = kind.partition("_")[2]
    idle = idle if idle in cmd_aeron.IDLE else "balanced"
    if kind == "aeron_joined":
        while not (found := subscription.poll_wait(1_000_000_000)) or take(cut(b"".join(found))[0]):
            pass
    elif kind == "aeron_poll":  # as one who has to look elsewhere too
        poll = subscription.poll
        while not (batch := poll(1_000)) or take(batch):
            if not batch:
                time.sleep(0.000_05)
    else:
        wait = subscription.poll_wait
        while not (batch := wait(1_000_000_000, 1_000, idle)) or take(batch):
            pass
    subscription.close()
    client.close()


def _read_pyaeron(place: str, folder: str, take: Take, ready: Ready, spinning: bool) -> None:
    """What pyaeron has: a call for each message, in which its bytes are copied as ours are."""
    import pyaeron

    client = pyaeron.Aeron(dir=folder)
    subscription = client.add_subscription("aeron:ipc", STREAM)
    ready()
    batch: list[bytes] = []
    add = batch.append

    def handler(buffer: Any, header: Any) -> None:
        add(bytes(buffer))

    poll = subscription.poll
    while True:
        if poll(handler, 1_000):
            if not take(batch):
                return
            batch.clear()
        elif spinning:
            pass
        else:
            time.sleep(0.000_05)
