"""A live session: several venues, their instruments, feeds, books and connections, and who consumes them.

``LiveSession`` is also registered as the source ``live`` of the entry-point group ``cmd.sources``, so
that a viewer or a server can use it without importing this package by name:

    session = registry.load("cmd.sources", "live")(options, reporter)
    async with session:                      # loads instruments, opens the connections
        async for records in session.subscribe():
            book = session.books["binance-spot:BTCUSDT"]
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, cast

from msgspec import Struct

from cmd_common import get_symbols, registry
from cmd_common.aggregate import AggregatedOrderBook
from cmd_common.commands import LogReporter, RecordOptions, Reporter
from cmd_common.consumer import Consumer
from cmd_common.errors import CmdError, UsageError
from cmd_common.exchange import Endpoints, Exchange, live_intervals
from cmd_common.feed import AGGREGATE, SESSION_TYPES, Feed, FeedCounters, Subscription
from cmd_common.handover import Movable
from cmd_common.http import HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.io import IReader, IWriter, WriterCounters, open_reader, open_writer
from cmd_common.metrics import Family
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import BookDelta, BookSnapshot, Gap, Record, full_name
from cmd_common.seams import Clock, Net, Rng, SystemClock, system_rng
from cmd_common.sequence import BookState

from .aggregates import AggregateInfo, Aggregates, Plan, plan
from .budget import BudgetPools
from .gaps import GapLedger, overflow_gaps
from .instruments import load_instruments
from .limiter import WindowLimiter
from .metrics import session_families
from .pipeline import Pipeline, Sink
from .raw import RawLine, RawRecorder
from .resume import Resume
from .runner import ConnectionRunner, Hooks, RunnerCounters, RunnerState
from .scheduler import SnapshotQueue, SnapshotScheduler
from .settings import Settings, connection_age_of, handover_of, moved_url, raw_compression_of, redundant_of

__all__ = ["BookInfo", "ConnectionInfo", "LiveSession"]

STOP_WAIT = 5.0  # s for the connections to close
_BOOK_TABLES = ("book_snapshots", "book_deltas")


class BookInfo(Struct, frozen=True):
    """One book as it is now; best levels are (price, quantity)."""

    state: str
    last_id: int
    best_bid: tuple[float, float] | None
    best_ask: tuple[float, float] | None


class ConnectionInfo(Struct, frozen=True):
    """One connection as it is now."""

    name: str
    venue: str
    state: str
    symbols: int
    counters: RunnerCounters
    feed: FeedCounters


class _Venue:
    """What the session holds of one venue."""

    def __init__(self, exchange: Exchange, endpoints: Endpoints, subscription: Subscription) -> None:
        self.exchange = exchange
        self.endpoints = endpoints
        self.subscription = subscription
        self.instruments: dict[str, Instrument] = {}
        self.runners: list[ConnectionRunner] = []
        self.scheduler: SnapshotScheduler | None = None
        self.hooks: Hooks | None = None
        self.connects = WindowLimiter.connects(exchange.limits.connects_per_5min)


class LiveSession:
    """Runs live feeds of one or more venues; with a store in ``options`` it records them.

    ``options.store`` empty: nothing is stored, for viewers. The seams default to the real ones; ``writer``
    and ``reader`` take the place of the store, and ``inline`` writes in the event loop instead of in a thread.
    ``interrupted`` is the reason of the gap between what the store holds and what comes (``restart`` or ``store_outage``).
    Without a ``reporter`` words go to the logger ``cmd``. ``start`` raises CmdError; afterwards problems are reported and show in ``error`` and the states.
    """

    def __init__(
        self,
        options: RecordOptions,
        reporter: Reporter | None = None,
        *,
        net: Net | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
        writer: IWriter | None = None,
        reader: IReader | None = None,
        inline: bool = False,
        interrupted: str = "restart",
    ) -> None:
        self.options = options
        self._interrupted = interrupted
        self._settings = Settings(options.options)
        self.reporter: Reporter = reporter or LogReporter()
        self.books = MultiSymbolOrderBook()
        self.ledger = GapLedger()
        self.error: CmdError | None = None  # why recording ended early
        self.store_failed = False
        self.pipeline: Pipeline[Record] | None = None
        self.raw: Pipeline[RawLine] | None = None
        self.pools = BudgetPools()
        self._net = net
        self._clock: Clock = clock or SystemClock()
        self._rng: Rng = rng or system_rng()
        self._writer = writer
        self._reader = reader
        self._resume: Resume | None = None
        self._inline = inline
        self._venues: dict[str, _Venue] = {}
        self._runners: dict[str, ConnectionRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._consumers: list[Consumer] = []
        self._callbacks: list[Callable[[Sequence[Record]], None]] = []
        self._ended = asyncio.Event()
        self._stopping = False
        self._final: dict[str, BookInfo] | None = None
        self._final_aggregates: dict[str, AggregateInfo] | None = None
        self._aggregates: Aggregates | None = None
        self.writer_counters: WriterCounters | None = None  # of the store, once it is open
        self._single: set[str] = set()  # venues that were asked for redundancy and have none
        self._live_total = (-1, -1)
        self._progress: asyncio.Task[None] | None = None

    # ---- life

    async def start(self) -> None:
        """Load instruments, resolve symbols, open the store and begin to connect; raises CmdError."""
        options = self.options
        for kind in options.types:
            if kind not in SESSION_TYPES:
                raise UsageError(f"unknown type {kind!r}", hint=f"types are {', '.join(SESSION_TYPES)}")
        if not options.types or not options.exchanges:
            raise UsageError("nothing to record", hint="give at least one exchange and one type")
        if self._net is None:
            from .net import SystemNet

            self._net = SystemNet(proxy=options.proxy)
        try:
            await self._load()
            self._open_sinks()
            for venue in self._venues.values():
                self._open_venue(venue)
            if not self._runners:
                raise UsageError("nothing to record", hint="no selected symbol has the types that were asked for")
            for words in self._settings.unread(self._venues):
                self.reporter.warn(words)
        except BaseException:
            await self.stop()
            raise
        for runner in self._runners.values():
            self._launch(runner)
        self._progress = asyncio.create_task(self._report_progress(), name="progress")

    async def wait(self) -> None:
        """Wait until every connection ended or failed, or the store failed."""
        await self._ended.wait()

    async def stop(self) -> None:
        """Stop reading, drain, flush, close everything; calling it again does nothing."""
        if self._stopping:
            return
        self._stopping = True
        self._final, self._final_aggregates = self.book_states(), self.aggregate_states()
        if self._progress is not None:
            self._progress.cancel()
            await asyncio.gather(self._progress, return_exceptions=True)
            self._show_progress()
        await asyncio.gather(*(runner.stop() for runner in self._runners.values()), return_exceptions=True)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=STOP_WAIT)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for venue in self._venues.values():
            if venue.scheduler is not None:
                await venue.scheduler.stop()
        for pipeline in (self.pipeline, self.raw):
            if pipeline is not None:
                await pipeline.close()
                if pipeline.error is not None:
                    self._sink_failed(pipeline.error)
        for consumer in self._consumers:
            consumer.close()
        if self._net is not None:
            await self._net.close()
        self._ended.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- what consumers use

    def subscribe(self, limit: int = 50_000) -> Consumer:
        """Return an async iterator of record lists; bounded, drops the oldest when it is not read."""
        consumer = Consumer(limit)
        self._consumers.append(consumer)
        return consumer

    def on_records(self, callback: Callable[[Sequence[Record]], None]) -> None:
        """Call ``callback`` in the event loop with every list of records; it must be quick."""
        self._callbacks.append(callback)

    @property
    def symbols(self) -> dict[str, list[str]]:
        """The selected native symbols by venue."""
        return {name: list(venue.subscription.symbols) for name, venue in self._venues.items()}

    @property
    def aggregates(self) -> dict[str, AggregatedOrderBook]:
        """The books merged over venues, by unified name; empty unless type ``aggregate`` was asked for."""
        return self._aggregates.books if self._aggregates is not None else {}

    def instrument(self, venue: str, symbol: str) -> Instrument | None:
        """Reference data of a selected symbol."""
        found = self._venues.get(venue)
        return found.instruments.get(symbol) if found is not None else None

    def book_states(self) -> dict[str, BookInfo]:
        """Every book by ``venue:symbol``; after the end: as it was when reading stopped."""
        if self._final is not None:
            return self._final
        found: dict[str, BookInfo] = {}
        for runner in self._runners.values():
            for symbol, builder in runner.feed.books.items():
                book = builder.book
                found[full_name(runner.feed.venue, symbol)] = BookInfo(
                    builder.state.value, builder.last_id, book.best_bid, book.best_ask
                )
        return found

    def aggregate_states(self) -> dict[str, AggregateInfo]:
        """Every merged book by unified name; after the end: as it was when reading stopped."""
        if self._final_aggregates is not None:
            return self._final_aggregates
        return self._aggregates.states() if self._aggregates is not None else {}

    def connections(self) -> list[ConnectionInfo]:
        """Every connection with its counters."""
        return [
            ConnectionInfo(r.name, r.feed.venue, r.state.value, len(r.feed.symbols), r.counters, r.feed.counters)
            for r in self._runners.values()
        ]

    def families(self) -> Iterable[Family]:
        """The numbers of this moment, for monitoring: connections, queues, the store's writer."""
        return session_families(self)

    @property
    def failed_connections(self) -> int:
        """Connections that were given up."""
        return sum(r.state is RunnerState.FAILED for r in self._runners.values())

    def add(self, venue: str, symbols: Sequence[str]) -> None:
        """Subscribe more native symbols of a venue that is running, on its least loaded connections."""
        entry = self._venue(venue)
        new = [s for s in dict.fromkeys(symbols) if s not in entry.subscription.symbols]
        for symbol in new:
            if symbol not in entry.instruments:
                raise UsageError(f"unknown symbol {symbol!r} of {venue}")
        entry.subscription = _with_symbols(entry.subscription, (*entry.subscription.symbols, *new))
        # every kind of connection of the venue (Binance USD-M has two) gets the symbol once
        kinds: dict[str, list[ConnectionRunner]] = {}
        for runner in entry.runners:
            kinds.setdefault(_kind(runner.name), []).append(runner)
        left: dict[str, list[str]] = {}
        for symbol in new:
            for kind, runners in kinds.items():
                if not _add_to_one(runners, symbol):
                    left.setdefault(kind, []).append(symbol)
        for kind, more in left.items():
            self._add_connections(entry, kind, len(kinds[kind]), more)
        self._write_instruments(entry, new)
        self._sync_books()

    def remove(self, venue: str, symbols: Sequence[str]) -> None:
        """Unsubscribe native symbols of a venue; their books are dropped."""
        entry = self._venue(venue)
        gone = set(symbols)
        entry.subscription = _with_symbols(
            entry.subscription, tuple(s for s in entry.subscription.symbols if s not in gone)
        )
        for runner in entry.runners:
            mine = [s for s in symbols if s in runner.feed.symbols]
            if mine:
                runner.remove(mine)
        self._sync_books()

    # ---- inside: opening

    async def _load(self) -> None:
        options = self.options
        assert self._net is not None
        exchanges = {name: registry.exchange(name) for name in dict.fromkeys(options.exchanges)}
        endpoints = {name: resolve_endpoints(exchange, options.endpoints) for name, exchange in exchanges.items()}
        check_endpoint_names(options.endpoints, list(exchanges))
        loads = [
            load_instruments(exchange, endpoints[name], self._net, self._clock, self._rng, self.pools, self.reporter)
            for name, exchange in exchanges.items()
        ]
        listed = dict(zip(exchanges, await asyncio.gather(*loads), strict=True))
        selectors, wanted = options.symbols, options.types
        planned: Plan | None = None
        if AGGREGATE in wanted:  # it is made from books, whether they are asked for or not
            planned = plan(options.symbols, listed, options.aggregate)
            selectors = tuple(planned.selectors)
            wanted = tuple(dict.fromkeys("book" if t == AGGREGATE else t for t in wanted))
        chosen = get_symbols(selectors, listed)
        for name, symbols in chosen.items():
            if not symbols:
                continue
            types = tuple(t for t in wanted if t in exchanges[name].types)
            if not types:
                raise UsageError(
                    f"{name} has none of the types {', '.join(wanted)}",
                    hint=f"it has {', '.join(exchanges[name].types)}",
                )
            for missing in (t for t in wanted if t not in types):
                self.reporter.warn(f"{name} has no live {missing}; it has {', '.join(types)}")
            types, intervals = self._candles(exchanges[name], types)
            subscription = Subscription(
                symbols=tuple(symbols),
                types=types,
                intervals=intervals,
                depth=options.depth,
                snapshot_every=options.snapshot_every,
                options=self._settings,
            )
            venue = _Venue(exchanges[name], endpoints[name], subscription)
            venue.instruments = {i.symbol: i for i in listed[name]}
            self._venues[name] = venue
        if planned is not None:
            self._aggregates = Aggregates(planned, self.books, self.instrument)

    def _candles(self, exchange: Exchange, types: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a venue streams of the types and intervals asked for; what it lacks is left out and named.

        Raises UsageError when nothing is left.
        """
        wanted = tuple(self.options.intervals)
        if "candles" not in types:
            return types, wanted
        live = live_intervals(exchange)
        left = tuple(i for i in wanted if i in live)
        if len(left) < len(wanted):
            lacking = ", ".join(i for i in wanted if i not in live)
            said = f"{exchange.venue} has no live candles of {lacking}"
            rest = tuple(t for t in types if t != "candles")
            if not left and not rest:
                raise UsageError(said, hint=f"one of {', '.join(live)}")
            self.reporter.warn(f"{said}; it has {', '.join(live)}")
            types = types if left else rest
        return types, left or wanted

    def _open_sinks(self) -> None:
        options = self.options
        if options.store or self._writer is not None:
            writer = self._writer or open_writer(options.store)
            self.writer_counters = getattr(writer, "counters", None)  # what stands in for a store may count nothing
            self.pipeline = Pipeline[Record](
                cast("Sink[Record]", writer),
                limit=options.queue_limit,
                policy="block",
                name="store",
                seen=self.ledger.count,
                replace=overflow_gaps,
                failed=self._store_failed,
                warn=self.reporter.warn,
                inline=self._inline,
            )
            reader = self._reader
            if reader is None and self._writer is None:
                reader = open_reader(options.store)
            if reader is not None:  # after the writer, which recovers what a killed one left
                with reader:
                    held = set(reader.tables())
                    resume = Resume(
                        lambda table, venue, symbol: (
                            reader.latest(table, venue=venue, symbol=symbol) if table in held else None
                        ),
                        self._interrupted,
                    )
                    for name, venue in self._venues.items():
                        stored = [t for t in venue.subscription.types if t in options.types]
                        resume.expect(name, venue.subscription.symbols, stored)
                self._resume = resume
        if options.raw:
            recorder = RawRecorder(options.raw, compression=raw_compression_of(options))
            self.raw = Pipeline[RawLine](
                recorder,
                limit=options.queue_limit,
                name="raw recording",
                failed=self._sink_failed,
                warn=self.reporter.warn,
            )

    def _open_venue(self, venue: _Venue) -> None:
        exchange = venue.exchange
        assert self._net is not None
        feeds = exchange.feeds(venue.subscription, venue.instruments, venue.endpoints)
        budget = self.pools.get(exchange.limits.weight_pool or exchange.venue, exchange.limits.weight_per_minute)
        raw = self._raw_sink(exchange.venue)  # one for both, so that lines keep their order
        venue.scheduler = SnapshotScheduler(
            exchange,
            SnapshotQueue(budget, self._rng),
            self._net,
            self._clock,
            deliver=self._snapshot,
            give_up=self._snapshot_failed,
            arrived=self._rest_sink(raw),
            warn=self.reporter.warn,
        )
        venue.scheduler.start()
        venue.hooks = Hooks(
            sink=self._take,
            full=self._full,
            wait=self._wait_space,
            raw=raw,
            warn=self.reporter.warn,
            info=self.reporter.info,
        )
        for feed in feeds:
            self._make_runner(venue, feed)
        self._sync_books()
        self._write_instruments(venue, venue.subscription.symbols)

    def _make_runner(self, venue: _Venue, feed: Feed) -> ConnectionRunner:
        assert self._net is not None
        assert venue.scheduler is not None
        assert venue.hooks is not None
        runner = ConnectionRunner(
            feed,
            venue.exchange,
            venue.hooks,
            net=self._net,
            clock=self._clock,
            rng=self._rng,
            scheduler=venue.scheduler,
            connects=venue.connects,
            until_end=self.options.until_end,
            handover=handover_of(self.options),
            lifetime=connection_age_of(self.options),
            redundant=self._redundant(feed),
        )
        venue.runners.append(runner)
        self._runners[feed.name] = runner
        return runner

    def _redundant(self, feed: Feed) -> str:
        """The URL of a second connection for good, ``on`` for the same one, empty for none; raises UsageError."""
        word = redundant_of(self.options)
        if not word:
            return ""
        if not (isinstance(feed, Movable) and feed.handover):
            if feed.venue not in self._single:
                self._single.add(feed.venue)
                self.reporter.warn(f"{feed.venue} has one connection at a time: its feed cannot be merged from two")
            return ""
        return word if word == "on" else moved_url(feed.url, word)

    def _launch(self, runner: ConnectionRunner) -> None:
        task = asyncio.create_task(runner.run(), name=f"connection {runner.name}")
        self._tasks.add(task)
        task.add_done_callback(self._runner_done)

    def _add_connections(self, venue: _Venue, kind: str, index: int, symbols: Sequence[str]) -> None:
        """Open more connections of one kind, for symbols that the open ones have no room for."""
        subscription = _with_symbols(venue.subscription, tuple(symbols))
        for feed in venue.exchange.feeds(subscription, venue.instruments, venue.endpoints):
            if _kind(feed.name) == kind:
                feed.name = f"{kind}-{index}"
                index += 1
                self._launch(self._make_runner(venue, feed))

    def _write_instruments(self, venue: _Venue, symbols: Sequence[str]) -> None:
        now = self._clock.now()
        self._take([venue.instruments[s].to_record(now, now) for s in symbols if s in venue.instruments])

    def _sync_books(self) -> None:
        """Make ``books`` hold exactly the books of the feeds."""
        wanted = {
            full_name(runner.feed.venue, symbol): (runner.feed.venue, symbol, builder.book)
            for runner in self._runners.values()
            for symbol, builder in runner.feed.books.items()
        }
        for name in [n for n in self.books if n not in wanted]:
            self.books.remove(name)
        for name, (venue, symbol, book) in wanted.items():
            if name not in self.books:
                self.books.add(venue, symbol, book=book)

    # ---- inside: running

    def _take(self, records: list[Record]) -> None:
        if self._resume is not None:
            records = [*self._resume.gaps(records), *records]
            if not self._resume.open:
                self._resume = None
        if self._aggregates is not None:
            self._hand_on([*records, *self._aggregates.take(records)])
        else:
            self._hand_on(records)

    def _hand_on(self, records: list[Record]) -> None:
        if self.pipeline is not None:
            self.pipeline.put(records if self._aggregates is None else self._asked_for(records))
        for consumer in self._consumers:
            consumer.put(records)
        for callback in self._callbacks:
            callback(records)

    def _asked_for(self, records: list[Record]) -> list[Record]:
        """Without the rows of books that are there only to be merged, and without their gaps."""
        if "book" in self.options.types:
            return records
        return [
            r
            for r in records
            if not isinstance(r, BookDelta | BookSnapshot | Gap)
            or (isinstance(r, Gap) and r.record_type not in _BOOK_TABLES)
        ]

    def _full(self) -> bool:
        return (self.pipeline is not None and self.pipeline.full) or (self.raw is not None and self.raw.full)

    async def _wait_space(self) -> None:
        for pipeline in (self.pipeline, self.raw):
            if pipeline is not None:
                await pipeline.wait()

    def _raw_sink(self, venue: str) -> Callable[[int, str, str, str | bytes], None] | None:
        pipeline = self.raw
        if pipeline is None:
            return None
        loop = asyncio.get_running_loop()
        batch: list[RawLine] = []

        def flush() -> None:
            nonlocal batch
            lines, batch = batch, []
            pipeline.put(lines)

        def put(recv_ns: int, src: str, url: str, text: str | bytes) -> None:
            if not batch:
                loop.call_soon(flush)
            batch.append((venue, recv_ns, src, url, text))

        return put

    def _rest_sink(
        self, put: Callable[[int, str, str, str | bytes], None] | None
    ) -> Callable[[str, HttpResponse], None] | None:
        if put is None:
            return None
        return lambda url, response: put(self._clock.now(), "rest", url, response.body)

    def _snapshot(self, name: str, symbol: str, body: bytes) -> None:
        runner = self._runners.get(name)
        if runner is not None:
            runner.snapshot(symbol, body)

    def _snapshot_failed(self, name: str, symbol: str, error: CmdError) -> None:
        runner = self._runners.get(name)
        if runner is not None:
            runner.snapshot_failed(symbol, error)

    def _runner_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.reporter.warn(f"{task.get_name()} broke: {type(error).__name__}: {error}")
            self.error = self.error or CmdError(f"{task.get_name()} broke: {type(error).__name__}: {error}")
        if not self._tasks:
            given_up = [runner.error for runner in self._runners.values() if runner.error is not None]
            if len(given_up) == len(self._runners) and self.error is None:
                self.error = next(iter(given_up), None)  # nothing is left that could go on
            for consumer in self._consumers:
                consumer.close()
            self._ended.set()

    def _store_failed(self, error: CmdError) -> None:
        self.store_failed = True
        self._sink_failed(error)

    def _sink_failed(self, error: CmdError) -> None:
        if self.error is None:
            self.error = error
        self._ended.set()

    async def _report_progress(self) -> None:
        """Say how many books are LIVE while they are loading; merged books lose what got too old."""
        while True:
            await self._clock.sleep(1_000_000_000)
            if self._aggregates is not None and (rows := self._aggregates.tick(self._clock.now())):
                self._hand_on(rows)
            self._show_progress()

    def _show_progress(self) -> None:
        if self._runners:
            states = [b.state for r in self._runners.values() for b in r.feed.books.values()]
            if states:
                live = sum(state is BookState.LIVE for state in states)
                if (live, len(states)) != self._live_total:
                    self._live_total = (live, len(states))
                    self.reporter.progress("books live", live, len(states), unit="books")

    def _venue(self, name: str) -> _Venue:
        try:
            return self._venues[name]
        except KeyError:
            raise UsageError(f"{name} is not part of this session") from None


def resolve_endpoints(exchange: Exchange, overrides: Mapping[str, str]) -> Endpoints:
    """Return a venue's endpoints: those given for it, else those given for all, else the production ones."""
    url = overrides.get(exchange.venue) or overrides.get("")
    return exchange.endpoints.override(url) if url else exchange.endpoints


def check_endpoint_names(overrides: Mapping[str, str], venues: Sequence[str]) -> None:
    """Raise UsageError for an endpoint of a venue that is not in use: most likely a typing error."""
    for name in overrides:
        if name and name not in venues:
            raise UsageError(f"endpoint for {name}, which is not selected", hint=f"selected are {', '.join(venues)}")


def _kind(name: str) -> str:
    """The name of a connection without its number: ``binance-usdm/public-0`` -> ``binance-usdm/public``."""
    return name.rpartition("-")[0] or name


def _add_to_one(runners: Sequence[ConnectionRunner], symbol: str) -> bool:
    """Subscribe a symbol on the least loaded connection that has room; False: none has."""
    for runner in sorted(runners, key=lambda r: len(r.feed.symbols)):
        try:
            runner.add([symbol])
        except UsageError:
            continue
        return True
    return False


def _with_symbols(subscription: Subscription, symbols: tuple[str, ...]) -> Subscription:
    from msgspec.structs import replace

    return replace(subscription, symbols=symbols)
