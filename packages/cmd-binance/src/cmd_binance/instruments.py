"""Binance's three markets and their reference data.

Source of the facts: ``docs/exchanges.md``, Binance.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["COINM", "SPOT", "USDM", "Market"]


class Market(Struct, frozen=True):
    """What differs between the markets: names, hosts and paths."""

    name: Literal["spot", "usdm", "coinm"]
    venue: str
    ws: str  # base of the WebSocket URLs
    rest: str
    prefix: str  # path of the REST API
    archive: str  # folder in the public archive


_DATA = "https://data.binance.vision"
SPOT = Market("spot", "binance-spot", "wss://stream.binance.com:9443", "https://api.binance.com", "/api/v3", "spot")
USDM = Market("usdm", "binance-usdm", "wss://fstream.binance.com", "https://fapi.binance.com", "/fapi/v1", "futures/um")
COINM = Market(
    "coinm", "binance-coinm", "wss://dstream.binance.com", "https://dapi.binance.com", "/dapi/v1", "futures/cm"
)
