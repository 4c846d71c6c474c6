"""Gemini for CryptoMarketData: both of its live feeds, REST history and an emulator.

``GEMINI`` is the Exchange object behind the entry point ``gemini``. Facts and their evidence:
docs/exchanges/gemini.md.
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
from .instruments import HOSTS, INTERVALS, VENUE, parse_details

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.history import HistorySource

__all__ = ["GEMINI", "GeminiExchange"]

_STREAMS: Final = 200  # a connection; not published, 20 have been seen
_SETTINGS: Final = {"api": ("current", "v2"), "speed": ("100ms", "1s")}


class GeminiExchange:
    """Gemini; see ``cmd_common.exchange.Exchange``.

    Options of a subscription: ``api`` (``current`` by default, or ``v2``), ``speed`` of the current API's
    books (``100ms``, ``1s``), ``reseed`` of the v2 feed's books (seconds).
    """

    venue = VENUE
    title = "Gemini"
    types: tuple[str, ...] = ("trades", "quotes", "candles", "book")
    intervals = INTERVALS
    endpoints = Endpoints(ws="wss://ws.gemini.com", rest="https://api.gemini.com")
    limits = Limits(
        weight_per_minute=120,
        weight_pool=VENUE,
        messages_per_second=0,  # 7,000 units of weight in 10 s are allowed, which a feed never comes near
        connects_per_5min=300,
        streams_per_connection=_STREAMS,
        connection_lifetime=0,
    )
    archive: ArchiveSource | None = None

    def __repr__(self) -> str:
        return f"<{self.title}>"

    @cached_property
    def history(self) -> HistorySource | None:
        """Trades of seven days and the newest candles."""
        from .archive import HISTORY

        return HISTORY

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for the details of all symbols."""
        return rest.details_request(endpoints)

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse symbol details, of all symbols or of one; raises ProtocolError."""
        return parse_details(body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds of a subscription; candles go over a connection of the v2 feed.

        Raises UsageError for a type, interval, depth or setting that Gemini does not have,
        UnknownNameError for a symbol that is not among ``instruments``.
        """
        from cmd_common.feed_base import check_subscription

        from ._v2 import V2Feed
        from .feed import CurrentFeed

        for name, values in _SETTINGS.items():
            value = subscription.options.get(name, values[0])
            if value not in values:
                raise UsageError(f"{VENUE}: option {name} is {value!r}", hint=f"one of {', '.join(values)}")
        v2 = subscription.options.get("api") == "v2"
        depths = () if v2 else (5, 10, 20)
        check_subscription(VENUE, subscription, instruments, types=self.types, intervals=self.intervals, depths=depths)
        symbols = tuple(dict.fromkeys(subscription.symbols))
        wanted = tuple(t for t in FEED_TYPES if t in subscription.types)
        current = () if v2 else tuple(t for t in wanted if t != "candles")
        older = wanted if v2 else tuple(t for t in wanted if t == "candles")
        # The v2 feed is served by the host of REST.
        scheme, _, rest_host = endpoints.rest.partition("://")
        v2_url = f"{'wss' if scheme == 'https' else 'ws'}://{rest_host}/v2/marketdata"
        feeds: list[Feed] = []
        for kind, name, url, types in (
            (CurrentFeed, "stream", f"{endpoints.ws}/?snapshot=-1", current),
            (V2Feed, "v2", v2_url, older),
        ):
            if not types:
                continue
            per_symbol = sum(len(set(subscription.intervals)) if t == "candles" else 1 for t in types)
            size = max(1, _STREAMS // per_symbol)
            for index, at in enumerate(range(0, len(symbols), size)):
                part = symbols[at : at + size]
                feeds.append(
                    kind(VENUE, f"{VENUE}/{name}-{index}", url, subscription, types, part, instruments, endpoints)
                )
        return feeds

    def used_weight(self, response: HttpResponse) -> int | None:
        """Gemini does not say what was used."""
        return None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error; None for success."""
        return rest.check(response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The server side of both feeds and of REST."""
        from .emulator import GeminiEmulator

        return GeminiEmulator(source)

    def recording_urls(self) -> Sequence[str]:
        """Host parts that mark Gemini's traffic in a recording."""
        return HOSTS


GEMINI: Final = GeminiExchange()
