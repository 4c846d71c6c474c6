"""What is archived, file by file: a small SQLite database in the store's folder.

One row is one product of one published file. ``writing`` is set before the first row goes to the
store and ``done`` after everything is durable, so that a killed archiver is seen and done again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from cmd_common.archive import ArchiveFile
from cmd_common.errors import StoreError
from cmd_common.records import Gap

__all__ = ["Entry", "Manifest"]

State = Literal["writing", "done", "missing", "quarantined"]
_VERSION = 2
_WAIT = 30.0  # seconds for another process's turn
_CREATE = """
CREATE TABLE IF NOT EXISTS files (
    key TEXT NOT NULL, product TEXT NOT NULL,
    venue TEXT NOT NULL, tbl TEXT NOT NULL, symbol TEXT NOT NULL, interval TEXT NOT NULL,
    day TEXT NOT NULL, last_day TEXT NOT NULL,
    state TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, rows INTEGER NOT NULL,
    first_id INTEGER, last_id INTEGER, first_ts INTEGER, last_ts INTEGER,
    gaps TEXT NOT NULL, detail TEXT NOT NULL, updated_ns INTEGER NOT NULL, version TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (key, product)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_day ON files (venue, tbl, symbol, interval, day);
"""
_COLUMNS = (
    "key, product, venue, tbl, symbol, interval, day, last_day, state, sha256, size, rows, "
    "first_id, last_id, first_ts, last_ts, gaps, detail, updated_ns, version"
)


class Entry(Struct, frozen=True):
    """One row: ids and times are those of the first and last row of the file, in id or time order.

    ``version`` is what the server says of a file without a published checksum (ETag, date, size).
    """

    key: str
    product: str
    state: State
    sha256: str = ""
    size: int = 0
    rows: int = 0
    first_id: int | None = None
    last_id: int | None = None
    first_ts: int | None = None
    last_ts: int | None = None
    gaps: tuple[Gap, ...] = ()
    detail: str = ""
    updated_ns: int = 0
    last_day: str = ""
    version: str = ""


_GAPS = msgspec.json.Decoder(tuple[Gap, ...])


class Manifest:
    """The manifest of one store. Not for several threads; several processes may share the file."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open or create; ``read_only`` never creates and sees an absent file as empty."""
        self.path = path
        target = str(path)
        if read_only and not path.exists():
            target = ":memory:"
        deadline = time.monotonic() + _WAIT
        while True:
            try:
                if not read_only:
                    path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(target, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            except OSError as error:
                raise StoreError(f"cannot create the archive manifest {path}: {error.strerror or error}") from None
            except sqlite3.Error as error:
                raise StoreError(f"cannot open the archive manifest {path}: {error}") from None
            try:
                self._set_up(target, read_only=read_only)
                return
            except sqlite3.Error as error:
                self._db.close()
                # Two that create one file at once: SQLite tells the second to ask again, whatever its time-out.
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy or time.monotonic() > deadline:
                    raise StoreError(f"cannot open the archive manifest {path}: {error}") from None
                time.sleep(0.02)

    def _set_up(self, target: str, *, read_only: bool) -> None:
        if target != ":memory:" and not read_only:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 1:
            self._upgrade(read_only=read_only)
        elif version not in (0, _VERSION):
            raise StoreError(
                f"{self.path} has version {version}, this program knows {_VERSION}", hint="use the newer program"
            )
        if not read_only or target == ":memory:":
            self._db.executescript(_CREATE)
            self._db.execute(f"PRAGMA user_version={_VERSION}")

    def _upgrade(self, *, read_only: bool) -> None:
        """From version 1, which knew no files without a published checksum."""
        if read_only:  # looked at as it will be, in memory
            disk, self._db = self._db, sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            disk.backup(self._db)
            disk.close()
        self._db.execute("BEGIN IMMEDIATE")
        if self._db.execute("PRAGMA user_version").fetchone()[0] == 1:
            self._db.execute("ALTER TABLE files ADD COLUMN version TEXT NOT NULL DEFAULT ''")
            self._db.execute(f"PRAGMA user_version={_VERSION}")
        self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"archive manifest {self.path}: {error}") from None

    @staticmethod
    def _entry(row: Sequence[object]) -> Entry:
        data = dict(zip(_COLUMNS.split(", "), row, strict=True))
        data["gaps"] = _GAPS.decode(str(data["gaps"]))
        return msgspec.convert({f: data[f] for f in Entry.__struct_fields__}, Entry)

    def get(self, key: str, product: str) -> Entry | None:
        """The row of one product of one file."""
        with self._errors():
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM files WHERE key = ? AND product = ?", (key, product)
            ).fetchone()
        return self._entry(row) if row else None

    def neighbours(self, file: ArchiveFile, product: str) -> tuple[Entry | None, Entry | None]:
        """The done files that end the day before ``file`` starts and start the day after it ends."""
        from datetime import timedelta

        found: list[Entry | None] = []
        for column, day in (
            ("last_day", file.first_day - timedelta(days=1)),
            ("day", file.last_day + timedelta(days=1)),
        ):
            with self._errors():
                row = self._db.execute(
                    f"SELECT {_COLUMNS} FROM files WHERE venue = ? AND tbl = ? AND symbol = ? AND interval = ? "
                    f"AND {column} = ? AND product = ? AND state = 'done' ORDER BY key LIMIT 1",
                    (file.venue, file.table, file.symbol, file.interval, day.isoformat(), product),
                ).fetchone()
            found.append(self._entry(row) if row else None)
        return found[0], found[1]

    def others_missing(self, file: ArchiveFile, product: str, but: Sequence[str] = ()) -> bool:
        """Whether candles of another interval or source are missing for these days of the symbol; the
        product's rows of the keys in ``but`` do not count.
        """
        with self._errors():
            rows = self._db.execute(
                "SELECT key, product FROM files WHERE venue = ? AND symbol = ? AND day = ? AND last_day = ? "
                "AND state IN ('missing', 'quarantined') AND (product = 'candles' OR product LIKE 'built:%')",
                (file.venue, file.symbol, file.first_day.isoformat(), file.last_day.isoformat()),
            ).fetchall()
        mine = {(key, product) for key in (file.key, *but)}
        return any(row not in mine for row in rows)

    def elsewhere(self, file: ArchiveFile, product: str) -> list[Entry]:
        """The rows of the same days and product that have another key: from REST, from a local file."""
        with self._errors():
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM files WHERE venue = ? AND tbl = ? AND symbol = ? AND interval = ? "
                "AND day = ? AND last_day = ? AND product = ? AND key != ? ORDER BY key",
                (
                    file.venue, file.table, file.symbol, file.interval, file.first_day.isoformat(),
                    file.last_day.isoformat(), product, file.key,
                ),
            ).fetchall()  # fmt: skip
        return [self._entry(row) for row in rows]

    def put(self, file: ArchiveFile, entries: Sequence[Entry], remove: Sequence[Entry] = ()) -> None:
        """Insert or replace rows of one file's days and remove others; durable on return, all or none."""
        rows = [
            (
                e.key, e.product, file.venue, file.table, file.symbol, file.interval,
                file.first_day.isoformat(), file.last_day.isoformat(),
                e.state, e.sha256, e.size, e.rows, e.first_id, e.last_id, e.first_ts, e.last_ts,
                msgspec.json.encode(e.gaps).decode(), e.detail, e.updated_ns, e.version,
            )
            for e in entries
        ]  # fmt: skip
        marks = ", ".join("?" * len(_COLUMNS.split(", ")))
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(f"INSERT OR REPLACE INTO files ({_COLUMNS}) VALUES ({marks})", rows)
                self._db.executemany(
                    "DELETE FROM files WHERE key = ? AND product = ?", [(e.key, e.product) for e in remove]
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def set_gaps(self, entry: Entry, gaps: Sequence[Gap]) -> None:
        """Set the gaps of a done row, unless it was replaced since ``entry`` was read."""
        with self._errors():
            self._db.execute(
                "UPDATE files SET gaps = ? WHERE key = ? AND product = ? AND state = 'done' AND sha256 = ?",
                (msgspec.json.encode(tuple(gaps)).decode(), entry.key, entry.product, entry.sha256),
            )

    def entries(self, venue: str | None = None) -> list[Entry]:
        """All rows, of one venue or all, ordered by key."""
        with self._errors():
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM files WHERE ? IS NULL OR venue = ? ORDER BY key, product", (venue, venue)
            ).fetchall()
        return [self._entry(row) for row in rows]

    def by_stream(self, venue: str | None = None) -> list[tuple[str, str, str, str, str, Entry]]:
        """All rows with venue, table, symbol, interval and first day, of one venue or all, by day."""
        with self._errors():
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM files WHERE ? IS NULL OR venue = ? ORDER BY day, key, product", (venue, venue)
            ).fetchall()
        return [(str(r[2]), str(r[3]), str(r[4]), str(r[5]), str(r[6]), self._entry(r)) for r in rows]

    def close(self) -> None:
        """Close; calling it again does nothing."""
        self._db.close()
