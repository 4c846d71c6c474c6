"""Candles and number texts of emulated markets, all in integers; shared by every venue's emulator.

A trade is a ``MarketTrade``: price and quantity count the last decimal of its symbol's numbers.
"""

from __future__ import annotations

import copy
import gzip
import io
import zipfile
from collections.abc import Iterable
from decimal import Decimal
from typing import Final, Protocol

from msgspec import Struct

from .candles import interval_bounds
from .simulation import MarketTrade, decimal_text

__all__ = [
    "Amounts",
    "Bar",
    "KlineStreams",
    "KlineUpdate",
    "Numbers",
    "build_bars",
    "decimals_of",
    "gzip_bytes",
    "scaled",
    "trim",
    "zip_bytes",
]

_LATE: Final = 500_000_000  # a recording's channels are not ordered: a candle waits so long for its last trades


def decimals_of(text: str) -> int:
    """Return how many decimals a number's text has; exponents are resolved (``1E-8`` has eight)."""
    if "e" in text or "E" in text:
        exponent = Decimal(text).as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0
    return len(text.partition(".")[2])


def trim(text: str) -> str:
    """Return a number's text without trailing zeros after the point."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(text: str, decimals: int) -> int:
    """Return a number's text as a count of ``10**-decimals``, cut off beyond them."""
    return int(Decimal(text).scaleb(decimals))


def gzip_bytes(data: bytes) -> bytes:
    """Compress so that the same data gives the same bytes."""
    return gzip.compress(data, mtime=0)


def zip_bytes(name: str, data: bytes) -> bytes:
    """Return a zip with one member; the same data gives the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name, (2025, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


class Amounts(Protocol):
    """What candles must know of a symbol's numbers."""

    def amount(self, price: int, quantity: int) -> int:
        """Return the third amount of a trade: usually the quote quantity."""


class Numbers:
    """How one symbol's prices, quantities and amounts are written: with exactly its decimals.

    The amount of a trade is its quote quantity; of an inverse contract its base quantity, with eight decimals.
    """

    def __init__(
        self,
        price_decimals: int,
        quantity_decimals: int,
        contract_size: Decimal | None = None,
        *,
        inverse: bool = False,
    ) -> None:
        self.price_decimals = price_decimals
        self.quantity_decimals = quantity_decimals
        size = Decimal(1) if contract_size is None else contract_size
        self._size_decimals = decimals_of(format(size, "f"))
        self._size = int(size.scaleb(self._size_decimals))
        self._inverse = inverse
        self.amount_decimals = 8 if inverse else price_decimals + quantity_decimals + self._size_decimals

    def price(self, value: int) -> str:
        """Write a price."""
        return decimal_text(value, self.price_decimals)

    def quantity(self, value: int) -> str:
        """Write a quantity."""
        return decimal_text(value, self.quantity_decimals)

    def amount(self, price: int, quantity: int) -> int:
        """Return the amount of a trade in units of ``10**-amount_decimals``."""
        if self._inverse:
            scale: int = 10 ** (8 + self.price_decimals)
            unit: int = 10 ** (self.quantity_decimals + self._size_decimals)
            return (2 * quantity * self._size * scale + price * unit) // (2 * price * unit)
        return price * quantity * self._size

    def amount_text(self, value: int) -> str:
        """Write an amount."""
        return decimal_text(value, self.amount_decimals)


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
    numbers: Amounts,
    *,
    start: int | None = None,
    close: int | None = None,
    end: int | None = None,
) -> list[Bar]:
    """Build candles; between the first and the last, intervals without trades are filled with the last price.

    With ``start`` and ``close`` (a time and the price before it) filling begins there, with ``end`` it goes on until then.
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
    while bar is not None and (bar.count or (end is not None and bar.open_time < end)):
        result.append(bar)
        bar = _empty(bar.close_time, interval, bar.close)
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
