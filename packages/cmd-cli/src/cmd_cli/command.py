"""The shape that all commands share: options from the configuration keys, several values after one
option, examples first in the help, and the settings that a command gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from cmd_common.config import Settings

    from .output import Output

__all__ = ["GLOBAL_OPTIONS", "Cmd", "Run", "expand", "flag", "remember"]

_GLOBAL: Final = ("config", "json", "log_level", "quiet")
_MANY: Final = ("list", "symbols", "endpoints")


def expand(args: Sequence[str], many: Iterable[str]) -> list[str]:
    """Repeat an option of ``many`` before each of the values that follow it.

    ``--exchange a b --json`` becomes ``--exchange a --exchange b --json``: values reach until the next
    word that begins with ``-``.
    """
    flags = set(many)
    out: list[str] = []
    current = ""  # the option whose further values we are in
    fresh = False  # its first value is still to come
    for n, arg in enumerate(args):
        if arg == "--":
            return [*out, *args[n:]]
        if arg.startswith("-") and len(arg) > 1 and not fresh:
            name, equals, _ = arg.partition("=")
            current, fresh = (name, not equals) if name in flags else ("", False)
            out.append(arg)
        elif current and not fresh:
            out += [current, arg]
        else:
            out.append(arg)
            fresh = False
    return out


class Cmd(click.Command):
    """A command whose list options take several values, with its examples first in the help."""

    def __init__(
        self,
        name: str,
        callback: Callable[..., int | None],
        *,
        doc: str,
        examples: Sequence[tuple[str, str]],
        params: Sequence[click.Parameter],
        notes: str = "",
        common: bool = True,
    ) -> None:
        self.doc = doc
        self.examples = tuple(examples)
        self.notes = notes
        every = [*params, *(GLOBAL_OPTIONS() if common else [])]
        super().__init__(name, callback=remember(callback), params=every, help=doc)

    @property
    def many(self) -> list[str]:
        """Options that may be followed by several values."""
        return [o for p in self.params if isinstance(p, click.Option) and p.multiple for o in p.opts]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Expand several values after one option before click sees them."""
        try:
            return super().parse_args(ctx, expand(args, self.many))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click leaves it out where a value is missing
            raise

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, usage, options with their environment variables."""
        formatter.write(f"{self.doc}\n\nExamples:\n")
        for words, line in self.examples:
            formatter.write(f"  # {words}\n  {line}\n")
        formatter.write("\n")
        self.format_usage(ctx, formatter)
        with formatter.section("Options"):
            formatter.write_dl([r for p in self.get_params(ctx) if (r := p.get_help_record(ctx))])
        if self.notes:
            formatter.write(f"\n{self.notes.rstrip()}\n")


def flag(section: str, name: str, *, metavar: str = "", note: str = "", short: str = "") -> click.Option:
    """The option for a configuration key: its meaning, default and environment variable come from there.

    The option has no default of its own: None or () means that it was not given.
    """
    from cmd_common.config import KEYS

    key = KEYS[f"{section}.{name}" if section else name]
    default = key.default
    words = key.doc + (f"; {note}" if note else "")
    facts = []
    if key.choices:
        facts.append(" | ".join(key.choices))
    if default not in (None, "", [], {}, False):
        facts.append(f"default {','.join(default) if isinstance(default, list) else default}")
    facts.append(key.variables[-1])
    text = f"{words} [{'; '.join(facts)}]"
    names = [f"--{name}", *([short] if short else []), name.replace("-", "_")]
    if key.kind == "bool":
        return _Switch([f"--{name}/--no-{name}", name.replace("-", "_")], default=None, help=text)
    many = key.kind in _MANY
    return click.Option(
        names, multiple=many, default=None, metavar=(metavar or _metavar(key.kind)) + ("..." if many else ""), help=text
    )


class _Switch(click.Option):
    """A switch whose negation exists, for what a file switches on, but does not clutter the help."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return self.opts[0], self.help or ""


def _metavar(kind: str) -> str:
    return {"int": "N", "duration": "TIME", "choice": "WORD", "endpoints": "[VENUE=]URL"}.get(kind, "TEXT")


def GLOBAL_OPTIONS() -> list[click.Parameter]:
    """Options that every command and the group have; those of the command win."""
    return [
        click.Option(["--config"], metavar="FILE", default=None, help="configuration file [CMD_CONFIG]"),
        click.Option(["--json"], is_flag=True, default=None, help="machine-readable output on stdout"),
        click.Option(
            ["--log-level"],
            metavar="WORD",
            default=None,
            help="debug | info | warning | error [default warning; CMD_LOG_LEVEL]",
        ),
        click.Option(["-q", "--quiet"], is_flag=True, default=None, help="only errors and warnings on stderr"),
    ]


def remember(callback: Callable[..., int | None]) -> Callable[..., int | None]:
    """Keep the options that the group and its commands share in ``ctx.obj``; the rest goes to ``callback``."""

    def wrapper(**values: Any) -> int | None:
        ctx = click.get_current_context()
        shared: dict[str, Any] = ctx.ensure_object(dict)
        for name in _GLOBAL:
            value = values.pop(name, None)
            if value is not None:
                shared[name] = value
        return callback(**values)

    return wrapper


class Run:
    """What a command gets: settings below its flags, and where its output goes."""

    def __init__(self, section: str, flags: Mapping[str, object]) -> None:
        from cmd_common.config import load

        shared: Mapping[str, Any] = click.get_current_context().ensure_object(dict)
        self.section = section
        self.flags = flags
        self.json = bool(shared.get("json"))
        self.quiet = bool(shared.get("quiet"))
        self.settings: Settings = load(shared.get("config") or "")
        self.log_level: str = self.settings.get("", "log-level", shared.get("log_level"))
        _logging(self.log_level)

    def get(self, name: str, *, section: str | None = None) -> Any:
        """A setting of this command, by its key."""
        section = self.section if section is None else section
        return self.settings.get(section, name, self.flags.get(name.replace("-", "_")))

    def output(self) -> Output:
        """Where data and words go."""
        from .output import Output

        return Output(json=self.json, quiet=self.quiet)


def _logging(level: str) -> None:
    import logging

    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
