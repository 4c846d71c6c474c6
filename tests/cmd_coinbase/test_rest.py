"""Requests, bodies and errors of both REST interfaces."""

from __future__ import annotations

from contextlib import suppress
from math import isnan
from typing import Any

import pytest
from coinbase_wire import BTC, text
from hypothesis import given
from hypothesis import strategies as st

from cmd_coinbase import ADVANCED, EXCHANGE
from cmd_coinbase import rest as r
from cmd_common.errors import BlockedError, ProtocolError, RateLimitError, UsageError, VenueError
from cmd_common.http import HttpResponse
from cmd_common.records import INEXACT, REST

E, A = EXCHANGE.market, ADVANCED.market
EE, AE = EXCHANGE.endpoints, ADVANCED.endpoints
SECOND = 1_000_000_000
T = 1_767_225_600 * SECOND


@pytest.mark.parametrize(
    ("request_", "url"),
    [
        (r.products_request(E, EE), "https://api.exchange.coinbase.com/products"),
        (r.products_request(A, AE), "https://api.coinbase.com/api/v3/brokerage/market/products?product_type=SPOT"),
        (r.book_request(E, EE, BTC), "https://api.exchange.coinbase.com/products/BTC-USD/book?level=2"),
        (r.book_request(E, EE, BTC, levels=1), "https://api.exchange.coinbase.com/products/BTC-USD/book?level=1"),
        (r.book_request(A, AE, BTC, levels=50),
         "https://api.coinbase.com/api/v3/brokerage/market/product_book?product_id=BTC-USD&limit=50"),
        (r.trades_request(E, EE, BTC), "https://api.exchange.coinbase.com/products/BTC-USD/trades?limit=1000"),
        (r.trades_request(E, EE, BTC, after=7, limit=1),
         "https://api.exchange.coinbase.com/products/BTC-USD/trades?limit=1&after=7"),
        (r.trades_request(A, AE, BTC, start=T, end=T + 1),
         "https://api.coinbase.com/api/v3/brokerage/market/products/BTC-USD/ticker?limit=1000&start=1767225600&end=1767225601"),
        (r.candles_request(E, EE, BTC, "1m", start=T, end=T + 299 * 60 * SECOND),
         "https://api.exchange.coinbase.com/products/BTC-USD/candles?granularity=60"
         "&start=2026-01-01T00%3A00%3A00Z&end=2026-01-01T04%3A59%3A00Z"),
        (r.candles_request(A, AE, BTC, "2h", start=T, end=T),
         "https://api.coinbase.com/api/v3/brokerage/market/products/BTC-USD/candles"
         "?granularity=TWO_HOUR&start=1767225600&end=1767225600"),
        (r.book_request(E, EE, "A/B?"), "https://api.exchange.coinbase.com/products/A%2FB%3F/book?level=2"),
    ],
)  # fmt: skip
def test_requests(request_: Any, url: str) -> None:
    assert (request_.url, request_.weight, request_.method) == (url, 1, "GET")


@pytest.mark.parametrize(
    "call",
    [
        lambda: r.book_request(E, EE, BTC, levels=5),
        lambda: r.book_request(A, AE, BTC, levels=0),
        lambda: r.trades_request(E, EE, BTC, limit=1001),
        lambda: r.trades_request(E, EE, BTC, limit=0),
        lambda: r.trades_request(E, EE, BTC, start=1),
        lambda: r.trades_request(A, AE, BTC, after=1),
        lambda: r.candles_request(E, EE, BTC, "30m", start=T, end=T),
        lambda: r.candles_request(E, EE, BTC, "1m", start=T, end=T + 300 * 60 * SECOND),
        lambda: r.candles_request(A, AE, BTC, "1m", start=T, end=T + 350 * 60 * SECOND),
        lambda: r.candles_request(A, AE, BTC, "1m", start=T, end=T - 60 * SECOND),
    ],
)
def test_what_the_exchange_refuses_is_a_usage_error(call: Any) -> None:
    with pytest.raises(UsageError):
        call()


