"""Binance's REST interface as pure functions: makers of requests, parsers of bodies, errors in words.

Rules: docs/exchanges.md#binance-rest. Times are given in ns and sent in the market's own unit:
microseconds on spot (with the header that asks for them back), milliseconds on futures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Meta, Struct

from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import INEXACT, REST, AggTrade, Candle, Trade

from ._messages import DepthBody, inexact
from .instruments import Market, to_ns

__all__ = [
    "agg_trades_request",
    "check",
    "depth_request",
    "exchange_info_request",
    "historical_trades_request",
    "klines_request",
    "parse_agg_trades",
    "parse_depth",
    "parse_klines",
    "parse_time",
    "parse_trades",
    "time_request",
    "trades_request",
    "used_weight",
    "weight_of",
]

_MINUTE: Final = 60_000_000_000
_SECOND: Final = 1_000_000_000
_MICROSECONDS: Final = {"X-MBX-TIME-UNIT": "MICROSECOND"}


# Requests


def _request(
    market: Market,
    endpoints: Endpoints,
    path: str,
    weight: int,
    parameters: list[tuple[str, str | int]],
    headers: dict[str, str] | None = None,
) -> HttpRequest:
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    head = {**(headers or {}), **(_MICROSECONDS if market.name == "spot" else {})}
    return HttpRequest(f"{endpoints.rest}{market.prefix}/{path}{query}", headers=head, weight=weight)


def _time(market: Market, ns: int) -> int:
    return ns // 1000 if market.name == "spot" else ns // 1_000_000


def _limit(market: Market, what: str, limit: int, most: int) -> int:
    if not 1 <= limit <= most:
        raise UsageError(f"{market.venue}: limit {limit} of {what} is not between 1 and {most}")
    return limit


def weight_of(table: Sequence[tuple[int, int]], limit: int) -> int:
    """Return the weight of a request for ``limit`` rows from a table of (largest limit, weight)."""
    return next((weight for most, weight in table if limit <= most), table[-1][1])


def exchange_info_request(market: Market, endpoints: Endpoints) -> HttpRequest:
    """Ask for all instruments."""
    return _request(market, endpoints, "exchangeInfo", market.exchange_info_weight, [])


def time_request(market: Market, endpoints: Endpoints) -> HttpRequest:
    """Ask for the exchange's clock."""
    return _request(market, endpoints, "time", 1, [])


def depth_request(market: Market, endpoints: Endpoints, symbol: str, limit: int | None = None) -> HttpRequest:
    """Ask for a book snapshot; ``limit`` levels a side, by default the most that the market gives.

    Futures take only 5, 10, 20, 50, 100, 500 and 1000; another limit is raised to the next of them.
    """
    limit = _limit(market, "depth", market.snapshot_limit if limit is None else limit, market.snapshot_limit)
    if market.futures:
        limit = next(n for n in (5, 10, 20, 50, 100, 500, 1000) if n >= limit)
    weight = weight_of(market.depth_weights, limit)
    return _request(market, endpoints, "depth", weight, [("symbol", symbol), ("limit", limit)])


def trades_request(market: Market, endpoints: Endpoints, symbol: str, *, limit: int = 1000) -> HttpRequest:
    """Ask for the newest trades."""
    _limit(market, "trades", limit, 1000)
    return _request(market, endpoints, "trades", market.trades_weight, [("symbol", symbol), ("limit", limit)])


def historical_trades_request(
    market: Market, endpoints: Endpoints, symbol: str, *, from_id: int, limit: int = 1000, api_key: str = ""
) -> HttpRequest:
    """Ask for trades from an id on, inclusive. Futures need a key and reach back one month."""
    _limit(market, "historicalTrades", limit, 1000)
    if market.futures and not api_key:
        raise UsageError(
            f"{market.venue}: historicalTrades needs an API key", hint="use agg_trades, or the bulk archive"
        )
    headers = {"X-MBX-APIKEY": api_key} if api_key else None
    parameters: list[tuple[str, str | int]] = [("symbol", symbol), ("fromId", from_id), ("limit", limit)]
    return _request(market, endpoints, "historicalTrades", market.historical_trades_weight, parameters, headers)


