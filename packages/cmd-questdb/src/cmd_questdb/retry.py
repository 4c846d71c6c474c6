"""Trying again: how long to wait, how often, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from cmd_common.seams import Rng, system_rng

__all__ = ["Backoff", "RetryPolicy"]

_DOUBLINGS: Final = 16  # beyond it only the cap counts


class RetryPolicy(Struct, frozen=True):
    """Limits of a retry loop, in seconds."""

    limit: float = 60.0  # from the first failure on; 0: never again
    first: float = 0.05  # the first wait
    cap: float = 5.0  # no wait is longer

    def wait(self, attempt: int, rng: Rng) -> float:
        """How long to wait after the failed attempt number ``attempt`` (from 0): doubled each time, with jitter."""
        longest = min(self.cap, self.first * 2 ** min(attempt, _DOUBLINGS))
        return rng.uniform(longest / 2, longest)


class Backoff:
    """One run of failures: ``pause`` waits before the next attempt or says that it was enough."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        rng: Rng | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.policy = policy
        self.attempts = 0
        self._rng = rng if rng is not None else system_rng()
        self._monotonic = monotonic
        self._sleep = sleep
        self._began: float | None = None

    def pause(self) -> bool:
        """Wait before the next attempt; False when the limit is reached, without waiting."""
        now = self._monotonic()
        if self._began is None:
            self._began = now
        wait = self.policy.wait(self.attempts, self._rng)
        if now + wait > self._began + self.policy.limit:
            return False
        self.attempts += 1
        self._sleep(wait)
        return True
