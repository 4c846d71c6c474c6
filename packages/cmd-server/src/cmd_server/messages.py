"""What a server and its clients say to each other beside records, and the numbers of the wire format.

Theory of operation. A *stream* is one instrument's records of one kind in one view: its key is ``(instrument_id,
kind, view)``. Every message of a stream carries the stream's next sequence number, counted from 1 per server
epoch, whoever reads it; so a message is encoded once for all its readers, and filtering leaves no false holes.
Messages that belong to no stream (instruments, answers, heartbeats) have sequence 0.

A client is greeted by Hello, sends Login, and gets Ack or Reject. Then it subscribes. For each stream it gets the
instrument, a snapshot where the kind has one, and then the messages that follow exactly. Where messages were lost
on purpose (a slow client, a resume too late) StreamGap says which sequences.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from msgspec import Struct

from cmd_common.errors import UsageError

__all__ = [
    "CONFLATED",
    "KINDS",
    "KIND_OF",
    "REPLAYED",
    "SCHEMA_ID",
    "SCHEMA_VERSION",
    "Ack",
    "BookFlag",
    "Bye",
    "Divert",
    "Diverted",
    "Heartbeat",
    "Hello",
    "Kind",
    "Login",
    "Ping",
    "Policy",
    "Position",
    "Reject",
    "Request",
    "Resume",
    "Service",
    "StreamGap",
    "StreamKey",
    "Subscribe",
    "Template",
    "Unsubscribe",
    "view_code",
    "view_text",
]

SCHEMA_ID: Final = 7100
SCHEMA_VERSION: Final = 2

# Bits of the wire's flags above those of cmd_common.records (1..32).
REPLAYED: Final = 64  # sent again from the replay buffer, or taken from a store
CONFLATED: Final = (
    128  # stands for the messages of its stream since the one before it: a hole in the sequence is no loss
)


class Template(IntEnum):
    """SBE template ids; never reused."""

    INSTRUMENT = 1
    TRADE = 2
    AGG_TRADE = 3
    QUOTE = 4
    BOOK_SNAPSHOT = 5
    BOOK_DELTA = 6
    CANDLE = 7
    AGGREGATED_BOOK = 8
    STATUS = 9
    GAP = 10
    HELLO = 20
    ACK = 21
    REJECT = 22
    STREAM_GAP = 23
    HEARTBEAT = 24
    BYE = 25
    DIVERTED = 26
    LOGIN = 40
    SUBSCRIBE = 41
    UNSUBSCRIBE = 42
    RESUME = 43
    PING = 44
    DIVERT = 45


class Kind(IntEnum):
    """The kinds of streams."""

    NONE = 0
    TRADES = 1
    AGG_TRADES = 2
    QUOTES = 3  # view 0: the venue's own best bid and offer; view 1: derived from the book
    BOOK = 4  # view 0: every change of the whole book; n: the top n levels
    CANDLES = 5  # view: the interval, see view_code
    AGGREGATE = 6  # view: levels a side; one instrument over venues
    STATUS = 7
    GAPS = 8


KIND_OF: Final[dict[int, Kind]] = {
    Template.TRADE: Kind.TRADES,
    Template.AGG_TRADE: Kind.AGG_TRADES,
    Template.QUOTE: Kind.QUOTES,
    Template.BOOK_SNAPSHOT: Kind.BOOK,
    Template.BOOK_DELTA: Kind.BOOK,
    Template.CANDLE: Kind.CANDLES,
    Template.AGGREGATED_BOOK: Kind.AGGREGATE,
    Template.STATUS: Kind.STATUS,
    Template.GAP: Kind.GAPS,
}
"""The kind of stream that a template belongs to."""

KINDS: Final = (
    "trades",
    "agg_trades",
    "quotes",
    "bbo",
    "book",
    "candles",
    "aggregate",
    "status",
    "gaps",
    "instruments",
)
"""Kinds as topics name them: ``bbo`` is kind QUOTES in view 1; ``instruments`` asks for reference data only."""


class BookFlag(IntEnum):
    """State of the book behind a message; NONE where a message has none."""

    NONE = 0
    EMPTY = 1
    SYNCING = 2
    LIVE = 3
    STALE = 4


class Policy(IntEnum):
    """What happens to a client that does not read fast enough; one queue a client, bounded in messages."""

    CONFLATE = 0  # latest book and quote per stream; trades are kept, and a client that cannot take those is let go
    DROP_OLDEST = 1  # the oldest messages go, StreamGap says which; books start again with a snapshot
    DISCONNECT = 2  # the client is let go with Bye


class StreamKey(NamedTuple):
    """One instrument's records of one kind in one view; instrument 0 is the server itself or a whole venue."""

    instrument_id: int
    kind: int
    view: int


class Position(NamedTuple):
    """The last sequence that a client has of a stream."""

    instrument_id: int
    kind: int
    view: int
    seq: int


# -- what the server says


