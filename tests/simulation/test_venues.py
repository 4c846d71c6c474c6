"""Every exchange package against its own emulator over a bad network, for many seeds."""

from __future__ import annotations

import os

import pytest
from venue_chaos import VENUES, Chaos, World

from cmd_common import registry

# CMD_SIM_VENUE_SEEDS: how many seeds a venue, and CMD_SIM_VENUE_FROM the first of them, for long runs.
SEEDS = int(os.environ.get("CMD_SIM_VENUE_SEEDS", "12" if os.environ.get("CMD_REQUIRE") == "all" else "4"))
FIRST = int(os.environ.get("CMD_SIM_VENUE_FROM", "0"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@pytest.mark.parametrize(
    "chaos", VENUES, ids=lambda c: "-".join([c.venue, *c.options.values(), "" if c.sees else "tcp"])
)
def test_a_storm_and_then_calm(chaos: Chaos, seed: int) -> None:
    world = World(registry.exchange(chaos.venue), chaos, seed)
    world.play()
    assert sum(world.faults.values()) >= 3, "the storm was no storm"
    world.check()
