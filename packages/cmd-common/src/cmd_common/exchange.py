"""What an exchange package gives: one ``Exchange`` a venue, found by entry point ``cmd.exchanges``.

An Exchange is a factory and a set of pure functions; it does no I/O. ``docs/add-an-exchange.md``
tells how to write one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import urlsplit

from msgspec import Struct

from .archive import ArchiveSource
from .errors import UsageError, VenueError
from .feed import Feed, Subscription
from .history import HistorySource
from .http import HttpRequest, HttpResponse
from .instruments import Instrument

if TYPE_CHECKING:
    from .emulation import Emulator, MarketSource

__all__ = [
    "Endpoints",
    "Exchange",
    "Limits",
    "PagedInstruments",
    "ServerTime",
    "live_intervals",
    "next_instruments_request",
    "server_time",
]


class Endpoints(Struct, frozen=True):
    """Base URLs of one venue, without a trailing slash."""

    ws: str
    rest: str
    archive: str = ""  # base of bulk files; empty: none
    listing: str = ""  # base of the bulk listing

    def override(self, url: str) -> Endpoints:
        """Point everything at one address, as cmd-replay serves it; ``http://HOST:PORT``."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"endpoint {url!r} is not a URL", hint="give http://HOST:PORT")
        base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        ws = ("wss" if parts.scheme == "https" else "ws") + base[len(parts.scheme) :]
        return Endpoints(ws=ws, rest=base, archive=base if self.archive else "", listing=base if self.listing else "")


class Limits(Struct, frozen=True):
    """A venue's published limits; 0 means that none is published."""

    weight_per_minute: int
    weight_pool: str  # venues with the same pool share one budget (Binance USD-M and COIN-M)
    messages_per_second: int  # outgoing WebSocket frames a connection, pings included
    connects_per_5min: int
    streams_per_connection: int
    connection_lifetime: int  # ns


class ServerTime(Struct, frozen=True):
    """Where a venue tells its time: a path below its REST address, where the number is in the answer, and its unit in ns.

    An Exchange that has one keeps it as ``server_time``; of others the header ``Date`` is read.
    """

    path: str
    fields: tuple[str | int, ...]
    unit: int


class Exchange(Protocol):
    """One venue: its instruments, live feeds, REST, archive and emulator."""

    venue: str
    title: str
    types: tuple[str, ...]  # of FEED_TYPES that the venue can stream
    intervals: tuple[str, ...]  # candle intervals, live or of history
    endpoints: Endpoints  # production defaults
    limits: Limits
    archive: ArchiveSource | None  # bulk files, where the exchange publishes them
    history: HistorySource | None  # REST history, page by page

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        """The request whose body ``parse_instruments`` takes."""

    def parse_instruments(self, body: bytes) -> list[Instrument]:
        """Parse reference data; raises ProtocolError."""

    def feeds(
        self, subscription: Subscription, instruments: Mapping[str, Instrument], endpoints: Endpoints
    ) -> list[Feed]:
        """Make the Feeds (one a connection) that cover a subscription; raises UsageError for a type or
        interval that the venue does not have. ``instruments`` maps native symbols.
        """

    def used_weight(self, response: HttpResponse) -> int | None:
        """The weight used in this minute as the exchange counts it, where it says so."""

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        """Turn an error response into a typed error with clear words; None for success."""

    def emulator(self, source: MarketSource) -> Emulator:
        """A server side of this venue without I/O, that serves ``source`` as the exchange itself."""

    def recording_urls(self) -> Sequence[str]:
        """What marks this venue's traffic in a recording's ``url``: beginnings of host and path, or of a host's label."""


@runtime_checkable
class PagedInstruments(Protocol):
    """What an Exchange has in addition whose reference data takes several requests (pages, kinds of market)."""

    def next_instruments_request(self, request: HttpRequest, body: bytes, endpoints: Endpoints) -> HttpRequest | None:
        """The request that follows ``request``, which was answered by ``body``; None: that was the last.

        ``parse_instruments`` takes each body, and the lists are joined. Raises ProtocolError.
        """


def next_instruments_request(
    exchange: Exchange, request: HttpRequest, body: bytes, endpoints: Endpoints
) -> HttpRequest | None:
    """The next request for an exchange's reference data, None where one answer holds all of it."""
    if not isinstance(exchange, PagedInstruments):
        return None
    following: HttpRequest | None = exchange.next_instruments_request(request, body, endpoints)
    return following


def live_intervals(exchange: Exchange) -> tuple[str, ...]:
    """The candle intervals that are streamed: ``exchange.live_intervals`` where it differs from ``intervals``."""
    found: tuple[str, ...] = getattr(exchange, "live_intervals", exchange.intervals)
    return found


def server_time(exchange: Exchange) -> ServerTime | None:
    """Where an exchange tells its time, None where it has no request for it."""
    found: ServerTime | None = getattr(exchange, "server_time", None)
    return found
