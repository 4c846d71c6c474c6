"""The part of a feed that keeps order books, for venues of all kinds of integrity.

Theory of operation. Three kinds of venue:

- the book is seeded by REST (Bitstamp, Binance): the snapshot is asked for when the stream is confirmed,
  chains with what was buffered, and is written together with the first delta behind it, with that
  delta's time, so that no receive time gets into a book's rows;
- the snapshot comes in the stream (``seeded`` is False; Coinbase, Kraken, OKX, Bybit, Gemini): it is
  written at once with its own time, and a lost book subscribes its stream again, at most a few times at
  once and then ever more slowly;
- either of them without ids: ``_own_delta`` counts. An epoch then begins at the snapshot's event time
  in ns and the count goes on from there, so that epochs of different processes never meet.

``verify`` looks at the book after a delta was applied and before anything is published (a checksum).

Where cmd-native is there and knows the venue (``native_format``), a feed gives each frame to ``self._path`` first:
one call takes a usual depth message from its bytes into the book, and ``_taken`` does the rest. For everything else
that call changes nothing and returns None, and the frame goes the way that it goes without cmd-native.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from struct import error as StructError
from struct import pack
from typing import TYPE_CHECKING, Any, Final

from msgspec import MsgspecError, Struct

from . import _native
from .builder import Applied, Delta, OrderBookBuilder
from .errors import DataError
from .exchange import Endpoints
from .feed import FetchSnapshot, Output, Resubscribe
from .feed_control import ANSWER_WITHIN, FeedControl
from .feed_state import Stream, SymbolState
from .http import HttpRequest
from .instruments import Instrument
from .orderbook import Level, OrderBook
from .records import SNAPSHOT, BookDelta, BookSnapshot, FeedStatus, Gap, Quote, levels, pack_levels
from .sequence import BookState, SequenceRule, Verdict

if TYPE_CHECKING:
    from cmd_native._native import DepthPath, Taken

__all__ = ["BAD_DATA", "CountRule", "FeedBooks", "ParsedBook", "Verify", "best_first"]

Verify = Callable[[OrderBook], str]
"""Looks at a book after a delta: empty when it is right, else why not, such as ``checksum``."""

BAD_DATA: Final = (
    MsgspecError, DataError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, StructError,
)  # fmt: skip
"""What decoding may raise for data that is not as it should be; none of these ends a connection."""

_SECOND: Final = 1_000_000_000
_APPLIED: Final = Applied.APPLIED
_DROPPED: Final = Applied.DROPPED
_GAP: Final = Applied.GAP
_LIVE: Final = BookState.LIVE
_PRICE: Final = itemgetter(0)
_AGAIN: Final = 60 * _SECOND  # a resync within so much of the one before is churn
_AT_ONCE: Final = 6  # resyncs in a row that do not wait
_RETRY_MOST: Final = 30  # s between two requests for a book that keep failing
_UNHEARD: Final = 3 * _SECOND  # so long a LIVE book may go without its stream
_READ_NATIVELY: Final[Any] = None if _native.module is None else _native.module.SnapshotLevels  # sorted and checked
_AUDIT_PAUSE: Final = 10 * _SECOND  # between two books of a connection
_SNAPSHOT_WITHIN: Final = 15 * _SECOND  # from the subscription to the snapshot in the stream


class ParsedBook(Struct, frozen=True):
    """A book as a REST body has it: its id, levels in any order, its time (None: not told)."""

    id: int
    bids: Sequence[Level]
    asks: Sequence[Level]
    ts: int | None = None
    complete: bool = False


class CountRule:
    """Venues without ids: messages are counted here, so each one follows the one before."""

    name = "count"
    __slots__ = ()

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Apply whatever comes behind a snapshot."""
        return Verdict.APPLY if last > snapshot_id else Verdict.DROP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Apply whatever comes next."""
        return Verdict.APPLY if last > book_id else Verdict.DROP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """No snapshot is known to be too old."""
        return False


class FeedBooks(FeedControl):
    """Order books of one connection; ``FeedBase`` adds the other messages.

    Class attributes that a venue sets: ``seeded`` whether books are seeded by REST, ``audits`` whether a book can be compared
    with a fresh one at the very same update (option ``audit``: seconds between two of a book, 900; 0: off), ``book_levels`` the
    depth a side that the venue keeps up to date (None: all of it), ``snapshot_levels`` the most that a
    REST snapshot has, ``native_format`` cmd-native's name of the venue's depth messages, empty where it knows none.
    """

    seeded: bool = False
    audits: bool = False
    book_levels: int | None = None
    snapshot_levels: int = 1_000_000
    native_format: str = ""
    max_frame: int = 64 * 1024 * 1024

    _path: DepthPath | None = None  # where cmd-native decodes this feed's depth messages
    _endpoints: Endpoints
    _instruments: Mapping[str, Instrument]
    _every: int
    _audit_every: int
    _audit_next: int
    _deltas: bool
    _publish_book: bool
    _derived: bool

    def _rule(self) -> SequenceRule:
        """Return the venue's rule of continuity for one book."""
        return CountRule()

    def _snapshot_request(self, symbol: str, limit: int) -> HttpRequest:
        """Return the request for a REST snapshot."""
        raise NotImplementedError

    def _parse_snapshot(self, symbol: str, body: bytes) -> ParsedBook:
        """Parse a REST snapshot; raises ProtocolError, as which every error of ``BAD_DATA`` counts."""
        raise NotImplementedError

    def _make_builder(self, symbol: str, instrument: Instrument) -> OrderBookBuilder:
        book = OrderBook(instrument.tick_size or None, max_levels=self.book_levels, venue=self.venue, symbol=symbol)
        builder = OrderBookBuilder(book, self._rule(), snapshot_levels=self.snapshot_levels)
        self.books[symbol] = builder
        return builder

    def _natively(self, st: SymbolState) -> None:
        """Let cmd-native decode the depth messages of a symbol's full book, where it can."""
        module = _native.module
        if module is None or not self.native_format or self._depth is not None or st.builder is None:
            return
        book = st.builder.book
        if not isinstance(book, module.OrderBook):
            return
        if self._path is None:
            self._path = module.DepthPath(self.native_format, self.max_frame)
        self._path.add(self._native_key(st), book, st)

    def _native_key(self, st: SymbolState) -> str:
        """Return by what cmd-native finds the book of a depth message: most venues' messages name the symbol."""
        return st.symbol

    def _taken(self, taken: Taken, now: int, out: Output) -> None:
        """Go on behind a delta that cmd-native has applied; ``_delta`` is the same without it."""
        st: SymbolState
        st, first, last, ts, status, bids, asks = taken
        builder, s = st.builder, st.depth
        assert builder is not None
        assert s is not None
        if s.acked and s.lost is None and not s.silent:
            s.heard = now
            s.ts = ts
        else:
            self._hear_book(s, ts, now, out)
        if status and not self._looked(builder, taken):
            self._book_lost(st, builder.gap_reason, now, out)
            if builder.needs_snapshot and not st.awaiting:
                self._ask(st, now, out)
            return
        if st.pending is not None:
            self._synced(st, ts, now, out)
        if self._publish_book:
            if self._deltas:
                assert bids is not None
                assert asks is not None
                out.records.append(BookDelta(ts, now, self.venue, st.symbol, builder.epoch, last, first, bids, asks))
            if ts >= st.bucket_end:
                st.bucket_end = (ts // self._every + 1) * self._every
                out.records.append(self._book_record(st, builder, ts, now))
        if self._derived:
            self._derive_quote(st, builder, ts, now, out)
        if builder.needs_snapshot and not st.awaiting:
            self._ask(st, now, out)

    def _looked(self, builder: OrderBookBuilder, taken: Taken) -> bool:
        """Let the builder see a delta that is not as most are; False when the book is lost by it."""
        _, first, last, ts, status, bids, asks = taken
        if status == 2:
            builder.took()
            return True
        assert self._path is not None
        assert bids is not None
        assert asks is not None
        sides = list(levels(bids)), list(levels(asks))
        return builder.applied_natively(first, last, self._path.prev, *sides, ts) is _APPLIED

    def _hear_book(self, s: Stream, ts: int, now: int, out: Output) -> None:
        """A good message of a depth stream came, and something is open about the stream."""
        self._hear(s, ts, now, out)

    # Deltas

    def _own_delta(
        self,
        st: SymbolState,
        bids: Sequence[Level],
        asks: Sequence[Level],
        ts: int,
        now: int,
        out: Output,
        verify: Verify | None = None,
    ) -> None:
        """Take a delta of a venue without ids; one that comes before the snapshot is of no use."""
        builder = st.builder
        if builder is None or st.depth is None:
            self.counters.skipped += 1
            return
        if builder.state is not _LIVE:
            self._hear(st.depth, ts, now, out)
            if not st.waiting_since:
                st.waiting_since, st.waiting_from = ts, now
            return
        id_ = builder.last_id + 1
        self._delta(st, id_, id_, None, bids, asks, ts, now, out, verify)

    def _delta(
        self,
        st: SymbolState,
        first: int,
        last: int,
        prev: int | None,
        bids: Sequence[Level],
        asks: Sequence[Level],
        ts: int,
        now: int,
        out: Output,
        verify: Verify | None = None,
    ) -> None:
        """Take a delta with the venue's ids, judged by its rule."""
        builder, s = st.builder, st.depth
        if builder is None or s is None:
            self.counters.skipped += 1
            return
        self._hear(s, ts, now, out)
        book = builder.book
        before = (book.ts_event, book.last_id) if verify is not None else (0, 0)
        applied = builder.delta(first, last, prev, bids, asks, ts)
        if applied is _APPLIED:
            if verify is not None and (wrong := verify(book)):
                builder.reset(wrong)
                book.ts_event, book.last_id = before  # readers keep the last good book's time
                self._book_lost(st, wrong, now, out)
            else:
                self._applied(st, builder, first, last, bids, asks, ts, now, out)
        elif applied is _GAP:
            self._book_lost(st, builder.gap_reason, now, out)
        elif applied is _DROPPED:
            self.counters.duplicates += 1
        elif not st.waiting_since:
            st.waiting_since, st.waiting_from = ts, now
        if builder.needs_snapshot and not st.awaiting:
            self._ask(st, now, out)

    def _applied(
        self,
        st: SymbolState,
        builder: OrderBookBuilder,
        first: int,
        last: int,
        bids: Sequence[Level],
        asks: Sequence[Level],
        ts: int,
        now: int,
        out: Output,
    ) -> None:
        if st.pending is not None:
            self._synced(st, ts, now, out)
        if self._publish_book:
            if self._deltas:
                sides = _packed(bids, True), _packed(asks, False)
                out.records.append(BookDelta(ts, now, self.venue, st.symbol, builder.epoch, last, first, *sides))
            if ts >= st.bucket_end:  # the first delta of a bucket of event time; the sync wrote the first snapshot
                st.bucket_end = (ts // self._every + 1) * self._every
                out.records.append(self._book_record(st, builder, ts, now))
        if self._derived:
            self._derive_quote(st, builder, ts, now, out)

    def _derive_quote(self, st: SymbolState, builder: OrderBookBuilder, ts: int, now: int, out: Output) -> None:
        """Write the best bid and offer of the book when they have changed."""
        book = builder.book
        bid, ask = book.best_bid, book.best_ask
        if bid is None or ask is None or (*bid, *ask) == st.quote:
            return
        st.quote = (*bid, *ask)
        out.records.append(Quote(ts, now, self.venue, st.symbol, builder.last_id, *bid, *ask))

    def _book_record(self, st: SymbolState, builder: OrderBookBuilder, ts: int, now: int) -> BookSnapshot:
        book = builder.book
        known = book.known_depth
        sides = book.packed_bids(), book.packed_asks()
        return BookSnapshot(ts, now, self.venue, st.symbol, builder.epoch, builder.last_id, *known, *sides)

    # Losses

    def _close_gap(self, st: SymbolState, epoch: int, ts: int, out: Output) -> None:
        """A new book follows at ``ts``: write the gap between it and the last good one, or what the first one came too late for."""
        waited, st.waiting_since = st.waiting_since, 0
        assert st.depth is not None
        if st.book_gap is None:
            if waited:
                for table in self._book_tables(st.depth):
                    self._gap(out, Gap(waited, ts, self.venue, st.symbol, table, "late_snapshot", "lost"))
            return
        ts_from, last_id, reason = st.book_gap
        st.book_gap = None
        # A snapshot at or before the last good update: nothing between them has an id.
        first, last = (last_id + 1, epoch) if epoch > last_id else (None, None)
        for table in self._book_tables(st.depth):
            self._gap(out, Gap(min(ts_from, ts), ts, self.venue, st.symbol, table, reason, "lost", first, last))

    @staticmethod
    def _judge_wait(st: SymbolState, now: int) -> None:
        """A snapshot has come: forget since when updates waited for it, unless that was too long."""
        if st.waiting_since and now - st.waiting_from < ANSWER_WITHIN:
            st.waiting_since = 0

    def _synced(self, st: SymbolState, ts: int, now: int, out: Output) -> None:
        """The first delta chains with the snapshot: close the gap, write the snapshot with its time."""
        assert st.pending is not None
        epoch, known_bids, known_asks, bids, asks = st.pending
        st.pending = None
        self._close_gap(st, epoch, ts, out)
        if self._publish_book:
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

    def _lose_book(self, st: SymbolState, reason: str, now: int, out: Output) -> None:
        """Distrust a LIVE book although nothing in its own stream says so, and get a new one."""
        builder = st.builder
        if builder is None or builder.state is not _LIVE or self._depth is not None:
            return
        builder.reset(reason)
        self._book_lost(st, reason, now, out)
        if builder.needs_snapshot and not st.awaiting:
            self._ask(st, now, out)

    def _report_book(self, st: SymbolState, now: int, out: Output, reason: str) -> None:
        assert st.builder is not None
        state = st.builder.state.value
        if state != st.book_state:
            st.book_state = state
            out.records.append(FeedStatus(now, now, self.venue, st.symbol, "book", self.name, state, reason))

    def _book_tables(self, depth: Stream) -> tuple[str, ...]:
        """Return the tables that a depth stream feeds."""
        if not self._derived or depth.table == "quotes":
            return (depth.table,)
        return (depth.table, "quotes")

    # Getting a book

    def _subscribe(self, streams: Sequence[Stream], now: int, out: Output) -> None:
        super()._subscribe(streams, now, out)
        if self.seeded or self._depth is not None:
            return
        for stream in streams:  # the snapshot comes with the subscription
            st = self._symbols[stream.symbol]
            if stream is st.depth and st.builder is not None:
                st.awaiting = True
                st.asked_at = now
                st.builder.snapshot_requested()

    def _ask(self, st: SymbolState, now: int, out: Output) -> None:
        """Ask for a book, unless the stream is not confirmed yet or a retry waits for its time."""
        builder = st.builder
        if builder is None or st.depth is None or not st.depth.acked or now < st.retry_at:
            return
        if not st.retry_at and st.asked_at and now - st.asked_at < _AGAIN:
            st.churn += 1
            if st.churn > _AT_ONCE:  # a book that breaks again and again must not use up the exchange's limits
                st.retry_at = now + min(2 ** (st.churn - _AT_ONCE - 1), _RETRY_MOST) * _SECOND
                return
        elif not st.retry_at:
            st.churn = 0
        self._request_book(st, now, out)

    def _request_book(self, st: SymbolState, now: int, out: Output) -> None:
        """Ask for a book now."""
        builder = st.builder
        assert builder is not None
        st.retry_at = 0
        st.awaiting = True
        st.asked_at = now
        builder.snapshot_requested()
        if self.seeded:
            # A book that readers had goes first, then new ones, then a refresh of one that is still good.
            priority = {BookState.STALE: 0, _LIVE: 2}.get(builder.state, 1)
            request = self._snapshot_request(st.symbol, self.snapshot_levels)
            out.actions.append(FetchSnapshot(st.symbol, request, priority))
            return
        s = st.depth
        assert s is not None
        frames = [frame for method in ("unsubscribe", "subscribe") for frame, _ in self._frames(method, [s])]
        s.acked = 0
        s.asked = now
        s.attempts = 1
        out.actions.append(Resubscribe(st.symbol, tuple(frames)))

    def _reseed(self, st: SymbolState, now: int, out: Output) -> None:
        """Ask for a fresh snapshot of a LIVE book, which goes on serving until it comes.

        Where it comes in the stream, the stream ends until then: after 3 s the book is STALE.
        """
        if st.builder is not None and st.depth is not None and st.depth.acked and not st.awaiting:
            self._request_book(st, now, out)

    def _finish(self, st: SymbolState, now: int, out: Output) -> None:
        if st.pending is not None and st.pending_ts is not None:
            # No delta followed the last snapshot any more: it is written with its own time.
            self._synced(st, st.pending_ts, now, out)
        super()._finish(st, now, out)

    def _care_for_books(self, now: int, out: Output) -> None:
        for st in self._symbols.values():
            builder, s = st.builder, st.depth
            if builder is None or s is None or self._depth is not None:
                continue
            if st.awaiting and not self.seeded:
                if now - st.asked_at >= _UNHEARD:  # a LIVE book whose stream was ended for a fresh copy of it
                    self._lose_book(st, "reseed", now, out)
                # Subscribed and confirmed, but the snapshot does not come: once more, ever more slowly.
                since = max(s.acked, st.asked_at)
                if s.acked and now - since >= _SNAPSHOT_WITHIN << min(st.attempts, 3):
                    st.attempts += 1
                    self._status(out, now, "snapshot_failed", "no snapshot came in the stream", st.symbol, "book")
                    self._request_book(st, now, out)
                continue
            if builder.audited is not None:
                self._report_audit(st, builder, now, out)
            if builder.needs_snapshot and not st.awaiting:
                self._ask(st, now, out)
        if self.audits and self._audit_every and now >= self._audit_next and self._depth is None:
            self._audit(now)

    # Self-audit

    def _audit(self, now: int) -> None:
        """Have the book compared that was not for the longest time; one at a time, for each costs a snapshot."""
        due = []
        for st in self._symbols.values():
            if st.awaiting or (st.builder is not None and st.builder.needs_snapshot):
                return  # somebody needs the exchange's budget more
            if st.builder is not None and st.builder.state is _LIVE:
                due.append((st.audited_at[0], st.symbol))
        if due:
            at, symbol = min(due)
            builder = self._symbols[symbol].builder
            if now - at >= self._audit_every and builder is not None and builder.audit():
                self._audit_next = now + _AUDIT_PAUSE

    def _report_audit(self, st: SymbolState, builder: OrderBookBuilder, now: int, out: Output) -> None:
        """Tell what came of comparing a book; one that differed was lost, and may have been wrong since the last time."""
        audit = builder.audited
        assert audit is not None
        builder.audited = None
        self._status(out, now, "audited" if audit.agrees else "audit_failed", audit.words, st.symbol, "book")
        since, st.audited_at = st.audited_at[1], (now, builder.book.ts_event)
        if not audit.agrees and st.depth is not None:
            since = since or builder.book.ts_event  # the book was made of a snapshot alone
            until = max(builder.book.ts_event, since)
            for table in self._book_tables(st.depth):
                self._gap(out, Gap(since, until, self.venue, st.symbol, table, "audit", "suspect", detail=audit.words))

    # Snapshots in the stream

    def _stream_book(
        self,
        st: SymbolState,
        snapshot_id: int | None,
        bids: Sequence[Level],
        asks: Sequence[Level],
        ts: int,
        now: int,
        out: Output,
        *,
        complete: bool = True,
        continues: bool = False,
        flags: int = SNAPSHOT,
        verify: Verify | None = None,
    ) -> None:
        """Take a snapshot that the stream brought; it replaces the book, whatever that was.

        ``snapshot_id`` None: the venue has no ids. ``complete`` is True too where the venue keeps exactly
        the best N levels up to date: nothing in that view is unknown. ``continues``: the
        venue sends a whole book in between and nothing was lost; otherwise what lies between a
        LIVE book and it is a gap.
        """
        builder, s = st.builder, st.depth
        if builder is None or s is None:
            self.counters.skipped += 1
            return
        self._hear(s, ts, now, out)
        if snapshot_id is None:
            snapshot_id = max(ts, builder.last_id + 1)
        if builder.state is _LIVE and not continues:
            reason = "reseed" if st.awaiting else "snapshot"
            builder.reset(reason)
            self._book_lost(st, reason, now, out)
        before = (builder.book.ts_event, builder.book.last_id)
        result = builder.replace(snapshot_id, bids, asks, ts_event=ts, complete=complete)
        st.awaiting = False
        wrong = verify(builder.book) if verify is not None and result.live else ""
        if wrong:
            builder.reset(wrong)
            builder.book.ts_event, builder.book.last_id = before
        if not result.accepted or not result.live or wrong:
            why = wrong or result.reason or builder.gap_reason
            if not result.accepted:
                self.counters.malformed += 1
            self._status(out, now, "snapshot_failed", why, st.symbol, "book")
            self._book_lost(st, why, now, out)
            if builder.needs_snapshot:
                self._ask(st, now, out)
            return
        st.attempts = 0
        self._judge_wait(st, now)
        self._close_gap(st, snapshot_id, ts, out)
        if self._publish_book:
            known = builder.book.known_depth
            sides = builder.book.packed_bids(), builder.book.packed_asks()
            record = BookSnapshot(ts, now, self.venue, st.symbol, snapshot_id, snapshot_id, *known, *sides, flags)
            out.records.append(record)
        st.bucket_end = (ts // self._every + 1) * self._every
        if self._derived:
            self._derive_quote(st, builder, ts, now, out)
        self._report_book(st, now, out, "snapshot")

    def _partial(
        self,
        st: SymbolState,
        seq: int,
        bids: Sequence[Level],
        asks: Sequence[Level],
        ts: int,
        now: int,
        out: Output,
        flags: int = SNAPSHOT,
    ) -> None:
        """Take a message that is the whole top of the book (``Subscription.depth``); ``seq`` only rises."""
        builder, s = st.builder, st.depth
        if builder is None or s is None or self._depth is None:
            self.counters.skipped += 1
            return
        book = builder.book
        if seq <= book.last_id and book.state is _LIVE:
            self.counters.duplicates += 1
            return
        self._hear(s, ts, now, out)
        book.load(bids, asks, complete=(len(bids) < self._depth, len(asks) < self._depth))
        book.last_id, book.ts_event, book.state = seq, ts, _LIVE
        self._report_book(st, now, out, "partial depth")
        if st.book_gap is not None:
            since, _, why = st.book_gap
            st.book_gap = None
            self._gap(out, Gap(since, max(since, ts), self.venue, s.symbol, s.table, why, "lost"))
        sides = _packed(bids, True), _packed(asks, False)
        known = len(bids), len(asks)
        out.records.append(BookSnapshot(ts, now, self.venue, s.symbol, seq, seq, *known, *sides, flags))

    # Snapshots by REST

    def snapshot(self, symbol: str, body: bytes, now: int) -> Output:
        """Take the body that a FetchSnapshot asked for; one that nobody waits for any more is ignored."""
        out = Output()
        st = self._symbols.get(symbol)
        if st is None or st.builder is None or not st.awaiting or not self.seeded:
            return out
        st.awaiting = False
        builder = st.builder
        refresh = builder.state is _LIVE
        try:
            parsed = self._parse_snapshot(symbol, body)
        except BAD_DATA as error:
            self.counters.malformed += 1
            builder.snapshot_failed()
            self._retry_snapshot(st, now)
            self._status(out, now, "malformed", " ".join(f"{type(error).__name__}: {error}".split()), symbol, "book")
            return self._counted(out)
        bids, asks = best_first(parsed.bids, True), best_first(parsed.asks, False)
        result = builder.snapshot(parsed.id, bids, asks, complete=parsed.complete, ts_event=parsed.ts)
        if not result.accepted:
            self._retry_snapshot(st, now)
            self._care_for_books(now, out)
            return self._counted(out)
        if not result.live:
            self._retry_snapshot(st, now)
            self._book_lost(st, builder.gap_reason, now, out)  # crossed, or the touch is outside what it covers
        else:
            st.attempts = 0
            # A mere refresh is of the same epoch and chain: the next periodic snapshot shows the deeper levels,
            # and a first snapshot that still waits for its delta stays the first.
            if not refresh:
                self._judge_wait(st, now)
                st.audited_at = (now, builder.book.ts_event)
                st.pending = (parsed.id, len(bids), len(asks), _pack(bids), _pack(asks))
                st.pending_ts = parsed.ts
                self._replayed(st, result.replayed, now, out)
        self._report_book(st, now, out, result.reason or "snapshot")
        if builder.audited is not None:
            self._report_audit(st, builder, now, out)
        if builder.needs_snapshot:
            self._ask(st, now, out)
        return self._counted(out)

    def _replayed(self, st: SymbolState, deltas: Sequence[Delta], now: int, out: Output) -> None:
        """Write the buffered deltas that were applied after a snapshot."""
        builder = st.builder
        assert builder is not None
        for first, last, _, bids, asks, ts in deltas:
            if st.pending is not None:
                self._synced(st, ts, now, out)
            if self._deltas and self._publish_book:
                sides = _packed(bids, True), _packed(asks, False)
                out.records.append(BookDelta(ts, now, self.venue, st.symbol, builder.epoch, last, first, *sides))
        if deltas and self._derived:
            self._derive_quote(st, builder, builder.book.ts_event, now, out)

    def _retry_snapshot(self, st: SymbolState, now: int) -> None:
        """Two retries at once, later ones after 1, 2, 4 ... 30 s."""
        st.attempts += 1
        wait = 0 if st.attempts <= 2 else min(2 ** (st.attempts - 3), _RETRY_MOST)
        st.retry_at = max(1, now + wait * _SECOND)

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


def best_first(side: Sequence[Level], descending: bool) -> Sequence[Level]:
    """Sort the levels of a side, unless cmd-native has read them sorted."""
    return side if type(side) is _READ_NATIVELY else sorted(side, key=_PRICE, reverse=descending)


def _pack(side: Sequence[Level]) -> bytes:
    return side.packed() if type(side) is _READ_NATIVELY else pack_levels(side)  # type: ignore[attr-defined]


def _packed(side: Sequence[Level], descending: bool) -> bytes:
    """Pack a side best first; the order that exchanges send differs."""
    n = len(side)
    if n > 1:
        side = sorted(side, key=_PRICE, reverse=descending)
    elif not n:
        return b""
    return pack(f"<{2 * n}d", *chain.from_iterable(side))
