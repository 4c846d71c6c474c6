"""Times as text: every place counts, and none goes through a float."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_coinbase._times import NEVER, iso_text, parse_iso


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2021-04-17T16:43:37.089723Z", 1_618_677_817_089_723_000),
        ("2026-08-24T22:34:13.793075885Z", 1_787_610_853_793_075_885),
        ("2026-08-24T22:34:13.79307588599Z", 1_787_610_853_793_075_885),
        ("2026-08-24T22:34:13Z", 1_787_610_853_000_000_000),
        ("2026-08-24T22:34:13.5Z", 1_787_610_853_500_000_000),
        ("2026-08-24T22:34:13+00:00", 1_787_610_853_000_000_000),
        ("2026-08-25T00:34:13+02:00", 1_787_610_853_000_000_000),
        ("2026-08-24T17:04:13-05:30", 1_787_610_853_000_000_000),
        ("2026-08-24 22:34:13.5Z", 1_787_610_853_500_000_000),
        ("0001-01-01T00:00:00.000000Z", NEVER),
        ("1970-01-01T00:00:00Z", NEVER),
    ],
)
def test_known_times(text: str, ns: int) -> None:
    assert parse_iso(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-08-24", "2026-08-24T22:34:13", "2026-13-24T22:34:13Z", "2026-08-32T22:34:13Z",
     "2026-08-24T25:34:13Z", "2026-08-24T22:34:61Z", "2026-08-24T22:34:13.Z", "1787610853", "２０26-08-24T22:34:13Z",
     "2262-12-31T23:59:59Z", "9999-12-31T00:00:00Z"],
)  # fmt: skip
def test_what_is_no_time_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_iso(text)


@given(st.integers(0, 4_102_444_800 * 10**9))
def test_text_and_number_are_the_same_time(ns: int) -> None:
    assert parse_iso(iso_text(ns, 9)) == ns
    assert parse_iso(iso_text(ns)) == ns // 1000 * 1000
    assert parse_iso(iso_text(ns, 0)) == ns // 10**9 * 10**9


@given(st.timedeltas(timedelta(0), timedelta(days=47_000)))
def test_agrees_with_the_standard_library(delta: timedelta) -> None:
    expected = (delta.days * 86_400 + delta.seconds) * 10**9 + delta.microseconds * 1000
    assert parse_iso((datetime(1970, 1, 1, tzinfo=UTC) + delta).isoformat()) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        assert parse_iso(text) >= 0
    except ValueError:
        pass
