"""A small venue of its own and a real server for it on loopback: the runner knows no exchange."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from cmd_common.builder import OrderBookBuilder
from cmd_common.errors import BlockedError, RateLimitError, VenueError
from cmd_common.exchange import Endpoints, Limits
from cmd_common.feed import FeedCounters, FetchSnapshot, Output, Reconnect, Send, Subscription
from cmd_common.http import HttpRequest, HttpResponse
from cmd_common.recording import read
from cmd_common.records import FeedStatus, Gap, Quote
from cmd_common.seams import Clock, Net, SystemClock, system_rng
from cmd_feed.budget import WeightBudget
from cmd_feed.limiter import WindowLimiter
from cmd_feed.net import SystemNet
from cmd_feed.runner import ConnectionRunner, Hooks
from cmd_feed.scheduler import SnapshotQueue, SnapshotScheduler

VENUE = "tiny"


class TinyFeed:
    """Protocol: ``{"q": n, "s": symbol, "t": ns}`` is a quote; the client sends ``{"sub": [symbols]}``."""

    def __init__(self, url: str, symbols: Sequence[str], *, rest: str = "") -> None:
        self.venue = VENUE
        self.name = f"{VENUE}/0"
        self.url = url
        self.books: dict[str, OrderBookBuilder] = {}
        self.counters = FeedCounters()
        self.rest = rest
        self.frames: list[str | bytes] = []
        self.snapshots: list[tuple[str, bytes]] = []
        self.failed: list[tuple[str, str]] = []
        self.ticks = 0
        self.lost: list[str] = []
        self.subscribe_one_by_one = False
        self.reconnect_on_tick = False
        self._symbols = list(symbols)
        self._last = 0

    @property
    def symbols(self) -> Sequence[str]:
        return self._symbols

    def connected(self, now: int) -> Output:
        frames = [{"sub": [s]} for s in self._symbols] if self.subscribe_one_by_one else [{"sub": list(self._symbols)}]
        output = Output([FeedStatus(now, now, VENUE, "", "", self.name, "connected", "")])
        output.actions.extend(Send(json.dumps(f)) for f in frames)
        if self.rest:
            output.actions.extend(
                FetchSnapshot(s, HttpRequest(f"{self.rest}/depth?symbol={s}", weight=5)) for s in self._symbols
            )
        return output

    def disconnected(self, now: int, reason: str) -> Output:
        self.lost.append(reason)
        gaps = [Gap(self._last, now, VENUE, s, "quotes", "disconnect", "lost", detail=reason) for s in self._symbols]
        self.counters.gaps += len(gaps)
        return Output([FeedStatus(now, now, VENUE, "", "", self.name, "disconnected", reason), *gaps])

    def receive(self, frame: str | bytes, now: int) -> Output:
        self.counters.messages += 1
        self.frames.append(frame if len(frame) < 1000 else frame[:1000])
        if frame == "defect":
            raise RuntimeError("a defect\nof two lines")
        try:
            message = json.loads(frame)
        except ValueError:
            self.counters.malformed += 1
            return Output()
        if "q" not in message:
            return Output()
        self._last = message["t"]
        return Output([Quote(message["t"], now, VENUE, message["s"], message["q"], 1.0, 1.0, 2.0, 1.0)])

    def snapshot(self, symbol: str, body: bytes, now: int) -> Output:
        self.snapshots.append((symbol, body))
        return Output()

    def snapshot_failed(self, symbol: str, reason: str, now: int) -> Output:
        self.failed.append((symbol, reason))
        return Output()

    def tick(self, now: int) -> Output:
        self.ticks += 1
        if self.reconnect_on_tick:
            self.reconnect_on_tick = False
            return Output(actions=[Reconnect("silence")])
        return Output()

    def add(self, symbols: Sequence[str], now: int) -> Output:
        self._symbols.extend(symbols)
        return Output(actions=[Send(json.dumps({"sub": list(symbols)}))])

    def remove(self, symbols: Sequence[str], now: int) -> Output:
        self._symbols = [s for s in self._symbols if s not in symbols]
        return Output(actions=[Send(json.dumps({"unsub": list(symbols)}))])

    def close(self, now: int) -> Output:
        return Output([FeedStatus(now, now, VENUE, "", "", self.name, "closed", "")])


class TinyExchange:
    """The factory side; only what the tests of this package need is there."""

    venue = VENUE
    title = "Tiny"
    types = ("quotes",)
    intervals = ()
    endpoints = Endpoints("ws://127.0.0.1:1", "http://127.0.0.1:1")
    archive = None

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits(1200, VENUE, 0, 0, 100, 0)

    def instruments_request(self, endpoints: Endpoints) -> HttpRequest:
        return HttpRequest(f"{endpoints.rest}/instruments")

    def parse_instruments(self, body: bytes) -> list[Any]:
        raise NotImplementedError

    def feeds(self, subscription: Subscription, instruments: Mapping[str, Any], endpoints: Endpoints) -> list[Any]:
        return [TinyFeed(endpoints.ws, subscription.symbols)]

    def used_weight(self, response: HttpResponse) -> int | None:
        text = response.header("x-used")
        return int(text) if text else None

    def check(self, response: HttpResponse, url: str) -> VenueError | None:
        if response.status == 200:
            return None
        if response.status in (418, 429):
            after = int(float(response.header("retry-after", "0")) * 1e9)
            return RateLimitError(f"tiny says HTTP {response.status}", status=response.status, retry_after=after)
        if response.status in (403, 451):
            return BlockedError("tiny does not serve this country", status=response.status, hint="use another endpoint")
        return VenueError(f"tiny says HTTP {response.status}", status=response.status)


class TinyServer:
    """A real server; ``script`` talks on each WebSocket, ``rest`` answers other requests."""

    def __init__(self) -> None:
        self.script: Callable[[TinyServer, ServerConnection, int], Any] = _idle
        self.rest: Callable[[str, int], tuple[int, dict[str, str], bytes]] = lambda path, n: (200, {}, b"{}")
        self.refuse: Callable[[int], tuple[int, dict[str, str], bytes] | None] = lambda n: None
        self.connections = 0
        self.requests: list[str] = []
        self.received: list[tuple[float, str]] = []
        self.attempts = 0
        self.open: set[ServerConnection] = set()
        self._server: Server | None = None
        self.port = 0

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await serve(
            self._handle, "127.0.0.1", 0, process_request=self._request, compression=None, close_timeout=0.2
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self.attempts += 1
            answer = self.refuse(self.attempts)
        else:
            self.requests.append(request.path)
            answer = self.rest(request.path, len(self.requests))
        if answer is None:
            return None
        status, headers, body = answer
        return Response(status, "status", Headers({**headers, "Content-Length": str(len(body))}), body)

    async def _handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        self.open.add(connection)
        number = self.connections

        async def read() -> None:
            async for message in connection:
                self.received.append((asyncio.get_running_loop().time(), str(message)))

        tasks = [
            asyncio.create_task(read()),
            asyncio.create_task(connection.wait_closed()),
            asyncio.ensure_future(self.script(self, connection, number)),
        ]
        try:
            await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.open.discard(connection)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:  # a client that goes while it is sent to is no failure of the server
            if isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
                raise result

    async def wait_received(self, n: int) -> None:
        """Wait until clients sent ``n`` frames in all."""
        while len(self.received) < n:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def _idle(server: TinyServer, connection: ServerConnection, number: int) -> None:
    await connection.wait_closed()


class Rig:
    """One runner with everything around it, against a TinyServer."""

    def __init__(
        self,
        server: TinyServer,
        *,
        net: Net | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
        symbols: Sequence[str] = ("BTC",),
        rest: bool = False,
        until_end: bool = False,
        first_attempts: int = 8,
        raw: bool = False,
    ) -> None:
        self.exchange = TinyExchange(limits)
        self.feed = TinyFeed(server.ws, symbols, rest=server.http if rest else "")
        self.records: list[Any] = []
        self.batches: list[int] = []
        self.raw: list[tuple[int, str, str, str | bytes]] = []
        self.warnings: list[str] = []
        self.net = net or SystemNet()
        clock = clock or SystemClock()
        rng = system_rng()
        self.budget = WeightBudget("tiny", self.exchange.limits.weight_per_minute)
        self.scheduler = SnapshotScheduler(
            self.exchange,
            SnapshotQueue(self.budget, rng, base=20_000_000),
            self.net,
            clock,
            deliver=lambda name, symbol, body: self.runner.snapshot(symbol, body),
            give_up=lambda name, symbol, error: self.runner.snapshot_failed(symbol, error),
            warn=self.warnings.append,
        )
        self.full = False

        async def wait() -> None:
            while self.full:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)

        def sink(records: list[Any]) -> None:
            self.batches.append(len(records))
            self.records.extend(records)

        def put_raw(now: int, src: str, url: str, text: str | bytes) -> None:
            self.raw.append((now, src, url, text))

        self.hooks = Hooks(
            sink=sink,
            full=lambda: self.full,
            wait=wait,
            raw=put_raw if raw else None,
            warn=self.warnings.append,
            info=self.warnings.append,
        )
        self.runner = ConnectionRunner(
            self.feed,
            self.exchange,
            self.hooks,
            net=self.net,
            clock=clock,
            rng=rng,
            scheduler=self.scheduler,
            connects=WindowLimiter.connects(self.exchange.limits.connects_per_5min),
            until_end=until_end,
            first_attempts=first_attempts,
        )
        self.runner._backoff.base = 10_000_000  # ns: tests do not wait for half a second

    def quotes(self) -> list[int]:
        return [r.seq for r in self.records if isinstance(r, Quote)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        self.scheduler.start()
        task = asyncio.create_task(self.runner.run())
        try:
            yield task
        finally:
            await self.runner.stop()
            await asyncio.wait_for(task, 20)
            await self.scheduler.stop()
            await self.net.close()


@pytest.fixture
async def server() -> AsyncIterator[TinyServer]:
    server = TinyServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def rig() -> type[Rig]:
    return Rig


@pytest.fixture
def tiny_exchange() -> type[TinyExchange]:
    return TinyExchange


async def _until(condition: Callable[[], object], what: str = "") -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Any]:
    """Wait until a condition holds; 20 s is a hang, not a measure."""
    return _until


def _exchange_info(symbols: Sequence[str]) -> bytes:
    return json.dumps(
        {
            "timezone": "UTC",
            "serverTime": 1,
            "symbols": [
                {
                    "symbol": s,
                    "status": "TRADING",
                    "baseAsset": s.removesuffix("USDT"),
                    "quoteAsset": "USDT",
                    "filters": [
                        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
                        {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"},
                        {"filterType": "NOTIONAL", "minNotional": "5.0"},
                    ],
                }
                for s in symbols
            ],
        }
    ).encode()


class SpotServer(TinyServer):
    """Binance spot's recorded frames behind a minimal server; cmd-replay is the complete one."""

    def __init__(self, recording: Path) -> None:
        super().__init__()
        lines = list(read(recording))
        self.frames = [line.text for line in lines if line.src == "ws"]
        self.depth = next(line.text for line in lines if line.src == "rest").encode()
        self.close_code = 4000
        self.pause_after: int | None = None
        self.resume = asyncio.Event()
        self.symbols = ["BTCUSDT", "ETHUSDT"]
        self.on_depth: Callable[[int], tuple[int, dict[str, str], bytes] | None] = lambda n: None
        self.depths = 0
        self.rest = self._answer
        self.script = self._play

    def _answer(self, path: str, n: int) -> tuple[int, dict[str, str], bytes]:
        if path.startswith("/api/v3/exchangeInfo"):
            return 200, {"X-MBX-USED-WEIGHT-1M": "20"}, _exchange_info(self.symbols)
        if path.startswith("/api/v3/depth"):
            self.depths += 1
            return self.on_depth(self.depths) or (200, {"X-MBX-USED-WEIGHT-1M": "270"}, self.depth)
        return 404, {}, b"{}"

    async def _play(self, server: TinyServer, connection: ServerConnection, number: int) -> None:
        seen = len(self.received)
        while len(self.received) == seen:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
        for _, text in self.received[seen:]:
            await connection.send(json.dumps({"result": None, "id": json.loads(text)["id"]}))
        for n, frame in enumerate(self.frames):
            if n == self.pause_after and number == 1:
                await self.resume.wait()
            await connection.send(frame)
        await connection.close(self.close_code)


@pytest.fixture
async def spot(recordings: Path) -> AsyncIterator[SpotServer]:
    server = SpotServer(recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson")
    await server.start()
    yield server
    await server.stop()


class Words:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[tuple[str, int, int | None]] = []

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        raise AssertionError("nothing is served here")

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        self.steps.append((task, done, total))


@pytest.fixture
def words() -> Words:
    return Words()
