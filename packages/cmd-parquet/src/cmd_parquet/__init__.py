"""Embedded Parquet store of CryptoMarketData."""
