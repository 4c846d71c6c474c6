"""The wire forms of Binance's stream messages and REST bodies, as typed decoders.

Numbers are checked while they are decoded: a price or quantity that is negative, infinite or not a
number makes the whole message malformed, so that none can reach a book or a store. Ids and times are
bounded so that they fit the stores' 64-bit columns. All known keys are listed, so that a message
with a new key is noticed: decoding it raises, and the feed then decodes it with the new keys left out.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from cmd_common.builder import Delta
from cmd_common.errors import DataError

__all__ = [
    "MAX_FRAME",
    "MICRO",
    "AggTradeEvent",
    "AggTradeFrame",
    "DepthBody",
    "DepthEvent",
    "DepthFrame",
    "KlineEvent",
    "KlineFrame",
    "PartialEvent",
    "PartialFrame",
    "QuoteEvent",
    "QuoteFrame",
    "TradeEvent",
    "TradeFrame",
    "Wrapped",
    "depth_delta",
    "inexact",
    "known",
    "lenient",
    "lenient_frame",
]

MAX_FRAME: Final = 16 * 1024 * 1024
"""A frame above this many characters is not decoded but counted as malformed."""
MICRO: Final = 9_200_000_000_000
"""A time from here on is in microseconds, below in milliseconds: as either, it fits as ns in 64 bits."""

Price = Annotated[float, Meta(gt=0, lt=1e18)]
Quantity = Annotated[float, Meta(ge=0, lt=1e24)]
Id = Annotated[int, Meta(ge=-1, lt=1 << 62)]
Time = Annotated[int, Meta(gt=0, lt=9_200_000_000_000_000)]  # ms or us; still fits as ns
Levels = list[tuple[Price, Quantity]]


class TradeEvent(Struct, forbid_unknown_fields=True, gc=False):
    """``trade``: ``m`` true means that the buyer was the maker, so the taker sold."""

    s: str
    t: Id
    p: Quantity  # 0 on futures where X is NA
    q: Quantity
    T: Time
    m: bool
    e: str = ""
    E: Time = 0
    M: bool = False
    X: str = "MARKET"  # futures: MARKET, INSURANCE_FUND, ADL or NA
    ps: str = ""
    st: int = 0
    b: int = 0  # order ids; spot sent them until 2024
    a: int = 0


class AggTradeEvent(Struct, forbid_unknown_fields=True, gc=False):
    """``aggTrade``: trades ``f..l`` of one taker order at one price."""

    s: str
    a: Id
    p: Price
    q: Quantity
    f: Id
    l: Id  # noqa: E741 - the exchange's name
    T: Time
    m: bool
    e: str = ""
    E: Time = 0
    M: bool = False
    nq: str = ""  # futures: quantity without retail price improvement orders
    ps: str = ""
    st: int = 0


class QuoteEvent(Struct, forbid_unknown_fields=True, gc=False):
    """``bookTicker``: a side without an order has price and quantity 0. Spot sends no ``e``, ``E``, ``T``."""

    u: Id
    s: str
    b: Quantity
    B: Quantity
    a: Quantity
    A: Quantity
    T: Time = 0
    e: str = ""
    E: Time = 0
    ps: str = ""
    st: int = 0


class DepthEvent(Struct, forbid_unknown_fields=True, gc=False):
    """``depthUpdate``: absolute quantities of the levels that changed in updates ``U..u``."""

    s: str
    U: Id
    u: Id
    b: Levels
    a: Levels
    E: Time
    T: Time = 0  # futures
    pu: Id | None = None  # futures
    e: str = ""
    ps: str = ""
    st: int = 0


class PartialEvent(Struct, forbid_unknown_fields=True, gc=False):
    """Spot's ``@depth5/10/20``: no symbol, no time; futures send a ``depthUpdate`` instead."""

    lastUpdateId: Id
    bids: Levels
    asks: Levels


class Kline(Struct, forbid_unknown_fields=True, gc=False):
    """The candle in a ``kline`` event; ``x`` true means closed."""

    t: Time
    T: Time
    i: str
    o: Quantity
    c: Quantity
    h: Quantity
    l: Quantity  # noqa: E741 - the exchange's name
    v: Quantity
    n: Id
    x: bool
    q: Quantity
    V: Quantity
    Q: Quantity
    s: str = ""
    f: int = 0
    L: int = 0
    B: str = ""


class KlineEvent(Struct, forbid_unknown_fields=True, gc=False):
    """``kline``: one interval so far."""

    E: Time
    s: str
    k: Kline
    e: str = ""
    ps: str = ""
    st: int = 0


class TradeFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A trade in the combined form."""

    data: TradeEvent
    stream: str = ""


class AggTradeFrame(Struct, forbid_unknown_fields=True, gc=False):
    """An aggregate trade in the combined form."""

    data: AggTradeEvent
    stream: str = ""


class QuoteFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A best bid and offer in the combined form."""

    data: QuoteEvent
    stream: str = ""


class DepthFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A depth event in the combined form."""

    data: DepthEvent
    stream: str = ""


class PartialFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A spot partial book in the combined form; its symbol is only in the stream's name."""

    data: PartialEvent
    stream: str


class KlineFrame(Struct, forbid_unknown_fields=True, gc=False):
    """A candle in the combined form."""

    data: KlineEvent
    stream: str = ""


class DepthBody(Struct):
    """The body of a REST depth request; futures add ``E`` and ``T``."""

    lastUpdateId: Id
    bids: Levels
    asks: Levels
    E: Time = 0
    T: Time = 0


def known(kind: type[Struct]) -> frozenset[str]:
    """Return the keys that a message of this kind may have."""
    return frozenset(kind.__struct_fields__)


_KNOWN: Final[dict[type[Struct], frozenset[str]]] = {
    kind: known(kind) for kind in (TradeEvent, AggTradeEvent, QuoteEvent, DepthEvent, PartialEvent, KlineEvent, Kline)
}


def lenient(kind: type[Struct], message: dict[str, Any]) -> tuple[Any, list[str]]:
    """Convert a decoded message, leaving out keys that are not known; returns them too.

    Raises msgspec.ValidationError where a known key is missing or wrong.
    """
    keys = _KNOWN[kind]
    unknown = [k for k in message if k not in keys]
    if unknown:
        message = {k: v for k, v in message.items() if k in keys}
    if kind is KlineEvent and isinstance(message.get("k"), dict):
        inner_keys = _KNOWN[Kline]
        inner = message["k"]
        more = [k for k in inner if k not in inner_keys]
        if more:
            unknown += [f"k.{k}" for k in more]
            message = {**message, "k": {k: v for k, v in inner.items() if k in inner_keys}}
    return msgspec.convert(message, kind, strict=False), unknown


def inexact(text: str) -> bool:
    """Whether a decimal has more than 15 significant digits, the most that float64 always keeps."""
    digits = text.replace(".", "", 1).lstrip("0-")
    return len(digits) > 15 and len(digits.rstrip("0")) > 15


class Wrapped(Struct):
    """A message that was converted apart from its frame, in the frame's form."""

    data: Any
    stream: str


def lenient_frame(frame: type[Struct]) -> type[Struct]:
    """Return a kind of frame that passes over unknown keys without noticing them."""
    fields = {f.name: f for f in msgspec.structs.fields(frame)}
    event = fields["data"].type
    kline = [("k", _lenient(Kline))] if event is KlineEvent else []
    return msgspec.defstruct(
        frame.__name__,
        [("data", msgspec.defstruct(event.__name__, kline, bases=(event,), forbid_unknown_fields=False))],
        bases=(frame,),
        forbid_unknown_fields=False,
    )


@cache
def _depth_decoders() -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    kinds = lenient_frame(DepthFrame), _lenient(DepthEvent)
    return msgspec.json.Decoder(kinds[0], strict=False), msgspec.json.Decoder(kinds[1], strict=False)


def depth_delta(frame: str | bytes) -> tuple[str, Delta] | None:
    """Parse a depth event, bare or in the combined form: its symbol and what ``OrderBookBuilder.delta`` takes.

    None for every other message; unknown keys are passed over. Raises DataError for damage.
    """
    if not (b"depthUpdate" in frame if isinstance(frame, bytes) else "depthUpdate" in frame):
        return None
    combined, bare = _depth_decoders()
    try:
        try:
            event = combined.decode(frame).data
        except msgspec.ValidationError:
            event = bare.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"a depth event of Binance that cannot be read: {error}") from error
    if event.e != "depthUpdate":
        return None
    t = event.T or event.E
    ts = t * 1000 if t >= MICRO else t * 1_000_000
    return event.s, (event.U, event.u, event.pu, event.b, event.a, ts)


def _lenient(kind: type[Struct]) -> type[Struct]:
    return msgspec.defstruct(kind.__name__, [], bases=(kind,), forbid_unknown_fields=False)
