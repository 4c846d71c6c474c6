"""The order books in Python and in Rust are equal after every message of every recording."""

from __future__ import annotations

import json
import zlib
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import require

from cmd_common.orderbook import PureOrderBook
from cmd_common.recording import Recording

Sides = tuple[list[tuple[float, float]], list[tuple[float, float]]]

SIDES = {
    "b": 0, "bs": 0, "bid": 0, "bids": 0, "buy": 0,
    "a": 1, "as": 1, "ask": 1, "asks": 1, "sell": 1, "offer": 1,
}  # fmt: skip
NAMES = ("s", "symbol", "product_id", "instId", "pair", "channel", "stream")
FULL = ('"bs"', '"as"', '"lastUpdateId"', '"snapshot"', '"partial"')  # texts of messages with a whole book
VENUES = ("binance_spot", "binance_usdm", "bitstamp", "bybit", "coinbase_advanced", "coinbase_exchange", "gemini",
          "kraken", "okx")  # fmt: skip
LEAST = 20_000  # messages with levels in all recordings together, fewer than there are


@pytest.fixture(scope="module", autouse=True)
def _native() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")


def level(price: Any, quantity: Any) -> tuple[float, float] | None:
    """A level of two numbers or their texts; None for what cannot exist in a book."""
    try:
        found = float(price), float(quantity)
    except (TypeError, ValueError):
        return None
    return found if 0 < found[0] < float("inf") and 0 <= found[1] < float("inf") else None


def gather(message: Any, sides: Sides) -> None:
    """Collect the levels of a message of any venue: lists by side, or changes that name their side."""
    if isinstance(message, list):
        if len(message) >= 3 and message[0] in ("buy", "sell") and (pair := level(message[1], message[2])):
            sides[SIDES[message[0]]].append(pair)
            return
        for item in message:
            if isinstance(item, list | dict):
                gather(item, sides)
        return
    if not isinstance(message, dict):
        return
    side = SIDES.get(str(message.get("side")))
    if side is not None and "price_level" in message:
        if pair := level(message["price_level"], message.get("new_quantity")):
            sides[side].append(pair)
        return
    for key, value in message.items():
        at = SIDES.get(key)
        if at is None or not isinstance(value, list):
            gather(value, sides)
            continue
        for item in value:
            found = None
            if isinstance(item, list) and len(item) >= 2:
                found = level(item[0], item[1])
            elif isinstance(item, dict):
                found = level(item.get("price"), item.get("qty", item.get("amount", item.get("quantity"))))
            if found is not None:
                sides[at].append(found)


def name(message: Any) -> str:
    """What tells the books of a recording apart; venues whose messages do not say it share a book, which is harder."""
    if isinstance(message, list):
        return str(message[-1])
    for key in NAMES:
        if isinstance(value := message.get(key), str):
            return value
    inner = message.get("data", message.get("arg"))
    return name(inner) if isinstance(inner, dict) else ""


def tick_of(price: float) -> Decimal:
    """The last decimal of a price as tick size: some of a recording's prices lie on this grid, others do not."""
    exponent = Decimal(repr(price)).normalize().as_tuple().exponent
    return Decimal(10) ** min(int(exponent), 0)


def test_equal_after_every_message_of_every_recording(recordings: Path) -> None:
    from cmd_common._native_book import NativeOrderBook

    messages: dict[str, int] = {}
    for path in sorted(recordings.rglob("*.ndjson*")):
        books: dict[str, tuple[PureOrderBook, Any]] = {}
        for line in Recording(path):
            try:
                message = json.loads(line.text)
            except ValueError:
                continue
            if not isinstance(message, list | dict) or not message:
                continue
            sides: Sides = ([], [])
            gather(message, sides)
            if not sides[0] and not sides[1]:
                continue
            messages[path.parent.name] = count = messages.get(path.parent.name, 0) + 1
            symbol = name(message)
            if symbol not in books:
                first = (sides[0] or sides[1])[0][0]
                limit = 400 if zlib.crc32(symbol.encode()) & 1 else None
                tick = tick_of(first)
                books[symbol] = PureOrderBook(tick, max_levels=limit), NativeOrderBook(tick, max_levels=limit)
            pure, native = books[symbol]
            if any(text in line.text[:200] for text in FULL):
                complete = (bool(count & 1), bool(count & 2))
                pure.load(*sides, complete=complete)
                native.load(*sides, complete=complete)
            else:
                pure.apply(*sides)
                native.apply(*sides)
            assert native.top == pure.top, (path.name, count)
            assert native.touch_ok() == pure.touch_ok()
            assert native.packed_bids(20) == pure.packed_bids(20), (path.name, count)
            assert native.packed_asks(20) == pure.packed_asks(20), (path.name, count)
            assert len(native) == len(pure)
            if not count % 100:
                assert native.packed_bids() == pure.packed_bids(), (path.name, count)
                assert native.packed_asks() == pure.packed_asks(), (path.name, count)
                assert (native.known_depth, native.known_range) == (pure.known_depth, pure.known_range)
        for pure, native in books.values():
            native.check()
            assert native.bids() == pure.bids()
            assert native.asks() == pure.asks()
    assert set(VENUES) <= set(messages), messages
    assert sum(messages.values()) > LEAST, messages
