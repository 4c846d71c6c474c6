"""Records out of Arrow batches with the schema's columns; it calls the batches' own methods and needs no Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

from .records import RECORD_TYPES, Record
from .schema import LEVEL_WIDTH
from .schema import table as table_of

__all__ = ["to_records"]


def _sides(array: Any) -> Iterator[bytes]:
    """The packed bytes of each list."""
    values = array.values
    buffer = values.buffers()[1]
    data = memoryview(b"") if buffer is None else memoryview(buffer).cast("B")
    base = values.offset
    for start, end in pairwise(array.offsets.to_pylist()):
        yield bytes(data[(base + start) * 8 : (base + end) * 8])


def to_records(name: str, batch: Any) -> Iterator[Record]:
    """Records of a pyarrow batch or table of table ``name``; a receive time that is null becomes 0."""
    cls = cast("Callable[..., Record]", RECORD_TYPES[name])
    table = table_of(name)
    columns: list[Iterator[Any] | list[Any]] = []
    for column in table.columns:
        data = batch.column(column.name)
        chunks = data.chunks if hasattr(data, "chunks") else [data]
        values: list[Any] = []
        for chunk in chunks:
            values += _sides(chunk) if column.type in LEVEL_WIDTH else chunk.to_pylist()
        if column.name == "ts_recv":
            values = [v or 0 for v in values]
        columns.append(values)
    fields = RECORD_TYPES[name].__struct_fields__
    if fields == table.names:
        for row in zip(*columns, strict=True):
            yield cls(*row)
    else:
        for row in zip(*columns, strict=True):
            yield cls(**dict(zip(table.names, row, strict=True)))
