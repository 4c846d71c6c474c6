"""Feeds: ids, numbers, candles, control frames. Messages are made up in Binance's form."""

from __future__ import annotations

import json

import pytest
from feed_wire import MINUTE, MS, NOW, SECOND, Wire, depth, kline, quote, trade
from hypothesis import given
from hypothesis import strategies as st

import cmd_binance
from cmd_binance import BinanceExchange
from cmd_common.errors import UsageError
from cmd_common.feed import Reconnect, Send
from cmd_common.records import (
    INEXACT,
    AggTrade,
    Candle,
    FeedStatus,
    Gap,
    Quote,
    Trade,
)

# Numbers


@pytest.mark.parametrize(
    ("price", "inexact"),
    [
        ("61837.63000000", False),
        ("0.00000001", False),
        ("9999999.99999999", False),  # 15 digits
        ("10000000.00000000", False),  # large, but exact
        ("10000000.12345678", True),  # 16 digits
        ("123456789012345", False),
        ("1234567890123456", True),
        ("123456789012345000", False),  # only 15 of the digits mean something
        ("0.12345678901234567", True),
        ("0.123456789012345", False),
        ("0.1234567890", False),
    ],
)
def test_numbers_with_more_than_15_digits_are_flagged(price: str, inexact: bool) -> None:
    wire = Wire().connect()
    for data in (
        trade(1, p=price),
        trade(2, q=price),
        {"e": "aggTrade", "s": "BTCUSDT", "a": 1, "p": price, "q": "1", "f": 1, "l": 1, "T": MS, "m": False},
        quote(1, A=price),
        kline(0, closed=False, v=price),
    ):
        (record,) = wire.send(data)
        assert bool(record.flags & INEXACT) is inexact, record  # type: ignore[union-attr]


def test_prices_are_the_nearest_float_of_the_text() -> None:
    (record,) = Wire().connect().send(trade(1, p="0.10000000", q="61837.63000000"))
    assert isinstance(record, Trade)
    assert (record.price, record.quantity) == (0.1, 61837.63)


def test_the_unit_of_time_follows_from_its_size() -> None:
    wire = Wire().connect()
    (ms,) = wire.send(trade(1, T=MS))
    (us,) = wire.send(trade(2, T=MS * 1000 + 7))
    assert (ms.ts_event, us.ts_event) == (NOW, NOW + 7000)  # type: ignore[union-attr]


@pytest.mark.parametrize("value", ["-1", "NaN", "nan", "inf", "1e400", "", " 1", "0x1", "1_0", None, [], True])
def test_impossible_numbers_are_damage(value: object) -> None:
    wire = Wire().connect()
    for data in (trade(1, p=value), quote(1, b=value), depth(1, 2, [[value, "1"]]), depth(1, 2, [["1", value]])):
        assert all(isinstance(r, FeedStatus | Gap) for r in wire.send(data))
    assert wire.feed.counters.malformed == 4


@pytest.mark.parametrize("value", [10**19, -2, 1.5, "x"])
def test_ids_that_do_not_fit_a_column_are_damage(value: object) -> None:
    wire = Wire().connect()
    wire.send(trade(1, t=value))
    wire.send(trade(1, T=value))
    assert wire.of(Trade) == []
    assert wire.feed.counters.malformed == 2


# Trades and aggregates


def test_fills_that_are_not_of_the_market_use_up_ids_only() -> None:
    wire = Wire(cmd_binance.USDM, ("trades",)).connect()
    wire.send(trade(1, X="MARKET"))
    for n, kind in enumerate(("INSURANCE_FUND", "ADL", "NA"), 2):
        wire.send(trade(n, X=kind, p="0" if kind == "NA" else "100"))
    wire.send(trade(5, X="MARKET"))
    assert [t.trade_seq for t in wire.of(Trade)] == [1, 5]
    assert wire.of(Gap) == []
    assert wire.feed.counters.skipped == 3


def test_missing_aggregates_are_a_gap() -> None:
    wire = Wire().connect()
    agg = {"e": "aggTrade", "s": "BTCUSDT", "p": "1", "q": "1", "f": 1, "l": 1, "T": MS, "m": False}
    for a in (7, 8, 11, 11):
        wire.send({**agg, "a": a})
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.first_id, gap.last_id) == ("agg_trades", "trade_id", 9, 10)
    assert len(wire.of(AggTrade)) == 3
    assert wire.feed.counters.duplicates == 1


def test_trades_that_never_come_back_are_a_gap_at_the_end() -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(1))
    wire.take(wire.feed.disconnected(NOW + SECOND, "reset"))
    wire.take(wire.feed.close(NOW + 5 * SECOND))
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.ts_to) == ("trades", "disconnect", NOW + 5 * SECOND)
    assert wire.take(wire.feed.close(NOW + 6 * SECOND)) == []


