"""The Python twin of the Java client: the same checksum over every field of every record.

    python checksum.py tcp:HOST:PORT COUNT TOPIC...     the token is taken from CMD_TOKEN

Numbers are 8 bytes, little-endian (doubles by their bits), texts their length and their UTF-8 bytes, groups their
count and their entries. It works on records, after the codec, so that it checks what programs get to see.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import zlib
from collections import Counter

from cmd_common.records import (
    AggregatedBook,
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
)
from cmd_server import codec
from cmd_server.errors import RefusedError
from cmd_server.framing import Splitter
from cmd_server.messages import Bye, Hello, Login, Policy, Reject, Subscribe
from cmd_server.transport import Address

NONE = -(1 << 63)
SIDES = {"unknown": 0, "buy": 1, "sell": 2}
SOURCES = {"exchange": 1, "built": 2}
STATES = {"provisional": 1, "final": 2, "corrected": 3}


class Checksum:
    """A CRC-32 over all records so far, and how many of each template there were."""

    def __init__(self) -> None:
        self.crc = 0
        self.counts: Counter[int] = Counter()

    @property
    def messages(self) -> int:
        return self.counts.total()

    def add(self, head: codec.Head, record: Record) -> None:
        # The head's own order is that of the common part, behind the template.
        parts = [struct.pack("<QQqqQQQQ", *head), _fields(record)]
        self.crc = zlib.crc32(b"".join(parts), self.crc)
        self.counts[head.template] += 1

    def __str__(self) -> str:
        counts = {str(template): count for template, count in sorted(self.counts.items())}
        return json.dumps({"messages": self.messages, "checksum": f"{self.crc:08x}", "templates": counts})


def _text(*values: str) -> bytes:
    raw = [value.encode() for value in values]
    return b"".join([len(value).to_bytes(8, "little") + value for value in raw])


def _side(side: bytes, size: int) -> bytes:
    return (len(side) // size).to_bytes(8, "little") + side  # entries are doubles as they are


def _or_none(value: int | None) -> int:
    return NONE if value is None else value


def _fields(r: Record) -> bytes:
    match r:
        case Trade():
            fields = struct.pack("<ddqq", r.price, r.quantity, _or_none(r.trade_seq), SIDES[r.side])
            return fields + _text(r.trade_id)
        case AggTrade():
            ids = (_or_none(r.trade_seq), r.first_trade_id, r.last_trade_id, SIDES[r.side])
            return struct.pack("<ddqqqq", r.price, r.quantity, *ids) + _text(r.trade_id)
        case Quote():
            return struct.pack("<qdddd", r.seq, r.bid_price, r.bid_quantity, r.ask_price, r.ask_quantity)
        case BookSnapshot():
            fields = struct.pack("<qqqq", r.epoch, r.seq, r.known_bids, r.known_asks)
            return fields + _side(r.bids, 16) + _side(r.asks, 16)
        case BookDelta():
            return struct.pack("<qqq", r.epoch, r.seq, r.first_seq) + _side(r.bids, 16) + _side(r.asks, 16)
        case Candle():
            prices = (r.open, r.high, r.low, r.close, r.volume, r.quote_volume)
            rest = (r.trades, r.taker_buy_volume, r.taker_buy_quote_volume, SOURCES[r.source], STATES[r.state])
            return struct.pack("<qqddddddqddqq", r.open_time, r.close_time, *prices, *rest) + _text(r.interval)
        case AggregatedBook():
            fields = struct.pack("<qq", r.seq, _or_none(r.crossed_for))
            sides = _side(r.bids, 24) + _side(r.asks, 24)
            return fields + sides + _text(r.instrument, r.venues, r.excluded)
        case FeedStatus():
            return _text(r.venue, r.symbol, r.record_type, r.connection, r.state, r.reason)
        case Gap():
            fields = struct.pack("<qqqq", r.ts_from, r.ts_to, _or_none(r.first_id), _or_none(r.last_id))
            return fields + _text(r.venue, r.symbol, r.record_type, r.reason, r.severity, r.repaired_by, r.detail)
        case InstrumentRecord():
            names = (r.venue, r.symbol, r.base, r.quote, r.settle, r.kind)
            numbers = (r.tick_size, r.lot_size, r.min_quantity, r.min_notional, r.contract_size, r.status)
            return struct.pack("<qq", _or_none(r.expiry), r.inverse) + _text(*names, *numbers)


def run(address: str, count: int, topics: list[str]) -> Checksum:
    """Log in, subscribe, and add up the first ``count`` records."""
    checksum = Checksum()
    splitter = Splitter()
    with socket.create_connection(Address.parse(address).host_port()[:2]) as connection:
        while checksum.messages < count:
            data = connection.recv(1 << 18)
            if not data:
                raise SystemExit("error: the server closed the connection")
            for frame in splitter.feed(data):
                head = codec.head(frame)
                if head.template in codec.RECORD_TEMPLATES:
                    if checksum.messages < count:
                        checksum.add(head, codec.decode(frame, "", ""))
                elif head.template in codec.SERVICE_TEMPLATES:
                    match codec.decode_service(frame):
                        case Hello():
                            login = Login(os.environ.get("CMD_TOKEN", ""), "python-twin")
                            subscribe = Subscribe(1, tuple(topics), Policy.DISCONNECT, 100_000)
                            connection.sendall(codec.encode_request(login) + codec.encode_request(subscribe))
                        case Reject(_, code, text, hint):
                            raise RefusedError(text, code, hint=hint)
                        case Bye(code, text):
                            raise RefusedError(text, code)
                        case _:
                            pass
    return checksum


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit("usage: checksum.py tcp:HOST:PORT COUNT TOPIC...")
    print(run(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
