"""Connections that reach the exchange's age limit under load, over many seeds: nothing lost, doubled or out of order.

The real session, feeds, builders and emulator under virtual time; the limit of 24 h is 120 s here. The first
hundred seeds have no fault, and must not have one hole or gap. In the others one of both connections breaks while both
are open: a stream of which something is missing then must have a gap.
"""

from collections import Counter

import pytest
from sim_handover import World

from cmd_common.records import FeedStatus

CALM = 100  # seeds without a fault
SEEDS = 150
CHUNKS = 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_lost_or_doubled_at_the_age_limit(chunk):
    total: Counter[str] = Counter()
    for seed in range(chunk, SEEDS, CHUNKS):
        faults = seed >= CALM
        world = World(seed, faults=faults).run()
        count = world.check(seed)
        assert {"trades", "agg_trades", "quotes", "candles", "book_deltas"} <= set(count), (seed, count)
        done = sum(i.counters.handovers.done for i in world.infos)
        if not faults:
            assert world.gaps() == [], (seed, world.gaps())
            assert count["holes"] == 0
            assert sum(i.counters.disconnects for i in world.infos) == 0, seed
            assert sum(isinstance(r, FeedStatus) and r.state == "LIVE" for r in world.records) == len(
                world.session.book_states()
            ), f"seed {seed}: the books go on as they are"
            assert done >= 2 * len(world.infos), seed
        total += count
        total["handovers"] += done
        total.update({f"broken {k}": n for k, n in world.broken.items()})
    print(f"\nchunk {chunk}: {dict(sorted(total.items()))}")
    assert total["broken old"] + total["broken new"] > 0


def test_without_the_handover_the_same_world_has_gaps():
    world = World(0, faults=False, handover="off").run()
    assert world.gaps()
    assert sum(i.counters.handovers.done for i in world.infos) == 0
