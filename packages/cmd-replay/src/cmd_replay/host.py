"""Hosts one emulator on a port: WebSocket and HTTP beside each other, as exchanges serve them.

    async with Host(emulator, "127.0.0.1", 0) as host:
        print(host.endpoint)            # http://127.0.0.1:PORT
        await host.done.wait()          # everything was sent and every client is gone

The protocol lives in the emulator; this shell only moves bytes. One task a venue asks the emulator what
is due and sends it. Sending waits for slow clients (the timeline then waits too, nothing piles up); a
client that takes nothing for ``STALL`` seconds is dropped. Every HTTP response closes its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from cmd_common.emulation import Accept, Close, Emulator, Pending, Ping, ServerFrame, Text
from cmd_common.errors import CmdError
from cmd_common.http import HttpResponse
from cmd_common.seams import Clock, SystemClock

__all__ = ["Host"]

STALL = 60.0  # seconds that a client may take nothing
_LONGEST = 0.25  # seconds between two looks at the clock, so that a clock that jumps does no harm
_REFUSED = "emulator refused"


class Host:
    """Serves one emulator; an async context manager."""

    def __init__(self, emulator: Emulator, address: str, port: int, *, clock: Clock | None = None) -> None:
        self._emulator = emulator
        self._address = address
        self._port = port
        self._clock = clock or SystemClock()
        self._server: Server | None = None
        self._sockets: dict[int, ServerConnection] = {}
        self._numbers = 0
        self._opening: dict[ServerConnection, int] = {}
        self._waiting: dict[int, asyncio.Future[HttpResponse]] = {}
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # frames leave in the order in which the emulator made them
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pump_task: asyncio.Task[None] | None = None
        self.finished = asyncio.Event()  # everything was sent
        self.done = asyncio.Event()  # and every client is gone
        self.frames = 0  # sent to clients

    @property
    def endpoint(self) -> str:
        """Base URL of the venue here."""
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._port}"

    async def __aenter__(self) -> Host:
        logger = logging.getLogger("cmd_replay.websockets")
        logger.setLevel(logging.CRITICAL)  # what clients do to their connections is no news
        try:
            self._server = await serve(
                self._connection,
                self._address,
                self._port,
                process_request=self._request,
                compression=None,
                open_timeout=120,
                ping_interval=None,
                close_timeout=2,
                max_size=1 << 20,
                max_queue=64,
                server_header="cmd-replay",
                logger=logger,
            )
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise CmdError(
                f"cannot listen on {self._address}:{self._port}: {reason}", hint="choose another --listen ADDRESS:PORT"
            ) from None
        for listening in self._server.sockets:
            if listening.family in (socket.AF_INET, socket.AF_INET6):
                self._port = listening.getsockname()[1]
                break
        self._pump_task = asyncio.create_task(self._pump())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pump_task is not None:
            self._pump_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump_task
        for future in self._waiting.values():
            if not future.done():
                future.set_result(HttpResponse(503, b"shutting down", {"content-type": "text/plain"}))
        for task in list(self._tasks):
            task.cancel()
        if self._server is not None:
            self._server.close(close_connections=True)
            for connection in list(self._sockets.values()):
                connection.transport.abort()
            await self._server.wait_closed()

    async def failed(self) -> None:
        """Wait for the pump, which only ends by an error, and raise it."""
        if self._pump_task is not None:
            await asyncio.shield(self._pump_task)

    # HTTP and handshakes

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        now = self._clock.now()
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        if headers.get("upgrade", "").lower() == "websocket":
            self._numbers += 1
            number = self._numbers
            answer = self._emulator.ws_open(number, request.path, headers, now)
            if isinstance(answer, Accept):
                self._opening[connection] = number
                return None
            return _response(answer)
        result = self._emulator.http("GET", request.path, headers, now)
        self._wake.set()
        if isinstance(result, Pending):
            future: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
            self._waiting[result.token] = future
            gone = asyncio.ensure_future(connection.wait_closed())
            try:
                await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
                result = future.result() if future.done() else HttpResponse(408, b"")
            finally:
                gone.cancel()
                self._waiting.pop(self._token(future), None)
        return _response(result)

    def _token(self, future: asyncio.Future[HttpResponse]) -> int:
        return next((token for token, waiting in self._waiting.items() if waiting is future), -1)

    async def _connection(self, connection: ServerConnection) -> None:
        number = self._opening.pop(connection)
        self._sockets[number] = connection
        self._wake.set()
        try:
            async for message in connection:
                text = message if isinstance(message, str) else message.decode("utf-8", "replace")
                # Replies queue behind frames that are being sent: a snapshot must not overtake what precedes it.
                async with self._turn:
                    await self._carry_out(self._emulator.ws_receive(number, text, self._clock.now()))
                self._wake.set()
        except ConnectionClosed:
            pass
        finally:
            self._sockets.pop(number, None)
            self._emulator.ws_closed(number, self._clock.now())
            self._wake.set()

    # The timeline

    async def _pump(self) -> None:
        emulator, clock = self._emulator, self._clock
        while True:
            self._wake.clear()
            async with self._turn:
                poll = emulator.poll(clock.now())
                if poll.frames:
                    await self._carry_out(poll.frames)
            for token, response in poll.responses:
                future = self._waiting.get(token)
                if future is not None and not future.done():
                    future.set_result(response)
            if poll.finished:
                self.finished.set()
                if not self._sockets and not self._opening:
                    self.done.set()
            wait = _LONGEST
            if poll.next_time is not None:
                wait = min(wait, (poll.next_time - clock.now()) / 1e9)
            if wait <= 0 or self._wake.is_set():
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def _carry_out(self, frames: list[ServerFrame]) -> None:
        for frame in frames:
            connection = self._sockets.get(frame.connection)
            if connection is None:
                connection = next((c for c, n in self._opening.items() if n == frame.connection), None)
                if connection is None or not await self._opened(frame.connection):
                    continue
                connection = self._sockets.get(frame.connection, connection)
            if isinstance(frame, Text):
                self.frames += 1
                await self._send(connection, frame.text)
            elif isinstance(frame, Ping):
                self._spawn(self._ping(connection, frame))
            else:
                self._shut(connection, frame)

    async def _opened(self, number: int) -> bool:
        """Wait for a handshake that the emulator has accepted but the client not yet seen."""
        for _ in range(1000):
            if number in self._sockets:
                return True
            if number not in self._opening.values():
                return False
            await asyncio.sleep(0.001)
        return False

    async def _send(self, connection: ServerConnection, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        try:
            if connection.transport.get_write_buffer_size() < 32_768:
                await connection.send(data, text=True)
            else:
                async with asyncio.timeout(STALL):
                    await connection.send(data, text=True)
        except TimeoutError:
            connection.transport.abort()
        except ConnectionClosed:
            pass

    def _shut(self, connection: ServerConnection, frame: Close) -> None:
        if frame.code == 0:
            connection.transport.abort()
        else:
            self._spawn(connection.close(frame.code, frame.reason))

    async def _ping(self, connection: ServerConnection, frame: Ping) -> None:
        try:
            pong = await connection.ping(frame.payload)
            if frame.timeout:
                async with asyncio.timeout(frame.timeout / 1e9):
                    await pong
        except TimeoutError:
            await connection.close(1008, "Pong timeout")
        except (ConnectionClosed, RuntimeError):
            pass  # gone, or the same ping is still on its way

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _response(answer: HttpResponse) -> Response:
    reason = answer.reason or _phrase(answer.status)
    headers = Headers(_pairs(answer))
    return Response(answer.status, reason, headers, answer.body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _pairs(answer: HttpResponse) -> Iterator[tuple[str, str]]:
    for name, value in answer.headers.items():
        yield "-".join(part.capitalize() for part in name.split("-")), value
    yield "Content-Length", str(len(answer.body))
    yield "Connection", "close"
