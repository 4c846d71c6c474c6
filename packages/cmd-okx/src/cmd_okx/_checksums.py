"""Verification of the checksum that OKX retired: kept for recordings and for the day it comes back.

Rule: docs/exchanges/okx.md#checksum. A field of 0 says nothing and costs nothing. Where the snapshot has a
real one, the texts of all its levels are kept beside the book, because the sum is over the original texts. A
sum that appears later is checked with the texts as the exchange writes numbers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cmd_common.feed_base import Verify
from cmd_common.orderbook import OrderBook

from .sync import CHECKSUM_LEVELS, checksum, plain_text

__all__ = ["Checksums"]

_Side = dict[float, tuple[str, str]]


class Checksums:
    """The level texts of the books of one connection, for books whose checksums are not 0."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[_Side, _Side]] = {}

    def snapshot(self, symbol: str, expected: int, frame: str) -> Verify | None:
        """Begin a book; returns what checks it after it was loaded, None where there is nothing to check."""
        self._texts.pop(symbol, None)
        if not expected:
            return None
        self._texts[symbol] = ({}, {})
        self._take(symbol, frame)
        return self._verify(symbol, expected)

    def update(self, symbol: str, expected: int, frame: str) -> Verify | None:
        """Follow an update; returns what checks the book after it was applied."""
        if symbol in self._texts:
            self._take(symbol, frame)
        return self._verify(symbol, expected) if expected else None

    def _take(self, symbol: str, frame: str) -> None:
        for data in msgspec.json.decode(frame)["data"]:
            for side, key in zip(self._texts[symbol], ("bids", "asks"), strict=True):
                for level in data[key]:
                    price, quantity = str(level[0]), str(level[1])
                    if float(quantity):
                        side[float(price)] = (price, quantity)
                    else:
                        side.pop(float(price), None)

    def _verify(self, symbol: str, expected: int) -> Verify:
        def verify(book: OrderBook) -> str:
            bids, asks = book.bids(CHECKSUM_LEVELS), book.asks(CHECKSUM_LEVELS)
            none: Any = ({}, {})
            texts = self._texts.get(symbol, none)
            found = checksum(*(
                [side.get(p) or (plain_text(p), plain_text(q)) for p, q in levels]
                for side, levels in zip(texts, (bids, asks), strict=True)
            ))  # fmt: skip
            return "" if found == expected else "checksum"

        return verify
