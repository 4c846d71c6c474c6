"""cmd-cli over Aeron when something is missing or ends: programs as people run them, each with recovery or one line."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import require

from cmd_server.client import Client, Connected, Message, connect

from .conftest import TIMEOUT, Ran, finish, replaying, start
from .test_serve_processes import assert_one_line, ids, records_of, serving

SERVE = ["--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with replaying("--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT", "--speed", "4") as endpoints:
        yield endpoints["binance-spot"]


@pytest.fixture(autouse=True)
def room() -> Iterator[Path]:
    """A fresh folder in shared memory, where there is one; a test leaves nothing in it."""
    require("aeron", find_spec("cmd_aeron") is not None, "pip install 'cmd-server[aeron]'")
    place = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    path = Path(place, f"cmd-test-{os.getpid()}-{secrets.token_hex(4)}")
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def at(room: Path, more: str = "") -> str:
    return f"aeron:ipc?dir={room}/d&term-length=64k&liveness=1500ms{more}"


def of(room: Path) -> str:
    return f"aeron:ipc?dir={room}/d"


def follow(client: Client, seen: list[int], more: int) -> None:
    """Take so many trades more; each comes once and in order."""
    wanted = len(seen) + more
    end = time.monotonic() + TIMEOUT
    while len(seen) < wanted:
        assert time.monotonic() < end, f"only {len(seen)} trades came"
        seen += ids(records_of([item for item in client.poll(1.0) if isinstance(item, Message)]))
    assert seen == list(range(seen[0], seen[0] + len(seen)))


def driver(room: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cmd_aeron.driver", "--dir", f"{room}/d", "--client-liveness", "1500ms"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Aeron media driver ")
    return process


def one_line(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, ran
    assert ran.out == ""
    assert_one_line(ran, *words)
    assert len(ran.err.splitlines()) == 1, ran.err


def test_the_directory_of_a_server_is_its_own(endpoint: str, room: Path) -> None:
    args = ["serve", *SERVE, "--endpoint", endpoint, "--listen"]
    with serving(*args[1:], at(room)) as first, connect(of(room), topics="trades *") as client:
        seen: list[int] = []
        follow(client, seen, 3)
        second = f"&control=unix:{room}/second"
        ran = finish(start(*args, at(room, f"{second}&driver=embedded")))
        one_line(ran, 1, f"a media driver (process {first.process.pid}) runs in {room}/d")
        ran = finish(start(*args, at(room)))  # the control address is taken
        one_line(ran, 1, f"{room}/d.control")
        # With a control address of its own it is a guest of that driver, and leaves it as it was.
        with serving(*args[1:], at(room, second)):
            with connect(f"{of(room)}{second}", topics="trades *") as guest:
                follow(guest, [], 3)
            follow(client, seen, 3)
        follow(client, seen, 10)
        assert client.counters.connects == 1
        assert not client.counters.lost
    assert list(room.iterdir()) == []


def test_without_a_driver_or_a_server_there_is_one_line(endpoint: str, room: Path) -> None:
    args = ["serve", *SERVE, "--endpoint", endpoint, "--listen"]
    one_line(finish(start(*args, at(room, "&driver=external"))), 1, f"no media driver runs in {room}/d; start one:")
    watch = ["watch", "--types", "trades", "--json", "--duration", "1s", "--connect"]
    one_line(finish(start(*watch, of(room))), 1, f"{room}/d.control")
    with serving(*args[1:], "unix:m.sock"):
        ran = finish(start(*watch, f"{of(room)}&control=unix:m.sock"))
        one_line(ran, 1, f"no media driver runs in {room}/d", "is the server running")
    assert list(room.iterdir()) == []


def test_files_of_another_version_are_one_line(endpoint: str, room: Path) -> None:
    process = driver(room)
    other = room / "other"
    other.mkdir()
    shutil.copy(room / "d" / "cnc.dat", other)
    ran = finish(process, signal.SIGTERM)
    assert (ran.code, ran.err) == (0, "")
    with (other / "cnc.dat").open("r+b") as file:
        file.write(struct.pack("<i", 3 << 16))
    args = ["serve", *SERVE, "--endpoint", endpoint, "--listen"]
    for choice in ("auto", "external"):
        ran = finish(start(*args, f"aeron:ipc?dir={other}&driver={choice}"))
        one_line(ran, 1, "has file version 3.0.0", "use an Aeron driver of version")
    ran = finish(start(*args, f"aeron:ipc?dir={other}&shared=1&driver=external"))
    one_line(ran, 1, "has file version 3.0.0")


def test_a_driver_that_is_killed_and_a_watcher_that_stays(endpoint: str, room: Path) -> None:
    first = driver(room)
    told: list[Any] = []
    try:
        args = [*SERVE, "--endpoint", endpoint, "--listen", at(room, "&driver=external")]
        with (
            serving(*args) as server,
            connect(of(room), topics="trades *", on_event=told.append, retry=0.05) as client,
        ):
            viewer = start("watch", "--connect", of(room), "--types", "trades", "--json", "--duration", "60s")
            assert viewer.stdout is not None
            seen: list[int] = []
            try:
                follow(client, seen, 3)
                assert json.loads(viewer.stdout.readline())
                finish(first, signal.SIGKILL)
                end = time.monotonic() + TIMEOUT
                while client.connected:
                    assert time.monotonic() < end
                    seen += ids(records_of([item for item in client.poll(0.1) if isinstance(item, Message)]))
                first = driver(room)
                follow(client, seen, 5)
                for _ in range(5):
                    assert json.loads(viewer.stdout.readline())
            finally:
                ran = finish(viewer, signal.SIGINT)
            assert "Traceback" not in ran.err
            assert ran.code == 0, ran
        assert not client.counters.lost
        assert sum(isinstance(event, Connected) for event in told) >= 2
        assert server.ran is not None
        assert server.ran.err.count("is gone") == 1, server.ran.err
        assert server.ran.err.count("runs in") >= 1
    finally:
        ran = finish(first, signal.SIGTERM)
    assert (ran.code, ran.err) == (0, "")
    assert list(room.iterdir()) == []


def test_a_server_that_is_killed_starts_again_in_its_place(endpoint: str, room: Path) -> None:
    args = [*SERVE, "--endpoint", endpoint, "--listen", at(room)]
    process = start("serve", *args, "--json")
    assert process.stdout is not None
    assert process.stdout.readline()
    with connect(of(room), topics="trades *", retry=0.05) as client:
        seen: list[int] = []
        follow(client, seen, 3)
        finish(process, signal.SIGKILL)
        with serving(*args):
            found = [item for item in collect(client, 2) if isinstance(item, Message)]
            after = ids(records_of(found))
            assert after == list(range(after[0], after[0] + len(after)))
            assert after[0] > seen[-1]
    assert list(room.iterdir()) == []


def collect(client: Client, connects: int) -> list[Any]:
    """What comes from that connection on: some trades at least."""
    found: list[Any] = []
    end = time.monotonic() + TIMEOUT
    while client.counters.connects < connects or len(found) < 5:
        assert time.monotonic() < end
        items = client.poll(0.5)
        found += items if client.counters.connects >= connects else []
    return found


def test_no_room_is_one_line(endpoint: str, room: Path) -> None:
    unshare = ["unshare", "-m"] if not os.geteuid() else ["unshare", "-rm"]
    mount = [*unshare, "sh", "-c", f'mount -t tmpfs -o size=4m none "{room}" && exec "$@"', "sh"]
    able = all(map(shutil.which, ("unshare", "mount")))
    able = able and not subprocess.run([*mount, "true"], capture_output=True, check=False).returncode
    require("mount namespaces", able, "this test mounts a small tmpfs (unshare -m)")
    for more in ("", "&shared=1"):
        args = ["serve", *SERVE, "--endpoint", endpoint, "--listen", at(room, more)]
        done = subprocess.run(
            [*mount, sys.executable, "-m", "cmd_cli", *args], capture_output=True, text=True, timeout=TIMEOUT
        )
        one_line(Ran(done.returncode, done.stdout, done.stderr), 1, f"no room for an Aeron directory at {room}/d")
