"""The hub: records in, numbered messages for every client out. It does no I/O, and time is an argument.

Theory of operation. ``publish`` takes records in the order of the source. Each belongs to a stream (see
``cmd_server.streams``), which encodes it once and puts the same bytes into the queue of every reader. Books are
copied from their records (``books``), so that late joiners get snapshots and views can be derived; nothing is sent
from a book that is not LIVE except its state. Each client's queue is bounded (``cmd_server.queues``); after every
batch, and every 64 messages within one, the queues that got something are looked at, and ``wake`` is called for
clients for which nothing had waited before.

A client's requests come by ``handle``. Topics are matched against instruments when they are asked for and when a new
instrument appears; with any topic on an instrument come its states and gaps, and those of its venue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec import Struct, field

from cmd_common.commands import AggregateOptions
from cmd_common.equivalence import Equivalents, Target, matches
from cmd_common.errors import CmdError, DataError, UsageError
from cmd_common.following import BookFollower
from cmd_common.instruments import Instrument
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import (
    AggregatedBook,
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
)
from cmd_common.replica import BookReplica
from cmd_common.sequence import BookState

from .codec import encode, encode_service, with_flags
from .limits import Limits
from .messages import (
    CONFLATED,
    REPLAYED,
    Ack,
    BookFlag,
    Bye,
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
    view_code,
    view_text,
)
from .queues import Client
from .streams import FLAG_OF, Entry, Stream
from .topics import Topic
from .views import CandleView, DepthView, MergedView, QuoteView

__all__ = ["AGGREGATES", "Client", "Hub", "HubCounters"]

AGGREGATES: Final = "aggregate"
"""The venue of merged instruments, where one is asked for."""

_LOOK_EVERY: Final = 64  # messages between two looks at the queues
_TICK: Final = 1_000_000_000  # ns between two looks at candles and merged books
_LIVE: Final = BookState.LIVE


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


class Hub:
    """Fans records out to clients; see the module. ``epoch`` names this run of the server; times are ns.

    ``wake(client)`` says that something waits for a client; it may take it at once. ``authorize(token)`` is asked at
    each login, in constant time; None: no token is needed. ``books`` holds a copy of every book that was published.
    """

    def __init__(
        self,
        *,
        epoch: int,
        now: int,
        limits: Limits | None = None,
        aggregate: AggregateOptions | None = None,
        wake: Callable[[Client], None],
        authorize: Callable[[str], bool] | None = None,
        server: str = "cmd-server",
    ) -> None:
        self.epoch = epoch
        self.now = now
        self.limits = Limits() if limits is None else limits
        self.books = MultiSymbolOrderBook()
        self.counters = HubCounters()
        self.clients: dict[Client, None] = {}
        self.streams: dict[StreamKey, Stream] = {}
        self.entries: list[Entry] = []  # by instrument id
        self._wake = wake
        self._authorize = authorize
        self._server = server
        self._by_name: dict[tuple[str, str], Entry] = {}
        self._by_fold: dict[tuple[str, str], list[Entry]] = {}
        self._touched: list[Stream] = []
        self._stirred: dict[Client, None] = {}
        self._woken: list[Client] = []
        self._flags = 0
        self._next_tick = now
        self._aggregate = aggregate
        self._equivalents = Equivalents(aggregate.equivalents if aggregate is not None else ())
        self._reference: dict[tuple[str, str], Instrument] = {}
        self._merged: dict[str, MergedView] = {}  # by unified name
        self._watching: dict[str, list[MergedView]] = {}  # by the name of a book
        self._watched = -1  # version of the books that it was made for
        self._candle_views: dict[Stream, CandleView] = {}
        self._handlers: dict[type, Callable[..., None]] = {
            Trade: self._on_trade,
            AggTrade: self._on_agg_trade,
            Quote: self._on_quote,
            BookDelta: self._on_delta,
            BookSnapshot: self._on_snapshot,
            Candle: self._on_candle,
            AggregatedBook: self._on_aggregated,
            FeedStatus: self._on_status,
            Gap: self._on_gap,
            InstrumentRecord: self._on_instrument,
        }
        self._add("", "")  # id 0: the server and whole venues

    # -- records

    def publish(self, records: Sequence[Record], now: int, *, flags: int = 0) -> None:
        """Take records in their order; ``flags`` are added to every message (REPLAYED). O(records x readers)."""
        self.now = now
        self._flags = flags
        self.counters.records += len(records)
        handlers = self._handlers
        for record in records:
            handlers[type(record)](record)
        self._flags = 0
        self._settle()

    def _send(self, stream: Stream, record: Record, state: int = 0) -> None:
        """Give a message its number; encode it and put it into the queue of every reader, if there are any."""
        stream.seq = seq = stream.seq + 1
        if not stream.active:
            return
        frame = encode(record, stream.id, seq, stream.view, self._flags, state)
        for put in stream.readers.values():
            put(frame)
        stream.keep(frame)
        counters = self.counters
        counters.messages += 1
        counters.bytes += len(frame)
        touched = self._touched
        touched.append(stream)
        if stream.waiting:
            self._stirred.update(stream.waiting)
        if len(touched) >= _LOOK_EVERY:
            self._look()

    def _look(self) -> None:
        """Look at the queues that got something."""
        touched = self._touched
        clients: dict[Client, object] = dict(touched[0].readers) if touched else {}
        for stream in touched[1:]:
            clients.update(stream.readers)
        if self._stirred:
            clients.update(self._stirred)
            self._stirred.clear()
        touched.clear()
        now = self.now
        woken = self._woken
        for client in clients:
            # The conditions are those under which ``queued`` does anything: the call costs more than a delivery.
            if (client.idle or len(client.queue) > client.mark or now >= client.next_mark) and client.queued(now):
                woken.append(client)

    def _settle(self) -> None:
        if self._touched or self._stirred:
            self._look()
        if self._woken:
            woken, self._woken = self._woken, []
            for client in woken:
                self._wake(client)

    def _on_trade(self, record: Trade) -> None:
        try:
            entry = self._by_name[record.venue, record.symbol]
        except KeyError:
            entry = self._add(record.venue, record.symbol)
        stream = entry.trades
        if stream is not None:
            self._send(stream, record)
        if entry.built:
            for view, candles in entry.built.items():
                stream = entry.candles[view]
                if stream.active:
                    for candle in candles.trade(record, self.now):
                        self._send(stream, candle)

    def _on_agg_trade(self, record: AggTrade) -> None:
        stream = self._entry(record.venue, record.symbol).agg_trades
        if stream is not None:
            self._send(stream, record)

    def _on_quote(self, record: Quote) -> None:
        entry = self._entry(record.venue, record.symbol)
        entry.quote = record
        if entry.quotes is not None:
            self._send(entry.quotes, record)

    def _on_delta(self, record: BookDelta) -> None:
        try:
            entry = self._by_name[record.venue, record.symbol]
        except KeyError:
            entry = self._add(record.venue, record.symbol)
        replica = entry.replica
        if replica is None:
            replica = self._copy(entry)
        was = replica.book.state
        if replica.apply(record):
            self._changed(entry, record)
        else:
            self.counters.ignored += 1
            if was is _LIVE and not replica.live:
                self._lost(entry, record, "sequence")

    def _on_snapshot(self, record: BookSnapshot) -> None:
        entry = self._entry(record.venue, record.symbol)
        replica = entry.replica
        if replica is None:
            replica = self._copy(entry)
        if replica.same(record):
            replica.load(record)  # more of it may be known to be complete
            return  # written from time to time for those who read a store
        was = replica.book.state
        if replica.load(record):
            self._changed(entry, record)
        else:
            self.counters.ignored += 1
            if was is _LIVE:
                self._lost(entry, record, "malformed")

    def _changed(self, entry: Entry, record: BookDelta | BookSnapshot) -> None:
        """Send what follows from a change of a LIVE book."""
        stream = entry.book
        if stream is not None:
            self._send(stream, record, BookFlag.LIVE)
        if entry.views:
            for stream, view in entry.views.items():
                if stream.active:
                    message = view.update(record)
                    if message is not None:
                        self._send(stream, message, BookFlag.LIVE)
                    elif stream.waiting:
                        self._stirred.update(stream.waiting)
        if self._merged:
            self._merge(entry)

    def _lost(self, entry: Entry, record: BookDelta | BookSnapshot, reason: str) -> None:
        """Tell readers that the copy of a book cannot be trusted although its feed has not said so."""
        now = record.ts_recv
        self._on_status(FeedStatus(record.ts_event, now, entry.venue, entry.symbol, "book", "server", "STALE", reason))

    def _on_candle(self, record: Candle) -> None:
        entry = self._entry(record.venue, record.symbol)
        try:
            view = view_code(Kind.CANDLES, record.interval + (":built" if record.source == "built" else ""))
        except UsageError:
            self.counters.ignored += 1
            return
        entry.last_candles[view] = record
        if view in entry.built:  # the source has its own after all
            self._candle_views.pop(entry.candles[view])
            del entry.built[view]
        stream = entry.candles.get(view)
        if stream is not None:
            self._send(stream, record)

    def _on_aggregated(self, record: AggregatedBook) -> None:
        # Rows of a source are of its own options and depth; the hub merges by those that its clients ask for.
        self.counters.ignored += 1

    def _on_status(self, record: FeedStatus) -> None:
        entry = self._entry(record.venue, record.symbol) if record.symbol else self.entries[0]
        stream = entry.status
        assert stream is not None
        flag = BookFlag.NONE
        if record.record_type == "book" and record.symbol:
            replica = entry.replica
            if replica is not None:
                replica.status(record)
                if not replica.live:
                    for view in entry.views.values():
                        view.lose()
                flag = FLAG_OF[replica.book.state]
            elif record.state in BookFlag.__members__:
                flag = BookFlag[record.state] if record.state != "LIVE" else BookFlag.SYNCING
        self._send(stream, record, flag)
        entry.remember(record, stream.seq, flag)
        if self._merged and record.symbol:
            self._merge(entry, state=True)

    def _on_gap(self, record: Gap) -> None:
        entry = self._entry(record.venue, record.symbol) if record.symbol else self.entries[0]
        assert entry.gaps is not None
        self._send(entry.gaps, record)

    def _on_instrument(self, record: InstrumentRecord) -> None:
        entry = self._entry(record.venue, record.symbol)
        if entry.record == record:
            return
        entry.record = record
        entry.frame = b""
        for client in entry.known_to:
            client.announce(entry.id, entry.instrument(self.now))
            self._stirred[client] = None
        try:
            instrument = Instrument.from_record(record)
        except DataError:
            return
        self._reference[record.venue, record.symbol] = instrument
        if self._aggregate is not None:
            self.books.version += 1  # followers look again
            self._merge_new(instrument.unified)
            for name in {t.literal for c in self.clients for t in c.topics.values() if t.kind is Kind.AGGREGATE}:
                self._merge_new(name)

    def _entry(self, venue: str, symbol: str) -> Entry:
        entry = self._by_name.get((venue, symbol))
        return self._add(venue, symbol) if entry is None else entry

    def _add(self, venue: str, symbol: str, *, aggregate: bool = False) -> Entry:
        """Add an instrument, and give it to the clients whose topics match it."""
        entry = Entry(len(self.entries), venue, symbol, aggregate=aggregate)
        self.entries.append(entry)
        self._by_name[venue, symbol] = entry
        self._by_fold.setdefault((venue.casefold(), symbol.casefold()), []).append(entry)
        if not aggregate:
            entry.status = self._make(entry, Kind.STATUS, 0)
            entry.gaps = self._make(entry, Kind.GAPS, 0)
        for client in list(self.clients):
            found = [w for topic in client.topics.values() for w in self._of(topic, entry)]
            if found:
                self._give(client, found, {})
                self._stirred[client] = None
                if len(client.streams) > self.limits.streams:
                    self.bye(client, "limit", f"more than {self.limits.streams} streams match the topics")
        return entry

    def _copy(self, entry: Entry) -> BookReplica:
        """Begin to copy an instrument's book."""
        if not entry.symbol:
            raise DataError(f"a book of {entry.venue} has no symbol")
        book = self.books.add(entry.venue, entry.symbol, entry.id)
        replica = entry.replica = BookReplica(entry.venue, entry.symbol, book=book)
        for status, _, _ in entry.statuses.values():
            if status.record_type == "book":
                replica.status(status)
        for key in [k for k in self.streams if k.instrument_id == entry.id]:
            self._view(self.streams[key])
        return replica

    # -- streams

    def _stream(self, entry: Entry, kind: int, view: int) -> Stream:
        stream = self.streams.get(StreamKey(entry.id, kind, view))
        return self._make(entry, Kind(kind), view) if stream is None else stream

    def _make(self, entry: Entry, kind: Kind, view: int) -> Stream:
        key = StreamKey(entry.id, kind, view)
        limits = self.limits
        stream = Stream(entry, key, None, limits.replay_messages, limits.replay_bytes)
        self.streams[key] = stream
        if kind is Kind.TRADES:
            entry.trades = stream
        elif kind is Kind.AGG_TRADES:
            entry.agg_trades = stream
        elif kind is Kind.QUOTES and not view:
            entry.quotes = stream
            stream.current = lambda: entry.quote
        elif kind is Kind.CANDLES:
            entry.candles[view] = stream
            if view in entry.last_candles:
                stream.current = lambda: entry.last_candles.get(view)
            else:
                built = CandleView(entry.venue, entry.symbol, view_text(kind, view).partition(":")[0])
                entry.built[view] = self._candle_views[stream] = built
                stream.current = lambda: entry.last_candles.get(view) or built.last
        elif kind is Kind.AGGREGATE:
            merged = self._merged[entry.symbol]
            merged.depths[view] = stream
            stream.current = lambda: merged.current(view)
        self._view(stream)
        return stream

    def _view(self, stream: Stream) -> None:
        """Join a stream of a book, or of its best prices, to the copy of the book, where there is one."""
        entry, view = stream.entry, stream.view
        replica = entry.replica
        if replica is None:
            return
        if stream.kind == Kind.BOOK and not view:
            entry.book = stream
            stream.current = lambda: replica.snapshot() if replica.live else None
        elif stream.kind == Kind.BOOK or (stream.kind == Kind.QUOTES and view):
            derived = DepthView(replica, view) if stream.kind == Kind.BOOK else QuoteView(replica)
            entry.views[stream] = derived
            stream.current = derived.current

    def _revive(self, stream: Stream) -> None:
        """Bring a derived stream up to date that nobody has read for long."""
        if stream.seq:
            stream.seq += 1  # whatever a former reader has, something is missing
        entry = stream.entry
        if stream in entry.views:
            entry.views[stream].restart()
        elif stream in self._candle_views:
            self._candle_views[stream].restart()
        elif stream.kind == Kind.AGGREGATE:
            merged = self._merged[entry.symbol]
            if not merged.active:
                for name in merged.follower.watched:
                    replica = self.entries[self.books.id_of(name)].replica
                    if replica is not None and replica.live:
                        merged.update(name, replica.ts_recv)
                merged.refresh(self.now)
            merged.forget(stream.view)

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

    def _of(self, topic: Topic, entry: Entry) -> list[_Wanted]:
        """What a topic asks for of an instrument."""
        if not entry.id or entry.aggregate is not (topic.kind is Kind.AGGREGATE):
            return []
        if not topic.matches(entry.venue, entry.symbol):
            return []
        found = [_Wanted(entry, topic.kind, topic.view)]
        if topic.kind is not Kind.NONE:
            server = self.entries[0]
            found += [_Wanted(e, k, 0) for e in (server, entry) if not e.aggregate for k in (Kind.STATUS, Kind.GAPS)]
        return found

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

    # -- merged books

    def _merge_new(self, name: str) -> None:
        """Add a merged instrument by its unified name, if any known instrument belongs to it."""
        options = self._aggregate
        if options is None or not name or (AGGREGATES, name) in self._by_name:
            return
        try:
            target = Target.parse(name)
        except UsageError:
            return
        if target.name != name:
            return
        spot = {i.venue for i in self._reference.values() if i.kind == "spot"}
        if not any(
            matches(target, i, self._equivalents, options.convert, spot=i.venue in spot)
            for i in self._reference.values()
        ):
            return
        follower = BookFollower(
            self.books,
            lambda venue, symbol: self._reference.get((venue, symbol)),
            name,
            equivalents=options.equivalents,
            convert=options.convert,
            max_age=options.max_age,
            fees=options.fees,
        )
        self._merged[name] = MergedView(follower, options)
        self._watched = -1
        self._add(AGGREGATES, name, aggregate=True)

    def _merge(self, entry: Entry, *, state: bool = False) -> None:
        """Bring the merged books up to date of which an instrument's book is a part."""
        if self._watched != self.books.version:
            self._watched = self.books.version
            self._watching = {}
            for view in self._merged.values():
                for name in view.follower.watched:
                    self._watching.setdefault(name, []).append(view)
        now = self.now
        for view in self._watching.get(entry.name, ()):
            if view.active:
                if state:
                    view.refresh(now)
                else:
                    view.update(entry.name, now)
                for stream, record in view.due(now):
                    self._send(stream, record)

    # -- time

    def tick(self, now: int) -> None:
        """Say that it is ``now``, some times a second: heartbeats, time limits, candles, merged books."""
        self.now = now
        limits = self.limits
        for client in list(self.clients):
            if client.closing:
                continue
            if not client.logged_in and now - client.attached >= limits.login:
                self.bye(client, "idle", f"no login within {limits.login / 1e9:g} s")
            elif now - client.heard >= limits.idle:
                self.bye(client, "idle", f"nothing was heard for {limits.idle / 1e9:g} s; a client must ping")
            elif now - client.said >= limits.heartbeat and client.quiet:
                client.said = now
                client.say(encode_service(Heartbeat(now)))
                self._stirred[client] = None
        if now >= self._next_tick:
            self._next_tick = now + _TICK
            for stream, candles in self._candle_views.items():
                if stream.active:
                    for candle in candles.tick(now):
                        self._send(stream, candle)
            for view in self._merged.values():
                if view.active:
                    view.refresh(now)
                    for stream, record in view.due(now):
                        self._send(stream, record)
        self._settle()

    # -- clients

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

    def name_of(self, instrument_id: int) -> tuple[str, str]:
        """Venue and symbol of an instrument id that this hub gave; raises IndexError."""
        entry = self.entries[instrument_id]
        return entry.venue, entry.symbol

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
        if client.answering > limits.answers:
            self.bye(client, "limit", f"{client.answering} answers wait; read them before asking more")
            return
        topics = [Topic(text) for text in dict.fromkeys(request.topics)]
        new = [topic for topic in topics if topic.text not in client.topics]
        resume = request if isinstance(request, Resume) else None
        if len(client.topics) + len(new) > limits.topics:
            self._refuse(
                client, request.request_id, "limit", f"a client may have {limits.topics} topics", "use wildcards"
            )
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

    def check(self) -> None:
        """Assert every invariant, of books, streams and clients too; for tests."""
        self.books.check()
        assert not self._touched
        assert not self._stirred
        assert not self._woken
        for key, stream in self.streams.items():
            assert stream.key == key
            stream.check()
        for n, entry in enumerate(self.entries):
            assert entry.id == n
            assert self._by_name[entry.venue, entry.symbol] is entry
            if entry.replica is not None:
                entry.replica.check()
                assert self.books.by_id(n) is entry.replica.book
            assert entry.known_to.keys() <= self.clients.keys()
        for client in self.clients:
            client.check()
            for stream in client.streams:
                assert self.streams[stream.key] is stream
                assert not stream.id or client in stream.entry.known_to
            assert client.closing or all(client in entry.known_to for entry in client.known)
