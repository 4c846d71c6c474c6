"""Copies of a Parquet store that are whole, made while others write to it, and their way back.

A backup is a store of its own: one can read it, and ``verify`` it. The journals are copied first, then the manifest as of
one moment, then the files that it names; rows that were rolled out of a journal in between are in both, and count once. Files
never change, so that a backup on the same disk takes no room for them (hard links), and the next backup only what is new.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from cmd_common.errors import DataError, StoreError, UsageError

from .checking import verify
from .paths import INTERNAL, JOURNAL, MANIFEST

__all__ = ["NAME_FORMAT", "backup", "restore"]

NAME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_ARCHIVE: Final = "_archive.sqlite"
_TRIES: Final = 5  # where files are merged away between the manifest and their copy
_PART: Final = ".part"

Progress = Callable[[int, int], None]


def backup(
    location: str, target: str, now: datetime, *, keep: int | None = None, progress: Progress | None = None
) -> dict[str, object]:
    """Copy a store into a new folder in ``target``, named by ``now`` (UTC); the oldest beyond ``keep`` go.

    The folder has its name once the copy is whole and was verified. Raises UsageError, StoreError, DataError.
    """
    source, folder = Path(location), Path(target)
    if not (source / MANIFEST).is_file():
        raise StoreError(f"there is no store at {location}", hint="check the path")
    if source.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UsageError("the backup would lie within the store", hint="give --to another folder")
    if keep is not None and keep < 1:
        raise UsageError("at least one backup is kept", hint="--keep-last 1")
    name = now.strftime(NAME_FORMAT)
    final, part = folder / name, folder / f"{name}{_PART}"
    if final.exists():
        raise UsageError(f"{final} exists")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"*{_PART}"):
            shutil.rmtree(old)  # of a backup that was killed
        before = sorted(p for p in folder.iterdir() if _is_backup(p))
        files = _copy(source, part, progress)
        _check(part)
        _sync(part)
        part.rename(final)
        _sync_folder(folder)
        gone = [] if keep is None else [*before, final][:-keep]
        for old in gone:
            shutil.rmtree(old)
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)
        raise StoreError(f"cannot write the backup {final}: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return {"backup": str(final), "files": files, "removed": [p.name for p in gone]}


def _is_backup(path: Path) -> bool:
    try:
        datetime.strptime(path.name, NAME_FORMAT)  # noqa: DTZ007
    except ValueError:
        return False
    return (path / MANIFEST).is_file()


def _copy(source: Path, part: Path, progress: Progress | None) -> int:
    (part / INTERNAL).mkdir(parents=True)
    for journal in sorted((source / JOURNAL).glob("*")):
        with contextlib.suppress(FileNotFoundError):  # rolled meanwhile: the manifest has its rows
            _take(journal, part / JOURNAL / journal.name, link=False)
    for tries in range(_TRIES):
        _database(source / MANIFEST, part / MANIFEST)
        wanted = _files(part / MANIFEST)
        try:
            for n, name in enumerate(wanted, 1):
                _take(source / name, part / name, link=True)
                if progress is not None:
                    progress(n, len(wanted))
            break
        except FileNotFoundError:
            if tries == _TRIES - 1:
                raise StoreError(
                    "files of the store are merged faster than they are copied", hint="try again later"
                ) from None
    for path in part.rglob("*.parquet"):  # of a try that was given up
        if str(path.relative_to(part)) not in wanted:
            path.unlink()
    if (source / _ARCHIVE).is_file():
        _database(source / _ARCHIVE, part / _ARCHIVE)
    return len(wanted)


def _files(manifest: Path) -> dict[str, None]:
    with contextlib.closing(sqlite3.connect(f"file:{manifest}?mode=ro", uri=True)) as db:
        return dict.fromkeys(str(row[0]) for row in db.execute("SELECT path FROM files ORDER BY path"))


def _database(source: Path, target: Path) -> None:
    """Copy a SQLite database as of one moment."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=60)) as ours,
            contextlib.closing(sqlite3.connect(target)) as theirs,
        ):
            ours.backup(theirs)
    except sqlite3.Error as error:
        raise StoreError(f"cannot copy {source}: {error}") from error


def _take(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file, or link it where that can be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    if link:
        try:
            os.link(source, target)
            return
        except FileNotFoundError:
            raise
        except OSError:
            pass  # another disk, or one without links
    shutil.copyfile(source, target)


def _check(folder: Path) -> None:
    """A backup that is damaged is none."""
    problems = [p for p in verify(str(folder)) if p.kind in ("manifest", "file")]
    if problems:
        raise DataError(f"the copy is damaged: {problems[0]}", hint="check the store: cmd-cli store check")


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def restore(location: str, source: str, target: str, *, force: bool) -> dict[str, object]:
    """Copy a backup (its folder, or one with several: the newest) to ``target``, by default to ``location``.

    A folder that holds anything is only replaced with ``force``: it is moved aside as a whole, when the copy is there. Raises
    UsageError, StoreError, DataError.
    """
    found = Path(source)
    if not _is_store(found):
        inside = sorted(p for p in found.iterdir() if _is_backup(p)) if found.is_dir() else []
        if not inside:
            raise UsageError(f"{source} is no backup and holds none", hint="give --from the folder that backup made")
        found = inside[-1]
    final = Path(target or location)
    if final.exists() and any(final.iterdir()) and not force:
        raise UsageError(f"{final} is not empty", hint="add --force to replace it, or --to for another folder")
    part = final.with_name(f"{final.name}{_PART}")
    aside: Path | None = None
    try:
        if part.exists():
            shutil.rmtree(part)  # of a restore that was killed
        part.mkdir(parents=True)
        count = _copied(found, part)
        _check(part)
        _sync(part)
        if final.exists() and any(final.iterdir()):
            aside = _free(final)
            final.rename(aside)
        part.rename(final)
    except OSError as error:
        raise StoreError(f"cannot restore to {final}: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return {"restored": str(final), "backup": str(found), "files": count, "moved_aside": str(aside or "")}


def _free(path: Path) -> Path:
    """A name beside a path that nothing has."""
    return next(p for n in range(1, 10_000) if not (p := path.with_name(f"{path.name}.before-{n}")).exists())


def _is_store(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _copied(source: Path, target: Path) -> int:
    """Copy a tree without links: a store that is restored must not share files with its backup."""
    count = 0
    for path in _tree(source):
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        count += path.suffix == ".parquet"
    return count


def _tree(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
