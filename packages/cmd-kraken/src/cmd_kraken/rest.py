"""Kraken's REST interface as pure functions: makers of requests, parsers of bodies, errors in words.

Rules: docs/exchanges/kraken.md#rest. Every body is ``{"error": [...], "result": {...}}``; errors come
with HTTP 200, too. Times and prices are read from their text. The result's own key of the pair is
not looked at: which of its names the exchange answers with depends on the version asked for.
"""

from __future__ import annotations

from math import nan
from typing import Annotated, Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Meta, Struct

from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.feed_base import inexact_flag
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import REST, Candle, Side, Trade

from ._text import seconds_to_ns
from .instruments import MINUTES, VENUE, rest_pair
from .sync import Level, level

__all__ = [
    "OHLC_ROWS",
    "TRADES_A_PAGE",
    "DepthBody",
    "TradesPage",
    "asset_pairs_request",
    "check",
    "depth_request",
    "ohlc_request",
    "parse_depth",
    "parse_ohlc",
    "parse_trades",
    "trades_request",
]

TRADES_A_PAGE: Final = 1000
OHLC_ROWS: Final = 720
"""Candles that the exchange keeps for requests, whatever the interval."""

_DEPTH_MOST: Final = 500
_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * _SECOND
_PREFIX: Final = "/0/public/"


# Requests


def _request(endpoints: Endpoints, what: str, parameters: list[tuple[str, str | int]]) -> HttpRequest:
    query = f"?{urlencode(parameters)}" if parameters else ""
    return HttpRequest(f"{endpoints.rest}{_PREFIX}{what}{query}")


def asset_pairs_request(endpoints: Endpoints) -> HttpRequest:
    """Ask for all pairs, by their v2 names; a server that does not know the parameter passes over it."""
    return _request(endpoints, "AssetPairs", [("assetVersion", 1)])


def depth_request(endpoints: Endpoints, symbol: str, *, count: int = _DEPTH_MOST) -> HttpRequest:
    """Ask for a book of at most 500 levels a side; it has no checksum and is no base for updates."""
    if not 1 <= count <= _DEPTH_MOST:
        raise UsageError(f"{VENUE}: count {count} of Depth is not between 1 and {_DEPTH_MOST}")
    return _request(endpoints, "Depth", [("pair", rest_pair(symbol)), ("count", count)])


def trades_request(endpoints: Endpoints, symbol: str, *, since: int, count: int = TRADES_A_PAGE) -> HttpRequest:
    """Ask for trades after an instant (ns), oldest first, at most 1000."""
    if not 1 <= count <= TRADES_A_PAGE:
        raise UsageError(f"{VENUE}: count {count} of Trades is not between 1 and {TRADES_A_PAGE}")
    parameters: list[tuple[str, str | int]] = [("pair", rest_pair(symbol)), ("since", max(0, since)), ("count", count)]
    return _request(endpoints, "Trades", parameters)


