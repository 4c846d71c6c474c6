"""WebSocket connections by the websockets library, behind ``cmd_common.seams.WebSocket``."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_connection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from cmd_common.errors import DisconnectedError

from .net import IDLE_PING, MAX_MESSAGE, OPEN_TIMEOUT, USER_AGENT, handshake_error

__all__ = ["PlainWebSocket", "connect"]

MAX_QUEUE = 512  # frames that wait for receive() before the peer is slowed down


async def connect(
    url: str, *, headers: Mapping[str, str], proxy: str | None, tls: ssl.SSLContext | None
) -> PlainWebSocket:
    """Open a connection; raises HandshakeError or DisconnectedError, and OSError from below."""
    extra = {k: v for k, v in headers.items() if k.lower() != "user-agent"}
    # the library refuses the argument for ws: URLs, even None
    extra_arguments: dict[str, Any] = {"ssl": tls} if tls is not None else {}
    try:
        connection = await open_connection(
            url,
            additional_headers=extra,
            user_agent_header=USER_AGENT,
            proxy=proxy,
            compression=None,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=2,
            ping_interval=IDLE_PING,
            ping_timeout=IDLE_PING,
            max_size=MAX_MESSAGE,
            max_queue=MAX_QUEUE,
            **extra_arguments,
        )
    except InvalidStatus as error:
        response = error.response
        raise handshake_error(
            url, response.status_code, dict(response.headers.raw_items()), bytes(response.body or b"")
        ) from error
    except WebSocketException as error:
        raise DisconnectedError(f"cannot open {url.partition('?')[0]}: {error}") from error
    return PlainWebSocket(connection)


class PlainWebSocket:
    """One open connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._code: int | None = None

    async def send(self, frame: str) -> None:
        """Send one text frame; raises DisconnectedError."""
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            raise self._closed(error) from error

    async def receive(self) -> str | bytes:
        """Return the next data message; raises DisconnectedError once closed and drained."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise self._closed(error) from error

    async def receive_all(self) -> list[str | bytes]:
        """Return the next data message alone: websockets does not say what else is there; raises as ``receive`` does."""
        return [await self.receive()]

    async def close(self) -> None:
        """Close with 1000 and wait two seconds for the answer."""
        try:
            await self._connection.close()
        except (OSError, WebSocketException):
            pass  # it is closed either way

    @property
    def close_code(self) -> int | None:
        """The close code once closed; ours where the peer sent none."""
        code = self._connection.close_code if self._code is None else self._code
        return None if code is None else int(code)

    def _closed(self, error: ConnectionClosed) -> DisconnectedError:
        frame = error.rcvd
        if frame is not None:
            reason = f" {frame.reason}" if frame.reason else ""
            return DisconnectedError(f"closed by the server with code {int(frame.code)}{reason}")
        if error.sent is not None:
            self._code = int(error.sent.code)
            reason = f" {error.sent.reason}" if error.sent.reason else ""
            return DisconnectedError(f"closed by us with code {int(error.sent.code)}{reason}")
        return DisconnectedError("the connection was lost without a close frame (1006)")
