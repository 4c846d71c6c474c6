"""WebSocket between the real server and real clients: SBE, JSON, tokens, origins, TLS, bounds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from hub_world import delta, same, snapshot, trade
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_common.sequence import BookState
from cmd_server import client as clients
from cmd_server import codec
from cmd_server.client import aio
from cmd_server.errors import ConnectionBrokenError, RefusedError
from cmd_server.framing import Splitter
from cmd_server.limits import Limits
from cmd_server.messages import Heartbeat, Login, Ping, Policy, Subscribe
from cmd_server.server import Server
from cmd_server.transport import Address, LinkOptions, ListenOptions
from cmd_server.websocket import TRANSPORT, Texts
from cmd_server.wsprotocol import ServerPeer

PATIENCE = 30.0


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  conditions of both sides, which no event tells
            await asyncio.sleep(0.002)


def run(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE))


async def read_json(ws: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        text = await asyncio.wait_for(ws.recv(), PATIENCE)
        assert isinstance(text, str)
        message: dict[str, Any] = json.loads(text)
        if message["type"] == kind:
            return message


def test_a_client_reads_records_and_books_in_sbe() -> None:
    async def main() -> None:
        async with Server() as server:
            where = await server.listen("ws:127.0.0.1:0/feed")
            server.publish([snapshot(1), trade(1)])
            async with aio.connect(str(where.address), topics=["book *", "trades *"], policy="drop-oldest") as client:
                book = await client.live("v:A", timeout=PATIENCE)
                for n in range(2, 300):
                    server.publish([delta(n, [(99.0, n)]), trade(n)])
                await until(lambda: same(book, server.hub.books["v:A"]))
                assert book.state is BookState.LIVE
                assert len(server.sessions) == 1

    run(main)


def test_a_blocking_client_reads_too() -> None:
    async def main() -> None:
        async with Server() as server:
            where = await server.listen("ws:127.0.0.1:0")
            got: list[Any] = []
            failed: list[BaseException] = []
            ready, enough = threading.Event(), threading.Event()

            def read() -> None:
                try:
                    with clients.connect(str(where.address), topics=["trades *"], policy="drop-oldest") as client:
                        ready.set()
                        for record in client:
                            got.append(record)
                            if len(got) == 100:
                                break
                except BaseException as error:
                    failed.append(error)
                finally:
                    ready.set()
                    enough.set()

            thread = threading.Thread(target=read)
            thread.start()
            await until(ready.is_set)
            for n in range(1, 101):
                server.publish([trade(n)])
            await until(enough.is_set)
            thread.join()
            assert not failed
            assert [t.trade_seq for t in got if hasattr(t, "trade_seq")][-1] >= 99

    run(main)


def test_a_browser_reads_json() -> None:
    async def main() -> None:
        async with Server() as server:
            where = await server.listen("ws:127.0.0.1:0?origin=https://example.org")
            server.publish([snapshot(1, [(99.0, 2.0)]), trade(1)])
            url = f"ws://{where.address.target}"
            origin: Any = "https://example.org"
            async with ws_connect(url, subprotocols=["cmd.json"], origin=origin) as ws:  # type: ignore[list-item]
                assert ws.subprotocol == "cmd.json"
                assert (await read_json(ws, "hello"))["epoch"] == str(server.hub.epoch)
                await ws.send(json.dumps({"type": "login"}))
                assert (await read_json(ws, "ack"))["request_id"] == 0
                await ws.send(json.dumps({"type": "subscribe", "request_id": 1, "topics": ["book *", "trades *"]}))
                assert (await read_json(ws, "instrument"))["symbol"] == "A"
                assert (await read_json(ws, "book_snapshot"))["bids"] == [[99.0, 2.0]]
                server.publish([trade(2)])
                found = await read_json(ws, "trade")
                assert (found["venue"], found["symbol"], found["trade_id"]) == ("v", "A", "2")
                await ws.send(json.dumps({"type": "subscribe", "request_id": 2, "topics": ["nonsense"]}))
                assert (await read_json(ws, "reject"))["request_id"] == 2
                await ws.send("not json")
                assert (await read_json(ws, "reject"))["code"] == "protocol"
                await ws.send(json.dumps({"type": "ping"}))
                await read_json(ws, "heartbeat")
                await ws.send(b"\x00\x01")
                with pytest.raises(ConnectionClosed) as closed:
                    await read_json(ws, "never")
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1002

    run(main)


def test_the_text_of_a_frame_is_made_once_for_all_and_the_memory_for_it_is_bounded() -> None:
    asked: list[int] = []

    def names(number: int) -> tuple[str, str]:
        asked.append(number)
        return "v", "A"

    texts = Texts(names)
    frames = [codec.encode(trade(n), 3, n) for n in range(20_000)]
    first = texts.of(frames[0])
    assert texts.of(frames[0]) is first
    assert asked == [3]
    for frame in frames:
        texts.of(frame)
    assert len(texts._new) + len(texts._old) <= 2 * 4096
    assert texts.of(frames[0]) == first


def test_long_texts_are_bounded_by_their_bytes() -> None:
    class Long(Texts):
        def _make(self, frame: bytes) -> bytes:
            return bytes(1 << 20)

    texts = Long(lambda _: ("", ""))
    for n in range(100):
        texts.of(codec.encode(trade(n), 3, n))
        assert len(texts._new) + len(texts._old) <= 2 * 17


def test_a_token_is_taken_from_the_header_or_from_login() -> None:
    async def main() -> None:
        async with Server(token="secret") as server:
            where = await server.listen("ws:127.0.0.1:0")
            async with aio.connect(str(where.address), topics=["trades *"], token="secret") as client:
                assert client.core.ready
            with pytest.raises(RefusedError, match="token"):
                async with aio.connect(str(where.address), topics=["trades *"], token="wrong"):
                    pass
            url = f"ws://{where.address.target}/json"
            async with ws_connect(url, additional_headers={"Authorization": "Bearer secret"}) as ws:
                await ws.send(json.dumps({"type": "login"}))
                await read_json(ws, "ack")
            async with ws_connect(url) as ws:
                await ws.send(json.dumps({"type": "login", "token": "secret"}))
                await read_json(ws, "ack")
            async with ws_connect(url, additional_headers={"Authorization": "Bearer wrong"}) as ws:
                await ws.send(json.dumps({"type": "login"}))
                assert (await read_json(ws, "reject"))["code"] == "token"
                with pytest.raises(ConnectionClosed) as closed:
                    await read_json(ws, "never")
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1008

    run(main)


def test_a_page_of_another_origin_is_refused_and_never_reaches_the_server() -> None:
    async def main() -> None:
        async with Server() as server:
            where = await server.listen("ws:127.0.0.1:0")
            origin: Any = "https://evil.example"
            with pytest.raises(InvalidStatus) as refused:
                async with ws_connect(f"ws://{where.address.target}", origin=origin):
                    pass
            assert refused.value.response.status_code == 403
            assert server.accepted == 0

    run(main)


def test_tls_is_offered_and_checked(tmp_path: Path) -> None:
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")

    async def main() -> None:
        async with Server(token="secret") as server:
            where = await server.listen(f"ws:127.0.0.1:0?tls_cert={tmp_path}/cert.pem&tls_key={tmp_path}/key.pem")
            place = where.address.target
            server.publish([snapshot(1)])
            address = f"ws:{place}?tls=1&ca={tmp_path}/ca.pem"
            async with aio.connect(address, topics=["book *"], token="secret") as client:
                await client.live("v:A", timeout=PATIENCE)
            with pytest.raises(CmdError, match="certificate"):
                await TRANSPORT.connect(Address.parse(f"ws:{place}?tls=1"), LinkOptions())

    run(main)


def test_the_server_says_goodbye_by_bye_and_by_a_close_frame() -> None:
    async def main() -> None:
        async with Server() as server:
            where = await server.listen("ws:127.0.0.1:0")
            async with ws_connect(f"ws://{where.address.target}/json") as ws:
                await read_json(ws, "hello")
                closing = asyncio.create_task(server.close())
                assert (await read_json(ws, "bye"))["code"] == "shutdown"
                with pytest.raises(ConnectionClosed) as closed:
                    await read_json(ws, "never")
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1001
                await closing

    run(main)


def test_a_message_that_is_too_long_ends_only_its_own_connection() -> None:
    async def main() -> None:
        async with Server(limits=Limits(max_message=10_000)) as server:
            where = await server.listen("ws:127.0.0.1:0/json")
            url = f"ws://{where.address.target}"
            async with ws_connect(f"{url}/json") as other, ws_connect(f"{url}/json") as ws:
                await read_json(other, "hello")
                await ws.send("x" * 20_000)
                with pytest.raises(ConnectionClosed) as closed:
                    await read_json(ws, "never")
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1009
                await other.send(json.dumps({"type": "login"}))
                await read_json(other, "ack")

    run(main)


def test_a_slow_handshake_is_cut_off() -> None:
    async def main() -> None:
        async with Server(options=ListenOptions(handshake=50_000_000)) as server:
            where = await server.listen("ws:127.0.0.1:0")
            host, port, _ = where.address.host_port()
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: ")
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()
            assert server.accepted == 0

    run(main)


def test_a_reader_that_stops_is_bounded_and_the_others_go_on() -> None:
    async def main() -> None:
        limits = Limits(queue=200, queue_max=200)
        # Without a bound on the system's own buffer it would take all of it on some machines.
        async with Server(limits=limits, options=ListenOptions(send_buffer=32 << 10)) as server:
            where = await server.listen("ws:127.0.0.1:0")
            address = where.address
            slow = await TRANSPORT.connect(address, LinkOptions(receive_buffer=4096))
            await slow.send(codec.encode_request(Login()))
            await slow.send(codec.encode_request(Subscribe(1, ("trades *",), Policy.DROP_OLDEST)))
            async with aio.connect(str(address), topics=["trades *"], policy="drop-oldest") as client:
                await until(lambda: all(s.client.topics for s in server.sessions))
                sent = 60_000
                for n in range(1, sent + 1):
                    server.publish([trade(n)])
                    if n % 50 == 0:
                        await asyncio.sleep(0)
                        for session in server.sessions:
                            assert session.client.pending <= 200 + 64
                            assert session.port.unsent < 2 << 20
                stream = next(s for k, s in server.hub.streams.items() if k.kind == 1)
                await until(lambda: max(client.core._streams[k].seq for k in client.core._streams) == stream.seq)
            assert any(s.client.counters.dropped for s in server.sessions)
            await slow.close()

    run(main)


def test_a_link_hands_on_every_byte_whatever_the_buffer() -> None:
    async def main() -> None:
        async with Server() as server:
            where = await server.listen("ws:127.0.0.1:0")
            link = await TRANSPORT.connect(where.address, LinkOptions())
            await link.send(codec.encode_request(Login()) + codec.encode_request(Ping(5)))
            splitter = Splitter()
            buffer = bytearray(7)
            seen: list[Any] = []
            while not any(isinstance(m, Heartbeat) for m in seen):
                # A cancelled call loses nothing.
                waiting = asyncio.ensure_future(link.receive_into(memoryview(buffer)))
                await asyncio.sleep(0)
                if not waiting.done():
                    await asyncio.wait([waiting], timeout=PATIENCE)
                size = waiting.result()
                seen += [codec.decode_service(f) for f in splitter.feed(bytes(buffer[:size]))]
            assert [type(m).__name__ for m in seen] == ["Hello", "Ack", "Heartbeat"]
            await server.close()
            rest = bytearray(4096)
            size = await link.receive_into(memoryview(rest))
            assert [type(codec.decode_service(f)).__name__ for f in splitter.feed(bytes(rest[:size]))] == ["Bye"]
            assert await link.receive_into(memoryview(rest)) == 0
            await link.close()

    run(main)


def test_a_connection_that_dies_is_told_from_one_that_is_closed() -> None:
    async def main() -> None:
        async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ws = ServerPeer()
            while not ws.accepted:
                ws.receive(await reader.read(1000))
            for data in ws.outgoing():
                writer.write(data)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(die, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = await TRANSPORT.connect(Address.parse(f"ws:127.0.0.1:{port}"), LinkOptions())
        with pytest.raises(ConnectionBrokenError):
            await link.receive_into(memoryview(bytearray(100)))
        await link.close()
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ws:127.0.0.1:0?orgin=*", UnknownNameError),
        ("ws:127.0.0.1:0?tls=1", UsageError),
        ("ws:127.0.0.1:0?origin=example.org", UsageError),
        ("ws:127.0.0.1", UsageError),
        ("ws:127.0.0.1:0/a%20b", UsageError),
    ],
)
def test_addresses_that_cannot_be_served_are_refused_in_one_line(text: str, error: type[CmdError]) -> None:
    async def main() -> None:
        async with Server() as server:
            with pytest.raises(error) as refused:
                await server.listen(text)
            assert "\n" not in str(refused.value)

    run(main)


def test_others_reach_it_only_with_a_token() -> None:
    async def main() -> None:
        async with Server() as server:
            with pytest.raises(UsageError, match="token"):
                await server.listen("ws:0.0.0.0:0")

    run(main)
