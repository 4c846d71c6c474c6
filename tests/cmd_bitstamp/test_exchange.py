"""The conformance suite over Bitstamp. The messages are made up in the exchange's form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import bitstamp_wire as w
import pytest
from bitstamp_wire import NOW, A, B

from cmd_bitstamp import BITSTAMP
from cmd_common import registry
from cmd_common.errors import UsageError
from cmd_common.feed import Feed, Subscription
from cmd_common.records import INEXACT, Gap, Quote, Trade
from cmd_common.testing.conformance import Conformance
from cmd_common.testing.harness import ConformanceCase, Harness, ParserCase


def with_unknown_field(text: str) -> str:
    outer = json.loads(text)
    outer["data"]["newKey"] = {"nested": [1, "x"]}
    return w.text(outer)


def made(n: int, amount: str = "0.50000000", flags: int = 0) -> Trade:
    id_ = 70 + 3 * n
    side = "sell" if n % 2 else "buy"
    return Trade(w.ns(n), NOW, "bitstamp", A, str(id_), id_, 100.25, float(amount), side, flags)


MANY = "0.1234567890123456"
CASE = ConformanceCase(
    exchange=BITSTAMP,
    now=NOW,
    instruments=w.PAIRS,
    unified={A: "BTC-USD", B: "ETH-EUR"},
    symbols=(A, B),
    parsers=(
        ParserCase("buy", w.trade(A, 2), (made(2),)),
        ParserCase("sell", w.trade(A, 1), (made(1),)),
        ParserCase("an exponent", w.trade(A, 2, "1E-8"), (made(2, "1E-8"),)),
        ParserCase("many digits", w.trade(A, 2, MANY), (made(2, MANY, INEXACT),)),
    ),
    answer=w.answer,
    refusal=w.refusal,
    depth=w.depth,
    snapshot=w.snapshot,
    trade=w.trade,
    trade_id=lambda symbol, n: 70 + 3 * n,
    with_unknown_field=with_unknown_field,
    unknown_event='{"event":"funding_rate_saved","channel":"funding_rate_btcusd","data":{}}',
    trade_ids=False,
    depth_ids=False,
)


class TestBitstamp(Conformance):
    case = CASE


def feeds(*types: str, symbols: tuple[str, ...] = (A,), depth: int | None = None, **options: str) -> list[Feed]:
    known = {i.symbol: i for i in BITSTAMP.parse_instruments(w.PAIRS)}
    return BITSTAMP.feeds(Subscription(symbols, types, depth=depth, options=options), known, BITSTAMP.endpoints)


def test_one_channel_a_frame() -> None:
    (feed,) = feeds("trades", "quotes", "book", symbols=(A, B), live_orders="on")
    sent = [json.loads(a.frame) for a in feed.connected(NOW).actions]  # type: ignore[union-attr]
    assert {m["event"] for m in sent} == {"bts:subscribe"}
    assert sorted(m["data"]["channel"] for m in sent) == [
        "diff_order_book_btcusd", "diff_order_book_etheur", "live_orders_btcusd", "live_orders_etheur",
        "live_trades_btcusd", "live_trades_etheur",
    ]  # fmt: skip
    assert all(len(a.frame) < 512 for a in feed.connected(NOW).actions)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("subscription", "words"),
    [
        (Subscription((A,), ("book",), depth=10), "partial depth 10"),
        (Subscription((A,), ("candles",)), "candles"),
        (Subscription((A,), ("book",), options={"live_orders": "yes"}), "option live_orders is 'yes'"),
        (Subscription((A,), ("book",), options={"reseed": "often"}), "option reseed is 'often'"),
        (Subscription((), ("book",)), "nothing to subscribe"),
    ],
)
def test_wrong_subscriptions_are_told_before_connecting(subscription: Subscription, words: str) -> None:
    known = {i.symbol: i for i in BITSTAMP.parse_instruments(w.PAIRS)}
    with pytest.raises(UsageError, match=words):
        BITSTAMP.feeds(subscription, known, BITSTAMP.endpoints)


def test_many_pairs_are_spread_over_connections() -> None:
    rows = json.loads(w.PAIRS)
    many = [{**rows[0], "name": f"A{n}/USD", "url_symbol": f"a{n}usd"} for n in range(700)]
    known = {i.symbol: i for i in BITSTAMP.parse_instruments(json.dumps(many).encode())}
    made = BITSTAMP.feeds(Subscription(tuple(known), ("trades", "book")), known, BITSTAMP.endpoints)
    assert [len(f.symbols) for f in made] == [512, 188]


def test_the_exchange_is_found_by_entry_point() -> None:
    assert registry.exchange("bitstamp") is BITSTAMP
    assert "Bitstamp" in repr(BITSTAMP)
    assert BITSTAMP.history is not None
    assert BITSTAMP.archive is None
    assert BITSTAMP.used_weight(object()) is None  # type: ignore[arg-type]
    assert BITSTAMP.recording_urls()


def test_the_best_levels_alone() -> None:
    (feed,) = feeds("book", depth=100)
    (action,) = feed.connected(NOW).actions
    assert "order_book_btcusd" in action.frame  # type: ignore[union-attr]
    records = feed.receive(w.depth(A, 3, "order_book"), NOW).records
    records += feed.receive(w.depth(A, 3, "order_book"), NOW).records
    (snapshot,) = [r for r in records if type(r).__name__ == "BookSnapshot"]
    assert snapshot.ts_event == w.ns(3)  # type: ignore[union-attr]


def test_quotes_are_made_from_the_best_levels_too() -> None:
    (feed,) = feeds("quotes", "book", depth=100)
    feed.connected(NOW)
    records = feed.receive(w.depth(A, 3, "order_book"), NOW).records
    feed.disconnected(NOW, "test")
    feed.connected(NOW)
    records += feed.receive(w.depth(A, 5, "order_book"), NOW).records
    quotes = [r for r in records if isinstance(r, Quote)]
    assert next((q.seq, q.ts_event) for q in quotes) == (w.us(3), w.ns(3))
    gaps = {(g.record_type, g.reason, g.ts_from, g.ts_to) for g in records if isinstance(g, Gap)}
    assert gaps == {(t, "disconnect", w.ns(3), w.ns(5)) for t in ("book_snapshots", "quotes")}


def test_comments_point_to_headings_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "exchanges" / "bitstamp.md").read_text()
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, re.M)}
    package = root / "packages" / "cmd-bitstamp" / "src" / "cmd_bitstamp"
    links = {a for f in package.glob("*.py") for a in re.findall(r"bitstamp\.md#([\w-]+)", f.read_text())}
    assert len(links) >= 4
    assert links <= headings


def test_a_harness_has_the_channels_of_both_symbols() -> None:
    harness = Harness(CASE, types=("book",))
    harness.connect()
    assert {json.loads(f)["data"]["channel"] for f in harness.sent} == {
        "diff_order_book_btcusd",
        "diff_order_book_etheur",
    }
