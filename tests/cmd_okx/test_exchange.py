"""The conformance suite over OKX. The messages are made up in the exchange's form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from math import nan
from pathlib import Path
from typing import Any

import okx_wire as w
import pytest
from okx_wire import FUTURE, INSTRUMENTS, MS, NOW, SPOT, SWAP

from cmd_common import registry
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.exchange import PagedInstruments, next_instruments_request
from cmd_common.feed import Subscription
from cmd_common.records import TS_FROM_RECV, Candle, Quote, Record, Trade
from cmd_common.testing.conformance import Conformance
from cmd_common.testing.harness import ConformanceCase, Harness, ParserCase
from cmd_okx import OKX


def with_unknown_field(text: str) -> str:
    outer = json.loads(text)
    outer["data"][0]["newKey"] = {"nested": [1, "x"]}
    return json.dumps(outer, separators=(",", ":"))


PARSERS: list[tuple[str, str, tuple[Record, ...]]] = [
    ("buy", w.trade(SPOT, 1), (Trade(w.ns(1), NOW, "okx", SPOT, "71", 71, 100.25, 0.5, "buy"),)),
    ("sell", w.trade(SWAP, 2), (Trade(w.ns(2), NOW, "okx", SWAP, "72", 72, 100.25, 0.5, "sell"),)),
    (
        "quote",
        w.frame("bbo-tbt", SPOT, {"asks": [w.level("100.5", "2")], "bids": [w.level("99.5", "1.5")], "ts": str(MS + 1), "seqId": 400}),
        (Quote(w.ns(1), NOW, "okx", SPOT, 400, 99.5, 1.5, 100.5, 2.0),),
    ),
    (
        "quote without bids",
        w.frame("bbo-tbt", SWAP, {"asks": [w.level("100.5", "2")], "bids": [], "ts": str(MS + 1), "seqId": 400}),
        (Quote(w.ns(1), NOW, "okx", SWAP, 400, 0.0, 0.0, 100.5, 2.0),),
    ),
]  # fmt: skip

CASE = ConformanceCase(
    exchange=OKX,
    now=NOW,
    instruments=INSTRUMENTS,
    unified={SPOT: "BTC-USDT", SWAP: "BTC-USD-PERP", FUTURE: "ETH-USDT-20261225"},
    symbols=(SPOT, SWAP),
    parsers=tuple(ParserCase(*p) for p in PARSERS),
    answer=w.answer,
    refusal=w.refusal,
    depth=w.depth,
    snapshot=w.snapshot,
    trade=w.trade,
    trade_id=lambda symbol, n: 70 + n,
    with_unknown_field=with_unknown_field,
    unknown_event=w.frame("novelty", SPOT, {"x": 1}),
    snapshot_in_stream=True,
    seeds=w.seeds,
)


class TestOkx(Conformance):
    case = CASE


@dataclass(eq=False)
class Known:
    """A candle compared field by field, since unknown numbers are NaN."""

    candle: Candle

    def same(self, other: Any) -> bool:
        return repr(self.candle) == repr(other)


@pytest.mark.parametrize(
    ("symbol", "row", "quote_volume", "state", "ts", "flags"),
    [
        (SPOT, w.CANDLE, 1260.5, "provisional", NOW, TS_FROM_RECV),
        (SWAP, [*w.CANDLE[:8], "1"], 1260.5, "final", NOW, 0),
        (SPOT, w.CANDLE[:7], 1250.25, "provisional", NOW, TS_FROM_RECV),  # the form of 2022
        (SWAP, w.CANDLE[:7], nan, "provisional", NOW, TS_FROM_RECV),
    ],
)
def test_candles(symbol: str, row: list[str], quote_volume: float, state: Any, ts: int, flags: int) -> None:
    harness = Harness(CASE, types=("candles",))
    (feed,) = harness.feeds
    harness.connect()
    record = feed.receive(w.frame("candle1m", symbol, row), NOW).records[-1]
    expected = Candle(
        NOW - 60 * w.SECOND, NOW, ts, NOW, "okx", symbol, "1m", "exchange", state, 100.0, 102.0, 99.0, 101.5, 12.5,
        quote_volume, -1, nan, nan, flags,
    )  # fmt: skip
    assert repr(record) == repr(expected)


# Connections and channels


def args(sent: list[str]) -> list[tuple[str, str]]:
    return [(a["channel"], a["instId"]) for text in sent if text != "ping" for a in json.loads(text)["args"]]


def test_candles_and_single_fills_have_a_connection_of_their_own() -> None:
    harness = Harness(CASE, types=("trades", "quotes", "candles", "book"), symbols=(SPOT,))
    assert [(f.name, f.url) for f in harness.feeds] == [
        ("okx/public-0", "wss://ws.okx.com:8443/ws/v5/public"),
        ("okx/business-0", "wss://ws.okx.com:8443/ws/v5/business"),
    ]
    harness.connect()
    assert args(harness.sent) == [("trades", SPOT), ("bbo-tbt", SPOT), ("books", SPOT), ("candle1m", SPOT)]
    instruments = {i.symbol: i for i in OKX.parse_instruments(INSTRUMENTS)}
    subscription = Subscription((SPOT,), ("trades", "quotes"), options={"trades": "all", "quotes": "tickers"})
    feeds = OKX.feeds(subscription, instruments, OKX.endpoints)
    sent = [a.frame for f in feeds for a in f.connected(NOW).actions]  # type: ignore[union-attr]
    assert [f.url.rpartition("/")[2] for f in feeds] == ["public", "business"]
    assert args(sent) == [("tickers", SPOT), ("trades-all", SPOT)]


def test_long_intervals_are_asked_for_in_utc() -> None:
    instruments = {i.symbol: i for i in OKX.parse_instruments(INSTRUMENTS)}
    subscription = Subscription((SPOT,), ("candles",), ("4h", "6h", "12h", "1d", "1w", "1M"))
    (feed,) = OKX.feeds(subscription, instruments, OKX.endpoints)
    sent = [a.frame for a in feed.connected(NOW).actions]  # type: ignore[union-attr]
    assert [c for c, _ in args(sent)] == [
        "candle4H", "candle6Hutc", "candle12Hutc", "candle1Dutc", "candle1Wutc", "candle1Mutc",
    ]  # fmt: skip


def test_many_symbols_are_spread_over_connections_and_frames_stay_small() -> None:
    rows = [w.instrument("SPOT", f"A{i}-USDT", baseCcy=f"A{i}", quoteCcy="USDT") for i in range(500)]
    instruments = {i.symbol: i for i in OKX.parse_instruments(w.body(*rows))}
    feeds = OKX.feeds(Subscription(tuple(instruments), ("trades", "book")), instruments, OKX.endpoints)
    assert [len(f.symbols) for f in feeds] == [200, 200, 100]
    assert len({f.name for f in feeds}) == 3
    sent = [a.frame for f in feeds for a in f.connected(NOW).actions]  # type: ignore[union-attr]
    assert all(len(text.encode()) < 64_000 for text in sent)
    assert sorted(args(sent)) == sorted((c, s) for s in instruments for c in ("trades", "books"))
    few = OKX.feeds(
        Subscription(tuple(instruments), ("trades",), options={"streams_per_connection": "250"}),
        instruments,
        OKX.endpoints,
    )
    assert [len(f.symbols) for f in few] == [250, 250]


@pytest.mark.parametrize(
    ("subscription", "words"),
    [
        (Subscription((SPOT,), ("book",), depth=7), "partial depth 7"),
        (Subscription((), ("book",)), "nothing to subscribe"),
        (Subscription((SPOT,), ("candles",), ("3d",)), "no candles of '3d'"),
        (Subscription((SPOT,), ("trades",), options={"trades": "some"}), "option trades is 'some'"),
        (Subscription((SPOT,), ("trades",), options={"quotes": "some"}), "option quotes is 'some'"),
        (Subscription((SPOT,), ("book",), options={"streams_per_connection": "0"}), "streams_per_connection"),
        (Subscription((SPOT,), ("agg_trades",)), "agg_trades"),
    ],
)
def test_wrong_subscriptions_are_told_before_connecting(subscription: Subscription, words: str) -> None:
    instruments = {i.symbol: i for i in OKX.parse_instruments(INSTRUMENTS)}
    with pytest.raises(UsageError, match=words):
        OKX.feeds(subscription, instruments, OKX.endpoints)
    with pytest.raises(UnknownNameError):
        OKX.feeds(Subscription(("BTC-USDX",), ("book",)), instruments, OKX.endpoints)


def test_reference_data_is_asked_for_type_by_type() -> None:
    assert isinstance(OKX, PagedInstruments)
    request: Any = OKX.instruments_request(OKX.endpoints)
    urls = []
    while request is not None:
        urls.append(request.url)
        request = next_instruments_request(OKX, request, w.body(), OKX.endpoints)
    assert urls == [f"https://www.okx.com/api/v5/public/instruments?instType={t}" for t in ("SPOT", "SWAP", "FUTURES")]


def test_the_exchange_is_found_by_entry_point() -> None:
    assert registry.exchange("okx") is OKX
    assert "OKX" in repr(OKX)
    assert OKX.recording_urls()
    assert OKX.used_weight(object()) is None  # type: ignore[arg-type]
    assert OKX.history is not None
    assert OKX.archive is not None


def test_tick_sizes_reach_the_books() -> None:
    harness = Harness(CASE, types=("book",))
    assert [harness.book(s).tick_size for s in CASE.symbols] == [Decimal("0.1"), Decimal("0.1")]


def test_comments_point_to_headings_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "exchanges" / "okx.md").read_text()
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, re.M)}
    package = root / "packages" / "cmd-okx" / "src" / "cmd_okx"
    links = {a for f in package.glob("*.py") for a in re.findall(r"okx\.md#([\w-]+)", f.read_text())}
    assert len(links) >= 6
    assert links <= headings
