"""install.sh, upgrade.sh, uninstall.sh and backup.sh in a fresh root, with the real server."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest
from installed_questdb import DEPLOY, Installed, run
from questdb_server import VERSION, SqlError

TABLE = "CREATE TABLE t (ts TIMESTAMP_NS, n LONG) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, n)"
ONE_MORE = "INSERT INTO t SELECT dateadd('s', x::int, '2026-01-01T00:00:00Z')::timestamp_ns, x FROM long_sequence(1000)"


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and contents of all files but the jar."""
    return {
        str(p.relative_to(root)): (stat.S_IMODE(p.lstat().st_mode), p.read_bytes() if p.suffix != ".jar" else b"")
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_the_installed_server_runs_with_its_passwords_and_rows_outlive_an_upgrade(installed: Installed) -> None:
    server = installed.start()
    server.sql(TABLE)
    server.sql(ONE_MORE)
    server.wait_applied("t")

    # The settings are in force, not only in the file.
    stranger = installed.server()
    stranger.password = "wrong"
    with pytest.raises(SqlError) as refused:
        stranger.sql("SELECT 1")
    assert refused.value.status == 401
    live = dict(server.sql("SELECT property_path, value FROM (SHOW PARAMETERS)"))
    assert live["telemetry.enabled"] == live["line.tcp.enabled"] == "false"
    assert live["line.auto.create.new.tables"] == live["line.auto.create.new.columns"] == "false"
    assert live["cairo.commit.mode"] == "sync"
    assert live["config.validation.strict"] == "true"
    assert {live[f"{n}.net.bind.to"].split(":")[0] for n in ("http", "pg", "http.min")} == {"127.0.0.1"}
    assert list((installed.data / "log").glob("questdb.log.*")), "log.conf is not in force"

    reader = f"host=127.0.0.1 port={server.pg} user=cmd_reader password={installed.setting('pg.readonly.password')}"
    with psycopg.connect(reader, autocommit=True) as connection:
        assert connection.execute("SELECT count() FROM t").fetchall() == [(1000,)]
        for statement in ("INSERT INTO t VALUES (now()::timestamp_ns, 1)", "DROP TABLE t", "TRUNCATE TABLE t",
                          "CREATE TABLE u (n LONG)", "ALTER TABLE t ADD COLUMN z LONG"):  # fmt: skip
            with pytest.raises(psycopg.Error, match="denied"):
                connection.execute(statement)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"host=127.0.0.1 port={server.pg} user=admin password=quest")

    # An older version is installed: the same jar under another name, all that the scripts can tell it by.
    installed.stop()
    opt = installed.prefix / "opt/questdb"
    (opt / f"questdb-{VERSION}.jar").rename(opt / "questdb-9.3.1.jar")
    (opt / "questdb.jar").unlink()
    (opt / "questdb.jar").symlink_to("questdb-9.3.1.jar")
    assert "use upgrade.sh" in installed.install(ok=False)
    before = (installed.data / "conf/server.conf").read_bytes()
    done = run("upgrade.sh", "--prefix", installed.prefix)
    assert f"QuestDB 9.3.1 -> {VERSION}" in done.stderr
    assert (opt / "questdb.jar").readlink() == Path(f"questdb-{VERSION}.jar")
    assert (installed.data / "conf/server.conf").read_bytes() == before
    assert len(list((installed.prefix / "var/backups/questdb").glob("questdb-*/complete"))) == 1
    server = installed.start()
    assert server.count("t") == 1000


@pytest.mark.parametrize(
    ("found", "words"),
    [("8.9.9", "another major version"), ("9.9.9", "newer than"), ("10.0.0", "newer than")],
)
def test_what_cannot_be_upgraded_stays_as_it_is(installed: Installed, found: str, words: str) -> None:
    opt = installed.prefix / "opt/questdb"
    (opt / f"questdb-{VERSION}.jar").rename(opt / f"questdb-{found}.jar")
    (opt / "questdb.jar").unlink()
    (opt / "questdb.jar").symlink_to(f"questdb-{found}.jar")
    before = tree(installed.prefix)
    assert words in run("upgrade.sh", "--prefix", installed.prefix, ok=False).stderr
    assert tree(installed.prefix) == before


def test_a_running_server_is_not_pulled_away(installed: Installed) -> None:
    installed.start()
    assert "runs; stop it first" in run("uninstall.sh", "--prefix", installed.prefix, "--purge", ok=False).stderr
    opt = installed.prefix / "opt/questdb"
    shutil.copy(opt / f"questdb-{VERSION}.jar", opt / "questdb-9.3.1.jar")
    (opt / "questdb.jar").unlink()
    (opt / "questdb.jar").symlink_to("questdb-9.3.1.jar")
    assert "runs; stop it first" in run("upgrade.sh", "--prefix", installed.prefix, ok=False).stderr


