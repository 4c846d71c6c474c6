"""``cmd-cli export``: rows of a store as files for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command", "export", "tables", "words"]

_OF_TYPES: Final = {"book": ("book_snapshots", "book_deltas"), "aggregate": ("aggregated_books",)}


def words(names: Sequence[str]) -> tuple[str, ...]:
    """The parts of comma lists."""
    return tuple(part for word in names for part in word.split(",") if part)


def tables(names: Sequence[str]) -> tuple[str, ...]:
    """Tables from names of tables and record types, as ``record --types`` has them; raises UnknownNameError."""
    from cmd_common.errors import UnknownNameError
    from cmd_common.schema import TABLES
    from cmd_common.symbols import nearest

    chosen: list[str] = []
    for name in words(names):
        if name not in TABLES and name not in _OF_TYPES:
            known = [*TABLES, *_OF_TYPES]
            near = nearest(name, known)
            raise UnknownNameError("type", name, near, hint="" if near else f"types are: {', '.join(known)}")
        chosen += _OF_TYPES.get(name, (name,))
    return tuple(dict.fromkeys(chosen))


def export(run: Run, flags: Mapping[str, Any]) -> int:
    """Export by the flags of ``export`` or ``store export``; returns the exit code."""
    from cmd_cli import values
    from cmd_common.commands import ExportOptions, Result
    from cmd_common.config import parse_duration
    from cmd_common.errors import UsageError
    from cmd_common.registry import command as implementation

    if len(words(flags["exchange"])) > 1:
        raise UsageError("rows of one exchange or of all are exported", hint="give one --exchange, or none")
    latency = flags.get("latency") or ""
    try:
        delay = parse_duration(latency) if latency else 0
    except ValueError:
        raise UsageError(f"--latency {latency!r} is not a time", hint="write it as 5ms") from None
    options = ExportOptions(
        store=values.check_store(run.get("store")),
        tables=tables(flags["types"]),
        target=flags["to"] or "",
        format=flags["format"] or "",
        venue=(words(flags["exchange"]) or ("",))[0],
        symbols=words(flags["symbols"]),
        start=values.instant(flags["start"], "start") if flags["start"] else None,
        end=values.instant(flags["end"], "end") if flags["end"] else None,
        force=bool(flags["force"]),
        latency=delay,
        instrument_id=flags.get("instrument_id") or "",
    )
    with run.output() as output:
        result: Result = implementation("export")(options, output)
        return output.finish(result)


def _export(**flags: Any) -> int:
    return export(Run("", flags), flags)


command = Cmd(
    "export",
    _export,
    doc="Write rows of a store into files: Parquet, CSV or Arrow, a file a table; the events of hftbacktest, a file an\n"
    "instrument; or a catalog of nautilus_trader. A file appears under its name once it is whole.",
    examples=[
        (
            "a day of trades as a file",
            "cmd-cli export --store parquet:data --types trades --symbols BTCUSDT --start 2025-03-01 --end 2025-03-02"
            " --to trades.parquet",
        ),
        (
            "trades and order book for hftbacktest",
            "cmd-cli export --store parquet:data --exchange binance-spot --symbols BTCUSDT --to BTCUSDT.npz",
        ),
        (
            "a catalog for nautilus_trader",
            "cmd-cli export --store parquet:data --exchange binance-spot --symbols BTCUSDT --format nautilus --to catalog",
        ),
    ],
    params=[
        flag("", "store", metavar="KIND:PATH"),
        click.Option(["--to"], metavar="PATH", help="a file, or a folder"),
        click.Option(
            ["--format"],
            metavar="WORD",
            help="parquet, csv, arrow, hftbacktest or nautilus [default: by the name (.npz: hftbacktest), else parquet]",
        ),
        click.Option(
            ["--types"],
            multiple=True,
            metavar="TYPE...",
            help="tables, such as trades, candles, book [default for hftbacktest: trades,book; for nautilus: all]",
        ),
        click.Option(["--exchange"], multiple=True, metavar="VENUE...", help="rows of this exchange"),
        click.Option(["--symbols"], multiple=True, metavar="SYMBOL...", help="these symbols"),
        click.Option(["--start"], metavar="TIME", help="rows from this time or day on, UTC"),
        click.Option(["--end"], metavar="TIME", help="rows before this time or day, UTC"),
        click.Option(
            ["--latency"],
            metavar="TIME",
            help="hftbacktest, nautilus: from exchange to us, for rows without a receive time [default 0]",
        ),
        click.Option(
            ["--instrument-id"],
            metavar="ID",
            help="nautilus: the name of the one instrument [default: as its adapters]",
        ),
        click.Option(["--force"], is_flag=True, help="replace files that are there"),
    ],
    notes="Exit code 3: done, and the ledger has gaps in it that were not repaired; they are named.\n"
    "Formats, and how to read them: docs/export.md.",
)
