"""The command ``repair``: verify, fetch what is missing where the exchange has it, verify again, and tell the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from msgspec import structs

from cmd_archiver.command import archive, state_folder
from cmd_archiver.download import is_outage
from cmd_archiver.job import DOWNLOADS, LOCKS, MANIFEST
from cmd_archiver.locks import FileLock
from cmd_archiver.manifest import Manifest
from cmd_archiver.plan import origin_of
from cmd_archiver.rest import Pools, RestClient, Walker
from cmd_common.commands import (
    EXIT_BUSY,
    EXIT_GAPS,
    EXIT_OK,
    EXIT_UNREACHABLE,
    ArchiveOptions,
    RepairOptions,
    Reporter,
    Result,
    VerifyOptions,
)
from cmd_common.errors import CmdError, StoreError, UsageError
from cmd_common.exchange import Endpoints, Exchange
from cmd_common.history import HistorySource, Walk
from cmd_common.io import open_reader, open_writer
from cmd_common.records import Gap
from cmd_common.registry import exchange as find_exchange
from cmd_common.registry import names
from cmd_common.seams import Clock, Net, Rng, SystemClock, system_rng

from .plan import Fetch, closings, fetches
from .replaced import Replaced, named, replaced_files
from .run import Report, gaps_of, verify
from .verdicts import VERDICTS, Day, Stream

__all__ = ["repair", "run"]

_LOCK: Final = "repair"
_ORIGINS: Final = {"file": "archive", "utc": "archive", "rest": "rest", "local": "archive"}


def run(options: RepairOptions, reporter: Reporter) -> Result:
    """Repair a store. Exit codes: 0 nothing is missing any more, 3 something still is, 4 another repair runs, 5 the
    exchange could not be reached. Raises UsageError, StoreError.
    """
    from cmd_feed.net import SystemNet

    clock = SystemClock()

    async def main() -> Result:
        net = SystemNet(proxy=options.proxy)
        try:
            return await repair(options, reporter, net, clock, system_rng())
        finally:
            await net.close()

    return asyncio.run(main())


async def repair(options: RepairOptions, reporter: Reporter, net: Net, clock: Clock, rng: Rng) -> Result:
    """The command with its seams given; returns and raises as ``run``."""
    folder = state_folder(options.store)
    asked = VerifyOptions(
        store=options.store, venues=options.venues, symbols=options.symbols, tables=options.tables, start=options.start,
        end=options.end, offline=not options.recheck, compare=False, endpoints=options.endpoints, proxy=options.proxy,
    )  # fmt: skip
    recheck, listed = options.recheck, _listed(options.replaced)
    if listed:
        asked, recheck = _narrowed(asked, listed), True

    def planned(report: Report) -> list[Fetch]:
        days = named(report.days, listed) if listed else report.days
        return fetches(days, clock.now(), recheck=recheck)

    lock = FileLock(folder / LOCKS, _LOCK)
    if options.dry_run:
        before = await verify(asked, reporter, net, clock, rng)
        return _planned(planned(before), before, reporter)
    if not lock.acquire():
        reporter.warn("another repair works on this store")
        return Result(EXIT_BUSY, {"busy": True})
    try:
        before = await verify(asked, reporter, net, clock, rng)
        plan = planned(before)
        if listed:
            reporter.info(f"{len(listed)} replaced files are listed; {len(plan)} days of the store came from them")
        work = _Work(options, reporter, net, clock, rng, folder)
        await work.run(plan)
        after = await verify(structs.replace(asked, offline=True), reporter, net, clock, rng) if plan else before
        written = _tell(options, before, after, work.origins(plan))
    finally:
        lock.release()
    return _result(before, after, plan, written, work)


def _listed(path: str) -> list[Replaced]:
    """The files of a list of replaced ones; raises UsageError."""
    if not path:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"cannot read the list of replaced files {path}: {words}", hint="check the path") from None
    return replaced_files(text, path)


def _narrowed(asked: VerifyOptions, listed: Sequence[Replaced]) -> VerifyOptions:
    """Only what a list is about; what was asked for narrows it further. The exchange is asked."""
    symbols = {f.symbol for f in listed}
    tables = {f.table for f in listed}
    first, last = min(f.first for f in listed), max(f.last for f in listed) + timedelta(days=1)
    return structs.replace(
        asked,
        symbols=tuple(sorted(symbols & set(asked.symbols) if asked.symbols else symbols)) or ("-",),
        tables=tuple(sorted(tables & set(asked.tables) if asked.tables else tables)) or tuple(sorted(tables)),
        start=max(first, asked.start) if asked.start else first,
        end=min(last, asked.end) if asked.end else last,
        offline=False,
    )


# -- fetching -----------------------------------------------------------------------------------------


class _Work:
    """Fetches days through the archiver, and parts of a day that is not over through REST."""

    def __init__(
        self, options: RepairOptions, reporter: Reporter, net: Net, clock: Clock, rng: Rng, folder: Path
    ) -> None:
        self.failures: list[str] = []
        self.unreachable = False
        self.rows = 0
        self._options = options
        self._reporter = reporter
        self._seams = (net, clock, rng)
        self._folder = folder
        self._pools = Pools()
        self._rest: set[tuple[Stream, str]] = set()

    async def run(self, plan: Sequence[Fetch]) -> None:
        """Do all; what fails is kept in ``failures``. Raises StoreError."""
        for n, group in enumerate(groups := _groups(plan)):
            self._reporter.progress("repair", n, len(groups), unit="stretches")
            first = group[0]
            try:
                if first.how == "span":
                    await self._spans(first)
                else:
                    await self._days(group)
            except StoreError:
                raise
            except CmdError as error:
                self.unreachable |= is_outage(error)
                words = f"{first.stream.label} {first.day}: {error}"
                self.failures.append(words)
                self._reporter.warn(words)
        self._reporter.progress("repair", len(groups), len(groups), unit="stretches")

    def _exchange(self, stream: Stream) -> tuple[Exchange, Endpoints]:
        if stream.venue not in names("cmd.exchanges"):
            raise UsageError(f"no package for {stream.venue} is installed")
        exchange = find_exchange(stream.venue)
        url = self._options.endpoints.get(stream.venue) or self._options.endpoints.get("")
        return exchange, exchange.endpoints.override(url) if url else exchange.endpoints

    async def _days(self, group: Sequence[Fetch]) -> None:
        """Days that are over, as the archiver gets them: files where there are, else REST; what has neither, by stretches."""
        stream = group[0].stream
        exchange, _ = self._exchange(stream)
        archived = exchange.archive is not None and stream.table in exchange.archive.tables
        if archived or (exchange.history is not None and stream.table in exchange.history.tables):
            options = ArchiveOptions(
                exchanges=(stream.venue,), symbols=(stream.symbol,), types=(stream.table,), start=group[0].day,
                end=group[-1].day, store=self._options.store, intervals=(stream.interval or "1m",),
                endpoints=self._options.endpoints, force=group[0].force, proxy=self._options.proxy,
            )  # fmt: skip
            result = await archive(options, self._reporter, *self._seams)
            self.rows += sum(result.summary.get("rows", {}).values())
            self.failures += result.summary.get("failures", [])
            if result.summary.get("unreachable"):
                self.unreachable = True
                return  # its REST interface is not tried for long minutes
        done = self.origins(group)
        for fetch in group:
            if (stream, fetch.day.isoformat()) not in done:
                await self._spans(fetch)

    async def _spans(self, fetch: Fetch) -> None:
        """The stretches of a day in which something is missing, over REST, as far back as it answers."""
        stream = fetch.stream
        exchange, endpoints = self._exchange(stream)
        history: HistorySource | None = getattr(exchange, "backfill", None) or exchange.history
        if history is None or stream.table not in history.tables:
            return
        if stream.interval and stream.interval not in history.intervals:
            return
        net, clock, rng = self._seams
        reach = history.reach(stream.table, stream.interval)
        client = RestClient(exchange, net, clock, rng, self._pools, self._reporter.warn)
        walker = Walker(history, endpoints, client, clock, self._reporter)
        for low, high in fetch.spans:
            if reach is not None and high <= clock.now() - reach:
                continue
            name = f"{stream.venue}.{stream.symbol}.{stream.table}.{stream.interval}.{low}-{high}.pages"
            path = self._folder / DOWNLOADS / "repair" / quote(name, safe="")
            pages = await walker.fetch(Walk(stream.table, stream.symbol, low, high + 1, stream.interval), path)
            with open_writer(self._options.store) as writer:
                for page in pages.read():
                    rows = [r for r in page.records if low <= _time(r) <= high]
                    writer.write(rows)
                    self.rows += len(rows)
                    if rows:
                        self._rest.add((stream, fetch.day.isoformat()))
            path.unlink(missing_ok=True)

    def origins(self, plan: Sequence[Fetch]) -> dict[tuple[Stream, str], str]:
        """Where the rows of each fetched day came from, as the manifest has it."""
        found = dict.fromkeys(self._rest, "rest")
        wanted = {(f.stream, f.day.isoformat()) for f in plan}
        manifest = Manifest(self._folder / MANIFEST, read_only=True)
        try:
            for venue, table, symbol, interval, day, entry in manifest.by_stream():
                key = (Stream(venue, symbol, table, interval, "exchange" if table == "candles" else ""), day)
                if key in wanted and entry.state == "done":
                    found[key] = _ORIGINS[origin_of(entry.key)]
        finally:
            manifest.close()
        return found


def _time(record: Any) -> int:
    return int(getattr(record, "open_time", 0) or record.ts_event)


def _groups(plan: Sequence[Fetch]) -> list[list[Fetch]]:
    """Neighbouring days of a stream that are asked for in the same way."""
    out: list[list[Fetch]] = []
    for one in plan:
        last = out[-1][-1] if out else None
        if (
            last is not None
            and one.how == "day"
            and (one.stream, one.force, one.how) == (last.stream, last.force, last.how)
        ) and one.day == last.day + timedelta(days=1):
            out[-1].append(one)
            continue
        out.append([one])
    return out


# -- the ledger -----------------------------------------------------------------------------------------


def _tell(options: RepairOptions, before: Report, after: Report, origins: dict[tuple[Stream, str], str]) -> list[Gap]:
    """Close and split gaps, and add what the ledger never had: what was repaired, and what still is missing."""
    with open_reader(options.store) as reader:
        held = cast("list[Gap]", list(reader.records("gaps"))) if "gaps" in reader.tables() else []
    missing = {_key(g): g for g in gaps_of(after.days)}
    days = {(d.stream.venue, d.stream.symbol, d.stream.table): d.stream for d in before.days}
    extra = list(missing.values())
    for gap in gaps_of(before.days):
        if _key(gap) not in missing and not any(_overlaps(gap, other) for other in extra):
            stream = days[gap.venue, gap.symbol, gap.record_type]
            by = next(
                (o for (s, _), o in origins.items() if s.table == stream.table and s.symbol == stream.symbol), "live"
            )
            extra.append(structs.replace(gap, repaired_by=by))
    rows = closings([g for g in held if not g.repaired_by], after.days, origins, extra)
    if rows:
        with open_writer(options.store) as writer:
            writer.write(rows)
    return rows


def _key(gap: Gap) -> tuple[object, ...]:
    return gap.ts_from, gap.venue, gap.symbol, gap.record_type, gap.ts_to


def _overlaps(one: Gap, other: Gap) -> bool:
    same = (one.venue, one.symbol, one.record_type) == (other.venue, other.symbol, other.record_type)
    return same and one.ts_from < other.ts_to and other.ts_from < one.ts_to


# -- the result -----------------------------------------------------------------------------------------


def _open(report: Report) -> list[Day]:
    return [day for day in report.days if VERDICTS.index(day.verdict) >= VERDICTS.index("suspect")]


def _planned(plan: Sequence[Fetch], report: Report, reporter: Reporter) -> Result:
    for fetch in plan:
        how = f"{len(fetch.spans)} stretches of it over REST" if fetch.how == "span" else "the day"
        reporter.info(f"would fetch {fetch.stream.label} {fetch.day}: {how}")
    summary = {"dry_run": True, "days": len(plan), "not_whole": len(_open(report))}
    return Result(EXIT_GAPS if _open(report) else EXIT_OK, summary)


def _result(before: Report, after: Report, plan: Sequence[Fetch], written: Sequence[Gap], work: _Work) -> Result:
    # What is only open in the ledger, and filled, was closed just now.
    left = [
        d
        for d in _open(after)
        if any(f.kind != "filled" and f.verdict in ("suspect", "incomplete", "corrupt") for f in d.findings)
    ]
    closed = [g for g in written if g.repaired_by]
    summary: dict[str, Any] = {
        "fetched_days": len(plan),
        "rows": work.rows,
        "closed": sum("split" not in g.repaired_by for g in closed),
        "split": sum("split" in g.repaired_by for g in closed),
        "not_whole_before": len(_open(before)),
        "not_whole": len(left),
        "left": [f"{d.stream.label} {d.day}: {', '.join(sorted({f.kind for f in d.findings}))}" for d in left[:100]],
    }
    if work.failures:
        summary["failures"] = work.failures
    code = EXIT_UNREACHABLE if work.unreachable else EXIT_GAPS if left else EXIT_OK
    return Result(code, summary)
