"""Gemini's REST interface as pure functions: makers of requests, parsers of bodies, errors in words.

Rules: docs/exchanges/gemini.md#rest. Paths take symbols in either case; times are milliseconds. Every
request weighs 1, of 120 a minute.
"""

from __future__ import annotations

from math import nan
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Meta, Struct

from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.feed_base import inexact_flag
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import REST, Candle, Side, Trade

from ._messages import Amount, Levels, Price, PriceText, Quantity
from .instruments import INTERVALS, REST_INTERVALS, VENUE, interval_ns

__all__ = [
    "MAX_TRADES",
    "book_request",
    "candles_request",
    "check",
    "details_request",
    "parse_book",
    "parse_candles",
    "parse_trades",
    "parse_trades_page",
    "trades_request",
]

MAX_TRADES: Final = 500
"""Most trades that one page can have."""
_MS: Final = 1_000_000


# Requests


def details_request(endpoints: Endpoints, symbol: str = "all") -> HttpRequest:
    """Ask for the details of one symbol, or of all of them.

    Where ``/all`` is not served, ``/v1/symbols`` names the symbols and each can be asked for alone.
    """
    return HttpRequest(f"{endpoints.rest}/v1/symbols/details/{quote(symbol.lower(), safe='')}")


def book_request(endpoints: Endpoints, symbol: str, limit: int = 0) -> HttpRequest:
    """Ask for a book, ``limit`` levels a side; 0: all of them. It has no sequence."""
    if limit < 0:
        raise UsageError(f"{VENUE}: limit {limit} of book is negative")
    query = urlencode([("limit_bids", limit), ("limit_asks", limit)])
    return HttpRequest(f"{endpoints.rest}/v1/book/{_path(symbol)}?{query}")


