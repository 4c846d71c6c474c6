"""A simulated venue: the venue-neutral market as ``VenueWorld``, with books as its clients have them.

The simulated market changes its books all the time and tells the changes in batches. What a client can know is
the book after the last batch, so snapshots are taken from a copy (``Ladder``) that follows the batches.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any, Final

from .candles import interval_bounds
from .emulation import MarketSource
from .emulation_base import Item
from .simulation import MarketDepth, MarketQuote, MarketTrade, SimulatedMarket, Spec, day_of, day_start
from .venue_market import Bar, KlineStreams, KlineUpdate, Numbers, build_bars
from .venue_world import BookChange, BookView, CandleUpdate, Level, Listed, Quote, Tick, Trade, split_stream

__all__ = ["Ladder", "SimulatedVenue", "TopView", "candle_update"]

_SECOND: Final = 1_000_000_000
_DEFAULT_SECONDS: Final = 60  # of a simulation that must end but was given no length
_FIRST_NUMBER: Final = 1_000_000  # of a book stream's messages: Bybit gives 1 a meaning

_Ints = list[tuple[int, int]]


class Ladder:
    """Both sides of a book in ticks and lots, in order; a change costs O(log n) and a memory move."""

    def __init__(self, bids: Iterable[tuple[int, int]] = (), asks: Iterable[tuple[int, int]] = ()) -> None:
        self.levels: tuple[dict[int, int], dict[int, int]] = (dict(bids), dict(asks))
        # Ascending, bids by their negative: the best is the first on both sides.
        self.keys: tuple[list[int], list[int]] = (sorted(-p for p in self.levels[0]), sorted(self.levels[1]))

    def set(self, side: int, price: int, lots: int) -> None:
        """Set a level of bids (0) or asks (1); 0 lots delete it."""
        levels, keys = self.levels[side], self.keys[side]
        key = price if side else -price
        if lots:
            if price not in levels:
                insort(keys, key)
            levels[price] = lots
        elif price in levels:
            del levels[price]
            del keys[bisect_left(keys, key)]

    def apply(self, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> None:
        """Set levels of both sides."""
        for side, changes in ((0, bids), (1, asks)):
            for price, lots in changes:
                self.set(side, price, lots)

    def best(self, side: int, limit: int | None = None) -> _Ints:
        """Return the best levels."""
        levels = self.levels[side]
        return [(p, levels[p]) for p in (abs(key) for key in self.keys[side][:limit])]


class TopView:
    """The best N levels of a ladder as a subscriber of them is told: changes between two looks.

    ``pushed_out``: levels that others push out of the best N are sent as deletions; else they leave in silence
    and the client must cut its book to N. Levels that come back are sent either way. O(changes + moved levels).
    """

    def __init__(self, ladder: Ladder, depth: int, *, pushed_out: bool) -> None:
        self._ladder = ladder
        self._depth = depth
        self._pushed_out = pushed_out
        self.shown: tuple[dict[int, int], dict[int, int]] = (dict(ladder.best(0, depth)), dict(ladder.best(1, depth)))
        self.last_id = 0  # of the last message that was sent
        self.number = _FIRST_NUMBER
        self._first = 0  # first id since then, of changes that did not show

    def update(self, bids: _Ints, asks: _Ints) -> tuple[_Ints, _Ints]:
        """Return what to send after the ladder took these changes."""
        return self._side(0, bids), self._side(1, asks)

    def _side(self, side: int, changes: _Ints) -> _Ints:
        shown, depth = self.shown[side], self._depth
        keys, levels = self._ladder.keys[side], self._ladder.levels[side]
        bound = keys[depth - 1] if len(keys) >= depth else None
        result: _Ints = []
        for price, _ in changes:
            lots = levels.get(price, 0)
            if not lots:
                if shown.pop(price, None) is not None:
                    result.append((price, 0))
            elif (bound is None or (price if side else -price) <= bound) and shown.get(price) != lots:
                shown[price] = lots
                result.append((price, lots))
        # Shown are now levels of the new best N, less those that moved up from behind, plus those pushed behind,
        # which lie among the levels that this change inserted there.
        if bound is not None:
            for key in keys[depth : depth + len(changes)]:
                if shown.pop(abs(key), None) is not None and self._pushed_out:
                    result.append((abs(key), 0))
        index = min(depth, len(keys))
        missing = index - len(shown)
        while missing > 0:
            index -= 1
            price = abs(keys[index])
            if price not in shown:
                shown[price] = levels[price]
                result.append((price, levels[price]))
                missing -= 1
        return result

    def stamp(self, event: MarketDepth, changed: bool) -> tuple[int, int]:
        """Return first id and id before of the message for an event; nothing is sent unless ``changed``."""
        first, prev = self._first or event.first_id, self.last_id
        if changed:
            self._first, self.last_id = 0, event.last_id
            self.number += 1
        else:
            self._first = first
        return first, prev


def candle_update(symbol: str, update: KlineUpdate, numbers: Numbers) -> CandleUpdate:
    """Write a candle's numbers."""
    bar, price, quantity, amount = update.bar, numbers.price, numbers.quantity, numbers.amount_text
    return CandleUpdate(
        symbol,
        update.interval,
        update.ts,
        bar.open_time,
        bar.close_time,
        price(bar.open),
        price(bar.high),
        price(bar.low),
        price(bar.close),
        quantity(bar.volume),
        amount(bar.amount),
        quantity(bar.buy_volume),
        amount(bar.buy_amount),
        bar.count,
        bar.first_id,
        bar.last_id,
        update.closed,
    )


