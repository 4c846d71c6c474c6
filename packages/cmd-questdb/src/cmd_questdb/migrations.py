"""Versions of the schema in a database: finding out which it has, creating, migrating, and comparing.

A database records every version that it reached in the table ``cmd_schema_version`` (with the table prefix). Each step
is a list of statements that may be run again, and its version is recorded after them: killed anywhere and run again,
a migration ends the same. Version 0 is recorded before the first table is made, so that half a schema is ours.

What a step does to a database of its time is frozen here as text; only a new step follows ``cmd_common.schema``. A test
leads every older version to the newest one and compares it with a database that was created at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from cmd_common.errors import StoreError
from cmd_common.schema import SCHEMA, TABLES

from .conf import Conf, ttl_text
from .schema import PARTITION, VERSION, VIEWS, all_column_types, create_statements, create_table, create_view
from .sql import SqlClient, literal

__all__ = [
    "STEPS",
    "VERSION_TABLE",
    "Difference",
    "Migration",
    "State",
    "applied",
    "differences",
    "ensure",
    "convert_statements",
    "migrate",
    "parquet_partitions",
    "plan",
    "state",
    "while_native",
]

VERSION_TABLE: Final = "cmd_schema_version"
_AT_ONCE: Final = 500  # partitions in one statement
_LAST: Final = 86_400.0  # s that one statement may take: a view over all trades, an update of all books

# Version 1, as it was: no books merged over venues, no best_bid and best_ask, no views.
_V1: Final = (
    "CREATE TABLE IF NOT EXISTS {p}trades (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, venue SYMBOL CAPACITY 64, "
    "symbol SYMBOL CAPACITY 4096, trade_id VARCHAR, trade_seq LONG, price DOUBLE, quantity DOUBLE, "
    "side SYMBOL CAPACITY 8, flags INT) TIMESTAMP(ts_event) PARTITION BY DAY WAL "
    "DEDUP UPSERT KEYS(ts_event, venue, symbol, trade_id)",
    "CREATE TABLE IF NOT EXISTS {p}agg_trades (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, venue SYMBOL CAPACITY 64, "
    "symbol SYMBOL CAPACITY 4096, trade_id VARCHAR, trade_seq LONG, first_trade_id LONG, last_trade_id LONG, "
    "price DOUBLE, quantity DOUBLE, side SYMBOL CAPACITY 8, flags INT) TIMESTAMP(ts_event) PARTITION BY DAY WAL "
    "DEDUP UPSERT KEYS(ts_event, venue, symbol, trade_id)",
    "CREATE TABLE IF NOT EXISTS {p}quotes (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, venue SYMBOL CAPACITY 64, "
    "symbol SYMBOL CAPACITY 4096, seq LONG, bid_price DOUBLE, bid_quantity DOUBLE, ask_price DOUBLE, "
    "ask_quantity DOUBLE, flags INT) TIMESTAMP(ts_event) PARTITION BY HOUR WAL "
    "DEDUP UPSERT KEYS(ts_event, venue, symbol, seq)",
    "CREATE TABLE IF NOT EXISTS {p}candles (open_time TIMESTAMP_NS, close_time TIMESTAMP_NS, ts_event TIMESTAMP_NS, "
    "ts_recv TIMESTAMP_NS, venue SYMBOL CAPACITY 64, symbol SYMBOL CAPACITY 4096, interval SYMBOL CAPACITY 32, "
    "source SYMBOL CAPACITY 8, state SYMBOL CAPACITY 32, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, "
    "volume DOUBLE, quote_volume DOUBLE, trades LONG, taker_buy_volume DOUBLE, taker_buy_quote_volume DOUBLE, "
    "flags INT) TIMESTAMP(open_time) PARTITION BY MONTH WAL "
    "DEDUP UPSERT KEYS(open_time, venue, symbol, interval, source)",
    "CREATE TABLE IF NOT EXISTS {p}book_snapshots (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, "
    "venue SYMBOL CAPACITY 64, symbol SYMBOL CAPACITY 4096, epoch LONG, seq LONG, known_bids INT, known_asks INT, "
    "bids DOUBLE[][], asks DOUBLE[][], flags INT) TIMESTAMP(ts_event) PARTITION BY DAY WAL "
    "DEDUP UPSERT KEYS(ts_event, venue, symbol, epoch, seq)",
    "CREATE TABLE IF NOT EXISTS {p}book_deltas (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, venue SYMBOL CAPACITY 64, "
    "symbol SYMBOL CAPACITY 4096, epoch LONG, seq LONG, first_seq LONG, bids DOUBLE[][], asks DOUBLE[][], flags INT) "
    "TIMESTAMP(ts_event) PARTITION BY HOUR WAL DEDUP UPSERT KEYS(ts_event, venue, symbol, epoch, seq)",
    "CREATE TABLE IF NOT EXISTS {p}feed_status (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, venue SYMBOL CAPACITY 64, "
    "symbol SYMBOL CAPACITY 4096, record_type SYMBOL CAPACITY 32, connection VARCHAR, state SYMBOL CAPACITY 32, "
    "reason VARCHAR, flags INT) TIMESTAMP(ts_event) PARTITION BY MONTH WAL "
    "DEDUP UPSERT KEYS(ts_event, venue, symbol, record_type, connection, state)",
    "CREATE TABLE IF NOT EXISTS {p}gaps (ts_from TIMESTAMP_NS, ts_to TIMESTAMP_NS, venue SYMBOL CAPACITY 64, "
    "symbol SYMBOL CAPACITY 4096, record_type SYMBOL CAPACITY 32, reason VARCHAR, severity SYMBOL CAPACITY 8, "
    "first_id LONG, last_id LONG, repaired_by VARCHAR, detail VARCHAR) TIMESTAMP(ts_from) PARTITION BY MONTH WAL "
    "DEDUP UPSERT KEYS(ts_from, venue, symbol, record_type, ts_to)",
    "CREATE TABLE IF NOT EXISTS {p}instruments (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, venue SYMBOL CAPACITY 64, "
    "symbol SYMBOL CAPACITY 4096, base SYMBOL CAPACITY 2048, quote SYMBOL CAPACITY 256, settle SYMBOL CAPACITY 256, "
    "kind SYMBOL CAPACITY 8, tick_size VARCHAR, lot_size VARCHAR, min_quantity VARCHAR, min_notional VARCHAR, "
    "contract_size VARCHAR, inverse BOOLEAN, expiry TIMESTAMP_NS, status SYMBOL CAPACITY 64) TIMESTAMP(ts_event) "
    "PARTITION BY MONTH WAL DEDUP UPSERT KEYS(ts_event, venue, symbol)",
)
_V2: Final = (
    "CREATE TABLE IF NOT EXISTS {p}aggregated_books (ts_event TIMESTAMP_NS, ts_recv TIMESTAMP_NS, "
    "instrument SYMBOL CAPACITY 4096, seq LONG, venues VARCHAR, excluded VARCHAR, bids DOUBLE[][], asks DOUBLE[][], "
    "crossed_for LONG, flags INT) TIMESTAMP(ts_event) PARTITION BY DAY WAL "
    "DEDUP UPSERT KEYS(ts_event, instrument, seq)",
    "ALTER TABLE {p}book_snapshots ADD COLUMN IF NOT EXISTS best_bid DOUBLE",
    "ALTER TABLE {p}book_snapshots ADD COLUMN IF NOT EXISTS best_ask DOUBLE",
)


class State(Struct, frozen=True):
    """What a database holds of ours: ``version`` is None where it holds nothing."""

    version: int | None
    tables: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing of ours."""
        return self.version is None and not self.tables


