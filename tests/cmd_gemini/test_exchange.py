"""The conformance suite over both feeds of Gemini. The messages are made up in the exchange's form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import gemini_wire as w
import pytest
from gemini_wire import MS, NOW, A, B
from msgspec.structs import replace

from cmd_common import registry
from cmd_common.errors import UsageError
from cmd_common.exchange import Endpoints
from cmd_common.feed import Feed, Subscription
from cmd_common.instruments import Instrument
from cmd_common.records import INEXACT, TS_FROM_RECV, BookSnapshot, Quote, Trade, pack_levels
from cmd_common.testing.conformance import Conformance
from cmd_common.testing.harness import ConformanceCase, ParserCase
from cmd_gemini import GEMINI, GeminiExchange


class Current(GeminiExchange):
    """The current API alone, without the connection for candles."""

    types = ("trades", "quotes", "book")


class V2(GeminiExchange):
    """The v2 feed alone."""

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        return super().feeds(replace(subscription, options={"api": "v2"}), instruments, endpoints)


UNIFIED = {A: "BTC-USD", B: "ETH-GUSD-PERP"}


def with_unknown_field(text: str) -> str:
    return w.text({**json.loads(text), "newKey": {"nested": [1, "x"]}})


def current_trade(n: int, price: str = "100.25", side: str = "") -> Trade:
    flags = INEXACT if len(price) > 17 else 0
    taker = "buy" if n % 2 else "sell"
    return Trade(w.ns(n), NOW, "gemini", A, str(70 + n), 70 + n, float(price), 0.5, taker, flags)  # type: ignore[arg-type]


BOOK_TICKER = {"u": 400, "E": w.ns(1), "s": "btcusd", "b": "99.50", "B": "1.5", "a": "100.50", "A": "2"}
LONG = "100.1234567890123456"
BIDS, ASKS = w.sides(3)


def packed(side: list[list[str]]) -> bytes:
    return pack_levels((float(p), float(q)) for p, q in side)


CASE = ConformanceCase(
    exchange=Current(),
    now=NOW,
    instruments=w.DETAILS,
    unified=UNIFIED,
    symbols=(A, B),
    parsers=(
        ParserCase("buy", w.trade(A, 1), (current_trade(1),)),
        ParserCase("sell", w.trade(A, 2), (current_trade(2),)),
        ParserCase("many digits", w.trade(A, 1).replace("100.25", LONG), (current_trade(1, LONG),)),
        ParserCase("quote", w.text(BOOK_TICKER), (Quote(w.ns(1), NOW, "gemini", A, 400, 99.5, 1.5, 100.5, 2.0),)),
        ParserCase(
            "empty side",
            w.text({**BOOK_TICKER, "b": "0", "B": "0"}),
            (Quote(w.ns(1), NOW, "gemini", A, 400, 0.0, 0.0, 100.5, 2.0),),
        ),
        ParserCase(
            "snapshot",
            w.snapshot(A, 3),
            (BookSnapshot(w.ns(3), NOW, "gemini", A, 1030, 1030, len(BIDS), len(ASKS), packed(BIDS), packed(ASKS)),),
        ),
    ),
    answer=w.answer,
    refusal=w.refusal,
    depth=w.depth,
    snapshot=w.snapshot,
    trade=w.trade,
    trade_id=lambda symbol, n: 70 + n,
    with_unknown_field=with_unknown_field,
    unknown_event='{"e":"markPrice","E":1,"s":"btcusd","p":"1","i":"2"}',
    snapshot_in_stream=True,
    trade_ids=False,
)

V2_TRADE = Trade((MS + 1) * 1_000_000, NOW, "gemini", A, "7000003", 7_000_003, 100.25, 0.5, "buy")
V2_CASE = ConformanceCase(
    exchange=V2(),
    now=NOW,
    instruments=w.DETAILS,
    unified=UNIFIED,
    symbols=(A, B),
    parsers=(
        ParserCase("buy", w.v2_trade(A, 1), (V2_TRADE,)),
        ParserCase(
            "sell of 2026",
            w.v2_trade(A, 2, tid=9),
            (Trade((MS + 2) * 1_000_000, NOW, "gemini", A, "9", 9, 100.25, 0.5, "sell"),),
        ),
        ParserCase("heartbeat", '{"type":"heartbeat","timestamp":1624493666869}', ()),
    ),
    answer=w.v2_answer,
    refusal=w.v2_refusal,
    depth=w.v2_depth,
    snapshot=w.v2_snapshot,
    seeds=w.v2_seeds,
    trade=w.v2_trade,
    trade_id=lambda symbol, n: 7_000_000 + 3 * n,
    with_unknown_field=with_unknown_field,
    unknown_event='{"type":"mark_price_updates","symbol":"BTCUSD"}',
    snapshot_in_stream=True,
    trade_ids=False,
    depth_ids=False,
)


class TestCurrent(Conformance):
    case = replace(CASE, seeds=w.seeds)

    def test_parser_table(self) -> None:
        # The first book comes with the subscription; in this table it is one of the messages.
        self.case = CASE
        super().test_parser_table()

    def test_unknown_fields_are_ignored_and_counted(self) -> None:
        self.case = CASE
        super().test_unknown_fields_are_ignored_and_counted()


class TestV2(Conformance):
    case = V2_CASE

    def test_unknown_fields_are_ignored_and_counted(self) -> None:
        self.case = replace(self.case, parsers=self.case.parsers[:2])  # a heartbeat's fields are nobody's business
        super().test_unknown_fields_are_ignored_and_counted()

    def test_silent_streams_raise_an_alarm(self) -> None:
        # Nothing is confirmed on this feed: only the whole book, which comes with the trades, shows that it works.
        harness = self.harness(("trades",))
        for _ in range(70):
            for symbol in self.case.symbols:
                harness.receive(self.case.depth(symbol, 1))
            harness.tick()
        assert {r.symbol for r in harness.records if getattr(r, "state", "") == "silent"} == set(self.case.symbols)  # type: ignore[union-attr]

    def test_damage_never_raises_and_is_reported(self) -> None:
        # A damaged frame may have been anybody's: books are loaded anew, which is not looked at here.
        self.case = replace(self.case, seeds=lambda frame: ())
        super().test_damage_never_raises_and_is_reported()


def feeds(*types: str, symbols: tuple[str, ...] = (A,), **options: str) -> list[Feed]:
    known = {i.symbol: i for i in GEMINI.parse_instruments(w.DETAILS)}
    return GEMINI.feeds(Subscription(symbols, types, options=options), known, GEMINI.endpoints)


def test_candles_have_a_connection_of_the_older_feed() -> None:
    made = feeds("trades", "quotes", "candles", "book")
    assert [(f.name, f.url) for f in made] == [
        ("gemini/stream-0", "wss://ws.gemini.com/?snapshot=-1"),
        ("gemini/v2-0", "wss://api.gemini.com/v2/marketdata"),
    ]
    sent = [json.loads(a.frame) for f in made for a in f.connected(NOW).actions]  # type: ignore[union-attr]
    assert sent == [
        {"id": 1, "method": "subscribe", "params": ["btcusd@trade", "btcusd@bookTicker", "btcusd@depth@100ms"]},
        {"type": "subscribe", "subscriptions": [{"name": "candles_1m", "symbols": ["BTCUSD"]}]},
    ]
    (older,) = feeds("trades", "book", "quotes", api="v2")
    sent = [json.loads(a.frame) for a in older.connected(NOW).actions]  # type: ignore[union-attr]
    assert sent == [{"type": "subscribe", "subscriptions": [{"name": "l2", "symbols": ["BTCUSD"]}]}]
    (slow,) = feeds("book", speed="1s")
    assert '"btcusd@depth"' in slow.connected(NOW).actions[0].frame  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("subscription", "words"),
    [
        (Subscription((A,), ("book",), depth=7), "partial depth 7"),
        (Subscription((A,), ("book",), depth=5, options={"api": "v2"}), "partial depth 5"),
        (Subscription((A,), ("candles",), ("3m",)), "no candles of '3m'"),
        (Subscription((A,), ("book",), options={"api": "v1"}), "option api is 'v1'"),
        (Subscription((A,), ("book",), options={"speed": "10ms"}), "option speed is '10ms'"),
        (Subscription((A,), ("agg_trades",)), "agg_trades"),
    ],
)
def test_wrong_subscriptions_are_told_before_connecting(subscription: Subscription, words: str) -> None:
    known = {i.symbol: i for i in GEMINI.parse_instruments(w.DETAILS)}
    with pytest.raises(UsageError, match=words):
        GEMINI.feeds(subscription, known, GEMINI.endpoints)


def test_many_symbols_are_spread_over_connections() -> None:
    rows = json.loads(w.DETAILS)
    many = [{**rows[0], "symbol": f"A{n}USD", "base_currency": f"A{n}"} for n in range(150)]
    known = {i.symbol: i for i in GEMINI.parse_instruments(json.dumps(many).encode())}
    made = GEMINI.feeds(Subscription(tuple(known), ("trades", "book")), known, GEMINI.endpoints)
    assert [len(f.symbols) for f in made] == [100, 50]
    assert all(len(a.frame) < 4096 for f in made for a in f.connected(NOW).actions)  # type: ignore[union-attr]


def test_the_exchange_is_found_by_entry_point() -> None:
    assert registry.exchange("gemini") is GEMINI
    assert "Gemini" in repr(GEMINI)
    assert GEMINI.history is not None
    assert GEMINI.archive is None
    assert GEMINI.used_weight(object()) is None  # type: ignore[arg-type]
    assert GEMINI.recording_urls()


def test_comments_point_to_headings_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "exchanges" / "gemini.md").read_text()
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, re.M)}
    package = root / "packages" / "cmd-gemini" / "src" / "cmd_gemini"
    links = {a for f in package.glob("*.py") for a in re.findall(r"gemini\.md#([\w-]+)", f.read_text())}
    assert len(links) >= 6
    assert links <= headings


def test_books_of_the_older_feed_have_the_time_of_receipt() -> None:
    (feed,) = feeds("book", "quotes", api="v2")
    feed.connected(NOW)
    records = feed.receive(w.v2_snapshot(A, 3), NOW).records
    records += feed.receive(w.v2_depth(A, 4), NOW + 5).records  # its best levels are as before
    data = [r for r in records if not hasattr(r, "state")]
    assert [type(r).__name__ for r in data] == ["BookSnapshot", "Quote", "BookDelta"]
    assert all(r.flags & TS_FROM_RECV and r.ts_event == r.ts_recv for r in data)  # type: ignore[union-attr]
