"""The four seams to the world: clock, network, disk and randomness.

Shells take them as arguments and use nothing behind them, so that the same code runs live and,
under one seed, in a deterministic simulation. Protocol code takes none of them: time is an argument.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Protocol, runtime_checkable

from .http import HttpRequest, HttpResponse

__all__ = ["Clock", "Disk", "Net", "OsDisk", "Rng", "SystemClock", "WebSocket", "system_rng"]


class Clock(Protocol):
    """Wall and monotonic time in ns, and sleeping."""

    def now(self) -> int:
        """Wall time, ns since the epoch, UTC."""

    def monotonic(self) -> int:
        """Monotonic time in ns; only differences mean something."""

    async def sleep(self, ns: int) -> None:
        """Wait for ``ns`` nanoseconds."""


class Rng(Protocol):
    """Randomness for jitter; ``random.Random`` satisfies it."""

    def random(self) -> float:
        """A float in [0, 1)."""

    def uniform(self, a: float, b: float) -> float:
        """A float between a and b."""


class WebSocket(Protocol):
    """One open WebSocket connection; pings are answered by the implementation."""

    async def send(self, frame: str) -> None:
        """Send one text frame; raises DisconnectedError."""

    async def receive(self) -> str | bytes:
        """Return the next data frame; raises DisconnectedError with the close code in its message."""

    async def receive_all(self) -> list[str | bytes]:
        """Return the data frames that are there, at least one; raises as ``receive`` does."""

    async def close(self) -> None:
        """Close; never raises."""

    @property
    def close_code(self) -> int | None:
        """The close code once closed, else None; 1006 where none was sent."""


class Net(Protocol):
    """Outgoing connections."""

    async def connect(self, url: str, *, headers: Mapping[str, str] | None = None) -> WebSocket:
        """Open a WebSocket; raises DisconnectedError or BlockedError."""

    async def request(self, request: HttpRequest) -> HttpResponse:
        """Make a request and read the whole body; raises DisconnectedError, not for HTTP statuses."""

    def stream(self, request: HttpRequest) -> AsyncIterator[bytes]:
        """Stream a body; raises VenueError with the status when it is not 200 or 206."""

    async def close(self) -> None:
        """Close pooled connections."""


@runtime_checkable
class Disk(Protocol):
    """Files of a store. Paths are absolute or relative to the process; errors are OSError."""

    def read(self, path: str) -> bytes:
        """Return a whole file."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file with ``data``; not durable before ``sync``."""

    def append(self, path: str, data: bytes) -> None:
        """Append to a file, creating it; not durable before ``sync``."""

    def sync(self, path: str) -> None:
        """Make a file's content durable."""

    def sync_dir(self, path: str) -> None:
        """Make a directory's entries durable."""

    def rename(self, source: str, target: str) -> None:
        """Replace ``target`` by ``source`` atomically."""

    def remove(self, path: str) -> None:
        """Remove a file; a missing one is not an error."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""

    def size(self, path: str) -> int:
        """Size of a file in bytes."""

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, sorted; an absent one is empty."""

    def makedirs(self, path: str) -> None:
        """Create a directory and its parents."""

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to ``size`` bytes."""


class SystemClock:
    """The real clock."""

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> int:
        return time.monotonic_ns()

    async def sleep(self, ns: int) -> None:
        await asyncio.sleep(ns / 1e9 if ns > 0 else 0)


class OsDisk:
    """The real file system."""

    def read(self, path: str) -> bytes:
        with open(path, "rb") as f:
            return f.read()

    def write(self, path: str, data: bytes) -> None:
        with open(path, "wb") as f:
            f.write(data)

    def append(self, path: str, data: bytes) -> None:
        with open(path, "ab") as f:
            f.write(data)

    def sync(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_dir(self, path: str) -> None:
        if os.name == "nt":  # directories cannot be opened there; the rename itself is durable
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        try:
            os.remove(path)
        except FileNotFoundError:
            pass

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def size(self, path: str) -> int:
        return os.path.getsize(path)

    def listdir(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def makedirs(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)


def system_rng() -> random.Random:
    """Return a randomly seeded generator for jitter."""
    return random.Random()
