"""Links over Aeron with real servers and drivers: moving over, slow readers, every way to end, and coming back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aeron_raw import driver_process, folder, present
from client_children import DEADLINE, Child, ThreadedServer, digest, eventually, until
from client_pair import Market, check_numbers
from hub_world import delta, snapshot, trade
from raw_client import Raw, run

from cmd_common.records import Trade
from cmd_server import codec
from cmd_server.aeron import Route
from cmd_server.aeron_port import AeronPort
from cmd_server.aeron_switch import Switch, _own_host
from cmd_server.client import Client, Connected, Disconnected, Lost, Message, connect
from cmd_server.client.aio import connect as aio_connect
from cmd_server.errors import ConnectionBrokenError, FrameError, RefusedError
from cmd_server.formats import TEMPLATE_AT
from cmd_server.limits import Limits
from cmd_server.messages import Ack, Bye, Divert, Diverted, Login, Ping, Reject, Template
from cmd_server.server import Server
from cmd_server.transport import Address

LIMITS = Limits(heartbeat=500_000_000, replay_messages=100_000, replay_bytes=64 << 20)
REQUEST = 0xE000_0001


@pytest.fixture
def place() -> Iterator[Path]:
    present()
    with folder() as found:
        yield found


@pytest.fixture
def threaded(place: Path) -> Iterator[ThreadedServer]:
    """A server with IPC, UDP and their control; ``addresses`` are what clients connect to."""
    server = ThreadedServer(limits=LIMITS)
    server.listen(f"aeron:ipc?dir={place / 'a'}&term-length=64k")
    control = server.listen(f"unix:{place / 'c'}")
    server.listen(f"aeron:udp?dir={place / 'a'}&term-length=64k")
    server.address = f"aeron:ipc?dir={place / 'a'}&control={control}"
    yield server
    server.close()


def over_udp(place: Path) -> str:
    return f"aeron:udp?dir={place / 'a'}&control=unix:{place / 'c'}"


def trades(items: list[Any]) -> list[int]:
    return [i.record.trade_seq for i in items if isinstance(i, Message) and isinstance(i.record, Trade)]


# -- moving over


def switch() -> Switch:
    found = Switch(Route(medium="ipc"), 1 << 20)
    assert found.outgoing(b"login").startswith(b"login")
    return found


def test_the_request_follows_the_login_and_nothing_else() -> None:
    found = Switch(Route(medium="udp", endpoint="127.0.0.1:4000", stream=9), 1 << 20)
    login = codec.encode_request(Login("", "me"))
    asked = found.outgoing(login)
    assert asked.startswith(login)
    divert = codec.decode_request(asked[len(login) :])
    assert (divert.request_id, divert.to) == (REQUEST, "aeron:udp?endpoint=127.0.0.1:4000&stream=9")
    ping = codec.encode_request(Ping(1))
    assert found.outgoing(ping) == ping


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_control_is_passed_on_until_the_stream_is_elsewhere(cut: int) -> None:
    found = switch()
    early = [codec.encode_service(m) for m in (Ack(1, 3), Reject(2, "limit", "no", ""), Ack(3, 0))]
    bye = codec.encode_service(Bye("slow", "too slow"))
    data = b"".join(early) + codec.encode_service(Diverted(REQUEST, "aeron:ipc?stream=5&session=-7")) + bye
    passed = b"".join(found.incoming(data[at : at + cut]) for at in range(0, len(data), cut))
    assert passed == b"".join(early)
    assert found.late == bye
    assert found.route == Route(medium="ipc", stream=5, session=-7)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Reject(REQUEST, "invalid", "not here", ""), RefusedError, "does not send by Aeron: not here"),
        (
            Reject(REQUEST, "unavailable", "no driver", "wait"),
            ConnectionBrokenError,
            "cannot send by Aeron now: no dri",
        ),
        (Reject(0, "protocol", "what?", ""), RefusedError, "what.; it is older than its clients; connect by tcp"),
        (Diverted(7, "aeron:ipc?stream=5"), FrameError, "did not ask"),
        (Diverted(REQUEST, "tcp:127.0.0.1:1"), FrameError, "which is nowhere"),
    ],
)
def test_other_answers_are_one_error(answer: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as found:
        switch().incoming(codec.encode_service(answer))
    assert "\n" not in str(found.value)


async def test_what_a_server_says_to_a_request_that_it_does_not_know_is_understood(tmp_path: Path) -> None:
    async with Server() as server:
        await server.listen(f"unix:{tmp_path / 's'}")
        raw = await Raw.connect(Address.parse(f"unix:{tmp_path / 's'}"))
        divert = bytearray(codec.encode_request(Divert(REQUEST, "aeron:ipc")))
        divert[TEMPLATE_AT] = 99  # as Divert is to a server of before
        await raw.send(codec.encode_request(Login("", "raw")), bytes(divert))
        frames = await raw.messages(Template.REJECT)
        with pytest.raises(RefusedError, match="it is older than its clients"):
            switch().incoming(frames[0])
        raw.close()


@pytest.mark.parametrize(
    ("control", "host"),
    [("tcp:127.0.0.1:9", "127.0.0.1"), ("tcp:localhost:9", "127.0.0.1|::1"), ("ws:127.0.0.1:9/x", "127.0.0.1")],
)
def test_a_client_finds_its_own_address(control: str, host: str) -> None:
    assert _own_host(control).strip("[]") in host.split("|")


# -- what comes


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("medium", ["ipc", "udp"])
def test_nothing_is_lost_or_doubled_over_many_connections(
    threaded: ThreadedServer, place: Path, medium: str, loop: str
) -> None:
    """Connections are cut while records come: both clients have each of them once, and in order."""
    address = threaded.address if medium == "ipc" else over_udp(place)
    count, cut = 6_000, 2_000

    def publish() -> None:
        for n in range(21, count + 1, 20):
            if n % cut == 1:
                until(lambda: sum(bool(c.topics) for c in threaded.server.hub.clients) == 2)
                threaded.drop()
            threaded.publish(*(trade(i) for i in range(n, n + 20)))

    def blocking(items: list[Any]) -> None:
        with connect(address, topics="trades *", retry=0.01, queue=100_000) as client:
            while trades(items[-2_000:])[-1:] != [count]:
                items += client.poll(DEADLINE)

    async def reading(items: list[Any]) -> None:
        async with aio_connect(address, topics="trades *", retry=0.01, queue=100_000) as client:
            async for found in client.items():
                items += found
                if trades(found)[-1:] == [count]:
                    break
            assert client.counters.holes == 0

    async def main() -> None:
        mine: list[Any] = []
        other: list[Any] = []
        tasks = [asyncio.create_task(reading(mine)), asyncio.create_task(asyncio.to_thread(blocking, other))]
        await eventually(lambda: sum(bool(c.topics) for c in threaded.server.hub.clients) == 2)
        await asyncio.to_thread(threaded.publish, *(trade(i) for i in range(1, 21)))
        # Who was cut off before it had anything knows no place to go on from: it begins with what comes next.
        await eventually(lambda: trades(mine) and trades(other))
        tasks.append(asyncio.create_task(asyncio.to_thread(publish)))
        await asyncio.gather(*tasks)
        for items in (mine, other):
            assert trades(items) == list(range(1, count + 1))
            assert not any(isinstance(i, Lost) for i in items)
            assert sum(isinstance(i, Connected) for i in items) == 3

    run(loop, main())


@pytest.mark.parametrize("medium", ["ipc", "udp"])
def test_a_thread_gets_a_book_that_is_longer_than_a_message_of_aeron(
    threaded: ThreadedServer, place: Path, medium: str
) -> None:
    bids = [(100_000.0 - n, 1.0) for n in range(40_000)]  # 640 KB; more than the space that is read at once
    threaded.publish(snapshot(1, bids, [(200_000.0, 1.0)]))
    with connect(threaded.address if medium == "ipc" else over_udp(place), topics="book *") as client:
        assert client.live("v:A", timeout=DEADLINE).bids() == bids


# -- slow readers


def behind(server: ThreadedServer, records: list[Any]) -> None:
    """Publish far more than stream, port and queue hold, while the client does not read."""
    for at in range(0, len(records), 500):
        server.publish(*records[at : at + 500])


def test_a_slow_thread_gets_the_newest_state_of_books(threaded: ThreadedServer) -> None:
    threaded.publish(snapshot(1))
    with connect(threaded.address, topics="book *", policy="conflate", queue=400) as client:
        client.live("v:A", timeout=DEADLINE)
        behind(threaded, [delta(n, [(99.0 - n % 300 / 10, float(n))]) for n in range(2, 20_000)])
        items: list[Any] = []
        want = threaded.call(lambda: digest(threaded.server.hub.books))
        until(lambda: items.extend(client.poll(0.05)) is None and digest(client.books) == want)
        assert any(isinstance(i, Message) and i.conflated for i in items)
        assert not any(isinstance(i, Lost | Disconnected) for i in items)
        assert client.counters.holes == 0


def test_a_slow_thread_is_told_what_it_has_lost(threaded: ThreadedServer) -> None:
    with connect(threaded.address, topics="trades *", policy="drop-oldest", queue=400) as client:
        threaded.publish(trade(1))
        items = client.poll(DEADLINE)
        behind(threaded, [trade(n) for n in range(2, 20_001)])
        until(lambda: items.extend(client.poll(0.05)) is None and trades(items)[-1:] == [20_000])
        check_numbers(items)
        lost = sum(i.count for i in items if isinstance(i, Lost))
        assert lost > 0
        assert lost + len(trades(items)) == 20_000
        assert client.counters.connects == 1


def test_a_slow_thread_is_let_go_with_a_word_and_comes_back(threaded: ThreadedServer) -> None:
    with connect(threaded.address, topics="trades *", policy="disconnect", queue=400, retry=0.01) as client:
        threaded.publish(trade(1))
        items = client.poll(DEADLINE)
        behind(threaded, [trade(n) for n in range(2, 20_001)])
        until(lambda: items.extend(client.poll(0.05)) is None and any(isinstance(i, Disconnected) for i in items))
        assert [i.code for i in items if isinstance(i, Disconnected)] == ["slow"]
        # It resumes behind what it has; so much at once may be too much again, and then the server says so.
        until(lambda: items.extend(client.poll(0.05)) is None and client.connected)
        until(
            lambda: (
                threaded.publish(trade(20_001 + len(items)))
                or (items.extend(client.poll(0.05)) is None and trades(items)[-1] > 20_000)
            )
        )
        assert {i.code for i in items if isinstance(i, Disconnected)} == {"slow"}


# -- ends


def moved(server: Server, count: int) -> bool:
    """Whether so many clients receive by Aeron."""
    ports = [session.port for session in list(server.sessions)]
    return len(ports) == count and all(isinstance(port, AeronPort) and port.writable for port in ports)


@pytest.mark.parametrize("early", [False, True])
def test_an_orderly_end_is_told_in_order_although_the_program_was_busy(place: Path, early: bool) -> None:
    """The stream, control and driver end together while nobody looks: the server's word counts, not what is seen first."""

    async def main() -> None:
        server = ThreadedServer()
        server.listen(f"aeron:ipc?dir={place / 'a'}&term-length=64k")
        told: list[Any] = []
        busy: list[Any] = []
        blocking = connect(f"aeron:ipc?dir={place / 'a'}", topics="trades *", on_event=busy.append)
        async with aio_connect(f"aeron:ipc?dir={place / 'a'}", topics="trades *", on_event=told.append) as client:
            server.publish(trade(1))
            await eventually(lambda: client.counters.messages)
            if not early:  # else the thread has not looked for the stream yet, and never finds it
                await eventually(lambda: blocking.poll(0.01) is None or moved(server.server, 2))
            server.close()  # blocks this loop
            await eventually(lambda: any(isinstance(e, Disconnected) for e in told))
            await asyncio.to_thread(
                until, lambda: blocking.poll(0.01) is None or any(isinstance(e, Disconnected) for e in busy)
            )
        blocking.close()
        gone = [next(e for e in events if isinstance(e, Disconnected)) for events in (told, busy)]
        assert gone[0].code == "shutdown", gone
        # Whoever never came for its stream is not waited for: it finds the driver gone, or nobody to send to.
        words = ("MediaDriver has been shutdown", "connection broken")
        assert gone[1].code == "shutdown" or (early and any(w in gone[1].reason for w in words)), gone

    asyncio.run(asyncio.wait_for(main(), 2 * DEADLINE))


