from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from math import nan

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from tests.tally import CountedSteps, amount

from cmd_common.builder import Applied, OrderBookBuilder
from cmd_common.errors import UsageError
from cmd_common.orderbook import OrderBook
from cmd_common.sequence import BookState, SequenceRule, Verdict

pytestmark = pytest.mark.usefixtures("either_book")

Levels = list[tuple[float, float]]


class CountedRule:
    """Ids count every update: a delta starts where the one before ended, plus one."""

    name = "counted"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if last <= snapshot_id:
            return Verdict.DROP
        return Verdict.APPLY if first <= snapshot_id + 1 else Verdict.GAP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if first == book_id + 1:
            return Verdict.APPLY
        return Verdict.DROP if last <= book_id else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        return snapshot_id + 1 < first


class LinkedRule:
    """Ids jump, shared with other symbols; a delta names the last id of the one before."""

    name = "linked"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        assert prev is not None
        if last < snapshot_id:
            return Verdict.DROP
        return Verdict.APPLY if prev <= snapshot_id else Verdict.GAP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if prev == book_id:
            return Verdict.APPLY
        return Verdict.DROP if last <= book_id else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        assert prev is not None
        return snapshot_id < prev


def make(
    rule: SequenceRule | None = None, *, levels: int = 5, limit: int = 100, max_levels: int | None = None
) -> OrderBookBuilder:
    return OrderBookBuilder(
        OrderBook(max_levels=max_levels), rule or CountedRule(), snapshot_levels=levels, buffer_limit=limit
    )


BIDS: Levels = [(10.0 - i, 1.0) for i in range(5)]
ASKS: Levels = [(11.0 + i, 1.0) for i in range(5)]


def live(at: int = 100, **options: object) -> OrderBookBuilder:
    builder = make(**options)  # type: ignore[arg-type]
    builder.start()
    builder.snapshot_requested()
    assert builder.snapshot(at, BIDS, ASKS).live
    return builder


def give(
    builder: OrderBookBuilder, first: int, last: int, bids: Levels | None = None, asks: Levels | None = None
) -> Applied:
    result = builder.delta(first, last, None, bids or [], asks or [], last * 1000)
    builder.check()
    return result


def test_a_book_goes_live_with_the_snapshot_even_when_no_delta_came() -> None:
    builder = make()
    assert (builder.state, builder.needs_snapshot) == (BookState.EMPTY, False)
    builder.start()
    assert (builder.state, builder.needs_snapshot) == (BookState.SYNCING, True)
    builder.snapshot_requested()
    assert not builder.needs_snapshot
    result = builder.snapshot(100, BIDS, ASKS, ts_event=7)
    assert (result.accepted, result.live, result.replayed) == (True, True, [])
    assert (builder.state, builder.epoch, builder.last_id, builder.book.ts_event) == (BookState.LIVE, 100, 100, 7)
    assert give(builder, 90, 105) is Applied.APPLIED  # straddles: only the first delta may
    assert give(builder, 106, 107) is Applied.APPLIED
    assert give(builder, 107, 108) is Applied.GAP


def test_the_first_delta_may_start_right_after_the_snapshot() -> None:
    assert give(live(), 101, 101) is Applied.APPLIED


def test_buffered_deltas_are_replayed_after_the_snapshot_and_older_ones_dropped() -> None:
    builder = make()
    builder.start()
    for first, last in ((91, 95), (96, 103), (104, 104)):
        assert give(builder, first, last, [(10.0 + first / 1e6, 1.0)]) is Applied.BUFFERED
    result = builder.snapshot(100, BIDS, ASKS)
    assert [delta[:2] for delta in result.replayed] == [(96, 103), (104, 104)]
    assert (builder.last_id, builder.book.ts_event, builder.buffered) == (104, 104_000, 0)
    assert builder.book.best_bid == (10.000104, 1.0)
    assert give(builder, 105, 105) is Applied.APPLIED


def test_a_snapshot_older_than_the_buffer_is_refused_and_asked_for_again() -> None:
    builder = make()
    builder.start()
    give(builder, 102, 110)
    builder.snapshot_requested()
    result = builder.snapshot(100, BIDS, ASKS)
    assert (result.accepted, result.live) == (False, False)
    assert "ends before the first buffered delta 102" in result.reason
    assert builder.needs_snapshot
    assert len(builder.book) == 0
    builder.snapshot_requested()
    assert builder.snapshot(101, BIDS, ASKS).live  # starts at exactly the next id: no hole


