"""Book states and the sequence rules that move a book between them.

Theory of operation. A builder buffers deltas while it has no book (EMPTY, SYNCING, STALE), takes a
snapshot, and then asks the venue's ``SequenceRule`` about every delta: apply it, drop it as already
contained, or call it a gap. A gap makes the book STALE: it stays readable but is marked, deltas are
buffered, and a new snapshot is asked for. The rule is a pure function of update ids, so that every
exchange package states its own in a few lines and one table of tests runs over all of them.

    EMPTY   --start-->             SYNCING
    SYNCING --snapshot chains-->   LIVE
    LIVE    --gap, disconnect-->   STALE
    LIVE    --snapshot chains-->   LIVE      (a refresh, which never goes backwards)
    STALE   --snapshot chains-->   LIVE

The table ``TRANSITIONS`` says it for every state and event; the builder has no other way to move.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

__all__ = ["TRANSITIONS", "BookEvent", "BookState", "SequenceRule", "Verdict"]


class BookState(Enum):
    """What a reader may think of a book; only LIVE books are published."""

    EMPTY = "EMPTY"  # nothing yet
    SYNCING = "SYNCING"  # never live; waits for a snapshot that chains with the deltas
    LIVE = "LIVE"  # complete within its known depth, every update seen
    STALE = "STALE"  # the last good book, kept readable while a new one loads


class BookEvent(Enum):
    """What moves a book from state to state."""

    START = "start"  # the stream is subscribed: deltas arrive from now on
    SNAPSHOT = "snapshot"  # a snapshot chains with the buffered deltas
    LOST = "lost"  # a gap, a disconnect, a malformed delta, or the touch left the known range


TRANSITIONS: Final[dict[tuple[BookState, BookEvent], BookState]] = {
    (BookState.EMPTY, BookEvent.START): BookState.SYNCING,
    (BookState.EMPTY, BookEvent.LOST): BookState.EMPTY,
    (BookState.SYNCING, BookEvent.START): BookState.SYNCING,
    (BookState.SYNCING, BookEvent.SNAPSHOT): BookState.LIVE,
    (BookState.SYNCING, BookEvent.LOST): BookState.SYNCING,
    (BookState.LIVE, BookEvent.START): BookState.LIVE,
    (BookState.LIVE, BookEvent.SNAPSHOT): BookState.LIVE,
    (BookState.LIVE, BookEvent.LOST): BookState.STALE,
    (BookState.STALE, BookEvent.START): BookState.STALE,
    (BookState.STALE, BookEvent.SNAPSHOT): BookState.LIVE,
    (BookState.STALE, BookEvent.LOST): BookState.STALE,
}  # a snapshot without a start is missing: nobody asked for it, and it is refused


class Verdict(Enum):
    """What to do with a delta."""

    APPLY = "apply"
    DROP = "drop"  # wholly contained in the book: old, or a repeat
    GAP = "gap"  # something between the book and this delta is missing


class SequenceRule(Protocol):
    """A venue's rule of continuity; ids are the venue's own, ``prev`` is None where it sends none."""

    name: str

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against a fresh snapshot, before any delta was applied to it."""

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against a book whose last applied delta ended at ``book_id``."""

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether a snapshot ends before ``first``, the first buffered delta, so that a hole remains."""