async def test_a_driver_that_dies_and_comes_again(place: Path) -> None:
    with driver_process(place / "a") as driver:
        server = ThreadedServer(limits=LIMITS)
        server.listen(f"aeron:ipc?dir={place / 'a'}&driver=external&term-length=64k")
        address = f"aeron:ipc?dir={place / 'a'}"
        told: list[Any] = []
        busy: list[Any] = []
        got: list[int] = []

        def record(item: Any) -> None:
            if isinstance(item, Trade):
                got.append(item.trade_seq)

        other: Client = await asyncio.to_thread(connect, address, topics="trades *", on_event=busy.append, retry=0.02)
        async with aio_connect(
            address, topics="trades *", on_event=told.append, on_record=record, retry=0.02
        ) as client:
            await asyncio.to_thread(server.publish, trade(1))
            await eventually(lambda: got == [1])
            await asyncio.to_thread(until, lambda: other.poll(0.01) is None or moved(server.server, 2))
            driver.kill()
            await asyncio.to_thread(driver.wait)
            await eventually(lambda: any(isinstance(e, Disconnected) for e in told))
            await asyncio.to_thread(until, lambda: other.poll(0.05) is None or not other.connected)
            await asyncio.to_thread(server.publish, trade(2))
            with driver_process(place / "a"):
                await eventually(lambda: client.connected and got == [1, 2])
                await asyncio.to_thread(until, lambda: other.poll(0.05) is None or other.connected)
                assert sum(isinstance(e, Connected) for e in busy) == 2
                await asyncio.to_thread(other.close)
                await client.close()
                await asyncio.to_thread(server.close)
        assert not any(isinstance(e, Lost) for e in told)


