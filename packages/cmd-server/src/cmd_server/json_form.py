"""The same messages as JSON, one object a message, for browsers.

The fields are those of ``cmd_common.records`` and ``messages`` under their own names, with ``type`` in front. What
differs: book sides are arrays of ``[price, quantity]`` (aggregated books: ``[price, quantity, index into venues]``);
integers that a JavaScript number may not hold (times and durations in ns, epochs, ids and update ids of venues) are
decimal text; NaN is null. A record also has ``stream`` (``[instrument_id, kind, view]``), ``stream_seq``, ``flags``
with the transport's bits, and ``book_state``. Requests take integers as numbers or as text, and policies as words.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cmd_common.records import (
    AggregatedBook,
    BookDelta,
    BookSnapshot,
    Record,
    levels,
    venue_levels,
)

from .decoder import Frame, Head, decode, decode_service, head
from .encoder import encode_request
from .errors import WireError
from .formats import TEMPLATE_AT
from .messages import KIND_OF, BookFlag, Kind, Policy, Request, Service, StreamGap, Template

__all__ = ["record", "request", "service", "to_json"]

# Fields that are text because a JavaScript number has 53 bits.
_WIDE: Final = frozenset(
    {
        *("ts_event", "ts_recv", "open_time", "close_time", "ts_from", "ts_to", "expiry", "crossed_for"),
        *("epoch", "seq", "first_seq", "trade_seq", "first_trade_id", "last_trade_id", "first_id", "last_id"),
        *("time", "heartbeat"),
    }
)
_BOOK_STATES: Final = {int(flag): flag.name for flag in BookFlag}
_POLICIES: Final = {policy.name.lower().replace("_", "-"): int(policy) for policy in Policy}
_encode = msgspec.json.Encoder().encode


def to_json(frame: Frame, venue: str, symbol: str) -> str:
    """Return a frame of a record or an answer as one JSON object; raises WireError as ``codec.decode`` does."""
    if len(frame) > TEMPLATE_AT and Template.HELLO <= frame[TEMPLATE_AT] < Template.LOGIN:
        return service(decode_service(frame))
    return record(decode(frame, venue, symbol), head(frame))


def record(message: Record, common: Head) -> str:
    """Return a record with what its frame's head says as one JSON object."""
    fields: dict[str, Any] = {
        "type": type(message).__struct_config__.tag,
        "stream": (common.instrument_id, int(KIND_OF.get(common.template, Kind.NONE)), common.view),
        "stream_seq": common.seq,
    }
    fields |= _fields(message)
    if isinstance(message, BookSnapshot | BookDelta):
        fields["bids"] = list(levels(message.bids))
        fields["asks"] = list(levels(message.asks))
    elif isinstance(message, AggregatedBook):
        try:
            fields["bids"] = list(venue_levels(message.bids))
            fields["asks"] = list(venue_levels(message.asks))
        except (ValueError, OverflowError):
            raise WireError("a level's venue is no index") from None
    fields["flags"] = common.flags
    fields["book_state"] = _BOOK_STATES.get(common.state, "NONE")
    return _encode(fields).decode()


def service(message: Service) -> str:
    """Return what the server says as one JSON object."""
    fields: dict[str, Any] = {"type": message.__struct_config__.tag}
    if isinstance(message, StreamGap):
        fields["stream"] = (message.instrument_id, message.kind, message.view)
        fields |= {"from_seq": message.from_seq, "to_seq": message.to_seq, "reason": message.reason}
    else:
        fields |= _fields(message)
    return _encode(fields).decode()


def request(text: str | bytes) -> Request:
    """Read what a client says from one JSON object; raises WireError that says what is wrong with it."""
    try:
        fields = msgspec.json.decode(text)
        if isinstance(fields, dict) and isinstance(policy := fields.get("policy"), str):
            code = _POLICIES.get(policy.lower())
            if code is None:
                raise WireError(f"policy {policy[:40]!r} is not known", hint=f"one of {', '.join(_POLICIES)}")
            fields["policy"] = code
        found: Request = msgspec.convert(fields, Request, strict=False)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # ValidationError is a DecodeError: its text names the field.
        raise WireError(
            f"the request is not understood: {error}",
            hint='write it as {"type": "subscribe", "request_id": 1, "topics": ["trades *"]}',
        ) from None
    encode_request(found)  # a number that no field holds must not come back in an answer
    return found


def _fields(message: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.structs.asdict(message)
    for name in _WIDE.intersection(fields):
        value = fields[name]
        if value is not None:
            fields[name] = str(value)
    return fields
