"""Coinbase's two REST interfaces as pure functions: makers of requests, parsers of bodies, errors in words.

Rules: docs/exchanges/coinbase.md#rest. Every request weighs 1; 10 a second and address are allowed. Coinbase
Exchange lies behind a cache: candles are up to 300 s old there, trades up to 6 s.
"""

from __future__ import annotations

from decimal import Decimal
from math import nan
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Meta, Struct

from cmd_common.candles import interval_bounds
from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.feed_base import ParsedBook, inexact_flag
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import REST, Candle, Side, Trade

from ._messages import Id, Price, PriceText, Quantity, Text
from ._times import iso_text, parse_iso
from .instruments import Market

__all__ = [
    "ADVANCED_PATH",
    "book_request",
    "candles_request",
    "check",
    "parse_book",
    "parse_candles",
    "parse_trades",
    "products_request",
    "taker",
    "trades_request",
]

ADVANCED_PATH: Final = "/api/v3/brokerage/market"
"""Where the public part of Advanced Trade's REST interface lies."""
_SECOND: Final = 1_000_000_000


def taker(maker: str) -> Side:
    """Return the aggressor's side for the maker's: matches and market trades name the resting order."""
    return {"buy": "sell", "sell": "buy"}.get(maker.lower(), "unknown")  # type: ignore[return-value]


# Requests


def _url(endpoints: Endpoints, path: str, parameters: list[tuple[str, str | int]] | None = None) -> HttpRequest:
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    return HttpRequest(f"{endpoints.rest}{path}{query}")


def _product(market: Market, symbol: str, rest: str) -> str:
    base = "" if market.name == "exchange" else ADVANCED_PATH
    return f"{base}/products/{quote(symbol, safe='')}/{rest}"


def products_request(market: Market, endpoints: Endpoints) -> HttpRequest:
    """Ask for all products; of Advanced Trade for the spot ones."""
    if market.name == "exchange":
        return _url(endpoints, "/products")
    return _url(endpoints, f"{ADVANCED_PATH}/products", [("product_type", "SPOT")])


def book_request(market: Market, endpoints: Endpoints, symbol: str, *, levels: int | None = None) -> HttpRequest:
    """Ask for a book: the best level (``levels=1``), or all of them merged by price (None).

    Coinbase Exchange has just these two; Advanced Trade takes any number of levels.
    """
    if levels is not None and (levels < 1 or (market.name == "exchange" and levels != 1)):
        raise UsageError(f"{market.venue}: a book of {levels} levels is not offered", hint="1, or none for all")
    if market.name == "exchange":
        return _url(endpoints, _product(market, symbol, "book"), [("level", 1 if levels else 2)])
    parameters: list[tuple[str, str | int]] = [("product_id", symbol)]
    if levels is not None:
        parameters.append(("limit", levels))
    return _url(endpoints, f"{ADVANCED_PATH}/product_book", parameters)


