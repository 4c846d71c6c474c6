"""The command ``serve``: live data, or what a store holds and then live data, pushed to other programs.

Exit codes: 0 done, 3 recorded with gaps, 1 the store or every connection failed, 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from cmd_common import __version__, registry
from cmd_common.commands import (
    EXIT_FAILED,
    EXIT_GAPS,
    EXIT_OK,
    LiveSource,
    RecordOptions,
    Reporter,
    Result,
    ServeOptions,
)
from cmd_common.errors import CmdError, StoreError, UsageError
from cmd_common.io import open_reader
from cmd_common.metrics import Families, FeedMeter, book_families
from cmd_common.processes import ProcessState
from cmd_common.records import BookSnapshot, InstrumentRecord, Record
from cmd_common.seams import Clock, SystemClock
from cmd_common.sequence import BookState
from cmd_common.service import ServiceManager
from cmd_common.signals import done_before, finish_on_signals

from .health import HealthServer, open_health
from .history import Reading, Selection
from .limits import Limits
from .metrics import hub_families
from .playing import Player
from .selecting import stored_selection
from .server import Server

if TYPE_CHECKING:
    from cmd_common.orderbook import OrderBook

    from .hub import Client

__all__ = ["MakeSource", "run", "serve"]

MakeSource = Callable[[RecordOptions, Reporter], LiveSource]

_POLL: Final = 50_000_000  # ns between two looks for the first reader
_ROOM: Final = 2_000_000  # ns between two looks at full queues
_STUCK: Final = 5_000_000_000  # ns that history waits for a client that reads nothing
_DRAIN: Final = 2.0  # s that clients have to read what waits for them when the server ends
_DRAIN_AT_END: Final = 30.0  # s, where it ends because everything was sent


def run(options: ServeOptions, reporter: Reporter) -> Result:
    """Serve until the duration is over, everything was sent (``until_end``), or SIGINT or SIGTERM.

    Raises CmdError when it cannot start. The summary has ``records``, ``clients``, ``messages``, ``bytes``, ``gaps`` and
    ``books`` by state; further ``history``, ``byes`` and ``error`` where there were any.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(options, reporter))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loop factory where it is installed (extra ``fast``) and CMD_FAST is not 0, else None."""
    if os.environ.get("CMD_FAST", "") == "0":
        return None
    try:
        import uvloop
    except ModuleNotFoundError as error:
        if error.name != "uvloop":
            raise
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


async def serve(
    options: ServeOptions, reporter: Reporter, *, make_source: MakeSource | None = None, clock: Clock | None = None
) -> Result:
    """``run`` inside a running event loop; ``make_source`` takes the place of the registered live source."""
    _check(options)
    if options.from_store:
        await asyncio.to_thread(_look, options)
    serving = _Serving(options, reporter, make_source or registry.load("cmd.sources", "live"), clock or SystemClock())
    stop = asyncio.Event()
    with serving.process:
        async with serving.service.alive(), serving.process.alive(serving.facts):
            with finish_on_signals(stop.set, reporter):
                result = await serving.run(stop)
        serving.process.finish(result.exit_code, result.summary.get("error", ""), serving.facts())
    return result


def _check(options: ServeOptions) -> None:
    """Refuse what cannot be meant, before anything is opened."""
    source = options.source
    if not options.listen:
        raise UsageError("no address is given", hint="listen at one, such as tcp:127.0.0.1:9999")
    if not source.exchanges and not options.from_store:
        raise UsageError("nothing to serve", hint="give exchanges, or a store whose history is served")
    if source.duration is not None and source.duration <= 0:
        raise UsageError("the duration is not positive", hint="write it as 30s, 5m or 2h")
    if options.start is not None and options.end is not None and options.end <= options.start:
        raise UsageError("the history ends before it starts", hint="the end is exclusive")
    if source.store and not _live_follows(options):
        raise UsageError(
            "nothing would be recorded: history is served, and no live data follows",
            hint="leave out the store, or add exchanges whose live data follows",
        )
    if _live_follows(options) and 0 < options.speed <= 1:
        raise UsageError(
            f"history at speed {options.speed:g} never reaches the present",
            hint="give a larger speed or max, or an end, after which no live data follows",
        )


def _live_follows(options: ServeOptions) -> bool:
    """Whether live data is served, after the history where there is one."""
    return bool(options.source.exchanges) and options.end is None


def _look(options: ServeOptions) -> None:
    """See that the store is there; raises StoreError, UsageError."""
    with open_reader(options.from_store) as reader:
        if not reader.tables():
            raise StoreError(f"the store {options.from_store} is empty", hint="record or archive into it first")


class _Serving:
    """One run of the command."""

    def __init__(self, options: ServeOptions, reporter: Reporter, make_source: MakeSource, clock: Clock) -> None:
        defaults = Limits()
        queue = options.queue or defaults.queue
        self.options = options
        self.reporter = reporter
        self.clock = clock
        self.server = Server(
            clock=clock,
            token=options.token,
            limits=Limits(
                clients=options.max_clients,
                queue=queue,
                queue_max=max(queue, defaults.queue_max),
                replay_messages=options.replay_buffer or defaults.replay_messages,
            ),
            aggregate=options.source.aggregate,
            name=f"cmd-server {__version__}",
        )
        self.meter = FeedMeter()
        self.phase = "starting"
        self.service = ServiceManager()
        self.process = ProcessState("serve", store=options.source.store or options.from_store)
        self.source: LiveSource | None = None
        if _live_follows(options):
            self.source = make_source(options.source, reporter)
            self.source.on_records(self._live)
        self.player: Player | None = None
        self.error: CmdError | None = None
        self._ahead: list[Record] = []  # live records that came before the player was made
        self._instruments: dict[str, list[str]] = {}  # native symbols by venue, of the live source
        self._stuck: set[Client] = set()  # clients that history does not wait for

    @property
    def books(self) -> Mapping[str, OrderBook]:
        """The books that clients rely on."""
        return self.source.books if self.source is not None else self.server.hub.books

    # -- life

    async def run(self, stop: asyncio.Event) -> Result:
        """Serve until ``stop`` is set or there is nothing more to serve."""
        source = self.options.source
        health: HealthServer | None = None
        entered = ended = False
        try:
            listeners = await self.server.listen_all(self.options.listen)
            if self.options.metrics:
                health = await self._health(self.options.metrics)
            if self.source is not None and not await done_before(stop, self.source.__aenter__()):
                return self._result()
            entered = self.source is not None
            selection = await self._selection()
            self.reporter.ready(
                {
                    "listen": [str(listener.address) for listener in listeners],
                    "metrics": health.address if health is not None else "",
                    "epoch": self.server.hub.epoch,
                    "symbols": {venue: len(symbols) for venue, symbols in selection.items()},
                    "types": list(source.types),
                }
            )
            named = ", ".join(f"{venue} {len(symbols)}" for venue, symbols in selection.items())
            self.reporter.info(f"serving {', '.join(source.types)}; symbols: {named}; Ctrl-C stops")
            self.service.ready(f"serving {', '.join(source.types)} of {named}")
            addresses = ", ".join(str(listener.address) for listener in listeners)
            self.process.running(
                f"serving {', '.join(source.types)} of {named} at {addresses}",
                metrics=health.address if health is not None else "",
            )
            seconds = source.duration / 1e9 if source.duration is not None else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    ended = await done_before(stop, self._work(selection))
        except CmdError as error:
            if not entered and self.phase == "starting":
                raise  # nothing was served yet
            self.error = error
        finally:
            self.service.stopping()
            self.process.stopping()
            if entered and self.source is not None:
                await self.source.__aexit__(None, None, None)
            await self.server.close(drain=_DRAIN_AT_END if ended else _DRAIN)
            if health is not None:
                await health.close()
        return self._result()

    async def _work(self, selection: Selection) -> None:
        """Play the history where there is one, then live data until its source has ended."""
        options = self.options
        if options.from_store:
            await self._play(selection)
        if self.source is None:
            self.reporter.info("the history has ended" + ("" if options.source.until_end else "; Ctrl-C stops"))
            if not options.source.until_end:
                await asyncio.Event().wait()
            return
        self.phase = "live"
        await self.source.wait()

    async def _play(self, selection: Selection) -> None:
        options, source = self.options, self.source
        reading = Reading(
            lambda: open_reader(options.from_store),
            selection,
            options.source.types,
            start=options.start,
            end=options.end,
            intervals=options.source.intervals,
        )
        player = Player(reading, self._publish, self.clock, self._room, speed=options.speed, hold=options.hold)
        ahead, self._ahead = self._ahead, []
        self.player = player
        player.live(ahead)
        self.phase = "history" if source is not None else "replay"
        self.reporter.info("history begins with the first subscription")
        while not any(client.topics for client in self.server.hub.clients):
            await self.clock.sleep(_POLL)
        await player.play(join=source is not None, instruments=source is None, live_book=self._live_book)
        if source is not None:
            seam = player.seam
            told = f", {seam.gaps} gaps before live data" if seam.gaps else ""
            self.reporter.info(f"history: {player.played:,} records{told}; live data follows")

    async def _selection(self) -> Selection:
        """Native symbols by venue: those of the live source, else what the store has of them."""
        if self.source is not None:
            return self._instruments
        options = self.options
        return await asyncio.to_thread(
            stored_selection,
            lambda: open_reader(options.from_store),
            options.source.symbols,
            options.source.types,
            options.source.exchanges,
        )

    def _result(self) -> Result:
        hub, meter = self.server.hub, self.meter
        states = Counter(book.state.value for book in self.books.values())
        gaps = len(meter.open_gaps)
        summary: dict[str, Any] = {
            "records": hub.counters.records,
            "clients": hub.counters.clients,
            "messages": hub.counters.messages,
            "bytes": hub.counters.bytes,
            "gaps": gaps,
            "books": dict(states),
        }
        if self.player is not None:
            seam = self.player.seam
            summary["history"] = {"records": self.player.played, "repeats": seam.repeats, "gaps": seam.gaps}
        if hub.counters.byes:
            summary["byes"] = dict(hub.counters.byes)
        error = self.error or (self.source.error if self.source is not None else None)
        if error is not None:
            self.reporter.warn(f"serving ended early: {error}")
            return Result(EXIT_FAILED, {**summary, "error": str(error)})
        return Result(EXIT_GAPS if gaps and self.options.source.store else EXIT_OK, summary)

    # -- records

    def _live(self, records: Sequence[Record]) -> None:
        """Take records of the live source."""
        self.meter.take(records)
        if self.phase == "starting":
            for record in records:
                if isinstance(record, InstrumentRecord):
                    known = self._instruments.setdefault(record.venue, [])
                    if record.symbol not in known:
                        known.append(record.symbol)
            if self.options.from_store:
                self._ahead += records
                return
        if self.player is not None:
            self.player.live(records)
        else:
            self.server.publish(records)

    def _publish(self, records: Sequence[Record], flags: int) -> None:
        self.server.publish(records, flags=flags)

    def _live_book(self, venue: str, symbol: str, epoch: int) -> BookSnapshot | None:
        """The live book as a record."""
        book = self.books.get(f"{venue}:{symbol}")
        if book is None or book.state is not BookState.LIVE:
            return None
        sides = book.packed_bids(), book.packed_asks()
        now = self.server.now()
        return BookSnapshot(book.ts_event, now, venue, symbol, epoch, book.last_id, *book.known_depth, *sides)

    async def _room(self) -> int:
        """Wait until readers have read most of what waits; returns how many records none of them has trouble with."""
        clients = self.server.hub.clients
        self._stuck = {c for c in self._stuck if c in clients and _behind(c)}
        began = self.clock.monotonic()
        while slow := [c for c in clients if _behind(c) and c not in self._stuck]:
            if self.clock.monotonic() - began >= _STUCK:
                self._stuck.update(slow)  # their policy applies
                break
            await self.clock.sleep(_ROOM)
        return max(1, min((c.bound // 32 for c in clients if c.topics), default=1_000))

    # -- health

    def facts(self) -> dict[str, Any]:
        """What is served, in short."""
        hub = self.server.hub
        return {
            "phase": self.phase,
            "clients": len(hub.clients),
            "records": hub.counters.records,
            "messages": hub.counters.messages,
            "gaps": len(self.meter.open_gaps),
            "books": dict(Counter(book.state.value for book in self.books.values())),
        }

    async def _health(self, address: str) -> HealthServer:
        hub = self.server.hub
        told: Families | None = getattr(self.source, "families", None)  # a source may tell what it counts
        of_source = [told] if told is not None else []
        return await open_health(
            address,
            [lambda: hub_families(hub), self.meter.families, lambda: book_families(self.books), *of_source],
            phase=lambda: self.phase,
            books=lambda: self.books,
            meter=self.meter,
            facts=lambda: {"clients": len(hub.clients), "epoch": hub.epoch},
            token=self.options.token,
        )


def _behind(client: Client) -> bool:
    """Whether much waits for a client that has subscribed."""
    return bool(client.topics) and not client.closing and client.pending > client.bound // 16
