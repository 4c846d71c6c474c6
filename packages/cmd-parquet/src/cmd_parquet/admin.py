"""Looking after a Parquet store: ``cmd-cli store``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cmd_common.errors import StoreError, UsageError
from cmd_common.io import Finding, TableSize
from cmd_common.schema import SCHEMA_VERSION
from cmd_common.seams import Disk, OsDisk

from .checking import Problem, rebuild, verify
from .manifest import Manifest
from .paths import MANIFEST, join

if TYPE_CHECKING:
    from cmd_common.commands import Reporter

__all__ = ["ParquetAdmin"]

_HINTS: Final = {
    "manifest": "cmd-cli store check --repair makes a new one from the files",
    "file": "archive its day again with --force",
    "journal": "what is whole in it is kept when the next writer opens",
    "leftover": "the next writer removes it",
}


class ParquetAdmin:
    """``StoreAdmin`` of a folder of Parquet files."""

    def __init__(self, location: str, *, disk: Disk | None = None) -> None:
        self._location = location.replace("\\", "/").rstrip("/") or "/"
        self._disk = disk if disk is not None else OsDisk()

    def _manifest(self) -> Manifest:
        if not self._disk.exists(join(self._location, MANIFEST)):
            raise StoreError(f"there is no store at {self._location}", hint="check the path")
        return Manifest(self._disk, self._location, create=False)

    def status(self) -> Mapping[str, Any]:
        """Tables with their files; raises StoreError where there is no store."""
        manifest = self._manifest()
        try:
            files = manifest.files()
        finally:
            manifest.close()
        tables: dict[str, dict[str, int]] = {}
        for entry in files:
            table = tables.setdefault(entry.table, {"rows": 0, "bytes": 0, "files": 0})
            table["rows"] += entry.rows
            table["bytes"] += entry.size
            table["files"] += 1
        return {
            "store": self._location,
            "schema": SCHEMA_VERSION,
            "schema_of_program": SCHEMA_VERSION,
            "tables": dict(sorted(tables.items())),
            "problems": [],
        }

    def check(self, *, repair: bool, full: bool, reporter: Reporter) -> Sequence[Finding]:
        """Read every byte; ``repair`` makes a new manifest where the old one is damaged."""

        def progress(done: int, total: int) -> None:
            reporter.progress("check", done, total)

        problems = verify(self._location, disk=self._disk, progress=progress)
        if repair and any(p.kind == "manifest" for p in problems):
            count = rebuild(self._location, disk=self._disk)
            reporter.info(f"made a new manifest of {count} files; the old one is beside it as .old")
            problems = verify(self._location, disk=self._disk, progress=progress)
        return [_finding(p) for p in problems]

    def migrate(self, *, dry_run: bool, reporter: Reporter) -> Mapping[str, Any]:
        """There is one version: nothing to do."""
        self._manifest().close()
        reporter.info("a Parquet store has nothing to migrate")
        return {"before": SCHEMA_VERSION, "after": SCHEMA_VERSION, "statements": 0, "dry_run": dry_run}

    def backup(self, target: str, *, keep: int | None, reporter: Reporter) -> Mapping[str, Any]:
        """Copy the store into a new folder in ``target`` while others write; see ``cmd_parquet.backup``."""
        from .backup import backup

        def progress(done: int, total: int) -> None:
            reporter.progress("backup", done, total, unit="files")

        return backup(self._location, target, datetime.now(UTC), keep=keep, progress=progress)

    def restore(self, source: str, target: str, *, force: bool, reporter: Reporter) -> Mapping[str, Any]:
        """Copy a backup to ``target``, by default to where this store is; stop its writers first."""
        from .backup import restore

        return restore(self._location, source, target, force=force)

    def convert(
        self, tables: Sequence[str], *, older: int, back: bool, dry_run: bool, reporter: Reporter
    ) -> Mapping[str, Any]:
        """Its rows have no other form."""
        raise UsageError("the rows of a Parquet store are dense already", hint="there is nothing to convert")

    def sizes(self) -> Mapping[str, TableSize]:
        """Rows, bytes and streams of each table, as the manifest has them; an interval of candles is no stream here."""
        manifest = self._manifest()
        try:
            files = manifest.files()
        finally:
            manifest.close()
        found: dict[str, TableSize] = {}
        streams: dict[str, set[tuple[str, str]]] = {}
        for e in files:
            streams.setdefault(e.table, set()).add((e.venue, e.symbol))
            old = found.get(e.table, TableSize(0, 0, e.min_time, e.max_time, 0))
            found[e.table] = TableSize(
                old.rows + e.rows,
                old.bytes + e.size,
                min(old.start, e.min_time),
                max(old.end, e.max_time),
                len(streams[e.table]),
            )
        return found

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _finding(problem: Problem) -> Finding:
    hint = _HINTS[problem.kind]
    return Finding("warning" if problem.kind == "leftover" else "error", problem.kind, problem.path, problem.what, hint)