async def test_a_client_that_stands_still_longer_than_the_liveness_recovers(place: Path) -> None:
    """Its driver takes it for dead: a new Aeron client, and the stream goes on where it was."""
    market = Market()
    async with Server(limits=LIMITS) as server:
        await server.listen(f"aeron:ipc?dir={place / 'a'}&term-length=64k&liveness=1500ms")
        child = await asyncio.to_thread(
            Child, "client", f"aeron:ipc?dir={place / 'a'}", "drop-oldest", "trades *", "100000"
        )
        try:
            await eventually(lambda: server.hub.clients)
            server.publish(market.records("A", 0))
            await eventually(lambda: moved(server, 1))
            child.signal(signal.SIGSTOP)
            await eventually(lambda: not server.hub.clients)
            for _ in range(50):
                server.publish(market.records("A", 0))
            child.signal(signal.SIGCONT)
            await eventually(lambda: server.hub.clients)
            said = await asyncio.to_thread(child.ask)
            async with asyncio.timeout(DEADLINE):
                while said["trades"] != {"A": 51}:
                    said = await asyncio.to_thread(child.ask)
            assert (said["holes"], said["lost"]) == (0, 0)
        finally:
            await asyncio.to_thread(child.close)


PROGRAM = """
import asyncio, sys
from cmd_server.client import connect
from cmd_server.client.aio import connect as aio

async def main():
    client = aio(sys.argv[1], topics="trades *")
    await client.start()
    print(await anext(client.items()))

kept = connect(sys.argv[1], topics="trades *")
print(kept.poll(60))
if sys.argv[2] == "aio":
    asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_program_that_closes_nothing_ends_all_the_same(threaded: ThreadedServer, kind: str) -> None:
    threaded.publish(trade(1))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, threaded.address, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        stop = threading.Event()
        thread = threading.Thread(
            target=lambda: [threaded.publish(trade(n)) for n in range(2, 9_000) if not stop.wait(0.01)]
        )
        thread.start()
        try:
            out, err = program.communicate(timeout=DEADLINE)
        finally:
            stop.set()
            thread.join()
            program.kill()
    assert err == ""
    assert program.returncode == 0
    assert "Message" in out
