"""A server as a live source, for viewers and programs that take any: entry point ``server`` of ``cmd.sources``."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from cmd_common.aggregate import AggregatedOrderBook
from cmd_common.commands import ConnectOptions, LogReporter, Reporter
from cmd_common.consumer import Consumer
from cmd_common.errors import CmdError
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import Record
from cmd_common.seams import Clock, SystemClock
from cmd_server.client.aio import AsyncClient
from cmd_server.client.core import SECOND
from cmd_server.client.events import Connected, Disconnected, Event, Lost, Message

__all__ = ["ServerSource"]

_QUEUE = 200_000  # records that wait for one consumer
_PATIENCE = SECOND  # until somebody who gets nothing is told so


class ServerSource:
    """``cmd_common.commands.LiveSource`` over a connection to a server.

    Entering it connects and subscribes; a connection that is lost later is opened again, and the reporter is told.
    Merged books come as records of topic ``aggregate``; ``aggregates`` is empty. Raises CmdError.
    """

    def __init__(
        self, options: ConnectOptions, reporter: Reporter | None = None, *, clock: Clock | None = None
    ) -> None:
        self.options = options
        self.error: CmdError | None = None
        self.aggregates: Mapping[str, AggregatedOrderBook] = {}
        self.client = AsyncClient(
            options.address,
            topics=options.topics,
            token=options.token,
            name=options.name,
            queue=options.queue,
            clock=clock,
        )
        self._clock: Clock = clock or SystemClock()
        self.books: MultiSymbolOrderBook = self.client.books
        self._reporter: Reporter = reporter or LogReporter()
        self._callbacks: list[Callable[[Sequence[Record]], None]] = []
        self._consumers: list[Consumer] = []
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.client.start()
        self._tasks = [
            asyncio.create_task(self._pump(), name=f"records of {self.options.address}"),
            asyncio.create_task(self._look(), name=f"matches at {self.options.address}"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def subscribe(self) -> AsyncIterator[Sequence[Record]]:
        """Yield records in the order of arrival, several at a time; a consumer that falls behind loses the oldest."""
        consumer = Consumer(_QUEUE)
        if self._ended.is_set():
            consumer.close()
        self._consumers.append(consumer)
        return consumer

    def on_records(self, callback: Callable[[Sequence[Record]], None]) -> None:
        """Call ``callback`` with every list of records, before it is queued for consumers."""
        self._callbacks.append(callback)

    async def wait(self) -> None:
        """Return when the source has ended by itself; ``error`` says why."""
        await self._ended.wait()

    async def _look(self) -> None:
        """Say when nothing that the server has is asked for: most likely a name is written wrongly."""
        await self._clock.sleep(_PATIENCE)
        if self.client.connected and not self.client.instruments:
            wanted = ", ".join(self.client.topics)
            self._reporter.warn(
                f"{self.options.address}: nothing there matches {wanted} yet; symbols are the exchange's own, such as BTCUSDT"
            )

    async def _pump(self) -> None:
        try:
            async for items in self.client.items():
                records: list[Record] = []
                events: list[Event] = []
                for item in items:
                    if type(item) is Message:
                        records.append(item.record)
                    else:
                        events.append(item)  # type: ignore[arg-type]  # whatever is no message
                if records:
                    for callback in self._callbacks:
                        callback(records)
                    for consumer in self._consumers:
                        consumer.put(records)
                if events:
                    self._tell(events)
        except CmdError as error:
            self.error = error
        finally:
            for consumer in self._consumers:
                consumer.close()
            self._ended.set()

    def _tell(self, events: Sequence[Event]) -> None:
        """Say what a person should know; of messages that were lost one line a reason, however many streams."""
        lost: Counter[str] = Counter()
        for event in events:
            if isinstance(event, Disconnected):
                wait = f"; trying again in {event.retry_in / SECOND:.1f} s" if event.retry_in else ""
                reason = event.reason.removeprefix(f"{self.options.address}: ")
                self._reporter.warn(f"{self.options.address}: {reason}{wait}")
            elif isinstance(event, Connected) and self.client.counters.connects > 1:
                went_on = "going on where it was" if event.resumed else "starting anew"
                self._reporter.info(f"connected to {event.address} again, {went_on}")
            elif isinstance(event, Lost):
                lost[event.reason] += event.count
        for reason, count in lost.items():
            shown = f"{count} messages" if count else "an unknown number of messages"
            self._reporter.warn(f"{self.options.address}: {shown} did not come ({reason})")
