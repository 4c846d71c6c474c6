"""The spill: live rows on disk while the server is away, confirmed there, sent in order when it is back.

    SPILL/w-1732300000000000000-1f2e/    one folder a writer, locked by it (SPILL/w-….lock)
        00000001.spill                   segments: magic and version, then frames
        00000001.done                    how far the segment has been sent

A frame is a magic, the length and a CRC-32 over the frame's offset, its length and its payload; the payload is a
table's name and an Arrow IPC stream. ``append`` returns when the frames are synced: what it took is confirmed. What
follows the last whole frame of a segment was never confirmed, and is ignored; a damaged frame in the middle costs
that frame, is counted, and its segment is kept as ``.damaged``.

Frames leave in the order in which they came: those of dead writers (their lock can be taken) before our own. Some
are sent together and noted as sent before the next are, so that a writer that is killed sends at most one such group
twice: the tables' deduplication swallows that, and each key ends as the group's last row left it. A write while older frames wait goes behind them.

The spill is bounded. Its policy when it is full is ``refuse``: the flush fails, the rows stay with the writer, and
whoever feeds it is slowed down or stopped; nothing that was confirmed is dropped for what is new.
"""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cmd_common import filelock
from cmd_common.errors import StoreError
from cmd_common.schema import SCHEMA, SCHEMA_VERSION
from cmd_common.seams import Disk, OsDisk

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Spill", "SpillFull", "SpilledGroup", "decode", "encode"]

_MAGIC: Final = b"\xc5QDB"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sII")
_PLACE: Final = struct.Struct("<QI")
_START: Final = b"\xc5QDS" + bytes([_VERSION, SCHEMA_VERSION])
_SEGMENT: Final = 16 << 20
_NOTE: Final = struct.Struct("<QI")


class SpillFull(StoreError):
    """There is no room for more; nothing of the call was taken."""


class SpilledGroup(NamedTuple):
    """Chunks that wait, oldest first, and what ``Spill.sent`` needs to know of them."""

    chunks: list[tuple[str, pa.Table]]
    token: tuple[str, int]


def encode(table: str, data: pa.Table) -> bytes:
    """The payload of a chunk."""
    import pyarrow as pa

    sink = io.BytesIO()
    name = table.encode()
    sink.write(bytes([len(name)]) + name)
    with pa.ipc.new_stream(sink, data.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(data)
    return sink.getvalue()


def decode(payload: bytes) -> tuple[str, pa.Table]:
    """A chunk of its payload; raises StoreError for a table that this version does not know."""
    import pyarrow as pa

    length = payload[0]
    table = payload[1 : 1 + length].decode()
    if table not in SCHEMA:
        raise StoreError(f"the spill holds rows of table {table}, which this version does not know")
    return table, pa.ipc.open_stream(pa.py_buffer(payload)[1 + length :]).read_all()


def _frame(offset: int, payload: bytes) -> bytes:
    crc = zlib.crc32(payload, zlib.crc32(_PLACE.pack(offset, len(payload))))
    return _HEAD.pack(_MAGIC, len(payload), crc) + payload


def _frame_at(data: bytes, offset: int) -> bytes | None:
    """The payload of the frame at an offset; None where no whole frame is."""
    if len(data) - offset < _HEAD.size:
        return None
    magic, length, crc = _HEAD.unpack_from(data, offset)
    start = offset + _HEAD.size
    if magic != _MAGIC or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload, zlib.crc32(_PLACE.pack(offset, length))) == crc else None


class _Segment:
    """One file, read frame by frame."""

    def __init__(self, path: str, data: bytes, position: int) -> None:
        self.path = path
        self.data = data
        self.position = position  # of the next frame that was not sent
        self.holes: set[int] = set()

    def next(self, at: int) -> tuple[bytes, int] | None:
        """The first whole frame from a position on and the position behind it; damaged ones are noted."""
        while at < len(self.data):
            payload = _frame_at(self.data, at)
            if payload is not None:
                return payload, at + _HEAD.size + len(payload)
            found = self.data.find(_MAGIC, at + 1)
            while found >= 0 and _frame_at(self.data, found) is None:
                found = self.data.find(_MAGIC, found + 1)
            if found < 0:
                return None  # a torn tail: it was never confirmed
            self.holes.add(at)
            at = found
        return None


