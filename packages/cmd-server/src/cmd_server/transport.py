"""How bytes travel: the text of addresses, and what a transport gives a server and a client.

Theory of operation. A transport is an object registered under its scheme in the entry-point group ``cmd.transports``.
On the server's side it listens and makes a ``Port`` of every connection; it tells the server about it by the four
calls of ``ServerSide`` and takes frames through ``Port.send``. A port keeps what the network does not take at once,
at most a bounded amount: while ``writable`` is false the server gives it nothing more and the frames stay in the
client's queue of the hub, where its policy applies. On a client's side a transport opens a ``Link``: a stream of
whole or partial frames in both directions, for asyncio or blocking.

An address is ``SCHEME:TARGET[?key=value&...]``; values are percent-decoded:

    tcp:127.0.0.1:9999                     tcp:0.0.0.0:9999?tls_cert=server.pem&tls_key=server.key
    unix:/run/cmd.sock?mode=660            unix:@name (an abstract name)
    ws:127.0.0.1:9998/feed?origin=https://example.org
    multicast:239.1.2.3:9997?interface=127.0.0.1&recovery=tcp:127.0.0.1:9999
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable
from urllib.parse import quote, unquote

from msgspec import Struct

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.registry import load
from cmd_common.symbols import nearest

if TYPE_CHECKING:
    from .hub import Hub
    from .messages import Request

__all__ = [
    "Address",
    "Accompanied",
    "BlockingLink",
    "Buffer",
    "CarriedPort",
    "Diverting",
    "Lasting",
    "Link",
    "LinkOptions",
    "ListenOptions",
    "Listener",
    "Port",
    "ServerSide",
    "Session",
    "Transport",
    "only",
    "transport_of",
]

Buffer = bytes | bytearray | memoryview
Session = Any
"""What the server knows of one port; a transport only hands it back."""

_SECOND: Final = 1_000_000_000
_GRAMMAR: Final = "write it as SCHEME:TARGET[?key=value&...], such as tcp:127.0.0.1:9999 or unix:/run/cmd.sock"


class Address(Struct, frozen=True):
    """One parsed address; ``str`` gives its text again."""

    scheme: str
    target: str  # as written, up to the question mark
    options: dict[str, str] = {}

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address; raises UsageError for text that is none. Its scheme's transport checks the rest."""
        scheme, colon, rest = text.strip().partition(":")
        if not colon or not scheme.isascii() or not scheme.isalnum() or not rest.isprintable():
            raise UsageError(f"{text!r} is no address", hint=_GRAMMAR)
        # ws://HOST is what a browser calls the same thing.
        target, question, query = rest.removeprefix("//").partition("?")
        if not target:
            raise UsageError(f"{text!r} names no target", hint=_GRAMMAR)
        options: dict[str, str] = {}
        for pair in query.split("&") if question else ():
            key, equals, value = pair.partition("=")
            if not key or not equals:
                raise UsageError(f"{pair!r} in {text!r} is no option of an address", hint="write it as key=value")
            if key in options:
                raise UsageError(f"{text!r} says {key} twice")
            options[key] = unquote(value)
        return cls(scheme.lower(), target, options)

    def check(self, keys: Iterable[str]) -> None:
        """Raise UnknownNameError, with the nearest key, for an option that its transport does not know."""
        known = sorted(keys)
        for key in self.options:
            if key not in known:
                close = nearest(key, known)
                hint = "" if close else f"{self.scheme} knows {', '.join(known)}" if known else "it takes none"
                raise UnknownNameError(f"option of {self.scheme} addresses", key, close, hint=hint)

    def number(self, key: str, default: int, least: int, most: int, base: int = 10) -> int:
        """Return an option as a number; raises UsageError."""
        text = self.options.get(key)
        if text is None:
            return default
        try:
            value = int(text, base)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            shown = (str(least), str(most)) if base == 10 else (f"{least:o}", f"{most:o}")
            raise UsageError(f"{key}={text} of {self} is no number from {shown[0]} to {shown[1]}")
        return value

    def switch(self, key: str) -> bool:
        """Return whether an option is ``1`` (or ``0``, or not given); raises UsageError for anything else."""
        text = self.options.get(key, "0")
        if text not in ("0", "1"):
            raise UsageError(f"{key}={text} of {self} is neither 0 nor 1")
        return text == "1"

    def host_port(self, path: bool = False) -> tuple[str, int, str]:
        """Return host, port and path of a target ``HOST:PORT``, ``[IPV6]:PORT`` or, with ``path``, ``HOST:PORT/PATH``.

        Port 0 asks the system for a free one. Raises UsageError.
        """
        place, slash, rest = self.target.partition("/")
        host, colon, port = place.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""  # an IPv6 address without brackets: where the port begins cannot be told
        digits = port.isascii() and port.isdigit() and len(port) <= 5
        if not host or not colon or not digits or int(port) > 65535 or (slash and not path):
            form = f"{self.scheme}:HOST:PORT" + ("[/PATH]" if path else "")
            raise UsageError(
                f"{str(self)!r} is no address", hint=f"write it as {form}, such as {self.scheme}:127.0.0.1:9999"
            )
        return host, int(port), slash + rest

    def at(self, target: str) -> Address:
        """Return the same address with another target, such as the port that was really bound."""
        return Address(self.scheme, target, self.options)

    def __str__(self) -> str:
        options = "&".join(f"{key}={quote(value, safe='/:@*,')}" for key, value in self.options.items())
        return f"{self.scheme}:{self.target}" + (f"?{options}" if options else "")


