"""Ids and times of a day, against a model that looks at every id."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cmd_archiver.verify.sequences import Hole, Sequence, fill, holes_between, look, present

S = 1_000_000_000


def seen(ids: list[int], times: list[int] | None = None) -> Sequence:
    times = [i * S for i in ids] if times is None else times
    return look(pa.array(ids, pa.int64()), pa.array(times, pa.int64()))


@given(st.sets(st.integers(0, 300), min_size=1), st.randoms(use_true_random=False))
def test_holes_are_the_ids_that_are_not_there(ids: set[int], rng) -> None:
    mixed = sorted(ids)
    rng.shuffle(mixed)
    one = seen(mixed)
    assert (one.first_id, one.last_id, one.rows, one.duplicates) == (min(ids), max(ids), len(ids), [])
    missing = [n for h in one.holes for n in range(h.first, h.last + 1)]
    if one.dense:
        assert missing == [n for n in range(min(ids), max(ids)) if n not in ids]
        for hole in one.holes:
            assert (hole.ts_from, hole.ts_to) == ((hole.first - 1) * S, (hole.last + 1) * S)
    else:
        assert missing == []


@given(st.sets(st.integers(0, 60), min_size=1), st.sets(st.integers(0, 60)))
def test_a_neighbour_fills_what_it_has(ids: set[int], others: set[int]) -> None:
    whole = [Hole(a + 1, b - 1, 0, 9) for a, b in zip(sorted(ids), sorted(ids)[1:], strict=False) if b > a + 1]
    left = {n for h in fill(whole, seen(sorted(others))) for n in range(h.first, h.last + 1)}
    assert left == {n for n in range(min(ids), max(ids)) if n not in ids | others}


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_ids_are_present_where_some_day_has_them(one: set[int], other: set[int], a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    days = [seen(sorted(one)), seen(sorted(other - one))]
    assert present(days, first, last) == set(range(first, last + 1)).issubset(one | other)


def test_an_id_with_two_times_counts_once() -> None:
    one = seen([1, 2, 2, 3], [S, 2 * S, 5 * S, 6 * S])
    assert (one.duplicates, one.holes, one.rows) == ([(2, 2 * S, 5 * S)], [], 4)


def test_rows_without_ids_have_only_their_times() -> None:
    one = look(pa.array([None, None, None], pa.int64()), pa.array([9_000 * S, 0, 100 * S], pa.int64()))
    assert (one.ids, one.holes, one.first_ts, one.last_ts) == (None, [], 0, 9_000 * S)
    assert look(pa.array([], pa.int64()), pa.array([], pa.int64())).rows == 0


def test_what_lies_between_two_days() -> None:
    assert holes_between(seen([1, 2, 3]), seen([4, 5])) == []
    assert holes_between(seen([1, 2, 3]), seen([3, 4])) == []
    assert holes_between(seen([1, 2, 3]), seen([9])) == [Hole(4, 8, 3 * S, 9 * S)]
    small = seen([1, 2, 3, 4])
    small.shrink()
    assert (small.first_id, small.last_id) == (1, 4)
