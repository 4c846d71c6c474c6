"""``cmd-cli query``: SQL over a store."""

from __future__ import annotations

import click

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command"]


def _query(sql: str, **flags: str | None) -> int:
    import sys

    from cmd_cli import values
    from cmd_common.errors import UsageError
    from cmd_common.io import open_reader

    run = Run("query", flags)
    format_ = run.get("format")
    if run.json and flags["format"] is None:
        format_ = "json"
    url = values.check_store(run.get("store"))
    if sql == "-":
        sql = sys.stdin.read()
    if not sql.strip():
        raise UsageError("the query is empty", hint='for example "SELECT count(*) FROM trades"')
    with run.output() as output, open_reader(url) as reader:
        result = reader.sql(sql)
        output.rows(list(result.columns), result.rows(), format_)
    return 0


command = Cmd(
    "query",
    _query,
    doc="Query a store with SQL (DuckDB's). Tables and columns: docs/schema.md; times are ns since 1970, UTC.",
    examples=[
        (
            "trades and volume a symbol",
            'cmd-cli query "SELECT venue, symbol, count(*) AS trades, sum(quantity) AS volume FROM trades'
            ' GROUP BY ALL ORDER BY ALL" --store parquet:data',
        ),
        (
            "what is missing, for a script",
            'cmd-cli query "SELECT * FROM gaps ORDER BY ts_from" --store parquet:data --json',
        ),
    ],
    params=[
        click.Argument(["sql"], metavar="SQL"),
        flag("query", "store", metavar="KIND:PATH"),
        flag("query", "format"),
    ],
    notes='SQL "-" reads the query from stdin. --json is --format json: one array of objects, a row a line.',
)
