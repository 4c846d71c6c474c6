"""Feeds: damaged and unknown messages, clocks that are set back. Messages are made up in Binance's form."""

from __future__ import annotations

import json

import msgspec
from feed_wire import NOW, SECOND, Wire, depth, kline, quote, synced, trade
from hypothesis import given, settings
from hypothesis import strategies as st

from cmd_common.feed import FetchSnapshot
from cmd_common.records import (
    Candle,
    FeedStatus,
    Gap,
    Quote,
    Trade,
)
from cmd_common.sequence import BookState

# Damage and the unknown


def test_damage_of_a_known_stream_is_a_gap_of_it_alone() -> None:
    wire = Wire().connect()
    wire.send(quote(1))
    wire.raw('{"stream":"btcusdt@bookTicker","data":{"u":2,"s":"BTC')
    wire.raw('{"stream":"btcusdt@bookTicker","data":{"u":3,"s":"BTC')
    wire.now += SECOND
    wire.send(quote(4))
    (gap,) = wire.of(Gap)
    assert (gap.symbol, gap.record_type, gap.reason) == ("BTCUSDT", "quotes", "malformed")
    assert (gap.ts_from, gap.ts_to) == (NOW, NOW + SECOND)
    assert wire.feed.counters.malformed == 2
    assert len(wire.statuses("malformed")) == 1  # one row a second


def test_a_torn_trade_shows_by_its_id() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(1))
    wire.raw('{"stream":"btcusdt@trade","data":{"e":"trade","E":17')
    wire.send(trade(3))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id, gap.last_id, gap.detail) == ("trade_id", 2, 2, "malformed")
    wire.raw('{"stream":"btcusdt@trade","data":{"e":"trade","E":17')  # a repeat was torn: nothing is lost
    wire.send(trade(4))
    assert len(wire.of(Gap)) == 1


def test_a_torn_depth_message_makes_the_book_stale_at_the_next_one() -> None:
    wire = synced()
    wire.send(depth(101, 105))
    wire.raw('{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":17')
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE
    wire.send(depth(107, 110))
    assert wire.feed.books["BTCUSDT"].state is BookState.STALE


def test_damage_of_nobody_knows_what_is_a_gap_of_everything() -> None:
    wire = Wire().connect()
    for _ in range(100):
        wire.raw("\x00\x01")
    assert {(g.symbol, g.record_type) for g in wire.of(Gap)} == {
        ("", "trades"),
        ("", "agg_trades"),
        ("", "quotes"),
        ("", "candles"),
        ("", "book_deltas"),
    }
    assert len(wire.of(Gap)) == 5  # one row a table and second
    assert wire.feed.counters.malformed == 100


def test_damage_of_a_known_stream_does_not_hide_damage_of_nobody_knows_what() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.raw('{"stream":"btcusdt@trade","data":{"e":"trade","E":17')
    wire.raw("garbage")
    assert [(g.symbol, g.record_type) for g in wire.of(Gap)] == [("", "trades")]


def test_a_trade_without_a_price_is_missing_by_its_id() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(1))
    wire.send(trade(2, p="0"), "btcusdt@trade")
    wire.send(trade(3))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id, gap.last_id) == ("trade_id", 2, 2)
    assert [t.trade_seq for t in wire.of(Trade)] == [1, 3]


def test_new_fields_are_counted_until_they_are_known_to_stay() -> None:
    wire = Wire(types=("trades",)).connect()
    for n in range(150):
        assert any(isinstance(r, Trade) for r in wire.send(trade(n, zz=1)))
    assert len(wire.of(Trade)) == 150
    assert wire.feed.counters.unknown_fields == 100
    assert [s.reason for s in wire.statuses("unknown_field")] == [
        "field 'trade.zz' is not known to this version; it is ignored",
        "trade: 100 messages with unknown fields, counting ends",
    ]


