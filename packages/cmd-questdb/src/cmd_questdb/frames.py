"""Records and Arrow batches on their way to the server: checked, cut into chunks, and made into frames.

A batch has the schema's columns in the schema's types (``columns.arrow_schema``); a frame is the pandas DataFrame
that the client encodes: times as datetime64[ns], text as Arrow strings, sides of a book as arrays of two rows.

What QuestDB cannot tell from NULL is found here and never sent: NaN (but where it says that an exchange does not
tell, which is NULL in the table) and infinities, the least int64 and int32.
Neither is a time before 1970, which the client refuses; a NUL character, which breaks the server's JSON; or a time
of the designated column that is more than ``AHEAD`` ahead of the clocks here and of the server: one row far in the
future makes all that follows out of order, and cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, cast

import msgspec

from cmd_common.errors import StoreError
from cmd_common.records import RECORD_TYPES, Record
from cmd_common.schema import LEVEL_WIDTH
from cmd_common.schema import table as table_of

from .columns import arrow_schema
from .schema import EXTRA, INT_NULL, LONG_NULL, TIMES, UNKNOWN, column_types

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "AHEAD",
    "LATEST",
    "Fault",
    "Frame",
    "check_batch",
    "cut",
    "faults",
    "frame",
    "regroup",
    "rows",
    "to_batch",
    "tombstones",
]

AHEAD: Final = 86_400_000_000_000  # ns that a row may be ahead of the clocks
LATEST: Final = 9_190_000_000_000_000_000  # ns, in the year 2261: TIMESTAMP_NS ends in 2262
_CHUNK_BYTES: Final = 16 << 20  # of Arrow; the client's buffer takes 100 MiB of text

_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_INT32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_PYTHON: Final[dict[str, Any]] = {
    "int64": _INT64,
    "int32": _INT32,
    "float64": float,
    "string": str,
    "bool": bool,
    **dict.fromkeys(LEVEL_WIDTH, bytes),
}
_ENCODER: Final = msgspec.msgpack.Encoder()


def compute() -> Any:
    """pyarrow.compute, whose stubs know less than it does."""
    import pyarrow.compute

    return pyarrow.compute


class Fault(NamedTuple):
    """A row that QuestDB cannot hold."""

    row: int
    column: str
    reason: str


class Frame(NamedTuple):
    """What a transport sends: all rows of one table in one transaction."""

    data: Any  # a pandas DataFrame
    symbols: list[str]
    at: str


@cache
def _getter(name: str) -> Callable[[Record], tuple[Any, ...]]:
    """A function from a record to its row in column order."""
    names = table_of(name).names
    if RECORD_TYPES[name].__struct_fields__ == names:
        return cast("Callable[[Record], tuple[Any, ...]]", msgspec.structs.astuple)
    return cast("Callable[[Record], tuple[Any, ...]]", attrgetter(*names))


@cache
def _row_type(name: str) -> Any:
    types = tuple(_PYTHON[c.type] | None if c.nullable else _PYTHON[c.type] for c in table_of(name).columns)
    return list[tuple[types]]  # type: ignore[valid-type]


@cache
def _sides(name: str) -> tuple[tuple[int, str, int], ...]:
    """Position, name and bytes a level of the columns that hold packed sides of a book."""
    columns = enumerate(table_of(name).columns)
    return tuple((i, c.name, 8 * LEVEL_WIDTH[c.type]) for i, c in columns if c.type in LEVEL_WIDTH)


def rows(name: str, records: Sequence[Record]) -> list[tuple[Any, ...]]:
    """Records of one table as rows; raises StoreError for one that does not have the schema's types."""
    found = list(map(_getter(name), records))
    try:
        msgspec.convert(found, _row_type(name), strict=True)
        _ENCODER.encode(found)  # text that is no UTF-8
    except (msgspec.ValidationError, msgspec.EncodeError, TypeError, OverflowError, UnicodeError) as error:
        raise StoreError(f"record for table {name} does not fit the schema: {error}") from error
    for position, column, width in _sides(name):
        if any(len(row[position]) % width for row in found):
            raise StoreError(f"record for table {name} does not fit the schema: {column} is not whole levels")
    return found


