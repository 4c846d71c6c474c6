"""One instrument of a store as the events of hftbacktest: an ``.npz`` with one array ``data`` of 64 bytes a row.

Written without numpy and without hftbacktest: a row is ``ev, exch_ts, local_ts, px, qty, order_id, ival, fval``.
"""

from __future__ import annotations

import heapq
import os
import shutil
import struct
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from msgspec import Struct

from cmd_common.book_history import last_snapshot
from cmd_common.records import REST, BookDelta, BookSnapshot, Gap, Record, Trade, levels

from .event_order import EventOrder

if TYPE_CHECKING:
    from cmd_common.io import IReader

__all__ = ["TABLES", "Counts", "write"]

TABLES: Final = ("trades", "book_snapshots", "book_deltas")

_DEPTH, _TRADE, _CLEAR, _SNAPSHOT = 1, 2, 3, 4
_BUY, _SELL = 1 << 29, 1 << 28
_AT_SHIFT: Final = 30  # EventOrder's bits of readers become bit 30, local, and bit 31, exchange
_LEVEL: Final = struct.Struct("<Qdd")  # event, price, quantity
_ROW: Final = struct.Struct("<QqqddQqd")
_HELD: Final = 10_000  # updates that came before the snapshot that they belong to

_DESCR: Final = "[('ev', '<u8'), ('exch_ts', '<i8'), ('local_ts', '<i8'), ('px', '<f8'), ('qty', '<f8'), ('order_id', '<u8'), ('ival', '<i8'), ('fval', '<f8')]"


class Counts(Struct):
    """What a file holds and what it leaves out."""

    rows: int = 0
    trades: int = 0
    updates: int = 0
    snapshots: int = 0
    dropped_updates: int = 0  # updates of books without a beginning
    raised_local_ts: int = 0  # messages whose receive time was before the exchange's own
    reordered: int = 0  # messages that overtook each other, in the file once for each reader


def write(
    reader: IReader,
    path: str,
    *,
    venue: str,
    symbol: str,
    tables: Sequence[str] = TABLES,
    start: int | None = None,
    end: int | None = None,
    latency: int = 0,
    gaps: Iterable[Gap] = (),
) -> Counts:
    """Write the events of one instrument to ``path``; memory does not grow with their number.

    Times are ns; ``latency`` is added to the exchange time where no receive time is known. After each of ``gaps`` in
    the book, the next snapshot replaces the book; others of an unbroken book are left out, because a backtest takes
    them for changes of the queue. Raises OSError, StoreError, DataError.
    """
    counts = Counts()
    rows_path = f"{path}.rows"
    try:
        with open(rows_path, "wb", buffering=1 << 20) as rows:
            order = EventOrder(_Rows(rows, counts).emit)
            events = _Events(order, counts, latency, gaps)
            if start is not None and "book_deltas" in tables:
                events.begin(reader, venue, symbol, start)
            for record in _merged(reader, venue, symbol, tables, start, end):
                events.add(record)
            order.close()
            counts.raised_local_ts = order.raised
            counts.reordered = order.doubled
            counts.dropped_updates += len(events.held)
        _pack(rows_path, path, counts.rows)
    finally:
        if os.path.exists(rows_path):
            os.remove(rows_path)
    return counts


def _merged(
    reader: IReader, venue: str, symbol: str, tables: Sequence[str], start: int | None, end: int | None
) -> Iterator[Trade | BookSnapshot | BookDelta]:
    """Records of all tables by exchange time; at one moment trades first, then snapshots."""
    streams = [
        ((cast("Trade", r).ts_event, rank, n, r) for n, r in enumerate(_read(reader, t, venue, symbol, start, end)))
        for rank, t in enumerate(TABLES)
        if t in tables
    ]
    for _, _, _, record in heapq.merge(*streams):
        yield cast("Trade", record)


def _read(reader: IReader, table: str, venue: str, symbol: str, start: int | None, end: int | None) -> Iterator[Record]:
    return reader.records(table, venue=venue, symbols=[symbol], start=start, end=end)


