"""A simulated Binance market: the venue-neutral simulation, batched into Binance's streams."""

from __future__ import annotations

import heapq
from datetime import date, timedelta
from typing import Any

import msgspec

from cmd_common.candles import interval_bounds
from cmd_common.emulation import MarketSource
from cmd_common.emulation_base import Item
from cmd_common.simulation import (
    MarketDepth,
    MarketQuote,
    MarketTrade,
    SimulatedMarket,
    Spec,
    agg_id,
    catalogue,
    day_of,
    day_start,
    decimal_text,
)

from ._emulator_market import Agg, Bar, KlineStreams, KlineUpdate, Numbers, aggregate, build_bars
from ._emulator_world import Listed, Snapshot, split_stream
from .instruments import Market

__all__ = ["Partial", "SimulatedWorld"]

_MS = 1_000_000
_SECOND = 1_000_000_000
_DEFAULT_SECONDS = 60  # of a simulation that must end but was given no length
_SPEEDS = {"spot": (100, 1000), "usdm": (100, 250, 500), "coinm": (100, 250, 500)}


class Partial(msgspec.Struct, frozen=True):
    """The best levels of a book, for the partial depth streams."""

    symbol: str
    ts: int
    last_id: int
    prev_id: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


def _specs(market: Market, source: MarketSource) -> list[Spec]:
    if market.name != "coinm":
        specs = catalogue(source.symbols, names=source.symbol_names)
        if market.name == "usdm":
            return [msgspec.structs.replace(s, quantity_decimals=min(s.quantity_decimals, 3)) for s in specs]
        return specs
    specs = catalogue(source.symbols, quote="USD", suffix="_PERP", names=source.symbol_names)
    # Quantities are contracts of 100 (BTC) or 10 dollars.
    return [msgspec.structs.replace(s, quantity_decimals=0, lots=20 if s.base == "BTC" else 200) for s in specs]


