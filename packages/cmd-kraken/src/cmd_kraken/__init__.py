"""Kraken for CryptoMarketData."""
