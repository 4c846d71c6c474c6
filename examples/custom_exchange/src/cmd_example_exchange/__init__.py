"""exampex, an invented exchange, as a plug-in of CryptoMarketData.

``EXAMPEX`` is the Exchange object behind the entry point ``exampex``; see docs/add-an-exchange.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cmd_common.exchange import Endpoints, Limits
from cmd_common.feed import Feed, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument

from . import rest
from .archive import HISTORY
from .instruments import VENUE, parse_instruments

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.errors import VenueError
    from cmd_common.history import HistorySource

__all__ = ["EXAMPEX", "ExampexExchange"]


class ExampexExchange:
    """See ``cmd_common.exchange.Exchange``."""

    venue = VENUE
    title = "exampex"
    types = ("trades", "quotes", "candles", "book")
    intervals = rest.INTERVALS
    endpoints = Endpoints(ws="wss://stream.exampex.invalid", rest="https://api.exampex.invalid")
    limits = Limits(
        weight_per_minute=3000,
        weight_pool=VENUE,
        messages_per_second=10,
        connects_per_5min=100,
        streams_per_connection=200,
        connection_lifetime=0,
    )
    archive: ArchiveSource | None = None
    history: HistorySource | None = HISTORY

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for all instruments."""
        return HttpRequest(f"{endpoints.rest}/v1/instruments")

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse reference data; raises ProtocolError."""
        return parse_instruments(body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make one Feed for each 40 symbols, so that no connection has more than 200 streams."""
        from cmd_common.feed_base import check_subscription

        from .feed import ExampexFeed

        check_subscription(self.venue, subscription, instruments, types=self.types, intervals=self.intervals)
        symbols = list(dict.fromkeys(subscription.symbols))
        groups = [symbols[at : at + 40] for at in range(0, len(symbols), 40)]
        url = f"{endpoints.ws}/v1/stream"
        return [
            ExampexFeed(
                VENUE, f"{VENUE}/stream-{n}", url, subscription, subscription.types, group, instruments, endpoints
            )
            for n, group in enumerate(groups)
        ]

    def used_weight(self, response: HttpResponse) -> int | None:
        """The exchange does not say."""
        return None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error; None for success."""
        return rest.check(response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The exchange's own side."""
        from .emulator import ExampexEmulator

        return ExampexEmulator(source)

    def recording_urls(self) -> Sequence[str]:
        """What marks this exchange's traffic in a recording."""
        return ("stream.exampex.", "api.exampex.")


EXAMPEX: Final = ExampexExchange()
