"""Drivers begin, end, die and are looked at, as real processes."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from aeron_folders import LONG, SECOND, driver_process, fresh, pair, streams, until
from tests.conftest import require

import cmd_aeron

SMALL = ("--term-length", "64k", "--ipc-term-length", "64k")


def one_line(caught: pytest.ExceptionInfo[cmd_aeron.AeronError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.message in text
    assert caught.value.hint in text
    return text


def heartbeat_place(directory: str) -> int:
    ring = struct.unpack_from("<i", Path(directory, "cnc.dat").read_bytes()[:128], 4)[0]
    return 128 + ring - 768 + 640


def set_heartbeat(directory: str, age: int) -> None:
    """Write into a driver's file that it gave its last sign of life ``age`` s ago."""
    with Path(directory, "cnc.dat").open("r+b") as file:
        file.seek(heartbeat_place(directory))
        file.write(struct.pack("<q", int((time.time() - age) * 1000)))


def test_nothing_runs_in_a_directory_that_is_not_there(directory) -> None:
    assert cmd_aeron.driver_status(directory) == cmd_aeron.DriverStatus(False, 0, -1, "", directory)
    with pytest.raises(cmd_aeron.DriverMissingError) as caught:
        cmd_aeron.Client(directory)
    assert directory in one_line(caught)
    assert "python -m cmd_aeron.driver" in caught.value.hint


