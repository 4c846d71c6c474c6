"""The order book of one instrument: in pure Python here; ``OrderBook`` is its twin in Rust where cmd-native runs.

How it works. A side is a dict from price to quantity, which holds every level, and a short sorted
list of the prices nearest to the touch, which makes the best price and the top levels cheap. The
list holds exactly the prices at or better than a *cut*; worse levels live in the dict only. Nearly
all changes happen near the touch, so an insertion bisects a list of some dozens of prices however
deep the book is; far changes cost one dict operation. The list is rebuilt from the dict when it
runs short and trimmed when it grows long, both rare.

Levels behind the last price of an incomplete snapshot are kept but not known to be all there are:
``known_depth`` counts only the levels inside the known range.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from decimal import Decimal
from heapq import nlargest, nsmallest
from math import inf, isqrt
from typing import TYPE_CHECKING, Any, Final

from . import _native
from ._book_parts import Level, Levels, check_options, checked_depth, pairs, refuse, validate
from .errors import UsageError
from .sequence import BookState

__all__ = ["Level", "Levels", "OrderBook", "PureOrderBook"]

_SHORT: Final = 24  # rebuild the sorted list below this many prices, so that a top 20 is always cheap
_BASE: Final = 48  # a rebuilt list holds this many prices plus two square roots of the side's length
_BIG_ENDIAN: Final = sys.byteorder == "big"


class PureOrderBook:
    """Price levels of one instrument, both sides; quantities are absolute.

    ``tick_size`` describes the instrument and is kept for readers; prices off its grid are legal,
    because exchanges change tick sizes while old orders rest. ``max_levels`` is the depth that the
    exchange keeps up to date: each side is pruned to it from time to time (a side may hold up to an
    eighth more in between). ``state``, ``last_id`` and ``ts_event`` are set by OrderBookBuilder.
    """

    __slots__ = (
        "_ask_ceiling",
        "_ask_cut",
        "_ask_long",
        "_ask_mark",
        "_ask_near",
        "_asks",
        "_bid_cut",
        "_bid_floor",
        "_bid_long",
        "_bid_mark",
        "_bid_near",
        "_bids",
        "_prune_at",
        "applied",
        "last_id",
        "max_levels",
        "stage",
        "state",
        "symbol",
        "tick_size",
        "ts_event",
        "venue",
    )

    def __init__(
        self,
        tick_size: Decimal | float | None = None,
        *,
        max_levels: int | None = None,
        venue: str = "",
        symbol: str = "",
    ) -> None:
        check_options(tick_size, max_levels)
        self.tick_size = tick_size
        self.max_levels = max_levels
        self.venue = venue
        self.symbol = symbol
        self._prune_at = sys.maxsize if max_levels is None else max_levels + max(16, max_levels // 8)
        self.state = BookState.EMPTY
        self.applied = 0  # messages that were applied; counted by OrderBookBuilder and by native decoders
        self._empty()

    def _empty(self) -> None:
        self.last_id = 0
        self.ts_event = 0
        self.stage = 0  # what a native decoder may do: nothing, or take the first, or take the next message
        self._bids: dict[float, float] = {}
        self._asks: dict[float, float] = {}
        self._bid_near: list[float] = []  # ascending: the best bid is the last
        self._ask_near: list[float] = []  # ascending: the best ask is the first
        self._bid_cut = -inf  # _bid_near holds exactly the bids at or above it
        self._ask_cut = inf
        self._bid_long = self._ask_long = 3 * _BASE  # trim _near beyond this length
        self._bid_floor = -inf  # bids at or above it are known to be complete
        self._ask_ceiling = inf
        self._bid_mark = -inf  # the builder looks at the known depth when the touch passes a mark
        self._ask_mark = inf

    # -- changing -----------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all levels and ids; the state becomes EMPTY."""
        self._empty()
        self.state = BookState.EMPTY

    def load(self, bids: Iterable[Level], asks: Iterable[Level], *, complete: bool | tuple[bool, bool] = True) -> None:
        """Replace the whole book by a snapshot, levels in any order, quantity 0 meaning no level.

        ``complete=False`` says that deeper levels exist which the snapshot does not show: the known
        range ends at the worst level given. A pair says it for bids and asks apart. Raises DataError
        on a price that is not positive and finite or a quantity that is negative or not finite; the
        book is then unchanged. O(n log n).
        """
        new_bids, new_asks = list(bids), list(asks)
        self.validate(new_bids, new_asks)
        bids_complete, asks_complete = complete if isinstance(complete, tuple) else (complete, complete)
        self._bids = {price: quantity for price, quantity in dict(new_bids).items() if quantity}
        self._asks = {price: quantity for price, quantity in dict(new_asks).items() if quantity}
        # An incomplete side without levels knows nothing: no price is inside its range.
        self._bid_floor = -inf if bids_complete else min(self._bids, default=inf)
        self._ask_ceiling = inf if asks_complete else max(self._asks, default=-inf)
        self._bid_mark, self._ask_mark = self._bid_floor, self._ask_ceiling
        self._bid_near, self._ask_near = [], []
        self._fit_bids()
        self._fit_asks()
        self._prune()

    def apply(self, bids: Levels, asks: Levels) -> None:
        """Set levels to new absolute quantities in the given order; 0 deletes, unknown levels too.

        Raises DataError on a price that is not positive and finite or a quantity that is negative or
        not finite; nothing is applied then. O(levels given), whatever the depth of the book.
        """
        # All levels are checked before the first is applied. Every comparison with NaN is false.
        for price, quantity in bids:
            if quantity < inf and price < inf and quantity >= 0.0 and price > 0.0:
                continue
            refuse(self, "bid", price, quantity)
        for price, quantity in asks:
            if quantity < inf and price < inf and quantity >= 0.0 and price > 0.0:
                continue
            refuse(self, "ask", price, quantity)
        if bids:
            side = self._bids
            near = self._bid_near
            cut = self._bid_cut
            for price, quantity in bids:
                if quantity:
                    if price not in side and price >= cut:
                        insort(near, price)
                    side[price] = quantity
                elif price in side:
                    del side[price]
                    if price >= cut:
                        del near[bisect_left(near, price)]
            if not _SHORT <= len(near) <= self._bid_long:
                self._fit_bids()
            if len(side) > self._prune_at:
                self._prune()
        if asks:
            side = self._asks
            near = self._ask_near
            cut = self._ask_cut
            for price, quantity in asks:
                if quantity:
                    if price not in side and price <= cut:
                        insort(near, price)
                    side[price] = quantity
                elif price in side:
                    del side[price]
                    if price <= cut:
                        del near[bisect_left(near, price)]
            if not _SHORT <= len(near) <= self._ask_long:
                self._fit_asks()
            if len(side) > self._prune_at:
                self._prune()

    def validate(self, bids: Levels, asks: Levels) -> None:
        """Raise DataError when ``load`` or ``apply`` would refuse these levels."""
        validate(self, bids, asks)

    def apply_packed(self, bids: Any, asks: Any) -> None:
        """The same as ``apply`` for flat levels: buffers of float64 (numpy, array), price and quantity in turn."""
        self.apply(pairs(bids), pairs(asks))

    def _fit_bids(self) -> None:
        """Bring the sorted list of bids to its usual length."""
        side, near = self._bids, self._bid_near
        if len(near) == len(side) <= self._bid_long:
            self._bid_cut = -inf
            return
        keep = _BASE + 2 * isqrt(len(side))
        self._bid_long = 3 * keep
        if len(near) >= keep:
            del near[:-keep]
        elif len(side) <= 2 * keep:
            self._bid_near, self._bid_cut = sorted(side), -inf
            return
        else:
            near = self._bid_near = nlargest(keep, side)
            near.reverse()
        self._bid_cut = near[0]

    def _fit_asks(self) -> None:
        """Bring the sorted list of asks to its usual length."""
        side, near = self._asks, self._ask_near
        if len(near) == len(side) <= self._ask_long:
            self._ask_cut = inf
            return
        keep = _BASE + 2 * isqrt(len(side))
        self._ask_long = 3 * keep
        if len(near) >= keep:
            del near[keep:]
        elif len(side) <= 2 * keep:
            self._ask_near, self._ask_cut = sorted(side), inf
            return
        else:
            near = self._ask_near = nsmallest(keep, side)
        self._ask_cut = near[-1]

    def _prune(self) -> None:
        """Cut both sides to ``max_levels``; what was cut is unknown from now on. O(n log n)."""
        limit = self.max_levels
        if limit is None:
            return
        if len(self._bids) > limit:
            kept = nlargest(limit, self._bids)
            worst = kept[-1]
            self._bids = {price: self._bids[price] for price in kept}
            self._bid_floor = max(self._bid_floor, worst)
            self._bid_mark = max(self._bid_mark, self._bid_floor)
            if self._bid_cut < worst:
                del self._bid_near[: bisect_left(self._bid_near, worst)]
            self._fit_bids()
        if len(self._asks) > limit:
            kept = nsmallest(limit, self._asks)
            worst = kept[-1]
            self._asks = {price: self._asks[price] for price in kept}
            self._ask_ceiling = min(self._ask_ceiling, worst)
            self._ask_mark = min(self._ask_mark, self._ask_ceiling)
            if self._ask_cut > worst:
                del self._ask_near[bisect_right(self._ask_near, worst) :]
            self._fit_asks()

    # -- reading ------------------------------------------------------------------------------

    @property
    def best_bid(self) -> Level | None:
        """The highest bid as (price, quantity), None on an empty side. O(1)."""
        near = self._bid_near
        return (near[-1], self._bids[near[-1]]) if near else None

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask as (price, quantity), None on an empty side. O(1)."""
        near = self._ask_near
        return (near[0], self._asks[near[0]]) if near else None

    @property
    def best_bid_price(self) -> float:
        """The highest bid's price, -inf on an empty side. O(1)."""
        near = self._bid_near
        return near[-1] if near else -inf

    @property
    def best_ask_price(self) -> float:
        """The lowest ask's price, inf on an empty side. O(1)."""
        near = self._ask_near
        return near[0] if near else inf

    @property
    def top(self) -> tuple[float, float, float, float] | None:
        """Best bid, its quantity, best ask, its quantity; None where a side is empty. O(1)."""
        bids, asks = self._bid_near, self._ask_near
        if not bids or not asks:
            return None
        bid, ask = bids[-1], asks[0]
        return bid, self._bids[bid], ask, self._asks[ask]

    def top_into(self, buffer: Any, depth: int) -> tuple[int, int]:
        """Write the best levels into a buffer of float64 and return how many bids and asks there were.

        Price and quantity in turn: bids from 0, asks from ``2 * depth`` on; the buffer (numpy, array, memoryview) has
        at least ``4 * depth`` numbers, and what is behind a side's levels is left as it was. Raises UsageError.
        """
        checked_depth(depth)
        view = memoryview(buffer)
        if view.format != "d" or view.readonly or not view.c_contiguous:
            raise UsageError("the buffer must be writable float64, its numbers one behind the other")
        flat: Any = view if view.ndim == 1 else view.cast("B").cast("d")
        if len(flat) // 4 < depth:
            raise UsageError(f"a buffer of {len(flat)} numbers is too short for {4 * depth}")
        counts = []
        for start, side in ((0, self.bids(depth)), (2 * depth, self.asks(depth))):
            for at, (price, quantity) in enumerate(side):
                flat[start + 2 * at] = price
                flat[start + 2 * at + 1] = quantity
            counts.append(len(side))
        return counts[0], counts[1]

    @property
    def mid(self) -> float | None:
        """The mean of best bid and best ask, None where a side is empty."""
        if not self._bid_near or not self._ask_near:
            return None
        bid, ask = self._bid_near[-1], self._ask_near[0]
        return bid + (ask - bid) / 2

    @property
    def spread(self) -> float | None:
        """Best ask less best bid, None where a side is empty; not positive in a crossed book."""
        return self._ask_near[0] - self._bid_near[-1] if self._bid_near and self._ask_near else None

    @property
    def crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        return bool(self._bid_near and self._ask_near and self._bid_near[-1] >= self._ask_near[0])

    @property
    def known_depth(self) -> tuple[int, int]:
        """How many bids and asks, counted from the touch, are known to be complete. O(n)."""
        floor, ceiling = self._bid_floor, self._ask_ceiling
        bids = len(self._bids) if floor == -inf else sum(price >= floor for price in self._bids)
        asks = len(self._asks) if ceiling == inf else sum(price <= ceiling for price in self._asks)
        return bids, asks

    @property
    def known_range(self) -> tuple[float, float]:
        """The lowest bid price and the highest ask price that are known to be complete; infinite where all is known."""
        return self._bid_floor, self._ask_ceiling

    # -- for the builder ----------------------------------------------------------------------

    def touch_ok(self) -> bool:
        """Whether both sides have levels, do not cross, and the touch is inside the marks that ``look`` set."""
        bids, asks = self._bid_near, self._ask_near
        return bool(bids and asks and self._bid_mark <= bids[-1] < asks[0] <= self._ask_mark)

    def look(self, low_bids: int, low_asks: int) -> tuple[str, bool]:
        """Look at touch and known depth: why the book is lost (or empty), and whether a refresh is wanted.

        It is lost when it is ``crossed`` or its touch left the ``known_range``; a refresh is wanted when fewer than
        ``low_bids`` or ``low_asks`` levels are known. Sets the marks at which to look again. O(n log n).
        """
        if self.crossed:
            return "crossed", False  # no venue's own book is: something is missing that the ids do not show
        refresh = False
        if self._bid_floor > -inf:
            near = self._bid_near
            if not near or near[-1] < self._bid_floor:
                return "known_range", False
            known = sorted(price for price in self._bids if price >= self._bid_floor)
            if len(known) < low_bids:
                self._bid_mark = self._bid_floor
                refresh = True
            else:
                self._bid_mark = known[max(0, low_bids - 1)]  # below it fewer than low_bids can be left
        if self._ask_ceiling < inf:
            near = self._ask_near
            if not near or near[0] > self._ask_ceiling:
                return "known_range", False
            known = sorted(price for price in self._asks if price <= self._ask_ceiling)
            if len(known) < low_asks:
                self._ask_mark = self._ask_ceiling
                refresh = True
            else:
                self._ask_mark = known[-max(1, low_asks)]
        return "", refresh

    def nearest(self, bid: bool, depth: int | None) -> tuple[list[float], Mapping[float, float]]:
        """The best ``depth`` prices of a side, the best first, and a mapping that has their quantities."""
        return (self._bid_prices(depth), self._bids) if bid else (self._ask_prices(depth), self._asks)

    def __len__(self) -> int:
        """The number of levels held on both sides."""
        return len(self._bids) + len(self._asks)

    def __bool__(self) -> bool:
        return True  # a book without levels is still a book

    def __repr__(self) -> str:
        name = f"{self.venue}:{self.symbol} " if self.symbol else ""
        return f"<OrderBook {name}{self.state.value} {self.best_bid} {self.best_ask} last_id={self.last_id}>"

    def _bid_prices(self, depth: int | None) -> list[float]:
        near = self._bid_near
        if depth is None or depth >= len(self._bids):
            return sorted(self._bids, reverse=True)
        if depth <= len(near):
            return near[: -depth - 1 : -1]
        return nlargest(depth, self._bids)

    def _ask_prices(self, depth: int | None) -> list[float]:
        near = self._ask_near
        if depth is None or depth >= len(self._asks):
            return sorted(self._asks)
        if depth <= len(near):
            return near[:depth]
        return nsmallest(depth, self._asks)

    def bids(self, depth: int | None = None) -> list[Level]:
        """The best ``depth`` bids (None: all held) as (price, quantity), highest price first."""
        side = self._bids
        return [(price, side[price]) for price in self._bid_prices(checked_depth(depth))]

    def asks(self, depth: int | None = None) -> list[Level]:
        """The best ``depth`` asks (None: all held) as (price, quantity), lowest price first."""
        side = self._asks
        return [(price, side[price]) for price in self._ask_prices(checked_depth(depth))]

    def packed_bids(self, depth: int | None = None) -> bytes:
        """The bids as records carry them: little-endian float64, price and quantity alternating."""
        return _pack(self._bid_prices(checked_depth(depth)), self._bids)

    def packed_asks(self, depth: int | None = None) -> bytes:
        """The asks as records carry them: little-endian float64, price and quantity alternating."""
        return _pack(self._ask_prices(checked_depth(depth)), self._asks)

    def check(self) -> None:
        """Assert every invariant; for tests and diagnosis. O(n log n)."""
        for side in (self._bids, self._asks):
            assert len(side) <= self._prune_at
            for price, quantity in side.items():
                assert type(price) in (float, int)
                assert 0 < price < inf
                assert 0 < quantity < inf
        assert self._bid_near == sorted(price for price in self._bids if price >= self._bid_cut)
        assert self._ask_near == sorted(price for price in self._asks if price <= self._ask_cut)
        # The list is empty only when the side is: the touch is always in it.
        assert len(self._bid_near) >= min(_SHORT, len(self._bids))
        assert len(self._ask_near) >= min(_SHORT, len(self._asks))
        assert len(self._bid_near) <= self._bid_long
        assert len(self._ask_near) <= self._ask_long
        assert self._bid_mark >= self._bid_floor
        assert self._ask_mark <= self._ask_ceiling
        known_bids, known_asks = self.known_depth
        assert 0 <= known_bids <= len(self._bids)
        assert 0 <= known_asks <= len(self._asks)
        bid, ask = self.best_bid, self.best_ask
        assert bid == max(self._bids.items(), default=None)
        assert ask == min(self._asks.items(), default=None)
        assert self.best_bid_price == (bid[0] if bid else -inf)
        assert self.best_ask_price == (ask[0] if ask else inf)


def _pack(prices: list[float], side: dict[float, float]) -> bytes:
    pairs = [0.0] * (2 * len(prices))
    pairs[::2] = prices
    pairs[1::2] = [side[price] for price in prices]
    flat = array("d", pairs)
    if _BIG_ENDIAN:
        flat.byteswap()
    return flat.tobytes()


if TYPE_CHECKING:
    OrderBook = PureOrderBook
elif _native.native:
    from ._native_book import NativeOrderBook as OrderBook
else:
    OrderBook = PureOrderBook
