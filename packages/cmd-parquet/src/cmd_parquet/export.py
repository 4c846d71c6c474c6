"""``cmd-cli export``: rows of any store into Parquet, CSV, Arrow or hftbacktest files, or a nautilus catalog, through its reader.

Columns, types and order are those of the schema. A file appears under its name once it is whole; CSV holds the sides of
books as JSON lists, times as ns since 1970, and nothing for null. hftbacktest has one file an instrument.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from msgspec import structs

from cmd_common.commands import EXIT_GAPS, EXIT_OK, ExportOptions, Reporter, Result
from cmd_common.errors import StoreError, UnknownNameError, UsageError
from cmd_common.io import IReader, open_reader
from cmd_common.log.render import iso
from cmd_common.records import Gap
from cmd_common.schema import LEVEL_WIDTH, SCHEMA, TABLES
from cmd_common.symbols import nearest

from . import hftbacktest, nautilus
from .columns import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "run"]

FORMATS: Final = {"parquet": ".parquet", "csv": ".csv", "arrow": ".arrow", "hftbacktest": ".npz", "nautilus": ""}
_GAPS_NAMED: Final = 20  # that are warned of one by one; the summary counts all

T = TypeVar("T")


class _Sink(Protocol):
    def write_batch(self, batch: Any) -> None: ...

    def close(self) -> None: ...


def run(options: ExportOptions, reporter: Reporter) -> Result:
    """Write one file a table, or one an instrument for hftbacktest.

    The exit code is EXIT_GAPS where the ledger has gaps in what was exported that were not repaired. Raises UsageError,
    StoreError, DataError.
    """
    chosen = _format(options)
    if chosen == "nautilus":
        return _catalog(options, reporter)
    if options.instrument_id:
        raise UsageError("--instrument-id is of --format nautilus alone")
    events = chosen == "hftbacktest"
    if events:
        options = _for_events(options)
    targets = _targets(options, chosen)
    for name, path in targets.items():
        if os.path.exists(path) and not options.force:
            raise UsageError(f"{path} exists", hint="add --force to replace it")
        if not events and options.venue and "venue" not in SCHEMA[name].names:
            raise UsageError(f"table {name} has rows of several exchanges", hint="leave out --exchange")
    summary: dict[str, Any] = {}
    rows: dict[str, int] = {}
    with open_reader(options.store) as reader:
        gaps = _open_gaps(reader, options)
        for name, path in targets.items():
            try:
                if events:
                    counts = _whole(path, lambda part: _events(reader, name, part, options, gaps))  # noqa: B023
                    summary.setdefault("events", {})[name] = structs.asdict(counts)
                    rows[name] = counts.rows
                else:
                    rows[name] = _whole(path, lambda part: _rows(reader, name, part, path, options, reporter))  # noqa: B023
            except OSError as error:
                raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
            if not rows[name]:
                reporter.warn(f"{'symbol' if events else 'table'} {name} has no such rows: {path} holds none")
    size = sum(os.path.getsize(p) for p in targets.values())
    summary = {"rows": rows, "files": targets, "bytes": size, **summary, "open_gaps": len(gaps)}
    return _result(gaps, summary, reporter)


def _result(gaps: Sequence[Gap], summary: dict[str, Any], reporter: Reporter) -> Result:
    for gap in gaps[:_GAPS_NAMED]:
        reporter.warn(_words(gap))
    if len(gaps) > _GAPS_NAMED:
        reporter.warn(f"and {len(gaps) - _GAPS_NAMED} more gaps: they are the rows of table gaps without repaired_by")
    return Result(EXIT_GAPS if gaps else EXIT_OK, summary)


def _catalog(options: ExportOptions, reporter: Reporter) -> Result:
    """Write instruments into a catalog of nautilus_trader."""
    tables = options.tables or nautilus.TABLES
    if others := [t for t in tables if t not in nautilus.TABLES]:
        raise UsageError(f"a nautilus catalog has no {others[0]}", hint="it has --types trades,quotes,book,candles")
    if not options.venue or not options.symbols:
        raise UsageError("a nautilus catalog is of instruments", hint="add --exchange VENUE and --symbols SYMBOL")
    if options.instrument_id and len(options.symbols) > 1:
        raise UsageError("several symbols cannot have one --instrument-id")
    if os.path.isfile(options.target):
        raise UsageError(f"{options.target} is a file", hint="a nautilus catalog is a folder")
    options = structs.replace(options, tables=tables)
    written: dict[str, Any] = {}
    with open_reader(options.store) as reader:
        held = [t for t in tables if t in reader.tables()]
        gaps = _open_gaps(reader, options)
        catalog = nautilus.Catalog(
            reader, options.target, options.venue, options.start, options.end, options.latency, options.force
        )
        for symbol in options.symbols:
            try:
                about = [g for g in gaps if g.symbol in ("", symbol)]
                counts = catalog.write(symbol, held, options.instrument_id, about)
            except OSError as error:
                raise StoreError(f"cannot write {options.target}: {error.strerror or error}") from error
            written[symbol] = structs.asdict(counts)
            if not counts.rows:
                reporter.warn(f"symbol {symbol} has no such rows")
            reporter.progress("export instruments", len(written), len(options.symbols), unit="instruments")
    return _result(gaps, {"catalog": options.target, "rows": written, "open_gaps": len(gaps)}, reporter)


def _format(options: ExportOptions) -> str:
    """The chosen format, by name or by the target's ending."""
    if options.format and options.format not in FORMATS:
        near = nearest(options.format, FORMATS)
        raise UnknownNameError(
            "format", options.format, near, hint="" if near else f"formats are: {', '.join(FORMATS)}"
        )
    if not options.target:
        raise UsageError("no target is given", hint="add --to FILE.parquet, or a folder")
    ending = os.path.splitext(options.target)[1]
    named = next((f for f, e in FORMATS.items() if e and e == ending), "")
    if named and options.format and options.format != named and not os.path.isdir(options.target):
        raise UsageError(f"{options.target} is no name of a {options.format} file")
    return options.format or named or "parquet"


