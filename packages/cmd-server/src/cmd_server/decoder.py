"""SBE frames as records, answers and requests; the reading half of ``codec``.

Each decoder reads a block of our own version in one precompiled call that also covers the message header, so that
one comparison tells whether it is the layout it knows. Everything else goes through ``adapt``, which rewrites a
frame of another version into ours: what a newer one appended is left out, what an older one lacks is null.

All lengths and counts are checked against the frame: bytes that lie end as WireError, never as a short text or side.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

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
from .formats import (
    BODY,
    COMMON,
    COMMON_SIZE,
    HEADER,
    LAYOUTS,
    NULL_INT,
    SCHEMA_AT,
    SOFH,
    TEMPLATE_AT,
    Layout,
)
from .messages import (
    SCHEMA_ID,
    Ack,
    Bye,
    Divert,
    Diverted,
    Heartbeat,
    Hello,
    Login,
    Ping,
    Policy,
    Position,
    Reject,
    Request,
    Resume,
    Service,
    StreamGap,
    Subscribe,
    Template,
    Unsubscribe,
)

__all__ = ["Frame", "Head", "adapt", "decode", "decode_request", "decode_service", "head"]

Frame = bytes | bytearray | memoryview

_RECORD_FLAGS: Final = 63  # the bits of cmd_common.records; those above belong to the transport
_SIDES: Final[tuple[Any, ...]] = ("unknown", "buy", "sell") + (
    "unknown",
) * 253  # a side that we do not know yet is unknown
_SOURCES: Final = {1: "exchange", 2: "built"}
_STATES: Final = {1: "provisional", 2: "final", 3: "corrected"}
_LEVEL: Final = 16
_VENUE_LEVEL: Final = 24


class Head(NamedTuple):
    """What every message begins with; ``flags`` with the bits of ``messages`` and of ``cmd_common.records``."""

    template: int
    seq: int
    ts_event: int
    ts_recv: int
    instrument_id: int
    view: int
    flags: int
    state: int


_tuple = tuple.__new__
_read_head = struct.Struct(f"<{TEMPLATE_AT}xH4x{COMMON}").unpack_from
_read_message = struct.Struct(f"<{SOFH}xHHHH").unpack_from
_dimension = struct.Struct("<II").unpack_from
_SCHEMA_LOW, _SCHEMA_HIGH = SCHEMA_ID & 0xFF, SCHEMA_ID >> 8


def head(frame: Frame) -> Head:
    """Read the common part of a message of any version and template; raises WireError."""
    try:
        if frame[SCHEMA_AT] != _SCHEMA_LOW or frame[SCHEMA_AT + 1] != _SCHEMA_HIGH:
            raise WireError(f"the message is of schema {_read_message(frame)[2]}, not {SCHEMA_ID}")
        return _tuple(Head, _read_head(frame))
    except (struct.error, IndexError):
        raise WireError(f"a frame of {len(frame)} bytes is too short for a message") from None


def _known(template: int) -> tuple[Any, int]:
    """Return the call that reads message header and block, and the header that it is for."""
    layout = LAYOUTS[template]
    # The dimension of the first group, or the length of the first text: always there.
    behind = "II" if layout.groups else "H" if layout.data else ""
    call = struct.Struct(f"<{SOFH}xQ{COMMON}{layout.format}{behind}").unpack_from
    return call, int.from_bytes(layout.header[2:], "little")


_read_trade, _TRADE = _known(Template.TRADE)
_read_agg_trade, _AGG_TRADE = _known(Template.AGG_TRADE)
_read_quote, _QUOTE = _known(Template.QUOTE)
_read_snapshot, _SNAPSHOT = _known(Template.BOOK_SNAPSHOT)
_read_delta, _DELTA = _known(Template.BOOK_DELTA)
_END: Final = {template: HEADER + layout.block for template, layout in LAYOUTS.items()}
_AGG_TRADE_END = _END[Template.AGG_TRADE]
_TRADE_TEXT: Final = _END[Template.TRADE] + 2  # where the id begins that is no number
_SNAPSHOT_END, _DELTA_END = _END[Template.BOOK_SNAPSHOT], _END[Template.BOOK_DELTA]
_BLOCKS: Final = {template: struct.Struct(f"<{COMMON}{layout.format}") for template, layout in LAYOUTS.items()}
_EXPECTED: Final = {template: layout.header[2:] for template, layout in LAYOUTS.items()}


def adapt(frame: Frame, layout: Layout) -> bytes:
    """Return a frame of another version as one of ``layout``'s: block cut or filled up with nulls, the rest as it is.

    Raises WireError for another schema or template, or a block that ends before the common part does.
    """
    if len(frame) < BODY:
        raise WireError(f"a frame of {len(frame)} bytes is too short for a message")
    block, template, schema, version = _read_message(frame)
    if schema != SCHEMA_ID:
        raise WireError(f"the message is of schema {schema}, not {SCHEMA_ID}")
    if template != layout.template:
        raise WireError(f"the message has template {template}, not {layout.template}")
    if block < COMMON_SIZE or HEADER + block > len(frame):
        raise WireError(f"a block of {block} bytes does not fit a {layout.name} frame of {len(frame)} bytes")
    ours = layout.block
    body = bytes(frame[HEADER : HEADER + min(block, ours)])
    if block < ours:
        body += layout.nulls[len(layout.nulls) - (ours - block) :] if ours - block <= len(layout.nulls) else b""
        if len(body) != ours:
            raise WireError(f"a {layout.name} block of {block} bytes is shorter than that of any version")
    rest = bytes(frame[HEADER + block :]) + b"".join([part for since, part in layout.tail if since > version])
    return (HEADER + ours + len(rest)).to_bytes(4, "big") + layout.header + body + rest


def _other(frame: Frame, template: int) -> bytes:
    """Rewrite a frame that is not of the expected version; raises WireError where nothing would change."""
    if frame[SOFH:HEADER] == _EXPECTED[template]:
        raise WireError(f"a {LAYOUTS[template].name} frame of {len(frame)} bytes is too short")
    return adapt(frame, LAYOUTS[template])


def _side(frame: Frame, at: int, size: int) -> tuple[Any, int]:
    """Return a group of levels of ``size`` bytes as a slice of the frame, and where it ends."""
    stride, count = _dimension(frame, at)
    start = at + 8
    end = start + stride * count
    if end > len(frame):
        raise WireError(f"a book side of {count} levels does not fit a frame of {len(frame)} bytes")
    side = frame[start:end]
    if stride != size:
        if stride < size:
            raise WireError(f"a level has {stride} bytes; {size} are needed")
        # A newer version's longer entries: our part of each.
        return b"".join([bytes(side[i : i + size]) for i in range(0, end - start, stride)]), end
    return side, end


def _strings(frame: Frame, at: int, count: int) -> list[str]:
    """Return ``count`` texts; those behind them are a newer version's."""
    found: list[str] = []
    for _ in range(count):
        start = at + 2
        at = start + (frame[at] | frame[at + 1] << 8)
        if at > len(frame):
            raise WireError(f"a text ends {at - len(frame)} bytes behind its frame")
        found.append(str(frame[start:at], "utf-8"))
    return found


