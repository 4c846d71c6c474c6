"""The transport ``aeron``: frames through shared memory (IPC) or over UDP by an Aeron media driver.

    server: aeron:ipc                                        control at unix:DIR.control, a driver of its own in DIR
    client: aeron:ipc?control=unix:/run/cmd.sock             the same API as every other transport
    server: aeron:udp?control=tcp:0.0.0.0:9999               to UDP endpoints that clients name
    client: aeron:udp?control=tcp:10.0.0.5:9999
    both:   aeron:ipc?shared=1                               one stream for all readers

Theory of operation. Control is an ordinary stream connection to the same server (``control=ADDRESS``): login,
requests, and the first answers. Behind its login a client sends ``Divert``; the server makes an exclusive publication
for it, says ``Diverted`` with the publication's stream and session, and from then on sends everything of this
connection there. Each client has a publication of its own, so that one that reads slowly holds up itself only, and
the policies of the hub apply to it. With ``shared=1`` the server sends a fixed set of topics once, for any number of
readers, who fetch what they miss over their control connections.

The package cmd-aeron holds client and driver; it is imported when an address is used, not before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from cmd_common.errors import UsageError

from .security import loopback
from .topics import Topic
from .transport import Address, BlockingLink, Link, LinkOptions, Listener, ListenOptions, ServerSide, only

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["SHARED_STREAM", "TRANSPORT", "AeronTransport", "Route", "Settings", "native", "parse"]

SHARED_STREAM: Final = 7100
"""Stream id of a shared broadcast unless ``stream`` says another."""
FIRST_STREAM: Final = 10_000
"""Stream ids of single clients on IPC count up from here unless ``stream`` says otherwise."""
DEFAULT_TOPICS: Final = ("trades *", "agg_trades *", "quotes *", "book *")
IDLE: Final = ("low-cpu", "balanced", "spin")
_DRIVERS: Final = ("auto", "embedded", "external")
_KEYS: Final = {
    "control": "both",
    "dir": "both",
    "driver": "both",
    "endpoint": "both",
    "interface": "both",
    "liveness": "both",
    "shared": "both",
    "stream": "both",
    "window": "both",
    "mtu": "server",
    "term-length": "server",
    "topics": "server",
    "heartbeat": "server",
    "idle": "client",
}
_UDP_ONLY: Final = ("endpoint", "interface")
_SHARED_ONLY: Final = ("topics", "heartbeat")
_UNITS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIMES: Final = {"ms": 1_000_000, "s": 1_000_000_000}
_RESERVED: Final = frozenset("|=?,& ")  # of a channel's own syntax
_STREAM_CONTROL: Final = ("tcp", "unix", "ws")


def native() -> ModuleType:
    """Return the package cmd_aeron; raises UsageError that names the extra where it is not installed."""
    try:
        import cmd_aeron
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "cmd_aeron":
            raise
        raise UsageError("aeron needs the package cmd-aeron", hint="pip install 'cmd-server[aeron]'") from None
    return cmd_aeron


class Settings(Struct, frozen=True, kw_only=True):
    """What an address of one side asks for; bytes and ns, 0 and "" where the default of Aeron is to hold."""

    medium: str  # ipc or udp
    side: str  # server or client
    directory: str  # of the media driver; "": a client's over UDP that asks for none
    control: str  # address of the stream connection; "": a server's over UDP that has another stream listener
    driver: str  # auto, embedded or external
    shared: bool  # one stream for all, or one for each client
    stream: int  # of a shared stream its id; else the first that a server gives, or a client's own over UDP
    endpoint: str = ""  # HOST:PORT; see ``parse``
    interface: str = ""
    idle: str = "balanced"  # how a client waits: one of IDLE
    term_length: int = 1 << 20
    mtu: int = 0
    window: int = 0
    liveness: int = 3_000_000_000  # until a driver takes a client, and a client an image, for dead
    topics: tuple[str, ...] = DEFAULT_TOPICS  # of a shared stream
    heartbeat: int = 1_000_000_000  # between two of a shared stream

    def publication(self, endpoint: str = "", **more: str | int) -> str:
        """Return the channel of a publication; ``more`` are parameters of Aeron, ``_`` for ``-`` in their names."""
        found: dict[str, str | int] = {"term-length": self.term_length}
        if self.mtu:
            found["mtu"] = self.mtu
        if self.window:
            found["pub-wnd"] = self.window
        return self._channel(endpoint, found | {key.replace("_", "-"): value for key, value in more.items()})

    def subscription(self, endpoint: str = "", session: int | None = None, **more: str | int) -> str:
        """Return the channel of a subscription, to one session where one is given; ``more`` as above."""
        found: dict[str, str | int] = {}
        if session is not None:
            found["session-id"] = session
        if self.window and self.medium == "udp":
            found["rcv-wnd"] = self.window
        return self._channel(endpoint, found | {key.replace("_", "-"): value for key, value in more.items()})

    def _channel(self, endpoint: str, more: dict[str, str | int]) -> str:
        found: dict[str, str | int] = {}
        if self.medium == "udp":
            found["endpoint"] = endpoint or self.endpoint
            if self.interface:
                found["interface"] = self.interface
        return f"aeron:{self.medium}?" + "|".join(f"{key}={value}" for key, value in (found | more).items())


class Route(Struct, frozen=True, kw_only=True):
    """Where a client's stream goes: the ``to`` of Divert and Diverted; ``str`` gives its text."""

    medium: str
    endpoint: str = ""  # udp: where the client receives
    stream: int = 0  # 0: the server chooses
    session: int | None = None  # of the publication

    @classmethod
    def parse(cls, text: str) -> Route:
        """Read the text of a route; raises UsageError, UnknownNameError."""
        address = Address.parse(text)
        if address.scheme != "aeron" or address.target not in ("ipc", "udp"):
            raise UsageError(f"{text!r} is no way of Aeron", hint="aeron:ipc or aeron:udp?endpoint=HOST:PORT&stream=N")
        address.check(("endpoint", "stream", "session") if address.target == "udp" else ("stream", "session"))
        endpoint = address.options.get("endpoint", "")
        if address.target == "udp":
            _host_port(address, endpoint, least=1)
        stream = address.number("stream", 0, -(1 << 31), (1 << 31) - 1)
        session = address.number("session", 0, -(1 << 31), (1 << 31) - 1) if "session" in address.options else None
        return cls(medium=address.target, endpoint=endpoint, stream=stream, session=session)

    def __str__(self) -> str:
        parts = [("endpoint", self.endpoint), ("stream", self.stream or ""), ("session", self.session)]
        options = "&".join(f"{key}={value}" for key, value in parts if value not in ("", None))
        return f"aeron:{self.medium}" + (f"?{options}" if options else "")


