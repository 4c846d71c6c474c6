"""``cmd-cli serve``: live data, or what a store holds, pushed to other programs."""

from __future__ import annotations

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command"]


def _serve(**flags: object) -> int:
    from cmd_cli import values
    from cmd_cli.observed import observing
    from cmd_common.commands import AggregateOptions, Result, ServeOptions
    from cmd_common.errors import UsageError
    from cmd_common.feed import FEED_TYPES
    from cmd_common.registry import command as implementation

    run = Run("serve", flags)
    listen = run.get("listen")
    if not listen:
        raise UsageError("no address is given", hint="add --listen, such as --listen tcp:127.0.0.1:9999")
    from_store, start, end = run.get("from-store"), run.get("start"), run.get("end")
    for name, value in (("--start", start), ("--end", end)):
        if value and not from_store:
            raise UsageError(f"{name} is for history", hint="add --from-store KIND:PATH")
    venues = values.exchanges(run.get("exchange"), run.get("symbols")) if run.get("exchange") or not from_store else ()
    symbols = run.get("symbols") or ("all" if from_store and not venues else None)
    source = values.record_options(
        run,
        venues,
        symbols=values.selectors(symbols, venues) if venues else values.stored_selectors(symbols),
        types=values.check_types(run.get("types"), FEED_TYPES),
        store=values.check_store(run.get("store")) if run.get("store") else "",
        aggregate=AggregateOptions(
            equivalents=values.equivalents(run.get("equivalent")),
            convert=run.get("convert") or (),
            max_age=run.get("stale-after"),
        ),
    )
    options = ServeOptions(
        listen=listen,
        source=source,
        token=values.token(run.get("token", section=""), run.get("token-file")),
        metrics=values.listen(run.get("metrics")) if run.get("metrics") else "",
        from_store=values.check_store(from_store) if from_store else "",
        start=values.instant(start, "start") if start else None,
        end=values.instant(end, "end") if end else None,
        speed=run.get("speed"),
        max_clients=run.get("max-clients"),
        queue=run.get("queue"),
        replay_buffer=run.get("replay-buffer"),
        hold=run.get("hold"),
    )
    with run.output() as output:
        with observing(run, "serve", output) as watch:
            result: Result = watch.ended(implementation("serve")(options, watch))
        output.close()
        if run.json:
            return output.finish(result)
        output.info(
            "served " + ", ".join(f"{result.summary[name]:,} {name}" for name in ("records", "clients", "messages"))
        )
        return result.exit_code


command = Cmd(
    "serve",
    _serve,
    doc="Push live market data to other programs over TCP, Unix socket, WebSocket, multicast and Aeron.",
    examples=[
        (
            "two symbols to programs of this machine, for five seconds",
            "cmd-cli serve --exchange binance-spot --symbols BTCUSDT,ETHUSDT --listen tcp:127.0.0.1:9999"
            " --listen unix:market.sock --duration 5s",
        ),
        (
            "record at the same time, with metrics and health",
            "cmd-cli serve --exchange binance-spot --symbols BTCUSDT --types trades,book --listen unix:market.sock"
            " --store parquet:data --metrics 127.0.0.1:9100 --duration 5s",
        ),
        (
            "what was recorded, then live data without a seam; it begins with the first subscription",
            "cmd-cli serve --exchange binance-spot --symbols BTCUSDT --listen unix:market.sock"
            " --from-store parquet:data --duration 5s",
        ),
    ],
    params=[
        flag("serve", "exchange", metavar="VENUE"),
        flag("serve", "symbols", metavar="SYMBOL", note="BTCUSDT, BTC-USDT, '*USDT', all, @file"),
        flag("serve", "types", metavar="TYPE", note="trades, agg_trades, quotes, candles, book"),
        flag(
            "serve",
            "listen",
            metavar="ADDRESS",
            note="tcp:HOST:PORT, unix:PATH, ws:HOST:PORT, multicast:GROUP:PORT, aeron:ipc",
        ),
        flag("serve", "interval", metavar="INTERVAL"),
        flag("serve", "token-file", metavar="FILE", note="needed where an address can be reached from elsewhere"),
        flag("serve", "metrics", metavar="HOST:PORT"),
        flag("serve", "log-file", metavar="FILE"),
        flag("serve", "log-format"),
        flag("serve", "store", metavar="KIND:PATH"),
        flag("serve", "from-store", metavar="KIND:PATH"),
        flag("serve", "start", metavar="INSTANT"),
        flag("serve", "end", metavar="INSTANT"),
        flag("serve", "speed", metavar="N|max"),
        flag("serve", "duration"),
        flag("serve", "until-end"),
        flag("serve", "max-clients"),
        flag("serve", "queue"),
        flag("serve", "replay-buffer"),
        flag("serve", "hold"),
        flag("serve", "depth"),
        flag("serve", "equivalent", metavar="A=B", note="for topics of aggregates"),
        flag("serve", "convert", metavar="ASSET"),
        flag("serve", "stale-after"),
        flag("serve", "raw", metavar="DIR"),
        flag("serve", "endpoint"),
        flag("serve", "proxy", metavar="URL"),
        flag("serve", "snapshot-every"),
        flag("serve", "queue-limit"),
        flag("serve", "options", metavar="K=V,..."),
    ],
    notes='When it is ready it prints one JSON line: {"listen": ["tcp:127.0.0.1:PORT", ...], "metrics": ..., "epoch": ...}.\n'
    "Clients: cmd-cli watch --connect ADDRESS, the Python library cmd_server.client, or any SBE decoder (docs/wire.md).\n"
    "Ctrl-C ends it: clients are told, and everything received is stored. Exit codes as for record.",
)
