"""Files through the ``Disk`` seam: durable directories, a checksumming sink, locks and error texts."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol, cast
from weakref import WeakKeyDictionary

from cmd_common import filelock
from cmd_common.errors import StoreBusyError, StoreError
from cmd_common.seams import Disk, OsDisk

from .paths import LOCKS, encode, join

__all__ = [
    "DiskSink",
    "Lock",
    "ensure_dir",
    "ensure_location",
    "is_real",
    "read_from",
    "read_head",
    "store_errors",
    "try_lock",
]

_CHUNK: Final = 4 << 20


def is_real(disk: Disk) -> bool:
    """Whether paths of this disk are paths of the operating system."""
    return isinstance(disk, OsDisk)


def describe(error: OSError, what: str) -> StoreError:
    """Turn an operating system's error into one line that says what to do."""
    reason = error.strerror or str(error)
    hint = {
        errno.ENOSPC: "free some space; what was flushed before is safe",
        errno.EDQUOT: "the quota is used up; what was flushed before is safe",
        errno.EACCES: "check the permissions, or choose another place with --store parquet:PATH",
        errno.EPERM: "check the permissions, or choose another place with --store parquet:PATH",
        errno.EROFS: "the file system is read-only; choose another place with --store parquet:PATH",
        errno.ENOTDIR: "a part of the path is a file; choose another place with --store parquet:PATH",
        errno.EEXIST: "a part of the path is a file; choose another place with --store parquet:PATH",
        errno.EIO: "the disk reports a fault; what was flushed before is safe if the disk can read it",
    }.get(error.errno or 0, "")
    where = f" ({error.filename})" if error.filename and str(error.filename) not in what else ""
    return StoreError(f"{what}: {reason}{where}", hint=hint)


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Report an OSError inside as a StoreError that begins with ``what``."""
    try:
        yield
    except OSError as error:
        raise describe(error, what) from error


def ensure_location(disk: Disk, location: str) -> None:
    """Create a store's folder and its parents durably.

    All parents are synced: an earlier attempt may have failed between making and syncing one.
    """
    disk.makedirs(location)
    path = location
    while True:
        parent = os.path.dirname(path)
        with suppress(PermissionError):  # a parent that is not ours and that we may not open
            disk.sync_dir(parent or ".")
        if parent in ("", path):
            break
        path = parent


def ensure_dir(disk: Disk, location: str, folder: str, known: set[str] | None = None) -> None:
    """Create a folder below the location durably. ``known`` remembers what is durable already.

    A folder that is there is synced too: an earlier attempt may have failed between making and syncing it.
    """
    known = set() if known is None else known
    if folder in known:
        return
    disk.makedirs(join(location, folder))
    path = location
    for part in folder.split("/"):
        child = join(path, part)
        if child not in known:
            disk.sync_dir(path)
            known.add(child)
        path = child
    known.add(folder)


def read_from(disk: Disk, path: str, offset: int) -> bytes:
    """Read a file from ``offset`` to its end."""
    if is_real(disk):
        with open(path, "rb") as f:
            f.seek(offset)
            return f.read()
    return disk.read(path)[offset:]


def read_head(disk: Disk, path: str, size: int) -> bytes:
    """Read at most the first ``size`` bytes of a file."""
    if is_real(disk):
        with open(path, "rb") as f:
            return f.read(size)
    return disk.read(path)[:size]


class DiskSink:
    """A binary file for pyarrow that appends to a Disk in large pieces and sums up size and CRC-32."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._buffer = bytearray()
        self.size = 0
        self.crc = 0
        self.closed = False
        self._dropped = False
        disk.write(path, b"")

    def write(self, data: bytes) -> int:
        """Take bytes; raises OSError of the disk."""
        view = memoryview(data)
        self.crc = zlib.crc32(view, self.crc)
        self.size += view.nbytes
        if self._dropped:
            return view.nbytes
        self._buffer += view
        self.flush()
        return view.nbytes

    def flush(self) -> None:
        """Hand over what is buffered when it is much; not durable."""
        if len(self._buffer) >= _CHUNK:
            data, self._buffer = bytes(self._buffer), bytearray()
            self._disk.append(self._path, data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def readable(self) -> bool:
        """It is not."""
        return False

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is not."""
        return False

    def close(self) -> None:
        """Take no more; nothing is handed over, as this is also called when an abandoned writer is collected."""
        self.closed = True

    def finish(self) -> None:
        """Hand over the rest."""
        self.closed = True
        data, self._buffer = bytes(self._buffer), bytearray()
        if data and not self._dropped:
            self._disk.append(self._path, data)

    def drop(self) -> None:
        """From now on nothing reaches the disk."""
        self._dropped = True
        self._buffer.clear()


class _LockingDisk(Protocol):
    def try_lock(self, path: str) -> bool: ...

    def unlock(self, path: str) -> None: ...


_held: WeakKeyDictionary[Disk, set[str]] = WeakKeyDictionary()


class Lock:
    """A named lock that the operating system releases when its process dies."""

    def __init__(self, disk: Disk, path: str, fd: int) -> None:
        self._disk = disk
        self._path = path
        self._fd = fd
        self._open = True

    def release(self) -> None:
        """Release; calling it again does nothing."""
        if not self._open:
            return
        self._open = False
        if self._fd >= 0:
            filelock.give_back(self._fd, self._path)
        elif hasattr(self._disk, "unlock"):
            cast(_LockingDisk, self._disk).unlock(self._path)
        else:
            _held.get(self._disk, set()).discard(self._path)


def try_lock(disk: Disk, location: str, name: str) -> Lock | None:
    """Take the store's lock called ``name``; None when a live process holds it.

    Raises OSError where lock files cannot be made.
    """
    path = join(location, LOCKS, encode(name) + ".lock")
    if not is_real(disk):
        if hasattr(disk, "try_lock"):
            return Lock(disk, path, -1) if cast(_LockingDisk, disk).try_lock(path) else None
        held = _held.setdefault(disk, set())
        if path in held:
            return None
        held.add(path)
        return Lock(disk, path, -1)
    fd = filelock.take(path)
    if fd is None:
        return None
    try:
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
    except OSError:  # a full disk must not stop a lock: the text is for people
        pass
    return Lock(disk, path, fd)


def holder(disk: Disk, location: str, name: str) -> str:
    """Say who holds a lock, for an error text."""
    if not is_real(disk):
        return "another writer"
    try:
        with open(join(location, LOCKS, encode(name) + ".lock")) as f:
            return f"process {int(f.read(20))}"
    except (OSError, ValueError):
        return "another process"


def busy(disk: Disk, location: str, what: str, name: str) -> StoreBusyError:
    """The error for the lock ``name`` being held."""
    return StoreBusyError(
        f"{what} in {location} is held by {holder(disk, location, name)}",
        hint="wait for it to end, or take other work",
    )
