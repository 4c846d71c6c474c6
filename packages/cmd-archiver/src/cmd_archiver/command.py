"""The command ``archive``: from options to a Result; the only module with the real seams."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from cmd_common.archive import ArchiveSource
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK, ArchiveOptions, Reporter, Result
from cmd_common.errors import (
    BlockedError,
    CmdError,
    DisconnectedError,
    StoreError,
    UnknownNameError,
    UsageError,
    VenueError,
)
from cmd_common.exchange import Endpoints, Exchange
from cmd_common.io import open_reader, open_writer
from cmd_common.registry import exchange as find_exchange
from cmd_common.registry import names
from cmd_common.registry import store as find_store
from cmd_common.seams import Clock, Net, Rng, SystemClock, system_rng
from cmd_common.signals import finish_on_signals
from cmd_common.symbols import expand_selectors, get_symbols, native_symbols

from .download import Downloader
from .job import DOWNLOADS, MANIFEST, Archiver, Summary
from .manifest import Manifest
from .plan import Plan, Unit, check_days, day_start, make_plan, utc_day

__all__ = ["run", "state_folder"]

# What a row costs, measured on BTCUSDT: bytes of a zip a row, rows a second, bytes of the store a row.
_ZIP_BYTES: Final = {"trades": 15, "agg_trades": 17, "candles": 45}
_STORE_BYTES: Final = {"trades": 12, "agg_trades": 16, "candles": 40}
_ROWS_PER_SECOND: Final = 400_000
_BYTES_PER_SECOND: Final = 20_000_000


def state_folder(store: str) -> Path:
    """Where the manifest, locks and downloads of a store lie: in its own folder, where it has one."""
    scheme, _, location = store.partition(":")
    if scheme == "parquet":
        return Path(location)
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(home) / "cryptomarketdata" / "archive" / hashlib.sha256(store.encode()).hexdigest()[:16]


def run(options: ArchiveOptions, reporter: Reporter) -> Result:
    """Archive history into a store. Days are inclusive, UTC.

    Raises UsageError (exit code 2) and other CmdErrors that stop everything; what goes wrong with one
    file is reported and counted, and the rest goes on. Exit codes: 0 done, 1 failed, 3 done with gaps.
    """
    from cmd_feed.net import SystemNet

    clock = SystemClock()
    check_days(options.start, options.end, utc_day(clock.now()))
    if options.parallel < 1:
        raise UsageError(f"parallel is {options.parallel}", hint="at least 1")
    scheme, colon, location = options.store.partition(":")
    if not colon or not location:
        raise UsageError(f"store {options.store!r} has no location", hint="write it as parquet:PATH")
    find_store(scheme)

    async def main() -> Result:
        net = SystemNet(proxy=options.proxy)
        try:
            return await archive(options, reporter, net, clock, system_rng())
        finally:
            await net.close()

    return asyncio.run(main())


def _venues(options: ArchiveOptions) -> dict[str, tuple[Exchange, ArchiveSource, Endpoints]]:
    if not options.exchanges:
        raise UsageError("no exchange given", hint=f"installed are: {', '.join(names('cmd.exchanges')) or 'none'}")
    out: dict[str, tuple[Exchange, ArchiveSource, Endpoints]] = {}
    for venue in dict.fromkeys(options.exchanges):
        exchange = find_exchange(venue)
        if exchange.archive is None:
            raise UsageError(f"{venue} publishes no bulk files")
        url = options.endpoints.get(venue) or options.endpoints.get("")
        endpoints = exchange.endpoints.override(url) if url else exchange.endpoints
        out[venue] = (exchange, exchange.archive, endpoints)
    return out


async def archive(options: ArchiveOptions, reporter: Reporter, net: Net, clock: Clock, rng: Rng) -> Result:
    """The command with its seams given; raises and returns as ``run``."""
    venues = _venues(options)
    today = utc_day(clock.now())
    probe = Downloader(net, clock, rng, Path(DOWNLOADS))

    def plan_of(venue: str, symbols: Sequence[str]) -> Plan:
        _, source, endpoints = venues[venue]
        return make_plan(
            source,
            endpoints,
            symbols=symbols,
            types=options.types,
            start=options.start,
            end=options.end,
            today=today,
            intervals=options.intervals,
            candles=options.candles,
            compare=options.compare,
        )

    for venue in venues:
        plan_of(venue, ["X"])  # wrong types and intervals are told before anything is asked for
    symbols = await _symbols(options, venues, probe, reporter)
    plans = {venue: plan_of(venue, chosen) for venue, chosen in symbols.items()}
    folder = state_folder(options.store)
    if options.dry_run:
        return await _dry_run(options, plans, venues, probe, folder, reporter)
    for plan in plans.values():
        for file in plan.unpublished:
            reporter.warn(f"{file.name} is not published yet: files appear the morning after (UTC)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {options.store}: {error.strerror or error}", hint="check the path"
        ) from None
    manifest = Manifest(folder / MANIFEST)
    summaries: dict[str, Summary] = {}
    try:
        for venue, plan in plans.items():
            _, source, endpoints = venues[venue]
            job = Archiver(
                source=source,
                endpoints=endpoints,
                net=net,
                clock=clock,
                rng=rng,
                manifest=manifest,
                folder=folder,
                open_store=lambda: open_writer(options.store),
                reporter=reporter,
                parallel=options.parallel,
                force=options.force,
                keep_downloads=options.keep_downloads,
            )
            with finish_on_signals(job.stop, reporter):
                summaries[venue] = await job.run(plan.units)
            if summaries[venue].interrupted:
                reporter.warn("stopped; run it again to go on")
                break
    finally:
        manifest.close()
    comparison: dict[str, Any] = {}
    # Without any published file there may be no store yet, and there is nothing to compare.
    planned = any(plan.units for plan in plans.values())
    if options.compare and planned and not any(s.interrupted for s in summaries.values()):
        comparison = await asyncio.to_thread(_compare, options, symbols, reporter)
    return _result(plans, summaries, comparison)


def _result(plans: dict[str, Plan], summaries: dict[str, Summary], comparison: dict[str, Any]) -> Result:
    total = Summary()
    for part in summaries.values():
        for name in Summary.__struct_fields__:
            value, more = getattr(total, name), getattr(part, name)
            if isinstance(value, dict):
                for key, count in more.items():
                    value[key] = value.get(key, 0) + count
            elif name == "interrupted":
                total.interrupted = value or more
            else:
                setattr(total, name, value + more)
    unpublished = [file.key for plan in plans.values() for file in plan.unpublished]
    summary: dict[str, Any] = {**structs.asdict(total), "unpublished": unpublished}
    if comparison:
        summary["comparison"] = comparison
    code = EXIT_OK
    if total.failed:
        code = EXIT_FAILED
    elif not total.interrupted and (total.gaps or total.missing or unpublished):
        code = EXIT_GAPS
    return Result(code, summary)


async def _symbols(
    options: ArchiveOptions,
    venues: dict[str, tuple[Exchange, ArchiveSource, Endpoints]],
    probe: Downloader,
    reporter: Reporter,
) -> dict[str, list[str]]:
    """Resolve the selectors. The archive holds symbols that the exchange no longer lists, and may be
    reachable where its REST interface is not, so both are asked before a name counts as unknown.
    """
    instruments = {}
    for venue, (exchange, _, endpoints) in venues.items():
        request = exchange.instruments_request(endpoints)
        try:
            response = await probe.get(request, attempts=2)
            if response.status != 200:
                raise VenueError(
                    f"{venue} gives no list of instruments (HTTP {response.status})", status=response.status
                )
            instruments[venue] = exchange.parse_instruments(response.body)
        except (BlockedError, DisconnectedError, VenueError) as error:
            reporter.info(f"{venue}: {error.message}; taking the symbols as they are written")
    if len(instruments) < len(venues):
        return native_symbols(options.symbols, venues=list(venues))
    try:
        return get_symbols(options.symbols, instruments)
    except UnknownNameError:
        pass
    found: dict[str, dict[str, None]] = {venue: {} for venue in venues}
    for only, selector in expand_selectors(options.symbols, venues=list(venues)):
        scope = list(venues) if only is None else [only]
        try:
            for venue, chosen in get_symbols(selector, instruments, venues=scope).items():
                found[venue].update(dict.fromkeys(chosen))
            continue
        except UnknownNameError as error:
            hit = False
            for venue in scope:
                _, source, endpoints = venues[venue]
                if await _is_archived(probe, source, endpoints, selector.upper(), options):
                    found[venue][selector.upper()] = None
                    hit = True
            if not hit:
                raise error from None
    return {venue: list(chosen) for venue, chosen in found.items() if chosen}


async def _is_archived(
    probe: Downloader, source: ArchiveSource, endpoints: Endpoints, symbol: str, options: ArchiveOptions
) -> bool:
    """Whether the archive lists any file of a symbol."""
    try:
        for table in options.types:
            interval = options.intervals[0] if table == "candles" and options.intervals else ""
            for period in source.periods:
                try:
                    prefix = source.listing_prefix(table, symbol, interval=interval, period=period)
                except UsageError:
                    continue
                response = await probe.get(source.listing_request(prefix, "", endpoints))
                if response.status == 200 and source.parse_listing(response.body).keys:
                    return True
    except CmdError:
        return False
    return False


async def _dry_run(
    options: ArchiveOptions,
    plans: dict[str, Plan],
    venues: dict[str, tuple[Exchange, ArchiveSource, Endpoints]],
    probe: Downloader,
    folder: Path,
    reporter: Reporter,
) -> Result:
    """Say what would be done: files, bytes, and estimates of rows, time and disk. Writes nothing."""
    manifest = Manifest(folder / MANIFEST, read_only=True)
    files = done = size = unlisted = 0
    rows = dict.fromkeys(_ZIP_BYTES, 0)
    try:
        for venue, plan in plans.items():
            _, source, endpoints = venues[venue]
            todo: dict[tuple[str, str, str, str], list[Unit]] = {}
            for unit in plan.units:
                entries = [manifest.get(unit.file.key, product) for product in unit.products]
                if not options.force and all(e is not None and e.state == "done" for e in entries):
                    done += 1
                    continue
                file = unit.file
                todo.setdefault((file.symbol, file.table, file.interval, file.period), []).append(unit)
            for (_, table, _, _), units in todo.items():
                sizes = await probe.sizes(source, endpoints, [u.file for u in units])
                files += len(sizes)
                unlisted += len(units) - len(sizes)
                size += sum(sizes.values())
                rows[table] += sum(sizes.values()) // _ZIP_BYTES[table]
    finally:
        manifest.close()
    waiting = sum(len(plan.unpublished) for plan in plans.values())
    disk = sum(count * _STORE_BYTES[table] for table, count in rows.items())
    seconds = max(size / _BYTES_PER_SECOND, sum(rows.values()) / _ROWS_PER_SECOND)
    summary: dict[str, Any] = {
        "dry_run": True,
        "files": files,
        "bytes": size,
        "done_before": done,
        "not_listed": unlisted,
        "unpublished": waiting,
        "estimated_rows": {table: count for table, count in rows.items() if count},
        "estimated_seconds": round(seconds, 1),
        "estimated_store_bytes": disk,
    }
    reporter.info(
        f"{files} files, {size:,} bytes to download; about {sum(rows.values()):,} rows, "
        f"{seconds:,.0f} s and {disk:,} bytes in the store; {done} done before"
    )
    if unlisted:
        reporter.info(f"{unlisted} files are not in the exchange's listing; they may be missing")
    return Result(EXIT_OK, summary)


def _compare(options: ArchiveOptions, symbols: dict[str, list[str]], reporter: Reporter) -> dict[str, Any]:
    """Compare built candles with the exchange's own, as they are in the store."""
    import pyarrow as pa

    from ._arrow import pc
    from .candles import Comparison, compare
    from .parse import arrow_schema

    start, end = day_start(options.start), day_start(options.end) + 86_400_000_000_000
    out: dict[str, Any] = {}
    with open_reader(options.store) as reader:
        for venue, chosen in symbols.items():
            for symbol in chosen:
                batches = list(reader.batches("candles", venue=venue, symbols=[symbol], start=start, end=end))
                rows = pa.Table.from_batches(batches) if batches else arrow_schema("candles").empty_table()
                for interval in options.intervals:
                    mine = rows.filter(pc.equal(rows.column("interval"), interval))
                    exchange, built = (
                        mine.filter(pc.equal(mine.column("source"), source)) for source in ("exchange", "built")
                    )
                    result: Comparison = compare(exchange, built)
                    out[f"{venue}:{symbol} {interval}"] = structs.asdict(result)
                    reporter.info(
                        f"{venue}:{symbol} {interval}: {result.equal} candles equal, {result.different} different, "
                        f"{result.only_exchange} only from the exchange, {result.only_built} only built"
                    )
    return out
