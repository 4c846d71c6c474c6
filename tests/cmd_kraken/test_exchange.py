"""The conformance suite over Kraken. The messages are made up in the exchange's form."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import kraken_wire as w
import pytest
from kraken_wire import BTC, DOGE, INSTRUMENTS, NOW
from msgspec.structs import replace

from cmd_common import registry
from cmd_common.errors import UsageError
from cmd_common.feed import Subscription
from cmd_common.records import TS_FROM_RECV, Quote, Trade
from cmd_common.testing.conformance import Conformance
from cmd_common.testing.harness import ConformanceCase, Harness, ParserCase
from cmd_kraken import KRAKEN


def with_unknown_field(text: str) -> str:
    """One more key in the first row; numbers keep their texts."""
    return text.replace('"symbol":', '"newKey":{"nested":[1,"x",0.10]},"symbol":', 1)


def kraken_case(**changes: Any) -> ConformanceCase:
    case = ConformanceCase(
        exchange=KRAKEN,
        now=NOW,
        instruments=INSTRUMENTS,
        unified={BTC: "BTC-USD", DOGE: "DOGE-EUR"},
        symbols=(BTC, DOGE),
        parsers=(
            ParserCase("buy", w.trade(BTC, 1), (Trade(w.ns(1), NOW, "kraken", BTC, "1001", 1001, 100.2, 0.5, "buy"),)),
            ParserCase(
                "sell", w.trade(DOGE, 2), (Trade(w.ns(2), NOW, "kraken", DOGE, "5002", 5002, 100.2, 0.5, "sell"),)
            ),
            ParserCase("quote", w.ticker(BTC), (Quote(w.ns(1), NOW, "kraken", BTC, 0, 99.5, 1.5, 100.5, 2.0),)),
            ParserCase(
                "quote without a time",
                w.ticker(BTC, timestamp=False),
                (Quote(NOW, NOW, "kraken", BTC, 0, 99.5, 1.5, 100.5, 2.0, TS_FROM_RECV),),
            ),
            ParserCase(
                "quote without bids",
                w.ticker(BTC, bid="null").replace('"bid_qty":1.50000000', '"bid_qty":null'),
                (Quote(w.ns(1), NOW, "kraken", BTC, 0, 0.0, 0.0, 100.5, 2.0),),
            ),
        ),
        answer=w.answer,
        refusal=w.refusal,
        depth=w.depth,
        snapshot=w.snapshot,
        trade=w.trade,
        trade_id=lambda symbol, n: w.START[symbol] + n,
        with_unknown_field=with_unknown_field,
        unknown_event=w.frame("novelty", "update", '{"symbol":"BTC/USD"}'),
        types=("trades", "quotes", "book"),
        snapshot_in_stream=True,
        seeds=w.seeds,
        depth_ids=False,  # no sequence: a repeat shows by nothing, a loss by the checksum
    )
    return replace(case, **changes)


CASE = kraken_case()


class TestKraken(Conformance):
    case = CASE


def test_a_lost_book_message_is_noticed_at_the_next_one_by_the_checksum() -> None:
    suite = Conformance()
    suite.case = kraken_case(depth_ids=True)
    suite.test_a_lost_depth_message_is_noticed_at_the_next_one()


def test_the_exchange_is_found_by_entry_point() -> None:
    assert registry.exchange("kraken") is KRAKEN
    assert "Kraken" in repr(KRAKEN)
    assert KRAKEN.recording_urls() == ("ws.kraken.com", "api.kraken.com")
    assert KRAKEN.used_weight(object()) is None  # type: ignore[arg-type]
    assert KRAKEN.history is not None
    assert KRAKEN.archive is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 20}, "partial depth 20"),
        ({"options": {"depth": "20"}}, "depth 20"),
        ({"options": {"depth": "x"}}, "option depth is 'x'"),
        ({"options": {"api": "v3"}}, "option api is 'v3'"),
        ({"options": {"trade_ids": "no"}}, "option trade_ids is 'no'"),
        ({"options": {"quotes": "no"}}, "option quotes is 'no'"),
        ({"types": ("agg_trades",)}, "agg_trades"),
        ({"types": ("candles",), "intervals": ("2h",)}, "no candles of '2h'"),
    ],
)
def test_wrong_subscriptions_are_told_before_connecting(changes: dict[str, Any], words: str) -> None:
    instruments = {i.symbol: i for i in KRAKEN.parse_instruments(INSTRUMENTS)}
    subscription = Subscription(**{"symbols": (BTC,), "types": ("book",), **changes})
    with pytest.raises(UsageError, match=words):
        KRAKEN.feeds(subscription, instruments, KRAKEN.endpoints)


def sent(**changes: Any) -> list[dict[str, Any]]:
    instruments = {i.symbol: i for i in KRAKEN.parse_instruments(INSTRUMENTS)}
    subscription = Subscription(**{"symbols": (BTC, DOGE), "types": KRAKEN.types, **changes})
    (feed,) = KRAKEN.feeds(subscription, instruments, KRAKEN.endpoints)
    return [json.loads(a.frame) for a in feed.connected(NOW).actions]  # type: ignore[union-attr]


def test_subscriptions_are_one_frame_a_channel() -> None:
    both = [BTC, DOGE]
    requests = sent(intervals=("1m", "15d", "1m"))
    assert [r["params"] for r in requests] == [
        {"channel": "trade", "symbol": both, "snapshot": True},
        {"channel": "ticker", "symbol": both, "event_trigger": "bbo", "snapshot": True},
        {"channel": "ohlc", "symbol": both, "interval": 1, "snapshot": True},
        {"channel": "ohlc", "symbol": both, "interval": 21600, "snapshot": True},
        {"channel": "book", "symbol": both, "depth": 1000, "snapshot": True},
    ]
    assert len({r["req_id"] for r in requests}) == 5


@pytest.mark.parametrize("changes", [{"depth": 25}, {"options": {"depth": "25"}}])
def test_the_depth_is_that_of_the_subscription(changes: dict[str, Any]) -> None:
    (request,) = sent(types=("book",), **changes)
    assert request["params"]["depth"] == 25


def test_many_symbols_are_spread_over_frames_and_connections() -> None:
    pairs = {f"A{i}USD": w.pair(f"A{i}/USD", f"A{i}", "ZUSD") for i in range(600)}
    instruments = {i.symbol: i for i in KRAKEN.parse_instruments(w.body(pairs))}
    feeds = KRAKEN.feeds(Subscription(tuple(instruments), ("trades", "book")), instruments, KRAKEN.endpoints)
    assert [len(f.symbols) for f in feeds] == [500, 100]
    frames = [json.loads(a.frame) for f in feeds for a in f.connected(NOW).actions]  # type: ignore[union-attr]
    assert all(len(f["params"]["symbol"]) <= 100 for f in frames)
    asked = [(f["params"]["channel"], s) for f in frames for s in f["params"]["symbol"]]
    assert sorted(asked) == sorted((c, s) for s in instruments for c in ("trade", "book"))


def test_tick_sizes_reach_the_books() -> None:
    harness = Harness(CASE, types=("book",))
    assert [harness.book(s).tick_size for s in CASE.symbols] == [Decimal("0.1"), Decimal("0.5")]


def test_comments_point_to_headings_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "exchanges" / "kraken.md").read_text()
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, re.M)}
    named = set()
    for path in (root / "packages" / "cmd-kraken" / "src").rglob("*.py"):
        named |= set(re.findall(r"docs/exchanges/kraken\.md#([\w-]+)", path.read_text()))
    assert named
    assert named <= headings
