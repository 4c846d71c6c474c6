"""One connection: subscriptions and refusals, books, quotes, trades, candles, pings, damage."""

from __future__ import annotations

import json
from math import isnan
from typing import Any

import pytest
from bybit_wire import (
    CASES,
    MS,
    NOW,
    SECOND,
    ack,
    book,
    dumps,
    instrument_row,
    instruments_body,
    kline,
    trade_row,
    trades,
)
from hypothesis import given
from hypothesis import strategies as st

from cmd_bybit import LINEAR, SPOT
from cmd_bybit.feed import BybitFeed
from cmd_common.feed import Output, Resubscribe, Send, Subscription
from cmd_common.records import INEXACT, BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState
from cmd_common.testing.harness import Harness

BTC = "BTCUSDT"
NOT_FOUND = "error:handler not found,topic:"
LEVELS: Any = ([["99.00", "5"]], [["101.00", "5"]])


def harness(*types: str, venue: str = "bybit-spot", symbols: tuple[str, ...] = (BTC,), **options: Any) -> Harness:
    made = Harness(CASES[venue], types=types, symbols=symbols)
    if options:
        subscription = Subscription(symbols, types, options=options)
        made.feeds = made.case.exchange.feeds(subscription, made.instruments, made.case.exchange.endpoints)
    made.connect()
    return made


def data(records: list[Record]) -> list[Record]:
    return [r for r in records if not isinstance(r, FeedStatus)]


def states(made: Harness, state: str) -> list[FeedStatus]:
    return [r for r in made.of(FeedStatus) if isinstance(r, FeedStatus) and r.state == state]


def frames(output: Output) -> list[str]:
    found: list[str] = []
    for action in output.actions:
        if isinstance(action, Send):
            found.append(action.frame)
        elif isinstance(action, Resubscribe):
            found += action.frames
    return found


# Subscriptions


class Exchange:
    """Answers requests as the exchange does; ``bad`` topics do not exist. ``partial``: the good topics of a
    refused request count all the same, which the documentation leaves open.
    """

    def __init__(self, feed: BybitFeed, bad: set[str], *, partial: bool, names_topic: bool = True) -> None:
        self.feed = feed
        self.bad = bad
        self.partial = partial
        self.names_topic = names_topic
        self.topics: set[str] = set()
        self.records: list[Record] = []
        self.asked = 0

    def take(self, output: Output, now: int) -> None:
        self.records += output.records
        for text in frames(output):
            request = json.loads(text)
            if request["op"] == "subscribe":
                self.asked += 1
                assert self.asked < 200
                self.take(self.feed.receive(self.answer(text, request["args"]), now), now)

    def answer(self, text: str, args: list[str]) -> str:
        for topic in args:
            why = ""
            if topic in self.bad:
                why = f"{NOT_FOUND}{topic}" if self.names_topic else "Params Error"
            elif topic in self.topics:
                why = f"error:already subscribed,topic:{topic}"
            if why:
                return ack(text, spot=True, why=why)[0]
            if self.partial:
                self.topics.add(topic)
        self.topics.update(args)
        return ack(text, spot=True)[0]


@given(st.sets(st.integers(0, 24), max_size=8), st.booleans())
def test_bad_topics_are_named_and_every_good_one_is_subscribed(numbers: set[int], partial: bool) -> None:
    symbols = tuple(f"S{n}USDT" for n in range(25))
    rows = [instrument_row(SPOT, s, s[:-4], "USDT") for s in symbols]
    known = {i.symbol: i for i in SPOT.parse_instruments(instruments_body(SPOT, rows))}
    (feed,) = SPOT.feeds(Subscription(symbols, ("trades",)), known, SPOT.endpoints)
    assert isinstance(feed, BybitFeed)
    bad = {f"publicTrade.S{n}USDT" for n in numbers}
    exchange = Exchange(feed, bad, partial=partial)
    exchange.take(feed.connected(NOW), NOW)
    assert exchange.topics == {f"publicTrade.{s}" for s in symbols} - bad
    rejected = {
        r.reason.partition(":")[0] for r in exchange.records if isinstance(r, FeedStatus) and r.state == "rejected"
    }
    assert rejected == bad
    assert feed.counters.errors == len(bad)
    for second in range(1, 40):
        exchange.take(feed.tick(NOW + second * SECOND), NOW + second * SECOND)
    assert exchange.asked <= 3 + 2 * 25  # nothing is asked for without end