def test_a_gap_makes_the_book_stale_but_readable_until_a_new_snapshot() -> None:
    builder = live()
    give(builder, 101, 105, [(10.5, 1.0)])
    assert give(builder, 107, 108, [(10.6, 1.0)]) is Applied.GAP
    assert (builder.state, builder.gap_reason, builder.needs_snapshot) == (BookState.STALE, "sequence", True)
    assert builder.detail == "the book ends at 105, the next delta has first 107 and previous None"
    assert builder.book.best_bid == (10.5, 1.0)
    assert give(builder, 109, 110) is Applied.BUFFERED
    builder.snapshot_requested()
    assert not builder.snapshot(105, BIDS, ASKS).accepted
    assert builder.state is BookState.STALE
    assert builder.book.best_bid == (10.5, 1.0)
    result = builder.snapshot(106, BIDS, ASKS)
    assert [delta[:2] for delta in result.replayed] == [(107, 108), (109, 110)]
    assert (builder.state, builder.epoch, builder.book.best_bid) == (BookState.LIVE, 106, (10.6, 1.0))
    assert (builder.gaps, builder.resyncs, builder.refused) == (1, 2, 1)


def test_repeats_are_dropped_live_and_buffered() -> None:
    builder = live()
    give(builder, 101, 105)
    assert give(builder, 101, 105) is Applied.DROPPED
    assert give(builder, 90, 99) is Applied.DROPPED
    builder.disconnected()
    builder.start()
    assert give(builder, 110, 112) is Applied.BUFFERED
    assert give(builder, 110, 112) is Applied.DROPPED
    assert (builder.dropped, builder.buffered) == (3, 1)


def test_a_reordered_pair_is_a_gap_and_heals_with_one_snapshot() -> None:
    builder = live()
    assert give(builder, 103, 104) is Applied.GAP
    assert give(builder, 101, 102) is Applied.DROPPED
    assert builder.snapshot(102, BIDS, ASKS).live
    assert builder.last_id == 104


def test_a_hole_in_the_buffer_makes_what_came_before_it_useless() -> None:
    builder = make()
    builder.start()
    give(builder, 101, 102)
    give(builder, 105, 106)
    assert builder.buffered == 1
    assert not builder.snapshot(101, BIDS, ASKS).accepted
    assert builder.snapshot(104, BIDS, ASKS).live


def test_a_full_buffer_drops_the_oldest_and_refuses_snapshots_that_needed_it() -> None:
    builder = make(limit=3)
    builder.start()
    for i in range(101, 106):
        give(builder, i, i)
    assert (builder.buffered, builder.overflowed) == (3, 2)
    assert not builder.snapshot(100, BIDS, ASKS).accepted
    assert builder.snapshot(102, BIDS, ASKS).live
    assert builder.last_id == 105


@pytest.mark.parametrize("bad", [(nan, 1.0), (1.0, nan), (-1.0, 1.0), (1.0, -1.0), (float("inf"), 1.0)])
def test_a_malformed_delta_loses_the_book_and_changes_nothing(bad: tuple[float, float]) -> None:
    builder = live()
    assert give(builder, 101, 101, [(10.5, 1.0), bad]) is Applied.GAP
    assert (builder.state, builder.gap_reason, builder.malformed) == (BookState.STALE, "malformed", 1)
    assert "cannot exist" in builder.detail
    assert builder.book.bids() == BIDS
    assert give(builder, 102, 102) is Applied.BUFFERED
    assert give(builder, 103, 103, [], [bad]) is Applied.DROPPED
    assert builder.buffered == 0
    assert give(builder, 104, 104) is Applied.BUFFERED
    assert not builder.snapshot(102, BIDS, ASKS).accepted
    result = builder.snapshot(103, [*BIDS, bad], ASKS)
    assert not result.accepted
    assert "cannot exist" in result.reason
    assert builder.needs_snapshot
    assert builder.snapshot(103, BIDS, ASKS).live


