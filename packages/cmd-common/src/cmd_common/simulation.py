"""A seeded market simulator that knows no exchange: books, trades, quotes and candles.

The same seed gives the same events, on every machine. Prices and quantities are integers: prices count
``10**-price_decimals`` (the tick), quantities ``10**-quantity_decimals`` (the lot), so that candles,
archives and live messages made from the same trades agree exactly.

Theory of operation. Each symbol has one process of *steps* with two sources of randomness. The first
decides time, the best prices and the trades; the second only decides what else lies in the book. So
the trades of any day can be made again without a book: ``day_trades`` is a pure function of (seed,
symbol, day, start), the live part of the market emits exactly those trades, and live and archive
converge. Days before ``start`` have ``history_trades`` trades each, in slots of equal length; on the
day of ``start`` the slots before it are filled the same way, and from ``start`` on the live process
runs, many times denser. Trade ids rise by one across all of it.

The price follows a reference that depends on the base asset only (``_Reference``): venues have books and trades of
their own whose prices stay within some steps of each other, as arbitrage keeps them.

    market = SimulatedMarket(catalogue(3), seed=7, start=ns, duration=60 * 10**9)
    while (ts := market.next_time()) is not None:
        for event in market.step(): ...          # MarketTrade | MarketQuote | MarketDepth
    market.day_trades("BTCUSDT", date(2025, 6, 1))
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from random import Random
from zlib import crc32

from msgspec import Struct

from .errors import UsageError

__all__ = [
    "DAY",
    "DEFAULT_START",
    "MarketDepth",
    "MarketEvent",
    "MarketQuote",
    "MarketTrade",
    "SimulatedMarket",
    "SimulatedSymbol",
    "Spec",
    "agg_id",
    "catalogue",
    "day_of",
    "day_start",
    "decimal_text",
]

DAY = 86_400_000_000_000
_US = 1_000
_BATCH = 100_000_000  # ns between depth batches
_EPOCH_DAY = date(2020, 1, 1).toordinal()
_TRADE = 0.10  # probability that a step is an order that trades
_MOVE = 0.28  # ... that the best price moves without a trade (cumulative)

DEFAULT_START = 1_748_907_900_000_000_000
"""2025-06-02 23:45 UTC: spot archives are in microseconds, and midnight is a quarter of an hour away."""

_NAMES: tuple[tuple[str, int, int, int], ...] = (  # base, price in ticks, price decimals, quantity decimals
    ("BTC", 10_482_613, 2, 5),
    ("ETH", 261_147, 2, 4),
    ("SOL", 157_310, 3, 3),
    ("BNB", 66_255, 2, 3),
    ("XRP", 21_984, 4, 1),
    ("DOGE", 192_450, 6, 0),
    ("ADA", 67_130, 5, 1),
    ("AVAX", 205_480, 4, 2),
    ("LINK", 139_270, 4, 2),
    ("LTC", 88_410, 3, 3),
    ("DOT", 40_350, 4, 2),
    ("TRX", 270_120, 6, 1),
    ("SUI", 32_605, 4, 1),
    ("UNI", 62_340, 4, 2),
    ("ATOM", 43_180, 4, 2),
    ("NEAR", 24_610, 4, 1),
    ("APT", 48_730, 4, 2),
    ("ARB", 34_520, 5, 1),
    ("OP", 64_870, 5, 1),
    ("FIL", 25_930, 4, 2),
    ("AAVE", 26_450, 2, 3),
    ("INJ", 125_310, 4, 2),
    ("ETC", 174_060, 4, 2),
    ("XLM", 266_780, 6, 0),
    ("HBAR", 168_240, 6, 0),
    ("ALGO", 191_860, 6, 0),
)


class Spec(Struct, frozen=True):
    """One instrument to simulate; ``price`` is about where it trades, in ticks."""

    symbol: str
    base: str
    quote: str
    price: int
    price_decimals: int
    quantity_decimals: int
    lots: int = 0  # usual order size in lots; 0: derived so that an order is worth some thousand
    rate: float = 40.0  # steps a second
    levels: int = 800  # of the book, a side
    salt: str = ""  # makes another market of the same symbol, as of another venue


class MarketTrade(Struct, frozen=True, gc=False):
    """A trade: ``ts`` ns, price in ticks, quantity in lots; ``buyer_maker``: the aggressor sold."""

    symbol: str
    id: int
    ts: int
    price: int
    quantity: int
    buyer_maker: bool


class MarketQuote(Struct, frozen=True, gc=False):
    """Best bid and offer after a step, in ticks and lots."""

    symbol: str
    ts: int
    update_id: int
    bid: int
    bid_quantity: int
    ask: int
    ask_quantity: int


class MarketDepth(Struct, frozen=True):
    """All levels that changed since the last one, with their quantities now; 0: the level is gone."""

    symbol: str
    ts: int
    first_id: int
    last_id: int
    prev_id: int  # last_id of the batch before
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


MarketEvent = MarketTrade | MarketQuote | MarketDepth


def day_of(ts: int) -> date:
    """Return the UTC day of an instant in ns."""
    return date(1970, 1, 1) + timedelta(days=ts // DAY)


def day_start(day: date) -> int:
    """Return the first instant of a UTC day in ns."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000_000


