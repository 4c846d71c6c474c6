"""Records: immutable, exact over JSON and MessagePack, packed sides."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common import records
from cmd_common.records import (
    RECORD_TYPES,
    TABLE_OF,
    BookDelta,
    Record,
    Trade,
    full_name,
    levels,
    pack_levels,
    venue_levels,
)

TRADE = Trade(1_723_161_253_000_000_001, 2, "binance-spot", "BTCUSDT", "7", 7, 61_000.1, 0.5, "buy")


def test_records_are_frozen_tagged_and_untracked() -> None:
    with pytest.raises(AttributeError):
        TRADE.price = 1.0  # type: ignore[misc]
    tags = [cls.__struct_config__.tag for cls in TABLE_OF]
    assert len(set(tags)) == len(tags) == len(RECORD_TYPES)
    assert all(cls.__struct_config__.frozen and not cls.__struct_config__.gc for cls in TABLE_OF)


def test_the_union_holds_every_record() -> None:
    assert set(Record.__args__) == set(TABLE_OF)


def test_public_names_exist() -> None:
    assert all(hasattr(records, name) for name in records.__all__)


def test_flags_are_distinct_bits() -> None:
    flags = [records.TS_FROM_RECV, records.INEXACT, records.SNAPSHOT, records.LAST_IN_EVENT, records.REST]
    assert all(f.bit_count() == 1 for f in flags)
    assert len(set(flags)) == len(flags)


NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TIME = st.integers(0, 2**63 - 1)


@given(
    st.builds(
        Trade,
        ts_event=TIME,
        ts_recv=TIME,
        price=NUMBER,
        quantity=NUMBER,
        flags=st.integers(0, 31),
        trade_seq=st.none() | TIME,
    )
)
def test_a_record_survives_json_and_messagepack(trade: Trade) -> None:
    assert msgspec.json.decode(msgspec.json.encode(trade), type=Record) == trade
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(trade), type=Record) == trade


@given(st.lists(st.tuples(NUMBER, NUMBER)))
def test_packed_sides_give_the_same_levels_back(pairs: list[tuple[float, float]]) -> None:
    side = pack_levels(pairs)
    assert list(levels(side)) == pairs
    assert list(levels(memoryview(side))) == pairs
    assert side == struct.pack(f"<{2 * len(pairs)}d", *(x for pair in pairs for x in pair))


@given(st.lists(st.tuples(NUMBER, NUMBER, st.integers(0, 2**20))))
def test_a_packed_side_over_venues_gives_the_same_levels_back(triples: list[tuple[float, float, int]]) -> None:
    side = struct.pack(f"<{3 * len(triples)}d", *(float(x) for triple in triples for x in triple))
    assert list(venue_levels(side)) == triples
    assert list(venue_levels(memoryview(side))) == triples


def test_a_torn_side_is_refused() -> None:
    with pytest.raises(struct.error):
        list(venue_levels(struct.pack("<4d", 1.0, 2.0, 0.0, 3.0)))
    with pytest.raises(struct.error):
        list(levels(pack_levels([(1.0, 2.0)])[:-1]))


def test_packed_sides_are_hashable_parts_of_a_record() -> None:
    delta = BookDelta(1, 2, "v", "s", 3, 4, 4, pack_levels([(1.0, 2.0)]), b"")
    assert hash(delta) == hash(BookDelta(1, 2, "v", "s", 3, 4, 4, pack_levels([(1.0, 2.0)]), b""))


@given(st.decimals(min_value="0.000000000001", max_value="999999", places=9))
def test_fifteen_digits_survive_text_to_float_to_text(value: object) -> None:
    text = format(value, "f")
    assert format(float(text), ".9f") == text


def test_full_name() -> None:
    assert full_name("binance-spot", "BTCUSDT") == "binance-spot:BTCUSDT"
