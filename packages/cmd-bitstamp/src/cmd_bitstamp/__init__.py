"""Bitstamp for CryptoMarketData."""
