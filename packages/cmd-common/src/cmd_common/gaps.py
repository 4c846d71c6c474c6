"""The gap ledger's vocabulary, and which moments of a stream are complete by it.

A Gap says that between two rows that are there, at ``ts_from`` and ``ts_to``, something may be missing. A row is
*inside* a gap when its span is: a row of one moment when ``ts_from < time < ts_to``, a candle when its interval
``[open_time, close_time]`` and the gap share more than an end. So the rows on both sides of a gap are not inside it,
and a provisional candle that never became final is. A gap with an empty symbol is of all symbols of its venue, one
with an empty record type of all tables. A gap is open until ``repaired_by`` is set.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from msgspec import Struct

from .errors import UsageError
from .records import Gap, Record
from .schema import Table
from .schema import table as table_of

if TYPE_CHECKING:
    from .io import IReader

__all__ = [
    "INCOMPLETE",
    "KINDS",
    "REASONS",
    "GapIndex",
    "Incomplete",
    "Interval",
    "Reason",
    "check_incomplete",
    "in_safe_order",
    "inside_sql",
    "is_checked",
    "keep_complete",
    "merge",
    "needed",
    "sift_batches",
    "span_columns",
    "stream_columns",
]

Incomplete = Literal["keep", "mark", "drop"]
INCOMPLETE: Final[tuple[Incomplete, ...]] = ("keep", "mark", "drop")

KINDS: Final = {
    "disconnect": "a connection was lost",
    "resync": "a book was lost or replaced and built anew",
    "sequence": "ids of a stream jumped",
    "dropped": "a message was damaged or could not be used",
    "silence": "a stream was subscribed and said nothing, or stopped",
    "overflow": "a queue was full and records were thrown away",
    "late_snapshot": "a book waited for its snapshot",
    "store_outage": "the store did not take rows",
    "stop": "no recorder ran: it was stopped, or killed",
    "archive": "the exchange's history lacks it",
}
"""Causes of gaps; each reason belongs to one."""


class Reason(Struct, frozen=True):
    """One word of ``Gap.reason``: its cause (of ``KINDS``), its severity, and what it means."""

    name: str
    kind: str
    severity: Literal["lost", "suspect"]
    meaning: str


def _reasons() -> Iterator[Reason]:
    yield Reason("disconnect", "disconnect", "lost", "the connection ended; messages until it was back are missing")
    yield Reason(
        "reseed", "resync", "lost", "a fresh copy of the book was asked for, and updates in between are missing"
    )
    yield Reason("snapshot", "resync", "lost", "the exchange sent a new book where none was due")
    yield Reason("refresh", "resync", "lost", "the book was checked against a fresh copy, differed, and was replaced")
    yield Reason(
        "audit", "resync", "lost", "the book differed from a fresh copy; suspect since it was last known to be right"
    )
    yield Reason("checksum", "resync", "lost", "the exchange's checksum did not fit the book, which was built anew")
    yield Reason("crossed", "resync", "lost", "best bid and ask crossed, so that an update must be missing")
    yield Reason("known_range", "resync", "lost", "the best price left the range that the snapshot covered")
    yield Reason("order", "resync", "lost", "an update did not fit the book; it was built anew")
    yield Reason("ticker", "resync", "lost", "the ticker contradicted the book, which was built anew")
    yield Reason("sequence", "sequence", "lost", "update ids jumped; the ids between are missing")
    yield Reason("trade_id", "sequence", "lost", "trade ids jumped; first_id to last_id are missing")
    yield Reason("chain", "sequence", "lost", "an order event did not follow the one before")
    yield Reason(
        "connection_sequence", "sequence", "lost", "the connection's message numbers jumped; any stream may miss some"
    )
    yield Reason(
        "id_restart", "sequence", "suspect", "ids began anew; whether something is missing in between is unknown"
    )
    yield Reason(
        "candle", "sequence", "suspect", "a candle never became final; the exchange may send none without trades"
    )
    yield Reason("malformed", "dropped", "lost", "a message was damaged; suspect where it is unknown whose it was")
    yield Reason(
        "silence", "silence", "suspect", "a stream was confirmed and said nothing, or stopped saying what it used to"
    )
    yield Reason(
        "overflow", "overflow", "lost", "the store was slower than the data and the oldest records were dropped"
    )
    yield Reason("no_snapshot", "late_snapshot", "lost", "updates came for a book whose snapshot never did")
    yield Reason(
        "late_snapshot", "late_snapshot", "lost", "updates that came before the book's snapshot did are not in a book"
    )
    yield Reason("store_outage", "store_outage", "lost", "the store failed; rows that it had not confirmed are missing")
    yield Reason("restart", "stop", "lost", "nothing was recorded between the last stored row and the first new one")
    yield Reason(
        "archive_hole",
        "archive",
        "lost",
        "ids or candles are missing in the exchange's file; suspect where built from such",
    )
    yield Reason("missing_file", "archive", "lost", "the exchange does not publish the file")
    yield Reason("bad_file", "archive", "lost", "the exchange's file is damaged")
    yield Reason("out_of_reach", "archive", "lost", "the exchange no longer answers for days so old")
    yield Reason("not_served", "archive", "lost", "the exchange did not answer for it")
    yield Reason("verify", "archive", "lost", "cmd-cli verify found it missing, and no gap told of it")


REASONS: Final[Mapping[str, Reason]] = {r.name: r for r in _reasons()}
"""Every reason that this version writes. A store of another version may hold others: they count like any."""

_UNCHECKED: Final = frozenset({"gaps", "feed_status", "instruments"})
"""Tables that no gap concerns: what they hold is about the data, or as of a moment."""


_FIRST: Final = ("gaps", "book_snapshots")


def in_safe_order(tables: Iterable[str]) -> list[str]:
    """The tables in an order in which rows of one moment can be stored one table after the other.

    A writer may die between two of them. Gaps come first, or rows behind a hole would be stored and nothing would ever
    tell of it; then snapshots of books, without which their updates are of no use.
    """
    found = list(tables)
    return [name for name in _FIRST if name in found] + [name for name in found if name not in _FIRST]


def is_checked(table: str) -> bool:
    """Whether rows of a table can be incomplete; raises UnknownNameError for a name that is no table."""
    return table_of(table).name not in _UNCHECKED


def check_incomplete(word: str, *, mark: bool = True) -> None:
    """Raise UsageError unless ``word`` is one of ``INCOMPLETE``; ``mark`` False: where nothing can be marked."""
    if word not in INCOMPLETE:
        raise UsageError(f"unknown word {word!r} for incomplete rows", hint=f"it is {', '.join(INCOMPLETE)}")
    if word == "mark" and not mark:
        raise UsageError("records cannot be marked as incomplete", hint="read batches with incomplete='mark'")


class Interval(Struct, frozen=True, order=True):
    """A stretch of time in ns, its ends not inside it."""

    start: int
    end: int

    def holds(self, low: int, high: int) -> bool:
        """Whether a row that spans from ``low`` to ``high`` is inside."""
        return low < self.end and high > self.start


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Put intervals that overlap together, sorted; those that only touch stay two, as a row lies between them.

    An interval of no length inside or at the end of another goes with it. O(n log n).
    """
    out: list[Interval] = []
    for one in sorted(intervals):
        if out and (one.start < out[-1].end or one == out[-1] or (one.start == one.end == out[-1].end)):
            if one.end > out[-1].end:
                out[-1] = Interval(out[-1].start, one.end)
        elif out and out[-1].start == out[-1].end == one.start:
            out[-1] = one  # an instant at the beginning of what follows
        else:
            out.append(one)
    return out


