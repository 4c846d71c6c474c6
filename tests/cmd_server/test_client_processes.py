from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from client_children import DEADLINE, SMALL, Child, digest, eventually, rounds
from client_pair import Market

from cmd_common.testing.ports import free_ports
from cmd_server.client import Connected, Disconnected, Lost, connect
from cmd_server.client.aio import connect as aio_connect
from cmd_server.limits import Limits
from cmd_server.server import Server


@pytest.fixture
def children() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.close()


def stopped(child: Child) -> bool:
    return Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_a_server_that_is_killed_and_started_again(scheme: str, tmp_path: Path, children: list[Child]) -> None:
    where = f"unix:{tmp_path / 'cmd.sock'}" if scheme == "unix" else f"tcp:127.0.0.1:{free_ports()[0]}"
    first = await asyncio.to_thread(Child, "server", where)
    children.append(first)
    address = first.first["address"]
    told: list[object] = []
    async with aio_connect(address, topics=["book *", "trades *"], on_event=told.append, retry=0.02) as client:
        said = await asyncio.to_thread(first.ask, "50")
        await client.live("v:A", "v:B", timeout=DEADLINE)
        await _equal(client, said)
        first.signal(signal.SIGKILL)
        await asyncio.to_thread(first.process.wait, 20)
        if scheme == "unix":
            assert "cmd.sock" in os.listdir(tmp_path)  # what a killed server leaves behind
        await eventually(lambda: not client.connected)
        assert client.book("v:A").state.value == "STALE"
        second = await asyncio.to_thread(Child, "server", address)  # no stale socket in its way
        children.append(second)
        await eventually(lambda: client.connected)
        said = await asyncio.to_thread(second.ask, "50")
        await _equal(client, said)
    assert {e.reason for e in told if isinstance(e, Lost)} == {"restart"}
    assert sum(isinstance(e, Connected) for e in told) == 2
    assert any(isinstance(e, Disconnected) for e in told)


async def _equal(client: object, said: dict[str, object]) -> None:
    await eventually(lambda: _plain(digest(client.books)) == said["books"])  # type: ignore[attr-defined]


def _plain(found: object) -> object:
    """As JSON gives it back: lists for tuples."""
    if isinstance(found, dict):
        return {k: _plain(v) for k, v in found.items()}
    return [_plain(v) for v in found] if isinstance(found, list | tuple) else found


async def test_the_blocking_client_survives_a_killed_server_too(tmp_path: Path, children: list[Child]) -> None:
    where = f"unix:{tmp_path / 'cmd.sock'}"
    first = await asyncio.to_thread(Child, "server", where)
    children.append(first)

    def run() -> None:
        told: list[object] = []
        with connect(where, topics=["book *"], on_event=told.append, retry=0.02) as client:
            said = first.ask("20")
            while _plain(digest(client.books)) != said["books"]:
                client.poll(0.1)
            first.kill()
            while not any(isinstance(e, Disconnected) for e in told):
                client.poll(0.1)
            children.append(Child("server", where))
            while sum(isinstance(e, Connected) for e in told) < 2:
                client.poll(0.1)
            said = children[-1].ask("20")
            while _plain(digest(client.books)) != said["books"]:
                client.poll(0.1)

    await asyncio.wait_for(asyncio.to_thread(run), DEADLINE)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(limits=Limits(heartbeat=500_000_000), options=SMALL) as server:
        yield server


@pytest.mark.parametrize(
    ("policy", "topics"),
    [
        ("conflate", ["book *"]),
        ("conflate", ["book *", "trades *"]),
        ("drop-oldest", ["book *", "trades *"]),
        ("disconnect", ["book *", "trades *"]),
    ],
    ids=["conflate-books", "conflate", "drop-oldest", "disconnect"],
)
async def test_a_client_that_is_stopped_recovers_by_itself(
    policy: str, topics: list[str], server: Server, tmp_path: Path, children: list[Child]
) -> None:
    address = str((await server.listen(f"unix:{tmp_path / 's'}")).address)
    child = await asyncio.to_thread(Child, "client", address, policy, ",".join(topics), "400")
    children.append(child)
    market = Market()
    rounds(market, server, 30)
    child.signal(signal.SIGSTOP)
    await eventually(lambda: stopped(child))
    for _ in range(40):  # far more than the socket and the queue hold
        rounds(market, server, 250)
        await asyncio.sleep(0)
        for client in server.hub.clients:
            assert len(client.queue) <= 400
    child.signal(signal.SIGCONT)

    async with asyncio.timeout(DEADLINE):
        while True:
            rounds(market, server, 3)
            for symbol in "AB":
                server.publish(market.records(symbol, 2))  # ends with LIVE books
            await asyncio.sleep(0.05)
            said = await asyncio.to_thread(child.ask)
            trades = "trades *" not in topics or said["trades"] == market.trades
            if trades and said["books"] == _plain(digest(server.hub.books)):
                break
    assert said["holes"] == 0
    if policy == "drop-oldest":
        assert said["lost"] > 0
        assert "slow" not in said["byes"]
    elif policy == "conflate" and topics == ["book *"]:
        assert said["conflated"] > 0
        assert said["lost"] == 0
        assert "slow" not in said["byes"]
    else:  # trades are never conflated: one that cannot take them is let go, and comes back
        assert "slow" in said["byes"]
    server.hub.check()
