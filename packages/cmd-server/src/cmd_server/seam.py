"""Where history ends and live data begins: nothing twice, nothing out of order, and holes that ids prove are told.

Theory of operation. Live records are held from the beginning, in a bounded queue, while a store is played. The first
record that is held of a stream is its *cut*: of the store only what lies before it is played, and everything from it
on is live. So nothing can come twice, whoever records into the store meanwhile, this process or another one. The
history of a stream has *reached* its cut when the store shows a record at or behind it, or the one right before it.
When every stream has, or the store does not grow any more, the two are joined: what is held follows, and then
live data as it comes.

When the queue is full its oldest record goes. Where history has reached that stream's cut it simply goes out, and the
stream is live from then on. Elsewhere the cut moves on, and the store must have the record: it has where it is being
recorded into. If not, the hole is a Gap, and a book that lost updates begins again with what the live book holds now.

Streams are compared by ids where they have them: trades by number, books by epoch and update id, candles by open
time; others by time, and by keys where times are equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

from cmd_common.records import (
    TABLE_OF,
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

from .history import key_of, known_at

__all__ = ["LiveBook", "Seam", "stream_of"]

LiveBook = Callable[[str, str, int], BookSnapshot | None]
"""Makes a snapshot of the live book of a venue's symbol in an epoch; None where it is not LIVE."""

_REMEMBERED: Final = 256  # keys of a stream without ids that are kept to tell repeats at equal times
_STATES: Final = {"provisional": 0, "final": 1, "corrected": 2}
_Stream = tuple[str, ...]


def stream_of(record: Record) -> _Stream | None:
    """The stream that a record belongs to; None for instruments, states and gaps, which belong to no one sequence."""
    kind = type(record)
    row: Any = record
    if kind is Trade or kind is AggTrade or kind is Quote:
        return TABLE_OF[kind], row.venue, row.symbol
    if kind is BookDelta or kind is BookSnapshot:
        return "book_deltas", row.venue, row.symbol
    if kind is Candle:
        return "candles", row.venue, row.symbol, row.interval, row.source
    return None


def _place(record: Record) -> tuple[int, ...] | None:
    """Where a record stands in its stream, by ids; None where only time tells."""
    kind = type(record)
    row: Any = record
    if kind is Trade or kind is AggTrade:
        return (row.trade_seq,) if row.trade_seq is not None else None
    if kind is BookDelta or kind is BookSnapshot:
        return row.seq, kind is BookSnapshot
    if kind is Candle:
        return row.open_time, _STATES[row.state], row.ts_event
    return None


class _State:
    """What the seam knows of one stream."""

    __slots__ = ("held", "keys", "last", "live", "owed", "reached", "recent", "steps", "top", "unbroken")

    def __init__(self) -> None:
        self.held: deque[Record] = deque()
        self.keys: set[tuple[object, ...]] = set()  # of what is held, where only time tells
        self.owed: Record | None = None  # the newest one that went from a full queue and is not played yet
        self.live = False  # goes on live already
        self.last: Record | None = None  # the last one played
        self.top: tuple[int, ...] | None = None  # the highest place played
        self.recent: deque[tuple[object, ...]] = deque(maxlen=_REMEMBERED)  # keys played, where only time tells
        self.reached = False
        self.steps = 0
        self.unbroken = 0  # steps by exactly one id

    @property
    def dense(self) -> bool:
        """Whether ids rise by one here, so that a missing one shows."""
        return self.steps > 0 and self.unbroken * 10 >= self.steps * 9


