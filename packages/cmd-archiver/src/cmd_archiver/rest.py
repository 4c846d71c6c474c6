"""REST history over the seams: the venue's rate limit, limited retries, and walks that resume.

Theory of operation. All walks of a venue, and of venues that share its pool, draw on one budget: at most
the published weight in any minute, what the exchange itself counts included, and spread evenly, since some
limits are for a second. A request whose answer is an error that may pass, or no page, is repeated with
growing, jittered waits, a limited number of times; a refusal to serve (429, 418, an error in a body)
stops the whole pool for as long as the exchange says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from cmd_common.backoff import Backoff
from cmd_common.commands import Reporter
from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, VenueError
from cmd_common.exchange import Endpoints, Exchange
from cmd_common.history import HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.seams import Clock, Net, Rng
from cmd_feed.budget import MINUTE, BudgetPools, WeightBudget
from cmd_feed.scheduler import fetch, passing

from .parts import PagesFile

__all__ = ["Pools", "RestClient", "Walker"]

SECOND: Final = 1_000_000_000
ATTEMPTS: Final = 8  # of one request in a row
_BAD_PAGES: Final = 4  # of them with an answer that is no page
_LONGEST_BAN: Final = 900 * SECOND  # what is longer ends the run with the exchange's words
_BAN_418: Final = 120 * SECOND  # a ban whose end was not told

T = TypeVar("T")


class _Pace:
    """Requests of one pool one after the other, each as long after the last as its weight is worth."""

    def __init__(self, budget: WeightBudget) -> None:
        self.budget = budget
        self.turn = asyncio.Lock()
        self.free_at = 0  # monotonic ns

    def take(self, weight: int, now: int) -> int:
        """How long to wait, ns; 0: the request may go, and the next one's time is set."""
        wait = max(self.budget.delay(weight, now), self.free_at - now)
        if wait <= 0 and self.budget.limit:
            self.free_at = max(self.free_at, now) + MINUTE * weight // self.budget.limit
        return max(wait, 0)


class Pools:
    """The budgets of a run by pool name."""

    def __init__(self) -> None:
        self._budgets = BudgetPools()
        self._paces: dict[str, _Pace] = {}

    def get(self, exchange: Exchange) -> _Pace:
        """The pace of an exchange's pool."""
        name = exchange.limits.weight_pool or exchange.venue
        budget = self._budgets.get(name, exchange.limits.weight_per_minute)
        return self._paces.setdefault(name, _Pace(budget))


class RestCounters(Struct):
    """Counts since the client was made."""

    requests: int = 0
    retries: int = 0
    limited: int = 0  # times that the exchange asked for a pause
    resumed: int = 0  # walks that went on from an earlier run's pages
    restarted: int = 0  # walks begun again because their cursor was not taken any more