def _integer(value: int) -> int | None:
    return None if value == NULL_INT else value


def _trade(frame: Frame, venue: str, symbol: str, copy: bool) -> Trade:
    header, _, event, recv, _, _, flags, _, price, quantity, number, side, numbered, size = _read_trade(frame)
    if header != _TRADE:
        return _trade(_other(frame, Template.TRADE), venue, symbol, copy)
    if numbered:
        trade_id = str(number)
    else:  # as _strings does it, without its list and loop: many exchanges have ids that are no numbers
        stop = _TRADE_TEXT + size
        if stop > len(frame):
            raise WireError(f"a text ends {stop - len(frame)} bytes behind its frame")
        trade_id = str(frame[_TRADE_TEXT:stop], "utf-8")
    return Trade(
        event,
        recv,
        venue,
        symbol,
        trade_id,
        None if number == NULL_INT else number,
        price,
        quantity,
        _SIDES[side],
        flags & _RECORD_FLAGS,
    )


def _agg_trade(frame: Frame, venue: str, symbol: str, copy: bool) -> AggTrade:
    header, _, event, recv, _, _, flags, _, price, quantity, number, first, last, side, numbered, _ = _read_agg_trade(
        frame
    )
    if header != _AGG_TRADE:
        return _agg_trade(_other(frame, Template.AGG_TRADE), venue, symbol, copy)
    trade_id = str(number) if numbered else _strings(frame, _AGG_TRADE_END, 1)[0]
    return AggTrade(
        event,
        recv,
        venue,
        symbol,
        trade_id,
        _integer(number),
        first,
        last,
        price,
        quantity,
        _SIDES[side],
        flags & _RECORD_FLAGS,
    )