def parse(address: Address, side: str) -> Settings:
    """Return what an address asks for on one side; raises UsageError and UnknownNameError in one line.

    ``endpoint`` is, of a client, where it receives (port 0: any; default: this machine as the server reaches it);
    of a server, the only place where it sends to (port 0: any port there; default: its clients' own hosts); of a
    shared stream over UDP, for both, the group or the one receiver.
    """
    medium = address.target
    if medium not in ("ipc", "udp"):
        raise UsageError(f"{str(address)!r} is no address", hint="write it as aeron:ipc or aeron:udp")
    only(address, _KEYS, side)
    shared = address.switch("shared")
    options = address.options
    for keys, wrong, what in (
        (_UDP_ONLY, medium != "udp", "aeron:udp"),
        (_SHARED_ONLY, not shared, "shared=1"),
        (("driver",), side == "client" and medium == "ipc", "servers, whose driver a client on IPC uses"),
    ):
        for key in keys:
            if key in options and wrong:
                raise UsageError(f"{key} of {address} is for {what} only")
    term = _size(address, "term-length", 1 << 20, 64 << 10, 1 << 30)
    if term & (term - 1):
        raise UsageError(f"term-length={options['term-length']} of {address} is no power of two", hint="such as 1m")
    mtu = _size(address, "mtu", 0, 256, 65_504)
    if mtu % 32:
        raise UsageError(f"mtu={options['mtu']} of {address} is no multiple of 32", hint="such as 1408 or 8k")
    most = term // 2 if side == "server" else 1 << 30
    window = _size(address, "window", 0, max(mtu, 2 << 10), most)
    directory = _directory(address, side, medium)
    control = _control(address, side, medium, directory)
    return Settings(
        medium=medium,
        side=side,
        directory=directory,
        control=control,
        driver=_word(address, "driver", _DRIVERS),
        shared=shared,
        stream=address.number("stream", SHARED_STREAM if shared else FIRST_STREAM, 1, 1 << 30),
        endpoint=_endpoint(address, side, shared, control),
        interface=_interface(address),
        idle=_word(address, "idle", IDLE, "balanced"),
        term_length=term,
        mtu=mtu,
        window=window,
        liveness=_time(address, "liveness", 3_000_000_000, 1_500_000_000, 600_000_000_000),
        topics=_topics(address),
        heartbeat=address.number("heartbeat", 1000, 10, 1000) * 1_000_000,
    )


