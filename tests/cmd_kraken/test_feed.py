"""The feed of API v2: books behind their checksum, trades, candles, control and damage."""

from __future__ import annotations

import json
from typing import Any

import kraken_wire as w
import pytest
from kraken_wire import BTC, DOGE, NOW, SECOND

from cmd_common.feed import Resubscribe, Send, Subscription
from cmd_common.records import (
    INEXACT,
    SNAPSHOT,
    TS_FROM_RECV,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    Trade,
    levels,
)
from cmd_common.sequence import BookState
from cmd_kraken import KRAKEN
from cmd_kraken.feed import KrakenFeed


class Wire:
    """A feed with its clock and everything that came out of it; subscriptions are confirmed unless told not to."""

    def __init__(
        self, *types: str, symbols: tuple[str, ...] = (BTC, DOGE), answer: bool = True, **options: Any
    ) -> None:
        instruments = {i.symbol: i for i in KRAKEN.parse_instruments(w.INSTRUMENTS)}
        (feed,) = KRAKEN.feeds(Subscription(symbols, types or KRAKEN.types, **options), instruments, KRAKEN.endpoints)
        assert isinstance(feed, KrakenFeed)
        self.feed = feed
        self.now = NOW
        self.records: list[Any] = []
        self.actions: list[Any] = []
        self.answer = answer
        self.take(feed.connected(self.now))

    def take(self, output: Any) -> list[Any]:
        self.records += output.records
        for action in output.actions:
            self.actions.append(action)
            frames = (action.frame,) if isinstance(action, Send) else getattr(action, "frames", ())
            for frame in frames if self.answer else ():
                for reply in w.answer(frame):
                    self.take(self.feed.receive(reply, self.now))
        return list(output.records)

    def get(self, *frames: str | bytes) -> list[Any]:
        return [r for frame in frames for r in self.take(self.feed.receive(frame, self.now))]

    def data(self, *frames: str | bytes) -> list[Any]:
        return [r for r in self.get(*frames) if not isinstance(r, FeedStatus)]

    def tick(self, seconds: float = 1) -> list[Any]:
        self.now += int(seconds * SECOND)
        return self.take(self.feed.tick(self.now))

    def reconnect(self) -> None:
        self.take(self.feed.disconnected(self.now, "test"))
        self.now += SECOND
        self.take(self.feed.connected(self.now))

    def states(self, state: str) -> list[FeedStatus]:
        return [r for r in self.records if isinstance(r, FeedStatus) and r.state == state]

    def gaps(self) -> list[tuple[str, str, str]]:
        return [(g.record_type, g.symbol, g.reason) for g in self.records if isinstance(g, Gap)]

    def book(self, symbol: str = BTC) -> tuple[Any, Any]:
        book = self.feed.books[symbol].book
        book.check()
        return book.bids(), book.asks()


def floats(side: list[tuple[str, str]]) -> list[tuple[float, float]]:
    return [(float(p), float(q)) for p, q in side]


# Books


def test_every_update_is_checked_and_written() -> None:
    wire = Wire("book")
    (snapshot,) = wire.data(w.snapshot(BTC, 3))
    assert isinstance(snapshot, BookSnapshot)
    assert (snapshot.epoch, snapshot.seq, snapshot.ts_event, snapshot.flags) == (w.ns(3), w.ns(3), w.ns(3), SNAPSHOT)
    for n in range(4, 20):
        (delta,) = wire.data(w.depth(BTC, n))
        assert isinstance(delta, BookDelta)
        assert (delta.epoch, delta.first_seq, delta.seq, delta.ts_event) == (
            w.ns(3),
            w.ns(3) + n - 3,
            w.ns(3) + n - 3,
            w.ns(n),
        )
        assert wire.book() == tuple(map(floats, w.book(n)))
    assert wire.gaps() == []


