"""The emulator's REST interface and bulk files. Facts: docs/exchanges/bybit.md#rest, #bulk-files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from cmd_common.emulation_base import json_response
from cmd_common.http import HttpResponse
from cmd_common.venue_market import gzip_bytes, trim
from cmd_common.venue_world import BookView, Listed, Trade

from .instruments import INTERVALS

if TYPE_CHECKING:
    from .emulator import BybitEmulator

__all__ = ["answer", "archive_rows"]

_MS: Final = 1_000_000
_OURS: Final = {exchange: ours for ours, exchange in INTERVALS.items()}
_FILE: Final = re.compile(r"(?P<symbol>.+?)(?P<separator>_?)(?P<day>\d{4}-\d\d-\d\d)\.csv\.gz")
_LINEAR_HEADER: Final = (
    "timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional,RPI"
)


def answer(emulator: BybitEmulator, path: str, query: Mapping[str, str], now: int) -> HttpResponse | str:
    """Answer a GET request."""
    head = f"/{emulator.bybit.archive}/"
    if path.startswith(head):
        return _files(emulator, [unquote(p) for p in path[len(head) :].split("/")])
    name = path.removeprefix("/v5/market/")
    if path == "/v5/market/time":
        seconds = emulator.market.clock // 1_000_000_000
        return _good(emulator, {"timeSecond": str(seconds), "timeNano": str(emulator.market.clock)})
    if name == path or name not in ("instruments-info", "kline", "orderbook", "recent-trade"):
        return emulator.not_found()
    category = emulator.bybit.category
    if query.get("category") != category:
        return _bad(emulator, f"params error: category {query.get('category', '')[:20]} invalid")
    if name == "instruments-info":
        return _instruments(emulator, query)
    symbol = query.get("symbol", "")
    if symbol not in emulator.market.symbols:
        return _bad(emulator, "Not supported symbols")
    if name == "kline":
        return _klines(emulator, symbol, query)
    if name == "recent-trade":
        return _recent(emulator, symbol, query)
    view = emulator.book(symbol, _limit(query, 25, 1000), now)
    return _orderbook(emulator, view) if isinstance(view, BookView) else view


def _good(emulator: BybitEmulator, result: Any) -> HttpResponse:
    body = {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": emulator.market.clock // _MS}
    return json_response(body)


def _bad(emulator: BybitEmulator, why: str, code: int = 10001) -> HttpResponse:
    body = {"retCode": code, "retMsg": why, "result": {}, "retExtInfo": {}, "time": emulator.market.clock // _MS}
    return json_response(body)


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit", "")
    return max(1, min(int(text), most)) if text.isascii() and text.isdigit() else default


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else default


# Reference data


def _row(emulator: BybitEmulator, listed: Listed) -> dict[str, Any]:
    lot, tick = listed.lot, listed.tick
    row: dict[str, Any] = {"symbol": listed.symbol, "baseCoin": listed.base, "quoteCoin": listed.quote}
    if emulator.bybit.category == "spot":
        lots = {"basePrecision": lot, "quotePrecision": "0.0000001", "minOrderQty": lot, "minOrderAmt": "5"}
        return row | {"innovation": "0", "status": "Trading", "lotSizeFilter": lots, "priceFilter": {"tickSize": tick}}
    lots = {"maxOrderQty": "100000", "minOrderQty": lot, "qtyStep": lot, "minNotionalValue": "5"}
    row |= {"contractType": "LinearPerpetual", "status": "Trading", "launchTime": "1585526400000", "deliveryTime": "0"}
    prices = {"minPrice": tick, "maxPrice": "1999999", "tickSize": tick}
    return row | {"priceFilter": prices, "lotSizeFilter": lots, "fundingInterval": 480, "settleCoin": listed.quote}


def _instruments(emulator: BybitEmulator, query: Mapping[str, str]) -> HttpResponse:
    """Spot knows no pages; linear names the first and last symbol of a page as the cursor, as text of a URL."""
    if emulator.market.reference is not None:
        return json_response(emulator.market.reference)
    rows = [_row(emulator, listed) for listed in sorted(emulator.market.listed(), key=lambda i: i.symbol)]
    if "symbol" in query:
        rows = [r for r in rows if r["symbol"] == query["symbol"]]
    result: dict[str, Any] = {"category": emulator.bybit.category}
    if emulator.bybit.category == "spot":
        return _good(emulator, result | {"list": rows})
    last = query.get("cursor", "").rpartition("last=")[2]
    rows = [r for r in rows if r["symbol"] > last]
    limit = _limit(query, 500, 1000)
    page = rows[:limit]
    cursor = quote(f"first={page[0]['symbol']}&last={page[-1]['symbol']}", safe="") if len(rows) > limit else ""
    return _good(emulator, result | {"list": page, "nextPageCursor": cursor})


# Market data


def _klines(emulator: BybitEmulator, symbol: str, query: Mapping[str, str]) -> HttpResponse:
    """The newest candles that open within ``start`` and ``end``, both inclusive; newest first."""
    interval = _OURS.get(query.get("interval", ""))
    if interval is None:
        return _bad(emulator, "Invalid period!")
    start = _number(query, "start", 0) * _MS
    end = min(_number(query, "end", emulator.market.clock // _MS) * _MS, emulator.market.clock)
    found = emulator.market.candles(symbol, interval, start, end) if start <= end else []
    candles = found[-_limit(query, 200, 1000) :]
    rows = [
        [str(c.open_time // _MS), c.open, c.high, c.low, c.close, c.volume, c.amount]
        for c in sorted(candles, key=lambda c: -c.open_time)
    ]
    return _good(emulator, {"category": emulator.bybit.category, "symbol": symbol, "list": rows})


def _recent(emulator: BybitEmulator, symbol: str, query: Mapping[str, str]) -> HttpResponse:
    most = 60 if emulator.bybit.category == "spot" else 1000
    rows = [
        {
            "execId": emulator.trade_name(t), "symbol": symbol, "price": t.price, "size": t.quantity,
            "side": t.side.capitalize(), "time": str(t.ts // _MS), "isBlockTrade": False, "isRPITrade": False,
        }
        for t in reversed(emulator.market.latest_trades(symbol, _limit(query, min(500, most), most)))
    ]  # fmt: skip
    return _good(emulator, {"category": emulator.bybit.category, "list": rows})


def _orderbook(emulator: BybitEmulator, view: BookView) -> HttpResponse:
    ts = view.ts // _MS
    body = {
        "s": view.symbol,
        "b": view.bids,
        "a": view.asks,
        "ts": ts,
        "u": view.number,
        "seq": view.last_id,
        "cts": ts,
    }
    return _good(emulator, body)


# Bulk files


def _files(emulator: BybitEmulator, parts: Sequence[str]) -> HttpResponse:
    """``/``: the symbols; ``/SYMBOL/``: its files; ``/SYMBOL/NAME``: one file."""
    market = emulator.market
    if parts == [""]:
        return _page(f"{symbol}/" for symbol in market.symbols)
    symbol = parts[0]
    if len(parts) != 2 or symbol not in market.symbols:
        return emulator.not_found()
    separator = emulator.bybit.separator
    if not parts[1]:
        return _page(f"{symbol}{separator}{day.isoformat()}.csv.gz" for day in _days(emulator, symbol))
    match = _FILE.fullmatch(parts[1])
    if match is None or match["symbol"] != symbol or match["separator"] != separator:
        return emulator.not_found()
    try:
        day = date.fromisoformat(match["day"])
    except ValueError:
        return emulator.not_found()
    if day not in _days(emulator, symbol):
        return emulator.not_found()
    lines = archive_rows(emulator, market.day_trades(symbol, day))
    return emulator.bulk(symbol, match["day"], gzip_bytes("".join(f"{line}\n" for line in lines).encode()))


def _days(emulator: BybitEmulator, symbol: str) -> list[date]:
    """Days that are over: the file of a day is published on the next one."""
    market = emulator.market
    today = market.clock // 86_400_000_000_000
    return [d for d in market.days(symbol) if d.toordinal() - date(1970, 1, 1).toordinal() < today]


def _page(names: Any) -> HttpResponse:
    links = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a></li>\n' for name in names)
    text = (
        f"<!DOCTYPE html>\n<html><head><title>Bybit public data</title></head><body><ul>\n{links}</ul></body></html>\n"
    )
    return HttpResponse(200, text.encode(), {"content-type": "text/html"})


def archive_rows(emulator: BybitEmulator, trades: Sequence[Trade]) -> list[str]:
    """Write the trades of a day as the lines of its file, header first."""
    if emulator.bybit.category == "spot":
        rows = [f"{n},{t.ts // _MS},{t.price},{t.quantity},{t.side},0" for n, t in enumerate(trades, 1)]
        return ["id,timestamp,price,volume,side,rpi", *rows]
    rows = [_LINEAR_HEADER]
    for t in trades:
        # Tenths of ms as decimal seconds, without the zeros at the end: 1696982287.4922
        tenths = t.ts // 100_000
        seconds = trim(f"{tenths // 10_000}.{tenths % 10_000:04d}")
        worth = Decimal(t.price) * Decimal(t.quantity)
        rows.append(
            f"{seconds},{t.symbol},{t.side.capitalize()},{t.quantity},{t.price},ZeroPlusTick,"
            f"{emulator.trade_name(t)},{float(worth) * 1e8:.6g},{t.quantity},{format(worth.normalize(), 'f')},0"
        )
    return rows
