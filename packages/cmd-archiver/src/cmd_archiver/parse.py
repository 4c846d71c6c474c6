"""From a published file to typed Arrow batches: streamed, CRC-checked, never an object a row.

The text is unpacked in pieces of a few MiB, cut at line ends and parsed by Arrow's CSV reader,
so memory does not grow with the file. Where cmd-native is, it does the same faster (``ingest``). A file either parses to its end, with the CRC and size that
its packing promises, or it is a DataError that names the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv
from msgspec import structs

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvLayout, Derive
from cmd_common.errors import DataError, ProtocolError
from cmd_common.records import INEXACT, Gap
from cmd_common.schema import SCHEMA, Column

from ._arrow import pc, read_csv, repeat
from .ingest import READER, UndecidedError, native_batches
from .plan import interval_ns
from .unpack import BLOCK, Choose, locate, pieces

__all__ = [
    "CsvFile",
    "RowIds",
    "arrow_schema",
    "check_values",
    "derive",
    "gap_batch",
    "schema_layout",
    "seconds_to_ns",
    "times_of",
    "to_ns",
]

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


class CsvFile:
    """One published file: its layout once the first line was seen, and its rows as raw batches."""

    def __init__(self, path: Path, file: ArchiveFile, source: ArchiveSource, choose: Choose | None = None) -> None:
        """``choose`` picks the member of a zip; without it the source does."""
        self.path = path
        self.file = file
        self.layout: CsvLayout | None = None
        self.rows = 0
        self._source = source
        self._choose = choose or (lambda names: source.member(names, file))
        self._lines = 0  # lines before the block in hand, header included

    def _look(self, line: bytes) -> bool:
        """Choose the layout by the first line; returns whether that line is a header."""
        cells = line.rstrip(b"\r\n").split(b",")
        header = not any(_NUMBER.fullmatch(cell.strip()) for cell in cells)
        try:
            names = self._decode(line) if header else None
            self.layout = self._source.layout(self.file.table, names, len(cells if names is None else names))
        except ProtocolError as error:
            raise DataError(f"{self.file.name}, line 1: {error.message}", hint=error.hint) from None
        return header

    def _decode(self, line: bytes) -> list[str]:
        for encoding in self._source.encodings:
            try:
                return line.decode(encoding).removeprefix("\ufeff").rstrip("\r\n").split(",")
            except UnicodeDecodeError:
                continue
        raise DataError(f"{self.file.name}, line 1: not text")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield batches with the file's own columns; the file is proven whole when they end.

        Raises DataError. Memory is bounded by a few blocks, whatever the size of the file. Only the rows
        count, not how they are cut into batches.
        """
        if READER is None:
            yield from self._pure()
            return
        given = 0
        try:
            packed = locate(self.path, self.file.name, self._choose)
            for batch in native_batches(self.path, packed, self._begin, self._odd, READER):
                given += batch.num_rows
                self.rows = given
                yield batch
            return
        except UndecidedError:
            self.layout, self.rows, self._lines = None, 0, 0
        for batch in self._pure():  # from the begin, without the rows that were given already
            known = min(given, batch.num_rows)
            given -= known
            if known < batch.num_rows:
                yield batch.slice(known)

    def _begin(self, line: bytes) -> tuple[CsvLayout, bool]:
        header = self._look(line)
        assert self.layout is not None
        return self.layout, header

    def _odd(self, lines: bytes) -> Iterator[pa.RecordBatch]:
        yield from self._parse([lines])

    def _pure(self) -> Iterator[pa.RecordBatch]:
        """The same in Python and Arrow, and the specification."""
        parts: list[bytes] = []
        held = 0
        for piece in pieces(self.path, self.file.name, self._choose):
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


def seconds_to_ns(values: Any) -> Any:
    """Turn decimal seconds, as text, into ns exactly; digits behind the ninth are cut off. Raises DataError."""
    good = pc.match_substring_regex(values, r"^[0-9]{1,10}(\.[0-9]*)?$")
    if not pc.all(good, min_count=0).as_py():
        bad = values[pc.index(good, False).as_py()].as_py()
        raise DataError(f"{bad!r:.40} is not a time in seconds")
    whole = pc.cast(pc.replace_substring_regex(values, r"\..*$", ""), pa.int64())
    fraction = pc.utf8_rpad(pc.replace_substring_regex(values, r"^[0-9]+\.?", ""), 9, "0")
    fraction = pc.cast(pc.utf8_slice_codeunits(fraction, 0, 9), pa.int64())
    if pc.any(pc.less_equal(whole, 0)).as_py():
        raise DataError("0 is not a time")
    try:
        return pc.add_checked(pc.multiply_checked(whole, 10**9), fraction)
    except pa.ArrowInvalid:
        raise DataError(f"{pc.max(whole).as_py()} is not a time in seconds") from None