def test_a_changed_checksum_loses_the_book_before_the_update_is_published() -> None:
    wire = Wire("book")
    wire.get(w.snapshot(BTC, 3), w.snapshot(DOGE, 3))
    bids, asks = w.changes(4)
    wrong = w.frame("book", "update", w.book_row(BTC, bids, asks, w.crc(*w.book(4)) ^ 1, w.iso(4)))
    assert wire.data(wrong) == []
    builder = wire.feed.books[BTC]
    assert builder.state is BookState.STALE
    assert builder.book.ts_event == w.ns(3)
    assert wire.feed.books[DOGE].state is BookState.LIVE
    (action,) = [a for a in wire.actions if isinstance(a, Resubscribe)]
    assert [json.loads(f)["method"] for f in action.frames] == ["unsubscribe", "subscribe"]
    assert all(json.loads(f)["params"]["symbol"] == [BTC] for f in action.frames)
    assert wire.data(w.depth(BTC, 5)) == []  # of the old subscription, still on its way
    gap, snapshot = wire.data(w.snapshot(BTC, 6))
    assert (gap.reason, gap.record_type, gap.ts_from, gap.ts_to) == ("checksum", "book_deltas", w.ns(3), w.ns(6))
    assert isinstance(snapshot, BookSnapshot)
    (delta,) = wire.data(w.depth(BTC, 7))
    assert isinstance(delta, BookDelta)
    assert wire.book() == tuple(map(floats, w.book(7)))


def test_a_snapshot_with_a_wrong_checksum_is_refused_and_asked_for_again_with_a_limit() -> None:
    wire = Wire("book", symbols=(BTC,))
    bids, asks = w.book(3)
    wrong = w.frame("book", "snapshot", w.book_row(BTC, bids, asks, 7, w.iso(3)))
    for _ in range(40):
        assert [r for r in wire.data(wrong) if isinstance(r, BookSnapshot)] == []
    assert wire.states("snapshot_failed")
    assert 1 <= len([a for a in wire.actions if isinstance(a, Resubscribe)]) <= 8  # of 40 refused ones
    wire.get(w.snapshot(BTC, 4))
    assert wire.feed.books[BTC].state is BookState.LIVE


def test_levels_that_others_push_out_are_deleted_in_what_is_written() -> None:
    wire = Wire("book", symbols=(BTC,), depth=10)
    asks = [(f"{200 + n}.0", "1.00000000") for n in range(10)]
    wire.get(w.frame("book", "snapshot", w.book_row(BTC, [], asks, w.crc([], asks), w.iso(1))))
    better = [("150.0", "2.00000000"), ("140.0", "3.00000000")]
    after = [better[1], better[0], *asks[:8]]
    (delta,) = wire.data(w.frame("book", "update", w.book_row(BTC, [], better, w.crc([], after), w.iso(2))))
    assert wire.book()[1] == floats(after)
    assert list(levels(delta.asks)) == [(140.0, 3.0), (150.0, 2.0), (208.0, 0.0), (209.0, 0.0)]
    assert wire.feed.books[BTC].book.known_depth == (0, 10)


def test_the_confirmed_depth_counts() -> None:
    wire = Wire("book", symbols=(BTC,), answer=False)  # asks for 1000
    request = json.loads(wire.actions[0].frame)
    request["params"]["depth"] = 10
    wire.get(*w.answer(json.dumps(request)))
    asks = [(f"{200 + n}.0", "1.00000000") for n in range(10)]
    wire.get(w.frame("book", "snapshot", w.book_row(BTC, [], asks, w.crc([], asks), w.iso(1))))
    wire.get(
        w.frame("book", "update", w.book_row(BTC, [], [("1.0", "1.0")], w.crc([], [("1.0", "1.0"), *asks]), w.iso(2)))
    )
    assert len(wire.book()[1]) == 10


def test_prices_may_repeat_and_sides_be_empty() -> None:
    wire = Wire("book", symbols=(BTC,))
    wire.get(w.frame("book", "snapshot", w.book_row(BTC, [], [], 0, w.iso(1))))
    assert wire.feed.books[BTC].state is BookState.LIVE
    twice = [("99.0", "1.00000000"), ("99.0", "0.00000000"), ("99.0", "4.00000000")]
    (delta,) = wire.data(
        w.frame("book", "update", w.book_row(BTC, twice, [], w.crc([("99.0", "4.00000000")], []), w.iso(2)))
    )
    assert wire.book() == ([(99.0, 4.0)], [])
    assert len(delta.bids) == 16


def test_numbers_with_exponents_are_those_of_the_pair() -> None:
    wire = Wire("book", symbols=(BTC,))
    bids, asks = [("1e2", "5.1e-5")], [("1.01E+2", "1E0")]
    checksum = w.crc([("100.0", "0.00005100")], [("101.0", "1.00000000")])
    wire.get(w.frame("book", "snapshot", w.book_row(BTC, bids, asks, checksum, w.iso(1))))
    assert wire.book() == ([(100.0, 5.1e-05)], [(101.0, 1.0)])


