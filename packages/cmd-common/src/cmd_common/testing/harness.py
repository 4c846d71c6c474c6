"""What a conformance case is, and a Feed shell without I/O that plays the exchange to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from cmd_common.exchange import Exchange
from cmd_common.feed import Feed, FetchSnapshot, Output, Resubscribe, Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.records import Record

__all__ = ["ConformanceCase", "Harness", "ParserCase"]


def _none(frame: str) -> Sequence[str]:
    return ()


_SECOND: Final = 1_000_000_000


class ParserCase(Struct, frozen=True):
    """One frame and the records that it must become, FeedStatus rows left out."""

    name: str
    frame: str
    expected: tuple[Record, ...]


class ConformanceCase(Struct, frozen=True):
    """One exchange's wire format, as far as the suite needs it."""

    exchange: Exchange
    now: int  # ns, receive time of the parser cases
    instruments: bytes  # body of reference data with at least the two symbols
    unified: Mapping[str, str]  # native symbol to unified name, all of them in ``instruments``
    symbols: tuple[str, str]  # two symbols to stream
    parsers: tuple[ParserCase, ...]
    answer: Callable[[str], Sequence[str]]  # the frames with which the exchange answers a frame of ours
    refusal: Callable[[str], Sequence[str]]  # the same when it refuses
    depth: Callable[[str, int], str]  # the n-th depth message of a symbol, from 1
    snapshot: Callable[[str, int], bytes | str]  # the book after n of them: body, or frame if it comes in the stream
    trade: Callable[[str, int], str]  # the n-th trade of a symbol, from 1; ids are consecutive
    trade_id: Callable[[str, int], int]  # its id
    with_unknown_field: Callable[[str], str]  # the same event with one more key
    unknown_event: str
    malformed: tuple[str, ...] = ("", "{", "null", "[]", '"', "{}", "\x00")
    types: tuple[str, ...] = ("trades", "quotes", "book")
    snapshot_in_stream: bool = False
    seeds: Callable[[str], Sequence[str]] = _none  # symbols whose book a frame of ours subscribes, if so
    trade_ids: bool = True  # trade ids are consecutive, so that a missing one shows
    depth_ids: bool = True  # depth messages carry a sequence, so that a missing one shows


class Harness:
    """A Feed shell without I/O: answers subscriptions and snapshot requests like the exchange.

    Depth and trade messages are numbered per symbol; ``position`` is the last number the exchange has
    sent, lost or not, and a snapshot is answered as of it.
    """

    def __init__(
        self, case: ConformanceCase, *, types: Sequence[str] | None = None, symbols: Sequence[str] | None = None
    ) -> None:
        self.case = case
        self.now = case.now
        self.instruments: dict[str, Instrument] = {
            i.symbol: i for i in case.exchange.parse_instruments(case.instruments)
        }
        self.subscription = Subscription(
            tuple(symbols if symbols is not None else case.symbols), tuple(types if types is not None else case.types)
        )
        self.feeds: list[Feed] = case.exchange.feeds(self.subscription, self.instruments, case.exchange.endpoints)
        self.position = dict.fromkeys(self.instruments, 0)
        self.records: list[Record] = []
        self.sent: list[str] = []
        self.requests: list[FetchSnapshot] = []
        self.seeds: list[tuple[Feed, str]] = []  # snapshots in the stream that are held
        self.answering = True  # of subscriptions
        self.refusing = False
        self.hold_snapshots = False
        self.reconnects = 0

    def connect(self) -> None:
        """Open all connections."""
        for feed in self.feeds:
            self.take(feed, feed.connected(self.now))

    def disconnect(self, reason: str = "test") -> None:
        """Lose all connections."""
        for feed in self.feeds:
            self.take(feed, feed.disconnected(self.now, reason))
        self.requests.clear()
        self.seeds.clear()

    def close(self) -> None:
        """End the session."""
        for feed in self.feeds:
            self.take(feed, feed.close(self.now))

    def receive(self, frame: str | bytes) -> list[Record]:
        """Give a frame to every feed (one that did not ask for it passes over it); returns its records."""
        before = len(self.records)
        for feed in self.feeds:
            self.take(feed, feed.receive(frame, self.now))
        return self.records[before:]

    def depth(self, symbol: str, *, lose: bool = False) -> list[Record]:
        """The exchange sends its next depth message; ``lose`` it on the way."""
        self.position[symbol] += 1
        return [] if lose else self.receive(self.case.depth(symbol, self.position[symbol]))

    def tick(self, seconds: float = 1) -> list[Record]:
        """Let time pass."""
        before = len(self.records)
        self.now += int(seconds * _SECOND)
        for feed in self.feeds:
            self.take(feed, feed.tick(self.now))
        return self.records[before:]

    def answer_snapshots(self) -> None:
        """Answer the snapshot requests that are held, and send the snapshots in the stream that are."""
        held, self.requests = self.requests, []
        for request in held:
            self._answer(request)
        seeds, self.seeds = self.seeds, []
        for feed, symbol in seeds:
            self._seed(feed, symbol)

    def _seed(self, feed: Feed, symbol: str) -> None:
        """The exchange sends a book's snapshot in the stream."""
        if self.hold_snapshots:
            self.seeds.append((feed, symbol))
        else:
            self.take(feed, feed.receive(self.case.snapshot(symbol, self.position[symbol]), self.now))

    def _answer(self, request: FetchSnapshot) -> None:
        body = self.case.snapshot(request.symbol, self.position[request.symbol])
        for feed in self.feeds:
            if request.symbol in feed.books:
                raw = body.encode() if isinstance(body, str) else body
                self.take(feed, feed.snapshot(request.symbol, raw, self.now))

    def take(self, feed: Feed, output: Output) -> None:
        """Keep the records and carry out the actions of one call."""
        self.records += output.records
        for action in output.actions:
            frames: Iterable[str] = ()
            if isinstance(action, Send):
                frames = (action.frame,)
            elif isinstance(action, Resubscribe):
                frames = action.frames
            elif isinstance(action, FetchSnapshot):
                if self.hold_snapshots:
                    self.requests.append(action)
                else:
                    self._answer(action)
            else:
                self.reconnects += 1
            for frame in frames:
                self.sent.append(frame)
                if self.answering:
                    replies = self.case.refusal(frame) if self.refusing else self.case.answer(frame)
                    for reply in replies:
                        self.take(feed, feed.receive(reply, self.now))
                    for symbol in () if self.refusing else self.case.seeds(frame):
                        self._seed(feed, symbol)

    def book(self, symbol: str) -> OrderBook:
        """The book of a symbol."""
        return next(feed.books[symbol].book for feed in self.feeds if symbol in feed.books)

    def counters(self, name: str) -> int:
        """One counter, summed over the feeds."""
        return sum(int(getattr(feed.counters, name)) for feed in self.feeds)

    def of(self, kind: type[Record], symbol: str | None = None) -> list[Record]:
        """All records of a kind so far, of one symbol or all."""
        return [r for r in self.records if isinstance(r, kind) and symbol in (None, getattr(r, "symbol", None))]
