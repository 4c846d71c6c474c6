"""Continuity: ids that rise by one, no duplicates, candles without holes; within and between files."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from cmd_common.archive import ArchiveFile
from cmd_common.records import Gap

from ._arrow import pc
from .manifest import Entry
from .plan import day_start

__all__ = ["BAD_FILE", "HOLE", "MISSING_FILE", "NOT_SERVED", "OUT_OF_REACH", "Audit", "boundary_gap", "missing_gap"]

HOLE: Final = "archive_hole"
MISSING_FILE: Final = "missing_file"
BAD_FILE: Final = "bad_file"
OUT_OF_REACH: Final = "out_of_reach"
NOT_SERVED: Final = "not_served"
_HOLES_LIMIT: Final = 10_000
"""Holes that are listed one by one in one file; what follows becomes one Gap over the rest."""


class Audit:
    """Judges one file from its (position, time) columns, batch by batch, O(1) memory but for the holes.

    The position is the trade id, which rises by ``step`` 1, or a candle's open time, which rises by
    the interval. With ``step`` None only their order is judged. Without positions (ids that are no
    numbers) rows must be in the order of their times.
    """

    def __init__(self, file: ArchiveFile, table: str, step: int | None) -> None:
        self.rows = 0
        self.holes: list[Gap] = []
        self.hole_count = 0
        self.ordered = True
        self.first: int | None = None
        self.last: int | None = None
        self.first_ts: int | None = None
        self.last_ts: int | None = None
        self.outside = 0  # rows whose time is not within the file's days
        self._file = file
        self._table = table
        self._step = step
        self._by_id = table != "candles"
        self._range = (day_start(file.first_day), day_start(file.last_day) + 86_400_000_000_000)

    @property
    def ends(self) -> tuple[int | None, int | None]:
        """The first and the last position, where their steps mean something; else None, None."""
        return (None, None) if self._step is None else (self.first, self.last)

    def feed(self, positions: Any | None, times: Any) -> None:
        """Take the next batch: positions in file order (None where there are none), and times in ns."""
        count = len(times)
        if not count:
            return
        self.rows += count
        bounds = pc.min_max(times).as_py()
        if bounds["min"] < self._range[0] or bounds["max"] >= self._range[1]:
            low, high = (pa.scalar(v, pa.int64()) for v in self._range)
            out = pc.or_(pc.less(times, low), pc.greater_equal(times, high))
            self.outside += pc.sum(out).as_py()
        first_ts, last_ts = times[0].as_py(), times[-1].as_py()
        if positions is not None:
            first, last = positions[0].as_py(), positions[-1].as_py()
            if self.last is not None and self.last_ts is not None:
                self._step_between(self.last, first, self.last_ts, first_ts)
            if count > 1:
                self._within(positions, times)
            self.first = first if self.first is None else self.first
            self.last = last
        else:
            if self.last_ts is not None and first_ts < self.last_ts:
                self.ordered = False
            if count > 1 and pc.min(pc.subtract(times[1:], times[:-1])).as_py() < 0:
                self.ordered = False
        self.first_ts = first_ts if self.first_ts is None else self.first_ts
        self.last_ts = last_ts

    def _within(self, positions: Any, times: Any) -> None:
        steps = pc.subtract(positions[1:], positions[:-1])
        bounds = pc.min_max(steps).as_py()
        if bounds["min"] == bounds["max"] == self._step:
            return
        if bounds["min"] <= 0:
            self.ordered = False
            return
        if self._step is None:
            return
        for row in pc.indices_nonzero(pc.not_equal(steps, self._step)).to_pylist():
            self._step_between(
                positions[row].as_py(), positions[row + 1].as_py(), times[row].as_py(), times[row + 1].as_py()
            )

    def _step_between(self, before: int, after: int, ts_before: int, ts_after: int) -> None:
        if after <= before:
            self.ordered = False
        elif self._step is not None and after - before > self._step:
            self.hole_count += 1
            gap = hole(self._file, self._table, before, after, ts_before, ts_after, self._step)
            if len(self.holes) < _HOLES_LIMIT:
                self.holes.append(gap)
            else:
                tail = self.holes[-1]
                more = self.hole_count - _HOLES_LIMIT + 1
                self.holes[-1] = Gap(
                    tail.ts_from, gap.ts_to, tail.venue, tail.symbol, tail.record_type, HOLE, "lost",
                    tail.first_id, gap.last_id, detail=f"{more} holes, not listed one by one",
                )  # fmt: skip


def hole(file: ArchiveFile, table: str, before: int, after: int, ts_before: int, ts_after: int, step: int) -> Gap:
    """The Gap row of ``table`` for what is not there between two neighbours in a file or in two files.

    ``before`` and ``after`` are trade ids, or open times where the file holds candles. Candles that are
    built from trades with a hole are there, and suspect.
    """
    if file.table == "candles":
        missing = (after - before) // step - 1
        return Gap(
            before + step, after, file.venue, file.symbol, table, HOLE, "lost",
            detail=f"{missing} candles of {file.interval} are not in {file.name}",
        )  # fmt: skip
    # Trades of one instant may lie on both sides, and clocks may step back: never a reversed range.
    low, high = min(ts_before, ts_after), max(ts_before, ts_after)
    return Gap(
        low, high, file.venue, file.symbol, table, HOLE, "lost" if table == file.table else "suspect", before + 1,
        after - 1,
        detail=f"{after - before - 1} ids are not in {file.name}",
    )  # fmt: skip


def boundary_gap(
    file: ArchiveFile, table: str, before: Entry | None, after: Entry | None, step: int | None
) -> Gap | None:
    """The Gap between the last row of one file and the first of the next day's, if ids or times jump."""
    if before is None or after is None or step is None:
        return None
    a, b, ts_a, ts_b = before.last_id, after.first_id, before.last_ts, after.first_ts
    if a is None or b is None or ts_a is None or ts_b is None or b - a <= step:
        return None
    return hole(file, table, a, b, ts_a, ts_b, step)


def missing_gap(
    file: ArchiveFile, table: str, detail: str, *, reason: str = MISSING_FILE, span: tuple[int, int] | None = None
) -> Gap:
    """The Gap of days, or of a part of them (ns), that the exchange does not have."""
    start, end = day_start(file.first_day), day_start(file.last_day) + 86_400_000_000_000
    if span is not None:
        start, end = max(start, span[0]), min(end, span[1])
    return Gap(start, end, file.venue, file.symbol, table, reason, "lost", detail=detail[:500])