def decimal_text(value: int, decimals: int) -> str:
    """Write an integer count of ``10**-decimals`` as a decimal with exactly so many decimals."""
    if not decimals:
        return str(value)
    unit = 10**decimals
    return f"{value // unit}.{value % unit:0{decimals}d}" if value >= 0 else f"-{decimal_text(-value, decimals)}"


def agg_id(trade_id: int) -> int:
    """Return the id of the order that a simulated trade belongs to: of five trades, the second and third are one's."""
    return trade_id // 5 * 4 + (0, 1, 1, 2, 3)[trade_id % 5]


def catalogue(count: int, *, quote: str = "USDT", suffix: str = "", names: Sequence[str] = ()) -> list[Spec]:
    """Return instruments called base + ``quote`` + ``suffix``: the well-known first, then generated ones.

    ``names`` replaces the choice; a name whose base is well known gets that base's price and decimals.
    """
    known = {base: (price, pd, qd) for base, price, pd, qd in _NAMES}
    if not names:
        if count < 1:
            raise UsageError(f"cannot simulate {count} symbols", hint="give 1 or more")
        bases = [entry[0] for entry in _NAMES[:count]]
        bases += [f"SIM{n:03d}" for n in range(1, count - len(bases) + 1)]
        names = [f"{base}{quote}{suffix}" for base in bases]
    specs = []
    for name in dict.fromkeys(n.upper() for n in names):
        tail = quote + suffix
        base = name.removesuffix(tail) if name.endswith(tail) and name != tail else name
        own_quote = quote
        if base == name and not suffix:  # another quote asset than the usual one
            for other in ("USDT", "USDC", "FDUSD", "TUSD", "USD", "EUR", "TRY", "BTC", "ETH", "BNB"):
                if name.endswith(other) and name != other:
                    base, own_quote = name.removesuffix(other), other
                    break
        h = crc32(base.encode())
        price, pd, qd = known.get(base, (20_000 + h % 80_000, 2 + h % 4, 1 + h % 3))
        specs.append(Spec(name, base, own_quote, price, pd, qd))
    return specs


class _Reference:
    """Where the price of a base asset is drawn to: between the anchors of its days, with waves; in integers."""

    _WAVES = ((47, 25), (389, 120), (2753, 300))  # period in seconds, amplitude in millionths

    def __init__(self, seed: int, spec: Spec, anchor: Callable[[Spec, date], int]) -> None:
        self._spec = spec
        self._anchor = anchor
        random = Random(f"{seed}/{spec.base}/waves").random
        self._waves = [(s * 1_000_000_000, a, int(random() * s) * 1_000_000_000) for s, a in self._WAVES]
        self._slot = -1
        self._price = 0
        self._day = -1
        self._ends = (0, 0)

    def at(self, ts: int) -> int:
        """Return the price in ticks; it changes every 100 ms."""
        slot = ts // _BATCH
        if slot != self._slot:
            self._slot = slot
            if ts // DAY != self._day:
                self._day = ts // DAY
                day = day_of(ts)
                self._ends = (self._anchor(self._spec, day), self._anchor(self._spec, day + timedelta(days=1)))
            first, last = self._ends
            wave = 0
            for period, amplitude, phase in self._waves:
                wave += amplitude * (2 * abs(2 * ((ts + phase) % period) - period) - period) // period
            self._price = first + (last - first) * (ts % DAY) // DAY + self._spec.price * wave // 1_000_000
        return self._price


