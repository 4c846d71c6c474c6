from __future__ import annotations

import random
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest
from aggregate_model import Naive, Single
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.tally import CountedSteps, amount

from cmd_common.aggregate import AggregatedLevel, AggregatedOrderBook, Part
from cmd_common.builder import OrderBookBuilder
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.records import CROSSED, SNAPSHOT, venue_levels
from cmd_common.sequence import BookState, Verdict

pytestmark = pytest.mark.usefixtures("either_book")

S = 1_000_000_000
Levels = list[tuple[float, float]]


def instrument(venue: str, symbol: str = "BTCUSDT", base: str = "BTC", quote: str = "USDT", **more: Any) -> Instrument:
    return Instrument(venue, symbol, base, quote, more.pop("kind", "spot"), Decimal("0.01"), Decimal("0.001"), **more)


def live(venue: str, bids: Levels, asks: Levels, symbol: str = "BTCUSDT", **more: Any) -> OrderBook:
    book = OrderBook(0.01, venue=venue, symbol=symbol)
    book.load(bids, asks, **more)
    book.state = BookState.LIVE
    return book


def two(**more: Any) -> tuple[AggregatedOrderBook, OrderBook, OrderBook]:
    """Two venues that share a bid."""
    a = live("a", [(100.0, 1.0), (99.0, 2.0)], [(101.0, 1.0), (103.0, 5.0)])
    b = live("b", [(100.0, 4.0), (98.0, 1.0)], [(102.0, 2.0)])
    merged = AggregatedOrderBook("BTC-USDT", **more)
    merged.add(a, now=S)
    merged.add(b, now=S)
    return merged, a, b


def prices(levels: list[AggregatedLevel]) -> list[tuple[float, float]]:
    return [(level.price, level.quantity) for level in levels]


