"""From settings to options: what is refused before anything is opened."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_cli import values
from cmd_common.errors import UnknownNameError, UsageError


def test_days_are_inclusive_and_one_by_default() -> None:
    assert values.days("2024-08-08", "2024-08-09") == (date(2024, 8, 8), date(2024, 8, 9))
    assert values.days("2024-08-08", None) == (date(2024, 8, 8), date(2024, 8, 8))
    today = datetime.now(UTC).date()
    assert values.days("yesterday", "yesterday")[0] in (today - timedelta(days=1), today)


@pytest.mark.parametrize("text", ["2024-8-8", "20240808", "2024-02-30", "x", "2024-08-08T00:00"])
def test_what_is_no_day(text: str) -> None:
    with pytest.raises(UsageError, match="is not a date; write it as 2024-08-08"):
        values.day(text, "start")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01", 0),
        ("2025-03-01T00:00:00", 1_740_787_200_000_000_000),
        ("2025-03-01T01:00:00+01:00", 1_740_787_200_000_000_000),
        ("2025-03-01T00:00:00.000001Z", 1_740_787_200_000_001_000),
    ],
)
def test_instants_are_exact(text: str, ns: int) -> None:
    assert values.instant(text, "start") == ns


def test_what_is_no_instant() -> None:
    with pytest.raises(UsageError, match="start 'soon' is not a time"):
        values.instant("soon", "start")


def test_faults() -> None:
    fault = values.fault("rate-limit:at=3, count=2")
    assert (fault.kind, dict(fault.parameters)) == ("rate_limit", {"at": "3", "count": "2"})
    assert values.fault("tear").parameters == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dorp", "unknown fault 'dorp'; did you mean drop?"),
        ("zzz", "unknown fault 'zzz'; faults are: drop, repeat"),
        ("drop:rate", "fault parameter 'rate' is not k=v; for example drop:rate=0.01"),
        ("drop:rtae=1", "unknown parameter of fault drop 'rtae'; did you mean rate?"),
        ("drop:rate=2", "fault parameter rate=2 is not a number from 0 to 1"),
        ("drop:at=0", "fault parameter at=0 is not a whole number from 1"),
        ("missing_day:day=x", "fault parameter day=x is not a date"),
    ],
)
def test_wrong_faults_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.fault(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "localhost:9001", "[::1]:80"])
def test_addresses(text: str) -> None:
    assert values.listen(text) == text


@pytest.mark.parametrize("text", ["9001", ":9001", "host:", "host:x", "host:70000", "host:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        values.listen(text)


def test_symbols_of_a_simulation() -> None:
    assert values.number_or_names("12") == (12, ())
    assert values.number_or_names("btcusdt, ETHUSDT") == (2, ("BTCUSDT", "ETHUSDT"))
    for text in ("0", "10001", ",", ""):
        with pytest.raises(UsageError):
            values.number_or_names(text)


def test_recordings_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "day1.ndjson.gz"
    path.write_bytes(b"")
    assert values.recordings([str(path)]) == (str(path),)
    with pytest.raises(UsageError, match=r"is not a file; did you mean .*day1.ndjson.gz"):
        values.recordings([str(tmp_path / "day2.ndjson.gz")])


def test_a_mapping_of_symbols_names_the_exchanges() -> None:
    mapping = {"binance-usdm": ["BTCUSDT"], "binance-spot": "all"}
    venues = values.exchanges(None, mapping)
    assert venues == ("binance-usdm", "binance-spot")
    assert values.selectors(mapping, ["binance-spot"]) == ("binance-spot:all",)
    with pytest.raises(UsageError, match="unknown exchange 'binance-sopt'"):
        values.selectors({"binance-sopt": "x"}, ["binance-spot"])


def test_endpoints_of_other_venues_are_left_out() -> None:
    found = {"": "http://a:1", "binance-spot": "http://b:1", "binance-usdm": "http://c:1"}
    assert values.endpoints(found, ["binance-spot"]) == {"": "http://a:1", "binance-spot": "http://b:1"}
    assert values.endpoints(found, []) == found


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_a_usage_error(text: str) -> None:
    for parse in (values.fault, values.listen, values.number_or_names, values.check_store):
        try:
            parse(text)
        except UsageError:
            continue


def test_an_interval_must_be_one_of_some_venue() -> None:
    assert values.check_intervals(["1s", "1m"], ["binance-spot", "kraken"]) == ("1s", "1m")
    with pytest.raises(UnknownNameError):
        values.check_intervals(["1s"], ["kraken"])
    with pytest.raises(UnknownNameError):
        values.check_intervals(["7m"], ["binance-spot", "kraken"])
