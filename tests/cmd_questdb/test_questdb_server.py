"""The server of the tests does what the other tests rely on."""

from __future__ import annotations

import urllib.request

import pytest
from questdb_server import QuestDBServer, SqlError

TABLE = "CREATE TABLE t (ts TIMESTAMP_NS, n LONG) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, n)"


def test_rows_outlive_a_kill_and_a_restart(questdb: QuestDBServer) -> None:
    questdb.sql(TABLE)
    questdb.sql("INSERT INTO t VALUES ('2026-01-01T00:00:00.000000001Z', 1)")
    questdb.wait_applied("t")
    questdb.kill()
    assert not questdb.running
    with pytest.raises(OSError, match="refused"):
        questdb.sql("SELECT 1")
    questdb.start()
    assert questdb.sql("SELECT ts, n FROM t") == [["2026-01-01T00:00:00.000000001Z", 1]]


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_begins_with_an_empty_database(questdb: QuestDBServer, turn: int) -> None:
    assert questdb.tables() == []
    questdb.sql(TABLE)
    questdb.sql("CREATE MATERIALIZED VIEW v AS (SELECT ts, count() c FROM t SAMPLE BY 1m) PARTITION BY MONTH")
    questdb.sql("CREATE VIEW w AS (SELECT * FROM t)")
    (questdb.import_dir / "left.parquet").write_text("left")
    assert sorted(questdb.tables()) == ["t", "v", "w"]


def test_a_paused_server_answers_nothing_until_it_is_resumed(questdb: QuestDBServer) -> None:
    questdb.pause()
    with pytest.raises(TimeoutError):
        questdb.sql("SELECT 1", timeout=0.3)
    questdb.resume()
    assert questdb.value("SELECT 1") == 1


def test_the_server_asks_for_the_password(questdb_auth: QuestDBServer) -> None:
    assert questdb_auth.value("SELECT 1") == 1
    with pytest.raises(urllib.request.HTTPError) as refused:
        urllib.request.urlopen(f"{questdb_auth.url}/exec?query=SELECT%201")
    refused.value.close()
    assert refused.value.code == 401


def test_a_refused_statement_says_why(questdb: QuestDBServer) -> None:
    with pytest.raises(SqlError, match="does not exist"):
        questdb.sql("SELECT * FROM nowhere")
