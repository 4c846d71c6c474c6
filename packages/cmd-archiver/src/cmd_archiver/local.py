"""Local files that cover any time, cut into UTC days: one pass a file, only the days that are wanted.

Dumps of a whole history are larger than memory and hold years. Their rows rise in time, so one pass with
one open piece at a time is enough; a row that comes late reopens its day with another piece. Where two
files hold rows of one day, the one with more of them is taken as it is: rows without ids cannot be merged.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from msgspec import Struct, field

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvLayout
from cmd_common.errors import DataError, ProtocolError, StoreBusyError, StoreError, UsageError

from ._arrow import pc
from .download import disk_error
from .locks import FileLock
from .parse import CsvFile, times_of
from .plan import DAY_NS, Unit, day_start
from .unpack import members

__all__ = ["LocalFiles", "expand_paths"]

FOLDER: Final = "local"
_SUFFIXES: Final = (".zip", ".csv", ".gz")


def expand_paths(paths: Sequence[str]) -> list[Path]:
    """Files, and the zips and CSVs right below folders, in the order given. Raises UsageError."""
    found: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
            if not inside:
                raise UsageError(f"{path} holds no zip, csv or gz file")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"there is no file {path}", hint="give the path of a downloaded dump")
    return list(dict.fromkeys(found))


def _tag(path: Path) -> str:
    """What says that a file is the same as before: its name, size and time of change."""
    facts = path.stat()
    return f"{path.name}|{facts.st_size}|{facts.st_mtime_ns}"


class _Day(Struct):
    """The pieces of one day out of one file."""

    path: Path
    layout: CsvLayout
    rows: int = 0
    pieces: list[Path] = field(default_factory=list)


class LocalFiles:
    """The local files of one venue and run; ``prepare`` cuts, then units ask for their day."""

    def __init__(self, paths: Sequence[Path], source: ArchiveSource, folder: Path) -> None:
        self.version = "; ".join(_tag(p) for p in paths)
        self.known: set[str] = set()  # units that are done from these very files and were not cut
        self.ignored = 0  # rows of days that another file holds more of
        self._paths = paths
        self._source = source
        self._folder = folder / FOLDER
        self._lock = FileLock(folder.parent / "_locks", FOLDER)
        self._names = {p: members(p, p.name) for p in paths}
        self._days: dict[str, list[_Day]] = {}  # by unit key
        self._cuts = 0
        self._stopped = False
        self.members: dict[tuple[str, str, str], list[tuple[Path, str]]] = {}

    def find(self, table: str, symbol: str, interval: str) -> list[tuple[Path, str]]:
        """The files and their members that hold a table of a symbol."""
        wanted = (table, symbol, interval)
        if wanted not in self.members:
            self.members[wanted] = [
                (path, member)
                for path in self._paths
                if (member := self._source.local(self._names[path], table, symbol, interval)) is not None
            ]
        return self.members[wanted]

    def prepare(self, units: Iterable[Unit], progress: Callable[[str], None]) -> None:
        """Cut what ``units`` need. Raises DataError with file and line, StoreError, StoreBusyError."""
        groups: dict[tuple[str, str, str], list[Unit]] = {}
        for unit in units:
            groups.setdefault((unit.file.table, unit.file.symbol, unit.file.interval), []).append(unit)
        if not groups:
            return
        if not self._lock.acquire():
            raise StoreBusyError("another process reads local files into this store", hint="wait until it has ended")
        shutil.rmtree(self._folder, ignore_errors=True)  # a killed run's
        for (table, symbol, interval), mine in groups.items():
            for path, member in self.find(table, symbol, interval):
                progress(f"reading {member} of {path.name}" if member != path.name else f"reading {member}")
                try:
                    self._cut(path, member, mine)
                except OSError as error:
                    raise disk_error(error, f"reading {path}") from None
        self.ignored = sum(sum(d.rows for d in days) - max(d.rows for d in days) for days in self._days.values())

    def _cut(self, path: Path, member: str, units: Sequence[Unit]) -> None:
        sample = units[0].file
        file = ArchiveFile(
            sample.venue, sample.table, sample.symbol, sample.interval, "daily", sample.first_day, sample.last_day,
            "", "", "", path.name,
        )  # fmt: skip
        by_day = {day_start(u.file.first_day) // DAY_NS: u.file.key for u in units}

        def choose(names: Sequence[str]) -> str:
            if member not in names:
                raise ProtocolError(f"{path.name} holds no {member}")
            return member

        csv = CsvFile(path, file, self._source, choose)
        self._cuts += 1
        cut = _Cutter(self._folder / str(self._cuts), by_day)
        found: dict[str, _Day] = {}
        try:
            for batch in csv.batches():
                if self._stopped:
                    raise StoreError("stopped while reading local files", hint="run it again")
                assert csv.layout is not None
                for key, part in cut.days(batch, times_of(batch, csv.layout, file)):
                    day = found.setdefault(key, _Day(path, csv.layout))
                    day.rows += part.num_rows
                    cut.write(key, day, part)
        except DataError as error:
            raise DataError(f"{member}: {error.message}" if member not in error.message else error.message) from None
        finally:
            cut.close()
        for key, day in found.items():
            self._days.setdefault(key, []).append(day)

    def has(self, key: str) -> bool:
        """Whether any file holds rows of a unit."""
        return key in self._days or key in self.known

    def _best(self, key: str) -> _Day:
        days = self._days[key]
        return max(days, key=lambda d: d.rows)

    def rows(self, key: str) -> Iterator[tuple[pa.RecordBatch, CsvLayout]]:
        """The rows of a unit, with the file's own columns."""
        day = self._best(key)
        for piece in day.pieces:
            with pa.OSFile(str(piece), "rb") as f, pa.ipc.open_stream(f) as reader:
                for batch in reader:
                    yield batch, day.layout

    def digest(self, key: str) -> tuple[str, int]:
        """SHA-256 and size of a unit's values, column by column: however its rows were cut into batches."""
        hashes: dict[tuple[str, int], Any] = {}
        size = 0
        for batch, _ in self.rows(key):
            for name, values in zip(batch.schema.names, batch.columns, strict=True):
                for part, data in enumerate(_memory(values)):
                    hashes.setdefault((name, part), hashlib.sha256()).update(data)
                    size += data.nbytes
        words = [f"{name}/{part}:{digest.hexdigest()}" for (name, part), digest in hashes.items()]
        return hashlib.sha256("\n".join(words).encode()).hexdigest(), size

    def done(self, key: str) -> None:
        """Remove the pieces of a unit."""
        for day in self._days.pop(key, []):
            for piece in day.pieces:
                piece.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all pieces, and end a ``prepare`` that runs in another thread; calling it again does nothing."""
        self._stopped = True
        if self._lock.held:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.release()


def _memory(values: Any) -> list[memoryview]:
    """The values of an array without nulls: their bytes, and of texts their lengths."""
    if pa.types.is_string(values.type):
        ends = memoryview(values.buffers()[1]).cast("i")[values.offset : values.offset + len(values) + 1]
        text = values.buffers()[2]
        return [memoryview(text or b"")[ends[0] : ends[-1]], *_memory(pc.binary_length(values))]
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.uint8())
    width = values.type.bit_width // 8
    return [memoryview(values.buffers()[1])[values.offset * width : (values.offset + len(values)) * width]]


class _Cutter:
    """Splits batches by UTC day; at most one piece is open."""

    def __init__(self, folder: Path, wanted: dict[int, str]) -> None:
        self._folder = folder
        self._wanted = wanted  # day number to unit key
        self._low, self._high = min(wanted), max(wanted)
        self._key = ""
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._out: Any = None
        self._count = 0

    def days(self, batch: pa.RecordBatch, times: Any) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield (unit key, its rows) for the wanted days of a batch."""
        bounds = pc.min_max(times).as_py()
        if bounds["min"] is None or bounds["min"] // DAY_NS > self._high or bounds["max"] // DAY_NS < self._low:
            return
        days = pc.divide(times, DAY_NS)
        for day in pc.unique(days).to_pylist():
            if (key := self._wanted.get(day)) is not None:
                yield key, batch.filter(pc.equal(days, day))

    def write(self, key: str, day: _Day, part: pa.RecordBatch) -> None:
        """Append rows to their day."""
        if key != self._key or self._writer is None:
            self.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._count}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.arrow"
            self._count += 1
            self._out = pa.OSFile(str(path), "wb")
            self._writer = pa.ipc.new_stream(self._out, part.schema)
            self._key = key
            day.pieces.append(path)
        self._writer.write_batch(part)

    def close(self) -> None:
        """End the open piece."""
        if self._writer is not None:
            self._writer.close()
            self._out.close()
            self._writer = None
