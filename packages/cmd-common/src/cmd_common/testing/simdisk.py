# ruff: noqa: D102 - the methods of Disk are documented in cmd_common.seams
"""A disk in memory that can lose power, tear writes and return errors, from one seed.

Theory of operation. A file is an inode with two contents: what the process sees, and what ``sync``
made durable. A name is a directory entry, also in two states: creating, renaming and removing change
what the process sees at once and are durable after ``sync_dir`` of the directory. ``crash()`` is a
power loss: of every unsynced content some prefix survives, perhaps with a damaged tail, and of the
unsynced entry changes, in the order they were made, some first ones survive. ``kill()`` is the death
of a process: everything that it wrote stays, its locks are gone.

Faults are armed by the number of the operation (``faults[n] = kind``, counted in ``ops``) or by a
rate. After a fault of kind ``kill`` or ``crash`` every operation raises ``SimulatedCrash`` until
``restart()``, so that clean-up code of the dead process cannot touch the disk.
"""

from __future__ import annotations

import errno
import posixpath
import random
from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["FAULT_KINDS", "FaultKind", "SimDisk", "SimulatedCrash"]

FaultKind = Literal["eio", "enospc", "torn", "kill", "crash"]
FAULT_KINDS: Final[tuple[FaultKind, ...]] = ("eio", "enospc", "torn", "kill", "crash")


class SimulatedCrash(BaseException):
    """The process died here; no BaseException handler but the test's own may catch it."""


class _Inode:
    __slots__ = ("data", "durable")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""


class _Change:
    """One change of directory entries: a file's creation, rename or removal, or a new directory."""

    __slots__ = ("add", "drop", "inode")

    def __init__(self, inode: _Inode | None, add: str | None, drop: str | None) -> None:
        self.inode = inode  # None: a directory
        self.add = add
        self.drop = drop

    def touches(self, directory: str) -> bool:
        return any(p is not None and posixpath.dirname(p) == directory for p in (self.add, self.drop))


def _norm(path: str) -> str:
    return posixpath.normpath("/" + path.replace("\\", "/").lstrip("/"))  # two slashes would stay two


