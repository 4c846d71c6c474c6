"""Feeds whose depth messages cmd-native decodes, beside the same feeds in pure Python: all that comes out is equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cmd_common.feed_books
from cmd_common.feed import Feed, FetchSnapshot, Output, Send
from cmd_common.orderbook import PureOrderBook


@contextmanager
def pure_books() -> Iterator[None]:
    """Feeds made within keep their books in Python, and so decode in Python."""
    kept = cmd_common.feed_books.OrderBook
    cmd_common.feed_books.OrderBook = PureOrderBook  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        cmd_common.feed_books.OrderBook = kept  # type: ignore[misc]


def state_of(builder: Any, *, levels: bool) -> tuple[object, ...]:
    """All that a book and its builder show."""
    book = builder.book
    counts = (builder.applied, builder.dropped, builder.gaps, builder.malformed, builder.refused, builder.resyncs)
    ids = (builder.epoch, book.last_id, book.ts_event, book.state, builder.needs_snapshot, builder.buffered)
    shown = (builder.gap_reason, builder.detail, book.best_bid, book.best_ask, book.known_depth, book.known_range)
    return counts + ids + shown + ((book.bids(), book.asks()) if levels else ())


class Twins:
    """Native and pure feeds of one subscription; every call goes to both."""

    def __init__(self, make: Callable[[], Sequence[Feed]], now: int, reply: Callable[[Send], str | None]) -> None:
        self.native = list(make())
        with pure_books():
            self.pure = list(make())
        assert all(feed._path is None for feed in self.pure)  # type: ignore[attr-defined]
        self.now = now
        self.reply = reply
        self.calls = 0
        self.records: list[Any] = []
        self.wanted: list[FetchSnapshot] = []
        for index in range(len(self.native)):
            self.call(index, "connected", now)

    @property
    def taken(self) -> int:
        """Depth messages that went natively."""
        return sum(feed._path.taken for feed in self.native if feed._path is not None)  # type: ignore[attr-defined]

    def call(self, index: int, method: str, *args: Any) -> Output:
        """Call both, and compare everything."""
        out: Output = getattr(self.native[index], method)(*args)
        expected: Output = getattr(self.pure[index], method)(*args)
        assert out.records == expected.records, args
        assert out.actions == expected.actions, args
        self.calls += 1
        self.same(index, levels=self.calls % 64 == 0)
        self.records += out.records
        for action in out.actions:
            if isinstance(action, Send) and (answer := self.reply(action)) is not None:
                self.call(index, "receive", answer, self.now)
            elif isinstance(action, FetchSnapshot):
                self.wanted.append(action)
        return out

    def same(self, index: int, *, levels: bool = True) -> None:
        """Compare counters and books."""
        native, pure = self.native[index], self.pure[index]
        assert native.counters == pure.counters
        assert native.books.keys() == pure.books.keys()
        for symbol, builder in native.books.items():
            assert state_of(builder, levels=levels) == state_of(pure.books[symbol], levels=levels)
            if levels:
                builder.check()

    def receive(self, frame: str | bytes) -> None:
        """Give a frame to every feed."""
        for index in range(len(self.native)):
            self.call(index, "receive", frame, self.now)

    def answer(self, symbol: str, body: bytes) -> None:
        """Answer a request for a snapshot."""
        for index, feed in enumerate(self.native):
            if symbol in feed.books:
                self.call(index, "snapshot", symbol, body, self.now)

    def end(self) -> None:
        """Compare all levels, and what the feeds say in the end."""
        for index in range(len(self.native)):
            self.same(index)
            self.call(index, "tick", self.now + 1_000_000_000)
            self.call(index, "disconnected", self.now + 2_000_000_000, "end")
            self.call(index, "close", self.now + 2_000_000_000)
            self.same(index)
