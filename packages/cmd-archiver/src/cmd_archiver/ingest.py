"""The native way from a published file to batches; ``parse`` and ``unpack`` are its pure twin and its specification.

Inflating, checking and parsing are one call a batch, without the interpreter's lock. What the native parser
does not surely know is never guessed: lines with an odd cell go to the pure parser, and a file with anything
wrong goes the pure way from its begin, which finds the words for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from cmd_common import _native
from cmd_common.archive import CsvLayout
from cmd_common.errors import DataError

from .unpack import Packed

__all__ = ["READER", "UndecidedError", "native_batches"]

READER: Final[Any] = None if _native.module is None else _native.module.CsvReader
"""The native reader; None where there is none or ``CMD_PURE`` forbids it."""

_BOM: Final = b"\xef\xbb\xbf"


class UndecidedError(Exception):
    """The native way cannot say what is right; nothing is wrong with the file because of that."""


def native_batches(
    path: Path,
    packed: Packed,
    look: Callable[[bytes], tuple[CsvLayout, bool]],
    odd: Callable[[bytes], Iterator[pa.RecordBatch]],
    reader: Any,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file; when they end, the file is proven whole.

    ``look`` tells the layout by the first line, and whether that is a header; ``odd`` parses whole lines.
    Raises UndecidedError for everything that is not surely right: the rows so far were, the rest is unknown.
    """
    try:
        rows = reader(path, packed.how, packed.offset, packed.length, packed.size, packed.crc)
        layout, header = look(rows.head())
        columns = [(column.name, column.type) for column in layout.columns]
        if layout.delimiter not in (",", ";", "|", "\t") or len(dict(columns)) < len(columns):
            raise UndecidedError
        rows.start(header, ord(layout.delimiter), columns)
        while (batch := rows.next()) is not None:
            if not isinstance(batch, bytes):
                yield pa.record_batch(batch)
            elif batch.startswith(_BOM):  # Arrow passes over it, but a file has it only at its begin
                raise UndecidedError
            else:
                yield from odd(batch)
    except (DataError, ValueError) as error:
        raise UndecidedError(str(error)) from None
