"""GapIndex against the plain meaning of gaps, and the list of reasons against its page."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.gaps import (
    KINDS,
    REASONS,
    GapIndex,
    Interval,
    check_incomplete,
    in_safe_order,
    inside_sql,
    is_checked,
    merge,
)
from cmd_common.records import Gap

TIMES = st.integers(0, 30)
SPANS = st.tuples(TIMES, TIMES).map(lambda pair: (min(pair), max(pair)))
GAPS = st.lists(
    st.builds(
        lambda span, symbol, table, repaired: Gap(
            span[0], span[1], "v", symbol, table, "disconnect", "lost", repaired_by=repaired
        ),
        SPANS,
        st.sampled_from(["A", "B", ""]),
        st.sampled_from(["trades", "quotes", ""]),
        st.sampled_from(["", "", "", "rest"]),
    ),
    max_size=12,
)


def standing(gaps: list[Gap], symbol: str, table: str) -> list[Gap]:
    """The open gaps of a stream, the last row of a key counting."""
    last = {(g.symbol, g.record_type, g.ts_from, g.ts_to): g for g in gaps}
    return [g for g in last.values() if not g.repaired_by and g.symbol in (symbol, "") and g.record_type in (table, "")]


@given(GAPS, SPANS)
def test_a_row_is_inside_when_it_is_inside_any_open_gap(gaps: list[Gap], span: tuple[int, int]) -> None:
    index = GapIndex(gaps)
    for symbol in ("A", "B", "C"):
        for table in ("trades", "quotes", "candles"):
            open_ = standing(gaps, symbol, table)
            low, high = span
            assert index.inside("v", symbol, table, low) == any(g.ts_from < low < g.ts_to for g in open_)
            inside = any(low < g.ts_to and high > g.ts_from for g in open_)
            assert index.inside("v", symbol, table, low, high) == inside
            assert not index.inside("w", symbol, table, low, high)


@given(GAPS, SPANS)
def test_complete_means_that_no_gap_touches(gaps: list[Gap], span: tuple[int, int]) -> None:
    index = GapIndex(gaps)
    low, high = span
    touched = any(g.ts_from < high and g.ts_to >= low for g in standing(gaps, "A", "trades"))
    assert index.complete("v", "A", "trades", low, high) == (low == high or not touched)


@given(GAPS)
def test_intervals_are_merged_sorted_and_apart(gaps: list[Gap]) -> None:
    found = GapIndex(gaps).open("v", "A", "trades")
    assert found == sorted(found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    assert merge(found) == found
    lengths = {t for i in found for t in range(i.start * 2 + 1, i.end * 2)}  # in halves: the open interval
    wanted = {t for g in standing(gaps, "A", "trades") for t in range(g.ts_from * 2 + 1, g.ts_to * 2)}
    assert lengths == wanted


@given(GAPS, GAPS)
def test_adding_in_parts_is_adding_at_once(first: list[Gap], second: list[Gap]) -> None:
    parts, whole = GapIndex(first), GapIndex([*first, *second])
    parts.open("v", "A", "trades")
    parts.add(second)
    assert parts.open("v", "A", "trades") == whole.open("v", "A", "trades")
    assert parts.gaps == whole.gaps
    assert len(parts) == len(whole) == len(parts.gaps)


@given(GAPS)
def test_the_count_is_of_merged_intervals_of_each_stream(gaps: list[Gap]) -> None:
    index = GapIndex(gaps)
    assert index.count(["trades"]) == sum(map(len, index.streams("trades").values()))
    assert index.count(["trades", "quotes", "trades"]) == index.count(["trades"]) + index.count(["quotes"])
    assert (index.count(["trades"]) == 0) == all(not standing(gaps, symbol, "trades") for symbol in ("A", "B", ""))


def test_rows_between_two_gaps_that_touch_stay() -> None:
    index = GapIndex([Gap(0, 10, "v", "A", "trades", "x", "lost"), Gap(10, 20, "v", "A", "trades", "x", "lost")])
    assert index.open("v", "A", "trades") == [Interval(0, 10), Interval(10, 20)]
    assert not index.inside("v", "A", "trades", 10)
    assert not index.complete("v", "A", "trades", 10, 11)
    assert index.complete("v", "A", "trades", 21, 30)


def test_words_are_checked() -> None:
    check_incomplete("mark")
    with pytest.raises(UsageError, match=r"unknown word 'all' for incomplete rows; it is keep, mark, drop"):
        check_incomplete("all")
    with pytest.raises(UsageError, match="records cannot be marked as incomplete; read batches"):
        check_incomplete("mark", mark=False)
    assert is_checked("trades")
    assert not is_checked("gaps")
    with pytest.raises(UnknownNameError):
        is_checked("trade")
    assert "c.close_time > g.ts_from" in inside_sql("candles", "c", "g")


def test_every_reason_has_a_cause_and_every_cause_a_reason() -> None:
    assert {r.kind for r in REASONS.values()} == set(KINDS)
    assert all(name == r.name for name, r in REASONS.items())


def test_the_page_lists_the_reasons() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gaps.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (.+) \|$", page, re.M)
    assert rows == [(r.name, r.kind, r.severity, r.meaning) for r in REASONS.values()]


def test_gaps_are_stored_first_then_snapshots_then_the_rest_as_it_comes() -> None:
    assert in_safe_order(["trades", "book_deltas", "gaps", "quotes", "book_snapshots"]) == [
        "gaps",
        "book_snapshots",
        "trades",
        "book_deltas",
        "quotes",
    ]
    assert in_safe_order({"quotes": 1}) == ["quotes"]
    assert in_safe_order([]) == []
