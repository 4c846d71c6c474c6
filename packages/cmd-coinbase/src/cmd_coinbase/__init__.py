"""Coinbase Exchange and Coinbase Advanced Trade for CryptoMarketData.

``EXCHANGE`` and ``ADVANCED`` are the Exchange objects behind the entry points ``coinbase`` and
``coinbase-advanced``. Facts and their evidence: docs/exchanges/coinbase.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from cmd_common.errors import UsageError, VenueError
from cmd_common.exchange import Endpoints, Limits, ServerTime
from cmd_common.feed import FEED_TYPES, Feed, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument

from . import instruments as _markets
from . import rest
from .instruments import Market, parse_products

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.history import HistorySource

__all__ = ["ADVANCED", "EXCHANGE", "CoinbaseExchange"]

_TIMES: Final = {
    "exchange": ServerTime("/time", ("epoch",), 1_000_000_000),
    "advanced": ServerTime("/api/v3/brokerage/time", ("epochMillis",), 1_000_000),
}


class CoinbaseExchange:
    """One of Coinbase's two APIs; see ``cmd_common.exchange.Exchange``."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.venue = market.venue
        self.title = market.title
        self.server_time = _TIMES[market.name]
        self.types = market.types
        self.intervals = tuple(market.granularities)  # by REST
        self.live_intervals = tuple(market.intervals)
        self.archive: ArchiveSource | None = None  # no bulk files are published
        self.endpoints = Endpoints(ws=market.ws, rest=market.rest)
        self.limits = Limits(
            weight_per_minute=market.weight_per_minute,
            weight_pool=market.venue,
            messages_per_second=market.messages_per_second,
            connects_per_5min=market.connects_per_5min,
            streams_per_connection=0,
            connection_lifetime=0,
        )

    def __repr__(self) -> str:
        return f"<{self.title}>"

    @cached_property
    def history(self) -> HistorySource | None:
        """Trades and candles over REST."""
        from .archive import CoinbaseHistory

        return CoinbaseHistory(self.market)

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for all products."""
        return rest.products_request(self.market, endpoints)

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse the products; raises ProtocolError."""
        return parse_products(self.market, body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds that cover a subscription: one for each 100 products, 30 on Advanced Trade.

        Option ``symbols_per_connection`` sets another number. On Coinbase Exchange ``key``, ``secret`` and
        ``passphrase`` (each may be ``env:NAME``) switch the book to the unbatched ``level2``. Raises UsageError
        for a type, interval or option that the API does not have, UnknownNameError for a symbol.
        """
        from cmd_common.feed_base import check_subscription

        check_subscription(self.venue, subscription, instruments, types=self.types, intervals=self.market.intervals)
        symbols = tuple(dict.fromkeys(subscription.symbols))
        types = tuple(t for t in FEED_TYPES if t in subscription.types)
        size = _size(self.market, subscription)
        feeds: list[Feed] = []
        for index, at in enumerate(range(0, len(symbols), size)):
            name = f"{self.venue}/ws-{index}"
            feeds.append(self._feed(name, subscription, types, symbols[at : at + size], instruments, endpoints))
        return feeds

    def _feed(
        self,
        name: str,
        subscription: Subscription,
        types: tuple[str, ...],
        symbols: tuple[str, ...],
        instruments: Mapping[str, Instrument],
        endpoints: Endpoints,
    ) -> Feed:
        if self.market.name == "advanced":
            from ._advanced import AdvancedFeed

            return AdvancedFeed(self.market, name, endpoints.ws, subscription, types, symbols, instruments, endpoints)
        from ._auth import credentials
        from .feed import ExchangeFeed

        key = credentials(self.venue, subscription.options, os.environ)
        return ExchangeFeed(self.market, name, endpoints.ws, subscription, types, symbols, instruments, endpoints, key)

    def used_weight(self, response: HttpResponse) -> int | None:
        """Coinbase does not say how much of its limit is used."""
        return None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error; None for success."""
        return rest.check(self.market, response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The server side of this API."""
        from .emulator import CoinbaseEmulator

        emulator: Emulator = CoinbaseEmulator(self.market, source)
        return emulator

    def recording_urls(self) -> Sequence[str]:
        """Host parts that mark this API's traffic in a recording."""
        return self.market.hosts


def _size(market: Market, subscription: Subscription) -> int:
    text = subscription.options.get("symbols_per_connection", "")
    if not text:
        return market.symbols_per_connection
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise UsageError(f"{market.venue}: option symbols_per_connection is {text!r}", hint="a number from 1 to 1000")
    return int(text)


EXCHANGE: Final = CoinbaseExchange(_markets.EXCHANGE)
ADVANCED: Final = CoinbaseExchange(_markets.ADVANCED)
