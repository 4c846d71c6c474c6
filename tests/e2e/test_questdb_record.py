"""``cmd-cli record`` and ``archive`` into a real QuestDB: recordings, a server that goes away, the state folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cmd_questdb"))

import questdb_server as qs

from cmd_archiver.command import state_folder
from cmd_common import open_reader
from cmd_common.records import TABLE_OF


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qs.QuestDBServer]:
    if qs.find_jar() is None or qs.find_java() is None:
        pytest.skip(f"questdb is missing; {qs.HOW}")
    made = qs.QuestDBServer(tmp_path_factory.mktemp("questdb"))
    try:
        yield made.start()
    finally:
        made.close()


def everything(store: str) -> dict[str, list[object]]:
    """All records but those that differ with every connection."""
    found: dict[str, list[object]] = {}
    with open_reader(store) as reader:
        for table in reader.tables():
            if table in ("trades", "book_deltas", "book_snapshots"):
                found[table] = [without_receive_time(r) for r in reader.records(table)]
    return found


def without_receive_time(record: Any) -> object:
    return tuple(getattr(record, f) for f in record.__struct_fields__ if f not in ("ts_recv", "flags"))


def test_a_recording_gives_the_same_rows_in_questdb_and_in_parquet(
    cmd, server: qs.QuestDBServer, recordings: Path, tmp_path: Path
) -> None:
    first40s = ["--recording", str(recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson")]
    stores = [server.location(table_prefix="a_"), f"parquet:{tmp_path / 'store'}"]
    for store in stores:
        replay = cmd.replay(*first40s, "--speed", "max", "--exit-at-end")
        summary = cmd.summary(
            "record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades,book", "--store", store,
            *replay.endpoints, "--until-end",
        )  # fmt: skip
        assert summary["gaps"] == 0
        assert summary["records"]["trades"] > 0
    mine, theirs = map(everything, stores)
    assert mine == theirs
    assert set(mine) <= set(TABLE_OF.values())


def test_a_recorder_outlives_a_server_that_is_killed(
    cmd, server: qs.QuestDBServer, recordings: Path, tmp_path: Path
) -> None:
    """The server dies while a recording is played; rows wait in the spill and all of them arrive."""
    recording = str(recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson")
    command = ["record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades", "--until-end"]
    replay = cmd.replay("--recording", recording, "--speed", "max", "--exit-at-end")
    whole = server.location(table_prefix="b_")
    cmd.summary(*command, "--store", whole, *replay.endpoints)

    replay = cmd.replay("--recording", recording, "--speed", "10")  # four seconds
    store = server.location(table_prefix="c_", spill=tmp_path / "spill", request_timeout=2000)
    process = cmd.start(*command, "--store", store, *replay.endpoints)
    server.wait_for(lambda: "c_trades" in server.tables() and server.count("c_trades") > 0, "the first trades")
    server.kill()
    time.sleep(2.0)
    server.start()
    assert process.wait(timeout=60) in (0, 3)
    # Whatever still waits is sent by the next recorder, here one that is told of no new trade.
    replay = cmd.replay("--recording", recording, "--speed", "max", "--exit-at-end")
    cmd.summary(*command, "--store", store, *replay.endpoints)
    assert everything(store)["trades"] == everything(whole)["trades"]


def test_live_and_archived_rows_are_one_row_and_the_state_is_kept_beside_other_stores(
    cmd, server: qs.QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    replay = cmd.replay("--simulate", "--symbols", "1", "--seed", "3", "--speed", "10", "--duration", "60s")
    symbols = ",".join(replay.ready["binance-spot"]["symbols"])
    store = server.location(table_prefix="d_")
    common = ["--exchange", "binance-spot", "--symbols", symbols, "--types", "trades", *replay.endpoints]
    live = cmd.summary("record", *common, "--store", store, "--until-end")
    with open_reader(store) as reader:
        (day,) = {time.strftime("%Y-%m-%d", time.gmtime(r.ts_event // 10**9)) for r in reader.records("trades")}
    for _ in range(2):  # the second finds the first in the state folder
        cmd.summary("archive", *common, "--store", store, "--start", day, "--end", day, code=None)
    alone = f"parquet:{tmp_path / 'alone'}"
    cmd.summary("archive", *common, "--store", alone, "--start", day, "--end", day, code=None)
    assert everything(store) == everything(alone)
    with open_reader(store) as reader:
        received = [r.ts_recv for r in reader.records("trades")]
    assert sum(map(bool, received)) == live["records"]["trades"] < len(received)
    folder = state_folder(store)
    assert folder.is_relative_to(tmp_path / "home")
    assert (folder / "_archive.sqlite").exists()
    assert folder != state_folder(server.location(table_prefix="e_"))


def test_doctor_tells_version_and_schema_of_a_database(cmd, server: qs.QuestDBServer, tmp_path: Path) -> None:
    store = server.location(table_prefix="f_")

    def told() -> dict[str, Any]:
        done = cmd.run("doctor", "--offline", "--store", store, "--json")
        return next(c for c in json.loads(done.stdout)["checks"] if c["check"] == "store")

    assert told()["state"] == "ok"
    assert "no tables yet" in told()["found"]
    replay = cmd.replay("--simulate", "--symbols", "1", "--seed", "3", "--speed", "10", "--duration", "10s")
    cmd.summary(
        "record", "--exchange", "binance-spot", "--symbols", "all", "--types", "trades", "--store", store,
        *replay.endpoints, "--until-end",
    )  # fmt: skip
    line = told()
    assert line["state"] == "ok"
    assert "schema " in line["found"]
    assert "server " in line["found"]
    server.kill()
    try:
        line = told()
        assert line["state"] == "fail"
        assert line["todo"]
    finally:
        server.start()
