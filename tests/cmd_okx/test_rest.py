"""REST: requests with their weights, bodies, errors in words; history pages without an emulator."""

from __future__ import annotations

import json
from math import isnan
from typing import Any

import okx_wire as w
import pytest
from okx_wire import MS, NOW, SPOT

from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.exchange import Endpoints
from cmd_common.feed_base import ParsedBook
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import INEXACT, REST, Trade
from cmd_okx import OKX, rest
from cmd_okx._history import OkxHistory

ENDPOINTS = Endpoints(ws="ws://h", rest="http://h")
MINUTE = 60_000_000_000
DAY = 1440 * MINUTE


def test_requests_and_weights() -> None:
    cases = [
        (rest.instruments_request(ENDPOINTS, "SWAP"), "public/instruments?instType=SWAP", 10),
        (rest.book_request(ENDPOINTS, SPOT), "market/books?instId=BTC-USDT&sz=400", 5),
        (rest.trades_request(ENDPOINTS, SPOT), "market/trades?instId=BTC-USDT&limit=500", 2),
        (rest.history_trades_request(ENDPOINTS, SPOT, before_id=7), "market/history-trades?instId=BTC-USDT&type=1&after=7&limit=100", 10),
        (rest.history_trades_request(ENDPOINTS, SPOT, before_time=NOW + 1), f"market/history-trades?instId=BTC-USDT&type=2&after={MS + 1}&limit=100", 10),
        (rest.candles_request(ENDPOINTS, SPOT, "1d", before_time=NOW), f"market/history-candles?instId=BTC-USDT&bar=1Dutc&after={MS}&limit=100", 10),
    ]  # fmt: skip
    for request, url, weight in cases:
        assert (request.url, request.weight) == (f"http://h/api/v5/{url}", weight)
    # 20 requests in two seconds of a minute's budget of 6,000.
    assert rest.WEIGHT_PER_MINUTE == 20 * 30 * 10


def test_wrong_requests_are_usage_errors() -> None:
    wrong = [
        lambda: rest.instruments_request(ENDPOINTS, "OPTION"),
        lambda: rest.book_request(ENDPOINTS, SPOT, 401),
        lambda: rest.trades_request(ENDPOINTS, SPOT, limit=0),
        lambda: rest.history_trades_request(ENDPOINTS, SPOT),
        lambda: rest.history_trades_request(ENDPOINTS, SPOT, before_id=1, before_time=1),
        lambda: rest.candles_request(ENDPOINTS, SPOT, "3d", before_time=1),
    ]
    for make in wrong:
        with pytest.raises(UsageError):
            make()


def test_books() -> None:
    row = {"asks": [["101", "1", "0", "1"]], "bids": [["99", "2", "0", "3"]], "ts": str(MS), "seqId": 9}
    assert rest.parse_book(w.body(row)) == ParsedBook(9, [(99.0, 2.0)], [(101.0, 1.0)], NOW, True)
    del row["seqId"]
    old = rest.parse_book(w.body(row), 1)
    assert (old.id, old.complete) == (-1, False)


def test_trades_and_candles() -> None:
    row = {**w.trade_row(SPOT, 5, side="sell", px="123456789.123456789"), "newKey": 1}
    assert rest.parse_trades(SPOT, w.body(row), NOW) == [
        Trade(NOW + 5_000_000, NOW, "okx", SPOT, "5", 5, 123456789.123456789, 0.5, "sell", REST | INEXACT)
    ]
    early, late = (rest.parse_candles(SPOT, "1m", w.body([*w.CANDLE[:8], "1"]), NOW + d)[0] for d in (-1, 1))
    assert (early.state, early.ts_event) == ("provisional", NOW - 1)
    assert (late.state, late.ts_event, late.close_time, late.quote_volume) == ("final", NOW, NOW, 1260.5)
    assert late.trades == -1
    assert isnan(late.taker_buy_volume)
    (unconfirmed,) = rest.parse_candles(SPOT, "1m", w.body(w.CANDLE), NOW + 1)
    assert unconfirmed.state == "provisional"


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"null",
        b"{}",
        b"[]",
        w.body({}),
        w.body(["x"]),
        w.body(code="1", msg="no"),
        b"[" * 9999,
        w.body([1] * 9),
    ],
)
def test_other_bodies_are_protocol_errors(bad: bytes) -> None:
    for parse in (
        lambda: rest.parse_trades(SPOT, bad, NOW),
        lambda: rest.parse_candles(SPOT, "1m", bad, NOW),
        lambda: rest.parse_book(bad),
    ):
        with pytest.raises(ProtocolError) as error:
            parse()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("price", ["-1", "0", "NaN", "inf", "1e400", "abc", ""])
def test_impossible_prices_are_protocol_errors(price: str) -> None:
    for parse in (
        lambda: rest.parse_trades(SPOT, w.body(w.trade_row(SPOT, 1, px=price)), NOW),
        lambda: rest.parse_book(w.body({"asks": [], "bids": [[price, "1", "0", "1"]], "ts": str(MS)})),
    ):
        with pytest.raises(ProtocolError):
            parse()
    if price != "0":
        with pytest.raises(ProtocolError):
            rest.parse_candles(SPOT, "1m", w.body([w.CANDLE[0], price, *w.CANDLE[2:]]), NOW)


def test_bodies_of_another_instrument_or_interval_are_protocol_errors() -> None:
    with pytest.raises(ProtocolError, match="got ETH-USDT"):
        rest.parse_trades(SPOT, w.body(w.trade_row("ETH-USDT", 1)), NOW)
    with pytest.raises(ProtocolError, match="does not open"):
        rest.parse_candles(SPOT, "1h", w.body([str(MS - 60_000), *w.CANDLE[1:]]), NOW)
    with pytest.raises(ProtocolError):
        rest.parse_candles(SPOT, "1h", w.body(["9200000000000000", *w.CANDLE[1:]]), NOW)


