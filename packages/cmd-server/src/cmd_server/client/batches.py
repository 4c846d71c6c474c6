"""Rows of one table as numpy arrays or Arrow record batches; needs numpy, or pyarrow for ``arrow``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from cmd_common.errors import CmdError, UnknownNameError
from cmd_common.records import RECORD_TYPES, Record
from cmd_common.schema import LEVEL_WIDTH
from cmd_common.schema import table as table_of
from cmd_common.symbols import nearest

from .events import Item, Message

if TYPE_CHECKING:
    import numpy
    import pyarrow

__all__ = ["Batch", "BatchBuilder"]

_NUMPY: Final = {"int64": "<i8", "int32": "<i4", "float64": "<f8", "bool": "?"}


class Batch:
    """Some records of one table, in the order of arrival; columns are those of ``docs/schema.md``."""

    def __init__(self, table: str, records: list[Record]) -> None:
        self.table = table
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} {self.table}>"

    def numpy(self) -> dict[str, numpy.ndarray[Any, Any]]:
        """The columns as arrays by name: numbers as int64, float64 and bool, text as objects.

        A book side is an array of objects, each a float64 array of one row a level: price and quantity (and the
        index of the venue in aggregated books), without a copy. A number that may be missing is an object, or None.
        """
        np = _need("numpy")
        found = {}
        for column in table_of(self.table).columns:
            values = [getattr(record, column.name) for record in self.records]
            width = LEVEL_WIDTH.get(column.type)
            if width is not None:
                sides = np.empty(len(values), dtype=object)
                for row, side in enumerate(values):
                    sides[row] = np.frombuffer(side, dtype="<f8").reshape(-1, width)
                found[column.name] = sides
            elif column.type == "string" or (column.nullable and None in values):
                found[column.name] = np.array(values, dtype=object)
            else:
                found[column.name] = np.array(values, dtype=_NUMPY[column.type])
        return found

    def arrow(self) -> pyarrow.RecordBatch:
        """The columns as one Arrow record batch."""
        pa = _need("pyarrow")
        types = {"int64": pa.int64(), "int32": pa.int32(), "float64": pa.float64(), "bool": pa.bool_()}
        arrays, fields = [], []
        for column in table_of(self.table).columns:
            values = [getattr(record, column.name) for record in self.records]
            if column.type in LEVEL_WIDTH:
                offsets, end = [0], 0
                for side in values:
                    end += len(side) // 8
                    offsets.append(end)
                flat = pa.Array.from_buffers(pa.float64(), end, [None, pa.py_buffer(b"".join(values))])
                array = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
            else:
                array = pa.array(values, types.get(column.type, pa.string()))
            arrays.append(array)
            fields.append(pa.field(column.name, array.type, nullable=column.nullable))
        batch: pyarrow.RecordBatch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        return batch


class BatchBuilder:
    """Collects records of one table until there are ``max_rows``, or the first is ``max_ns`` old.

    Raises UnknownNameError for a table that does not exist.
    """

    def __init__(self, table: str, max_rows: int, max_ns: int) -> None:
        if table not in RECORD_TYPES:
            raise UnknownNameError("table", table, nearest(table, RECORD_TYPES))
        if max_rows < 1:
            raise ValueError(f"a batch of {max_rows} rows holds nothing")
        self.table = table
        self.max_rows = max_rows
        self.max_ns = max_ns
        self._type = RECORD_TYPES[table]
        self._rows: list[Record] = []
        self._since = 0

    def add(self, items: Iterable[Item], now: int) -> list[Batch]:
        """Take what came; returns the batches that are full."""
        wanted = self._type
        rows = [item.record for item in items if isinstance(item, Message) and type(item.record) is wanted]
        if not rows:
            return []
        if not self._rows:
            self._since = now
        self._rows += rows
        full = []
        while len(self._rows) >= self.max_rows:
            full.append(Batch(self.table, self._rows[: self.max_rows]))
            self._rows = self._rows[self.max_rows :]
            self._since = now
        return full

    def due(self, now: int) -> int | None:
        """How many ns until the rows that wait must go out, at least 0; None: none wait."""
        return max(0, self._since + self.max_ns - now) if self._rows else None

    def take(self) -> Batch | None:
        """Take the rows that wait; None: there are none."""
        if not self._rows:
            return None
        batch = Batch(self.table, self._rows)
        self._rows = []
        return batch


def _need(name: str) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise CmdError(f"{name} is not installed", hint="pip install 'cmd-server[arrow]'") from None
