"""``cmd-cli config show | init``: the configuration in force, and a file to begin with."""

from __future__ import annotations

import click

from cmd_cli.command import Cmd, Run

__all__ = ["command"]

_PROJECT = "cmd.toml"


def _config(action: str, **flags: object) -> int:
    return _init(flags) if action == "init" else _show(flags)


def _show(flags: dict[str, object]) -> int:
    run = Run("", {})
    values = [v for v in run.settings.all() if flags["all"] or v.origin != "default"]
    rows = [(v.key.path, v.shown(), v.origin) for v in values]
    with run.output() as output:
        if run.json:
            output.ready({path: {"value": value, "origin": origin} for path, value, origin in rows})
        elif rows:
            columns = ["key", "value", "origin"] if flags["origin"] else ["key", "value"]
            output.rows(columns, [row[: len(columns)] for row in rows], "table")
        if not rows:
            output.info("nothing is configured; cmd-cli config show --all shows the defaults")
    return 0


def _init(flags: dict[str, object]) -> int:
    import os

    from cmd_common.config import template, user_file
    from cmd_common.errors import UsageError

    run = Run("", {}) if not flags["force"] else None
    path = user_file(os.environ) if flags["user"] else _PROJECT
    if not path:
        raise UsageError("no home folder is known", hint="set XDG_CONFIG_HOME")
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(path, "w" if flags["force"] else "x", encoding="utf-8") as f:
            f.write(template())
    except FileExistsError:
        raise UsageError(f"{path} exists", hint="add --force to overwrite it") from None
    if run is None or not run.quiet:
        click.echo(f"wrote {path}; every setting is in it as a comment", err=True)
    return 0


command = Cmd(
    "config",
    _config,
    doc="Show the configuration in force, or create a file with every setting as a comment.",
    examples=[
        ("where each value comes from", "cmd-cli config show --origin"),
        ("begin a project's configuration, ./cmd.toml", "cmd-cli config init"),
    ],
    params=[
        click.Argument(["action"], type=click.Choice(["show", "init"])),
        click.Option(["--origin"], is_flag=True, help="show: the flag, variable, FILE:LINE or default of each value"),
        click.Option(["--all"], is_flag=True, help="show: defaults too"),
        click.Option(["--user"], is_flag=True, help="init: the user's file instead of ./cmd.toml"),
        click.Option(["--force"], is_flag=True, help="init: overwrite"),
    ],
    notes="Flags win over environment variables, these over ./cmd.toml (or --config FILE), this over the user's file\n"
    "($XDG_CONFIG_HOME/cryptomarketdata/config.toml). Passwords are never shown.",
)
