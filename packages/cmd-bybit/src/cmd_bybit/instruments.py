"""Bybit's two markets here, spot and linear, and their reference data.

Rules: docs/exchanges/bybit.md#reference-data. Base, quote and settlement asset come from
instruments-info, never from splitting a symbol: linear has ``BTCPERP`` (settled in USDC) and
``BTCUSDT-26DEC25`` beside ``BTCUSDT``, and the same names exist on spot.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from cmd_common.candles import interval_bounds
from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument, InstrumentKind, InstrumentStatus

__all__ = ["INTERVALS", "LINEAR", "SPOT", "Market", "cursor_of", "interval_end", "parse_instruments"]

_MINUTE: Final = 60_000_000_000

INTERVALS: Final = {
    "1m": "1", "3m": "3", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "2h": "120", "4h": "240", "6h": "360",
    "12h": "720", "1d": "D", "1w": "W", "1M": "M",
}  # fmt: skip
"""Our names of candle intervals and the exchange's."""


class Market(Struct, frozen=True):
    """What differs between the two markets."""

    category: Literal["spot", "linear"]  # the exchange's word for the market
    venue: str
    title: str
    archive: str  # folder of the bulk files
    separator: str  # between symbol and day in the names of the bulk files


SPOT: Final = Market(category="spot", venue="bybit-spot", title="Bybit spot", archive="spot", separator="_")
LINEAR: Final = Market(
    category="linear", venue="bybit-linear", title="Bybit linear contracts", archive="trading", separator=""
)


def interval_end(open_time: int, interval: str) -> int:
    """Return the ns at which a candle that opened at ``open_time`` ends; months are those of the calendar."""
    exchange = INTERVALS[interval]
    if exchange == "M":
        return interval_bounds(open_time, "1M")[1]
    minutes = {"D": 1440, "W": 10_080}.get(exchange)
    return open_time + (int(exchange) if minutes is None else minutes) * _MINUTE


_STATUS: Final[dict[str, InstrumentStatus]] = {
    "Trading": "trading",
    "PreLaunch": "pre_trading",
    "Delivering": "halted",
    "Closed": "delisted",
}
_KINDS: Final[dict[str, InstrumentKind]] = {"LinearPerpetual": "perpetual", "LinearFutures": "future"}

_Milliseconds = Annotated[int, Meta(ge=0, lt=9_200_000_000_000)]


class _PriceFilter(Struct):
    tickSize: Decimal


class _LotFilter(Struct):
    basePrecision: Decimal | None = None  # spot
    qtyStep: Decimal | None = None  # linear
    minOrderQty: Decimal = Decimal(0)
    minOrderAmt: Decimal | None = None  # spot
    minNotionalValue: Decimal | None = None  # linear


class _Row(Struct):
    symbol: str
    baseCoin: str
    quoteCoin: str
    priceFilter: _PriceFilter
    lotSizeFilter: _LotFilter
    status: str = ""
    contractType: str = ""
    settleCoin: str = ""
    deliveryTime: _Milliseconds = 0


class _Result(Struct):
    category: str
    rows: list[_Row] = field(name="list")
    nextPageCursor: str = ""


class _Body(Struct):
    result: _Result


_DECODER: Final = msgspec.json.Decoder(_Body, strict=False)


def _decode(market: Market, body: bytes) -> _Result:
    try:
        result = _DECODER.decode(body).result
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{market.venue}: instruments-info is not in the known form: {error}") from error
    if result.category != market.category:
        raise ProtocolError(f"{market.venue}: instruments-info is of category {result.category[:20]!r}")
    return result


def cursor_of(market: Market, body: bytes) -> str:
    """Return the cursor of the page that follows ``body``, empty on the last one; raises ProtocolError."""
    return _decode(market, body).nextPageCursor


def parse_instruments(market: Market, body: bytes) -> list[Instrument]:
    """Parse one page of instruments-info, in its order; raises ProtocolError.

    Quantities of both markets are in the base asset, so there is no contract size. A status that this
    version does not know becomes ``unknown``; the exchange's own word is kept in ``raw_status``.
    """
    return [_instrument(market, row) for row in _decode(market, body).rows]


def _shortest(value: Decimal | None) -> Decimal:
    """Drop trailing zeros without falling into exponents: 0.10 to 0.1, 10.00 to 10."""
    return Decimal(format(value.normalize(), "f")) if value else Decimal(0)


def _instrument(market: Market, row: _Row) -> Instrument:
    lot = row.lotSizeFilter
    kind: InstrumentKind = "spot"
    expiry = None
    if market.category == "linear":
        kind = _KINDS.get(row.contractType, "future" if row.deliveryTime else "perpetual")
        # A perpetual that will be delisted has a delivery time, too.
        expiry = row.deliveryTime * 1_000_000 if kind == "future" and row.deliveryTime else None
    values = [row.priceFilter.tickSize, lot.basePrecision, lot.qtyStep, lot.minOrderQty]
    if not all(v is None or (v.is_finite() and v >= 0) for v in (*values, lot.minOrderAmt, lot.minNotionalValue)):
        raise ProtocolError(f"{market.venue}: a size of {row.symbol[:40]!r} is not a positive number")
    return Instrument(
        venue=market.venue,
        symbol=row.symbol,
        base=row.baseCoin,
        quote=row.quoteCoin,
        kind=kind,
        tick_size=_shortest(row.priceFilter.tickSize),
        lot_size=_shortest(lot.basePrecision if market.category == "spot" else lot.qtyStep),
        settle=row.settleCoin,
        min_quantity=_shortest(lot.minOrderQty),
        min_notional=_shortest(lot.minOrderAmt if market.category == "spot" else lot.minNotionalValue),
        expiry=expiry,
        status=_STATUS.get(row.status, "unknown"),
        raw_status=row.status,
    )
