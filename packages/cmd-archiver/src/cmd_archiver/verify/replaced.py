"""Lists of replaced files, as exchanges publish them: which days of which streams they are about. Pure.

Binance's are tables (Markdown or CSV) of file names with their old and new checksums; the names alone count, for the checksum
that holds is asked for again. A name is SYMBOL-TYPE-PERIOD, a period a month or a day.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Final

from msgspec import Struct

from cmd_common.errors import UsageError

from .verdicts import Day

__all__ = ["Replaced", "named", "replaced_files"]

_NAME: Final = re.compile(
    r"\b([A-Z0-9]{2,30}(?:_[A-Z0-9]{2,10})?)-(aggTrades|trades|\d{1,2}(?:s|mo|m|h|d|w))-(\d{4})-(\d{2})(?:-(\d{2}))?\b"
)
_TABLES: Final = {"aggTrades": "agg_trades", "trades": "trades"}


class Replaced(Struct, frozen=True):
    """One file of such a list: its symbol, table, interval (of candles) and days, both inclusive."""

    symbol: str
    table: str
    interval: str
    first: date
    last: date

    def holds(self, day: Day) -> bool:
        """Whether a day of a store came from this file, or from one of its days."""
        stream = day.stream
        return (
            (stream.symbol, stream.table, stream.interval) == (self.symbol, self.table, self.interval)
            and stream.source != "built"
            and self.first <= date.fromisoformat(day.day) <= self.last
        )


def replaced_files(text: str, what: str = "the list") -> list[Replaced]:
    """The files that a list names, each once, in its order; raises UsageError where it names none."""
    found: dict[Replaced, None] = {}
    for symbol, kind, year, month, number in _NAME.findall(text):
        try:
            first = date(int(year), int(month), int(number or 1))
        except ValueError:
            continue
        following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
        last = first if number else following - timedelta(days=1)
        interval = "" if kind in _TABLES else kind.replace("mo", "M")
        found[Replaced(symbol, _TABLES.get(kind, "candles"), interval, first, last)] = None
    if not found:
        raise UsageError(f"{what} names no file", hint="names are as BTCUSDT-aggTrades-2018-01.zip")
    return list(found)


def named(days: Iterable[Day], files: Iterable[Replaced]) -> list[Day]:
    """The days that came from one of these files."""
    by_symbol: dict[str, list[Replaced]] = {}
    for file in files:
        by_symbol.setdefault(file.symbol, []).append(file)
    return [day for day in days if any(file.holds(day) for file in by_symbol.get(day.stream.symbol, ()))]
