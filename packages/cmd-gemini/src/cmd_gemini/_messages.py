"""The wire forms of Gemini's two feeds as typed decoders.

Numbers are checked while they are decoded: a price or quantity that is negative, infinite or not a
number makes the whole message malformed. All known keys are listed, so that a message with a new key is
noticed: ``cmd_common.feed_base.Wire`` decodes it again with the new keys left out, and they are counted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

__all__ = [
    "Amount",
    "BookTicker",
    "CandleRow",
    "CandlesUpdate",
    "DepthUpdate",
    "Head",
    "L2Updates",
    "Level",
    "Levels",
    "PartialDepth",
    "PriceText",
    "Reply",
    "TradeEvent",
    "V2Error",
    "V2Head",
    "V2Trade",
]

Price = Annotated[float, Meta(gt=0, lt=1e18)]
Quantity = Annotated[float, Meta(ge=0, lt=1e24)]
Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
Ns = Annotated[int, Meta(gt=0, lt=9_200_000_000_000_000_000)]
Ms = Annotated[int, Meta(gt=0, lt=9_200_000_000_000)]
Level = tuple[Price, Quantity]
Levels = list[tuple[Price, Quantity]]
_DECIMAL = r"[0-9]{1,14}(\.[0-9]{1,24})?([eE](-[0-9]{1,2}|\+?[0-9]))?$"  # below 10^24
Amount = Annotated[str, Meta(pattern="^" + _DECIMAL)]
PriceText = Annotated[str, Meta(pattern="^(?=[0-9.]*[1-9])" + _DECIMAL)]
"""The text of a quantity, and of a price, which is never 0, to see how exact it is."""
Text = Annotated[str, Meta(max_length=64)]


# Current API


class DepthUpdate(Struct, forbid_unknown_fields=True, gc=False):
    """Absolute quantities of the levels that changed; ``E`` is in ns."""

    E: Ns
    s: Text
    U: Id
    u: Id
    b: Levels
    a: Levels
    e: str = "depthUpdate"


class TradeEvent(Struct, forbid_unknown_fields=True, gc=False):
    """A trade; it has no ``e``. ``m`` true: the buyer was the maker, so the taker sold (not confirmed)."""

    E: Ns
    s: Text
    t: Id
    p: PriceText
    q: Amount
    m: bool
    e: str = ""


class BookTicker(Struct, forbid_unknown_fields=True, gc=False):
    """Best bid and offer; it has no ``e``. A side without an order has price and quantity 0."""

    u: Id
    E: Ns
    s: Text
    b: Quantity
    B: Quantity
    a: Quantity
    A: Quantity
    e: str = ""


class PartialDepth(Struct, forbid_unknown_fields=True, gc=False):
    """The best 5, 10 or 20 levels; no time. The key ``symbol`` is not documented but sent."""

    lastUpdateId: Id
    bids: Levels
    asks: Levels
    symbol: Text = ""


class Head(Struct, gc=False):
    """What tells the messages of the current API apart: trades and quotes have no ``e``."""

    e: str = ""
    id: int | str | None = None
    status: int | None = None
    s: str = ""
    symbol: str = ""
    t: int | None = None
    u: int | None = None
    lastUpdateId: int | None = None


class V2Head(Struct, gc=False):
    """What tells the messages of the v2 feed apart."""

    type: str = ""
    symbol: str = ""
    result: str = ""


class V2Error(Struct):
    """An error of the v2 feed."""

    result: str = ""
    reason: str = ""
    message: str = ""


class ReplyError(Struct):
    """Why a request was refused."""

    code: int = 0
    msg: str = ""


class Reply(Struct):
    """The answer to a request of ours; status 200 is success."""

    id: int | str | None
    status: int = 0
    error: ReplyError | None = None


# v2 feed


class V2Trade(Struct, forbid_unknown_fields=True, gc=False):
    """A trade: ``side`` is the taker's; ``tid`` since 2026."""

    symbol: Text
    event_id: Id
    timestamp: Ms
    price: PriceText
    quantity: Amount
    side: str
    tid: Id | None = None
    type: str = "trade"


class L2Updates(Struct, forbid_unknown_fields=True, gc=False):
    """Changed levels; the first of a subscription holds the whole book and the latest trades."""

    symbol: Text
    changes: list[tuple[Literal["buy", "sell"], Price, Quantity]]
    trades: list[V2Trade] | None = None
    auction_events: list[Any] | None = None
    type: str = "l2_updates"


class CandleRow(Struct, array_like=True, gc=False):
    """Open time in ms, prices and volume."""

    time: Ms
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Quantity


class CandlesUpdate(Struct, forbid_unknown_fields=True, gc=False):
    """Candles, newest first: many after the subscription, then those that changed."""

    symbol: Text
    changes: list[CandleRow]
    type: str = ""
