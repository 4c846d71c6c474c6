"""The book behind Kraken's checksum: levels with their texts, cut to the subscribed depth.

Rules: docs/exchanges/kraken.md#book. Messages have no sequence; the integrity of a book is the CRC32
that comes with it. It is computed after a message was applied and both sides were cut to the
subscribed depth: the exchange sends no removal for a level that another one pushed out. The text is

    for the 10 lowest asks, ascending, then for the 10 highest bids, descending:
        the price without its point and leading zeros, then the quantity likewise

``ChecksumBook`` keeps the digits of every level as they came, so that nothing is formatted. It says
what each message changes *with* the removals of pushed-out levels, so that the books and stores behind
it need no such rule.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from math import inf
from typing import Final
from zlib import crc32

from cmd_common.errors import UsageError

from ._text import decimal_digits

__all__ = ["CHECKED", "DEPTHS", "ChecksumBook", "Level", "TopSide", "book_depth", "level", "level_of_bytes"]

DEPTHS: Final = (10, 25, 100, 500, 1000)
"""The depths that can be subscribed."""

CHECKED: Final = 10
"""Levels a side that the checksum covers."""

Level = tuple[float, float, str]
"""Price, quantity and the digits of both for the checksum."""


def book_depth(wanted: int | None) -> int:
    """Return the depth to subscribe: ``wanted``, by default the deepest; raises UsageError."""
    if wanted is None:
        return DEPTHS[-1]
    if wanted not in DEPTHS:
        raise UsageError(
            f"kraken: a book of depth {wanted} does not exist", hint=f"one of {', '.join(map(str, DEPTHS))}"
        )
    return wanted


def level(price: str, quantity: str, price_decimals: int = 0, quantity_decimals: int = 0) -> Level:
    """Make a level from the texts of its numbers; raises ValueError for what cannot be a level."""
    p, q = float(price), float(quantity)
    if not (0.0 < p < inf and 0.0 <= q < inf):
        raise ValueError(f"a level with price {price} and quantity {quantity} cannot exist")
    return p, q, decimal_digits(price, price_decimals) + decimal_digits(quantity, quantity_decimals)


def level_of_bytes(price: bytes, quantity: bytes, price_decimals: int, quantity_decimals: int) -> Level:
    """Make a level from raw JSON numbers, as ``level`` does; the usual case without its detours. O(1)."""
    p, q = float(price), float(quantity)
    a, _, b = price.partition(b".")
    c, _, d = quantity.partition(b".")
    digits = (a + b + c + d).isdigit() and len(price) <= 40 and len(quantity) <= 40
    if digits and 0.0 < p < inf and 0.0 <= q < inf:
        return p, q, ((a + b).lstrip(b"0") + (c + d).lstrip(b"0")).decode()
    return level(price.decode(), quantity.decode(), price_decimals, quantity_decimals)


class TopSide:
    """The best ``depth`` levels of one side; ``sign`` is 1 for asks and -1 for bids.

    Keys are prices times ``sign``, so that the best one is the smallest on both sides.
    """

    __slots__ = ("_digits", "_keys", "depth", "sign")

    def __init__(self, depth: int, sign: int) -> None:
        self.depth = depth
        self.sign = sign
        self._keys: list[float] = []  # ascending
        self._digits: dict[float, str] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def prices(self) -> list[float]:
        """The prices held, best first."""
        return [key * self.sign for key in self._keys]

    def apply(self, levels: Iterable[Level]) -> list[tuple[float, float]]:
        """Set levels in the given order (0 deletes), then cut to the depth.

        Returns the resulting changes, one a price, with the removals of pushed-out levels.
        O(levels log depth), and moving at most ``depth`` entries for each.
        """
        sign, keys, digits = self.sign, self._keys, self._digits
        changed: dict[float, float] = {}
        for price, quantity, text in levels:
            key = price * sign
            if quantity:
                if key not in digits:
                    insort(keys, key)
                digits[key] = text
            elif key in digits:
                del digits[key]
                del keys[bisect_left(keys, key)]
            changed[price] = quantity
        while len(keys) > self.depth:
            key = keys.pop()
            del digits[key]
            changed[key * sign] = 0.0
        return list(changed.items())

    def text(self) -> str:
        """The digits of the best levels, best first, that the checksum covers."""
        digits = self._digits
        return "".join([digits[key] for key in self._keys[:CHECKED]])

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert self._keys == sorted(self._digits)
        assert len(self._keys) <= self.depth


class ChecksumBook:
    """Both sides of a book at one depth, as far as checksum and truncation need them."""

    __slots__ = ("asks", "bids", "depth")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.bids = TopSide(depth, -1)
        self.asks = TopSide(depth, 1)

    def load(
        self, bids: Sequence[Level], asks: Sequence[Level]
    ) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Replace everything by a snapshot; returns its levels, those of quantity 0 left out."""
        self.bids, self.asks = TopSide(self.depth, -1), TopSide(self.depth, 1)
        changes = self.apply(bids, asks)
        return [b for b in changes[0] if b[1]], [a for a in changes[1] if a[1]]

    def apply(
        self, bids: Sequence[Level], asks: Sequence[Level]
    ) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Apply an update; returns what it changes on both sides, see ``TopSide.apply``."""
        return self.bids.apply(bids) if bids else [], self.asks.apply(asks) if asks else []

    @property
    def checksum(self) -> int:
        """The CRC32 of the best levels. O(20)."""
        return crc32((self.asks.text() + self.bids.text()).encode())

    def check(self) -> None:
        """Assert every invariant; for tests."""
        self.bids.check()
        self.asks.check()
