"""Numbers and aggregate trades as Binance forms them, for the emulator; all in integers.

A trade is a ``MarketTrade``: price and quantity count the last decimal of ``Numbers``. The third amount is
the quote quantity on spot and USD-M and the base quantity on COIN-M, where quantities are contracts.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from cmd_common.simulation import MarketTrade, decimal_text
from cmd_common.venue_market import Bar, KlineStreams, KlineUpdate, build_bars

from .instruments import Market

__all__ = ["Agg", "Bar", "KlineStreams", "KlineUpdate", "Numbers", "aggregate", "build_bars"]


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
