"""A file system of a few megabytes in a namespace of its own, for a server whose disk runs full."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HOW = "the kernel must allow user namespaces (unshare -rm), and unshare and nsenter must be installed (util-linux)"


class SmallDisk:
    """A tmpfs on ``path`` that only processes started with ``prefix`` see; it lasts until ``close()``."""

    def __init__(self, path: Path, megabytes: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        script = 'mount -t tmpfs -o "size=$1m,mode=700" tmpfs "$2" && echo ready && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", script, "sh", str(megabytes), str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            _, words = self._holder.communicate()
            raise OSError(f"no small file system: {words.decode(errors='replace').strip()}; {HOW}")
        self.prefix = ("nsenter", "-t", str(self._holder.pid), "-U", "-m", "--preserve-credentials")

    @staticmethod
    def possible() -> bool:
        """Whether this machine lets an ordinary user mount in a namespace of his own."""
        if not (shutil.which("unshare") and shutil.which("nsenter")):
            return False
        probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    @property
    def inside(self) -> Path:
        """The file system as seen from outside the namespace."""
        return Path(f"/proc/{self._holder.pid}/root{self.path}")

    def free(self) -> int:
        """Bytes left."""
        state = os.statvfs(self.inside)
        return state.f_bavail * state.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all but ``leave`` bytes."""
        take = self.free() - leave
        if take > 0:
            with (self.inside / "ballast").open("ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), take)

    def release(self) -> None:
        """Give back what ``fill`` took."""
        (self.inside / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount: the namespace ends with its last process."""
        self._holder.communicate()
