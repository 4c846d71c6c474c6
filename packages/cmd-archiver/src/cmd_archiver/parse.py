"""From a published zip to typed Arrow batches: streamed, CRC-checked, never an object a row.

The member is inflated in pieces of a few MiB, cut at line ends and parsed by Arrow's CSV reader,
so memory does not grow with the file. A file either parses to its end, with the CRC and size that
the zip's directory promises, or it is a DataError that names the file and the line.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv
from msgspec import structs

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvLayout, Derive
from cmd_common.errors import DataError, ProtocolError
from cmd_common.records import INEXACT, Gap
from cmd_common.schema import SCHEMA, Column

from ._arrow import pc, read_csv, repeat

__all__ = ["CsvFile", "arrow_schema", "derive", "gap_batch", "inflate", "to_ns"]

BLOCK: Final = 4 << 20  # bytes of text that are parsed at once
_READ: Final = 256 << 10  # compressed bytes read at once
_LINE_LIMIT: Final = 1 << 16  # no row of any known layout comes near it
_ROW: Final = re.compile(r"Row #(\d+): ")
_NUMBER: Final = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TYPES: Final[Mapping[str, pa.DataType]] = {
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "levels": pa.list_(pa.float64()),
}


def _codec() -> tuple[Any, Any, bool]:
    """Return (decompressobj, crc32, fast): ISA-L's where the extra ``fast`` is installed, else zlib's."""
    try:
        from isal import isal_zlib
    except ModuleNotFoundError as error:
        if error.name != "isal":
            raise
        return zlib.decompressobj, zlib.crc32, False
    fast: ModuleType = isal_zlib
    return fast.decompressobj, fast.crc32, True


_DECOMPRESS, _CRC32, FAST = _codec()


def inflate(path: Path, file: ArchiveFile, source: ArchiveSource) -> Iterator[bytes]:
    """Yield the text of the CSV inside a zip in pieces; at its end CRC and size have been checked.

    Raises DataError for anything that is not a whole zip with the expected member.
    """
    name = file.name
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise DataError(f"{name} is not a whole zip: {error}") from None
    try:
        info = infos[source.member(tuple(infos), file)]
    except ProtocolError as error:
        raise DataError(error.message, hint=error.hint) from None
    if info.flag_bits & 1:
        raise DataError(f"{name}: {info.filename} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name}: {info.filename} is packed by method {info.compress_type}, only deflate is known")
    stored = info.compress_type == zipfile.ZIP_STORED
    engine = None if stored else _DECOMPRESS(-15)
    crc, size, left = 0, 0, info.compress_size
    with path.open("rb", buffering=0) as raw:
        raw.seek(info.header_offset)
        head = raw.read(30)
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise DataError(f"{name} is not a whole zip: no local header for {info.filename}")
        name_length, extra_length = struct.unpack("<HH", head[26:30])
        raw.seek(name_length + extra_length, 1)
        pending = b""
        while True:
            if not pending and left:
                pending = raw.read(min(_READ, left))
                if not pending:
                    raise DataError(f"{name} is not a whole zip: {left} bytes of {info.filename} are missing")
                left -= len(pending)
            if engine is None:
                piece, pending = pending, b""
            else:
                try:
                    piece = engine.decompress(pending, BLOCK)
                except Exception as error:  # zlib.error and isal's own class have no common base
                    raise DataError(f"{name}: {info.filename} does not inflate after {size} bytes: {error}") from None
                pending = engine.unconsumed_tail
            crc = _CRC32(piece, crc)
            size += len(piece)
            if size > info.file_size:
                raise DataError(f"{name}: {info.filename} is larger than the {info.file_size} bytes that the zip says")
            if piece:
                yield piece
            if engine is None or engine.eof:
                if not left or engine is not None:
                    break
            elif not left and not pending and not piece:
                raise DataError(f"{name}: {info.filename} ends after {size} of {info.file_size} bytes")
    if size != info.file_size:
        raise DataError(f"{name}: {info.filename} has {size} bytes, the zip says {info.file_size}")
    if crc != info.CRC:
        raise DataError(f"{name}: {info.filename} has CRC {crc:08x}, the zip says {info.CRC:08x}")


class CsvFile:
    """One published file: its layout once the first line was seen, and its rows as raw batches."""

    def __init__(self, path: Path, file: ArchiveFile, source: ArchiveSource) -> None:
        self.path = path
        self.file = file
        self.layout: CsvLayout | None = None
        self.rows = 0
        self._source = source
        self._lines = 0  # lines before the block in hand, header included

    def _look(self, line: bytes) -> bool:
        """Choose the layout by the first line; returns whether that line is a header."""
        cells = line.rstrip(b"\r\n").split(b",")
        header = not _NUMBER.fullmatch(cells[0].strip())
        try:
            names = [cell.decode("utf-8") for cell in cells] if header else None
            self.layout = self._source.layout(self.file.table, names, len(cells))
        except UnicodeDecodeError:
            raise DataError(f"{self.file.name}, line 1: not text") from None
        except ProtocolError as error:
            raise DataError(f"{self.file.name}, line 1: {error.message}", hint=error.hint) from None
        return header

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield batches with the file's own columns; the file is proven whole when they end.

        Raises DataError. Memory is bounded by a few blocks, whatever the size of the file.
        """
        parts: list[bytes] = []
        held = 0
        for piece in inflate(self.path, self.file, self._source):
            parts.append(piece)
            held += len(piece)
            if held < BLOCK:
                continue
            rest: list[bytes] = []  # what follows the last line end, usually less than a line
            while parts:
                last = parts.pop()
                cut = last.rfind(b"\n") + 1
                if cut:
                    parts.append(last[:cut])
                    rest.append(last[cut:])
                    break
                rest.append(last)
            held = sum(map(len, rest))
            if held > _LINE_LIMIT:
                raise DataError(f"{self.file.name}: a line after line {self._lines} is longer than {_LINE_LIMIT} bytes")
            whole, parts = parts, [b"".join(reversed(rest))]
            yield from self._parse(whole)
        yield from self._parse(parts)
        if self.layout is None:
            raise DataError(f"{self.file.name} holds no rows")

    def _parse(self, parts: list[bytes]) -> Iterator[pa.RecordBatch]:
        if self.layout is None and any(parts):
            text = b"".join(parts)
            newline = text.find(b"\n", 0, _LINE_LIMIT)
            first = text[: newline if newline >= 0 else len(text)]
            if len(first) > _LINE_LIMIT:
                raise DataError(f"{self.file.name}, line 1: longer than {_LINE_LIMIT} bytes")
            if self._look(first):
                text = text[newline + 1 :] if newline >= 0 else b""
                self._lines = 1
            parts = [text]
        size = sum(map(len, parts))
        if not size:
            return
        # Arrow's own memory: a Python buffer would be released by Arrow's threads, which need the
        # interpreter for it and abort the process when that happens while it exits.
        block = pa.allocate_buffer(size)
        view, at = memoryview(block).cast("B"), 0
        for part in parts:
            view[at : at + len(part)] = part
            at += len(part)
        view.release()
        parts.clear()
        layout = self.layout
        assert layout is not None
        try:
            table = self._read(block, layout, threads=True)
        except pa.ArrowInvalid:
            raise self._explain(block, layout) from None
        for column in layout.columns:
            if column.type == "float64" and not pc.all(pc.is_finite(table[column.name])).as_py():
                raise self._bad_value(table[column.name], column.name)
        self._lines += table.num_rows
        self.rows += table.num_rows
        yield from table.to_batches()

    @staticmethod
    def _read(block: pa.Buffer, layout: CsvLayout, *, threads: bool) -> pa.Table:
        table: pa.Table = read_csv(
            pa.BufferReader(block),
            read_options=pacsv.ReadOptions(
                column_names=[c.name for c in layout.columns], use_threads=threads, block_size=1 << 20
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=layout.delimiter, quote_char=False, newlines_in_values=False, ignore_empty_lines=False
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={c.name: _TYPES[c.type] for c in layout.columns},
                null_values=[],
                true_values=["true", "True", "TRUE"],
                false_values=["false", "False", "FALSE"],
                strings_can_be_null=False,
            ),
        )
        return table

    def _explain(self, block: pa.Buffer, layout: CsvLayout) -> DataError:
        """Say which line is bad: Arrow numbers rows only when it reads with one thread."""
        try:
            self._read(block, layout, threads=False)
        except pa.ArrowInvalid as error:
            words = str(error)
            match = _ROW.search(words)
            if match:
                line = self._lines + int(match[1])
                return DataError(f"{self.file.name}, line {line}: {_ROW.sub('', words).strip()[:200]}")
            return DataError(f"{self.file.name}, after line {self._lines}: {words.strip()[:200]}")
        return DataError(f"{self.file.name}, after line {self._lines}: cannot be parsed")

    def _bad_value(self, column: Any, name: str) -> DataError:
        row = pc.index(pc.is_finite(column), False).as_py()
        return DataError(
            f"{self.file.name}, line {self._lines + row + 1}: {name} is {column[row].as_py()}, not a number"
        )


