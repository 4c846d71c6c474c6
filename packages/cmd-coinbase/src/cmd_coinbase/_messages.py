"""The wire forms of Coinbase's stream messages, as typed decoders.

Numbers are checked while they are decoded: a price or quantity that is negative, infinite or not a number makes
the whole message malformed. All known keys are listed, so that a message with a new key is noticed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from cmd_common.feed_base import Wire

__all__ = [
    "CandlesFrame",
    "ErrorFrame",
    "Head",
    "Heartbeat",
    "HeartbeatsFrame",
    "L2Frame",
    "L2Update",
    "Match",
    "PriceText",
    "Product",
    "Snapshot",
    "StatusFrame",
    "Subscriptions",
    "SubscriptionsFrame",
    "Ticker",
    "TickerFrame",
    "TradesFrame",
    "advanced_wires",
    "exchange_wires",
]

Price = Annotated[float, Meta(gt=0, lt=1e18)]
Quantity = Annotated[float, Meta(ge=0, lt=1e24)]
Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
_DECIMAL = r"[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,2})?$"
Text = Annotated[str, Meta(pattern="^" + _DECIMAL)]  # a decimal, kept as text
PriceText = Annotated[str, Meta(pattern="^(?=[0-9.]*[1-9])" + _DECIMAL)]  # that of a trade or candle is never 0


class Match(Struct, forbid_unknown_fields=True, gc=False):
    """``match`` and ``last_match``: ``side`` is the maker's."""

    trade_id: Id
    side: Literal["buy", "sell"]
    size: Text
    price: PriceText
    product_id: str
    time: str
    type: str = ""
    sequence: Id = 0
    maker_order_id: str = ""
    taker_order_id: str = ""
    maker_user_id: str = ""  # the four of an authenticated connection: our own orders
    maker_profile_id: str = ""
    taker_user_id: str = ""
    taker_profile_id: str = ""
    user_id: str = ""
    profile_id: str = ""
    taker_fee_rate: str = ""
    maker_fee_rate: str = ""


class L2Update(Struct, forbid_unknown_fields=True, gc=False):
    """``l2update``: absolute new sizes; ``time`` may be of year 1."""

    product_id: str
    changes: list[tuple[Literal["buy", "sell"], Price, Quantity]]
    time: str = ""
    type: str = ""


class Snapshot(Struct, forbid_unknown_fields=True, gc=False):
    """``snapshot``: the whole book; recordings of 2021 have no ``time``."""

    product_id: str
    bids: list[tuple[Price, Quantity]]
    asks: list[tuple[Price, Quantity]]
    time: str = ""
    type: str = ""


class Ticker(Struct, forbid_unknown_fields=True, gc=False):
    """``ticker``: best prices at a match; the sizes came in 2022. A new product has fewer keys."""

    product_id: str
    best_bid: Text = "0"
    best_ask: Text = "0"
    best_bid_size: Text = "0"
    best_ask_size: Text = "0"
    sequence: Id = 0
    time: str = ""
    type: str = ""
    price: str = ""
    open_24h: str = ""
    volume_24h: str = ""
    low_24h: str = ""
    high_24h: str = ""
    volume_3d: str = ""
    volume_30d: str = ""
    side: str = ""
    trade_id: Id = 0
    last_size: str = ""


class Heartbeat(Struct, forbid_unknown_fields=True, gc=False):
    """``heartbeat``: once a second and product, with the id of its last trade."""

    product_id: str
    last_trade_id: Id
    time: str = ""
    type: str = ""
    sequence: Id = 0


class Channel(Struct):
    """One channel in a ``subscriptions`` reply; further keys are of no matter."""

    name: str
    product_ids: list[str] | None = None


class Subscriptions(Struct):
    """``subscriptions``: everything that this connection has now."""

    channels: list[Channel] | None = None


class Product(Struct):
    """A product in a ``status`` message; Advanced Trade has the same under other names of base and quote."""

    id: str
    status: str = ""
    status_message: str | None = ""


class StatusMessage(Struct):
    """``status`` of Coinbase Exchange: products and currencies, the latter not read."""

    products: list[Product] = []


class ErrorFrame(Struct):
    """``error``, of both APIs."""

    message: str = ""
    reason: str = ""


# Advanced Trade: {channel, client_id, timestamp, sequence_num, events}


class L2Level(Struct, forbid_unknown_fields=True, gc=False):
    """One level of ``l2_data``: an absolute new quantity."""

    side: Literal["bid", "offer", "ask"]
    price_level: Price
    new_quantity: Quantity
    event_time: str = ""


class L2Event(Struct, forbid_unknown_fields=True, gc=False):
    """An ``l2_data`` event of one product."""

    type: Literal["snapshot", "update"]
    product_id: str
    updates: list[L2Level]


