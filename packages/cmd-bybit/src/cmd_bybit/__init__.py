"""Bybit for CryptoMarketData."""
