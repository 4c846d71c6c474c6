"""Download, verify and archive exchange history for CryptoMarketData."""