def agg_trades_request(
    market: Market,
    endpoints: Endpoints,
    symbol: str,
    *,
    from_id: int | None = None,
    start: int | None = None,
    end: int | None = None,
    limit: int = 1000,
) -> HttpRequest:
    """Ask for aggregate trades from an id on, or of a window of time (ns); both ends are inclusive.

    Futures: not both at once, a window below one hour, and only the last 48 h (COIN-M 24 h).
    """
    _limit(market, "aggTrades", limit, 1000)
    if from_id is not None and (start is not None or end is not None):
        raise UsageError(f"{market.venue}: aggTrades takes an id or a window of time, not both")
    if market.futures and start is not None and end is not None and end - start >= 60 * _MINUTE:
        raise UsageError(f"{market.venue}: a window of aggTrades must be below one hour", hint="ask in parts")
    parameters: list[tuple[str, str | int]] = [("symbol", symbol)]
    if from_id is not None:
        parameters.append(("fromId", from_id))
    if start is not None:
        parameters.append(("startTime", _time(market, start)))
    if end is not None:
        parameters.append(("endTime", _time(market, end)))
    parameters.append(("limit", limit))
    return _request(market, endpoints, "aggTrades", market.agg_trades_weight, parameters)


def klines_request(
    market: Market,
    endpoints: Endpoints,
    symbol: str,
    interval: str,
    *,
    start: int | None = None,
    end: int | None = None,
    limit: int = 1000,
) -> HttpRequest:
    """Ask for candles that open in a window of time (ns, both ends inclusive), oldest first.

    At most 1000 (futures 1500) a request; COIN-M takes windows of up to 200 days.
    """
    if interval not in market.intervals:
        raise UsageError(f"{market.venue} has no candles of {interval!r}", hint=f"one of {', '.join(market.intervals)}")
    _limit(market, "klines", limit, 1500 if market.futures else 1000)
    if market.name == "coinm" and start is not None and end is not None and end - start > 200 * 1440 * _MINUTE:
        raise UsageError(f"{market.venue}: a window of klines may be 200 days at most", hint="ask in parts")
    parameters: list[tuple[str, str | int]] = [("symbol", symbol), ("interval", interval)]
    if start is not None:
        parameters.append(("startTime", _time(market, start)))
    if end is not None:
        parameters.append(("endTime", _time(market, end)))
    parameters.append(("limit", limit))
    return _request(market, endpoints, "klines", weight_of(market.kline_weights, limit), parameters)


# Bodies

_Int = Annotated[int, Meta(ge=-1, lt=1 << 62)]
_Decimal = Annotated[str, Meta(pattern=r"^[0-9]{1,24}(\.[0-9]{1,24})?$")]  # text, to see how exact it is


class _AggTrade(Struct):
    a: _Int
    p: _Decimal
    q: _Decimal
    f: _Int
    l: _Int  # noqa: E741 - the exchange's name
    T: _Int
    m: bool


class _Trade(Struct):
    id: _Int
    price: _Decimal
    qty: _Decimal
    time: _Int
    isBuyerMaker: bool


class _Kline(Struct, array_like=True):
    open_time: _Int
    open: _Decimal
    high: _Decimal
    low: _Decimal
    close: _Decimal
    volume: _Decimal
    close_time: _Int
    quote_volume: _Decimal
    trades: _Int
    taker_buy_volume: _Decimal
    taker_buy_quote_volume: _Decimal


class _Time(Struct):
    serverTime: _Int


_DEPTH: Final = msgspec.json.Decoder(DepthBody, strict=False)
_AGG_TRADES: Final = msgspec.json.Decoder(list[_AggTrade])
_TRADES: Final = msgspec.json.Decoder(list[_Trade])
_KLINES: Final = msgspec.json.Decoder(list[_Kline])
_TIME: Final = msgspec.json.Decoder(_Time)


def _decode(decoder: Any, body: bytes, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"Binance {what} is not in the known form: {error}") from error


def parse_depth(body: bytes) -> DepthBody:
    """Parse a book snapshot; raises ProtocolError."""
    depth: DepthBody = _decode(_DEPTH, body, "depth snapshot")
    return depth


