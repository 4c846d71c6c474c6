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
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from aeron_ways import POOL, SIZE, Sender, bursts, pool, read, sender_of  # noqa: E402
from server_run import has, percentiles, say  # noqa: E402

RATE = 1_000  # messages/s of latency
PATIENCE = 60.0  # s
STAMP = struct.Struct("<q")


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

    read(kind, place, folder, take, lambda: say("ready"), spinning=True)
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
