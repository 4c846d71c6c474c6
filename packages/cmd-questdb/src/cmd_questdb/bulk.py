"""Bulk load: archive days into the server by the fastest safe way, and the proof that they are there.

Theory of operation. Where the process can write into the server's import folder (``import_dir``, on the server's
host), rows are streamed into a Parquet file there and the server takes them with one INSERT out of read_parquet();
this is several times as fast as anything that goes over HTTP. Elsewhere, and for a few rows, they go over HTTP as
frames while they come. Both ways keep the schema's preference (``merge``), and both may be repeated.

A load then waits until the server has applied everything, which fails for a suspended table, and proves itself: it
counts the stored rows of every (venue, symbol, day). Where the rows given were in the order of their keys and
nothing else is stored for that day, the counts are equal or rows were lost. Everywhere else (repeated rows, rows that
were there before) it looks for keys that are missing. Partitions in Parquet form are made native before: 9.3.4 stores
duplicates there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from cmd_common.errors import StoreError
from cmd_common.filelock import take
from cmd_common.schema import LEVEL_WIDTH, Column, Table
from cmd_common.schema import table as table_of

from .columns import key_arrays, key_of_row, rising
from .convert import make_native
from .merge import any_better, extent, insert_preferred, present, stored_keys, within, without_keys
from .reader import symbol_column
from .schema import SYMBOLS, TIMES, column_types
from .sql import SqlClient, SqlError, literal

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Rows", "Send", "import_columns", "load", "source_sql"]

_DAY: Final = 86_400_000_000_000
_PREFIX: Final = "cmd-bulk-"
_LOCK: Final = ".lock"
_FEW: Final = 10_000  # rows that are not worth a file in the import folder
_APPLY: Final = 600.0  # s that the server may take to apply a day
_INSERT: Final = 1800.0  # s that one INSERT may take


class Rows(Protocol):
    """Checked rows of one table with exactly the schema's columns and types, that can be read more than once."""

    rows: int
    times: tuple[int, int]  # [start, end)
    values: dict[str, set[str]]  # of the key columns with few
    classes: set[int]  # of the preference, see ``merge``

    def pieces(self) -> Iterator[pa.Table]:
        """All rows, in order."""


class _Group(NamedTuple):
    venue: str
    symbol: str
    day: int


Send = Callable[[Iterable["pa.Table"]], int]
"""Sends pieces over HTTP by the schema's preference, returns when they are acknowledged; how many rows were refused."""


def load(client: SqlClient, table: str, rows: Rows, send: Send) -> bool:
    """Load rows and return when they are stored, can be read, and are proven to be there. Safe to repeat.

    True: the server read them out of its import folder; False: they went over HTTP by ``send``. Raises StoreError where
    rows are missing or the import folder does not work, TableSuspended, ServerAway.
    """
    if not rows.rows:
        return False
    client.wait_applied([client.conf.table(table)], timeout=_APPLY)  # what is there is looked at
    make_native(client, table, *rows.times)  # 9.3.4 stores duplicates in partitions of Parquet form
    work = _Load(client, table_of(table), rows)
    by_file = bool(client.conf.import_dir) and rows.rows > _FEW
    refused = work.by_file() if by_file else work.by_frames(send)
    client.wait_applied([client.conf.table(table)], timeout=_APPLY)
    work.prove(refused)
    return by_file


