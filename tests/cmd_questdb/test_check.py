"""What ``store check`` finds on a real server that something was done to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from questdb_server import QuestDBServer

from cmd_common.io import Finding
from cmd_questdb import check as checking
from cmd_questdb.check import check, repair
from cmd_questdb.conf import Conf
from cmd_questdb.migrations import VERSION_TABLE, migrate
from cmd_questdb.schema import VERSION
from cmd_questdb.sql import SqlClient

TRADE = "INSERT INTO trades VALUES ('{}', NULL, 'v', 'S', '{}', 1, 1.5, 2.0, 'buy', 0)"


@pytest.fixture
def client(questdb: QuestDBServer) -> Iterator[SqlClient]:
    with SqlClient(Conf.parse(questdb.conf())) as client:
        migrate(client)
        yield client


def found(client: SqlClient, **more: object) -> list[tuple[str, str, str]]:
    return [(f.severity, f.kind, f.where) for f in check(client, **more)]  # type: ignore[arg-type]


def test_a_sound_server_has_no_findings(questdb: QuestDBServer, client: SqlClient) -> None:
    questdb.sql(TRADE.format("2025-01-01", "1"))
    questdb.wait_applied()
    assert check(client, full=True) == []
    assert repair(client) == []


def test_an_empty_an_older_and_a_newer_database(questdb: QuestDBServer) -> None:
    with SqlClient(Conf.parse(questdb.conf())) as client:
        assert found(client) == [("error", "schema", client.conf.shown)]
        migrate(client)
        questdb.sql(f"INSERT INTO {VERSION_TABLE} VALUES (now(), {VERSION + 1}, 'later')")
        assert "upgrade this program" in str(check(client)[0])
        questdb.sql(f"TRUNCATE TABLE {VERSION_TABLE}")
        questdb.sql(f"INSERT INTO {VERSION_TABLE} VALUES (now(), 1, 'old')")
        assert "cmd-cli store migrate" in str(check(client)[0])


def test_a_suspended_table_is_found_with_its_cause_and_resumed(questdb: QuestDBServer, client: SqlClient) -> None:
    questdb.sql(TRADE.format("2025-01-01", "1"))
    questdb.sql(TRADE.format("2025-01-02", "2"))
    questdb.sql("ALTER TABLE trades CONVERT PARTITION TO PARQUET LIST '2025-01-01'")
    questdb.wait_applied()
    questdb.sql("UPDATE trades SET price = 2.0")  # 9.3.4 cannot do it on such a partition
    suspended = "SELECT suspended FROM wal_tables() WHERE name = 'trades'"
    questdb.wait_for(lambda: questdb.value(suspended) is True, "the table is suspended")
    questdb.sql(TRADE.format("2025-01-03", "3"))  # acknowledged, and not applied
    findings = check(client)
    assert [(f.severity, f.kind, f.where) for f in findings] == [("error", "suspended", "trades")]
    assert "2 transactions not applied" in findings[0].what
    assert "--repair" in findings[0].hint
    questdb.sql("ALTER TABLE trades RESUME WAL FROM TXN 5")  # past the update: what an operator decides
    questdb.wait_applied()
    assert questdb.count("trades") == 3
    assert found(client) == []


def test_repair_resumes_and_makes_dropped_tables_and_views_again(questdb: QuestDBServer, client: SqlClient) -> None:
    questdb.sql(TRADE.format("2025-01-01", "1"))
    questdb.wait_for(lambda: questdb.count("candles_1d") == 1, "the views are built")
    questdb.sql("DROP TABLE gaps")
    questdb.sql("DROP MATERIALIZED VIEW candles_1d")
    questdb.sql("ALTER TABLE trades ALTER COLUMN flags TYPE LONG")
    questdb.sql("ALTER TABLE trades ALTER COLUMN flags TYPE INT")  # right again, but the views are invalid
    questdb.wait_applied()
    invalid = "SELECT count() FROM materialized_views() WHERE view_status = 'invalid'"
    questdb.wait_for(lambda: questdb.value(invalid) == 3, "the views are invalid")
    assert sorted(found(client)) == [
        ("error", "table", "gaps"),
        ("error", "view", "candles_1h"),
        ("error", "view", "candles_1m"),
        ("error", "view", "candles_5m"),
        ("warning", "view", "candles_1d"),
    ]
    done = repair(client)
    assert any("gaps" in d for d in done)
    assert "built candles_1m again" in done
    questdb.wait_for(lambda: questdb.count("candles_1d") == 1, "the views are built again")
    assert found(client) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ALTER TABLE quotes ALTER COLUMN bid_price TYPE FLOAT", ("error", "type", "quotes")),
        ("ALTER TABLE trades DEDUP DISABLE", ("error", "key", "trades")),
    ],
)
def test_a_schema_changed_by_hand_is_found(
    questdb: QuestDBServer, client: SqlClient, change: str, expected: tuple[str, str, str]
) -> None:
    questdb.sql(change)
    questdb.wait_applied()
    assert expected in found(client)


def test_duplicates_are_found_recent_ones_and_with_full_all(questdb: QuestDBServer, client: SqlClient) -> None:
    questdb.sql("ALTER TABLE trades DEDUP DISABLE")
    for _ in range(3):
        questdb.sql(TRADE.format("2025-01-01T00:00:00.000000001Z", "1"))
    questdb.sql(TRADE.format("2025-01-02", "2"))
    questdb.sql(TRADE.format("2025-02-01", "3"))
    questdb.sql("ALTER TABLE trades DEDUP ENABLE UPSERT KEYS(ts_event, venue, symbol, trade_id)")
    questdb.wait_applied()
    assert found(client) == []
    findings = check(client, full=True)
    assert [(f.severity, f.kind, f.where) for f in findings] == [("error", "duplicates", "trades")]
    assert findings[0].what.startswith("2 rows from 2025-01-01")


def test_rows_of_the_future_and_young_parquet_partitions_are_found(questdb: QuestDBServer, client: SqlClient) -> None:
    today = time.strftime("%Y-%m-%d", time.gmtime())
    later = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10 * 86_400))
    questdb.sql(TRADE.format(today, "1"))
    questdb.sql(TRADE.format(later, "2"))
    questdb.wait_applied()
    questdb.sql(f"ALTER TABLE trades CONVERT PARTITION TO PARQUET LIST '{today}'")
    questdb.wait_applied()
    questdb.wait_for(
        lambda: questdb.value("SELECT count() FROM table_partitions('trades') WHERE isParquet") == 1, "it is converted"
    )
    assert found(client) == [("warning", "parquet", "trades"), ("warning", "future", "trades")]


def test_a_column_added_after_a_conversion_is_found_before_it_ends_the_server(
    questdb: QuestDBServer, client: SqlClient
) -> None:
    questdb.sql(TRADE.format("2025-01-01", "1"))
    questdb.sql(TRADE.format("2025-01-02", "2"))
    questdb.sql("ALTER TABLE trades ADD COLUMN mine DOUBLE")
    questdb.wait_applied()
    assert found(client) == []
    questdb.sql("ALTER TABLE trades CONVERT PARTITION TO PARQUET LIST '2025-01-01'")
    questdb.wait_applied()
    assert ("error", "crash", "trades") in found(client)


def test_a_server_left_open_is_found(questdb_factory: Callable[..., QuestDBServer]) -> None:
    server = questdb_factory(
        settings={
            "line.auto.create.new.tables": "true",
            "line.auto.create.new.columns": "true",
            "line.tcp.enabled": "false",
        }
    )
    server.start()
    with SqlClient(Conf.parse(server.conf())) as client:
        migrate(client)
        assert sorted(found(client)) == [
            ("warning", "auto-create", "line.auto.create.new.columns"),
            ("warning", "auto-create", "line.auto.create.new.tables"),
        ]


def test_settings_that_let_everyone_in_are_found() -> None:
    class Answers:
        def exec(self, sql: str) -> object:
            assert sql == "SHOW PARAMETERS"
            return self

        def dicts(self) -> list[dict[str, str | None]]:
            values = {
                "http.net.bind.to": ("0.0.0.0:9000", "conf"),
                "http.user": (None, "default"),
                "pg.net.bind.to": ("0.0.0.0:8812", "conf"),
                "pg.password": ("****", "default"),
                "line.tcp.enabled": ("true", "default"),
                "line.tcp.net.bind.to": ("0.0.0.0:9009", "default"),
                "telemetry.enabled": ("true", "default"),
            }
            return [{"property_path": k, "value": v, "value_source": s} for k, (v, s) in values.items()]

    kinds = [(f.kind, f.where) for f in checking._settings(Answers())]  # type: ignore[arg-type]
    assert kinds == [
        ("telemetry", "telemetry.enabled"),
        ("security", "http.net.bind.to"),
        ("security", "pg.password"),
        ("security", "line.tcp.enabled"),
    ]


@pytest.mark.parametrize(("free", "severity"), [(5, "error"), (20, "warning"), (60, "")])
def test_a_disk_that_fills_is_found(
    client: SqlClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, severity: str
) -> None:
    monkeypatch.setattr(
        checking.shutil, "disk_usage", lambda _: type("U", (), {"free": free * 10**9, "total": 100 * 10**9})
    )
    findings = check(client, root=str(tmp_path))
    assert [f.severity for f in findings] == ([severity] if severity else [])
    assert all(isinstance(f, Finding) and f.kind == "disk" for f in findings)


def test_a_root_that_is_elsewhere_is_said(client: SqlClient, tmp_path: Path) -> None:
    assert found(client, root=str(tmp_path / "no")) == [("warning", "disk", str(tmp_path / "no"))]
