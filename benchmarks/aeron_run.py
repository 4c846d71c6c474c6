"""One measurement of benchmarks/aeron.py without the server, in a process of its own; prints one JSON line.

    aeron_run.py flow KIND READERS MESSAGES DIRECTORY     messages/s to each reader, CPU ns a message of each side
    aeron_run.py latency KIND MESSAGES DIRECTORY          one way, ns: p50 and p99
    aeron_run.py reader | clocked ...                     the processes on the other side

KIND says how 64 bytes go from one process to others; what begins with ``aeron`` or ``pyaeron`` needs a media driver in
DIRECTORY. Only the standard library and the package that is measured are imported, so that any interpreter will do.

A message is a number and filling; POOL different ones are made before the clock starts. A reader touches every message
in Python and compares the outermost ones of each batch with what must be there; the sum over all and their count are
looked at afterwards.
"""

# ruff: noqa: ASYNC110, ASYNC251  one thing at a time, and what waits shall wait

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from server_run import has, percentiles, say  # noqa: E402

SIZE = 64
POOL = 20_000  # different messages, sent again and again
BURST = 1_000  # messages that a sender gives away at once
READ = 1 << 18
STREAM = 1001
RATE = 1_000  # messages/s of latency
PATIENCE = 60.0  # s
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
STAMP = struct.Struct("<q")


def pool() -> list[bytes]:
    filling = bytes(range(33, 33 + SIZE - 8))
    return [n.to_bytes(8, "little") + filling for n in range(POOL)]


def sum_of(count: int) -> int:
    """What a reader's sum must be after so many messages."""
    whole, rest = divmod(count, POOL)
    firsts = [message[0] for message in pool()]
    return whole * sum(firsts) + sum(firsts[:rest])


class Taken:
    """What a reader has."""

    __slots__ = ("bad", "count", "made", "total")

    def __init__(self) -> None:
        self.made = pool()
        self.count = self.total = 0
        self.bad = ""

    def take(self, batch: Sequence[bytes]) -> None:
        total = 0
        for message in batch:  # the work that every way has in common
            total += message[0]
        self.total += total
        at = self.count % POOL
        self.count += len(batch)
        if batch[0] != self.made[at] or batch[-1] != self.made[(self.count - 1) % POOL]:
            self.bad = self.bad or f"message {self.count} is another"

    def verify(self, count: int) -> None:
        if self.bad or self.count != count or self.total != sum_of(count):
            raise SystemExit(f"{self.count} of {count} messages, sum {self.total} for {sum_of(count)}; {self.bad}")


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


def read(
    kind: str, place: str, folder: str, take: Callable[[Sequence[bytes]], bool], ready: Callable[[], None]
) -> None:
    """Read from ``place`` until ``take`` returns False."""
    if kind.startswith("pyaeron"):
        _read_pyaeron(place, folder, take, ready)
    elif kind.startswith("aeron"):
        _read_aeron(kind, place, folder, take, ready)
    elif kind.startswith("asyncio"):
        asyncio.run(_read_asyncio(place, take, ready))
    else:
        _read_socket(place, take, ready)


def _read_socket(place: str, take: Callable[[Sequence[bytes]], bool], ready: Callable[[], None]) -> None:
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
    def __init__(self, take: Callable[[Sequence[bytes]], bool]) -> None:
        self.take, self.rest = take, b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        batch, self.rest = cut(self.rest + data if self.rest else data)
        if batch and not self.take(batch) and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or EOFError("the other side has closed"))


async def _read_asyncio(place: str, take: Callable[[Sequence[bytes]], bool], ready: Callable[[], None]) -> None:
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


def _read_aeron(
    kind: str, place: str, folder: str, take: Callable[[Sequence[bytes]], bool], ready: Callable[[], None]
) -> None:
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


def _read_pyaeron(place: str, folder: str, take: Callable[[Sequence[bytes]], bool], ready: Callable[[], None]) -> None:
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
        elif SPINNING:
            pass
        else:
            time.sleep(0.000_05)


SPINNING = False


def reader(kind: str, place: str, folder: str, count: str) -> None:
    """Count and touch; says ``ready``, then what it took."""
    taken, wanted = Taken(), int(count)
    begin = [0, 0]

    def ready() -> None:
        say("ready")
        begin[0] = time.process_time_ns()

    def take(batch: Sequence[bytes]) -> bool:
        taken.take(batch)
        return taken.count < wanted

    read(kind, place, folder, take, ready)
    end, cpu = time.monotonic_ns(), time.process_time_ns() - begin[0]
    taken.verify(wanted)
    say(json.dumps({"end": end, "cpu": cpu}))
    sys.stdin.readline()


