"""One Kraken connection without I/O: frames in, records and actions out. This is API v2; v1 is in ``_v1``.

Theory of operation. Subscriptions, losses, gaps and resyncs are ``FeedBase``'s. What is Kraken's own:

- Books come with a snapshot in the stream and a CRC32 with every message. ``ChecksumBook`` holds the
  texts that it is made of, cuts to the subscribed depth, and is asked before an update is published:
  a mismatch loses the book, and its stream is subscribed anew. docs/exchanges/kraken.md#book
- Trades have ids that rise by one. A subscription begins with the last trades: after a reconnect they
  close the hole, at first they only tell where ids stand. docs/exchanges/kraken.md#trades
- Candles are not marked as closed: one is final when a younger one comes. docs/exchanges/kraken.md#candles
- Requests are numbered: a refusal names its symbol, but not its channel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any, Final

import msgspec

from cmd_common.exchange import Endpoints
from cmd_common.feed import Output, Subscription
from cmd_common.feed_base import Wire, inexact_flag
from cmd_common.feed_books import BAD_DATA
from cmd_common.feed_state import Stream
from cmd_common.instruments import Instrument
from cmd_common.records import TS_FROM_RECV, Candle, Side

from . import _messages as wire
from ._feed_base import CHANNEL_OF, KrakenFeedBase
from ._text import iso_to_ns
from .instruments import INTERVALS, MINUTES, VENUE
from .sync import DEPTHS, level_of_bytes

__all__ = ["KrakenFeed"]

_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * _SECOND
_SYMBOLS_A_FRAME: Final = 100
_NOT_ASKED_FOR: Final = ("instrument", "level3")  # known channels that no type here needs; recordings may have them
_INTERVAL_OF: Final = {minutes: interval for interval, minutes in MINUTES.items()}
_SYMBOL: Final = re.compile(r'"symbol"\s*:\s*"([^"\\]{1,40})"')
_CHANNEL: Final = re.compile(r'"channel"\s*:\s*"(\w{1,20})"')
_TYPE_OF: Final = {channel: type_ for type_, channel in CHANNEL_OF.items()}
_HEAD: Final = '{"channel":"'
_HEAD_BYTES: Final = _HEAD.encode()


class KrakenFeed(KrakenFeedBase):
    """One connection of API v2; see ``cmd_common.feed.Feed`` and ``KrakenFeedBase``."""

    native_format = "kraken"

    def __init__(
        self,
        name: str,
        url: str,
        subscription: Subscription,
        types: Sequence[str],
        symbols: Sequence[str],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
    ) -> None:
        self._request = 0
        self._asked: dict[int, tuple[str, ...]] = {}  # names of the streams of a request
        self._wires: dict[str, Wire[Any]] = {
            "book": Wire(wire.BookFrame),
            "trade": Wire(wire.TradeFrame),
            "ticker": Wire(wire.TickerFrame),
            "ohlc": Wire(wire.OhlcFrame),
            "status": Wire(wire.StatusFrame),
        }
        self._handlers: dict[str, Callable[[Any, str | bytes, int, Output], None]] = {
            "book": self._on_book,
            "trade": self._on_trade,
            "ticker": self._on_ticker,
            "ohlc": self._on_ohlc,
            "status": self._on_status,
        }
        self._reply = msgspec.json.Decoder(wire.Reply).decode
        super().__init__(name, url, subscription, types, symbols, instruments, endpoints)

    # Subscriptions

    def _on_connected(self, now: int, out: Output) -> None:
        super()._on_connected(now, out)
        self._asked.clear()

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        """One frame a channel (and interval) and hundred symbols; every symbol is answered on its own."""
        groups: dict[tuple[str, str], list[Stream]] = {}
        for s in streams:
            channel, _, rest = s.name.partition(":")
            interval = rest.rpartition(":")[2] if channel == "ohlc" else ""
            groups.setdefault((channel, interval), []).append(s)
        frames = []
        for (channel, interval), members in groups.items():
            for at in range(0, len(members), _SYMBOLS_A_FRAME):
                part = members[at : at + _SYMBOLS_A_FRAME]
                names = tuple(s.name for s in part)
                self._request += 1
                if len(self._asked) >= 4096:
                    del self._asked[next(iter(self._asked))]
                self._asked[self._request] = names
                params: dict[str, Any] = {"channel": channel, "symbol": [s.symbol for s in part]}
                if channel == "book":
                    params["depth"] = self._level_count
                elif channel == "ohlc":
                    params["interval"] = MINUTES[interval]
                elif channel == "ticker":
                    params["event_trigger"] = "bbo"
                if method == "subscribe":
                    params["snapshot"] = True
                request = {"method": method, "params": params, "req_id": self._request}
                frames.append((msgspec.json.encode(request).decode(), names))
        return frames

    def _ping_frame(self) -> str:
        self._request += 1
        return f'{{"method":"ping","req_id":{self._request}}}'

    def _on_reply(self, reply: wire.Reply, now: int, out: Output) -> None:
        if reply.method in ("pong", "ping"):
            return
        if reply.method not in ("subscribe", "unsubscribe"):
            if reply.error:
                self._error(reply.error, now, out)
            else:
                self._unknown_event(reply.method, now, out)
            return
        result = reply.result or wire._Result()
        symbol = result.symbol or reply.symbol
        asked = self._asked.get(reply.req_id or 0, ())
        names = [n for n in asked if not symbol or n.split(":")[1] == symbol]
        if not names and symbol:
            if result.channel:
                interval = f":{_INTERVAL_OF.get(result.interval or 1, '')}" if result.channel == "ohlc" else ""
                names = [f"{result.channel}:{symbol}{interval}"]
            else:
                names = [s.name for s in self._waiting_streams() if s.symbol == symbol]
        if reply.success:
            if reply.method == "subscribe":
                if result.channel == "book" and result.depth in DEPTHS:
                    self._depths[symbol] = result.depth
                for name in names:
                    self._acked(name, now, out)
            return
        reason = reply.error or "refused without a reason"
        low = reason.lower()
        if "already subscribed" in low:
            for name in names:
                self._acked(name, now, out)
            return
        if reply.method == "unsubscribe":
            self.counters.skipped += 1  # what is not subscribed needs no end
            return
        self._error(f"{symbol}: {reason}" if symbol else reason, now, out)
        passing = "rate" in low or "unavailable" in low or "busy" in low
        if symbol:
            for name in names:
                self._rejected(name, reason, now, out, retry=passing)
        elif names:
            self._refused(names, reason, now, out)

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        channel = ""
        if type(frame) is str:
            if frame.startswith(_HEAD):
                channel = frame[12 : frame.find('"', 12)]
        elif frame.startswith(_HEAD_BYTES):  # type: ignore[arg-type]
            channel = frame[12 : frame.find(b'"', 12)].decode()  # type: ignore[arg-type, union-attr]
        known = self._wires.get(channel)
        if known is None:
            if channel == "heartbeat":
                return
            reply = self._reply(frame)
            if not reply.channel and not reply.method:
                if reply.error:
                    self._error(reply.error, now, out)
                else:
                    self._unknown_event("?", now, out)
                return
            channel = reply.channel
            if not channel:
                self._on_reply(reply, now, out)
                return
            known = self._wires.get(channel)
            if known is None:
                if channel in _NOT_ASKED_FOR:
                    self.counters.skipped += 1
                elif channel != "heartbeat":
                    self._unknown_event(channel, now, out)
                return
        try:
            message = self._decode(known, channel, frame, now, out)
        except BAD_DATA as error:
            self._damaged(frame, error, now, out, self._named(frame))
            return
        if channel == "book" and self._path is not None:
            self._path.lenient = not known.strict
        self._handlers[channel](message, frame, now, out)

    def _named(self, frame: str | bytes) -> Stream | None:
        """Find the stream that a damaged frame was of, by the names in its beginning."""
        head = frame[:300]
        text = head if isinstance(head, str) else head.decode("utf-8", "replace")
        symbol, channel = _SYMBOL.search(text), _CHANNEL.search(text)
        if symbol is None or channel is None or len(_SYMBOL.findall(text)) > 1:
            return None
        st = self._symbols.get(symbol[1])
        if st is None or (channel[1] == "ohlc" and len(st.candles) > 1):
            return None
        return st.stream_of(_TYPE_OF.get(channel[1], ""), next(iter(st.candles), ""))

    def _on_book(self, message: wire.BookFrame, frame: str | bytes, now: int, out: Output) -> None:
        snapshot = message.type == "snapshot"
        for row in message.data:
            st = self._symbols.get(row.symbol)
            if st is None or st.depth is None:
                self.counters.skipped += 1
                continue
            p, q = self._places[row.symbol]
            flags = 0
            try:
                bids = [level_of_bytes(bytes(b.price), bytes(b.qty), p, q) for b in row.bids]
                asks = [level_of_bytes(bytes(a.price), bytes(a.qty), p, q) for a in row.asks]
                if row.timestamp or message.timestamp or not snapshot:
                    ts = iso_to_ns(row.timestamp or message.timestamp)
                else:
                    ts, flags = now, TS_FROM_RECV  # snapshots had no time at first
            except BAD_DATA as error:
                self._damaged(frame, error, now, out, st.depth)
                continue
            depth = self._depths.get(row.symbol, self._level_count)
            self._book(st, snapshot, bids, asks, row.checksum, ts, depth, now, out, flags)

    def _on_trade(self, message: wire.TradeFrame, frame: str | bytes, now: int, out: Output) -> None:
        rows = message.data
        backlog = message.type == "snapshot"
        fresh: set[str] = set()
        if backlog:
            rows = sorted(rows, key=lambda row: row.trade_id)
            fresh = {
                symbol
                for symbol in {row.symbol for row in rows}
                if (known := self._symbols.get(symbol)) is not None and known.trades is not None and not known.trades.ts
            }
        for row in rows:
            st = self._symbols.get(row.symbol)
            if st is None or (s := st.trades) is None:
                self.counters.skipped += 1
                continue
            try:
                price, quantity = wire.number(row.price, positive=True), wire.number(row.qty)
                ts = iso_to_ns(row.timestamp)
            except BAD_DATA as error:
                self._damaged(frame, error, now, out, s)
                continue
            id_ = str(row.trade_id)
            if backlog and row.symbol in fresh:
                self._first_trade(s, row.trade_id, id_, ts, now)
                continue
            flags = inexact_flag(wire.raw_text(row.price), wire.raw_text(row.qty))
            side: Side = row.side
            self._trade(s, row.trade_id, id_, price, quantity, side, ts, now, out, flags)

    def _on_ticker(self, message: wire.TickerFrame, frame: str | bytes, now: int, out: Output) -> None:
        for row in message.data:
            st = self._symbols.get(row.symbol)
            if st is None or (s := st.quotes) is None:
                self.counters.skipped += 1
                continue
            try:
                bid, bid_qty, ask, ask_qty = (_or_zero(v) for v in (row.bid, row.bid_qty, row.ask, row.ask_qty))
                text = row.timestamp or message.timestamp
                ts = iso_to_ns(text) if text else now
            except BAD_DATA as error:
                self._damaged(frame, error, now, out, s)
                continue
            flags = 0 if text else TS_FROM_RECV
            flags |= inexact_flag(*(wire.raw_text(v) for v in (row.bid, row.bid_qty, row.ask, row.ask_qty)))
            self._quote(s, None, bid, bid_qty, ask, ask_qty, ts, now, out, flags)

    def _on_ohlc(self, message: wire.OhlcFrame, frame: str | bytes, now: int, out: Output) -> None:
        backlog = message.type == "snapshot"
        rows = message.data
        newest: dict[tuple[str, int], str] = {}
        if backlog:
            rows = sorted(rows, key=lambda row: row.interval_begin)
            newest = {(row.symbol, row.interval): row.interval_begin for row in rows}
        for row in rows:
            st = self._symbols.get(row.symbol)
            interval = _INTERVAL_OF.get(row.interval, "")
            if st is None or (candles := st.candles.get(interval)) is None:
                self.counters.skipped += 1
                continue
            s = candles.stream
            try:
                opened = iso_to_ns(row.interval_begin)
                prices = [wire.number(v, positive=True) for v in (row.open, row.high, row.low, row.close)]
                volume = wire.number(row.volume)
                ts = iso_to_ns(message.timestamp) if message.timestamp else now
            except BAD_DATA as error:
                self._damaged(frame, error, now, out, s)
                continue
            flags = 0 if message.timestamp else TS_FROM_RECV
            flags |= inexact_flag(*(wire.raw_text(v) for v in (row.open, row.high, row.low, row.close, row.volume)))
            candle = Candle(
                opened,
                opened + row.interval * _MINUTE,
                ts,
                now,
                VENUE,
                row.symbol,
                interval,
                "exchange",
                "provisional",
                prices[0],
                prices[1],
                prices[2],
                prices[3],
                volume,
                nan,
                row.trades,
                nan,
                nan,
                flags,
            )
            if backlog and not self._catch_up(s, candle, newest[row.symbol, row.interval] == row.interval_begin):
                continue
            self._candle_row(s, candle, now, out)

    def _catch_up(self, s: Stream, candle: Candle, newest: bool) -> bool:
        """Whether a candle of a backlog is to be taken: at first only the newest, later those since the last one.

        Also drops an open candle that the backlog does not reach back to: how it ended is not known.
        """
        held = self._open.get(s.name)
        if held is None:
            if not newest:
                self.counters.skipped += 1
            return newest
        if candle.open_time < held.open_time:
            self.counters.duplicates += 1
            return False
        if candle.open_time == held.open_time:
            s.lost = None  # the whole interval so far is in it: nothing of it is lost
        return True

    def _on_status(self, message: wire.StatusFrame, frame: str | bytes, now: int, out: Output) -> None:
        for row in message.data:
            self._reported(row.system, f"version {row.version}", now, out)


def _or_zero(value: msgspec.Raw) -> float:
    """Return a number; an empty side has null."""
    return 0.0 if bytes(value) == b"null" else wire.number(value)


assert set(INTERVALS) == set(_INTERVAL_OF.values())
