"""The truth: what the undamaged emulator sent, read by a spy connection with code of its own.

Nothing here uses the feed, the builder or the book under test: frames are decoded by the standard
library and books are plain dicts.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

Level = tuple[float, float]


def _ns(value: int) -> int:
    return value * 1000 if value >= 10**14 else value * 1_000_000


@dataclass
class Depth:
    """One depth message."""

    first: int
    last: int
    ts: int
    bids: list[Level]
    asks: list[Level]


@dataclass
class SymbolTruth:
    """Everything that happened on one symbol."""

    trades: dict[int, tuple[int, float, float, str]] = field(default_factory=dict)  # id: ts, price, quantity, side
    agg_trades: dict[int, tuple[int, float, float, str]] = field(default_factory=dict)
    quotes: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    candles: set[tuple[str, int, float, float, float, float, float, int, bool]] = field(default_factory=set)
    depth: list[Depth] = field(default_factory=list)
    start_id: int = 0
    start: tuple[dict[float, float], dict[float, float]] = field(default_factory=lambda: ({}, {}))
    _lasts: list[int] = field(default_factory=list)
    _cache: tuple[int, dict[float, float], dict[float, float]] | None = None

    def load(self, body: bytes) -> None:
        """Take the REST snapshot from before the first message."""
        data = json.loads(body)
        self.start_id = data["lastUpdateId"]
        self.start = (_side(data["bids"]), _side(data["asks"]))

    def add_depth(self, message: Depth) -> None:
        """Take the next depth message."""
        self.depth.append(message)
        self._lasts.append(message.last)

    @property
    def last_id(self) -> int:
        """Id of the newest depth message."""
        return self.depth[-1].last if self.depth else self.start_id

    def index(self, seq: int) -> int | None:
        """Position of the depth message that ends at ``seq``."""
        at = bisect_left(self._lasts, seq)
        return at if at < len(self._lasts) and self._lasts[at] == seq else None

    def book_at(self, seq: int) -> tuple[dict[float, float], dict[float, float]]:
        """The true book after all messages that end at or before ``seq``; cheap when asked in order."""
        done, bids, asks = 0, dict(self.start[0]), dict(self.start[1])
        count = bisect_right(self._lasts, seq)
        if self._cache is not None and self._cache[0] <= count:
            done, bids, asks = self._cache
        for message in self.depth[done:count]:
            for side, changes in ((bids, message.bids), (asks, message.asks)):
                for price, quantity in changes:
                    if quantity:
                        side[price] = quantity
                    else:
                        side.pop(price, None)
        self._cache = (count, bids, asks)
        return bids, asks


def _side(levels: list[list[str]]) -> dict[float, float]:
    return {float(p): float(q) for p, q in levels}


def _levels(levels: list[list[str]]) -> list[Level]:
    return [(float(p), float(q)) for p, q in levels]


class Oracle:
    """The truth of one market, by symbol; ``take`` is the spy's callback."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = {name: SymbolTruth() for name in symbols}
        self.messages = 0
        self.unknown = 0

    def take(self, text: str) -> None:
        """Read one frame that left the emulator."""
        data: dict[str, Any] = json.loads(text)
        if "stream" in data:
            data = data["data"]
        if "result" in data:
            return
        self.messages += 1
        kind = data.get("e")
        if kind is None and "u" in data and "b" in data and "B" in data:
            kind = "bookTicker"
        truth = self.symbols.get(data.get("s", ""))
        if truth is None:
            self.unknown += 1
        elif kind == "depthUpdate":
            truth.add_depth(
                Depth(
                    data["U"],
                    data["u"],
                    _ns(data["T"] if "T" in data else data["E"]),
                    _levels(data["b"]),
                    _levels(data["a"]),
                )
            )
        elif kind == "trade":
            truth.trades[data["t"]] = _trade(data)
        elif kind == "aggTrade":
            truth.agg_trades[data["a"]] = _trade(data)
        elif kind == "bookTicker":
            truth.quotes[data["u"]] = (float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"]))
        elif kind == "kline":
            k = data["k"]
            numbers = tuple(float(k[name]) for name in "ohlcv")
            truth.candles.add((k["i"], _ns(k["t"]), *numbers, k["n"], k["x"]))  # type: ignore[arg-type]
        else:
            self.unknown += 1


def _trade(data: dict[str, Any]) -> tuple[int, float, float, str]:
    return _ns(data["T"]), float(data["p"]), float(data["q"]), "sell" if data["m"] else "buy"
