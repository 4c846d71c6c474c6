"""``cmd-cli repair``: fetch what a store misses, where the exchange has it."""

from __future__ import annotations

from typing import Any

import click

from cmd_cli.command import Cmd, Run, flag

from .export import tables, words

__all__ = ["command"]


def _repair(**flags: Any) -> int:
    from cmd_cli import values
    from cmd_cli.observed import observing
    from cmd_common.commands import RepairOptions, Result
    from cmd_common.registry import command as implementation

    run = Run("repair", flags)
    venues = words(flags["exchange"])
    options = RepairOptions(
        store=values.check_store(run.get("store")),
        venues=venues,
        symbols=words(flags["symbols"]),
        tables=tables(flags["types"]),
        start=values.day(flags["start"], "start") if flags["start"] else None,
        end=values.day(flags["end"], "end") if flags["end"] else None,
        dry_run=bool(flags["dry_run"]),
        recheck=bool(flags["recheck"]),
        replaced=str(flags["replaced"] or ""),
        endpoints=values.endpoints(run.get("endpoint"), venues),
        proxy=run.get("proxy"),
    )
    with run.output() as output:
        with observing(run, "repair", output, store=options.store, job=not options.dry_run) as watch:
            result: Result = watch.ended(implementation("repair")(options, watch))
        return output.finish(result)


command = Cmd(
    "repair",
    _repair,
    doc="Fetch what verify finds missing: days from the exchange's files, else over REST, today's gaps over REST. What was\n"
    "repaired is told to the ledger of gaps. Run it as often as you like: what is there is not fetched again.",
    examples=[
        ("what would be fetched", "cmd-cli repair --store parquet:data --dry-run"),
        ("everything that can be had", "cmd-cli repair --store parquet:data"),
        ("files that the exchange has replaced, too", "cmd-cli repair --store parquet:data --types trades --recheck"),
    ],
    params=[
        flag("repair", "store", metavar="KIND:PATH"),
        click.Option(["--exchange"], multiple=True, metavar="VENUE...", help="of these exchanges [default: all]"),
        click.Option(["--symbols"], multiple=True, metavar="SYMBOL...", help="these symbols [default: all]"),
        click.Option(
            ["--types"], multiple=True, metavar="TYPE...", help="tables, such as trades, candles [default: all]"
        ),
        click.Option(["--start"], metavar="DAY", help="from this day on, UTC"),
        click.Option(["--end"], metavar="DAY", help="before this day, UTC"),
        click.Option(
            ["--recheck"],
            is_flag=True,
            help="ask for the checksum of every archived file, and archive replaced ones again",
        ),
        click.Option(
            ["--replaced"],
            metavar="FILE",
            help="a list of replaced files that an exchange has published: look at these alone, and archive them again",
        ),
        click.Option(["--dry-run"], is_flag=True, help="say what would be fetched"),
        flag("repair", "endpoint"),
        flag("repair", "proxy", metavar="URL"),
        flag("repair", "metrics-file", metavar="FILE"),
        flag("repair", "log-file", metavar="FILE"),
        flag("repair", "log-format"),
    ],
    notes="Exit codes: 0 nothing is missing any more, 1 failed, 2 wrong usage, 3 something still is, 4 another repair works on\n"
    "the store, 5 an exchange could not be reached. Order books and quotes cannot be had again: docs/repair.md.",
)
