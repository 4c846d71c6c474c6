"""What to fetch: symbols x days x types, as units of work. Pure: no network, no disk, no clock.

A unit is what the manifest knows by one key. Bulk files whose days are UTC days are units themselves. The
others are UTC days with a key of their own: taken out of several files (``utc/``), walked over REST
(``rest/``), or read from a local file (``local/``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

from msgspec import Struct

from cmd_common.archive import ArchiveFile, ArchiveSource
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.history import HistorySource, Walk
from cmd_common.symbols import nearest

if TYPE_CHECKING:
    from cmd_common.exchange import Endpoints

__all__ = [
    "BUILT",
    "SOURCES",
    "Origin",
    "Plan",
    "Unit",
    "check_days",
    "day_file",
    "day_start",
    "days",
    "interval_ns",
    "make_plan",
    "origin_of",
    "rest_unit",
    "utc_day",
    "walk_of",
]

SOURCES: Final = ("auto", "files", "rest")
Origin = Literal["file", "utc", "rest", "local"]

DAY_NS = 86_400_000_000_000
_UNITS = {"s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000, "d": DAY_NS, "w": 7 * DAY_NS}
BUILT = "built:"
"""Prefix of the product names of candles that are built from trades, such as ``built:1m``."""


class Unit(Struct, frozen=True):
    """One file or day, and what is made of it: table names, and ``built:INTERVAL`` for candles from trades."""

    file: ArchiveFile
    products: tuple[str, ...]
    origin: Origin = "file"
    parts: tuple[ArchiveFile, ...] = ()  # the files whose rows belong to a day of origin ``utc``
    rest: bool = False  # where no file is published, the day may be asked over REST


class Plan(Struct, frozen=True):
    """Units in the order of work, and the files whose time has not come yet."""

    units: tuple[Unit, ...]
    unpublished: tuple[ArchiveFile, ...] = ()


def day_file(origin: Origin, venue: str, table: str, symbol: str, day: date, interval: str = "") -> ArchiveFile:
    """One UTC day that is no published file of its own; ``key`` is its name in the manifest."""
    words = {"utc": "", "rest": " (REST)", "local": " (local file)", "file": ""}[origin]
    key = "/".join([origin, venue, table, quote(symbol, safe=""), *([interval] if interval else []), day.isoformat()])
    name = f"{symbol} {table}{' ' * bool(interval)}{interval} of {day}{words}"
    return ArchiveFile(venue, table, symbol, interval, "daily", day, day, key, "", "", name)


def origin_of(key: str) -> Origin:
    """Where the rows of a manifest key came from."""
    match key.partition("/")[0]:
        case "utc":
            return "utc"
        case "rest":
            return "rest"
        case "local":
            return "local"
    return "file"


def rest_unit(unit: Unit) -> Unit:
    """The same day over REST."""
    f = unit.file
    return Unit(day_file("rest", f.venue, f.table, f.symbol, f.first_day, f.interval), unit.products, "rest")


def walk_of(file: ArchiveFile) -> Walk:
    """The walk that fetches a day."""
    start = day_start(file.first_day)
    return Walk(file.table, file.symbol, start, start + DAY_NS, file.interval)


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


class _Planner:
    """Makes the units of one venue; see ``make_plan``."""

    def __init__(
        self,
        venue: str,
        source: ArchiveSource | None,
        history: HistorySource | None,
        endpoints: Endpoints,
        choice: str,
        days: Sequence[date],
        now: int,
    ) -> None:
        self.venue = venue
        self.source = source if choice in ("auto", "files") and source is not None and source.periods else None
        self.local = source if choice == "local" else None
        self.history = history if choice in ("auto", "rest") else None
        self.endpoints = endpoints
        self.days = days
        self.now = now
        self.units: list[Unit] = []
        self.unpublished: list[ArchiveFile] = []

    @property
    def tables(self) -> list[str]:
        """All tables that can be had."""
        found = [
            *(self.source.tables if self.source else ()),
            *(self.local.local_tables if self.local else ()),
            *(self.history.tables if self.history else ()),
        ]
        return list(dict.fromkeys(found))

    def _over_rest(self, table: str, interval: str) -> bool:
        history = self.history
        return history is not None and table in history.tables and (table != "candles" or interval in history.intervals)

    def _add(self, unit: Unit) -> None:
        """A file covers whole days, and while its last day still runs it cannot exist."""
        end = day_start(unit.file.last_day) + DAY_NS
        if unit.origin == "rest" and unit.file.interval:
            # The candle that opens on this day ends later, where it is longer than a day.
            end = max(end, end - DAY_NS + (interval_ns(unit.file.interval) or 31 * DAY_NS))
        if end > self.now:
            self.unpublished.append(unit.file)
        elif any(part.end_ns > self.now for part in unit.parts):
            if unit.rest:
                self.units.append(rest_unit(unit))
            else:
                self.unpublished.append(unit.file)
        else:
            self.units.append(unit)

    def add(self, table: str, symbol: str, products: tuple[str, ...], interval: str = "") -> None:
        """Add the units of one table of a symbol for all days."""
        rest = self._over_rest(table, interval)
        if self.local is not None:
            for day in self.days:
                self._add(Unit(day_file("local", self.venue, table, symbol, day, interval), products, "local"))
            return
        period = self._period(table, symbol, interval, rest=rest)
        last = ""
        for day in self.days:
            if period is None or self.source is None:
                self._add(Unit(day_file("rest", self.venue, table, symbol, day, interval), products, "rest"))
                continue
            file = self.source.file(table, symbol, day, self.endpoints, interval=interval, period=period)
            if file.offset and period == "daily":
                self._add(self._utc_day(file, table, symbol, day, interval, products, rest=rest))
            elif file.key != last:
                self._add(Unit(file, products, rest=rest and period == "daily"))
            last = file.key

    def _utc_day(
        self,
        file: ArchiveFile,
        table: str,
        symbol: str,
        day: date,
        interval: str,
        products: tuple[str, ...],
        *,
        rest: bool,
    ) -> Unit:
        source = self.source
        assert source is not None
        near = [file]
        for n in (-1, 1):
            try:
                near.append(source.file(table, symbol, day + timedelta(days=n), self.endpoints, interval=interval))
            except UsageError:
                continue  # before the first file
        near.sort(key=lambda f: f.first_day)
        start = day_start(day)
        parts = tuple(f for f in near if f.start_ns < start + DAY_NS and f.end_ns > start)
        virtual = day_file("utc", self.venue, table, symbol, day, interval)
        return Unit(virtual, products, "utc", parts, rest=rest)

    def _period(self, table: str, symbol: str, interval: str, *, rest: bool) -> str | None:
        """Daily files, monthly ones, or None: only REST has it. Raises UsageError where nothing has it."""
        source = self.source
        if source is not None and table in source.tables:
            try:
                source.file(table, symbol, self.days[0], self.endpoints, interval=interval)
                return "daily"
            except UsageError:
                pass
            if table == "candles" and not rest:
                # Long intervals (3d, 1w, 1M) are published by month only; a truly unknown one raises here again.
                source.file(table, symbol, self.days[0], self.endpoints, interval=interval, period="monthly")
                return "monthly"
            if not rest:
                source.file(table, symbol, self.days[0], self.endpoints, interval=interval)
        if not rest:
            available = self.history.intervals if self.history is not None and table == "candles" else ()
            hint = f"available: {', '.join(available)}" if available else ""
            raise UsageError(f"{self.venue} has no {table}{' of interval ' * bool(interval)}{interval}", hint=hint)
        return None


def make_plan(
    source: ArchiveSource | None,
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
    venue: str = "",
    history: HistorySource | None = None,
    choice: str = "auto",
    now: int | None = None,
) -> Plan:
    """Make the units for one venue, ordered by day, then symbol, then type.

    ``candles`` is ``exchange`` (the venue's own) or ``built`` (from its trades); ``compare`` asks for
    both. ``choice`` is ``files``, ``rest``, ``auto`` (files where the exchange has them for a table, else
    REST) or ``local``; ``now`` is the time in ns. Raises UsageError for reversed or future days, and for
    types and intervals that are not to be had.
    """
    check_days(start, end, today)
    if candles not in ("exchange", "built"):
        raise UsageError(f"unknown kind of candles {candles!r}", hint="exchange or built")
    moment = day_start(today) if now is None else now
    planner = _Planner(venue, source, history, endpoints, choice, list(days(start, end)), moment)
    available = planner.tables
    if not types:
        raise UsageError("no types given", hint=f"available: {', '.join(available)}")
    if not symbols:
        raise UsageError("no symbols given")
    for type_ in types:
        builds = type_ == "candles" and candles == "built" and not compare
        if type_ not in available and not (builds and "trades" in available):
            raise UnknownNameError(
                "archive type",
                type_,
                nearest(type_, available),
                hint=f"{venue or 'the exchange'} has {_WHERE[choice]}: {', '.join(available) or 'nothing'}",
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
    for symbol in dict.fromkeys(symbols):
        for table in ("trades", "agg_trades"):
            products = [table] if table in types else []
            if table == "trades" and built:
                products += [BUILT + interval for interval in dict.fromkeys(intervals)]
            if products:
                planner.add(table, symbol, tuple(products))
        if own:
            for interval in dict.fromkeys(intervals):
                planner.add("candles", symbol, ("candles",), interval)
    planner.units.sort(key=lambda u: (u.file.first_day, u.file.symbol, u.file.table))
    return Plan(tuple(planner.units), tuple(planner.unpublished))


_WHERE: Final = {
    "auto": "files or REST history of",
    "files": "files of",
    "rest": "REST history of",
    "local": "local files of",
}
