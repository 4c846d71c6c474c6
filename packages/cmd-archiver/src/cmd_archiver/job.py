"""The archive job of one venue: units in parallel, each proven before the store sees it.

Theory of operation. A worker takes a unit, locks its (venue, table, symbol, day), asks for the
published checksum, downloads, parses and audits into a spool, and hands the spool to the one writer
thread, which writes rows and Gap rows and flushes; then the manifest says ``done``. A unit whose lock
another process holds goes to the end of the queue. Every step may be repeated, so a killed job is
simply run again.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field, structs

from cmd_common.archive import ArchiveFile, ArchiveSource
from cmd_common.commands import Reporter
from cmd_common.errors import ChecksumError, CmdError, DataError, StoreBusyError, StoreError
from cmd_common.io import IWriter
from cmd_common.records import Gap
from cmd_common.seams import Clock, Net, Rng

from .audit import BAD_FILE, HOLE, MISSING_FILE, boundary_gap, missing_gap
from .download import Downloader, disk_error, hash_file, is_outage
from .locks import FileLock
from .manifest import Entry, Manifest
from .plan import BUILT, Unit, day_start, interval_ns

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

    from .spool import Spool

__all__ = ["Archiver", "Summary"]

DOWNLOADS: Final = "_downloads"
LOCKS: Final = "_locks"
MANIFEST: Final = "_archive.sqlite"
QUARANTINE: Final = "_quarantine"
_POLL: Final = 200_000_000  # ns between looks at a lock that another process holds
_OUTAGES: Final = 3  # files in a row that could not be reached before the job gives up


class Summary(Struct):
    """What one run did."""

    files: int = 0  # archived now
    unchanged: int = 0  # done before, the published checksum is still the same
    replaced: int = 0  # archived again because the published checksum changed
    missing: int = 0
    failed: int = 0
    quarantined: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # by product, written now
    gaps: int = 0  # Gap rows in the asked range, missing files included
    duplicates: int = 0  # rows that a file held twice
    outside: int = 0  # rows whose time is not within their file's days
    bytes: int = 0
    retries: int = 0
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False


class Archiver:
    """Carries out the units of one venue. ``open_store`` is called in the writer thread."""

    def __init__(
        self,
        *,
        source: ArchiveSource,
        endpoints: Endpoints,
        net: Net,
        clock: Clock,
        rng: Rng,
        manifest: Manifest,
        folder: Path,
        open_store: Callable[[], IWriter],
        reporter: Reporter,
        parallel: int = 4,
        force: bool = False,
        keep_downloads: bool = False,
    ) -> None:
        self.summary = Summary()
        self.downloader = Downloader(net, clock, rng, folder / DOWNLOADS)
        self._source = source
        self._endpoints = endpoints
        self._clock = clock
        self._manifest = manifest
        self._folder = folder
        self._open_store = open_store
        self._reporter = reporter
        self._parallel = max(1, parallel)
        self._force = force
        self._keep = keep_downloads
        self._writer: IWriter | None = None
        self._queue: deque[Unit] = deque()
        self._network: set[asyncio.Task[Any]] = set()
        self._settling = asyncio.Lock()
        self._fatal: CmdError | None = None
        self._stopping = False
        self._outages = 0
        self._finished = 0
        self._received = 0
        self._expected: int | None = None

    # -- the job ---------------------------------------------------------------------------------

    async def run(self, units: Sequence[Unit]) -> Summary:
        """Do all units; returns what was done. Raises StoreError, and VenueError when nothing can be reached."""
        self._queue = deque(units)
        total = len(units)
        await self._expect(units)
        self.downloader.received = self._progress
        cores = min(self._parallel, os.cpu_count() or 1)
        with (
            ThreadPoolExecutor(cores, thread_name_prefix="parse") as parsers,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
        ):
            try:
                await asyncio.gather(
                    *(self._worker(parsers, writer, total) for _ in range(min(self._parallel, max(total, 1))))
                )
            finally:
                await asyncio.get_running_loop().run_in_executor(writer, self._close_writer, self._fatal is None)
        if self._fatal is not None:
            raise self._fatal
        self.summary.gaps = self._count_gaps(units)
        self.summary.bytes = self.downloader.counters.bytes
        self.summary.retries = self.downloader.counters.retries
        self.summary.interrupted = self._stopping
        return self.summary

    def stop(self) -> None:
        """Stop soon: downloads are left to be resumed, what is being written is finished."""
        self._stopping = True
        for task in self._network:
            task.cancel()

    def _abort(self, error: CmdError) -> None:
        self._fatal = self._fatal or error
        for task in self._network:
            task.cancel()

    @property
    def _ending(self) -> bool:
        return self._stopping or self._fatal is not None

    async def _expect(self, units: Sequence[Unit]) -> None:
        """Learn the bytes to download from the listing, for the progress bar; without it there is no total."""
        groups: dict[tuple[str, str, str, str], list[ArchiveFile]] = {}
        for unit in units:
            file = unit.file
            if self._force or any(not self._done(file, p) for p in unit.products):
                groups.setdefault((file.symbol, file.table, file.interval, file.period), []).append(file)
        try:
            found = [sum((await self._online(self._sizes(files))).values()) for files in groups.values()]
        except CmdError:
            return
        except asyncio.CancelledError:
            if not self._ending:
                raise
            return
        self._expected = sum(found)

    async def _sizes(self, files: Sequence[ArchiveFile]) -> dict[str, int]:
        return await self.downloader.sizes(self._source, self._endpoints, files, attempts=2)

    def _done(self, file: ArchiveFile, product: str) -> bool:
        entry = self._manifest.get(file.key, product)
        return entry is not None and entry.state == "done"

    def _progress(self, count: int) -> None:
        self._received += count
        total = self._expected
        if total is not None and self._received >= total:
            total = None if self._received > total else total
        self._reporter.progress("download", self._received, total)

    async def _worker(self, parsers: ThreadPoolExecutor, writer: ThreadPoolExecutor, total: int) -> None:
        waited = 0  # units put back in a row: when all were, the others work on them
        while self._queue and not self._ending:
            unit = self._queue.popleft()
            file = unit.file
            lock = FileLock(
                self._folder / LOCKS, f"{file.venue}.{file.table}.{file.interval}.{file.symbol}.{file.first_day}"
            )
            try:
                taken = lock.acquire()
            except OSError as error:
                self._abort(disk_error(error, f"locking {lock.path}"))
                return
            if not taken:
                self._queue.append(unit)
                waited += 1
                if waited >= len(self._queue):
                    await self._clock.sleep(_POLL)
                continue
            waited = 0
            try:
                await self._unit(unit, parsers, writer)
                self._outages = 0
            except asyncio.CancelledError:
                if self._stopping or self._fatal is not None:
                    return
                raise
            except CmdError as error:
                self._failed(unit, error)
            except OSError as error:
                self._abort(disk_error(error, f"archiving {file.name}"))
            finally:
                lock.release()
            self._finished += 1
            self._reporter.progress("files", self._finished, total, unit="files")

    def _failed(self, unit: Unit, error: CmdError) -> None:
        if isinstance(error, StoreError):
            self._abort(error)
            return
        self.summary.failed += 1
        self.summary.failures.append(f"{unit.file.key}: {error}")
        self._reporter.warn(f"{unit.file.venue}: {error}")
        if is_outage(error):
            self._outages += 1
            if self._outages >= _OUTAGES:
                self._abort(error)
        else:
            self._outages = 0

    # -- one unit --------------------------------------------------------------------------------

    async def _online(self, what: Any) -> Any:
        """Await a network step that ``stop`` may cancel."""
        if self._ending:
            what.close()
            raise asyncio.CancelledError
        task = asyncio.ensure_future(what)
        self._network.add(task)
        try:
            return await task
        finally:
            self._network.discard(task)

    async def _unit(self, unit: Unit, parsers: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        file = unit.file
        before = {product: self._manifest.get(file.key, product) for product in unit.products}
        sha256 = await self._online(self.downloader.checksum(self._source, file))
        if sha256 is None:
            await self._not_published(unit, before, writer)
            return
        known = [e for e in before.values() if e is not None and e.state == "done" and e.sha256 == sha256]
        if len(known) == len(unit.products) and not self._force:
            self.summary.unchanged += 1
            await self._settle(unit, writer)
            self._tidy(file)  # a run that was killed after its last step
            return
        try:
            path = await self._online(self.downloader.fetch(file, sha256))
        except ChecksumError as error:
            bad = self.downloader.path(file)
            await self._reject(unit, bad.with_name(bad.name + ".bad"), sha256, error, writer)
            raise
        if path is None:
            await self._not_published(unit, before, writer)
            return
        loop = asyncio.get_running_loop()
        try:
            spool = await loop.run_in_executor(parsers, self._parse, path, file)
        except DataError as error:
            await self._reject(unit, path, sha256, error, writer)
            raise
        try:
            # Products with the same content as before are left alone, unless all are asked for again.
            todo = [
                p
                for p in unit.products
                if self._force or not ((e := before[p]) and e.state == "done" and e.sha256 == sha256)
            ]
            await self._store(unit, todo, spool, sha256, path, before, writer)
        finally:
            spool.close()
        await self._settle(unit, writer)
        self._tidy(file)

    def _parse(self, path: Path, file: ArchiveFile) -> Spool:
        from .spool import Spool

        return Spool(path, file, self._source, path.with_name(path.name + ".spool"))

    def _count_gaps(self, units: Sequence[Unit]) -> int:
        """Gap rows that are open in the asked range, the border to the day after it included."""
        found: set[tuple[object, ...]] = set()
        for unit in units:
            for product in unit.products:
                entry = self._manifest.get(unit.file.key, product)
                if entry is None or entry.state not in ("done", "missing"):
                    continue
                right = self._manifest.neighbours(unit.file, product)[1] if entry.state == "done" else None
                edge = [g for g in right.gaps if _at_start(g, right)] if right is not None else []
                found.update((g.venue, g.symbol, g.record_type, g.ts_from, g.ts_to) for g in (*entry.gaps, *edge))
        return len(found)

    def _tidy(self, file: ArchiveFile) -> None:
        """Remove what a finished file needed on its way."""
        path = self.downloader.path(file)
        if not path.parent.exists():
            return
        for suffix in (".part", ".spool", ".bad", *(() if self._keep else ("",))):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove empty folders below the downloads."""
        root = self._folder / DOWNLOADS
        while folder != root and root in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    async def _reject(self, unit: Unit, path: Path, sha256: str, error: CmdError, writer: ThreadPoolExecutor) -> None:
        """Move a bad file aside and note that its days are missing; nothing of it was stored."""
        file = unit.file
        folder = self._folder / QUARANTINE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            digest, size = hash_file(path)
            os.replace(path, folder / f"{file.venue}-{digest[:12]}-{file.name}")
        except OSError as problem:
            raise disk_error(problem, f"moving {file.name} to {folder}") from None
        self._prune(path.parent)
        self.summary.quarantined += 1
        error.hint = f"the file is in {folder}" + (f"; {error.hint}" if error.hint else "")
        entries, gaps = [], []
        for product in unit.products:
            old = self._manifest.get(file.key, product)
            if old is not None and old.state in ("done", "writing"):
                continue  # what an earlier version of the file left in the store stays known as done
            gap = structs.replace(missing_gap(file, _table_of(product), error.message), reason=BAD_FILE)
            gaps.append(gap)
            entries.append(
                Entry(
                    file.key, product, "quarantined", sha256, size, gaps=(gap,), detail=error.message,
                    updated_ns=self._clock.now(),
                )
            )  # fmt: skip
        # The manifest first: the run that gets a good file marks as repaired what is named here.
        self._manifest.put(file, entries)
        if gaps:
            await self._in_writer(writer, self._write_gaps, gaps)

    async def _not_published(self, unit: Unit, before: dict[str, Entry | None], writer: ThreadPoolExecutor) -> None:
        """Keep what was archived while the file was there, and note the rest as missing."""
        file = unit.file
        absent = tuple(p for p in unit.products if (e := before[p]) is None or e.state != "done")
        if len(absent) < len(unit.products):
            self._reporter.warn(f"{file.name} is no longer published; the archived rows stay")
            self.summary.unchanged += 1
            await self._settle(unit, writer)
        if absent:  # such as candles to be built of trades that are archived but not to be had again
            await self._missing(structs.replace(unit, products=absent), before, writer)

    async def _missing(self, unit: Unit, before: dict[str, Entry | None], writer: ThreadPoolExecutor) -> None:
        file = unit.file
        self.summary.missing += 1
        self._reporter.warn(f"{file.venue} has no {file.name}: the day is missing upstream")
        entries, gaps = [], []
        for product in unit.products:
            gap = missing_gap(file, _table_of(product), f"{file.name} is not published")
            gaps.append(gap)
            entries.append(Entry(file.key, product, "missing", gaps=(gap,), updated_ns=self._clock.now()))
        if any((e := before[p]) is None or e.state != "missing" for p in unit.products):
            await self._in_writer(writer, self._write_gaps, gaps)
        self._manifest.put(file, entries)

    async def _store(
        self,
        unit: Unit,
        products: Sequence[str],
        spool: Spool,
        sha256: str,
        path: Path,
        before: dict[str, Entry | None],
        writer: ThreadPoolExecutor,
    ) -> None:
        file, audit = unit.file, spool.audit
        base = Entry(
            file.key, "", "writing", sha256, os.stat(path).st_size, audit.rows, audit.first, audit.last, audit.first_ts,
            audit.last_ts, updated_ns=self._clock.now(), last_day=file.last_day.isoformat(),
        )  # fmt: skip
        step = self._step(file)
        entries, rows = [], []
        for product in products:
            table = _table_of(product)
            severity = "lost" if table == file.table else "suspect"
            mine = structs.replace(base, product=product)
            edge = boundary_gap(file, table, self._manifest.neighbours(file, product)[0], mine, step)
            holes = [structs.replace(g, record_type=table, severity=severity) for g in audit.holes]
            own = _unique([*holes, *([] if edge is None else [edge])])
            entries.append(structs.replace(mine, gaps=tuple(own)))
            old = before[product]
            gone = [] if old is None else _gone(old.gaps, own)
            rows += [*own, *(_repaired(g) for g in gone if not self._still_missing(file, product, g))]
        # Rows of another version of the file must go, also when that version was only half confirmed.
        replace = [p for p in products if (e := before[p]) and e.state in ("done", "writing") and e.sha256 != sha256]
        # Until it is done, the mark names every gap that may be in the store; a replacement that was cut
        # short leaves rows of either version, so it names no checksum and is replaced again.
        marks = [
            structs.replace(
                e,
                sha256="" if e.product in replace else sha256,
                gaps=tuple(_unique([*e.gaps, *(old.gaps if (old := before[e.product]) else ())])),
            )
            for e in entries
        ]
        self._manifest.put(file, marks)
        counts = await self._in_writer(writer, self._write, unit, products, spool, replace, rows)
        self._manifest.put(file, [structs.replace(e, state="done", updated_ns=self._clock.now()) for e in entries])
        self.summary.files += 1
        self.summary.replaced += bool(replace)
        self.summary.duplicates += spool.duplicates
        self.summary.outside += audit.outside
        for product, count in counts.items():
            self.summary.rows[product] = self.summary.rows.get(product, 0) + count
        if audit.outside:
            self._reporter.warn(f"{file.name} holds {audit.outside} rows of other days; they are kept")
        if audit.hole_count:
            what = "candles" if file.table == "candles" else "ids"
            self._reporter.warn(f"{file.name} misses {what} in {audit.hole_count} places; see the table gaps")

    @staticmethod
    def _step(file: ArchiveFile) -> int | None:
        """By how much positions rise from file to file; files without numbers as ids have no positions."""
        return interval_ns(file.interval) if file.table == "candles" else 1

    async def _settle(self, unit: Unit, writer: ThreadPoolExecutor) -> None:
        """Compare the ends of a done file with the files of the days beside it.

        A jump between two files is noted with the later one. Of two neighbours that are archived at the
        same time the one that is done last sees both; what a kill cuts short the next run finds here.
        """
        file = unit.file
        step = self._step(file)
        async with self._settling:
            for product in unit.products:
                mine = self._manifest.get(file.key, product)
                if mine is None or mine.state != "done":
                    continue
                left, right = self._manifest.neighbours(file, product)
                for earlier, later in ((left, mine), (mine, right)):
                    if earlier is None or later is None:
                        continue
                    new = boundary_gap(file, _table_of(product), earlier, later, step)
                    old = [g for g in later.gaps if _at_start(g, later)]
                    if old != ([] if new is None else [new]):
                        inner = [g for g in later.gaps if g not in old]
                        gaps = [*inner, *([] if new is None else [new])]
                        await self._in_writer(
                            writer, self._write_gaps, [*_unique(gaps), *map(_repaired, _gone(old, gaps))]
                        )
                        self._manifest.set_gaps(later, gaps)
                        if later is mine:
                            mine = structs.replace(mine, gaps=tuple(gaps))

    def _still_missing(self, file: ArchiveFile, product: str, gap: Gap) -> bool:
        """Whether another file keeps this gap open: candles of all intervals share their Gap rows."""
        if gap.reason not in (MISSING_FILE, BAD_FILE) or gap.record_type != "candles":
            return False
        return self._manifest.others_missing(file, product)

    # -- the writer thread -----------------------------------------------------------------------

    async def _in_writer(self, pool: ThreadPoolExecutor, call: Callable[..., Any], *arguments: object) -> Any:
        """Call in the writer thread; a store that another process writes to is waited for."""
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, call, *arguments)
            except StoreBusyError:
                if self._ending:
                    raise
                await self._clock.sleep(_POLL)

    def _open(self) -> IWriter:
        if self._writer is None:
            self._writer = self._open_store()
        return self._writer

    def _close_writer(self, confirm: bool) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if not confirm and (discard := getattr(writer, "discard", None)) is not None:
            discard()
        writer.close()

    def _write_gaps(self, gaps: Sequence[Gap]) -> None:
        writer = self._open()
        writer.write(gaps)
        writer.flush()

    def _write(
        self, unit: Unit, products: Sequence[str], spool: Spool, replace: Sequence[str], gaps: Sequence[Gap]
    ) -> dict[str, int]:
        from .candles import CandleMaker
        from .parse import gap_batch

        file = unit.file
        writer = self._open()
        makers = {p: CandleMaker(p.removeprefix(BUILT)) for p in products if p.startswith(BUILT)}
        counts = dict.fromkeys(products, 0)
        try:
            for product in replace:
                self._delete(writer, file, product)
            for batch, notional in spool.batches():
                if file.table in counts:
                    writer.write_batch(file.table, batch)
                    counts[file.table] += batch.num_rows
                for maker in makers.values():
                    maker.feed(batch, notional)
            for product, maker in makers.items():
                built = maker.finish(file.venue, file.symbol)
                writer.write_batch("candles", built)
                counts[product] = built.num_rows
            if gaps:  # as a batch, so that they become visible in the same commit as the rows
                writer.write_batch("gaps", gap_batch(gaps))
            writer.flush()
        except OSError as error:
            self._give_up()
            raise disk_error(error, f"writing {file.name}") from None
        except BaseException:
            self._give_up()
            raise
        return counts

    def _give_up(self) -> None:
        """Drop what the writer has not confirmed; a writer that cannot is left behind, not flushed."""
        writer, self._writer = self._writer, None
        discard = getattr(writer, "discard", None)
        if writer is not None and discard is not None:
            try:
                discard()
                writer.close()
            except (CmdError, OSError) as error:
                self._reporter.warn(f"closing the store after an error: {error}")

    @staticmethod
    def _delete(writer: IWriter, file: ArchiveFile, product: str) -> None:
        """Mark the archived rows of a file as deleted, where the store can; live rows stay."""
        delete = getattr(writer, "delete", None)
        if delete is None:
            return
        start, end = day_start(file.first_day), day_start(file.last_day) + 86_400_000_000_000
        if product.startswith(BUILT):
            interval = product.removeprefix(BUILT)
            delete(
                "candles", file.venue, file.symbol, start, end, archived_only=True, interval=interval, source="built"
            )
        elif product == "candles":
            interval = file.interval
            delete(
                "candles", file.venue, file.symbol, start, end, archived_only=True, interval=interval, source="exchange"
            )
        else:
            delete(product, file.venue, file.symbol, start, end, archived_only=True)


