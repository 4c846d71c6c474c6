"""One order book over the books of several venues: who offers how much at each price, and whom to trust.

Theory of operation. The levels are kept once, in the venues' own ``OrderBook`` objects; the aggregate
holds no copy of them that could differ. It keeps one entry a venue (is it in the book, since when was
nothing heard, its best prices) and the best of these best prices. An update therefore costs the
aggregate O(1), whatever the number of changed levels: it looks at the touch of the one book that
changed, and only where a venue leaves the best price it compares the touches of all venues. The top
``n`` levels are merged when somebody reads them, from the sorted lists near the touch that every
``OrderBook`` has anyway: O(venues * n). A venue that leaves or comes back, a snapshot, pruning, a new
rate of exchange: none of them touches a level.

A venue is in the book while its own book is LIVE, was updated within ``max_age`` of our receive clock
(the clocks of exchanges differ, so event times are not compared), and can be converted. Otherwise it
is listed in ``excluded`` with the reason; it comes back by itself when the reason is gone. Reading
compares state and touch of every book first: it shows the books as they are, even in the moment between
a change and its ``update``. Age is judged at the last time given to ``update`` or ``refresh``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Final, Literal

from ._aggregate_parts import (
    AggregatedLevel,
    Crossing,
    Fill,
    Member,
    Part,
    Rate,
    VenueStatus,
    merge_parts,
    pack,
    scaled,
)
from .errors import UnknownNameError, UsageError
from .instruments import Instrument
from .orderbook import OrderBook
from .records import CROSSED, SNAPSHOT, AggregatedBook, full_name
from .sequence import BookState
from .symbols import nearest

__all__ = [
    "DEFAULT_MAX_AGE",
    "AggregatedLevel",
    "AggregatedOrderBook",
    "Crossing",
    "Fill",
    "Part",
    "VenueStatus",
]

DEFAULT_MAX_AGE: Final = 10_000_000_000  # ns
_LIVE: Final = BookState.LIVE
_REASON: Final = {state: state.value.lower() for state in BookState}
_FIRST_LOOK: Final = 16  # levels that a fill reads at first; then four times as many


class AggregatedOrderBook:
    """The merged book of one instrument; quantities are in the base asset, prices in one quote asset.

    ``name`` is the unified name (``BTC-USDT``). ``max_age``: ns after which a book that was not updated is left
    out, None for no limit; ``rate_age`` the same of the prices that convert (default: as ``max_age``). ``fees``:
    taker fees in basis points by venue or by venue:symbol; bids are then merged at ``price * (1 - fee)``, asks at
    ``price * (1 + fee)``, and ``Part.price`` keeps the price that the venue shows. Times are ns of our receive clock.
    """

    __slots__ = (
        "_ask",
        "_bid",
        "_crossed",
        "_expiry",
        "_in",
        "_members",
        "_now",
        "_rates",
        "_since",
        "changes",
        "fees",
        "max_age",
        "name",
        "rate_age",
    )

    def __init__(
        self,
        name: str = "",
        *,
        max_age: int | None = DEFAULT_MAX_AGE,
        rate_age: int | None = None,
        fees: Mapping[str, float] | None = None,
    ) -> None:
        for what, value in (("max_age", max_age), ("rate_age", rate_age)):
            if value is not None and value <= 0:
                raise UsageError(f"{what} must be positive, not {value}")
        self.fees = dict(fees or {})
        for venue, bps in self.fees.items():
            if not -10_000 < bps < 10_000:
                raise UsageError(f"the fee of {venue} is {bps} basis points, which is no fee")
        self.name = name
        self.max_age = max_age
        self.rate_age = max_age if rate_age is None else rate_age
        self.changes = 0  # counts every venue that came, left or changed its reason
        self._members: dict[str, Member] = {}
        self._in: list[Member] = []  # in the order of adding
        self._rates: dict[str, Rate] = {}
        self._now = 0
        self._expiry: float = inf  # no book and no rate gets too old before this
        self._bid = -inf
        self._ask = inf
        self._crossed = False
        self._since = 0

    # -- the books ----------------------------------------------------------------------------

    def add(
        self, book: OrderBook, instrument: Instrument | None = None, *, convert_from: str = "", now: int | None = None
    ) -> str:
        """Take a book in and return its name, ``venue:symbol``; raises UsageError if it is there already.

        ``instrument`` tells the contract size. ``convert_from`` is the quote asset of its prices where they must be
        converted: ``set_rate`` gives the price. ``now``: the book counts as updated then; else it waits for ``update``.
        """
        name = full_name(book.venue, book.symbol)
        if name in self._members:
            raise UsageError(f"{name} is in the aggregated book {self.name} already")
        bps = self.fees.get(name, self.fees.get(book.venue, 0.0))
        member = Member(name, book, instrument, bps / 10_000, convert_from)
        self._members[name] = member
        if now is not None:
            self._now = member.seen = now
        self._judge_all()
        return name

    def remove(self, name: str) -> OrderBook:
        """Let a book go and return it; raises UnknownNameError."""
        member = self._member(name)
        del self._members[name]
        self.changes += 1
        self._judge_all()
        return member.book

    def _member(self, name: str) -> Member:
        try:
            return self._members[name]
        except KeyError:
            raise UnknownNameError("book of the aggregate", name, nearest(name, self._members)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        """The number of books, excluded ones too."""
        return len(self._members)

    def __bool__(self) -> bool:
        return True

    # -- changing -----------------------------------------------------------------------------

    def update(self, name: str, now: int) -> None:
        """Say that a book was changed by a message received at ``now``: deltas, snapshot or state.

        O(1); O(venues) when this venue leaves the best price, and when the age of the others must be looked at.
        Raises UnknownNameError.
        """
        member = self._members.get(name) or self._member(name)
        if not self._now <= now <= self._expiry:  # something may be too old, or the clock was set back
            member.seen = self._now = now
            self._judge_all()
            return
        member.seen = self._now = now
        book = member.book
        if member.reason or book.state is not _LIVE:
            if self._judge(member):
                self._judge_all()
            return
        bid = book.best_bid_price * member.bid_factor
        old = member.bid
        if bid != old:
            member.bid = bid
            if bid >= self._bid:
                self._bid = bid
            elif old == self._bid:
                self._bid = max([m.bid for m in self._in])
        ask = book.best_ask_price * member.ask_factor
        old = member.ask
        if ask != old:
            member.ask = ask
            if ask <= self._ask:
                self._ask = ask
            elif old == self._ask:
                self._ask = min([m.ask for m in self._in])
        if (self._bid >= self._ask) is not self._crossed:
            self._cross()

    def refresh(self, now: int) -> None:
        """Say that it is ``now``: books that got too old leave. O(venues)."""
        self._now = now
        self._judge_all()

    def set_rate(self, asset: str, bid: float, ask: float, now: int, *, seen: int | None = None) -> None:
        """Set the price of one unit of ``asset`` in the quote asset of the aggregate, as of our clock ``now``.

        Bids are converted at ``bid`` (what the proceeds are sold for), asks at ``ask``. ``seen`` is when it was heard
        of, where that was before ``now``. Raises UsageError for prices that are not positive and finite. O(1) for the
        price that was set before, else O(venues).
        """
        if not (0 < bid < inf and 0 < ask < inf):
            raise UsageError(f"a rate of {asset} of {bid!r} to {ask!r} cannot exist")
        rate = self._rates.setdefault(asset, Rate())
        same = (rate.bid, rate.ask, rate.reason) == (bid, ask, "")
        rate.bid, rate.ask, rate.reason = bid, ask, ""
        rate.seen = now if seen is None else seen
        self._now = now
        if self.rate_age is not None:
            self._expiry = min(self._expiry, rate.seen + self.rate_age)
        if not same or now > self._expiry:
            self._judge_all()

    def drop_rate(self, asset: str, reason: str, now: int) -> None:
        """Say that there is no price of ``asset`` to trust: books that need it leave, with this reason."""
        self._rates.setdefault(asset, Rate()).reason = reason or "none"
        self._now = now
        self._judge_all()

    # -- trust --------------------------------------------------------------------------------

    def _why(self, member: Member) -> str:
        """Why a book must be left out now; empty: it is in."""
        if member.book.state is not _LIVE:
            return _REASON[member.book.state]
        if self.max_age is not None:
            if member.seen is None:
                return "no update"
            if self._now - member.seen > self.max_age:
                return "old"
        if member.asset:
            rate = self._rates.get(member.asset)
            if rate is None or rate.reason:
                return f"rate of {member.asset}: {rate.reason if rate is not None else 'none'}"
            if self.rate_age is not None and self._now - rate.seen > self.rate_age:
                return f"rate of {member.asset}: old"
        return ""

    def _judge(self, member: Member) -> bool:
        """Judge one book; True if something about it changed."""
        reason = self._why(member)
        if reason == member.reason:
            return False
        member.reason = reason
        self.changes += 1
        return True

    def _judge_all(self) -> None:
        """Judge every book, and find touch, crossing and the next time that something gets too old. O(venues)."""
        expiry: float = inf
        inside = []
        for member in self._members.values():
            self._judge(member)
            if member.reason:
                member.bid, member.ask = -inf, inf
                continue
            inside.append(member)
            if self.max_age is not None and member.seen is not None:
                expiry = min(expiry, member.seen + self.max_age)
            if member.asset:
                rate = self._rates[member.asset]
                member.bid_factor = rate.bid * (1.0 - member.fee)
                member.ask_factor = rate.ask * (1.0 + member.fee)
                if self.rate_age is not None:
                    expiry = min(expiry, rate.seen + self.rate_age)
            member.bid = member.book.best_bid_price * member.bid_factor
            member.ask = member.book.best_ask_price * member.ask_factor
        self._in = inside
        self._expiry = expiry
        self._bid = max([m.bid for m in inside], default=-inf)
        self._ask = min([m.ask for m in inside], default=inf)
        if (self._bid >= self._ask) is not self._crossed:
            self._cross()

    def _cross(self) -> None:
        self._crossed = not self._crossed
        self._since = self._now

    def _look(self) -> None:
        """Before reading: what became of the books since their last update must not wait for the next one."""
        for member in self._members.values():
            book = member.book
            if book.state is not _LIVE:
                if member.reason != _REASON[book.state]:
                    self._judge_all()
                    return
            elif member.reason:
                if self._judge(member):
                    self._judge_all()
                    return
            else:
                if (
                    book.best_bid_price * member.bid_factor != member.bid
                    or book.best_ask_price * member.ask_factor != member.ask
                ):
                    self._judge_all()
                    return

    # -- reading ------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The last time given, ns; ages are judged at it."""
        return self._now

    @property
    def names(self) -> list[str]:
        """The books that are in, in the order of adding. O(venues)."""
        self._look()
        return [m.name for m in self._in]

    @property
    def excluded(self) -> dict[str, str]:
        """The books that are left out, and why. O(venues)."""
        self._look()
        return {m.name: m.reason for m in self._members.values() if m.reason}

    @property
    def best_prices(self) -> tuple[float | None, float | None]:
        """The best bid and the best ask as merged; None on an empty side. O(venues), without reading a level."""
        self._look()
        return self._bid if self._bid > -inf else None, self._ask if self._ask < inf else None

    @property
    def best_bid(self) -> AggregatedLevel | None:
        """The highest bid and who has it; None on an empty side. O(venues)."""
        return next(iter(self.bids(1)), None)

    @property
    def best_ask(self) -> AggregatedLevel | None:
        """The lowest ask and who has it; None on an empty side. O(venues)."""
        return next(iter(self.asks(1)), None)

    @property
    def spread(self) -> float | None:
        """Best ask less best bid, None where a side is empty; not positive in a crossed book."""
        bid, ask = self.best_prices
        return None if bid is None or ask is None else ask - bid

    @property
    def crossing(self) -> Crossing | None:
        """The two venues and the age of a crossed or locked book, None if it is neither. O(venues)."""
        self._look()
        if not self._crossed:
            return None
        bidder = next(m for m in self._in if m.bid == self._bid)
        asker = next(m for m in self._in if m.ask == self._ask)
        age = max(0, self._now - self._since)
        return Crossing(self._bid == self._ask, self._since, age, self._bid, self._ask, bidder.name, asker.name)

    @property
    def known_range(self) -> tuple[float, float]:
        """From which bid price up and to which ask price down the books that are in are all known to be complete."""
        self._look()
        floor = max((m.book.known_range[0] * m.bid_factor for m in self._in), default=-inf)
        return floor, min((m.book.known_range[1] * m.ask_factor for m in self._in), default=inf)

    @property
    def ts_event(self) -> int:
        """The newest exchange time among the books that are in, 0 where there is none. O(venues)."""
        self._look()
        return max((m.book.ts_event for m in self._in), default=0)

    def status(self) -> list[VenueStatus]:
        """Every book with the reason why it is left out, its age and its best prices. O(venues)."""
        self._look()
        return [
            VenueStatus(
                m.name,
                m.reason,
                None if m.seen is None else max(0, self._now - m.seen),
                m.bid if m.bid > -inf else None,
                m.ask if m.ask < inf else None,
            )
            for m in self._members.values()
        ]

    def bids(self, depth: int | None = None) -> list[AggregatedLevel]:
        """The best ``depth`` bids (None: all), highest first. O(venues * depth)."""
        return self._levels(True, depth)

    def asks(self, depth: int | None = None) -> list[AggregatedLevel]:
        """The best ``depth`` asks (None: all), lowest first. O(venues * depth)."""
        return self._levels(False, depth)

    def _levels(self, bid: bool, depth: int | None) -> list[AggregatedLevel]:
        if depth is not None and depth < 0:
            raise UsageError(f"depth must not be negative, not {depth}")
        self._look()
        found: set[float] = set()
        plain: list[tuple[str, Callable[[float], float | None]]] = []  # prices and quantities as they are
        odd: list[tuple[Member, Mapping[float, float], dict[float, list[float]]]] = []
        for m in self._in:
            factor = m.bid_factor if bid else m.ask_factor
            if factor == 1.0 and m.size is None:
                near, side = m.book.nearest(bid, depth)
                found.update(near)
                plain.append((m.name, side.get))
            else:
                own, side = scaled(m.book, bid, depth, factor)
                found.update(own)
                odd.append((m, side, own))
        prices = sorted(found, reverse=bid)[:depth]
        if not odd:
            return [
                merge_parts(price, [Part(name, price, q) for name, get in plain if (q := get(price)) is not None])
                for price in prices
            ]
        order = {name: n for n, name in enumerate(self._members)}
        levels = []
        for price in prices:
            parts = [Part(name, price, q) for name, get in plain if (q := get(price)) is not None]
            for m, side, own in odd:
                parts += [Part(m.name, raw, m.base(raw, side[raw])) for raw in own.get(price, ())]
            if len(parts) > 1:
                parts.sort(key=lambda part: order[part.name])
            levels.append(merge_parts(price, parts))
        return levels

    def fill(self, side: Literal["buy", "sell"], size: float) -> Fill:
        """What a market order of ``size`` of the base asset would take, best prices first, over all venues.

        Of venues with one price the one that was added first is used first. Raises UsageError for a size that is not
        positive and finite. O(venues * levels used).
        """
        if not 0 < size < inf:
            raise UsageError(f"the size to fill must be positive, not {size!r}")
        if side not in ("buy", "sell"):
            raise UsageError(f"unknown side {side!r}", hint="it is buy or sell")
        depth: int = _FIRST_LOOK
        while True:
            levels = self._levels(side == "sell", depth)
            if len(levels) < depth or sum(level.quantity for level in levels) >= size:
                return self._fill(side, size, levels)
            depth *= 4

    def _fill(self, side: Literal["buy", "sell"], size: float, levels: list[AggregatedLevel]) -> Fill:
        left, cost, worst = size, 0.0, None
        venues: dict[str, float] = {}
        for level in levels:
            for part in level.parts:
                taken = min(left, part.quantity)
                if taken > 0:
                    venues[part.name] = venues.get(part.name, 0.0) + taken
                    cost += taken * level.price
                    left -= taken
                    worst = level.price
            if left <= 0:
                break
        filled = size - left
        floor, ceiling = self.known_range
        known = worst is not None and (worst <= ceiling if side == "buy" else worst >= floor) and left <= 0
        return Fill(side, size, filled, left, cost / filled if filled else None, worst, venues, known)

    # -- records ------------------------------------------------------------------------------

    def to_record(self, ts_event: int, ts_recv: int, seq: int, depth: int | None) -> AggregatedBook:
        """The best ``depth`` levels as a row of table ``aggregated_books``, with each venue's part."""
        names = self.names
        index = {name: float(n) for n, name in enumerate(names)}
        crossing = self.crossing
        return AggregatedBook(
            ts_event=ts_event,
            ts_recv=ts_recv,
            instrument=self.name,
            seq=seq,
            venues=",".join(names),
            excluded=",".join(f"{name}={reason}" for name, reason in self.excluded.items()),
            bids=pack(self.bids(depth), index),
            asks=pack(self.asks(depth), index),
            crossed_for=crossing.age if crossing is not None else None,
            flags=SNAPSHOT | CROSSED if crossing is not None else SNAPSHOT,
        )

    def __repr__(self) -> str:
        return f"<AggregatedOrderBook {self.name} of {len(self._in)} of {len(self)} books {self._bid} {self._ask}>"

    def check(self) -> None:
        """Assert every invariant, and that the levels are the sum of the books; for tests. O(all levels)."""
        self._look()
        assert self._in == [m for m in self._members.values() if not m.reason]
        expiry: float = inf
        for name, m in self._members.items():
            assert name == m.name == full_name(m.book.venue, m.book.symbol)
            assert m.reason == self._why(m)
            if m.reason:
                assert (m.bid, m.ask) == (-inf, inf)
                continue
            best_bid, best_ask = m.book.best_bid, m.book.best_ask
            assert m.bid == (best_bid[0] * m.bid_factor if best_bid else -inf)
            assert m.ask == (best_ask[0] * m.ask_factor if best_ask else inf)
            if self.max_age is not None and m.seen is not None:
                expiry = min(expiry, m.seen + self.max_age)
            if m.asset and self.rate_age is not None:
                expiry = min(expiry, self._rates[m.asset].seen + self.rate_age)
        assert self._expiry <= expiry
        assert self._bid == max((m.bid for m in self._in), default=-inf)
        assert self._ask == min((m.ask for m in self._in), default=inf)
        assert self._crossed == (self._bid >= self._ask)
        for bid, levels in ((True, self.bids()), (False, self.asks())):
            prices = [level.price for level in levels]
            assert prices == sorted(set(prices), reverse=bid)
            assert (prices[0] if prices else -inf if bid else inf) == (self._bid if bid else self._ask)
            count = 0
            for level in levels:
                assert level.parts
                assert level.quantity == sum(part.quantity for part in level.parts)
                count += len(level.parts)
            assert count == sum(len(m.book.bids() if bid else m.book.asks()) for m in self._in)
