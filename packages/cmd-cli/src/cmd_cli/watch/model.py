"""What ``watch`` knows: the last trades, candles and quote of each instrument, beside the live books."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from cmd_common.orderbook import OrderBook
from cmd_common.records import AggTrade, Candle, FeedStatus, Quote, Record, Trade, full_name

__all__ = ["Market", "View"]

_TRADES: Final = 200
_CANDLES: Final = 200


class Market:
    """One instrument. ``count`` counts its trades since the start, ``seen`` is when a record last came, ns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.trades: deque[Trade | AggTrade] = deque(maxlen=_TRADES)
        self.candles: dict[str, dict[int, Candle]] = {}  # interval -> open time -> candle
        self.quote: Quote | None = None
        self.status = ""
        self.count = 0
        self.seen = 0

    def add(self, record: Record, now: int) -> None:
        """Take one record of this instrument. O(1)."""
        self.seen = now
        if isinstance(record, Trade | AggTrade):
            self.trades.append(record)
            self.count += 1
        elif isinstance(record, Quote):
            self.quote = record
        elif isinstance(record, Candle):
            candles = self.candles.setdefault(record.interval, {})
            candles[record.open_time] = record
            if len(candles) > _CANDLES:
                del candles[min(candles)]

    def last_candles(self, limit: int) -> list[Candle]:
        """Candles of the shortest recorded interval, newest first."""
        if not self.candles or limit <= 0:
            return []
        candles = min(self.candles.values(), key=lambda c: next(iter(c.values())).close_time - min(c))
        return [candles[t] for t in sorted(candles, reverse=True)[:limit]]


class View:
    """All instruments, the chosen one, and the states of connections."""

    def __init__(self, books: Mapping[str, OrderBook]) -> None:
        self.books = books
        self.markets: dict[str, Market] = {}
        self.connections: dict[str, str] = {}  # "venue connection" -> state
        self.chosen = 0
        self.ended = False
        self.records = 0
        self.sync()

    def sync(self) -> None:
        """Know every instrument that has a book, even before its first record."""
        for name in self.books:
            if name not in self.markets:
                self.markets[name] = Market(name)

    def apply(self, records: Sequence[Record], now: int) -> None:
        """Take records; ``now`` is our clock in ns."""
        self.records += len(records)
        for record in records:
            if isinstance(record, FeedStatus):
                self._status(record)
            elif symbol := getattr(record, "symbol", ""):
                self._market(full_name(getattr(record, "venue", ""), symbol)).add(record, now)

    def _status(self, record: FeedStatus) -> None:
        if record.symbol:
            self._market(full_name(record.venue, record.symbol)).status = record.state
        else:
            self.connections[f"{record.venue} {record.connection}"] = record.state

    def _market(self, name: str) -> Market:
        market = self.markets.get(name)
        if market is None:
            market = self.markets[name] = Market(name)
        return market

    @property
    def names(self) -> list[str]:
        """Full names in the order in which they are shown."""
        return list(self.markets)

    @property
    def current(self) -> Market | None:
        """The chosen instrument."""
        names = self.names
        return self.markets[names[self.chosen % len(names)]] if names else None

    def step(self, by: int) -> None:
        """Choose the next or previous instrument."""
        if self.markets:
            self.chosen = (self.chosen + by) % len(self.markets)

    def choose(self, index: int) -> None:
        """Choose by position; out of range changes nothing."""
        if 0 <= index < len(self.markets):
            self.chosen = index

    def state(self, name: str) -> str:
        """The book's state; without a book that of the venue's connection."""
        if self.ended:
            return "ENDED"
        book = self.books.get(name)
        if book is not None:
            return book.state.name
        venue = name.partition(":")[0]
        states = [s for key, s in self.connections.items() if key.split(" ")[0] == venue]
        if not states:
            return "CONNECTING"
        return "LIVE" if all(s == "connected" for s in states) else "STALE"
