"""Old clients read new servers, new clients old ones: every message, against the version before and one made of the schema."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import wire_world as world
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.records import Record, Trade
from cmd_server import codec, schema
from cmd_server.decoder import adapt
from cmd_server.errors import WireError
from cmd_server.formats import COMMON, HEADER, LAYOUTS, NULL_INT, SOFH
from cmd_server.framing import Splitter
from cmd_server.messages import Diverted, Template

pytestmark = pytest.mark.usefixtures("both_ways")

ratios = st.lists(world.floats, max_size=3).map(tuple)


def test_the_next_version_is_what_it_claims() -> None:
    ours, theirs = schema.read(schema.text()), schema.read(world.next_version())
    assert (ours.version, theirs.version) == (2, 3)
    assert {m.template for m in theirs.messages} == {m.template for m in ours.messages} | {world.NEW_TEMPLATE}
    for message in ours.messages:
        old, new = message.layout(2), world.next_layouts()[message.template]
        assert new.format == old.format + "qd"
        assert new.groups[: len(old.groups)] == old.groups
        assert new.data == (*old.data, "note")
        assert (not old.data) == (len(new.groups) == len(old.groups) + 1)


@given(world.records, st.text(max_size=9), ratios)
def test_an_old_client_reads_the_records_of_a_new_server(record: Record, note: str, more: tuple[float, ...]) -> None:
    frame = codec.encode(record, 7, 99, 3, 64, 3)
    new = world.grown(frame, note, more)
    assert codec.head(new) == codec.head(frame)
    assert codec.decode(new, "v", "s") == record
    assert codec.decode(memoryview(new), "v", "s", copy=False) == record


@given(world.services, st.text(max_size=9), ratios)
def test_an_old_client_reads_the_answers_of_a_new_server(message: Any, note: str, more: tuple[float, ...]) -> None:
    assert codec.decode_service(world.grown(codec.encode_service(message), note, more)) == message


@given(world.requests, st.text(max_size=9), ratios)
def test_an_old_server_reads_the_requests_of_a_new_client(message: Any, note: str, more: tuple[float, ...]) -> None:
    assert codec.decode_request(world.grown(codec.encode_request(message), note, more)) == message


@given(world.frames)
def test_a_new_reader_fills_in_what_an_old_writer_lacks(frame: bytes) -> None:
    template = codec.head(frame).template
    ours, theirs = LAYOUTS[template], world.next_layouts()[template]
    new = adapt(frame, theirs)
    assert new[SOFH:HEADER] == theirs.header[2:]
    values = struct.unpack_from(f"<{COMMON}{theirs.format}", new, HEADER)
    assert values[-2] == NULL_INT
    assert values[-1] != values[-1]  # NaN
    rest = new[HEADER + theirs.block :]
    empty = struct.pack("<II", 8, 0) if len(theirs.groups) > len(ours.groups) else b""
    assert rest == frame[HEADER + ours.block :] + empty + b"\0\0"
    # And back: nothing of ours was lost on the way.
    back = adapt(new, ours)
    assert back[HEADER : len(frame)] == frame[HEADER:]
    if template in codec.RECORD_TEMPLATES:
        assert codec.decode(new, "v", "s") == codec.decode(frame, "v", "s")


@given(world.frames)
def test_a_frame_of_the_same_version_is_left_as_it_is(frame: bytes) -> None:
    assert adapt(frame, LAYOUTS[codec.head(frame).template]) == frame


def test_messages_of_unknown_templates_are_skipped() -> None:
    trades = [Trade(n, n, "v", "s", str(n), n, 1.0, 2.0, "buy") for n in range(1, 6)]
    stream = b"".join(world.news() + world.grown(codec.encode(t, 1, n)) for n, t in enumerate(trades, 1))
    found, heads = [], []
    for frame in Splitter().feed(stream):
        head = codec.head(frame)  # readable without knowing the template
        heads.append(head.template)
        if head.template in codec.RECORD_TEMPLATES:
            found.append(codec.decode(frame, "v", "s"))
    assert heads == [world.NEW_TEMPLATE, Template.TRADE] * 5
    assert found == trades
    known = codec.RECORD_TEMPLATES | codec.SERVICE_TEMPLATES | codec.REQUEST_TEMPLATES
    assert world.NEW_TEMPLATE not in known
    with pytest.raises(WireError, match="template 99 is no record"):
        codec.decode(world.news(), "v", "s")


def test_longer_levels_are_read_by_their_first_part() -> None:
    layout = LAYOUTS[Template.BOOK_DELTA]
    block = struct.pack("<QqqIHBBqqq", 1, 2, 3, 4, 0, 0, 0, 5, 6, 7)
    groups = struct.pack("<II6d", 24, 2, 1, 2, 99, 3, 4, 99) + struct.pack("<II", 24, 0)
    frame = (HEADER + len(block + groups)).to_bytes(4, "big") + layout.header + block + groups
    found: Any = codec.decode(frame, "v", "s")
    assert np.frombuffer(found.bids).tolist() == [1, 2, 3, 4]
    assert found.asks == b""
    short = frame.replace(struct.pack("<I", 24), struct.pack("<I", 8), 1)
    with pytest.raises(WireError, match="a level has 8 bytes; 16 are needed"):
        codec.decode(short, "v", "s")


@given(st.lists(world.trades, min_size=1, max_size=5), st.data())
def test_columns_of_mixed_versions(trades: list[Trade], data: st.DataObject) -> None:
    old = [codec.encode(t, 1, n) for n, t in enumerate(trades)]
    mixed = [world.grown(frame) if data.draw(st.booleans()) else frame for frame in old]
    expected, found = codec.columns(old, Template.TRADE), codec.columns(mixed, Template.TRADE)
    assert expected.keys() == found.keys()
    assert all((expected[key] == found[key]).all() for key in expected)


@pytest.mark.parametrize("block", [0, 31, 40, 57])
def test_a_block_shorter_than_that_of_any_version_is_an_error(block: int) -> None:
    frame = bytearray(codec.encode(Trade(1, 2, "v", "s", "1", 1, 1.0, 1.0, "buy"), 1, 1))
    frame[6:8] = block.to_bytes(2, "little")
    with pytest.raises(WireError, match="block of"):
        codec.decode(frame, "v", "s")


# -- the version before: it had every message but Divert and Diverted, with the same layouts

FIRST_TEMPLATES = {*range(1, 11), *range(20, 26), *range(40, 45)}


def written_by_version_1(frame: bytes) -> bytes:
    """What a program of version 1 writes: all but the number of the version was the same."""
    assert frame[12:14] == b"\2\0"
    return frame[:12] + b"\1\0" + frame[14:]


def test_version_2_added_two_messages_and_changed_none() -> None:
    messages = schema.read(schema.text()).messages
    assert {m.template for m in messages if m.since < 2} == FIRST_TEMPLATES
    assert {m.name for m in messages if m.since == 2} == {"Divert", "Diverted"}
    for message in messages:
        parts = [*message.fields, *message.groups, *message.data]
        assert all(part.since == 0 for part in parts), message.name
        assert message.layout(2).nulls == b""
        assert message.layout(2).tail == ()


@given(world.frames)
def test_frames_of_version_1_are_read_as_they_were_meant(frame: bytes) -> None:
    old = written_by_version_1(frame)
    template = codec.head(old).template
    assert adapt(old, LAYOUTS[template]) == frame
    if template in codec.RECORD_TEMPLATES:
        assert codec.decode(old, "v", "s") == codec.decode(frame, "v", "s")
    elif template in codec.SERVICE_TEMPLATES:
        assert codec.decode_service(old) == codec.decode_service(frame)
    else:
        assert codec.decode_request(old) == codec.decode_request(frame)


def test_a_client_of_version_1_skips_what_it_does_not_know() -> None:
    """It knows templates by their number; Diverted comes only to who has asked for it."""
    trade = Trade(1, 2, "v", "s", "1", 1, 1.0, 2.0, "buy")
    stream = codec.encode_service(Diverted(1, "aeron:ipc?stream=1&session=2")) + codec.encode(trade, 1, 1)
    found = [codec.head(frame).template for frame in Splitter().feed(stream)]
    assert found == [Template.DIVERTED, Template.TRADE]
    assert [template for template in found if template in FIRST_TEMPLATES] == [Template.TRADE]
