from __future__ import annotations

import copy
import pickle
import random
from array import array
from decimal import Decimal
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from tests.tally import CountedSteps, amount

from cmd_common.errors import DataError, UsageError
from cmd_common.orderbook import OrderBook
from cmd_common.records import levels, pack_levels
from cmd_common.sequence import BookState

pytestmark = pytest.mark.usefixtures("either_book")

PRICES = st.one_of(
    st.integers(1, 400).map(lambda ticks: ticks / 100),  # few, so that levels meet again
    st.floats(1e-12, 1e12),
    st.sampled_from([1e-12, 1e12, 5e-324, 1.7e308, 0.1 + 0.2, 0.3]),
)
QUANTITIES = st.one_of(st.just(0.0), st.just(-0.0), st.floats(1e-12, 1e12), st.sampled_from([1.0, 5e-324, 1.7e308]))
LEVELS = st.lists(st.tuples(PRICES, QUANTITIES), max_size=60)
BAD = [(nan, 1.0), (1.0, nan), (inf, 1.0), (1.0, inf), (-inf, 1.0), (1.0, -inf), (-1.0, 1.0), (1.0, -1.0), (0.0, 1.0),
       (-1.0, 0.0), (nan, 0.0), (nan, nan)]  # fmt: skip


class Model:
    """The naive book: two dicts and sorting."""

    def __init__(self) -> None:
        self.bids: dict[float, float] = {}
        self.asks: dict[float, float] = {}

    def apply(self, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> None:
        for side, changes in ((self.bids, bids), (self.asks, asks)):
            for price, quantity in changes:
                if quantity == 0:
                    side.pop(price, None)
                else:
                    side[price] = quantity

    def compare(self, book: OrderBook) -> None:
        bids = sorted(self.bids.items(), reverse=True)
        asks = sorted(self.asks.items())
        assert book.bids() == bids
        assert book.asks() == asks
        assert book.best_bid == (bids[0] if bids else None)
        assert book.best_ask == (asks[0] if asks else None)
        assert len(book) == len(bids) + len(asks)
        for depth in (0, 1, 20, 49, 85, 10_000):
            assert book.bids(depth) == bids[:depth]
            assert book.asks(depth) == asks[:depth]
        assert book.packed_bids(20) == pack_levels(bids[:20])
        assert book.packed_asks() == pack_levels(asks)


class BookMachine(CountedSteps):
    def __init__(self) -> None:
        super().__init__()
        self.book = OrderBook()
        self.model = Model()

    @initialize(deep=st.integers(0, 600))
    def fill(self, deep: int) -> None:
        bids = [(100 - i / 100, 1.0) for i in range(deep)]
        asks = [(100.01 + i / 100, 1.0) for i in range(deep)]
        self.load(bids, asks)

    @rule(bids=LEVELS, asks=LEVELS)
    def load(self, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> None:
        self.book.load(bids, asks)
        self.model = Model()
        self.model.bids = {p: q for p, q in dict(bids).items() if q}
        self.model.asks = {p: q for p, q in dict(asks).items() if q}

    @rule(bids=LEVELS, asks=LEVELS)
    def apply(self, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> None:
        self.book.apply(bids, asks)
        self.model.apply(bids, asks)

    @rule(count=st.integers(1, 300), side=st.booleans())
    def eat(self, count: int, side: bool) -> None:
        """The touch runs away: the best levels are deleted one after the other."""
        best = self.book.bids(count) if side else self.book.asks(count)
        gone = [(price, 0.0) for price, _ in best]
        bids, asks = (gone, []) if side else ([], gone)
        self.book.apply(bids, asks)
        self.model.apply(bids, asks)

    @rule(count=st.integers(1, 300), step=st.sampled_from([0.01, 0.003]))
    def improve(self, count: int, step: float) -> None:
        """The touch comes nearer in many small steps."""
        bids = [(200 + i * step, 1.0) for i in range(count)]
        self.book.apply(bids, bids)
        self.model.apply(bids, bids)

    @rule(bids=LEVELS, asks=LEVELS, bad=st.sampled_from(BAD), data=st.data(), on_bids=st.booleans())
    def refuse(
        self,
        bids: list[tuple[float, float]],
        asks: list[tuple[float, float]],
        bad: tuple[float, float],
        data: st.DataObject,
        on_bids: bool,
    ) -> None:
        side = bids if on_bids else asks
        side.insert(data.draw(st.integers(0, len(side))), bad)
        for change in (self.book.apply, self.book.load, self.book.validate):
            with pytest.raises(DataError):
                change(bids, asks)

    @rule()
    def clear(self) -> None:
        self.book.clear()
        self.model = Model()

    @invariant()
    def same(self) -> None:
        self.book.check()
        self.model.compare(self.book)


def test_book_machine() -> None:
    run_state_machine_as_test(
        BookMachine, settings=settings(max_examples=amount(40, 120), stateful_step_count=25, deadline=None)
    )


def test_long_random_operations_on_a_deep_book_agree_with_the_naive_one() -> None:
    rng = random.Random(7)
    book, model = OrderBook(), Model()
    mid = 100_000
    for step in range(800):
        mid += rng.choice((-40, -1, 0, 0, 1, 40))
        sides: list[list[tuple[float, float]]] = []
        for sign in (-1, 1):
            far = rng.random() < 0.3
            ticks = [mid + sign * rng.randint(0, 4_000 if far else 30) for _ in range(rng.randint(0, 30))]
            sides.append([(tick / 100, rng.choice((0.0, 1.0, rng.random()))) for tick in ticks])
        book.apply(*sides)
        model.apply(*sides)
        book.check()
        if step % 100 == 0:
            model.compare(book)
    model.compare(book)
    assert len(book) > 1000


def test_a_huge_book_loads_and_loses_its_touch_again_and_again() -> None:
    count = 100_000
    bids = [(1 + i / 100, 1.0) for i in range(count)]
    book = OrderBook()
    book.load(bids, [])
    assert book.best_bid == bids[-1]
    book.apply([(price, 0.0) for price, _ in bids[-5000:]], [])
    assert book.best_bid == bids[-5001]
    assert book.bids(3) == bids[-5001:-5004:-1]
    book.check()


@pytest.mark.parametrize("bad", BAD)
def test_an_impossible_level_is_refused_before_anything_is_applied(bad: tuple[float, float]) -> None:
    book = OrderBook(venue="v", symbol="S")
    book.load([(10.0, 1.0)], [(11.0, 1.0)])
    for bids, asks in (([(10.0, 5.0), (9.0, 1.0), bad], []), ([(10.0, 5.0)], [(11.0, 0.0), bad, (12.0, 1.0)])):
        with pytest.raises(DataError, match=r"order book of v:S: (bid|ask) level"):
            book.apply(bids, asks)
        assert (book.bids(), book.asks()) == ([(10.0, 1.0)], [(11.0, 1.0)])
        book.check()


def test_the_same_price_twice_in_one_delta_applies_in_order() -> None:
    book = OrderBook()
    book.apply([(10.0, 1.0), (10.0, 0.0), (9.0, 0.0), (9.0, 2.0)], [(11.0, 1.0), (11.0, 3.0)])
    assert (book.bids(), book.asks()) == ([(9.0, 2.0)], [(11.0, 3.0)])
    book.check()


def test_an_empty_delta_and_unknown_deletions_change_nothing() -> None:
    book = OrderBook()
    book.load([(10.0, 1.0)], [(11.0, 1.0)])
    book.apply([], [])
    book.apply([(8.0, 0.0)], [(1e12, 0.0)])
    assert (book.bids(), book.asks()) == ([(10.0, 1.0)], [(11.0, 1.0)])


def test_prices_off_the_tick_grid_are_kept() -> None:
    book = OrderBook(Decimal("0.01"))
    book.apply([(10.005, 1.0)], [(1e-12, 1.0)])
    assert book.best_bid == (10.005, 1.0)
    assert book.best_ask == (1e-12, 1.0)
    assert book.tick_size == Decimal("0.01")


def test_mid_spread_and_crossed() -> None:
    book = OrderBook()
    assert (book.mid, book.spread, book.crossed, book.best_bid, book.best_ask) == (None, None, False, None, None)
    book.apply([(10.0, 1.0)], [])
    assert (book.mid, book.spread, book.crossed) == (None, None, False)
    book.apply([], [(11.0, 1.0)])
    assert (book.mid, book.spread, book.crossed) == (10.5, 1.0, False)
    book.apply([(11.0, 1.0)], [])
    assert (book.spread, book.crossed) == (0.0, True)
    book.load([(1.7e308, 1.0)], [(1.75e308, 1.0)])
    assert book.mid == pytest.approx(1.725e308)  # no overflow on the way


def test_known_depth_ends_at_the_worst_level_of_an_incomplete_snapshot() -> None:
    bids, asks = [(10.0 - i, 1.0) for i in range(5)], [(11.0 + i, 1.0) for i in range(5)]
    book = OrderBook()
    book.load(bids, asks)
    assert book.known_depth == (5, 5)
    book.load(bids, asks, complete=False)
    book.apply([(5.0, 1.0), (9.5, 1.0), (8.0, 0.0)], [(20.0, 1.0), (15.0, 0.0)])
    assert book.known_depth == (5, 4)  # 5.0 and 20.0 are beyond what the snapshot showed
    assert len(book) == 6 + 5
    book.check()
    book.load(bids, asks, complete=(False, True))
    book.apply([(5.0, 1.0)], [(20.0, 1.0)])
    assert book.known_depth == (5, 6)
    book.load([], asks, complete=False)
    book.apply([(9.0, 1.0)], [])
    assert book.known_depth == (0, 5)
    book.check()


@given(st.integers(1, 60), st.randoms(use_true_random=False))
def test_pruning_keeps_the_best_levels_and_says_what_is_unknown(limit: int, rng: random.Random) -> None:
    book, model = OrderBook(max_levels=limit), Model()
    for _ in range(12):
        sides = [
            [(float(rng.randint(1, 200)), rng.choice((0.0, 1.0, 1.0, 2.0))) for _ in range(rng.randint(0, 40))]
            for _ in range(2)
        ]
        book.apply(*sides)
        model.apply(*sides)
        book.check()
        known_bids, known_asks = book.known_depth
        # Whatever was pruned, the known levels are exactly the true ones from the touch.
        assert book.bids(known_bids) == sorted(model.bids.items(), reverse=True)[:known_bids]
        assert book.asks(known_asks) == sorted(model.asks.items())[:known_asks]
        assert max(len(book.bids()), len(book.asks())) <= limit + max(16, limit // 8)


def test_a_snapshot_deeper_than_the_limit_is_pruned_at_once() -> None:
    book = OrderBook(max_levels=100)
    book.load([(1000.0 - i, 1.0) for i in range(500)], [(1001.0 + i, 1.0) for i in range(500)])
    assert book.known_depth == (100, 100)
    assert len(book) == 200
    book.check()


def test_clear_forgets_levels_ids_and_state() -> None:
    book = OrderBook()
    book.load([(10.0, 1.0)], [], complete=False)
    book.state, book.last_id, book.ts_event = BookState.LIVE, 5, 6
    book.clear()
    assert (len(book), book.state, book.last_id, book.ts_event) == (0, BookState.EMPTY, 0, 0)
    assert book.known_depth == (0, 0)
    assert bool(book)
    book.check()


def test_packed_sides_unpack_to_the_levels() -> None:
    book = OrderBook()
    book.load([(10.0, 1.0), (9.0, 2.0)], [(11.0, 3.0)])
    assert list(levels(book.packed_bids())) == [(10.0, 1.0), (9.0, 2.0)]
    assert list(levels(book.packed_asks(1))) == [(11.0, 3.0)]
    assert book.packed_bids(0) == b""


def test_bad_options_are_refused_and_repr_names_the_book() -> None:
    for options in ({"tick_size": 0}, {"tick_size": nan}, {"tick_size": -0.01}, {"max_levels": 0}):
        with pytest.raises(UsageError):
            OrderBook(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        OrderBook().bids(-1)
    assert repr(OrderBook(venue="v", symbol="S")) == "<OrderBook v:S EMPTY None None last_id=0>"


def test_the_top_in_one_tuple_and_in_the_caller_s_buffer() -> None:
    book = OrderBook(0.5)
    assert book.top is None
    assert (book.best_bid_price, book.best_ask_price) == (-inf, inf)
    book.load([(10.0, 1.0), (9.5, 2.0), (9.3, 4.0)], [(10.5, 3.0)])
    assert book.top == (10.0, 1.0, 10.5, 3.0)
    assert (book.best_bid_price, book.best_ask_price) == (10.0, 10.5)
    buffer = array("d", [-1.0] * 9)
    assert book.top_into(buffer, 2) == (2, 1)
    assert list(buffer) == [10.0, 1.0, 9.5, 2.0, 10.5, 3.0, -1.0, -1.0, -1.0]
    table = np.zeros((2, 4, 2))
    assert book.top_into(table, 4) == (3, 1)
    assert table[0, :3].tolist() == [[10.0, 1.0], [9.5, 2.0], [9.3, 4.0]]
    assert table[1].tolist() == [[10.5, 3.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert book.top_into(buffer, 0) == (0, 0)
    for wrong, depth in ((buffer, 3), (buffer, -1), (bytes(64), 1), (array("f", [0.0] * 8), 1), (table[:, :, :1], 1)):
        with pytest.raises(UsageError):
            book.top_into(wrong, depth)
    frozen = np.zeros(8)
    frozen.flags.writeable = False
    with pytest.raises(UsageError):
        book.top_into(frozen, 1)


def test_flat_levels_apply_as_pairs_do() -> None:
    flat, pairs = OrderBook(0.01), OrderBook(0.01)
    bids, asks = [(10.0, 1.0), (9.99, 2.0), (10.0, 0.0)], [(10.01, 5.0)]
    flat.apply_packed(array("d", [x for level in bids for x in level]), np.array(asks))
    pairs.apply(bids, asks)
    assert (flat.bids(), flat.asks()) == (pairs.bids(), pairs.asks()) == ([(9.99, 2.0)], [(10.01, 5.0)])
    with pytest.raises(DataError):
        flat.apply_packed(array("d", [9.0, 1.0, 0.0, 1.0]), array("d"))
    assert flat.bids() == [(9.99, 2.0)]


def test_absurd_prices_and_a_changed_tick_size_lose_nothing() -> None:
    book, model = OrderBook(Decimal("0.01")), Model()
    for bids, asks in (
        ([(100.0, 1.0), (99.99, 2.0)], [(100.01, 1.0)]),
        ([(1e-12, 3.0)], [(1e12, 4.0)]),
        ([(99.995, 1.0), (99.9975, 5.0)], [(100.005, 2.0)]),  # the tick size is a quarter of a hundredth now
        ([(5e-324, 1.0)], [(1.7e308, 1.0)]),
        ([(1e12 - 1, 7.0)], []),  # crossed by far, and gone again
        ([(1e12 - 1, 0.0), (99.99, 0.0)], [(1e12, 0.0), (1e-12, 0.0)]),
        ([(0.01, 1.0)], [(0.01, 1.0)]),
    ):
        book.apply(bids, asks)
        model.apply(bids, asks)
        book.check()
        model.compare(book)


def test_a_million_levels() -> None:
    count = 1_000_000
    side = [(0.01 * tick, 1.0) for tick in range(1, count + 1)]
    book = OrderBook(0.01)
    book.load(side, [])
    assert len(book) == count
    assert book.best_bid == side[-1]
    book.apply([(price, 0.0) for price, _ in side[count // 2 :]], [])
    assert len(book) == count // 2
    assert book.bids(3) == side[count // 2 - 1 : count // 2 - 4 : -1]
    assert book.bids()[-1] == side[0]


def test_a_book_can_be_copied_and_pickled() -> None:
    book = OrderBook(0.01, max_levels=4, venue="v", symbol="S")
    book.load([(10.0 - i, 1.0) for i in range(3)], [(11.0, 2.0)], complete=False)
    book.state, book.last_id, book.ts_event = BookState.LIVE, 7, 8
    for twin in (copy.deepcopy(book), pickle.loads(pickle.dumps(book))):
        assert repr(twin) == repr(book)
        assert (twin.bids(), twin.asks(), twin.known_range) == (book.bids(), book.asks(), book.known_range)
        assert (twin.tick_size, twin.max_levels, twin.ts_event) == (0.01, 4, 8)
        twin.apply([(10.0, 0.0)], [])
        twin.check()
        assert len(book) == 4


def test_odd_but_legal_levels() -> None:
    book = OrderBook(1)
    book.apply(((10, 1), (9, 2)), [[11, 3]])  # type: ignore[list-item]
    assert (book.best_bid, book.best_ask) == ((10.0, 1.0), (11.0, 3.0))
    book.apply([(np.float64(10.0), np.float64(-0.0))], [])
    assert book.best_bid == (9.0, 2.0)
    for wrong in ([(1.0,)], [(1.0, 2.0, 3.0)], [5]):
        with pytest.raises((ValueError, TypeError)):
            book.apply(wrong, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        book.apply([("1", "2")], [])  # type: ignore[list-item]
    assert len(book) == 2
