"""Coinbase's rules of continuity, as pure state machines without I/O.

Coinbase Exchange (docs/exchanges/coinbase.md#exchange-book): ``level2_batch`` has no sequence, so that nothing in a
message shows that the one before it is missing. What is left is to compare: ``TickerGuard`` looks whether the
book's best prices ever equal those of the ``ticker`` channel.

Advanced Trade (docs/exchanges/coinbase.md#advanced-book): ``sequence_num`` counts every frame of a connection from
0, confirmations and heartbeats included. ``ConnectionSequence`` judges each frame; a hole may have held
anything, so everything that the connection carries is affected.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

__all__ = ["ConnectionSequence", "FrameVerdict", "TickerGuard"]

_AGREEING: Final = 32  # best prices of the book that a ticker is compared with
_MISSES: Final = 3  # tickers in a row that must disagree
_MOST_PATIENCE: Final = 64  # times the limit, when resynchronising did not help
_RESET_AFTER: Final = 3  # old numbers that follow each other mean that the exchange began to count anew


class FrameVerdict(Enum):
    """What a frame's number says."""

    NEXT = "next"
    REPEAT = "repeat"  # seen before, or late behind a hole that was already reported
    HOLE = "hole"  # frames before this one are missing
    RESET = "reset"  # the exchange counts anew on the same connection


class ConnectionSequence:
    """Judges the numbers of one connection's frames; call ``reset`` when a connection is opened."""

    __slots__ = ("_old", "_olds", "last")

    def __init__(self) -> None:
        self.last = -1  # number of the newest frame; -1: none yet
        self._old = -1  # the last old number, and how many followed each other
        self._olds = 0

    def reset(self) -> None:
        """A new connection counts from 0."""
        self.last = self._old = -1
        self._olds = 0

    def judge(self, number: int) -> FrameVerdict:
        """Judge a frame's number, and remember it. The first frame of a connection must be number 0. O(1)."""
        last = self.last
        if number == last + 1:
            self.last = number
            self._olds = 0
            return FrameVerdict.NEXT
        if number > last:
            self.last = number
            self._olds = 0
            return FrameVerdict.HOLE
        self._olds = self._olds + 1 if number == self._old + 1 else 1
        self._old = number
        if self._olds >= _RESET_AFTER and number < last:
            self.last = number
            self._olds = 0
            return FrameVerdict.RESET
        return FrameVerdict.REPEAT


class TickerGuard:
    """Compares a book's best prices with those of the ticker; ``limit`` ns of disagreement lose the book.

    The two channels are not ordered against each other, and a batch of changes leaves out what was between,
    so that a single ticker proves nothing. It agrees when its prices equal the book's after any of the
    last 32 updates before it, or after any update behind it. The book is wrong when at least three tickers
    in a row disagree, over at least ``limit``. Each loss doubles the limit until a ticker agrees, so that an
    exchange whose channels contradict each other is not subscribed again without end.
    """

    __slots__ = ("_misses", "_patience", "_recent", "_since", "_wanted", "agreed", "disagreed", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.agreed = 0
        self.disagreed = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=_AGREEING)
        self._wanted: tuple[float, float] | None = None
        self._since = 0
        self._misses = 0
        self._patience = 1

    def book(self, bid: float, ask: float) -> None:
        """The book's best prices after an update."""
        top = (bid, ask)
        if top == self._wanted:
            self._agree()
        if not self._recent or self._recent[-1] != top:
            self._recent.append(top)

    def ticker(self, bid: float, ask: float, now: int) -> None:
        """Best prices of a ticker; a side without an order says nothing."""
        if bid <= 0 or ask <= 0 or not self._recent:
            return
        top = (bid, ask)
        if top in self._recent:
            self._agree()
            return
        self._wanted = top
        self._misses += 1
        if not self._since:
            self._since = now

    def _agree(self) -> None:
        self.agreed += 1
        self._wanted = None
        self._since = self._misses = 0
        self._patience = 1

    def wrong(self, now: int) -> bool:
        """Whether the book has disagreed for too long; the caller loses it and calls ``lost``."""
        return self._misses >= _MISSES and now - self._since >= self.limit * self._patience

    def lost(self, *, by_ticker: bool = False) -> None:
        """The book is loaded anew: what was seen of the old one says nothing any more."""
        if by_ticker:
            self.disagreed += 1
            self._patience = min(self._patience * 2, _MOST_PATIENCE)
        self._recent.clear()
        self._wanted = None
        self._since = self._misses = 0

    def check(self) -> None:
        """Assert every invariant; for tests."""
        assert (self._wanted is None) == (self._since == 0) == (self._misses == 0)
        assert 1 <= self._patience <= _MOST_PATIENCE
        assert len(self._recent) <= _AGREEING
