"""What waits for one client, bounded, and the policies for when it does not read fast enough.

Theory of operation. Messages for a client wait in this order:

    control    answers, instruments, gaps of a resume: bounded by count, never dropped
    replay     messages of the ring, or last states, for a client that joined or came back
    gaps       what was dropped from the queue since the client last took something
    queue      live messages, shared with all other readers; its length is the bound that a client asks for
    current    streams of which one message will stand for all that was merged or dropped, made when it is taken

so every stream's messages are in the order of their sequence. CONFLATE merges early, at a quarter of the bound: a
client that is behind gets the latest book rather than an old one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct as Layout
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from .codec import encode_service
from .formats import BODY
from .messages import CONFLATED, KIND_OF, Bye, Kind, Policy, StreamGap, StreamKey
from .streams import CONFLATABLE

if TYPE_CHECKING:
    from .sessions import Sessions
    from .streams import Entry, Stream
    from .topics import Topic

__all__ = ["MARK_EVERY", "Client", "ClientCounters"]

_WHERE: Final = Layout("<8xH4xQ16xIH")
"""Template, sequence, instrument and view of a frame."""

_MERGED: Final = -1  # the messages of a waiting stream were merged; else the first sequence that was lost, 0: none
MARK_EVERY: Final = 10_000_000
"""ns between two notes of when messages were queued."""


class ClientCounters(Struct):
    """What became of a client's messages."""

    sent: int = 0
    bytes: int = 0
    dropped: int = 0
    conflated: int = 0
    high_water: int = 0


