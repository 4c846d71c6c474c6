"""Coinbase's emulators and feeds in one loop without sockets, on a clock that jumps."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from cmd_coinbase import EXCHANGE, CoinbaseExchange
from cmd_common.emulation import Accept, Close, MarketSource, ServerFrame, Text
from cmd_common.exchange import Endpoints
from cmd_common.faults import parse_fault
from cmd_common.feed import Feed, Output, Reconnect, Resubscribe, Send, Subscription
from cmd_common.history import Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.records import Record

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND
ENDPOINTS = Endpoints(ws="ws://emulated", rest="http://emulated")


def simulated(exchange: CoinbaseExchange = EXCHANGE, *faults: str, **options: Any) -> Any:
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, "levels": 100, **options}
    made = tuple(map(parse_fault, faults))
    return exchange.emulator(MarketSource(exchange.venue, simulate=True, faults=made, **options))


def recorded(exchange: CoinbaseExchange, *paths: Any, **options: Any) -> Any:
    options = {"speed": 0, **options}
    return exchange.emulator(MarketSource(exchange.venue, recordings=tuple(map(str, paths)), **options))


class CoinbaseSession:
    """Plays feeds against an emulator until everything was sent."""

    def __init__(self, exchange: CoinbaseExchange, emulator: Any, now: int = T0) -> None:
        self.exchange = exchange
        self.emulator = emulator
        self.now = now
        self.records: list[Record] = []
        self.feeds: dict[int, Feed] = {}
        self.frames: list[str] = []
        self.reconnects: list[str] = []
        self._numbers = 0

    # REST

    def get(self, target: str) -> HttpResponse:
        response = self.emulator.http("GET", target, {}, self.now)
        assert isinstance(response, HttpResponse), target
        return response

    def fetch(self, request: HttpRequest) -> HttpResponse:
        parts = urlsplit(request.url)
        return self.get(f"{parts.path}?{parts.query}" if parts.query else parts.path)

    def json(self, target: str) -> Any:
        response = self.get(target)
        assert response.status == 200, (response.status, response.body)
        return json.loads(response.body)

    def instruments(self) -> dict[str, Instrument]:
        response = self.fetch(self.exchange.instruments_request(ENDPOINTS))
        return {i.symbol: i for i in self.exchange.parse_instruments(response.body)}

    def walk(
        self, walk: Walk, now: int, *, cursor: str | None = "", most: int = 10_000
    ) -> tuple[list[Any], list[str], Any]:
        """Read a walk from a cursor on; returns records, the cursors that were asked, and the one to go on with."""
        history: Any = self.exchange.history
        records: list[Any] = []
        asked: list[str] = []
        while cursor is not None and len(asked) < most:
            assert cursor not in asked, "an endless walk"
            asked.append(cursor)
            request = history.first(walk, ENDPOINTS) if not cursor else history.next(walk, cursor, ENDPOINTS)
            response = self.fetch(request)
            assert self.exchange.check(response, request.url) is None, response.body
            page = history.page(walk, cursor, response, now)
            now += page.wait
            records += page.records
            cursor = page.cursor
        return records, asked, cursor

    # WebSocket

    def start(self, subscription: Subscription) -> list[Any]:
        feeds = self.exchange.feeds(subscription, self.instruments(), ENDPOINTS)
        for feed in feeds:
            self._open(feed)
        return feeds

    def _open(self, feed: Feed) -> None:
        self._numbers += 1
        number = self._numbers
        assert isinstance(self.emulator.ws_open(number, urlsplit(feed.url).path, {}, self.now), Accept)
        self.feeds[number] = feed
        self._take(number, feed.connected(self.now))

    def _take(self, number: int, output: Output) -> None:
        self.records += output.records
        for action in output.actions:
            frames: tuple[str, ...] = ()
            if isinstance(action, Send):
                frames = (action.frame,)
            elif isinstance(action, Resubscribe):
                frames = action.frames
            else:
                assert isinstance(action, Reconnect)
                self.reconnects.append(action.reason)
                self.emulator.ws_closed(number, self.now)
                self._again(number, action.reason)
                return
            for frame in frames:
                self.now += SECOND // 4
                self._deliver(self.emulator.ws_receive(number, frame, self.now))

    def _again(self, number: int, reason: str) -> None:
        feed = self.feeds.pop(number)
        self.records += feed.disconnected(self.now, reason).records
        self._open(feed)

    def _deliver(self, frames: list[ServerFrame]) -> None:
        for frame in frames:
            feed = self.feeds.get(frame.connection)
            if feed is None:
                continue
            if isinstance(frame, Text):
                self.frames.append(frame.text)
                self._take(frame.connection, feed.receive(frame.text, self.now))
            elif isinstance(frame, Close):
                self.emulator.ws_closed(frame.connection, self.now)
                if frame.code == 4000:
                    del self.feeds[frame.connection]
                else:
                    self._again(frame.connection, f"closed with {frame.code}")

    def run(self) -> None:
        """Until everything was sent and every feed was told."""
        ticked = self.now
        feeds = set(self.feeds.values())
        for _ in range(200_000):
            poll = self.emulator.poll(self.now)
            self._deliver(poll.frames)
            if self.now - ticked >= SECOND:
                ticked = self.now
                for number, feed in list(self.feeds.items()):
                    if self.feeds.get(number) is feed:
                        self._take(number, feed.tick(self.now))
            if poll.finished and not self.feeds:
                break
            self.now = max(self.now + SECOND // 1000, min(poll.next_time or self.now, self.now + SECOND // 4))
        else:
            raise AssertionError("the emulator never ended")
        for feed in feeds:
            self.records += feed.close(self.now).records

    def of(self, kind: type[Any], symbol: str | None = None) -> list[Any]:
        return [r for r in self.records if isinstance(r, kind) and symbol in (None, getattr(r, "symbol", None))]
