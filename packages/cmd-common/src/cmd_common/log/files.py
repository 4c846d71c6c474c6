"""Where the drain writes: binary frames, lines of text or of JSON, in files that rotate.

The current file has the name that was given; when it is rotated it gets the next number, ``app.log.000001``, and the
oldest beyond ``keep`` are removed. Numbers only grow, so that a reader that follows always knows which file is next.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from cmd_common.errors import UsageError

from .events import Event
from .layout import END, EVENTS, FRAME_MAGIC, RECORDS, START, SYMBOLS, Frame, Start, build, events_payload
from .render import Table, lines, names
from .stamps import Calibration, Line

__all__ = ["FORMATS", "BinaryFile", "LineFile", "Rotation", "Session", "Sink", "numbered", "open_sink"]

FORMATS: Final = ("binary", "text", "json")


class Rotation(msgspec.Struct, frozen=True):
    """When a file is rotated, and how many old ones are kept; 0: never, all."""

    bytes: int = 64 << 20
    ns: int = 0
    keep: int = 10


class Session:
    """What a reader must know of the run that records come from."""

    def __init__(self, number: int, start: Start, table: Table) -> None:
        self.number, self.start, self.table = number, start, table

    def frames(self, calibration: Calibration) -> bytes:
        """The frames that every file begins with."""
        payload = msgspec.json.encode(self.start)
        out = [build(START, payload, self.number, calibration) + payload]
        out.append(self.events(list(self.table.events.values()), calibration))
        if self.table.symbols:
            out.append(self.symbols(self.table.symbols, calibration))
        return b"".join(out)

    def events(self, events: Sequence[Event], calibration: Calibration) -> bytes:
        """Frames with declarations."""
        return b"".join(
            build(EVENTS, part, self.number, calibration) + part
            for n in range(0, len(events), 500)
            for part in [events_payload(list(events[n : n + 500]))]
        )

    def symbols(self, symbols: dict[int, str], calibration: Calibration) -> bytes:
        """Frames with interned texts."""
        rows = list(symbols.items())
        return b"".join(
            build(SYMBOLS, part, self.number, calibration) + part
            for n in range(0, len(rows), 500)
            for part in [names(dict(rows[n : n + 500]))]
        )

    def end(self, positions: list[int], calibration: Calibration) -> bytes:
        """The frame of a session that was closed."""
        payload = msgspec.json.encode(positions)
        return build(END, payload, self.number, calibration) + payload


class Sink:
    """A file that rotates. All methods are called under the drain's lock."""

    def __init__(self, path: str, rotation: Rotation, clock: Callable[[], int] = time.time_ns) -> None:
        self.path, self.rotation = path, rotation
        self._clock = clock
        old = numbered(path)
        self.files = old[-1][0] if old else 0  # the newest number of a rotated one
        self._open()

    def start(self, session: Session, calibration: Calibration) -> None:
        """A session begins; what is written from now on is of it."""

    def declare(self, session: Session, frames: bytes) -> None:
        """Events or interned texts came; ``frames`` says which."""

    def write(self, session: Session, frames: Sequence[tuple[bytes, Frame]], line: Line) -> None:
        """Write frames with their headers. Raises OSError, and then has written nothing of them."""
        raise NotImplementedError

    def end(self, session: Session, positions: list[int], calibration: Calibration) -> None:
        """The session was closed with everything written."""

    def close(self) -> None:
        """Make durable what was written, and close."""
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)

    def head(self) -> bytes:
        """What a new file begins with."""
        return b""

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        self.size = os.fstat(self._fd).st_size
        self._began = self._clock()

    def _first(self) -> bytes:
        with open(self.path, "rb") as f:
            return f.read(len(FRAME_MAGIC))

    def _put(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def _rotate(self) -> None:
        """Begin a new file where the current one is large or old enough."""
        limit = self.rotation
        full = limit.bytes and self.size >= limit.bytes
        if not self.size or not (full or (limit.ns and self._clock() - self._began >= limit.ns)):
            return
        old = numbered(self.path)
        os.close(self._fd)  # not every system renames a file that is open
        try:
            os.rename(self.path, f"{self.path}.{self.files + 1:06d}")
            self.files += 1
        finally:
            self._open()
        for _, path in old[: max(0, len(old) + 1 - limit.keep)] if limit.keep else []:
            try:
                os.remove(path)
            except FileNotFoundError:
                pass
        if head := self.head():
            self._put(head)


class BinaryFile(Sink):
    """Frames as they are; every file says itself what its numbers mean."""

    def __init__(self, path: str, rotation: Rotation, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(path, rotation, clock)
        self._head: Callable[[], bytes] = bytes
        if self.size and self._first() != FRAME_MAGIC:
            os.close(self._fd)
            raise UsageError(f"{path} exists and is no binary log", hint="choose another path or remove it")

    def head(self) -> bytes:
        """The session's frames, with the positions that are written."""
        return self._head()

    def start(self, session: Session, calibration: Calibration) -> None:
        """Write the session's frames."""
        self._rotate()
        self._put(session.frames(calibration))
        self._at = calibration
        positions = list(session.start.positions)
        self._positions = positions
        self._head = lambda: Session(
            session.number, msgspec.structs.replace(session.start, positions=positions), session.table
        ).frames(self._at)

    def declare(self, session: Session, frames: bytes) -> None:
        """Write them."""
        self._put(frames)

    def write(self, session: Session, frames: Sequence[tuple[bytes, Frame]], line: Line) -> None:
        """Write a batch, into a new file where it is time for one."""
        self._rotate()
        self._put(b"".join([part for head, frame in frames for part in (head, frame.payload)]))
        for _, frame in frames:
            self._at = frame.calibration
            if frame.ring < len(self._positions):
                self._positions[frame.ring] = frame.position + len(frame.payload) // max(1, frame.slot)

    def end(self, session: Session, positions: list[int], calibration: Calibration) -> None:
        """Write how many records there were."""
        self._put(session.end(positions, calibration))


class LineFile(Sink):
    """Lines of text or JSON, in the order of their stamps within a batch."""

    def __init__(self, form: str, path: str, rotation: Rotation, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(path, rotation, clock)
        self._form = form
        if self.size and self._first() == FRAME_MAGIC:
            os.close(self._fd)
            raise UsageError(f"{path} exists and is a binary log", hint="choose another path or remove it")

    def write(self, session: Session, frames: Sequence[tuple[bytes, Frame]], line: Line) -> None:
        """Write a batch, into a new file where it is time for one."""
        self._rotate()
        self._put(lines(self._form, [frame for _, frame in frames if frame.kind == RECORDS], line, session.table)[0])


def open_sink(form: str, path: str, rotation: Rotation) -> Sink:
    """Open the file of a format; raises UsageError, OSError."""
    if form not in FORMATS:
        raise UsageError(f"format {form!r} is not known", hint=f"formats are {', '.join(FORMATS)}")
    return BinaryFile(path, rotation) if form == "binary" else LineFile(form, path, rotation)


def numbered(path: str) -> list[tuple[int, str]]:
    """The rotated files of a log, the oldest first."""
    folder, name = os.path.split(path)
    shape = re.compile(re.escape(name) + r"\.(\d{6,})")
    found = [(int(m[1]), os.path.join(folder, m[0])) for f in os.listdir(folder or ".") if (m := shape.fullmatch(f))]
    return sorted(found)