class Client:
    """One connected client as the hub sees it. ``context`` belongs to the shell.

    The shell calls ``take`` whenever it can send; it is woken when something waits again after ``take`` has returned
    everything. After ``closing`` became true no more is queued: drain what is ``pending``, then close.
    """

    __slots__ = (
        "_announced",
        "_answers",
        "_calm",
        "_control",
        "_gaps",
        "_hub",
        "_last",
        "_marks",
        "_replay",
        "_special",
        "attached",
        "authorize",
        "bound",
        "closing",
        "context",
        "counters",
        "current",
        "first",
        "heard",
        "idle",
        "known",
        "logged_in",
        "mark",
        "name",
        "next_mark",
        "policy",
        "popped",
        "put",
        "queue",
        "said",
        "since",
        "snapshots",
        "streams",
        "topics",
    )

    def __init__(
        self, hub: Sessions, name: str, now: int, bound: int, authorize: Callable[[str], bool] | None, snapshots: bool
    ) -> None:
        self.name = name
        self.policy = Policy.CONFLATE
        self.bound = bound
        self.authorize = authorize
        self.snapshots = snapshots
        self.context: Any = None
        self.logged_in = False
        self.closing = False
        self.attached = self.heard = self.said = now
        self.topics: dict[str, Topic] = {}
        self.streams: dict[Stream, None] = {}
        self.queue: deque[bytes] = deque()
        self.put = self.queue.append
        self.current: dict[Stream, tuple[int, str]] = {}  # first sequence that was lost, and why
        self.counters = ClientCounters()
        self.known: list[Entry] = []
        self.idle = True  # nothing waits: the next message wakes the shell
        self.since = now  # when message ``first`` was put into the queue
        self.first = 0
        self.mark = 0  # length at which the policy looks at the queue
        self._hub = hub
        self._control: deque[bytes] = deque()
        self._announced: dict[int, bytes] = {}  # instruments by id
        self._replay: deque[bytes] = deque()
        self._gaps: dict[StreamKey, list[int]] = {}
        self._last: bytes = b""  # Bye after everything else
        self._special = False  # something else than the queue may have something
        self._answers = 0
        self.popped = 0
        self._marks: deque[tuple[int, int]] = deque()
        self.next_mark = 0
        self.set_policy(self.policy, bound)

    # -- what the shell uses

    @property
    def pending(self) -> int:
        """How many messages wait. O(1), or O(streams) while some are merged."""
        return (
            len(self.queue)
            + len(self._control)
            + len(self._announced)
            + len(self._replay)
            + len(self._gaps)
            + (1 if self._last else 0)
            + (sum(s.ready or 0 < lost <= s.seq for s, (lost, _) in self.current.items()) if self.current else 0)
        )

    def take(self, max_bytes: int) -> Sequence[bytes]:
        """Return what waits, in order, up to about ``max_bytes`` (at least one message). O(messages returned)."""
        if self._special:
            return self._take_special(max_bytes)
        queue = self.queue
        waiting = len(queue)
        if waiting == 1:  # the usual case of a client that keeps up
            out = [queue.popleft()]
            size = len(out[0])
        elif waiting:
            # Where the shortest messages alone would be too much, not even a look at them is worth it.
            return self._take_all(max_bytes) if waiting * BODY <= max_bytes else self._take_special(max_bytes)
        else:
            self.idle = True
            return []
        taken = len(out)
        self.popped += taken
        counters = self.counters
        counters.sent += taken
        counters.bytes += size
        if waiting > counters.high_water:
            counters.high_water = waiting
        self.said = self._hub.now
        if not queue:
            self._emptied()
        return out

    def _take_all(self, max_bytes: int) -> Sequence[bytes]:
        """Take the whole queue. Clients that take the same messages in one turn get the same tuple.

        So what is made of it, its size here and its bytes in one piece below, is made once for all of them. To find
        that it is the same is to compare pointers: each message is one object for all of its readers.
        """
        queue = self.queue
        out: Sequence[bytes] = tuple(queue)
        hub = self._hub
        shared, size = hub.portion
        if out == shared and size <= max_bytes:
            out = shared
        else:
            size = sum(map(len, out))
            if size > max_bytes:
                return self._take_special(max_bytes)
            hub.portion = out, size
        queue.clear()
        taken = len(out)
        self.popped += taken
        counters = self.counters
        counters.sent += taken
        counters.bytes += size
        if taken > counters.high_water:
            counters.high_water = taken
        self.said = hub.now
        self.idle = True
        self.mark = self._calm
        if self._marks:
            self._marks.clear()
        return out

    def takes(self, count: int) -> bool:
        """Whether ``count`` messages may go past the queue: nothing waits, and its policy would leave them all."""
        return self.idle and count <= self.mark and not self.queue and not (self._special and self.pending)

    def passed(self, count: int, size: int) -> None:
        """Count messages that went past the queue, as ``take`` counts those in it."""
        counters = self.counters
        counters.sent += count
        counters.bytes += size
        if count > counters.high_water:
            counters.high_water = count
        self.said = self._hub.now

    def _take_special(self, max_bytes: int) -> list[bytes]:
        counters = self.counters
        counters.high_water = max(counters.high_water, len(self.queue))
        out: list[bytes] = []
        size = self._take(out, max_bytes)
        if out:
            counters.sent += len(out)
            counters.bytes += size
            self.said = self._hub.now
        if not self.queue:
            self._emptied()
            self.idle = not self._special or not self.pending
        return out

    def _emptied(self) -> None:
        self.idle = True
        self.mark = self._calm
        if self._marks:
            self._marks.clear()

    def lag(self, now: int) -> int:
        """How long the oldest message of the queue has waited, in ns, to within 10 ms; 0 where none waits."""
        marks = self._marks
        while marks and marks[0][0] <= self.popped:
            self.since = marks.popleft()[1]
        since = marks[0][1] if marks and self.first != self.popped else self.since
        return max(0, now - since) if self.queue else 0

    # -- what the hub uses

    def set_policy(self, policy: Policy, bound: int) -> None:
        """Change the policy and the bound; it holds from the next message on."""
        self.policy = policy
        self.bound = bound
        self._calm = self.mark = bound if policy is not Policy.CONFLATE else max(1, bound // 4)

    def say(self, frame: bytes, *, answer: bool = False) -> bool:
        """Queue a message that is never dropped; False: too many answers wait."""
        self._control.append(frame)
        self._special = True
        if answer:
            self._answers += 1
        return self._answers <= self._hub.limits.answers

    def announce(self, instrument_id: int, frame: bytes) -> None:
        """Queue an instrument; a newer one takes the place of one that waits."""
        self._announced[instrument_id] = frame
        self._special = True

    @property
    def answering(self) -> int:
        """How many answers and gaps of a resume wait."""
        return len(self._control)

    def replay(self, frames: list[bytes]) -> None:
        """Queue messages before the live ones."""
        self._replay += frames
        self._special = True

    @property
    def replaying(self) -> int:
        """How many messages before the live ones wait."""
        return len(self._replay)

    @property
    def quiet(self) -> bool:
        """Whether nothing at all waits."""
        return not self.queue and not (self._special and self.pending)

    def want(self, stream: Stream, lost_from: int = 0, reason: str = "slow") -> None:
        """Wait for a message that stands for all of a stream so far; ``lost_from``: the first sequence that was lost."""
        stream.wait(self)
        self.current[stream] = lost_from, reason
        self._special = True

    def forget(self, stream: Stream) -> None:
        """Leave a stream; what waits of it is still sent, except what is not made yet."""
        stream.leave(self)
        self.streams.pop(stream, None)
        self.current.pop(stream, None)
        self._gaps.pop(stream.key, None)

    def look(self, now: int) -> None:
        """Look at a queue that is longer than ``mark``, or was not looked at since ``next_mark``. O(1) unless full."""
        if now >= self.next_mark:
            self._marks.append((self.popped + len(self.queue), now))
            self.next_mark = now + MARK_EVERY
        if len(self.queue) > self.mark:
            self.counters.high_water = max(self.counters.high_water, len(self.queue))
            self._overflow()

    def end(self, bye: Bye) -> None:
        """Queue nothing more but Bye: at once, or after all that waits where the server shuts down."""
        if self.closing:
            return
        for stream in list(self.streams):
            self.forget(stream)
        if bye.code != "shutdown":
            self.counters.dropped += len(self.queue) + len(self._replay)
            self._drop_all()
        self._last = encode_service(bye)
        self._special = True
        self.closing = True

    def _drop_all(self) -> None:
        self._announced.clear()
        self.popped += len(self.queue)
        self.queue.clear()
        self._replay.clear()
        self._gaps.clear()
        self._marks.clear()

    def _some(self, frames: deque[bytes], out: list[bytes], size: int, max_bytes: int) -> int:
        while frames and (size < max_bytes or not out):
            frame = frames.popleft()
            size += len(frame)
            out.append(frame)
        return size

    def _take(self, out: list[bytes], max_bytes: int) -> int:
        size = self._some(self._control, out, 0, max_bytes)
        self._answers = min(self._answers, len(self._control))
        if not self._control:
            while self._announced and (size < max_bytes or not out):
                out.append(self._announced.pop(next(iter(self._announced))))
                size += len(out[-1])
        if size < max_bytes and not (self._control or self._announced):
            size = self._some(self._replay, out, size, max_bytes)
        if size < max_bytes and not (self._control or self._announced or self._replay):
            for key, (first, last) in self._gaps.items():
                out.append(encode_service(StreamGap(*key, first, last, "slow")))
                size += len(out[-1])
            self._gaps.clear()
            before = len(out)
            size = self._some(self.queue, out, size, max_bytes)
            self.popped += len(out) - before
        if not (self._control or self._announced or self._replay or self._gaps or self.queue):
            size = self._take_current(out, size, max_bytes)
        waits = self._control or self._announced or self._replay or self._gaps or self.queue
        if self._last and not waits and (size < max_bytes or not out):
            out.append(self._last)
            size += len(self._last)
            self._last = b""
        self._special = bool(
            self._control or self._announced or self._replay or self._gaps or self.current or self._last
        )
        return size

    def _take_current(self, out: list[bytes], size: int, max_bytes: int) -> int:
        """Make the messages that stand for what was merged or dropped, of the streams that have one now."""
        for stream in list(self.current):
            if size >= max_bytes and out:
                break
            lost, reason = self.current[stream]
            frame = stream.frame(CONFLATED if lost == _MERGED else 0)
            if frame is None:  # its book is not LIVE: it goes on waiting, but what is lost is said
                if 0 < lost <= stream.seq:
                    out.append(encode_service(StreamGap(*stream.key, lost, stream.seq, reason)))
                    size += len(out[-1])
                    self.current[stream] = stream.seq + 1, reason
                continue
            del self.current[stream]
            # A snapshot stands for the last message, any other kind is it.
            until = stream.seq if stream.kind == Kind.BOOK else stream.seq - 1
            if 0 < lost <= until:
                out.append(encode_service(StreamGap(*stream.key, lost, until, reason)))
                size += len(out[-1])
            out.append(frame)
            size += len(frame)
            stream.join(self)
        return size

    # -- policies

    def _overflow(self) -> None:
        if self.policy is Policy.DISCONNECT:
            self._let_go()
        elif self.policy is Policy.DROP_OLDEST:
            self._drop_oldest()
        else:
            self._conflate()

    def _let_go(self) -> None:
        text = f"{len(self.queue)} messages wait, {self.bound} may; read faster, ask for less, or for another policy"
        self._hub.bye(self, "slow", text)

    def _stream_of(self, frame: bytes) -> tuple[Stream | None, int]:
        template, seq, instrument, view = _WHERE.unpack_from(frame)
        stream = self._hub.streams.get(StreamKey(instrument, KIND_OF[template], view))
        return (stream if stream in self.streams else None), seq

    def _conflate(self) -> None:
        """Take out everything of which one message can stand for all; the rest stays."""
        kept: deque[bytes] = deque()
        merged: dict[Stream, None] = {}
        if self.snapshots:
            for frame in self.queue:
                stream, _ = self._stream_of(frame)
                if stream is not None and stream.kind in CONFLATABLE:
                    merged[stream] = None
                else:
                    kept.append(frame)
            for stream in merged:
                self.want(stream, self._gap_before(stream) or _MERGED)
            self._replace(kept, conflated=True)
        if len(self.queue) > self.bound:
            self._let_go()
        else:
            self.mark = min(self.bound, len(self.queue) + self._calm)

    def _drop_oldest(self) -> None:
        """Drop the oldest messages; a book of which one is dropped goes on with a snapshot.

        A quote or merged book of which nothing newer waits is sent as it is now: it may not change for long.
        """
        queue = self.queue
        books: dict[Stream, int] = {}
        states: dict[Stream, None] = {}
        for _ in range(len(queue) - self.bound + self.bound // 16):
            stream, seq = self._stream_of(queue.popleft())
            self.popped += 1
            self.counters.dropped += 1
            if stream is None:
                continue
            if stream.kind == Kind.BOOK and self.snapshots:
                books.setdefault(stream, seq)
            else:
                self._gaps.setdefault(stream.key, [seq, seq])[1] = seq
                self._special = True
                if stream.kind in CONFLATABLE and self.snapshots:
                    states[stream] = None
        if states:
            for frame in reversed(queue):
                newer, _ = self._stream_of(frame)
                if newer in states:
                    del states[newer]
                    if not states:
                        break
            for stream in states:
                self.want(stream, self._gap_before(stream))
        if books:
            kept = deque(frame for frame in queue if self._stream_of(frame)[0] not in books)
            for stream, seq in books.items():
                self.want(stream, self._gap_before(stream) or seq)
            self._replace(kept, conflated=False)

    def _gap_before(self, stream: Stream) -> int:
        """The first sequence of a gap of a stream that was not told yet, and now need not be told apart; 0: none."""
        gap = self._gaps.pop(stream.key, None)
        return gap[0] if gap is not None else 0

    def _replace(self, kept: deque[bytes], *, conflated: bool) -> None:
        removed = len(self.queue) - len(kept)
        self.popped += removed
        if conflated:
            self.counters.conflated += removed
        else:
            self.counters.dropped += removed
        self.queue.clear()  # the same object: streams hold its append
        self.queue += kept

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert len(self.queue) <= self.bound
        assert self._answers <= len(self._control)
        assert len(self._announced) <= len(self._hub.entries)
        assert self._special or not (self._control or self._announced or self._replay or self._gaps)
        assert self._special or not (self.current or self._last)
        assert self.idle <= self.quiet
        assert self.current.keys() <= self.streams.keys()
        for stream in self.streams:
            assert (self in stream.waiting) == (stream in self.current)
            assert (self in stream.readers) != (self in stream.waiting)
        if self.closing:
            assert not self.streams
        for frame in self.queue:
            assert _WHERE.unpack_from(frame)[0] in KIND_OF
        for first, last in self._gaps.values():
            assert 0 < first <= last