class TestLevels:
    def test_each_level_says_what_each_venue_contributes(self) -> None:
        merged, _, _ = two()
        assert prices(merged.bids()) == [(100.0, 5.0), (99.0, 2.0), (98.0, 1.0)]
        assert merged.best_bid == AggregatedLevel(
            100.0, 5.0, (Part("a:BTCUSDT", 100.0, 1.0), Part("b:BTCUSDT", 100.0, 4.0))
        )
        assert merged.best_ask is not None
        assert merged.best_ask.names == ("a:BTCUSDT",)
        assert prices(merged.asks(2)) == [(101.0, 1.0), (102.0, 2.0)]
        assert merged.bids(0) == []
        assert merged.best_prices == (100.0, 101.0)
        assert merged.spread == 1.0
        merged.check()

    def test_without_books_there_is_nothing(self) -> None:
        merged = AggregatedOrderBook("BTC-USDT")
        merged.check()
        assert merged.bids() == merged.asks() == []
        assert merged.best_prices == (None, None)
        assert (merged.best_bid, merged.best_ask, merged.spread, merged.crossing, merged.ts_event) == (None,) * 4 + (0,)
        assert merged.known_range == (-inf, inf)
        assert merged.fill("buy", 1.0).unfilled == 1.0

    def test_a_change_is_seen_after_its_update(self) -> None:
        merged, a, b = two()
        a.apply([(100.5, 3.0)], [(101.0, 0.0)])
        merged.update("a:BTCUSDT", S + 1)
        assert merged.best_prices == (100.5, 102.0)
        a.apply([(100.5, 0.0)], [])
        merged.update("a:BTCUSDT", S + 2)
        assert merged.best_prices == (100.0, 102.0)
        b.apply([], [(102.0, 0.0)])
        merged.update("b:BTCUSDT", S + 3)
        assert merged.best_prices == (100.0, 103.0)
        merged.check()

    def test_a_change_is_seen_even_before_its_update(self) -> None:
        merged, a, _ = two()
        a.apply([(100.5, 3.0)], [(101.0, 0.0), (100.25, 1.0)])
        assert merged.best_prices == (100.5, 100.25)
        assert merged.crossing is not None
        assert merged.status()[0].bid == 100.5
        merged.check()

    def test_contracts_become_base_quantities(self) -> None:
        merged = AggregatedOrderBook("BTC-USD-PERP", max_age=None)
        linear = instrument("lin", "L", kind="perpetual", contract_size=Decimal("0.01"))
        inverse = instrument("inv", "I", kind="perpetual", contract_size=Decimal(100), inverse=True)
        merged.add(live("lin", [(50_000.0, 300.0)], [], "L"), linear)
        merged.add(live("inv", [(50_000.0, 1000.0), (40_000.0, 10.0)], [], "I"), inverse)
        assert [p.quantity for p in merged.bids(1)[0].parts] == [3.0, 2.0]
        assert prices(merged.bids()) == [(50_000.0, 5.0), (40_000.0, 0.025)]

    def test_fees_change_the_order_but_not_the_price_that_is_shown(self) -> None:
        merged, _, _ = two(fees={"a": 100.0, "b:BTCUSDT": -10.0})
        best = merged.best_bid
        assert best is not None
        assert best.price == 100.0 * (1.0 + 0.001)
        assert best.parts == (Part("b:BTCUSDT", 100.0, 4.0),)
        assert [level.price for level in merged.asks(2)] == [102.0 * 0.999, 101.0 * 1.01]
        merged.check()

    def test_prices_that_rounding_makes_one_are_one_level(self) -> None:
        close = [1.9 + n * 2**-52 for n in range(40)]
        book = live("a", [(p, 1.0) for p in close], [(p + 1, 1.0) for p in close])
        merged = AggregatedOrderBook(fees={"a": 3_333.0})
        merged.add(book, now=S)
        whole = merged.bids()
        assert len(whole) < 40
        assert sum(len(level.parts) for level in whole) == 40
        for depth in range(1, 41):
            assert merged.bids(depth) == whole[:depth]
        merged.check()

    def test_known_range_is_the_narrowest_of_the_books(self) -> None:
        merged = AggregatedOrderBook(max_age=None)
        merged.add(live("a", [(100.0, 1.0), (90.0, 1.0)], [(101.0, 1.0)], complete=False))
        merged.add(live("b", [(100.0, 1.0), (95.0, 1.0)], [(101.0, 1.0), (110.0, 9.0)], complete=(False, True)))
        assert merged.known_range == (95.0, 101.0)
        assert merged.fill("buy", 2.0).known
        assert not merged.fill("buy", 3.0).known
        assert merged.fill("sell", 3.0).known
        assert not merged.fill("sell", 4.0).known

    @pytest.mark.parametrize(
        "wrong", [{"max_age": 0}, {"max_age": -1}, {"rate_age": 0}, {"fees": {"a": 10_000}}, {"fees": {"a": nan}}]
    )
    def test_wrong_settings(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            AggregatedOrderBook(**wrong)

    def test_wrong_calls(self) -> None:
        merged, a, _ = two()
        with pytest.raises(UsageError, match="already"):
            merged.add(a)
        with pytest.raises(UnknownNameError, match="a:BTCUSDT"):
            merged.update("a:BTCUSD", S)
        with pytest.raises(UnknownNameError):
            merged.remove("x")
        with pytest.raises(UsageError):
            merged.bids(-1)
        for size in (0.0, -1.0, inf, nan):
            with pytest.raises(UsageError):
                merged.fill("buy", size)
        with pytest.raises(UsageError):
            merged.fill("hold", 1.0)  # type: ignore[arg-type]
        for rate in ((0.0, 1.0), (1.0, inf), (nan, 1.0)):
            with pytest.raises(UsageError):
                merged.set_rate("EUR", *rate, S)
        merged.check()


class TestTrust:
    def test_a_book_that_is_lost_leaves_at_once_and_comes_back_by_itself(self) -> None:
        merged, a, _ = two()
        before = merged.changes
        a.state = BookState.STALE  # nobody told the aggregate
        assert merged.excluded == {"a:BTCUSDT": "stale"}
        assert prices(merged.bids()) == [(100.0, 4.0), (98.0, 1.0)]
        assert merged.best_prices == (100.0, 102.0)
        assert merged.changes == before + 1
        merged.check()
        a.state = BookState.LIVE
        assert merged.excluded == {}
        assert prices(merged.bids(1)) == [(100.0, 5.0)]
        assert merged.changes == before + 2

    @pytest.mark.parametrize(
        "read", ["names", "best_prices", "best_ask", "crossing", "ts_event", "spread", "known_range"]
    )
    def test_no_reader_sees_a_lost_book(self, read: str) -> None:
        merged, a, b = two()
        b.apply([(105.0, 1.0)], [])
        b.ts_event = a.ts_event + 1
        merged.update("b:BTCUSDT", S)
        with_b = getattr(merged, read)
        b.state = BookState.STALE
        b.load(b.bids(), b.asks(), complete=False)
        alone = AggregatedOrderBook()
        alone.add(a, now=S)
        assert getattr(merged, read) == getattr(alone, read)
        assert read in ("best_ask", "known_range") or with_b != getattr(merged, read)

    def test_a_book_that_is_silent_too_long_leaves(self) -> None:
        merged, _, _ = two(max_age=10)
        merged.update("a:BTCUSDT", S + 10)
        assert merged.excluded == {}
        merged.update("a:BTCUSDT", S + 11)
        assert merged.excluded == {"b:BTCUSDT": "old"}
        assert prices(merged.asks()) == [(101.0, 1.0), (103.0, 5.0)]
        merged.refresh(S + 22)
        assert merged.names == []
        assert [s.age for s in merged.status()] == [11, 22]
        merged.update("b:BTCUSDT", S + 23)
        assert merged.names == ["b:BTCUSDT"]
        merged.check()

    def test_a_book_that_was_never_updated_is_not_believed(self) -> None:
        merged = AggregatedOrderBook()
        merged.add(live("a", [(1.0, 1.0)], []))
        assert merged.excluded == {"a:BTCUSDT": "no update"}
        assert merged.status()[0].age is None
        merged.update("a:BTCUSDT", S)
        assert merged.excluded == {}

    def test_a_clock_that_is_set_back_excludes_nobody(self) -> None:
        merged, _, _ = two(max_age=10)
        merged.update("a:BTCUSDT", S - 3_600 * S)
        assert merged.excluded == {}
        assert merged.status()[1].age == 0
        merged.check()

    def test_a_crossed_book_is_flagged_with_its_age_and_both_venues(self) -> None:
        merged, a, b = two()
        assert merged.crossing is None
        a.apply([(102.0, 1.0)], [])
        merged.update("a:BTCUSDT", 2 * S)
        crossing = merged.crossing
        assert crossing is not None
        # a's own ask of 101 is crossed by its own bid, which a venue's book never is: it is still shown
        assert (crossing.bid_name, crossing.ask_name, crossing.locked, crossing.age) == (
            "a:BTCUSDT",
            "a:BTCUSDT",
            False,
            0,
        )
        a.apply([], [(101.0, 0.0)])
        merged.update("a:BTCUSDT", 3 * S)
        crossing = merged.crossing
        assert crossing is not None
        assert (crossing.bid_name, crossing.ask_name, crossing.locked) == ("a:BTCUSDT", "b:BTCUSDT", True)
        assert (crossing.bid, crossing.ask, crossing.since, crossing.age) == (102.0, 102.0, 2 * S, S)
        b.apply([], [(102.0, 0.0), (102.5, 1.0)])
        merged.update("b:BTCUSDT", 4 * S)
        assert merged.crossing is None
        b.apply([(103.0, 1.0)], [])
        merged.update("b:BTCUSDT", 5 * S)
        assert merged.crossing is not None
        assert merged.crossing.since == 5 * S

    def test_the_loss_of_a_venue_ends_a_crossing(self) -> None:
        merged, a, b = two()
        b.apply([(101.5, 1.0)], [])
        merged.update("b:BTCUSDT", S)
        assert merged.crossing is not None
        a.state = BookState.STALE
        assert merged.crossing is None
        merged.check()

    def test_removing(self) -> None:
        merged, a, _ = two()
        assert merged.remove("a:BTCUSDT") is a
        assert list(merged) == ["b:BTCUSDT"]
        assert "a:BTCUSDT" not in merged
        assert prices(merged.bids(1)) == [(100.0, 4.0)]
        merged.check()


class TestConversion:
    def make(self) -> tuple[AggregatedOrderBook, OrderBook]:
        merged = AggregatedOrderBook("BTC-USD", max_age=10 * S, rate_age=5 * S)
        merged.add(live("a", [(100.0, 1.0)], [(110.0, 1.0)], "BTC-USD"), now=S)
        euro = live("b", [(95.0, 2.0)], [(96.0, 2.0)], "BTC-EUR")
        merged.add(euro, convert_from="EUR", now=S)
        return merged, euro

    def test_without_a_price_the_venue_is_left_out(self) -> None:
        merged, _ = self.make()
        assert merged.excluded == {"b:BTC-EUR": "rate of EUR: none"}
        merged.set_rate("EUR", 1.0625, 1.125, S)
        assert merged.excluded == {}
        assert merged.best_prices == (95.0 * 1.0625, 96.0 * 1.125)
        assert merged.bids(1)[0].parts == (Part("b:BTC-EUR", 95.0, 2.0),)
        merged.drop_rate("EUR", "stale", S)
        assert merged.excluded == {"b:BTC-EUR": "rate of EUR: stale"}
        assert merged.best_prices == (100.0, 110.0)
        merged.check()

    def test_an_old_price_is_none(self) -> None:
        merged, _ = self.make()
        merged.set_rate("EUR", 1.0625, 1.125, S)
        merged.update("b:BTC-EUR", 6 * S)
        assert merged.excluded == {}
        merged.update("b:BTC-EUR", 6 * S + 1)
        assert merged.excluded == {"b:BTC-EUR": "rate of EUR: old"}
        merged.set_rate("EUR", 1.0625, 1.125, 7 * S)
        assert merged.excluded == {}
        merged.check()

    def test_the_same_price_heard_of_earlier_is_older(self) -> None:
        merged, _ = self.make()
        merged.set_rate("EUR", 1.0, 1.0, 3 * S)
        merged.set_rate("EUR", 1.0, 1.0, 3 * S, seen=S)
        merged.update("b:BTC-EUR", 6 * S + 1)
        assert merged.excluded == {"b:BTC-EUR": "rate of EUR: old"}
        merged.check()

    def test_a_price_heard_of_earlier_is_as_old_as_that(self) -> None:
        merged, _ = self.make()
        merged.set_rate("EUR", 1.0, 1.0, 7 * S, seen=S)
        assert merged.now == 7 * S
        assert merged.excluded == {"b:BTC-EUR": "rate of EUR: old"}


class TestFill:
    def test_it_walks_over_the_venues(self) -> None:
        merged, _, _ = two()
        fill = merged.fill("buy", 4.0)
        assert fill.venues == {"a:BTCUSDT": 2.0, "b:BTCUSDT": 2.0}
        assert fill.vwap == (101.0 + 2 * 102.0 + 103.0) / 4
        assert (fill.worst, fill.filled, fill.unfilled, fill.known) == (103.0, 4.0, 0.0, True)

    def test_the_rest_is_said(self) -> None:
        merged, _, _ = two()
        fill = merged.fill("sell", 10.0)
        assert (fill.filled, fill.unfilled, fill.worst, fill.known) == (8.0, 2.0, 98.0, False)
        assert fill.venues == {"a:BTCUSDT": 3.0, "b:BTCUSDT": 5.0}

    def test_deeper_than_the_first_look(self) -> None:
        merged = AggregatedOrderBook(max_age=None)
        merged.add(live("a", [], [(100.0 + n, 1.0) for n in range(500)]))
        fill = merged.fill("buy", 300.5)
        assert (fill.worst, fill.unfilled) == (400.0, 0.0)


class TestRecord:
    def test_it_carries_each_venues_part(self) -> None:
        merged, a, b = two()
        a.ts_event, b.ts_event = 7, 9
        record = merged.to_record(merged.ts_event, S, 3, 2)
        assert (record.ts_event, record.ts_recv, record.seq, record.instrument) == (9, S, 3, "BTC-USDT")
        assert (record.venues, record.excluded) == ("a:BTCUSDT,b:BTCUSDT", "")
        assert list(venue_levels(record.bids)) == [(100.0, 1.0, 0), (100.0, 4.0, 1), (99.0, 2.0, 0)]
        assert list(venue_levels(record.asks)) == [(101.0, 1.0, 0), (102.0, 2.0, 1)]
        assert (record.crossed_for, record.flags) == (None, SNAPSHOT)

    def test_the_excluded_and_the_crossing(self) -> None:
        merged, a, b = two()
        b.state = BookState.STALE
        a.apply([(101.0, 1.0)], [])
        merged.update("a:BTCUSDT", S)
        merged.refresh(2 * S)
        record = merged.to_record(1, 2, 0, None)
        assert (record.venues, record.excluded) == ("a:BTCUSDT", "b:BTCUSDT=stale")
        assert (record.crossed_for, record.flags) == (S, SNAPSHOT | CROSSED)


class Rule:
    """Ids rise by one."""

    name = "test"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        return Verdict.DROP if last <= snapshot_id else Verdict.APPLY if first <= snapshot_id + 1 else Verdict.GAP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        return Verdict.DROP if last <= book_id else Verdict.APPLY if first == book_id + 1 else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        return snapshot_id + 1 < first


SIDES = st.lists(
    st.tuples(st.integers(1, 60).map(lambda n: n / 4), st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.25])), max_size=12
)
SHAPES = [
    {},
    {"contract_size": Decimal("0.01")},
    {"contract_size": Decimal(100), "inverse": True},
]