def to_ns(values: Any, *, add: int = 0) -> Any:
    """Turn instants of any unit into ns; the unit (s, ms, us, ns) of each value follows from its size.

    ``add`` units of the file are added first. Below 10^11 seconds, below 10^14 ms, below 10^17 us.
    Raises DataError for instants before 1970.
    """
    if len(values) == 0:
        return values
    bounds: dict[str, int] = pc.min_max(values).as_py()
    low, high = bounds["min"], bounds["max"]
    if low <= 0:
        raise DataError(f"{low} is not a time")
    factors: Any = _scale(low)
    if factors != _scale(high):
        factors = pc.if_else(
            pc.less(values, 10**14),
            pc.if_else(pc.less(values, 10**11), 10**9, 10**6),
            pc.if_else(pc.less(values, 10**17), 10**3, 1),
        )
    try:
        return pc.multiply_checked(pc.add_checked(values, add) if add else values, factors)
    except pa.ArrowInvalid:
        raise DataError(f"{high} is not a time") from None


def _scale(value: int) -> int:
    if value < 10**14:
        return 10**9 if value < 10**11 else 10**6
    return 10**3 if value < 10**17 else 1


def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of one table of ``cmd_common.schema``."""
    return pa.schema([pa.field(c.name, _TYPES[c.type], nullable=c.nullable) for c in SCHEMA[table].columns])


def gap_batch(gaps: Sequence[Gap]) -> pa.RecordBatch:
    """Gap rows as one Arrow batch."""
    schema = arrow_schema("gaps")
    return pa.RecordBatch.from_pylist([structs.asdict(gap) for gap in gaps], schema=schema)


def _inexact(values: Any) -> Any | None:
    """Mask of values whose text had more than 15 significant digits; None when there is none.

    Published numbers have at most 8 decimals, so only values from 10^7 on can have so many; of
    those, the shortest text that gives the float back tells the digits.
    """
    suspects = pc.and_(pc.greater_equal(pc.abs(values), 1e7), pc.not_equal(values, pc.floor(values)))
    if not pc.any(suspects).as_py():
        return None
    texts = pc.cast(pc.if_else(suspects, values, 0.0), pa.string())
    return pc.greater(pc.binary_length(pc.replace_substring_regex(texts, r"[-.]|e.*", "")), 15)


def derive(batch: pa.RecordBatch, layout: CsvLayout, file: ArchiveFile) -> pa.RecordBatch:
    """Make a batch with the schema's columns from one with the file's columns.

    ``ts_recv`` is null, as in every row that came from a file. Raises DataError for impossible times.
    """
    table = SCHEMA[file.table]
    rules = {rule.target: rule for rule in layout.derive}
    fixed: dict[str, object] = {"venue": file.venue, "symbol": file.symbol, "interval": file.interval, "ts_recv": None}
    columns: list[Any] = []
    mask: Any = None
    for column in table.columns:
        kind = _TYPES[column.type]
        if column.name == "flags":
            columns.append(None)
            continue
        if (rule := rules.get(column.name)) is not None:
            values = _apply(rule, batch, kind, file)
        elif column.name in fixed:
            values = repeat(pa.scalar(fixed[column.name], kind), batch.num_rows)
        else:
            raise ProtocolError(f"the layout of {file.name} does not say where {column.name} comes from")
        if column.type == "float64" and (found := _inexact(values)) is not None:
            mask = found if mask is None else pc.or_(mask, found)
        columns.append(values)
    flags = repeat(pa.scalar(0, pa.int32()), batch.num_rows)
    if mask is not None:
        flags = pc.if_else(mask, pa.scalar(INEXACT, pa.int32()), flags)
    columns[_index(table.columns, "flags")] = flags
    return pa.RecordBatch.from_arrays(columns, schema=arrow_schema(file.table))


def _index(columns: tuple[Column, ...], name: str) -> int:
    return next(i for i, c in enumerate(columns) if c.name == name)


def _apply(rule: Derive, batch: pa.RecordBatch, kind: pa.DataType, file: ArchiveFile) -> Any:
    if rule.how == "const":
        return repeat(pa.scalar(rule.value, kind), batch.num_rows)
    values = batch.column(rule.source)
    try:
        match rule.how:
            case "copy":
                return values if values.type == kind else pc.cast(values, kind)
            case "text":
                return pc.cast(values, pa.string())
            case "time":
                return to_ns(values)
            case "time_end":
                return to_ns(values, add=1)
            case "taker_from_buyer_maker":
                return pc.if_else(values, "sell", "buy")
            case "side":
                return pc.utf8_lower(values)
    except DataError as error:
        raise DataError(f"{file.name}, column {rule.source}: {error.message}") from None
    raise ProtocolError(f"unknown rule {rule.how!r} for {rule.target}")
