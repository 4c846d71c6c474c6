"""Telling systemd how a process is: ready, alive, stopping. Nothing happens where no service manager asked for it.

The protocol is that of sd_notify(3): datagrams to the Unix socket that NOTIFY_SOCKET names. The sign of life comes out of
the event loop, so that a process whose loop stands still is restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Final

__all__ = ["ServiceManager"]

_SHARE: Final = 3  # signs of life within the time that the manager waits


class ServiceManager:
    """The service manager that started this process, where it is one.

    ``environ`` has NOTIFY_SOCKET and, for signs of life, WATCHDOG_USEC (and WATCHDOG_PID, which must be ours). What cannot be
    sent is left out: a manager that does not listen must not stop a recording.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.interval = _interval(environ) if self._address else 0.0

    @property
    def there(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    def send(self, *lines: str) -> bool:
        """Send assignments such as ``STATUS=...``; returns whether they went out."""
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    def ready(self, status: str = "") -> None:
        """The process does its work from now on."""
        self.send("READY=1", *([f"STATUS={_line(status)}"] if status else []))

    def stopping(self) -> None:
        """The process is ending by itself or as it was told."""
        self.send("STOPPING=1")

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Give signs of life from the running event loop until the block ends, and say then that it is stopping."""
        task = asyncio.create_task(self._signs()) if self.interval else None
        try:
            yield
        finally:
            self.stopping()
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _signs(self) -> None:
        while True:
            self.send("WATCHDOG=1")
            await asyncio.sleep(self.interval)


def _interval(environ: Mapping[str, str]) -> float:
    """Seconds between signs of life; 0: none are asked for."""
    text, of = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (of and of != str(os.getpid())):
        return 0.0
    return int(text) / 1e6 / _SHARE


def _line(text: str) -> str:
    return " ".join(text.split())
