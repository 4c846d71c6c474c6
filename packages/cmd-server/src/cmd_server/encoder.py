"""Records, answers and requests as SBE frames; the writing half of ``codec``.

Each message that is sent often has one precompiled struct call. The ten bytes behind a frame's length are constant
per template, and where the whole frame has one length, so are all fourteen. Book sides are copied as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

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

from .errors import WireError
from .formats import COMMON, HEADER, LAYOUTS, NULL_INT
from .messages import (
    Ack,
    Bye,
    Divert,
    Diverted,
    Heartbeat,
    Hello,
    Login,
    Ping,
    Reject,
    Request,
    Resume,
    Service,
    StreamGap,
    Subscribe,
    Template,
    Unsubscribe,
)

__all__ = [
    "ENCODERS",
    "MAX_TEXT",
    "MISFITS",
    "QUOTE_PREFIX",
    "SHORT",
    "SIDES",
    "SOURCES",
    "STATES",
    "TEMPLATE_OF",
    "TRADE_PREFIX",
    "encode",
    "encode_into",
    "encode_request",
    "encode_service",
    "too_short",
]

SIDES: Final = {"unknown": 0, "buy": 1, "sell": 2}
SOURCES: Final = {"exchange": 1, "built": 2}
STATES: Final = {"provisional": 1, "final": 2, "corrected": 3}
_LEVEL: Final = 16  # bytes of a level: price and quantity
_VENUE_LEVEL: Final = 24  # and venue
MAX_TEXT: Final = 65_534
SHORT: Final = 128  # bytes of an id up to which the call that writes it is kept
_TRADE_OF: Final[dict[int, tuple[Callable[..., bytes], bytes]]] = {}  # by length of the id
_NOTHING: Final = (0, 0, 0, 0, 0, 0, 0)
_HEADERS: Final = {template: layout.header for template, layout in LAYOUTS.items()}  # computed by the layout each time


def _fixed(template: int, end: str = "") -> tuple[struct.Struct, bytes]:
    """Return the call that writes a frame of one length, and its first fourteen bytes."""
    layout = LAYOUTS[template]
    call = struct.Struct(f"<14s{COMMON}{layout.format}{end}")
    return call, _prefix(template, call.size)


def _open(template: int, end: str) -> tuple[struct.Struct, bytes]:
    """Return the call that writes a frame up to its first group or text, and the ten bytes behind its length."""
    layout = LAYOUTS[template]
    return struct.Struct(f"<4s10s{COMMON}{layout.format}{end}"), layout.header


def _prefix(template: int, size: int) -> bytes:
    return size.to_bytes(4, "big") + _HEADERS[template]


_TRADE, TRADE_PREFIX = _fixed(Template.TRADE, "H")
_AGG_TRADE, _AGG_TRADE_PREFIX = _fixed(Template.AGG_TRADE, "H")
_QUOTE, QUOTE_PREFIX = _fixed(Template.QUOTE)
_CANDLE, _CANDLE_HEADER = _open(Template.CANDLE, "H")
_SNAPSHOT, _SNAPSHOT_HEADER = _open(Template.BOOK_SNAPSHOT, "II")
_DELTA, _DELTA_HEADER = _open(Template.BOOK_DELTA, "II")
_AGGREGATE, _AGGREGATE_HEADER = _open(Template.AGGREGATED_BOOK, "II")
_DIMENSION: Final = struct.Struct("<II")
_pack_trade, _trade_at, _TRADE_SIZE = _TRADE.pack, _TRADE.pack_into, _TRADE.size
_pack_agg_trade = _AGG_TRADE.pack
_pack_quote, _quote_at, _QUOTE_SIZE = _QUOTE.pack, _QUOTE.pack_into, _QUOTE.size
_pack_candle, _CANDLE_SIZE = _CANDLE.pack, _CANDLE.size
_pack_snapshot, _snapshot_at, _SNAPSHOT_SIZE = _SNAPSHOT.pack, _SNAPSHOT.pack_into, _SNAPSHOT.size
_pack_delta, _delta_at, _DELTA_SIZE = _DELTA.pack, _DELTA.pack_into, _DELTA.size
_pack_aggregate, _AGGREGATE_SIZE = _AGGREGATE.pack, _AGGREGATE.size
_pack_dimension, _dimension_at = _DIMENSION.pack, _DIMENSION.pack_into


def _trade_of(size: int) -> tuple[Callable[..., bytes], bytes]:
    """Return the call that writes a trade whose id has so many bytes, and its first fourteen bytes."""
    if size > MAX_TEXT:
        raise WireError(f"a text of {size} bytes does not fit a message; {MAX_TEXT} do")
    call, prefix = _fixed(Template.TRADE, f"H{size}s")
    if size <= SHORT:
        _TRADE_OF[size] = call.pack, prefix
    return call.pack, prefix


def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) > MAX_TEXT:
        raise WireError(f"a text of {len(raw)} bytes does not fit a message; {MAX_TEXT} do")
    return len(raw).to_bytes(2, "little") + raw


def _texts(*values: str) -> bytes:
    return b"".join([_text(value) for value in values])


def _generic(template: int, common: tuple[int, ...], fields: tuple[Any, ...], rest: bytes = b"") -> bytes:
    """Encode a message that is not sent often: common part, own fields, then groups and texts as given."""
    block = struct.pack(f"<{COMMON}{LAYOUTS[template].format}", *common, *fields)
    return _prefix(template, HEADER + len(block) + len(rest)) + block + rest


def _number(value: int | None) -> int:
    return NULL_INT if value is None else value


def _count(side: bytes, size: int) -> int:
    count, odd = divmod(len(side), size)
    if odd:
        raise WireError(f"a book side of {len(side)} bytes is not made of levels of {size}")
    return count


# The calls below name their arguments in the order of the layout: a line a group of fields reads better than a
# line a field.
# fmt: off


def _trade(r: Trade, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    number = r.trade_seq
    if number is not None and r.trade_id == f"{number}":
        return _pack_trade(
            TRADE_PREFIX, seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
            r.price, r.quantity, number, SIDES[r.side], 1, 0,
        )
    text = r.trade_id.encode()
    size = len(text)
    pack, prefix = _TRADE_OF.get(size) or _trade_of(size)
    return pack(
        prefix, seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.price, r.quantity, _number(number), SIDES[r.side], 0, size, text,
    )


def _agg_trade(r: AggTrade, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    number = r.trade_seq
    numbered = number is not None and r.trade_id == f"{number}"
    text = b"\0\0" if numbered else _text(r.trade_id)
    prefix = _AGG_TRADE_PREFIX if numbered else _prefix(Template.AGG_TRADE, _AGG_TRADE.size - 2 + len(text))
    frame = _pack_agg_trade(
        prefix, seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.price, r.quantity, _number(number), r.first_trade_id, r.last_trade_id, SIDES[r.side], numbered, 0,
    )
    return frame if numbered else frame[:-2] + text


def _quote(r: Quote, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    return _pack_quote(
        QUOTE_PREFIX, seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.seq, r.bid_price, r.bid_quantity, r.ask_price, r.ask_quantity,
    )


def _snapshot(r: BookSnapshot, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    bids, asks = r.bids, r.asks
    return b"".join((_pack_snapshot(
        (_SNAPSHOT_SIZE + 8 + len(bids) + len(asks)).to_bytes(4, "big"), _SNAPSHOT_HEADER,
        seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.epoch, r.seq, r.known_bids, r.known_asks, _LEVEL, _count(bids, _LEVEL),
    ), bids, _pack_dimension(_LEVEL, _count(asks, _LEVEL)), asks))


def _delta(r: BookDelta, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    bids, asks = r.bids, r.asks
    bids_size, asks_size = len(bids), len(asks)
    if (bids_size | asks_size) & 15:
        _count(bids, _LEVEL)
        _count(asks, _LEVEL)
    return b"".join((_pack_delta(
        (_DELTA_SIZE + 8 + bids_size + asks_size).to_bytes(4, "big"), _DELTA_HEADER,
        seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.epoch, r.seq, r.first_seq, _LEVEL, bids_size >> 4,
    ), bids, _pack_dimension(_LEVEL, asks_size >> 4), asks))


def _candle(r: Candle, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    interval = r.interval.encode()
    return _pack_candle(
        (_CANDLE_SIZE + len(interval)).to_bytes(4, "big"), _CANDLE_HEADER,
        seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.open_time, r.close_time, r.open, r.high, r.low, r.close, r.volume, r.quote_volume,
        r.trades, r.taker_buy_volume, r.taker_buy_quote_volume, SOURCES[r.source], STATES[r.state], len(interval),
    ) + interval


def _aggregate(r: AggregatedBook, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    bids, asks = r.bids, r.asks
    texts = _texts(r.instrument, r.venues, r.excluded)
    return b"".join((_pack_aggregate(
        (_AGGREGATE_SIZE + 8 + len(bids) + len(asks) + len(texts)).to_bytes(4, "big"), _AGGREGATE_HEADER,
        seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.seq, _number(r.crossed_for), _VENUE_LEVEL, _count(bids, _VENUE_LEVEL),
    ), bids, _pack_dimension(_VENUE_LEVEL, _count(asks, _VENUE_LEVEL)), asks, texts))


def _status(r: FeedStatus, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    common = (seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state)
    return _generic(
        Template.STATUS, common, (), _texts(r.venue, r.symbol, r.record_type, r.connection, r.state, r.reason)
    )


def _gap(r: Gap, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    return _generic(
        Template.GAP, (seq, r.ts_to, r.ts_to, instrument_id, view, flags, state),
        (r.ts_from, r.ts_to, _number(r.first_id), _number(r.last_id)),
        _texts(r.venue, r.symbol, r.record_type, r.reason, r.severity, r.repaired_by, r.detail),
    )


def _instrument(r: InstrumentRecord, instrument_id: int, seq: int, view: int, flags: int, state: int) -> bytes:
    return _generic(
        Template.INSTRUMENT, (seq, r.ts_event, r.ts_recv, instrument_id, view, flags, state),
        (_number(r.expiry), r.inverse),
        _texts(
            r.venue, r.symbol, r.base, r.quote, r.settle, r.kind, r.tick_size, r.lot_size, r.min_quantity,
            r.min_notional, r.contract_size, r.status,
        ),
    )


# In place; encode_into itself holds trades and quotes.


def _snapshot_into(
    r: BookSnapshot, buffer: Any, offset: int, instrument_id: int, seq: int, view: int, flags: int, state: int
) -> int:
    bids, asks = r.bids, r.asks
    dimension = offset + _SNAPSHOT_SIZE + len(bids)
    end = dimension + 8 + len(asks)
    if end > len(buffer):
        raise too_short(buffer, offset, end - offset)
    _snapshot_at(
        buffer, offset, (end - offset).to_bytes(4, "big"), _SNAPSHOT_HEADER,
        seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.epoch, r.seq, r.known_bids, r.known_asks, _LEVEL, _count(bids, _LEVEL),
    )
    _dimension_at(buffer, dimension, _LEVEL, _count(asks, _LEVEL))
    buffer[dimension - len(bids) : dimension] = bids
    buffer[dimension + 8 : end] = asks
    return end


def _delta_into(
    r: BookDelta, buffer: Any, offset: int, instrument_id: int, seq: int, view: int, flags: int, state: int
) -> int:
    bids, asks = r.bids, r.asks
    first = offset + _DELTA_SIZE
    dimension = first + len(bids)
    end = dimension + 8 + len(asks)
    if end > len(buffer):
        raise too_short(buffer, offset, end - offset)
    _delta_at(
        buffer, offset, (end - offset).to_bytes(4, "big"), _DELTA_HEADER,
        seq, r.ts_event, r.ts_recv, instrument_id, view, flags | r.flags, state,
        r.epoch, r.seq, r.first_seq, _LEVEL, _count(bids, _LEVEL),
    )
    _dimension_at(buffer, dimension, _LEVEL, _count(asks, _LEVEL))
    buffer[first:dimension] = bids
    buffer[dimension + 8 : end] = asks
    return end


def _copy_into(
    r: Record, buffer: Any, offset: int, instrument_id: int, seq: int, view: int, flags: int, state: int
) -> int:
    frame = ENCODERS[type(r)](r, instrument_id, seq, view, flags, state)
    end = offset + len(frame)
    if end > len(buffer):
        raise too_short(buffer, offset, len(frame))
    buffer[offset:end] = frame
    return end


# fmt: on

ENCODERS: Final[dict[type, Callable[[Any, int, int, int, int, int], bytes]]] = {
    Trade: _trade,
    AggTrade: _agg_trade,
    Quote: _quote,
    BookSnapshot: _snapshot,
    BookDelta: _delta,
    Candle: _candle,
    AggregatedBook: _aggregate,
    FeedStatus: _status,
    Gap: _gap,
    InstrumentRecord: _instrument,
}
TEMPLATE_OF: Final[dict[type, Template]] = {
    Trade: Template.TRADE,
    AggTrade: Template.AGG_TRADE,
    Quote: Template.QUOTE,
    BookSnapshot: Template.BOOK_SNAPSHOT,
    BookDelta: Template.BOOK_DELTA,
    Candle: Template.CANDLE,
    AggregatedBook: Template.AGGREGATED_BOOK,
    FeedStatus: Template.STATUS,
    Gap: Template.GAP,
    InstrumentRecord: Template.INSTRUMENT,
}
_WRITERS: Final[dict[type, Callable[[Any, Any, int, int, int, int, int, int], int]]] = {
    **dict.fromkeys(ENCODERS, _copy_into),
    BookSnapshot: _snapshot_into,
    BookDelta: _delta_into,
}
MISFITS: Final = (struct.error, KeyError, UnicodeEncodeError, OverflowError, TypeError, AttributeError)


def encode(record: Record, instrument_id: int, seq: int, view: int = 0, flags: int = 0, state: int = 0) -> bytes:
    """Return a record as one whole frame; its own flags are added to ``flags``, ``state`` is a BookFlag.

    O(bytes). Raises WireError for a value that its field does not hold: a number over 64 bits, a text over 65,534
    bytes, a book side that is not whole levels.
    """
    try:
        return ENCODERS[type(record)](record, instrument_id, seq, view, flags, state)
    except MISFITS as error:
        raise _unfit(record, error) from None


def encode_into(
    record: Record,
    buffer: bytearray | memoryview,
    offset: int,
    instrument_id: int,
    seq: int,
    view: int = 0,
    flags: int = 0,
    state: int = 0,
) -> int:
    """Write a record as one whole frame at ``offset`` of the caller's buffer, return where it ends.

    The same bytes as ``encode`` returns; trades with numeric ids, quotes and books are written without a copy of
    their own. Raises WireError as ``encode`` does, and where the buffer is too short; it never grows.
    """
    # fmt: off
    try:
        # In line: a call would cost a quarter of what the bare pack_into costs; so would isinstance that says no.
        if type(record) is Trade:
            number = record.trade_seq
            if number is not None and record.trade_id == f"{number}":
                _trade_at(
                    buffer, offset,
                    TRADE_PREFIX, seq, record.ts_event, record.ts_recv, instrument_id, view, flags | record.flags, state,
                    record.price, record.quantity, number, SIDES[record.side], 1, 0,
                )
                return offset + _TRADE_SIZE
        elif type(record) is Quote:
            _quote_at(
                buffer, offset,
                QUOTE_PREFIX, seq, record.ts_event, record.ts_recv, instrument_id, view, flags | record.flags, state,
                record.seq, record.bid_price, record.bid_quantity, record.ask_price, record.ask_quantity,
            )
            return offset + _QUOTE_SIZE
        return _WRITERS[type(record)](record, buffer, offset, instrument_id, seq, view, flags, state)
        # fmt: on
    except MISFITS as error:
        frame = encode(record, instrument_id, seq, view, flags, state)  # raises if a value is to blame
        if not 0 <= offset <= len(buffer) - len(frame):
            raise too_short(buffer, offset, len(frame)) from None
        raise _unfit(record, error) from None


def _unfit(record: object, error: Exception) -> WireError:
    name = type(record).__name__
    return WireError(f"a {name} does not fit its message: {type(error).__name__}: {error}")


def too_short(buffer: bytearray | memoryview, offset: int, size: int) -> WireError:
    """Return the error of a buffer that has no room for a frame."""
    return WireError(
        f"the buffer of {len(buffer)} bytes is too short for {size} bytes at offset {offset}",
        hint="give a longer one, or send what it holds first",
    )


# -- answers and requests


def _topics(topics: Sequence[str]) -> bytes:
    return _pack_dimension(0, len(topics)) + _texts(*topics)


def _service(m: Service) -> bytes:
    match m:
        case Hello():
            fields: tuple[Any, ...] = (m.epoch, m.heartbeat, m.max_message, m.token)
            return _generic(Template.HELLO, (0, m.time, 0, 0, 0, 0, 0), fields, _text(m.server))
        case Ack():
            return _generic(Template.ACK, _NOTHING, (m.request_id, m.streams))
        case Reject():
            return _generic(Template.REJECT, _NOTHING, (m.request_id,), _texts(m.code, m.text, m.hint))
        case StreamGap():
            fields = (m.from_seq, m.to_seq, m.kind)
            common = (0, 0, 0, m.instrument_id, m.view, 0, 0)
            return _generic(Template.STREAM_GAP, common, fields, _text(m.reason))
        case Heartbeat():
            return _generic(Template.HEARTBEAT, (0, m.time, 0, 0, 0, 0, 0), (m.queued,))
        case Bye():
            return _generic(Template.BYE, _NOTHING, (), _texts(m.code, m.text))
        case Diverted():
            return _generic(Template.DIVERTED, _NOTHING, (m.request_id,), _text(m.to))


def _request(m: Request) -> bytes:
    match m:
        case Login():
            return _generic(Template.LOGIN, _NOTHING, (), _texts(m.token, m.client))
        case Subscribe():
            return _generic(Template.SUBSCRIBE, _NOTHING, (m.request_id, m.queue, m.policy), _topics(m.topics))
        case Unsubscribe():
            return _generic(Template.UNSUBSCRIBE, _NOTHING, (m.request_id,), _topics(m.topics))
        case Resume():
            positions = b"".join(
                [struct.pack("<QIHB", p.seq, p.instrument_id, p.view, p.kind) for p in m.positions],
            )
            rest = _pack_dimension(_POSITION, len(m.positions)) + positions + _topics(m.topics)
            return _generic(Template.RESUME, _NOTHING, (m.epoch, m.request_id, m.queue, m.policy), rest)
        case Ping():
            return _generic(Template.PING, (0, m.time, 0, 0, 0, 0, 0), ())
        case Divert():
            return _generic(Template.DIVERT, _NOTHING, (m.request_id,), _text(m.to))


_POSITION: Final = struct.calcsize("<QIHB")


def encode_service(message: Service) -> bytes:
    """Return what the server says as one whole frame; raises WireError for a value that its field does not hold."""
    try:
        return _service(message)
    except MISFITS as error:
        raise _unfit(message, error) from None


def encode_request(request: Request) -> bytes:
    """Return what a client says as one whole frame; raises WireError for a value that its field does not hold."""
    try:
        return _request(request)
    except MISFITS as error:
        raise _unfit(request, error) from None