class GapIndex:
    """Which intervals of each stream are incomplete: the open gaps of a ledger, merged.

    A later gap of the same key replaces the earlier one, as in a store, so that a repair closes it. Questions cost
    O(log n), the first of each stream O(n log n).
    """

    def __init__(self, gaps: Iterable[Gap] = ()) -> None:
        self._gaps: dict[tuple[str, str, str, int, int], Gap] = {}
        self._merged: dict[tuple[str, str, str], tuple[list[Interval], list[int], list[int]]] = {}
        self._by_stream: dict[tuple[str, str, str], list[Interval]] | None = None
        self.add(gaps)

    @classmethod
    def load(cls, reader: IReader, *, venue: str | None = None, symbols: Sequence[str] | None = None) -> GapIndex:
        """Read the ledger of a store; raises StoreError."""
        found = None if symbols is None else [*symbols, ""]
        return cls(cast("Iterable[Gap]", reader.records("gaps", venue=venue, symbols=found)))

    def add(self, gaps: Iterable[Gap]) -> None:
        """Add rows of the ledger."""
        for gap in gaps:
            self._gaps[gap.venue, gap.symbol, gap.record_type, gap.ts_from, gap.ts_to] = gap
        self._merged.clear()
        self._by_stream = None

    def __len__(self) -> int:
        """How many gaps are open."""
        return sum(not g.repaired_by for g in self._gaps.values())

    @property
    def gaps(self) -> list[Gap]:
        """The open gaps, by time."""
        return sorted((g for g in self._gaps.values() if not g.repaired_by), key=lambda g: (g.ts_from, g.ts_to))

    def _streams(self) -> dict[tuple[str, str, str], list[Interval]]:
        if self._by_stream is None:
            found: dict[tuple[str, str, str], list[Interval]] = {}
            for gap in self._gaps.values():
                if not gap.repaired_by:
                    key = (gap.venue, gap.symbol, gap.record_type)
                    low, high = min(gap.ts_from, gap.ts_to), max(gap.ts_from, gap.ts_to)
                    found.setdefault(key, []).append(Interval(low, high))
            self._by_stream = found
        return self._by_stream

    def _of(self, venue: str, symbol: str, table: str) -> tuple[list[Interval], list[int], list[int]]:
        key = (venue, symbol, table)
        found = self._merged.get(key)
        if found is None:
            streams = self._streams()
            keys = {(venue, s, t) for s in (symbol, "") for t in (table, "")}
            intervals = merge(i for k in keys for i in streams.get(k, ()))
            found = self._merged[key] = (intervals, [i.start for i in intervals], [i.end for i in intervals])
        return found

    def open(self, venue: str, symbol: str, table: str) -> list[Interval]:
        """The incomplete intervals of a stream, merged and in order; those of all symbols or tables are among them."""
        return list(self._of(venue, symbol, table)[0])

    def inside(self, venue: str, symbol: str, table: str, low: int, high: int | None = None) -> bool:
        """Whether a row at ``low``, or from ``low`` to ``high``, is inside an open gap."""
        intervals, _, ends = self._of(venue, symbol, table)
        high = low if high is None else high
        at = bisect_right(ends, low)  # the first that ends after the row begins
        return at < len(intervals) and intervals[at].holds(low, high)

    def complete(self, venue: str, symbol: str, table: str, ts_from: int, ts_to: int) -> bool:
        """Whether nothing is known to be missing in ``[ts_from, ts_to)``.

        What a gap misses may have the time of the row before or behind it, so both of its ends count here.
        """
        if ts_from >= ts_to:
            return True
        intervals, _, ends = self._of(venue, symbol, table)
        at = bisect_left(ends, ts_from)
        return at == len(intervals) or intervals[at].start >= ts_to

    def streams(self, table: str) -> dict[tuple[str, str], list[Interval]]:
        """The merged intervals of a table by venue and symbol, those of all tables among them.

        The symbol is empty for gaps of all symbols, which are not among those of a symbol here.
        """
        found: dict[tuple[str, str], list[Interval]] = {}
        for (venue, symbol, of), intervals in self._streams().items():
            if of in (table, ""):
                found.setdefault((venue, symbol), []).extend(intervals)
        return {key: merge(intervals) for key, intervals in found.items()}

    def count(self, tables: Iterable[str]) -> int:
        """How many merged intervals are open for tables, each stream for itself."""
        return sum(len(found) for table in dict.fromkeys(tables) for found in self.streams(table).values())


