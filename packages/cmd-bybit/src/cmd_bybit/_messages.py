"""The wire forms of Bybit's stream messages and REST bodies, as typed decoders.

Levels are checked while they are decoded. Numbers of trades and candles stay text, so that one with more
digits than a float keeps is noticed; ``positive`` checks and converts them. All known keys are listed,
so that a new one is noticed. docs/exchanges/bybit.md#messages.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["BookData", "BookFrame", "CandleFrame", "CandleRow", "Reply", "TradeFrame", "TradeRow", "positive"]

Price = Annotated[float, Meta(gt=0, lt=1e18)]
Quantity = Annotated[float, Meta(ge=0, lt=1e24)]
Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
Time = Annotated[int, Meta(gt=0, lt=9_200_000_000_000)]  # ms; still fits as ns
Levels = list[tuple[Price, Quantity]]


class BookData(Struct, forbid_unknown_fields=True, gc=False):
    """One change or the whole of a book; ``u`` numbers the messages of the topic, ``seq`` is the engine's."""

    s: str
    b: Levels
    a: Levels
    u: Id
    seq: Id = 0


class BookFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``orderbook.DEPTH.SYMBOL``; ``cts`` is the matching engine's time, ``ts`` the pushing system's."""

    topic: str
    type: str
    ts: Time
    data: BookData
    cts: Annotated[int, Meta(ge=0, lt=9_200_000_000_000)] = 0


class TradeRow(Struct, forbid_unknown_fields=True, gc=False):
    """One trade; ``S`` is the taker's side."""

    T: Time
    s: str
    S: str
    v: str
    p: str
    i: str
    L: str = ""  # linear: direction of the price
    BT: bool = False  # block trade: agreed outside the book
    RPI: bool = False  # the maker was a retail price improvement order
    seq: Id = 0


class TradeFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``publicTrade.SYMBOL``: the trades of one or more taker orders."""

    topic: str
    type: str
    ts: Time
    data: list[TradeRow]
    id: str = ""


class CandleRow(Struct, forbid_unknown_fields=True, gc=False):
    """One candle so far; ``end`` is its last ms, ``timestamp`` the time of its last trade."""

    start: Time
    end: Time
    interval: str
    open: str
    close: str
    high: str
    low: str
    volume: str
    turnover: str
    confirm: bool
    timestamp: Time


class CandleFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``kline.INTERVAL.SYMBOL``; the symbol is only in the topic."""

    topic: str
    type: str
    ts: Time
    data: list[CandleRow]


class Reply(Struct):
    """An answer to a request of ours: ``success`` and ``ret_msg``, or the other form of a pong."""

    op: str = ""
    success: bool = True
    ret_msg: str = ""
    req_id: str = ""
    conn_id: str = ""


def positive(text: str, least: float = 0.0) -> float:
    """Return a decimal as a float; raises ValueError where it is not a finite number of at least ``least``."""
    value = float(text)
    if not least <= value < 1e30:  # false for NaN, too
        raise ValueError(f"{text[:40]!r} is not a number from {least:g} on")
    return value
