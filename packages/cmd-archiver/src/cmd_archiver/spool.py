"""A unit's rows between parsing and writing: proven whole before the store sees the first one.

Rows lie in an Arrow stream file with the columns of where they come from, about 40 bytes a trade of a
file. What the audit finds out of order or twice is put right here, so that the store gets rows in the
order of their ids, or of their times where ids are no numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmd_common.archive import ArchiveFile, ArchiveSource, CsvLayout
from cmd_common.errors import DataError

from ._arrow import pc
from .audit import Audit
from .download import disk_error
from .parse import CsvFile, RowIds, check_values, derive, times_of
from .plan import interval_ns

__all__ = ["Batches", "Spool", "audit_step", "read_file"]

Batches = Iterable[tuple[pa.RecordBatch, CsvLayout]]
"""What a spool is filled from: batches with a layout that says what their columns mean; one for all."""


def audit_step(file: ArchiveFile, layout: CsvLayout) -> int | None:
    """By how much positions rise: 1 for trade ids, the interval for candles, None where unknown."""
    if file.table == "candles":
        return None if layout.sparse else interval_ns(file.interval)
    return 1 if layout.id_column and layout.contiguous else None


def read_file(path: Path, file: ArchiveFile, source: ArchiveSource) -> Iterator[tuple[pa.RecordBatch, CsvLayout]]:
    """The rows of one published file. Raises DataError for what the file breaks, also when it has none."""
    csv = CsvFile(path, file, source)
    for batch in csv.batches():
        assert csv.layout is not None
        yield batch, csv.layout
    if not csv.rows:
        raise DataError(f"{file.name} holds no rows")


class Spool:
    """Parsed, audited rows of one unit. ``path`` is removed by ``close``; without rows ``layout`` is None."""

    def __init__(self, rows: Batches, file: ArchiveFile, path: Path) -> None:
        """Take all rows. Raises DataError for what they break, StoreError for a full disk."""
        self.file = file
        self.path = path
        self.duplicates = 0
        self.layout: CsvLayout | None = None
        self.audit = Audit(file, file.table, None)
        self._twice = False  # a text id came twice at one time
        self._edge: tuple[int, set[str]] = (0, set())  # the last time, and the text ids of its rows
        writer: pa.RecordBatchStreamWriter | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(path), "wb") as out:
                try:
                    for batch, layout in rows:
                        if writer is None:
                            writer = pa.ipc.new_stream(out, batch.schema)
                            self._begin(layout)
                        self._feed(batch)
                        writer.write_batch(batch)
                finally:
                    if writer is not None:
                        writer.close()
            if not self.audit.ordered or self._twice:
                self._put_in_order()
        except OSError as error:
            path.unlink(missing_ok=True)
            raise disk_error(error, f"reading {file.name}") from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _begin(self, layout: CsvLayout) -> None:
        self.layout = layout
        self.audit = Audit(self.file, self.file.table, audit_step(self.file, layout))
        self._key = "" if self.file.table == "candles" else layout.id_column
        self._text_id = ""
        if self.file.table != "candles" and not self._key:
            rule = next(r for r in layout.derive if r.target == "trade_id")
            self._text_id = rule.source if rule.how in ("copy", "text") else ""
        self._numbered = any(r.how == "row_id" for r in layout.derive)

    def _feed(self, batch: pa.RecordBatch) -> None:
        assert self.layout is not None
        if not batch.num_rows:
            return
        times = times_of(batch, self.layout, self.file)
        check_values(batch, self.layout, self.file)
        if self._key:
            positions: Any = batch.column(self._key)
            if positions.null_count:
                raise DataError(f"{self.file.name}: some rows have no number as their id and others have")
        else:
            positions = times if self.file.table == "candles" else None
        if self._text_id and not self._twice:
            self._look_for_repeats(batch.column(self._text_id), times)
        self.audit.feed(positions, times)

    def _look_for_repeats(self, ids: Any, times: Any) -> None:
        """Rows are in time order or will be sorted: repeats lie in one batch, or at the edge of two."""
        self._twice = pc.count_distinct(ids).as_py() < len(ids)
        first, last = times[0].as_py(), times[-1].as_py()
        if first == self._edge[0]:
            same = ids.filter(pc.equal(times, first)).to_pylist()
            self._twice = self._twice or not self._edge[1].isdisjoint(same)
        ends = set(ids.filter(pc.equal(times, last)).to_pylist())
        self._edge = (last, ends | self._edge[1] if last == self._edge[0] else ends)

    def _put_in_order(self) -> None:
        """Sort and drop repeated rows, then audit again.

        By id or open time the last of several stays; by time, where ids are text, equal times keep the
        file's order (turned round where the whole file goes backwards). Needs all rows in memory, about
        40 bytes a row: published files are rarely out of order.
        """
        assert self.layout is not None
        with pa.OSFile(str(self.path), "rb") as f:
            table = pa.ipc.open_stream(f).read_all().combine_chunks()
        if not table.num_rows:
            return
        names = table.column_names
        order: Any = pa.array(range(table.num_rows), pa.int64())
        (batch,) = table.to_batches()
        keys = batch.column(self._key) if self._key else times_of(batch, self.layout, self.file)
        by_text = not self._key and self.file.table != "candles"
        if by_text and pc.max(pc.subtract(keys[1:], keys[:-1])).as_py() <= 0:
            order = pc.negate(order)
        table = table.append_column("__key", keys).append_column("__row", order)
        table = table.sort_by([("__key", "ascending"), ("__row", "ascending")]).combine_chunks()
        keys = table.column("__key").combine_chunks()
        if by_text and self._text_id:
            place: Any = pa.array(range(table.num_rows), pa.int64())
            groups: Any = table.append_column("__place", place).group_by(["__key", self._text_id], use_threads=False)
            first = groups.aggregate([("__place", "min")]).column("__place_min")
            kept = table.take(first.combine_chunks().sort())
        elif by_text:
            kept = table
        else:
            kept = table.filter(pa.concat_arrays([pc.not_equal(keys[1:], keys[:-1]), pa.array([True])]))
        self.duplicates = table.num_rows - kept.num_rows
        kept = kept.select(names)
        outside, self._twice, self._text_id = self.audit.outside, False, ""
        self.audit = Audit(self.file, self.file.table, audit_step(self.file, self.layout))
        with pa.OSFile(str(self.path), "wb") as out, pa.ipc.new_stream(out, kept.schema) as writer:
            for batch in kept.to_batches(max_chunksize=1 << 16):
                self._feed(batch)
                writer.write_batch(batch)
        if not kept.num_rows:
            self.audit.outside = outside

    def batches(self) -> Iterator[tuple[pa.RecordBatch, Any | None]]:
        """Yield (rows with the schema's columns, the exchange's price times quantity where it is there)."""
        layout = self.layout
        if layout is None:
            return
        name = layout.notional_column
        ids = RowIds()
        try:
            with pa.OSFile(str(self.path), "rb") as f, pa.ipc.open_stream(f) as reader:
                for batch in reader:
                    made = ids.next(times_of(batch, layout, self.file)) if self._numbered else None
                    yield derive(batch, layout, self.file, made), batch.column(name) if name else None
        except OSError as error:
            raise disk_error(error, f"reading {self.path.name}") from None

    def close(self) -> None:
        """Remove the rows."""
        self.path.unlink(missing_ok=True)
