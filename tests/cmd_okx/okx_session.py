"""OKX's emulator and feeds in one loop without sockets, on a clock that jumps."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from cmd_common.emulation import Accept, Close, MarketSource, ServerFrame, Text
from cmd_common.exchange import Endpoints, next_instruments_request
from cmd_common.faults import parse_fault
from cmd_common.feed import Feed, Output, Reconnect, Resubscribe, Send, Subscription
from cmd_common.http import HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.records import Gap, Record, Trade
from cmd_common.sequence import BookState
from cmd_okx import OKX
from cmd_okx.emulator import OkxEmulator

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND
ENDPOINTS = Endpoints(ws="ws://emulated", rest="http://emulated", archive="http://emulated")


def simulated(*faults: str, **options: Any) -> OkxEmulator:
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, **options}
    return OkxEmulator(MarketSource("okx", simulate=True, faults=tuple(map(parse_fault, faults)), **options))


class Session:
    """Plays feeds against an emulator until everything was sent."""

    def __init__(self, emulator: OkxEmulator, now: int = T0) -> None:
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

    def fetch(self, url: str) -> HttpResponse:
        parts = urlsplit(url)
        return self.get(f"{parts.path}?{parts.query}" if parts.query else parts.path)

    def rows(self, target: str) -> Any:
        body = json.loads(self.get(target).body)
        assert body["code"] == "0", body
        return body["data"]

    def instruments(self) -> dict[str, Instrument]:
        found: dict[str, Instrument] = {}
        request: Any = OKX.instruments_request(ENDPOINTS)
        while request is not None:
            response = self.fetch(request.url)
            assert OKX.check(response, request.url) is None
            found |= {i.symbol: i for i in OKX.parse_instruments(response.body)}
            request = next_instruments_request(OKX, request, response.body, ENDPOINTS)
        return found

    # WebSocket

    def start(self, subscription: Subscription) -> list[Feed]:
        feeds = OKX.feeds(subscription, self.instruments(), ENDPOINTS)
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


def check_books(s: Session, feeds: list[Any]) -> None:
    """Every book is LIVE and equal to the emulator's own, as deep as the channel goes."""
    truth = s.emulator.truth(400)["books"]
    for feed in feeds:
        for symbol, builder in feed.books.items():
            builder.check()
            assert builder.state is BookState.LIVE
            assert builder.book.bids(400) == truth[symbol]["bids"]
            assert builder.book.asks(400) == truth[symbol]["asks"]


def check_trades(s: Session, symbol: str) -> None:
    """Every trade came once, or its id lies in a gap."""
    truth = s.emulator.truth()["trades"][symbol]
    got = [t.trade_seq for t in s.of(Trade, symbol)]
    assert len(set(got)) == len(got)
    missing = set(range(truth["first_id"], truth["last_id"] + 1)) - set(got)
    told: set[int] = set()
    for gap in s.of(Gap, symbol):
        if gap.record_type == "trades" and gap.first_id is not None:
            told |= set(range(gap.first_id, gap.last_id + 1))
    # What is lost before the first or after the last trade that came cannot be seen by ids.
    assert {i for i in missing if min(got) < i < max(got)} <= told
