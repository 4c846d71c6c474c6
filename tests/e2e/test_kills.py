"""Recorder, database and server are killed one after the other while a market runs; afterwards nothing is missing.

``verify`` names what the kill of the recorder left and nothing else, ``repair`` closes what the exchange still has, and the store
equals what happened.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cmd_questdb"))

import questdb_server as qs
from tests.tally import note

from cmd_common import open_reader
from cmd_common.records import Gap, Trade
from cmd_server.client import Connected, Lost, Message, connect
from cmd_server.errors import ServerError

VENUE, SYMBOL = "binance-spot", "BTCUSDT"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[qs.QuestDBServer]:
    if qs.find_jar() is None or qs.find_java() is None:
        pytest.skip(f"questdb is missing; {qs.HOW}")
    made = qs.QuestDBServer(tmp_path / "questdb")
    try:
        yield made.start()
    finally:
        made.close()


def wait_for(what: Callable[[], bool], words: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"waited in vain for: {words}"
        time.sleep(0.1)


class Reader:
    """A client of the server, in a thread, that comes back by itself."""

    def __init__(self, address: str) -> None:
        self.ids: list[int] = []
        self.told: list[Any] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,), daemon=True)
        self._thread.start()

    def _run(self, address: str) -> None:
        with (
            contextlib.suppress(ServerError),
            connect(address, topics=["trades *"], on_event=self.told.append) as client,
        ):
            while not self._over.is_set():
                for item in client.poll(0.1):
                    if isinstance(item, Message) and isinstance(item.record, Trade):
                        self.ids.append(int(item.record.trade_seq or 0))

    def close(self) -> None:
        self._over.set()
        self._thread.join(30)

    @property
    def connects(self) -> int:
        return sum(isinstance(e, Connected) for e in self.told)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_everything_is_killed_once(
    cmd: Any, server: qs.QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())  # today's gaps are fetched over REST, by id
    replay = cmd.replay("--simulate", "--symbols", SYMBOL, "--start", now, "--history-trades", "50")
    exchange = ["--exchange", VENUE, "--symbols", SYMBOL, "--types", "trades", *replay.endpoints]
    store = server.location(spill=tmp_path / "spill", request_timeout=2000)
    address = f"unix:{tmp_path / 'market.sock'}"

    def stored() -> int:
        return server.count("trades") if "trades" in server.tables() else 0

    def more(words: str) -> None:
        now = stored()
        wait_for(lambda: stored() > now + 5, words)

    def record() -> subprocess.Popen[str]:
        return cmd.start("record", *exchange, "--store", store)  # type: ignore[no-any-return]

    def serve() -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = cmd.start("serve", *exchange, "--listen", address, "--json")
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    recorder, pusher = record(), serve()
    reader = Reader(address)
    wait_for(lambda: stored() > 5, "the first trades are stored")
    wait_for(lambda: len(reader.ids) > 5, "the client reads")

    server.kill()  # kill -9 of the database: rows wait in the spill
    spill = tmp_path / "spill"
    wait_for(lambda: sum(p.stat().st_size for p in spill.rglob("*") if p.is_file()) > 500, "rows are spilled")
    server.start()
    more("the database has the rows that waited")
    # A successor looks for the last row in the database: one that still waits on disk would make its gap too wide.
    wait_for(lambda: not any(p.is_file() and p.suffix != ".lock" for p in spill.rglob("*")), "nothing waits any more")

    last = server.value("SELECT max(trade_seq) FROM trades")
    kill(recorder)  # kill -9 of the recorder: what it misses is a gap of its successor
    time.sleep(2)
    recorder = record()
    wait_for(lambda: bool(server.value(f"SELECT count() FROM trades WHERE trade_seq > {last + 20}")), "it goes on")

    before = len(reader.ids)
    kill(pusher)  # kill -9 of the server: its clients come back by themselves
    pusher = serve()
    wait_for(lambda: reader.connects == 2 and len(reader.ids) > before + 5, "the client reads again")
    more("the recorder did not care")

    for process in (recorder, pusher):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    reader.close()
    assert any(isinstance(e, Lost) and e.reason == "restart" for e in reader.told)
    assert reader.ids == sorted(set(reader.ids))  # nothing came twice or out of order, before or after
    server.wait_applied()

    with open_reader(store) as opened:
        rows = [r for r in opened.records("trades") if isinstance(r, Trade)]
        gaps = [g for g in opened.records("gaps") if isinstance(g, Gap) and g.record_type == "trades"]
    ids = [int(r.trade_seq or 0) for r in rows]
    assert ids == sorted(set(ids))
    holes = [(a, b) for a, b in pairwise(ids) if b != a + 1]
    assert len(holes) == 1  # that of the recorder; the database and the server lost nothing
    (gap,) = gaps
    assert gap.first_id is not None
    assert gap.last_id is not None
    assert gap.first_id <= holes[0][0] + 1
    assert gap.last_id == holes[0][1] - 1

    checked = cmd.summary("verify", "--store", store, "--offline", code=3)
    found = [f for d in checked["days"] for f in d["findings"] if f["kind"] not in ("begins", "ends", "incomplete")]
    assert [(f["kind"], f["reason"]) for f in found] == [("gap", gap.reason)]

    done = cmd.summary("repair", "--store", store, *replay.endpoints, code=None)
    assert done["closed"] == 1, str(done)
    server.wait_applied()
    with open_reader(store) as opened:
        rows = [r for r in opened.records("trades") if isinstance(r, Trade)]
        assert [g for g in opened.records("gaps") if isinstance(g, Gap) and not g.repaired_by] == []
    ids = [int(r.trade_seq or 0) for r in rows]
    assert ids == list(range(ids[0], ids[-1] + 1))
    for what in ("recorder", "database", "server"):
        note("kills", 1, f"kill_of_{what}")