class Hello(Struct, frozen=True, tag="hello"):
    """First message of a connection: which run of the server this is and what it expects; times in ns."""

    epoch: int
    time: int
    heartbeat: int  # the server says something at least so often; a client too
    max_message: int  # bytes of the longest message that the server takes
    token: bool  # whether Login needs a token
    server: str  # name and version, for people


class Ack(Struct, frozen=True, tag="ack"):
    """A request was carried out."""

    request_id: int  # 0: the login
    streams: int = 0  # how many streams match now


class Reject(Struct, frozen=True, tag="reject"):
    """A request was refused; ``code`` is a word for programs."""

    request_id: int
    code: str  # token, usage, limit, unknown, protocol, unavailable (may work later)
    text: str
    hint: str = ""


class StreamGap(Struct, frozen=True, tag="stream_gap"):
    """Messages ``from_seq..to_seq`` (inclusive) of a stream never come; ``to_seq`` 0: the rest of another epoch."""

    instrument_id: int
    kind: int
    view: int
    from_seq: int
    to_seq: int
    reason: str  # slow, resume, restart, overflow


class Heartbeat(Struct, frozen=True, tag="heartbeat"):
    """Nothing else was to be said; ``queued`` messages wait for this client."""

    time: int
    queued: int = 0


class Bye(Struct, frozen=True, tag="bye"):
    """The server closes the connection."""

    code: str  # slow, shutdown, limit, protocol, idle, token
    text: str


class Diverted(Struct, frozen=True, tag="diverted"):
    """The last frame on this connection but Bye: all that follows is sent to ``to``; since version 2."""

    request_id: int
    to: str  # address of the stream, such as aeron:ipc?stream=10000&session=-123


# -- what a client says


class Login(Struct, frozen=True, tag="login"):
    """First message of a client."""

    token: str = ""
    client: str = ""  # name for people and metrics


class Subscribe(Struct, frozen=True, tag="subscribe"):
    """Ask for streams; topics are as ``cmd_server.topics`` reads them. The policy holds for the whole client."""

    request_id: int
    topics: tuple[str, ...]
    policy: Policy = Policy.CONFLATE
    queue: int = 0  # bound in messages; 0: the server's default, larger than its limit: that limit


class Unsubscribe(Struct, frozen=True, tag="unsubscribe"):
    """Give up topics, written exactly as they were subscribed."""

    request_id: int
    topics: tuple[str, ...]


class Resume(Struct, frozen=True, tag="resume"):
    """Subscribe and go on after ``positions`` of the server's epoch; what the replay buffer lost is a StreamGap."""

    request_id: int
    epoch: int
    topics: tuple[str, ...]
    positions: tuple[Position, ...]
    policy: Policy = Policy.CONFLATE
    queue: int = 0


class Ping(Struct, frozen=True, tag="ping"):
    """A client is alive; answered by Heartbeat at once."""

    time: int = 0


class Divert(Struct, frozen=True, tag="divert"):
    """Send everything over another transport; requests and their connection stay. Since version 2."""

    request_id: int
    to: str  # aeron:ipc, or aeron:udp?endpoint=HOST:PORT&stream=N


Request = Login | Subscribe | Unsubscribe | Resume | Ping | Divert
Service = Hello | Ack | Reject | StreamGap | Heartbeat | Bye | Diverted

_UNITS: Final = ("", "s", "m", "h", "d", "w", "M")
_BUILT: Final = 0x8000


def view_code(kind: Kind, text: str) -> int:
    """Return the number of a view: depth for books (empty: full), interval for candles (``1m``, ``1m:built``).

    16 bits: an interval is ``built << 15 | unit << 12 | count`` with units s, m, h, d, w, M = 1..6. Raises UsageError.
    """
    if kind is Kind.CANDLES:
        interval, _, built = text.partition(":")
        unit = _UNITS.index(interval[-1:]) if interval[-1:] in _UNITS[1:] else 0
        count = interval[:-1]
        if (
            not unit
            or not count.isascii()
            or not count.isdigit()
            or not 0 < int(count) < 0x1000
            or built not in ("", "built")
        ):
            raise UsageError(f"{text!r} is no candle interval", hint="write it as 1m, 4h, 1d or 1m:built")
        return (_BUILT if built else 0) | unit << 12 | int(count)
    if kind in (Kind.BOOK, Kind.AGGREGATE):
        if not text:
            return 0
        if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 0xFFFF:
            raise UsageError(f"{text!r} is no depth", hint="a number of levels a side, 1 to 65535; without it: all")
        return int(text)
    if text:
        raise UsageError(f"{kind.name.lower()} have no views, but {text!r} was asked for")
    return 0


def view_text(kind: int, view: int) -> str:
    """Return the text of a view's number, as ``view_code`` takes it; ``?`` stands for a unit of a newer version."""
    if kind == Kind.CANDLES:
        unit = view >> 12 & 7
        return f"{view & 0xFFF}{_UNITS[unit] if unit < len(_UNITS) else '?'}" + (":built" if view & _BUILT else "")
    return str(view) if view and kind in (Kind.BOOK, Kind.AGGREGATE) else ""
