"""The asyncio client: ``async with connect(address, topics=[...]) as client``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from cmd_common.errors import CmdError, UsageError
from cmd_common.orderbook import OrderBook
from cmd_common.records import Record
from cmd_common.seams import Clock, SystemClock
from cmd_common.sequence import BookState
from cmd_server.errors import ConnectionBrokenError, ServerError
from cmd_server.messages import Ack, Reject
from cmd_server.transport import Link

from .base import BaseClient
from .batches import Batch, BatchBuilder
from .core import SECOND
from .events import Item, Message

__all__ = ["AsyncClient", "connect"]


class AsyncClient(BaseClient):
    """A client in an event loop: connected, pinging and connecting again by itself, from entering to leaving.

    Books and latest values follow what arrives, whether or not anybody iterates. One consumer may iterate (over
    records, ``events`` or ``batches``); while ``buffer`` messages wait for it, no more are read from the server, whose
    queue then fills and whose policy for slow clients applies. Before the first iteration the oldest ones go.

    Callbacks are called in the event loop as messages arrive, each while the books are as of its message; one that
    raises ends the client. Who iterates may find the books ahead, by what was read and waits.
    """

    def __init__(self, address: str, *, clock: Clock | None = None, **options: Any) -> None:
        super().__init__(address, **options)
        self.error: BaseException | None = None  # why it ended by itself
        self._clock: Clock = clock or SystemClock()
        self._items: deque[Item] = deque()
        self._consumed = False  # somebody iterates: what waits is not thrown away
        self._arrived = asyncio.Event()
        self._space = asyncio.Event()
        self._sending = asyncio.Lock()
        self._changed: asyncio.Future[None] | None = None  # those who wait for something are woken by it
        self._ended = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._link: Link | None = None

    # -- life

    async def start(self) -> None:
        """Connect, log in and subscribe. Raises ConnectionBrokenError, RefusedError or UsageError."""
        if self._task is not None:
            raise UsageError("this client was started already")
        self._task = asyncio.create_task(self._run(), name=f"client of {self.address}")
        try:
            while not self.core.connects or not self.core.ready:
                if self._ended:
                    raise self.error or ConnectionBrokenError("the client was closed")
                await self._change()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection and end the iteration; never raises."""
        self._closing = True
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._end()

    async def wait(self) -> None:
        """Return when the client is closed; raises the error that ended it by itself."""
        while not self._ended:
            await self._change()
        if self.error is not None:
            raise self.error

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- requests

    async def subscribe(self, *topics: str) -> int:
        """Ask for more topics; returns how many streams match by now. Raises RefusedError."""
        return await self._request(self.core.subscribe(topics))

    async def unsubscribe(self, *topics: str) -> None:
        """Give up topics, written as they were subscribed. Raises UsageError, RefusedError."""
        await self._request(self.core.unsubscribe(topics))

    async def _request(self, number: int) -> int:
        with suppress(ServerError):  # asked again by the next connection
            await self._flush()
        answer: Ack | Reject | None
        while (answer := self.core.answer(number)) is None:
            if self._ended:
                raise self.error or ConnectionBrokenError("the client is closed")
            await self._change()
        return self._check_answer(answer)

    async def live(self, *names: str, timeout: float | None = None) -> OrderBook:
        """Wait until books are LIVE, in seconds at most ``timeout``; returns the first. Raises CmdError after it."""
        if not names:
            raise UsageError("which book?")
        try:
            async with asyncio.timeout(timeout):
                while not all(n in self.books and self.books[n].state is BookState.LIVE for n in names):
                    if self._ended:
                        raise self.error or ConnectionBrokenError("the client is closed")
                    await self._change()
        except TimeoutError:
            late = [n for n in names if n not in self.books or self.books[n].state is not BookState.LIVE]
            raise ServerError(f"not LIVE after {timeout:g} s: {', '.join(late)}", hint="is it subscribed?") from None
        return self.books[names[0]]

    # -- consuming

    async def _some(self) -> bool:
        """Wait until something is there for the consumer; False: nothing comes any more."""
        self._consumed = True
        while not self._items:
            if self._ended:
                if self.error is not None and not self._closing:
                    raise self.error
                return False
            self._arrived.clear()
            await self._arrived.wait()
        return True

    async def items(self) -> AsyncGenerator[list[Item], None]:
        """Yield everything that arrived since the last time: messages and events in their order, several at a time."""
        while await self._some():
            found = list(self._items)
            self._items.clear()
            self._space.set()
            yield found

    async def events(self) -> AsyncGenerator[Item, None]:
        """Yield messages (with their sequence and flags) and events one by one; what is not taken stays."""
        waiting = self._items
        while await self._some():
            while waiting:
                yield waiting.popleft()
            self._space.set()

    async def records(self) -> AsyncGenerator[Record, None]:
        """Yield records one by one; the events between them go to ``on_event``."""
        waiting = self._items
        while await self._some():
            while waiting:
                item = waiting.popleft()
                if type(item) is Message:
                    yield item.record
            self._space.set()

    def __aiter__(self) -> AsyncIterator[Record]:
        return self.records()

    async def batches(self, table: str, max_rows: int = 10_000, max_ns: int = SECOND) -> AsyncGenerator[Batch, None]:
        """Yield the records of one table (``trades``, ``book_deltas``, ...) in batches for numpy and Arrow.

        A batch goes out with ``max_rows``, or when its first record has waited for ``max_ns``. Giving up the iteration
        gives up what was collected.
        """
        builder = BatchBuilder(table, max_rows, max_ns)
        source = self.items()
        pending: asyncio.Future[list[Item]] | None = None
        try:
            while True:
                if pending is None:
                    pending = asyncio.ensure_future(anext(source))
                due = builder.due(self._clock.monotonic())
                await asyncio.wait((pending,), timeout=None if due is None else due / SECOND)
                if pending.done():
                    try:
                        items = pending.result()
                    except StopAsyncIteration:
                        break
                    finally:
                        pending = None
                    for batch in builder.add(items, self._clock.monotonic()):
                        yield batch
                if builder.due(self._clock.monotonic()) == 0 and (late := builder.take()) is not None:
                    yield late
            if (last := builder.take()) is not None:
                yield last
        finally:
            if pending is not None:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)
            await source.aclose()

    # -- inside

    async def _run(self) -> None:
        try:
            while True:
                error = await self._connection()
                now = self._clock.monotonic()
                final, reason, delay = self._again(error, now)
                core = self.core
                if core.connects:
                    await self._deliver(self._down_items(reason, delay))
                if final is not None:
                    self.error = final
                    return
                self._wake()
                await self._clock.sleep(delay)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # of a callback: the program's own error, raised where it iterates or waits
            self.error = error
        finally:
            self._end()

    async def _connection(self) -> CmdError | None:
        """Run one connection until it ends; returns why."""
        core, clock = self.core, self._clock
        try:
            core.broken = ""
            link = await self._transport.connect(self._where, self._link_options)
        except CmdError as error:
            return error
        self._link = link
        core.connected(clock.monotonic(), self.address)
        ticker = asyncio.create_task(self._tick(link))
        was_ready = False
        try:
            while True:
                size = await link.receive_into(core.space)
                if not size:
                    return ConnectionBrokenError("the server closed the connection")
                items = core.received(size, clock.monotonic())
                if core.ready and not was_ready:
                    was_ready = True
                    self._backoff.succeeded(clock.monotonic())
                await self._flush()
                if items:
                    await self._deliver(items)
                self._wake()
                if core.broken or core.failure is not None:
                    return core.failure
        except ServerError as error:
            return error
        finally:
            self._link = None
            ticker.cancel()
            try:
                await asyncio.gather(ticker, return_exceptions=True)
            finally:  # also where the program closes the client just now, which cancels the wait above
                await link.close()

    async def _tick(self, link: Link) -> None:
        core, clock = self.core, self._clock
        while True:
            await clock.sleep(core.interval)
            if self._consumed and len(self._items) >= self.buffer:
                core.heard(clock.monotonic())  # we do not read: the silence is ours
            core.tick(clock.monotonic())
            try:
                await self._flush()
            except ServerError:
                return  # the receiving side finds it too
            if core.broken:
                await link.close()  # ends the receiving
                return

    async def _flush(self) -> None:
        """Send the requests that wait; they stay in order, whoever sends."""
        async with self._sending:
            link = self._link
            frames = self.core.outgoing(self._clock.monotonic()) if link is not None else ()
            if link is not None and frames:
                await link.send(b"".join(frames))

    async def _deliver(self, items: Sequence[Item]) -> None:
        """Hand items on; waits while the consumer has as many as it may have."""
        waiting = self._items
        waiting.extend(items)
        self._arrived.set()
        if len(waiting) < self.buffer:
            return
        if not self._consumed:
            while len(waiting) > self.buffer:
                waiting.popleft()
            return
        while len(waiting) >= self.buffer:
            self._wake()
            self._space.clear()
            await self._space.wait()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()
        self._space.set()
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _change(self) -> None:
        """Wait until anything has happened."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)


def connect(address: str, **options: Any) -> AsyncClient:
    """Return a client to enter with ``async with``; the arguments are those of ``cmd_server.client.connect``."""
    return AsyncClient(address, **options)
