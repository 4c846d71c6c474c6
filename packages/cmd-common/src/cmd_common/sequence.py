"""Book states and the sequence rules that move a book between them.

Theory of operation. A builder buffers deltas while it has no book (EMPTY, SYNCING, STALE), takes a
snapshot, and then asks the venue's ``SequenceRule`` about every delta: apply it, drop it as already
contained, or call it a gap. A gap makes the book STALE: it stays readable but is marked, deltas are
buffered, and a new snapshot is asked for. The rule is a pure function of update ids, so that every
exchange package states its own in a few lines and one table of tests runs over all of them.

    EMPTY   --start-->             SYNCING
    SYNCING --snapshot chains-->   LIVE
    LIVE    --gap, disconnect-->   STALE
    STALE   --snapshot chains-->   LIVE
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

__all__ = ["BookState", "SequenceRule", "Verdict"]


class BookState(Enum):
    """What a reader may think of a book; only LIVE books are published."""

    EMPTY = "EMPTY"  # nothing yet
    SYNCING = "SYNCING"  # never live; waits for a snapshot that chains with the deltas
    LIVE = "LIVE"  # complete within its known depth, every update seen
    STALE = "STALE"  # the last good book, kept readable while a new one loads


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