def test_new_fields_inside_candles_and_quotes_are_passed_over_too() -> None:
    wire = Wire().connect()
    for n in range(150):
        wire.send(quote(n, zz=1))
        wire.send(kline(n, closed=True, zz={"a": [1]}))
    assert len(wire.of(Quote)) == len(wire.of(Candle)) == 150
    assert wire.feed.counters.malformed == 0


def test_spaces_and_another_order_of_keys_are_read() -> None:
    wire = Wire().connect()
    data = dict(reversed(list(trade(1).items())))
    wire.raw(json.dumps({"data": data, "stream": "btcusdt@trade"}, indent=2))
    wire.raw(json.dumps(trade(2)).encode())  # a raw stream, as bytes
    assert [t.trade_seq for t in wire.of(Trade)] == [1, 2]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
GOOD = [
    trade(1),
    quote(1),
    kline(0, closed=False),
    depth(1, 2, [["1", "2"]]),
    {"lastUpdateId": 1, "bids": [], "asks": []},
    {"result": None, "id": 1},
    {"code": 1, "msg": "x", "id": 1},
]


@settings(max_examples=300)
@given(
    base=st.sampled_from(GOOD),
    changes=st.dictionaries(st.sampled_from([*"eEsTtpqmuUbBaAkxi", "id", "code", "result"]), JSON, max_size=3),
    wrapped=st.booleans(),
    depth_=st.sampled_from([None, 5]),
)
def test_no_message_raises_or_makes_a_wrong_record(
    base: dict[str, object], changes: dict[str, object], wrapped: bool, depth_: int | None
) -> None:
    wire = Wire(depth=depth_).connect()
    data = base | changes
    try:
        text = json.dumps({"stream": "btcusdt@depth5", "data": data} if wrapped else data, separators=(",", ":"))
    except ValueError:
        return
    for record in wire.raw(text):
        for name in ("ts_event", "ts_recv", "trade_seq", "seq", "epoch", "open_time", "trades"):
            value = getattr(record, name, None)
            assert value is None or (type(value) is int and -(2**63) <= value < 2**63)
        for name in ("price", "quantity", "bid_price", "ask_price", "open", "volume"):
            value = getattr(record, name, None)
            assert value is None or (type(value) is float and 0 <= value < 1e24)
        msgspec.json.encode(record)


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_raise(frame: bytes | str) -> None:
    wire = Wire().connect()
    for record in wire.raw(frame):
        assert isinstance(record, FeedStatus | Gap)


@settings(max_examples=200)
@given(st.sampled_from(GOOD), st.integers(0, 400), st.integers(0, 255))
def test_no_flipped_byte_raises(base: dict[str, object], at: int, value: int) -> None:
    frame = bytearray(json.dumps({"stream": "btcusdt@trade", "data": base}).encode())
    frame[at % len(frame)] = value
    Wire().connect().raw(bytes(frame))


def test_a_clock_that_is_set_back_delays_nothing() -> None:
    """Found by the simulation: an answer was lost, the clock went back, and the feed waited for hours."""
    wire = Wire(types=("trades", "book"), answer=False).connect()
    for _ in range(3):
        wire.now -= 10_000 * SECOND
        wire.actions.clear()
        for _ in range(15):
            wire.now += SECOND
            wire.take(wire.feed.tick(wire.now))
        assert wire.actions, "the SUBSCRIBE frame is sent again, in the end the connection is opened anew"


def test_a_snapshot_retry_survives_a_clock_that_is_set_back() -> None:
    wire = Wire(types=("book",)).connect()
    for _ in range(6):
        wire.take(wire.feed.snapshot_failed("BTCUSDT", "made up", wire.now))
        for _ in range(40):
            wire.now += SECOND
            wire.take(wire.feed.tick(wire.now))
    wire.take(wire.feed.snapshot_failed("BTCUSDT", "made up", wire.now))
    wire.now -= 10_000 * SECOND
    wire.actions.clear()
    for _ in range(5):
        wire.now += SECOND
        wire.take(wire.feed.tick(wire.now))
    assert [type(a) for a in wire.actions] == [FetchSnapshot]