@given(st.permutations(range(1, 13)), st.lists(st.integers(1, 12), max_size=10))
def test_any_order_and_repeats_give_each_trade_once(order: list[int], repeats: list[int]) -> None:
    wire = Wire(types=("trades",)).connect()
    wire.send(trade(0))
    for n in [*order, *repeats]:
        wire.send(trade(n))
    assert sorted(t.trade_seq for t in wire.of(Trade)) == list(range(13))
    assert wire.feed.counters.duplicates == len(repeats)
    opened = {(g.ts_from, g.ts_to) for g in wire.of(Gap) if not g.repaired_by}
    closed = {(g.ts_from, g.ts_to) for g in wire.of(Gap) if g.repaired_by}
    assert opened == closed


# Quotes


def test_old_and_repeated_quotes_are_dropped() -> None:
    wire = Wire().connect()
    for u in (5, 5, 4, 9):
        wire.send(quote(u))
    assert [q.seq for q in wire.of(Quote)] == [5, 9]
    assert wire.feed.counters.duplicates == 2


def test_quote_ids_that_begin_anew_are_followed() -> None:
    wire = Wire(types=("quotes",)).connect()
    wire.send(quote(1000))
    wire.now += 30 * SECOND
    wire.send(quote(3))  # old
    wire.now += 31 * SECOND
    wire.send(quote(1000))  # a repeat, however late
    wire.send(quote(3))
    wire.send(quote(4))
    assert [q.seq for q in wire.of(Quote)] == [1000, 3, 4]
    assert [g.reason for g in wire.of(Gap)] == ["id_restart"]


