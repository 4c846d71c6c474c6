"""The Java client, generated from the schema, decodes what the real server sends; so does its Python twin.

Both print a checksum over every field of every record. What the build makes is kept in the user's cache, named by
what it was made of; the repository holds nothing that is generated.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import runpy
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cmd_common.records import (
    AggregatedBook,
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_server import codec, schema
from cmd_server.framing import Splitter
from cmd_server.limits import Limits
from cmd_server.messages import Ack, Hello, Login, Policy, Subscribe, Template
from cmd_server.server import Server

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "java_client"
TWIN = runpy.run_path(str(EXAMPLE / "checksum.py"))
COUNT = 100_000
S = 1_000_000_000
T0 = 1_760_000_000 * S
TOPICS = ("trades *", "agg_trades *", "quotes *", "book *", "candles@1m *")


def find_java() -> str:
    for candidate in (os.environ.get("JAVA_HOME", "") + "/bin/java", "java"):
        path = shutil.which(candidate)
        if path:
            said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
            version = re.search(r'version "(\d+)', said)
            if version and int(version[1]) >= 17:
                return path
    return ""


def build(xml: str) -> Path:
    """Return the client's jar for a schema, made by Maven or taken from the cache."""
    sources = sorted(p for p in EXAMPLE.rglob("*") if p.suffix in (".java", ".xml") and "target" not in p.parts)
    content = b"\0".join([xml.encode(), *(p.read_bytes() for p in sources)])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crypto-market-data" / "java_client"
    folder = cache / hashlib.sha256(content).hexdigest()[:16]
    jar = folder / "java-client.jar"
    if not jar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            (Path(made) / "schema.xml").write_text(xml, "utf-8")
            command = ["mvn", "-q", "-B", f"-Dbuild={made}/build", f"-Dschema={made}/schema.xml", "package"]
            result = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=280, check=False)
            assert result.returncode == 0, result.stdout[-3000:]
            if not folder.exists():  # another process may have been faster
                (Path(made) / "build").rename(folder)
    return jar


@pytest.fixture(scope="module")
def java() -> str:
    found = find_java()
    if not found or shutil.which("javac") is None or shutil.which("mvn") is None:
        pytest.skip(
            "java is missing; install a JDK of 17 or newer and Maven (apt install openjdk-17-jdk-headless maven)"
        )
    return found


