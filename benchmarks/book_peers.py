"""The peers of book.py: each makes a loop over messages that gives the best prices (or the best twenty) of each.

Only a peer's own distributions are imported, and within its function: they run with different interpreters. A maker gets
the frames and makes what the loop needs; the loop it returns gives each answer to ``keep``. Timed, ``keep`` forgets all but the
last answer, as a program does that acts on it; then a second loop, made anew, gives all of them, which the oracle judges.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any

from book_stream import DEPTH, FIELDS, Frames, Top, decoded, floats

Keep = Callable[[Any], object]
Run = Callable[[Keep], None]


# -- dictionaries and sorted lists


def _plain(frames: Frames) -> tuple[dict[float, float], dict[float, float], list[float], list[float]]:
    bids, asks = map(dict, floats(frames.snapshot))
    return bids, asks, sorted(bids), sorted(asks)


def _set(side: dict[float, float], prices: list[float], changes: Any) -> None:
    for price, quantity in changes:
        if quantity == 0.0:
            if price in side:
                del side[price]
                del prices[bisect_left(prices, price)]
        else:
            if price not in side:
                insort(prices, price)
            side[price] = quantity


def bisect_bytes(frames: Frames) -> Run:
    import msgspec

    class Depth(msgspec.Struct, gc=False):
        b: list[tuple[float, float]]
        a: list[tuple[float, float]]

    bids, asks, bid_prices, ask_prices = _plain(frames)
    decode = msgspec.json.Decoder(Depth, strict=False).decode

    def run(keep: Keep) -> None:
        for frame in frames.deltas:
            depth = decode(frame)
            _set(bids, bid_prices, depth.b)
            _set(asks, ask_prices, depth.a)
            keep((bid_prices[-1], ask_prices[0]))

    return run


def bisect_floats(frames: Frames) -> Run:
    bids, asks, bid_prices, ask_prices = _plain(frames)
    messages = [(m.bids, m.asks) for m in decoded(frames)]

    def run(keep: Keep) -> None:
        for b, a in messages:
            _set(bids, bid_prices, b)
            _set(asks, ask_prices, a)
            keep((bid_prices[-1], ask_prices[0]))

    return run


def bisect_top20(frames: Frames) -> Run:
    bids, asks, bid_prices, ask_prices = _plain(frames)
    messages = [(m.bids, m.asks) for m in decoded(frames)]
    last = -DEPTH - 1

    def run(keep: Keep) -> None:
        for b, a in messages:
            _set(bids, bid_prices, b)
            _set(asks, ask_prices, a)
            keep(([(p, bids[p]) for p in bid_prices[:last:-1]], [(p, asks[p]) for p in ask_prices[:DEPTH]]))

    return run


def sorteddict_bytes(frames: Frames) -> Run:
    import orjson
    from sortedcontainers import SortedDict

    bids, asks = map(SortedDict, floats(frames.snapshot))
    loads = orjson.loads

    def run(keep: Keep) -> None:
        for frame in frames.deltas:
            depth = loads(frame)
            for side, changes in ((bids, depth["b"]), (asks, depth["a"])):
                for price, amount in changes:
                    quantity = float(amount)
                    if quantity == 0.0:
                        side.pop(float(price), None)
                    else:
                        side[float(price)] = quantity
            keep((bids.peekitem(-1)[0], asks.peekitem(0)[0]))

    return run


def sorteddict_snapshot(frames: Frames) -> Run:
    import orjson
    from sortedcontainers import SortedDict

    body = frames.snapshot

    def run(keep: Keep) -> None:
        for _ in range(SNAPSHOTS):
            first = orjson.loads(body)
            bids = SortedDict({float(price): float(quantity) for price, quantity in first["bids"]})
            asks = SortedDict({float(price): float(quantity) for price, quantity in first["asks"]})
            keep((bids.peekitem(-1)[0], asks.peekitem(0)[0]))

    return run


SNAPSHOTS = 200


# -- order-book


def _order_book(frames: Frames) -> Any:
    from order_book import OrderBook

    book = OrderBook()
    bids, asks = floats(frames.snapshot)
    book.bids = dict(bids)
    book.asks = dict(asks)
    return book


def order_book_bytes(frames: Frames) -> Run:
    import orjson

    book = _order_book(frames)
    loads = orjson.loads
    bids, asks = book.bids, book.asks

    def run(keep: Keep) -> None:
        for frame in frames.deltas:
            depth = loads(frame)
            for side, changes in ((bids, depth["b"]), (asks, depth["a"])):
                for text, amount in changes:
                    price, quantity = float(text), float(amount)
                    if quantity == 0.0:
                        if price in side:
                            del side[price]
                    else:
                        side[price] = quantity
            keep((bids.index(0)[0], asks.index(0)[0]))

    return run


def order_book_msgspec(frames: Frames) -> Run:
    import msgspec

    class Depth(msgspec.Struct, gc=False):
        b: list[tuple[float, float]]
        a: list[tuple[float, float]]

    book = _order_book(frames)
    bids, asks = book.bids, book.asks
    decode = msgspec.json.Decoder(Depth, strict=False).decode

    def run(keep: Keep) -> None:
        for frame in frames.deltas:
            depth = decode(frame)
            for side, changes in ((bids, depth.b), (asks, depth.a)):
                for price, quantity in changes:
                    if quantity == 0.0:
                        if price in side:
                            del side[price]
                    else:
                        side[price] = quantity
            keep((bids.index(0)[0], asks.index(0)[0]))

    return run


def order_book_floats(frames: Frames) -> Run:
    book = _order_book(frames)
    bids, asks = book.bids, book.asks
    messages = [(m.bids, m.asks) for m in decoded(frames)]

    def run(keep: Keep) -> None:
        for b, a in messages:
            for side, changes in ((bids, b), (asks, a)):
                for price, quantity in changes:
                    if quantity == 0.0:
                        if price in side:
                            del side[price]
                    else:
                        side[price] = quantity
            keep((bids.index(0)[0], asks.index(0)[0]))

    return run


# -- nautilus_trader


class _Nautilus:
    """Its book in Rust, filled from the snapshot, and how a level becomes a delta of it."""

    def __init__(self, frames: Frames) -> None:
        from nautilus_trader.core import nautilus_pyo3 as n

        self.module = n
        self.name = n.InstrumentId.from_str("BTCUSDT.BINANCE")
        self.book = n.OrderBook(self.name, n.BookType.L2_MBP)
        for side, levels in zip((n.OrderSide.BUY, n.OrderSide.SELL), floats(frames.snapshot), strict=True):
            for price, quantity in levels:
                self.book.apply_delta(self.delta(side, price, quantity, 1, 0))

    def delta(self, side: Any, price: float, quantity: float, sequence: int, ts: int) -> Any:
        n = self.module
        action = n.BookAction.UPDATE if quantity else n.BookAction.DELETE
        order = n.BookOrder(side, n.Price(price, 2), n.Quantity(quantity, 5), 0)
        return n.OrderBookDelta(self.name, action, order, 0, sequence, ts, ts)

    def deltas(self, bids: Any, asks: Any, sequence: int, ts: int) -> Any:
        n, delta = self.module, self.delta
        made = [delta(n.OrderSide.BUY, price, quantity, sequence, ts) for price, quantity in bids]
        made += [delta(n.OrderSide.SELL, price, quantity, sequence, ts) for price, quantity in asks]
        return n.OrderBookDeltas(self.name, made)


def nautilus_bytes(frames: Frames) -> Run:
    import msgspec

    class Depth(msgspec.Struct, gc=False):
        E: int
        u: int
        b: list[tuple[float, float]]
        a: list[tuple[float, float]]

    one = _Nautilus(frames)
    n, name, book = one.module, one.name, one.book
    decode = msgspec.json.Decoder(Depth, strict=False).decode
    order, delta, price_of, quantity_of = n.BookOrder, n.OrderBookDelta, n.Price, n.Quantity
    update, delete = n.BookAction.UPDATE, n.BookAction.DELETE
    buy, sell = n.OrderSide.BUY, n.OrderSide.SELL
    apply = book.apply_delta

    def run(keep: Keep) -> None:
        for frame in frames.deltas:
            depth = decode(frame)
            u, ts = depth.u, depth.E * 1_000_000
            for price, quantity in depth.b:
                made = order(buy, price_of(price, 2), quantity_of(quantity, 5), 0)
                apply(delta(name, update if quantity else delete, made, 0, u, ts, ts))
            for price, quantity in depth.a:
                made = order(sell, price_of(price, 2), quantity_of(quantity, 5), 0)
                apply(delta(name, update if quantity else delete, made, 0, u, ts, ts))
            keep((book.best_bid_price(), book.best_ask_price()))

    return run


def nautilus_deltas(frames: Frames) -> Run:
    one = _Nautilus(frames)
    book = one.book
    messages = [one.deltas(m.bids, m.asks, m.last, m.ts_event) for m in decoded(frames)]

    def run(keep: Keep) -> None:
        for deltas in messages:
            book.apply_deltas(deltas)
            keep((book.best_bid_price(), book.best_ask_price()))

    return run


def nautilus_top20(frames: Frames) -> Run:
    one = _Nautilus(frames)
    book = one.book
    messages = [one.deltas(m.bids, m.asks, m.last, m.ts_event) for m in decoded(frames)]

    def run(keep: Keep) -> None:
        for deltas in messages:
            book.apply_deltas(deltas)
            keep((book.bids(DEPTH), book.asks(DEPTH)))

    return run


# -- what came out, as the oracle says it


def best(answer: Any) -> Top:
    bid, ask = answer if len(answer) == 2 else (answer[0], answer[2])  # ours: price, quantity, price, quantity
    return float(str(bid)), float(str(ask))  # nautilus_trader's prices are exact as text only


def twenty(answer: Any) -> bytes:
    """Levels of both sides, bids first, as the oracle's bytes."""
    values: list[float] = []
    for side in answer:
        for level in side:
            if isinstance(level, tuple):
                values += level
            else:  # nautilus_trader's
                values += [float(str(level.price)), round(level.size(), 5)]
    return FIELDS.pack(*values)
