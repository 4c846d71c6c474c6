"""The emulator and feeds in a loop without sockets, on a clock that jumps."""

from __future__ import annotations

from typing import Any

import msgspec

from cmd_bybit import BybitExchange
from cmd_bybit.emulator import BybitEmulator
from cmd_common.emulation import Accept, Close, MarketSource, ServerFrame, Text
from cmd_common.faults import parse_fault
from cmd_common.feed import Feed, Output, Resubscribe, Send, Subscription
from cmd_common.http import HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.records import Record

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND


def simulated(exchange: BybitExchange, *faults: str, **options: Any) -> BybitEmulator:
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, "levels": 300, **options}
    made = tuple(parse_fault(f) for f in faults)
    return BybitEmulator(exchange.market, MarketSource(exchange.venue, simulate=True, faults=made, **options))


class Loop:
    """Feeds of one venue against its emulator: connects, answers, reconnects until everything was sent."""

    def __init__(
        self, exchange: BybitExchange, emulator: BybitEmulator, types: tuple[str, ...], symbols: tuple[str, ...] = (),
        **options: Any,
    ) -> None:  # fmt: skip
        self.exchange = exchange
        self.emulator = emulator
        self.now = T0
        self.records: list[Record] = []
        self.instruments = load(exchange, emulator, self.now)
        subscription = Subscription(symbols or tuple(emulator.market.symbols), types, **options)
        self.feeds = exchange.feeds(subscription, self.instruments, exchange.endpoints.override("http://127.0.0.1:1"))
        self.by_number: dict[int, Feed] = {}
        self.number = 0
        self.reconnects = 0
        self.ended = False

    def connect(self, feed: Feed) -> None:
        self.number += 1
        target = feed.url.removeprefix("ws://127.0.0.1:1")
        assert isinstance(self.emulator.ws_open(self.number, target, {}, self.now), Accept)
        self.by_number[self.number] = feed
        self.take(self.number, feed.connected(self.now))

    def take(self, number: int, output: Output) -> None:
        feed = self.by_number[number]
        self.records += output.records
        for action in output.actions:
            frames: tuple[str, ...] = ()
            if isinstance(action, Send):
                frames = (action.frame,)
            elif isinstance(action, Resubscribe):
                frames = action.frames
            for frame in frames:
                self.serve(self.emulator.ws_receive(number, frame, self.now))
        assert feed is not None

    def serve(self, frames: list[ServerFrame]) -> None:
        for frame in frames:
            feed = self.by_number.get(frame.connection)
            if feed is None:
                continue
            if isinstance(frame, Text):
                self.take(frame.connection, feed.receive(frame.text, self.now))
            elif isinstance(frame, Close):
                self.emulator.ws_closed(frame.connection, self.now)
                del self.by_number[frame.connection]
                if frame.code == 4000:
                    self.ended = True
                    continue
                self.records += feed.disconnected(self.now, frame.reason).records
                self.reconnects += 1
                self.connect(feed)

    def run(self) -> Loop:
        for feed in self.feeds:
            self.connect(feed)
        ticked = self.now
        while not self.ended:
            poll = self.emulator.poll(self.now)
            self.serve(poll.frames)
            if poll.next_time is None and not self.ended:
                assert poll.finished
                continue
            self.now = max(self.now + 1, poll.next_time or 0)
            while self.now - ticked >= SECOND:
                ticked += SECOND
                for number, feed in list(self.by_number.items()):
                    self.take(number, feed.tick(ticked))
        for feed in self.feeds:
            self.records += feed.close(self.now).records
        return self

    def of(self, kind: type[Any], symbol: str = "") -> list[Any]:
        return [r for r in self.records if isinstance(r, kind) and symbol in ("", getattr(r, "symbol", ""))]


def get(emulator: BybitEmulator, target: str, now: int = T0) -> HttpResponse:
    result = emulator.http("GET", target, {}, now)
    assert isinstance(result, HttpResponse)
    return result


def json_of(response: HttpResponse) -> Any:
    assert response.status == 200, response.body
    return msgspec.json.decode(response.body)


def load(exchange: BybitExchange, emulator: BybitEmulator, now: int) -> dict[str, Instrument]:
    """Load reference data page by page, as cmd-feed does."""
    endpoints = exchange.endpoints.override("http://127.0.0.1:1")
    request = exchange.instruments_request(endpoints)
    found: dict[str, Instrument] = {}
    while True:
        body = get(emulator, request.url.removeprefix("http://127.0.0.1:1"), now).body
        found |= {i.symbol: i for i in exchange.parse_instruments(body)}
        following = exchange.next_instruments_request(request, body, endpoints)
        if following is None:
            return found
        request = following
