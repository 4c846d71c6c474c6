"""Gemini's current WebSocket API as a Feed.

Rules: docs/exchanges/gemini.md#current-api. One connection carries all types; names of streams are lower
case. A subscription with ``?snapshot=-1`` brings the whole book first, before it is confirmed, as a
``depthUpdate`` without any mark but that it covers a single id. Candles exist only on the older feed (``_v2``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct

from cmd_common.feed import Output, Send
from cmd_common.feed_base import FeedBase, Wire, inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument
from cmd_common.records import SNAPSHOT, TS_FROM_RECV, Side
from cmd_common.sequence import BookState, SequenceRule

from ._messages import BookTicker, DepthUpdate, Head, PartialDepth, Reply, TradeEvent
from .sync import DepthRule, is_snapshot

if TYPE_CHECKING:
    from cmd_native._native import Taken

__all__ = ["CurrentFeed"]

_SECOND: Final = 1_000_000_000
_FRAME_STREAMS: Final = 50  # names in one subscription
_REQUESTS: Final = 1_000  # of ours whose answers are waited for
_PING_AFTER: Final = 20 * _SECOND
_RATE_LIMIT: Final = -1003

M = TypeVar("M", bound=Struct)


class CurrentFeed(FeedBase):
    """One connection to ``ws.gemini.com``; see ``cmd_common.feed.Feed``.

    Options: ``speed`` of the book, ``100ms`` (default) or ``1s``.
    """

    native_format = "gemini"
    contiguous_trades = False  # ids rise, but are shared by all symbols
    always_answers = True
    max_frame = 16 * 1024 * 1024
    quiet_limit = 3 * _PING_AFTER  # pings are answered

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self._head = msgspec.json.Decoder(Head, strict=False)
        self._reply = msgspec.json.Decoder(Reply, strict=False)
        self._depth_wire = Wire(DepthUpdate)
        self._trade_wire = Wire(TradeEvent)
        self._quote_wire = Wire(BookTicker)
        self._partial_wire = Wire(PartialDepth)
        self._next_id = count(1)
        self._asked: dict[int, tuple[str, tuple[str, ...]]] = {}  # request id to method and names
        self._pinged = 0
        self._newest: dict[str, int] = {}  # last update id of each symbol's book on this connection
        super().__init__(*args, **keywords)

    # Streams

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        name = symbol.lower()
        if self._depth is not None:
            book = f"{name}@depth{self._depth}@100ms"
        else:
            book = f"{name}@depth" if self._options.get("speed") == "1s" else f"{name}@depth@100ms"
        names = {"trades": f"{name}@trade", "quotes": f"{name}@bookTicker", "book": book}
        return [self._stream(names[t], symbol, t) for t in self._types if t in names]

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        frames = []
        for at in range(0, len(streams), _FRAME_STREAMS):
            names = tuple(s.name for s in streams[at : at + _FRAME_STREAMS])
            number = self._number(method, names)
            frame = msgspec.json.encode({"id": number, "method": method, "params": names}).decode()
            frames.append((frame, names))
        return frames

    def _number(self, method: str, names: tuple[str, ...]) -> int:
        number = next(self._next_id)
        self._asked[number] = method, names
        if len(self._asked) > _REQUESTS:
            del self._asked[next(iter(self._asked))]
        return number

    def _rule(self) -> SequenceRule:
        return DepthRule()

    def _on_connected(self, now: int, out: Output) -> None:
        self._asked.clear()
        self._newest.clear()
        self._pinged = now

    def _on_tick(self, now: int, out: Output) -> None:
        if now < self._pinged:
            self._pinged = now
        if now - max(self._last_frame, self._pinged) >= _PING_AFTER:
            self._pinged = now
            number = self._number("ping", ())
            out.actions.append(Send(msgspec.json.encode({"id": number, "method": "ping"}).decode()))

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        head = self._head.decode(frame)
        if head.e == "depthUpdate":
            self._on_depth(frame, head, now, out)
        elif head.e:
            self._unknown_event(head.e, now, out)
        elif head.status is not None:
            self._on_reply(frame, now, out)
        elif head.lastUpdateId is not None:
            self._on_partial(frame, head, now, out)
        elif head.t is not None and head.s:
            self._on_trade(frame, head, now, out)
        elif head.u is not None and head.s:
            self._on_quote(frame, head, now, out)
        else:
            self._unknown_event("no name", now, out)

    def _state(self, name: str) -> SymbolState | None:
        """Return the symbol's state; what comes for one that was given up is passed over."""
        st = self._symbols.get(name.upper())
        if st is None:
            self.counters.skipped += 1
        return st

    def _message(
        self, wire: Wire[M], event: str, stream: Stream | None, frame: str | bytes, now: int, out: Output
    ) -> M | None:
        """Decode a message of a known stream; what is wrong in it concerns only that one."""
        try:
            return self._decode(wire, event, frame, now, out)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._malformed(frame, f"{event}: {error}"[:200], now, out, stream)
            return None

    def _on_depth(self, frame: str | bytes, head: Head, now: int, out: Output) -> None:
        st = self._state(head.s)
        if st is None:
            return
        m = self._message(self._depth_wire, "depthUpdate", st.depth, frame, now, out)
        if self._path is not None:
            self._path.lenient = not self._depth_wire.strict
        if m is None:
            return
        builder = st.builder
        waits = builder is not None and st.awaiting and builder.state is not BookState.LIVE
        # What joins the last update is one more of the subscription that is being left, not a snapshot: ids of a
        # symbol jump, so that a snapshot right behind an update is next to impossible.
        joins = self._newest.get(st.symbol) == m.U - 1
        self._newest[st.symbol] = m.u
        if waits and is_snapshot(m.U, m.u) and not joins:
            self._stream_book(st, m.u, m.b, m.a, m.E, now, out)
        else:
            self._delta(st, m.U, m.u, None, m.b, m.a, m.E, now, out)

    def _taken(self, taken: Taken, now: int, out: Output) -> None:
        st: SymbolState = taken[0]
        self._newest[st.symbol] = taken[2]
        super()._taken(taken, now, out)

    def _on_trade(self, frame: str | bytes, head: Head, now: int, out: Output) -> None:
        st = self._state(head.s)
        if st is None:
            return
        m = self._message(self._trade_wire, "trade", st.trades, frame, now, out)
        if m is None:
            return
        if st.trades is None:
            self.counters.skipped += 1
            return
        flags = inexact_flag(m.p, m.q)
        side: Side = "sell" if m.m else "buy"
        self._trade(st.trades, m.t, str(m.t), float(m.p), float(m.q), side, m.E, now, out, flags)

    def _on_quote(self, frame: str | bytes, head: Head, now: int, out: Output) -> None:
        st = self._state(head.s)
        if st is None:
            return
        m = self._message(self._quote_wire, "bookTicker", st.quotes, frame, now, out)
        if m is None:
            return
        if st.quotes is None:
            self.counters.skipped += 1
            return
        self._quote(st.quotes, m.u, m.b, m.B, m.a, m.A, m.E, now, out)

    def _on_partial(self, frame: str | bytes, head: Head, now: int, out: Output) -> None:
        name = head.symbol or head.s
        if not name and len(self._symbols) == 1:  # as documented, without a symbol: it can only be this one
            name = next(iter(self._symbols))
        st = self._state(name)
        if st is None:
            return
        m = self._message(self._partial_wire, "depth", st.depth, frame, now, out)
        if m is not None:
            self._partial(st, m.lastUpdateId, m.bids, m.asks, now, now, out, SNAPSHOT | TS_FROM_RECV)

    # Answers

    def _on_reply(self, frame: str | bytes, now: int, out: Output) -> None:
        reply = self._reply.decode(frame)
        number = reply.id
        if isinstance(number, str) and number.isascii() and number.isdigit():
            number = int(number)
        method, names = self._asked.pop(number, ("", ())) if isinstance(number, int) else ("", ())
        if reply.status == 200:
            if method == "subscribe":
                for name in names:
                    self._acked(name, now, out)
            return
        error = reply.error
        words = f"{error.code}: {' '.join(error.msg.split())}" if error is not None else f"status {reply.status}"
        self._error(words, now, out)
        if method != "subscribe":
            return
        if reply.status == 429 or (error is not None and error.code == _RATE_LIMIT):
            for name in names:
                self._rejected(name, words, now, out, retry=True)
            return
        # One bad name refuses the whole request. The error usually says which one.
        said = error.msg.split() if error is not None else []
        bad = next((name for name in names if name in said), None)
        if bad is None or len(names) == 1:
            self._refused(names, words, now, out)
            return
        self._rejected(bad, words, now, out)
        rest = [self._streams[name] for name in names if name != bad and name in self._streams]
        for stream in rest:
            stream.asked = stream.attempts = 0
        self._subscribe(rest, now, out)