class Difference(Struct, frozen=True):
    """Where a database differs from the schema: ``repair`` is the statement that mends it, empty where none does."""

    kind: str  # table, column, type, key, partition, time, wal, view, extra, ttl
    table: str
    what: str
    repair: str = ""

    @property
    def harmless(self) -> bool:
        """Whether rows can be written and read all the same."""
        return self.kind in ("extra", "view", "ttl")

    def __str__(self) -> str:
        return f"{self.table}: {self.what}"


class Migration(Struct, frozen=True):
    """What a migration does or did."""

    before: int | None
    after: int
    statements: tuple[str, ...]


def _v2(client: SqlClient, conf: Conf) -> list[str]:
    books = conf.table("book_snapshots")
    create, *columns = (s.format(p=conf.table_prefix) for s in _V2)
    fill = (
        f"UPDATE {books} SET best_bid = bids[1][1], best_ask = asks[1][1] WHERE best_bid IS NULL AND best_ask IS NULL"
    )
    return [create, *while_native(client, books, [*columns, fill])]


def while_native(client: SqlClient, table: str, statements: Sequence[str]) -> list[str]:
    """Statements that change columns, between others that make partitions in Parquet form native and Parquet again.

    9.3.4 ends the whole server when it reads a column from a partition that was converted before the column was
    added, and suspends a table of which an update meets a partition in Parquet form.
    """
    there = client.value(f"SELECT count() FROM tables() WHERE table_name = {literal(table)}")
    names = parquet_partitions(client, table) if there else []
    return [
        *convert_statements(table, names, "NATIVE"),
        *statements,
        *convert_statements(table, names, "PARQUET"),
    ]