def test_a_disconnect_makes_stale_and_asks_only_after_start() -> None:
    builder = live()
    builder.disconnected("closed by the server")
    assert (builder.state, builder.gap_reason, builder.needs_snapshot) == (
        BookState.STALE,
        "closed by the server",
        False,
    )
    assert builder.book.bids() == BIDS
    result = builder.snapshot(200, BIDS, ASKS)
    assert (result.accepted, result.reason) == (False, "the stream is not subscribed")
    assert not builder.needs_snapshot
    builder.start()
    assert (builder.state, builder.needs_snapshot) == (BookState.STALE, True)
    assert builder.snapshot(200, BIDS, ASKS).live
    builder.start()  # a repeated start of a live book does nothing
    assert (builder.state, builder.needs_snapshot) == (BookState.LIVE, False)


def test_ids_that_began_anew_are_believed_after_three_refusals_or_a_reset() -> None:
    builder = live(1000)
    builder.disconnected()
    builder.start()
    answers = [builder.snapshot(5, BIDS, ASKS) for _ in range(4)]
    assert [answer.accepted for answer in answers] == [False, False, False, True]
    assert "older than the last good book at 1000" in answers[0].reason
    assert builder.last_id == 5
    builder = live(1000)
    builder.reset("ids began anew")
    assert (builder.state, builder.gap_reason, builder.needs_snapshot) == (BookState.STALE, "ids began anew", True)
    assert builder.snapshot(5, BIDS, ASKS).live


def test_a_snapshot_nobody_asked_for_never_moves_a_live_book_backwards() -> None:
    builder = live()
    give(builder, 101, 105)
    result = builder.snapshot(104, BIDS, ASKS)
    assert (result.accepted, result.live, builder.last_id) == (False, True, 105)
    assert not builder.needs_snapshot
    builder = make()
    assert not builder.snapshot(1, BIDS, ASKS).accepted  # before any start
    assert builder.state is BookState.EMPTY


def deep_live() -> OrderBookBuilder:
    bids, asks = [(1000.0 - i, 1.0) for i in range(40)], [(1001.0 + i, 1.0) for i in range(40)]
    builder = make(levels=40)
    builder.start()
    assert builder.snapshot(100, bids, asks).live
    return builder


def test_a_refresh_is_asked_for_when_known_levels_run_low_and_the_book_stays_live() -> None:
    builder = deep_live()
    at = 100
    while not builder.needs_snapshot:
        at += 1
        assert give(builder, at, at, [(builder.book.best_bid[0], 0.0)]) is Applied.APPLIED  # type: ignore[index]
    assert builder.book.known_depth[0] == 9  # fewer than a quarter of the forty
    assert builder.state is BookState.LIVE
    builder.snapshot_requested()
    give(builder, at + 1, at + 1, [(970.5, 2.0)])
    give(builder, at + 2, at + 2, [(970.6, 3.0)])
    bids = [(970.5, 2.0), *((970.0 - i, 1.0) for i in range(39))]
    result = builder.snapshot(at + 1, bids, builder.book.asks())
    assert [delta[:2] for delta in result.replayed] == [(at + 2, at + 2)]
    assert (builder.last_id, builder.epoch, builder.state) == (at + 2, 100, BookState.LIVE)
    assert builder.book.bids(2) == [(970.6, 3.0), (970.5, 2.0)]
    assert builder.book.known_depth == (41, 40)
    assert builder.gaps == 0
    assert give(builder, at + 3, at + 3) is Applied.APPLIED


def test_a_refresh_that_is_too_old_leaves_the_live_book_alone() -> None:
    builder = deep_live()
    give(builder, 101, 130, [(1000.0 - i, 0.0) for i in range(35)])
    assert builder.needs_snapshot
    builder.snapshot_requested()
    for stale in (100, 129):
        result = builder.snapshot(stale, BIDS, ASKS)
        assert (result.accepted, result.live) == (False, True)
        assert builder.needs_snapshot
    give(builder, 131, 131)
    assert not builder.snapshot(129, BIDS, ASKS).accepted
    assert builder.book.bids(1) == [(965.0, 1.0)]
    builder.snapshot_failed()
    assert builder.needs_snapshot
    builder.snapshot_requested()
    assert builder.snapshot(140, [(965.0, 1.0)], [(1001.0, 1.0)]).live  # ahead of the stream
    assert give(builder, 132, 135) is Applied.APPLIED
    assert give(builder, 136, 141) is Applied.APPLIED
    assert (builder.last_id, builder.epoch, builder.book.bids(1)) == (141, 100, [(965.0, 1.0)])


