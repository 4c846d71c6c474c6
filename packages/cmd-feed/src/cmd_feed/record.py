"""The command ``record``: live market data into a store, until it is told to stop.

Exit codes: 0 done, 3 done with gaps, 1 the store failed or a connection was given up, 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from msgspec import to_builtins

from cmd_common import registry
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK, RecordOptions, Reporter, Result
from cmd_common.config import mask
from cmd_common.errors import UsageError
from cmd_common.metrics import FeedMeter, book_families
from cmd_common.processes import ProcessState, processes
from cmd_common.service import ServiceManager
from cmd_common.signals import done_before, finish_on_signals

from .metrics import session_facts
from .session import LiveSession

__all__ = ["record", "run"]


def run(options: RecordOptions, reporter: Reporter) -> Result:
    """Record until the duration is over, everything was sent (``until_end``), or SIGINT or SIGTERM.

    Raises CmdError when it cannot start. The summary has ``records`` by table, ``gaps`` and ``books``;
    further ``aggregates`` (where they are recorded), ``confirmed``, ``gap_reasons`` and ``connections``.
    """
    from .net import event_loop_factory

    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        return runner.run(record(options, reporter))


async def record(options: RecordOptions, reporter: Reporter) -> Result:
    """``run`` inside a running event loop."""
    if not options.store and not options.raw:
        raise UsageError("nowhere to record to", hint="give a store, such as parquet:data")
    if options.duration is not None and options.duration <= 0:
        raise UsageError("the duration is not positive", hint="write it as 30s, 5m or 2h")
    session = LiveSession(options, reporter, interrupted=_interrupted(options.store))
    stop = asyncio.Event()
    service = ServiceManager()
    watched = _Watched(options, session)
    with ProcessState("record", store=options.store or f"raw {options.raw}") as process:
        async with service.alive():
            with finish_on_signals(stop.set, reporter):
                try:
                    await watched.open(reporter)
                    if await done_before(stop, session.start()):
                        named = ", ".join(f"{venue} {len(symbols)}" for venue, symbols in session.symbols.items())
                        doing = f"recording {', '.join(options.types)} of {named}"
                        where = options.store or options.raw
                        reporter.info(
                            f"recording {', '.join(options.types)} into {where}; symbols: {named}; Ctrl-C stops"
                        )
                        service.ready(doing)
                        process.running(doing, metrics=watched.address)
                        watched.phase = "live"
                        seconds = options.duration / 1e9 if options.duration is not None else None
                        async with process.alive(lambda: session_facts(session)):
                            with contextlib.suppress(TimeoutError):
                                async with asyncio.timeout(seconds):
                                    await done_before(stop, session.wait())
                    service.stopping()
                    process.stopping()
                    await session.stop()
                finally:
                    await watched.close()
        result = _result(session, reporter)
        process.finish(result.exit_code, str(session.error or ""), session_facts(session))
    return result


def _interrupted(store: str) -> str:
    """Why nothing was recorded until now: what this machine's last recorder into this store said at its end."""
    shown = str(mask(store))
    for found in processes():
        if found.process.command == "record" and found.process.store == shown and found.process.facts:
            # one that could not even start has none
            return "store_outage" if found.process.facts.get("store_failed") else "restart"
    return "restart"


class _Watched:
    """The address where a recording can be watched, if one is asked for."""

    def __init__(self, options: RecordOptions, session: LiveSession) -> None:
        self.phase = "starting"
        self.address = ""
        self._options = options
        self._session = session
        self._server: Any = None

    async def open(self, reporter: Reporter) -> None:
        """Listen; raises CmdError where the address or a package is missing."""
        if not self._options.metrics:
            return
        meter, session = FeedMeter(), self._session
        session.on_records(meter.take)
        self._server = await registry.load("cmd.metrics", "http")(
            self._options.metrics,
            [meter.families, session.families, lambda: book_families(session.books)],
            phase=lambda: self.phase,
            books=lambda: session.books,
            meter=meter,
            facts=lambda: {"symbols": {venue: len(symbols) for venue, symbols in session.symbols.items()}},
            token=self._options.token,
        )
        self.address = self._server.address
        reporter.info(f"metrics at {self.address}/metrics")

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await self._server.close()


def _result(session: LiveSession, reporter: Reporter) -> Result:
    gaps = session.ledger.gaps
    pipeline = session.pipeline
    summary = {
        "records": dict(sorted(session.ledger.records.items())),
        "gaps": gaps,
        "books": {
            name: {
                "state": book.state,
                "last_id": book.last_id,
                "best_bid": list(book.best_bid) if book.best_bid is not None else None,
                "best_ask": list(book.best_ask) if book.best_ask is not None else None,
            }
            for name, book in session.book_states().items()
        },
        "confirmed": pipeline.counters.confirmed if pipeline is not None else 0,
        "gap_reasons": {reason: n for reason, n in sorted(session.ledger.open.items()) if n},
        "connections": {
            c.name: {
                "state": c.state,
                "messages": c.counters.messages,
                "connects": c.counters.connects,
                "disconnects": c.counters.disconnects,
                "resyncs": c.feed.resyncs,
                "malformed": c.feed.malformed,
            }
            for c in session.connections()
        },
    }
    if aggregates := session.aggregate_states():
        summary["aggregates"] = {name: to_builtins(info) for name, info in aggregates.items()}
    if session.error is not None:
        confirmed = summary["confirmed"]
        reporter.warn(f"recording ended early: {session.error}; {confirmed:,} records are confirmed and stay")
        return Result(EXIT_FAILED, {**summary, "error": str(session.error)})
    if session.failed_connections:
        return Result(EXIT_FAILED, summary)
    return Result(EXIT_GAPS if gaps else EXIT_OK, summary)
