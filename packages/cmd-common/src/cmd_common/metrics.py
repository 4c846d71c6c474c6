"""Numbers for monitoring, without a library: families of samples, and a meter of what feeds deliver.

A part of a process gives its numbers as ``Family`` objects at the moment that somebody asks. An entry point of the group
``cmd.metrics`` turns them into what Prometheus reads: ``http`` serves them, ``text`` makes the text form for a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from .builder import Audit
from .records import TABLE_OF, TS_FROM_RECV, AggregatedBook, FeedStatus, Gap, InstrumentRecord, Record
from .sequence import BookState

if TYPE_CHECKING:
    from .orderbook import OrderBook

__all__ = ["Families", "Family", "FeedMeter", "book_families", "one"]

Kind = Literal["counter", "gauge"]
Families = Callable[[], Iterable["Family"]]
"""Gives the numbers of this moment."""

_TABLES: Final[dict[type, str]] = dict(TABLE_OF)
_NS: Final = 1e-9
_OUTCOMES: Final = {"audited": "equal", "audit_failed": "different"}


class Family(Struct, frozen=True):
    """One number with its meaning: samples are label values, in the order of ``labels``, and a value.

    A counter's name is without ``_total``, which the text form adds. Times are Unix seconds.
    """

    kind: Kind
    name: str
    words: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[Sequence[str], float]]


def one(kind: Kind, name: str, words: str, value: float) -> Family:
    """A family without labels."""
    return Family(kind, name, words, (), [((), value)])


def book_families(books: Mapping[str, OrderBook]) -> Iterator[Family]:
    """Order books by state."""
    states = Counter(book.state for book in books.values())
    samples = [((state.value,), states[state]) for state in BookState]
    yield Family("gauge", "cmd_feed_books", "Order books by state.", ("state",), samples)


class FeedMeter:
    """Counts what feeds deliver: records by venue and table, gaps, connections, and how late data comes; pure."""

    __slots__ = (
        "audits",
        "connections",
        "disconnects",
        "gaps",
        "handovers",
        "lag",
        "matches",
        "open_gaps",
        "records",
        "seen",
        "silent",
    )

    def __init__(self) -> None:
        self.records: Counter[tuple[str, str]] = Counter()  # by venue and table
        self.gaps: Counter[tuple[str, str, str]] = Counter()  # by venue, table and reason; rows, repairs left out
        self.open_gaps: set[tuple[str, str, str, int, int]] = set()
        self.disconnects: Counter[tuple[str, str]] = Counter()  # by venue and connection
        self.connections: dict[tuple[str, str], str] = {}  # state by venue and connection
        self.handovers: Counter[tuple[str, str]] = Counter()  # by venue and connection
        self.silent: dict[tuple[str, str, str], str] = {}  # connection by venue, symbol and table that say nothing
        self.audits: Counter[tuple[str, str]] = Counter()  # by venue and outcome
        self.matches: dict[tuple[str, str], float] = {}  # of the last self-audit by venue and symbol, 0 to 1
        self.lag: dict[str, int] = {}  # ns from event to receipt of the last record, by venue
        self.seen: dict[str, int] = {}  # our time of it, ns

    def take(self, records: Sequence[Record]) -> None:
        """Count records. O(n)."""
        counts = self.records
        last: Any = None
        for record in records:
            kind = type(record)
            row: Any = record
            if kind is Gap:
                self._gap(row)
            elif kind is FeedStatus:
                self._status(row)
            elif kind is AggregatedBook:
                counts["", "aggregated_books"] += 1
                continue
            elif kind is not InstrumentRecord:
                last = row
            counts[row.venue, _TABLES[kind]] += 1
        if last is not None and last.ts_recv:
            self.seen[last.venue] = last.ts_recv
            if not last.flags & TS_FROM_RECV:
                self.lag[last.venue] = last.ts_recv - last.ts_event

    def _gap(self, gap: Gap) -> None:
        key = (gap.venue, gap.symbol, gap.record_type, gap.ts_from, gap.ts_to)
        if gap.repaired_by:
            self.open_gaps.discard(key)
        elif key not in self.open_gaps:
            self.gaps[gap.venue, gap.record_type, gap.reason] += 1
            if len(self.open_gaps) < 100_000:
                self.open_gaps.add(key)

    def _status(self, status: FeedStatus) -> None:
        state, venue = status.state, status.venue
        if state in _OUTCOMES:
            self.audits[venue, _OUTCOMES[state]] += 1
            audit = Audit.read(status.reason)
            if audit is not None:
                self.matches[venue, status.symbol] = audit.match
        elif state == "silent":
            self.silent[venue, status.symbol, status.record_type] = status.connection
        elif state == "heard":
            self.silent.pop((venue, status.symbol, status.record_type), None)
        elif state == "handover":
            self.handovers[venue, status.connection] += 1
        elif state in ("connected", "disconnected") and not status.symbol and not status.record_type:
            self.connections[venue, status.connection] = state
            if state == "disconnected":
                self.disconnects[venue, status.connection] += 1
                gone = [k for k, c in self.silent.items() if k[0] == venue and c == status.connection]
                for key in gone:  # its next connection says again which of them are silent
                    del self.silent[key]

    def families(self) -> Iterator[Family]:
        """The numbers of this moment, ``cmd_feed_*``."""
        pair = ("venue", "connection")
        yield Family("counter", "cmd_feed_records", "Records of a venue.", ("venue", "table"), _rows(self.records))
        lag = [((venue,), ns * _NS) for venue, ns in self.lag.items()]
        yield Family("gauge", "cmd_feed_lag_seconds", "From event to receipt, of the last.", ("venue",), lag)
        seen = [((venue,), ns * _NS) for venue, ns in self.seen.items()]
        yield Family("gauge", "cmd_feed_last_seconds", "Unix time of the last record.", ("venue",), seen)
        reasons = ("venue", "table", "reason")
        yield Family("counter", "cmd_feed_gaps", "Gaps that were noted.", reasons, _rows(self.gaps))
        up = [(key, float(state == "connected")) for key, state in self.connections.items()]
        yield Family("gauge", "cmd_feed_connected", "Whether a connection stands.", pair, up)
        yield Family("counter", "cmd_feed_reconnects", "Connections that were lost.", pair, _rows(self.disconnects))
        words = "Connections that took over from another one without a gap."
        yield Family("counter", "cmd_feed_handovers", words, pair, _rows(self.handovers))
        streams = Counter((venue, table) for venue, _, table in self.silent)
        words = "Streams that are subscribed and say nothing."
        yield Family("gauge", "cmd_feed_silent_streams", words, ("venue", "table"), _rows(streams))
        words = "Order books that were compared with a fresh copy."
        yield Family("counter", "cmd_feed_audits", words, ("venue", "outcome"), _rows(self.audits))
        words = "Share of the levels that were equal when the book was last compared, 0 to 1."
        yield Family("gauge", "cmd_feed_audit_match", words, ("venue", "symbol"), list(self.matches.items()))


def _rows(counts: Mapping[Any, int]) -> list[tuple[Sequence[str], float]]:
    return list(counts.items())