def _quote(frame: Frame, venue: str, symbol: str, copy: bool) -> Quote:
    header, _, event, recv, _, _, flags, _, seq, bid, bid_quantity, ask, ask_quantity = _read_quote(frame)
    if header != _QUOTE:
        return _quote(_other(frame, Template.QUOTE), venue, symbol, copy)
    return Quote(event, recv, venue, symbol, seq, bid, bid_quantity, ask, ask_quantity, flags & _RECORD_FLAGS)


def _snapshot(frame: Frame, venue: str, symbol: str, copy: bool) -> BookSnapshot:
    if copy and type(frame) is not bytes:
        frame = bytes(frame)  # one copy, whose slices are cheaper than a view and a copy of each side
    header, _, event, recv, _, _, flags, _, epoch, seq, known_bids, known_asks, stride, count = _read_snapshot(frame)
    if header != _SNAPSHOT:
        return _snapshot(_other(frame, Template.BOOK_SNAPSHOT), venue, symbol, copy)
    bids, asks = _sides(frame, _SNAPSHOT_END + 8, stride, count)
    return BookSnapshot(
        event, recv, venue, symbol, epoch, seq, known_bids, known_asks, bids, asks, flags & _RECORD_FLAGS
    )


def _delta(frame: Frame, venue: str, symbol: str, copy: bool) -> BookDelta:
    if copy and type(frame) is not bytes:
        frame = bytes(frame)
    header, _, event, recv, _, _, flags, _, epoch, seq, first, stride, count = _read_delta(frame)
    if header != _DELTA:
        return _delta(_other(frame, Template.BOOK_DELTA), venue, symbol, copy)
    bids, asks = _sides(frame, _DELTA_END + 8, stride, count)
    return BookDelta(event, recv, venue, symbol, epoch, seq, first, bids, asks, flags & _RECORD_FLAGS)


def _sides(frame: Any, start: int, stride: int, count: int) -> tuple[Any, Any]:
    """Return both sides of a book as slices of the frame; the first group's dimension has been read."""
    middle = start + count * _LEVEL
    if stride == _LEVEL and middle < len(frame):
        stride, count = _dimension(frame, middle)
        end = middle + 8 + count * _LEVEL
        if stride == _LEVEL and end <= len(frame):
            return frame[start:middle], frame[middle + 8 : end]
    bids, at = _side(frame, start - 8, _LEVEL)
    return bids, _side(frame, at, _LEVEL)[0]


class _Parts(NamedTuple):
    """A message that is not sent often, taken apart: common part, own fields, the frame, where its block ends."""

    common: tuple[int, ...]
    fields: tuple[Any, ...]
    frame: Frame
    end: int

    def texts(self, template: int) -> list[Any]:
        return _strings(self.frame, self.end, len(LAYOUTS[template].data))


def _parts(frame: Frame, template: int) -> _Parts:
    if frame[SOFH:HEADER] != _EXPECTED[template]:
        frame = adapt(frame, LAYOUTS[template])
    values = _BLOCKS[template].unpack_from(frame, HEADER)
    return _Parts(values[:7], values[7:], frame, _END[template])


def _candle(frame: Frame, venue: str, symbol: str, copy: bool) -> Candle:
    parts = _parts(frame, Template.CANDLE)
    _, event, recv, _, _, flags, _ = parts.common
    opened, closed, *numbers, source, state = parts.fields
    try:
        words: Any = (_SOURCES[source], _STATES[state])
    except KeyError:
        raise WireError(f"a candle of source {source} and state {state} is not known here") from None
    interval = parts.texts(Template.CANDLE)[0]
    values = (*words, *numbers, flags & _RECORD_FLAGS)
    return Candle(opened, closed, event, recv, venue, symbol, interval, *values)


