"""The conformance suite over exampex, and what it does not ask: history and the emulator."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cmd_example_exchange import EXAMPEX
from cmd_example_exchange.emulator import ExampexEmulator

from cmd_common.emulation import MarketSource
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import BookSnapshot, Candle, Record, Trade, pack_levels
from cmd_common.testing.conformance import Conformance, ConformanceCase, ParserCase

NOW = 1_767_225_600_000_000_000
MS = 1_767_225_599_000
BTC, ETH = "BTC-USD", "ETH-USD"


def instruments() -> bytes:
    rows = [
        {"name": n, "base": n[:3], "quote": "USD", "tick": "0.01", "lot": "0.0001", "open": True} for n in (BTC, ETH)
    ]
    return json.dumps({"instruments": rows}).encode()


def book(symbol: str, n: int, bids: list[list[str]], asks: list[list[str]], *, whole: bool = False) -> str:
    head = {"event": "book", "channel": f"book.{symbol}", "whole": whole, "seq": 100 + n, "time": MS + n}
    return json.dumps(head | {"bids": bids, "asks": asks})


def depth(symbol: str, n: int) -> str:
    """The n-th change: it sets the quantity of one bid."""
    return book(symbol, n, [[f"{90 + n % 5}.00", f"{n}.5"]], [])


def snapshot(symbol: str, n: int) -> str:
    """The book after n changes."""
    bids = {f"{90 + k % 5}.00": f"{k}.5" for k in range(1, n + 1)} | {"99.00": "1"}
    return book(symbol, n, [[p, bids[p]] for p in sorted(bids, reverse=True)], [["101.00", "2"]], whole=True)


def trade(symbol: str, n: int) -> str:
    row = {"id": 70 + n, "price": "100.25", "size": "0.5", "taker": "sell" if n % 2 == 0 else "buy", "time": MS + n}
    return json.dumps({"event": "trades", "channel": f"trades.{symbol}", "trades": [row]})


CANDLE = {
    "event": "candle", "channel": f"candles_1m.{BTC}", "closed": False, "time": MS, "open_time": 1_767_225_540_000,
    "open": "1", "high": "4", "low": "0.5", "close": "3", "volume": "10", "worth": "20", "count": 6,
    "taker_buy_volume": "7", "taker_buy_worth": "14",
}  # fmt: skip


def answer(text: str, event: str = "subscribed") -> list[str]:
    request = json.loads(text)
    if request["op"] == "ping":
        return ['{"event":"pong"}']
    event = "unsubscribed" if request["op"] == "unsubscribe" else event
    return [json.dumps({"event": event, "channel": c, "why": "no"}) for c in request["channels"]]


def seeds(text: str) -> list[str]:
    """The symbols whose book a frame of ours subscribes."""
    request = json.loads(text)
    channels = request.get("channels", []) if request["op"] == "subscribe" else []
    return [c.removeprefix("book.") for c in channels if c.startswith("book.")]


def with_unknown_field(text: str) -> str:
    return json.dumps(json.loads(text) | {"new": {"nested": [1]}})


def ns(n: int) -> int:
    return (MS + n) * 1_000_000


PARSERS: dict[str, tuple[str, Record]] = {
    "buy": (trade(BTC, 1), Trade(ns(1), NOW, "exampex", BTC, "71", 71, 100.25, 0.5, "buy")),
    "sell": (trade(ETH, 2), Trade(ns(2), NOW, "exampex", ETH, "72", 72, 100.25, 0.5, "sell")),
    "candle": (
        json.dumps(CANDLE),
        Candle(
            NOW - 60_000_000_000, NOW, ns(0), NOW, "exampex", BTC, "1m", "exchange", "provisional",
            1.0, 4.0, 0.5, 3.0, 10.0, 20.0, 6, 7.0, 14.0,
        ),
    ),
}  # fmt: skip


class TestExampex(Conformance):
    case = ConformanceCase(
        exchange=EXAMPEX,
        now=NOW,
        instruments=instruments(),
        unified={BTC: BTC, ETH: ETH},
        symbols=(BTC, ETH),
        parsers=tuple(ParserCase(name, frame, (record,)) for name, (frame, record) in PARSERS.items()),
        answer=answer,
        refusal=lambda text: answer(text, "refused"),
        depth=depth,
        snapshot=snapshot,
        trade=trade,
        trade_id=lambda symbol, n: 70 + n,
        with_unknown_field=with_unknown_field,
        unknown_event='{"event":"novelty","x":1}',
        types=("trades", "book"),
        snapshot_in_stream=True,
        seeds=seeds,
    )


def test_a_book_becomes_a_snapshot_and_quotes_come_from_it() -> None:
    harness = TestExampex().harness(("book", "quotes"), (BTC,))
    (made,) = harness.of(BookSnapshot)
    sides = pack_levels([(99.0, 1.0)]), pack_levels([(101.0, 2.0)])
    assert made == BookSnapshot(ns(0), NOW, "exampex", BTC, 100, 100, 1, 1, *sides)
    assert [type(r).__name__ for r in harness.depth(BTC)] == ["BookDelta"]  # the best prices are the same
    changed = book(BTC, 2, [["99.50", "3"]], [])
    assert [type(r).__name__ for r in harness.receive(changed)] == ["BookDelta", "Quote"]


@pytest.mark.parametrize("table", ["trades", "candles"])
def test_a_day_of_history_from_the_emulator(table: str) -> None:
    emulator = ExampexEmulator(MarketSource("exampex", simulate=True, symbols=1, history_trades=2000))
    symbol = emulator.market.symbols[0]
    day = emulator.market.days(symbol)[0]
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000_000
    walk = Walk(table, symbol, start, start + 86_400 * 1_000_000_000, "1m" if table == "candles" else "")
    endpoints = EXAMPEX.endpoints.override("http://h")
    found: list[Record] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        source = EXAMPEX.history
        assert source is not None
        request = source.next(walk, cursor, endpoints) if cursor else source.first(walk, endpoints)
        response = emulator.http("GET", request.url.removeprefix("http://h"), {}, NOW)
        assert isinstance(response, HttpResponse)
        assert EXAMPEX.check(response, request.url) is None
        page = source.page(walk, cursor, response, NOW)
        found += page.records
        cursor = page.cursor
        pages += 1
    ids = [r.trade_seq if isinstance(r, Trade) else r.open_time for r in found if isinstance(r, Trade | Candle)]
    assert ids == sorted(set(ids))
    assert pages > 2
    if table == "trades":
        assert ids == [t.id for t in emulator.market.day_trades(symbol, day)]
