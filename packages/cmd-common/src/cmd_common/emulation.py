"""Server sides of exchanges without I/O: what an emulator is and what it is fed with.

cmd-replay hosts an ``Emulator`` on a loopback port, one a venue; tests and the simulation drive it
directly. An emulator speaks the exchange's own protocol: same paths, messages, errors, headers.

A ``MarketSource`` is either a recording (frames in the exchange's own format, with receive times)
or a seeded simulation (venue-neutral market events that the emulator encodes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from .http import HttpResponse

__all__ = ["Accept", "Close", "Emulator", "Fault", "MarketSource", "Ping", "Pending", "Poll", "Text"]


class Fault(Struct, frozen=True):
    """A fault to inject: ``--fault KIND[:k=v,...]``.

    Kinds: drop, repeat, reorder, tear, delay, disconnect, silence, shutdown, rate_limit (429), ban (418),
    bad_checksum, truncated_zip, missing_day, malformed. Parameters: ``rate`` (probability a message),
    ``at`` (the n-th message, from 1), ``count``, ``venue``, ``symbol``, ``stream``, ``ms`` (delay, silence),
    ``day`` and more, with the defaults of ``cmd_common.faults``, which also parses them.
    """

    kind: str
    parameters: Mapping[str, str] = field(default_factory=dict)


class MarketSource(Struct, frozen=True):
    """What an emulator serves.

    ``recordings`` are paths in the order to play; or ``simulate`` a seeded market.
    """

    venue: str
    recordings: tuple[str, ...] = ()
    simulate: bool = False
    symbols: int = 4  # number of simulated symbols
    symbol_names: tuple[str, ...] = ()  # instead of the default names
    seed: int = 1
    start: int = 0  # ns, simulated time of the first event; 0: chosen by the source
    duration: int = 0  # ns of simulated time; 0: endless
    faults: tuple[Fault, ...] = ()
    expected_streams: int = 0  # with exit_at_end: start when so many streams are subscribed
    exit_at_end: bool = False
    speed: float = 1.0  # times recorded speed; 0: as fast as possible
    instruments: str = ""  # file with the exchange's own reference data
    history_days: int = 2  # simulated days of bulk archive before ``start``
    rate: float = 40.0  # steps a second and symbol of the simulated market; one in ten trades
    levels: int = 800  # of a simulated book, a side
    history_trades: int = 8_640  # trades a simulated day and symbol before ``start``; a multiple of 5


class Text(Struct, frozen=True):
    """Send a text frame to a connection."""

    connection: int
    text: str


class Ping(Struct, frozen=True):
    """Send a ping frame to a connection; without a pong within ``timeout`` ns (0: no limit) it is closed."""

    connection: int
    payload: bytes
    timeout: int = 0


class Close(Struct, frozen=True):
    """Close a connection; code 4000 says that everything was sent, 0 drops it without a close frame."""

    connection: int
    code: int
    reason: str = ""


class Accept(Struct, frozen=True):
    """The WebSocket handshake is accepted."""


class Pending(Struct, frozen=True):
    """The response follows later from ``poll`` under this token."""

    token: int


ServerFrame = Text | Ping | Close


class Poll(Struct):
    """What is due: frames in order, answers to pending requests, and when to poll again."""

    frames: list[ServerFrame] = field(default_factory=list)
    responses: list[tuple[int, HttpResponse]] = field(default_factory=list)
    next_time: int | None = None  # ns on the host's clock; None: only after a request
    finished: bool = False  # everything was sent


class Emulator(Protocol):
    """The server side of one venue without I/O. ``now`` is the host's wall time in ns."""

    venue: str

    def http(self, method: str, target: str, headers: Mapping[str, str], now: int) -> HttpResponse | Pending:
        """Answer a request; ``target`` is path and query. ``/__replay/truth`` answers with ``truth()``.

        Its query may be ``depth=N`` (levels a side) and ``trades=1`` (``trade_ids``: all passed ids of each symbol).
        """

    def ws_open(self, connection: int, target: str, headers: Mapping[str, str], now: int) -> Accept | HttpResponse:
        """Accept or refuse a WebSocket handshake."""

    def ws_receive(self, connection: int, text: str, now: int) -> list[ServerFrame]:
        """Take a client's frame; returns the direct replies."""

    def ws_closed(self, connection: int, now: int) -> None:
        """A connection is gone."""

    def poll(self, now: int, limit: int = 256) -> Poll:
        """Return at most ``limit`` frames that are due at ``now``."""

    def ready(self) -> dict[str, Any]:
        """Facts for the ready line: symbols, first and last event time, streams."""

    def truth(self) -> dict[str, Any]:
        """What was sent, what was damaged and the true books:
        ``{"sent": {stream: n}, "faults": [...], "books": {symbol: {"last_id", "bids", "asks"}},
        "trades": {symbol: {"first_id", "last_id", "count"}}, "finished": bool}``.
        """


SimulatedKind = Literal["trade", "quote", "depth", "kline"]
Symbols = Sequence[str]
