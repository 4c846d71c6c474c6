"""Topics: which streams a client asks for, as text.

A topic is ``KIND[@VIEW] VENUE:SYMBOL`` with the wildcards ``*``, ``?`` and ``[...]`` on both sides of the colon:

    trades binance-spot:BTCUSDT     one instrument
    book@20 *:BTC*                  the best 20 levels of everything that begins with BTC, on every venue
    bbo coinbase:BTC-USD            best bid and offer of the book
    candles@5m kraken:*             candles of five minutes; candles@5m:built never takes the venue's own
    aggregate@20 BTC-USDT           one instrument merged over venues, by its unified name
    status *                        everything

A name without a colon means that symbol on every venue. Case does not matter.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import Final

from cmd_common.candles import interval_bounds
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.symbols import nearest

from .messages import KINDS, Kind, view_code, view_text

__all__ = ["BBO", "Topic"]

BBO: Final = 1
"""The view of kind QUOTES that is derived from the book."""

_OF: Final = {
    "trades": Kind.TRADES,
    "agg_trades": Kind.AGG_TRADES,
    "quotes": Kind.QUOTES,
    "bbo": Kind.QUOTES,
    "book": Kind.BOOK,
    "candles": Kind.CANDLES,
    "aggregate": Kind.AGGREGATE,
    "status": Kind.STATUS,
    "gaps": Kind.GAPS,
    "instruments": Kind.NONE,
}
_WILD: Final = re.compile(r"[*?\[]")
_LONGEST: Final = 200  # characters; a longer topic is a mistake or an attack on the pattern compiler
_HINT: Final = "write it as KIND[@VIEW] VENUE:SYMBOL, such as book@20 binance-spot:BTCUSDT or trades *"


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    # Repeated stars would make the expression slow and say nothing more than one.
    return re.compile(translate(re.sub(r"\*+", "*", text)), re.IGNORECASE)


class Topic:
    """One parsed topic; ``kind`` NONE asks for reference data only. Raises UsageError, UnknownNameError."""

    __slots__ = ("_symbol", "_venue", "exact", "kind", "text", "view")

    def __init__(self, text: str) -> None:
        words = text.split()
        if len(text) > _LONGEST or len(words) != 2 or not text.isprintable():
            shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
            raise UsageError(f"{shown!r} is no topic", hint=_HINT)
        name, at, view = words[0].partition("@")
        name = name.lower()
        if name not in _OF:
            raise UnknownNameError(
                "kind of topic", name, nearest(name, KINDS), hint="" if nearest(name, KINDS) else _HINT
            )
        if at and not view:
            raise UsageError(f"{text!r} names no view behind the @", hint=_HINT)
        self.text = text
        self.kind = _OF[name]
        if name == "instruments" and view:
            raise UsageError(f"instruments have no views, but {view!r} was asked for")
        self.view = BBO if name == "bbo" and not view else view_code(self.kind, view)
        venue, colon, symbol = words[1].rpartition(":")
        if (colon and not venue) or not symbol:
            raise UsageError(f"{text!r} names no venue and symbol", hint=_HINT)
        if self.kind is Kind.AGGREGATE and colon:
            raise UsageError(
                f"{text!r}: an aggregate is of no single venue",
                hint="name the instrument, such as aggregate@20 BTC-USDT",
            )
        if words[1].count("*") > 16:
            raise UsageError(f"{text!r} has too many wildcards")
        if self.kind is Kind.AGGREGATE:
            symbol = symbol.replace("/", "-")
        elif self.kind is Kind.CANDLES:
            interval_bounds(0, view.partition(":")[0])
        self._venue = _pattern(venue or "*")
        self._symbol = _pattern(symbol)
        self.exact: tuple[str, str] | None = None
        """Venue and symbol in lower case, where neither has a wildcard."""
        if venue and not _WILD.search(words[1]):
            self.exact = (venue.casefold(), symbol.casefold())

    @property
    def literal(self) -> str:
        """The symbol where it has no wildcard, upper-case; else empty."""
        symbol = self.text.split()[1].rpartition(":")[2]
        return "" if _WILD.search(symbol) else symbol.upper().replace("/", "-")

    def matches(self, venue: str, symbol: str) -> bool:
        """Whether an instrument is one that was asked for."""
        if self.exact is not None:
            return self.exact == (venue.casefold(), symbol.casefold())
        return self._symbol.match(symbol) is not None and self._venue.match(venue) is not None

    def __repr__(self) -> str:
        return f"<Topic {self.text} = {self.kind.name} {view_text(self.kind, self.view)}>"