def _table_of(product: str) -> str:
    """The table that a product's rows go to."""
    return "candles" if product.startswith(BUILT) else product


def _repaired(gap: Gap) -> Gap:
    return structs.replace(gap, repaired_by="archive")


def _at_start(gap: Gap, entry: Entry) -> bool:
    """Whether a gap lies between the file before and the first row of ``entry``."""
    if gap.reason != HOLE or entry.first_id is None:
        return False
    return gap.ts_to <= entry.first_id if gap.last_id is None else gap.last_id < entry.first_id


def _unique(gaps: Sequence[Gap]) -> list[Gap]:
    """One Gap a key: holes between the same two instants become one from the first to the last id."""
    out: dict[tuple[object, ...], Gap] = {}
    for gap in gaps:
        key = (gap.record_type, gap.ts_from, gap.ts_to)
        other = out.get(key)
        if other is None or other == gap or other.first_id is None or gap.first_id is None:
            out.setdefault(key, gap)
            continue
        out[key] = structs.replace(
            other,
            first_id=min(other.first_id, gap.first_id),
            last_id=max(other.last_id or 0, gap.last_id or 0),
            detail=f"{other.detail}; {gap.detail}"[:500],
        )
    return list(out.values())


def _gone(old: Sequence[Gap], new: Sequence[Gap]) -> list[Gap]:
    """Gaps that were open and are not any more."""
    keys = {(g.record_type, g.ts_from, g.ts_to) for g in new}
    return [g for g in old if (g.record_type, g.ts_from, g.ts_to) not in keys]
