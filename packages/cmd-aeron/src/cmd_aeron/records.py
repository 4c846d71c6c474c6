"""What drivers, clients and subscriptions tell about themselves."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Counter", "DriverStatus", "Image", "ImageEvent"]


class DriverStatus(NamedTuple):
    """A media driver as its directory shows it."""

    running: bool
    """It lives and answers."""
    pid: int
    """Its process, 0 where the directory has no driver's files."""
    heartbeat_age: int
    """ns since its last sign of life (it gives one a second), -1 where there was none."""
    version: str
    """Aeron's version, empty where the driver does not tell."""
    directory: str


class Counter(NamedTuple):
    """A counter of the driver."""

    id: int
    type_id: int
    label: str
    value: int


class Image(NamedTuple):
    """A publisher as a subscription sees it."""

    session_id: int
    source: str
    """HOST:PORT it sends from, or "aeron:ipc"."""
    position: int
    """Bytes consumed of its stream, headers included; -1 once it is closed."""
    closed: bool
    end_of_stream: bool
    """It has ended and all of it was polled."""


class ImageEvent(NamedTuple):
    """A publisher that came (``available``) or went."""

    available: bool
    session_id: int
    source: str
    position: int
