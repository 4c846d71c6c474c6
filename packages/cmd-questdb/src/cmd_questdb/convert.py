"""Old partitions in Parquet form: half the disk and less, for days that are closed and not written again.

Writing into a converted partition of 9.3.4 can leave duplicates in spite of DEDUP: one for each time that is shared over
the edge of a row group. So ``convert`` takes only partitions that are old, complete (no open gap) and applied, and
whoever writes old rows calls ``make_native`` for their days before. The server knows which partitions are converted;
no second record can disagree with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from msgspec import Struct

from cmd_common.errors import StoreError, UsageError
from cmd_common.schema import SCHEMA, TABLES

from .migrations import convert_statements
from .schema import PARTITION, Unit
from .sql import ServerAway, SqlClient, literal

__all__ = [
    "MIN_AGE",
    "Partition",
    "Plan",
    "convert",
    "converted_days",
    "make_native",
    "partitions",
    "plan",
]

MIN_AGE: Final = 2 * 86_400_000_000_000
"""ns from a partition's end until it may be converted: rows younger than this never meet a converted partition."""
_DAY: Final = 86_400_000_000_000
_WAIT: Final = 600.0  # s for the server to convert what one statement names
_FORMATS: Final[dict[Unit, str]] = {"HOUR": "%Y-%m-%dT%H", "DAY": "%Y-%m-%d", "MONTH": "%Y-%m", "YEAR": "%Y"}


class Partition(Struct, frozen=True):
    """A partition of a table: ``start`` and ``end`` (exclusive) in ns."""

    name: str
    start: int
    end: int
    rows: int
    bytes: int
    parquet: bool
    active: bool  # the newest of the table


class Plan(Struct, frozen=True):
    """What becomes of the partitions of a table."""

    table: str
    todo: tuple[Partition, ...]
    left: dict[str, str]  # names of partitions that stay as they are, and why


def _bounds(name: str, unit: Unit) -> tuple[int, int]:
    """Start and end of a partition, from its name."""
    start = datetime.strptime(name.partition(".")[0], _FORMATS[unit]).replace(tzinfo=UTC)
    if unit == "HOUR":
        end = start + timedelta(hours=1)
    elif unit == "DAY":
        end = start + timedelta(days=1)
    elif unit == "MONTH":
        end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    else:
        end = start.replace(year=start.year + 1)
    return int(start.timestamp()) * 1_000_000_000, int(end.timestamp()) * 1_000_000_000


def partitions(client: SqlClient, table: str) -> list[Partition]:
    """The partitions of a table of the schema, oldest first; none where the table is missing."""
    full = client.conf.table(table)
    if client.value(f"SELECT count() FROM tables() WHERE table_name = {literal(full)}") == 0:
        return []
    query = f"SELECT name, numRows, diskSize, isParquet, active FROM table_partitions({literal(full)}) WHERE attached ORDER BY name"
    found = []
    for name, rows, size, parquet, active in client.exec(query).rows:
        # A day that is written out of order can be split: "2025-01-01T153000-000001" belongs to 2025-01-01.
        unit = PARTITION[table]
        start, end = _bounds(name[: {"HOUR": 13, "DAY": 10, "MONTH": 7, "YEAR": 4}[unit]], unit)
        found.append(Partition(name, start, end, rows or 0, size or 0, bool(parquet), bool(active)))
    return found


def converted_days(client: SqlClient, table: str) -> frozenset[date]:
    """The UTC days that touch a partition of ``table`` in Parquet form: ``make_native`` before writing into them."""
    return frozenset(day for p in partitions(client, table) if p.parquet for day in _days(p.start, p.end))


