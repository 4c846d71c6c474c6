"""What the emulator writes: frames of API v2 and v1, and the reading of recorded ones.

Levels and numbers are text with all their decimals; where v2 has JSON numbers they are put in as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final
from zlib import crc32

import msgspec

from cmd_common.venue_recording import RecordedPart
from cmd_common.venue_world import BookChange, BookView, CandleUpdate, Level, Quote, Trade

from ._text import decimal_digits, iso_to_ns, ns_to_iso, ns_to_seconds, seconds_to_ns
from ._v1 import trade_names
from .instruments import MINUTES, native_symbol, v1_pair
from .sync import CHECKED, DEPTHS

__all__ = [
    "HEARTBEAT",
    "Reader",
    "ack",
    "book_frame",
    "checksum",
    "day_statistics",
    "encode",
    "mean_price",
    "ohlc_frame",
    "status_frame",
    "ticker_frame",
    "trade_frame",
    "v1_book_snapshot",
]

HEARTBEAT: Final = '{"channel":"heartbeat"}'
_VERSION: Final = "2.0.10"


def encode(value: Any) -> str:
    """Write JSON."""
    return msgspec.json.encode(value).decode()


def checksum(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """The CRC32 of a book's sides, best first. docs/exchanges/kraken.md#book"""
    levels = (*asks[:CHECKED], *bids[:CHECKED])
    return crc32("".join(decimal_digits(p, 0) + decimal_digits(q, 0) for p, q in levels).encode())


def _rows(levels: Iterable[Level]) -> str:
    return ",".join(f'{{"price":{p},"qty":{q}}}' for p, q in levels)


def book_frame(kind: str, event: BookChange | BookView, crc: int) -> str:
    """Write a snapshot or an update of a book."""
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{event.symbol}","bids":[{_rows(event.bids)}],'
        f'"asks":[{_rows(event.asks)}],"checksum":{crc},"timestamp":"{ns_to_iso(event.ts)}"}}]}}'
    )


def trade_frame(kind: str, trades: Iterable[Trade]) -> str:
    """Write trades of one symbol, oldest first."""
    rows = ",".join(
        f'{{"symbol":"{t.symbol}","side":"{t.side}","price":{t.price},"qty":{t.quantity},"ord_type":"market",'
        f'"trade_id":{t.id},"timestamp":"{ns_to_iso(t.ts)}"}}'
        for t in trades
    )
    return f'{{"channel":"trade","type":"{kind}","data":[{rows}]}}'


def ticker_frame(kind: str, quote: Quote, day: dict[str, str]) -> str:
    """Write a best bid and offer with the statistics of a day."""
    rest = "".join(f',"{name}":{value}' for name, value in day.items())
    return (
        f'{{"channel":"ticker","type":"{kind}","data":[{{"symbol":"{quote.symbol}","bid":{quote.bid},'
        f'"bid_qty":{quote.bid_quantity},"ask":{quote.ask},"ask_qty":{quote.ask_quantity}{rest},'
        f'"timestamp":"{ns_to_iso(quote.ts)}"}}]}}'
    )


def mean_price(candle: CandleUpdate) -> str:
    """The volume-weighted mean price of a candle, with the decimals of its prices."""
    volume = Decimal(candle.volume)
    if not volume:
        return candle.close
    places = len(candle.close.partition(".")[2])
    return format((Decimal(candle.amount) / volume).quantize(Decimal(1).scaleb(-places)), "f")


def day_statistics(hours: Sequence[CandleUpdate]) -> dict[str, str]:
    """What a ticker says of a day, from its hours with trades."""
    if not hours:
        return {}
    volume = sum((Decimal(c.volume) for c in hours), Decimal(0))
    amount = sum((Decimal(c.amount) for c in hours), Decimal(0))
    first, last = hours[0], hours[-1]
    step = Decimal(1).scaleb(-len(last.close.partition(".")[2]))
    change = Decimal(last.close) - Decimal(first.open)
    numbers = {
        "last": last.close,
        "volume": volume,
        "vwap": (amount / volume).quantize(step) if volume else last.close,
        "low": min(Decimal(c.low) for c in hours),
        "high": max(Decimal(c.high) for c in hours),
        "change": change,
        "change_pct": (change * 100 / Decimal(first.open)).quantize(Decimal("0.01")),
    }
    return {name: value if isinstance(value, str) else format(value, "f") for name, value in numbers.items()}


def ohlc_frame(kind: str, candles: Iterable[CandleUpdate], ts: int) -> str:
    """Write candles of one symbol and interval, as of ``ts``."""
    rows = ",".join(
        f'{{"symbol":"{c.symbol}","open":{c.open},"high":{c.high},"low":{c.low},"close":{c.close},'
        f'"trades":{c.count},"volume":{c.volume},"vwap":{mean_price(c)},"interval_begin":"{ns_to_iso(c.open_time, 9)}",'
        f'"interval":{MINUTES[c.interval]},"timestamp":"{ns_to_iso(c.close_time)}"}}'
        for c in candles
    )
    return f'{{"channel":"ohlc","type":"{kind}","timestamp":"{ns_to_iso(ts, 9)}","data":[{rows}]}}'


def status_frame(system: str, connection: int, *, v1: bool = False) -> str:
    """Write the state of the exchange."""
    if v1:
        return f'{{"connectionID":{connection},"event":"systemStatus","status":"{system}","version":"1.9.6"}}'
    return (
        f'{{"channel":"status","type":"update","data":[{{"version":"{_VERSION}","system":"{system}",'
        f'"api_version":"v2","connection_id":{connection}}}]}}'
    )


