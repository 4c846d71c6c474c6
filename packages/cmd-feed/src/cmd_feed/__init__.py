"""Live connections to crypto exchanges for CryptoMarketData."""
