"""A Kraken feed and its emulator in a loop, without sockets, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cmd_common.emulation import Accept, Close, MarketSource, Text
from cmd_common.faults import parse_fault
from cmd_common.feed import Reconnect, Resubscribe, Send, Subscription
from cmd_common.feed_base import FeedBase
from cmd_common.http import HttpResponse
from cmd_common.records import FeedStatus, Gap, Trade
from cmd_kraken import KRAKEN
from cmd_kraken.emulator import KrakenEmulator

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND


def simulated(*faults: str, **options: Any) -> KrakenEmulator:
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, **options}
    return KrakenEmulator(MarketSource("kraken", simulate=True, faults=tuple(map(parse_fault, faults)), **options))


def recorded(*paths: Path, **options: Any) -> KrakenEmulator:
    options = {"speed": 0, **options}
    return KrakenEmulator(MarketSource("kraken", recordings=tuple(map(str, paths)), **options))


class Loop:
    """Feeds of one subscription connected to an emulator; ``run`` goes on until everything was sent."""

    def __init__(
        self,
        emulator: KrakenEmulator,
        types: Sequence[str] = KRAKEN.types,
        *,
        symbols: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.emulator = emulator
        self.now = T0
        self.instruments = {i.symbol: i for i in KRAKEN.parse_instruments(self.get("AssetPairs?assetVersion=1").body)}
        wanted = tuple(symbols) or tuple(self.instruments)
        subscription = Subscription(wanted, tuple(types), **options)
        (feed,) = KRAKEN.feeds(subscription, self.instruments, KRAKEN.endpoints)
        assert isinstance(feed, FeedBase)
        self.feed = feed
        self.records: list[Any] = []
        self.frames: list[str] = []
        self.actions: list[Any] = []
        self.connection = 0
        self.open = False
        self.done = False

    def get(self, what: str) -> HttpResponse:
        result = self.emulator.http("GET", f"/0/public/{what}", {}, self.now)
        assert isinstance(result, HttpResponse)
        return result

    def json(self, what: str) -> Any:
        return msgspec.json.decode(self.get(what).body)

    def connect(self) -> None:
        self.connection += 1
        path = self.feed.url.removeprefix("wss://ws.kraken.com")
        assert isinstance(self.emulator.ws_open(self.connection, path, {}, self.now), Accept)
        self.open = True
        self.take(self.feed.connected(self.now))

    def take(self, output: Any) -> None:
        self.records += output.records
        for action in output.actions:
            self.actions.append(action)
            if isinstance(action, Reconnect):
                self.emulator.ws_closed(self.connection, self.now)
                self.lose("reconnect")
                return
            for frame in (action.frame,) if isinstance(action, Send) else getattr(action, "frames", ()):
                self.now += SECOND // 10
                self.play(self.emulator.ws_receive(self.connection, frame, self.now))

    def lose(self, reason: str) -> None:
        self.open = False
        self.take(self.feed.disconnected(self.now, reason))

    def play(self, frames: Sequence[Any]) -> None:
        for frame in frames:
            if frame.connection != self.connection or not self.open:
                continue
            if isinstance(frame, Text):
                self.frames.append(frame.text)
                self.take(self.feed.receive(frame.text, self.now))
            elif isinstance(frame, Close):
                self.emulator.ws_closed(self.connection, self.now)
                self.done = self.done or frame.code == 4000
                self.lose(f"closed {frame.code}")

    def run(self, until: int | None = None) -> Loop:
        if not self.open:
            self.connect()
        while not self.done:
            poll = self.emulator.poll(self.now, 64)
            self.play(poll.frames)
            if not self.open and not self.done:
                self.now += SECOND
                self.connect()
            if until is not None and self.emulator.world.position >= until:
                return self
            self.take(self.feed.tick(self.now))
            if poll.next_time is None:
                break
            self.now = max(self.now + 1, poll.next_time)
        return self

    def of(self, kind: type[Any], symbol: str = "") -> list[Any]:
        return [r for r in self.records if isinstance(r, kind) and symbol in ("", r.symbol)]

    def gaps(self, table: str = "") -> list[Gap]:
        return [g for g in self.of(Gap) if not g.repaired_by and table in ("", g.record_type)]

    def states(self, state: str) -> list[FeedStatus]:
        return [r for r in self.of(FeedStatus) if r.state == state]

    def faultless(self) -> bool:
        """Whether nothing was wrong with any frame or book before the end."""
        c = self.feed.counters
        lost = {r.reason for r in self.states("STALE")}
        wrong = c.malformed + c.unknown_messages + c.unknown_fields + c.errors + c.gaps + c.duplicates
        return not wrong and lost <= {"disconnect"} and self.connection == 1 and not self.resubscriptions()

    def books_are_true(self, depth: int = 1000) -> bool:
        """Whether every book equals the emulator's own; the session is over, so books are those of its last moment."""
        truth = self.emulator.truth(depth)["books"]
        for symbol, builder in self.feed.books.items():
            book = builder.book
            book.check()
            true = truth[symbol]
            if [list(x) for x in book.bids(depth)] != [list(x) for x in true["bids"]]:
                return False
            if [list(x) for x in book.asks(depth)] != [list(x) for x in true["asks"]]:
                return False
        return True

    def trade_ids(self, symbol: str) -> list[int]:
        return [t.trade_seq for t in self.of(Trade, symbol)]

    def resubscriptions(self) -> int:
        return sum(isinstance(a, Resubscribe) for a in self.actions)
