"""Rows that QuestDB cannot hold or refuses: kept in a file with the reason, counted and told of.

One line of JSON a row: when it was put there, the table, the column and reason, and the row by column names.
The file ``quarantine.jsonl`` is read with any tool; nothing in it is ever sent again by itself. It is bounded:
beyond ``limit`` bytes rows are counted and told of, and their content is gone.
"""

from __future__ import annotations

import base64
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from cmd_common.seams import Clock, SystemClock

__all__ = ["Quarantine", "Quarantined"]

_LOG: Final = logging.getLogger("cmd_questdb")
FILE: Final = "quarantine.jsonl"
_TOLD: Final = 20  # rows that are told of one by one; of the rest, every 1000th


class Quarantined(msgspec.Struct, frozen=True):
    """One line of the file."""

    time: int
    table: str
    column: str
    reason: str
    row: dict[str, Any]


class Quarantine:
    """The file of one writer's bad rows. Several processes may append to one file: a line is one write."""

    def __init__(self, folder: Path, *, limit: int = 64 << 20, clock: Clock | None = None) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.count = 0
        self.dropped = 0  # of these, rows whose content was not kept
        self.last = ""  # what was told last
        self._limit = limit
        self._clock = clock if clock is not None else SystemClock()
        self._unsynced = False

    def put(self, table: str, column: str, reason: str, row: Mapping[str, Any]) -> None:
        """Keep one row; never raises for a full disk: the row is told of all the same."""
        self.count += 1
        where = f"{table}.{column}" if column else table
        line = Quarantined(self._clock.now(), table, column, reason, {k: _plain(v) for k, v in row.items()})
        kept = f"it is in {self.path}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            data = msgspec.json.encode(line) + b"\n"
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                if os.fstat(fd).st_size + len(data) > self._limit:
                    self.dropped += 1
                    kept = f"{self.path} is full and does not hold it"
                else:
                    os.write(fd, data)
                    self._unsynced = True
            finally:
                os.close(fd)
        except OSError as error:
            self.dropped += 1
            kept = f"it could not be kept: {error.strerror}"
        name = " ".join(str(row[c]) for c in ("venue", "symbol", "trade_id", "seq") if c in row)
        self.last = f"a row of {where} ({name}) was not stored: {reason}; {kept}"
        if self.count <= _TOLD or self.count % 1000 == 0:
            _LOG.warning("%s (%d so far)", self.last, self.count)

    def sync(self) -> None:
        """Make the file durable; never raises."""
        if not self._unsynced:
            return
        self._unsynced = False
        try:
            fd = os.open(self.path, os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _LOG.warning("the quarantine %s is not durable: %s", self.path, error.strerror)

    def rows(self) -> list[Quarantined]:
        """All rows of the file."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [msgspec.json.decode(line, type=Quarantined) for line in lines if line]


def _plain(value: Any) -> Any:
    """A value as JSON holds it without loss: numbers that JSON does not know as text, bytes as base64."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value
