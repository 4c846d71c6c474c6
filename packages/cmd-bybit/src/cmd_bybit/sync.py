"""Bybit's rule of continuity of a book, and its best bid and offer from the level-1 topic.

Source: docs/exchanges/bybit.md#book. A topic's snapshot replaces the book whenever it comes, whatever
its id. ``u`` numbers the messages behind it: it rose by exactly one on every recorded delta, which the
documentation does not promise; a jump is therefore a loss, and the topic is subscribed again, which
brings a snapshot. ``u == 1`` says that the service restarted: that message is a snapshot, whatever its
type says.
"""

from __future__ import annotations

from collections.abc import Sequence

from cmd_common.sequence import Verdict

__all__ = ["RESTART", "BookRule", "Top", "replaces"]

RESTART = 1
"""The update id with which the service begins anew."""


class BookRule:
    """Update ids rise by one from message to message."""

    name = "bybit"
    __slots__ = ()

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge the first delta behind a snapshot: like every other one."""
        return self.next(snapshot_id, first, last, prev)

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against the book: DROP what it contains, APPLY its successor, else GAP."""
        if first == book_id + 1:
            return Verdict.APPLY
        return Verdict.DROP if last <= book_id else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether messages between the snapshot and the first buffered delta are missing."""
        return snapshot_id + 1 < first


def replaces(type_: str, update_id: int) -> bool:
    """Whether a message is a whole book: by its type, or because the service restarted."""
    return type_ == "snapshot" or update_id == RESTART


class Top:
    """The best bid and offer of one symbol, from ``orderbook.1``.

    Every message of the topic was a snapshot in 2026; the documentation describes deltas, too: a new
    level of a side replaces it, a deleted one empties it. An empty side is ``(0.0, 0.0)``.
    """

    __slots__ = ("ask", "bid", "last")

    def __init__(self) -> None:
        self.bid = self.ask = (0.0, 0.0)
        self.last = -1  # update id; -1: no snapshot yet, or one was lost

    def forget(self) -> None:
        """Messages may be lost: only a snapshot is believed next."""
        self.last = -1

    def snapshot(
        self, update_id: int, bids: Sequence[tuple[float, float]], asks: Sequence[tuple[float, float]]
    ) -> bool:
        """Take a snapshot; returns whether it says anything new: it is repeated when nothing changes for 3 s."""
        bid = bids[0] if bids else (0.0, 0.0)
        ask = asks[0] if asks else (0.0, 0.0)
        new = update_id != self.last or (bid, ask) != (self.bid, self.ask)
        self.bid, self.ask, self.last = bid, ask, update_id
        return new

    def delta(
        self, update_id: int, bids: Sequence[tuple[float, float]], asks: Sequence[tuple[float, float]]
    ) -> Verdict:
        """Take a delta: APPLY, DROP for a repeat, GAP where one before it is missing."""
        if self.last < 0:
            return Verdict.GAP
        verdict = BookRule().next(self.last, update_id, update_id, None)
        if verdict is Verdict.APPLY:
            self.bid, self.ask = _side(self.bid, bids), _side(self.ask, asks)
            self.last = update_id
        elif verdict is Verdict.GAP:
            self.forget()
        return verdict


def _side(best: tuple[float, float], changes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Apply the changes of one side with one level; deletes and inserts come in any order."""
    inserted = [level for level in changes if level[1] > 0]
    if inserted:
        return inserted[-1]
    return (0.0, 0.0) if any(level[0] == best[0] for level in changes) else best
