"""The connection's sequence and the ticker guard, as tables and over random streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_coinbase.sync import ConnectionSequence, FrameVerdict, TickerGuard

SECOND = 1_000_000_000
NEXT, REPEAT, HOLE, RESET = FrameVerdict.NEXT, FrameVerdict.REPEAT, FrameVerdict.HOLE, FrameVerdict.RESET


@pytest.mark.parametrize(
    ("numbers", "verdicts"),
    [
        ((0, 1, 2), (NEXT, NEXT, NEXT)),
        ((1,), (HOLE,)),  # the first frame of a connection is number 0
        ((0, 2, 3), (NEXT, HOLE, NEXT)),
        ((0, 1, 1, 2), (NEXT, NEXT, REPEAT, NEXT)),
        ((0, 2, 1, 3), (NEXT, HOLE, REPEAT, NEXT)),  # late behind its hole
        ((0, 1, 2, 3, 4, 5, 0, 1, 2, 3), (NEXT,) * 6 + (REPEAT, REPEAT, RESET, NEXT)),
        ((0, 1, 2, 3, 0, 3, 1, 4), (NEXT,) * 4 + (REPEAT,) * 3 + (NEXT,)),
    ],
)
def test_verdicts(numbers: tuple[int, ...], verdicts: tuple[FrameVerdict, ...]) -> None:
    sequence = ConnectionSequence()
    assert tuple(sequence.judge(n) for n in numbers) == verdicts


def test_a_new_connection_counts_from_zero() -> None:
    sequence = ConnectionSequence()
    for n in range(5):
        sequence.judge(n)
    sequence.reset()
    assert [sequence.judge(n) for n in (0, 1)] == [NEXT, NEXT]


@given(st.integers(2, 60), st.sets(st.integers(0, 58), max_size=10))
def test_every_run_of_missing_frames_is_one_hole(count: int, lost: set[int]) -> None:
    sequence = ConnectionSequence()
    lost = {n for n in lost if n < count - 1}  # a hole at the end cannot be seen
    verdicts = {n: sequence.judge(n) for n in range(count) if n not in lost}
    for n, verdict in verdicts.items():
        assert verdict is (HOLE if n - 1 in lost else NEXT)


@given(st.lists(st.integers(0, 30), max_size=60))
def test_whatever_comes_last_never_falls_but_by_a_reset(numbers: list[int]) -> None:
    sequence = ConnectionSequence()
    for number in numbers:
        before = sequence.last
        verdict = sequence.judge(number)
        if verdict is REPEAT:
            assert sequence.last == before >= number
        elif verdict is RESET:
            assert sequence.last == number < before
        else:
            assert sequence.last == number
            assert (verdict is NEXT) == (number == before + 1)


# The guard


def test_a_ticker_agrees_with_a_recent_or_a_later_book() -> None:
    guard = TickerGuard(10 * SECOND)
    for n in range(5):
        guard.book(100 + n, 101 + n)
    guard.ticker(101, 102, SECOND)  # three updates ago
    assert guard.agreed == 1
    guard.ticker(200, 201, SECOND)
    guard.ticker(201, 202, 2 * SECOND)
    guard.book(201, 202)
    assert guard.agreed == 2
    assert not guard.wrong(10**18)
    guard.check()


def test_a_book_that_never_meets_the_ticker_is_wrong_after_the_limit() -> None:
    guard = TickerGuard(10 * SECOND)
    guard.book(100, 101)
    guard.ticker(90, 91, SECOND)
    guard.ticker(90, 91, 20 * SECOND)
    assert not guard.wrong(30 * SECOND)  # two tickers prove nothing
    guard.ticker(90, 92, 20 * SECOND)
    assert guard.wrong(11 * SECOND)
    assert not guard.wrong(10 * SECOND)
    guard.lost(by_ticker=True)
    assert not guard.wrong(10**18)
    guard.check()


def test_the_limit_doubles_until_a_ticker_agrees() -> None:
    guard = TickerGuard(10 * SECOND)
    now = 0
    limits = []
    for _ in range(9):
        guard.book(100, 101)
        started = now = now + SECOND
        while not guard.wrong(now):
            guard.ticker(90, 91, now)
            now += SECOND
        limits.append((now - started) // SECOND)
        guard.lost(by_ticker=True)
        guard.check()
    assert limits == [10, 20, 40, 80, 160, 320, 640, 640, 640]
    guard.book(100, 101)
    guard.ticker(100, 101, now)
    for n in range(3):
        guard.ticker(90, 91, now + n)
    assert guard.wrong(now + 10 * SECOND)


def test_empty_sides_and_a_book_without_state_say_nothing() -> None:
    guard = TickerGuard(1)
    for _ in range(5):
        guard.ticker(90, 91, SECOND)
    guard.book(100, 101)
    for _ in range(5):
        guard.ticker(0, 91, SECOND)
        guard.ticker(90, 0, SECOND)
    assert not guard.wrong(10**18)


PRICES = st.integers(1, 4).map(float)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("book"), PRICES),
            st.tuples(st.just("ticker"), PRICES),
            st.tuples(st.just("lost"), st.booleans()),
        ),
        max_size=40,
    )
)
def test_invariants_hold_over_any_order(steps: list[tuple[str, float]]) -> None:
    guard = TickerGuard(3 * SECOND)
    for n, (kind, value) in enumerate(steps, 1):
        if kind == "book":
            guard.book(value, value + 10)
        elif kind == "ticker":
            guard.ticker(value, value + 10, n * SECOND)
        else:
            guard.lost(by_ticker=bool(value))
        guard.check()
        if guard.wrong(n * SECOND):
            assert len([s for s in steps[:n] if s[0] == "ticker"]) >= 3
