"""Prices and quantities as nautilus_trader stores them: 128-bit integers of 1e-16, exact, a precision a file."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any, Final

from cmd_common.errors import DataError

__all__ = ["PRECISION", "decimals", "needed", "raw"]

PRECISION: Final = 16
"""Digits after the point that nautilus_trader keeps, in its builds for Linux and macOS."""

_EXACTLY: Final = Context(prec=64)
_EXACT: Final = 2.0**53
_MOST: Final = 17_014_118_346_046  # of a price; a quantity may have twice as much


def decimals(text: str) -> int:
    """The digits after the point of a decimal as text, such as a tick size: 2 for ``0.0100``."""
    exponent = Decimal(text).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def needed(values: Any, least: int = 0) -> int:
    """The precision, from ``least`` on, that all of ``values`` (float64) need; PRECISION at most."""
    pc = _compute()

    precision = least
    while precision < PRECISION:
        off = pc.invert(_on_grid(values, precision))
        if not pc.any(off, skip_nulls=True, min_count=0).as_py():
            break
        worst = max(decimals(repr(value)) for value in pc.unique(values.filter(off)).to_pylist())
        if worst <= precision:  # larger than float64's integers: exact as text
            break
        precision = min(worst, PRECISION)
    return precision


def raw(values: Any, precision: int) -> Any:
    """``values`` (float64 without null) in units of 1e-16, each the decimal of ``precision`` digits nearest to it.

    Raises DataError for what nautilus_trader has no number for.
    """
    import pyarrow as pa

    pc = _compute()

    if len(values) and not pc.all(pc.and_(pc.greater_equal(values, 0.0), pc.less(values, float(_MOST)))).as_py():
        wrong = next(v for v in values.to_pylist() if not 0 <= v < _MOST)
        raise DataError(f"{wrong!r} is no price or quantity of nautilus_trader (0 to {_MOST})")
    scaled = pc.round(pc.multiply(values, 10.0**precision))
    if pc.any(pc.greater_equal(scaled, _EXACT), min_count=0).as_py():
        step = Decimal(1).scaleb(-precision)
        whole = [
            int(Decimal(repr(v)).quantize(step, context=_EXACTLY).scaleb(PRECISION, _EXACTLY))
            for v in values.to_pylist()
        ]
        data = b"".join(n.to_bytes(16, "little") for n in whole)
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(values), [None, pa.py_buffer(data)])
    ticks = pc.cast(pc.cast(scaled, pa.int64()), pa.decimal128(19, 0))
    factor = pa.scalar(Decimal(10 ** (PRECISION - precision)), pa.decimal128(PRECISION + 1, 0))
    numbers = pc.multiply(ticks, factor)
    # A decimal128 is a little-endian integer of 16 bytes, which is what is asked for.
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(numbers), [None, numbers.buffers()[1]], offset=numbers.offset
    )


def _compute() -> Any:
    """Arrow's functions, whose stubs do not know that they take Python's numbers."""
    import pyarrow.compute as pc

    return pc


def _on_grid(values: Any, precision: int) -> Any:
    """Whether each value is the nearest float64 of a decimal with so many digits."""
    pc = _compute()
    unit = 10.0**precision
    scaled = pc.round(pc.multiply(values, unit))
    return pc.and_(pc.less(scaled, _EXACT), pc.equal(pc.divide(scaled, unit), values))
