"""OKX's rules of book integrity as pure functions: the chain of sequence ids, and the retired checksum.

Source: docs/exchanges/okx.md#book. Every message of ``books`` names its own ``seqId`` and the one before
it, ``prevSeqId``; the snapshot has ``prevSeqId`` -1. Ids only rise, not by one, except after a sequence
reset, when ``seqId`` is below ``prevSeqId`` and the chain still holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from zlib import crc32

from cmd_common.sequence import Verdict

__all__ = ["CHECKSUM_LEVELS", "RULE", "ChainRule", "checksum", "plain_text"]

CHECKSUM_LEVELS: Final = 25


class ChainRule:
    """``prevSeqId`` must be the ``seqId`` of the message before; ``first`` of a delta is not used.

    A keepalive (``seqId`` equal to ``prevSeqId``, without levels) chains like any other message and does
    not move the book. A message from before the book's id that does not chain is a repeat.
    """

    name = "okx-chain"

    def first(self, snapshot_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against a fresh snapshot: the same rule, the snapshot is part of the chain."""
        return self.next(snapshot_id, first, last, prev)

    def next(self, book_id: int, first: int, last: int, prev: int | None) -> Verdict:
        """Judge a delta against a book that ends at ``book_id``."""
        if prev is None:  # traffic of 2022 has no ids, the feed counts
            return Verdict.APPLY if last > book_id else Verdict.DROP
        if prev == book_id:
            return Verdict.APPLY  # also a reset, which continues the chain at a smaller id
        if prev < last <= book_id:
            return Verdict.DROP  # an old message again; a reset has last < prev and falls through
        return Verdict.GAP

    def too_old(self, snapshot_id: int, first: int, last: int, prev: int | None) -> bool:
        """Whether a snapshot ends before the first buffered delta."""
        return prev is not None and prev > snapshot_id


RULE: Final = ChainRule()


def plain_text(value: float) -> str:
    """A float as OKX writes a number: no exponent, no trailing zeros [R]."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def checksum(bids: Sequence[tuple[str, str]], asks: Sequence[tuple[str, str]]) -> int:
    """CRC32 as a signed 32-bit number over the best 25 levels a side, price and size as texts, best first.

    Bid and ask alternate; when one side ends the other goes on alone [D]. Verified on recorded traffic of
    2022; since 2026-06-23 the exchange sends 0 instead.
    """
    parts: list[str] = []
    for i in range(min(CHECKSUM_LEVELS, max(len(bids), len(asks)))):
        for side in (bids, asks):
            if i < len(side):
                parts += side[i]
    value = crc32(":".join(parts).encode())
    return value - (1 << 32) if value & 0x80000000 else value
