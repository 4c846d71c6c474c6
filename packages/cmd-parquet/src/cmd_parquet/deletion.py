"""Deleting rows: files that hold matching rows are written again without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cmd_common.schema import table as table_of
from cmd_common.seams import Disk

from .files import FileEntry, ParquetFileWriter, read_file
from .lazy import compute
from .manifest import Manifest
from .merge import rechunk
from .paths import date_of, join
from .stage import NewFile

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Deletion", "rewrite"]


class Deletion(msgspec.Struct, frozen=True):
    """Rows of one instrument with times in ``[start, end)`` in files older than ``order``."""

    table: str
    venue: str
    symbol: str
    start: int
    end: int
    archived_only: bool
    interval: str | None
    source: str | None
    order: int

    def hits(self, data: pa.Table) -> Any:
        """Which rows go."""
        pc = compute()

        times = data.column(table_of(self.table).time)
        hit = pc.and_(pc.greater_equal(times, self.start), pc.less(times, self.end))
        if self.archived_only and "ts_recv" in data.column_names:
            hit = pc.and_(hit, pc.is_null(data.column("ts_recv")))
        for column, value in (("interval", self.interval), ("source", self.source)):
            if value is not None:
                hit = pc.and_(hit, pc.equal(data.column(column), value))
        return hit


def rewrite(
    disk: Disk, location: str, manifest: Manifest, deletions: Sequence[Deletion], temporary: Callable[[], str]
) -> tuple[list[NewFile], list[FileEntry]]:
    """Write the touched files without the deleted rows; returns the new ones and those that they replace.

    A file that loses all rows is replaced by none. Raises OSError, StoreError.
    """
    by_entry: dict[str, tuple[FileEntry, list[Deletion]]] = {}
    for deletion in deletions:
        entries = manifest.files(
            deletion.table,
            deletion.venue,
            [deletion.symbol],
            date_of(deletion.start),
            date_of(max(deletion.end - 1, deletion.start)),
        )
        for entry in entries:
            if entry.min_time < deletion.end and entry.max_time >= deletion.start and entry.order < deletion.order:
                by_entry.setdefault(entry.path, (entry, []))[1].append(deletion)
    new: list[NewFile] = []
    removed: list[FileEntry] = []
    for entry, wanted in by_entry.values():
        name = temporary()
        path = join(location, name)
        file = ParquetFileWriter(disk, path, entry.table)
        try:
            for data in rechunk(_kept(disk, location, entry, wanted)):
                file.write(data, entry.order)
            if file.rows == entry.rows:
                file.abandon()
                continue
            removed.append(entry)
            if not file.rows:
                file.abandon()
                continue
            size, crc = file.finish()
        except BaseException:
            file.abandon()
            raise
        final = f"{entry.partition.folder}/{entry.order}-{name.rpartition('/')[2]}.parquet"
        kept = FileEntry(final, *entry.partition, file.rows, file.min_time, file.max_time, size, crc, entry.order)
        new.append(NewFile(path, kept))
    return new, removed


def _kept(disk: Disk, location: str, entry: FileEntry, deletions: list[Deletion]) -> Iterator[pa.Table]:
    pc = compute()

    for data in read_file(disk, location, entry, list(table_of(entry.table).names)):
        for deletion in deletions:
            data = data.filter(pc.invert(deletion.hits(data)))
        yield data
