"""Feeds: ids, candles, numbers, control frames, damage, retries. Messages are made up in Binance's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cmd_binance
from cmd_binance import BinanceExchange
from cmd_binance.feed import BinanceFeed
from cmd_common.errors import UsageError
from cmd_common.feed import Action, FetchSnapshot, Output, Reconnect, Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.records import (
    INEXACT,
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    Quote,
    Record,
    Trade,
    levels,
)
from cmd_common.sequence import BookState

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
NOW = 1_767_225_600 * SECOND
MS = NOW // 1_000_000
ALL = ("trades", "agg_trades", "quotes", "candles", "book")


class Wire:
    """A feed with its clock and everything that came out of it; subscriptions are confirmed at once."""

    def __init__(
        self,
        exchange: BinanceExchange = cmd_binance.SPOT,
        types: Sequence[str] = ALL,
        *,
        symbols: Sequence[str] = ("BTCUSDT",),
        answer: bool = True,
        index: int = 0,
        **options: Any,
    ) -> None:
        instruments = {
            s: Instrument(exchange.venue, s, s[:3], "USDT", "spot", Decimal("0.01"), Decimal("0.001"))
            for s in (*symbols, "NEWUSDT")
        }
        subscription = Subscription(tuple(symbols), tuple(types), **options)
        feed = exchange.feeds(subscription, instruments, exchange.endpoints)[index]
        assert isinstance(feed, BinanceFeed)
        self.feed = feed
        self.now = NOW
        self.records: list[Record] = []
        self.actions: list[Action] = []
        self.answer = answer

    def take(self, output: Output) -> list[Record]:
        self.records += output.records
        for action in output.actions:
            self.actions.append(action)
            if isinstance(action, Send) and self.answer:
                reply = json.dumps({"result": None, "id": json.loads(action.frame)["id"]})
                self.take(self.feed.receive(reply, self.now))
        return output.records

    def connect(self) -> Wire:
        self.take(self.feed.connected(self.now))
        return self

    def send(self, data: object, stream: str = "btcusdt@x") -> list[Record]:
        frame = json.dumps({"stream": stream, "data": data}, separators=(",", ":"))  # as the exchange writes
        return self.take(self.feed.receive(frame, self.now))

    def raw(self, frame: str | bytes) -> list[Record]:
        return self.take(self.feed.receive(frame, self.now))

    def tick(self, seconds: float = 1) -> list[Record]:
        self.now += int(seconds * SECOND)
        return self.take(self.feed.tick(self.now))

    def of(self, kind: type[Any]) -> list[Any]:
        return [r for r in self.records if isinstance(r, kind)]

    def did(self, kind: type[Any]) -> list[Any]:
        return [a for a in self.actions if isinstance(a, kind)]

    def statuses(self, state: str) -> list[FeedStatus]:
        return [r for r in self.of(FeedStatus) if r.state == state]


def trade(n: int, **changes: object) -> dict[str, object]:
    data = {"e": "trade", "E": MS, "s": "BTCUSDT", "t": n, "p": "100.25", "q": "0.5", "T": MS + n, "m": True, "M": True}
    return data | changes


def quote(u: int, **changes: object) -> dict[str, object]:
    return {"u": u, "s": "BTCUSDT", "b": "99.5", "B": "1", "a": "100.5", "A": "2"} | changes


def kline(minute: int, *, closed: bool, **changes: object) -> dict[str, object]:
    start = MS + minute * 60_000
    k = {"t": start, "T": start + 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 2, "o": "1", "c": "2", "h": "3"}
    k |= {"l": "0.5", "v": "10", "n": 2, "x": closed, "q": "15", "V": "4", "Q": "6", "B": "0"}
    return {"e": "kline", "E": start + 500, "s": "BTCUSDT", "k": k | changes}


def depth(first: int, last: int, bids: object = (), asks: object = (), **changes: object) -> dict[str, object]:
    data = {"e": "depthUpdate", "E": MS + last, "s": "BTCUSDT", "U": first, "u": last, "b": bids, "a": asks}
    return data | changes


def body(last: int, bids: object = (("99", "1"),), asks: object = (("101", "1"),)) -> bytes:
    return json.dumps({"lastUpdateId": last, "bids": bids, "asks": asks}).encode()


# Numbers


@pytest.mark.parametrize(
    ("price", "inexact"),
    [
        ("61837.63000000", False),
        ("0.00000001", False),
        ("9999999.99999999", False),  # 15 digits
        ("10000000.00000000", False),  # large, but exact
        ("10000000.12345678", True),  # 16 digits
        ("123456789012345", False),
        ("1234567890123456", True),
        ("123456789012345000", False),  # only 15 of the digits mean something
        ("0.12345678901234567", True),
        ("0.123456789012345", False),
        ("0.1234567890", False),
    ],
)
def test_numbers_with_more_than_15_digits_are_flagged(price: str, inexact: bool) -> None:
    wire = Wire().connect()
    for data in (
        trade(1, p=price),
        trade(2, q=price),
        {"e": "aggTrade", "s": "BTCUSDT", "a": 1, "p": price, "q": "1", "f": 1, "l": 1, "T": MS, "m": False},
        quote(1, A=price),
        kline(0, closed=False, v=price),
    ):
        (record,) = wire.send(data)
        assert bool(record.flags & INEXACT) is inexact, record  # type: ignore[union-attr]


def test_prices_are_the_nearest_float_of_the_text() -> None:
    (record,) = Wire().connect().send(trade(1, p="0.10000000", q="61837.63000000"))
    assert isinstance(record, Trade)
    assert (record.price, record.quantity) == (0.1, 61837.63)


def test_the_unit_of_time_follows_from_its_size() -> None:
    wire = Wire().connect()
    (ms,) = wire.send(trade(1, T=MS))
    (us,) = wire.send(trade(2, T=MS * 1000 + 7))
    assert (ms.ts_event, us.ts_event) == (NOW, NOW + 7000)  # type: ignore[union-attr]


@pytest.mark.parametrize("value", ["-1", "NaN", "nan", "inf", "1e400", "", " 1", "0x1", "1_0", None, [], True])
def test_impossible_numbers_are_damage(value: object) -> None:
    wire = Wire().connect()
    for data in (trade(1, p=value), quote(1, b=value), depth(1, 2, [[value, "1"]]), depth(1, 2, [["1", value]])):
        assert all(isinstance(r, FeedStatus | Gap) for r in wire.send(data))
    assert wire.feed.counters.malformed == 4


@pytest.mark.parametrize("value", [10**19, -2, 1.5, "x"])
def test_ids_that_do_not_fit_a_column_are_damage(value: object) -> None:
    wire = Wire().connect()
    wire.send(trade(1, t=value))
    wire.send(trade(1, T=value))
    assert wire.of(Trade) == []
    assert wire.feed.counters.malformed == 2


# Trades and aggregates


def test_fills_that_are_not_of_the_market_use_up_ids_only() -> None:
    wire = Wire(cmd_binance.USDM, ("trades",)).connect()
    wire.send(trade(1, X="MARKET"))
    for n, kind in enumerate(("INSURANCE_FUND", "ADL", "NA"), 2):
        wire.send(trade(n, X=kind, p="0" if kind == "NA" else "100"))
    wire.send(trade(5, X="MARKET"))
    assert [t.trade_seq for t in wire.of(Trade)] == [1, 5]
    assert wire.of(Gap) == []
    assert wire.feed.counters.skipped == 3


def test_missing_aggregates_are_a_gap() -> None:
    wire = Wire().connect()
    agg = {"e": "aggTrade", "s": "BTCUSDT", "p": "1", "q": "1", "f": 1, "l": 1, "T": MS, "m": False}
    for a in (7, 8, 11, 11):
        wire.send({**agg, "a": a})
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.first_id, gap.last_id) == ("agg_trades", "trade_id", 9, 10)
    assert len(wire.of(AggTrade)) == 3
    assert wire.feed.counters.duplicates == 1


def test_trades_that_never_come_back_are_a_gap_at_the_end() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(1))
    wire.take(wire.feed.disconnected(NOW + SECOND, "reset"))
    wire.take(wire.feed.close(NOW + 5 * SECOND))
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.ts_to) == ("trades", "disconnect", NOW + 5 * SECOND)
    assert wire.take(wire.feed.close(NOW + 6 * SECOND)) == []


@given(st.permutations(range(1, 13)), st.lists(st.integers(1, 12), max_size=10))
def test_any_order_and_repeats_give_each_trade_once(order: list[int], repeats: list[int]) -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(0))
    for n in [*order, *repeats]:
        wire.send(trade(n))
    assert sorted(t.trade_seq for t in wire.of(Trade)) == list(range(13))
    assert wire.feed.counters.duplicates == len(repeats)
    opened = {(g.ts_from, g.ts_to) for g in wire.of(Gap) if not g.repaired_by}
    closed = {(g.ts_from, g.ts_to) for g in wire.of(Gap) if g.repaired_by}
    assert opened == closed


# Quotes


def test_old_and_repeated_quotes_are_dropped() -> None:
    wire = Wire().connect()
    for u in (5, 5, 4, 9):
        wire.send(quote(u))
    assert [q.seq for q in wire.of(Quote)] == [5, 9]
    assert wire.feed.counters.duplicates == 2


def test_quote_ids_that_begin_anew_are_followed() -> None:
    wire = Wire(types=("quotes",)).connect()
    wire.send(quote(1000))
    wire.now += 30 * SECOND
    wire.send(quote(3))  # old
    wire.now += 31 * SECOND
    wire.send(quote(1000))  # a repeat, however late
    wire.send(quote(3))
    wire.send(quote(4))
    assert [q.seq for q in wire.of(Quote)] == [1000, 3, 4]
    assert [g.reason for g in wire.of(Gap)] == ["id_restart"]


@pytest.mark.parametrize(
    "options",
    [
        {"silence": "nan"},
        {"silence": "inf"},
        {"silence": "0"},
        {"silence": "x"},
        {"speed": "fast"},
        {"speed": "100ms/btcusdt@trade"},
        {"snapshot_limit": "0"},
        {"streams_per_connection": "0"},
        {"streams_per_connection": "many"},
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Wire(options=options)


def test_speeds_of_depth() -> None:
    def name(exchange: BinanceExchange, speed: str) -> str:
        wire = Wire(exchange, ("book",), options={"speed": speed}).connect()
        return str(json.loads(wire.did(Send)[0].frame)["params"][0])

    assert name(cmd_binance.SPOT, "1000ms") == "btcusdt@depth"
    assert name(cmd_binance.SPOT, "100ms") == "btcusdt@depth@100ms"
    assert name(cmd_binance.USDM, "250ms") == "btcusdt@depth"
    assert name(cmd_binance.USDM, "500ms") == "btcusdt@depth@500ms"


def test_an_empty_side_of_a_quote_is_zero() -> None:
    (record,) = Wire().connect().send(quote(1, b="0.00000000", B="0.00000000"))
    assert isinstance(record, Quote)
    assert (record.bid_price, record.bid_quantity) == (0.0, 0.0)


# Candles


def test_candles_are_provisional_until_they_are_closed() -> None:
    wire = Wire().connect()
    for minute, closed in ((0, False), (0, False), (0, True), (1, False), (1, True)):
        wire.send(kline(minute, closed=closed))
    assert [(c.open_time - NOW, c.state) for c in wire.of(Candle)] == [
        (0, "provisional"),
        (0, "provisional"),
        (0, "final"),
        (MINUTE, "provisional"),
        (MINUTE, "final"),
    ]
    assert wire.of(Gap) == []
    wire.send(kline(0, closed=False))  # late: its final form was seen
    wire.send(kline(1, closed=True))
    assert len(wire.of(Candle)) == 5
    assert wire.feed.counters.duplicates == 2


def test_a_candle_that_never_closed_is_a_gap() -> None:
    wire = Wire().connect()
    wire.send(kline(0, closed=True))
    wire.send(kline(1, closed=False))
    wire.send(kline(4, closed=False))
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.severity) == ("candles", "candle", "suspect")
    assert (gap.ts_from, gap.ts_to, gap.detail) == (NOW + MINUTE, NOW + 4 * MINUTE, "1m")


def test_gaps_of_several_intervals_at_one_time_name_them_all() -> None:
    # Their rows have the same key: the last one must say everything.
    wire = Wire(types=("candles",), intervals=("1m", "5m")).connect()
    five = {"i": "5m", "T": MS + 5 * 60_000 - 1}
    wire.send(kline(0, closed=False))
    wire.send(kline(0, closed=False, **five))
    wire.send(kline(5, closed=False))
    wire.send(kline(5, closed=False, **five | {"T": MS + 10 * 60_000 - 1}))
    gaps = wire.of(Gap)
    assert len({(g.ts_from, g.ts_to) for g in gaps}) == 1
    assert [g.detail for g in gaps] == ["1m", "1m, 5m"]


def test_a_disconnect_within_a_candle_loses_nothing() -> None:
    wire = Wire(types=("candles",)).connect()
    wire.send(kline(0, closed=False))
    wire.take(wire.feed.disconnected(NOW, "reset"))
    wire.connect()
    wire.send(kline(0, closed=True))
    assert wire.of(Gap) == []


def test_intervals_are_kept_apart() -> None:
    wire = Wire(types=("candles",), intervals=("1m", "1h")).connect()
    hour = {"i": "1h", "T": MS + 3_599_999}
    for _ in range(2):
        wire.send(kline(0, closed=True))
        wire.send(kline(0, closed=True, **hour))
    assert [c.interval for c in wire.of(Candle)] == ["1m", "1h"]
    wire.send(kline(1, closed=False, i="5m"))  # not asked for
    assert wire.feed.counters.skipped == 1


# Books


def synced(**options: str) -> Wire:
    wire = Wire(types=("book",), options=options, snapshot_every=100_000_000).connect()
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    return wire


def test_a_quiet_symbol_is_live_without_any_event() -> None:
    wire = Wire(types=("book",)).connect()
    (request,) = wire.did(FetchSnapshot)
    assert request.request.url.endswith("/api/v3/depth?symbol=BTCUSDT&limit=5000")
    assert request.request.weight == 250
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE
    assert wire.of(BookSnapshot) == []  # it is written with the first event's time
    snapshot, delta = wire.send(depth(101, 103, [["99.5", "2"]]))
    assert isinstance(snapshot, BookSnapshot)
    assert isinstance(delta, BookDelta)
    assert snapshot.ts_event == delta.ts_event == NOW + 103_000_000
    assert (snapshot.seq, snapshot.epoch, delta.epoch, delta.first_seq, delta.seq) == (100, 100, 100, 101, 103)
    assert list(levels(snapshot.bids)) == [(99.0, 1.0)]  # the book before the event
    assert list(levels(delta.bids)) == [(99.5, 2.0)]


def test_the_snapshot_is_asked_for_when_the_subscription_is_confirmed() -> None:
    wire = Wire(types=("book",), answer=False).connect()
    wire.send(depth(50, 60))
    assert wire.did(FetchSnapshot) == []
    wire.raw(json.dumps({"result": None, "id": json.loads(wire.did(Send)[0].frame)["id"]}))
    assert len(wire.did(FetchSnapshot)) == 1


def test_both_first_events_of_spot() -> None:
    for first in (95, 101):
        wire = Wire(types=("book",)).connect()
        wire.send(depth(first, 105, [["98", "7"]]))
        wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
        assert wire.feed.books["BTCUSDT"].book.bids() == [(99.0, 1.0), (98.0, 7.0)]
        assert [type(r) for r in wire.records if not isinstance(r, FeedStatus)] == [BookSnapshot, BookDelta]
        assert len(wire.did(FetchSnapshot)) == 1


def test_a_snapshot_with_a_hole_behind_it_is_asked_for_again() -> None:
    wire = Wire(types=("book",)).connect()
    wire.send(depth(102, 105))
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    assert wire.feed.books["BTCUSDT"].state is BookState.SYNCING
    assert len(wire.did(FetchSnapshot)) == 2
    wire.take(wire.feed.snapshot("BTCUSDT", body(101), wire.now))
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE


def test_futures_first_event_may_end_at_the_snapshot() -> None:
    wire = Wire(cmd_binance.USDM, ("book",)).connect()
    wire.send(depth(90, 100, [["98", "7"]], T=MS, pu=80))
    wire.take(wire.feed.snapshot("BTCUSDT", body(100, [["99", "1"], ["98", "7"]]), wire.now))
    wire.send(depth(150, 160, [["97", "1"]], T=MS + 1, pu=100))  # U jumps
    assert wire.feed.books["BTCUSDT"].last_id == 160
    assert len(wire.of(BookDelta)) == 2
    assert wire.of(Gap) == []


def test_levels_are_packed_best_first_whatever_their_order() -> None:
    wire = synced()
    (_, delta) = wire.send(depth(101, 102, [["97", "1"], ["99", "2"], ["98", "0"]], [["105", "1"], ["102", "3"]]))
    assert isinstance(delta, BookDelta)
    assert [p for p, _ in levels(delta.bids)] == [99.0, 98.0, 97.0]
    assert [p for p, _ in levels(delta.asks)] == [102.0, 105.0]


def test_periodic_snapshots_follow_event_time() -> None:
    wire = synced()
    for n in range(101, 401):
        wire.send(depth(n, n, [["98", str(n)]], E=MS + n))
    snapshots = wire.of(BookSnapshot)
    # the sync, then one with the first event of each 100 ms
    assert [s.seq for s in snapshots] == [100, 200, 300, 400]
    assert [s.ts_event - NOW for s in snapshots] == [n * 1_000_000 for n in (101, 200, 300, 400)]
    assert {s.epoch for s in snapshots} == {100}
    assert list(levels(snapshots[1].bids)) == [(99.0, 1.0), (98.0, 200.0)]  # after the event


def test_deltas_can_be_left_out() -> None:
    wire = synced(deltas="off")
    wire.send(depth(101, 102, [["98", "1"]]))
    assert wire.of(BookDelta) == []
    assert wire.feed.books["BTCUSDT"].last_id == 102


def test_a_gap_of_a_book_names_its_ids_and_its_time() -> None:
    wire = synced()
    wire.send(depth(101, 105))
    wire.send(depth(110, 115, [["98", "9"]]))
    book = wire.feed.books["BTCUSDT"]
    assert book.state is BookState.STALE
    request = wire.did(FetchSnapshot)[-1]
    assert request.priority == 0  # before books that nobody has had yet
    wire.take(wire.feed.snapshot("BTCUSDT", body(112), wire.now))
    assert book.state is BookState.LIVE
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.severity) == ("book_deltas", "sequence", "lost")
    assert (gap.ts_from - NOW, gap.ts_to - NOW) == (105_000_000, 115_000_000)
    assert (gap.first_id, gap.last_id) == (106, 112)
    order = [type(r) for r in wire.records if not isinstance(r, FeedStatus)]
    assert order == [BookSnapshot, BookDelta, Gap, BookSnapshot, BookDelta]


def test_a_snapshot_at_the_last_good_update_leaves_no_ids_missing() -> None:
    wire = synced()
    wire.send(depth(101, 105))
    wire.take(wire.feed.disconnected(wire.now, "reset"))
    wire.connect()
    wire.take(wire.feed.snapshot("BTCUSDT", body(105), wire.now))
    wire.send(depth(106, 108))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id, gap.last_id) == ("disconnect", None, None)


def test_a_book_that_never_began_is_a_gap_of_what_came_for_it() -> None:
    wire = Wire(types=["book"]).connect()
    wire.send(depth(1, 1))
    wire.send(depth(2, 2, E=MS + 9_000))
    wire.take(wire.feed.close(wire.now))
    assert wire.of(Gap) == []  # a start takes a moment
    wire.send(depth(3, 3, E=MS + 60_000))
    wire.take(wire.feed.close(wire.now))
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.severity) == ("book_deltas", "no_snapshot", "lost")
    assert (gap.ts_from, gap.ts_to) == (NOW + 1_000_000, NOW + 60 * SECOND)


def test_a_gap_that_is_open_at_the_end_ends_with_the_last_message_in_the_exchanges_time() -> None:
    wire = synced()
    wire.send(depth(101, 101))
    wire.send(depth(103, 103, E=MS + 5_000))
    wire.now += 1_000_000 * SECOND  # our clock, when something recorded is played
    wire.take(wire.feed.close(wire.now))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id) == ("sequence", 102)
    assert (gap.ts_from, gap.ts_to) == (NOW + 101_000_000, NOW + 5 * SECOND)


def test_an_answer_that_nobody_waits_for_any_more_is_ignored() -> None:
    wire = Wire(types=("book",)).connect()
    wire.take(wire.feed.disconnected(wire.now, "reset"))
    assert wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now)) == []
    assert wire.take(wire.feed.snapshot("OTHER", body(100), wire.now)) == []
    wire.take(wire.feed.snapshot_failed("BTCUSDT", "late", wire.now))
    assert wire.statuses("snapshot_failed") == []


def test_a_book_that_runs_low_is_refreshed_while_it_stays_live() -> None:
    """The known range is what the snapshot covered; eating into it asks for a new one, of low priority."""
    wire = Wire(types=("book",), options={"snapshot_limit": "100"}).connect()
    bids = [[str(1000 - n), "1"] for n in range(100)]
    wire.take(wire.feed.snapshot("BTCUSDT", body(100, bids, [["1001", "1"]]), wire.now))
    last = 100
    while len(wire.did(FetchSnapshot)) == 1:
        last += 1
        wire.send(depth(last, last, [[str(1000 - (last - 101)), "0"]]))
        assert last < 200
    builder = wire.feed.books["BTCUSDT"]
    assert builder.state is BookState.LIVE
    assert wire.did(FetchSnapshot)[-1].priority == 2
    wire.send(depth(last + 1, last + 1, [["500", "3"]]))
    before = len(wire.records)
    rest = [*[row for row in bids if float(row[0]) <= builder.book.best_bid[0]], ["800", "2"]]  # type: ignore[index]
    wire.take(wire.feed.snapshot("BTCUSDT", body(last, rest, [["1001", "1"]]), wire.now))
    assert builder.state is BookState.LIVE
    assert not wire.records[before:]  # what is stored does not depend on when a refresh arrives
    assert (500.0, 3.0) in builder.book.bids()  # brought up to where the old book was
    (delta,) = wire.send(depth(last + 2, last + 2, [["501", "1"]]))
    assert isinstance(delta, BookDelta)
    assert delta.epoch == 100  # the chain is unbroken
    assert wire.of(Gap) == []
    assert wire.feed.counters.resyncs == 0


def test_a_book_that_breaks_again_soon_asks_for_a_snapshot_that_costs_less() -> None:
    wire = Wire(types=("book",)).connect()
    number = 100
    for _ in range(2):
        wire.take(wire.feed.snapshot("BTCUSDT", body(number, [["1000", "1"]], [["1001", "1"]]), wire.now))
        wire.send(depth(number + 1, number + 1, [["999", "1"]]))
        wire.send(depth(number + 5, number + 5, [["998", "1"]]))  # a hole
        number += 10
    first, *again = [a.request for a in wire.did(FetchSnapshot)]
    assert "limit=5000" in first.url
    assert [("limit=1000" in r.url, r.weight) for r in again] == [(True, 50), (True, 50)]
    wire.take(wire.feed.snapshot("BTCUSDT", body(number, [["1000", "1"]], [["1001", "1"]]), wire.now))
    for _ in range(61):
        wire.tick()
    wire.send(depth(number + 1, number + 1, [["999", "1"]]))
    wire.send(depth(number + 5, number + 5, [["998", "1"]]))
    assert "limit=5000" in wire.did(FetchSnapshot)[-1].request.url  # a quiet minute: the whole depth again


def test_retries_of_snapshots_slow_down() -> None:
    wire = Wire(types=("book",)).connect()
    asked = []
    for second in range(120):
        if len(wire.did(FetchSnapshot)) > len(asked):
            asked.append(second)
            wire.take(wire.feed.snapshot_failed("BTCUSDT", "HTTP 503", wire.now))
        wire.tick()
    assert 5 <= len(asked) <= 10
    assert wire.statuses("snapshot_failed")[0].reason == "HTTP 503"


# Control


def test_a_frame_names_100_streams_at_most_and_ids_differ() -> None:
    wire = Wire(symbols=[f"S{i}USDT" for i in range(60)], types=("trades", "quotes")).connect()
    frames = [json.loads(a.frame) for a in wire.did(Send)]
    assert [len(f["params"]) for f in frames] == [100, 20]
    assert len({f["id"] for f in frames}) == 2
    assert {f["method"] for f in frames} == {"SUBSCRIBE"}


def test_an_answer_that_does_not_come_is_asked_for_again_and_then_the_connection() -> None:
    wire = Wire(types=("trades",), answer=False).connect()
    for _ in range(35):
        wire.tick()
    assert len(wire.did(Send)) == 3
    assert [a.reason for a in wire.did(Reconnect)] == ["3 SUBSCRIBE frames were not answered"]
    assert len({json.loads(a.frame)["id"] for a in wire.did(Send)}) == 3


def test_an_old_request_does_not_undo_a_newer_one() -> None:
    wire = Wire(symbols=["AAAUSDT", "BTCUSDT"], types=("trades",), answer=False).connect()
    wire.take(wire.feed.remove(["BTCUSDT"], wire.now))
    wire.take(wire.feed.add(["BTCUSDT"], wire.now))
    wire.take(wire.feed.remove(["AAAUSDT"], wire.now))
    sent = len(wire.did(Send))
    for _ in range(11):
        wire.tick()
    again = [json.loads(a.frame) for a in wire.did(Send)[sent:]]
    assert [(m["method"], m["params"]) for m in again] == [
        ("SUBSCRIBE", ["btcusdt@trade"]),  # of the first request; AAAUSDT is not wanted any more
        ("SUBSCRIBE", ["btcusdt@trade"]),
        ("UNSUBSCRIBE", ["aaausdt@trade"]),
    ]


def test_one_bad_name_does_not_take_the_others_with_it() -> None:
    wire = Wire(symbols=["AAAUSDT", "BADUSDT", "CCCUSDT", "DDDUSDT"], types=("trades",), answer=False).connect()
    answered: set[str] = set()
    at = 0
    for _ in range(30):
        frames = wire.did(Send)
        for action in frames[at:]:
            request = json.loads(action.frame)
            if "badusdt@trade" in request["params"]:
                wire.raw(json.dumps({"code": 2, "msg": "Invalid request: bad stream", "id": request["id"]}))
            else:
                answered |= set(request["params"])
                wire.raw(json.dumps({"result": None, "id": request["id"]}))
        at = len(frames)
        wire.tick()
    assert answered == {"aaausdt@trade", "cccusdt@trade", "dddusdt@trade"}
    (rejected,) = wire.statuses("rejected")
    assert (rejected.symbol, rejected.record_type) == ("BADUSDT", "trades")
    assert "Invalid request: bad stream" in rejected.reason
    assert wire.feed.counters.errors == len(wire.statuses("error"))
    assert len(wire.did(Send)) < 12


@pytest.mark.parametrize(
    "frame",
    [
        '{"error":{"code":3,"msg":"Invalid JSON"}}',
        '{"code":1,"msg":"Invalid value type","id":null}',
        '{"error":{"code":-1,"msg":"x"},"id":"abc"}',
    ],
)
def test_errors_of_nobodys_frame_are_counted(frame: str) -> None:
    wire = Wire().connect()
    wire.raw(frame)
    assert wire.feed.counters.errors == 1
    assert len(wire.statuses("error")) == 1


def test_server_shutdown_is_a_reconnect() -> None:
    for frame in (
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1767225600000}}',
        '{"e":"serverShutdown","E":1767225600000}',
    ):
        wire = Wire().connect()
        wire.raw(frame)
        assert [a.reason for a in wire.did(Reconnect)] == ["serverShutdown"]


def test_replies_to_lists_and_properties_are_no_events() -> None:
    wire = Wire().connect()
    for frame in ('{"result":["btcusdt@trade"],"id":77}', '{"result":true,"id":78}', '{"result":null,"id":"x"}'):
        assert wire.raw(frame) == []
    assert wire.feed.counters.unknown_messages == wire.feed.counters.malformed == 0


def test_messages_of_removed_symbols_are_passed_over() -> None:
    wire = Wire(types=("trades", "book")).connect()
    wire.take(wire.feed.remove(["BTCUSDT", "NOSUCH"], wire.now))
    assert json.loads(wire.did(Send)[-1].frame)["method"] == "UNSUBSCRIBE"
    for data in (trade(1), depth(1, 2), quote(1), kline(0, closed=True)):
        assert wire.send(data) == []
    assert wire.feed.counters.skipped == 4


def test_a_connection_that_falls_silent_is_opened_anew() -> None:
    wire = Wire(types=("trades",)).connect()
    for n in range(100):
        wire.send(trade(n))
        wire.tick(0.5)
    assert wire.did(Reconnect) == []
    for _ in range(61):
        wire.tick()
    assert [a.reason for a in wire.did(Reconnect)] == ["nothing came for 60 s"]


def test_a_quiet_connection_is_left_alone() -> None:
    wire = Wire(types=("trades",)).connect()
    for n in range(5):
        wire.send(trade(n))
        for _ in range(100):
            wire.tick()
    assert wire.did(Reconnect) == []


def test_a_silent_stream_that_speaks_later_is_reported() -> None:
    wire = Wire(types=("trades", "quotes"), options={"silence": "5"}).connect()
    for n in range(10):
        wire.send(quote(n))
        wire.tick()
    (silent,) = wire.statuses("silent")
    assert (silent.symbol, silent.record_type) == ("BTCUSDT", "trades")
    wire.send(trade(1, T=wire.now // 1_000_000))
    assert len(wire.statuses("heard")) == 1
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.severity, gap.ts_from) == ("silence", "suspect", NOW)


def test_silence_until_the_connection_ends_is_a_gap_too() -> None:
    wire = Wire(types=("trades",), options={"silence": "5"}).connect()
    for _ in range(10):
        wire.tick()
    wire.take(wire.feed.disconnected(wire.now, "reset"))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.record_type, gap.ts_from, gap.ts_to) == ("silence", "trades", NOW, wire.now)
    wire.connect()
    wire.send(trade(1))
    wire.take(wire.feed.close(wire.now))
    assert len(wire.of(Gap)) == 1


# Damage and the unknown


def test_damage_of_a_known_stream_is_a_gap_of_it_alone() -> None:
    wire = Wire().connect()
    wire.send(quote(1))
    wire.raw('{"stream":"btcusdt@bookTicker","data":{"u":2,"s":"BTC')
    wire.raw('{"stream":"btcusdt@bookTicker","data":{"u":3,"s":"BTC')
    wire.now += SECOND
    wire.send(quote(4))
    (gap,) = wire.of(Gap)
    assert (gap.symbol, gap.record_type, gap.reason) == ("BTCUSDT", "quotes", "malformed")
    assert (gap.ts_from, gap.ts_to) == (NOW, NOW + SECOND)
    assert wire.feed.counters.malformed == 2
    assert len(wire.statuses("malformed")) == 1  # one row a second


def test_a_torn_trade_shows_by_its_id() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(1))
    wire.raw('{"stream":"btcusdt@trade","data":{"e":"trade","E":17')
    wire.send(trade(3))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id, gap.last_id, gap.detail) == ("trade_id", 2, 2, "malformed")
    wire.raw('{"stream":"btcusdt@trade","data":{"e":"trade","E":17')  # a repeat was torn: nothing is lost
    wire.send(trade(4))
    assert len(wire.of(Gap)) == 1


def test_a_torn_depth_message_makes_the_book_stale_at_the_next_one() -> None:
    wire = synced()
    wire.send(depth(101, 105))
    wire.raw('{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":17')
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE
    wire.send(depth(107, 110))
    assert wire.feed.books["BTCUSDT"].state is BookState.STALE


def test_damage_of_nobody_knows_what_is_a_gap_of_everything() -> None:
    wire = Wire().connect()
    for _ in range(100):
        wire.raw("\x00\x01")
    assert {(g.symbol, g.record_type) for g in wire.of(Gap)} == {
        ("", "trades"),
        ("", "agg_trades"),
        ("", "quotes"),
        ("", "candles"),
        ("", "book_deltas"),
    }
    assert len(wire.of(Gap)) == 5  # one row a table and second
    assert wire.feed.counters.malformed == 100


def test_damage_of_a_known_stream_does_not_hide_damage_of_nobody_knows_what() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.raw('{"stream":"btcusdt@trade","data":{"e":"trade","E":17')
    wire.raw("garbage")
    assert [(g.symbol, g.record_type) for g in wire.of(Gap)] == [("", "trades")]


def test_a_trade_without_a_price_is_missing_by_its_id() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(1))
    wire.send(trade(2, p="0"), "btcusdt@trade")
    wire.send(trade(3))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id, gap.last_id) == ("trade_id", 2, 2)
    assert [t.trade_seq for t in wire.of(Trade)] == [1, 3]


def test_new_fields_are_counted_until_they_are_known_to_stay() -> None:
    wire = Wire(types=("trades",)).connect()
    for n in range(150):
        assert any(isinstance(r, Trade) for r in wire.send(trade(n, zz=1)))
    assert len(wire.of(Trade)) == 150
    assert wire.feed.counters.unknown_fields == 100
    assert [s.reason for s in wire.statuses("unknown_field")] == [
        "field 'trade.zz' is not known to this version; it is ignored",
        "trade: 100 messages with unknown fields, counting ends",
    ]


def test_new_fields_inside_candles_and_quotes_are_passed_over_too() -> None:
    wire = Wire().connect()
    for n in range(150):
        wire.send(quote(n, zz=1))
        wire.send(kline(n, closed=True, zz={"a": [1]}))
    assert len(wire.of(Quote)) == len(wire.of(Candle)) == 150
    assert wire.feed.counters.malformed == 0


def test_spaces_and_another_order_of_keys_are_read() -> None:
    wire = Wire().connect()
    data = dict(reversed(list(trade(1).items())))
    wire.raw(json.dumps({"data": data, "stream": "btcusdt@trade"}, indent=2))
    wire.raw(json.dumps(trade(2)).encode())  # a raw stream, as bytes
    assert [t.trade_seq for t in wire.of(Trade)] == [1, 2]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
GOOD = [
    trade(1),
    quote(1),
    kline(0, closed=False),
    depth(1, 2, [["1", "2"]]),
    {"lastUpdateId": 1, "bids": [], "asks": []},
    {"result": None, "id": 1},
    {"code": 1, "msg": "x", "id": 1},
]


@settings(max_examples=300)
@given(
    base=st.sampled_from(GOOD),
    changes=st.dictionaries(st.sampled_from([*"eEsTtpqmuUbBaAkxi", "id", "code", "result"]), JSON, max_size=3),
    wrapped=st.booleans(),
    depth_=st.sampled_from([None, 5]),
)
def test_no_message_raises_or_makes_a_wrong_record(
    base: dict[str, object], changes: dict[str, object], wrapped: bool, depth_: int | None
) -> None:
    wire = Wire(depth=depth_).connect()
    data = base | changes
    try:
        text = json.dumps({"stream": "btcusdt@depth5", "data": data} if wrapped else data, separators=(",", ":"))
    except ValueError:
        return
    for record in wire.raw(text):
        for name in ("ts_event", "ts_recv", "trade_seq", "seq", "epoch", "open_time", "trades"):
            value = getattr(record, name, None)
            assert value is None or (type(value) is int and -(2**63) <= value < 2**63)
        for name in ("price", "quantity", "bid_price", "ask_price", "open", "volume"):
            value = getattr(record, name, None)
            assert value is None or (type(value) is float and 0 <= value < 1e24)
        msgspec.json.encode(record)


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_raise(frame: bytes | str) -> None:
    wire = Wire().connect()
    for record in wire.raw(frame):
        assert isinstance(record, FeedStatus | Gap)


@settings(max_examples=200)
@given(st.sampled_from(GOOD), st.integers(0, 400), st.integers(0, 255))
def test_no_flipped_byte_raises(base: dict[str, object], at: int, value: int) -> None:
    frame = bytearray(json.dumps({"stream": "btcusdt@trade", "data": base}).encode())
    frame[at % len(frame)] = value
    Wire().connect().raw(bytes(frame))


def test_a_clock_that_is_set_back_delays_nothing() -> None:
    """Found by the simulation: an answer was lost, the clock went back, and the feed waited for hours."""
    wire = Wire(types=("trades", "book"), answer=False).connect()
    for _ in range(3):
        wire.now -= 10_000 * SECOND
        wire.actions.clear()
        for _ in range(15):
            wire.now += SECOND
            wire.take(wire.feed.tick(wire.now))
        assert wire.actions, "the SUBSCRIBE frame is sent again, in the end the connection is opened anew"


def test_a_snapshot_retry_survives_a_clock_that_is_set_back() -> None:
    wire = Wire(types=("book",)).connect()
    for _ in range(6):
        wire.take(wire.feed.snapshot_failed("BTCUSDT", "made up", wire.now))
        for _ in range(40):
            wire.now += SECOND
            wire.take(wire.feed.tick(wire.now))
    wire.take(wire.feed.snapshot_failed("BTCUSDT", "made up", wire.now))
    wire.now -= 10_000 * SECOND
    wire.actions.clear()
    for _ in range(5):
        wire.now += SECOND
        wire.take(wire.feed.tick(wire.now))
    assert [type(a) for a in wire.actions] == [FetchSnapshot]