def span_columns(table: Table) -> tuple[str, str]:
    """The columns with a row's first and last moment."""
    return ("open_time", "close_time") if table.name == "candles" else (table.time, table.time)


def stream_columns(table: Table) -> tuple[str, str]:
    """The columns with venue and symbol; a table of several venues has no venue."""
    return ("venue" if "venue" in table.names else "", "symbol" if "symbol" in table.names else "instrument")


def keep_complete(index: GapIndex, table: str, records: Iterable[Record]) -> Iterator[Record]:
    """The records of one table that are not inside an open gap."""
    schema = table_of(table)
    if not is_checked(table) or not len(index):
        yield from records
        return
    first, last = span_columns(schema)
    by, name = stream_columns(schema)
    for record in records:
        venue = getattr(record, by) if by else ""
        if not index.inside(venue, getattr(record, name), table, getattr(record, first), getattr(record, last)):
            yield record


def sift_batches(
    index: GapIndex,
    table: str,
    batches: Iterable[Any],
    columns: Sequence[str],
    incomplete: Incomplete,
    mask: Callable[[list[bool]], Any],
) -> Iterator[Any]:
    """Drop or mark the rows of Arrow batches that are inside an open gap.

    The batches hold ``columns`` and those of ``needed(table)``; ``mark`` adds the column ``complete`` (bool) at the end.
    ``mask`` makes an Arrow array of truth values.
    """
    schema = table_of(table)
    checked = is_checked(table) and len(index) > 0
    for batch in batches:
        whole = _whole(index, schema, batch) if checked else [True] * batch.num_rows
        kept = batch.select(list(columns))
        if incomplete == "mark":
            yield kept.append_column("complete", mask(whole))
        elif all(whole):
            yield kept
        elif any(whole):
            yield kept.filter(mask(whole))


