"""The struct formats of the wire format, one layout a template.

Written by hand so that nothing is parsed at import; a test generates the same from ``cmd-market-data.xml`` and
compares. All numbers are little-endian and unpadded, but for the framing header, which is big-endian.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from .messages import SCHEMA_ID, SCHEMA_VERSION, Template

__all__ = [
    "BODY",
    "COMMON",
    "COMMON_SIZE",
    "ENCODING_TYPE",
    "FLAGS_AT",
    "HEADER",
    "LAYOUTS",
    "NULL_INT",
    "SCHEMA_AT",
    "SOFH",
    "TEMPLATE_AT",
    "Group",
    "Layout",
]

ENCODING_TYPE: Final = 0xEB50  # of the Simple Open Framing Header: SBE 1.0, little-endian
SOFH: Final = 6  # bytes of the framing header: u32 length of the whole frame, u16 encoding type
TEMPLATE_AT: Final = 8
SCHEMA_AT: Final = 10
HEADER: Final = 14  # where the block begins: after framing header and message header
COMMON: Final = "QqqIHBB"  # seq, tsEvent, tsRecv, instrumentId, view, flags, bookState
COMMON_SIZE: Final = 32
BODY: Final = HEADER + COMMON_SIZE  # where the own fields of a block begin
FLAGS_AT: Final = HEADER + 30
NULL_INT: Final = -(1 << 63)  # int64 that means: none


class Group(NamedTuple):
    """A repeating group: the format of one entry, and the names of its texts."""

    name: str
    format: str
    data: tuple[str, ...] = ()

    @property
    def stride(self) -> int:
        """Bytes of an entry's block."""
        return struct.calcsize("<" + self.format)


class Layout(NamedTuple):
    """A message: the format of its block after the common part, its groups, and the names of its texts.

    ``nulls`` are the bytes of the fields that versions after 1 appended to the block when they have nothing to say,
    ``tail`` the empty groups and texts that they appended, each with its version: with both, ``decoder.adapt``
    completes what an older version wrote.
    """

    name: str
    template: int
    format: str = ""
    groups: tuple[Group, ...] = ()
    data: tuple[str, ...] = ()
    nulls: bytes = b""
    tail: tuple[tuple[int, bytes], ...] = ()
    version: int = SCHEMA_VERSION

    @property
    def block(self) -> int:
        """Bytes of the block."""
        return struct.calcsize("<" + COMMON + self.format)

    @property
    def header(self) -> bytes:
        """The ten bytes behind a frame's length: encoding type and message header."""
        message = struct.pack("<HHHH", self.block, self.template, SCHEMA_ID, self.version)
        return ENCODING_TYPE.to_bytes(2, "big") + message


_SIDES: Final = (Group("bids", "dd"), Group("asks", "dd"))
_VENUE_SIDES: Final = (Group("bids", "ddd"), Group("asks", "ddd"))
_TOPICS: Final = Group("topics", "", ("topic",))
_POSITIONS: Final = Group("positions", "QIHB")
_INSTRUMENT_TEXTS: Final = (
    *("venue", "symbol", "baseAsset", "quoteAsset", "settleAsset", "kind", "tickSize", "lotSize"),
    *("minQuantity", "minNotional", "contractSize", "status"),
)
_GAP_TEXTS: Final = ("venue", "symbol", "recordType", "reason", "severity", "repairedBy", "detail")

LAYOUTS: Final[dict[int, Layout]] = {
    layout.template: layout
    for layout in (
        Layout("Instrument", Template.INSTRUMENT, "qB", data=_INSTRUMENT_TEXTS),
        Layout("Trade", Template.TRADE, "ddqBB", data=("tradeId",)),
        Layout("AggTrade", Template.AGG_TRADE, "ddqqqBB", data=("tradeId",)),
        Layout("Quote", Template.QUOTE, "qdddd"),
        Layout("BookSnapshot", Template.BOOK_SNAPSHOT, "qqII", _SIDES),
        Layout("BookDelta", Template.BOOK_DELTA, "qqq", _SIDES),
        Layout("Candle", Template.CANDLE, "qqddddddqddBB", data=("interval",)),
        Layout("AggregatedBook", Template.AGGREGATED_BOOK, "qq", _VENUE_SIDES, ("instrument", "venues", "excluded")),
        Layout("Status", Template.STATUS, data=("venue", "symbol", "recordType", "connection", "state", "reason")),
        Layout("Gap", Template.GAP, "qqqq", data=_GAP_TEXTS),
        Layout("Hello", Template.HELLO, "QqIB", data=("server",)),
        Layout("Ack", Template.ACK, "II"),
        Layout("Reject", Template.REJECT, "I", data=("code", "text", "hint")),
        Layout("StreamGap", Template.STREAM_GAP, "QQB", data=("reason",)),
        Layout("Heartbeat", Template.HEARTBEAT, "I"),
        Layout("Bye", Template.BYE, data=("code", "text")),
        Layout("Diverted", Template.DIVERTED, "I", data=("to",)),
        Layout("Login", Template.LOGIN, data=("token", "client")),
        Layout("Subscribe", Template.SUBSCRIBE, "IIB", (_TOPICS,)),
        Layout("Unsubscribe", Template.UNSUBSCRIBE, "I", (_TOPICS,)),
        Layout("Resume", Template.RESUME, "QIIB", (_POSITIONS, _TOPICS)),
        Layout("Ping", Template.PING),
        Layout("Divert", Template.DIVERT, "I", data=("to",)),
    )
}
