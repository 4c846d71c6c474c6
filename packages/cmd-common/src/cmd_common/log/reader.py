"""Reading logs: rotated files, the current one, and what is still in the ring; damage is skipped and said.

A frame is used only if its checksum is right; behind damage the next magic word with a right checksum is looked for.
Positions show what is missing between two frames, and what the ring holds beyond the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from cmd_common.errors import CmdError, DataError, UsageError

from .files import Session, numbered
from .layout import (
    END,
    EVENTS,
    FRAME_MAGIC,
    LIVE,
    MAX_FRAME,
    PAGE,
    RECORDS,
    RING_MAGIC,
    SKIP,
    START,
    SYMBOLS,
    VERSION,
    VOID,
    Frame,
    RingState,
    Start,
    build,
    check,
    frame_of,
    load_events,
    unpack_state,
)  # fmt: skip
from .render import Record, Table, lines, records
from .stamps import Calibration, Line, line

__all__ = ["Batch", "Decoder", "FrameSplitter", "Lost", "Reader", "leftover", "read"]

_CHUNK: Final = 1 << 20
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
    """Frames that were drained together: their records are one run in time."""

    session: Session
    frames: list[Frame]
    line: Line
    raw: bool = False  # memory of a ring: each record has its own checksum, or none

    def records(self) -> list[Record | int]:
        """Records in the order of time; a number is an event that is not known, -1 a wrong checksum."""
        found = [r for f in self.frames for r in records(f, self.line, self.session.table, verify=self.raw)]
        if len(self.frames) > 1:
            found.sort(key=lambda r: r.ts if isinstance(r, Record) else 0)
        return found

    def lines(self, form: str) -> tuple[bytes, int]:
        """All as lines of text or JSON, and how many could not be shown."""
        return lines(form, self.frames, self.line, self.session.table)


class FrameSplitter:
    """Bytes of a file, in pieces of any size, to frames with a right checksum."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lost: list[Lost] = []
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
                if size > len(data) - at and not last and data.startswith(FRAME_MAGIC[: len(data) - at], at):
                    return  # may become one
                found = data.find(FRAME_MAGIC, at + 1)
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


class _State:
    """What is known of a session while it is read."""

    def __init__(self, number: int) -> None:
        self.session = Session(number, Start(VERSION, "", 0, 0, [], []), Table())
        self.known = False  # its START was read
        self.ended = False
        self.next: dict[int, int] = {}  # position that comes next, by ring
        self.before: Calibration | None = None
        self.at: Calibration | None = None

    def line(self, calibration: Calibration) -> Line:
        if calibration != self.at:
            self.before, self.at = self.at, calibration
        return line(self.before or calibration, calibration, self.session.start.rate or 1 << 48)


class Decoder:
    """Frames to batches: declarations, positions, time."""

    def __init__(self) -> None:
        self.lost: list[Lost] = []
        self.sessions: dict[int, _State] = {}
        self._group: list[Frame] = []
        self._where = ""

    def take(self, frame: Frame, where: str) -> Iterator[Batch]:
        """Take the next frame; yields a batch when one is complete."""
        state = self.sessions.get(frame.session)
        if state is None:
            state = self.sessions[frame.session] = _State(frame.session)
        if self._group and (
            frame.kind != RECORDS
            or frame.session != self._group[0].session
            or frame.calibration != self._group[0].calibration
        ):
            yield from self.flush()
        self._where = where
        if frame.kind == RECORDS:
            if (fresh := self._fresh(state, frame, where)) is not None:
                self._group.append(fresh)
            return
        try:
            self._declare(state, frame, where)
        except (msgspec.MsgspecError, CmdError) as error:
            self.lost.append(Lost(where, f"declarations cannot be read: {error}"))

    def flush(self) -> Iterator[Batch]:
        """Yield what was held back for frames of the same batch."""
        if self._group:
            group, self._group = self._group, []
            state = self.sessions[group[0].session]
            yield Batch(state.session, group, state.line(group[0].calibration))

    def learn(self, frames: Sequence[Frame]) -> None:
        """Take declarations only: those of a ring, for files whose own are damaged."""
        for frame in frames:
            state = self.sessions.setdefault(frame.session, _State(frame.session))
            if frame.kind in (EVENTS, SYMBOLS):
                try:
                    self._declare(state, frame, "ring")
                except (msgspec.MsgspecError, CmdError):
                    continue

    def _declare(self, state: _State, frame: Frame, where: str) -> None:
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

    def _missing(self, state: _State, ring: int, position: int, where: str) -> None:
        due = state.next.get(ring, position)
        if position > due:
            self.lost.append(Lost(where, "missing", records=position - due))
        state.next[ring] = max(due, position)

    def _fresh(self, state: _State, frame: Frame, where: str) -> Frame | None:
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


