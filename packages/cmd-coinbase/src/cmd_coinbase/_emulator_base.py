"""What the emulators of both Coinbase APIs share: clients, the five seconds to subscribe, products, pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from cmd_common.emulation import MarketSource, Poll
from cmd_common.emulation_base import Connection, Item
from cmd_common.http import HttpResponse
from cmd_common.instruments import InstrumentKind
from cmd_common.venue_emulator import VenueEmulator
from cmd_common.venue_world import CandleUpdate, Trade

from .instruments import Market

__all__ = ["Client", "CoinbaseEmulatorBase", "maker", "text_of", "uuid_of"]

_SECOND: Final = 1_000_000_000
_SUBSCRIBE_WITHIN: Final = 5 * _SECOND


class Client(Struct):
    """One connection: its products by channel, whether it ever subscribed, and how many frames it was sent."""

    channels: dict[str, list[str]]
    spoke: bool = False
    frames: int = 0

    def add(self, channel: str, products: Iterable[str]) -> None:
        """Remember a subscription."""
        known = self.channels.setdefault(channel, [])
        known += [p for p in dict.fromkeys(products) if p not in known]

    def drop(self, channel: str, products: Iterable[str]) -> None:
        """Forget a subscription."""
        gone = set(products)
        left = [p for p in self.channels.get(channel, []) if p not in gone]
        if left:
            self.channels[channel] = left
        else:
            self.channels.pop(channel, None)


def text_of(value: Any) -> str:
    """Encode a frame."""
    return msgspec.json.encode(value).decode()


def maker(side: str) -> str:
    """The resting side of a trade whose aggressor is ``side``."""
    return "sell" if side == "buy" else "buy"


def uuid_of(*numbers: int) -> str:
    """Make an order id that is the same in every run."""
    value = 0x9E37_79B9_7F4A_7C15
    for number in numbers:
        value = (value ^ number) * 0x1000_0000_01B3_0000_0000_0000_0000_013B % (1 << 128)
    return str(UUID(int=value, version=4))


class CoinbaseEmulatorBase(VenueEmulator[Client]):
    """See ``cmd_common.venue_emulator``; a client must subscribe within five seconds or is closed [D]."""

    usual_quote = "USD"
    connects_per_5min = 2400
    market_: ClassVar[Market]

    def __init__(self, source: MarketSource) -> None:
        self.messages_per_second = self.market_.messages_per_second
        super().__init__(source)

    def native(self, base: str, quote: str, kind: InstrumentKind) -> str:
        """``BTC-USD``."""
        return f"{base}-{quote}"

    def connect(self, connection: Connection, target: str, headers: Mapping[str, str]) -> Client | HttpResponse:
        """The WebSocket lies at the root."""
        return Client({}) if target.partition("?")[0] in ("", "/") else self.not_found()

    def poll(self, now: int, limit: int = 256) -> Poll:
        """Return what is due; close who has not subscribed in time."""
        out = super().poll(now, limit)
        for client in list(self.connections.values()):
            if client.closing or self.state(client).spoke:
                continue
            deadline = client.opened + _SUBSCRIBE_WITHIN
            if now >= deadline:
                out.frames.append(self._close(client, 1008, "no subscribe message within 5 seconds", now))
            elif out.next_time is None or deadline < out.next_time:
                out.next_time = deadline
        return out

    def unknown_products(self, products: Iterable[Any]) -> list[str]:
        """Names that are no product."""
        return [str(p) for p in products if not isinstance(p, str) or p not in self.market.symbols]

    def passed_before(self, symbol: str, end: int, count: int, start: int = 0) -> list[Trade]:
        """The last trades with ``start <= ts <= end``, newest first. O(window); pages are small against a day."""
        trades = self.market.trades_between(symbol, start, end + 1)
        return trades[::-1][:count]

    def bars(self, symbol: str, interval: str, start: int, end: int) -> list[CandleUpdate]:
        """Candles that open in the window and have a trade, newest first."""
        return [c for c in reversed(self.market.candles(symbol, interval, start, end)) if c.count]

    def garbage(self, form: str, item: Item, size: int) -> str:
        """Return an extra frame for the fault malformed."""
        if form == "huge":
            return '{"type":"surprise","x":"' + "x" * size + '"}'
        if form == "unknown":
            return '{"type":"surprise","product_id":"' + item.symbol + '","new_field":{"a":[1,2,3]}}'
        return super().garbage(form, item, size)