def test_installing_again_changes_nothing_and_options_are_remembered(installed: Installed) -> None:
    before = tree(installed.prefix)
    words = run("install.sh", "--prefix", installed.prefix).stderr
    assert "created" not in words
    assert "updated" not in words
    assert tree(installed.prefix) == before
    assert stat.S_IMODE((installed.data / "conf/server.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE((installed.prefix / "etc/questdb/connection").stat().st_mode) == 0o600
    secrets = [installed.setting(k) for k in ("http.password", "pg.password", "pg.readonly.password")]
    assert len(set(secrets)) == 3
    assert all(len(s) == 32 for s in secrets)
    everyone = [n for n, (mode, text) in before.items() if mode & 0o044 and any(s.encode() in text for s in secrets)]
    assert everyone == []
    assert "updated" in run("install.sh", "--prefix", installed.prefix, "--bind", "10.0.0.7").stderr
    assert installed.setting("http.net.bind.to") == f"10.0.0.7:{installed.ports[0]}"
    assert installed.setting("http.min.net.bind.to") == f"127.0.0.1:{installed.ports[2]}"
    assert installed.setting("http.password") == secrets[0]


def test_a_dry_run_says_everything_and_does_nothing(questdb_parts: None, tmp_path: Path) -> None:
    there = Installed(tmp_path / "root")
    words = there.install("--dry-run")
    for name in (
        "server.conf",
        "questdb.service",
        "questdb-backup.timer",
        "99-questdb.conf",
        "nginx.conf",
        "Caddyfile",
    ):
        assert name in words
    assert not there.prefix.exists()
    there.install()
    before = tree(there.prefix)
    there.install("--dry-run", "--bind", "10.1.1.1")
    run("uninstall.sh", "--prefix", there.prefix, "--purge", "--dry-run")
    run("upgrade.sh", "--prefix", there.prefix, "--dry-run")
    assert tree(there.prefix) == before
    # Without a prefix it tells what it would do to this machine, and does none of it.
    words = run("install.sh", "--dry-run", "--port", there.ports[0]).stderr
    assert "would run: useradd" in words or "questdb" in Path("/etc/passwd").read_text()
    assert "would run: systemctl enable" in words


def test_uninstall_keeps_data_unless_it_is_told_to_purge(installed: Installed) -> None:
    password = installed.setting("http.password")
    backups = installed.prefix / "var/backups/questdb"
    run("backup.sh", "--data", installed.data, "--dest", backups)
    (backups / "notes.txt").write_text("not ours")
    words = run("uninstall.sh", "--prefix", installed.prefix).stderr
    assert str(installed.data) in words
    left = {p.relative_to(installed.prefix).parts[0:3] for p in installed.prefix.rglob("*") if p.is_file()}
    assert {"/".join(p) for p in left} == {
        "var/lib/questdb", "var/backups/questdb", "etc/questdb/connection", "etc/questdb/reader.password",
        "etc/questdb/install.conf",
    }  # fmt: skip
    run("uninstall.sh", "--prefix", installed.prefix)  # a second time is fine
    run("install.sh", "--prefix", installed.prefix)
    assert installed.setting("http.password") == password
    run("uninstall.sh", "--prefix", installed.prefix, "--purge")
    assert [str(p.relative_to(installed.prefix)) for p in installed.prefix.rglob("*") if p.is_file()] == [
        "var/backups/questdb/notes.txt"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bind", "0.0.0.0"], "loopback or a private address"),
        (["--bind", "203.0.113.5"], "loopback or a private address"),
        (["--bind", "::"], "loopback or a private address"),
        (["--port", "99999"], "a port is a number"),
        (["--port", "0"], "a port is a number"),
        (["--heap", "lots"], "--heap is a size"),
        (["--keep", "0"], "--keep is how many"),
        (["--data", "var/lib"], "a path is absolute"),
        (["--data", "/x y"], "a path is absolute"),
        (["--domain", "a;b"], "--domain is a host name"),
        (["--certificate", "/x.pem"], "--certificate needs"),
        (["--bnid", "x"], "unknown option --bnid"),
        (["--bind"], "needs a value"),
        (["--prefix", "relative"], "absolute path"),
    ],
)
def test_a_wrong_option_is_one_clear_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run("install.sh", "--prefix", tmp_path / "root", *arguments, ok=False)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "root").exists()


