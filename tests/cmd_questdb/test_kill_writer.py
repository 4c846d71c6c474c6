"""Fifty kills -9 of writer or server at random moments: nothing confirmed is lost and nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec import structs
from questdb_server import QuestDBServer
from tests.tally import amount, note
from writer_tools import QUICK, conf_for, ids, writer_of

WRITER_KILLS = 46
SERVER_KILLS = 4


@pytest.mark.parametrize("seed", range(1, 1 + amount(1, 1)))
def test_fifty_random_kills_of_writer_or_server(
    questdb: QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    rng = random.Random(seed)
    conf = conf_for(questdb, spill=str(tmp_path / "spill"), chunk_rows=1_000)
    writer_of(conf).close()
    location = questdb.conf(table_prefix=conf.table_prefix, spill=conf.spill, chunk_rows=1_000)
    log = tmp_path / "confirmed"
    log.write_bytes(b"")
    zygote = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("kill_child.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    assert zygote.stderr is not None

    def confirmed() -> int:
        lines = log.read_bytes().split()
        return int(lines[-1]) if lines else 0

    when = set(rng.sample(range(3, WRITER_KILLS), SERVER_KILLS))
    kills = 0
    try:
        for run in range(WRITER_KILLS):
            before = confirmed()
            job = {"location": location, "number": before, "log": str(log), "seed": rng.randrange(1 << 30)}
            zygote.stdin.write(json.dumps(job) + "\n")
            zygote.stdin.flush()
            pid = int(zygote.stdout.readline())
            if run in when:
                time.sleep(rng.uniform(0.1, 0.4))
                questdb.kill()
                kills += 1
                until = time.monotonic() + rng.uniform(0.2, 1.0)
                while time.monotonic() < until:
                    time.sleep(0.05)
                questdb.start()
            else:
                end = time.monotonic() + 10
                while confirmed() == before and time.monotonic() < end and rng.random() > 0.05:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0.0, 0.15))
            os.kill(pid, signal.SIGKILL)
            kills += 1
            assert int(zygote.stdout.readline()) == signal.SIGKILL, zygote.stderr.readline()
    finally:
        zygote.stdin.close()
        zygote.wait(30)
        zygote.stdout.close()
        zygote.stderr.close()
    assert kills == WRITER_KILLS + SERVER_KILLS
    last = confirmed()
    assert last > 1_000
    # The next writer sends what the killed ones left; what was on its way when they died may be stored or not.
    with writer_of(conf, structs.replace(QUICK, close=60.0)) as writer:
        writer.flush()
    stored = ids(questdb, conf)
    assert len(stored) == len(set(stored))
    assert stored[:last] == list(range(last))
    assert len(stored) <= last + 120
    assert [p for p in Path(conf.spill).iterdir() if p.is_dir()] == []
    candles = conf.table("candles")
    questdb.wait_applied(candles)
    keys = questdb.sql(f"SELECT open_time, venue, symbol, interval, source, state, close FROM {candles}")
    assert len(keys) == len({tuple(k[:5]) for k in keys}), sorted(keys)
    note("kills", kills, "questdb")
