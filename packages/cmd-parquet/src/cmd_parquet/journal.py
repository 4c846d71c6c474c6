"""The journal: live rows, durable when ``commit`` returns, until they are rolled into Parquet.

A journal file is a sequence of frames: magic, length and CRC-32 (over the frame's offset, its length and
its payload), then the payload. The first frame describes the file; every other holds ``(order, table,
rows)`` in MessagePack, where row *i* was written at ``order + i``. A file beside it (``.confirmed``) notes
after each sync how much of the journal is durable, so that damage can be told from a torn tail.

What follows the last whole frame was never confirmed and is cut off. A damaged frame in the middle costs
that frame: the rows behind it are found by the magic, whose CRC covers the offset.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from cmd_common.errors import StoreError
from cmd_common.schema import SCHEMA_VERSION
from cmd_common.seams import Disk

from .columns import row_decoder

__all__ = [
    "CONFIRMED",
    "SUFFIX",
    "Journal",
    "Scan",
    "confirmed_length",
    "first_order",
    "frame",
    "frames",
    "rows_in",
    "scan",
]

SUFFIX: Final = ".journal"
CONFIRMED: Final = ".confirmed"
FORMAT: Final = 1

_MAGIC: Final = b"\xc5MDJ"
_HEAD: Final = struct.Struct("<4sII")
_PLACE: Final = struct.Struct("<QI")
_NOTE: Final = struct.Struct("<QI")
_MAX_PAYLOAD: Final = 1 << 30

_ENCODER: Final = msgspec.msgpack.Encoder()


def frame(offset: int, payload: bytes) -> bytes:
    """Frame a payload that stands at ``offset`` of its file."""
    crc = zlib.crc32(payload, zlib.crc32(_PLACE.pack(offset, len(payload))))
    return _HEAD.pack(_MAGIC, len(payload), crc) + payload


class Scan(NamedTuple):
    """What a journal's bytes hold."""

    frames: int
    end: int  # end of the last whole frame
    holes: list[tuple[int, int]]  # unreadable ranges with whole frames behind them


def _frame_at(data: bytes, offset: int, base: int) -> bytes | None:
    if len(data) - offset < _HEAD.size:
        return None
    magic, length, crc = _HEAD.unpack_from(data, offset)
    start = offset + _HEAD.size
    if magic != _MAGIC or length > _MAX_PAYLOAD or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload, zlib.crc32(_PLACE.pack(base + offset, length))) != crc:
        return None
    return payload


def frames(data: bytes, base: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield ``(offset, payload)`` of every whole frame of bytes that begin at ``base``; never raises.

    Unreadable bytes are passed over, so offsets that do not follow each other show a hole.
    """
    offset = 0
    while offset < len(data):
        payload = _frame_at(data, offset, base)
        if payload is None:
            offset = data.find(_MAGIC, offset + 1)
            if offset < 0:
                return
            continue
        yield base + offset, payload
        offset += _HEAD.size + len(payload)


def scan(data: bytes, base: int = 0) -> Scan:
    """Say what a journal's bytes hold; never raises."""
    count = 0
    holes: list[tuple[int, int]] = []
    end = base
    for offset, payload in frames(data, base):
        if offset > end:
            holes.append((end, offset))
        count += 1
        end = offset + _HEAD.size + len(payload)
    return Scan(count, end, holes)


def confirmed_length(data: bytes) -> tuple[int, bool]:
    """The last confirmed length in a ``.confirmed`` file, and whether all of its bytes are whole notes."""
    best, whole = 0, len(data) % _NOTE.size == 0
    for i in range(0, len(data) - _NOTE.size + 1, _NOTE.size):
        length, crc = _NOTE.unpack_from(data, i)
        if zlib.crc32(length.to_bytes(8, "little"), i) == crc:
            best = max(best, length)
        else:
            whole = False
    return best, whole


class Header(msgspec.Struct):
    """The first frame."""

    format: int
    schema: int
    writer: str
    order: int  # no row was written before it


_HEADER: Final = msgspec.msgpack.Decoder(Header)
_PEEK: Final = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw])