def test_trades_have_the_takers_side_and_their_order() -> None:
    rows = [
        {"trade_id": 2, "side": "sell", "size": "0.10000000", "price": "1E-7", "time": "2026-01-01T00:00:01.000001Z"},
        {"trade_id": 1, "side": "buy", "size": "12345678.123456789", "price": "2", "time": "2026-01-01T00:00:00Z"},
    ]
    new, old = r.parse_trades(E, BTC, text(rows).encode(), 5)
    assert (new.trade_id, new.trade_seq, new.side, new.price, new.ts_event) == ("2", 2, "buy", 1e-7, T + SECOND + 1000)
    assert (old.side, old.flags, new.flags, old.ts_recv) == ("sell", REST | INEXACT, REST, 5)
    upper = [{**row, "trade_id": str(row["trade_id"]), "side": str(row["side"]).upper()} for row in rows]
    assert [t.side for t in r.parse_trades(A, BTC, text({"trades": upper}).encode(), 5)] == ["buy", "sell"]


def test_books_with_numbers_ids_and_exponents() -> None:
    body = text(
        {"bids": [["1.5", "2E1", 3]], "asks": [["1.6", "3", "a-uuid"]], "sequence": 9, "time": "2026-01-01T00:00:00Z"}
    )
    book = r.parse_book(E, body.encode())
    assert (book.id, list(book.bids), list(book.asks), book.ts) == (9, [(1.5, 20.0)], [(1.6, 3.0)], T)
    level = {"price": "1.5", "size": "2"}
    book = r.parse_book(A, text({"pricebook": {"product_id": BTC, "bids": [level], "asks": [], "time": ""}}).encode())
    assert (book.id, list(book.bids), list(book.asks), book.ts) == (0, [(1.5, 2.0)], [], None)


def test_candles_take_their_numbers_from_the_text() -> None:
    body = b"[[1767225660,0.1,4e0,2,3,12345678.123456789],[1767225600,1,1,1,1,1]]"
    first, second = r.parse_candles(E, BTC, "1m", body, T + 61 * SECOND)
    assert (first.open_time, first.close_time, first.state) == (T, T + 60 * SECOND, "final")
    assert (second.low, second.high, second.open, second.close, second.state) == (0.1, 4.0, 2.0, 3.0, "provisional")
    assert second.flags == REST | INEXACT
    assert (first.trades, isnan(first.quote_volume), isnan(first.taker_buy_volume)) == (-1, True, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[[1]]", b"[[1767225600,1,1,1,1,-1]]", b"[[1767225601,1,1,1,1,1]]", b'[["x",1,1,1,1,1]]', b"null",
     b"[" * 5000],
)  # fmt: skip
def test_damaged_candles_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        r.parse_candles(E, BTC, "1m", body, T)


@given(st.binary(max_size=60))
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    parsers: list[Any] = [
        lambda m, b: r.parse_trades(m, BTC, b, T),
        lambda m, b: r.parse_candles(m, BTC, "1m", b, T),
        r.parse_book,
    ]
    for market in (E, A):
        for parse in parsers:
            with suppress(ProtocolError):
                assert parse(market, body) is not None


# Errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (404, b'{"message":"NotFound"}', VenueError, "(NotFound)"),
        (400, b'{"error":"INVALID_ARGUMENT","error_details":"bad","message":"bad"}', VenueError, "(INVALID_ARGUMENT bad)"),
        (429, b'{"message":"Public rate limit exceeded"}', RateLimitError, "asked too often"),
        (403, b"<html>", BlockedError, "refuses this address"),
        (451, b"", BlockedError, "region"),
        (503, b'{"message":"maintenance"}', VenueError, "maintenance"),
        (500, b"[", VenueError, "failed"),
    ],
)  # fmt: skip
def test_errors_in_words(status: int, body: bytes, kind: Any, words: str) -> None:
    for exchange in (EXCHANGE, ADVANCED):
        error = exchange.check(HttpResponse(status, body), "https://x/products?y=1")
        assert type(error) is kind
        assert words in str(error)
        assert "/products" in str(error)
        assert "\n" not in str(error)


def test_a_limit_without_a_time_waits_a_second() -> None:
    error = EXCHANGE.check(HttpResponse(429, b""), "https://x/")
    assert isinstance(error, RateLimitError)
    assert error.retry_after == SECOND
    assert EXCHANGE.check(HttpResponse(200, b"[]"), "https://x/") is None
    assert EXCHANGE.used_weight(HttpResponse(200)) is None
