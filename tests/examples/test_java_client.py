"""The Java client, generated from the schema, decodes what the real server sends; so does its Python twin.

Both print a checksum over every field of every record. What the build makes is kept in the user's cache, named by
what it was made of; the repository holds nothing that is generated.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import wire_world as world  # beside the tests of cmd-server, as is the next
from java_parts import TOKEN, TWIN, S, Tap, build, client, ended, market, needed, run, twin
from msgspec.structs import replace

from cmd_common.records import AggregatedBook, AggTrade, Candle, FeedStatus, Gap, Trade
from cmd_server import codec, schema
from cmd_server.framing import Splitter
from cmd_server.limits import Limits
from cmd_server.messages import Ack, Hello, Login, Policy, Subscribe, Template
from cmd_server.server import Server

COUNT = 100_000


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    needed()


async def test_the_checksum_of_100000_messages_equals_the_servers() -> None:
    jar = await asyncio.to_thread(build)
    records = market(COUNT + 2_000)
    async with Server(token=TOKEN, limits=Limits(idle=600 * S, login=200 * S)) as server:
        address = str((await server.listen("tcp:127.0.0.1:0")).address)
        tap = Tap(server, COUNT)
        clients = asyncio.gather(run(*client(jar, address, COUNT)), run(*twin(address, COUNT)))
        from_java, from_python = await tap.publish(records, clients, 2)
    assert tap.result == from_java == from_python
    assert from_java["messages"] == COUNT
    assert set(from_java["templates"]) == {"1", "2", "3", "4", "5", "6", "7"}
    # What was decoded is what was published, field by field; repr, because NaN is not equal to itself.
    assert Counter(map(repr, tap.decoded)) == Counter(map(repr, records))
    assert [r for r in tap.decoded if isinstance(r, Trade)] == [r for r in records if isinstance(r, Trade)]


def everything() -> list[bytes]:
    """Frames of every record, among them those that a server makes rarely or by time."""
    triples = struct.pack("<6d", 5.0, 1.0, 0.0, 4.0, 2.0, 1.0)
    book = AggregatedBook(1, 2, "BTC-USD", 0, "a:BTCUSD,b:XBT/USD", "c:BTC-USD=STALE", triples, triples[:24], None, 36)
    gap = Gap(5, 9, "a", "BTCUSD", "trades", "trade_id", "lost", 7, (1 << 63) - 1, "", "détail")
    status = FeedStatus(1, 2, "a", "", "", "a-0", "silent", "nothing for 30 s", 1)
    rare = [book, replace(book, crossed_for=5), gap, replace(gap, first_id=None, last_id=None), status]
    agg = AggTrade(1, 2, "a", "s", "x", None, 1, 2, 3.0, 4.0, "unknown", 0)
    built = Candle(0, 1, 2, 3, "a", "s", "4h", "built", "corrected", 1, 2, 3, 4, 5, 6, 7, 8, 9, 8)
    records = [*rare, agg, built, *market(500)]
    return [codec.encode(r, 1 + n % 3, 1 + n, n % 5, (0, 64, 128)[n % 3], n % 5) for n, r in enumerate(records)]


@asynccontextmanager
async def feeder(frames: list[bytes], version: Callable[[bytes], bytes]) -> Any:
    """A server of a recorded answer: greets, takes login and subscription, then sends the frames."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(version(codec.encode_service(Hello(1, 2, 60 * S, 1 << 20, False, "recorded"))))
        splitter, requests = Splitter(1 << 20), []
        while len(requests) < 2:
            for frame in splitter.feed(await reader.read(1 << 16)):
                requests.append(codec.decode_request(frame))
                writer.write(version(codec.encode_service(Ack(len(requests) - 1, 1))))
        assert requests == [Login("", "java-client"), Subscribe(1, ("trades *",), Policy.DISCONNECT, 100_000)]
        writer.write(b"".join(frames))
        await writer.drain()
        await reader.read()  # until the client has gone
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("reader", "sender"), [(2, 2), (2, 3), (3, 2), (3, 3)])
async def test_java_clients_and_servers_of_two_versions(reader: int, sender: int) -> None:
    jar = await asyncio.to_thread(build, schema.text() if reader == 2 else world.next_version())
    frames, checksum = everything(), TWIN["Checksum"]()
    for frame in frames:
        checksum.add(codec.head(frame), codec.decode(frame, "", ""))
    assert set(checksum.counts) == codec.RECORD_TEMPLATES == {t for t in Template if t < 20}
    newer = [part for frame in frames for part in (world.news(), world.grown(frame))]
    grow = world.grown if sender == 3 else bytes
    async with feeder(newer if sender == 3 else frames, grow) as address:
        found = await run(*client(jar, address, len(frames), "trades *"), token="")
    assert found == json.loads(str(checksum))


async def test_what_goes_wrong_is_one_line() -> None:
    jar = await asyncio.to_thread(build)
    async with Server(token=TOKEN) as server:
        address = str((await server.listen("tcp:127.0.0.1:0")).address)
        refused, other = await asyncio.gather(
            ended(*client(jar, address, 1), token=""), ended(*client(jar, "tcp:nowhere", 1))
        )
    for code, out, err in (refused, other):
        assert code == 1
        assert out == ""
        assert err.count("\n") == 1
    assert refused[2].startswith("error: refused (token): ")
    assert other[2].startswith('error: "tcp:nowhere" is no stream address')
