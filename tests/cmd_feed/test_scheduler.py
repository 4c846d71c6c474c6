from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import BlockedError, DisconnectedError, ProtocolError, RateLimitError, VenueError
from cmd_common.http import HttpRequest
from cmd_feed.budget import MARGIN, MINUTE, SECOND, WeightBudget
from cmd_feed.scheduler import BLOCKED_FOR, Job, SnapshotQueue, passing


def request(weight: int = 250) -> HttpRequest:
    return HttpRequest("http://127.0.0.1/depth", weight=weight)


def test_hundreds_of_books_never_spend_more_than_the_budget_and_all_come() -> None:
    # 400 spot books of weight 250 at 6000 a minute: the exchange would ban whoever asks at once
    budget = WeightBudget("spot", 6000)
    queue = SnapshotQueue(budget, random.Random(1), concurrency=8)
    for n in range(400):
        queue.add(("binance-spot/0", f"S{n}"), request(), priority=n % 3)
    now = 0
    spent: list[tuple[int, int]] = []
    order: list[int] = []
    running: list[tuple[int, Job]] = []
    while len(queue):
        found = queue.next(now)
        if isinstance(found, Job):
            budget.answered(budget.spend(found.request.weight, now), None, now)
            spent.append((now, found.request.weight))
            order.append(found.priority)
            running.append((now + SECOND // 5, found))
            assert len(running) <= 8
        elif running and (found is None or running[0][0] <= now + found):
            now, job = running.pop(0)
            assert queue.finish(job)
        else:
            assert isinstance(found, int)
            now += found
        queue.check()
    assert len(spent) == 400
    assert order == sorted(order)
    for start, _ in spent:
        assert sum(w for t, w in spent if start <= t < start + MINUTE) <= 6000
    assert now <= (400 * 250 // 6000 + 1) * (MINUTE + MARGIN)


@given(st.data())
def test_random_operations_keep_the_invariants_and_lose_no_job(data: st.DataObject) -> None:
    budget = WeightBudget("p", 1000)
    queue = SnapshotQueue(budget, random.Random(data.draw(st.integers(0, 99))), concurrency=3, attempts=3)
    now = 0
    running: list[Job] = []
    wanted: set[tuple[str, str]] = set()
    ended: list[tuple[str, str]] = []
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(("add", "next", "next", "finish", "fail", "cancel", "wait")))
        key = (data.draw(st.sampled_from("ab")), data.draw(st.sampled_from("XYZ")))
        if step == "add":
            queue.add(key, request(data.draw(st.integers(1, 400))), data.draw(st.integers(0, 2)))
            wanted.add(key)
        elif step == "next":
            found = queue.next(now)
            if isinstance(found, Job):
                budget.answered(budget.spend(found.request.weight, now), None, now)
                running.append(found)
        elif step == "finish" and running:
            job = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if queue.finish(job):
                wanted.discard(job.key)
                ended.append(job.key)
        elif step == "fail" and running:
            job = running.pop(data.draw(st.integers(0, len(running) - 1)))
            error = data.draw(
                st.sampled_from(
                    (
                        DisconnectedError("gone"),
                        VenueError("bad symbol", status=400),
                        RateLimitError("slow down", status=429, retry_after=SECOND),
                    )
                )
            )
            if queue.fail(job, error, now):
                wanted.discard(job.key)
        elif step == "cancel":
            queue.cancel(key[0], [key[1]])
            wanted.discard(key)
        elif step == "wait":
            now += data.draw(st.integers(0, 2 * MINUTE))
        queue.check()
        assert len(queue) == len(wanted)
    # whatever happened: everything still wanted comes in the end
    for job in running:
        if queue.finish(job):
            wanted.discard(job.key)
    for _ in range(1000):
        found = queue.next(now)
        if isinstance(found, Job):
            budget.answered(budget.spend(found.request.weight, now), None, now)
            assert queue.finish(found)
            wanted.discard(found.key)
        elif found is None:
            break
        else:
            now += found
    assert not wanted
    assert len(queue) == 0


def test_asking_again_replaces_the_old_wish_and_disowns_its_answer() -> None:
    queue = SnapshotQueue(WeightBudget("p", 0), random.Random(1))
    queue.add(("c", "X"), request(1))
    first = queue.next(0)
    assert isinstance(first, Job)
    queue.add(("c", "X"), request(2))
    second = queue.next(0)
    assert isinstance(second, Job)
    assert second.request.weight == 2
    assert queue.finish(first) is False
    assert queue.finish(second) is True
    assert queue.next(0) is None
    assert queue.counters.replaced == 1


def test_an_expensive_request_is_not_overtaken_by_cheap_ones_of_lower_rank() -> None:
    budget = WeightBudget("p", 100)
    queue = SnapshotQueue(budget, random.Random(1))
    budget.spend(50, 0)
    queue.add(("c", "BIG"), request(80), priority=0)
    queue.add(("c", "SMALL"), request(5), priority=1)
    wait = queue.next(0)
    assert wait == MINUTE + MARGIN
    job = queue.next(MINUTE + MARGIN)
    assert isinstance(job, Job)
    assert job.key[1] == "BIG"


def test_a_rate_limit_bans_the_pool_for_as_long_as_the_exchange_says() -> None:
    budget = WeightBudget("p", 6000)
    queue = SnapshotQueue(budget, random.Random(1))
    queue.add(("c", "X"), request())
    job = queue.next(0)
    assert isinstance(job, Job)
    assert queue.fail(job, RateLimitError("429", status=429, retry_after=7 * SECOND), 0) is False
    assert budget.banned(0) == 7 * SECOND
    now = 0
    while not isinstance(found := queue.next(now), Job):
        assert isinstance(found, int)
        now += found
    assert now >= 7 * SECOND
    assert found.attempt == 2


def test_attempts_are_limited_and_what_cannot_pass_is_final_at_once() -> None:
    queue = SnapshotQueue(WeightBudget("p", 0), random.Random(1), attempts=4)
    queue.add(("c", "X"), request())
    now = 0
    given_up = False
    for attempt in range(1, 5):
        while not isinstance(job := queue.next(now), Job):
            assert isinstance(job, int)
            now += job
        assert job.attempt == attempt
        given_up = queue.fail(job, DisconnectedError("gone"), now)
        assert given_up == (attempt == 4)
    assert given_up
    assert queue.next(now) is None
    queue.add(("c", "Y"), request())
    job = queue.next(now)
    assert isinstance(job, Job)
    assert queue.fail(job, BlockedError("451", status=451), now) is True
    assert queue.counters.failed == 2


def test_cancelling_a_connection_forgets_all_of_it_and_only_it() -> None:
    queue = SnapshotQueue(WeightBudget("p", 0), random.Random(1))
    for name in ("a", "b"):
        for symbol in ("X", "Y"):
            queue.add((name, symbol), request())
    running = queue.next(0)
    assert isinstance(running, Job)
    assert running.key[0] == "a"
    queue.cancel("a")
    assert queue.pending("a") == 0
    assert queue.pending("b") == 2
    assert queue.finish(running) is False
    queue.check()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DisconnectedError("gone"), True),
        (RateLimitError("slow", status=418, retry_after=0), True),
        (VenueError("down", status=503), True),
        (VenueError("timeout", status=408), True),
        (VenueError("no such symbol", status=400), False),
        (BlockedError("no", status=403), False),
    ],
)
def test_which_errors_pass(error: VenueError, expected: bool) -> None:
    assert passing(error) is expected
    assert not isinstance(error, ProtocolError)


def test_a_firewall_that_refuses_keeps_the_whole_pool_quiet_for_a_while() -> None:
    budget = WeightBudget("p", 6000)
    queue = SnapshotQueue(budget, random.Random(1))
    queue.add(("c", "A"), request())
    queue.add(("c", "B"), request())
    job = queue.next(0)
    assert isinstance(job, Job)
    assert queue.fail(job, BlockedError("its firewall refused this address", status=403), 0)
    assert queue.next(SECOND) == BLOCKED_FOR - SECOND
    assert isinstance(queue.next(BLOCKED_FOR), Job)


async def test_a_request_that_breaks_unexpectedly_frees_its_slot_and_is_told(rig: Any, server: Any, until: Any) -> None:
    r = rig(server, rest=True)
    real = r.net.request

    async def request_once(request: HttpRequest) -> Any:
        r.net.request = real
        raise ValueError("no such thing")

    r.net.request = request_once
    async with r.running():
        await until(lambda: r.feed.failed)
        assert r.feed.failed == [("BTC", "the request broke: ValueError: no such thing")]
        assert len(r.scheduler.queue) == r.scheduler.queue._slots == 0
