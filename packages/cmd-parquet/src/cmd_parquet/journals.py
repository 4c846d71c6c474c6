"""The rows of all journals as a reader sees them, read once and then only what was added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cmd_common.seams import Disk

from .columns import rows_to_arrow
from .journal import SUFFIX, rows_in, scan
from .manifest import Manifest
from .paths import JOURNAL, join
from .storage import read_from

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["JournalView"]


class _Seen:
    """What is known of one journal."""

    def __init__(self) -> None:
        self.end = 0
        self.tables: dict[str, list[pa.Table]] = {}


class JournalView:
    """Journal rows by table. Holds them in memory; a journal is at most as large as the writer rolls."""

    def __init__(self, disk: Disk, location: str) -> None:
        self._disk = disk
        self._folder = join(location, JOURNAL)
        self._seen: dict[str, _Seen] = {}

    def _update(self, manifest: Manifest) -> None:
        names = [n for n in self._disk.listdir(self._folder) if n.endswith(SUFFIX)]
        for name in names:
            seen = self._seen.setdefault(name, _Seen())
            path = join(self._folder, name)
            try:
                if self._disk.size(path) <= seen.end:
                    continue
                data = read_from(self._disk, path, seen.end)
            except FileNotFoundError:  # rolled in between
                continue
            base = seen.end
            rows: dict[str, tuple[list[tuple[object, ...]], list[int]]] = {}
            for order, table, part in rows_in(data, path, base):
                held, orders = rows.setdefault(table, ([], []))
                held += part
                orders += range(order, order + len(part))
            for table, (held, orders) in rows.items():
                seen.tables.setdefault(table, []).append(rows_to_arrow(table, held, orders))
            seen.end = scan(data, base).end
        # Read after the journals: one that is done by now has its rows in files that the manifest shows.
        done = manifest.done_journals()
        self._seen = {n: s for n, s in self._seen.items() if n in names and n not in done}

    def tables(self, manifest: Manifest) -> list[str]:
        """Tables with rows in journals."""
        self._update(manifest)
        return sorted({t for s in self._seen.values() for t in s.tables})

    def rows(self, manifest: Manifest, table: str) -> Iterator[pa.Table]:
        """Rows of one table, with ``_order``, in the order of writing inside each journal."""
        self._update(manifest)
        for seen in self._seen.values():
            yield from seen.tables.get(table, ())
