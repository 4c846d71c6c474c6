"""Runs that are killed, cut short, stopped or side by side end with the same rows."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from archive_kit import (
    ARCHIVE,
    DAY,
    NEXT,
    end_of,
    everything,
    files_in,
    publish,
    rows,
    start,
    trades,
)

from cmd_archiver.command import state_folder
from cmd_archiver.download import Downloader
from cmd_archiver.job import Archiver
from cmd_archiver.locks import FileLock
from cmd_archiver.storing import Storing
from cmd_common.commands import EXIT_OK
from cmd_common.errors import StoreError


def test_a_replacement_that_is_cut_short_never_leaves_rows_of_two_versions(go, server, store, made_up, monkeypatch):
    """Cut after the rows are durable and before the manifest says so, with any version following."""
    one = made_up(DAY, 30)
    two = [(i, p, q, t + 1, m) for i, p, q, t, m in one[:20]]
    versions = {"one": one, "two": two, "three": [(i, p, q, t + 2, m) for i, p, q, t, m in one[5:]]}
    real = Storing.write

    def cut(self, *arguments):
        real(self, *arguments)
        raise StoreError("killed")

    for order in (["one", "two", "one"], ["one", "two", "three"], ["two", "three", "two"], ["three", "one", "three"]):
        for first_cut in (False, True):
            place = f"{store}-{'-'.join(order)}-{first_cut}"
            for n, version in enumerate(order):
                server.add_trades(DAY, versions[version])
                if n == 1 or (n == 0 and first_cut):
                    monkeypatch.setattr(Storing, "write", cut)
                    with pytest.raises(StoreError, match="killed"):
                        go(end=DAY, store=place)
                    monkeypatch.setattr(Storing, "write", real)
                else:
                    go(end=DAY, store=place)
            expected = [(t * 1_000_000, i) for i, _, _, t, _ in versions[order[-1]]]
            assert rows(place, "SELECT ts_event, trade_seq FROM trades ORDER BY trade_seq") == expected


def test_what_a_run_left_behind_its_last_step_is_removed(go, server, store, recorded, monkeypatch):
    publish(server, recorded)
    monkeypatch.setattr(Archiver, "_tidy", lambda self, *rest: None)
    go()
    assert len(files_in(store, "_downloads")) == 2
    monkeypatch.undo()
    assert go()[0].summary["unchanged"] == 2
    assert files_in(store, "_downloads") == []


def test_a_gap_that_a_cut_run_wrote_is_closed_by_a_whole_file(go, server, store, made_up, monkeypatch):
    whole = made_up(DAY, 30)
    server.add_trades(DAY, whole[:10] + whole[12:])
    real = Storing.write

    def cut(self, *arguments):
        real(self, *arguments)
        raise StoreError("killed")

    monkeypatch.setattr(Storing, "write", cut)
    with pytest.raises(StoreError, match="killed"):
        go(end=DAY)
    monkeypatch.setattr(Storing, "write", real)
    server.add_trades(DAY, whole)
    assert go(end=DAY)[0].exit_code == EXIT_OK
    assert rows(store, "SELECT first_id, last_id, repaired_by FROM gaps") == [(1010, 1011, "archive")]


def test_killed_at_random_moments_and_run_again_the_rows_are_the_same(server, tmp_path, recorded):
    publish(server, recorded)
    reference = f"parquet:{tmp_path / 'reference'}"
    begun = time.monotonic()
    assert end_of(start(server, reference, NEXT))["code"] == EXIT_OK
    whole = time.monotonic() - begun
    expected = everything(reference)
    assert len(expected[0]) == 19_904
    rng = random.Random(7)
    store = f"parquet:{tmp_path / 'killed'}"
    for n in range(6):
        if n == 3:  # another version upstream, in the middle of it all
            server.add_trades(DAY, [(i, p, q, t + 1, m) for i, p, q, t, m in recorded[DAY]])
        process = start(server, store, NEXT)
        try:
            process.wait(timeout=whole * rng.uniform(0.3, 1.1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    publish(server, recorded)
    assert end_of(start(server, store, NEXT))["code"] == EXIT_OK
    assert everything(store) == expected
    assert files_in(store, "_downloads") == []
    again = end_of(start(server, store, NEXT))
    assert (again["files"], again["unchanged"]) == (0, 2)


def test_two_archivers_on_one_store_share_the_work(server, tmp_path, made_up):
    days = [DAY + timedelta(days=d) for d in range(6)]
    count = 0
    for n, day in enumerate(days):
        made = made_up(day, 2000, first_id=1 + n * 2000)
        server.add_trades(day, made)
        count += len(made)
    store = f"parquet:{tmp_path / 'store'}"
    both = [end_of(p) for p in [start(server, store, days[-1]) for _ in range(2)]]
    assert {b["code"] for b in both} == {EXIT_OK}
    assert sum(b["files"] for b in both) == len(days)
    assert sum(b["unchanged"] for b in both) == len(days)
    assert rows(store, "SELECT count(*), count(DISTINCT trade_id) FROM trades") == [(count, count)]
    assert files_in(store, "_locks") == []


# Not getrusage: its peak is inherited from the process that started this one.


PEAK = """
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"code": result.exit_code, "mib": peak / 1024, **result.summary}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell the peak memory")
def test_a_million_rows_need_at_most_200_mib_more_than_a_few(server, tmp_path, kit, made_up):
    block = kit.trades_csv(made_up(DAY, 1000, every=80)).splitlines()
    tails = [line.split(b",", 1)[1] for line in block]
    peaks = []
    for count in (1000, 1_000_000):
        text = b"".join(b"%d,%s\n" % (i, tails[i * 1000 // count]) for i in range(count))
        name = f"BTCUSDT-trades-{DAY}"
        server.add(f"data/spot/daily/trades/BTCUSDT/{name}.zip", kit.zip(name, text))
        store = f"parquet:{tmp_path / str(count)}"
        done = subprocess.run(
            [sys.executable, "-c", ARCHIVE.rpartition("print(json")[0] + PEAK, server.url, store, DAY.isoformat()],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        summary = json.loads(done.stdout)
        assert summary["rows"]["trades"] == count
        peaks.append(summary["mib"])
    assert 0 < peaks[1] - peaks[0] <= 200


def test_work_that_another_process_holds_is_waited_for(go, server, store, recorded, monkeypatch):
    publish(server, recorded)
    folder = state_folder(store)
    lock = FileLock(folder / "_locks", f"binance-spot.trades..BTCUSDT.{DAY}")
    assert lock.acquire()
    done = []
    real = Archiver._unit

    async def unit(self, unit, *rest):
        await real(self, unit, *rest)
        done.append(unit.file.first_day)
        if unit.file.first_day == NEXT:
            lock.release()

    monkeypatch.setattr(Archiver, "_unit", unit)
    assert go()[0].exit_code == EXIT_OK
    assert done == [NEXT, DAY]


def test_a_signal_does_not_wait_for_a_slow_listing(server, recorded, go, monkeypatch):
    publish(server, recorded)

    async def sizes(*args: Any, **options: Any) -> dict[str, int]:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    monkeypatch.setattr(Downloader, "sizes", sizes)
    result, _ = go()
    assert (result.exit_code, result.summary["interrupted"]) == (EXIT_OK, True)
    assert not [path for path, _ in server.requests if path.endswith(".zip")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_and_a_rerun_ends_the_same(server, tmp_path, recorded, number):
    publish(server, recorded)
    store = f"parquet:{tmp_path / 'store'}"
    body = len(next(v for k, v in server.files.items() if "08-08" in k))
    for key in server.files:  # never enough: the downloads go on retrying until the signal comes
        server.cut[key] = [body // 2, *[0] * 100]
    process = start(server, store, NEXT)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"download"):
            break
    process.send_signal(number)
    summary = end_of(process)
    assert (summary["code"], summary["interrupted"]) == (EXIT_OK, True)
    assert [n for n in files_in(store, "_downloads") if n.endswith(".part")]
    server.cut.clear()
    assert end_of(start(server, store, NEXT))["code"] == EXIT_OK
    assert len(trades(store)) == 19_904
    assert any(wanted for path, wanted in server.requests if path.endswith(".zip"))
