"""Order books of many instruments: a mapping by name and an array by instrument id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from .errors import UnknownNameError, UsageError
from .orderbook import OrderBook
from .records import full_name
from .symbols import nearest

__all__ = ["MultiSymbolOrderBook", "UnknownBookError"]

_MAX_ID: Final = 1_000_000  # ids index an array: a larger one is a mistake, not an instrument


class UnknownBookError(UnknownNameError, KeyError):
    """No book has this name; a KeyError too, as mappings promise."""


class MultiSymbolOrderBook(Mapping[str, OrderBook]):
    """Books by full name ``venue:symbol`` and by integer id; a bare symbol is accepted where it is unique.

    Iteration yields full names in the order of adding. Ids are local to the process, small and dense;
    ``by_id`` is one list access. An id that was freed is given out again only when asked for by name.
    """

    __slots__ = ("_by_id", "_by_name", "_by_symbol", "_ids", "version")

    def __init__(self) -> None:
        self._by_name: dict[str, OrderBook] = {}
        self._by_symbol: dict[str, list[str]] = {}  # bare symbol -> full names
        self._by_id: list[OrderBook | None] = []
        self._ids: dict[str, int] = {}
        self.version = 0  # counts additions and removals, for those who follow them

    def add(
        self,
        venue: str,
        symbol: str,
        instrument_id: int | None = None,
        *,
        tick_size: Decimal | float | None = None,
        max_levels: int | None = None,
        book: OrderBook | None = None,
    ) -> OrderBook:
        """Add an empty book, or ``book``, and return it; without an id the next free one is taken.

        Raises UsageError when the name or the id is in use.
        """
        if not venue or not symbol or ":" in venue:
            raise UsageError(f"a book needs a venue and a symbol, not {venue!r} and {symbol!r}")
        name = full_name(venue, symbol)
        if name in self._by_name:
            raise UsageError(f"{name} has a book already")
        if instrument_id is None:
            instrument_id = len(self._by_id)
        if not 0 <= instrument_id < _MAX_ID:
            raise UsageError(f"instrument id {instrument_id} of {name} is not between 0 and {_MAX_ID - 1}")
        if instrument_id < len(self._by_id) and self._by_id[instrument_id] is not None:
            raise UsageError(f"instrument id {instrument_id} of {name} is in use")
        if book is None:
            book = OrderBook(tick_size, max_levels=max_levels, venue=venue, symbol=symbol)
        self._by_id.extend([None] * (instrument_id + 1 - len(self._by_id)))
        self._by_id[instrument_id] = book
        self._ids[name] = instrument_id
        self._by_name[name] = book
        self._by_symbol.setdefault(symbol, []).append(name)
        self.version += 1
        return book

    def remove(self, name: str) -> OrderBook:
        """Remove a book and return it; raises UnknownBookError."""
        name = self.resolve(name)
        book = self._by_name.pop(name)
        self._by_id[self._ids.pop(name)] = None
        symbol = name.partition(":")[2]
        self._by_symbol[symbol].remove(name)
        if not self._by_symbol[symbol]:
            del self._by_symbol[symbol]
        self.version += 1
        return book

    def resolve(self, name: str) -> str:
        """Return the full name for a full name or a bare symbol.

        Raises UnknownBookError with the nearest names, or with all candidates when a bare symbol is ambiguous.
        """
        if name in self._by_name:
            return name
        names = self._by_symbol.get(name)
        if names is None:
            raise UnknownBookError("order book", name, nearest(name, [*self._by_name, *self._by_symbol]))
        if len(names) > 1:
            raise UnknownBookError("order book", name, hint=f"say which: {', '.join(names)}")
        return names[0]

    def by_id(self, instrument_id: int) -> OrderBook:
        """Return the book with this id. O(1); raises UnknownBookError."""
        if 0 <= instrument_id < len(self._by_id):
            book = self._by_id[instrument_id]
            if book is not None:
                return book
        raise UnknownBookError("instrument id", str(instrument_id))

    def id_of(self, name: str) -> int:
        """Return the id of a book; raises UnknownBookError."""
        return self._ids[self.resolve(name)]

    def __getitem__(self, name: str) -> OrderBook:
        book = self._by_name.get(name)
        return self._by_name[self.resolve(name)] if book is None else book

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or (isinstance(name, str) and len(self._by_symbol.get(name, ())) == 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<MultiSymbolOrderBook of {len(self)} books>"

    def check(self) -> None:
        """Assert every invariant, of the books too; for tests and diagnosis."""
        assert self._ids.keys() == self._by_name.keys()
        assert sorted(n for names in self._by_symbol.values() for n in names) == sorted(self._by_name)
        assert sum(book is not None for book in self._by_id) == len(self._by_name)
        for name, book in self._by_name.items():
            assert self._by_id[self._ids[name]] is book
            assert name in self._by_symbol[name.partition(":")[2]]
            book.check()
