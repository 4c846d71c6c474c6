"""Where a unit's rows come from: a published file, several of them, REST, a local file; one shape for all.

An origin says what it has (``identify``), gets it (``obtain``), and gives its rows to a spool. What it
raises as BadFile is a file that is put aside; every other error leaves things as they are for the next run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa
from msgspec import Struct, structs

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvLayout
from cmd_common.errors import ChecksumError, CmdError, DataError
from cmd_common.history import HistorySource
from cmd_common.records import REST, Gap
from cmd_common.schema import SCHEMA
from cmd_common.seams import Clock

from .audit import MISSING_FILE, NOT_SERVED, OUT_OF_REACH, missing_gap
from .download import Downloader, hash_file
from .local import LocalFiles
from .locks import FileLock
from .plan import DAY_NS, Unit, day_start, walk_of

if TYPE_CHECKING:
    from .parts import Page
    from .rest import Walker

__all__ = ["Absent", "BadFile", "FileOrigin", "Found", "Got", "LocalOrigin", "Origin", "RestOrigin", "UtcOrigin"]

_POLL: Final = 200_000_000  # ns between looks at a lock that another process holds
_ROWS: Final = 16_384  # of REST pages in one batch

Rows = Iterable[tuple[pa.RecordBatch, CsvLayout]]


class Found(Struct, frozen=True):
    """What is there: a published checksum, or what the server says of the file; REST knows neither."""

    sha256: str = ""
    version: str = ""


class Absent(Struct, frozen=True):
    """Nothing is there: the reason of the Gap rows, and words for a person."""

    reason: str
    detail: str
    warning: str
    partly: bool = False  # some of it is there


class Got(Struct):
    """What was obtained: its rows, their digest, where the spool may lie, and gaps that are known already."""

    sha256: str
    size: int
    rows: Callable[[], Rows]
    spool: Path
    gaps: tuple[Gap, ...] = ()
    bad: Path | None = None  # the file in hand: what is put aside when its rows cannot be read
    dropped: int = 0  # rows left out because they belong to other days


class BadFile(Exception):
    """A file that cannot be trusted and is put aside."""

    def __init__(self, path: Path, error: CmdError) -> None:
        super().__init__(error.message)
        self.path = path
        self.error = error


class Origin(Protocol):
    """One kind of source."""

    async def identify(self, unit: Unit) -> Found | Absent:
        """What is there now."""

    async def obtain(self, unit: Unit, found: Found) -> Got | Absent:
        """Get it, from where an earlier run was."""

    def release(self, unit: Unit) -> None:
        """The unit is at its end, well or not: let go of locks."""

    def tidy(self, file: ArchiveFile, parts: Sequence[ArchiveFile] = ()) -> list[Path]:
        """What a finished unit needed on its way: files that may be removed, with the download last."""


def _not_published(file: ArchiveFile) -> Absent:
    return Absent(
        MISSING_FILE, f"{file.name} is not published", f"{file.venue} has no {file.name}: the day is missing upstream"
    )


def _beside(path: Path, *suffixes: str) -> list[Path]:
    return [*(path.with_name(path.name + s) for s in suffixes), path]


class FileOrigin:
    """Published files whose days are UTC days."""

    def __init__(self, downloader: Downloader, source: ArchiveSource) -> None:
        self._downloader = downloader
        self._source = source

    async def _find(self, file: ArchiveFile) -> Found | None:
        if file.checksum_url:
            sha256 = await self._downloader.checksum(self._source, file)
            return None if sha256 is None else Found(sha256)
        version = await self._downloader.version(file)
        return None if version is None else Found("", version)

    async def _get(self, file: ArchiveFile, found: Found) -> tuple[Path, str] | None:
        try:
            if not found.sha256:
                return await self._downloader.fetch_unchecked(file, found.version)
            path = await self._downloader.fetch(file, found.sha256)
            return None if path is None else (path, found.sha256)
        except ChecksumError as error:
            raise BadFile(self._downloader.path(file).with_name(file.name + ".bad"), error) from None

    async def identify(self, unit: Unit) -> Found | Absent:
        """The published checksum, or what the server says of the file."""
        return await self._find(unit.file) or _not_published(unit.file)

    async def obtain(self, unit: Unit, found: Found) -> Got | Absent:
        """Download it."""
        from .spool import read_file

        file, source = unit.file, self._source
        got = await self._get(file, found)
        if got is None:
            return _not_published(file)
        path, sha256 = got
        size = path.stat().st_size
        spool = path.with_name(path.name + ".spool")
        return Got(sha256, size, lambda: read_file(path, file, source), spool, bad=path)

    def release(self, unit: Unit) -> None:
        """Nothing is held."""

    def tidy(self, file: ArchiveFile, parts: Sequence[ArchiveFile] = ()) -> list[Path]:
        """What the download left."""
        return _beside(self._downloader.path(file), ".part", ".spool", ".bad", ".tag")


class UtcOrigin(FileOrigin):
    """UTC days out of published files whose days begin at another hour.

    Neighbouring days need the same file: it is downloaded once, held by a lock while it is in use, and
    removed when no unit of this run needs it any more.
    """

    def __init__(
        self, downloader: Downloader, source: ArchiveSource, clock: Clock, locks: Path, units: Sequence[Unit]
    ) -> None:
        super().__init__(downloader, source)
        self._clock = clock
        self._locks = locks
        self._needs = Counter(part.key for unit in units for part in unit.parts)
        self._turn: dict[str, asyncio.Lock] = {}
        self._held: dict[str, tuple[FileLock, int]] = {}
        self._holding: dict[str, list[str]] = {}  # unit key to the parts that it holds

    async def identify(self, unit: Unit) -> Found | Absent:
        """What the server says of each file; without any of them the day is absent."""
        found = [await self._find(part) for part in unit.parts]
        missing = [part.name for part, f in zip(unit.parts, found, strict=True) if f is None]
        if missing and (unit.rest or len(missing) == len(found)):
            names = " and ".join(missing)
            return Absent(
                MISSING_FILE, f"{names} not published", f"{unit.file.venue} has no {names}: the day is missing upstream",
                partly=len(missing) < len(found),
            )  # fmt: skip
        return Found("", " | ".join("absent" if f is None else f.sha256 or f.version for f in found))

    async def obtain(self, unit: Unit, found: Found) -> Got | Absent:
        """Download the files that are there; what the others would hold becomes a Gap."""
        import hashlib

        file = unit.file
        self._holding[file.key] = []
        paths: list[tuple[ArchiveFile, Path]] = []
        digest, size, gaps = hashlib.sha256(), 0, []
        for part in unit.parts:
            await self._hold(unit, part.key)
            async with self._turn[part.key]:  # one unit downloads, the other finds the whole file
                there = await self._find(part)
                got = None if there is None else await self._get(part, there)
            if got is None:
                span = (part.start_ns, part.end_ns)
                gaps.append(missing_gap(file, file.table, f"{part.name} is not published", span=span))
                continue
            paths.append((part, got[0]))
            digest.update(got[1].encode())
            size += got[0].stat().st_size
        if not paths:
            return _not_published(file)
        spool = self._downloader.path(file)
        out = Got(digest.hexdigest(), size, lambda: (), spool.with_name(spool.name + ".spool"), tuple(gaps))
        out.rows = lambda: self._rows(file, paths, out)
        return out

    def _rows(
        self, file: ArchiveFile, paths: Sequence[tuple[ArchiveFile, Path]], got: Got
    ) -> Iterator[tuple[pa.RecordBatch, CsvLayout]]:
        """The rows of the UTC day, with the schema's columns and ``notional`` where a file has it."""
        from ._arrow import pc
        from .parse import derive, schema_layout, times_of
        from .spool import read_file

        start, end = day_start(file.first_day), day_start(file.last_day) + DAY_NS
        for part, path in paths:
            got.bad = path
            for batch, layout in read_file(path, part, self._source):
                if any(rule.how == "row_id" for rule in layout.derive):
                    raise DataError(f"{part.name}: rows without ids cannot be taken out of several files")
                times = times_of(batch, layout, part)
                astray = pc.or_(pc.less(times, part.start_ns), pc.greater_equal(times, part.end_ns))
                got.dropped += pc.sum(astray, min_count=0).as_py()
                mine = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
                rows = derive(batch, layout, part)
                out = schema_layout(
                    file.table, ids=bool(layout.id_column), contiguous=layout.contiguous, sparse=layout.sparse,
                    notional="notional" if layout.notional_column else "",
                )  # fmt: skip
                if layout.notional_column:
                    rows = rows.append_column("notional", batch.column(layout.notional_column))
                if (kept := rows.filter(mine)).num_rows:
                    yield kept, out
        got.bad = None

    async def _hold(self, unit: Unit, key: str) -> None:
        async with self._turn.setdefault(key, asyncio.Lock()):
            lock, users = self._held.get(key, (FileLock(self._locks, f"part.{key}"), 0))
            while not users and not lock.acquire():
                await self._clock.sleep(_POLL)
            self._held[key] = (lock, users + 1)
            self._holding[unit.file.key].append(key)

    def release(self, unit: Unit) -> None:
        """Let go of the files."""
        for part in unit.parts:
            self._needs[part.key] -= 1
        for key in self._holding.pop(unit.file.key, []):
            lock, users = self._held.pop(key)
            if users > 1:
                self._held[key] = (lock, users - 1)
            else:
                lock.release()

    def tidy(self, file: ArchiveFile, parts: Sequence[ArchiveFile] = ()) -> list[Path]:
        """The files that no other unit of this run needs; another process may hold one, too."""
        found = [self._downloader.path(file).with_name(self._downloader.path(file).name + ".spool")]
        for part in parts:
            held = self._held.get(part.key)
            if self._needs[part.key] <= 1 and (held is None or held[1] <= 1):
                found += _beside(self._downloader.path(part), ".part", ".bad", ".tag")
        return found


