"""Partitions in Parquet form: converted only when nothing writes into them, made native before something does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date

import pytest
from questdb_server import QuestDBServer

from cmd_common.errors import StoreError, UsageError
from cmd_common.io import open_writer
from cmd_common.records import Trade
from cmd_questdb import convert as converting
from cmd_questdb.conf import Conf
from cmd_questdb.convert import MIN_AGE, convert, converted_days, make_native, partitions, plan
from cmd_questdb.migrations import migrate
from cmd_questdb.sql import SqlClient

DAY = 86_400_000_000_000
JAN = 1_735_689_600_000_000_000  # 2025-01-01


@pytest.fixture
def client(questdb: QuestDBServer) -> Iterator[SqlClient]:
    with SqlClient(Conf.parse(questdb.conf())) as client:
        migrate(client)
        yield client


def fill(questdb: QuestDBServer, day: str, rows: int, step: int, *, first: int = 1) -> None:
    """Trades of a day: several share a stamp, ids are unique."""
    questdb.sql(
        f"INSERT INTO trades SELECT ('{day}'::TIMESTAMP_NS::LONG + ((x + {first - 1}) / 3) * {step})::TIMESTAMP_NS, NULL,"
        f" 'v', 'S', 'id-' || (x + {first - 1}), x + {first - 1}, 1.5 + x % 7, 2.0, 'buy', 0 FROM long_sequence({rows})"
    )
    questdb.wait_applied("trades")


def rows(questdb: QuestDBServer) -> list[list[object]]:
    return questdb.sql("SELECT * FROM trades ORDER BY trade_seq")


def test_old_closed_days_are_converted_and_read_back_the_same(questdb: QuestDBServer, client: SqlClient) -> None:
    for n, day in enumerate(("2025-01-01", "2025-01-02", "2025-01-03")):
        fill(questdb, day, 1000, 1_000_001, first=1 + 1000 * n)
    before = rows(questdb)
    todo = plan(client, "trades", older=30 * DAY, back=False)
    assert [p.name for p in todo.todo] == ["2025-01-01", "2025-01-02"]
    assert todo.left == {"2025-01-03": "the newest partition is always written into"}
    assert todo.todo[0].start == JAN
    assert todo.todo[0].end == JAN + DAY
    assert converted_days(client, "trades") == frozenset()
    seen: list[tuple[int, int]] = []
    convert(client, todo, back=False, progress=lambda a, b: seen.append((a, b)))
    assert seen == [(2, 2)]
    assert converted_days(client, "trades") == {date(2025, 1, 1), date(2025, 1, 2)}
    assert rows(questdb) == before
    assert client.arrow("SELECT * FROM trades").num_rows == 3000

    back = plan(client, "trades", older=0, back=True)
    convert(client, back, back=True)
    assert converted_days(client, "trades") == frozenset()
    assert rows(questdb) == before


def test_young_partitions_are_refused(questdb: QuestDBServer, client: SqlClient) -> None:
    with pytest.raises(UsageError, match="younger than two days"):
        plan(client, "trades", older=MIN_AGE - 1, back=False)
    with pytest.raises(UsageError, match="no table 'trade'"):
        plan(client, "trade", older=MIN_AGE, back=False)
    fill(questdb, "2025-01-01", 10, 1)
    fill(questdb, "2025-01-02", 10, 1, first=11)
    at = JAN + DAY + MIN_AGE
    assert plan(client, "trades", older=MIN_AGE, back=False, now=at - 1).todo == ()
    assert plan(client, "trades", older=MIN_AGE, back=False, now=at - 1).left["2025-01-01"] == "too young"
    assert [p.name for p in plan(client, "trades", older=MIN_AGE, back=False, now=at).todo] == ["2025-01-01"]


def test_a_day_with_an_open_gap_stays_native(questdb: QuestDBServer, client: SqlClient) -> None:
    fill(questdb, "2025-01-01", 10, 1)
    fill(questdb, "2025-01-02", 10, 1, first=11)
    fill(questdb, "2025-01-03", 10, 1, first=21)
    gap = (
        "INSERT INTO gaps (ts_from, ts_to, venue, symbol, record_type, reason, severity, repaired_by, detail) VALUES"
        " ('2025-01-02T01:00:00Z', '2025-01-02T02:00:00Z', 'v', 'S', 'trades', 'disconnect', 'lost', '{}', '')"
    )
    questdb.sql(gap.format(""))
    questdb.wait_applied("gaps")
    todo = plan(client, "trades", older=MIN_AGE, back=False)
    assert [p.name for p in todo.todo] == ["2025-01-01"]
    assert "gap" in todo.left["2025-01-02"]
    questdb.sql(gap.format("archive"))
    questdb.wait_applied("gaps")
    assert [p.name for p in plan(client, "trades", older=MIN_AGE, back=False).todo] == ["2025-01-01", "2025-01-02"]


def test_days_are_native_again_before_they_are_written(questdb: QuestDBServer, client: SqlClient) -> None:
    for n, day in enumerate(("2025-01-01", "2025-01-02", "2025-01-03")):
        fill(questdb, day, 200_100, 1_000, first=1 + 1_000_000 * n)  # more than the rows of one row group
    convert(client, plan(client, "trades", older=MIN_AGE, back=False), back=False)
    assert make_native(client, "trades", JAN - DAY, JAN) == []
    assert make_native(client, "trades", JAN + DAY - 1, JAN + DAY) == ["2025-01-01"]
    assert converted_days(client, "trades") == {date(2025, 1, 2)}
    fill(questdb, "2025-01-01", 200_100, 1_000)  # the same rows again
    assert questdb.count("trades") == 3 * 200_100
    assert make_native(client, "trades", JAN, JAN + 9 * DAY) == ["2025-01-02"]
    fill(questdb, "2025-01-02", 200_100, 1_000, first=1_000_001)
    assert questdb.count("trades") == 3 * 200_100


def test_hours_and_months_have_their_own_bounds(questdb: QuestDBServer, client: SqlClient) -> None:
    questdb.sql(
        "INSERT INTO quotes VALUES ('2025-01-01T23:59:59Z', NULL, 'v', 'S', 1, 1.0, 1.0, 2.0, 1.0, 0),"
        " ('2025-01-02T00:00:00Z', NULL, 'v', 'S', 2, 1.0, 1.0, 2.0, 1.0, 0)"
    )
    questdb.sql(
        "INSERT INTO gaps (ts_from, ts_to, venue, symbol, record_type, reason, severity, repaired_by, detail) VALUES"
        " ('2024-12-31', '2025-01-01', 'v', 'S', 'quotes', 'x', 'suspect', '', '')"
    )
    questdb.wait_applied()
    assert [(p.start, p.end) for p in partitions(client, "quotes")] == [
        (JAN + 23 * DAY // 24, JAN + DAY),
        (JAN + DAY, JAN + DAY + DAY // 24),
    ]
    assert [(p.start, p.end) for p in partitions(client, "gaps")] == [(JAN - 31 * DAY, JAN)]
    convert(client, plan(client, "quotes", older=MIN_AGE, back=False), back=False)
    assert converted_days(client, "quotes") == {date(2025, 1, 1)}
    assert questdb.count("quotes") == 2


def test_rows_that_change_under_the_conversion_make_it_native_again(
    questdb: QuestDBServer, client: SqlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(questdb, "2025-01-01", 100, 1)
    fill(questdb, "2025-01-02", 100, 1, first=1001)
    real = converting._run

    def disturbed(client: SqlClient, table: str, todo: list[converting.Partition], to: str) -> None:
        if to == "PARQUET":  # another writer comes in just before
            fill(questdb, "2025-01-01", 100, 1, first=501)
        real(client, table, todo, to)

    monkeypatch.setattr(converting, "_run", disturbed)
    with pytest.raises(StoreError, match=r"2025-01-01 of trades changed its rows.*native again"):
        convert(client, plan(client, "trades", older=MIN_AGE, back=False), back=False)
    assert converted_days(client, "trades") == frozenset()
    assert questdb.count("trades") == 300


def test_a_table_that_is_missing_has_no_partitions(questdb: QuestDBServer) -> None:
    with SqlClient(Conf.parse(questdb.conf())) as client:
        assert partitions(client, "trades") == []
        start = time.time_ns()
        assert make_native(client, "trades", 0, start) == []


def test_a_writer_makes_days_native_before_it_writes_into_them(questdb: QuestDBServer, client: SqlClient) -> None:
    days = [
        [Trade(JAN + d * DAY + n // 3, 0, "v", "S", str(n), n, 1.5, 2.0, "buy") for n in range(300)] for d in range(3)
    ]
    with open_writer(questdb.location()) as writer:
        for records in days:
            writer.write(records)
    convert(client, plan(client, "trades", older=MIN_AGE, back=False), back=False)
    assert converted_days(client, "trades") == {date(2025, 1, 1), date(2025, 1, 2)}
    with open_writer(questdb.location()) as writer:
        writer.write(days[0])  # the same rows
    assert converted_days(client, "trades") == {date(2025, 1, 2)}
    assert questdb.count("trades") == 900
