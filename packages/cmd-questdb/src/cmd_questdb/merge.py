"""Which of several rows with one key stays, and how rows go: the schema's preference over a server that knows none.

Theory of operation. QuestDB's deduplication keeps the row written last. The schema (``cmd_common.schema``) prefers
by the ``prefer`` column, then a row with a receive time over one without, and only then the row written last. So
every row has a class, 0 the best. A row of class 0 is simply written. A row of a worse class may be written only
where no better row of its key is stored: the writer asks for the keys of better rows in the same range of time
(``drop_beaten``), a bulk load whose rows are on the server already lets the server do it (``insert_preferred``).
Rows of one call are written class by class, the worst first, so that among themselves they come out right too.

Both look at what the server has applied, so they wait until everything committed before can be read. A better row
that another process commits between the look and the write is the one case that is not covered: then the worse
row stays. It takes a live row that arrives for the moment that is being archived, within milliseconds.

Deleting. QuestDB deletes partitions, not rows, and an UPDATE suspends a table at partitions in Parquet form. So a
row goes by being replaced by its tombstone: the same key, and NULL in all other columns. ``present`` is the
condition that tells a row from a tombstone; it stands in every query of the reader and in the candle views. A
tombstone has the worst class: whatever comes for its key takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from cmd_common.schema import table as table_of

from .columns import arrow_schema
from .frames import compute
from .schema import EXTRA, all_column_types, column_types
from .sql import ServerAway, SqlClient, identifier, literal, suspended_error, timestamp

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "class_sql",
    "any_better",
    "classes",
    "drop_beaten",
    "extent",
    "insert_preferred",
    "marker",
    "present",
    "stored_keys",
    "wait_applied",
    "within",
    "without_keys",
]

_POLL: Final = 0.005  # s between looks at the WAL
_NAMES: Final = 50  # symbols that are named in a query; of more, all are asked for
_FIELD_OF_EXTRA: Final = {"best_bid": "bids[1, 1]", "best_ask": "asks[1, 1]"}


@cache
def marker(name: str) -> str:
    """The column of table ``name`` that is never NULL in a row and always NULL in a tombstone."""
    table = table_of(name)
    if "flags" in table.names:
        return "flags"
    return next(c.name for c in table.columns if not c.nullable and c.type == "string" and c.name not in table.key)


def present(name: str, alias: str = "") -> str:
    """The SQL condition that holds for rows and not for tombstones."""
    return f"{alias}{marker(name)} IS NOT NULL"


def class_sql(name: str, alias: str = "") -> str:
    """The SQL expression of a row's class."""
    table = table_of(name)
    parts = []
    if table.prefer is not None:
        column, values = table.prefer
        cases = " ".join(f"WHEN {alias}{column} = {literal(v)} THEN {2 * i}" for i, v in enumerate(values))
        parts.append(f"CASE {cases} ELSE {2 * len(values)} END")
    if "ts_recv" in table.names:
        parts.append(f"CASE WHEN {alias}ts_recv IS NULL THEN 1 ELSE 0 END")
    return " + ".join(parts) or "0"


def classes(name: str, data: pa.Table) -> Any:
    """The class of each row of a batch, as a numpy array."""
    import numpy as np
    import pyarrow as pa

    table = table_of(name)
    out = np.zeros(data.num_rows, np.int8)
    if table.prefer is not None:
        column, values = table.prefer
        rank = compute().fill_null(
            compute().index_in(data.column(column), value_set=pa.array(values, pa.string())), len(values)
        )
        out += 2 * rank.to_numpy().astype(np.int8)
    if "ts_recv" in table.names and data.column("ts_recv").null_count:
        out += data.column("ts_recv").is_null().to_numpy().astype(np.int8)
    return out


def wait_applied(client: SqlClient, name: str, *, timeout: float = 30.0) -> None:
    """Return when what is committed to table ``name`` by now can be read, however much others go on writing.

    Raises TableSuspended, MissingTable's parent StoreError by the query, ServerAway after ``timeout`` seconds.
    """
    full = client.conf.table(name)
    sql = f"SELECT suspended, writerTxn, sequencerTxn FROM wal_tables() WHERE name = {literal(full)}"
    end = time.monotonic() + timeout
    goal: int | None = None
    while True:
        rows = client.exec(sql).rows
        if not rows:
            return  # gone: the write will say so
        suspended, written, sequenced = rows[0]
        if suspended:
            raise suspended_error(full)
        goal = sequenced if goal is None else goal
        if written >= goal:
            return
        if time.monotonic() > end:
            raise ServerAway(
                f"{client.conf.shown} has not applied what was written to {full} within {timeout:g} s",
                hint="see cmd-cli store check",
            )
        time.sleep(_POLL)


def within(name: str, start: int, end: int, equal: Mapping[str, Collection[str]]) -> str:
    """The condition of a range ``[start, end)`` and of columns with one of some texts."""
    clock = table_of(name).time
    parts = [f"{clock} >= {timestamp(start)}", f"{clock} < {timestamp(end)}"]
    for column, values in equal.items():
        if len(values) == 1:
            parts.append(f"{column} = {literal(next(iter(values)))}")
        elif len(values) <= _NAMES:
            parts.append(f"{column} IN ({', '.join(map(literal, sorted(values)))})")
    return " AND ".join(parts)


