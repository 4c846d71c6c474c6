"""What a store holds, in the order in which it happened: rows of several tables as one sequence of records.

Theory of operation. A store gives each table in the order of its time column. The tables are merged by the moment
at which a row was known: a candle counts from its last trade on, not from its open time, and a gap from its end on.
Rows that carry ids (trades, updates of books) are put into the order of their ids within a slice, for exchanges'
clocks run backwards now and then. States of feeds are stamped by our clock, books by the exchange's; a state is
placed before the first row that was received later than it, so that a book is never STALE too early or too late.

The same store may be written to while it is read. A further pass begins a little before the place that the one
before reached, and leaves out what was given already.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast

from cmd_common.records import (
    TABLE_OF,
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Record,
    Trade,
)
from cmd_common.schema import SCHEMA

if TYPE_CHECKING:
    from cmd_common.io import IReader

__all__ = ["TABLES_OF", "Reading", "Selection", "in_order", "key_of", "known_at"]

OVERLAP: Final = 5_000_000_000  # ns that a further pass reads again: rows may be written a little late
_LONGEST: Final = 31 * 86_400_000_000_000  # ns of a candle or a gap
SLICE: Final = 1_000  # records given at a time
TABLES_OF: Final[dict[str, tuple[str, ...]]] = {
    "trades": ("trades",),
    "agg_trades": ("agg_trades",),
    "quotes": ("quotes",),
    "candles": ("candles",),
    "book": ("book_deltas", "book_snapshots"),
}
"""Tables that hold what a type of ``FEED_TYPES`` yields."""

_KEYS: Final[dict[type, Callable[[Any], Any]]] = {
    **{cls: attrgetter(*SCHEMA[table].key) for cls, table in TABLE_OF.items()},
    Candle: attrgetter(*SCHEMA["candles"].key, "state", "ts_event"),  # an interval comes several times
    Gap: attrgetter(*SCHEMA["gaps"].key, "repaired_by"),
}
_RANK: Final = {
    table: n for n, table in enumerate(("gaps", "book_deltas", "book_snapshots", "trades", "agg_trades", "quotes"))
}

Selection = Mapping[str, Sequence[str]]
"""Native symbols by venue."""


def key_of(record: Record) -> tuple[object, ...]:
    """What tells a record from all others of its table, with the table."""
    key: tuple[object, ...] = _KEYS[type(record)](record)
    return (type(record), *key)


def known_at(record: Record) -> int:
    """When a record was known, ns by the clock of its source."""
    kind = type(record)
    if kind is Candle:
        candle = cast(Candle, record)
        # Never before it is over, where it is final: a row of a file may carry no other time than its open time.
        return candle.ts_event if candle.state == "provisional" else max(candle.ts_event, candle.close_time)
    if kind is Gap:
        return cast(Gap, record).ts_to
    return cast(Trade, record).ts_event


def in_order(records: list[Record]) -> list[Record]:
    """Put trades and updates of books into the order of their ids, each stream within its own places."""
    streams: dict[tuple[object, ...], list[int]] = {}
    for place, record in enumerate(records):
        kind = type(record)
        if kind is Trade or kind is AggTrade:
            trade = cast(Trade, record)
            if trade.trade_seq is not None:
                streams.setdefault((kind, trade.venue, trade.symbol), []).append(place)
        elif kind is BookDelta or kind is BookSnapshot:
            book = cast(BookDelta, record)
            streams.setdefault((BookDelta, book.venue, book.symbol, book.epoch), []).append(place)
    for key, places in streams.items():
        before = [records[p] for p in places]
        after = sorted(before, key=_book_place if key[0] is BookDelta else attrgetter("trade_seq"))
        if after != before:
            for place, record in zip(places, after, strict=True):
                records[place] = record
    return records


def _book_place(record: Any) -> tuple[int, bool]:
    """A snapshot contains the update of its own id."""
    return record.seq, type(record) is BookSnapshot


class Reading:
    """Reads a selection of a store in slices, again and again; ``open_reader`` opens it for one pass.

    ``start`` is inclusive and ``end`` exclusive, in ns; None: all there is. Not
    thread-safe, but calls may come from different threads in turn.
    """

    def __init__(
        self,
        open_reader: Callable[[], IReader],
        selection: Selection,
        types: Sequence[str],
        *,
        start: int | None = None,
        end: int | None = None,
        intervals: Sequence[str] = (),
    ) -> None:
        self._open = open_reader
        self._wanted = {(venue, symbol) for venue, symbols in selection.items() for symbol in symbols}
        self._venue = next(iter(selection)) if len(selection) == 1 else None
        self._symbols = sorted({symbol for _, symbol in self._wanted})
        self._tables = tuple(table for type_ in types for table in TABLES_OF[type_])
        self._books = "book" in types
        self._intervals = frozenset(intervals)
        self._start = start
        self._end = end
        self._reader: IReader | None = None
        self._rows: Iterator[Record] | None = None
        self._recent: deque[tuple[int, tuple[object, ...]]] = deque()
        self._seen: set[tuple[object, ...]] = set()
        self._events: set[tuple[object, ...]] = set()  # gaps and states: few, and stamped by other clocks
        self.position = start  # time of the newest record that was given, or where it begins

    def instruments(self) -> list[Record]:
        """The newest reference data of every selected instrument."""
        with self._open() as reader:
            rows = reader.records("instruments", venue=self._venue, symbols=self._symbols, end=self._end)
            found = {(r.venue, r.symbol): r for r in cast("Iterator[InstrumentRecord]", rows)}
        return [r for name, r in found.items() if name in self._wanted]

    def book_at_start(self) -> list[Record]:
        """The books as of the start, where the store can tell; the updates behind it chain with them."""
        found: list[Record] = []
        if not self._books or self._start is None:
            return found
        with self._open() as reader:
            for venue, symbol in sorted(self._wanted):
                book = reader.book_at(venue, symbol, self._start - 1)
                if book is None:
                    continue
                epoch = _epoch(reader, venue, symbol, self._start, book.last_id)
                sides = book.packed_bids(), book.packed_asks()
                ts = book.ts_event
                found.append(BookSnapshot(ts, 0, venue, symbol, epoch, book.last_id, *book.known_depth, *sides))
        return found

    def next(self) -> list[Record]:
        """The next slice in order; empty: the pass has come to the end of what the store holds now."""
        while True:
            if self._rows is None:
                self._reader = self._open()
                self._rows = self._pass(self._reader)
            try:
                rows = list(islice(self._rows, SLICE))
            except BaseException:
                self.close()
                raise
            if not rows:
                self.close()
                return []
            if fresh := [r for r in rows if self._is_new(r)]:
                return in_order(fresh)

    def close(self) -> None:
        """End the pass; the next one begins at ``position``, less a little."""
        self._rows = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _is_new(self, record: Record) -> bool:
        key = key_of(record)
        if isinstance(record, FeedStatus | Gap):
            fresh = key not in self._events
            self._events.add(key)
            return fresh
        if key in self._seen:
            return False
        at = known_at(record)
        if self.position is None or at > self.position:
            self.position = at
        self._seen.add(key)
        recent = self._recent
        recent.append((at, key))
        # A margin of its own: within a pass the order is only nearly that of time.
        horizon = self.position - 2 * OVERLAP
        while recent[0][0] < horizon:
            self._seen.discard(recent.popleft()[1])
        return True

    def _pass(self, reader: IReader) -> Iterator[Record]:
        start = self._start
        if self.position is not None and self.position != self._start:
            start = max(self.position - OVERLAP, self._start or 0)
        held = set(reader.tables())
        numbers = count()
        sources = [
            _ranked(_by_known(self._read(reader, table, start)), _RANK.get(table, len(_RANK)), numbers)
            for table in (*self._tables, "gaps")
            if table in held
        ]
        rows = (item[3] for item in heapq.merge(*sources))
        if "feed_status" not in held:
            return rows
        return _with_states(rows, cast("Iterator[FeedStatus]", self._read(reader, "feed_status", start)))

    def _read(self, reader: IReader, table: str, start: int | None) -> Iterator[Record]:
        whole = table in ("gaps", "feed_status")  # rows without a symbol are about a connection
        low = start if start != self._start else None
        if low is not None and table in ("candles", "gaps"):
            start = max(low - _LONGEST, self._start or 0)  # they begin long before they are known
        symbols = [*self._symbols, ""] if whole else self._symbols
        venues = {venue for venue, _ in self._wanted}
        tables = {*self._tables, ""}
        for record in reader.records(table, venue=self._venue, symbols=symbols, start=start, end=self._end):
            row: Any = record
            if (row.venue, row.symbol) not in self._wanted and not (whole and not row.symbol and row.venue in venues):
                continue
            if table == "candles" and self._intervals and row.interval not in self._intervals:
                continue
            if table == "gaps" and row.record_type not in tables:
                continue
            if low is not None and known_at(record) < low:
                continue
            if table == "feed_status" and row.record_type == "book" and not self._books:
                continue
            yield record


def _epoch(reader: IReader, venue: str, symbol: str, ts: int, last_id: int) -> int:
    """The epoch of the book with ``last_id``: of the next stored update, where that chains with it."""
    for record in reader.records("book_deltas", venue=venue, symbols=[symbol], start=ts):
        epoch = cast(BookDelta, record).epoch
        return epoch if epoch <= last_id else last_id  # a later one begins with a snapshot of its own
    return last_id


def _by_known(rows: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    """Rows in the order in which they were known, from rows in the order of their table's time, which is not later."""
    waiting: list[tuple[int, int, Record]] = []
    numbers = count()
    for row in rows:
        at = known_at(row)
        time = row.open_time if isinstance(row, Candle) else row.ts_from if isinstance(row, Gap) else at
        while waiting and waiting[0][0] <= time:
            first = heapq.heappop(waiting)
            yield first[0], first[2]
        if at > time:
            heapq.heappush(waiting, (at, next(numbers), row))
        else:
            yield at, row
    while waiting:
        first = heapq.heappop(waiting)
        yield first[0], first[2]


def _ranked(
    rows: Iterable[tuple[int, Record]], rank: int, numbers: Iterator[int]
) -> Iterator[tuple[int, int, int, Record]]:
    for at, row in rows:
        yield at, rank, next(numbers), row


def _with_states(rows: Iterable[Record], states: Iterator[FeedStatus]) -> Iterator[Record]:
    """Put each state before the first row that was received after it, by our own clock."""
    state = next(states, None)
    for row in rows:
        received = getattr(row, "ts_recv", 0) or 0
        while state is not None and received >= state.ts_recv:
            yield state
            state = next(states, None)
        yield row
    while state is not None:
        yield state
        state = next(states, None)
