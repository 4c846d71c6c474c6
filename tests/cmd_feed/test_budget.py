from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cmd_feed.budget import MARGIN, MINUTE, SECOND, BudgetPools, WeightBudget


class Counter:
    """An exchange that counts weight in calendar minutes of its own clock."""

    def __init__(self, skew: int) -> None:
        self.skew = skew
        self.minutes: dict[int, int] = {}

    def count(self, weight: int, now: int) -> int:
        minute = (now + self.skew) // MINUTE
        self.minutes[minute] = self.minutes.get(minute, 0) + weight
        return self.minutes[minute]


@given(
    st.integers(0, 2**32),
    st.integers(0, MINUTE),
    st.integers(100, 6000),
    st.lists(st.integers(1, 250), min_size=1, max_size=150),
)
def test_the_exchange_never_counts_more_than_the_limit_whenever_its_minutes_start(
    seed: int, skew: int, limit: int, weights: list[int]
) -> None:
    rng = random.Random(seed)
    budget = WeightBudget("pool", limit)
    server = Counter(skew)
    now = 0
    arrivals: list[tuple[int, int]] = []
    for weight in weights:
        now += rng.choice((0, 0, 0, rng.randrange(SECOND), rng.randrange(2 * MINUTE)))
        while delay := budget.delay(weight, now):
            now += delay
        ticket = budget.spend(weight, now)
        arrivals.append((now + rng.randrange(MARGIN), weight))
        budget.answered(ticket, None, now)
        budget.check()
    for time, weight in sorted(arrivals):
        server.count(weight, time)
    assert max(server.minutes.values()) <= max(limit, max(weights))


@given(st.integers(0, 2**32), st.integers(0, MINUTE), st.integers(500, 6000))
def test_what_others_spend_at_this_address_is_seen_in_the_header(seed: int, skew: int, limit: int) -> None:
    rng = random.Random(seed)
    budget = WeightBudget("pool", limit)
    server = Counter(skew)
    now = 0
    unseen = 0  # what others spent since our last response
    for _ in range(100):
        now += rng.randrange(SECOND)
        if rng.random() < 0.3:
            others = rng.randrange(limit // 10)
            server.count(others, now)
            unseen += others
        weight = rng.randrange(1, 50)
        if budget.delay(weight, now):
            continue
        counted = server.count(weight, now)
        assert counted <= limit + unseen
        budget.answered(budget.spend(weight, now), counted, now)
        assert budget.used(now) >= counted
        unseen = 0


def test_requests_under_way_count_besides_the_header() -> None:
    budget = WeightBudget("pool", 1000)
    tickets = [budget.spend(100, 0) for _ in range(4)]
    budget.answered(tickets[3], 600, 0)  # 500 by others; the first three may not be in it
    assert budget.used(0) == 900
    budget.answered(tickets[0], 550, 0)  # an older request says less
    assert budget.used(0) == 900
    assert budget.delay(100, 0) == 0
    assert budget.delay(101, 0) > 0


def test_a_granted_minute_comes_back_after_a_minute_and_a_margin() -> None:
    budget = WeightBudget("pool", 500)
    for second in range(2):
        budget.answered(budget.spend(250, second * SECOND), None, second * SECOND)
    assert budget.delay(250, 2 * SECOND) == MINUTE + MARGIN - 2 * SECOND
    assert budget.delay(250, MINUTE + MARGIN) == 0
    assert budget.delay(500, MINUTE + MARGIN) == SECOND


def test_more_than_the_limit_is_granted_alone() -> None:
    budget = WeightBudget("pool", 100)
    assert budget.delay(250, 0) == 0
    budget.spend(1, 0)
    assert budget.delay(250, 0) == MINUTE + MARGIN


def test_a_ban_stops_everybody_and_is_never_shortened() -> None:
    pools = BudgetPools()
    one = pools.get("binance-futures", 2400)
    two = pools.get("binance-futures", 2400)
    assert one is two
    one.ban(100 * SECOND, "HTTP 418")
    one.ban(50 * SECOND, "HTTP 429")
    assert two.delay(1, 0) == 100 * SECOND
    assert two.banned(99 * SECOND) == SECOND
    assert two.delay(1, 100 * SECOND) == 0
    assert two.bans == 2
    assert two.ban_reason == "HTTP 418"


def test_without_a_published_limit_only_bans_count() -> None:
    budget = WeightBudget("pool", 0)
    for _ in range(1000):
        assert budget.delay(250, 0) == 0
        budget.spend(250, 0)
    budget.ban(5, "429")
    assert budget.delay(1, 0) == 5


def test_the_lower_of_two_published_limits_holds_and_a_tenth_stays_free() -> None:
    pools = BudgetPools()
    assert pools.get("p", 6000).limit == 5400
    assert pools.get("p", 2400).limit == 2160
    assert pools.get("p", 0).limit == 2160
    assert [b.pool for b in pools] == ["p"]
