"""The drain: complete slots of the rings to the file and to other consumers, in batches, off the caller's path.

Order of one batch, so that a kill at any point neither loses nor repeats a record: the file gets the frames, the state
says that they are drained, the slots are emptied, the state says so, callers get the slots back. A reader takes what
the file has, then what the ring holds from there on; positions show what is in both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from .files import Session, Sink
from .layout import DROPPED, MAX_FRAME, OVERWRITTEN, RECORDS, SKIP, Frame, Positions, RingState, build
from .rings import Ring, RingFile
from .stamps import Calibration, Line, line

__all__ = ["Consumer", "Drain"]

Consumer = Callable[[Session, Sequence[Frame], Line], None]
"""Gets what was drained, after it was written. What it raises is kept in ``Drain.error`` and stops nothing."""

_OWN: Final = 255  # the ring of the logger's own records
_OWN_SLOT: Final = 32
_ABANDONED: Final = 1_000_000_000  # ns after which a slot that was taken and not written is given up
_PART: Final = 4096  # slots a batch


class Drain:
    """Copies rings out; its methods may be called from any thread, also from a signal handler."""

    def __init__(
        self,
        file: RingFile,
        sink: Sink,
        session: Session,
        calibrate: Callable[[], Calibration],
        consumers: list[Consumer],
    ) -> None:
        self.file, self.sink, self.session = file, sink, session
        self.error: Exception | None = None  # the last failure of the file or of a consumer
        self.failed = False  # the file cannot be written now
        self.records = 0
        self.dropped = [0] * len(file.rings)
        self.overwritten = [0] * len(file.rings)
        self._calibrate = calibrate
        self._consumers = consumers
        self._lock = threading.RLock()
        self._closing = False
        self._busy = False  # in this thread, where a signal handler came between
        self._states = 0
        self._told = [(0, 0)] * len(file.rings)  # what own records have said of losses
        self._own = 0  # position of own records
        self._stuck: tuple[int, int, int] | None = None  # ring, position and since when
        self._first = self._last = calibrate()
        self._framed = self._first  # of the last frame: readers draw the line from it
        self._state(self._first)

    def begin(self) -> None:
        """Write what the file and the ring begin with."""
        with self._lock:
            self.file.append(self.session.frames(self._framed))
            self.sink.start(self.session, self._framed)
            self._state(self._last)

    def once(self) -> int:
        """Drain what is complete now; returns how many records."""
        total = 0
        with self._lock:
            if self._busy:
                return 0
            self._busy = True
            try:
                goals = [r.tail + r.taken() for r in self.file.rings]  # others may go on without end
                while True:
                    done = self._batch()
                    total += done
                    if not done or all(r.tail >= goal for r, goal in zip(self.file.rings, goals, strict=True)):
                        return total
            except OSError as error:
                self.error, self.failed = error, True
                return total
            finally:
                self._busy = False

    def make_room(self, number: int, policy: str) -> bool:
        """A caller found a ring full: whether it may try again, or its record is dropped."""
        ring = self.file.rings[number]
        with self._lock:
            if self._busy:  # the drain itself was interrupted by who logs: waiting would be for ever
                return self._drop(number)
            if ring.taken() < ring.count:
                return True
            if policy == "drop":
                return self._drop(number)
            if policy == "overwrite":
                n = ring.ready(max(1, ring.count // 4))
                if not n:
                    self._give_up(number)
                    return self._drop(number)
                self.overwritten[number] += n
                self.file.lost(number, self.dropped[number], self.overwritten[number])
                self._release([(ring, n)], self._calibrate())
                return True
        if self.once() or ring.taken() < ring.count:
            return True
        if self.failed:
            return self._drop(number)
        time.sleep(0.0001)  # a slot is being written by a thread that is not running now
        with self._lock:
            self._give_up(number)
        return True

    def declare(self, frames: Callable[[Calibration], bytes]) -> None:
        """Put declarations into the ring's file and the log."""
        with self._lock:
            data = frames(self._framed)
            self.file.append(data)
            self.sink.declare(self.session, data)
            self._state(self._last)

    def positions(self) -> list[int]:
        """How far the rings are drained."""
        return [r.tail for r in self.file.rings]

    def finish(self) -> bool:
        """Drain to the end, for a logger that nobody can log to any more; whether everything was written."""
        with self._lock:
            self._closing = True
            until = time.monotonic_ns() + _ABANDONED
            while any(r.taken() for r in self.file.rings):
                if self.once():
                    continue
                if self.failed:
                    return False
                time.sleep(0.001)
                for n in range(len(self.file.rings)):
                    self._give_up(n, now=time.monotonic_ns() > until)
            self.once()  # what was dropped meanwhile
            self.sink.end(self.session, self.positions(), self._framed)
            return not self.failed

    def _drop(self, number: int) -> bool:
        self.dropped[number] += 1
        self.file.lost(number, self.dropped[number], self.overwritten[number])
        return False

    def _give_up(self, number: int, *, now: bool = False) -> None:
        """Void the next slot of a ring where its writer has been away for a second."""
        ring = self.file.rings[number]
        if not ring.taken() or ring.ready(1):
            return
        at = time.monotonic_ns()
        if self._stuck is None or self._stuck[:2] != (number, ring.tail):
            self._stuck = (number, ring.tail, at)
        if now or at - self._stuck[2] > _ABANDONED:
            self._stuck = None
            ring.give_up()

    def _batch(self) -> int:
        """Drain one batch; returns how many records."""
        calibration = self._calibrate()
        lost = list(zip(self.dropped, self.overwritten, strict=True))  # what comes while we write is said next time
        found: list[tuple[int, Ring, int]] = []
        for number, ring in enumerate(self.file.rings):
            most = min(_PART, MAX_FRAME // ring.slot)
            if n := ring.ready(most):
                found.append((number, ring, n))
            elif ring.taken():
                self._give_up(number)
        if len(self.file.rings) > 1:
            found = self._together(found, calibration)
        frames = [
            self._frame(SKIP, number, 0, ring.tail, b"", calibration)
            for number, ring in enumerate(self.file.rings)
            if lost[number][1] != self._told[number][1]
        ]
        frames += [
            self._frame(RECORDS, number, ring.slot, ring.tail, ring.copy(n), calibration) for number, ring, n in found
        ]
        frames += self._losses(lost, calibration)
        if not frames:
            return 0
        along = line(self._framed, calibration, self.session.start.rate)
        self.sink.write(self.session, frames, along)
        self.failed, self._framed = False, calibration
        self._told = lost
        self._release([(ring, n) for _, ring, n in found], calibration)
        total = sum(n for _, _, n in found)
        self.records += total
        for consumer in self._consumers:
            try:
                consumer(self.session, [frame for _, frame in frames if frame.kind == RECORDS], along)
            except Exception as error:
                self.error = error
        return total

    def _together(self, found: list[tuple[int, Ring, int]], calibration: Calibration) -> list[tuple[int, Ring, int]]:
        """Cut what is younger than this batch or than what one of the rings still holds back, so that the file is in order."""
        limit = min([calibration.raw, *(r.stamp(n - 1) for _, r, n in found if r.taken() > n)])
        out = []
        for number, ring, count in found:
            n = count
            while n and ring.stamp(n - 1) > limit:
                n -= 1
            if n:
                out.append((number, ring, n))
        if not out and (self._closing or any(r.taken() == r.count for _, r, _ in found)):
            return found  # a counter that jumped back must not hold up anybody
        return out

    def _frame(
        self, kind: int, number: int, slot: int, position: int, data: bytes, calibration: Calibration
    ) -> tuple[bytes, Frame]:
        session = self.session.number
        head = build(kind, data, session, calibration, ring=number, slot=slot, position=position)
        return head, Frame(kind, number, slot, session, position, calibration, data)

    def _losses(self, lost: list[tuple[int, int]], calibration: Calibration) -> list[tuple[bytes, Frame]]:
        """Records that say what was dropped and overwritten since the last batch."""
        out = []
        for n, event in enumerate((DROPPED, OVERWRITTEN)):
            if count := sum(now[n] - told[n] for now, told in zip(lost, self._told, strict=True)):
                words = calibration.raw.to_bytes(8, "little") + count.to_bytes(8, "little")
                data = words + bytes(12) + event.to_bytes(4, "little")
                out.append(self._frame(RECORDS, _OWN, _OWN_SLOT, self._own, data, calibration))
                self._own += 1
        return out

    def _release(self, done: list[tuple[Ring, int]], calibration: Calibration) -> None:
        ahead = {id(ring): n for ring, n in done}
        self._state(calibration, ahead)
        for ring, n in done:
            ring.clear(n)
            ring.give_back(n)
        self._state(calibration)

    def _state(self, calibration: Calibration, ahead: dict[int, int] | None = None) -> None:
        self._last = calibration
        self._states += 1
        rings = tuple(
            Positions(r.tail + (ahead or {}).get(id(r), 0), r.tail, *told)
            for r, told in zip(self.file.rings, self._told, strict=True)
        )
        self.file.state(RingState(self._states, self.sink.size, self.sink.files, self._first, calibration, rings))
