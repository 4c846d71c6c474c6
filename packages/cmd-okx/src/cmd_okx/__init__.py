"""OKX for CryptoMarketData: spot, perpetual swaps and dated futures.

``OKX`` is the Exchange object behind the entry point ``okx``. Facts and their evidence: docs/exchanges/okx.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from cmd_common.errors import UsageError, VenueError
from cmd_common.exchange import Endpoints, Limits, ServerTime
from cmd_common.feed import FEED_TYPES, Feed, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument

from . import rest
from .instruments import INSTRUMENT_TYPES, INTERVALS, VENUE, parse_instruments

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.history import HistorySource

__all__ = ["OKX", "OkxExchange"]

_STREAMS: Final = 400  # a connection; the exchange publishes no limit, see docs/exchanges/okx.md#connections
_DEPTHS: Final = (5,)


class OkxExchange:
    """OKX; see ``cmd_common.exchange.Exchange`` and ``PagedInstruments``."""

    def __init__(self) -> None:
        self.venue = VENUE
        self.title = "OKX"
        self.server_time = ServerTime("/api/v5/public/time", ("data", 0, "ts"), 1_000_000)
        self.types = ("trades", "quotes", "candles", "book")
        self.intervals = INTERVALS
        self.endpoints = Endpoints(
            ws="wss://ws.okx.com:8443", rest="https://www.okx.com", archive="https://static.okx.com"
        )
        self.limits = Limits(
            weight_per_minute=rest.WEIGHT_PER_MINUTE,
            weight_pool=VENUE,
            messages_per_second=3,
            connects_per_5min=900,  # 3 a second
            streams_per_connection=_STREAMS,
            connection_lifetime=0,
        )

    def __repr__(self) -> str:
        return f"<{self.title}>"

    @cached_property
    def archive(self) -> ArchiveSource | None:
        """The bulk files of trades."""
        from .archive import OkxArchive

        return OkxArchive()

    @cached_property
    def history(self) -> HistorySource | None:
        """Trades of three months and candles, by REST."""
        from ._history import OkxHistory

        return OkxHistory()

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for the first type of instruments."""
        return rest.instruments_request(endpoints, INSTRUMENT_TYPES[0])

    def next_instruments_request(self, request: HttpRequest, body: bytes, endpoints: Endpoints) -> HttpRequest | None:
        """The request for the type that follows; the exchange answers one type at a time."""
        asked = parse_qs(urlsplit(request.url).query).get("instType", [""])[0]
        at = INSTRUMENT_TYPES.index(asked) + 1 if asked in INSTRUMENT_TYPES else len(INSTRUMENT_TYPES)
        return rest.instruments_request(endpoints, INSTRUMENT_TYPES[at]) if at < len(INSTRUMENT_TYPES) else None

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse reference data of any type; raises ProtocolError."""
        return parse_instruments(body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds that cover a subscription: one a path (public, business) and 400 streams.

        Options: ``trades`` (``merged`` or ``all``), ``quotes`` (``bbo`` or ``tickers``), ``streams_per_connection``.
        Raises UsageError for a type, interval, depth or option that there is not, UnknownNameError for a
        symbol that is not among ``instruments``.
        """
        from cmd_common.feed_base import check_subscription

        from .feed import BUSINESS, PUBLIC, OkxFeed, channel_of

        check_subscription(VENUE, subscription, instruments, types=self.types, intervals=self.intervals, depths=_DEPTHS)
        options = subscription.options
        most = _STREAMS
        if text := options.get("streams_per_connection", ""):
            if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
                raise UsageError(f"{VENUE}: option streams_per_connection is {text!r}", hint="a number from 1 on")
            most = int(text)
        wanted = [t for t in FEED_TYPES if t in subscription.types]
        channel_of("quotes", options=options)  # a wrong option is refused here
        business = [
            t for t in wanted if t == "candles" or (t == "trades" and channel_of(t, options=options) != "trades")
        ]
        channel_of("trades", options=options)
        symbols = tuple(dict.fromkeys(subscription.symbols))
        feeds: list[Feed] = []
        for path, types in ((PUBLIC, [t for t in wanted if t not in business]), (BUSINESS, business)):
            per_symbol = sum(len(set(subscription.intervals)) if t == "candles" else 1 for t in types)
            if not per_symbol:
                continue
            size = max(1, most // per_symbol)
            for index, at in enumerate(range(0, len(symbols), size)):
                feeds.append(
                    OkxFeed(
                        f"{VENUE}/{path.rpartition('/')[2]}-{index}",
                        f"{endpoints.ws}{path}",
                        subscription,
                        types,
                        symbols[at : at + size],
                        instruments,
                        endpoints,
                        most_streams=max(most, per_symbol),
                    )
                )
        return feeds

    def used_weight(self, response: HttpResponse) -> int | None:
        """OKX does not say how much of a limit is used."""
        return None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error; None for success."""
        return rest.check(response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The server side of this venue."""
        from .emulator import OkxEmulator

        emulator: Emulator = OkxEmulator(source)
        return emulator

    def recording_urls(self) -> Sequence[str]:
        """Host parts that mark this venue's traffic in a recording."""
        return ("ws.okx.com", "wsaws.okx.com", "wsus.okx.com", "wseea.okx.com", "www.okx.com/", "okex.com")


OKX: Final = OkxExchange()
