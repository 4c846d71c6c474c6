"""Locks between processes that die with their process.

A lock is an open file that the operating system locks; a killed owner leaves no stale lock behind.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from cmd_common.errors import StoreBusyError

__all__ = ["FileLock"]


def _take(fd: int) -> bool:
    """Lock an open file without waiting; False when another owner has it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FileLock:
    """A lock named ``name`` in ``folder``; also exclusive between two owners in one process."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / (quote(name, safe="-_.") + ".lock")
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; returns whether it is ours now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _take(fd):
                os.close(fd)
                return False
            # The previous owner removes its file: a lock on a file that is gone protects nothing.
            try:
                same = os.name == "nt" or os.fstat(fd).st_ino == os.stat(self.path).st_ino
            except FileNotFoundError:
                same = False
            if same:
                self._fd = fd
                return True
            os.close(fd)

    def release(self) -> None:
        """Give the lock back; calling it again does nothing."""
        if self._fd is None:
            return
        if os.name != "nt":  # an open file cannot be removed there; an empty lock file does no harm
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = None

    def __enter__(self) -> Self:
        if not self.acquire():
            raise StoreBusyError(f"another process works on {self.path.stem}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
