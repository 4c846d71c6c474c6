"""One Binance market-data connection without I/O: frames in, records and actions out.

Theory of operation. A frame is decoded straight into a typed message: the event type is found by a
text search and chooses the decoder, so the hot path builds no dictionary. Whatever that path does
not understand (a reply, an unknown event or key, damage) takes the slow path, which decodes it
generically and says what it is. Dispatch goes by event type, never by the stream's name, so
recordings with other depth speeds read the same.

Books: the snapshot is asked for as soon as the depth subscription is confirmed, not at the first
event, because a quiet symbol may not have one for minutes. Rules: ``sync`` and
docs/exchanges.md#binance-spot-book. Losses: trades and aggregates by id, books by sequence, candles
by missing final ones, quotes by disconnects and damage only; docs/exchanges.md#binance-integrity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from cmd_common.errors import UsageError
from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Reconnect, Subscription
from cmd_common.feed_state import Stream
from cmd_common.instruments import Instrument
from cmd_common.records import AggTrade, Candle, Gap, Quote, Trade
from cmd_common.ticks import native_path

from . import _messages as wire
from ._books import Books
from ._ticks import agg_trade, inexact_flag, quote, trade
from .instruments import Market
from .rest import depth_request

__all__ = ["BinanceFeed"]

_SECOND: Final = 1_000_000_000
_MICRO: Final = 9_200_000_000_000  # a time from here on is in microseconds, below in milliseconds
_EXACT: Final = 1e7  # below it, a decimal of at most 8 places has at most 15 digits
_PARTIAL_DEPTHS: Final = (5, 10, 20)
_RESTART_AFTER: Final = 60 * _SECOND  # an older id in so much younger a quote: the exchange began its ids anew
_LENIENT_AFTER: Final = 100  # messages with unknown keys until they are no longer looked at one by one

Decoder = Callable[[str | bytes], Any]
Handler = Callable[[Any, str | bytes, int, Output], None]


def _decoder(frame: type[Any]) -> Decoder:
    return msgspec.json.Decoder(frame, strict=False).decode


_STREAM_OF: Final = {"trades": "trade", "agg_trades": "aggTrade", "quotes": "bookTicker"}
_FRAMES: Final[dict[str, type[Any]]] = {
    "trade": wire.TradeFrame,
    "aggTrade": wire.AggTradeFrame,
    "bookTicker": wire.QuoteFrame,
    "depthUpdate": wire.DepthFrame,
    "kline": wire.KlineFrame,
}
_EVENTS: Final[dict[str, type[Any]]] = {
    "trade": wire.TradeEvent,
    "aggTrade": wire.AggTradeEvent,
    "bookTicker": wire.QuoteEvent,
    "depthUpdate": wire.DepthEvent,
    "kline": wire.KlineEvent,
}
_QUOTE_KEYS: Final = frozenset("usbBaA")


class BinanceFeed(Books):
    """One connection of one market; see ``cmd_common.feed.Feed``.

    Options of the subscription: ``snapshot_limit`` (levels a side asked for by REST), ``speed`` (of
    depth, ``100ms``), ``deltas`` (``off``: only snapshots are recorded), ``silence`` (seconds).
    """

    def __init__(
        self,
        market: Market,
        name: str,
        url: str,
        subscription: Subscription,
        types: Sequence[str],
        symbols: Sequence[str],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
        *,
        snapshot_limit: int | None = None,
    ) -> None:
        self.market = market
        self.native_format = "binance-futures" if market.futures else "binance-spot"
        self._snapshot_limit = snapshot_limit or market.snapshot_limit
        self.book_levels = market.snapshot_limit
        if subscription.depth is not None and subscription.depth not in _PARTIAL_DEPTHS:
            raise UsageError(
                f"{market.venue}: partial depth {subscription.depth} does not exist",
                hint="one of 5, 10, 20, or none for full",
            )
        options = subscription.options
        self._speed = options.get("speed", "100ms")
        if not re.fullmatch(r"[0-9]{1,5}ms", self._speed):
            raise UsageError(f"{market.venue}: option speed is {self._speed!r}", hint="such as 100ms")
        if self._speed == ("250ms" if market.futures else "1000ms"):
            self._speed = ""  # the exchange's own default goes without a name
        super().__init__(market.venue, name, url, subscription, types, symbols, instruments, endpoints)
        try:
            self._snapshot_limit = int(options.get("snapshot_limit", self._snapshot_limit))
        except ValueError as error:
            raise UsageError(f"{self.venue}: an option of the feed is not a number: {error}") from error
        depth_request(market, endpoints, "", self._snapshot_limit)  # a wrong limit is refused here
        self._asked_levels = self._snapshot_limit
        for builder in self.books.values():
            builder.snapshot_levels = self._snapshot_limit
        self._decoders: dict[str | bytes, tuple[Decoder, Handler]] = {}
        for event, frame in _FRAMES.items():
            self._set_decoder(event, _decoder(frame))
        self._plain: tuple[Decoder, Handler] = self._decoders["bookTicker"]
        if self._depth is not None and not market.futures:
            self._plain = (_decoder(wire.PartialFrame), self._on_partial)
        self._ticks: Callable[[str | bytes, int], Any] | None = None  # where cmd-native decodes trades and quotes
        if _STREAM_OF.keys() & set(types) and (path := native_path(market.venue, wire.MAX_FRAME, symbols)) is not None:
            self._ticks = path.take
        self._took: dict[type[Any], Callable[[Any, int, Output], None]] = {
            Trade: self._take_trade,
            AggTrade: self._take_agg_trade,
            Quote: self._take_quote,
        }
        self._unknown_keys: dict[str, int] = {}  # messages with unknown keys by event type

    # Streams

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        low = symbol.lower()
        streams: list[Stream] = []
        for type_ in self._types:
            if type_ == "candles":
                streams += [
                    self._stream(f"{low}@kline_{interval}", symbol, type_)
                    for interval in dict.fromkeys(self._subscription.intervals)
                ]
            elif type_ == "book":
                levels = "" if self._depth is None else str(self._depth)
                speed = f"@{self._speed}" if self._speed else ""
                streams.append(self._stream(f"{low}@depth{levels}{speed}", symbol, type_))
            else:
                streams.append(self._stream(f"{low}@{_STREAM_OF[type_]}", symbol, type_))
        return streams

    def _interval_of(self, stream: Stream) -> str:
        return stream.name.partition("@kline_")[2]

    # Frames

    def receive(self, frame: str | bytes, now: int) -> Output:
        """Take one data frame. Never raises for what an exchange may send: it counts and reports."""
        out = Output()
        counters = self.counters
        counters.messages += 1
        self._last_frame = now
        path = self._path
        if path is not None and (taken := path.take(frame, self._deltas)) is not None:
            self._taken(taken, now, out)
            counters.records += len(out.records)
            return out
        ticks = self._ticks
        if ticks is not None and (record := ticks(frame, now)) is not None:
            self._took[type(record)](record, now, out)
            counters.records += len(out.records)
            return out
        known: tuple[Decoder, Handler] | None
        if type(frame) is str:
            at = frame.find('"e":"')
            known = self._decoders.get(frame[at + 5 : frame.find('"', at + 5)]) if at >= 0 else self._plain
        else:
            at = frame.find(b'"e":"')  # type: ignore[arg-type]
            known = self._decoders.get(frame[at + 5 : frame.find(b'"', at + 5)]) if at >= 0 else self._plain  # type: ignore[arg-type]
        message = None
        if known is not None and len(frame) <= wire.MAX_FRAME:
            try:
                message = known[0](frame)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                message = None  # the slow path says what it is
        if message is not None:
            assert known is not None
            known[1](message, frame, now, out)
        else:
            self._slow(frame, now, out)
        counters.records += len(out.records)
        return out

    def _set_decoder(self, event: str, decode: Decoder) -> None:
        handler: Handler = {
            "trade": self._on_trade,
            "aggTrade": self._on_agg_trade,
            "bookTicker": self._on_quote,
            "depthUpdate": self._on_depth if self._depth is None else self._on_partial_event,
            "kline": self._on_kline,
        }[event]
        self._decoders[event] = self._decoders[event.encode()] = (decode, handler)

    def _slow(self, frame: str | bytes, now: int, out: Output) -> None:
        """Say what the hot path did not understand: reply, unknown event or key, or damage."""
        if len(frame) > wire.MAX_FRAME:
            self._malformed(frame, f"a frame of {len(frame)} characters", now, out)
            return
        try:
            outer = msgspec.json.decode(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._malformed(frame, str(error), now, out)
            return
        event = outer
        stream = ""
        if isinstance(outer, dict) and "data" in outer and isinstance(outer.get("stream"), str):
            stream, event = outer["stream"], outer["data"]
            self._unknown_keys_of("stream", [k for k in outer if k not in ("stream", "data")], now, out)
        if not isinstance(event, dict):
            # Streams of all symbols send arrays; none of them is asked for.
            self._unknown_event(stream or type(event).__name__, now, out)
            return
        name = event.get("e")
        if name is None and self._reply(event, now, out):
            return
        if name == "serverShutdown":
            self._status(out, now, "shutdown", "the exchange closes this connection soon")
            out.actions.append(Reconnect("serverShutdown", planned=True))
            return
        handler: Handler
        if name is None and "lastUpdateId" in event:
            kind, handler = wire.PartialEvent, self._on_partial
        else:
            if name is None and event.keys() >= _QUOTE_KEYS:
                name = "bookTicker"
            if not isinstance(name, str) or name not in _EVENTS:
                self._unknown_event(str(name or stream or "?")[:40], now, out)
                return
            kind, handler = _EVENTS[name], self._decoders[name][1]
        try:
            message, unknown = wire.lenient(kind, event)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            self._malformed(frame, f"{name or 'partial depth'}: {error}", now, out)
            return
        if unknown:
            self._unknown_keys_of(name or "partial", unknown, now, out)
        handler(wire.Wrapped(message, stream), frame, now, out)

    def _unknown_keys_of(self, event: str, keys: list[str], now: int, out: Output) -> None:
        if not keys:
            return
        self._unknown_fields(event, keys, now, out)
        seen = self._unknown_keys[event] = self._unknown_keys.get(event, 0) + 1
        if seen == _LENIENT_AFTER and event in _FRAMES:
            # The exchange has added a key for good: back to the hot path, and no more counting.
            self._set_decoder(event, _decoder(wire.lenient_frame(_FRAMES[event])))
            if event == "depthUpdate" and self._path is not None:
                self._path.lenient = True
            if event == "bookTicker" and self._plain[1] == self._on_quote:
                self._plain = self._decoders["bookTicker"]
            self._status(out, now, "unknown_field", f"{event}: {seen} messages with unknown fields, counting ends")

    # Events. ``message`` is a frame: the event is in ``data``.

    def _on_trade(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        d: wire.TradeEvent = message.data
        st = self._symbols.get(d.s)
        if st is None or st.trades is None:
            self.counters.skipped += 1
            return
        if d.p == 0.0 and d.X == "MARKET":  # before its id counts as seen
            self._malformed(frame, "a trade with price 0", now, out)
            return
        self._take_trade(trade(d, frame, self.venue, now), now, out, d.X == "MARKET")

    def _take_trade(self, record: Trade, now: int, out: Output, market: bool = True) -> None:
        st = self._symbols.get(record.symbol)
        if st is None or (s := st.trades) is None:
            self.counters.skipped += 1
            return
        ts = record.ts_event
        id_ = record.trade_seq
        assert id_ is not None
        ids = st.trade_ids
        if id_ == ids.last + 1:
            ids.last = id_
            ids.ts = ts
        elif not self._new_id(ids, id_, ts, s, out):
            return
        s.heard = now
        s.ts = ts
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)
        if not market:
            # Insurance fund, ADL and NA fills use up ids but are not in aggregates nor in the market.
            self.counters.skipped += 1
            return
        out.records.append(record)

    def _on_agg_trade(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        d: wire.AggTradeEvent = message.data
        if d.s not in self._symbols:
            self.counters.skipped += 1
            return
        self._take_agg_trade(agg_trade(d, frame, self.venue, now), now, out)

    def _take_agg_trade(self, record: AggTrade, now: int, out: Output) -> None:
        st = self._symbols.get(record.symbol)
        if st is None or (s := st.agg_trades) is None:
            self.counters.skipped += 1
            return
        ts = record.ts_event
        id_ = record.trade_seq
        assert id_ is not None
        ids = st.agg_ids
        if id_ == ids.last + 1:
            ids.last = id_
            ids.ts = ts
        elif not self._new_id(ids, id_, ts, s, out):
            return
        s.heard = now
        s.ts = ts
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)
        out.records.append(record)

    def _on_quote(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        d: wire.QuoteEvent = message.data
        if d.s not in self._symbols:
            self.counters.skipped += 1
            return
        self._take_quote(quote(d, frame, self.venue, now), now, out)

    def _take_quote(self, record: Quote, now: int, out: Output) -> None:
        st = self._symbols.get(record.symbol)
        if st is None or (s := st.quotes) is None:
            self.counters.skipped += 1
            return
        u = record.seq
        ts = record.ts_event
        if u <= st.quote_id:
            if u == st.quote_id or ts <= s.ts + _RESTART_AFTER:
                self.counters.duplicates += 1
                return
            detail = f"ids went from {st.quote_id} to {u}"
            self._gap(out, Gap(s.ts, ts, self.venue, s.symbol, s.table, "id_restart", "suspect", detail=detail))
        st.quote_id = u
        s.heard = now
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)
        s.ts = ts
        out.records.append(record)

    def _on_kline(self, message: Any, frame: str | bytes, now: int, out: Output) -> None:
        d: wire.KlineEvent = message.data
        k = d.k
        st = self._symbols.get(d.s)
        if st is None or (candles := st.candles.get(k.i)) is None:
            self.counters.skipped += 1
            return
        s = candles.stream
        unit = 1000 if k.T >= _MICRO else 1_000_000
        ts = d.E * 1000 if d.E >= _MICRO else d.E * 1_000_000
        flags = 0
        for value in (k.o, k.h, k.l, k.c, k.v, k.q, k.V, k.Q):
            if value >= _EXACT or int(value * 1e8 + 0.5) / 1e8 != value:
                flags = inexact_flag(frame, ("o", "h", "l", "c", "v", "q", "V", "Q"), "k")
                break
        candle = Candle(
            k.t * 1000 if k.t >= _MICRO else k.t * 1_000_000,
            (k.T + 1) * unit,  # the exchange gives the last unit of the interval
            ts,
            now,
            self.venue,
            d.s,
            k.i,
            "exchange",
            "final" if k.x else "provisional",
            k.o,
            k.h,
            k.l,
            k.c,
            k.v,
            k.q,
            k.n,
            k.V,
            k.Q,
            flags,
        )
        if candles.repeats(candle):
            self.counters.duplicates += 1
            return
        keep, gap = candles.judge(candle)
        s.heard = now
        s.ts = ts
        if s.lost is not None or s.silent:
            self._heard_again(s, ts, now, out)
        if gap is not None:
            self._gap(out, st.candle_gap(gap))
        if keep:
            out.records.append(candle)
        else:
            self.counters.duplicates += 1
