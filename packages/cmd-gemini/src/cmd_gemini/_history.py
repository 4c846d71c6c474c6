"""Gemini's REST history: trades of the last seven days, and the newest candles.

Theory of operation. Trades are read forwards. The first page is asked for by time, each next one by
``since_tid``, as one id less than the last trade had: so it must repeat that trade, and one that does not
has jumped over something. The documents do not say whether a full page holds the oldest or the newest trades
behind an id; ids have holes of their own and cannot tell. So the repeat decides: where it is missing from a
full page, the same place is asked for by time, and if that does not join either, the hole is reported.
The first page has nothing to repeat: if it is full, one trade is asked for from the same instant; it must be
the page's oldest one. Cursors:

    ""                        by time, from the start of the walk
    probe:MIN:FROM:MAX:TIME   is MIN the oldest trade from the start on? MAX ends the first page; their times in ns
    tid:LAST:TIME             behind LAST, which the page must repeat
    time:LAST:TIME            from the TIME of LAST on, which the page must repeat
"""

from __future__ import annotations

from typing import Final

from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import Endpoints
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse

from . import rest
from .instruments import INTERVALS, VENUE, interval_ns

__all__ = ["HISTORY", "GeminiHistory"]

_MS: Final = 1_000_000
_DAY: Final = 86_400_000_000_000
_WEEK: Final = 7 * _DAY
_CANDLES: Final = 1_500  # no more of them are ever expected in one answer


class GeminiHistory(HistorySource):
    """See ``cmd_common.history.HistorySource``."""

    tables: tuple[str, ...] = ("trades", "candles")
    intervals: tuple[str, ...] = INTERVALS
    contiguous = False  # ids rise, but are shared by all symbols
    sparse_candles = True  # whether an interval without a trade has a candle is not documented

    def reach(self, table: str, interval: str = "") -> int | None:
        """Trades: seven days. Candles: the newest ones only; their number is not documented, so this is generous."""
        return _WEEK if table == "trades" else max(_WEEK, _CANDLES * interval_ns(interval))

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The first request of a walk; raises UsageError for what Gemini does not have."""
        if walk.table == "candles":
            return rest.candles_request(endpoints, walk.symbol, walk.interval)
        if walk.table != "trades":
            raise UsageError(f"{VENUE} has no history of {walk.table}", hint="trades and candles")
        # "After" an instant: one unit earlier, whether that includes it or not.
        return rest.trades_request(endpoints, walk.symbol, timestamp=max(0, walk.start - _MS))

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The request for a cursor."""
        kind, numbers = _parse(cursor)
        if kind == "probe":
            return rest.trades_request(endpoints, walk.symbol, timestamp=max(0, walk.start - _MS), limit=1)
        if kind == "tid":
            return rest.trades_request(endpoints, walk.symbol, since_tid=max(0, numbers[0] - 1))
        return rest.trades_request(endpoints, walk.symbol, timestamp=max(0, numbers[1] - _MS))

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take the response to the request of ``cursor``; raises ProtocolError."""
        if walk.table == "candles":
            return _candles(walk, response, now)
        trades, rows = rest.parse_trades_page(walk.symbol, response.body, now)
        records = tuple(t for t in trades if walk.start <= t.ts_event < walk.end)
        full = len(rows) >= rest.MAX_TRADES
        if not cursor:
            if not full:
                return HistoryPage(records, None)
            (begin, first), (time, last) = rows[0], rows[-1]
            return HistoryPage(records, f"probe:{first}:{begin}:{last}:{time}")
        kind, numbers = _parse(cursor)
        if kind == "probe":
            first, begin, last, time = numbers
            after = None if time >= walk.end else f"tid:{last}:{time}"
            if not rows or rows[0][1] <= first:
                return HistoryPage((), after)
            lost = f"only the newest {rest.MAX_TRADES} trades are given"
            return HistoryPage((), after, lost=lost, lost_span=(walk.start, min(begin, walk.end)))
        known, known_time = numbers
        records = tuple(t for t in records if t.trade_seq is None or t.trade_seq > known)
        if not full:
            return HistoryPage(records, None)
        time, last = rows[-1]
        joined = any(tid <= known for _, tid in rows)
        if not joined and kind == "tid":
            return HistoryPage(records, f"time:{known}:{known_time}")
        if last <= known:
            # More trades in one millisecond than fit a page: their end can only be reached by id.
            return HistoryPage(records, None if kind == "tid" else f"tid:{known}:{known_time}")
        # A feed that answers ids with the newest page is read by time from there on.
        cursor = f"{kind if joined else 'tid'}:{last}:{time}"
        after = None if time >= walk.end else cursor
        if joined:
            return HistoryPage(records, after)
        lost = f"trades behind id {known} are not given: a page holds only {rest.MAX_TRADES}"
        return HistoryPage(records, after, lost=lost, lost_span=(known_time, min(rows[0][0], walk.end)))


def _parse(cursor: str) -> tuple[str, list[int]]:
    kind, *numbers = cursor.split(":")
    wanted = {"probe": 4, "tid": 2, "time": 2}.get(kind)
    if wanted != len(numbers) or not all(n.isascii() and n.isdigit() for n in numbers):
        raise ProtocolError(f"{VENUE}: {cursor!r} is no cursor of its history")
    return kind, [int(n) for n in numbers]


def _candles(walk: Walk, response: HttpResponse, now: int) -> HistoryPage:
    candles = rest.parse_candles(walk.symbol, walk.interval, response.body, now)
    records = tuple(c for c in candles if walk.start <= c.open_time < walk.end and c.state == "final")
    oldest = candles[0].open_time if candles else now
    short = walk.start + interval_ns(walk.interval) <= oldest
    if not short:
        return HistoryPage(records, None)
    lost = f"only the newest {len(candles)} candles of {walk.interval} are given"
    return HistoryPage(records, None, lost=lost, lost_span=(walk.start, min(oldest, walk.end)))


HISTORY: Final = GeminiHistory()
