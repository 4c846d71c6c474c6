"""WebSocket connections by picows, behind ``cmd_common.seams.WebSocket``; same behaviour as ``plainws``."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from picows import WSCloseCode, WSError, WSFrame, WSHandshakeError, WSListener, WSMsgType, WSTransport, ws_connect

from cmd_common.errors import DisconnectedError

from .net import IDLE_PING, MAX_MESSAGE, OPEN_TIMEOUT, handshake_error

if TYPE_CHECKING:
    from picows.picows import WSCloseHandshake

__all__ = ["FastWebSocket", "connect"]

HIGH_WATER = 4096  # frames that wait for receive() before the peer is slowed down
LOW_WATER = 512
_TEXT: Final = WSMsgType.TEXT  # as a global: the enum's attribute is looked up slowly
CLOSE_WAIT = 2.0  # s for the peer's close frame

# Every library message is also in the error that we raise; a second line would only confuse.
_SILENT = logging.getLogger("cmd_feed.picows")
_SILENT.propagate = False
_SILENT.addHandler(logging.NullHandler())


async def connect(
    url: str, *, headers: Mapping[str, str], proxy: str | None, tls: ssl.SSLContext | None
) -> FastWebSocket:
    """Open a connection; raises HandshakeError or DisconnectedError, and OSError from below."""
    loop = asyncio.get_running_loop()
    try:
        _, listener = await asyncio.wait_for(
            ws_connect(
                lambda: FastWebSocket(loop),
                url,
                ssl_context=tls,
                websocket_handshake_timeout=OPEN_TIMEOUT,
                enable_auto_ping=True,
                auto_ping_idle_timeout=IDLE_PING,
                auto_ping_reply_timeout=IDLE_PING,
                max_frame_size=MAX_MESSAGE,
                extra_headers=headers,
                proxy=proxy,
                logger_name=_SILENT,
            ),
            OPEN_TIMEOUT,
        )
    except WSHandshakeError as error:
        response = error.response
        if response is not None and int(response.status) != 101:
            raise handshake_error(url, int(response.status), dict(response.headers), error.raw_body or b"") from error
        raise DisconnectedError(f"cannot open {url.partition('?')[0]}: {error}") from error
    except WSError as error:
        raise DisconnectedError(f"cannot open {url.partition('?')[0]}: {error}") from error
    assert isinstance(listener, FastWebSocket)
    return listener


def _number(code: WSCloseCode) -> int:
    return int(code)  # type: ignore[call-overload, no-any-return]  # compiled: an IntEnum, typed as an Enum


class FastWebSocket(WSListener):
    """One open connection: frames queue here until ``receive`` takes them, without a task switch."""

    __slots__ = (
        "_append",
        "_by_us",
        "_code",
        "_frames",
        "_gone",
        "_loop",
        "_parts",
        "_parts_size",
        "_parts_text",
        "_paused",
        "_reason",
        "_transport",
        "_waiter",
    )  # read for every frame

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._frames: deque[str | bytes] = deque()
        self._append = self._frames.append
        self._transport: WSTransport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._parts: list[bytes] = []  # of a fragmented message
        self._parts_size = 0
        self._parts_text = False
        self._paused = False
        self._code: int | None = None
        self._reason = ""
        self._by_us = False

    # ---- picows callbacks

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """One frame; the payload must be copied before returning."""
        kind = frame.msg_type
        if kind is _TEXT and frame.fin and not self._parts and not frame.rsv1:
            try:
                self._append(frame.get_payload_as_utf8_text())
            except UnicodeDecodeError:
                self._fail(WSCloseCode.INVALID_TEXT, "the server sent text that is not UTF-8")
            if frame.last_in_buffer:  # a read gives some frames at once: what waits for them is looked at once
                self._arrived()
        elif kind == WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            if self._code is None:
                self._code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
                self._reason = payload[2:].decode("utf-8", "replace")
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._part(kind, bool(frame.fin), bool(frame.rsv1), frame.get_payload_as_bytes())
        # PING is answered by picows, PONG needs nothing

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is closed."""
        if self._code is None:
            self._code = 1006
            shake: WSCloseHandshake | None = transport.close_handshake
            if shake is not None and shake.sent is not None:  # picows itself gave up: too big, no pong, ...
                self._code, self._reason, self._by_us = _number(shake.sent.code), shake.sent.reason or "", True
        if not self._gone.done():
            self._gone.set_result(None)
        self._wake()

    # ---- seam

    async def send(self, frame: str) -> None:
        """Send one text frame; raises DisconnectedError."""
        if self._code is not None or self._transport is None:
            raise self._closed()
        self._transport.send(WSMsgType.TEXT, frame)

    async def receive(self) -> str | bytes:
        """Return the next data message; raises DisconnectedError once closed and drained."""
        if not self._frames:
            await self._wait()
        frame = self._frames.popleft()
        if self._paused and len(self._frames) <= LOW_WATER:
            self._resume()
        return frame

    async def receive_all(self) -> list[str | bytes]:
        """Return all data messages that are there, at least one; raises DisconnectedError once closed and drained."""
        if not self._frames:
            await self._wait()
        frames = list(self._frames)
        self._frames.clear()
        if self._paused:
            self._resume()
        return frames

    async def close(self) -> None:
        """Close with 1000 and wait two seconds for the answer."""
        transport = self._transport
        if transport is None or self._gone.done():
            return
        if self._code is None:
            self._code, self._by_us = 1000, True
            transport.send_close(WSCloseCode.OK)
        if self._paused:  # else the peer's close frame is never read
            self._paused = False
            transport.underlying_transport.resume_reading()
        await asyncio.wait((self._gone,), timeout=CLOSE_WAIT)
        if not self._gone.done():
            transport.underlying_transport.abort()

    @property
    def close_code(self) -> int | None:
        """The close code once closed."""
        return self._code

    # ---- inside

    async def _wait(self) -> None:
        while not self._frames:
            if self._gone.done():
                raise self._closed()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self._gone.done():
            self._transport.underlying_transport.resume_reading()

    def _put(self, message: str | bytes) -> None:
        self._frames.append(message)
        self._arrived()

    def _arrived(self) -> None:
        if len(self._frames) >= HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.underlying_transport.pause_reading()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _part(self, kind: WSMsgType, fin: bool, compressed: bool, payload: bytes) -> None:
        first = kind != WSMsgType.CONTINUATION
        if compressed or first == bool(self._parts):
            self._fail(WSCloseCode.PROTOCOL_ERROR, "the server sent a fragment out of order")
            return
        if first:
            self._parts_text = kind == WSMsgType.TEXT
        self._parts.append(payload)
        self._parts_size += len(payload)
        if self._parts_size > MAX_MESSAGE:
            self._fail(WSCloseCode.MESSAGE_TOO_BIG, "the server sent a message of more than 64 MiB")
            return
        if not fin:
            return
        whole = b"".join(self._parts)
        self._parts.clear()
        self._parts_size = 0
        try:
            self._put(whole.decode() if self._parts_text else whole)
        except UnicodeDecodeError:
            self._fail(WSCloseCode.INVALID_TEXT, "the server sent text that is not UTF-8")

    def _fail(self, code: WSCloseCode, reason: str) -> None:
        if self._code is None and self._transport is not None:
            self._code, self._reason, self._by_us = _number(code), reason, True
            self._transport.send_close(code)
            self._transport.disconnect()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _closed(self) -> DisconnectedError:
        if self._code == 1006:
            return DisconnectedError("the connection was lost without a close frame (1006)")
        by = "us" if self._by_us else "the server"
        reason = f" {self._reason}" if self._reason else ""
        return DisconnectedError(f"closed by {by} with code {self._code}{reason}")
