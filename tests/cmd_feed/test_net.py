"""Both WebSocket implementations against real servers: one table of tests."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import sys
from typing import Any

import pytest

from cmd_common.errors import BlockedError, DisconnectedError, UsageError, VenueError
from cmd_common.http import HttpRequest
from cmd_feed.net import MAX_MESSAGE, HandshakeError, SystemNet, event_loop_factory, fast_available, proxy_for


@pytest.fixture(params=["websockets", "picows"])
async def net(request: pytest.FixtureRequest) -> Any:
    if request.param == "picows":
        pytest.importorskip("picows")
    net = SystemNet(fast=request.param == "picows", timeout=5)
    yield net
    await net.close()


async def test_text_binary_fragments_and_order(net: SystemNet, server: Any) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        await connection.send("one ä")
        await connection.send(b"\x00\xff")
        await connection.send(["frag", "ment", "ed ö"])
        await connection.send([b"\x01", b"\x02"])
        for n in range(3000):
            await connection.send(str(n))
        await connection.wait_closed()

    server.script = script
    ws = await net.connect(server.ws)
    assert await ws.receive() == "one ä"
    assert await ws.receive() == b"\x00\xff"
    assert await ws.receive() == "fragmented ö"
    assert await ws.receive() == b"\x01\x02"
    assert [await ws.receive() for _ in range(3000)] == [str(n) for n in range(3000)]
    await ws.send("up ü")
    await server.wait_received(1)
    assert server.received[0][1] == "up ü"
    await ws.close()
    assert ws.close_code == 1000


async def test_all_frames_that_are_there_come_at_once_and_the_end_after_them(net: SystemNet, server: Any) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        for n in range(500):
            await connection.send(str(n))
        await connection.send(["frag", "ment"])
        await connection.close(4000, "end")

    server.script = script
    ws = await net.connect(server.ws)
    got: list[str | bytes] = [await ws.receive()]
    while len(got) < 501:
        frames = await ws.receive_all()
        assert frames
        got += frames
    assert got == [*(str(n) for n in range(500)), "fragment"]
    with pytest.raises(DisconnectedError, match="by the server with code 4000"):
        await ws.receive_all()
    await ws.close()


async def test_a_huge_message_comes_whole(net: SystemNet, server: Any) -> None:
    text = "x" * (20 * 1024 * 1024)

    async def script(_: Any, connection: Any, __: int) -> None:
        await connection.send(text)
        await connection.send("after")
        await connection.wait_closed()

    server.script = script
    ws = await net.connect(server.ws)
    assert await ws.receive() == text
    assert await ws.receive() == "after"
    await ws.close()


async def test_a_message_beyond_the_bound_closes_the_connection(net: SystemNet, server: Any) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        part = b"x" * (MAX_MESSAGE // 8 + 1)
        try:
            await connection.send(iter([part] * 8))
        except Exception:  # the client has gone, as it should
            return

    server.script = script
    ws = await net.connect(server.ws)
    with pytest.raises(DisconnectedError, match="1009"):
        await ws.receive()
    assert ws.close_code == 1009
    await ws.close()


@pytest.mark.parametrize(("code", "reason"), [(4000, "end"), (1000, ""), (1001, "bye"), (3999, "x")])
async def test_the_close_code_is_told_after_everything_was_read(
    net: SystemNet, server: Any, code: int, reason: str
) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        for n in range(10):
            await connection.send(str(n))
        await connection.close(code, reason)

    server.script = script
    ws = await net.connect(server.ws)
    assert [await ws.receive() for _ in range(10)] == [str(n) for n in range(10)]
    with pytest.raises(DisconnectedError, match=f"by the server with code {code}"):
        await ws.receive()
    assert ws.close_code == code
    with pytest.raises(DisconnectedError):
        await ws.send("too late")
    await ws.close()


async def test_a_connection_that_breaks_is_1006(net: SystemNet, server: Any) -> None:
    async def script(_: Any, connection: Any, __: int) -> None:
        await connection.send("0")
        await (await connection.ping())  # answered: the frame before it has arrived
        connection.transport.abort()

    server.script = script
    ws = await net.connect(server.ws)
    assert await ws.receive() == "0"
    with pytest.raises(DisconnectedError, match="1006"):
        await ws.receive()
    assert ws.close_code == 1006
    await ws.close()


async def test_pings_are_answered_with_their_payload(net: SystemNet, server: Any) -> None:
    answered = asyncio.Event()

    async def script(_: Any, connection: Any, __: int) -> None:
        waiter = await connection.ping(b"payload")
        await waiter
        answered.set()
        await connection.wait_closed()

    server.script = script
    ws = await net.connect(server.ws)
    await asyncio.wait_for(answered.wait(), 10)
    await ws.close()


async def test_a_reader_that_does_not_read_slows_the_server_down(net: SystemNet, server: Any) -> None:
    sent = 0

    async def script(_: Any, connection: Any, __: int) -> None:
        nonlocal sent
        for _n in range(100_000):
            await connection.send("y" * 1000)
            sent += 1
        await connection.wait_closed()

    server.script = script
    ws = await net.connect(server.ws)
    before = -1
    while sent != before:  # until nothing moves any more
        before = sent
        await asyncio.sleep(0.3)
    assert 0 < sent < 100_000
    got = 0
    while got < 100_000:
        await ws.receive()
        got += 1
    assert sent == 100_000
    await ws.close()


@pytest.mark.parametrize("status", [403, 451])
async def test_a_blocked_address_is_told_in_clear_words(net: SystemNet, server: Any, status: int) -> None:
    server.refuse = lambda n: (status, {}, b"no")
    with pytest.raises(BlockedError, match=f"refuses this address.*{status}.*use a network"):
        await net.connect(server.ws + "?secret=1")


async def test_a_refused_handshake_carries_the_response(net: SystemNet, server: Any) -> None:
    server.refuse = lambda n: (429, {"Retry-After": "7"}, b"slow down")
    with pytest.raises(HandshakeError) as caught:
        await net.connect(server.ws)
    assert caught.value.response.status == 429
    assert caught.value.response.header("Retry-After") == "7"


async def test_nobody_listens(net: SystemNet) -> None:
    with pytest.raises(DisconnectedError, match=r"cannot connect to ws://127\.0\.0\.1:1/ws:"):
        await net.connect("ws://127.0.0.1:1/ws?a=b")
    with pytest.raises(DisconnectedError, match=r"no answer from http://127\.0\.0\.1:1/x:"):
        await net.request(HttpRequest("http://127.0.0.1:1/x?key=secret"))


async def test_a_server_that_does_not_speak_websocket(net: SystemNet) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"SSH-2.0-hello\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DisconnectedError):
        await net.connect(f"ws://127.0.0.1:{port}/")
    server.close()
    await server.wait_closed()


# ---- HTTP


async def test_requests_bodies_headers_and_statuses(server: Any) -> None:
    server.rest = lambda path, n: (418, {"Retry-After": "3", "X-Mbx-Used-Weight-1m": "17"}, b'{"msg":"ban"}')
    net = SystemNet()
    response = await net.request(HttpRequest(f"{server.http}/depth?symbol=A"))
    assert response.status == 418
    assert response.body == b'{"msg":"ban"}'
    assert response.header("x-mbx-used-weight-1m") == "17"
    assert server.requests == ["/depth?symbol=A"]
    await net.close()


async def test_a_stream_gives_the_bytes_as_sent_and_errors_by_status(server: Any) -> None:
    packed = gzip.compress(b"a,b\n" * 1000)
    server.rest = lambda path, n: (
        (200, {"Content-Encoding": "gzip"}, packed) if path == "/file.gz" else (404, {}, b"none")
    )
    net = SystemNet()
    got = b"".join([chunk async for chunk in net.stream(HttpRequest(f"{server.http}/file.gz"))])
    assert got == packed
    with pytest.raises(VenueError, match="HTTP 404") as caught:
        _ = [chunk async for chunk in net.stream(HttpRequest(f"{server.http}/absent"))]
    assert caught.value.status == 404
    await net.close()


async def test_a_body_that_breaks_off_is_a_lost_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    net = SystemNet()
    with pytest.raises(DisconnectedError):
        await net.request(HttpRequest(url))
    with pytest.raises(DisconnectedError):
        _ = [chunk async for chunk in net.stream(HttpRequest(url))]
    await net.close()
    server.close()
    await server.wait_closed()


def test_loopback_never_goes_through_a_proxy_and_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "internal.example")
    assert proxy_for("wss://stream.example/ws") == "http://proxy.example:3128"
    assert proxy_for("https://api.example/x") == "http://proxy.example:3128"
    assert proxy_for("ws://stream.example/ws") is None
    assert proxy_for("https://internal.example/") is None
    assert proxy_for("wss://stream.example/ws", "http://mine:1") == "http://mine:1"
    for host in ("127.0.0.1:8080", "localhost:1", "[::1]:5"):
        assert proxy_for(f"ws://{host}/", "http://mine:1") is None


def test_a_proxy_that_is_no_url_is_refused() -> None:
    with pytest.raises(UsageError, match="proxy 'localhost' is not a URL"):
        SystemNet(proxy="localhost")


async def test_requests_go_through_the_proxy() -> None:
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    net = SystemNet(proxy=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    response = await net.request(HttpRequest("http://exchange.invalid/time"))
    assert response.body == b"ok"
    assert seen == [b"GET http://exchange.invalid/time HTTP/1.1"]
    await net.close()
    server.close()
    await server.wait_closed()


def test_fast_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMD_FAST", "0")
    assert not fast_available()
    assert event_loop_factory() is None
    assert not SystemNet().fast
    monkeypatch.delenv("CMD_FAST")
    pytest.importorskip("picows")
    assert fast_available()


def test_importing_the_package_loads_no_network_library() -> None:
    code = (
        "import sys, cmd_feed.net, cmd_feed.record, cmd_feed.session;"
        "print([m for m in ('httpx2', 'websockets', 'picows', 'uvloop', 'zstandard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_tls_is_verified(server: Any) -> None:
    net = SystemNet()
    assert net._context().verify_mode == ssl.CERT_REQUIRED
    with pytest.raises(DisconnectedError):
        await net.request(HttpRequest(f"https://127.0.0.1:{server.port}/"))
    with pytest.raises(DisconnectedError):
        await net.connect(f"wss://127.0.0.1:{server.port}/")
    await net.close()