class AggregateMachine(CountedSteps):
    """Random deltas, snapshots, losses, pruning, time, rates, venues that come and go: always the naive merge."""

    @initialize(
        max_age=st.sampled_from([None, 5, 50]),
        fees=st.lists(st.sampled_from([0.0, 0.0, 1.5, -0.5, 40.0]), min_size=5, max_size=5),
    )
    def begin(self, max_age: int | None, fees: list[float]) -> None:
        self.fees = {f"v{n}": bps for n, bps in enumerate(fees) if bps}
        self.merged = AggregatedOrderBook("BTC-USDT", max_age=max_age, fees=self.fees)
        self.naive = Naive(max_age)
        self.builders: dict[str, OrderBookBuilder] = {}
        self.upstream: dict[str, int] = {}
        self.crossed_since: int | None = None
        self.new = 0

    def tell(self, name: str) -> None:
        self.naive.singles[name].seen = self.naive.now
        self.merged.update(name, self.naive.now)

    def pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.builders)))

    @rule(
        shape=st.sampled_from(SHAPES),
        asset=st.sampled_from(["", "", "EUR"]),
        levels=st.sampled_from([None, 6, 20]),
        told=st.booleans(),
        live=st.booleans(),
    )
    def add(self, shape: dict[str, Any], asset: str, levels: int | None, told: bool, live: bool) -> None:
        self.begin_book(shape, asset, levels, told, live)

    def begin_book(self, shape: dict[str, Any], asset: str, levels: int | None, told: bool, live: bool) -> None:
        if len(self.builders) >= 5:
            return
        venue = next(f"v{n}" for n in range(5) if f"v{n}:BTCUSDT" not in self.builders)
        what = instrument(venue, **shape)
        book = OrderBook(0.01, venue=venue, symbol="BTCUSDT", max_levels=levels)
        name = self.merged.add(book, what, convert_from=asset, now=self.naive.now if told else None)
        seen = self.naive.now if told else None
        self.naive.singles[name] = Single(book, what, self.fees.get(venue, 0.0), asset, seen)
        builder = OrderBookBuilder(book, Rule(), snapshot_levels=1000)
        builder.start()
        self.builders[name] = builder
        self.upstream[name] = 100
        if live:
            builder.snapshot(100, [(7.5, 1.0), (8.0, 0.5), (6.0, 2.0)], [(8.25, 1.0), (8.5, 0.25)], complete=True)
            self.tell(name)

    @precondition(lambda self: len(self.builders) < 3)
    @rule()
    def add_two_that_are_live(self) -> None:
        for shape in ({"contract_size": Decimal(2)}, {}):
            self.begin_book(shape, "", None, True, True)

    @precondition(lambda self: self.builders)
    @rule(data=st.data(), bids=SIDES, asks=SIDES, skip=st.sampled_from([0, 0, 0, 0, 1]), told=st.booleans())
    def delta(self, data: st.DataObject, bids: Levels, asks: Levels, skip: int, told: bool) -> None:
        name = self.pick(data)
        # bids stay below asks, so that the builder does not take the book for lost all the time
        bids = [(p, q) for p, q in bids if p <= 8]
        asks = [(p, q) for p, q in asks if p > 8]
        self.upstream[name] += 1 + skip
        last = self.upstream[name]
        self.builders[name].delta(last, last, None, bids, asks, self.naive.now)
        if told:  # else somebody reads in the moment between the change and its update
            self.tell(name)

    @precondition(lambda self: self.builders)
    @rule(data=st.data(), bids=SIDES, asks=SIDES, behind=st.integers(0, 2), complete=st.booleans())
    def snapshot(self, data: st.DataObject, bids: Levels, asks: Levels, behind: int, complete: bool) -> None:
        name = self.pick(data)
        bids = [(p, q) for p, q in bids if p <= 9]
        asks = [(p, q) for p, q in asks if p > 9]
        builder = self.builders[name]
        builder.snapshot_levels = 4
        builder.snapshot(self.upstream[name] - behind, bids, asks, complete=complete)
        self.tell(name)

    @precondition(lambda self: self.builders)
    @rule(data=st.data(), told=st.booleans())
    def lose(self, data: st.DataObject, told: bool) -> None:
        name = self.pick(data)
        self.builders[name].disconnected()
        self.builders[name].start()
        if told:
            self.tell(name)

    @precondition(lambda self: self.builders)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = self.pick(data)
        assert self.merged.remove(name) is self.builders.pop(name).book
        del self.naive.singles[name]

    @rule(by=st.integers(0, 9), told=st.booleans())
    def time_passes(self, by: int, told: bool) -> None:
        self.naive.now += by
        self.merged.refresh(self.naive.now)

    @rule(by=st.integers(0, 9))
    def the_next_message_is_later(self, by: int) -> None:
        if self.builders:
            self.naive.now += by
            self.tell(min(self.builders))

    @rule(bid=st.sampled_from([0.5, 1.0, 1.1]), wide=st.sampled_from([1.0, 1.01]), ago=st.sampled_from([0, 0, 3]))
    def rate(self, bid: float, wide: float, ago: int) -> None:
        seen = self.naive.now - ago
        self.naive.rates["EUR"] = (bid, bid * wide, seen)
        self.merged.set_rate("EUR", bid, bid * wide, self.naive.now, seen=seen)

    @rule(reason=st.sampled_from(["stale", "none"]))
    def no_rate(self, reason: str) -> None:
        self.naive.rates["EUR"] = reason
        self.merged.drop_rate("EUR", reason, self.naive.now)

    @invariant()
    def is_the_naive_merge(self) -> None:
        merged, naive = self.merged, self.naive
        assert merged.excluded == naive.excluded()
        assert merged.now == naive.now
        tops = []
        for bid in (True, False):
            wanted = naive.merged(bid)
            for depth in (None, 1, 3, 100):
                found = merged.bids(depth) if bid else merged.asks(depth)
                assert [
                    (x.price, x.quantity, [(p.name, p.price, p.quantity) for p in x.parts]) for x in found
                ] == wanted[:depth]
            tops.append(wanted[0][0] if wanted else None)
        assert merged.best_prices == tuple(tops)
        crossed = tops[0] is not None and tops[1] is not None and tops[0] >= tops[1]
        assert (merged.crossing is not None) == crossed
        if merged.crossing is not None:
            since = self.crossed_since
            assert since is None or merged.crossing.since == since
            self.crossed_since = merged.crossing.since
            assert merged.crossing.age == naive.now - merged.crossing.since
            assert merged.crossing.locked == (tops[0] == tops[1])
            assert merged.crossing.bid_name in [n for n, _, _ in naive.merged(True)[0][2]]
            assert merged.crossing.ask_name in [n for n, _, _ in naive.merged(False)[0][2]]
        else:
            self.crossed_since = None
        merged.check()

    @invariant()
    def fills_as_the_naive_merge(self) -> None:
        for side, size in (("buy", 0.75), ("sell", 30.0)):
            fill = self.merged.fill(side, size)  # type: ignore[arg-type]
            left, cost, venues, worst = self.naive.fill(side, size)
            assert (fill.unfilled, fill.venues, fill.worst) == (left, venues, worst)
            assert fill.vwap == (cost / (size - left) if size > left else None)


