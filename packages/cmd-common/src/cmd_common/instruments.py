"""Instruments and the reference-data service: symbols, integer ids, tick and lot sizes."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from msgspec import Struct

from .records import full_name

__all__ = ["Instrument", "InstrumentKind", "InstrumentStatus"]

InstrumentKind = Literal["spot", "perpetual", "future", "option"]
InstrumentStatus = Literal["trading", "halted", "pre_trading", "delisted", "unknown"]


class Instrument(Struct, frozen=True):
    """One tradable instrument of one venue; decimals are exact."""

    venue: str
    symbol: str  # the exchange's own name, upper case
    base: str
    quote: str
    kind: InstrumentKind
    tick_size: Decimal
    lot_size: Decimal
    settle: str = ""  # asset that profit is paid in; empty: the quote asset
    min_quantity: Decimal = Decimal(0)
    min_notional: Decimal = Decimal(0)
    contract_size: Decimal | None = None  # None: quantities are in the base asset
    inverse: bool = False
    expiry: int | None = None  # ns
    status: InstrumentStatus = "trading"
    raw_status: str = ""  # the exchange's own word

    @property
    def name(self) -> str:
        """The full name, ``venue:symbol``."""
        return full_name(self.venue, self.symbol)

    @property
    def unified(self) -> str:
        """The name that is the same on every venue: ``BTC-USDT``, ``BTC-USDT-PERP``, ``BTC-USD-20270326``."""
        pair = f"{self.base}-{self.quote}"
        if self.kind == "spot":
            return pair
        if self.kind == "perpetual":
            return f"{pair}-PERP"
        if self.expiry is not None:
            from datetime import UTC, datetime

            return f"{pair}-{datetime.fromtimestamp(self.expiry // 1_000_000_000, UTC):%Y%m%d}"
        return f"{pair}-{self.symbol}"
