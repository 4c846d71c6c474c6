"""How many seeds the tests of a simulation run, and how they are cut into parts that several workers share."""

from __future__ import annotations

import os

SEEDS = int(os.environ.get("CMD_SIM_SEEDS", "200"))
CHUNKS = min(50, max(1, SEEDS // 10))
TWICE = min(200, max(SEEDS // 2, 1))  # seeds that run twice, for their hashes


def chunk_of(number: int, count: int, chunks: int) -> range:
    """The seeds of one of so many chunks of about equal size."""
    return range(number * count // chunks, (number + 1) * count // chunks)
