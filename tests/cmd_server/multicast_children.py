"""What tests of multicast run in a network namespace of their own: ``python multicast_children.py SCENARIO``.

The namespace has a loopback interface and nothing else, so that no datagram can leave it.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from hub_world import delta, same, snapshot, trade

from cmd_common.errors import CmdError
from cmd_common.records import Trade
from cmd_server import client as clients
from cmd_server import multicast
from cmd_server.client import aio
from cmd_server.group_link import GroupLink
from cmd_server.limits import Limits
from cmd_server.merger import State
from cmd_server.server import Server

PATIENCE = 60.0
GROUP = "multicast:239.1.2.3:9997?interface=127.0.0.1"


def isolated() -> list[str]:
    """The command that runs another without any network but its own loopback; skips where there is none."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is missing; install util-linux")
    command = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--net"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no network namespace; allow user namespaces or run as root")
    return command


def up() -> None:
    """Switch the loopback interface on; fails in a namespace that has more than it."""
    names = [name for _, name in socket.if_nameindex()]
    assert names == ["lo"], f"this is no namespace of its own: {names}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        get, put, flags_up = 0x8913, 0x8914, 0x1
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, get, request))[1]
        fcntl.ioctl(sock, put, struct.pack("16sh14x", b"lo", flags | flags_up))


async def until(condition: Callable[[], Any], what: str = "") -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  conditions of both sides, which no event tells
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


async def serving(server: Server, port: int = 0, more: str = "") -> tuple[str, int]:
    """Listen at TCP and at the group; returns a client's address and the port."""
    where = await server.listen(f"tcp:127.0.0.1:{port}")
    await server.listen(f"{GROUP}&heartbeat=50{more}")
    bound = where.address.host_port()[1]
    return f"{GROUP}&recovery=tcp:127.0.0.1:{bound}", bound


def merger_of(client: aio.AsyncClient) -> Any:
    link = client._link
    assert isinstance(link, GroupLink)
    return link.merger


async def detached(client: aio.AsyncClient) -> None:
    await until(lambda: client._link is not None and merger_of(client).state is State.DETACHED, "the group is followed")


def collect(got: list[int]) -> Callable[[Any], None]:
    def on_record(record: Any) -> None:
        if isinstance(record, Trade):
            assert record.trade_seq is not None
            got.append(record.trade_seq)

    return on_record


def levels(n: int) -> list[tuple[float, float]]:
    # Now and then a delta that takes several datagrams.
    return [(100.0 - i / 8, float(n)) for i in range(400 if n % 100 == 0 else 1)]


async def market(server: Server, first: int, last: int) -> None:
    for n in range(first, last + 1):
        server.publish([trade(n), delta(n, levels(n))])
        if n % 20 == 0:
            await asyncio.sleep(0.001)


async def complete(server: Server, client: aio.AsyncClient, got: list[int], last: int) -> None:
    await until(lambda: got and got[-1] == last, f"trade {last}, the last one is {got[-1:]}")
    assert got == list(range(got[0], last + 1)), "a trade is missing or came twice"
    await until(lambda: same(client.books["v:A"], server.hub.books["v:A"]), "books are equal")
    assert client.core.holes == 0
    assert client.core.lost == 0


class Network:
    """Loses, doubles and delays datagrams."""

    def __init__(self, seed: int, loss: float) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.lost = 0
        self.held: list[bytes] = []

    def __call__(self, data: bytes) -> Iterable[bytes]:
        dice = self.rng.random()
        if dice < self.loss:
            self.lost += 1
            return ()
        if dice < 2 * self.loss:
            return (data, data)
        if dice < 3 * self.loss:
            self.held.append(data)
            return ()
        out, self.held = [data, *self.held], []
        return out


async def follow() -> None:
    """Three clients hear the group; the connection brings the beginning only."""
    async with Server() as server:
        address, _ = await serving(server)
        sock = server.listeners[-1].sender._sock  # type: ignore[attr-defined]
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 0, "datagrams may leave this machine"
        found = sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4)
        assert found == socket.inet_aton("127.0.0.1"), "another interface than the one that was named"
        server.publish([snapshot(1, levels(1)), trade(1)])
        got: list[list[int]] = [[], [], []]
        topics = ["trades *", "book *"]
        connected = [
            await aio.connect(address, topics=topics, policy="drop-oldest", on_record=collect(g)).__aenter__()
            for g in got
        ]
        for client in connected:
            await client.live("v:A", timeout=PATIENCE)
            await detached(client)
        by_tcp = [s.client.counters.sent for s in server.sessions if s.port.peer.startswith("127.0.0.1")]
        await market(server, 2, 3000)
        for client, mine in zip(connected, got, strict=True):
            await complete(server, client, mine, 3000)
        if not any(merger_of(c).recoveries for c in connected):  # a loaded machine may drop some
            after = [s.client.counters.sent for s in server.sessions if s.port.peer.startswith("127.0.0.1")]
            assert sum(after) - sum(by_tcp) < 500, "the connection brought what the group carries"
        for client in connected:
            await client.close()


async def lossy() -> None:
    """What is lost is fetched, what is doubled or late is put right, exactly once."""
    network = Network(7, 0.02)
    multicast.TRANSPORT._seam = network
    async with Server(limits=Limits(replay_messages=10_000, replay_bytes=64 << 20)) as server:
        address, _ = await serving(server)
        server.publish([snapshot(1, levels(1)), trade(1)])
        got: list[int] = []
        async with aio.connect(
            address, topics=["trades *", "book *"], policy="drop-oldest", on_record=collect(got)
        ) as client:
            await client.live("v:A", timeout=PATIENCE)
            await detached(client)
            n = 1
            while merger_of(client).recoveries < 3:
                await market(server, n + 1, n + 500)
                n += 500
                await asyncio.sleep(0.02)
            await market(server, n + 1, n + 500)
            await complete(server, client, got, n + 500)
            assert network.lost


