"""``watch`` as a full-screen application: widgets of the line API, refreshed at 10 Hz when they changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Footer

from cmd_common.commands import LiveSource
from cmd_common.seams import Clock

from . import screen
from .lines import Line, Role, instruments
from .model import View

__all__ = ["LinesWidget", "WatchApp"]

_REFRESH: Final = 0.1  # s

_DARK: Final[dict[Role, Style]] = {  # blue and orange: told apart by colour-blind eyes
    "": Style(),
    "head": Style(bold=True),
    "dim": Style(color="#8a8a8a"),
    "bid": Style(color="#56b4e9"),
    "ask": Style(color="#e69f00"),
    "live": Style(bold=True),
    "stale": Style(bold=True, reverse=True),
    "chosen": Style(bold=True, underline=True),
}
_LIGHT: Final[dict[Role, Style]] = {
    **_DARK,
    "dim": Style(color="#6a6a6a"),
    "bid": Style(color="#005a92"),
    "ask": Style(color="#8f4700"),
}


class LinesWidget(Widget):
    """Shows what ``make(width, height)`` returns; draws only when that changed."""

    def __init__(self, make: Callable[[int, int], list[Line]], *, id: str) -> None:
        super().__init__(id=id)
        self._make = make
        self.shown: list[Line] = []

    def update_lines(self) -> None:
        """Make the lines again, and draw if they differ."""
        width, height = self.size
        lines = self._make(width, height)[:height]
        if lines != self.shown:
            self.shown = lines
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line as a strip (textual's line API)."""
        width = self.size.width
        line = self.shown[y] if y < len(self.shown) else []
        styles = _DARK if self.app.current_theme.dark else _LIGHT
        base = self.rich_style
        segments = [Segment(text, base + styles[role]) for text, role in line]
        return Strip(segments).adjust_cell_length(width, base)


class WatchApp(App[None]):
    """Live books, trades and candles of several instruments. ``error`` is what ended it, if anything."""

    TITLE = "cmd-cli watch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #instruments { height: 1; }
    #ladder { width: 3fr; }
    #side { width: 2fr; }
    #trades { height: 2fr; }
    #candles { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("n", "step(1)", "next"),
        Binding("p", "step(-1)", "previous"),
        Binding("t", "theme", "light/dark"),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("right,tab", "step(1)", show=False, priority=True),
        Binding("left,shift+tab", "step(-1)", show=False, priority=True),
        *(Binding(str(n), f"choose({n - 1})", show=False) for n in range(1, 10)),
    ]

    def __init__(self, source: LiveSource, clock: Clock, *, duration: int | None = None) -> None:
        super().__init__()
        self.source = source
        self.clock = clock
        self.duration = duration
        self.view = View(source.books)
        self.error: BaseException | None = None
        self._panels: list[LinesWidget] = []
        self._following: asyncio.Task[None] | None = None

    def compose(self) -> ComposeResult:
        """Instruments above; the ladder left, trades and candles (or the merged books) right; keys below."""
        top = LinesWidget(lambda w, h: [instruments(self.view, w, self.clock.now())], id="instruments")
        book = LinesWidget(lambda w, h: screen.book(self.view, w, h, self.clock.now()), id="ladder")
        last = LinesWidget(lambda w, h: screen.upper(self.view, w, h), id="trades")
        bars = LinesWidget(lambda w, h: screen.lower(self.view, w, h), id="candles")
        self._panels = [top, book, last, bars]
        yield top
        with Horizontal():
            yield book
            with Vertical(id="side"):
                yield last
                yield bars
        yield Footer()

    def on_mount(self) -> None:
        """Begin to follow the source and to draw."""
        self._following = asyncio.create_task(self._follow())
        self.set_interval(_REFRESH, self._draw)
        if self.duration is not None:
            self.set_timer(self.duration / 1e9, self.exit)

    async def on_unmount(self) -> None:
        """Close the connections before the loop ends."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        try:
            async with self.source as source:
                self.view = screen.view_of(source)
                async for records in source.subscribe():
                    self.view.apply(records, self.clock.now())
                self.view.ended = True
                if source.error is not None:
                    raise source.error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.error = error
            self.exit()

    def _draw(self) -> None:
        self.view.sync()
        for panel in self._panels:
            panel.update_lines()

    def action_step(self, by: int) -> None:
        """Choose the next or previous instrument."""
        self.view.step(by)
        self._draw()

    def action_choose(self, index: int) -> None:
        """Choose an instrument by its position."""
        self.view.choose(index)
        self._draw()

    def action_theme(self) -> None:
        """Change between light and dark."""
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"
        for panel in self._panels:
            panel.refresh()
