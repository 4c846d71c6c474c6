"""Both clients over Aeron, against a real server and a real media driver: the same tests as over sockets, and its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aeron_raw import folder, present
from client_children import DEADLINE, SMALL, Child, ThreadedServer, eventually, rounds, until
from client_pair import Market
from hub_world import snapshot, trade
from test_client import (
    test_a_callback_sees_the_books_as_of_its_record,
    test_a_callback_that_raises_ends_the_client,
    test_a_server_is_a_live_source,
    test_a_slow_consumer_holds_a_bounded_number_and_the_policy_applies,
    test_batches_are_arrays_and_arrow,
    test_batches_in_an_event_loop,
    test_callbacks_and_events,
    test_giving_up_an_iteration_leaves_the_rest,
    test_iterating_gives_records_and_keeps_books_in_step,
    test_live_waits_for_books_and_loses_nothing,
    test_poll_returns_after_its_time_and_pings_keep_the_connection,
    test_records_books_and_events_in_an_event_loop,
    test_topics_are_added_and_given_up,
    test_what_nobody_reads_is_bounded_and_books_go_on,
    test_what_the_replay_buffer_lost_is_said,
)
from test_client_processes import (
    _equal,
)

from cmd_common.records import Trade
from cmd_server.aeron_driver import acquire_client
from cmd_server.client import Client, Connected, Disconnected, Lost, connect
from cmd_server.client.aio import connect as aio_connect
from cmd_server.errors import ConnectionBrokenError, RefusedError
from cmd_server.limits import Limits
from cmd_server.server import Server

__all__ = [
    "test_a_callback_sees_the_books_as_of_its_record",
    "test_a_callback_that_raises_ends_the_client",
    "test_a_server_is_a_live_source",
    "test_a_slow_consumer_holds_a_bounded_number_and_the_policy_applies",
    "test_batches_are_arrays_and_arrow",
    "test_batches_in_an_event_loop",
    "test_callbacks_and_events",
    "test_giving_up_an_iteration_leaves_the_rest",
    "test_iterating_gives_records_and_keeps_books_in_step",
    "test_live_waits_for_books_and_loses_nothing",
    "test_poll_returns_after_its_time_and_pings_keep_the_connection",
    "test_records_books_and_events_in_an_event_loop",
    "test_topics_are_added_and_given_up",
    "test_what_nobody_reads_is_bounded_and_books_go_on",
    "test_what_the_replay_buffer_lost_is_said",
]


@pytest.fixture(autouse=True)
def directory() -> Iterator[Path]:
    present()
    with folder() as found:
        yield found


@pytest.fixture
def threaded(directory: Path) -> Iterator[ThreadedServer]:
    server = ThreadedServer(limits=Limits(heartbeat=300_000_000, replay_messages=100))
    server.address = reading(server.listen(f"aeron:ipc?dir={directory / 'a'}&term-length=64k"))
    yield server
    server.close()


@pytest.fixture
async def server(directory: Path) -> AsyncIterator[Server]:
    async with Server(limits=Limits(heartbeat=300_000_000), options=SMALL) as server:
        await server.listen(f"aeron:ipc?dir={directory / 'a'}")
        yield server


@pytest.fixture
def children() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.close()


def reading(address: str) -> str:
    """The same address for a client."""
    return address.replace("&term-length=64k", "")


def where(server: Server) -> str:
    return reading(str(server.listeners[0].address))


def pumps() -> int:
    return sum(thread.name == "cmd-aeron-pump" for thread in threading.enumerate())


async def test_a_book_that_is_longer_than_a_message_of_aeron_comes_whole(directory: Path) -> None:
    bids = [(100_000.0 - n, 1.0) for n in range(4_000)]  # 64 KB; the longest message of a 64 KiB term is 8 KiB
    async with Server() as server:
        await server.listen(f"aeron:ipc?dir={directory / 'a'}&term-length=64k")
        server.publish([snapshot(1, bids, [(200_000.0, 1.0)])])
        client = aio_connect(where(server), topics="book *")
        await client.start()
        book = await client.live("v:A", timeout=DEADLINE)
        assert book.bids() == bids
        await client.close()


def first_trade(client: Client) -> Trade:
    return next(record for record in client if isinstance(record, Trade))


async def test_trades_are_those_that_a_client_over_tcp_gets(server: Server) -> None:
    tcp = await server.listen("tcp:127.0.0.1:0")
    got: dict[str, list[Trade]] = {"aeron": [], "tcp": [], "udp": []}
    udp = await server.listen(f"aeron:udp?dir={where(server).partition('dir=')[2]}")
    addresses = {
        "aeron": where(server),
        "tcp": str(tcp.address),
        "udp": f"{udp.address}&control={tcp.address}",
    }

    async def read(name: str) -> None:
        async with aio_connect(addresses[name], topics="trades *", policy="disconnect") as client:
            async for record in client:
                if not isinstance(record, Trade):
                    continue
                got[name].append(record)
                if record.trade_seq == 3_000:
                    assert client.counters.connects == 1
                    return

    tasks = [asyncio.create_task(read(name)) for name in got]
    await eventually(lambda: len(server.hub.clients) == 3 and all(c.topics for c in server.hub.clients))
    await eventually(lambda: all(c.idle for c in server.hub.clients))
    for n in range(1, 3_001):
        server.publish([trade(n)])
        if n % 50 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*tasks)
    assert [t.trade_seq for t in got["tcp"]] == list(range(1, 3_001))
    assert got["aeron"] == got["tcp"] == got["udp"]


async def test_two_clients_of_a_process_share_one_aeron_client_and_leave_no_thread(server: Server) -> None:
    before = pumps()
    async with aio_connect(where(server), topics="trades *") as one, aio_connect(where(server), topics="book *") as two:
        await eventually(lambda: one.connected and two.connected and pumps() == before + 2)
        directory = server.listeners[0].directory  # type: ignore[attr-defined]
        mine = await asyncio.to_thread(acquire_client, directory)
        other = await asyncio.to_thread(acquire_client, directory)
        assert mine.client is other.client
        await asyncio.to_thread(mine.release)
        await asyncio.to_thread(other.release)
    await eventually(lambda: pumps() == before)


async def test_a_wrong_token_is_refused_by_control(directory: Path) -> None:
    async with Server(token="a-secret-of-many-letters") as server:
        await server.listen(f"aeron:ipc?dir={directory / 'a'}&term-length=64k")
        with pytest.raises(RefusedError, match="token"):
            await aio_connect(where(server), topics="trades *").start()
        with pytest.raises(RefusedError, match="token"):
            await asyncio.to_thread(connect, where(server), topics="trades *", token="wrong")
        async with aio_connect(where(server), topics="trades *", token="a-secret-of-many-letters") as client:
            server.publish([trade(1)])
            async for record in client:
                if isinstance(record, Trade):
                    assert record == trade(1)
                    break


def test_no_server_and_no_driver_are_one_line_each(directory: Path) -> None:
    with pytest.raises(ConnectionBrokenError, match=r"is no socket|nobody|No such|does not exist|no server") as none:
        connect(f"aeron:ipc?dir={directory / 'none'}", topics="trades *")
    assert "\n" not in str(none.value)
    server = ThreadedServer()
    server.listen("tcp:127.0.0.1:0")
    try:
        with pytest.raises(ConnectionBrokenError, match="no media driver runs in") as error:
            connect(f"aeron:ipc?dir={directory / 'none'}&control={server.address}", topics="trades *")
        assert "is the server running" in error.value.hint
    finally:
        server.close()


def test_a_server_that_does_not_listen_by_aeron_says_so(directory: Path) -> None:
    import cmd_aeron

    server = ThreadedServer()
    server.listen("tcp:127.0.0.1:0")
    try:
        with (
            cmd_aeron.MediaDriver(str(directory / "a"), ipc_term_length=1 << 16),
            pytest.raises(RefusedError, match="does not send by Aeron: this server does not listen at aeron:ipc"),
        ):
            connect(f"aeron:ipc?dir={directory / 'a'}&control={server.address}", topics="trades *")
    finally:
        server.close()


def test_closing_from_another_thread_wakes_who_waits(threaded: ThreadedServer) -> None:
    for idle in ("low-cpu", "balanced"):
        client = connect(f"{threaded.address}&idle={idle}", topics="trades *")
        ended: list[object] = []
        thread = threading.Thread(target=lambda client=client, ended=ended: ended.append(list(client)))
        thread.start()
        time.sleep(0.2)  # it may be waiting by then; what follows holds either way
        client.close()
        thread.join(DEADLINE)
        assert ended == [[]]


def test_a_blocking_client_is_told_of_the_end(threaded: ThreadedServer) -> None:
    events: list[object] = []
    with connect(threaded.address, topics="trades *", on_event=events.append, retry=0.01) as client:
        threaded.publish(trade(1))
        assert first_trade(client) == trade(1)
        threaded.drop()
        until(lambda: client.poll(0.05) is not None and sum(isinstance(e, Connected) for e in events) == 2)
        threaded.publish(trade(2))
        assert first_trade(client) == trade(2)
    assert any(isinstance(e, Disconnected) for e in events)
    assert not any(isinstance(e, Lost) for e in events)


async def test_a_loop_that_ends_without_closing_leaves_no_thread(directory: Path) -> None:
    server = ThreadedServer()
    server.address = reading(server.listen(f"aeron:ipc?dir={directory / 'a'}&term-length=64k"))
    before = pumps()

    def forget() -> None:
        loop = asyncio.new_event_loop()
        client = aio_connect(server.address, topics="trades *")
        loop.run_until_complete(client.start())
        until(lambda: loop.run_until_complete(asyncio.sleep(0.01)) is None and pumps() == before + 1)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()

    try:
        await asyncio.to_thread(forget)
        await eventually(lambda: pumps() == before)
    finally:
        await asyncio.to_thread(server.close)


async def test_a_server_that_is_killed_and_started_again(directory: Path, children: list[Child]) -> None:
    address = f"aeron:ipc?dir={directory / 'a'}&term-length=64k"
    first = await asyncio.to_thread(Child, "server", address)
    children.append(first)
    told: list[object] = []
    async with aio_connect(reading(address), topics=["book *", "trades *"], on_event=told.append, retry=0.02) as client:
        said = await asyncio.to_thread(first.ask, "50")
        await client.live("v:A", "v:B", timeout=DEADLINE)
        await _equal(client, said)
        first.process.kill()
        await asyncio.to_thread(first.process.wait, 20)
        await eventually(lambda: not client.connected)
        assert client.book("v:A").state.value == "STALE"
        second = await asyncio.to_thread(Child, "server", address)  # neither directory nor socket are in its way
        children.append(second)
        await eventually(lambda: client.connected)
        said = await asyncio.to_thread(second.ask, "50")
        await _equal(client, said)
    assert {e.reason for e in told if isinstance(e, Lost)} == {"restart"}


async def test_a_client_that_is_killed_is_noticed(server: Server, children: list[Child]) -> None:
    child = await asyncio.to_thread(Child, "client", where(server), "conflate", "trades *", "400")
    children.append(child)
    await eventually(lambda: len(server.hub.clients) == 1)
    rounds(Market(), server, 30)
    child.kill()
    await eventually(lambda: not server.hub.clients)
    assert not server.sessions
