"""Bitstamp's REST history against the emulator, and its bodies."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import bitstamp_wire as w
import pytest

from cmd_bitstamp import BITSTAMP, rest
from cmd_bitstamp.archive import HISTORY, BitstampHistory
from cmd_bitstamp.emulator import BitstampEmulator
from cmd_common.errors import ProtocolError, RateLimitError, UsageError
from cmd_common.history import HistorySource, Walk
from cmd_common.http import HttpResponse
from cmd_common.records import REST, Candle, Trade
from cmd_common.testing.session import ENDPOINTS, SECOND, VenueSession, simulated

MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
START = 1_748_736_000 * SECOND + 2 * DAY + 6 * 60 * MINUTE  # 2025-06-03 06:00 UTC
SYMBOL = "BTCUSD"


def session(**options: Any) -> VenueSession:
    made = simulated(BITSTAMP, start=START, history_days=2, symbols=1, **options)
    return VenueSession(BITSTAMP, BitstampEmulator(made))


def test_trades_of_the_last_day_and_the_rest_is_lost() -> None:
    s = session()
    walk = Walk("trades", SYMBOL, START - DAY + MINUTE, START)
    found = s.walk(walk, START)
    rows, lost = found.rows(), found.lost
    assert lost == []
    truth = s.emulator.market.trades_between(SYMBOL, walk.start, walk.end)  # type: ignore[attr-defined]
    assert sorted(rows, key=int) == [str(t.id) for t in truth]
    assert all(isinstance(r, Trade) and r.flags & REST and not r.ts_event % SECOND for r in rows.values())
    assert {r.side for r in rows.values() if isinstance(r, Trade)} == {"buy", "sell"}
    found = s.walk(Walk("trades", SYMBOL, START - 2 * DAY, START), START)
    rows, lost = found.rows(), found.lost
    assert lost == ["only the trades of the last 24 hours are given"]
    page = HISTORY.page(Walk("trades", SYMBOL, 0, START), "", HttpResponse(200, b"[]"), START)
    assert page.lost_span == (0, START - DAY)


@pytest.mark.parametrize(
    ("start", "end", "interval", "count", "pages"),
    [
        (START - 2 * DAY, START, "1m", 2880, 3),
        (START - 2 * DAY, START, "5m", 576, 1),
        (START - 90 * MINUTE, START - 30 * MINUTE, "1m", 60, 1),
        (START - DAY - 6 * 60 * MINUTE, START + DAY, "6h", 5, 1),  # the open one is left out
    ],
)
def test_candles_are_read_in_windows(start: int, end: int, interval: str, count: int, pages: int) -> None:
    s = session(history_trades=2880)
    found = s.walk(Walk("candles", SYMBOL, start, end, interval), START)
    rows, lost = found.rows(), found.lost
    assert lost == []
    assert (len(rows), len(found.asked)) == (count, pages)
    assert all(isinstance(r, Candle) and start <= r.open_time < end and r.trades == -1 for r in rows.values())


def test_what_there_is_not_is_told() -> None:
    assert HistorySource in BitstampHistory.__mro__
    assert HISTORY.reach("trades") == DAY
    assert HISTORY.reach("candles", "1m") is None
    with pytest.raises(UsageError, match="no history of quotes"):
        HISTORY.first(Walk("quotes", SYMBOL, 0, 1), ENDPOINTS)
    with pytest.raises(UsageError, match="no candles of '7m'"):
        HISTORY.first(Walk("candles", SYMBOL, 0, 1, "7m"), ENDPOINTS)
    for cursor in ("x", "-1", "1" * 13):
        with pytest.raises(ProtocolError, match="no cursor"):
            HISTORY.next(Walk("candles", SYMBOL, 0, 1, "1m"), cursor, ENDPOINTS)


def test_requests_are_refused_before_they_are_made() -> None:
    with pytest.raises(UsageError):
        rest.trades_request(ENDPOINTS, SYMBOL, "year")
    with pytest.raises(UsageError):
        rest.candles_request(ENDPOINTS, SYMBOL, "1m", start=0, end=1, limit=1001)
    with pytest.raises(UsageError):
        rest.candles_request(ENDPOINTS, SYMBOL, "7m", start=0, end=1)
    assert rest.book_request(ENDPOINTS, SYMBOL).url.endswith("/api/v2/order_book/btcusd/?group=1")


@pytest.mark.parametrize("body", [b"", b"{", b"[]x", b'{"data":1}', b"[1]", b'[{"tid":1}]', b"\xff", b"null"])
def test_damaged_bodies_are_one_clear_error(body: bytes) -> None:
    for parse in (
        lambda: rest.parse_trades("A", body, 0),
        lambda: rest.parse_book(body),
        lambda: rest.parse_candles("A", "1m", body, 0),
    ):
        with pytest.raises(ProtocolError) as error:
            parse()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b'{"code":"404.001","reason":"Not found"}', "404.001: Not found"),
        (200, b'{"status":"error","reason":"no","code":"API0001"}', "API0001: no"),
        (200, b'{"error":"Invalid pair"}', "Invalid pair"),
        (400, b'{"code":400,"error":{"step":["bad"]}}', '{"step":["bad"]}'),
        (500, b"<html>", "failed, HTTP 500"),
        (503, b"{}", "maintenance"),
        (403, b"\xff", "refuses this address"),
    ],
)
def test_errors_are_clear_words(status: int, body: bytes, words: str) -> None:
    error = rest.check(HttpResponse(status, body), "https://www.bitstamp.net/api/v2/x?y")
    assert error is not None
    assert words in str(error)
    assert "bitstamp: /api/v2/x" in str(error)


def test_success_is_no_error() -> None:
    for body in (b"[]", w.PAIRS, w.snapshot("BTCUSD", 1).encode(), b'{"data":{"ohlc":[]}}', b"{}"):
        assert rest.check(HttpResponse(200, body), "https://x/y") is None
    limited = rest.check(HttpResponse(429, b"", {"retry-after": "x"}), "https://x/y")
    assert isinstance(limited, RateLimitError)
    assert limited.retry_after == 0


ROOT = os.environ.get("CMD_RECORDINGS", "")


@pytest.mark.skipif(not ROOT, reason="CMD_RECORDINGS is not set")
def test_recorded_bodies() -> None:
    seen = []
    with gzip.open(Path(ROOT) / "bitstamp" / "rest_gocryptotrader_mock.ndjson.gz", "rt") as lines:
        for line in lines:
            url = json.loads(line)["url"]
            body = line[line.index('"msg":') + 6 : line.rindex("}")].encode()
            assert rest.check(HttpResponse(200, body), url) is None
            if "/ohlc/" in url:
                interval = "1m" if "step=60" in url else "1d"
                candles = rest.parse_candles("BTCUSD", interval, body, START)
                # What the window of the walk stands on: with an end, the start counts for nothing.
                limit = 10 if "limit=10&" in url else 1000
                assert len(candles) in (limit, limit - 1)  # one answer repeats a candle
                assert all(c.low <= min(c.open, c.close) <= max(c.open, c.close) <= c.high for c in candles)
                end = int(url.partition("end=")[2].partition("&")[0]) * SECOND
                assert candles[-1].open_time <= end < candles[-1].close_time
                seen.append("ohlc")
            elif "/transactions/" in url:
                trades = rest.parse_trades("BTCUSD", body, START)
                assert len(trades) == 383
                assert {t.side for t in trades} == {"buy", "sell"}
                seen.append("transactions")
            elif "/order_book/" in url and b"microtimestamp" in body:
                assert rest.parse_book(body).bids
                seen.append("order_book")
            elif "pairs-info" in url:
                assert {i.unified for i in BITSTAMP.parse_instruments(body)} >= {"BTC-USD", "BTC-EUR"}
                seen.append("pairs")
    assert set(seen) >= {"ohlc", "transactions", "pairs"}
    assert seen.count("ohlc") == 4
