from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.backoff import SECOND, Backoff


@given(st.integers(0, 2**32), st.integers(1, 100 * SECOND), st.integers(0, 100), st.integers(1, 300))
def test_every_delay_lies_in_the_upper_half_of_its_step_and_never_above_the_cap(
    seed: int, base: int, factor: int, failures: int
) -> None:
    cap = base * (factor + 1)
    backoff = Backoff(random.Random(seed), base=base, cap=cap)
    for n in range(failures):
        step = min(cap, base * 2**n)
        delay = backoff.failed(n)
        assert step - step // 2 - 1 <= delay <= step
    assert backoff.attempts == backoff.total == failures


def test_a_long_success_starts_again_and_a_short_one_does_not() -> None:
    backoff = Backoff(random.Random(1), base=SECOND, cap=64 * SECOND, stable=60 * SECOND)
    for _ in range(5):
        backoff.failed(0)
    backoff.succeeded(100 * SECOND)
    assert backoff.failed(101 * SECOND) > 8 * SECOND  # up for a second only: the sixth failure in a row
    backoff.succeeded(200 * SECOND)
    assert backoff.failed(260 * SECOND) <= SECOND
    assert backoff.attempts == 1
    assert backoff.total == 7


def test_the_limit_counts_failures_in_a_row() -> None:
    backoff = Backoff(random.Random(1), limit=3, stable=SECOND)
    for _ in range(2):
        backoff.failed(0)
    assert not backoff.exhausted
    backoff.failed(0)
    assert backoff.exhausted
    backoff.reset()
    assert not backoff.exhausted


def test_clients_that_were_cut_off_together_spread() -> None:
    delays = {Backoff(random.Random(seed), base=SECOND).failed(0) for seed in range(50)}
    assert len(delays) > 45


def test_a_base_above_the_cap_is_refused() -> None:
    with pytest.raises(ValueError, match="cap"):
        Backoff(random.Random(1), base=2, cap=1)
