"""Binance's REST history, for what a recording missed: trades by id, aggregate trades, candles.

Whole days are better taken from the bulk files, which are checked. Rules: docs/exchanges.md#binance-rest. Trades
of futures need an API key and are not asked for. A place in the ids is found by the first aggregate trade of a window of time.
"""

from __future__ import annotations

from typing import Final

from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import Endpoints
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse

from . import rest
from .instruments import Market

__all__ = ["BinanceBackfill"]

_HOUR: Final = 3_600_000_000_000
_EARLY: Final = 10_000_000_000
_PAGE: Final = 1000
_REACH: Final = {"usdm": 48 * _HOUR, "coinm": 24 * _HOUR}  # of aggregate trades


class BinanceBackfill(HistorySource):
    """Trades (spot), aggregate trades and candles over REST; see ``cmd_common.history.HistorySource``.

    The cursor is ``t:NS``, a window of one hour that begins there, or ``id:N``, a page from that id on; of candles ``t:NS`` is
    where the next page begins.
    """

    contiguous = True

    def __init__(self, market: Market) -> None:
        self.tables = ("agg_trades", "candles") if market.futures else ("trades", "agg_trades", "candles")
        self.intervals = market.intervals
        self._market = market

    def reach(self, table: str, interval: str = "") -> int | None:
        """Everything, but for aggregate trades of futures."""
        return _REACH.get(self._market.name) if table == "agg_trades" else None

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The request for the first page; raises UsageError."""
        if walk.table not in self.tables:
            raise UsageError(
                f"{self._market.venue} gives no {walk.table} over REST", hint=f"one of {', '.join(self.tables)}"
            )
        # The aggregate that a first trade belongs to may be of a moment before it.
        early = _EARLY if walk.table == "trades" else 0
        return self.next(walk, f"t:{max(walk.start - early, 0)}", endpoints)

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The request for a cursor."""
        kind, number = _cursor(cursor)
        market, symbol = self._market, walk.symbol
        if walk.table == "candles":
            return rest.klines_request(market, endpoints, symbol, walk.interval, start=number, end=walk.end - 1)
        if kind == "t":
            limit = _PAGE if walk.table == "agg_trades" else 1
            return rest.agg_trades_request(
                market, endpoints, symbol, start=number, end=_window(walk, number) - 1, limit=limit
            )
        if walk.table == "agg_trades":
            return rest.agg_trades_request(market, endpoints, symbol, from_id=number)
        return rest.historical_trades_request(market, endpoints, symbol, from_id=number)

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take one response; raises ProtocolError."""
        early = _EARLY if walk.table == "trades" else 0
        kind, number = _cursor(cursor) if cursor else ("t", max(walk.start - early, 0))
        if walk.table == "candles":
            return self._candles(walk, response.body, now)
        if kind == "t" and walk.table == "trades":
            found = rest.parse_agg_trades(self._market, walk.symbol, response.body, now)
            return HistoryPage((), f"id:{found[0].first_trade_id}") if found else _on(walk, number)
        if walk.table == "trades":
            rows = rest.parse_trades(self._market, walk.symbol, response.body, now)
        else:
            rows = rest.parse_agg_trades(self._market, walk.symbol, response.body, now)  # type: ignore[assignment]
        inside = tuple(r for r in rows if walk.start <= r.ts_event < walk.end)
        if not rows:
            return _on(walk, number) if kind == "t" else HistoryPage((), None)
        last = rows[-1]
        if last.trade_seq is None or (kind == "id" and last.trade_seq < number):
            raise ProtocolError(f"{self._market.venue}: ids of {walk.symbol} do not go on from {number}")
        if len(rows) < _PAGE and kind == "t":
            return HistoryPage(inside, _on(walk, number).cursor)
        if len(rows) < _PAGE or last.ts_event >= walk.end:
            return HistoryPage(inside, None)
        return HistoryPage(inside, f"id:{last.trade_seq + 1}")

    def _candles(self, walk: Walk, body: bytes, now: int) -> HistoryPage:
        candles = rest.parse_klines(self._market, walk.symbol, walk.interval, body, now)
        inside = tuple(c for c in candles if c.state == "final" and walk.start <= c.open_time < walk.end)
        more = len(candles) >= _PAGE and candles[-1].close_time < walk.end
        return HistoryPage(inside, f"t:{candles[-1].close_time}" if more else None)


def _window(walk: Walk, start: int) -> int:
    """Where a window of time ends: an hour is what futures allow, less one unit of theirs."""
    return min(walk.end, start + _HOUR - 1_000_000)


def _on(walk: Walk, start: int) -> HistoryPage:
    """A window without a row: on to the next one."""
    end = _window(walk, start)
    return HistoryPage((), f"t:{end}" if end < walk.end else None)


def _cursor(text: str) -> tuple[str, int]:
    kind, _, number = text.partition(":")
    if kind not in ("t", "id") or not number.isdigit():
        raise UsageError(f"{text[:40]!r} is no cursor of Binance's history")
    return kind, int(number)
