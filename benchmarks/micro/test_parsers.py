"""Parsers: bytes of real shape to records, against plain msgspec and a dictionary decoder.

Messages have the shape of the recorded ones (a depth message of 577 bytes with 20 level changes), made
from a seed. Each result is checked outside the clock. Only ratios mean something.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left, insort
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from msgspec import Struct

import cmd_binance
from cmd_common.feed import Feed, Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.records import BookDelta

NOW = 1_723_161_255_000_000_000
COUNT = 2000


def frame(stream: str, data: object) -> str:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


def depth_frames() -> tuple[list[str], bytes]:
    rng = random.Random(1)
    bids = [[f"{61800 - n / 100:.8f}", "1.00000000"] for n in range(1000)]
    asks = [[f"{61800.01 + n / 100:.8f}", "1.00000000"] for n in range(1000)]
    snapshot = json.dumps({"lastUpdateId": 0, "bids": bids, "asks": asks}).encode()
    frames = []
    for n in range(1, COUNT + 1):
        sides: list[list[list[str]]] = []
        for sign, base in ((-1, 61800.0), (1, 61800.01)):
            ticks = sorted({min(int(rng.expovariate(1 / 60)) + 1, 900) for _ in range(10)})
            # The touch itself stays, so that the book never crosses.
            quantity = [f"{rng.choice((0, 0.5, 1.25, 3)):.8f}" for _ in ticks]
            sides.append([[f"{base + sign * t / 100:.8f}", q] for t, q in zip(ticks, quantity, strict=True)])
        data = {
            "e": "depthUpdate",
            "E": 1723161255000 + n,
            "s": "BTCUSDT",
            "U": n,
            "u": n,
            "b": sides[0],
            "a": sides[1],
        }
        frames.append(frame("btcusdt@depth@100ms", data))
    return frames, snapshot


def trade_frames() -> list[str]:
    return [
        frame(
            "btcusdt@trade",
            {"e": "trade", "E": 1723161255343, "s": "BTCUSDT", "t": n, "p": "61837.63000000", "q": "0.02000000",
             "T": 1723161255342, "m": n % 2 == 0, "M": True},
        )
        for n in range(COUNT)
    ]  # fmt: skip


def quote_frames() -> list[str]:
    return [
        frame(
            "btcusdt@bookTicker",
            {"u": n, "s": "BTCUSDT", "b": "61837.63000000", "B": "3.78826000", "a": "61837.64000000", "A": "1.5"},
        )
        for n in range(1, COUNT + 1)
    ]


def make(types: tuple[str, ...], **options: str) -> Feed:
    exchange = cmd_binance.SPOT
    instruments = {"BTCUSDT": Instrument(exchange.venue, "BTCUSDT", "BTC", "USDT", "spot", Decimal("0.01"), Decimal(1))}
    (feed,) = exchange.feeds(Subscription(("BTCUSDT",), types, options=options), instruments, exchange.endpoints)
    for action in feed.connected(NOW).actions:
        if isinstance(action, Send):
            feed.receive(json.dumps({"result": None, "id": json.loads(action.frame)["id"]}), NOW)
    return feed


class Depth(Struct):
    U: int
    u: int
    b: list[tuple[float, float]]
    a: list[tuple[float, float]]


class DepthFrame(Struct):
    data: Depth


class PlainBook:
    """The strongest peer: dictionaries and a bisected list, without any check."""

    def __init__(self) -> None:
        self.sides: tuple[dict[float, float], dict[float, float]] = ({}, {})
        self.prices: tuple[list[float], list[float]] = ([], [])
        self.decode = msgspec.json.Decoder(DepthFrame, strict=False).decode

    def load(self, body: bytes) -> None:
        snapshot = json.loads(body)
        for side, prices, levels in zip(self.sides, self.prices, (snapshot["bids"], snapshot["asks"]), strict=True):
            for price, quantity in levels:
                side[float(price)] = float(quantity)
            prices[:] = sorted(side)

    def receive(self, text: str) -> tuple[float, float]:
        data = self.decode(text).data
        for side, prices, levels in ((self.sides[0], self.prices[0], data.b), (self.sides[1], self.prices[1], data.a)):
            for price, quantity in levels:
                if quantity:
                    if price not in side:
                        insort(prices, price)
                    side[price] = quantity
                elif price in side:
                    del side[price]
                    del prices[bisect_left(prices, price)]
        return self.prices[0][-1], self.prices[1][0]


@pytest.mark.benchmark(group="depth message, text to book")
@pytest.mark.parametrize("kind", ["feed", "feed-no-deltas", "peer-msgspec-dict-bisect"])
def test_depth(benchmark: Any, kind: str) -> None:
    frames, snapshot = depth_frames()

    def setup() -> tuple[tuple[Any], dict[str, Any]]:
        if kind.startswith("peer"):
            book = PlainBook()
            book.load(snapshot)
            return (book,), {}
        feed = make(("book",), **({"deltas": "off"} if kind == "feed-no-deltas" else {}))
        feed.snapshot("BTCUSDT", snapshot, NOW)
        return (feed,), {}

    last: list[Any] = []

    def run(target: Any) -> None:
        receive = target.receive
        if kind.startswith("peer"):
            for text in frames:
                receive(text)
        else:
            for text in frames:
                receive(text, NOW)
        last[:] = [target]

    benchmark.pedantic(run, setup=setup, rounds=7)
    peer = PlainBook()
    peer.load(snapshot)
    for text in frames:
        best = peer.receive(text)
    if not kind.startswith("peer"):
        book = last[0].books["BTCUSDT"].book
        assert (book.best_bid[0], book.best_ask[0]) == best
        assert last[0].counters.malformed == 0
        if kind == "feed":
            assert any(isinstance(r, BookDelta) for r in last[0].receive(depth_like(COUNT + 1), NOW).records)
    benchmark.extra_info["per_message_us"] = benchmark.stats["median"] / COUNT * 1e6


def depth_like(n: int) -> str:
    data = {
        "e": "depthUpdate",
        "E": 1723161255000,
        "s": "BTCUSDT",
        "U": n,
        "u": n,
        "b": [["61800.00000000", "1"]],
        "a": [],
    }
    return frame("btcusdt@depth@100ms", data)


@pytest.mark.benchmark(group="trade and quote messages, text to record")
@pytest.mark.parametrize("kind", ["trades", "quotes", "trades-as-dict", "quotes-as-dict"])
def test_events(benchmark: Any, kind: str) -> None:
    frames = trade_frames() if kind.startswith("trades") else quote_frames()
    if kind.endswith("dict"):
        benchmark.pedantic(lambda: [json.loads(text) for text in frames], rounds=7)
        return
    records: list[Any] = []

    def run(feed: Feed) -> None:
        records.clear()
        for text in frames:
            records.extend(feed.receive(text, NOW).records)

    benchmark.pedantic(run, setup=lambda: ((make((kind,)),), {}), rounds=7)
    assert len(records) == COUNT
    benchmark.extra_info["per_message_us"] = benchmark.stats["median"] / COUNT * 1e6


@pytest.mark.benchmark(group="snapshot of 2 x 1,000 levels")
def test_snapshot(benchmark: Any) -> None:
    _, snapshot = depth_frames()
    benchmark.pedantic(
        lambda feed: feed.snapshot("BTCUSDT", snapshot, NOW), setup=lambda: ((make(("book",)),), {}), rounds=30
    )


@pytest.mark.benchmark(group="exchangeInfo of 1,000 symbols")
def test_exchange_info(benchmark: Any) -> None:
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01000000"},
        {"filterType": "LOT_SIZE", "minQty": "0.00100000", "maxQty": "9000", "stepSize": "0.00100000"},
    ]
    rows = [
        {"symbol": f"A{n}USDT", "status": "TRADING", "baseAsset": f"A{n}", "quoteAsset": "USDT", "filters": filters}
        for n in range(1000)
    ]
    body = json.dumps({"symbols": rows}).encode()
    assert len(benchmark(cmd_binance.SPOT.parse_instruments, body)) == 1000