class ListenOptions(Struct, frozen=True, kw_only=True):
    """What a server asks of every listener; bytes and ns."""

    backlog: int = 1_024  # connections that wait for accept
    handshake: int = 10 * _SECOND  # from accept to ``opened``: TLS, WebSocket
    max_message: int = 1 << 20  # bytes of the longest message that is taken from a client
    low_water: int = 64 << 10  # a port with more unsent bytes is not writable
    pending: int = 512  # connections before ``opened``; where more come the oldest of these go
    send_buffer: int = 0  # SO_SNDBUF; 0: the system's own


class LinkOptions(Struct, frozen=True, kw_only=True):
    """What a client asks of a link; bytes and ns."""

    timeout: int = 10 * _SECOND  # to connect, handshakes included
    max_message: int = 64 << 20  # bytes of the longest message that is taken
    receive_buffer: int = 0  # SO_RCVBUF; 0: the system's own
    token: str = ""  # for transports that can show it before Login (WebSocket)
    client: str = ""  # name for people


class Port(Protocol):
    """One connected client as the server sees it. Calls never block and never raise."""

    peer: str  # who it is, for people: 127.0.0.1:51234, /run/cmd.sock, uid 1000
    form: str  # what it speaks: sbe or json

    @property
    def writable(self) -> bool:
        """Whether it takes more: false while more than ``low_water`` bytes are unsent, and after ``close``."""

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Send whole frames of the wire format, in order; what the network does not take at once is kept.

        A json port makes text of them (``ServerSide.names`` gives venue and symbol). After ``close`` they are dropped.
        """

    def pause(self) -> None:
        """Read nothing more from the client until ``resume``."""

    def resume(self) -> None:
        """Read again."""

    def close(self, code: str = "", text: str = "") -> None:
        """Send what is unsent, then close; ``code`` as in Bye. ``closed`` follows once, also where nobody reads."""

    def abort(self) -> None:
        """Close at once; unsent bytes are lost. ``closed`` follows once."""


class ServerSide(Protocol):
    """What a transport tells the server, in its event loop. A session belongs to one port."""

    hub: Hub

    def opened(self, port: Port, *, token: str = "", trusted: bool = False, snapshots: bool = True) -> Session:
        """Say that a client is connected, handshakes done; Hello is sent to it from here.

        ``token``: what the handshake showed already (``Authorization: Bearer``). ``trusted``: no token is asked for;
        only for a transport's own sender, such as multicast. Without ``snapshots`` books begin with the next change.
        """

    def received(self, session: Session, data: Buffer) -> None:
        """Hand over bytes: any part of a stream of frames for sbe, one whole object for json.

        The buffer may be used again after the call. Nothing is handed over after ``close`` or ``closed``.
        """

    def request(self, session: Session, request: Request) -> None:
        """Hand over a request that was not read from a client, such as multicast's fixed topics."""

    def writable(self, session: Session) -> None:
        """Say that the port has become writable again."""

    def closed(self, session: Session, error: Exception | None = None) -> None:
        """Say, once, that the connection is gone; ``error`` where it was not closed in order."""

    def names(self, instrument_id: int) -> tuple[str, str]:
        """Return venue and symbol of an instrument, as text forms show them."""


