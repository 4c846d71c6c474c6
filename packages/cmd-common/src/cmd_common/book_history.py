"""Order books of the past from stored snapshots and deltas, over the reader of any store."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .records import BookDelta, BookSnapshot, Gap, levels

if TYPE_CHECKING:
    from .io import IReader
    from .orderbook import OrderBook

__all__ = ["book_at", "last_snapshot"]

_DAY = 86_400_000_000_000
_LOOK_BACK = (_DAY // 24, _DAY, 7 * _DAY)


def book_at(reader: IReader, venue: str, symbol: str, ts: int) -> OrderBook | None:
    """The order book as of ``ts``, rebuilt from the last stored snapshot and the deltas after it.

    None where there is no snapshot before ``ts``, where a gap that was not repaired lies between, or where updates
    belong to another epoch than the snapshot. Complexity: the updates since the snapshot.
    """
    snapshot = last_snapshot(reader, venue, symbol, ts)
    if snapshot is None or _broken(reader, venue, symbol, snapshot.ts_event, ts):
        return None
    from .orderbook import OrderBook
    from .sequence import BookState

    book = OrderBook(venue=venue, symbol=symbol)
    bids, asks = list(levels(snapshot.bids)), list(levels(snapshot.asks))
    book.load(bids[: snapshot.known_bids], asks[: snapshot.known_asks], complete=False)
    # Levels behind the known ones are kept in the book, but others between them may be unknown.
    book.apply(bids[snapshot.known_bids :], asks[snapshot.known_asks :])
    last_id, time = snapshot.seq, snapshot.ts_event
    deltas = cast(
        "list[BookDelta]",
        list(reader.records("book_deltas", venue=venue, symbols=[symbol], start=snapshot.ts_event, end=ts + 1)),
    )
    for delta in sorted(deltas, key=lambda d: (d.seq, d.ts_event)):
        if delta.seq <= last_id and delta.epoch <= snapshot.epoch:
            continue
        if delta.epoch != snapshot.epoch:
            return None  # the book was rebuilt, and the snapshot that it was rebuilt from is not here
        book.apply(list(levels(delta.bids)), list(levels(delta.asks)))
        last_id, time = delta.seq, max(time, delta.ts_event)
    book.last_id = last_id
    book.ts_event = time
    book.state = BookState.LIVE
    return book


def last_snapshot(reader: IReader, venue: str, symbol: str, ts: int) -> BookSnapshot | None:
    """The last snapshot at or before ``ts``, looked for in growing steps back."""
    for back in (*_LOOK_BACK, None):
        found: BookSnapshot | None = None
        start = None if back is None else ts - back
        for record in reader.records("book_snapshots", venue=venue, symbols=[symbol], start=start, end=ts + 1):
            found = cast(BookSnapshot, record)
        if found is not None:
            return found
    return None


def _broken(reader: IReader, venue: str, symbol: str, since: int, ts: int) -> bool:
    """Whether an unrepaired gap in the deltas begins after the snapshot and before ``ts``."""
    for record in reader.records("gaps", venue=venue, symbols=[symbol, ""], start=since, end=ts):
        gap = cast(Gap, record)
        # One that ends where the snapshot is was closed by it: nothing was sent between the two.
        if gap.record_type in ("book_deltas", "") and not gap.repaired_by and gap.ts_to > since:
            return True
    return False
