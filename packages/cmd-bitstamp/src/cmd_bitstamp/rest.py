"""Bitstamp's REST interface as pure functions: makers of requests, parsers of bodies, errors in words.

Rules: docs/exchanges/bitstamp.md#rest. Paths carry symbols in lower case. Every request weighs 1.
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
from cmd_common.records import REST, Candle, Trade

from ._messages import Amount, Levels, Price, PriceText, Quantity
from .instruments import INTERVALS, STEPS, VENUE

__all__ = [
    "MAX_CANDLES",
    "Book",
    "book_request",
    "candles_request",
    "check",
    "pairs_request",
    "parse_book",
    "parse_candles",
    "parse_trades",
    "trades_request",
]

MAX_CANDLES: Final = 1000
"""Most candles that one page can have."""
_SECOND: Final = 1_000_000_000
_PERIODS: Final = ("minute", "hour", "day")


# Requests


def _path(symbol: str) -> str:
    return quote(symbol.lower(), safe="")


def pairs_request(endpoints: Endpoints) -> HttpRequest:
    """Ask for all trading pairs."""
    return HttpRequest(f"{endpoints.rest}/api/v2/trading-pairs-info/")


def book_request(endpoints: Endpoints, symbol: str) -> HttpRequest:
    """Ask for a book, with the orders of a price taken together (``group=1``)."""
    return HttpRequest(f"{endpoints.rest}/api/v2/order_book/{_path(symbol)}/?group=1")


def trades_request(endpoints: Endpoints, symbol: str, period: str = "day") -> HttpRequest:
    """Ask for the trades of the last minute, hour or day; there is no way further back."""
    if period not in _PERIODS:
        raise UsageError(f"{VENUE} has no trades of the last {period!r}", hint=f"one of {', '.join(_PERIODS)}")
    return HttpRequest(f"{endpoints.rest}/api/v2/transactions/{_path(symbol)}/?time={period}")


def candles_request(
    endpoints: Endpoints, symbol: str, interval: str, *, start: int, end: int, limit: int = MAX_CANDLES
) -> HttpRequest:
    """Ask for candles that open in a window of time (ns, both ends inclusive); at most 1000.

    Where the window holds more than ``limit`` the exchange gives the newest of them, and pays no
    attention to ``start``.
    """
    if interval not in STEPS:
        raise UsageError(f"{VENUE} has no candles of {interval!r}", hint=f"one of {', '.join(INTERVALS)}")
    if not 1 <= limit <= MAX_CANDLES:
        raise UsageError(f"{VENUE}: limit {limit} of ohlc is not between 1 and {MAX_CANDLES}")
    query = [("step", STEPS[interval]), ("limit", limit), ("start", start // _SECOND), ("end", end // _SECOND)]
    return HttpRequest(f"{endpoints.rest}/api/v2/ohlc/{_path(symbol)}/?{urlencode(query)}")


# Bodies

_Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
_Seconds = Annotated[int, Meta(ge=0, lt=9_200_000_000)]
_Micros = Annotated[int, Meta(gt=0, lt=9_200_000_000_000_000)]


class Book(Struct):
    """The body of ``order_book``: ``microtimestamp`` says what it contains."""

    microtimestamp: _Micros
    bids: Levels
    asks: Levels


class _Trade(Struct):
    date: _Seconds
    tid: _Id
    price: PriceText
    amount: Amount
    type: int


class _Candle(Struct):
    timestamp: _Seconds
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Quantity


class _Candles(Struct):
    ohlc: list[_Candle]


class _Ohlc(Struct):
    data: _Candles


_BOOK: Final = msgspec.json.Decoder(Book, strict=False)
_TRADES: Final = msgspec.json.Decoder(list[_Trade], strict=False)
_OHLC: Final = msgspec.json.Decoder(_Ohlc, strict=False)


def _decode(decoder: Any, body: bytes, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{VENUE}: {what} are not in the known form: {error}") from error


def parse_book(body: bytes) -> Book:
    """Parse a book; raises ProtocolError."""
    book: Book = _decode(_BOOK, body, "books")
    return book


def parse_trades(symbol: str, body: bytes, now: int) -> list[Trade]:
    """Parse transactions, oldest first; raises ProtocolError. Their times are whole seconds."""
    rows: list[_Trade] = _decode(_TRADES, body, "transactions")
    trades = [
        Trade(
            r.date * _SECOND,
            now,
            VENUE,
            symbol,
            str(r.tid),
            r.tid,
            float(r.price),
            float(r.amount),
            "buy" if r.type == 0 else "sell" if r.type == 1 else "unknown",
            REST | inexact_flag(r.price, r.amount),
        )
        for r in rows
    ]
    trades.sort(key=lambda t: (t.ts_event, t.trade_seq or 0))
    return trades


def parse_candles(symbol: str, interval: str, body: bytes, now: int) -> list[Candle]:
    """Parse candles, oldest first; one whose interval is not over at ``now`` is provisional.

    The exchange repeats a candle now and then: the later one is taken. It tells no number of trades, no
    quote volume and no taker volume: they are -1 and NaN. Raises ProtocolError.
    """
    found: _Ohlc = _decode(_OHLC, body, "candles")
    length = STEPS[interval] * _SECOND
    candles: dict[int, Candle] = {}
    for r in found.data.ohlc:
        start = r.timestamp * _SECOND
        candles[start] = Candle(
            open_time=start,
            close_time=start + length,
            ts_event=min(start + length, max(now, start)),
            ts_recv=now,
            venue=VENUE,
            symbol=symbol,
            interval=interval,
            source="exchange",
            state="final" if start + length <= now else "provisional",
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
    return [candles[start] for start in sorted(candles)]


# Responses


class _Error(Struct):
    """Errors come in several forms; which one an endpoint has is not documented."""

    code: int | str | None = None
    reason: Any = None
    error: Any = None
    message: Any = None


_ERROR: Final = msgspec.json.Decoder(_Error)


def _words(body: bytes) -> str:
    try:
        error = _ERROR.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    parts = [error.code, error.reason, error.error, error.message]
    words = ": ".join(p if isinstance(p, str) else msgspec.json.encode(p).decode() for p in parts if p)
    return " ".join(words.split())[:300]


def check(response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success.

    Some errors come with HTTP 200, as an object with ``status`` ``error`` or with ``code`` and ``error``.
    """
    status = response.status
    where = f"{VENUE}: {urlsplit(url).path}"
    if 200 <= status < 300:
        if response.body.lstrip()[:1] != b"{" or len(response.body) > 4096:
            return None
        words = _words(response.body)
        return VenueError(f"{where}: the exchange refused the request ({words})", status=status) if words else None
    words = _words(response.body)
    said = f" ({words})" if words else ""
    if status in (418, 429):
        return RateLimitError(
            f"{where}: the exchange is asked too often, HTTP {status}{said}",
            status=status,
            retry_after=response.retry_after,
            hint="it allows 400 requests a second and 10,000 in ten minutes",
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
