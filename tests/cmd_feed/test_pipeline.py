from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import CmdError, StoreError
from cmd_feed.pipeline import Pipeline


class Memory:
    """A sink in memory whose gate can be shut, and that can fail at the n-th write."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.flushed = 0
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fail_at: int | None = None
        self.error: Exception = OSError(errno.ENOSPC, "No space left on device")
        self.threads: set[str] = set()

    def write(self, records: Sequence[int]) -> None:
        self.gate.wait(30)
        self.threads.add(threading.current_thread().name)
        if self.fail_at is not None and len(self.items) + len(records) > self.fail_at:
            raise self.error
        self.items.extend(records)

    def flush(self) -> None:
        self.flushed = len(self.items)

    def close(self) -> None:
        self.closed += 1
        self.flushed = len(self.items)


async def test_everything_is_written_in_order_by_one_thread_and_confirmed_at_the_end() -> None:
    sink = Memory()
    pipeline = Pipeline[int](sink, name="memory")
    for n in range(0, 10_000, 10):
        pipeline.put(list(range(n, n + 10)))
        if n % 1000 == 0:
            await asyncio.sleep(0)
    await pipeline.close()
    assert sink.items == list(range(10_000))
    assert sink.threads == {"cmd-feed memory"}
    assert sink.closed == 1
    assert pipeline.error is None
    assert pipeline.counters.confirmed == pipeline.counters.written == pipeline.counters.accepted == 10_000
    pipeline.put([1])
    assert pipeline.queued == 0


async def test_what_is_quiet_is_flushed_too(until: Any) -> None:
    sink = Memory()
    pipeline = Pipeline[int](sink, flush_every=0.02)
    pipeline.put([1, 2, 3])
    await until(lambda: pipeline.counters.confirmed == 3)
    assert sink.flushed == 3
    await pipeline.close()


async def test_block_stops_the_reader_until_there_is_room_and_warns_once(until: Any) -> None:
    sink = Memory()
    warnings: list[str] = []
    pipeline = Pipeline[int](sink, limit=100, warn=warnings.append)
    sink.gate.clear()
    pipeline.put(list(range(60)))
    assert not pipeline.full
    pipeline.put(list(range(60, 160)))
    assert pipeline.full
    waiter = asyncio.create_task(pipeline.wait())
    await asyncio.sleep(0.02)
    assert not waiter.done()
    sink.gate.set()
    await asyncio.wait_for(waiter, 10)
    await until(lambda: len(sink.items) == 160)
    assert pipeline.counters.dropped == 0
    assert pipeline.counters.blocked == 1
    assert len(warnings) == 1
    assert "store is slower than the data" in warnings[0]
    await pipeline.close()
    assert sink.items == list(range(160))


async def test_drop_oldest_keeps_the_newest_and_puts_something_in_its_place(until: Any) -> None:
    sink = Memory()
    dropped: list[int] = []

    def replace(items: Sequence[int]) -> list[int]:
        dropped.extend(items)
        return [-len(items)]

    pipeline = Pipeline[int](sink, limit=100, policy="drop-oldest", replace=replace)
    sink.gate.clear()
    pipeline.put([0])
    await until(lambda: pipeline._writing == 1)  # the thread holds the first item
    for n in range(1, 301, 10):
        pipeline.put(list(range(n, n + 10)))
        assert pipeline.queued <= 112
    assert not pipeline.full
    sink.gate.set()
    await pipeline.close()
    written = [n for n in sink.items if n >= 0]
    assert sorted(dropped[i] for i in range(len(dropped)) if dropped[i] >= 0) + written[1:] == list(range(1, 301))
    assert written[-1] == 300
    assert any(n < 0 for n in sink.items)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), StoreError("torn"), RuntimeError("defect")]
)
async def test_a_sink_that_fails_ends_in_one_error_and_what_was_confirmed_stays(error: Exception, until: Any) -> None:
    sink = Memory()
    sink.fail_at = 50
    sink.error = error
    failures: list[CmdError] = []
    pipeline = Pipeline[int](sink, limit=10, flush_every=0.01, failed=failures.append)
    pipeline.put(list(range(40)))
    await until(lambda: pipeline.counters.confirmed == 40)
    pipeline.put(list(range(40, 60)))
    await until(lambda: failures)
    await asyncio.wait_for(pipeline.wait(), 5)  # a failure never leaves a reader waiting
    pipeline.put([1])
    await pipeline.close()
    assert len(failures) == 1
    assert failures[0] is pipeline.error
    assert isinstance(pipeline.error, StoreError)
    assert sink.items == list(range(40))
    assert pipeline.counters.confirmed == 40


@given(st.lists(st.lists(st.integers(), max_size=50), max_size=40), st.integers(1, 200))
def test_no_item_is_lost_or_reordered_whatever_the_sizes(batches: list[list[int]], limit: int) -> None:
    async def main() -> None:
        sink = Memory()
        seen: list[int] = []
        pipeline = Pipeline[int](sink, limit=limit, flush_every=0.001, seen=seen.extend)
        for batch in batches:
            pipeline.put(batch)
            if pipeline.full:
                await pipeline.wait()
        await pipeline.close()
        assert sink.items == seen == [n for batch in batches for n in batch]
        assert pipeline.counters.high_water <= limit + 50

    asyncio.run(main())
