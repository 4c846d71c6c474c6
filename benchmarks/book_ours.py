"""Our ways of book.py and sockets.py: natively with cmd-native, or in pure Python with ``CMD_PURE=1``."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
from book_stream import DEPTH, Frames, decoded

from cmd_binance import SPOT
from cmd_common.builder import OrderBookBuilder
from cmd_common.decoding import BookDecoder
from cmd_common.orderbook import OrderBook

Keep = Callable[[Any], object]
Run = Callable[[Keep], None]
SNAPSHOTS = 200


class Snapshot(msgspec.Struct):
    lastUpdateId: int
    bids: list[tuple[float, float]]
    asks: list[tuple[float, float]]


_snapshot = msgspec.json.Decoder(Snapshot, strict=False).decode


def live(body: bytes, symbols: tuple[str, ...] = ("BTCUSDT",)) -> tuple[BookDecoder, dict[str, OrderBookBuilder]]:
    """The decoder of Binance's spot market with books that are live, and their builders."""
    decoder = SPOT.book_decoder()
    builders = {}
    for symbol in symbols:
        book = OrderBook(Decimal("0.01"), symbol=symbol)
        builders[symbol] = builder = OrderBookBuilder(book, SPOT.sequence_rule, snapshot_levels=1000)
        builder.start()
        decoder.add(builder)
        assert decoder.snapshot(symbol, body).live
    return decoder, builders


def _load(frames: Frames) -> Any:
    first = _snapshot(frames.snapshot)
    book = OrderBook(Decimal("0.01"))
    book.load(first.bids, first.asks, complete=False)
    return book


def bytes_best(frames: Frames) -> Run:
    """B1: bytes of a message to the best prices, by one call."""
    decoder, _ = live(frames.snapshot)
    top = decoder.top

    def run(keep: Keep) -> None:
        for frame in frames.deltas:
            keep(top(frame))

    return run


def native(snapshot: bytes) -> Callable[[str | bytes], Any]:
    """A message's text to the best prices, as W2 takes it."""
    return live(snapshot)[0].top


def feed(snapshot: bytes, deltas: bool = False) -> Callable[[str | bytes], Any]:
    """The whole feed of Binance's spot market: text to book, with all that a feed counts and checks."""
    from cmd_common.feed import Send, Subscription
    from cmd_common.instruments import Instrument

    now = 1_700_000_000_000_000_000
    exchange = SPOT
    instruments = {"BTCUSDT": Instrument(exchange.venue, "BTCUSDT", "BTC", "USDT", "spot", Decimal("0.01"), Decimal(1))}
    options = {} if deltas else {"deltas": "off"}
    (one,) = exchange.feeds(Subscription(("BTCUSDT",), ("book",), options=options), instruments, exchange.endpoints)
    for action in one.connected(now).actions:
        if isinstance(action, Send):
            one.receive(json.dumps({"result": None, "id": json.loads(action.frame)["id"]}), now)
    one.snapshot("BTCUSDT", snapshot, now)
    receive, book = one.receive, one.books["BTCUSDT"].book

    def message(frame: str | bytes) -> Any:
        receive(frame, now)
        return book.top

    return message


def feed_best(frames: Frames) -> Run:
    """B1 through the whole feed, which also makes no records here."""
    message = feed(frames.snapshot)
    prefix, suffix = '{"stream":"btcusdt@depth@100ms","data":', "}"
    texts = [prefix + frame.decode() + suffix for frame in frames.deltas]

    def run(keep: Keep) -> None:
        for text in texts:
            keep(message(text))

    return run


def floats_best(frames: Frames) -> Run:
    """B3: decoded levels to the best prices."""
    book = _load(frames)
    messages = [(m.bids, m.asks) for m in decoded(frames)]

    def run(keep: Keep) -> None:
        for bids, asks in messages:
            book.apply(bids, asks)
            keep(book.top)

    return run


def top20_buffer(frames: Frames) -> Run:
    """B4: decoded levels, then the best twenty of both sides into one buffer that the caller keeps."""
    from array import array

    book = _load(frames)
    messages = [(m.bids, m.asks) for m in decoded(frames)]
    buffer = array("d", bytes(4 * DEPTH * 8))

    def run(keep: Keep) -> None:
        for bids, asks in messages:
            book.apply(bids, asks)
            book.top_into(buffer, DEPTH)
            keep(buffer)

    return run


def top20_tuples(frames: Frames) -> Run:
    """B4 as tuples."""
    book = _load(frames)
    messages = [(m.bids, m.asks) for m in decoded(frames)]

    def run(keep: Keep) -> None:
        for bids, asks in messages:
            book.apply(bids, asks)
            keep((book.bids(DEPTH), book.asks(DEPTH)))

    return run


def snapshots(frames: Frames) -> Run:
    """B8: the bytes of a snapshot of 2 x 1,000 levels into a book."""
    body = frames.snapshot
    decoder, builders = live(body)
    builder = builders["BTCUSDT"]
    book = builder.book

    def run(keep: Keep) -> None:
        for _ in range(SNAPSHOTS):
            builder.reset("resync")
            builder.snapshot_requested()
            decoder.snapshot("BTCUSDT", body)
            keep(book.top)

    return run


def round_robin(frames: Frames, symbols: int) -> Run:
    """B8: the same messages to every symbol in turn, so many in all; the best prices of each."""
    names = tuple(f"S{number}USDT" for number in range(symbols))
    decoder, _ = live(frames.snapshot, names)
    top = decoder.top
    share = max(1, len(frames.deltas) // symbols)
    turns = [frame.replace(b'"BTCUSDT"', f'"{name}"'.encode()) for frame in frames.deltas[:share] for name in names]

    def run(keep: Keep) -> None:
        for frame in turns:
            keep(top(frame))

    return run


def allocations(frames: Frames) -> dict[str, float]:
    """B7: allocations of the native part after a warm-up, and the bytes that tracemalloc sees within a message."""
    import tracemalloc

    import cmd_native

    top = live(frames.snapshot)[0].top
    half = len(frames.deltas) // 2
    for frame in frames.deltas[:half]:
        top(frame)
    made = 0
    for frame in frames.deltas[half:]:
        before = cmd_native.allocations()
        found = top(frame)
        made += cmd_native.allocations() - before
        assert found is not None
    top = live(frames.snapshot)[0].top
    traced = []
    tracemalloc.start()
    for frame in frames.deltas:
        found = None
        before_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        found = top(frame)
        traced.append(tracemalloc.get_traced_memory()[1] - before_bytes)
    tracemalloc.stop()
    traced.sort()
    return {"made": made / (len(frames.deltas) - half), "bytes": float(traced[len(traced) // 2])}
