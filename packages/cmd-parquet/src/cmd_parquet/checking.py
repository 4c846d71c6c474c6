"""Checking a store byte by byte, and rebuilding a lost manifest from the data files."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from cmd_common.errors import StoreError
from cmd_common.schema import SCHEMA
from cmd_common.seams import Disk, OsDisk

from .files import FileEntry, open_parquet
from .journal import CONFIRMED, SUFFIX, confirmed_length, rows_in, scan
from .lazy import compute
from .manifest import Manifest
from .paths import INTERNAL, JOURNAL, LOCKS, MANIFEST, MANIFEST_SUM, TMP, Partition, decode, join
from .storage import ensure_dir, is_real, store_errors, try_lock

__all__ = ["Problem", "rebuild", "verify"]

_CHUNK: Final = 4 << 20
_WRITER: Final = re.compile(r"w(\d+)-")


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong: ``kind`` is manifest, file, journal or leftover."""

    kind: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def verify(
    location: str, *, disk: Disk | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Read every byte of a store and return what is wrong; empty when it is sound.

    The manifest by SQLite's check and our sums, live files by size and CRC-32, journals by their frames. A file that
    nobody lists is a ``leftover``: normal while a writer runs or after a kill until the next writer opens.
    ``progress`` gets bytes done and in all. Raises StoreError where there is no store.
    """
    disk = disk if disk is not None else OsDisk()
    location = location.replace("\\", "/").rstrip("/") or "/"
    path = join(location, MANIFEST)
    if not disk.exists(path):
        raise StoreError(f"there is no store at {location}", hint="check the path")
    problems: list[Problem] = []
    entries: list[FileEntry] = []
    done: set[str] = set()
    try:
        manifest = Manifest(disk, location, create=False)
    except (StoreError, OSError) as error:
        problems.append(Problem("manifest", path, str(error)))
    else:
        try:
            problems += [Problem("manifest", path, words) for words in manifest.check()]
            entries = manifest.files()
            done = manifest.done_journals()
        except (StoreError, OSError) as error:
            problems.append(Problem("manifest", path, str(error)))
        finally:
            manifest.close()
    total = sum(e.size for e in entries)
    seen = 0
    for entry in entries:
        problems += _check_file(disk, location, entry)
        seen += entry.size
        if progress is not None:
            progress(seen, total)
    problems += _check_journals(disk, location, done)
    if not any(p.kind == "manifest" for p in problems):
        live = {e.path for e in entries}
        for relative in _walk(disk, location):
            if relative not in live:
                problems.append(Problem("leftover", join(location, relative), "the manifest does not list it"))
    return problems


def _check_file(disk: Disk, location: str, entry: FileEntry) -> Iterator[Problem]:
    path = join(location, entry.path)
    try:
        size = disk.size(path)
        if size != entry.size:
            yield Problem("file", path, f"it has {size} bytes and should have {entry.size}")
            return
        if _crc(disk, path) != entry.crc:
            yield Problem("file", path, "its bytes do not match their checksum")
            return
        file = open_parquet(disk, path, f"file {path}")
        rows = file.metadata.num_rows
        file.close(force=True)
        if rows != entry.rows:
            yield Problem("file", path, f"it has {rows} rows and should have {entry.rows}")
    except FileNotFoundError:
        yield Problem("file", path, "it is missing")
    except (StoreError, OSError) as error:
        yield Problem("file", path, str(error))


def _crc(disk: Disk, path: str) -> int:
    if not is_real(disk):
        return zlib.crc32(disk.read(path))
    crc = 0
    with open(path, "rb") as f:
        while data := f.read(_CHUNK):
            crc = zlib.crc32(data, crc)
    return crc


def _check_journals(disk: Disk, location: str, done: set[str]) -> Iterator[Problem]:
    folder = join(location, JOURNAL)
    names = disk.listdir(folder)
    for name in names:
        path = join(folder, name)
        if name.endswith(CONFIRMED) and name.removesuffix(CONFIRMED) not in names:
            continue
        if not name.endswith(SUFFIX) or name in done:
            continue
        try:
            note = disk.read(path + CONFIRMED) if disk.exists(path + CONFIRMED) else b""
            data = disk.read(path)
        except FileNotFoundError:  # rolled meanwhile
            continue
        confirmed, whole = confirmed_length(note)
        found = scan(data)
        if not whole:
            yield Problem("journal", path + CONFIRMED, "it holds notes that fail their checks")
        for start, end in found.holes:
            yield Problem("journal", path, f"bytes {start} to {end} fail their check: rows are lost")
        if found.end < confirmed:
            yield Problem("journal", path, f"it is whole up to byte {found.end} and was confirmed up to {confirmed}")
        elif found.end < len(data):
            yield Problem("journal", path, f"its last {len(data) - found.end} bytes are no whole frame")
        elif not note and found.frames:
            yield Problem("journal", path, "the note of what is confirmed is missing")
        try:
            for _ in rows_in(data, path):
                pass
        except StoreError as error:
            yield Problem("journal", path, str(error))


def _walk(disk: Disk, location: str) -> Iterator[str]:
    """Parquet files in partition folders, below the location."""
    folders = [n for n in disk.listdir(location) if n.startswith("table=")]
    for _ in range(3):
        folders = [join(f, n) for f in folders for n in disk.listdir(join(location, f)) if "=" in n]
    for folder in folders:
        for name in disk.listdir(join(location, folder)):
            if name.endswith(".parquet"):
                yield join(folder, name)


def rebuild(location: str, *, disk: Disk | None = None) -> int:
    """Make a new manifest from the data files; the old one is kept aside. Returns the number of files.

    For a manifest that is lost or damaged. Rows that an unfinished commit had replaced may come back; equal keys are
    one row anyhow. Raises StoreError, and StoreBusyError while a writer runs.
    """
    disk = disk if disk is not None else OsDisk()
    location = location.replace("\\", "/").rstrip("/") or "/"
    with store_errors(f"cannot rebuild the manifest of {location}"):
        if not disk.exists(location):
            raise StoreError(f"there is no store at {location}", hint="check the path")
        for folder in (INTERNAL, JOURNAL, TMP, LOCKS):
            ensure_dir(disk, location, folder)
        _refuse_while_writing(disk, location)
        entries = [_entry(disk, location, path) for path in _walk(disk, location)]
        numbers = [0]
        names = disk.listdir(join(location, JOURNAL)) + disk.listdir(join(location, TMP))
        names += [e.path.rpartition("/")[2].partition("-")[2] for e in entries]
        numbers += [int(m[1]) for m in map(_WRITER.match, names) if m]
        for name in (MANIFEST, MANIFEST_SUM, f"{MANIFEST}-journal"):
            if disk.exists(join(location, name)):
                disk.rename(join(location, name), join(location, name + ".old"))
        manifest = Manifest(disk, location, create=True)
        try:
            with manifest.transaction() as transaction:
                for entry in entries:
                    transaction.add(entry)
                manifest.set_meta("next_writer", max(numbers), manifest._db)
            manifest.write_sum()
        finally:
            manifest.close()
    return len(entries)


def _refuse_while_writing(disk: Disk, location: str) -> None:
    from .storage import busy

    for name in disk.listdir(join(location, LOCKS)):
        lock_name = decode(name.removesuffix(".lock"))
        if lock_name.startswith("writer-"):
            lock = try_lock(disk, location, lock_name)
            if lock is None:
                raise busy(disk, location, lock_name, lock_name)
            lock.release()


def _entry(disk: Disk, location: str, relative: str) -> FileEntry:
    pc = compute()

    path = join(location, relative)
    parts = dict(p.split("=", 1) for p in relative.split("/")[:-1])
    partition = Partition(*(decode(parts[k]) for k in ("table", "venue", "symbol", "date")))
    if partition.table not in SCHEMA:
        raise StoreError(f"file {path} belongs to no table of the schema", hint="move it out of the store")
    file = open_parquet(disk, path, f"file {path}")
    try:
        bounds = pc.min_max(file.read([SCHEMA[partition.table].time]).column(0)).as_py()
        rows = file.metadata.num_rows
    finally:
        file.close(force=True)
    order = relative.rpartition("/")[2].split("-")[0]
    return FileEntry(
        relative,
        *partition,
        rows,
        bounds["min"],
        bounds["max"],
        disk.size(path),
        _crc(disk, path),
        int(order) if order.isdigit() else 0,
    )
