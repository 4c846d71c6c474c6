"""Candles built from trades in event time, the same whatever the order of arrival.

Theory of operation. A trade belongs to the interval that contains its ``ts_event``. Within it open
and close are the trades with the smallest and largest ``(ts_event, trade_seq, trade_id)``, never the
first and last to arrive (ids that are text: shorter ones first, as in the store); volumes are exactly rounded sums, so that they do not depend on the order of
addition either. Time is the watermark: the largest event time seen in a trade or told by ``tick``. A
candle is provisional until the watermark passes its close time by the allowed lateness, then it is
emitted once as final; a trade that still comes later emits it again as corrected.

Memory is bounded: closed intervals are kept for ``history`` intervals, and trades older than that are
counted in ``too_late`` and ignored. Repeats are recognised by their id within their interval: number
ids as merged ranges, which take a few bytes for ids without holes, text ids as a set of ``max_ids``
at most, beyond which the oldest are forgotten.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import UTC, datetime
from functools import lru_cache
from math import fsum
from typing import Final, Literal

from .errors import DataError, UnknownNameError, UsageError
from .records import INEXACT, TS_FROM_RECV, Candle, CandleState, Trade

__all__ = ["INTERVALS", "CandleBuilder", "interval_bounds"]

_SECOND: Final = 1_000_000_000
_UNITS: Final = {
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3_600 * _SECOND,
    "d": 86_400 * _SECOND,
    "w": 7 * 86_400 * _SECOND,
}
_MONDAY: Final = 4 * 86_400 * _SECOND  # 1970-01-05, the first Monday since the epoch
_END_OF_TIME: Final = 2**63
_LARGEST: Final = 1e290  # sums of prices times quantities beyond it could overflow

INTERVALS: Final = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
"""The usual intervals; ``interval_bounds`` and CandleBuilder take any count of s, m, h, d, w and M."""


@lru_cache(maxsize=256)
def _parse(interval: str) -> tuple[int, int, int]:
    """Return (length in ns, offset in ns, months); months is 0 unless the interval is of calendar months."""
    match = re.fullmatch(r"([1-9]\d{0,5})([smhdwM])", interval, re.ASCII)
    if match is None:
        from difflib import get_close_matches  # case matters here, 1m is not 1M

        raise UnknownNameError(
            "interval", interval, get_close_matches(interval, INTERVALS), hint="such as 1s, 1m, 1h, 1d, 1w, 1M"
        )
    count, unit = int(match[1]), match[2]
    if unit == "M":
        if count > 1200:
            raise UsageError(f"interval {interval} is longer than a century")
        return 0, 0, count
    return count * _UNITS[unit], _MONDAY if unit == "w" else 0, 0


def _month_start(months: int) -> int:
    """Return the ns of the first instant of the month ``months`` after January 1970."""
    start = datetime(1970 + months // 12, months % 12 + 1, 1, tzinfo=UTC)
    return (start - datetime(1970, 1, 1, tzinfo=UTC)).days * _UNITS["d"]


def interval_bounds(ts: int, interval: str) -> tuple[int, int]:
    """Return ``(open_time, close_time)`` in ns of the interval that contains ``ts``; the close is exclusive.

    Intervals are aligned in UTC to the epoch, weeks to Monday, months to the calendar. Raises
    UnknownNameError for a text that is no interval, DataError for a time before 1970 or after 2262.
    """
    length, offset, months = _parse(interval)
    if not 0 <= ts < _END_OF_TIME:
        raise DataError(f"time {ts} is not in nanoseconds since 1970")
    if months:
        moment = datetime.fromtimestamp(ts // _SECOND, UTC)
        first = ((moment.year - 1970) * 12 + moment.month - 1) // months * months
        return _month_start(first), _month_start(first + months)
    opened = ts - (ts - offset) % length
    return opened, opened + length


class _Sum:
    """An exact running sum of floats, kept as non-overlapping parts (Shewchuk 1997)."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[float] = []

    def add(self, value: float) -> None:
        kept = 0
        parts = self.parts
        for part in parts:
            if abs(value) < abs(part):
                value, part = part, value
            high = value + part
            low = part - (high - value)
            if low:
                parts[kept] = low
                kept += 1
            value = high
        parts[kept:] = [value]

    @property
    def value(self) -> float:
        """The sum, rounded once."""
        return fsum(self.parts)


