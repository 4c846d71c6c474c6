"""Any exchange package against its own emulator over a bad network, in virtual time, from one seed.

Not the shells (those are in ``sim_run``) but what each venue has of its own: feed, rule, builder and
emulator. A storm of torn, repeated, swapped and lost frames, garbage, cut connections and failing REST
requests is followed by calm; then every book must be LIVE and equal to the exchange's, every row of a
book must chain, and every trade must be stored or covered by a gap row.

TCP neither loses nor reorders: those faults are only for venues whose protocol shows them (``Chaos.sees``).
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from cmd_common.emulation import Accept, Close, Emulator, MarketSource, Pending, Ping
from cmd_common.emulation import Text as ServerText
from cmd_common.exchange import Exchange, next_instruments_request
from cmd_common.feed import Feed, FetchSnapshot, Output, Reconnect, Resubscribe, Send, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import TABLE_OF, BookDelta, BookSnapshot, Gap, Record, Trade
from cmd_common.schema import SCHEMA
from cmd_common.sequence import BookState

SECOND = 1_000_000_000
START = 1_748_907_900 * SECOND
MILLISECOND = 1_000_000
LATENCY = (2_000_000, 40_000_000)


class Chaos(Struct, frozen=True):
    """What may happen on a venue, and how its feed is set up."""

    venue: str
    sees: bool = True  # a lost or repeated book message shows at the next one
    trades: bool = True  # ids of trades rise by one, so that a lost one shows
    options: dict[str, str] = {}
    storm: int = 40  # s
    calm: int = 90  # s in which every book must become right


VENUES = [
    Chaos("binance-spot"),
    Chaos("binance-usdm"),
    Chaos("coinbase", sees=False),
    Chaos("coinbase-advanced"),
    Chaos("gemini", trades=False),
    Chaos("gemini", sees=False, options={"api": "v2"}),
    Chaos("kraken", options={"depth": "10"}),
    Chaos("kraken", sees=False),  # the checksum covers the best ten levels only
    Chaos("okx"),
    Chaos("bybit-spot", trades=False),
    Chaos("bybit-linear", trades=False),
    Chaos("bitstamp", sees=False),
]


class Link:
    """One connection of one feed; frames keep their order, as TCP has it."""

    def __init__(self, feed: Feed, number: int) -> None:
        self.feed = feed
        self.number = number
        self.open = True
        self.free_at = [0, 0]  # per direction: no frame arrives before the one sent earlier
        self.held: str | None = None


class World:
    """The venue, its feeds and the network between them."""

    def __init__(self, exchange: Exchange, chaos: Chaos, seed: int) -> None:
        self.chaos = chaos
        self.exchange = exchange
        self.rng = random.Random(f"{chaos.venue}/{seed}")
        self.now = START
        self.source = MarketSource(
            venue=exchange.venue, simulate=True, symbols=2, seed=seed, start=START, rate=12.0, levels=60,
            history_days=0, history_trades=5, duration=(8 + chaos.storm + chaos.calm) * SECOND,
        )  # fmt: skip
        self.emulator: Emulator = exchange.emulator(self.source)
        self.endpoints = exchange.endpoints.override("http://sim:80")
        self.records: list[Record] = []
        self.links: dict[int, Link] = {}
        self.numbers = 0
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order = 0
        self.pending: dict[int, Callable[[HttpResponse], None]] = {}
        self.faults: dict[str, int] = {}
        self.storming = False
        self.ended = False
        self.instruments = {i.symbol: i for i in self._load()}
        types = tuple(t for t in exchange.types if t in ("trades", "quotes", "book"))
        subscription = Subscription(tuple(self.instruments), types, options=chaos.options)
        self.feeds = exchange.feeds(subscription, self.instruments, self.endpoints)

    def _load(self) -> list[Any]:
        request: HttpRequest | None = self.exchange.instruments_request(self.endpoints)
        found = []
        while request is not None:
            response = self._http(request)
            assert isinstance(response, HttpResponse)
            assert response.status == 200, response
            found += self.exchange.parse_instruments(response.body)
            request = next_instruments_request(self.exchange, request, response.body, self.endpoints)
        return found

    def _http(self, request: HttpRequest) -> HttpResponse | Pending:
        url = urlsplit(request.url)
        target = url.path + (f"?{url.query}" if url.query else "")
        return self.emulator.http(request.method, target, dict(request.headers), self.now)

    # Time

    def at(self, when: int, what: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.events, (max(when, self.now), self.order, what))

    def run(self, until: int) -> None:
        """Let time pass, in steps of 20 ms of the emulator and 1 s of the feeds."""
        while self.now < until and not self.ended:
            self.now = min(until, self.now + 20_000_000)
            self.happen()
            self.poll()
            if self.now % SECOND == 0:
                for link in list(self.links.values()):
                    if link.open:
                        self.take(link, link.feed.tick(self.now))
                if self.storming and self.links and self.rng.random() < 0.06:
                    self.cut(self.rng.choice(list(self.links.values())))

    def happen(self) -> None:
        while self.events and self.events[0][0] <= self.now:
            heapq.heappop(self.events)[2]()

    def poll(self) -> None:
        out = self.emulator.poll(self.now)
        for frame in out.frames:
            link = self.links.get(frame.connection)
            if link is None or isinstance(frame, Ping):
                continue
            if isinstance(frame, Close) and frame.code == 4000:
                self.ended = True  # everything was sent; the books stay as they are
            elif isinstance(frame, Close):
                self.cut(link)
            else:
                self.to_client(link, frame)
        for token, response in out.responses:
            self.pending.pop(token)(response)

    def later(self, link: Link, way: int) -> int:
        when = max(link.free_at[way], self.now + self.rng.randint(*LATENCY))
        link.free_at[way] = when
        return when

    # Network

    def connect(self, feed: Feed) -> None:
        self.numbers += 1
        number = self.numbers
        url = urlsplit(feed.url)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        answer = self.emulator.ws_open(number, target, {}, self.now)
        if not isinstance(answer, Accept):
            self.at(self.now + 2 * SECOND, lambda: self.connect(feed))
            return
        link = self.links[number] = Link(feed, number)
        self.take(link, feed.connected(self.now))

    def cut(self, link: Link) -> None:
        """The connection breaks; both sides learn it and the feed connects again."""
        if not link.open:
            return
        link.open = False
        self.faults["cut"] = self.faults.get("cut", 0) + 1
        del self.links[link.number]
        self.emulator.ws_closed(link.number, self.now)
        self.take(link, link.feed.disconnected(self.now, "cut"))
        self.at(self.now + self.rng.randint(SECOND // 10, 3 * SECOND), lambda: self.connect(link.feed))

    def to_server(self, link: Link, text: str) -> None:
        def arrive() -> None:
            if link.open:
                for frame in self.emulator.ws_receive(link.number, text, self.now):
                    if isinstance(frame, ServerText):
                        self.to_client(link, frame)
                    elif isinstance(frame, Close):
                        self.cut(link)

        self.at(self.later(link, 0), arrive)

    def to_client(self, link: Link, frame: ServerText) -> None:
        texts = [frame.text]
        fault = self.rng.random() if self.storming else 1.0
        if fault < 0.015:
            texts = self.damage(link, frame.text)
        if link.held is not None and texts:
            texts.append(link.held)
            link.held = None
        for text in texts:
            self.at(self.later(link, 1), lambda text=text: self.deliver(link, text))  # type: ignore[misc]

    def damage(self, link: Link, text: str) -> list[str]:
        kinds = ["tear", "garbage"]
        if self.chaos.sees and (self.chaos.trades or not self.is_trade(text)):
            kinds += ["drop", "repeat", "swap"]
        kind = self.rng.choice(kinds)
        self.faults[kind] = self.faults.get(kind, 0) + 1
        if kind == "tear":
            return [text[: self.rng.randrange(len(text))] if text else ""]
        if kind == "garbage":
            return [self.rng.choice(["<html>", "null", "[]", '{"x":1}', "\x00"]), text]
        if kind == "repeat":
            return [text, text]
        if kind == "swap" and link.held is None:
            link.held = text
            return []
        return []

    def is_trade(self, text: str) -> bool:
        """Whether a frame may hold trades: looked for in the words that exchanges use for them."""
        return any(word in text.lower() for word in ("trade", '"t":', "match"))

    def deliver(self, link: Link, text: str) -> None:
        if link.open:
            self.take(link, link.feed.receive(text, self.now))

    # What a feed wants

    def take(self, link: Link, output: Output) -> None:
        self.records += output.records
        for builder in link.feed.books.values():
            builder.check()
        for action in output.actions:
            if isinstance(action, Send):
                self.to_server(link, action.frame)
            elif isinstance(action, Resubscribe):
                for frame in action.frames:
                    self.to_server(link, frame)
            elif isinstance(action, Reconnect):
                self.at(self.now, lambda: self.cut(link))
            elif isinstance(action, FetchSnapshot):
                self.fetch(link, action)

    def fetch(self, link: Link, action: FetchSnapshot) -> None:
        def give(response: HttpResponse) -> None:
            def arrive() -> None:
                if not link.open:
                    return
                feed = link.feed
                error = self.exchange.check(response, action.request.url)
                if error is not None:
                    self.take(link, feed.snapshot_failed(action.symbol, error.message, self.now))
                else:
                    self.take(link, feed.snapshot(action.symbol, response.body, self.now))

            self.at(self.now + self.rng.randint(*LATENCY), arrive)

        def ask() -> None:
            if self.storming and self.rng.random() < 0.2:
                self.faults["rest"] = self.faults.get("rest", 0) + 1
                give(HttpResponse(503, b"<html>busy</html>", {}))
                return
            answer = self._http(action.request)
            if isinstance(answer, Pending):
                self.pending[answer.token] = give
            else:
                give(answer)

        self.at(self.now + self.rng.randint(*LATENCY), ask)

    # The whole

    def play(self) -> None:
        for feed in self.feeds:
            self.connect(feed)
        self.run(self.now + 8 * SECOND)
        self.storming = True
        self.run(self.now + self.chaos.storm * SECOND)
        self.storming = False
        self.run(self.now + (self.chaos.calm + 60) * SECOND)
        assert self.ended, "the simulated market did not end"
        self.settle()

    def settle(self) -> None:
        """Let everything that is under way arrive, without anything new from the market."""
        for _ in range(20):
            if not self.events:
                return
            self.now = max(self.now, self.events[-1][0], max(e[0] for e in self.events))
            self.happen()

    def truth(self) -> dict[str, Any]:
        answer = self.emulator.http("GET", "/__replay/truth?depth=5000&trades=1", {}, self.now)
        assert isinstance(answer, HttpResponse)
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def check(self) -> None:
        truth = self.truth()
        problems = [*self.wrong_books(truth), *self.wrong_rows(), *self.wrong_trades(truth)]
        assert not problems, (self.chaos.venue, self.faults, problems[:5])

    def wrong_books(self, truth: dict[str, Any]) -> list[str]:
        found = []
        for feed in self.feeds:
            for symbol, builder in feed.books.items():
                book = builder.book
                if book.state is not BookState.LIVE:
                    found.append(f"{symbol} is {book.state.value}: {builder.gap_reason} {builder.detail}")
                    continue
                for side, mine in (("bids", book.bids()), ("asks", book.asks())):
                    theirs = [tuple(level) for level in truth["books"][symbol][side]]
                    depth = min(len(mine), len(theirs))
                    if depth < 5 or mine[:depth] != theirs[:depth] or len(mine) > len(theirs):
                        at = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), depth)
                        found.append(f"{symbol} {side} differ at level {at} of {len(mine)}/{len(theirs)}")
        return found

    def wrong_rows(self) -> list[str]:
        """Rows with one key must be one row, and the deltas of an epoch must follow each other."""
        found = []
        rows: dict[tuple[Any, ...], Record] = {}
        last: dict[str, tuple[int, int, bool]] = {}  # epoch, seq, whether that is a snapshot's
        for record in self.records:
            table = SCHEMA[TABLE_OF[type(record)]]
            if table.name not in ("feed_status", "gaps"):
                key = (table.name, *(getattr(record, name) for name in table.key))
                other = rows.setdefault(key, record)
                if other != record and not (other.ts_recv != record.ts_recv and _same(other, record)):
                    found.append(f"two rows of one key: {other} {record}"[:300])
            if isinstance(record, BookSnapshot):
                last[record.symbol] = (record.epoch, record.seq, True)
            elif isinstance(record, BookDelta):
                epoch, seq, fresh = last.get(record.symbol, (-1, -1, False))
                # The first delta behind a snapshot may end where the snapshot does (futures).
                if record.epoch != epoch or record.seq < seq or (record.seq == seq and not fresh):
                    found.append(f"a delta that does not follow: {epoch}/{seq} {record.epoch}/{record.seq}")
                last[record.symbol] = (record.epoch, record.seq, False)
        return found

    def wrong_trades(self, truth: dict[str, Any]) -> list[str]:
        found = []
        for symbol, ids in truth.get("trade_ids", {}).items():
            mine = [r for r in self.records if isinstance(r, Trade) and r.symbol == symbol]
            gaps = [
                g for g in self.records if isinstance(g, Gap) and g.record_type == "trades" and g.symbol in ("", symbol)
            ]
            stored = {t.trade_id for t in mine}
            times = dict(self.trade_times(symbol))
            first = min((t.ts_event for t in mine), default=0)
            missing = [i for i in ids if i not in stored and times[i] > first]
            uncovered = [i for i in missing if not any(_covers(g, i, times[i]) for g in gaps)]
            if uncovered:
                found.append(f"{symbol}: {len(uncovered)} trades neither stored nor in a gap, such as {uncovered[:3]}")
            if not mine:
                found.append(f"{symbol}: no trades at all")
            if len(stored) != len(mine):
                found.append(f"{symbol}: a trade was recorded twice")
        return found

    def trade_times(self, symbol: str) -> list[tuple[str, int]]:
        world = self.emulator.market  # type: ignore[attr-defined]
        trades = world.trades_from(symbol, 0, 10_000_000)
        return [(self.emulator.trade_name(t), t.ts) for t in trades]  # type: ignore[attr-defined]


def _same(a: Any, b: Any) -> bool:
    return all(getattr(a, n) == getattr(b, n) for n in a.__struct_fields__ if n != "ts_recv")


def _covers(gap: Gap, id_: str, ts: int) -> bool:
    if (
        gap.first_id is not None
        and gap.last_id is not None
        and id_.isdigit()
        and gap.first_id <= int(id_) <= gap.last_id
    ):
        return True
    return gap.ts_from <= ts <= gap.ts_to + MILLISECOND  # the simulation knows microseconds, some venues do not
