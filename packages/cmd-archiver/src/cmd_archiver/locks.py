"""The archiver's locks in a store's folder; a killed owner leaves no stale lock behind."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from cmd_common import filelock
from cmd_common.errors import StoreBusyError

__all__ = ["FileLock"]


class FileLock:
    """A lock named ``name`` in ``folder``; also exclusive between two owners in one process."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / (quote(name, safe="-_.") + ".lock")
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether the lock is ours."""
        return self._fd is not None

    def acquire(self) -> bool:
        """Take the lock if it is free; returns whether it is ours now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = filelock.take(str(self.path))
        return self._fd is not None

    def release(self) -> None:
        """Give the lock back; calling it again does nothing."""
        if self._fd is None:
            return
        filelock.give_back(self._fd, str(self.path))
        self._fd = None

    def __enter__(self) -> Self:
        if not self.acquire():
            raise StoreBusyError(f"another process works on {self.path.stem}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
