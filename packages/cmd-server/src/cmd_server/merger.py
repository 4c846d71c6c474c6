"""A multicast group and a stream connection to the same server, merged into one stream; pure.

Theory of operation. A client speaks to its server over the stream connection (the recovery address) as any other
client does: login, subscription, snapshots, first messages. Once it stands there, the topics that the group carries
are given up on the connection, and from then on come by multicast only. Whatever the group loses is fetched by Resume
over the connection, which then carries everything again until the client stands. States of that switch:

    ATTACHED   the connection carries all topics, and the group is passed over: two sources would mix the order in which
               streams belong to each other (a book's state before its last changes)
    BARRIER    the subscription was answered; a ping was sent, and its answer says whether all that was queued has come
    DETACHING  the group's topics were unsubscribed; until that was answered and nothing waits at the server any more (a
               second ping says so), what the group brings is held
    DETACHED   the group carries its topics, the connection the rest
    any        on a lost packet, a hole in a stream or a silent group: Resume, and ATTACHED again

Each stream's sequence decides what is handed on, so every message comes exactly once, whichever way it took; where the
server itself no longer has it, its StreamGap is handed on. Repeated losses make the client stay attached longer.
"""

from __future__ import annotations

import struct
from collections import deque
from enum import Enum, auto
from typing import Final, cast

from cmd_common.errors import CmdError

from . import codec
from .datagrams import HEARTBEAT, MAX_BODY, Packet, PacketOrder
from .messages import (
    CONFLATED,
    KIND_OF,
    Ack,
    Heartbeat,
    Hello,
    Kind,
    Ping,
    Policy,
    Position,
    Reject,
    Resume,
    StreamGap,
    StreamKey,
    Subscribe,
    Template,
    Unsubscribe,
)
from .topics import Topic

__all__ = ["Merger", "State"]

_HEAD: Final = struct.Struct("<8xH4xQ16xIHB")  # of a frame: template, sequence, instrument, view, flags
_SHORTEST: Final = 46  # bytes of the shortest message
_OWN: Final = 0xF000_0000  # request ids from here on are ours, not the client's
_SECOND: Final = 1_000_000_000
_PAUSE: Final = 5_000_000  # before asking again whether anything waits at the server
_HELD: Final = 10_000  # messages held while detaching; more than that is fetched again
_ALONG: Final = (Kind.STATUS, Kind.GAPS)  # kinds that come along with any topic on an instrument
_STARTS: Final = (Kind.BOOK,)  # kinds whose first message must be a snapshot


class State(Enum):
    """Which way the group's topics take."""

    ATTACHED = auto()
    BARRIER = auto()
    DETACHING = auto()
    DETACHED = auto()


