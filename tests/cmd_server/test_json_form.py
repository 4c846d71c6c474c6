"""The JSON form says what the frame says, in what JavaScript can hold; requests are read or refused in one line."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
import wire_world as world
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.records import AggregatedBook, Record, levels, venue_levels
from cmd_server import codec, json_form
from cmd_server.errors import WireError
from cmd_server.messages import (
    KIND_OF,
    Hello,
    Kind,
    Login,
    Ping,
    Policy,
    Position,
    Resume,
    StreamGap,
    Subscribe,
    Unsubscribe,
)

SAFE = (1 << 53) - 1


def check_safe(value: Any) -> None:
    """Every number is one that JavaScript holds exactly."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            check_safe(part)
    elif isinstance(value, int):
        assert -SAFE <= value <= SAFE


def same(value: Any, found: Any) -> bool:
    if isinstance(value, float):
        return found == value or (found is None and not math.isfinite(value))
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(found, str):
        return found == str(value)
    return bool(found == value)


# Counts of trades and of messages are numbers: nobody has so many.
@given(world.records, st.integers(0, SAFE))
def test_a_record_as_json(record: Record, seq: int) -> None:
    frame = codec.encode(record, 7, seq, 3, 64, 3)
    found = json.loads(json_form.to_json(memoryview(frame), "v", "s"))
    head = codec.head(frame)
    assert found.pop("type") == record.__struct_config__.tag
    assert found.pop("stream") == [7, KIND_OF.get(head.template, Kind.NONE), 3]
    assert found.pop("stream_seq") == seq
    assert found.pop("book_state") == "LIVE"
    assert found.pop("flags") == head.flags
    for side, pairs in (("bids", levels), ("asks", levels)):
        if side in found:
            unpack: Any = venue_levels if hasattr(record, "venues") else pairs
            expected = [list(level) for level in unpack(getattr(record, side))]
            got = found.pop(side)
            assert len(got) == len(expected)
            assert all(same(a, b) for x, y in zip(expected, got, strict=True) for a, b in zip(x, y, strict=True))
    fields = [name for name in record.__struct_fields__ if name not in ("bids", "asks", "flags")]
    assert list(found) == fields
    for name in fields:
        assert same(getattr(record, name), found[name]), name
    found.pop("trades", None)
    check_safe(found)


def test_a_level_of_no_venue_is_an_error() -> None:
    book = AggregatedBook(1, 2, "BTC-USD", 0, "v:s", "", struct.pack("<ddd", 1, 1, math.nan), b"")
    with pytest.raises(WireError, match="venue is no index"):
        json_form.to_json(codec.encode(book, 1, 1), "", "")


@given(world.services)
def test_an_answer_as_json(message: Any) -> None:
    text = json_form.service(message)
    assert text == json_form.to_json(codec.encode_service(message), "", "")
    found = json.loads(text)
    assert found.pop("type") == message.__struct_config__.tag
    if isinstance(message, StreamGap):
        assert found.pop("stream") == [message.instrument_id, message.kind, message.view]
    for name, value in found.items():
        assert same(getattr(message, name), value), name


def as_json(request: Any, text: bool) -> str:
    """A request as a page would write it."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    if "policy" in fields:
        fields["policy"] = fields["policy"].name.lower().replace("_", "-") if text else int(fields["policy"])
    if text:
        fields = {n: str(v) if isinstance(v, int) else v for n, v in fields.items()}
        if "positions" in fields:
            fields["positions"] = [[str(part) for part in p] for p in fields["positions"]]
    return json.dumps({"type": request.__struct_config__.tag, **fields})


@given(world.requests, st.booleans())
def test_a_request_from_json(request: Any, text: bool) -> None:
    assert json_form.request(as_json(request, text)) == request
    assert json_form.request(as_json(request, text).encode()) == request


def test_what_may_be_left_out_has_its_default() -> None:
    assert json_form.request('{"type": "login"}') == Login()
    assert json_form.request('{"type": "ping"}') == Ping()
    expected = Subscribe(1, ("trades *",), Policy.CONFLATE, 0)
    assert json_form.request('{"type": "subscribe", "request_id": 1, "topics": ["trades *"]}') == expected
    assert json_form.request('{"type": "unsubscribe", "request_id": 1, "topics": []}') == Unsubscribe(1, ())
    resume = '{"type":"resume","request_id":1,"epoch":"18446744073709551615","topics":[],"positions":[[1,4,20,5]]}'
    assert json_form.request(resume) == Resume(1, (1 << 64) - 1, (), (Position(1, 4, 20, 5),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truncated"),
        ("no json", "malformed"),
        ("[]", "Expected `object`"),
        ("{}", "type"),
        ('{"type": "trade"}', "'trade'"),
        ('{"type": "login", "token": 5}', "Expected `str`"),
        ('{"type": "subscribe", "topics": []}', "request_id"),
        ('{"type": "subscribe", "request_id": 1, "topics": "trades *"}', "Expected `array`"),
        ('{"type": "subscribe", "request_id": 1, "topics": [], "policy": "drop"}', "conflate, drop-oldest, disconnect"),
        ('{"type": "subscribe", "request_id": 1, "topics": [], "policy": 7}', "policy"),
        ('{"type": "subscribe", "request_id": 4294967296, "topics": []}', "does not fit"),
        ('{"type": "unsubscribe", "request_id": -1, "topics": []}', "does not fit"),
        ('{"type": "ping", "time": 1e300}', "time"),
        ("[" * 100_000, "recursion"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_what_is_no_request_is_refused_in_one_line(text: Any, message: str) -> None:
    with pytest.raises(WireError, match=message) as caught:
        json_form.request(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda c: st.dictionaries(st.text(), c)).map(json.dumps)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        json_form.request(text)
    except WireError:
        return


def test_a_hello_as_json() -> None:
    assert json.loads(json_form.service(Hello(1 << 63, 5, 6, 7, True, "cmd-server"))) == {
        "type": "hello",
        "epoch": str(1 << 63),
        "time": "5",
        "heartbeat": "6",
        "max_message": 7,
        "token": True,
        "server": "cmd-server",
    }


def test_a_request_is_not_sent_to_clients() -> None:
    with pytest.raises(WireError, match="no record"):
        json_form.to_json(codec.encode_request(Ping(1)), "", "")
    with pytest.raises(WireError, match="0 bytes ends within"):
        json_form.to_json(b"", "", "")