def test_a_refusal_without_a_topic_is_halved_until_the_bad_one_stands_alone() -> None:
    made = Harness(CASES["bybit-linear"], types=("trades", "quotes"))
    (feed,) = made.feeds
    assert isinstance(feed, BybitFeed)
    exchange = Exchange(feed, {"orderbook.1.BTCPERP"}, partial=False, names_topic=False)
    exchange.take(feed.connected(NOW), NOW)
    for second in range(1, 60):
        exchange.take(feed.tick(NOW + second * SECOND), NOW + second * SECOND)
    assert exchange.topics == {"publicTrade.BTCUSDT", "publicTrade.BTCPERP", "orderbook.1.BTCUSDT"}
    rejected = [r for r in exchange.records if isinstance(r, FeedStatus) and r.state == "rejected"]
    assert [(r.symbol, r.record_type) for r in rejected] == [("BTCPERP", "quotes")]


@pytest.mark.parametrize("form", ["without id", "spot", "linear"])
def test_acknowledgements_in_all_their_forms(form: str) -> None:
    made = Harness(CASES["bybit-spot"], types=("trades", "quotes"))
    made.answering = False
    made.connect()
    (feed,) = made.feeds
    (text,) = made.sent
    if form == "without id":
        (reply,) = ['{"success":true,"ret_msg":"subscribe","conn_id":"d9avrao7pl3bpiuoku0g-7tmms","op":"subscribe"}']
    else:
        (reply,) = ack(text, spot=form == "spot")
    assert data(made.receive(reply)) == []
    for _ in range(40):
        made.tick()
    assert [t for t in made.sent if "ping" not in t] == [text]  # not asked for again
    assert made.reconnects == 0
    assert (feed.counters.unknown_fields, feed.counters.malformed) == (0, 0)


def test_a_request_without_an_answer_is_sent_again_and_then_connected_anew() -> None:
    made = Harness(CASES["bybit-spot"], types=("trades",))
    made.answering = False
    made.connect()
    for _ in range(45):
        made.tick()
    requests = [t for t in made.sent if "subscribe" in t]
    assert len(requests) == 3
    assert len({json.loads(t)["req_id"] for t in requests}) == 3
    assert made.reconnects == 1


def test_pings_every_20_seconds_and_silence_connects_anew() -> None:
    made = harness("trades")
    for _ in range(61):
        made.tick()
    assert [t for t in made.sent if "ping" in t] == ['{"op":"ping"}'] * 3
    assert made.reconnects == 0
    made.answering = False
    for _ in range(61):
        made.tick()
    assert made.reconnects == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"success":true,"ret_msg":"pong","conn_id":"c","req_id":"","op":"ping"}',
        '{"success":true,"ret_msg":"pong","conn_id":"c","op":"ping"}',
        '{"req_id":"x","op":"pong","args":["1672304486868"],"conn_id":"c"}',
        '{"op":"pong"}',
    ],
)
def test_pongs_in_all_their_forms(text: str) -> None:
    made = harness("trades")
    before = len(made.records)
    made.receive(text)
    assert len(made.records) == before
    assert made.counters("unknown_messages") == made.counters("unknown_fields") == made.counters("errors") == 0


def test_other_answers() -> None:
    made = harness("trades")
    made.receive('{"op":"auth","success":false,"ret_msg":"no"}')
    assert made.counters("unknown_messages") == 1
    made.receive('{"op":"unsubscribe","success":false,"ret_msg":"error:not subscribed"}')
    made.receive('{"success":false,"ret_msg":"Failed to decode incoming data","conn_id":"c"}')
    assert made.counters("errors") == 2
    made.receive('{"success":true,"ret_msg":"","conn_id":"c","req_id":"99","op":"subscribe","more":1}')
    assert made.counters("unknown_fields") == 1
    made.receive('{"maintenance":"soon"}')
    assert made.counters("unknown_messages") == 2
    assert [r.state for r in made.of(FeedStatus) if isinstance(r, FeedStatus)].count("error") == 2


# Books


def test_a_snapshot_replaces_the_book_whenever_it_comes() -> None:
    made = harness("book")
    made.receive(book(BTC, "delta", 1001, [["98.00", "1"]], []))
    made.now += SECOND
    made.receive(book(BTC, "snapshot", 5000, [["50.00", "1"]], [["51.00", "2"]], ts=MS + 1000))
    assert made.book(BTC).state is BookState.LIVE
    assert (made.book(BTC).bids(), made.book(BTC).asks()) == ([(50.0, 1.0)], [(51.0, 2.0)])
    (gap,) = made.of(Gap)
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.first_id, gap.last_id) == ("snapshot", 1002, 5000)
    assert data(made.receive(book(BTC, "delta", 5001, [["49.00", "1"]], [], ts=MS + 1001))) != []


