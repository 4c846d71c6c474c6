"""Copies of a running server's root, and a root made from one.

``CHECKPOINT CREATE`` makes the server leave alone what a copy needs while writing goes on; the files are copied, then
``CHECKPOINT RELEASE`` ends it, whatever happens. A run that was killed leaves a note beside the copies: the next one
into the same folder releases its checkpoint and removes its half copy. A checkpoint of someone else is never released.

    TARGET/questdb-20250131T235900Z/      a whole copy: db/ and .checkpoint/ as the server had them
    TARGET/questdb-20250131T235900Z/backup.json     what is in it; written last, so that a copy without it is none
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

import msgspec
from msgspec import Struct

from cmd_common import __version__
from cmd_common.errors import StoreBusyError, StoreError, UsageError
from cmd_common.schema import TABLES

from .migrations import state
from .sql import SqlClient, SqlError

__all__ = ["Backup", "backup", "backups", "copy_file", "restore"]

_NAME: Final = "questdb-"
_MANIFEST: Final = "backup.json"
_NOTE: Final = ".checkpoint-held"
_LOCK: Final = ".lock"
_SKIP: Final = frozenset({"tmp", "public", "import", "export", "log", "server.log", "hello.txt", "conf"})
"""What a server makes itself, or what is its host's: settings hold passwords and stay where they are."""
_RESTORE: Final = "_restore"  # the server looks for it at its start
_LONG: Final = 3_600.0  # s for a checkpoint of a large database

Progress = Callable[[int, int], None]


class Backup(Struct, frozen=True):
    """A copy: ``rows`` are the least that each table holds in it."""

    path: str
    made: str  # ISO 8601, UTC
    server: str  # version
    schema: int | None
    program: str
    files: int
    bytes: int
    rows: dict[str, int]


def backup(
    client: SqlClient, target: str, *, root: str = "", keep: int | None = None, progress: Progress | None = None
) -> Backup:
    """Copy the server's root into a new folder below ``target`` while rows are written, and return what it holds.

    ``root`` is the server's root folder, which this process must be able to read. Raises UsageError, StoreError,
    and StoreBusyError while another copy is made.
    """
    root = root or client.conf.root
    _check_root(root)
    if os.path.commonpath([os.path.realpath(root), os.path.realpath(target)]) == os.path.realpath(root):
        raise UsageError(f"{target} is inside the server's root", hint="copy to another folder, best on another disk")
    if keep is not None and keep < 1:
        raise UsageError("at least one copy is kept")
    try:
        os.makedirs(target, exist_ok=True)
        with _alone(target), _signals():
            _clean(client, target)
            made = _copy(client, root, target, progress)
            if keep is not None:
                for old in backups(target)[:-keep]:
                    shutil.rmtree(old.path)
            return made
    except OSError as error:
        raise StoreError(
            f"cannot copy to {target}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else ""),
            hint="check its space and who may write there",
        ) from error


def _check_root(root: str) -> None:
    if not root:
        raise UsageError(
            "the server's root folder is not known",
            hint="add root=DIR; to the store, on the server's own host: a copy is made of its files",
        )
    if not os.path.isfile(os.path.join(root, "db", "tables.d.1")) and not os.path.isdir(os.path.join(root, "db")):
        raise UsageError(f"{root} is not the root of a QuestDB server", hint="it has a folder db")
    if not os.access(os.path.join(root, "db"), os.R_OK | os.X_OK):
        raise StoreError(f"{root} cannot be read", hint="run it as the user of the server, or as root")