def stored_keys(client: SqlClient, name: str, condition: str) -> pa.Table:
    """The keys of the stored rows for which a condition holds, with the schema's types."""
    table, full = table_of(name), identifier(client.conf.table(name))
    where = f"{condition} AND {present(name)}"
    schema = arrow_schema(name)
    import pyarrow as pa

    fields = pa.schema([schema.field(c) for c in table.key])
    if not client.value(f"SELECT count() FROM {full} WHERE {where}"):
        return fields.empty_table()
    types = column_types(name)
    columns = ", ".join(f"{c} || '' AS {c}" if types[c] == "VARCHAR" else c for c in table.key)
    found = client.arrow(f"SELECT {columns} FROM {full} WHERE {where}")
    return pa.table([found.column(f.name).cast(f.type) for f in fields], schema=fields)


def without_keys(name: str, data: pa.Table, keys: pa.Table) -> pa.Table:
    """The rows of a batch whose keys are not among ``keys``, in their order."""
    import numpy as np
    import pyarrow as pa

    if not keys.num_rows or not data.num_rows:
        return data
    key = list(table_of(name).key)
    mine = data.select(key).append_column("_row", pa.array(np.arange(data.num_rows)))
    left = mine.join(keys.select(key), keys=key, join_type="left anti")
    if left.num_rows == data.num_rows:
        return data
    return data.take(pa.array(np.sort(left.column("_row").to_numpy())))


def drop_beaten(client: SqlClient, name: str, data: pa.Table, cls: int) -> pa.Table:
    """The rows of a batch, all of class ``cls``, for whose keys no better row is stored."""
    if not cls or not data.num_rows:
        return data
    wait_applied(client, name)
    (start, end), equal = extent(name, data)
    condition = f"{within(name, start, end, equal)} AND {_better(name, cls)}"
    return without_keys(name, data, stored_keys(client, name, condition))


def extent(name: str, data: pa.Table) -> tuple[tuple[int, int], dict[str, set[str]]]:
    """The range of times ``[start, end)`` of a batch with rows, and the values of its key columns with few."""
    pc = compute()
    table = table_of(name)
    times = pc.min_max(data.column(table.time)).as_py()
    few = [c for c in ("venue", "symbol", "instrument", "interval", "source") if c in table.key]
    return (times["min"], times["max"] + 1), {c: {str(v) for v in data.column(c).unique().to_pylist()} for c in few}


def any_better(
    client: SqlClient, name: str, times: tuple[int, int], equal: Mapping[str, Collection[str]], cls: int
) -> bool:
    """Whether any row that is better than class ``cls`` is stored in a range of time."""
    if not cls:
        return False
    full = identifier(client.conf.table(name))
    where = f"{within(name, *times, equal)} AND {_better(name, cls)} AND {present(name)}"
    return bool(client.exec(f"SELECT 1 FROM {full} WHERE {where} LIMIT 1").rows)


def _better(name: str, cls: int) -> str:
    if table_of(name).prefer is None and cls == 1:
        return "ts_recv IS NOT NULL"  # the usual case, which needs no arithmetic a row
    return f"({class_sql(name)}) < {cls}"


def insert_preferred(
    client: SqlClient,
    table: str,
    source_sql: str,
    venue: str | None,
    symbol: str | None,
    start: int,
    end: int,
    *,
    known: Collection[int] = (),
    unbeaten: bool = False,
    timeout: float | None = None,
) -> None:
    """Insert the rows of a query into table ``table`` of the schema, where no better row of their key is stored.

    ``source_sql`` gives the record's columns under the schema's names and with QuestDB's types, for times in
    ``[start, end)`` and, where they are given, one venue and symbol. ``known``: their classes, where the caller knows
    them; ``unbeaten``: it is known, too, that no better row is stored. Safe to repeat. Returns when the server has
    committed the rows; they can be read once they are applied. Raises what ``SqlClient.exec`` raises.
    """
    wait_applied(client, table)
    found = sorted(known or client.exec(f"SELECT DISTINCT {class_sql(table)} AS c FROM ({source_sql})").column("c"))
    for cls in reversed(found):  # the worst first: of rows with one key in the source, the best is written last
        alone = unbeaten and len(found) == 1
        statement = _insert(client, table, source_sql, venue, symbol, start, end, int(cls), found, alone)
        client.exec(statement, timeout=timeout)


def _insert(
    client: SqlClient,
    name: str,
    source_sql: str,
    venue: str | None,
    symbol: str | None,
    start: int,
    end: int,
    cls: int,
    found: Sequence[int],
    unbeaten: bool,
) -> str:
    """The statement that inserts the rows of one class."""
    schema, full = table_of(name), identifier(client.conf.table(name))
    names = list(all_column_types(name))
    extra = EXTRA.get(name, {})
    columns = ", ".join(f"s.{_FIELD_OF_EXTRA[c]} AS {c}" if c in extra else f"s.{c}" for c in names)
    source = f"SELECT * FROM ({source_sql})"
    if len(found) > 1:
        source += f" WHERE ({class_sql(name)}) = {cls}"
    head = f"INSERT INTO {full} ({', '.join(names)}) SELECT {columns} FROM ({source}) s"
    if not cls or unbeaten:
        return head
    equal = {c: [v] for c, v in (("venue", venue), ("symbol", symbol)) if v is not None and c in schema.key}
    where = f"{within(name, start, end, equal)} AND {_better(name, cls)} AND {present(name)}"
    key = ", ".join(schema.key)
    return f"{head} LEFT JOIN (SELECT {key}, 1 AS hit FROM {full} WHERE {where}) b ON ({key}) WHERE b.hit IS NULL"
