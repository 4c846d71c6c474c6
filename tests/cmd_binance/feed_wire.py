"""A Binance feed driven by hand, and messages in the exchange's format; all made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import cmd_binance
from cmd_binance import BinanceExchange
from cmd_binance.feed import BinanceFeed
from cmd_common.feed import Action, Output, Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.records import (
    FeedStatus,
    Record,
)

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
NOW = 1_767_225_600 * SECOND
MS = NOW // 1_000_000
ALL = ("trades", "agg_trades", "quotes", "candles", "book")


class Wire:
    """A feed with its clock and everything that came out of it; subscriptions are confirmed at once."""

    def __init__(
        self,
        exchange: BinanceExchange = cmd_binance.SPOT,
        types: Sequence[str] = ALL,
        *,
        symbols: Sequence[str] = ("BTCUSDT",),
        answer: bool = True,
        index: int = 0,
        **options: Any,
    ) -> None:
        instruments = {
            s: Instrument(exchange.venue, s, s[:3], "USDT", "spot", Decimal("0.01"), Decimal("0.001"))
            for s in (*symbols, "NEWUSDT")
        }
        subscription = Subscription(tuple(symbols), tuple(types), **options)
        feed = exchange.feeds(subscription, instruments, exchange.endpoints)[index]
        assert isinstance(feed, BinanceFeed)
        self.feed = feed
        self.now = NOW
        self.records: list[Record] = []
        self.actions: list[Action] = []
        self.answer = answer

    def take(self, output: Output) -> list[Record]:
        self.records += output.records
        for action in output.actions:
            self.actions.append(action)
            if isinstance(action, Send) and self.answer:
                reply = json.dumps({"result": None, "id": json.loads(action.frame)["id"]})
                self.take(self.feed.receive(reply, self.now))
        return output.records

    def connect(self) -> Wire:
        self.take(self.feed.connected(self.now))
        return self

    def send(self, data: object, stream: str = "btcusdt@x") -> list[Record]:
        frame = json.dumps({"stream": stream, "data": data}, separators=(",", ":"))  # as the exchange writes
        return self.take(self.feed.receive(frame, self.now))

    def raw(self, frame: str | bytes) -> list[Record]:
        return self.take(self.feed.receive(frame, self.now))

    def tick(self, seconds: float = 1) -> list[Record]:
        self.now += int(seconds * SECOND)
        return self.take(self.feed.tick(self.now))

    def of(self, kind: type[Any]) -> list[Any]:
        return [r for r in self.records if isinstance(r, kind)]

    def did(self, kind: type[Any]) -> list[Any]:
        return [a for a in self.actions if isinstance(a, kind)]

    def statuses(self, state: str) -> list[FeedStatus]:
        return [r for r in self.of(FeedStatus) if r.state == state]


def trade(n: int, **changes: object) -> dict[str, object]:
    data = {"e": "trade", "E": MS, "s": "BTCUSDT", "t": n, "p": "100.25", "q": "0.5", "T": MS + n, "m": True, "M": True}
    return data | changes


def quote(u: int, **changes: object) -> dict[str, object]:
    return {"u": u, "s": "BTCUSDT", "b": "99.5", "B": "1", "a": "100.5", "A": "2"} | changes


def kline(minute: int, *, closed: bool, **changes: object) -> dict[str, object]:
    start = MS + minute * 60_000
    k = {"t": start, "T": start + 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 2, "o": "1", "c": "2", "h": "3"}
    k |= {"l": "0.5", "v": "10", "n": 2, "x": closed, "q": "15", "V": "4", "Q": "6", "B": "0"}
    return {"e": "kline", "E": start + 500, "s": "BTCUSDT", "k": k | changes}


def depth(first: int, last: int, bids: object = (), asks: object = (), **changes: object) -> dict[str, object]:
    data = {"e": "depthUpdate", "E": MS + last, "s": "BTCUSDT", "U": first, "u": last, "b": bids, "a": asks}
    return data | changes


def body(last: int, bids: object = (("99", "1"),), asks: object = (("101", "1"),)) -> bytes:
    return json.dumps({"lastUpdateId": last, "bids": bids, "asks": asks}).encode()


def synced(**options: str) -> Wire:
    wire = Wire(types=("book",), options=options, snapshot_every=100_000_000).connect()
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    return wire
