"""WebSocket: SBE in binary messages for programs, JSON in text messages for browsers.

    server: ws:127.0.0.1:9998[/PATH]?origin=https://example.org    with TLS: &tls_cert=server.pem&tls_key=server.key
    client: ws:127.0.0.1:9998[/PATH]                               with TLS: ?tls=1&ca=ca.pem

A binary message holds one or more whole frames of the wire format; a text message is one JSON object. A client chooses
by subprotocol (``cmd.sbe``, ``cmd.json``), by ``?form=json`` or by the path ``PATH/json``; SBE is the default. A browser
must come from an origin that is listed (comma list, ``*``: any): otherwise any page that somebody opens could read
the feed of this machine. A program sends no origin. The token stands in Login or in ``Authorization: Bearer``.

Nothing is encoded for one reader alone: a binary message is a header and the hub's own frames, and the text of a frame
is made once for all readers. Sockets, bounds and backpressure are those of ``cmd_server.sockets``.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from cmd_common.errors import CmdError, UsageError

from . import codec, json_form, security, tcp
from .errors import ConnectionBrokenError, WireError
from .messages import Template
from .sockets import Channel, Handler, SocketListener, listening
from .transport import Address, BlockingLink, Link, LinkOptions, Listener, ListenOptions, ServerSide, Session, only
from .wsprotocol import ClientPeer, Message, ServerPeer, header

__all__ = ["TRANSPORT", "BlockingWebSocketLink", "Texts", "WebSocketLink", "WebSocketPort", "WebSocketTransport"]

_KEYS: Final = {
    "origin": "server",
    "tls_cert": "server",
    "tls_key": "server",
    "tls": "client",
    "ca": "client",
}
_TEMPLATE: Final = struct.Struct("<8xH28xI")  # of a frame: template, instrument
_GENERATION: Final = 4096  # texts that are kept for other readers
_GENERATION_BYTES: Final = 16 << 20
_RECEIVE: Final = 256 << 10


class Texts:
    """The text messages of frames, header included, made once for all readers; at most two generations are kept."""

    def __init__(self, names: Callable[[int], tuple[str, str]]) -> None:
        self._names = names
        self._new: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._bytes = 0  # of the texts in the newer generation

    def of(self, frame: bytes) -> bytes:
        """Return a frame as a text message. The bytes of a frame keep their hash, so that a hit costs little."""
        text = self._new.get(frame)
        if text is None:
            text = self._old.get(frame)
            if text is None:
                text = self._make(frame)
            if len(self._new) >= _GENERATION or self._bytes >= _GENERATION_BYTES:
                self._old, self._new, self._bytes = self._new, {}, 0
            self._new[frame] = text
            self._bytes += len(text)
        return text

    def _make(self, frame: bytes) -> bytes:
        template, instrument = _TEMPLATE.unpack_from(frame)
        if template >= Template.HELLO:
            text = json_form.service(codec.decode_service(frame))
        else:
            text = json_form.to_json(frame, *self._names(instrument))
        data = text.encode()
        return header(len(data), text=True) + data


class WebSocketPort:
    """One WebSocket connection as the server sees it, from the first byte of the handshake."""

    form = "sbe"

    def __init__(
        self, server: ServerSide, channel: Channel, peer: str, settle: Callable[[], None], ws: ServerPeer, texts: Texts
    ) -> None:
        self.peer = peer
        self._server = server
        self._channel = channel
        self._settle = settle
        self._ws = ws
        self._texts = texts
        self._session: Session = None
        self._opened = False
        self._closing = False
        self.pause = channel.pause
        self.resume = channel.resume
        self.abort = channel.abort

    # -- for the server

    @property
    def writable(self) -> bool:
        """Whether it takes more."""
        return self._channel.writable and not self._closing

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return self._channel.unsent

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames as one binary message, or each as a text message."""
        if self._closing or not frames:
            return
        if self.form == "json":
            self._channel.write([*map(self._texts.of, frames)])
        else:
            self._channel.write([header(sum(map(len, frames))), *frames])

    def close(self, code: str = "", text: str = "") -> None:
        """Send what is unsent and a close frame, then close."""
        if self._closing:
            return
        self._closing = True
        self._ws.close(code, text)
        self._flush()
        self._channel.close()

    # -- for the channel

    def connected(self) -> None:
        """Wait for the handshake of WebSocket."""

    def received(self, data: memoryview) -> None:
        """Take bytes: first the handshake, then messages."""
        if self._closing:
            return
        messages = self._ws.receive(bytes(data))
        self._flush()
        if self._ws.accepted and not self._opened:
            self._opened = True
            self.form = self._ws.form
            self._channel.settled()
            self._settle()
            self.begin(self._ws.bearer)
        for message in messages:
            if not self._closed():
                self.message(message)
        if self._ws.finished and not self._closed():
            # The answer to a close frame, a broken rule or a refused handshake: nothing more is to be said.
            self._closing = True
            self._channel.close()

    def drained(self) -> None:
        """Pass on that more can be sent."""
        if self._session is not None and not self._closing:
            self._server.writable(self._session)

    def lost(self, error: Exception | None) -> None:
        """Pass on that it is over."""
        self._settle()
        self._closing = True
        if self._session is not None:
            self._server.closed(self._session, error)

    # -- what the endpoint does with messages; conformance tests put an echo here

    def begin(self, token: str) -> None:
        """Greet the client: the handshake is done."""
        self._session = self._server.opened(self, token=token)

    def message(self, message: Message) -> None:
        """Pass on one whole message."""
        if message.text != (self.form == "json"):
            self._fail(
                "a text message, but this connection speaks SBE" if message.text else "a binary message, but JSON"
            )
            return
        self._server.received(self._session, message.data)

    def say(self, message: Message) -> None:
        """Send one message of the protocol, outside the wire format."""
        if not self._closing and self._ws.open:
            self._channel.write([header(len(message.data), text=message.text), message.data])

    def _closed(self) -> bool:
        return self._closing  # a message may have changed it

    def _fail(self, text: str) -> None:
        self.close("protocol", text)

    def _flush(self) -> None:
        outgoing = self._ws.outgoing()
        if outgoing:
            self._channel.write(outgoing)