async def run(*command: str, token: str = "") -> Any:
    """Run a client to its end; returns what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "CMD_TOKEN"} | {"CMD_TOKEN": token}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 200)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def market(count: int) -> list[Record]:
    """Records of all kinds of two instruments, made up: ids that are numbers, text and neither, missing values."""
    rng = random.Random(7100)
    seqs = {"BTCUSDT": 1, "XBT/EUR-Ü": 1}
    names = ("BTC", "USDT", "USDT", "linear", "0.10", "0.001", "0.001", "5", "")
    records: list[Record] = [
        InstrumentRecord(T0, T0, "venue-a", "BTCUSDT", *names, False, None, "trading"),
        InstrumentRecord(T0, T0, "venue-b", "XBT/EUR-Ü", *names[:8], "100", True, T0 + S, "halted"),
    ]
    levels = [(50_000 - i / 8, 1 + i / 16) for i in range(30)], [(50_001 + i / 8, 2 + i / 16) for i in range(30)]
    sides = tuple(map(pack_levels, levels))
    for venue, symbol in (("venue-a", "BTCUSDT"), ("venue-b", "XBT/EUR-Ü")):
        records.append(BookSnapshot(T0, T0, venue, symbol, 1, 1, 30, 30, *sides))
    while len(records) < count:
        ts, recv = T0 + len(records) * 1_000, T0 + len(records) * 1_000 + rng.randrange(-500, 5_000)
        venue, symbol = rng.choice((("venue-a", "BTCUSDT"), ("venue-b", "XBT/EUR-Ü")))
        at = (ts, recv, venue, symbol)
        n, price, quantity = len(records), 50_000 + rng.randrange(-800, 800) / 8, rng.randrange(1, 999) / 64
        side = rng.choice(("buy", "sell", "unknown"))
        match rng.randrange(8):
            case 0 | 1:
                ids = rng.choice(((str(n), n), (f"{n:x}-ü-{n}", None), (f"0{n}", n), ("", None)))
                records.append(Trade(*at, *ids, price, quantity, side, rng.choice((0, 1, 2, 8, 11))))
            case 2:
                records.append(AggTrade(*at, str(n), n, n - 3, n, price, quantity, side, 8))
            case 3:
                records.append(Quote(*at, n, price, quantity, price + 0.5, quantity / 3))
            case 4:
                minute = n * S * 60
                volumes = (quantity, float("nan"), -1, float("nan"), float("nan"))
                candle = (price, price + 1, price - 1, price, *volumes)
                records.append(Candle(minute, minute + 60 * S, *at, "1m", "exchange", "final", *candle))
            case _:
                seqs[symbol] += 1
                bids = [(50_000 - rng.randrange(40) / 8, rng.choice((0.0, quantity))) for _ in range(rng.randrange(4))]
                asks = [(50_001 + rng.randrange(40) / 8, rng.choice((0.0, quantity))) for _ in range(rng.randrange(4))]
                seq = seqs[symbol]
                records.append(BookDelta(*at, 1, seq, seq, pack_levels(bids), pack_levels(asks), 8))
    return records


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not done():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_the_checksum_of_100000_messages_equals_the_servers(java: str) -> None:
    jar = await asyncio.to_thread(build, schema.text())
    records = market(COUNT + 2_000)
    async with Server(token="s3cret", limits=Limits(idle=600 * S, login=200 * S)) as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        port = str(listener.address.host_port()[1])
        hub = server.hub
        # A client of the hub in this process: what the server sends, before any socket.
        tap = hub.attach("tap", server.now())
        hub.handle(tap, Login("s3cret"), server.now())
        hub.handle(tap, Subscribe(1, TOPICS, Policy.DISCONNECT, 100_000), server.now())
        arguments = ("127.0.0.1", port, str(COUNT), *TOPICS)
        clients = asyncio.gather(
            run(java, "-jar", str(jar), *arguments, token="s3cret"),
            run(sys.executable, str(EXAMPLE / "checksum.py"), *arguments, token="s3cret"),
        )
        await until(lambda: clients.done() or sum(bool(c.topics) for c in hub.clients) == 3)
        checksum, decoded = TWIN["Checksum"](), []
        names: dict[int, tuple[str, str]] = {}
        # The first snapshots alone: a joiner's snapshot stands for all that came in one call.
        for start, stop in pairwise([0, 4, *range(500, len(records), 500), len(records)]):
            server.publish(records[start:stop])
            for frame in tap.take(1 << 30):
                head = codec.head(frame)
                if head.template in codec.RECORD_TEMPLATES:
                    record = codec.decode(frame, *names.get(head.instrument_id, ("", "")))
                    if isinstance(record, InstrumentRecord):
                        names[head.instrument_id] = (record.venue, record.symbol)
                    if checksum.messages < COUNT:
                        checksum.add(head, record)
                    decoded.append(record)
            await until(lambda: clients.done() or not any(c.pending for c in hub.clients))
        from_java, from_python = await clients
    assert json.loads(str(checksum)) == from_java == from_python
    assert from_java["messages"] == COUNT
    assert set(from_java["templates"]) == {"1", "2", "3", "4", "5", "6", "7"}
    # What was decoded is what was published, field by field; repr, because NaN is not equal to itself.
    published = Counter(map(repr, records))
    assert Counter(map(repr, decoded)) == published
    assert [r for r in decoded if isinstance(r, Trade)] == [r for r in records if isinstance(r, Trade)]


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
        yield str(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(("client", "sender"), [(1, 1), (1, 2), (2, 1), (2, 2)])
async def test_java_clients_and_servers_of_two_versions(java: str, client: int, sender: int) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "cmd_server"))
    try:
        import wire_world as world
    finally:
        sys.path.pop(0)
    jar = await asyncio.to_thread(build, schema.text() if client == 1 else world.second_version())
    frames, checksum = everything(), TWIN["Checksum"]()
    for frame in frames:
        checksum.add(codec.head(frame), codec.decode(frame, "", ""))
    assert set(checksum.counts) == codec.RECORD_TEMPLATES == {t for t in Template if t < 20}
    newer = [part for frame in frames for part in (world.news(), world.grown(frame))]
    grow = world.grown if sender == 2 else bytes
    async with feeder(newer if sender == 2 else frames, grow) as port:
        found = await run(java, "-jar", str(jar), "127.0.0.1", port, str(len(frames)), "trades *")
    assert found == json.loads(str(checksum))


async def test_what_goes_wrong_is_one_line(java: str) -> None:
    jar = await asyncio.to_thread(build, schema.text())
    async with Server(token="s3cret") as server:
        listener = await server.listen("tcp:127.0.0.1:0")
        port = str(listener.address.host_port()[1])
        process = await asyncio.create_subprocess_exec(
            *(java, "-jar", str(jar), "127.0.0.1", port, "1", "trades *"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={k: v for k, v in os.environ.items() if k != "CMD_TOKEN"},
        )
        out, err = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 1
    assert out == b""
    assert err.startswith(b"error: refused (token): ")
    assert err.count(b"\n") == 1
