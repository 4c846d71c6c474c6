"""The command ``archive``: from options to a Result; the only module with the real seams."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from cmd_common.archive import ArchiveFile
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK, ArchiveOptions, Reporter, Result
from cmd_common.errors import CmdError, StoreError, UnknownNameError, UsageError, VenueError
from cmd_common.exchange import Endpoints, Exchange, next_instruments_request
from cmd_common.instruments import Instrument
from cmd_common.io import open_reader, open_writer
from cmd_common.registry import exchange as find_exchange
from cmd_common.registry import names
from cmd_common.registry import store as find_store
from cmd_common.seams import Clock, Net, Rng, SystemClock, system_rng
from cmd_common.signals import finish_on_signals
from cmd_common.symbols import expand_selectors, get_symbols, native_symbols

from .download import Downloader
from .job import DOWNLOADS, MANIFEST, Archiver, Summary
from .local import LocalFiles, expand_paths
from .manifest import Manifest
from .origins import RestOrigin
from .plan import SOURCES, Plan, Unit, check_days, day_start, make_plan, utc_day, walk_of
from .rest import Pools, RestClient, Walker

__all__ = ["run", "state_folder"]

# What a row costs, measured on BTCUSDT: bytes of a zip a row, rows a second, bytes of the store a row.
_ZIP_BYTES: Final = {"trades": 15, "agg_trades": 17, "candles": 45}
_STORE_BYTES: Final = {"trades": 12, "agg_trades": 16, "candles": 40}
_ROWS_PER_SECOND: Final = 400_000
_BYTES_PER_SECOND: Final = 20_000_000


def state_folder(store: str) -> Path:
    """Where the manifest, locks and downloads of a store lie: in its own folder, where it has one.

    A kind of store that is no folder says what identifies one (``identity``), so that a new password, say, is not
    taken for another store.
    """
    scheme, _, location = store.partition(":")
    if scheme == "parquet":
        return Path(location)
    identity = getattr(find_store(scheme), "identity", None)
    if identity is not None:
        store = f"{scheme}:{identity(location)}"
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(home) / "cryptomarketdata" / "archive" / hashlib.sha256(store.encode()).hexdigest()[:16]


def run(options: ArchiveOptions, reporter: Reporter) -> Result:
    """Archive history into a store. Days are inclusive, UTC.

    Raises UsageError (exit code 2) and other CmdErrors that stop everything; what goes wrong with one
    file is reported and counted, and the rest goes on. Exit codes: 0 done, 1 failed, 3 done with gaps.
    """
    from cmd_feed.net import SystemNet

    clock = SystemClock()
    if options.since_last:
        from .since import run_since_last

        return run_since_last(options, reporter, utc_day(clock.now()), run)
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


Venues = dict[str, tuple[Exchange, Endpoints]]


def _venues(options: ArchiveOptions) -> Venues:
    if not options.exchanges:
        raise UsageError("no exchange given", hint=f"installed are: {', '.join(names('cmd.exchanges')) or 'none'}")
    if options.source not in SOURCES:
        raise UsageError(f"unknown source {options.source!r}", hint=f"one of {', '.join(SOURCES)}")
    if options.from_files and options.source == "rest":
        raise UsageError("local files and REST exclude each other", hint="leave out --source or --from-file")
    out: Venues = {}
    for venue in dict.fromkeys(options.exchanges):
        exchange = find_exchange(venue)
        if options.from_files:
            if len(options.exchanges) > 1:
                raise UsageError("local files are of one exchange", hint="give one --exchange with --from-file")
            if exchange.archive is None or not exchange.archive.local_tables:
                raise UsageError(f"no local files of {venue} are known", hint="leave out --from-file")
        elif options.source == "files" and (exchange.archive is None or not exchange.archive.periods):
            raise UsageError(f"{venue} publishes no bulk files", hint="ask for --source rest" * bool(exchange.history))
        elif options.source == "rest" and exchange.history is None:
            raise UsageError(f"{venue} has no REST history here", hint="ask for --source files")
        elif exchange.history is None and (exchange.archive is None or not exchange.archive.periods):
            raise UsageError(f"{venue} has no history here, neither files nor REST")
        url = options.endpoints.get(venue) or options.endpoints.get("")
        out[venue] = (exchange, exchange.endpoints.override(url) if url else exchange.endpoints)
    return out


async def archive(options: ArchiveOptions, reporter: Reporter, net: Net, clock: Clock, rng: Rng) -> Result:
    """The command with its seams given; raises and returns as ``run``."""
    venues = _venues(options)
    now = clock.now()
    probe = Downloader(net, clock, rng, Path(DOWNLOADS))
    pools = Pools()
    paths = expand_paths(options.from_files)

    def plan_of(venue: str, symbols: Sequence[str]) -> Plan:
        exchange, endpoints = venues[venue]
        return make_plan(
            exchange.archive,
            endpoints,
            venue=venue,
            history=exchange.history,
            choice="local" if paths else options.source,
            symbols=symbols,
            types=options.types,
            start=options.start,
            end=options.end,
            today=utc_day(now),
            now=now,
            intervals=options.intervals,
            candles=options.candles,
            compare=options.compare,
        )

    for venue in venues:
        plan_of(venue, ["X"])  # wrong types and intervals are told before anything is asked for
    symbols = await _symbols(options, venues, probe, RestClients(net, clock, rng, pools), reporter)
    plans = {venue: plan_of(venue, chosen) for venue, chosen in symbols.items()}
    folder = state_folder(options.store)
    if options.dry_run:
        return await _dry_run(options, plans, venues, probe, folder, reporter, paths)
    for plan in plans.values():
        for file in plan.unpublished:
            words = "files appear the morning after (UTC)" if file.url else "the day, or its candle, is not over"
            reporter.warn(f"{file.name} is not published yet: {words}")
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
            exchange, endpoints = venues[venue]
            client = RestClient(exchange, net, clock, rng, pools, reporter.warn)
            rest = walker = None
            if exchange.history is not None:
                walker = Walker(exchange.history, endpoints, client, clock, reporter)
                rest = RestOrigin(exchange.history, walker, clock, folder / DOWNLOADS)
            local = None
            if paths and exchange.archive is not None:
                local = LocalFiles(paths, exchange.archive, folder / DOWNLOADS)
            job = Archiver(
                source=exchange.archive,
                endpoints=endpoints,
                net=net,
                clock=clock,
                rng=rng,
                manifest=manifest,
                folder=folder,
                open_store=lambda: open_writer(options.store),
                open_reader=lambda: open_reader(options.store),
                reporter=reporter,
                parallel=options.parallel,
                force=options.force,
                keep_downloads=options.keep_downloads,
                rest=rest,
                client=client,
                local=local,
            )
            try:
                units = plan.units
                if local is not None:
                    units = await asyncio.to_thread(_cut, local, plan, manifest, reporter, force=options.force)
                with finish_on_signals(job.stop, reporter):
                    summaries[venue] = await job.run(units)
            finally:
                if walker is not None:
                    walker.finish()
                if local is not None:
                    local.close()
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


def _cut(local: LocalFiles, plan: Plan, manifest: Manifest, reporter: Reporter, *, force: bool) -> tuple[Unit, ...]:
    """Read the local files for the days that are not done from these very files.

    Returns the units of what the files hold at all; raises UsageError where that is nothing.
    """
    groups = dict.fromkeys((u.file.table, u.file.symbol, u.file.interval) for u in plan.units)
    absent = {group for group in groups if not local.find(*group)}
    if absent:
        words = sorted(f"{table}{' ' * bool(interval)}{interval} of {symbol}" for table, symbol, interval in absent)
        text = f"the local files hold no {', no '.join(words[:5])}" + f" and {len(words) - 5} more" * (len(words) > 5)
        if len(absent) == len(groups):
            raise UsageError(text, hint="write symbols as the exchange does in its main API")
        reporter.warn(text)
    units = tuple(u for u in plan.units if (u.file.table, u.file.symbol, u.file.interval) not in absent)
    todo = []
    for unit in units:
        entries = [manifest.get(unit.file.key, product) for product in unit.products]
        if force or any(e is None or e.state != "done" or e.version != local.version for e in entries):
            todo.append(unit)
        else:
            local.known.add(unit.file.key)
    local.prepare(todo, reporter.info)
    if local.ignored:
        reporter.warn(f"{local.ignored} rows were left out: another local file holds more of the same day")
    return units


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


class RestClients:
    """Makes clients for single questions, which share the budgets of the run."""

    def __init__(self, net: Net, clock: Clock, rng: Rng, pools: Pools) -> None:
        self._seams = (net, clock, rng, pools)

    def of(self, exchange: Exchange) -> RestClient:
        """A client of one venue that says nothing."""
        return RestClient(exchange, *self._seams, warn=lambda message: None)


async def _instruments(exchange: Exchange, endpoints: Endpoints, client: RestClient) -> list[Instrument]:
    """The venue's reference data, all of its pages. Raises VenueError, ProtocolError."""
    request = exchange.instruments_request(endpoints)
    found: dict[str, Instrument] = {}
    for _ in range(100):
        response = await client.get(request, lambda r: r, attempts=2)
        if response.status != 200:
            raise VenueError(
                f"{exchange.venue} gives no list of instruments (HTTP {response.status})", status=response.status
            )
        found.update((i.symbol, i) for i in exchange.parse_instruments(response.body))
        following = next_instruments_request(exchange, request, response.body, endpoints)
        if following is None:
            break
        request = following
    return list(found.values())


