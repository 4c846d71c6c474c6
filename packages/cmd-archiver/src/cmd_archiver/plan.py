"""What to fetch: symbols x days x types, as units of work. Pure: no network, no disk, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from cmd_common.archive import ArchiveFile, ArchiveSource
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.symbols import nearest

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

__all__ = ["BUILT", "Plan", "Unit", "check_days", "day_start", "days", "interval_ns", "make_plan", "utc_day"]

DAY_NS = 86_400_000_000_000
_UNITS = {"s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000, "d": DAY_NS, "w": 7 * DAY_NS}
BUILT = "built:"
"""Prefix of the product names of candles that are built from trades, such as ``built:1m``."""


class Unit(Struct, frozen=True):
    """One file and what is made of it: table names, and ``built:INTERVAL`` for candles from trades."""

    file: ArchiveFile
    products: tuple[str, ...]


class Plan(Struct, frozen=True):
    """Units in the order of work, and the files whose time has not come yet."""

    units: tuple[Unit, ...]
    unpublished: tuple[ArchiveFile, ...] = ()


def utc_day(ns: int) -> date:
    """The UTC day of an instant."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).date()


def day_start(day: date) -> int:
    """The first instant of a UTC day, ns."""
    return (day.toordinal() - date(1970, 1, 1).toordinal()) * DAY_NS


def days(start: date, end: date) -> Iterator[date]:
    """All days from ``start`` to ``end``, inclusive."""
    for n in range((end - start).days + 1):
        yield start + timedelta(days=n)


def interval_ns(interval: str) -> int | None:
    """Length of a candle interval such as ``5m`` in ns; None for calendar months (``1M``).

    Raises UsageError for text that is no interval.
    """
    if interval.endswith("M") and interval[:-1].isdigit():
        return None
    count, unit = interval[:-1], interval[-1:]
    if not (count.isascii() and count.isdigit()) or int(count) == 0 or unit not in _UNITS:
        raise UsageError(f"{interval!r} is not a candle interval", hint="write it as 1m, 5m, 1h or 1d")
    return int(count) * _UNITS[unit]


def check_days(start: date, end: date, today: date) -> None:
    """Raise UsageError when the range is reversed or lies in the future; ``today`` itself is allowed."""
    if end < start:
        raise UsageError(
            f"the end {end} lies before the start {start}",
            hint="days are inclusive: --start 2024-08-08 --end 2024-08-09",
        )
    for name, day in (("start", start), ("end", end)):
        if day > today:
            raise UsageError(
                f"the {name} {day} lies in the future (today is {today}, UTC)",
                hint=f"files appear the morning after; the newest day to expect is {today - timedelta(days=1)}",
            )


def _candle_units(
    source: ArchiveSource, endpoints: Endpoints, symbol: str, start: date, end: date, interval: str
) -> Iterator[ArchiveFile]:
    try:
        source.file("candles", symbol, start, endpoints, interval=interval)
        period = "daily"
    except UsageError:
        # Long intervals (3d, 1w, 1M) are published by month only; a truly unknown one raises here again.
        source.file("candles", symbol, start, endpoints, interval=interval, period="monthly")
        period = "monthly"
    last = None
    for day in days(start, end):
        file = source.file("candles", symbol, day, endpoints, interval=interval, period=period)
        if file.key != last:
            yield file
        last = file.key


def make_plan(
    source: ArchiveSource,
    endpoints: Endpoints,
    *,
    symbols: Sequence[str],
    types: Sequence[str],
    start: date,
    end: date,
    today: date,
    intervals: Sequence[str] = ("1m",),
    candles: str = "exchange",
    compare: bool = False,
) -> Plan:
    """Make the units for one venue, ordered by day, then symbol, then type.

    ``candles`` is ``exchange`` (the venue's own files) or ``built`` (from its trades); ``compare``
    asks for both. Raises UsageError for reversed or future days, types and intervals without files.
    """
    check_days(start, end, today)
    if candles not in ("exchange", "built"):
        raise UsageError(f"unknown kind of candles {candles!r}", hint="exchange or built")
    if not types:
        raise UsageError("no types given", hint=f"available: {', '.join(source.tables)}")
    if not symbols:
        raise UsageError("no symbols given")
    for type_ in types:
        if type_ not in source.tables:
            raise UnknownNameError(
                "archive type",
                type_,
                nearest(type_, source.tables),
                hint=f"files exist for: {', '.join(source.tables)}",
            )
    own = "candles" in types and (candles == "exchange" or compare)
    built = "candles" in types and (candles == "built" or compare)
    if built:
        for interval in intervals:
            length = interval_ns(interval)
            if length is None or DAY_NS % length:
                raise UsageError(
                    f"candles of {interval} cannot be built day by day", hint="use an interval that divides a day"
                )
    units: list[Unit] = []
    for symbol in dict.fromkeys(symbols):
        for table in ("trades", "agg_trades"):
            products = [table] if table in types else []
            if table == "trades" and built:
                products += [BUILT + interval for interval in dict.fromkeys(intervals)]
            if products:
                units += (Unit(source.file(table, symbol, day, endpoints), tuple(products)) for day in days(start, end))
        if own:
            for interval in dict.fromkeys(intervals):
                units += (
                    Unit(file, ("candles",)) for file in _candle_units(source, endpoints, symbol, start, end, interval)
                )
    units.sort(key=lambda u: (u.file.first_day, u.file.symbol, u.file.table))
    # A file covers whole days; while its last day still runs it cannot exist.
    return Plan(
        tuple(u for u in units if u.file.last_day < today), tuple(u.file for u in units if u.file.last_day >= today)
    )