def _side(values: Any) -> Any:
    words = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    buy, sell = (pc.is_in(words, value_set=pa.array(w)) for w in (["buy", "b", "bid"], ["sell", "s", "ask"]))
    known = pc.or_(buy, sell)
    if not pc.all(known, min_count=0).as_py():
        bad = values[pc.index(known, False).as_py()].as_py()
        raise DataError(f"{bad!r:.40} is neither buy nor sell")
    return pc.if_else(buy, "buy", "sell")


class RowIds:
    """Makes ids for rows that have none, from batches in time order: ``dump:<ns>:<n>``.

    ``n`` counts the rows of one instant from 0, so that the same file gives the same ids in every run.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._count = 0

    def next(self, times: Any) -> Any:
        """The ids of the next batch, by its times in ns."""
        count = len(times)
        if not count:
            return pa.array([], pa.string())
        rows = pa.array(range(count), pa.int64())
        fresh = pa.concat_arrays([pa.array([times[0].as_py() != self._last]), pc.not_equal(times[1:], times[:-1])])
        begin = pc.fill_null_forward(pc.if_else(fresh, rows, pa.scalar(None, pa.int64())))
        ordinal = pc.subtract(rows, pc.fill_null(begin, -self._count))
        self._last, self._count = times[-1].as_py(), ordinal[-1].as_py() + 1
        return pc.binary_join_element_wise("dump", pc.cast(times, pa.string()), pc.cast(ordinal, pa.string()), ":")


def schema_layout(table: str, *, ids: bool, contiguous: bool, sparse: bool = False, notional: str = "") -> CsvLayout:
    """The layout of rows that have the schema's columns already, such as those of REST history.

    ``ids``: the numbers in ``trade_seq`` rise from row to row; ``notional`` names one column more.
    """
    columns = tuple(Derive(c.name, "copy", c.name) for c in SCHEMA[table].columns)
    id_column = "trade_seq" if ids and table != "candles" else ""
    return CsvLayout((), columns, id_column, notional, contiguous=contiguous, sparse=sparse)


def times_of(batch: pa.RecordBatch, layout: CsvLayout, file: ArchiveFile) -> Any:
    """The times by which rows are ordered, ns: open times of candles, else event times. Raises DataError."""
    target = "open_time" if file.table == "candles" else "ts_event"
    rule = next(rule for rule in layout.derive if rule.target == target)
    return _apply(rule, batch, pa.int64(), file)


def check_values(batch: pa.RecordBatch, layout: CsvLayout, file: ArchiveFile) -> None:
    """Raise DataError for words and times that ``derive`` would refuse; the times of ``times_of`` are left out."""
    main = "open_time" if file.table == "candles" else "ts_event"
    for rule in layout.derive:
        if rule.target != main and rule.how in ("side", "time", "time_end", "seconds", "interval_end"):
            _apply(rule, batch, pa.int64(), file)


def derive(batch: pa.RecordBatch, layout: CsvLayout, file: ArchiveFile, row_ids: Any = None) -> pa.RecordBatch:
    """Make a batch with the schema's columns from one with the file's columns.

    ``ts_recv`` is null, as in every row that came from a file; ``row_ids`` are those of RowIds where the
    layout asks for them. Raises DataError for impossible times.
    """
    table = SCHEMA[file.table]
    rules = {rule.target: rule for rule in layout.derive}
    fixed: dict[str, object] = {"venue": file.venue, "symbol": file.symbol, "interval": file.interval, "ts_recv": None}
    columns: list[Any] = []
    mask: Any = None
    for column in table.columns:
        kind = _TYPES[column.type]
        rule = rules.get(column.name)
        if column.name == "flags":
            columns.append(None)
            continue
        if rule is not None and rule.how == "row_id":
            values = row_ids
        elif rule is not None:
            values = _apply(rule, batch, kind, file)
        elif column.name in fixed:
            values = repeat(pa.scalar(fixed[column.name], kind), batch.num_rows)
        else:
            raise ProtocolError(f"the layout of {file.name} does not say where {column.name} comes from")
        if column.type == "float64" and (found := _inexact(values)) is not None:
            mask = found if mask is None else pc.or_(mask, found)
        columns.append(values)
    flags = batch.column("flags") if "flags" in rules else repeat(pa.scalar(0, pa.int32()), batch.num_rows)
    if mask is not None:
        flags = pc.if_else(mask, pc.bit_wise_or(flags, pa.scalar(INEXACT, pa.int32())), flags)
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
            case "seconds":
                ns = seconds_to_ns(values)
                if isinstance(rule.value, int) and rule.value > 1:
                    ns = pc.multiply(pc.divide(ns, rule.value), rule.value)
                return ns
            case "interval_end":
                length = interval_ns(file.interval)
                if length is not None:
                    return pc.add(to_ns(values), length)
            case "side":
                return _side(values)
    except DataError as error:
        raise DataError(f"{file.name}, column {rule.source}: {error.message}") from None
    raise ProtocolError(f"unknown rule {rule.how!r} for {rule.target}")
