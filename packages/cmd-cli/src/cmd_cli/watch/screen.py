"""Which lines a view is shown with: those of single books, or those of books merged over venues."""

from __future__ import annotations

from cmd_common.commands import LiveSource

from . import lines, merged
from .lines import Line
from .merged import MergedView
from .model import View

__all__ = ["book", "facts", "lower", "upper", "view_of", "words"]


def view_of(source: LiveSource) -> View:
    """The view of what a source has: merged books where it was asked for them."""
    aggregates = source.aggregates
    return MergedView(source.books, aggregates) if aggregates else View(source.books)


def book(view: View, width: int, height: int, now: int) -> list[Line]:
    """The order book."""
    if isinstance(view, MergedView):
        return merged.ladder(view, width, height, now)
    return lines.ladder(view, width, height)


def upper(view: View, width: int, height: int) -> list[Line]:
    """The panel beside it, above: the last trades."""
    if isinstance(view, MergedView):
        return merged.trades(view, width, height)
    return lines.trades(view.current, width, height)


def lower(view: View, width: int, height: int) -> list[Line]:
    """The panel beside it, below: candles; the books of a merged one."""
    if isinstance(view, MergedView):
        return merged.venues(view, width, height)
    return lines.candles(view.current, width, height)


def facts(view: View, name: str, now: int) -> dict[str, object]:
    """The state of one instrument, for a pipe."""
    return merged.facts(view, name, now) if isinstance(view, MergedView) else lines.one_line(view, name)


def words(view: View, found: dict[str, object]) -> str:
    """The facts as one line for a person."""
    return merged.words(found) if isinstance(view, MergedView) else lines.words(found)
