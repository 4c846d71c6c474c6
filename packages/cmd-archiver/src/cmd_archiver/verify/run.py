"""The command ``verify``: reads a store, its manifest and what exchanges publish; the only part with the real seams."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from msgspec import Struct, structs

from cmd_archiver.download import Downloader
from cmd_archiver.job import DOWNLOADS, MANIFEST
from cmd_archiver.manifest import Entry, Manifest
from cmd_archiver.plan import BUILT, DAY_NS, day_start, days, origin_of, utc_day
from cmd_common.archive import ArchiveFile
from cmd_common.commands import EXIT_GAPS, EXIT_OK, Reporter, Result, VerifyOptions
from cmd_common.errors import StoreError, UnknownNameError, UsageError, VenueError
from cmd_common.exchange import Endpoints, Exchange
from cmd_common.io import IReader, open_reader, open_writer
from cmd_common.records import Gap
from cmd_common.registry import exchange as find_exchange
from cmd_common.registry import names
from cmd_common.schema import SCHEMA
from cmd_common.seams import Clock, Net, Rng, SystemClock, system_rng
from cmd_common.symbols import nearest

from .ledger import Ledger, concerns
from .streams import Facts, check_stream
from .verdicts import EXIT_CORRUPT, VERDICTS, Day, Stream

__all__ = ["REASON", "Report", "run", "verify"]

REASON: Final = "verify"
"""``Gap.reason`` of what verify found and nobody had told."""

_TABLES: Final = ("trades", "agg_trades", "quotes", "candles", "book_snapshots", "book_deltas")
_AT_ONCE: Final = 8  # questions to a server at once
_MISSING: Final = {"ids", "candles", "missing_day", "chain"}  # findings that are missing rows


class Report(Struct):
    """What was found: days by stream and date, what was asked for, and what could not be asked."""

    store: str
    at: int  # ns, when it was made
    days: list[Day]
    unasked: list[str] = []

    def counts(self) -> dict[str, int]:
        """How many days have each verdict."""
        found = Counter(day.verdict for day in self.days)
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}

    def exit_code(self) -> int:
        """0, EXIT_GAPS where something is missing or may be, EXIT_CORRUPT where the store contradicts itself."""
        worst = max((VERDICTS.index(day.verdict) for day in self.days), default=0)
        if worst >= VERDICTS.index("corrupt"):
            return EXIT_CORRUPT
        return EXIT_GAPS if worst >= VERDICTS.index("suspect") else EXIT_OK


def run(options: VerifyOptions, reporter: Reporter) -> Result:
    """Verify a store. Exit codes: 0 all complete, 3 something is missing or may be, 6 contradictions.

    Raises UsageError, StoreError.
    """
    from cmd_feed.net import SystemNet

    clock = SystemClock()

    async def main() -> Report:
        net = SystemNet(proxy=options.proxy)
        try:
            return await verify(options, reporter, net, clock, system_rng())
        finally:
            await net.close()

    report = asyncio.run(main())
    if options.html:
        from .page import render

        _write(options.html, render(report))
    summary: dict[str, Any] = {"verdicts": report.counts(), "days": [_plain(day) for day in report.days]}
    if report.unasked:
        summary["unasked"] = report.unasked
    if options.html:
        summary["html"] = options.html
    if options.write_gaps:
        summary["gaps_written"] = write_gaps(options.store, report.days)
    return Result(report.exit_code(), summary)


def _plain(day: Day) -> dict[str, Any]:
    """A day for JSON."""
    out: dict[str, Any] = msgspec.to_builtins(day)
    return {**out.pop("stream"), **out}


def _write(path: str, text: str) -> None:
    part = f"{path}.part"
    try:
        if folder := os.path.dirname(path):
            os.makedirs(folder, exist_ok=True)
        Path(part).write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


async def verify(options: VerifyOptions, reporter: Reporter, net: Net, clock: Clock, rng: Rng) -> Report:
    """The command with its seams given; raises as ``run``."""
    from cmd_archiver.command import state_folder

    for table in options.tables:
        if table not in _TABLES:
            near = nearest(table, _TABLES)
            raise UnknownNameError("type", table, near, hint="" if near else f"types are: {', '.join(_TABLES)}")
    folder = state_folder(options.store)
    now = clock.now()
    with open_reader(options.store) as reader:
        manifest = Manifest(folder / MANIFEST, read_only=True)
        try:
            entries = _entries(manifest)
        finally:
            manifest.close()
        gaps = cast("list[Gap]", list(reader.records("gaps"))) if "gaps" in reader.tables() else []
        streams = await asyncio.to_thread(_streams, reader, options, entries, gaps, now)
        if not streams:
            raise StoreError("the store has no such rows", hint="see what it has: cmd-cli store status")
        found: list[Day] = []
        for n, (stream, wanted) in enumerate(streams.items(), 1):
            facts = _facts(reader, stream, gaps, entries, options)
            found += await asyncio.to_thread(check_stream, stream, wanted, facts)
            reporter.progress("verify", n, len(streams), unit="streams")
    report = Report(options.store, now, found)
    if not options.offline:
        await _ask(report, options, entries, net, clock, rng, folder / DOWNLOADS)
    return report


Entries = Mapping[Stream, Mapping[str, list[Entry]]]


def _entries(manifest: Manifest) -> dict[Stream, dict[str, list[Entry]]]:
    """What was archived, by the stream that it became and by day."""
    found: dict[Stream, dict[str, list[Entry]]] = {}
    for venue, table, symbol, interval, day, entry in manifest.by_stream():
        if entry.product.startswith(BUILT):
            stream = Stream(venue, symbol, "candles", entry.product.removeprefix(BUILT), "built")
        elif table == "candles":
            stream = Stream(venue, symbol, table, interval, "exchange")
        else:
            stream = Stream(venue, symbol, entry.product)
        mine = found.setdefault(stream, {})
        last = date.fromisoformat(entry.last_day or day)
        first = date.fromisoformat(day)
        for one in days(first, last):
            # Of a file of many days only this is known: that it is done.
            part = entry if first == last else structs.replace(entry, rows=0, first_id=None, last_id=None)
            mine.setdefault(one.isoformat(), []).append(part)
    return found


def _streams(
    reader: IReader, options: VerifyOptions, entries: Entries, gaps: Sequence[Gap], now: int
) -> dict[Stream, list[date]]:
    """The streams that the store holds, or should, and the days of each. Today counts as far as it has come."""
    held = set(reader.tables())
    spans: dict[Stream, tuple[int, int]] = {}
    for table in options.tables or _TABLES:
        if table not in held:
            continue
        time = SCHEMA[table].time
        more = ", interval, source" if table == "candles" else ""
        sql = (
            f"SELECT venue, symbol{more}, min({time}) AS low, max({time}) AS high FROM {table} WHERE flags IS NOT NULL"
        )
        for row in reader.sql(f"{sql} GROUP BY venue, symbol{more}").rows():
            *names_, low, high = row
            venue, symbol, *kind = (str(word) for word in names_)
            spans[Stream(venue, symbol, table, *kind)] = (int(low), int(high))
    for stream, by_day in entries.items():
        if options.tables and stream.table not in options.tables:
            continue
        low, high = day_start(date.fromisoformat(min(by_day))), day_start(date.fromisoformat(max(by_day)))
        before = spans.get(stream, (low, high))
        spans[stream] = min(low, before[0]), max(high, before[1])
    for stream, (low, high) in spans.items():
        mine = [g for g in gaps if not g.repaired_by and concerns(g, stream) and g.symbol == stream.symbol]
        spans[stream] = min([low, *(g.ts_from for g in mine)]), max([high, *(g.ts_to - 1 for g in mine)])
    out = {}
    for stream in sorted(spans):
        if options.venues and stream.venue not in options.venues:
            continue
        if options.symbols and stream.symbol not in options.symbols:
            continue
        low, high = spans[stream]
        first, last = utc_day(low), utc_day(min(high, now))
        first = max(first, options.start) if options.start else first
        last = min(last, options.end - timedelta(days=1)) if options.end else last
        if first <= last:
            out[stream] = list(days(first, last))
    return out


def _exchange(venue: str) -> Exchange | None:
    return find_exchange(venue) if venue in names("cmd.exchanges") else None


def _facts(reader: IReader, stream: Stream, gaps: Sequence[Gap], entries: Entries, options: VerifyOptions) -> Facts:
    exchange = _exchange(stream.venue)
    history = exchange.history if exchange is not None else None
    trades = Stream(stream.venue, stream.symbol, "trades")
    return Facts(
        reader,
        Ledger(gaps, stream),
        entries.get(stream, {}),
        contiguous=False if history is not None and not history.contiguous else None,
        sparse=history.sparse_candles if history is not None else False,
        compare=options.compare,
        trades=Ledger(gaps, trades),
    )


# -- what exchanges publish ------------------------------------------------------------------------


async def _ask(
    report: Report, options: VerifyOptions, entries: Entries, net: Net, clock: Clock, rng: Rng, downloads: Path
) -> None:
    """Compare with what is published: changed files, and files of days that are missing."""
    probe = Downloader(net, clock, rng, downloads)
    turns = asyncio.Semaphore(_AT_ONCE)
    by_venue: dict[str, list[Day]] = {}
    for day in report.days:
        by_venue.setdefault(day.stream.venue, []).append(day)
    for venue, found in by_venue.items():
        exchange = _exchange(venue)
        if exchange is None or exchange.archive is None or "daily" not in exchange.archive.periods:
            continue
        url = options.endpoints.get(venue) or options.endpoints.get("")
        endpoints = exchange.endpoints.override(url) if url else exchange.endpoints
        try:
            await _listed(exchange, endpoints, found, probe)

            async def check(day: Day, file: ArchiveFile, entry: Entry, exchange: Exchange = exchange) -> None:
                async with turns:
                    await _published(day, file, entry, exchange, probe)

            await asyncio.gather(*(check(*one) for one in _archived(exchange, endpoints, found, entries)))
        except VenueError as error:
            report.unasked.append(f"{venue}: {error}")


def _file(exchange: Exchange, endpoints: Endpoints, stream: Stream, day: str) -> ArchiveFile | None:
    """The published file of a day; None where there is none of this kind."""
    source = exchange.archive
    if source is None or stream.table not in source.tables or stream.source == "built":
        return None
    if stream.table == "candles" and stream.interval not in source.intervals:
        return None
    try:
        return source.file(stream.table, stream.symbol, date.fromisoformat(day), endpoints, interval=stream.interval)
    except UsageError:
        return None


async def _listed(exchange: Exchange, endpoints: Endpoints, found: Sequence[Day], probe: Downloader) -> None:
    """Say of days that are not whole whether the exchange publishes them."""
    groups: dict[Stream, list[tuple[Day, ArchiveFile]]] = {}
    for day in found:
        if VERDICTS.index(day.verdict) >= VERDICTS.index("suspect"):
            file = _file(exchange, endpoints, day.stream, day.day)
            if file is not None:
                groups.setdefault(day.stream, []).append((day, file))
    assert exchange.archive is not None
    for group in groups.values():
        sizes = await probe.sizes(exchange.archive, endpoints, [file for _, file in group], attempts=2)
        for day, file in group:
            day.listed = file.key in sizes


def _archived(
    exchange: Exchange, endpoints: Endpoints, found: Sequence[Day], entries: Entries
) -> Iterator[tuple[Day, ArchiveFile, Entry]]:
    for day in found:
        for entry in entries.get(day.stream, {}).get(day.day, ()):
            file = _file(exchange, endpoints, day.stream, day.day)
            if file is not None and entry.state == "done" and entry.key == file.key and origin_of(entry.key) == "file":
                yield day, file, entry


async def _published(day: Day, file: ArchiveFile, entry: Entry, exchange: Exchange, probe: Downloader) -> None:
    """Whether a file is still what was archived."""
    assert exchange.archive is not None
    start = day_start(date.fromisoformat(day.day))
    if file.checksum_url:
        now = await probe.checksum(exchange.archive, file)
        before = entry.sha256
    else:
        now, before = await probe.version(file), entry.version
    if now is None:
        day.add("withdrawn", start, start + DAY_NS, file.name)
    elif now != before:
        day.add("replaced", start, start + DAY_NS, f"{file.name} was {before[:12]} and is {now[:12]}")


# -- the ledger --------------------------------------------------------------------------------------


def gaps_of(found: Sequence[Day]) -> list[Gap]:
    """Rows of the ledger for what is missing and was not told before."""
    out = {}
    for day in found:
        for one in day.findings:
            if one.kind in _MISSING and one.verdict == "incomplete":
                s = day.stream
                detail = f"{s.interval}: {one.detail}" if s.interval else one.detail
                gap = Gap(
                    one.ts_from,
                    one.ts_to,
                    s.venue,
                    s.symbol,
                    s.table,
                    REASON,
                    "lost",
                    one.first_id,
                    one.last_id,
                    detail=detail,
                )
                out[gap.ts_from, gap.venue, gap.symbol, gap.record_type, gap.ts_to] = gap
    return list(out.values())


def write_gaps(store: str, found: Sequence[Day]) -> int:
    """Write them; returns how many."""
    gaps = gaps_of(found)
    if gaps:
        with open_writer(store) as writer:
            writer.write(gaps)
    return len(gaps)
