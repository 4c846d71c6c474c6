"""Finds missing, repeated and late ids in a stream whose ids rise by one.

Theory of operation. An id right behind the last one is the normal case and costs one comparison by
the caller. An id further ahead leaves a *hole*, which is reported at once: a process that is killed
later has already written it down. An id inside an open hole is late, is taken once, and closes the
hole when it was the last one missing. Any other id that is not new is a repeat. Holes are kept in a
bounded number and for a bounded distance (policy: forget the oldest), so a trade that comes later
than that counts as a repeat; a source that repairs gaps will find it. Holes between the same two event
times are one hole, with the ids that did come among its own: it closes when none of them is missing.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Hole", "IdTracker", "Judgement"]

_RESTART_AFTER = 60_000_000_000  # ns that an old id must be younger than the newest to mean a restart


class Hole(Struct):
    """Ids that were jumped over between two events; ``missing`` shrinks when late ones arrive.

    It may grow by ids that are missing between events of the same two times.
    """

    first: int
    last: int
    ts_from: int  # event times of the ids before and behind, the earlier one first: ids may rise while times fall
    ts_to: int
    missing: list[tuple[int, int]]  # ranges, both ends inclusive


class Judgement(Struct, frozen=True):
    """What an id means: ``accept`` it or not, and the hole that it opened or closed."""

    accept: bool
    opened: Hole | None = None
    closed: Hole | None = None
    restarted: bool = False  # ids began anew: far older id, far younger event


class IdTracker:
    """Judges the ids of one stream of one symbol.

    The caller's hot path: ``if id == tracker.last + 1: tracker.last = id`` with ``tracker.ts = ts``,
    else ``judge``. ``last`` is -1 before the first id.
    """

    __slots__ = ("_holes", "last", "limit", "ts", "window")

    def __init__(self, *, window: int = 10_000, limit: int = 64) -> None:
        self.last = -1
        self.ts = 0  # event time of ``last``
        self.window = window  # ids behind ``last`` at which a hole is forgotten
        self.limit = limit  # holes that are remembered
        self._holes: list[Hole] = []

    def judge(self, id_: int, ts: int) -> Judgement:
        """Judge an id with its event time (ns), and remember it. O(open holes)."""
        last = self.last
        if last == -1 or id_ == last + 1:
            self.last, self.ts = id_, ts
            return Judgement(accept=True)
        if id_ > last:
            hole = Hole(last + 1, id_ - 1, min(self.ts, ts), max(self.ts, ts), [(last + 1, id_ - 1)])
            self.last, self.ts = id_, ts
            before = self._holes[-1] if self._holes else None
            if before is not None and (before.ts_from, before.ts_to) == (hole.ts_from, hole.ts_to):
                # Between the same two moments: one hole, since nothing but the times tells rows of gaps apart.
                before.last = hole.last
                before.missing += hole.missing
                return Judgement(accept=True, opened=before)
            self._holes = [h for h in self._holes if h.last >= id_ - self.window][1 - self.limit :]
            self._holes.append(hole)
            return Judgement(accept=True, opened=hole)
        for hole in self._holes:
            for index, (a, b) in enumerate(hole.missing):
                if a <= id_ <= b:
                    hole.missing[index : index + 1] = [r for r in ((a, id_ - 1), (id_ + 1, b)) if r[0] <= r[1]]
                    if hole.missing:
                        return Judgement(accept=True)
                    self._holes.remove(hole)
                    return Judgement(accept=True, closed=hole)
        if ts > self.ts + _RESTART_AFTER:
            self._holes.clear()
            self.last, self.ts = id_, ts
            return Judgement(accept=True, restarted=True)
        return Judgement(accept=False)

    def misses(self, id_: int) -> bool:
        """Whether an id is missing in an open hole. O(open holes)."""
        return any(a <= id_ <= b for hole in self._holes for a, b in hole.missing)

    def missed(self, last: int, ts: int) -> Hole:
        """Something else says that ids up to ``last``, above the last one, were given by ``ts`` (ns): a hole at the end.

        Its ids are taken when they come late after all, as those of any hole.
        """
        if self.last < 0 or last <= self.last:
            raise ValueError(f"id {last} is not above the last id {self.last}")
        hole = Hole(self.last + 1, last, min(self.ts, ts), max(self.ts, ts), [(self.last + 1, last)])
        self._holes = [h for h in self._holes if h.last >= last - self.window][1 - self.limit :]
        self._holes.append(hole)
        self.last, self.ts = last, ts
        return hole

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert len(self._holes) <= self.limit
        edge = -1
        for hole in self._holes:
            assert hole.missing
            assert hole.first <= hole.missing[0][0]
            assert hole.missing[-1][1] <= hole.last <= self.last
            for a, b in hole.missing:
                assert edge < a <= b
                edge = b
