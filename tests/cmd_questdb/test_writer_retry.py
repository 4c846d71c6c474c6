"""The retry loop by a clock of its own: doubled waits with jitter, a cap, and an end."""

from __future__ import annotations

import random

from cmd_questdb.retry import Backoff, RetryPolicy


class Time:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def backoff(policy: RetryPolicy, time: Time) -> Backoff:
    return Backoff(policy, rng=random.Random(3), monotonic=time.monotonic, sleep=time.sleep)


def test_waits_double_with_jitter_up_to_the_cap_and_end_at_the_limit() -> None:
    time = Time()
    pauses = backoff(RetryPolicy(limit=30.0, first=0.1, cap=2.0), time)
    while pauses.pause():
        pass
    assert 28.0 <= time.now - 100.0 <= 30.0
    assert pauses.attempts == len(time.slept)
    for attempt, wait in enumerate(time.slept):
        longest = min(2.0, 0.1 * 2**attempt)
        assert longest / 2 <= wait <= longest
    assert len({round(w, 6) for w in time.slept[6:]}) > 3  # no two writers come back together


def test_a_limit_of_zero_never_waits() -> None:
    time = Time()
    assert not backoff(RetryPolicy(limit=0.0), time).pause()
    assert time.slept == []


def test_time_spent_in_attempts_counts_from_the_first_failure_on() -> None:
    time = Time()
    pauses = backoff(RetryPolicy(limit=10.0, first=1.0), time)
    time.now += 1_000.0  # before the first failure: does not count
    assert pauses.pause()
    time.now += 9.5
    assert not pauses.pause()


def test_many_attempts_do_not_overflow() -> None:
    assert RetryPolicy(first=0.05, cap=5.0).wait(100_000, random.Random(1)) <= 5.0
