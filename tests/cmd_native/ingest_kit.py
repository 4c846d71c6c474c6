"""Both ways through a published file, and what came out: the rows, or the words of the error."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cmd_archiver import parse
from cmd_archiver.parse import CsvFile
from cmd_common.archive import ArchiveFile, ArchiveSource, CsvColumn, CsvLayout
from cmd_common.errors import DataError

TYPES = {"i": "int64", "f": "float64", "b": "bool", "s": "string"}


class AnySource(ArchiveSource):
    """Files of any columns: ``ifbs`` is an integer, a number, a truth value and a text."""

    tables = ("trades",)

    def __init__(self, kinds: str, delimiter: str = ",") -> None:
        self.columns = tuple(CsvColumn(f"{kind}{n}", TYPES[kind]) for n, kind in enumerate(kinds))  # type: ignore[arg-type]
        self.delimiter = delimiter

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        return CsvLayout(self.columns, (), delimiter=self.delimiter)


def file_named(name: str) -> ArchiveFile:
    day = date(2024, 8, 8)
    return ArchiveFile("any", "trades", "X", "", "daily", day, day, "", "", "", name)


@contextmanager
def way(reader: Any) -> Iterator[None]:
    """Go one way: None is the pure one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "READER", reader)
        yield


def native(piece: int = 0, batch: int = 0) -> Any:
    """The native reader, with the sizes at which it cuts."""
    import cmd_native

    return partial(cmd_native.CsvReader, piece=piece, batch=batch)


def outcome(reader: Any, path: Path, source: ArchiveSource, file: ArchiveFile | None = None) -> pa.Table | str:
    """All rows of a file, or the error with its hint."""
    csv = CsvFile(path, file or file_named(path.name), source, None if file else (lambda names: names[0]))
    with way(reader):
        try:
            batches = list(csv.batches())
        except DataError as error:
            return f"{error} ({error.hint})"
    assert csv.layout is not None
    assert csv.rows == sum(batch.num_rows for batch in batches)
    # One that has no rows has no batch, either way.
    return pa.Table.from_batches(batches).combine_chunks() if batches else "no rows"


def same(reader: Any, path: Path, source: ArchiveSource, file: ArchiveFile | None = None) -> pa.Table | str:
    """The outcome, which is the same both ways, to the bit of every float."""
    pure = outcome(None, path, source, file)
    found = outcome(reader, path, source, file)
    if isinstance(pure, str) or isinstance(found, str):
        assert isinstance(found, str)
        assert found == pure
    else:
        found.validate(full=True)
        assert found.schema.equals(pure.schema)
        assert bits(found).equals(bits(pure))
    return found


def bits(table: pa.Table) -> pa.Table:
    """With the bits of floats instead of floats, so that -0.0 is not 0.0."""
    arrays = [
        pa.chunked_array(
            [pa.Array.from_buffers(pa.int64(), len(c), c.buffers(), offset=c.offset) for c in column.chunks]
        )
        if column.type == pa.float64() and column.num_chunks
        else column
        for column in table.columns
    ]
    return pa.table(arrays, names=table.schema.names)


def zipped(text: bytes, *, method: int = zipfile.ZIP_DEFLATED, name: str = "x.csv", level: int = 6) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method, compresslevel=level) as archive:
        archive.writestr(zipfile.ZipInfo(name, (2024, 8, 10, 0, 0, 0)), text, method, level)
    return data.getvalue()


def zip64(text: bytes) -> bytes:
    """A zip that writes down its sizes as very large ones are."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive, archive.open(zipfile.ZipInfo("x.csv"), "w", force_zip64=True) as member:
        member.write(text)
    return data.getvalue()


def forged(text: bytes, **promises: int) -> bytes:
    """A zip whose directory promises something else: ``crc``, ``size``, ``length``, ``method`` or ``flags``."""
    engine = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = engine.compress(text) + engine.flush()
    crc, size = promises.get("crc", zlib.crc32(text)), promises.get("size", len(text))
    length, method, flags = promises.get("length", len(body)), promises.get("method", 8), promises.get("flags", 0)
    facts = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 33, crc, length, size, 5, 0)
    local = b"PK\3\4" + facts + b"x.csv"
    central = b"PK\1\2" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + b"x.csv"
    offset = len(local) + len(body)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), offset, 0)
    return local + body + central + end
