"""Records, answers and requests of every kind, and a version 3 of the schema that is made of the real one."""

from __future__ import annotations

import re
import struct
from functools import cache
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

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
    Trade,
)
from cmd_server import codec, schema
from cmd_server.formats import COMMON_SIZE, HEADER, LAYOUTS, NULL_INT, SOFH, Layout
from cmd_server.messages import (
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
    Resume,
    StreamGap,
    Subscribe,
    Unsubscribe,
)

integers = st.integers(NULL_INT + 1, (1 << 63) - 1)
optional = st.none() | integers
u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
floats = st.floats(allow_nan=False)
words = st.text(max_size=12)
flags = st.integers(0, 63)
sides = st.sampled_from(("buy", "sell", "unknown"))


def _levels(size: int) -> st.SearchStrategy[bytes]:
    return st.integers(0, 6).flatmap(lambda n: st.binary(min_size=n * size, max_size=n * size))


@st.composite
def _ids(draw: Any) -> tuple[str, int | None]:
    """Trade ids: digits of the number, digits that only look like it, text, none."""
    number = draw(optional)
    text = draw(words | st.sampled_from(("", "0", "007", "-1")))
    return (str(number) if number is not None and draw(st.booleans()) else text), number


names = (integers, integers, st.just("v"), st.just("s"))
packed = _levels(16)
triples = st.lists(st.tuples(floats, floats, st.integers(0, 9)), max_size=6).map(
    lambda rows: b"".join([struct.pack("<ddd", *row) for row in rows])
)
trades = st.builds(lambda a, b, i, p, q, s, f: Trade(a, b, "v", "s", *i, p, q, s, f), *names[:2], _ids(), floats, floats, sides, flags)  # fmt: skip
agg_trades = st.builds(
    lambda a, b, i, x, y, p, q, s, f: AggTrade(a, b, "v", "s", *i, x, y, p, q, s, f),
    *(*names[:2], _ids(), integers, integers, floats, floats, sides, flags),
)
numbered = trades.map(lambda r: r if r.trade_seq is None else replace(r, trade_id=str(r.trade_seq)))
quotes = st.builds(Quote, *names, integers, floats, floats, floats, floats, flags)
snapshots = st.builds(BookSnapshot, *names, integers, integers, u32, u32, packed, packed, flags)
deltas = st.builds(BookDelta, *names, integers, integers, integers, packed, packed, flags)
candles = st.builds(
    Candle,
    *(integers, integers, *names, words, st.sampled_from(("exchange", "built"))),
    *(st.sampled_from(("provisional", "final", "corrected")), floats, floats, floats, floats, floats, floats),
    *(integers, floats, floats, flags),
)
aggregates = st.builds(AggregatedBook, integers, integers, words, integers, words, words, triples, triples, optional, flags)  # fmt: skip
statuses = st.builds(FeedStatus, integers, integers, words, words, words, words, words, words, flags)
gaps = st.builds(Gap, integers, integers, words, words, words, words, words, optional, optional, words, words)
instruments = st.builds(InstrumentRecord, integers, integers, *([words] * 11), st.booleans(), optional, words)
records = st.one_of(trades, agg_trades, quotes, snapshots, deltas, candles, aggregates, statuses, gaps, instruments)

topics = st.lists(words, max_size=5).map(tuple)
policies = st.sampled_from(Policy)
services = st.one_of(
    st.builds(Hello, u64, integers, integers, u32, st.booleans(), words),
    st.builds(Ack, u32, u32),
    st.builds(Reject, u32, words, words, words),
    st.builds(StreamGap, u32, st.integers(0, 8), st.integers(0, 65_535), u64, u64, words),
    st.builds(Heartbeat, integers, u32),
    st.builds(Bye, words, words),
    st.builds(Diverted, u32, words),
)
positions = st.builds(Position, u32, st.integers(0, 8), st.integers(0, 65_535), u64)
requests = st.one_of(
    st.builds(Login, words, words),
    st.builds(Subscribe, u32, topics, policies, u32),
    st.builds(Unsubscribe, u32, topics),
    st.builds(Resume, u32, u64, topics, st.lists(positions, max_size=5).map(tuple), policies, u32),
    st.builds(Ping, integers),
    st.builds(Divert, u32, words),
)
frames = st.one_of(
    records.map(lambda r: codec.encode(r, 7, 99, 3, 64, 3)),
    services.map(codec.encode_service),
    requests.map(codec.encode_request),
)

NEW_TEMPLATE = 99
_FIELDS = """    <field name="later" id="90" type="OptInt64" sinceVersion="3"/>
    <field name="laterStill" id="91" type="double" sinceVersion="3"/>
"""
_GROUP = """    <group name="more" id="92" dimensionType="groupSizeEncoding" sinceVersion="3">
      <field name="ratio" id="93" type="double"/>
    </group>
"""
_TEXT = '    <data name="note" id="95" type="varString" sinceVersion="3"/>\n'
_NEW = f"""  <sbe:message name="News" id="{NEW_TEMPLATE}" sinceVersion="3">
    <field name="common" id="1" type="Common"/>
    <data name="headline" id="2" type="varString"/>
  </sbe:message>
"""


def next_version() -> str:
    """The schema of a later server: every message has more fields and a text, some a group, and one is new."""
    found = re.sub(r'(<sbe:messageSchema[^>]*) version="2"', r'\1 version="3"', schema.text(), count=1)
    parts = re.split(r"(  <sbe:message .*?</sbe:message>\n)", found, flags=re.DOTALL)
    for i, part in enumerate(parts):
        if part.startswith("  <sbe:message "):
            lines = part.splitlines(keepends=True)
            last = max(n for n, line in enumerate(lines) if line.startswith("    <field "))
            lines.insert(last + 1, _FIELDS)
            if not any(line.startswith("    <data ") for line in lines):
                lines.insert(len(lines) - 1, _GROUP)
            lines.insert(len(lines) - 1, _TEXT)
            parts[i] = "".join(lines)
    return "".join(parts).replace("</sbe:messageSchema>", _NEW + "</sbe:messageSchema>")


@cache
def next_layouts() -> dict[int, Layout]:
    return {m.template: m.layout(3) for m in schema.read(next_version()).messages}


def grown(frame: bytes, note: str = "later", ratios: tuple[float, ...] = (0.5, 2.0)) -> bytes:
    """What a version 3 server writes where ours wrote ``frame``."""
    template = codec.head(frame).template
    ours, theirs = LAYOUTS[template], next_layouts()[template]
    end = HEADER + ours.block
    block = frame[HEADER:end] + struct.pack("<qd", -5, 1.25)
    rest = frame[end:]
    if len(theirs.groups) > len(ours.groups):
        rest += struct.pack(f"<II{len(ratios)}d", 8, len(ratios), *ratios)
    text = note.encode()
    rest += len(text).to_bytes(2, "little") + text
    assert len(block) == theirs.block
    return (HEADER + len(block) + len(rest)).to_bytes(4, "big") + theirs.header + block + rest


def news(text: str = "something new") -> bytes:
    """A message of a template that only version 3 has."""
    raw = text.encode()
    rest = bytes(COMMON_SIZE) + len(raw).to_bytes(2, "little") + raw
    layout = next_layouts()[NEW_TEMPLATE]
    assert len(layout.header) == HEADER - SOFH + 2
    return (HEADER + len(rest)).to_bytes(4, "big") + layout.header + rest
