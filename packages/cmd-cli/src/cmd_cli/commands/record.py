"""``cmd-cli record``: live market data into a store."""

from __future__ import annotations

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command"]


def _record(**flags: object) -> int:
    from msgspec.structs import replace

    from cmd_cli import values
    from cmd_cli.observed import observing
    from cmd_common.commands import AggregateOptions, Result
    from cmd_common.feed import SESSION_TYPES
    from cmd_common.registry import command as implementation

    run = Run("record", flags)
    metrics = values.listen(run.get("metrics")) if run.get("metrics") else ""
    venues = values.exchanges(run.get("exchange"), run.get("symbols"))
    options = values.record_options(
        run,
        venues,
        symbols=values.selectors(run.get("symbols"), venues),
        types=values.check_types(run.get("types"), SESSION_TYPES),
        store="" if run.get("raw") and not run.get("store") else values.check_store(run.get("store")),
        aggregate=AggregateOptions(
            equivalents=values.equivalents(run.get("equivalent")),
            convert=run.get("convert") or (),
            max_age=run.get("stale-after"),
            every=run.get("aggregate-every"),
            depth=run.get("aggregate-depth"),
        ),
    )
    options = replace(
        options,
        metrics=metrics,
        token=values.token(run.get("token", section=""), run.get("token-file")) if metrics else "",
    )
    with run.output() as output:
        with observing(run, "record", output) as watch:
            result: Result = watch.ended(implementation("record")(options, watch))
        return output.finish(result)


command = Cmd(
    "record",
    _record,
    doc="Record live market data into a store: trades, quotes, candles and checked order books.",
    examples=[
        (
            "books and trades of two symbols for five seconds",
            "cmd-cli record --exchange binance-spot --symbols BTCUSDT,ETHUSDT --types trades,book"
            " --store parquet:data --duration 5s",
        ),
        (
            "everything of one symbol, the exchange's own messages too, with a summary for scripts",
            "cmd-cli record --exchange binance-spot --symbols BTC-USDT --store parquet:data --raw raw"
            " --duration 3s --json",
        ),
        (
            "one book over two exchanges, a row a second with each one's part",
            "cmd-cli record --exchange binance-spot,binance-usdm --symbols BTC-USDT --types aggregate"
            " --store parquet:data --duration 3s",
        ),
    ],
    params=[
        flag("record", "exchange", metavar="VENUE"),
        flag("record", "symbols", metavar="SYMBOL", note="BTCUSDT, BTC-USDT, '*USDT', all, @file"),
        flag("record", "types", metavar="TYPE", note="trades, agg_trades, quotes, candles, book, aggregate"),
        flag("record", "store", metavar="KIND:PATH"),
        flag("record", "interval", metavar="INTERVAL"),
        flag("record", "duration"),
        flag("record", "until-end"),
        flag("record", "depth"),
        flag("record", "equivalent", metavar="A=B", note="for type aggregate"),
        flag("record", "convert", metavar="ASSET"),
        flag("record", "stale-after"),
        flag("record", "aggregate-every"),
        flag("record", "aggregate-depth"),
        flag("record", "raw", metavar="DIR"),
        flag("record", "endpoint"),
        flag("record", "proxy", metavar="URL"),
        flag("record", "snapshot-every"),
        flag("record", "queue-limit"),
        flag("record", "options", metavar="K=V,..."),
        flag("record", "metrics", metavar="HOST:PORT"),
        flag("record", "token-file", metavar="FILE", note="asked for by /metrics where others can reach it"),
        flag("record", "log-file", metavar="FILE"),
        flag("record", "log-format"),
    ],
    notes="Ctrl-C ends it cleanly: everything received is written first. Exit codes: 0 done, 1 failed, 2 wrong usage,\n"
    "3 done with gaps, which are rows of table gaps.",
)
