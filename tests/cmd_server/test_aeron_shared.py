"""The shared stream of Aeron between the real server and real clients: everybody has everything once, whatever happens."""


# ruff: noqa: ASYNC240  small looks at small directories

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aeron_raw import AeronRaw, driver_process, folder, present
from hub_world import same, snapshot, trade
from multicast_children import (
    PATIENCE,
    Network,
    collect,
    complete,
    detached,
    isolated,
    levels,
    market,
    merger_of,
    until,
)

from cmd_common.errors import CmdError
from cmd_common.records import BookDelta, Trade
from cmd_common.testing.ports import free_ports
from cmd_server import aeron_shared, aeron_source
from cmd_server import client as clients
from cmd_server.aeron_shared import SharedListener, SharedSender
from cmd_server.aeron_source import SharedSource
from cmd_server.client import aio
from cmd_server.group_link import BlockingGroupLink, GroupLink
from cmd_server.limits import Limits
from cmd_server.merger import State
from cmd_server.messages import Template
from cmd_server.server import Server
from cmd_server.transport import Address

TOPICS = ["trades *", "book *"]
CHILD = Path(__file__).with_name("aeron_shared_child.py")
GROUP_CHILD = Path(__file__).with_name("aeron_group_child.py")
MUCH = Limits(replay_messages=50_000, replay_bytes=64 << 20)


@pytest.fixture(autouse=True)
def _present() -> Iterator[None]:
    present()
    yield
    gc.collect()  # what was forgotten to be closed warns here


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        yield path / "d"


def served(place: Path, more: str = "", term: str = "1m", liveness: str = "2s") -> str:
    return f"aeron:ipc?shared=1&dir={place}&term-length={term}&liveness={liveness}&heartbeat=50{more}"


def read(place: Path, more: str = "") -> str:
    return f"aeron:ipc?shared=1&dir={place}{more}"


def sender_of(server: Server) -> SharedSender:
    (found,) = [listener for listener in server.listeners if isinstance(listener, SharedListener)]
    assert found.sender is not None
    return found.sender


def source_of(client: aio.AsyncClient) -> SharedSource:
    link = client._link
    assert isinstance(link, GroupLink)
    assert isinstance(link.source, SharedSource)
    return link.source


@asynccontextmanager
async def reader(address: str, got: list[int] | None = None, **more: Any) -> AsyncIterator[aio.AsyncClient]:
    """A client that has a book and follows the stream."""
    on_record = more.pop("on_record", None) or collect([] if got is None else got)
    async with aio.connect(
        address, topics=TOPICS, policy="drop-oldest", retry=0.02, on_record=on_record, **more
    ) as client:
        await client.live("v:A", timeout=PATIENCE)
        await detached(client)
        yield client


async def equal(client: aio.AsyncClient, server: Server) -> None:
    await until(lambda: same(client.books["v:A"], server.hub.books["v:A"]), "books are equal")


class Counted:
    """A publication that counts the bytes that Aeron writes for what it takes: message, header, padding to 32 bytes."""

    def __init__(self, publication: Any) -> None:
        self.publication = publication
        self.written = 0

    def offer_many(self, items: Sequence[bytes], start: int = 0) -> tuple[int, int]:
        accepted, result = self.publication.offer_many(items, start)
        self.written += sum((32 + len(item) + 31) // 32 * 32 for item in items[start : start + accepted])
        return accepted, result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.publication, name)


async def test_four_readers_have_what_a_tcp_client_has_and_each_packet_is_written_once(place: Path) -> None:
    records: list[list[Any]] = [[] for _ in range(5)]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(limits=MUCH))
        listeners = await server.listen_all([served(place), "tcp:127.0.0.1:0"])
        server.publish([snapshot(1, levels(1)), trade(1)])
        tcp = await stack.enter_async_context(
            aio.connect(str(listeners[1].address), topics=TOPICS, policy="drop-oldest", on_record=records[4].append)
        )
        await tcp.live("v:A", timeout=PATIENCE)
        readers = [await stack.enter_async_context(reader(read(place), on_record=r.append)) for r in records[:4]]
        sender = sender_of(server)
        publication = sender.publication
        assert publication is not None
        assert publication.max_payload_length > 8_000
        counted: Any = Counted(publication)
        sender.publication = counted
        before, packets, group = publication.position, sender.packets, sender.group._packer
        assert group is not None
        seq = group.seq
        by_control = [s.client.counters.sent for s in server.sessions if s.port.peer.startswith("unix:")]
        assert len(by_control) == 4
        await market(server, 2, 2_000)
        for client in (tcp, *readers):
            await equal(client, server)
        last = records[4][-1]
        await until(lambda: all(r and r[-1] == last for r in records), "all have the last one")
        for kind in (Trade, BookDelta):
            wanted = [r for r in records[4] if isinstance(r, kind)]
            assert len(wanted) >= 1_999
            for found in records[:4]:
                assert [r for r in found if isinstance(r, kind)] == wanted[
                    -len([r for r in found if isinstance(r, kind)]) :
                ]
                assert sum(isinstance(r, kind) for r in found) >= 1_999
        assert all(c.core.holes == c.core.lost == 0 for c in (tcp, *readers))
        # One copy of everything, whoever reads it.
        assert publication.position - before == counted.written
        beats = sender.packets - packets - (group.seq - seq)
        assert 0 <= beats < 2_000
        assert group.seq - seq >= 100  # turns of the loop in which something was published
        assert sender.failed == 0
        if not any(merger_of(c).recoveries for c in readers):  # a loaded machine may have stood still for seconds
            after = [s.client.counters.sent for s in server.sessions if s.port.peer.startswith("unix:")]
            assert sum(after) - sum(by_control) < 500, "control brought what the stream carries"
    assert list(place.parent.iterdir()) == []


