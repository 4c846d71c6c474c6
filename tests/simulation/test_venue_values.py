"""Every exchange package against frames and bodies in which single values are not what they should be.

Torn frames and garbage are ``test_venues``' part; here the form is right and one value, key or item is not. Nothing may
leave a feed as an exception, and every record must be one that a store can hold.
"""

from __future__ import annotations

import json
import math
import os
import random
from typing import Any, Final

import pytest
from msgspec.structs import replace
from venue_chaos import SECOND, VENUES, Chaos, Link, World

from cmd_common import registry
from cmd_common.emulation import Pending
from cmd_common.emulation import Text as ServerText
from cmd_common.feed import Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import Gap, Quote, Record, Trade

FIRST = int(os.environ.get("CMD_SIM_VENUE_FROM", "0"))
SEEDS = int(os.environ.get("CMD_SIM_VENUE_SEEDS", "4" if os.environ.get("CMD_REQUIRE") == "all" else "1"))
_END: Final = 2**63
_VALUES: Final[tuple[Any, ...]] = (
    None, True, -1, -1.5, 0, "0", 1e308, "NaN", "Infinity", "1e999", "1e-400", "", " ", [], {}, [[]], [None], ["1"],
    2**63, 2**70, -(2**63), "9" * 400, "9" * 5000, "1_0", "\u0663", "-0", "x", "0x10", {"a": 1}, ["1", "2", "3", "4"],
    "9999-99-99T99:99:99Z", "0001-01-01T00:00:00.000000Z", "2262-12-31T23:59:59Z", 9_199_999_999, 9_199_999_999_999,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values, and of the first four items of lists."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, item in inner:
        found += places(item, (*path, key))
    return found


def changed(text: str, rng: random.Random) -> str:
    """The text with one value replaced, left out, or added."""
    try:
        whole = json.loads(text)
    except ValueError:
        return text
    path, value = rng.choice(places(whole)), rng.choice(_VALUES)
    if not path:
        return json.dumps(value)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    kind = rng.random()
    if kind < 0.75 or isinstance(inner, list):
        inner[path[-1]] = value
    elif kind < 0.9:
        del inner[path[-1]]
    else:
        inner[f"new_{rng.randrange(5)}"] = value
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=rng.random() < 0.5)


class OddWorld(World):
    """A network that carries everything, some of it changed."""

    odd = 0

    def to_client(self, link: Link, frame: ServerText) -> None:
        text = frame.text
        if self.storming and self.rng.random() < 0.15:
            self.odd += 1
            text = changed(text, self.rng)
        self.at(self.later(link, 1), lambda: self.deliver(link, text))

    def _http(self, request: HttpRequest) -> HttpResponse | Pending:
        response = super()._http(request)
        if self.storming and isinstance(response, HttpResponse) and self.rng.random() < 0.5:
            response = HttpResponse(
                response.status, changed(response.body.decode(), self.rng).encode(), response.headers
            )
        return response


def cannot_be(record: Record) -> bool:
    times = (record.ts_from, record.ts_to) if isinstance(record, Gap) else (record.ts_event,)
    if not all(0 < t < _END for t in times) or list(times) != sorted(times):
        return True
    if isinstance(record, Trade):
        return not (0 < record.price < math.inf and 0 <= record.quantity < math.inf)
    if isinstance(record, Quote):
        values = (record.bid_price, record.bid_quantity, record.ask_price, record.ask_quantity)
        return not all(0 <= v < math.inf for v in values)
    return False


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@pytest.mark.parametrize("chaos", VENUES, ids=lambda c: "-".join([c.venue, *c.options.values()]))
def test_odd_values_leave_no_error_and_no_record_that_cannot_be(chaos: Chaos, seed: int) -> None:
    exchange = registry.exchange(chaos.venue)
    world = OddWorld(exchange, replace(chaos, storm=30, calm=5), seed)
    intervals = tuple(getattr(exchange, "live_intervals", exchange.intervals))[:2]
    subscription = Subscription(tuple(world.instruments), exchange.types, intervals=intervals, options=chaos.options)
    world.feeds = exchange.feeds(subscription, world.instruments, world.endpoints)
    for feed in world.feeds:
        world.connect(feed)
    world.run(world.now + 4 * SECOND)
    world.storming = True
    world.run(world.now + 30 * SECOND)
    for feed in world.feeds:
        world.records += feed.close(world.now).records
    assert world.odd > 20
    assert any(isinstance(r, Trade) for r in world.records)
    assert [r for r in world.records if cannot_be(r)] == []
