"""Both ways between this log and the standard library's ``logging``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from .decode import Batch
from .events import LEVELS
from .files import Session
from .layout import Frame
from .logger import Logger
from .render import Record
from .stamps import Line

__all__ = ["Handler", "to_logging"]

_OURS: Final = "logging."  # events that came from there


class Handler(logging.Handler):
    """A handler of ``logging`` that writes into the log: what libraries say is then in the same file.

    The message is made on the caller's thread and may be 400 bytes long, with a traceback; what is longer is cut. Levels
    between the standard ones become the next lower one.
    """

    def __init__(self, logger: Logger, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._emit = {
            number: logger.event(f"{_OURS}{name.casefold()}", "{logger:s48}: {message:s400}", number)
            for number, name in LEVELS.items()
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; an error goes to ``handleError`` like that of every handler."""
        try:
            known = min(50, max(10, record.levelno // 10 * 10))
            self._emit[known](record.name, self.format(record))
        except Exception:
            self.handleError(record)


class to_logging:
    """A consumer for ``Logger.open``: hands what was drained to a logger of ``logging``.

    Records that came from there by ``Handler`` are left out. The record's time is the one at which it was logged.
    """

    def __init__(self, logger: logging.Logger | str = "cmd") -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger

    def __call__(self, session: Session, frames: Sequence[Frame], line: Line) -> None:
        """Hand over a batch."""
        for record in Batch(session, list(frames), line).records():
            if isinstance(record, Record) and not record.event.name.startswith(_OURS):
                self._hand(record)

    def _hand(self, record: Record) -> None:
        level = record.event.level
        if not self._logger.isEnabledFor(level):
            return
        made = self._logger.makeRecord(self._logger.name, level, "", 0, record.message, (), None, record.event.name)
        made.created = record.ts / 1e9
        made.msecs = record.ts // 1_000_000 % 1000
        made.event = record.event.name
        made.fields = record.fields
        self._logger.handle(made)
