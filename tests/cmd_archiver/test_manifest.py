from __future__ import annotations

import subprocess
import sys
import time
from datetime import date, timedelta

import pytest

from cmd_archiver.locks import FileLock
from cmd_archiver.manifest import Entry, Manifest
from cmd_binance.archive import BinanceArchive
from cmd_binance.instruments import SPOT
from cmd_common.errors import StoreBusyError, StoreError
from cmd_common.exchange import Endpoints
from cmd_common.records import Gap

SOURCE = BinanceArchive(SPOT)
HERE = Endpoints(ws="ws://x", rest="http://x", archive="http://x", listing="http://x")
DAY = date(2024, 8, 8)
GAP = Gap(1, 2, "binance-spot", "BTCUSDT", "trades", "archive_hole", "lost", 5, 6)


def file(day=DAY):
    return SOURCE.file("trades", "BTCUSDT", day, HERE)


def done(day=DAY, **fields):
    return Entry(file(day).key, "trades", "done", "ab" * 32, last_day=day.isoformat(), **fields)


OPEN_MANY = """
import sys, time
from pathlib import Path
from cmd_archiver.manifest import Manifest
for n in range(60):
    while time.time() < float(sys.argv[2]) + n * 0.02:
        pass
    Manifest(Path(sys.argv[1]) / f"{n}.sqlite").close()
"""


def test_two_processes_create_one_file_at_once(tmp_path):
    start = str(time.time() + 1.5)
    both = [
        subprocess.Popen([sys.executable, "-c", OPEN_MANY, str(tmp_path), start], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(p.communicate()[1], p.returncode) for p in both] == [("", 0)] * 2


def test_rows_survive_and_are_replaced(tmp_path):
    path = tmp_path / "store" / "_archive.sqlite"
    manifest = Manifest(path)
    entry = done(rows=7, first_id=1, last_id=9, first_ts=10, last_ts=20, gaps=(GAP,), updated_ns=3)
    manifest.put(file(), [entry])
    manifest.close()
    again = Manifest(path)
    assert again.get(entry.key, "trades") == entry
    assert again.get(entry.key, "candles") is None
    again.put(file(), [Entry(entry.key, "trades", "missing", last_day=DAY.isoformat())])
    assert [e.state for e in again.entries("binance-spot")] == ["missing"]
    assert again.entries("binance-usdm") == []
    again.close()


def test_neighbours_are_done_files_of_the_days_beside(tmp_path):
    manifest = Manifest(tmp_path / "m.sqlite")
    before, after = DAY - timedelta(days=1), DAY + timedelta(days=1)
    for day in (before, DAY, after):
        manifest.put(file(day), [done(day, first_id=day.day)])
    left, right = manifest.neighbours(file(), "trades")
    assert (left.first_id, right.first_id) == (7, 9)
    manifest.put(file(after), [Entry(file(after).key, "trades", "writing")])
    assert manifest.neighbours(file(), "trades")[1] is None
    manifest.close()


def test_reading_an_absent_manifest_creates_nothing(tmp_path):
    manifest = Manifest(tmp_path / "none" / "m.sqlite", read_only=True)
    assert manifest.entries() == []
    manifest.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_manifest_is_a_store_error(tmp_path):
    (tmp_path / "m.sqlite").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(StoreError, match="cannot open the archive manifest"):
        Manifest(tmp_path / "m.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Manifest(tmp_path / "file" / "m.sqlite")
    newer = Manifest(tmp_path / "n.sqlite")
    newer._db.execute("PRAGMA user_version=9")
    newer.close()
    with pytest.raises(StoreError, match="version 9"):
        Manifest(tmp_path / "n.sqlite")


def test_a_lock_is_exclusive_and_given_back(tmp_path):
    one, two = (FileLock(tmp_path, "binance-spot.trades..BTC/USDT.2024-08-08") for _ in range(2))
    assert one.acquire()
    assert not two.acquire()
    with pytest.raises(StoreBusyError), two:
        pass
    one.release()
    one.release()
    assert two.acquire()
    two.release()
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys
import time
from pathlib import Path
from cmd_archiver.locks import FileLock
print(FileLock(Path(sys.argv[1]), "x").acquire(), flush=True)
sys.stdin.read()
"""


def test_a_lock_dies_with_its_process(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        lock = FileLock(tmp_path, "x")
        assert not lock.acquire()
        other.kill()
        other.wait()
        assert lock.acquire()
        lock.release()
