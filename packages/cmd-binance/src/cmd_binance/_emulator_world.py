"""What both kinds of world (recording, simulation) give to the emulator beyond their timelines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Protocol

from msgspec import Struct

from cmd_common.emulation_base import Item
from cmd_common.simulation import MarketTrade

from ._emulator_market import Agg, Bar, Numbers

__all__ = ["BinanceWorld", "Level", "Listed", "Snapshot", "split_stream"]

Level = tuple[str, str]


class Snapshot(Struct, frozen=True):
    """A book at the stream's position, best first, in the exchange's own texts."""

    last_id: int
    ts: int
    bids: Sequence[Level]
    asks: Sequence[Level]


class Listed(Struct, frozen=True):
    """One instrument as exchangeInfo describes it; sizes as text."""

    symbol: str
    base: str
    quote: str
    tick: str
    lot: str
    contract_size: int = 0


def split_stream(name: str) -> tuple[str, str, int | None]:
    """Split ``btcusdt@depth20@100ms`` into symbol, type (``depth20``) and speed in ms (None: not given)."""
    symbol, _, rest = name.partition("@")
    kind, _, speed = rest.partition("@")
    if speed.endswith("ms") and speed[:-2].isdigit():
        return symbol.upper(), kind, int(speed[:-2])
    return symbol.upper(), rest, None


class BinanceWorld(Protocol):
    """A World (see ``emulation_base``) with the questions that REST and archive ask.

    Trades "passed" are those that the timeline has reached; ``day_*`` are whole days of the archive.
    """

    start: int
    position: int
    clock: int  # the exchange's own clock at the position, ns
    symbols: tuple[str, ...]
    exchange_info: bytes | None  # verbatim, where it is given

    def next_time(self) -> int | None: ...
    def step(self) -> Iterable[Item]: ...
    def finish(self) -> Iterable[Item]: ...

    def resolve(self, name: str) -> str | None:
        """Return the world's stream that serves a requested name."""

    def subscribed(self, stream: str) -> None:
        """Somebody listens to a stream now."""

    def listed(self) -> list[Listed]:
        """All instruments."""

    def numbers(self, symbol: str) -> Numbers:
        """How a symbol's numbers are written."""

    def book_known(self, symbol: str) -> bool:
        """Whether a snapshot can be given now."""

    def book_possible(self, symbol: str) -> bool:
        """Whether a snapshot can ever be given."""

    def snapshot(self, symbol: str, limit: int) -> Snapshot:
        """The book now."""

    def first_snapshot(self, symbol: str, limit: int) -> Snapshot:
        """The first book that the timeline will have."""

    def trades_from(self, symbol: str, trade_id: int, count: int) -> list[MarketTrade]:
        """Passed trades from an id on."""

    def latest_trades(self, symbol: str, count: int) -> list[MarketTrade]:
        """The last passed trades, oldest first."""

    def aggs_from(self, symbol: str, number: int, count: int) -> list[Agg]:
        """Passed aggregate trades from an id on."""

    def aggs_between(self, symbol: str, start: int, end: int, count: int) -> list[Agg]:
        """Passed aggregate trades with ``start <= ts <= end``, the first ``count``."""

    def latest_aggs(self, symbol: str, count: int) -> list[Agg]:
        """The last passed aggregate trades, oldest first."""

    def bars(self, symbol: str, interval: str, start: int, end: int) -> list[Bar]:
        """Candles of the passed trades with ``start <= open_time <= end``; the last may be open."""

    def days(self, symbol: str) -> list[date]:
        """Days of the bulk archive."""

    def day_trades(self, symbol: str, day: date) -> list[MarketTrade]:
        """All trades of a day."""

    def day_aggs(self, symbol: str, day: date) -> list[Agg]:
        """All aggregate trades of a day."""

    def day_bars(self, symbol: str, day: date, interval: str) -> list[Bar]:
        """All candles of a day."""

    def archive_bars(self, symbol: str, interval: str) -> list[Bar]:
        """All candles of the days of the archive, for intervals longer than a day."""

    def books(self, depth: int) -> dict[str, Any]:
        """The true books."""

    def passed(self) -> dict[str, Any]:
        """First and last id and number of the passed trades of each symbol."""

    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""
