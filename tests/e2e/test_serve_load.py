"""Many clients at once on three transports, real processes: nothing is lost, nothing grows, books agree."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tally import note

PROGRAM = Path(__file__).with_name("serve_load.py")


class Process:
    """One of the programs; lines of JSON come out, lines go in."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> Any:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            self.process.wait()
            assert self.process.stderr is not None
            pytest.fail(f"the process ended: {self.process.stderr.read()[-2000:]}")
        return json.loads(text)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


@pytest.fixture
def processes() -> Iterator[Any]:
    begun: list[Process] = []

    def start(*arguments: object) -> Process:
        begun.append(Process(*arguments))
        return begun[-1]

    yield start
    for process in begun:
        process.end()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_clients_for_a_minute(processes: Any, tmp_path: Path) -> None:
    server = processes("server", tmp_path, 60, 550)  # records a second to 100 clients; those that nap take some less
    addresses = ",".join(server.line()["addresses"])
    groups = [processes("clients", addresses, 25, 25 * n) for n in range(4)]
    assert [g.line() for g in groups] == [{"ready": 25}] * 4
    server.go()
    published = server.line()
    clients = [client for group in groups for client in group.line()]
    server.go()
    print({k: published[k] for k in ("records", "seconds", "deliveries", "longest_queue", "byes")}, published["memory"])
    assert published["books"] == published["true"]
    assert len(clients) == 100
    assert sum(c["messages"] for c in clients) >= 50_000 * 60  # in the end, however slow this machine is
    assert {c["address"].partition(":")[0] for c in clients} == {"unix", "tcp", "ws"}
    for client in clients:
        assert client["holes"] == 0, client
        assert client["books"] == published["books"], client
        if client["policy"] != "conflate":  # lossless: every sequence
            assert (client["lost"], client["cuts"], client["trades"]) == (0, 0, published["trades"]), client
        else:  # trades are never merged
            assert (client["cuts"], client["trades"]) == (0, published["trades"]), client
    slow = [c for c in clients if c["slow"]]
    assert {c["address"].partition(":")[0] for c in slow} == {"unix", "tcp", "ws"}
    for client in slow:  # books were merged for them
        assert client["conflated"], client
        assert client["messages"] < published["records"], client
    memory = published["memory"]
    assert max(memory) - memory[len(memory) // 3] < 32 * 1024, memory  # KiB; flat once the rings are full


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_clients_of_which_some_stand_still(processes: Any, tmp_path: Path) -> None:
    server = processes("server", tmp_path, 15, 50)
    addresses = ",".join(server.line()["addresses"])
    groups = [processes("clients", addresses, 165, 1000 * n) for n in range(3)]
    stopped = processes("clients", addresses, 5, 7000)
    assert [g.line() for g in (*groups, stopped)] == [{"ready": 165}] * 3 + [{"ready": 5}]
    stopped.process.send_signal(signal.SIGSTOP)
    try:
        server.go()
        published = server.line()
        clients = [client for group in groups for client in group.line()]
    finally:
        stopped.process.send_signal(signal.SIGCONT)
    late = stopped.line()
    server.go()
    assert len(clients) == 495
    for client in clients:
        assert (client["holes"], client["lost"], client["cuts"]) == (0, 0, 0), client
        assert client["trades"] == published["trades"], client
    for client in (*clients, *late):  # who stood still catches up by itself
        assert client["books"] == published["books"], client
    note("connections", len(clients) + len(late), "at once")
    note("connections", len(late), "stopped")
