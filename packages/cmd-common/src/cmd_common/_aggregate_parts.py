"""The parts of an aggregated book: what readers get of it, and what it knows of each book and rate."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from math import inf
from typing import Final, Literal

from msgspec import Struct

from .instruments import Instrument
from .orderbook import OrderBook

__all__ = [
    "AggregatedLevel",
    "Crossing",
    "Fill",
    "Member",
    "Part",
    "Rate",
    "VenueStatus",
    "merge_parts",
    "pack",
    "scaled",
]

_BIG_ENDIAN: Final = sys.byteorder == "big"


class Part(Struct, frozen=True, gc=False):
    """What one venue has at a level: its own price, in its own quote asset and without fees; base quantity."""

    name: str  # venue:symbol
    price: float
    quantity: float


class AggregatedLevel(Struct, frozen=True):
    """One price of the merged book: with fees and conversion where they are set; ``quantity`` is the sum."""

    price: float
    quantity: float
    parts: tuple[Part, ...]  # in the order in which the books were added

    @property
    def names(self) -> tuple[str, ...]:
        """The books that are at this price; one that has two prices that became one is there twice."""
        return tuple(part.name for part in self.parts)


class Crossing(Struct, frozen=True):
    """The best bid is at (``locked``) or above the best ask, since ``since`` of our receive clock."""

    locked: bool
    since: int  # ns
    age: int  # ns
    bid: float
    ask: float
    bid_name: str
    ask_name: str


class Fill(Struct, frozen=True):
    """What it costs to buy or sell ``wanted`` of the base asset at once; prices as merged, so with fees."""

    side: Literal["buy", "sell"]
    wanted: float
    filled: float
    unfilled: float
    vwap: float | None  # None: nothing is there
    worst: float | None
    venues: dict[str, float]  # base quantity by venue:symbol, in the order of use
    known: bool  # every level used lies where all books are known to be complete


class VenueStatus(Struct, frozen=True):
    """One book as the aggregate sees it; ``reason`` is empty while it is in."""

    name: str
    reason: str
    age: int | None  # ns since it was last updated; None: never
    bid: float | None  # its best prices as merged, while it is in
    ask: float | None


class Member:
    """What the aggregate knows of one book."""

    __slots__ = (
        "ask",
        "ask_factor",
        "asset",
        "bid",
        "bid_factor",
        "book",
        "fee",
        "inverse",
        "name",
        "reason",
        "seen",
        "size",
    )

    def __init__(self, name: str, book: OrderBook, instrument: Instrument | None, fee: float, asset: str) -> None:
        self.name = name
        self.book = book
        self.size: float | None = None  # base (or, inverse, quote) asset of one contract
        self.inverse = False
        if instrument is not None and instrument.contract_size is not None:
            self.size = float(instrument.contract_size)
            self.inverse = instrument.inverse
        self.fee = fee  # as a fraction
        self.asset = asset  # that prices are converted from; empty: none
        self.seen: int | None = None
        self.reason = "new"
        self.bid = -inf  # best prices as merged; out of the book: the worst possible
        self.ask = inf
        self.bid_factor = 1.0 - fee
        self.ask_factor = 1.0 + fee

    def base(self, price: float, quantity: float) -> float:
        """The quantity in the base asset: the rule of ``Instrument.base_quantity``."""
        size = self.size
        if size is None:
            return quantity
        return quantity * size / price if self.inverse else quantity * size


class Rate:
    """A live price of one asset in another, or why there is none."""

    __slots__ = ("ask", "bid", "reason", "seen")

    def __init__(self) -> None:
        self.bid = self.ask = 0.0
        self.seen = 0
        self.reason = "none"


def merge_parts(price: float, parts: list[Part]) -> AggregatedLevel:
    """The level of all parts that are at one merged price."""
    total = 0.0
    for part in parts:
        total += part.quantity
    return AggregatedLevel(price, total, tuple(parts))


def scaled(
    book: OrderBook, bid: bool, depth: int | None, factor: float
) -> tuple[dict[float, list[float]], Mapping[float, float]]:
    """The best ``depth`` merged prices of a book whose prices are multiplied, each with the book's own prices.

    And a mapping that has the quantities of these.
    """
    more = None if depth is None else depth + 1
    prices, side = book.nearest(bid, more)
    own: dict[float, list[float]] = {}
    for price in prices:
        own.setdefault(price * factor, []).append(price)
    if more is not None and len(own) < len(prices) == more:
        # Rounding made one of two prices: how many are needed is not known before all are seen.
        return scaled(book, bid, None, factor)
    return own, side


def pack(levels: list[AggregatedLevel], index: Mapping[str, float]) -> bytes:
    """Pack levels as records carry them: price, quantity, index of the book, as little-endian float64."""
    flat = array("d")
    for level in levels:
        for part in level.parts:
            flat.extend((level.price, part.quantity, index[part.name]))
    if _BIG_ENDIAN:
        flat.byteswap()
    return flat.tobytes()
