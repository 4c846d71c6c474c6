"""Books merged over the venues of a session: which instruments belong together, and the rows that are recorded.

``plan`` decides before anything is subscribed; ``Aggregates`` follows the session's books. A row of table
``aggregated_books`` is made at the first update of a bucket of exchange time, and whenever a venue enters or
leaves the book or changes its reason. Its ``ts_event`` is the newest exchange time among the books that are in
it, so that no row knows more than its time says; with venues whose clocks differ that is the time of the one
that is ahead. Updates that were received together are merged together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from cmd_common import get_symbols
from cmd_common.aggregate import AggregatedOrderBook
from cmd_common.equivalence import Equivalents, Match, Target, match_instruments, matches, quote_pairs
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.following import BookFollower
from cmd_common.records import AggregatedBook, BookDelta, BookSnapshot, FeedStatus, Record, full_name
from cmd_common.symbols import expand_selectors

if TYPE_CHECKING:
    from cmd_common.commands import AggregateOptions
    from cmd_common.instruments import Instrument
    from cmd_common.multibook import MultiSymbolOrderBook

__all__ = ["AggregateInfo", "Aggregates", "Plan", "plan"]

Lists = Mapping[str, Sequence["Instrument"]]


class Plan:
    """The instruments to merge and the symbols to subscribe for them."""

    def __init__(self, options: AggregateOptions, listed: Lists) -> None:
        self.options = options
        self.equivalents = Equivalents(options.equivalents)
        self.convert = tuple(self.equivalents.of(asset) for asset in options.convert)
        self.targets: dict[Target, Target] = {}  # in the terms of the equivalents -> as it was asked for first
        self.scopes: dict[Target, set[str]] = {}  # the venues that were asked for
        self.selectors: dict[str, None] = {}  # for get_symbols
        self.spot = {v for v, found in listed.items() if any(i.kind == "spot" and _trades(i) for i in found)}

    def add(self, target: Target, venues: Iterable[str], listed: Lists) -> None:
        """Plan one instrument on some venues; raises UnknownNameError when none of them has it."""
        scope = {venue: listed[venue] for venue in venues}
        found = match_instruments(target, scope, self.equivalents, self.convert)
        self.selectors.update(dict.fromkeys(m.instrument.name for m in found))
        every = [i for instruments in listed.values() for i in instruments]
        for asset in dict.fromkeys(m.convert_from for m in found if m.convert_from):
            pairs = quote_pairs(asset, target.quote, every, self.equivalents)
            if not pairs:
                raise UsageError(
                    f"no selected exchange has a pair that converts {asset} into {target.quote}",
                    hint=f"add an exchange that trades {asset}-{target.quote}",
                )
            self.selectors.update(dict.fromkeys(i.name for i, _ in pairs))
        common = Target(self.equivalents.of(target.base), self.equivalents.of(target.quote), target.suffix)
        self.targets.setdefault(common, target)
        self.scopes.setdefault(common, set()).update(scope)

    def match(self, common: Target) -> Callable[[Instrument], Match | None]:
        """Decide for one target which instruments belong to it."""

        def belongs(instrument: Instrument) -> Match | None:
            if instrument.venue not in self.scopes[common]:
                return None
            spot = instrument.venue in self.spot
            return matches(self.targets[common], instrument, self.equivalents, self.convert, spot=spot)

        return belongs


def plan(selectors: Sequence[str], listed: Lists, options: AggregateOptions) -> Plan:
    """Decide what is merged: every instrument that the selectors name, with its equivalents on all venues.

    A selector of one venue (``kraken:BTC-USD``) brings in that venue only. Raises UsageError.
    """
    found = Plan(options, listed)
    for venue, selector in expand_selectors(selectors, venues=list(listed)):
        scope = list(listed) if venue is None else [venue]
        target = _target(selector)
        missing: UnknownNameError | None = None
        if target is not None:
            try:
                found.add(target, scope, listed)
                continue
            except UnknownNameError as error:  # an exchange's own name may look like a unified one: BTC-USDT-SWAP
                missing = error
        try:
            chosen = get_symbols(selector, {name: listed[name] for name in scope})
        except UnknownNameError as error:
            raise missing or error from None
        for name, symbols in chosen.items():
            wanted = set(symbols)
            for instrument in listed[name]:
                if instrument.symbol in wanted:
                    found.add(Target.parse(instrument.unified), scope, listed)
    return found


def _target(selector: str) -> Target | None:
    """A unified name; None for what only an exchange's list can resolve."""
    if any(c in selector for c in "*?[") or "-" not in selector.replace("/", "-"):
        return None
    try:
        return Target.parse(selector)
    except UsageError:
        return None


