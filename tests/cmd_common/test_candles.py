from __future__ import annotations

import random
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.candles import INTERVALS, CandleBuilder, _Ids, _Sum, interval_bounds
from cmd_common.errors import DataError, UnknownNameError, UsageError
from cmd_common.records import INEXACT, LAST_IN_EVENT, Candle, Trade

S = 1_000_000_000
MINUTE = 60 * S
T0 = 1_723_075_200 * S  # 2024-08-08 00:00:00 UTC, a Thursday


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * S


def trade(
    seq: int | None, ts: int, price: float = 100.0, quantity: float = 1.0, side: str = "buy", **more: object
) -> Trade:
    text = str(more.pop("trade_id", seq))
    return Trade(ts, ts + 5, "v", "S", text, seq, price, quantity, side, **more)  # type: ignore[arg-type]


def builder(interval: str = "1m", **options: object) -> CandleBuilder:
    return CandleBuilder("v", "S", interval, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("interval", "opened", "closes"),
    [
        ("1s", "2024-08-08 13:37:59", "2024-08-08 13:38:00"),
        ("1m", "2024-08-08 13:37:00", "2024-08-08 13:38:00"),
        ("3m", "2024-08-08 13:36:00", "2024-08-08 13:39:00"),
        ("5m", "2024-08-08 13:35:00", "2024-08-08 13:40:00"),
        ("15m", "2024-08-08 13:30:00", "2024-08-08 13:45:00"),
        ("30m", "2024-08-08 13:30:00", "2024-08-08 14:00:00"),
        ("1h", "2024-08-08 13:00:00", "2024-08-08 14:00:00"),
        ("2h", "2024-08-08 12:00:00", "2024-08-08 14:00:00"),
        ("4h", "2024-08-08 12:00:00", "2024-08-08 16:00:00"),
        ("6h", "2024-08-08 12:00:00", "2024-08-08 18:00:00"),
        ("8h", "2024-08-08 08:00:00", "2024-08-08 16:00:00"),
        ("12h", "2024-08-08 12:00:00", "2024-08-09 00:00:00"),
        ("1d", "2024-08-08 00:00:00", "2024-08-09 00:00:00"),
        ("3d", "2024-08-06 00:00:00", "2024-08-09 00:00:00"),
        ("1w", "2024-08-05 00:00:00", "2024-08-12 00:00:00"),
        ("1M", "2024-08-01 00:00:00", "2024-09-01 00:00:00"),
        ("3M", "2024-07-01 00:00:00", "2024-10-01 00:00:00"),
    ],
)
def test_bounds_of_every_usual_interval(interval: str, opened: str, closes: str) -> None:
    ts = ns("2024-08-08 13:37:59") + 123_456_789
    assert interval_bounds(ts, interval) == (ns(opened), ns(closes))
    assert interval_bounds(ns(opened), interval) == (ns(opened), ns(closes))
    assert interval_bounds(ns(closes) - 1, interval) == (ns(opened), ns(closes))
    assert interval_bounds(ns(closes), interval)[0] == ns(closes)


def test_month_bounds_follow_the_calendar() -> None:
    assert interval_bounds(ns("2024-02-29 23:59:59"), "1M") == (ns("2024-02-01"), ns("2024-03-01"))
    assert interval_bounds(ns("2023-12-31 23:59:59"), "1M") == (ns("2023-12-01"), ns("2024-01-01"))


@given(st.integers(4 * 86_400 * S, 2**62), st.sampled_from(INTERVALS))
def test_intervals_tile_time(ts: int, interval: str) -> None:
    opened, closes = interval_bounds(ts, interval)
    assert opened <= ts < closes
    assert interval_bounds(closes, interval)[0] == closes
    assert opened == 0 or interval_bounds(opened - 1, interval)[1] == opened


