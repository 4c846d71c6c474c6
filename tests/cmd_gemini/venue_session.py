"""An emulator and the feeds of its venue in one loop without sockets, on a clock that jumps."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from cmd_common.emulation import Accept, Close, Emulator, MarketSource, Pending, ServerFrame, Text
from cmd_common.exchange import Endpoints, Exchange
from cmd_common.faults import parse_fault
from cmd_common.feed import Feed, FetchSnapshot, Output, Reconnect, Resubscribe, Send, Subscription
from cmd_common.history import Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.records import Record

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND
ENDPOINTS = Endpoints(ws="ws://emulated", rest="http://emulated")


def source(exchange: Exchange, *faults: str, **options: Any) -> MarketSource:
    """A short simulation that ends."""
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, "simulate": True, **options}
    return MarketSource(exchange.venue, faults=tuple(map(parse_fault, faults)), **options)


class VenueSession:
    """Plays feeds against an emulator until everything was sent; ``pages`` counts those of walks."""

    def __init__(self, exchange: Exchange, emulator: Emulator, now: int = T0) -> None:
        self.exchange = exchange
        self.emulator = emulator
        self.now = now
        self.records: list[Record] = []
        self.feeds: dict[int, Feed] = {}
        self.frames: list[str] = []
        self.reconnects: list[str] = []
        self.pages = 0
        self._numbers = 0
        self._pending: dict[int, tuple[Feed, str]] = {}

    # REST

    def get(self, target: str) -> HttpResponse:
        response = self.emulator.http("GET", target, {}, self.now)
        assert isinstance(response, HttpResponse), target
        return response

    def fetch(self, request: HttpRequest) -> HttpResponse:
        assert request.url.startswith(ENDPOINTS.rest)
        response = self.get(request.url[len(ENDPOINTS.rest) :])
        error = self.exchange.check(response, request.url)
        assert error is None, error
        return response

    def instruments(self) -> dict[str, Instrument]:
        body = self.fetch(self.exchange.instruments_request(ENDPOINTS)).body
        return {i.symbol: i for i in self.exchange.parse_instruments(body)}

    def walk(self, walk: Walk, *, now: int, most: int = 1000) -> tuple[dict[Any, Record], list[str]]:
        """Walk through history; returns rows by id or time, and what was lost. Cursors never repeat."""
        history = self.exchange.history
        assert history is not None
        rows: dict[Any, Record] = {}
        lost: list[str] = []
        request, cursor, seen = history.first(walk, ENDPOINTS), "", set[str]()
        for _ in range(most):
            self.pages += 1
            page = history.page(walk, cursor, self.fetch(request), now)
            for record in page.records:
                key = getattr(record, "trade_id", None) or getattr(record, "open_time", None)
                assert key not in rows
                rows[key] = record
            lost += [page.lost] if page.lost else []
            if page.cursor is None:
                return rows, lost
            assert page.cursor not in seen
            cursor = page.cursor
            seen.add(cursor)
            request = history.next(walk, cursor, ENDPOINTS)
        raise AssertionError("the walk never ended")

    # WebSocket

    def start(self, subscription: Subscription) -> list[Feed]:
        feeds = self.exchange.feeds(subscription, self.instruments(), ENDPOINTS)
        for feed in feeds:
            self._open(feed)
        return feeds

    def _open(self, feed: Feed) -> None:
        self._numbers += 1
        number = self._numbers
        parts = urlsplit(feed.url)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        assert isinstance(self.emulator.ws_open(number, target, {}, self.now), Accept)
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
            elif isinstance(action, FetchSnapshot):
                self._snapshot(number, action)
            else:
                assert isinstance(action, Reconnect)
                self.reconnects.append(action.reason)
                self.emulator.ws_closed(number, self.now)
                self._again(number, action.reason)
                return
            for frame in frames:
                self.now += SECOND // 20
                self._deliver(self.emulator.ws_receive(number, frame, self.now))

    def _snapshot(self, number: int, action: FetchSnapshot) -> None:
        feed = self.feeds[number]
        target = action.request.url[len(ENDPOINTS.rest) :]
        response = self.emulator.http("GET", target, {}, self.now)
        if isinstance(response, Pending):
            self._pending[response.token] = (feed, action.symbol)
        else:
            self._answer(feed, action.symbol, response)

    def _answer(self, feed: Feed, symbol: str, response: HttpResponse) -> None:
        number = next((n for n, f in self.feeds.items() if f is feed), None)
        if number is None:
            return
        if response.status == 200:
            self._take(number, feed.snapshot(symbol, response.body, self.now))
        else:
            self._take(number, feed.snapshot_failed(symbol, f"HTTP {response.status}", self.now))

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

    def run(self, *, seconds: int = 0) -> None:
        """Until everything was sent and every feed was told; or for so many seconds."""
        ticked, begun = self.now, self.now
        feeds = list(self.feeds.values())
        for _ in range(400_000):
            poll = self.emulator.poll(self.now)
            self._deliver(poll.frames)
            for token, response in poll.responses:
                self._answer(*self._pending.pop(token), response)
            if self.now - ticked >= SECOND:
                ticked = self.now
                for number, feed in list(self.feeds.items()):
                    if self.feeds.get(number) is feed:
                        self._take(number, feed.tick(self.now))
            if (poll.finished and not self.feeds) or (seconds and self.now - begun >= seconds * SECOND):
                break
            self.now = max(self.now + SECOND // 1000, min(poll.next_time or self.now, self.now + SECOND // 4))
        else:
            raise AssertionError("the emulator never ended")
        for feed in feeds:
            self.records += feed.close(self.now).records

    def of(self, kind: type[Any], symbol: str | None = None) -> list[Any]:
        return [r for r in self.records if isinstance(r, kind) and symbol in (None, getattr(r, "symbol", None))]

    def true_book(self, symbol: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        book = self.emulator.truth()["books"][symbol]
        return tuple([(float(p), float(q)) for p, q in book[side]] for side in ("bids", "asks"))  # type: ignore[return-value]