async def _symbols(
    options: ArchiveOptions, venues: Venues, probe: Downloader, clients: RestClients, reporter: Reporter
) -> dict[str, list[str]]:
    """Resolve the selectors. The archive holds symbols that the exchange no longer lists, and may be
    reachable where its REST interface is not, so both are asked before a name counts as unknown.
    """
    instruments = {}
    for venue, (exchange, endpoints) in venues.items():
        try:
            instruments[venue] = await _instruments(exchange, endpoints, clients.of(exchange))
        except VenueError as error:
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
                exchange, endpoints = venues[venue]
                if await _is_archived(probe, exchange, endpoints, selector.upper(), options):
                    found[venue][selector.upper()] = None
                    hit = True
            if not hit:
                raise error from None
    return {venue: list(chosen) for venue, chosen in found.items() if chosen}


async def _is_archived(
    probe: Downloader, exchange: Exchange, endpoints: Endpoints, symbol: str, options: ArchiveOptions
) -> bool:
    """Whether the archive lists any file of a symbol."""
    source = exchange.archive
    if source is None or options.source == "rest":
        return False
    try:
        for table in options.types:
            interval = options.intervals[0] if table == "candles" and options.intervals else ""
            for period in source.periods:
                try:
                    prefix = source.listing_prefix(table, symbol, interval=interval, period=period)
                except UsageError:
                    continue
                request = source.listing_request(prefix, "", endpoints)
                if request is None:
                    continue
                response = await probe.get(request)
                if response.status == 200 and source.parse_listing(response.body, prefix).keys:
                    return True
    except CmdError:
        return False
    return False


