"""The conformance suite over the three markets. The messages are made up in the exchange's form."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

import cmd_binance
from cmd_binance import BinanceExchange
from cmd_common.errors import UsageError
from cmd_common.feed import Send, Subscription
from cmd_common.records import (
    SNAPSHOT,
    TS_FROM_RECV,
    AggTrade,
    BookSnapshot,
    Candle,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_common.testing.conformance import Conformance
from cmd_common.testing.harness import ConformanceCase, Harness, ParserCase

NOW = 1_767_225_600_000_000_000
MS = 1_767_225_599_990
SECOND = 1_000_000_000


def exchange_info(exchange: BinanceExchange, symbols: dict[str, tuple[str, str]]) -> bytes:
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01000000"},
        {"filterType": "LOT_SIZE", "minQty": "0.00100000", "maxQty": "9000", "stepSize": "0.00100000"},
    ]
    rows = []
    for symbol, (base, quote) in symbols.items():
        row = {"symbol": symbol, "status": "TRADING", "baseAsset": base, "quoteAsset": quote, "filters": filters}
        if exchange.market.futures:
            dated = symbol.endswith("_261225")
            row["contractType"] = "CURRENT_QUARTER" if dated else "PERPETUAL"
            row["deliveryDate"] = 1_798_185_600_000 if dated else 4_133_404_800_000
            row["marginAsset"] = quote
        if exchange.market.name == "coinm":
            row["contractStatus"] = row.pop("status")
            row["contractSize"] = 100
            row["marginAsset"] = base
        rows.append(row)
    return json.dumps({"timezone": "UTC", "serverTime": MS, "rateLimits": [], "symbols": rows}).encode()


def frame(stream: str, data: object) -> str:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


def case(exchange: BinanceExchange) -> ConformanceCase:
    market = exchange.market
    venue = market.venue
    futures = market.futures
    if market.name == "coinm":
        names = {"BTCUSD_PERP": ("BTC", "USD"), "BTCUSD_261225": ("BTC", "USD")}
        unified = {"BTCUSD_PERP": "BTC-USD-PERP", "BTCUSD_261225": "BTC-USD-20261225"}
    elif futures:
        names = {"BTCUSDT": ("BTC", "USDT"), "ETHUSDT_261225": ("ETH", "USDT")}
        unified = {"BTCUSDT": "BTC-USDT-PERP", "ETHUSDT_261225": "ETH-USDT-20261225"}
    else:
        names = {"BTCUSDT": ("BTC", "USDT"), "币安人生USDT": ("币安人生", "USDT")}
        unified = {"BTCUSDT": "BTC-USDT", "币安人生USDT": "币安人生-USDT"}
    a, b = names
    unit = 1 if futures else 1000  # spot sends microseconds

    def t(offset: int) -> int:
        return MS * unit + offset * unit

    def ns(offset: int) -> int:
        return MS * 1_000_000 + offset * 1_000_000

    def answer(text: str) -> list[str]:
        return [json.dumps({"result": None, "id": json.loads(text)["id"]})]

    def refusal(text: str) -> list[str]:
        return [json.dumps({"code": 2, "msg": "Invalid request", "id": json.loads(text)["id"]})]

    start = {a: 1000, b: 5000}

    def ids(symbol: str, n: int) -> tuple[int, int]:
        """First and last update id of the n-th depth message."""
        return start[symbol] + 10 * n + 1, start[symbol] + 10 * n + 10

    def changes(n: int) -> tuple[list[list[str]], list[list[str]]]:
        bids = [[f"{99 - n % 7}.50", f"{n % 5}.000"], ["90.00", f"{n}.000"]]
        asks = [[f"{101 + n % 7}.25", f"{(n + 2) % 5}.000"], ["120.00", f"{n}.500"]]
        return bids, asks

    def depth(symbol: str, n: int) -> str:
        first, last = ids(symbol, n)
        bids, asks = changes(n)
        data: dict[str, object] = {"e": "depthUpdate", "E": t(n)}
        if futures:
            data["T"] = t(n)
        data |= {"s": symbol, "U": first, "u": last}
        if futures:
            data["pu"] = first - 1
        return frame(f"{symbol.lower()}@depth@100ms", {**data, "b": bids, "a": asks})

    def snapshot(symbol: str, n: int) -> str:
        sides: tuple[dict[str, str], dict[str, str]] = ({"99.00": "5.000"}, {"101.00": "5.000"})
        for k in range(1, n + 1):
            for side, levels in zip(sides, changes(k), strict=True):
                side.update(dict(levels))  # type: ignore[arg-type]
        bids = sorted(([p, q] for p, q in sides[0].items() if float(q)), key=lambda x: -float(x[0]))
        asks = sorted(([p, q] for p, q in sides[1].items() if float(q)), key=lambda x: float(x[0]))
        body: dict[str, object] = {"lastUpdateId": ids(symbol, n)[1]}
        if futures:
            body |= {"E": t(n), "T": t(n)}
        return json.dumps(body | {"bids": bids, "asks": asks})

    def trade(symbol: str, n: int) -> str:
        data: dict[str, object] = {"e": "trade", "E": t(n), "s": symbol, "t": 70 + n, "p": "100.25", "q": "0.500"}
        data |= {"T": t(n), "m": n % 2 == 0, "X": "MARKET"} if futures else {"T": t(n), "m": n % 2 == 0, "M": True}
        return frame(f"{symbol.lower()}@trade", data)

    def with_unknown_field(text: str) -> str:
        outer = json.loads(text)
        outer["data"]["newKey"] = {"nested": [1, "x"]}
        return json.dumps(outer, separators=(",", ":"))

    quote: dict[str, object] = {"u": 400, "s": a, "b": "99.50", "B": "1.5", "a": "100.50", "A": "2"}
    if futures:
        quote = {"e": "bookTicker", **quote, "T": t(1), "E": t(2)}
    agg = {"e": "aggTrade", "E": t(2), "s": a, "a": 9, "p": "100.5", "q": "2.5", "f": 71, "l": 73, "T": t(1), "m": True}
    kline = {
        "t": t(-50_000),
        "T": t(10_000) - 1,
        "s": a,
        "i": "1m",
        "f": 1,
        "L": 9,
        "o": "100.0",
        "c": "101.5",
        "h": "102.0",
        "l": "99.0",
        "v": "12.5",
        "n": 9,
        "x": False,
        "q": "1250.25",
        "V": "6.5",
        "Q": "650.75",
        "B": "0",
    }
    quote_flags = 0 if futures else TS_FROM_RECV

    def candle(state: str, at: int) -> Candle:
        return Candle(
            ns(-50_000), ns(10_000), ns(at), NOW, venue, a, "1m", "exchange", state, 100.0, 102.0, 99.0, 101.5, 12.5,  # type: ignore[arg-type]
            1250.25, 9, 6.5, 650.75,
        )  # fmt: skip

    parsers: list[tuple[str, str, tuple[Record, ...]]] = [
        ("buy", trade(a, 1), (Trade(ns(1), NOW, venue, a, "71", 71, 100.25, 0.5, "buy"),)),
        ("sell", trade(b, 2), (Trade(ns(2), NOW, venue, b, "72", 72, 100.25, 0.5, "sell"),)),
        (
            "aggregate",
            frame(f"{a.lower()}@aggTrade", agg),
            (AggTrade(ns(1), NOW, venue, a, "9", 9, 71, 73, 100.5, 2.5, "sell"),),
        ),
        (
            "quote",
            frame(f"{a.lower()}@bookTicker", quote),
            (Quote(ns(1) if futures else NOW, NOW, venue, a, 400, 99.5, 1.5, 100.5, 2.0, quote_flags),),
        ),
        (
            "open candle",
            frame(f"{a.lower()}@kline_1m", {"e": "kline", "E": t(3), "s": a, "k": kline}),
            (candle("provisional", 3),),
        ),
        (
            "closed candle",
            frame(f"{a.lower()}@kline_1m", {"e": "kline", "E": t(4), "s": a, "k": {**kline, "x": True}}),
            (candle("final", 4),),
        ),
    ]
    return ConformanceCase(
        exchange=exchange,
        now=NOW,
        instruments=exchange_info(exchange, names),
        unified=unified,
        symbols=(a, b),
        parsers=tuple(ParserCase(*p) for p in parsers),
        answer=answer,
        refusal=refusal,
        depth=depth,
        snapshot=snapshot,
        trade=trade,
        trade_id=lambda symbol, n: 70 + n,
        with_unknown_field=with_unknown_field,
        unknown_event=frame(f"{a.lower()}@novelty", {"e": "novelty", "E": t(0), "s": a, "x": 1}),
    )


CASES = {exchange.venue: case(exchange) for exchange in (cmd_binance.SPOT, cmd_binance.USDM, cmd_binance.COINM)}


class TestSpot(Conformance):
    case = CASES["binance-spot"]


class TestUsdm(Conformance):
    case = CASES["binance-usdm"]


class TestCoinm(Conformance):
    case = CASES["binance-coinm"]


@pytest.fixture(params=list(CASES))
def any_case(request: pytest.FixtureRequest) -> ConformanceCase:
    return CASES[request.param]


def params(sent: list[str]) -> list[str]:
    return [name for text in sent for name in json.loads(text)["params"]]


# Connections and stream names


def test_spot_has_one_connection_in_microseconds() -> None:
    harness = Harness(CASES["binance-spot"], types=("trades", "agg_trades", "quotes", "candles", "book"))
    (feed,) = harness.feeds
    assert feed.name == "binance-spot/stream-0"
    assert feed.url == "wss://stream.binance.com:9443/stream?timeUnit=MICROSECOND"
    harness.connect()
    assert [n for n in params(harness.sent) if n.startswith("btc")] == [
        "btcusdt@trade",
        "btcusdt@aggTrade",
        "btcusdt@bookTicker",
        "btcusdt@kline_1m",
        "btcusdt@depth@100ms",
    ]


def test_usdm_streams_go_to_the_class_that_serves_them() -> None:
    harness = Harness(CASES["binance-usdm"], types=("trades", "agg_trades", "quotes", "candles", "book"))
    by_url = {}
    for feed in harness.feeds:
        output = feed.connected(NOW)
        frames = [a.frame for a in output.actions if isinstance(a, Send)]
        by_url[feed.url] = {name.split("@", 1)[1] for name in params(frames)}
    assert by_url == {
        "wss://fstream.binance.com/public/stream": {"trade", "bookTicker", "depth@100ms"},
        "wss://fstream.binance.com/market/stream": {"aggTrade", "kline_1m"},
    }


def test_coinm_is_not_split() -> None:
    harness = Harness(CASES["binance-coinm"], types=("trades", "candles"))
    assert [f.url for f in harness.feeds] == ["wss://dstream.binance.com/stream"]


def test_many_symbols_are_spread_over_connections_and_frames() -> None:
    exchange = cmd_binance.SPOT
    symbols = {f"A{i}USDT": (f"A{i}", "USDT") for i in range(400)}
    instruments = {i.symbol: i for i in exchange.parse_instruments(exchange_info(exchange, symbols))}
    subscription = Subscription(tuple(symbols), ("trades", "quotes", "book", "candles"), ("1m", "1h"))
    feeds = exchange.feeds(subscription, instruments, exchange.endpoints)
    assert len(feeds) == 2
    assert [s for f in feeds for s in f.symbols] == list(symbols)
    for feed in feeds:
        frames = [a.frame for a in feed.connected(NOW).actions if isinstance(a, Send)]
        assert len(params(frames)) <= 1024
        assert all(len(json.loads(text)["params"]) <= 100 for text in frames)
    few = exchange.feeds(
        Subscription(tuple(symbols), ("trades",), options={"streams_per_connection": "150"}),
        instruments,
        exchange.endpoints,
    )
    assert [len(f.symbols) for f in few] == [150, 150, 100]


def test_a_full_connection_takes_no_more_symbols() -> None:
    exchange = cmd_binance.SPOT
    symbols = {f"A{i}USDT": (f"A{i}", "USDT") for i in range(1025)}
    instruments = {i.symbol: i for i in exchange.parse_instruments(exchange_info(exchange, symbols))}
    (feed,) = exchange.feeds(Subscription(tuple(symbols)[:1024], ("trades",)), instruments, exchange.endpoints)
    with pytest.raises(UsageError, match="1024"):
        feed.add(("A1024USDT",), NOW)


def test_snapshot_limits_and_weights_by_number_of_books() -> None:
    exchange = cmd_binance.SPOT
    symbols = {f"A{i}USDT": (f"A{i}", "USDT") for i in range(30)}
    instruments = {i.symbol: i for i in exchange.parse_instruments(exchange_info(exchange, symbols))}

    def first_request(count: int, **options: str) -> tuple[str, int]:
        harness = Harness(CASES["binance-spot"])
        subscription = Subscription(tuple(symbols)[:count], ("book",), options=options)
        (feed,) = exchange.feeds(subscription, instruments, exchange.endpoints)
        harness.hold_snapshots = True
        harness.take(feed, feed.connected(NOW))
        request = harness.requests[0].request
        return request.url.rsplit("=", 1)[1], request.weight

    assert first_request(2) == ("5000", 250)
    assert first_request(30) == ("1000", 50)
    assert first_request(30, snapshot_limit="100") == ("100", 5)
    with pytest.raises(UsageError, match="5001"):
        first_request(1, snapshot_limit="5001")
    with pytest.raises(UsageError, match="number"):
        first_request(1, snapshot_limit="many")


def test_partial_depth_that_does_not_exist_is_a_usage_error(any_case: ConformanceCase) -> None:
    instruments = {i.symbol: i for i in any_case.exchange.parse_instruments(any_case.instruments)}
    with pytest.raises(UsageError, match="partial depth 7"):
        any_case.exchange.feeds(
            Subscription(any_case.symbols, ("book",), depth=7), instruments, any_case.exchange.endpoints
        )


def test_an_empty_subscription_is_a_usage_error(any_case: ConformanceCase) -> None:
    with pytest.raises(UsageError, match="nothing to subscribe"):
        any_case.exchange.feeds(Subscription((), ("book",)), {}, any_case.exchange.endpoints)


def test_exchanges_are_found_by_entry_point() -> None:
    from cmd_common import registry

    for exchange in (cmd_binance.SPOT, cmd_binance.USDM, cmd_binance.COINM):
        assert registry.exchange(exchange.venue) is exchange
        assert exchange.title in repr(exchange)
        assert exchange.recording_urls()
    assert (
        cmd_binance.USDM.limits.weight_pool
        == cmd_binance.COINM.limits.weight_pool
        != cmd_binance.SPOT.limits.weight_pool
    )
    assert "1s" in cmd_binance.SPOT.intervals
    assert "1s" not in cmd_binance.USDM.intervals


# Partial depth


def test_partial_depth_gives_snapshots_only() -> None:
    for venue, data, ts, flags in (
        ("binance-spot", {"lastUpdateId": 160}, NOW, SNAPSHOT | TS_FROM_RECV),
        (
            "binance-usdm",
            {"e": "depthUpdate", "E": MS + 1, "T": MS, "s": "BTCUSDT", "U": 150, "u": 160, "pu": -1},
            MS * 1_000_000,
            SNAPSHOT,
        ),
    ):
        exchange = CASES[venue].exchange
        instruments = {i.symbol: i for i in exchange.parse_instruments(CASES[venue].instruments)}
        (feed,) = exchange.feeds(Subscription(("BTCUSDT",), ("book",), depth=5), instruments, exchange.endpoints)
        (send,) = (a for a in feed.connected(NOW).actions if isinstance(a, Send))
        assert json.loads(send.frame)["params"] == ["btcusdt@depth5@100ms"]
        acknowledged = feed.receive(json.dumps({"result": None, "id": json.loads(send.frame)["id"]}), NOW)
        assert acknowledged.actions == []  # no REST snapshot is needed
        keys = ("bids", "asks") if venue == "binance-spot" else ("b", "a")
        body = {**data, keys[0]: [["99.0", "1"], ["98.0", "2"]], keys[1]: [["101.0", "3"]]}
        text = frame("btcusdt@depth5@100ms", body)
        snapshots = [r for r in feed.receive(text, NOW).records if isinstance(r, BookSnapshot)]
        bids, asks = [(99.0, 1.0), (98.0, 2.0)], [(101.0, 3.0)]
        assert snapshots == [
            BookSnapshot(ts, NOW, venue, "BTCUSDT", 160, 160, 2, 1, pack_levels(bids), pack_levels(asks), flags)
        ]
        book = feed.books["BTCUSDT"].book
        assert (book.bids(), book.asks()) == (bids, asks)
        assert feed.receive(text, NOW).records == []  # the same one again
        assert feed.counters.duplicates == 1
        feed.disconnected(NOW, "test")
        assert book.state.value == "STALE"
        feed.connected(NOW)
        (gap, *_) = [r for r in feed.receive(text.replace("160", "170"), NOW).records if type(r).__name__ == "Gap"]
        assert (gap.record_type, gap.reason) == ("book_snapshots", "disconnect")
        assert book.state.value == "LIVE"


def test_tick_sizes_reach_the_books(any_case: ConformanceCase) -> None:
    harness = Harness(any_case, types=("book",))
    for symbol in any_case.symbols:
        assert harness.book(symbol).tick_size == Decimal("0.01")


def test_comments_point_to_headings_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "exchanges.md").read_text()
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, re.M)}
    package = root / "packages" / "cmd-binance" / "src" / "cmd_binance"
    links = {a for f in package.glob("*.py") for a in re.findall(r"exchanges\.md#([\w-]+)", f.read_text())}
    assert len(links) >= 6
    assert links <= headings
