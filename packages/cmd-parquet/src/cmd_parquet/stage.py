"""Bulk rows on their way to files: split by partition, sorted, spilled, merged, one file a partition.

Rows are held until a memory limit; then the largest partitions are written to temporary files ("runs").
Rows that arrive in order (an archive's day) continue their run, which then becomes the file itself without
being written again; rows out of order make further runs, merged at the end. Memory: about twice the limit,
plus one row group for each run that is being written or merged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from cmd_common.schema import Table
from cmd_common.schema import table as table_of
from cmd_common.seams import Disk

from .columns import ORDER
from .files import FileEntry, ParquetFileWriter, read_file
from .lazy import compute
from .merge import Source, key_of_row, merge, rechunk, sort_unique
from .paths import DAY, Partition, date_of, join, partition_columns

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NewFile", "Stage", "split"]

_OPEN_RUNS: Final = 16


class NewFile(NamedTuple):
    """A finished temporary file and the entry that it will have."""

    temporary: str
    entry: FileEntry


def _ints(column: Any) -> list[int]:
    return cast("list[int]", column.to_pylist())


def split(table: Table, data: pa.Table) -> Iterator[tuple[Partition, pa.Table]]:
    """Cut rows into partitions, keeping their order inside each."""
    import pyarrow as pa

    pc = compute()

    if not data.num_rows:
        return
    venue_name, symbol_name = partition_columns(table)
    times = data.column(table.time)
    venues = pc.unique(data.column(venue_name)).to_pylist() if venue_name else ["all"]
    symbols = pc.unique(data.column(symbol_name)).to_pylist()
    bounds = pc.min_max(times).as_py()
    first, last = bounds["min"] // DAY, bounds["max"] // DAY
    if len(venues) == len(symbols) == 1 and first == last:
        yield Partition(table.name, venues[0], symbols[0], date_of(bounds["min"])), data
        return
    # Arrow divides towards zero; whole days are added first so that times before 1970 fall on their day too.
    days = pc.divide(times, DAY) if first >= 0 else pa.array([t // DAY for t in _ints(times)], pa.int64())
    keys: dict[str, Any] = {"day": days, "symbol": data.column(symbol_name)}
    if venue_name:
        keys["venue"] = data.column(venue_name)
    grid = pa.table(keys).combine_chunks()
    order = pc.sort_indices(grid, sort_keys=[(name, "ascending") for name in keys])
    grid = grid.take(order)
    data = data.combine_chunks().take(order)
    changed: Any = None
    for name in keys:
        column = grid.column(name).combine_chunks()
        differs = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
        changed = differs if changed is None else pc.or_(changed, differs)
    starts = [0, *(i + 1 for i in pc.indices_nonzero(changed).to_pylist()), data.num_rows]
    for start, end in itertools.pairwise(starts):
        venue = grid.column("venue")[start].as_py() if venue_name else "all"
        day = grid.column("day")[start].as_py()
        yield (
            Partition(table.name, venue, grid.column("symbol")[start].as_py(), date_of(day * DAY)),
            data.slice(start, end - start),
        )


class _Run:
    """A temporary file that is being written in order."""

    def __init__(self, file: ParquetFileWriter) -> None:
        self.file = file
        self.last_key: tuple[Any, ...] = ()


class _Held:
    """What is known of one partition."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.nbytes = 0
        self.order = 0
        self.first = 0
        self.run: _Run | None = None
        self.done: list[FileEntry] = []  # finished runs; their path is the temporary one