class WebSocketTransport:
    """The transport ``ws``; see the module. ``port`` makes the server's ports."""

    def __init__(self, port: type[WebSocketPort] = WebSocketPort) -> None:
        self._port = port

    def local(self, address: Address) -> bool:
        """Whether only this machine can reach a listener there."""
        return security.loopback(address.host_port(path=True)[0])

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> Listener:
        """Bind and accept; raises UsageError, ServerError."""
        _present()
        only(address, _KEYS, "server")
        host, port, path = address.host_port(path=True)
        if any(c in path for c in "?#%"):
            raise UsageError(f"the path {path!r} has characters that are not taken literally")
        origins = _origins(address)
        tls = security.server_tls(address)
        family, place = await tcp.resolve(host, port, address)
        sock = listening(family, place, address, options, "choose an address of this machine")
        texts = Texts(server.names)
        bound = sock.getsockname()[1]

        def make(channel: Channel, peer: str, settle: Callable[[], None]) -> Handler:
            ws = ServerPeer(path=path or "/", origins=origins, limit=options.max_message)
            return self._port(server, channel, peer, settle, ws, texts)

        shown = f"[{host}]" if ":" in host else host
        return SocketListener(address.at(f"{shown}:{bound}{path}"), sock, make, options, tls=tls, peer=tcp.peer_name)

    async def connect(self, address: Address, options: LinkOptions) -> WebSocketLink:
        """Connect and shake hands; raises ConnectionBrokenError, RefusedError."""
        stream, ws = _client(address, options)
        inner = await tcp.TRANSPORT.connect(stream, options)
        link = WebSocketLink(inner, ws)
        try:
            async with asyncio.timeout(options.timeout / 1e9):
                await link.handshake()
        except BaseException as error:
            await inner.close()
            if isinstance(error, TimeoutError):
                raise _late(address, options) from None
            raise
        return link

    def open(self, address: Address, options: LinkOptions) -> BlockingWebSocketLink:
        """Do the same, blocking."""
        stream, ws = _client(address, options)
        inner = tcp.TRANSPORT.open(stream, options)
        link = BlockingWebSocketLink(inner, ws)
        try:
            link.handshake(options.timeout / 1e9)
        except BaseException as error:
            inner.close()
            if isinstance(error, TimeoutError):
                raise _late(address, options) from None
            raise
        return link


