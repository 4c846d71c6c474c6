"""Bitstamp's WebSocket interface as a Feed.

Rules: docs/exchanges/bitstamp.md#book and #orders. One channel a frame and a symbol. Books are seeded by REST
and have no sequence: they are guarded by crossed prices and compared with a fresh snapshot from time to
time; a difference is a gap since the last agreement. Quotes are the book's best prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cmd_common.feed import Output, Send
from cmd_common.feed_base import FeedBase, ParsedBook, Wire, inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.http import HttpRequest
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.records import Gap, Side
from cmd_common.sequence import BookState, SequenceRule

from . import rest
from ._messages import BookFrame, Head, Notice, OrderFrame, TradeFrame
from .sync import OrderChain, TimeRule

__all__ = ["BitstampFeed"]

_SECOND: Final = 1_000_000_000
_PING_AFTER: Final = 20 * _SECOND
_ORDERS: Final = "live_orders"
_CHANNELS: Final = {"trades": "live_trades_", "book": "diff_order_book_"}
_TOP: Final = "order_book_"
_Sides = tuple[dict[float, float], dict[float, float]]  # price to quantity; 0: deleted


class BitstampFeed(FeedBase):
    """One connection to ``ws.bitstamp.net``; see ``cmd_common.feed.Feed``.

    Options: ``live_orders=on`` subscribes every symbol's order events too, for the raw recording; they become no
    records, but a broken chain becomes a gap of ``live_orders``. ``reseed``: seconds between two comparisons
    of each book with a fresh snapshot, 600 by default; 0: none.
    """

    native_format = "bitstamp"
    seeded = True
    sequenced = False
    contiguous_trades = False
    derive_quotes = True
    max_frame = 16 * 1024 * 1024
    quiet_limit = 3 * _PING_AFTER  # heartbeats are answered

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self._head = msgspec.json.Decoder(Head, strict=False)
        self._notice = msgspec.json.Decoder(Notice, strict=False)
        self._order = msgspec.json.Decoder(OrderFrame, strict=False)
        self._book_wire = Wire(BookFrame)
        self._trade_wire = Wire(TradeFrame)
        self._pinged = 0
        self._agreed: dict[str, tuple[int, int, int]] = {}  # symbol: receive time, event time and id of the last seed
        self._chains: dict[str, OrderChain] = {}
        self.order_events = 0
        super().__init__(*args, **keywords)
        self._reseed_every = int(self.number_option("reseed", 600.0) * _SECOND)
        self._with_orders = self._options.get(_ORDERS, "off") == "on"
        self._add_orders(self.symbols)

    # Streams

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        streams = []
        for type_ in self._types:
            if type_ in _CHANNELS:
                prefix = _TOP if type_ == "book" and self._depth is not None else _CHANNELS[type_]
                streams.append(self._stream(prefix + symbol.lower(), symbol, type_))
        return streams

    def _add_orders(self, symbols: Sequence[str]) -> list[Stream]:
        """Make the streams of order events; they belong to no table of records."""
        new = []
        for symbol in symbols if self._with_orders else ():
            stream = Stream(f"{_ORDERS}_{symbol.lower()}", symbol, _ORDERS, _ORDERS)
            if stream.name not in self._streams:
                self._streams[stream.name] = stream
                self._chains[stream.name] = OrderChain()
                new.append(stream)
        return new

    def add(self, symbols: Sequence[str], now: int) -> Output:
        """Subscribe more symbols while connected; see ``FeedBase.add``."""
        out = super().add(symbols, now)
        new = self._add_orders([s for s in symbols if s in self._symbols])
        if self._connected:
            self._subscribe(new, now, out)
        return out

    def remove(self, symbols: Sequence[str], now: int) -> Output:
        """Unsubscribe symbols while connected; see ``FeedBase.remove``."""
        names = [f"{_ORDERS}_{s.lower()}" for s in symbols]
        gone = [self._streams.pop(name) for name in names if name in self._streams]
        out = super().remove(symbols, now)
        if self._connected:
            self._unsubscribe(gone, now, out)
        for stream in gone:
            del self._chains[stream.name]
        for symbol in symbols:
            self._agreed.pop(symbol, None)
        return out

    def _native_key(self, st: SymbolState) -> str:
        assert st.depth is not None
        return st.depth.name  # messages name the channel

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        return [
            (msgspec.json.encode({"event": f"bts:{method}", "data": {"channel": s.name}}).decode(), (s.name,))
            for s in streams
        ]

    def _on_connected(self, now: int, out: Output) -> None:
        self._pinged = now
        self._agreed.clear()
        for name, chain in self._chains.items():
            chain.reset()
            stream = self._streams[name]
            stream.begin(self._silence)

    def disconnected(self, now: int, reason: str) -> Output:
        """The connection was lost; see ``FeedBase.disconnected``."""
        if self._connected:
            for name in self._chains:
                self._streams[name].lose("disconnect")
        return super().disconnected(now, reason)

    def _on_tick(self, now: int, out: Output) -> None:
        if now < self._pinged:
            self._pinged = now
        if now - max(self._last_frame, self._pinged) >= _PING_AFTER:
            self._pinged = now
            out.actions.append(Send('{"event":"bts:heartbeat"}'))
        if not self._reseed_every or self._depth is not None:
            return
        for symbol, st in self._symbols.items():
            agreed = self._agreed.get(symbol)
            live = st.builder is not None and st.builder.state is BookState.LIVE
            if live and agreed is not None and now - agreed[0] >= self._reseed_every:
                self._agreed[symbol] = (now, *agreed[1:])
                self._reseed(st, now, out)

    # Books

    def _rule(self) -> SequenceRule:
        return TimeRule()

    def _snapshot_request(self, symbol: str, limit: int) -> HttpRequest:
        return rest.book_request(self._endpoints, symbol)

    def _parse_snapshot(self, symbol: str, body: bytes) -> ParsedBook:
        book = rest.parse_book(body)
        bids = [level for level in book.bids if level[1]]
        asks = [level for level in book.asks if level[1]]
        return ParsedBook(book.microtimestamp, bids, asks, book.microtimestamp * 1000, complete=True)

    def snapshot(self, symbol: str, body: bytes, now: int) -> Output:
        """Take a snapshot; one of a LIVE book must agree with it, else something was lost without a sign."""
        st = self._symbols.get(symbol)
        builder = st.builder if st is not None else None
        kept: _Sides | None = None
        if builder is not None and builder.state is BookState.LIVE:
            kept = dict(builder.book.bids()), dict(builder.book.asks())
        resyncs = builder.resyncs if builder is not None else 0
        waited = st is not None and st.awaiting
        out = super().snapshot(symbol, body, now)
        if st is None or builder is None or not waited or st.awaiting or builder.state is not BookState.LIVE:
            return out
        if st.attempts:  # refused: it is asked for again
            return out
        if kept is None or builder.resyncs != resyncs:
            self._agreed[symbol] = (now, builder.book.ts_event, builder.last_id)
        elif not builder.held:  # else it is compared when the stream has reached it
            records = len(out.records)
            self._compare(st, kept, now, out)
            self.counters.records += len(out.records) - records
        return out

    def _compare(self, st: SymbolState, kept: _Sides, now: int, out: Output) -> None:
        """Compare the fresh book with the one that was kept up by changes alone; both are of the same moment."""
        builder = st.builder
        assert builder is not None
        symbol = st.symbol
        differing = _differing(builder.book, *kept)
        if not differing:
            self._agreed[symbol] = (now, builder.book.ts_event, builder.last_id)
            return
        agreed = self._agreed.get(symbol)
        if agreed is not None and st.book_gap is None:
            st.book_gap = (agreed[1], agreed[2], "reseed")
        self._status(out, now, "differs", f"{differing} levels differ from a fresh snapshot", symbol, "book")
        self._lose_book(st, "reseed", now, out)

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        head = self._head.decode(frame)
        event, channel = head.event, head.channel
        if event == "data":
            self._on_book(frame, channel, now, out)
        elif event == "trade":
            self._on_trade(frame, channel, now, out)
        elif event in ("order_created", "order_changed", "order_deleted"):
            self._on_order(frame, channel, now, out)
        elif event == "bts:subscription_succeeded":
            self._acked(channel, now, out)
        elif event in ("bts:heartbeat", "bts:unsubscription_succeeded"):
            pass
        elif event == "bts:request_reconnect":
            self._status(out, now, "shutdown", "the exchange asks for a new connection")
            self._reconnect("the exchange asked for it", out)
        elif event == "bts:error":
            self._on_error(frame, now, out)
        else:
            self._unknown_event(event, now, out)

    def _on_error(self, frame: str | bytes, now: int, out: Output) -> None:
        notice = self._notice.decode(frame)
        data = notice.data
        words = data if isinstance(data, str) else data.message if data is not None else ""
        words = " ".join(words.split()) or "an error without words"
        self._error(words, now, out)
        named = [s.name for s in self._waiting_streams() if s.name in words.replace('"', " ").replace("'", " ").split()]
        for name in [notice.channel] if notice.channel else named:
            self._rejected(name, words, now, out)

    def _stream_named(self, channel: str) -> tuple[Stream, SymbolState] | None:
        """Return a subscribed stream; what comes for one that was given up is passed over."""
        stream = self._streams.get(channel)
        st = self._symbols.get(stream.symbol) if stream is not None else None
        if stream is None or st is None:
            self.counters.skipped += 1
            return None
        return stream, st

    def _on_book(self, frame: str | bytes, channel: str, now: int, out: Output) -> None:
        found = self._stream_named(channel)
        if found is None:
            return
        stream, st = found
        try:
            data = self._decode(self._book_wire, "data", frame, now, out).data
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._malformed(frame, f"{channel}: {error}"[:200], now, out, stream)
            return
        if self._path is not None:
            self._path.lenient = not self._book_wire.strict
        id_, ts = data.microtimestamp, data.microtimestamp * 1000
        if self._depth is not None:
            gap = st.book_gap
            self._partial(st, id_, data.bids, data.asks, ts, now, out)
            if self._derived and st.builder is not None and st.builder.last_id == id_:
                if gap is not None and st.book_gap is None:
                    self._gap(out, Gap(gap[0], max(gap[0], ts), self.venue, st.symbol, "quotes", gap[2], "lost"))
                self._derive_quote(st, st.builder, ts, now, out)
        else:
            builder = st.builder
            kept: _Sides | None = None
            if builder is not None and builder.held:  # a fresh snapshot waits for the stream to reach it
                kept = dict(builder.book.bids()), dict(builder.book.asks())
            self._delta(st, id_, id_, None, data.bids, data.asks, ts, now, out)
            if kept is not None and builder is not None and not builder.held and builder.state is BookState.LIVE:
                for side, levels in zip(kept, (data.bids, data.asks), strict=True):
                    side.update(levels)
                self._compare(st, kept, now, out)

    def _on_trade(self, frame: str | bytes, channel: str, now: int, out: Output) -> None:
        found = self._stream_named(channel)
        if found is None:
            return
        try:
            t = self._decode(self._trade_wire, "trade", frame, now, out).data
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._malformed(frame, f"{channel}: {error}"[:200], now, out, found[0])
            return
        side: Side = "buy" if t.type == 0 else "sell" if t.type == 1 else "unknown"
        flags = inexact_flag(t.price_str, t.amount_str)
        price, quantity = float(t.price_str), float(t.amount_str)
        self._trade(found[0], t.id, str(t.id), price, quantity, side, t.microtimestamp * 1000, now, out, flags)

    # Orders

    def _on_order(self, frame: str | bytes, channel: str, now: int, out: Output) -> None:
        chain, stream = self._chains.get(channel), self._streams.get(channel)
        if chain is None or stream is None:
            self.counters.skipped += 1
            return
        m = self._order.decode(frame)
        ts = m.data.microtimestamp * 1000
        self.order_events += 1
        self.counters.skipped += 1  # a known message that is no record
        before = stream.ts
        if not chain.follow(m.event_id, m.pre_event_id):
            self._status(out, now, "chain", f"event {m.pre_event_id} did not come", stream.symbol, _ORDERS)
            gap = Gap(before, max(before, ts), self.venue, stream.symbol, _ORDERS, "chain", "lost")
            self._gap(out, gap)
        elif stream.lost is not None:
            since, why = stream.lost
            self._gap(out, Gap(since, max(since, ts), self.venue, stream.symbol, _ORDERS, why, "lost"))
        stream.lost = None
        self._hear(stream, ts, now, out)


def _differing(book: OrderBook, bids: dict[float, float], asks: dict[float, float]) -> int:
    """Return how many levels of a fresh book differ from those that were kept, as deep as the fresh one goes."""
    fresh_bids, fresh_asks = dict(book.bids()), dict(book.asks())
    low, high = min(fresh_bids, default=0.0), max(fresh_asks, default=float("inf"))
    count = sum(fresh_bids.get(p, 0.0) != bids.get(p, 0.0) for p in fresh_bids.keys() | bids.keys() if p >= low)
    return count + sum(fresh_asks.get(p, 0.0) != asks.get(p, 0.0) for p in fresh_asks.keys() | asks.keys() if p <= high)
