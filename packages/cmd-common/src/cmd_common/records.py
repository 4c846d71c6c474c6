"""The records that every feed produces and every store, server and client takes.

All times are int nanoseconds since the Unix epoch, UTC. ``ts_event`` is the exchange's clock,
``ts_recv`` ours; the difference may be negative because clocks differ. ``price`` and ``quantity``
are float64 parsed from the exchange's text. Quantities are in the instrument's own unit: the base
asset on spot and linear markets, contracts where ``Instrument.contract_size`` is set.

A book side is packed: little-endian float64, price and quantity alternating, best level first.
``levels`` views it as tuples, ``numpy.frombuffer(side).reshape(-1, 2)`` as an array without a copy.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from msgspec import Struct

__all__ = [
    "CROSSED",
    "INEXACT",
    "LAST_IN_EVENT",
    "RECORD_TYPES",
    "REST",
    "SIDES",
    "SNAPSHOT",
    "TABLE_OF",
    "TS_FROM_RECV",
    "AggTrade",
    "AggregatedBook",
    "BookDelta",
    "BookSnapshot",
    "Candle",
    "FeedStatus",
    "Gap",
    "InstrumentRecord",
    "Quote",
    "Record",
    "Side",
    "Trade",
    "full_name",
    "levels",
    "pack_levels",
    "venue_levels",
]

Side = Literal["buy", "sell", "unknown"]
SIDES: Final = ("buy", "sell", "unknown")

# Flag bits of the ``flags`` field. 0 means: exact, stamped by the exchange, from the live stream.
TS_FROM_RECV: Final = 1  # the message carries no exchange time: ts_event is a copy of ts_recv
INEXACT: Final = 2  # a number had more digits than float64 keeps; the text is in the raw recording
SNAPSHOT: Final = 4  # part of a full book, not a change
LAST_IN_EVENT: Final = 8  # last record of one exchange message
REST: Final = 16  # fetched by request, not pushed
CROSSED: Final = 32  # best bid at or above best ask, in a book merged over venues


class Trade(Struct, frozen=True, tag="trade", gc=False):
    """One executed trade; ``side`` is the aggressor's (taker's)."""

    ts_event: int
    ts_recv: int
    venue: str
    symbol: str
    trade_id: str  # the exchange's own id, as text: some exchanges use UUIDs
    trade_seq: int | None  # the id as a number where it is one
    price: float
    quantity: float
    side: Side
    flags: int = 0


class AggTrade(Struct, frozen=True, tag="agg_trade", gc=False):
    """Trades of one taker order at one price, merged by the exchange."""

    ts_event: int
    ts_recv: int
    venue: str
    symbol: str
    trade_id: str  # id of the aggregate
    trade_seq: int | None
    first_trade_id: int
    last_trade_id: int
    price: float
    quantity: float
    side: Side
    flags: int = 0


class Quote(Struct, frozen=True, tag="quote", gc=False):
    """Best bid and best offer at one moment."""

    ts_event: int
    ts_recv: int
    venue: str
    symbol: str
    seq: int  # the venue's update id, or our own count where it has none
    bid_price: float
    bid_quantity: float
    ask_price: float
    ask_quantity: float
    flags: int = 0


CandleState = Literal["provisional", "final", "corrected"]
CandleSource = Literal["exchange", "built"]


class Candle(Struct, frozen=True, tag="candle", gc=False):
    """Open, high, low, close and volume of ``[open_time, close_time)``.

    An interval without a trade has ``trades == 0`` and all four prices equal to the last close.
    """

    open_time: int
    close_time: int  # exclusive: the open time of the next interval
    ts_event: int  # exchange time of the message or of the last trade that shaped it
    ts_recv: int
    venue: str
    symbol: str
    interval: str
    source: CandleSource
    state: CandleState
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trades: int
    taker_buy_volume: float
    taker_buy_quote_volume: float
    flags: int = 0


class BookSnapshot(Struct, frozen=True, tag="book_snapshot", gc=False):
    """A full order book as of update ``seq``; only ever made from a LIVE book."""

    ts_event: int
    ts_recv: int
    venue: str
    symbol: str
    epoch: int  # update id of the exchange's snapshot that began the unbroken chain of updates
    seq: int
    known_bids: int  # levels from the touch that are known to be complete
    known_asks: int
    bids: bytes
    asks: bytes
    flags: int = SNAPSHOT


class BookDelta(Struct, frozen=True, tag="book_delta", gc=False):
    """Absolute new sizes of the levels that one exchange message changed; size 0 deletes."""

    ts_event: int
    ts_recv: int
    venue: str
    symbol: str
    epoch: int
    seq: int  # last update id of the message
    first_seq: int  # first update id of the message
    bids: bytes
    asks: bytes
    flags: int = 0


class AggregatedBook(Struct, frozen=True, tag="aggregated_book", gc=False):
    """One instrument's book over several venues, top levels.

    ``ts_event`` is the newest exchange time among the books that are in it. A level at which two venues
    offer is two triples of one price, venue by venue; ``venue_levels`` unpacks a side.
    """

    ts_event: int
    ts_recv: int
    instrument: str  # unified name, BTC-USDT
    seq: int  # 0; counts the rows that are not newer than all rows before them
    venues: str  # comma list ``venue:symbol`` of the books that are in it
    excluded: str  # comma list ``venue:symbol=reason`` of those that are not
    bids: bytes  # packed triples: price, base quantity, index into ``venues``; best price first
    asks: bytes
    crossed_for: int | None = None  # ns since it has been crossed or locked; None: it is not
    flags: int = SNAPSHOT


class FeedStatus(Struct, frozen=True, tag="feed_status", gc=False):
    """A connection, stream or book changed its state."""

    ts_event: int
    ts_recv: int
    venue: str
    symbol: str  # empty: the whole connection
    record_type: str  # empty: all of them; "book" for a book's state
    connection: str
    state: str  # connected, disconnected, EMPTY, SYNCING, LIVE, STALE, silent, ...
    reason: str
    flags: int = 0


class Gap(Struct, frozen=True, tag="gap", gc=False):
    """Data that is known to be missing or untrusted between two moments.

    ``first_id`` and ``last_id`` name the missing ids, both inclusive, where the stream has ids.
    The same gap written again (same key) with ``repaired_by`` set marks its repair.
    """

    ts_from: int
    ts_to: int
    venue: str
    symbol: str
    record_type: str  # a table name
    reason: str  # disconnect, sequence, trade_id, silence, overflow, malformed, missing_file, ...
    severity: str  # lost, suspect
    first_id: int | None = None
    last_id: int | None = None
    repaired_by: str = ""
    detail: str = ""


class InstrumentRecord(Struct, frozen=True, tag="instrument", gc=False):
    """Reference data of one instrument as of ``ts_event``; decimals as exact text."""

    ts_event: int
    ts_recv: int
    venue: str
    symbol: str
    base: str
    quote: str
    settle: str
    kind: str
    tick_size: str
    lot_size: str
    min_quantity: str
    min_notional: str
    contract_size: str  # empty where quantities are in the base asset
    inverse: bool
    expiry: int | None
    status: str


Record = (
    Trade | AggTrade | Quote | Candle | BookSnapshot | BookDelta | AggregatedBook | FeedStatus | Gap | InstrumentRecord
)

TABLE_OF: Final[dict[type[Struct], str]] = {
    Trade: "trades",
    AggTrade: "agg_trades",
    Quote: "quotes",
    Candle: "candles",
    BookSnapshot: "book_snapshots",
    BookDelta: "book_deltas",
    AggregatedBook: "aggregated_books",
    FeedStatus: "feed_status",
    Gap: "gaps",
    InstrumentRecord: "instruments",
}
RECORD_TYPES: Final[dict[str, type[Struct]]] = {table: cls for cls, table in TABLE_OF.items()}

_BIG_ENDIAN: Final = sys.byteorder == "big"
_PAIR: Final = struct.Struct("<dd")
_TRIPLE: Final = struct.Struct("<ddd")


def pack_levels(pairs: Iterable[tuple[float, float]]) -> bytes:
    """Pack ``(price, quantity)`` pairs as alternating little-endian float64, in the given order."""
    flat = array("d")
    for price, quantity in pairs:
        flat.append(price)
        flat.append(quantity)
    if _BIG_ENDIAN:
        flat.byteswap()
    return flat.tobytes()


def levels(side: bytes | memoryview) -> Iterator[tuple[float, float]]:
    """Yield the ``(price, quantity)`` pairs of a packed side, in stored order."""
    return _PAIR.iter_unpack(side)


def venue_levels(side: bytes | memoryview) -> Iterator[tuple[float, float, int]]:
    """Yield ``(price, quantity, index into venues)`` of a packed side of an AggregatedBook, in stored order."""
    for price, quantity, venue in _TRIPLE.iter_unpack(side):
        yield price, quantity, int(venue)


def full_name(venue: str, symbol: str) -> str:
    """Return the name that is unique over venues, ``venue:symbol``."""
    return f"{venue}:{symbol}"
