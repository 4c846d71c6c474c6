"""Binance spot, USD-M and COIN-M for CryptoMarketData.

``SPOT``, ``USDM`` and ``COINM`` are the Exchange objects behind the entry points ``binance-spot``,
``binance-usdm`` and ``binance-coinm``. Facts and their evidence: docs/exchanges.md#binance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from cmd_common.errors import UnknownNameError, UsageError, VenueError
from cmd_common.exchange import Endpoints, Limits, ServerTime
from cmd_common.feed import FEED_TYPES, Feed, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.instruments import Instrument
from cmd_common.symbols import nearest

from . import instruments as _markets
from . import rest
from .instruments import Market, parse_exchange_info

if TYPE_CHECKING:
    from cmd_common.archive import ArchiveSource
    from cmd_common.decoding import BookDecoder
    from cmd_common.emulation import Emulator, MarketSource
    from cmd_common.history import HistorySource
    from cmd_common.sequence import SequenceRule
    from cmd_common.ticks import TickDecoder

__all__ = ["COINM", "SPOT", "USDM", "BinanceExchange"]

_ARCHIVE: Final = "https://data.binance.vision"
_LISTING: Final = "https://s3-ap-northeast-1.amazonaws.com/data.binance.vision"
_STREAMS: Final = 1024  # a connection
_DAY: Final = 86_400_000_000_000
# Above so many books a full snapshot of each (250 of 6000 weight a minute) would take minutes.
_MANY_BOOKS: Final = 20
# USD-M serves a stream only on its own class of traffic, and is silent on the other one.
_MARKET_CLASS: Final = frozenset(("agg_trades", "candles"))


class BinanceExchange:
    """One of Binance's markets; see ``cmd_common.exchange.Exchange``."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.venue = market.venue
        self.title = market.title
        self.server_time = ServerTime(f"{market.prefix}/time", ("serverTime",), 1_000_000)
        self.types = FEED_TYPES
        self.history = None  # the bulk files reach further and are checked
        self.intervals = market.intervals
        self.endpoints = Endpoints(ws=market.ws, rest=market.rest, archive=_ARCHIVE, listing=_LISTING)
        self.limits = Limits(
            weight_per_minute=market.weight_per_minute,
            weight_pool=market.weight_pool,
            messages_per_second=market.messages_per_second,
            connects_per_5min=300,  # published for spot; the futures publish none
            streams_per_connection=_STREAMS,
            connection_lifetime=_DAY,
        )

    def __repr__(self) -> str:
        return f"<{self.title}>"

    @cached_property
    def archive(self) -> ArchiveSource | None:
        """The bulk files at data.binance.vision."""
        from .archive import BinanceArchive

        return BinanceArchive(self.market)

    @cached_property
    def backfill(self) -> HistorySource:
        """The REST history that fills what a recording missed."""
        from ._backfill import BinanceBackfill

        return BinanceBackfill(self.market)

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request for exchangeInfo."""
        return rest.exchange_info_request(self.market, endpoints)

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse exchangeInfo; raises ProtocolError."""
        return parse_exchange_info(self.market, body)

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds that cover a subscription: one a class of traffic and 1024 streams.

        Raises UsageError for a type, interval or depth that the market does not have, UnknownNameError
        for a symbol that is not among ``instruments``.
        """
        from .feed import BinanceFeed

        self._check(subscription, instruments)
        symbols = tuple(dict.fromkeys(subscription.symbols))
        wanted = tuple(t for t in FEED_TYPES if t in subscription.types)
        if self.market.name == "usdm":
            classes = [
                ("public", tuple(t for t in wanted if t not in _MARKET_CLASS)),
                ("market", tuple(t for t in wanted if t in _MARKET_CLASS)),
            ]
        else:
            classes = [("", wanted)]
        most = _STREAMS
        if "streams_per_connection" in subscription.options:
            most = _number(self.venue, "streams_per_connection", subscription.options, _STREAMS)
        snapshot_limit = None if len(symbols) <= _MANY_BOOKS else 1000
        feeds: list[Feed] = []
        for name, types in classes:
            per_symbol = sum(len(set(subscription.intervals)) if t == "candles" else 1 for t in types)
            if not per_symbol:
                continue
            path = f"/{name}/stream" if name else "/stream"
            unit = "?timeUnit=MICROSECOND" if self.market.name == "spot" else ""
            size = max(1, most // per_symbol)
            for index, at in enumerate(range(0, len(symbols), size)):
                feeds.append(
                    BinanceFeed(
                        self.market,
                        f"{self.venue}/{name or 'stream'}-{index}",
                        f"{endpoints.ws}{path}{unit}",
                        subscription,
                        types,
                        symbols[at : at + size],
                        instruments,
                        endpoints,
                        snapshot_limit=snapshot_limit,
                    )
                )
        return feeds

    def _check(self, subscription: Subscription, instruments: Mapping[str, Instrument]) -> None:
        for type_ in subscription.types:
            if type_ not in FEED_TYPES:
                raise UnknownNameError(
                    "type", type_, nearest(type_, FEED_TYPES), hint=f"one of {', '.join(FEED_TYPES)}"
                )
        if not subscription.types or not subscription.symbols:
            raise UsageError(f"{self.venue}: nothing to subscribe", hint="give at least one symbol and one type")
        if subscription.snapshot_every <= 0:
            raise UsageError(f"{self.venue}: snapshot_every must be positive, not {subscription.snapshot_every}")
        if "candles" in subscription.types:
            for interval in subscription.intervals:
                if interval not in self.intervals:
                    hint = f"one of {', '.join(self.intervals)}"
                    raise UsageError(f"{self.venue} has no candles of {interval!r}", hint=hint)
        for symbol in subscription.symbols:
            if symbol not in instruments:
                raise UnknownNameError(f"{self.venue} symbol", symbol, nearest(symbol, instruments))

    @cached_property
    def sequence_rule(self) -> SequenceRule:
        """The market's rule of continuity, for an ``OrderBookBuilder`` without a feed."""
        from .sync import rule_for

        return rule_for(self.market)

    def book_decoder(self) -> BookDecoder:
        """A decoder of full depth events into books, for use without a feed; see ``cmd_common.decoding``."""
        from cmd_common.decoding import BookDecoder

        from ._messages import MAX_FRAME, depth_delta
        from ._snapshots import read_snapshot

        name = "binance-futures" if self.market.futures else "binance-spot"
        return BookDecoder(name, depth_delta, snapshot=read_snapshot, limit=MAX_FRAME)

    def tick_decoder(self) -> TickDecoder:
        """A decoder of trades, aggregate trades and quotes, for use without a feed; see ``cmd_common.ticks``."""
        from cmd_common.ticks import TickDecoder

        from ._messages import MAX_FRAME
        from ._ticks import parser

        return TickDecoder(self.market.venue, parser(self.market.venue), limit=MAX_FRAME)

    def used_weight(self, response: HttpResponse) -> int | None:
        """The weight used in this minute as the exchange counts it."""
        return rest.used_weight(response)

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error; None for success."""
        return rest.check(self.market, response, url)

    def emulator(self, source: MarketSource) -> Emulator:
        """The server side of this market."""
        from .emulator import BinanceEmulator

        emulator: Emulator = BinanceEmulator(self.market, source)
        return emulator

    def recording_urls(self) -> Sequence[str]:
        """Host parts that mark this market's traffic in a recording."""
        return self.market.hosts


def _number(venue: str, name: str, options: Mapping[str, str], most: int) -> int:
    text = options[name]
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise UsageError(f"{venue}: option {name} is {text!r}", hint=f"a number from 1 to {most}")
    return int(text)


SPOT: Final = BinanceExchange(_markets.SPOT)
USDM: Final = BinanceExchange(_markets.USDM)
COINM: Final = BinanceExchange(_markets.COINM)
