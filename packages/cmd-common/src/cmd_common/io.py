"""Writers and readers of records and Arrow batches, and how stores are opened by URL.

A store URL is ``SCHEME:LOCATION``, such as ``parquet:data``; schemes are entry points of the group
``cmd.stores``. Live paths write record objects, bulk paths Arrow batches: anything that has the Arrow
C interface (``__arrow_c_array__`` or ``__arrow_c_stream__``), so that this package needs no Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from msgspec import Struct

from .errors import UsageError
from .records import Record

if TYPE_CHECKING:
    from .commands import Reporter
    from .gaps import Incomplete
    from .orderbook import OrderBook

__all__ = [
    "ArrowBatch",
    "Finding",
    "IReader",
    "IWriter",
    "QueryResult",
    "Store",
    "StoreAdmin",
    "TableSize",
    "WriterCounters",
    "open_admin",
    "open_reader",
    "open_writer",
]


class ArrowBatch(Protocol):
    """A record batch or table of any Arrow implementation."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export as an Arrow C stream."""


class WriterCounters(Struct):
    """Counts since the writer was opened."""

    records: dict[str, int]  # accepted by table
    batches: int = 0
    flushes: int = 0
    files: int = 0
    bytes: int = 0


class IWriter(Protocol):
    """A sink of records. Rows with a key that is already there replace or leave the stored row by the
    schema's preference: writing the same thing twice changes nothing. Not thread-safe.
    """

    counters: WriterCounters

    def write(self, records: Sequence[Record]) -> None:
        """Accept records of any mix of tables; they are durable after the next ``flush``.

        Raises StoreError; what was flushed before stays.
        """

    def write_batch(self, table: str, batch: ArrowBatch) -> int:
        """Write rows with the schema's columns; returns the number of rows. Durable after ``flush``.

        Raises StoreError for columns or types that differ from the schema.
        """

    def flush(self) -> None:
        """Return when everything accepted so far is durable."""

    def close(self) -> None:
        """Flush and release; calling it again does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class QueryResult(Protocol):
    """Rows of a query."""

    @property
    def columns(self) -> Sequence[str]:
        """Column names."""

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Rows as tuples of Python values."""

    def to_arrow(self) -> Any:
        """The whole result as a pyarrow Table."""

    def to_polars(self) -> Any:
        """The whole result as a polars DataFrame; needs polars."""

    def to_pandas(self) -> Any:
        """The whole result as a pandas DataFrame; needs pandas."""


class IReader(Protocol):
    """Rows of a store. ``start`` is inclusive and ``end`` exclusive, in ns, of the table's time column.

    ``incomplete`` says what becomes of rows inside open gaps of the ledger (see ``cmd_common.gaps``): ``keep`` gives
    them like any other, ``drop`` leaves them out, ``mark`` adds a last column ``complete`` to batches.
    """

    def tables(self) -> list[str]:
        """Tables that hold rows."""

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
        """Yield records ordered by time and key, each key once; raises UsageError for ``incomplete="mark"``."""

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
    ) -> Iterator[Any]:
        """Yield Arrow record batches ordered by time and key, each key once."""

    def sql(
        self, query: str, parameters: Mapping[str, object] | None = None, *, complete_only: bool = False
    ) -> QueryResult:
        """Run SQL over the tables of the schema; raises UsageError with the engine's words.

        ``complete_only``: the tables are without the rows inside open gaps.
        """

    def left_out(self, query: str) -> int:
        """How many open intervals of the ledger ``complete_only`` leaves out of the tables that a query names."""

    def latest(self, table: str, *, venue: str, symbol: str) -> Record | None:
        """The newest record of one instrument."""

    def book_at(self, venue: str, symbol: str, ts: int) -> OrderBook | None:
        """The order book as of ``ts``, rebuilt from the last snapshot and the deltas after it; None
        where the stored updates do not chain up to that moment.
        """

    def close(self) -> None:
        """Release; calling it again does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Finding(Struct, frozen=True):
    """Something about a store that is wrong, or that will be; ``hint`` says what to do next."""

    severity: Literal["error", "warning"]
    kind: str  # a word for programs, such as suspended or disk
    where: str  # table, view, file or setting
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.hint}" if self.hint else "")


class TableSize(Struct, frozen=True):
    """What a table holds: ``start`` and ``end`` are the first and last time in ns, 0 where it has no rows."""

    rows: int
    bytes: int  # on disk
    start: int
    end: int
    streams: int  # instruments (and intervals, for candles)


class StoreAdmin(Protocol):
    """Looking after a store: its schema, health, copies and size.

    What a kind of store does not have raises UsageError that says what to do instead. A mapping that is returned is
    a summary for people and, as JSON, for programs.
    """

    def status(self) -> Mapping[str, Any]:
        """What the store is and holds; ``problems`` lists where its schema differs."""

    def check(self, *, repair: bool, full: bool, reporter: Reporter) -> Sequence[Finding]:
        """Look for what is wrong: empty when all is well. ``repair`` mends what can be mended without losing rows;
        ``full`` looks at every row where that takes long.
        """

    def migrate(self, *, dry_run: bool, reporter: Reporter) -> Mapping[str, Any]:
        """Lead the schema to the version of this program."""

    def backup(self, target: str, *, keep: int | None, reporter: Reporter) -> Mapping[str, Any]:
        """Make a consistent copy in a new folder below ``target`` while rows are written; with ``keep`` the newest so
        many copies stay and older ones are removed.
        """

    def restore(self, source: str, target: str, *, force: bool, reporter: Reporter) -> Mapping[str, Any]:
        """Make a store at ``target`` from a copy; ``force`` moves aside what is there."""

    def convert(
        self, tables: Sequence[str], *, older: int, back: bool, dry_run: bool, reporter: Reporter
    ) -> Mapping[str, Any]:
        """Give rows that ended ``older`` ns ago their dense form; ``back`` undoes it."""

    def sizes(self) -> Mapping[str, TableSize]:
        """What each table holds."""

    def close(self) -> None:
        """Release; calling it again does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """A kind of store; an entry point of ``cmd.stores`` names an object that satisfies this."""

    def writer(self, location: str) -> IWriter:
        """Open for writing, creating it where it is absent; raises StoreError."""

    def reader(self, location: str) -> IReader:
        """Open for reading; raises StoreError where there is no store."""

    def admin(self, location: str) -> StoreAdmin:
        """Open for looking after it; it may be damaged, of another version, or not there yet."""


def _split(url: str) -> tuple[Store, str]:
    from .registry import store

    scheme, colon, location = url.partition(":")
    if not colon or not location:
        raise UsageError(f"store {url!r} has no location", hint="write it as parquet:PATH")
    return store(scheme), location


def open_writer(url: str) -> IWriter:
    """Open a store for writing by its URL, such as ``parquet:data``.

    Raises UsageError for a malformed URL, UnknownNameError for a scheme, StoreError by the store.
    """
    kind, location = _split(url)
    return kind.writer(location)


def open_reader(url: str) -> IReader:
    """Open a store for reading by its URL; raises as ``open_writer``."""
    kind, location = _split(url)
    return kind.reader(location)


def open_admin(url: str) -> StoreAdmin:
    """Open a store for looking after it by its URL; raises as ``open_writer``, UsageError where it has no such thing."""
    kind, location = _split(url)
    if not hasattr(kind, "admin"):
        raise UsageError(f"a store of kind {url.partition(':')[0]} has nothing to look after")
    return kind.admin(location)
