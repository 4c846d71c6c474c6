"""``cmd-cli verify``: what of a store is complete."""

from __future__ import annotations

from typing import Any

import click

from cmd_cli.command import Cmd, Run, flag

from .export import words

__all__ = ["command", "types"]

_COLUMNS = ("stream", "day", "verdict", "rows", "findings")
_SHOWN = 3  # findings of a day in the table


def types(names: tuple[str, ...]) -> tuple[str, ...]:
    """Tables from ``--types``; ``book`` is both of its tables. Raises UnknownNameError."""
    from .export import tables

    return tables(names)


def _verify(**flags: Any) -> int:
    from cmd_cli import values
    from cmd_common.commands import Result, VerifyOptions
    from cmd_common.registry import command as implementation

    run = Run("verify", flags)
    venues = words(flags["exchange"])
    options = VerifyOptions(
        store=values.check_store(run.get("store")),
        venues=venues,
        symbols=words(flags["symbols"]),
        tables=types(flags["types"]),
        start=values.day(flags["start"], "start") if flags["start"] else None,
        end=values.day(flags["end"], "end") if flags["end"] else None,
        html=flags["html"] or "",
        offline=bool(flags["offline"]),
        compare=not flags["no_compare"],
        write_gaps=bool(flags["write_gaps"]),
        endpoints=values.endpoints(run.get("endpoint"), venues),
        proxy=run.get("proxy"),
    )
    with run.output() as output:
        result: Result = implementation("verify")(options, output)
        if not run.json:
            days = result.summary.pop("days")
            shown = days if flags["all"] else [d for d in days if d["verdict"] not in ("complete", "partial")]
            if shown:
                output.close()
                output.rows(_COLUMNS, [_row(day) for day in shown], "table")
            for found in result.summary.get("unasked", ()):
                output.warn(f"not asked: {found}")
        return output.finish(result)


def _row(day: dict[str, Any]) -> tuple[str, ...]:
    more = f" {day['interval']} {day['source']}" if day["interval"] else ""
    found = []
    for f in day["findings"]:
        about = ": ".join(word for word in (f["reason"], f["detail"]) if word)
        found.append(f"{f['kind']} ({about})"[:100] if about else f["kind"])
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"{len(found) - _SHOWN} more"]
    if day["listed"] is not None:
        found.append("published" if day["listed"] else "not published")
    stream = f"{day['venue']}:{day['symbol']} {day['table']}{more}"
    return stream, day["day"], day["verdict"], str(day["rows"]), "; ".join(found)


command = Cmd(
    "verify",
    _verify,
    doc="Say for each day of each stream whether it is complete: ids, joins between days, duplicates, order, candles\n"
    "against trades, live data against archived files, the ledger of gaps, and what the exchange publishes.",
    examples=[
        ("what is not complete", "cmd-cli verify --store parquet:data"),
        ("a report with a calendar", "cmd-cli verify --store parquet:data --html report.html"),
        ("trades alone, for a script", "cmd-cli verify --store parquet:data --types trades --json"),
    ],
    params=[
        flag("verify", "store", metavar="KIND:PATH"),
        click.Option(["--exchange"], multiple=True, metavar="VENUE...", help="of these exchanges [default: all]"),
        click.Option(["--symbols"], multiple=True, metavar="SYMBOL...", help="these symbols [default: all]"),
        click.Option(
            ["--types"], multiple=True, metavar="TYPE...", help="tables, such as trades, candles, book [default: all]"
        ),
        click.Option(["--start"], metavar="DAY", help="from this day on, UTC"),
        click.Option(["--end"], metavar="DAY", help="before this day, UTC"),
        click.Option(["--html"], metavar="FILE", help="write a report that needs nothing else"),
        click.Option(["--all"], is_flag=True, help="show complete days, too"),
        click.Option(["--offline"], is_flag=True, help="ask no exchange what it publishes"),
        click.Option(["--no-compare"], is_flag=True, help="do not build candles from trades"),
        click.Option(["--write-gaps"], is_flag=True, help="put what is missing into the ledger, reason verify"),
        flag("verify", "endpoint"),
        flag("verify", "proxy", metavar="URL"),
    ],
    notes="Exit codes: 0 all complete, 1 failed, 2 wrong usage, 3 something is missing or may be, 6 the store contradicts\n"
    "itself or what was archived. Every finding: docs/verify.md.",
)
