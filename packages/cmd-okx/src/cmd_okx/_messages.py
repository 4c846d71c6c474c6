"""The wire forms of OKX's WebSocket messages and REST rows, as typed messages.

Numbers are checked while they are decoded: a price or quantity that is negative, infinite or not a number
makes the whole message malformed, so that none can reach a book or a store. All known keys are listed, so
that a message with a new key is noticed (``cmd_common.feed_base.Wire``). Shapes: docs/exchanges/okx.md#channels.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct

__all__ = [
    "BookData",
    "BookFrame",
    "CandleFrame",
    "CandleRow",
    "Level",
    "TickerFrame",
    "TickerRow",
    "TradeFrame",
    "TradeRow",
    "number",
    "pairs",
    "to_ns",
]

Price = Annotated[float, Meta(gt=0, lt=1e18)]
Quantity = Annotated[float, Meta(ge=0, lt=1e24)]
Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
Previous = Annotated[int, Meta(ge=-1, lt=1 << 62)]
Time = Annotated[int, Meta(gt=0, lt=9_200_000_000_000)]  # ms; still fits as ns
Text = Annotated[str, Meta(max_length=80)]
Number = Annotated[str, Meta(pattern=r"^([0-9]{1,24}(\.[0-9]{0,24})?([eE][+-]?[0-9]{1,3})?)?$")]  # empty: none

_LARGEST: Final = 1e30


class Arg(Struct, forbid_unknown_fields=True, gc=False):
    """What a message belongs to."""

    channel: Text
    instId: Text = ""
    instType: str = ""
    instFamily: str = ""
    uid: str = ""


class Level(Struct, array_like=True, gc=False):
    """Price and size; a retired field and the number of orders follow and are passed over."""

    price: Price
    quantity: Quantity


class BookData(Struct, forbid_unknown_fields=True, gc=False):
    """``books``, ``books5`` and ``bbo-tbt``: absolute sizes, 0 deletes."""

    asks: list[Level]
    bids: list[Level]
    ts: Time
    checksum: int = 0
    seqId: Id | None = None  # missing in traffic of 2022
    prevSeqId: Previous | None = None
    instId: str = ""


class BookFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A message of a book channel; channels of whole books have no ``action``."""

    arg: Arg
    data: list[BookData]
    action: Literal["snapshot", "update", ""] = ""


class TradeRow(Struct, forbid_unknown_fields=True, gc=False):
    """A row of ``trades`` and ``trades-all``.

    ``trades`` merges ``count`` fills of one taker order at one price; ``tradeId`` is the last one's.
    """

    instId: Text
    tradeId: Id
    px: Price
    sz: Quantity
    side: Literal["buy", "sell"]  # the taker's
    ts: Time
    count: Annotated[int, Meta(ge=1, lt=1 << 31)] = 1
    source: str | int = "0"  # 1: order of the Enhanced Liquidity Program
    seqId: Previous | None = None


class TradeFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A message of ``trades`` or ``trades-all``."""

    arg: Arg
    data: list[TradeRow]


class TickerRow(Struct, forbid_unknown_fields=True, gc=False):
    """``tickers``: an empty side is an empty text."""

    instId: Text
    askPx: Number
    askSz: Number
    bidPx: Number
    bidSz: Number
    ts: Time
    instType: str = ""
    last: str = ""
    lastSz: str = ""
    open24h: str = ""
    high24h: str = ""
    low24h: str = ""
    sodUtc0: str = ""
    sodUtc8: str = ""
    volCcy24h: str = ""
    vol24h: str = ""


class TickerFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A message of ``tickers``."""

    arg: Arg
    data: list[TickerRow]


class CandleRow(Struct, array_like=True, gc=False):
    """One candle: opening ms, prices, volumes; the last two columns are missing in traffic of 2022."""

    ts: Time
    open: Number
    high: Number
    low: Number
    close: Number
    volume: Number  # base asset on spot, else contracts
    volume_ccy: Number  # quote asset on spot, else base asset
    volume_quote: Number = ""
    confirm: Literal["0", "1", ""] = ""
    more: Any = UNSET  # a column that this version does not know


class CandleFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A message of ``candle<bar>``."""

    arg: Arg
    data: list[CandleRow]


def pairs(side: list[Level]) -> list[tuple[float, float]]:
    """The levels of a side as pairs."""
    return [(level.price, level.quantity) for level in side]


def number(text: str) -> float:
    """Read a number's text; an empty one is 0. Raises ValueError for what no market has."""
    value = float(text or "0")
    if not 0 <= value < _LARGEST or value == inf:
        raise ValueError(f"{text[:40]!r} is not a price or quantity")
    return value


def to_ns(ms: int) -> int:
    """Turn a time of the exchange (ms) into ns."""
    return ms * 1_000_000
