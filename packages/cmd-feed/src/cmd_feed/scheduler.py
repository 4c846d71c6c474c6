"""Which snapshot to fetch next, and when: priorities, weight, bounded concurrency, limited retries.

``SnapshotQueue`` is the pure core: time is an argument, nothing waits. ``SnapshotScheduler`` is the
thin shell around it that makes the requests. Hundreds of books that start together ask for snapshots
whose weight is many minutes of budget; the queue spends it in order of priority and never faster than
the exchange allows, and a request that waits is never overtaken by a cheaper one of lower rank.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence

from msgspec import Struct

from cmd_common.backoff import SECOND, Backoff
from cmd_common.errors import BlockedError, CmdError, DisconnectedError, RateLimitError, VenueError
from cmd_common.exchange import Exchange
from cmd_common.feed import FetchSnapshot
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.seams import Clock, Net, Rng

from .budget import WeightBudget

__all__ = ["Job", "SnapshotCounters", "SnapshotQueue", "SnapshotScheduler", "fetch", "passing", "sleep_or"]

Key = tuple[str, str]  # connection name, symbol
DEFAULT_RETRY_AFTER = 60 * SECOND  # the exchange banned us without saying for how long
BLOCKED_FOR = 300 * SECOND  # between two tries where a firewall refuses this address


class SnapshotCounters(Struct):
    """Counts since the queue was made."""

    asked: int = 0
    started: int = 0
    done: int = 0
    retried: int = 0
    failed: int = 0
    cancelled: int = 0
    rate_limited: int = 0
    replaced: int = 0


class Job(Struct):
    """One wanted snapshot; ``attempt`` counts from 1 while it runs."""

    key: Key
    request: HttpRequest
    priority: int
    order: int
    attempt: int = 0
    not_before: int = 0
    backoff: Backoff | None = None


class SnapshotQueue:
    """The pure core: jobs by priority, then age; at most ``concurrency`` run at once.

    A key has at most one job; asking again replaces what waits, and what runs is disowned: its result
    is refused by ``finish``. Times are monotonic ns. O(log n) per operation, amortised.
    """

    def __init__(
        self, budget: WeightBudget, rng: Rng, *, concurrency: int = 8, attempts: int = 6, base: int = SECOND // 2
    ) -> None:
        self.budget = budget
        self.concurrency = concurrency
        self.attempts = attempts
        self.base = base
        self.counters = SnapshotCounters()
        self._rng = rng
        self._order = 0
        self._heap: list[tuple[int, int, Key]] = []  # ready to run
        self._later: list[tuple[int, int, Key]] = []  # retries by time
        self._waiting: dict[Key, Job] = {}
        self._running: dict[Key, Job] = {}
        self._slots = 0  # requests under way, disowned ones too

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def pending(self, name: str | None = None) -> int:
        """Return how many jobs wait or run, of one connection or of all."""
        if name is None:
            return len(self)
        return sum(k[0] == name for k in self._waiting) + sum(k[0] == name for k in self._running)

    def add(self, key: Key, request: HttpRequest, priority: int = 0) -> None:
        """Ask for a snapshot; a newer wish for the same key replaces the older one."""
        self.counters.asked += 1
        if self._waiting.pop(key, None) or self._running.pop(key, None):
            self.counters.replaced += 1
        self._order += 1
        job = Job(key, request, priority, self._order)
        self._waiting[key] = job
        heapq.heappush(self._heap, (priority, job.order, key))

    def cancel(self, name: str, symbols: Sequence[str] | None = None) -> None:
        """Drop the jobs of a connection, or of some of its symbols."""
        keys = [k for jobs in (self._waiting, self._running) for k in jobs if k[0] == name]
        for key in keys:
            if symbols is None or key[1] in symbols:
                self.counters.cancelled += 1
                self._waiting.pop(key, None)
                self._running.pop(key, None)

    def next(self, now: int) -> Job | int | None:
        """Return the job to start at ``now``, or how many ns to wait, or None: nothing to do until
        something is added or finished. A returned job holds a slot until ``finish``.
        """
        while self._later and self._later[0][0] <= now:
            _, order, key = heapq.heappop(self._later)
            waiting = self._waiting.get(key)
            if waiting is not None and waiting.order == order:
                heapq.heappush(self._heap, (waiting.priority, order, key))
        while self._heap:
            _, order, key = self._heap[0]
            job = self._waiting.get(key)
            if job is None or job.order != order:
                heapq.heappop(self._heap)  # cancelled or replaced
                continue
            if self._slots >= self.concurrency:
                return None
            wait = self.budget.delay(job.request.weight, now)
            if wait:
                return wait
            heapq.heappop(self._heap)
            del self._waiting[key]
            self._running[key] = job
            self._slots += 1
            job.attempt += 1
            self.counters.started += 1
            return job
        while self._later:
            time, order, key = self._later[0]
            waiting = self._waiting.get(key)
            if waiting is None or waiting.order != order:
                heapq.heappop(self._later)
                continue
            return max(1, time - now)
        return None

    def finish(self, job: Job) -> bool:
        """A job's request was answered well; False if nobody waits for it any more."""
        self._slots -= 1
        if self._running.get(job.key) is not job:
            return False
        del self._running[job.key]
        self.counters.done += 1
        return True

    def fail(self, job: Job, error: VenueError, now: int) -> bool:
        """A job's request failed at ``now``; True if it was given up and its owner must be told.

        A rate limit bans the whole pool, waits for its end and is tried again; a lost connection or a
        server error is tried again with backoff, up to the limit; anything else is final. A firewall's
        refusal keeps the whole pool quiet for ``BLOCKED_FOR``, so that hundreds of books do not provoke it.
        """
        self._slots -= 1
        if isinstance(error, RateLimitError):
            self.counters.rate_limited += 1
            self.budget.ban(now + (error.retry_after or DEFAULT_RETRY_AFTER), error.message)
        elif isinstance(error, BlockedError):
            self.budget.ban(now + BLOCKED_FOR, error.message)
        if self._running.get(job.key) is not job:
            return False
        del self._running[job.key]
        if not passing(error) or job.attempt >= self.attempts:
            self.counters.failed += 1
            return True
        if job.backoff is None:
            job.backoff = Backoff(self._rng, base=self.base)
        self.counters.retried += 1
        job.not_before = now + job.backoff.failed(now)
        self._waiting[job.key] = job
        heapq.heappush(self._later, (job.not_before, job.order, job.key))
        return False

    def check(self) -> None:
        """Assert the invariants."""
        assert not self._waiting.keys() & self._running.keys()
        assert len(self._running) <= self._slots <= max(self.concurrency, 0)
        queued = {(o, k) for _, o, k in self._heap} | {(o, k) for _, o, k in self._later}
        assert all((job.order, key) in queued for key, job in self._waiting.items())
        self.budget.check()