def test_a_snapshot_that_follows_is_no_loss() -> None:
    made = harness("book")
    for u in (1000, 1001):
        records = data(made.receive(book(BTC, "snapshot", u, *LEVELS, ts=MS + u)))
        assert [type(r) for r in records] == [BookSnapshot]
    assert made.of(Gap) == []
    assert made.counters("resyncs") == 0


@pytest.mark.parametrize("kind", ["snapshot", "delta"])
def test_u_1_is_a_snapshot_after_a_restart(kind: str) -> None:
    made = harness("book")
    made.receive(book(BTC, kind, 1, [["50.00", "1"]], [["51.00", "2"]], ts=MS + 1000))
    assert made.book(BTC).state is BookState.LIVE
    assert made.book(BTC).bids() == [(50.0, 1.0)]
    assert [type(r) for r in data(made.receive(book(BTC, "delta", 2, [["49.00", "1"]], [], ts=MS + 1001)))] == [
        BookDelta
    ]
    assert len(made.of(Gap)) == 1


def test_a_jump_subscribes_the_topic_again() -> None:
    made = harness("book")
    made.hold_snapshots = True
    sent = len(made.sent)
    made.receive(book(BTC, "delta", 1003, [["98.00", "1"]], []))
    assert made.book(BTC).state is BookState.STALE
    methods = [(json.loads(t)["op"], json.loads(t)["args"]) for t in made.sent[sent:]]
    assert methods == [("unsubscribe", [f"orderbook.1000.{BTC}"]), ("subscribe", [f"orderbook.1000.{BTC}"])]
    made.receive(book(BTC, "delta", 1004, [["97.00", "1"]], []))
    assert len(made.sent) == sent + 2
    made.receive(book(BTC, "snapshot", 1010, *LEVELS, ts=MS + 50))
    assert made.book(BTC).state is BookState.LIVE
    (gap,) = made.of(Gap)
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.first_id, gap.last_id) == ("sequence", 1001, 1010)


def test_event_time_is_the_engines_where_it_is_told() -> None:
    made = harness("book")
    (first,) = data(made.receive(book(BTC, "delta", 1001, [["98.00", "1"]], [], ts=MS)))
    old = json.loads(book(BTC, "delta", 1002, [["98.00", "2"]], [], ts=MS + 1))
    del old["cts"]
    (second,) = data(made.receive(dumps(old)))
    assert isinstance(first, BookDelta)
    assert isinstance(second, BookDelta)
    assert (first.ts_event, second.ts_event) == (MS * 1_000_000, (MS + 1 + 8) * 1_000_000)


def test_empty_sides_and_exponents() -> None:
    made = harness("book")
    made.receive(book(BTC, "snapshot", 1001, [], [["1.01e2", "5E-7"]], ts=MS + 5))
    assert made.book(BTC).asks() == [(101.0, 5e-7)]
    assert made.book(BTC).bids() == []
    made.receive(book(BTC, "delta", 1002, [], [], ts=MS + 6))
    made.receive(book(BTC, "delta", 1003, [["9.9e1", "1"]], [["101", "0.000"]], ts=MS + 7))
    assert (made.book(BTC).bids(), made.book(BTC).asks()) == ([(99.0, 1.0)], [])
    assert made.of(Gap) == []


def test_a_crossed_book_is_lost() -> None:
    made = harness("book")
    made.hold_snapshots = True
    made.receive(book(BTC, "delta", 1001, [["105.00", "1"]], []))
    assert made.book(BTC).state is BookState.STALE
    assert any("unsubscribe" in t for t in made.sent)


# Quotes


def quote(kind: str, u: int, bids: Any, asks: Any, ts: int = 0) -> str:
    return book(BTC, kind, u, bids, asks, depth=1, ts=MS + ts)


def test_a_snapshot_that_is_repeated_is_no_new_quote() -> None:
    made = harness("quotes")
    assert len(data(made.receive(quote("snapshot", 7, *LEVELS)))) == 1
    assert data(made.receive(quote("snapshot", 7, *LEVELS, ts=3000))) == []
    assert made.counters("skipped") == 1
    assert made.counters("duplicates") == 0
    (changed,) = data(made.receive(quote("snapshot", 9, LEVELS[0], [], ts=3010)))
    assert isinstance(changed, Quote)
    assert (changed.seq, changed.ask_price, changed.ask_quantity) == (9, 0.0, 0.0)
    assert made.of(Gap) == []


