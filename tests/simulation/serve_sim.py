"""A server and its clients under one seed: feed records in, every client's view checked against what was published.

What runs: Server, Hub, listener, channels, send buffers and ports on one side, links and AsyncClients on the other, on
virtual time over ``serve_net``. What happens: partial and refused sends, late bytes, cut and frozen connections, slow
programs behind clients, bursts, books that are lost and built anew, instruments that appear later, and a server that
is killed and comes back with another epoch. Then the faults end, and everything must agree:

    published    nothing comes that was not published, and nothing twice or out of order
    hole         every trade between two that came is one that the client was told to be lost
    book         a book that a client calls LIVE equals the hub's; in the end every book does
    quote        the last quote of every stream is the last that was published, the best levels are the book's
    bound        no queue and no port holds more than it may
    alive        clients are connected in the end, and none gave up
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

from msgspec import Struct
from serve_net import MS, SimLoop, SimNet, SimTransport

from cmd_common.multibook import UnknownBookError
from cmd_common.orderbook import OrderBook
from cmd_common.records import (
    BookDelta,
    BookSnapshot,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_common.sequence import BookState
from cmd_common.testing.simulation import EventLog, Guard, Summary, Violation
from cmd_common.testing.virtual import VirtualClock
from cmd_server import sendbuffer
from cmd_server.client import base
from cmd_server.client.aio import AsyncClient
from cmd_server.client.events import BookChanged, Connected, Disconnected, Lost, Message
from cmd_server.limits import Limits
from cmd_server.messages import Kind
from cmd_server.server import Server
from cmd_server.transport import Address, ListenOptions

S = 1_000_000_000
START = 1_900_000_000 * S
TOPICS = (
    "trades *",
    "book *",
    "book@3 *",
    "bbo *",
    "quotes *",
    "book v:A",
    "trades v:B",
    "candles@1m *",
    "instruments *",
)
POLICIES = ("conflate", "drop-oldest", "disconnect")


class ClientPlan(Struct, frozen=True):
    """One client: what it asks for and how its program reads."""

    topics: tuple[str, ...]
    policy: str
    queue: int
    buffer: int
    pause: int  # most ns between two reads of its program; 0: it always reads


class Plan(Struct, frozen=True):
    """What a seed expands to."""

    seed: int
    symbols: int
    steps: int
    burst: int
    capacity: int  # bytes of a socket buffer
    partial: float
    again: float
    low_water: int
    ring: int  # messages of a stream's replay buffer
    resets: int
    freezes: int
    kills: int
    losses: float  # chance a step that a book is lost
    clients: tuple[ClientPlan, ...]

    def describe(self) -> str:
        """The plan in words."""
        return repr(self)


def expand(seed: int) -> Plan:
    """Turn a seed into a plan."""
    r = random.Random(seed)
    clients = tuple(
        ClientPlan(
            tuple(r.sample(TOPICS, r.randint(1, 4))),
            r.choice(POLICIES),
            r.choice((4, 16, 64, 1000)),
            r.choice((8, 64, 10_000)),
            r.choice((0, 0, 5 * MS, 60 * MS, 400 * MS)),
        )
        for _ in range(r.choice((1, 1, 2, 3)))
    )
    calm = r.random() < 0.1
    return Plan(
        seed,
        r.randint(1, 3),
        r.choice((15, 30, 60)),
        r.choice((1, 4, 20)),
        r.choice((200, 2_000, 64_000)),
        0.0 if calm else r.choice((0.0, 0.3, 0.9)),
        0.0 if calm else r.choice((0.0, 0.2)),
        r.choice((100, 4_000, 65_536)),
        r.choice((0, 8, 64, 1_024)),
        0 if calm else r.choice((0, 1, 3)),
        0 if calm else r.choice((0, 1, 3)),
        0 if calm else r.choice((0, 0, 1, 2)),
        0.0 if calm else r.choice((0.0, 0.02, 0.1)),
        clients,
    )


def simpler(plan: Plan) -> Iterator[Plan]:
    """Plans with less in them, the boldest first."""
    from msgspec.structs import replace

    for name, least in (
        ("kills", 0), ("resets", 0), ("freezes", 0), ("losses", 0.0), ("partial", 0.0), ("again", 0.0), ("burst", 1), ("symbols", 1),
        ("capacity", 64_000), ("low_water", 65_536),
    ):  # fmt: skip
        if getattr(plan, name) != least:
            yield replace(plan, **{name: least})
    for n in range(len(plan.clients)):
        if len(plan.clients) > 1:
            yield replace(plan, clients=(plan.clients[n],))
    if plan.steps > 10:
        yield replace(plan, steps=plan.steps // 2)
    for n, client in enumerate(plan.clients):
        for topic in client.topics if len(client.topics) > 1 else ():
            less = replace(client, topics=tuple(t for t in client.topics if t != topic))
            yield replace(plan, clients=(*plan.clients[:n], less, *plan.clients[n + 1 :]))
        if client.pause:
            yield replace(plan, clients=(*plan.clients[:n], replace(client, pause=0), *plan.clients[n + 1 :]))


class Source:
    """What a live session would publish: one venue whose books are true and sometimes lost."""

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.rng = rng
        self.plan = plan
        self.names = [chr(ord("A") + n) for n in range(plan.symbols)]
        self.known: list[str] = []
        self.books: dict[str, OrderBook | None] = {}
        self.epochs: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.trades: dict[tuple[str, int], Trade] = {}
        self.quotes: dict[str, Quote] = {}
        self.updates = 0
        self.truth: dict[tuple[str, int], tuple[bytes, bytes]] = {}  # every book by its last id

    def restarted(self) -> None:
        """Another process: nothing is subscribed and no book is there."""
        self.known.clear()
        self.books.clear()
        self.quotes.clear()

    def step(self, now: int) -> list[Record]:
        """The next list of records."""
        r = self.rng
        out: list[Record] = []
        if len(self.known) < len(self.names) and (not self.known or r.random() < 0.1):
            self._appear(self.names[len(self.known)], now, out)
        for _ in range(r.randint(1, self.plan.burst)):
            symbol = r.choice(self.known)
            kind = r.random()
            if kind < 0.4:
                self._trade(symbol, now, out)
            elif kind < 0.55:
                self._quote(symbol, now, out)
            else:
                self._book(symbol, now, out)
        if r.random() < 0.02:
            out.append(Gap(now - S, now, "v", r.choice(self.known), "trades", "disconnect", "lost", 1, 2))
        return out

    def end(self, now: int) -> list[Record]:
        """Bring every instrument to a defined end: a LIVE book, one more trade and quote."""
        out: list[Record] = []
        for symbol in self.names:
            if symbol not in self.known:
                self._appear(symbol, now, out)
            if self.books[symbol] is None:
                self._snapshot(symbol, now, out)
            self._book(symbol, now, out, losing=False)
            self._trade(symbol, now, out)
            self._quote(symbol, now, out)
        return out

    def _appear(self, symbol: str, now: int, out: list[Record]) -> None:
        self.known.append(symbol)
        if self.rng.random() < 0.8:
            empty = ("",) * 4
            out.append(
                InstrumentRecord(
                    now, now, "v", symbol, symbol, "USD", "", "spot", "0.01", *empty, False, None, "trading"
                )
            )
        out.append(FeedStatus(now, now, "v", "", "", "v-0", "connected", ""))
        self.books[symbol] = None
        if self.rng.random() < 0.7:
            self._snapshot(symbol, now, out)

    def _trade(self, symbol: str, now: int, out: list[Record]) -> None:
        self.ids[symbol] += 1
        n = self.ids[symbol]
        trade = Trade(now, now + n, "v", symbol, str(n), n, 100.0 + self.rng.randint(0, 50), 1.0 + n, "buy")
        self.trades[symbol, n] = trade
        out.append(trade)

    def _quote(self, symbol: str, now: int, out: list[Record]) -> None:
        self.updates += 1
        quote = Quote(now, now, "v", symbol, self.updates, 99.0, self.updates * 1.0, 101.0, 2.0)
        self.quotes[symbol] = quote
        out.append(quote)

    def _snapshot(self, symbol: str, now: int, out: list[Record]) -> None:
        r = self.rng
        book = self.books[symbol] = OrderBook(venue="v", symbol=symbol)
        book.load(
            [(100.0 - n, float(r.randint(1, 9))) for n in range(r.randint(1, 12))],
            [(101.0 + n, float(r.randint(1, 9))) for n in range(r.randint(1, 12))],
        )
        self.updates += 1
        self.epochs[symbol] += 1000
        book.last_id = self.updates
        self._note(symbol, book)
        out.append(FeedStatus(now, now, "v", symbol, "book", "v-0", "LIVE", ""))
        out.append(
            BookSnapshot(
                now,
                now,
                "v",
                symbol,
                self.epochs[symbol],
                book.last_id,
                len(book.bids()),
                len(book.asks()),
                book.packed_bids(),
                book.packed_asks(),
            )
        )

    def _book(self, symbol: str, now: int, out: list[Record], *, losing: bool = True) -> None:
        r = self.rng
        book = self.books[symbol]
        if book is None:
            if r.random() < 0.3:
                self._snapshot(symbol, now, out)
            return
        if losing and r.random() < self.plan.losses:
            self.books[symbol] = None
            out.append(
                FeedStatus(now, now, "v", symbol, "book", "v-0", r.choice(("STALE", "SYNCING", "EMPTY")), "sequence")
            )
            return
        bids = [(100.0 - r.randint(0, 15), float(r.randint(0, 5))) for _ in range(r.randint(0, 3))]
        asks = [(101.0 + r.randint(0, 15), float(r.randint(0, 5))) for _ in range(r.randint(0, 3))]
        self.updates += 1
        first, book.last_id = book.last_id + 1, self.updates
        book.apply(bids, asks)
        self._note(symbol, book)
        out.append(
            BookDelta(
                now, now, "v", symbol, self.epochs[symbol], book.last_id, first, pack_levels(bids), pack_levels(asks)
            )
        )

    def _note(self, symbol: str, book: OrderBook) -> None:
        self.truth[symbol, book.last_id] = (book.packed_bids(), book.packed_asks())


class Watched:
    """One client with its program, and the judge of what the program sees."""

    def __init__(self, run: Run, number: int, plan: ClientPlan) -> None:
        self.run = run
        self.number = number
        self.plan = plan
        self.client = AsyncClient(
            "sim:server",
            topics=plan.topics,
            policy=plan.policy,
            queue=plan.queue,
            buffer=plan.buffer,
            clock=run.clock,
            rng=random.Random(run.plan.seed * 10 + number),
        )
        self.hurry = False
        self.last: dict[str, int] = {}  # trade numbers
        self.excused: dict[str, int] = {}  # how many may be missing; -1: any number
        self.quotes: dict[str, Quote] = {}
        self.seen = 0
        self._rng = random.Random(run.plan.seed * 100 + number)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.client.start()
        self._task = asyncio.create_task(self._read(), name=f"program {self.number}")

    async def _read(self) -> None:
        async for items in self.client.items():
            for item in items:
                self._judge(item)
            self.check()
            if self.plan.pause and not self.hurry:
                await self.run.clock.sleep(self._rng.randint(0, self.plan.pause))

    def _judge(self, item: Any) -> None:
        run = self.run
        self.seen += 1
        if isinstance(item, Message):
            record = item.record
            run.log.add(
                run.loop.ns,
                f"client {self.number}",
                repr((type(record).__name__, item.seq, item.head.view, item.head.flags)),
            )
            if isinstance(record, Trade):
                self._trade(record)
            elif isinstance(record, Quote) and item.head.view == 0:
                self.quotes[record.symbol] = record
            return
        run.log.add(run.loop.ns, f"client {self.number}", repr(item))
        if isinstance(item, Lost) and item.kind is Kind.TRADES:
            before = self.excused.get(item.symbol, 0)
            self.excused[item.symbol] = -1 if before < 0 or not item.to_seq else before + item.count
        elif isinstance(item, Connected | Disconnected | BookChanged):
            run.summary.faults[type(item).__name__.lower()] += 1

    def _trade(self, trade: Trade) -> None:
        run, symbol, n = self.run, trade.symbol, trade.trade_seq
        assert n is not None
        if run.source.trades.get((symbol, n)) != trade:
            raise Violation("published", f"client {self.number} got {trade}, which was never published")
        last, allowed = self.last.get(symbol), self.excused.pop(symbol, 0)
        if last is not None:
            if n <= last:
                raise Violation("published", f"client {self.number}: trade {n} of {symbol} came after {last}")
            if allowed >= 0 and n - last - 1 != allowed:
                raise Violation(
                    "hole", f"client {self.number}: {n} of {symbol} follows {last}, {allowed} were told to be lost"
                )
        self.last[symbol] = n

    def check(self) -> None:
        """At any moment: a book that is called LIVE is the true one as of its last id."""
        client = self.client
        client.core.check()
        if client.core.holes:
            raise Violation("hole", f"client {self.number}: {client.core.broken or 'a hole that nobody explained'}")
        for symbol in self.run.source.names:
            try:
                book = client.book(f"v:{symbol}", 0)
            except UnknownBookError:
                continue
            if book.state is BookState.LIVE:
                true = self.run.source.truth.get((symbol, book.last_id))
                if true != (book.packed_bids(), book.packed_asks()):
                    raise Violation("book", f"client {self.number}: {symbol} as of {book.last_id} is not the true book")
        task = self._task
        if task is not None and task.done() and not task.cancelled():
            error = task.exception()
            raise error if error is not None else Violation("alive", f"client {self.number} ended: {self.client.error}")

    def asks_for(self, kind: str, symbol: str) -> bool:
        return any(
            t.partition(" ")[0] == kind and t.partition(" ")[2] in ("*", f"v:{symbol}") for t in self.plan.topics
        )

    def agree(self) -> None:
        """When all is quiet: everything is as the hub has it."""
        run, client = self.run, self.client
        name = f"client {self.number} ({self.plan.policy})"
        if not client.connected:
            raise Violation("alive", f"{name} is not connected: {client.error or client.core.broken}")
        for symbol in run.source.names:
            hub = run.server.hub.books[f"v:{symbol}"]
            for kind, depth in (("book", None), ("book@3", 3)):
                if not self.asks_for(kind, symbol):
                    continue
                book = client.book(f"v:{symbol}", depth or 0)
                book.check()
                if book.state is not BookState.LIVE or (book.bids(), book.asks()) != (hub.bids(depth), hub.asks(depth)):
                    raise Violation(
                        "book",
                        f"{name}: {kind} of {symbol} is {book.state.value}, {book.bids(3)} | {book.asks(3)} for {hub.bids(3)} | {hub.asks(3)}",
                    )
            if self.asks_for("trades", symbol) and self.last.get(symbol) != run.source.ids[symbol]:
                raise Violation(
                    "hole", f"{name}: last trade of {symbol} is {self.last.get(symbol)}, not {run.source.ids[symbol]}"
                )
            if self.asks_for("quotes", symbol) and self.quotes.get(symbol) != run.source.quotes[symbol]:
                raise Violation("quote", f"{name}: {self.quotes.get(symbol)} for {run.source.quotes[symbol]}")
            if self.asks_for("bbo", symbol):
                quote = client.core.quotes.get(f"v:{symbol}")
                best = (hub.best_bid, hub.best_ask)
                if not self.asks_for("quotes", symbol) and (
                    quote is None
                    or ((quote.bid_price, quote.bid_quantity), (quote.ask_price, quote.ask_quantity)) != best
                ):
                    raise Violation("quote", f"{name}: {quote} for {best}")

    async def stop(self) -> None:
        await self.client.close()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


class Run:
    """One seed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed + 1)
        self.loop = SimLoop(limit=3_600 * S, steps=3_000_000)
        self.clock = VirtualClock(self.loop, START)
        self.net = SimNet(
            self.loop, random.Random(plan.seed + 2), capacity=plan.capacity, partial=plan.partial, again=plan.again
        )
        self.transport = SimTransport(self.net)
        self.source = Source(random.Random(plan.seed + 3), plan)
        self.summary = Summary(seeds=1)
        self.log = EventLog()
        self.server: Server
        self.clients: list[Watched] = []

    def execute(self) -> Summary:
        """Run to the end; raises Violation."""
        guard = Guard()

        def transport_of(address: Address) -> SimTransport:
            return self.transport

        # The call in Rust takes descriptors: where it is there, the one that takes simulated ones stands in for it.
        send_all = self.net.send_all if sendbuffer._send_all is not None else None
        with (
            guard,
            mock.patch.object(base, "transport_of", transport_of),
            mock.patch.object(sendbuffer, "_send_all", send_all),
        ):
            asyncio.set_event_loop(None)
            self.loop.run(self._main())
        if guard.broken:
            raise Violation("guard", guard.broken[0])
        for context in self.loop.errors:
            raise Violation("crash", f"{context.get('message')}: {context.get('exception')!r}")
        self.summary.virtual_seconds = self.loop.ns / 1e9
        return self.summary

    async def _start_server(self) -> None:
        limits = Limits(
            replay_messages=self.plan.ring, heartbeat=2 * S, idle=20 * S, login=5 * S, queue=1_000, queue_max=5_000
        )
        self.server = Server(
            clock=self.clock,
            limits=limits,
            options=ListenOptions(low_water=self.plan.low_water),
            requests=10_000,
            loader=lambda group, name: self.transport,
        )
        await self.server.listen("sim:server")

    async def _kill_server(self) -> None:
        self.summary.kills += 1
        self.log.add(self.loop.ns, "kill")
        self.net.crash()
        ticking = self.server._ticking
        assert ticking is not None
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        self.source.restarted()
        await self.clock.sleep(self.rng.choice((1, 50 * MS, 3 * S)))
        await self._start_server()

    async def _main(self) -> None:
        plan, r = self.plan, self.rng
        await self._start_server()
        joins = sorted(r.randint(0, plan.steps // 2) for _ in plan.clients)
        faults: dict[int, list[str]] = {}
        for kind, count in (("reset", plan.resets), ("freeze", plan.freezes), ("kill", plan.kills)):
            for _ in range(count):
                faults.setdefault(r.randrange(plan.steps), []).append(kind)
        for step in range(plan.steps):
            while len(self.clients) < len(joins) and joins[len(self.clients)] <= step:
                watched = Watched(self, len(self.clients), plan.clients[len(self.clients)])
                self.clients.append(watched)
                await watched.start()
            for kind in faults.get(step, ()):
                await self._fault(kind)
            self._publish(self.source.step(self.clock.now()))
            await self.clock.sleep(r.choice((0, 1 * MS, 20 * MS, 200 * MS)))
            self._check()
        await self._settle()
        for watched in self.clients:
            watched.agree()
        for watched in self.clients:
            await watched.stop()
        await self.server.close()
        if self.server.sessions or self.server.hub.clients:
            raise Violation("alive", "sessions are left when all clients are gone")

    async def _fault(self, kind: str) -> None:
        if kind == "kill":
            await self._kill_server()
            return
        ends = self.net.open()
        if not ends:
            return
        end = self.rng.choice(ends)
        self.summary.faults[kind] += 1
        self.log.add(self.loop.ns, kind, str(end.fd))
        if kind == "reset":
            end.reset()
        else:
            far = end.peer
            (end if far is None or self.rng.random() < 0.5 else far).freeze(self.rng.choice((100 * MS, 1 * S, 8 * S)))

    def _publish(self, records: list[Record]) -> None:
        self.log.add(self.loop.ns, "publish", ",".join(type(r).__name__ for r in records))
        self.server.publish(records)

    def _check(self) -> None:
        server, plan = self.server, self.plan
        server.hub.check()
        for client in server.hub.clients:
            if len(client.queue) > client.bound:
                raise Violation("bound", f"{len(client.queue)} messages wait for {client.name}, {client.bound} may")
        for session in server.sessions:
            if session.port.unsent > plan.low_water + (256 << 10) + (64 << 10):
                raise Violation("bound", f"{session.port.unsent} bytes are unsent")
        for watched in self.clients:
            watched.check()

    async def _settle(self) -> None:
        """No faults any more: the last records, and time for everybody."""
        for watched in self.clients:
            watched.hurry = True
        self.net.again = 0.0
        for _ in range(150):  # longer than any pause between two attempts
            await self.clock.sleep(S // 2)
            if all(watched.client.connected for watched in self.clients):
                break
        # One by one, so that nobody's queue is too small for them; frozen connections may be noticed by them only.
        for last in (False, True):
            for record in self.source.end(self.clock.now()):
                self._publish([record])
                await self.clock.sleep(30 * MS)
            await self.clock.sleep(2 * S if last else 10 * S)
        self._check()


def run_plan(plan: Plan) -> Summary:
    """Run a plan; raises Violation."""
    return Run(plan).execute()


def run_seed(seed: int) -> Summary:
    """Run a seed; raises Violation with what it expands to."""
    plan = expand(seed)
    try:
        return run_plan(plan)
    except Violation as error:
        raise Violation(error.rule, f"{error}\n  {plan.describe()}") from error


def digest(seed: int) -> str:
    """The hash of everything that happened in a run."""
    run = Run(expand(seed))
    run.execute()
    return run.log.digest()