def parse_time(body: bytes) -> int:
    """Parse the exchange's clock, ns; raises ProtocolError."""
    return to_ns(_decode(_TIME, body, "time").serverTime)


def _flags(*texts: str) -> int:
    return REST | INEXACT if any(map(inexact, texts)) else REST


def parse_agg_trades(market: Market, symbol: str, body: bytes, now: int) -> list[AggTrade]:
    """Parse aggregate trades, oldest first; raises ProtocolError."""
    rows: list[_AggTrade] = _decode(_AGG_TRADES, body, "aggTrades")
    return [
        AggTrade(
            to_ns(r.T),
            now,
            market.venue,
            symbol,
            str(r.a),
            r.a,
            r.f,
            r.l,
            float(r.p),
            float(r.q),
            "sell" if r.m else "buy",
            _flags(r.p, r.q),
        )
        for r in rows
    ]


def parse_trades(market: Market, symbol: str, body: bytes, now: int) -> list[Trade]:
    """Parse trades or historicalTrades, oldest first; raises ProtocolError."""
    rows: list[_Trade] = _decode(_TRADES, body, "trades")
    return [
        Trade(
            to_ns(r.time),
            now,
            market.venue,
            symbol,
            str(r.id),
            r.id,
            float(r.price),
            float(r.qty),
            "sell" if r.isBuyerMaker else "buy",
            _flags(r.price, r.qty),
        )
        for r in rows
    ]


def parse_klines(market: Market, symbol: str, interval: str, body: bytes, now: int) -> list[Candle]:
    """Parse candles, oldest first; one that has not ended at ``now`` is provisional. Raises ProtocolError."""
    rows: list[_Kline] = _decode(_KLINES, body, "klines")
    candles = []
    for r in rows:
        # The close time is the last unit (ms or us) of the interval.
        close = to_ns(r.close_time + 1)
        candles.append(
            Candle(
                open_time=to_ns(r.open_time),
                close_time=close,
                ts_event=min(close, max(now, to_ns(r.open_time))),
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
                quote_volume=float(r.quote_volume),
                trades=r.trades,
                taker_buy_volume=float(r.taker_buy_volume),
                taker_buy_quote_volume=float(r.taker_buy_quote_volume),
                flags=_flags(r.open, r.high, r.low, r.close, r.volume, r.quote_volume),
            )
        )
    return candles


# Responses


class _Error(Struct):
    code: int
    msg: str = ""


_ERROR: Final = msgspec.json.Decoder(_Error)


def used_weight(response: HttpResponse) -> int | None:
    """The weight that this address used in the current minute, as the exchange counts it."""
    text = response.header("x-mbx-used-weight-1m")
    return int(text) if text.isascii() and text.isdigit() else None


def check(market: Market, response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success (2xx)."""
    status = response.status
    if 200 <= status < 300:
        return None
    where = f"{market.venue}: {urlsplit(url).path}"
    try:
        error = _ERROR.decode(response.body)
        said = f" ({error.code}: {error.msg})"
    except (msgspec.MsgspecError, ValueError, RecursionError):
        said = ""
    if status in (418, 429):
        seconds = response.retry_after // _SECOND
        wait = f"waits {seconds} s before the next request" if seconds else "waits before the next request"
        what = "banned this address for a while" if status == 418 else "is asked too often"
        return RateLimitError(
            f"{where}: the exchange {what}, HTTP {status}{said}",
            status=status,
            retry_after=seconds * _SECOND,
            hint=f"{wait}; fewer symbols or a smaller snapshot_limit need less weight",
        )
    if status in (403, 451):
        why = "does not serve this region" if status == 451 else "refuses this address (its firewall)"
        return BlockedError(
            f"{where}: the exchange {why}, HTTP {status}{said}",
            status=status,
            hint="connect from elsewhere with --proxy URL, or use another host with --endpoint URL",
        )
    side = "failed" if status >= 500 else "refused the request"
    hint = "tried again later it may work" if status >= 500 else ""
    return VenueError(f"{where}: the exchange {side}, HTTP {status}{said}", status=status, hint=hint)