async def test_a_stream_of_ones_own_and_the_shared_one_by_one_server(place: Path) -> None:
    async with Server(limits=MUCH) as server:
        own = f"aeron:ipc?dir={place}&term-length=64k&liveness=2s"
        listeners = await server.listen_all([own, served(place, term="64k")])
        assert [str(x.address).partition("?")[0] for x in listeners] == [
            "aeron:ipc",
            "aeron:ipc",
            f"unix:{place}.control",
        ]
        server.publish([snapshot(1, levels(1)), trade(1)])
        alone = await AeronRaw.connect(listeners[2].address, str(place))
        await alone.control.login("trades v:A")
        await alone.control.messages(Template.ACK, 2)
        await alone.divert()
        got: list[int] = []
        async with reader(read(place), got) as client:
            await market(server, 2, 500)
            assert len(await alone.messages(Template.TRADE, 499)) == 499
            await complete(server, client, got, 500)
        alone.close()
    assert list(place.parent.iterdir()) == []


async def test_a_late_reader_has_a_whole_book_and_all_that_follows(place: Path) -> None:
    async with Server(limits=MUCH) as server:
        await server.listen(served(place))
        server.publish([snapshot(1, levels(1)), trade(1)])
        await market(server, 2, 300)  # nobody listens
        sender = sender_of(server)
        assert sender.unheard >= 10
        assert sender.writable
        first: list[int] = []
        late: list[int] = []
        async with reader(read(place), first) as one:
            task = asyncio.create_task(market(server, 301, 3_000))
            await until(lambda: first and first[-1] > 500)
            async with reader(read(place, "&idle=low-cpu"), late) as two:
                await task
                await market(server, 3_001, 3_200)
                await complete(server, one, first, 3_200)
                await complete(server, two, late, 3_200)


async def test_what_is_lost_or_doubled_on_the_way_comes_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(7, 0.02)
    monkeypatch.setattr(aeron_shared, "seam", network)
    async with Server(limits=MUCH) as server:
        await server.listen(served(place))
        server.publish([snapshot(1, levels(1)), trade(1)])
        got: list[int] = []
        async with reader(read(place), got) as client:
            n = 1
            while merger_of(client).recoveries < 3:
                await market(server, n + 1, n + 300)
                n += 300
                await asyncio.sleep(0.02)
            await market(server, n + 1, n + 300)
            await complete(server, client, got, n + 300)
            assert network.lost


