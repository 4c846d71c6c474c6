"""``cmd-cli version``: versions of what is installed."""

from __future__ import annotations

import click

from cmd_cli.command import Cmd

__all__ = ["command"]

_DISTRIBUTIONS = (
    "cmd-common",
    "cmd-feed",
    "cmd-binance",
    "cmd-parquet",
    "cmd-archiver",
    "cmd-replay",
    "cmd-server",
    "cmd-cli",
)


def _version() -> int:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from cmd_cli.output import Output

    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["python"] = platform.python_version()
    shared = click.get_current_context().ensure_object(dict)
    output = Output(json=bool(shared.get("json")))
    if output.json:
        output.ready(found)
    else:
        output.rows(["distribution", "version"], list(found.items()), "table")
    return 0


command = Cmd(
    "version",
    _version,
    doc="Print the versions of the installed distributions.",
    examples=[("for a person", "cmd-cli version"), ("for a bug report", "cmd-cli version --json")],
    params=[],
)