def test_a_touch_that_leaves_the_known_range_makes_the_book_stale() -> None:
    builder = live()
    give(builder, 101, 101, [(3.0, 9.0)])  # beyond the snapshot: nobody knows what lies between
    assert give(builder, 102, 102, [(price, 0.0) for price, _ in BIDS]) is Applied.GAP
    assert (builder.state, builder.gap_reason, builder.needs_snapshot) == (BookState.STALE, "known_range", True)
    assert builder.book.best_bid == (3.0, 9.0)
    assert (builder.last_id, builder.book.ts_event) == (101, 101_000)  # the last good delta
    assert give(builder, 103, 103, [(3.5, 1.0)]) is Applied.BUFFERED
    result = builder.snapshot(101, [(4.0, 1.0), *((3.0 - i / 10, 1.0) for i in range(4))], ASKS)
    assert [delta[:2] for delta in result.replayed] == [(102, 102), (103, 103)]
    assert builder.book.best_bid == (4.0, 1.0)


def test_a_crossed_book_is_lost_though_its_ids_chain() -> None:
    builder = deep_live()
    assert give(builder, 101, 101, [(1000.5, 1.0)]) is Applied.APPLIED
    assert give(builder, 102, 102, [(1001.0, 1.0)]) is Applied.GAP  # the best ask
    assert (builder.state, builder.gap_reason, builder.needs_snapshot) == (BookState.STALE, "crossed", True)
    assert builder.last_id == 101  # the gap starts at the last good delta
    crossed = builder.snapshot(102, [(1002.0, 1.0)], [(1001.0, 1.0)])
    assert (crossed.accepted, crossed.live, builder.state) == (True, False, BookState.STALE)
    assert builder.snapshot(103, [(1000.0, 1.0)], [(1001.0, 1.0)]).live
    builder.check()


def test_what_a_refresh_under_way_had_buffered_survives_the_loss_of_the_range() -> None:
    builder = deep_live()
    give(builder, 101, 130, [(1000.0 - i, 0.0) for i in range(35)])
    builder.snapshot_requested()
    give(builder, 131, 131, [(950.0, 1.0)])
    assert give(builder, 132, 132, [(price, 0.0) for price, _ in builder.book.bids(5)]) is Applied.GAP
    assert (builder.state, builder.buffered) == (BookState.STALE, 2)
    result = builder.snapshot(130, [(965.0 - i, 1.0) for i in range(40)], builder.book.asks())
    assert result.live
    assert [delta[:2] for delta in result.replayed] == [(131, 131), (132, 132)]
    assert builder.book.best_bid == (960.0, 1.0)


def test_an_emptied_side_of_a_complete_book_is_not_a_loss() -> None:
    builder = live(levels=6)  # five levels a side of at most six: complete
    assert give(builder, 101, 101, [(price, 0.0) for price, _ in BIDS]) is Applied.APPLIED
    assert builder.book.best_bid is None
    assert builder.book.known_depth == (0, 5)
    assert builder.state is BookState.LIVE


def test_a_side_of_known_levels_that_is_eaten_up_is_a_loss() -> None:
    assert give(live(), 101, 101, [], [(price, 0.0) for price, _ in ASKS]) is Applied.GAP


def test_a_refresh_ahead_of_the_stream_waits_for_it_so_that_no_delta_is_left_out() -> None:
    builder = make(levels=5)
    builder.start()
    builder.snapshot(100, BIDS, ASKS)
    for n, price in enumerate((10.0, 9.0, 8.0, 7.0)):
        assert builder.delta(101 + n, 101 + n, None, [(price, 0.0)], [], n) is Applied.APPLIED
    builder.snapshot_requested()
    deeper = [(6.0, 2.0), (5.0, 1.0), (4.0, 1.0), (3.0, 1.0), (2.0, 1.0)]
    result = builder.snapshot(107, deeper, ASKS)
    assert (result.accepted, result.live, result.replayed) == (True, True, [])
    assert (builder.last_id, builder.book.bids()) == (104, [(6.0, 1.0)])
    builder.check()
    applied = [builder.delta(n, n, None, [(6.0, 2.0)], [], n) for n in (105, 106)]
    assert builder.book.bids() == [(6.0, 2.0)]
    applied.append(builder.delta(107, 108, None, [(6.0, 2.0), (1.0, 1.0)], [], 107))  # reaches it, and goes beyond
    assert applied == [Applied.APPLIED] * 3
    assert (builder.last_id, builder.epoch, builder.book.bids()) == (108, 100, [*deeper, (1.0, 1.0)])
    builder.check()