def _aggregate(frame: Frame, venue: str, symbol: str, copy: bool) -> AggregatedBook:
    parts = _parts(frame, Template.AGGREGATED_BOOK)
    _, event, recv, _, _, flags, _ = parts.common
    seq, crossed_for = parts.fields
    bids, at = _side(parts.frame, parts.end, _VENUE_LEVEL)
    asks, at = _side(parts.frame, at, _VENUE_LEVEL)
    if copy:
        bids, asks = bytes(bids), bytes(asks)
    instrument, venues, excluded = _strings(parts.frame, at, 3)
    crossed = _integer(crossed_for)
    return AggregatedBook(event, recv, instrument, seq, venues, excluded, bids, asks, crossed, flags & _RECORD_FLAGS)


def _status(frame: Frame, venue: str, symbol: str, copy: bool) -> FeedStatus:
    parts = _parts(frame, Template.STATUS)
    _, event, recv, _, _, flags, _ = parts.common
    values = (*parts.texts(Template.STATUS), flags & _RECORD_FLAGS)
    return FeedStatus(event, recv, *values)


def _gap(frame: Frame, venue: str, symbol: str, copy: bool) -> Gap:
    parts = _parts(frame, Template.GAP)
    begin, until, first, last = parts.fields
    venue, symbol, record_type, reason, severity, repaired_by, detail = parts.texts(Template.GAP)
    ids = (_integer(first), _integer(last))
    return Gap(begin, until, venue, symbol, record_type, reason, severity, *ids, repaired_by, detail)


def _instrument(frame: Frame, venue: str, symbol: str, copy: bool) -> InstrumentRecord:
    parts = _parts(frame, Template.INSTRUMENT)
    _, event, recv, _, _, _, _ = parts.common
    expiry, inverse = parts.fields
    *texts, status = parts.texts(Template.INSTRUMENT)
    values = (*texts, bool(inverse), _integer(expiry), status)
    return InstrumentRecord(event, recv, *values)


_RECORDS: Final[dict[int, Callable[[Frame, str, str, bool], Record]]] = {
    Template.TRADE: _trade,
    Template.AGG_TRADE: _agg_trade,
    Template.QUOTE: _quote,
    Template.BOOK_SNAPSHOT: _snapshot,
    Template.BOOK_DELTA: _delta,
    Template.CANDLE: _candle,
    Template.AGGREGATED_BOOK: _aggregate,
    Template.STATUS: _status,
    Template.GAP: _gap,
    Template.INSTRUMENT: _instrument,
}


def decode(frame: Frame, venue: str, symbol: str, *, copy: bool = True) -> Record:
    """Return a frame's record; the names come from the Instrument message of its instrument_id.

    AggregatedBook, Status, Gap and Instrument carry their own names. ``copy=False``: the sides of books are views
    into the frame, good as long as its buffer is not written again. The flags are the record's own; ``head`` has
    those of the transport. O(bytes copied). Raises WireError, also for a template that is no record's.
    """
    try:
        if not copy and type(frame) is not memoryview:
            frame = memoryview(frame)
        return _RECORDS[frame[TEMPLATE_AT]](frame, venue, symbol, copy)
    except KeyError:
        _not_one("record", frame)
    except UnicodeDecodeError as error:
        raise _broken(frame, error) from None
    except (struct.error, IndexError) as error:
        template = frame[TEMPLATE_AT] if len(frame) >= BODY else 0
        if template not in _RECORDS or frame[SOFH:HEADER] == _EXPECTED[template]:
            raise _broken(frame, error) from None
    # Too short for our block, but of another version: perhaps an older one's.
    return decode(adapt(frame, LAYOUTS[template]), venue, symbol, copy=copy)


def decode_service(frame: Frame) -> Service:
    """Return what the server says; raises WireError, also for a template that is no answer's."""
    try:
        return _SERVICES[frame[TEMPLATE_AT]](_parts(frame, frame[TEMPLATE_AT]))
    except KeyError:
        _not_one("answer", frame)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise _broken(frame, error) from None


