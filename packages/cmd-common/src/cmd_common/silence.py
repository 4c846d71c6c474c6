"""When a stream that used to speak has been quiet for too long, judged by its own rate.

Theory of operation. About once a second the watch is told when its stream was last heard, so that messages cost
nothing. It measures the quiet time between seconds with messages, and learns their mean and the longest of late. The
alarm comes when the stream is quiet for ``PATIENCE`` means or ``MARGIN`` times the longest, whichever is more, yet never
before ``least`` and always by ``most``: a stream that is heard too seldom to be learned has that bound alone. A sign of
life of the stream itself (a heartbeat that names it) counts as heard and is not learned from. Time in which this process did
not look, because it stood still or read nothing, is not the stream's silence: one look adds ``_STEP`` at most.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MARGIN", "MOST", "PATIENCE", "SilenceWatch"]

_SECOND: Final = 1_000_000_000
_STEP: Final = 2 * _SECOND
_LEARNED: Final = 10  # seconds with messages before the rate counts
_MEMORY: Final = 64.0  # how many of them the mean is of, about
_FADE: Final = 1 - 1 / 512  # of the longest, for each of them
PATIENCE: Final = 30.0
MARGIN: Final = 4.0
MOST: Final = 6 * 3600 * _SECOND
"""The bound in ns: a stream that was heard once is missed after this at the latest."""


class SilenceWatch:
    """The watch over one stream. ``least`` and ``most`` are bounds of the alarm in ns of quiet."""

    __slots__ = ("_alive", "_count", "_heard", "_longest", "_mean", "_quiet", "_ticked", "least", "most")

    def __init__(self, least: int, most: int = MOST) -> None:
        if not 0 < least <= most:
            raise ValueError("the alarm needs 0 < least <= most")
        self.least = least
        self.most = most
        self._heard = 0  # as told by the last look
        self._alive = 0
        self._ticked = 0
        self._quiet = 0  # ns without a message or sign of life
        self._count = 0
        self._mean = 0.0
        self._longest = 0.0

    @property
    def limit(self) -> int:
        """Quiet time in ns after which the alarm comes."""
        if self._count < _LEARNED:
            return self.most
        return min(self.most, max(self.least, int(self._mean * PATIENCE), int(self._longest * MARGIN)))

    @property
    def quiet(self) -> int:
        """Quiet time in ns so far."""
        return self._quiet

    def restart(self) -> None:
        """The connection is a new one: quiet time begins anew, what was learned stays."""
        self._heard = self._alive = self._ticked = self._quiet = 0

    def look(self, now: int, heard: int, alive: int = 0) -> bool:
        """Whether the stream is missed at ``now``; ``heard`` and ``alive`` are when it last spoke and gave a sign, 0: never.

        Call it about once a second. A clock that is set back does no harm. O(1).
        """
        step = min(max(now - self._ticked, 0), _STEP) if self._ticked else 0
        self._ticked = now
        if heard != self._heard:
            if self._heard:
                self._learn(self._quiet + step)
            self._heard, self._alive, self._quiet = heard, alive, 0
            return False
        if not heard:
            return False  # what never spoke has a rule of its own
        if alive != self._alive:
            self._alive, self._quiet = alive, 0
            return False
        self._quiet += step
        return self._quiet >= self.limit

    def _learn(self, gap: int) -> None:
        self._count += 1
        weight = 1 / min(self._count, _MEMORY)
        self._mean += (gap - self._mean) * weight
        self._longest = max(float(gap), self._longest * _FADE)
