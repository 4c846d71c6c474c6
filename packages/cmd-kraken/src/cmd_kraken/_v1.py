"""Kraken's API v1, which is frozen: for recordings of before 2026, and as long as it runs.

Reached with the option ``api=v1``. Data comes in arrays ``[channel id, data, channel name, pair]``, with
numbers in quotes and times in decimal seconds; pairs have their old names (``XBT/USD``). Books: keys ``as`` and ``bs``
in the snapshot, ``a``, ``b`` and ``c`` (the checksum) in updates, and an update of both sides may come as two
dictionaries in one frame, the checksum in the last. docs/exchanges/kraken.md#v1
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import Any, Final

import msgspec

from cmd_common.feed import Output
from cmd_common.feed_base import inexact_flag
from cmd_common.feed_state import Stream, SymbolState
from cmd_common.records import TS_FROM_RECV, Candle, Side

from ._feed_base import KrakenFeedBase
from ._text import seconds_to_ns
from .instruments import MINUTES, VENUE, native_symbol, v1_pair
from .sync import Level, level

__all__ = ["KrakenV1Feed", "trade_names"]

_MINUTE: Final = 60_000_000_000
_SYMBOLS_A_FRAME: Final = 100
_CHANNEL_OF: Final = {"trade": "trade", "ticker": "ticker", "spread": "spread", "book": "book", "ohlc": "ohlc"}
_INTERVAL_OF: Final = {minutes: interval for interval, minutes in MINUTES.items()}
_BOOK_KEYS: Final = frozenset(("as", "bs", "a", "b", "c"))
_SIDES: Final[dict[str, Side]] = {"b": "buy", "s": "sell"}  # the taker's


class KrakenV1Feed(KrakenFeedBase):
    """One connection of API v1; see ``cmd_common.feed.Feed`` and ``KrakenFeedBase``.

    Trades have no ids: theirs are made of what they say, see ``trade_names``.
    """

    native_format = "kraken-v1"
    numbered = False

    def _native_key(self, st: SymbolState) -> str:
        return v1_pair(st.symbol)

    def _ping_frame(self) -> str:
        return '{"event":"ping"}'

    def _frames(self, method: str, streams: Sequence[Stream]) -> list[tuple[str, tuple[str, ...]]]:
        """One frame a channel (and interval) and hundred pairs; every pair is answered on its own."""
        groups: dict[tuple[str, str], list[Stream]] = {}
        for s in streams:
            channel, _, rest = s.name.partition(":")
            groups.setdefault((channel, rest.rpartition(":")[2] if channel == "ohlc" else ""), []).append(s)
        frames = []
        for (channel, interval), members in groups.items():
            for at in range(0, len(members), _SYMBOLS_A_FRAME):
                part = members[at : at + _SYMBOLS_A_FRAME]
                subscription: dict[str, Any] = {"name": channel}
                if channel == "book":
                    subscription["depth"] = self._level_count
                elif channel == "ohlc":
                    subscription["interval"] = MINUTES[interval]
                pairs = [v1_pair(s.symbol) for s in part]
                request = {"event": method, "pair": pairs, "subscription": subscription}
                frames.append((msgspec.json.encode(request).decode(), tuple(s.name for s in part)))
        return frames

    # Frames

    def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
        message = msgspec.json.decode(frame)
        if isinstance(message, dict):
            self._on_event(message, now, out)
            return
        if not isinstance(message, list):
            raise ValueError(f"a frame that is a {type(message).__name__}")
        if len(message) < 4 or not isinstance(message[-1], str) or not isinstance(message[-2], str):
            self._unknown_event(f"an array of {len(message)}", now, out)
            return
        name, _, detail = message[-2].partition("-")
        st = self._symbols.get(native_symbol(message[-1]))
        if name not in _CHANNEL_OF:
            self._unknown_event(message[-2], now, out)
            return
        if st is None:
            self.counters.skipped += 1
            return
        stream = self._stream_named(st, name, detail)
        if stream is None:
            self.counters.skipped += 1
            return
        try:
            if name == "book":
                self._on_book_parts(st, message[1:-2], int(detail or self._level_count), now, out)
            elif name == "trade":
                self._on_trades(stream, message[1], now, out)
            elif name == "ohlc":
                self._on_candle(stream, message[1], int(detail or 1), now, out)
            else:
                self._on_best(stream, name, message[1], now, out)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            self._damaged(frame, error, now, out, stream)

    def _stream_named(self, st: SymbolState, name: str, detail: str) -> Stream | None:
        if name == "book":
            return st.depth
        if name == "trade":
            return st.trades
        if name == "ohlc":
            return st.stream_of("candles", _INTERVAL_OF.get(int(detail), "") if detail.isdigit() else "1m")
        return st.quotes

    def _on_event(self, message: dict[str, Any], now: int, out: Output) -> None:
        event = message.get("event")
        if event in ("heartbeat", "pong"):
            return
        if event == "systemStatus":
            self._reported(str(message.get("status")), f"version {message.get('version')}", now, out)
        elif event == "subscriptionStatus":
            self._on_subscription(message, now, out)
        elif event == "error" or "errorMessage" in message:
            self._error(str(message.get("errorMessage", "an error"))[:200], now, out)
        else:
            self._unknown_event(str(event or "?"), now, out)

    def _on_subscription(self, message: dict[str, Any], now: int, out: Output) -> None:
        pair, status = message.get("pair"), message.get("status")
        subscription = message.get("subscription")
        details = subscription if isinstance(subscription, dict) else {}
        channel = str(details.get("name") or str(message.get("channelName", "")).partition("-")[0])
        symbol = native_symbol(pair) if isinstance(pair, str) else ""
        name = f"{channel}:{symbol}"
        if channel == "ohlc":
            name += f":{_INTERVAL_OF.get(details.get('interval', 1), '')}"
        if status == "subscribed":
            self._acked(name, now, out)
        elif status == "error":
            reason = str(message.get("errorMessage", "refused without a reason"))[:200]
            self._error(f"{symbol}: {reason}" if symbol else reason, now, out)
            low = reason.lower()
            if symbol:
                self._rejected(name, reason, now, out, retry="rate" in low or "unavailable" in low)
            else:
                self._refused([s.name for s in self._waiting_streams()], reason, now, out)
        elif status != "unsubscribed":
            self._unknown_event(f"subscriptionStatus {status}", now, out)

    # Data

    def _on_book_parts(self, st: SymbolState, parts: list[Any], depth: int, now: int, out: Output) -> None:
        places = self._places[st.symbol]
        bids: list[Level] = []
        asks: list[Level] = []
        newest = 0
        checksum: int | None = None
        snapshot = False
        for part in parts:
            if unknown := [k for k in part if k not in _BOOK_KEYS]:
                self._unknown_fields("book", unknown, now, out)
            snapshot = snapshot or "as" in part or "bs" in part
            for keys, side in ((("bs", "b"), bids), (("as", "a"), asks)):
                for key in keys:
                    for row in part.get(key, ()):
                        side.append(level(row[0], row[1], *places))
                        newest = max(newest, seconds_to_ns(row[2]))
            if "c" in part:
                checksum = int(part["c"])
        assert st.depth is not None
        self._book(st, snapshot, bids, asks, checksum, newest or max(now, st.depth.ts), depth, now, out)

    def _on_trades(self, s: Stream, rows: list[Any], now: int, out: Output) -> None:
        # The backlog of a subscription is its first message; before anything was heard it only tells the place.
        backlog = not s.heard and len(rows) > 1
        fresh = backlog and not s.ts and len(rows) >= 50
        for row, id_ in zip(rows, trade_names(rows), strict=True):
            price, quantity = _positive(row[0]), _positive(row[1])
            ts = seconds_to_ns(row[2])
            side = _SIDES[row[3]]
            if fresh:
                self._first_trade(s, None, id_, ts, now)
            else:
                self._trade(s, None, id_, price, quantity, side, ts, now, out, inexact_flag(row[0], row[1]))

    def _on_best(self, s: Stream, name: str, data: Any, now: int, out: Output) -> None:
        if name == "spread":  # [bid, ask, time, bid quantity, ask quantity]
            texts = (data[0], data[3], data[1], data[4])
            ts, flags = seconds_to_ns(data[2]), 0
        else:
            bid, ask = data["b"], data["a"]
            texts = (bid[0], bid[2], ask[0], ask[2])
            ts, flags = now, TS_FROM_RECV
        values = [_number(t) for t in texts]
        self._quote(s, None, values[0], values[1], values[2], values[3], ts, now, out, flags | inexact_flag(*texts))

    def _on_candle(self, s: Stream, data: list[Any], minutes: int, now: int, out: Output) -> None:
        # [time, end, open, high, low, close, vwap, volume, count]
        end = seconds_to_ns(data[1])
        prices = [_positive(t) for t in data[2:6]]
        candle = Candle(
            end - minutes * _MINUTE,
            end,
            seconds_to_ns(data[0]),
            now,
            VENUE,
            s.symbol,
            _INTERVAL_OF[minutes],
            "exchange",
            "provisional",
            prices[0],
            prices[1],
            prices[2],
            prices[3],
            _number(data[7]),
            nan,
            int(data[8]),
            nan,
            nan,
            inexact_flag(*data[2:6], data[7]),
        )
        self._candle_row(s, candle, now, out)


def trade_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Make ids of v1 trades: time, price, quantity, side, and a number for the repeats within one frame.

    The same trades get the same ids when they are sent again, as in the backlog after a reconnect.
    """
    counts: dict[str, int] = {}
    names = []
    for row in rows:
        name = f"v1:{row[2]}:{row[0]}:{row[1]}:{row[3]}"
        count = counts[name] = counts.get(name, -1) + 1
        names.append(f"{name}:{count}" if count else name)
    return names


def _number(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < inf:
        raise ValueError(f"a price or quantity of {text[:40]}")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not value:
        raise ValueError("a trade or candle with price or quantity 0")
    return value