@pytest.mark.parametrize("loss", [0.0, 0.02])
async def test_threads_read_it_too(place: Path, loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if loss:
        monkeypatch.setattr(aeron_shared, "seam", Network(3, loss))
    got: list[int] = []
    failed: list[BaseException] = []
    links: list[BlockingGroupLink] = []

    def follow() -> None:
        try:
            with clients.connect(read(place), topics=["trades *"], policy="drop-oldest", token="secret") as client:
                link = client._link
                assert isinstance(link, BlockingGroupLink)
                links.append(link)
                for record in client:
                    collect(got)(record)
                    if got and got[-1] == 1_000:
                        break
        except BaseException as error:
            failed.append(error)

    async with Server(limits=MUCH, token="secret") as server:
        await server.listen(served(place))
        server.publish([trade(1)])
        thread = threading.Thread(target=follow)
        thread.start()
        n = 1
        await until(lambda: len(server.sessions) == 2 or not thread.is_alive())
        await until(lambda: any(len(s.client.topics) for s in server.sessions if s.port.peer.startswith("unix:")))
        while n < 999:
            n += 1
            server.publish([trade(n)])
            await asyncio.sleep(0.001)
            if n == 500:
                await until(lambda: (got and got[-1] == 500) or not thread.is_alive(), "half of it")
        server.publish([trade(1_000)])
        await until(lambda: not thread.is_alive(), f"the reader ends, it has {got[-1:]}")
        thread.join()
        assert not failed, failed
        assert got == list(range(got[0], 1_001))
        with pytest.raises(CmdError, match="token"):
            async with aio.connect(read(place), topics=["trades *"], token="wrong"):
                pass


async def test_another_run_of_the_server_is_another_epoch(place: Path) -> None:
    """The old publication may still be there when the new one comes: the driver is a process of its own."""
    with driver_process(place):
        where = served(place, "&driver=external")
        first = Server()
        await first.listen(where)
        first.publish([snapshot(1, levels(1)), trade(1)])
        got: list[int] = []
        async with reader(read(place), got) as client:
            await first.close()
            async with Server() as second:
                await second.listen(where)
                second.publish([snapshot(50, levels(50)), trade(50)])
                await until(lambda: client.core.connects >= 2 and client.core.ready, "the client is back")
                await client.live("v:A", timeout=PATIENCE)
                await detached(client)
                got.clear()
                await market(second, 51, 300)
                await complete(second, client, got, 300)
                assert merger_of(client).epoch == second.hub.epoch
        assert sorted(p.name for p in place.parent.iterdir()) == ["d"]


async def test_an_embedded_driver_that_comes_back_with_its_server_is_found(place: Path) -> None:
    first = Server()
    await first.listen(served(place))
    first.publish([snapshot(1, levels(1)), trade(1)])
    async with reader(read(place)) as client:
        await first.close()
        assert not place.exists()
        async with Server() as second:
            await second.listen(served(place))
            second.publish([snapshot(50, levels(50)), trade(50)])
            await until(lambda: client.core.connects >= 2 and client.core.ready, "the client is back")
            await client.live("v:A", timeout=PATIENCE)
            await detached(client)
            await market(second, 51, 300)
            await until(lambda: same(client.books["v:A"], second.hub.books["v:A"]), "books are equal")
    await until(lambda: list(place.parent.iterdir()) == [])


async def test_a_driver_that_dies_is_replaced_while_control_brings_everything(place: Path) -> None:
    got: list[int] = []
    async with Server(limits=MUCH) as server:
        with driver_process(place) as driver:
            await server.listen(served(place, "&driver=external"))
            server.publish([snapshot(1, levels(1)), trade(1)])
            client = await stay(read(place), got)
            driver.kill()
            driver.wait()
            await until(lambda: sender_of(server).publication is None, "the server notices")
            await until(lambda: merger_of(client).state is State.ATTACHED, "the client notices")
            await market(server, 2, 300)
            await complete(server, client, got, 300)
        with driver_process(place):
            (listener,) = [x for x in server.listeners if isinstance(x, SharedListener)]
            await until(lambda: listener.rebuilt == 1 and source_of(client).rebuilt == 1, "both are back")
            await detached(client)
            await market(server, 301, 600)
            await complete(server, client, got, 600)
            assert client.core.connects == 1
            await client.close()


async def stay(address: str, got: list[int]) -> aio.AsyncClient:
    """A client that follows the stream and outlives a block."""
    client = aio.connect(address, topics=TOPICS, policy="drop-oldest", retry=0.02, on_record=collect(got))
    await client.__aenter__()
    await client.live("v:A", timeout=PATIENCE)
    await detached(client)
    return client


class Child:
    """A reader in a process of its own, which can be stopped."""

    def __init__(self, address: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(CHILD), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def ask(self) -> dict[str, Any]:
        def ask() -> str:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return self.process.stdout.readline()

        line = await asyncio.to_thread(ask)
        assert line, "the child has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    async def until(self, what: str, **wanted: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = await self.ask()
                    if all(found[key] == value for key, value in wanted.items()):
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"waited in vain: {what}; {found}") from None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


@pytest.mark.parametrize("dead", [False, True])
async def test_a_reader_that_stands_still_is_put_off_and_recovers(place: Path, dead: bool) -> None:
    """With ``dead`` it stands still for longer than its client may: the driver forgets it, and it needs a new one."""
    where = served(place, term="64k", liveness="1500ms" if dead else "14s")
    async with Server(limits=MUCH) as server:
        await server.listen(where)
        server.publish([snapshot(1, levels(1)), trade(1)])
        child = Child(read(place))
        try:
            got: list[int] = []
            async with reader(read(place), got) as client:
                await child.until("the child follows", state="DETACHED")
                # From here on it knows where the trades stand; of a stream that it has not seen it cannot fetch the past.
                await market(server, 2, 20)
                found = await child.until("the child has trades", last=20)
                reading = source_of(client)._reading
                assert reading is not None
                counters = reading.client.client.counters
                label = re.compile(rf"heartbeat.*\bid={found['client']}\b")
                assert any(label.search(c.label) for c in counters())
                child.process.send_signal(signal.SIGSTOP)
                # Several windows of 32 KiB: without eviction it would end after the first.
                await market(server, 21, 1_500)
                await complete(server, client, got, 1_500)
                if dead:
                    await until(lambda: not any(label.search(c.label) for c in counters()), "the driver forgets it")
                child.process.send_signal(signal.SIGCONT)
                await market(server, 1_501, 1_600)
                await complete(server, client, got, 1_600)
                found = await child.until("the child has all and follows", last=1_600, state="DETACHED")
                await market(server, 1_601, 1_700)
                found = await child.until("the child has all", last=1_700)
                assert found["whole"]
                assert not found["lost"]
                assert found["rebuilt"] + found["evicted"] + found["connects"] > 1, found
                assert not dead or found["rebuilt"] or found["connects"] > 1, found
                await complete(server, client, got, 1_700)
                book = server.hub.books["v:A"]
                assert found["book"][1:] == json.loads(json.dumps([book.bids(), book.asks()]))
        finally:
            child.end()


@pytest.mark.parametrize("short", [False, True])
async def test_what_does_not_fit_waits_in_the_hub_and_then_the_oldest_go(
    place: Path, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that does not take what comes; with ``short`` more waits than the hub keeps for anybody."""
    monkeypatch.setattr(aeron_source, "_READY_MAX", 32 << 10)
    more = {"queue": 2_000, "queue_max": 2_000} if short else {}
    async with Server(limits=Limits(replay_messages=50_000, replay_bytes=64 << 20, **more)) as server:
        await server.listen(served(place, term="64k"))
        server.publish([snapshot(1, levels(1)), trade(1)])
        got: list[int] = []
        async with reader(read(place), got) as client:
            source_of(client).read(False)
            sender = sender_of(server)
            await market(server, 2, 4_000)
            assert sender.retries
            assert not sender.writable
            assert sender.unsent < 1 << 20  # the rest is where the policy is
            dropped = sender._session.client.counters
            assert bool(dropped.dropped) == short
            source_of(client).read(True)
            await until(lambda: sender.writable, "it goes on")
            await market(server, 4_001, 4_100)
            if not short:
                await complete(server, client, got, 4_100)
                return
            await until(lambda: got and got[-1] == 4_100, "the last one")
            await equal(client, server)
            assert got == sorted(set(got)), "a trade came twice or out of order"
            # What nobody has any more is told: trades and changes of the book.
            missing = got[-1] - got[0] + 1 - len(got)
            assert 0 < missing < client.core.lost
            await detached(client)
            await market(server, 4_101, 4_200)
            await until(lambda: got[-1] == 4_200, "the last one")
            assert got[-200:] == list(range(4_001, 4_201))


async def test_one_receiver_by_udp(place: Path) -> None:
    (port,) = free_ports()
    more = f"&endpoint=127.0.0.1:{port}&dir={place}"
    async with Server(limits=MUCH) as server:
        listeners = await server.listen_all(
            ["tcp:127.0.0.1:0", f"aeron:udp?shared=1&term-length=64k&heartbeat=50&liveness=2s{more}"]
        )
        server.publish([snapshot(1, levels(1)), trade(1)])
        got: list[int] = []
        async with reader(f"aeron:udp?shared=1&control={listeners[0].address}{more}", got) as client:
            await market(server, 2, 1_000)
            await complete(server, client, got, 1_000)
    assert list(place.parent.iterdir()) == []


def test_a_multicast_group_by_udp() -> None:
    """In a network namespace of its own, so that nothing leaves it."""
    done = subprocess.run(
        [*isolated(), sys.executable, "-W", "error", str(GROUP_CHILD), "group"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stdout + done.stderr


async def test_what_cannot_be_is_refused_in_one_line(place: Path) -> None:
    many = ",".join(f"trades venue{n}:*" for n in range(100))
    wrong = {
        served(place, "&mtu=1k&topics=" + many.replace("*", "%2a")): "fit into one packet",
        served(place, "&driver=external"): "no media driver",
    }
    async with Server() as server:
        for text, said in wrong.items():
            with pytest.raises(CmdError, match=said) as refused:
                await server.listen(text)
            assert "\n" not in str(refused.value)
            assert not server.sessions
        assert list(place.parent.iterdir()) == []
        listener = await server.listen(f"unix:{place}.control")
        with pytest.raises(CmdError, match="no media driver") as refused:
            async with aio.connect(read(place), topics=TOPICS, attempts=1):
                pass
        assert "\n" not in str(refused.value)
        await until(lambda: not server.sessions, "its control connection is closed")
        assert isinstance(listener.address, Address)
    with pytest.raises(CmdError, match=r"listens|server"):
        async with aio.connect(read(place), topics=TOPICS, attempts=1):
            pass
