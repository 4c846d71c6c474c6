"""Trades with numbers from a server over Aeron to a client, while both are ended and started again: is each there once?

    aeron_lossless.py server FOLDER TOTAL WAY     publishes what follows the last number that was begun
    aeron_lossless.py client FOLDER TOTAL WAY     goes on behind the last number that it wrote down

Theory of operation. Each trade carries its number. A server writes down what it is about to publish before it does
(``mark``), so that its successor, a new epoch, goes on behind that whatever killed it; and it writes down at which
number and sequence a reader joined the stream (``journal``). A client writes down runs of numbers with their
sequences, and every loss that it is told of (``log``); its successor resumes behind the last of them.

``audit`` walks through the log: every number must be in exactly one run, or in a loss that a StreamGap gave with its
sequences, or, where the epoch changed, between the end of the old epoch, which ``Lost(to_seq=0)`` tells, and the place
where the server says that the reader joined the new one. Nothing else may be missing, and nothing may come twice.
"""

# ruff: noqa: ASYNC110  nothing else runs in this loop meanwhile

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VENUE, SYMBOL = "v", "S"
NAME = "lossless"
BURST = 50  # trades that are published together
WAITING = 2_000  # messages of the slowest reader, at which the publisher waits
REPLAY = 50_000  # messages: more than may be on their way to a client that is killed
UNREAD = 1_000  # trades that are published while nobody reads; then the server waits for somebody
LONG = REPLAY + 2 * UNREAD  # the same while the reader is to stay away for longer than that
DRAIN = 30.0  # s that a server that ends in order waits for its reader
PATIENCE = 60.0  # s without any progress
ENTRY = struct.Struct("<7q")
RUN, LOST, CONNECTED, STARTED = range(1, 5)


def addresses(place: Path, way: str) -> tuple[str, str]:
    """Where the server listens, and where the client connects; ``way`` is own, shared or, to compare, unix."""
    if way == "unix":
        return f"unix:{place}/c.sock", f"unix:{place}/c.sock"
    one = "shared=1&" if way == "shared" else ""
    common = f"aeron:ipc?{one}dir={place}/d&control=unix:{place}/c.sock&liveness=2s"
    more = "&topics=trades *&heartbeat=100" if way == "shared" else ""
    return f"{common}&term-length=256k{more}", common


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


# -- the server


