"""Gemini's v2 market data feed as a Feed: books and trades in one channel, and candles.

Rules: docs/exchanges/gemini.md#v2-feed. Names are upper case, nothing is confirmed, errors are not documented. Books
have neither ids nor times: they are guarded by crossed prices and seeded anew from time to time, and their
times are those of receipt (flag 1). Candles have no mark that says when they are over: one is final when a
later one is there, or half a minute after its end, unless messages were lost meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from cmd_common.feed import Output
from cmd_common.feed_base import FeedBase, Wire, inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.instruments import Instrument
from cmd_common.records import SNAPSHOT, TS_FROM_RECV, BookDelta, BookSnapshot, Candle, Quote, Side
from cmd_common.sequence import BookState

from ._messages import CandleRow, CandlesUpdate, L2Updates, Levels, V2Error, V2Head, V2Trade
from .instruments import interval_ns

__all__ = ["V2Feed"]

_SECOND: Final = 1_000_000_000
_MS: Final = 1_000_000
_FRAME_SYMBOLS: Final = 50
_LATE: Final = 30 * _SECOND  # after a candle's end, until it counts as final without a later one
_PREFIX, _SUFFIX = "candles_", "_updates"


class V2Feed(FeedBase):
    """One connection to ``/v2/marketdata``; see ``cmd_common.feed.Feed``.

    Option ``reseed``: seconds between two fresh copies of each book, 600 by default; 0: none.
    """

    contiguous_trades = False
    sequenced = False
    derive_quotes = True
    max_frame = 16 * 1024 * 1024
    quiet_limit = 30 * _SECOND  # heartbeats come every 5 s

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self._head = msgspec.json.Decoder(V2Head, strict=False)
        self._error_form = msgspec.json.Decoder(V2Error, strict=False)
        self._l2_wire = Wire(L2Updates)
        self._trade_wire = Wire(V2Trade)
        self._candle_wire = Wire(CandlesUpdate)
        self._open: dict[tuple[str, str], Candle] = {}  # candles that are not final yet, by symbol and interval
        self._seeded_at: dict[str, int] = {}
        super().__init__(*args, **keywords)
        self._reseed_every = int(self.number_option("reseed", 600.0) * _SECOND)

    # Streams

    def _streams_of(self, symbol: str, instrument: Instrument) -> list[Stream]:
        streams = [self._stream(f"{t}:{symbol}", symbol, t) for t in self._types if t in ("trades", "book")]
        if "candles" in self._types:
            intervals = dict.fromkeys(self._subscription.intervals)
            streams += [self._stream(f"candles:{symbol}:{i}", symbol, "candles") for i in intervals]
        return streams

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        wanted: dict[str, dict[str, list[str]]] = {}  # channel to symbol to names of streams
        for s in streams:
            channel = _PREFIX + self._interval_of(s) if s.type == "candles" else "l2"
            wanted.setdefault(channel, {}).setdefault(s.symbol, []).append(s.name)
        # What was not answered goes out one by one: a bad symbol may have spoilt the frame of all.
        size = 1 if any(s.attempts for s in streams) else _FRAME_SYMBOLS
        frames = []
        for channel, by_symbol in wanted.items():
            symbols = list(by_symbol)
            for at in range(0, len(symbols), size):
                part = symbols[at : at + size]
                body = {"type": method, "subscriptions": [{"name": channel, "symbols": part}]}
                names = tuple(name for symbol in part for name in by_symbol[symbol])
                frames.append((msgspec.json.encode(body).decode(), names))
        return frames

    def _on_tick(self, now: int, out: Output) -> None:
        for key, candle in list(self._open.items()):
            st = self._symbols.get(key[0])
            known = st.candles.get(key[1]) if st is not None else None
            if now >= candle.close_time + _LATE and (known is None or known.stream.lost is None):
                self._final(key, out)
        if not self._reseed_every:
            return
        for symbol, st in self._symbols.items():
            builder = st.builder
            if builder is None or builder.state is not BookState.LIVE:
                continue
            if now - self._seeded_at.get(symbol, now) >= self._reseed_every:
                self._seeded_at[symbol] = now
                self._reseed(st, now, out)

    def _on_connected(self, now: int, out: Output) -> None:
        self._seeded_at.clear()

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        head = self._head.decode(frame)
        kind = head.type
        if kind == "l2_updates":
            self._on_l2(frame, head.symbol, now, out)
        elif kind == "trade":
            self._on_trade(frame, head.symbol, now, out)
        elif kind.startswith(_PREFIX) and kind.endswith(_SUFFIX):
            self._on_candles(frame, kind[len(_PREFIX) : -len(_SUFFIX)], head.symbol, now, out)
        elif kind == "heartbeat":
            pass
        elif kind == "subscription_ack":  # not documented; other channels of Gemini have it
            self.counters.skipped += 1
        elif head.result == "error" or kind == "error":
            self._on_error(frame, now, out)
        elif kind in ("auction_result", "auction_indicative", "auction_open", "block_trade"):
            self.counters.skipped += 1
        else:
            self._unknown_event(kind, now, out)

    def _on_error(self, frame: str | bytes, now: int, out: Output) -> None:
        error = self._error_form.decode(frame)
        words = " ".join(f"{error.reason} {error.message}".split()) or "an error without words"
        self._error(words, now, out)
        said = set(words.replace("'", " ").replace('"', " ").replace(",", " ").split())
        for stream in self._waiting_streams():
            if stream.symbol in said:
                self._rejected(stream.name, words, now, out)

    def _symbol(self, symbol: str) -> SymbolState | None:
        st = self._symbols.get(symbol)
        if st is None:
            self.counters.skipped += 1
        return st

    def _on_l2(self, frame: str | bytes, symbol: str, now: int, out: Output) -> None:
        st = self._symbol(symbol)
        if st is None:
            return
        try:
            m = self._decode(self._l2_wire, "l2_updates", frame, now, out)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._malformed(frame, f"l2_updates: {error}"[:200], now, out, st.depth or st.trades)
            return
        bids: Levels = []
        asks: Levels = []
        for side, price, quantity in m.changes:
            (bids if side == "buy" else asks).append((price, quantity))
        whole = m.trades is not None
        if st.trades is not None and whole:
            self._acked(st.trades.name, now, out)
            for trade in sorted(m.trades or (), key=_order):
                self._take_trade(st.trades, trade, now, out)
        if st.builder is None or st.depth is None:
            return
        before = len(out.records)
        # The first message of a subscription is the whole book, and is the one that has trades beside it.
        if whole or not st.depth.heard:
            self._seeded_at[symbol] = now
            self._stream_book(
                st,
                None,
                [level for level in bids if level[1]],
                [level for level in asks if level[1]],
                now,
                now,
                out,
                continues=self._same(st, bids, asks),
                flags=SNAPSHOT | TS_FROM_RECV,
            )
        else:
            self._own_delta(st, bids, asks, now, now, out)
        _mark(out, before)

    def _same(self, st: SymbolState, bids: Levels, asks: Levels) -> bool:
        """Whether a fresh copy equals the book that is kept, so that nothing was lost."""
        builder = st.builder
        if builder is None or builder.state is not BookState.LIVE:
            return False
        book = builder.book
        return dict(book.bids()) == dict(bids) and dict(book.asks()) == dict(asks)

    def _on_trade(self, frame: str | bytes, symbol: str, now: int, out: Output) -> None:
        st = self._symbol(symbol)
        if st is None:
            return
        try:
            m = self._decode(self._trade_wire, "trade", frame, now, out)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._malformed(frame, f"trade: {error}"[:200], now, out, st.trades)
            return
        if st.trades is None:
            self.counters.skipped += 1
            return
        self._take_trade(st.trades, m, now, out)

    def _take_trade(self, stream: Stream, m: V2Trade, now: int, out: Output) -> None:
        id_ = m.event_id if m.tid is None else m.tid
        side: Side = "buy" if m.side == "buy" else "sell" if m.side == "sell" else "unknown"
        flags = inexact_flag(m.price, m.quantity)
        self._trade(stream, id_, str(id_), float(m.price), float(m.quantity), side, m.timestamp * _MS, now, out, flags)

    # Candles

    def _on_candles(self, frame: str | bytes, interval: str, symbol: str, now: int, out: Output) -> None:
        st = self._symbol(symbol)
        if st is None:
            return
        known = st.candles.get(interval)
        if known is None:
            self.counters.skipped += 1
            return
        try:
            m = self._decode(self._candle_wire, "candles", frame, now, out)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._malformed(frame, f"candles: {error}"[:200], now, out, known.stream)
            return
        rows = sorted(m.changes, key=lambda r: r.time)
        # At first what lies before the subscription is history, later it may be what a disconnect has cost.
        rows = [r for r in rows if r.time * _MS >= known.expected] if known.expected else rows[-1:]
        key = (symbol, interval)
        for row in rows:
            candle = self._candle_of(row, symbol, interval, now)
            held = self._open.get(key)
            if held is not None and candle.open_time > held.open_time:
                self._final(key, out)
            self._candle(known.stream, candle, now, out)
            self._open[key] = candle

    def _candle_of(self, row: CandleRow, symbol: str, interval: str, now: int) -> Candle:
        start = row.time * _MS
        return Candle(
            open_time=start,
            close_time=start + interval_ns(interval),
            ts_event=now,
            ts_recv=now,
            venue=self.venue,
            symbol=symbol,
            interval=interval,
            source="exchange",
            state="provisional",
            open=row.open,
            high=row.high,
            low=row.low,
            close=row.close,
            volume=row.volume,
            quote_volume=nan,
            trades=-1,
            taker_buy_volume=nan,
            taker_buy_quote_volume=nan,
            flags=TS_FROM_RECV,
        )

    def _final(self, key: tuple[str, str], out: Output) -> None:
        """The interval is over: its candle, as it was last seen, is final."""
        candle = self._open.pop(key)
        st = self._symbols.get(key[0])
        known = st.candles.get(key[1]) if st is not None else None
        # After a loss nobody knows how it ended: it stays provisional, and a gap tells of it.
        if known is not None and known.stream.lost is None:
            self._candle(known.stream, replace(candle, state="final"), candle.ts_recv, out)


def _order(trade: V2Trade) -> tuple[int, int]:
    return trade.timestamp, trade.event_id


def _mark(out: Output, since: int) -> None:
    """Say of the book's rows that their time is that of receipt."""
    for index in range(since, len(out.records)):
        record = out.records[index]
        if isinstance(record, BookDelta | BookSnapshot | Quote) and not record.flags & TS_FROM_RECV:
            out.records[index] = replace(record, flags=record.flags | TS_FROM_RECV)
