"""What the order books in Python and in Rust share: which levels can exist, depths, and the tick size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from math import inf
from typing import Any, Final, NoReturn, Protocol

from .errors import DataError, UsageError

__all__ = ["Level", "Levels", "check_options", "checked_depth", "grid_of", "pairs", "refuse", "validate"]

Level = tuple[float, float]
Levels = Sequence[tuple[float, float]]

_MOST: Final = 1 << 63  # mantissas of tick sizes are below it


class _Named(Protocol):
    venue: str
    symbol: str


def check_options(tick_size: Decimal | float | None, max_levels: int | None) -> None:
    """Raise UsageError for a tick size or a limit of levels that cannot be."""
    if tick_size is not None and not 0 < tick_size < inf:
        raise UsageError(f"tick_size must be positive, not {tick_size}")
    if max_levels is not None and max_levels < 1:
        raise UsageError(f"max_levels must be at least 1, not {max_levels}")


def validate(book: _Named, bids: Iterable[Level], asks: Iterable[Level]) -> None:
    """Raise DataError at the first level that cannot exist."""
    for name, side in (("bid", bids), ("ask", asks)):
        for price, quantity in side:
            if not (0.0 <= quantity < inf and 0.0 < price < inf):
                refuse(book, name, price, quantity)


def refuse(book: _Named, side: str, price: float, quantity: float) -> NoReturn:
    """Raise DataError that says which level of which book cannot exist."""
    where = f" of {book.venue}:{book.symbol}" if book.symbol else ""
    raise DataError(f"order book{where}: {side} level with price {price!r} and quantity {quantity!r} cannot exist")


def checked_depth(depth: int | None) -> int | None:
    """Return a depth; raises UsageError for a negative one."""
    if depth is not None and depth < 0:
        raise UsageError(f"depth must not be negative, not {depth}")
    return depth


def pairs(flat: Any) -> list[Level]:
    """Return the levels of a buffer of float64 that has price and quantity in turn."""
    numbers: Any = memoryview(flat).cast("B").cast("d")
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def grid_of(tick_size: Decimal | float | None) -> tuple[int, int]:
    """Return a tick size as mantissa and number of decimals, exactly; (0, 0) where it has no grid."""
    if tick_size is None:
        return 0, 0
    sign, digits, exponent = Decimal(str(tick_size)).as_tuple()
    assert not sign
    assert isinstance(exponent, int)
    mantissa = int("".join(map(str, digits)))
    if exponent > 0:
        mantissa, exponent = mantissa * 10 ** min(exponent, 30), 0
    return (mantissa, -exponent) if mantissa < _MOST and exponent > -40 else (0, 0)
