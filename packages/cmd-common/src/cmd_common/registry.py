"""Plug-ins by entry point: exchanges, stores, transports, sources, sinks and commands.

Nothing here imports a plug-in by name; an installed distribution is found by its metadata.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, cast

from .errors import CmdError, UnknownNameError

if TYPE_CHECKING:
    from .exchange import Exchange
    from .io import Store

__all__ = ["GROUPS", "command", "exchange", "load", "names", "store"]

GROUPS: Final = (
    "cmd.exchanges",
    "cmd.stores",
    "cmd.transports",
    "cmd.sources",
    "cmd.sinks",
    "cmd.metrics",
    "cmd.commands",
)
_WHAT: Final = {"cmd.exchanges": "exchange", "cmd.stores": "store", "cmd.commands": "command"}


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: p.name)}


def names(group: str) -> list[str]:
    """Return the names registered in a group, sorted."""
    return list(_points(group))


def load(group: str, name: str) -> Any:
    """Load one plug-in; raises UnknownNameError with the nearest names, CmdError if it cannot load."""
    point = _points(group).get(name)
    what = _WHAT.get(group, group.removeprefix("cmd.").rstrip("s"))
    if point is None:
        from .symbols import nearest

        known = names(group)
        hint = "" if nearest(name, known) else f"installed are: {', '.join(known) or 'none'}"
        raise UnknownNameError(what, name, nearest(name, known), hint=hint)
    try:
        return point.load()
    except Exception as error:
        raise CmdError(
            f"{what} {name!r} is installed but does not load: {error}", hint=f"reinstall {point.value.split(':')[0]}"
        ) from error


def exchange(venue: str) -> Exchange:
    """Return the Exchange of a venue, such as ``binance-spot``."""
    return cast("Exchange", load("cmd.exchanges", venue))


def store(scheme: str) -> Store:
    """Return the kind of store for a URL scheme; a class is instantiated."""
    kind = load("cmd.stores", scheme)
    return cast("Store", kind() if isinstance(kind, type) else kind)


def command(name: str) -> Any:
    """Return the function behind a command of cmd-cli; see ``cmd_common.commands``."""
    return load("cmd.commands", name)