class _Ids:
    """The trade ids of one interval: numbers as sorted inclusive ranges, texts as a bounded set."""

    __slots__ = ("_ends", "_limit", "_starts", "_texts")

    def __init__(self, limit: int) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._texts: dict[str, None] = {}
        self._limit = limit

    def add(self, number: int | None, text: str) -> bool:
        """Add an id; False when it is there already."""
        if number is None:
            if text in self._texts:
                return False
            if len(self._texts) >= self._limit:
                del self._texts[next(iter(self._texts))]
            self._texts[text] = None
            return True
        starts, ends = self._starts, self._ends
        if ends and number == ends[-1] + 1:  # the usual case
            ends[-1] = number
            return True
        at = bisect_right(starts, number)  # the range before starts at or below the number
        if at and number <= ends[at - 1]:
            return False
        joins_before = at > 0 and ends[at - 1] == number - 1
        joins_after = at < len(starts) and starts[at] == number + 1
        if joins_before and joins_after:
            ends[at - 1] = ends[at]
            del starts[at], ends[at]
        elif joins_before:
            ends[at - 1] = number
        elif joins_after:
            starts[at] = number
        else:
            starts.insert(at, number)
            ends.insert(at, number)
            if len(starts) > self._limit:
                del starts[0], ends[0]
        return True

    def check(self) -> None:
        assert len(self._starts) == len(self._ends) <= self._limit
        assert all(start <= end for start, end in zip(self._starts, self._ends, strict=True))
        assert all(end + 1 < start for end, start in zip(self._ends, self._starts[1:], strict=False))
        assert len(self._texts) <= self._limit


_Key = tuple[int, int, int, str]


class _Bar:
    """What is known of one interval; without trades ``close`` is the last close before it."""

    __slots__ = (
        "buy_quote",
        "buy_volume",
        "close",
        "close_key",
        "close_time",
        "flags",
        "high",
        "ids",
        "low",
        "open",
        "open_key",
        "open_time",
        "quote_volume",
        "state",
        "trades",
        "ts_recv",
        "volume",
    )

    def __init__(self, open_time: int, close_time: int, price: float, max_ids: int) -> None:
        self.open_time = open_time
        self.close_time = close_time
        self.state: CandleState = "provisional"
        self.open = self.high = self.low = self.close = price
        self.open_key: _Key = (_END_OF_TIME, 0, 0, "")
        self.close_key: _Key = (-1, 0, 0, "")
        self.volume, self.quote_volume, self.buy_volume, self.buy_quote = _Sum(), _Sum(), _Sum(), _Sum()
        self.trades = self.flags = self.ts_recv = 0
        self.ids = _Ids(max_ids)

    def add(self, trade: Trade) -> bool:
        """Take a trade; False when it is a repeat."""
        number = trade.trade_seq
        if not self.ids.add(number, trade.trade_id):
            return False
        price, quantity = trade.price, trade.quantity
        if not self.trades:
            self.high = self.low = price
        elif price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        name = trade.trade_id
        key = (trade.ts_event, -1 if number is None else number, len(name), name)
        if key < self.open_key:
            self.open, self.open_key = price, key
        if key > self.close_key:
            self.close, self.close_key = price, key
        self.volume.add(quantity)
        self.quote_volume.add(price * quantity)
        if trade.side == "buy":
            self.buy_volume.add(quantity)
            self.buy_quote.add(price * quantity)
        self.trades += 1
        self.flags |= trade.flags & (INEXACT | TS_FROM_RECV)
        self.ts_recv = max(self.ts_recv, trade.ts_recv)
        return True


