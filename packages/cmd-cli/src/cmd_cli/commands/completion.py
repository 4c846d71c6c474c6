"""``cmd-cli completion``: a static completion script."""

from __future__ import annotations

import click

from cmd_cli.command import Cmd

__all__ = ["command"]


def _completion(shell: str) -> int:
    from cmd_cli.completion import script
    from cmd_cli.main import COMMANDS, cli

    click.echo(script(shell, cli, COMMANDS), nl=False)
    return 0


command = Cmd(
    "completion",
    _completion,
    doc="Print a completion script for bash, zsh or fish; at TAB no Python is started.",
    examples=[
        ("bash, in ~/.bashrc", 'eval "$(cmd-cli completion bash)"'),
        ("zsh, in a folder of $fpath", "cmd-cli completion zsh > _cmd-cli"),
        ("fish", "cmd-cli completion fish > cmd-cli.fish"),
    ],
    params=[click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))],
    notes="cmd-cli symbols keeps the names that --symbols is completed with. Print the script again after installing\n"
    "another exchange.",
)
