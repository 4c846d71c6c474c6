"""``cmd-cli store export``: rows of any store into Parquet, CSV or Arrow files, through its reader.

Columns, types and order are those of the schema. A file appears under its name once it is whole; CSV holds the sides of
books as JSON lists, times as ns since 1970, and nothing for null.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from cmd_common.commands import EXIT_OK, ExportOptions, Reporter, Result
from cmd_common.errors import StoreError, UnknownNameError, UsageError
from cmd_common.io import IReader, open_reader
from cmd_common.schema import LEVEL_WIDTH, SCHEMA, TABLES
from cmd_common.symbols import nearest

from .columns import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "run"]

FORMATS: Final = {"parquet": ".parquet", "csv": ".csv", "arrow": ".arrow"}


class _Sink(Protocol):
    def write_batch(self, batch: Any) -> None: ...

    def close(self) -> None: ...


def run(options: ExportOptions, reporter: Reporter) -> Result:
    """Write one file a table; raises UsageError, StoreError."""
    targets = _targets(options)
    for table, path in targets.items():
        if os.path.exists(path) and not options.force:
            raise UsageError(f"{path} exists", hint="add --force to replace it")
        if options.venue and "venue" not in SCHEMA[table].names:
            raise UsageError(f"table {table} has rows of several exchanges", hint="leave out --exchange")
    rows: dict[str, int] = {}
    with open_reader(options.store) as reader:
        for table, path in targets.items():
            try:
                rows[table] = _export(reader, table, path, options, reporter)
            except OSError as error:
                raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
            if not rows[table]:
                reporter.warn(f"table {table} has no such rows: {path} holds none")
    summary = {"rows": rows, "files": targets, "bytes": sum(os.path.getsize(p) for p in targets.values())}
    return Result(EXIT_OK, summary)


def _targets(options: ExportOptions) -> dict[str, str]:
    """The file of each table."""
    if not options.tables:
        raise UsageError("no tables are given", hint=f"add --types with any of: {', '.join(TABLES)}")
    for table in options.tables:
        if table not in SCHEMA:
            raise UnknownNameError("table", table, nearest(table, TABLES))
    if not options.target:
        raise UsageError("no target is given", hint="add --to FILE.parquet, or a folder")
    ending = os.path.splitext(options.target)[1]
    named = next((f for f, e in FORMATS.items() if e == ending), "")
    if options.format and options.format not in FORMATS:
        near = nearest(options.format, FORMATS)
        raise UnknownNameError(
            "format", options.format, near, hint="" if near else f"formats are: {', '.join(FORMATS)}"
        )
    if named and not os.path.isdir(options.target):
        if len(options.tables) > 1:
            raise UsageError("several tables do not fit into one file", hint="give a folder with --to")
        if options.format and options.format != named:
            raise UsageError(f"{options.target} is no name of a {options.format} file")
        return {options.tables[0]: options.target}
    suffix = FORMATS[options.format or "parquet"]
    return {table: os.path.join(options.target, table + suffix) for table in options.tables}


def _export(reader: IReader, table: str, path: str, options: ExportOptions, reporter: Reporter) -> int:
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    part = f"{path}.part"
    count = 0
    try:
        sink = _sink(table, part, os.path.splitext(path)[1])
        try:
            for batch in _batches(reader, table, options):
                sink.write_batch(batch)
                count += batch.num_rows
                reporter.progress(f"export {table}", count, None, unit="rows")
        finally:
            sink.close()
        with open(part, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise
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
