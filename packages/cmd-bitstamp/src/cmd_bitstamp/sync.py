"""Bitstamp's rules for keeping a book and for following orders, as pure functions.

Rules: docs/exchanges/bitstamp.md#book. Changes carry no sequence: only ``microtimestamp``, the exchange's
clock in microseconds, which is also what a snapshot says of itself. It serves as the update id: a change at or
before the snapshot is contained in it, any later one follows. A lost message does not show here, so a book
is guarded by crossed prices and by seeding it anew from time to time.

``live_orders`` names the event before each event, so that a missing one shows.
"""

from __future__ import annotations

from cmd_common.sequence import Verdict

__all__ = ["OrderChain", "TimeRule"]

_APPLY, _DROP, _GAP = Verdict.APPLY, Verdict.DROP, Verdict.GAP


class TimeRule:
    """Order by the exchange's clock: a change out of order shows, a missing one does not."""

    name = "bitstamp-time"
    __slots__ = ()

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a change against a fresh snapshot: one at or before its time is contained."""
        return _DROP if last <= snapshot_id else _APPLY

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a change against the book: its own time again is a repeat, an earlier one came too late.

        A late change was not applied, and later ones of the same levels were: nobody can say what its levels hold now.
        """
        if last < book_id:
            return _GAP
        return _DROP if last == book_id else _APPLY

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether a snapshot lacks the time before ``first``, the first buffered change.

        Between the two nothing need have happened, but something may have: changes come only from the
        subscription on, so a snapshot of a moment before it cannot be brought up to date.
        """
        return snapshot_id < first


class OrderChain:
    """Follows ``event_id`` and ``pre_event_id`` of one symbol's order events.

    Events without ids (as before 2026) are not judged. Memory is one id.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = ""  # id of the last event; empty: none yet, or lost sight of

    def reset(self) -> None:
        """Forget the last event, as after a disconnect."""
        self.last = ""

    def follow(self, event_id: str, pre_event_id: str) -> bool:
        """Whether an event joins the one before; it is the last one from now on either way."""
        joined = not self.last or not event_id or not pre_event_id or pre_event_id == self.last
        self.last = event_id
        return joined
