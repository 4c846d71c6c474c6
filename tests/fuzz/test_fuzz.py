"""Every fuzz target with its seeds and some mutations of them, the same ones every time; ``deploy/fuzz-python.sh`` runs longer."""

from __future__ import annotations

import random
import time

import pytest
from fuzz_targets import TARGETS
from fuzz_venues import mutated
from tests.tally import amount, note

HANG = 30.0  # s; a second is the goal, and a loaded machine must not fail a test


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_it(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    rng = random.Random(name)
    pool = list(seeds)
    rounds = amount(150, 600)
    slowest = 0.0
    for number in range(len(seeds) + rounds):
        data = seeds[number] if number < len(seeds) else mutated(rng.choice(pool), seeds, rng)
        if number % 8 == 0 and len(pool) < len(seeds) + 64:
            pool.append(data)  # changes add up in some inputs; the others stay near the seeds
        begun = time.process_time()
        try:
            target(data)
        except Exception as error:
            error.add_note(f"target {name}, input {data!r}; inputs before it: {target.before[:-1]!r}"[:20_000])
            raise
        slowest = max(slowest, time.process_time() - begun)
    assert slowest < HANG
    note("inputs", len(seeds) + rounds, name)
