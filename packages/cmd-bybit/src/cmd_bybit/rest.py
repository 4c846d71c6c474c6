"""Bybit's REST interface as pure functions: makers of requests, parsers of bodies, errors in words.

Rules: docs/exchanges/bybit.md#rest. Every body is ``{"retCode", "retMsg", "result", "time"}``, and an
error comes with HTTP 200 as a rule: ``check`` looks at ``retCode`` as well as at the status.
"""

from __future__ import annotations

import itertools
import re
from math import nan
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Meta, Struct, field

from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.feed_base import inexact_flag
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import REST, Candle

from .instruments import INTERVALS, Market, cursor_of, interval_end

__all__ = ["BybitHistory", "check", "instruments_request", "klines_request", "next_instruments_request", "parse_klines"]

_MS: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_PAGE: Final = 1000  # rows of a page of candles or instruments, the most that the exchange gives
_BAN: Final = 600 * _SECOND  # "wait for at least 10 minutes" after HTTP 403, access too frequent
_LONGEST_WAIT: Final = 300 * _SECOND
_URL_TEXT: Final = re.compile(r"[A-Za-z0-9%._~-]*")

# Requests


def _request(endpoints: Endpoints, path: str, parameters: list[tuple[str, str | int]], raw: str = "") -> HttpRequest:
    return HttpRequest(f"{endpoints.rest}/v5/market/{path}?{urlencode(parameters, quote_via=quote)}{raw}")


def instruments_request(market: Market, endpoints: Endpoints, cursor: str = "") -> HttpRequest:
    """Ask for a page of instruments; the exchange lists those with status Trading.

    Linear has more than 500, the exchange's default page. A cursor goes back as it came: it is already
    in the form of a URL (``first%3DBTCUSDT...``) and must not be escaped once more.
    """
    parameters: list[tuple[str, str | int]] = [("category", market.category)]
    if market.category != "spot":  # spot knows no pages
        parameters.append(("limit", _PAGE))
    raw = "" if not cursor else f"&cursor={cursor if _URL_TEXT.fullmatch(cursor) else quote(cursor, safe='')}"
    return _request(endpoints, "instruments-info", parameters, raw)


def next_instruments_request(
    market: Market, request: HttpRequest, body: bytes, endpoints: Endpoints
) -> HttpRequest | None:
    """Ask for the page behind ``body``, None behind the last one; raises ProtocolError."""
    cursor = cursor_of(market, body)
    if not cursor:
        return None
    following = instruments_request(market, endpoints, cursor)
    if following.url == request.url:
        raise ProtocolError(f"{market.venue}: a page of instruments-info names itself as the next one")
    return following