class L2Frame(Struct, forbid_unknown_fields=True, gc=False):
    """A frame of channel ``l2_data``."""

    timestamp: str
    sequence_num: Id
    events: list[L2Event]
    channel: str = ""
    client_id: str = ""


class AdvancedTrade(Struct, forbid_unknown_fields=True, gc=False):
    """One trade of ``market_trades``: ``side`` is the maker's."""

    trade_id: str
    product_id: str
    price: PriceText
    size: Text
    side: Literal["BUY", "SELL", "UNKNOWN_ORDER_SIDE"]
    time: str


class TradesEvent(Struct, forbid_unknown_fields=True, gc=False):
    """Trades, newest first; a ``snapshot`` has the last 100."""

    type: Literal["snapshot", "update"]
    trades: list[AdvancedTrade]


class TradesFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A frame of channel ``market_trades``."""

    timestamp: str
    sequence_num: Id
    events: list[TradesEvent]
    channel: str = ""
    client_id: str = ""


class AdvancedTicker(Struct, forbid_unknown_fields=True, gc=False):
    """One product's ticker; ``type`` is ``ticker``."""

    product_id: str
    best_bid: Text = "0"
    best_bid_quantity: Text = "0"
    best_ask: Text = "0"
    best_ask_quantity: Text = "0"
    type: str = ""
    price: str = ""
    volume_24_h: str = ""
    low_24_h: str = ""
    high_24_h: str = ""
    low_52_w: str = ""
    high_52_w: str = ""
    price_percent_chg_24_h: str = ""


class TickerEvent(Struct, forbid_unknown_fields=True, gc=False):
    """Tickers of some products."""

    type: Literal["snapshot", "update"]
    tickers: list[AdvancedTicker]


class TickerFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A frame of channel ``ticker``."""

    timestamp: str
    sequence_num: Id
    events: list[TickerEvent]
    channel: str = ""
    client_id: str = ""


class AdvancedCandle(Struct, forbid_unknown_fields=True, gc=False):
    """A five-minute candle so far; ``start`` in seconds."""

    start: Annotated[int, Meta(ge=0, lt=9_200_000_000)]
    high: PriceText
    low: PriceText
    open: PriceText
    close: PriceText
    volume: Text
    product_id: str


class CandlesEvent(Struct, forbid_unknown_fields=True, gc=False):
    """Candles of some products; a ``snapshot`` has past ones, too."""

    type: Literal["snapshot", "update"]
    candles: list[AdvancedCandle]


class CandlesFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A frame of channel ``candles``."""

    timestamp: str
    sequence_num: Id
    events: list[CandlesEvent]
    channel: str = ""
    client_id: str = ""


class HeartbeatsFrame(Struct):
    """A frame of channel ``heartbeats``: only its number matters."""

    sequence_num: Id


class SubscriptionsEvent(Struct):
    """Products by channel that the connection has now."""

    subscriptions: dict[str, list[str] | None]


class SubscriptionsFrame(Struct):
    """A frame of channel ``subscriptions``."""

    sequence_num: Id
    events: list[SubscriptionsEvent] = []


class StatusEvent(Struct):
    """Products with their states."""

    products: list[Product] = []


class StatusFrame(Struct):
    """A frame of channel ``status``."""

    sequence_num: Id
    events: list[StatusEvent] = []


class Head(Struct):
    """What every frame of Advanced Trade has, errors apart."""

    channel: str
    sequence_num: Id


def exchange_wires() -> dict[str, Wire[Any]]:
    """Return fresh decoders of Coinbase Exchange by ``type``; they remember which unknown keys they saw."""
    kinds: dict[str, type[Any]] = {
        "match": Match,
        "last_match": Match,
        "l2update": L2Update,
        "snapshot": Snapshot,
        "ticker": Ticker,
        "heartbeat": Heartbeat,
        "subscriptions": Subscriptions,
        "status": StatusMessage,
        "error": ErrorFrame,
    }
    return {name: Wire(kind) for name, kind in kinds.items()}


def advanced_wires() -> dict[str, Wire[Any]]:
    """Return fresh decoders of Advanced Trade by ``channel``."""
    kinds: dict[str, type[Any]] = {
        "l2_data": L2Frame,
        "market_trades": TradesFrame,
        "ticker": TickerFrame,
        "ticker_batch": TickerFrame,
        "candles": CandlesFrame,
        "heartbeats": HeartbeatsFrame,
        "subscriptions": SubscriptionsFrame,
        "status": StatusFrame,
    }
    return {name: Wire(kind) for name, kind in kinds.items()}
