"""Locks between processes that die with their process.

A lock is an open file that the operating system locks; a killed owner leaves no stale lock behind.
"""

from __future__ import annotations

import os
import sys

__all__ = ["give_back", "take"]


def _lock(fd: int) -> bool:
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


def take(path: str) -> int | None:
    """Lock the file at ``path``, creating it, and return it open; None when another owner has it.

    Also exclusive between two owners in one process. Raises OSError where the file cannot be made.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(fd):
                os.close(fd)
                return None
            # The previous owner removes its file: a lock on a file that is gone protects nothing.
            try:
                same = os.name == "nt" or os.path.samestat(os.fstat(fd), os.stat(path))
            except FileNotFoundError:
                same = False
        except BaseException:
            os.close(fd)
            raise
        if same:
            return fd
        os.close(fd)


def give_back(fd: int, path: str) -> None:
    """Give a lock back; its file is removed while still held, so that nobody locks a name that is gone."""
    try:
        if os.name != "nt":  # an open file cannot be removed there; an empty lock file does no harm
            os.remove(path)
    except OSError:
        pass
    os.close(fd)