class Stage:
    """Collects rows and ends as one new file for each partition and group.

    ``group`` keeps rows apart that must not become one file (see the writer's roll).
    """

    def __init__(self, disk: Disk, location: str, prefix: str, *, memory_limit: int) -> None:
        self._disk = disk
        self._location = location
        self._prefix = prefix  # of temporary paths, below the location
        self._limit = memory_limit
        self._held: dict[tuple[Partition, int], _Held] = {}
        self._count = 0
        self.nbytes = 0
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, name: str, data: pa.Table, group: int = 0) -> None:
        """Take checked rows with ``_order``, rising; raises OSError when spilling fails."""
        for partition, part in split(table_of(name), data):
            self.add_part(partition, part, group)

    def orders(self, name: str) -> dict[Partition, list[int]]:
        """The order that each file of a table will have, by partition."""
        found: dict[Partition, list[int]] = {}
        for (partition, _), held in self._held.items():
            if partition.table == name:
                found.setdefault(partition, []).append(held.order)
        return found

    def first_order(self, name: str) -> int | None:
        """When the first staged row of a table was written."""
        return min((h.first for key, h in self._held.items() if key[0].table == name), default=None)

    def add_part(self, partition: Partition, data: pa.Table, group: int = 0) -> None:
        """Take rows of one partition."""
        held = self._held.setdefault((partition, group), _Held())
        held.tables.append(data)
        bounds = compute().min_max(data.column(ORDER)).as_py()
        held.first = min(held.first or bounds["min"], bounds["min"])
        held.order = max(held.order, bounds["max"])
        # A slice counts whole buffers in some Arrow versions; rows times width is what it holds.
        size = data.nbytes
        held.nbytes += size
        self.nbytes += size
        self.rows += data.num_rows
        if self.nbytes > self._limit:
            self._relieve()

    def _relieve(self) -> None:
        for key, held in sorted(self._held.items(), key=lambda item: -item[1].nbytes):
            if self.nbytes <= self._limit // 2:
                break
            self._spill(key[0], held)
        open_runs = [h for h in self._held.values() if h.run is not None]
        for held in open_runs[:-_OPEN_RUNS]:
            self._end_run(held, self._partition(held))

    def _partition(self, held: _Held) -> Partition:
        return next(key[0] for key, h in self._held.items() if h is held)

    def _temporary(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def _spill(self, partition: Partition, held: _Held) -> None:
        """Write held rows to the partition's run, or a new one when they do not continue it."""
        import pyarrow as pa

        pc = compute()

        if not held.tables:
            return
        data = sort_unique(partition.table, pa.concat_tables(held.tables).combine_chunks(), inside=True)
        self.nbytes -= held.nbytes
        held.tables, held.nbytes = [], 0
        if held.run is not None and key_of_row(partition.table, data, 0) <= held.run.last_key:
            self._end_run(held, partition)
        if held.run is None:
            path = join(self._location, self._temporary())
            held.run = _Run(ParquetFileWriter(self._disk, path, partition.table))
        held.run.file.write(data, pc.max(data.column(ORDER)).as_py())
        held.run.last_key = key_of_row(partition.table, data, data.num_rows - 1)

    def _end_run(self, held: _Held, partition: Partition) -> None:
        run, held.run = held.run, None
        if run is not None:
            held.done.append(self._finish(run.file, partition))

    def _finish(self, file: ParquetFileWriter, partition: Partition) -> FileEntry:
        try:
            size, crc = file.finish()
        except BaseException:
            file.abandon()
            raise
        path = file.path.removeprefix(self._location).lstrip("/")
        return FileEntry(path, *partition, file.rows, file.min_time, file.max_time, size, crc, file.order)

    def finish(self, name: str) -> list[NewFile]:
        """Write everything out; the result's files are durable at temporary paths. Raises OSError, StoreError.

        ``name`` begins the file names and is unique to this commit.
        """
        new: list[NewFile] = []
        for (partition, _), held in self._held.items():
            self._spill(partition, held)
            self._end_run(held, partition)
            if len(held.done) > 1:
                merged = merge_files(
                    self._disk, self._location, partition, held.done, join(self._location, self._temporary())
                )
                for run in held.done:
                    self._disk.remove(join(self._location, run.path))
                held.done = [merged]
            entry = held.done[0]
            final = f"{partition.folder}/{entry.order}-{name}-{len(new)}.parquet"
            new.append(NewFile(join(self._location, entry.path), _moved(entry, final)))
        self._held.clear()
        self.nbytes = self.rows = 0
        return new

    def discard(self) -> None:
        """Drop everything; never raises an Exception."""
        for held in self._held.values():
            if held.run is not None:
                held.run.file.abandon()
            for entry in held.done:
                try:
                    self._disk.remove(join(self._location, entry.path))
                except OSError:
                    pass
        self._held.clear()
        self.nbytes = self.rows = 0


def _moved(entry: FileEntry, path: str) -> FileEntry:
    return FileEntry(
        path,
        *entry.partition,
        entry.rows,
        entry.min_time,
        entry.max_time,
        entry.size,
        entry.crc,
        entry.order,
    )


def source_of(disk: Disk, location: str, entry: FileEntry, columns: list[str], batch_rows: int = 32_768) -> Source:
    """A file as a source for merging."""
    return Source(entry.min_time, lambda: read_file(disk, location, entry, columns, batch_rows=batch_rows))


def merge_files(disk: Disk, location: str, partition: Partition, entries: list[FileEntry], temporary: str) -> FileEntry:
    """Merge files of one partition into a new durable file, streaming; the entry's path is the temporary one."""
    names = list(table_of(partition.table).names)
    file = ParquetFileWriter(disk, temporary, partition.table)
    order = max(e.order for e in entries)
    try:
        sources = [source_of(disk, location, e, names) for e in entries]
        for data in rechunk(merge(partition.table, sources, inside=True)):
            file.write(data, order)
        size, crc = file.finish()
    except BaseException:
        file.abandon()
        raise
    path = temporary.removeprefix(location).lstrip("/")
    return FileEntry(path, *partition, file.rows, file.min_time, file.max_time, size, crc, order)
