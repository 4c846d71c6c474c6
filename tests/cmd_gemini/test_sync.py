"""Gemini's rule of books, as a table and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.builder import OrderBookBuilder
from cmd_common.orderbook import OrderBook
from cmd_common.sequence import BookState, Verdict
from cmd_gemini.sync import DepthRule, is_snapshot

RULE = DepthRule()
APPLY, DROP, GAP = Verdict.APPLY, Verdict.DROP, Verdict.GAP


@pytest.mark.parametrize(
    ("book", "first", "last", "verdict"),
    [
        (100, 100, 120, APPLY),  # the usual: U equals the u before
        (100, 101, 120, APPLY),  # as elsewhere: right behind it
        (100, 90, 120, APPLY),  # straddles
        (100, 102, 120, GAP),
        (100, 90, 100, DROP),
        (100, 100, 100, DROP),
        (100, 80, 90, DROP),
    ],
)
def test_verdicts(book: int, first: int, last: int, verdict: Verdict) -> None:
    assert RULE.first(book, first, last, None) is verdict
    assert RULE.next(book, first, last, None) is verdict
    assert RULE.too_old(book, first, last, None) is (first > book + 1)


def test_only_one_id_makes_a_snapshot() -> None:
    assert is_snapshot(5, 5)
    assert not is_snapshot(5, 6)


Steps = st.lists(st.integers(2, 50), min_size=2, max_size=30)


@given(Steps, st.sampled_from([0, 1]), st.data())
def test_a_missing_update_shows_at_the_next_one_and_repeats_never_hurt(
    steps: list[int], offset: int, data: st.DataObject
) -> None:
    """``offset`` 0: U equals the u before; 1: it is one more. Ids rise by at least two an update."""
    builder = OrderBookBuilder(OrderBook(), RULE, snapshot_levels=1000)
    builder.start()
    builder.replace(1000, [(1.0, 1.0)], [(2.0, 1.0)], ts_event=1)
    lost = data.draw(st.integers(0, len(steps) - 2))
    last = 1000
    for number, step in enumerate(steps):
        first, last = last + offset, last + step
        if number == lost:
            continue
        repeats = data.draw(st.integers(1, 2))
        for _ in range(repeats):
            builder.delta(first, last, None, [(1.0, float(number + 1))], [], number + 2)
        builder.check()
        assert builder.state is (BookState.LIVE if number < lost else BookState.STALE)
