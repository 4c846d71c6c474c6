"""A bounded queue in front of a slow sink (a store, a raw recording), and the thread that drains it.

The event loop hands over lists, never single items, and does not wait; the thread writes and flushes
once a second. What was flushed is confirmed. When the queue is full its policy holds:

    block        the reader of the sockets waits, so that TCP slows the exchange down: nothing is lost
                 while the exchange is patient. The right one for a recorder.
    drop-oldest  the oldest lists are thrown away and Gap rows take their place. For live views.

``inline=True`` drains in a task of the event loop, by the loop's own time, instead of in a thread: for
the deterministic simulation, whose sinks do not block.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from cmd_common.errors import CmdError, StoreError

__all__ = ["Pipeline", "PipelineCounters", "Policy", "Sink"]

_CHUNK = 8192  # items; small lists are merged up to it, since each write has a price of its own

Policy = Literal["block", "drop-oldest"]
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


def _merged(batches: Iterable[Sequence[T]]) -> Iterator[Sequence[T]]:
    """Yield the same items in order, in fewer lists."""
    chunk: list[T] = []
    for batch in batches:
        chunk.extend(batch)
        if len(chunk) >= _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class Sink(Protocol[T_contra]):
    """Where a pipeline ends; an IWriter is one. Called from one thread only."""

    def write(self, records: Sequence[T_contra], /) -> None:
        """Accept items; they are confirmed by the next ``flush``."""

    def flush(self) -> None:
        """Return when everything accepted is durable."""

    def close(self) -> None:
        """Flush and release."""


class PipelineCounters(Struct):
    """Counts since the pipeline was made, in items unless named otherwise."""

    accepted: int = 0
    written: int = 0
    confirmed: int = 0
    dropped: int = 0
    flushes: int = 0
    blocked: int = 0  # times that the queue was full
    high_water: int = 0  # most items that waited at once


class Pipeline(Generic[T]):
    """Bounded queue and writer thread for one sink; made and used in one event loop.

    ``seen(items)`` is called in the writer thread with what was written; ``replace(dropped)`` makes
    what takes the place of dropped items; ``failed(error)`` is called once in the event loop.
    """

    def __init__(
        self,
        sink: Sink[T],
        *,
        limit: int = 200_000,
        policy: Policy = "block",
        flush_every: float = 1.0,
        name: str = "store",
        seen: Callable[[Sequence[T]], None] | None = None,
        replace: Callable[[Sequence[T]], list[T]] | None = None,
        failed: Callable[[CmdError], None] | None = None,
        warn: Callable[[str], None] = lambda message: None,
        inline: bool = False,
    ) -> None:
        if limit < 1:
            raise ValueError(f"a queue limit of {limit} holds nothing")
        self.limit = limit
        self.policy = policy
        self.name = name
        self.counters = PipelineCounters()
        self.error: CmdError | None = None
        self._sink = sink
        self._flush_every = flush_every
        self._seen = seen
        self._replace = replace
        self._failed = failed
        self._warn = warn
        self._condition = threading.Condition()
        self._queue: deque[Sequence[T]] = deque()
        self._queued = 0
        self._writing = 0
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._space = asyncio.Event()
        self._space.set()
        self._warned = -1e9  # long ago
        self._done = asyncio.Event()
        self._unflushed = False
        self._time = self._loop.time if inline else time.monotonic
        self._flush_at = self._time() + flush_every
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        if inline:
            self._task = self._loop.create_task(self._run_inline(), name=f"cmd-feed {name}")
        else:
            self._thread = threading.Thread(target=self._run, name=f"cmd-feed {name}", daemon=True)
            self._thread.start()

    @property
    def queued(self) -> int:
        """Items that wait or are being written."""
        return self._queued + self._writing

    @property
    def full(self) -> bool:
        """Whether ``wait`` would wait."""
        return not self._space.is_set()

    def put(self, items: Sequence[T]) -> None:
        """Hand over a list, which must not change any more. Never waits; after a failure it does nothing."""
        if not items or self.error is not None:
            return
        with self._condition:
            if self._closing:
                return
            self._queue.append(items)
            self._queued += len(items)
            counters = self.counters
            counters.accepted += len(items)
            if self._queued > counters.high_water:
                counters.high_water = self._queued
            if self._queued + self._writing > self.limit:
                self._overflow()
            self._condition.notify()
        if self._task is not None:
            self._wake.set()

    async def wait(self) -> None:
        """Wait while the queue is full; returns at once after a failure."""
        await self._space.wait()

    async def close(self) -> None:
        """Write what waits, flush, close the sink; the error, if any, is in ``error``."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._wake.set()
        await self._done.wait()
        if self._thread is not None:
            self._thread.join()

    # ---- inside; _overflow and _run_inline run in the loop, the rest in the thread if there is one

    def _overflow(self) -> None:
        now = self._time()
        if self.policy == "block":
            if self._space.is_set():
                self._space.clear()
                self.counters.blocked += 1
                if now - self._warned > 10:
                    self._warned = now
                    self._warn(f"{self.name} is slower than the data: {self._queued:,} wait; reading pauses")
            return
        dropped: list[T] = []
        while self._queued > self.limit // 2 and len(self._queue) > 1:
            oldest = self._queue.popleft()
            self._queued -= len(oldest)
            dropped.extend(oldest)
        if not dropped:
            return
        instead = self._replace(dropped) if self._replace is not None else []
        self.counters.dropped += len(dropped)
        if instead:
            self._queue.appendleft(instead)
            self._queued += len(instead)
        if now - self._warned > 10:
            self._warned = now
            self._warn(f"{self.name} is slower than the data: the oldest {len(dropped):,} were dropped")

    def _run(self) -> None:
        self._end(self._attempt(self._drain))

    async def _run_inline(self) -> None:
        error: CmdError | None = None
        done = False
        while not done and error is None:
            if not self._queue and not self._closing:
                self._wake.clear()
                left = self._flush_at - self._time() if self._unflushed else None
                if left is None or left > 0:
                    try:
                        await asyncio.wait_for(self._wake.wait(), left)
                    except TimeoutError:
                        pass
            else:
                await asyncio.sleep(0)  # the readers' turn

            def turn() -> None:
                nonlocal done
                done = self._turn()

            error = self._attempt(turn)
        self._end(error)

    def _attempt(self, work: Callable[[], None]) -> CmdError | None:
        try:
            work()
        except CmdError as error:
            return error
        except OSError as error:
            return StoreError(f"cannot write to the {self.name}: {error}", hint="free space or choose another place")
        except Exception as error:  # a defect of a sink must end the recording, not hang it
            return StoreError(f"the {self.name} failed: {type(error).__name__}: {error}")
        return None

    def _end(self, error: CmdError | None) -> None:
        try:
            self._sink.close()
        except Exception as e:  # the first error is the one to report
            error = error or (e if isinstance(e, CmdError) else StoreError(f"cannot close the {self.name}: {e}"))
        else:
            if error is None:
                self.counters.confirmed = self.counters.written
        self._call(self._finished, error)

    def _drain(self) -> None:
        done = False
        while not done:
            with self._condition:
                if not self._queue and not self._closing:
                    left = self._flush_at - self._time() if self._unflushed else None
                    if left is None or left > 0:
                        self._condition.wait(left)
            done = self._turn()

    def _turn(self) -> bool:
        """Write what waits and flush when it is time; True when closed and empty."""
        counters = self.counters
        with self._condition:
            batches, self._queue = self._queue, deque()
            taken, self._queued = self._queued, 0
            self._writing = taken
            closing = self._closing
        if batches:
            for batch in _merged(batches):
                self._sink.write(batch)
                if self._seen is not None:
                    self._seen(batch)
            counters.written += taken
            self._unflushed = True
        self._writing = 0
        if not self._space.is_set():
            self._call(self._space.set)
        if closing and not batches:
            return True
        now = self._time()
        if self._unflushed and now >= self._flush_at:
            self._sink.flush()
            counters.flushes += 1
            counters.confirmed = counters.written
            self._unflushed = False
        if not self._unflushed:
            self._flush_at = now + self._flush_every
        return False

    def _finished(self, error: CmdError | None) -> None:
        self.error = error
        self._space.set()
        if error is not None and self._failed is not None:
            self._failed(error)
        self._done.set()

    def _call(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass
