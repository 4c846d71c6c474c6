"""Serve recordings and simulations as if by the exchange, for CryptoMarketData."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
