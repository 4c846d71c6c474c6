"""What tests with Java share: the client's jar, made once, Aeron's Java media driver, and a market that both sides add up."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from raw_client import DEADLINE, until
from tests.conftest import require

from cmd_common import filelock
from cmd_common.records import (
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_server import codec, schema
from cmd_server.messages import Login, Policy, Subscribe
from cmd_server.server import Server

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "java_client"
TWIN = runpy.run_path(str(EXAMPLE / "checksum.py"))
S = 1_000_000_000
T0 = 1_760_000_000 * S
TOPICS = ("trades *", "agg_trades *", "quotes *", "book *", "candles@1m *")
TOKEN = "s3cret"
SMALL = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def find_java() -> str:
    for candidate in (os.environ.get("JAVA_HOME", "") + "/bin/java", "java"):
        path = shutil.which(candidate)
        if path:
            said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
            version = re.search(r'version "(\d+)', said)
            if version and int(version[1]) >= 17:
                return path
    return ""


@cache
def needed() -> str:
    """The path of java, where a JDK and Maven are there."""
    found = find_java()
    there = bool(found) and shutil.which("javac") is not None and shutil.which("mvn") is not None
    require("java", there, "install a JDK of 17 or newer and Maven (apt install openjdk-17-jdk-headless maven)")
    return found


def build(xml: str = "") -> Path:
    """Return the client's jar for a schema (default: ours), made by Maven or taken from the user's cache.

    What is made is named by what it is made of. Of several processes one makes it, and the others wait.
    """
    xml = xml or schema.text()
    sources = sorted(p for p in EXAMPLE.rglob("*") if p.suffix in (".java", ".xml") and "target" not in p.parts)
    content = b"\0".join([xml.encode(), *(p.read_bytes() for p in sources)])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crypto-market-data" / "java_client"
    folder = cache / hashlib.sha256(content).hexdigest()[:16]
    jar = folder / "java-client.jar"
    cache.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 290
    while not jar.exists():
        lock = filelock.take(f"{folder}.lock")
        if lock is None:
            assert time.monotonic() < end, f"another process holds {folder}.lock and makes nothing"
            time.sleep(0.1)
            continue
        try:
            if not jar.exists():
                _make(xml, cache, folder)
        finally:
            filelock.give_back(lock, f"{folder}.lock")
    return jar


def _make(xml: str, cache: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as made:
        (Path(made) / "schema.xml").write_text(xml, "utf-8")
        command = ["mvn", "-q", "-B", f"-Dbuild={made}/build", f"-Dschema={made}/schema.xml", "package"]
        result = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=280, check=False)
        assert result.returncode == 0, result.stdout[-3000:]
        (Path(made) / "build").rename(folder)


async def ended(*command: str, token: str = TOKEN) -> tuple[int, str, str]:
    """Run a program to its end; its exit code and what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "CMD_TOKEN"} | ({"CMD_TOKEN": token} if token else {})
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 200)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def run(*command: str, token: str = TOKEN) -> Any:
    """Run a client that must succeed; the JSON that it printed."""
    code, out, err = await ended(*command, token=token)
    assert code == 0, err
    return json.loads(out)


def client(jar: Path, address: str, count: int, *topics: str) -> tuple[str, ...]:
    """The command line of the Java client."""
    return needed(), *SMALL, "-jar", str(jar), address, str(count), *(topics or TOPICS)


