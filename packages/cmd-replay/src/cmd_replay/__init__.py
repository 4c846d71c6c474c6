"""Serve recordings and simulations as if by the exchange, for CryptoMarketData."""