class Spill:
    """The spill of one writer. Not thread-safe. Errors of the disk are StoreErrors."""

    def __init__(self, folder: str, limit: int, *, disk: Disk | None = None, segment: int = _SEGMENT) -> None:
        """Make this writer's folder and look for rows that earlier writers left. Raises StoreError."""
        self.folder = folder
        self.limit = limit
        self.damaged = 0  # frames that could not be read
        self.adopted = 0  # folders of dead writers that were taken over
        self._disk: Disk = disk if disk is not None else OsDisk()
        self._segment_bytes = segment
        self._name = f"w-{time.time_ns()}-{os.urandom(2).hex()}"
        self._own = os.path.join(folder, self._name)
        self._locks: dict[str, int] = {}
        self._queue: list[str] = []  # paths of segments, oldest first
        self._reading: _Segment | None = None
        self._writing = ""
        self._size = 0  # of the segment that is written
        self._number = 0
        self._bytes = 0  # of all segments in the queue
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            lock = filelock.take(self._own + ".lock")
            assert lock is not None  # the name was just made
            self._locks[self._own] = lock
            self._adopt()
        except OSError as error:
            self.close()
            raise StoreError(
                f"the spill folder {folder} cannot be used: {error.strerror}", hint="choose another with spill=DIR"
            ) from error

    # -- taking over ------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        for name in self._disk.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if not name.startswith("w-") or name.endswith(".lock") or not os.path.isdir(path) or path in self._locks:
                continue
            lock = filelock.take(path + ".lock")
            if lock is None:
                continue  # its writer lives
            if not os.path.isdir(path):  # its writer had just finished
                filelock.give_back(lock, path + ".lock")
                continue
            self._locks[path] = lock
            segments = [n for n in self._disk.listdir(path) if n.endswith(".spill")]
            if not segments:
                self._remove_folder(path)
                continue
            self.adopted += 1
            for segment in segments:
                self._queue.append(os.path.join(path, segment))
                self._bytes += self._disk.size(self._queue[-1])

    def _remove_folder(self, path: str) -> None:
        """Give a drained folder of a dead writer back."""
        try:
            for name in self._disk.listdir(path):
                if not name.endswith(".damaged"):
                    self._disk.remove(os.path.join(path, name))
            if not self._disk.listdir(path):
                os.rmdir(path)
        except OSError:
            pass  # the next writer finds it empty and tries again
        lock = self._locks.pop(path, None)
        if lock is not None:
            filelock.give_back(lock, path + ".lock")

    # -- writing ----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether chunks wait; ``peek`` may still find that they are none, after damage."""
        return bool(self._queue)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self._bytes

    def append(self, chunks: list[tuple[str, pa.Table]]) -> int:
        """Make chunks durable, all or none; returns their bytes. Raises SpillFull, StoreError."""
        payloads = [encode(table, data) for table, data in chunks]
        more = sum(map(len, payloads)) + _HEAD.size * len(payloads)
        if self._bytes + more > self.limit:
            raise SpillFull(
                f"the spill {self.folder} holds {self._bytes:,} of {self.limit:,} bytes and takes no more",
                hint="bring the server back, or raise spill_limit",
            )
        try:
            if not self._writing or self._size >= self._segment_bytes:
                self._open()
            parts = []
            offset = self._size
            for payload in payloads:
                parts.append(_frame(offset, payload))
                offset += len(parts[-1])
            try:
                self._disk.append(self._writing, b"".join(parts))
            except OSError:
                self._cut()
                raise
            try:
                self._disk.sync(self._writing)
            except OSError:
                self._cut()  # nobody knows what is on the disk: what follows goes to a new file
                self._writing = ""
                raise
        except OSError as error:
            raise StoreError(
                f"cannot write to the spill {self.folder}: {error.strerror}", hint="see that the disk has room"
            ) from error
        self._size = offset
        self._bytes += more
        if self._writing not in self._queue:
            self._bytes += len(_START)
            self._queue.append(self._writing)
        return more

    def _open(self) -> None:
        if not self._disk.exists(self._own):
            self._disk.makedirs(self._own)
            self._disk.sync_dir(self.folder)
        self._number += 1
        path = os.path.join(self._own, f"{self._number:08d}.spill")
        self._disk.write(path, _START)
        self._disk.sync_dir(self._own)
        self._writing, self._size = path, len(_START)

    def _cut(self) -> None:
        """Remove what a failed append may have left."""
        try:
            self._disk.truncate(self._writing, self._size)
        except OSError:
            self._writing = ""  # the CRC of what comes later covers its offset: leave this file as it is

    # -- reading ----------------------------------------------------------------------------------------

    def peek(self, rows: int = 1) -> SpilledGroup | None:
        """The oldest chunks that were not sent, until they have so many rows; None when there is none.

        Raises StoreError.
        """
        try:
            while self._queue:
                segment = self._segment()
                chunks: list[tuple[str, pa.Table]] = []
                count, position = 0, segment.position
                while count < rows and (found := segment.next(position)) is not None:
                    chunks.append(decode(found[0]))
                    count += chunks[-1][1].num_rows
                    position = found[1]
                if chunks:
                    return SpilledGroup(chunks, (segment.path, position))
                self._finish(segment)
        except OSError as error:
            raise StoreError(f"cannot read the spill {self.folder}: {error.strerror}") from error
        return None

    def _segment(self) -> _Segment:
        path = self._queue[0]
        if self._reading is None or self._reading.path != path:
            if path == self._writing:
                self._writing = ""  # what comes now goes to the next segment
            data = self._disk.read(path)
            start = len(_START)
            if data[:4] != _START[:4] or len(data) < start:
                start = len(data) if data.find(_MAGIC) < 0 else data.find(_MAGIC)
            elif data[4] != _VERSION or data[5] != SCHEMA_VERSION:
                raise StoreError(
                    f"{path} was written by another version (format {data[4]}, schema {data[5]})",
                    hint="send it with the version that wrote it, or move it away",
                )
            self._reading = _Segment(path, data, max(start, self._noted(path)))
        return self._reading

    def _noted(self, path: str) -> int:
        try:
            data = self._disk.read(path.removesuffix(".spill") + ".done")
        except FileNotFoundError:
            return 0
        best = 0
        for i in range(0, len(data) - _NOTE.size + 1, _NOTE.size):
            position, crc = _NOTE.unpack_from(data, i)
            if zlib.crc32(position.to_bytes(8, "little")) == crc:
                best = max(best, position)
        return best

    def sent(self, token: tuple[str, int]) -> None:
        """Note that the chunks that ``peek`` gave are stored on the server. Raises StoreError."""
        path, position = token
        assert self._reading is not None
        assert self._reading.path == path
        try:
            note = _NOTE.pack(position, zlib.crc32(position.to_bytes(8, "little")))
            self._disk.append(path.removesuffix(".spill") + ".done", note)
            self._reading.position = position
            if position >= len(self._reading.data):
                self._finish(self._reading)
        except OSError as error:
            raise StoreError(f"cannot write to the spill {self.folder}: {error.strerror}") from error

    def _finish(self, segment: _Segment) -> None:
        """Remove a segment that was sent."""
        path = segment.path
        self._bytes -= self._disk.size(path)
        self._queue.pop(0)
        self._reading = None
        if segment.holes:
            self.damaged += len(segment.holes)
            self._disk.rename(path, path + ".damaged")
        else:
            self._disk.remove(path)
        self._disk.remove(path.removesuffix(".spill") + ".done")
        folder = os.path.dirname(path)
        if folder != self._own and not any(p.startswith(folder + os.sep) for p in self._queue):
            self._remove_folder(folder)

    def close(self) -> None:
        """Give the locks back; chunks that wait stay for the next writer."""
        for path in list(self._locks):
            if path == self._own and not any(p.startswith(path + os.sep) for p in self._queue):
                self._remove_folder(path)
            else:
                filelock.give_back(self._locks.pop(path), path + ".lock")