@contextlib.contextmanager
def java_driver(jar: Path, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Aeron's Java media driver, a process with one thread for its work; yielded when it is ready.

    At the end it ends in order and removes its directory.
    """
    import cmd_aeron

    options = {
        "aeron.dir": directory,
        "aeron.dir.delete.on.shutdown": "true",
        "aeron.threading.mode": "SHARED",
        "aeron.term.buffer.length": "1m",
        "aeron.ipc.term.buffer.length": "1m",
        "aeron.client.liveness.timeout": "3s",
        "aeron.image.liveness.timeout": "3s",
    }
    (library,) = (jar.parent / "lib").glob("aeron-all-*.jar")
    opened = "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED"
    settings = [f"-D{key}={value}" for key, value in options.items()]
    command = [needed(), *SMALL, opened, *settings, "-cp", str(library), "io.aeron.driver.MediaDriver"]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said, stderr=said, text=True) as child:
        try:
            end = time.monotonic() + DEADLINE
            while not cmd_aeron.driver_status(str(directory)).running:
                said.seek(0)
                assert child.poll() is None, said.read()
                assert time.monotonic() < end, "the Java driver did not come up"
                time.sleep(0.05)
            yield child
            if child.poll() is None:
                child.terminate()
                child.wait(DEADLINE)
                assert not directory.exists()
        finally:
            child.kill()


def market(count: int, levels: int = 30) -> list[Record]:
    """Records of all kinds of two instruments, made up: ids that are numbers, text and neither, missing values.

    The books begin with ``levels`` levels a side.
    """
    rng = random.Random(7100)
    seqs = {"BTCUSDT": 1, "XBT/EUR-Ü": 1}
    names = ("BTC", "USDT", "USDT", "linear", "0.10", "0.001", "0.001", "5", "")
    records: list[Record] = [
        InstrumentRecord(T0, T0, "venue-a", "BTCUSDT", *names, False, None, "trading"),
        InstrumentRecord(T0, T0, "venue-b", "XBT/EUR-Ü", *names[:8], "100", True, T0 + S, "halted"),
    ]
    bids = pack_levels([(50_000 - i / 8, 1 + i / 16) for i in range(levels)])
    asks = pack_levels([(50_001 + i / 8, 2 + i / 16) for i in range(levels)])
    for venue, symbol in (("venue-a", "BTCUSDT"), ("venue-b", "XBT/EUR-Ü")):
        records.append(BookSnapshot(T0, T0, venue, symbol, 1, 1, levels, levels, bids, asks))
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
                some = [(50_000 - rng.randrange(40) / 8, rng.choice((0.0, quantity))) for _ in range(rng.randrange(4))]
                more = [(50_001 + rng.randrange(40) / 8, rng.choice((0.0, quantity))) for _ in range(rng.randrange(4))]
                seq = seqs[symbol]
                records.append(BookDelta(*at, 1, seq, seq, pack_levels(some), pack_levels(more), 8))
    return records


class Tap:
    """A client of the hub in this process: what the server sends, before any transport, and its checksum.

    The checksum is over the first ``count`` records, as clients make it.
    """

    def __init__(self, server: Server, count: int) -> None:
        self.server = server
        self.count = count
        self.checksum = TWIN["Checksum"]()
        self.decoded: list[Record] = []
        self._client = server.hub.attach("tap", server.now())
        server.hub.handle(self._client, Login(TOKEN), server.now())
        server.hub.handle(self._client, Subscribe(1, TOPICS, Policy.DISCONNECT, 100_000), server.now())
        self._names: dict[int, tuple[str, str]] = {}

    @property
    def subscribed(self) -> int:
        """How many others have subscribed."""
        return sum(bool(c.topics) for c in self.server.hub.clients) - 1

    async def publish(self, records: list[Record], clients: asyncio.Future[Any], readers: int) -> Any:
        """Wait for so many readers, publish, and return what they say at their ends.

        The first snapshots go alone: a joiner's snapshot stands for all that came in one call.
        """
        await until(lambda: clients.done() or self.subscribed == readers)
        for start, stop in pairwise([0, 4, *range(500, len(records), 500), len(records)]):
            self.server.publish(records[start:stop])
            self._take()
            await until(lambda: clients.done() or not any(c.pending for c in self.server.hub.clients))
        return await clients

    def _take(self) -> None:
        for frame in self._client.take(1 << 30):
            head = codec.head(frame)
            if head.template in codec.RECORD_TEMPLATES:
                record = codec.decode(frame, *self._names.get(head.instrument_id, ("", "")))
                if isinstance(record, InstrumentRecord):
                    self._names[head.instrument_id] = (record.venue, record.symbol)
                if self.checksum.messages < self.count:
                    self.checksum.add(head, record)
                self.decoded.append(record)

    @property
    def result(self) -> Any:
        """What clients print."""
        return json.loads(str(self.checksum))


def twin(address: str, count: int) -> tuple[str, ...]:
    """The command line of the Python twin."""
    return sys.executable, str(EXAMPLE / "checksum.py"), address, str(count), *TOPICS
