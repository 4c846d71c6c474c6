"""Gemini for CryptoMarketData."""
