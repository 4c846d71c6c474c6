"""The part of a feed that is not market data: subscriptions, losses, silence, retries.

Rules: docs/exchanges.md#binance-control. A SUBSCRIBE frame carries at most 100 names. One that is
not answered is sent again; one that is refused is halved, so that a bad name does not take the
others with it; one name that is refused three times is reported and left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from cmd_common.feed import FeedCounters, Output, Reconnect, Send, Subscription
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.records import FeedStatus, Gap
from cmd_common.sequence import BookState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cmd_common.builder import OrderBookBuilder

__all__ = ["Control", "Request"]

_SECOND: Final = 1_000_000_000
NAMES_A_FRAME: Final = 100
_ANSWER_WITHIN: Final = 10 * _SECOND
_ATTEMPTS: Final = 3
_STALLED_AFTER: Final = 60 * _SECOND  # nothing at all from a connection that used to bring a message a second
_STREAM_NAME: Final = re.compile(r'"stream"\s*:\s*"([^"\\]{1,100})"')
_TYPE_OF: Final = {"trade": "trades", "aggTrade": "agg_trades", "bookTicker": "quotes"}
_TABLE_OF: Final = {"trades": "trades", "agg_trades": "agg_trades", "quotes": "quotes", "candles": "candles"}


class Request(Struct):
    """A SUBSCRIBE or UNSUBSCRIBE that waits for its answer or for its time."""

    method: str
    names: tuple[str, ...]
    at: int  # ns, when sent; or when to send
    attempts: int = 1


class Control:
    """Subscriptions and health of one connection; ``BinanceFeed`` adds the messages."""

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
        self._next_request = 1
        self._waiting: dict[int, Request] = {}  # sent, by id
        self._later: list[Request] = []  # to be sent again
        self._malformed_second = 0  # of the last frame that may have been of any stream
        self._damaged_second = 0  # of the last one whose stream is known
        self._reconnecting = False

    # What the message part gives

    def _ask(self, st: SymbolState, now: int, out: Output) -> None:
        raise NotImplementedError

    def _report_book(self, st: SymbolState, now: int, out: Output, reason: str) -> None:
        raise NotImplementedError

    def _book_lost(self, st: SymbolState, reason: str, now: int, out: Output) -> None:
        raise NotImplementedError

    # Records

    def _status(self, out: Output, now: int, state: str, reason: str, symbol: str = "", record_type: str = "") -> None:
        out.records.append(FeedStatus(now, now, self.venue, symbol, record_type, self.name, state, reason))

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
        self._waiting.clear()
        self._later.clear()
        self._status(out, now, "connected", self.url)
        for st in self._symbols.values():
            for stream in st.streams:
                stream.acked = stream.heard = 0
                stream.silent = False
            st.awaiting = False
            st.attempts = st.retry_at = 0
            if st.builder is not None and self._depth is None:
                st.builder.start()
                self._report_book(st, now, out, "connected")
        self._subscribe(list(self._streams), now, out)
        return self._counted(out)

    def disconnected(self, now: int, reason: str) -> Output:
        """The connection was lost: books become STALE, open streams get a Gap when data is back."""
        out = Output()
        if not self._connected:
            return out
        self._connected = False
        self._waiting.clear()
        self._later.clear()
        self._status(out, now, "disconnected", reason)
        for st in self._symbols.values():
            for stream in st.streams:
                if stream.silent:
                    stream.silent = False
                    self._silence_gap(stream, now, "and nothing came", out)
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
            elif stream.silent:
                stream.silent = False
                self._silence_gap(stream, now, "and nothing came", out)
        if st.book_gap is not None and st.depth is not None:
            ts, last_id, why = st.book_gap
            st.book_gap = None
            # Deltas that came meanwhile say when it ends, by the exchange's clock.
            end = st.depth.ts if self._connected and st.depth.ts > ts else max(now, ts)
            self._gap(out, Gap(ts, end, self.venue, st.symbol, st.depth.table, why, "lost", last_id + 1, None))
        elif st.builder is not None and st.depth is not None and not st.builder.epoch:
            # A book takes a moment to begin; one that never did is a loss of all that came for it.
            since, until = st.waiting_since, st.depth.ts
            if since and until - since >= _ANSWER_WITHIN:
                self._gap(out, Gap(since, until, self.venue, st.symbol, st.depth.table, "no_snapshot", "lost"))

    # Subscriptions

    def _send(self, method: str, names: Sequence[str], now: int, out: Output, attempts: int = 1) -> None:
        id_ = self._next_request
        self._next_request += 1
        self._waiting[id_] = Request(method, tuple(names), now, attempts)
        text = msgspec.json.encode({"method": method, "params": list(names), "id": id_}).decode()
        out.actions.append(Send(text))

    def _subscribe(self, names: Sequence[str], now: int, out: Output) -> None:
        for at in range(0, len(names), NAMES_A_FRAME):
            self._send("SUBSCRIBE", names[at : at + NAMES_A_FRAME], now, out)

    def _unsubscribe(self, names: Sequence[str], now: int, out: Output) -> None:
        for at in range(0, len(names), NAMES_A_FRAME):
            self._send("UNSUBSCRIBE", names[at : at + NAMES_A_FRAME], now, out)

    def _reply(self, message: Mapping[str, Any], now: int, out: Output) -> bool:
        """Take an answer to one of our frames; False if the message is none."""
        error = message.get("error", message)
        if isinstance(error, dict) and "code" in error and "msg" in error:
            self.counters.errors += 1
            request = self._take(message.get("id"))
            reason = f"{error['code']}: {error['msg']}"[:300]
            self._status(out, now, "error", reason)
            if request is not None:
                self._refused(request, reason, now, out)
            return True
        if "result" not in message:
            return False
        request = self._take(message.get("id"))
        if request is not None and request.method == "SUBSCRIBE":
            for name in request.names:
                stream = self._streams.get(name)
                if stream is None:
                    continue  # removed meanwhile
                stream.acked = now
                st = self._symbols[stream.symbol]
                if stream is st.depth and st.builder is not None and st.builder.needs_snapshot and not st.awaiting:
                    self._ask(st, now, out)
        return True

    def _take(self, id_: object) -> Request | None:
        return self._waiting.pop(id_, None) if isinstance(id_, int) else None

    def _refused(self, request: Request, reason: str, now: int, out: Output) -> None:
        if request.method != "SUBSCRIBE":
            return
        names = request.names
        if len(names) > 1:
            half = len(names) // 2
            self._later += [Request("SUBSCRIBE", part, now + _SECOND) for part in (names[:half], names[half:])]
        elif request.attempts < _ATTEMPTS:
            self._later.append(Request("SUBSCRIBE", names, now + _SECOND * request.attempts, request.attempts + 1))
        else:
            stream = self._streams.get(names[0])
            symbol, table = (stream.symbol, stream.table) if stream is not None else ("", "")
            self._status(out, now, "rejected", f"{names[0]}: {reason}", symbol, table)

    # Time

    def tick(self, now: int) -> Output:
        """Called about once a second: answers that did not come, retries, silence."""
        out = Output()
        if now < self._ticked:
            self._set_back(now)
        self._ticked = now
        if not self._connected or self._reconnecting:
            return out
        for id_ in [i for i, r in self._waiting.items() if now - r.at >= _ANSWER_WITHIN]:
            request = self._waiting.pop(id_)
            # What was removed or added again meanwhile must not be undone by an old request.
            wanted = request.method == "SUBSCRIBE"
            names = [n for n in request.names if (n in self._streams) == wanted]
            if not names:
                continue
            if request.attempts < _ATTEMPTS:
                self._send(request.method, names, now, out, request.attempts + 1)
            elif request.method == "SUBSCRIBE":
                self._reconnect(f"{request.attempts} SUBSCRIBE frames were not answered", out)
                return self._counted(out)
        if self._later:
            due = [r for r in self._later if r.at <= now]
            self._later = [r for r in self._later if r.at > now]
            for request in due:
                names = [n for n in request.names if n in self._streams]
                if names:
                    self._send(request.method, names, now, out, request.attempts)
        for st in self._symbols.values():
            builder = st.builder
            if builder is not None and builder.needs_snapshot and not st.awaiting:
                self._ask(st, now, out)
        for stream in self._streams.values():
            if not stream.heard and not stream.silent and stream.acked and now - stream.acked >= self._silence:
                stream.silent = True
                self._status(
                    out,
                    now,
                    "silent",
                    f"{stream.name} was subscribed {self._silence // _SECOND} s ago and nothing came",
                    stream.symbol,
                    stream.table,
                )
        age = now - self._connected_at
        still = now - self._last_frame
        brought = self.counters.messages - self._messages_before
        if still >= _STALLED_AFTER and brought * _SECOND >= age - still > 0 and brought >= 60:
            self._reconnect(f"nothing came for {still // _SECOND} s", out)
        return self._counted(out)

    def _set_back(self, now: int) -> None:
        """Our clock was set back: what waits for a time must not wait until the old time comes again."""
        self._connected_at = min(self._connected_at, now)
        self._last_frame = min(self._last_frame, now)
        for request in (*self._waiting.values(), *self._later):
            request.at = min(request.at, now + _SECOND)
        for stream in self._streams.values():
            stream.acked = min(stream.acked, now)
        for st in self._symbols.values():
            st.retry_at = min(st.retry_at, now + _SECOND)

    def _reconnect(self, reason: str, out: Output) -> None:
        self._reconnecting = True
        out.actions.append(Reconnect(reason))

    # Damage and silence

    def _stream_of(self, name: str) -> Stream | None:
        """Find a subscribed stream by the exchange's name; a recorded one may have another depth speed."""
        stream = self._streams.get(name)
        if stream is not None:
            return stream
        symbol, _, kind = name.partition("@")
        st = self._symbols.get(symbol.upper())
        if st is None:
            return None
        if kind.startswith("depth"):
            return st.depth
        if kind.startswith("kline_"):
            candles = st.candles.get(kind[6:])
            return candles.stream if candles is not None else None
        wanted = _TYPE_OF.get(kind)
        return next((s for s in st.streams if s.type == wanted), None)

    def _malformed(self, frame: str | bytes, why: str, now: int, out: Output) -> None:
        """Count a damaged frame and mark what it may have carried: its stream, or everything."""
        self.counters.malformed += 1
        head = frame[:300]
        text = head if isinstance(head, str) else head.decode("utf-8", "replace")
        found = _STREAM_NAME.search(text)
        stream = self._stream_of(found[1]) if found else None
        second = now // _SECOND
        if stream is not None:
            if second != self._damaged_second:
                self._damaged_second = second
                self._status(out, now, "malformed", why[:300], stream.symbol, stream.table)
            if stream.lost is None:
                stream.lost = (stream.ts or now, "malformed")
            return
        if second != self._malformed_second:
            self._malformed_second = second
            # At most one row a table and second: its key is the second, so repeats would be the same row.
            self._status(out, now, "malformed", why[:300])
            for table in self._tables():
                ts = second * _SECOND
                self._gap(out, Gap(ts, ts + _SECOND, self.venue, "", table, "malformed", "suspect", detail=why[:100]))

    def _tables(self) -> list[str]:
        book = "book_deltas" if self._depth is None else "book_snapshots"
        return [book if type_ == "book" else _TABLE_OF[type_] for type_ in self._types]

    def _silence_gap(self, s: Stream, until: int, what: str, out: Output) -> None:
        """A stream never spoke since it was subscribed; which of them, if any, sent nothing is unknown."""
        detail = f"{s.name} was subscribed {what}"
        since = s.acked
        self._gap(
            out, Gap(since, max(until, since), self.venue, s.symbol, s.table, "silence", "suspect", detail=detail)
        )

    def _heard_again(self, s: Stream, ts: int, now: int, out: Output) -> None:
        """A stream that was lost or silent speaks: ids tell what is missing, else the time between does."""
        if s.silent:
            s.silent = False
            self._status(out, now, "heard", s.name, s.symbol, s.table)
            self._silence_gap(s, ts, "and nothing came at first", out)
        if s.lost is not None:
            since, why = s.lost
            s.lost = None
            if s.type == "quotes" or s.table == "book_snapshots":
                self._gap(out, Gap(since, max(ts, since), self.venue, s.symbol, s.table, why, "lost"))
