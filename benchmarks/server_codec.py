"""S1: a trade and a book to bytes and back; ours with and without cmd-native, struct calls, msgspec, the package ``sbe``.

``struct`` is the floor of pure Python: one precompiled call with the record's fields written out in line, no function
around it; ``trades_into`` and ``quotes_into`` write a batch (of ours: ``encode_many_into``), the others one record
always to the same place. No struct call looks whether a trade's id is its number, as ours do. ``msgspec`` writes MessagePack with the same fields. ``sbe`` encodes the fixed fields with a schema of the
same layout; it knows no variable text, so it leaves the id out. What each made is decoded and compared outside the clock.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from typing import Any

from server_work import trades

from cmd_common.records import BookDelta, Quote, Trade, pack_levels

COUNT = 200  # records in a turn


def measure(call: Callable[[], Any], turns: int, per: int) -> float:
    """Best of five of ns of CPU for one of ``per``; the median over processes is taken outside."""
    found = []
    for _ in range(5):
        start = time.process_time_ns()
        for _ in range(max(1, turns // per // 5)):
            call()
        found.append((time.process_time_ns() - start) / max(1, turns // per // 5) / per)
    return min(found)


def plain(count: int) -> list[Trade]:
    """Trades whose id is a number in digits, as most exchanges have them."""
    from msgspec.structs import replace

    return [replace(trade, trade_id=str(trade.trade_seq)) for trade in trades(count)]


def book() -> BookDelta:
    bids = pack_levels((61_837.0 - n / 100, 1 + n / 8) for n in range(20))
    asks = pack_levels((61_837.5 + n / 100, 2 + n / 8) for n in range(20))
    return BookDelta(1_790_000_000_000_000_000, 1_790_000_000_000_000_001, "v", "S", 7, 9, 8, bids, asks, 8)


def quote(number: int) -> Quote:
    return Quote(1_790_000_000_000_000_000, 1_790_000_000_000_000_001, "v", "S", number, 61_837.0, 1.5, 61_837.5, 2.5)


def _ours(count: int, way: str = "ours") -> dict[str, float]:
    from cmd_server import codec
    from cmd_server.messages import Template

    records, delta = plain(COUNT), book()
    buffer = bytearray(4096)
    encode, encode_into, decode = codec.encode, codec.encode_into, codec.decode
    quotes = [quote(n) for n in range(COUNT)]
    made = [encode(record, 1, 5) for record in records]
    views = [memoryview(frame) for frame in made]
    page = encode(delta, 1, 5)
    view = memoryview(page)

    def into() -> None:
        for record in records:
            encode_into(record, buffer, 0, 1, 5, 0, 0, 0)

    def quoted() -> None:
        for record in quotes:
            encode_into(record, buffer, 0, 1, 5, 0, 0, 0)

    page_of_many = bytearray(COUNT * 128)
    writer = codec.FrameWriter(bytearray(COUNT * 128), 1, 5)

    def written() -> None:
        write = writer.write
        writer.rewind()
        for record in records:
            write(record)

    def all_() -> None:
        for record in records:
            encode(record, 1, 5)

    def back() -> None:
        for frame in views:
            decode(frame, "binance-spot", "BTCUSDT")

    many = b"".join(made * 50)
    result = {
        "encode_into": measure(into, count, COUNT),
        "writer_into": measure(written, count, COUNT),
        "quote_into": measure(quoted, count, COUNT),
        "trades_into": measure(lambda: codec.encode_many_into(records, page_of_many, 0, 1, 5), count, COUNT),
        "quotes_into": measure(lambda: codec.encode_many_into(quotes, page_of_many, 0, 1, 5), count, COUNT),
        "encode": measure(all_, count, COUNT),
        "decode": measure(back, count, COUNT),
        "book_encode": measure(lambda: encode(delta, 1, 5), count // 4, 1),
        "book_decode": measure(lambda: decode(view, "v", "S"), count // 4, 1),
        "book_decode_views": measure(lambda: decode(view, "v", "S", copy=False), count // 4, 1),
        "columns_of_list": measure(lambda: codec.columns(views * 50, Template.TRADE), count, COUNT * 50),
        "columns": measure(lambda: codec.columns(many, Template.TRADE), count, COUNT * 50),
    }
    assert [decode(frame, "binance-spot", "BTCUSDT") for frame in views] == records
    assert decode(view, "v", "S") == delta
    assert codec.decode(buffer[: encode_into(quotes[3], buffer, 0, 1, 5, 0, 0, 0)], "v", "S") == quotes[3]
    for batch in (records, quotes):
        end = codec.encode_many_into(batch, page_of_many, 0, 1, 5)
        assert page_of_many[:end] == b"".join(encode(record, 1, n) for n, record in enumerate(batch, 5))
    check = codec.FrameWriter(page_of_many, 1, 5)
    assert sum(map(check.write, records)) == len(b"".join(made))
    assert page_of_many[: check.end] == b"".join(encode(record, 1, n) for n, record in enumerate(records, 5))
    assert codec.native == (way == "ours")
    columns = codec.columns(many, Template.TRADE)
    assert columns["price"].tolist() == [record.price for record in records] * 50
    return result


# The first fourteen bytes of a frame are constant per template and length, as a hand-written program would have them.
TRADE = struct.Struct("<14sQqqIHBBddqBBH")
QUOTE = struct.Struct("<14sQqqIHBBqdddd")
BOOK = struct.Struct("<IHHHHHQqqIHBBqqqII")
GROUP = struct.Struct("<II")
SIDE = {"buy": 1, "sell": 2, "unknown": 0}
SIDES = ("unknown", "buy", "sell")


def _struct(count: int) -> dict[str, float]:
    records, delta = plain(COUNT), book()
    buffer = bytearray(4096)
    pack_into, pack, unpack, quote_into = TRADE.pack_into, TRADE.pack, TRADE.unpack_from, QUOTE.pack_into
    prefix, quotes = bytes(14), [quote(n) for n in range(COUNT)]

    def into() -> None:
        for r in records:
            pack_into(
                buffer, 0, prefix, 5, r.ts_event, r.ts_recv, 1, 0, r.flags, 0, r.price, r.quantity,
                r.trade_seq, SIDE[r.side], 1, 0,
            )  # fmt: skip

    def all_() -> None:
        for r in records:
            pack(
                prefix, 5, r.ts_event, r.ts_recv, 1, 0, r.flags, 0, r.price, r.quantity,
                r.trade_seq, SIDE[r.side], 1, 0,
            )  # fmt: skip

    frame = pack(prefix, 5, 1, 2, 1, 0, 0, 0, 3.0, 4.0, 17, 1, 1, 0)

    def back() -> None:
        for _ in range(COUNT):
            v = unpack(frame)
            Trade(v[2], v[3], "binance-spot", "BTCUSDT", str(v[10]), v[10], v[8], v[9], SIDES[v[11]], v[6])

    def quoted() -> None:
        for r in quotes:
            quote_into(
                buffer, 0, prefix, 5, r.ts_event, r.ts_recv, 1, 0, r.flags, 0, r.seq, r.bid_price, r.bid_quantity,
                r.ask_price, r.ask_quantity,
            )  # fmt: skip

    room = bytearray(COUNT * 128)

    def trades_moving() -> None:
        """The same call as in ``into``, each record at its own place with its own number."""
        at, seq, side = 0, 5, SIDE
        for r in records:
            pack_into(
                room, at, prefix, seq, r.ts_event, r.ts_recv, 1, 0, r.flags, 0, r.price, r.quantity,
                r.trade_seq, side[r.side], 1, 0,
            )  # fmt: skip
            at += 74
            seq += 1

    def quotes_moving() -> None:
        at, seq = 0, 5
        for r in quotes:
            quote_into(
                room, at, prefix, seq, r.ts_event, r.ts_recv, 1, 0, r.flags, 0, r.seq, r.bid_price, r.bid_quantity,
                r.ask_price, r.ask_quantity,
            )  # fmt: skip
            at += 86
            seq += 1

    def page() -> bytes:
        bids, asks = delta.bids, delta.asks
        head = BOOK.pack(
            0, 0x50EB, 56, 6, 7100, 1, 5, delta.ts_event, delta.ts_recv, 1, 0, 8, 0, delta.epoch, delta.seq,
            delta.first_seq, 16, len(bids) // 16,
        )  # fmt: skip
        return b"".join((head, bids, GROUP.pack(16, len(asks) // 16), asks))

    data = page()

    def unpage() -> BookDelta:
        v = BOOK.unpack_from(data)
        at = BOOK.size + v[17] * 16
        asks = GROUP.unpack_from(data, at)[1]
        return BookDelta(
            v[7], v[8], "v", "S", v[13], v[14], v[15], data[BOOK.size : at], data[at + 8 : at + 8 + asks * 16], v[11]
        )

    assert unpage() == delta
    into()
    assert TRADE.unpack_from(buffer)[8:11] == (records[-1].price, records[-1].quantity, records[-1].trade_seq)
    return {
        "encode_into": measure(into, count, COUNT),
        "quote_into": measure(quoted, count, COUNT),
        "trades_into": measure(trades_moving, count, COUNT),
        "quotes_into": measure(quotes_moving, count, COUNT),
        "encode": measure(all_, count, COUNT),
        "decode": measure(back, count, COUNT),
        "book_encode": measure(page, count // 4, 1),
        "book_decode": measure(unpage, count // 4, 1),
    }


def _msgspec(count: int) -> dict[str, float]:
    import msgspec
    import numpy as np

    class Wire(msgspec.Struct, array_like=True, gc=False):
        seq: int
        instrument: int
        ts_event: int
        ts_recv: int
        trade_seq: int
        price: float
        quantity: float
        side: str
        flags: int

    class Page(msgspec.Struct, array_like=True, gc=False):
        seq: int
        ts_event: int
        ts_recv: int
        epoch: int
        last: int
        first: int
        bids: bytes
        asks: bytes
        flags: int

    records, delta = plain(COUNT), book()
    wires = [Wire(5, 1, r.ts_event, r.ts_recv, r.trade_seq or 0, r.price, r.quantity, r.side, r.flags) for r in records]
    page = Page(5, delta.ts_event, delta.ts_recv, 7, 9, 8, delta.bids, delta.asks, 8)
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Wire)
    encode, encode_into, decode = encoder.encode, encoder.encode_into, decoder.decode
    buffer = bytearray(4096)
    made = [encode(wire) for wire in wires]
    data = encode(page)
    unpage = msgspec.msgpack.Decoder(Page).decode

    def into() -> None:
        for wire in wires:
            encode_into(wire, buffer)

    def all_() -> None:
        for wire in wires:
            encode(wire)

    def back() -> None:
        for frame in made:
            decode(frame)

    def columns() -> Any:
        rows = [decode(frame) for frame in made]
        return {
            "price": np.array([row.price for row in rows]),
            "quantity": np.array([row.quantity for row in rows]),
            "ts_event": np.array([row.ts_event for row in rows]),
        }

    assert [decode(frame) for frame in made] == wires
    assert unpage(data) == page
    return {
        "encode_into": measure(into, count, COUNT),
        "encode": measure(all_, count, COUNT),
        "decode": measure(back, count, COUNT),
        "book_encode": measure(lambda: encode(page), count // 4, 1),
        "book_decode": measure(lambda: unpage(data), count // 4, 1),
        "columns": measure(columns, count, COUNT),
    }


SCHEMA = """<?xml version="1.0" encoding="UTF-8"?>
<sbe:messageSchema xmlns:sbe="http://fixprotocol.io/2016/sbe" package="b" id="7100" version="1" byteOrder="littleEndian">
  <types>
    <composite name="messageHeader">
      <type name="blockLength" primitiveType="uint16"/><type name="templateId" primitiveType="uint16"/>
      <type name="schemaId" primitiveType="uint16"/><type name="version" primitiveType="uint16"/>
    </composite>
    <type name="u64_t" primitiveType="uint64"/>
    <type name="i64_t" primitiveType="int64"/>
    <type name="u32_t" primitiveType="uint32"/>
    <type name="u16_t" primitiveType="uint16"/>
    <type name="u8_t" primitiveType="uint8"/>
    <type name="de_t" primitiveType="double"/>
  </types>
  <sbe:message name="Trade" id="2" blockLength="58">
    <field name="seq" id="1" type="u64_t"/><field name="tsEvent" id="2" type="i64_t"/>
    <field name="tsRecv" id="3" type="i64_t"/><field name="instrumentId" id="4" type="u32_t"/>
    <field name="view" id="5" type="u16_t"/><field name="flags" id="6" type="u8_t"/>
    <field name="bookState" id="7" type="u8_t"/><field name="price" id="8" type="de_t"/>
    <field name="quantity" id="9" type="de_t"/><field name="tradeSeq" id="10" type="i64_t"/>
    <field name="side" id="11" type="u8_t"/><field name="idIsNumber" id="12" type="u8_t"/>
  </sbe:message>
