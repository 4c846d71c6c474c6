"""Bitstamp for CryptoMarketData: live feed, REST history and an emulator.

``BITSTAMP`` is the Exchange object behind the entry point ``bitstamp``. Facts and their evidence:
docs/exchanges/bitstamp.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from cmd_common.errors import UsageError, VenueError
from cmd_common.exchange import Endpoints, Limits
from cmd_common.feed import FEED_TYPES, Feed, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument

from . import rest
from .instruments import HOSTS, INTERVALS, VENUE, parse_pairs

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.history import HistorySource

__all__ = ["BITSTAMP", "BitstampExchange"]

_STREAMS: Final = 1024  # channels a connection
_DAY: Final = 86_400_000_000_000


class BitstampExchange:
    """Bitstamp; see ``cmd_common.exchange.Exchange``.

    Options of a subscription: ``live_orders`` (``on`` brings every order event into the raw recording), ``reseed``
    (seconds between two comparisons of each book with a fresh snapshot).
    """

    venue = VENUE
    title = "Bitstamp"
    types: tuple[str, ...] = ("trades", "quotes", "book")
    intervals = INTERVALS
    endpoints = Endpoints(ws="wss://ws.bitstamp.net", rest="https://www.bitstamp.net")
    limits = Limits(
        weight_per_minute=1000,  # 10,000 in ten minutes
        weight_pool=VENUE,
        messages_per_second=0,
        connects_per_5min=0,
        streams_per_connection=_STREAMS,
        connection_lifetime=90 * _DAY,
    )
    archive: ArchiveSource | None = None

    def __repr__(self) -> str:
        return f"<{self.title}>"

    @cached_property
    def history(self) -> HistorySource | None:
        """Trades of a day and all candles."""
        from .archive import HISTORY

        return HISTORY

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for all trading pairs."""
        return rest.pairs_request(endpoints)

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse the trading pairs; raises ProtocolError."""
        return parse_pairs(body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds of a subscription, 1024 channels each.

        Raises UsageError for a type or depth that Bitstamp does not have, UnknownNameError for a symbol
        that is not among ``instruments``.
        """
        from cmd_common.feed_base import check_subscription

        from .feed import BitstampFeed

        check_subscription(VENUE, subscription, instruments, types=self.types, intervals=self.intervals, depths=(100,))
        orders = subscription.options.get("live_orders", "off")
        if orders not in ("on", "off"):
            raise UsageError(f"{VENUE}: option live_orders is {orders!r}", hint="on or off")
        symbols = tuple(dict.fromkeys(subscription.symbols))
        types = tuple(t for t in FEED_TYPES if t in subscription.types)
        size = _STREAMS // (len(types) + (orders == "on"))
        return [
            BitstampFeed(
                VENUE,
                f"{VENUE}/stream-{index}",
                endpoints.ws,
                subscription,
                types,
                symbols[at : at + size],
                instruments,
                endpoints,
            )
            for index, at in enumerate(range(0, len(symbols), size))
        ]

    def used_weight(self, response: HttpResponse) -> int | None:
        """Bitstamp does not say what was used."""
        return None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error; None for success."""
        return rest.check(response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The server side."""
        from .emulator import BitstampEmulator

        return BitstampEmulator(source)

    def recording_urls(self) -> Sequence[str]:
        """Host parts that mark Bitstamp's traffic in a recording."""
        return HOSTS


BITSTAMP: Final = BitstampExchange()
