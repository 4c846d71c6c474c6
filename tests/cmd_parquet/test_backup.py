"""Backups of a Parquet store that is being written to, and their way back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cmd_common.commands import LogReporter
from cmd_common.errors import StoreError, UsageError
from cmd_common.io import open_admin, open_reader, open_writer
from cmd_common.records import Trade
from cmd_parquet import verify
from cmd_parquet.backup import backup, restore

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
START = 1_735_689_600_000_000_000


def trades(first: int, count: int) -> list[Trade]:
    return [
        Trade(START + n * 10**9, START + n * 10**9 + 5, "v", "A", str(n), n, 1.0, 2.0, "buy")
        for n in range(first, first + count)
    ]


def put(folder: Path, first: int, count: int) -> None:
    with open_writer(f"parquet:{folder}") as writer:
        writer.write(trades(first, count))


def ids(folder: Path) -> list[int]:
    with open_reader(f"parquet:{folder}") as reader:
        return [int(r.trade_seq) for r in reader.records("trades")]  # type: ignore[union-attr, arg-type]


def test_a_backup_is_a_store_and_comes_back(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    put(data, 0, 100)
    done = backup(str(data), str(kept), NOW)
    copy = kept / "20250301T120000Z"
    assert (done["backup"], done["files"], done["removed"]) == (str(copy), 1, [])
    assert ids(copy) == list(range(100))
    put(data, 100, 50)
    assert ids(copy) == list(range(100))  # files that are shared do not change
    with pytest.raises(UsageError, match="not empty"):
        restore(str(data), str(kept), "", force=False)
    back = restore(str(data), str(kept), "", force=True)
    assert ids(data) == list(range(100))
    assert ids(Path(str(back["moved_aside"]))) == list(range(150))
    put(data, 200, 10)
    assert ids(copy) == list(range(100))
    assert verify(str(data)) == []
    elsewhere = restore(str(data), str(copy), str(tmp_path / "new"), force=False)
    assert (ids(tmp_path / "new"), elsewhere["moved_aside"]) == (list(range(100)), "")


def test_rows_that_are_in_the_journal_only_are_in_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_writer(f"parquet:{data}") as writer:
        writer.write(trades(0, 100))
        writer.flush()
        done = backup(str(data), str(tmp_path / "kept"), NOW)
    assert done["files"] == 0
    assert ids(Path(str(done["backup"]))) == list(range(100))


def test_backups_while_one_writes_hold_everything_that_was_confirmed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    confirmed = [0]
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            with open_writer(f"parquet:{data}") as writer:  # closing rolls the journal into files
                for _ in range(3):
                    writer.write(trades(n, 20))
                    writer.flush()
                    n += 20
                    confirmed[0] = n

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while not confirmed[0]:
            pass
        for n in range(8):
            before = confirmed[0]
            done = backup(str(data), str(tmp_path / "kept"), NOW + timedelta(seconds=n))
            got = ids(Path(str(done["backup"])))
            assert got == list(range(len(got)))
            assert len(got) >= before
    finally:
        stop.set()
        thread.join(60)


def test_only_the_newest_are_kept_and_only_backups_are_removed(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    put(data, 0, 10)
    (kept / "mine").mkdir(parents=True)
    for n in range(4):
        done = backup(str(data), str(kept), NOW + timedelta(days=n), keep=2)
    assert done["removed"] == ["20250302T120000Z"]
    assert sorted(p.name for p in kept.iterdir()) == ["20250303T120000Z", "20250304T120000Z", "mine"]


KILLED = """
import sys
from datetime import datetime, UTC
import cmd_parquet.backup as b
take = b._take
def slow(*args, **options):
    print("copied", flush=True)
    sys.stdin.readline()
    take(*args, **options)
b._take = slow
b.backup(sys.argv[1], sys.argv[2], datetime.now(UTC))
"""


def test_a_killed_backup_is_none_and_the_next_one_removes_what_it_left(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    put(data, 0, 10)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(data), str(kept)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "copied\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert [p.name[-5:] for p in kept.iterdir()] == [".part"]
    with pytest.raises(UsageError, match="holds none"):
        restore(str(data), str(kept), str(tmp_path / "new"), force=False)
    backup(str(data), str(kept), NOW)
    assert [p.name for p in kept.iterdir()] == ["20250301T120000Z"]


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(StoreError, match="no store at"):
        backup(str(data), str(tmp_path / "kept"), NOW)
    put(data, 0, 10)
    with pytest.raises(UsageError, match="within the store"):
        backup(str(data), str(data / "kept"), NOW)
    with pytest.raises(UsageError, match="at least one"):
        backup(str(data), str(tmp_path / "kept"), NOW, keep=0)
    backup(str(data), str(tmp_path / "kept"), NOW)
    with pytest.raises(UsageError, match="exists"):
        backup(str(data), str(tmp_path / "kept"), NOW)
    with pytest.raises(UsageError, match="no backup and holds none"):
        restore(str(data), str(tmp_path / "nothing"), "", force=True)


def test_the_command_has_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    put(data, 0, 10)
    reporter: Any = LogReporter()
    with open_admin(f"parquet:{data}") as admin:
        made = admin.backup(str(tmp_path / "kept"), keep=1, reporter=reporter)
        assert os.path.isdir(str(made["backup"]))
        admin.restore(str(tmp_path / "kept"), str(tmp_path / "new"), force=False, reporter=reporter)
    assert ids(tmp_path / "new") == list(range(10))
