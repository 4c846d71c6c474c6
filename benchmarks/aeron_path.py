"""One measurement of the whole path for benchmarks/aeron.py, in a process of its own; prints one JSON line.

    aeron_path.py server KIND CLIENTS PART IDLE FOLDER     records to books: CPU us of server and clients a delivery
    aeron_path.py client ADDRESS                           a client with its books, which says what it has

KIND is ``unix``, ``aeron`` (a publication a client) or ``shared`` (one stream for all). The records are trades and
changes of books of four instruments, made before the clock starts; first some at a time as they come from exchanges,
then as fast as the slowest client takes them. Every client must have every trade, and at the end the books of the
oracle, which are made of the same records elsewhere.
"""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240  nothing else runs in this loop meanwhile

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from server_run import line, say  # noqa: E402

from cmd_common.orderbook import OrderBook  # noqa: E402
from cmd_common.records import BookDelta, BookSnapshot, Record, Trade, pack_levels  # noqa: E402

SYMBOLS = ("A", "B", "C", "D")
BURST = 10  # records that come together
DELIVERIES = 40_000  # a second, in the first part; at least a millisecond between two bursts
SECONDS = 1.5
FLAT = 160_000  # deliveries of the second part
FLAT_BURST = 100
WAITING = 5_000  # messages of the slowest client, at which the publisher waits
T0 = 1_790_000_000_000_000_000


class Source:
    """Records from a seed, and the books that they make."""

    def __init__(self) -> None:
        self.rng = random.Random(7)
        self.books = {symbol: OrderBook(venue="v", symbol=symbol) for symbol in SYMBOLS}
        self.trades = self.updates = 0

    def begin(self) -> list[Record]:
        out: list[Record] = []
        for symbol, book in self.books.items():
            book.load([(1000.0 - n, 1.0) for n in range(200)], [(1001.0 + n, 1.0) for n in range(200)])
            self.updates += 1
            book.last_id = self.updates
            sides = book.packed_bids(), book.packed_asks()
            out.append(BookSnapshot(T0, T0, "v", symbol, 1, book.last_id, 200, 200, *sides))
        return out

    def batch(self, size: int) -> list[Record]:
        r = self.rng
        out: list[Record] = []
        for n in range(size):
            symbol = SYMBOLS[r.randrange(len(SYMBOLS))]
            if n % 2:
                out.append(self.trade(symbol, ""))
                continue
            bids = [(1000.0 - r.randrange(200), float(r.randrange(9))) for _ in range(3)]
            asks = [(1001.0 + r.randrange(200), float(r.randrange(9))) for _ in range(3)]
            book = self.books[symbol]
            self.updates += 1
            first, book.last_id = book.last_id + 1, self.updates
            book.apply(bids, asks)
            out.append(BookDelta(T0, T0, "v", symbol, 1, book.last_id, first, pack_levels(bids), pack_levels(asks)))
        return out

    def trade(self, symbol: str, word: str) -> Trade:
        self.trades += 1
        return Trade(T0, T0, "v", symbol, word or str(self.trades), None if word else self.trades, 1000.0, 1.0, "buy")

    def digest(self) -> str:
        return digest([self.books[symbol] for symbol in SYMBOLS])


def digest(books: list[OrderBook]) -> str:
    made = hashlib.sha256()
    for book in books:
        made.update(book.packed_bids() + b"|" + book.packed_asks())
    return made.hexdigest()


def addresses(kind: str, folder: str, idle: str) -> tuple[str, str]:
    """Where the server listens, and where its clients connect."""
    control = f"unix:{folder}/c.sock"
    if kind == "unix":
        return control, control
    shared = "shared=1&" if kind == "shared" else ""
    topics = "&topics=trades *,book *&heartbeat=100" if kind == "shared" else ""
    common = f"aeron:ipc?{shared}control={control}&dir={folder}/d"
    return common + topics, f"{common}&idle={idle}"


