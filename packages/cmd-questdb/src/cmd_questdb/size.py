"""``cmd-cli store size``: disk, memory and class of machine that a QuestDB server needs for a load.

Bytes a row are measured facts, see ``docs/questdb-server.md``. Rows a day of one symbol come, in this order, from the
user, from a store in which they are measured, from the definition of the table, or, said as such, from an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from cmd_common.commands import EXIT_OK, Reporter, Result, SizeOptions
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.io import TableSize, open_admin
from cmd_common.schema import TABLES
from cmd_common.symbols import nearest

__all__ = ["CLASSES", "ROW", "RATES", "Machine", "Rate", "Row", "model", "rates_of", "run"]

_DAY: Final = 86_400_000_000_000
_GB: Final = 1e9


class Row(Struct, frozen=True):
    """Bytes of a row in a closed partition, and how much of them the Parquet form takes."""

    fixed: float
    levels: float = 0.0  # levels of both sides; -1: those of a full book
    parquet: float = 0.5

    def bytes(self, depth: int) -> float:
        """Bytes of a native row: a level is two float64."""
        return self.fixed + 16.0 * (2 * depth if self.levels < 0 else self.levels)


ROW: Final[dict[str, Row]] = {
    "trades": Row(82.1, parquet=0.46),
    "agg_trades": Row(98.1, parquet=0.46),
    "quotes": Row(68.1, parquet=0.64),
    "candles": Row(128.2, parquet=0.67),
    "book_snapshots": Row(116.0, -1, 0.73),
    "book_deltas": Row(100.4, 46, 0.51),  # levels a message of BTCUSDT in 100 ms, from a recording
    "aggregated_books": Row(160.0, 60, 0.7),  # 20 levels a side, of three numbers each
    "feed_status": Row(120.0),
    "gaps": Row(150.0),
    "instruments": Row(190.0),
}
"""Measured on 9.3.4 with 200,000 rows (books: 1,000 levels a side, deltas: 8 a side); the last four from their columns."""


class Rate(Struct, frozen=True):
    """Rows a day of one symbol, and where the number is from: given, measured, definition or assumption."""

    rows: float
    source: str


RATES: Final[dict[str, Rate]] = {
    "trades": Rate(200_000, "assumption"),
    "agg_trades": Rate(100_000, "assumption"),
    "quotes": Rate(2_000_000, "assumption"),
    "candles": Rate(1_440, "definition"),  # one interval of a minute
    "book_snapshots": Rate(1_440, "definition"),  # one a minute, as record does
    "book_deltas": Rate(864_000, "definition"),  # at most one in 100 ms
    "aggregated_books": Rate(86_400, "definition"),  # one a second
    "feed_status": Rate(100, "assumption"),
    "gaps": Rate(20, "assumption"),
    "instruments": Rate(24, "assumption"),
}


class Machine(Struct, frozen=True):
    """A class of machine: the least that fits."""

    name: str
    cores: int
    memory: int  # GB
    disk: int  # GB that can be used, after mirroring


CLASSES: Final = (
    Machine("small", 4, 16, 450),
    Machine("standard", 6, 32, 900),
    Machine("standard with 64 GB", 8, 64, 1_800),
    Machine("large", 16, 128, 3_600),
    Machine("storage server", 16, 128, 14_000),
)
_OVERHEAD: Final = 1.3  # WAL, open partitions, views
_FREE: Final = 0.5  # of the disk, for a checkpoint and its copy, and growth
_CONVERT_AFTER: Final = 30.0  # days, as ``store convert`` does
_BASE_MEMORY: Final = 6.0  # GB: system, heap, native memory of the server
_ROWS_A_CORE: Final = 25_000.0  # a second, a quarter of what was measured on two shared cores
_BURST: Final = 10.0
_SHORT_LIVED: Final = frozenset({"quotes", "book_snapshots", "book_deltas", "aggregated_books"})


def run(options: SizeOptions, reporter: Reporter) -> Result:
    """Work out the model; raises UsageError, and StoreError of the store that is measured."""
    measured: Mapping[str, Rate] = {}
    if options.measure:
        with open_admin(options.measure) as admin:
            measured = rates_of(admin.sizes())
        for table in options.types:
            if table not in measured and table not in options.rows_per_day and RATES[table].source == "assumption":
                reporter.warn(f"the store has too few rows of {table} to measure")
    summary = model(options, measured)
    assumed = [t for t, row in summary["tables"].items() if row["source"] == "assumption"]
    if assumed:
        reporter.warn(
            f"rows a day of {', '.join(assumed)} are an assumption; measure them with --measure STORE over a day, or add "
            f"--rows-per-day {assumed[0]}=N"
        )
    return Result(EXIT_OK, summary)


def rates_of(sizes: Mapping[str, TableSize]) -> dict[str, Rate]:
    """Rows a day of one stream as stored; tables with less than a minute of rows tell nothing."""
    found = {}
    for name, size in sizes.items():
        if size.rows > 1 and size.streams and size.end - size.start >= 60_000_000_000:
            found[name] = Rate(size.rows / size.streams / (size.end - size.start) * _DAY, "measured")
    return found


def model(options: SizeOptions, measured: Mapping[str, Rate]) -> dict[str, Any]:
    """The summary of ``store size``; raises UsageError for what cannot be worked out."""
    for table in (*options.types, *options.rows_per_day, *options.keep_of):
        if table not in ROW:
            raise UnknownNameError("table", table, nearest(table, TABLES))
    if options.symbols < 1 or not options.types:
        raise UsageError("there is nothing to store", hint="give --symbols and --types")
    if any(time < _DAY for time in (options.keep, *options.keep_of.values())):
        raise UsageError("rows are kept for less than a day", hint="for example --keep 7d")
    tables: dict[str, dict[str, Any]] = {}
    per_day = kept = dense = 0.0
    rows_per_day = 0.0
    for table in options.types:
        rate = measured.get(table, RATES[table])
        if table in options.rows_per_day:
            rate = Rate(options.rows_per_day[table], "given")
        size = ROW[table].bytes(options.depth)
        rows = rate.rows * options.symbols
        days = options.keep_of.get(table, options.keep) / _DAY
        day = rows * size
        fresh = min(days, _CONVERT_AFTER)
        tables[table] = {
            "rows_per_day": round(rows),
            "source": rate.source,
            "bytes_per_row": round(size, 1),
            "gb_per_day": round(day / _GB, 2),
            "keep_days": round(days, 1),
            "gb_kept": round(day * days / _GB, 1),
        }
        rows_per_day += rows
        per_day += day
        kept += day * days
        dense += day * (fresh + (days - fresh) * ROW[table].parquet)
    disk = kept * _OVERHEAD / (1 - _FREE) / _GB
    smaller = dense * _OVERHEAD / (1 - _FREE) / _GB
    memory = _BASE_MEMORY + per_day * _OVERHEAD / _GB  # the newest day in the page cache
    memory = min(memory, CLASSES[-1].memory)  # more helps queries over days; it is not needed to keep up
    cores = max(4.0, rows_per_day / 86_400 * _BURST / _ROWS_A_CORE)
    summary: dict[str, Any] = {
        "symbols": options.symbols,
        "tables": tables,
        "rows_per_day": round(rows_per_day),
        "rows_per_second": round(rows_per_day / 86_400, 1),
        "gb_per_day": round(per_day / _GB, 2),
        "gb_kept": round(kept / _GB, 1),
        "disk_gb": round(disk),
        "disk_gb_converted": round(smaller),
        "memory_gb": next((m.memory for m in CLASSES if m.memory >= memory), CLASSES[-1].memory),
        "cores": round(cores + 0.499),
        "machine": _machine(cores, memory, disk),
        "machine_converted": _machine(cores, memory, smaller),
    }
    advice = []
    heavy = {t: row for t, row in tables.items() if t in _SHORT_LIVED}
    if heavy:
        name, most = max(heavy.items(), key=lambda item: item[1]["gb_kept"])
        if most["gb_kept"] > 0.4 * kept / _GB and kept / _GB > 100:
            advice.append(
                f"{name} takes {most['gb_kept'] * _GB / kept:.0%} of the disk: a shorter life for it alone (ttl_{name}=7d; in "
                "the store) makes the machine smaller"
            )
    if disk > CLASSES[-1].disk:
        advice.append("no single machine holds this: keep less, fewer types, or days as files (store export)")
    return {**summary, "advice": advice} if advice else summary


def _machine(cores: float, memory: float, disk: float) -> str:
    for m in CLASSES:
        if m.cores >= cores and m.memory >= memory and m.disk >= disk:
            return f"{m.name}: {m.cores} cores, {m.memory} GB, {m.disk} GB of NVMe after mirroring"
    return "none: more than one machine"
