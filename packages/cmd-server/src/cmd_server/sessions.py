"""The clients of a hub: who they are, what they ask for and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct, field

from cmd_common.commands import AggregateOptions
from cmd_common.errors import CmdError, UsageError

from .catalogue import Catalogue
from .codec import encode, encode_service, with_flags
from .limits import Limits
from .messages import (
    CONFLATED,
    REPLAYED,
    Ack,
    Bye,
    Divert,
    Heartbeat,
    Hello,
    Kind,
    Login,
    Ping,
    Policy,
    Position,
    Reject,
    Request,
    Resume,
    Service,
    StreamGap,
    StreamKey,
    Subscribe,
    Unsubscribe,
)
from .queues import Client
from .streams import Entry, Stream
from .topics import Topic

__all__ = ["HubCounters", "Sessions"]


class HubCounters(Struct):
    """What a hub did; ``messages`` were encoded, ``ignored`` records could not be sent, ``byes`` by code."""

    records: int = 0
    messages: int = 0
    bytes: int = 0
    ignored: int = 0
    clients: int = 0
    rejects: int = 0
    byes: dict[str, int] = field(default_factory=dict)


class _Wanted(Struct, frozen=True):
    """A stream that a topic asks for; kind NONE: only the instrument."""

    entry: Entry
    kind: int
    view: int


class Sessions(Catalogue):
    """Clients, their requests and their topics."""

    def __init__(
        self,
        *,
        epoch: int,
        now: int,
        limits: Limits,
        aggregate: AggregateOptions | None,
        wake: Callable[[Client], None],
        authorize: Callable[[str], bool] | None,
        server: str,
    ) -> None:
        super().__init__(now, limits, aggregate)
        self.epoch = epoch
        self.counters = HubCounters()
        self.clients: dict[Client, None] = {}
        self._wake = wake
        self._authorize = authorize
        self._server = server
        self._stirred: dict[Client, None] = {}  # something new waits for them that is not in their queue
        self._woken: list[Client] = []
        self.portion: tuple[Sequence[bytes], int] = ((), 0)  # what a client took last, and its bytes

    def _settle(self) -> None:
        """Wake the clients for which something waits now."""
        raise NotImplementedError

    def attach(
        self,
        name: str,
        now: int,
        *,
        authorize: Callable[[str], bool] | None = None,
        snapshots: bool = True,
    ) -> Client:
        """Add a client and greet it; ``wake`` is not called, take what waits at once.

        ``authorize`` replaces the hub's for this client (one that has shown its token already, a trusted socket).
        Without ``snapshots`` books begin with the next change (multicast). One client too many is told so and closing.
        """
        self.now = now
        judge = self._authorize if authorize is None else authorize
        client = Client(self, name, now, self.limits.queue, judge, snapshots)
        limits = self.limits
        hello = Hello(self.epoch, now, limits.heartbeat, limits.max_message, judge is not None, self._server)
        client.say(encode_service(hello))
        client.idle = False
        self.counters.clients += 1
        full = len(self.clients) >= limits.clients
        self.clients[client] = None
        if full:
            self.bye(client, "limit", f"{limits.clients} clients are connected, which is the limit; try again later")
        return client

    def detach(self, client: Client) -> None:
        """Forget a client, whatever waits for it."""
        if client not in self.clients:
            return
        del self.clients[client]
        for stream in list(client.streams):
            client.forget(stream)
        for entry in client.known:
            entry.known_to.pop(client, None)
        client.closing = True
        self._stirred.pop(client, None)

    def bye(self, client: Client, code: str, text: str) -> None:
        """Say goodbye: nothing more is queued. What waits is dropped, unless the code is ``shutdown``."""
        if client.closing:
            return
        client.end(Bye(code, text))
        self.counters.byes[code] = self.counters.byes.get(code, 0) + 1
        for entry in client.known:
            entry.known_to.pop(client, None)
        if client.idle:
            client.idle = False
            self._woken.append(client)

    def dismiss(self, client: Client, code: str, text: str) -> None:
        """Say goodbye on the shell's behalf: ``bye``, and whoever something waits for is woken."""
        self.bye(client, code, text)
        self._settle()

    def handle(self, client: Client, request: Request, now: int) -> None:
        """Take a client's request; the answer is queued."""
        self.now = now
        if client.closing or client not in self.clients:
            return
        client.heard = now
        try:
            if isinstance(request, Ping):
                # Before the login too: it proves nothing but that somebody is there.
                self._answer(client, Heartbeat(now, client.pending))
            elif isinstance(request, Login):
                self._login(client, request)
            elif not client.logged_in:
                self._refuse(client, request.request_id, "protocol", "the first request must be a login")
                self.bye(client, "protocol", "the first request must be a login")
            elif isinstance(request, Unsubscribe):
                self._unsubscribe(client, request)
            elif isinstance(request, Divert):  # the shell carries it out where it can
                raise UsageError("this server has no other transport to send over")
            else:
                self._subscribe(client, request)
        except CmdError as error:
            id_ = getattr(request, "request_id", 0)
            self._refuse(client, id_, "usage", error.message, error.hint)
        if client.idle and not client.quiet:
            client.idle = False
            self._woken.append(client)
        self._settle()

    def refuse(self, client: Client, request_id: int, code: str, text: str, hint: str = "") -> None:
        """Answer a request that could not be understood with Reject, from the shell."""
        if not client.closing:
            self._refuse(client, request_id, code, text, hint)
            if client.idle:
                client.idle = False
                self._woken.append(client)
            self._settle()

    def _answer(self, client: Client, message: Service) -> None:
        if not client.say(encode_service(message), answer=True):
            self.bye(client, "limit", f"{self.limits.answers} answers wait; read them before asking more")

    def _refuse(self, client: Client, id_: int, code: str, text: str, hint: str = "") -> None:
        self.counters.rejects += 1
        self._answer(client, Reject(id_, code, text, hint))

    def _login(self, client: Client, request: Login) -> None:
        if client.logged_in:
            self._refuse(client, 0, "protocol", "this client is logged in already")
            return
        if client.authorize is not None and not client.authorize(request.token):
            text = "the token is wrong" if request.token else "a token is needed"
            self._refuse(client, 0, "token", text, "give the token that the server was started with")
            self.bye(client, "token", text)
            return
        client.logged_in = True
        if request.client:
            client.name = f"{client.name} {request.client[:100]}"
        self._answer(client, Ack(0))

    def _subscribe(self, client: Client, request: Subscribe | Resume) -> None:
        limits = self.limits
        if request.queue < 0 or request.policy not in Policy:
            raise UsageError(f"policy {request.policy} with a queue of {request.queue} is none")
        if client.answering > limits.answers or client.replaying > limits.queue_max:
            waiting = client.answering + client.replaying
            self.bye(client, "limit", f"{waiting} answers and old messages wait; read them before asking more")
            return
        topics = [Topic(text) for text in dict.fromkeys(request.topics)]
        new = [topic for topic in topics if topic.text not in client.topics]
        resume = request if isinstance(request, Resume) else None
        if len(client.topics) + len(new) > limits.topics:
            self._refuse(
                client, request.request_id, "limit", f"a client may have {limits.topics} topics", "use wildcards"
            )
            return
        views = {(topic.kind, topic.view) for topic in (*client.topics.values(), *new) if topic.view}
        if len(views) > limits.views:  # each costs time at every update of a book
            text = f"a client may have {limits.views} different depths and intervals"
            self._refuse(client, request.request_id, "limit", text, "ask for fewer")
            return
        if resume is not None and len(resume.positions) > limits.streams:
            self._refuse(client, resume.request_id, "limit", f"a client may have {limits.streams} streams")
            return
        for topic in new:
            if topic.kind is Kind.AGGREGATE:
                if self._aggregate is None:
                    raise UsageError(f"{topic.text!r}: this server merges no books")
                self._merge_new(topic.literal)
        wanted = list(dict.fromkeys((w.entry, w.kind, w.view) for w in self._all_of(new)))
        more = sum(
            kind != Kind.NONE and self.streams.get(StreamKey(entry.id, kind, view)) not in client.streams
            for entry, kind, view in wanted
        )
        if len(client.streams) + more > limits.streams:
            text = f"the topics match {len(client.streams) + more} streams, a client may have {limits.streams}"
            self._refuse(client, request.request_id, "limit", text, "ask for less")
            return
        client.set_policy(Policy(request.policy), min(request.queue or limits.queue, limits.queue_max))
        client.topics.update((topic.text, topic) for topic in new)
        self._answer(client, Ack(request.request_id, len(client.streams) + more))
        positions: dict[StreamKey, int] = {}
        if resume is not None:
            positions = self._positions(client, resume)
        self._give(client, [_Wanted(*w) for w in wanted], positions)

    def _positions(self, client: Client, resume: Resume) -> dict[StreamKey, int]:
        """The positions of this epoch; those of another are told to be lost."""
        if resume.epoch == self.epoch:
            return {StreamKey(p.instrument_id, p.kind, p.view): p.seq for p in map(Position._make, resume.positions)}
        for p in resume.positions:
            client.say(encode_service(StreamGap(p.instrument_id, p.kind, p.view, p.seq + 1, 0, "restart")))
        return {}

    def _unsubscribe(self, client: Client, request: Unsubscribe) -> None:
        missing = [text for text in request.topics if text not in client.topics]
        if missing:
            hint = "write it exactly as it was subscribed"
            self._refuse(client, request.request_id, "unknown", f"{missing[0]!r} is not subscribed", hint)
            return
        for text in dict.fromkeys(request.topics):
            del client.topics[text]
        kept = {StreamKey(w.entry.id, w.kind, w.view) for w in self._all_of(list(client.topics.values()))}
        for stream in [stream for stream in client.streams if stream.key not in kept]:
            client.forget(stream)
        self._answer(client, Ack(request.request_id, len(client.streams)))

    # -- topics and streams

    def _appeared(self, entry: Entry) -> None:
        """Give a new instrument to the clients whose topics match it."""
        for client in list(self.clients):
            if client.closing:
                continue
            found = list(dict.fromkeys(w for topic in client.topics.values() for w in self._of(topic, entry)))
            if found:
                self._give(client, found, {})
                self._stirred[client] = None
                if len(client.streams) > self.limits.streams:
                    self.bye(client, "limit", f"more than {self.limits.streams} streams match the topics")

    def _of(self, topic: Topic, entry: Entry) -> list[_Wanted]:
        """What a topic asks for of an instrument."""
        if not entry.id or entry.aggregate is not (topic.kind is Kind.AGGREGATE):
            return []
        if not topic.matches(entry.venue, entry.symbol):
            return []
        found: list[_Wanted] = []
        if topic.kind is not Kind.NONE and not entry.aggregate:
            # States come first: in a resume they are older than the book messages that are sent again after them.
            found += [_Wanted(entry, kind, 0) for kind in (Kind.STATUS, Kind.GAPS)]
        return [*found, _Wanted(entry, topic.kind, topic.view)]

    def _all_of(self, topics: Sequence[Topic]) -> Iterator[_Wanted]:
        for topic in topics:
            if topic.kind is not Kind.NONE:
                yield _Wanted(self.entries[0], Kind.STATUS, 0)
                yield _Wanted(self.entries[0], Kind.GAPS, 0)
            if topic.exact is not None:
                for entry in self._by_fold.get(topic.exact, ()):
                    yield from self._of(topic, entry)
            else:
                for entry in self.entries:
                    yield from self._of(topic, entry)

    def _give(self, client: Client, wanted: Sequence[_Wanted], positions: dict[StreamKey, int]) -> None:
        """Tell a client of instruments and give it their streams."""
        for want in wanted:
            entry = want.entry
            if entry.id and client not in entry.known_to:
                entry.known_to[client] = None
                client.known.append(entry)
                client.announce(entry.id, entry.instrument(self.now))
            if want.kind != Kind.NONE:
                stream = self._stream(entry, want.kind, want.view)
                if stream not in client.streams:
                    self._attach(client, stream, positions.get(stream.key))

    def _attach(self, client: Client, stream: Stream, position: int | None) -> None:
        """Give a stream to a client, from a position on where it has one."""
        if not stream.active and (stream.kind not in (Kind.TRADES, Kind.AGG_TRADES, Kind.STATUS, Kind.GAPS)):
            self._revive(stream)
        client.streams[stream] = None
        lost = 0
        if position is not None and position <= stream.seq:
            room = self.limits.queue_max - client.replaying
            if stream.reach(position) and stream.seq - position <= room:
                client.replay([with_flags(frame, REPLAYED) for frame in stream.after(position)])
                stream.join(client)
                return
            lost = position + 1
        elif position is not None:  # a sequence that this epoch has not reached
            client.say(encode_service(StreamGap(*stream.key, position + 1, 0, "restart")))
        self._begin(client, stream, lost)

    def _begin(self, client: Client, stream: Stream, lost: int) -> None:
        """Begin a stream with a message that stands for everything so far, where there is one."""
        kind = stream.kind
        if kind == Kind.BOOK and client.snapshots:
            client.want(stream, lost, "resume")
            return
        frames: list[bytes] = []
        until = stream.seq
        if kind == Kind.STATUS:
            until = lost - 1  # states that were replaced are no loss
            for record, seq, flag in stream.entry.statuses.values():
                if seq >= lost:
                    frames.append(encode(record, stream.id, seq, 0, CONFLATED | REPLAYED, flag))
        elif kind in (Kind.QUOTES, Kind.CANDLES, Kind.AGGREGATE):
            frame = stream.frame(CONFLATED | REPLAYED)
            if frame is not None:
                frames.append(frame)
                until = stream.seq - 1
        elif lost:  # what the ring has is better than nothing
            room = self.limits.queue_max - client.replaying
            until = max(lost - 1, stream.seq - min(len(stream.ring), room))
            frames = [with_flags(frame, REPLAYED) for frame in stream.after(until)]
        if lost and until >= lost:
            client.say(encode_service(StreamGap(*stream.key, lost, until, "resume")))
        if frames:
            client.replay(frames)
        stream.join(client)

    def check(self) -> None:
        """Assert every invariant, of books, streams and clients; for tests."""
        super().check()
        assert not self._stirred
        assert not self._woken
        for entry in self.entries:
            assert entry.known_to.keys() <= self.clients.keys()
        for client in self.clients:
            client.check()
            for stream in client.streams:
                assert self.streams[stream.key] is stream
                assert not stream.id or client in stream.entry.known_to
            assert client.closing or all(client in entry.known_to for entry in client.known)