@pytest.mark.parametrize("text", ["", "m", "0m", "01m", "1x", "1.5m", "-1m", " 1m", "1m\n", "٣m", "9999999s", "1201M"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        interval_bounds(T0, text)
    with pytest.raises(UsageError):
        builder(text)


def test_an_unknown_interval_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown interval '1min'") as caught:
        builder("1min")
    assert "1m" in caught.value.nearest


@pytest.mark.parametrize("ts", [-1, 2**63])
def test_times_outside_the_range_are_refused(ts: int) -> None:
    with pytest.raises(DataError):
        interval_bounds(ts, "1m")
    with pytest.raises(DataError):
        builder().tick(ts)
    with pytest.raises(DataError):
        builder().trade(trade(1, ts))


def test_a_candle_becomes_final_when_a_later_trade_passes_its_close() -> None:
    candles = builder()
    assert candles.trade(trade(1, T0 + 1, 100.0, 2.0, "buy")) == []
    assert candles.trade(trade(2, T0 + 2, 103.0, 1.0, "sell")) == []
    assert candles.trade(trade(3, T0 + 3, 99.0, 0.5, "buy")) == []
    assert candles.trade(trade(4, T0 + MINUTE - 1, 101.0, 4.0, "sell", flags=INEXACT | LAST_IN_EVENT)) == []
    (provisional,) = candles.provisional()
    assert provisional.state == "provisional"
    (final,) = candles.trade(trade(5, T0 + MINUTE, 102.0))
    assert final == Candle(
        open_time=T0,
        close_time=T0 + MINUTE,
        ts_event=T0 + MINUTE - 1,
        ts_recv=T0 + MINUTE + 4,
        venue="v",
        symbol="S",
        interval="1m",
        source="built",
        state="final",
        open=100.0,
        high=103.0,
        low=99.0,
        close=101.0,
        volume=7.5,
        quote_volume=200.0 + 103.0 + 49.5 + 404.0,
        trades=4,
        taker_buy_volume=2.5,
        taker_buy_quote_volume=249.5,
        flags=INEXACT,
    )
    candles.check()


def test_a_tick_closes_a_candle_exactly_at_close_time_plus_lateness() -> None:
    candles = builder(lateness=2 * S)
    candles.trade(trade(1, T0))
    assert candles.tick(T0 + MINUTE + 2 * S - 1) == []
    assert [c.state for c in candles.tick(T0 + MINUTE + 2 * S)] == ["final"]
    assert candles.tick(T0) == []  # time never goes back
    candles.check()


def test_a_late_trade_within_the_lateness_changes_the_provisional_candle() -> None:
    candles = builder(lateness=10 * S)
    candles.trade(trade(1, T0))
    candles.trade(trade(3, T0 + MINUTE + S, 200.0))
    assert candles.trade(trade(2, T0 + 1, 150.0)) == []
    (final,) = candles.tick(T0 + MINUTE + 10 * S)
    assert (final.close, final.trades) == (150.0, 2)


def test_a_trade_after_final_gives_a_corrected_candle() -> None:
    candles = builder()
    candles.trade(trade(1, T0))
    candles.trade(trade(3, T0 + MINUTE, 200.0))
    (corrected,) = candles.trade(trade(2, T0 + 1, 150.0))
    assert (corrected.state, corrected.close, corrected.trades) == ("corrected", 150.0, 2)
    assert candles.trade(trade(2, T0 + 1, 150.0)) == []
    assert candles.duplicates == 1
    candles.check()


def test_a_trade_older_than_the_history_is_counted_and_ignored() -> None:
    candles = builder(history=2)
    candles.trade(trade(1, T0))
    candles.trade(trade(9, T0 + 5 * MINUTE))
    assert candles.trade(trade(2, T0 + 1)) == []
    assert candles.too_late == 1
    assert candles.trade(trade(5, T0 + 3 * MINUTE))[0].state == "corrected"
    candles.check()


def test_open_and_close_are_decided_by_time_then_id() -> None:
    candles = builder()
    for seq, price in ((12, 2.0), (10, 1.0), (11, 3.0)):
        candles.trade(trade(seq, T0, price))
    (candle,) = candles.provisional()
    assert (candle.open, candle.close, candle.high, candle.low) == (1.0, 2.0, 3.0, 1.0)


def test_text_ids_are_told_apart_and_bounded() -> None:
    candles = builder(max_ids=2)
    for name in ("a", "b", "a", "c", "c"):
        candles.trade(trade(None, T0, trade_id=name))
    assert candles.duplicates == 2
    candles.trade(trade(None, T0, trade_id="a"))  # forgotten: the oldest of three
    assert candles.provisional()[0].trades == 4
    candles.check()


def test_empty_intervals_are_omitted_by_default() -> None:
    candles = builder()
    candles.trade(trade(1, T0))
    final = candles.trade(trade(2, T0 + 5 * MINUTE))
    assert [c.open_time for c in final] == [T0]


def test_empty_intervals_are_filled_with_the_last_close() -> None:
    candles = builder(empty="fill")
    candles.trade(trade(1, T0, 7.0))
    final = candles.trade(trade(2, T0 + 3 * MINUTE, 9.0))
    assert [(c.open_time - T0) // MINUTE for c in final] == [0, 1, 2]
    empty = final[1]
    assert (empty.open, empty.high, empty.low, empty.close) == (7.0, 7.0, 7.0, 7.0)
    assert (empty.trades, empty.volume, empty.state, empty.ts_event) == (0, 0.0, "final", T0 + MINUTE)
    assert [c.close for c in candles.tick(T0 + 5 * MINUTE)] == [9.0, 9.0]
    candles.check()


def test_a_correction_is_carried_through_filled_intervals() -> None:
    candles = builder(empty="fill")
    candles.trade(trade(1, T0, 7.0))
    candles.trade(trade(3, T0 + 3 * MINUTE, 9.0))
    fixed = candles.trade(trade(2, T0 + 1, 8.0))
    assert [((c.open_time - T0) // MINUTE, c.close, c.state) for c in fixed] == [
        (0, 8.0, "corrected"),
        (1, 8.0, "corrected"),
        (2, 8.0, "corrected"),
    ]
    fixed = candles.trade(trade(4, T0 + MINUTE, 5.0))
    assert [(c.close, c.trades) for c in fixed] == [(5.0, 1), (5.0, 0)]
    candles.check()


def test_a_late_trade_that_leaves_the_close_alone_corrects_one_candle_only() -> None:
    candles = builder(empty="fill")
    candles.trade(trade(2, T0 + 9, 7.0))
    candles.trade(trade(3, T0 + 3 * MINUTE, 9.0))
    assert [c.open_time for c in candles.trade(trade(1, T0, 8.0))] == [T0]
    candles.check()


def test_a_first_trade_that_comes_after_its_time_fills_what_is_closed_and_waits_for_the_rest() -> None:
    candles = builder(empty="fill", lateness=200 * S)
    assert candles.trade(trade(2, T0 + 6 * MINUTE, 9.0)) == []
    late = candles.trade(trade(1, T0, 7.0))
    assert [((c.open_time - T0) // MINUTE, c.state) for c in late] == [(0, "corrected"), (1, "corrected")]
    candles.check()
    rest = candles.tick(T0 + 7 * MINUTE + 200 * S)
    assert [((c.open_time - T0) // MINUTE, c.close) for c in rest] == [(2, 7.0), (3, 7.0), (4, 7.0), (5, 7.0), (6, 9.0)]
    candles.check()


def test_filling_begins_at_the_earliest_interval_whose_trade_came_in_time() -> None:
    candles = builder(empty="fill", lateness=200 * S)
    candles.trade(trade(2, T0 + 6 * MINUTE, 9.0))
    assert candles.trade(trade(1, T0 + 4 * MINUTE, 7.0)) == []
    final = candles.tick(T0 + 7 * MINUTE + 200 * S)
    assert [((c.open_time - T0) // MINUTE, c.close, c.state) for c in final] == [
        (4, 7.0, "final"),
        (5, 7.0, "final"),
        (6, 9.0, "final"),
    ]
    candles.check()


@pytest.mark.parametrize("interval", ["1m", "1M"])
def test_the_last_close_is_carried_on_when_its_candle_is_forgotten(interval: str) -> None:
    candles = builder(interval, empty="fill", history=0)
    candles.trade(trade(1, T0, 7.0))
    at = T0
    for _ in range(4):
        at = interval_bounds(at, interval)[1]
        (final,) = candles.tick(at)
        assert (final.close_time, final.close) == (at, 7.0)
        candles.check()
    assert candles.trade(trade(2, T0 + 1, 8.0)) == []
    assert candles.too_late == 1


def test_a_jump_in_time_does_not_fill_memory() -> None:
    candles = builder("1s", empty="fill", max_fill=1000)
    candles.trade(trade(1, T0))
    with pytest.raises(DataError, match="jumps over more than 1000 intervals"):
        candles.trade(trade(2, T0 + 3600 * S))
    with pytest.raises(DataError):
        candles.tick(T0 + 3600 * S)
    assert len(candles.tick(T0 + 900 * S)) == 900
    assert candles.trade(trade(0, T0 - 365 * 86_400 * S)) == []
    assert candles.too_late == 1
    candles.check()


@pytest.mark.parametrize(
    ("price", "quantity"),
    [
        (0.0, 1.0),
        (-1.0, 1.0),
        (float("nan"), 1.0),
        (float("inf"), 1.0),
        (1.0, -1.0),
        (1.0, float("nan")),
        (1e200, 1e200),
    ],
)
def test_impossible_trades_are_refused_whole(price: float, quantity: float) -> None:
    candles = builder()
    with pytest.raises(DataError):
        candles.trade(trade(1, T0, price, quantity))
    assert candles.provisional() == []
    candles.check()


def test_trades_of_another_symbol_and_bad_options_are_refused() -> None:
    with pytest.raises(UsageError):
        CandleBuilder("v", "OTHER", "1m").trade(trade(1, T0))
    for options in ({"lateness": -1}, {"empty": "zero"}, {"max_ids": 0}, {"history": -1}):
        with pytest.raises(UsageError):
            builder(**options)


@given(st.lists(st.floats(0, 1e15), max_size=40), st.randoms(use_true_random=False))
def test_sums_are_exactly_rounded_in_any_order(values: list[float], rng: random.Random) -> None:
    exact = float(sum(map(Fraction, values), Fraction(0)))
    rng.shuffle(values)
    total = _Sum()
    for value in values:
        total.add(value)
    assert total.value == exact


@given(st.lists(st.integers(0, 30), max_size=60))
def test_id_ranges_behave_like_a_set(numbers: list[int]) -> None:
    ids, model = _Ids(1000), set()
    for number in numbers:
        assert ids.add(number, str(number)) == (number not in model)
        model.add(number)
        ids.check()


_PRICES = st.floats(0.01, 1e6).map(lambda x: round(x, 2))
_TRADES = st.lists(
    st.tuples(st.integers(0, 6 * 60), _PRICES, st.floats(0.0, 1e3), st.sampled_from(["buy", "sell", "unknown"])),
    min_size=1,
    max_size=40,
)


def test_ids_that_are_text_are_ordered_as_in_the_store() -> None:
    candles = builder()
    for name, price in (("id10", 3.0), ("id9", 2.0), ("id11", 4.0)):
        candles.trade(trade(None, T0, price, 1.0, "buy", trade_id=name))
    (candle,) = candles.provisional()
    assert (candle.open, candle.close) == (2.0, 4.0)


@given(
    _TRADES,
    st.randoms(use_true_random=False),
    st.sampled_from(["omit", "fill"]),
    st.sampled_from([0, 30 * S, 200 * S]),
    st.booleans(),
)
def test_any_order_of_the_same_trades_gives_the_same_candles(
    rows: list[tuple[int, float, float, str]], rng: random.Random, empty: str, lateness: int, numbered: bool
) -> None:
    trades = [
        trade(i if numbered else None, T0 + seconds * S, price, quantity, side, trade_id=f"id{i}")
        for i, (seconds, price, quantity, side) in enumerate(sorted(rows, key=lambda row: row[0]))
    ]

    def build(order: list[Trade], check: bool) -> dict[int, tuple[object, ...]]:
        candles = builder(empty=empty, lateness=lateness, history=20)
        result: dict[int, Candle] = {}

        def take(emitted: list[Candle]) -> None:
            assert [c.open_time for c in emitted] == sorted(c.open_time for c in emitted)
            for candle in emitted:
                assert (candle.state == "final") == (candle.open_time not in result) or candle.state == "corrected"
                result[candle.open_time] = candle

        for item in order:
            take(candles.trade(item))
            if check:
                candles.check()
        take(candles.tick(T0 + 8 * MINUTE + lateness))
        candles.check()
        assert candles.provisional() == []
        return {
            at: (c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trades, c.taker_buy_volume, c.ts_event)
            for at, c in result.items()
        }

    expected = build(trades, check=False)
    shuffled = [*trades, *rng.sample(trades, len(trades) // 2)]  # with repeats
    rng.shuffle(shuffled)
    assert build(shuffled, check=True) == expected
    # An independent reference for the plain part of it.
    for opened, row in expected.items():
        inside = [t for t in trades if opened <= t.ts_event < opened + MINUTE]
        if inside:
            assert row[0] == inside[0].price
            assert row[3] == inside[-1].price
            assert row[1] == max(t.price for t in inside)
            assert row[4] == float(sum((Fraction(t.quantity) for t in inside), Fraction(0)))
            assert row[6] == len(inside)
        else:
            assert empty == "fill"
            assert row[6] == 0
    if empty == "fill":
        times = sorted(expected)
        assert times == list(range(times[0], T0 + 8 * MINUTE, MINUTE))
