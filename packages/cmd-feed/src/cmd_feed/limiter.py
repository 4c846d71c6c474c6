"""At most so many events in any window of time: outgoing messages of a connection, connection attempts.

A plain token bucket with rate R and burst R lets 2R through around a refill; exchanges count in
windows whose start we do not know, so the times of the last events are kept and the bound holds in
*every* window, wherever it starts.
"""

from __future__ import annotations

from collections import deque

__all__ = ["WindowLimiter"]

SECOND = 1_000_000_000


class WindowLimiter:
    """Grants at most ``limit`` events in any ``window`` ns; a limit of 0 grants everything.

    Times are monotonic ns that never go back. O(1) per event; memory is ``limit`` integers.
    """

    def __init__(self, limit: int, window: int) -> None:
        if limit < 0 or window <= 0:
            raise ValueError(f"limit {limit} or window {window} is out of range")
        self.limit = limit
        self.window = window
        self.waited = 0  # events that had to wait
        self._times: deque[int] = deque(maxlen=limit or None)

    def delay(self, now: int) -> int:
        """Return how many ns to wait before the next event may happen; 0: now."""
        times = self._times
        if not self.limit or len(times) < self.limit:
            return 0
        return max(0, times[0] + self.window - now)

    def take(self, now: int) -> None:
        """Record an event at ``now``; also one that was not asked for, such as a pong."""
        if self.limit:
            self._times.append(now)

    @classmethod
    def messages(cls, per_second: int) -> WindowLimiter:
        """The limiter of one connection's outgoing frames.

        One frame a second stays free for a pong, which is sent without asking. The window is a tenth
        longer than the exchange's: frames arrive with varying delay.
        """
        return cls(max(1, per_second - 1) if per_second else 0, SECOND * 11 // 10)

    @classmethod
    def connects(cls, per_5min: int) -> WindowLimiter:
        """The limiter of connection attempts to one venue; a tenth stays free for other programs."""
        return cls(max(1, per_5min * 9 // 10) if per_5min else 0, 305 * SECOND)
