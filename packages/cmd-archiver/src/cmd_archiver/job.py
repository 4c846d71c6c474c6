"""The archive job of one venue: units in parallel, each proven before the store sees it.

Theory of operation. A worker takes a unit, locks its (venue, table, symbol, day), asks its origin what
is there (a published checksum, for example), obtains it, parses and audits it into a spool, and hands the
spool to the one writer thread, which writes rows and Gap rows and flushes; then the manifest says
``done``. A unit whose lock another process holds goes to the end of the queue. Every step may be repeated,
so a killed job is simply run again. A day has one origin at a time: what is done from a file is not asked
for again over REST, and where another origin takes a day over, its rows replace those of the one before.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field, structs

from cmd_common.archive import ArchiveFile, ArchiveSource
from cmd_common.commands import Reporter
from cmd_common.errors import CmdError, DataError, StoreBusyError, StoreError
from cmd_common.io import IReader, IWriter
from cmd_common.records import Gap
from cmd_common.seams import Clock, Net, Rng

from .audit import BAD_FILE, HOLE, MISSING_FILE, OUT_OF_REACH, boundary_gap, missing_gap
from .download import Downloader, disk_error, hash_file, is_outage
from .live import live_ids, mixed, refuse_ids
from .locks import FileLock
from .manifest import Entry, Manifest
from .origins import Absent, BadFile, FileOrigin, Found, Got, LocalOrigin, Origin, RestOrigin, UtcOrigin
from .plan import BUILT, Unit, interval_ns, origin_of, rest_unit
from .storing import Storing

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

    from .local import LocalFiles
    from .rest import RestClient
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

    files: int = 0  # archived now: files, and days from REST and local files
    unchanged: int = 0  # done before, the published checksum is still the same
    replaced: int = 0  # archived again because the published checksum changed
    missing: int = 0
    failed: int = 0
    quarantined: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # by product, written now
    gaps: int = 0  # Gap rows in the asked range, missing files included
    duplicates: int = 0  # rows that came twice
    outside: int = 0  # rows whose time is not within their file's days
    bytes: int = 0  # downloaded of files
    requests: int = 0  # over REST
    retries: int = 0
    limited: int = 0  # times that the exchange asked for a pause
    failures: list[str] = field(default_factory=list)
    unreachable: int = 0  # of the failed ones, those whose server could not be reached
    interrupted: bool = False


class Archiver:
    """Carries out the units of one venue. ``open_store`` is called in the writer thread."""

    def __init__(
        self,
        *,
        source: ArchiveSource | None,
        endpoints: Endpoints,
        net: Net,
        clock: Clock,
        rng: Rng,
        manifest: Manifest,
        folder: Path,
        open_store: Callable[[], IWriter],
        open_reader: Callable[[], IReader] | None = None,
        reporter: Reporter,
        parallel: int = 4,
        force: bool = False,
        keep_downloads: bool = False,
        rest: RestOrigin | None = None,
        client: RestClient | None = None,
        local: LocalFiles | None = None,
    ) -> None:
        self.summary = Summary()
        self.downloader = Downloader(net, clock, rng, folder / DOWNLOADS)
        self._source = source
        self._endpoints = endpoints
        self._clock = clock
        self._manifest = manifest
        self._folder = folder
        self._open_reader = open_reader
        self._reporter = reporter
        self._parallel = max(1, parallel)
        self._force = force
        self._keep = keep_downloads
        self._client = client
        self._origins: dict[str, Origin] = {}
        if rest is not None:
            self._origins["rest"] = rest
        if local is not None:
            self._origins["local"] = LocalOrigin(local, folder / DOWNLOADS)
        self._storing = Storing(open_store, reporter)
        self._queue: deque[Unit] = deque()
        self._network: set[asyncio.Task[Any]] = set()
        self._settling = asyncio.Lock()
        self._fatal: CmdError | None = None
        self._stopping = False
        self._outages = 0
        self._finished = 0
        self._counted: list[Unit] = []  # as they were done: a missing file may have become a day over REST
        self._received = 0
        self._expected: int | None = None

    # -- the job ---------------------------------------------------------------------------------

    async def run(self, units: Sequence[Unit]) -> Summary:
        """Do all units; returns what was done. Raises StoreError, and VenueError when nothing can be reached."""
        self._queue = deque(units)
        total = len(units)
        if self._source is not None:
            self._origins["file"] = FileOrigin(self.downloader, self._source)
            self._origins["utc"] = UtcOrigin(self.downloader, self._source, self._clock, self._folder / LOCKS, units)
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
                await asyncio.get_running_loop().run_in_executor(writer, self._storing.close, self._fatal is None)
        if self._fatal is not None:
            raise self._fatal
        self.summary.gaps = self._count_gaps(self._counted)
        self.summary.bytes = self.downloader.counters.bytes
        self.summary.retries = self.downloader.counters.retries
        if self._client is not None:
            self.summary.requests = self._client.counters.requests
            self.summary.retries += self._client.counters.retries
            self.summary.limited = self._client.counters.limited
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
            if self._force or any(not self._done(unit.file, p) for p in unit.products):
                for file in unit.parts or ([unit.file] if unit.origin == "file" else []):
                    mine = groups.setdefault((file.symbol, file.table, file.interval, file.period), [])
                    if file not in mine[-2:]:  # neighbouring days share files
                        mine.append(file)
        try:
            found = [sum((await self._online(self._sizes(files))).values()) for files in groups.values()]
        except CmdError:
            return
        except asyncio.CancelledError:
            if not self._ending:
                raise
            return
        self._expected = sum(found) or None

    async def _sizes(self, files: Sequence[ArchiveFile]) -> dict[str, int]:
        assert self._source is not None
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
            self.summary.unreachable += 1
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
        todo = await self._not_done_elsewhere(unit, writer)
        if todo is None:
            return
        unit = todo
        origin = self._origins[unit.origin]
        try:
            found = await self._online(origin.identify(unit))
            if isinstance(found, Absent):
                await self._absent(unit, found, parsers, writer)
                return
            before = {product: self._manifest.get(unit.file.key, product) for product in unit.products}
            if not self._force and all(_same(e, found) for e in before.values()):
                self._counted.append(unit)
                self.summary.unchanged += 1
                await self._settle(unit, writer)
            else:
                if unit.origin == "local" and unit.file.table != "candles" and self._open_reader and not self._force:
                    await asyncio.to_thread(refuse_ids, self._open_reader, unit.file)
                got = await self._obtain(unit, origin, found, writer)
                if isinstance(got, Absent):
                    await self._absent(unit, got, parsers, writer)
                    return
                self._counted.append(unit)
                await self._take(unit, got, found, before, parsers, writer)
                await self._settle(unit, writer)
            self._tidy(unit.file, unit.parts, unit.origin)  # also what a run left that was killed after its last step
        finally:
            origin.release(unit)

    async def _obtain(self, unit: Unit, origin: Origin, found: Found, writer: ThreadPoolExecutor) -> Got | Absent:
        try:
            got: Got | Absent = await self._online(origin.obtain(unit, found))
        except BadFile as bad:
            self._counted.append(unit)
            await self._reject(unit, bad.path, found.sha256, bad.error, writer)
            raise bad.error from None
        return got

    async def _take(
        self,
        unit: Unit,
        got: Got,
        found: Found,
        before: Mapping[str, Entry | None],
        parsers: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
    ) -> None:
        """Parse what was obtained and store what is not there yet."""
        try:
            spool = await asyncio.get_running_loop().run_in_executor(parsers, self._parse, got, unit.file)
        except DataError as error:
            if got.bad is not None:
                await self._reject(unit, got.bad, got.sha256, error, writer)
            elif unit.origin == "rest":  # asked for again by the next run
                self._tidy(unit.file, (), "rest")
            raise
        try:
            # Products with the same content as before are left alone, unless all are asked for again.
            todo = [p for p in unit.products if self._force or not _same(before[p], found)]
            await self._store(unit, todo, spool, got, found, before, writer)
        finally:
            spool.close()

    async def _not_done_elsewhere(self, unit: Unit, writer: ThreadPoolExecutor) -> Unit | None:
        """The unit without what is done from another origin; None where nothing remains.

        Raises DataError where rows with ids and rows without would come together in one day.
        """
        if self._force:
            return unit
        todo = []
        for product in unit.products:
            others = [e for e in self._manifest.elsewhere(unit.file, product) if e.state in ("done", "writing")]
            if unit.file.table != "candles":
                for other in others:
                    if "local" in (unit.origin, origin_of(other.key)):
                        raise mixed(unit.file)
            mine = self._manifest.get(unit.file.key, product)
            if (mine is None or mine.state != "done") and any(e.state == "done" and not e.gaps for e in others):
                kept = next(e for e in others if e.state == "done" and not e.gaps)
                there = structs.replace(unit, file=structs.replace(unit.file, key=kept.key), products=(product,))
                self._counted.append(there)
                await self._settle(there, writer)
            else:
                todo.append(product)
        if todo:
            return structs.replace(unit, products=tuple(todo))
        self.summary.unchanged += 1
        return None

    def _parse(self, got: Got, file: ArchiveFile) -> Spool:
        from .spool import Spool

        return Spool(got.rows(), file, got.spool)

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

    def _tidy(self, file: ArchiveFile, parts: Sequence[ArchiveFile] = (), origin: str = "file") -> None:
        """Remove what a finished unit needed on its way."""
        paths = self._origins[origin].tidy(file, parts)
        keep = {self.downloader.path(f) for f in (parts or (file,))} if self._keep else set()
        for path in paths:
            if path not in keep:
                path.unlink(missing_ok=True)
        for folder in dict.fromkeys(path.parent for path in paths):
            self._prune(folder)

    def _prune(self, folder: Path) -> None:
        """Remove empty folders below the downloads."""
        root = self._folder / DOWNLOADS
        while folder != root and root in folder.parents:
            try:
                folder.rmdir()  # absent or not empty: an OSError
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
            name = path.name.removesuffix(".bad")
            os.replace(path, folder / f"{file.venue}-{digest[:12]}-{name}")
            path.with_name(name + ".tag").unlink(missing_ok=True)
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
            await self._in_writer(writer, self._storing.write_gaps, gaps)

    async def _absent(self, unit: Unit, why: Absent, parsers: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        """Ask REST where it may help; keep what was archived while it was there, and note the rest as missing."""
        file = unit.file
        states = {p: e.state if (e := self._manifest.get(file.key, p)) else "" for p in unit.products}
        absent = tuple(p for p in unit.products if states[p] != "done")
        if len(absent) < len(unit.products):
            kept = structs.replace(unit, products=tuple(p for p in unit.products if p not in absent))
            self._counted.append(kept)
            words = "is no longer published" if unit.origin in ("file", "utc") else "is not to be had any more"
            self._reporter.warn(f"{file.name} {words}; the archived rows stay")
            self.summary.unchanged += 1
            await self._settle(kept, writer)
        if not absent:  # else such as candles to be built of trades that are archived but not to be had again
            return
        unit = structs.replace(unit, products=absent)
        rest = self._origins.get("rest")
        if unit.rest and isinstance(rest, RestOrigin):
            beyond = rest.absent(rest_unit(unit).file)
            if beyond is None:
                self._reporter.info(f"{why.warning.partition(':')[0]}: asking for the day over REST")
                await self._unit(rest_unit(unit), parsers, writer)
                return
            if why.partly:
                await self._unit(structs.replace(unit, rest=False), parsers, writer)
                return
            why = structs.replace(why, detail=f"{why.detail}; {beyond.detail}")
        self._counted.append(unit)
        await self._missing(unit, why, {p: states[p] for p in absent}, writer)

    async def _missing(self, unit: Unit, why: Absent, states: Mapping[str, str], writer: ThreadPoolExecutor) -> None:
        file = unit.file
        self.summary.missing += 1
        self._reporter.warn(why.warning)
        entries, gaps = [], []
        for product in unit.products:
            others = [e for e in self._manifest.elsewhere(file, product) if e.state == "done"]
            if others:  # the rows are there from elsewhere, with gaps of their own
                there = structs.replace(file, key=others[0].key)
                self._counted.append(structs.replace(unit, file=there, products=(product,)))
                continue
            gap = missing_gap(file, _table_of(product), why.detail, reason=why.reason)
            gaps.append(gap)
            entries.append(Entry(file.key, product, "missing", gaps=(gap,), updated_ns=self._clock.now()))
        if any(states[e.product] != "missing" for e in entries):
            await self._in_writer(writer, self._storing.write_gaps, gaps)
        self._manifest.put(file, entries)

    async def _store(
        self,
        unit: Unit,
        products: Sequence[str],
        spool: Spool,
        got: Got,
        found: Found,
        before: Mapping[str, Entry | None],
        writer: ThreadPoolExecutor,
    ) -> None:
        file, audit = unit.file, spool.audit
        sha256 = got.sha256
        first, last = audit.ends
        base = Entry(
            file.key, "", "writing", sha256, got.size, audit.rows, first, last, audit.first_ts,
            audit.last_ts, updated_ns=self._clock.now(), last_day=file.last_day.isoformat(), version=found.version,
        )  # fmt: skip
        step = self._step(file)
        entries, rows, marks, others = [], [], [], []
        replace = []
        for product in products:
            table = _table_of(product)
            severity = "lost" if table == file.table else "suspect"
            mine = structs.replace(base, product=product)
            edge = boundary_gap(file, table, self._manifest.neighbours(file, product)[0], mine, step)
            holes = [structs.replace(g, record_type=table, severity=severity) for g in (*audit.holes, *got.gaps)]
            own = _unique([*holes, *([] if edge is None else [edge])])
            entries.append(structs.replace(mine, gaps=tuple(own)))
            # What the manifest knew of this day: from an earlier version, and from other origins.
            elsewhere = self._manifest.elsewhere(file, product)
            others += elsewhere
            known = [*([] if (old := before[product]) is None else [old]), *elsewhere]
            old_gaps = _unique([g for e in known for g in e.gaps])
            rows += [
                *own,
                *(_repaired(g) for g in _gone(old_gaps, own) if not self._still_missing(file, product, g, elsewhere)),
            ]
            # Rows of another version must go, also when that version was only half confirmed.
            stale = [e for e in known if e.state in ("done", "writing") and (e in elsewhere or e.sha256 != sha256)]
            if stale:
                replace.append(product)
            # Until it is done, the mark names every gap that may be in the store; a replacement that was cut
            # short leaves rows of either version, so it names no checksum and is replaced again.
            marks.append(
                structs.replace(
                    mine, sha256="" if stale else sha256, version="", gaps=tuple(_unique([*own, *old_gaps]))
                )
            )
            marks += [structs.replace(e, state="writing", sha256="", version="") for e in elsewhere if e in stale]
        self._manifest.put(file, marks)
        live = None
        if unit.origin == "rest" and file.table != "candles" and self._open_reader is not None:
            live = await asyncio.to_thread(live_ids, self._open_reader, file)
        counts = await self._in_writer(writer, self._storing.write, unit, products, spool, replace, rows, live)
        done = [structs.replace(e, state="done", updated_ns=self._clock.now()) for e in entries]
        self._manifest.put(file, done, remove=others)
        self._count(unit, spool, got, counts, replaced=bool(replace))

    def _count(self, unit: Unit, spool: Spool, got: Got, counts: Mapping[str, int], *, replaced: bool) -> None:
        """Add a stored unit to the summary and say what a person should know."""
        file, audit = unit.file, spool.audit
        self.summary.files += 1
        self.summary.replaced += replaced
        self.summary.duplicates += spool.duplicates
        self.summary.outside += audit.outside + got.dropped
        for product, count in counts.items():
            self.summary.rows[product] = self.summary.rows.get(product, 0) + count
        if audit.outside:
            self._reporter.warn(f"{file.name} holds {audit.outside} rows of other days; they are kept")
        if audit.hole_count:
            what = "candles" if file.table == "candles" else "ids"
            self._reporter.warn(f"{file.name} misses {what} in {audit.hole_count} places; see the table gaps")
        for gap in got.gaps:
            self._reporter.warn(f"{file.name} is not whole: {gap.detail}")
        if not audit.rows:
            self._reporter.info(f"{file.name}: the exchange has no rows")

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
                            writer, self._storing.write_gaps, [*_unique(gaps), *map(_repaired, _gone(old, gaps))]
                        )
                        self._manifest.set_gaps(later, gaps)
                        if later is mine:
                            mine = structs.replace(mine, gaps=tuple(gaps))

    def _still_missing(self, file: ArchiveFile, product: str, gap: Gap, gone: Sequence[Entry]) -> bool:
        """Whether another file keeps this gap open: candles of all intervals share their Gap rows.

        ``gone`` are the same days of other origins, which this one takes over.
        """
        if gap.reason not in (MISSING_FILE, BAD_FILE, OUT_OF_REACH) or gap.record_type != "candles":
            return False
        return self._manifest.others_missing(file, product, [e.key for e in gone])

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


def _same(entry: Entry | None, found: Found) -> bool:
    """Whether a manifest row says that what is there now is archived."""
    if entry is None or entry.state != "done":
        return False
    if found.sha256:
        return entry.sha256 == found.sha256
    return not found.version or entry.version == found.version


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