def _copy(client: SqlClient, root: str, target: str, progress: Progress | None) -> Backup:
    now = datetime.now(UTC)
    path = os.path.join(target, now.strftime(f"{_NAME}%Y%m%dT%H%M%SZ"))
    part = path + ".part"
    note = os.path.join(target, _NOTE)
    rows = _rows(client)
    version, schema = client.version(), state(client).version
    _write(note, part.encode())
    try:
        client.exec("CHECKPOINT CREATE", timeout=_LONG)
    except SqlError:  # it has none, so there is nothing to release: another one's may have come first
        os.remove(note)
        raise
    except BaseException:
        _release(client, note)
        raise
    try:
        files, size = copy_tree(root, part, progress)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        _release(client, note)
    made = Backup(path, now.isoformat(), version, schema, f"cmd-questdb {__version__}", files, size, rows)
    _write(os.path.join(part, _MANIFEST), msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    os.replace(part, path)
    _sync(target)
    return made


def _rows(client: SqlClient) -> dict[str, int]:
    found = state(client)
    return {t: int(client.value(f"SELECT count() FROM {client.conf.table(t)}")) for t in TABLES if t in found.tables}


def _release(client: SqlClient, note: str) -> None:
    """End our checkpoint; the note of it stays where that fails, for the next run."""
    for attempt in range(3):
        try:
            client.exec("CHECKPOINT RELEASE")
            break
        except SqlError:
            raise
        except StoreError:
            if attempt == 2:
                raise
            client.close()
            time.sleep(0.5)
    os.remove(note)


def _clean(client: SqlClient, target: str) -> None:
    """Undo what a killed run left: its checkpoint and its half copy. Nobody else runs: we hold the lock."""
    note = os.path.join(target, _NOTE)
    held = client.exec("SELECT in_progress, started_at FROM checkpoint_status()").rows
    if os.path.exists(note):
        if held and held[0][0]:
            client.exec("CHECKPOINT RELEASE")
        os.remove(note)
    elif held and held[0][0]:
        raise StoreBusyError(
            f"the server at {client.conf.shown} is in a checkpoint since {held[0][1]} that is not ours",
            hint="wait until that copy is made; if nobody makes one, run CHECKPOINT RELEASE on the server",
        )
    for name in os.listdir(target):
        if name.startswith(_NAME) and name.endswith(".part"):
            shutil.rmtree(os.path.join(target, name))


@contextmanager
def _alone(target: str) -> Iterator[None]:
    """Hold the folder's lock; it ends with the process."""
    import fcntl

    with open(os.path.join(target, _LOCK), "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusyError(f"another copy is being made in {target}", hint="wait until it is done") from None
        yield


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends the run like Ctrl-C, so that the checkpoint is released."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def copy_tree(root: str, target: str, progress: Progress | None = None) -> tuple[int, int]:
    """Copy a root without what a server makes itself; holes stay holes. Returns files and bytes.

    A file that vanishes meanwhile belongs to what the checkpoint does not need, such as a segment of an applied WAL.
    """
    total = 0
    paths: list[tuple[str, str]] = []
    for folder, folders, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        if inside == ".":
            folders[:] = [f for f in folders if f not in _SKIP]
            files = [f for f in files if f not in _SKIP and f != _RESTORE and not f.startswith("hs_err")]
        os.makedirs(os.path.join(target, inside), exist_ok=True)
        for name in files:
            if name.endswith(".lock"):
                continue
            path = os.path.join(folder, name)
            try:
                total += os.stat(path).st_blocks * 512
            except FileNotFoundError:
                continue
            paths.append((path, os.path.join(target, inside, name)))
    done = count = 0
    for source, copy in paths:
        try:
            done += copy_file(source, copy)
        except FileNotFoundError:
            continue
        count += 1
        if progress is not None:
            progress(min(done, total), total)
    os.sync()  # once, since a sync for each of thousands of small files takes minutes
    if progress is not None:
        progress(total, total)
    return count, done


def copy_file(source: str, target: str) -> int:
    """Copy a file with its holes; returns the bytes of data in it."""
    written = 0
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        os.ftruncate(new.fileno(), size)
        at = 0
        while at < size:
            try:
                start = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            at = start
            while at < end:
                n = os.copy_file_range(old.fileno(), new.fileno(), min(end - at, 1 << 28), at, at)
                if n == 0:  # it became shorter
                    return written
                at += n
                written += n
    return written


def backups(target: str) -> list[Backup]:
    """The whole copies below a folder, oldest first."""
    found = []
    for name in sorted(os.listdir(target)) if os.path.isdir(target) else []:
        path = os.path.join(target, name)
        if name.startswith(_NAME) and os.path.isfile(os.path.join(path, _MANIFEST)):
            found.append(read_manifest(path))
    return found


def read_manifest(path: str) -> Backup:
    """What a copy says about itself; raises StoreError where it is none."""
    try:
        with open(os.path.join(path, _MANIFEST), "rb") as f:
            made = msgspec.json.decode(f.read(), type=Backup)
    except FileNotFoundError:
        raise StoreError(f"{path} is not a whole copy of a QuestDB store", hint=f"it has no {_MANIFEST}") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{os.path.join(path, _MANIFEST)} cannot be read: {error}") from error
    return msgspec.structs.replace(made, path=path)


def restore(source: str, root: str, *, force: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Make ``root`` the root of a server as of a copy; the server must be stopped, and is started afterwards by hand.

    ``source`` is a copy, or a folder of copies, of which the newest is taken. A root that holds a database is refused
    unless ``force``, which moves its db aside. Raises StoreError, UsageError.
    """
    if not os.path.isfile(os.path.join(source, _MANIFEST)):
        whole = backups(source)
        if not whole:
            raise StoreError(f"there is no copy of a QuestDB store in {source}", hint="make one with store backup")
        source = whole[-1].path
    made = read_manifest(source)
    aside = ""
    try:
        os.makedirs(root, exist_ok=True)
        if _in_use(root):
            raise StoreBusyError(f"a server runs on {root}", hint="stop it first")
        there = [n for n in ("db", ".checkpoint") if os.path.isdir(os.path.join(root, n)) and os.listdir(f"{root}/{n}")]
        if there:
            if not force:
                raise StoreError(f"{root} holds a database already", hint="add --force to move it aside")
            aside = os.path.join(root, datetime.now(UTC).strftime("before-restore-%Y%m%dT%H%M%SZ"))
            os.makedirs(aside)
            for name in there:
                os.rename(os.path.join(root, name), os.path.join(aside, name))
        files, size = copy_tree(source, root, progress)
        os.remove(os.path.join(root, _MANIFEST))
        if files != made.files + 1:
            raise StoreError(f"{source} has {files - 1} files and should have {made.files}", hint="take another copy")
        _write(os.path.join(root, _RESTORE), b"")
    except OSError as error:
        raise StoreError(f"cannot restore to {root}: {error.strerror or error} ({error.filename or root})") from error
    summary: dict[str, Any] = {"restored": source, "root": root, "made": made.made, "files": files - 1, "bytes": size}
    if aside:
        summary["moved_aside"] = aside
    return {**summary, "server": made.server, "rows": made.rows}


def _in_use(root: str) -> bool:
    """Whether a server holds the lock file of its tables."""
    import fcntl

    path = os.path.join(root, "db", "tables.d.lock")
    try:
        with open(path, "r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
    except FileNotFoundError:
        pass
    return False


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    _sync(os.path.dirname(path))


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