def _days(start: int, end: int) -> Iterator[date]:
    first = date(1970, 1, 1)
    for n in range(start // _DAY, -(-end // _DAY)):
        yield first + timedelta(days=n)


def make_native(client: SqlClient, table: str, start: int, end: int) -> list[str]:
    """Convert the partitions that hold a time from ``start`` to ``end`` (exclusive) back, so that rows may be written.

    Returns their names once the server is done; raises StoreError. Without such partitions it costs one query.
    """
    todo = [p for p in partitions(client, table) if p.parquet and p.start < end and start < p.end]
    _run(client, table, todo, "NATIVE")
    return [p.name for p in todo]


def plan(client: SqlClient, table: str, *, older: int, back: bool, now: int | None = None) -> Plan:
    """Choose the partitions of a table that ended at least ``older`` ns ago; with ``back`` those to make native again.

    Raises UsageError for a table that the schema lacks and for an age below ``MIN_AGE``.
    """
    if table not in SCHEMA:
        raise UsageError(f"there is no table {table!r}", hint=f"tables are: {', '.join(TABLES)}")
    if not back and older < MIN_AGE:
        raise UsageError(
            "partitions younger than two days are not converted",
            hint="rows may still be written into them, and 9.3.4 then leaves duplicates; use --older 2d or more",
        )
    now = time.time_ns() if now is None else now
    gaps = [] if back else _open_gaps(client, table)
    todo = []
    left = {}
    for p in partitions(client, table):
        if p.parquet != back:
            continue
        if p.end > now - older:
            if not back:
                left[p.name] = "too young"
        elif p.active and not back:
            left[p.name] = "the newest partition is always written into"
        elif any(a < p.end and p.start < b for a, b in gaps):
            left[p.name] = "it has a gap that is not repaired: a repair would write into it"
        elif p.rows:
            todo.append(p)
    return Plan(table, tuple(todo), left)


def _open_gaps(client: SqlClient, table: str) -> list[tuple[int, int]]:
    """From and to of gaps of a table that nothing has repaired yet."""
    query = (
        f"SELECT ts_from::LONG, ts_to::LONG FROM {client.conf.table('gaps')} "
        f"WHERE record_type = {literal(table)} AND repaired_by = '' AND severity = 'lost'"
    )
    return [(a, b + 1) for a, b in client.exec(query).rows]


def convert(client: SqlClient, todo: Plan, *, back: bool, progress: Callable[[int, int], None] | None = None) -> int:
    """Carry out a plan; returns the bytes that it saved (negative with ``back``).

    Rows are counted before and after; where they differ the partitions are made native again. Raises StoreError.
    """
    full = client.conf.table(todo.table)
    client.wait_applied([full])
    done = saved = 0
    for group in _groups(todo.todo, 32):
        before = {p.name: p.rows for p in _now(client, todo.table, group)}
        _run(client, todo.table, group, "NATIVE" if back else "PARQUET")
        after = _now(client, todo.table, group)
        if wrong := [p.name for p in after if p.rows != before.get(p.name)]:
            _run(client, todo.table, [p for p in after if p.parquet], "NATIVE")
            raise StoreError(
                f"partition {wrong[0]} of {full} changed its rows while it was converted: all are native again",
                hint="does something write old rows? convert when it is done",
            )
        saved += sum(p.bytes for p in group) - sum(p.bytes for p in after)
        done += len(group)
        if progress is not None:
            progress(done, len(todo.todo))
    return saved


def _groups(todo: Sequence[Partition], size: int) -> Iterable[Sequence[Partition]]:
    return (todo[n : n + size] for n in range(0, len(todo), size))


def _now(client: SqlClient, table: str, of: Sequence[Partition]) -> list[Partition]:
    names = {p.name for p in of}
    return [p for p in partitions(client, table) if p.name in names]


def _run(client: SqlClient, table: str, todo: Sequence[Partition], to: str) -> None:
    """Convert and wait until the server shows it."""
    if not todo:
        return
    full = client.conf.table(table)
    for statement in convert_statements(full, [p.name for p in todo], to):
        client.exec(statement, timeout=_WAIT)
    client.wait_applied([full], timeout=_WAIT)
    end = time.monotonic() + _WAIT
    while late := [p.name for p in _now(client, table, todo) if p.parquet != (to == "PARQUET")]:
        if time.monotonic() > end:
            raise ServerAway(f"partition {late[0]} of {full} is not {to.lower()} after {_WAIT:g} s")
        time.sleep(0.05)
