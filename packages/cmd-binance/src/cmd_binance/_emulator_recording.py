"""A recorded Binance market: frames served verbatim, with the emulator's own undamaged books beside them.

Candles that were not recorded are derived from recorded trades and partial depth from recorded depth, at its
own speed; aggregate trades only in the archive and by REST. The bulk archive of a recording holds its trades, on the days that it covers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from datetime import date
from math import inf, log
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Struct

from cmd_common.candles import interval_bounds
from cmd_common.emulation import MarketSource
from cmd_common.emulation_base import Item, TrueBook
from cmd_common.errors import UsageError
from cmd_common.recording import Line, Playlist, Recording
from cmd_common.simulation import MarketTrade, day_of, day_start

from ._emulator_frames import (
    AGG,
    BOOK,
    DEPTH,
    EVENT_TIME,
    TICKER,
    TRADE,
    Book,
    Depth,
    Trade,
    decimals_of,
    event_time,
    scaled,
    split_frame,
    trim,
)
from ._emulator_history import History, load_history
from ._emulator_market import Agg, Bar, KlineStreams, KlineUpdate, Numbers, build_bars
from ._emulator_world import Listed, Snapshot, split_stream
from .instruments import Market, to_ns

__all__ = ["RecordedWorld"]

_QUOTES: Final = (
    "USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USDP", "DAI", "PAX", "BTC", "ETH", "BNB", "EUR", "TRY", "GBP", "AUD",
    "BRL", "RUB", "UAH", "JPY", "NGN", "TRX", "XRP", "DOGE", "BIDR", "IDRT", "ZAR", "PLN", "RON", "ARS", "MXN", "USD",
)  # fmt: skip
_PARTIAL: Final = ("depth5", "depth10", "depth20")
_SAMPLES: Final = 300  # messages a stream whose decimals are looked at
_ENOUGH: Final = 50  # trades and quotes that say what the tick and lot sizes are


class _Seen(Struct):
    """What the first pass learned about a symbol; decimals are counted without trailing zeros.

    Deep levels can be older than the tick and lot sizes of their day, so that trades and quotes, where
    there are enough of them, say more than books.
    """

    counts: dict[str, int] = {}
    first_book: bytes | None = None
    snapshots: int = 0  # of the book, that are still to come
    first_id: int = 0  # of the recorded book updates
    last_depth: str = ""
    price: float = 0.0  # some price near the market
    trades: bool = False
    _book: tuple[int, int] = (0, 0)
    _market: tuple[int, int] = (0, 0)
    _samples: int = 0

    def level(self, price: str, quantity: str) -> None:
        self._book = _most(self._book, price, quantity)

    def traded(self, price: str, quantity: str) -> None:
        self._market = _most(self._market, price, quantity)
        self._samples += 1

    @property
    def decimals(self) -> tuple[int, int]:
        if self._samples >= _ENOUGH:
            return self._market
        return max(self._book[0], self._market[0]), max(self._book[1], self._market[1])


def _most(known: tuple[int, int], price: str, quantity: str) -> tuple[int, int]:
    return max(known[0], decimals_of(trim(price))), max(known[1], decimals_of(trim(quantity)))


class RecordedWorld:
    """``BinanceWorld`` over recordings."""

    def __init__(self, market: Market, source: MarketSource) -> None:
        self._market = market
        self._seen: dict[str, _Seen] = {}
        self._names: dict[str, tuple[str, str]] = {}  # stream name: (symbol, type)
        self._nameless: dict[int, Line] = {}  # book snapshots whose line does not say which symbol, by id
        self._owners: dict[int, str] = {}  # and whose they are
        self.exchange_info: bytes | None = None
        self.notes: list[str] = []
        self._first_event = 0
        self._last_event = 0
        self._tail = ""
        spans = [Playlist.scan(path, event_time, self._visit) for path in source.recordings]
        self._name_snapshots()
        for path, span in zip(source.recordings, spans, strict=True):
            if span.torn:
                self.notes.append(f"{path} ends in a torn line, which is left out")
            if span.bad_lines:
                self.notes.append(f"{path}: {span.bad_lines} lines are not in the format and are left out")
        if not self._seen:
            raise UsageError(
                f"no message of {market.venue} in {', '.join(source.recordings)}", hint="is it another exchange's?"
            )
        found = EVENT_TIME.search(self._tail)
        self._last_event = to_ns(int(found[1])) if found else self._first_event
        if source.instruments:
            self.exchange_info = _read_info(source.instruments)
        self.symbols = tuple(sorted(self._seen))
        self._playlist = Playlist(source.recordings, spans, event_time)
        self._lines = iter(self._playlist)
        self._next = next(self._lines, None)
        self.start = self.position = self._next[0] if self._next else 0
        self.clock = self._first_event or self.start
        self._books = {symbol: TrueBook() for symbol in self.symbols}
        self._book_times = dict.fromkeys(self.symbols, self.clock)
        self._holed: set[str] = set()  # books that miss a message, since the recording lacks it
        self._recent: dict[str, deque[Depth]] = {symbol: deque(maxlen=1000) for symbol in self.symbols}
        self._passed: dict[str, list[int]] = {}  # symbol: [first id, last id, count]
        self._last_agg: dict[str, int] = {}
        self._klines = KlineStreams(late=True)
        self._partials: dict[str, dict[str, int]] = {}  # symbol: derived partial streams and their levels
        self._loaded: dict[str, History] | None = None

    # The first pass

    def _visit(self, line: Line) -> None:
        if line.src == "rest":
            self._visit_rest(line)
            return
        if line.src != "ws":
            return
        split = split_frame(line.text)
        if split is None:
            return
        name, data = split
        symbol, kind = self._kind(name)
        seen = self._seen.get(symbol)
        if seen is None:
            seen = self._seen[symbol] = _Seen({})
        count = seen.counts.get(name, 0) + 1
        seen.counts[name] = count
        if '"E":' in data:
            if not self._first_event:
                self._first_event = event_time(line) or 0
            self._tail = data[:400]
        if kind == "depth":
            seen.last_depth = data
        if count > _SAMPLES:
            return
        try:
            if kind == "depth":
                depth = DEPTH.decode(data)
                seen.first_id = seen.first_id or depth.U
                for level in (*depth.b, *depth.a):
                    seen.level(*level)
                if depth.b and not seen.price:
                    seen.price = max(float(p) for p, _ in depth.b)
            elif kind == "bookTicker":
                ticker = TICKER.decode(data)
                seen.traded(ticker.b, ticker.B)
                seen.traded(ticker.a, ticker.A)
                seen.price = float(ticker.b)
            elif kind == "trade":
                trade = TRADE.decode(data)
                seen.trades = True
                seen.traded(trade.p, trade.q)
            elif kind == "aggTrade":
                agg = AGG.decode(data)
                seen.traded(agg.p, agg.q)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return

    def _visit_rest(self, line: Line) -> None:
        url = urlsplit(line.url or "")
        if url.path.endswith("/exchangeInfo") and self.exchange_info is None:
            self.exchange_info = line.text.encode()
        symbol = self._depth_symbol(line)
        if symbol is None and url.path:
            return
        try:
            book = BOOK.decode(line.text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if symbol is None:
            self._nameless[book.lastUpdateId] = line
            return
        self._visit_book(symbol, line, book)

    def _visit_book(self, symbol: str, line: Line, book: Book) -> None:
        seen = self._seen.setdefault(symbol, _Seen({}))
        seen.snapshots += 1
        if seen.first_book is None:
            seen.first_book = line.text.encode()
        for level in (*book.bids, *book.asks):
            seen.level(*level)

    def _name_snapshots(self) -> None:
        """Find whose the snapshots without an address are: ids within the symbol's, prices nearest to its market."""
        spans: dict[str, tuple[int, int, float]] = {}
        for symbol, seen in self._seen.items():
            try:
                spans[symbol] = (seen.first_id, DEPTH.decode(seen.last_depth).u, seen.price)
            except (msgspec.DecodeError, UnicodeDecodeError):  # no book updates, or none that can be read
                continue
        for number, line in self._nameless.items():
            book = BOOK.decode(line.text)
            best = max((float(p) for p, _ in book.bids), default=0.0)

            def unlike(symbol: str, number: int = number, best: float = best) -> tuple[bool, float]:
                first, last, price = spans[symbol]
                return not first <= number <= last, abs(log(best / price)) if best and price else inf

            if spans:
                symbol = min(spans, key=unlike)
                self._owners[number] = symbol
                self._visit_book(symbol, line, book)

    @staticmethod
    def _depth_symbol(line: Line) -> str | None:
        url = urlsplit(line.url or "")
        if not url.path.endswith("/depth"):
            return None
        return (parse_qs(url.query).get("symbol") or [""])[0].upper() or None

    def _kind(self, name: str) -> tuple[str, str]:
        known = self._names.get(name)
        if known is None:
            symbol, kind, _ = split_stream(name)
            known = self._names[name] = (symbol, kind)
        return known

    # Timeline

    def next_time(self) -> int | None:
        """Time of the next line."""
        return self._next[0] if self._next is not None else None

    def step(self) -> list[Item]:
        """Let one line happen."""
        if self._next is None:
            return []
        self.position, line = self._next
        self._next = next(self._lines, None)
        if line.src == "rest":
            self._snapshot_line(line)
            return []
        if line.src != "ws":
            return []
        split = split_frame(line.text)
        if split is None:
            return []
        name, data = split
        symbol, kind = self._kind(name)
        items = [Item(name, symbol, data)]
        try:
            if kind == "depth":
                if not self._apply(symbol, DEPTH.decode(data)):
                    items[0].resync = symbol
                if symbol in self._partials:
                    self._derive_partials(symbol, items)
            elif kind == "trade":
                self._trade(TRADE.decode(data), items)
            elif kind == "aggTrade":
                agg = AGG.decode(data)
                self._last_agg[symbol] = max(agg.a, self._last_agg.get(symbol, -1))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return items
        if self._klines.active:
            found = EVENT_TIME.search(data, 0, 200)
            if found:
                self.clock = max(self.clock, to_ns(int(found[1])))
                self._updates(self._klines.tick(self.clock), items)
        return items

    def _apply(self, symbol: str, depth: Depth) -> bool:
        """Apply an update to the own book; False if the recording lacks the one before it."""
        book = self._books[symbol]
        chained = True
        self.clock = max(self.clock, to_ns(depth.E))
        if book.known and depth.u > book.last_id:
            last = book.last_id
            if depth.pu > last if depth.pu else last + 1 < depth.U:
                chained = False
                self._holed.add(symbol)
                if self._seen[symbol].snapshots:
                    book.known = False  # requests wait for what was recorded then
            book.apply(depth.u, depth.b, depth.a)
            if symbol in self._holed:
                book.uncross(depth.b, depth.a)
            self._book_times[symbol] = to_ns(depth.E)
        self._recent[symbol].append(depth)
        return chained

    def _snapshot_line(self, line: Line) -> None:
        symbol = self._depth_symbol(line)
        if symbol is None and urlsplit(line.url or "").path:
            return
        try:
            snapshot = BOOK.decode(line.text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        symbol = symbol or self._owners.get(snapshot.lastUpdateId)
        if symbol not in self._books:
            return
        self._seen[symbol].snapshots -= 1
        book, recent = self._books[symbol], self._recent[symbol]
        if book.known and recent and recent[0].u > snapshot.lastUpdateId:
            return  # too old for what is kept of the stream
        known = len(snapshot.bids)
        if book.known and known < 500:
            return  # somebody's shallow look at the book would only shrink what is known
        book.load(snapshot.lastUpdateId, snapshot.bids, snapshot.asks)
        self._holed.discard(symbol)
        if snapshot.E:
            self._book_times[symbol] = to_ns(snapshot.E)
        for depth in recent:
            if depth.u > book.last_id:
                book.apply(depth.u, depth.b, depth.a)
                self._book_times[symbol] = to_ns(depth.E)

    def _trade(self, trade: Trade, items: list[Item]) -> None:
        passed = self._passed.get(trade.s)
        if passed is None:
            self._passed[trade.s] = [trade.t, trade.t, 1]
        elif trade.t > passed[1]:
            passed[1] = trade.t
            passed[2] += 1
        if self._klines.active:
            numbers = self._history(trade.s).numbers
            price, quantity = scaled(trade.p, numbers.price_decimals), scaled(trade.q, numbers.quantity_decimals)
            made = MarketTrade(trade.s, trade.t, to_ns(trade.T), price, quantity, trade.m)
            self._updates(self._klines.trade(made, numbers.amount(price, quantity), self.clock), items)

    def _derive_partials(self, symbol: str, items: list[Item]) -> None:
        """Add the best levels of the own book, once it is known, after an update of it."""
        book, last = self._books[symbol], self._recent[symbol][-1]
        if not book.known:
            return
        for stream, count in self._partials[symbol].items():
            bids, asks = (msgspec.json.encode(side).decode() for side in book.top(count))
            if not self._market.futures:
                text = f'{{"lastUpdateId":{book.last_id},"bids":{bids},"asks":{asks}}}'
            else:
                pair = f'"ps":"{symbol.partition("_")[0]}",' if self._market.name == "coinm" else ""
                text = (
                    f'{{"e":"depthUpdate","E":{last.E},"T":{last.T or last.E},"s":"{symbol}",{pair}"U":{last.U},'
                    f'"u":{last.u},"pu":{last.pu},"b":{bids},"a":{asks}}}'
                )
            items.append(Item(stream, symbol, text))

    def _updates(self, updates: list[tuple[str, KlineUpdate]], items: list[Item]) -> None:
        items.extend(Item(f"{s.lower()}@kline_{u.interval}", s, u) for s, u in updates)

    def finish(self) -> list[Item]:
        """Send derived candles as they are at the end."""
        items: list[Item] = []
        self._updates(self._klines.flush(self.clock), items)
        return items

    # Streams

    def resolve(self, name: str) -> str | None:
        """Return the recorded stream for a name: the same, or the same type at another speed."""
        symbol, kind, _ = split_stream(name)
        seen = self._seen.get(symbol)
        if seen is None or name.partition("@")[0] != symbol.lower():
            return None
        if name in seen.counts:
            return name
        same = [n for n in seen.counts if self._kind(n)[1] == kind]
        if same:
            return max(same, key=lambda n: (seen.counts[n], n))
        if kind.startswith("kline_") and seen.trades and kind[6:] in self._market.intervals:
            return f"{symbol.lower()}@{kind}"
        if kind in _PARTIAL and self._partial_possible(seen):
            return f"{symbol.lower()}@{kind}"
        return None

    def _partial_possible(self, seen: _Seen) -> bool:
        return seen.first_book is not None and any(self._kind(name)[1] == "depth" for name in seen.counts)

    def subscribed(self, stream: str) -> None:
        """Begin a derived candle stream."""
        symbol, kind, _ = split_stream(stream)
        if kind in _PARTIAL and stream not in self._seen[symbol].counts:
            self._partials.setdefault(symbol, {})[stream] = int(kind[5:])
        if not kind.startswith("kline_") or stream in self._seen[symbol].counts:
            return
        history = self._history(symbol)
        interval = kind[6:]
        last = self._passed.get(symbol)
        bar = None
        if last is not None:
            passed = [t for t in history.trades if t.id <= last[1]]
            begin = interval_bounds(passed[-1].ts, interval)[0]
            bar = build_bars((t for t in passed if t.ts >= begin), interval, history.numbers)[-1]
        self._klines.activate(symbol, interval, bar)

    # Reference data and books

    def listed(self) -> list[Listed]:
        """All instruments, from the decimals and names that occur."""
        result = []
        for symbol in self.symbols:
            seen = self._seen[symbol]
            name, _, tail = symbol.partition("_")
            quotes = ("USD",) if self._market.name == "coinm" else _QUOTES
            quote = next((q for q in quotes if name.endswith(q) and name != q), "")
            base = name.removesuffix(quote) if quote else name
            tick, lot = (_step(d) for d in seen.decimals)
            size = (100 if base == "BTC" else 10) if self._market.name == "coinm" else 0
            result.append(Listed(symbol, base, quote or tail, tick, lot, size))
        return result

    def numbers(self, symbol: str) -> Numbers:
        """How a symbol's numbers are written."""
        return self._history(symbol).numbers

    def book_known(self, symbol: str) -> bool:
        """Whether the recorded snapshot was reached."""
        return self._books[symbol].known

    def book_possible(self, symbol: str) -> bool:
        """Whether a snapshot was recorded."""
        return self._seen[symbol].first_book is not None

    def snapshot(self, symbol: str, limit: int) -> Snapshot:
        """The emulator's own book."""
        book = self._books[symbol]
        bids, asks = book.top(limit)
        return Snapshot(book.last_id, self._book_times[symbol], bids, asks)

    def first_snapshot(self, symbol: str, limit: int) -> Snapshot:
        """The first recorded snapshot."""
        book = BOOK.decode(self._seen[symbol].first_book or b"")
        ts = to_ns(book.E) if book.E else self.clock
        return Snapshot(book.lastUpdateId, ts, book.bids[:limit], book.asks[:limit])

    # Trades

    def _history(self, symbol: str) -> History:
        if self._loaded is None:
            self._loaded = load_history(self._market, self._playlist, self.listed())
        return self._loaded[symbol]

    def _passed_trades(self, symbol: str) -> list[MarketTrade]:
        passed = self._passed.get(symbol)
        if passed is None:
            return []
        trades = self._history(symbol).trades
        return trades[: bisect_right(trades, passed[1], key=lambda t: t.id)]

    def _passed_aggs(self, symbol: str) -> list[Agg]:
        aggs = self._history(symbol).aggs
        if symbol in self._last_agg:
            return aggs[: bisect_right(aggs, self._last_agg[symbol], key=lambda a: a.id)]
        passed = self._passed.get(symbol)
        return aggs[: bisect_right(aggs, passed[1], key=lambda a: a.last_id)] if passed else []

    def trades_from(self, symbol: str, trade_id: int, count: int) -> list[MarketTrade]:
        """Passed trades from an id on."""
        trades = self._passed_trades(symbol)
        low = bisect_left(trades, trade_id, key=lambda t: t.id)
        return trades[low : low + count]

    def latest_trades(self, symbol: str, count: int) -> list[MarketTrade]:
        """The last passed trades."""
        return self._passed_trades(symbol)[-count:]

    def aggs_from(self, symbol: str, number: int, count: int) -> list[Agg]:
        """Passed aggregate trades from an id on."""
        aggs = self._passed_aggs(symbol)
        low = bisect_left(aggs, number, key=lambda a: a.id)
        return aggs[low : low + count]

    def aggs_between(self, symbol: str, start: int, end: int, count: int) -> list[Agg]:
        """Passed aggregate trades of a time range."""
        return [a for a in self._passed_aggs(symbol) if start <= a.ts <= end][:count]

    def latest_aggs(self, symbol: str, count: int) -> list[Agg]:
        """The last passed aggregate trades."""
        return self._passed_aggs(symbol)[-count:]

    def bars(self, symbol: str, interval: str, start: int, end: int) -> list[Bar]:
        """Candles of the passed trades, or the recorded ones where no trades were."""
        history = self._history(symbol)
        if history.trades:
            bars = build_bars(self._passed_trades(symbol), interval, history.numbers)
        else:
            bars = [bar for bar in history.bars.get(interval, ()) if bar.open_time <= self.clock]
        return [bar for bar in bars if start <= bar.open_time <= end]

    # Archive

    def days(self, symbol: str) -> list[date]:
        """Days with recorded trades, aggregate trades or candles."""
        history = self._history(symbol)
        stamps = {day_of(t.ts) for t in history.trades} | {day_of(a.ts) for a in history.aggs}
        stamps |= {day_of(bar.open_time) for bars in history.bars.values() for bar in bars}
        return sorted(stamps)

    def day_trades(self, symbol: str, day: date) -> list[MarketTrade]:
        """The recorded trades of a day."""
        return [t for t in self._history(symbol).trades if day_of(t.ts) == day]

    def day_aggs(self, symbol: str, day: date) -> list[Agg]:
        """The recorded (or derived) aggregate trades of a day."""
        return [a for a in self._history(symbol).aggs if day_of(a.ts) == day]

    def day_bars(self, symbol: str, day: date, interval: str) -> list[Bar]:
        """Candles of a day from its recorded trades, or the recorded ones."""
        history = self._history(symbol)
        if not history.trades:
            return [bar for bar in history.bars.get(interval, ()) if day_of(bar.open_time) == day]
        trades = self.day_trades(symbol, day)
        first = day_start(day)
        low = bisect_left(history.trades, first, key=lambda t: t.ts)
        if low and trades:  # the recording began earlier: its last price fills the first minutes
            return build_bars(trades, interval, history.numbers, start=first, close=history.trades[low - 1].price)
        return build_bars(trades, interval, history.numbers)

    def archive_bars(self, symbol: str, interval: str) -> list[Bar]:
        """Candles that are longer than a day."""
        history = self._history(symbol)
        if not history.trades:
            return list(history.bars.get(interval, ()))
        return build_bars(history.trades, interval, history.numbers)

    # Truth

    def books(self, depth: int) -> dict[str, Any]:
        """The true books, as far as known."""
        result: dict[str, Any] = {}
        for symbol, book in self._books.items():
            if book.known:
                bids, asks = book.top(depth)
                result[symbol] = {
                    "last_id": book.last_id,
                    "bids": [(float(p), float(q)) for p, q in bids],
                    "asks": [(float(p), float(q)) for p, q in asks],
                }
        return result

    def passed(self) -> dict[str, Any]:
        """Ids of the trades so far."""
        return {s: {"first_id": p[0], "last_id": p[1], "count": p[2]} for s, p in self._passed.items()}

    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""
        derived = any(
            seen.trades and not any("@kline_" in name for name in seen.counts) for seen in self._seen.values()
        )
        facts: dict[str, Any] = {
            "source": "recording",
            "symbols": list(self.symbols),
            "first_event": self._first_event or None,
            "last_event": self._last_event or None,
            "streams": {name: n for seen in self._seen.values() for name, n in sorted(seen.counts.items())},
        }
        made = ["klines"] if derived else []
        if any(self._partial_possible(seen) for seen in self._seen.values()):
            made.append("partial_depth")
        if made:
            facts["derived"] = made
        if self.notes:
            facts["notes"] = self.notes
        return facts


def _step(decimals: int) -> str:
    return f"0.{'0' * (decimals - 1)}1" if decimals else "1"


def _read_info(path: str) -> bytes:
    """Read exchangeInfo: plain JSON, or the first such body of a recording."""
    for line in Recording(path):
        if line.src in ("rest", "sample") and '"symbols"' in line.text:
            return line.text.encode()
    try:
        with open(path, "rb") as file:
            body = file.read()
        if isinstance(msgspec.json.decode(body), dict):
            return body
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise UsageError(f"{path} holds no exchangeInfo", hint="give the JSON body of exchangeInfo, or a recording of it")
