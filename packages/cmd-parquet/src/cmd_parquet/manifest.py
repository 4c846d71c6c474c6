"""The manifest: which Parquet files are the store, in SQLite.

A commit adds files and removes replaced ones in one transaction; what is not in the manifest is not in
the store. Every row carries a CRC-32 of itself, and one number sums them up, so that damage is noticed
when a row is read or when the store is verified. ``manifest.sum`` holds the CRC-32 of the whole file as
of the last clean close; its generation says whether it is still about this content.

On a real disk SQLite works on the file itself (rollback journal, ``synchronous=EXTRA``: a commit is
durable when it returns). On any other Disk it works in memory, and its image is written through the
Disk at each commit: temporary file, sync, rename, sync of the directory.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.request import pathname2url

import msgspec

from cmd_common.errors import StoreBusyError, StoreError
from cmd_common.seams import Disk

from .files import FileEntry
from .paths import MANIFEST, MANIFEST_SUM, TMP, join
from .storage import ensure_dir, is_real

__all__ = ["Manifest", "Transaction"]

FORMAT: Final = 1

_LOG: Final = logging.getLogger("cmd_parquet")
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, tbl TEXT NOT NULL, venue TEXT NOT NULL, symbol TEXT NOT NULL, date TEXT NOT NULL,
    rows INTEGER NOT NULL, min_time INTEGER NOT NULL, max_time INTEGER NOT NULL,
    size INTEGER NOT NULL, crc INTEGER NOT NULL, ord INTEGER NOT NULL, sum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_partition ON files (tbl, venue, symbol, date);
CREATE TABLE IF NOT EXISTS journals (name TEXT PRIMARY KEY, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_FIELDS: Final = "path, tbl, venue, symbol, date, rows, min_time, max_time, size, crc, ord, sum"
_WAIT: Final = 60.0  # seconds that a writer waits for another one's commit
_COUNTERS: Final = ("total", "generation", "next_writer", "format")


def _sum(value: object) -> int:
    return zlib.crc32(msgspec.msgpack.encode(value))


class Transaction:
    """Changes of one commit."""

    def __init__(self, manifest: Manifest, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._manifest = manifest
        self._delta = 0

    def has(self, path: str) -> bool:
        """Whether a file is live."""
        return self._connection.execute("SELECT 1 FROM files WHERE path = ?", (path,)).fetchone() is not None

    def add(self, entry: FileEntry) -> None:
        """Make a file live."""
        check = _sum(entry)
        self._connection.execute(
            f"INSERT INTO files ({_FIELDS}) VALUES ({', '.join('?' * 12)})", (*msgspec.structs.astuple(entry), check)
        )
        self._delta += check

    def remove(self, path: str) -> None:
        """Make a file no longer live."""
        row = self._connection.execute("DELETE FROM files WHERE path = ? RETURNING sum", (path,)).fetchone()
        if row is not None:
            self._delta -= row[0]

    def journal_done(self, name: str) -> None:
        """Note that a journal's rows are in live files."""
        check = _sum(name)
        cursor = self._connection.execute("INSERT OR IGNORE INTO journals VALUES (?, ?)", (name, check))
        if cursor.rowcount:
            self._delta += check

    def forget_journal(self, name: str) -> None:
        """Drop the note about a journal whose file is gone for good."""
        row = self._connection.execute("DELETE FROM journals WHERE name = ? RETURNING sum", (name,)).fetchone()
        if row is not None:
            self._delta -= row[0]

    def new_writer(self) -> int:
        """Allocate a number for a writer."""
        number = self._manifest.meta("next_writer", self._connection) + 1
        self._manifest.set_meta("next_writer", number, self._connection)
        return number

    def files(
        self, table: str | None = None, venue: str | None = None, symbol: str | None = None, date: str | None = None
    ) -> list[FileEntry]:
        """Live files as this transaction sees them."""
        return self._manifest.files(table, venue, None if symbol is None else [symbol], date, date)

    def finish(self) -> None:
        """Bring the sums up to date; called before the commit."""
        total = (self._manifest.meta("total", self._connection) + self._delta) % 2**62
        self._manifest.set_meta("total", total, self._connection)
        generation = self._manifest.meta("generation", self._connection) + 1
        self._manifest.set_meta("generation", generation, self._connection)


