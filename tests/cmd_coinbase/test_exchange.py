"""The conformance suite over both APIs, and what their Exchange objects say. Messages are made up in the real form."""

from __future__ import annotations

import json
from typing import Any

import coinbase_wire as w
import pytest
from coinbase_wire import BTC, ETH, NOW, T0

from cmd_coinbase import ADVANCED, EXCHANGE
from cmd_common import registry
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.exchange import Exchange
from cmd_common.feed import Subscription
from cmd_common.records import INEXACT, TS_FROM_RECV, BookDelta, Quote, Record, Trade, pack_levels
from cmd_common.testing.conformance import Conformance
from cmd_common.testing.harness import ConformanceCase, ParserCase


def packed(n: int) -> tuple[bytes, bytes]:
    bids, asks = w.change(n)
    pairs = [sorted(((float(p), float(q)) for p, q in side.items()), reverse=side is bids) for side in (bids, asks)]
    return pack_levels(pairs[0]), pack_levels(pairs[1])


def delta(venue: str, symbol: str, n: int) -> BookDelta:
    return BookDelta(w.ns(n), NOW, venue, symbol, T0, T0 + 1, T0 + 1, *packed(n))


PARSERS: list[tuple[str, str, tuple[Record, ...]]] = [
    ("taker bought", w.match(BTC, 1), (Trade(w.ns(1), NOW, "coinbase", BTC, "101", 101, 100.25, 0.5, "buy"),)),
    ("taker sold", w.match(ETH, 2), (Trade(w.ns(2), NOW, "coinbase", ETH, "5002", 5002, 100.25, 0.5, "sell"),)),
    (
        "last match",
        w.match(BTC, 4, "last_match"),
        (Trade(w.ns(4), NOW, "coinbase", BTC, "104", 104, 100.25, 0.5, "sell"),),
    ),
    (
        "many digits",
        w.match(BTC, 1, size="12345678.123456789"),
        (Trade(w.ns(1), NOW, "coinbase", BTC, "101", 101, 100.25, 12345678.123456789, "buy", INEXACT),),
    ),
    (
        "exponent",
        w.match(BTC, 1, price="1.305E-5"),
        (Trade(w.ns(1), NOW, "coinbase", BTC, "101", 101, 0.00001305, 0.5, "buy"),),
    ),
    (
        "match without a time",
        w.match(BTC, 1, time="0001-01-01T00:00:00.000000Z"),
        (Trade(NOW, NOW, "coinbase", BTC, "101", 101, 100.25, 0.5, "buy", TS_FROM_RECV),),
    ),
    ("ticker", w.ticker(BTC, 3), (Quote(w.ns(3), NOW, "coinbase", BTC, 7003, 99.5, 1.5, 100.5, 2.0),)),
    ("l2update", w.l2update(ETH, 1), (delta("coinbase", ETH, 1),)),
    ("heartbeat", w.heartbeat(BTC, 100), ()),
]

EXCHANGE_CASE = ConformanceCase(
    exchange=EXCHANGE,
    now=NOW,
    instruments=w.PRODUCTS,
    unified={BTC: "BTC-USD", ETH: "ETH-EUR"},
    symbols=(BTC, ETH),
    parsers=tuple(ParserCase(*p) for p in PARSERS),
    answer=w.answer,
    refusal=w.refusal,
    depth=w.l2update,
    snapshot=w.snapshot,
    trade=w.match,
    trade_id=lambda symbol, n: w.START[symbol] + n,
    with_unknown_field=lambda frame: frame.replace("{", '{"new_key":{"nested":[1,"x"]},', 1),
    unknown_event=w.text({"type": "novelty", "product_id": BTC}),
    snapshot_in_stream=True,
    seeds=w.seeds,
    depth_ids=False,
)


class TestCoinbaseExchange(Conformance):
    case = EXCHANGE_CASE


def with_key_in_event(frame: str) -> str:
    message = json.loads(frame)
    message["events"][0]["new_key"] = {"nested": [1, "x"]}
    return w.text(message)


ADVANCED_PARSERS: list[tuple[str, str, tuple[Record, ...]]] = [
    (
        "trades, newest first",
        w.trades(BTC, 2, 1),
        (
            Trade(w.ns(1), NOW, "coinbase-advanced", BTC, "101", 101, 100.25, 0.5, "buy"),
            Trade(w.ns(2), NOW, "coinbase-advanced", BTC, "102", 102, 100.25, 0.5, "sell"),
        ),
    ),
    (
        "ticker",
        w.advanced_ticker(BTC, 3),
        (Quote(w.ns(3) + 789, NOW, "coinbase-advanced", BTC, 0, 99.5, 1.5, 100.5, 2.0),),
    ),
    ("l2_data", w.l2(ETH, 1), (delta("coinbase-advanced", ETH, 1),)),
    ("l2_data without changes", w.envelope("l2_data", [{"type": "update", "product_id": BTC, "updates": []}]), ()),
]

