"""Bulk rows on their way: held in memory and then in a temporary file until their unit is flushed or discarded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Final, cast

from .columns import arrow_schema
from .merge import classes, extent

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Staged", "Unit"]

_MEMORY: Final = 128 << 20  # of Arrow, a million trades: most days never touch the disk


class Staged:
    """The rows of one table in a unit, in the order in which they were written; read as often as needed."""

    def __init__(self, name: str, memory: int) -> None:
        self.name = name
        self.rows = 0
        self.classes: set[int] = set()
        self.times = (2**63 - 1, 0)  # [start, end)
        self.values: dict[str, set[str]] = {}  # of the key columns with few
        self._memory = memory
        self._held: list[pa.Table] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._writer: Any = None

    def add(self, data: pa.Table) -> None:
        """Take rows; raises OSError when the disk does."""
        if not data.num_rows:
            return
        self.classes.update(int(c) for c in set(classes(self.name, data).tolist()))
        times, values = extent(self.name, data)
        self.times = (min(self.times[0], times[0]), max(self.times[1], times[1]))
        for column, found in values.items():
            self.values.setdefault(column, set()).update(found)
        self.rows += data.num_rows
        self._held.append(data)
        self._size += data.nbytes
        if self._size > self._memory:
            self._spill()

    def _spill(self) -> None:
        import pyarrow as pa

        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="cmd-questdb-")  # noqa: SIM115 - it lives as long as the unit
            schema = pa.schema([f.with_nullable(True) for f in arrow_schema(self.name)])
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_stream(self._file, schema, options=options)
        for data in self._held:
            self._writer.write_table(data)
        self._held, self._size = [], 0

    def pieces(self) -> Iterator[pa.Table]:
        """All rows, in order."""
        import pyarrow as pa

        if self._file is not None:
            self._spill()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._file.seek(0)
            for batch in pa.ipc.open_stream(cast("Any", self._file)):
                yield pa.Table.from_batches([batch])
        yield from self._held

    def close(self) -> None:
        """Forget the rows."""
        self._held = []
        if self._file is not None:
            self._file.close()
            self._file = None


class Unit:
    """What ``write_batch`` and ``delete`` collect until the next flush."""

    def __init__(self, memory: int = _MEMORY) -> None:
        self.tables: dict[str, Staged] = {}
        self._memory = memory

    def add(self, name: str, data: pa.Table) -> None:
        """Take rows of a table."""
        staged = self.tables.get(name)
        if staged is None:
            staged = self.tables[name] = Staged(name, self._memory)
        staged.add(data)

    def close(self) -> None:
        """Forget all rows."""
        for staged in self.tables.values():
            staged.close()
        self.tables.clear()
