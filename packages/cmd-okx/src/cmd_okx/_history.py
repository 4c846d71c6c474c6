"""REST history of OKX: trades backwards by id, candles backwards by time.

Rules: docs/exchanges/okx.md#history. A walk of trades begins with the page before its end by time
(``type=2``) and goes on by trade id (``type=1``), because many trades share one millisecond. Candles go by
their opening time, which is unique. Both answer newest first, and an empty page is the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cmd_common.errors import ProtocolError, UsageError
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import Record

from .instruments import INTERVALS, VENUE
from .rest import candles_request, history_trades_request, parse_candles, parse_trades

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

__all__ = ["OkxHistory"]

_DAY: Final = 86_400_000_000_000
_REACH: Final = 90 * _DAY  # "the last three months"


class OkxHistory(HistorySource):
    """Trades of the last three months, candles of years; see ``cmd_common.history.HistorySource``."""

    tables: tuple[str, ...] = ("trades", "candles")
    intervals: tuple[str, ...] = INTERVALS
    contiguous = True

    def reach(self, table: str, interval: str = "") -> int | None:
        """Three months of trades; of candles everything since listing."""
        return _REACH if table == "trades" else None

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The page before the walk's end; raises UsageError for another table or interval."""
        if walk.table == "trades":
            return history_trades_request(endpoints, walk.symbol, before_time=walk.end)
        if walk.table == "candles":
            return candles_request(endpoints, walk.symbol, walk.interval, before_time=walk.end)
        raise UsageError(f"{VENUE} has no history of {walk.table}", hint="trades or candles")

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The page before a trade id, or before an opening time in ms; raises UsageError for another cursor."""
        if not cursor.isascii() or not cursor.isdigit():
            raise UsageError(f"{VENUE}: cursor {cursor[:40]!r} is not a number")
        if walk.table == "trades":
            return history_trades_request(endpoints, walk.symbol, before_id=int(cursor))
        return candles_request(endpoints, walk.symbol, walk.interval, before_time=int(cursor) * 1_000_000)

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take one page; raises ProtocolError for a body in another form, or one that does not go back."""
        records: list[Record]
        if walk.table == "trades":
            trades = parse_trades(walk.symbol, response.body, now)
            if not trades:
                old = walk.start < now - _REACH
                return HistoryPage((), None, lost="the exchange keeps trades for three months" if old else "")
            records = [t for t in trades if walk.start <= t.ts_event < walk.end]
            at = min(int(t.trade_id) for t in trades)
            done = min(t.ts_event for t in trades) < walk.start or at == 0
        else:
            candles = parse_candles(walk.symbol, walk.interval, response.body, now)
            if not candles:
                return HistoryPage((), None)
            records = [c for c in candles if walk.start <= c.open_time < walk.end and c.state == "final"]
            at = min(c.open_time for c in candles) // 1_000_000
            done = at * 1_000_000 <= walk.start
        if cursor and at >= int(cursor):
            raise ProtocolError(f"{VENUE}: the page before {cursor} begins at {at}")
        return HistoryPage(tuple(records), None if done else str(at))