def decode_request(frame: Frame) -> Request:
    """Return what a client says; raises WireError, also for a template that is no request's."""
    try:
        return _REQUESTS[frame[TEMPLATE_AT]](_parts(frame, frame[TEMPLATE_AT]))
    except KeyError:
        _not_one("request", frame)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise _broken(frame, error) from None


def _not_one(what: str, frame: Frame) -> NoReturn:
    raise WireError(f"template {frame[TEMPLATE_AT]} is no {what} of schema version {LAYOUTS[1].version}")


def _broken(frame: Frame, error: Exception) -> WireError:
    if type(error) is UnicodeDecodeError:
        return WireError("a text is not UTF-8")
    return WireError(f"a frame of {len(frame)} bytes ends within its message")


def _hello(p: _Parts) -> Hello:
    epoch, heartbeat, max_message, token = p.fields
    return Hello(epoch, p.common[1], heartbeat, max_message, bool(token), *p.texts(Template.HELLO))


def _reject(p: _Parts) -> Reject:
    return Reject(p.fields[0], *p.texts(Template.REJECT))


def _stream_gap(p: _Parts) -> StreamGap:
    from_seq, to_seq, kind = p.fields
    return StreamGap(p.common[3], kind, p.common[4], from_seq, to_seq, *p.texts(Template.STREAM_GAP))


_SERVICES: Final[dict[int, Callable[[_Parts], Service]]] = {
    Template.HELLO: _hello,
    Template.ACK: lambda p: Ack(*p.fields),
    Template.REJECT: _reject,
    Template.STREAM_GAP: _stream_gap,
    Template.HEARTBEAT: lambda p: Heartbeat(p.common[1], p.fields[0]),
    Template.BYE: lambda p: Bye(*p.texts(Template.BYE)),
    Template.DIVERTED: lambda p: Diverted(p.fields[0], *p.texts(Template.DIVERTED)),
}


def _policy(code: int) -> Policy:
    try:
        return Policy(code)
    except ValueError:
        raise WireError(f"policy {code} is not known", hint="0 conflate, 1 drop-oldest, 2 disconnect") from None


def _entries(frame: Frame, at: int, size: int) -> tuple[int, int, int]:
    """Return stride, count and the place behind a group's dimension; raises WireError if it cannot be in the frame."""
    stride, count = _dimension(frame, at)
    if stride < size or at + 8 + count * max(stride, 1) > len(frame):
        raise WireError(f"a group of {count} entries does not fit a frame of {len(frame)} bytes")
    return stride, count, at + 8


def _topics(frame: Frame, at: int) -> tuple[str, ...]:
    stride, count, at = _entries(frame, at, 0)
    found: list[str] = []
    for _ in range(count):
        start = at + stride + 2
        at = start + (frame[start - 2] | frame[start - 1] << 8)
        if at > len(frame):
            raise WireError(f"a topic ends {at - len(frame)} bytes behind its frame")
        found.append(str(frame[start:at], "utf-8"))
    return tuple(found)


def _subscribe(p: _Parts) -> Subscribe:
    request_id, queue, policy = p.fields
    return Subscribe(request_id, _topics(p.frame, p.end), _policy(policy), queue)


_read_position = struct.Struct("<QIHB").unpack_from
_POSITION: Final = struct.calcsize("<QIHB")


def _resume(p: _Parts) -> Resume:
    epoch, request_id, queue, policy = p.fields
    stride, count, at = _entries(p.frame, p.end, _POSITION)
    positions: list[Position] = []
    for _ in range(count):
        seq, instrument_id, view, kind = _read_position(p.frame, at)
        positions.append(Position(instrument_id, kind, view, seq))
        at += stride
    return Resume(request_id, epoch, _topics(p.frame, at), tuple(positions), _policy(policy), queue)


_REQUESTS: Final[dict[int, Callable[[_Parts], Request]]] = {
    Template.LOGIN: lambda p: Login(*p.texts(Template.LOGIN)),
    Template.SUBSCRIBE: _subscribe,
    Template.UNSUBSCRIBE: lambda p: Unsubscribe(p.fields[0], _topics(p.frame, p.end)),
    Template.RESUME: _resume,
    Template.PING: lambda p: Ping(p.common[1]),
    Template.DIVERT: lambda p: Divert(p.fields[0], *p.texts(Template.DIVERT)),
}
