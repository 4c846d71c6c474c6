"""The reader: rows of the server's tables, each key once, ordered, in bounded memory.

Rows are asked for in pages. A page is what the server exports as Parquet from a moment on, up to a number of rows; of
a full page the rows of its last stamp are left to the next one, so that rows with equal stamps are always together
and can be put in the order of their keys here. Nothing is kept open in the server between two pages.

What was acknowledged to a writer stands in the server's log (WAL) and can be read once it is applied, usually within
milliseconds. A reader waits for what was there when it began, for a bounded time, and then says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cmd_common.arrow_rows import to_records
from cmd_common.errors import StoreError, UnknownNameError, UsageError
from cmd_common.gaps import GapIndex, Incomplete, check_incomplete, needed, sift_batches
from cmd_common.records import Record
from cmd_common.schema import TABLES, Table
from cmd_common.schema import table as table_of
from cmd_common.symbols import nearest

from .columns import from_server, needed_columns, sort_unique
from .complete import checked_in, only_complete
from .conf import Conf
from .merge import present
from .result import SqlResult, bind, check_reads, names_in
from .schema import VIEWS
from .sql import MissingTable, SqlClient, SqlError, literal, timestamp

if TYPE_CHECKING:
    import pyarrow as pa

    from cmd_common.orderbook import OrderBook

__all__ = ["QuestDBReader"]

_PAGE: Final = {"book_snapshots": 2_048, "aggregated_books": 2_048, "book_deltas": 32_768}
_PAGE_ROWS: Final = 131_072
_BATCH_ROWS: Final = 65_536
_MANY_SYMBOLS: Final = 500  # more are filtered here: a statement has to fit into a request line
_LAST: Final = 1 << 60
_MAX_TIME: Final = 9_214_646_400_000_000_000  # 2262-01-01, within what TIMESTAMP_NS holds


class QuestDBReader:
    """An ``IReader`` of a QuestDB server. Not thread-safe; it changes nothing in the store."""

    def __init__(self, location: str | Conf, *, wait: float = 60.0) -> None:
        """Connect; ``wait`` is how many seconds a read waits for the server to apply its log.

        Raises UsageError for a wrong location, ServerAway, AuthError, and StoreError without our tables.
        """
        self.conf = location if isinstance(location, Conf) else Conf.parse(location)
        self._wait = wait
        self._client = SqlClient(self.conf)
        self._closed = False
        try:
            if not self._present():
                raise StoreError(
                    f"there is no store at {self.conf.shown}: QuestDB has none of its tables",
                    hint="fill one with cmd-cli record or cmd-cli archive, or check table_prefix",
                )
        except BaseException:
            self._client.close()
            raise

    def _present(self) -> dict[str, int]:
        """Tables of the schema that the server has, with the rows that can be read."""
        names = {self.conf.table(t): t for t in TABLES}
        found = self._client.exec("SELECT table_name, table_row_count FROM tables()").rows
        return {names[name]: rows or 0 for name, rows in found if name in names}

    # Rows

    def tables(self) -> list[str]:
        """Tables that hold rows, in the schema's order."""
        self._check_open()
        found = self._present()
        self._applied(found)
        parts = [f"(SELECT '{t}' AS name FROM {self.conf.table(t)} WHERE {present(t)} LIMIT 1)" for t in found]
        held = set(self._client.exec(" UNION ALL ".join(parts)).column("name")) if parts else set()
        return [t for t in TABLES if t in held]

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

        Memory: one page of rows. Raises UnknownNameError, StoreError.
        """
        self._check_open()
        schema = table_of(table)
        names = list(schema.names) if columns is None else list(columns)
        for name in names:
            if name not in schema.names:
                raise UnknownNameError(f"column of {table}", name, nearest(name, schema.names))
        chosen = None if symbols is None else list(dict.fromkeys(symbols))
        check_incomplete(incomplete)
        if incomplete == "keep":
            return self._batches(schema, venue, chosen, start, end, names)
        import pyarrow as pa

        index = GapIndex.load(self, venue=venue, symbols=symbols)
        wanted = list(dict.fromkeys([*names, *needed(table)]))
        rows = self._batches(schema, venue, chosen, start, end, wanted)
        return sift_batches(index, table, rows, names, incomplete, lambda whole: pa.array(whole, pa.bool_()))

    def _batches(
        self,
        table: Table,
        venue: str | None,
        symbols: list[str] | None,
        start: int | None,
        end: int | None,
        names: list[str],
    ) -> Iterator[pa.RecordBatch]:
        self._applied([table.name])
        for data in self._pages(table, venue, symbols, start, end, names):
            yield from data.select(names).combine_chunks().to_batches(max_chunksize=_BATCH_ROWS)

    def _pages(
        self,
        table: Table,
        venue: str | None,
        symbols: list[str] | None,
        start: int | None,
        end: int | None,
        names: list[str],
    ) -> Iterator[pa.Table]:
        """Rows by time, with the columns needed for their order too."""
        column = symbol_column(table)
        if symbols is not None and not symbols:
            return
        conditions = [present(table.name)]
        if venue is not None and "venue" in table.names:
            conditions.append(f"venue = {literal(venue)}")
        here = symbols if symbols is not None and len(symbols) > _MANY_SYMBOLS else None
        if symbols is not None and here is None:
            conditions.append(f"{column} IN ({', '.join(map(literal, symbols))})")
        wanted = {*names, *needed_columns(table), *((column,) if here else ())}
        chosen = ", ".join(n for n in table.names if n in wanted)
        limit = _PAGE.get(table.name, _PAGE_ROWS)
        at, stop = max(start or 0, 0), min(_MAX_TIME if end is None else end, _MAX_TIME)
        while at < stop:
            data = self._page(table, chosen, [*conditions, *_between(table.time, at, stop)], limit)
            full = data.num_rows == limit
            if full:
                times = data.column(table.time)
                last = times[limit - 1].as_py()
                if last > times[0].as_py():
                    data = data.slice(0, _first(times, last))
                    at = last
                else:  # one stamp fills the page: all of its rows, however many there are
                    data = self._page(table, chosen, [*conditions, *_between(table.time, last, last + 1)], _LAST)
                    at = last + 1
            if here is not None:
                data = _only(data, column, here)
            if data.num_rows:
                yield sort_unique(table.name, data)
            if not full:
                return

    def _page(self, table: Table, columns: str, conditions: Iterable[str], limit: int) -> pa.Table:
        query = (
            f"SELECT {columns} FROM {self.conf.table(table.name)} WHERE {' AND '.join(conditions)} "
            f"ORDER BY {table.time} LIMIT {limit}"
        )
        try:
            return from_server(table.name, self._client.arrow(query))
        except MissingTable:
            raise StoreError(
                f"QuestDB at {self.conf.shown} has no table {self.conf.table(table.name)}",
                hint="create it with cmd-cli store migrate",
            ) from None

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
        schema = table_of(table)
        self._applied([table])
        conditions = [present(table), f"{symbol_column(schema)} = {literal(symbol)}"]
        if "venue" in schema.names:
            conditions.append(f"venue = {literal(venue)}")
        newest = self._client.value(
            f"SELECT {schema.time}::LONG FROM {self.conf.table(table)} WHERE {' AND '.join(conditions)} "
            f"ORDER BY {schema.time} DESC LIMIT 1"
        )
        if newest is None:
            return None
        last: Record | None = None
        for record in self.records(table, venue=venue, symbols=[symbol], start=int(newest)):
            last = record
        return last

    def book_at(self, venue: str, symbol: str, ts: int) -> OrderBook | None:
        """The order book as of ``ts``, rebuilt from the last snapshot and the deltas after it.

        None where there is no snapshot before ``ts``, where a gap that was not repaired lies between, or where
        updates belong to another epoch than the snapshot. Complexity: the updates since the snapshot.
        """
        from cmd_common.book_history import book_at

        self._check_open()
        return book_at(self, venue, symbol, ts)

    def sql(
        self, query: str, parameters: Mapping[str, object] | None = None, *, complete_only: bool = False
    ) -> SqlResult:
        """Run one reading statement in the server's own SQL; ``$name`` takes values from ``parameters``.

        Tables have the schema's names behind ``table_prefix``; there are the views candles_1m, 5m, 1h and 1d, too.
        Times come as int64 ns, sides of books as two lists, prices and quantities. A row that was deleted shows as its
        key with NULL in all other columns (``WHERE flags IS NOT NULL`` leaves it out). Nothing can be written. Raises
        UsageError with the server's words for a wrong query, StoreError when the server cannot answer. With
        ``complete_only`` the tables are without the rows inside open gaps; the views cannot be, and raise UsageError.
        """
        self._check_open()
        statement = bind(check_reads(query), parameters)
        if complete_only:
            statement = only_complete(statement, self.conf)
        self._applied(t for t in names_in(statement) if t in self._known)
        try:
            return SqlResult(self._client.exec(statement))
        except MissingTable as error:
            missing = next((n for n in names_in(query) if n in error.text.lower() and n not in self._known), "")
            near = nearest(missing, [self.conf.table(t) for t in (*TABLES, *VIEWS)]) if missing else ()
            raise UsageError(error.message, hint=f"did you mean {' or '.join(near)}?" if near else error.hint) from None
        except SqlError as error:
            if type(error) is not SqlError:
                raise
            raise UsageError(error.message, hint=error.hint) from None

    def left_out(self, query: str) -> int:
        """How many open intervals of the ledger ``complete_only`` leaves out of the tables that a query names."""
        self._check_open()
        named = checked_in(query, self.conf)
        return GapIndex.load(self).count(named) if named else 0

    @property
    def _known(self) -> frozenset[str]:
        return frozenset(self.conf.table(t).lower() for t in (*TABLES, *VIEWS))

    # The server

    def _applied(self, names: Iterable[str]) -> None:
        """Wait until what was committed to tables (names of the schema or of the server) can be read."""
        prefix = self.conf.table_prefix
        tables = {n if prefix and n.startswith(prefix) else self.conf.table(n) for n in names}
        if tables:
            self._client.wait_applied(tables, timeout=self._wait)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the reader of {self.conf.shown} is closed")

    def close(self) -> None:
        """Release; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def symbol_column(table: Table) -> str:
    """The column that tells instruments apart."""
    return "symbol" if "symbol" in table.names else "instrument"


def _between(time: str, start: int, end: int) -> list[str]:
    return [f"{time} >= {timestamp(start)}", f"{time} < {timestamp(end)}"]


def _first(times: Any, value: int) -> int:
    """Index of the first of rising times that is at least ``value``."""
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        if times[middle].as_py() < value:
            low = middle + 1
        else:
            high = middle
    return low


def _only(data: pa.Table, column: str, values: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    return data.filter(pc.is_in(data.column(column), value_set=pa.array(values, pa.string())))
