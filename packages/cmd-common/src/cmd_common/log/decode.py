"""Bytes to frames, frames to batches of records; damage is skipped and said.

A frame is used only if its checksum is right; behind damage the next magic word with a right checksum is looked for.
Positions show what is missing between two frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from cmd_common.errors import CmdError, DataError

from .files import Session
from .layout import (
    END,
    EVENTS,
    FRAME_MAGIC,
    RECORDS,
    SKIP,
    START,
    SYMBOLS,
    VERSION,
    Frame,
    Start,
    frame_of,
    load_events,
)
from .render import Record, Table, lines, records
from .stamps import Calibration, Line, line

__all__ = ["Batch", "Decoder", "FrameSplitter", "Lost", "SessionState", "known"]

_START: Final = msgspec.json.Decoder(Start)
_SYMBOLS: Final = msgspec.json.Decoder(list[tuple[int, str]])
_POSITIONS: Final = msgspec.json.Decoder(list[int])


class Lost(NamedTuple):
    """Something that could not be read: where, why, and how much as far as that is known."""

    where: str
    what: str
    records: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        amount = f", {self.records} records" if self.records else f", {self.bytes} bytes" if self.bytes else ""
        return f"{self.where}: {self.what}{amount}"


class Batch(NamedTuple):
    """Frames that were drained together, or what a ring held: their records are one run in time."""

    session: Session
    frames: list[Frame]
    line: Line
    raw: Sequence[Frame] = ()  # memory of a ring: each record has its own checksum, or none
    raw_line: Line = Line(0, 0, 0)

    def records(self) -> list[Record | int]:
        """Records in the order of time; a number is an event that is not known, -1 a wrong checksum."""
        table = self.session.table
        found = [r for f in self.frames for r in records(f, self.line, table)]
        found += [r for f in self.raw for r in records(f, self.raw_line, table, verify=True)]
        if len(self.frames) + len(self.raw) > 1:
            found.sort(key=lambda r: r.ts if isinstance(r, Record) else 0)
        return found

    def lines(self, form: str) -> tuple[bytes, int]:
        """All of ``frames`` as lines of text or JSON, and how many could not be shown."""
        return lines(form, self.frames, self.line, self.session.table)


def known(batch: Batch, path: str, lost: list[Lost]) -> Iterator[Record]:
    """Yield the records of a batch that can be shown; the others are appended to ``lost``."""
    unknown = damaged = 0
    for record in batch.records():
        if isinstance(record, Record):
            yield record
        elif record < 0:
            damaged += 1
        else:
            unknown += 1
    where = f"{path}.ring" if batch.raw else path
    if damaged:
        lost.append(Lost(where, "wrong checksum", records=damaged))
    if unknown:
        lost.append(Lost(where, "event is not declared", records=unknown))


class FrameSplitter:
    """Bytes of a file, in pieces of any size, to frames with a right checksum."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lost: list[Lost] = []
        self.torn: Lost | None = None  # the last frame, where the file ends within it
        self._data = bytearray()
        self._skipped = 0  # bytes of damage that are not said yet

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now."""
        self._data += data
        return self._frames(last=False)

    def end(self) -> Iterator[Frame]:
        """No more comes: what looked like the beginning of a frame was damage, and frames may follow it."""
        return self._frames(last=True)

    def _frames(self, *, last: bool) -> Iterator[Frame]:
        data = self._data
        at = 0
        try:
            while at < len(data):
                frame, size = frame_of(data, at)
                if frame is not None:
                    self._say()
                    at += size
                    yield frame
                    continue
                short = size > len(data) - at and data.startswith(FRAME_MAGIC[: len(data) - at], at)
                if short and not last:
                    return  # may become one
                found = data.find(FRAME_MAGIC, at + 1)
                if short and found < 0:
                    self._say()
                    self.torn = Lost(self.where, "cut within a frame", bytes=len(data) - at)
                    at = len(data)
                    return
                if found < 0:  # the last bytes may begin a magic word
                    found = len(data) if last else max(at + 1, len(data) - len(FRAME_MAGIC) + 1)
                self._skipped += found - at
                at = found
            if last:
                self._say()
        finally:
            del data[:at]

    def _say(self) -> None:
        if self._skipped:
            self.lost.append(Lost(self.where, "damaged or cut", bytes=self._skipped))
            self._skipped = 0


class SessionState:
    """What is known of a session while it is read."""

    def __init__(self, number: int) -> None:
        self.session = Session(number, Start(VERSION, "", 0, 0, [], []), Table())
        self.known = False  # its START was read
        self.ended = False
        self.next: dict[int, int] = {}  # position that comes next, by ring
        self.before: Calibration | None = None
        self.at: Calibration | None = None

    def line(self, calibration: Calibration) -> Line:
        """The line for a batch that was drained at a calibration."""
        if calibration != self.at:
            self.before, self.at = self.at, calibration
        return line(self.before or calibration, calibration, self.session.start.rate)


class Decoder:
    """Frames to batches: declarations, positions, time."""

    def __init__(self) -> None:
        self.lost: list[Lost] = []
        self.sessions: dict[int, SessionState] = {}
        self.limits: dict[int, list[int]] = {}  # by session: positions from which on the ring is read instead
        self._group: list[Frame] = []
        self._where = ""

    def take(self, frame: Frame, where: str) -> Iterator[Batch]:
        """Take the next frame; yields a batch when one is complete."""
        state = self.sessions.get(frame.session)
        if state is None:
            state = self.sessions[frame.session] = SessionState(frame.session)
        if self._group and (
            frame.kind != RECORDS
            or frame.session != self._group[0].session
            or frame.calibration != self._group[0].calibration
        ):
            yield from self.flush()
        self._where = where
        if frame.kind == RECORDS:
            limit = self.limits.get(frame.session, [])
            if frame.ring < len(limit) and frame.position >= limit[frame.ring]:
                return
            if (fresh := self._fresh(state, frame, where)) is not None:
                self._group.append(fresh)
            return
        try:
            self._declare(state, frame, where)
        except (msgspec.MsgspecError, CmdError, UnicodeDecodeError) as error:
            self.lost.append(Lost(where, f"declarations cannot be read: {error}"))

    def flush(self) -> Iterator[Batch]:
        """Yield what was held back for frames of the same batch."""
        if self._group:
            group, self._group = self._group, []
            state = self.sessions[group[0].session]
            if not state.session.start.rate:
                count = sum(len(f.payload) // f.slot for f in group)
                self.lost.append(Lost(self._where, "the session's beginning is damaged: no times", records=count))
                return
            yield Batch(state.session, group, state.line(group[0].calibration))

    def learn(self, frames: Sequence[Frame]) -> None:
        """Take declarations only: those of a ring, for files whose own are damaged."""
        for frame in frames:
            state = self.sessions.setdefault(frame.session, SessionState(frame.session))
            try:
                if frame.kind == START:
                    state.session.start = _START.decode(frame.payload)
                elif frame.kind in (EVENTS, SYMBOLS):
                    self._declare(state, frame, "ring")
            except (msgspec.MsgspecError, CmdError, UnicodeDecodeError):
                continue

    def _declare(self, state: SessionState, frame: Frame, where: str) -> None:
        if frame.kind == START:
            start = _START.decode(frame.payload)
            if start.version != VERSION:
                raise DataError(f"version {start.version} is not known")
            state.session.start = start
            if not state.known:
                state.known = True
                for ring, position in enumerate(start.positions):
                    state.next.setdefault(ring, position)
            else:
                for ring, position in enumerate(start.positions):
                    self._missing(state, ring, position, where)
            state.line(frame.calibration)
        elif frame.kind == EVENTS:
            for event in load_events(frame.payload):
                state.session.table.add(event)
        elif frame.kind == SYMBOLS:
            for number, text in _SYMBOLS.decode(frame.payload):
                state.session.table.name(number, text)
        elif frame.kind == SKIP:
            state.next[frame.ring] = max(state.next.get(frame.ring, 0), frame.position)
        elif frame.kind == END:
            state.ended = True
            for ring, position in enumerate(_POSITIONS.decode(frame.payload)):
                self._missing(state, ring, position, where)

    def _missing(self, state: SessionState, ring: int, position: int, where: str) -> None:
        due = state.next.get(ring, position)
        if position > due:
            self.lost.append(Lost(where, "missing", records=position - due))
        state.next[ring] = max(due, position)

    def _fresh(self, state: SessionState, frame: Frame, where: str) -> Frame | None:
        """The part of a frame that was not read before."""
        count = len(frame.payload) // frame.slot
        self._missing(state, frame.ring, frame.position, where)
        due = state.next[frame.ring]
        if frame.position + count <= due:
            return frame if not count else None
        state.next[frame.ring] = frame.position + count
        if due > frame.position:
            skip = due - frame.position
            return frame._replace(position=due, payload=frame.payload[skip * frame.slot :])
        return frame