def _directory(address: Address, side: str, medium: str) -> str:
    text = address.options.get("dir")
    if text == "":
        raise UsageError(f"{address} names no directory", hint="dir=/dev/shm/NAME, or leave it out")
    if text is None:
        if side == "client" and medium == "udp":
            return ""
        return str(native().default_directory())
    if set(text) & set("|\0\n"):
        raise UsageError(f"dir={text!r} is no directory")
    return os.path.abspath(text)


def _control(address: Address, side: str, medium: str, directory: str) -> str:
    text = address.options.get("control")
    if text is None:
        if medium == "ipc":
            return f"unix:{directory}.control"
        if side == "server":
            return ""
        raise UsageError(
            f"{str(address)!r} names no control address",
            hint="add control=tcp:HOST:PORT, a stream address of the same server",
        )
    control = Address.parse(text)
    if control.scheme not in _STREAM_CONTROL:
        raise UsageError(f"{text!r} is no stream connection, which control must be", hint="use unix, tcp or ws")
    return str(control)


def _host_port(address: Address, text: str, least: int = 0) -> tuple[str, int]:
    """Return host and port of an endpoint, whose host must be a number; raises UsageError."""
    try:
        host, port, _ = Address("endpoint", _plain(text)).host_port()
        ip_address(host)
    except (UsageError, ValueError):
        port = -1
    if port < least:
        hint = "write it as endpoint=ADDRESS:PORT, such as 127.0.0.1:40123"
        raise UsageError(f"endpoint={text} of {address} is none", hint=hint)
    return host, port


def _plain(text: str) -> str:
    """Return a text that may stand in a channel: Python takes anything for an address's zone; raises ValueError."""
    if set(text) & _RESERVED or not text.isascii() or not text.isprintable():
        raise ValueError(text)
    return text


def _endpoint(address: Address, side: str, shared: bool, control: str) -> str:
    text = address.options.get("endpoint", "")
    if address.target != "udp":
        return ""
    if text:
        _host_port(address, text, least=1 if shared else 0)
        return text
    if shared:
        hint = "add endpoint=ADDRESS:PORT, a multicast group or the one receiver"
        raise UsageError(f"{str(address)!r} names no endpoint", hint=hint)
    return "127.0.0.1:0" if side == "client" and _local(Address.parse(control)) else ""


def _local(control: Address) -> bool:
    return control.scheme == "unix" or loopback(control.host_port(path=True)[0])


def _interface(address: Address) -> str:
    text = address.options.get("interface", "")
    if text:
        try:
            host, slash, bits = _plain(text).partition("/")
            most = ip_address(host.strip("[]")).max_prefixlen
            if slash and not (bits.isdigit() and int(bits) <= most):
                raise ValueError(text)
        except ValueError:
            hint = "write it as interface=ADDRESS, one of this machine's"
            raise UsageError(f"interface={text} of {address} is none", hint=hint) from None
    return text