def parquet_partitions(client: SqlClient, table: str) -> list[str]:
    """Names of the partitions of a table (with prefix) that are in Parquet form, oldest first."""
    query = f"SELECT name FROM table_partitions({literal(table)}) WHERE isParquet ORDER BY name"
    return [str(name) for name in client.exec(query).column("name")]


def convert_statements(table: str, names: Sequence[str], to: str) -> list[str]:
    """Statements that convert partitions by name; several, since a statement has a limited length."""
    return [
        f"ALTER TABLE {table} CONVERT PARTITION TO {to} LIST {', '.join(map(literal, names[n : n + _AT_ONCE]))}"
        for n in range(0, len(names), _AT_ONCE)
    ]


_Step = Callable[[SqlClient, Conf], list[str]]
STEPS: Final[dict[int, _Step]] = {
    1: lambda client, conf: [s.format(p=conf.table_prefix) for s in _V1],
    2: _v2,
    3: lambda client, conf: [create_view(name, conf) for name in VIEWS],
}
"""What leads to a version from the one before."""


def state(client: SqlClient) -> State:
    """Find out what the database holds."""
    there = set(client.tables())
    tables = tuple(t for t in TABLES if t in there)
    version = None
    if VERSION_TABLE in there:
        version = client.value(f"SELECT max(version) FROM {client.conf.table(VERSION_TABLE)}")
        version = 0 if version is None else version
    return State(version, tables)


def _checked(client: SqlClient) -> State:
    """The state; raises StoreError for tables of someone else and for a newer schema."""
    found = state(client)
    if found.version is None and found.tables:
        raise StoreError(
            f"the database at {client.conf.shown} has a table {client.conf.table(found.tables[0])} "
            "but no schema version: it is not ours",
            hint="use a database of its own, or table_prefix=NAME_ in the store",
        )
    if found.version is not None and found.version > VERSION:
        raise StoreError(
            f"the database at {client.conf.shown} has schema version {found.version}, newer than the {VERSION} "
            "of this program",
            hint="upgrade cmd-questdb here",
        )
    return found


def plan(client: SqlClient) -> Migration:
    """What ``migrate`` would do; raises StoreError for what it refuses."""
    conf = client.conf
    found = _checked(client)
    table = conf.table(VERSION_TABLE)
    statements: list[str] = []
    if found.version is None:
        statements.append(f"CREATE TABLE IF NOT EXISTS {table} (applied TIMESTAMP, version LONG, program VARCHAR)")
        statements.append(_record(conf, 0))
    if not found.version:  # nothing, or a first creation that was cut short
        statements += [*create_statements(conf), _record(conf, VERSION)]
    else:
        for version in range(found.version + 1, VERSION + 1):
            statements += [*STEPS[version](client, conf), _record(conf, version)]
        if found.version == VERSION:
            statements += _repairs(client)
    return Migration(found.version, VERSION, tuple(statements))


def _repairs(client: SqlClient) -> list[str]:
    """Statements that mend what was dropped by hand; raises StoreError for what no statement mends."""
    found = [d for d in differences(client) if d.kind != "extra"]
    if beyond := [d for d in found if not d.repair and not d.harmless]:
        raise StoreError(
            f"the schema at {client.conf.shown} was changed by hand: {'; '.join(map(str, beyond))}",
            hint="change it back, or rename the table and let cmd-cli store migrate create it anew",
        )
    statements: list[str] = []
    for difference in found:
        if difference.kind == "column":
            statements += while_native(client, difference.table, [difference.repair])
        elif difference.repair:
            statements.append(difference.repair)
    return statements


def _record(conf: Conf, version: int) -> str:
    from cmd_common import __version__

    return f"INSERT INTO {conf.table(VERSION_TABLE)} VALUES (now(), {version}, {literal(f'cmd-questdb {__version__}')})"


def migrate(client: SqlClient, *, say: Callable[[str], None] | None = None) -> Migration:
    """Create the schema, lead an older one to the newest, or make again what was dropped; nothing to do is fine.

    Each statement is applied before the next is sent. ``say`` gets each statement before it runs. Raises StoreError.
    """
    todo = plan(client)
    for statement in todo.statements:
        if say is not None:
            say(statement)
        client.exec(statement, timeout=_LAST)
        if not statement.startswith("INSERT"):  # into the table of versions, which has no WAL
            client.wait_applied(_ours(client), timeout=_LAST)
    return todo


def _ours(client: SqlClient) -> list[str]:
    return [client.conf.table(t) for t in (*TABLES, *VIEWS)]


