"""One instrument of a store as the events of hftbacktest: an ``.npz`` with one array ``data`` of 64 bytes a row.

Written without numpy and without hftbacktest: a row is ``ev, exch_ts, local_ts, px, qty, order_id, ival, fval``.
"""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

from cmd_common.records import REST, BookDelta, BookSnapshot, Gap, Trade

from .book_messages import BookCounts, BookMessages, Levels, merged, received
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

_DESCR: Final = "[('ev', '<u8'), ('exch_ts', '<i8'), ('local_ts', '<i8'), ('px', '<f8'), ('qty', '<f8'), ('order_id', '<u8'), ('ival', '<i8'), ('fval', '<f8')]"


class Counts(BookCounts):
    """What a file holds and what it leaves out."""

    rows: int = 0
    trades: int = 0
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
                events.book.begin(reader, venue, symbol, start)
            for record in merged(reader, venue, symbol, tables, start, end):
                events.add(record)
            order.close()
            counts.raised_local_ts = order.raised
            counts.reordered = order.doubled
            events.book.close()
        _pack(rows_path, path, counts.rows)
    finally:
        if os.path.exists(rows_path):
            os.remove(rows_path)
    return counts


class _Events:
    """Records to messages of hftbacktest."""

    def __init__(self, order: EventOrder, counts: Counts, latency: int, gaps: Iterable[Gap]) -> None:
        self.book = BookMessages(self._book, counts, latency, gaps)
        self._order = order
        self._counts = counts
        self._latency = latency

    def add(self, record: Trade | BookSnapshot | BookDelta) -> None:
        """Add the next record by exchange time."""
        if isinstance(record, BookSnapshot):
            self.book.snapshot(record)
        elif isinstance(record, BookDelta):
            self.book.delta(record)
        else:
            side = _BUY if record.side == "buy" else _SELL if record.side == "sell" else 0
            self._counts.trades += 1
            at = received(record.ts_event, 0 if record.flags & REST else record.ts_recv, self._latency)
            self._send(record.ts_event, at, [(_TRADE | side, record.price, record.quantity)])

    def _book(self, exch_ts: int, local_ts: int, seq: int, replaces: bool, bids: Levels, asks: Levels) -> None:
        rows: list[tuple[int, float, float]] = []
        for side, book in ((_BUY, bids), (_SELL, asks)):
            if replaces:
                rows.append((_CLEAR | side, float("nan"), 0.0))  # no finite price: the whole side
            kind = _SNAPSHOT if replaces else _DEPTH
            rows += [(kind | side, price, quantity) for price, quantity in book]
        self._send(exch_ts, local_ts, rows)

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
