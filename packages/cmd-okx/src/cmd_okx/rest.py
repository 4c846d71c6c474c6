"""OKX's REST interface as pure functions: makers of requests, parsers of bodies, errors in words.

Rules: docs/exchanges/okx.md#rest. Limits are requests in two seconds, endpoint by endpoint; they are
expressed as weights of one budget of 6,000 a minute. Errors come with HTTP 200 and a ``code`` that is not
``0``, or with an HTTP status.
"""

from __future__ import annotations

from math import nan
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from cmd_common.candles import interval_bounds
from cmd_common.errors import BlockedError, CmdError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.feed_base import ParsedBook, inexact_flag
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import REST, Candle, Trade

from ._messages import CandleRow, Id, Level, Time, TradeRow, number, pairs, to_ns
from .instruments import BARS, INSTRUMENT_TYPES, VENUE

__all__ = [
    "PAGE",
    "WEIGHT_PER_MINUTE",
    "book_request",
    "candle",
    "candles_request",
    "check",
    "history_trades_request",
    "instruments_request",
    "parse_book",
    "parse_candles",
    "parse_trades",
    "trades_request",
]

_SECOND: Final = 1_000_000_000
WEIGHT_PER_MINUTE: Final = 6000
PAGE: Final = 100  # rows a page of history-trades and history-candles
_MOST_LEVELS: Final = 400
_CHARACTERS: Final = 200  # of the exchange's words in our messages


def _weight(requests_in_2s: int) -> int:
    return WEIGHT_PER_MINUTE // (requests_in_2s * 30)


_INSTRUMENTS_WEIGHT: Final = _weight(20)
_BOOK_WEIGHT: Final = _weight(40)
_TRADES_WEIGHT: Final = _weight(100)
_HISTORY_WEIGHT: Final = _weight(20)


# Requests


def _request(endpoints: Endpoints, path: str, weight: int, parameters: list[tuple[str, str | int]]) -> HttpRequest:
    return HttpRequest(f"{endpoints.rest}/api/v5/{path}?{urlencode(parameters, quote_via=quote)}", weight=weight)


def instruments_request(endpoints: Endpoints, type_: str) -> HttpRequest:
    """Ask for all instruments of one type: SPOT, SWAP or FUTURES."""
    if type_ not in INSTRUMENT_TYPES:
        raise UsageError(f"{VENUE} has no list of {type_!r}", hint=f"one of {', '.join(INSTRUMENT_TYPES)}")
    return _request(endpoints, "public/instruments", _INSTRUMENTS_WEIGHT, [("instType", type_)])


def book_request(endpoints: Endpoints, symbol: str, levels: int = _MOST_LEVELS) -> HttpRequest:
    """Ask for a book snapshot of up to 400 levels a side."""
    if not 1 <= levels <= _MOST_LEVELS:
        raise UsageError(f"{VENUE}: {levels} levels are not between 1 and {_MOST_LEVELS}")
    return _request(endpoints, "market/books", _BOOK_WEIGHT, [("instId", symbol), ("sz", levels)])


def trades_request(endpoints: Endpoints, symbol: str, *, limit: int = 500) -> HttpRequest:
    """Ask for the newest trades, 500 at most."""
    if not 1 <= limit <= 500:
        raise UsageError(f"{VENUE}: limit {limit} of trades is not between 1 and 500")
    return _request(endpoints, "market/trades", _TRADES_WEIGHT, [("instId", symbol), ("limit", limit)])


def history_trades_request(
    endpoints: Endpoints, symbol: str, *, before_id: int | None = None, before_time: int | None = None
) -> HttpRequest:
    """Ask for the 100 newest trades before an id (exclusive) or before a time in ns (rounded up to ms).

    The exchange's word for "older than" is ``after``; ``type`` says whether it is an id (1) or a time (2).
    """
    if (before_id is None) == (before_time is None):
        raise UsageError(f"{VENUE}: history-trades takes an id or a time")
    at = [("type", 1), ("after", before_id)] if before_id is not None else [("type", 2), ("after", _ms_up(before_time))]
    parameters: list[tuple[str, Any]] = [("instId", symbol), *at, ("limit", PAGE)]
    return _request(endpoints, "market/history-trades", _HISTORY_WEIGHT, parameters)


