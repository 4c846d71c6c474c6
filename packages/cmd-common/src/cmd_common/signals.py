"""SIGINT, SIGTERM and SIGHUP for commands that have something to finish before they end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from .commands import Reporter

__all__ = ["done_before", "finish_on_signals"]

_CAUGHT = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextlib.contextmanager
def finish_on_signals(stop: Callable[[], None], reporter: Reporter) -> Iterator[None]:
    """Inside a running event loop: the first signal calls ``stop``, the third ends the process.

    The second one only warns: a terminal sends Ctrl-C to the whole group of processes, and many a
    wrapper passes it on as well. Outside the main thread nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    installed: list[signal.Signals] = []
    received = 0

    def on_signal(number: signal.Signals) -> None:
        nonlocal received
        received += 1
        if received == 1:
            stop()  # first of all: after SIGHUP there may be nobody left to tell
            reporter.info(f"{number.name}: finishing; what was read is being stored")
        elif received == 2:
            restore()
            reporter.warn(f"{number.name} again: still finishing; the next one ends it at once")

    def restore() -> None:
        while installed:
            loop.remove_signal_handler(installed.pop())

    for number in _CAUGHT:
        if signal.getsignal(number) is signal.SIG_IGN and number.name == "SIGHUP":
            continue  # nohup wants it to be ignored
        try:
            loop.add_signal_handler(number, on_signal, number)
            installed.append(number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(on_signal, signal.Signals(n)))
    try:
        yield
    finally:
        restore()


async def done_before(stop: asyncio.Event, work: Awaitable[Any]) -> bool:
    """Await ``work`` until ``stop`` is set; True if the work was done first, and its exception is raised."""
    task = asyncio.ensure_future(work)
    wait = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, wait), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for t in (task, wait):
            t.cancel()
        await asyncio.gather(task, wait, return_exceptions=True)