def test_quotes_from_deltas() -> None:
    made = harness("quotes")
    made.receive(quote("snapshot", 7, *LEVELS))
    (one,) = data(made.receive(quote("delta", 8, [["99.00", "0"], ["98.50", "2"]], [], ts=1)))
    assert isinstance(one, Quote)
    assert (one.bid_price, one.bid_quantity, one.ask_price) == (98.5, 2.0, 101.0)
    assert data(made.receive(quote("delta", 8, [["1", "2"]], [], ts=1))) == []
    assert made.counters("duplicates") == 1
    sent = len(made.sent)
    assert data(made.receive(quote("delta", 12, [["1", "2"]], [], ts=5))) == []
    assert [json.loads(t)["op"] for t in made.sent[sent:]] == ["unsubscribe", "subscribe"]
    assert data(made.receive(quote("delta", 13, [["1", "2"]], [], ts=6))) == []
    assert len(made.sent) == sent + 2
    gap, two = data(made.receive(quote("snapshot", 14, *LEVELS, ts=9)))
    assert isinstance(two, Quote)
    assert isinstance(gap, Gap)
    assert (gap.record_type, gap.reason, gap.ts_from, gap.ts_to) == ("quotes", "sequence", one.ts_event, two.ts_event)


def test_quotes_go_on_after_a_restart_of_the_service() -> None:
    made = harness("quotes")
    made.receive(quote("snapshot", 7000, *LEVELS))
    assert len(data(made.receive(quote("snapshot", 1, *LEVELS, ts=5)))) == 1
    assert len(data(made.receive(quote("snapshot", 2, *LEVELS, ts=6)))) == 1


# Trades


def test_block_trades_are_counted_and_left_out() -> None:
    rows = [
        trade_row(BTC, "11", "Buy", "100", "1", MS),
        trade_row(BTC, "12", "Sell", "90", "500", MS, BT=True),
        trade_row(BTC, "13", "Sell", "100", "2", MS, RPI=True),
    ]
    made = harness("trades")
    assert [r.trade_id for r in data(made.receive(trades(BTC, *rows))) if isinstance(r, Trade)] == ["11", "13"]
    assert made.counters("skipped") == 1
    made = harness("trades", block_trades="on")
    assert [r.trade_id for r in data(made.receive(trades(BTC, *rows))) if isinstance(r, Trade)] == ["11", "12", "13"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"S": "Unknown"}, {"side": "unknown"}),
        ({"p": "1.5e-7"}, {"price": 1.5e-7}),
        ({"v": "0.12345678901234567"}, {"quantity": 0.12345678901234567, "flags": INEXACT}),
        ({"i": "99999999999999999999"}, {"trade_seq": None}),
        ({"i": "f7496ecb-19b5-5d3b-8a48-cb4a4a0ec2a5"}, {"trade_seq": None}),
        ({"i": "2290000000061666327"}, {"trade_seq": 2290000000061666327}),
    ],
)
def test_fields_of_trades(more: dict[str, Any], expected: dict[str, Any]) -> None:
    made = harness("trades")
    (trade,) = data(made.receive(trades(BTC, trade_row(BTC, "11", "Buy", "100", "1", MS) | more)))
    assert {name: getattr(trade, name) for name in expected} == expected


@pytest.mark.parametrize(
    "more",
    [{"p": "0"}, {"p": "-1"}, {"p": "nan"}, {"p": "inf"}, {"v": "x"}, {"i": ""}, {"s": "ETHBTC"}, {"T": -1}, {"T": 0}, {"T": None}, {"p": 5}],
)  # fmt: skip
def test_wrong_trades_are_malformed_and_those_before_them_stay(more: dict[str, Any]) -> None:
    made = harness("trades")
    good = trade_row(BTC, "10", "Buy", "100", "1", MS)
    records = data(made.receive(trades(BTC, good, good | {"i": "11"} | more)))
    typed = {"T", "p"} & more.keys() and (more.get("T", 1) in (-1, 0, None) or more.get("p") == 5)
    assert [r.trade_id for r in records if isinstance(r, Trade)] == ([] if typed else ["10"])
    assert made.counters("malformed") == 1
    made.close()
    assert [g.reason for g in made.of(Gap) if isinstance(g, Gap)] == ["malformed"]


