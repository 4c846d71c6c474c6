"""Whose a directory is: a driver whose files were deleted touches nothing of the one that came after it."""

from __future__ import annotations

import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from aeron_folders import LONG, SECOND, driver_process, pair, streams, until

import cmd_aeron

SMALL = ("--term-length", "64k", "--ipc-term-length", "64k")


def works(directory: str) -> None:
    """A driver runs there, and carries messages."""
    assert cmd_aeron.driver_status(directory).running
    with cmd_aeron.Client(directory) as client:
        publication, subscription = pair(client)
        assert publication.offer(b"here") > 0
        assert subscription.poll_wait(LONG * SECOND) == [b"here"]


@pytest.mark.parametrize("number", [0, signal.SIGTERM])
def test_a_driver_process_leaves_the_directory_of_its_successor_alone(directory, number) -> None:
    with driver_process(directory, *SMALL) as old:
        shutil.rmtree(directory)
        with driver_process(directory, *SMALL) as new:
            if number and old.poll() is None:
                old.send_signal(number)
            assert old.wait(LONG) in ((0, 1) if number else (1,))  # it sees by itself that its files are gone
            assert old.stderr is not None
            assert old.stderr.read().count("\n") == old.returncode
            works(directory)
            assert cmd_aeron.driver_status(directory).pid == new.pid


def test_an_embedded_driver_leaves_the_directory_of_its_successor_alone(directory) -> None:
    old = cmd_aeron.MediaDriver(directory, ipc_term_length=1 << 16)
    shutil.rmtree(directory)
    with cmd_aeron.MediaDriver(directory, ipc_term_length=1 << 16):
        old.close()
        works(directory)
    assert not cmd_aeron.driver_status(directory).running


def test_a_deleted_directory_is_no_obstacle_to_the_end(directory) -> None:
    driver = cmd_aeron.MediaDriver(directory)
    shutil.rmtree(directory)
    driver.close()
    assert driver.closed


def test_an_endpoint_that_was_closed_a_moment_ago(client) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        channel = f"aeron:udp?endpoint=127.0.0.1:{free.getsockname()[1]}"
    stream = next(streams)
    made: list[cmd_aeron.Subscription] = []
    refused: list[cmd_aeron.EndpointClosingError] = []

    def again() -> bool:
        try:
            made.append(client.add_subscription(channel, stream))
        except cmd_aeron.EndpointClosingError as error:
            refused.append(error)
            return False
        return True

    def twice() -> bool:
        until(again)
        made.pop().close()
        return bool(refused)

    until(twice)  # nearly always the second time, but the driver may have been quicker
    assert refused[0].code == -10
    assert "try again" in str(refused[0])
    assert "\n" not in str(refused[0])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o700), (0o007, 0o770), (0o002, 0o770), (0o077, 0o700)])
def test_who_can_be_no_client_cannot_read_what_is_sent_either(directory, umask, mode) -> None:
    code = (
        f"import os, cmd_aeron; os.umask({umask}); driver = cmd_aeron.MediaDriver({directory!r}, ipc_term_length=65536);"
        f"print(oct(os.stat({directory!r}).st_mode & 0o777)); driver.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.stdout, done.stderr) == (f"{oct(mode)}\n", "")


def test_a_name_that_is_too_long_is_one_line_and_leaves_nothing(directory) -> None:
    Path(directory).mkdir()
    with pytest.raises(cmd_aeron.StorageError, match="320 bytes at most, this one has"):
        cmd_aeron.MediaDriver(directory + "/x" * 400)
    assert list(Path(directory).iterdir()) == []


def test_a_driver_that_no_directory_was_named_for() -> None:
    command = [sys.executable, "-m", "cmd_aeron.driver", "--dir", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cmd_aeron.driver: --dir names no directory (name one, or leave it out)\n"


@pytest.mark.parametrize("output", ["closed", "/dev/full"])
def test_a_driver_runs_although_nobody_hears_that_it_is_ready(directory, output) -> None:
    how = ">&-" if output == "closed" else f">{output}"
    command = f"exec {shlex.quote(sys.executable)} -m cmd_aeron.driver --dir {shlex.quote(directory)} {how}"
    process = subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: process.poll() is not None or cmd_aeron.driver_status(directory).running)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=LONG)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (0, "")
    assert not Path(directory).exists()