class Manifest:
    """The manifest of the store at ``location``. Raises StoreError for a damaged one."""

    def __init__(self, disk: Disk, location: str, *, create: bool) -> None:
        self._disk = disk
        self._location = location
        self.path = join(location, MANIFEST)
        self._real = is_real(disk)
        self._image = b""
        self._tmp = join(location, TMP, "manifest")
        self._connection: sqlite3.Connection | None = None
        with self._guard():
            self._open(create)

    # -- opening ----------------------------------------------------------------------------------

    def _open(self, create: bool) -> None:
        if not self._real:
            self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            if self._disk.exists(self.path):
                self._reload()
            if create:
                self._setup()
            return
        if create:
            self._connection = sqlite3.connect(
                self.path, isolation_level=None, timeout=_WAIT, check_same_thread=False, cached_statements=64
            )
            self._connection.execute("PRAGMA synchronous=EXTRA")
            self._setup()
            return
        uri = f"file:{pathname2url(os.path.abspath(self.path))}"
        # A reader must be able to roll back what a killed writer left; only where it may not write it reads as is.
        mode = "rw" if os.access(self.path, os.W_OK) and os.access(os.path.dirname(self.path), os.W_OK) else "ro"
        self._connection = sqlite3.connect(
            f"{uri}?mode={mode}", uri=True, isolation_level=None, timeout=_WAIT, check_same_thread=False
        )
        self._connection.execute("PRAGMA query_only=ON")
        self._check_format()

    def _setup(self) -> None:
        c = self._db
        known = c.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
        if known:
            self._check_format()
            return
        with self.transaction(setup=True) as transaction:
            for statement in _TABLES.split(";"):
                if statement.strip():
                    c.execute(statement)
            if c.execute("SELECT count(*) FROM meta").fetchone()[0] == 0:
                for name in _COUNTERS:
                    value = FORMAT if name == "format" else 0
                    c.execute("INSERT INTO meta VALUES (?, ?)", (name, value))
            del transaction

    def _check_format(self) -> None:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            if self._disk.size(self.path) == 0:
                raise StoreError(f"the store at {self._location} is empty", hint="record or archive something first")
            raise self._damaged("its tables are missing")
        found = self.meta("format")
        if found != FORMAT:
            raise StoreError(
                f"the store at {self._location} has format {found}, this version reads {FORMAT}",
                hint="update cmd-parquet",
            )

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"the store at {self._location} is closed")
        return self._connection

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            words = str(error)
            if "locked" in words or "busy" in words:
                raise StoreBusyError(
                    f"the manifest {self.path} is locked by another process", hint="try again when it is done"
                ) from error
            if "unable to open" in words or "readonly" in words or "full" in words or "disk I/O" in words:
                raise StoreError(
                    f"cannot use the manifest {self.path}: {words}", hint="check permissions and free space"
                ) from error
            raise self._damaged(words) from error
        except (sqlite3.DatabaseError, msgspec.MsgspecError, OverflowError, UnicodeError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, words: str) -> StoreError:
        return StoreError(
            f"the manifest {self.path} is damaged: {words}",
            hint="restore it from a copy, or rebuild it from the data files with cmd_parquet.rebuild",
        )

    # -- the image in memory, for other disks -----------------------------------------------------------

    def _reload(self) -> None:
        image = self._disk.read(self.path) if self._disk.exists(self.path) else b""
        if image and image != self._image:
            self._db.deserialize(image)
            self._image = image

    def _save(self) -> None:
        image = self._db.serialize()
        self._disk.write(self._tmp, image)
        self._disk.sync(self._tmp)
        self._disk.rename(self._tmp, self.path)
        self._disk.sync_dir(os.path.dirname(self.path))
        self._image = image

    # -- transactions -----------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, setup: bool = False) -> Iterator[Transaction]:
        """Change the manifest; other writers wait. Raises StoreBusyError, StoreError, OSError of the Disk.

        When leaving raises, the commit may or may not have happened, and ``uncertain`` says so.
        """
        self.uncertain = False
        with self._guard():
            if not self._real:
                self._reload()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                transaction = Transaction(self, self._db)
                yield transaction
                transaction.finish()
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back itself when the disk was full
                    self._db.execute("ROLLBACK")
                raise
            self.uncertain = True
            try:
                self._db.execute("COMMIT")
                if not self._real:
                    self._save()
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._image = b""
                if not self._real:  # forget what was not saved
                    self._forget()
                raise
            self.uncertain = False

    uncertain = False

    def _forget(self) -> None:
        try:
            if self._disk.exists(self.path):
                self._reload()
            else:
                self._db.close()
                self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        except OSError:
            pass

    # -- reading ----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """See what others committed; needed only on a Disk that is not the operating system's."""
        if not self._real and not self._db.in_transaction:
            with self._guard():
                self._reload()

    def meta(self, name: str, connection: sqlite3.Connection | None = None) -> int:
        """One number of the store."""
        row = (connection or self._db).execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None or not isinstance(row[0], int):
            raise self._damaged(f"{name} is missing")
        return row[0]

    def set_meta(self, name: str, value: int, connection: sqlite3.Connection) -> None:
        """Set one number, inside a transaction."""
        connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def files(
        self,
        table: str | None = None,
        venue: str | None = None,
        symbols: Sequence[str] | None = None,
        first_date: str | None = None,
        last_date: str | None = None,
        *,
        newer_than: int | None = None,
    ) -> list[FileEntry]:
        """Live files in order of their times; raises StoreError when a row fails its check."""
        self.refresh()
        where: list[str] = []
        values: list[object] = []
        for clause, value in (
            ("tbl = ?", table),
            ("venue = ?", venue),
            ("date >= ?", first_date),
            ("date <= ?", last_date),
            ("ord > ?", newer_than),
        ):
            if value is not None:
                where.append(clause)
                values.append(value)
        few = symbols is not None and len(symbols) <= 500
        if symbols is not None and few:
            where.append(f"symbol IN ({', '.join('?' * len(symbols))})")
            values += symbols
        condition = f" WHERE {' AND '.join(where)}" if where else ""
        with self._guard():
            rows = self._db.execute(f"SELECT {_FIELDS} FROM files{condition} ORDER BY min_time, path", values)
            entries = [self._entry(row) for row in rows]
        if symbols is not None and not few:
            wanted = set(symbols)
            entries = [e for e in entries if e.symbol in wanted]
        return entries

    def _entry(self, row: tuple[Any, ...]) -> FileEntry:
        entry = FileEntry(*row[:-1])
        if _sum(entry) != row[-1]:
            raise self._damaged(f"the row of file {entry.path!r} fails its check")
        return entry

    def has(self, path: str) -> bool:
        """Whether a file is live."""
        self.refresh()
        with self._guard():
            return self._db.execute("SELECT 1 FROM files WHERE path = ?", (path,)).fetchone() is not None

    def tables(self) -> list[str]:
        """Names of tables with live files."""
        self.refresh()
        with self._guard():
            return [r[0] for r in self._db.execute("SELECT DISTINCT tbl FROM files ORDER BY tbl")]

    def last_order(self) -> int:
        """The highest order of any live file, 0 without files."""
        self.refresh()
        with self._guard():
            found = self._db.execute("SELECT max(ord) FROM files").fetchone()[0]
        return int(found) if found is not None else 0

    def done_journals(self) -> set[str]:
        """Journals whose rows are in live files."""
        self.refresh()
        with self._guard():
            return {r[0] for r in self._db.execute("SELECT name FROM journals")}

    # -- closing and checking -----------------------------------------------------------------------

    def write_sum(self) -> None:
        """Write the checksum of the whole manifest; nobody commits meanwhile. Raises OSError."""
        with self._guard():
            if not self._real:
                self._reload()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                # serialize() and not the file: closing a second handle of it would drop SQLite's locks
                image = self._db.serialize()
                note = msgspec.msgpack.encode((self.meta("generation"), len(image), zlib.crc32(image)))
                note += zlib.crc32(note).to_bytes(4, "little")
                self._disk.write(join(self._location, MANIFEST_SUM), note)
                self._disk.sync(join(self._location, MANIFEST_SUM))
            finally:
                self._db.execute("ROLLBACK")

    def check(self) -> list[str]:
        """Everything that is wrong with the manifest; empty when it is sound."""
        problems: list[str] = []
        try:
            self.refresh()
            with self._guard():
                for (word,) in self._db.execute("PRAGMA integrity_check(20)"):
                    if word != "ok":
                        problems.append(f"SQLite says: {word}")
                total = sum(self._sums()) % 2**62
                if total != self.meta("total"):
                    problems.append("the sum over its rows is wrong: rows are missing or altered")
                image = self._db.serialize()
                size = self._disk.size(self.path)
                if size != len(image):
                    problems.append(f"it has {size} bytes and should have {len(image)}")
                problems += self._check_sum(image)
        except (StoreError, OSError, sqlite3.Error, MemoryError) as error:
            problems.append(str(error))
        return problems

    def _sums(self) -> Iterator[int]:
        for row in self._db.execute(f"SELECT {_FIELDS} FROM files"):
            self._entry(row)
            yield row[-1]
        for name, check in self._db.execute("SELECT name, sum FROM journals"):
            if _sum(name) != check:
                raise self._damaged(f"the row of journal {name!r} fails its check")
            yield check

    def _check_sum(self, image: bytes) -> list[str]:
        path = join(self._location, MANIFEST_SUM)
        if not self._disk.exists(path):
            return []
        note = self._disk.read(path)
        if len(note) < 5 or zlib.crc32(note[:-4]).to_bytes(4, "little") != note[-4:]:
            return [f"its checksum file {path} is damaged"]
        generation, size, crc = msgspec.msgpack.decode(note[:-4], type=tuple[int, int, int])
        if generation == self.meta("generation") and (len(image) != size or zlib.crc32(image) != crc):
            return ["its bytes do not match their checksum"]
        return []

    def close(self) -> None:
        """Release; calling it again does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def commit(
    disk: Disk,
    location: str,
    manifest: Manifest,
    intent: str,
    added: Sequence[tuple[str, FileEntry]],
    removed: Sequence[FileEntry],
    journals: Iterable[str] = (),
    forget: Iterable[str] = (),
    known: set[str] | None = None,
) -> bool:
    """Make temporary files live and replaced ones not, all or nothing.

    False when a file to be replaced is no longer live: another process was faster. ``intent`` is the path of a file
    that names all paths while this runs, so that whoever finds it later can delete what is not live;
    ``known`` remembers the folders that are durable.
    Raises OSError and StoreError; then the intent stays if it is not known what happened.
    """
    folders = sorted({e.partition.folder for _, e in added})
    for folder in folders:
        ensure_dir(disk, location, folder, known)
    paths = [e.path for _, e in added] + [e.path for e in removed]
    if paths:
        text = msgspec.json.encode(paths)
        disk.write(intent, text + zlib.crc32(text).to_bytes(4, "little"))
        disk.sync(intent)
        disk.sync_dir(os.path.dirname(intent))
    try:
        with manifest.transaction() as transaction:
            if not all(transaction.has(e.path) for e in removed):
                raise _Outrun
            for temporary, entry in added:
                disk.rename(temporary, join(location, entry.path))
            for folder in folders:
                disk.sync_dir(join(location, folder))
            for e in removed:
                transaction.remove(e.path)
            for _, e in added:
                transaction.add(e)
            for name in journals:
                transaction.journal_done(name)
            for name in forget:
                transaction.forget_journal(name)
    except _Outrun:
        disk.remove(intent)
        return False
    except (OSError, StoreError):
        if not manifest.uncertain and paths:
            resolve(disk, location, manifest, intent)
        raise
    if paths:
        try:
            _discard(disk, location, [e.path for e in removed])
            disk.remove(intent)
        except OSError as error:  # committed all the same: the intent stays and is resolved later
            _LOG.warning("replaced files of %s could not be deleted yet: %s", location, error)
    return True


class _Outrun(Exception):
    pass


def _discard(disk: Disk, location: str, paths: Sequence[str]) -> None:
    """Delete files durably, so that a power loss cannot bring them back without their intent."""
    for path in paths:
        disk.remove(join(location, path))
    for folder in sorted({os.path.dirname(join(location, p)) for p in paths}):
        if disk.exists(folder):
            disk.sync_dir(folder)


def resolve(disk: Disk, location: str, manifest: Manifest, intent: str) -> None:
    """Finish what an interrupted commit left: of the paths in its intent, delete those that are not live."""
    data = disk.read(intent)
    text, check = data[:-4], data[-4:]
    if zlib.crc32(text).to_bytes(4, "little") == check:  # else it was never synced, and nothing was renamed
        paths = msgspec.json.decode(text, type=list[str])
        _discard(disk, location, [p for p in paths if not manifest.has(p)])
    disk.remove(intent)
