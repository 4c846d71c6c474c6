"""A recorded venue: frames served verbatim, with the emulator's own undamaged books and trades beside them.

The exchange's package says what a frame is (``Classifier``); everything else is done here. Two passes: the
first learns symbols, streams, decimals and trades; the second is the timeline. Candles that were not recorded
are derived from recorded trades, and the clock is made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from datetime import date
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from .candles import interval_bounds
from .emulation import MarketSource
from .emulation_base import Item, TrueBook
from .errors import DataError, UsageError
from .recording import Line, Playlist, Recording
from .simulation import MarketTrade, day_of, day_start
from .venue_market import Bar, KlineStreams, KlineUpdate, Numbers, build_bars, decimals_of, scaled, trim
from .venue_simulation import candle_update
from .venue_world import BookView, CandleUpdate, Level, Listed, Tick, Trade, split_stream

__all__ = ["Classifier", "RecordedPart", "RecordedVenue"]

_SECOND: Final = 1_000_000_000
_SAMPLES: Final = 300  # book messages a symbol whose decimals are looked at
_RECENT: Final = 1000  # book updates that are kept for a snapshot that comes after them
_WRONG: Final = (
    msgspec.DecodeError, DataError, ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError,
    UnicodeError, RecursionError,
)  # fmt: skip


class RecordedPart(Struct, frozen=True):
    """What one recorded frame or body says about one stream.

    ``stream`` is named as in ``venue_world``; a frame is served to the subscribers of its first part's stream.
    Levels are text as it came, zero deletes; ids are 0 where the venue has none. ``number`` is the message's own
    number, where messages are numbered one by one. ``depth``: the own book is cut to so many levels a side.
    Book parts of a symbol must be of one stream: give others as ``other``.
    """

    stream: str
    symbol: str = ""
    kind: Literal["other", "trade", "update", "snapshot"] = "other"
    ts: int = 0  # exchange time, ns; 0: not told
    first_id: int = 0
    last_id: int = 0
    prev_id: int = 0
    number: int = 0
    bids: Sequence[Level] = ()
    asks: Sequence[Level] = ()
    depth: int = 0
    trade_id: str = ""
    price: str = ""
    quantity: str = ""
    side: Literal["buy", "sell"] = "buy"


class Classifier(Protocol):
    """The exchange's reading of recorded text; errors of parsing are caught and make a line nobody's."""

    def classify(self, text: str) -> list[RecordedPart]:
        """Say what a WebSocket frame is; nothing for acknowledgements and unknown frames."""

    def classify_rest(self, url: str, text: str) -> list[RecordedPart]:
        """Say which book (kind ``snapshot``) a REST body is; nothing for other bodies."""

    def recorded(self, symbol: str, price_decimals: int, quantity_decimals: int) -> Listed:
        """Describe a recorded symbol whose numbers have so many decimals."""


class _Seen(Struct):
    """What the first pass learned about a symbol."""

    counts: dict[str, int]
    trades: dict[str, Trade]
    first_book: RecordedPart | None = None
    snapshots: int = 0  # of the book, that are still to come
    samples: int = 0
    price_decimals: int = 0
    quantity_decimals: int = 0

    def number(self, price: str, quantity: str) -> None:
        self.price_decimals = max(self.price_decimals, decimals_of(trim(price)))
        self.quantity_decimals = max(self.quantity_decimals, decimals_of(trim(quantity)))


class _Symbol:
    """The state of one symbol on the timeline."""

    def __init__(self, seen: _Seen, listed: Listed, clock: int) -> None:
        self.seen = seen
        self.listed = listed
        self.numbers = Numbers(
            listed.price_decimals, listed.quantity_decimals, listed.contract_size, inverse=listed.inverse
        )
        self.book = TrueBook()
        self.book_time = clock
        self.number = 0
        self.depth = 0
        self.holed = False  # the book misses a message, since the recording lacks it
        self.recent: deque[RecordedPart] = deque(maxlen=_RECENT)
        self.passed: dict[str, Trade] = {}
        self.trades = sorted(seen.trades.values(), key=lambda t: (t.ts, t.id))

    def scaled(self, trade: Trade) -> MarketTrade:
        price = scaled(trade.price, self.listed.price_decimals)
        quantity = scaled(trade.quantity, self.listed.quantity_decimals)
        return MarketTrade(trade.symbol, trade.id, trade.ts, price, quantity, trade.side == "sell")


class RecordedVenue:
    """``VenueWorld`` over recordings; raises UsageError when they hold nothing of the venue."""

    def __init__(self, source: MarketSource, classifier: Classifier) -> None:
        self._classifier = classifier
        self._seen: dict[str, _Seen] = {}
        self._others: dict[str, int] = {}  # recorded streams without a symbol
        self._bodies: dict[str, bytes] = {}  # of REST, by path and query
        self.notes: list[str] = []
        self._first_event = self._last_event = 0
        spans = [Playlist.scan(path, self._event_time, self._visit) for path in source.recordings]
        for path, span in zip(source.recordings, spans, strict=True):
            if span.torn:
                self.notes.append(f"{path} ends in a torn line, which is left out")
            if span.bad_lines:
                self.notes.append(f"{path}: {span.bad_lines} lines are not in the format and are left out")
        if not self._seen:
            raise UsageError(
                f"no message of {source.venue} in {', '.join(source.recordings)}",
                hint="is it another exchange's, or are there only REST answers and samples in it?",
            )
        self.reference = _read_reference(source.instruments, self._bodies) if source.instruments else None
        self.symbols = tuple(sorted(self._seen))
        self._playlist = Playlist(source.recordings, spans, self._event_time)
        self._lines = iter(self._playlist)
        self._next = next(self._lines, None)
        self.start = self.position = self._next[0] if self._next else 0
        self.clock = self._first_event or self.start
        self._symbols = {
            name: _Symbol(
                seen, classifier.recorded(name, seen.price_decimals, seen.quantity_decimals), self.clock
            )
            for name, seen in sorted(self._seen.items())
        }  # fmt: skip
        self._klines = KlineStreams(late=True)
        self._second = self.clock // _SECOND
        self._ticking = False
        self._ticks = 0

    # The first pass

    def _parts(self, line: Line) -> list[RecordedPart]:
        try:
            if line.src == "ws":
                return self._classifier.classify(line.text)
            if line.src == "rest":
                return self._classifier.classify_rest(line.url or "", line.text)
        except _WRONG:
            pass
        return []

    def _event_time(self, line: Line) -> int | None:
        return max((part.ts for part in self._parts(line)), default=0) or None

    def _visit(self, line: Line) -> None:
        parts = self._parts(line)
        if line.src == "rest":
            url = urlsplit(line.url or "")
            if url.path and not parts:
                self._bodies[url.path + (f"?{url.query}" if url.query else "")] = line.text.encode(
                    "utf-8", "surrogateescape"
                )
        for n, part in enumerate(parts):
            if part.ts:
                self._first_event = self._first_event or part.ts
                self._last_event = max(self._last_event, part.ts)
            if not part.symbol:
                self._others[part.stream] = self._others.get(part.stream, 0) + 1
                continue
            seen = self._seen.get(part.symbol)
            if seen is None:
                seen = self._seen[part.symbol] = _Seen({}, {})
            if line.src == "ws" and (not n or part.stream != parts[0].stream):
                seen.counts[part.stream] = seen.counts.get(part.stream, 0) + 1
            if part.kind == "trade":
                if part.trade_id not in seen.trades:
                    seen.trades[part.trade_id] = _trade_of(part, len(seen.trades))
                    seen.number(part.price, part.quantity)
            elif part.kind in ("update", "snapshot"):
                if part.kind == "snapshot":
                    seen.snapshots += 1
                    seen.first_book = seen.first_book or part
                seen.samples += 1
                if seen.samples <= _SAMPLES:
                    for price, quantity in (*part.bids, *part.asks):
                        seen.number(price, quantity)

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
        parts = self._parts(line)
        items: list[Item] = []
        if parts and line.src == "ws":
            items.append(Item(parts[0].stream, parts[0].symbol, line.text))
        for part in parts:
            if part.ts > self.clock and line.src == "ws":
                self.clock = part.ts
            if part.kind == "trade":
                self._trade(part, items)
            elif part.kind == "update":
                if not self._update(part) and items:
                    items[0].resync = part.symbol
            elif part.kind == "snapshot":
                self._snapshot(part, live=line.src == "ws")
        if self._klines.active:
            self._updates(self._klines.tick(self.clock), items)
        if self._ticking and self.clock // _SECOND > self._second:
            self._second = self.clock // _SECOND
            self._ticks += 1
            items.append(Item("clock", "", Tick(self.clock, self._ticks)))
        return items

    def _update(self, part: RecordedPart) -> bool:
        """Apply an update to the own book; False if the recording lacks the one before it."""
        state = self._symbols[part.symbol]
        book, chained = state.book, True
        state.recent.append(part)
        if not book.known or (part.last_id and part.last_id <= book.last_id):
            return True
        if book.last_id and (part.prev_id > book.last_id or (not part.prev_id and part.first_id > book.last_id + 1)):
            chained = False
            state.holed = True
            if state.seen.snapshots:
                book.known = False  # requests wait for what was recorded then
        self._apply(state, part)
        return chained

    def _apply(self, state: _Symbol, part: RecordedPart) -> None:
        book = state.book
        book.apply(part.last_id or book.last_id, part.bids, part.asks)
        if state.holed:
            book.uncross(part.bids, part.asks)
        self._cut(state, part)

    def _cut(self, state: _Symbol, part: RecordedPart) -> None:
        depth = state.depth = part.depth or state.depth
        state.number = part.number or state.number
        state.book_time = part.ts or state.book_time
        book = state.book
        if depth and len(book.bids) > depth:
            book.bids = {p: book.bids[p] for p in sorted(book.bids, reverse=True)[:depth]}
        if depth and len(book.asks) > depth:
            book.asks = {p: book.asks[p] for p in sorted(book.asks)[:depth]}

    def _snapshot(self, part: RecordedPart, *, live: bool) -> None:
        state = self._symbols[part.symbol]
        state.seen.snapshots -= 1
        book, recent = state.book, state.recent
        if not live and book.known:
            if recent and recent[0].last_id > part.last_id:
                return  # too old for what is kept of the stream
            if len(part.bids) < 500 and len(part.bids) < len(book.bids):
                return  # somebody's shallow look at the book would only shrink what is known
        book.load(part.last_id, part.bids, part.asks)
        state.holed = False
        self._cut(state, part)
        if live:
            recent.clear()
            return
        for update in recent:
            if update.last_id > book.last_id:
                self._apply(state, update)

    def _trade(self, part: RecordedPart, items: list[Item]) -> None:
        state = self._symbols[part.symbol]
        if part.trade_id in state.passed:
            return
        trade = state.passed[part.trade_id] = state.seen.trades[part.trade_id]
        if self._klines.active:
            made = state.scaled(trade)
            amount = state.numbers.amount(made.price, made.quantity)
            self._updates(self._klines.trade(made, amount, self.clock), items)

    def _updates(self, updates: list[tuple[str, KlineUpdate]], items: list[Item]) -> None:
        for symbol, update in updates:
            made = candle_update(symbol, update, self._symbols[symbol].numbers)
            items.append(Item(f"candles:{symbol}:{update.interval}", symbol, made))

    def finish(self) -> list[Item]:
        """Send derived candles as they are at the end."""
        items: list[Item] = []
        self._updates(self._klines.flush(self.clock), items)
        return items

    # Streams

    def resolve(self, stream: str) -> str | None:
        """Return the recorded stream: the same, or the same symbol's book of another depth."""
        kind, symbol, _ = split_stream(stream)
        if kind == "clock" or stream in self._others:
            return stream
        seen = self._seen.get(symbol)
        if seen is None:
            return None
        if stream in seen.counts:
            return stream
        if kind in ("depth", "top"):
            same = [name for name in seen.counts if split_stream(name)[0] in ("depth", "top")]
            return max(same, key=lambda name: (seen.counts[name], name), default=None)
        return stream if kind == "candles" and seen.trades else None

    def subscribed(self, stream: str) -> None:
        """Begin what is derived."""
        kind, symbol, interval = split_stream(stream)
        if kind == "clock":
            self._ticking = stream not in self._others
        elif kind == "candles" and stream not in self._seen[symbol].counts:
            bars = self._bars(self._symbols[symbol], interval, list(self._symbols[symbol].passed.values()))
            self._klines.activate(symbol, interval, bars[-1] if bars else None)

    # Reference data and books

    def listed(self) -> list[Listed]:
        """All recorded symbols."""
        return [state.listed for state in self._symbols.values()]

    def body(self, path: str) -> bytes | None:
        """The last recorded REST body whose path begins so."""
        return next((body for name, body in reversed(self._bodies.items()) if name.startswith(path)), None)

    def book_known(self, symbol: str) -> bool:
        """Whether the recorded snapshot was reached."""
        return symbol in self._symbols and self._symbols[symbol].book.known

    def book_possible(self, symbol: str) -> bool:
        """Whether a snapshot was recorded."""
        return symbol in self._seen and self._seen[symbol].first_book is not None

    def book(self, symbol: str, limit: int | None = None) -> BookView:
        """The emulator's own book."""
        state = self._symbols[symbol]
        bids, asks = state.book.top(limit or 1 << 30)
        return BookView(symbol, state.book_time, state.book.last_id, state.number, bids, asks)

    def first_book(self, symbol: str, limit: int | None = None) -> BookView:
        """The first recorded snapshot."""
        part = self._seen[symbol].first_book
        assert part is not None, "ask book_possible first"
        book = TrueBook()
        book.load(part.last_id, part.bids, part.asks)
        bids, asks = book.top(limit or 1 << 30)
        return BookView(symbol, part.ts or self.clock, part.last_id, part.number, bids, asks)

    def view(self, stream: str) -> BookView | None:
        """The own book, once it is known."""
        kind, symbol, rest = split_stream(stream)
        if kind not in ("depth", "top") or not self.book_known(symbol):
            return None
        return self.book(symbol, int(rest) if kind == "top" else None)

    # Trades

    def _passed(self, symbol: str) -> list[Trade]:
        return sorted(self._symbols[symbol].passed.values(), key=lambda t: t.id)

    def trades_from(self, symbol: str, trade_id: int, count: int) -> list[Trade]:
        """Passed trades from an id on."""
        trades = self._passed(symbol)
        low = bisect_left(trades, trade_id, key=lambda t: t.id)
        return trades[low : low + count]

    def trades_before(self, symbol: str, trade_id: int, count: int) -> list[Trade]:
        """The last passed trades before an id."""
        trades = self._passed(symbol)
        high = bisect_left(trades, trade_id, key=lambda t: t.id)
        return trades[max(0, high - count) : high]

    def trades_between(self, symbol: str, start: int, end: int) -> list[Trade]:
        """Passed trades of a time range."""
        return [t for t in self._passed(symbol) if start <= t.ts < end]

    def latest_trades(self, symbol: str, count: int) -> list[Trade]:
        """The last passed trades."""
        return self._passed(symbol)[-count:]

    def _bars(
        self, state: _Symbol, interval: str, trades: Sequence[Trade], start: int | None = None, close: int | None = None
    ) -> list[Bar]:
        ordered = sorted(trades, key=lambda t: (t.ts, t.id))
        return build_bars(map(state.scaled, ordered), interval, state.numbers, start=start, close=close)

    def candles(self, symbol: str, interval: str, start: int, end: int) -> list[CandleUpdate]:
        """Candles of the passed trades."""
        state = self._symbols[symbol]
        bars = self._bars(state, interval, list(state.passed.values()))
        return self._written(state, interval, [bar for bar in bars if start <= bar.open_time <= end])

    def _written(self, state: _Symbol, interval: str, bars: Sequence[Bar]) -> list[CandleUpdate]:
        now = self.clock
        made = (KlineUpdate(interval, bar, bar.close_time <= now, now) for bar in bars)
        return [candle_update(state.listed.symbol, update, state.numbers) for update in made]

    # Archive

    def days(self, symbol: str) -> list[date]:
        """Days with recorded trades."""
        return sorted({day_of(t.ts) for t in self._symbols[symbol].trades})

    def day_trades(self, symbol: str, day: date) -> list[Trade]:
        """The recorded trades of a day."""
        return [t for t in self._symbols[symbol].trades if day_of(t.ts) == day]

    def day_candles(self, symbol: str, day: date, interval: str) -> list[CandleUpdate]:
        """Candles of a day from its recorded trades."""
        state = self._symbols[symbol]
        trades = self.day_trades(symbol, day)
        first = day_start(day)
        before = [t for t in state.trades if t.ts < first]
        if before and trades:  # the recording began earlier: its last price fills the first minutes
            bars = self._bars(
                state, interval, trades, interval_bounds(first, interval)[0], state.scaled(before[-1]).price
            )
        else:
            bars = self._bars(state, interval, trades)
        return self._written(state, interval, bars)

    # Truth

    def books(self, depth: int) -> dict[str, Any]:
        """The true books, as far as known."""
        result: dict[str, Any] = {}
        for symbol in self.symbols:
            if self.book_known(symbol):
                book = self.book(symbol, depth)
                sides = [[(float(p), float(q)) for p, q in side] for side in (book.bids, book.asks)]
                result[symbol] = {"last_id": book.last_id, "ts": book.ts, "bids": sides[0], "asks": sides[1]}
        return result

    def passed(self) -> dict[str, Any]:
        """Ids of the trades so far."""
        result = {}
        for symbol in self.symbols:
            if ids := [t.id for t in self._symbols[symbol].passed.values()]:
                result[symbol] = {"first_id": min(ids), "last_id": max(ids), "count": len(ids)}
        return result

    def passed_trades(self, symbol: str) -> list[Trade]:
        """All trades so far."""
        return self._passed(symbol)

    def facts(self) -> dict[str, Any]:
        """Facts for the ready line."""
        streams = {name: n for seen in self._seen.values() for name, n in sorted(seen.counts.items())}
        facts: dict[str, Any] = {
            "source": "recording",
            "symbols": list(self.symbols),
            "first_event": self._first_event or None,
            "last_event": self._last_event or None,
            "streams": {**streams, **self._others},
        }
        if any(s.trades and not any(n.startswith("candles:") for n in s.counts) for s in self._seen.values()):
            facts["derived"] = ["candles"]
        if self.notes:
            facts["notes"] = self.notes
        return facts


def _trade_of(part: RecordedPart, place: int) -> Trade:
    number = int(part.trade_id) if part.trade_id.isascii() and part.trade_id.isdigit() else place
    return Trade(part.symbol, number, part.ts, part.price, part.quantity, part.side, part.trade_id)


def _read_reference(path: str, bodies: dict[str, bytes]) -> bytes:
    """Read reference data: plain JSON; or a recording, whose REST bodies are then known and the first returned."""
    first: bytes | None = None
    for line in Recording(path):
        if line.src in ("rest", "sample"):
            body = line.text.encode("utf-8", "surrogateescape")
            first = first or body
            url = urlsplit(line.url or "")
            if url.path:
                bodies.setdefault(url.path + (f"?{url.query}" if url.query else ""), body)
    if first is not None:
        return first
    try:
        with open(path, "rb") as file:
            plain = file.read()
        msgspec.json.decode(plain, type=msgspec.Raw)
        return plain
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(
            f"{path} holds no reference data",
            hint="give the JSON body of the exchange's instruments, or a recording of it",
        ) from None
