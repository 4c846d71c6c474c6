"""Coinbase's past, read over REST: neither API publishes bulk files.

Rules: docs/exchanges/coinbase.md#history. Theory of operation of the three walks:

- **Trades of Coinbase Exchange** are found by id alone and come newest first, ``after=X`` being ids below X. A walk
  therefore first seeks the id at its end, by halving between id 1 and the newest one (about 20 requests for
  one trade each; ids rise by one from 1 on, so that half way between two ids lies an id), and then reads pages
  backwards until one begins before the walk. Cursors: empty the newest page, ``again:N`` that page once more when
  it may have come from a cache, ``seek:LOW:HIGH`` the trade half way is asked for (LOW is before the end or 0,
  HIGH behind it), ``after:ID`` a page.
- **Trades of Advanced Trade** are found by time in whole seconds and come newest first. A walk reads backwards: ``end:S``
  asks for what is at or before second S. The next page ends with the second in which the last one began,
  whose trades come once more and are dropped by their ids. A second that fills a whole page cannot be read
  to its end: what is missing of it is told, and the walk goes on before it.
- **Candles** are read forwards in windows of as many as one request gives: ``from:NS`` is the first open time,
  ``late:NS`` asks once more for a window that may have come from a cache.
"""

from __future__ import annotations

from typing import Final

from cmd_common.candles import interval_bounds
from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import Endpoints
from cmd_common.history import HistoryPage, HistorySource, Walk
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.records import Trade

from .instruments import Market
from .rest import candles_request, parse_candles, parse_trades, trades_request

__all__ = ["CoinbaseHistory"]

_SECOND: Final = 1_000_000_000
_DISORDER: Final = _SECOND  # times of neighbouring ids may be a little out of order
_CACHED: Final = 6 * _SECOND  # the newest trades may come from a cache that is so old
_CANDLES_CACHED: Final = 300 * _SECOND  # and candles of Coinbase Exchange, too


