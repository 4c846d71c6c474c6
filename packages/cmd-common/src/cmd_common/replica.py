"""A copy of one order book, kept in step by the records of its feed.

Theory of operation. The feed has judged every update already, so the copy needs no rule of the venue: a snapshot
replaces it and makes it LIVE, a delta of the same epoch changes it, and a status says that the original is not to be
trusted. A status LIVE changes nothing, for the snapshot that makes it true may still be on its way. A delta of
another epoch belongs to a snapshot that was not seen: the copy is STALE until one comes.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from .errors import DataError
from .orderbook import OrderBook
from .records import BookDelta, BookSnapshot, FeedStatus, levels
from .sequence import BookState

__all__ = ["BookReplica"]

_LIVE: Final = BookState.LIVE
_STATES: Final = {state.value: state for state in BookState}


class BookReplica:
    """One OrderBook kept in step from BookSnapshot, BookDelta and the book's FeedStatus records.

    ``epoch`` and ``book.last_id`` are those of the last record, ``ts_recv`` its receive time. Sides may be views
    into a buffer; nothing of them is kept. Counters: ``ignored`` (deltas that the book contains already, or that
    belong to another epoch), ``malformed``.
    """

    __slots__ = ("book", "epoch", "ignored", "malformed", "ts_recv")

    def __init__(
        self, venue: str, symbol: str, *, tick_size: Decimal | float | None = None, book: OrderBook | None = None
    ) -> None:
        self.book = OrderBook(tick_size, venue=venue, symbol=symbol) if book is None else book
        self.epoch = 0
        self.ts_recv = 0
        self.ignored = self.malformed = 0

    @property
    def live(self) -> bool:
        """Whether the book is complete within its known depth as of the last record."""
        return self.book.state is _LIVE

    def load(self, snapshot: BookSnapshot) -> bool:
        """Replace the book; False: the snapshot is malformed, and a LIVE book is STALE now. O(n log n)."""
        book = self.book
        bids, asks = list(levels(snapshot.bids)), list(levels(snapshot.asks))
        known_bids, known_asks = snapshot.known_bids, snapshot.known_asks
        try:
            book.validate(bids, asks)
        except DataError:
            self.malformed += 1
            self.lose()
            return False
        book.load(bids[:known_bids], asks[:known_asks], complete=False)
        if known_bids < len(bids) or known_asks < len(asks):
            # Levels behind the known ones are kept, but others between them may be unknown.
            book.apply(bids[known_bids:], asks[known_asks:])
        book.last_id = snapshot.seq
        book.ts_event = snapshot.ts_event
        book.state = _LIVE
        self.epoch = snapshot.epoch
        self.ts_recv = snapshot.ts_recv
        return True

    def apply(self, delta: BookDelta) -> bool:
        """Change the book; False: it was not, because it is not LIVE, contains the delta, or is STALE now.

        O(levels given). Several deltas may have one ``seq``: parts of one message.
        """
        book = self.book
        if book.state is not _LIVE:
            self.ignored += 1
            return False
        if delta.epoch != self.epoch:
            self.ignored += 1
            self.lose()
            return False
        if delta.seq < book.last_id:
            self.ignored += 1
            return False
        try:
            book.apply(list(levels(delta.bids)), list(levels(delta.asks)))
        except DataError:
            self.malformed += 1
            self.lose()
            return False
        book.last_id = delta.seq
        book.ts_event = delta.ts_event
        self.ts_recv = delta.ts_recv
        return True

    def status(self, status: FeedStatus) -> bool:
        """Take a status of record type ``book``; True: the state of the book has changed."""
        state = _STATES.get(status.state)
        book = self.book
        if state is None or state is _LIVE or state is book.state:
            return False
        if book.state is BookState.EMPTY or state is not BookState.EMPTY:
            book.state = state
        else:
            book.clear()
        return True

    def lose(self) -> None:
        """Say that records may be missing: a LIVE book is STALE until the next snapshot."""
        if self.book.state is _LIVE:
            self.book.state = BookState.STALE

    def same(self, snapshot: BookSnapshot) -> bool:
        """Whether a snapshot has the ids and levels of a LIVE book. O(n log n) where ids agree, else O(1).

        How many levels are known to be complete is not compared: of a whole book a copy cannot know it.
        """
        book = self.book
        return (
            book.state is _LIVE
            and snapshot.seq == book.last_id
            and snapshot.epoch == self.epoch
            and book.packed_bids() == snapshot.bids
            and book.packed_asks() == snapshot.asks
        )

    def snapshot(self, depth: int | None = None) -> BookSnapshot:
        """The book as a record, ``depth`` levels a side (None: all); call it only while ``live``. O(n log n)."""
        book = self.book
        known_bids, known_asks = book.known_depth
        bids, asks = book.packed_bids(depth), book.packed_asks(depth)
        return BookSnapshot(
            book.ts_event,
            self.ts_recv,
            book.venue,
            book.symbol,
            self.epoch,
            book.last_id,
            min(known_bids, len(bids) // 16),
            min(known_asks, len(asks) // 16),
            bids,
            asks,
        )

    def check(self) -> None:
        """Assert every invariant; for tests."""
        self.book.check()
        assert not self.live or self.book.last_id >= 0
