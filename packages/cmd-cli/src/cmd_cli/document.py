"""The reference of all commands as Markdown, which is ``docs/cli.md``; made from the commands themselves."""

from __future__ import annotations

import sys

import click

from .main import COMMANDS, cli

__all__ = ["markdown"]

_INTRO = """\
# cmd-cli

This file is written from the commands by `python -m cmd_cli.document > docs/cli.md`; a test compares the two,
and another one runs the examples.

Data goes to stdout, words to stderr. `--json` makes stdout readable for programs:

| command | stdout with `--json` |
|---|---|
| `record`, `archive` | the last line is the summary, one JSON object |
| `query`, `symbols` | one JSON array of objects, a row a line (`--format ndjson` for one object a line) |
| `replay` | one JSON line a venue when it is ready, with and without `--json` |
| `serve` | one JSON line when it is ready, with and without `--json`; with it the last line is the summary |
| `store` | the last line is the summary, one JSON object; `check`: `{"ok", "findings": [{"severity", "kind", "where", "what", "hint"}]}` |
| `watch` | one JSON line a second and symbol |
| `log` | `decode`, `tail`: one object a line; `stats`: one JSON object |
| `verify`, `repair` | the last line is the summary, one JSON object; `verify`: `days` holds the verdicts and findings |
| `doctor` | one JSON object, `{"state", "checks": [{"check", "state", "found", "todo"}]}` |
| `config show`, `version` | one JSON object |

The summary of `record` is `{"records": {table: n}, "gaps": n, "books": {"venue:symbol": {"state", "last_id",
"best_bid", "best_ask"}}, ...}`.

| exit code | meaning |
|---|---|
| 0 | done; also after Ctrl-C or SIGTERM, once everything received is stored |
| 1 | failed: the network, the store, a wrong checksum; `store check` or `doctor` found something |
| 2 | wrong usage; the message names the nearest match |
| 3 | done, but data is missing: see table `gaps`; `verify`: something is missing, or may be |
| 4 | another process does the same: `archive --since-last`, `repair` |
| 5 | an exchange could not be reached: `archive --since-last`, `repair`; run it again later |
| 6 | `verify`: the store contradicts itself, or what was archived |

An error is one line, `cmd-cli: error: what is wrong; what to do next`. `--log-level debug` shows the log, and the
traceback of an internal error. Colours obey `NO_COLOR`.

Options that take several values take them in any form: `--exchange a b`, `--exchange a,b`, `--exchange a --exchange b`.
Symbols are the exchange's own names in any case (`BTCUSDT`), unified names (`BTC-USDT`, `BTC-USDT-PERP`), wildcards
(`'*USDT'`), `venue:symbol`, `all`, or `@file` (lines with `#` comments, TOML, YAML or JSON). A wildcard and `all`
leave out what is not trading; a wildcard without a match is an error. Every option can also be set in the environment
or in a file: see [config.md](config.md).
"""


def markdown() -> str:
    """Introduction and the help of every command, at a width of 100."""
    parts = [_INTRO]
    parent = click.Context(cli, info_name="cmd-cli")
    for name in COMMANDS:
        command = cli.get_command(parent, name)
        assert command is not None
        ctx = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
        text = command.get_help(ctx).rstrip()
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(markdown())
