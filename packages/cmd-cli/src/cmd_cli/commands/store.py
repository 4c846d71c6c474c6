"""``cmd-cli store``: looking after a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from cmd_cli.command import Cmd, Run, flag

from .export import export, tables, words

if TYPE_CHECKING:
    from cmd_common.io import Finding

__all__ = ["ACTIONS", "command"]

ACTIONS: Final = ("status", "check", "migrate", "backup", "restore", "convert", "export", "size")
_DAY: Final = 86_400_000_000_000
# Options beyond --store that an action takes; another one is refused, not passed over.
_TAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "status": (),
    "check": ("repair", "full"),
    "migrate": ("dry_run",),
    "backup": ("to", "keep_last"),
    "restore": ("from_", "to", "force"),
    "convert": ("types", "older", "back", "dry_run"),
    "export": ("types", "to", "format", "exchange", "symbols", "start", "end", "force"),
    "size": ("symbols", "types", "keep", "rows_per_day", "measure", "depth"),
}


def _store(action: str, **flags: Any) -> int:
    from cmd_common.commands import EXIT_FAILED, EXIT_OK, Result
    from cmd_common.errors import UsageError
    from cmd_common.io import open_admin

    for name, value in flags.items():
        if name != "store" and value not in (None, (), False) and name not in _TAKES[action]:
            raise UsageError(f"store {action} takes no --{name.rstrip('_').replace('_', '-')}")
    run = Run("", flags)
    if action == "export":
        return export(run, flags)
    if action == "size":
        return _size(run, flags)
    with run.output() as output, open_admin(_url(run)) as admin:
        if action == "status":
            summary = admin.status()
            return output.finish(Result(EXIT_FAILED if summary["problems"] else EXIT_OK, dict(summary)))
        if action == "check":
            found = admin.check(repair=bool(flags["repair"]), full=bool(flags["full"]), reporter=output)
            return output.finish(Result(EXIT_FAILED if found else EXIT_OK, _findings(found, run.json)))
        if action == "migrate":
            done = admin.migrate(dry_run=bool(flags["dry_run"]), reporter=output)
        elif action == "backup":
            done = admin.backup(_need(flags["to"], "to", "DIR"), keep=flags["keep_last"], reporter=output)
        elif action == "restore":
            source = _need(flags["from_"], "from", "DIR")
            done = admin.restore(source, flags["to"] or "", force=bool(flags["force"]), reporter=output)
        else:
            done = admin.convert(
                tables(flags["types"]),
                older=_time(flags["older"] or ("0d" if flags["back"] else "30d"), "older"),
                back=bool(flags["back"]),
                dry_run=bool(flags["dry_run"]),
                reporter=output,
            )
        return output.finish(Result(EXIT_OK, dict(done)))


def _url(run: Run) -> str:
    from cmd_cli import values

    return values.check_store(run.get("store"))


def _need(value: str | None, name: str, metavar: str) -> str:
    from cmd_common.errors import UsageError

    if not value:
        raise UsageError(f"no --{name} is given", hint=f"add --{name} {metavar}")
    return value


def _findings(found: Sequence[Finding], as_json: bool) -> dict[str, Any]:
    import msgspec

    if as_json:
        return {"ok": not found, "findings": [msgspec.to_builtins(f) for f in found]}
    if not found:
        return {"result": "nothing is wrong"}
    return {kind: words for kind in ("error", "warning") if (words := [str(f) for f in found if f.severity == kind])}


def _time(text: str, name: str) -> int:
    from cmd_common.config import parse_duration
    from cmd_common.errors import UsageError

    try:
        return 0 if text == "0d" else parse_duration(text)
    except ValueError:
        raise UsageError(f"--{name} {text!r} is not a time", hint="write it as 30d, 36h or 90m") from None


def _size(run: Run, flags: Mapping[str, Any]) -> int:
    from cmd_cli import values
    from cmd_common.commands import Result, SizeOptions
    from cmd_common.errors import UsageError
    from cmd_common.registry import command as implementation
    from cmd_common.registry import names as registered

    symbols = words(flags["symbols"])
    if not symbols:
        raise UsageError("no symbols are given", hint="--symbols 20, or their names")
    keep, keep_of = _keeps(flags["keep"] or "365d")
    number, names = values.number_or_names(",".join(symbols))
    options = SizeOptions(
        symbols=len(names) or number,
        types=tables(flags["types"]) or ("trades", "candles"),
        keep=keep,
        keep_of=keep_of,
        rows_per_day=_rates(flags["rows_per_day"]),
        measure=values.check_store(flags["measure"]) if flags["measure"] else "",
        depth=flags["depth"] or 1000,
    )
    if "size" not in registered("cmd.commands"):
        raise UsageError("store size is about QuestDB servers, and cmd-questdb is not installed", hint="install it")
    with run.output() as output:
        result: Result = implementation("size")(options, output)
        return output.finish(result)


def _keeps(text: str) -> tuple[int, dict[str, int]]:
    """``365d,book=7d``: for all tables, and for some."""
    keep = _time("365d", "keep")
    keep_of: dict[str, int] = {}
    for word in words([text]):
        name, equals, time = word.partition("=")
        if equals:
            keep_of |= dict.fromkeys(tables([name]), _time(time, "keep"))
        else:
            keep = _time(word, "keep")
    return keep, keep_of


def _rates(given: Sequence[str]) -> dict[str, float]:
    from cmd_common.errors import UsageError

    rates: dict[str, float] = {}
    for word in words(given):
        name, equals, number = word.partition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not equals or not 0 <= rate < float("inf"):
            raise UsageError(f"--rows-per-day {word!r} is not TYPE=NUMBER", hint="for example trades=500000")
        for table in tables([name]):
            rates[table] = rate
    return rates


command = Cmd(
    "store",
    _store,
    doc="Look after a store: its schema, health, copies and size. ACTION is one of\n"
    "  status   what it is and holds      check    what is wrong with it; exit code 1 with findings\n"
    "  migrate  create or update tables   backup   a consistent copy while rows are written\n"
    "  restore  a store from a copy       convert  old partitions to their dense form\n"
    "  export   cmd-cli export            size     which disk, memory and machine a load needs",
    examples=[
        ("what a store holds", "cmd-cli store status --store parquet:data"),
        ("every byte checked, for a script", "cmd-cli store check --store parquet:data --json"),
        (
            "a day of trades as a file",
            "cmd-cli store export --store parquet:data --types trades --symbols BTCUSDT --to trades.parquet",
        ),
        (
            "the server for 100 symbols over a year",
            "cmd-cli store size --symbols 100 --types trades,candles --keep 365d --rows-per-day trades=200000",
        ),
    ],
    params=[
        click.Argument(["action"], type=click.Choice(ACTIONS)),
        flag("", "store", metavar="KIND:PATH"),
        click.Option(["--repair"], is_flag=True, help="check: mend what can be mended without losing rows"),
        click.Option(["--full"], is_flag=True, help="check: look for duplicates in all rows, not only in recent ones"),
        click.Option(["--dry-run"], is_flag=True, help="migrate, convert: only say what would be done"),
        click.Option(["--to"], metavar="PATH", help="backup, export: where to; restore: the server's root folder"),
        click.Option(
            ["--from", "from_"], metavar="DIR", help="restore: the copy, or a folder of which the newest is taken"
        ),
        click.Option(["--force"], is_flag=True, help="restore: move aside what is there; export: replace files"),
        click.Option(
            ["--keep-last"], type=click.IntRange(1), metavar="N", help="backup: remove all but the newest N copies"
        ),
        click.Option(
            ["--types"],
            multiple=True,
            metavar="TYPE...",
            help="convert, export, size: tables, such as trades, candles, book",
        ),
        click.Option(["--older"], metavar="TIME", help="convert: partitions that ended so long ago [default 30d]"),
        click.Option(["--back"], is_flag=True, help="convert: from the dense form back"),
        click.Option(["--exchange"], multiple=True, metavar="VENUE...", help="export: rows of this exchange"),
        click.Option(
            ["--symbols"], multiple=True, metavar="SYMBOL...", help="export: these symbols; size: names or a number"
        ),
        click.Option(["--start"], metavar="TIME", help="export: rows from this time or day on, UTC"),
        click.Option(["--end"], metavar="TIME", help="export: rows before this time or day, UTC"),
        click.Option(["--format"], metavar="WORD", help="export: as for cmd-cli export"),
        click.Option(
            ["--keep"], metavar="TIME", help="size: how long rows are kept, such as 365d,book=7d [default 365d]"
        ),
        click.Option(["--rows-per-day"], multiple=True, metavar="TYPE=N...", help="size: rows a day of one symbol"),
        click.Option(["--measure"], metavar="KIND:PATH", help="size: a store in which rows a day are measured"),
        click.Option(
            ["--depth"], type=click.IntRange(1), metavar="N", help="size: levels a side of a full book [default 1000]"
        ),
    ],
    notes="backup needs root=DIR; in the store, the server's root folder on this host, and leaves no checkpoint behind\n"
    "even when it is killed. restore is for a server that is stopped; start it afterwards. A Parquet store needs neither.\n"
    "Exit codes: 0 done, 1 failed or something is wrong, 2 wrong usage.",
)
