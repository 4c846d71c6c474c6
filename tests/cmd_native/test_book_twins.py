"""The order books in Python and in Rust are equal: over random operations and over every recording."""

from __future__ import annotations

import os
import random
from importlib.util import find_spec

import pytest
from tests.conftest import require

from cmd_common.orderbook import PureOrderBook

COUNT = 1_000_000 if os.environ.get("CMD_REQUIRE") == "all" else 100_000  # operations over all seeds
SEEDS = 4
TICKS = (0.01, 0.5, None, 1e-8)


@pytest.fixture(scope="module", autouse=True)
def _native() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_million_random_operations(seed: int) -> None:
    """An operation sets or deletes one level; after every message the touch is compared, now and then everything."""
    from cmd_common._native_book import NativeOrderBook

    rng = random.Random(seed)
    tick = TICKS[seed % len(TICKS)]
    limit = None if seed % 2 else 500
    pure, native = PureOrderBook(tick, max_levels=limit), NativeOrderBook(tick, max_levels=limit)
    mid, done, turn = 50_000, 0, 0
    unit = tick or 0.01
    while done < COUNT // SEEDS:
        turn += 1
        mid += rng.choice((-3, -1, 0, 0, 0, 1, 3)) if rng.random() > 0.002 else rng.randint(-9_000, 9_000)
        mid = max(mid, 2_000)
        sides: list[list[tuple[float, float]]] = []
        for sign in (-1, 1):
            side = []
            for _ in range(rng.randint(0, 20)):
                odd = rng.random()
                if odd < 0.9:
                    price = (mid + sign * rng.randint(-2, 40)) * unit
                elif odd < 0.98:
                    price = max(1, mid + sign * rng.randint(0, 30_000)) * unit
                else:
                    price = rng.choice((1e-12, 1e12, mid * unit * 1.0003, rng.random() * 1e5 + 1e-9))
                side.append((price, 0.0 if rng.random() < 0.5 else round(rng.expovariate(1), 5)))
            sides.append(side)
        done += len(sides[0]) + len(sides[1])
        if rng.random() < 0.001:
            complete = (rng.random() < 0.5, rng.random() < 0.5)
            sides = [[(p, q or 1.0) for p, q in side] for side in sides]
            pure.load(*sides, complete=complete)
            native.load(*sides, complete=complete)
        else:
            pure.apply(*sides)
            native.apply(*sides)
        assert native.best_bid == pure.best_bid
        assert native.best_ask == pure.best_ask
        assert len(native) == len(pure)
        assert native.touch_ok() == pure.touch_ok()
        if not turn % 250:
            low = rng.randint(0, 30), rng.randint(0, 30)
            assert native.look(*low) == pure.look(*low)
            assert native.touch_ok() == pure.touch_ok()
            assert (native.known_depth, native.known_range) == (pure.known_depth, pure.known_range)
            depth = rng.choice((0, 1, 20, 500, None))
            assert native.bids(depth) == pure.bids(depth)
            assert native.asks(depth) == pure.asks(depth)
            assert native.packed_bids(depth) == pure.packed_bids(depth)
            assert native.packed_asks(depth) == pure.packed_asks(depth)
            assert (native.mid, native.spread, native.crossed, native.top) == (
                pure.mid, pure.spread, pure.crossed, pure.top,
            )  # fmt: skip
            native.check()
    assert native.bids() == pure.bids()
    assert native.asks() == pure.asks()
