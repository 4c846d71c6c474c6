"""Numbers, candles and aggregate trades as Binance forms them, for the emulator; all in integers.

A trade is a ``MarketTrade``: price and quantity count the last decimal of ``Numbers``. The third amount is
the quote quantity on spot and USD-M and the base quantity on COIN-M, where quantities are contracts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from cmd_common.candles import interval_bounds
from cmd_common.simulation import MarketTrade, decimal_text

from .instruments import Market

__all__ = ["Agg", "Bar", "KlineStreams", "KlineUpdate", "Numbers", "aggregate", "build_bars"]

_LATE: Final = 500_000_000  # a recording's channels are not ordered: a candle waits so long for its last trades


class Numbers:
    """How one symbol's prices, quantities and amounts are written."""

    def __init__(self, market: Market, price_decimals: int, quantity_decimals: int, contract_size: int = 0) -> None:
        self.price_decimals = price_decimals
        self.quantity_decimals = quantity_decimals
        self.contract_size = contract_size
        # Spot always writes eight decimals.
        self._price_pad = "0" * max(0, 8 - price_decimals) if market.name == "spot" else ""
        self._quantity_pad = "0" * max(0, 8 - quantity_decimals) if market.name == "spot" else ""
        if market.name == "spot" and not quantity_decimals:
            self._quantity_pad = "." + self._quantity_pad
        self.amount_decimals = 8 if contract_size else price_decimals + quantity_decimals
        self._spot = market.name == "spot"

    def price(self, value: int) -> str:
        """Write a price."""
        return decimal_text(value, self.price_decimals) + self._price_pad

    def quantity(self, value: int) -> str:
        """Write a quantity."""
        return decimal_text(value, self.quantity_decimals) + self._quantity_pad

    def amount(self, price: int, quantity: int) -> int:
        """Return the quote (COIN-M: base) quantity of a trade, in units of ``10**-amount_decimals``."""
        if self.contract_size:
            scaled: int = quantity * self.contract_size * 10 ** (8 + self.price_decimals)
            return (2 * scaled + price) // (2 * price)
        return price * quantity

    def amount_text(self, value: int) -> str:
        """Write a quote (COIN-M: base) quantity with at most eight decimals."""
        decimals = self.amount_decimals
        if decimals > 8:
            value //= 10 ** (decimals - 8)
            decimals = 8
        text = decimal_text(value, decimals)
        if self._spot and decimals < 8:
            text += ("" if decimals else ".") + "0" * (8 - decimals)
        return text


class Agg(Struct, frozen=True, gc=False):
    """An aggregate trade: fills of one order at one price."""

    id: int
    ts: int
    price: int
    quantity: int
    first_id: int
    last_id: int
    buyer_maker: bool


def aggregate(trades: Iterable[MarketTrade], next_id: int) -> list[Agg]:
    """Join following trades of one instant, price and side; ids rise by one from ``next_id``."""
    result: list[Agg] = []
    group: list[MarketTrade] = []

    def close() -> None:
        if group:
            first = group[0]
            total = sum(t.quantity for t in group)
            number = next_id + len(result)
            result.append(Agg(number, first.ts, first.price, total, first.id, group[-1].id, first.buyer_maker))

    for t in trades:
        if group:
            g = group[0]
            if (t.ts, t.price, t.buyer_maker) != (g.ts, g.price, g.buyer_maker) or t.id != group[-1].id + 1:
                close()
                group = []
        group.append(t)
    close()
    return result


class Bar(Struct):
    """One candle in integers; ids are -1 where it holds no trade."""

    open_time: int
    close_time: int  # exclusive
    open: int
    high: int
    low: int
    close: int
    first_id: int = -1
    last_id: int = -1
    volume: int = 0
    amount: int = 0
    count: int = 0
    buy_volume: int = 0
    buy_amount: int = 0

    def add(self, trade: MarketTrade, amount: int) -> None:
        """Take one trade."""
        price = trade.price
        if not self.count:
            self.open = self.high = self.low = price
            self.first_id = trade.id
        elif price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.last_id = trade.id
        self.count += 1
        self.volume += trade.quantity
        self.amount += amount
        if not trade.buyer_maker:
            self.buy_volume += trade.quantity
            self.buy_amount += amount


