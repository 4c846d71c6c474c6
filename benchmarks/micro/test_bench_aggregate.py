"""Micro-benchmarks of the aggregated book: ten venues of a thousand levels a side.

``benchmarks/aggregate.py`` compares with the single books in fresh processes and knows the target.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from conftest import Depth, Snapshot
from depth_stream import depth_stream

from cmd_common.aggregate import AggregatedOrderBook
from cmd_common.orderbook import OrderBook
from cmd_common.sequence import BookState

Benchmark = Any
pytestmark = pytest.mark.benchmark(timer=time.process_time)
VENUES = 10
MESSAGES = 200  # of each venue


@pytest.fixture(scope="module")
def venues() -> list[tuple[Snapshot, list[Depth]]]:
    """The decoded snapshot and messages of each venue."""
    found = []
    for number in range(VENUES):
        stream = depth_stream(MESSAGES, seed=number + 1)
        snapshot = msgspec.json.decode(stream.snapshot, type=Snapshot, strict=False)
        found.append((snapshot, [msgspec.json.decode(d, type=Depth, strict=False) for d in stream.deltas]))
    return found


def setup(venues: list[tuple[Snapshot, list[Depth]]], **more: Any) -> tuple[AggregatedOrderBook, list[Any]]:
    aggregate = AggregatedOrderBook("BTC-USDT", **more)
    turns: list[Any] = []
    for number, (snapshot, deltas) in enumerate(venues):
        book = OrderBook(0.01, venue=f"venue{number}", symbol="BTCUSDT")
        book.load(snapshot.bids, snapshot.asks, complete=False)
        book.state = BookState.LIVE
        name = aggregate.add(book, now=0)
        turns.append([(book, name, delta) for delta in deltas])
    return aggregate, [turn for together in zip(*turns, strict=True) for turn in together]


@pytest.mark.parametrize("kind", ["single books alone", "aggregated", "aggregated, fees"])
def test_update_of_ten_venues(benchmark: Benchmark, venues: Any, kind: str) -> None:
    fees = {f"venue{n}": float(n) for n in range(VENUES)} if "fees" in kind else {}

    def replay(aggregate: AggregatedOrderBook, turns: list[Any]) -> None:
        if kind == "single books alone":
            for book, _, delta in turns:
                book.apply(delta.b, delta.a)
            return
        for now, (book, name, delta) in enumerate(turns):
            book.apply(delta.b, delta.a)
            aggregate.update(name, now)

    aggregate, turns = setup(venues, fees=fees)
    replay(aggregate, turns)
    if kind != "single books alone":
        aggregate.check()
    benchmark.extra_info["messages"] = VENUES * MESSAGES
    benchmark.pedantic(replay, setup=lambda: (setup(venues, fees=fees), {}), rounds=9, warmup_rounds=1)


@pytest.mark.parametrize("depth", [1, 20, None])
@pytest.mark.parametrize("fees", [False, True])
def test_read_both_sides(benchmark: Benchmark, venues: Any, depth: int | None, fees: bool) -> None:
    aggregate, _ = setup(venues, fees={f"venue{n}": float(n) for n in range(VENUES)} if fees else {})
    benchmark.extra_info["messages"] = 1
    benchmark(lambda: (aggregate.bids(depth), aggregate.asks(depth)))


def test_fill_of_a_hundred_levels(benchmark: Benchmark, venues: Any) -> None:
    aggregate, _ = setup(venues)
    size = sum(level.quantity for level in aggregate.asks(100))
    benchmark.extra_info["messages"] = 1
    benchmark(lambda: aggregate.fill("buy", size))
