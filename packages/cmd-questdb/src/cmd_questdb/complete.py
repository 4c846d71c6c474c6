"""Queries over tables without the rows inside open gaps, in the server's own SQL."""

from __future__ import annotations

from cmd_common.errors import UsageError
from cmd_common.gaps import inside_sql, is_checked
from cmd_common.schema import TABLES

from .conf import Conf
from .merge import present
from .result import names_in
from .schema import VIEWS

__all__ = ["checked_in", "complete_rows", "only_complete"]


def checked_in(query: str, conf: Conf) -> list[str]:
    """The tables of the schema named in a query whose rows can be incomplete."""
    names = names_in(query)
    return [t for t in TABLES if is_checked(t) and conf.table(t).lower() in names]


def complete_rows(table: str, conf: Conf) -> str:
    """The SELECT of a table's rows that are inside no open gap."""
    return (
        f"SELECT t.* FROM {conf.table(table)} t LEFT JOIN {conf.table('gaps')} g ON {inside_sql(table, 't', 'g')} "
        f"WHERE g.ts_from IS NULL AND {present(table, 't.')}"
    )


def only_complete(statement: str, conf: Conf) -> str:
    """Put the complete rows in the place of each table that a reading statement names.

    Each becomes a common table expression of the table's name in front of the statement. Raises UsageError for
    views, and for what is no SELECT.
    """
    names = names_in(statement)
    views = [v for v in VIEWS if conf.table(v).lower() in names]
    if views:
        raise UsageError(
            f"the view {conf.table(views[0])} does not tell complete rows", hint="query the table trades or candles"
        )
    tables = checked_in(statement, conf)
    if not tables:
        return statement
    first = statement.split(None, 1)[0].lower()
    if first not in ("select", "with"):
        raise UsageError(f"{first.upper()} has no complete rows to tell", hint="write SELECT ... FROM ...")
    parts = ", ".join(f"{conf.table(t)} AS ({complete_rows(t, conf)})" for t in tables)
    if first == "with":
        return f"WITH {parts}, {statement[4:].lstrip()}"
    return f"WITH {parts} {statement}"
