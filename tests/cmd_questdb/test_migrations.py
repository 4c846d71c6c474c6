"""The schema in a real server: created, led from every older version, compared, refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from questdb_server import QuestDBServer

from cmd_common.errors import StoreError
from cmd_common.schema import SCHEMA, TABLES
from cmd_questdb import migrations
from cmd_questdb.conf import Conf
from cmd_questdb.migrations import STEPS, VERSION_TABLE, Difference, differences, ensure, migrate, plan, state
from cmd_questdb.schema import PARTITION, VERSION, VIEWS, all_column_types
from cmd_questdb.sql import Rows, SqlClient


@pytest.fixture
def client(questdb: QuestDBServer) -> Iterator[SqlClient]:
    with SqlClient(Conf.parse(questdb.conf())) as client:
        yield client


def make_version(client: SqlClient, version: int) -> None:
    """A database as the program of that version left it."""
    conf = client.conf
    client.exec(f"CREATE TABLE {conf.table(VERSION_TABLE)} (applied TIMESTAMP, version LONG, program VARCHAR)")
    for n in range(version + 1):
        for statement in STEPS[n](client, conf) if n else []:
            client.exec(statement)
        client.exec(f"INSERT INTO {conf.table(VERSION_TABLE)} VALUES (now(), {n}, 'old')")
    client.wait_applied()


def picture(client: SqlClient) -> dict[str, object]:
    """All that the schema says, as the server sees it."""
    seen: dict[str, object] = {}
    for row in client.exec(
        "SELECT table_name, partitionBy, walEnabled, dedup, designatedTimestamp, ttlValue FROM tables()"
    ).rows:
        if row[0] == VERSION_TABLE or row[0].startswith(("sys.", "telemetry", "_query")):
            continue
        columns = client.exec(f"SELECT \"column\", type, upsertKey FROM table_columns('{row[0]}')").rows
        capacity = client.exec(f"SELECT \"column\", symbolCapacity FROM table_columns('{row[0]}')").rows
        seen[row[0]] = (row[1:], sorted(columns), sorted(capacity))
    views = client.exec("SELECT view_name, base_table_name, view_sql FROM materialized_views()").rows
    seen["views"] = sorted(views)
    return seen


def test_an_empty_database_gets_the_schema_and_again_changes_nothing(client: SqlClient) -> None:
    assert state(client).empty
    made = migrate(client)
    assert made.before is None
    assert made.after == VERSION
    assert state(client).version == VERSION
    assert set(state(client).tables) == set(TABLES)
    assert differences(client) == []
    for name in TABLES:
        rows = client.exec(f"SELECT \"column\", type, upsertKey, designated FROM table_columns('{name}')").rows
        assert {r[0]: r[1] for r in rows} == all_column_types(name)
        assert [r[0] for r in rows][: len(SCHEMA[name].names)] == list(SCHEMA[name].names)
        assert {r[0] for r in rows if r[2]} == set(SCHEMA[name].key)
        assert [r[0] for r in rows if r[3]] == [SCHEMA[name].time]
    facts = client.exec("SELECT table_name, partitionBy, walEnabled, dedup FROM tables()").dicts()
    assert {f["table_name"]: f["partitionBy"] for f in facts if f["table_name"] in TABLES} == PARTITION
    assert all(f["walEnabled"] and f["dedup"] for f in facts if f["table_name"] in TABLES)
    assert migrate(client).statements == ()
    assert ensure(client, create=False) == VERSION


@pytest.mark.parametrize("version", sorted(STEPS)[:-1])
def test_every_older_version_is_led_to_the_newest(questdb: QuestDBServer, client: SqlClient, version: int) -> None:
    migrate(client)
    wanted = picture(client)
    questdb.empty()

    make_version(client, version)
    questdb.sql(
        "INSERT INTO book_snapshots (ts_event, venue, symbol, epoch, seq, known_bids, known_asks, bids, asks, flags) VALUES"
        " ('2025-01-01T00:00:00.000000001Z', 'v', 'S', 1, 1, 2, 1, ARRAY[[10.5, 10.0], [1.0, 2.0]], ARRAY[[11.5],[3.0]], 4)"
    )
    questdb.sql(
        "INSERT INTO trades VALUES ('2025-01-01T00:00:01.000000001Z', NULL, 'v', 'S', '1', 1, 1.5, 2.0, 'buy', 0)"
    )
    client.wait_applied()
    with pytest.raises(StoreError, match=f"schema version {version}, this program needs {VERSION}.*store migrate"):
        ensure(client, create=True)

    done = migrate(client)
    assert done.before == version
    assert picture(client) == wanted
    assert differences(client) == []
    touch = questdb.sql("SELECT best_bid, best_ask, bids FROM book_snapshots")
    # A database of version 2 was made with the columns; rows of version 1 get their values from the arrays.
    assert touch == [[10.5 if version < 2 else None, 11.5 if version < 2 else None, [[10.5, 10.0], [1.0, 2.0]]]]
    questdb.wait_for(lambda: questdb.count("candles_1d") == 1, "the views are built from the trades that were there")
    assert questdb.sql("SELECT open, volume, trades FROM candles_1m") == [[1.5, 2.0, 1]]
    assert [r["version"] for r in migrations.applied(client)] == list(range(VERSION + 1))


def test_columns_are_added_while_no_partition_is_in_parquet_form(questdb: QuestDBServer, client: SqlClient) -> None:
    make_version(client, 1)
    for day in (1, 2, 3):
        questdb.sql(
            "INSERT INTO book_snapshots (ts_event, venue, symbol, epoch, seq, known_bids, known_asks, bids, asks, flags)"
            f" VALUES ('2025-01-0{day}', 'v', 'S', 1, 1, 1, 1, ARRAY[[{day}.5], [1.0]], ARRAY[[11.5],[3.0]], 4)"
        )
    questdb.sql("ALTER TABLE book_snapshots CONVERT PARTITION TO PARQUET LIST '2025-01-02'")
    client.wait_applied()
    assert any("TO NATIVE LIST '2025-01-02'" in s for s in plan(client).statements)
    migrate(client)  # else an update suspends the table, and reading the new column ends the server
    assert questdb.sql("SELECT best_bid FROM book_snapshots") == [[1.5], [2.5], [3.5]]
    again = "SELECT name FROM table_partitions('book_snapshots') WHERE isParquet"
    questdb.wait_for(lambda: questdb.sql(again) == [["2025-01-02"]], "it is in Parquet form again")
    assert questdb.sql("SELECT best_bid, bids FROM book_snapshots")[1] == [2.5, [[2.5], [1.0]]]
    assert questdb.running


@pytest.mark.parametrize("version", [0, 1, 2])
def test_cut_short_anywhere_and_run_again_it_ends_the_same(
    questdb: QuestDBServer, client: SqlClient, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(client)
    wanted = picture(client)
    questdb.empty()
    if version:
        make_version(client, version)

    class Cut(Exception):
        pass

    real = SqlClient.exec
    left = 0

    def cut(self: SqlClient, sql: str, *, timeout: float | None = None) -> Rows:
        nonlocal left
        if sql.startswith(("CREATE", "ALTER", "UPDATE", "INSERT")):
            left -= 1
            if left < 0:
                raise Cut
        return real(self, sql, timeout=timeout)

    for allowed in range(60):  # every run gets one statement further than the one before it
        left = allowed
        with monkeypatch.context() as patch:
            patch.setattr(SqlClient, "exec", cut)
            try:
                migrate(client)
                break
            except Cut:
                continue
    else:
        pytest.fail("it never came to its end")
    assert allowed > 0
    assert picture(client) == wanted
    assert state(client).version == VERSION


def test_a_dry_run_says_all_and_does_nothing(client: SqlClient) -> None:
    statements = plan(client).statements
    assert state(client).empty
    assert sum(s.startswith("CREATE TABLE") for s in statements) == len(TABLES) + 1
    assert sum("MATERIALIZED VIEW" in s for s in statements) == len(VIEWS)
    make_version(client, 1)
    old = plan(client).statements
    assert any("ADD COLUMN IF NOT EXISTS best_bid" in s for s in old)
    assert state(client).version == 1


def test_a_newer_schema_is_refused(questdb: QuestDBServer, client: SqlClient) -> None:
    migrate(client)
    questdb.sql(f"INSERT INTO {VERSION_TABLE} VALUES (now(), {VERSION + 1}, 'later')")
    for refuse in (lambda: migrate(client), lambda: ensure(client, create=True)):
        with pytest.raises(StoreError, match=f"schema version {VERSION + 1}, newer than the {VERSION}.*upgrade"):
            refuse()


def test_tables_of_someone_else_are_not_touched(questdb: QuestDBServer, client: SqlClient) -> None:
    questdb.sql("CREATE TABLE trades (ts TIMESTAMP, price DOUBLE) TIMESTAMP(ts) PARTITION BY DAY WAL")
    for refuse in (lambda: migrate(client), lambda: ensure(client, create=True)):
        with pytest.raises(StoreError, match=r"has a table trades but no schema version.*table_prefix"):
            refuse()
    with SqlClient(Conf.parse(questdb.conf(table_prefix="my_"))) as own:
        assert ensure(own, create=True) == VERSION
        assert differences(own) == []
    assert "my_candles_1h" in questdb.tables()
    assert state(client).version is None


def test_an_empty_database_without_leave_to_create_says_what_to_do(client: SqlClient) -> None:
    with pytest.raises(StoreError, match="no tables of ours; create them with cmd-cli store migrate"):
        ensure(client, create=False)
    assert state(client).empty


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            "ALTER TABLE quotes ALTER COLUMN bid_price TYPE FLOAT",
            "type",
            "quotes: column bid_price is FLOAT instead of",
        ),
        ("ALTER TABLE gaps DROP COLUMN detail", "column", r"gaps: column detail \(VARCHAR\) is missing"),
    ],
)
def test_a_change_that_nothing_mends_is_named_and_refused(
    questdb: QuestDBServer, client: SqlClient, change: str, kind: str, words: str
) -> None:
    migrate(client)
    questdb.sql(change)
    client.wait_applied()
    assert [d.kind for d in differences(client)] == [kind]
    for refuse in (lambda: migrate(client), lambda: ensure(client, create=True)):
        with pytest.raises(StoreError, match=words):
            refuse()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ("DROP TABLE gaps", "table", "gaps: the table is missing"),
        ("ALTER TABLE trades DEDUP DISABLE", "key", "trades: the dedup key is off instead of ts_event, venue"),
        ("ALTER TABLE candles DEDUP ENABLE UPSERT KEYS(open_time, symbol)", "key", "key is open_time, symbol instead"),
        ("DROP MATERIALIZED VIEW candles_1d", "view", "candles_1d: the view is missing"),
        ("ALTER TABLE book_snapshots DROP COLUMN best_ask", "column", "best_ask"),
    ],
)
def test_a_change_that_migrate_mends_is_named_and_mended(
    questdb: QuestDBServer, client: SqlClient, change: str, kind: str, words: str
) -> None:
    migrate(client)
    questdb.sql(change)
    client.wait_applied()
    found = differences(client)
    assert [d.kind for d in found] == [kind]
    assert words in str(found[0])
    if kind == "view":
        assert ensure(client, create=False) == VERSION  # rows can be written all the same
    else:
        with pytest.raises(StoreError, match=r"changed by hand.*cmd-cli store migrate mends it"):
            ensure(client, create=True)
    assert len(migrate(client).statements) == 1
    assert differences(client) == []


def test_a_column_more_is_harmless(questdb: QuestDBServer, client: SqlClient) -> None:
    migrate(client)
    questdb.sql("ALTER TABLE trades ADD COLUMN mine DOUBLE")
    client.wait_applied()
    assert differences(client) == [Difference("extra", "trades", "column mine is not of the schema")]
    assert ensure(client, create=False) == VERSION
    assert migrate(client).statements == ()


def test_a_ttl_is_set_at_creation_and_changed_by_migrate(questdb: QuestDBServer) -> None:
    query = "SELECT table_name, ttlValue, ttlUnit FROM tables() WHERE ttlValue > 0 ORDER BY table_name"
    with SqlClient(Conf.parse(questdb.conf(ttl_trades="36h", ttl_book_deltas="7d", ttl_candles="100d"))) as first:
        migrate(first)
        assert differences(first) == []
    assert questdb.sql(query) == [["book_deltas", 1, "WEEK"], ["candles", 4, "MONTH"], ["trades", 2, "DAY"]]
    with SqlClient(Conf.parse(questdb.conf(ttl_trades="90d", ttl_book_deltas="7d", ttl_quotes="48h"))) as second:
        assert {(d.table, d.kind) for d in differences(second)} == {("trades", "ttl"), ("quotes", "ttl")}
        assert ensure(second, create=False) == VERSION
        migrate(second)
        assert differences(second) == []
    assert questdb.sql(query) == [
        ["book_deltas", 1, "WEEK"],
        ["candles", 4, "MONTH"],
        ["quotes", 2, "DAY"],
        ["trades", 90, "DAY"],
    ]
