"""Order and uniqueness: sorting by key, choosing among equal keys, and merging sorted sources.

Theory of operation. Every file of the store is sorted by its table's key and holds each key once. Rows
of one key always share the table's time, so merging needs only to look at rows of equal times: sources
(files, journal rows) are read in batches, and everything before the earliest time that an unread batch
could still contain is complete. It is concatenated, sorted by key and by preference, and of each key the
first row stays. Sources whose time ranges do not touch are never in memory together.

Preference among rows of one key (``cmd_common.schema``): the schema's ``prefer`` column, then a row with
a receive time before one without, then the row written last.

Ids that are text are ordered by length first, so that numbers stand in numeric order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cmd_common.schema import Table
from cmd_common.schema import table as table_of

from .columns import ORDER
from .lazy import compute

if TYPE_CHECKING:
    import pyarrow as pa

    from .lazy import Array

__all__ = ["Source", "key_of_row", "merge", "needed_columns", "rechunk", "sort_unique", "sorted_and_unique"]

_NATURAL: Final = frozenset({"trade_id"})
_BATCH_TARGET: Final = 131_072


class _Key(NamedTuple):
    column: str
    natural: bool


@cache
def _keys(name: str, *, inside: bool) -> tuple[_Key, ...]:
    """Key columns in sort order; ``inside`` one partition venue and symbol are constant and left out."""
    table = table_of(name)
    skip = {"venue", "symbol", "instrument"} if inside else set()
    rest = [c for c in table.key if c != table.time and c not in skip]
    return tuple(_Key(c, c in _NATURAL) for c in (table.time, *rest))


def needed_columns(table: Table) -> set[str]:
    """Columns without which rows cannot be ordered and told apart."""
    needed = {table.time, *table.key}
    if table.prefer is not None:
        needed.add(table.prefer[0])
    if "ts_recv" in table.names:
        needed.add("ts_recv")
    return needed


def _flat(column: Any) -> Any:
    """One array of a column's chunks."""
    import pyarrow as pa

    chunks = getattr(column, "chunks", None)
    if chunks is None:
        return column
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks) if chunks else pa.array([], column.type)


def _key_arrays(name: str, data: pa.Table, *, inside: bool) -> list[Array]:
    pc = compute()

    arrays: list[Array] = []
    for key in _keys(name, inside=inside):
        column = _flat(data.column(key.column))
        if key.natural:
            arrays.append(pc.binary_length(column))
        arrays.append(column)
    return arrays


def sorted_and_unique(name: str, data: pa.Table, *, inside: bool) -> bool:
    """Whether rows rise strictly by key."""
    pc = compute()

    n = data.num_rows
    if n < 2:
        return True
    # From the last key column to the first: less here, or equal here and rising in the rest.
    rising: Array | None = None
    for array in reversed(_key_arrays(name, data, inside=inside)):
        a, b = array.slice(0, n - 1), array.slice(1)
        less = pc.less(a, b)
        rising = less if rising is None else pc.or_(less, pc.and_(pc.equal(a, b), rising))
    return bool(pc.all(rising).as_py())


def sort_unique(name: str, data: pa.Table, *, inside: bool) -> pa.Table:
    """Sort rows by key and keep the preferred row of each key. ``data`` carries ``_order``."""
    import pyarrow as pa

    pc = compute()

    if sorted_and_unique(name, data, inside=inside):
        return data
    data = data.combine_chunks()
    table = table_of(name)
    keys = _key_arrays(name, data, inside=inside)
    columns = {f"k{i}": array for i, array in enumerate(keys)}
    order: list[tuple[str, str]] = [(c, "ascending") for c in columns]
    if table.prefer is not None:
        column, values = table.prefer
        rank = pc.index_in(_flat(data.column(column)), value_set=pa.array(values, pa.string()))
        columns["rank"] = pc.fill_null(rank, len(values))
        order.append(("rank", "ascending"))
    if "ts_recv" in table.names:
        columns["file"] = pc.cast(pc.is_null(_flat(data.column("ts_recv"))), pa.int8())
        order.append(("file", "ascending"))
    columns[ORDER] = _flat(data.column(ORDER))
    order.append((ORDER, "descending"))
    indices = pc.sort_indices(pa.table(columns), sort_keys=order)
    n = data.num_rows
    repeated: Array | None = None
    for array in keys:
        taken = array.take(indices)
        same = pc.equal(taken.slice(0, n - 1), taken.slice(1))
        repeated = same if repeated is None else pc.and_(repeated, same)
    if repeated is not None and pc.any(repeated).as_py():
        keep = pa.concat_arrays([pa.array([True]), pc.invert(repeated)])
        indices = indices.filter(keep)
    return data.take(indices)