def klines_request(
    market: Market, endpoints: Endpoints, symbol: str, interval: str, *, start: int, end: int, limit: int = _PAGE
) -> HttpRequest:
    """Ask for the newest candles that open in ``start <= time < end``, ns; raises UsageError."""
    if interval not in INTERVALS:
        raise UsageError(f"{market.venue} has no candles of {interval!r}", hint=f"one of {', '.join(INTERVALS)}")
    if not 1 <= limit <= _PAGE:
        raise UsageError(f"{market.venue}: limit {limit} of klines is not between 1 and {_PAGE}")
    return _request(
        endpoints,
        "kline",
        [
            ("category", market.category),
            ("symbol", symbol),
            ("interval", INTERVALS[interval]),
            ("start", -(-start // _MS)),
            ("end", -(-end // _MS) - 1),  # inclusive
            ("limit", limit),
        ],
    )


# Bodies

_Time = Annotated[str, Meta(pattern=r"^[0-9]{1,13}$")]
_Decimal = Annotated[str, Meta(pattern=r"^[0-9]{1,24}(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?$")]


class _Kline(Struct, array_like=True):
    start: _Time
    open: _Decimal
    high: _Decimal
    low: _Decimal
    close: _Decimal
    volume: _Decimal
    turnover: _Decimal


class _Klines(Struct):
    rows: list[_Kline] = field(name="list")
    category: str = ""
    symbol: str = ""


class _KlineBody(Struct):
    result: _Klines


_KLINES: Final = msgspec.json.Decoder(_KlineBody)


def _decode(decoder: Any, body: bytes, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"Bybit {what} is not in the known form: {error}") from error


def parse_klines(market: Market, symbol: str, interval: str, body: bytes, now: int) -> list[Candle]:
    """Parse candles, newest first as they come; one that has not ended at ``now`` is provisional.

    The exchange gives no number of trades and no taker volume: -1 and NaN. Raises ProtocolError.
    """
    result: _Klines = _decode(_KLINES, body, "kline").result
    if result.symbol not in ("", symbol) or result.category not in ("", market.category):
        raise ProtocolError(f"{market.venue}: candles of {symbol} were asked for, not of {result.symbol[:40]!r}")
    candles = []
    for r in result.rows:
        start = int(r.start) * _MS
        close = interval_end(start, interval)
        numbers = (r.open, r.high, r.low, r.close, r.volume, r.turnover)
        candles.append(
            Candle(
                open_time=start,
                close_time=close,
                ts_event=min(close, max(now, start)),
                ts_recv=now,
                venue=market.venue,
                symbol=symbol,
                interval=interval,
                source="exchange",
                state="final" if close <= now else "provisional",
                open=float(r.open),
                high=float(r.high),
                low=float(r.low),
                close=float(r.close),
                volume=float(r.volume),
                quote_volume=float(r.turnover),
                trades=-1,
                taker_buy_volume=nan,
                taker_buy_quote_volume=nan,
                flags=REST | inexact_flag(*numbers),
            )
        )
    return candles


# History


class BybitHistory(HistorySource):
    """Candles over REST, page by page backwards; see ``cmd_common.history.HistorySource``.

    A page holds the newest candles of what is asked for, so a walk goes from its end to its start and
    the cursor is the open time (ns) of the oldest candle so far. The exchange's ``recent-trade`` has no
    cursor, so trades of the past come from the bulk files only.
    """

    tables = ("candles",)
    intervals = tuple(INTERVALS)
    contiguous = False

    def __init__(self, market: Market) -> None:
        self._market = market

    def reach(self, table: str, interval: str = "") -> int | None:
        """All candles that there ever were."""
        return None

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The first request of a walk; raises UsageError for what the venue does not have."""
        return self._ask(walk, walk.end, endpoints)

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The request for what lies before the cursor."""
        return self._ask(walk, _cursor(walk, cursor), endpoints)

    def _ask(self, walk: Walk, end: int, endpoints: Endpoints) -> HttpRequest:
        if walk.table != "candles":
            raise UsageError(
                f"{self._market.venue} gives no {walk.table} of the past over REST", hint="take its bulk files"
            )
        return klines_request(self._market, endpoints, walk.symbol, walk.interval, start=walk.start, end=end)

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take one page; raises ProtocolError for rows outside of what was asked for, or in a wrong order.

        The walk ends with a page without rows, or with the first candle at or behind ``walk.start``;
        never with a short page, because the exchange may give fewer than it was asked for.
        """
        end = _cursor(walk, cursor) if cursor else walk.end
        rows = parse_klines(self._market, walk.symbol, walk.interval, response.body, now)
        times = [c.open_time for c in rows]
        if any(a <= b for a, b in itertools.pairwise(times)):
            raise ProtocolError(f"{self._market.venue}: candles are not sorted from new to old")
        if times and not walk.start <= times[-1] <= times[0] < end:
            raise ProtocolError(f"{self._market.venue}: candles lie outside of what was asked for")
        records = tuple(c for c in rows if c.state == "final")
        done = not times or times[-1] - walk.start < interval_end(times[-1], walk.interval) - times[-1]
        return HistoryPage(records, None if done else str(times[-1]))


def _cursor(walk: Walk, cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or not walk.start <= int(cursor) <= walk.end:
        raise UsageError(f"cursor {cursor[:40]!r} is not of this walk")
    return int(cursor)


# Responses


class _Error(Struct):
    retCode: int = 0
    retMsg: str = ""
    time: int = 0  # ms, the exchange's clock


_ERROR: Final = msgspec.json.Decoder(_Error)
_RATE_CODES: Final = frozenset((10006, 10018))  # too many visits, of the key and of the address
_BLOCKED_CODES: Final = frozenset((10009, 10010, 10024))  # banned address, unmatched address, region
_SERVER_CODES: Final = frozenset((10000, 10016, 10019))  # time-out, maintenance or restart, internal redirect


def _wait(response: HttpResponse, error: _Error) -> int:
    """Return how long to wait, ns: the header names the end of the limit on the exchange's clock."""
    if response.retry_after:
        return response.retry_after
    reset = response.header("x-bapi-limit-reset-timestamp")
    if error.time > 0 and reset.isascii() and reset.isdigit() and len(reset) <= 15:
        return min(max(int(reset) - error.time, 0) * _MS, _LONGEST_WAIT)
    return 0


def check(market: Market, response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success (2xx and ``retCode`` 0)."""
    status = response.status
    try:
        error = _ERROR.decode(response.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        error = _Error()
    good = 200 <= status < 300
    if good and error.retCode == 0:
        return None
    where = f"{market.venue}: {urlsplit(url).path}"
    text = " ".join(error.retMsg.split())[:200]
    said = f"HTTP {status} ({error.retCode}: {text})" if error.retCode else f"HTTP {status}"
    too_often = status == 403 and b"too frequent" in response.body[:2000].lower()
    if status in (418, 429) or too_often or (good and error.retCode in _RATE_CODES):
        wait = _wait(response, error) or (_BAN if too_often else 0)
        return RateLimitError(
            f"{where}: the exchange is asked too often, {said}",
            status=status,
            retry_after=wait,
            hint=f"waits {wait / _SECOND:g} s before the next request" if wait else "waits before the next request",
        )
    if status in (403, 451) or (good and error.retCode in _BLOCKED_CODES):
        return BlockedError(
            f"{where}: the exchange does not serve this address or region, {said}",
            status=status,
            hint="connect from elsewhere with --proxy URL, or use another host with --endpoint URL",
        )
    if status >= 500 or (good and error.retCode in _SERVER_CODES):
        return VenueError(
            f"{where}: the exchange failed, {said}", status=max(status, 503), hint="tried again later it may work"
        )
    return VenueError(f"{where}: the exchange refused the request, {said}", status=400 if good else status)
