"""SQL over the store in DuckDB: one view for each table of the schema, read-only.

Files that cannot share a key with any other are read as they are; files that overlap in time, and journal
rows, pass through a window that keeps the preferred row of each key. The connection may open the store's live
files and nothing else, and only statements that read are run.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from cmd_common.errors import CmdError, StoreError, UsageError
from cmd_common.gaps import GapIndex, is_checked, span_columns, stream_columns
from cmd_common.schema import SCHEMA, TABLES, Table
from cmd_common.symbols import nearest

from .columns import ORDER, arrow_schema
from .compaction import clusters
from .files import FileEntry, missing
from .paths import Partition, join
from .storage import is_real, store_errors

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from .reader import ParquetReader

__all__ = ["SqlResult", "run"]

_READS: Final = frozenset(
    [
        "select",
        "with",
        "from",
        "pivot",
        "unpivot",
        "values",
        "table",
        "describe",
        "desc",
        "show",
        "summarize",
        "explain",
        "(",
    ]
)
_COMMENT: Final = re.compile(r"\s*(--[^\n]*(\n|$)|/\*.*?\*/)", re.DOTALL)
_EXPLAIN: Final = re.compile(r"explain\s*(\([^)]*\)|analyze\b)?", re.IGNORECASE)
_ATTEMPTS: Final = 10


class SqlResult:
    """Rows of a query, held in memory as Arrow."""

    def __init__(self, data: pa.Table) -> None:
        self._data = data

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names."""
        return tuple(self._data.column_names)

    def __len__(self) -> int:
        return int(self._data.num_rows)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Rows as tuples of Python values."""
        for batch in self._data.to_batches(max_chunksize=8192):
            yield from zip(*(c.to_pylist() for c in batch.columns), strict=True)

    def to_arrow(self) -> pa.Table:
        """The whole result as a pyarrow Table."""
        return self._data

    def to_polars(self) -> Any:
        """The whole result as a polars DataFrame; raises UsageError where polars is not installed."""
        try:
            import polars
        except ModuleNotFoundError:
            raise UsageError("polars is not installed", hint="pip install polars") from None
        return polars.from_arrow(self._data)

    def to_pandas(self) -> Any:
        """The whole result as a pandas DataFrame; raises UsageError where pandas is not installed."""
        try:
            return self._data.to_pandas()
        except ModuleNotFoundError:
            raise UsageError("pandas is not installed", hint="pip install pandas") from None


def run(
    reader: ParquetReader, query: str, parameters: Mapping[str, object] | None, *, complete_only: bool = False
) -> SqlResult:
    """See ``ParquetReader.sql``."""
    import duckdb

    index = GapIndex.load(reader) if complete_only else None
    for attempt in range(_ATTEMPTS):
        connection = duckdb.connect(":memory:")
        views = _Views(reader, connection, query, index)
        try:
            with store_errors(f"cannot read the store at {reader.location}"):
                views.create()
            _check(connection, query)
            return SqlResult(_fetch(connection, query, parameters))
        except duckdb.Error as error:
            gone = [path for path in views.files if not os.path.exists(path)]
            if gone and attempt + 1 < _ATTEMPTS:
                continue  # compacted away between manifest and query
            if gone:
                raise missing(gone[0], reader.location) from error
            raise _explain(error, reader.location) from error
        finally:
            connection.close()
    raise AssertionError  # pragma: no cover - the last attempt returns or raises


def _fetch(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object] | None) -> pa.Table:
    import pyarrow as pa

    try:
        relation: Any = connection.sql(query, params=dict(parameters) if parameters else None)
        return cast("pa.Table", pa.table({}) if relation is None else relation.to_arrow_table())
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise


def _check(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse everything that is not one reading statement."""
    statements = connection.extract_statements(query)
    if not statements:
        raise UsageError("the query is empty", hint="write for example SELECT count(*) FROM trades")
    if len(statements) > 1:
        raise UsageError(f"the query has {len(statements)} statements", hint="run one SELECT at a time")
    text = query
    while True:
        while match := _COMMENT.match(text):
            text = text[match.end() :]
        text = text.lstrip().lstrip("(").lstrip()
        word = (re.match(r"\w+", text) or re.match("", "x"))[0].lower()  # type: ignore[index]
        if word == "explain" and (match := _EXPLAIN.match(text)):
            text = text[match.end() :]
            continue
        break
    kind = statements[0].type.name
    if word not in _READS or kind not in ("SELECT", "EXPLAIN", "MULTI"):
        raise UsageError(
            f"{word.upper() or 'this'} is not a query", hint="the store is read-only here; write SELECT ... FROM ..."
        )