def test_a_wrong_jar_is_refused(tmp_path: Path) -> None:
    jar = tmp_path / "questdb.jar"
    jar.write_bytes(b"not it")
    for script, more in (("install.sh", ["--prefix", str(tmp_path / "root")]), ("local.sh", ["--fetch-only"])):
        assert "its SHA-256 is" in run(script, *more, "--jar", jar, ok=False).stderr
    assert not (tmp_path / "root/opt/questdb/questdb.jar").exists()


def test_a_backup_of_a_busy_server_is_restored_to_one_moment(installed: Installed) -> None:
    server = installed.start()
    server.sql(TABLE)
    server.sql(ONE_MORE)
    server.wait_applied("t")
    backups = installed.prefix / "var/backups/questdb"
    stop = threading.Event()

    def write() -> None:
        first = 1_000_000
        while not stop.is_set():
            server.sql(f"INSERT INTO t SELECT '2026-02-01'::timestamp_ns, x + {first} FROM long_sequence(100)")
            first += 100

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2):
            run(installed.prefix / "opt/questdb/backup.sh", "--data", installed.data, "--dest", backups, "--keep", 1)
            time.sleep(1.1)  # their names differ by the second
    finally:
        stop.set()
        writer.join()
    copies = list(backups.glob("questdb-*"))
    assert len(copies) == 1, "older copies stay"
    assert not list(backups.glob(".part-*"))
    assert server.value("SELECT count() FROM (checkpoint_status()) WHERE in_progress") == 0
    server.wait_applied("t")
    rows = server.count("t")
    run("backup.sh", "--data", installed.data, "--restore", copies[0], ok=False)  # it runs
    installed.stop()
    run("backup.sh", "--data", installed.data, "--restore", copies[0])
    server = installed.start()
    server.wait_applied("t")
    assert server.count("t", "n <= 1000") == 1000
    added = server.count("t", "n > 1000")
    assert 0 < added < rows - 1000
    assert added % 100 == 0, "half a transaction was restored"
    server.sql("INSERT INTO t VALUES ('2026-03-01', 5)")
    server.wait_applied("t")
    assert server.count("t") == 1001 + added


def test_the_checkpoint_is_released_when_the_copy_fails_or_is_stopped(installed: Installed) -> None:
    server = installed.start()
    server.sql(TABLE)
    backups = installed.prefix / "var/backups/questdb"
    tools = installed.prefix / "tools"
    tools.mkdir()
    copy = tools / "cp"

    def in_progress() -> int:
        return int(server.value("SELECT count() FROM (checkpoint_status()) WHERE in_progress"))

    copy.write_text("#!/bin/sh\necho 'cp: no space' >&2\nexit 1\n")
    copy.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = run("backup.sh", "--data", installed.data, "--dest", backups, ok=False, PATH=path)
    assert "no space" in done.stderr
    assert in_progress() == 0
    copy.write_text("#!/bin/sh\nsleep 60 & wait\n")
    process = subprocess.Popen(
        [str(DEPLOY / "backup.sh"), "--data", str(installed.data), "--dest", str(backups)],
        env={**os.environ, "PATH": path}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    server.wait_for(lambda: in_progress() == 1, "the checkpoint is there")
    second = run("backup.sh", "--data", installed.data, "--dest", installed.prefix / "other", ok=False)
    assert "no checkpoint" in second.stderr
    assert in_progress() == 1, "somebody else's checkpoint was released"
    os.killpg(process.pid, 15)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 143, words
    assert in_progress() == 0
    assert [p.name for p in backups.iterdir()] == [".lock"]
    # Killed, it cannot release: the next one does.
    killed = subprocess.Popen(
        [str(DEPLOY / "backup.sh"), "--data", str(installed.data), "--dest", str(backups)],
        env={**os.environ, "PATH": path}, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    server.wait_for(lambda: in_progress() == 1, "the checkpoint is there")
    os.killpg(killed.pid, 9)
    killed.wait(30)
    assert in_progress() == 1
    assert "of a backup that was killed" in run("backup.sh", "--data", installed.data, "--dest", backups).stderr
    assert in_progress() == 0
    assert not list(backups.glob(".part-*"))


def test_a_damaged_copy_is_not_restored(installed: Installed) -> None:
    backups = installed.prefix / "var/backups/questdb"
    (installed.data / "db/some").write_text("x")
    (installed.data / "db/more").write_text("x")
    run("backup.sh", "--data", installed.data, "--dest", backups)
    (copy,) = backups.glob("questdb-*")
    (copy / "db/some").unlink()
    done = run("backup.sh", "--data", installed.data, "--restore", copy, ok=False)
    assert "is damaged" in done.stderr
    assert re.search(r"1 files, 2 were", done.stderr)
