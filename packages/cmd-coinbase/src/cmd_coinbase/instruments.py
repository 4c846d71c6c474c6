"""Coinbase's two venues and their reference data.

Rules: docs/exchanges/coinbase.md#reference-data. Base and quote come from the product list, never from splitting
its id; ticks and lots from its increments.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument, InstrumentStatus

__all__ = ["ADVANCED", "EXCHANGE", "GRANULARITIES", "Market", "parse_products"]

_MINUTE: Final = 60_000_000_000

GRANULARITIES: Final[dict[str, dict[str, str]]] = {
    "exchange": {"1m": "60", "5m": "300", "15m": "900", "1h": "3600", "6h": "21600", "1d": "86400"},
    "advanced": {
        "1m": "ONE_MINUTE",
        "5m": "FIVE_MINUTE",
        "15m": "FIFTEEN_MINUTE",
        "30m": "THIRTY_MINUTE",
        "1h": "ONE_HOUR",
        "2h": "TWO_HOUR",
        "6h": "SIX_HOUR",
        "1d": "ONE_DAY",
    },
}
"""Candle intervals by REST, and how each API writes them."""


class Market(Struct, frozen=True):
    """What differs between the two APIs: names, hosts, published limits."""

    name: Literal["exchange", "advanced"]
    venue: str
    title: str
    ws: str
    rest: str
    hosts: tuple[str, ...]  # host parts that mark this venue's traffic in a recording
    types: tuple[str, ...]
    intervals: tuple[str, ...]  # of live candles
    messages_per_second: int
    connects_per_5min: int
    weight_per_minute: int
    symbols_per_connection: int  # our own choice: none is published
    max_trades: int  # of a page
    max_candles: int  # of a page

    @property
    def granularities(self) -> dict[str, str]:
        """Candle intervals by REST."""
        return GRANULARITIES[self.name]


EXCHANGE: Final = Market(
    name="exchange",
    venue="coinbase",
    title="Coinbase Exchange",
    ws="wss://ws-feed.exchange.coinbase.com",
    rest="https://api.exchange.coinbase.com",
    hosts=(
        "ws-feed.exchange.coinbase.",
        "ws-direct.exchange.coinbase.",
        "api.exchange.coinbase.",
        "ws-feed.pro.coinbase.",  # until 2022
        "api.pro.coinbase.",
    ),
    types=("trades", "quotes", "book"),
    intervals=(),
    messages_per_second=100,
    connects_per_5min=2400,
    weight_per_minute=600,
    symbols_per_connection=100,
    max_trades=1000,
    max_candles=300,
)
ADVANCED: Final = Market(
    name="advanced",
    venue="coinbase-advanced",
    title="Coinbase Advanced Trade",
    ws="wss://advanced-trade-ws.coinbase.com",
    rest="https://api.coinbase.com",
    hosts=("advanced-trade-ws.coinbase.", "api.coinbase."),
    types=("trades", "quotes", "candles", "book"),
    intervals=("5m",),
    messages_per_second=8,
    connects_per_5min=2400,
    weight_per_minute=600,
    # A hole in the connection's sequence loses all of its books, and each snapshot is some megabytes.
    symbols_per_connection=30,
    max_trades=1000,
    max_candles=350,
)


class _Product(Struct):
    id: str
    base_currency: str
    quote_currency: str
    quote_increment: Decimal
    base_increment: Decimal
    status: str = ""
    min_market_funds: Decimal = Decimal(0)
    base_min_size: Decimal = Decimal(0)  # removed from the API in 2022-06; old recordings have it
    trading_disabled: bool = False
    cancel_only: bool = False


class _AdvancedProduct(Struct):
    product_id: str
    base_currency_id: str
    quote_currency_id: str
    base_increment: str
    quote_increment: str
    price_increment: str = ""
    base_min_size: str = ""
    quote_min_size: str = ""
    status: str = ""
    product_type: str = ""
    trading_disabled: bool = False
    is_disabled: bool = False
    cancel_only: bool = False
    view_only: bool = False


class _AdvancedProducts(Struct):
    products: list[_AdvancedProduct]


_EXCHANGE_DECODER: Final = msgspec.json.Decoder(list[_Product])
_ADVANCED_DECODER: Final = msgspec.json.Decoder(_AdvancedProducts)

_STATUS: Final[dict[str, InstrumentStatus]] = {
    "online": "trading",
    "offline": "halted",
    "internal": "pre_trading",
    "delisted": "delisted",
}


def parse_products(market: Market, body: bytes) -> list[Instrument]:
    """Parse the list of products, in its order; raises ProtocolError.

    A status that this version does not know becomes ``unknown`` and keeps its word in ``raw_status``. Of
    Advanced Trade only spot products are taken.
    """
    try:
        if market.name == "exchange":
            rows: Any = _EXCHANGE_DECODER.decode(body)
            if not rows:
                raise ValueError("the list is empty")
            return [_exchange(market, p) for p in rows]
        products = _ADVANCED_DECODER.decode(body).products
        if not products:
            raise ValueError("the list is empty")
        return [_advanced(market, p) for p in products if p.product_type in ("", "SPOT")]
    except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as error:
        raise ProtocolError(f"{market.venue}: the product list is not in the known form: {error}") from error


def _status(word: str, disabled: bool) -> InstrumentStatus:
    status = _STATUS.get(word.lower(), "unknown")
    return "halted" if disabled and status == "trading" else status


def _shortest(value: Decimal) -> Decimal:
    """Drop trailing zeros without falling into exponents: 0.01000000 to 0.01, 10.00 to 10."""
    if not value.is_finite() or value < 0:
        raise ValueError(f"{value} is no size")
    return Decimal(format(value.normalize(), "f")) if value else Decimal(0)


def _exchange(market: Market, p: _Product) -> Instrument:
    return Instrument(
        venue=market.venue,
        symbol=p.id,
        base=p.base_currency,
        quote=p.quote_currency,
        kind="spot",
        tick_size=_shortest(p.quote_increment),
        lot_size=_shortest(p.base_increment),
        min_quantity=_shortest(p.base_min_size),
        min_notional=_shortest(p.min_market_funds),
        status=_status(p.status, p.trading_disabled or p.cancel_only),
        raw_status=p.status,
    )


def _decimal(text: str) -> Decimal:
    return _shortest(Decimal(text)) if text else Decimal(0)


def _advanced(market: Market, p: _AdvancedProduct) -> Instrument:
    disabled = p.trading_disabled or p.is_disabled or p.cancel_only or p.view_only
    return Instrument(
        venue=market.venue,
        symbol=p.product_id,
        base=p.base_currency_id,
        quote=p.quote_currency_id,
        kind="spot",
        # quote_increment is how exact amounts of the quote are, price_increment the tick; older bodies have one.
        tick_size=_decimal(p.price_increment or p.quote_increment),
        lot_size=_decimal(p.base_increment),
        min_quantity=_decimal(p.base_min_size),
        min_notional=_decimal(p.quote_min_size),
        status=_status(p.status, disabled),
        raw_status=p.status,
    )
