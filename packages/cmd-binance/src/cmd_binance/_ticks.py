"""Trades and quotes: from the exchange's typed messages to records, and a parser of single messages without a feed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from cmd_common.errors import DataError
from cmd_common.records import INEXACT, TS_FROM_RECV, AggTrade, Quote, Trade
from cmd_common.ticks import Tick, TickParser

from . import _messages as wire

__all__ = ["agg_trade", "inexact_flag", "parser", "quote", "trade"]

_MICRO: Final = wire.MICRO
_EXACT: Final = 1e7  # below it, a decimal of at most 8 places has at most 15 digits
_QUOTE_KEYS: Final = frozenset("usbBaA")


def trade(d: wire.TradeEvent, frame: str | bytes, venue: str, now: int) -> Trade:
    """Return the record of a ``trade``; ``frame`` is looked at for digits that a float does not keep."""
    ts = d.T * 1000 if d.T >= _MICRO else d.T * 1_000_000
    p, q = d.p, d.q
    flags = 0
    if p >= _EXACT or q >= _EXACT or int(p * 1e8 + 0.5) / 1e8 != p or int(q * 1e8 + 0.5) / 1e8 != q:
        flags = inexact_flag(frame, ("p", "q"))
    return Trade(ts, now, venue, d.s, str(d.t), d.t, p, q, "sell" if d.m else "buy", flags)


def agg_trade(d: wire.AggTradeEvent, frame: str | bytes, venue: str, now: int) -> AggTrade:
    """Return the record of an ``aggTrade``."""
    ts = d.T * 1000 if d.T >= _MICRO else d.T * 1_000_000
    p, q = d.p, d.q
    flags = 0
    if p >= _EXACT or q >= _EXACT or int(p * 1e8 + 0.5) / 1e8 != p or int(q * 1e8 + 0.5) / 1e8 != q:
        flags = inexact_flag(frame, ("p", "q"))
    return AggTrade(ts, now, venue, d.s, str(d.a), d.a, d.f, d.l, p, q, "sell" if d.m else "buy", flags)


def quote(d: wire.QuoteEvent, frame: str | bytes, venue: str, now: int) -> Quote:
    """Return the record of a ``bookTicker``."""
    t = d.T
    ts, flags = ((t * 1000 if t >= _MICRO else t * 1_000_000), 0) if t else (now, TS_FROM_RECV)
    b, B, a, A = d.b, d.B, d.a, d.A
    if (
        b >= _EXACT
        or B >= _EXACT
        or a >= _EXACT
        or A >= _EXACT
        or int(b * 1e8 + 0.5) / 1e8 != b
        or int(B * 1e8 + 0.5) / 1e8 != B
        or int(a * 1e8 + 0.5) / 1e8 != a
        or int(A * 1e8 + 0.5) / 1e8 != A
    ):
        flags |= inexact_flag(frame, ("b", "B", "a", "A"))
    return Quote(ts, now, venue, d.s, d.u, b, B, a, A, flags)


def inexact_flag(frame: str | bytes, keys: Sequence[str], inner: str = "") -> int:
    """Return INEXACT if one of these decimals has more digits than float64 keeps. Slow, and rarely called."""
    outer = msgspec.json.decode(frame)
    event = outer.get("data", outer)
    if inner:
        event = event[inner]
    return INEXACT if any(wire.inexact(str(event[key])) for key in keys) else 0


Make = Callable[[Any, str | bytes, str, int], Tick]
_KINDS: Final[dict[str, tuple[type[msgspec.Struct], Make]]] = {
    "trade": (wire.TradeEvent, trade),
    "aggTrade": (wire.AggTradeEvent, agg_trade),
    "bookTicker": (wire.QuoteEvent, quote),
}


@cache
def parser(venue: str) -> TickParser:
    """The parser of single messages of a venue; see ``cmd_common.ticks.TickParser``."""

    def parse(frame: str | bytes, now: int) -> Tick | None:
        if len(frame) > wire.MAX_FRAME:
            raise DataError(f"a message of {venue} of {len(frame)} bytes: at most {wire.MAX_FRAME} are decoded")
        try:
            event = msgspec.json.decode(frame)
            if isinstance(event, dict) and "data" in event and isinstance(event.get("stream", ""), str):
                event = event["data"]
            if not isinstance(event, dict):
                return None
            name = event.get("e")
            if name is None and event.keys() >= _QUOTE_KEYS:
                name = "bookTicker"
            if not isinstance(name, str) or name not in _KINDS:
                return None
            kind, make = _KINDS[name]
            message, _ = wire.lenient(kind, event)
            if name == "trade":
                if message.X != "MARKET":  # of the insurance fund, or of auto-deleveraging: no trade of the market
                    return None
                if message.p == 0.0:
                    raise DataError(f"a trade of {venue} with price 0")
            return make(message, frame, venue, now)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            raise DataError(f"a message of {venue} that cannot be read: {' '.join(str(error).split())}") from error

    return parse
