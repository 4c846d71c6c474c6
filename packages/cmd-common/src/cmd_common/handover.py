"""When a second connection may take the place of the first without losing or doubling anything.

Both connections carry the same streams. What the second one brings is held back, unread by the feed, while the first
one goes on. Once the first has delivered everything that came before what is held, the first is closed and the held
frames are read: the feed drops by update id and trade id what it has seen, and goes on with what it has not. The book
stays as it is, so that no snapshot is needed. The part here is pure: frames, positions and times in, a verdict out.

A second connection that is kept for good (``keep``) is the same, without an end: what the first has delivered, too, is let go
of, so that at any moment it holds what the first has not delivered yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from .feed import Output

__all__ = ["HandoverCounters", "Movable", "Overlap", "Position", "Verdict"]

_SECOND: Final = 1_000_000_000
SETTLE: Final = 5 * _SECOND
"""How long both connections run after the second is confirmed: far more than they may differ in delay."""
PATIENCE: Final = 60 * _SECOND
"""How long one waits for both to overlap before the handover is given up."""
LATE: Final = 10 * _SECOND
"""How long a message may have come on a kept second connection alone until the first one is seen to lack it."""
HELD_BYTES: Final = 64 << 20
"""How much of the second connection is held back at most; more ends the handover."""


_MANY: Final = 100  # frames of the first connection, while the second one says nothing, that are too many


class Position(Struct, frozen=True):
    """Where a message stands in its stream.

    ``needs`` is the id that one must have reached for this message to follow without a hole: the id before it where
    ids rise by one, else its own. ``last`` is its own (last) id. ``exact``: both connections give the same ids; a time of
    sending is not the same on both.
    """

    stream: str
    needs: int
    last: int
    exact: bool = True


@runtime_checkable
class Movable(Protocol):
    """What a Feed has in addition whose connection can be replaced while it runs."""

    handover: bool

    def resubscribe(self, now: int) -> list[str]:
        """The frames that subscribe everything once more, on a second connection; nothing else changes."""

    def confirms(self, frame: str | bytes) -> bool:
        """Whether a frame says that one frame of ``resubscribe`` was accepted."""

    def position(self, frame: str | bytes) -> Position | None:
        """Where a data frame stands in its stream; None for any other frame. Never raises."""

    def moved(self, now: int, reason: str) -> Output:
        """The second connection is the only one from now on; the records are FeedStatus rows."""


class HandoverCounters(Struct):
    """Counts since the connection's runner was made."""

    started: int = 0
    done: int = 0
    failed: int = 0  # an ordinary reconnect followed, or will; what it misses is in the gap ledger


class Verdict(Enum):
    """What to do now."""

    WAIT = "wait"
    TAKE = "take"
    GIVE_UP = "give up"


class Overlap:
    """Two connections of the same streams while both are open.

    ``expected`` is the number of confirmations that the second one must bring. ``held`` are its frames in order.
    """

    def __init__(
        self,
        feed: Movable,
        expected: int,
        now: int,
        *,
        settle: int = SETTLE,
        patience: int = PATIENCE,
        limit: int = HELD_BYTES,
        keep: bool = False,
    ) -> None:
        self.keep = keep
        self.held: list[str | bytes] = []
        self._feed = feed
        self._missing = expected
        self._since = now
        self._confirmed = now if expected <= 0 else 0
        self._settle = settle
        self._patience = patience
        self._limit = limit
        self._bytes = 0
        self._marks: list[tuple[Position | None, int]] = []  # of ``held``, with the time of arrival
        self._heard = now  # the last frame of the second connection
        self._firsts = 0  # data frames of the first one since then
        self._met = False
        self._reached: dict[str, int] = {}  # last id of the first connection, by stream
        self._waits: dict[str, int] = {}  # what it has yet to reach
        self._known: set[str] = set()  # streams that the second one has spoken on

    def first(self, frame: str | bytes) -> None:
        """Take note of a frame that the first connection has delivered."""
        at = self._feed.position(frame)
        if at is None:
            return
        self._firsts += 1
        if at.last > self._reached.get(at.stream, -1):
            self._reached[at.stream] = at.last
        if self._waits.get(at.stream, at.last + 1) <= at.last:
            del self._waits[at.stream]

    def second(self, frame: str | bytes, now: int) -> None:
        """Hold back a frame of the second connection."""
        self._heard, self._firsts = now, 0
        at = self._feed.position(frame)
        confirms = at is None and self._missing > 0 and self._feed.confirms(frame)
        if self.keep and at is None and not confirms:
            return
        self._bytes += len(frame)
        if self._bytes > self._limit:
            return  # ``verdict`` says so
        self.held.append(frame)
        self._marks.append((at, now))
        if at is None:
            if confirms:
                self._missing -= 1
                if not self._missing:
                    self._confirmed = now
        elif at.stream not in self._known:
            self._known.add(at.stream)
            if self._reached.get(at.stream, -1) < at.needs:
                self._waits[at.stream] = at.needs

    def verdict(self, now: int) -> Verdict:
        """Whether the second connection can be taken: all is confirmed, time has passed, every stream has met."""
        if self._bytes > self._limit:
            return Verdict.GIVE_UP
        if self.keep and self._firsts > _MANY and now - self._heard >= LATE:
            return Verdict.GIVE_UP  # it stands and says nothing
        if self._met:  # a stream that speaks for the first time after that has nothing older on its way
            return Verdict.TAKE
        if not self._missing and not self._waits and now - self._confirmed >= self._settle:
            self._met = True
            return Verdict.TAKE
        return Verdict.GIVE_UP if now - self._since >= self._patience else Verdict.WAIT

    def trim(self, now: int) -> Sequence[str]:
        """Let go of held frames that the first connection has delivered, too; returns streams of which it lacks some for long.

        For a kept second connection, about once a second. O(held).
        """
        lacking: set[str] = set()
        frames, marks = [], []
        for frame, (at, since) in zip(self.held, self._marks, strict=True):
            if at is not None:
                late = now - since >= LATE
                if self._reached.get(at.stream, -1) >= at.last or (late and not at.exact):
                    self._bytes -= len(frame)
                    continue
                if late:
                    lacking.add(at.stream)
            frames.append(frame)
            marks.append((at, since))
        self.held, self._marks = frames, marks
        return sorted(lacking)

    def take(self) -> list[str | bytes]:
        """The held frames that the first connection has not delivered, which are then no longer held.

        So the snapshot with which a subscription begins is left out where the first one is beyond it.
        """
        held = [
            frame
            for frame, (at, _) in zip(self.held, self._marks, strict=True)
            if at is None or not at.exact or self._reached.get(at.stream, -1) < at.last
        ]
        self.held = []
        self._marks.clear()
        return held

    @property
    def behind(self) -> Sequence[str]:
        """Streams on which the first connection has not reached the second one's beginning."""
        return sorted(self._waits)
