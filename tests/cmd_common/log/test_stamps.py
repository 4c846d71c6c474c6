"""Stamps become UTC by integer arithmetic; a clock that is set is no rate."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.log.stamps import MONOTONIC, RATE_BITS, Calibration, calibrate, line


@given(
    first=st.integers(0, 1 << 62),
    ns=st.integers(1_000_000, 10**15),
    part=st.floats(0, 1),
    ticks_of_ns=st.integers(1, 8),
)
def test_between_two_calibrations_both_are_met(first: int, ns: int, part: float, ticks_of_ns: int) -> None:
    utc = 1_700_000_000_000_000_000
    nominal = (1 << RATE_BITS) // ticks_of_ns
    along = line(Calibration(first, utc, 1), Calibration(first + ns * ticks_of_ns, utc + ns, 1), nominal)
    assert along.at(first) == utc
    assert abs(along.at(first + ns * ticks_of_ns) - utc - ns) <= 1 + (ns * ticks_of_ns >> RATE_BITS)
    between = int(ns * part)
    assert abs(along.at(first + between * ticks_of_ns) - utc - between) <= 2 + (ns * ticks_of_ns >> RATE_BITS)


@pytest.mark.parametrize("step", [3_600_000_000_000, -3_600_000_000_000, 20_000_000])
def test_a_clock_that_was_set_does_not_bend_the_line(step: int) -> None:
    first = Calibration(1_000, 10**18, 20)
    along = line(first, Calibration(1_000 + 10**9, 10**18 + 10**9 + step, 20), MONOTONIC)
    assert along.at(1_000 + 5 * 10**8) == 10**18 + 5 * 10**8


def test_a_slewed_clock_is_followed() -> None:
    along = line(Calibration(0, 0, 1), Calibration(10**9, 10**9 + 400_000, 1), MONOTONIC)  # 400 ppm, NTP's most is 500
    assert along.at(5 * 10**8) in range(500_199_999, 500_200_002)


def test_a_calibration_is_tight() -> None:
    before = time.time_ns()
    found = calibrate()
    assert before - 1_000_000 <= found.utc <= time.time_ns() + 1_000_000
    assert 0 <= found.error < 50_000_000
