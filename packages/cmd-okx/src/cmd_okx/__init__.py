"""Okx for CryptoMarketData."""
