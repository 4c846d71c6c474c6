"""Aeron for Python: the C client and the C media driver in one extension module, typed and safe to use wrongly.

``MediaDriver`` (or ``python -m cmd_aeron.driver``) moves the messages, a ``Client`` connects to it by its directory,
publications offer bytes and subscriptions poll them. See ``docs/aeron.md``.
"""

from __future__ import annotations

import atexit
from typing import Final

from ._native import (
    Claim,
    Client,
    ExclusivePublication,
    MediaDriver,
    Publication,
    Subscription,
    default_directory,
    driver_status,
    shutdown,
    version,
)
from .errors import (
    AeronError,
    AeronTimeoutError,
    ClientClosedError,
    DirectoryInUseError,
    DriverMissingError,
    DriverTimeoutError,
    EndpointClosingError,
    PublicationClosedError,
    RegistrationError,
    StorageError,
    SubscriptionClosedError,
    VersionMismatchError,
)
from .records import Counter, DriverStatus, Image, ImageEvent

__version__ = "0.1.0"

NOT_CONNECTED: Final = -1
"""No subscriber: the message is gone."""
BACK_PRESSURED: Final = -2
"""Subscribers are behind by the window: offer again later."""
ADMIN_ACTION: Final = -3
"""The log is changing its term: offer again at once."""
CLOSED: Final = -4
"""The publication or its client is closed."""
MAX_POSITION: Final = -5
"""The stream is at its end (term length x 2^31): a new publication is needed."""
ERROR: Final = -6
"""Something else; ``Client.take_errors`` tells what."""
IDLE: Final = ("low-cpu", "balanced", "spin")
"""What a waiting poll does: parks up to 1 ms; spins a little, then parks up to 50 us; never leaves the CPU."""

__all__ = [
    "ADMIN_ACTION",
    "BACK_PRESSURED",
    "CLOSED",
    "ERROR",
    "IDLE",
    "MAX_POSITION",
    "NOT_CONNECTED",
    "AeronError",
    "AeronTimeoutError",
    "Claim",
    "Client",
    "ClientClosedError",
    "Counter",
    "DirectoryInUseError",
    "DriverMissingError",
    "DriverStatus",
    "DriverTimeoutError",
    "EndpointClosingError",
    "ExclusivePublication",
    "Image",
    "ImageEvent",
    "MediaDriver",
    "Publication",
    "PublicationClosedError",
    "RegistrationError",
    "StorageError",
    "Subscription",
    "SubscriptionClosedError",
    "VersionMismatchError",
    "default_directory",
    "driver_status",
    "version",
]

# Threads of the library must not outlive the interpreter, and a thread that waits in a poll must get to its end.
atexit.register(shutdown)
