"""What is wrong with a running server and our tables in it, or soon will be."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from cmd_common.errors import StoreError
from cmd_common.io import Finding
from cmd_common.schema import SCHEMA, TABLES

from . import convert
from .migrations import differences, migrate, state
from .schema import VERSION, VIEWS
from .sql import SqlClient, literal, timestamp

__all__ = ["check", "repair"]

_LAG: Final = 5.0  # s after which a table that does not catch up is late
_VIEW_LAG: Final = 15.0
_ATTEMPTS: Final = 20
_SOUND: Final = ("valid", "refreshing")
_FUTURE: Final = 86_400_000_000_000  # ns
_PARTITIONS: Final = 5_000  # of one table: more slow down the server's start and every query over all time
_LOOPBACK: Final = ("127.", "localhost", "::1", "[::1]")
_RECENT: Final = 3 * 86_400_000_000_000  # ns back from the newest row that duplicates are looked for in


def check(client: SqlClient, *, full: bool = False, root: str = "", lag: float = _LAG) -> list[Finding]:
    """Look at everything; ``full`` looks for duplicates in all rows, not only in recent and converted ones.

    Raises StoreError where the server cannot be asked at all.
    """
    found = state(client)
    findings = list(_schema(client))
    tables = [t for t in TABLES if t in found.tables]
    findings += _suspended_and_late(client, lag)
    findings += _views(client, lag if lag < _LAG else _VIEW_LAG)
    findings += _settings(client)
    findings += _disk(client, root or client.conf.root)
    for table in tables:
        findings += _partitions(client, table)
        findings += _duplicates(client, table, full)
    return sorted(findings, key=lambda f: f.severity)


def repair(client: SqlClient) -> list[str]:
    """Mend what can be mended without losing rows; returns what was done.

    Suspended tables are resumed, invalid views built again, tables and views that were dropped made again.
    """
    done = []
    for name, suspended in client.exec("SELECT name, suspended FROM wal_tables()").rows:
        if suspended and _ours(client, name):
            client.exec(f"ALTER TABLE {name} RESUME WAL")
            done.append(f"resumed {name}")
    done += list(migrate(client).statements)
    return done + _rebuild(client)


def _rebuild(client: SqlClient) -> list[str]:
    """Build invalid views again, those that others are built from first.

    To build a view again empties it, which makes the views above it invalid a moment later: it is over when several
    looks in a row find none.
    """
    done: dict[str, int] = {}
    names = [client.conf.table(v) for v in VIEWS]
    calm = 0
    while calm < 5:
        status = {r["view_name"]: r["view_status"] for r in _view_rows(client)}
        invalid = next((n for n in names if status.get(n, "valid") not in _SOUND), "")
        if not invalid:
            calm = calm + 1 if "refreshing" not in status.values() else 0
            time.sleep(0.1)
            continue
        calm = 0
        done[invalid] = done.get(invalid, 0) + 1
        if done[invalid] > _ATTEMPTS:
            raise StoreError(f"view {invalid} stays invalid however often it is built", hint="see the server's log")
        client.exec(f"REFRESH MATERIALIZED VIEW {invalid} FULL")
        time.sleep(0.5)  # until the server has begun
    return [f"built {name} again" for name in done]


def _ours(client: SqlClient, name: str) -> bool:
    return name in {client.conf.table(t) for t in (*TABLES, *VIEWS)}


def _schema(client: SqlClient) -> Iterator[Finding]:
    found = state(client)
    where = client.conf.shown
    if found.version is None:
        yield Finding("error", "schema", where, "it has no tables of ours", "create them with cmd-cli store migrate")
        return
    if found.version != VERSION:
        newer = found.version > VERSION
        hint = "upgrade this program" if newer else "run cmd-cli store migrate"
        yield Finding("error", "schema", where, f"schema version {found.version} is not {VERSION}", hint)
        return
    for d in differences(client):
        if d.kind == "extra":
            table = d.table.removeprefix(client.conf.table_prefix)
            if any(p.parquet for p in convert.partitions(client, table)):
                hint = "drop the column, or make the partitions native: 9.3.4 ends when it reads such a column"
                yield Finding("error", "crash", d.table, f"{d.what}, and it has partitions in Parquet form", hint)
            continue
        hint = "cmd-cli store migrate mends it" if d.repair else "change it back by hand"
        yield Finding("warning" if d.harmless else "error", d.kind, d.table, d.what, hint)


def _suspended_and_late(client: SqlClient, lag: float) -> Iterator[Finding]:
    query = "SELECT name, suspended, writerTxn, sequencerTxn, errorTag, errorMessage, memoryPressure FROM wal_tables()"
    first = {r["name"]: r for r in client.exec(query).dicts() if _ours(client, r["name"])}
    late = {n: r["sequencerTxn"] for n, r in first.items() if r["writerTxn"] < r["sequencerTxn"] and not r["suspended"]}
    end = time.monotonic() + lag
    now: dict[str, dict[str, Any]] = first
    # Late is what has not reached, after a while, where it should have been at the start.
    while any(now[n]["writerTxn"] < txn for n, txn in late.items()) and time.monotonic() < end:
        time.sleep(0.2)
        now = {r["name"]: r for r in client.exec(query).dicts() if _ours(client, r["name"])}
        late = {n: txn for n, txn in late.items() if n in now}
    for name, row in sorted(now.items()):
        behind = row["sequencerTxn"] - row["writerTxn"]
        if row["suspended"]:
            why = row["errorMessage"] or row["errorTag"] or "the server's log says why"
            yield Finding(
                "error", "suspended", name, f"suspended with {behind} transactions not applied: {why}",
                "mend the cause (disk full?), then cmd-cli store check --repair",
            )  # fmt: skip
        elif name in late and row["writerTxn"] < late[name]:
            yield Finding(
                "warning",
                "lag",
                name,
                f"{behind} transactions behind after {lag:g} s",
                "is the disk too slow, or busy?",
            )
        if row["memoryPressure"]:
            yield Finding("warning", "memory", name, "the server is short of memory for this table", "give it more RAM")


def _view_rows(client: SqlClient) -> list[dict[str, Any]]:
    names = {client.conf.table(v) for v in VIEWS}
    query = (
        "SELECT view_name, view_status, invalidation_reason, refresh_base_table_txn, base_table_txn"
        " FROM materialized_views()"
    )
    return [r for r in client.exec(query).dicts() if r["view_name"] in names]


def _views(client: SqlClient, lag: float) -> Iterator[Finding]:
    rows = {r["view_name"]: r for r in _view_rows(client)}
    aim = {n: r["base_table_txn"] for n, r in rows.items() if r["view_status"] in _SOUND}
    end = time.monotonic() + lag

    def stale() -> list[str]:
        return [n for n, txn in aim.items() if n in rows and (rows[n]["refresh_base_table_txn"] or 0) < (txn or 0)]

    while stale() and time.monotonic() < end:
        time.sleep(0.2)
        rows = {r["view_name"]: r for r in _view_rows(client)}
    for name, row in sorted(rows.items()):
        if row["view_status"] not in _SOUND:
            why = row["invalidation_reason"] or row["view_status"]
            yield Finding(
                "error", "view", name, f"the view is {row['view_status']}: {why}", "cmd-cli store check --repair"
            )
    for name in stale():
        if rows[name]["view_status"] in _SOUND:
            behind = aim[name] - (rows[name]["refresh_base_table_txn"] or 0)
            yield Finding("warning", "view", name, f"{behind} transactions behind its table after {lag:g} s")


def _settings(client: SqlClient) -> Iterator[Finding]:
    rows = client.exec("SHOW PARAMETERS").dicts()
    value = {r["property_path"]: str(r["value"] if r["value"] is not None else "") for r in rows}
    default = {r["property_path"] for r in rows if r["value_source"] == "default"}
    for name in ("line.auto.create.new.tables", "line.auto.create.new.columns"):
        if value.get(name) == "true":
            yield Finding(
                "warning", "auto-create", name, "rows with a wrong name make a table or column of their own",
                f"set {name}=false in server.conf",
            )  # fmt: skip
    if value.get("telemetry.enabled") == "true":
        yield Finding("warning", "telemetry", "telemetry.enabled", "the server sends telemetry", "set it to false")
    if not value.get("http.net.bind.to", "").startswith(_LOOPBACK) and not value.get("http.user"):
        yield Finding(
            "warning", "security", "http.net.bind.to", f"{value.get('http.net.bind.to')} is open to everyone",
            "bind it to loopback or a private address, or set http.user and http.password",
        )  # fmt: skip
    if "pg.password" in default and value.get("pg.enabled", "true") == "true":
        bind = value.get("pg.net.bind.to", "")
        if not bind.startswith(_LOOPBACK):
            yield Finding(
                "warning", "security", "pg.password", f"{bind} takes the password that everyone knows",
                "set pg.user and pg.password",
            )  # fmt: skip
    if value.get("line.tcp.enabled") == "true" and not value.get("line.tcp.net.bind.to", "").startswith(_LOOPBACK):
        yield Finding(
            "warning", "security", "line.tcp.enabled", "anyone may write over ILP/TCP without a password",
            "set line.tcp.enabled=false: it is not used",
        )  # fmt: skip


def _disk(client: SqlClient, root: str) -> Iterator[Finding]:
    if not root:
        return
    if not os.path.isdir(root):
        yield Finding("warning", "disk", root, "the server's root is not here: the disk is not checked")
        return
    usage = shutil.disk_usage(root)
    free = usage.free / usage.total
    words = f"{free:.0%} free ({usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB)"
    if free < 0.1:
        yield Finding(
            "error", "disk", root, words, "tables are suspended when it is full: set TTLs, convert, or add disk"
        )
    elif free < 0.25:
        yield Finding("warning", "disk", root, words, "plan for more, or for shorter TTLs")


def _partitions(client: SqlClient, table: str) -> Iterator[Finding]:
    full = client.conf.table(table)
    there = convert.partitions(client, table)
    now = time.time_ns()
    if len(there) > _PARTITIONS:
        yield Finding("warning", "partitions", full, f"it has {len(there)} partitions", f"set ttl_{table} in the store")
    if young := [p.name for p in there if p.parquet and p.end > now - convert.MIN_AGE]:
        yield Finding(
            "warning", "parquet", full, f"partition {young[-1]} is in Parquet form and may still be written into",
            f"cmd-cli store convert --types {table} --back",
        )  # fmt: skip
    if ahead := [p.name for p in there if p.start > now + _FUTURE]:
        yield Finding(
            "warning", "future", full, f"it has rows of the future, up to partition {ahead[-1]}",
            "a clock was wrong; delete that partition, since a TTL counts from the newest row",
        )  # fmt: skip


def _duplicates(client: SqlClient, table: str, full: bool) -> Iterator[Finding]:
    """Rows with one key, which DEDUP should have made one."""
    schema, name = SCHEMA[table], client.conf.table(table)
    there = {r[0] for r in client.exec(f'SELECT "column" FROM table_columns({literal(name)})').rows}
    if any(k not in there for k in schema.key):
        return  # said already
    partitions = convert.partitions(client, table)
    if full:
        chosen = partitions
    else:
        newest = max((p.end for p in partitions), default=0)
        chosen = [p for p in partitions if p.parquet or p.end > newest - _RECENT]
    keys = ", ".join(schema.key)
    # By partition: a group for each key of a year would not fit into memory.
    for start, end in dict.fromkeys((p.start, p.end) for p in chosen):
        query = (
            f"SELECT count(), sum(n - 1) FROM (SELECT {keys}, count() AS n FROM {name} WHERE {schema.time} >= "
            f"{timestamp(start)} AND {schema.time} < {timestamp(end)} GROUP BY {keys}) WHERE n > 1"
        )
        found, more = client.exec(query, timeout=600.0).rows[0]
        if found:
            day = datetime.fromtimestamp(start / 1e9, UTC).isoformat(timespec="hours")
            yield Finding(
                "error", "duplicates", name, f"{more} rows from {day} repeat the key of another",
                "make the partition native and write its rows again",
            )  # fmt: skip
