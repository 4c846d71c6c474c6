"""WebSocket without a socket: both ends of a connection as bytes in, messages and bytes out.

Theory of operation. The protocol itself (handshake, frames, masks, control frames, close) is the sans-I/O core of the
package websockets; this module adds what an endpoint owes beyond it: messages put together from fragments within one
bound, text checked as UTF-8 while it arrives, the choice of the form (SBE or JSON), the check of the origin, and the
header that makes frames of the hub a message without copying them. No compression: a message is the same bytes for
every reader, and market data in binary gains little.

A close frame between the fragments of a message is answered as a close, as RFC 6455 allows (conformance case 7.1.5).
"""

from __future__ import annotations

import codecs
import logging
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from cmd_common.errors import UsageError
from cmd_server.errors import ConnectionBrokenError, RefusedError

if TYPE_CHECKING:
    from websockets.client import ClientProtocol
    from websockets.http11 import Request, Response
    from websockets.server import ServerProtocol

__all__ = [
    "JSON_PROTOCOL",
    "SBE_PROTOCOL",
    "ClientPeer",
    "Message",
    "Peer",
    "ServerPeer",
    "header",
]

SBE_PROTOCOL: Final = "cmd.sbe"
JSON_PROTOCOL: Final = "cmd.json"
_LOGGER: Final = logging.getLogger("cmd_server.websocket")
_LOGGER.setLevel(logging.WARNING)  # the package tells of every connection

_TEXT: Final = 1
_BINARY: Final = 2
_CLOSE: Final = 8
_SHORT: Final = struct.Struct(">BB")
_MEDIUM: Final = struct.Struct(">BBH")
_LONG: Final = struct.Struct(">BBQ")

CLOSE_CODES: Final[dict[str, int]] = {
    "": 1000,
    "shutdown": 1001,
    "protocol": 1002,
    "slow": 1008,
    "token": 1008,
    "idle": 1008,
    "limit": 1013,
}
"""Close codes of RFC 6455 for the words of Bye; any other word is 1008, a policy."""


class Message(NamedTuple):
    """One whole WebSocket message."""

    text: bool
    data: bytes


def header(length: int, *, text: bool = False) -> bytes:
    """Return the header of an unmasked, unfragmented message of ``length`` bytes, as a server sends it."""
    first = 0x80 | (_TEXT if text else _BINARY)
    if length < 126:
        return _SHORT.pack(first, length)
    if length < 0x10000:
        return _MEDIUM.pack(first, 126, length)
    return _LONG.pack(first, 127, length)


class Peer:
    """One end of a WebSocket connection; ``receive`` takes bytes, ``outgoing`` hands out those to send.

    ``finished`` is true once this side has said its last word: send what is outgoing, then close the socket.
    """

    def __init__(self, protocol: ServerProtocol | ClientProtocol) -> None:
        self._protocol = protocol
        self._parts = bytearray()  # of a fragmented message; empty fragments cost nothing
        self._partial: int | None = None  # opcode of the message that is being put together
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._out: list[bytes] = []
        self.finished = False

    @property
    def open(self) -> bool:
        """Whether messages may be sent: after the handshake, before a close frame in either direction."""
        return self._protocol.state.name == "OPEN"

    @property
    def close_code(self) -> int:
        """Code of the close frame that came, 0 where none has come."""
        received = self._protocol.close_rcvd
        return int(received.code) if received is not None else 0

    @property
    def close_reason(self) -> str:
        """Text of the close frame that came."""
        received = self._protocol.close_rcvd
        return received.reason if received is not None else ""

    def receive(self, data: bytes) -> list[Message]:
        """Take bytes from the socket and return the messages that are whole now; answers are in ``outgoing``."""
        if self.finished or not data:
            return []
        self._protocol.receive_data(data)
        events = self._protocol.events_received()
        messages: list[Message] = []
        for event in events:
            self._event(event, messages)
        self._collect()
        return messages

    def receive_eof(self) -> None:
        """Note that the other side has closed its half of the connection."""
        self._protocol.receive_eof()
        self._protocol.events_received()
        self._collect()
        self.finished = True

    def outgoing(self) -> list[bytes]:
        """Return the bytes that must be sent now, in order; they are handed out once."""
        out, self._out = self._out, []
        return out

    def send(self, data: bytes, *, text: bool = False) -> None:
        """Queue one message; raises ConnectionBrokenError after a close."""
        if not self.open:
            raise ConnectionBrokenError("the WebSocket connection is closed")
        if text:
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._collect()

    def ping(self, data: bytes = b"") -> None:
        """Queue a ping; the other side answers on its own."""
        if self.open:
            self._protocol.send_ping(data)
            self._collect()

    def close(self, code: str = "", text: str = "") -> None:
        """Queue a close frame for a word of Bye; does nothing when one was sent already."""
        if self.open:
            reason = text.encode()[:123].decode(errors="ignore")  # RFC 6455: a control frame has 125 bytes at most
            self._protocol.send_close(CLOSE_CODES.get(code, 1008), reason)
            self._collect()

    def _event(self, event: Any, messages: list[Message]) -> None:
        opcode = int(event.opcode)
        if opcode >= _CLOSE:
            return
        if opcode:
            self._partial = opcode
        text = self._partial == _TEXT
        if text:
            try:
                self._decoder.decode(event.data, event.fin)
            except UnicodeDecodeError:
                self._partial = None
                self._parts.clear()
                if self.open:
                    self._protocol.fail(1007, "text that is not UTF-8")
                return
        if event.fin:
            data = bytes(self._parts) + event.data if self._parts else bytes(event.data)
            messages.append(Message(text, data))
            self._parts.clear()
            self._partial = None
            self._decoder.reset()
        else:
            self._parts += event.data

    def _collect(self) -> None:
        for piece in self._protocol.data_to_send():
            if piece:
                self._out.append(piece)
            else:
                self.finished = True


