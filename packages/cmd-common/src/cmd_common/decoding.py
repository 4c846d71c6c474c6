"""Depth messages of one venue into order books, without a feed: for whoever has a connection of their own.

A decoder is given the venue's name for its messages and its parser; a venue's package makes it, such as
``cmd_binance.SPOT.book_decoder()``. Where cmd-native is there, one call takes a usual message from its bytes into the
book: decoded, judged by the venue's rule of continuity and applied, without an object a level. Whatever is unusual
about a message, and every message without cmd-native, goes through the parser and ``OrderBookBuilder.delta``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import _native
from .builder import Applied, Delta, OrderBookBuilder, SnapshotResult
from .errors import UsageError
from .feed_books import ParsedBook, best_first
from .orderbook import OrderBook
from .records import levels

if TYPE_CHECKING:
    from cmd_native._native import DepthPath, Taken

__all__ = ["BookDecoder", "DepthParser", "SnapshotParser"]

DepthParser = Callable[[str | bytes], tuple[str, Delta] | None]
"""Parses one message: its symbol and what ``OrderBookBuilder.delta`` takes, or None where it is no depth message.

Passes over unknown keys; raises DataError for damage."""

SnapshotParser = Callable[[OrderBook, bytes], ParsedBook]
"""Parses a snapshot for a book; raises DataError for damage."""

_APPLIED: Final = Applied.APPLIED


class BookDecoder:
    """Takes depth messages of one venue into the books of the symbols that were added.

    ``format`` is the venue's name for them as cmd-native knows it, ``limit`` the longest frame in bytes that is
    decoded natively. The caller says when the stream is subscribed (``OrderBookBuilder.start``) and gets snapshots; their
    bytes go to ``snapshot``.
    """

    __slots__ = ("_builders", "_parse", "_parse_snapshot", "_path", "take", "top")

    take: Callable[[str | bytes], OrderBook | None]
    """Take one frame: the book that it was applied to and that is LIVE with it, else None.

    None is for what is no depth message, for symbols that were not added, and for what the builder buffered,
    dropped as a repeat, or found to be a gap: ``OrderBookBuilder.state`` and ``needs_snapshot`` tell, as always.
    Raises DataError for a damaged depth message. O(levels in the frame)."""

    top: Callable[[str | bytes], tuple[float, float, float, float] | None]
    """Take one frame as ``take`` does: the ``top`` of the book that it was applied to, in the same call; else None."""

    def __init__(
        self,
        format: str,
        parse: DepthParser,
        *,
        snapshot: SnapshotParser | None = None,
        limit: int = 16 * 1024 * 1024,
    ) -> None:
        self._builders: dict[str, OrderBookBuilder] = {}
        self._parse = parse
        self._parse_snapshot = snapshot
        module = _native.module
        self._path: DepthPath | None = None
        if module is None:
            self.take = self._take
            self.top = self._top
        else:
            path: DepthPath = module.DepthPath(format, limit, self._unusual)
            path.lenient = True  # as the parser is
            self._path = path
            self.take = path.apply  # the method itself, so that a message costs one call
            self.top = path.top

    @property
    def native(self) -> bool:
        """Whether cmd-native decodes."""
        return self._path is not None

    def add(self, builder: OrderBookBuilder) -> None:
        """Add a book under its ``symbol``, in place of one that had the symbol before.

        Raises UsageError for a book without a symbol.
        """
        book = builder.book
        if not book.symbol:
            raise UsageError(
                "a book that messages are decoded for needs its symbol", hint="OrderBook(symbol='BTCUSDT')"
            )
        self._builders[book.symbol] = builder
        if self._path is not None:
            assert _native.module is not None
            if isinstance(book, _native.module.OrderBook):
                self._path.add(book.symbol, book, book)
            else:  # a book in Python is kept up to date in Python
                self._path.remove(book.symbol)

    def remove(self, symbol: str) -> None:
        """Let go of a book; a symbol that was not added is passed over."""
        self._builders.pop(symbol, None)
        if self._path is not None:
            self._path.remove(symbol)

    def snapshot(self, symbol: str, body: bytes) -> SnapshotResult:
        """Take a snapshot's bytes into the book of a symbol, as ``OrderBookBuilder.snapshot`` does.

        Raises DataError for a damaged one, UsageError where the symbol was not added or the venue's snapshots come
        in its stream. O(levels).
        """
        builder = self._builders.get(symbol)
        if builder is None or self._parse_snapshot is None:
            why = f"{symbol} was not added" if builder is None else "this venue has no snapshots to be asked for"
            raise UsageError(f"a snapshot that no book waits for: {why}")
        parsed = self._parse_snapshot(builder.book, body)
        return builder.snapshot(
            parsed.id,
            best_first(parsed.bids, True),
            best_first(parsed.asks, False),
            complete=parsed.complete,
            ts_event=parsed.ts,
        )

    def _take(self, frame: str | bytes) -> OrderBook | None:
        parsed = self._parse(frame)
        if parsed is None:
            return None
        symbol, delta = parsed
        builder = self._builders.get(symbol)
        if builder is None or builder.delta(*delta) is not _APPLIED:
            return None
        return builder.book

    def _top(self, frame: str | bytes) -> tuple[float, float, float, float] | None:
        book = self._take(frame)
        return None if book is None else book.top

    def _unusual(self, frame: str | bytes, taken: Taken | None) -> OrderBook | None:
        """Take a frame that cmd-native has not decided about, or that the builder has to be told of."""
        if taken is None:
            return self._take(frame)
        book: OrderBook
        book, first, last, ts_event, status, bids, asks = taken
        builder = self._builders[book.symbol]
        if status == 2:
            builder.took()
            return book
        assert self._path is not None
        assert bids is not None
        assert asks is not None
        sides = list(levels(bids)), list(levels(asks))
        applied = builder.applied_natively(first, last, self._path.prev, *sides, ts_event)
        return book if applied is _APPLIED else None
