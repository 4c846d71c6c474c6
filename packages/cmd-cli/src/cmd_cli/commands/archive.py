"""``cmd-cli archive``: history into a store."""

from __future__ import annotations

from cmd_cli.command import Cmd, Run, flag

__all__ = ["ARCHIVE_TYPES", "command"]

ARCHIVE_TYPES = ("trades", "agg_trades", "candles")


def _archive(**flags: object) -> int:
    from datetime import date

    from cmd_cli import values
    from cmd_cli.observed import observing
    from cmd_common.commands import ArchiveOptions, Result
    from cmd_common.errors import UsageError
    from cmd_common.registry import command as implementation

    run = Run("archive", flags)
    venues = values.exchanges(run.get("exchange"), run.get("symbols"))
    since_last = run.get("since-last")
    if since_last and (run.get("end") or run.get("from-file")):
        raise UsageError(
            "--since-last ends with yesterday and asks the exchange", hint="leave out --end and --from-file"
        )
    if since_last and not run.get("start"):
        start = end = date.min
    else:
        start, end = values.days(run.get("start"), run.get("end"))
    options = ArchiveOptions(
        exchanges=venues,
        symbols=values.selectors(run.get("symbols"), venues),
        types=values.check_types(run.get("types"), ARCHIVE_TYPES),
        start=start,
        end=end,
        store=values.check_store(run.get("store")),
        intervals=values.check_intervals(run.get("interval"), venues),
        candles=run.get("candles"),
        compare=run.get("compare"),
        endpoints=values.endpoints(run.get("endpoint"), venues),
        dry_run=run.get("dry-run"),
        force=run.get("force"),
        keep_downloads=run.get("keep-downloads"),
        parallel=run.get("parallel"),
        proxy=run.get("proxy"),
        source=run.get("source"),
        from_files=tuple(run.get("from-file")),
        since_last=since_last,
    )
    with run.output() as output:
        with observing(run, "archive", output, store=options.store, job=not options.dry_run) as watch:
            result: Result = watch.ended(implementation("archive")(options, watch))
        return output.finish(result)


command = Cmd(
    "archive",
    _archive,
    doc="Fetch, verify and store history, from bulk files, REST or local dumps: only what is missing.",
    examples=[
        (
            "two days of trades and candles",
            "cmd-cli archive --exchange binance-spot --types trades,candles --symbols BTCUSDT"
            " --start 2024-08-08 --end 2024-08-09 --store parquet:data",
        ),
        (
            "every day, for cron",
            "cmd-cli archive --exchange binance-spot --types trades --symbols BTCUSDT --since-last --store parquet:data",
        ),
        (
            "what would be downloaded",
            "cmd-cli archive --exchange binance-spot --types trades --symbols BTCUSDT,ETHUSDT"
            " --start 2024-08-08 --end 2024-08-09 --store parquet:data --dry-run",
        ),
    ],
    params=[
        flag("archive", "exchange", metavar="VENUE"),
        flag("archive", "symbols", metavar="SYMBOL", note="BTCUSDT, BTC-USDT, '*USDT', all, @file"),
        flag("archive", "types", metavar="TYPE", note=", ".join(ARCHIVE_TYPES)),
        flag("archive", "start", metavar="DAY"),
        flag("archive", "end", metavar="DAY"),
        flag("archive", "since-last"),
        flag("archive", "store", metavar="KIND:PATH"),
        flag("archive", "interval", metavar="INTERVAL"),
        flag("archive", "candles"),
        flag("archive", "compare"),
        flag("archive", "source"),
        flag("archive", "from-file", metavar="PATH"),
        flag("archive", "dry-run"),
        flag("archive", "force"),
        flag("archive", "parallel"),
        flag("archive", "keep-downloads"),
        flag("archive", "endpoint"),
        flag("archive", "proxy", metavar="URL"),
        flag("archive", "metrics-file", metavar="FILE"),
        flag("archive", "log-file", metavar="FILE"),
        flag("archive", "log-format"),
    ],
    notes="Where an exchange publishes no bulk files (or lacks one), its REST history is asked, within its limits and reach.\n"
    "--exchange kraken --from-file Kraken_Trading_History.zip reads a dump that was downloaded by hand.\n"
    "Days are inclusive. Killed at any moment and run again, it ends with the same rows. Exit codes: 0 done,\n"
    "1 failed (a wrong checksum too), 2 wrong usage, 3 done with gaps (a missing day too); with --since-last also\n"
    "4 another run works on the store, 5 the exchange could not be reached. Every day by itself: docs/deploy.md.",
)