def test_several_symbols_in_one_frame_fail_on_their_own() -> None:
    wire = Wire("book")
    wire.get(w.snapshot(BTC, 3), w.snapshot(DOGE, 3))
    good = w.book_row(DOGE, *w.changes(4), w.crc(*w.book(4)), w.iso(4))
    bad = w.book_row(BTC, *w.changes(4), w.crc(*w.book(4)), w.iso(4)).replace('"price":9', '"price":-9')
    records = wire.data(w.frame("book", "update", bad, good))
    assert [(type(r), r.symbol) for r in records] == [(BookDelta, DOGE)]
    assert wire.feed.counters.malformed == 1
    assert wire.feed.books[BTC].state is not BookState.LIVE
    assert wire.feed.books[DOGE].state is BookState.LIVE


@pytest.mark.parametrize("price", ["true", '"x"', "[]", "{}", "null", "1e999", "-1", "0"])
def test_levels_that_cannot_be_are_malformed(price: str) -> None:
    wire = Wire("book", symbols=(BTC,))
    wire.get(w.snapshot(BTC, 3))
    frame = w.depth(BTC, 4).replace('"price":95.5', f'"price":{price}')
    assert frame != w.depth(BTC, 4)
    assert wire.data(frame) == []
    assert wire.feed.counters.malformed == 1
    assert wire.feed.books[BTC].state is not BookState.LIVE


def test_a_snapshot_without_a_time_has_that_of_its_arrival() -> None:
    wire = Wire("book", symbols=(BTC,))
    row = w.book_row(BTC, *w.book(3), w.crc(*w.book(3)))
    (snapshot,) = wire.data(w.frame("book", "snapshot", row))
    assert (snapshot.ts_event, snapshot.flags) == (NOW, SNAPSHOT | TS_FROM_RECV)


def test_damage_is_a_loss_where_nothing_else_would_show_it() -> None:
    torn = w.depth(BTC, 4)[:-20]
    deep = Wire("book")
    deep.get(w.snapshot(BTC, 3), w.snapshot(DOGE, 3), torn)
    assert deep.feed.books[BTC].state is BookState.STALE  # levels behind the tenth are not protected
    assert deep.feed.books[DOGE].state is BookState.LIVE  # the frame names its symbol
    whole = Wire("book", depth=10)
    whole.get(w.snapshot(BTC, 3), torn)
    assert whole.feed.books[BTC].state is BookState.LIVE
    whole.get(w.depth(BTC, 5))  # and now the checksum says it
    assert whole.feed.books[BTC].state is BookState.STALE
    nameless = Wire("book")
    nameless.get(w.snapshot(BTC, 3), w.snapshot(DOGE, 3), "\x00\x01")
    assert {b.state for b in nameless.feed.books.values()} == {BookState.STALE}


def test_frames_of_20_mb_are_passed_over() -> None:
    wire = Wire("book", symbols=(BTC,))
    wire.get(w.snapshot(BTC, 3))
    frame = '{"channel":"book","type":"update","x":"' + "y" * 20_000_000 + '"}'
    assert [type(r) for r in wire.data(frame)] == [Gap]
    assert wire.feed.counters.malformed == 1


def test_books_are_dropped_and_begun_again_by_a_reconnect() -> None:
    wire = Wire("book", symbols=(BTC,))
    wire.get(w.snapshot(BTC, 3))
    wire.reconnect()
    assert wire.data(w.depth(BTC, 4)) == []
    wire.get(w.snapshot(BTC, 5), w.depth(BTC, 6))
    assert wire.book() == tuple(map(floats, w.book(6)))
    assert wire.gaps() == [("book_deltas", BTC, "disconnect")]


# Trades


def test_a_first_backlog_only_tells_where_ids_stand() -> None:
    wire = Wire("trades", symbols=(BTC,))
    backlog = w.frame("trade", "snapshot", *(w.trade_row(BTC, n) for n in (3, 1, 2)))
    assert wire.data(backlog) == []
    assert [r.trade_seq for r in wire.data(w.trade(BTC, 4))] == [1004]
    gap, trade = wire.data(w.trade(BTC, 7))
    assert (gap.first_id, gap.last_id, trade.trade_seq) == (1005, 1006, 1007)


def test_a_backlog_after_a_reconnect_closes_the_hole() -> None:
    wire = Wire("trades", symbols=(BTC,))
    wire.get(w.trade(BTC, 1), w.trade(BTC, 2))
    wire.reconnect()
    backlog = w.frame("trade", "snapshot", *(w.trade_row(BTC, n) for n in range(1, 6)))
    assert [r.trade_seq for r in wire.data(backlog)] == [1003, 1004, 1005]
    wire.reconnect()
    late = w.frame("trade", "snapshot", *(w.trade_row(BTC, n) for n in range(8, 10)))
    assert [getattr(r, "first_id", None) or r.trade_seq for r in wire.data(late)] == [1006, 1008, 1009]


