"""How an exchange's REST history is read page by page, as pure functions; cmd-archiver does the work.

A *walk* fetches one table of one symbol between two instants, for the archiver one UTC day. It is a small
state machine: the source makes the first request, looks at each response, and says what to ask next as a
``cursor``, its own text. Exchanges differ in where a walk begins and which way it goes (backwards by id,
forwards by time), so the cursor says all that there is to remember: a walk that was interrupted, perhaps
by ``kill -9`` and days ago, goes on from its last cursor in another process. Some walks must first find
their place (an id for an instant); such pages carry no records.

What the archiver does, so that no source has to: it keeps the venue's rate limit (``HttpRequest.weight``
against ``Limits.weight_per_minute``, spread evenly), asks ``Exchange.check`` about every response before
``page`` sees it, repeats a request whose answer was an error or made ``page`` raise ProtocolError (a few
times), keeps every page on disk, drops what lies outside of the walk and what came twice, puts the rows
in order, and notes missing ids as gaps where ``contiguous``.
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

    ``cursor`` is None when the walk is complete; a cursor that was asked before is an endless walk and
    an error. ``wait`` asks for a pause before the next page, beyond what the venue's limits ask for.
    """

    records: tuple[Record, ...]
    cursor: str | None
    wait: int = 0  # ns
    lost: str = ""  # why rows of the walk are not to be had (too old, a hole); becomes a Gap row
    lost_span: tuple[int, int] | None = None  # ns, from and to, of ``lost``; None: the whole walk


class HistorySource(Protocol):
    """A venue's REST history. Everything is pure; errors of the exchange are told by ``Exchange.check``.

    Fields of a record that the exchange does not give: floats are NaN, ``Candle.trades`` is -1. Subclass
    this class explicitly to get the default of ``sparse_candles``.
    """

    tables: tuple[str, ...]  # trades, candles
    intervals: tuple[str, ...]  # of candles
    contiguous: bool  # trade ids of a symbol rise by one, so that a missing one shows
    sparse_candles: bool = False  # intervals without a trade are left out: a missing candle is no hole

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