# Responses


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (200, "50011", RateLimitError, "asked too often"),
        (429, "50011", RateLimitError, "asked too often"),
        (200, "50061", RateLimitError, "asked too often"),
        (200, "50001", VenueError, "maintenance"),
        (503, "50026", VenueError, "maintenance"),
        (200, "51001", VenueError, "does not know the instrument"),
        (200, "51000", VenueError, "refused the request"),
        (400, "50014", VenueError, "refused the request"),
    ],
)
def test_codes_become_typed_errors(status: int, code: str, kind: type[VenueError], words: str) -> None:
    error = OKX.check(HttpResponse(status, w.body(code=code, msg="so it is")), "https://h/api/v5/market/books?x=1")
    assert type(error) is kind
    assert words in str(error)
    assert f"({code}: so it is)" in str(error)
    assert "/api/v5/market/books" in str(error)
    assert error.status >= 400  # what passes is told apart by it, and 200 is no error


def test_maintenance_may_pass_and_unknown_instruments_do_not() -> None:
    from cmd_feed.scheduler import passing

    busy = OKX.check(HttpResponse(200, w.body(code="50001", msg="x")), "https://h/x")
    unknown = OKX.check(HttpResponse(200, w.body(code="51001", msg="x")), "https://h/x")
    assert busy is not None
    assert unknown is not None
    assert passing(busy)
    assert not passing(unknown)


def test_success_and_bodies_that_are_no_envelope() -> None:
    assert OKX.check(HttpResponse(200, w.body({})), "https://h/x") is None
    assert OKX.check(HttpResponse(200, b'{"msg":"","code":"0","data":[]}'), "https://h/x") is None
    assert OKX.check(HttpResponse(200, b"PK\x03\x04"), "https://h/x") is None
    assert "HTTP 500" in str(OKX.check(HttpResponse(500, b"<html>\n</html>"), "https://h/x"))
    assert isinstance(OKX.check(HttpResponse(403, b""), "https://h/x"), BlockedError)
    limited = OKX.check(HttpResponse(429, b"", {"retry-after": "7"}), "https://h/x")
    assert isinstance(limited, RateLimitError)
    assert limited.retry_after == 7_000_000_000


# History pages


def page(rows: list[Any], cursor: str = "", **changes: Any) -> Any:
    walk = Walk(**{"table": "trades", "symbol": SPOT, "start": NOW, "end": NOW + DAY, **changes})
    now = changes.get("now", NOW + 2 * DAY)
    return OkxHistory().page(walk, cursor, HttpResponse(200, w.body(*rows)), now)


def test_pages_go_back_by_id_until_the_start() -> None:
    rows = [w.trade_row(SPOT, i, ts=str(MS + i)) for i in (12, 11, 10)]
    first = page(rows)
    assert ([r.trade_seq for r in first.records], first.cursor) == ([12, 11, 10], "10")
    last = page([w.trade_row(SPOT, 9, ts=str(MS)), w.trade_row(SPOT, 8, ts=str(MS - 1))], "10")
    assert ([r.trade_seq for r in last.records], last.cursor) == ([9], None)
    assert page([], "10").cursor is None


def test_what_is_older_than_three_months_is_reported_lost() -> None:
    walk = Walk("trades", SPOT, NOW, NOW + DAY)
    history = OkxHistory()
    young = history.page(walk, "", HttpResponse(200, w.body()), NOW + 80 * DAY)
    old = history.page(walk, "", HttpResponse(200, w.body()), NOW + 100 * DAY)
    assert (young.lost, old.lost) == ("", "the exchange keeps trades for three months")
    assert history.reach("trades") == 90 * DAY
    assert history.reach("candles", "1m") is None


def test_a_page_that_does_not_go_back_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="the page before 10 begins at 10"):
        page([w.trade_row(SPOT, 10, ts=str(MS + 5))], "10")


def test_open_candles_are_left_out() -> None:
    rows = [[str(MS + k * 60_000), *w.CANDLE[1:8], "1"] for k in (2, 1, 0)]
    walk = Walk("candles", SPOT, NOW, NOW + 3 * MINUTE, "1m")
    found = OkxHistory().page(walk, "", HttpResponse(200, w.body(*rows)), NOW + 2 * MINUTE + 1)
    assert [r.open_time for r in found.records] == [NOW + MINUTE, NOW]
    assert found.cursor is None
    more = OkxHistory().page(walk, "", HttpResponse(200, w.body(*rows[:2])), NOW + DAY)
    assert more.cursor == str(MS + 60_000)


def test_walks_that_cannot_be_are_usage_errors() -> None:
    history = OkxHistory()
    with pytest.raises(UsageError):
        history.first(Walk("agg_trades", SPOT, 0, 1), ENDPOINTS)
    with pytest.raises(UsageError):
        history.first(Walk("candles", SPOT, 0, 1, "7m"), ENDPOINTS)
    with pytest.raises(UsageError):
        history.next(Walk("trades", SPOT, 0, 1), "x", ENDPOINTS)
    assert "type=1&after=7" in history.next(Walk("trades", SPOT, 0, 1), "7", ENDPOINTS).url
    assert "bar=1m&after=7" in history.next(Walk("candles", SPOT, 0, 1, "1m"), "7", ENDPOINTS).url
    assert json.loads(w.body())["code"] == "0"
