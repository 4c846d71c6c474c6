"""Gemini's rules for keeping a book, as pure functions of update ids.

Current API (docs/exchanges/gemini.md#current-book). Ids come from one counter of the whole exchange, so
a symbol's own ids jump: nothing is said by the size of a step. Each ``depthUpdate`` covers ``U..u`` of its
symbol and joins its predecessor: ``U`` equals the ``u`` before. A first id right behind the last one
(``U = u + 1``, as elsewhere) has not been seen but leaves no hole either, so both are taken.

v2 feed (docs/exchanges/gemini.md#v2-book). It has no ids: the book is guarded by crossed prices, by
seeding it anew from time to time, and by the order of the connection.
"""

from __future__ import annotations

from cmd_common.sequence import Verdict

__all__ = ["DepthRule", "is_snapshot"]

_APPLY, _DROP, _GAP = Verdict.APPLY, Verdict.DROP, Verdict.GAP


def is_snapshot(first: int, last: int) -> bool:
    """Whether the first update after a subscription has the form of a snapshot: it covers one id only."""
    return first == last


class DepthRule:
    """``u <= last`` is a repeat, ``U <= last + 1`` follows, anything later leaves a hole."""

    name = "gemini"
    __slots__ = ()

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge an update against a fresh snapshot; the same as ``next``."""
        return self.next(snapshot_id, first, last, prev)

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge an update against the book: DROP what it contains, APPLY what joins, else GAP."""
        if last <= book_id:
            return _DROP
        return _APPLY if first <= book_id + 1 else _GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether ids between the snapshot and the first buffered update are missing."""
        return first > snapshot_id + 1
