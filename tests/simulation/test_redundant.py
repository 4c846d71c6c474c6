"""Two connections for good: one of them breaks again and again, at any moment, and nothing is lost, doubled or out of order.

The world of ``sim_handover`` without an age limit in the way. In the calm seeds one of both breaks at a time, with time in between for the
next one to be ready: there must not be one gap. In the others both may break at once: what is missing then must have a gap.
"""

import asyncio
import random
from collections import Counter

import pytest
import sim_handover
from sim_options import SECOND
from tests.tally import note

from cmd_common.records import FeedStatus

CALM = 60
SEEDS = 90
CHUNKS = 6


class World(sim_handover.World):
    """A recorder with two connections for five virtual minutes, of which one breaks every 20 to 30 s."""

    def __init__(self, seed: int, *, both: bool, venue: str = "") -> None:
        super().__init__(seed, faults=True, venue=venue)
        self.session.options.options["redundant"] = "on"
        del self.session.options.options["connection_age"]
        self.emulator.lifetime = 86_400 * SECOND
        self.both = both
        self.ready: Counter[int] = Counter()

    async def _break(self) -> None:
        feeds = len(self.session.connections())
        while True:
            await self.clock.sleep(int(self.rng.uniform(20, 30) * SECOND))
            infos = self.session.connections()
            self.ready.update(i.counters.second for i in infos)
            if not self.both and any(i.counters.second != 1 for i in infos):
                continue  # only both can lose something
            sockets = [self.net._sockets[n] for n in sorted(self.net._sockets)]
            count = self.rng.choice((1, 2, feeds * 2)) if self.both else 1
            for one in self.rng.sample(sockets, min(count, len(sockets))):
                self.broken["some"] += 1
                one._end(1006, "broken", lose=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_one_of_two_connections_may_break_at_any_moment(chunk):
    total: Counter[str] = Counter()
    for seed in range(chunk, SEEDS, CHUNKS):
        both = seed >= CALM
        world = World(seed, both=both).run()
        count = world.check(seed)
        assert {"trades", "agg_trades", "quotes", "candles", "book_deltas"} <= set(count), (seed, count)
        done = sum(i.counters.handovers.done for i in world.infos)
        if not both:
            assert world.gaps() == [], (seed, world.gaps())
            assert count["holes"] == 0
            assert sum(i.counters.disconnects for i in world.infos) == 0, seed
            live = sum(isinstance(r, FeedStatus) and r.state == "LIVE" for r in world.records)
            assert live == len(world.session.book_states()), f"seed {seed}: the books go on as they are"
            assert world.broken["some"] >= 5, (seed, world.ready)
        total += count
        total["taken over"] += done
        total["broken"] += world.broken["some"]
    print(f"\nchunk {chunk}: {dict(sorted(total.items()))}")
    assert total["taken over"] > SEEDS / CHUNKS
    note("seeds", SEEDS / CHUNKS, "redundant")
    note("faults", total["broken"], "redundant")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_books_that_begin_in_the_stream_go_on_as_well(seed):
    world = World(seed, both=False, venue="okx").run()
    count = world.check(seed)
    assert {"trades", "quotes", "candles", "book_deltas"} <= set(count), count
    assert world.gaps() == [], world.gaps()
    assert count["holes"] == 0
    assert sum(i.counters.disconnects for i in world.infos) == 0
    live = sum(isinstance(r, FeedStatus) and r.state == "LIVE" for r in world.records)
    assert live == len(world.session.book_states())
    assert world.broken["some"] >= 5, world.ready
    assert sum(i.counters.handovers.done for i in world.infos) >= 2
    note("seeds", 1, "redundant")


def test_a_connection_that_says_nothing_is_left_for_the_other():
    world = World(3, both=False)

    async def stall() -> None:
        await world.clock.sleep(40 * SECOND)
        first = world.net._sockets[min(world.net._sockets)]
        first._arrive = lambda frame: None  # type: ignore[method-assign] # it stands, and nothing comes any more
        await world.clock.sleep(1000 * SECOND)

    world._break = stall  # type: ignore[method-assign]
    world.run()
    assert world.check(3)["holes"] == 0
    assert world.gaps() == []
    assert sum(i.counters.handovers.done for i in world.infos) >= 1
    assert any(isinstance(r, FeedStatus) and "second connection alone" in r.reason for r in world.records)


def test_an_old_second_connection_is_replaced_before_both_are_too_old():
    world = World(5, both=False)
    world.session.options.options["connection_age"] = "120"
    world.emulator.lifetime = 120 * SECOND

    async def nothing() -> None:
        await asyncio.sleep(0)

    world._break = nothing  # type: ignore[method-assign]
    world.rng = random.Random(5)
    world.run()
    world.check(5)
    assert world.gaps() == []
    assert sum(i.counters.disconnects for i in world.infos) == 0
    assert sum(i.counters.handovers.done for i in world.infos) >= 2 * len(world.infos)
