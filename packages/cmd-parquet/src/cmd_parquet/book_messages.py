"""Which snapshots and updates of a stored book another program needs to follow it, in the order of one connection."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, cast

from msgspec import Struct

from cmd_common.book_history import last_snapshot
from cmd_common.records import BookDelta, BookSnapshot, Gap, Record, Trade, levels

if TYPE_CHECKING:
    from cmd_common.io import IReader

__all__ = ["BookCounts", "BookMessages", "Levels", "Send", "merged", "received"]

Levels = Iterable[tuple[float, float]]
Send = Callable[[int, int, int, bool, Levels, Levels], None]
"""Takes a message: exchange time, receive time, update id, whether it replaces the book, bids and asks."""

_BY_RANK: Final = ("trades", "book_snapshots", "book_deltas")
_HELD: Final = 10_000  # updates that came before the snapshot that they belong to


class BookCounts(Struct):
    """What of a book was given on, and what was left out."""

    updates: int = 0
    snapshots: int = 0
    dropped_updates: int = 0  # updates of books without a beginning


def received(exch_ts: int, ts_recv: int, latency: int) -> int:
    """When a row was received, ns; from the exchange time where that is not known."""
    return ts_recv or exch_ts + latency


def merged(
    reader: IReader, venue: str, symbol: str, tables: Sequence[str], start: int | None, end: int | None
) -> Iterator[Trade | BookSnapshot | BookDelta]:
    """Records of trades, snapshots and updates by exchange time; at one moment trades first, then snapshots."""
    streams = [
        _ranked(_read(reader, table, venue, symbol, start, end), rank)
        for rank, table in enumerate(_BY_RANK)
        if table in tables
    ]
    for _, _, _, record in heapq.merge(*streams):
        yield cast("Trade", record)


def _ranked(records: Iterator[Record], rank: int) -> Iterator[tuple[int, int, int, Record]]:
    """Records with what orders them: time, rank of the table, place in it."""
    for n, record in enumerate(records):
        yield cast("Trade", record).ts_event, rank, n, record


def _read(reader: IReader, table: str, venue: str, symbol: str, start: int | None, end: int | None) -> Iterator[Record]:
    return reader.records(table, venue=venue, symbols=[symbol], start=start, end=end)


class BookMessages:
    """Records of one instrument's book to messages.

    A snapshot is given on only where a new chain of updates begins, or where one of ``gaps`` in the book has ended. Updates
    follow on what was given on before, or are counted as dropped. Receive times never go back.
    """

    def __init__(self, send: Send, counts: BookCounts, latency: int, gaps: Iterable[Gap]) -> None:
        self._held: deque[BookDelta] = deque()
        self._send = send
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

    def snapshot(self, record: BookSnapshot) -> None:
        """Take the next snapshot by exchange time."""
        broken = False
        while self._gaps and self._gaps[0] <= record.ts_event:
            self._gaps.popleft()
            broken = True
        if record.epoch == self._epoch and not broken:
            return
        self._epoch, self._seq = record.epoch, record.seq
        local_ts = received(record.ts_event, record.ts_recv, self._latency)
        self._replace(record.ts_event, local_ts, levels(record.bids), levels(record.asks))
        held, self._held = self._held, deque()
        for delta in held:
            if delta.epoch == self._epoch and delta.seq > self._seq:
                at = received(delta.ts_event, delta.ts_recv, self._latency)
                self._apply(delta, record.ts_event, max(local_ts, at))
            else:
                self._counts.dropped_updates += delta.epoch != self._epoch

    def delta(self, record: BookDelta) -> None:
        """Take the next update by exchange time."""
        if record.epoch != self._epoch:
            if len(self._held) == _HELD:
                self._held.popleft()
                self._counts.dropped_updates += 1
            self._held.append(record)
        elif record.seq > self._seq:
            self._apply(record, record.ts_event, received(record.ts_event, record.ts_recv, self._latency))

    def close(self) -> None:
        """Count what never found its beginning."""
        self._counts.dropped_updates += len(self._held)
        self._held.clear()

    def _apply(self, record: BookDelta, exch_ts: int, local_ts: int) -> None:
        self._seq = record.seq
        self._counts.updates += 1
        self._book_at = max(self._book_at, local_ts)
        self._send(exch_ts, self._book_at, record.seq, False, levels(record.bids), levels(record.asks))

    def _replace(self, exch_ts: int, local_ts: int, bids: Levels, asks: Levels) -> None:
        self._counts.snapshots += 1
        self._book_at = max(self._book_at, local_ts)
        self._send(exch_ts, self._book_at, self._seq, True, bids, asks)
