"""A store of one's own: records as JSON lines, one file a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self, cast

import msgspec

from cmd_common.errors import UsageError
from cmd_common.io import ArrowBatch, WriterCounters
from cmd_common.records import RECORD_TYPES, TABLE_OF, Record

__all__ = ["JsonLines", "JsonLinesReader", "JsonLinesWriter"]


class JsonLinesWriter:
    """Appends to FOLDER/TABLE.jsonl; book sides are base64 of packed doubles, as in the records."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.counters = WriterCounters(records={})
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._encode = msgspec.json.Encoder().encode

    def write(self, records: Sequence[Record]) -> None:
        """Accept records of any tables; they are durable after ``flush``."""
        counts = self.counters.records
        for record in records:
            table = TABLE_OF[type(record)]
            data = self._encode(record)
            self._file(table).write(data + b"\n")
            counts[table] = counts.get(table, 0) + 1
            self.counters.bytes += len(data) + 1

    def write_batch(self, table: str, batch: ArrowBatch) -> int:
        """Write Arrow rows, as ``cmd-cli archive`` does; needs pyarrow."""
        import pyarrow as pa

        rows = pa.RecordBatchReader.from_stream(batch).read_all().to_pylist()
        file = self._file(table)
        for row in rows:
            file.write(self._encode(row) + b"\n")
        self.counters.batches += 1
        self.counters.records[table] = self.counters.records.get(table, 0) + len(rows)
        return len(rows)

    def flush(self) -> None:
        """Return when all of it is on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.counters.flushes += 1

    def close(self) -> None:
        """Flush and close; calling it again does nothing."""
        if self._files:
            self.flush()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, table: str) -> BinaryIO:
        file = self._files.get(table)
        if file is None:
            file = self._files[table] = (self._folder / f"{table}.jsonl").open("ab")
            self.counters.files += 1
        return file


class JsonLinesReader:
    """Tells a recorder where it stopped, and no more: other programs read these files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tables(self) -> list[str]:
        """Tables that hold rows."""
        return sorted(file.stem for file in self._folder.glob("*.jsonl") if file.stat().st_size)

    def latest(self, table: str, *, venue: str, symbol: str) -> Record | None:
        """The row written last of one instrument. O(file)."""
        decode = msgspec.json.Decoder(cast("type[Any]", RECORD_TYPES[table])).decode
        found: Record | None = None
        with (self._folder / f"{table}.jsonl").open("rb") as file:
            for line in file:
                if line.endswith(b"\n") and symbol.encode() in line:  # a killed recorder leaves half a line
                    row = decode(line)
                    if (row.venue, row.symbol) == (venue, symbol):
                        found = row
        return found

    def close(self) -> None:
        """Release; there is nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("records", "batches", "sql", "book_at"):
            raise UsageError(
                "jsonl has no queries", hint="read the files with any JSON tool, or record into parquet:PATH"
            )
        raise AttributeError(name)


class JsonLines:
    """The kind of store behind ``jsonl:FOLDER``; without ``admin`` it has nothing to look after."""

    def writer(self, location: str) -> JsonLinesWriter:
        """Open for writing, creating the folder."""
        return JsonLinesWriter(Path(location))

    def reader(self, location: str) -> JsonLinesReader:
        """Open for reading; a recorder does, to go on where it stopped."""
        return JsonLinesReader(Path(location))
