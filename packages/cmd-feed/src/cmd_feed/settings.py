"""Options of exchange packages (``--options K=V``) in one session, and which of them nobody asked for.

Every package reads its own options and ignores those of others, so that a misspelt one would have no effect
and nobody would say so. Here a session learns which names were looked at when its feeds were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, overload

from cmd_common.symbols import nearest

__all__ = ["Settings"]

T = TypeVar("T")
_OWN = frozenset({"raw_compression", "handover", "connection_age"})  # read by the session itself


class Settings(dict[str, str]):
    """The options of a session, which remember the names that were asked for."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(given)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str, /) -> str: ...

    @overload
    def get(self, name: str, default: T, /) -> str | T: ...

    def get(self, name: str, default: object = None, /) -> object:
        """Return an option, and remember that it was asked for."""
        self.read.add(name)
        return super().get(name, default)

    def unread(self, venues: Iterable[str]) -> list[str]:
        """Return a line for each option that was not asked for: misspelt, or of other exchanges or types."""
        lines = []
        for name in sorted(set(self) - self.read - _OWN):
            near = nearest(name, self.read)
            hint = f"did you mean {near[0]}?" if near else "see docs/exchanges"
            lines.append(f"option {name} means nothing for {', '.join(venues)} and these types; {hint}")
        return lines