async def serve(place: Path, total: int, way: str) -> None:
    """Publish from behind the mark to ``total``, then wait for the end."""
    from cmd_common.records import InstrumentRecord, Trade
    from cmd_server.limits import Limits
    from cmd_server.server import Server

    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    mark = os.open(place / "mark", os.O_RDWR | os.O_CREAT)
    gate = os.open(place / "gate", os.O_RDONLY)  # how far it may go
    journal = os.open(place / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(**what: object) -> None:
        os.write(journal, json.dumps(what | {"epoch": server.hub.epoch}).encode() + b"\n")

    number = int.from_bytes(os.pread(mark, 8, 0), "little") + 1
    bounds = Limits(queue=100_000, queue_max=100_000, replay_messages=REPLAY, replay_bytes=64 << 20)
    server = Server(limits=bounds)
    hub = server.hub
    await server.listen_all([addresses(place, way)[0]])
    tell(begins=number)
    say("ready")
    now = server.now()
    empty = ("",) * 5
    # So that a reader joins the stream when it asks for it, and not somewhere in what is published later.
    server.publish([InstrumentRecord(now, now, VENUE, SYMBOL, "A", "B", "", "spot", *empty, False, None, "trading")])
    goes_on = place / "goes-on"
    known: set[int] = set()
    kept: list[Any] = []  # so that no id is used again
    unread = 0
    while number <= total and not ending.is_set():
        entry = hub._by_name.get((VENUE, SYMBOL))
        stream = entry.trades if entry is not None else None
        if stream is not None:
            for reader in stream.readers:
                if id(reader) not in known:
                    known.add(id(reader))
                    kept.append(reader)
                    tell(joined=number, seq=stream.seq, name=reader.name)
        if any(NAME in client.name and id(client) in known for client in hub.clients):
            unread = 0
        size = min(BURST, int.from_bytes(os.pread(gate, 8, 0), "little") - number + 1)
        if size <= 0 or unread >= (LONG if goes_on.exists() else UNREAD):
            await asyncio.sleep(0.001)
            continue
        unread += size
        os.pwrite(mark, (number + size - 1).to_bytes(8, "little"), 0)
        now = server.now()
        server.publish([Trade(now, now, VENUE, SYMBOL, "", n, 1.0, 1.0, "buy") for n in range(number, number + size)])
        number += size
        await asyncio.sleep(0)
        while any(len(client.queue) > WAITING for client in hub.clients) and not ending.is_set():
            await asyncio.sleep(0.000_5)
    tell(ended=number - 1)
    await ending.wait()
    await server.close(drain=DRAIN)


# -- the client


class Log:
    """What a client got, written down a batch at a time; what one killed wrote is there."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.epoch = 0
        self.last = 0  # number

    def write(self, entries: Sequence[tuple[int, ...]]) -> None:
        os.write(self.file, b"".join(ENTRY.pack(*entry) for entry in entries))

    def take(self, items: Sequence[Any]) -> None:
        """Write down items of a client in their order."""
        from cmd_common.records import Trade
        from cmd_server.client import Connected, Lost, Message
        from cmd_server.messages import Kind

        out: list[tuple[int, ...]] = []
        run: list[int] = []  # first and last number, first and last sequence, instrument

        def finish() -> None:
            if run:
                out.append((RUN, self.epoch, *run))
                run.clear()

        for item in items:
            if type(item) is Message:
                record = item.record
                if type(record) is not Trade or record.symbol != SYMBOL:
                    continue
                number, head = record.trade_seq, item.head
                assert number is not None
                if run and number == run[1] + 1 and head.seq == run[3] + 1 and head.instrument_id == run[4]:
                    run[1] = number
                    run[3] = head.seq
                else:
                    finish()
                    run += [number, number, head.seq, head.seq, head.instrument_id]
                self.last = number
            elif type(item) is Connected:
                finish()
                self.epoch = item.epoch
                out.append((CONNECTED, self.epoch, int(item.resumed), 0, 0, 0, 0))
            elif type(item) is Lost and item.kind == Kind.TRADES and item.symbol == SYMBOL:
                finish()
                out.append((LOST, self.epoch, item.from_seq, item.to_seq, REASONS.index(item.reason), 0, 0))
        finish()
        if out:
            self.write(out)


REASONS = ("slow", "resume", "restart", "overflow", "snapshot")


def entries_of(path: Path) -> Iterator[tuple[int, ...]]:
    """What is in a log; a last entry that is not whole does not count."""
    data = path.read_bytes() if path.exists() else b""
    return ENTRY.iter_unpack(data[: len(data) - len(data) % ENTRY.size])


def position(path: Path) -> tuple[int, int, int] | None:
    """Epoch, instrument and sequence behind which a client goes on; None: nowhere."""
    found: tuple[int, int, int] | None = None
    for kind, epoch, _, last, _, seq, instrument in entries_of(path):
        if kind == RUN:
            found = epoch, instrument, seq
        elif kind == LOST:
            found = (found[0], found[1], last) if found is not None and last else None
    return found


def follow(place: Path, total: int, way: str) -> None:
    """Write down what comes until the last number is there; every second start by the client for asyncio."""
    from cmd_server.client import Client
    from cmd_server.client.aio import AsyncClient

    def end(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    path = place / "log"
    data_end = path.stat().st_size // ENTRY.size * ENTRY.size if path.exists() else 0
    if data_end:
        os.truncate(path, data_end)
    starts = sum(entry[0] == STARTED for entry in entries_of(path))
    where = position(path)
    log = Log(path)
    log.write([(STARTED, 0, starts, 0, 0, 0, 0)])
    options: dict[str, Any] = {
        "topics": ["trades *"], "policy": "drop-oldest", "queue": 100_000, "retry": 0.02, "name": NAME,
        "buffer": 2 * REPLAY,  # what is replayed may all be there before the first look
    }  # fmt: skip
    to = addresses(place, way)[1]
    if starts % 2:
        asyncio.run(_follow(AsyncClient(to, **options), where, log, total))
        return
    with standing(Client(to, **options), where) as client:
        client.start()
        say("connected")
        for items in client.items():
            log.take(items)
            if log.last == total:
                return


async def _follow(client: Any, where: tuple[int, int, int] | None, log: Log, total: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    standing(client, where)
    with contextlib.suppress(asyncio.CancelledError):
        async with client:
            say("connected")
            async for items in client.items():
                log.take(items)
                if log.last == total:
                    return


def standing(client: Any, where: tuple[int, int, int] | None) -> Any:
    """A client that has a stream up to a sequence already, as one that was never ended would."""
    from cmd_server.client.books import Stream
    from cmd_server.messages import Kind

    if where is not None:
        epoch, instrument, seq = where
        client.core.epoch = epoch
        client.core._streams[instrument, int(Kind.TRADES), 0] = Stream(VENUE, SYMBOL, seq, None)
    return client


# -- what was seen, compared with what was published


@dataclass
class Report:
    """Numbers of trades by what became of them; ``wrong`` says what cannot be explained."""

    total: int
    received: int = 0
    told: int = 0  # lost, in StreamGaps with sequences
    tails: list[int] = field(default_factory=list)  # lost at the end of each epoch but the last
    orderly: list[int] = field(default_factory=list)  # those of servers that ended in order
    absent: int = 0  # published before a reader had joined an epoch
    starts: int = 0  # of clients
    epochs: int = 0
    gaps: int = 0
    wrong: list[str] = field(default_factory=list)
    missing: int = 0  # numbers that nothing explains

    @property
    def unexplained(self) -> int:
        """Numbers that were lost or doubled without a word; at least 1 where anything is wrong."""
        return max(self.missing, len(self.wrong))

    def words(self) -> str:
        """One line."""
        return (
            f"{self.received:,} of {self.total:,} received once, {self.told:,} in {self.gaps} gaps with sequences, "
            f"{sum(self.tails):,} lost with {len(self.tails)} ended epochs, {self.absent:,} published while nobody had "
            f"joined; {self.starts} clients, {self.epochs} servers; unexplained: {self.unexplained}"
        )


def audit(place: Path, total: int) -> Report:
    """Account for every number from 1 to ``total``; see the module."""
    report = Report(total)
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    joined: set[tuple[int, int, int]] = set()
    for line in (place / "journal").read_text().splitlines():
        fact = json.loads(line)
        if "begins" in fact:
            begins[fact["epoch"]] = fact["begins"]
        elif "ended" in fact:
            ends[fact["epoch"]] = fact["ended"]
        else:
            joined.add((fact["epoch"], fact["joined"], fact["seq"]))
    order = sorted(begins, key=lambda epoch: begins[epoch])
    report.epochs = len(order)
    expected = 1  # number
    seq: int | None = None  # the last one of the stream, in ``epoch``
    epoch = 0

    def bad(words: str) -> None:
        report.wrong.append(words)

    for kind, when, a, b, c, d, _ in entries_of(place / "log"):
        if kind == STARTED:
            report.starts += 1
        elif kind == LOST:
            if seq is None or a != seq + 1:
                bad(f"lost from {a} although {seq} was the last of epoch {epoch}, reason {REASONS[c]}")
            if b and seq is not None:
                report.gaps += 1
                report.told += b - seq
                expected += b - seq
                seq = b
            elif not b:
                seq = None
        elif kind == RUN:
            if b - a != d - c:
                bad(f"numbers {a} to {b} with sequences {c} to {d}")
            if seq is not None:
                if when != epoch or c != seq + 1:
                    bad(f"sequence {c} of epoch {when} behind {seq} of epoch {epoch}")
                if a != expected:
                    bad(f"number {a} where {expected} comes")
                    report.missing += abs(a - expected)
            else:
                if (when, a, c - 1) not in joined:
                    bad(f"epoch {when} begins with number {a}, sequence {c}, where no reader joined")
                    report.missing += abs(a - expected)
                elif a < expected or when == epoch or when not in begins:
                    bad(f"epoch {when} begins with number {a}, {expected} comes")
                    report.missing += abs(a - expected)
                else:
                    _between(report, order, begins, ends, epoch, (expected, a))
                epoch = when
            report.received += b - a + 1
            expected, seq = b + 1, d
    if expected != total + 1:
        bad(f"the last number is {expected - 1} of {total}")
        report.missing += abs(total + 1 - expected)
    whole = report.received + report.told + sum(report.tails) + report.absent
    if whole != total:
        bad(f"{whole} numbers are accounted for instead of {total}")
    return report


def _between(
    report: Report,
    order: list[int],
    begins: dict[int, int],
    ends: dict[int, int],
    old: int,
    numbers: tuple[int, int],
) -> None:
    """Count what was published from a reader's last number in one epoch to its first in another."""
    at, first = numbers
    if old:
        following = begins[order[order.index(old) + 1]]
        report.tails.append(following - at)
        if old in ends:
            report.orderly.append(following - at)
        at = following
    report.absent += first - at


# -- the run


@dataclass
class Plan:
    """One run; ``restarts`` are who is ended by which signal, in equal distances."""

    place: Path
    total: int
    way: str = "own"  # a publication of its own, or shared
    restarts: tuple[tuple[str, signal.Signals], ...] = (
        ("client", signal.SIGKILL),
        ("server", signal.SIGKILL),
        ("client", signal.SIGTERM),  # away for longer than the replay buffer
        ("server", signal.SIGTERM),
        ("client", signal.SIGKILL),
        ("server", signal.SIGKILL),
    )
    long: int = 2  # the restart of a client during which more is published than is kept


class Runner:
    """The two processes, and how far they are."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, role: str) -> None:
        """Start one and wait until it says that it stands."""
        command = [sys.executable, __file__, role, *map(str, (self.plan.place, self.plan.total, self.plan.way))]
        process = self.processes[role] = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"the {role} did not start: exit code {process.wait()}")

    def end(self, role: str, how: signal.Signals) -> None:
        """End one and wait until it is gone."""
        process = self.processes[role]
        process.send_signal(how)
        code = process.wait(PATIENCE)
        if code != (0 if how is signal.SIGTERM else -how):
            raise RuntimeError(f"the {role} ended with {code} after {how.name}")
        if process.stdout is not None:
            process.stdout.close()

    def gate(self, number: int) -> None:
        """Let the server publish up to a number."""
        path = self.plan.place / "gate"
        path.touch()
        with path.open("r+b") as f:
            f.write(number.to_bytes(8, "little"))

    def mark(self) -> int:
        """The last number that was begun."""
        if not (self.plan.place / "mark").exists():
            return 0
        return int.from_bytes((self.plan.place / "mark").read_bytes(), "little")

    def received(self) -> int:
        """The last number that a client wrote down."""
        path = self.plan.place / "log"
        size = path.stat().st_size // ENTRY.size * ENTRY.size if path.exists() else 0
        if not size:
            return 0
        with path.open("rb") as f:
            for back in range(1, min(100, size // ENTRY.size) + 1):
                f.seek(size - back * ENTRY.size)
                entry = ENTRY.unpack(f.read(ENTRY.size))
                if entry[0] == RUN:
                    return int(entry[3])
        return 0

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait; an end of a process or no progress for long is an error."""
        last, since = (-1, -1), time.monotonic()
        while not condition():
            state = self.mark(), self.received()
            if state != last:
                last, since = state, time.monotonic()
            for role, process in self.processes.items():
                if process.poll() not in (None, 0) or (role == "server" and process.poll() is not None):
                    raise RuntimeError(f"the {role} ended with {process.returncode}")
            if time.monotonic() - since > PATIENCE:
                raise RuntimeError(f"nothing moves: {last[0]} published, {last[1]} received")
            time.sleep(0.01)

    def run(self) -> None:
        """Start both, end and start them in turn, wait for the last number."""
        plan = self.plan
        # An end comes a step behind the gate that was, in the middle of what flows, however late this process is.
        step = (plan.total - LONG) // (2 * len(plan.restarts) + 3)
        gate = 2 * step
        self.gate(gate)
        self.begin("server")
        self.begin("client")
        for number, (role, how) in enumerate(plan.restarts):
            self.until(lambda wanted=gate - step: self.received() >= wanted)  # type: ignore[misc]
            self.end(role, how)
            if role == "client" and number == plan.long:
                del self.processes[role]
                gate += LONG
                more = self.mark() + LONG - UNREAD
                (plan.place / "goes-on").touch()
                self.gate(gate)
                self.until(lambda more=more: self.mark() >= more)  # type: ignore[misc]
            self.begin(role)
            (plan.place / "goes-on").unlink(missing_ok=True)
            gate += 2 * step
            self.gate(gate)
        self.gate(plan.total)
        client = self.processes["client"]
        self.until(lambda: client.poll() is not None)
        self.end("server", signal.SIGTERM)

    def close(self) -> None:
        """End what runs."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def carry_out(plan: Plan) -> Report:
    """Run it and account for every number. Raises RuntimeError where it does not come to its end."""
    runner = Runner(plan)
    try:
        runner.run()
    finally:
        runner.close()
    return audit(plan.place, plan.total)


if __name__ == "__main__":
    role_, folder_, total_, way_ = sys.argv[1:]
    if role_ == "server":
        asyncio.run(serve(Path(folder_), int(total_), way_))
    else:
        follow(Path(folder_), int(total_), way_)