TRANSPORT: Final = WebSocketTransport()


def _present() -> None:
    try:
        import websockets  # noqa: F401  the extra websocket
    except ModuleNotFoundError as error:
        if error.name != "websockets":
            raise
        raise UsageError(
            "WebSocket needs the package websockets", hint="install it: pip install 'cmd-server[websocket]'"
        ) from None


def _origins(address: Address) -> tuple[str, ...]:
    origins = tuple(o.strip().rstrip("/") for o in address.options.get("origin", "").split(",") if o.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "*" and origin != "null" and (not parts.scheme or not parts.netloc or parts.path):
            raise UsageError(f"{origin!r} is no origin", hint="write it as https://example.org[:port], or * for any")
    return origins


def _late(address: Address, options: LinkOptions) -> ConnectionBrokenError:
    return ConnectionBrokenError(f"{address} did not answer within {options.timeout / 1e9:g} s")


def _client(address: Address, options: LinkOptions) -> tuple[Address, ClientPeer]:
    """Return the address of the stream below, and the client's end of the protocol."""
    _present()
    only(address, _KEYS, "client")
    host, port, path = address.host_port(path=True)
    shown = f"[{host}]" if ":" in host else host
    scheme = "wss" if address.switch("tls") else "ws"
    # The token is shown in the handshake where nobody on the way can read it: over TLS, or on this machine.
    shows = scheme == "wss" or security.loopback(host)
    ws = ClientPeer(
        f"{scheme}://{shown}:{port}{path or '/'}",
        token=options.token if shows else "",
        limit=options.max_message,
    )
    return Address("tcp", f"{shown}:{port}", address.options), ws


class _Received:
    """Payloads of binary messages as one stream of bytes."""

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._offset = 0

    def __bool__(self) -> bool:
        return bool(self._data)

    def add(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.text:
                raise WireError("the server sent text on a connection that speaks SBE")
            if message.data:
                self._data.append(message.data)

    def read(self, buffer: memoryview) -> int:
        size, room, used = 0, len(buffer), 0
        for data in self._data:
            piece = memoryview(data)[self._offset :][: room - size]
            buffer[size : size + len(piece)] = piece
            size += len(piece)
            if self._offset + len(piece) < len(data):
                self._offset += len(piece)
                break
            self._offset = 0
            used += 1
            if size == room:
                break
        del self._data[:used]
        return size


def _ended(ws: ClientPeer, closed: bool) -> None:
    """Raise ConnectionBrokenError unless the connection was closed in order."""
    if not closed and ws.close_code not in (1000, 1001, 1005, 1008, 1013):
        what = f" ({ws.close_code} {ws.close_reason})" if ws.close_code else ""
        raise ConnectionBrokenError(f"connection broken{what}")


class WebSocketLink:
    """A client's connection for asyncio."""

    def __init__(self, inner: Link, ws: ClientPeer) -> None:
        self.peer = inner.peer
        self.ws = ws
        self._inner = inner
        self._buffer = memoryview(bytearray(_RECEIVE))
        self._received = _Received()
        self._closed = False
        self._lock = asyncio.Lock()

    async def handshake(self) -> None:
        """Ask for WebSocket and wait until the server agrees; raises RefusedError, ConnectionBrokenError."""
        self.ws.start()
        await self.flush()
        while not self.ws.ready:
            self._received.add(await self.messages())
            if self.ws.finished and not self.ws.ready:
                raise ConnectionBrokenError("the connection was closed during the handshake")

    async def messages(self) -> list[Message]:
        """Wait for bytes and return the messages that are whole; none at the end, when ``ws.finished``."""
        if self.ws.finished:
            return []
        size = await self._inner.receive_into(self._buffer)
        if not size:
            self.ws.receive_eof()
            return []
        messages = self.ws.receive(bytes(self._buffer[:size]))
        await self.flush()
        return messages

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and write them to ``buffer``; 0: closed in order. Raises ConnectionBrokenError, WireError."""
        while not self._received:
            if self._closed or self.ws.finished:
                _ended(self.ws, self._closed)
                return 0
            # Not ``messages``: what was read must be kept before anything is awaited, where this call is cancelled.
            size = await self._inner.receive_into(self._buffer)
            if size:
                self._received.add(self.ws.receive(bytes(self._buffer[:size])))
                await self.flush()
            else:
                self.ws.receive_eof()
        return self._received.read(buffer)

    async def send(self, frame: bytes) -> None:
        """Send one or more whole frames as one binary message."""
        await self.say(Message(False, frame))

    async def say(self, message: Message) -> None:
        """Send one message; raises ConnectionBrokenError."""
        self.ws.send(message.data, text=message.text)
        await self.flush()

    async def flush(self) -> None:
        """Send what the protocol has to say."""
        async with self._lock:
            outgoing = self.ws.outgoing()
            if outgoing:
                await self._inner.send(b"".join(outgoing))

    async def close(self) -> None:
        """Say goodbye and close."""
        self._closed = True
        self.ws.close()
        with contextlib.suppress(CmdError, TimeoutError):
            async with asyncio.timeout(1):
                await self.flush()
        await self._inner.close()


class BlockingWebSocketLink:
    """A client's connection for threads."""

    def __init__(self, inner: BlockingLink, ws: ClientPeer) -> None:
        self.peer = inner.peer
        self._inner = inner
        self._ws = ws
        self._buffer = memoryview(bytearray(_RECEIVE))
        self._received = _Received()
        self._closed = False
        self._lock = threading.Lock()

    def handshake(self, timeout: float) -> None:
        """Ask for WebSocket and wait until the server agrees; raises RefusedError, TimeoutError."""
        self._ws.start()
        self._flush()
        while not self._ws.ready:
            self._read(timeout)
            if self._ws.finished and not self._ws.ready:
                raise ConnectionBrokenError("the connection was closed during the handshake")

    def receive_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        """Wait for bytes; 0: closed in order. Raises ConnectionBrokenError, TimeoutError, WireError."""
        while not self._received:
            if self._closed or self._ws.finished:
                _ended(self._ws, self._closed)
                return 0
            self._read(timeout)
        return self._received.read(buffer)

    def send(self, frame: bytes) -> None:
        """Send one or more whole frames as one binary message."""
        with self._lock:
            self._ws.send(frame)
        self._flush()

    def close(self) -> None:
        """Say goodbye and close."""
        self._closed = True
        with self._lock:
            self._ws.close()
        with contextlib.suppress(CmdError):
            self._flush()
        self._inner.close()

    def _read(self, timeout: float | None) -> None:
        size = self._inner.receive_into(self._buffer, timeout)
        with self._lock:
            if size:
                self._received.add(self._ws.receive(bytes(self._buffer[:size])))
            else:
                self._ws.receive_eof()
        self._flush()

    def _flush(self) -> None:
        with self._lock:  # held while sending: what two threads have to say must not change places
            outgoing = self._ws.outgoing()
            if outgoing:
                self._inner.send(b"".join(outgoing))