def needed(table: str) -> tuple[str, ...]:
    """The columns that tell whether a row is inside a gap."""
    schema = table_of(table)
    by, name = stream_columns(schema)
    return tuple(dict.fromkeys(c for c in (by, name, *span_columns(schema)) if c))


def _whole(index: GapIndex, table: Table, batch: Any) -> list[bool]:
    first, last = span_columns(table)
    by, name = stream_columns(table)
    symbols = batch.column(name).to_pylist()
    venues = batch.column(by).to_pylist() if by else [""] * len(symbols)
    lows = batch.column(first).to_pylist()
    highs = lows if first == last else batch.column(last).to_pylist()
    inside = index.inside
    return [
        not inside(v or "", s or "", table.name, low, high)
        for v, s, low, high in zip(venues, symbols, lows, highs, strict=True)
    ]


def inside_sql(table: str, row: str, gap: str) -> str:
    """The SQL condition that holds where row alias ``row`` of a table is inside the gap of alias ``gap``, if it is open."""
    schema = table_of(table)
    first, last = span_columns(schema)
    by, name = stream_columns(schema)
    venue = f"{row}.{by}" if by else "''"
    return (
        f"{gap}.venue = {venue} AND ({gap}.symbol = {row}.{name} OR {gap}.symbol = '') "
        f"AND ({gap}.record_type = '{table}' OR {gap}.record_type = '') AND {gap}.repaired_by = '' "
        f"AND {row}.{first} < {gap}.ts_to AND {row}.{last} > {gap}.ts_from"
    )
