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
from typing import Self

import pytest
from msgspec import structs
from questdb_server import QuestDBServer
from tests.tally import amount, note
from writer_tools import QUICK, conf_for, ids, writer_of

WRITER_KILLS = 46
SERVER_KILLS = 4
AWAY_KILLS = 14
BACK_KILLS = 14


class Killed:
    """Writers of one database that are killed one after the other, each going on where the one before had confirmed."""

    def __init__(self, questdb: QuestDBServer, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kills = 0
        self.questdb = questdb
        self.conf = conf_for(questdb, spill=str(folder / "spill"), chunk_rows=1_000)
        writer_of(self.conf).close()
        self._location = questdb.conf(table_prefix=self.conf.table_prefix, spill=self.conf.spill, chunk_rows=1_000)
        self._log = folder / "confirmed"
        self._log.write_bytes(b"")

    def __enter__(self) -> Self:
        self._zygote = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_child.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        zygote = self._zygote
        assert zygote.stdin is not None
        zygote.stdin.close()
        zygote.wait(30)
        for pipe in (zygote.stdout, zygote.stderr):
            assert pipe is not None
            pipe.close()

    def confirmed(self) -> int:
        lines = self._log.read_bytes().split()
        return int(lines[-1]) if lines else 0

    def spilled(self) -> int:
        """Bytes that wait on disk."""
        return sum(p.stat().st_size for p in Path(self.conf.spill).rglob("*") if p.is_file() and p.suffix != ".lock")

    def start(self) -> int:
        """Start a writer; returns its pid."""
        zygote, job = self._zygote, {"location": self._location, "number": self.confirmed(), "log": str(self._log)}
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        zygote.stdin.write(json.dumps({**job, "seed": self.rng.randrange(1 << 30)}) + "\n")
        zygote.stdin.flush()
        return int(zygote.stdout.readline())

    def kill(self, pid: int) -> None:
        """Kill it; fails when it had ended by itself."""
        zygote = self._zygote
        assert zygote.stdout is not None
        assert zygote.stderr is not None
        os.kill(pid, signal.SIGKILL)
        self.kills += 1
        assert int(zygote.stdout.readline()) == signal.SIGKILL, zygote.stderr.readline()

    def kill_soon(self) -> None:
        """Start a writer, and kill it a moment after it has confirmed something, or before."""
        before, pid = self.confirmed(), self.start()
        end = time.monotonic() + 10
        while self.confirmed() == before and time.monotonic() < end and self.rng.random() > 0.05:
            time.sleep(0.01)
        time.sleep(self.rng.uniform(0.0, 0.15))
        self.kill(pid)

    def everything_is_there_once(self) -> None:
        """The next writer sends what the killed ones left; what was on its way when they died may be stored or not."""
        last = self.confirmed()
        with writer_of(self.conf, structs.replace(QUICK, close=60.0)) as writer:
            writer.flush()
        stored = ids(self.questdb, self.conf)
        assert len(stored) == len(set(stored))
        assert stored[:last] == list(range(last))
        assert len(stored) <= last + 120
        assert [p for p in Path(self.conf.spill).iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("seed", range(1, 1 + amount(1, 1)))
def test_fifty_random_kills_of_writer_or_server(
    questdb: QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with Killed(questdb, tmp_path, seed) as killed:
        rng = killed.rng
        when = set(rng.sample(range(3, WRITER_KILLS), SERVER_KILLS))
        for run in range(WRITER_KILLS):
            if run not in when:
                killed.kill_soon()
                continue
            pid = killed.start()
            time.sleep(rng.uniform(0.1, 0.4))
            questdb.kill()
            killed.kills += 1
            until = time.monotonic() + rng.uniform(0.2, 1.0)
            while time.monotonic() < until:
                time.sleep(0.05)
            questdb.start()
            killed.kill(pid)
    assert killed.kills == WRITER_KILLS + SERVER_KILLS
    assert killed.confirmed() > 1_000
    killed.everything_is_there_once()
    candles = killed.conf.table("candles")
    questdb.wait_applied(candles)
    keys = questdb.sql(f"SELECT open_time, venue, symbol, interval, source, state, close FROM {candles}")
    assert len(keys) == len({tuple(k[:5]) for k in keys}), sorted(keys)
    note("kills", killed.kills, "questdb")


def test_kills_while_the_server_is_away_and_while_its_rows_are_sent_later(
    questdb: QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the spill has confirmed outlives every writer, in order, and what was sent of it is not sent twice."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with Killed(questdb, tmp_path, 7) as killed:
        killed.kill_soon()
        questdb.kill()
        stored = killed.confirmed()
        for _ in range(AWAY_KILLS):
            killed.kill_soon()
        assert killed.confirmed() > stored + 100  # confirmed by the spill alone
        assert killed.spilled() > 1_000
        questdb.start()
        for _ in range(BACK_KILLS):  # each finds what is left of the spill, and sends some of it
            killed.kill_soon()
    assert killed.kills == 1 + AWAY_KILLS + BACK_KILLS
    killed.everything_is_there_once()
    note("kills", killed.kills, "questdb_spill")
