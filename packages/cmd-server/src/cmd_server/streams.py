"""Streams: numbered messages, encoded once for all their readers, and the few that are kept for those who come back.

Theory of operation. A stream counts its messages from 1, whoever reads it. Its ``readers`` are the clients that get
every message; ``waiting`` are those that need a message that stands for everything so far first (late joiners of
a book, and slow clients whose messages were merged or dropped), which is made when they are ready to take it.
A stream that nobody reads goes on to fill its ring until everything that a former reader has not seen has left the
ring; then it is dormant: messages are counted but not encoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cmd_common.records import FeedStatus, InstrumentRecord, Quote, Record
from cmd_common.replica import BookReplica
from cmd_common.sequence import BookState

from .codec import encode, with_flags
from .messages import BookFlag, Kind, StreamKey

if TYPE_CHECKING:
    from .queues import Client
    from .views import BookView, CandleView

__all__ = ["CONFLATABLE", "Entry", "FLAG_OF", "Stream"]

CONFLATABLE: Final = frozenset((Kind.BOOK, Kind.QUOTES, Kind.AGGREGATE))
"""Kinds of which one message can stand for all before it."""

FLAG_OF: Final = {
    BookState.EMPTY: BookFlag.EMPTY,
    BookState.SYNCING: BookFlag.SYNCING,
    BookState.LIVE: BookFlag.LIVE,
    BookState.STALE: BookFlag.STALE,
}
_STATUSES: Final = 256  # last states of an instrument that a joiner gets


class Stream:
    """One instrument's messages of one kind in one view. ``current`` returns the record that stands for all so far."""

    __slots__ = (
        "_cache",
        "_cached",
        "active",
        "current",
        "entry",
        "id",
        "key",
        "kind",
        "left",
        "max_bytes",
        "max_messages",
        "messages",
        "readers",
        "ring",
        "ring_bytes",
        "seq",
        "view",
        "waiting",
    )

    def __init__(
        self,
        entry: Entry,
        key: StreamKey,
        current: Callable[[], Record | None] | None,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self.entry = entry
        self.key = key
        self.id, self.kind, self.view = key
        self.current = current
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.seq = 0
        self.active = False
        self.left = 0  # the sequence when the last reader left
        self.readers: dict[Client, Callable[[bytes], None]] = {}
        self.waiting: dict[Client, None] = {}
        self.ring: deque[bytes] = deque()  # messages seq - len + 1 .. seq
        self.ring_bytes = 0
        self._cache: dict[int, bytes] = {}  # the message that stands for all so far, by its flags
        self._cached = -1

    def keep(self, frame: bytes) -> None:
        """Remember a message that was sent just now."""
        ring = self.ring
        ring.append(frame)
        self.ring_bytes += len(frame)
        while len(ring) > self.max_messages or self.ring_bytes > self.max_bytes:
            self.ring_bytes -= len(ring.popleft())
        if not self.readers and not self.waiting and self.seq - len(ring) > self.left:
            self.sleep()

    def keep_all(self, frames: list[bytes], size: int) -> None:
        """Remember messages that were sent just now, ``size`` bytes in all."""
        ring = self.ring
        ring += frames
        self.ring_bytes += size
        over = len(ring) - self.max_messages
        if over > 0:  # all at once: a loop that looks at both bounds each time takes twice as long
            drop = ring.popleft
            self.ring_bytes -= sum(map(len, [drop() for _ in range(over)]))
        while len(ring) > self.max_messages or self.ring_bytes > self.max_bytes:
            self.ring_bytes -= len(ring.popleft())
        if not self.readers and not self.waiting and self.seq - len(ring) > self.left:
            self.sleep()

    def sleep(self) -> None:
        """Stop encoding: nobody reads, and nobody who did can go on from the ring."""
        self.active = False
        self.ring.clear()
        self.ring_bytes = 0
        self._cache.clear()

    def join(self, client: Client) -> None:
        """Make a client a reader."""
        self.active = True
        self.waiting.pop(client, None)
        self.readers[client] = client.put

    def wait(self, client: Client) -> None:
        """Make a client wait for a message that stands for everything so far."""
        self.active = True
        self.readers.pop(client, None)
        self.waiting[client] = None

    def leave(self, client: Client) -> None:
        """Forget a client."""
        self.readers.pop(client, None)
        self.waiting.pop(client, None)
        if not self.readers and not self.waiting:
            self.left = self.seq

    def reach(self, position: int) -> bool:
        """Whether every message after a position is in the ring."""
        return self.seq - len(self.ring) <= position <= self.seq

    def after(self, position: int) -> list[bytes]:
        """The messages in the ring after a position."""
        missing = self.seq - position
        return list(self.ring)[-missing:] if missing > 0 else []

    def frame(self, flags: int) -> bytes | None:
        """The message that stands for everything so far, with the last sequence; None where there is none now.

        It takes no sequence of its own, except the first of all. Readers that wait share one encoding.
        """
        record = None
        if self._cached != self.seq or not self._cache:
            record = self.current() if self.current is not None else None
            if record is None:
                return None
            self.seq = self.seq or 1
            self._cached = self.seq
            self._cache = {0: encode(record, self.id, self.seq, self.view, 0, self.entry.flag(self))}
        elif not self.ready:
            return None
        found = self._cache.get(flags)
        if found is None:
            found = self._cache[flags] = with_flags(self._cache[0], flags)
        return found

    @property
    def ready(self) -> bool:
        """Whether there is something that stands for everything so far."""
        if self.kind == Kind.BOOK:
            replica = self.entry.replica
            return replica is not None and replica.live
        return self.current is not None and self.current() is not None

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert not self.readers.keys() & self.waiting.keys()
        assert self.active or not (self.readers or self.waiting or self.ring)
        assert len(self.ring) <= self.max_messages
        assert self.ring_bytes == sum(map(len, self.ring)) <= self.max_bytes
        assert len(self.ring) <= self.seq
        for client in (*self.readers, *self.waiting):
            assert self in client.streams


class Entry:
    """One instrument, with its streams and what is known of it; id 0 is the server itself and whole venues."""

    __slots__ = (
        "agg_trades",
        "aggregate",
        "book",
        "built",
        "candles",
        "derived",
        "frame",
        "gaps",
        "id",
        "known_to",
        "last_candles",
        "name",
        "quote",
        "quotes",
        "record",
        "replica",
        "status",
        "statuses",
        "symbol",
        "trades",
        "venue",
        "views",
    )

    def __init__(self, id_: int, venue: str, symbol: str, *, aggregate: bool = False) -> None:
        self.id = id_
        self.venue = venue
        self.symbol = symbol
        self.name = f"{venue}:{symbol}"
        self.aggregate = aggregate
        self.record: InstrumentRecord | None = None  # as published; None: never
        self.frame = b""  # the instrument's message, made when it is needed
        self.known_to: dict[Client, None] = {}
        self.replica: BookReplica | None = None
        self.quote: Quote | None = None
        self.trades: Stream | None = None
        self.agg_trades: Stream | None = None
        self.quotes: Stream | None = None
        self.book: Stream | None = None
        self.status: Stream | None = None
        self.gaps: Stream | None = None
        self.candles: dict[int, Stream] = {}  # by view
        self.last_candles: dict[int, Record] = {}  # the venue's own, by view
        self.built: dict[int, CandleView] = {}  # by view
        self.views: dict[Stream, BookView] = {}
        self.derived: dict[Stream, None] = {}  # all streams of a depth or an interval, oldest first
        self.statuses: dict[tuple[str, str, str], tuple[FeedStatus, int, int]] = {}  # with sequence and book state

    def flag(self, stream: Stream) -> int:
        """The state of the book behind a stream's messages."""
        kind = stream.kind
        if self.replica is None or not (kind == Kind.BOOK or (kind == Kind.QUOTES and stream.view)):
            return BookFlag.NONE
        return FLAG_OF[self.replica.book.state]

    def remember(self, status: FeedStatus, seq: int, flag: int) -> None:
        """Keep the last status of every connection and record type, oldest first; bounded, the oldest goes."""
        key = (status.venue, status.connection, status.record_type)
        self.statuses.pop(key, None)
        if len(self.statuses) >= _STATUSES:
            del self.statuses[next(iter(self.statuses))]
        self.statuses[key] = (status, seq, flag)

    def instrument(self, now: int) -> bytes:
        """The instrument's message; a minimal one where no reference data is known."""
        if not self.frame:
            record = self.record
            if record is None:
                empty = ("",) * 4
                kind = "aggregate" if self.aggregate else ""
                record = InstrumentRecord(
                    now, now, self.venue, self.symbol, "", "", "", kind, *empty, "", False, None, "unknown"
                )
            self.frame = encode(record, self.id, 0)
        return self.frame
