"""One schema: the file, the formats written by hand, the constants and the documentation say the same."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from cmd_common import records
from cmd_common.records import BookDelta, Trade, pack_levels
from cmd_server import codec, datagrams, json_form, messages, schema
from cmd_server.errors import WireError
from cmd_server.formats import BODY, COMMON, COMMON_SIZE, FLAGS_AT, HEADER, LAYOUTS
from cmd_server.messages import BookFlag, Kind, Policy, StreamGap, Template

SCHEMA = schema.read(schema.text())
DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text("utf-8")


def test_the_formats_are_those_of_the_schema() -> None:
    assert {m.template: m.layout(SCHEMA.version) for m in SCHEMA.messages} == LAYOUTS
    assert "".join(field.format for field in SCHEMA.common) == COMMON
    assert struct.calcsize("<" + COMMON) == COMMON_SIZE == 32
    assert (HEADER, BODY) == (14, 46)
    assert HEADER + next(f.offset for f in SCHEMA.common if f.name == "flags") == FLAGS_AT
    assert all(message.fields[0].type == "Common" for message in SCHEMA.messages)


def test_the_numbers_are_those_of_the_messages() -> None:
    assert (SCHEMA.id, SCHEMA.version) == (messages.SCHEMA_ID, messages.SCHEMA_VERSION)
    names = {Template(m.template).name.replace("_", "").lower(): m.name.lower() for m in SCHEMA.messages}
    assert all(ours == theirs for ours, theirs in names.items())
    assert len(names) == len(Template)
    for name, enum in (("Kind", Kind), ("Policy", Policy), ("BookState", BookFlag)):
        assert {word: code for word, code, _ in SCHEMA.enums[name]} == {e.name: e.value for e in enum}
    bits = {re.sub(r"(?=[A-Z])", "_", name).upper(): 1 << bit for name, bit, _ in SCHEMA.sets["Flags"]}
    assert len(bits) == 8
    for name, value in bits.items():
        assert getattr(records, name, None) == value or getattr(messages, name) == value


def test_field_ids_are_unique_within_a_message() -> None:
    for part in re.findall(r"<sbe:message .*?</sbe:message>", schema.text(), flags=re.DOTALL):
        ids = re.findall(r'<(?:field|group|data) [^>]*?id="(\d+)"', part)
        assert len(ids) == len(set(ids)), part


def test_the_tables_of_the_document_are_those_of_the_schema() -> None:
    assert schema.update(DOCUMENT) == DOCUMENT, "run: python -m cmd_server.schema docs/wire.md"
    changed = schema.tables(SCHEMA._replace(version=9))
    assert changed not in DOCUMENT
    with pytest.raises(WireError, match="no place for the tables"):
        schema.update("# nothing")


def test_the_json_of_the_document_is_that_of_the_program() -> None:
    said, asked = (part.splitlines() for part in re.findall(r"```json\n(.*?)```", DOCUMENT, flags=re.DOTALL))
    event, received = 1763800000000000000, 1763800000000100000
    trade = Trade(event, received, "binance-spot", "BTCUSDT", "123", 123, 91234.5, 0.01, "buy")
    bids, asks = pack_levels([(91234.5, 0.5)]), pack_levels([(91240.0, 0.0)])
    delta = BookDelta(event, received, "binance-spot", "BTCUSDT", 3, 5, 4, bids, asks, 8)
    made = [
        json_form.to_json(codec.encode(trade, 7, 99), "binance-spot", "BTCUSDT"),
        json_form.to_json(codec.encode(delta, 7, 12, 20, 0, BookFlag.LIVE), "binance-spot", "BTCUSDT"),
        json_form.service(StreamGap(7, Kind.TRADES, 0, 100, 140, "slow")),
    ]
    assert [json.loads(line) for line in said] == [json.loads(line) for line in made]
    assert [list(json.loads(line)) for line in said] == [list(json.loads(line)) for line in made]
    kinds = [type(json_form.request(line)).__name__ for line in asked]
    assert kinds == ["Login", "Subscribe", "Unsubscribe", "Resume", "Ping"]


def test_the_datagram_of_the_document_is_that_of_the_program() -> None:
    table = re.search(r"^\| 0 \| 4 \| magic .*?\n\n", DOCUMENT, flags=re.DOTALL | re.MULTILINE)
    assert table
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].strip().splitlines()]
    layout = struct.Struct("<4sBBHQQq")
    sizes = [4, 1, 1, 2, 8, 8, 8]
    assert [(int(row[0]), int(row[1])) for row in rows] == [(sum(sizes[:n]), size) for n, size in enumerate(sizes)]
    frame = codec.encode(Trade(1, 2, "v", "s", "1", 1, 1.0, 2.0, "buy"), 1, 1)
    packet = datagrams.Packer(77).pack([frame], 99)[0]
    assert layout.unpack_from(packet) == (b"CMDM", 1, 0, 1, 77, 1, 99)
    assert packet[layout.size :] == frame
    told = {name: int(value) for value, name in re.findall(r"(\d+) ([A-Z]+)", rows[2][3])}
    assert len(told) == 5
    assert told == {name: getattr(datagrams, name) for name in told}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'name="price" id="2" type="double" offset="32"',
            'name="price" id="2" type="double" offset="40"',
            "no padding",
        ),
        ('name="view" primitiveType="uint16"', 'name="view" primitiveType="uint32"', "34 bytes, not 32"),
    ],
)
def test_a_schema_that_breaks_the_rules_is_refused(old: str, new: str, message: str) -> None:
    broken = schema.text().replace(old, new)
    assert broken != schema.text()
    with pytest.raises(WireError, match=message):
        schema.read(broken)
