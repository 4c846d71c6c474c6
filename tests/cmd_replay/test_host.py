"""The host over real loopback sockets, with a real WebSocket client and a real HTTP client."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import socket
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from cmd_common.emulation import Accept, Emulator, MarketSource, Poll, Text
from cmd_common.errors import CmdError
from cmd_common.faults import parse_fault
from cmd_common.recording import read
from cmd_common.registry import exchange
from cmd_replay.host import Host

SECOND = 1_000_000_000


def emulator(venue: str = "binance-spot", *faults: str, **options: Any) -> Emulator:
    if "recordings" not in options:
        options = {"simulate": True, "symbols": 1, "duration": 20 * SECOND, **options}
    made = tuple(parse_fault(f) for f in faults)
    return exchange(venue).emulator(MarketSource(venue, **{"speed": 0.0, "faults": made, **options}))


def http() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(trust_env=False)


def ws(host: Host, target: str) -> connect:
    return connect(host.endpoint.replace("http", "ws", 1) + target, compression=None, proxy=None, max_size=8 << 20)


async def drain(client: ClientConnection) -> tuple[list[str], int | None]:
    """Read until the connection closes; returns the frames and the close code."""
    frames: list[str] = []
    try:
        while True:
            frames.append(str(await client.recv()))
    except websockets.ConnectionClosed as closed:
        return frames, closed.rcvd.code if closed.rcvd else None


async def test_websocket_and_http_share_a_port_and_the_end_is_4000() -> None:
    async with Host(emulator(), "127.0.0.1", 0) as host, http() as client:
        assert (await client.get(f"{host.endpoint}/api/v3/ping")).json() == {}
        async with ws(host, "/stream") as socket_:
            await socket_.send('{"method":"SUBSCRIBE","params":["btcusdt@trade","btcusdt@depth@100ms"],"id":7}')
            assert json.loads(await socket_.recv()) == {"result": None, "id": 7}
            depth = await client.get(f"{host.endpoint}/api/v3/depth?symbol=BTCUSDT&limit=5000")
            assert depth.headers["x-mbx-used-weight-1m"] == "251"
            frames, code = await drain(socket_)
        assert code == 4000
        await asyncio.wait_for(host.done.wait(), 10)
        truth = (await client.get(f"{host.endpoint}/__replay/truth?depth=5")).json()
        assert truth["finished"]
        assert sum(truth["sent"].values()) == len(frames) == host.frames - 1
        trades = [json.loads(f)["data"] for f in frames if "@trade" in f]
        assert [t["t"] for t in trades] == list(
            range(truth["trades"]["BTCUSDT"]["first_id"], truth["trades"]["BTCUSDT"]["last_id"] + 1)
        )
        last = [json.loads(f)["data"] for f in frames if "@depth" in f][-1]
        assert last["u"] == truth["books"]["BTCUSDT"]["last_id"]
        assert len(truth["books"]["BTCUSDT"]["bids"]) == 5


async def test_a_recording_arrives_verbatim_and_a_depth_request_is_held(recordings: Path) -> None:
    path = recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson"
    async with Host(emulator(recordings=(str(path),)), "127.0.0.1", 0) as host, http() as client:
        async with ws(host, "/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker/btcusdt@trade") as socket_:
            held = asyncio.create_task(client.get(f"{host.endpoint}/api/v3/depth?symbol=BTCUSDT&limit=1000"))
            frames, code = await drain(socket_)
            assert (await held).json()["lastUpdateId"] == 50093239224
        assert frames == [line.text for line in read(path) if line.src == "ws"]
        assert code == 4000


class Counting:
    """An emulator that numbers its frames as it makes them."""

    venue = "counting"

    def __init__(self) -> None:
        self.made = 0
        self.open = False

    def _text(self, kind: str) -> Text:
        self.made += 1
        return Text(1, f"{self.made} {kind} " + "x" * 300_000)

    def ws_open(self, connection: int, target: str, headers: Any, now: int) -> Accept:
        self.open = True
        return Accept()

    def ws_receive(self, connection: int, text: str, now: int) -> list[Text]:
        return [self._text("reply")]

    def ws_closed(self, connection: int, now: int) -> None:
        pass

    def poll(self, now: int, limit: int = 256) -> Poll:
        return Poll(
            [self._text("frame") for _ in range(20)] if self.open and self.made < 60 else [],
            next_time=now + SECOND // 100,
        )


async def test_a_reply_does_not_overtake_frames_that_were_made_before_it() -> None:
    async with Host(Counting(), "127.0.0.1", 0) as host, ws(host, "/") as client:  # type: ignore[arg-type]
        got = [str(await client.recv()).split()[:2]]
        await client.send("?")  # while frames pile up that nobody reads
        await asyncio.sleep(0.1)
        got += [str(await client.recv()).split()[:2] for _ in range(60)]
    assert [int(number) for number, _ in got] == list(range(1, 62))
    assert [kind for _, kind in got].count("reply") == 1


async def test_usdm_needs_two_connections_on_one_timeline(recordings: Path) -> None:
    async with Host(emulator("binance-usdm"), "127.0.0.1", 0) as host:
        async with ws(host, "/public/ws/btcusdt@trade") as public, ws(host, "/market/ws/btcusdt@aggTrade") as market:
            (trades, a), (aggs, b) = await asyncio.gather(drain(public), drain(market))
        assert (a, b) == (4000, 4000)
        covered = [i for agg in map(json.loads, aggs) for i in range(agg["f"], agg["l"] + 1)]
        assert covered == [json.loads(t)["t"] for t in trades]


async def test_bulk_files_and_resumed_downloads() -> None:
    async with Host(emulator(), "127.0.0.1", 0) as host, http() as client:
        url = f"{host.endpoint}/data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2025-06-01.zip"
        whole = await client.get(url)
        checksum = (await client.get(url + ".CHECKSUM")).text
        assert checksum.split("  ")[0] == hashlib.sha256(whole.content).hexdigest()
        with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
            assert archive.testzip() is None
        rest = await client.get(url, headers={"Range": "bytes=1000-"})
        assert (rest.status_code, rest.content) == (206, whole.content[1000:])
        listing = await client.get(f"{host.endpoint}/?prefix=data/spot/daily/trades/&delimiter=/")
        assert "<Prefix>data/spot/daily/trades/BTCUSDT/</Prefix>" in listing.text
        assert (await client.get(f"{host.endpoint}/nothing")).status_code == 404


async def test_refused_handshakes_carry_the_status() -> None:
    async with Host(emulator("binance-usdm"), "127.0.0.1", 0) as host:
        with pytest.raises(websockets.InvalidStatus) as caught:
            await ws(host, "/ws/btcusdt@trade")
        assert caught.value.response.status_code == 404


async def test_a_disconnect_fault_has_no_close_frame_and_the_rest_comes_after_reconnecting() -> None:
    async with Host(emulator("binance-spot", "disconnect:at=10,ms=1"), "127.0.0.1", 0) as host:
        async with ws(host, "/ws/btcusdt@trade") as first:
            before, code = await drain(first)
        assert code is None
        async with ws(host, "/ws/btcusdt@trade") as second:
            after, code = await drain(second)
        assert code == 4000
        ids = [json.loads(t)["t"] for t in before + after]
        lost = [f["t"] for f in emulator_truth(host)["faults"] if f["kind"] == "lost"]
        assert len(before) == 9
        assert sorted(ids + lost) == list(range(ids[0], ids[-1] + 1))


def emulator_truth(host: Host) -> dict[str, Any]:
    return host._emulator.truth()


async def test_too_many_messages_close_with_1008() -> None:
    async with Host(emulator(), "127.0.0.1", 0) as host, ws(host, "/ws") as socket_:
        for _ in range(6):
            await socket_.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        frames, code = await drain(socket_)
        assert (len(frames), code) == (5, 1008)


async def test_a_client_that_comes_after_the_end_is_told_so() -> None:
    async with Host(emulator(duration=SECOND), "127.0.0.1", 0) as host:
        async with ws(host, "/ws/btcusdt@trade") as first:
            await drain(first)
        async with ws(host, "/ws") as late:
            await late.send('{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}')
            frames, code = await drain(late)
        assert (len(frames), code) == (1, 4000)


async def test_a_slow_reader_gets_everything_and_nothing_piles_up() -> None:
    async with Host(emulator(duration=60 * SECOND), "127.0.0.1", 0) as host:
        async with ws(host, "/ws/btcusdt@trade/btcusdt@depth@100ms/btcusdt@bookTicker") as socket_:
            frames = [str(await socket_.recv())]
            for _ in range(20):
                await asyncio.sleep(0)
            rest, code = await drain(socket_)
        assert code == 4000
        assert len(frames) + len(rest) == host.frames


async def test_the_host_stops_while_clients_are_connected_and_requests_are_held(recordings: Path) -> None:
    path = recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson"
    async with http() as client:
        async with Host(emulator(recordings=(str(path),), speed=1.0), "127.0.0.1", 0) as host:
            socket_ = await ws(host, "/ws/btcusdt@depth")
            held = asyncio.create_task(client.get(f"{host.endpoint}/api/v3/depth?symbol=BTCUSDT"))
            while not host._waiting:  # noqa: ASYNC110 - the request must have come, nothing tells
                await asyncio.sleep(0.001)
        _, code = await drain(socket_)
        assert code != 4000
        results = await asyncio.gather(held, return_exceptions=True)
        assert isinstance(results[0], httpx2.HTTPError) or results[0].status_code == 503


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CmdError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with Host(emulator(), "127.0.0.1", port):
                pass


async def test_a_client_that_answers_no_ping_is_closed() -> None:
    made = emulator(speed=1.0)
    made.ping_interval, made.pong_timeout = SECOND // 10, SECOND // 5  # type: ignore[attr-defined]
    async with Host(made, "127.0.0.1", 0) as host:
        address = urlsplit(host.endpoint)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"GET /ws/btcusdt@trade HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        got = await asyncio.wait_for(reader.read(), 20)  # until the server closes
        writer.close()
    assert b"\x89" in got  # a ping
    assert got.endswith(b"\x03\xf0Pong timeout")  # 1008
    assert got[: got.index(b"Pong timeout")].count(b"\x88") >= 1


async def test_a_client_that_answers_pings_stays() -> None:
    made = emulator(speed=1.0)
    made.ping_interval, made.pong_timeout = SECOND // 10, SECOND // 5  # type: ignore[attr-defined]
    async with Host(made, "127.0.0.1", 0) as host, ws(host, "/ws/btcusdt@bookTicker") as client:
        for _ in range(15):  # more than a second: many pings
            await asyncio.wait_for(client.recv(), 20)
        assert client.close_code is None
