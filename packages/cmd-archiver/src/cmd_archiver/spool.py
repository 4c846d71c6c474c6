"""A file's rows between parsing and writing: proven whole before the store sees the first one.

Rows lie in an Arrow stream file with the file's own columns, about 40 bytes a trade. What the audit
finds out of order or twice is put right here, so that the store gets rows in id or time order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvLayout
from cmd_common.errors import DataError

from ._arrow import pc
from .audit import Audit
from .download import disk_error
from .parse import CsvFile, derive, to_ns
from .plan import interval_ns

__all__ = ["Spool", "audit_step"]


def audit_step(file: ArchiveFile, layout: CsvLayout) -> int | None:
    """By how much positions rise: 1 for trade ids, the interval for candles, None where unknown."""
    if file.table == "candles":
        return interval_ns(file.interval)
    return 1 if layout.id_column else None


def _source(layout: CsvLayout, target: str) -> str:
    return next(rule.source for rule in layout.derive if rule.target == target)


class Spool:
    """Parsed, audited rows of one file. ``path`` is removed by ``close``."""

    def __init__(self, zip_path: Path, file: ArchiveFile, source: ArchiveSource, path: Path) -> None:
        """Parse the whole zip. Raises DataError for what the file breaks, StoreError for a full disk."""
        self.file = file
        self.path = path
        self.duplicates = 0
        csv = CsvFile(zip_path, file, source)
        self.layout: CsvLayout
        self.audit: Audit
        audit: Audit | None = None
        writer: pa.RecordBatchStreamWriter | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(path), "wb") as out:
                try:
                    for batch in csv.batches():
                        layout = csv.layout
                        assert layout is not None
                        if writer is None or audit is None:
                            writer = pa.ipc.new_stream(out, batch.schema)
                            audit = Audit(file, file.table, audit_step(file, layout))
                        self._feed(audit, batch, layout)
                        writer.write_batch(batch)
                finally:
                    if writer is not None:
                        writer.close()
            if audit is None or csv.layout is None:
                raise DataError(f"{file.name} holds no rows")
            self.layout, self.audit = csv.layout, audit
            if not audit.ordered:
                self._put_in_order()
        except OSError as error:
            path.unlink(missing_ok=True)
            raise disk_error(error, f"reading {file.name}") from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _positions(self, batch: pa.RecordBatch, layout: CsvLayout, times: Any) -> Any | None:
        if self.file.table == "candles":
            return times
        return batch.column(layout.id_column) if layout.id_column else None

    def _feed(self, audit: Audit, batch: pa.RecordBatch, layout: CsvLayout) -> None:
        time = _source(layout, "open_time" if self.file.table == "candles" else "ts_event")
        try:
            times = to_ns(batch.column(time))
        except DataError as error:
            raise DataError(f"{self.file.name}, column {time}: {error.message}") from None
        audit.feed(self._positions(batch, layout, times), times)

    def _put_in_order(self) -> None:
        """Sort by id or open time and drop repeated ones, the last of them stays; then audit again.

        Needs the whole file in memory, about 40 bytes a row: published files are rarely out of order.
        """
        key = _source(self.layout, "open_time") if self.file.table == "candles" else self.layout.id_column
        with pa.OSFile(str(self.path), "rb") as f:
            table = pa.ipc.open_stream(f).read_all()
        order = pa.array(range(table.num_rows), pa.int64())
        table = table.append_column("__row", order).sort_by([(key, "ascending"), ("__row", "ascending")])
        keys = table.column(key).combine_chunks()
        last = pa.concat_arrays([pc.not_equal(keys[1:], keys[:-1]), pa.array([True])])
        kept = table.filter(last).drop_columns(["__row"])
        self.duplicates = table.num_rows - kept.num_rows
        audit = Audit(self.file, self.file.table, audit_step(self.file, self.layout))
        with pa.OSFile(str(self.path), "wb") as out, pa.ipc.new_stream(out, kept.schema) as writer:
            for batch in kept.to_batches(max_chunksize=1 << 16):
                self._feed(audit, batch, self.layout)
                writer.write_batch(batch)
        self.audit = audit

    def batches(self) -> Iterator[tuple[pa.RecordBatch, Any | None]]:
        """Yield (rows with the schema's columns, the exchange's price times quantity where it is there)."""
        name = self.layout.notional_column
        try:
            with pa.OSFile(str(self.path), "rb") as f, pa.ipc.open_stream(f) as reader:
                for batch in reader:
                    yield derive(batch, self.layout, self.file), batch.column(name) if name else None
        except OSError as error:
            raise disk_error(error, f"reading {self.path.name}") from None

    def close(self) -> None:
        """Remove the rows."""
        self.path.unlink(missing_ok=True)