def key_of_row(name: str, data: pa.Table, index: int, *, inside: bool = True) -> tuple[Any, ...]:
    """The key of one row (inside its partition), as a tuple that compares in stored order."""
    out: list[Any] = []
    for key in _keys(name, inside=inside):
        value = data.column(key.column)[index].as_py()
        if key.natural:
            out.append(len(value.encode()))
        # Arrow orders text by its UTF-8 bytes
        out.append(value.encode() if isinstance(value, str) else value)
    return tuple(out)


class Source(NamedTuple):
    """Rows sorted by key, each key once; ``open`` yields tables with the columns asked for and ``_order``."""

    min_time: int
    open: Callable[[], Iterator[pa.Table]]


class _Active:
    """An opened source with its unread rows."""

    __slots__ = ("batches", "data", "done", "last", "time")

    def __init__(self, source: Source, time: str) -> None:
        self.batches = source.open()
        self.time = time
        self.data: pa.Table | None = None
        self.last = 0
        self.done = False
        self.fill()

    def fill(self) -> None:
        """Read one more batch behind what is left."""
        import pyarrow as pa

        for batch in self.batches:
            if batch.num_rows:
                self.data = batch if self.data is None else pa.concat_tables([self.data, batch])
                self.last = self.data.column(self.time)[self.data.num_rows - 1].as_py()
                return
        self.done = True

    def take_before(self, bound: int | None) -> pa.Table | None:
        """Take the rows with times before ``bound`` (None: all)."""
        data = self.data
        if data is None:
            return None
        if bound is None or self.last < bound:
            self.data = None
            return data
        times = data.column(self.time)
        low, high = 0, data.num_rows
        while low < high:
            middle = (low + high) // 2
            if times[middle].as_py() < bound:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return None
        self.data = data.slice(low)
        return data.slice(0, low)


def merge(name: str, sources: Iterable[Source], *, inside: bool) -> Iterator[pa.Table]:
    """Merge sources into tables ordered by key, each key once.

    ``inside``: all sources are of one partition. Memory: the batches of the sources whose times overlap.
    """
    import pyarrow as pa

    time = table_of(name).time
    waiting = sorted(sources, key=lambda s: s.min_time, reverse=True)  # the earliest last
    active: list[_Active] = []
    while waiting or active:
        if not active:
            active.append(_Active(waiting.pop(), time))
        for source in active:
            if source.data is None and not source.done:
                source.fill()
        active = [s for s in active if s.data is not None]
        if not active:
            continue
        if len(active) == 1 and not (waiting and waiting[-1].min_time <= active[0].last):
            whole, active[0].data = active[0].data, None  # nobody else has rows of these times
            if whole is not None:
                yield whole
            continue
        bounds = [s.last for s in active if not s.done]
        bound = min(bounds, default=None)
        if waiting and (bound is None or waiting[-1].min_time <= bound):
            bound = waiting[-1].min_time
        parts = [p for p in (s.take_before(bound) for s in active) if p is not None]
        if parts:
            if len(parts) == 1:
                yield parts[0]
            else:
                yield sort_unique(name, pa.concat_tables(parts).combine_chunks(), inside=inside)
            continue
        # Nothing is complete before the bound: open what waits there, or read on where rows end at it.
        if waiting and waiting[-1].min_time == bound:
            while waiting and waiting[-1].min_time == bound:
                active.append(_Active(waiting.pop(), time))
        else:
            for source in active:
                if not source.done and source.last == bound:
                    source.fill()


def rechunk(tables: Iterable[pa.Table], rows: int = _BATCH_TARGET, size: int = 32 << 20) -> Iterator[pa.Table]:
    """Collect small tables into ones of about ``rows`` rows or ``size`` bytes, and cut large ones."""
    import pyarrow as pa

    held: list[pa.Table] = []
    count = nbytes = 0
    for data in tables:
        if not data.num_rows:
            continue
        per_row = max(data.nbytes // data.num_rows, 1)
        step = max(min(rows, size // per_row), 1)
        for start in range(0, data.num_rows, step):
            piece = data.slice(start, step)
            if held and (count + piece.num_rows > rows or nbytes + per_row * piece.num_rows > size):
                yield pa.concat_tables(held).combine_chunks()
                held, count, nbytes = [], 0, 0
            held.append(piece)
            count += piece.num_rows
            nbytes += per_row * piece.num_rows
    if held:
        yield pa.concat_tables(held).combine_chunks()
