"""The order books of a client: one for each instrument and depth that is subscribed, kept in step with its stream."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

from cmd_common.multibook import MultiSymbolOrderBook, UnknownBookError
from cmd_common.orderbook import OrderBook
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, full_name
from cmd_common.replica import BookReplica
from cmd_common.sequence import BookState
from cmd_server.messages import Kind, view_text

from .events import BookChanged, Item

__all__ = ["LocalBook", "LocalBooks", "Stream"]

_LIVE: Final = BookState.LIVE


class LocalBook:
    """One book and what it was last said to be."""

    __slots__ = ("_away", "_told", "book", "replica", "symbol", "venue", "view")

    def __init__(self, venue: str, symbol: str, view: int) -> None:
        self.venue = venue
        self.symbol = symbol
        self.view = view
        self.replica = BookReplica(venue, symbol)
        self.book: OrderBook = self.replica.book
        self._told = BookState.EMPTY
        self._away = False  # its stream may go on where it was: it was LIVE when the connection went

    def set_tick_size(self, text: str) -> None:
        """Take the tick size of the instrument's reference data; text that is none is left out."""
        try:
            size = Decimal(text)
        except InvalidOperation:
            return
        if size.is_finite() and size > 0:
            self.book.tick_size = size

    def delta(self, delta: BookDelta, out: list[Item]) -> None:
        """Take the next change of its stream. O(levels given)."""
        if self._away:
            self.back(out)
        self.replica.apply(delta)
        if self.book.state is not self._told:
            self._tell("an update that does not belong to it", out)

    def snapshot(self, snapshot: BookSnapshot, out: list[Item]) -> None:
        """Take a whole book. O(n log n)."""
        self._away = False
        self.replica.load(snapshot)
        self._tell("snapshot", out)

    def status(self, status: FeedStatus, replayed: bool, out: list[Item]) -> None:
        """Take what the server says about the state of its own book; one that was replayed may be the older news."""
        if replayed and status.ts_recv < self.replica.ts_recv:
            return
        if self._away:
            self.back(out)
        self.replica.status(status)
        self._tell(status.reason, out)

    def lose(self, reason: str, out: list[Item]) -> None:
        """Say that messages of its stream are lost: the next snapshot begins it again."""
        self._away = False
        self.replica.lose()
        self._tell(reason, out)

    def away(self, out: list[Item]) -> None:
        """Say that the connection is gone: STALE, but it may go on where it was."""
        if self.book.state is _LIVE:
            self._away = True
            self.book.state = BookState.STALE
            self._tell("disconnected", out)

    def back(self, out: list[Item]) -> None:
        """Say that its stream goes on where it was."""
        if self._away:
            self._away = False
            self.book.state = _LIVE
            self._tell("resumed", out)

    def _tell(self, reason: str, out: list[Item]) -> None:
        state = self.book.state
        if state is not self._told:
            self._told = state
            out.append(BookChanged(self.venue, self.symbol, view_text(Kind.BOOK, self.view), state, reason))


class Stream:
    """One stream as this client sees it: where it is, and the book that it feeds."""

    __slots__ = ("book", "gapped", "retired", "seq", "symbol", "venue")

    def __init__(self, venue: str, symbol: str, seq: int, book: LocalBook | None) -> None:
        self.venue = venue
        self.symbol = symbol
        self.seq = seq
        self.book = book
        self.gapped = False  # what was lost is told, and what stands for it is awaited
        self.retired = False  # no topic asks for it any more; what was sent before may still come


class LocalBooks:
    """All books of a client; ``mapping`` has the deepest of each instrument."""

    def __init__(self) -> None:
        self.mapping = MultiSymbolOrderBook()
        self._books: dict[tuple[str, str], dict[int, LocalBook]] = {}

    def open(self, venue: str, symbol: str, view: int) -> LocalBook:
        """Return the book of a stream, made where it is new."""
        views = self._books.setdefault((venue, symbol), {})
        if view not in views:
            views[view] = LocalBook(venue, symbol, view)
            name = full_name(venue, symbol)
            deepest = views[_deepest(views)].book
            if name not in self.mapping:
                self.mapping.add(venue, symbol, book=deepest)
            elif self.mapping[name] is not deepest:
                number = self.mapping.id_of(name)
                self.mapping.remove(name)
                self.mapping.add(venue, symbol, number, book=deepest)
        return views[view]

    def of(self, name: str, view: int | None) -> OrderBook:
        """Return a book by name and depth (0: whole, None: the deepest there is); raises UnknownBookError."""
        book = self.mapping[name]
        if view is None:
            return book
        found = self._books[book.venue, book.symbol].get(view)
        if found is None:
            raise UnknownBookError(
                f"depth of {name}", str(view), hint=f"subscribe to book{f'@{view}' if view else ''} {name}"
            )
        return found.book

    def status(self, record: FeedStatus, replayed: bool, out: list[Item]) -> None:
        """Take a change of a book's state, for every depth of it."""
        for book in self._books.get((record.venue, record.symbol), {}).values():
            book.status(record, replayed, out)

    def away(self, out: list[Item]) -> None:
        """Say that the connection is gone."""
        for views in self._books.values():
            for book in views.values():
                book.away(out)

    def back(self, out: list[Item]) -> None:
        """Say that all streams that lost nothing go on."""
        for views in self._books.values():
            for book in views.values():
                book.back(out)

    def check(self) -> None:
        """Assert every invariant; for tests."""
        self.mapping.check()
        for (venue, symbol), views in self._books.items():
            assert self.mapping[full_name(venue, symbol)] is views[_deepest(views)].book
            for book in views.values():
                assert book.book.state is book._told


def _deepest(views: dict[int, LocalBook]) -> int:
    return 0 if 0 in views else max(views)
