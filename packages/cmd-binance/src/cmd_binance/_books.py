"""The part of a feed that keeps order books: deltas, snapshots, resyncs and partial depth.

Theory of operation. The builder decides by the market's rule what becomes of a delta; this part
turns that into records and requests. A snapshot is written together with the first delta that
chains with it and with that delta's time, so that no receive time gets into a book's rows and every
rerun of the same input gives the same rows. A snapshot of a refresh (the old book stayed LIVE) is
written from the book itself, at the update that it has reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from struct import Struct
from typing import Any, Final

from cmd_common.builder import Applied, Delta, OrderBookBuilder
from cmd_common.errors import ProtocolError
from cmd_common.exchange import Endpoints
from cmd_common.feed import FetchSnapshot, Output
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.records import SNAPSHOT, TS_FROM_RECV, BookDelta, BookSnapshot, FeedStatus, Gap, pack_levels
from cmd_common.sequence import BookState, SequenceRule

from . import _messages as wire
from ._control import Control
from .instruments import Market
from .rest import depth_request, parse_depth

__all__ = ["Books"]

_SECOND: Final = 1_000_000_000
_MICRO: Final = 100_000_000_000_000  # a time from here on is in microseconds, below in milliseconds
_APPLIED: Final = Applied.APPLIED
_DROPPED: Final = Applied.DROPPED
_GAP: Final = Applied.GAP
_LIVE: Final = BookState.LIVE
_PRICE: Final = itemgetter(0)
# A REST snapshot with exactly so many levels was cut off there, whatever was asked for.
_REST_LIMITS: Final = frozenset((5, 10, 20, 50, 100, 500, 1000, 5000))
_SHALLOW: Final = 1000  # levels a side of a snapshot that follows another within _AGAIN
_AGAIN: Final = 60 * _SECOND
_RETRY_MOST: Final = 30  # s between two snapshot requests of a symbol that keep failing


class Books(Control):
    """Order books of one connection; ``BinanceFeed`` adds the other messages."""

    market: Market
    _endpoints: Endpoints
    _instruments: Mapping[str, Instrument]
    _rule: SequenceRule
    _every: int
    _snapshot_limit: int
    _deltas: bool

    def _make_builder(self, symbol: str, instrument: Instrument) -> OrderBookBuilder:
        book = OrderBook(
            instrument.tick_size or None, max_levels=self.market.snapshot_limit, venue=self.venue, symbol=symbol
        )
        builder = OrderBookBuilder(book, self._rule, snapshot_levels=self._snapshot_limit)
        self.books[symbol] = builder
        return builder

    # Full books

    def _on_depth(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        d: wire.DepthEvent = message.data
        st = self._symbols.get(d.s)
        if st is None or (builder := st.builder) is None:
            self.counters.skipped += 1
            return
        t = d.T or d.E
        ts = t * 1000 if t >= _MICRO else t * 1_000_000
        bids = d.b
        asks = d.a
        s = st.depth
        assert s is not None
        s.heard = now
        s.ts = ts
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)
        applied = builder.delta(d.U, d.u, d.pu, bids, asks, ts)
        if applied is _APPLIED:
            if st.pending is not None:
                self._synced(st, ts, now, out)
            if self._deltas:
                out.records.append(
                    BookDelta(ts, now, self.venue, d.s, builder.epoch, d.u, d.U, _pack(bids, True), _pack(asks, False))
                )
            if ts >= st.bucket_end:  # the first delta of a bucket of event time; the sync wrote the first snapshot
                st.bucket_end = (ts // self._every + 1) * self._every
                out.records.append(self._book_record(st, builder, ts, now))
        elif applied is _GAP:
            self._book_lost(st, builder.gap_reason, now, out)
        elif applied is _DROPPED:
            self.counters.duplicates += 1
        elif not st.waiting_since:
            st.waiting_since = ts
        if builder.needs_snapshot and not st.awaiting:
            self._ask(st, now, out)

    def _book_record(self, st: SymbolState, builder: OrderBookBuilder, ts: int, now: int) -> BookSnapshot:
        book = builder.book
        bids, asks = book.known_depth
        return BookSnapshot(
            ts,
            now,
            self.venue,
            st.symbol,
            builder.epoch,
            builder.last_id,
            bids,
            asks,
            book.packed_bids(),
            book.packed_asks(),
        )

    def _synced(self, st: SymbolState, ts: int, now: int, out: Output) -> None:
        """The first delta chains with the snapshot: close the gap, write the snapshot with its time."""
        assert st.pending is not None
        epoch, known_bids, known_asks, bids, asks = st.pending
        st.pending = None
        if st.book_gap is not None:
            ts_from, last_id, reason = st.book_gap
            st.book_gap = None
            # A snapshot at or before the last good update: nothing between them has an id.
            first, last = (last_id + 1, epoch) if epoch > last_id else (None, None)
            self._gap(out, Gap(min(ts_from, ts), ts, self.venue, st.symbol, "book_deltas", reason, "lost", first, last))
        out.records.append(
            BookSnapshot(ts, now, self.venue, st.symbol, epoch, epoch, known_bids, known_asks, bids, asks)
        )
        st.bucket_end = (ts // self._every + 1) * self._every

    def _book_lost(self, st: SymbolState, reason: str, now: int, out: Output) -> None:
        builder = st.builder
        assert builder is not None
        self.counters.resyncs += 1
        st.pending = None
        if st.book_gap is None and builder.book.ts_event:
            st.book_gap = (builder.book.ts_event, builder.last_id, reason)
        self._report_book(st, now, out, reason)

    def _report_book(self, st: SymbolState, now: int, out: Output, reason: str) -> None:
        assert st.builder is not None
        state = st.builder.state.value
        if state != st.book_state:
            st.book_state = state
            out.records.append(FeedStatus(now, now, self.venue, st.symbol, "book", self.name, state, reason))

    def _ask(self, st: SymbolState, now: int, out: Output) -> None:
        """Ask for a snapshot, unless the stream is not confirmed yet or a retry waits for its time."""
        builder = st.builder
        if builder is None or st.depth is None or not st.depth.acked or now < st.retry_at:
            return
        st.retry_at = 0
        st.awaiting = True
        builder.snapshot_requested()
        # A book that readers had goes first, then new ones, then a refresh of one that is still good.
        priority = {BookState.STALE: 0, _LIVE: 2}.get(builder.state, 1)
        # A book that breaks often must not use up the weight that the others need: a shallower snapshot
        # costs a fifth on spot, and the builder asks for a deeper one when its range runs low.
        again = st.asked_at and now - st.asked_at < _AGAIN and builder.state is not _LIVE
        limit = min(self._snapshot_limit, _SHALLOW) if again else self._snapshot_limit
        st.asked_at = now
        request = depth_request(self.market, self._endpoints, st.symbol, limit)
        out.actions.append(FetchSnapshot(st.symbol, request, priority))

    def snapshot(self, symbol: str, body: bytes, now: int) -> Output:
        """Take the body that a FetchSnapshot asked for; one that nobody waits for any more is ignored."""
        out = Output()
        st = self._symbols.get(symbol)
        if st is None or st.builder is None or not st.awaiting:
            return out
        st.awaiting = False
        builder = st.builder
        refresh = builder.state is _LIVE
        try:
            depth = parse_depth(body)
            bids = sorted(depth.bids, key=_PRICE, reverse=True)
            asks = sorted(depth.asks, key=_PRICE)
            # A side with fewer levels than the limit is complete.
            most = max(len(bids), len(asks))
            builder.snapshot_levels = most if most in _REST_LIMITS else self._snapshot_limit
            ts = depth.T * 1000 if depth.T >= _MICRO else depth.T * 1_000_000
            result = builder.snapshot(depth.lastUpdateId, bids, asks, ts_event=ts or None)
        except ProtocolError as error:
            self.counters.malformed += 1
            builder.snapshot_failed()
            self._retry_snapshot(st, now)
            self._status(out, now, "malformed", str(error)[:300], symbol, "book")
            return self._counted(out)
        if not result.accepted:
            self._retry_snapshot(st, now)
            self._ask(st, now, out)
            return self._counted(out)
        if not result.live:
            self._retry_snapshot(st, now)
            self._book_lost(st, builder.gap_reason, now, out)  # crossed, or the touch is outside what it covers
        else:
            st.attempts = 0
            # A mere refresh is of the same epoch and chain: the next periodic snapshot shows the deeper levels.
            if not refresh or st.pending is not None:
                st.pending = (depth.lastUpdateId, len(bids), len(asks), pack_levels(bids), pack_levels(asks))
                self._replayed(st, result.replayed, now, out)
        self._report_book(st, now, out, result.reason or "snapshot")
        if builder.needs_snapshot:
            self._ask(st, now, out)
        return self._counted(out)

    def _replayed(self, st: SymbolState, deltas: Sequence[Delta], now: int, out: Output) -> None:
        """Write the buffered deltas that were applied after a snapshot."""
        assert st.builder is not None
        epoch = st.builder.epoch
        for first, last, _, bids, asks, ts in deltas:
            if st.pending is not None:
                self._synced(st, ts, now, out)
            if self._deltas:
                packed = (_pack(list(bids), True), _pack(list(asks), False))
                out.records.append(BookDelta(ts, now, self.venue, st.symbol, epoch, last, first, packed[0], packed[1]))

    def _retry_snapshot(self, st: SymbolState, now: int) -> None:
        """Two retries at once, later ones after 1, 2, 4 ... 30 s."""
        st.attempts += 1
        wait = 0 if st.attempts <= 2 else min(2 ** (st.attempts - 3), _RETRY_MOST)
        st.retry_at = now + wait * _SECOND

    def snapshot_failed(self, symbol: str, reason: str, now: int) -> Output:
        """A FetchSnapshot was given up: the feed asks again after a while."""
        out = Output()
        st = self._symbols.get(symbol)
        if st is None or not st.awaiting:
            return out
        st.awaiting = False
        if st.builder is not None:
            st.builder.snapshot_failed()
        st.attempts = max(st.attempts, 2)
        self._retry_snapshot(st, now)
        self._status(out, now, "snapshot_failed", reason, symbol, "book")
        return self._counted(out)

    # Partial books: snapshots only

    def _on_partial(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        """Spot: neither symbol nor time in the message, the stream's name tells the symbol."""
        d: wire.PartialEvent = message.data
        s = self._stream_of(message.stream)
        if s is None or s.type != "book" or self._depth is None:
            self.counters.skipped += 1
            return
        self._partial(s, d.lastUpdateId, d.bids, d.asks, now, SNAPSHOT | TS_FROM_RECV, now, out)

    def _on_partial_event(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        """Futures: a depthUpdate whose levels are the whole top of the book."""
        d: wire.DepthEvent = message.data
        st = self._symbols.get(d.s)
        if st is None or st.depth is None:
            self.counters.skipped += 1
            return
        t = d.T or d.E
        ts = t * 1000 if t >= _MICRO else t * 1_000_000
        self._partial(st.depth, d.u, d.b, d.a, ts, SNAPSHOT, now, out)

    def _partial(
        self, s: Stream, u: int, bids: wire.Levels, asks: wire.Levels, ts: int, flags: int, now: int, out: Output
    ) -> None:
        st = self._symbols[s.symbol]
        builder = st.builder
        assert builder is not None
        assert self._depth is not None
        book = builder.book
        s.heard = now
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)
        s.ts = ts
        if u <= book.last_id and book.state is _LIVE:
            self.counters.duplicates += 1
            return
        book.load(bids, asks, complete=(len(bids) < self._depth, len(asks) < self._depth))
        book.last_id, book.ts_event, book.state = u, ts, _LIVE
        self._report_book(st, now, out, "partial depth")
        if st.book_gap is not None:
            since, _, why = st.book_gap
            st.book_gap = None
            self._gap(out, Gap(since, max(since, ts), self.venue, s.symbol, s.table, why, "lost"))
        packed = (_pack(bids, True), _pack(asks, False))
        out.records.append(
            BookSnapshot(ts, now, self.venue, s.symbol, u, u, len(bids), len(asks), packed[0], packed[1], flags)
        )


@cache
def _packer(levels: int) -> Callable[..., bytes]:
    return Struct(f"<{2 * levels}d").pack


def _pack(side: list[tuple[float, float]], descending: bool) -> bytes:
    """Pack a side best first; the exchange's own order differs by market."""
    n = len(side)
    if n > 1:
        side = sorted(side, key=_PRICE, reverse=descending)
    elif not n:
        return b""
    return _packer(n)(*chain.from_iterable(side))