class RingContent(NamedTuple):
    """A ring file as it was found."""

    session: int
    frames: list[Frame]  # declarations
    state: RingState | None
    memory: bytes  # header page and rings
    live: tuple[int, ...]


def read_ring(path: str, lost: list[Lost]) -> RingContent | None:
    """Read a ring file; None where there is none or it cannot be understood."""
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return None
    if data[: len(RING_MAGIC)] != RING_MAGIC or len(data) < PAGE:
        lost.append(Lost(path, "is no ring or its header is damaged", bytes=len(data)))
        return None
    session = int.from_bytes(data[12:16], "little")
    end = int.from_bytes(data[16:24], "little")
    if not PAGE <= end <= len(data):
        lost.append(Lost(path, "header is damaged"))
        end = max(PAGE, data.find(FRAME_MAGIC, PAGE))
    splitter = FrameSplitter(path)
    frames = [f for f in (*splitter.feed(data[end:]), *splitter.end()) if f.session == session and f.kind != RECORDS]
    lost += splitter.lost
    live = tuple(int.from_bytes(data[LIVE + 8 * n : LIVE + 8 * n + 8], "little") for n in range(8))
    return RingContent(session, frames, unpack_state(data[:PAGE]), data[:end], live)


def ring_batch(content: RingContent, state: _State, path: str, lost: list[Lost]) -> Batch | None:
    """What a ring holds beyond the positions of a session."""
    start = state.session.start
    if content.state is None or not state.known:
        lost.append(Lost(path, "header of the ring is damaged: what it held is not known"))
        return None
    frames: list[Frame] = []
    last = content.state.last
    along = line(content.state.first, last, start.rate)
    for ring, (slot, count, offset) in enumerate(start.rings[:4]):
        known = content.state.rings[ring]
        if slot < 16 or count < 1 or offset < PAGE or offset + slot * count > len(content.memory):
            lost.append(Lost(path, f"ring {ring} is not where the header says"))
            continue
        position = max(known.tail, state.next.get(ring, 0))
        if position > known.tail and position > known.cleared + count:
            continue
        found = bytearray()
        at = position
        while at < known.cleared + count:
            place = offset + at % count * slot
            if not any(content.memory[place + slot - 4 : place + slot]):
                break
            found += content.memory[place : place + slot]
            at += 1
        if found:
            state.next[ring] = at
            frames.append(Frame(RECORDS, ring, slot, content.session, position, last, bytes(found)))
        behind = sum(
            any(content.memory[offset + n % count * slot + slot - 4 : offset + n % count * slot + slot])
            for n in range(at + 1, known.cleared + count)
        )
        if at < known.cleared + count and behind:
            lost.append(Lost(path, "a record was not complete; what is behind it was not read", records=behind))
        for what, now, told in (
            ("dropped: the ring was full", content.live[2 * ring], known.dropped),
            ("overwritten: the ring was full", content.live[2 * ring + 1], known.overwritten),
        ):
            if 0 < now - told < 1 << 48:
                lost.append(Lost(path, what, records=now - told))
    return Batch(state.session, frames, along, raw=True) if frames else None