def test_a_refresh_ahead_of_the_stream_is_forgotten_with_the_book() -> None:
    builder = make(levels=5)
    builder.start()
    builder.snapshot(100, BIDS, ASKS)
    for n, price in enumerate((10.0, 9.0, 8.0, 7.0)):
        builder.delta(101 + n, 101 + n, None, [(price, 0.0)], [], n)
    builder.snapshot_requested()
    builder.snapshot(107, BIDS, ASKS)
    assert builder.delta(109, 109, None, [(6.0, 2.0)], [], 9) is Applied.GAP
    builder.check()
    builder.snapshot_requested()
    assert builder.snapshot(109, BIDS, ASKS).live
    assert (builder.last_id, builder.epoch, builder.book.bids()) == (109, 109, BIDS)


def test_a_snapshot_of_the_stream_replaces_any_book_whatever_its_id() -> None:
    builder = make()
    assert not builder.replace(9, BIDS, ASKS, ts_event=1).accepted  # nobody subscribed
    builder.start()
    builder.delta(500, 500, None, [(9.0, 2.0)], [], 5)
    result = builder.replace(100, BIDS, ASKS, ts_event=7)
    assert (result.accepted, result.live, builder.epoch, builder.last_id) == (True, True, 100, 100)
    assert (builder.buffered, builder.needs_snapshot, builder.book.ts_event) == (0, False, 7)
    assert builder.delta(101, 101, None, [(9.5, 1.0)], [], 8) is Applied.APPLIED
    assert builder.replace(3, BIDS[:2], ASKS[:2], ts_event=9).live  # ids began anew
    assert (builder.epoch, builder.last_id, builder.book.bids()) == (3, 3, BIDS[:2])
    assert builder.delta(4, 4, None, [(9.5, 1.0)], [], 10) is Applied.APPLIED
    builder.check()


@pytest.mark.parametrize("bad", [(1.0, -1.0), (nan, 1.0), (0.0, 1.0)])
def test_a_bad_snapshot_of_the_stream_changes_nothing_and_asks_again(bad: tuple[float, float]) -> None:
    builder = make()
    builder.start()
    builder.snapshot_requested()
    assert not builder.replace(1, [bad], [], ts_event=1).accepted
    assert (builder.state, builder.needs_snapshot) == (BookState.SYNCING, True)
    builder.replace(2, BIDS, ASKS, ts_event=2)
    assert not builder.replace(3, [bad], [], ts_event=3).accepted
    assert (builder.state, builder.last_id, builder.needs_snapshot) == (BookState.LIVE, 2, False)
    crossed = builder.replace(4, [(12.0, 1.0)], ASKS, ts_event=4)
    assert (crossed.accepted, crossed.live, builder.gap_reason) == (True, False, "crossed")
    assert (builder.state, builder.needs_snapshot) == (BookState.STALE, True)
    builder.check()


def test_bad_options_are_refused() -> None:
    with pytest.raises(UsageError):
        make(levels=0)
    with pytest.raises(UsageError):
        make(limit=0)


# -- random faults against the truth ---------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    first: int
    last: int
    prev: int
    bids: Levels
    asks: Levels


