"""Jittered exponential backoff: how long to wait before the next attempt, and when to give up."""

from __future__ import annotations

from .seams import Rng

__all__ = ["Backoff"]

SECOND = 1_000_000_000


class Backoff:
    """Delays that double up to a cap, each drawn from the upper half of its step.

    The draw keeps at least half of the step, so that a refused client never hammers, and spreads
    clients that were cut off together. After ``stable`` ns of success the next failure starts again
    from ``base``. ``limit`` is the number of attempts in a row; 0 means no limit. Times are ns.
    """

    def __init__(
        self,
        rng: Rng,
        *,
        base: int = SECOND // 2,
        cap: int = 30 * SECOND,
        stable: int = 60 * SECOND,
        limit: int = 0,
    ) -> None:
        if not 0 < base <= cap:
            raise ValueError(f"base {base} is not between 1 and the cap {cap}")
        self._rng = rng
        self.base = base
        self.cap = cap
        self.stable = stable
        self.limit = limit
        self.attempts = 0  # failures in a row
        self.total = 0  # failures since the object was made
        self._up_since: int | None = None

    @property
    def exhausted(self) -> bool:
        """Whether the limit of attempts in a row is reached."""
        return bool(self.limit) and self.attempts >= self.limit

    def succeeded(self, now: int) -> None:
        """The attempt worked at monotonic time ``now``; a failure soon after still counts on."""
        self._up_since = now

    def failed(self, now: int) -> int:
        """Count a failure at monotonic time ``now`` and return how many ns to wait."""
        if self._up_since is not None and now - self._up_since >= self.stable:
            self.attempts = 0
        self._up_since = None
        # 2**62 ns is beyond every cap: the shift stays small however often it failed
        step = min(self.cap, self.base << min(self.attempts, 62 - self.base.bit_length()))
        self.attempts += 1
        self.total += 1
        return step - int(step * 0.5 * self._rng.random())

    def reset(self) -> None:
        """Forget the failures in a row."""
        self.attempts = 0
        self._up_since = None
