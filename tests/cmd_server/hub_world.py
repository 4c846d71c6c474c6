"""A reader of a hub's messages that believes nothing: it checks every rule of the protocol as it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cmd_common.orderbook import OrderBook
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Quote, Record, Trade, pack_levels
from cmd_common.replica import BookReplica
from cmd_server import codec
from cmd_server.hub import Client, Hub
from cmd_server.limits import Limits
from cmd_server.messages import (
    CONFLATED,
    KIND_OF,
    REPLAYED,
    Ack,
    Bye,
    Heartbeat,
    Hello,
    Kind,
    Login,
    Policy,
    Position,
    Reject,
    Resume,
    StreamGap,
    StreamKey,
    Subscribe,
    Template,
)
from cmd_server.streams import CONFLATABLE

S = 1_000_000_000
T0 = 1_700_000_000 * S


def trade(n: int, venue: str = "v", symbol: str = "A", *, ts: int = 0, price: float = 100.0) -> Trade:
    return Trade(ts or T0 + n, T0 + n, venue, symbol, str(n), n, price, 1.0, "buy")


def quote(n: int, venue: str = "v", symbol: str = "A") -> Quote:
    return Quote(T0 + n, T0 + n, venue, symbol, n, 99.0 + n, 1.0, 100.0 + n, 1.0)


def snapshot(
    n: int, bids: Any = ((99.0, 1.0),), asks: Any = ((101.0, 1.0),), venue: str = "v", symbol: str = "A", epoch: int = 1
) -> BookSnapshot:
    return BookSnapshot(
        T0 + n, T0 + n, venue, symbol, epoch, n, len(bids), len(asks), pack_levels(bids), pack_levels(asks)
    )


def delta(n: int, bids: Any = (), asks: Any = (), venue: str = "v", symbol: str = "A", epoch: int = 1) -> BookDelta:
    return BookDelta(T0 + n, T0 + n, venue, symbol, epoch, n, n, pack_levels(bids), pack_levels(asks))


def status(state: str, n: int = 0, venue: str = "v", symbol: str = "A", what: str = "book") -> FeedStatus:
    return FeedStatus(T0 + n, T0 + n, venue, symbol, what, f"{venue}-0", state, "test")


def world(**more: Any) -> Hub:
    limits = more.pop("limits", None) or Limits(**{k: more.pop(k) for k in list(more) if k in Limits.__struct_fields__})
    woken: list[Client] = []
    hub = Hub(epoch=more.pop("epoch", 7), now=T0, limits=limits, wake=woken.append, **more)
    hub.woken = woken  # type: ignore[attr-defined]
    return hub


class Reader:
    """One client that reads what the hub has for it, and knows what it has missed."""

    def __init__(self, hub: Hub, *, login: bool = True, **more: Any) -> None:
        self.hub = hub
        self.client = hub.attach("test", hub.now, **more)
        self.names: dict[int, tuple[str, str]] = {}
        self.positions: dict[StreamKey, int] = {}
        self.books: dict[StreamKey, BookReplica] = {}
        self.quotes: dict[StreamKey, Quote] = {}
        self.got: dict[StreamKey, list[int]] = {}  # sequences as they came
        self.lost: dict[StreamKey, list[tuple[int, int]]] = {}
        self.gaps: list[StreamGap] = []
        self.gapped: set[StreamKey] = set()  # what stands for the lost messages may have the last one's sequence
        self.service: list[Any] = []
        self.records: list[tuple[codec.Head, Record]] = []
        self.first: dict[StreamKey, int] = {}
        self.bye: Bye | None = None
        self._id = 0
        if login:
            hub.handle(self.client, Login(client="reader"), hub.now)

    def subscribe(self, *topics: str, policy: Policy = Policy.DROP_OLDEST, queue: int = 0) -> None:
        self._id += 1
        self.hub.handle(self.client, Subscribe(self._id, topics, policy, queue), self.hub.now)

    def resume(
        self, before: Reader, *topics: str, policy: Policy = Policy.DROP_OLDEST, queue: int = 0, epoch: int = 0
    ) -> None:
        """Go on where another reader, whose connection is lost, has stopped."""
        self.positions = dict(before.positions)
        self.books = before.books
        self.quotes = before.quotes
        self.got, self.lost, self.first = before.got, before.lost, before.first
        positions = tuple(Position(*key, seq) for key, seq in self.positions.items())
        self._id += 1
        request = Resume(self._id, epoch or self.hub.epoch, topics, positions, policy, queue)
        self.hub.handle(self.client, request, self.hub.now)

    def read(self, max_bytes: int = 1 << 20) -> list[bytes]:
        """Take once, and check everything that came."""
        frames = self.client.take(max_bytes)
        for frame in frames:
            assert self.bye is None, "a message after Bye"
            head = codec.head(frame)
            if head.template >= Template.HELLO:
                self._service(codec.decode_service(frame))
            else:
                self._data(frame, head)
        return frames

    def drain(self, max_bytes: int = 1 << 20) -> None:
        while self.read(max_bytes):
            pass

    def _service(self, message: Any) -> None:
        self.service.append(message)
        if not self.service[:-1]:
            assert isinstance(message, Hello)
        if isinstance(message, StreamGap):
            self.gaps.append(message)
            key = StreamKey(message.instrument_id, message.kind, message.view)
            if message.to_seq == 0:
                self.positions.pop(key, None)
                return
            assert message.from_seq <= message.to_seq
            if key in self.positions:
                assert message.from_seq == self.positions[key] + 1, "a gap that does not follow"
            self.positions[key] = message.to_seq
            self.gapped.add(key)
            self.first.setdefault(key, message.from_seq)
            self.lost.setdefault(key, []).append((message.from_seq, message.to_seq))
            if key in self.books:
                self.books[key].lose()
        elif isinstance(message, Bye):
            self.bye = message
        else:
            assert isinstance(message, Hello | Ack | Reject | Heartbeat)

    def _data(self, frame: bytes, head: codec.Head) -> None:
        if head.template == Template.INSTRUMENT:
            record: Any = codec.decode(frame, "", "")
            self.names[head.instrument_id] = (record.venue, record.symbol)
            assert head.seq == 0
            self.records.append((head, record))
            return
        key = StreamKey(head.instrument_id, KIND_OF[head.template], head.view)
        assert not key.instrument_id or key.instrument_id in self.names, "a message before its instrument"
        record = codec.decode(frame, *self.names.get(head.instrument_id, ("", "")))
        self.records.append((head, record))
        book = isinstance(record, BookSnapshot)
        position = self.positions.get(key)
        if position is None:
            self.first.setdefault(key, head.seq)
        elif head.flags & CONFLATED:
            assert head.seq >= position, "backwards"
            if head.seq > position + 1:
                self.lost.setdefault(key, []).append((position + 1, head.seq - 1))
        elif head.seq == position and (book or (key in self.gapped and key.kind in CONFLATABLE)):
            pass  # stands for what was lost before it
        else:
            assert head.seq == position + 1, f"{key}: {head.seq} follows {position}"
        self.positions[key] = head.seq
        self.gapped.discard(key)
        self.got.setdefault(key, []).append(head.seq)
        if key.kind == Kind.BOOK:
            assert head.state == 3, "a book that is not LIVE was sent"
            replica = self.books.setdefault(key, BookReplica(*self.names[key.instrument_id]))
            if book:
                assert replica.load(record)
            elif not replica.live:
                assert head.flags & REPLAYED, "a change of a book that is not there"
            else:
                assert replica.apply(record)
        elif isinstance(record, Quote):
            self.quotes[key] = record
        elif isinstance(record, FeedStatus) and record.record_type == "book":
            for other, replica in self.books.items():
                if other.instrument_id == key.instrument_id:
                    replica.status(record)

    def book(self, symbol: str = "A", view: int = 0) -> OrderBook:
        found = [r for k, r in self.books.items() if r.book.symbol == symbol and k.view == view]
        assert len(found) == 1
        return found[0].book

    def seqs(self, kind: Kind, symbol: str = "A", view: int = 0) -> list[int]:
        ids = [i for i, name in self.names.items() if name[1] == symbol]
        return self.got.get(StreamKey(ids[0], kind, view), []) if ids else []

    def check_complete(self) -> None:
        """Every sequence of every stream came, or was said to be lost."""
        for key, seqs in self.got.items():
            seen = set(seqs)
            for a, b in self.lost.get(key, ()):
                seen.update(range(a, b + 1))
            assert seen >= set(range(self.first[key], self.positions[key] + 1)), key


def same(one: OrderBook, other: OrderBook, depth: int | None = None) -> bool:
    return one.bids(depth) == other.bids(depth) and one.asks(depth) == other.asks(depth)


def publish(hub: Hub, *records: Record, now: int = 0, check: bool = True) -> None:
    hub.publish(records, now or hub.now + 1)
    if check:
        hub.check()


Make = Callable[[int], Sequence[Record]]