class CandleBuilder:
    """Builds the candles of one symbol and one interval from its trades.

    ``lateness`` (ns) is how long after its close time a candle stays provisional. ``empty`` says what
    becomes of intervals without trades after the first one with trades: ``"omit"`` them, or ``"fill"``
    them with the last close and ``trades == 0``; a jump over more than ``max_fill`` of them is refused.
    ``trade`` and ``tick`` return the candles that became final or corrected, oldest first.
    Counters: ``duplicates``, ``too_late``.
    """

    def __init__(
        self,
        venue: str,
        symbol: str,
        interval: str,
        *,
        lateness: int = 0,
        empty: Literal["omit", "fill"] = "omit",
        history: int = 10,
        max_ids: int = 1_000_000,
        max_fill: int = 100_000,
    ) -> None:
        _parse(interval)
        if lateness < 0 or history < 0 or max_ids < 1 or max_fill < 1:
            raise UsageError("lateness and history must not be negative, max_ids and max_fill at least 1")
        if empty not in ("omit", "fill"):
            raise UsageError(f"empty must be omit or fill, not {empty!r}")
        self.venue = venue
        self.symbol = symbol
        self.interval = interval
        self.lateness = lateness
        self.empty = empty
        self.history = history
        self.max_ids = max_ids
        self.max_fill = max_fill
        self.watermark = 0
        self.duplicates = self.too_late = 0
        self._bars: dict[int, _Bar] = {}  # open and kept closed intervals by open time
        self._due = 0  # the watermark at which the next interval closes
        self._horizon = 0  # trades of intervals that open before it are too late
        self._next_fill: int | None = None  # fill: open time of the first interval not emitted yet
        self._carry = 0.0  # fill: close of the newest interval that was forgotten
        self._bounds = (0, 0)

    def trade(self, trade: Trade) -> list[Candle]:
        """Take one trade, in any order; returns the candles that it made final or corrected.

        Raises DataError on an impossible price, quantity or time and UsageError on another symbol's
        trade; nothing is changed then.
        """
        ts = trade.ts_event
        price, quantity = trade.price, trade.quantity
        if not (price > 0.0 and quantity >= 0.0 and price < _LARGEST and quantity < _LARGEST):
            raise DataError(f"trade {trade.trade_id} of {self.symbol}: price {price!r}, quantity {quantity!r}")
        if not price * quantity < _LARGEST:
            raise DataError(f"trade {trade.trade_id} of {self.symbol}: {price!r} times {quantity!r} is absurd")
        if trade.symbol != self.symbol or trade.venue != self.venue:
            raise UsageError(f"trade of {trade.venue}:{trade.symbol} given to {self.venue}:{self.symbol}")
        opened, closes = self._bounds
        if not opened <= ts < closes:
            opened, closes = self._bounds = interval_bounds(ts, self.interval)
        if opened < self._horizon:
            self.too_late += 1
            return []
        if self._next_fill is not None:
            self._refuse_jump(self._next_fill, ts)
        elif self.empty == "fill":
            self._refuse_jump(opened, self.watermark)
        bar = self._bars.get(opened)
        if bar is None:
            bar = self._bars[opened] = _Bar(opened, closes, price, self.max_ids)
        if not bar.add(trade):
            self.duplicates += 1
            return []
        if closes + self.lateness > self.watermark:
            if self.empty == "fill":
                self._next_fill = opened if self._next_fill is None else min(self._next_fill, opened)
            return self._advance(ts)
        bar.state = "corrected"
        candles = [self._candle(bar)]
        if self.empty == "fill":
            candles += self._refill(bar)
        self._forget()
        return candles

    def tick(self, now_event_time: int) -> list[Candle]:
        """Say that the exchange's clock has reached ``now_event_time``; returns the candles that became final."""
        if not 0 <= now_event_time < _END_OF_TIME:
            raise DataError(f"time {now_event_time} is not in nanoseconds since 1970")
        if self._next_fill is not None:
            self._refuse_jump(self._next_fill, now_event_time)
        return self._advance(now_event_time)

    def provisional(self) -> list[Candle]:
        """Return the candles that are not final yet, as they stand, oldest first."""
        return [self._candle(bar) for _, bar in sorted(self._bars.items()) if bar.state == "provisional"]

    def _refuse_jump(self, opened: int, watermark: int) -> None:
        """Raise DataError when filling from an interval up to a watermark would make too many candles."""
        length = _parse(self.interval)[0] or 28 * _UNITS["d"]
        if (watermark - self.lateness - opened) // length > self.max_fill:
            raise DataError(
                f"{self.venue}:{self.symbol}: time jumps over more than {self.max_fill} intervals of {self.interval}",
                hint="raise max_fill or omit empty intervals",
            )

    def _advance(self, watermark: int) -> list[Candle]:
        if watermark <= self.watermark:
            return []
        self.watermark = watermark
        if watermark < self._due:
            return []
        candles: list[Candle] = []
        if self._next_fill is not None:
            candles = self._fill(self._next_fill)
        else:
            for opened in sorted(self._bars):
                bar = self._bars[opened]
                if bar.state == "provisional" and bar.close_time + self.lateness <= watermark:
                    bar.state = "final"
                    candles.append(self._candle(bar))
        self._forget()
        return candles

    def _fill(self, opened: int) -> list[Candle]:
        """Make all intervals from ``opened`` up to the watermark final, the empty ones too."""
        candles: list[Candle] = []
        price = self._close_before(opened)
        while True:
            closes = interval_bounds(opened, self.interval)[1]
            if closes + self.lateness > self.watermark:
                self._next_fill = opened
                return candles
            bar = self._bars.get(opened)
            if bar is None:
                bar = self._bars[opened] = _Bar(opened, closes, price, self.max_ids)
            bar.state = "final"
            candles.append(self._candle(bar))
            price, opened = bar.close, closes

    def _refill(self, bar: _Bar) -> list[Candle]:
        """Carry the close of a corrected bar into the empty intervals after it."""
        candles: list[Candle] = []
        if self._next_fill is None or self._next_fill <= bar.open_time:  # the first trade came after its time
            return self._fill(bar.close_time)
        price, opened = bar.close, bar.close_time
        while opened < self._next_fill:
            after = self._bars.get(opened)
            if after is None:
                closes = interval_bounds(opened, self.interval)[1]
                if closes + self.lateness > self.watermark:  # nothing was emitted yet, and this is still open
                    self._next_fill = opened
                    break
                after = self._bars[opened] = _Bar(opened, closes, price, self.max_ids)
            elif after.trades or after.close == price:
                break
            after.open = after.high = after.low = after.close = price
            after.state = "corrected"
            candles.append(self._candle(after))
            opened = after.close_time
        return candles

    def _close_before(self, opened: int) -> float:
        before = self._bars.get(interval_bounds(opened - 1, self.interval)[0]) if opened > 0 else None
        return before.close if before is not None else self._carry

    def _forget(self) -> None:
        """Drop closed intervals beyond the history, and find when the next open one is due."""
        settled = max(self.watermark - self.lateness, 0)
        horizon, closes = interval_bounds(settled, self.interval)
        length = _parse(self.interval)[0]
        if length:
            horizon -= self.history * length
        else:
            for _ in range(self.history):
                horizon = interval_bounds(horizon - 1, self.interval)[0] if horizon > 0 else 0
        self._horizon = max(self._horizon, horizon)
        newest = -1
        for opened in [opened for opened in self._bars if opened < self._horizon]:
            bar = self._bars.pop(opened)
            if opened > newest:
                newest, self._carry = opened, bar.close
        self._due = closes + self.lateness  # no open interval closes before the one that time has settled in

    def _candle(self, bar: _Bar) -> Candle:
        return Candle(
            bar.open_time,
            bar.close_time,
            bar.close_key[0] if bar.trades else bar.open_time,
            bar.ts_recv,
            self.venue,
            self.symbol,
            self.interval,
            "built",
            bar.state,
            bar.open,
            bar.high,
            bar.low,
            bar.close,
            bar.volume.value,
            bar.quote_volume.value,
            bar.trades,
            bar.buy_volume.value,
            bar.buy_quote.value,
            bar.flags,
        )

    def check(self) -> None:
        """Assert every invariant; for tests and diagnosis."""
        assert 0 <= self.watermark < _END_OF_TIME
        for opened, bar in self._bars.items():
            assert opened == bar.open_time >= self._horizon
            assert (bar.open_time, bar.close_time) == interval_bounds(opened, self.interval)
            closed = bar.close_time + self.lateness <= self.watermark
            assert closed == (bar.state != "provisional")
            assert closed or bar.close_time + self.lateness >= self._due
            assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
            assert 0 <= bar.buy_volume.value <= bar.volume.value
            assert bar.trades or self.empty == "fill"
            if bar.trades:
                assert opened <= bar.open_key[0] <= bar.close_key[0] < bar.close_time
            bar.ids.check()
        if self._next_fill is not None:
            previous: _Bar | None = None
            for opened in sorted(self._bars):
                if opened < self._next_fill:
                    bar = self._bars[opened]
                    assert previous is None or previous.close_time == opened
                    assert bar.trades or previous is None or bar.close == previous.close
                    previous = bar