def cpu_of(pid: int) -> int:
    """CPU of another process so far, ns, all its threads."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def begin_readers(
    sender: Sender, role: str, kind: str, readers: int, folder: str, count: str
) -> list[subprocess.Popen[bytes]]:
    command = [sys.executable, str(Path(__file__).resolve()), role, kind, sender.place, folder, count]
    found = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(readers)]
    if sender.later:
        for one in found:
            heard(one)
    return found


def heard(process: subprocess.Popen[bytes]) -> str:
    """The next line of another process."""
    assert process.stdout is not None
    until = time.monotonic() + PATIENCE
    while not has(process.stdout):
        if time.monotonic() > until:
            raise SystemExit("the other side says nothing")
        time.sleep(0.001)
    text = process.stdout.readline().decode().strip()
    if not text:
        raise SystemExit("the other side has ended")
    return text


async def _flow(kind: str, readers: int, count: int, folder: str, driver: int) -> dict[str, Any]:
    sender = sender_of(kind)(kind, readers, folder)
    parts = list(bursts(count))
    found = begin_readers(sender, "reader", kind, readers, folder, str(count))
    try:
        await sender.accept()
        if not sender.later:
            for one in found:
                heard(one)
        time.sleep(0.05)
        moved = cpu_of(driver) if driver else 0
        used, begin = time.process_time_ns(), time.monotonic_ns()
        send = sender.send
        for part in parts:
            await send(part)
        # What asyncio has not written yet it writes now.
        loop_until = time.monotonic() + PATIENCE
        first = found[0].stdout
        assert first is not None
        while kind.startswith("asyncio") and not has(first) and time.monotonic() < loop_until:
            await asyncio.sleep(0.001)
        used_now = time.process_time_ns()
        told = [json.loads(heard(one)) for one in found]
        moved = cpu_of(driver) - moved if driver else 0
    finally:
        for one in found:
            one.kill()
            one.wait()
    seconds = (max(each["end"] for each in told) - begin) / 1e9
    return {
        "rate": count / seconds,
        "send": (used_now - used) / count,
        "receive": sum(each["cpu"] for each in told) / count / readers,
        "driver": moved / count,
    }


def flow(kind: str, readers: str, count: str, folder: str, driver: str) -> dict[str, Any]:
    return asyncio.run(_flow(kind, int(readers), int(count), folder, int(driver)))


# -- latency


def clocked(kind: str, place: str, folder: str, count: str) -> None:
    """Take times: how long each message was on its way."""
    global SPINNING
    SPINNING = True
    wanted = int(count)
    found: list[int] = []
    now, stamp = time.monotonic_ns, STAMP.unpack_from
    numbers: list[int] = []

    def take(batch: Sequence[bytes]) -> bool:
        at = now()
        for message in batch:
            found.append(at - stamp(message, 0)[0])
            numbers.append(stamp(message, 8)[0])
        return len(found) < wanted

    read(kind, place, folder, take, lambda: say("ready"))
    if numbers != list(range(wanted)):
        raise SystemExit("messages are missing or in another order")
    say(json.dumps(percentiles(found)))
    sys.stdin.readline()


async def _latency(kind: str, count: int, folder: str) -> dict[str, Any]:
    sender = sender_of(kind)(kind, 1, folder)
    (found,) = begin_readers(sender, "clocked", kind, 1, folder, str(count))
    try:
        await sender.accept()
        if not sender.later:
            heard(found)
        time.sleep(0.1)
        one, pack, now = sender.one, struct.Struct(f"<qq{SIZE - 16}s").pack, time.monotonic_ns
        filling = bytes(SIZE - 16)
        begin = now()
        for number in range(count):
            wait = begin + number * 1_000_000_000 // RATE - now()
            if wait > 0:
                time.sleep(wait / 1e9)
            one(pack(now(), number, filling))
        await asyncio.sleep(0)
        return dict(json.loads(heard(found)))
    finally:
        found.kill()
        found.wait()


def latency(kind: str, count: str, folder: str) -> dict[str, Any]:
    return asyncio.run(_latency(kind, int(count), folder))


WAYS: dict[str, Callable[..., Any]] = {each.__name__: each for each in (flow, latency, reader, clocked)}

if __name__ == "__main__":
    result = WAYS[sys.argv[1]](*sys.argv[2:])
    if result is not None:
        say(json.dumps(result))
