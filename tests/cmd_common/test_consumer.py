from __future__ import annotations

import asyncio

import pytest

from cmd_common.consumer import Consumer
from cmd_common.records import Record, Trade


def trades(first: int, last: int) -> list[Record]:
    return [Trade(n, n, "v", "S", str(n), n, 1.0, 1.0, "buy") for n in range(first, last)]


async def test_lists_come_in_order_and_the_end_ends_the_iteration() -> None:
    consumer = Consumer(100)
    consumer.put(trades(0, 3))
    consumer.put([])
    consumer.put(trades(3, 5))
    consumer.close()
    consumer.put(trades(5, 6))
    assert [r.ts_event async for records in consumer for r in records] == [0, 1, 2, 3, 4]


async def test_a_reader_that_waits_is_woken() -> None:
    consumer = Consumer(10)
    task = asyncio.create_task(anext(consumer))
    await asyncio.sleep(0)
    assert not task.done()
    consumer.put(trades(7, 8))
    assert (await task)[0].ts_event == 7


async def test_a_reader_that_does_not_read_loses_the_oldest_and_they_are_counted() -> None:
    consumer = Consumer(10)
    for n in range(0, 40, 4):
        consumer.put(trades(n, n + 4))
    assert consumer.dropped == 32
    assert [r.ts_event for r in consumer.take()] == list(range(32, 40))
    assert consumer.take() == []


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        Consumer(0)
