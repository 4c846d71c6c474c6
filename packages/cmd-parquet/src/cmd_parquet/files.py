"""Writing and reading Parquet files of a partition through the Disk seam."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from cmd_common.errors import StoreError
from cmd_common.schema import LEVEL_WIDTH
from cmd_common.schema import table as table_of
from cmd_common.seams import Disk

from .columns import ORDER, arrow_schema, file_schema
from .lazy import compute
from .paths import Partition, join
from .storage import DiskSink, is_real

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["FileEntry", "ParquetFileWriter", "read_file"]

_ROW_GROUP_BYTES: Final = 32 << 20
_ROW_GROUP_ROWS: Final = 131_072


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """One Parquet file as the manifest knows it. Sorted by key, each key once."""

    path: str  # below the store's location
    table: str
    venue: str
    symbol: str
    date: str
    rows: int
    min_time: int
    max_time: int
    size: int
    crc: int  # CRC-32 of the whole file
    order: int  # when its last row was written

    @property
    def partition(self) -> Partition:
        """The folder that it is in."""
        return Partition(self.table, self.venue, self.symbol, self.date)

    def overlaps(self, other: FileEntry) -> bool:
        """Whether both could hold one key."""
        return self.min_time <= other.max_time and other.min_time <= self.max_time


class ParquetFileWriter:
    """Writes one sorted file at a temporary path; ``finish`` makes its content durable."""

    def __init__(self, disk: Disk, path: str, table: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.table = table
        self.rows = 0
        self.min_time = 0
        self.max_time = 0
        self.order = 0
        self._disk = disk
        self._sink = DiskSink(disk, path)
        self._schema = file_schema(table)
        columns = table_of(table).columns
        ints = {c.name: "DELTA_BINARY_PACKED" for c in columns if c.type == "int64"}
        words = [c.name for c in columns if c.type == "string" and c.name != "trade_id"]
        sorting = [pq.SortingColumn(self._schema.get_field_index(table_of(table).time))]
        self._writer: pq.ParquetWriter | None = pq.ParquetWriter(
            pa.PythonFile(cast("Any", self._sink), mode="w"),
            self._schema,
            compression="zstd",
            use_dictionary=cast("Any", words),
            column_encoding=ints,
            # Statistics leave NaN out, and a reader that trusts them would not find it: none for what may be NaN.
            write_statistics=[c.name for c in columns if c.type not in LEVEL_WIDTH and "NaN" not in c.doc],
            write_page_checksum=True,
            sorting_columns=sorting,
        )

    def write(self, data: pa.Table, order: int) -> None:
        """Append rows that come after all earlier ones; raises OSError."""
        assert self._writer is not None
        if not data.num_rows:
            return
        times = data.column(table_of(self.table).time)
        if not self.rows:
            self.min_time = times[0].as_py()
        self.max_time = times[data.num_rows - 1].as_py()
        self.rows += data.num_rows
        self.order = max(self.order, order)
        data = data.select(self._schema.names).cast(self._schema)
        step = max(min(_ROW_GROUP_ROWS, _ROW_GROUP_BYTES * data.num_rows // max(data.nbytes, 1)), 1)
        for start in range(0, data.num_rows, step):
            self._writer.write_table(data.slice(start, step), row_group_size=step)

    def finish(self) -> tuple[int, int]:
        """Close and make durable; returns size and CRC-32. Raises OSError."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._sink.finish()
        self._disk.sync(self.path)
        return self._sink.size, self._sink.crc

    def abandon(self) -> None:
        """Drop the file; never raises an Exception."""
        self._sink.drop()
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):  # after a failed write pyarrow may refuse to close
                writer.close()
        try:
            self._disk.remove(self.path)
        except OSError:
            pass


def open_parquet(disk: Disk, path: str, what: str) -> pq.ParquetFile:
    """Open a file; raises FileNotFoundError where it is gone, StoreError where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source: Any
        source = pa.OSFile(path, "r") if is_real(disk) else pa.BufferReader(disk.read(path))
        return pq.ParquetFile(source, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from error
    except (pa.ArrowException, OSError) as error:
        raise damaged(what, error) from error


def missing(path: str, location: str) -> StoreError:
    """The error for a live file that is not there."""
    return StoreError(
        f"file {path} is missing though the manifest of {location} lists it",
        hint="restore it from a copy, or archive that day again",
    )


def damaged(what: str, error: object) -> StoreError:
    """The error for a file that cannot be read."""
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    return StoreError(f"{what} is damaged: {words}", hint="restore it from a copy, or archive that day again")


def read_file(
    disk: Disk,
    location: str,
    entry: FileEntry,
    columns: Sequence[str],
    *,
    start: int | None = None,
    end: int | None = None,
    batch_rows: int = 32_768,
    with_order: bool = True,
) -> Iterator[pa.Table]:
    """Yield a file's rows in its order, with plain strings; row groups outside the times are passed over.

    The file is opened before the first row is asked for, so that it may be deleted meanwhile.
    """
    path = join(location, entry.path)
    what = f"file {path}"
    file = open_parquet(disk, path, what)
    return _rows(file, entry, columns, start, end, batch_rows, with_order, what)


def _rows(
    file: pq.ParquetFile,
    entry: FileEntry,
    columns: Sequence[str],
    start: int | None,
    end: int | None,
    batch_rows: int,
    with_order: bool,
    what: str,
) -> Iterator[pa.Table]:
    import pyarrow as pa

    pc = compute()

    time = table_of(entry.table).time
    wanted = pa.schema([f.with_nullable(True) for f in arrow_schema(entry.table) if f.name in set(columns)])
    names = [*wanted.names, *([] if time in wanted.names else [time])]
    low = None if start is None or start <= entry.min_time else start
    high = None if end is None or end > entry.max_time else end
    try:
        groups = list(_groups(file, time, low, high))
        for batch in file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=names):
            data = pa.Table.from_batches([batch])
            if low is not None or high is not None:
                times = data.column(time)
                keep: Any = pc.greater_equal(times, low) if low is not None else None
                if high is not None:
                    under = pc.less(times, high)
                    keep = under if keep is None else pc.and_(keep, under)
                data = data.filter(keep)
                if not data.num_rows:
                    continue
            data = data.select(wanted.names).cast(wanted)
            if with_order:
                data = data.append_column(ORDER, pa.repeat(pa.scalar(entry.order, pa.int64()), data.num_rows))
            yield data
    except (pa.ArrowException, OSError) as error:
        raise damaged(what, error) from error
    finally:
        file.close(force=True)


def _groups(file: pq.ParquetFile, time: str, low: int | None, high: int | None) -> Iterator[int]:
    """Row groups that can hold the times."""
    metadata = file.metadata
    index = file.schema_arrow.get_field_index(time)
    for i in range(metadata.num_row_groups):
        stats: Any = metadata.row_group(i).column(index).statistics
        if stats is not None and stats.has_min_max:
            if low is not None and stats.max < low:
                continue
            if high is not None and stats.min >= high:
                continue
        yield i
