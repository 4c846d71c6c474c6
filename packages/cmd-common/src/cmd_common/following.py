"""Keeps an aggregated book in step with the books of a ``MultiSymbolOrderBook``, over any venues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from .aggregate import DEFAULT_MAX_AGE, AggregatedOrderBook
from .equivalence import Equivalents, Match, Target, matches, quote_pairs
from .instruments import Instrument
from .multibook import MultiSymbolOrderBook
from .orderbook import OrderBook
from .records import BookDelta, BookSnapshot, FeedStatus, Record, full_name
from .sequence import BookState

__all__ = ["BookFollower"]

_LIVE: Final = BookState.LIVE


class BookFollower:
    """Builds the aggregate of one instrument from the books that belong to it, and follows them.

    ``instrument`` returns the reference data of a venue's symbol, None where it is unknown (the book is then not
    used). ``target`` is a unified name (a bare pair means the perpetual of a venue without spot books here);
    ``equivalents`` are groups such as ``USD=USDT=USDC``; ``convert`` are quote
    assets whose books are converted by the books of a cross pair, which must be among ``books`` as well (a book of
    BTC-EUR needs EUR-USD or USD-EUR; the first LIVE and fresh one is used). ``match`` decides instead of the usual
    rule (``cmd_common.equivalence.matches``) which instruments belong to the target.

    Give every message's name to ``update``, or all records to ``apply``. Books that were added to or removed from
    ``books`` are seen at the next of these calls. Raises UsageError for a target that is none.
    """

    __slots__ = (
        "_aggregate",
        "_assets",
        "_books",
        "_convert",
        "_crosses",
        "_equivalents",
        "_instrument",
        "_match",
        "_members",
        "_version",
        "target",
    )

    def __init__(
        self,
        books: MultiSymbolOrderBook,
        instrument: Callable[[str, str], Instrument | None],
        target: str,
        *,
        equivalents: Iterable[str] = (),
        convert: Sequence[str] = (),
        match: Callable[[Instrument], Match | None] | None = None,
        max_age: int | None = DEFAULT_MAX_AGE,
        rate_age: int | None = None,
        fees: Mapping[str, float] | None = None,
    ) -> None:
        self.target = Target.parse(target)
        self._books = books
        self._instrument = instrument
        self._equivalents = Equivalents(equivalents)
        self._convert = tuple(self._equivalents.of(asset) for asset in convert)
        self._match = match
        self._aggregate = AggregatedOrderBook(self.target.name, max_age=max_age, rate_age=rate_age, fees=fees)
        self._members: dict[str, OrderBook] = {}
        self._crosses: dict[str, _Cross] = {}  # by the cross book's name
        self._assets: dict[str, list[_Cross]] = {}
        self._version = -1
        self.sync()

    @property
    def book(self) -> AggregatedOrderBook:
        """The aggregate."""
        return self._aggregate

    @property
    def watched(self) -> list[str]:
        """The books whose updates matter: those of the aggregate and those that convert."""
        self.sync()
        return list(dict.fromkeys((*self._members, *self._crosses)))

    def sync(self) -> None:
        """Take in books that were added, let go those that were removed. O(books), only where there was a change."""
        if self._version == self._books.version:
            return
        self._version = self._books.version
        known: dict[str, tuple[OrderBook, Instrument]] = {}
        for name, book in self._books.items():
            if (instrument := self._instrument(book.venue, book.symbol)) is not None:
                known[name] = book, instrument
        spot = {i.venue for _, i in known.values() if i.kind == "spot"}
        wanted: dict[str, tuple[OrderBook, Instrument, str]] = {}
        for name, (book, instrument) in known.items():
            if self._match is not None:
                match = self._match(instrument)
            else:
                match = matches(
                    self.target, instrument, self._equivalents, self._convert, spot=instrument.venue in spot
                )
            if match is not None:
                wanted[name] = book, instrument, match.convert_from
        for name, held in list(self._members.items()):
            if name not in wanted or wanted[name][0] is not held:
                self._aggregate.remove(name)
                del self._members[name]
        for name, (book, instrument, asset) in wanted.items():
            if name not in self._members:
                self._aggregate.add(book, instrument, convert_from=asset)
                self._members[name] = book
        self._sync_crosses(known, {asset for _, _, asset in wanted.values() if asset})

    def _sync_crosses(self, known: Mapping[str, tuple[OrderBook, Instrument]], assets: Iterable[str]) -> None:
        before = self._crosses
        self._crosses, self._assets = {}, {}
        for asset in sorted(assets):
            pairs = quote_pairs(asset, self.target.quote, (i for _, i in known.values()), self._equivalents)
            for instrument, inverted in pairs:
                name = instrument.name
                cross = before.get(name)
                if cross is None or cross.book is not known[name][0]:
                    cross = _Cross(asset, known[name][0], inverted)
                self._crosses[name] = cross
                self._assets.setdefault(asset, []).append(cross)

    def update(self, name: str, now: int) -> bool:
        """Say that the book ``name`` was changed by a message received at ``now``; False: it does not belong here.

        Like ``AggregatedOrderBook.update``; a change of the touch of a cross book costs O(venues).
        """
        if self._version != self._books.version:
            self.sync()
        if name in self._members:
            self._aggregate.update(name, now)
            return True
        if name in self._crosses:
            cross = self._crosses[name]
            cross.seen = now
            self._choose(cross.asset, now)
            return True
        return False

    def refresh(self, now: int) -> None:
        """Say that it is ``now``: what got too old leaves. O(venues)."""
        self.sync()
        for asset in self._assets:
            self._choose(asset, now)
        self._aggregate.refresh(now)

    def apply(self, records: Iterable[Record]) -> bool:
        """Take the records of a live source, whose books contain them already; True if any belongs here."""
        mine = False
        for record in records:
            if isinstance(record, BookDelta | BookSnapshot) or (
                isinstance(record, FeedStatus) and record.record_type == "book" and record.symbol
            ):
                name = full_name(record.venue, record.symbol)
                if isinstance(record, FeedStatus) and record.state != "LIVE":
                    if name in self._members or name in self._crosses:
                        self.refresh(record.ts_recv)  # its state, not its age: nothing was updated
                        mine = True
                else:
                    mine = self.update(name, record.ts_recv) or mine
        return mine

    def _choose(self, asset: str, now: int) -> None:
        """Convert by the first cross book that can be trusted."""
        limit = self._aggregate.rate_age
        reason = "none"
        for cross in self._assets[asset]:
            price = cross.price()
            if cross.book.state is not _LIVE:
                reason = cross.book.state.value.lower()
            elif price is None:
                reason = "one side is empty"
            elif cross.seen is None or (limit is not None and now - cross.seen > limit):
                reason = "old"
            else:
                self._aggregate.set_rate(asset, *price, now, seen=cross.seen)
                return
        self._aggregate.drop_rate(asset, reason, now)

    def check(self) -> None:
        """Assert every invariant, of the aggregate too; for tests."""
        self.sync()
        assert list(self._members) == list(self._aggregate)
        for name, book in self._members.items():
            assert self._books[name] is book
        self._aggregate.check()


class _Cross:
    """A book whose touch converts one asset into the quote asset of the aggregate."""

    __slots__ = ("asset", "book", "inverted", "seen")

    def __init__(self, asset: str, book: OrderBook, inverted: bool) -> None:
        self.asset = asset
        self.book = book
        self.inverted = inverted
        self.seen: int | None = None

    def price(self) -> tuple[float, float] | None:
        """What one unit is sold and bought for; None where a side is empty."""
        bid, ask = self.book.best_bid, self.book.best_ask
        if bid is None or ask is None:
            return None
        return (1.0 / ask[0], 1.0 / bid[0]) if self.inverted else (bid[0], ask[0])
