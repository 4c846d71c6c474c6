"""``cmd-cli symbols``: the instruments of exchanges."""

from __future__ import annotations

import click

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command"]

_SHOWN = ("venue", "symbol", "unified", "kind", "tick_size", "lot_size", "contract_size", "status")  # in a table


def _symbols(**flags: object) -> int:
    from cmd_cli import values
    from cmd_cli.cache import remember_symbols
    from cmd_common.commands import Result, SymbolsOptions
    from cmd_common.registry import command as implementation

    run = Run("", flags)
    chosen = run.get("symbols") or "all"
    venues = values.exchanges(run.get("exchange"), chosen)
    options = SymbolsOptions(
        exchanges=venues,
        symbols=values.selectors(chosen, venues),
        endpoints=values.endpoints(run.get("endpoint"), venues),
        proxy=run.get("proxy"),
    )
    format_ = str(flags["format"] or ("json" if run.json else "table"))
    with run.output() as output:
        result: Result = implementation("symbols")(options, output)
        output.close()
        rows = result.summary.get("instruments", [])
        remember_symbols([(row["venue"], row["symbol"]) for row in rows])
        columns = list(rows[0]) if rows and format_ != "table" else list(_SHOWN)
        output.rows(columns, ([row.get(c) for c in columns] for row in rows), format_)
        return result.exit_code


command = Cmd(
    "symbols",
    _symbols,
    doc="List the instruments of exchanges: own and unified name, kind, tick size, lot size, status.",
    examples=[
        ("everything that trades against USDT", "cmd-cli symbols --exchange binance-spot --symbols '*USDT'"),
        ("one unified name, for a script", "cmd-cli symbols --exchange binance-spot --symbols BTC-USDT --json"),
    ],
    params=[
        flag("", "exchange", metavar="VENUE"),
        flag("", "symbols", metavar="SYMBOL", note="BTCUSDT, BTC-USDT, '*USDT', all, @file; default all"),
        click.Option(
            ["--format"],
            default=None,
            type=click.Choice(["table", "csv", "ndjson", "json"]),
            metavar="WORD",
            help="form of the output [table | csv | ndjson | json; default table]",
        ),
        flag("", "endpoint"),
        flag("", "proxy", metavar="URL"),
    ],
    notes="The names are kept for shell completion.",
)