class CoinbaseHistory(HistorySource):
    """REST history of one API; see ``cmd_common.history.HistorySource``."""

    tables = ("trades", "candles")
    contiguous = True
    sparse_candles = True  # intervals without a trade are left out [D]

    def __init__(self, market: Market) -> None:
        self.market = market
        self.intervals = tuple(market.granularities)
        self._candle_cache = _CANDLES_CACHED if market.name == "exchange" else 0

    def reach(self, table: str, interval: str = "") -> int | None:
        """Everything that the exchange ever had: ids go back to 1."""
        return None

    # Requests

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The first request of a walk; raises UsageError for what the venue does not have."""
        if walk.table not in self.tables:
            raise UsageError(f"{self.market.venue} has no history of {walk.table}", hint="trades or candles")
        if walk.start >= walk.end:
            raise UsageError(f"{self.market.venue}: a walk must end after it starts")
        return self._request(walk, "", endpoints)

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The request for a cursor; raises ProtocolError for text that is none."""
        return self._request(walk, cursor, endpoints)

    def _request(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        market, symbol = self.market, walk.symbol
        if walk.table == "candles":
            start = self._candle_start(walk, cursor)
            end = self._window_end(walk, start)
            return candles_request(market, endpoints, symbol, walk.interval, start=start, end=end)
        kind, numbers = _cursor(cursor)
        if market.name == "advanced":
            # The window is asked for whole, so that a busy day's pages differ by their end only.
            end = numbers[0] * _SECOND if kind == "end" else walk.end
            return trades_request(market, endpoints, symbol, start=walk.start, end=end)
        if kind == "seek":
            low, high = numbers
            return trades_request(market, endpoints, symbol, after=(low + high) // 2 + 1, limit=1)
        return trades_request(market, endpoints, symbol, after=numbers[0] if kind == "after" else None)

    # Pages

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take the response to the request of ``cursor`` (empty: the first); raises ProtocolError."""
        if walk.table == "candles":
            return self._candles(walk, cursor, response.body, now)
        trades = parse_trades(self.market, walk.symbol, response.body, now)
        kind, numbers = _cursor(cursor)
        if self.market.name == "advanced":
            return self._by_time(walk, trades, numbers[0] if kind == "end" else None)
        ids = [t.trade_seq or 0 for t in trades]
        if ids != sorted(set(ids), reverse=True):
            raise ProtocolError(f"{self.market.venue}: a page of trades of {walk.symbol} is not newest first")
        if kind == "seek":
            return self._seek(walk, trades, *numbers)
        newest = kind in ("", "again")
        if newest and trades and trades[0].ts_event < walk.end + _DISORDER:
            if walk.end <= now < walk.end + _CACHED:
                # Trades before the end may not be in the cached page yet.
                again = numbers[0] + 1 if kind else 1
                return HistoryPage((), f"again:{again}", wait=walk.end + _CACHED - now)
        elif newest and trades and ids[0] > self.market.max_trades:
            if trades[-1].ts_event >= walk.end + _DISORDER:
                return HistoryPage((), _seek_cursor(0, ids[-1], self.market.max_trades))
        elif kind == "after" and trades and ids[0] >= numbers[0]:
            raise ProtocolError(f"{self.market.venue}: trades after {numbers[0]} came with id {ids[0]}")
        return HistoryPage(_within(walk, trades), self._older(walk, trades, ids))

    def _older(self, walk: Walk, trades: list[Trade], ids: list[int]) -> str | None:
        """The cursor of the page before, None where it would be before the walk or before the first trade."""
        if not trades or trades[-1].ts_event < walk.start - _DISORDER or ids[-1] <= 1:
            return None
        return f"after:{ids[-1]}"

    def _seek(self, walk: Walk, trades: list[Trade], low: int, high: int) -> HistoryPage:
        """Halve the ids between one before the end and one behind it."""
        middle = (low + high) // 2
        found = trades[0].trade_seq if trades else None
        if found is not None and found > middle:
            raise ProtocolError(f"{self.market.venue}: the trade at or below {middle} came with id {found}")
        if found is None or found <= low:
            low = middle  # no trade has an id from low to here
        elif trades[0].ts_event >= walk.end + _DISORDER:
            high = found
        else:
            low = middle
        return HistoryPage((), _seek_cursor(low, high, self.market.max_trades))

    def _by_time(self, walk: Walk, trades: list[Trade], second: int | None) -> HistoryPage:
        """A page of Advanced Trade: what is at or before a second, newest first.

        How many rows a page has at most is not published, so a short page is no proof that it is the last.
        """
        records = _within(walk, trades)
        if not trades:
            return HistoryPage(records, None)
        oldest = min(t.ts_event for t in trades)
        if oldest < walk.start:
            return HistoryPage(records, None)
        asked = second if second is not None else -(-walk.end // _SECOND)
        following = oldest // _SECOND + 1
        lost, span = "", None
        if following >= asked:  # all of the page lies in the last second: go on before it
            following = min(oldest // _SECOND, asked - 1)
            if len(trades) >= self.market.max_trades:
                lost, span = "more trades in one second than a page has", (following * _SECOND, oldest)
        cursor = f"end:{following}" if following * _SECOND >= walk.start else None
        return HistoryPage(records, cursor, lost=lost, lost_span=span)

    # Candles

    def _candle_start(self, walk: Walk, cursor: str) -> int:
        if cursor:
            kind, numbers = _cursor(cursor)
            if kind not in ("from", "late"):
                raise ProtocolError(f"{self.market.venue}: {cursor[:40]!r} is no cursor of candles")
            return numbers[0]
        if walk.interval not in self.intervals:
            known = ", ".join(self.intervals)
            raise UsageError(f"{self.market.venue} has no candles of {walk.interval!r}", hint=f"one of {known}")
        opened, closed = interval_bounds(walk.start, walk.interval)
        return opened if opened == walk.start else closed

    def _window_end(self, walk: Walk, start: int) -> int:
        """The last open time that is asked for, at most a page of them and within the walk."""
        opened, closed = interval_bounds(start, walk.interval)
        length = closed - opened
        return min(start + (self.market.max_candles - 1) * length, max(start, (walk.end - 1) // length * length))

    def _candles(self, walk: Walk, cursor: str, body: bytes, now: int) -> HistoryPage:
        start = self._candle_start(walk, cursor)
        end = self._window_end(walk, start)
        opened, closed = interval_bounds(end, walk.interval)
        following = opened + (closed - opened)
        fresh = min(following, walk.end) + self._candle_cache
        if self._candle_cache and following <= now < fresh and not cursor.startswith("late:"):
            # The last candles of the window may be as old as the cache, from before they were over.
            return HistoryPage((), f"late:{start}", wait=fresh - now)
        candles = parse_candles(self.market, walk.symbol, walk.interval, body, now)
        # Some rows may precede the window [D]; unfinished ones are no history yet.
        kept = tuple(c for c in candles if walk.start <= c.open_time < walk.end and c.state == "final")
        more = following < walk.end and following < now
        return HistoryPage(kept, f"from:{following}" if more else None)


def _within(walk: Walk, trades: list[Trade]) -> tuple[Trade, ...]:
    return tuple(t for t in trades if walk.start <= t.ts_event < walk.end)


def _seek_cursor(low: int, high: int, page: int) -> str:
    """Go on halving while more than a page lies between; then read the page that ends below ``high``."""
    return f"seek:{low}:{high}" if high - low > page else f"after:{high}"


def _cursor(text: str) -> tuple[str, list[int]]:
    """Split a cursor into its kind and numbers; raises ProtocolError for text that is none."""
    if not text:
        return "", []
    kind, *rest = text.split(":")
    count = {"seek": 2, "after": 1, "end": 1, "from": 1, "again": 1, "late": 1}.get(kind)
    if count != len(rest) or not all(r.isascii() and r.isdigit() for r in rest):
        raise ProtocolError(f"{text[:40]!r} is no cursor of this exchange")
    return kind, [int(r) for r in rest]
