"""Arrow batches with the schema's columns out of what the server exports: types, sides of books, order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from cmd_common.schema import LEVEL_WIDTH, Column, Table
from cmd_common.schema import table as table_of

from .schema import UNKNOWN

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["arrow_schema", "from_server", "key_arrays", "key_of_row", "needed_columns", "rising", "sort_unique"]

_NATURAL: Final = frozenset({"trade_id"})
"""Ids that are text are ordered by length first, so that numbers stand in numeric order."""


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute


def _arrow_type(column: Column) -> pa.DataType:
    import pyarrow as pa

    types: dict[str, Callable[[], pa.DataType]] = {
        "int64": pa.int64,
        "int32": pa.int32,
        "float64": pa.float64,
        "string": pa.string,
        "bool": pa.bool_,
        **dict.fromkeys(LEVEL_WIDTH, lambda: pa.list_(pa.field("element", pa.float64(), nullable=True))),
    }
    return types[column.type]()


@cache
def arrow_schema(name: str) -> pa.Schema:
    """The Arrow schema of a table's batches: the schema module's columns in their order."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _arrow_type(c), nullable=c.nullable) for c in table_of(name).columns])


def needed_columns(table: Table) -> set[str]:
    """Columns without which rows cannot be ordered and told apart."""
    needed = {table.time, *table.key}
    if table.prefer is not None:
        needed.add(table.prefer[0])
    if "ts_recv" in table.names:
        needed.add("ts_recv")
    return needed


def from_server(name: str, data: pa.Table) -> pa.Table:
    """The server's columns, those of table ``name`` in the order of the schema, with the schema's types."""
    import pyarrow as pa

    columns: list[Any] = []
    fields: list[pa.Field[Any]] = []
    for column in table_of(name).columns:
        if column.name not in data.column_names:
            continue
        values = data.column(column.name)
        wanted = _arrow_type(column)
        if column.type in LEVEL_WIDTH:
            values = interleave(values, LEVEL_WIDTH[column.type])
        elif values.type != wanted:  # moments become int64 ns without loss
            values = values.cast(wanted)
        if column.name in UNKNOWN and values.null_count:
            values = _compute().fill_null(values, float("nan"))
        columns.append(values)
        fields.append(pa.field(column.name, wanted, nullable=True))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def interleave(column: Any, width: int) -> Any:
    """Turn ``width`` rows of n numbers (prices, quantities) into one list of n levels, for each row."""
    import numpy as np
    import pyarrow as pa

    pc = _compute()
    outer = column.combine_chunks() if hasattr(column, "chunks") else column
    if isinstance(outer, pa.ChunkedArray):  # without chunks
        outer = pa.concat_arrays(outer.chunks) if outer.num_chunks else pa.array([], column.type)
    inner = outer.flatten()
    values = inner.flatten().to_numpy(zero_copy_only=False)
    heights = pc.fill_null(pc.list_value_length(outer), 0).to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(inner).to_numpy(zero_copy_only=False)
    levels = np.zeros(len(heights), np.int64)
    filled = heights > 0
    levels[filled] = lengths[(np.cumsum(heights) - heights)[filled]]
    sizes = levels * width
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    if total != len(values):
        raise ValueError(f"{len(values)} numbers in sides of {total}")
    starts = np.repeat(ends - sizes, sizes)
    within = np.arange(total) - starts
    flat = values[starts + (within % width) * np.repeat(levels, sizes) + within // width]
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    kind = pa.list_(pa.field("element", pa.float64(), nullable=True))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.float64()), type=kind)


def key_arrays(table: Table, data: pa.Table) -> list[Any]:
    """The columns by which rows are ordered, the table's time first; ids that are text come after their length."""
    import pyarrow as pa

    pc = _compute()
    arrays: list[Any] = []
    for name in (table.time, *(c for c in table.key if c != table.time)):
        column = data.column(name)
        array = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
        if name in _NATURAL:
            arrays.append(pc.binary_length(array))
        arrays.append(array)
    return arrays


def rising(keys: Sequence[Any], n: int) -> bool:
    """Whether rows rise strictly by key."""
    pc = _compute()
    rises: Any = None
    for array in reversed(keys):  # less here, or equal here and rising in the rest
        a, b = array.slice(0, n - 1), array.slice(1)
        less = pc.less(a, b)
        rises = less if rises is None else pc.or_(less, pc.and_(pc.equal(a, b), rises))
    return bool(pc.all(rises).as_py())


def key_of_row(keys: Sequence[Any], row: int) -> tuple[Any, ...]:
    """The key of one row as a tuple that compares in stored order; Arrow orders text by its UTF-8 bytes."""
    values = (array[row].as_py() for array in keys)
    return tuple(v.encode() if isinstance(v, str) else v for v in values)


def sort_unique(name: str, data: pa.Table) -> pa.Table:
    """Sort rows by time and key and keep the preferred row of each key.

    The server stores each key once; 9.3.4 breaks that where a partition in Parquet form was written to again, and
    then the row that the schema prefers is given.
    """
    import pyarrow as pa

    pc = _compute()
    n = data.num_rows
    if n < 2:
        return data
    table = table_of(name)
    keys = key_arrays(table, data)
    if rising(keys, n):
        return data
    columns = {f"k{i}": array for i, array in enumerate(keys)}
    order = [(c, "ascending") for c in columns]
    if table.prefer is not None:
        column, values = table.prefer
        rank = pc.index_in(data.column(column), value_set=pa.array(values, pa.string()))
        columns["rank"] = pc.fill_null(rank, len(values))
        order.append(("rank", "ascending"))
    if "ts_recv" in table.names:
        columns["file"] = pc.cast(pc.is_null(data.column("ts_recv")), pa.int8())
        order.append(("file", "ascending"))
    indices = pc.sort_indices(pa.table(columns), sort_keys=order)
    repeated: Any = None
    for array in keys:
        taken = array.take(indices)
        same = pc.equal(taken.slice(0, n - 1), taken.slice(1))
        repeated = same if repeated is None else pc.and_(repeated, same)
    if pc.any(repeated).as_py():
        indices = indices.filter(pa.concat_arrays([pa.array([True]), pc.invert(repeated)]))
    return data.take(indices)
