"""exampex's REST interface as pure functions, and the walk through its history.

    GET /v1/instruments
    GET /v1/trades?symbol=S&since=MS&limit=500     oldest first, from a time on
    GET /v1/trades?symbol=S&from=ID&limit=500      oldest first, from an id on
    GET /v1/candles?symbol=S&interval=1m&since=MS&limit=500

Errors are ``{"error": "words"}`` with an HTTP status; 429 has ``Retry-After`` in seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Meta, Struct

from cmd_common.candles import interval_bounds
from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import REST, Candle, Record, Trade

from .instruments import VENUE

__all__ = ["INTERVALS", "PAGE", "CandleRow", "ExampexHistory", "TradeRow", "check", "make_candle"]

INTERVALS: Final = ("1m", "1h", "1d")
PAGE: Final = 500
_MS: Final = 1_000_000

_Price = Annotated[float, Meta(gt=0, lt=1e18)]
_Amount = Annotated[float, Meta(ge=0, lt=1e30)]
_Time = Annotated[int, Meta(ge=0, lt=9_200_000_000_000)]  # ms


class TradeRow(Struct, forbid_unknown_fields=True):
    """One trade, in a message or a page; ids rise by one."""

    id: Annotated[int, Meta(ge=0, lt=1 << 62)]
    price: _Price
    size: _Amount
    taker: Literal["buy", "sell"]
    time: _Time


class CandleRow(Struct, kw_only=True):
    """One candle, in a message or a page."""

    open_time: _Time
    open: _Price
    high: _Price
    low: _Price
    close: _Price
    volume: _Amount
    worth: _Amount
    count: Annotated[int, Meta(ge=0)]
    taker_buy_volume: _Amount
    taker_buy_worth: _Amount


class _Trades(Struct):
    trades: list[TradeRow]


class _Candles(Struct):
    candles: list[CandleRow]


_TRADES: Final = msgspec.json.Decoder(_Trades, strict=False)
_CANDLES: Final = msgspec.json.Decoder(_Candles, strict=False)


def make_candle(
    row: CandleRow,
    symbol: str,
    interval: str,
    state: Literal["final", "provisional"],
    ts: int,
    now: int,
    flags: int = 0,
) -> Candle:
    """Return the record of a candle."""
    open_time, close_time = interval_bounds(row.open_time * _MS, interval)
    return Candle(
        open_time, close_time, ts, now, VENUE, symbol, interval, "exchange", state, row.open, row.high, row.low,
        row.close, row.volume, row.worth, row.count, row.taker_buy_volume, row.taker_buy_worth, flags,
    )  # fmt: skip


def _decode(decoder: Any, body: bytes, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{VENUE}: {what} are not in the known form: {error}") from error


class ExampexHistory(HistorySource):
    """Trades forwards by id, candles forwards by time; see ``cmd_common.history``.

    The cursor is the id, or the open time in ms, that the next page begins with.
    """

    tables = ("trades", "candles")
    intervals = INTERVALS
    contiguous = True

    def reach(self, table: str, interval: str = "") -> int | None:
        """Everything that there ever was."""
        return None

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """From the walk's first moment on."""
        return self._ask(walk, "since", str(-(-walk.start // _MS)), endpoints)

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """From the cursor on."""
        return self._ask(walk, "from" if walk.table == "trades" else "since", cursor, endpoints)

    def _ask(self, walk: Walk, key: str, value: str, endpoints: Endpoints) -> HttpRequest:
        if walk.table not in self.tables:
            raise UsageError(f"{VENUE} gives no {walk.table} of the past")
        query = {"symbol": walk.symbol, key: value, "limit": str(PAGE)}
        if walk.table == "candles":
            query["interval"] = walk.interval
        return HttpRequest(f"{endpoints.rest}/v1/{walk.table}?{urlencode(query, quote_via=quote)}")

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take one page: the walk ends with a page that is not full or that reaches its end."""
        records: list[Record] = []
        if walk.table == "trades":
            trades: list[TradeRow] = _decode(_TRADES, response.body, "trades").trades
            times = [t.time * _MS for t in trades]
            for ts, t in zip(times, trades, strict=True):
                if walk.start <= ts < walk.end:
                    records.append(Trade(ts, now, VENUE, walk.symbol, str(t.id), t.id, t.price, t.size, t.taker, REST))
            following = str(trades[-1].id + 1) if trades else ""
        else:
            rows: list[CandleRow] = _decode(_CANDLES, response.body, "candles").candles
            times = [row.open_time * _MS for row in rows]
            for row in rows:
                candle = make_candle(row, walk.symbol, walk.interval, "final", row.open_time * _MS, now, REST)
                if walk.start <= candle.open_time < walk.end and candle.close_time <= now:
                    records.append(msgspec.structs.replace(candle, ts_event=candle.close_time))
            following = str(interval_bounds(times[-1], walk.interval)[1] // _MS) if times else ""
        full = len(times) >= PAGE and times[-1] < walk.end
        return HistoryPage(tuple(records), following if full else None)


class _Error(Struct):
    error: str = ""


def check(response: HttpResponse, url: str) -> VenueError | None:
    """Turn an error response into a typed error; None for success."""
    status = response.status
    if 200 <= status < 300:
        return None
    try:
        said = " ".join(msgspec.json.decode(response.body, type=_Error).error.split())[:200]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        said = ""
    words = f"{VENUE}: {urlsplit(url).path}: HTTP {status}{': ' if said else ''}{said}"
    if status in (418, 429):
        wait = response.retry_after
        return RateLimitError(words, status=status, retry_after=wait, hint="waits before the next request")
    if status in (403, 451):
        return BlockedError(words, status=status, hint="connect from elsewhere with --proxy URL")
    return VenueError(words, status=status)
