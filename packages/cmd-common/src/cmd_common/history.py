"""How an exchange's REST history is read page by page, as pure functions; cmd-archiver does the work.

A *walk* fetches one table of one symbol between two instants. It is a small state machine: the source
makes the first request, looks at each response, and says what to ask next as a ``cursor``, its own
text. Exchanges differ in where a walk begins and which way it goes (backwards by id, forwards by time),
so the cursor says all that there is to remember: a walk that was interrupted goes on from its last cursor.
Some walks must first find their place (an id for an instant); such pages carry no records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from .http import HttpRequest, HttpResponse
from .records import Record

if TYPE_CHECKING:
    from .exchange import Endpoints

__all__ = ["HistoryPage", "HistorySource", "Walk"]


class Walk(Struct, frozen=True):
    """What one walk fetches: rows with ``start <= time < end``, ns; ``interval`` of candles, else empty."""

    table: str  # trades or candles
    symbol: str  # native
    start: int
    end: int
    interval: str = ""


class HistoryPage(Struct, frozen=True):
    """One page: its records within the walk, in any order, and the cursor of the next page.

    ``cursor`` is None when the walk is complete. ``wait`` asks for a pause before the next page.
    """

    records: tuple[Record, ...]
    cursor: str | None
    wait: int = 0  # ns
    lost: str = ""  # why rows of the walk are not to be had (too old, a hole); becomes a Gap row


class HistorySource(Protocol):
    """A venue's REST history. Everything is pure; errors of the exchange are told by ``Exchange.check``."""

    tables: tuple[str, ...]  # trades, candles
    intervals: tuple[str, ...]  # of candles
    contiguous: bool  # trade ids of a symbol rise by one, so that a missing one shows

    def reach(self, table: str, interval: str = "") -> int | None:
        """How far back from now the exchange answers, ns; None: everything that it ever had."""

    def first(self, walk: Walk, endpoints: Endpoints) -> HttpRequest:
        """The first request of a walk; raises UsageError for what the venue does not have."""

    def next(self, walk: Walk, cursor: str, endpoints: Endpoints) -> HttpRequest:
        """The request for a cursor."""

    def page(self, walk: Walk, cursor: str, response: HttpResponse, now: int) -> HistoryPage:
        """Take the response to the request of ``cursor`` (empty: the first); raises ProtocolError.

        ``now`` is the receive time in ns. Records carry the flag ``REST``; candles whose interval is not over are left out.
        """
