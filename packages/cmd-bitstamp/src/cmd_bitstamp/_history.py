"""Bitstamp's REST history: trades of the last 24 hours, and candles of any age.

Theory of operation. Trades come as one answer with the whole last day; what is older is not to be had.
Candles are read forwards in windows of time that hold no more than one page: recorded answers show that
``start`` counts for nothing where a window holds more than a page. Cursor of candles: the next window's
first second.
"""

from __future__ import annotations

from typing import Final

from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import Endpoints
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse

from . import rest
from .instruments import INTERVALS, STEPS, VENUE

__all__ = ["HISTORY", "BitstampHistory"]

_SECOND: Final = 1_000_000_000
_DAY: Final = 86_400 * _SECOND


class BitstampHistory(HistorySource):
    """See ``cmd_common.history.HistorySource``."""

    tables: tuple[str, ...] = ("trades", "candles")
    intervals: tuple[str, ...] = INTERVALS
    contiguous = False  # ids rise, but are shared by all pairs
    sparse_candles = True  # whether an interval without a trade has a candle is not documented

    def reach(self, table: str, interval: str = "") -> int | None:
        """Trades: 24 hours. Candles: all of them."""
        return _DAY if table == "trades" else None

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The first request of a walk; raises UsageError for what Bitstamp does not have."""
        if walk.table == "trades":
            return rest.trades_request(endpoints, walk.symbol)
        if walk.table != "candles":
            raise UsageError(f"{VENUE} has no history of {walk.table}", hint="trades and candles")
        return _window(walk, _first_second(walk), endpoints)

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The request for a cursor."""
        return _window(walk, _number(cursor), endpoints)

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take the response to the request of ``cursor``; raises ProtocolError."""
        if walk.table == "trades":
            return _trades(walk, response, now)
        candles = rest.parse_candles(walk.symbol, walk.interval, response.body, now)
        begin = _number(cursor) if cursor else _first_second(walk)
        # Without enough of them in the window, older ones come too.
        records = tuple(c for c in candles if begin * _SECOND <= c.open_time < walk.end and c.state == "final")
        following = begin + rest.MAX_CANDLES * STEPS[walk.interval]
        over = following * _SECOND >= min(walk.end, now)
        return HistoryPage(records, None if over else str(following))


def _first_second(walk: Walk) -> int:
    return -(-walk.start // _SECOND)


def _number(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 12:
        raise ProtocolError(f"{VENUE}: {cursor!r} is no cursor of its history")
    return int(cursor)


def _window(walk: Walk, begin: int, endpoints: Endpoints) -> HttpRequest:
    if walk.interval not in STEPS:
        raise UsageError(f"{VENUE} has no candles of {walk.interval!r}", hint=f"one of {', '.join(INTERVALS)}")
    step = STEPS[walk.interval]
    last = max(begin, min(begin + rest.MAX_CANDLES * step, -(-walk.end // _SECOND)) - 1)
    limit = (last - begin) // step + 1
    return rest.candles_request(
        endpoints, walk.symbol, walk.interval, start=begin * _SECOND, end=last * _SECOND, limit=limit
    )


def _trades(walk: Walk, response: HttpResponse, now: int) -> HistoryPage:
    trades = rest.parse_trades(walk.symbol, response.body, now)
    records = tuple(t for t in trades if walk.start <= t.ts_event < walk.end)
    # A trade may have happened at any moment of the oldest second that is given.
    given = min(now - _DAY, trades[0].ts_event) if trades else now - _DAY
    if walk.start >= given:
        return HistoryPage(records, None)
    lost = "only the trades of the last 24 hours are given"
    return HistoryPage(records, None, lost=lost, lost_span=(walk.start, min(given, walk.end)))


HISTORY: Final = BitstampHistory()
