"""Chunks on their way to the server: classes of the preference, retries, and rows that the server refuses.

Bulk rows go in large chunks, and each is made ready while the server takes the one before (``send_bulk``): the server
needs most of the time. Chunks are confirmed one after the other all the same. When one fails, nothing else is under
way, and its rows go again in small chunks, as live rows do, until they are stored: only then the next is begun.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from cmd_common.errors import StoreError
from cmd_common.io import WriterCounters
from cmd_common.schema import table as table_of
from cmd_common.seams import Clock, Rng

from .conf import Conf
from .convert import MIN_AGE, make_native
from .frames import AHEAD, compute, cut, faults, frame, regroup
from .merge import classes, drop_beaten
from .quarantine import Quarantine
from .retry import Backoff, RetryPolicy
from .sql import AuthError, ServerAway, SqlClient
from .transport import Transport, TransportError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Delivery", "GaveUp", "QuestDBCounters"]

_LOG: Final = logging.getLogger("cmd_questdb")
_BAD_ROWS: Final = 100  # of one chunk; with more it is not the rows that are wrong
_BULK_CHUNK: Final = 150_000  # rows in a transaction of bulk rows at most: fewer transactions are faster


class QuestDBCounters(WriterCounters):
    """Counts since the writer was opened."""

    chunks: int = 0  # transactions that the server confirmed
    sent: int = 0  # rows in them
    retries: int = 0
    refused: int = 0  # attempts that found nobody listening
    in_doubt: int = 0  # attempts after which it was not known whether the rows were stored
    failed: int = 0  # attempts that the server failed (5xx)
    hung: int = 0  # attempts that the watchdog gave up
    spilled: int = 0  # rows confirmed in the spill
    drained: int = 0  # rows sent from there, also those of earlier writers
    spill_bytes: int = 0  # that wait there now
    quarantined: int = 0
    beaten: int = 0  # rows not written because a better one is stored
    deleted: int = 0


class GaveUp(ServerAway):
    """The retry loop of a chunk reached its limit: the loop around it must not begin anew."""

    def __init__(self, error: ServerAway) -> None:
        super().__init__(error.message, hint=error.hint)
        self.error = error


class _Begun(NamedTuple):
    """A chunk under way."""

    name: str
    chunk: pa.Table
    patience: float


class Delivery:
    """Sends the rows of one writer. Not thread-safe."""

    def __init__(
        self,
        conf: Conf,
        client: SqlClient,
        transport: Transport,
        quarantine: Quarantine,
        *,
        clock: Clock,
        rng: Rng,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conf = conf
        self.counters = QuestDBCounters({})
        self.touched: set[str] = set()  # tables that took rows
        self.ahead = AHEAD  # ns that a row may be ahead of our clock
        self._client = client
        self._transport = transport
        self._quarantine = quarantine
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._monotonic = monotonic
        self._begun: _Begun | None = None

    def backoff(self, limit: float) -> Backoff:
        """Pauses between attempts for at most ``limit`` seconds."""
        policy = RetryPolicy(limit=limit)
        return Backoff(policy, rng=self._rng, monotonic=self._monotonic, sleep=self._sleep)

    def sift(self, name: str, data: pa.Table) -> pa.Table:
        """The rows that QuestDB can hold; the others go to the quarantine."""
        found = faults(name, data, self._clock.now() + self.ahead)
        if not found:
            return data
        import numpy as np
        import pyarrow as pa

        for fault in found:
            self._put_away(name, data.slice(fault.row, 1), fault.column, fault.reason)
        keep = np.ones(data.num_rows, bool)
        keep[[f.row for f in found]] = False
        return data.filter(pa.array(keep))

    def _put_away(self, name: str, row: pa.Table, column: str, reason: str) -> None:
        self._quarantine.put(name, column, reason, row.to_pylist()[0])
        self.counters.quarantined += 1

    def send_rows(self, name: str, data: pa.Table, patience: float) -> None:
        """Store rows by the schema's preference.

        Raises ServerAway when that takes longer than ``patience`` seconds a chunk, TableSuspended, StoreError.
        """
        for left in self._preferred(name, data):
            for chunk in cut(left, self.conf.chunk_rows):
                self.send_chunk(name, chunk, patience)

    def send_bulk(self, name: str, pieces: Iterable[pa.Table], patience: float, *, unbeaten: bool) -> None:
        """Store many rows as ``send_rows`` does, faster; ``unbeaten``: it is known that no better row is stored."""
        limit = max(_BULK_CHUNK, self.conf.chunk_rows)
        try:
            for data in regroup(pieces, limit):
                for left in [data] if unbeaten else self._preferred(name, data):
                    for chunk in cut(left, limit):
                        self._begin(name, chunk, patience)
            self._settle()
        finally:
            self._begun = None  # of a unit that failed: it is written again

    def _preferred(self, name: str, data: pa.Table) -> Iterable[pa.Table]:
        """The rows that no stored row beats, class by class, the worst first."""
        import pyarrow as pa

        of_row = classes(name, data)
        found = sorted({int(c) for c in set(of_row.tolist())}, reverse=True)
        for cls in found:
            mine = data if len(found) == 1 else data.filter(pa.array(of_row == cls))
            if cls:
                self._settle()  # what is under way counts as stored
            left = drop_beaten(self._client, name, mine, cls)
            self.counters.beaten += mine.num_rows - left.num_rows
            yield left

    def _begin(self, name: str, chunk: pa.Table, patience: float) -> None:
        """Make a chunk ready, wait for the one before, and begin to send it."""
        try:
            self._open_partitions(name, chunk)
            packet = self._transport.prepare(self.conf.table(name), frame(name, chunk))
        except (ServerAway, TransportError):
            self._settle()
            self.send_chunk(name, chunk, patience)  # which meets it again and knows what to do
            return
        self._settle()
        self._transport.start(packet)
        self._begun = _Begun(name, chunk, patience)

    def _settle(self) -> None:
        """Return when the chunk under way is stored, if there is one."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        name, chunk, patience = begun
        try:
            self._transport.finish()
        except TransportError as error:
            if error.again:
                self._count_failure(error)
                self.counters.retries += 1
            for part in cut(chunk, self.conf.chunk_rows):
                self.send_chunk(name, part, patience)
            return
        self._count_sent(name, chunk)

    def send_chunk(self, name: str, chunk: pa.Table, patience: float) -> None:
        """Return when the chunk is stored, without its bad rows. Raises ServerAway after ``patience`` seconds."""
        backoff = self.backoff(patience)
        bad = 0
        native = False
        while chunk.num_rows:
            try:
                if not native:
                    self._open_partitions(name, chunk)
                    native = True
            except ServerAway as error:
                self.counters.refused += 1
                if not backoff.pause():
                    raise self._gave_up(TransportError("away", error.message)) from error
                self.counters.retries += 1
                continue
            try:
                self._transport.send(self.conf.table(name), frame(name, chunk))
            except TransportError as error:
                if error.again:
                    self._count_failure(error)
                    if not backoff.pause():
                        raise self._gave_up(error) from error
                    self.counters.retries += 1
                    continue
                if error.kind == "auth":
                    raise AuthError(
                        f"QuestDB at {self.conf.shown} refuses to be written to: {error.message}",
                        hint="check username and password of the store",
                    ) from error
                if error.kind == "table":
                    raise StoreError(
                        f"table {self.conf.table(name)} does not take rows: {error.message}",
                        hint="it was changed by hand; see cmd-cli store status and cmd-cli store migrate",
                    ) from error
                if bad >= _BAD_ROWS:
                    raise StoreError(
                        f"{bad} rows of one chunk for table {self.conf.table(name)} are refused; the last for: "
                        f"{error.message}",
                        hint="see cmd-cli store check",
                    ) from error
                if chunk.num_rows == 1:
                    self._put_away(name, chunk, error.column, error.message)
                    return
                if not 0 <= error.row < chunk.num_rows:
                    self._halve(name, chunk, patience, error)
                    return
                bad += 1
                self._put_away(name, chunk.slice(error.row, 1), error.column, error.message)
                chunk = _without(chunk, error.row)
                continue
            self._count_sent(name, chunk)
            return

    def _open_partitions(self, name: str, chunk: pa.Table) -> None:
        """Make partitions native that old rows go into: in Parquet form they may come to hold duplicates."""
        bounds = compute().min_max(chunk.column(table_of(name).time)).as_py()
        if bounds["min"] < self._clock.now() - MIN_AGE:  # younger partitions are never converted
            made = make_native(self._client, name, bounds["min"], bounds["max"] + 1)
            if made:
                _LOG.info("partitions %s of %s are native again for the rows that come", ", ".join(made), name)

    def _halve(self, name: str, chunk: pa.Table, patience: float, error: TransportError) -> None:
        """Send a chunk with an unknown bad row in two halves, and those again, until it stands alone."""
        before = self.counters.quarantined
        stack = [chunk]
        while stack:
            part = stack.pop()
            if self.counters.quarantined - before > _BAD_ROWS:
                raise StoreError(
                    f"too many rows for table {self.conf.table(name)} are refused: {error.message}",
                    hint="see cmd-cli store check",
                ) from error
            try:
                self._transport.send(self.conf.table(name), frame(name, part))
            except TransportError as again:
                if again.kind not in ("refused", "row") or part.num_rows == 1:
                    self.send_chunk(name, part, patience)
                    continue
                half = part.num_rows // 2
                stack += [part.slice(half), part.slice(0, half)]
                continue
            self._count_sent(name, part)

    def _count_sent(self, name: str, chunk: pa.Table) -> None:
        self.counters.chunks += 1
        self.counters.sent += chunk.num_rows
        self.touched.add(name)

    def _count_failure(self, error: TransportError) -> None:
        counters = self.counters
        if error.kind == "away":
            counters.refused += 1
        elif error.kind == "failed":
            counters.failed += 1
        elif error.kind == "hung":
            counters.hung += 1
            _LOG.warning("a call of the QuestDB client hung and was given up (%d so far)", counters.hung)
        else:
            counters.in_doubt += 1

    def _gave_up(self, error: TransportError) -> GaveUp:
        return GaveUp(
            ServerAway(
                f"QuestDB at {self.conf.shown} does not take rows: {error.message}",
                hint="is the server running? with spill=DIR rows wait on disk",
            )
        )


def _without(data: pa.Table, row: int) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([data.slice(0, row), data.slice(row + 1)])
