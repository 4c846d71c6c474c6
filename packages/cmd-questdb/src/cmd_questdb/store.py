"""The entry point of ``cmd.stores``: opens a QuestDB server for writing or reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .conf import Conf

if TYPE_CHECKING:
    from .admin import QuestDBAdmin
    from .reader import QuestDBReader
    from .writer import QuestDBWriter, WriterOptions

__all__ = ["QuestDBStore"]


class QuestDBStore:
    """The kind of store behind ``questdb:http::addr=HOST:PORT;…``."""

    def __init__(self, *, options: WriterOptions | None = None) -> None:
        self._options = options

    def writer(self, location: str) -> QuestDBWriter:
        """Open for writing; an empty database gets the schema. Raises UsageError, StoreError."""
        from .writer import QuestDBWriter

        return QuestDBWriter(Conf.parse(location), options=self._options)

    def reader(self, location: str) -> QuestDBReader:
        """Open for reading. Raises UsageError, and StoreError where there is no store."""
        from .reader import QuestDBReader

        return QuestDBReader(location)

    def admin(self, location: str) -> QuestDBAdmin:
        """Open for looking after it. Raises UsageError."""
        from .admin import QuestDBAdmin

        return QuestDBAdmin(Conf.parse(location))

    def identity(self, location: str) -> str:
        """What tells one store from another, without secrets and settings of the connection. Raises UsageError."""
        conf = Conf.parse(location)
        return f"{conf.shown} {conf.table_prefix}"
