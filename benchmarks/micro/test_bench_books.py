"""Micro-benchmarks of the order book, the builder and the multi-symbol book.

One round replays whole messages; ``extra_info`` says how many, so that the time a message is the
round's time divided by it. The final best prices are checked against the generator's own book.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from cmd_common.builder import Applied, OrderBookBuilder
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.orderbook import OrderBook
from cmd_common.sequence import BookState, Verdict

Benchmark = Any
pytestmark = pytest.mark.benchmark(timer=time.process_time)  # CPU time: other work on the machine does not count


class Rule:
    """Continuity as on spot markets."""

    name = "spot"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if last <= snapshot_id:
            return Verdict.DROP
        return Verdict.APPLY if first <= snapshot_id + 1 else Verdict.GAP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        if first == book_id + 1:
            return Verdict.APPLY
        return Verdict.DROP if last <= book_id else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        return snapshot_id + 1 < first


def run(benchmark: Benchmark, messages: int, setup: Callable[[], Any], target: Callable[..., None]) -> None:
    benchmark.extra_info["messages"] = messages
    benchmark.pedantic(target, setup=lambda: ((setup(),), {}), rounds=9, warmup_rounds=1)


def loaded(snapshot: Any) -> OrderBook:
    book = OrderBook(0.01)
    book.load(snapshot.bids, snapshot.asks, complete=False)
    return book


def live(snapshot: Any, book: OrderBook | None = None) -> OrderBookBuilder:
    builder = OrderBookBuilder(OrderBook(0.01) if book is None else book, Rule(), snapshot_levels=1000)
    builder.start()
    assert builder.snapshot(snapshot.lastUpdateId, snapshot.bids, snapshot.asks).live
    return builder


def test_book_apply(benchmark: Benchmark, snapshot: Any, deltas: list[Any], stream: Any) -> None:
    def replay(book: OrderBook) -> None:
        for delta in deltas:
            book.apply(delta.b, delta.a)

    book = loaded(snapshot)
    replay(book)
    assert (book.best_bid[0], book.best_ask[0]) == stream.tops[-1]  # type: ignore[index]
    run(benchmark, len(deltas), lambda: loaded(snapshot), replay)


def test_book_apply_and_top_20(benchmark: Benchmark, snapshot: Any, deltas: list[Any]) -> None:
    def replay(book: OrderBook) -> None:
        for delta in deltas:
            book.apply(delta.b, delta.a)
            book.bids(20)
            book.asks(20)

    run(benchmark, len(deltas), lambda: loaded(snapshot), replay)


def test_book_apply_and_pack_20(benchmark: Benchmark, snapshot: Any, deltas: list[Any]) -> None:
    def replay(book: OrderBook) -> None:
        for delta in deltas:
            book.apply(delta.b, delta.a)
            book.packed_bids(20)
            book.packed_asks(20)

    run(benchmark, len(deltas), lambda: loaded(snapshot), replay)


def test_book_load_1000_levels(benchmark: Benchmark, snapshot: Any) -> None:
    benchmark.extra_info["messages"] = 1
    benchmark(lambda: loaded(snapshot))


def test_book_pack_all_levels(benchmark: Benchmark, snapshot: Any) -> None:
    book = loaded(snapshot)
    benchmark.extra_info["messages"] = 1
    benchmark(lambda: (book.packed_bids(), book.packed_asks()))


@pytest.mark.parametrize("levels", [1_000, 10_000, 100_000])
@pytest.mark.parametrize("kind", ["ours", "SortedDict"])
def test_deep_book_far_and_near_changes(benchmark: Benchmark, levels: int, kind: str) -> None:
    """Uniform changes over the whole depth, the worst case for a list: where would SortedDict win?"""
    rng = random.Random(2)
    bids = [(1000 + i / 100, 1.0) for i in range(levels)]
    changes = []
    for _ in range(500):
        near = [(1000 + (levels - rng.randint(1, 40)) / 100, rng.choice((0.0, 1.0))) for _ in range(8)]
        far = [(1000 + rng.randrange(levels) / 100, rng.choice((0.0, 1.0))) for _ in range(8)]
        changes.append(near + far)
    if kind == "ours":

        def setup() -> OrderBook:
            book = OrderBook()
            book.load(bids, [])
            return book

        def replay(book: OrderBook) -> None:
            for change in changes:
                book.apply(change, [])
                book.best_bid  # noqa: B018
    else:
        from sortedcontainers import SortedDict

        def setup() -> Any:
            return SortedDict(bids)

        def replay(book: Any) -> None:
            for change in changes:
                for price, quantity in change:
                    if quantity:
                        book[price] = quantity
                    else:
                        book.pop(price, None)
                book.peekitem(-1)

    run(benchmark, len(changes), setup, replay)


def test_builder_delta(benchmark: Benchmark, snapshot: Any, deltas: list[Any], stream: Any) -> None:
    def replay(builder: OrderBookBuilder) -> None:
        give = builder.delta
        for delta in deltas:
            give(delta.U, delta.u, delta.pu, delta.b, delta.a, delta.E)

    builder = live(snapshot)
    replay(builder)
    book = builder.book
    assert (builder.state, builder.last_id, builder.gaps) == (BookState.LIVE, deltas[-1].u, 0)
    assert (book.best_bid[0], book.best_ask[0]) == stream.tops[-1]  # type: ignore[index]
    run(benchmark, len(deltas), lambda: live(snapshot), replay)


def test_builder_resync_with_100_buffered(benchmark: Benchmark, snapshot: Any, deltas: list[Any]) -> None:
    def buffered() -> OrderBookBuilder:
        builder = OrderBookBuilder(OrderBook(0.01), Rule(), snapshot_levels=1000)
        builder.start()
        for delta in deltas[:100]:
            assert builder.delta(delta.U, delta.u, delta.pu, delta.b, delta.a, delta.E) is Applied.BUFFERED
        return builder

    def sync(builder: OrderBookBuilder) -> None:
        assert len(builder.snapshot(snapshot.lastUpdateId, snapshot.bids, snapshot.asks).replayed) == 100

    run(benchmark, 100, buffered, sync)


@pytest.mark.parametrize("symbols", [1, 10, 100, 400])
def test_multi_symbol_book_round_robin(benchmark: Benchmark, snapshot: Any, deltas: list[Any], symbols: int) -> None:
    """Every symbol gets the same messages in turn; the number of messages in all is the same."""
    share = max(1, 2000 // symbols)

    def setup() -> tuple[MultiSymbolOrderBook, list[OrderBookBuilder]]:
        multi = MultiSymbolOrderBook()
        builders = [live(snapshot, multi.add("venue", f"SYMBOL{i}", tick_size=0.01)) for i in range(symbols)]
        return multi, builders

    def replay(state: tuple[MultiSymbolOrderBook, list[OrderBookBuilder]]) -> None:
        multi, builders = state
        for delta in deltas[:share]:
            for number, builder in enumerate(builders):
                builder.delta(delta.U, delta.u, delta.pu, delta.b, delta.a, delta.E)
                multi.by_id(number).best_bid  # noqa: B018

    benchmark.extra_info["messages"] = share * symbols
    benchmark.pedantic(replay, setup=lambda: ((setup(),), {}), rounds=5, warmup_rounds=1)
