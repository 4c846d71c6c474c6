"""The stores of the simulation: a light one in memory for most seeds, and the taps on any of them."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from cmd_common.io import WriterCounters
from cmd_common.records import TABLE_OF, AggTrade, Record, Trade
from cmd_common.schema import SCHEMA
from cmd_common.testing.simdisk import SimulatedCrash
from cmd_common.testing.simulation import EventLog, Violation

Key = tuple[Any, ...]
_encoder = msgspec.msgpack.Encoder()


def key_of(record: Record) -> tuple[str, Key]:
    """The table and key of a record, as the schema says."""
    table = TABLE_OF[type(record)]
    return table, tuple(getattr(record, name) for name in SCHEMA[table].key)


def preferred(old: Record, new: Record) -> Record:
    """The row that stays of two with one key: the schema's preference, else the newer."""
    table = SCHEMA[TABLE_OF[type(old)]]
    if table.prefer is not None:
        column, order = table.prefer
        a, b = order.index(getattr(old, column)), order.index(getattr(new, column))
        if a != b:
            return old if a < b else new
    return new


class LightStore:
    """Stands in for a store where a seed does not need a real one: rows by key, and what is durable.

    A crash loses what was not flushed, except for a first part of it (a store may write early, and
    in order). Faults: a write or a flush fails with EIO or ENOSPC; nothing of a failed flush counts.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rows: dict[tuple[str, Key], Record] = {}
        self.eio = 0.0
        self.enospc = 0.0
        self.torn = 0.0
        self.injected: list[str] = []
        self._pending: list[Record] = []
        self.generation = 0

    def crash(self) -> None:
        """The process died: some first part of what was not flushed is there, perhaps."""
        keep = self.rng.randint(0, len(self._pending)) if self.rng.random() < self.torn else 0
        if keep:
            self.injected.append("torn")
        self.settle(keep)
        self._pending.clear()
        self.generation += 1

    def settle(self, count: int) -> None:
        """Make the first ``count`` accepted records durable."""
        for record in self._pending[:count]:
            key = key_of(record)
            old = self.rows.get(key)
            self.rows[key] = record if old is None else preferred(old, record)
        del self._pending[:count]

    def fail(self) -> None:
        """Raise a disk error by the rates."""
        roll = self.rng.random() if self.eio or self.enospc else 1.0
        if roll < self.eio:
            self.injected.append("eio")
            raise OSError(errno.EIO, "Input/output error")
        if roll < self.eio + self.enospc:
            self.injected.append("enospc")
            raise OSError(errno.ENOSPC, "No space left on device")

    def writer(self) -> LightWriter:
        """Open for writing; what an earlier writer could not flush goes as in a crash."""
        self.crash()
        return LightWriter(self)

    def records(self, table: str) -> Iterator[Record]:
        """Durable rows of a table, in order of their keys."""
        return iter([self.rows[key] for key in sorted(k for k in self.rows if k[0] == table)])

    def accept(self, records: Sequence[Record]) -> None:
        """Take records that are not durable yet."""
        self._pending.extend(records)

    @property
    def pending(self) -> int:
        """Number of records that are not durable yet."""
        return len(self._pending)


class LightWriter:
    """``IWriter`` of a LightStore; dead after a crash."""

    def __init__(self, store: LightStore) -> None:
        self._store = store
        self._generation = store.generation
        self.counters = WriterCounters(records={})

    def _alive(self) -> None:
        if self._generation != self._store.generation:
            raise OSError(errno.EBADF, "this process is dead")

    def write(self, records: Sequence[Record]) -> None:
        """Accept records."""
        self._alive()
        self._store.fail()
        self._store.accept(records)

    def flush(self) -> None:
        """Make everything durable."""
        self._alive()
        self._store.fail()
        self._store.settle(self._store.pending)

    def close(self) -> None:
        """Flush."""
        self.flush()


class LightReader:
    """The part of ``IReader`` that a recorder asks for."""

    def __init__(self, store: LightStore) -> None:
        self._store = store

    def tables(self) -> list[str]:
        """Tables that hold rows."""
        return sorted({table for table, _ in self._store.rows})

    def latest(self, table: str, *, venue: str, symbol: str) -> Record | None:
        """The newest durable row of an instrument."""
        time = SCHEMA[table].time
        mine = [r for r in self._store.records(table) if r.symbol == symbol]  # type: ignore[union-attr]
        return max(mine, key=lambda r: getattr(r, time), default=None)

    def __enter__(self) -> LightReader:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Tap:
    """Sits between the pipeline and a writer: logs what is written and knows what is confirmed.

    ``died`` is called when the disk says that the process dies inside an operation. A dead tap refuses.
    """

    def __init__(self, writer: Any, log: EventLog, now: Callable[[], int], died: Callable[[], None]) -> None:
        self._writer = writer
        self._log = log
        self._now = now
        self._died = died
        self._written: list[Record] = []
        self.confirmed: list[Record] = []
        self.newest: dict[tuple[str, str], int] = {}  # trade id by table and symbol
        self.counters = writer.counters
        self.open = True
        self.dead = False

    def _call(self, function: Callable[..., None], *args: object) -> None:
        if self.dead:
            raise SimulatedCrash("this process is dead")
        try:
            function(*args)
        except SimulatedCrash:
            self.dead = True
            self._died()
            raise

    def write(self, records: Sequence[Record]) -> None:
        """Write and remember."""
        for record in records:
            self._log.add(self._now(), "record", _encoder.encode(record))
            if isinstance(record, Trade | AggTrade) and record.trade_seq is not None:
                self.newest[TABLE_OF[type(record)], record.symbol] = record.trade_seq
        self._call(self._writer.write, records)
        self._written.extend(records)

    def flush(self) -> None:
        """Flush; what was written before is confirmed once this returns."""
        self._confirm(self._writer.flush, "flush")

    def close(self) -> None:
        """Close: it flushes. A close that failed confirms nothing, and the next one does nothing."""
        if self.open:
            self.open = False
            self._confirm(self._writer.close, "close")

    def _confirm(self, function: Callable[[], None], what: str) -> None:
        count = len(self._written)
        self._call(function)
        self.confirmed.extend(self._written[:count])
        del self._written[:count]
        self._log.add(self._now(), what, str(count))


class Acknowledged:
    """Everything that any incarnation of the recorder has been told is durable."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Key], Record] = {}

    def add(self, records: Iterable[Record]) -> None:
        """Add confirmed records in the order of their confirmation."""
        for record in records:
            key = key_of(record)
            old = self.rows.get(key)
            self.rows[key] = record if old is None else preferred(old, record)

    def check(self, found: dict[str, list[Record]], when: str) -> None:
        """Raise Violation unless every confirmed row is in the store, once and unchanged."""
        stored: dict[tuple[str, Key], Record] = {}
        for records in found.values():
            for record in records:
                key = key_of(record)
                if key in stored:
                    raise Violation("unique", f"{when}: the store gives {key} twice")
                stored[key] = record
        for key, record in self.rows.items():
            got = stored.get(key)
            if got is None:
                raise Violation("durable", f"{when}: confirmed row {key} is lost")
            if got != record and preferred(record, got) is not got:
                raise Violation("durable", f"{when}: confirmed row {key} was replaced: {record} by {got}")