async def _dry_run(
    options: ArchiveOptions,
    plans: dict[str, Plan],
    venues: Venues,
    probe: Downloader,
    folder: Path,
    reporter: Reporter,
    paths: Sequence[Path],
) -> Result:
    """Say what would be done: files, bytes, and estimates of rows, time and disk. Writes nothing."""
    manifest = Manifest(folder / MANIFEST, read_only=True)
    files = done = size = unlisted = 0
    rows = dict.fromkeys(_ZIP_BYTES, 0)
    asked: dict[tuple[str, str, str, str], list[Unit]] = {}  # over REST
    local = 0
    try:
        for venue, plan in plans.items():
            exchange, endpoints = venues[venue]
            todo: dict[tuple[str, str, str, str], dict[str, ArchiveFile]] = {}
            for unit in plan.units:
                if not options.force and all(_is_done(manifest, unit, product) for product in unit.products):
                    done += 1
                    continue
                file = unit.file
                if unit.origin == "rest":
                    asked.setdefault((venue, file.symbol, file.table, file.interval), []).append(unit)
                elif unit.origin == "local":
                    local += 1
                else:
                    group = todo.setdefault((file.symbol, file.table, file.interval, file.period), {})
                    group.update((part.key, part) for part in unit.parts or (file,))
            for (_, table, _, _), wanted in todo.items():
                assert exchange.archive is not None
                sizes = await probe.sizes(exchange.archive, endpoints, list(wanted.values()))
                files += len(sizes)
                unlisted += len(wanted) - len(sizes)
                size += sum(sizes.values())
                rows[table] += sum(sizes.values()) // _ZIP_BYTES[table]
    finally:
        manifest.close()
    waiting = sum(len(plan.unpublished) for plan in plans.values())
    disk = sum(count * _STORE_BYTES[table] for table, count in rows.items())
    seconds = max(size / _BYTES_PER_SECOND, sum(rows.values()) / _ROWS_PER_SECOND)
    rest = [_question(venues[venue], units) for (venue, *_), units in asked.items()]
    summary: dict[str, Any] = {
        "dry_run": True,
        "files": files,
        "bytes": size,
        "done_before": done,
        "not_listed": unlisted,
        "unpublished": waiting,
        "rest": rest,
        "local_days": local,
        "estimated_rows": {table: count for table, count in rows.items() if count},
        "estimated_seconds": round(seconds, 1),
        "estimated_store_bytes": disk,
    }
    for one in rest:
        reporter.info(
            f"{one['venue']}:{one['symbol']} {one['table']}{' ' * bool(one['interval'])}{one['interval']}: {one['days']} "
            f"days over REST, beginning with {one['first']}"
            + (f"; {one['out_of_reach']} days are older than it answers for" if one["out_of_reach"] else "")
        )
    if local:
        reporter.info(f"{local} days out of {len(paths)} local files")
    reporter.info(
        f"{files} files, {size:,} bytes to download; about {sum(rows.values()):,} rows, "
        f"{seconds:,.0f} s and {disk:,} bytes in the store; {done} done before"
    )
    if unlisted:
        reporter.info(f"{unlisted} files are not in the exchange's listing; they may be missing")
    return Result(EXIT_OK, summary)


def _is_done(manifest: Manifest, unit: Unit, product: str) -> bool:
    entry = manifest.get(unit.file.key, product)
    if entry is not None and entry.state == "done":
        return True
    return any(e.state == "done" and not e.gaps for e in manifest.elsewhere(unit.file, product))


def _question(venue: tuple[Exchange, Endpoints], units: Sequence[Unit]) -> dict[str, Any]:
    """What would be asked over REST for days of one table of one symbol."""
    exchange, endpoints = venue
    file, history = units[0].file, exchange.history
    assert history is not None
    reach = history.reach(file.table, file.interval)
    horizon = 0 if reach is None else SystemClock().now() - reach
    late = sum(walk_of(unit.file).end <= horizon for unit in units)
    return {
        "venue": file.venue,
        "symbol": file.symbol,
        "table": file.table,
        "interval": file.interval,
        "days": len(units),
        "out_of_reach": late,
        "first": history.first(walk_of(file), endpoints).url,
    }


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