async def silent() -> None:
    """A group that nobody hears any more is replaced by the connection; then it is followed again."""
    deaf = False
    multicast.TRANSPORT._seam = lambda data: () if deaf else (data,)
    async with Server() as server:
        address, _ = await serving(server)
        server.publish([snapshot(1, levels(1)), trade(1)])
        got: list[int] = []
        async with aio.connect(
            address, topics=["trades *", "book *"], policy="drop-oldest", on_record=collect(got)
        ) as client:
            await client.live("v:A", timeout=PATIENCE)
            await detached(client)
            merger_of(client).silence = 300_000_000
            server.publish([trade(2), delta(2, levels(2))])
            await until(lambda: got and got[-1] == 2)
            deaf = True
            await until(lambda: merger_of(client).state is State.ATTACHED, "silence is noticed")
            await market(server, 3, 500)
            await complete(server, client, got, 500)
            deaf = False
            await detached(client)
            await market(server, 501, 1000)
            await complete(server, client, got, 1000)


async def restart() -> None:
    """Another run of the server, at the same addresses: clients begin anew and are equal again."""
    first = Server()
    address, port = await serving(first)
    first.publish([snapshot(1, levels(1)), trade(1)])
    async with aio.connect(address, topics=["trades *", "book *"], policy="drop-oldest", retry=0.02) as client:
        await client.live("v:A", timeout=PATIENCE)
        await detached(client)
        await first.close()
        async with Server() as second:
            await serving(second, port)
            second.publish([snapshot(50, levels(50)), trade(50)])
            await until(lambda: client.core.connects == 2 and client.core.ready, "the client is back")
            await client.live("v:A", timeout=PATIENCE)
            await detached(client)
            await market(second, 51, 300)
            await until(lambda: same(client.books["v:A"], second.hub.books["v:A"]), "books are equal")
            assert merger_of(client).epoch == second.hub.epoch


async def blocking() -> None:
    """The same for a client that uses no loop of its own, with a token."""
    async with Server(token="secret") as server:
        address, _ = await serving(server)
        server.publish([trade(1)])
        got: list[int] = []
        failed: list[BaseException] = []
        ready, done = threading.Event(), threading.Event()

        def read() -> None:
            try:
                with clients.connect(address, topics=["trades *"], policy="drop-oldest", token="secret") as client:
                    ready.set()
                    on_record = collect(got)
                    for record in client:
                        on_record(record)
                        if got and got[-1] == 500:
                            break
            except BaseException as error:
                failed.append(error)
            finally:
                ready.set()
                done.set()

        thread = threading.Thread(target=read)
        thread.start()
        await until(ready.is_set)
        for n in range(2, 501):
            server.publish([trade(n)])
            await asyncio.sleep(0.001)
        await until(lambda: done.is_set() or not thread.is_alive(), f"the reader ends, it has {got[-1:]}")
        thread.join()
        assert not failed, failed
        assert got == list(range(got[0], 501))
        with pytest.raises(CmdError, match="token"):
            async with aio.connect(address, topics=["trades *"], token="wrong"):
                pass


async def refuses() -> None:
    """What cannot be served or joined is refused in one line."""
    wrong = {
        "multicast:127.0.0.1:9": "no IPv4 multicast group",
        "multicast:239.1.2.3:0": "needs a port",
        "multicast:239.1.2.3:9?ttl=300": "ttl",
        "multicast:239.1.2.3:9?ttl=1&interface=127.0.0.1": "token",
        "multicast:239.1.2.3:9?interface=10.9.8.7": "cannot send",
        "multicast:239.1.2.3:9?interface=lo": "no IPv4 address",
        "multicast:239.1.2.3:9?topics=nonsense": "no topic",
        "multicast:239.1.2.3:9?topics=,": "no topics",
        "multicast:239.1.2.3:9?interfaces=127.0.0.1": "unknown option",
        "multicast:239.1.2.3:9?source=127.0.0.1": "client's side",
    }
    async with Server() as server:
        for text, said in wrong.items():
            with pytest.raises(CmdError, match=said) as refused:
                await server.listen(text)
            assert "\n" not in str(refused.value)
        for text, said in {
            GROUP: "recovery",
            f"{GROUP}&recovery={GROUP.replace('&', '%26')}": "multicast",
            f"{GROUP}&recovery=tcp:127.0.0.1:1": "listens",
        }.items():
            with pytest.raises(CmdError, match=said):
                async with aio.connect(text, topics=["trades *"], attempts=1):
                    pass


SCENARIOS = {f.__name__: f for f in (follow, lossy, silent, restart, blocking, refuses)}


def play(scenarios: dict[str, Callable[[], Any]]) -> None:
    """Run the scenario that the command line names, and see that nothing was forgotten to be closed."""
    up()
    unraisable: list[object] = []
    sys.unraisablehook = unraisable.append
    asyncio.run(asyncio.wait_for(scenarios[sys.argv[1]](), 3 * PATIENCE))
    gc.collect()
    assert not unraisable, unraisable
    print("done")


if __name__ == "__main__":
    play(SCENARIOS)
