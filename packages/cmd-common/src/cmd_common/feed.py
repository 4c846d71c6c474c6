"""The sans-I/O protocol of one exchange connection: frames and a time in, records and actions out.

A ``Feed`` never sees a socket, a clock, a thread or ``await``. The shell (cmd-feed live, a test, a
recording or a simulation) calls it and carries out the actions that it returns. One Feed is one
WebSocket connection; a venue whose streams need several connections returns several Feeds.
``now`` is wall time in ns UTC and is what ``ts_recv`` becomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from .http import HttpRequest
from .records import Record

if TYPE_CHECKING:
    from .builder import OrderBookBuilder

__all__ = [
    "AGGREGATE",
    "FEED_TYPES",
    "Action",
    "Feed",
    "FeedCounters",
    "FetchSnapshot",
    "Output",
    "Reconnect",
    "Resubscribe",
    "SESSION_TYPES",
    "Send",
    "Subscription",
]

FEED_TYPES = ("trades", "agg_trades", "quotes", "candles", "book")
"""What can be subscribed to; ``book`` yields book_snapshots and book_deltas."""
AGGREGATE = "aggregate"
SESSION_TYPES = (*FEED_TYPES, AGGREGATE)
"""What a session can record: ``aggregate`` is made from the books of all its venues."""


class Subscription(Struct, frozen=True):
    """What to record from one venue: native symbols and types of ``FEED_TYPES``."""

    symbols: tuple[str, ...]
    types: tuple[str, ...]
    intervals: tuple[str, ...] = ("1m",)  # of candles
    depth: int | None = None  # None: full book; else the exchange's partial depth of so many levels
    snapshot_every: int = 60_000_000_000  # ns of event time between periodic BookSnapshots
    options: Mapping[str, str] = field(default_factory=dict)  # a venue's own settings


class Send(Struct, frozen=True):
    """Send this text frame, within the venue's message rate."""

    frame: str


class FetchSnapshot(Struct, frozen=True):
    """Make this request and hand its body to ``Feed.snapshot``; lower ``priority`` goes first."""

    symbol: str
    request: HttpRequest
    priority: int = 0


class Resubscribe(Struct, frozen=True):
    """Unsubscribe and subscribe this symbol's book stream: the venue sends its snapshot in the stream."""

    symbol: str
    frames: tuple[str, ...]


class Reconnect(Struct, frozen=True):
    """Close this connection and open a new one; ``planned``: there is time to open the new one first."""

    reason: str
    planned: bool = False


Action = Send | FetchSnapshot | Resubscribe | Reconnect


class Output(Struct):
    """What a call of a Feed produced, in order."""

    records: list[Record] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)


class FeedCounters(Struct):
    """Counts since the Feed was made."""

    messages: int = 0
    records: int = 0
    gaps: int = 0
    resyncs: int = 0
    duplicates: int = 0
    unknown_messages: int = 0  # event types that this version does not know
    unknown_fields: int = 0
    malformed: int = 0
    errors: int = 0  # error replies of the exchange
    skipped: int = 0  # known messages that are no record by a rule, such as fills that are not trades


class Feed(Protocol):
    """One exchange connection without I/O."""

    venue: str
    name: str  # unique in the process, such as binance-usdm/public-0
    url: str  # WebSocket URL to open
    books: dict[str, OrderBookBuilder]  # by native symbol
    counters: FeedCounters

    @property
    def symbols(self) -> Sequence[str]:
        """Native symbols that are subscribed now."""

    def connected(self, now: int) -> Output:
        """The connection is open: subscribe; the records are FeedStatus rows."""

    def disconnected(self, now: int, reason: str) -> Output:
        """The connection was lost: books become STALE, open streams get a Gap when data is back."""

    def receive(self, frame: str | bytes, now: int) -> Output:
        """Take one data frame. Never raises for what an exchange may send: it counts and reports."""

    def snapshot(self, symbol: str, body: bytes, now: int) -> Output:
        """Take the body that a FetchSnapshot asked for."""

    def snapshot_failed(self, symbol: str, reason: str, now: int) -> Output:
        """A FetchSnapshot was given up; the feed may ask again or report."""

    def tick(self, now: int) -> Output:
        """Called about once a second: heartbeats, silence, retries that wait for time."""

    def add(self, symbols: Sequence[str], now: int) -> Output:
        """Subscribe more symbols while connected."""

    def remove(self, symbols: Sequence[str], now: int) -> Output:
        """Unsubscribe symbols while connected; their books are dropped."""

    def close(self, now: int) -> Output:
        """End of the session: final records (nothing is sent)."""
