"""What a ring holds beyond the files: of a process that was killed, or that is running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from .decode import Batch, Decoder, FrameSplitter, Lost, SessionState
from .files import Session, numbered
from .layout import (
    FRAME_MAGIC,
    LIVE,
    MAX_FRAME,
    PAGE,
    RECORDS,
    RING_MAGIC,
    VOID,
    Frame,
    RingState,
    build,
    check,
    unpack_state,
)  # fmt: skip
from .stamps import Line, line

__all__ = ["RingContent", "leftover", "read_ring", "ring_batch"]


class RingContent(NamedTuple):
    """A ring file as it was found."""

    session: int
    frames: list[Frame]  # declarations
    state: RingState | None
    memory: bytes  # header page and rings
    live: tuple[int, ...]


def read_ring(path: str, lost: list[Lost]) -> RingContent | None:
    """Read a ring file; None where there is none or it cannot be understood.

    Its writer may be at work: slots that were emptied while they were read are read again.
    """
    for _ in range(5):
        try:
            with open(path, "rb") as f:
                data = f.read()
                f.seek(0)
                after = unpack_state(f.read(PAGE))
        except FileNotFoundError:
            return None
        if after == unpack_state(data[:PAGE]):
            break
    else:
        return None  # it drains faster than we read: everything is, or is about to be, in the file
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


def ring_batch(content: RingContent, state: SessionState, path: str, lost: list[Lost]) -> Batch | None:
    """What a ring holds beyond the positions of a session."""
    start = state.session.start
    if content.state is None or not state.known:
        lost.append(Lost(path, "header of the ring is damaged: what it held is not known"))
        return None
    frames: list[Frame] = []
    last = content.state.last
    along = Line(last.raw, last.utc, line(content.state.first, last, start.rate).rate)  # goes on where the file ends
    for ring, (slot, count, offset) in enumerate(start.rings[:4]):
        known = content.state.rings[ring]
        if slot < 16 or count < 1 or offset < PAGE or offset + slot * count > len(content.memory):
            lost.append(Lost(path, f"ring {ring} is not where the header says"))
            continue
        position = max(known.tail, state.next.get(ring, 0))  # a follower may have read further
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
    return Batch(state.session, [], along, frames, along) if frames else None


def leftover(path: str) -> tuple[Session, list[tuple[bytes, Frame]], Line] | None:
    """What a killed process left in the ring of the log at ``path``, to be written into it.

    A batch that it had begun to write is cut off the file: the ring has all of it.
    """
    decoder = Decoder()
    content = read_ring(f"{path}.ring", decoder.lost)
    if content is None:
        return None
    for frame in content.frames:
        list(decoder.take(frame, path))
    state = decoder.sessions.get(content.session)
    if state is None or content.state is None or not state.known:
        return None
    _cut(path, content.state)
    batch = ring_batch(content, state, path, decoder.lost)
    if batch is None:
        return None
    frames = []
    for frame in batch.raw:
        for part in _parts(_verified(frame)):
            ring, slot, position = part.ring, part.slot, part.position
            head = build(RECORDS, part.payload, part.session, part.calibration, ring=ring, slot=slot, position=position)
            frames.append((head, part))
    positions = [known.tail for known in content.state.rings[: len(state.session.start.rings)]]
    state.session.start = msgspec.structs.replace(state.session.start, positions=positions)
    return state.session, frames, batch.raw_line


def _cut(path: str, state: RingState) -> None:
    """Take off what was written after the last state."""
    old = numbered(path)
    rotated = (old[-1][0] if old else 0) - state.files
    if rotated in (0, 1) and os.path.isfile(path):
        size = 0 if rotated else state.size
        if os.path.getsize(path) > size:
            os.truncate(path, size)


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
