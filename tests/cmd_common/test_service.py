"""sd_notify against a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmd_common.service import ServiceManager

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd is of Linux")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
        channel.settimeout(60)
        yield channel, path


def test_it_says_ready_and_stopping(manager: tuple[socket.socket, str]) -> None:
    channel, path = manager
    service = ServiceManager({"NOTIFY_SOCKET": path})
    assert service.there
    assert service.interval == 0
    service.ready("12 streams\nSTOPPING=1")
    assert channel.recv(1000) == b"READY=1\nSTATUS=12 streams STOPPING=1"  # a status is one line
    service.stopping()
    assert channel.recv(1000) == b"STOPPING=1"


@pytest.mark.skipif(not Path("/proc/net/unix").exists(), reason="abstract sockets are of Linux")
def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        name = f"cmd-test-{os.getpid()}"
        channel.bind(f"\0{name}")
        channel.settimeout(60)
        assert ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).send("STATUS=x")
        assert channel.recv(100) == b"STATUS=x"


async def test_signs_of_life_come_out_of_the_loop(manager: tuple[socket.socket, str]) -> None:
    channel, path = manager
    service = ServiceManager({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())})
    assert service.interval == pytest.approx(0.01)
    async with service.alive():
        for _ in range(3):
            assert await asyncio.to_thread(channel.recv, 100) == b"WATCHDOG=1"
    left = [await asyncio.to_thread(channel.recv, 100)]
    while left[-1] != b"STOPPING=1":
        left.append(await asyncio.to_thread(channel.recv, 100))
    assert set(left[:-1]) <= {b"WATCHDOG=1"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "no"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
async def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    service = ServiceManager(environ)
    assert service.interval == 0
    assert not service.send("READY=1")
    async with service.alive():
        service.ready()