@pytest.mark.parametrize(
    "options",
    [
        {"silence": "nan"},
        {"silence": "inf"},
        {"silence": "0"},
        {"silence": "x"},
        {"speed": "fast"},
        {"speed": "100ms/btcusdt@trade"},
        {"snapshot_limit": "0"},
        {"streams_per_connection": "0"},
        {"streams_per_connection": "many"},
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Wire(options=options)


def test_speeds_of_depth() -> None:
    def name(exchange: BinanceExchange, speed: str) -> str:
        wire = Wire(exchange, ("book",), options={"speed": speed}).connect()
        return str(json.loads(wire.did(Send)[0].frame)["params"][0])

    assert name(cmd_binance.SPOT, "1000ms") == "btcusdt@depth"
    assert name(cmd_binance.SPOT, "100ms") == "btcusdt@depth@100ms"
    assert name(cmd_binance.USDM, "250ms") == "btcusdt@depth"
    assert name(cmd_binance.USDM, "500ms") == "btcusdt@depth@500ms"


def test_an_empty_side_of_a_quote_is_zero() -> None:
    (record,) = Wire().connect().send(quote(1, b="0.00000000", B="0.00000000"))
    assert isinstance(record, Quote)
    assert (record.bid_price, record.bid_quantity) == (0.0, 0.0)


# Candles


def test_candles_are_provisional_until_they_are_closed() -> None:
    wire = Wire().connect()
    for minute, closed in ((0, False), (0, False), (0, True), (1, False), (1, True)):
        wire.send(kline(minute, closed=closed))
    assert [(c.open_time - NOW, c.state) for c in wire.of(Candle)] == [
        (0, "provisional"),
        (0, "provisional"),
        (0, "final"),
        (MINUTE, "provisional"),
        (MINUTE, "final"),
    ]
    assert wire.of(Gap) == []
    wire.send(kline(0, closed=False))  # late: its final form was seen
    wire.send(kline(1, closed=True))
    assert len(wire.of(Candle)) == 5
    assert wire.feed.counters.duplicates == 2


def test_a_candle_that_never_closed_is_a_gap() -> None:
    wire = Wire().connect()
    wire.send(kline(0, closed=True))
    wire.send(kline(1, closed=False))
    wire.send(kline(4, closed=False))
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.severity) == ("candles", "candle", "suspect")
    assert (gap.ts_from, gap.ts_to, gap.detail) == (NOW + MINUTE, NOW + 4 * MINUTE, "1m")


def test_gaps_of_several_intervals_at_one_time_name_them_all() -> None:
    # Their rows have the same key: the last one must say everything.
    wire = Wire(types=("candles",), intervals=("1m", "5m")).connect()
    five = {"i": "5m", "T": MS + 5 * 60_000 - 1}
    wire.send(kline(0, closed=False))
    wire.send(kline(0, closed=False, **five))
    wire.send(kline(5, closed=False))
    wire.send(kline(5, closed=False, **five | {"T": MS + 10 * 60_000 - 1}))
    gaps = wire.of(Gap)
    assert len({(g.ts_from, g.ts_to) for g in gaps}) == 1
    assert [g.detail for g in gaps] == ["1m", "1m, 5m"]


def test_a_disconnect_within_a_candle_loses_nothing() -> None:
    wire = Wire(types=("candles",)).connect()
    wire.send(kline(0, closed=False))
    wire.take(wire.feed.disconnected(NOW, "reset"))
    wire.connect()
    wire.send(kline(0, closed=True))
    assert wire.of(Gap) == []


def test_intervals_are_kept_apart() -> None:
    wire = Wire(types=("candles",), intervals=("1m", "1h")).connect()
    hour = {"i": "1h", "T": MS + 3_599_999}
    for _ in range(2):
        wire.send(kline(0, closed=True))
        wire.send(kline(0, closed=True, **hour))
    assert [c.interval for c in wire.of(Candle)] == ["1m", "1h"]
    wire.send(kline(1, closed=False, i="5m"))  # not asked for
    assert wire.feed.counters.skipped == 1


# Control


def test_a_frame_names_100_streams_at_most_and_ids_differ() -> None:
    wire = Wire(symbols=[f"S{i}USDT" for i in range(60)], types=("trades", "quotes")).connect()
    frames = [json.loads(a.frame) for a in wire.did(Send)]
    assert [len(f["params"]) for f in frames] == [100, 20]
    assert len({f["id"] for f in frames}) == 2
    assert {f["method"] for f in frames} == {"SUBSCRIBE"}


def test_an_answer_that_does_not_come_is_asked_for_again_and_then_the_connection() -> None:
    wire = Wire(types=("trades",), answer=False).connect()
    for _ in range(35):
        wire.tick()
    assert len(wire.did(Send)) == 3
    assert [a.reason for a in wire.did(Reconnect)] == ["3 subscriptions were not answered"]
    assert len({json.loads(a.frame)["id"] for a in wire.did(Send)}) == 3


def test_an_old_request_does_not_undo_a_newer_one() -> None:
    wire = Wire(symbols=["AAAUSDT", "BTCUSDT"], types=("trades",), answer=False).connect()
    wire.take(wire.feed.remove(["BTCUSDT"], wire.now))
    wire.take(wire.feed.add(["BTCUSDT"], wire.now))
    wire.take(wire.feed.remove(["AAAUSDT"], wire.now))
    sent = len(wire.did(Send))
    for _ in range(11):
        wire.tick()
    again = [json.loads(a.frame) for a in wire.did(Send)[sent:]]
    assert [(m["method"], m["params"]) for m in again] == [
        ("SUBSCRIBE", ["btcusdt@trade"]),  # once; AAAUSDT is not wanted any more
    ]


def test_one_bad_name_does_not_take_the_others_with_it() -> None:
    wire = Wire(symbols=["AAAUSDT", "BADUSDT", "CCCUSDT", "DDDUSDT"], types=("trades",), answer=False).connect()
    answered: set[str] = set()
    at = 0
    for _ in range(30):
        frames = wire.did(Send)
        for action in frames[at:]:
            request = json.loads(action.frame)
            if "badusdt@trade" in request["params"]:
                wire.raw(json.dumps({"code": 2, "msg": "Invalid request: bad stream", "id": request["id"]}))
            else:
                answered |= set(request["params"])
                wire.raw(json.dumps({"result": None, "id": request["id"]}))
        at = len(frames)
        wire.tick()
    assert answered == {"aaausdt@trade", "cccusdt@trade", "dddusdt@trade"}
    (rejected,) = wire.statuses("rejected")
    assert (rejected.symbol, rejected.record_type) == ("BADUSDT", "trades")
    assert "Invalid request: bad stream" in rejected.reason
    assert wire.feed.counters.errors == len(wire.statuses("error"))
    assert len(wire.did(Send)) < 12


@pytest.mark.parametrize(
    "frame",
    [
        '{"error":{"code":3,"msg":"Invalid JSON"}}',
        '{"code":1,"msg":"Invalid value type","id":null}',
        '{"error":{"code":-1,"msg":"x"},"id":"abc"}',
    ],
)
def test_errors_of_nobodys_frame_are_counted(frame: str) -> None:
    wire = Wire().connect()
    wire.raw(frame)
    assert wire.feed.counters.errors == 1
    assert len(wire.statuses("error")) == 1


def test_server_shutdown_is_a_reconnect() -> None:
    for frame in (
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1767225600000}}',
        '{"e":"serverShutdown","E":1767225600000}',
    ):
        wire = Wire().connect()
        wire.raw(frame)
        assert [a.reason for a in wire.did(Reconnect)] == ["serverShutdown"]


def test_replies_to_lists_and_properties_are_no_events() -> None:
    wire = Wire().connect()
    for frame in ('{"result":["btcusdt@trade"],"id":77}', '{"result":true,"id":78}', '{"result":null,"id":"x"}'):
        assert wire.raw(frame) == []
    assert wire.feed.counters.unknown_messages == wire.feed.counters.malformed == 0


