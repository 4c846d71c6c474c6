"""An emulator and the feeds of its venue in one loop without sockets, on a clock that jumps.

For tests of an exchange package: what the emulator sends is what the feeds read, and ``Emulator.truth`` says what must
come out. Nothing here waits; a simulated minute takes a fraction of a second.

    session = VenueSession(EXCHANGE, EXCHANGE.emulator(simulated(EXCHANGE, "drop:rate=0.01")))
    feeds = session.start(Subscription(tuple(session.instruments()), ("trades", "book")))
    session.run()
    assert session.of(Trade, "BTC-USD")
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from cmd_common.emulation import Accept, Close, Emulator, MarketSource, Pending, ServerFrame, Text
from cmd_common.exchange import Endpoints, Exchange, next_instruments_request
from cmd_common.faults import parse_fault
from cmd_common.feed import Feed, FetchSnapshot, Output, Reconnect, Resubscribe, Send, Subscription
from cmd_common.history import Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.records import Record

__all__ = ["ENDPOINTS", "SECOND", "T0", "VenueSession", "Walked", "simulated"]

SECOND = 1_000_000_000
"""ns."""
T0 = 1_900_000_000 * SECOND
"""When a session begins, ns."""
ENDPOINTS = Endpoints(ws="ws://emulated", rest="http://emulated", archive="http://emulated")
"""Where the emulator of a session is said to be."""

R = TypeVar("R")


def simulated(exchange: Exchange, *faults: str, **options: Any) -> MarketSource:
    """Return a short simulation that ends, as fast as it can be played; ``faults`` as ``cmd-cli replay`` takes them."""
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, "simulate": True, **options}
    return MarketSource(exchange.venue, faults=tuple(map(parse_fault, faults)), **options)


class Walked(NamedTuple):
    """What a walk through history gave."""

    records: list[Any]
    lost: list[str]  # what the exchange no longer has, in words
    asked: list[str]  # the cursor of every page that was asked
    cursor: str | None  # where to go on; None: the end was reached

    def rows(self) -> dict[Any, Any]:
        """Return the records by trade id or open time; AssertionError where one came twice."""
        found = {getattr(r, "trade_id", None) or r.open_time: r for r in self.records}
        assert len(found) == len(self.records), "a record came twice"
        return found


class VenueSession:
    """Plays feeds against an emulator until everything was sent, and keeps what came out.

    ``pause`` is the time in ns between two frames of a client. ``records`` is everything the feeds gave, ``frames`` every
    text that they read, ``reconnects`` the reasons of connections that a feed gave up.
    """

    def __init__(self, exchange: Exchange, emulator: Emulator, now: int = T0, *, pause: int = SECOND // 20) -> None:
        self.exchange = exchange
        self.emulator = emulator
        self.now = now
        self.pause = pause
        self.records: list[Record] = []
        self.feeds: dict[int, Feed] = {}
        self.frames: list[str] = []
        self.reconnects: list[str] = []
        self._numbers = 0
        self._pending: dict[int, tuple[Feed, str]] = {}

    # -- REST

    def get(self, target: str) -> HttpResponse:
        """Return the answer to a GET of a path with its query, whatever its status."""
        response = self.emulator.http("GET", target, {}, self.now)
        assert isinstance(response, HttpResponse), target
        return response

    def fetch(self, request: HttpRequest) -> HttpResponse:
        """Return the answer to a request of the exchange; AssertionError where the exchange calls it an error."""
        parts = urlsplit(request.url)
        response = self.get(f"{parts.path}?{parts.query}" if parts.query else parts.path)
        error = self.exchange.check(response, request.url)
        assert error is None, error
        return response

    def instruments(self) -> dict[str, Instrument]:
        """Return the reference data by native symbol, page by page as a live session loads it."""
        found: dict[str, Instrument] = {}
        request: HttpRequest | None = self.exchange.instruments_request(ENDPOINTS)
        while request is not None:
            body = self.fetch(request).body
            found |= {i.symbol: i for i in self.exchange.parse_instruments(body)}
            request = next_instruments_request(self.exchange, request, body, ENDPOINTS)
        return found

    def walk(self, walk: Walk, now: int, *, cursor: str | None = "", most: int = 10_000) -> Walked:
        """Read history from a cursor on, ``most`` pages at most; AssertionError for a cursor that comes again."""
        history = self.exchange.history
        assert history is not None
        records: list[Any] = []
        lost: list[str] = []
        asked: list[str] = []
        while cursor is not None and len(asked) < most:
            assert cursor not in asked, "an endless walk"
            asked.append(cursor)
            request = history.next(walk, cursor, ENDPOINTS) if cursor else history.first(walk, ENDPOINTS)
            page = history.page(walk, cursor, self.fetch(request), now)
            now += page.wait
            records += page.records
            lost += [page.lost] if page.lost else []
            cursor = page.cursor
        return Walked(records, lost, asked, cursor)

    # -- WebSocket

    def start(self, subscription: Subscription) -> list[Any]:
        """Connect the feeds of a subscription and return them."""
        feeds = self.exchange.feeds(subscription, self.instruments(), ENDPOINTS)
        for feed in feeds:
            self._open(feed)
        return list(feeds)

    def _open(self, feed: Feed) -> None:
        self._numbers += 1
        number = self._numbers
        parts = urlsplit(feed.url)
        path = parts.path or "/"
        target = f"{path}?{parts.query}" if parts.query else path
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
                self.now += self.pause
                self._deliver(self.emulator.ws_receive(number, frame, self.now))

    def _snapshot(self, number: int, action: FetchSnapshot) -> None:
        feed = self.feeds[number]
        parts = urlsplit(action.request.url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
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

    def run(self, *, seconds: int = 0, polls: int = 400_000) -> None:
        """Play until everything was sent and every feed was told, or for so many seconds; then the feeds are closed.

        An emulator that is polled more often than ``polls`` is taken for endless: a quarter of a second passes at most
        from one poll to the next.
        """
        ticked, begun = self.now, self.now
        feeds = list(self.feeds.values())
        for _ in range(polls):
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

    def of(self, kind: type[R], symbol: str | None = None) -> list[R]:
        """Return the records of one type, of one symbol or of all."""
        return [r for r in self.records if isinstance(r, kind) and symbol in (None, getattr(r, "symbol", None))]

    def true_book(self, symbol: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Return bids and asks of the emulator's own book."""
        book = self.emulator.truth()["books"][symbol]
        bids, asks = ([(float(p), float(q)) for p, q in book[side]] for side in ("bids", "asks"))
        return bids, asks