def passing(error: VenueError) -> bool:
    """Whether the same request may well succeed later."""
    if isinstance(error, BlockedError):
        return False
    return isinstance(error, RateLimitError | DisconnectedError) or error.status >= 500 or error.status == 408


class SnapshotScheduler:
    """The shell: makes the queue's requests for one venue and hands the bodies to the owners.

    ``deliver(name, symbol, body)`` and ``give_up(name, symbol, error)`` are called in the event loop.
    ``arrived(url, response)`` sees every good response, for the raw recording.
    """

    def __init__(
        self,
        exchange: Exchange,
        queue: SnapshotQueue,
        net: Net,
        clock: Clock,
        *,
        deliver: Callable[[str, str, bytes], None],
        give_up: Callable[[str, str, CmdError], None],
        arrived: Callable[[str, HttpResponse], None] | None = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.exchange = exchange
        self.queue = queue
        self._net = net
        self._clock = clock
        self._deliver = deliver
        self._give_up = give_up
        self._arrived = arrived
        self._warn = warn
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._warned_until = 0

    def start(self) -> None:
        """Begin to serve the queue in a task of its own."""
        if self._dispatcher is None:
            self._dispatcher = asyncio.create_task(self._dispatch(), name=f"snapshots {self.exchange.venue}")

    async def stop(self) -> None:
        """Cancel everything under way and wait for it."""
        tasks = [*self._tasks, *([self._dispatcher] if self._dispatcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._dispatcher = None

    def ask(self, name: str, action: FetchSnapshot) -> None:
        """Queue what a Feed asked for."""
        self.queue.add((name, action.symbol), action.request, action.priority)
        self._wake.set()

    def cancel(self, name: str, symbols: Sequence[str] | None = None) -> None:
        """Forget what a connection asked for."""
        self.queue.cancel(name, symbols)
        self._wake.set()

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            found = self.queue.next(self._clock.monotonic())
            if isinstance(found, Job):
                task = asyncio.create_task(self._run(found), name=f"snapshot {found.key[1]}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            self._say_banned()
            if found is None:
                await self._wake.wait()
            else:
                await sleep_or(self._clock, found, self._wake)

    def _say_banned(self) -> None:
        budget = self.queue.budget
        now = self._clock.monotonic()
        left = budget.banned(now)
        if left and now >= self._warned_until:
            self._warned_until = now + left
            self._warn(
                f"{self.exchange.venue}: no requests for {left / SECOND:.0f} s: {budget.ban_reason}; "
                f"{len(self.queue)} order book snapshots wait"
            )

    async def _run(self, job: Job) -> None:
        name, symbol = job.key
        failed: VenueError | None = None
        try:
            response = await fetch(self.exchange, job.request, self._net, self._clock, self.queue.budget)
        except VenueError as error:
            failed = error
        except Exception as error:  # a defect below must not keep the slot and the book's wish for ever
            failed = VenueError(f"the request broke: {type(error).__name__}: {error}")
        try:
            if failed is not None:
                if self.queue.fail(job, failed, self._clock.monotonic()):
                    self._give_up(name, symbol, failed)
                return
            if self._arrived is not None:
                self._arrived(job.request.url, response)
            if self.queue.finish(job):
                self._deliver(name, symbol, response.body)
        finally:
            self._wake.set()


async def sleep_or(clock: Clock, ns: int, event: asyncio.Event) -> None:
    """Wait for a time in ns or an event, whichever comes first."""
    if ns <= 0 or event.is_set():
        return
    tasks = (asyncio.ensure_future(clock.sleep(ns)), asyncio.ensure_future(event.wait()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fetch(exchange: Exchange, request: HttpRequest, net: Net, clock: Clock, budget: WeightBudget) -> HttpResponse:
    """Make one request whose weight may be spent now; raises VenueError in the exchange's clear words."""
    ticket = budget.spend(request.weight, clock.monotonic())
    used: int | None = None
    try:
        response = await net.request(request)
        used = exchange.used_weight(response)
    finally:
        budget.answered(ticket, used, clock.monotonic())
    error = exchange.check(response, request.url)
    if error is not None:
        raise error
    return response
