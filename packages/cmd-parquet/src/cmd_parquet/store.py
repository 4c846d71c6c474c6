"""The entry point of ``cmd.stores``: opens a folder for writing or reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmd_common.seams import Clock, Disk

if TYPE_CHECKING:
    from .admin import ParquetAdmin
    from .reader import ParquetReader
    from .writer import ParquetWriter, WriterOptions

__all__ = ["ParquetStore"]


class ParquetStore:
    """The kind of store behind ``parquet:PATH``; a Disk and a Clock may replace the real ones."""

    def __init__(
        self, *, disk: Disk | None = None, clock: Clock | None = None, options: WriterOptions | None = None
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._options = options

    def writer(self, location: str) -> ParquetWriter:
        """Open for writing, creating it where it is absent; raises StoreError."""
        from .writer import ParquetWriter

        return ParquetWriter(location, disk=self._disk, clock=self._clock, options=self._options)

    def reader(self, location: str) -> ParquetReader:
        """Open for reading; raises StoreError where there is no store."""
        from .reader import ParquetReader

        return ParquetReader(location, disk=self._disk)

    def admin(self, location: str) -> ParquetAdmin:
        """Open for looking after it; it need not be whole."""
        from .admin import ParquetAdmin

        return ParquetAdmin(location, disk=self._disk)
