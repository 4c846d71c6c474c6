"""A market, and a hub and a client's core joined without a socket: bytes are cut anywhere, connections end at will."""

from __future__ import annotations

from typing import Any

from hub_world import T0, delta, snapshot, status, trade

from cmd_common.orderbook import OrderBook
from cmd_common.records import Record
from cmd_server import codec
from cmd_server.client.core import ClientCore, ClientOptions
from cmd_server.client.events import Item, Lost, Message
from cmd_server.framing import Splitter
from cmd_server.hub import Client, Hub
from cmd_server.messages import Kind

MS = 1_000_000


class Market:
    """Two symbols with a book and trades each; books go STALE and come back. Trades are numbered from 1."""

    def __init__(self) -> None:
        self.trades = {"A": 0, "B": 0}
        self.live = {"A": False, "B": False}
        self.epochs = {"A": 0, "B": 0}
        self.time = 0

    def records(self, symbol: str, what: int) -> list[Any]:
        self.time += 1
        n = self.time
        if what == 0:
            self.trades[symbol] += 1
            return [trade(self.trades[symbol], symbol=symbol, ts=T0 + n)]
        if what == 1 and self.live[symbol]:
            self.live[symbol] = False
            return [status("STALE", n, symbol=symbol)]
        if what <= 2 or not self.live[symbol]:
            self.epochs[symbol] += 1
            self.live[symbol] = True
            levels = [(90.0 + n % 9, 1.0 + n), (80.0, 1.0)]
            return [snapshot(n, levels, [(101.0, float(n))], symbol=symbol, epoch=self.epochs[symbol])]
        bids, asks = [(90.0 + n % 9, float(n % 3))], [(101.0 + n % 4, 1.0 + n)]
        return [delta(n, bids, asks, symbol=symbol, epoch=self.epochs[symbol])]


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
