"""One run of the whole path from one seed: market, network, recorder, store; faults, then calm.

The recorder is the real ``LiveSession`` of cmd-feed with the real feeds, builders and books of
cmd-binance and cmd-common; the exchange is the real emulator. Seeds divisible by five write the real
Parquet store over ``SimDisk``; the others a light store, so that thousands of seeds fit into minutes.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sim_checks
import sim_market
from sim_options import SECOND, Options, expand
from sim_oracle import Oracle
from sim_store import Acknowledged, LightReader, LightStore, Tap

from cmd_common import registry
from cmd_common.commands import RecordOptions
from cmd_common.emulation import Pending
from cmd_common.errors import CmdError
from cmd_common.feed import Send, Subscription
from cmd_common.http import HttpResponse
from cmd_common.records import Record
from cmd_common.schema import TABLES
from cmd_common.sequence import BookState
from cmd_common.testing.simdisk import SimDisk, SimulatedCrash
from cmd_common.testing.simnet import NetFaults, SimNet
from cmd_common.testing.simulation import EventLog, Guard, Summary, Violation
from cmd_common.testing.virtual import DeadlockError, VirtualClock, VirtualLoop, VirtualTimeoutError
from cmd_feed.session import LiveSession

HOST = "sim:80"
START = 1_748_907_900 * SECOND  # 2025-06-02 23:45 UTC
CALM_LIMIT = 600  # virtual seconds after the last fault in which every book must be right
RECORD_TABLES = tuple(TABLES)


class SimReporter:
    """Keeps what a person would have been told."""

    def __init__(self, log: EventLog, now: Callable[[], int]) -> None:
        self._log = log
        self._now = now
        self.defects: list[str] = []

    def info(self, message: str) -> None:
        """Keep."""
        self._log.add(self._now(), "info", message)

    def warn(self, message: str) -> None:
        """Keep; a defect of a feed is never expected."""
        self._log.add(self._now(), "warn", message)
        if "defect" in message:
            self.defects.append(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        """Keep."""
        self._log.add(self._now(), "ready", json.dumps(facts))

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        """Keep."""
        self._log.add(self._now(), "progress", f"{task} {done} {total}")


class LoggedDisk(SimDisk):
    """A SimDisk whose operations are events."""

    log: EventLog
    now: Callable[[], int]

    def _fault(self, path: str) -> Any:
        before = len(self.injected)
        try:
            return super()._fault(path)
        finally:
            self.log.add(self.now(), "disk", f"{self.ops} {path}")
            if len(self.injected) > before:
                self.log.add(self.now(), "fault", f"disk {self.injected[-1]}")


def copy_of(disk: SimDisk) -> SimDisk:
    """Another disk with the same files and no faults; nothing is locked."""
    copy = SimDisk()
    inodes: dict[int, Any] = {}
    for path, inode in disk._files.items():
        twin = inodes.get(id(inode))
        if twin is None:
            twin = inodes[id(inode)] = type(inode)()
            twin.data = bytearray(inode.data)
        copy._files[path] = twin
    copy._dirs = set(disk._dirs)
    return copy


class ParquetBackend:
    """The real store over a disk that fails and crashes."""

    def __init__(self, run: Run) -> None:
        self.disk = LoggedDisk(run.options.seed, rates={})
        self.disk.log, self.disk.now = run.log, run.now
        self._run = run

    def open(self) -> Any:
        """Open the writer, which recovers what a dead one left."""
        return sim_market.open_parquet_writer(self.disk, self._run)

    def faults(self, on: bool) -> None:
        """Switch the faults."""
        d = self._run.options.disk
        rates = {"eio": d.eio, "enospc": d.enospc, "torn": d.torn, "kill": d.kill, "crash": d.crash}
        self.disk.rates = {kind: rate for kind, rate in rates.items() if rate} if on else {}  # type: ignore[misc]

    def die(self, rng: random.Random) -> None:
        """The process dies between two operations, by a kill or with the power."""
        if not self.disk.dead:
            if rng.random() < 0.5:
                self.disk.crash()
            else:
                self.disk.kill()
        self.disk.dead = False

    def bury(self) -> None:
        """Nothing that is left of the dead process may touch the disk."""
        self.disk.dead = True

    def revive(self) -> None:
        """A new process."""
        self.disk.restart()

    def inspect(self) -> tuple[dict[str, list[Record]], list[str]]:
        """What a new process would find after recovery, and what the store's own byte-by-byte check says.

        It is done to a copy: the next process has to recover by itself, perhaps with a disk that fails again.
        """
        copy = copy_of(self.disk)
        sim_market.open_parquet_writer(copy, self._run).close()
        return sim_market.read_parquet(copy), sim_market.verify_parquet(copy)

    def reader(self) -> Any:
        """Open the reader."""
        return sim_market.open_parquet_reader(self.disk)

    def counts(self) -> Counter[str]:
        """Injected faults by kind."""
        return Counter(kind for _, kind, _ in self.disk.injected)


class LightBackend:
    """The light store."""

    def __init__(self, run: Run) -> None:
        self.store = LightStore(random.Random(f"store {run.options.seed}"))
        self.store.torn = run.options.disk.torn
        self._run = run

    def open(self) -> Any:
        """Open the writer."""
        return self.store.writer()

    def faults(self, on: bool) -> None:
        """Switch the faults."""
        d = self._run.options.disk
        self.store.eio, self.store.enospc = (d.eio, d.enospc) if on else (0.0, 0.0)

    def die(self, rng: random.Random) -> None:
        """Lose what was not flushed."""
        self.store.crash()

    def bury(self) -> None:
        """``crash`` has done it."""

    def revive(self) -> None:
        """Nothing to do."""

    def inspect(self) -> tuple[dict[str, list[Record]], list[str]]:
        """All durable rows; nothing can be wrong inside."""
        return {table: list(self.store.records(table)) for table in RECORD_TABLES}, []

    def reader(self) -> Any:
        """Open the reader."""
        return LightReader(self.store)

    def counts(self) -> Counter[str]:
        """Injected faults by kind."""
        return Counter(self.store.injected)


class Run:
    """One world. ``execute`` runs it to its end and raises Violation when a property does not hold."""

    def __init__(
        self, options: Options, start: int = START, *, limit: int = 6 * 3600 * SECOND, steps: int = 400_000
    ) -> None:
        self.options = options
        self.rng = random.Random(f"run {options.seed}")
        self.log = EventLog()
        self.loop = VirtualLoop(limit=limit, steps=steps)
        self.clock = VirtualClock(self.loop, start)
        self.venue = f"binance-{options.market}"
        self.exchange = registry.exchange(self.venue)
        self.emulator = sim_market.make_emulator(self.exchange, options, start)
        self.sent: dict[tuple[str, str], set[int]] = {}
        self.net = SimNet(
            self.loop,
            self.clock,
            {HOST: self.emulator},
            random.Random(f"net {options.seed}"),
            max_latency=int(options.max_latency * SECOND),
            trace=self._trace,
            sent=self._sent,
        )
        self.backend: ParquetBackend | LightBackend = (
            ParquetBackend(self) if options.store == "parquet" else LightBackend(self)
        )
        self.acknowledged = Acknowledged()
        self.session: LiveSession | None = None
        self.tap: Tap | None = None
        self.life: asyncio.Task[None] | None = None
        self.main: asyncio.Task[None] | None = None
        self.kills = 0
        self.incarnations = 0
        self.ending = False
        self.error: BaseException | None = None
        self.faulty = fault_free(options) != options
        self.snapshot_limit = sim_market.snapshot_limit(options)
        self._dying = False
        self.symbols = [str(s) for s in self.emulator.ready()["symbols"]]
        self.oracle = Oracle(self.symbols)

    def now(self) -> int:
        """Virtual time in ns."""
        return self.loop.ns

    def _trace(self, kind: str, connection: int, detail: str) -> None:
        self.log.add(self.loop.ns, f"net {kind}", f"{connection} {detail}")

    def _sent(self, text: str) -> None:
        """Remember which ids left the server for a client."""
        if '"e":"trade"' not in text and '"e":"aggTrade"' not in text:
            return
        data = json.loads(text)
        data = data.get("data", data)
        table, id_ = ("trades", data["t"]) if data["e"] == "trade" else ("agg_trades", data["a"])
        self.sent.setdefault((table, data["s"]), set()).add(id_)

    # The recorder's process.

    def record_options(self) -> RecordOptions:
        """What the recorder is told."""
        o = self.options
        return RecordOptions(
            exchanges=(self.venue,),
            symbols=tuple(self.symbols),
            types=o.types,
            store="",
            endpoints={"": f"http://{HOST}"},
            snapshot_every=int(o.snapshot_every * SECOND),
            queue_limit=100_000,
            options=sim_market.feed_options(o),
        )

    async def _live(self) -> None:
        """One process: open the store, record until something fails; a supervisor starts it again."""
        self.incarnations += 1
        self.backend.revive()
        try:
            writer = self.backend.open()
        except (CmdError, OSError) as error:
            self.log.add(self.now(), "store", f"cannot open: {error}")
            return
        tap = self.tap = Tap(writer, self.log, self.now, self._disk_died)
        session = self.session = LiveSession(
            self.record_options(),
            SimReporter(self.log, self.now),
            net=self.net,
            clock=self.clock,
            rng=random.Random(f"session {self.options.seed} {self.incarnations}"),
            writer=tap,
            reader=self.backend.reader(),
            inline=True,
        )
        try:
            await session.start()
            await session.wait()
        except CmdError as error:
            self.log.add(self.now(), "session", f"{error}")
        await session.stop()
        if tap.open:  # the session could not even open its sinks, or its store failed
            try:
                tap.close()
            except (CmdError, OSError) as error:
                self.log.add(self.now(), "store", f"cannot close: {error}")
        self._gone()

    def _gone(self) -> None:
        """The process has ended: what it was told is confirmed must be there."""
        tap = self.tap
        if tap is not None:
            self.acknowledged.add(tap.confirmed)
            self.tap = None
        session = self.session
        if session is not None:
            self.session = None
            reporter = session.reporter
            if isinstance(reporter, SimReporter) and reporter.defects:
                raise Violation("defect", reporter.defects[0])

    def _life_over(self, task: asyncio.Task[None]) -> None:
        if task is not self.life:
            return
        self.life = None
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, SimulatedCrash):
                self._dying = True
                self.die("in an operation of the disk")
                return
            if error is not None:
                self._fail(error)
                return
        if not self.ending:
            self.loop.call_later(0.5 + self.rng.random() * 3, self.start)

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        if self.main is not None:
            self.main.cancel()

    def start(self) -> None:
        """Start the recorder's process."""
        if self.life is None and not self.ending:
            self.life = self.loop.create_task(self._live(), name="life")
            self.life.add_done_callback(self._life_over)

    def die(self, why: str) -> None:
        """The recorder's process dies at once, wherever it is."""
        if self.life is None and not self._dying:
            return  # it is dead already
        self._dying = False
        self.kills += 1
        self.log.add(self.now(), "kill", why)
        life, self.life = self.life, None
        self.backend.die(self.rng)
        self.backend.bury()
        self.net.drop_client()
        for task in sorted(asyncio.all_tasks(self.loop), key=hash):
            if task is not self.main:
                task.cancel()
        if life is not None:
            life.cancel()
        tap = self.tap
        if tap is not None:
            tap.open, tap.dead = False, True
        try:
            self._gone()
        except Violation as error:
            self._fail(error)
        self.loop.call_later(0.2 + self.rng.random() * 4, self._again)

    def _again(self) -> None:
        """After a death: everything confirmed must be there; then a new process."""
        try:
            self.check_acknowledged(f"after kill {self.kills}")
        except Exception as error:
            self._fail(error)
            return
        self.start()

    def _disk_died(self) -> None:
        self.loop.call_soon(self.die, "in an operation of the disk")

    def check_acknowledged(self, when: str) -> dict[str, list[Record]]:
        """Open and recover the store as a new process would, and look for every confirmed row."""
        rows, problems = self.backend.inspect()
        self.acknowledged.check(rows, when)
        if problems:
            raise Violation("sound", f"{when}: {problems[0]}")
        return rows

    # The run.

    def spy(self) -> None:
        """Connect the oracle: it subscribes to what the recorder will, and no fault touches it."""
        response = self._http(self.exchange.instruments_request(self._endpoints()).url)
        instruments = {i.symbol: i for i in self.exchange.parse_instruments(response.body)}
        subscription = Subscription(tuple(self.symbols), self.options.types)
        for feed in self.exchange.feeds(subscription, instruments, self._endpoints()):
            frames = [a.frame for a in feed.connected(0).actions if isinstance(a, Send)]
            self.net.spy(feed.url, self.oracle.take, frames)
        for symbol in self.symbols:
            self.oracle.symbols[symbol].load(self._http(sim_market.depth_url(self, symbol)).body)

    def _endpoints(self) -> Any:
        return self.exchange.endpoints.override(f"http://{HOST}")

    def _http(self, url: str) -> HttpResponse:
        target = url.split(HOST, 1)[1]
        response = self.emulator.http("GET", target, {}, self.clock.true_now())
        if isinstance(response, Pending) or response.status != 200:
            raise RuntimeError(f"the emulator does not answer {target}: {response}")
        return response

    def _plan(self) -> None:
        o = self.options
        at = self.loop.call_later
        for when, seconds in o.partitions:
            at(when, self.net.partition, int(seconds * SECOND))
        for when in o.resets:
            at(when, self.net.reset_all)
        for when, seconds in o.bans:
            at(when, self.net.ban, int(seconds * SECOND))
        for when, seconds in o.jumps:
            at(when, self._jump, int(seconds * SECOND))
        for when in o.kills:
            at(when, self.die, "by plan")

    def _jump(self, ns: int) -> None:
        self.net.note("clock_jump", 0, f"{ns / SECOND:.3f} s")
        self.clock.jump(ns)

    async def _scenario(self) -> None:
        o = self.options
        self.main = asyncio.current_task()
        self.spy()
        self.net.faults = o.net
        self.backend.faults(True)
        self._plan()
        self.start()
        await asyncio.sleep(o.faults_for)
        # Faults stop.
        self.log.add(self.now(), "calm")
        self.net.calm()
        self.backend.faults(False)
        marks = {s: t.last_id for s, t in self.oracle.symbols.items()}
        trades = {
            (table, s): max(t.trades if table == "trades" else t.agg_trades, default=0)
            for s, t in self.oracle.symbols.items()
            for table in ("trades", "agg_trades")
            if table in o.types
        }
        deadline = self.now() + CALM_LIMIT * SECOND
        while (why := self._not_yet(marks, trades)) is not None:
            if self.now() > deadline:
                raise Violation("liveness", f"{CALM_LIMIT} s after the last fault: {why}")
            await asyncio.sleep(1.0)
        await asyncio.sleep(2.0 + 2 * o.max_latency)
        sim_checks.books(self)
        self.ending = True
        session = self.session
        assert session is not None
        await session.stop()
        if self.life is not None:
            await asyncio.wait([self.life])
        self.log.add(self.now(), "end")

    def _not_yet(self, marks: dict[str, int], trades: dict[tuple[str, str], int]) -> str | None:
        """What is still missing before every book is LIVE and data flows again; None: nothing."""
        session = self.session
        if session is None:
            return "no process runs"
        builders = sim_checks.builders(session)
        for symbol in self.symbols:
            builder = builders.get(symbol)
            if builder is None:
                return f"{symbol} has no book"
            if builder.state is not BookState.LIVE:
                return f"the book of {symbol} is {builder.state.value}"
            if builder.last_id <= marks[symbol]:
                return f"the book of {symbol} stands at {builder.last_id}"
        for (table, symbol), mark in trades.items():
            newest = sim_checks.newest_trade(self, table, symbol)
            if newest is None or newest <= mark:
                return f"no new {table} of {symbol} since {newest}"
        return None

    def execute(self) -> Summary:
        """Run to the end; raises Violation."""
        with Guard() as guard:
            try:
                self.loop.run(self._scenario())
            except asyncio.CancelledError:
                if self.error is None:
                    raise
            except (DeadlockError, VirtualTimeoutError) as error:
                raise Violation("progress", str(error)) from error
            if self.error is not None:
                raise self.error
            if guard.broken:
                raise Violation("guard", guard.broken[0])
            errors = [c for c in self.loop.errors if not isinstance(c.get("exception"), SimulatedCrash)]
            if errors:
                raise Violation("exception", f"{errors[0].get('message')}: {errors[0].get('exception')!r}")
            rows = self.check_acknowledged("at the end")
            sim_checks.store(self, rows)
        faults: Counter[str] = Counter(self.net.counts)
        faults.update({f"disk_{kind}": n for kind, n in self.backend.counts().items()})
        faults["kill"] += self.kills
        return Summary(
            seeds=1,
            kills=self.kills,
            virtual_seconds=self.loop.ns / SECOND,
            stored=int(self.options.store == "parquet"),
            faults=faults,
        )


def run_options(options: Options) -> tuple[Summary, str]:
    """Run once; returns totals and the hash of all events."""
    run = Run(options)
    try:
        summary = run.execute()
    except Violation:
        raise
    except Exception as error:
        raise Violation("crash", f"{type(error).__name__}: {error}") from error
    return summary, run.log.digest()


def run_seed(seed: int) -> Summary:
    """Expand a seed and run it; the options are part of a failure's words."""
    options = expand(seed)
    try:
        return run_options(options)[0]
    except Violation as error:
        raise Violation(error.rule, f"{error.message}\n  {options.describe()}") from error


def fault_free(options: Options) -> Options:
    """The same market without any fault."""
    return msgspec.structs.replace(
        options, net=NetFaults(), disk=type(options.disk)(), partitions=(), resets=(), bans=(), jumps=(), kills=()
    )


__all__ = ["Run", "fault_free", "run_options", "run_seed"]
_ = Sequence
