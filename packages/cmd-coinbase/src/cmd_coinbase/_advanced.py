"""One connection of Coinbase Advanced Trade without I/O: frames in, records and actions out.

Theory of operation. Every frame of the connection has the next ``sequence_num``, whatever it is. A missing number
may have been anything, so that every stream and book of the connection is affected: the books are STALE and are
subscribed again. Trades are followed by id beside that, and lose only what is really missing. Each channel
is subscribed by a frame of its own; ``heartbeats`` keep quiet channels open.

Products that are quoted in USDC are aliases of those in USD, and the exchange may answer under either name: what comes
for ``BTC-USD`` is taken for ``BTC-USDC`` too, where that is subscribed, until the exchange has used
that name itself. docs/exchanges/coinbase.md#advanced-book, #aliases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cmd_common.candles import interval_bounds
from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Send, Subscription
from cmd_common.feed_base import inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument
from cmd_common.orderbook import Level
from cmd_common.records import TS_FROM_RECV, Candle, CandleState

from . import _messages as wire
from ._feed import CoinbaseFeed, field, find, text_of
from ._times import parse_iso
from .instruments import Market
from .rest import taker
from .sync import ConnectionSequence, FrameVerdict

if TYPE_CHECKING:
    from cmd_native._native import Taken

__all__ = ["AdvancedFeed"]

_SECOND: Final = 1_000_000_000
_INTERVAL: Final = "5m"
_TYPE: Final = field("type")
_CHANNEL: Final = field("channel")
_CHANNELS: Final = {"trades": "market_trades", "quotes": "ticker", "book": "level2", "candles": "candles"}
_STREAM_OF: Final = {"level2": "level2", "l2_data": "level2", "market_trades": "market_trades"} | {
    "ticker": "ticker",
    "candles": "candles",
}


class AdvancedFeed(CoinbaseFeed):
    """One connection of Advanced Trade; see ``cmd_common.feed.Feed``. Option ``status`` (``on``)."""

    native_format = "coinbase-advanced"

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
    ) -> None:
        self._sequence = ConnectionSequence()
        self._aliases: dict[str, str] = {}  # USD product to the subscribed USDC product
        self._named: set[str] = set()  # aliases whose own name the exchange has used
        self._by_assets = {(i.base, i.quote): i.symbol for i in instruments.values() if i.quote in ("USD", "USDC")}
        self._open_candles: dict[str, Candle] = {}  # the newest candle of each symbol
        super().__init__(market, name, url, subscription, types, symbols, instruments, endpoints)
        self._wires = wire.advanced_wires()
        self._handlers: dict[str, Any] = {
            "l2_data": self._on_l2,
            "market_trades": self._on_trades,
            "ticker": self._on_ticker,
            "ticker_batch": self._on_ticker,
            "candles": self._on_candles,
            "heartbeats": self._on_nothing,
            "subscriptions": self._on_subscriptions,
            "status": self._on_status,
        }

    # Subscriptions

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        """Streams are named by channel and product."""
        if instrument.quote == "USDC" and (canonical := self._by_assets.get((instrument.base, "USD"))):
            self._aliases[canonical] = symbol
            if self._path is not None:
                self._path.remove(canonical)  # its messages may be for both
        return [self._stream(f"{_CHANNELS[t]}:{symbol}", symbol, t) for t in self._types if t in _CHANNELS]

    def _natively(self, st: SymbolState) -> None:
        if st.symbol not in self._aliases:
            super()._natively(st)
            if self._path is not None:
                self._path.number = self._sequence.last

    def _interval_of(self, stream: Stream) -> str:
        """Live candles are of five minutes."""
        return _INTERVAL

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        """One frame a channel."""
        return [
            (
                text_of({"type": method, "product_ids": [s.symbol for s in members], "channel": channel}),
                tuple(s.name for s in members),
            )
            for channel, members in self._chunks(method, streams)
        ]

    def _on_connected(self, now: int, out: Output) -> None:
        """Numbers begin anew; heartbeats keep the connection open."""
        self._sequence.reset()
        if self._path is not None:
            self._path.number = self._sequence.last
        self._states.clear()
        self._named.clear()
        channels = ("heartbeats", "status") if self._watch_status else ("heartbeats",)
        out.actions += [Send(text_of({"type": "subscribe", "channel": channel})) for channel in channels]

    def _on_subscriptions(self, m: wire.SubscriptionsFrame, now: int, out: Output) -> None:
        for event in m.events:
            for channel, products in event.subscriptions.items():
                kind = _STREAM_OF.get(channel, "")
                for product in (products or ()) if kind else ():
                    self._acked(f"{kind}:{product}", now, out)
                    alias = self._aliases.get(product)
                    if alias is not None:
                        self._acked(f"{kind}:{alias}", now, out)

    def _states_of(self, product: str) -> list[SymbolState]:
        """The symbols that a message of a product is for: itself, and a USDC product that it may stand for."""
        st = self._symbols.get(product)
        alias = self._aliases.get(product)
        if alias is not None and alias not in self._named and (other := self._symbols.get(alias)) is not None:
            return [other] if st is None else [st, other]
        if st is None:
            self.counters.skipped += 1
            return []
        if product.endswith("USDC"):  # a cheap test first; what it is an alias of comes from reference data
            self._named.add(product)
        return [st]

    def _forget(self, symbol: str) -> None:
        self._open_candles.pop(symbol, None)
        self._aliases = {usd: usdc for usd, usdc in self._aliases.items() if usdc != symbol}

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        """Judge the frame's number, then dispatch by channel."""
        channel = find(_CHANNEL, frame)
        decoder = self._wires.get(channel)
        if decoder is None:
            self._on_other(frame, now, out)
            return
        try:
            message = self._decode(decoder, channel, frame, now, out)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # Its number is good although something in it is not: the frames around it are whole.
            head = msgspec.json.decode(frame, type=wire.Head)  # raises for what has none: then the next number jumps
            if self._count(head.sequence_num, now, out):
                self._on_damage(channel, frame, error, now, out)
            return
        if self._count(message.sequence_num, now, out):
            self._handlers[channel](message, now, out)

    def _on_damage(self, channel: str, frame: str | bytes, error: Exception, now: int, out: Output) -> None:
        """A numbered frame has something that cannot be: it is lost for the products that it names."""
        kind = _STREAM_OF.get(channel.removesuffix("_batch"), "")
        named = _products(msgspec.json.decode(frame)) if kind else set()
        named |= {alias for product, alias in self._aliases.items() if product in named}
        hit = [s for s in self._streams.values() if s.name.startswith(f"{kind}:") and (not named or s.symbol in named)]
        if not hit or not self._damaged(frame, hit[0], bool(kind), error, now, out):
            self._damaged(frame, None, False, error, now, out)
        for stream in hit:
            stream.lose("malformed")
            if stream is (st := self._symbols[stream.symbol]).depth:
                self._lose_book(st, "malformed", now, out)

    def _on_other(self, frame: str | bytes, now: int, out: Output) -> None:
        """Errors, which have no number, and what this version does not know."""
        event = msgspec.json.decode(frame)
        if not isinstance(event, dict):
            raise ValueError("a message that is no object")
        if event.get("type") == "error":
            error = msgspec.convert(event, wire.ErrorFrame)
            if isinstance(event.get("sequence_num"), int):
                self._count(event["sequence_num"], now, out)
            self._on_refusal(": ".join(w for w in (error.message, error.reason) if w) or "no words", now, out)
            return
        if "channel" not in event and isinstance(event.get("type"), str):
            self._unknown_event(event["type"], now, out)
            return
        head = msgspec.convert(event, wire.Head)
        self._count(head.sequence_num, now, out)
        self._unknown_event(head.channel, now, out)

    def _count(self, number: int, now: int, out: Output) -> bool:
        """Judge a frame's number; False for a repeat."""
        expected = self._sequence.last + 1
        verdict = self._sequence.judge(number)
        if self._path is not None:
            self._path.number = self._sequence.last
        if verdict is FrameVerdict.NEXT:
            return True
        if verdict is FrameVerdict.REPEAT:
            self.counters.duplicates += 1
            return False
        words = "began anew at" if verdict is FrameVerdict.RESET else "jumped to"
        self._status(out, now, "sequence", f"frame {expected} was expected, the connection {words} {number}")
        self._lost_all("connection_sequence", now, out)
        return True

    def _on_nothing(self, m: wire.HeartbeatsFrame, now: int, out: Output) -> None:
        """A heartbeat: its number was judged."""

    def _on_status(self, m: wire.StatusFrame, now: int, out: Output) -> None:
        for event in m.events:
            self._product_status(event.products, now, out)

    def _time_of(self, text: str, now: int) -> tuple[int, int]:
        """A time in ns and the flag TS_FROM_RECV where the message has none."""
        ts = parse_iso(text) if text else 0
        return (ts, 0) if ts else (now, TS_FROM_RECV)

    # Trades

    def _on_trades(self, m: wire.TradesFrame, now: int, out: Output) -> None:
        """Trades, newest first; the exchange tells the maker's side."""
        for event in m.events:
            for t in reversed(event.trades):
                for st in self._states_of(t.product_id):
                    if st.trades is None:
                        self.counters.skipped += 1
                        continue
                    ts, flags = self._time_of(t.time, now)
                    seq = int(t.trade_id) if t.trade_id.isascii() and t.trade_id.isdigit() else None
                    self._trade(
                        st.trades,
                        seq,
                        t.trade_id,
                        float(t.price),
                        float(t.size),
                        taker(t.side),
                        ts,
                        now,
                        out,
                        flags | inexact_flag(t.price, t.size),
                    )

    # Quotes

    def _on_ticker(self, m: wire.TickerFrame, now: int, out: Output) -> None:
        """Best prices; without an id, so unchanged ones are left out."""
        ts, flags = self._time_of(m.timestamp, now)
        for event in m.events:
            for t in event.tickers:
                for st in self._states_of(t.product_id):
                    if st.quotes is None:
                        self.counters.skipped += 1
                        continue
                    texts = (t.best_bid, t.best_bid_quantity, t.best_ask, t.best_ask_quantity)
                    bid, bid_size, ask, ask_size = (float(text) for text in texts)
                    exact = flags | inexact_flag(*texts)
                    self._quote(st.quotes, None, bid, bid_size, ask, ask_size, ts, now, out, exact)

    # Candles

    def _on_candles(self, m: wire.CandlesFrame, now: int, out: Output) -> None:
        """Candles of five minutes, newest first in a snapshot.

        None says that it is final. One that the exchange sends at or after its end is; one that was still
        open is final, as it was last sent, when the next one begins and no message was lost meanwhile.
        """
        ts, flags = self._time_of(m.timestamp, now)
        for event in m.events:
            for c in sorted(event.candles, key=lambda c: c.start):
                open_time, close_time = interval_bounds(c.start * _SECOND, _INTERVAL)
                if open_time != c.start * _SECOND:
                    raise ValueError(f"a candle begins at {c.start}, which is within {_INTERVAL}")
                for st in self._states_of(c.product_id):
                    stream = st.stream_of("candles", _INTERVAL)
                    if stream is None:
                        self.counters.skipped += 1
                        continue
                    before = self._open_candles.get(st.symbol)
                    # After a loss nobody knows how it ended: it stays provisional, and a gap tells of it.
                    known = before is not None and before.state != "final" and stream.lost is None
                    if before is not None and known and before.open_time < open_time:
                        final = msgspec.structs.replace(before, state="final", ts_event=ts, ts_recv=now)
                        self._candle(stream, final, now, out)
                    state: CandleState = "final" if ts >= close_time else "provisional"
                    candle = Candle(
                        open_time=open_time,
                        close_time=close_time,
                        ts_event=ts,
                        ts_recv=now,
                        venue=self.venue,
                        symbol=st.symbol,
                        interval=_INTERVAL,
                        source="exchange",
                        state=state,
                        open=float(c.open),
                        high=float(c.high),
                        low=float(c.low),
                        close=float(c.close),
                        volume=float(c.volume),
                        quote_volume=nan,
                        trades=-1,
                        taker_buy_volume=nan,
                        taker_buy_quote_volume=nan,
                        flags=flags | inexact_flag(c.open, c.high, c.low, c.close, c.volume),
                    )
                    if before is None or open_time >= before.open_time:
                        self._open_candles[st.symbol] = candle
                    self._candle(stream, candle, now, out)

    # Books

    def _taken(self, taken: Taken, now: int, out: Output) -> None:
        assert self._path is not None
        self._sequence.judge(self._path.number)
        st: SymbolState = taken[0]
        if st.symbol.endswith("USDC"):
            self._named.add(st.symbol)
        super()._taken(taken, now, out)

    def _on_l2(self, m: wire.L2Frame, now: int, out: Output) -> None:
        """Snapshots and changes of books; frames without any change are normal [R]."""
        if self._path is not None:
            self._path.lenient = not self._wires["l2_data"].strict
        for event in m.events:
            for st in self._states_of(event.product_id):
                if st.depth is None or st.builder is None:
                    self.counters.skipped += 1
                    continue
                bids: dict[float, float] = {}
                asks: dict[float, float] = {}
                for u in event.updates:
                    (bids if u.side == "bid" else asks)[u.price_level] = u.new_quantity
                # The engine's own time of the newest change; snapshots may say 1970, then the sender's counts.
                ts = max((parse_iso(text) for text in {u.event_time for u in event.updates} if text), default=0)
                ts = ts or self._time_of(m.timestamp, now)[0]
                if event.type == "snapshot":
                    self._stream_book(st, None, _best_first(bids, True), _best_first(asks, False), ts, now, out)
                elif event.updates:
                    self._own_delta(st, list(bids.items()), list(asks.items()), ts, now, out)
                else:
                    self.counters.skipped += 1


def _best_first(side: dict[float, float], descending: bool) -> list[Level]:
    return sorted(((p, q) for p, q in side.items() if q), reverse=descending)


def _products(frame: Any) -> set[str]:
    """Return the products that a decoded frame is about; none where one of them cannot be told."""
    events = frame.get("events")
    rows: list[Any] = []
    for event in events if isinstance(events, list) else ():
        if not isinstance(event, dict) or "product_id" in event:
            rows.append(event)
        else:
            rows += [row for value in event.values() if isinstance(value, list) for row in value]
    found = [row.get("product_id") if isinstance(row, dict) else None for row in rows]
    names = {name for name in found if isinstance(name, str)}
    return names if all(isinstance(name, str) for name in found) else set()
