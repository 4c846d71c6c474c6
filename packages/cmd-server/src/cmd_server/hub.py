"""The hub: records in, numbered messages for every client out. It does no I/O, and time is an argument.

Theory of operation. ``publish`` takes records in the order of the source. Each belongs to a stream (see
``cmd_server.streams``), which encodes it once and puts the same bytes into the queue of every reader. Books are
copied from their records (``books``), so that late joiners get snapshots and views can be derived; nothing is sent
from a book that is not LIVE except its state. Each client's queue is bounded (``cmd_server.queues``); after every
batch, and every 64 messages within one, the queues that got something are looked at, and ``wake`` is called for
clients for which nothing had waited before. Where all that is published is one run of messages of one stream, or one
message, ``fan`` may send it to the clients for which nothing waits, past their queues: what they get is the same.

A client's requests come by ``handle``. Topics are matched against instruments when they are asked for and when a new
instrument appears; with any topic on an instrument come its states and gaps, and those of its venue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final

from cmd_common.commands import AggregateOptions
from cmd_common.errors import DataError, UsageError
from cmd_common.instruments import Instrument
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
from cmd_common.sequence import BookState

from .catalogue import AGGREGATES
from .codec import ENCODERS, encode, encode_many, encode_service, same_stream
from .encoder import MISFITS
from .errors import WireError
from .limits import Limits
from .messages import BookFlag, Heartbeat, Kind, view_code
from .queues import MARK_EVERY, Client
from .sessions import HubCounters, Sessions
from .streams import FLAG_OF, Entry, Stream

__all__ = ["AGGREGATES", "Client", "Hub", "HubCounters"]

_LOOK_EVERY: Final = 64  # messages between two looks at the queues
_TICK: Final = 1_000_000_000  # ns between two looks at candles and merged books
_LIVE: Final = BookState.LIVE


class Hub(Sessions):
    """Fans records out to clients; see the module. ``epoch`` names this run of the server; times are ns.

    ``wake(client)`` says that something waits for a client; it may take it at once. ``fan(clients, frames, size)`` sends
    the same messages to clients and returns those to which it did not, in order. ``authorize(token)`` is asked at
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
        fan: Callable[[Iterable[Client], list[bytes], int], list[Client]] | None = None,
        authorize: Callable[[str], bool] | None = None,
        server: str = "cmd-server",
    ) -> None:
        super().__init__(
            epoch=epoch,
            now=now,
            limits=Limits() if limits is None else limits,
            aggregate=aggregate,
            wake=wake,
            authorize=authorize,
            server=server,
        )
        self._touched: dict[Stream, None] = {}  # sent something since the last look
        self._unseen = 0  # how much
        self._fan = fan
        self._whole = 0  # how many records are published, where they are one or a run of trades of one stream
        self._flags = 0
        self._next_tick = now
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

    def publish(self, records: Sequence[Record], now: int, *, flags: int = 0) -> None:
        """Take records in their order; ``flags`` are added to every message (REPLAYED). O(records x readers)."""
        self.now = now
        self._flags = flags
        self.counters.records += len(records)
        handlers = self._handlers
        if len(records) == 1:
            record = records[0]
            self._whole = 1
            handlers[type(record)](record)
        elif records and type(records[0]) is Trade and same_stream(records, 0, len(records)) == len(records):
            self._whole = len(records)
            self._on_trades(records)  # type: ignore[arg-type]  # all are trades
        else:
            self._whole = 0
            for kind, run in groupby(records, type):
                if kind is Trade:
                    self._on_trades(list(run))  # type: ignore[arg-type]  # a run of trades
                    continue
                handler = handlers[kind]
                for record in run:
                    handler(record)
        self._flags = 0
        self._settle()

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

    def _send(self, stream: Stream, record: Record, state: int = 0, alone: bool = False) -> None:
        """Give a message its number; encode it and put it into the queue of every reader, if there are any.

        ``alone``: nothing else follows from its record.
        """
        stream.seq = seq = stream.seq + 1
        if not stream.active:
            return
        try:
            frame = ENCODERS[type(record)](record, stream.id, seq, stream.view, self._flags, state)
        except MISFITS:
            frame = encode(record, stream.id, seq, stream.view, self._flags, state)  # raises with a reason
        left = True
        if alone and self._whole == 1 and self._fan is not None and not stream.waiting:
            others = self._fan(stream.readers, [frame], len(frame))
            left = bool(others)
            for client in others:
                client.put(frame)
        else:
            for put in stream.readers.values():
                put(frame)
        stream.keep(frame)
        counters = self.counters
        counters.messages += 1
        counters.bytes += len(frame)
        if not left:
            return  # all of them have it
        self._touched[stream] = None
        if stream.waiting:
            self._stirred.update(stream.waiting)
        self._unseen += 1
        if self._unseen >= _LOOK_EVERY:
            self._look()

    def _send_all(self, stream: Stream, records: Sequence[Record]) -> None:
        """Send several records as ``_send`` does one by one: each queue is touched once, not once a record."""
        try:
            frames = encode_many(records, stream.id, stream.seq + 1, stream.view, self._flags)
        except WireError:  # those before the one that is to blame are sent, as ever
            for record in records:
                self._send(stream, record)
            return
        stream.seq += len(frames)
        size = sum(map(len, frames))
        readers: Iterable[Client] = stream.readers
        fan = self._fan if self._whole == len(frames) and not stream.waiting else None
        if fan is not None:
            readers = fan(readers, frames, size)
        for client in readers:
            client.queue += frames
        stream.keep_all(frames, size)
        counters = self.counters
        counters.messages += len(frames)
        counters.bytes += size
        if fan is not None and not readers:
            return  # all of them have it
        self._touched[stream] = None
        if stream.waiting:
            self._stirred.update(stream.waiting)
        self._unseen += len(frames)
        if self._unseen >= _LOOK_EVERY:
            self._look()

    def _look(self) -> None:
        """Look at the queues that got something."""
        touched = self._touched
        clients: list[Client] | dict[Client, object]
        if len(touched) == 1 and not self._stirred:
            (stream,) = touched
            clients = list(stream.readers)
        else:
            clients = {}
            for stream in touched:
                clients.update(stream.readers)
            clients.update(self._stirred)
            self._stirred.clear()
        touched.clear()
        self._unseen = 0
        now = self.now
        mark = now + MARK_EVERY
        woken = self._woken
        for client in clients:
            if client.idle:
                client.idle = False
                client.since = now
                client.first = client.popped
                client.next_mark = mark
                woken.append(client)
                if len(client.queue) > client.mark:
                    client.look(now)
            elif len(client.queue) > client.mark or now >= client.next_mark:
                client.look(now)

    def _settle(self) -> None:
        if self._touched or self._stirred:
            self._look()
        if self._woken:
            woken, self._woken = self._woken, []
            for client in woken:
                self._wake(client)
            self.portion = ((), 0)

    def _on_trade(self, record: Trade) -> None:
        try:
            entry = self._by_name[record.venue, record.symbol]
        except KeyError:
            entry = self._add(record.venue, record.symbol)
        stream = entry.trades
        if stream is not None:
            self._send(stream, record, 0, not entry.built)
        if entry.built:
            for view, candles in entry.built.items():
                stream = entry.candles[view]
                if stream.active:
                    for candle in candles.trade(record, self.now):
                        self._send(stream, candle)

    def _on_trades(self, records: Sequence[Trade]) -> None:
        """Send trades, those of one instrument behind each other together."""
        start, end = 0, len(records)
        while start < end:
            first = records[start]
            venue, symbol = first.venue, first.symbol
            entry = self._by_name.get((venue, symbol))
            if entry is None or entry.built or entry.trades is None or not entry.trades.active:
                self._on_trade(first)
                start += 1
                continue
            # Queues are looked at as often as ever.
            stop = same_stream(records, start, min(end, start + _LOOK_EVERY - self._unseen))
            if stop == start + 1:
                self._send(entry.trades, first)
            else:
                self._send_all(entry.trades, records[start:stop])
            start = stop

    def _on_agg_trade(self, record: AggTrade) -> None:
        stream = self._entry(record.venue, record.symbol).agg_trades
        if stream is not None:
            self._send(stream, record)

    def _on_quote(self, record: Quote) -> None:
        entry = self._entry(record.venue, record.symbol)
        entry.quote = record
        if entry.quotes is not None:
            self._send(entry.quotes, record, 0, True)

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
            self._send(stream, record, BookFlag.LIVE, not (entry.views or self._merged))
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

    def check(self) -> None:
        """Assert every invariant, of books, streams and clients too; for tests."""
        super().check()
        assert not self._touched
