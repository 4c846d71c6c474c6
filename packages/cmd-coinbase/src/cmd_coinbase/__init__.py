"""Coinbase for CryptoMarketData."""