def candles_request(endpoints: Endpoints, symbol: str, interval: str, *, before_time: int) -> HttpRequest:
    """Ask for the 100 newest candles that open before a time in ns (rounded up to ms)."""
    bar = BARS.get(interval)
    if bar is None:
        raise UsageError(f"{VENUE} has no candles of {interval!r}", hint=f"one of {', '.join(BARS)}")
    parameters: list[tuple[str, str | int]] = [
        ("instId", symbol),
        ("bar", bar),
        ("after", _ms_up(before_time)),
        ("limit", PAGE),
    ]
    return _request(endpoints, "market/history-candles", _HISTORY_WEIGHT, parameters)


def _ms_up(ns: int | None) -> int:
    assert ns is not None
    return -(-ns // 1_000_000)


# Bodies


class _Envelope(Struct):
    code: str
    data: msgspec.Raw
    msg: str = ""


class _Book(Struct):
    asks: list[Level]
    bids: list[Level]
    ts: Time
    seqId: Id | None = None  # added later


class _TradeRow(TradeRow, forbid_unknown_fields=False):
    """REST rows are TradeRow without a promise that no key is added."""


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_BOOKS: Final = msgspec.json.Decoder(list[_Book], strict=False)
_TRADES: Final = msgspec.json.Decoder(list[_TradeRow], strict=False)
_TRADE_TEXTS: Final = msgspec.json.Decoder(list[dict[str, Any]])
_CANDLES: Final = msgspec.json.Decoder(list[CandleRow], strict=False)


def _decode(decoder: Any, body: bytes, what: str) -> tuple[Any, msgspec.Raw]:
    try:
        envelope = _ENVELOPE.decode(body)
        if envelope.code != "0":
            raise ProtocolError(f"{VENUE} {what}: error {envelope.code}: {envelope.msg[:_CHARACTERS]}")
        return decoder.decode(envelope.data), envelope.data
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise ProtocolError(f"{VENUE} {what} is not in the known form: {text}") from error


def parse_book(body: bytes, levels: int = _MOST_LEVELS) -> ParsedBook:
    """Parse a book snapshot that was asked for with so many levels; raises ProtocolError.

    A body without ``seqId`` (traffic of 2022) has the id -1.
    """
    books: list[_Book] = _decode(_BOOKS, body, "book")[0]
    if len(books) != 1:
        raise ProtocolError(f"{VENUE} book holds {len(books)} books")
    book = books[0]
    complete = len(book.bids) < levels and len(book.asks) < levels
    id_ = -1 if book.seqId is None else book.seqId
    return ParsedBook(id_, pairs(book.bids), pairs(book.asks), to_ns(book.ts), complete)


def parse_trades(symbol: str, body: bytes, now: int) -> list[Trade]:
    """Parse trades or history-trades, newest first as they come; raises ProtocolError."""
    rows, raw = _decode(_TRADES, body, "trades")
    texts = _TRADE_TEXTS.decode(raw)
    trades = []
    for r, text in zip(rows, texts, strict=True):
        if r.instId != symbol:
            raise ProtocolError(f"{VENUE}: asked for trades of {symbol}, got {r.instId}")
        flags = REST | inexact_flag(str(text["px"]), str(text["sz"]))
        trades.append(Trade(to_ns(r.ts), now, VENUE, symbol, str(r.tradeId), r.tradeId, r.px, r.sz, r.side, flags))
    return trades


def candle(
    row: CandleRow, symbol: str, interval: str, *, spot: bool, ts_event: int, now: int, final: bool, flags: int
) -> Candle:
    """Make the record of a row; raises ValueError for a time that opens no interval or a missing price.

    ``volume`` is in the instrument's own unit: base asset on spot, contracts else. What the exchange does not
    tell is unknown: the number of trades (-1), the takers' part (NaN), and in traffic of 2022 the quote volume
    of derivatives (NaN).
    """
    opened = to_ns(row.ts)
    start, close = interval_bounds(opened, interval)
    if start != opened:
        raise ValueError(f"{row.ts} does not open an interval of {interval}")
    texts = (row.open, row.high, row.low, row.close, row.volume)
    if not all(texts):
        raise ValueError("a candle without a price or volume")
    quote_text = row.volume_quote or (row.volume_ccy if spot else "")
    quote_volume = number(quote_text) if quote_text else nan
    o, h, l, c, v = map(number, texts)  # noqa: E741
    return Candle(
        opened, close, ts_event, now, VENUE, symbol, interval, "exchange", "final" if final else "provisional",
        o, h, l, c, v, quote_volume, -1, nan, nan, flags | inexact_flag(*texts, quote_text),
    )  # fmt: skip


def parse_candles(symbol: str, interval: str, body: bytes, now: int) -> list[Candle]:
    """Parse history-candles, newest first as they come; raises ProtocolError.

    A candle is final when the exchange says so and its interval is over.
    """
    rows: list[CandleRow] = _decode(_CANDLES, body, "candles")[0]
    candles = []
    for r in rows:
        try:
            opened, close = interval_bounds(to_ns(r.ts), interval)
            final = r.confirm != "0" and close <= now
            ts = close if final else max(opened, min(now, close))
            # REST rows have all columns, so that the kind of market does not matter here.
            candles.append(candle(r, symbol, interval, spot=False, ts_event=ts, now=now, final=final, flags=REST))
        except (ValueError, CmdError) as error:
            raise ProtocolError(f"{VENUE} candles of {symbol}: {error}") from error
    return candles


# Responses


class _Error(Struct):
    code: str | int
    msg: str = ""


_ERROR: Final = msgspec.json.Decoder(_Error)
_RATE_LIMITED: Final = ("50011", "50061")
_UNAVAILABLE: Final = ("50001", "50004", "50005", "50013", "50026")
_UNKNOWN_INSTRUMENT: Final = ("51001", "51014", "51015")


def check(response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success.

    Errors arrive as ``{"code": "51001", "msg": ...}`` with HTTP 200 as well as with other statuses; a body
    that is no such thing is left to its parser. A 404 of a bulk file is for its reader to judge.
    """
    status = response.status
    where = f"{VENUE}: {urlsplit(url).path or url}"
    code = said = ""
    # Successful bodies are large and begin with code 0: only the head is looked at.
    if status != 200 or b'"code":"0"' not in response.body[:400].replace(b" ", b""):
        try:
            error = _ERROR.decode(response.body)
            code = str(error.code)
            said = f" ({code}: {' '.join(error.msg.split())[:_CHARACTERS]})"
        except (msgspec.MsgspecError, ValueError, RecursionError):
            code = said = ""
    if status == 200 and code in ("", "0"):
        return None
    if status in (418, 429) or code in _RATE_LIMITED:
        seconds = response.retry_after // _SECOND
        wait = f"waits {seconds} s before the next request" if seconds else "waits before the next request"
        return RateLimitError(
            f"{where}: the exchange is asked too often, HTTP {status}{said}",
            status=status if status != 200 else 429,
            retry_after=seconds * _SECOND,
            hint=wait,
        )
    if status in (403, 451):
        why = "does not serve this region" if status == 451 else "refuses this address (its firewall)"
        return BlockedError(
            f"{where}: the exchange {why}, HTTP {status}{said}",
            status=status,
            hint="connect from elsewhere with --proxy URL, or use another host with --endpoint URL",
        )
    if code in _UNAVAILABLE:
        return VenueError(
            f"{where}: the exchange is down for maintenance or too busy, HTTP {status}{said}",
            status=status if status >= 500 else 503,
            hint="tried again later it may work",
        )
    if code in _UNKNOWN_INSTRUMENT:
        return VenueError(
            f"{where}: the exchange does not know the instrument, HTTP {status}{said}",
            status=status if status != 200 else 404,
            hint="the command symbols lists what it trades",
        )
    if status >= 500:
        return VenueError(
            f"{where}: the exchange failed, HTTP {status}{said}", status=status, hint="tried again later it may work"
        )
    return VenueError(
        f"{where}: the exchange refused the request, HTTP {status}{said}", status=status if status != 200 else 400
    )