class Reader:
    """All that a log holds: rotated files, the current file, the ring.

    ``lost`` fills while it is read. A log that is being written can be read; it ends where it is at that moment.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._decoder = Decoder()
        files = [p for _, p in numbered(self.path)]
        if os.path.isfile(self.path):
            files.append(self.path)
        if not files and not os.path.isfile(f"{self.path}.ring"):
            raise UsageError(f"there is no log at {self.path}")
        self.files = files

    @property
    def lost(self) -> list[Lost]:
        """What could not be read until now."""
        return self._decoder.lost

    @property
    def sessions(self) -> list[Session]:
        """The runs that wrote it."""
        return [s.session for s in self._decoder.sessions.values()]

    @property
    def open_ends(self) -> int:
        """Runs that were not closed: they were killed, or are running."""
        return sum(not s.ended for s in self._decoder.sessions.values())

    def batches(self) -> Iterator[Batch]:
        """Yield everything in order."""
        ring_path = f"{self.path}.ring"
        if content := read_ring(ring_path, []):
            self._decoder.learn(content.frames)
        for path in self.files:
            yield from self._file(path)
        yield from self.ring()

    def ring(self) -> Iterator[Batch]:
        """Yield what is in the ring beyond what was read from files."""
        path = f"{self.path}.ring"
        content = read_ring(path, self.lost)
        if content is None:
            return
        known = content.session in self._decoder.sessions and self._decoder.sessions[content.session].known
        for frame in content.frames:
            if not (known and frame.kind == START):
                yield from self._decoder.take(frame, path)
        state = self._decoder.sessions.get(content.session)
        if state is None:
            self.lost.append(Lost(path, "declarations are damaged: what it held is not known"))
            return
        batch = ring_batch(content, state, path, self.lost)
        if batch is not None:
            yield batch

    def records(self) -> Iterator[Record]:
        """Yield every record that can be read; the others are counted in ``lost``."""
        for batch in self.batches():
            yield from self.known(batch)

    def known(self, batch: Batch) -> Iterator[Record]:
        """Yield the records of a batch that can be shown, and count the others."""
        unknown = damaged = 0
        for record in batch.records():
            if isinstance(record, Record):
                yield record
            elif record < 0:
                damaged += 1
            else:
                unknown += 1
        where = f"{self.path}.ring" if batch.raw else self.path
        if damaged:
            self.lost.append(Lost(where, "wrong checksum", records=damaged))
        if unknown:
            self.lost.append(Lost(where, "event is not declared", records=unknown))

    def _file(self, path: str) -> Iterator[Batch]:
        splitter = FrameSplitter(path)
        try:
            f = open(path, "rb")  # noqa: SIM115  # closed below
        except FileNotFoundError:  # rotated away since the folder was listed
            self.lost.append(Lost(path, "was removed while it was read"))
            return
        with f:
            first = f.read(_CHUNK)
            if first and FRAME_MAGIC not in first and len(first) < MAX_FRAME and not _binary(first):
                raise UsageError(f"{path} is no binary log", hint="logs of format text and json are read as they are")
            data = first
            while data:
                for frame in splitter.feed(data):
                    yield from self._decoder.take(frame, path)
                data = f.read(_CHUNK)
        for frame in splitter.end():
            yield from self._decoder.take(frame, path)
        yield from self._decoder.flush()
        self.lost.extend(splitter.lost)


def _binary(data: bytes) -> bool:
    """Whether a file without any frame may be a damaged binary log, and no text."""
    return any(b < 9 for b in data)


def read(path: str | os.PathLike[str]) -> Reader:
    """Open a log for reading; raises UsageError where there is none."""
    return Reader(path)


def leftover(ring_path: str, log_path: str) -> Iterator[tuple[Session, list[tuple[bytes, Frame]], Line]]:
    """What a killed process left in its ring and did not write to the log (empty: its own positions count)."""
    decoder = Decoder()
    content = read_ring(ring_path, decoder.lost)
    if content is None:
        return
    splitter = FrameSplitter(log_path)
    if log_path and os.path.isfile(log_path):
        with open(log_path, "rb") as f:
            while data := f.read(_CHUNK):
                for frame in splitter.feed(data):
                    if frame.session == content.session:
                        list(decoder.take(frame, log_path))
    for frame in content.frames:
        known = content.session in decoder.sessions and decoder.sessions[content.session].known
        if not (known and frame.kind == START):
            list(decoder.take(frame, ring_path))
    list(decoder.flush())
    state = decoder.sessions.get(content.session)
    if state is None or (batch := ring_batch(content, state, ring_path, decoder.lost)) is None:
        return
    frames = []
    for frame in batch.frames:
        for part in _parts(_verified(frame)):
            head = build(
                RECORDS,
                part.payload,
                part.session,
                part.calibration,
                ring=part.ring,
                slot=part.slot,
                position=part.position,
            )
            frames.append((head, part))
    positions = [state.next.get(n, 0) for n in range(len(state.session.start.rings))]
    for _, frame in reversed(frames):
        positions[frame.ring] = frame.position
    state.session.start = msgspec.structs.replace(state.session.start, positions=positions)
    yield state.session, frames, batch.line


def _parts(frame: Frame) -> Iterator[Frame]:
    step = MAX_FRAME // frame.slot
    for n in range(0, len(frame.payload) // frame.slot, step):
        data = frame.payload[n * frame.slot : (n + step) * frame.slot]
        yield frame._replace(position=frame.position + n, payload=data)


def _verified(frame: Frame) -> Frame:
    """The frame with every record void whose own checksum is wrong: the frame's will vouch for what is written."""
    data = bytearray(frame.payload)
    for end in range(frame.slot, len(data) + 1, frame.slot):
        found = int.from_bytes(data[end - 8 : end - 4], "little")
        if found and check(bytes(data[end - frame.slot : end])) != found:
            data[end - 4 : end] = VOID.to_bytes(4, "little")
    return frame._replace(payload=bytes(data))
