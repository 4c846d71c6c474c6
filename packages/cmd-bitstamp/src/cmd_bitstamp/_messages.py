"""The wire forms of Bitstamp's messages as typed decoders.

Numbers are checked while they are decoded: a price or quantity that is negative, infinite or not a
number makes the whole message malformed. All known keys are listed, so that a message with a new key is
noticed and passed over by ``cmd_common.feed_base.Wire``.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

__all__ = [
    "Amount",
    "BookData",
    "BookFrame",
    "Head",
    "Levels",
    "Notice",
    "OrderData",
    "OrderFrame",
    "Price",
    "PriceText",
    "Quantity",
    "TradeData",
    "TradeFrame",
]

Price = Annotated[float, Meta(gt=0, lt=1e18)]
Quantity = Annotated[float, Meta(ge=0, lt=1e24)]
Levels = list[tuple[Price, Quantity]]
Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
Micros = Annotated[int, Meta(gt=0, lt=9_200_000_000_000_000)]
_DECIMAL = r"[0-9]{1,14}(\.[0-9]{1,24})?([eE](-[0-9]{1,2}|\+?[0-9]))?$"  # below 10^24
Amount = Annotated[str, Meta(pattern="^" + _DECIMAL)]
PriceText = Annotated[str, Meta(pattern="^(?=[0-9.]*[1-9])" + _DECIMAL)]
"""The text of a quantity, and of a price, which is never 0, to see how exact it is; small ones come as ``1E-8``."""
Text = Annotated[str, Meta(max_length=128)]


class Head(Struct, gc=False):
    """What tells messages apart."""

    event: str = ""
    channel: str = ""


class NoticeData(Struct):
    """The words of an answer or error."""

    code: int | str | None = None
    message: str = ""


class Notice(Struct):
    """An answer, error or request of the server."""

    event: str
    channel: str = ""
    data: NoticeData | str | None = None


class BookData(Struct, forbid_unknown_fields=True, gc=False):
    """Levels that changed (``diff_order_book``) or the best 100 of both sides (``order_book``)."""

    microtimestamp: Micros
    bids: Levels
    asks: Levels
    timestamp: Text = ""


class BookFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A book message."""

    data: BookData
    channel: str
    event: str = ""


class TradeData(Struct, forbid_unknown_fields=True, gc=False):
    """A trade: ``type`` is the taker's side, 0 buys and 1 sells."""

    id: Id
    amount_str: Amount
    price_str: PriceText
    type: int
    microtimestamp: Micros
    amount: float = 0.0
    price: float = 0.0
    timestamp: Text = ""
    id_str: Text = ""
    buy_order_id: int = 0
    sell_order_id: int = 0


class TradeFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A trade message."""

    data: TradeData
    channel: str
    event: str = ""


class OrderData(Struct):
    """An order event; only its time is used, the rest stays in the raw recording."""

    microtimestamp: Micros


class OrderFrame(Struct):
    """``order_created``, ``order_changed`` or ``order_deleted``; the ids of events exist since 2026."""

    data: OrderData
    channel: str
    event: str
    event_id: Text = ""
    pre_event_id: Text = ""
    order_source: Any = None