def _empty(ts: int, interval: str, price: int) -> Bar:
    start, end = interval_bounds(ts, interval)
    return Bar(start, end, price, price, price, price)


def build_bars(
    trades: Iterable[MarketTrade],
    interval: str,
    numbers: Numbers,
    *,
    start: int | None = None,
    close: int | None = None,
) -> list[Bar]:
    """Build candles; between the first and the last, intervals without trades are filled with the last price.

    With ``start`` and ``close`` (a time and the price before it) filling begins there.
    """
    result: list[Bar] = []
    bar = _empty(start, interval, close) if start is not None and close is not None else None
    for t in trades:
        if bar is None:
            bar = _empty(t.ts, interval, t.price)
        while t.ts >= bar.close_time:
            result.append(bar)
            bar = _empty(bar.close_time, interval, bar.close)
        bar.add(t, numbers.amount(t.price, t.quantity))
    if bar is not None and bar.count:
        result.append(bar)
    return result


class KlineUpdate(Struct, frozen=True):
    """A candle as it is sent now."""

    interval: str
    bar: Bar
    closed: bool
    ts: int  # event time


class KlineStreams:
    """The candles that somebody subscribed: pushed every 2 s (1s ones: every second) and when they close."""

    def __init__(self, *, late: bool) -> None:
        self._late = _LATE if late else 0
        self.active: dict[tuple[str, str], Bar | None] = {}
        self._changed: set[tuple[str, str]] = set()
        self._pushed = 0

    def activate(self, symbol: str, interval: str, bar: Bar | None) -> None:
        """Begin a stream with the candle so far."""
        if (symbol, interval) not in self.active:
            self.active[symbol, interval] = bar
            if bar is not None:
                self._changed.add((symbol, interval))

    def trade(self, trade: MarketTrade, amount: int, clock: int) -> list[tuple[str, KlineUpdate]]:
        """Take a trade; returns candles that it closes."""
        result: list[tuple[str, KlineUpdate]] = []
        for key, bar in self.active.items():
            if key[0] != trade.symbol:
                continue
            if bar is None:
                bar = _empty(trade.ts, key[1], trade.price)
            while trade.ts >= bar.close_time:
                result.append((key[0], KlineUpdate(key[1], bar, True, clock)))
                bar = _empty(bar.close_time, key[1], bar.close)
            if trade.ts >= bar.open_time:
                bar.add(trade, amount)
                self._changed.add(key)
            self.active[key] = bar
        return result

    def tick(self, clock: int) -> list[tuple[str, KlineUpdate]]:
        """Return what is due at an event time: closed candles, and the changed ones."""
        result: list[tuple[str, KlineUpdate]] = []
        for key, bar in self.active.items():
            while bar is not None and bar.close_time + self._late <= clock:
                result.append((key[0], KlineUpdate(key[1], bar, True, clock)))
                bar = _empty(bar.close_time, key[1], bar.close)
                self.active[key] = bar
                self._changed.discard(key)
        slow = clock // 2_000_000_000 != self._pushed // 2_000_000_000
        self._pushed = max(clock, self._pushed)
        for key in sorted(self._changed):
            bar = self.active[key]
            if bar is not None and (slow or key[1] == "1s"):
                result.append((key[0], KlineUpdate(key[1], copy.copy(bar), False, clock)))
                self._changed.discard(key)
        return result

    def flush(self, clock: int) -> list[tuple[str, KlineUpdate]]:
        """Return every candle that changed since it was pushed."""
        result = []
        for key in sorted(self._changed):
            bar = self.active[key]
            if bar is not None:
                result.append((key[0], KlineUpdate(key[1], copy.copy(bar), False, clock)))
        self._changed.clear()
        return result
