"""Gemini's reference data: names, steps and status of its symbols.

Rules: docs/exchanges/gemini.md#reference-data. Base and quote come from the metadata, never from splitting
a symbol. What Gemini calls ``tick_size`` is the step of quantities; prices move by ``quote_increment``.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct

from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument, InstrumentKind, InstrumentStatus

__all__ = ["HOSTS", "INTERVALS", "REST_INTERVALS", "VENUE", "interval_ns", "parse_details"]

VENUE: Final = "gemini"
HOSTS: Final = ("ws.gemini.com", "wsapi.fast.gemini.com", "api.gemini.com")
"""Host parts that mark Gemini's traffic in a recording; the second one served the current API until 2026-02-24."""

INTERVALS: Final = ("1m", "5m", "15m", "30m", "1h", "6h", "1d")
REST_INTERVALS: Final = dict(zip(INTERVALS, ("1m", "5m", "15m", "30m", "1hr", "6hr", "1day"), strict=True))
"""Our name of an interval to the name in the path of a REST request."""

_MINUTE: Final = 60_000_000_000
_LENGTHS: Final = dict(zip(INTERVALS, (1, 5, 15, 30, 60, 360, 1440), strict=True))

_STATUS: Final[dict[str, InstrumentStatus]] = {
    "open": "trading",
    "limit_only": "trading",  # trades, but takes no market orders
    "post_only": "pre_trading",
    "cancel_only": "halted",
    "closed": "halted",
}


def interval_ns(interval: str) -> int:
    """Return the length of an interval in ns; raises KeyError for one that Gemini does not have."""
    return _LENGTHS[interval] * _MINUTE


class _Details(Struct):
    """One symbol; the sizes are JSON numbers such as ``1E-8``, taken from their text."""

    symbol: str
    base_currency: str
    quote_currency: str
    tick_size: Decimal
    quote_increment: Decimal
    min_order_size: Decimal = Decimal(0)
    status: str = ""
    product_type: str = "spot"  # missing before perpetuals existed
    contract_type: str = "vanilla"
    contract_price_currency: str = ""


_DECODER: Final = msgspec.json.Decoder(list[_Details] | _Details, strict=False)
_LARGEST: Final = Decimal("1e24")
_LEAST: Final = Decimal("1e-24")


def parse_details(body: bytes) -> list[Instrument]:
    """Parse symbol details, the list of ``/all`` or the object of one symbol, in their order.

    Raises ProtocolError. A status that this version does not know becomes ``unknown`` and keeps its
    word in ``raw_status``.
    """
    try:
        found = _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, ArithmeticError) as error:
        raise ProtocolError(f"{VENUE}: symbol details are not in the known form: {error}") from error
    rows = found if isinstance(found, list) else [found]
    if not rows:
        raise ProtocolError(f"{VENUE}: symbol details are empty")
    return [_instrument(row) for row in rows]


def _size(row: _Details, name: str) -> Decimal:
    value: Decimal = getattr(row, name)
    if not value.is_finite() or (value and not _LEAST <= value < _LARGEST):
        raise ProtocolError(f"{VENUE}: {name} of {row.symbol} is {value}")
    return Decimal(format(value.normalize(), "f")) if value else Decimal(0)


def _instrument(row: _Details) -> Instrument:
    swap = row.product_type == "swap" or row.contract_type in ("linear", "inverse")
    kind: InstrumentKind = "perpetual" if swap else "spot"
    inverse = row.contract_type == "inverse"
    return Instrument(
        venue=VENUE,
        symbol=row.symbol.upper(),
        base=row.base_currency.upper(),
        quote=row.quote_currency.upper(),
        kind=kind,
        tick_size=_size(row, "quote_increment"),
        lot_size=_size(row, "tick_size"),
        # Linear perpetuals pay in the quote asset; quantities are in the base asset on all of them.
        settle=row.base_currency.upper() if inverse else "",
        min_quantity=_size(row, "min_order_size"),
        inverse=inverse,
        status=_STATUS.get(row.status, "unknown"),
        raw_status=row.status,
    )
