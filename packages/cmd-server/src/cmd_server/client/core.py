"""The client without a socket: bytes and times in; records, events and requests out.

Theory of operation. A connection goes through three steps: the server's Hello, our Login and its Ack, our Subscribe (or
Resume) and its Ack. Every record belongs to a stream and has its sequence in it. The core knows the last sequence of
every stream, so that after a reconnect it asks for what comes behind it, and so that nothing is ever missing in
silence: the server says what it left out (``Lost``), and a hole that nobody explained breaks the connection, which is
opened again and resumed before the hole. A message that came already is dropped.

Another epoch in Hello means another run of the server: every stream ends (``Lost``, reason restart) and is subscribed
anew. Books are STALE from the loss of the connection until their stream goes on or a snapshot comes.

Shells (``aio``, ``sync``) own sockets, clocks and waiting. They hand over bytes (``receive``), send what ``outgoing``
returns, call ``tick`` now and then, and close the connection when ``broken`` says why. ``failure`` is final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from cmd_common.errors import CmdError, UsageError
from cmd_common.records import (
    AggregatedBook,
    BookDelta,
    BookSnapshot,
    FeedStatus,
    InstrumentRecord,
    Quote,
    Record,
    full_name,
)
from cmd_server import codec
from cmd_server.errors import FrameError, RefusedError, WireError
from cmd_server.formats import TEMPLATE_AT
from cmd_server.messages import (
    CONFLATED,
    KIND_OF,
    REPLAYED,
    Ack,
    Bye,
    Hello,
    Kind,
    Login,
    Ping,
    Policy,
    Position,
    Reject,
    Resume,
    Service,
    StreamGap,
    Subscribe,
    Template,
    Unsubscribe,
)
from cmd_server.topics import Topic

from .asking import asks
from .books import LocalBook, LocalBooks, Stream
from .events import Connected, Disconnected, Item, Lost, Message, Subscribed, stream_view
from .inbox import Inbox

__all__ = ["ClientCore", "ClientOptions"]

SECOND: Final = 1_000_000_000
_KIND: Final = {int(template): int(kind) for template, kind in KIND_OF.items()}
_STATES: Final = frozenset((Kind.BOOK, Kind.QUOTES, Kind.AGGREGATE))  # one message can stand for all before it
_STANDING: Final = frozenset((Template.QUOTE, Template.AGGREGATED_BOOK))  # every message does
_SERVICE: Final = frozenset(
    int(t)
    for t in (Template.HELLO, Template.ACK, Template.REJECT, Template.STREAM_GAP, Template.HEARTBEAT, Template.BYE)
)
_COME_BACK: Final = frozenset(("slow", "shutdown", "limit", "idle"))  # goodbyes after which it is worth to try again


class ClientOptions(Struct, frozen=True):
    """What a client asks for, and its own bounds; times in ns."""

    topics: tuple[str, ...] = ()
    policy: Policy = Policy.CONFLATE
    queue: int = 0  # messages that the server keeps for us; 0: its default
    token: str = ""
    name: str = ""
    hello_timeout: int = 10 * SECOND  # from the connection to the last Ack
    max_message: int = 64 * 1024 * 1024  # bytes of the longest message that is taken


class ClientCore:
    """Protocol, positions, instruments, books and latest quotes of one client."""

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self.topics: dict[str, None] = dict.fromkeys(options.topics)  # in the order of asking
        self.instruments: dict[str, InstrumentRecord] = {}
        self.quotes: dict[str, Quote] = {}
        self.aggregates: dict[str, AggregatedBook] = {}
        self.local = LocalBooks()
        self.on_item: Callable[[Item], None] | None = None  # called for each while the books are as of it
        self.failure: CmdError | None = None  # final: another attempt would end the same way
        self.broken = ""  # why the connection must be closed and opened again
        self.ready = False  # subscribed: the answer to the first request is there
        self.epoch = 0
        self.server = ""
        self.bye: Bye | None = None
        self.messages = 0  # records taken
        self.duplicates = 0  # messages that came already, dropped
        self.holes = 0  # holes that nobody explained: each broke a connection
        self.unknown = 0  # messages of templates that this version does not know
        self.lost = 0  # messages that the server says never come, where it knows how many
        self.connects = 0  # connections that were let in, and whose topics were taken
        self._streams: dict[tuple[int, int, int], Stream] = {}
        self._names: dict[int, tuple[str, str]] = {}
        self._inbox = Inbox(options.max_message)
        self._out: list[bytes] = []
        self._requests: dict[int, tuple[str, ...]] = {}  # subscriptions that were not answered yet
        self._answers: dict[int, Ack | Reject] = {}
        self._next_request = 1
        self._first_request = 0  # the one that makes a connection ready
        self._asked: tuple[str, ...] = ()  # by the first request
        self._resuming = False
        self._back = False  # books go on where they were, unless something behind this in the chunk says otherwise
        self._greeted = False
        self._address = ""
        self._heartbeat = 0
        self._since = 0  # connected at
        self._heard = 0
        self._said = 0
        self._ticked = 0

    # -- the connection -----------------------------------------------------------------------

    def connected(self, now: int, address: str) -> None:
        """Say that a connection is open: nothing is known of it yet."""
        self._inbox.clear()
        self._out.clear()
        self._address = address
        self.broken = ""
        self.bye = None
        self._back = False
        self.ready = self._greeted = False
        self._since = self._heard = self._said = self._ticked = now

    def disconnected(self, reason: str, *, attempt: int = 0, retry_in: int = 0) -> list[Item]:
        """Say that the connection is gone, or could not be opened; returns what to tell."""
        items: list[Item] = []
        self.ready = self._greeted = False
        self._out.clear()
        bye, self.bye = self.bye, None  # it was of this connection; the next may fail for another reason
        items.append(
            Disconnected(
                f"the server closed the connection: {bye.text or bye.code}" if bye else reason,
                bye.code if bye else "",
                attempt,
                retry_in,
            )
        )
        self.local.away(items)
        return items

    @property
    def speaking(self) -> bool:
        """Whether there is something to send."""
        return bool(self._out)

    def outgoing(self, now: int) -> list[bytes]:
        """Take the frames that are to be sent now."""
        frames = self._out
        if frames:
            self._out = []
            self._said = now
        return frames

    def tick(self, now: int) -> None:
        """Say what time it is, at least every half heartbeat: pings are made, silence is found."""
        if now - self._ticked > self.patience:
            self._heard = now  # this process did not run (it was stopped, or busy): that is not the server's silence
        self._ticked = now
        if not self.ready and now - self._since > self.options.hello_timeout:
            self.broken = self.broken or "the server did not answer in time"
        elif now - self._heard > self.patience:
            self.broken = self.broken or f"nothing was heard for {(now - self._heard) / SECOND:.1f} s"
        elif self.ready and now - self._said >= self._heartbeat // 2:
            self._out.append(codec.encode_request(Ping(now)))

    def heard(self, now: int) -> None:
        """Say that the server is not silent: bytes wait that were not read yet."""
        self._heard = now

    @property
    def interval(self) -> int:
        """How often ``tick`` is to be called, in ns."""
        return max(self._heartbeat // 4, SECOND // 100) if self._heartbeat else self.options.hello_timeout // 20

    @property
    def patience(self) -> int:
        """How long a server may be silent, in ns: three heartbeats, and at least five seconds."""
        return max(3 * self._heartbeat, 5 * SECOND) if self._heartbeat else self.options.hello_timeout

    def final(self, error: CmdError | None) -> CmdError | None:
        """Return the error that ends this client; None: it is worth to connect again."""
        if self.failure is not None:
            return self.failure
        if self.bye is not None and self.bye.code not in _COME_BACK:
            return RefusedError(f"the server closed the connection: {self.bye.text or self.bye.code}", self.bye.code)
        if isinstance(error, FrameError):
            return error
        return None

    # -- requests -----------------------------------------------------------------------------

    def subscribe(self, topics: Sequence[str]) -> int:
        """Ask for more topics; returns the number of the request. A client that is not connected asks when it is.

        Raises WireError for topics that fit no message.
        """
        wanted = tuple(dict.fromkeys(t for t in topics if t not in self.topics))
        codec.encode_request(Subscribe(0, wanted, self.options.policy, self.options.queue))  # it can be said
        self.topics.update(dict.fromkeys(wanted))
        number = self._number()
        if not wanted:
            self._answers[number] = Ack(number, 0)
            return number
        self._requests[number] = wanted
        if self.ready:
            self._send(Subscribe(number, wanted, self.options.policy, self.options.queue))
        return number

    def unsubscribe(self, topics: Sequence[str]) -> int:
        """Give up topics, written as they were subscribed; raises UsageError for one that is not."""
        for topic in topics:
            if topic not in self.topics:
                raise UsageError(f"{topic!r} is not subscribed", hint=f"subscribed are: {', '.join(self.topics)}")
        for topic in topics:
            self.topics.pop(topic, None)
        self._retire()
        number = self._number()
        if self.ready:
            self._requests[number] = ()
            self._send(Unsubscribe(number, tuple(topics)))
        else:
            self._answers[number] = Ack(number, 0)
        return number

    def answer(self, number: int) -> Ack | Reject | None:
        """Take the answer to a request; None: it is not there yet."""
        return self._answers.pop(number, None)

    @property
    def answered(self) -> bool:
        """Whether an answer to a request waits to be taken."""
        return bool(self._answers)

    def positions(self) -> tuple[Position, ...]:
        """The last sequence of every stream of the server's epoch, from which it can go on.

        Not of one that still waits for what stands for its lost messages: it begins anew, with just that.
        """
        return tuple(
            Position(*key, stream.seq)
            for key, stream in self._streams.items()
            if not (stream.retired or (stream.gapped and key[1] in _STATES))
        )

    def _retire(self) -> None:
        """Mark the streams that no topic asks for any more."""
        topics = [Topic(text) for text in self.topics]
        for key, stream in self._streams.items():
            if not stream.retired and not any(asks(topic, key, stream) for topic in topics):
                stream.retired = True
                if stream.book is not None:
                    stream.book.lose("unsubscribed", [])

    def _number(self) -> int:
        number = self._next_request
        self._next_request += 1
        return number

    def _send(self, request: Login | Subscribe | Unsubscribe | Resume | Ping) -> None:
        self._out.append(codec.encode_request(request))

    # -- receiving ----------------------------------------------------------------------------

    @property
    def space(self) -> memoryview:
        """Where the next bytes are to be written; never empty. Say with ``received`` how many there were."""
        return self._inbox.space

    def received(self, size: int, now: int) -> list[Item]:
        """Take ``size`` bytes that were written to ``space``; raises FrameError: nothing after it can be read."""
        self._heard = now
        return self.take(self._inbox.frames(size))

    def receive(self, data: bytes | bytearray | memoryview, now: int) -> list[Item]:
        """Take bytes as they came, like ``received``."""
        items: list[Item] = []
        left = memoryview(data)
        while left and not self.broken:
            space = self.space
            size = min(len(space), len(left))
            space[:size] = left[:size]
            left = left[size:]
            items += self.received(size, now)
        return items

    def take(self, frames: Iterable[bytes | memoryview]) -> list[Item]:
        """Take whole frames; what comes behind a break (``broken``) is not looked at."""
        items: list[Item] = []
        streams, on_item = self._streams, self.on_item
        kinds, head_of, decode, new, add = _KIND, codec.head, codec.decode, tuple.__new__, items.append
        told = 0
        for frame in frames:
            template = frame[TEMPLATE_AT]
            kind = kinds.get(template)
            if kind is None:
                self._service(frame, template, items)
                streams = self._streams
            else:
                try:
                    head = head_of(frame)
                    seq = head.seq
                    stream = streams.get((head.instrument_id, kind, head.view))
                    if stream is None:
                        stream = self._open(head, kind)
                    elif seq != stream.seq + 1 and not self._in_order(stream, head, seq, template):
                        if self.broken:
                            break
                        continue
                    record = decode(frame, stream.venue, stream.symbol)
                except WireError as error:
                    self._break(f"a message cannot be read: {error}")
                    break
                stream.seq = seq
                stream.gapped = False
                add(new(Message, (record, head)))  # the constructor of a NamedTuple takes twice as long
                self.messages += 1
                if template not in _PLAIN:
                    self._remember(record, head, stream, items)
            if on_item is not None:
                for item in items[told:]:
                    on_item(item)
                told = len(items)
            if self.broken or self.failure is not None:
                break
        if self._back:
            self._back = False
            self.local.back(items)
            if on_item is not None:
                for item in items[told:]:
                    on_item(item)
        return items

    def _in_order(self, stream: Stream, head: codec.Head, seq: int, template: int) -> bool:
        """Whether a message that is not the next one of its stream is to be taken."""
        last = stream.seq
        if seq > last:
            # A conflated message and a snapshot stand for what was before them.
            if head.flags & CONFLATED or template == Template.BOOK_SNAPSHOT or stream.retired:
                return True
            if stream.gapped and template in _STANDING:
                return True
            self._break(f"messages {last + 1} to {seq - 1} of {stream.venue}:{stream.symbol} did not come")
            return False
        if seq == last and (template == Template.BOOK_SNAPSHOT or stream.gapped):
            return True  # made for us: it stands for everything so far, and has no sequence of its own
        self.duplicates += 1
        return False

    def _break(self, why: str) -> None:
        self.holes += 1
        self.broken = self.broken or why

    def _open(self, head: codec.Head, kind: int) -> Stream:
        """Return the stream of a first message."""
        venue, symbol = self._names.get(head.instrument_id, ("", ""))
        key = head.instrument_id, kind, head.view
        stream = self._streams[key] = Stream(venue, symbol, head.seq, self._book(venue, symbol, key))
        return stream

    def _book(self, venue: str, symbol: str, key: tuple[int, int, int]) -> LocalBook | None:
        """Return the book that a stream feeds."""
        if key[1] != Kind.BOOK or not venue or not symbol:
            return None
        local = self.local.open(venue, symbol, key[2])
        record = self.instruments.get(full_name(venue, symbol))
        if record is not None:
            local.set_tick_size(record.tick_size)
        return local

    def _reference(self, frame: bytes | memoryview, head: codec.Head, items: list[Item]) -> None:
        """Take a record that belongs to no stream."""
        record = codec.decode(frame, *self._names.get(head.instrument_id, ("", "")))
        if isinstance(record, InstrumentRecord):
            self._names[head.instrument_id] = record.venue, record.symbol
            self.instruments[full_name(record.venue, record.symbol)] = record
        self.messages += 1
        items.append(Message(record, head))
        self._remember(record, head, None, items)

    def _remember(self, record: Record, head: codec.Head, stream: Stream | None, items: list[Item]) -> None:
        """Bring books and latest values up to a record."""
        book = None if stream is None else stream.book
        if isinstance(record, BookDelta):
            if book is not None:
                book.delta(record, items)
        elif isinstance(record, BookSnapshot):
            if book is not None:
                book.snapshot(record, items)
        elif isinstance(record, Quote):
            self.quotes[full_name(record.venue, record.symbol)] = record
        elif isinstance(record, AggregatedBook):
            self.aggregates[record.instrument] = record
        elif isinstance(record, FeedStatus) and record.record_type == "book" and record.symbol:
            self.local.status(record, bool(head.flags & REPLAYED), items)

    # -- what the server says beside records --------------------------------------------------

    def _service(self, frame: bytes | memoryview, template: int, items: list[Item]) -> None:
        if template == Template.INSTRUMENT:
            self._reference(frame, codec.head(frame), items)
            return
        if template not in _SERVICE:
            self.unknown += 1  # of a newer version
            return
        message: Service = codec.decode_service(frame)
        if isinstance(message, StreamGap):
            self._stream_gap(message, items)
        elif isinstance(message, Hello):
            self._hello(message, items)
        elif isinstance(message, Ack):
            self._ack(message, items)
        elif isinstance(message, Reject):
            self._reject(message)
        elif isinstance(message, Bye):
            self.bye = message
            self.broken = self.broken or f"the server closed the connection: {message.text or message.code}"

    def _hello(self, hello: Hello, items: list[Item]) -> None:
        self._greeted = True
        self._heartbeat = hello.heartbeat
        self.server = hello.server
        if hello.epoch != self.epoch:
            for key, stream in self._streams.items():
                self._lose(stream, key, stream.seq + 1, 0, "restart", items)
            self._streams = {}
            self._names = {}
            self.epoch = hello.epoch
        self._send(Login(self.options.token, self.options.name))

    def _ack(self, ack: Ack, items: list[Item]) -> None:
        if ack.request_id == 0:
            # Requests that the last connection left open are part of this one.
            for number in self._requests:
                self._answers[number] = Ack(number, 0)
            self._requests.clear()
            self._drop_retired()
            self._resuming = bool(self._streams)
            self._asked = ()
            if not self.topics:
                self._up(items, 0)
                return
            number = self._first_request = self._number()
            topics, policy, queue = tuple(self.topics), self.options.policy, self.options.queue
            self._asked = topics
            if self._resuming:
                self._send(Resume(number, self.epoch, topics, self.positions(), policy, queue))
            else:
                self._send(Subscribe(number, topics, policy, queue))
        elif ack.request_id == self._first_request and not self.ready:
            self._up(items, ack.streams)
        elif (asked := self._requests.pop(ack.request_id, None)) is not None:
            self._answers[ack.request_id] = ack
            if asked:
                self._drop_retired()  # any that is asked for again begins anew
                items.append(Subscribed(asked, ack.streams))

    def _drop_retired(self) -> None:
        for key in [key for key, stream in self._streams.items() if stream.retired]:
            del self._streams[key]

    def _up(self, items: list[Item], streams: int) -> None:
        self.ready = True
        self.connects += 1
        items.append(Connected(self._address, self.server, self.epoch, self._resuming))
        if self.topics:
            items.append(Subscribed(tuple(self.topics), streams))
        self._back = self._resuming
        # What was asked for, or given up, while the first request was on its way.
        for number, wanted in self._requests.items():
            self._send(Subscribe(number, wanted, self.options.policy, self.options.queue))
        unwanted = tuple(topic for topic in self._asked if topic not in self.topics)
        if unwanted:
            self._requests[self._number()] = ()
            self._send(Unsubscribe(self._next_request - 1, unwanted))

    def _reject(self, reject: Reject) -> None:
        topics = self._requests.pop(reject.request_id, None)
        if topics is not None:
            for topic in topics:
                self.topics.pop(topic, None)
            self._answers[reject.request_id] = reject
        elif reject.code in _COME_BACK and self.connects:
            self.broken = self.broken or f"the server refused: {reject.text}"
        else:
            self.failure = RefusedError(f"the server refused: {reject.text}", reject.code, hint=reject.hint)

    def _stream_gap(self, gap: StreamGap, items: list[Item]) -> None:
        if gap.kind not in _KINDS:
            self.unknown += 1  # of a newer version
            return
        key = (gap.instrument_id, gap.kind, gap.view)
        stream = self._streams.get(key)
        if stream is None:
            venue, symbol = self._names.get(gap.instrument_id, ("", ""))
            stream = self._streams[key] = Stream(venue, symbol, 0, self._book(venue, symbol, key))
        if gap.to_seq and gap.to_seq <= stream.seq:
            return  # told twice: all of it came, or was said to be lost
        self._lose(stream, key, gap.from_seq, gap.to_seq, gap.reason, items)
        if gap.to_seq:
            stream.seq = gap.to_seq
            stream.gapped = True
        else:
            del self._streams[key]

    def _lose(
        self, stream: Stream, key: tuple[int, int, int], first: int, last: int, reason: str, items: list[Item]
    ) -> None:
        kind = Kind(key[1])
        if last:
            self.lost += last - first + 1
        items.append(Lost(stream.venue, stream.symbol, kind, stream_view(kind, key[2]), first, last, reason))
        if stream.book is not None:
            stream.book.lose(reason, items)

    def check(self) -> None:
        """Assert every invariant; for tests."""
        self.local.check()
        assert all(stream.seq >= 0 for stream in self._streams.values())
        assert not (self.ready and not self._greeted)


_KINDS: Final = frozenset(int(kind) for kind in Kind)
_PLAIN: Final = frozenset((int(Template.TRADE), int(Template.AGG_TRADE), int(Template.CANDLE), int(Template.GAP)))