class _Events:
    """Records to messages: which updates apply, and which snapshots are needed."""

    def __init__(self, order: EventOrder, counts: Counts, latency: int, gaps: Iterable[Gap]) -> None:
        self.held: deque[BookDelta] = deque()
        self._order = order
        self._counts = counts
        self._latency = latency
        self._gaps = deque(sorted(g.ts_to for g in gaps if g.record_type != "trades"))
        self._book_at = 0  # when the last message of the book was received: they follow each other on one connection
        self._epoch: int | None = None
        self._seq = 0

    def begin(self, reader: IReader, venue: str, symbol: str, start: int) -> None:
        """Begin with the book as of ``start``, where the store can tell it."""
        book = reader.book_at(venue, symbol, start - 1)
        snapshot = last_snapshot(reader, venue, symbol, start - 1)
        if book is None or snapshot is None:
            return
        self._epoch, self._seq = snapshot.epoch, book.last_id or snapshot.seq
        self._replace(start, start, book.bids(), book.asks())

    def add(self, record: Trade | BookSnapshot | BookDelta) -> None:
        """Add the next record by exchange time."""
        if isinstance(record, Trade):
            side = _BUY if record.side == "buy" else _SELL if record.side == "sell" else 0
            self._counts.trades += 1
            at = self._local(record.ts_event, 0 if record.flags & REST else record.ts_recv)
            self._send(record.ts_event, at, [(_TRADE | side, record.price, record.quantity)])
        elif isinstance(record, BookSnapshot):
            self._snapshot(record)
        else:
            self._delta(record)

    def _local(self, exch_ts: int, received: int) -> int:
        return received or exch_ts + self._latency

    def _snapshot(self, record: BookSnapshot) -> None:
        broken = False
        while self._gaps and self._gaps[0] <= record.ts_event:
            self._gaps.popleft()
            broken = True
        if record.epoch == self._epoch and not broken:
            return
        self._epoch, self._seq = record.epoch, record.seq
        local_ts = self._local(record.ts_event, record.ts_recv)
        self._replace(record.ts_event, local_ts, levels(record.bids), levels(record.asks))
        held, self.held = self.held, deque()
        for delta in held:
            if delta.epoch == self._epoch and delta.seq > self._seq:
                self._apply(delta, record.ts_event, max(local_ts, self._local(delta.ts_event, delta.ts_recv)))
            else:
                self._counts.dropped_updates += delta.epoch != self._epoch

    def _delta(self, record: BookDelta) -> None:
        if record.epoch != self._epoch:
            if len(self.held) == _HELD:
                self.held.popleft()
                self._counts.dropped_updates += 1
            self.held.append(record)
        elif record.seq > self._seq:
            self._apply(record, record.ts_event, self._local(record.ts_event, record.ts_recv))

    def _apply(self, record: BookDelta, exch_ts: int, local_ts: int) -> None:
        self._seq = record.seq
        self._counts.updates += 1
        self._book_at = max(self._book_at, local_ts)
        rows = [(_DEPTH | _BUY, price, quantity) for price, quantity in levels(record.bids)]
        rows += [(_DEPTH | _SELL, price, quantity) for price, quantity in levels(record.asks)]
        self._send(exch_ts, self._book_at, rows)

    def _replace(
        self, exch_ts: int, local_ts: int, bids: Iterable[tuple[float, float]], asks: Iterable[tuple[float, float]]
    ) -> None:
        self._counts.snapshots += 1
        self._book_at = max(self._book_at, local_ts)
        rows: list[tuple[int, float, float]] = []
        for side, book in ((_BUY, bids), (_SELL, asks)):
            rows.append((_CLEAR | side, float("nan"), 0.0))  # no finite price: the whole side
            rows += [(_SNAPSHOT | side, price, quantity) for price, quantity in book]
        self._send(exch_ts, self._book_at, rows)

    def _send(self, exch_ts: int, local_ts: int, rows: list[tuple[int, float, float]]) -> None:
        self._order.add(exch_ts, local_ts, b"".join(_LEVEL.pack(*row) for row in rows))


class _Rows:
    """Messages to rows in a file."""

    def __init__(self, file: BinaryIO, counts: Counts) -> None:
        self._file = file
        self._counts = counts

    def emit(self, readers: int, exch_ts: int, local_ts: int, message: bytes) -> None:
        at = readers << _AT_SHIFT
        pack = _ROW.pack
        rows = [
            pack(event | at, exch_ts, local_ts, price, quantity, 0, 0, 0.0)
            for event, price, quantity in _LEVEL.iter_unpack(message)
        ]
        self._file.write(b"".join(rows))
        self._counts.rows += len(rows)


def _pack(rows_path: str, path: str, count: int) -> None:
    """The rows as the member ``data.npy`` of a zip."""
    header = f"{{'descr': {_DESCR}, 'fortran_order': False, 'shape': ({count},), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped,
        zipped.open("data.npy", "w", force_zip64=True) as member,
        open(rows_path, "rb") as rows,
    ):
        member.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("ascii"))
        shutil.copyfileobj(rows, member, 1 << 20)
