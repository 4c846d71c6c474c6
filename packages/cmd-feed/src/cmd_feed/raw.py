"""Raw recordings: every frame as it came, in the recordings' line format, one file a venue at a time.

Files are ``VENUE-DATE-NNN.ndjson[.gz|.zst]``, rotated at UTC midnight and by size. Every open makes a
new file with the next free number, so that nothing recorded earlier is touched; a compressed file is
one stream that is flushed at each ``flush``. A kill loses at most what came after the last flush,
and the file stays readable up to it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import BinaryIO, Literal, Protocol

from msgspec import Struct

from cmd_common.errors import StoreError, UsageError
from cmd_common.recording import frame_line

__all__ = ["Compression", "RawCounters", "RawLine", "RawRecorder", "zstd_available"]

Compression = Literal["", "gz", "zst"]
RawLine = tuple[str, int, str, str, str | bytes]
"""Venue, receive time in ns, source (ws, ws_out, ws_open, rest), URL, verbatim text."""

_DAY = 86_400_000_000_000


class RawCounters(Struct):
    """Counts since the recorder was made; ``bytes`` are of lines before compression."""

    lines: int = 0
    bytes: int = 0
    files: int = 0
    skipped: int = 0  # frames that are no text


class _Compressor(Protocol):
    def add(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    def end(self) -> bytes: ...


class _Plain:
    def add(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._z = zlib.compressobj(5, zlib.DEFLATED, 31)

    def add(self, data: bytes) -> bytes:
        return self._z.compress(data)

    def flush(self) -> bytes:
        return self._z.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._z.flush(zlib.Z_FINISH)


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._block: int = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._finish: int = zstandard.COMPRESSOBJ_FLUSH_FINISH
        self._z = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()

    def add(self, data: bytes) -> bytes:
        return bytes(self._z.compress(data))

    def flush(self) -> bytes:
        return bytes(self._z.flush(self._block))

    def end(self) -> bytes:
        return bytes(self._z.flush(self._finish))


def zstd_available() -> bool:
    """Whether the extra ``zstd`` is installed."""
    try:
        import zstandard  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "zstandard":
            raise
        return False
    return True


class _Open:
    """One open file."""

    def __init__(self, path: str, day: int, compressor: _Compressor) -> None:
        self.path = path
        self.day = day
        self.size = 0
        self.compressor = compressor
        self.file: BinaryIO = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by the recorder

    def write(self, data: bytes) -> None:
        """Write all of ``data``; an unbuffered file may take less at a time."""
        view = memoryview(data)
        while view:
            n = self.file.write(view)
            view = view[n or 0 :]
        self.size += len(data)


class RawRecorder:
    """Writes lines of any number of venues; a ``Sink`` for a ``Pipeline``. Not thread-safe.

    ``compression`` is "gz", "zst" (needs the extra ``zstd``) or "" for plain; ``max_bytes`` bounds a
    file's size on disk, checked at each flush and every 64 KiB of lines. Raises UsageError for a missing extra and
    StoreError when the directory cannot be made; later errors are StoreErrors too.
    """

    def __init__(self, directory: str, *, compression: Compression = "gz", max_bytes: int = 512 * 1024 * 1024) -> None:
        if compression == "zst" and not zstd_available():
            raise UsageError(
                "raw recordings as .zst need the package zstandard", hint="pip install 'cmd-feed[zstd]', or use gz"
            )
        self.directory = directory
        self.compression = compression
        self.max_bytes = max_bytes
        self.counters = RawCounters()
        self._open: dict[str, _Open] = {}
        self._pending: dict[str, list[bytes]] = {}
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the directory of raw recordings {directory}: {error.strerror or error}"
            ) from error

    @property
    def paths(self) -> Mapping[str, str]:
        """The file that is being written, by venue."""
        return {venue: f.path for venue, f in self._open.items()}

    def write(self, records: Sequence[RawLine]) -> None:
        """Add lines; they are on disk after ``flush``."""
        counters = self.counters
        for venue, recv_ns, src, url, text in records:
            try:
                line = frame_line(recv_ns, src, url, text if isinstance(text, str) else text.decode())
            except UnicodeDecodeError:  # a binary protocol's frame has no place in a file of JSON lines
                counters.skipped += 1
                continue
            day = recv_ns // _DAY
            current = self._open.get(venue)
            if current is None or current.day != day:
                self._rotate(venue, day)
            pending = self._pending.setdefault(venue, [])
            pending.append(line)
            counters.lines += 1
            counters.bytes += len(line)
            if len(pending) >= 256:
                self._drain(venue)

    def flush(self) -> None:
        """Hand everything to the operating system: a kill of this process loses none of it."""
        for venue, current in list(self._open.items()):
            self._drain(venue)
            current = self._open.get(venue) or current
            self._put(current, current.compressor.flush())

    def close(self) -> None:
        """End all files; calling it again does nothing."""
        for venue in list(self._open):
            self._drain(venue)
            self._end(venue)

    def _drain(self, venue: str) -> None:
        pending = self._pending.get(venue)
        current = self._open[venue]
        if pending:
            data = b"".join(pending)
            pending.clear()
            self._put(current, current.compressor.add(data))
        if current.size >= self.max_bytes:
            self._rotate(venue, current.day)

    def _put(self, current: _Open, data: bytes) -> None:
        if not data:
            return
        try:
            current.write(data)
        except OSError as error:
            raise StoreError(
                f"cannot write the raw recording {current.path}: {error.strerror or error}",
                hint="free space or choose another directory",
            ) from error

    def _end(self, venue: str) -> None:
        current = self._open.pop(venue)
        try:
            self._put(current, current.compressor.end())
        finally:
            current.file.close()

    def _rotate(self, venue: str, day: int) -> None:
        if venue in self._open:
            if self._pending.get(venue):
                current = self._open[venue]
                data = b"".join(self._pending[venue])
                self._pending[venue].clear()
                self._put(current, current.compressor.add(data))
            self._end(venue)
        date = datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")
        suffix = f".ndjson.{self.compression}" if self.compression else ".ndjson"
        makers: dict[str, Callable[[], _Compressor]] = {"": _Plain, "gz": _Gzip, "zst": _Zstd}
        compressor = makers[self.compression]()
        number = 1
        while True:
            path = os.path.join(self.directory, f"{venue}-{date}-{number:03d}{suffix}")
            try:
                self._open[venue] = _Open(path, day, compressor)
            except FileExistsError:
                number += 1
                continue
            except OSError as error:
                raise StoreError(
                    f"cannot make the raw recording {path}: {error.strerror or error}",
                    hint="choose a directory that is writable",
                ) from error
            self.counters.files += 1
            return
