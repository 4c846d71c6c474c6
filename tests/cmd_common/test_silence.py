"""The silence alarm: bounded, blind to its own process standing still, and never of a stream that gives signs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.silence import MARGIN, MOST, SilenceWatch

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
LEAST = 30 * SECOND


def run(watch: SilenceWatch, heard: list[int], until: int, start: int = 0) -> int | None:
    """Look once a second until the alarm; ``heard`` in seconds. The second of the alarm, or None."""
    times = sorted(heard)
    at, last = 0, 0
    for second in range(start, until):
        while at < len(times) and times[at] <= second:
            last = T0 + times[at] * SECOND
            at += 1
        if watch.look(T0 + second * SECOND, last):
            return second
    return None


@given(st.integers(1, 900), st.integers(0, 2**30))
def test_a_regular_stream_is_missed_soon_after_it_stops_and_not_before(period: int, seed: int) -> None:
    rng = random.Random(seed)
    heard = [1]
    while len(heard) < 60:
        heard.append(heard[-1] + max(1, round(period * rng.uniform(0.5, 1.5))))
    watch = SilenceWatch(LEAST)
    missed = run(watch, heard, heard[-1] + MOST // SECOND + 3)
    assert missed is not None
    quiet = missed - heard[-1]
    assert quiet >= LEAST // SECOND
    assert quiet <= min(MOST // SECOND, max(LEAST // SECOND, 50 * period)) + 2
    assert quiet >= min(MOST // SECOND, MARGIN * period * 0.5)


@given(st.lists(st.integers(0, 20_000), max_size=40, unique=True))
def test_whatever_was_heard_the_alarm_comes_by_the_bound_and_never_at_once(heard: list[int]) -> None:
    watch = SilenceWatch(LEAST, 5_000 * SECOND)
    missed = run(watch, [h + 1 for h in heard], 40_000)
    if not heard:
        assert missed is None
        return
    assert missed is not None
    before = [h + 1 for h in heard if h + 1 <= missed]
    assert LEAST // SECOND <= missed - max(before) <= 5_002


@given(st.lists(st.integers(0, 3_000), max_size=60, unique=True), st.integers(1, 29), st.integers(0, 2**30))
def test_a_quiet_stream_with_heartbeats_is_never_missed(heard: list[int], beat: int, seed: int) -> None:
    rng = random.Random(seed)
    busy = [*range(1, 60), *(60 + h for h in heard)]  # its limit is as short as can be
    watch = SilenceWatch(LEAST)
    times = set(busy)
    last = alive = 0
    next_beat = 1
    for second in range(1, 4_000):
        if second in times:
            last = T0 + second * SECOND
        if second >= next_beat:
            alive = T0 + second * SECOND
            next_beat = second + rng.randint(1, beat)
        assert not watch.look(T0 + second * SECOND, last, alive)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=14))
def test_standing_still_and_a_clock_that_jumps_are_no_silence(jumps: list[int]) -> None:
    watch = SilenceWatch(LEAST)
    now = T0
    for _ in range(60):
        now += SECOND
        assert not watch.look(now, now)
    last = now
    for jump in jumps:  # each look counts for two seconds at most: 14 looks are less than 30 s
        now += jump * SECOND
        assert not watch.look(now, last)


@given(st.floats(0.02, 2.0), st.integers(0, 2**30))
def test_messages_at_random_at_a_constant_rate_raise_no_alarm(rate: float, seed: int) -> None:
    rng = random.Random(seed)
    heard, at = [], 1.0
    while len(heard) < 400:
        at += rng.expovariate(rate)
        heard.append(int(at))
    assert run(SilenceWatch(LEAST), heard, heard[-1]) is None


def test_it_learns_over_reconnects_and_counts_anew() -> None:
    watch = SilenceWatch(LEAST)
    assert run(watch, list(range(1, 50)), 70) is None
    assert watch.quiet == 20 * SECOND
    limit = watch.limit
    watch.restart()
    assert watch.quiet == 0
    assert watch.limit == limit == LEAST
    assert run(watch, [], 5_000, 100) is None  # never heard since
    with pytest.raises(ValueError, match="0 < least <= most"):
        SilenceWatch(10, 5)