def _lenient(base: type[Any]) -> type[Any]:
    """Return the protocol class that takes a close frame between fragments for what it is."""

    class Lenient(base):  # type: ignore[misc]
        def recv_frame(self, frame: Any) -> None:
            if int(frame.opcode) == _CLOSE:
                self.current_size = None  # the unfinished message is given up with the connection
            super().recv_frame(frame)

    return Lenient


class ServerPeer(Peer):
    """The server's end: handshake with the checks of path, origin and form, then messages.

    ``origins`` are the web origins that may connect from a browser, ``*`` stands for any; a program sends no origin and
    may always. ``limit`` bounds a message in bytes. After the handshake ``form`` is ``sbe`` or ``json`` and ``bearer``
    the token of an Authorization header (empty without one).
    """

    def __init__(self, *, path: str = "/", origins: Sequence[str] = (), limit: int = 1 << 20) -> None:
        from websockets.server import ServerProtocol

        allowed = None if "*" in origins else [None, *origins]
        protocol: ServerProtocol = _lenient(ServerProtocol)(
            origins=allowed, select_subprotocol=_select, max_size=limit, logger=_LOGGER
        )
        super().__init__(protocol)
        self._server = protocol
        self._path = path.rstrip("/")
        self.form = "sbe"
        self.bearer = ""
        self.agent = ""
        self.accepted = False

    def _event(self, event: Any, messages: list[Message]) -> None:
        if self.accepted:
            super()._event(event, messages)
            return
        response = self._answer(event)
        self._server.send_response(response)

    def _answer(self, request: Request) -> Response:
        url = urlsplit(request.path)
        path = url.path.rstrip("/")
        if path not in (self._path, f"{self._path}/json"):
            return self._server.reject(404, f"Nothing is served here; connect to {self._path or '/'}\n")
        forms = {"form": "json"} if path != self._path else {k: v[-1] for k, v in parse_qs(url.query).items()}
        form = forms.get("form", "")
        if form not in ("", "sbe", "json"):
            return self._server.reject(400, "form is sbe or json\n")
        response = self._server.accept(request)
        if response.status_code == 101:
            chosen = self._server.subprotocol
            if chosen is not None and form and chosen != f"cmd.{form}":
                return self._server.reject(400, "form and subprotocol contradict each other\n")
            self.form = form or ("json" if chosen == JSON_PROTOCOL else "sbe")
            scheme, _, token = (request.headers.get_all("Authorization") or [""])[0].partition(" ")
            self.bearer = token.strip() if scheme.lower() == "bearer" else ""
            self.agent = (request.headers.get_all("User-Agent") or [""])[0][:100]
            self.accepted = True
        return response


def _select(_protocol: Any, offered: Sequence[str]) -> str | None:
    for name in (SBE_PROTOCOL, JSON_PROTOCOL):
        if name in offered:
            return name
    if offered:
        from websockets.exceptions import NegotiationError

        raise NegotiationError(f"unknown subprotocol; this server speaks {SBE_PROTOCOL} and {JSON_PROTOCOL}")
    return None


class ClientPeer(Peer):
    """A client's end; call ``start``, send what is outgoing, and feed what comes until ``ready``.

    ``receive`` raises RefusedError (code ``handshake``) where the server answers with anything but an upgrade.
    """

    def __init__(self, url: str, *, token: str = "", protocol: str = SBE_PROTOCOL, limit: int = 1 << 24) -> None:
        from websockets.client import ClientProtocol
        from websockets.exceptions import InvalidURI
        from websockets.uri import parse_uri

        try:
            uri = parse_uri(url)
        except InvalidURI as error:
            raise UsageError(f"{url!r} is no WebSocket address") from error
        client: ClientProtocol = _lenient(ClientProtocol)(
            uri, subprotocols=[protocol] if protocol else None, max_size=limit, logger=_LOGGER
        )
        super().__init__(client)
        self._client = client
        self._url = url
        self._token = token
        self.ready = False

    def start(self) -> None:
        """Queue the handshake request."""
        request = self._client.connect()
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        self._client.send_request(request)
        self._collect()

    def receive(self, data: bytes) -> list[Message]:
        """Take bytes from the socket and return whole messages; raises RefusedError for a refused handshake."""
        messages = super().receive(data)
        self._handshake()
        return messages

    def receive_eof(self) -> None:
        """Note the end of the stream; raises RefusedError where the handshake had not succeeded."""
        super().receive_eof()
        self._handshake()

    def _handshake(self) -> None:
        if self.ready:
            return
        error = self._client.handshake_exc
        if error is None:
            return
        response = getattr(error, "response", None)
        if response is not None:
            body = bytes(response.body or b"").decode(errors="replace").strip().partition("\n")[0]
            raise RefusedError(
                f"{self._url} answered {response.status_code}{': ' + body[:200] if body else ''}", "handshake"
            )
        raise RefusedError(f"{self._url} does not speak WebSocket ({error})", "handshake")

    def _event(self, event: Any, messages: list[Message]) -> None:
        if self.ready:
            super()._event(event, messages)
        elif self._client.handshake_exc is None:
            self.ready = True  # the response of the handshake