def ohlc_request(endpoints: Endpoints, symbol: str, interval: str, *, since: int) -> HttpRequest:
    """Ask for candles after an instant (ns, sent in seconds), oldest first; only the last 720 exist."""
    if interval not in MINUTES:
        raise UsageError(f"{VENUE} has no candles of {interval!r}", hint=f"one of {', '.join(MINUTES)}")
    parameters: list[tuple[str, str | int]] = [
        ("pair", rest_pair(symbol)),
        ("interval", MINUTES[interval]),
        ("since", max(0, since // _SECOND)),
    ]
    return _request(endpoints, "OHLC", parameters)


# Bodies

_Decimal = Annotated[str, Meta(pattern=r"^[0-9]{1,24}(\.[0-9]{1,24})?$")]  # text, to see how exact it is
_Id = Annotated[int, Meta(ge=0, lt=1 << 62)]


class _Trade(Struct, array_like=True, gc=False):
    price: _Decimal
    volume: _Decimal
    time: msgspec.Raw  # decimal seconds as a number
    side: str
    order: str
    misc: str
    id: _Id


class _Ohlc(Struct, array_like=True, gc=False):
    time: Annotated[int, Meta(ge=0, lt=9_200_000_000)]
    open: _Decimal
    high: _Decimal
    low: _Decimal
    close: _Decimal
    vwap: _Decimal
    volume: _Decimal
    count: _Id


class _DepthLevel(Struct, array_like=True, gc=False):
    price: _Decimal
    volume: _Decimal
    time: int = 0


class _DepthSides(Struct):
    asks: list[_DepthLevel]
    bids: list[_DepthLevel]


class _Body(Struct):
    error: list[str] = []
    result: dict[str, msgspec.Raw] = {}


class TradesPage(Struct, frozen=True):
    """One page of trades, oldest first; ``last`` (ns) asks for the next one."""

    trades: list[Trade]
    last: int


class DepthBody(Struct, frozen=True):
    """A book as of no particular moment, best levels first."""

    bids: list[Level]
    asks: list[Level]


_BODY: Final = msgspec.json.Decoder(_Body)
_TRADES: Final = msgspec.json.Decoder(list[_Trade])
_OHLC: Final = msgspec.json.Decoder(list[_Ohlc])
_DEPTH: Final = msgspec.json.Decoder(_DepthSides)
_LAST: Final = msgspec.json.Decoder(Annotated[int, Meta(ge=0, lt=9_223_372_036_000_000_000)], strict=False)
_WRONG: Final = (msgspec.MsgspecError, ValueError, RecursionError, ArithmeticError)


def _result(body: bytes, what: str) -> dict[str, msgspec.Raw]:
    try:
        decoded = _BODY.decode(body)
    except _WRONG as error:
        raise ProtocolError(f"{VENUE}: {what} is not in the known form: {error}") from error
    if decoded.error:
        raise ProtocolError(f"{VENUE}: {what} answered {', '.join(decoded.error)[:200]}")
    return decoded.result


def _pair(result: dict[str, msgspec.Raw], what: str) -> msgspec.Raw:
    pairs = [value for key, value in result.items() if key != "last"]
    if len(pairs) != 1:
        raise ProtocolError(f"{VENUE}: {what} has {len(pairs)} pairs instead of the one asked for")
    return pairs[0]


_SIDES: Final[dict[str, Side]] = {"b": "buy", "s": "sell"}  # the taker's


def parse_trades(symbol: str, body: bytes, now: int) -> TradesPage:
    """Parse a page of trades, oldest first; raises ProtocolError."""
    result = _result(body, "Trades")
    try:
        rows: list[_Trade] = _TRADES.decode(_pair(result, "Trades"))
        last = _LAST.decode(result.get("last", msgspec.Raw(b"null")))
        trades = [
            Trade(
                seconds_to_ns(bytes(r.time).decode()),
                now,
                VENUE,
                symbol,
                str(r.id),
                r.id,
                float(r.price),
                float(r.volume),
                _SIDES[r.side],
                REST | inexact_flag(r.price, r.volume),
            )
            for r in rows
        ]
    except KeyError as error:
        raise ProtocolError(f"{VENUE}: a trade has side {error}") from error
    except _WRONG as error:
        raise ProtocolError(f"{VENUE}: Trades is not in the known form: {error}") from error
    if any(not trade.price for trade in trades):
        raise ProtocolError(f"{VENUE}: a trade has price 0")
    return TradesPage(trades, last)


def parse_ohlc(symbol: str, interval: str, body: bytes, now: int) -> list[Candle]:
    """Parse candles, oldest first; one that has not ended at ``now`` is provisional. Raises ProtocolError.

    Volumes in the quote asset and of takers are not given; the mean price is rounded, so that it is not
    made into one.
    """
    length = MINUTES[interval] * _MINUTE
    try:
        rows: list[_Ohlc] = _OHLC.decode(_pair(_result(body, "OHLC"), "OHLC"))
    except _WRONG as error:
        raise ProtocolError(f"{VENUE}: OHLC is not in the known form: {error}") from error
    candles = []
    for r in rows:
        opened = r.time * _SECOND
        candles.append(
            Candle(
                open_time=opened,
                close_time=opened + length,
                ts_event=min(opened + length, max(now, opened)),
                ts_recv=now,
                venue=VENUE,
                symbol=symbol,
                interval=interval,
                source="exchange",
                state="final" if opened + length <= now else "provisional",
                open=float(r.open),
                high=float(r.high),
                low=float(r.low),
                close=float(r.close),
                volume=float(r.volume),
                quote_volume=nan,
                trades=r.count,
                taker_buy_volume=nan,
                taker_buy_quote_volume=nan,
                flags=REST,
            )
        )
    return candles


def parse_depth(body: bytes) -> DepthBody:
    """Parse a book; raises ProtocolError."""
    try:
        sides: _DepthSides = _DEPTH.decode(_pair(_result(body, "Depth"), "Depth"))
        return DepthBody(
            [level(r.price, r.volume) for r in sides.bids],
            [level(r.price, r.volume) for r in sides.asks],
        )
    except _WRONG as error:
        raise ProtocolError(f"{VENUE}: Depth is not in the known form: {error}") from error


# Responses


class _Errors(Struct):
    error: list[Any]


_ERRORS: Final = msgspec.json.Decoder(_Errors)
_LIMITED: Final = ("EAPI:Rate limit", "EService:Throttled", "EGeneral:Temporary lockout", "EOrder:Rate limit")
_AWAY: Final = ("EService:Unavailable", "EService:Busy", "EService:Market in", "EService:Timeout", "EGeneral:Internal")
_PAUSE: Final = 5 * _SECOND  # the exchange does not say when to come back; its counter falls by one a second
_LOCKOUT: Final = 900 * _SECOND  # [S]


def check(response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success.

    HTTP 200 with a non-empty ``error`` array is an error: ``EAPI:Rate limit exceeded`` a RateLimitError
    with the pause to make, ``EService:...`` a VenueError that may go away, the others refusals.
    """
    status, body = response.status, response.body
    if 200 <= status < 300 and not _may_have_error(body):
        return None
    try:
        said = ", ".join(str(e) for e in _ERRORS.decode(body).error)[:300].replace("\n", " ")
    except _WRONG:
        said = ""
    if 200 <= status < 300 and not said:
        return None
    where = f"{VENUE}: {urlsplit(url).path}"
    code = f"HTTP {status}" + (f" ({said})" if said else "")
    if status in (418, 429) or said.startswith(_LIMITED):
        pause = response.retry_after
        if not pause and said:
            pause = _LOCKOUT if "lockout" in said else _PAUSE
        wait = f"waits {pause // _SECOND} s before the next request" if pause else "waits before the next request"
        return RateLimitError(
            f"{where}: the exchange is asked too often, {code}", status=status, retry_after=pause, hint=wait
        )
    if status in (403, 451):
        why = "does not serve this region" if status == 451 else "refuses this address (its firewall)"
        return BlockedError(
            f"{where}: the exchange {why}, {code}",
            status=status,
            hint="connect from elsewhere with --proxy URL, or use another host with --endpoint URL",
        )
    if status >= 500 or said.startswith(_AWAY):
        # Told as 503 whatever the HTTP status: who asks sees that it is worth another try.
        return VenueError(
            f"{where}: the exchange failed, {code}", status=max(status, 503), hint="tried again later it may work"
        )
    # Told as 400 where HTTP said 200: another try would get the same answer.
    return VenueError(f"{where}: the exchange refused the request, {code}", status=status if status >= 400 else 400)


def _may_have_error(body: bytes) -> bool:
    """Whether a body may have errors: a cheap look at its beginning, since trades are long."""
    head = body[:200].replace(b" ", b"")
    return b'"error":[]' not in head
