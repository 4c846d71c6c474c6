"""The two programs of the load test: a server that publishes at a rate, and a process of many clients.

python serve_load.py server FOLDER SECONDS RATE      (ready line; "go" on stdin begins, the end is a line of JSON)
python serve_load.py clients ADDRESS,... COUNT FIRST (ready line; one line of JSON when the last record has come)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
from typing import Any

from msgspec.structs import replace

from cmd_common.orderbook import OrderBook
from cmd_common.records import BookDelta, BookSnapshot, Record, Trade, pack_levels
from cmd_common.sequence import BookState
from cmd_server.client import aio
from cmd_server.client.events import Disconnected, Lost, Message
from cmd_server.server import Server

SYMBOLS = ("A", "B", "C", "D")
END = "END"
PER_BATCH = 10  # records that are published together


def rss() -> int:
    """Resident memory of this process in KiB."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))


def digest(book: OrderBook) -> str:
    """What a book is, in a few characters."""
    return hashlib.sha256(book.packed_bids() + b"|" + book.packed_asks()).hexdigest()[:16]


class Source:
    """Trades and books of a few instruments, from a seed."""

    def __init__(self) -> None:
        self.rng = random.Random(5)
        self.books = {symbol: OrderBook(venue="v", symbol=symbol) for symbol in SYMBOLS}
        self.trades = 0
        self.updates = 0

    def begin(self, now: int) -> list[Record]:
        out: list[Record] = []
        for symbol, book in self.books.items():
            book.load([(1000.0 - n, 1.0) for n in range(500)], [(1001.0 + n, 1.0) for n in range(500)])
            self.updates += 1
            book.last_id = self.updates
            out.append(
                BookSnapshot(now, now, "v", symbol, 1, book.last_id, 500, 500, book.packed_bids(), book.packed_asks())
            )
        return out

    def batch(self, now: int) -> list[Record]:
        r = self.rng
        out: list[Record] = []
        for n in range(PER_BATCH):
            symbol = SYMBOLS[r.randrange(len(SYMBOLS))]
            if n % 2:
                self.trades += 1
                out.append(Trade(now, now, "v", symbol, str(self.trades), self.trades, 1000.0, 1.0, "buy"))
                continue
            bids = [(1000.0 - r.randrange(500), float(r.randrange(9))) for _ in range(2)]
            asks = [(1001.0 + r.randrange(500), float(r.randrange(9))) for _ in range(2)]
            book = self.books[symbol]
            self.updates += 1
            first, book.last_id = book.last_id + 1, self.updates
            book.apply(bids, asks)
            out.append(BookDelta(now, now, "v", symbol, 1, book.last_id, first, pack_levels(bids), pack_levels(asks)))
        return out


async def serve(folder: str, seconds: float, rate: int) -> None:
    """Publish ``rate`` records a second; say what was published and how much memory it took."""
    loop = asyncio.get_running_loop()
    server = Server()
    addresses = [f"unix:{folder}/load.sock", "tcp:127.0.0.1:0", "ws:127.0.0.1:0"]
    bound = await server.listen_all(addresses)
    source = Source()
    server.publish(source.begin(server.now()))
    say({"addresses": [str(listener.address) for listener in bound], "pid": os.getpid()})
    await loop.run_in_executor(None, sys.stdin.readline)
    memory = [rss()]
    begun, sent, most = loop.time(), 0, 0
    while (now := loop.time() - begun) < seconds:
        if sent > now * rate:
            await asyncio.sleep(0.002)
            continue
        server.publish(source.batch(server.now()))
        sent += PER_BATCH
        if sent % (rate // 2) < PER_BATCH:
            memory.append(rss())
            most = max([most, *(len(client.queue) for client in server.hub.clients)])
        if sent % 100 < PER_BATCH:
            await asyncio.sleep(0)
    took = loop.time() - begun
    server.publish([Trade(server.now(), server.now(), "v", END, "1", 1, 1.0, 1.0, "buy")])
    delivered = sum(client.counters.sent for client in server.hub.clients)
    say(
        {
            "records": sent, "trades": source.trades, "seconds": took, "clients": len(server.hub.clients),
            "deliveries": delivered, "memory": memory, "longest_queue": most, "byes": server.hub.counters.byes,
            "books": {symbol: digest(server.hub.books[f"v:{symbol}"]) for symbol in SYMBOLS},
            "true": {symbol: digest(book) for symbol, book in source.books.items()},
        }
    )  # fmt: skip
    await loop.run_in_executor(None, sys.stdin.readline)
    await server.close()


NAP = 15.0  # s that a slow client does not read: far more comes than its connection and the mark of its queue hold
AWAKE = 2.0  # s that it reads before the next nap


class One:
    """One client: every kind of policy in turn; of those that conflate the half naps now and then."""

    def __init__(self, number: int, addresses: list[str]) -> None:
        self.address = addresses[number % len(addresses)]
        self.policy = ("drop-oldest", "disconnect", "conflate", "drop-oldest")[number // len(addresses) % 4]
        self.slow = self.policy == "conflate" and number // (4 * len(addresses)) % 2 == 0
        # A conflating client's own bound is small, so that it is the server that merges for it; but it holds all trades
        # of a nap, which nobody may merge.
        queue = {"conflate": 8_000 if self.slow else 200}.get(self.policy, 100_000)
        self.client = aio.connect(
            self.address, topics=["trades *", "book *"], policy=self.policy, queue=queue,
            buffer=100 if self.slow else 10_000, name=str(number),
        )  # fmt: skip
        if self.slow:
            self.client._link_options = replace(self.client._link_options, receive_buffer=1 << 14)
        self.trades = 0
        self.lost = self.cuts = self.conflated = 0
        self.ended = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        woke = loop.time()
        async for items in self.client.items():
            for item in items:
                if isinstance(item, Message):
                    self.conflated += item.conflated
                    if isinstance(item.record, Trade):
                        if item.record.symbol == END:
                            self.ended = True
                        else:
                            self.trades += 1
                elif isinstance(item, Lost):
                    self.lost += 1
                elif isinstance(item, Disconnected):
                    self.cuts += 1
            if self.ended:
                return
            if self.slow and loop.time() - woke > AWAKE:
                await asyncio.sleep(NAP)
                woke = loop.time()

    async def agree(self) -> None:
        """A book may follow the last trade: it is merged last."""
        await self.client.live(*(f"v:{s}" for s in SYMBOLS), timeout=60)

    def report(self) -> dict[str, Any]:
        client = self.client
        books = {s: digest(client.book(f"v:{s}")) for s in SYMBOLS if client.book(f"v:{s}").state is BookState.LIVE}
        return {
            "address": self.address, "policy": self.policy, "slow": self.slow, "trades": self.trades, "lost": self.lost,
            "cuts": self.cuts, "holes": client.counters.holes, "books": books, "messages": client.counters.messages,
            "conflated": self.conflated,
        }  # fmt: skip


async def follow(addresses: list[str], count: int, first: int) -> None:
    """Run clients until each has the last record."""
    clients = [One(first + n, addresses) for n in range(count)]
    for client in clients:
        await client.client.start()
    say({"ready": count})
    await asyncio.gather(*(client.run() for client in clients))
    await asyncio.gather(*(client.agree() for client in clients))
    await asyncio.sleep(0.5)
    say([client.report() for client in clients])
    for client in clients:
        await client.client.close()


def say(what: object) -> None:
    """One line for the test."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    role, *given = sys.argv[1:]
    if role == "server":
        asyncio.run(serve(given[0], float(given[1]), int(given[2])))
    else:
        asyncio.run(follow(given[0].split(","), int(given[1]), int(given[2])))
