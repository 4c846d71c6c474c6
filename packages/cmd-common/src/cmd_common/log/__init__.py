"""A log for hot paths: a call writes its raw arguments into mapped memory, and nothing else.

    from cmd_common import log

    sent = log.event("order.sent", "sent {price:f8} {qty:f8} {id:i8} {n:i8}")
    with log.open("run/app.cmdlog"):
        sent(101.5, 0.25, 7, 3)

Events are declared once, with typed fields; a call formats and allocates nothing. A thread in the background copies
the records to a file, which ``cmd-cli log decode`` and ``read`` turn into text, JSON or objects. Killed at any moment, the
process leaves everything that it had logged. ``docs/log.md`` tells the rest.

``event``, ``open``, ``flush``, ``close``, ``intern`` and ``set_level`` are those of one ``Logger`` for the whole process;
another one can be made for a log of its own. With cmd-native the same runs in Rust.
"""

from __future__ import annotations

from typing import Final

from .bridge import Handler, to_logging
from .decode import Batch, Lost
from .events import Event, Field
from .follow import Follower
from .logger import POLICIES, Logger
from .reader import Reader, read
from .render import Record
from .rings import Emit

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "INFO",
    "POLICIES",
    "WARNING",
    "Batch",
    "Emit",
    "Event",
    "Field",
    "Follower",
    "Handler",
    "Logger",
    "Lost",
    "Reader",
    "Record",
    "close",
    "event",
    "flush",
    "intern",
    "logger",
    "open",
    "read",
    "set_level",
    "to_logging",
]

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
CRITICAL: Final = 50

logger: Final = Logger()
event = logger.event
open = logger.open
flush = logger.flush
close = logger.close
intern = logger.intern
set_level = logger.set_level
