"""Lists of replaced files."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_archiver.verify.replaced import Replaced, replaced_files
from cmd_archiver.verify.verdicts import Day, Stream
from cmd_common.errors import UsageError

SUM = "a" * 64


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"| BNBBTC-aggTrades-2018-01.zip | {SUM}  BNBBTC-aggTrades-2018-01.zip | {SUM} |",
         Replaced("BNBBTC", "agg_trades", "", date(2018, 1, 1), date(2018, 1, 31))),
        (f"BNBBTC-trades-2017-12,{SUM}", Replaced("BNBBTC", "trades", "", date(2017, 12, 1), date(2017, 12, 31))),
        ("1000SATSUSDT-1h-2024-02-29.zip", Replaced("1000SATSUSDT", "candles", "1h", date(2024, 2, 29), date(2024, 2, 29))),
        ("BTCUSD_PERP-1mo-2024-02.zip", Replaced("BTCUSD_PERP", "candles", "1M", date(2024, 2, 1), date(2024, 2, 29))),
        ("data/spot/monthly/trades/BTCUSDT/BTCUSDT-trades-2024-03.zip",
         Replaced("BTCUSDT", "trades", "", date(2024, 3, 1), date(2024, 3, 31))),
    ],
)  # fmt: skip
def test_a_line(line: str, found: Replaced) -> None:
    assert replaced_files(f"# a title\n{line}\n{line}\n") == [found]


@given(st.text(max_size=200))
def test_any_other_text_names_no_file(text: str) -> None:
    try:
        found = replaced_files(text)
    except UsageError:
        return
    assert all(f.first <= f.last for f in found)


def test_impossible_dates_are_passed_over() -> None:
    with pytest.raises(UsageError, match="names no file"):
        replaced_files("BTCUSDT-trades-2024-13.zip BTCUSDT-trades-2023-02-29.zip")


def test_which_days_it_is_about() -> None:
    file = Replaced("BTCUSDT", "candles", "1h", date(2024, 2, 1), date(2024, 2, 29))

    def day(text: str, interval: str = "1h", source: str = "exchange", symbol: str = "BTCUSDT") -> Day:
        return Day(Stream("binance-spot", symbol, "candles", interval, source), text)

    assert file.holds(day("2024-02-29"))
    assert not file.holds(day("2024-03-01"))
    assert not file.holds(day("2024-02-29", "1m"))
    assert not file.holds(day("2024-02-29", source="built"))
    assert not file.holds(day("2024-02-29", symbol="ETHUSDT"))
