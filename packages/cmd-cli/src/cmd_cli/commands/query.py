"""``cmd-cli query``: SQL over a store."""

from __future__ import annotations

from typing import Any

import click

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command"]


def _query(sql: str, **flags: Any) -> int:
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
    complete_only = run.get("complete-only")
    with run.output() as output, open_reader(url) as reader:
        result = reader.sql(sql, complete_only=complete_only)
        if complete_only:
            left_out = reader.left_out(sql)
            output.info(f"left out the rows of {left_out:,} open gap interval{'' if left_out == 1 else 's'}")
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
        (
            "volume of the minutes without a gap",
            'cmd-cli query "SELECT symbol, sum(quantity) AS volume FROM trades GROUP BY ALL ORDER BY ALL"'
            " --store parquet:data --complete-only",
        ),
    ],
    params=[
        click.Argument(["sql"], metavar="SQL"),
        flag("query", "store", metavar="KIND:PATH"),
        flag("query", "format"),
        flag("query", "complete-only", note="says how many intervals on stderr"),
    ],
    notes='SQL "-" reads the query from stdin. --json is --format json: one array of objects, a row a line.',
)
