"""Loading a venue's reference data over the network, with retries and clear words."""

from __future__ import annotations

from cmd_common.backoff import SECOND, Backoff
from cmd_common.commands import Reporter
from cmd_common.errors import ProtocolError, RateLimitError, VenueError
from cmd_common.exchange import Endpoints, Exchange, next_instruments_request
from cmd_common.http import HttpRequest
from cmd_common.instruments import Instrument
from cmd_common.seams import Clock, Net, Rng

from .budget import BudgetPools
from .scheduler import DEFAULT_RETRY_AFTER, fetch, passing

__all__ = ["load_instruments"]

ATTEMPTS = 5
PAGES = 100


async def load_instruments(
    exchange: Exchange,
    endpoints: Endpoints,
    net: Net,
    clock: Clock,
    rng: Rng,
    pools: BudgetPools,
    reporter: Reporter,
) -> list[Instrument]:
    """Return what the venue trades.

    A lost connection, a server error or a rate limit is tried again, five times in all a request; a
    rate limit is waited for as long as the exchange says. Raises VenueError, ProtocolError for a body
    that is no reference data, and for pages without an end.
    """
    request = exchange.instruments_request(endpoints)
    instruments: dict[str, Instrument] = {}
    for _ in range(PAGES):
        body = await _load(exchange, request, net, clock, rng, pools, reporter)
        instruments.update((i.symbol, i) for i in exchange.parse_instruments(body))
        following = next_instruments_request(exchange, request, body, endpoints)
        if following is None:
            return list(instruments.values())
        request = following
    raise ProtocolError(f"{exchange.venue}: reference data has more than {PAGES} pages")


async def _load(
    exchange: Exchange, request: HttpRequest, net: Net, clock: Clock, rng: Rng, pools: BudgetPools, reporter: Reporter
) -> bytes:
    budget = pools.get(exchange.limits.weight_pool or exchange.venue, exchange.limits.weight_per_minute)
    backoff = Backoff(rng, limit=ATTEMPTS)
    while True:
        while delay := budget.delay(request.weight, clock.monotonic()):
            await clock.sleep(delay)
        try:
            response = await fetch(exchange, request, net, clock, budget)
        except VenueError as error:
            now = clock.monotonic()
            wait = backoff.failed(now)
            if not passing(error) or backoff.exhausted:
                raise
            if isinstance(error, RateLimitError):
                wait = error.retry_after or DEFAULT_RETRY_AFTER
                budget.ban(now + wait, error.message)
            said = str(error).removeprefix(f"{exchange.venue}: ")
            reporter.warn(f"{exchange.venue}: {said}; next attempt in {wait / SECOND:.1f} s")
            await clock.sleep(wait)
        else:
            return response.body
