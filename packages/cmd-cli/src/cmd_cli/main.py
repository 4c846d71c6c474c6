"""The entry of cmd-cli: the command group, and the one place where errors become one line.

Commands are imported only when they run or show their help, and they import the heavy parts only when
they need them: ``cmd-cli --help`` loads click and nothing else of weight.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from cmd_common.errors import CmdError, UnknownNameError

from .command import GLOBAL_OPTIONS, Cmd, remember

__all__ = ["COMMANDS", "Cli", "cli", "entry", "main"]

COMMANDS: Final = {
    "symbols": "List the instruments of exchanges",
    "record": "Record live market data into a store",
    "archive": "Download, verify and store history",
    "query": "Query a store with SQL",
    "verify": "Say which days are complete",
    "repair": "Fetch what is missing, where the exchange has it",
    "export": "Write rows of a store into files for other programs",
    "store": "Look after a store: health, schema, copies, size",
    "watch": "Show live books, trades and candles in the terminal",
    "serve": "Push live data or history to other programs",
    "replay": "Serve recordings or a simulation as the exchange itself",
    "log": "Read the logs of programs that use cmd_common.log",
    "status": "Show what runs on this machine, and how it is",
    "doctor": "Check this machine, store and network",
    "deploy": "Have jobs run by themselves: systemd or cron",
    "config": "Show or create the configuration",
    "completion": "Print a completion script for bash, zsh or fish",
    "version": "Print versions",
}

_EXAMPLES: Final = """\
Examples:
  cmd-cli symbols --exchange binance-spot --symbols '*USDT'
  cmd-cli record --exchange binance-spot --symbols BTCUSDT --types trades,book --store parquet:data
  cmd-cli query "SELECT symbol, count(*) FROM trades GROUP BY symbol" --store parquet:data
"""


class Cli(click.Group):
    """The command group; commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: Cmd = import_module(f".commands.{cmd_name}", __package__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which names are near."""
        if args and args[0] not in COMMANDS:
            from cmd_common.symbols import nearest

            near = nearest(args[0], COMMANDS)
            hint = "" if near else "see cmd-cli --help"
            raise UnknownNameError("command", args[0], near, hint=hint)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples first, then commands, then options."""
        formatter.write("Crypto market data that you can trust: live and history, in your own store.\n\n")
        formatter.write(_EXAMPLES)
        formatter.write("\nUsage: cmd-cli [OPTIONS] COMMAND ...\n")
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Options"):
            records = [r for p in self.get_params(ctx) if (r := p.get_help_record(ctx))]
            formatter.write_dl(records)
        formatter.write("\nMore about one command: cmd-cli COMMAND --help\n")


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from cmd_common import __version__

        click.echo(f"cmd-cli {__version__}")
        ctx.exit()


def _group(**_: Any) -> None:
    """Options of the group are kept for the command by ``remember``."""


cli = Cli(
    name="cmd-cli",
    callback=remember(_group),
    params=[
        *GLOBAL_OPTIONS(),
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="print the version"
        ),
    ],
    no_args_is_help=True,
)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises, never shows a traceback."""
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        # not cli.main: it makes an exit code of its own from a closed pipe
        with cli.make_context("cmd-cli", list(arguments)) as ctx:
            code = cli.invoke(ctx)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except CmdError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return 2
    except click.UsageError as error:
        return _fail(_click_words(error), 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 1)
    except BrokenPipeError:
        return _hush()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 1)
    except Exception as error:
        if _debugging(arguments):
            import traceback

            traceback.print_exc()
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"internal error: {words}; run it again with --log-level debug to see where", 1)


def _debugging(arguments: Sequence[str]) -> bool:
    joined = " ".join(arguments).replace("=", " ")
    return "--log-level debug" in joined or os.environ.get("CMD_LOG_LEVEL") == "debug"


def _click_words(error: click.UsageError) -> str:
    """One line in our own form from a click error."""
    if isinstance(error, click.NoSuchOption):
        from cmd_common.symbols import nearest

        known = [o for p in (error.ctx.command.params if error.ctx else []) for o in p.opts if o.startswith("--")]
        near = nearest(error.option_name, known)
        words = f"unknown option {error.option_name!r}"
        hint = f"did you mean {' or '.join(near)}?" if near else ""
    else:
        text = error.format_message().rstrip(".")
        words, hint = text[:1].lower() + text[1:], ""
    path = error.ctx.command_path if error.ctx else "cmd-cli"
    return f"{words}; {hint or f'see {path} --help'}"


def _fail(words: str, code: int) -> int:
    if "=" in words or "@" in words:  # a store's password, a proxy's login
        from cmd_common.config import mask

        words = str(mask(words))
    try:
        sys.stdout.flush()
        sys.stderr.write(f"cmd-cli: error: {' '.join(words.split())}\n")  # an engine's words may have lines
        sys.stderr.flush()
    except BrokenPipeError:
        _hush()
    return code


def _hush() -> int:
    """The reader of our output went away, as ``head`` does: end without a word."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 1)  # what is still buffered goes nowhere when Python ends
    finally:
        os.close(devnull)
    return 0


def entry() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