async def _server(kind: str, clients: int, part: int, idle: str, folder: str) -> dict[str, Any]:
    from cmd_server.limits import Limits
    from cmd_server.server import Server

    source = Source()
    begin = source.begin()
    pause = max(0.001, BURST * clients / DELIVERIES)
    paced = [source.batch(BURST) for _ in range(round(SECONDS / part / pause))]
    paced[-1].append(source.trade("A", "MARK"))
    flat = [source.batch(FLAT_BURST) for _ in range(max(1, FLAT // part // clients // FLAT_BURST))]
    flat[-1].append(source.trade("A", "END"))
    at, to = addresses(kind, folder, idle)
    server = Server(limits=Limits(queue=1_000_000, queue_max=1_000_000))
    server.publish(begin)
    await server.listen_all([at])
    command = [sys.executable, str(Path(__file__).resolve()), "client", to]
    found = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(clients)]
    pipes = [each.stdout for each in found]
    try:
        for pipe in pipes:
            assert pipe is not None
            await line(pipe)
        if kind == "shared":
            await detached(server)
        await asyncio.sleep(0.3)
        used, alone, now = time.process_time_ns(), time.thread_time_ns(), time.monotonic()
        for number, records in enumerate(paced, 1):
            server.publish(records)
            await asyncio.sleep(max(0.0, now + number * pause - time.monotonic()))
        first = [json.loads(await line(pipe)) for pipe in pipes if pipe is not None]
        middle, alone, alone_flat = time.process_time_ns(), time.thread_time_ns() - alone, time.thread_time_ns()
        begun = time.monotonic_ns()
        hub = server.hub
        for records in flat:
            server.publish(records)
            await asyncio.sleep(0)
            while any(len(client.queue) > WAITING for client in hub.clients):
                await asyncio.sleep(0.005)
        second = [json.loads(await line(pipe)) for pipe in pipes if pipe is not None]
        end, alone_flat = time.process_time_ns(), time.thread_time_ns() - alone_flat
    finally:
        for each in found:
            each.kill()
            each.wait()
        await server.close(drain=0.1)
    wanted = {"trades": source.trades, "books": source.digest()}
    for told in second:
        if {key: told[key] for key in wanted} != wanted or told["lost"]:
            raise SystemExit(f"a client has {told} instead of {wanted}")
    many = sum(map(len, paced)), sum(map(len, flat))
    return {
        "server": (middle - used) / 1000 / many[0] / clients,
        "loop": alone / 1000 / many[0] / clients,  # of it the event loop's thread; the rest is driver and Aeron client
        "client": sum(told["cpu"] for told in first) / 1000 / many[0] / clients,
        "server_flat": (end - middle) / 1000 / many[1] / clients,
        "client_flat": sum(told["cpu"] for told in second) / 1000 / many[1] / clients,
        "loop_flat": alone_flat / 1000 / many[1] / clients,
        "rate": many[1] / ((max(told["end"] for told in second) - begun) / 1e9),
    }


async def detached(server: Any) -> None:
    """Wait until only the shared stream is a reader of the trades and books: its clients have left control."""
    until = time.monotonic() + 60
    while True:
        entries = [entry for entry in server.hub.entries if entry.symbol]
        streams = [stream for entry in entries for stream in (entry.trades, entry.book)]
        if all(stream is not None and len(stream.readers) + len(stream.waiting) == 1 for stream in streams):
            return
        if time.monotonic() > until:
            raise SystemExit("clients did not move to the shared stream")
        await asyncio.sleep(0.02)


def server(kind: str, clients: str, part: str, idle: str, folder: str) -> dict[str, Any]:
    return asyncio.run(_server(kind, int(clients), int(part), idle, folder))


def client(address: str) -> None:
    """Follow the books; says ``ready``, and twice what it took and has."""
    asyncio.run(_client(address))


async def _client(address: str) -> None:
    from cmd_server.client.aio import connect

    names = [f"v:{symbol}" for symbol in SYMBOLS]
    trades = 0
    options: dict[str, Any] = {"topics": ["trades *", "book *"], "policy": "disconnect", "queue": 1_000_000}
    async with connect(address, **options) as reader:
        await reader.live(*names, timeout=60)
        say("ready")
        used = time.process_time_ns()
        async for record in reader:
            if type(record) is not Trade:
                continue
            trades += 1
            if record.trade_seq is None:
                now = time.process_time_ns()
                counters = reader.counters
                report = {
                    "cpu": now - used, "end": time.monotonic_ns(), "trades": trades, "lost": counters.lost + counters.holes,
                    "books": digest([reader.book(name) for name in names]),
                }  # fmt: skip
                say(json.dumps(report))
                if record.trade_id == "END":
                    break
                used = time.process_time_ns()
        sys.stdin.readline()


if __name__ == "__main__":
    if sys.argv[1] == "server":
        say(json.dumps(server(*sys.argv[2:])))
    else:
        client(*sys.argv[2:])
