"""``cmd-cli archive`` and ``record`` into a real QuestDB: killed and run again, live plus archive, exact counts."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmd_common import open_reader
from cmd_common.records import Record

sys.path.insert(0, str(Path(__file__).parents[1] / "cmd_questdb"))

import questdb_server as qs

START = "2025-06-01T00:00:00"
DAYS = ["--start", "2025-05-30", "--end", "2025-05-31"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qs.QuestDBServer]:
    if qs.find_jar() is None or qs.find_java() is None:
        pytest.skip(f"questdb is missing; {qs.HOW}")
    found = qs.QuestDBServer(tmp_path_factory.mktemp("questdb"))
    try:
        yield found.start()
    finally:
        found.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archiver keeps what it did for a server in the user's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def rows(store: str, table: str = "trades", **filters: Any) -> list[Record]:
    with open_reader(store) as reader:
        return list(reader.records(table, **filters))


@pytest.mark.parametrize("way", ["by_file", "by_frames"])
def test_a_killed_archiver_run_again_ends_with_the_same_rows(
    cmd: Any, server: qs.QuestDBServer, home: Path, tmp_path: Path, way: str
) -> None:
    replay = cmd.replay("--simulate", "--symbols", "2", "--seed", "5", "--start", START, "--history-days", "2")
    archive = [
        "archive", "--exchange", "binance-spot", "--symbols", "all", "--types", "trades,candles", *DAYS,
        *replay.endpoints,
    ]  # fmt: skip
    parquet = f"parquet:{tmp_path / 'store'}"
    clean = cmd.summary(*archive, "--store", parquet)

    more = {"import_dir": server.import_dir} if way == "by_file" else {}
    store = server.location(table_prefix=f"{way}_", **more)
    dice = random.Random(5)
    for _ in range(3):
        process = cmd.start(*archive, "--store", store)
        time.sleep(1.0 + 2.0 * dice.random())  # a random moment is the point: a kill has no right time
        process.kill()
        process.wait()
    last = cmd.summary(*archive, "--store", store)
    assert last["failed"] == 0
    assert last["files"] + last["unchanged"] == clean["files"] == 2 * 2 * 2
    again = cmd.summary(*archive, "--store", store)
    assert (again["files"], again["unchanged"], again["rows"]) == (0, clean["files"], {})
    forced = cmd.summary(*archive, "--store", store, "--force")
    assert forced["rows"] == clean["rows"]

    for table in ("trades", "candles"):
        mine, theirs = rows(store, table), rows(parquet, table)
        assert len(mine) == len(theirs) > 0
        assert mine == theirs, table
    counts = cmd.query(f"SELECT count() n, count_distinct(trade_id) ids FROM {way}_trades", store)
    assert counts[0]["n"] == clean["rows"]["trades"]
    assert rows(store, "gaps") == rows(parquet, "gaps")
    assert list(server.import_dir.glob("cmd-bulk-*")) == []


def test_live_and_archived_rows_of_a_simulated_day_are_one_row(
    cmd: Any, server: qs.QuestDBServer, home: Path, tmp_path: Path
) -> None:
    replay = cmd.replay("--simulate", "--symbols", "2", "--seed", "3", "--speed", "10", "--duration", "60s")
    symbols = ",".join(replay.ready["binance-spot"]["symbols"])
    store = server.location(table_prefix="live_", import_dir=server.import_dir)
    live = cmd.summary(
        "record", "--exchange", "binance-spot", "--symbols", symbols, "--types", "trades", "--store", store,
        *replay.endpoints, "--until-end",
    )  # fmt: skip
    assert live["records"]["trades"] > 100
    day = cmd.query("SELECT DISTINCT timestamp_floor('d', ts_event) AS day FROM live_trades", store)
    assert len(day) == 1
    text = time.strftime("%Y-%m-%d", time.gmtime(day[0]["day"] // 10**9))
    archive = [
        "archive", "--exchange", "binance-spot", "--symbols", symbols, "--types", "trades", "--start", text, "--end",
        text, *replay.endpoints,
    ]  # fmt: skip
    cmd.summary(*archive, "--store", store, code=None)
    alone = server.location(table_prefix="alone_")
    cmd.summary(*archive, "--store", alone, code=None)

    def plain(record: Any) -> tuple[Any, ...]:
        return (record.ts_event, record.symbol, record.trade_id, record.price, record.quantity, record.side)

    both = rows(store)
    assert [plain(r) for r in both] == [plain(r) for r in rows(alone)]
    counts = cmd.query("SELECT count(ts_recv) live, count() n FROM live_trades", store)
    assert counts == [{"live": live["records"]["trades"], "n": len(both)}]


def test_a_server_that_restarts_meanwhile_costs_no_row(
    cmd: Any, server: qs.QuestDBServer, home: Path, tmp_path: Path
) -> None:
    replay = cmd.replay("--simulate", "--symbols", "2", "--seed", "9", "--start", START, "--history-days", "2")
    archive = [
        "archive", "--exchange", "binance-spot", "--symbols", "all", "--types", "trades", *DAYS, *replay.endpoints,
    ]  # fmt: skip
    parquet = f"parquet:{tmp_path / 'store'}"
    clean = cmd.summary(*archive, "--store", parquet)
    store = server.location(table_prefix="restart_")
    process = cmd.start(*archive, "--store", store, "--json")
    server.wait_for(lambda: "restart_trades" in server.tables() and server.count("restart_trades") > 0, "rows come", 60)
    server.kill()
    server.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out[-2000:], err[-2000:])
    assert rows(store) == rows(parquet)
    assert len(rows(store)) == clean["rows"]["trades"]
