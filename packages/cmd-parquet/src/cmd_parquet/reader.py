"""The reader: rows of live files and journals, each key once, ordered, in bounded memory.

A reader first takes the journals' rows and then the manifest, so that a roll in between shows rows twice at
most, and equal keys are one row anyhow. Files may be replaced while they are read (compaction keeps all rows):
when one is gone, reading goes on behind the last row given, from the new files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cmd_common.errors import StoreError, UnknownNameError
from cmd_common.gaps import GapIndex, Incomplete, check_incomplete, is_checked, needed, sift_batches
from cmd_common.records import Record
from cmd_common.schema import TABLES
from cmd_common.schema import table as table_of
from cmd_common.seams import Disk, OsDisk

from .columns import ORDER, to_records
from .files import FileEntry, missing, read_file
from .journals import JournalView
from .lazy import compute
from .manifest import Manifest
from .merge import Source, key_of_row, merge, needed_columns, rechunk, sort_unique
from .paths import MANIFEST, Partition, date_of, join, partition_columns
from .stage import split
from .storage import store_errors

if TYPE_CHECKING:
    import pyarrow as pa

    from cmd_common.orderbook import OrderBook

    from .sql import SqlResult

__all__ = ["ParquetReader"]

_ATTEMPTS: Final = 10


class ParquetReader:
    """An ``IReader`` of a folder of Parquet files. Not thread-safe; it changes nothing in the store."""

    def __init__(self, location: str, *, disk: Disk | None = None) -> None:
        self.location = location.replace("\\", "/").rstrip("/") or "/"
        self._disk: Disk = disk if disk is not None else OsDisk()
        with store_errors(f"cannot open the store at {self.location}"):
            if not self._disk.exists(join(self.location, MANIFEST)):
                raise StoreError(f"there is no store at {self.location}", hint=self._why_not())
            self._manifest = Manifest(self._disk, self.location, create=False)
        self._view = JournalView(self._disk, self.location)
        self._closed = False

    def _why_not(self) -> str:
        names = self._disk.listdir(self.location) if self._disk.exists(self.location) else []
        if any(n.startswith("table=") for n in names):
            return "its manifest is missing; rebuild it from the data files with cmd_parquet.rebuild"
        return "check the path, or fill one with cmd-cli record or cmd-cli archive"

    # -- rows -----------------------------------------------------------------------------------------

    def tables(self) -> list[str]:
        """Tables that hold rows, in the schema's order."""
        self._check_open()
        with store_errors(f"cannot read the store at {self.location}"):
            found = {*self._view.tables(self._manifest), *self._manifest.tables()}
        return [t for t in TABLES if t in found]

    def batches(
        self,
        table: str,
        *,
        venue: str | None = None,
        symbols: Sequence[str] | None = None,
        start: int | None = None,
        end: int | None = None,
        columns: Sequence[str] | None = None,
        incomplete: Incomplete = "keep",
    ) -> Iterator[pa.RecordBatch]:
        """Yield record batches ordered by time and key, each key once; ``start`` inclusive, ``end`` exclusive.

        ``incomplete``: ``drop`` leaves out rows inside open gaps, ``mark`` adds the column ``complete`` at the end.

        Memory: some batches of each file whose times overlap. Raises UnknownNameError, StoreError.
        """
        self._check_open()
        schema = table_of(table)
        names = list(schema.names) if columns is None else list(columns)
        for name in names:
            if name not in schema.names:
                from cmd_common.symbols import nearest

                raise UnknownNameError(f"column of {table}", name, nearest(name, schema.names))
        check_incomplete(incomplete)
        if incomplete == "keep":
            return self._batches(table, venue, None if symbols is None else list(symbols), start, end, names)
        import pyarrow as pa

        index = GapIndex.load(self, venue=venue, symbols=symbols)
        wanted = list(dict.fromkeys([*names, *needed(table)]))
        rows = self._batches(table, venue, None if symbols is None else list(symbols), start, end, wanted)
        return sift_batches(index, table, rows, names, incomplete, lambda whole: pa.array(whole, pa.bool_()))

    def _batches(
        self,
        table: str,
        venue: str | None,
        symbols: list[str] | None,
        start: int | None,
        end: int | None,
        names: list[str],
    ) -> Iterator[pa.RecordBatch]:
        for data in rechunk(self._tables(table, venue, symbols, start, end, names), 65_536, 16 << 20):
            yield from data.select(names).to_batches()

    def _tables(
        self,
        table: str,
        venue: str | None,
        symbols: list[str] | None,
        start: int | None,
        end: int | None,
        names: list[str],
    ) -> Iterator[pa.Table]:
        """Rows of days in turn, with the columns needed for their order too."""
        with store_errors(f"cannot read the store at {self.location}"):
            live = self._live(table, venue, symbols, start, end)
            entries = self._entries(table, venue, symbols, start, end)
        wanted = {*names, *needed_columns(table_of(table))}
        columns = [n for n in table_of(table).names if n in wanted]
        for day in sorted({p.date for p in live} | {e.date for e in entries}):
            rows = {p: t.select([*columns, ORDER]) for p, t in live.items() if p.date == day}
            with store_errors(f"cannot read the store at {self.location}"):
                yield from self._day(table, venue, symbols, start, end, columns, day, rows)

    def _entries(
        self,
        table: str,
        venue: str | None,
        symbols: list[str] | None,
        start: int | None,
        end: int | None,
        day: str | None = None,
    ) -> list[FileEntry]:
        first = day or (None if start is None else date_of(start))
        last = day or (None if end is None else date_of(end - 1))
        by_venue = venue if partition_columns(table_of(table))[0] else None
        entries = self._manifest.files(table, by_venue, symbols, first, last)
        return [e for e in entries if (start is None or e.max_time >= start) and (end is None or e.min_time < end)]

    def _live(
        self, table: str, venue: str | None, symbols: list[str] | None, start: int | None, end: int | None
    ) -> dict[Partition, pa.Table]:
        """Journal rows by partition, sorted, each key once."""
        import pyarrow as pa

        pc = compute()

        schema = table_of(table)
        held: dict[Partition, list[pa.Table]] = {}
        for data in self._view.rows(self._manifest, table):
            times = data.column(schema.time)
            if start is not None:
                data = data.filter(pc.greater_equal(times, start))
                times = data.column(schema.time)
            if end is not None:
                data = data.filter(pc.less(times, end))
            for partition, part in split(schema, data):
                if venue is not None and partition_columns(schema)[0] and partition.venue != venue:
                    continue
                if symbols is None or partition.symbol in symbols:
                    held.setdefault(partition, []).append(part)
        return {
            p: sort_unique(table, pa.concat_tables(parts).combine_chunks(), inside=True) for p, parts in held.items()
        }

    def _day(
        self,
        table: str,
        venue: str | None,
        symbols: list[str] | None,
        start: int | None,
        end: int | None,
        columns: list[str],
        day: str,
        live: dict[Partition, pa.Table],
    ) -> Iterator[pa.Table]:
        """Merge one day's partitions; goes on from new files when old ones are replaced meanwhile."""
        behind: tuple[Any, ...] | None = None
        for attempt in range(_ATTEMPTS + 1):
            entries = self._entries(table, venue, symbols, start, end, day)
            inside = len({e.partition for e in entries} | set(live)) == 1
            rows = 32_768 if len(entries) < 16 else 8_192
            sources = [self._file(e, columns, start, end, rows) for e in entries]
            sources += [_held(table, t) for t in live.values()]
            try:
                for data in merge(table, sources, inside=inside):
                    if behind is not None:
                        data = _after(table, data, behind)
                    if data.num_rows:
                        behind = key_of_row(table, data, data.num_rows - 1, inside=False)
                        start = behind[0] if attempt else start
                        yield data
                return
            except FileNotFoundError as error:
                if attempt == _ATTEMPTS:
                    raise missing(str(error.filename or error), self.location) from error

    def _file(
        self, entry: FileEntry, columns: list[str], start: int | None, end: int | None, batch_rows: int
    ) -> Source:
        return Source(
            max(entry.min_time, start if start is not None else entry.min_time),
            lambda: read_file(self._disk, self.location, entry, columns, start=start, end=end, batch_rows=batch_rows),
        )

    def records(
        self,
        table: str,
        *,
        venue: str | None = None,
        symbols: Sequence[str] | None = None,
        start: int | None = None,
        end: int | None = None,
        incomplete: Incomplete = "keep",
    ) -> Iterator[Record]:
        """Yield records ordered by time and key, each key once; a row without a receive time has ``ts_recv == 0``."""
        check_incomplete(incomplete, mark=False)
        batches = self.batches(table, venue=venue, symbols=symbols, start=start, end=end, incomplete=incomplete)
        return (record for batch in batches for record in to_records(table, batch))

    def latest(self, table: str, *, venue: str, symbol: str) -> Record | None:
        """The newest record of one instrument; None where there is none."""
        self._check_open()
        time = table_of(table).time
        with store_errors(f"cannot read the store at {self.location}"):
            live = self._live(table, venue, [symbol], None, None)
            entries = self._entries(table, venue, [symbol], None, None)
        times = [e.max_time for e in entries]
        times += [t.column(time)[t.num_rows - 1].as_py() for t in live.values()]
        if not times:
            return None
        last: Record | None = None
        for record in self.records(table, venue=venue, symbols=[symbol], start=max(times)):
            last = record
        return last

    def book_at(self, venue: str, symbol: str, ts: int) -> OrderBook | None:
        """The order book as of ``ts``, rebuilt from the last snapshot and the deltas after it.

        None where there is no snapshot before ``ts``, where a gap that was not repaired lies between, or where
        updates belong to another epoch than the snapshot. Complexity: the updates since the snapshot.
        """
        from cmd_common.book_history import book_at

        return book_at(self, venue, symbol, ts)

    def sql(
        self, query: str, parameters: Mapping[str, object] | None = None, *, complete_only: bool = False
    ) -> SqlResult:
        """Run one SELECT over the schema's tables in DuckDB; ``$name`` takes values from ``parameters``.

        Every table exists, also when it is empty. Nothing but these tables can be read, and nothing written. Raises
        UsageError with DuckDB's words for a wrong query, StoreError when the store cannot be read. With
        ``complete_only`` the tables are without the rows inside open gaps.
        """
        self._check_open()
        from .sql import run

        return run(self, query, parameters, complete_only=complete_only)

    def left_out(self, query: str) -> int:
        """How many open intervals of the ledger ``complete_only`` leaves out of the tables that a query names."""
        self._check_open()
        named = [t for t in TABLES if t in query.lower() and is_checked(t)]
        return GapIndex.load(self).count(named) if named else 0

    # -- the end ----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the reader of {self.location} is closed")

    def close(self) -> None:
        """Release; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._manifest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _held(table: str, data: pa.Table) -> Source:
    return Source(data.column(table_of(table).time)[0].as_py(), lambda: iter([data]))


def _after(table: str, data: pa.Table, behind: tuple[Any, ...]) -> pa.Table:
    """Rows of sorted data that come after a key."""
    low, high = 0, data.num_rows
    while low < high:
        middle = (low + high) // 2
        if key_of_row(table, data, middle, inside=False) <= behind:
            low = middle + 1
        else:
            high = middle
    return data.slice(low)
