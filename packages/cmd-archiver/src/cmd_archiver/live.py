"""What the store has of a day already, from other sources than the one that is about to be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cmd_common.archive import ArchiveFile
from cmd_common.errors import DataError, StoreError
from cmd_common.io import IReader

from .plan import DAY_NS, day_start

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["live_ids", "mixed", "refuse_ids"]

_SECOND = 1_000_000_000


def _batches(open_reader: Callable[[], IReader], file: ArchiveFile, margin: int) -> Iterator[Any]:
    """The ids and receive times of the stored trades of a day; nothing where there is no store yet."""
    start = day_start(file.first_day)
    try:
        reader = open_reader()
    except StoreError:
        return
    with reader:
        yield from reader.batches(
            file.table, venue=file.venue, symbols=[file.symbol], start=start - margin, end=start + DAY_NS + margin,
            columns=["trade_id", "ts_recv"],
        )  # fmt: skip


def live_ids(open_reader: Callable[[], IReader], file: ArchiveFile) -> pa.Array[Any] | None:
    """Ids of the day's trades that were recorded live; None without any.

    Some exchanges stamp a trade over REST with another number of digits than live, so that its key
    differs: the live row shall stay the only one.
    """
    import pyarrow as pa

    from ._arrow import pc

    found: list[Any] = []
    for batch in _batches(open_reader, file, _SECOND):
        mine = pc.filter(batch.column("trade_id"), pc.is_valid(batch.column("ts_recv")))
        if len(mine):
            found.append(pc.cast(mine.combine_chunks() if isinstance(mine, pa.ChunkedArray) else mine, pa.string()))
    return pa.concat_arrays(found) if found else None


def refuse_ids(open_reader: Callable[[], IReader], file: ArchiveFile) -> None:
    """Raise DataError where the store has trades of the day with ids, for rows that have none."""
    for batch in _batches(open_reader, file, 0):
        if any(not text.startswith("dump:") for text in batch.column("trade_id").to_pylist()):
            raise mixed(file)


def mixed(file: ArchiveFile) -> DataError:
    """The error for rows with and without ids in one day."""
    return DataError(
        f"{file.venue} {file.symbol} {file.table} of {file.first_day}: rows of a local file have no ids, and would be "
        "there twice beside rows that have them",
        hint="--force replaces what was archived of the day",
    )