def _explain(error: Exception, location: str) -> CmdError:
    """Turn DuckDB's error into ours, in its words."""
    import duckdb

    lines = [line.strip() for line in str(error).split("\n\nLINE ")[0].splitlines() if line.strip()]
    words = " ".join(lines) or type(error).__name__
    if isinstance(error, duckdb.IOException) or (".parquet" in words and "Cannot access" not in words):
        return StoreError(f"the store at {location} cannot be read: {words}", hint="check it with cmd_parquet.verify")
    if isinstance(error, duckdb.OutOfMemoryException):
        return StoreError(f"the query needs more memory: {words}", hint="narrow it by symbol or time")
    hint = ""
    missing = re.search(r"Table with name (\S+) does not exist", words)
    if missing and "Did you mean" not in words:
        near = nearest(missing[1].strip('"'), TABLES)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the tables are {', '.join(TABLES)}"
    elif "Cannot access" in words:
        hint = "a query reads the store's tables only"
    return UsageError(words, hint=hint)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _list(paths: list[str]) -> str:
    return "[" + ", ".join(map(_quote, paths)) + "]"


_SQL_TYPES: Final = {
    "int64": "BIGINT",
    "int32": "INTEGER",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "levels": "DOUBLE[]",
    "venue_levels": "DOUBLE[]",
}


