"""The client for programs without an event loop: ``with connect(address, topics=[...]) as client``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from cmd_common.errors import CmdError, UsageError
from cmd_common.orderbook import OrderBook
from cmd_common.records import Record
from cmd_common.sequence import BookState
from cmd_server.errors import ConnectionBrokenError, ServerError
from cmd_server.transport import BlockingLink

from .base import BaseClient
from .batches import Batch, BatchBuilder
from .core import SECOND
from .events import Item, Message

__all__ = ["Client"]


class Client(BaseClient):
    """A client without a thread: everything happens while the program iterates, or calls ``poll`` or ``run``.

    So books stand still between two of these calls, callbacks are called inside them (each while the books are as of
    its message), and nothing needs a lock. Who iterates may find the books ahead by what was read at once. A
    program that does not read for long is a slow client to the server, whose policy then applies; one that says nothing
    for longer than the server allows is disconnected, and connects again and resumes at its next call.
    """

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self.closed = False
        self._link: BlockingLink | None = None
        self._pending: deque[Item] = deque()  # taken while something else was waited for
        self._retry_at = 0  # monotonic ns: when to connect again
        self._tick_at = 0  # and when to tell the core the time, although messages come

    # -- life

    def start(self) -> None:
        """Connect, log in and subscribe. Raises ConnectionBrokenError, RefusedError or UsageError."""
        while not (self.core.connects and self.core.ready):
            self._pending += self._poll(None)

    def close(self) -> None:
        """Close the connection and end iterations; never raises."""
        self.closed = True
        self._pending.clear()
        if self._link is not None:
            self._link.close()
            self._link = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- requests

    def subscribe(self, *topics: str) -> int:
        """Ask for more topics; returns how many streams match by now. Raises RefusedError.

        What arrives meanwhile is part of the next ``poll``.
        """
        return self._request(self.core.subscribe(topics))

    def unsubscribe(self, *topics: str) -> None:
        """Give up topics, written as they were subscribed. Raises UsageError, RefusedError."""
        self._request(self.core.unsubscribe(topics))

    def _request(self, number: int) -> int:
        while (answer := self.core.answer(number)) is None:
            if self.closed:
                raise ConnectionBrokenError("the client is closed")
            self._pending += self._poll(None)
        return self._check_answer(answer)

    # -- consuming

    def poll(self, timeout: float | None = 0.0) -> list[Item]:
        """Take what has arrived, after waiting for it up to ``timeout`` seconds (None: until something does).

        Returns messages and events in their order, none when nothing came. Connects again where that is due. Raises
        the error that ended the client.
        """
        if self._pending:
            items = list(self._pending)
            self._pending.clear()
            return items
        return self._poll(timeout)

    def items(self) -> Iterator[list[Item]]:
        """Yield everything as it arrives, several items at a time, until the client is closed."""
        while not self.closed:
            items = self.poll(None)
            if items:
                yield items

    def events(self) -> Iterator[Item]:
        """Yield messages (with their sequence and flags) and events one by one; what is not taken stays."""
        pending = self._pending
        while not self.closed:
            if not pending:
                pending.extend(self._poll(None))
            while pending:
                yield pending.popleft()

    def records(self) -> Iterator[Record]:
        """Yield records one by one; the events between them go to ``on_event``."""
        pending = self._pending
        while not self.closed:
            if not pending:
                pending.extend(self._poll(None))
            while pending:
                item = pending.popleft()
                if type(item) is Message:
                    yield item.record

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def run(self, seconds: float | None = None) -> None:
        """Work for callbacks and books: for some seconds, or until the client is closed."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self.closed:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            self.poll(left)

    def live(self, *names: str, timeout: float | None = None) -> OrderBook:
        """Work until books are LIVE, in seconds at most ``timeout``; returns the first. Raises CmdError after it."""
        if not names:
            raise UsageError("which book?")
        end = None if timeout is None else time.monotonic() + timeout
        kept: list[Item] = []
        while late := [n for n in names if n not in self.books or self.books[n].state is not BookState.LIVE]:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise ServerError(f"not LIVE after {timeout:g} s: {', '.join(late)}", hint="is it subscribed?")
            kept += self.poll(left)
            del kept[: -self.buffer]
        self._pending.extendleft(reversed(kept))
        return self.books[names[0]]

    def batches(self, table: str, max_rows: int = 10_000, max_ns: int = SECOND) -> Iterator[Batch]:
        """Yield the records of one table (``trades``, ``book_deltas``, ...) in batches for numpy and Arrow.

        A batch goes out with ``max_rows``, or when its first record has waited for ``max_ns``. Giving up the iteration
        gives up what was collected.
        """
        builder = BatchBuilder(table, max_rows, max_ns)
        while not self.closed:
            due = builder.due(time.monotonic_ns())
            items = self.poll(None if due is None else due / SECOND)
            now = time.monotonic_ns()
            yield from builder.add(items, now)
            if builder.due(now) == 0 and (late := builder.take()) is not None:
                yield late
        if (last := builder.take()) is not None:
            yield last

    # -- inside

    def _poll(self, timeout: float | None) -> list[Item]:
        end = None if timeout is None else time.monotonic_ns() + int(timeout * SECOND)
        while True:
            if self.closed:
                return []
            items = self._step(end)
            if items:
                return items
            if (end is not None and time.monotonic_ns() >= end) or (end is None and self.core.answered):
                return []

    def _step(self, end: int | None) -> list[Item]:
        """One wait: for the time to connect again, or for bytes."""
        core = self.core
        now = time.monotonic_ns()
        link = self._link
        if link is None:
            if now < self._retry_at:
                until = self._retry_at if end is None else min(end, self._retry_at)
                time.sleep(max(0, until - now) / SECOND)
                if time.monotonic_ns() < self._retry_at:
                    return []
            return self._connect()
        error: CmdError | None = None
        items: list[Item] = []
        try:
            self._flush(link)
            wait = core.interval if end is None else max(0, min(core.interval, end - now))
            try:
                size = link.receive_into(core.space, wait / SECOND)
            except TimeoutError:
                core.tick(time.monotonic_ns())
            else:
                now = time.monotonic_ns()
                was_ready = core.ready
                if size:
                    items = core.received(size, now)
                    if now >= self._tick_at:
                        self._tick_at = now + core.interval
                        core.tick(now)
                else:
                    error = ConnectionBrokenError("the server closed the connection")
                if core.ready and not was_ready:
                    self._backoff.succeeded(now)
            self._flush(link)
        except ServerError as broken:
            error = broken
        if error is not None or core.broken or core.failure is not None:
            items += self._down(error)
        return items

    def _connect(self) -> list[Item]:
        core = self.core
        core.broken = ""
        try:
            self._link = self._transport.open(self._where, self._link_options)
        except CmdError as error:
            return self._down(error)
        self._tick_at = 0
        core.connected(time.monotonic_ns(), self.address)
        return []

    def _down(self, error: CmdError | None) -> list[Item]:
        """Close what is left of a connection and plan the next; raises the final error."""
        if self._link is not None:
            self._link.close()
            self._link = None
        now = time.monotonic_ns()
        final, reason, delay = self._again(error, now)
        items = self._down_items(reason, delay)
        if final is not None:
            self.closed = True
            raise final
        self._retry_at = now + delay
        return items

    def _flush(self, link: BlockingLink) -> None:
        if self.core.speaking:
            link.send(b"".join(self.core.outgoing(time.monotonic_ns())))
