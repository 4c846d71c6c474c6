"""What a hub knows: instruments, their books and streams, and the views that are derived from them."""

from __future__ import annotations

from typing import Final

from cmd_common.commands import AggregateOptions
from cmd_common.equivalence import Equivalents, Target, matches
from cmd_common.errors import DataError, UsageError
from cmd_common.following import BookFollower
from cmd_common.instruments import Instrument
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.replica import BookReplica

from .limits import Limits
from .messages import Kind, StreamKey, view_text
from .streams import Entry, Stream
from .views import CandleView, DepthView, MergedView, QuoteView

__all__ = ["AGGREGATES", "Catalogue"]

AGGREGATES: Final = "aggregate"
"""The venue of merged instruments, where one is asked for."""


class Catalogue:
    """Instruments by id and name, and their streams, which are made when somebody asks for them.

    ``books`` holds a copy of every book that was published; ids of its books are those of the instruments.
    """

    def __init__(self, now: int, limits: Limits, aggregate: AggregateOptions | None) -> None:
        self.now = now
        self.limits = limits
        self.books = MultiSymbolOrderBook()
        self.streams: dict[StreamKey, Stream] = {}
        self.entries: list[Entry] = []  # by instrument id
        self._by_name: dict[tuple[str, str], Entry] = {}
        self._by_fold: dict[tuple[str, str], list[Entry]] = {}
        self._aggregate = aggregate
        self._equivalents = Equivalents(aggregate.equivalents if aggregate is not None else ())
        self._reference: dict[tuple[str, str], Instrument] = {}
        self._merged: dict[str, MergedView] = {}  # by unified name
        self._watching: dict[str, list[MergedView]] = {}  # by the name of a book
        self._watched = -1  # version of the books that it was made for
        self._candle_views: dict[Stream, CandleView] = {}
        self._floor = 0  # above every sequence of a view that was dropped

    def name_of(self, instrument_id: int) -> tuple[str, str]:
        """Venue and symbol of an instrument id that this hub gave; raises IndexError."""
        entry = self.entries[instrument_id]
        return entry.venue, entry.symbol

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
        self._appeared(entry)
        return entry

    def _appeared(self, entry: Entry) -> None:
        """A new instrument may be one that clients wait for."""
        raise NotImplementedError

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

    def _stream(self, entry: Entry, kind: int, view: int) -> Stream:
        stream = self.streams.get(StreamKey(entry.id, kind, view))
        return self._make(entry, Kind(kind), view) if stream is None else stream

    def _make(self, entry: Entry, kind: Kind, view: int) -> Stream:
        key = StreamKey(entry.id, kind, view)
        limits = self.limits
        stream = Stream(entry, key, None, limits.replay_messages, limits.replay_bytes)
        if view:
            if len(entry.derived) >= limits.views:
                self._tidy(entry)
            entry.derived[stream] = None
            stream.seq = self._floor
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

    def _tidy(self, entry: Entry) -> None:
        """Drop views of an instrument that nobody reads, the oldest first, until there is room for one more.

        One that is made again begins above every sequence that it had: positions of before are a gap, never mistaken.
        """
        unread = [stream for stream in entry.derived if not stream.readers and not stream.waiting]
        for stream in unread[: len(entry.derived) - self.limits.views + 1]:
            self._floor = max(self._floor, stream.seq + 1)
            del entry.derived[stream]
            del self.streams[stream.key]
            entry.views.pop(stream, None)
            if stream.kind is Kind.CANDLES:
                del entry.candles[stream.view]
                entry.built.pop(stream.view, None)
                self._candle_views.pop(stream, None)
            elif stream.kind is Kind.AGGREGATE:
                self._merged[entry.symbol].drop(stream.view)

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

    def check(self) -> None:
        """Assert every invariant, of books and streams too; for tests."""
        self.books.check()
        for key, stream in self.streams.items():
            assert stream.key == key
            stream.check()
        for n, entry in enumerate(self.entries):
            assert entry.id == n
            assert all(stream.view and self.streams[stream.key] is stream for stream in entry.derived)
            assert entry.views.keys() <= entry.derived.keys()
            assert self._by_name[entry.venue, entry.symbol] is entry
            if entry.replica is not None:
                entry.replica.check()
                assert self.books.by_id(n) is entry.replica.book