class SimDisk:
    """A ``cmd_common.seams.Disk`` in memory; one seed gives one behaviour. Not thread-safe.

    ``faults`` maps an operation number (1 is the first one after construction) to a fault kind;
    ``rates`` gives probabilities by kind. Only operations that change something count and fail, unless
    ``fail_reads`` is set.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        faults: Mapping[int, FaultKind] | None = None,
        rates: Mapping[FaultKind, float] | None = None,
        capacity: int | None = None,
        fail_reads: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.faults: dict[int, FaultKind] = dict(faults or {})
        self.rates: dict[FaultKind, float] = dict(rates or {})
        self.capacity = capacity
        self.fail_reads = fail_reads
        self.ops = 0
        self.dead = False
        self.injected: list[tuple[int, FaultKind, str]] = []
        self._files: dict[str, _Inode] = {}
        self._dirs: set[str] = {"/"}
        self._durable_files: dict[str, _Inode] = {}
        self._durable_dirs: set[str] = {"/"}
        self._pending: list[_Change] = []
        self._locks: set[str] = set()

    # -- faults ---------------------------------------------------------------------------------

    def _fault(self, path: str) -> FaultKind | None:
        """Count one operation and return the fault that hits it; crashes are raised here."""
        if self.dead:
            raise SimulatedCrash("the process is dead")
        self.ops += 1
        kind = self.faults.pop(self.ops, None)
        if kind is None and self.rates:
            for candidate, rate in self.rates.items():
                if self.rng.random() < rate:
                    kind = candidate
                    break
        if kind is None:
            return None
        self.injected.append((self.ops, kind, path))
        if kind in ("kill", "crash"):
            if kind == "crash":
                self.crash()
            self.dead = True
            self._locks.clear()
            raise SimulatedCrash(f"{kind} at operation {self.ops} on {path}")
        return kind

    def _raise(self, kind: FaultKind, path: str) -> None:
        code = errno.ENOSPC if kind == "enospc" else errno.EIO
        raise OSError(code, "No space left on device" if kind == "enospc" else "Input/output error", path)

    def _gate(self, path: str) -> None:
        kind = self._fault(path)
        if kind is not None:
            self._raise(kind, path)

    def _gate_read(self, path: str) -> None:
        if self.fail_reads:
            self._gate(path)
        elif self.dead:
            raise SimulatedCrash("the process is dead")

    # -- death and resurrection -------------------------------------------------------------------

    def kill(self) -> None:
        """The process dies: what it wrote stays, its locks are released."""
        self._locks.clear()

    def crash(self) -> None:
        """Power loss: unsynced contents and entries survive in part or not at all."""
        keep = self.rng.randint(0, len(self._pending))
        for change in self._pending[:keep]:
            self._settle(change)
        self._pending.clear()
        self._files = dict(self._durable_files)
        # A directory or file is there only if all directories above it are.
        self._dirs = {"/"}
        for path in sorted(self._durable_dirs):
            if posixpath.dirname(path) in self._dirs:
                self._dirs.add(path)
        self._durable_dirs = set(self._dirs)
        for path in list(self._files):
            if posixpath.dirname(path) not in self._dirs:
                del self._files[path]
        self._durable_files = dict(self._files)
        seen: set[int] = set()
        for inode in self._files.values():
            if id(inode) not in seen:
                seen.add(id(inode))
                inode.data = bytearray(self._survivor(inode))
                inode.durable = bytes(inode.data)
        self._locks.clear()

    def restart(self) -> None:
        """Let operations work again after a ``kill`` or ``crash`` fault."""
        self.dead = False

    def _survivor(self, inode: _Inode) -> bytes:
        old, new = inode.durable, bytes(inode.data)
        if old == new:
            return old
        choice = self.rng.random()
        if choice < 0.4:
            return old
        if choice < 0.6:
            return new
        if not new.startswith(old):  # overwritten or cut: any mixture of the two
            cut = self.rng.randint(0, min(len(old), len(new)))
            return new[:cut] + old[cut:]
        kept = bytearray(new[: self.rng.randint(len(old), len(new))])
        if choice >= 0.8 and len(kept) > len(old):  # the last sectors hold something else
            for i in range(max(len(old), len(kept) - 16), len(kept)):
                kept[i] = self.rng.choice((0, self.rng.randrange(256)))
        return bytes(kept)

    def _settle(self, change: _Change) -> None:
        if change.inode is None:
            if change.add is not None:
                self._durable_dirs.add(change.add)
            return
        if change.drop is not None and self._durable_files.get(change.drop) is change.inode:
            del self._durable_files[change.drop]
        if change.add is not None:
            self._durable_files[change.add] = change.inode

    # -- locks: what a process holds until it dies --------------------------------------------------

    def try_lock(self, path: str) -> bool:
        """Take a lock that dies with its process; False when it is held."""
        if self.dead:
            raise SimulatedCrash("the process is dead")
        path = _norm(path)
        if path in self._locks:
            return False
        self._locks.add(path)
        return True

    def unlock(self, path: str) -> None:
        """Release a lock; one that is not held is not an error."""
        self._locks.discard(_norm(path))

    # -- Disk -------------------------------------------------------------------------------------

    def _inode(self, path: str) -> _Inode:
        inode = self._files.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return inode

    def _create(self, path: str) -> _Inode:
        inode = self._files.get(path)
        if inode is None:
            if path in self._dirs:
                raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
            if posixpath.dirname(path) not in self._dirs:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            inode = self._files[path] = _Inode()
            self._pending.append(_Change(inode, path, None))
        return inode

    def _store(self, path: str, inode: _Inode, data: bytes, kind: FaultKind | None) -> None:
        """Append ``data``; a torn write keeps a prefix and fails."""
        if kind is not None:
            if kind == "torn":
                inode.data += data[: self.rng.randint(0, len(data))]
            self._raise(kind, path)
        if self.capacity is not None and self.used() + len(data) > self.capacity:
            inode.data += data[: max(self.capacity - self.used(), 0)]
            self._raise("enospc", path)
        inode.data += data

    def used(self) -> int:
        """Bytes of all files."""
        return sum(len(inode.data) for inode in set(self._files.values()))

    def read(self, path: str) -> bytes:
        path = _norm(path)
        self._gate_read(path)
        return bytes(self._inode(path).data)

    def write(self, path: str, data: bytes) -> None:
        path = _norm(path)
        kind = self._fault(path)
        if kind in ("eio", "enospc"):
            self._raise(kind, path)
        inode = self._create(path)
        inode.data = bytearray()
        self._store(path, inode, data, kind)

    def append(self, path: str, data: bytes) -> None:
        path = _norm(path)
        kind = self._fault(path)
        if kind in ("eio", "enospc"):
            self._raise(kind, path)
        self._store(path, self._create(path), data, kind)

    def sync(self, path: str) -> None:
        path = _norm(path)
        self._gate(path)
        inode = self._inode(path)
        inode.durable = bytes(inode.data)

    def sync_dir(self, path: str) -> None:
        path = _norm(path)
        self._gate(path)
        if path not in self._dirs:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        last: dict[int, int] = {}
        for i, change in enumerate(self._pending):
            if change.touches(path):
                last[id(change.inode) if change.inode is not None else -i - 1] = i
        left = []
        for i, change in enumerate(self._pending):
            key = id(change.inode) if change.inode is not None else -i - 1
            if i <= last.get(key, -1):  # earlier changes of the same file come with it
                self._settle(change)
            else:
                left.append(change)
        self._pending = left

    def rename(self, source: str, target: str) -> None:
        source, target = _norm(source), _norm(target)
        self._gate(target)
        inode = self._inode(source)
        if posixpath.dirname(target) not in self._dirs:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", target)
        del self._files[source]
        self._files[target] = inode
        self._pending.append(_Change(inode, target, source))

    def remove(self, path: str) -> None:
        path = _norm(path)
        self._gate(path)
        inode = self._files.pop(path, None)
        if inode is not None:
            self._pending.append(_Change(inode, None, path))

    def exists(self, path: str) -> bool:
        path = _norm(path)
        self._gate_read(path)
        return path in self._files or path in self._dirs

    def size(self, path: str) -> int:
        path = _norm(path)
        self._gate_read(path)
        return len(self._inode(path).data)

    def listdir(self, path: str) -> list[str]:
        path = _norm(path)
        self._gate_read(path)
        return sorted(
            {posixpath.basename(p) for p in (*self._files, *self._dirs) if p != "/" and posixpath.dirname(p) == path}
        )

    def makedirs(self, path: str) -> None:
        path = _norm(path)
        self._gate(path)
        missing = []
        while path not in self._dirs:
            if path in self._files:
                raise FileExistsError(errno.EEXIST, "File exists", path)
            missing.append(path)
            path = posixpath.dirname(path)
        for new in reversed(missing):
            self._dirs.add(new)
            self._pending.append(_Change(None, new, None))

    def truncate(self, path: str, size: int) -> None:
        path = _norm(path)
        self._gate(path)
        inode = self._inode(path)
        if size <= len(inode.data):
            del inode.data[size:]
        else:
            inode.data += bytes(size - len(inode.data))