class SimulatedWorld:
    """``BinanceWorld`` over a ``SimulatedMarket``."""

    exchange_info: bytes | None = None

    def __init__(self, market: Market, source: MarketSource) -> None:
        self._market = market
        specs = [msgspec.structs.replace(s, rate=source.rate, levels=source.levels) for s in _specs(market, source)]
        self._specs = {s.symbol: s for s in specs}
        duration = source.duration or (_DEFAULT_SECONDS * _SECOND if source.exit_at_end else 0)
        self.sim = SimulatedMarket(
            specs,
            seed=source.seed,
            start=source.start,
            duration=duration,
            history_days=source.history_days,
            history_trades=source.history_trades,
            jump=market.futures,
        )
        self.symbols = tuple(self._specs)
        self.start = self.position = self.clock = self.sim.start
        sizes = {s.symbol: (100 if s.base == "BTC" else 10) if market.name == "coinm" else 0 for s in specs}
        self._sizes = sizes
        self._numbers = {
            s.symbol: Numbers(market, s.price_decimals, s.quantity_decimals, sizes[s.symbol]) for s in specs
        }
        self._last_trade = {s: self.sim.first_live_id(s) - 1 for s in self.symbols}
        self._klines = KlineStreams(late=False)
        self._fills: dict[str, MarketTrade] = {}
        self._timers: list[tuple[int, str]] = []  # (timeline ns, stream); "": the candles' clock
        self._merged: dict[str, dict[str, Any]] = {}  # slower depth streams: changes since their last message
        self._depth_streams: dict[str, list[tuple[str, int, int]]] = {}  # symbol: (stream, levels or 0, ms)

    # Timeline

    def next_time(self) -> int | None:
        """Time of the next event or timer."""
        ts = self.sim.next_time()
        if ts is not None and self._timers and self._timers[0][0] < ts:
            return self._timers[0][0]
        return ts

    def step(self) -> list[Item]:
        """Advance by one event or timer."""
        ts = self.sim.next_time()
        if self._timers and (ts is None or self._timers[0][0] < ts):
            due, stream = heapq.heappop(self._timers)
            self.position = self.clock = due
            return self._timer(due, stream)
        items: list[Item] = []
        for event in self.sim.step():
            if isinstance(event, MarketTrade):
                self._trade(event, items)
            elif isinstance(event, MarketQuote):
                items.append(Item(f"{event.symbol.lower()}@bookTicker", event.symbol, event))
            else:
                self._depth(event, items)
        self.position = self.clock = self.sim.position
        return items

    def _trade(self, trade: MarketTrade, items: list[Item]) -> None:
        symbol = trade.symbol
        low = symbol.lower()
        self._last_trade[symbol] = trade.id
        items.append(Item(f"{low}@trade", symbol, trade))
        if trade.id % 5 == 1:  # see simulation.agg_id
            self._fills[symbol] = trade
        else:
            first = self._fills.pop(symbol, trade)
            quantity = trade.quantity + (first.quantity if first is not trade else 0)
            agg = Agg(agg_id(trade.id), trade.ts, trade.price, quantity, first.id, trade.id, trade.buyer_maker)
            items.append(Item(f"{low}@aggTrade", symbol, agg))
        if self._klines.active:
            amount = self._numbers[symbol].amount(trade.price, trade.quantity)
            self._updates(self._klines.trade(trade, amount, trade.ts), items)

    def _updates(self, updates: list[tuple[str, KlineUpdate]], items: list[Item]) -> None:
        items.extend(Item(f"{s.lower()}@kline_{u.interval}", s, u) for s, u in updates)

    def _depth(self, event: MarketDepth, items: list[Item]) -> None:
        symbol = event.symbol
        for stream, levels, ms in self._depth_streams.get(symbol, ()):
            if ms <= 100 and not levels:
                items.append(Item(stream, symbol, event))
                continue
            merged = self._merged.get(stream)
            if merged is None:
                due = (event.ts // (ms * _MS) + 1) * ms * _MS if ms > 100 else event.ts
                merged = {"first": event.first_id, "prev": event.prev_id, "bids": {}, "asks": {}}
                self._merged[stream] = merged
                if ms > 100:
                    heapq.heappush(self._timers, (due, stream))
            merged["last"] = event.last_id
            merged["bids"].update(event.bids)
            merged["asks"].update(event.asks)
            if ms <= 100:
                items.extend(self._flush(stream, event.ts))

    def _flush(self, stream: str, ts: int) -> list[Item]:
        merged = self._merged.pop(stream, None)
        if merged is None:
            return []
        symbol, kind, _ = split_stream(stream)
        if kind != "depth":
            book = self.sim.symbols[symbol]
            n = int(kind[5:])
            partial = Partial(symbol, ts, merged["last"], merged["prev"], book.levels(0, n), book.levels(1, n))
            return [Item(stream, symbol, partial)]
        bids, asks = list(merged["bids"].items()), list(merged["asks"].items())
        return [
            Item(stream, symbol, MarketDepth(symbol, ts, merged["first"], merged["last"], merged["prev"], bids, asks))
        ]

    def _timer(self, due: int, stream: str) -> list[Item]:
        if stream:
            return self._flush(stream, due)
        heapq.heappush(self._timers, (due + _SECOND, ""))
        items: list[Item] = []
        self._updates(self._klines.tick(due), items)
        return items

    def finish(self) -> list[Item]:
        """Send what slower streams hold back."""
        items = [item for stream in list(self._merged) for item in self._flush(stream, self.position)]
        self._updates(self._klines.flush(self.position), items)
        return items

    # Streams

    def resolve(self, name: str) -> str | None:
        """Return the stream for a name; other depth speeds than the market's are served by the fastest."""
        symbol, kind, ms = split_stream(name)
        if symbol not in self._specs or name != name[: len(symbol)].lower() + name[len(symbol) :]:
            return None
        low = symbol.lower()
        if kind in ("trade", "aggTrade", "bookTicker"):
            return f"{low}@{kind}"
        if kind.startswith("kline_"):
            return f"{low}@{kind}" if kind[6:] in self._market.intervals else None
        if kind in ("depth", "depth5", "depth10", "depth20"):
            speeds = _SPEEDS[self._market.name]
            default = 1000 if self._market.name == "spot" else 250
            ms = default if ms is None else ms if ms in speeds else speeds[0]
            return f"{low}@{kind}@{ms}ms"
        return None

    def subscribed(self, stream: str) -> None:
        """Begin the batches of depth streams and candles that somebody listens to."""
        symbol, kind, ms = split_stream(stream)
        if kind.startswith("depth") and ms is not None:
            entry = (stream, int(kind[5:] or 0), ms)
            group = self._depth_streams.setdefault(symbol, [])
            if entry not in group:
                group.append(entry)
        elif kind.startswith("kline_"):
            if not self._klines.active:
                heapq.heappush(self._timers, ((self.position // _SECOND + 1) * _SECOND, ""))
            interval = kind[6:]
            bars = self.bars(symbol, interval, interval_bounds(self.position, interval)[0], self.position)
            self._klines.activate(symbol, interval, bars[-1] if bars else None)

    # Reference data and books

    def listed(self) -> list[Listed]:
        """All instruments."""
        return [
            Listed(
                s.symbol,
                s.base,
                s.quote,
                decimal_text(1, s.price_decimals),
                decimal_text(1, s.quantity_decimals),
                self._sizes[s.symbol],
            )
            for s in self._specs.values()
        ]

    def numbers(self, symbol: str) -> Numbers:
        """How a symbol's numbers are written."""
        return self._numbers[symbol]

    def book_known(self, symbol: str) -> bool:
        """A simulated book is always known."""
        return True

    def book_possible(self, symbol: str) -> bool:
        """A simulated book is always known."""
        return True

    def snapshot(self, symbol: str, limit: int) -> Snapshot:
        """The book now; its id may lie inside the next depth message, as on the exchange."""
        book, numbers = self.sim.symbols[symbol], self._numbers[symbol]
        sides = [[(numbers.price(p), numbers.quantity(q)) for p, q in book.levels(side, limit)] for side in (0, 1)]
        return Snapshot(book.update_id, self.position, sides[0], sides[1])

    first_snapshot = snapshot

    # Trades

    def trades_from(self, symbol: str, trade_id: int, count: int) -> list[MarketTrade]:
        """Passed trades from an id on."""
        count = min(count, self._last_trade[symbol] - trade_id + 1)
        return self.sim.trades_from(symbol, trade_id, count, self.position) if count > 0 else []

    def latest_trades(self, symbol: str, count: int) -> list[MarketTrade]:
        """The last passed trades."""
        return self.trades_from(symbol, self._last_trade[symbol] - count + 1, count)

    def _aggregate(self, trades: list[MarketTrade]) -> list[Agg]:
        if trades and trades[0].id % 5 == 2:  # never begin inside an order
            trades = trades[1:]
        if trades and trades[-1].id % 5 == 1:
            trades = trades[:-1]
        return aggregate(trades, agg_id(trades[0].id)) if trades else []

    def aggs_from(self, symbol: str, number: int, count: int) -> list[Agg]:
        """Passed aggregate trades from an id on."""
        first = number // 4 * 5 + (0, 1, 3, 4)[number % 4]
        return self._aggregate(self.trades_from(symbol, first, count * 2))[:count]

    def aggs_between(self, symbol: str, start: int, end: int, count: int) -> list[Agg]:
        """Passed aggregate trades of a time range."""
        trades = self.sim.trades_between(symbol, start, min(end, self.position) + 1)
        return self._aggregate([t for t in trades[: 2 * count + 2] if t.id <= self._last_trade[symbol]])[:count]

    def latest_aggs(self, symbol: str, count: int) -> list[Agg]:
        """The last passed aggregate trades."""
        return self._aggregate(self.latest_trades(symbol, 2 * count))[-count:]

    def bars(self, symbol: str, interval: str, start: int, end: int) -> list[Bar]:
        """Candles of the passed trades."""
        first = interval_bounds(max(start, day_start(self.sim.first_day)), interval)[0]
        trades = self.sim.trades_between(symbol, first, min(end, self.position) + 1)
        last = self._last_trade[symbol]
        bars = build_bars((t for t in trades if t.id <= last), interval, self._numbers[symbol])
        return [bar for bar in bars if start <= bar.open_time <= end]

    # Archive

    def days(self, symbol: str) -> list[date]:
        """History, the day of the start, and every later day that the timeline has reached."""
        last = day_of(self.position)
        if self.sim.end is not None and last > day_of(self.sim.end - 1):
            last = day_of(self.sim.end - 1)
        return [self.sim.first_day + timedelta(days=n) for n in range((last - self.sim.first_day).days + 1)]

    def day_trades(self, symbol: str, day: date) -> list[MarketTrade]:
        """All trades of a day, as the live market has them."""
        return self.sim.day_trades(symbol, day)

    def day_aggs(self, symbol: str, day: date) -> list[Agg]:
        """All aggregate trades of a day."""
        return self._aggregate(self.sim.day_trades(symbol, day))

    def day_bars(self, symbol: str, day: date, interval: str) -> list[Bar]:
        """All candles of a day, from its first instant; of one that is over also those after its last trade."""
        before = self.sim.day_trades(symbol, day - timedelta(days=1))
        trades = self.sim.day_trades(symbol, day)
        close = before[-1].price if before else None
        end = day_start(day + timedelta(days=1))
        return build_bars(
            trades, interval, self._numbers[symbol],
            start=day_start(day), close=close, end=end if end <= self.position else None,
        )  # fmt: skip

    def archive_bars(self, symbol: str, interval: str) -> list[Bar]:
        """Candles that are longer than a day."""
        trades = (t for day in self.days(symbol) for t in self.sim.day_trades(symbol, day))
        return build_bars(trades, interval, self._numbers[symbol])

    # Truth

    def books(self, depth: int) -> dict[str, Any]:
        """The true books."""
        result: dict[str, Any] = {}
        for symbol, numbers in self._numbers.items():
            book = self.sim.symbols[symbol]
            sides = [
                [(float(numbers.price(p)), float(numbers.quantity(q))) for p, q in book.levels(side, depth)]
                for side in (0, 1)
            ]
            result[symbol] = {"last_id": book.update_id, "bids": sides[0], "asks": sides[1]}
        return result

    def passed(self) -> dict[str, Any]:
        """Ids of the trades since the start."""
        result = {}
        for symbol in self.symbols:
            first, last = self.sim.first_live_id(symbol), self._last_trade[symbol]
            result[symbol] = {
                "first_id": first if last >= first else None,
                "last_id": last if last >= first else None,
                "count": last - first + 1,
            }
        return result

    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""
        return {
            "source": "simulation",
            "seed": self.sim.seed,
            "symbols": list(self.symbols),
            "first_event": self.sim.start,
            "last_event": self.sim.end,
            "history_days": [d.isoformat() for d in self.days("") if d < day_of(self.sim.start)],
            "live_day": day_of(self.sim.start).isoformat(),
        }
