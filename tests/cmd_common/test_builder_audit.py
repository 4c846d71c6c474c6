"""A live book beside a fresh copy of it, both at the same update."""

from __future__ import annotations

import pytest

from cmd_binance.sync import SpotRule
from cmd_common.builder import Applied, Audit, OrderBookBuilder
from cmd_common.orderbook import Level, OrderBook
from cmd_common.sequence import BookState

Levels = list[Level]
BIDS: Levels = [(10.0 - i, 1.0) for i in range(5)]
ASKS: Levels = [(11.0 + i, 1.0) for i in range(5)]


def make() -> OrderBookBuilder:
    return OrderBookBuilder(OrderBook(), SpotRule(), snapshot_levels=5)


def live(at: int = 100) -> OrderBookBuilder:
    builder = make()
    builder.start()
    builder.snapshot_requested()
    assert builder.snapshot(at, BIDS, ASKS).live
    return builder


def give(builder: OrderBookBuilder, first: int, last: int, bids: Levels | None = None) -> Applied:
    result = builder.delta(first, last, None, bids or [], [], last * 1000)
    builder.check()
    return result


def under_audit() -> OrderBookBuilder:
    """A live book at 101 whose audit was asked for."""
    builder = live()
    give(builder, 101, 101, [(10.0, 3.0)])
    assert builder.audit()
    assert not builder.audit()  # one at a time
    assert builder.needs_snapshot
    builder.snapshot_requested()
    return builder


def test_an_audit_compares_the_book_with_a_fresh_copy_at_the_same_update() -> None:
    builder = under_audit()
    give(builder, 102, 104, [(9.0, 5.0)])
    fresh = [(10.0, 3.0), (9.0, 9.9), *BIDS[2:]]  # in the middle of that message: it has the old quantity of 9.0
    result = builder.snapshot(103, fresh, ASKS)
    assert (result.live, builder.last_id, builder.epoch) == (True, 104, 100)
    assert builder.audited == Audit(10, 10)
    assert builder.state is BookState.LIVE
    builder.check()
    assert builder.audit()


def test_a_book_that_differs_from_a_fresh_copy_is_lost() -> None:
    builder = under_audit()
    result = builder.snapshot(101, [(10.0, 3.0), (9.5, 1.0), *BIDS[1:4]], ASKS)
    assert (result.accepted, result.live) == (True, False)
    assert builder.audited is not None
    assert (builder.audited.compared, builder.audited.equal, builder.audited.agrees) == (10, 9, False)
    assert (builder.state, builder.gap_reason) == (BookState.STALE, "audit")
    assert builder.needs_snapshot
    builder.check()
    builder.snapshot_requested()
    give(builder, 102, 102, [(9.0, 0.0)])
    assert builder.snapshot(101, [(10.0, 3.0), (9.5, 1.0), *BIDS[1:4]], ASKS).live
    assert (builder.epoch, builder.book.bids(2)) == (101, [(10.0, 3.0), (9.5, 1.0)])


@pytest.mark.parametrize("agrees", [True, False])
def test_an_audit_by_a_copy_that_is_ahead_waits_for_the_stream(agrees: bool) -> None:
    builder = under_audit()
    fresh = [(10.0, 4.0), *BIDS[1:]] if agrees else [(10.0, 9.0), *BIDS[1:]]
    assert builder.snapshot(103, fresh, ASKS).live
    assert builder.audited is None
    assert give(builder, 102, 102) is Applied.APPLIED
    assert give(builder, 103, 103, [(10.0, 4.0)]) is (Applied.APPLIED if agrees else Applied.GAP)
    assert builder.audited is not None
    assert builder.audited.agrees == agrees
    assert (builder.state is BookState.LIVE) == agrees


def test_a_book_that_is_not_live_or_a_refresh_that_nobody_wanted_compared_is_no_audit() -> None:
    assert not make().audit()
    builder = live()
    builder.snapshot_requested()
    assert builder.snapshot(100, [(10.0, 7.0)], ASKS).live
    assert builder.audited is None
    builder = under_audit()
    builder.disconnected()
    assert builder.audited is None
    builder.start()
    builder.snapshot_requested()
    assert builder.snapshot(300, [(10.0, 7.0)], ASKS).live
    assert builder.audited is None


def test_a_quiet_book_keeps_its_epoch_through_any_number_of_audits() -> None:
    builder = live()
    for _ in range(3):
        assert builder.audit()
        builder.snapshot_requested()
        assert builder.snapshot(100, BIDS, ASKS).live
        assert builder.audited == Audit(10, 10)
        assert builder.epoch == 100
        builder.check()
    assert give(builder, 101, 101) is Applied.APPLIED
    assert builder.epoch == 100