def _trades(instrument: Instrument) -> bool:
    return instrument.status in ("trading", "unknown")


class AggregateInfo(Struct, frozen=True):
    """One merged book as it is now; best levels are (price, quantity, names of the books)."""

    venues: tuple[str, ...]
    excluded: dict[str, str]
    best_bid: tuple[float, float, tuple[str, ...]] | None
    best_ask: tuple[float, float, tuple[str, ...]] | None
    crossed: bool


class _Rows:
    """When the rows of one instrument are due."""

    __slots__ = ("_again", "_bucket", "_changes", "_depth", "_every", "_newest", "_ts", "follower")

    def __init__(self, follower: BookFollower, options: AggregateOptions) -> None:
        self.follower = follower
        self._every = options.every
        self._depth = options.depth
        self._bucket: int | None = None  # of the last row; None: no row yet
        self._changes = -1
        self._ts = 0
        self._newest = 0  # time of all rows so far
        self._again = 0  # rows that were not newer than all before them

    def row(self, ts_event: int, ts_recv: int) -> AggregatedBook | None:
        """The row that is due after an update of ``ts_event``, if one is."""
        book = self.follower.book
        if book.changes == self._changes and self._bucket is not None and ts_event // self._every <= self._bucket:
            return None
        names = book.names
        if not names and (self._bucket is None or book.changes == self._changes):
            return None  # nothing to say yet, or nothing new
        ts = book.ts_event if names else self._ts
        if not ts or (book.changes == self._changes and ts // self._every == self._bucket):
            return None  # a snapshot without a time of its own waits for the first delta
        seq = 0
        if ts <= self._newest:  # its key may be taken: the time stands still, or went back with the venue that led
            seq = self._again = self._again + 1
        self._newest = max(self._newest, ts)
        self._bucket, self._changes, self._ts = ts // self._every, book.changes, ts
        return book.to_record(ts, ts_recv, seq, self._depth)


class Aggregates:
    """The merged books of a session, by unified name."""

    def __init__(
        self,
        found: Plan,
        books: MultiSymbolOrderBook,
        instrument: Callable[[str, str], Instrument | None],
    ) -> None:
        options = found.options
        self._books = books
        self._rows: list[_Rows] = []
        for common, target in found.targets.items():
            follower = BookFollower(
                books,
                instrument,
                target.name,
                equivalents=options.equivalents,
                convert=options.convert,
                match=found.match(common),
                max_age=options.max_age,
                fees=options.fees,
            )
            self._rows.append(_Rows(follower, options))
        self._of: dict[str, list[_Rows]] = {}
        self._version = -1

    @property
    def books(self) -> dict[str, AggregatedOrderBook]:
        """The merged books by unified name, as it was asked for."""
        return {rows.follower.target.name: rows.follower.book for rows in self._rows}

    def take(self, records: Iterable[Record]) -> list[Record]:
        """Take records whose books contain them already; returns the rows that became due. O(records)."""
        if self._version != self._books.version:
            self._version = self._books.version
            self._of = {}
            for rows in self._rows:
                for name in rows.follower.watched:
                    self._of.setdefault(name, []).append(rows)
        out: list[AggregatedBook | None] = []
        for record in records:
            if isinstance(record, BookDelta | BookSnapshot):
                name = full_name(record.venue, record.symbol)
                for rows in self._of.get(name, ()):
                    rows.follower.update(name, record.ts_recv)
                    out.append(rows.row(record.ts_event, record.ts_recv))
            elif isinstance(record, FeedStatus) and record.symbol:
                found = self._of.get(full_name(record.venue, record.symbol), ())
                out += [rows.row(0, record.ts_recv) for rows in found if rows.follower.apply((record,))]
        return [row for row in out if row is not None]

    def tick(self, now: int) -> list[Record]:
        """Say that it is ``now``: books that got too old leave; returns the rows that became due."""
        for rows in self._rows:
            rows.follower.refresh(now)
        return [row for rows in self._rows if (row := rows.row(0, now)) is not None]

    def states(self) -> dict[str, AggregateInfo]:
        """Every merged book as it is now."""
        found = {}
        for name, book in self.books.items():
            bid, ask = book.best_bid, book.best_ask
            found[name] = AggregateInfo(
                venues=tuple(book.names),
                excluded=book.excluded,
                best_bid=(bid.price, bid.quantity, bid.names) if bid else None,
                best_ask=(ask.price, ask.quantity, ask.names) if ask else None,
                crossed=book.crossing is not None,
            )
        return found