class RestOrigin:
    """Days over REST; the pages lie below the downloads until the day is done."""

    def __init__(self, source: HistorySource, walker: Walker, clock: Clock, folder: Path) -> None:
        self._source = source
        self._walker = walker
        self._clock = clock
        self._folder = folder

    def _path(self, file: ArchiveFile) -> Path:
        return self._folder / (file.key + ".pages")

    def _horizon(self, file: ArchiveFile) -> int:
        """The oldest instant that the exchange still answers for, ns."""
        reach = self._source.reach(file.table, file.interval)
        return 0 if reach is None else self._clock.now() - reach

    def absent(self, file: ArchiveFile) -> Absent | None:
        """Why the exchange has nothing of a day; None where it has."""
        if day_start(file.last_day) + DAY_NS > self._horizon(file):
            return None
        hours = (self._source.reach(file.table, file.interval) or 0) // (DAY_NS // 24)
        last = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
        words = f"{file.venue} answers for {file.table} of the last {last} only"
        return Absent(OUT_OF_REACH, words, f"{file.name}: {words}")

    async def identify(self, unit: Unit) -> Found | Absent:
        """Whether the day is within reach; nothing is asked."""
        return self.absent(unit.file) or Found()

    async def obtain(self, unit: Unit, found: Found) -> Got | Absent:
        """Walk to the end."""
        file, path = unit.file, self._path(unit.file)
        horizon = self._horizon(file)
        pages = await self._walker.fetch(walk_of(file), path)
        if pages.lost_all and not pages.records:
            path.unlink(missing_ok=True)  # asked again by the next run
            return Absent(NOT_SERVED, pages.lost_all, f"{file.name}: {pages.lost_all}")
        gaps = []
        start = day_start(file.first_day)
        for page in await asyncio.to_thread(lambda: [structs.replace(p, records=()) for p in pages.read() if p.lost]):
            gap = missing_gap(file, file.table, page.lost, reason=NOT_SERVED, span=page.lost_span)
            if gap.ts_to > gap.ts_from:
                gaps.append(gap)
        if horizon > start and not gaps:  # else the source said it, and knows better from when on
            detail = f"{file.venue} does not answer for the time before"
            gaps.append(missing_gap(file, file.table, detail, reason=OUT_OF_REACH, span=(start, horizon)))
        sha256, size = await asyncio.to_thread(hash_file, path)
        got = Got(sha256, size, lambda: (), path.with_name(path.name + ".spool"), tuple(gaps))
        got.rows = lambda: self._rows(file, pages.read(), got)
        return got

    def _rows(self, file: ArchiveFile, pages: Iterator[Page], got: Got) -> Iterator[tuple[pa.RecordBatch, CsvLayout]]:
        """The records of the day as batches with the schema's columns."""
        from .parse import schema_layout

        start, end = day_start(file.first_day), day_start(file.last_day) + DAY_NS
        candles = file.table == "candles"
        held: list[Any] = []
        layout: CsvLayout | None = None
        for last, page in _mark_last(pages):
            for record in page.records:
                time = record.open_time if candles else record.ts_event  # type: ignore[union-attr]
                if record.symbol != file.symbol or record.venue != file.venue:
                    raise DataError(f"{file.name}: a page holds rows of {record.venue}:{record.symbol}")
                if start <= time < end:
                    held.append(record)
                else:
                    got.dropped += 1
            if held and (last or len(held) >= _ROWS):
                if layout is None:
                    ids = not candles and held[0].trade_seq is not None
                    layout = schema_layout(
                        file.table, ids=ids, contiguous=self._source.contiguous, sparse=self._source.sparse_candles
                    )
                try:
                    yield _batch(file.table, held), layout
                except (AttributeError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
                    raise DataError(f"{file.name}: a page holds other rows than {file.table}: {error}") from None
                held = []

    def release(self, unit: Unit) -> None:
        """Nothing is held."""

    def tidy(self, file: ArchiveFile, parts: Sequence[ArchiveFile] = ()) -> list[Path]:
        """The pages."""
        return _beside(self._path(file), ".spool")


def _mark_last(pages: Iterator[Page]) -> Iterator[tuple[bool, Page]]:
    before: Page | None = None
    for page in pages:
        if before is not None:
            yield False, before
        before = page
    if before is not None:
        yield True, before


def _batch(table: str, records: Sequence[Any]) -> pa.RecordBatch:
    """Records as a batch; without receive times, as all archived rows, and with the flag of their kind."""
    from .parse import arrow_schema

    columns = []
    schema = arrow_schema(table)
    for column in SCHEMA[table].columns:
        if column.name == "ts_recv":
            values: list[Any] = [None] * len(records)
        elif column.name == "flags":
            values = [r.flags | REST for r in records]
        else:
            values = [getattr(r, column.name) for r in records]
        columns.append(pa.array(values, schema.field(column.name).type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class LocalOrigin:
    """Days out of local files, which were cut before."""

    def __init__(self, files: LocalFiles, folder: Path) -> None:
        self._files = files
        self._folder = folder

    async def identify(self, unit: Unit) -> Found | Absent:
        """Name, size and time of the local files."""
        if not self._files.has(unit.file.key):
            words = "no row of this day is in the local files"
            return Absent(MISSING_FILE, words, f"{unit.file.name}: {words}")
        return Found("", self._files.version)

    async def obtain(self, unit: Unit, found: Found) -> Got | Absent:
        """Nothing is to be fetched."""
        key = unit.file.key
        sha256, size = await asyncio.to_thread(self._files.digest, key)
        return Got(sha256, size, lambda: self._files.rows(key), self._folder / (key + ".spool"))

    def release(self, unit: Unit) -> None:
        """Nothing is held."""

    def tidy(self, file: ArchiveFile, parts: Sequence[ArchiveFile] = ()) -> list[Path]:
        """The cut rows."""
        self._files.done(file.key)
        return [self._folder / (file.key + ".spool")]
