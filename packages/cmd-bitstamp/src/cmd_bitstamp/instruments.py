"""Bitstamp's reference data: names, steps and status of its trading pairs.

Rules: docs/exchanges/bitstamp.md#reference-data. The symbol is the exchange's ``url_symbol`` in upper case;
requests and channels carry it in lower case. Base and quote come from ``name``, which has a separator.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument, InstrumentStatus

__all__ = ["HOSTS", "INTERVALS", "STEPS", "VENUE", "parse_pairs"]

VENUE: Final = "bitstamp"
HOSTS: Final = ("ws.bitstamp.net", "www.bitstamp.net")
"""Host parts that mark Bitstamp's traffic in a recording."""

STEPS: Final = {
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "2h": 7200,
    "4h": 14400,
    "6h": 21600,
    "12h": 43200,
    "1d": 86400,
    "3d": 259200,
}
"""Interval of candles to the ``step`` of a request, in seconds."""
INTERVALS: Final = tuple(STEPS)

_STATUS: Final[dict[str, InstrumentStatus]] = {"enabled": "trading", "disabled": "halted"}
_Places = Annotated[int, Meta(ge=0, le=24)]


class _Pair(Struct):
    """One row of ``trading-pairs-info``, or of ``markets``, its newer name (other keys are passed over)."""

    name: str
    base_decimals: _Places
    counter_decimals: _Places
    minimum_order: str = ""  # such as "20.0 USD"
    trading: str = ""
    url_symbol: str = ""
    market_symbol: str = ""  # its name in ``markets``


_DECODER: Final = msgspec.json.Decoder(list[_Pair])
_LARGEST: Final = Decimal("1e24")
_LEAST: Final = Decimal("1e-24")


def parse_pairs(body: bytes) -> list[Instrument]:
    """Parse the pairs in their order; raises ProtocolError.

    A status that this version does not know becomes ``unknown`` and keeps its word in ``raw_status``.
    """
    try:
        rows = _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{VENUE}: trading pairs are not in the known form: {error}") from error
    if not rows:
        raise ProtocolError(f"{VENUE}: the list of trading pairs is empty")
    return [_instrument(row) for row in rows]


def _instrument(row: _Pair) -> Instrument:
    base, slash, quote = row.name.partition("/")
    symbol = row.url_symbol or row.market_symbol
    if not slash or not base or not quote or not symbol:
        raise ProtocolError(f"{VENUE}: pair {row.name or symbol!r} has no base, quote or symbol")
    return Instrument(
        venue=VENUE,
        symbol=symbol.upper(),
        base=base.upper(),
        quote=quote.upper(),
        kind="spot",
        tick_size=_step(row.counter_decimals),
        lot_size=_step(row.base_decimals),
        min_notional=_minimum(row),
        status=_STATUS.get(row.trading.lower(), "unknown"),
        raw_status=row.trading,
    )


def _step(places: int) -> Decimal:
    return Decimal(1).scaleb(-places)


def _minimum(row: _Pair) -> Decimal:
    """The least order value: a number and the counter currency's name."""
    text = row.minimum_order.partition(" ")[0]
    if not text:
        return Decimal(0)
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ProtocolError(f"{VENUE}: minimum order of {row.name} is {row.minimum_order!r}") from None
    if not value.is_finite() or (value and not _LEAST <= value < _LARGEST):
        raise ProtocolError(f"{VENUE}: minimum order of {row.name} is {row.minimum_order!r}")
    return Decimal(format(value.normalize(), "f")) if value else Decimal(0)
