"""The bytes of log files: frames, slots, the header of a ring. ``docs/log.md`` describes them for other programs.

Everything is little-endian. A frame is a header of 48 bytes and a payload; its CRC-32 covers both.
A slot is a record of a fixed size: stamp, arguments, checksum or 0, number of the event, which is written last.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from cmd_common.errors import DataError, UsageError

from .events import Event, parse
from .stamps import Calibration

__all__ = [
    "DROPPED", "END", "EVENTS", "FRAME_MAGIC", "LIVE", "MAX_FRAME", "OVERWRITTEN", "PAGE", "RECORDS", "RINGS", "RING_MAGIC", "SKIP",
    "START", "STATE_AT", "SYMBOLS", "VERSION", "VOID", "Frame", "Positions", "RingState", "Start", "build", "check",
    "events_payload", "frame_of", "load_events", "pack_state", "unpack_state",
]  # fmt: skip

VERSION: Final = 1
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
FRAME_MAGIC: Final = b"\xc5LG\x01"
RING_MAGIC: Final = b"CMDRING\x01"
MAX_FRAME: Final = 1 << 20  # bytes of a payload
PAGE: Final = 4096  # of a ring file, before its slots
RINGS: Final = 4  # at most in a file; frames of ring 255 are the logger's own
HEADER: Final = Struct("<4sBBHIIQQqII")  # magic kind ring slot length session position raw utc error crc

START, EVENTS, SYMBOLS, RECORDS, END, SKIP = 1, 2, 3, 4, 5, 6  # kinds of frames; SKIP: what was overwritten ends here

VOID: Final = 0xFFFF_FFFF  # number of a record that was begun and given up
DROPPED: Final = 1  # built-in events
OVERWRITTEN: Final = 2

STATE_AT: Final = (256, 512)  # two copies, written in turn: one is whole whenever a process is killed
LIVE: Final = 1024  # a count of dropped and one of overwritten records a ring, as they happen
_STATE: Final = Struct("<QQQQqQQqQ" + "QQQQ" * RINGS + "I")


class Frame(NamedTuple):
    """A frame whose checksum is right."""

    kind: int
    ring: int
    slot: int  # bytes of a record
    session: int
    position: int  # of its first record in its ring since the start of the session
    calibration: Calibration
    payload: bytes


class Start(msgspec.Struct, frozen=True):
    """Payload of a START frame: what is true for a whole session."""

    version: int
    clock: str  # tsc or monotonic
    rate: int  # ns a tick, times 2**48
    pid: int
    rings: list[tuple[int, int, int]]  # slot size, slots, offset in the ring file
    positions: list[int]  # of the rings, where this file begins
    program: str = ""


class Positions(NamedTuple):
    """How far a ring is drained, and what was lost on the way as far as a record says so."""

    tail: int  # drained up to here
    cleared: int  # slots are empty again up to here
    dropped: int
    overwritten: int


class RingState(NamedTuple):
    """The changing part of a ring file's header."""

    number: int  # grows with each
    size: int  # of the log's current file; what is behind it is of a batch that was not completed
    files: int  # the newest number of a rotated file
    first: Calibration
    last: Calibration
    rings: tuple[Positions, ...]


def build(
    kind: int,
    payload: bytes | memoryview,
    session: int,
    calibration: Calibration,
    *,
    ring: int = 255,
    slot: int = 0,
    position: int = 0,
) -> bytes:
    """Header of a frame, to be followed by its payload."""
    raw, utc, error = calibration
    values = (FRAME_MAGIC, kind, ring, slot, len(payload), session, position, raw, utc, min(error, 0xFFFF_FFFF))
    head = HEADER.pack(*values, 0)
    return HEADER.pack(*values, crc32(payload, crc32(head[:-4])))


def frame_of(data: bytes | bytearray | memoryview, at: int) -> tuple[Frame | None, int]:
    """Return the frame at ``at`` and its size.

    Without a frame the size is what must be there to know more, or 0: this is none.
    """
    if len(data) - at < HEADER.size:
        return None, HEADER.size
    magic, kind, ring, slot, length, session, position, raw, utc, error, crc = HEADER.unpack_from(data, at)
    if magic != FRAME_MAGIC or length > MAX_FRAME or not START <= kind <= SKIP:
        return None, 0
    size = HEADER.size + length
    if len(data) - at < size:
        return None, size
    view = memoryview(data)[at : at + size]
    if crc32(view[HEADER.size :], crc32(view[: HEADER.size - 4])) != crc:
        return None, 0
    if kind == RECORDS and (slot < 16 or length % slot):
        return None, 0
    return Frame(kind, ring, slot, session, position, Calibration(raw, utc, error), bytes(view[HEADER.size :])), size


def check(slot: bytes | memoryview) -> int:
    """Checksum of a whole slot, as native writers put it before the number: never 0.

    Every word is multiplied by an odd number of its own, so that a change in one of them always changes the sum of 64
    bits; 32 bits of it are kept.
    """
    total = int.from_bytes(slot[-4:], "little")
    words = unpack_from(f"<{len(slot) // 8 - 1}Q", slot)
    for factor, word in enumerate(words):
        total += word * (2 * factor + 1) * _GOLDEN
    total &= _MASK
    return (((total ^ total >> 32) * _GOLDEN & _MASK) >> 32) or 1


def pack_state(state: RingState) -> bytes:
    """Bytes of a state with its checksum."""
    flat: list[int] = []
    for n in range(RINGS):
        flat += state.rings[n] if n < len(state.rings) else (0, 0, 0, 0)
    data = _STATE.pack(state.number, state.size, state.files, *state.first, *state.last, *flat, 0)
    return data[:-4] + crc32(data[:-4]).to_bytes(4, "little")


def unpack_state(page: bytes | memoryview) -> RingState | None:
    """The newer of the two copies that are whole; None where neither is."""
    best: RingState | None = None
    for at in STATE_AT:
        data = bytes(page[at : at + _STATE.size])
        if len(data) < _STATE.size or crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            continue
        number, size, files, *rest = _STATE.unpack(data)
        rings = tuple(Positions(*rest[n : n + 4]) for n in range(6, 6 + 4 * RINGS, 4))
        state = RingState(number, size, files, Calibration(*rest[0:3]), Calibration(*rest[3:6]), rings)
        if best is None or state.number > best.number:
            best = state
    return best


def events_payload(events: list[Event]) -> bytes:
    """Payload of an EVENTS frame."""
    return msgspec.json.encode([(e.id, e.name, e.format, e.level) for e in events])


def load_events(payload: bytes) -> list[Event]:
    """Events of an EVENTS frame; raises DataError for a payload that another program wrote wrongly."""
    try:
        found = msgspec.json.decode(payload, type=list[tuple[int, str, str, int]])
        return [parse(*row) for row in found]
    except (msgspec.MsgspecError, UsageError, UnicodeDecodeError) as error:
        raise DataError(f"declarations of events cannot be read: {error}") from error
