"""The schema's tables in Arrow: types, rows to columns, columns to records, validation of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec

from cmd_common.arrow_rows import to_records
from cmd_common.errors import StoreError
from cmd_common.records import RECORD_TYPES, Record
from cmd_common.schema import LEVEL_WIDTH, SCHEMA_VERSION, Column
from cmd_common.schema import table as table_of

from .lazy import compute

if TYPE_CHECKING:
    import pyarrow as pa

    from .lazy import Array

__all__ = [
    "ORDER",
    "arrow_schema",
    "file_schema",
    "check_batch",
    "row_decoder",
    "row_getter",
    "rows_to_arrow",
    "side_columns",
    "to_records",
]

ORDER: Final = "_order"
"""Working column, never stored: when a row was written, so that of equal rows the later one stays."""

_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_INT32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_PYTHON: Final[dict[str, Any]] = {
    "int64": _INT64,
    "int32": _INT32,
    "float64": float,
    "string": str,
    "bool": bool,
    "levels": bytes,
    "venue_levels": bytes,
}


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


@cache
def file_schema(name: str) -> pa.Schema:
    """The schema of a table's Parquet files.

    venue and symbol are dictionaries of strings, as Arrow and pandas type the columns that they derive from the
    folder names; other types would clash when a whole folder is read.
    """
    import pyarrow as pa

    fields = [
        f.with_type(pa.dictionary(pa.int32(), pa.string())) if f.name in ("venue", "symbol") else f
        for f in arrow_schema(name)
    ]
    # Every field is nullable in files: a plain reader merges them with columns from folder names, which are.
    return pa.schema([f.with_nullable(True) for f in fields], {"cmd.table": name, "cmd.schema": str(SCHEMA_VERSION)})


@cache
def side_columns(name: str) -> tuple[tuple[int, str, int], ...]:
    """Position, name and bytes a level of the columns that hold packed sides of a book."""
    columns = enumerate(table_of(name).columns)
    return tuple((i, c.name, 8 * LEVEL_WIDTH[c.type]) for i, c in columns if c.type in LEVEL_WIDTH)


@cache
def row_getter(name: str) -> Callable[[Record], tuple[Any, ...]]:
    """A function from a record to its row in column order."""
    names = table_of(name).names
    if RECORD_TYPES[name].__struct_fields__ == names:
        return cast("Callable[[Record], tuple[Any, ...]]", msgspec.structs.astuple)
    return cast("Callable[[Record], tuple[Any, ...]]", attrgetter(*names))


@cache
def row_decoder(name: str) -> msgspec.msgpack.Decoder[tuple[int, str, list[tuple[Any, ...]]]]:
    """A strict decoder of journal payloads ``(order, table, rows)`` of one table."""
    types = tuple(_PYTHON[c.type] | None if c.nullable else _PYTHON[c.type] for c in table_of(name).columns)
    return msgspec.msgpack.Decoder(tuple[_INT64, str, list[tuple[types]]])  # type: ignore[valid-type]


def _levels(sides: Sequence[bytes]) -> Array:
    import pyarrow as pa

    joined = b"".join(sides)
    # Arrow's own memory: its threads may release a buffer after the interpreter has ended.
    data = pa.allocate_buffer(len(joined))
    memoryview(data).cast("B")[:] = joined
    values = pa.Array.from_buffers(pa.float64(), data.size // 8, [None, data])
    offsets = pa.array([0, *accumulate(len(s) // 8 for s in sides)], pa.int32())
    field = pa.field("element", pa.float64(), nullable=True)
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(field))


def rows_to_arrow(name: str, rows: Sequence[tuple[Any, ...]], orders: Sequence[int] | range) -> pa.Table:
    """Columns of checked rows, with the working column ``_order``.

    A receive time of 0 in a record means that there is none, and is stored as null.
    """
    import pyarrow as pa

    arrays: list[Array] = []
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(table_of(name).columns)
    for column, values in zip(table_of(name).columns, columns, strict=True):
        if column.type in LEVEL_WIDTH:
            arrays.append(_levels(values))
        elif column.name == "ts_recv":
            arrays.append(pa.array([v or None for v in values], pa.int64()))
        else:
            arrays.append(pa.array(values, _arrow_type(column)))
    arrays.append(pa.array(orders, pa.int64()))
    return pa.Table.from_arrays(arrays, [*table_of(name).names, ORDER])


def _same_kind(given: pa.DataType, wanted: pa.DataType, nullable: bool) -> bool:
    """Whether two types hold the same values in another Arrow encoding."""
    import pyarrow as pa

    if given == wanted:
        return True
    if pa.types.is_dictionary(given):
        given = given.value_type
    if nullable and pa.types.is_null(given):
        return True
    if pa.types.is_string(wanted):
        return pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given)
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(given) or pa.types.is_large_list(given) or pa.types.is_fixed_size_list(given)
        return is_list and cast("pa.ListType[Any]", given).value_type == pa.float64()
    return given == wanted


def check_schema(name: str, schema: pa.Schema) -> None:
    """Compare the columns of a batch with the schema; raises StoreError that names the first difference."""
    wanted = arrow_schema(name)
    missing = [n for n in wanted.names if n not in schema.names]
    extra = [n for n in schema.names if n not in wanted.names]
    if missing or extra or len(schema.names) != len(wanted.names):
        parts = []
        if missing:
            parts.append(f"lacks {', '.join(missing)}")
        if extra:
            parts.append(f"has unknown {', '.join(extra)}")
        raise StoreError(
            f"batch for table {name} {' and '.join(parts) or 'repeats a column'}",
            hint=f"the columns are {', '.join(wanted.names)}",
        )
    for field in wanted:
        given = schema.field(field.name).type
        if not _same_kind(given, field.type, field.nullable):
            raise StoreError(f"column {field.name} of a batch for table {name} is {given}, not {field.type}")


def _null_levels(column: Any) -> bool:
    return any(chunk.values.null_count for chunk in column.chunks)


def check_batch(name: str, batch: pa.RecordBatch | pa.Table) -> pa.Table:
    """Return a batch as a table of exactly the schema's columns; raises StoreError for nulls and odd sides."""
    import pyarrow as pa

    pc = compute()

    source = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    columns = []
    for column, field in zip(table_of(name).columns, arrow_schema(name), strict=True):
        data = source.column(field.name)
        if data.type != field.type:
            data = data.cast(field.type)
        if data.null_count and not column.nullable:
            raise StoreError(f"column {field.name} of a batch for table {name} holds nulls")
        if column.type in LEVEL_WIDTH and len(data):
            width = LEVEL_WIDTH[column.type]
            lengths = pc.list_value_length(data).unique().to_pylist()
            if any(n % width for n in lengths) or _null_levels(data):
                raise StoreError(f"column {field.name} of a batch for table {name} has a side that is not whole levels")
        columns.append(data)
    return pa.Table.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in arrow_schema(name)]))
