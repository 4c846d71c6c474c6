"""The server over Aeron, with bare clients: who may divert what, who is slow, and who goes away when."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240  small looks at small files, and a child that is awaited in a thread

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aeron_raw import AeronRaw, driver_process, folder, present, publications
from raw_client import LOOPS, Raw, big_book, run, trade, until

from cmd_common.errors import UsageError
from cmd_server import codec
from cmd_server.aeron_listener import AeronListener
from cmd_server.errors import ServerError
from cmd_server.limits import Limits
from cmd_server.messages import Divert, Ping, Policy, Template
from cmd_server.metrics import Collector, hub_families
from cmd_server.server import Server
from cmd_server.transport import Address, ListenOptions


@pytest.fixture(autouse=True)
def _present() -> None:
    present()


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        yield path / "d"


def aeron(place: Path, more: str = "") -> str:
    return f"aeron:ipc?dir={place}&term-length=64k&liveness=1500ms" + (f"&{more}" if more else "")


def control_of(place: Path) -> Address:
    return Address.parse(f"unix:{place}.control")


async def joined(place: Path, *topics: str, control: Address | None = None, **options: Any) -> AeronRaw:
    """A client that has logged in, diverted and subscribed."""
    client = await AeronRaw.connect(control or control_of(place), str(place))
    await client.control.login(*topics, **options)
    await client.control.messages(Template.ACK, 1 + bool(topics))
    await client.divert()
    return client


@pytest.mark.parametrize("loop", LOOPS)
def test_everything_comes_by_aeron_in_order_and_nothing_stays_behind(loop: str, place: Path) -> None:
    async def main() -> None:
        async with Server() as server:
            listeners = await server.listen_all([aeron(place)])
            assert [str(listener.address) for listener in listeners] == [aeron(place), f"unix:{place}.control"]
            assert place.is_dir()
            clients = [await joined(place, "trades v:A", policy=Policy.DISCONNECT) for _ in range(3)]
            streams = {client.route.stream for client in clients}
            assert len(streams) == 3
            for n in range(500):
                server.publish([trade(4 * n + i) for i in range(4)])
                if not n % 50:
                    await asyncio.sleep(0)
            for client in clients:
                got = await client.messages(Template.TRADE, 2_000)
                assert [codec.head(f).seq for f in got] == [*range(1, 2_001)]
                assert got == clients[0].of(Template.TRADE)
                assert 1_000 < max(client.sizes) <= 8_160  # frames are joined, up to a packet
                # Requests go by control, answers come by Aeron.
                before = len(client.of(Template.HEARTBEAT))
                await client.control.send(codec.encode_request(Ping(1)))
                await client.messages(Template.HEARTBEAT, before + 1)
                assert client.control.templates[-1] == Template.DIVERTED
            assert len(server.sessions) == 3
            assert server.hub.counters.clients == 3
            for client in clients:
                client.close()
            await until(lambda: not server.sessions)
            server.hub.check()
            listener = listeners[0]
            assert isinstance(listener, AeronListener)
            assert listener.ports == 0
        assert list(place.parent.iterdir()) == []

    run(loop, main())


async def test_another_listener_of_the_server_is_control_too(place: Path) -> None:
    async with Server() as server:
        path = place.parent / "s.sock"
        texts = [f"unix:{path}?mode=660", "tcp:127.0.0.1:0", aeron(place, f"control=unix:{path}")]
        listeners = await server.listen_all(texts)
        assert [listener.address.scheme for listener in listeners] == ["unix", "tcp", "aeron"]
        assert not Path(f"{place}.control").exists()
        clients = [await joined(place, "trades v:A", control=listener.address) for listener in listeners[:2]]
        server.publish([trade(1)])
        for client in clients:
            assert len(await client.messages(Template.TRADE)) == 1
            client.close()
        await until(lambda: not server.sessions)
    assert list(place.parent.iterdir()) == []


async def test_what_was_said_before_comes_before(place: Path) -> None:
    async with Server() as server:
        await server.listen(aeron(place))
        client = await AeronRaw.connect(control_of(place), str(place))
        await client.control.login("trades v:A")
        await client.control.messages(Template.ACK, 2)
        stop = False

        async def publish() -> None:
            n = 0
            while not stop:
                n += 1
                server.publish([trade(n)])
                await asyncio.sleep(0)

        publishing = asyncio.create_task(publish())
        await client.control.messages(Template.TRADE, 20)
        await client.divert()
        await client.messages(Template.TRADE, 100)
        stop = True
        await publishing
        seqs = [codec.head(f).seq for f in client.control.of(Template.TRADE) + client.of(Template.TRADE)]
        assert seqs == [*range(1, len(seqs) + 1)]
        client.close()


async def test_the_policy_of_a_slow_client_is_its_own(place: Path) -> None:
    async with Server(options=ListenOptions(low_water=8_192)) as server:
        await server.listen(aeron(place))
        slow = await joined(place, "trades v:A", policy=Policy.DROP_OLDEST, queue=500)
        quick = await joined(place, "trades v:A", policy=Policy.DISCONNECT, queue=10_000)
        impatient = await joined(place, "trades v:A", policy=Policy.DISCONNECT, queue=500)
        for n in range(300):
            server.publish([trade(20 * n + i) for i in range(20)])
            quick.poll()
            if server.hub.counters.byes:
                impatient.poll()  # it has some seconds to read the rest, and why it is let go
            await asyncio.sleep(0)
        got = await quick.messages(Template.TRADE, 6_000)
        assert [codec.head(f).seq for f in got] == [*range(1, 6_001)]
        # The one was let go, by a word on both ways; the other is told what it has lost.
        await impatient.messages(Template.BYE)
        bye = await impatient.control.service(Template.BYE)
        assert bye.code == "slow"
        await until(lambda: len(server.sessions) == 2)
        await slow.messages(Template.STREAM_GAP)
        last = [codec.head(f).seq for f in await slow.messages(Template.TRADE, 1)][-1]
        while last < 6_000:
            await asyncio.sleep(0.001)
            slow.poll()
            last = codec.head(slow.of(Template.TRADE)[-1]).seq
        seqs = [codec.head(f).seq for f in slow.of(Template.TRADE)]
        lost: set[int] = set()
        for frame in slow.of(Template.STREAM_GAP):
            gap: Any = codec.decode_service(frame)
            lost |= set(range(gap.from_seq, gap.to_seq + 1))
        assert lost
        assert not lost & set(seqs)
        assert sorted(lost | set(seqs)) == [*range(1, 6_001)]
        for client in (slow, quick, impatient):
            client.close()


async def test_a_message_longer_than_any_of_aeron_comes_in_parts(place: Path) -> None:
    async with Server() as server:
        await server.listen(aeron(place))
        client = await joined(place, "book v:B")
        book = big_book(1)
        server.publish([book])
        (found,) = await client.messages(Template.BOOK_SNAPSHOT)
        assert len(found) > max(client.sizes) == 8_192  # a sixteenth... of 64k: an eighth
        assert codec.decode(found, "v", "B") == book
        client.close()


async def test_clients_are_counted_as_any(place: Path) -> None:
    async with Server() as server:
        await server.listen(aeron(place))
        client = await joined(place, "trades v:A")
        server.publish([trade(n) for n in range(50)])
        await client.messages(Template.TRADE, 50)
        found = {m.name: m for m in Collector(lambda: hub_families(server.hub)).collect()}
        (sent,) = found["cmd_client_sent"].samples
        assert sent.value >= 50
        assert sent.labels["client"].startswith(f"unix:{place}.control pid")
        (bytes_,) = found["cmd_client_sent_bytes"].samples
        assert bytes_.value >= sum(len(f) for f in client.frames)
        client.close()


# -- who may ask for what


async def _refused(client: Raw, to: str) -> tuple[str, str]:
    before = len(client.of(Template.REJECT))
    await client.send(codec.encode_request(Divert(9, to)))
    found: Any = codec.decode_service((await client.messages(Template.REJECT, before + 1))[-1])
    assert found.request_id == 9
    assert "\n" not in found.text + found.hint
    return found.code, found.text


async def test_what_cannot_be_diverted_is_refused_and_goes_on(place: Path) -> None:
    async with Server() as server:
        listeners = await server.listen_all(
            [aeron(place), "aeron:udp?driver=external&dir=" + str(place), "tcp:127.0.0.1:0"]
        )
        client = await AeronRaw.connect(listeners[2].address, str(place))
        await client.control.login("trades v:A")
        for to, words in (
            ("tcp:127.0.0.1:9", "does not listen at tcp:127.0.0.1:9"),
            ("aeron:carrier", "does not listen at aeron:carrier"),
            ("pigeon:post", "does not listen at pigeon:post"),
            ("nothing", "is no address"),
            ("", "is no address"),
            ("aeron:ipc?dir=/", "dir"),
            ("aeron:ipc?session=5", "the server chooses the session"),
            ("aeron:ipc?stream=5", "the server chooses the stream"),
            ("aeron:udp?stream=5", "endpoint"),
            ("aeron:udp?endpoint=127.0.0.1:4000", "names no stream"),
            ("aeron:udp?endpoint=10.9.8.7:4000&stream=5", "is not where your control connection comes from"),
            ("aeron:udp?endpoint=example.org:4000&stream=5", "endpoint"),
            ("x" * 60_000, "60000 characters are no address"),
        ):
            code, text = await _refused(client.control, to)
            assert code == "usage", to[:50]
            assert words in text, to[:50]
            assert len(text) <= 1_000
        # It is none the worse for it.
        await client.divert()
        await client.control.send(codec.encode_request(Divert(8, "aeron:ipc")))
        (found,) = [codec.decode_service(f) for f in await client.messages(Template.REJECT)]
        assert "diverted already" in str(found)
        server.publish([trade(1)])
        await client.messages(Template.TRADE)
        client.close()
        await until(lambda: not server.sessions)


async def test_nobody_diverts_before_the_login(place: Path) -> None:
    async with Server() as server:
        await server.listen(aeron(place))
        client = await Raw.connect(control_of(place))
        await client.send(codec.encode_request(Divert(1, "aeron:ipc")))
        assert (await client.service(Template.BYE)).code == "protocol"
        await client.read_to_end()
        assert Template.DIVERTED not in client.templates
        client.close()
        assert await asyncio.to_thread(publications, str(place)) == 0


async def test_a_server_without_aeron_says_so(tmp_path: Path) -> None:
    async with Server() as server:
        listener = await server.listen(f"unix:{tmp_path}/s")
        client = await Raw.connect(listener.address)
        await client.login()
        assert await _refused(client, "aeron:ipc") == ("usage", "this server does not listen at aeron:ipc")
        client.close()


async def test_a_json_connection_cannot_be_diverted(place: Path) -> None:
    import json

    import websockets.asyncio.client as websockets

    async with Server() as server:
        listeners = await server.listen_all([aeron(place), "ws:127.0.0.1:0"])
        port = listeners[1].address.host_port(path=True)[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}/json") as client:
            await client.send('{"type": "login"}')
            await client.send('{"type": "divert", "request_id": 3, "to": "aeron:ipc"}')
            while (found := json.loads(await client.recv()))["type"] != "reject":
                pass
            assert (found["request_id"], found["code"]) == (3, "usage")
            assert "only a connection that speaks SBE" in found["text"]


async def test_one_who_asks_for_it_too_often_is_let_go(place: Path) -> None:
    async with Server(requests=20) as server:
        await server.listen(aeron(place))
        client = await Raw.connect(control_of(place))
        await client.login()
        await client.send(*[codec.encode_request(Divert(n, "aeron:nothing")) for n in range(5)])
        assert (await client.service(Template.BYE)).code == "limit"
        client.close()


async def test_ipc_is_for_this_machine_only_and_udp_for_control_s_own_host(place: Path) -> None:
    async with Server() as server:
        for more, peer, to, refused in (
            ("aeron:ipc", "10.1.2.3:999", "aeron:ipc", "on the server's machine"),
            ("aeron:ipc", "[::1]:999", "aeron:ipc", ""),
            ("aeron:udp", "10.1.2.3:999", "aeron:udp?endpoint=10.1.2.3:4000&stream=1", ""),
            ("aeron:udp", "[::ffff:10.1.2.3]:999", "aeron:udp?endpoint=10.1.2.3:4000&stream=1", ""),
            ("aeron:udp", "10.1.2.3:999", "aeron:udp?endpoint=127.0.0.1:4000&stream=1", "receive at 10.1.2.3"),
            ("aeron:udp", "unix:/x pid 1", "aeron:udp?endpoint=127.0.0.1:4000&stream=1", ""),
            ("aeron:udp", "unix:/x pid 1", "aeron:udp?endpoint=10.1.2.3:4000&stream=1", "is not where"),
            # What a zone of an address may hold must not become a part of the channel.
            ("aeron:udp", "unix:/x pid 1", "aeron:udp?endpoint=[::1%25a|endpoint=10.1.2.3:9|x=]:9&stream=1", "is none"),
            ("aeron:udp?endpoint=10.1.2.3:0", "10.9.9.9:1", "aeron:udp?endpoint=10.1.2.3:77&stream=1", ""),
            ("aeron:udp?endpoint=10.1.2.3:76", "10.1.2.3:1", "aeron:udp?endpoint=10.1.2.3:77&stream=1", "sends to 10.1.2.3:76 only"),
        ):  # fmt: skip
            from cmd_server.aeron import parse

            address = Address.parse(more)
            listener = AeronListener(address, parse(address, "server"), server, ListenOptions())
            control: Any = type("Port", (), {"peer": peer})()
            try:
                if refused:
                    with pytest.raises(UsageError, match=refused):
                        listener._route(to, control)
                else:
                    assert str(listener._route(to, control)) == to
            finally:
                await listener.finish()


# -- UDP


@pytest.mark.parametrize("control", ["tcp", "unix"])
async def test_udp_to_where_the_client_receives(place: Path, control: str) -> None:
    target = "tcp:127.0.0.1:0" if control == "tcp" else f"unix:{place.parent}/s"
    async with Server() as server:
        listeners = await server.listen_all([f"aeron:udp?dir={place}&term-length=64k&control={target}"])
        assert [listener.address.scheme for listener in listeners] == ["aeron", control]
        client = await AeronRaw.connect(listeners[1].address, str(place))
        await client.control.login("trades v:A", policy=Policy.DISCONNECT)
        await client.control.messages(Template.ACK, 2)
        await client.divert_udp()
        assert client.route.medium == "udp"
        for n in range(100):
            server.publish([trade(10 * n + i) for i in range(10)])
            client.poll()
            await asyncio.sleep(0)
        got = await client.messages(Template.TRADE, 1_000)
        assert [codec.head(f).seq for f in got] == [*range(1, 1_001)]
        client.close()
        await until(lambda: not server.sessions)


# -- who goes away, and when


async def test_control_is_lost_first(place: Path) -> None:
    async with Server() as server:
        await server.listen(aeron(place))
        client = await joined(place, "trades v:A")
        client.control.close()
        await until(lambda: not server.sessions)
        await until(lambda: not client.subscription.connected)  # its publication is gone too
        server.publish([trade(1)])
        client.close()


async def test_the_publication_is_lost_first(place: Path) -> None:
    async with Server() as server:
        await server.listen(aeron(place))
        client = await joined(place, "trades v:A")
        session = next(iter(server.sessions))
        await asyncio.to_thread(client.subscription.close)
        await client.control.read_to_end()
        await until(lambda: not server.sessions)
        assert "does not receive any more" in str(session.error)
        client.close()


async def test_a_client_that_vanishes_while_back_pressured(place: Path) -> None:
    async with Server(options=ListenOptions(low_water=8_192)) as server:
        (listener, *_) = await server.listen_all([aeron(place)])
        client = await joined(place, "trades v:A", policy=Policy.CONFLATE, queue=100_000)
        session = next(iter(server.sessions))
        await until(lambda: session.port.writable)  # the port has seen that the client subscribed
        while session.port.writable:
            server.publish([trade(n) for n in range(200)])
            await asyncio.sleep(0)
        assert session.port.unsent
        client.close()
        await until(lambda: not server.sessions)
        assert isinstance(listener, AeronListener)
        await until(lambda: listener.ports == 0)
        server.hub.check()


async def test_one_who_leaves_while_the_publication_is_made_leaves_nothing(place: Path) -> None:
    async with Server() as server:
        (listener, *_) = await server.listen_all([aeron(place)])
        assert isinstance(listener, AeronListener)
        for _ in range(8):
            client = await Raw.connect(control_of(place))
            await client.login()
            await client.messages(Template.ACK)
            await client.send(codec.encode_request(Divert(1, "aeron:ipc")))
            client.close()
        await until(lambda: not server.sessions)
        while await asyncio.to_thread(publications, str(place)):
            await asyncio.sleep(0.01)
        assert listener.ports == 0


async def test_one_who_never_subscribes_is_let_go(place: Path) -> None:
    async with Server(options=ListenOptions(handshake=50_000_000)) as server:
        await server.listen(aeron(place))
        client = await Raw.connect(control_of(place))
        await client.login()
        await client.send(codec.encode_request(Divert(1, "aeron:ipc")))
        await client.service(Template.DIVERTED)
        await client.read_to_end()
        await until(lambda: not server.sessions)
        client.close()


async def test_an_orderly_end_is_told_on_both_ways(place: Path) -> None:
    server = Server()
    await server.listen(aeron(place))
    client = await joined(place, "trades v:A")
    server.publish([trade(n) for n in range(100)])
    closing = asyncio.create_task(server.close())
    assert (await client.control.service(Template.BYE)).code == "shutdown"
    await client.messages(Template.BYE)
    assert len(client.of(Template.TRADE)) == 100
    client.control.close()
    await closing
    assert not place.exists()
    client.close()


async def test_many_come_and_go(place: Path) -> None:
    async with Server(limits=Limits(clients=50)) as server:
        (listener, *_) = await server.listen_all([aeron(place)])
        assert isinstance(listener, AeronListener)
        for _ in range(3):
            clients = await asyncio.gather(*[joined(place, "trades v:A") for _ in range(6)])
            server.publish([trade(1)])
            for client in clients:
                await client.messages(Template.TRADE)
            for client in clients[::2]:
                client.close()
            for client in clients[1::2]:
                client.client.close()
            for client in clients[1::2]:
                await client.control.read_to_end()
                client.close()
            await until(lambda: not server.sessions and not listener.ports)


# -- drivers


async def test_a_driver_that_is_killed_and_comes_back(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with driver_process(place) as child:
        async with Server() as server:
            (listener, *_) = await server.listen_all([aeron(place, "driver=external")])
            assert isinstance(listener, AeronListener)
            client = await joined(place, "trades v:A")
            child.send_signal(signal.SIGKILL)
            child.wait()
            with caplog.at_level(logging.WARNING, "cmd_server"):
                await client.control.read_to_end()
                await until(lambda: not server.sessions)
                lines = [r.getMessage() for r in caplog.records if "is gone" in r.getMessage()]
                assert len(lines) == 1
                assert f"the media driver in {place} is gone; 1 clients are let go" in lines[0]
                client.close()
                # Who comes now is told to come later.
                early = await Raw.connect(control_of(place))
                await early.login()
                code, text = await _refused(early, "aeron:ipc")
                assert (code, text) == ("unavailable", f"no media driver runs in {place} now")
                early.close()
                with driver_process(place):
                    await until(lambda: listener.rebuilt == 1)
                    client = await joined(place, "trades v:A")
                    server.publish([trade(1)])
                    await client.messages(Template.TRADE)
                    client.close()
                    await until(lambda: not server.sessions)
                    await server.close()


async def test_an_own_driver_takes_the_place_of_a_killed_one_where_it_may(place: Path) -> None:
    with driver_process(place) as child:
        async with Server() as server:
            (listener, *_) = await server.listen_all([aeron(place)])
            assert isinstance(listener, AeronListener)
            child.send_signal(signal.SIGKILL)
            child.wait()
            await until(lambda: listener.rebuilt == 1)
            client = await joined(place, "trades v:A")
            server.publish([trade(1)])
            await client.messages(Template.TRADE)
            client.close()
        assert list(place.parent.iterdir()) == []


async def test_a_closed_client_of_aeron_is_made_anew(place: Path) -> None:
    async with Server() as server:
        (listener, *_) = await server.listen_all([aeron(place)])
        assert isinstance(listener, AeronListener)
        client = await joined(place, "trades v:A")
        assert listener._client is not None
        await asyncio.to_thread(listener._client.client.close)
        await client.control.read_to_end()
        await until(lambda: listener.rebuilt == 1)
        client.close()
        client = await joined(place, "trades v:A")
        client.close()
    assert list(place.parent.iterdir()) == []


async def test_where_no_driver_may_be_used_the_server_does_not_start(place: Path) -> None:
    server = Server()
    with pytest.raises(ServerError, match=r"no media driver runs in .*; start one: python -m cmd_aeron\.driver --dir"):
        await server.listen(aeron(place, "driver=external"))
    assert server.listeners == []
    # Nor does a driver stay where another address cannot be used.
    with pytest.raises(ServerError, match="cannot listen at unix"):
        await server.listen_all([aeron(place), f"unix:{place.parent}/no/such/place"])
    assert list(place.parent.iterdir()) == []
    await server.listen(aeron(place))
    await server.close()
    assert list(place.parent.iterdir()) == []


_CHILD = """
import asyncio, sys
from cmd_server.server import Server
async def main():
    async with Server() as server:
        await server.listen(sys.argv[1])
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_killed_server_starts_again_at_the_same_place_at_once(place: Path) -> None:
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", _CHILD, aeron(place)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert await asyncio.to_thread(child.stdout.readline) == b"ready\n"
            client = await joined(place, "trades v:A")
            child.send_signal(signal.SIGKILL)
            child.wait()
            await client.control.read_to_end()
            client.close()
        assert place.exists()  # nobody has removed it
    async with Server() as server:
        await server.listen(aeron(place))
        client = await joined(place, "trades v:A")
        server.publish([trade(1)])
        await client.messages(Template.TRADE)
        client.close()
    assert list(place.parent.iterdir()) == []
