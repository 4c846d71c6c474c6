"""The wire forms of Kraken's v2 messages, as typed structures for ``cmd_common.feed_base.Wire``.

All keys that are known are listed, so that a new one is noticed. Prices and quantities stay raw text:
the checksum is made of it, and a number is turned into a float from its text once.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

__all__ = [
    "BookFrame",
    "BookLevel",
    "BookRow",
    "OhlcFrame",
    "OhlcRow",
    "Reply",
    "StatusFrame",
    "StatusRow",
    "TickerFrame",
    "TickerRow",
    "TradeFrame",
    "TradeRow",
    "V1Levels",
    "number",
    "raw_text",
]

_Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
_Crc = Annotated[int, Meta(ge=0, lt=1 << 32)]
_Kind = Literal["snapshot", "update"]


class BookLevel(Struct, forbid_unknown_fields=True, gc=False):
    """One level: its new quantity, 0 deletes."""

    price: Raw
    qty: Raw


class BookRow(Struct, forbid_unknown_fields=True, gc=False):
    """The levels of one symbol, and the checksum of the book with them."""

    symbol: str
    checksum: _Crc
    bids: list[BookLevel] = []
    asks: list[BookLevel] = []
    timestamp: str = ""


class BookFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``book``."""

    channel: str
    type: _Kind
    data: list[BookRow]
    timestamp: str = ""


class TradeRow(Struct, forbid_unknown_fields=True, gc=False):
    """One trade; ``side`` is the taker's."""

    symbol: str
    side: Literal["buy", "sell"]
    price: Raw
    qty: Raw
    trade_id: _Id
    timestamp: str
    ord_type: str = ""


class TradeFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``trade``."""

    channel: str
    type: _Kind
    data: list[TradeRow]
    timestamp: str = ""


class TickerRow(Struct, forbid_unknown_fields=True, gc=False):
    """Best bid and offer, and statistics of the last 24 hours."""

    symbol: str
    bid: Raw
    bid_qty: Raw
    ask: Raw
    ask_qty: Raw
    last: Any = None
    volume: Any = None
    volume_usd: Any = None
    vwap: Any = None
    low: Any = None
    high: Any = None
    change: Any = None
    change_pct: Any = None
    trades: Any = None
    timestamp: str = ""


class TickerFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``ticker``."""

    channel: str
    type: _Kind
    data: list[TickerRow]
    timestamp: str = ""


class OhlcRow(Struct, forbid_unknown_fields=True, gc=False):
    """One candle so far; ``timestamp`` is the end of its interval."""

    symbol: str
    open: Raw
    high: Raw
    low: Raw
    close: Raw
    volume: Raw
    trades: _Id
    interval_begin: str
    interval: int
    vwap: Any = None
    timestamp: str = ""


class OhlcFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``ohlc``; ``timestamp`` is when it was sent."""

    channel: str
    type: _Kind
    data: list[OhlcRow]
    timestamp: str = ""


class StatusRow(Struct, forbid_unknown_fields=True, gc=False):
    """The state of the trading engine: online, maintenance, cancel_only, post_only, limit_only."""

    system: str
    api_version: Any = None
    connection_id: Any = None
    version: Any = None


class StatusFrame(Struct, forbid_unknown_fields=True, gc=False):
    """``status``."""

    channel: str
    data: list[StatusRow]
    type: str = ""
    timestamp: str = ""


class _Result(Struct, gc=False):
    channel: str = ""
    symbol: str = ""
    depth: int | None = None
    interval: int | None = None


class Reply(Struct, gc=False):
    """The answer to a request, one a symbol; a refused one names its symbol, not its channel."""

    method: str = ""
    channel: str = ""
    success: bool | None = None
    error: str = ""
    symbol: str = ""
    req_id: int | None = None
    result: _Result | None = None


V1Levels = list[list[str]]
"""Levels of v1: price, volume, time, and perhaps ``r`` for one that is sent again."""

_LIMIT: Final = 1e24


def raw_text(value: Raw) -> str:
    """Return the text of a raw JSON number."""
    return bytes(value).decode()


def number(value: Raw, *, positive: bool = False) -> float:
    """Return a raw JSON number; raises ValueError for one that is negative, absurd or no number."""
    text = bytes(value)
    if text[:1] == b'"':
        text = msgspec.json.decode(text).encode()
    n = float(text)
    if not 0.0 <= n < _LIMIT or (positive and not n):
        raise ValueError(f"a price or quantity of {text[:40].decode()}")
    return n