def _for_events(options: ExportOptions) -> ExportOptions:
    """The options of an export of events, completed and checked."""
    tables = options.tables or hftbacktest.TABLES
    if others := [t for t in tables if t not in hftbacktest.TABLES]:
        raise UsageError(f"hftbacktest has no {others[0]}", hint="its events are of --types trades,book")
    if not options.venue or not options.symbols:
        raise UsageError("hftbacktest has one file an instrument", hint="add --exchange VENUE and --symbols SYMBOL")
    return structs.replace(options, tables=tables)


def _targets(options: ExportOptions, chosen: str) -> dict[str, str]:
    """The file of each table, or of each symbol."""
    if not options.tables:
        raise UsageError("no tables are given", hint=f"add --types with any of: {', '.join(TABLES)}")
    for table in options.tables:
        if table not in SCHEMA:
            raise UnknownNameError("table", table, nearest(table, TABLES))
    events = chosen == "hftbacktest"
    names = options.symbols if events else options.tables
    suffix = FORMATS[chosen]
    if os.path.splitext(options.target)[1] == suffix and not os.path.isdir(options.target):
        if len(names) > 1:
            what = "symbols" if events else "tables"
            raise UsageError(f"several {what} do not fit into one file", hint="give a folder with --to")
        return {names[0]: options.target}
    return {name: os.path.join(options.target, name.replace("/", "-") + suffix) for name in names}


def _open_gaps(reader: IReader, options: ExportOptions) -> list[Gap]:
    """Gaps in what is exported that were not repaired."""
    symbols = [*options.symbols, ""] if options.symbols else None
    found = reader.records("gaps", venue=options.venue or None, symbols=symbols, end=options.end)
    return [
        gap
        for gap in cast("Iterator[Gap]", found)
        if not gap.repaired_by
        and (not gap.record_type or gap.record_type in options.tables)
        and (options.start is None or gap.ts_to > options.start)
    ]


def _words(gap: Gap) -> str:
    where = " ".join(word for word in (gap.venue, gap.symbol, gap.record_type) if word)
    return f"gap in {where} from {iso(gap.ts_from)} to {iso(gap.ts_to)}: {gap.reason}, {gap.severity}"


def _whole(path: str, write: Callable[[str], T]) -> T:
    """Have a file written under another name; it gets its own once it is whole and durable."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    part = f"{path}.part"
    try:
        done = write(part)
        with open(part, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise
    return done


def _events(reader: IReader, symbol: str, part: str, options: ExportOptions, gaps: Sequence[Gap]) -> hftbacktest.Counts:
    return hftbacktest.write(
        reader,
        part,
        venue=options.venue,
        symbol=symbol,
        tables=options.tables,
        start=options.start,
        end=options.end,
        latency=options.latency,
        gaps=[g for g in gaps if g.symbol in ("", symbol)],
    )


def _rows(reader: IReader, table: str, part: str, path: str, options: ExportOptions, reporter: Reporter) -> int:
    count = 0
    sink = _sink(table, part, os.path.splitext(path)[1])
    try:
        for batch in _batches(reader, table, options):
            sink.write_batch(batch)
            count += batch.num_rows
            reporter.progress(f"export {table}", count, None, unit="rows")
    finally:
        sink.close()
    reporter.progress(f"export {table}", count, count, unit="rows")
    return count


def _batches(reader: IReader, table: str, options: ExportOptions) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    schema = arrow_schema(table)
    for batch in reader.batches(
        table,
        venue=options.venue or None,
        symbols=options.symbols or None,
        start=options.start,
        end=options.end,
    ):
        whole = pa.table(batch) if not isinstance(batch, pa.RecordBatch) else pa.Table.from_batches([batch])
        yield from whole.select(schema.names).cast(schema).to_batches()


def _sink(table: str, path: str, ending: str) -> _Sink:
    import pyarrow as pa

    schema = arrow_schema(table)
    if ending == FORMATS["parquet"]:
        import pyarrow.parquet as pq

        return pq.ParquetWriter(path, schema, compression="zstd")
    if ending == FORMATS["arrow"]:
        return pa.ipc.new_file(path, schema)
    return _Csv(table, path)


class _Csv:
    """CSV: lists have no form in it, so that sides of books are JSON."""

    def __init__(self, table: str, path: str) -> None:
        import pyarrow as pa
        import pyarrow.csv as csv

        self._sides = [c.name for c in SCHEMA[table].columns if c.type in LEVEL_WIDTH]
        fields = [f.with_type(pa.string()) if f.name in self._sides else f for f in arrow_schema(table)]
        self._schema = pa.schema(fields)
        self._writer = csv.CSVWriter(path, self._schema)

    def write_batch(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa

        columns = [
            pa.array([json.dumps(v, separators=(",", ":")) for v in batch.column(n).to_pylist()], pa.string())
            if n in self._sides
            else batch.column(n)
            for n in self._schema.names
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
