"""The writer: live rows and bulk units into a QuestDB server, with retries, a spill and a quarantine.

Theory of operation. ``write`` checks records and holds them as rows; ``write_batch`` and ``delete`` collect a unit.
``flush`` sends what waits, in the order of the calls: live rows table by table, gaps first, then units. Rows go in
chunks, one transaction and one table each, the classes of the preference one after the other (``merge``). A chunk is
held until the server has confirmed it, and sent again after every failure that leaves it open; sending twice changes
nothing.

Live rows that the server does not take in time go to the spill, where there is one, and are thereby durable:
``flush`` confirms them. From then on new rows go behind them, and each flush sends some of what waits, until the
spill is empty. Without a spill ``flush`` fails and the rows stay accepted, so that the next flush tries again.
Bulk units are never spilled: their source still has them. A unit whose flush fails is dropped and written again.

A row that QuestDB cannot hold is put into the quarantine before it is sent, one that the server refuses after it
was found: by the line that the server names, or else by halving the chunk. The other rows of the chunk are stored.
Where a table is not there, or a column of another type, it is not the row's fault: then ``flush`` fails and says so.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from cmd_common.errors import StoreError
from cmd_common.gaps import in_safe_order
from cmd_common.io import ArrowBatch
from cmd_common.records import TABLE_OF, Record
from cmd_common.schema import table as table_of
from cmd_common.seams import Clock, Rng, SystemClock, system_rng

from .bulk import load
from .conf import Conf
from .delivery import Delivery, GaveUp, QuestDBCounters
from .frames import AHEAD, check_batch, check_schema, cut, rows, to_batch, tombstones
from .merge import any_better, stored_keys, wait_applied, without_keys
from .migrations import ensure
from .quarantine import Quarantine
from .retry import RetryPolicy
from .spill import Spill
from .sql import ServerAway, SqlClient, TableSuspended, literal, timestamp
from .staging import Staged, Unit
from .transport import HttpTransport, Transport

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["QuestDBCounters", "QuestDBWriter", "WriterOptions", "state_folder"]

_LOG: Final = logging.getLogger("cmd_questdb")


class WriterOptions(msgspec.Struct, frozen=True):
    """Limits of a writer beyond those of its location; seconds and rows."""

    patience: float = 3.0  # for a live chunk before it is spilled, where there is a spill
    drain: float = 2.0  # spent in one flush on what waits in the spill
    away: float = 5.0  # longest pause between looks whether the server is back
    hold: int = 100_000  # live rows that wait for a flush; more are sent at once
    close: float = 30.0  # spent at close on draining and on waiting until the rows can be read
    connect_timeout: float = 5.0
    watchdog: float | None = None  # None: the time-outs and 5 s


class _Live:
    """Live rows between two units: by table, in the order of the first row of each."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[Any, ...]]] = {}
        self.count = 0


class _Deletion(msgspec.Struct, frozen=True):
    table: str
    condition: str


def state_folder(conf: Conf) -> Path:
    """Where a writer keeps what belongs to a server, when it has no spill folder: the quarantine."""
    if conf.spill:
        return Path(conf.spill)
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    name = hashlib.sha256(f"{conf.shown} {conf.table_prefix}".encode()).hexdigest()[:16]
    return Path(home) / "cryptomarketdata" / "questdb" / name


