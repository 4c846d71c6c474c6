"""Builds one order book from a stream of deltas and from snapshots, and knows when not to trust it.

Theory of operation. While the book is not LIVE, deltas are buffered. The buffer always chains: a
delta that does not follow its last one empties it first, since no snapshot older than that hole can
be used any more. It is bounded; when it is full the oldest delta is dropped (policy: drop oldest),
and a snapshot that would have needed it is refused. A snapshot is judged together with the buffer
*before* anything is changed, so a refused snapshot leaves the last good book readable.

While the book is LIVE every delta is judged by the venue's rule alone. When the known depth of a
side runs low a refresh is asked for; from then on deltas are applied *and* buffered, so that the new
snapshot can be brought up to the very delta that the old book had reached: it never goes backwards. Nor
does it jump forwards: a refresh that is ahead of the stream is held until the stream has reached it, or the
deltas in between would be neither applied nor stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from math import inf
from typing import Final

from msgspec import Struct

from .errors import DataError, UsageError
from .orderbook import Level, OrderBook
from .sequence import TRANSITIONS, BookEvent, BookState, SequenceRule, Verdict

__all__ = ["Applied", "Audit", "Delta", "OrderBookBuilder", "SnapshotResult"]

Delta = tuple[int, int, int | None, Sequence[Level], Sequence[Level], int]  # first, last, prev, bids, asks, ts_event
_Judge = Callable[[int, int, int, int | None], Verdict]


class Applied(Enum):
    """What became of a delta."""

    APPLIED = "applied"  # the book is LIVE and contains it
    BUFFERED = "buffered"  # kept until a snapshot comes
    DROPPED = "dropped"  # a repeat, older than the book, or malformed while there is no book
    GAP = "gap"  # the book was LIVE and is STALE now; ``gap_reason`` says why


class SnapshotResult(Struct, frozen=True):
    """What became of a snapshot; ``replayed`` are the buffered deltas that were applied after it, in order."""

    accepted: bool
    live: bool
    replayed: list[Delta]
    reason: str  # why it was refused; empty when accepted


class Audit(Struct, frozen=True):
    """A LIVE book beside a fresh snapshot, both at the same update: levels that both should have, and those that agree."""

    compared: int
    equal: int

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return self.equal == self.compared

    @property
    def match(self) -> float:
        """Share of the levels that agree, 0 to 1; 1 where there was nothing to compare."""
        return self.equal / self.compared if self.compared else 1.0

    @property
    def words(self) -> str:
        """What a FeedStatus row says of it."""
        return f"{self.equal} of {self.compared} levels are those of a fresh copy"

    @classmethod
    def read(cls, words: str) -> Audit | None:
        """The audit that ``words`` told; None for anything else."""
        parts = words.split(" ", 3)
        if len(parts) != 4 or parts[1] != "of" or not (parts[0].isdecimal() and parts[2].isdecimal()):
            return None
        return cls(compared=int(parts[2]), equal=int(parts[0]))


# Enum members as globals: the hot path saves an attribute look-up each.
_APPLY: Final = Verdict.APPLY
_DROP: Final = Verdict.DROP
_GAP: Final = Verdict.GAP
_APPLIED: Final = Applied.APPLIED
_BUFFERED: Final = Applied.BUFFERED
_DROPPED: Final = Applied.DROPPED

_DETAIL: Final = {
    "known_range": "the best price left the range that the snapshot covered",
    "crossed": "the best bid is at or above the best ask",
}
_LOOK_EVERY: Final = 1024  # deltas between two counts of the known depth; a power of two
_BACKWARDS: Final = 3  # snapshots older than the last good book that are refused before one is believed


class OrderBookBuilder:
    """Turns deltas and snapshots of one symbol into a book whose state can be trusted.

    ``snapshot_levels`` is the number of levels a side that the venue's snapshot is limited to: a side
    that comes shorter is complete. ``buffer_limit`` bounds the buffered deltas (policy: drop oldest).
    Lists given to ``delta`` are kept by reference while buffered and must not be changed afterwards.
    Counters: ``applied``, ``dropped`` (repeats), ``gaps``, ``malformed``, ``overflowed``, ``refused``, ``resyncs``.
    """

    __slots__ = (
        "_asked",
        "_auditing",
        "_backwards",
        "_buffer",
        "_first",
        "_held",
        "_judge",
        "_low",
        "_next",
        "_open",
        "_refreshing",
        "audited",
        "book",
        "buffer_limit",
        "detail",
        "dropped",
        "epoch",
        "gap_reason",
        "gaps",
        "malformed",
        "needs_snapshot",
        "overflowed",
        "refused",
        "resyncs",
        "rule",
        "snapshot_levels",
    )

    def __init__(
        self, book: OrderBook, rule: SequenceRule, *, snapshot_levels: int, buffer_limit: int = 10_000
    ) -> None:
        if snapshot_levels < 1 or buffer_limit < 1:
            raise UsageError("snapshot_levels and buffer_limit must be at least 1")
        self.book = book
        self.rule = rule
        self.audited: Audit | None = None  # of the last refresh; the caller takes it and sets None
        self.snapshot_levels = snapshot_levels
        self.buffer_limit = buffer_limit
        self.epoch = 0  # id of the snapshot that began the unbroken chain of deltas
        self.needs_snapshot = False  # ask for one now, then call snapshot_requested()
        self.gap_reason = ""  # why the book was last lost: sequence, malformed, known_range, crossed, or the caller's
        self.detail = ""  # the message that goes with it, where there is one
        book.applied = 0
        self.dropped = self.gaps = self.malformed = self.overflowed = self.refused = self.resyncs = 0
        self._first, self._next = rule.first, rule.next
        self._judge: _Judge | None = None  # None: not LIVE
        self._buffer: deque[Delta] = deque()
        self._held: tuple[int, Sequence[Level], Sequence[Level], bool] | None = None  # a refresh ahead of the stream
        self._open = False  # between start() and disconnected()
        self._refreshing = False  # LIVE, and deltas are buffered for a snapshot under way
        self._asked = False  # LIVE, and a refresh was asked for
        self._auditing = False  # ... to be compared with the book
        self._low = (0, 0)  # known levels a side below which a refresh is wanted
        self._backwards = 0

    @property
    def state(self) -> BookState:
        """The state of the book."""
        return self.book.state

    @property
    def last_id(self) -> int:
        """The update id that the book contains all updates up to; 0 before the first snapshot."""
        return self.book.last_id

    @property
    def applied(self) -> int:
        """How many deltas were applied to a LIVE book."""
        return self.book.applied

    @property
    def buffered(self) -> int:
        """How many deltas are buffered."""
        return len(self._buffer)

    @property
    def held(self) -> bool:
        """Whether a refresh that is ahead of the stream waits until the stream has reached it."""
        return self._held is not None

    # -- the connection -----------------------------------------------------------------------

    def start(self) -> None:
        """Say that the stream is subscribed: deltas come from now on, and a snapshot is wanted unless LIVE."""
        self._move(BookEvent.START)
        self._open = True
        if self._judge is None:
            self.needs_snapshot = True

    def disconnected(self, reason: str = "disconnect") -> None:
        """Say that the stream broke: a LIVE book becomes STALE, the buffer is useless, ``start`` comes next."""
        self._lose(reason)
        self._open = False
        self.needs_snapshot = False

    def reset(self, reason: str) -> None:
        """Distrust the book and its ids while the stream goes on: buffer anew and ask for a snapshot.

        The last good book stays readable, but a snapshot with smaller ids is believed from now on.
        """
        self._lose(reason)
        self._backwards = _BACKWARDS
        self.needs_snapshot = self._open

    def audit(self) -> bool:
        """Ask for a refresh of a LIVE book, which is compared with it; False where there is no such book, or one is under way.

        A book that differs from the refresh is lost for the reason ``audit``. What came of it is in ``audited``.
        """
        if self._judge is None or self._asked or self._refreshing:
            return False
        self._ask_refresh()
        self._auditing = True
        return True

    def snapshot_requested(self) -> None:
        """Say that a snapshot is under way; a LIVE book begins to buffer what the refresh will need."""
        self.needs_snapshot = False
        self._refreshing = self._judge is not None
        self._arm()

    def snapshot_failed(self) -> None:
        """Say that the snapshot asked for will not come, so that ``needs_snapshot`` asks again."""
        self.needs_snapshot = self._open and (self._judge is None or self._refreshing)

    def _stage(self) -> int:
        """What a native decoder may do to the book: 0 nothing, 1 take the first delta behind a snapshot, 2 the next."""
        if self._judge is None or self._refreshing:
            return 0
        return 2 if self._judge is self._next else 1

    def _arm(self) -> None:
        self.book.stage = self._stage()

    def took(self) -> None:
        """Say that a native decoder has applied a delta to the book, judged by the venue's rule, and all is well."""
        self._judge = self._next

    def applied_natively(
        self, first: int, last: int, prev: int | None, bids: Sequence[Level], asks: Sequence[Level], ts_event: int
    ) -> Applied:
        """Take a delta whose levels a native decoder has applied to the book, but whose touch must be looked at."""
        book = self.book
        if reason := self._look():
            self._lose(reason, _DETAIL[reason], keep=True)
            if not self._buffer:
                self._append((first, last, prev, bids, asks, ts_event))
            return Applied.GAP
        book.last_id = last
        book.ts_event = ts_event
        self._judge = self._next
        self._arm()
        return _APPLIED

    def _move(self, event: BookEvent) -> None:
        book = self.book
        book.state = TRANSITIONS[book.state, event]

    def _lose(self, reason: str, detail: str = "", *, keep: bool = False) -> None:
        """Leave LIVE, or stay outside; ``keep`` keeps a buffer that still chains."""
        if self._judge is not None:
            self.gaps += 1
            self.gap_reason, self.detail = reason, detail
        self._move(BookEvent.LOST)
        self._judge = None
        self._held = None
        self._refreshing = self._asked = self._auditing = False
        self.needs_snapshot = self._open
        self._arm()
        if not keep:
            self._buffer.clear()

    # -- deltas -------------------------------------------------------------------------------

    def delta(
        self, first: int, last: int, prev: int | None, bids: Sequence[Level], asks: Sequence[Level], ts_event: int
    ) -> Applied:
        """Take one delta: absolute quantities, 0 deletes; never raises on bad levels, they lose the book.

        ``first`` and ``last`` are the update ids that it contains, ``prev`` the venue's id of the
        message before, None where it sends none. O(levels given).
        """
        judge = self._judge
        if judge is None:
            return self._keep(first, last, prev, bids, asks, ts_event)
        book = self.book
        verdict = judge(book.last_id, first, last, prev)
        if verdict is _APPLY:
            try:
                book.apply(bids, asks)
            except DataError as error:
                self.malformed += 1
                self._lose("malformed", str(error))
                return Applied.GAP
            book.applied = applied = book.applied + 1
            if self._refreshing:
                self._append((first, last, prev, bids, asks, ts_event))
                if self._held is not None and self._held[0] <= last and not self._take_held(last):
                    return Applied.GAP
            if (not book.touch_ok() or not applied % _LOOK_EVERY) and (reason := self._look()):
                # last_id stays at the last good delta: readers get no more, and the gap starts there.
                # The delta is in the stale book, but a coming snapshot may end before it.
                self._lose(reason, _DETAIL[reason], keep=True)
                if not self._buffer:
                    self._append((first, last, prev, bids, asks, ts_event))
                return Applied.GAP
            book.last_id = last
            book.ts_event = ts_event
            if self._judge is not self._next:
                self._judge = self._next
                self._arm()
            return _APPLIED
        if verdict is _DROP:
            self.dropped += 1
            return _DROPPED
        self._lose("sequence", f"the book ends at {book.last_id}, the next delta has first {first} and previous {prev}")
        self._keep(first, last, prev, bids, asks, ts_event)
        return Applied.GAP

    def _keep(
        self, first: int, last: int, prev: int | None, bids: Sequence[Level], asks: Sequence[Level], ts_event: int
    ) -> Applied:
        """Buffer a delta while there is no book, so that the buffer always chains."""
        buffer = self._buffer
        try:
            self.book.validate(bids, asks)
        except DataError as error:
            self.malformed += 1
            self.detail = str(error)
            buffer.clear()  # a hole: only a snapshot that contains it will do
            return _DROPPED
        if buffer:
            verdict = self._next(buffer[-1][1], first, last, prev)
            if verdict is _DROP:
                self.dropped += 1
                return _DROPPED
            if verdict is _GAP:
                buffer.clear()
        self._append((first, last, prev, bids, asks, ts_event))
        return _BUFFERED

    def _append(self, delta: Delta) -> None:
        if len(self._buffer) >= self.buffer_limit:
            self._buffer.popleft()
            self.overflowed += 1
        self._buffer.append(delta)

    # -- snapshots ----------------------------------------------------------------------------

    def snapshot(
        self,
        snapshot_id: int,
        bids: Sequence[Level],
        asks: Sequence[Level],
        *,
        complete: bool = False,
        ts_event: int | None = None,
    ) -> SnapshotResult:
        """Take a snapshot that contains all updates up to ``snapshot_id``; asks for another when refusing it.

        ``complete=False``: a side with ``snapshot_levels`` levels or more has deeper ones that are not
        shown. Never raises on bad levels. The book is changed only when the snapshot is accepted; a refresh that
        is ahead of the stream is taken when the stream has reached it.
        """
        book = self.book
        reached = self._held is not None and self._held[0] == snapshot_id <= book.last_id
        if self._judge is not None and self._refreshing and snapshot_id > book.last_id:
            self._held = (snapshot_id, bids, asks, complete)
            return SnapshotResult(True, True, [], "")
        self._held = None
        replay, reason = self._judge_snapshot(snapshot_id, reached)
        before = self._known() if self._auditing and self._refreshing and not reason else None
        at = book.last_id
        if not reason:
            limit = self.snapshot_levels
            try:
                book.load(bids, asks, complete=True if complete else (len(bids) < limit, len(asks) < limit))
            except DataError as error:
                self.malformed += 1
                reason = str(error)
        if reason:
            self.refused += 1
            self.snapshot_failed()
            return SnapshotResult(False, self._judge is not None, [], reason)
        for delta in replay:
            book.apply(delta[3], delta[4])  # validated when it was buffered
        if replay:
            book.last_id, book.ts_event = replay[-1][1], replay[-1][5]
        else:
            book.last_id = snapshot_id
            book.ts_event = book.ts_event if ts_event is None else ts_event
        if before is not None and book.last_id == at:
            self.audited = audit = _compare(before, self._known())
            if not audit.agrees:
                self._lose(
                    "audit", f"{audit.compared - audit.equal} of {audit.compared} levels differ from a fresh copy"
                )
                return SnapshotResult(True, False, [], "")
        return self._installed(snapshot_id, replay)

    def _known(self) -> tuple[list[Level], list[Level]]:
        """The levels of both sides that are known to be complete."""
        bids, asks = self.book.known_depth
        return self.book.bids(bids), self.book.asks(asks)

    def _take_held(self, last: int) -> bool:
        """The stream has reached the held refresh with the delta ``last``; False when the book is lost by it."""
        assert self._held is not None
        snapshot_id, bids, asks, complete = self._held
        book = self.book
        before = book.last_id, book.ts_event
        book.last_id = last  # already applied, and the end of the buffer
        self.snapshot(snapshot_id, bids, asks, complete=complete)
        if self._judge is None:
            book.last_id, book.ts_event = before  # readers got no more, and the gap starts there
            return False
        return True

    def replace(
        self, snapshot_id: int, bids: Sequence[Level], asks: Sequence[Level], *, ts_event: int, complete: bool = True
    ) -> SnapshotResult:
        """Take a snapshot that the stream itself brought: it follows everything before it, whatever its id.

        A new epoch begins. ``complete=False``: deeper levels than those given exist. Never raises on bad
        levels; the book is then as it was and ``needs_snapshot`` asks again unless it is LIVE.
        """
        if not self._open:
            self.refused += 1
            return SnapshotResult(False, False, [], "the stream is not subscribed")
        book = self.book
        try:
            book.load(bids, asks, complete=complete)
        except DataError as error:
            self.malformed += 1
            self.refused += 1
            self.snapshot_failed()
            return SnapshotResult(False, self._judge is not None, [], str(error))
        self._buffer.clear()
        self._held = None
        book.last_id, book.ts_event = snapshot_id, ts_event
        return self._installed(snapshot_id, [], anew=True)

    def _installed(self, snapshot_id: int, replay: list[Delta], *, anew: bool = False) -> SnapshotResult:
        """The book was replaced by a snapshot and what was buffered behind it: make it LIVE, if it can be."""
        book = self.book
        if self._judge is None:
            self.resyncs += 1
        if anew or self._judge is None:
            # A refresh of a LIVE book keeps its epoch, even of one without a delta yet: the chain is unbroken,
            # and so what is stored of it does not depend on when the refresh happened to arrive.
            self.epoch = snapshot_id
        self._move(BookEvent.SNAPSHOT)
        self._judge = self._next if replay else self._first
        self.needs_snapshot = self._refreshing = self._asked = self._auditing = False
        self._arm()
        self._backwards = 0
        known_bids, known_asks = book.known_depth
        self._low = (known_bids // 4, known_asks // 4)
        if reason := self._look():
            self._lose(reason, _DETAIL[reason], keep=True)
            return SnapshotResult(True, False, [], "")
        self._buffer.clear()
        return SnapshotResult(True, True, replay, "")

    def _judge_snapshot(self, snapshot_id: int, reached: bool) -> tuple[list[Delta], str]:
        """Return the buffered deltas to apply after a snapshot, or why it cannot be used.

        ``reached``: it was ahead of the live book, so that everything since is in the buffer.
        """
        if not self._open:
            return [], "the stream is not subscribed"
        replay: list[Delta] = []
        buffer = self._buffer
        live = self._judge is not None
        if buffer and not reached and self.rule.too_old(snapshot_id, *buffer[0][:3]):
            return [], f"snapshot {snapshot_id} ends before the first buffered delta {buffer[0][0]}"
        book_id = snapshot_id
        judge: _Judge = self._first
        for delta in buffer:
            verdict = judge(book_id, *delta[:3])
            if verdict is _APPLY:
                replay.append(delta)
                book_id, judge = delta[1], self._next
            elif verdict is _GAP:
                return [], f"snapshot {snapshot_id} does not chain with the buffered delta {delta[0]} to {delta[1]}"
        if book_id < self.book.last_id:
            if live:
                return [], f"snapshot {snapshot_id} is older than the live book at {self.book.last_id}"
            if not buffer and self._backwards < _BACKWARDS:
                # A server behind the others; or the venue began its ids anew, then it stays that way.
                self._backwards += 1
                return [], f"snapshot {snapshot_id} is older than the last good book at {self.book.last_id}"
        return replay, ""

    def _look(self) -> str:
        """Look at touch and known depth: why the book is lost, or empty; asks for a refresh when depth runs low."""
        reason, refresh = self.book.look(*self._low)
        if refresh and not reason:
            self._ask_refresh()
        return reason

    def _ask_refresh(self) -> None:
        if not self._asked:
            self._asked = self.needs_snapshot = True

    def check(self) -> None:
        """Assert every invariant of builder and book; for tests and diagnosis."""
        self.book.check()
        live = self.book.state is BookState.LIVE
        assert live == (self._judge is not None)
        assert len(self._buffer) <= self.buffer_limit
        assert not self._buffer or not live or self._refreshing
        assert not self.needs_snapshot or self._open
        assert self._open or not live
        assert not self._refreshing or live
        assert self._held is None or (self._refreshing and self._held[0] > self.book.last_id)
        previous: Delta | None = None
        for delta in self._buffer:
            assert previous is None or self._next(previous[1], *delta[:3]) is _APPLY
            previous = delta
        if live:
            # What a refresh would replay ends exactly where the book is.
            assert previous is None or previous[1] == self.book.last_id
            book = self.book
            floor, ceiling = book.known_range
            assert floor == -inf or book.best_bid_price >= floor
            assert ceiling == inf or book.best_ask_price <= ceiling
        assert self.book.stage == self._stage()


def _compare(ours: tuple[list[Level], list[Level]], theirs: tuple[list[Level], list[Level]]) -> Audit:
    """Hold two books side by side, as deep as both are known."""
    compared = equal = 0
    for mine, fresh in zip(ours, theirs, strict=True):
        depth = min(len(mine), len(fresh))
        compared += depth
        equal += len(set(mine[:depth]) & set(fresh[:depth]))
    return Audit(compared, equal)