class _Load:
    """One load, and what is known of its rows."""

    def __init__(self, client: SqlClient, table: Table, rows: Rows) -> None:
        self._client = client
        self._table = table
        self._name = client.conf.table(table.name)
        self._rows = rows
        self._given: dict[_Group, int] = {}
        self._rising = True  # every row's key is greater than that of the row before
        self._last: tuple[Any, ...] | None = None
        self._only = self._one_group()
        self._alone = not self._any_stored()  # nothing is there for these days yet

    def _one_group(self) -> _Group | None:
        """The venue, symbol and day of all rows, where they are of one: then they need not be grouped."""
        start, end = self._rows.times
        symbols = self._rows.values.get(symbol_column(self._table), set())
        venues = self._rows.values.get("venue", {""})
        if len(symbols) == len(venues) == 1 and start // _DAY == (end - 1) // _DAY:
            return _Group(min(venues), min(symbols), start // _DAY)
        return None

    # The way there

    def by_frames(self, send: Send) -> int:
        """Send all rows over HTTP; returns how many were refused."""
        pieces = self._counted()
        refused = send(pieces)
        for _ in pieces:  # what was not sent is missed by the proof
            pass
        return refused

    def by_file(self) -> int:
        """Let the server read a file in its import folder; it takes all rows or none."""
        parent = Path(self._client.conf.import_dir)
        if not parent.is_dir():
            raise StoreError(
                f"there is no folder {parent}", hint="import_dir must be the folder that the server imports from"
            )
        _remove_left(parent)
        with disk_errors(f"writing to {parent}"):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = take(str(folder / _LOCK))
        try:
            file = folder / f"{self._table.name}.parquet"
            with disk_errors(f"writing to {parent}"):
                self._write(file)
                os.chmod(folder, 0o755)  # the server may run as another user
                os.chmod(file, 0o644)
            self._insert(f"{folder.name}/{file.name}")
            return 0
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)

    def _write(self, path: Path) -> None:
        import pyarrow.parquet as pq

        writer: pq.ParquetWriter | None = None
        try:
            for data in self._counted():
                made = import_columns(self._table, data)
                if writer is None:
                    words = [n for n in self._table.names if n in SYMBOLS]
                    options: dict[str, Any] = {"compression": "lz4", "use_dictionary": words, "write_statistics": False}
                    writer = pq.ParquetWriter(path, made.schema, **options)
                writer.write_table(made)
        finally:
            if writer is not None:
                writer.close()

    def _insert(self, file: str) -> None:
        name, rows = self._table.name, self._rows
        venues, symbols = rows.values.get("venue", set()), rows.values.get("symbol", set())
        # Most days hold nothing better, and the join that looks for it takes as long as the rest.
        unbeaten = len(rows.classes) == 1 and not any_better(
            self._client, name, rows.times, rows.values, max(rows.classes)
        )
        try:
            insert_preferred(
                self._client,
                name,
                source_sql(name, file, joined=not unbeaten),
                min(venues) if len(venues) == 1 else None,
                min(symbols) if len(symbols) == 1 else None,
                *rows.times,
                known=rows.classes,
                unbeaten=unbeaten,
                timeout=_INSERT,
            )
        except SqlError as error:
            if type(error) is SqlError and file.rpartition("/")[2] in error.text:
                raise StoreError(
                    f"the server does not find what is written to {self._client.conf.import_dir}: {error.text}",
                    hint="import_dir must be its cairo.sql.copy.root; leave it out to load over HTTP",
                ) from None
            raise

    def _counted(self) -> Iterator[pa.Table]:
        """The rows, while note is taken of them."""
        for data in self._rows.pieces():
            if not data.num_rows:
                continue
            keys = key_arrays(self._table, data)
            if self._rising:
                first, last = key_of_row(keys, 0), key_of_row(keys, data.num_rows - 1)
                self._rising = (self._last is None or self._last < first) and rising(keys, data.num_rows)
                self._last = last
            for group, rows in [(self._only, data.num_rows)] if self._only else _groups(self._table, data):
                self._given[group] = self._given.get(group, 0) + rows
            yield data

    # The proof

    def prove(self, refused: int = 0) -> None:
        """Raise StoreError unless every key that was given is stored, but for so many that were refused."""
        stored = self._stored()
        if self._rising and self._alone and stored == self._given:
            return
        if self._rising and not refused:
            for group, rows in self._given.items():
                if stored.get(group, 0) < rows:
                    raise self._lost(f"{stored.get(group, 0)} of {rows} rows of {_shown(group)}")
        missing = sum(self._missing(data) for data in self._rows.pieces() if data.num_rows)
        if missing > refused:
            raise self._lost(f"{self._rows.rows - missing} of {self._rows.rows} rows")

    def _these_days(self) -> str:
        """The condition of what is given: whole days, with these venues, symbols and so on."""
        start, end = self._rows.times
        days = within(self._table.name, start // _DAY * _DAY, -(-end // _DAY) * _DAY, self._rows.values)
        return f"{days} AND {present(self._table.name)}"

    def _any_stored(self) -> bool:
        return bool(self._client.exec(f"SELECT 1 FROM {self._name} WHERE {self._these_days()} LIMIT 1").rows)

    def _stored(self) -> dict[_Group, int]:
        """Stored rows by venue, symbol and day, of those that were given."""
        table = self._table
        if self._only is not None:  # a count without groups takes a fraction of the time
            count = self._client.exec(f"SELECT count() FROM {self._name} WHERE {self._these_days()}", timeout=_INSERT)
            return {self._only: int(count.value())}
        venue = "venue" if "venue" in table.names else "''"
        rows = self._client.exec(
            f"SELECT {venue} AS v, {symbol_column(table)} AS s, {table.time}::LONG / {_DAY} AS d, count() AS n "
            f"FROM {self._name} WHERE {self._these_days()}",
            timeout=_INSERT,
        ).rows
        found = {_Group(v, s, d): n for v, s, d, n in rows}
        return {group: n for group, n in found.items() if group in self._given}

    def _missing(self, data: pa.Table) -> int:
        """How many rows have keys that are not stored."""
        name = self._table.name
        (start, end), equal = extent(name, data)
        found = stored_keys(self._client, name, within(name, start, end, equal))
        return without_keys(name, data, found).num_rows

    def _lost(self, what: str) -> StoreError:
        ttl = self._client.value(f"SELECT ttlValue FROM tables() WHERE table_name = {literal(self._name)}")
        hint = "the table has a TTL: rows older than it are dropped" if ttl else "see cmd-cli store check"
        return StoreError(f"{self._name} holds only {what} after loading", hint=hint)


def import_columns(table: Table, data: pa.Table) -> pa.Table:
    """Rows with the types that ``source_sql`` reads: moments as timestamps, sides as lists of their rows.

    The server reads an empty list as one NULL, so the number of levels goes with every side.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, Any] = {}
    for column in table.columns:
        values = data.column(column.name)
        if column.name in TIMES:
            values = values.cast(pa.timestamp("ns", "UTC"))
        elif column.type in LEVEL_WIDTH:
            width = LEVEL_WIDTH[column.type]
            columns[f"n_{column.name}"] = pc.divide(pc.list_value_length(values), width).cast(pa.int32())
            values = split_sides(values, width)
        columns[column.name] = values
    return pa.table(columns)


def split_sides(column: Any, width: int) -> Any:
    """Turn lists of alternating price and quantity into two lists in a list, for each row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = column.combine_chunks() if hasattr(column, "chunks") else column
    if hasattr(whole, "chunks"):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    values = whole.flatten().to_numpy(zero_copy_only=False)
    sizes = pc.list_value_length(whole).to_numpy(zero_copy_only=False).astype(np.int64)
    levels = sizes // width
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    many = np.repeat(levels, sizes)
    within_row = np.arange(len(values)) - starts
    flat = values[starts + (within_row % np.maximum(many, 1)) * width + within_row // np.maximum(many, 1)]
    inner_sizes = np.repeat(levels, width)
    inner = pa.ListArray.from_arrays(_offsets(inner_sizes), pa.array(flat, pa.float64()))
    return pa.ListArray.from_arrays(_offsets(np.full(len(levels), width)), inner)


def _offsets(sizes: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    return pa.array(np.concatenate(([0], np.cumsum(sizes))).astype(np.int32), pa.int32())


def source_sql(table: str, file: str, *, joined: bool = True) -> str:
    """The query that reads a file made of ``import_columns``, ``file`` as the server knows it.

    ``joined``: it is to be joined by its keys, so text is cast: in 9.3.4 a VARCHAR out of read_parquet() is equal to that of a table alone, but not as one of
    several keys of a join, and dedup by the schema's preference would silently find no better row.
    """
    types = column_types(table)

    def column(c: Column) -> str:
        if c.type in LEVEL_WIDTH:
            return f"{c.name}[1:{LEVEL_WIDTH[c.type] + 1}, 1:n_{c.name} + 1] AS {c.name}"
        cast_to = {"SYMBOL": "SYMBOL", "VARCHAR": "STRING"}.get(types[c.name])
        return f"{c.name}::{cast_to} AS {c.name}" if cast_to and joined else c.name

    return f"SELECT {', '.join(map(column, table_of(table).columns))} FROM read_parquet({literal(file)})"


def _groups(table: Table, data: pa.Table) -> Iterator[tuple[_Group, int]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    symbol = symbol_column(table)
    days = pc.divide(data.column(table.time), pa.scalar(_DAY, pa.int64()))
    columns = {"s": data.column(symbol), "d": days}
    if "venue" in table.names:
        columns["v"] = data.column("venue")
    grid: Any = pa.table(columns).group_by(list(columns), use_threads=False)
    for row in grid.aggregate([([], "count_all")]).to_pylist():
        yield _Group(row.get("v", ""), row["s"], row["d"]), row["count_all"]


def _shown(group: _Group) -> str:
    day = datetime.fromtimestamp(group.day * 86_400, UTC).strftime("%Y-%m-%d")
    return f"{group.venue}:{group.symbol} on {day}" if group.venue else f"{group.symbol} on {day}"


def _remove_left(parent: Path) -> None:
    """Remove folders of processes that are gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = take(str(folder / _LOCK))
        except OSError:
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn OSErrors of a block into StoreErrors."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}", hint="is the disk full, or not ours?") from None
