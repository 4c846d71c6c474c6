"""A server and a client as processes of their own, told what to do by lines on stdin; and a server in a thread."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import Trade
from cmd_server.limits import Limits
from cmd_server.server import Server
from cmd_server.transport import ListenOptions

sys.path.insert(0, str(Path(__file__).parent))

from client_pair import Market  # beside this file

T = TypeVar("T")
DEADLINE = 60.0  # s; nothing takes so long, but a loaded machine must not fail a test


def digest(books: MultiSymbolOrderBook) -> dict[str, Any]:
    return {name: [b.state.value, b.bids(), b.asks()] for name, b in sorted(books.items())}


def rounds(market: Market, server: Server, count: int) -> None:
    """Publish rounds of both symbols: mostly trades and deltas, sometimes a book that goes and comes back."""
    for n in range(count):
        for symbol in "AB":
            what = 1 if n % 97 == 96 else (0, 5, 7)[n % 3]
            server.publish(market.records(symbol, what))


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def serve(address: str) -> None:
    market = Market()
    market.time = time.time_ns() % 1_000_000_000_000  # another run goes on with later ids, as an exchange does
    async with Server(limits=Limits(heartbeat=500_000_000)) as server:
        listener = await server.listen(address)
        say(address=str(listener.address))
        reader = await lines()
        while line := await reader.readline():
            rounds(market, server, int(line))
            say(books=digest(server.hub.books), trades=market.trades)


async def consume(address: str, policy: str, topics: list[str], queue: int) -> None:
    from client_pair import check_numbers

    from cmd_server.client.aio import connect
    from cmd_server.client.events import Disconnected, Lost, Message

    items: list[Any] = []
    async with connect(address, topics=topics, policy=policy, queue=queue, retry=0.02, buffer=500) as client:
        say(ready=True)
        reader = await lines()

        async def read() -> None:
            async for found in client.items():
                items.extend(found)

        task = asyncio.create_task(read())
        while line := await reader.readline():
            del line
            check_numbers(items)
            last = {
                i.record.symbol: i.record.trade_seq
                for i in items
                if isinstance(i, Message) and isinstance(i.record, Trade)
            }
            say(
                books=digest(client.books),
                trades=last,
                lost=sum(isinstance(i, Lost) for i in items),
                byes=[i.code for i in items if isinstance(i, Disconnected)],
                conflated=sum(isinstance(i, Message) and i.conflated for i in items),
                holes=client.counters.holes,
            )
        task.cancel()


class Child:
    """One of the two as a process."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process ended with {self.process.wait(10)}"
        return dict(json.loads(line))

    def ask(self, line: str = "") -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        if self.process.poll() is None and self.process.stdin is not None:
            self.process.kill()
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


class ThreadedServer:
    """A server in an event loop of its own, for tests of blocking clients."""

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.server = self.call(lambda: Server(**options))
        self.address = ""

    def call(self, function: Callable[[], T]) -> T:
        async def inside() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(DEADLINE)

    def listen(self, address: str) -> str:
        listener = asyncio.run_coroutine_threadsafe(self.server.listen(address), self._loop).result(DEADLINE)
        self.address = str(listener.address)
        return self.address

    def publish(self, *records: Any) -> None:
        self.call(lambda: self.server.publish(records))

    def drop(self) -> None:
        """Cut all connections, without a goodbye."""
        self.call(lambda: [session.port.abort() for session in list(self.server.sessions)])

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()


def until(condition: Callable[[], T], what: str = "") -> T:
    """Wait until something is true, for blocking tests; returns it."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, what or "it did not happen"
        time.sleep(0.01)
    return found


async def eventually(condition: Callable[[], Any], what: str = "") -> None:
    """Wait until something is true, in an event loop."""
    end = time.monotonic() + DEADLINE
    while True:
        if condition():
            return
        assert time.monotonic() < end, what or "it did not happen"
        await asyncio.sleep(0.01)


SMALL = ListenOptions(send_buffer=16 << 10)

if __name__ == "__main__":
    if sys.argv[1] == "server":
        asyncio.run(serve(sys.argv[2]))
    else:
        asyncio.run(consume(sys.argv[2], sys.argv[3], sys.argv[4].split(","), int(sys.argv[5])))