def test_aggregate_machine() -> None:
    run_state_machine_as_test(
        AggregateMachine, settings=settings(max_examples=amount(120, 250), stateful_step_count=50, deadline=None)
    )


@given(seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_ten_deep_venues_equal_the_naive_merge(seed: int) -> None:
    rng = random.Random(seed)
    merged = AggregatedOrderBook("BTC-USDT", max_age=None)
    naive = Naive(None)
    books = []
    for n in range(10):
        book = live(
            f"v{n}", [(1000 - i / 10, 1.0 + i) for i in range(300)], [(1000.1 + i / 10, 2.0 + i) for i in range(300)]
        )
        name = merged.add(book)
        naive.singles[name] = Single(book, instrument(f"v{n}"))
        books.append(book)
    for step in range(100):
        book = rng.choice(books)
        middle = rng.randint(9990, 10010)
        book.apply(
            [((middle - rng.randint(0, 200)) / 10, rng.choice((0.0, 1.0))) for _ in range(15)],
            [((middle + rng.randint(1, 200)) / 10, rng.choice((0.0, 1.0))) for _ in range(15)],
        )
        merged.update(f"{book.venue}:BTCUSDT", step)
        for bid in (True, False):
            found = merged.bids(25) if bid else merged.asks(25)
            assert [(x.price, x.quantity) for x in found] == [(p, q) for p, q, _ in naive.merged(bid)[:25]]
    merged.check()
