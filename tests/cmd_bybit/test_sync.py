"""The rule of continuity and the best bid and offer, as tables and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_bybit.sync import BookRule, Top, replaces
from cmd_common.builder import Applied, OrderBookBuilder
from cmd_common.orderbook import OrderBook
from cmd_common.sequence import Verdict

RULE = BookRule()


@pytest.mark.parametrize(
    ("book", "u", "verdict"),
    [
        (100, 101, Verdict.APPLY),
        (100, 100, Verdict.DROP),
        (100, 99, Verdict.DROP),
        (100, 102, Verdict.GAP),
        (0, 1, Verdict.APPLY),
    ],
)
def test_rule(book: int, u: int, verdict: Verdict) -> None:
    assert RULE.next(book, u, u, None) is verdict
    assert RULE.first(book, u, u, None) is verdict
    assert RULE.too_old(book, u, u, None) is (verdict is Verdict.GAP)


@pytest.mark.parametrize(
    ("type_", "u", "whole"), [("snapshot", 7, True), ("delta", 7, False), ("delta", 1, True), ("snapshot", 1, True)]
)
def test_what_replaces_a_book(type_: str, u: int, whole: bool) -> None:
    assert replaces(type_, u) is whole


@given(st.sets(st.integers(1, 30)), st.lists(st.integers(0, 30), max_size=20))
def test_a_book_is_live_exactly_while_no_message_is_missing(lost: set[int], repeats: list[int]) -> None:
    builder = OrderBookBuilder(OrderBook(), RULE, snapshot_levels=1000)
    builder.start()
    assert builder.replace(1000, [(99.0, 1.0)], [(101.0, 1.0)], ts_event=1).live
    for n in range(1, 31):
        if n in lost:
            continue
        u = 1000 + n
        applied = builder.delta(u, u, None, [(90.0, float(n))], [], u)
        whole = not any(k < n for k in lost)
        assert (applied is Applied.APPLIED) is whole
        for back in repeats[n % 7 :: 7]:
            if whole and back < n:
                old = u - back
                assert builder.delta(old, old, None, [(90.0, 0.0)], [], old) is Applied.DROPPED
        builder.check()
    first = min(lost, default=31)
    assert builder.last_id == 1000 + first - 1
    assert dict(builder.book.bids()).get(90.0) == (float(first - 1) if first > 1 else None)


# The best bid and offer


def test_a_repeated_snapshot_is_no_news() -> None:
    top = Top()
    assert top.snapshot(5, [(99.0, 1.0)], [(101.0, 1.0)])
    assert not top.snapshot(5, [(99.0, 1.0)], [(101.0, 1.0)])
    assert top.snapshot(6, [(99.0, 1.0)], [(101.0, 1.0)])
    assert top.snapshot(1, [], [(101.0, 1.0)])
    assert (top.bid, top.ask) == ((0.0, 0.0), (101.0, 1.0))


def test_deltas_of_level_1() -> None:
    top = Top()
    assert top.delta(6, [(99.0, 1.0)], []) is Verdict.GAP  # nothing to apply it to
    top.snapshot(5, [(99.0, 1.0)], [(101.0, 1.0)])
    assert top.delta(6, [(99.0, 0.0), (98.0, 2.0)], []) is Verdict.APPLY
    assert (top.bid, top.ask) == ((98.0, 2.0), (101.0, 1.0))
    assert top.delta(7, [(98.5, 3.0), (98.0, 0.0)], [(101.0, 0.0)]) is Verdict.APPLY
    assert (top.bid, top.ask) == ((98.5, 3.0), (0.0, 0.0))
    assert top.delta(7, [(1.0, 1.0)], []) is Verdict.DROP
    assert top.delta(9, [(1.0, 1.0)], []) is Verdict.GAP
    assert top.delta(10, [(1.0, 1.0)], []) is Verdict.GAP  # until the next snapshot
    assert top.snapshot(10, [(99.0, 1.0)], [(101.0, 1.0)])


LEVEL = st.tuples(st.integers(1, 40).map(float), st.integers(1, 5).map(float))


@given(st.lists(st.tuples(LEVEL, LEVEL), min_size=1, max_size=30))
def test_deltas_and_snapshots_tell_the_same(states: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    by_delta, by_snapshot = Top(), Top()
    bid, ask = states[0]
    by_delta.snapshot(100, [bid], [ask])
    for u, (new_bid, new_ask) in enumerate(states, 101):
        changes = []
        for old, new in ((bid, new_bid), (ask, new_ask)):
            gone = [(old[0], 0.0)] if old[0] != new[0] else []
            changes.append([*gone, new] if new != old else [])
        assert by_delta.delta(u, *changes) is Verdict.APPLY
        by_snapshot.snapshot(u, [new_bid], [new_ask])
        assert (by_delta.bid, by_delta.ask) == (by_snapshot.bid, by_snapshot.ask) == (new_bid, new_ask)
        bid, ask = new_bid, new_ask