ADVANCED_CASE = ConformanceCase(
    exchange=w.NumberedExchange(),  # type: ignore[arg-type]
    now=NOW,
    instruments=w.advanced_products(BTC, ETH),
    unified={BTC: "BTC-USD", ETH: "ETH-EUR"},
    symbols=(BTC, ETH),
    parsers=tuple(ParserCase(*p) for p in ADVANCED_PARSERS),
    answer=lambda frame: w.Server().advanced(frame),
    refusal=lambda frame: [w.text({"type": "error", "message": "failure to subscribe"})],
    depth=w.l2,
    snapshot=w.l2_snapshot,
    trade=lambda symbol, n: w.trades(symbol, n),
    trade_id=lambda symbol, n: w.START[symbol] + n,
    with_unknown_field=with_key_in_event,
    unknown_event=w.envelope("novelty", []),
    snapshot_in_stream=True,
    seeds=w.seeds,
    depth_ids=False,  # a hole is one of the whole connection: tests of the feed look at it
)


class TestCoinbaseAdvanced(Conformance):
    case = ADVANCED_CASE


# The Exchange objects


@pytest.mark.parametrize("exchange", [EXCHANGE, ADVANCED])
def test_the_exchange_is_found_by_its_name(exchange: Any) -> None:
    assert registry.exchange(exchange.venue) is exchange
    typed: Exchange = exchange
    assert typed.archive is None
    assert typed.history is not None
    assert set(typed.types) <= {"trades", "quotes", "candles", "book"}
    assert "<Coinbase" in repr(exchange)


def test_hosts_of_the_two_apis_are_told_apart() -> None:
    hosts = {"exchange": EXCHANGE.recording_urls(), "advanced": ADVANCED.recording_urls()}
    urls = {
        "wss://ws-feed.exchange.coinbase.com": "exchange",
        "wss://ws-feed.pro.coinbase.com": "exchange",
        "https://api.exchange.coinbase.com/products": "exchange",
        "wss://advanced-trade-ws.coinbase.com": "advanced",
        "https://api.coinbase.com/api/v3/brokerage/market/products": "advanced",
    }
    for url, expected in urls.items():
        assert [name for name, parts in hosts.items() if any(p in url for p in parts)] == [expected], url


def test_live_candles_are_of_five_minutes_and_only_on_advanced_trade() -> None:
    known = w.instruments_of(ADVANCED, BTC)
    assert ADVANCED.feeds(Subscription((BTC,), ("candles",), ("5m",)), known, ADVANCED.endpoints)
    with pytest.raises(UsageError, match="5m"):
        ADVANCED.feeds(Subscription((BTC,), ("candles",), ("1m",)), known, ADVANCED.endpoints)
    with pytest.raises(UnknownNameError):
        EXCHANGE.feeds(Subscription((BTC,), ("candles",)), w.instruments_of(EXCHANGE, BTC), EXCHANGE.endpoints)


def test_many_symbols_are_spread_over_connections() -> None:
    names = tuple(f"A{n}-USD" for n in range(250))
    known = w.instruments_of(EXCHANGE, *names)
    feeds = EXCHANGE.feeds(Subscription(names, ("trades", "book")), known, EXCHANGE.endpoints)
    assert [len(f.symbols) for f in feeds] == [100, 100, 50]
    more = Subscription(names, ("book",), options={"symbols_per_connection": "125"})
    assert [len(f.symbols) for f in EXCHANGE.feeds(more, known, EXCHANGE.endpoints)] == [125, 125]
    for bad in ("0", "x", "1001", "-1"):
        with pytest.raises(UsageError, match="symbols_per_connection"):
            EXCHANGE.feeds(
                Subscription(names, ("book",), options={"symbols_per_connection": bad}), known, EXCHANGE.endpoints
            )


@pytest.mark.parametrize(
    "options", [{"guard": "-1"}, {"refresh": "-1"}, {"quotes_from": "both"}, {"guard": "x"}, {"silence": "0"}]
)
def test_bad_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        w.feed_of(("book", "quotes"), **options)