def test_the_directory_of_a_live_driver_is_left_alone(directory) -> None:
    with driver_process(directory, *SMALL) as process:
        status = cmd_aeron.driver_status(directory)
        assert status.running
        assert status.pid == process.pid
        assert status.version == cmd_aeron.version()
        assert 0 <= status.heartbeat_age < 10 * SECOND
        with cmd_aeron.Client(directory) as client:
            publication, subscription = pair(client)
            with pytest.raises(cmd_aeron.DirectoryInUseError) as caught:
                cmd_aeron.MediaDriver(directory)
            assert str(process.pid) in one_line(caught)
            second = subprocess.run(
                [sys.executable, "-m", "cmd_aeron.driver", "--dir", directory],
                capture_output=True,
                text=True,
                timeout=LONG,
                check=False,
            )
            assert second.returncode == 1
            assert second.stdout == ""
            assert second.stderr.count("\n") == 1
            assert str(process.pid) in second.stderr
            assert publication.offer(b"still there") > 0
            assert subscription.poll_wait(LONG * SECOND) == [b"still there"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_driver_in_order(directory, number) -> None:
    with driver_process(directory, *SMALL, "--threading", "dedicated", "--idle", "sleep") as process:
        process.send_signal(number)
        assert process.wait(LONG) == 0
        assert not Path(directory).exists()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_driver_says_what_is_wrong_with_its_arguments(directory) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cmd_aeron.driver", "--dir", directory, *arguments],
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "power of two" in run("--term-length", "100k")
    assert "is no size" in run("--mtu", "big")
    assert "is no time" in run("--client-liveness", "3")
    assert "below 1 s" in run("--client-liveness", "10ms")


def test_after_a_kill_another_driver_starts_at_once(directory) -> None:
    with driver_process(directory, *SMALL) as process:
        process.kill()
        process.wait()
        status = cmd_aeron.driver_status(directory)
        assert not status.running
        assert status.pid == process.pid
        assert 0 <= status.heartbeat_age < 10 * SECOND
        with cmd_aeron.MediaDriver(directory, ipc_term_length=1 << 16), cmd_aeron.Client(directory) as client:
            publication, subscription = pair(client)
            assert publication.offer(b"again") > 0
            assert subscription.poll_wait(LONG * SECOND) == [b"again"]


def test_a_stopped_driver_is_told_from_a_dead_one(directory) -> None:
    with driver_process(directory, *SMALL) as process:
        process.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
        set_heartbeat(directory, 3600)  # an hour ago, instead of waiting
        status = cmd_aeron.driver_status(directory)
        assert not status.running
        assert status.heartbeat_age > 3000 * SECOND
        with pytest.raises(cmd_aeron.DirectoryInUseError) as caught:
            cmd_aeron.MediaDriver(directory)
        assert f"process {process.pid}) lives but has not answered for 36" in one_line(caught)
        with pytest.raises(cmd_aeron.DriverMissingError) as missing:
            cmd_aeron.Client(directory)
        assert "has not answered" in one_line(missing)
        process.send_signal(signal.SIGCONT)
        until(lambda: cmd_aeron.driver_status(directory).running)
        cmd_aeron.Client(directory).close()


def test_a_driver_whose_process_is_not_to_be_seen_counts_by_its_heartbeat(directory) -> None:
    # As in another pid namespace: its number is of no process here.
    with driver_process(directory, *SMALL):
        with Path(directory, "cnc.dat").open("r+b") as file:
            file.seek(40)
            file.write(struct.pack("<q", 4_000_000))  # above the largest number of a process
        assert cmd_aeron.driver_status(directory).running
        with pytest.raises(cmd_aeron.DirectoryInUseError):
            cmd_aeron.MediaDriver(directory)


def test_the_number_of_a_dead_driver_that_another_process_has_now(directory) -> None:
    with driver_process(directory, *SMALL) as process:
        process.kill()
        process.wait()
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        with Path(directory, "cnc.dat").open("r+b") as file:
            file.seek(32)  # it began long ago, this process did not
            file.write(struct.pack("<qq", int((time.time() - 3600) * 1000), sleeper.pid))
        set_heartbeat(directory, 1800)
        assert not cmd_aeron.driver_status(directory).running
        cmd_aeron.MediaDriver(directory).close()
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize("version", [1 << 16, 2 << 16 | 3])
def test_files_of_another_version_are_named_as_such(directory, version) -> None:
    with cmd_aeron.MediaDriver(directory), fresh() as copy:
        Path(copy).mkdir()
        shutil.copy(Path(directory, "cnc.dat"), copy)
        with Path(copy, "cnc.dat").open("r+b") as file:
            file.write(struct.pack("<i", version))
        for act in (cmd_aeron.Client, cmd_aeron.MediaDriver, cmd_aeron.driver_status):
            with pytest.raises(cmd_aeron.VersionMismatchError) as caught:
                act(copy)
            assert f"{version >> 16}.0.{version & 255}" in one_line(caught)


@pytest.mark.parametrize("length", [0, 3, 100, 128, 5000, 1 << 20])
def test_a_damaged_file_is_no_driver(directory, length) -> None:
    with cmd_aeron.MediaDriver(directory), fresh() as copy:
        Path(copy).mkdir()
        Path(copy, "cnc.dat").write_bytes(Path(directory, "cnc.dat").read_bytes()[:length])
        assert not cmd_aeron.driver_status(copy).running
        with pytest.raises(cmd_aeron.DriverMissingError):
            cmd_aeron.Client(copy)
        cmd_aeron.MediaDriver(copy).close()


def test_files_that_are_no_drivers_are_never_deleted(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "cnc.dat").write_bytes(b"")
    with pytest.raises(cmd_aeron.StorageError) as caught:
        cmd_aeron.MediaDriver(str(tmp_path))
    assert "thesis.txt" in one_line(caught)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(cmd_aeron.StorageError, match="no directory"):
        cmd_aeron.MediaDriver(str(tmp_path / "thesis.txt"))
    with pytest.raises(cmd_aeron.StorageError):
        cmd_aeron.MediaDriver("/")


def test_only_one_of_many_that_start_at_once_gets_the_directory(directory) -> None:
    made: list[cmd_aeron.MediaDriver] = []
    refused: list[cmd_aeron.AeronError] = []

    def start() -> None:
        try:
            made.append(cmd_aeron.MediaDriver(directory))
        except cmd_aeron.AeronError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert [type(error) for error in refused] == [cmd_aeron.DirectoryInUseError] * 3
    made[0].close()
    made[0].close()
    assert made[0].closed
    assert not Path(directory).exists()


def test_a_killed_driver_ends_its_clients_with_the_cause(directory) -> None:
    with driver_process(directory, *SMALL) as process:
        client = cmd_aeron.Client(directory, driver_timeout=2 * SECOND)
        publication, subscription = pair(client)
        process.kill()
        process.wait()
        with pytest.raises(cmd_aeron.DriverTimeoutError) as caught:  # a waiting poll notices by itself
            subscription.poll_wait(LONG * SECOND)
        assert directory in one_line(caught)
        assert "keepalive" in caught.value.message
        assert client.closed
        with pytest.raises(cmd_aeron.DriverTimeoutError):
            client.check()
        with pytest.raises(cmd_aeron.DriverTimeoutError):
            client.add_subscription("aeron:ipc", 1)
        with pytest.raises(cmd_aeron.DriverTimeoutError):
            client.counters()
        assert publication.offer(b"x") == cmd_aeron.CLOSED
        assert publication.closed
        assert not publication.connected
        assert any("keepalive" in text for _, text in client.take_errors())
        assert client.take_errors() == []
        client.close()
        with pytest.raises(cmd_aeron.ClientClosedError):
            client.check()


def test_a_driver_that_ends_in_order_is_noticed_too(directory) -> None:
    driver = cmd_aeron.MediaDriver(directory)
    client = cmd_aeron.Client(directory)
    driver.close()
    until(lambda: client.closed)
    with pytest.raises(cmd_aeron.DriverTimeoutError, match="shutdown"):
        client.check()


def test_a_client_that_was_stopped_too_long_is_lost_with_the_cause(directory) -> None:
    program = """
import sys, cmd_aeron
client = cmd_aeron.Client(sys.argv[1])
subscription = client.add_subscription("aeron:ipc", 1)
print("ready", flush=True)
try:
    while True:
        subscription.poll_wait(10**9)
except cmd_aeron.ClientClosedError as error:
    print(error, flush=True)
"""
    with cmd_aeron.MediaDriver(directory, client_liveness=2 * SECOND):
        child = subprocess.Popen([sys.executable, "-c", program, directory], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            with cmd_aeron.Client(directory) as client:
                heartbeat = 11  # the type of a client's counter; this client, which asks for nothing, has none
                until(lambda: sum(c.type_id == heartbeat for c in client.counters()) == 1)
                child.send_signal(signal.SIGSTOP)
                until(lambda: not any(c.type_id == heartbeat for c in client.counters()))
                child.send_signal(signal.SIGCONT)
                said = child.communicate(timeout=LONG)[0]
            assert said.count("\n") == 1
            assert "closed by the library" in said
            assert child.returncode == 0
        finally:
            child.kill()
            child.communicate()


def test_a_refused_channel_says_why(client) -> None:
    for act in (client.add_publication, client.add_exclusive_publication, client.add_subscription):
        with pytest.raises(cmd_aeron.RegistrationError) as caught:
            act("aeron:udp?nothing=here", next(streams))
        assert caught.value.code < 0
        assert "endpoint" in one_line(caught)
        with pytest.raises(cmd_aeron.AeronError):
            act("no uri at all", next(streams))
        with pytest.raises(cmd_aeron.AeronError):
            act("aeron:ipc?term-length=7", next(streams)) if act != client.add_subscription else act("", 1)


def test_a_driver_that_does_not_answer_times_out(directory) -> None:
    with (
        driver_process(directory, *SMALL) as process,
        cmd_aeron.Client(directory, driver_timeout=60 * SECOND) as client,
    ):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # all its threads stand still
        with pytest.raises(cmd_aeron.AeronTimeoutError) as caught:
            client.add_publication("aeron:ipc", next(streams), timeout=SECOND // 10)
        assert "100 ms" in one_line(caught)
        process.send_signal(signal.SIGCONT)
        pair(client)


FULL = """
import sys, cmd_aeron
directory = sys.argv[1]
try:
    cmd_aeron.MediaDriver(directory + "-2" if len(sys.argv) > 2 else directory).close()
except cmd_aeron.StorageError as error:
    print("driver:", error)
with cmd_aeron.MediaDriver(directory, ipc_term_length=1 << 16) as driver, cmd_aeron.Client(directory) as client:
    kept = []
    try:
        for stream in range(1000):
            kept.append(client.add_publication("aeron:ipc?term-length=1m", stream))
    except cmd_aeron.StorageError as error:
        print("publication:", error)
    subscription = client.add_subscription("aeron:ipc", 0)
    while not kept[0].connected:
        pass
    assert kept[0].offer(b"works") > 0
    assert subscription.poll_wait(10**10) == [b"works"]
    kept.pop().close()
    while True:
        try:
            kept.append(client.add_publication("aeron:ipc?term-length=64k", 9999))
            break
        except cmd_aeron.StorageError:
            pass
    print("published", len(kept) > 3)
"""


def test_a_full_file_system_is_one_clear_error(tmp_path) -> None:
    # A tmpfs of its own in a mount namespace of its own: 4 MB are too little for a driver, 32 MB for many publications.
    mount = 'mount -t tmpfs -o size="$1" none "$2" && shift && shift && exec "$@"'
    able = shutil.which("unshare") is not None

    def run(size: str, *program: str) -> subprocess.CompletedProcess[str]:
        room = ["unshare", "-rm"] if os.geteuid() else ["unshare", "-m"]
        return subprocess.run(
            [*room, "sh", "-c", mount, "sh", size, str(tmp_path), *program],
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )

    able = able and run("1m", "true").returncode == 0
    require("mount namespaces", able, "this test mounts a small tmpfs (unshare -m)")
    done = run("4m", sys.executable, "-m", "cmd_aeron.driver", "--dir", f"{tmp_path}/aeron")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no room" in done.stderr
    done = run("32m", sys.executable, "-c", FULL, f"{tmp_path}/aeron")
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert [line.split(":")[0] for line in said] == ["publication", "published True"]
    assert "term-length" in said[0]
    assert done.returncode == 0
