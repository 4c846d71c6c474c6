"""Kraken for CryptoMarketData.

``KRAKEN`` is the Exchange object behind the entry point ``kraken``. Facts and their evidence:
docs/exchanges/kraken.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from cmd_common.errors import UsageError, VenueError
from cmd_common.exchange import Endpoints, Limits, ServerTime
from cmd_common.feed import Feed, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument

from . import rest
from .instruments import HOSTS, INTERVALS, VENUE, parse_asset_pairs

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.history import HistorySource

__all__ = ["KRAKEN", "KrakenExchange"]

_TYPES: Final = ("trades", "quotes", "candles", "book")
_STREAMS: Final = 1000  # of one connection; the exchange publishes no limit


class KrakenExchange:
    """Kraken spot; see ``cmd_common.exchange.Exchange``."""

    venue = VENUE
    title = "Kraken"
    server_time = ServerTime("/0/public/Time", ("result", "unixtime"), 1_000_000_000)
    types = _TYPES
    intervals = INTERVALS
    endpoints = Endpoints(ws="wss://ws.kraken.com", rest="https://api.kraken.com")
    limits = Limits(
        weight_per_minute=60,  # about one request a second
        weight_pool=VENUE,
        messages_per_second=10,  # not published
        connects_per_5min=75,  # 150 in 10 minutes, then a ban of 10 minutes
        streams_per_connection=_STREAMS,
        connection_lifetime=0,
    )

    def __repr__(self) -> str:
        return f"<{self.title}>"

    @cached_property
    def archive(self) -> ArchiveSource | None:
        """The dumps, from files that the user has."""
        from .archive import KrakenArchive

        return KrakenArchive()

    @cached_property
    def history(self) -> HistorySource | None:
        """All trades, and the last 720 candles."""
        from ._history import KrakenHistory

        return KrakenHistory()

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for AssetPairs."""
        return rest.asset_pairs_request(endpoints)

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse AssetPairs; raises ProtocolError."""
        return parse_asset_pairs(body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds that cover a subscription, one for 1000 streams.

        Option ``api``: ``v2``, or ``v1`` for recordings of the old API. Raises UsageError for a type,
        interval, depth or option that does not exist, UnknownNameError for an unknown symbol.
        """
        from cmd_common.feed_base import check_subscription

        from ._feed_base import KrakenFeedBase, wanted_depth
        from ._v1 import KrakenV1Feed
        from .feed import KrakenFeed
        from .sync import DEPTHS

        check_subscription(VENUE, subscription, instruments, types=_TYPES, intervals=INTERVALS, depths=DEPTHS)
        wanted_depth(subscription)
        api = subscription.options.get("api", "v2")
        if api not in ("v1", "v2"):
            raise UsageError(f"{VENUE}: option api is {api!r}", hint="v2, or v1 for old recordings")
        kind: type[KrakenFeedBase] = KrakenFeed if api == "v2" else KrakenV1Feed
        url = f"{endpoints.ws}/v2" if api == "v2" else f"{endpoints.ws}/"
        types = tuple(t for t in _TYPES if t in subscription.types)
        symbols = tuple(dict.fromkeys(subscription.symbols))
        per_symbol = sum(len(set(subscription.intervals)) if t == "candles" else 1 for t in types)
        size = max(1, _STREAMS // per_symbol)
        return [
            kind(f"{VENUE}/{api}-{n}", url, subscription, types, symbols[at : at + size], instruments, endpoints)
            for n, at in enumerate(range(0, len(symbols), size))
        ]

    def used_weight(self, response: HttpResponse) -> int | None:
        """The exchange does not say what was used."""
        return None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error, also one that came with HTTP 200; None for success."""
        return rest.check(response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The server side of this exchange."""
        from .emulator import KrakenEmulator

        emulator: Emulator = KrakenEmulator(source)
        return emulator

    def recording_urls(self) -> Sequence[str]:
        """Host parts that mark this exchange's traffic in a recording."""
        return HOSTS


KRAKEN: Final = KrakenExchange()