def _topics(address: Address) -> tuple[str, ...]:
    text = address.options.get("topics")
    topics = DEFAULT_TOPICS if text is None else tuple(t.strip() for t in text.split(",") if t.strip())
    if not topics:
        raise UsageError(f"{str(address)!r} names no topics")
    for topic in topics:
        Topic(topic)
    return topics


def _word(address: Address, key: str, words: Sequence[str], default: str = "") -> str:
    text = address.options.get(key, default or words[0])
    if text not in words:
        raise UsageError(f"{key}={text} of {address} is not known", hint=f"one of {', '.join(words)}")
    return text


def _size(address: Address, key: str, default: int, least: int, most: int) -> int:
    """Return bytes, written with k, m, g or without; raises UsageError."""
    text = address.options.get(key)
    if text is None:
        return default
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in _UNITS else (text, "")
    value = int(digits) * _UNITS.get(unit, 1) if digits.isascii() and digits.isdigit() and len(digits) < 12 else -1
    if not least <= value <= most:
        raise UsageError(f"{key}={text} of {address} is no size from {_bytes(least)} to {_bytes(most)}")
    return value


def _bytes(value: int) -> str:
    for unit, size in reversed(_UNITS.items()):
        if value >= size and not value % size:
            return f"{value // size}{unit}"
    return str(value)


def _time(address: Address, key: str, default: int, least: int, most: int) -> int:
    """Return ns of a time written with s or ms; raises UsageError."""
    text = address.options.get(key)
    if text is None:
        return default
    unit = "ms" if text.endswith("ms") else "s" if text.endswith("s") else ""
    digits = text[: len(text) - len(unit)]
    value = int(digits) * _TIMES.get(unit, 0) if digits.isascii() and digits.isdigit() and len(digits) < 12 else -1
    if not least <= value <= most:
        raise UsageError(
            f"{key}={text} of {address} is no time from {least // 1_000_000} ms to {most // 1_000_000_000} s",
            hint="write it as 3s or 2500ms",
        )
    return value


class AeronTransport:
    """Frames by an Aeron media driver; see the module."""

    def local(self, address: Address) -> bool:
        """Whether nothing leaves this machine; without an endpoint UDP goes where control comes from, which is judged."""
        text = address.options.get("endpoint", "")
        return address.target != "udp" or not text or loopback(_host_port(address, text)[0])

    def companion(self, address: Address, others: Sequence[Address]) -> Address | None:
        """Return where a server must listen for control too, None where one of ``others`` will do; raises UsageError."""
        native()
        settings = parse(address, "server")
        if settings.control:
            return Address.parse(settings.control)
        if any(other.scheme in _STREAM_CONTROL for other in others):
            return None
        raise UsageError(
            f"{address} has no control connection",
            hint="add control=tcp:HOST:PORT, or listen at a tcp or unix address too",
        )

    async def listen(self, address: Address, server: ServerSide, options: ListenOptions) -> Listener:
        """Serve clients that ask for it over control, or send to all of them; raises ServerError in one line."""
        native()
        settings = parse(address, "server")
        if settings.shared:
            from . import aeron_shared

            return await aeron_shared.listen(address, settings, server, options)
        from . import aeron_listener

        return await aeron_listener.listen(address, settings, server, options)

    async def connect(self, address: Address, options: LinkOptions) -> Link:
        """Open a link; raises as its control connection's transport does."""
        native()
        settings = parse(address, "client")
        if settings.shared:
            from . import aeron_shared

            return await aeron_shared.connect_shared(address, settings, options)
        from . import aeron_link

        return await aeron_link.connect(address, settings, options)

    def open(self, address: Address, options: LinkOptions) -> BlockingLink:
        """Open a blocking link; raises as ``connect``."""
        native()
        settings = parse(address, "client")
        if settings.shared:
            from . import aeron_shared

            return aeron_shared.open_shared(address, settings, options)
        from . import aeron_link

        return aeron_link.open_blocking(address, settings, options)


TRANSPORT: Final = AeronTransport()
