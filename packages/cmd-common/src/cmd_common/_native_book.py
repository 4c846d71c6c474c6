"""The order book in Rust, with the interface of ``cmd_common.orderbook.PureOrderBook``, which says what it means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Any, cast

from . import _native
from ._book_parts import Level, check_options, checked_depth, grid_of, pairs, validate
from .records import levels
from .sequence import BookState

if TYPE_CHECKING:
    from cmd_native import OrderBook as _Base
    from cmd_native import SnapshotLevels
elif _native.module is not None:
    _Base = _native.module.OrderBook
    SnapshotLevels = _native.module.SnapshotLevels
else:  # the module imports everywhere, and is of use where cmd-native runs
    _Base = SnapshotLevels = object

__all__ = ["NativeOrderBook"]

_EMPTY = BookState.EMPTY


class NativeOrderBook(_Base):
    """Price levels of one instrument, both sides, in Rust; see ``PureOrderBook``."""

    __slots__ = ("max_levels", "state", "symbol", "tick_size", "venue")

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
        self.state = _EMPTY
        self._set_up(*grid_of(tick_size), max_levels)

    def clear(self) -> None:
        """Forget all levels and ids; the state becomes EMPTY."""
        self._clear()
        self.state = _EMPTY

    def load(self, bids: Iterable[Level], asks: Iterable[Level], *, complete: bool | tuple[bool, bool] = True) -> None:
        """Replace the whole book by a snapshot; see ``PureOrderBook.load``."""
        bids_complete, asks_complete = complete if isinstance(complete, tuple) else (complete, complete)
        self._load(_kept(bids), _kept(asks), bids_complete, asks_complete)

    def apply_packed(self, bids: Any, asks: Any) -> None:
        """The same as ``apply`` for flat levels; see ``PureOrderBook.apply_packed``."""
        if not self._apply_packed(bids, asks):
            self.validate(pairs(bids), pairs(asks))

    def validate(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Raise DataError when ``load`` or ``apply`` would refuse these levels."""
        validate(self, bids, asks)

    def bids(self, depth: int | None = None) -> list[Level]:
        """The best ``depth`` bids (None: all held) as (price, quantity), highest price first."""
        return self._bids(checked_depth(depth))

    def asks(self, depth: int | None = None) -> list[Level]:
        """The best ``depth`` asks (None: all held) as (price, quantity), lowest price first."""
        return self._asks(checked_depth(depth))

    def packed_bids(self, depth: int | None = None) -> bytes:
        """The bids as records carry them: little-endian float64, price and quantity alternating."""
        return self._packed_bids(checked_depth(depth))

    def packed_asks(self, depth: int | None = None) -> bytes:
        """The asks as records carry them: little-endian float64, price and quantity alternating."""
        return self._packed_asks(checked_depth(depth))

    def nearest(self, bid: bool, depth: int | None) -> tuple[list[float], dict[float, float]]:
        """The best ``depth`` prices of a side, the best first, and a mapping that has their quantities."""
        side = dict(self._bids(depth) if bid else self._asks(depth))
        return list(side), side

    def __bool__(self) -> bool:
        return True  # a book without levels is still a book

    def __repr__(self) -> str:
        name = f"{self.venue}:{self.symbol} " if self.symbol else ""
        return f"<OrderBook {name}{self.state.value} {self.best_bid} {self.best_ask} last_id={self.last_id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        options = self.tick_size, self.max_levels, self.venue, self.symbol
        ids = self.last_id, self.ts_event, self.stage, self.applied, self.state
        return _rebuild, (type(self), options, self.packed_bids(), self.packed_asks(), self._ranges(), ids)

    def check(self) -> None:
        """Assert every invariant; for tests and diagnosis. O(n log n)."""
        self._check()
        bids, asks = self.bids(), self.asks()
        assert len(bids) + len(asks) == len(self)
        for price, quantity in (*bids, *asks):
            assert 0 < price < inf
            assert 0 < quantity < inf
        known_bids, known_asks = self.known_depth
        assert 0 <= known_bids <= len(bids)
        assert 0 <= known_asks <= len(asks)
        assert self.best_bid == max(bids, default=None)
        assert self.best_ask == min(asks, default=None)
        assert self.best_bid_price == max((price for price, _ in bids), default=-inf)
        assert self.best_ask_price == min((price for price, _ in asks), default=inf)


def _kept(side: Iterable[Level]) -> Sequence[Level]:
    return side if type(side) is SnapshotLevels else list(side)


def _rebuild(
    kind: type[NativeOrderBook],
    options: tuple[Decimal | float | None, int | None, str, str],
    bids: bytes,
    asks: bytes,
    ranges: tuple[float, float, float, float],
    ids: tuple[int, int, int, int, BookState],
) -> NativeOrderBook:
    """Make a book that equals one which was copied or pickled."""
    tick_size, max_levels, venue, symbol = options
    book = kind(tick_size, max_levels=max_levels, venue=venue, symbol=symbol)
    book.apply(cast("Any", levels(bids)), cast("Any", levels(asks)))
    book._set_ranges(*ranges)
    book.last_id, book.ts_event, book.stage, book.applied, book.state = ids
    return book