class Exchange:
    """The truth: single updates with ids, messages that merge some of them, snapshots as of any id."""

    def __init__(self, jumps: bool) -> None:
        self.jumps = jumps
        self.rng = random.Random(0)
        self.mid = 1000
        self.ids: list[int] = []
        self.updates: list[tuple[int, float, float]] = []  # side, price, quantity
        self.last = 0  # id of the last message
        self._extend(120)
        self.last = self.ids[-1]

    def _extend(self, count: int) -> None:
        for _ in range(count):
            side = self.rng.choice((-1, 1))
            price = float(self.mid + side * self.rng.randint(1, 25))
            quantity = 0.0 if self.rng.random() < 0.4 else float(self.rng.randint(1, 9))
            at = (self.ids[-1] if self.ids else 0) + (self.rng.randint(1, 4) if self.jumps else 1)
            self.ids.append(at)
            self.updates.append((side, price, quantity))

    def message(self, count: int, move: int) -> Message:
        start = len(self.ids)
        self.mid += move
        for side in (-1, 1):  # what the mid walked over is deleted first, as an exchange does
            for price in self.at(self.ids[-1])[side]:
                if (price - self.mid) * side <= 0:
                    self.ids.append(self.ids[-1] + 1)
                    self.updates.append((side, price, 0.0))
        self._extend(count)
        sides: dict[int, dict[float, float]] = {-1: {}, 1: {}}
        for side, price, quantity in self.updates[start:]:
            sides[side][price] = quantity
        made = Message(self.ids[start], self.ids[-1], self.last, list(sides[-1].items()), list(sides[1].items()))
        self.last = made.last
        return made

    def at(self, number: int) -> dict[int, dict[float, float]]:
        book: dict[int, dict[float, float]] = {-1: {}, 1: {}}
        for at, (side, price, quantity) in zip(self.ids, self.updates, strict=True):
            if at > number:
                break
            if quantity:
                book[side][price] = quantity
            else:
                book[side].pop(price, None)
        return book

    def levels(self, number: int) -> tuple[Levels, Levels]:
        book = self.at(number)
        return sorted(book[-1].items(), reverse=True), sorted(book[1].items())


class FaultMachine(CountedSteps):
    jumps = False
    sequence: SequenceRule = CountedRule()
    depth = 10

    def __init__(self) -> None:
        super().__init__()
        self.exchange = Exchange(self.jumps)
        self.builder = make(self.sequence, levels=self.depth, limit=6, max_levels=24)
        self.sent: list[Message] = []
        self.held: list[Message] = []
        self.builder.start()

    def deliver(self, message: Message) -> None:
        builder = self.builder
        state, before = builder.state, builder.last_id
        result = builder.delta(
            message.first, message.last, message.prev, message.bids, message.asks, message.last * 1000
        )
        if state is not BookState.LIVE:
            assert result in (Applied.BUFFERED, Applied.DROPPED)
            assert builder.last_id == before
        elif message.prev > before:  # anything between is missing: noticed at this very message
            assert result is Applied.GAP
            assert (builder.state, builder.last_id) == (BookState.STALE, before)
        elif message.last < before or (message.last == before and result is not Applied.APPLIED):
            assert result is Applied.DROPPED
        elif result is Applied.GAP:
            assert builder.gap_reason == "known_range"
            assert builder.last_id == before
        else:
            assert result is Applied.APPLIED
            assert builder.last_id == message.last
            assert builder.book.ts_event == message.last * 1000

    def snapshot(self, number: int) -> bool:
        builder = self.builder
        state, before = builder.state, builder.last_id
        unbroken, epoch = state is BookState.LIVE, builder.epoch
        bids, asks = self.exchange.levels(number)
        result = builder.snapshot(number, bids[: self.depth], asks[: self.depth])
        assert result.live == (builder.state is BookState.LIVE)
        if not result.accepted:
            assert (builder.state, builder.last_id) == (state, before)
            assert builder.needs_snapshot or not builder._open or state is BookState.LIVE
        elif result.live:
            assert builder.epoch == (epoch if unbroken else number)  # a refresh keeps the epoch
            assert builder.last_id == max([number, *(delta[1] for delta in result.replayed)])
            assert all(later[2] == earlier[1] for earlier, later in pairwise(result.replayed))
            if state is BookState.LIVE:
                assert builder.last_id >= before
        return result.live

    @rule(count=st.integers(1, 12), move=st.sampled_from([0, 0, 0, 1, -1, 4, -4, 15, -15]), seed=st.integers(0, 2**32))
    def send(self, count: int, move: int, seed: int) -> None:
        self.exchange.rng.seed(seed)
        message = self.exchange.message(count, move)
        self.sent.append(message)
        self.deliver(message)

    @rule(count=st.integers(1, 12), move=st.sampled_from([0, 1, -2]))
    def lose(self, count: int, move: int) -> None:
        self.sent.append(self.exchange.message(count, move))

    @rule(count=st.integers(1, 12))
    def hold(self, count: int) -> None:
        self.held.append(self.exchange.message(count, 0))
        self.sent.append(self.held[-1])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.deliver(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(1, 4))
    def repeat(self, back: int) -> None:
        self.deliver(self.sent[-min(back, len(self.sent))])

    @rule(count=st.integers(1, 12), bad=st.sampled_from([(nan, 1.0), (5.0, -1.0), (0.0, 1.0)]))
    def tear(self, count: int, bad: tuple[float, float]) -> None:
        message = self.exchange.message(count, 0)
        self.sent.append(message)
        before = self.builder.last_id
        result = self.builder.delta(
            message.first, message.last, message.prev, [*message.bids, bad], message.asks, message.last * 1000
        )
        assert result in (Applied.GAP, Applied.DROPPED)
        assert self.builder.last_id == before

    @rule()
    def request(self) -> None:
        if self.builder.needs_snapshot:
            self.builder.snapshot_requested()

    @rule(age=st.one_of(st.just(0), st.integers(0, 60)))
    def answer(self, age: int) -> None:
        ids = self.exchange.ids
        self.snapshot(ids[-1 - min(age, len(ids) - 1)])

    @rule()
    def fail(self) -> None:
        self.builder.snapshot_failed()

    @rule()
    def disconnect(self) -> None:
        self.builder.disconnected()
        self.held.clear()

    @rule()
    def start(self) -> None:
        self.builder.start()

    @rule()
    def reset(self) -> None:
        self.builder.reset("asked for")

    @invariant()
    def a_live_book_is_the_truth(self) -> None:
        builder = self.builder
        builder.check()
        if builder.state is not BookState.LIVE:
            return
        bids, asks = self.exchange.levels(builder.last_id)
        known_bids, known_asks = builder.book.known_depth
        assert builder.book.bids(known_bids) == bids[:known_bids]
        assert builder.book.asks(known_asks) == asks[:known_asks]
        assert known_bids or not bids
        assert known_asks or not asks
        assert not builder.book.crossed

    def teardown(self) -> None:
        """When the faults end, one subscription, one snapshot and the next message make the book good."""
        builder = self.builder
        if builder.state is not BookState.LIVE:
            builder.start()
            assert builder.needs_snapshot
            builder.snapshot_requested()
            self.send(5, 0, 1)
            assert self.snapshot(self.exchange.ids[-1])
        lost = builder.last_id != self.exchange.last
        self.send(5, 0, 2)
        if lost:
            assert builder.state is BookState.STALE
        else:
            assert builder.state is BookState.LIVE or builder.gap_reason == "known_range"
        self.a_live_book_is_the_truth()
        super().teardown()