class QuestDBWriter:
    """An ``IWriter`` into a QuestDB server. Not thread-safe; any number of writers may share the tables."""

    def __init__(
        self,
        conf: Conf,
        *,
        options: WriterOptions | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect and check the schema; an empty database gets it, unless ``create=off``.

        With a spill folder a server that is away is no error: rows wait there, and the schema is checked before the
        first is sent. Raises StoreError and its kinds of ``cmd_questdb.sql``.
        """
        self.conf = conf
        self.notices: list[str] = []  # what was found when this writer opened
        self._options = options or WriterOptions()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._rng = rng if rng is not None else system_rng()
        self._monotonic = monotonic
        self._client = SqlClient(conf)
        self._transport: Transport = (
            transport
            if transport is not None
            else HttpTransport(conf, connect_timeout=self._options.connect_timeout, watchdog=self._options.watchdog)
        )
        self._queue: list[_Live | Unit] = []
        self._deletions: list[_Deletion] = []
        self._waiting = 0  # live rows in the queue
        self._closed = False
        self._checked = False
        self._back_at = 0.0  # not before this is an absent server asked again
        self._absent = 0  # failed looks in a row
        self._quarantine = Quarantine(state_folder(conf), clock=self._clock)
        self._delivery = Delivery(
            conf,
            self._client,
            self._transport,
            self._quarantine,
            clock=self._clock,
            rng=self._rng,
            sleep=sleep,
            monotonic=monotonic,
        )
        self.counters: QuestDBCounters = self._delivery.counters
        self._spill: Spill | None = None
        try:
            try:
                self._check()
            except ServerAway as error:
                if not conf.spill:
                    raise
                self._left(error)
            if conf.spill:
                self._spill = Spill(conf.spill, conf.spill_limit)
                self.counters.spill_bytes = self._spill.bytes
                if self._spill.waiting:
                    self._notice(f"an earlier writer left {self._spill.bytes:,} bytes of rows in {conf.spill}")
        except BaseException:
            self._release()
            raise

    def _notice(self, message: str) -> None:
        self.notices.append(message)
        _LOG.warning("%s", message)

    def _check(self) -> None:
        """Check the schema and the clocks once the server is there; raises StoreError."""
        if self._checked:
            return
        ensure(self._client, create=self.conf.create)
        server = int(self._client.value("SELECT systimestamp()::LONG")) * 1000
        skew = server - self._clock.now()
        if abs(skew) > AHEAD // 24:
            self._notice(
                f"the clocks of this machine and of {self.conf.shown} differ by {abs(skew) / 3.6e12:,.1f} hours; "
                "rows more than a day ahead of both are not stored"
            )
        self._delivery.ahead = AHEAD + max(skew, 0)
        self._checked = True

    # -- accepting --------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record]) -> None:
        """Accept records of any mix of tables; durable after the next ``flush``.

        ``ts_recv == 0`` means that there is no receive time. Raises StoreError for a record that does not have the
        schema's types (then none of this call's records is accepted), and as ``flush`` does when so many rows wait
        that they are sent at once. A value that QuestDB cannot hold puts its row into the quarantine.
        """
        self._check_open()
        by_table: dict[str, list[Record]] = {}
        for record in records:
            name = TABLE_OF.get(type(record))
            if name is None:
                raise StoreError(f"{type(record).__name__} is not a record of the schema")
            by_table.setdefault(name, []).append(record)
        checked = {name: rows(name, found) for name, found in by_table.items()}
        if not checked:
            return
        if not self._queue or not isinstance(self._queue[-1], _Live):
            self._queue.append(_Live())
        live = self._queue[-1]
        assert isinstance(live, _Live)
        for name, found in checked.items():
            live.rows.setdefault(name, []).extend(found)
            live.count += len(found)
            self._waiting += len(found)
            self._count(name, len(found))
        if self._waiting > self._options.hold and self._queue[0] is live:  # rows behind a unit wait for its flush
            self._send_queue()

    def write_batch(self, table: str, batch: ArrowBatch) -> int:
        """Collect rows of anything with the Arrow C stream; they are stored by the next ``flush``.

        A stream is read batch by batch and kept on disk beyond 128 MiB. Returns the number of rows. Raises
        UnknownNameError for the table, StoreError for columns or types that differ from the schema, and for nulls;
        when reading fails later, the whole unit since the last flush is dropped.
        """
        self._check_open()
        table_of(table)
        import pyarrow as pa

        try:
            if isinstance(batch, pa.RecordBatch | pa.Table):
                pieces: Iterable[pa.RecordBatch | pa.Table] = [batch]
                check_schema(table, batch.schema)
            else:
                stream = pa.RecordBatchReader.from_stream(batch)
                pieces = stream
                check_schema(table, stream.schema)
        except (pa.ArrowException, TypeError, AttributeError) as error:
            raise StoreError(f"a batch for table {table} cannot be read: {error}") from error
        if not self._queue or not isinstance(self._queue[-1], Unit):
            self._queue.append(Unit())
        unit = self._queue[-1]
        assert isinstance(unit, Unit)
        count = 0
        try:
            for piece in pieces:
                data = self._delivery.sift(table, check_batch(table, piece))
                unit.add(table, data)
                count += piece.num_rows
        except (StoreError, pa.ArrowException, OSError) as error:
            self.discard()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"a batch for table {table} cannot be read or kept: {error}") from error
        self.counters.batches += 1
        self._count(table, count)
        return count

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
        """Delete rows with times in ``[start, end)`` at the next ``flush``, once what it writes is stored.

        Rows that came from a file (their receive time is null) go, rows recorded live stay unless ``archived_only``
        is False. ``interval`` and ``source`` narrow it to such candles. Rows whose keys are written by the same
        flush stay. A deleted row leaves its key as a tombstone (see ``merge``). Raises UnknownNameError, StoreError.
        """
        self._check_open()
        schema = table_of(table)
        parts = [f"{schema.time} >= {timestamp(start)}", f"{schema.time} < {timestamp(end)}"]
        for column, value in (("venue", venue), ("symbol", symbol), ("interval", interval), ("source", source)):
            if value is None:
                continue
            if column not in schema.names:
                raise StoreError(f"table {table} has no column {column} to delete by")
            parts.append(f"{column} = {literal(value)}")
        if archived_only and "ts_recv" in schema.names:
            parts.append("ts_recv IS NULL")
        self._deletions.append(_Deletion(table, " AND ".join(parts)))

    def discard(self) -> None:
        """Drop all batches and deletions since the last ``flush``; live rows are untouched."""
        for item in self._queue:
            if isinstance(item, Unit):
                item.close()
        self._queue = [item for item in self._queue if isinstance(item, _Live)]
        self._deletions.clear()

    # -- flushing ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Return when everything accepted so far is durable: stored by the server, or live rows in the spill.

        After a unit it also waits until the server shows the rows to readers. Raises StoreError; then live rows stay
        accepted and the next flush tries again, while the unit is dropped and has to be written again.
        """
        self._check_open()
        if self._spill is not None and self._spill.waiting:  # first: it may be full
            self._drain(self._options.drain)
        try:
            self._send_queue()
        finally:
            if self._spill is not None:
                self.counters.spill_bytes = self._spill.bytes
        self._quarantine.sync()
        self.counters.flushes += 1

    def _send_queue(self) -> None:
        keys: dict[str, list[pa.Table]] = {}
        try:
            while self._queue:
                item = self._queue[0]
                if isinstance(item, _Live):
                    self._send_live(item)
                else:
                    self._send_unit(item, keys)
                    item.close()
                self._queue.pop(0)
            if self._deletions:
                self._patiently(lambda: self._delete(keys))
                self._deletions.clear()
        except BaseException:
            self.discard()
            raise

    def _send_live(self, live: _Live) -> None:
        """Send or spill live rows, table by table; what is neither stays in ``live``."""
        for name in in_safe_order(live.rows):
            data = self._delivery.sift(name, to_batch(name, live.rows[name]))
            count = len(live.rows[name])
            self._settle_live(name, data)
            del live.rows[name]
            live.count -= count
            self._waiting -= count

    def _settle_live(self, name: str, data: pa.Table) -> None:
        spill = self._spill
        if spill is None:
            self._patiently(lambda: self._delivery.send_rows(name, data, self.conf.retry_timeout / 1000))
            return
        if not spill.waiting and self._is_back():
            try:
                self._check()
                self._delivery.send_rows(name, data, min(self._options.patience, self.conf.retry_timeout / 1000))
                self._returned()
                return
            except (ServerAway, TableSuspended) as error:
                self._left(error)
        chunks = [(name, chunk) for chunk in cut(data, self.conf.chunk_rows)]
        if chunks:
            self.counters.bytes += spill.append(chunks)
            self.counters.spilled += data.num_rows

    def _patiently(self, action: Callable[[], Any]) -> Any:
        """Do something that asks the server, again while it is away and ``retry_timeout`` lasts."""
        backoff = self._delivery.backoff(self.conf.retry_timeout / 1000)
        while True:
            try:
                self._check()
                return action()
            except GaveUp as error:
                raise error.error from None
            except ServerAway:
                self.counters.retries += 1
                if not backoff.pause():
                    raise

    # -- an absent server and the spill -----------------------------------------------------------------

    def _is_back(self) -> bool:
        return self._monotonic() >= self._back_at

    def _left(self, error: StoreError) -> None:
        """Note that the server is away, and when to look again."""
        if not self._absent:
            _LOG.warning("%s; rows wait in %s", error, self.conf.spill)
        policy = RetryPolicy(first=0.1, cap=self._options.away)
        self._back_at = self._monotonic() + policy.wait(self._absent, self._rng)
        self._absent += 1

    def _returned(self) -> None:
        if self._absent:
            _LOG.warning("%s takes rows again", self.conf.shown)
        self._absent = 0

    def _drain(self, seconds: float) -> bool:
        """Send what waits in the spill, oldest first, for so long; True when nothing is left."""
        spill = self._spill
        if spill is None:
            return True
        end = self._monotonic() + seconds
        damaged = spill.damaged
        while True:
            if not self._is_back():
                return False
            group = spill.peek(self.conf.chunk_rows)
            if spill.damaged > damaged:
                self._notice(f"{spill.damaged - damaged} damaged parts of {spill.folder} were left out; see *.damaged")
                damaged = spill.damaged
            if group is None:
                self._returned()
                return True
            try:
                self._check()
                for name, data in _by_table(group.chunks):
                    self._delivery.send_rows(name, data, 0.0)
            except (ServerAway, TableSuspended) as error:
                self._left(error)
                return False
            spill.sent(group.token)
            self._returned()
            self.counters.drained += sum(data.num_rows for _, data in group.chunks)
            if self._monotonic() > end:
                return False

    # -- bulk units -------------------------------------------------------------------------------------

    def _send_unit(self, unit: Unit, keys: dict[str, list[pa.Table]]) -> None:
        """Store a unit, proven to be there; with deletions pending the keys of its rows are collected."""
        wanted = {d.table for d in self._deletions}
        for name, staged in unit.tables.items():
            self._patiently(lambda staged=staged: self._load(staged))  # type: ignore[misc]
            if name in wanted:
                keys.setdefault(name, []).extend(p.select(list(table_of(name).key)) for p in staged.pieces())

    def _load(self, staged: Staged) -> None:
        patience = self.conf.retry_timeout / 1000
        counters = self._delivery.counters

        def send(pieces: Iterable[pa.Table]) -> int:
            before = counters.quarantined
            self._delivery.send_bulk(staged.name, pieces, patience, unbeaten=self._is_unbeaten(staged))
            return counters.quarantined - before

        if load(self._client, staged.name, staged, send):
            counters.files += 1
            counters.sent += staged.rows
            self._delivery.touched.add(staged.name)

    def _is_unbeaten(self, staged: Staged) -> bool:
        """Whether no row of the unit can lose against a stored one: asked once, instead of for each chunk."""
        if len(staged.classes) != 1:
            return False
        wait_applied(self._client, staged.name)
        return not any_better(self._client, staged.name, staged.times, staged.values, max(staged.classes))

    def _delete(self, keys: dict[str, list[pa.Table]]) -> None:
        """Replace rows by tombstones, except those with the given keys."""
        import pyarrow as pa

        deleted = 0
        for deletion in self._deletions:
            wait_applied(self._client, deletion.table)
            gone = stored_keys(self._client, deletion.table, deletion.condition)
            if deletion.table in keys:
                gone = without_keys(deletion.table, gone, pa.concat_tables(keys[deletion.table]))
            for chunk in cut(tombstones(deletion.table, gone), self.conf.chunk_rows):
                self._delivery.send_chunk(deletion.table, chunk, self.conf.retry_timeout / 1000)
            wait_applied(self._client, deletion.table)
            deleted += gone.num_rows
        self.counters.deleted += deleted

    # -- the end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Flush and release; calling it again does nothing.

        Waits a little for the spill to be sent and for the server to show everything to readers. What waits in the
        spill stays there for the next writer. Raises StoreError when rows could not be made durable.
        """
        if self._closed:
            return
        try:
            try:
                self.flush()
            except StoreError:
                self._spill_rest()
                raise
            if self._spill is not None and self._spill.waiting and not self._drain(self._options.close):
                self._notice(
                    f"{self._spill.bytes:,} bytes of rows wait in {self.conf.spill}; the next writer sends them"
                )
            self._settle_tables()
        finally:
            self._release()

    def _spill_rest(self) -> None:
        """Put live rows that no flush could settle into the spill, so that they are not lost with the writer."""
        if self._spill is None:
            return
        for item in self._queue:
            if isinstance(item, _Live):
                for name in in_safe_order(item.rows):
                    data = self._delivery.sift(name, to_batch(name, item.rows[name]))
                    self._spill.append([(name, chunk) for chunk in cut(data, self.conf.chunk_rows)])
                    self.counters.spilled += data.num_rows
        self._queue.clear()

    def _settle_tables(self) -> None:
        """Wait until the server shows what was written to readers; that it takes long is no error."""
        end = self._monotonic() + self._options.close
        try:
            for name in sorted(self._delivery.touched):
                wait_applied(self._client, name, timeout=max(end - self._monotonic(), 0.1))
        except StoreError as error:
            self._notice(f"rows are stored but cannot be read yet: {error}")

    def _release(self) -> None:
        self._closed = True
        self._transport.close()
        self._client.close()
        self._quarantine.sync()
        if self._spill is not None:
            self._spill.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the writer of {self.conf.shown} is closed")

    def _count(self, name: str, count: int) -> None:
        self.counters.records[name] = self.counters.records.get(name, 0) + count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _by_table(chunks: Sequence[tuple[str, pa.Table]]) -> list[tuple[str, pa.Table]]:
    """The rows of chunks put together by table; order means something only within one."""
    import pyarrow as pa

    found: dict[str, list[pa.Table]] = {}
    for name, data in chunks:
        found.setdefault(name, []).append(data)
    return [(name, pa.concat_tables(parts)) for name, parts in found.items()]