class Merger:
    """Merges datagrams of a group with the frames of a connection; times are ns of any one clock.

    Call ``request`` with each frame that the client sends, ``frames`` with what the connection brought, ``datagram``
    with each packet and ``tick`` when ``deadline`` has come; then send ``take_requests`` over the connection and hand
    ``take_frames`` to the client. ``silence`` is how long the group may say nothing, ``body`` how many bytes of frames
    a packet has at most.
    """

    def __init__(self, *, silence: int = 4 * _SECOND, order: PacketOrder | None = None, body: int = MAX_BODY) -> None:
        self.order = order or PacketOrder()
        self.silence = silence
        self._most = body // _SHORTEST + 1  # messages in a packet
        self.state = State.ATTACHED
        self.epoch: int | None = None
        self.recoveries = 0
        self.foreign = 0  # packets of another epoch than the connection's
        self.positions: dict[StreamKey, int] = {}
        self._group: frozenset[str] | None = None  # topics that the group carries, None: not said yet
        self._carried: list[Topic] = []  # those of them that can be read
        self._topics: dict[str, Topic] = {}  # of the client
        self._covered: tuple[str, ...] = ()
        self._terms = (Policy.DROP_OLDEST, 0)
        self._wanted: dict[StreamKey, bool] = {}
        self._names: dict[int, tuple[str, str]] = {0: ("", "")}  # 0: the server itself and whole venues
        self._torn: set[StreamKey] = set()  # books that must begin again with a snapshot
        self._shown: set[int] = set()  # instruments that the client has
        self._definitions: dict[int, bytes] = {}
        self._pending: set[int] = set()  # subscriptions that are not answered
        self._own = 0
        self._held: deque[bytes] = deque()
        self._failed = False
        self._heard: int | None = None
        self._stay_until = 0
        self._ask_again: int | None = None  # when to ask again whether anything waits at the server
        self._released = False  # the group's topics were given up, says the server
        self._now = 0
        self._backoff = 0
        self._recovered_at = 0
        self._doubtful = 0  # messages that a stream without a position may have lost
        self._lost = 0
        self._asked = False
        self._requests: list[bytes] = []
        self._out: list[bytes] = []

    # -- what goes out

    def take_requests(self) -> list[bytes]:
        """Return frames for the server, once."""
        out, self._requests = self._requests, []
        return out

    def take_frames(self) -> list[bytes]:
        """Return frames for the client, once."""
        out, self._out = self._out, []
        return out

    @property
    def deadline(self) -> int | None:
        """When ``tick`` is due at the latest; None: not before something comes."""
        times = [self.order.deadline]
        if self._heard is not None and self.state is State.DETACHED:
            times.append(self._heard + self.silence)
        if self.state is State.ATTACHED and not self._pending and self._stay_until > self._now:
            times.append(self._stay_until)
        if self.state in (State.BARRIER, State.DETACHING):
            times.append(self._ask_again)
        return min((t for t in times if t is not None), default=None)

    # -- what comes in

    def request(self, frame: bytes, now: int) -> None:
        """Take a request of the client."""
        message = codec.decode_request(frame)
        if isinstance(message, Subscribe | Resume):
            self._subscribe(message, now)
        elif isinstance(message, Unsubscribe):
            self._unsubscribe(message)
            return
        self._requests.append(bytes(frame))

    def frames(self, frames: list[bytes] | list[memoryview], now: int) -> None:
        """Take whole frames that the connection brought."""
        for view in frames:
            frame = bytes(view)
            if len(frame) < _HEAD.size:
                self._out.append(frame)  # of a version to come: the client knows what to do with it
                continue
            template, seq, instrument, stream_view, flags = _HEAD.unpack_from(frame)
            kind = KIND_OF.get(template)
            if kind is None or seq == 0:
                self._service(template, frame, now)
                continue
            key = StreamKey(instrument, kind, stream_view)
            position = self.positions.get(key)
            if position is None:
                self._doubt(key, seq, flags)
            elif template == Template.BOOK_SNAPSHOT and key in self._torn:
                if seq < position:
                    continue
            elif seq <= position:
                continue
            self._torn.discard(key)
            self._deliver(key, seq, frame)

    def datagram(self, packet: Packet, now: int) -> None:
        """Take one datagram."""
        if self.epoch is None or packet.epoch != self.epoch:
            self.foreign += self.epoch is not None
            return
        self._heard = self._now = now
        if packet.flags & HEARTBEAT:  # a heartbeat; its frames are outside the sequence
            self._announcement(packet.body)
        self._grouped(self.order.take(packet, now), now)
        self._move(now)

    def tick(self, now: int) -> None:
        """Do what time demands: give up holes, notice silence, leave the connection again."""
        self._now = now
        self._grouped(self.order.tick(now), now)
        if self._ask_again is not None and now >= self._ask_again:
            self._ask_again = None
            if self.state in (State.BARRIER, State.DETACHING):
                self._send(Ping(now))
        heard = self._heard
        if self.state is State.DETACHED and (heard is None or now - heard >= self.silence):
            self._recover(now)
        self._move(now)

    def deaf(self, now: int) -> None:
        """Learn that nothing can come from the group for now; whatever comes says that it can again."""
        self._now = now
        self._heard = None
        self._recover(now)

    def check(self) -> None:
        """Assert the invariants."""
        self.order.check()
        assert len(self._held) <= _HELD
        assert not self._held or self.state is State.DETACHING
        assert set(self._covered) <= set(self._topics)

    # -- the client's requests

    def _subscribe(self, message: Subscribe | Resume, now: int) -> None:
        if not self._asked:
            # Definitions of all instruments, so that the group's numbers can be told apart.
            self._asked = True
            self._send(Subscribe(self._next(), ("instruments *",), message.policy, message.queue))
        for text in message.topics:
            topic = _topic(text)
            if topic is not None:  # else the server will say so
                self._topics[text] = topic
        if isinstance(message, Resume):
            for position in message.positions:
                self.positions[StreamKey(*position[:3])] = position.seq
        self._terms = (message.policy, message.queue)
        self._pending.add(message.request_id)
        self._cover()
        if self.state is not State.ATTACHED:
            # New topics begin on the connection; the others come back to it, which the sequences keep exact.
            self._recover(now)

    def _unsubscribe(self, message: Unsubscribe) -> None:
        gone = self._covered if self.state in (State.DETACHING, State.DETACHED) else ()
        rest = tuple(t for t in message.topics if t not in gone)
        for text in message.topics:
            self._topics.pop(text, None)
        self._cover()
        if rest or not message.topics:
            self._send(Unsubscribe(message.request_id, rest))
        else:
            self._out.append(codec.encode_service(Ack(message.request_id)))

    def _cover(self) -> None:
        self._wanted.clear()
        self._covered = tuple(t for t, topic in self._topics.items() if self._carries(topic)) if self._group else ()

    def _carries(self, topic: Topic) -> bool:
        """Whether the group carries everything that a topic asks for; where in doubt it does not."""
        assert self._group is not None
        if topic.text in self._group:
            return True
        venue, _, symbol = topic.text.split()[1].rpartition(":")
        if topic.kind is Kind.NONE:
            return False
        literal = not set(venue + symbol) & set("*?[") and (bool(venue) or topic.kind is Kind.AGGREGATE)
        for other in self._carried:
            if (other.kind, other.view) != (topic.kind, topic.view):
                continue
            if other.text.split()[1] in ("*", "*:*") or (literal and other.matches(venue, symbol)):
                return True
        return False

    # -- the connection

    def _service(self, template: int, frame: bytes, now: int) -> None:
        if template == Template.INSTRUMENT:
            self._instrument(frame)
            return
        if template not in (
            Template.HELLO,
            Template.ACK,
            Template.REJECT,
            Template.STREAM_GAP,
            Template.HEARTBEAT,
        ):
            self._out.append(frame)
            return
        message = codec.decode_service(frame)
        if isinstance(message, Heartbeat):
            if message.queued:
                self._ask_again = now + _PAUSE
            elif self.state is State.BARRIER:
                self._detach()
            elif self.state is State.DETACHING and self._released:
                self._detached(now)
        elif isinstance(message, Hello):
            self.epoch = message.epoch
        elif isinstance(message, Ack | Reject):
            if message.request_id in self._pending:
                self._pending.discard(message.request_id)
                if isinstance(message, Reject) and message.request_id >= _OWN:
                    # Our own request to come back was refused: the client must know, and begins anew.
                    self._out.append(frame)
            if message.request_id >= _OWN:
                if self.state is State.DETACHING and message.request_id == self._own:
                    self._released = True
                    self._send(Ping(now))
                return
        elif isinstance(message, StreamGap) and not self._gap(message):
            return
        self._out.append(frame)
        self._move(now)

    def _gap(self, gap: StreamGap) -> bool:
        """Note a gap that the server announced; whether the client must hear of it."""
        key = StreamKey(gap.instrument_id, gap.kind, gap.view)
        position = self.positions.get(key)
        if gap.to_seq == 0:
            self.positions.pop(key, None)
            return True
        if position is not None and gap.to_seq <= position:
            return False
        self.positions[key] = gap.to_seq
        if key.kind == Kind.BOOK:
            self._torn.add(key)
        return True

    def _instrument(self, frame: bytes) -> None:
        number = codec.head(frame).instrument_id
        if self._definitions.get(number) == frame:
            return
        self._definitions[number] = frame
        record = codec.decode(frame, "", "")
        name = (getattr(record, "venue", ""), getattr(record, "symbol", ""))
        if self._names.get(number) != name:
            self._names[number] = name
            self._wanted.clear()
        if number in self._shown or any(topic.matches(*name) for topic in self._topics.values()):
            self._shown.add(number)
            self._out.append(frame)

    def _deliver(self, key: StreamKey, seq: int, frame: bytes) -> None:
        number = key.instrument_id
        if number not in self._shown:
            self._shown.add(number)
            if (definition := self._definitions.get(number)) is not None:
                self._out.append(definition)
        self.positions[key] = seq
        self._out.append(frame)

    def _doubt(self, key: StreamKey, seq: int, flags: int) -> None:
        """Say what a stream may have lost that had shown no message yet when packets were lost."""
        if self._doubtful and seq > 1 and key.kind not in _STARTS and not flags & CONFLATED:
            first = max(1, seq - self._doubtful)
            gap = StreamGap(key.instrument_id, key.kind, key.view, first, seq - 1, "resume")
            self._out.append(codec.encode_service(gap))

    # -- the group

    def _announcement(self, body: bytes) -> None:
        from .framing import split

        found, _ = split(body, len(body))
        for start, stop in found:
            frame = body[start:stop]
            if len(frame) < _HEAD.size:
                continue
            template = codec.head(frame).template
            if template == Template.INSTRUMENT:
                self._instrument(frame)
            elif template == Template.SUBSCRIBE:
                message = codec.decode_request(frame)
                assert isinstance(message, Subscribe)
                topics = frozenset(message.topics)
                if topics != self._group:
                    self._group = topics
                    self._carried = [topic for topic in map(_topic, sorted(topics)) if topic is not None]
                    self._cover()

    def _grouped(self, frames: list[bytes], now: int) -> None:
        if self.order.lost > self._lost:
            if self.state in (State.DETACHING, State.DETACHED) or self._pending:
                self._doubtful += (self.order.lost - self._lost) * self._most  # as many as can have been in them
            self._lost = self.order.lost
            if self.state is not State.ATTACHED:
                self._recover(now)
        # Plain tuples are equal to the keys of streams, and quicker made.
        positions = cast("dict[tuple[int, int, int], int]", self.positions)
        wanted = cast("dict[tuple[int, int, int], bool]", self._wanted)
        torn = cast("set[tuple[int, int, int]]", self._torn)
        for frame in frames:
            if len(frame) < _HEAD.size:
                continue
            template, seq, instrument, view, flags = _HEAD.unpack_from(frame)
            kind = KIND_OF.get(template)
            if kind is not None and self.state is State.DETACHED:
                # Nearly all are the next message of a stream that is handed on already.
                key = (instrument, kind, view)
                if positions.get(key) == seq - 1 and wanted.get(key) and key not in torn and instrument in self._shown:
                    positions[key] = seq
                    self._out.append(frame)
                    continue
            if template == Template.INSTRUMENT:
                self._instrument(frame)
                continue
            if template == Template.STREAM_GAP:
                self._pointer(frame, now)
            elif kind is not None and seq:
                self._from_group(StreamKey(instrument, kind, view), seq, flags, frame, now)

    def _from_group(self, key: StreamKey, seq: int, flags: int, frame: bytes, now: int) -> None:
        if not self._is_wanted(key):
            return
        if self.state is not State.DETACHED:
            if self.state is State.DETACHING:
                self._hold(frame)
            return
        position = self.positions.get(key)
        if position is None:
            if key.kind in _STARTS or flags & CONFLATED:
                self._recover(now)
            else:
                self._doubt(key, seq, flags)
                self._deliver(key, seq, frame)
        elif seq == position + 1 and key not in self._torn:
            self._deliver(key, seq, frame)
        elif seq > position:
            self._recover(now)

    def _pointer(self, frame: bytes, now: int) -> None:
        """The group passes something over (a snapshot, a queue that was full): fetch it."""
        gap = codec.decode_service(frame)
        assert isinstance(gap, StreamGap)
        key = StreamKey(gap.instrument_id, gap.kind, gap.view)
        behind = self.positions.get(key, -1) < gap.to_seq
        if behind and self.state is not State.ATTACHED and self._is_wanted(key):
            self._recover(now)

    def _hold(self, frame: bytes) -> None:
        if len(self._held) >= _HELD:
            self._failed = True
        else:
            self._held.append(frame)

    def _is_wanted(self, key: StreamKey) -> bool:
        wanted = self._wanted.get(key)
        if wanted is None:
            name = self._names.get(key.instrument_id)
            if name is None:
                return False
            covered = [self._topics[text] for text in self._covered]
            wanted = any(self._has(topic, key, name) for topic in covered)
            if wanted and key.kind in _ALONG:
                # They come along with the topics that stay on the connection, in the order of those.
                wanted = not any(self._has(t, key, name) for t in self._topics.values() if t not in covered)
            self._wanted[key] = wanted
        return wanted

    @staticmethod
    def _has(topic: Topic, key: StreamKey, name: tuple[str, str]) -> bool:
        if key.kind in _ALONG:  # along with any topic on the instrument; those of a whole venue with any topic
            return topic.kind is not Kind.NONE and (not name[1] or topic.matches(*name))
        return (topic.kind, topic.view) == (key.kind, key.view) and topic.matches(*name)

    # -- the switch

    def _move(self, now: int) -> None:
        """Begin to leave the connection where everything stands."""
        alive = self._heard is not None and now - self._heard < self.silence and not self.order.ended
        if (
            self.state is State.ATTACHED
            and self._covered
            and alive
            and not self._pending
            and now >= self._stay_until
            and self.order.waiting == 0
        ):
            self.state = State.BARRIER
            self._ask_again = None
            self._send(Ping(now))

    def _detach(self) -> None:
        self.state = State.DETACHING
        self._failed = self._released = False
        self._ask_again = None
        self._send(Unsubscribe(self._next(), self._covered))

    def _detached(self, now: int) -> None:
        self.state = State.DETACHED
        held, self._held = self._held, deque()
        if self._failed:
            self._failed = False
            self._recover(now)
            return
        for frame in held:
            _, seq, instrument, view, flags = _HEAD.unpack_from(frame)
            self._from_group(StreamKey(instrument, KIND_OF[codec.head(frame).template], view), seq, flags, frame, now)

    def _recover(self, now: int) -> None:
        """Have the connection carry the group's topics again, from where the client stands."""
        if self.state is State.DETACHING:
            # The connection may still bring messages of before: where the client stands is known when it is silent.
            self._failed = True
            return
        before, self.state = self.state, State.ATTACHED
        if before is not State.DETACHED or not self._covered:
            return
        self.recoveries += 1
        # Twice as long as the last time where losses follow each other, so that a bad network does not make the
        # client switch to and fro.
        quiet = now - self._recovered_at > 10 * _SECOND
        self._backoff = 50_000_000 if quiet else min(self._backoff * 2, 5 * _SECOND)
        self._recovered_at = now
        self._stay_until = now + self._backoff
        positions = tuple(Position(*key, seq) for key, seq in self.positions.items() if self._is_wanted(key))
        request = self._next()
        self._pending.add(request)
        self._send(Resume(request, self.epoch or 0, self._covered, positions, *self._terms))

    def _next(self) -> int:
        self._own = self._own + 1 if self._own >= _OWN else _OWN
        return self._own

    def _send(self, message: Ping | Subscribe | Unsubscribe | Resume) -> None:
        self._requests.append(codec.encode_request(message))


def _topic(text: str) -> Topic | None:
    try:
        return Topic(text)
    except CmdError:
        return None
