"""The ledger's gaps of one stream, as ``verify`` and ``repair`` look at them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from cmd_common.records import Gap

from .sequences import Hole
from .verdicts import Stream

__all__ = ["Ledger", "concerns"]


def concerns(gap: Gap, stream: Stream) -> bool:
    """Whether a gap is of this stream, or of all symbols or tables of its venue."""
    if gap.venue != stream.venue or gap.symbol not in ("", stream.symbol):
        return False
    if gap.record_type not in ("", stream.table):
        return False
    if stream.table != "candles" or not gap.detail or not stream.interval:
        return True
    words = gap.detail.split()
    intervals = {w.rstrip(",;:") for w in words if w[:1].isdigit() and w.rstrip(",;:")[-1:] in "smhdwM"}
    return not intervals or stream.interval in intervals  # a gap says in words which intervals it is about


class Ledger:
    """Open gaps of one stream by time. Finding those of a stretch is O(log n + open ones before it)."""

    def __init__(self, gaps: Iterable[Gap], stream: Stream) -> None:
        self.gaps = sorted((g for g in gaps if not g.repaired_by and concerns(g, stream)), key=lambda g: _span(g))
        self._starts = [_span(g)[0] for g in self.gaps]
        self._longest = max((high - low for low, high in map(_span, self.gaps)), default=0)

    def within(self, low: int, high: int) -> list[Gap]:
        """The open gaps that share at least a moment with ``[low, high]``."""
        begin = bisect_left(self._starts, low - self._longest)
        end = bisect_left(self._starts, high + 1)
        return [g for g in self.gaps[begin:end] if _span(g)[1] >= low]

    def of_day(self, start: int, end: int) -> list[Gap]:
        """The open gaps of ``[start, end)``; one that only touches its start is of the day before."""
        return [g for g in self.within(start, end - 1) if _span(g)[1] > start or _span(g)[0] == _span(g)[1] == start]

    def knows(self, hole: Hole) -> bool:
        """Whether an open gap tells of missing ids."""
        for gap in self.within(hole.ts_from, hole.ts_to):
            if gap.first_id is None or gap.last_id is None:
                return True
            if gap.first_id <= hole.first and gap.last_id >= hole.last:
                return True
        return False

    def covers(self, low: int, high: int) -> bool:
        """Whether open gaps tell of the whole stretch."""
        at = low
        for gap in self.within(low, high):
            start, end = _span(gap)
            if start > at:
                return False
            at = max(at, end)
        return at >= high


def _span(gap: Gap) -> tuple[int, int]:
    return min(gap.ts_from, gap.ts_to), max(gap.ts_from, gap.ts_to)
