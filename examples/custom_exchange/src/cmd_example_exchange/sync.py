"""When a book of exampex may be trusted: ``seq`` of its messages rises by one."""

from __future__ import annotations

from cmd_common.sequence import Verdict

__all__ = ["ExampexRule"]


class ExampexRule:
    """See ``cmd_common.sequence.SequenceRule``."""

    name = "exampex"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge the first delta behind a snapshot, like every other one."""
        return self.next(snapshot_id, first, last, prev)

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta: old ones are dropped, the next one is applied, anything later is a gap."""
        if last <= book_id:
            return Verdict.DROP
        return Verdict.APPLY if first == book_id + 1 else Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether something between a snapshot and the first buffered delta is missing."""
        return snapshot_id + 1 < first
