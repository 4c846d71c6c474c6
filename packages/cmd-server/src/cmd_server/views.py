"""Views: streams that the server derives, such as the top of a book, best bid and offer, candles and merged books.

A view keeps what it said last, so that a message says what changed since then, and so that a late joiner gets exactly
that state. Views that nobody reads are not kept up to date; ``restart`` brings them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cmd_common.candles import CandleBuilder, interval_bounds
from cmd_common.commands import AggregateOptions
from cmd_common.errors import DataError
from cmd_common.following import BookFollower
from cmd_common.orderbook import Level
from cmd_common.records import SNAPSHOT, AggregatedBook, BookDelta, BookSnapshot, Candle, Quote, Trade, pack_levels
from cmd_common.replica import BookReplica

if TYPE_CHECKING:
    from .streams import Stream

__all__ = ["BookView", "CandleView", "DepthView", "MergedView", "QuoteView"]

_SECOND: Final = 1_000_000_000
_LATENESS: Final = 2 * _SECOND  # of trades behind the clock before a candle is final
_MAX_IDS: Final = 100_000  # trade ids of an interval that are remembered where they are text


class DepthView:
    """The best ``depth`` levels a side: changes between their states; a level that leaves has quantity 0."""

    __slots__ = ("_asks", "_bids", "_epoch", "_last_id", "_ts", "_ts_recv", "depth", "replica")

    def __init__(self, replica: BookReplica, depth: int) -> None:
        self.replica = replica
        self.depth = depth
        self.restart()

    def restart(self) -> None:
        """Take the book as it is as what was said last."""
        book = self.replica.book
        self._bids, self._asks = book.bids(self.depth), book.asks(self.depth)
        self._note()

    def _note(self) -> None:
        book = self.replica.book
        self._epoch: int | None = self.replica.epoch if self.replica.live else None
        self._last_id, self._ts, self._ts_recv = book.last_id, book.ts_event, self.replica.ts_recv

    def lose(self) -> None:
        """The book is not LIVE any more: the next message is a snapshot."""
        self._epoch = None

    def update(self, source: BookDelta | BookSnapshot) -> BookDelta | BookSnapshot | None:
        """The message after a change of the book by ``source``; None where these levels are the same. O(depth)."""
        replica = self.replica
        book = replica.book
        bids, asks = book.bids(self.depth), book.asks(self.depth)
        if replica.epoch != self._epoch:
            self._bids, self._asks = bids, asks
            self._note()
            return self.current()
        if bids == self._bids and asks == self._asks:
            return None
        record = BookDelta(
            source.ts_event,
            source.ts_recv,
            book.venue,
            book.symbol,
            replica.epoch,
            book.last_id,
            min(self._last_id + 1, book.last_id),
            _changes(self._bids, bids, True),
            _changes(self._asks, asks, False),
            source.flags & ~SNAPSHOT,
        )
        self._bids, self._asks = bids, asks
        self._note()
        return record

    def current(self) -> BookSnapshot | None:
        """What was said last as a snapshot; None while the book is not LIVE."""
        replica = self.replica
        if not replica.live or self._epoch is None:
            return None
        book = replica.book
        bids, asks = self._bids, self._asks
        known = book.known_depth
        known_bids, known_asks = min(known[0], len(bids)), min(known[1], len(asks))
        return BookSnapshot(
            self._ts,
            self._ts_recv,
            book.venue,
            book.symbol,
            replica.epoch,
            self._last_id,
            known_bids,
            known_asks,
            pack_levels(bids),
            pack_levels(asks),
        )


class QuoteView:
    """Best bid and offer of a book, whenever one of them has changed."""

    __slots__ = ("_last", "_touch", "replica")

    def __init__(self, replica: BookReplica) -> None:
        self.replica = replica
        self.restart()

    def restart(self) -> None:
        """Take the book as it is as what was said last."""
        book = self.replica.book
        bid, ask = book.best_bid, book.best_ask
        self._touch: tuple[Level | None, Level | None] = (bid, ask)
        self._last: Quote | None = None
        if self.replica.live and bid is not None and ask is not None:
            self._last = Quote(book.ts_event, self.replica.ts_recv, book.venue, book.symbol, book.last_id, *bid, *ask)

    def lose(self) -> None:
        """The book is not LIVE any more: the next touch is told, whatever it is."""
        self._touch = (None, None)

    def update(self, source: BookDelta | BookSnapshot) -> Quote | None:
        """The message after a change of the book by ``source``; None where the touch is the same. O(1)."""
        book = self.replica.book
        bid, ask = book.best_bid, book.best_ask
        if (bid, ask) == self._touch or bid is None or ask is None:
            return None
        self._touch = (bid, ask)
        self._last = Quote(
            source.ts_event,
            source.ts_recv,
            book.venue,
            book.symbol,
            book.last_id,
            *bid,
            *ask,
            source.flags & ~SNAPSHOT,
        )
        return self._last

    def current(self) -> Quote | None:
        """What was said last; None while the book is not LIVE."""
        return self._last if self.replica.live else None


BookView = DepthView | QuoteView


class CandleView:
    """Candles built from an instrument's trades; the interval in which the first trade falls is left out.

    ``tick`` gives candles that became final by the clock, and those that are open when they have changed: the
    exchange's clock is taken to run on as ours does since the last trade. ``bad`` counts trades that no candle takes.
    """

    __slots__ = ("_builder", "_changed", "_clock", "_since", "bad", "interval", "last")

    def __init__(self, venue: str, symbol: str, interval: str) -> None:
        self.interval = interval
        self.bad = 0
        self._begin(venue, symbol)

    def _begin(self, venue: str, symbol: str) -> None:
        self.last: Candle | None = None
        self._builder = CandleBuilder(venue, symbol, self.interval, lateness=_LATENESS, max_ids=_MAX_IDS)
        self._since: int | None = None  # the first interval that was seen as a whole
        self._changed = False
        self._clock = (0, 0)  # event time and our time of the newest trade

    def restart(self) -> None:
        """Forget everything: trades were missed."""
        self._begin(self._builder.venue, self._builder.symbol)

    def current(self) -> Candle | None:
        """What was said last."""
        return self.last

    def trade(self, trade: Trade, now: int) -> list[Candle]:
        """Take a trade; returns candles that became final or corrected."""
        try:
            if self._since is None:
                self._since = interval_bounds(trade.ts_event, self.interval)[1]
            found = self._builder.trade(trade)
        except DataError:
            self.bad += 1
            return []
        self._changed = True
        if trade.ts_event >= self._clock[0]:
            self._clock = (trade.ts_event, now)
        return self._known(found)

    def tick(self, now: int) -> list[Candle]:
        """Say that it is ``now``; returns candles that became final, then those that are open and have changed."""
        if self._since is None:
            return []
        event, seen = self._clock
        try:
            found = self._builder.tick(event + max(0, now - seen))
        except DataError:
            self.bad += 1
            return []
        if self._changed:
            self._changed = False
            found = [*found, *self._builder.provisional()]
        return self._known(found)

    def _known(self, candles: list[Candle]) -> list[Candle]:
        since = self._since or 0
        known = [candle for candle in candles if candle.open_time >= since]
        if known:
            self.last = known[-1]
        return known


class MergedView:
    """One instrument merged over venues; at most one message per depth and ``every``."""

    __slots__ = ("_changed", "_last", "_next", "_options", "depths", "follower")

    def __init__(self, follower: BookFollower, options: AggregateOptions) -> None:
        self.follower = follower
        self._options = options
        self._changed = False
        self._next = 0
        self._last: dict[int, AggregatedBook] = {}  # by depth
        self.depths: dict[int, Stream] = {}  # streams of this instrument by depth, 0: all levels

    @property
    def active(self) -> bool:
        """Whether anybody reads it."""
        return any(stream.active for stream in self.depths.values())

    def update(self, name: str, now: int) -> None:
        """Say that a book was changed by a message received at ``now``."""
        if self.follower.update(name, now):
            self._changed = True

    def refresh(self, now: int) -> None:
        """Say that it is ``now``, or that a book's state changed: what cannot be trusted leaves."""
        before = self.follower.book.changes
        self.follower.refresh(now)
        if self.follower.book.changes != before:
            self._changed = True

    def due(self, now: int) -> list[tuple[Stream, AggregatedBook]]:
        """The messages that are due."""
        if not self._changed or now < self._next:
            return []
        book = self.follower.book
        if not book.ts_event:
            return []
        self._changed = False
        self._next = now + self._options.every
        found: list[tuple[Stream, AggregatedBook]] = []
        for depth, stream in self.depths.items():
            if stream.active:
                record = self._last[depth] = book.to_record(book.ts_event, now, 0, depth or None)
                found.append((stream, record))
        return found

    def current(self, depth: int) -> AggregatedBook | None:
        """What was said last at a depth."""
        return self._last.get(depth)

    def drop(self, depth: int) -> None:
        """Nobody asks for this depth any more."""
        self.depths.pop(depth, None)
        self._last.pop(depth, None)

    def forget(self, depth: int) -> None:
        """Nobody has read this depth until now: the next update is said at once."""
        self._last.pop(depth, None)
        self._changed = True
        self._next = 0


def _changes(old: list[Level], new: list[Level], descending: bool) -> bytes:
    if old == new:
        return b""
    was = dict(old)
    found = [level for level in new if was.pop(level[0], None) != level[1]]
    if was:
        found += [(price, 0.0) for price in was]
        found.sort(reverse=descending)
    return pack_levels(found)