def ensure(client: SqlClient, *, create: bool) -> int:
    """Check before rows are written or read that the schema is the one of this program; returns the version.

    With ``create`` an empty database gets the schema. Raises StoreError that says what to do: nothing there, an older
    or newer version, a table dropped, a column of another type.
    """
    found = _checked(client)
    if not found.version and create:
        migrate(client)
        found = state(client)
    where = client.conf.shown
    if found.version is None:
        raise StoreError(
            f"the database at {where} has no tables of ours", hint="create them with cmd-cli store migrate"
        )
    if found.version != VERSION:
        raise StoreError(
            f"the database at {where} has schema version {found.version}, this program needs {VERSION}",
            hint="run cmd-cli store migrate",
        )
    if wrong := [d for d in differences(client) if not d.harmless]:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        mended = any(d.repair for d in wrong)
        raise StoreError(
            f"the schema at {where} was changed by hand: {wrong[0]}{more}",
            hint="see cmd-cli store status" + ("; cmd-cli store migrate mends it" if mended else ""),
        )
    return found.version


def differences(client: SqlClient) -> list[Difference]:
    """Compare the database with the schema of this program, table by table."""
    conf = client.conf
    facts = {r["table_name"]: r for r in client.exec(_FACTS).dicts()}
    found: list[Difference] = []
    for name in TABLES:
        full = conf.table(name)
        if full not in facts:
            found.append(Difference("table", full, "the table is missing", create_table(name, conf)))
        else:
            found += _compare(client, name, full, facts[full])
    for name in VIEWS:
        if conf.table(name) not in facts:
            found.append(Difference("view", conf.table(name), "the view is missing", create_view(name, conf)))
    return found


_FACTS: Final = "SELECT table_name, partitionBy, walEnabled, dedup, ttlValue, ttlUnit, designatedTimestamp, table_type FROM tables()"


def _compare(client: SqlClient, name: str, full: str, facts: dict[str, object]) -> list[Difference]:
    table = SCHEMA[name]
    found: list[Difference] = []
    rows = client.exec(f'SELECT "column", type, upsertKey FROM table_columns({literal(full)})').rows
    there = {column: kind for column, kind, _ in rows}
    wanted = all_column_types(name)
    for column, kind in wanted.items():
        if column not in there:
            mend = "" if column in table.names else f"ALTER TABLE {full} ADD COLUMN IF NOT EXISTS {column} {kind}"
            found.append(Difference("column", full, f"column {column} ({kind}) is missing", mend))
        elif there[column] != kind:
            found.append(Difference("type", full, f"column {column} is {there[column]} instead of {kind}"))
    found += [Difference("extra", full, f"column {c} is not of the schema") for c in there if c not in wanted]
    keys = [column for column, _, key in rows if key]
    if sorted(keys) != sorted(table.key):
        wrong = f"the dedup key is {', '.join(keys) or 'off'} instead of {', '.join(table.key)}"
        # Enabled again it keeps new rows apart; rows that were written meanwhile may be there twice.
        mend = "" if any(k not in there for k in table.key) else f"ALTER TABLE {full} DEDUP ENABLE UPSERT KEYS"
        found.append(Difference("key", full, wrong, mend and f"{mend}({', '.join(table.key)})"))
    if facts["designatedTimestamp"] != table.time:
        found.append(Difference("time", full, f"its time is {facts['designatedTimestamp']} instead of {table.time}"))
    if facts["partitionBy"] != PARTITION[name]:
        found.append(Difference("partition", full, f"partitions by {facts['partitionBy']}, not {PARTITION[name]}"))
    if not facts["walEnabled"]:
        found.append(Difference("wal", full, "it has no WAL"))
    if name in client.conf.ttl:
        ttl = ttl_text(client.conf.ttl[name], PARTITION[name])
        if not _same_ttl(ttl, facts["ttlValue"], str(facts["ttlUnit"])):
            now = f"{facts['ttlValue']} {facts['ttlUnit']}" if facts["ttlValue"] else "kept for ever"
            found.append(Difference("ttl", full, f"TTL is {now} instead of {ttl}", f"ALTER TABLE {full} SET TTL {ttl}"))
    return found


def _same_ttl(wanted: str, value: object, unit: str) -> bool:
    """Whether two TTLs are equal: the server turns 7 days into a week and 24 hours into a day."""
    hours = {"HOUR": 1, "DAY": 24, "WEEK": 168, "MONTH": 720, "YEAR": 8640}
    number, _, name = wanted.partition(" ")
    assert isinstance(value, int)
    return int(number) * hours[name.rstrip("S")] == value * hours.get(unit, 0)


def applied(client: SqlClient) -> Sequence[dict[str, object]]:
    """The versions that the database went through, oldest first."""
    table = client.conf.table(VERSION_TABLE)
    return client.exec(f"SELECT applied, version, program FROM {table}").dicts()
