"""A hub and a client's core joined without a socket: bytes are cut anywhere, connections end at will."""

from __future__ import annotations

from typing import Any

from cmd_common.orderbook import OrderBook
from cmd_common.records import Record
from cmd_server import codec
from cmd_server.client.core import ClientCore, ClientOptions
from cmd_server.client.events import Item, Lost, Message
from cmd_server.framing import Splitter
from cmd_server.hub import Client, Hub
from cmd_server.messages import Kind

MS = 1_000_000


class Pair:
    """``core`` reads from whichever hub ``connect`` was called with last."""

    def __init__(self, *topics: str, **options: Any) -> None:
        self.core = ClientCore(ClientOptions(topics, **options))
        self.items: list[Item] = []
        self.hub: Hub | None = None
        self.client: Client | None = None
        self.now = 1
        self._up = Splitter(1 << 20)
        self._down = b""

    def connect(self, hub: Hub, **more: Any) -> None:
        assert self.hub is None
        self.hub, self.client = hub, hub.attach("pair", hub.now, **more)
        self._up, self._down = Splitter(1 << 20), b""
        self.core.connected(self.now, "tcp:test")

    def disconnect(self, reason: str = "cut") -> None:
        assert self.hub is not None
        assert self.client is not None
        self.hub.detach(self.client)
        self.hub = self.client = None
        self.items += self.core.disconnected(reason)

    def step(self, max_bytes: int = 1 << 20, cut: int = 1 << 20) -> bool:
        """Carry requests up and at most ``cut`` bytes down; False: nothing moved."""
        assert self.hub is not None
        assert self.client is not None
        self.now += MS
        moved = False
        for frame in self._up.feed(b"".join(self.core.outgoing(self.now))):
            self.hub.handle(self.client, codec.decode_request(frame), self.hub.now + MS)
            moved = True
        if not self._down:
            self._down = b"".join(self.client.take(max_bytes))
        data, self._down = self._down[:cut], self._down[cut:]
        if data:
            self.items += self.core.receive(data, self.now)
            moved = True
        self.core.check()
        return moved

    def drain(self, max_bytes: int = 1 << 20, cut: int = 1 << 20) -> None:
        while self.step(max_bytes, cut) and not self.core.broken and self.core.failure is None:
            pass

    def records(self, kind: type[Record]) -> list[Any]:
        return [i.record for i in self.items if isinstance(i, Message) and isinstance(i.record, kind)]

    def events(self, kind: type) -> list[Any]:
        return [i for i in self.items if isinstance(i, kind)]

    def take(self) -> list[Item]:
        found, self.items = self.items, []
        return found


def same(one: OrderBook, other: OrderBook) -> bool:
    return one.bids() == other.bids() and one.asks() == other.asks() and one.state is other.state


def check_numbers(items: list[Item], kind: Kind = Kind.TRADES) -> None:
    """Every trade number of a symbol from the first on came once, in order, or lies in a hole that Lost explains."""
    last: dict[tuple[str, str], int] = {}
    excused: dict[tuple[str, str], int] = {}  # how many may be missing; -1: any number
    for item in items:
        if isinstance(item, Lost) and item.kind is kind:
            key = item.venue, item.symbol
            excused[key] = -1 if not item.to_seq or excused.get(key) == -1 else excused.get(key, 0) + item.count
        elif isinstance(item, Message) and type(item.record).__name__ == "Trade":
            trade: Any = item.record
            key = trade.venue, trade.symbol
            if key in last:
                hole = trade.trade_seq - last[key] - 1
                allowed = excused.pop(key, 0)
                assert hole == allowed or allowed == -1, (
                    f"{key}: {trade.trade_seq} follows {last[key]}, {allowed} excused"
                )
                assert trade.trade_seq > last[key]
            excused.pop(key, None)
            last[key] = trade.trade_seq