def trades_request(
    endpoints: Endpoints,
    symbol: str,
    *,
    since_tid: int | None = None,
    timestamp: int | None = None,
    limit: int = MAX_TRADES,
) -> HttpRequest:
    """Ask for trades behind an id, or from an instant (ns) on; without both for the newest ones.

    An instant before the last seven days is answered from there on. At most 500 trades.
    """
    if not 1 <= limit <= MAX_TRADES:
        raise UsageError(f"{VENUE}: limit {limit} of trades is not between 1 and {MAX_TRADES}")
    if since_tid is not None and timestamp is not None:
        raise UsageError(f"{VENUE}: trades are asked for by id or by time, not both")
    query: list[tuple[str, int]] = [("limit_trades", limit)]
    if since_tid is not None:
        query.append(("since_tid", since_tid))
    if timestamp is not None:
        query.append(("timestamp", timestamp // _MS))
    return HttpRequest(f"{endpoints.rest}/v1/trades/{_path(symbol)}?{urlencode(query)}")


def candles_request(endpoints: Endpoints, symbol: str, interval: str) -> HttpRequest:
    """Ask for the newest candles; how many there are is the exchange's choice."""
    if interval not in REST_INTERVALS:
        raise UsageError(f"{VENUE} has no candles of {interval!r}", hint=f"one of {', '.join(INTERVALS)}")
    return HttpRequest(f"{endpoints.rest}/v2/candles/{_path(symbol)}/{REST_INTERVALS[interval]}")


def _path(symbol: str) -> str:
    return quote(symbol.lower(), safe="")


# Bodies

_Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
_Ms = Annotated[int, Meta(ge=0, lt=9_200_000_000_000)]


class _Trade(Struct):
    tid: _Id
    price: PriceText
    amount: Amount
    timestampms: _Ms
    type: str
    broken: bool = False


class _Level(Struct):
    price: Price
    amount: Quantity


class _Book(Struct):
    bids: list[_Level]
    asks: list[_Level]


class _Candle(Struct, array_like=True):
    time: _Ms
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Quantity


_TRADES: Final = msgspec.json.Decoder(list[_Trade])
_BOOK: Final = msgspec.json.Decoder(_Book, strict=False)
_CANDLES: Final = msgspec.json.Decoder(list[_Candle], strict=False)


def _decode(decoder: Any, body: bytes, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{VENUE}: {what} are not in the known form: {error}") from error


def parse_trades(symbol: str, body: bytes, now: int) -> list[Trade]:
    """Parse trades, oldest first; broken (cancelled) ones are left out. Raises ProtocolError.

    ``type`` is the taker's side; trades of auctions and blocks have none.
    """
    return parse_trades_page(symbol, body, now)[0]


def parse_trades_page(symbol: str, body: bytes, now: int) -> tuple[list[Trade], list[tuple[int, int]]]:
    """Parse a page as ``parse_trades`` does, and the (time in ns, id) of all its rows, oldest first."""
    rows: list[_Trade] = _decode(_TRADES, body, "trades")
    trades: list[Trade] = []
    for r in rows:
        if r.broken:
            continue
        side: Side = "buy" if r.type == "buy" else "sell" if r.type == "sell" else "unknown"
        flags = REST | inexact_flag(r.price, r.amount)
        price, quantity = float(r.price), float(r.amount)
        trades.append(Trade(r.timestampms * _MS, now, VENUE, symbol, str(r.tid), r.tid, price, quantity, side, flags))
    trades.sort(key=lambda t: (t.ts_event, t.trade_seq or 0))
    return trades, sorted((r.timestampms * _MS, r.tid) for r in rows)


def parse_book(body: bytes) -> tuple[Levels, Levels]:
    """Parse a book as bids and asks, best first; raises ProtocolError."""
    book: _Book = _decode(_BOOK, body, "books")
    return [(r.price, r.amount) for r in book.bids], [(r.price, r.amount) for r in book.asks]


def parse_candles(symbol: str, interval: str, body: bytes, now: int) -> list[Candle]:
    """Parse candles, oldest first; one whose interval is not over at ``now`` is provisional.

    Gemini tells no number of trades, no quote volume and no taker volume: they are NaN and -1. Raises ProtocolError.
    """
    rows: list[_Candle] = _decode(_CANDLES, body, "candles")
    length = interval_ns(interval)
    candles = [
        Candle(
            open_time=r.time * _MS,
            close_time=r.time * _MS + length,
            ts_event=min(r.time * _MS + length, max(now, r.time * _MS)),
            ts_recv=now,
            venue=VENUE,
            symbol=symbol,
            interval=interval,
            source="exchange",
            state="final" if r.time * _MS + length <= now else "provisional",
            open=r.open,
            high=r.high,
            low=r.low,
            close=r.close,
            volume=r.volume,
            quote_volume=nan,
            trades=-1,
            taker_buy_volume=nan,
            taker_buy_quote_volume=nan,
            flags=REST,
        )
        for r in rows
    ]
    candles.sort(key=lambda c: c.open_time)
    return candles


# Responses


class _Error(Struct):
    reason: str = ""
    message: str = ""


_ERROR: Final = msgspec.json.Decoder(_Error)


def check(response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success (2xx)."""
    status = response.status
    if 200 <= status < 300:
        return None
    where = f"{VENUE}: {urlsplit(url).path}"
    said = ""
    try:
        error = _ERROR.decode(response.body)
        words = " ".join(f"{error.reason}: {error.message}".split())
        said = f" ({words[:300]})" if error.reason or error.message else ""
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    if status in (418, 429):
        return RateLimitError(
            f"{where}: the exchange is asked too often, HTTP {status}{said}",
            status=status,
            retry_after=response.retry_after,
            hint="it allows 120 requests a minute and advises one a second",
        )
    if status in (403, 451):
        why = "does not serve this region" if status == 451 else "refuses this address (its firewall)"
        return BlockedError(
            f"{where}: the exchange {why}, HTTP {status}{said}",
            status=status,
            hint="connect from elsewhere with --proxy URL, or use another host with --endpoint URL",
        )
    side = "failed" if status >= 500 else "refused the request"
    hint = "it may be under maintenance; tried again later it may work" if status >= 500 else ""
    return VenueError(f"{where}: the exchange {side}, HTTP {status}{said}", status=status, hint=hint)