def test_messages_of_removed_symbols_are_passed_over() -> None:
    wire = Wire(types=("trades", "book")).connect()
    wire.take(wire.feed.remove(["BTCUSDT", "NOSUCH"], wire.now))
    assert json.loads(wire.did(Send)[-1].frame)["method"] == "UNSUBSCRIBE"
    for data in (trade(1), depth(1, 2), quote(1), kline(0, closed=True)):
        assert wire.send(data) == []
    assert wire.feed.counters.skipped == 4


def test_a_connection_that_falls_silent_is_opened_anew() -> None:
    wire = Wire(types=("trades",)).connect()
    for n in range(100):
        wire.send(trade(n))
        wire.tick(0.5)
    assert wire.did(Reconnect) == []
    for _ in range(61):
        wire.tick()
    assert [a.reason for a in wire.did(Reconnect)] == ["nothing came for 60 s"]


def test_a_quiet_connection_is_left_alone() -> None:
    wire = Wire(types=("trades",)).connect()
    for n in range(5):
        wire.send(trade(n))
        for _ in range(100):
            wire.tick()
    assert wire.did(Reconnect) == []


def test_a_silent_stream_that_speaks_later_is_reported() -> None:
    wire = Wire(types=("trades", "quotes"), options={"silence": "5"}).connect()
    for n in range(10):
        wire.send(quote(n))
        wire.tick()
    (silent,) = wire.statuses("silent")
    assert (silent.symbol, silent.record_type) == ("BTCUSDT", "trades")
    wire.send(trade(1, T=wire.now // 1_000_000))
    assert len(wire.statuses("heard")) == 1
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.severity, gap.ts_from) == ("silence", "suspect", NOW)


def speak_and_stop(wire: Wire, seconds: int, quiet: int) -> None:
    """A trade a second, then none while quotes go on."""
    for n in range(seconds + quiet):
        if n < seconds:
            wire.send(trade(n, T=wire.now // 1_000_000))
        wire.send(quote((wire.now - NOW) // SECOND))
        wire.tick()


def test_a_stream_that_stops_is_missed_by_its_own_rate_and_ids_prove_that_nothing_is_missing() -> None:
    wire = Wire(types=("trades", "quotes")).connect()
    speak_and_stop(wire, 60, 29)
    assert wire.statuses("silent") == []
    speak_and_stop(wire, 0, 5)
    (silent,) = wire.statuses("silent")
    assert (silent.symbol, silent.record_type) == ("BTCUSDT", "trades")
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.severity, gap.record_type, gap.repaired_by) == ("silence", "suspect", "trades", "")
    assert gap.ts_from == NOW + 59 * SECOND
    wire.send(trade(60, T=wire.now // 1_000_000))  # the next id: nothing was traded
    assert len(wire.statuses("heard")) == 1
    (closed,) = (g for g in wire.of(Gap) if g.repaired_by)
    assert (closed.repaired_by, closed.ts_from, closed.ts_to) == ("ids", gap.ts_from, gap.ts_to)
    assert len(wire.of(Gap)) == 2


def test_a_stream_that_stops_and_goes_on_behind_a_hole_has_a_gap_of_its_ids() -> None:
    wire = Wire(types=("trades", "quotes")).connect()
    speak_and_stop(wire, 60, 40)
    wire.send(trade(70, T=wire.now // 1_000_000))
    found = {(g.reason, g.repaired_by): g for g in wire.of(Gap)}
    assert set(found) == {("silence", ""), ("silence", "ids"), ("trade_id", "")}
    assert (found["trade_id", ""].first_id, found["trade_id", ""].last_id) == (60, 69)


def test_a_stream_with_long_pauses_is_not_missed_in_one_more() -> None:
    wire = Wire(types=("trades", "quotes")).connect()
    for n in range(30):
        speak_and_stop(wire, 0, 45)
        wire.send(trade(n, T=wire.now // 1_000_000))
    assert wire.statuses("silent") == []
    speak_and_stop(wire, 0, 170)  # less than four times the longest pause
    assert wire.statuses("silent") == []
    assert wire.of(Gap) == []


def test_silence_until_the_connection_ends_is_a_gap_too() -> None:
    wire = Wire(types=("trades",), options={"silence": "5"}).connect()
    for _ in range(10):
        wire.tick()
    wire.take(wire.feed.disconnected(wire.now, "reset"))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.record_type, gap.ts_from, gap.ts_to) == ("silence", "trades", NOW, wire.now)
    wire.connect()
    wire.send(trade(1))
    wire.take(wire.feed.close(wire.now))
    assert len(wire.of(Gap)) == 1