def test_trades_lost_by_a_disconnect_are_a_gap_of_time() -> None:
    made = harness("trades")
    made.receive(trades(BTC, trade_row(BTC, "10", "Buy", "100", "1", MS)))
    made.disconnect()
    made.connect()
    made.receive(
        trades(BTC, trade_row(BTC, "10", "Buy", "100", "1", MS), trade_row(BTC, "17", "Buy", "100", "1", MS + 9))
    )
    assert [t.trade_id for t in made.of(Trade) if isinstance(t, Trade)] == ["10", "17"]
    made.disconnect()
    made.connect()
    made.receive(trades(BTC, trade_row(BTC, "30", "Buy", "100", "1", MS + 500)))
    (gap,) = made.of(Gap)
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.ts_from, gap.ts_to) == ("disconnect", (MS + 9) * 1_000_000, (MS + 500) * 1_000_000)


# Candles


def test_candles() -> None:
    made = harness("candles")
    start = 1_767_225_540_000
    for confirm, state in ((False, "provisional"), (True, "final")):
        (candle,) = data(made.receive(kline(BTC, "1", start, confirm=confirm, ts=MS + 3)))
        assert isinstance(candle, Candle)
        assert (candle.state, candle.interval, candle.source) == (state, "1m", "exchange")
        assert (candle.open_time, candle.close_time) == (start * 1_000_000, (start + 60_000) * 1_000_000)
        assert (candle.ts_event, candle.ts_recv) == ((MS + 3) * 1_000_000, NOW)
        numbers = (candle.open, candle.high, candle.low, candle.close, candle.volume, candle.quote_volume)
        assert numbers == (100.0, 102.0, 99.0, 101.5, 12.5, 1250.25)
        assert candle.trades == -1
        assert isnan(candle.taker_buy_volume)
        assert isnan(candle.taker_buy_quote_volume)
    (gap, _) = data(made.receive(kline(BTC, "1", start + 180_000, confirm=False)))
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.severity, gap.detail) == ("candle", "suspect", "1m")
    made.receive(kline(BTC, "1", start + 180_000, confirm=False).replace('"interval":"1"', '"interval":"5"'))
    assert made.counters("malformed") == 1


# Damage and what nobody asked for


def test_topics_that_nobody_asked_for() -> None:
    made = harness("trades")
    for text in (
        book(BTC, "snapshot", 7, *LEVELS),
        trades("ETHBTC", trade_row("ETHBTC", "1", "Buy", "1", "1", MS)),
        kline(BTC, "5", 1_767_225_300_000, confirm=True),
    ):
        assert data(made.receive(text)) == []
    assert made.counters("skipped") == 3
    assert data(made.receive('{"topic":"tickers.BTCUSDT","type":"snapshot","ts":1,"data":{}}')) == []
    assert made.counters("unknown_messages") == 1
    assert made.counters("malformed") == 0


def test_a_torn_frame_is_of_its_topic_alone() -> None:
    made = Harness(CASES["bybit-linear"], types=("trades",))
    made.connect()
    for symbol in made.case.symbols:
        made.receive(made.case.trade(symbol, 1))
    made.now += SECOND
    made.receive(made.case.trade(made.case.symbols[0], 2)[:-5])
    made.receive(made.case.trade(made.case.symbols[0], 3))
    assert [(g.symbol, g.reason) for g in made.of(Gap) if isinstance(g, Gap)] == [(made.case.symbols[0], "malformed")]


def test_a_frame_of_20_mb_is_malformed_and_the_book_recovers() -> None:
    made = harness("book", venue="bybit-linear")
    made.receive(book(BTC, "delta", 1001, [["98.00", "1"]], [])[:-1] + " " * 20_000_000 + "}")
    assert made.counters("malformed") == 1
    made.position[BTC] = 2
    made.receive(book(BTC, "delta", 1002, [["97.00", "1"]], [], ts=MS + 2))
    assert made.book(BTC).state is BookState.LIVE  # subscribed again, the snapshot came at once
    assert made.counters("resyncs") == 1


@given(
    st.text(max_size=80),
    st.sampled_from(['{"topic":"orderbook.1000.BTCUSDT"', '{"topic":"publicTrade.BTCUSDT"', "", '{"op":']),
)
def test_no_text_raises(text: str, head: str) -> None:
    made = harness("trades", "book", "quotes", "candles")
    for record in made.receive(head + text):
        assert isinstance(record, FeedStatus | Gap)


def test_state_is_kept_by_venue() -> None:
    spot, linear = harness("book"), harness("book", venue="bybit-linear")
    spot.receive(book(BTC, "delta", 1001, [["98.00", "1"]], []))
    assert spot.book(BTC).bids() != linear.book(BTC).bids()
    assert {r.venue for r in linear.records} == {LINEAR.venue}  # type: ignore[union-attr]