@pytest.mark.parametrize("linked", [False, True])
def test_random_faults_weighted_like_a_bad_day_leave_every_live_book_true(linked: bool) -> None:
    rng = random.Random(11 + linked)
    lives = gaps = refreshes = 0
    for _ in range(60):
        machine = LinkedFaultMachine() if linked else FaultMachine()
        builder = machine.builder
        for _ in range(80):
            draw = rng.random()
            if draw < 0.6:
                machine.send(rng.randint(1, 12), rng.choice((1, -1, 2, -2, 4, -4, 12)), rng.getrandbits(32))
            elif draw < 0.8:
                refreshes += builder.needs_snapshot and builder.state is BookState.LIVE
                machine.request()
                machine.answer(rng.choice((0, 0, 0, 5, 40)))
            elif draw < 0.84:
                machine.lose(rng.randint(1, 12), 0)
            elif draw < 0.88:
                machine.hold(3)
            elif draw < 0.92 and machine.held:
                machine.deliver(machine.held.pop(rng.randrange(len(machine.held))))
            elif draw < 0.95 and machine.sent:
                machine.repeat(rng.randint(1, 4))
            elif draw < 0.97:
                machine.tear(3, (nan, 1.0))
            elif draw < 0.98:
                machine.disconnect()
            else:
                machine.start()
            machine.a_live_book_is_the_truth()
            lives += builder.state is BookState.LIVE
        gaps += builder.gaps
        machine.teardown()
    assert lives > 1000  # the faults neither hide the book nor spare it
    assert gaps > 100
    assert refreshes >= 3


class LinkedFaultMachine(FaultMachine):
    jumps = True
    sequence = LinkedRule()


def test_faults_of_counted_streams() -> None:
    run_state_machine_as_test(FaultMachine, settings=MACHINES)


def test_faults_of_linked_streams() -> None:
    run_state_machine_as_test(LinkedFaultMachine, settings=MACHINES)


MACHINES = settings(max_examples=amount(60, 250), stateful_step_count=40, deadline=None)
