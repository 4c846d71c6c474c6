"""The naive merge of single books, written without looking at how AggregatedOrderBook does it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.sequence import BookState

Merged = list[tuple[float, float, list[tuple[str, float, float]]]]  # price, sum, (name, own price, base quantity)


@dataclass
class Single:
    book: OrderBook
    instrument: Instrument
    bps: float = 0.0
    asset: str = ""
    seen: int | None = None


@dataclass
class Naive:
    max_age: int | None
    singles: dict[str, Single] = field(default_factory=dict)
    rates: dict[str, tuple[float, float, int] | str] = field(default_factory=dict)
    now: int = 0

    def reason(self, one: Single) -> str:
        if one.book.state is not BookState.LIVE:
            return one.book.state.name.lower()
        if self.max_age is not None and one.seen is None:
            return "no update"
        if self.max_age is not None and one.seen is not None and self.now - one.seen > self.max_age:
            return "old"
        if one.asset:
            rate = self.rates.get(one.asset, "none")
            if isinstance(rate, str):
                return f"rate of {one.asset}: {rate}"
            if self.max_age is not None and self.now - rate[2] > self.max_age:
                return f"rate of {one.asset}: old"
        return ""

    def excluded(self) -> dict[str, str]:
        return {name: why for name, one in self.singles.items() if (why := self.reason(one))}

    def merged(self, bid: bool) -> Merged:
        levels: dict[float, list[tuple[str, float, float]]] = {}
        for name, one in self.singles.items():
            if self.reason(one):
                continue
            sign = -1 if bid else 1
            factor = 1.0 + sign * (one.bps / 10_000)
            if one.asset:
                rate = self.rates[one.asset]
                assert not isinstance(rate, str)
                factor = rate[0 if bid else 1] * factor
            for price, quantity in one.book.bids() if bid else one.book.asks():
                part = (name, price, one.instrument.base_quantity(price, quantity))
                levels.setdefault(price * factor, []).append(part)
        found = []
        for price in sorted(levels, reverse=bid):
            total = 0.0
            for _, _, quantity in levels[price]:
                total += quantity
            found.append((price, total, levels[price]))
        return found

    def fill(self, side: str, size: float) -> tuple[float, float, dict[str, float], float | None]:
        left, cost, worst = size, 0.0, None
        venues: dict[str, float] = {}
        for price, _, parts in self.merged(side == "sell"):
            for name, _, quantity in parts:
                if left > 0 and quantity > 0:
                    taken = min(left, quantity)
                    left -= taken
                    cost += taken * price
                    venues[name] = venues.get(name, 0.0) + taken
                    worst = price
        return left, cost, venues, worst
