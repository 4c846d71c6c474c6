"""What happens on an emulated venue, in a form that knows no exchange: events, streams, and a world's questions.

A world is a simulation (``venue_simulation``) or a recording (``venue_recording``). It is a timeline of items
on named streams. Symbols are the venue's own, as in ``Instrument.symbol``:

    trades:SYM          Trade, one an item
    quotes:SYM          Quote: best bid and offer, whenever they change
    depth:SYM           BookChange: all levels that changed, about every 100 ms
    top:SYM:N           BookChange of the best N levels
    candles:SYM:1m      CandleUpdate: the open candle about every 2 s, and each closed one
    clock               Tick, every second of the timeline: for heartbeats and tickers

A recording's items are text instead, served as they came. Prices and quantities are text with the symbol's
decimals; a quantity of zero deletes a level. Times are ns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Literal, Protocol

from msgspec import Struct

from .emulation_base import Item
from .instruments import InstrumentKind

__all__ = [
    "BookChange",
    "BookView",
    "CandleUpdate",
    "Event",
    "Level",
    "Listed",
    "Quote",
    "Tick",
    "Trade",
    "VenueWorld",
    "split_stream",
]

Level = tuple[str, str]


class Listed(Struct, frozen=True):
    """One instrument of an emulated venue. Quantities are contracts where there is a ``contract_size``."""

    symbol: str
    base: str
    quote: str
    kind: InstrumentKind = "spot"
    price_decimals: int = 2
    quantity_decimals: int = 8
    contract_size: Decimal | None = None
    inverse: bool = False

    @property
    def tick(self) -> str:
        """The price step as text."""
        return _step(self.price_decimals)

    @property
    def lot(self) -> str:
        """The quantity step as text."""
        return _step(self.quantity_decimals)


class Trade(Struct, frozen=True, gc=False):
    """A trade; ``side`` is the aggressor's.

    ``id`` rises by one in a simulation. In a recording it is the venue's where that is a number, else the trade's
    place in the recording; ``name`` is the id as the venue wrote it there, empty in a simulation.
    """

    symbol: str
    id: int
    ts: int
    price: str
    quantity: str
    side: Literal["buy", "sell"]
    name: str = ""


class Quote(Struct, frozen=True, gc=False):
    """Best bid and offer; ``id`` rises."""

    symbol: str
    ts: int
    id: int
    bid: str
    bid_quantity: str
    ask: str
    ask_quantity: str


class BookChange(Struct, frozen=True):
    """Levels of a book that changed, with their quantities now; zero deletes.

    ``prev_id`` is ``last_id`` of the stream's message before. Between them lie the ids of single changes;
    ``number`` counts the stream's messages one by one, for venues that number those.
    """

    symbol: str
    ts: int
    first_id: int
    last_id: int
    prev_id: int
    number: int
    bids: Sequence[Level]
    asks: Sequence[Level]


class BookView(Struct, frozen=True):
    """A book at the stream's position, best first; the next BookChange has ``prev_id == last_id``, ``number + 1``."""

    symbol: str
    ts: int
    last_id: int
    number: int
    bids: Sequence[Level]
    asks: Sequence[Level]


class CandleUpdate(Struct, frozen=True):
    """A candle as it is at ``ts``; ``close_time`` is exclusive; ``count`` 0: no trade, all prices are the last one.

    ``amount`` is the quote quantity, of inverse contracts the base quantity.
    """

    symbol: str
    interval: str
    ts: int
    open_time: int
    close_time: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    amount: str
    buy_volume: str
    buy_amount: str
    count: int
    first_id: int
    last_id: int
    closed: bool


class Tick(Struct, frozen=True):
    """A second of the timeline; ``number`` counts them from 0."""

    ts: int
    number: int


Event = Trade | Quote | BookChange | CandleUpdate | Tick


def split_stream(stream: str) -> tuple[str, str, str]:
    """Split a stream's name into kind, symbol (which may hold colons of its own) and rest (N, interval or empty)."""
    kind, _, tail = stream.partition(":")
    if kind in ("top", "candles"):
        symbol, _, rest = tail.rpartition(":")
        return kind, symbol, rest
    return kind, tail, ""


def _step(decimals: int) -> str:
    return f"0.{'0' * (decimals - 1)}1" if decimals else "1"


class VenueWorld(Protocol):
    """A World (see ``emulation_base``) with the questions that REST and archive ask.

    Trades "passed" are those that the timeline has reached; lists are oldest first; ``day_*`` are whole days.
    """

    start: int
    position: int
    clock: int  # the exchange's own clock at the position, ns
    symbols: tuple[str, ...]
    reference: bytes | None  # recorded reference data, verbatim, where it is given

    def next_time(self) -> int | None:
        """See ``World``."""

    def step(self) -> Iterable[Item]:
        """See ``World``."""

    def finish(self) -> Iterable[Item]:
        """See ``World``."""

    def resolve(self, stream: str) -> str | None:
        """Return the stream that serves a wanted one; None where nothing will come."""

    def subscribed(self, stream: str) -> None:
        """Somebody listens to a stream now."""

    def listed(self) -> list[Listed]:
        """All instruments."""

    def body(self, path: str) -> bytes | None:
        """The last recorded REST body whose path (with query) begins so and that is no book; None: there is none."""

    def book_known(self, symbol: str) -> bool:
        """Whether a book can be given now."""

    def book_possible(self, symbol: str) -> bool:
        """Whether a book can ever be given."""

    def book(self, symbol: str, limit: int | None = None) -> BookView:
        """The best levels of the book now."""

    def first_book(self, symbol: str, limit: int | None = None) -> BookView:
        """The first book that the timeline will have."""

    def view(self, stream: str) -> BookView | None:
        """The book that a subscriber of a book stream has now; None where it is not known."""

    def trades_from(self, symbol: str, trade_id: int, count: int) -> list[Trade]:
        """Passed trades with this id or a later one, the first ``count``."""

    def trades_before(self, symbol: str, trade_id: int, count: int) -> list[Trade]:
        """Passed trades with an earlier id, the last ``count``."""

    def trades_between(self, symbol: str, start: int, end: int) -> list[Trade]:
        """Passed trades with ``start <= ts < end``."""

    def latest_trades(self, symbol: str, count: int) -> list[Trade]:
        """The last passed trades."""

    def candles(self, symbol: str, interval: str, start: int, end: int) -> list[CandleUpdate]:
        """Candles of the passed trades with ``start <= open_time <= end``; the last may be open. Empty ones are there."""

    def days(self, symbol: str) -> list[date]:
        """UTC days that have trades."""

    def day_trades(self, symbol: str, day: date) -> list[Trade]:
        """All trades of a UTC day."""

    def day_candles(self, symbol: str, day: date, interval: str) -> list[CandleUpdate]:
        """All candles of a UTC day, from its first instant."""

    def books(self, depth: int) -> dict[str, Any]:
        """The true books, for ``truth``."""

    def passed(self) -> dict[str, Any]:
        """First and last id and number of the passed trades of each symbol, for ``truth``."""

    def passed_trades(self, symbol: str) -> list[Trade]:
        """All trades that the timeline has passed since its start."""

    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""
