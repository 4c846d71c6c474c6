"""Kraken's wire format, made up in the exchange's form, as functions of a message's number.

The checksum is computed here from Decimals, apart from the code under test.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

NOW = 1_767_225_600_000_000_000  # 2026-01-01
SECOND = 1_000_000_000
BTC, DOGE = "BTC/USD", "DOGE/EUR"
START = {BTC: 1000, DOGE: 5000}
Level = tuple[str, str]


def ns(offset: int) -> int:
    """Milliseconds after NOW."""
    return NOW + offset * 1_000_000


def iso(offset: int) -> str:
    return f"2026-01-01T00:00:{offset // 1000:02d}.{offset % 1000:03d}000Z"


def pair(wsname: str, base: str, quote: str, **changes: Any) -> dict[str, Any]:
    row = {
        "altname": wsname.replace("/", ""), "wsname": wsname, "aclass_base": "currency", "base": base,
        "aclass_quote": "currency", "quote": quote, "lot": "unit", "cost_decimals": 5, "pair_decimals": 1,
        "lot_decimals": 8, "lot_multiplier": 1, "leverage_buy": [2, 3], "fees": [[0, 0.4]], "ordermin": "0.00005",
        "costmin": "0.5", "tick_size": "0.1", "status": "online",
    }  # fmt: skip
    return {**row, **changes}


PAIRS = {
    "XXBTZUSD": pair("XBT/USD", "XXBT", "ZUSD"),
    "XDGEUR": pair("XDG/EUR", "XXDG", "ZEUR", tick_size="0.5"),
    "XXBTZUSD.d": {**pair("", "XXBT", "ZUSD"), "altname": "XBTUSD.d"},
}


def body(result: Any, *errors: str) -> bytes:
    return json.dumps({"error": list(errors), "result": result}).encode()


INSTRUMENTS = body(PAIRS)


def frame(channel: str, kind: str, *rows: str, timestamp: str = "") -> str:
    at = f'"timestamp":"{timestamp}",' if timestamp else ""
    return f'{{"channel":"{channel}","type":"{kind}",{at}"data":[{",".join(rows)}]}}'


def requests(text: str) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(text)
    return request


def answer(text: str) -> list[str]:
    """What the exchange answers a frame of ours: one acknowledgement a symbol."""
    request = requests(text)
    if request["method"] == "ping":
        return [json.dumps({"method": "pong", "req_id": request["req_id"], "time_in": iso(0), "time_out": iso(0)})]
    params = request["params"]
    shown = {k: v for k, v in params.items() if k != "symbol"}
    return [
        json.dumps(
            {
                "method": request["method"],
                "result": {**shown, "symbol": symbol},
                "success": True,
                "req_id": request["req_id"],
                "time_in": iso(0),
                "time_out": iso(0),
            },
            separators=(",", ":"),
        )
        for symbol in params["symbol"]
    ]


def refused(
    symbol: str, req_id: int | None, words: str = "Currency pair not supported", method: str = "subscribe"
) -> str:
    message: dict[str, Any] = {"error": f"{words} {symbol}", "method": method, "success": False, "symbol": symbol}
    if req_id is not None:
        message["req_id"] = req_id
    return json.dumps({**message, "time_in": iso(0), "time_out": iso(0)})


def refusal(text: str) -> list[str]:
    """The same when it refuses every symbol."""
    request = requests(text)
    if request["method"] == "ping":
        return []
    return [refused(symbol, request["req_id"], method=request["method"]) for symbol in request["params"]["symbol"]]


def seeds(text: str) -> list[str]:
    """The symbols whose book a frame of ours subscribes."""
    request = requests(text)
    if request["method"] != "subscribe" or request["params"]["channel"] != "book":
        return []
    symbols: list[str] = request["params"]["symbol"]
    return symbols


def crc(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """The checksum of sides that are sorted best first; numbers are texts at full precision."""
    text = ""
    for price, quantity in (*asks[:10], *bids[:10]):
        for number in (price, quantity):
            value = Decimal(number)
            places = -int(value.as_tuple().exponent)
            text += str(int(value.scaleb(places)))
    return zlib.crc32(text.encode())


def changes(n: int) -> tuple[list[Level], list[Level]]:
    """What the n-th message of a book changes."""
    bids = [(f"{99 - n % 7}.5", f"{n % 5}.00000000"), ("90.0", f"{n}.10000000")]
    asks = [(f"{101 + n % 7}.2", f"{(n + 2) % 5}.00000000"), ("120.0", f"{n}.50000000")]
    return bids, asks


def book(n: int) -> tuple[list[Level], list[Level]]:
    """The book after n messages, best first."""
    sides: tuple[dict[str, str], ...] = ({"99.0": "5.00000000"}, {"101.0": "5.00000000"})
    for k in range(1, n + 1):
        for side, levels in zip(sides, changes(k), strict=True):
            side.update(levels)
    bids = sorted(((p, q) for p, q in sides[0].items() if float(q)), key=lambda x: -float(x[0]))
    asks = sorted(((p, q) for p, q in sides[1].items() if float(q)), key=lambda x: float(x[0]))
    return bids, asks


def rows(levels: Sequence[Level]) -> str:
    return ",".join(f'{{"price":{p},"qty":{q}}}' for p, q in levels)


def book_row(
    symbol: str, bids: Sequence[Level], asks: Sequence[Level], checksum: int, timestamp: str | None = None
) -> str:
    at = f',"timestamp":"{timestamp}"' if timestamp else ""
    return f'{{"symbol":"{symbol}","bids":[{rows(bids)}],"asks":[{rows(asks)}],"checksum":{checksum}{at}}}'


def depth(symbol: str, n: int) -> str:
    return frame("book", "update", book_row(symbol, *changes(n), crc(*book(n)), iso(n)))


def snapshot(symbol: str, n: int) -> str:
    return frame("book", "snapshot", book_row(symbol, *book(n), crc(*book(n)), iso(n)))


def trade_row(symbol: str, n: int, *, side: str = "buy", price: str = "100.2", qty: str = "0.50000000") -> str:
    return (
        f'{{"symbol":"{symbol}","side":"{side}","price":{price},"qty":{qty},"ord_type":"limit",'
        f'"trade_id":{START[symbol] + n},"timestamp":"{iso(n)}"}}'
    )


def trade(symbol: str, n: int) -> str:
    return frame("trade", "update", trade_row(symbol, n, side="buy" if n % 2 else "sell"))


def ticker(symbol: str, *, bid: str = "99.5", ask: str = "100.5", n: int = 1, timestamp: bool = True) -> str:
    at = f',"timestamp":"{iso(n)}"' if timestamp else ""
    return frame(
        "ticker",
        "update",
        f'{{"symbol":"{symbol}","bid":{bid},"bid_qty":1.50000000,"ask":{ask},"ask_qty":2.00000000,"last":100.1,'
        f'"volume":10.00000000,"vwap":100.0,"low":90.0,"high":110.0,"change":-1.0,"change_pct":-1.00{at}}}',
    )


def candle_row(symbol: str, minute: int, *, close: str = "101.5", trades: int = 7, volume: str = "12.50000000") -> str:
    begin = f"2026-01-01T00:{minute:02d}:00.000000000Z"
    end = f"2026-01-01T00:{minute + 1:02d}:00.000000Z"
    return (
        f'{{"symbol":"{symbol}","open":100.0,"high":102.0,"low":99.0,"close":{close},"trades":{trades},'
        f'"volume":{volume},"vwap":100.7,"interval_begin":"{begin}","interval":1,"timestamp":"{end}"}}'
    )


def candles(kind: str, *made: str, second: int = 0) -> str:
    return frame("ohlc", kind, *made, timestamp=f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.000000000Z")
