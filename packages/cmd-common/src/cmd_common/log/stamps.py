"""Time of records: a raw counter where they are written, UTC where they are read.

A stamp is the processor's time stamp counter (native, where it runs at a constant rate) or the monotonic clock
(pure Python). A calibration is one reading of both the counter and UTC, the tightest of several; its ``error`` is
half of the time that it took, in ns. Everything is integer arithmetic, so that all readers get the same ns.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

__all__ = ["MONOTONIC", "RATE_BITS", "Calibration", "Line", "calibrate", "line"]

RATE_BITS: Final = 48  # a rate is ns a tick, times 2**48
MONOTONIC: Final = 1 << RATE_BITS
_TOLERANCE: Final = 1_000  # a rate that is off by more than a 1000th is a clock that was set, no rate
_SLACK: Final = 100  # ns, beyond what two calibrations say of their errors


class Calibration(NamedTuple):
    """Counter and UTC at one moment."""

    raw: int
    utc: int
    error: int  # ns


class Line(NamedTuple):
    """How stamps become UTC: ``utc + (stamp - raw) * rate``."""

    raw: int
    utc: int
    rate: int

    def at(self, stamp: int) -> int:
        """UTC of a stamp, ns."""
        return self.utc + ((stamp - self.raw) * self.rate >> RATE_BITS)


def line(first: Calibration, last: Calibration, nominal: int) -> Line:
    """Return the line through two calibrations, so that time has no seam where one line ends and the next begins.

    Where they are farther from the nominal rate than their errors and a clock that is slewed explain, UTC was set between
    them: then it is the line through the first at the nominal rate.
    """
    ticks, ns = last.raw - first.raw, last.utc - first.utc
    if ticks > 0 and ns > 0:
        off = abs(ns - (ticks * nominal >> RATE_BITS))
        if off <= ns // _TOLERANCE + first.error + last.error + _SLACK:
            return Line(first.raw, first.utc, (ns << RATE_BITS) // ticks)
    return Line(first.raw, first.utc, nominal)


def calibrate() -> Calibration:
    """Read the monotonic clock and UTC together."""
    clock, wall = time.monotonic_ns, time.time_ns
    best = Calibration(0, 0, 1 << 62)
    for _ in range(5):
        before = clock()
        utc = wall()
        after = clock()
        if after - before < best.error * 2:
            best = Calibration((before + after) // 2, utc, (after - before + 1) // 2)
    return best