class Listener(Protocol):
    """A bound address."""

    address: Address  # as it was really bound: with the port that the system chose

    async def close(self) -> None:
        """Accept nothing more and remove what it left in the file system; open ports stay."""


@runtime_checkable
class Lasting(Protocol):
    """A listener that has more to give back once its last port is gone; the server calls this at its own end."""

    async def finish(self) -> None:
        """Give back everything; after ``close``."""


@runtime_checkable
class Diverting(Protocol):
    """A listener to which connected clients may move what they receive (``Divert``)."""

    address: Address

    async def divert(self, to: str, control: Port) -> tuple[CarriedPort, str]:
        """Make a port that sends to ``to`` for the client behind ``control``, and the text for ``Diverted``.

        Raises UsageError for what can never be, RefusedError or ServerError for what cannot be now. Where it is
        cancelled nothing is left behind.
        """


class CarriedPort(Port, Protocol):
    """A port that sends another way than it is asked by: the connection below stays its control."""

    def start(self, session: Session) -> None:
        """Begin; ``Diverted`` was said."""

    def release(self) -> None:
        """Let go of the way: the session is over. May be called without ``start``, and more than once."""


class Link(Protocol):
    """A client's connection for asyncio: a stream of SBE frames in both directions."""

    peer: str

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and write them to ``buffer``; 0: the server has closed in order.

        Bytes are parts of a stream of frames, cut anywhere. A cancelled call loses nothing. Raises
        ConnectionBrokenError.
        """

    async def send(self, frame: bytes) -> None:
        """Send one or more whole frames; returns when the system has taken all. Raises ConnectionBrokenError."""

    async def close(self) -> None:
        """Close; never raises, and wakes a waiting ``receive_into``, which then returns 0."""


class BlockingLink(Protocol):
    """A client's connection for threads; one thread receives, any may send or close."""

    peer: str

    def receive_into(self, buffer: memoryview, timeout: float | None = None) -> int:
        """Wait for bytes as ``Link.receive_into`` does; raises TimeoutError after ``timeout`` seconds."""

    def send(self, frame: bytes) -> None:
        """Send one or more whole frames; raises ConnectionBrokenError."""

    def close(self) -> None:
        """Close; never raises, and wakes a waiting ``receive_into``, which then returns 0."""


class Transport(Protocol):
    """One way for bytes to travel; the object that an entry point of ``cmd.transports`` names.

    All of it raises UsageError for an address that it cannot read and UnknownNameError for an unknown option.
    """

    def local(self, address: Address) -> bool:
        """Whether only this machine can reach a listener there; anything else needs a token."""

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> Listener:
        """Bind and accept from now on; raises ServerError where the address cannot be bound."""

    async def connect(self, address: Address, options: LinkOptions) -> Link:
        """Open a link; raises ConnectionBrokenError within ``options.timeout``, RefusedError where it is refused."""

    def open(self, address: Address, options: LinkOptions) -> BlockingLink:
        """Open a blocking link; raises as ``connect``."""


@runtime_checkable
class Accompanied(Protocol):
    """A transport whose listeners need a stream connection beside them."""

    def companion(self, address: Address, others: Sequence[Address]) -> Address | None:
        """Return where to listen too; None where one of ``others``, at which the server listens, will do.

        Raises UsageError where there is neither.
        """


def transport_of(address: Address, loader: Callable[[str, str], Any] = load) -> Transport:
    """Return the transport of an address's scheme; raises UnknownNameError with the nearest, CmdError."""
    return cast("Transport", loader("cmd.transports", address.scheme))


def only(address: Address, keys: Mapping[str, str], side: str) -> None:
    """Check the options of an address for one side; ``keys`` maps each to ``server``, ``client`` or ``both``.

    Raises UnknownNameError for an unknown option and UsageError for one that belongs to the other side.
    """
    address.check(keys)
    for key in address.options:
        if keys[key] not in (side, "both"):
            raise UsageError(f"{key} in {str(address)!r} is an option for the {keys[key]}'s side of an address")
