"""IdTracker against a model: a set of all ids that were accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.continuity import IdTracker


def test_a_hole_is_reported_at_once_and_closed_by_late_ids() -> None:
    tracker = IdTracker()
    assert tracker.judge(10, 100).accept
    opened = tracker.judge(14, 104).opened
    assert opened is not None
    assert (opened.first, opened.last, opened.ts_from, opened.ts_to) == (11, 13, 100, 104)
    assert tracker.judge(12, 102).closed is None
    assert not tracker.judge(12, 102).accept
    assert tracker.judge(11, 101).closed is None
    closed = tracker.judge(13, 103)
    assert closed.accept
    assert closed.closed is opened
    assert not tracker.judge(13, 103).accept
    assert tracker.last == 14


def test_holes_between_the_same_two_times_are_one_hole() -> None:
    tracker = IdTracker()
    tracker.judge(4, 100)
    first = tracker.judge(7, 100).opened
    tracker.judge(8, 100)
    second = tracker.judge(10, 100).opened
    assert second is first  # the row of the first would else be replaced by that of the second
    assert first is not None
    assert (first.first, first.last, first.missing) == (5, 9, [(5, 6), (9, 9)])
    tracker.check()
    third = tracker.judge(12, 101).opened
    assert third is not first
    for id_ in (5, 6):
        assert tracker.judge(id_, 100).closed is None
    assert not tracker.judge(8, 100).accept
    assert tracker.judge(9, 100).closed is first
    tracker.check()


def test_ids_that_begin_anew_are_followed() -> None:
    tracker = IdTracker()
    tracker.judge(1_000_000, 10**12)
    assert not tracker.judge(5, 10**12 + 1).accept  # a repeat
    restarted = tracker.judge(5, 10**12 + 61_000_000_000)
    assert restarted.accept
    assert restarted.restarted
    assert tracker.judge(6, 10**12 + 61_000_000_001).accept
    assert tracker.last == 6


def test_holes_are_forgotten_by_number_and_distance() -> None:
    tracker = IdTracker(window=100, limit=3)
    tracker.judge(0, 0)
    for id_ in range(2, 20, 2):
        tracker.judge(id_, id_)
    tracker.check()
    assert not tracker.judge(1, 1).accept  # forgotten by number
    assert tracker.judge(17, 17).accept
    tracker.judge(500, 500)
    tracker.judge(700, 700)
    assert not tracker.judge(15, 15).accept  # forgotten by distance


@given(st.lists(st.integers(0, 60), max_size=120))
def test_each_id_is_taken_once_and_every_missing_one_is_in_a_reported_hole(ids: list[int]) -> None:
    tracker = IdTracker(window=1000, limit=1000)
    accepted: list[int] = []
    reported: set[int] = set()
    for id_ in ids:
        verdict = tracker.judge(id_, id_)
        tracker.check()
        if verdict.accept:
            accepted.append(id_)
        if verdict.opened is not None:
            reported |= set(range(verdict.opened.first, verdict.opened.last + 1))
        if verdict.closed is not None:
            closed = set(range(verdict.closed.first, verdict.closed.last + 1))
            assert closed <= set(accepted)
            reported -= closed
    assert len(set(accepted)) == len(accepted)
    if ids:
        wanted = {i for i in ids if i >= ids[0]}
        assert set(accepted) == wanted
        missing = set(range(ids[0], max(ids) + 1)) - wanted
        assert missing <= reported


def test_ids_that_something_else_tells_of_are_a_hole_at_the_end() -> None:
    tracker = IdTracker()
    tracker.judge(10, 100)
    hole = tracker.missed(12, 150)
    assert (hole.first, hole.last, hole.ts_from, hole.ts_to) == (11, 12, 100, 150)
    tracker.check()
    assert tracker.judge(13, 160).opened is None
    assert tracker.judge(12, 120).closed is None
    assert tracker.judge(11, 110).closed is hole
    tracker.check()
    with pytest.raises(ValueError, match="not above"):
        tracker.missed(13, 170)
    with pytest.raises(ValueError, match="not above"):
        IdTracker().missed(1, 170)


def test_a_hole_ends_no_earlier_than_it_begins() -> None:
    tracker = IdTracker()
    tracker.judge(10, 100)
    opened = tracker.judge(12, 90).opened
    assert opened is not None
    assert (opened.ts_from, opened.ts_to) == (90, 100)
    hole = tracker.missed(15, 80)
    assert (hole.first, hole.last, hole.ts_from, hole.ts_to) == (13, 15, 80, 90)
