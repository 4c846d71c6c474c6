"""``watch`` without textual: raw ANSI at 10 Hz on a terminal, one line a second and symbol in a pipe."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from shutil import get_terminal_size
from typing import Final, TextIO

from cmd_cli.output import to_json
from cmd_common.commands import LiveSource
from cmd_common.seams import Clock

from . import screen
from .lines import Line, Role, instruments
from .model import View

__all__ = ["frame", "watch"]

_SGR: Final[dict[Role, str]] = {  # blue and yellow: told apart by colour-blind eyes
    "": "",
    "head": "\x1b[1m",
    "dim": "\x1b[2m",
    "bid": "\x1b[36m",
    "ask": "\x1b[33m",
    "live": "\x1b[1m",
    "stale": "\x1b[1;7m",
    "chosen": "\x1b[4m",
}
_BEGIN: Final = "\x1b[?2026h\x1b[H"  # synchronized update: the terminal shows the frame at once
_END: Final = "\x1b[J\x1b[?2026l"
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"


def frame(view: View, width: int, height: int, now: int, *, colour: bool = True) -> str:
    """One screen as text with escape sequences; the last line tells the keys."""
    rows: list[Line] = [instruments(view, width, now)]
    left = max(6, height - 2)
    upper = left if left < 14 else left * 2 // 3
    rows += screen.book(view, width, upper, now)[:upper]
    if left >= 14:
        half = (left - upper) // 2
        rows += screen.upper(view, width, half)[:half]
        rows += screen.lower(view, width, left - upper - half)[: left - upper - half]
    rows = rows[: height - 1]
    rows += [[("", "")]] * (height - 1 - len(rows))
    rows.append([("q quit  n next  p previous", "dim")])
    text = "\r\n".join(_encode(line, colour) + "\x1b[K" for line in rows)
    return f"{_BEGIN}{text}{_END}"


def _encode(line: Line, colour: bool) -> str:
    out = []
    for text, role in line:
        code = _SGR[role] if colour or role in ("stale", "chosen", "head") else ""
        out.append(f"{code}{text}\x1b[0m" if code else text)
    return "".join(out)


async def watch(
    source: LiveSource,
    clock: Clock,
    *,
    json: bool = False,
    colour: bool = True,
    duration: int | None = None,
    out: TextIO | None = None,
) -> None:
    """Show a source until it ends, ``duration`` (ns) is over, ``q`` is pressed, or a signal says stop.

    Raises what the source raises.
    """
    stream = out or sys.stdout
    terminal = stream.isatty() and not json
    stop = asyncio.Event()
    remove = _on_signals(stop.set)
    try:
        async with source:
            view = screen.view_of(source)
            keys = _keys(view, stop) if terminal else nullcontext()
            follow = asyncio.create_task(_follow(source, view, clock))
            draw = asyncio.create_task(_draw(view, clock, stream, terminal, json, colour))
            waiting = asyncio.create_task(stop.wait())
            tasks = {follow, draw, waiting}
            if duration is not None:
                tasks.add(asyncio.create_task(clock.sleep(duration)))
            with keys:
                try:
                    if terminal:
                        stream.write(_ENTER)
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    if terminal:
                        stream.write(_LEAVE)
                        stream.flush()
            if not terminal:
                _report(view, stream, json, clock.now())
            for task in done:
                if not task.cancelled() and (error := task.exception()):
                    raise error
    finally:
        remove()


async def _follow(source: LiveSource, view: View, clock: Clock) -> None:
    async for records in source.subscribe():
        view.apply(records, clock.now())
    view.ended = True
    if source.error is not None:
        raise source.error


async def _draw(view: View, clock: Clock, stream: TextIO, terminal: bool, json: bool, colour: bool) -> None:
    while True:
        if terminal:
            size = get_terminal_size()
            stream.write(frame(view, size.columns, size.lines, clock.now(), colour=colour))
            stream.flush()
            await clock.sleep(100_000_000)
        else:
            await clock.sleep(1_000_000_000)
            view.sync()
            _report(view, stream, json, clock.now())


def _report(view: View, stream: TextIO, json: bool, now: int) -> None:
    for name in view.names:
        facts = screen.facts(view, name, now)
        stream.write((to_json(facts).decode() if json else screen.words(view, facts)) + "\n")
    stream.flush()


def _on_signals(call: Callable[[], None]) -> Callable[[], None]:
    """Call ``call`` on SIGINT and SIGTERM; returns what takes that back."""
    loop = asyncio.get_running_loop()
    taken = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, call)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            continue
        taken.append(number)

    def remove() -> None:
        for number in taken:
            loop.remove_signal_handler(number)

    return remove


def _keys(view: View, stop: asyncio.Event) -> AbstractContextManager[object]:
    """Read single keys from a terminal while the context is open; nothing where that cannot be done."""
    try:
        import termios
        import tty

        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (ImportError, OSError, ValueError, termios.error):  # not a terminal, or not Unix
        return nullcontext()
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        import os

        for key in os.read(fd, 64).decode("latin-1"):
            if key in "qQ\x03":
                stop.set()
            elif key in "n\tj":
                view.step(1)
            elif key in "pk":
                view.step(-1)
            elif key in "123456789":
                view.choose(int(key) - 1)

    class Keys:
        def __enter__(self) -> None:
            tty.setcbreak(fd)
            loop.add_reader(fd, pressed)

        def __exit__(self, *_: object) -> None:
            loop.remove_reader(fd)
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    return Keys()
