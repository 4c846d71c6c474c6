"""Many records of one stream as SBE frames, without a Python call a record.

The records take consecutive sequences. Runs of trades and of quotes, which is what comes in batches, have a loop of their own around one struct call, for which everything that does not change from record to
record is packed once. Anything else goes through ``encoder`` one by one; the bytes are the same either way.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from cmd_common.records import Quote, Record, Trade

from .encoder import ENCODERS, MAX_TEXT, MISFITS, QUOTE_PREFIX, SHORT, SIDES, TRADE_PREFIX, encode, too_short
from .formats import NULL_INT

__all__ = ["encode_many", "encode_many_into", "same_stream"]

# 8s: instrument, view, flags and state. I: side, that the id is the number, and no bytes of text.
_TRADE: Final = struct.Struct("<14sQqq8sddqI")
_QUOTE: Final = struct.Struct("<14sQqq8sqdddd")
_pack_trade, _pack_quote = _TRADE.pack, _QUOTE.pack
_pack_head: Final = struct.Struct("<IHBB").pack
_NUMBERED: Final = {side: code | 1 << 8 for side, code in SIDES.items()}
_digits: Final = msgspec.json.Encoder().encode
_TEXT_OF: Final[dict[int, tuple[Callable[..., bytes], bytes]]] = {}  # by length of an id that is text
_trade: Final = ENCODERS[Trade]
_ZERO: Final = 0  # flags that are this very object need no look at what they are


def encode_many(
    records: Sequence[Record], instrument_id: int, seq: int, view: int = 0, flags: int = 0, state: int = 0
) -> list[bytes]:
    """Return a frame a record, as ``encode`` does with ``seq``, ``seq + 1``, ...; fastest where all are of one type.

    O(bytes). Raises WireError as ``encode`` does.
    """
    try:
        kind = type(records[0]) if records else None
        frames: list[bytes] = []
        if kind is Trade:
            frames = _trades(records, instrument_id, seq, view, flags, state)
        elif kind is Quote:
            frames = _quotes(records, instrument_id, seq, view, flags, state)
        if frames:
            return frames
        # A mixture: without the checks that ``encode`` makes around each.
        of = ENCODERS
        return [of[type(r)](r, instrument_id, n, view, flags, state) for n, r in enumerate(records, seq)]
    except MISFITS:  # once more, for the error of the one that is to blame
        return [encode(r, instrument_id, n, view, flags, state) for n, r in enumerate(records, seq)]


def encode_many_into(
    records: Sequence[Record],
    buffer: bytearray | memoryview,
    offset: int,
    instrument_id: int,
    seq: int,
    view: int = 0,
    flags: int = 0,
    state: int = 0,
) -> int:
    """Write a frame a record behind each other from ``offset`` on, return where the last one ends.

    The bytes are those of ``encode_many``. Raises WireError as it does, and where the buffer is too short; nothing
    is written then, and the buffer never grows.
    """
    # Measured: packing bytes and copying them all at once takes less than a pack_into a record, which asks the
    # buffer for its memory each time.
    data = b"".join(encode_many(records, instrument_id, seq, view, flags, state))
    end = offset + len(data)
    if not 0 <= offset <= end <= len(buffer):
        raise too_short(buffer, offset, len(data))
    buffer[offset:end] = data
    return end


def same_stream(records: Sequence[Record], start: int, stop: int) -> int:
    """Return up to where trades of one venue and symbol go on, from ``start`` and before ``stop``: at least one."""
    first: Any = records[start]
    kind, venue, symbol = type(first), first.venue, first.symbol
    for n in range(start + 1, stop):
        r: Any = records[n]
        if type(r) is not kind or r.symbol != symbol or r.venue != venue:
            return n
    return max(stop, start + 1)


def _text_of(size: int) -> tuple[Callable[..., bytes], bytes]:
    """Return the call that writes a trade whose id is a text of so many bytes, and its first fourteen bytes."""
    if size > MAX_TEXT:
        raise OverflowError(size)
    call = struct.Struct(f"<14sQqq8sddqHH{size}s")  # H: side, and that the id is not the number
    found = call.pack, call.size.to_bytes(4, "big") + TRADE_PREFIX[4:]
    if size <= SHORT:
        _TEXT_OF[size] = found
    return found


# fmt: off


def _trades(records: Sequence[Any], instrument_id: int, seq: int, view: int, flags: int, state: int) -> list[bytes]:
    """Return the frames where all are trades; else nothing.

    Whether an id is exactly its number in digits is seen by writing all numbers as one list in JSON, which does it as
    Python does, at a fifth of the price. A comma in an id would make one comma too many. What is no integer is left
    to others (``e`` is in true and false), but for null, which fits no integer field where it counts as one.
    """
    numbers = [r.trade_seq for r in records if type(r) is Trade]
    if len(numbers) != len(records):
        return []
    digits = _digits(numbers)
    if b"e" in digits:
        return []
    head, sides, zero = _pack_head(instrument_id, view, flags, state), _NUMBERED, _ZERO
    pack: Callable[..., bytes] = _pack_trade
    prefix = TRADE_PREFIX
    ids = ",".join([r.trade_id for r in records])
    if digits == f"[{ids}]".encode():
        return [
            pack(
                prefix, n, r.ts_event, r.ts_recv,
                head if r.flags is zero else _pack_head(instrument_id, view, flags | r.flags, state),
                r.price, r.quantity, r.trade_seq, sides[r.side],
            )
            for n, r in enumerate(records, seq)
        ]
    codes, calls, single = SIDES, _TEXT_OF, _trade
    frames = []
    for n, r, digit in zip(range(seq, seq + len(records)), records, digits[1:-1].split(b","), strict=False):
        text = r.trade_id.encode()
        if text == digit:
            frames.append(single(r, instrument_id, n, view, flags, state))
            continue
        size = len(text)
        pack, prefix = calls.get(size) or _text_of(size)
        frames.append(pack(
            prefix, n, r.ts_event, r.ts_recv,
            head if r.flags is zero else _pack_head(instrument_id, view, flags | r.flags, state),
            r.price, r.quantity, NULL_INT if r.trade_seq is None else r.trade_seq, codes[r.side], size, text,
        ))
    return frames


def _quotes(records: Sequence[Any], instrument_id: int, seq: int, view: int, flags: int, state: int) -> list[bytes]:
    """Return the frames where all are quotes; else nothing."""
    pack, prefix, zero = _pack_quote, QUOTE_PREFIX, _ZERO
    head = _pack_head(instrument_id, view, flags, state)
    frames = [
        pack(
            prefix, n, r.ts_event, r.ts_recv,
            head if r.flags is zero else _pack_head(instrument_id, view, flags | r.flags, state),
            r.seq, r.bid_price, r.bid_quantity, r.ask_price, r.ask_quantity,
        )
        for n, r in enumerate(records, seq) if type(r) is Quote
    ]
    return frames if len(frames) == len(records) else []