def trades_request(
    market: Market,
    endpoints: Endpoints,
    symbol: str,
    *,
    after: int | None = None,
    start: int | None = None,
    end: int | None = None,
    limit: int | None = None,
) -> HttpRequest:
    """Ask for a page of trades, newest first; ``limit`` 1000 at most.

    Coinbase Exchange: ids below ``after``. Advanced Trade: a window of time, ns, both ends inclusive and in
    whole seconds (the end is rounded up).
    """
    limit = market.max_trades if limit is None else limit
    if not 1 <= limit <= market.max_trades:
        raise UsageError(f"{market.venue}: limit {limit} of trades is not between 1 and {market.max_trades}")
    parameters: list[tuple[str, str | int]] = [("limit", limit)]
    if market.name == "exchange":
        if start is not None or end is not None:
            raise UsageError(f"{market.venue}: trades are found by id, not by time", hint="give after")
        if after is not None:
            parameters.append(("after", after))
        return _url(endpoints, _product(market, symbol, "trades"), parameters)
    if after is not None:
        raise UsageError(f"{market.venue}: trades are found by time, not by id", hint="give start and end")
    if start is not None:
        parameters.append(("start", start // _SECOND))
    if end is not None:
        parameters.append(("end", -(-end // _SECOND)))
    return _url(endpoints, _product(market, symbol, "ticker"), parameters)


def candles_request(
    market: Market, endpoints: Endpoints, symbol: str, interval: str, *, start: int, end: int
) -> HttpRequest:
    """Ask for the candles that open in ``[start, end]``, ns; at most 300 (Advanced Trade 350) intervals."""
    granularity = market.granularities.get(interval)
    if granularity is None:
        known = ", ".join(market.granularities)
        raise UsageError(f"{market.venue} has no candles of {interval!r}", hint=f"one of {known}")
    opened, closed = interval_bounds(start, interval)
    count = (end - opened) // (closed - opened) + 1
    if not 1 <= count <= market.max_candles:
        raise UsageError(
            f"{market.venue}: {count} candles in one request", hint=f"ask for 1 to {market.max_candles} at once"
        )
    parameters: list[tuple[str, str | int]] = [("granularity", granularity)]
    if market.name == "exchange":
        parameters += [("start", iso_text(start, 0)), ("end", iso_text(end, 0))]
    else:
        parameters += [("start", start // _SECOND), ("end", end // _SECOND)]
    return _url(endpoints, _product(market, symbol, "candles"), parameters)


# Bodies


class _Trade(Struct):
    trade_id: Id
    side: Literal["buy", "sell"]
    size: Text
    price: PriceText
    time: str


class _AdvancedTrade(Struct):
    trade_id: Id
    price: PriceText
    size: Text
    time: str
    side: str = ""


class _AdvancedTrades(Struct):
    trades: list[_AdvancedTrade]


class _Book(Struct):
    bids: list[tuple[Price, Quantity, Any]]
    asks: list[tuple[Price, Quantity, Any]]
    sequence: Id
    time: str = ""


class _AdvancedLevel(Struct):
    price: Price
    size: Quantity


class _PriceBook(Struct):
    bids: list[_AdvancedLevel]
    asks: list[_AdvancedLevel]
    product_id: str = ""
    time: str = ""


class _AdvancedBook(Struct):
    pricebook: _PriceBook


class _AdvancedCandle(Struct):
    start: Annotated[int, Meta(ge=0, lt=9_200_000_000)]
    low: Decimal
    high: Decimal
    open: Decimal
    close: Decimal
    volume: Decimal


class _AdvancedCandles(Struct):
    candles: list[_AdvancedCandle]


_TRADES: Final = msgspec.json.Decoder(list[_Trade], strict=False)
_ADVANCED_TRADES: Final = msgspec.json.Decoder(_AdvancedTrades, strict=False)
_BOOK: Final = msgspec.json.Decoder(_Book, strict=False)
_ADVANCED_BOOK: Final = msgspec.json.Decoder(_AdvancedBook, strict=False)
# [time, low, high, open, close, volume]; numbers become decimals from their text
_CANDLES: Final = msgspec.json.Decoder(
    list[
        tuple[
            Annotated[int, Meta(ge=0, lt=9_200_000_000)],
            Decimal | None,
            Decimal | None,
            Decimal | None,
            Decimal | None,
            Decimal | None,
        ]
    ]
)
_ADVANCED_CANDLES: Final = msgspec.json.Decoder(_AdvancedCandles, strict=False)


def _decode(decoder: Any, body: bytes, market: Market, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, ArithmeticError) as error:
        raise ProtocolError(f"{market.venue}: {what} are not in the known form: {error}") from error


def _time(text: str, market: Market) -> int:
    try:
        return parse_iso(text)
    except ValueError as error:
        raise ProtocolError(f"{market.venue}: {error}") from error


def parse_trades(market: Market, symbol: str, body: bytes, now: int) -> list[Trade]:
    """Parse a page of trades, in its order (newest first); the side becomes the taker's. Raises ProtocolError."""
    if market.name == "exchange":
        rows: Any = _decode(_TRADES, body, market, "trades")
    else:
        rows = _decode(_ADVANCED_TRADES, body, market, "trades").trades
    return [
        Trade(
            _time(r.time, market),
            now,
            market.venue,
            symbol,
            str(r.trade_id),
            r.trade_id,
            float(r.price),
            float(r.size),
            taker(r.side),
            REST | inexact_flag(r.price, r.size),
        )
        for r in rows
    ]


def parse_book(market: Market, body: bytes) -> ParsedBook:
    """Parse a book; Advanced Trade's has no id (0). ``complete`` is left False: it says not how deep it goes."""
    if market.name == "exchange":
        book: _Book = _decode(_BOOK, body, market, "book levels")
        bids = [(p, q) for p, q, _ in book.bids]
        asks = [(p, q) for p, q, _ in book.asks]
        return ParsedBook(book.sequence, bids, asks, _time(book.time, market) or None if book.time else None)
    priced: _PriceBook = _decode(_ADVANCED_BOOK, body, market, "book levels").pricebook
    ts = _time(priced.time, market) or None if priced.time else None
    return ParsedBook(0, [(b.price, b.size) for b in priced.bids], [(a.price, a.size) for a in priced.asks], ts)


def parse_candles(market: Market, symbol: str, interval: str, body: bytes, now: int) -> list[Candle]:
    """Parse candles, oldest first; one that has not ended at ``now`` is provisional. Raises ProtocolError.

    Coinbase tells neither the number of trades (-1) nor quote volume and takers' part (NaN). A row without
    prices is an interval without a trade and is left out, as the exchange itself mostly does.
    """
    if market.name == "exchange":
        rows: Any = _decode(_CANDLES, body, market, "candles")
    else:
        found = _decode(_ADVANCED_CANDLES, body, market, "candles").candles
        rows = [(c.start, c.low, c.high, c.open, c.close, c.volume) for c in found]
    candles = []
    for start, low, high, opened, close, volume in rows:
        if low is None or high is None or opened is None or close is None or volume is None:
            continue
        numbers = (low, high, opened, close, volume)
        if not all(n.is_finite() and n >= 0 for n in numbers):
            raise ProtocolError(f"{market.venue}: a candle of {symbol} has a number that cannot be")
        open_time, close_time = interval_bounds(start * _SECOND, interval)
        if open_time != start * _SECOND:
            raise ProtocolError(f"{market.venue}: a candle of {symbol} begins at {start}, which is within {interval}")
        candles.append(
            Candle(
                open_time=open_time,
                close_time=close_time,
                ts_event=min(close_time, max(now, open_time)),
                ts_recv=now,
                venue=market.venue,
                symbol=symbol,
                interval=interval,
                source="exchange",
                state="final" if close_time <= now else "provisional",
                open=float(opened),
                high=float(high),
                low=float(low),
                close=float(close),
                volume=float(volume),
                quote_volume=nan,
                trades=-1,
                taker_buy_volume=nan,
                taker_buy_quote_volume=nan,
                flags=REST | inexact_flag(*(format(n, "f") for n in numbers)),
            )
        )
    return sorted(candles, key=lambda c: c.open_time)


# Responses


class _Error(Struct):
    message: str = ""
    error: str = ""
    error_details: str = ""


_ERROR: Final = msgspec.json.Decoder(_Error)


def check(market: Market, response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success (2xx).

    Bodies say ``{"message": ...}``, on Advanced Trade ``{"error": ..., "error_details": ..., "message": ...}``.
    429 comes without a word about when to come back [D]: then ``retry_after`` is one second.
    """
    status = response.status
    if 200 <= status < 300:
        return None
    where = f"{market.venue}: {urlsplit(url).path}"
    try:
        error = _ERROR.decode(response.body)
        words = " ".join(dict.fromkeys(w for w in (error.error, error.error_details, error.message) if w))
        said = f" ({' '.join(words.split())[:200]})" if words else ""
    except (msgspec.MsgspecError, ValueError, RecursionError):
        said = ""
    if status in (418, 429):
        seconds = response.retry_after // _SECOND or 1
        return RateLimitError(
            f"{where}: the exchange is asked too often, HTTP {status}{said}",
            status=status,
            retry_after=seconds * _SECOND,
            hint=f"waits {seconds} s before the next request; 10 a second and address are allowed",
        )
    if status in (403, 451):
        why = "does not serve this region" if status == 451 else "refuses this address (its firewall)"
        return BlockedError(
            f"{where}: the exchange {why}, HTTP {status}{said}",
            status=status,
            hint="connect from elsewhere with --proxy URL, or use another host with --endpoint URL",
        )
    if status == 503:
        return VenueError(
            f"{where}: the exchange is down for maintenance or overloaded, HTTP 503{said}",
            status=status,
            hint="tried again later it may work; see the exchange's status page",
        )
    side = "failed" if status >= 500 else "refused the request"
    hint = "tried again later it may work" if status >= 500 else ""
    return VenueError(f"{where}: the exchange {side}, HTTP {status}{said}", status=status, hint=hint)
