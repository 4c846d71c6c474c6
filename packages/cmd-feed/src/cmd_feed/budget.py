"""One request budget per rate-limit pool: what may be spent now, and who must wait until when.

Theory of operation. An exchange counts the weight of an address's requests in calendar minutes of its
own clock and tells the count in a header. We do not know where its minutes start, so we bound what we
spend in *any* stretch of a minute (plus a margin for requests that were under way). Others may use the
same address: the count of the newest response, plus what it cannot contain yet (requests unanswered then,
or sent later), is a second estimate, and the higher of the two is what has been used. A ban (429 or 418 with Retry-After)
stops everybody who shares the pool; the exchange makes bans longer for who goes on asking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

__all__ = ["BudgetPools", "WeightBudget"]

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
MARGIN = 5 * SECOND  # a request may travel this much longer than the one before it


class WeightBudget:
    """The weight of one pool; ``limit`` is weight per minute, 0: not published, only bans count.

    All times are monotonic ns. Every method is O(requests of a minute) or better.
    """

    def __init__(self, pool: str, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit {limit} is negative")
        self.pool = pool
        self.limit = limit
        self.granted = 0  # weight granted in all
        self.bans = 0
        self.ban_reason = ""
        self._grants: deque[tuple[int, int]] = deque()  # (time, weight), oldest first
        self._own = 0  # sum over _grants
        self._banned_until = 0
        self._tickets = 0
        self._open: dict[int, int] = {}  # weight of the requests under way, by ticket
        self._reported = 0  # newest count of the exchange ...
        self._reported_ticket = 0  # ... in the response to this request
        self._reported_until = 0  # ... which means nothing after this moment
        self._since = 0  # what that count cannot contain

    def used(self, now: int) -> int:
        """Return the weight that counts as used at ``now``."""
        self._expire(now)
        reported = self._reported + self._since if now < self._reported_until else 0
        return max(self._own, reported)

    def delay(self, weight: int, now: int) -> int:
        """Return how many ns to wait before ``weight`` may be spent; 0: now.

        More than the limit is granted alone, when nothing else is used.
        """
        if now < self._banned_until:
            return self._banned_until - now
        if not self.limit:
            return 0
        allowed = max(self.limit - weight, 0)
        if self.used(now) <= allowed:
            return 0
        wait = 0
        if now < self._reported_until and self._reported + self._since > allowed:
            wait = self._reported_until - now
        own = self._own
        for time, spent in self._grants:
            if own <= allowed:
                break
            own -= spent
            wait = max(wait, time + MINUTE + MARGIN - now)
        return max(wait, 1)

    def spend(self, weight: int, now: int) -> int:
        """Count a request of ``weight`` that is sent at ``now``; returns a ticket for ``answered``."""
        self.granted += weight
        self._tickets += 1
        self._expire(now)
        self._grants.append((now, weight))
        self._own += weight
        self._since += weight
        self._open[self._tickets] = weight
        return self._tickets

    def answered(self, ticket: int, used: int | None, now: int) -> None:
        """A request ended; ``used`` is the exchange's count in its response, None where there is none."""
        self._open.pop(ticket, None)
        if used is None or ticket < self._reported_ticket:
            return  # an older request than the newest known: its count says less
        self._reported = used
        self._reported_ticket = ticket
        self._reported_until = now + MINUTE
        self._since = sum(self._open.values())

    def ban(self, until: int, reason: str) -> None:
        """Stop everybody on this pool until ``until``; an earlier end than the known one is ignored."""
        self.bans += 1
        if until > self._banned_until:
            self._banned_until = until
            self.ban_reason = reason

    def banned(self, now: int) -> int:
        """Return how many ns the ban lasts from ``now``; 0: none."""
        return max(0, self._banned_until - now)

    def check(self) -> None:
        """Assert the invariants."""
        assert self._own == sum(w for _, w in self._grants)
        assert all(a[0] <= b[0] for a, b in zip(self._grants, list(self._grants)[1:], strict=False))
        assert self._since >= 0

    def _expire(self, now: int) -> None:
        grants = self._grants
        edge = now - MINUTE - MARGIN
        while grants and grants[0][0] <= edge:
            self._own -= grants.popleft()[1]


class BudgetPools:
    """The budgets of a process by pool name; venues that name the same pool share one."""

    def __init__(self, share: float = 0.9) -> None:
        self.share = share  # of the published limit; the rest is for other programs at this address
        self._pools: dict[str, WeightBudget] = {}

    def get(self, pool: str, limit: int) -> WeightBudget:
        """Return the pool's budget; where two venues publish different limits, the lower one holds."""
        limit = int(limit * self.share)
        budget = self._pools.get(pool)
        if budget is None:
            budget = self._pools[pool] = WeightBudget(pool, limit)
        elif limit and (not budget.limit or limit < budget.limit):
            budget.limit = limit
        return budget

    def __iter__(self) -> Iterator[WeightBudget]:
        return iter(self._pools.values())