def test_holes_are_normal_where_ids_only_rise() -> None:
    wire = Wire("trades", symbols=(BTC,), options={"trade_ids": "rising"})
    assert [type(r) for r in wire.data(w.trade(BTC, 1), w.trade(BTC, 5), w.trade(BTC, 5))] == [Trade, Trade]


def test_long_numbers_are_flagged() -> None:
    wire = Wire("trades", symbols=(BTC,))
    row = w.trade_row(BTC, 1, qty="123456789.12345678")
    (trade,) = wire.data(w.frame("trade", "update", row))
    assert trade.flags == INEXACT


@pytest.mark.parametrize(
    "change",
    [
        ('"side":"buy"', '"side":"up"'),
        ("100.2", "0.0"),
        ("100.2", "1e999"),
        ("2026-", "26-"),
        ('"trade_id":1001', '"trade_id":-1'),
    ],
)
def test_bad_trades_are_malformed(change: tuple[str, str]) -> None:
    wire = Wire("trades", symbols=(BTC,))
    assert [r for r in wire.data(w.trade(BTC, 1).replace(*change)) if not isinstance(r, Gap)] == []
    assert wire.feed.counters.malformed == 1


# Quotes


def test_equal_quotes_are_left_out() -> None:
    wire = Wire("quotes", symbols=(BTC,))
    quotes = wire.data(w.ticker(BTC), w.ticker(BTC, n=2), w.ticker(BTC, bid="99.6", n=2), w.ticker(BTC, n=2))
    assert [(q.ts_event, q.seq, q.bid_price) for q in quotes] == [
        (w.ns(1), 0, 99.5),
        (w.ns(2), 0, 99.6),
        (w.ns(2), 1, 99.5),
    ]


def test_quotes_can_be_made_of_the_book() -> None:
    wire = Wire("quotes", symbols=(BTC,), options={"quotes": "book"})
    assert [json.loads(a.frame)["params"]["channel"] for a in wire.actions] == ["book"]
    records = wire.data(w.snapshot(BTC, 3), w.depth(BTC, 4), w.depth(BTC, 5))
    best = [(floats(b)[0], floats(a)[0]) for b, a in map(w.book, (3, 4, 5))]
    told = [((q.bid_price, q.bid_quantity), (q.ask_price, q.ask_quantity)) for q in records]
    assert told == [q for n, q in enumerate(best) if not n or q != best[n - 1]]


# Candles


