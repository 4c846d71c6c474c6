"""What a writer does with what dead writers left: journals, unfinished commits, temporary files."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from .journal import CONFIRMED, SUFFIX, confirmed_length, scan
from .manifest import resolve
from .paths import DAMAGED, JOURNAL, TMP, join
from .storage import ensure_dir, try_lock

if TYPE_CHECKING:
    from .writer import ParquetWriter

__all__ = ["Recovery"]

_LOG: Final = logging.getLogger("cmd_parquet")
_OWNER: Final = re.compile(r"(w\d+)-")


class Recovery:
    """Adopts the leftovers of dead writers into a new writer's store."""

    def __init__(self, writer: ParquetWriter) -> None:
        self._writer = writer
        self._disk = writer._disk
        self._location = writer.location

    def run(self) -> None:
        """Adopt everything whose writer is dead; raises OSError, StoreError."""
        owners: dict[str, list[str]] = {}
        for folder in (TMP, JOURNAL):
            for name in self._disk.listdir(join(self._location, folder)):
                match = _OWNER.match(name)
                if match is not None and match[1] != self._writer.writer_id:
                    owners.setdefault(match[1], []).append(join(self._location, folder, name))
        for owner in sorted(owners):
            lock = try_lock(self._disk, self._location, f"writer-{owner}")
            if lock is None:
                continue
            try:
                # Listed again under the lock: the owner may have finished in between.
                self._adopt([p for p in owners[owner] if self._disk.exists(p)])
            finally:
                lock.release()

    def _adopt(self, paths: list[str]) -> None:
        manifest = self._writer._manifest
        for path in paths:
            if path.endswith(".intent"):
                resolve(self._disk, self._location, manifest, path)
        for path in paths:
            if f"/{TMP}/" in path and not path.endswith(".intent"):
                self._disk.remove(path)
        done = manifest.done_journals()
        contents: dict[str, bytes] = {}
        damaged: list[str] = []
        for path in paths:
            name = path.rpartition("/")[2]
            if not name.endswith(SUFFIX):
                continue
            if name in done:
                self._writer.forget_journal(path)
                continue
            data = self._disk.read(path)
            if self._is_damaged(path, data):
                damaged.append(path)
            contents[path] = data
        for path in damaged:
            self._keep(path, contents[path])
        if contents:
            self._writer.roll_journals(contents)
        for path in paths:
            if path.endswith(CONFIRMED) and path.removesuffix(CONFIRMED) not in contents:
                self._disk.remove(path)

    def _is_damaged(self, path: str, data: bytes) -> bool:
        """Report what cannot be read; a torn tail was never confirmed and is normal after a kill."""
        found = scan(data)
        note = path + CONFIRMED
        confirmed, _ = confirmed_length(self._disk.read(note)) if self._disk.exists(note) else (0, True)
        lost = sum(end - start for start, end in found.holes) + max(confirmed - found.end, 0)
        if lost:
            self._tell(
                f"journal {path} is damaged: {lost} bytes of confirmed rows cannot be read; "
                f"the rest is kept, a copy is in {join(self._location, DAMAGED)}"
            )
        elif found.end < len(data):
            self._tell(f"journal {path} ends in {len(data) - found.end} bytes that were never confirmed; they are cut")
        return lost > 0

    def _keep(self, path: str, data: bytes) -> None:
        folder = join(self._location, DAMAGED)
        ensure_dir(self._disk, self._location, DAMAGED)
        copy = join(folder, path.rpartition("/")[2])
        self._disk.write(copy, data)
        self._disk.sync(copy)
        self._disk.sync_dir(folder)

    def _tell(self, words: str) -> None:
        self._writer.notices.append(words)
        _LOG.warning("%s", words)
