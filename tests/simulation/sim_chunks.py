"""How many seeds the tests of a simulation run, and how they are cut into parts that several workers share."""

from __future__ import annotations

import os

SEEDS = int(os.environ.get("CMD_SIM_SEEDS", "200"))
FIRST = int(os.environ.get("CMD_SIM_FROM", "0"))  # for searches that go on where an earlier one ended
CHUNKS = min(50, max(1, SEEDS // 10))
TWICE = min(200, max(SEEDS // 2, 1))  # seeds that run twice, for their hashes


def chunk_of(number: int, count: int, chunks: int) -> range:
    """The seeds of one of so many chunks of about equal size."""
    return range(FIRST + number * count // chunks, FIRST + (number + 1) * count // chunks)