def encode_rows(order: int, table: str, rows: list[tuple[Any, ...]]) -> bytes:
    """Encode rows, and decode them again by the schema's types, so that nothing unreadable is ever confirmed.

    Raises StoreError that names table and fault.
    """
    try:
        payload = _ENCODER.encode((order, table, rows))
        row_decoder(table).decode(payload)
    except (msgspec.ValidationError, msgspec.EncodeError, TypeError, OverflowError, UnicodeError) as error:
        raise StoreError(f"record for table {table} does not fit the schema: {error}") from error
    return payload


def rows_of(payload: bytes, path: str) -> tuple[int, str, list[tuple[Any, ...]]] | None:
    """Decode one frame's payload; None for the header. Raises StoreError for another format."""
    try:
        if payload[:1] != b"\x93":
            header = _HEADER.decode(payload)
            if header.format != FORMAT or header.schema > SCHEMA_VERSION:
                raise StoreError(
                    f"journal {path} has format {header.format}, schema {header.schema}",
                    hint="it was written by a newer version; update cmd-parquet",
                )
            return None
        table = _PEEK.decode(payload)[1]
        return row_decoder(table).decode(payload)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise StoreError(f"journal {path} holds rows that the schema does not know: {error}") from error


class Journal:
    """One journal file of one writer. After an error it may be continued or left for a new one."""

    def __init__(self, disk: Disk, path: str, writer: str, order: int = 0) -> None:
        """Create the file; it is durable with the first commit. Raises OSError."""
        self._disk = disk
        self.path = path
        self.order = order  # of its first row
        self.size = 0  # confirmed bytes
        self.notes = 0
        self.broken = False
        self._header = msgspec.msgpack.encode(Header(FORMAT, SCHEMA_VERSION, writer, order))

    def commit(self, payloads: list[bytes]) -> None:
        """Append payloads and make them durable; on OSError nothing of them counts and all may be tried again."""
        first = self.size == 0
        parts = []
        offset = self.size
        for payload in ([self._header] if first else []) + payloads:
            parts.append(frame(offset, payload))
            offset += len(parts[-1])
        try:
            if first:
                self._disk.write(self.path, b"".join(parts))
            else:
                self._disk.append(self.path, b"".join(parts))
        except OSError:
            self._cut(first)
            raise
        try:
            self._disk.sync(self.path)
            if first:
                self._disk.sync_dir(self.path.rpartition("/")[0])
        except OSError:
            # After a failed sync nobody knows what is on the disk: what follows goes to a new file.
            self.broken = True
            raise
        self.size = offset
        try:
            note = _NOTE.pack(offset, zlib.crc32(offset.to_bytes(8, "little"), self.notes * _NOTE.size))
            self._disk.append(self.path + CONFIRMED, note)
            self.notes += 1
        except OSError:
            # The rows are durable; without the note only the wording of a later damage report is poorer.
            self.broken = True

    def _cut(self, first: bool) -> None:
        """Remove what a failed append may have left."""
        try:
            if first:
                self._disk.remove(self.path)
            else:
                self._disk.truncate(self.path, self.size)
        except OSError:
            self.broken = True


def first_order(data: bytes) -> int | None:
    """The order before which no row of a journal was written, from its first bytes; None where it is unreadable."""
    for offset, payload in frames(data):
        if offset:
            break
        try:
            return _HEADER.decode(payload).order
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
    return None


def rows_in(data: bytes, path: str, base: int = 0) -> Iterator[tuple[int, str, list[tuple[Any, ...]]]]:
    """Rows of all whole frames."""
    for _, payload in frames(data, base):
        rows = rows_of(payload, path)
        if rows is not None:
            yield rows
