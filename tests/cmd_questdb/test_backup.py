"""Copies of a running server, proven by a restore into another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from questdb_server import QuestDBServer

from cmd_common.errors import StoreBusyError, StoreError, UsageError
from cmd_questdb import backup as copying
from cmd_questdb.backup import backup, backups, copy_file, restore
from cmd_questdb.conf import Conf
from cmd_questdb.migrations import differences, migrate
from cmd_questdb.schema import VERSION
from cmd_questdb.sql import SqlClient

ROW = "('{}', NULL, 'v', 'S', '{}', {}, 1.5, 2.0, 'buy', 0)"


@pytest.fixture
def client(questdb: QuestDBServer) -> Iterator[SqlClient]:
    with SqlClient(Conf.parse(questdb.conf(root=questdb.root))) as client:
        migrate(client)
        yield client


def insert(server: QuestDBServer, first: int, count: int, day: str = "2025-01-01") -> None:
    server.sql(
        f"INSERT INTO trades SELECT ('{day}'::TIMESTAMP_NS::LONG + x * 1000000)::TIMESTAMP_NS, NULL, 'v', 'S',"
        f" 'id-' || (x + {first}), x + {first}, 1.5, 2.0, 'buy', 0 FROM long_sequence({count})"
    )


def in_checkpoint(server: QuestDBServer) -> bool:
    return bool(server.value("SELECT in_progress FROM checkpoint_status()"))


def test_a_copy_made_while_rows_are_written_is_restored_whole(
    questdb: QuestDBServer, client: SqlClient, questdb_factory: Callable[..., QuestDBServer], tmp_path: Path
) -> None:
    insert(questdb, 0, 5000)
    insert(questdb, 5000, 5000, "2025-01-02")
    questdb.wait_applied()
    questdb.sql("ALTER TABLE trades CONVERT PARTITION TO PARQUET LIST '2025-01-01'")
    questdb.wait_applied()
    before = questdb.sql("SELECT * FROM trades ORDER BY trade_seq")
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            insert(questdb, 100_000 + written, 10, "2025-01-03")
            written += 10

    thread = threading.Thread(target=write)
    thread.start()
    seen: list[tuple[int, int]] = []
    try:
        made = backup(client, str(tmp_path / "copies"), progress=lambda a, b: seen.append((a, b)))
    finally:
        stop.set()
        thread.join()
    assert not in_checkpoint(questdb)
    assert seen[-1][0] == seen[-1][1] > 0
    assert made.rows["trades"] >= 10_000
    assert made.schema == VERSION
    questdb.wait_applied()
    assert questdb.count("trades") == 10_000 + written

    root = tmp_path / "restored"
    done = restore(str(tmp_path / "copies"), str(root))
    assert done["restored"] == made.path
    other = questdb_factory(root=root).start()
    other.wait_applied()
    assert other.sql("SELECT * FROM trades WHERE trade_seq <= 10000 ORDER BY trade_seq") == before
    assert made.rows["trades"] <= other.count("trades") <= 10_000 + written
    with SqlClient(Conf.parse(other.conf())) as restored:
        assert differences(restored) == []
    insert(other, 500_000, 100, "2025-01-04")
    other.wait_applied()
    assert other.count("trades", "trade_seq > 500000") == 100
    other.wait_for(
        lambda: other.value("SELECT sum(trades) FROM candles_1m") == other.count("trades"), "the views follow again"
    )
    assert not (root / "_restore").exists()

    with pytest.raises(StoreBusyError, match="a server runs on"):
        restore(made.path, str(root), force=True)
    other.stop()
    with pytest.raises(StoreError, match=r"holds a database already; add --force"):
        restore(made.path, str(root))
    assert Path(restore(made.path, str(root), force=True)["moved_aside"]).is_dir()
    other.start()
    assert other.sql("SELECT * FROM trades WHERE trade_seq <= 10000 ORDER BY trade_seq") == before
    assert other.count("trades", "trade_seq > 500000") == 0


def test_old_copies_go_and_the_newest_stay(client: SqlClient, tmp_path: Path) -> None:
    first = backup(client, str(tmp_path))
    os.rename(first.path, tmp_path / "questdb-20250101T000000Z")
    second = backup(client, str(tmp_path), keep=2)
    assert [b.path for b in backups(str(tmp_path))] == [str(tmp_path / "questdb-20250101T000000Z"), second.path]
    os.rename(second.path, tmp_path / "questdb-20250102T000000Z")
    third = backup(client, str(tmp_path), keep=1)
    assert [b.path for b in backups(str(tmp_path))] == [third.path]
    with pytest.raises(UsageError, match="at least one"):
        backup(client, str(tmp_path), keep=0)


def test_a_copy_that_fails_releases_the_checkpoint_and_leaves_nothing(
    questdb: QuestDBServer, client: SqlClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str) -> int:
        assert in_checkpoint(questdb)
        raise OSError(28, "No space left on device", target)

    monkeypatch.setattr(copying, "copy_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        backup(client, str(tmp_path / "copies"))
    assert not in_checkpoint(questdb)
    assert not [n for n in os.listdir(tmp_path / "copies") if not n.startswith(".lock")]
    assert backups(str(tmp_path / "copies")) == []


SLOW = """
import sys, time
from cmd_questdb import backup
from cmd_questdb.conf import Conf
from cmd_questdb.sql import SqlClient
def slow(source, target):
    print("copying", flush=True)
    time.sleep(60)