class Seam:
    """Decides what of a store is played, and joins live records to it; pure.

    ``limit`` bounds the live records that are held; policy when full: the oldest go. Give live records to ``live``,
    stored ones to ``stored``, in order, and call ``join`` once. All three return what is to be published, in order.
    """

    def __init__(self, limit: int = 500_000) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} holds nothing")
        self.limit = limit
        self.joined = False
        self.dropped = 0
        self.played = 0
        self.repeats = 0  # live records that history had played already
        self.gaps = 0
        self._queue: deque[tuple[_Stream | None, Record]] = deque()
        self._streams: dict[_Stream, _State] = {}
        self._open: dict[_Stream, _State] = {}  # after the join: streams whose first live record has not come yet
        self._events: set[tuple[object, ...]] = set()  # keys of the states and gaps that are held
        self._gaps: set[tuple[object, ...]] = set()  # keys of the gaps that were played
        self._told: set[_Stream] = set()  # streams of which live data told a gap itself
        self._since = 0  # our clock, when the first live record came
        self._venues: set[str] = set()  # venues of which the store shows what live data has too

    @property
    def held(self) -> int:
        """Live records that wait."""
        return len(self._queue)

    # -- live records

    def live(self, records: Sequence[Record]) -> Sequence[Record]:
        """Take live records; before the join only reference data goes on at once. O(n)."""
        if self.joined:
            return self._after(records) if self._open else records
        at_once: list[Record] = []
        for record in records:
            if isinstance(record, InstrumentRecord):
                at_once.append(record)
                continue
            stream = stream_of(record)
            if not self._since:
                self._since = getattr(record, "ts_recv", 0) or known_at(record)
            if self._is_told(record):
                continue
            if stream is None:
                self._events.add(key_of(record))
            else:
                state = self._streams.get(stream)
                if state is None:
                    state = self._streams[stream] = _State()
                state.held.append(record)
                if _place(record) is None:
                    state.keys.add(key_of(record))
            self._queue.append((stream, record))
        while len(self._queue) > self.limit:
            at_once += self._drop()
        return at_once

    def _drop(self) -> list[Record]:
        """Make room for one record; returns it where it may go on at once."""
        stream, record = self._queue.popleft()
        if stream is None:
            return [record]  # states and gaps are few, and never lost
        state = self._streams[stream]
        ready = state.live or (self._is_reached(state) and not self._is_torn(state))
        state.held.popleft()
        state.keys.discard(key_of(record))
        if ready:
            if not state.live and self._was_played(state, record):
                self.repeats += 1
                return []
            state.live = True
            self._note(state, record)
            return [record]
        self.dropped += 1
        state.owed = record
        return []

    def _after(self, records: Sequence[Record]) -> Sequence[Record]:
        """Live records after the join, as long as some streams have had none: theirs may be repeats, or miss some."""
        found: list[Record] = []
        for record in records:
            if self._is_told(record):
                continue
            stream = stream_of(record)
            state = self._open.get(stream) if stream is not None else None
            if stream is not None and state is not None:
                if self._was_played(state, record):
                    self.repeats += 1
                    continue
                del self._open[stream]
                if stream[:3] not in self._told and (gap := self._gap(state, record)):
                    found.append(gap)
            found.append(record)
        return found

    def _is_told(self, record: Record) -> bool:
        """Whether a live gap was played already: the store may be written, and read, before live data is taken."""
        if not isinstance(record, Gap):
            return False
        self._told.add((record.record_type, record.venue, record.symbol))
        if key_of(record) not in self._gaps:
            return False
        self.repeats += 1
        return True

    # -- stored records

    def stored(self, records: Iterable[Record]) -> list[Record]:
        """Take records of the store in order; returns those before the live ones. O(n)."""
        found: list[Record] = []
        for record in records:
            stream = stream_of(record)
            if stream is None:
                if not self._event_is_live(record):
                    found.append(record)
                    if isinstance(record, Gap):
                        self._gaps.add(key_of(record))
                continue
            state = self._streams.get(stream)
            if state is None:
                state = self._streams[stream] = _State()
            if state.live:
                continue
            if state.held and not self._is_before(state, record, state.held[0]):
                state.reached = True
                self._venues.add(stream[1])
                continue
            if state.owed is not None and not self._is_before(state, record, state.owed):
                state.owed = None  # the store has what the queue had no room for
            self._note(state, record)
            found.append(record)
        self.played += len(found)
        return found

    def _event_is_live(self, record: Record) -> bool:
        """Whether a state or a gap is, or will be, told by live data."""
        if not self._since:
            return False
        if isinstance(record, FeedStatus) and record.ts_recv >= self._since:
            return True
        return key_of(record) in self._events

    @staticmethod
    def _is_before(state: _State, record: Record, first: Record) -> bool:
        """Whether a stored record stands before a live one."""
        place, cut = _place(record), _place(first)
        if place is None or cut is None:
            return _time(record) <= _time(first) and key_of(record) not in state.keys
        if isinstance(record, Candle) and isinstance(first, Candle):
            return record.open_time < first.open_time  # the open one is told by live data
        if isinstance(record, BookDelta | BookSnapshot) and record.epoch != cast(BookDelta, first).epoch:
            return (record.ts_event, record.seq) <= (cast(BookDelta, first).ts_event, cast(BookDelta, first).seq)
        return place < cut

    @staticmethod
    def _note(state: _State, record: Record) -> None:
        place = _place(record)
        if place is None:
            state.recent.append(key_of(record))
        elif state.top is None or place > state.top:
            if state.top is not None and isinstance(record, Trade | AggTrade):
                state.steps += 1
                state.unbroken += place[0] == state.top[0] + 1
            state.top = place
        state.last = record

    # -- the join

    @property
    def complete(self) -> bool:
        """Whether live data has come and the store reaches the first live record of every stream that it has."""
        states = [s for s in self._streams.values() if s.held or s.owed is not None]
        return bool(states) and all(self._is_reached(s) for s in states)

    def _is_reached(self, state: _State) -> bool:
        if state.owed is not None:
            return False
        if state.reached or state.live:
            return True
        if state.last is None:
            return False
        first = state.held[0]
        place = _place(first)
        if place is None or state.top is None:
            return False
        if isinstance(first, Trade | AggTrade):
            return place[0] <= state.top[0] + 1
        if isinstance(first, BookDelta) and first.epoch == cast(BookDelta, state.last).epoch:
            return first.first_seq <= state.top[0] + 1
        return False

    def join(self, live_book: LiveBook | None = None) -> list[Record]:
        """End the history: gaps where records are missing, and everything that is held, once. O(held)."""
        self.joined = True
        found: list[Record] = []
        renewed: set[_Stream] = set()
        for stream, state in self._streams.items():
            if state.live:
                continue
            self._forget_repeats(state)
            first = state.held[0] if state.held else state.owed
            if first is None:
                self._open[stream] = state
                continue
            if stream[:3] not in self._told and (gap := self._gap(state, first)):
                found.append(gap)
            if self._is_torn(state):
                renewed.add(stream)
                found += self._renewed(stream, state, live_book)
        for record_stream, record in self._queue:
            if record_stream is None:
                found.append(record)
                continue
            held = self._streams[record_stream].held
            if held and held[0] is record:  # what was forgotten as a repeat is not there any more
                held.popleft()
                if record_stream not in renewed:
                    found.append(record)
        self._queue.clear()
        self._events.clear()
        for state in self._streams.values():
            state.keys.clear()
        return found

    def _forget_repeats(self, state: _State) -> None:
        """Leave out what is held but was played before it came: another recorder may be faster than our feed."""
        kept = [record for record in state.held if not self._was_played(state, record)]
        self.repeats += len(state.held) - len(kept)
        state.held = deque(kept)

    @staticmethod
    def _was_played(state: _State, record: Record) -> bool:
        last = state.last
        if last is None:
            return False
        place = _place(record)
        if place is None or state.top is None:
            return _time(record) < _time(last) or key_of(record) in state.recent
        if isinstance(record, BookDelta | BookSnapshot) and record.epoch != cast(BookDelta, last).epoch:
            return False  # it continues another chain of updates
        return place <= state.top

    def _is_torn(self, state: _State) -> bool:
        """Whether updates of a book that are held, or will come, follow on updates that nobody has."""
        first = state.held[0] if state.held else state.owed
        if isinstance(first, BookSnapshot):
            # It would lead back in time where another recorder is faster than our feed.
            behind = state.top is not None and state.top[0] > first.seq
            return behind or not state.held
        if not isinstance(first, BookDelta):
            return False
        last = cast("BookDelta | None", state.last)
        return last is None or first.epoch != last.epoch or not self._is_reached(state)

    def _renewed(self, stream: _Stream, state: _State, live_book: LiveBook | None) -> list[Record]:
        """A book that begins again: as it is now, or from the next snapshot that is held, or not yet."""
        _, venue, symbol = stream
        newest = cast(BookDelta, state.held[-1] if state.held else state.owed)
        snapshot = live_book(venue, symbol, newest.epoch) if live_book is not None else None
        if snapshot is not None:
            return [snapshot]
        held = list(state.held)
        begins = next((n for n, r in enumerate(held) if isinstance(r, BookSnapshot)), len(held))
        lost = FeedStatus(
            newest.ts_recv,
            newest.ts_recv,
            venue,
            symbol,
            "book",
            "history",
            "STALE",
            "updates before live data are lost",
        )
        return [lost, *held[begins:]]

    def _gap(self, state: _State, first: Record) -> Gap | None:
        """What is missing between the last record played and the first live one, where that can be told."""
        last = state.last
        if last is None or self._is_reached_by(state, first):
            return None
        row: Any = first
        table = TABLE_OF[type(first)] if not isinstance(first, BookSnapshot) else "book_deltas"
        since, until = _time(last), _time(first)
        ids: tuple[int | None, int | None] = (None, None)
        severity = "suspect"
        if isinstance(first, Trade | AggTrade) and state.top is not None and state.dense:
            assert first.trade_seq is not None
            ids, severity = (state.top[0] + 1, first.trade_seq - (first is not state.owed)), "lost"
        elif isinstance(first, BookDelta | BookSnapshot) and state.top is not None:
            begins = first.first_seq if isinstance(first, BookDelta) else first.seq + 1
            if begins <= state.top[0] + 1:
                return None
            ids, severity = (state.top[0] + 1, begins - 1), "lost"
        elif isinstance(first, Candle):
            closed = cast(Candle, last)
            since = closed.open_time if closed.state == "provisional" else closed.close_time
            until = first.open_time
            if until <= since:
                return None
        elif until <= since or (row.venue in self._venues and state.owed is None):
            return None  # the store was being recorded into when live data began: nothing is known to be missing
        if state.owed is not None:
            severity = "lost"
        self.gaps += 1
        return Gap(
            min(since, until),
            max(since, until),
            row.venue,
            row.symbol,
            table,
            "history",
            severity,
            *ids,
            detail=row.interval if isinstance(first, Candle) else "neither stored nor received live",
        )

    def _is_reached_by(self, state: _State, first: Record) -> bool:
        """Whether history and the first live record leave nothing out between them."""
        if state.owed is not None:
            return False
        if isinstance(first, Trade | AggTrade) and state.top is not None and first.trade_seq is not None:
            if first.trade_seq <= state.top[0] + 1:
                return True
            return not state.dense and (state.reached or first.venue in self._venues)
        return state.reached

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert len(self._queue) <= self.limit
        held: dict[_Stream, list[Record]] = {}
        for stream, record in self._queue:
            if stream is not None:
                held.setdefault(stream, []).append(record)
        if not self.joined:
            for stream, state in self._streams.items():
                assert list(state.held) == held.get(stream, [])
        else:
            assert not self._queue


def _time(record: Record) -> int:
    return record.open_time if isinstance(record, Candle) else known_at(record)