class _Views:
    """Makes the views of one query. Tables that it does not name stay empty and cost nothing."""

    def __init__(
        self, reader: ParquetReader, connection: duckdb.DuckDBPyConnection, query: str, index: GapIndex | None
    ) -> None:
        self._reader = reader
        self._connection = connection
        self._query = query.lower()
        self._index = index  # None: incomplete rows stay
        self.files: list[str] = []

    def create(self) -> None:
        """Create all views, then close the door behind them."""
        for table in SCHEMA.values():
            body = self._body(table) if table.name in self._query else ""
            if body and self._index is not None and is_checked(table.name):
                body = self._complete(table, body, self._index)
            self._connection.execute(f"CREATE VIEW {table.name} AS {body or _empty(table)}")
        settings = [
            f"SET allowed_paths = {_list(self.files)}",
            f"SET temp_directory = {_quote(join(tempfile.gettempdir(), f'cmd-duckdb-{os.getpid()}'))}",
            "SET enable_external_access = false",
            "SET autoinstall_known_extensions = false",
            "SET autoload_known_extensions = false",
            "SET python_enable_replacements = false",
            "SET lock_configuration = true",
        ]
        for setting in settings:
            self._connection.execute(setting)

    def _body(self, table: Table) -> str:
        reader = self._reader
        if not is_real(reader._disk):
            import pyarrow as pa

            schema = arrow_schema(table.name)
            held = pa.Table.from_batches(
                list(reader.batches(table.name)), pa.schema([f.with_nullable(True) for f in schema])
            )
            self._connection.register(f"_{table.name}", held)
            return f"SELECT * FROM _{table.name}"
        live = reader._live(table.name, None, None, None, None)
        alone, shared = _sort_out(reader._entries(table.name, None, None, None, None), live)
        columns = ", ".join(table.names)
        parts = []
        if alone:
            parts.append(f"SELECT {columns} FROM {self._files(table, alone)}")
        if live or shared:
            parts.append(self._chosen(table, live, shared))
        return " UNION ALL ".join(parts)

    def _complete(self, table: Table, body: str, index: GapIndex) -> str:
        """A table without the rows inside open gaps.

        The merged intervals of a stream do not overlap, so that the last one that begins before a row ends decides:
        an ASOF join, whose cost does not grow with the product of rows and gaps.
        """
        import pyarrow as pa

        found = index.streams(table.name)
        if not found:
            return body
        first, last = span_columns(table)
        venue, name = stream_columns(table)
        row_venue = f"t.{venue}" if venue else "''"
        for number, every_symbol in enumerate((False, True)):
            rows = [(v, s, i.start, i.end) for (v, s), held in found.items() for i in held if (not s) == every_symbol]
            if not rows:
                continue
            held = f"_{table.name}_gaps_{number}"
            types = [("venue", pa.string()), ("symbol", pa.string()), ("low", pa.int64()), ("high", pa.int64())]
            columns = zip(types, zip(*rows, strict=True), strict=True)
            self._connection.register(held, pa.table({n: pa.array(values, kind) for (n, kind), values in columns}))
            symbol = "" if every_symbol else f" AND t.{name} = g.symbol"
            body = (
                f"SELECT t.* FROM ({body}) t ASOF LEFT JOIN {held} g ON {row_venue} = g.venue{symbol} "
                f"AND t.{last} > g.low WHERE g.high IS NULL OR t.{first} >= g.high"
            )
        return body

    def _paths(self, entries: list[FileEntry]) -> list[str]:
        paths = [os.path.abspath(join(self._reader.location, e.path)) for e in entries]
        self.files += paths
        return paths

    def _files(self, table: Table, entries: list[FileEntry], filename: bool = False) -> str:
        # With the folders' names known, a condition on venue or symbol opens only the files of that folder.
        hive = (
            "hive_partitioning = true, hive_types = {'table': VARCHAR, 'venue': VARCHAR, 'symbol': VARCHAR, 'date': DATE}"
            if "venue" in table.names and not any(_odd(e) for e in entries)
            else "hive_partitioning = false"
        )
        return f"read_parquet({_list(self._paths(entries))}, {hive}{', filename = true' if filename else ''})"

    def _chosen(self, table: Table, live: dict[Partition, pa.Table], shared: list[FileEntry]) -> str:
        """Rows that may repeat keys, reduced to the preferred row of each."""
        import pyarrow as pa

        columns = ", ".join(table.names)
        parts = []
        if live:
            name = f"_{table.name}_live"
            self._connection.register(name, pa.concat_tables(live.values()))
            parts.append(f"SELECT {columns}, {ORDER} FROM {name}")
        if shared:
            name = f"_{table.name}_orders"
            orders = {"path": self._paths(shared), ORDER: [e.order for e in shared]}
            self._connection.register(name, pa.table(orders))
            source = self._files(table, shared, filename=True)
            parts.append(f"SELECT {columns}, {name}.{ORDER} FROM {source} f JOIN {name} ON f.filename = {name}.path")
        first = []
        if table.prefer is not None:
            column, values = table.prefer
            cases = " ".join(f"WHEN {_quote(v)} THEN {i}" for i, v in enumerate(values))
            first.append(f"CASE {column} {cases} ELSE {len(values)} END")
        if "ts_recv" in table.names:
            first.append("ts_recv IS NULL")
        first.append(f"{ORDER} DESC")
        return (
            f"SELECT {columns} FROM ({' UNION ALL '.join(parts)}) QUALIFY row_number() OVER "
            f"(PARTITION BY {', '.join(table.key)} ORDER BY {', '.join(first)}) = 1"
        )


def _odd(entry: FileEntry) -> bool:
    """Names that some engines take for a missing value."""
    return "" in (entry.venue, entry.symbol) or "null" in (entry.venue.lower(), entry.symbol.lower())


def _empty(table: Table) -> str:
    columns = ", ".join(f"CAST(NULL AS {_SQL_TYPES[c.type]}) AS {c.name}" for c in table.columns)
    return f"SELECT {columns} WHERE false"


def _sort_out(entries: list[FileEntry], live: dict[Partition, pa.Table]) -> tuple[list[FileEntry], list[FileEntry]]:
    """Separate files that share no key with anything from those that may."""
    by_partition: dict[Partition, list[FileEntry]] = {}
    for entry in entries:
        by_partition.setdefault(entry.partition, []).append(entry)
    alone: list[FileEntry] = []
    shared: list[FileEntry] = []
    for partition, files in by_partition.items():
        rows = live.get(partition)
        low, high = (0, -1)
        if rows is not None:
            times = rows.column(SCHEMA[partition.table].time)
            low, high = times[0].as_py(), times[rows.num_rows - 1].as_py()
        for group in clusters(files):
            touched = any(e.min_time <= high and low <= e.max_time for e in group)
            (shared if len(group) > 1 or touched else alone).extend(group)
    return alone, shared