backup.copy_file = slow
try:
    backup.backup(SqlClient(Conf.parse(sys.argv[1])), sys.argv[2])
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_holds_no_checkpoint_for_long(
    questdb: QuestDBServer, client: SqlClient, tmp_path: Path, how: signal.Signals
) -> None:
    target = tmp_path / "copies"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, questdb.conf(root=questdb.root), str(target)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"copying\n"
        assert in_checkpoint(questdb)
        with pytest.raises(StoreBusyError, match="another copy is being made"):
            backup(client, str(target))
        assert in_checkpoint(questdb)  # it is the other run's, and stays
        process.send_signal(how)
        code = process.wait(30)
    finally:
        process.kill()
        process.stdout.close()
    if how == signal.SIGTERM:
        assert code == 7
        assert not in_checkpoint(questdb)
        assert not list(target.glob("*.part"))
    else:
        assert in_checkpoint(questdb)  # nobody could release it
    made = backup(client, str(target))
    assert not in_checkpoint(questdb)
    assert [b.path for b in backups(str(target))] == [made.path]
    assert not list(target.glob("*.part"))


def test_a_checkpoint_of_someone_else_is_left_alone(questdb: QuestDBServer, client: SqlClient, tmp_path: Path) -> None:
    questdb.sql("CHECKPOINT CREATE")
    try:
        with pytest.raises(StoreBusyError, match="that is not ours.*CHECKPOINT RELEASE"):  # noqa: RUF043
            backup(client, str(tmp_path))
        assert in_checkpoint(questdb)
    finally:
        questdb.sql("CHECKPOINT RELEASE")


def test_what_cannot_be_copied_or_restored_is_said(questdb: QuestDBServer, client: SqlClient, tmp_path: Path) -> None:
    with SqlClient(Conf.parse(questdb.conf())) as plain, pytest.raises(UsageError, match=r"root=DIR"):
        backup(plain, str(tmp_path))
    with pytest.raises(UsageError, match="not the root of a QuestDB"):
        backup(client, str(tmp_path), root=str(tmp_path))
    with pytest.raises(UsageError, match="inside the server's root"):
        backup(client, str(questdb.root / "db" / "copies"))
    with pytest.raises(StoreError, match="no copy of a QuestDB store"):
        restore(str(tmp_path), str(tmp_path / "x"))
    made = backup(client, str(tmp_path / "copies"))
    victim = next(p for p in Path(made.path).rglob("*.d") if p.is_file())
    victim.unlink()
    with pytest.raises(StoreError, match="files and should have"):
        restore(made.path, str(tmp_path / "damaged"))


def test_holes_of_a_file_stay_holes(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as f:
        f.write(b"x" * 5000)
        f.seek(50 << 20)
        f.write(b"end")
        f.truncate(60 << 20)
    copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "b").stat().st_blocks <= (tmp_path / "a").stat().st_blocks + 64
