"""The cmd-cli command of CryptoMarketData."""