class _Top:
    """Time, best prices and trades of one symbol: everything that does not depend on the rest of the book."""

    __slots__ = (
        "_gap", "_high", "_lots", "_low", "_random", "_reference", "_symbol", "ask", "bid", "next_id", "next_ts", "step",
    )  # fmt: skip

    def __init__(self, spec: Spec, seed: str, start: int, bid: int, next_id: int, reference: _Reference) -> None:
        self._reference = reference
        self._random = Random(seed).random
        self._symbol = spec.symbol
        self.step = max(1, spec.price // 200_000)
        self._gap = max(1, int(2_000_000 / spec.rate))  # us, twice the mean
        self._lots = _usual_lots(spec)
        self._low, self._high = spec.price // 2, spec.price * 2
        self.bid, self.ask = bid, bid + self.step
        self.next_id = next_id
        self.next_ts = start
        self._wait()

    def _wait(self) -> None:
        self.next_ts += _US * (1 + int(self._random() * self._gap))

    def advance(self, trades: list[MarketTrade]) -> bool:
        """Do the step at ``next_ts``; trades are appended. Returns whether the order took the whole best level."""
        random, step, ts = self._random, self.step, self.next_ts
        kind = random()
        swept = False
        # How likely the price rises: the farther it is below the reference, the more.
        up = 0.5 + max(-0.4, min(0.4, (2 * self._reference.at(ts) - self.bid - self.ask) / (10 * step)))
        if kind < _TRADE:
            buy = random() < up
            price = self.ask if buy else self.bid
            # See agg_id: ids of the form 5k+1 and 5k+2 are two fills of one order.
            for _ in range(2 if self.next_id % 5 == 1 else 1):
                quantity = 1 + int(random() ** 3 * 4 * self._lots)
                trades.append(MarketTrade(self._symbol, self.next_id, ts, price, quantity, not buy))
                self.next_id += 1
            if random() < 0.3:
                swept = True
                far = 1 + int(random() * 3 * step)
                if buy:
                    if self.ask + far < self._high:
                        self.ask += far
                elif self.bid - far > self._low:
                    self.bid -= far
        elif kind < _MOVE:
            spread = self.ask - self.bid
            if spread > 1 and (spread > step or random() < 0.5):
                near = 1 + int(random() * (spread - 1))
                if random() < up:
                    self.bid += near
                else:
                    self.ask -= near
            elif random() < up:
                if self.ask + step < self._high:
                    self.ask += 1 + int(random() * step)
            elif self.bid - step > self._low:
                self.bid -= 1 + int(random() * step)
        self._wait()
        return swept


def _usual_lots(spec: Spec) -> int:
    # About 2,000 units of the quote asset, at least 3 lots.
    scale = 10 ** (spec.price_decimals + spec.quantity_decimals)
    return spec.lots or max(3, 2_000 * scale // max(1, spec.price))


class SimulatedSymbol:
    """The live book of one symbol, in ticks and lots; owned by a SimulatedMarket."""

    def __init__(
        self, spec: Spec, seed: int, start: int, bid: int, first_trade: int, reference: _Reference, *, jump: bool
    ) -> None:
        self.spec = spec
        self._top = _Top(spec, f"{seed}/{spec.salt}{spec.symbol}/live", start, bid, first_trade, reference)
        self._random = Random(f"{seed}/{spec.salt}{spec.symbol}/book").random
        self._jump = jump
        self._phase = crc32(spec.symbol.encode()) % 100 * 1_000_000
        self._lots = _usual_lots(spec) * 5
        self._gap = max(1, spec.price // 100_000)
        self._maps: tuple[dict[int, int], dict[int, int]] = ({}, {})  # price to lots: bids, asks
        self._prices: tuple[list[int], list[int]] = ([], [])  # ascending
        self._changed: tuple[dict[int, None], dict[int, None]] = ({}, {})
        self._quote: tuple[int, int, int, int] | None = None
        self.update_id = 10_000_000_000 + crc32(spec.symbol.encode()) + (start // 1_000_000_000) * 100
        self._first_id = 0
        self.sent_id = self.update_id  # last id of the last depth batch
        self._boundary = 0
        for side, price, sign in ((0, self._top.bid, -1), (1, self._top.ask, 1)):
            for _ in range(spec.levels):
                if price <= 0:
                    break
                self._maps[side][price] = self._size()
                price += sign * (1 + int(self._random() * 2 * self._gap))
            self._prices[side].extend(sorted(self._maps[side]))

    def _size(self) -> int:
        return 1 + int(self._random() ** 3 * 4 * self._lots)

    def _set(self, side: int, price: int, lots: int) -> None:
        levels = self._maps[side]
        if lots:
            if price not in levels:
                insort(self._prices[side], price)
            levels[price] = lots
        else:
            if price not in levels:
                return
            del levels[price]
            prices = self._prices[side]
            del prices[bisect_left(prices, price)]
        self.update_id += 1 + int(self._random() * 60) if self._jump else 1
        if not self._first_id:
            self._first_id = self.update_id
        self._changed[side][price] = None

    def _follow(self) -> None:
        """Make the best levels those of the process."""
        bid, ask = self._top.bid, self._top.ask
        prices = self._prices[0]
        while prices and prices[-1] > bid:
            self._set(0, prices[-1], 0)
        prices = self._prices[1]
        while prices and prices[0] < ask:
            self._set(1, prices[0], 0)
        if bid not in self._maps[0]:
            self._set(0, bid, self._size())
        if ask not in self._maps[1]:
            self._set(1, ask, self._size())

    def _tweak(self) -> None:
        random = self._random
        side = 0 if random() < 0.5 else 1
        prices = self._prices[side]
        n = len(prices)
        what, far = random(), random() ** 2
        if what < 0.3 and n > self.spec.levels * 3 // 4:
            index = 1 + int(far * (n - 2))  # never the best
            self._set(side, prices[n - 1 - index] if side == 0 else prices[index], 0)
        elif what < 0.6:
            reach = 1 + int(far * self.spec.levels * (self._gap + 1))
            price = self._top.bid - reach if side == 0 else self._top.ask + reach
            if price > 0:
                self._set(side, price, self._size())
        else:
            index = int(far * (n - 1))
            self._set(side, prices[n - 1 - index] if side == 0 else prices[index], self._size())
        if n > self.spec.levels * 5 // 4:
            self._set(side, prices[0] if side == 0 else prices[-1], 0)

    def next_time(self) -> int:
        """When this symbol does something next."""
        return min(self._boundary, self._top.next_ts) if self._first_id else self._top.next_ts

    def depth(self, ts: int) -> MarketDepth | None:
        """Close the batch of changed levels; None when nothing changed."""
        if not self._first_id:
            return None
        sides = [
            [(p, levels.get(p, 0)) for p in changed] for levels, changed in zip(self._maps, self._changed, strict=True)
        ]
        event = MarketDepth(self.spec.symbol, ts, self._first_id, self.update_id, self.sent_id, sides[0], sides[1])
        self._changed[0].clear()
        self._changed[1].clear()
        self._first_id = 0
        self.sent_id = self.update_id
        return event

    def step(self) -> list[MarketEvent]:
        """Do what is due at ``next_time``."""
        ts = self._top.next_ts
        if self._first_id and self._boundary <= ts:
            batch = self.depth(self._boundary)
            return [batch] if batch else []
        trades: list[MarketTrade] = []
        swept = self._top.advance(trades)
        if trades:
            side = 0 if trades[0].buyer_maker else 1
            price = trades[0].price
            rest = self._maps[side].get(price, 0) - sum(t.quantity for t in trades)
            # An order larger than what was shown met replenished (hidden) quantity.
            self._set(side, price, rest if rest > 0 else self._size())
            if swept and price != (self._top.bid if side == 0 else self._top.ask):
                self._set(side, price, 0)
        self._follow()
        self._tweak()
        events: list[MarketEvent] = list(trades)
        top = self._top
        quote = (top.bid, self._maps[0][top.bid], top.ask, self._maps[1][top.ask])
        if quote != self._quote:
            self._quote = quote
            events.append(MarketQuote(self.spec.symbol, ts, self.update_id, *quote))
        if self._first_id and self._boundary <= ts:
            self._boundary = ((ts - self._phase) // _BATCH + 1) * _BATCH + self._phase
        return events

    def levels(self, side: int, limit: int | None = None) -> list[tuple[int, int]]:
        """Return (price, lots) of bids (0) or asks (1), best first."""
        prices, lots = self._prices[side], self._maps[side]
        chosen = (prices[::-1] if side == 0 else prices)[:limit]
        return [(p, lots[p]) for p in chosen]


class SimulatedMarket:
    """Several symbols on one clock.

    ``duration`` 0 is endless; ``jump``: update ids rise by more than one, as on futures.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        *,
        seed: int = 1,
        start: int = 0,
        duration: int = 0,
        history_days: int = 2,
        history_trades: int = 8_640,
        jump: bool = False,
    ) -> None:
        if history_trades % 5 or not 0 < history_trades <= 2_000_000:
            raise UsageError(f"{history_trades} trades a day do not fit", hint="give a multiple of 5 up to 2000000")
        self.seed = seed
        self.start = (start or DEFAULT_START) // _US * _US
        self.end = self.start + duration if duration else None
        self.history_trades = history_trades
        self.position = self.start  # time of the last event
        self.specs = {spec.symbol: spec for spec in specs}
        self.first_day = day_of(self.start) - timedelta(days=history_days)
        self._slot = DAY // history_trades
        self._live_day = day_of(self.start)
        # Whole orders only: the first live id is a multiple of 5 like the first of each day.
        self._history_today = (self.start - day_start(self._live_day)) // self._slot // 5 * 5
        self._history = lru_cache(maxsize=256)(self._make_history)
        self._replays: dict[str, tuple[_Top, list[MarketTrade]]] = {}
        self.symbols = {
            s.symbol: SimulatedSymbol(
                s, seed, self.start, self._live_bid(s), self.first_live_id(s.symbol), self._reference(s), jump=jump
            )
            for s in specs
        }
        self._order = list(self.symbols.values())
        self._heap = [(symbol.next_time(), n) for n, symbol in enumerate(self._order)]
        heapq.heapify(self._heap)
        self._flushed = False

    def next_time(self) -> int | None:
        """Time of the next event, ns; None at the end."""
        ts = self._heap[0][0]
        if self.end is not None and ts >= self.end:
            return None if self._flushed else self.end
        return ts

    def step(self) -> list[MarketEvent]:
        """Advance to ``next_time`` and return its events in order; the last step closes all depth batches."""
        ts, n = self._heap[0]
        if self.end is not None and ts >= self.end:
            self._flushed = True
            self.position = self.end
            return [batch for symbol in self._order if (batch := symbol.depth(self.end)) is not None]
        symbol = self._order[n]
        events = symbol.step()
        heapq.heapreplace(self._heap, (symbol.next_time(), n))
        self.position = ts
        return events

    def __iter__(self) -> Iterator[MarketEvent]:
        while self.next_time() is not None:
            yield from self.step()

    # Trades of whole days, made without a book.

    def day_first_id(self, symbol: str, day: date) -> int:
        """Return the id of the first trade of a day up to the day of ``start``."""
        base = 5 * (20_000_000 + crc32(symbol.encode()) % 10_000_000)
        return base + (day.toordinal() - _EPOCH_DAY) * self.history_trades

    def first_live_id(self, symbol: str) -> int:
        """Return the id of the first trade at or after ``start``."""
        return self.day_first_id(symbol, self._live_day) + self._history_today

    def _anchor(self, spec: Spec, day: date) -> int:
        # By the base asset, so that its price is about the same on every venue.
        move = Random(f"{self.seed}/{spec.base}/{day.isoformat()}").random()
        return int(spec.price * (980 + int(move * 41)) // 1000)

    def _reference(self, spec: Spec) -> _Reference:
        return _Reference(self.seed, spec, self._anchor)

    def _live_bid(self, spec: Spec) -> int:
        if self._history_today:
            return self._history(spec.symbol, self._live_day)[self._history_today - 1].price
        return self._anchor(spec, self._live_day)

    def _make_history(self, symbol: str, day: date) -> list[MarketTrade]:
        spec = self.specs[symbol]
        random = Random(f"{self.seed}/{spec.salt}{symbol}/{day.isoformat()}/trades").random
        count, slot = self.history_trades, self._slot
        lots = 4 * _usual_lots(spec)
        size = max(1, spec.price // 20_000)
        first = self._anchor(spec, day)
        last = self._anchor(spec, day + timedelta(days=1))
        walk = [0]
        for _ in range(count):
            walk.append(walk[-1] + int((random() - 0.5) * 2 * (size + 1)))
        drift = last - first - walk[count]  # a bridge: the day ends where the next begins
        ts0, id0 = day_start(day), self.day_first_id(symbol, day)
        trades: list[MarketTrade] = []
        ts = price = 0
        maker = False
        for k in range(count):
            trade_id = id0 + k
            if trade_id % 5 != 2:  # see agg_id
                ts = (ts0 + k * slot + int(random() * slot)) // _US * _US
                price = max(1, first + walk[k] + drift * k // count)
                maker = random() < 0.5
            trades.append(MarketTrade(symbol, trade_id, ts, price, 1 + int(random() ** 3 * lots), maker))
        return trades

    def day_trades(self, symbol: str, day: date) -> list[MarketTrade]:
        """Return all trades of a UTC day: history, and what the live market has had and will have until its end."""
        if day < self._live_day:
            return self._history(symbol, day)
        live = self._live(symbol, day_start(day) + DAY)
        low = bisect_left(live, day_start(day), key=_trade_ts)
        high = bisect_left(live, day_start(day) + DAY, key=_trade_ts)
        if day > self._live_day:
            return live[low:high]
        return self._history(symbol, day)[: self._history_today] + live[low:high]

    def _live(self, symbol: str, until: int) -> list[MarketTrade]:
        """Return the live trades up to ``until`` and perhaps more."""
        if symbol not in self._replays:
            spec = self.specs[symbol]
            name = f"{self.seed}/{spec.salt}{symbol}/live"
            first = self.first_live_id(symbol)
            top = _Top(spec, name, self.start, self._live_bid(spec), first, self._reference(spec))
            self._replays[symbol] = (top, [])
        top, trades = self._replays[symbol]
        stop = until if self.end is None else min(until, self.end)
        while top.next_ts < stop:
            top.advance(trades)
        return trades

    def trades_between(self, symbol: str, start: int, end: int) -> list[MarketTrade]:
        """Return the trades with ``start <= ts < end`` from the first day of history on."""
        result: list[MarketTrade] = []
        day = max(self.first_day, day_of(start))
        while day_start(day) < end and (self.end is None or day_start(day) < self.end):
            trades = self.day_trades(symbol, day)
            low = bisect_left(trades, start, key=_trade_ts)
            result += trades[low : bisect_left(trades, end, key=_trade_ts)]
            day += timedelta(days=1)
        return result

    def trades_from(self, symbol: str, trade_id: int, count: int, until: int) -> list[MarketTrade]:
        """Return up to ``count`` trades from an id on (or from the first that exists) with ``ts <= until``."""
        if trade_id < self.first_live_id(symbol):
            low = self.day_first_id(symbol, self.first_day)
            trade_id = max(trade_id, low)
            day = self.first_day + timedelta(days=(trade_id - low) // self.history_trades)
        else:
            day = self._live_day
        result: list[MarketTrade] = []
        while len(result) < count and day_start(day) <= until:
            trades = self.day_trades(symbol, day)
            if trades and trades[-1].id >= trade_id:
                result += trades[max(0, trade_id - trades[0].id) :][: count - len(result)]
            day += timedelta(days=1)
        return [t for t in result if t.ts <= until]


def _trade_ts(trade: MarketTrade) -> int:
    return trade.ts