class RestClient:
    """Requests to one venue within its limits."""

    def __init__(
        self, exchange: Exchange, net: Net, clock: Clock, rng: Rng, pools: Pools, warn: Callable[[str], None]
    ) -> None:
        self.exchange = exchange
        self.counters = RestCounters()
        self._net = net
        self._clock = clock
        self._rng = rng
        self._pace = pools.get(exchange)
        self._warn = warn

    async def get(self, request: HttpRequest, take: Callable[[HttpResponse], T], *, attempts: int = ATTEMPTS) -> T:
        """Ask until ``take`` has a value from a good response; ``take`` raises ProtocolError for a bad one.

        Raises VenueError or ProtocolError after ``attempts``, at once where asking again cannot help.
        """
        backoff = Backoff(self._rng, base=SECOND // 2, cap=60 * SECOND, limit=attempts)
        while True:
            await self._turn(request.weight)
            self.counters.requests += 1
            try:
                response = await fetch(self.exchange, request, self._net, self._clock, self._pace.budget)
                return take(response)
            except (VenueError, ProtocolError) as error:
                wait = backoff.failed(self._clock.monotonic())
                useless = not passing(error) if isinstance(error, VenueError) else backoff.attempts >= _BAD_PAGES
                if useless or backoff.exhausted:
                    raise
                if isinstance(error, RateLimitError):
                    wait = self._limited(error, wait)
                self.counters.retries += 1
                await self._clock.sleep(wait)

    async def _turn(self, weight: int) -> None:
        budget = self._pace.budget
        async with self._pace.turn:
            left = budget.banned(self._clock.monotonic())
            if left > _LONGEST_BAN:  # asking on would make it longer
                raise _banned(self.exchange.venue, budget.ban_reason, left)
            while wait := self._pace.take(weight, self._clock.monotonic()):
                await self._clock.sleep(wait)

    def _limited(self, error: RateLimitError, wait: int) -> int:
        self.counters.limited += 1
        wait = max(wait, error.retry_after or (_BAN_418 if error.status == 418 else 0))
        self._pace.budget.ban(self._clock.monotonic() + wait, error.message)
        if wait > _LONGEST_BAN:
            raise _banned(self.exchange.venue, error.message, wait) from None
        if wait >= 2 * SECOND:
            self._warn(f"{self.exchange.venue}: {error.message}; going on in {wait / SECOND:.0f} s")
        return wait


def _banned(venue: str, words: str, left: int) -> RateLimitError:
    return RateLimitError(
        f"{venue}: {words}; it asks for a pause of {left // (60 * SECOND)} minutes",
        status=429,
        retry_after=left,
        hint="run it again after that",
    )


class Walker:
    """Fetches walks into files of pages."""

    def __init__(
        self, source: HistorySource, endpoints: Endpoints, client: RestClient, clock: Clock, reporter: Reporter
    ) -> None:
        self.pages = 0
        self._source = source
        self._endpoints = endpoints
        self._client = client
        self._clock = clock
        self._reporter = reporter

    def finish(self) -> None:
        """No walk follows: end the progress of pages."""
        if self.pages:
            self._reporter.progress("pages", self.pages, self.pages, unit="pages")

    async def fetch(self, walk: Walk, path: Path) -> PagesFile:
        """Walk to the end, from where an earlier run was; returns the file, closed.

        Raises VenueError, ProtocolError, UsageError; OSError for the disk. The pages so far stay.
        """
        file = await asyncio.to_thread(PagesFile, path, walk)
        try:
            resumed = file.pages > 0 and file.cursor is not None
            self._client.counters.resumed += resumed
            while file.cursor is not None:
                try:
                    await self._page(walk, file)
                except BlockedError:
                    raise
                except (VenueError, ProtocolError) as error:
                    if not resumed or (isinstance(error, VenueError) and passing(error)):
                        raise
                    resumed = False  # the cursor of an earlier run may mean nothing any more
                    self._client.counters.restarted += 1
                    await asyncio.to_thread(file.begin)
                else:
                    resumed = False
        finally:
            file.close()
        return file

    async def _page(self, walk: Walk, file: PagesFile) -> None:
        source, cursor = self._source, file.cursor
        assert cursor is not None
        request = source.next(walk, cursor, self._endpoints) if cursor else source.first(walk, self._endpoints)
        page = await self._client.get(request, lambda r: source.page(walk, cursor, r, self._clock.now()))
        if page.cursor is not None and (page.cursor == "" or page.cursor == cursor or page.cursor in file.asked):
            raise ProtocolError(
                f"{self._client.exchange.venue}: the history of {walk.symbol} does not advance at {page.cursor!r:.100}"
            )
        writing = asyncio.ensure_future(asyncio.to_thread(file.append, cursor, page))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing  # no thread is left behind that writes to a closed file
            raise
        self.pages += 1
        self._reporter.progress("pages", self.pages, None, unit="pages")
        if page.cursor is not None and page.wait > 0:
            await self._clock.sleep(page.wait)
