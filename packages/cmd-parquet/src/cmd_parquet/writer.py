"""The writer: live rows to the journal, bulk rows to staged files, commits, rolls and compaction.

Theory of operation. ``write`` encodes records at once and keeps the bytes; ``flush`` appends them to this
writer's own journal and syncs it: that is the confirmation. Every ``roll_interval`` or ``roll_bytes``, and
when the writer closes, the journal's rows become Parquet files in one commit that also notes the journal as
done, so that they are never in both places for a reader. ``write_batch`` stages rows in temporary files;
``flush`` makes all of them live in one commit, with the deletions asked for.

Killed anywhere, the next writer adopts what it finds: journals of dead writers are rolled, their unfinished
commits resolved, their temporary files deleted. A writer is dead when its lock can be taken.

Time order. Rows are stamped with the wall clock in ns, rising within one writer, so that of several
equal keys the row written last stays, whichever process wrote it and whenever it was rolled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from cmd_common.errors import StoreError
from cmd_common.gaps import in_safe_order
from cmd_common.io import ArrowBatch, WriterCounters
from cmd_common.records import TABLE_OF, Record
from cmd_common.schema import table as table_of
from cmd_common.seams import Clock, Disk, OsDisk, SystemClock

from .columns import ORDER, check_batch, check_schema, row_getter, rows_to_arrow, side_columns
from .compaction import Compactor
from .deletion import Deletion, rewrite
from .files import FileEntry
from .journal import SUFFIX, Journal, encode_rows, first_order, rows_in
from .lazy import compute
from .manifest import Manifest, commit, resolve
from .paths import DAY, INTERNAL, JOURNAL, LOCKS, TMP, Partition, date_of, join
from .recovery import Recovery
from .stage import NewFile, Stage, split
from .storage import Lock, busy, ensure_dir, ensure_location, read_head, store_errors, try_lock

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ParquetWriter", "WriterOptions"]

_LOG: Final = logging.getLogger("cmd_parquet")
_FRAME_ROWS: Final = 4096
_CHUNK_ROWS: Final = 131_072
_RETRY: Final = 10_000_000_000  # ns between attempts to roll when rolling fails
_ATTEMPTS: Final = 5
_CHORES: Final = 8  # partitions looked at in one flush


class WriterOptions(msgspec.Struct, frozen=True):
    """Limits of a writer; the defaults suit a recorder and an archiver alike."""

    roll_interval: int = 300_000_000_000  # ns after which live rows become Parquet
    roll_bytes: int = 128 << 20  # journal bytes after which they do so earlier
    buffer_bytes: int = 4 << 20  # encoded rows that wait for a flush; more are made durable at once
    memory_limit: int = 32 << 20  # bulk rows held before they are spilled to temporary files; sorting doubles it
    compact_files: int = 8  # files of one day that may stay side by side


class ParquetWriter:
    """An ``IWriter`` into a folder of Parquet files. Not thread-safe; several processes may each have one."""

    def __init__(
        self,
        location: str,
        *,
        disk: Disk | None = None,
        clock: Clock | None = None,
        options: WriterOptions | None = None,
    ) -> None:
        self.location = location.replace("\\", "/").rstrip("/") or "/"
        self.counters = WriterCounters({})
        self.notices: list[str] = []  # what recovery found when this writer opened
        self._disk: Disk = disk if disk is not None else OsDisk()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._options = options or WriterOptions()
        self._closed = False
        self._payloads: list[bytes] = []
        self._waiting = 0  # bytes of payloads
        self._first = 0  # order of the first one
        self._unconfirmed: dict[str, int] = {}
        self._journal: Journal | None = None
        self._left: list[Journal] = []  # journals that failed; their confirmed part is still to be rolled
        self._journals = 0
        self._commits = 0
        self._forget: list[str] = []
        self._deletions: list[Deletion] = []
        self._touched: set[Partition] = set()
        self._folders: set[str] = set()
        self._groups: dict[str, int] = {}
        self._chores: dict[Partition, None] = {}
        self._intents: list[str] = []
        with store_errors(f"cannot open the store at {self.location}"):
            ensure_location(self._disk, self.location)
            for folder in (INTERNAL, JOURNAL, TMP, LOCKS):
                ensure_dir(self._disk, self.location, folder, self._folders)
            self._manifest = Manifest(self._disk, self.location, create=True)
            try:
                with self._manifest.transaction() as transaction:
                    self.writer_id = f"w{transaction.new_writer():06d}"
                self._lock: Lock | None = try_lock(self._disk, self.location, f"writer-{self.writer_id}")
                if self._lock is None:  # the number was just made
                    raise busy(self._disk, self.location, self.writer_id, f"writer-{self.writer_id}")
                self._stage = self._new_stage()
                self._rolled = self._clock.monotonic()
                Recovery(self).run()
                self._order = max(self._clock.now(), self._manifest.last_order() + 1)
            except BaseException:
                self._release()
                raise

    # -- live rows ----------------------------------------------------------------------------------

    def write(self, records: Sequence[Record]) -> None:
        """Accept records of any mix of tables; durable after the next ``flush``.

        ``ts_recv == 0`` means that there is no receive time. Raises StoreError for a record that does not fit
        the schema (then none of this call's records is accepted) or when the disk fails.
        """
        self._check_open()
        by_table: dict[str, list[tuple[Any, ...]]] = {}
        for record in records:
            name = TABLE_OF.get(type(record))
            if name is None:
                raise StoreError(f"{type(record).__name__} is not a record of the schema")
            rows = by_table.get(name)
            if rows is None:
                rows = by_table[name] = []
            rows.append(row_getter(name)(record))
        payloads = []
        first = max(self._clock.now(), self._order)
        for name in in_safe_order(by_table):
            rows = by_table[name]
            if sides := side_columns(name):
                _check_sides(name, sides, rows)
            for start in range(0, len(rows), _FRAME_ROWS):
                part = rows[start : start + _FRAME_ROWS]
                payloads.append(encode_rows(self._stamp(len(part)), name, part))
        if not self._payloads:
            self._first = first
        self._payloads += payloads
        self._waiting += sum(map(len, payloads))
        for name, rows in by_table.items():
            if self._stage:  # batches from before and after these rows must not become one file
                self._groups[name] = self._groups.get(name, 0) + 1
            self.counters.records[name] = self.counters.records.get(name, 0) + len(rows)
        if self._waiting > self._options.buffer_bytes:
            self._confirm()

    def _stamp(self, rows: int) -> int:
        """The order of the next row; the following ``rows`` numbers are taken."""
        order = max(self._clock.now(), self._order)
        self._order = order + max(rows, 1)
        return order

    def _confirm(self) -> None:
        """Make waiting rows durable in the journal."""
        if not self._payloads:
            return
        with store_errors(f"cannot write the journal of {self.location}"):
            if self._journal is not None and self._journal.broken:
                self._left.append(self._journal)
                self._journal = None
            if self._journal is None:
                self._journals += 1
                path = join(self.location, JOURNAL, f"{self.writer_id}-{self._journals}{SUFFIX}")
                self._journal = Journal(self._disk, path, self.writer_id, self._first)
            self._journal.commit(self._payloads)
        self.counters.bytes += self._waiting
        self._payloads, self._waiting = [], 0

    # -- bulk rows ------------------------------------------------------------------------------------

    def write_batch(self, table: str, batch: ArrowBatch) -> int:
        """Stage rows of anything with the Arrow C stream; they become live together at the next ``flush``.

        A stream is read batch by batch, so a day of any size needs bounded memory. Returns the number of rows.
        Raises UnknownNameError for the table, StoreError for columns or types that differ from the schema (checked
        before a row is taken); when reading or staging fails later, everything staged since the last flush is
        dropped, so that no half of a unit can become live.
        """
        self._check_open()
        table_of(table)
        import pyarrow as pa

        try:
            if isinstance(batch, pa.RecordBatch | pa.Table):
                check_schema(table, batch.schema)
                pieces: Iterator[pa.RecordBatch] = iter(
                    [batch] if isinstance(batch, pa.RecordBatch) else batch.to_batches()
                )
            else:
                stream = _import_stream(batch)
                check_schema(table, stream.schema)
                pieces = iter(stream)
        except (pa.ArrowException, TypeError, AttributeError) as error:
            raise StoreError(f"a batch for table {table} cannot be read: {error}") from error
        rows = 0
        try:
            with store_errors(f"cannot write to {self.location}"):
                for piece in pieces:
                    for start in range(0, piece.num_rows, _CHUNK_ROWS):
                        part = piece.slice(start, _CHUNK_ROWS)
                        data = check_batch(table, part)
                        order = self._stamp(part.num_rows)
                        self._stage.add(table, _with_order(data, order), self._groups.get(table, 0))
                        rows += part.num_rows
        except (StoreError, pa.ArrowException) as error:
            self.discard()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"a batch for table {table} cannot be read: {error}") from error
        self.counters.batches += 1
        self.counters.records[table] = self.counters.records.get(table, 0) + rows
        return rows

    def delete(
        self,
        table: str,
        venue: str,
        symbol: str,
        start: int,
        end: int,
        *,
        archived_only: bool = True,
        interval: str | None = None,
        source: str | None = None,
    ) -> None:
        """Delete rows with times in ``[start, end)`` at the next ``flush``, in the same commit as the batches staged.

        It is for a published file that was replaced: rows that came from a file (their receive time is null) go,
        rows recorded live stay unless ``archived_only`` is False. ``interval`` and ``source`` narrow it to such
        candles. Only rows that were live in files before this call are deleted; batches written after it stay, also
        those with the same keys. Raises UnknownNameError, StoreError.
        """
        self._check_open()
        names = table_of(table).names
        for column, value in (("interval", interval), ("source", source)):
            if value is not None and column not in names:
                raise StoreError(f"table {table} has no column {column} to delete by")
        self._deletions.append(
            Deletion(table, venue, symbol, start, end, archived_only, interval, source, self._stamp(1))
        )

    def discard(self) -> None:
        """Drop all batches and deletions since the last ``flush``; live rows are untouched."""
        self._stage.discard()
        self._groups.clear()
        self._deletions.clear()

    # -- durability -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Return when everything accepted so far is durable, and visible to readers.

        Raises StoreError; then live rows stay accepted and the next flush tries again, while staged batches and
        deletions of this unit are dropped and have to be written again.
        """
        self._check_open()
        self._confirm()
        if self._stage or self._deletions:
            self._commit_stage()
        self.counters.flushes += 1
        self._do_chores()
        if self._roll_due():
            try:
                self.roll()
            except StoreError as error:  # the rows are durable in the journal: only their move waits
                _LOG.warning("rolling the journal of %s failed and will be tried again: %s", self.location, error)
                self._rolled = self._clock.monotonic() - self._options.roll_interval + _RETRY

    def _do_chores(self) -> None:
        """Keep the number of files low, a few partitions a flush so that no flush takes long.

        Days that are over are made exact, after which they are no longer looked at.
        """
        over = date_of(self._clock.now() - 2 * DAY)
        for partition in list(self._chores)[:_CHORES]:
            del self._chores[partition]
            try:
                if partition.date <= over:
                    self._compactor().exact(partition)
                    self._touched.discard(partition)
                else:
                    self._compactor().tidy(partition)
            except (StoreError, OSError) as error:  # the rows are live; only their number of files is higher
                _LOG.warning("compacting %s failed and will be tried again: %s", partition.folder, error)

    def _roll_due(self) -> bool:
        journals = self._all_journals()
        if not journals:
            return False
        if self._clock.monotonic() - self._rolled >= self._options.roll_interval:
            return True
        return sum(j.size for j in journals) >= self._options.roll_bytes

    def _all_journals(self) -> list[Journal]:
        return [*self._left, *([self._journal] if self._journal is not None else [])]

    def _commit_stage(self) -> None:
        with store_errors(f"cannot write to {self.location}"):
            try:
                new = self._stage.finish(self._name())
            except BaseException as error:
                if isinstance(error, Exception):
                    self.discard()
                raise
            deletions, self._deletions = self._deletions, []
            self._groups.clear()
            try:
                for _ in range(_ATTEMPTS):
                    try:
                        rewritten, removed = rewrite(
                            self._disk, self.location, self._manifest, deletions, self._temporary
                        )
                    except FileNotFoundError:  # compacted by another process meanwhile
                        continue
                    if self.commit([*new, *rewritten], removed):
                        return
                    self._drop(rewritten)
                raise StoreError(
                    f"cannot delete in {self.location}: other processes replace the same files all the time",
                    hint="try again when they are done",
                )
            except Exception:
                self._drop(new)
                raise

    def _drop(self, new: Sequence[NewFile]) -> None:
        for file in new:
            try:
                self._disk.remove(file.temporary)
            except OSError:
                pass

    def commit(self, new: Sequence[NewFile], removed: Sequence[FileEntry], journals: Sequence[str] = ()) -> bool:
        """Make files live and others not, in one transaction; internal. False when one to be removed is gone."""
        self._resolve_own()
        if not new and not removed and not journals:
            return True
        intent = join(self.location, self._temporary() + ".intent")
        self._intents.append(intent)
        done = commit(
            self._disk,
            self.location,
            self._manifest,
            intent,
            new,
            removed,
            journals,
            tuple(self._forget),
            self._folders,
        )
        if not self._disk.exists(intent):
            self._intents.remove(intent)
        if done:
            self._forget.clear()
            self.counters.files += len(new)
            self.counters.bytes += sum(f.entry.size for f in new)
            self._touched.update(f.entry.partition for f in new)
        return done

    def _resolve_own(self) -> None:
        """Settle commits of ours of which it was not known whether they happened."""
        for intent in list(self._intents):
            if self._disk.exists(intent):
                resolve(self._disk, self.location, self._manifest, intent)
            self._intents.remove(intent)

    def _name(self) -> str:
        self._commits += 1
        return f"{self.writer_id}-{self._commits}"

    def _temporary(self) -> str:
        return f"{TMP}/{self._name()}"

    def _new_stage(self) -> Stage:
        return Stage(
            self._disk,
            self.location,
            f"{TMP}/{self.writer_id}-s{self._commits}",
            memory_limit=self._options.memory_limit,
        )

    # -- rolling --------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Turn the journal's rows into Parquet files now; raises StoreError, then they stay in the journal."""
        self._check_open()
        self._confirm()
        journals = self._all_journals()
        if not journals:
            return
        with store_errors(f"cannot write to {self.location}"):
            self.roll_journals({j.path: self._disk.read(j.path)[: j.size] if j.size else b"" for j in journals})
        self._journal = None
        self._left = []
        self._rolled = self._clock.monotonic()
        self._chores = dict.fromkeys(sorted(self._touched))

    def roll_journals(self, contents: dict[str, bytes]) -> None:
        """Commit the rows of journals to files and delete the journals; internal. Raises OSError, StoreError."""
        self._commits += 1
        stage = self._new_stage()
        try:
            for path, data in contents.items():
                self._stage_journal(stage, path, data)
            new = stage.finish(self._name())
        except BaseException as error:
            if isinstance(error, Exception):
                stage.discard()
            raise
        names = [path.rpartition("/")[2] for path in contents]
        try:
            self.commit(new, [], names)
        except Exception:
            self._drop(new)
            raise
        for path in contents:
            self.forget_journal(path)

    def forget_journal(self, path: str) -> None:
        """Delete a journal that is noted as done; its note goes with the next commit. Internal."""
        try:
            self._disk.remove(path + ".confirmed")
            self._disk.remove(path)
            self._disk.sync_dir(join(self.location, JOURNAL))
        except OSError as error:
            _LOG.warning("the rolled journal %s could not be deleted: %s", path, error)
        else:
            self._forget.append(path.rpartition("/")[2])

    def _stage_journal(self, stage: Stage, path: str, data: bytes) -> None:
        rows: dict[str, tuple[list[tuple[Any, ...]], list[int]]] = {}
        others: dict[str, dict[Partition, list[int]]] = {}
        for order, name, part in rows_in(data, path):
            if name not in others:
                others[name] = self._newer(name, order)
            held, orders = rows.setdefault(name, ([], []))
            held += part
            orders += range(order, order + len(part))
            if len(held) >= _CHUNK_ROWS:
                _stage_rows(stage, name, held, orders, others[name])
                del rows[name]
        for name, (held, orders) in rows.items():
            _stage_rows(stage, name, held, orders, others[name])

    def _newer(self, name: str, order: int) -> dict[Partition, list[int]]:
        """Orders of files that were written after ``order`` or are staged, by partition."""
        newer: dict[Partition, list[int]] = {}
        for entry in self._manifest.files(name, newer_than=order):
            newer.setdefault(entry.partition, []).append(entry.order)
        for partition, staged in self._stage.orders(name).items():
            newer.setdefault(partition, []).extend(staged)
        return newer

    # -- compaction and locks ---------------------------------------------------------------------------

    def _compactor(self) -> Compactor:
        return Compactor(
            self._disk,
            self.location,
            self._manifest,
            self.commit,
            self._temporary,
            max_files=self._options.compact_files,
            barrier=self._barrier,
        )

    def _barrier(self, table: str) -> int | None:
        """The order of the first row of a table that may not be in a file yet; None where all are.

        Of other processes' journals only gaps matter: they are marked as repaired by writing them again. Everywhere
        else rows of one key that were written by two processes are told apart by the schema's preference, or equal.
        """
        orders = [j.order for j in self._all_journals()]
        if self._payloads:
            orders.append(self._first)
        staged = self._stage.first_order(table)
        if staged is not None:
            orders.append(staged)
        if table == "gaps":
            for name in self._disk.listdir(join(self.location, JOURNAL)):
                if name.endswith(SUFFIX) and not name.startswith(f"{self.writer_id}-"):
                    try:
                        order = first_order(read_head(self._disk, join(self.location, JOURNAL, name), 4096))
                    except FileNotFoundError:  # rolled meanwhile
                        continue
                    if order is not None:
                        orders.append(order)
        return min(orders, default=None)

    def compact(self, table: str | None = None, *, progress: Callable[[str], None] | None = None) -> int:
        """Merge every partition (of one table) into one file with each key once; returns files saved.

        A day is merged as a stream: memory does not grow with it. Rows in journals are rolled first, but only this
        writer's own. Raises StoreError.
        """
        self._check_open()
        if table is not None:
            table_of(table)
        self.flush()
        self.roll()
        saved = 0
        with store_errors(f"cannot compact {self.location}"):
            for partition in sorted({e.partition for e in self._manifest.files(table)}):
                saved += self._compactor().whole(partition)
                if progress is not None:
                    progress(partition.folder)
        return saved

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the store's lock called ``name``, such as one for a symbol's day; it dies with the process.

        Raises StoreBusyError at once where another writer holds it.
        """
        self._check_open()
        with store_errors(f"cannot lock {name} in {self.location}"):
            lock = try_lock(self._disk, self.location, f"user-{name}")
        if lock is None:
            raise busy(self._disk, self.location, name, f"user-{name}")
        try:
            yield
        finally:
            lock.release()

    # -- the end ----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the writer of {self.location} is closed")

    def close(self) -> None:
        """Flush, roll, compact what this writer touched, and release; calling it again does nothing.

        Raises StoreError; what was flushed is safe and the next writer finishes the rest.
        """
        if self._closed:
            return
        try:
            self._confirm()
            if self._stage or self._deletions:
                self._commit_stage()
            self.roll()
            with store_errors(f"cannot finish writing to {self.location}"):
                # Gaps that an earlier writer had to leave side by side while another one ran are merged as well.
                gaps = {e.partition for e in self._manifest.files("gaps")}
                for partition in sorted(self._touched | gaps):
                    self._compactor().exact(partition)
                self._resolve_own()
                self._manifest.write_sum()
        finally:
            self._release()

    def _release(self) -> None:
        if self._closed:
            return
        self._closed = True
        stage = getattr(self, "_stage", None)
        if stage is not None:
            stage.discard()
        self._manifest.close()
        lock = getattr(self, "_lock", None)
        if lock is not None:
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error the batches since the last flush are dropped and live rows are kept."""
        if error is not None and not self._closed:
            self.discard()
        self.close()


def _stage_rows(
    stage: Stage, name: str, rows: list[tuple[Any, ...]], orders: list[int], others: dict[Partition, list[int]]
) -> None:
    """Stage live rows; where another process wrote files meanwhile, rows from before and after stay apart,
    so that each file's place in the order of writing is right.
    """
    pc = compute()

    for partition, part in split(table_of(name), rows_to_arrow(name, rows, orders)):
        column = part.column(ORDER)
        low = -1
        for cut in sorted(set(others.get(partition, ()))):
            before = part.filter(pc.and_(pc.greater(column, low), pc.less_equal(column, cut)))
            if before.num_rows:
                stage.add_part(partition, before, cut)
            low = cut
        if low >= 0:
            part = part.filter(pc.greater(column, low))
        if part.num_rows:
            stage.add_part(partition, part)


def _with_order(data: pa.Table, order: int) -> pa.Table:
    import pyarrow as pa

    return data.append_column(ORDER, pa.array(range(order, order + data.num_rows), pa.int64()))


def _import_stream(batch: ArrowBatch) -> pa.RecordBatchReader:
    """Read a C stream without copying; a lone array (``__arrow_c_array__``) is one batch."""
    import pyarrow as pa

    if hasattr(batch, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(batch)
    single = pa.record_batch(batch)
    return pa.RecordBatchReader.from_batches(single.schema, [single])


def _check_sides(name: str, sides: Sequence[tuple[int, str, int]], rows: list[tuple[Any, ...]]) -> None:
    for i, side, width in sides:
        for row in rows:
            if not isinstance(row[i], bytes | bytearray | memoryview) or len(row[i]) % width:
                raise StoreError(
                    f"record for table {name} has {side} that are not whole packed levels of {width} bytes"
                )
