"""Requests, bodies, errors in words, and the walk through candles of the past."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bybit_wire import dumps
from hypothesis import given
from hypothesis import strategies as st

from cmd_bybit import LINEAR, SPOT
from cmd_bybit.instruments import INTERVALS, interval_end
from cmd_bybit.rest import BybitHistory, klines_request, parse_klines
from cmd_common.candles import interval_bounds
from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import INEXACT, REST, Candle

MINUTE = 60_000_000_000
DAY = 1440 * MINUTE
T0 = 1_767_225_600_000_000_000  # 2026-01-01
URL = "https://api.bybit.com/v5/market/kline"


def row(ms: int, price: str = "100.5") -> list[str]:
    return [str(ms), price, "102.0", "99.0", "101.5", "12.5", "1250.25"]


def body(rows: list[list[str]], symbol: str = "BTCUSDT", category: str = "spot") -> bytes:
    return dumps(
        {"retCode": 0, "retMsg": "OK", "result": {"symbol": symbol, "category": category, "list": rows}}
    ).encode()


def error(code: int, why: str = "x", **more: Any) -> bytes:
    return dumps({"retCode": code, "retMsg": why, "result": {}, "retExtInfo": {}, **more}).encode()


def test_a_request_for_candles() -> None:
    request = klines_request(LINEAR.market, LINEAR.endpoints, "BTCUSDT", "1h", start=T0 + 1, end=T0 + DAY)
    assert request.url == (
        f"{URL}?category=linear&symbol=BTCUSDT&interval=60&start=1767225600001&end=1767311999999&limit=1000"
    )
    with pytest.raises(UsageError, match="7m"):
        klines_request(SPOT.market, SPOT.endpoints, "BTCUSDT", "7m", start=0, end=1)
    with pytest.raises(UsageError, match="1001"):
        klines_request(SPOT.market, SPOT.endpoints, "BTCUSDT", "1m", start=0, end=1, limit=1001)


def test_candles_are_parsed_from_their_text() -> None:
    rows = [row(1_767_225_660_000), row(1_767_225_600_000, "0.12345678901234567")]
    open_, final = parse_klines(SPOT.market, "BTCUSDT", "1m", body(rows), T0 + MINUTE + 5)
    assert isinstance(final, Candle)
    assert (open_.state, final.state) == ("provisional", "final")
    assert (final.open_time, final.close_time, final.ts_event) == (T0, T0 + MINUTE, T0 + MINUTE)
    assert (final.open, final.high, final.low, final.close) == (0.12345678901234567, 102.0, 99.0, 101.5)
    assert (final.volume, final.quote_volume, final.trades) == (12.5, 1250.25, -1)
    assert final.taker_buy_volume != final.taker_buy_volume  # NaN: not told
    assert (open_.flags, final.flags) == (REST, REST | INEXACT)
    with pytest.raises(ProtocolError, match="ETHUSDT"):
        parse_klines(SPOT.market, "BTCUSDT", "1m", body(rows, "ETHUSDT"), T0)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"null", b"[]", b"\xff", body([row(1)[:5]]), body([["x", *row(1)[1:]]]), body([row(1, "-1")]), body([row(1, "NaN")])],
)  # fmt: skip
def test_damaged_candles_are_one_clear_error(damaged: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_klines(SPOT.market, "BTCUSDT", "1m", damaged, T0)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_no_body_raises_anything_else(data: bytes) -> None:
    try:
        parse_klines(SPOT.market, "BTCUSDT", "1m", data, T0)
        SPOT.parse_instruments(data)
    except ProtocolError:
        pass
    SPOT.check(HttpResponse(200, data), URL)


@pytest.mark.parametrize("interval", list(INTERVALS))
def test_interval_ends_are_those_of_the_calendar(interval: str) -> None:
    start, end = interval_bounds(T0, interval)
    assert interval_end(start, interval) == end


# Errors


@pytest.mark.parametrize(
    ("response", "kind", "status", "wait"),
    [
        (HttpResponse(200, error(10006, "Too many visits!")), RateLimitError, 200, 0),
        (HttpResponse(200, error(10018)), RateLimitError, 200, 0),
        (
            HttpResponse(200, error(10006, time=1000), {"x-bapi-limit-reset-timestamp": "3500"}),
            RateLimitError, 200, 2_500_000_000,
        ),
        (
            HttpResponse(200, error(10006, time=1000), {"x-bapi-limit-reset-timestamp": "99999999999"}),
            RateLimitError, 200, 300_000_000_000,
        ),
        (HttpResponse(403, b"access too frequent"), RateLimitError, 403, 600_000_000_000),
        (HttpResponse(403, b"403, Access too frequent.", {"retry-after": "3"}), RateLimitError, 403, 3_000_000_000),
        (HttpResponse(403, b"<html>configured to block access from your country"), BlockedError, 403, None),
        (HttpResponse(200, error(10024)), BlockedError, 200, None),
        (HttpResponse(200, error(10009)), BlockedError, 200, None),
        (HttpResponse(200, error(10001, "Not supported symbols")), VenueError, 400, None),
        (HttpResponse(200, error(10016, "maintenance")), VenueError, 503, None),
        (HttpResponse(500, b"oops"), VenueError, 503, None),
        (HttpResponse(502, b""), VenueError, 503, None),
        (HttpResponse(404, b""), VenueError, 404, None),
    ],
)  # fmt: skip
def test_errors_in_words(response: HttpResponse, kind: type[VenueError], status: int, wait: int | None) -> None:
    found = SPOT.check(response, f"{URL}?x=1")
    assert type(found) is kind
    assert found.status == status
    assert str(found).startswith("bybit-spot: /v5/market/kline: ")
    assert "\n" not in str(found)
    if wait is not None:
        assert isinstance(found, RateLimitError)
        assert found.retry_after == wait


def test_success_is_no_error() -> None:
    assert SPOT.check(HttpResponse(200, body([])), URL) is None
    assert SPOT.check(HttpResponse(200, b"\x1f\x8b"), URL) is None  # a file


# History


class Server:
    """Answers requests for candles from a list of open times, at most ``most`` a page."""

    def __init__(self, times: list[int], most: int = 1000) -> None:
        self.times = times
        self.most = most
        self.asked: list[str] = []

    def answer(self, url: str) -> HttpResponse:
        self.asked.append(url)
        query = dict(part.split("=") for part in url.partition("?")[2].split("&"))
        start, end = int(query["start"]) * 1_000_000, int(query["end"]) * 1_000_000
        rows = [t for t in self.times if start <= t <= end][-min(self.most, int(query["limit"])) :]
        return HttpResponse(200, body([row(t // 1_000_000) for t in reversed(rows)]))


def walk(server: Server, walk: Walk, now: int) -> list[Candle]:
    """Each step as another process would do it: from the cursor alone."""
    found: list[Candle] = []
    cursor: str | None = ""
    while cursor is not None:
        source = BybitHistory(SPOT.market)
        request = source.next(walk, cursor, SPOT.endpoints) if cursor else source.first(walk, SPOT.endpoints)
        page = source.page(walk, cursor, server.answer(request.url), now)
        found += [r for r in page.records if isinstance(r, Candle)]
        cursor = page.cursor
        assert len(server.asked) < 100
    return found


@given(st.integers(0, 3000), st.integers(1, 1500), st.sampled_from([7, 100, 200, 1000]), st.integers(0, 3000))
def test_a_walk_brings_every_candle_once(begin: int, length: int, most: int, listed: int) -> None:
    times = [T0 + n * MINUTE for n in range(listed, 4600)]
    length = min(length, most * 50)
    span = Walk("candles", "BTCUSDT", T0 + begin * MINUTE, T0 + (begin + length) * MINUTE, "1m")
    found = walk(Server(times, most), span, T0 + 10 * DAY)
    assert sorted(c.open_time for c in found) == [t for t in times if span.start <= t < span.end]
    assert len({c.open_time for c in found}) == len(found)


def test_a_full_day_takes_two_pages_and_an_empty_one_takes_one() -> None:
    times = [T0 + n * MINUTE for n in range(1440)]
    server = Server(times)
    assert len(walk(server, Walk("candles", "BTCUSDT", T0, T0 + DAY, "1m"), T0 + 2 * DAY)) == 1440
    assert len(server.asked) == 2
    server = Server([])
    assert walk(server, Walk("candles", "BTCUSDT", T0, T0 + DAY, "1m"), T0 + 2 * DAY) == []
    assert len(server.asked) == 1


def test_candles_that_are_not_over_are_left_out() -> None:
    times = [T0 + n * MINUTE for n in range(10)]
    found = walk(Server(times), Walk("candles", "BTCUSDT", T0, T0 + DAY, "1m"), T0 + 9 * MINUTE + 1)
    assert len(found) == 9


def test_an_interval_that_opens_before_the_walk_is_not_waited_for() -> None:
    monday = interval_bounds(T0, "1w")[1]
    server = Server([monday, monday + 7 * DAY])
    found = walk(server, Walk("candles", "BTCUSDT", monday - 2 * DAY, monday + 9 * DAY, "1w"), T0 + 60 * DAY)
    assert len(found) == 2
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [row(1_767_225_600_000), row(1_767_225_660_000)],  # oldest first
        [row(1_767_225_600_000), row(1_767_225_600_000)],  # one twice
        [row(1_767_139_200_000)],  # before the walk
        [row(1_767_312_000_000)],  # behind it
    ],
)
def test_pages_that_break_the_rules_are_errors(rows: list[list[str]]) -> None:
    span = Walk("candles", "BTCUSDT", T0, T0 + DAY, "1m")
    with pytest.raises(ProtocolError):
        BybitHistory(SPOT.market).page(span, "", HttpResponse(200, body(rows)), T0 + 2 * DAY)


def test_what_history_does_not_have() -> None:
    source = SPOT.history
    assert source is not None
    assert (source.tables, source.contiguous, source.reach("candles", "1m")) == (("candles",), False, None)
    with pytest.raises(UsageError, match="bulk files"):
        source.first(Walk("trades", "BTCUSDT", T0, T0 + DAY), SPOT.endpoints)
    span = Walk("candles", "BTCUSDT", T0, T0 + DAY, "1m")
    for cursor in ("x", "-1", str(T0 - 1), str(T0 + 2 * DAY)):
        with pytest.raises(UsageError):
            source.next(span, cursor, SPOT.endpoints)
    assert json.loads(error(1))["retCode"] == 1
