"""REST: requests with their limits and weights, bodies, errors in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmd_binance import rest
from cmd_binance.instruments import COINM, SPOT, USDM, Market
from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.http import HttpResponse
from cmd_common.recording import read
from cmd_common.records import INEXACT, REST, AggTrade, Candle, Trade

ENDPOINTS = Endpoints(ws="ws://h", rest="http://h")
NOW = 1_767_225_600_000_000_000
HOUR = 3_600_000_000_000


@pytest.mark.parametrize(
    ("market", "limit", "url", "weight"),
    [
        (SPOT, None, "http://h/api/v3/depth?symbol=BTCUSDT&limit=5000", 250),
        (SPOT, 1000, "http://h/api/v3/depth?symbol=BTCUSDT&limit=1000", 50),
        (SPOT, 500, "http://h/api/v3/depth?symbol=BTCUSDT&limit=500", 25),
        (SPOT, 100, "http://h/api/v3/depth?symbol=BTCUSDT&limit=100", 5),
        (USDM, None, "http://h/fapi/v1/depth?symbol=BTCUSDT&limit=1000", 20),
        (USDM, 50, "http://h/fapi/v1/depth?symbol=BTCUSDT&limit=50", 2),
        (USDM, 60, "http://h/fapi/v1/depth?symbol=BTCUSDT&limit=100", 5),
        (COINM, 500, "http://h/dapi/v1/depth?symbol=BTCUSDT&limit=500", 10),
    ],
)
def test_depth_requests(market: Market, limit: int | None, url: str, weight: int) -> None:
    request = rest.depth_request(market, ENDPOINTS, "BTCUSDT", limit)
    assert (request.url, request.weight) == (url, weight)
    assert dict(request.headers) == ({"X-MBX-TIME-UNIT": "MICROSECOND"} if market is SPOT else {})


def test_times_are_sent_in_the_markets_unit() -> None:
    spot = rest.agg_trades_request(SPOT, ENDPOINTS, "X", start=NOW, end=NOW + HOUR - 1)
    assert "startTime=1767225600000000&endTime=1767229199999999" in spot.url
    futures = rest.agg_trades_request(USDM, ENDPOINTS, "X", start=NOW, end=NOW + HOUR - 1)
    assert "startTime=1767225600000&endTime=1767229199999" in futures.url
    assert (spot.weight, futures.weight) == (4, 20)


@pytest.mark.parametrize(
    ("limit", "weight"), [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (1500, 10)]
)
def test_futures_klines_weigh_by_limit(limit: int, weight: int) -> None:
    assert rest.klines_request(USDM, ENDPOINTS, "X", "1m", limit=limit).weight == weight
    if limit <= 1000:
        assert rest.klines_request(SPOT, ENDPOINTS, "X", "1m", limit=limit).weight == 2


def test_limits_of_requests_are_kept() -> None:
    wrong = [
        lambda: rest.depth_request(SPOT, ENDPOINTS, "X", 5001),
        lambda: rest.depth_request(USDM, ENDPOINTS, "X", 1001),
        lambda: rest.depth_request(USDM, ENDPOINTS, "X", 0),
        lambda: rest.agg_trades_request(SPOT, ENDPOINTS, "X", limit=1001),
        lambda: rest.agg_trades_request(USDM, ENDPOINTS, "X", from_id=1, start=NOW),
        lambda: rest.agg_trades_request(USDM, ENDPOINTS, "X", start=NOW, end=NOW + HOUR),
        lambda: rest.klines_request(SPOT, ENDPOINTS, "X", "1m", limit=1001),
        lambda: rest.klines_request(USDM, ENDPOINTS, "X", "1s"),
        lambda: rest.klines_request(COINM, ENDPOINTS, "X", "1m", start=0, end=4801 * HOUR),
        lambda: rest.historical_trades_request(USDM, ENDPOINTS, "X", from_id=1),
    ]
    for make in wrong:
        with pytest.raises(UsageError):
            make()
    assert rest.klines_request(SPOT, ENDPOINTS, "X", "1s").weight == 2
    with_key = rest.historical_trades_request(USDM, ENDPOINTS, "X", from_id=1, api_key="k")
    assert (with_key.headers["X-MBX-APIKEY"], with_key.weight) == ("k", 200)
    assert rest.time_request(SPOT, ENDPOINTS).url == "http://h/api/v3/time"
    assert rest.exchange_info_request(SPOT, ENDPOINTS).weight == 20
    assert rest.trades_request(SPOT, ENDPOINTS, "X").weight == 25


def test_symbols_are_escaped() -> None:
    assert "symbol=%E5%B8%81USDT&" in rest.depth_request(SPOT, ENDPOINTS, "币USDT").url


def test_real_bodies(recordings: Path) -> None:
    counts: dict[str, int] = {}
    for folder, market in (("binance_spot", SPOT), ("binance_usdm", USDM), ("binance_coinm", COINM)):
        for line in read(str(recordings / folder / "rest_gocryptotrader_mock.ndjson.gz")):
            assert line.url is not None
            path = line.url.split("?")[0].rsplit("/", 1)[1]
            body = line.text.encode()
            if '"":' in line.text or line.text.startswith('{"code"'):
                continue  # two bodies were damaged by the project that kept them
            counts[path] = counts.get(path, 0) + 1
            if path == "aggTrades":
                aggs = rest.parse_agg_trades(market, "X", body, NOW)
                assert aggs
                assert [a.trade_seq for a in aggs] == sorted(a.trade_seq or 0 for a in aggs)
                assert all(a.flags == REST and a.first_trade_id <= a.last_trade_id for a in aggs)
            elif path in ("trades", "historicalTrades"):
                trades = rest.parse_trades(market, "X", body, NOW)
                assert trades
                assert all(t.price > 0 and t.side in ("buy", "sell") for t in trades)
            elif path == "klines":
                interval = line.url.split("interval=")[1].split("&")[0]
                candles = rest.parse_klines(market, "X", interval, body, NOW)
                assert candles
                assert all(c.low <= min(c.open, c.close) <= max(c.open, c.close) <= c.high for c in candles)
                assert all(c.close_time > c.open_time and c.state == "final" for c in candles)
                assert all(c.close_time % 60_000_000_000 == 0 for c in candles)
            elif path == "depth":
                depth = rest.parse_depth(body)
                assert depth.bids[0][0] < depth.asks[0][0]
    assert {p: counts[p] for p in ("aggTrades", "trades", "klines", "depth")} == {
        "aggTrades": counts["aggTrades"],
        "trades": 7,
        "klines": counts["klines"],
        "depth": 7,
    }
    assert counts["aggTrades"] >= 15
    assert counts["klines"] >= 15


def test_rows() -> None:
    agg = {"a": 5, "p": "1.5", "q": "2", "f": 7, "l": 9, "T": 1_767_225_600_000_001, "m": True, "M": True}
    assert rest.parse_agg_trades(SPOT, "X", json.dumps([agg]).encode(), NOW) == [
        AggTrade(NOW + 1000, NOW, "binance-spot", "X", "5", 5, 7, 9, 1.5, 2.0, "sell", REST)
    ]
    trade = {"id": 3, "price": "123456789.123456789", "qty": "2", "time": 1_767_225_600_000, "isBuyerMaker": False}
    assert rest.parse_trades(USDM, "X", json.dumps([trade]).encode(), NOW) == [
        Trade(NOW, NOW, "binance-usdm", "X", "3", 3, 123456789.123456789, 2.0, "buy", REST | INEXACT)
    ]
    row = [1_767_225_600_000, "1", "3", "0.5", "2", "10", 1_767_225_659_999, "20", 4, "5", "9", "0"]
    early, late = (rest.parse_klines(USDM, "X", "1m", json.dumps([row]).encode(), now) for now in (NOW + 1, NOW + HOUR))
    minute = 60_000_000_000
    assert late == [
        Candle(NOW, NOW + minute, NOW + minute, NOW + HOUR, "binance-usdm", "X", "1m", "exchange", "final",
               1.0, 3.0, 0.5, 2.0, 10.0, 20.0, 4, 5.0, 9.0, REST)
    ]  # fmt: skip
    assert (early[0].state, early[0].ts_event) == ("provisional", NOW + 1)
    micro = [1_767_225_600_000_000, *row[1:6], 1_767_225_659_999_999, *row[7:]]
    (candle,) = rest.parse_klines(SPOT, "X", "1m", json.dumps([micro]).encode(), NOW)
    assert (candle.open_time, candle.close_time) == (NOW, NOW + minute)
    assert rest.parse_time(b'{"serverTime":1767225600000000}') == NOW


@pytest.mark.parametrize("bad", [b"", b"{", b"null", b"{}", b"[{}]", b'[["x"]]', b'{"code":-1,"msg":"x"}', b"[" * 9999])
def test_other_bodies_are_protocol_errors(bad: bytes) -> None:
    for parse in (
        lambda: rest.parse_agg_trades(SPOT, "X", bad, NOW),
        lambda: rest.parse_trades(SPOT, "X", bad, NOW),
        lambda: rest.parse_klines(SPOT, "X", "1m", bad, NOW),
        lambda: rest.parse_depth(bad),
        lambda: rest.parse_time(bad),
    ):
        with pytest.raises(ProtocolError):
            parse()


@pytest.mark.parametrize("price", ["-1", "0", "NaN", "inf", "1e400", "abc"])
def test_impossible_levels_are_protocol_errors(price: str) -> None:
    body = json.dumps({"lastUpdateId": 1, "bids": [[price, "1"]], "asks": []}).encode()
    with pytest.raises(ProtocolError):
        rest.parse_depth(body)


# Responses


def test_rate_limits_say_when_to_come_back() -> None:
    body = b'{"code":-1003,"msg":"Too many requests; current limit of IP is 6000 requests per minute."}'
    error = rest.check(SPOT, HttpResponse(429, body, {"retry-after": "13"}), "https://h/api/v3/depth?symbol=X")
    assert isinstance(error, RateLimitError)
    assert (error.status, error.retry_after) == (429, 13_000_000_000)
    assert str(error) == (
        "binance-spot: /api/v3/depth: the exchange is asked too often, HTTP 429 (-1003: Too many requests; current "
        "limit of IP is 6000 requests per minute.); waits 13 s before the next request; fewer symbols or a smaller "
        "snapshot_limit need less weight"
    )
    banned = rest.check(SPOT, HttpResponse(418, b"", {"retry-after": "120"}), "https://h/api/v3/depth")
    assert isinstance(banned, RateLimitError)
    assert "banned" in str(banned)
    silent = rest.check(SPOT, HttpResponse(429), "https://h/x")
    assert isinstance(silent, RateLimitError)
    assert silent.retry_after == 0


@pytest.mark.parametrize(("status", "word"), [(403, "firewall"), (451, "region")])
def test_blocked_addresses_are_told_what_to_do(status: int, word: str) -> None:
    error = rest.check(USDM, HttpResponse(status, b"<html>no</html>"), "https://h/fapi/v1/time")
    assert isinstance(error, BlockedError)
    assert word in str(error)
    assert "--proxy" in str(error)
    assert "--endpoint" in str(error)


def test_other_errors_keep_the_exchanges_words() -> None:
    error = rest.check(
        COINM, HttpResponse(400, b'{"code":-4088,"msg":"Maximum time interval is 200 days."}'), "https://h/k"
    )
    assert type(error) is VenueError
    assert "-4088: Maximum time interval is 200 days." in str(error)
    assert error.status == 400
    assert "failed" in str(rest.check(SPOT, HttpResponse(502, b"\xff"), "https://h/k"))
    assert rest.check(SPOT, HttpResponse(200, b"{}"), "https://h/k") is None


@pytest.mark.parametrize(("text", "used"), [("1234", 1234), ("", None), ("x", None), ("²", None), ("-1", None)])
def test_used_weight(text: str, used: int | None) -> None:
    assert rest.used_weight(HttpResponse(200, b"", {"x-mbx-used-weight-1m": text})) == used