class SimulatedVenue:
    """``VenueWorld`` over a ``SimulatedMarket``; each listed instrument comes with what is simulated of it."""

    reference: bytes | None = None

    def __init__(
        self, source: MarketSource, instruments: Sequence[tuple[Listed, Spec]], *, pushed_out: bool, jump: bool
    ) -> None:
        self._pushed_out = pushed_out
        self._listed = {listed.symbol: listed for listed, _ in instruments}
        duration = source.duration or (_DEFAULT_SECONDS * _SECOND if source.exit_at_end else 0)
        self.sim = SimulatedMarket(
            [spec for _, spec in instruments],
            seed=source.seed,
            start=source.start,
            duration=duration,
            history_days=source.history_days,
            history_trades=source.history_trades,
            jump=jump,
        )
        self.symbols = tuple(self._listed)
        self.start = self.position = self.clock = self.sim.start
        self._numbers = {
            s.symbol: Numbers(s.price_decimals, s.quantity_decimals, s.contract_size, inverse=s.inverse)
            for s in self._listed.values()
        }
        self._ladders = {s: Ladder(book.levels(0), book.levels(1)) for s, book in self.sim.symbols.items()}
        self._full = {s: [book.sent_id, _FIRST_NUMBER] for s, book in self.sim.symbols.items()}  # last id, number
        self._book_times = dict.fromkeys(self.symbols, self.start)
        self._views: dict[str, dict[str, TopView]] = {s: {} for s in self.symbols}
        self._last_trade = {s: self.sim.first_live_id(s) - 1 for s in self.symbols}
        self._klines = KlineStreams(late=False)
        self._active: set[str] = set()  # streams that somebody ever listened to
        self._tick: int | None = None  # time of the next second, once somebody needs it

    # Timeline

    def next_time(self) -> int | None:
        """Time of the next event or second."""
        ts = self.sim.next_time()
        return self._tick if ts is not None and self._tick is not None and self._tick < ts else ts

    def step(self) -> list[Item]:
        """Advance by one event or second."""
        ts = self.sim.next_time()
        if ts is not None and self._tick is not None and self._tick < ts:
            return self._second(self._tick)
        items: list[Item] = []
        for event in self.sim.step():
            if isinstance(event, MarketDepth):
                self._depth(event, items)
            elif isinstance(event, MarketTrade):
                self._trade(event, items)
            elif (stream := f"quotes:{event.symbol}") in self._active:
                items.append(Item(stream, event.symbol, self._quote(event)))
        self.position = self.clock = self.sim.position
        return items

    def _second(self, ts: int) -> list[Item]:
        self.position = self.clock = ts
        self._tick = ts + _SECOND
        items: list[Item] = []
        self._updates(self._klines.tick(ts), items)
        if "clock" in self._active:
            items.append(Item("clock", "", Tick(ts, ts // _SECOND - self.start // _SECOND)))
        return items

    def _quote(self, event: MarketQuote) -> Quote:
        numbers = self._numbers[event.symbol]
        price, quantity = numbers.price, numbers.quantity
        bid, ask = (price(event.bid), quantity(event.bid_quantity)), (price(event.ask), quantity(event.ask_quantity))
        return Quote(event.symbol, event.ts, event.update_id, *bid, *ask)

    def _trade(self, trade: MarketTrade, items: list[Item]) -> None:
        symbol = trade.symbol
        self._last_trade[symbol] = trade.id
        if (stream := f"trades:{symbol}") in self._active:
            items.append(Item(stream, symbol, self._made(trade)))
        if self._klines.active:
            amount = self._numbers[symbol].amount(trade.price, trade.quantity)
            self._updates(self._klines.trade(trade, amount, trade.ts), items)

    def _made(self, trade: MarketTrade) -> Trade:
        numbers = self._numbers[trade.symbol]
        price, quantity = numbers.price(trade.price), numbers.quantity(trade.quantity)
        return Trade(trade.symbol, trade.id, trade.ts, price, quantity, "sell" if trade.buyer_maker else "buy")

    def _updates(self, updates: list[tuple[str, KlineUpdate]], items: list[Item]) -> None:
        for symbol, update in updates:
            made = candle_update(symbol, update, self._numbers[symbol])
            items.append(Item(f"candles:{symbol}:{update.interval}", symbol, made))

    def _levels(self, symbol: str, levels: Iterable[tuple[int, int]]) -> list[Level]:
        numbers = self._numbers[symbol]
        return [(numbers.price(p), numbers.quantity(q)) for p, q in levels]

    def _depth(self, event: MarketDepth, items: list[Item]) -> None:
        symbol = event.symbol
        self._ladders[symbol].apply(event.bids, event.asks)
        self._book_times[symbol] = event.ts
        full = self._full[symbol]
        full[0] = event.last_id
        full[1] += 1
        if (stream := f"depth:{symbol}") in self._active:
            bids, asks = self._levels(symbol, event.bids), self._levels(symbol, event.asks)
            change = BookChange(symbol, event.ts, event.first_id, event.last_id, event.prev_id, full[1], bids, asks)
            items.append(Item(stream, symbol, change))
        for stream, view in self._views[symbol].items():
            bid_changes, ask_changes = view.update(event.bids, event.asks)
            changed = bool(bid_changes or ask_changes)
            first, prev = view.stamp(event, changed)
            if changed:
                bids, asks = self._levels(symbol, bid_changes), self._levels(symbol, ask_changes)
                change = BookChange(symbol, event.ts, first, event.last_id, prev, view.number, bids, asks)
                items.append(Item(stream, symbol, change))

    def finish(self) -> list[Item]:
        """Send candles as they are at the end."""
        items: list[Item] = []
        self._updates(self._klines.flush(self.position), items)
        return items

    # Streams

    def resolve(self, stream: str) -> str | None:
        """Return the stream if there is such a one."""
        kind, symbol, rest = split_stream(stream)
        if kind == "clock":
            return stream
        if symbol not in self._listed or kind not in ("trades", "quotes", "depth", "top", "candles"):
            return None
        if kind == "top" and not (rest.isdigit() and int(rest)):
            return None
        return stream

    def subscribed(self, stream: str) -> None:
        """Begin what is made only for listeners."""
        if stream in self._active:
            return
        self._active.add(stream)
        kind, symbol, rest = split_stream(stream)
        if kind in ("clock", "candles") and self._tick is None:
            self._tick = (self.position // _SECOND + 1) * _SECOND
        if kind == "top":
            view = TopView(self._ladders[symbol], int(rest), pushed_out=self._pushed_out)
            view.last_id = self._full[symbol][0]
            self._views[symbol][stream] = view
        elif kind == "candles":
            bars = self._bars(symbol, rest, interval_bounds(self.position, rest)[0], self.position)
            self._klines.activate(symbol, rest, bars[-1] if bars else None)

    # Reference data and books

    def listed(self) -> list[Listed]:
        """All instruments."""
        return list(self._listed.values())

    def body(self, path: str) -> bytes | None:
        """Nothing is recorded."""
        return None

    def book_known(self, symbol: str) -> bool:
        """A simulated book is always known."""
        return symbol in self._listed

    def book_possible(self, symbol: str) -> bool:
        """A simulated book is always known."""
        return symbol in self._listed

    def book(self, symbol: str, limit: int | None = None) -> BookView:
        """The book after the last batch of changes."""
        ladder, (last_id, number) = self._ladders[symbol], self._full[symbol]
        bids, asks = (self._levels(symbol, ladder.best(side, limit)) for side in (0, 1))
        return BookView(symbol, self._book_times[symbol], last_id, number, bids, asks)

    first_book = book

    def view(self, stream: str) -> BookView | None:
        """What a subscriber of ``depth`` or ``top`` has now."""
        kind, symbol, rest = split_stream(stream)
        if symbol not in self._listed or kind not in ("depth", "top"):
            return None
        book = self.book(symbol, int(rest) if kind == "top" else None)
        top = self._views[symbol].get(stream)
        if top is None:
            return book
        return BookView(symbol, book.ts, top.last_id, top.number, book.bids, book.asks)

    # Trades

    def _sim_trades(self, symbol: str, trade_id: int, count: int) -> list[Trade]:
        count = min(count, self._last_trade[symbol] - trade_id + 1)
        found = self.sim.trades_from(symbol, trade_id, count, self.position) if count > 0 else []
        return [self._made(t) for t in found]

    def trades_from(self, symbol: str, trade_id: int, count: int) -> list[Trade]:
        """Passed trades from an id on, back to the first simulated day."""
        return self._sim_trades(symbol, max(trade_id, self.sim.day_first_id(symbol, self.sim.first_day)), count)

    def trades_before(self, symbol: str, trade_id: int, count: int) -> list[Trade]:
        """The last passed trades before an id."""
        end = min(trade_id, self._last_trade[symbol] + 1)
        first = max(end - count, self.sim.day_first_id(symbol, self.sim.first_day))
        return self._sim_trades(symbol, first, end - first)

    def trades_between(self, symbol: str, start: int, end: int) -> list[Trade]:
        """Passed trades of a time range."""
        return [self._made(t) for t in self._between(symbol, start, end)]

    def _between(self, symbol: str, start: int, end: int) -> list[MarketTrade]:
        last = self._last_trade[symbol]
        return [t for t in self.sim.trades_between(symbol, start, min(end, self.position + 1)) if t.id <= last]

    def latest_trades(self, symbol: str, count: int) -> list[Trade]:
        """The last passed trades."""
        return self.trades_before(symbol, self._last_trade[symbol] + 1, count)

    def _bars(self, symbol: str, interval: str, start: int, end: int) -> list[Bar]:
        """Candles that open in ``[start, end]``, empty ones too, whatever part of the history they are a part of."""
        oldest = day_start(self.sim.first_day)
        first = interval_bounds(max(start, oldest), interval)[0]
        until = interval_bounds(max(first, min(end, self.position)), interval)[1]
        numbers = self._numbers[symbol]
        close = self._close_before(symbol, first, oldest)
        trades = self._between(symbol, first, until)
        bars = build_bars(trades, interval, numbers, start=None if close is None else first, close=close)
        if not bars and close is not None:
            opens, closes = interval_bounds(first, interval)
            bars.append(Bar(opens, closes, close, close, close, close))
        while bars and bars[-1].close_time < until:  # a window may end in intervals without a trade
            last = bars[-1]
            opens, closes = interval_bounds(last.close_time, interval)
            bars.append(Bar(opens, closes, last.close, last.close, last.close, last.close))
        return [bar for bar in bars if start <= bar.open_time <= end]

    def _close_before(self, symbol: str, ts: int, oldest: int) -> int | None:
        """The price of the last trade before an instant; None at the beginning of the history."""
        width = 60 * _SECOND
        while True:
            trades = self._between(symbol, max(oldest, ts - width), ts)
            if trades or ts - width <= oldest:
                return trades[-1].price if trades else None
            width *= 8

    def candles(self, symbol: str, interval: str, start: int, end: int) -> list[CandleUpdate]:
        """Candles of the passed trades."""
        return self._written(symbol, interval, self._bars(symbol, interval, start, end))

    def _written(self, symbol: str, interval: str, bars: Iterable[Bar]) -> list[CandleUpdate]:
        numbers, now = self._numbers[symbol], self.clock
        return [candle_update(symbol, KlineUpdate(interval, b, b.close_time <= now, now), numbers) for b in bars]

    # Archive

    def days(self, symbol: str) -> list[date]:
        """History, the day of the start, and every later day that the timeline has reached."""
        last = day_of(self.position)
        if self.sim.end is not None and last > day_of(self.sim.end - 1):
            last = day_of(self.sim.end - 1)
        return [self.sim.first_day + timedelta(days=n) for n in range((last - self.sim.first_day).days + 1)]

    def day_trades(self, symbol: str, day: date) -> list[Trade]:
        """All trades of a day, as the live market has them."""
        return [self._made(t) for t in self.sim.day_trades(symbol, day)]

    def day_candles(self, symbol: str, day: date, interval: str) -> list[CandleUpdate]:
        """All candles of a day, from its first instant."""
        before = self.sim.day_trades(symbol, day - timedelta(days=1))
        trades = self.sim.day_trades(symbol, day)
        close = before[-1].price if before else None
        bars = build_bars(trades, interval, self._numbers[symbol], start=day_start(day), close=close)
        return self._written(symbol, interval, bars)

    # Truth

    def books(self, depth: int) -> dict[str, Any]:
        """The true books."""
        result: dict[str, Any] = {}
        for symbol in self.symbols:
            book = self.book(symbol, depth)
            sides = [[(float(p), float(q)) for p, q in side] for side in (book.bids, book.asks)]
            result[symbol] = {"last_id": book.last_id, "ts": book.ts, "bids": sides[0], "asks": sides[1]}
        return result

    def passed(self) -> dict[str, Any]:
        """Ids of the trades since the start."""
        result = {}
        for symbol in self.symbols:
            first, last = self.sim.first_live_id(symbol), self._last_trade[symbol]
            some = last >= first
            ids = {"first_id": first if some else None, "last_id": last if some else None}
            result[symbol] = {**ids, "count": last - first + 1}
        return result

    def passed_trades(self, symbol: str) -> list[Trade]:
        """All trades since the start."""
        first = self.sim.first_live_id(symbol)
        return self._sim_trades(symbol, first, self._last_trade[symbol] - first + 1)

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