def to_batch(name: str, found: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Checked rows as a batch. A receive time of 0 means that there is none, and becomes null."""
    import pyarrow as pa

    schema = arrow_schema(name)
    if not found:
        return schema.empty_table()
    arrays: list[Any] = []
    for field, column, values in zip(schema, table_of(name).columns, zip(*found, strict=True), strict=True):
        if column.type in LEVEL_WIDTH:
            arrays.append(_levels(values))
        elif column.name == "ts_recv":
            arrays.append(pa.array([v or None for v in values], pa.int64()))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=_nullable(name))


@cache
def _nullable(name: str) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([f.with_nullable(True) for f in arrow_schema(name)])


def _levels(sides: Sequence[bytes]) -> Any:
    import pyarrow as pa

    joined = b"".join(sides)
    data = pa.allocate_buffer(len(joined))
    memoryview(data).cast("B")[:] = joined
    values = pa.Array.from_buffers(pa.float64(), data.size // 8, [None, data])
    offsets = pa.array([0, *accumulate(len(s) // 8 for s in sides)], pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(pa.field("element", pa.float64(), nullable=True)))


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
    return False


def check_schema(name: str, schema: pa.Schema) -> None:
    """Compare the columns of a batch with the schema; raises StoreError that names the first difference."""
    wanted = arrow_schema(name)
    missing = [n for n in wanted.names if n not in schema.names]
    unknown = [n for n in schema.names if n not in wanted.names]
    if missing or unknown or len(schema.names) != len(wanted.names):
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise StoreError(
            f"batch for table {name} {' and '.join(parts) or 'repeats a column'}",
            hint=f"the columns are {', '.join(wanted.names)}",
        )
    for field in wanted:
        given = schema.field(field.name).type
        if not _same_kind(given, field.type, field.nullable):
            raise StoreError(f"column {field.name} of a batch for table {name} is {given}, not {field.type}")


def check_batch(name: str, batch: pa.RecordBatch | pa.Table) -> pa.Table:
    """Return a batch with exactly the schema's columns and types; raises StoreError for nulls and odd sides."""
    import pyarrow as pa

    pc = compute()

    source = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    check_schema(name, source.schema)
    arrays = []
    for column, field in zip(table_of(name).columns, arrow_schema(name), strict=True):
        data = source.column(field.name)
        if data.type != field.type:
            data = data.cast(field.type)
        if data.null_count and not column.nullable:
            raise StoreError(f"column {field.name} of a batch for table {name} holds nulls")
        if column.type in LEVEL_WIDTH and len(data):
            width = LEVEL_WIDTH[column.type]
            lengths = pc.list_value_length(data).unique().to_pylist()
            if any(n % width for n in lengths) or compute().list_flatten(data).null_count:
                raise StoreError(f"column {field.name} of a batch for table {name} has a side that is not whole levels")
        arrays.append(data)
    return pa.Table.from_arrays(arrays, schema=_nullable(name))


def faults(name: str, data: pa.Table, latest: int = LATEST) -> list[Fault]:
    """The rows of a batch that must not be sent, each once; ``latest`` bounds the designated time."""
    import pyarrow as pa

    pc = compute()

    found: dict[int, Fault] = {}

    def note(column: str, bad: Any, reason: str) -> None:
        if pc.any(bad).as_py():
            for row in pc.indices_nonzero(pc.fill_null(bad, False)).to_pylist():
                found.setdefault(row, Fault(row, column, reason))

    if not data.num_rows:
        return []
    table = table_of(name)
    latest = min(latest, LATEST)
    for column in table.columns:
        values = data.column(column.name)
        kind = column.type
        if column.name in TIMES:
            limits = pc.min_max(values).as_py()
            if limits["min"] is None:
                continue
            if limits["min"] < 0:
                note(column.name, pc.less(values, 0), "a time before 1970")
            if column.name == table.time and limits["max"] > latest:
                reason = (
                    "a time after 2261"
                    if latest == LATEST
                    else "a time more than a day ahead of the clocks here and of the server"
                )
                note(column.name, pc.greater(values, latest), reason)
        elif kind in ("int64", "int32"):
            null = LONG_NULL if kind == "int64" else INT_NULL
            note(column.name, pc.equal(values, pa.scalar(null, values.type)), f"{null} is QuestDB's NULL")
        elif kind == "float64":
            bad = pc.is_inf(values) if column.name in UNKNOWN else pc.invert(pc.is_finite(values))
            note(column.name, bad, "not a finite number, which is QuestDB's NULL")
        elif kind == "string":
            if _may_hold_nul(values):
                note(column.name, pc.match_substring(values, "\0"), "text with a NUL character")
        elif kind in LEVEL_WIDTH:
            flat = pc.list_flatten(values)
            if len(flat) and not pc.all(pc.is_finite(flat)).as_py():
                parents = pc.list_parent_indices(values).filter(pc.invert(pc.is_finite(flat)))
                for row in set(parents.to_pylist()):
                    found.setdefault(row, Fault(row, column.name, "a level with a number that is not finite"))
    return [found[row] for row in sorted(found)]


def _may_hold_nul(column: Any) -> bool:
    """Whether there is a zero byte in the text of a column: far quicker than to search every value."""
    import numpy as np

    for chunk in column.chunks:
        _, offsets, text = chunk.buffers()
        if text is None or not len(chunk):
            continue
        ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        found = np.frombuffer(text, np.uint8)[ends[0] : ends[-1]]
        if len(found) and not found.min():
            return True
    return False


def cut(data: pa.Table, limit: int) -> Iterator[pa.Table]:
    """Cut a batch into chunks of at most ``limit`` rows, fewer where rows are large."""
    if not data.num_rows:
        return
    step = max(1, min(limit, _CHUNK_BYTES // max(1, data.nbytes // data.num_rows)))
    for start in range(0, data.num_rows, step):
        yield data.slice(start, step)


def regroup(pieces: Iterable[pa.Table], limit: int) -> Iterator[pa.Table]:
    """Put small pieces together, in their order, up to ``limit`` rows and the bytes of a chunk."""
    import pyarrow as pa

    held: list[pa.Table] = []
    many = size = 0
    for piece in pieces:
        if held and (many + piece.num_rows > limit or size + piece.nbytes > _CHUNK_BYTES):
            yield pa.concat_tables(held)
            held, many, size = [], 0, 0
        held.append(piece)
        many += piece.num_rows
        size += piece.nbytes
    if held:
        yield pa.concat_tables(held)


def frame(name: str, data: pa.Table) -> Frame:
    """Make the frame of a chunk."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    types = column_types(name)
    columns: dict[str, Any] = {}
    for column in table_of(name).columns:
        if column.name not in data.column_names:
            continue
        values = _one(data.column(column.name))
        kind = types[column.name]
        if kind == "TIMESTAMP_NS":
            columns[column.name] = values.cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False)
        elif kind in ("SYMBOL", "VARCHAR"):
            columns[column.name] = pd.array(values, dtype=pd.ArrowDtype(pa.string()))
        elif kind == "DOUBLE[][]":
            columns[column.name] = _sides_of(values, LEVEL_WIDTH[column.type])
        elif values.null_count:
            columns[column.name] = pd.array(values, dtype=pd.ArrowDtype(pa.int64()))
        else:
            array = values.to_numpy(zero_copy_only=False)
            columns[column.name] = array.astype(np.int64) if kind == "INT" else array
    for column_name, side in (("best_bid", "bids"), ("best_ask", "asks")):
        if column_name in EXTRA.get(name, {}) and side in columns:
            best = [s[0, 0] if s.size else np.nan for s in columns[side]]
            columns[column_name] = np.array(best, np.float64)
    symbols = [c for c in columns if types.get(c) == "SYMBOL"]
    return Frame(pd.DataFrame(columns, copy=False), symbols, table_of(name).time)


def tombstones(name: str, keys: pa.Table) -> pa.Table:
    """The chunk that replaces the rows of ``keys`` by their tombstones: all other columns are NULL."""
    return keys.select([c for c in table_of(name).names if c in table_of(name).key])


def _one(column: Any) -> Any:
    """One array of a column's chunks."""
    import pyarrow as pa

    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _sides_of(values: Any, width: int) -> Any:
    """Each list of levels as an array of ``width`` rows: prices, quantities and so on."""
    import numpy as np

    offsets = values.offsets.to_pylist()
    flat = values.values.to_numpy(zero_copy_only=False)
    out = np.empty(len(offsets) - 1, object)
    start = offsets[0]
    for i, end in enumerate(offsets[1:]):
        out[i] = flat[start:end].reshape(-1, width).T
        start = end
    return out
