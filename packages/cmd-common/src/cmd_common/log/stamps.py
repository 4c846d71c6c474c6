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
_SPAN: Final = 1_000_000  # ns; two calibrations nearer than this say nothing about the rate
_TOLERANCE: Final = 1_000  # a rate that is off by more than a 1000th is a clock that was set, no rate


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
    """Return the line through two calibrations, or through the first at the nominal rate where they are no two of one clock."""
    ticks, ns = last.raw - first.raw, last.utc - first.utc
    if ticks > 0 and ns >= _SPAN:
        rate = (ns << RATE_BITS) // ticks
        if abs(rate - nominal) * _TOLERANCE <= nominal:
            return Line(first.raw, first.utc, rate)
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
