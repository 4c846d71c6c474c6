"""A consumer of live records inside the process: a bounded queue with an async iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Self

from .records import Record

__all__ = ["Consumer"]


class Consumer:
    """An async iterator of record lists. Policy when full: drop the oldest list and count its records.

    One reader, in the event loop of the session. Ends when the session ends or ``close`` is called.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a queue limit of {limit} holds nothing")
        self.limit = limit
        self.dropped = 0
        self._queue: deque[Sequence[Record]] = deque()
        self._queued = 0
        self._closed = False
        self._ready = asyncio.Event()

    def put(self, records: Sequence[Record]) -> None:
        """Hand over a list; never waits."""
        if self._closed or not records:
            return
        self._queue.append(records)
        self._queued += len(records)
        while self._queued > self.limit and len(self._queue) > 1:
            oldest = self._queue.popleft()
            self._queued -= len(oldest)
            self.dropped += len(oldest)
        self._ready.set()

    def take(self) -> list[Record]:
        """Return everything that waits, without waiting."""
        found = [record for records in self._queue for record in records]
        self._queue.clear()
        self._queued = 0
        if not self._closed:
            self._ready.clear()
        return found

    def close(self) -> None:
        """End the iteration after what is queued."""
        self._closed = True
        self._ready.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Record]:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        records = self._queue.popleft()
        self._queued -= len(records)
        return records
