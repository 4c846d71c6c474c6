"""QuestDB, the server store of CryptoMarketData: ``questdb:http::addr=HOST:9000;``."""
