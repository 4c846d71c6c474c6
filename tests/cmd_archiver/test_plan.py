from __future__ import annotations

from datetime import date

import pytest

from cmd_archiver.plan import check_days, day_start, days, interval_ns, make_plan, utc_day
from cmd_binance.archive import BinanceArchive
from cmd_binance.instruments import SPOT
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.exchange import Endpoints

SOURCE = BinanceArchive(SPOT)
HERE = Endpoints(ws="ws://x", rest="http://x", archive="http://x", listing="http://x")
TODAY = date(2024, 8, 20)


def plan(**changes):
    options = {
        "symbols": ["BTCUSDT"],
        "types": ["trades"],
        "start": date(2024, 8, 8),
        "end": date(2024, 8, 9),
        "today": TODAY,
        **changes,
    }
    return make_plan(SOURCE, HERE, **options)


def test_days_are_inclusive_and_ordered_by_day():
    made = plan(symbols=["BTCUSDT", "ETHUSDT", "BTCUSDT"], types=["candles", "trades"], intervals=["1m", "5m", "1m"])
    assert len(made.units) == 2 * 2 * 3
    assert [u.file.first_day for u in made.units] == [date(2024, 8, 8)] * 6 + [date(2024, 8, 9)] * 6
    assert len({u.file.key for u in made.units}) == 12
    assert made.unpublished == ()


def test_built_candles_share_the_trades_file():
    made = plan(types=["trades", "candles"], candles="built", intervals=["1m", "1h"])
    assert [u.products for u in made.units] == [("trades", "built:1m", "built:1h")] * 2
    alone = plan(types=["candles"], candles="built")
    assert [(u.file.table, u.products) for u in alone.units] == [("trades", ("built:1m",))] * 2


def test_comparing_asks_for_both():
    made = plan(types=["candles"], compare=True, end=date(2024, 8, 8))
    assert [(u.file.table, u.products) for u in made.units] == [("candles", ("candles",)), ("trades", ("built:1m",))]


def test_today_is_not_published_yet():
    made = plan(start=date(2024, 8, 19), end=TODAY)
    assert [u.file.first_day for u in made.units] == [date(2024, 8, 19)]
    assert [f.first_day for f in made.unpublished] == [TODAY]


def test_long_intervals_come_by_month_once():
    made = plan(types=["candles"], intervals=["1M"], start=date(2024, 6, 20), end=date(2024, 8, 2))
    assert [u.file.name for u in made.units] == ["BTCUSDT-1mo-2024-06.zip", "BTCUSDT-1mo-2024-07.zip"]
    assert [f.name for f in made.unpublished] == ["BTCUSDT-1mo-2024-08.zip"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": date(2024, 8, 10)}, "the end 2024-08-09 lies before the start 2024-08-10"),
        ({"end": date(2024, 8, 21)}, "the end 2024-08-21 lies in the future"),
        ({"start": date(2025, 1, 1), "end": date(2025, 1, 1)}, "the start 2025-01-01 lies in the future"),
        ({"types": ["book"]}, "unknown archive type 'book'.*trades, agg_trades, candles"),
        ({"types": []}, "no types"),
        ({"symbols": []}, "no symbols"),
        ({"types": ["candles"], "intervals": ["7m"]}, "no candles of interval '7m'"),
        ({"types": ["candles"], "candles": "none"}, "unknown kind of candles"),
        ({"types": ["candles"], "candles": "built", "intervals": ["1w"]}, "cannot be built day by day"),
        ({"types": ["candles"], "candles": "built", "intervals": ["1M"]}, "cannot be built day by day"),
        ({"types": ["candles"], "candles": "built", "intervals": ["x"]}, "is not a candle interval"),
    ],
)
def test_wrong_options_are_usage_errors(changes, words):
    with pytest.raises(UsageError, match=words):
        plan(**changes)


def test_an_unknown_type_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        plan(types=["trade"])
    assert caught.value.nearest[0] == "trades"


def test_days_and_instants():
    assert list(days(date(2024, 2, 28), date(2024, 3, 1))) == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]
    start = day_start(date(2024, 8, 9))
    assert start == 1_723_161_600_000_000_000
    assert utc_day(start) == date(2024, 8, 9)
    assert utc_day(start - 1) == date(2024, 8, 8)
    check_days(TODAY, TODAY, TODAY)
    assert interval_ns("5m") == 300_000_000_000
    assert interval_ns("1M") is None
    for text in ("", "m", "0m", "1x", "-1m", "1.5h", "²m"):
        with pytest.raises(UsageError):
            interval_ns(text)
