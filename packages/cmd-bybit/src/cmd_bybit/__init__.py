"""Bybit spot and linear contracts for CryptoMarketData.

``SPOT`` and ``LINEAR`` are the Exchange objects behind the entry points ``bybit-spot`` and
``bybit-linear``. Facts and their evidence: docs/exchanges/bybit.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from cmd_common.exchange import Endpoints, Limits, ServerTime
from cmd_common.feed import Feed, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument

from . import instruments as _markets
from . import rest
from .instruments import INTERVALS, Market, parse_instruments

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.errors import VenueError
    from cmd_common.history import HistorySource

__all__ = ["LINEAR", "SPOT", "BybitExchange"]

_WS: Final = "wss://stream.bybit.com"
_REST: Final = "https://api.bybit.com"
_ARCHIVE: Final = "https://public.bybit.com"
_TYPES: Final = ("trades", "quotes", "candles", "book")


class BybitExchange:
    """One of Bybit's markets; see ``cmd_common.exchange.Exchange``."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.venue = market.venue
        self.title = market.title
        self.server_time = ServerTime("/v5/market/time", ("result", "timeNano"), 1)
        self.types = _TYPES
        self.intervals = tuple(INTERVALS)
        self.endpoints = Endpoints(ws=_WS, rest=_REST, archive=_ARCHIVE, listing=_ARCHIVE)
        self.history: HistorySource | None = rest.BybitHistory(market)
        self.limits = Limits(
            # 600 requests in 5 s an address, for all markets together; older pages say 50 a second, which is kept.
            weight_per_minute=3000,
            weight_pool="bybit",
            messages_per_second=0,
            connects_per_5min=500,
            streams_per_connection=0,  # counted in characters of topics: see ``feeds``
            connection_lifetime=0,
        )

    def __repr__(self) -> str:
        return f"<{self.title}>"

    @cached_property
    def archive(self) -> ArchiveSource | None:
        """The bulk files at public.bybit.com."""
        from .archive import BybitArchive

        return BybitArchive(self.market)

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for the first page of instruments-info."""
        return rest.instruments_request(self.market, endpoints)

    def next_instruments_request(self, request: HttpRequest, body: bytes, endpoints: Endpoints) -> HttpRequest | None:
        """The request for the page behind ``body``; None: that was the last. Raises ProtocolError."""
        return rest.next_instruments_request(self.market, request, body, endpoints)

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse one page of instruments-info; raises ProtocolError."""
        return parse_instruments(self.market, body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds that cover a subscription: as many topics on each as 21,000 characters name.

        ``depth`` chooses the book topic (50, 200 or 1000 levels, by default the deepest); all of them give
        snapshots and deltas. Raises UsageError, UnknownNameError for a symbol that is not among ``instruments``.
        """
        from cmd_common.feed_base import check_subscription

        from .feed import CHARACTERS, DEPTHS, BybitFeed, topics_of

        check_subscription(self.venue, subscription, instruments, types=_TYPES, intervals=self.intervals, depths=DEPTHS)
        depth = subscription.depth or DEPTHS[-1]
        whole = replace(subscription, depth=None)
        types = tuple(t for t in _TYPES if t in subscription.types)
        groups: list[list[str]] = [[]]
        used = 0
        for symbol in dict.fromkeys(subscription.symbols):
            need = sum(length for _, _, length in topics_of(symbol, types, subscription.intervals, depth))
            if groups[-1] and used + need > CHARACTERS:
                groups.append([])
                used = 0
            groups[-1].append(symbol)
            used += need
        url = f"{endpoints.ws}/v5/public/{self.market.category}"
        return [
            BybitFeed(
                self.venue, f"{self.venue}/public-{n}", url, whole, types, group, instruments, endpoints, depth=depth
            )
            for n, group in enumerate(groups)
        ]

    def used_weight(self, response: HttpResponse) -> int | None:
        """Unknown: the exchange tells the limits of keys only."""
        return None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error; None for success."""
        return rest.check(self.market, response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The server side of this market."""
        from .emulator import BybitEmulator

        emulator: Emulator = BybitEmulator(self.market, source)
        return emulator

    def recording_urls(self) -> Sequence[str]:
        """The path of the market's streams: hosts and REST paths are the same for all markets."""
        return (f"stream.bybit.com/v5/public/{self.market.category}",)


SPOT: Final = BybitExchange(_markets.SPOT)
LINEAR: Final = BybitExchange(_markets.LINEAR)
