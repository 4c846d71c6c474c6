"""The part of a feed that is not market data: subscriptions, losses, silence, retries.

Theory of operation. Every stream is asked for, confirmed, and heard on its own. A subscription that is
not answered is sent again, with whatever else waits; after three times a stream is left out and named,
so that one bad symbol does not take the others with it, unless nothing at all was confirmed: then the
connection is opened anew. A refusal that may pass (a limit) is tried again after 2 and 4 s; a frame that is
refused as a whole is halved until the bad name stands alone. A
stream that was confirmed and stays silent is reported and becomes a ``suspect`` gap, and so does one that falls
silent for longer than its own rate explains (``silence``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from .builder import OrderBookBuilder
from .feed import FeedCounters, Output, Reconnect, Send, Subscription
from .feed_state import Stream, SymbolState
from .records import FeedStatus, Gap
from .sequence import BookState

__all__ = ["FeedControl"]

_SECOND: Final = 1_000_000_000
ANSWER_WITHIN: Final = 10 * _SECOND
_ATTEMPTS: Final = 3
_STALLED_AFTER: Final = 60 * _SECOND  # nothing at all from a connection that used to bring a message a second
_UNKNOWN_NAMES: Final = 64  # unknown event types and keys that are reported by name


class FeedControl:
    """Subscriptions and health of one connection; ``FeedBooks`` adds books, ``FeedBase`` the rest.

    Class attributes that a venue sets: ``quiet_limit`` ns without any frame after which the connection
    counts as dead (0: no such rule; for venues that send heartbeats or answer pings), ``sequenced``
    whether a lost or damaged book message shows by itself at the next one, ``contiguous_trades``
    whether trade ids of a symbol rise by one, ``always_answers`` whether a frame without an answer means
    that the connection is broken, rather than that the exchange does not like what is in it, ``handover``
    whether a second connection may take over (``cmd_common.handover``; the venue adds ``confirms`` and ``position``).
    """

    always_answers: bool = False
    handover: bool = False
    quiet_limit: int = 0
    sequenced: bool = True
    contiguous_trades: bool = True

    venue: str
    name: str
    url: str
    counters: FeedCounters
    books: dict[str, OrderBookBuilder]
    _subscription: Subscription
    _types: tuple[str, ...]
    _depth: int | None
    _silence: int
    _symbols: dict[str, SymbolState]
    _streams: dict[str, Stream]

    def _init_control(self) -> None:
        self._connected = False
        self._connected_at = 0
        self._last_frame = 0
        self._ticked = 0
        self._messages_before = 0
        self._malformed_second = 0  # of the last frame that may have been of any stream
        self._damaged_second = 0  # of the last one whose stream is known
        self._reconnecting = False
        self._unknown_names: set[str] = set()
        self._halves: list[tuple[int, list[Stream]]] = []  # parts of refused frames: when to send them

    # What others give

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        """Return the frames that ``subscribe`` or ``unsubscribe`` streams, each with the names that it covers."""
        raise NotImplementedError

    def _on_tick(self, now: int, out: Output) -> None:
        """Do what is due about once a second: pings, checks, fresh snapshots."""

    def _on_connected(self, now: int, out: Output) -> None:
        """Send what comes before the first subscription, and forget what belongs to one connection."""

    def _ask(self, st: SymbolState, now: int, out: Output) -> None:
        raise NotImplementedError

    def _report_book(self, st: SymbolState, now: int, out: Output, reason: str) -> None:
        raise NotImplementedError

    def _book_lost(self, st: SymbolState, reason: str, now: int, out: Output) -> None:
        raise NotImplementedError

    def _care_for_books(self, now: int, out: Output) -> None:
        raise NotImplementedError

    # Records

    def _status(self, out: Output, now: int, state: str, reason: str, symbol: str = "", record_type: str = "") -> None:
        out.records.append(FeedStatus(now, now, self.venue, symbol, record_type, self.name, state, reason[:300]))

    def _gap(self, out: Output, gap: Gap) -> None:
        if not gap.repaired_by:
            self.counters.gaps += 1
        out.records.append(gap)

    def _counted(self, out: Output) -> Output:
        self.counters.records += len(out.records)
        return out

    # Connection

    def connected(self, now: int) -> Output:
        """The connection is open: subscribe; the records are FeedStatus rows."""
        out = Output()
        self._connected = True
        self._reconnecting = False
        self._connected_at = self._last_frame = self._ticked = now
        self._messages_before = self.counters.messages
        self._halves.clear()
        self._status(out, now, "connected", self.url)
        for st in self._symbols.values():
            self._begin(st, now, out)
        self._on_connected(now, out)
        self._subscribe(list(self._streams.values()), now, out)
        return self._counted(out)

    def _begin(self, st: SymbolState, now: int, out: Output) -> None:
        """A symbol's streams are about to be subscribed on a connection."""
        for stream in st.streams:
            stream.begin(self._silence)
        st.awaiting = False
        st.attempts = st.retry_at = st.asked_at = st.churn = 0
        if st.builder is not None and self._depth is None:
            st.builder.start()
            self._report_book(st, now, out, "connected")

    def disconnected(self, now: int, reason: str) -> Output:
        """The connection was lost: books become STALE, open streams get a Gap when data is back."""
        out = Output()
        if not self._connected:
            return out
        self._connected = False
        self._status(out, now, "disconnected", reason)
        for st in self._symbols.values():
            for stream in st.streams:
                self._end_silence(stream, now, out)
                if stream is not st.depth:  # a book tells its own loss
                    stream.lose("disconnect")
            st.awaiting = False
            builder = st.builder
            if builder is None:
                continue
            if self._depth is not None:
                if builder.book.state is BookState.LIVE:
                    builder.book.state = BookState.STALE
                    st.book_gap = (builder.book.ts_event, builder.last_id, "disconnect")
            elif builder.state is BookState.LIVE:
                builder.disconnected("disconnect")
                self._book_lost(st, "disconnect", now, out)
            else:
                builder.disconnected("disconnect")
            self._report_book(st, now, out, "disconnect")
        return self._counted(out)

    def resubscribe(self, now: int) -> list[str]:
        """The frames that subscribe everything once more, on a second connection; nothing else changes."""
        streams = [s for s in self._streams.values() if not s.rejected]
        return [frame for frame, _ in self._frames("subscribe", streams)] if streams else []

    def moved(self, now: int, reason: str) -> Output:
        """A second connection has taken over: books and ids go on, and what it repeats is dropped by its ids."""
        out = Output()
        self._reconnecting = False
        self._connected_at = self._last_frame = self._ticked = now
        self._messages_before = self.counters.messages
        for st in self._symbols.values():
            for candles in st.candles.values():
                candles.moved = True
        self._status(out, now, "handover", reason)
        return self._counted(out)

    def close(self, now: int) -> Output:
        """End of the session: gaps that are still open end now."""
        out = Output()
        for st in self._symbols.values():
            self._finish(st, now, out)
        self._connected = False
        return self._counted(out)

    def _finish(self, st: SymbolState, now: int, out: Output) -> None:
        for stream in st.streams:
            if stream.lost is not None:
                ts, why = stream.lost
                stream.lost = None
                self._gap(out, Gap(ts, max(now, ts), self.venue, st.symbol, stream.table, why, "lost"))
            else:
                self._end_silence(stream, now, out)
        if st.book_gap is not None and st.depth is not None:
            ts, last_id, why = st.book_gap
            st.book_gap = None
            # Deltas that came meanwhile say when it ends, by the exchange's clock.
            end = st.depth.ts if self._connected and st.depth.ts > ts else max(now, ts)
            for table in self._book_tables(st.depth):
                self._gap(out, Gap(ts, end, self.venue, st.symbol, table, why, "lost", last_id + 1, None))
        elif st.builder is not None and st.depth is not None and not st.builder.epoch:
            # A book takes a moment to begin; one that never did is a loss of all that came for it.
            since, until = st.waiting_since, st.depth.ts
            if since and until - since >= ANSWER_WITHIN:
                self._gap(out, Gap(since, until, self.venue, st.symbol, st.depth.table, "no_snapshot", "lost"))

    # Subscriptions

    def _subscribe(self, streams: Sequence[Stream], now: int, out: Output) -> None:
        if not streams:
            return
        for frame, names in self._frames("subscribe", streams):
            out.actions.append(Send(frame))
            for name in names:
                stream = self._streams[name]
                stream.asked = now
                stream.attempts += 1
                stream.retry_at = 0

    def _unsubscribe(self, streams: Sequence[Stream], now: int, out: Output) -> None:
        if streams:
            out.actions += [Send(frame) for frame, _ in self._frames("unsubscribe", streams)]

    def _acked(self, name: str, now: int, out: Output) -> None:
        """The exchange confirmed a stream; names that are not (or no more) subscribed are passed over."""
        stream = self._streams.get(name)
        if stream is None:
            return
        stream.asked = 0
        stream.attempts = 0
        stream.rejected = ""
        stream.acked = stream.acked or now
        st = self._symbols[stream.symbol]
        if stream is st.depth and st.builder is not None and st.builder.needs_snapshot and not st.awaiting:
            self._ask(st, now, out)

    def _rejected(self, name: str, reason: str, now: int, out: Output, *, retry: bool = False) -> None:
        """The exchange refused a stream: it is named and left out; ``retry`` for what may pass, such as a limit."""
        stream = self._streams.get(name)
        if stream is None:
            return
        stream.asked = 0
        if retry and stream.attempts < _ATTEMPTS:
            stream.retry_at = now + (_SECOND << stream.attempts)
            return
        stream.rejected = reason
        self._status(out, now, "rejected", f"{name}: {reason}", stream.symbol, stream.table)

    def _refused(self, names: Sequence[str], reason: str, now: int, out: Output) -> None:
        """The exchange refused a frame as a whole: its halves go out a second later, a lone name is ``_rejected``."""
        streams = [self._streams[name] for name in names if name in self._streams]
        if len(streams) == 1:
            self._rejected(streams[0].name, reason, now, out, retry=True)
            return
        for stream in streams:
            stream.asked = stream.attempts = 0
        half = len(streams) // 2
        self._halves += [(now + _SECOND, part) for part in (streams[:half], streams[half:]) if part]

    def _error(self, reason: str, now: int, out: Output) -> None:
        """An error reply of the exchange; call ``_rejected`` as well where it names streams."""
        self.counters.errors += 1
        self._status(out, now, "error", reason)

    def _waiting_streams(self) -> list[Stream]:
        """Streams whose subscription has no answer yet, oldest first."""
        return sorted((s for s in self._streams.values() if s.asked), key=lambda s: s.asked)

    # Time

    def tick(self, now: int) -> Output:
        """Called about once a second: answers that did not come, retries, silence."""
        out = Output()
        if now < self._ticked:
            self._set_back(now)
        self._ticked = now
        if not self._connected or self._reconnecting:
            return out
        if not self._care_for_subscriptions(now, out):
            return self._counted(out)
        self._care_for_books(now, out)
        for stream in self._streams.values():
            if stream.acked:
                self._watch(stream, now, out)
        self._on_tick(now, out)
        age = now - self._connected_at
        still = now - self._last_frame
        brought = self.counters.messages - self._messages_before
        busy = brought * _SECOND >= age - still > 0 and brought >= 60
        if (still >= _STALLED_AFTER and busy) or 0 < self.quiet_limit <= still:
            self._reconnect(f"nothing came for {still // _SECOND} s", out)
        return self._counted(out)

    def _care_for_subscriptions(self, now: int, out: Output) -> bool:
        """Send again what was not answered; False when the connection is opened anew."""
        again = [s for s in self._streams.values() if s.retry_at and s.retry_at <= now]
        late = [s for s in self._streams.values() if s.asked and now - s.asked >= ANSWER_WITHIN]
        given_up = [s for s in late if s.attempts >= _ATTEMPTS]
        if given_up and (self.always_answers or not any(s.acked for s in self._streams.values())):
            self._reconnect(f"{_ATTEMPTS} subscriptions were not answered", out)
            return False
        for stream in given_up:
            self._rejected(stream.name, f"{_ATTEMPTS} subscriptions were not answered", now, out)
        self._subscribe([*again, *(s for s in late if s.attempts < _ATTEMPTS)], now, out)
        due = [part for at, part in self._halves if at <= now]
        self._halves = [entry for entry in self._halves if entry[0] > now]
        for part in due:
            self._subscribe([s for s in part if s.name in self._streams], now, out)
        return True

    def _set_back(self, now: int) -> None:
        """Our clock was set back: what waits for a time must not wait until the old time comes again."""
        self._connected_at = min(self._connected_at, now)
        self._last_frame = min(self._last_frame, now)
        for stream in self._streams.values():
            stream.acked = min(stream.acked, now)
            stream.asked = min(stream.asked, now)
            stream.retry_at = min(stream.retry_at, now + _SECOND)
        self._halves = [(min(at, now + _SECOND), part) for at, part in self._halves]
        for st in self._symbols.values():
            st.retry_at = min(st.retry_at, now + _SECOND)
            st.asked_at = min(st.asked_at, now)
            st.waiting_from = min(st.waiting_from, now)

    def _reconnect(self, reason: str, out: Output) -> None:
        self._reconnecting = True
        out.actions.append(Reconnect(reason))

    # Damage and silence

    def _unknown_event(self, name: str, now: int, out: Output) -> None:
        """Count a message of a kind that this version does not know; its name is reported once."""
        self.counters.unknown_messages += 1
        name = name[:40]
        if name not in self._unknown_names and len(self._unknown_names) < _UNKNOWN_NAMES:
            self._unknown_names.add(name)
            self._status(out, now, "unknown_message", f"event {name!r} is not known to this version; it is ignored")

    def _unknown_fields(self, event: str, keys: Iterable[str], now: int, out: Output) -> None:
        """Count keys that this version does not know; each is reported once."""
        for key in keys:
            self.counters.unknown_fields += 1
            name = f"{event}.{key}"[:60]
            if name not in self._unknown_names and len(self._unknown_names) < _UNKNOWN_NAMES:
                self._unknown_names.add(name)
                self._status(out, now, "unknown_field", f"field {name!r} is not known to this version; it is ignored")

    def _malformed(self, frame: str | bytes, why: str, now: int, out: Output, stream: Stream | None = None) -> None:
        """Count a damaged frame and mark what it may have carried: its stream, or everything.

        Where nothing shows that a book message is missing (``sequenced`` is False), the books that it may
        have been for are lost.
        """
        self.counters.malformed += 1
        second = now // _SECOND
        if stream is not None:
            if second != self._damaged_second:
                self._damaged_second = second
                self._status(out, now, "malformed", why, stream.symbol, stream.table)
            st = self._symbols[stream.symbol]
            if stream.lost is None:
                stream.lost = (stream.ts or now, "malformed")
            if stream is st.depth and not self.sequenced:
                self._lose_book(st, "malformed", now, out)
            return
        if second != self._malformed_second:
            self._malformed_second = second
            # At most one row a table and second: its key is the second, so repeats would be the same row.
            self._status(out, now, "malformed", why)
            for table in self._tables():
                ts = second * _SECOND
                self._gap(out, Gap(ts, ts + _SECOND, self.venue, "", table, "malformed", "suspect", detail=why[:100]))
        for st in self._symbols.values():
            for blind in st.streams:
                if self._is_blind(blind):
                    blind.lose("malformed")
            if not self.sequenced:
                self._lose_book(st, "malformed", now, out)

    def _lose_book(self, st: SymbolState, reason: str, now: int, out: Output) -> None:
        """Distrust a LIVE book although nothing in its own stream says so, and get a new one."""
        raise NotImplementedError

    def _lost_all(self, reason: str, now: int, out: Output) -> None:
        """Something of this connection is missing and nobody knows what: every stream and book of it is affected."""
        for st in self._symbols.values():
            for stream in st.streams:
                if stream is not st.depth:
                    stream.lose(reason)
            self._lose_book(st, reason, now, out)

    def _book_tables(self, depth: Stream) -> tuple[str, ...]:
        """Return the tables that a depth stream feeds."""
        return (depth.table,)

    def _tables(self) -> list[str]:
        tables: dict[str, None] = {}
        for st in self._symbols.values():
            for stream in st.streams:
                tables.update(dict.fromkeys(self._book_tables(stream) if stream is st.depth else (stream.table,)))
        return list(tables)

    def _watch(self, s: Stream, now: int, out: Output) -> None:
        """Report a confirmed stream that never spoke, or that is quiet for longer than its own rate explains."""
        missed = s.watch.look(now, s.heard, s.alive)
        if s.silent:
            return
        if s.heard and missed:
            s.silent = True
            quiet = s.watch.quiet
            s.missed = (s.ts, s.ts + quiet)  # by the exchange's clock, as far as it is known
            words = f"{s.name} said nothing for {quiet // _SECOND} s, more than its rate explains"
            self._status(out, now, "silent", words, s.symbol, s.table)
            self._quiet_gap(s, *s.missed, out)
        elif not s.heard and now - max(s.acked, s.alive) >= self._silence:
            s.silent = True
            words = f"{s.name} was subscribed {self._silence // _SECOND} s ago and nothing came"
            self._status(out, now, "silent", words, s.symbol, s.table)

    def _end_silence(self, s: Stream, now: int, out: Output) -> None:
        """The connection ends while a stream is silent: what is known so far is written."""
        if not s.silent:
            return
        s.silent = False
        if s.missed is None:
            self._silence_gap(s, now, "and nothing came", out)
        else:
            self._quiet_gap(s, s.missed[1], s.ts + s.watch.quiet, out)

    def _quiet_gap(self, s: Stream, since: int, until: int, out: Output, repaired_by: str = "") -> None:
        """A stream that had spoken was missed; ids that go on afterwards prove that it had nothing to say."""
        if until > since:
            st = self._symbols[s.symbol]
            for table in self._book_tables(s) if s is st.depth else (s.table,):
                gap = Gap(since, until, self.venue, s.symbol, table, "silence", "suspect", repaired_by=repaired_by)
                self._gap(out, replace(gap, detail=f"{s.name} was missed"))

    def _silence_gap(self, s: Stream, until: int, what: str, out: Output) -> None:
        """A stream never spoke since it was subscribed; which of them, if any, sent nothing is unknown."""
        detail = f"{s.name} was subscribed {what}"
        since = s.acked
        self._gap(
            out, Gap(since, max(until, since), self.venue, s.symbol, s.table, "silence", "suspect", detail=detail)
        )

    def _hear(self, s: Stream, ts: int, now: int, out: Output) -> None:
        """A good message of a stream came."""
        s.heard = now
        if not s.acked:  # some exchanges send before they confirm, or never confirm
            s.acked = now
            s.asked = s.attempts = 0
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)
        s.ts = ts

    def _is_blind(self, s: Stream) -> bool:
        """Whether nothing in the stream shows that a message of it is missing."""
        if s.type == "trades":
            return not self.contiguous_trades
        return s.type == "quotes" or s.table == "book_snapshots"

    def _heard_again(self, s: Stream, ts: int, now: int, out: Output) -> None:
        """A stream that was lost or silent speaks: ids tell what is missing, else the time between does."""
        if s.silent:
            s.silent = False
            self._status(out, now, "heard", s.name, s.symbol, s.table)
            if s.missed is None:
                self._silence_gap(s, ts, "and nothing came at first", out)
        if s.missed is not None:
            since, until = s.missed
            s.missed = None
            if self._is_blind(s) or (s.type == "book" and not self.sequenced):
                self._quiet_gap(s, until, ts, out)
            else:  # ids are judged one by one: what is missing has gaps of its own
                self._quiet_gap(s, since, until, out, "ids")
        if s.lost is not None:
            since, why = s.lost
            s.lost = None
            if self._is_blind(s):
                self._gap(out, Gap(since, max(ts, since), self.venue, s.symbol, s.table, why, "lost"))
