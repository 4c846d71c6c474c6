"""What is Binance's own about order books: depth messages, the weight of snapshots, partial depth.

Everything else is as for every venue whose books are seeded by REST: ``cmd_common.feed_books``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import chain
from operator import itemgetter
from struct import Struct
from typing import Any, Final

from cmd_common.builder import Applied
from cmd_common.feed import Output
from cmd_common.feed_base import ParsedBook
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.http import HttpRequest
from cmd_common.records import SNAPSHOT, TS_FROM_RECV, BookDelta
from cmd_common.sequence import BookState, SequenceRule

from . import _messages as wire
from ._control import Control
from ._snapshots import read_snapshot
from .instruments import Market
from .rest import depth_request
from .sync import rule_for

__all__ = ["Books"]

_SECOND: Final = 1_000_000_000
_MICRO: Final = 9_200_000_000_000  # a time from here on is in microseconds, below in milliseconds
_APPLIED: Final = Applied.APPLIED
_DROPPED: Final = Applied.DROPPED
_GAP: Final = Applied.GAP
_LIVE: Final = BookState.LIVE
_PRICE: Final = itemgetter(0)
# A REST snapshot with exactly so many levels was cut off there, whatever was asked for.
_REST_LIMITS: Final = frozenset((5, 10, 20, 50, 100, 500, 1000, 5000))
_SHALLOW: Final = 1000  # levels a side of a snapshot that follows another within _AGAIN
_AGAIN: Final = 60 * _SECOND


class Books(Control):
    """Order books of one connection; ``BinanceFeed`` adds the other messages."""

    seeded = True
    audits = True
    max_frame = wire.MAX_FRAME
    market: Market
    _snapshot_limit: int

    def _rule(self) -> SequenceRule:
        return rule_for(self.market)

    # Full books

    def _hear_book(self, s: Stream, ts: int, now: int, out: Output) -> None:
        s.heard = now  # a stream is confirmed by its reply alone
        s.ts = ts
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)

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
            st.waiting_since, st.waiting_from = ts, now
        if builder.needs_snapshot and not st.awaiting:
            self._ask(st, now, out)

    def _request_book(self, st: SymbolState, now: int, out: Output) -> None:
        # A book that breaks often must not use up the weight that the others need: a shallower snapshot
        # costs a fifth on spot, and the builder asks for a deeper one when its range runs low.
        assert st.builder is not None
        again = st.asked_at and now - st.asked_at < _AGAIN and st.builder.state is not _LIVE
        self._asked_levels = min(self._snapshot_limit, _SHALLOW) if again else self._snapshot_limit
        super()._request_book(st, now, out)

    def _snapshot_request(self, symbol: str, limit: int) -> HttpRequest:
        return depth_request(self.market, self._endpoints, symbol, self._asked_levels)

    def _parse_snapshot(self, symbol: str, body: bytes) -> ParsedBook:
        parsed = read_snapshot(self.books[symbol].book, body)
        # A side with fewer levels than the limit is complete.
        most = max(len(parsed.bids), len(parsed.asks))
        self.books[symbol].snapshot_levels = most if most in _REST_LIMITS else self._snapshot_limit
        return parsed

    # Partial books: snapshots only

    def _on_partial(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        """Spot: neither symbol nor time in the message, the stream's name tells the symbol."""
        d: wire.PartialEvent = message.data
        s = self._stream_of(message.stream)
        if s is None or s.type != "book" or self._depth is None:
            self.counters.skipped += 1
            return
        self._partial(self._symbols[s.symbol], d.lastUpdateId, d.bids, d.asks, now, now, out, SNAPSHOT | TS_FROM_RECV)

    def _on_partial_event(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        """Futures: a depthUpdate whose levels are the whole top of the book."""
        d: wire.DepthEvent = message.data
        st = self._symbols.get(d.s)
        if st is None or st.depth is None:
            self.counters.skipped += 1
            return
        t = d.T or d.E
        ts = t * 1000 if t >= _MICRO else t * 1_000_000
        self._partial(st, d.u, d.b, d.a, ts, now, out)


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
