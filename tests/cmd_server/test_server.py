"""The server end to end: bare sockets against the real hub, over every stream transport and both loops."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from raw_client import LOOPS, Raw, big_book, run, trade, until

from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_server import codec
from cmd_server.limits import Limits
from cmd_server.messages import Login, Ping, Policy, Subscribe, Template, Unsubscribe
from cmd_server.server import Server
from cmd_server.transport import ListenOptions

SECOND = 1_000_000_000


def places(tmp_path: Path) -> list[str]:
    return ["tcp:127.0.0.1:0", f"unix:{tmp_path}/s.sock", f"unix:@cmd-test-{os.getpid()}"]


@pytest.mark.parametrize("loop", LOOPS)
def test_every_message_arrives_in_order_over_every_stream_transport(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with Server() as server:
            listeners = await server.listen_all(places(tmp_path))
            clients = [await Raw.connect(listener.address) for listener in listeners for _ in range(3)]
            for client in clients:
                await client.login("trades v:A", policy=Policy.DISCONNECT)
                ack = await client.messages(Template.ACK, 2)
                assert len(ack) == 2
            for n in range(500):
                server.publish([trade(4 * n + i) for i in range(4)])
                if not n % 50:
                    await asyncio.sleep(0)
            for client in clients:
                got = await client.messages(Template.TRADE, 2_000)
                assert [codec.head(f).seq for f in got] == [*range(1, 2_001)]
                assert got == clients[0].of(Template.TRADE)
            assert codec.decode(clients[0].of(Template.TRADE)[7], "v", "A") == trade(7)
            assert len(server.sessions) == 9
            for client in clients:
                client.close()
            await until(lambda: not server.sessions)
            server.hub.check()
            assert not server.hub.clients

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_tiny_socket_buffer_takes_in_pieces_arrives_whole(loop: str) -> None:
    async def main() -> None:
        async with Server(options=ListenOptions(send_buffer=1, low_water=4_096)) as server:
            listener = await server.listen("tcp:127.0.0.1:0")
            client = await Raw.connect(listener.address, receive_buffer=4_096)
            await client.login("book v:B", "trades v:A", policy=Policy.DROP_OLDEST, queue=100_000)
            await client.messages(Template.ACK, 2)
            for n in range(30):
                server.publish([big_book(n), *(trade(10 * n + i) for i in range(10))])
            session = next(iter(server.sessions))
            assert session.port.unsent
            assert not session.port.writable
            trades = await client.messages(Template.TRADE, 300)
            books = client.of(Template.BOOK_SNAPSHOT)
            assert [codec.head(f).seq for f in trades] == [*range(1, 301)]
            assert [codec.decode(f, "v", "B") for f in books] == [big_book(n) for n in range(30)]
            client.close()

    run(loop, main())


class FakePort:
    """A port that notes what is sent together."""

    form = "sbe"
    unsent = 0

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session: Any = None
        self.peer = "fake"
        self.writable = True
        self.sent: list[list[bytes]] = []
        self.closed: tuple[str, str] | None = None

    def send(self, frames: Sequence[bytes]) -> None:
        self.sent.append(list(frames))

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self, code: str = "", text: str = "") -> None:
        self.closed = code, text
        self.abort()

    def abort(self) -> None:
        self.writable = False
        self.server.closed(self.session)


def joined(server: Server, *topics: str, **options: Any) -> tuple[Any, FakePort]:
    port = FakePort(server)
    session = port.session = server.opened(port)
    server.request(session, Login())
    server.request(session, Subscribe(1, topics, **options))
    return session, port


async def test_the_first_message_goes_at_once_and_the_rest_of_a_turn_together() -> None:
    async with Server() as server:
        _, port = joined(server, "trades *")
        server.publish([trade(0)])  # the instrument comes along
        await asyncio.sleep(0.01)
        port.sent.clear()
        server.publish([trade(1)])
        assert [len(s) for s in port.sent] == [1]  # before publish returns
        for n in range(5):
            server.publish([trade(2 + n)])
        assert len(port.sent) == 1
        await asyncio.sleep(0.01)
        assert [len(s) for s in port.sent] == [1, 5]
        server.publish([trade(8), trade(9)])
        assert [len(s) for s in port.sent] == [1, 5, 2]


async def test_nothing_is_taken_for_a_port_that_is_not_writable() -> None:
    async with Server() as server:
        session, port = joined(server, "trades *", policy=Policy.DROP_OLDEST, queue=10)
        await asyncio.sleep(0.01)
        port.sent.clear()
        port.writable = False
        for n in range(50):
            server.publish([trade(n)])
        await asyncio.sleep(0.01)
        assert port.sent == []
        assert len(session.client.queue) <= 10
        port.writable = True
        server.writable(session)
        frames = [f for s in port.sent for f in s]
        assert [codec.head(f).seq for f in frames if codec.head(f).template == Template.TRADE][-1] == 50
        assert Template.STREAM_GAP in [codec.head(f).template for f in frames]


async def test_close_says_goodbye_behind_everything_that_waited(tmp_path: Path) -> None:
    server = Server()
    listeners = await server.listen_all(places(tmp_path))
    clients = [await Raw.connect(listener.address) for listener in listeners]
    for client in clients:
        await client.login("trades *", policy=Policy.DROP_OLDEST)
        await client.messages(Template.ACK, 2)
    server.publish([trade(n) for n in range(1_000)])
    closing = asyncio.create_task(server.close(drain=30))
    for client in clients:
        await client.read_to_end()
        assert len(client.of(Template.TRADE)) == 1_000
        bye = client.services[-1]
        assert client.templates[-1] == Template.BYE
        assert bye.code == "shutdown"  # type: ignore[union-attr]
        client.close()
    await closing
    assert not server.sessions
    assert not server.hub.clients
    assert not (tmp_path / "s.sock").exists()
    with pytest.raises(OSError):
        await Raw.connect(listeners[0].address)
    with pytest.raises(UsageError, match="was closed"):
        await server.listen("tcp:127.0.0.1:0")


async def test_close_does_not_wait_for_those_who_never_read() -> None:
    server = Server(options=ListenOptions(send_buffer=1))
    listener = await server.listen("tcp:127.0.0.1:0")
    client = await Raw.connect(listener.address, receive_buffer=4_096)
    await client.login("book *", policy=Policy.DROP_OLDEST)
    await client.messages(Template.ACK, 2)
    server.publish([big_book(n, levels=60_000) for n in range(8)])
    await server.close(drain=0.1)
    assert not server.sessions
    client.close()


async def test_a_server_that_others_can_reach_needs_a_token_and_binds_nothing_without() -> None:
    async with Server() as server:
        with pytest.raises(UsageError) as caught:
            await server.listen_all(["tcp:127.0.0.1:0", "tcp:0.0.0.0:0"])
        assert "tcp:0.0.0.0:0 can be reached from other machines" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not server.listeners
    async with Server(token="secret") as server:
        assert len(await server.listen_all(["tcp:127.0.0.1:0", "tcp:0.0.0.0:0"])) == 2


async def test_where_one_address_cannot_be_used_none_is(tmp_path: Path) -> None:
    async with Server() as server:
        taken = await server.listen("tcp:127.0.0.1:0")
        with pytest.raises(CmdError, match=r"cannot listen at tcp:127.0.0.1:.*in use; stop the other program"):
            await server.listen_all([f"unix:{tmp_path}/a.sock", str(taken.address)])
        assert not (tmp_path / "a.sock").exists()
        assert server.listeners == [taken]
        with pytest.raises(UnknownNameError, match="unknown transport 'tpc'; did you mean tcp"):
            await server.listen("tpc:127.0.0.1:0")
        with pytest.raises(UnknownNameError, match="unknown option of tcp addresses 'tls_crt'; did you mean tls_cert"):
            await server.listen("tcp:127.0.0.1:0?tls_crt=x")
        with pytest.raises(UsageError, match="option for the client's side"):
            await server.listen("tcp:127.0.0.1:0?tls=1")


@pytest.mark.parametrize(("token", "accepted"), [("right", True), ("wrong", False), ("", False), ("rightx", False)])
async def test_tokens(token: str, accepted: bool) -> None:
    async with Server(token="right") as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        client = await Raw.connect(listener.address)
        assert (await client.service(Template.HELLO)).token
        await client.login("trades *", token=token)
        if accepted:
            await client.messages(Template.ACK, 2)
        else:
            await client.read_to_end()
            assert [getattr(s, "code", "") for s in client.services] == ["", "token", "token"]
        client.close()
        await until(lambda: not server.sessions)


async def test_a_token_that_the_handshake_showed_counts() -> None:
    async with Server(token="right") as server:
        for shown, ok in (("right", True), ("wrong", False)):
            port = FakePort(server)
            port.session = server.opened(port, token=shown)
            server.request(port.session, Login())
            assert port.session.client.logged_in is ok
        port = FakePort(server)
        port.session = server.opened(port, trusted=True)
        server.request(port.session, Login())
        assert port.session.client.logged_in


async def test_one_client_too_many_is_told_so_and_the_others_stay() -> None:
    async with Server(limits=Limits(clients=2)) as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        clients = [await Raw.connect(listener.address) for _ in range(2)]
        for client in clients:
            await client.login("trades *")
            await client.messages(Template.ACK, 2)
        third = await Raw.connect(listener.address)
        await third.read_to_end()
        third.close()
        assert third.services[-1].code == "limit"  # type: ignore[union-attr]
        server.publish([trade(0)])
        for client in clients:
            await client.messages(Template.TRADE)
        clients[0].close()
        await until(lambda: len(server.sessions) == 1)
        fourth = await Raw.connect(listener.address)
        await fourth.login()
        await fourth.messages(Template.ACK)
        for raw in (fourth, clients[1]):
            raw.close()


async def test_strangers_make_room_for_newer_connections() -> None:
    async with Server(limits=Limits(clients=3)) as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        strangers = [await Raw.connect(listener.address) for _ in range(3)]
        for stranger in strangers:
            await stranger.messages(Template.HELLO)
        friend = await Raw.connect(listener.address)
        await friend.login("trades *")
        await friend.messages(Template.ACK, 2)
        await strangers[0].read_to_end()  # the oldest
        assert strangers[0].ended
        assert len(server.hub.clients) == 3
        for raw in (*strangers, friend):
            raw.close()


async def test_requests_are_limited_by_rate() -> None:
    async with Server(requests=10) as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        client = await Raw.connect(listener.address)
        await client.login()
        await client.send(*[codec.encode_request(Ping(n)) for n in range(200)])
        await client.read_to_end()
        assert client.services[-1].code == "limit"  # type: ignore[union-attr]
        assert "10 requests a second" in client.services[-1].text  # type: ignore[union-attr]
        client.close()


async def test_wildcards_over_many_instruments_count_as_many_requests() -> None:
    """Matching them takes time that the others wait: a thousand patterns over all instruments are not even begun."""
    async with Server() as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        server.publish([replace(trade(1), symbol=f"S{n}") for n in range(2_000)])
        modest, greedy, patient = [await Raw.connect(listener.address) for _ in range(3)]
        await modest.login("trades *", "quotes v:S1*", "book S5")
        await modest.messages(Template.ACK, 2)
        await greedy.login(*(f"trades *{n}*" for n in range(1_000)))
        await greedy.read_to_end()
        assert greedy.services[-1].code == "limit"  # type: ignore[union-attr]
        assert "wildcards" in greedy.services[-1].text  # type: ignore[union-attr]
        await patient.login(*(f"trades v:S{n}" for n in range(1_000)))  # names without a wildcard are looked up
        await patient.messages(Template.ACK, 2)
        # Giving up one topic matches what is left again.
        again = codec.encode_request(Subscribe(2, ("trades v:*", *(f"trades v:*{n}*" for n in range(90)))))
        await modest.send(again, *[codec.encode_request(Unsubscribe(n, (f"trades v:*{n}*",))) for n in range(90)])
        await modest.read_to_end()
        assert modest.services[-1].code == "limit"  # type: ignore[union-attr]
        for raw in (modest, greedy, patient):
            raw.close()


class JumpingClock:
    """Wall time jumps; monotonic time goes on."""

    def __init__(self) -> None:
        self.jump = 0
        self.time = 1_700_000_000 * SECOND

    def now(self) -> int:
        return self.time + self.jump

    def monotonic(self) -> int:
        return self.time

    async def sleep(self, ns: int) -> None:
        await asyncio.sleep(0.01)


async def test_who_never_logs_in_or_never_pings_is_let_go_and_who_pings_stays() -> None:
    clock = JumpingClock()
    async with Server(clock=clock, limits=Limits(login=10 * SECOND, idle=60 * SECOND)) as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        stranger, silent, lively = [await Raw.connect(listener.address) for _ in range(3)]
        for raw in (silent, lively):
            await raw.login("trades *")
            await raw.messages(Template.ACK, 2)
        await stranger.messages(Template.HELLO)
        clock.time += 10 * SECOND
        await stranger.read_to_end()
        stranger.close()
        assert stranger.services[-1].code == "idle"  # type: ignore[union-attr]
        assert "no login within 10 s" in stranger.services[-1].text  # type: ignore[union-attr]
        for n in range(6):
            beats = len(lively.of(Template.HEARTBEAT))
            await lively.send(codec.encode_request(Ping(n)))
            await lively.messages(Template.HEARTBEAT, beats + 1)
            clock.time += 10 * SECOND
        await silent.read_to_end()
        silent.close()
        assert "nothing was heard for 60 s" in silent.services[-1].text  # type: ignore[union-attr]
        assert silent.of(Template.HEARTBEAT)
        await until(lambda: len(server.sessions) == 1)
        server.publish([trade(0)])
        await lively.messages(Template.TRADE)
        lively.close()


async def test_a_jump_of_the_wall_clock_lets_nobody_go() -> None:
    clock = JumpingClock()
    async with Server(clock=clock) as server:
        session, port = joined(server, "trades *")
        for jump in (86_400 * SECOND, -86_400 * SECOND):
            clock.jump += jump
            clock.time += SECOND // 10
            server.tick()
        assert not session.client.closing
        clock.time += 3_600 * SECOND
        server.tick()
        assert session.client.closing
        assert port.closed is not None
        assert port.closed[0] == "idle"


async def test_a_defect_found_by_one_client_is_not_anothers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Server() as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        good, unlucky = [await Raw.connect(listener.address) for _ in range(2)]
        await good.login("trades *")
        await good.messages(Template.ACK, 2)
        with monkeypatch.context() as patch:
            patch.setattr(server.hub, "handle", lambda *_: 1 / 0)
            await unlucky.login()
            await unlucky.read_to_end()
        await until(lambda: len(server.sessions) == 1)
        server.publish([trade(0)])
        await good.messages(Template.TRADE)
        assert "could not be handled" in caplog.text
        good.close()
        unlucky.close()


def test_a_port_says_who_is_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with Server() as server:
            listeners = await server.listen_all(places(tmp_path))
            clients = [await Raw.connect(listener.address) for listener in listeners]
            await until(lambda: len(server.sessions) == 3)
            peers = [session.port.peer for session in server.sessions]
            port = clients[0].sock.getsockname()[1]
            assert peers[0] == f"127.0.0.1:{port}"
            assert f"pid {os.getpid()} uid {os.getuid()}" in peers[1]
            for client in clients:
                client.close()

    run("asyncio", main())


async def test_a_half_closed_client_is_gone() -> None:
    async with Server() as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        client = await Raw.connect(listener.address)
        await client.login("trades *")
        await client.messages(Template.ACK, 2)
        client.sock.shutdown(socket.SHUT_WR)
        await until(lambda: not server.sessions)
        client.close()


async def test_a_defect_in_what_one_client_is_sent_is_not_anothers(caplog: pytest.LogCaptureFixture) -> None:
    async with Server() as server:
        ports = [joined(server, "trades *")[1] for _ in range(3)]
        await asyncio.sleep(0.01)
        ports[0].send = ports[1].send = lambda frames: 1 / 0  # type: ignore[assignment,method-assign,return-value]
        server.publish([trade(0)])
        await asyncio.sleep(0.01)
        assert Template.TRADE in [codec.head(f).template for f in ports[2].sent[-1]]
        assert len(server.sessions) == 1
        assert "could not be sent" in caplog.text
        server.hub.check()
