"""Kraken's REST history: trades from the first one on, and the last 720 candles.

Rules: docs/exchanges/kraken.md#history. ``Trades`` goes forward in time: ``since`` (ns) is the place to
go on from and the answer's ``last`` the next one. A page may end between trades of one moment, and
whether ``since`` itself is contained is not confirmed: every further request begins one ns before
``last``, and trades up to the last id that was seen are left out.
"""

from __future__ import annotations

from typing import Final

from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import Endpoints
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse

from .instruments import INTERVALS, MINUTES, VENUE
from .rest import OHLC_ROWS, TRADES_A_PAGE, ohlc_request, parse_ohlc, parse_trades, trades_request

__all__ = ["KrakenHistory"]

_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * _SECOND


class KrakenHistory(HistorySource):
    """Trades and candles over REST; see ``cmd_common.history.HistorySource``.

    The cursor of trades is ``since:id`` with the id of the last trade that was seen (-1: none);
    candles are one page.
    """

    tables = ("trades", "candles")
    intervals = INTERVALS
    contiguous = True
    sparse_candles = True  # whether an interval without a trade has a row is not confirmed

    def reach(self, table: str, interval: str = "") -> int | None:
        """Trades: all of them. Candles: 720 intervals, of which the last one is not over."""
        if table == "trades":
            return None
        return (OHLC_ROWS - 1) * MINUTES[interval or "1m"] * _MINUTE

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The request for the first page; raises UsageError."""
        if walk.table == "trades":
            return trades_request(endpoints, walk.symbol, since=walk.start - 1)
        if walk.table == "candles":
            return ohlc_request(endpoints, walk.symbol, walk.interval, since=walk.start - 1)
        raise UsageError(f"{VENUE} has no history of {walk.table}", hint=f"one of {', '.join(self.tables)}")

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The request for a cursor."""
        since, _ = _cursor(cursor)
        return trades_request(endpoints, walk.symbol, since=since)

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take one response; raises ProtocolError."""
        if walk.table == "candles":
            return self._candles(walk, response.body, now)
        since, seen = _cursor(cursor) if cursor else (walk.start - 1, -1)
        page = parse_trades(walk.symbol, response.body, now)
        trades = page.trades
        records = tuple(t for t in trades if (t.trade_seq or 0) > seen and walk.start <= t.ts_event < walk.end)
        newest = max((t.trade_seq or 0 for t in trades), default=-1)
        if not trades or trades[-1].ts_event >= walk.end:
            return HistoryPage(records, None)
        if newest > seen:
            return HistoryPage(records, f"{page.last - 1}:{newest}")
        if len(trades) < TRADES_A_PAGE:
            return HistoryPage(records, None)  # nothing behind what was seen, as yet
        # A whole page of one moment that was seen: the only way on is from behind that moment.
        if page.last <= since:
            raise ProtocolError(f"{VENUE}: Trades does not go on behind {since}")
        return HistoryPage(records, f"{page.last}:{seen}")

    def _candles(self, walk: Walk, body: bytes, now: int) -> HistoryPage:
        candles = parse_ohlc(walk.symbol, walk.interval, body, now)
        inside = tuple(c for c in candles if c.state == "final" and walk.start <= c.open_time < walk.end)
        length = MINUTES[walk.interval] * _MINUTE
        earliest = candles[0].open_time if candles else walk.start
        if len(candles) >= OHLC_ROWS and earliest >= walk.start + length:
            # A full answer that begins behind the walk's start: older ones are gone.
            lost = f"the exchange keeps {OHLC_ROWS} candles of an interval"
            return HistoryPage(inside, None, lost=lost, lost_span=(walk.start, min(earliest, walk.end)))
        return HistoryPage(inside, None)


def _cursor(text: str) -> tuple[int, int]:
    since, _, seen = text.partition(":")
    try:
        return int(since), int(seen)
    except ValueError:
        raise UsageError(f"{VENUE}: {text[:40]!r} is no cursor of its history") from None
