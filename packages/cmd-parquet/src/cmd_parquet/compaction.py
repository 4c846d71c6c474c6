"""Compaction: several files of one partition become one, each key once.

Which files may be merged: of two files with one key, the one written later decides, and a merged file counts
as written when its newest part was. So either all files that overlap in time are merged together, or files
that follow each other in writing order; and never files on both sides of a row that is not in a file yet. Merging streams; memory does not grow with the day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cmd_common.seams import Disk

from .files import FileEntry
from .manifest import Manifest
from .paths import Partition, join
from .stage import NewFile, merge_files

__all__ = ["Compactor", "clusters"]


class _Commit(Protocol):
    def __call__(self, new: Sequence[NewFile], removed: Sequence[FileEntry], /) -> bool: ...


def clusters(entries: Sequence[FileEntry]) -> list[list[FileEntry]]:
    """Group files of one partition so that files of different groups cannot share a key."""
    groups: list[list[FileEntry]] = []
    end = 0
    for entry in sorted(entries, key=lambda e: (e.min_time, e.path)):
        if groups and entry.min_time <= end:
            groups[-1].append(entry)
            end = max(end, entry.max_time)
        else:
            groups.append([entry])
            end = entry.max_time
    return groups


class Compactor:
    """Merges files of a writer's store."""

    def __init__(
        self,
        disk: Disk,
        location: str,
        manifest: Manifest,
        commit: _Commit,
        temporary: Callable[[], str],
        *,
        max_files: int,
        barrier: Callable[[str], int | None],
    ) -> None:
        self._disk = disk
        self._location = location
        self._manifest = manifest
        self._commit = commit
        self._temporary = temporary
        self._max_files = max_files
        self._barrier = barrier

    def _entries(self, partition: Partition) -> list[FileEntry]:
        """Files that may be merged: those written before any row that is still on its way to a file."""
        barrier = self._barrier(partition.table)
        entries = self._all(partition)
        return entries if barrier is None else [e for e in entries if e.order < barrier]

    def _all(self, partition: Partition) -> list[FileEntry]:
        return self._manifest.files(
            partition.table, partition.venue, [partition.symbol], partition.date, partition.date
        )

    def _merge(self, partition: Partition, entries: list[FileEntry]) -> int:
        """Merge files; 0 when another process was faster."""
        if len(entries) < 2:
            return 0
        temporary = self._temporary()
        path = join(self._location, temporary)
        try:
            merged = merge_files(self._disk, self._location, partition, entries, path)
        except FileNotFoundError:  # another process compacts the same day
            return 0
        final = f"{partition.folder}/{merged.order}-{temporary.rpartition('/')[2]}.parquet"
        entry = FileEntry(
            final,
            *partition,
            merged.rows,
            merged.min_time,
            merged.max_time,
            merged.size,
            merged.crc,
            merged.order,
        )
        if self._commit([NewFile(path, entry)], entries):
            return len(entries) - 1
        self._disk.remove(path)
        return 0

    def whole(self, partition: Partition) -> int:
        """Merge all files of a partition; returns files saved."""
        return self._merge(partition, self._entries(partition))

    def exact(self, partition: Partition) -> int:
        """Merge files that could share keys, or all if there are too many; then a plain glob is exact."""
        entries = self._entries(partition)
        if len(entries) > self._max_files:
            return self._merge(partition, entries)
        return sum(self._merge(partition, group) for group in clusters(entries))

    def tidy(self, partition: Partition) -> int:
        """Merge small files of a running recorder, so that their number stays logarithmic.

        The newest files are merged while they are at least ``max_files`` and of like size, so that a row is
        rewritten a few times a day only.
        """
        entries = sorted(self._entries(partition), key=lambda e: (e.order, e.path))
        run: list[FileEntry] = []
        size = 0
        for entry in reversed(entries):
            if run and entry.size > 2 * max(size, 64 << 10):
                break
            run.append(entry)
            size += entry.size
        if len(run) <= self._max_files:
            return 0
        return self._merge(partition, run)