def ack(method: str, req_id: Any, now: int, *, error: str = "", symbol: str = "", **result: Any) -> str:
    """Write the answer to a request; a refused one names its symbol beside the error."""
    message: dict[str, Any] = {"method": method}
    if error:
        message = {"error": error, "method": method, "success": False}
        if symbol:
            message["symbol"] = symbol
    else:
        if result:
            message["result"] = {**result, **({"symbol": symbol} if symbol else {})}
        message["success"] = True
    if isinstance(req_id, int):
        message["req_id"] = req_id
    message["time_in"] = message["time_out"] = ns_to_iso(now)
    return encode(message)


def v1_book_snapshot(view: BookView, depth: int) -> str:
    """Write a book as the first message of a v1 subscription."""
    time = ns_to_seconds(view.ts)
    sides = {key: [[p, q, time] for p, q in side] for key, side in (("as", view.asks), ("bs", view.bids))}
    return encode([1, sides, f"book-{depth}", v1_pair(view.symbol)])


class Reader:
    """Reads recorded frames of both versions; remembers the depths that were confirmed.

    ``versions`` are those that were seen: a recording of v1 cannot be served to clients of v2.
    """

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(float_hook=str).decode  # numbers of v2 keep their text
        self._depths: dict[str, int] = {}
        self.versions: set[str] = set()

    def parts(self, text: str) -> list[RecordedPart]:
        """Say what a frame is; nothing for answers and unknown ones."""
        message = self._decode(text)
        if isinstance(message, list):
            parts = self._v1(message)
            if parts:
                self.versions.add("v1")
            return parts
        if message.get("method") == "subscribe":
            result = message.get("result") or {}
            if result.get("channel") == "book" and result.get("depth") in DEPTHS:
                self._depths[result["symbol"]] = result["depth"]
        parts = [part for row in self._rows(message) for part in self._v2(message, row)]
        if parts:
            self.versions.add("v2")
        return parts

    @staticmethod
    def _rows(message: dict[str, Any]) -> list[dict[str, Any]]:
        rows = message.get("data")
        return rows if isinstance(rows, list) and message.get("channel") != "status" else []

    def _v2(self, message: dict[str, Any], row: dict[str, Any]) -> list[RecordedPart]:
        channel, symbol = message["channel"], row["symbol"]
        stamp = row.get("timestamp") or message.get("timestamp")
        ts = iso_to_ns(stamp) if stamp else 0
        if channel == "book":
            bids, asks = ([(str(v["price"]), str(v["qty"])) for v in row.get(side, ())] for side in ("bids", "asks"))
            if message["type"] == "snapshot":
                # Without an answer that tells it, the depth is the least that can hold the snapshot.
                held = max(len(bids), len(asks))
                fitting = [d for d in DEPTHS if d >= held] or [DEPTHS[-1]]
                self._depths.setdefault(symbol, fitting[0])
                if held > self._depths[symbol]:
                    self._depths[symbol] = fitting[0]
            depth = self._depths.get(symbol, DEPTHS[-1])
            kind: Any = "snapshot" if message["type"] == "snapshot" else "update"
            return [RecordedPart(f"top:{symbol}:{depth}", symbol, kind, ts, bids=bids, asks=asks, depth=depth)]
        if channel == "trade":
            return [
                RecordedPart(
                    f"trades:{symbol}",
                    symbol,
                    "trade",
                    ts,
                    trade_id=str(row["trade_id"]),
                    price=str(row["price"]),
                    quantity=str(row["qty"]),
                    side=row["side"],
                )
            ]
        if channel == "ticker":
            return [RecordedPart(f"quotes:{symbol}", symbol, ts=ts)]
        if channel == "ohlc":
            name = next(n for n, minutes in MINUTES.items() if minutes == row["interval"])
            # The row's own time is the end of its interval.
            sent = message.get("timestamp")
            return [RecordedPart(f"candles:{symbol}:{name}", symbol, ts=iso_to_ns(sent) if sent else 0)]
        return []

    def _v1(self, message: list[Any]) -> list[RecordedPart]:
        channel, symbol = message[-2], native_symbol(message[-1])
        name, _, detail = channel.partition("-")
        if name == "book":
            depth = int(detail)
            stream = f"top:{symbol}:{depth}"
            snapshot = any("as" in part or "bs" in part for part in message[1:-2])
            sides: dict[str, list[Level]] = {"b": [], "a": []}
            newest = 0
            for part in message[1:-2]:
                for key, side in (("bs", "b"), ("b", "b"), ("as", "a"), ("a", "a")):
                    for row in part.get(key, ()):
                        sides[side].append((row[0], row[1]))
                        newest = max(newest, seconds_to_ns(row[2]))
            kind: Any = "snapshot" if snapshot else "update"
            return [RecordedPart(stream, symbol, kind, newest, bids=sides["b"], asks=sides["a"], depth=depth)]
        if name == "trade":
            return [
                RecordedPart(
                    f"trades:{symbol}",
                    symbol,
                    "trade",
                    seconds_to_ns(row[2]),
                    trade_id=id_,
                    price=row[0],
                    quantity=row[1],
                    side="buy" if row[3] == "b" else "sell",
                )
                for row, id_ in zip(message[1], trade_names(message[1]), strict=True)
            ]
        if name == "ticker":
            return [RecordedPart(f"quotes:{symbol}", symbol)]
        if name == "spread":
            return [RecordedPart(f"spread:{symbol}", symbol, ts=seconds_to_ns(message[1][2]))]
        if name == "ohlc":
            interval = next(n for n, minutes in MINUTES.items() if minutes == int(detail))
            return [RecordedPart(f"candles:{symbol}:{interval}", symbol, ts=seconds_to_ns(message[1][0]))]
        return []