</sbe:messageSchema>
"""


def _sbe(count: int) -> dict[str, float]:
    import sbe

    schema = sbe.Schema.parse(io.BytesIO(SCHEMA.encode()))
    message = schema.messages[2]
    rows = [
        {
            "seq": 5, "tsEvent": r.ts_event, "tsRecv": r.ts_recv, "instrumentId": 1, "view": 0, "flags": r.flags,
            "bookState": 0, "price": r.price, "quantity": r.quantity, "tradeSeq": r.trade_seq, "side": SIDE[r.side],
            "idIsNumber": 1,
        }
        for r in plain(COUNT)
    ]  # fmt: skip
    made = [schema.encode(message, row) for row in rows]

    def all_() -> None:
        for row in rows:
            schema.encode(message, row)

    def back() -> None:
        for frame in made:
            schema.decode(frame)

    assert [schema.decode(frame).value for frame in made] == rows
    return {"encode": measure(all_, count // 4, COUNT), "decode": measure(back, count // 4, COUNT)}


WAYS = {
    "ours": _ours,
    "ours_pure": lambda count: _ours(count, "ours_pure"),
    "struct": _struct,
    "msgspec": _msgspec,
    "sbe": _sbe,
}


def codec(way: str, count: int) -> dict[str, float]:
    return WAYS[way](count)