def states(records: list[Any]) -> list[tuple[int, str, float]]:
    return [((c.open_time - NOW) // (60 * SECOND), c.state, c.close) for c in records if isinstance(c, Candle)]


def test_a_candle_is_final_when_a_younger_one_comes() -> None:
    wire = Wire("candles", symbols=(BTC,))
    backlog = w.candles("snapshot", *(w.candle_row(BTC, n) for n in (0, 1, 3)), second=190)
    assert states(wire.data(backlog)) == [(3, "provisional", 101.5)]  # earlier ones were not seen whole
    assert states(wire.data(w.candles("update", w.candle_row(BTC, 3, close="101.9"), second=200))) == [
        (3, "provisional", 101.9)
    ]
    records = wire.data(w.candles("update", w.candle_row(BTC, 6), second=365))
    assert states(records) == [(3, "final", 101.9), (6, "provisional", 101.5)]  # minutes 4 and 5 had no trade
    assert wire.gaps() == []
    assert wire.data(w.candles("update", w.candle_row(BTC, 3), second=366)) == []
    candle = records[0]
    assert (candle.close_time - candle.open_time, candle.trades, candle.volume) == (60 * SECOND, 7, 12.5)
    assert candle.quote_volume != candle.quote_volume  # NaN: not given


def test_candles_of_a_reconnect_are_taken_from_the_backlog() -> None:
    wire = Wire("candles", symbols=(BTC,))
    wire.get(w.candles("update", w.candle_row(BTC, 3), second=200))
    wire.reconnect()
    backlog = w.candles("snapshot", *(w.candle_row(BTC, n, close=f"{100 + n}.0") for n in (2, 3, 4, 5)), second=310)
    assert states(wire.data(backlog)) == [
        (3, "provisional", 103.0), (3, "final", 103.0), (4, "provisional", 104.0), (4, "final", 104.0), (5, "provisional", 105.0),
    ]  # fmt: skip
    assert wire.gaps() == []


def test_a_candle_whose_end_was_lost_does_not_become_final() -> None:
    wire = Wire("candles", symbols=(BTC,))
    wire.get(w.candles("update", w.candle_row(BTC, 3), second=200))
    wire.reconnect()
    records = wire.data(w.candles("snapshot", w.candle_row(BTC, 9), second=550))
    assert states(records) == [(9, "provisional", 101.5)]
    assert wire.gaps() == [("candles", BTC, "candle")]


# Control


def test_one_bad_symbol_is_named_and_left_out_while_the_others_go_on() -> None:
    wire = Wire("trades", "book", answer=False)
    for action in list(wire.actions):
        request = json.loads(action.frame)
        good, bad = w.answer(action.frame)[0], w.refused(DOGE, request["req_id"])
        wire.get(good, bad)
    assert [(r.symbol, r.record_type) for r in wire.states("rejected")] == [(DOGE, "trades"), (DOGE, "book_deltas")]
    assert "Currency pair not supported DOGE/EUR" in wire.states("rejected")[0].reason
    assert wire.feed.counters.errors == 2
    wire.get(w.snapshot(BTC, 3))
    assert len(wire.data(w.trade(BTC, 1))) == 1
    for _ in range(40):
        wire.tick()
    assert sum(isinstance(a, Send) and DOGE in a.frame for a in wire.actions) == 2


def test_refusals_without_a_number_are_found_by_their_symbol() -> None:
    wire = Wire("trades", answer=False)
    wire.get(w.refused(DOGE, None))
    assert [r.symbol for r in wire.states("rejected")] == [DOGE]


def test_refusals_that_may_pass_are_tried_again() -> None:
    wire = Wire("trades", symbols=(BTC,), answer=False)
    wire.get(w.refused(BTC, 1, "Exceeded msg rate"))
    assert wire.states("rejected") == []
    for _ in range(5):
        wire.tick()
    subscribed = [a for a in wire.actions if isinstance(a, Send) and '"subscribe"' in a.frame]
    assert len(subscribed) == 2


def test_states_of_the_exchange_are_reported() -> None:
    wire = Wire("trades")
    status = '{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"%s","api_version":"v2","connection_id":1}]}'
    assert wire.get(status % "online") == []
    assert [r.state for r in wire.get(status % "maintenance")] == ["maintenance"]
    assert [r.state for r in wire.get(status % "cancel_only")] == ["cancel_only"]
    assert wire.get(status % "cancel_only") == []
    assert [r.state for r in wire.get(status % "online")] == ["online"]


@pytest.mark.parametrize(
    "frame",
    ['{"channel":"heartbeat"}', '{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[]}}',
     '{"method":"pong","req_id":9,"time_in":"x","time_out":"x"}',
     '{"method":"unsubscribe","error":"Subscription Not Found","success":false,"symbol":"BTC/USD"}'],
)  # fmt: skip
def test_frames_that_say_nothing(frame: str) -> None:
    wire = Wire("trades")
    assert wire.get(frame) == wire.get(frame.encode()) == []
    counters = wire.feed.counters
    assert counters.unknown_messages == counters.malformed == counters.errors == 0


def test_errors_without_a_symbol_are_reported() -> None:
    wire = Wire("trades")
    wire.get('{"error":"Malformed request","success":false}', '{"method":"subscribe","error":"No","success":false}')
    assert [r.reason for r in wire.states("error")] == ["Malformed request", "No"]


def test_a_quiet_connection_is_pinged_and_then_given_up() -> None:
    wire = Wire("trades")
    wire.answer = False
    for _ in range(44):
        wire.tick()
    assert sum('"ping"' in getattr(a, "frame", "") for a in wire.actions) == 2
    wire.tick()
    assert "nothing came" in wire.actions[-1].reason


def test_unknown_keys_leave_the_texts_of_numbers_alone() -> None:
    wire = Wire("book", symbols=(BTC,))
    for n, frame in enumerate([w.snapshot(BTC, 3), *(w.depth(BTC, n) for n in range(4, 130))]):
        assert (
            len(wire.data(frame.replace('"symbol":', '"orders":[1.10],"symbol":', 1).replace('"qty":', '"n":1,"qty":')))
            >= 1
        ), n
    assert wire.feed.counters.unknown_fields > 100
    assert wire.feed.counters.resyncs == wire.feed.counters.malformed == 0
