"""Binance's two rules of continuity between a depth snapshot and the depth events.

Spot (docs/exchanges.md#binance-spot-book): every event covers the update ids ``U..u`` and the next
one starts at ``u + 1``. A snapshot ends at ``lastUpdateId``; events that end at or before it are
contained in it, and the first one to apply starts at or before ``lastUpdateId + 1``. Both cases of
the first event occur in real traffic: it straddles the snapshot, or it starts right behind it.

Futures (docs/exchanges.md#binance-futures-book): ids are shared by all symbols, so ``U`` jumps and
is never tested for continuity. ``pu`` names the ``u`` of the symbol's previous event. Events with
``u < lastUpdateId`` are contained; the first one to apply has ``U <= lastUpdateId <= u`` (with
``u == lastUpdateId`` it changes nothing) or ``pu == lastUpdateId``.
"""

from __future__ import annotations

from cmd_common.sequence import SequenceRule, Verdict

from .instruments import Market

__all__ = ["FuturesRule", "SpotRule", "rule_for"]

_APPLY, _DROP, _GAP = Verdict.APPLY, Verdict.DROP, Verdict.GAP


class SpotRule:
    """Ids rise by one from event to event."""

    name = "binance-spot"
    __slots__ = ()

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against a fresh snapshot: DROP up to ``lastUpdateId``, APPLY without a hole."""
        if last <= snapshot_id:
            return _DROP
        return _APPLY if first <= snapshot_id + 1 else _GAP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against the book: the gap rule is ``U > book id + 1``."""
        if last <= book_id:
            return _DROP
        return _APPLY if first <= book_id + 1 else _GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether ids between the snapshot and the first buffered event are missing."""
        return snapshot_id + 1 < first


class FuturesRule:
    """Each event names its predecessor."""

    name = "binance-futures"
    __slots__ = ()

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against a fresh snapshot: it must contain ``lastUpdateId`` or follow it."""
        if last < snapshot_id:
            return _DROP
        return _APPLY if first <= snapshot_id or prev == snapshot_id else _GAP

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against the book: ``pu`` must be the book's id. A repeat ends at or before it."""
        if prev == book_id:
            return _APPLY
        return _DROP if last <= book_id else _GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether an event between the snapshot and the first buffered event is missing."""
        return snapshot_id < first and prev != snapshot_id


def rule_for(market: Market) -> SequenceRule:
    """Return the market's rule."""
    return FuturesRule() if market.futures else SpotRule()
