"""What ids and times of trades tell about a day: missing ids, ids that come twice, pauses. Pure, on Arrow columns."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
from msgspec import Struct, field

from cmd_archiver._arrow import pc

__all__ = ["Hole", "Sequence", "fill", "holes_between", "look", "present"]

_PAUSE: Final = 300_000_000_000  # ns without a trade that are worth telling, at least
_TIMES: Final = 50  # and this often the mean time between trades of the day
_BACK: Final = 1_000_000_000  # ns by which time may go back
_LIMIT: Final = 10_000  # holes of a day that are kept one by one


class Hole(Struct, frozen=True):
    """Ids that are not there, and the times of the rows on both sides."""

    first: int
    last: int
    ts_from: int
    ts_to: int


class Sequence(Struct):
    """What the rows of one day are, by id. Without ids all is by time, and ``ids`` is None."""

    rows: int = 0
    ids: Any = None  # sorted, each once
    times: Any = None  # of the ids
    holes: list[Hole] = field(default_factory=list)
    duplicates: list[tuple[int, int, int]] = field(default_factory=list)  # id, first and last time
    back: list[tuple[int, int, int]] = field(default_factory=list)  # id, time before it, its time
    pauses: list[tuple[int, int]] = field(default_factory=list)
    first_ts: int = 0
    last_ts: int = 0
    dense: bool = False  # ids rise by one, but for some

    def shrink(self) -> None:
        """Forget the ids but for the first and the last."""
        if self.ids is not None and len(self.ids):
            self.ids = pa.array([self.first_id, self.last_id], pa.int64())
        self.times = None

    @property
    def first_id(self) -> int | None:
        """The lowest id."""
        return self.ids[0].as_py() if self.ids is not None and len(self.ids) else None

    @property
    def last_id(self) -> int | None:
        """The highest id."""
        return self.ids[-1].as_py() if self.ids is not None and len(self.ids) else None


def look(ids: Any, times: Any) -> Sequence:
    """Judge one day's rows: ``ids`` int64 (null where an id is no number), ``times`` ns. O(n log n)."""
    out = Sequence(rows=len(times))
    if not out.rows:
        return out
    bounds = pc.min_max(times).as_py()
    out.first_ts, out.last_ts = bounds["min"], bounds["max"]
    if ids.null_count:
        _pauses(out, times.take(pc.sort_indices(times)))
        return out
    order = pc.sort_indices(pa.table({"i": ids, "t": times}), sort_keys=[("i", "ascending"), ("t", "ascending")])
    ids, times = ids.take(order), times.take(order)
    if out.rows > 1:
        steps = pc.subtract(ids[1:], ids[:-1])
        again = pc.equal(steps, 0)
        for row in pc.indices_nonzero(again).to_pylist()[:_LIMIT]:
            out.duplicates.append((ids[row].as_py(), times[row].as_py(), times[row + 1].as_py()))
        if out.duplicates:
            keep = pc.invert(pa.concat_arrays([pa.array([False]), _flat(again)]))
            ids, times = ids.filter(keep), times.filter(keep)
    out.ids, out.times = ids, times
    if len(ids) > 1:
        steps = pc.subtract(ids[1:], ids[:-1])
        jumps = pc.indices_nonzero(pc.greater(steps, 1)).to_pylist()
        out.dense = len(jumps) * 10 < len(ids)
        if out.dense:
            for row in jumps[:_LIMIT]:
                out.holes.append(_hole(ids[row], ids[row + 1], times[row], times[row + 1]))
        waits = pc.subtract(times[1:], times[:-1])
        for row in pc.indices_nonzero(pc.less(waits, -_BACK)).to_pylist()[:_LIMIT]:
            out.back.append((ids[row + 1].as_py(), times[row].as_py(), times[row + 1].as_py()))
        if out.dense:
            _pauses(out, times, set(jumps))
    return out


def _flat(array: Any) -> Any:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _hole(before: Any, after: Any, ts_before: Any, ts_after: Any) -> Hole:
    low, high = sorted((ts_before.as_py(), ts_after.as_py()))
    return Hole(before.as_py() + 1, after.as_py() - 1, low, high)


def _pauses(out: Sequence, times: Any, jumps: set[int] | frozenset[int] = frozenset()) -> None:
    """Long times without a row; where ids jump something is missing instead."""
    if len(times) < 2:
        return
    limit = max(_PAUSE, _TIMES * (out.last_ts - out.first_ts) // len(times))
    waits = pc.subtract(times[1:], times[:-1])
    for row in pc.indices_nonzero(pc.greater_equal(waits, limit)).to_pylist():
        if row not in jumps:
            out.pauses.append((times[row].as_py(), times[row + 1].as_py()))


def holes_between(before: Sequence, after: Sequence) -> list[Hole]:
    """Ids that are missing between the last row of a day and the first of a later one, both with dense ids."""
    last, first = before.last_id, after.first_id
    if last is None or first is None or first <= last + 1:
        return []
    low, high = sorted((before.last_ts, after.first_ts))
    return [Hole(last + 1, first - 1, low, high)]


def fill(holes: list[Hole], other: Sequence) -> list[Hole]:
    """What remains of holes where ids of a neighbouring day are known: times and ids may cross midnight in two orders."""
    if other.ids is None or not len(other.ids):
        return holes
    found: list[Hole] = []
    for hole in holes:
        inside = pc.and_(pc.greater_equal(other.ids, hole.first), pc.less_equal(other.ids, hole.last))
        there = other.ids.filter(inside).to_pylist()
        begin = hole.first
        for id_ in (*there, hole.last + 1):
            if id_ > begin:
                found.append(Hole(begin, id_ - 1, hole.ts_from, hole.ts_to))
            begin = id_ + 1
    return found


def present(sequences: list[Sequence], first: int, last: int) -> bool:
    """Whether every id from ``first`` to ``last`` is in one of the days."""
    count = 0
    for one in sequences:
        if one.ids is not None and len(one.ids):
            inside = pc.and_(pc.greater_equal(one.ids, first), pc.less_equal(one.ids, last))
            count += pc.sum(inside, min_count=0).as_py()
    return count >= last - first + 1
