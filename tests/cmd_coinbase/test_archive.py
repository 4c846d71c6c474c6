"""History over REST: walks against the own emulator, against odd servers, and killed on the way."""

from __future__ import annotations

import json
from math import isnan
from typing import Any

import pytest
from coinbase_session import ENDPOINTS, SECOND, CoinbaseSession, simulated
from coinbase_wire import BTC
from hypothesis import given, settings
from hypothesis import strategies as st

from cmd_coinbase import ADVANCED, EXCHANGE
from cmd_coinbase._times import iso_text
from cmd_coinbase.archive import CoinbaseHistory
from cmd_common.errors import ProtocolError, UsageError
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import REST

DAY = 86_400 * SECOND
BOTH = pytest.mark.parametrize("exchange", [EXCHANGE, ADVANCED], ids=["exchange", "advanced"])
FUTURE = 2_000_000_000 * SECOND


def session(exchange: Any, **options: Any) -> CoinbaseSession:
    return CoinbaseSession(exchange, simulated(exchange, history_trades=3000, **options))


def days(s: CoinbaseSession) -> list[int]:
    return [s.emulator.market.sim.start // DAY * DAY - n * DAY for n in (2, 1)]


@BOTH
def test_two_days_of_trades_are_complete(exchange: Any) -> None:
    s = session(exchange)
    for start in days(s):
        walk = Walk("trades", BTC, start, start + DAY)
        records, _, asked, _ = s.walk(walk, FUTURE)
        truth = {t.id: t for t in s.emulator.market.trades_between(BTC, start, start + DAY)}
        unique = {t.trade_seq: t for t in records}
        assert sorted(unique) == sorted(truth)
        assert len(truth) == 3000
        for id_, trade in unique.items():
            one = truth[id_]
            assert (trade.ts_event // 1000, trade.price, trade.quantity, trade.side) == (
                one.ts // 1000, float(one.price), float(one.quantity), one.side,
            )  # fmt: skip
            assert trade.flags & REST
        assert all(start <= t.ts_event < start + DAY for t in records)
        assert len(asked) < 40
    if exchange is EXCHANGE:
        assert len(records) == len(unique)


@BOTH
def test_a_walk_that_is_killed_goes_on_from_its_last_cursor(exchange: Any) -> None:
    s = session(exchange)
    start = days(s)[0]
    walk = Walk("trades", BTC, start, start + DAY)
    whole, _, asked, _ = s.walk(walk, FUTURE)
    assert len(asked) > 4
    for at in range(1, len(asked)):
        fresh = CoinbaseSession(exchange, s.emulator)  # another process: nothing but the cursor is known
        head, _, _, cursor = fresh.walk(walk, FUTURE, most=at)
        assert isinstance(cursor, str)
        tail, _, _, end = fresh.walk(walk, FUTURE, cursor=cursor)
        assert end is None
        assert head + tail == whole


@BOTH
@pytest.mark.parametrize("hours", [(0, 1), (3, 4), (23, 24), (11, 11)])
def test_parts_of_a_day(exchange: Any, hours: tuple[int, int]) -> None:
    s = session(exchange)
    start = days(s)[0] + hours[0] * 3600 * SECOND + 7_000_001
    end = start + max(1, (hours[1] - hours[0]) * 3600 * SECOND)
    records, *_ = s.walk(Walk("trades", BTC, start, end), FUTURE)
    truth = [t.id for t in s.emulator.market.trades_between(BTC, start, end)]
    assert sorted({t.trade_seq for t in records}) == truth


@BOTH
def test_the_newest_trades_need_no_search(exchange: Any) -> None:
    s = session(exchange)
    clock = s.emulator.market.clock
    records, _, asked, _ = s.walk(Walk("trades", BTC, clock - 3600 * SECOND, FUTURE), clock)
    assert len(asked) <= 3
    newest = s.emulator.market.latest_trades(BTC, 1)[0]
    assert max(t.trade_seq for t in records) == newest.id


@BOTH
def test_before_the_first_trade_and_after_the_last_there_is_nothing(exchange: Any) -> None:
    s = session(exchange)
    first = days(s)[0] - 30 * DAY
    for start in (first, FUTURE):
        records, _, asked, _ = s.walk(Walk("trades", BTC, start, start + DAY), FUTURE + 2 * DAY)
        assert records == []
        assert len(asked) < 60


@BOTH
@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "1h", "6h", "1d"])
def test_candles_of_two_days(exchange: Any, interval: str) -> None:
    s = session(exchange)
    first, second = days(s)
    walk = Walk("candles", BTC, first, second + DAY, interval)
    records, _, asked, _ = s.walk(walk, FUTURE)
    truth = {c.open_time: c for c in s.emulator.market.candles(BTC, interval, first, second + DAY - 1) if c.count}
    assert sorted(c.open_time for c in records) == sorted(truth)
    for candle in records:
        one = truth[candle.open_time]
        assert (candle.open, candle.high, candle.low, candle.close, candle.volume) == tuple(
            map(float, (one.open, one.high, one.low, one.close, one.volume))
        )
        assert (candle.state, candle.source, candle.trades) == ("final", "exchange", -1)
        assert isnan(candle.quote_volume)
    if interval == "1m":
        most = 300 if exchange is EXCHANGE else 350
        assert len(asked) == -(-2880 // most)


@BOTH
def test_candles_that_are_not_over_are_left_out(exchange: Any) -> None:
    s = session(exchange)
    start = days(s)[1]
    now = start + 10 * 60 * SECOND + 30 * SECOND
    if exchange is EXCHANGE:  # the last minutes may come from a cache: the walk waits for it once
        records, _, asked, _ = s.walk(Walk("candles", BTC, start, start + 8 * 60 * SECOND, "1m"), now)
        assert asked == ["", f"late:{start}"]
        assert max(c.open_time for c in records) < start + 8 * 60 * SECOND
    records, _, asked, _ = s.walk(Walk("candles", BTC, start, start + DAY, "1m"), now)
    assert max(c.close_time for c in records) <= now
    assert asked == [""]


@BOTH
def test_what_the_venue_does_not_have_is_a_usage_error(exchange: Any) -> None:
    history = exchange.history
    for walk in (
        Walk("quotes", BTC, 0, DAY),
        Walk("trades", BTC, DAY, DAY),
        Walk("candles", BTC, 0, DAY, "7m"),
        Walk("candles", BTC, 0, DAY, ""),
    ):
        with pytest.raises(UsageError):
            history.first(walk, ENDPOINTS)
    assert history.reach("trades") is None
    assert history.contiguous
    assert history.sparse_candles


@pytest.mark.parametrize("table", ["trades", "candles"])
@pytest.mark.parametrize("cursor", ["x", "after:", "after:-1", "seek:1", "from:x", "after:1:2", "late:5:5", "after:²"])
def test_a_damaged_cursor_is_an_error(table: str, cursor: str) -> None:
    history: Any = EXCHANGE.history
    with pytest.raises(ProtocolError):
        history.next(Walk(table, BTC, 0, DAY, "1m"), cursor, ENDPOINTS)


# Odd servers


def body(*trades: tuple[int, int]) -> HttpResponse:
    rows = [
        {"trade_id": i, "side": "buy", "size": "1", "price": "2", "time": iso_text(ts)} for i, ts in trades
    ]  # fmt: skip
    return HttpResponse(200, json.dumps(rows).encode())


class Odd:
    """Trades as (id, ns); ids may be missing and times a little out of order. Answers as the exchange."""

    def __init__(self, trades: list[tuple[int, int]]) -> None:
        self.trades = sorted(trades)

    def answer(self, url: str) -> HttpResponse:
        query = dict(part.split("=") for part in url.partition("?")[2].split("&"))
        below = int(query.get("after", 10**18))
        found = [t for t in self.trades if t[0] < below]
        return body(*reversed(found[-int(query["limit"]) :]))


def read(server: Odd, walk: Walk, most: int = 500) -> list[Any]:
    history = CoinbaseHistory(EXCHANGE.market)
    cursor: str | None = ""
    records: list[Any] = []
    asked: set[str] = set()
    while cursor is not None:
        assert cursor not in asked
        asked.add(cursor)
        assert len(asked) < most
        request = history.next(walk, cursor, ENDPOINTS) if cursor else history.first(walk, ENDPOINTS)
        page = history.page(walk, cursor, server.answer(request.url), FUTURE)
        records += page.records
        cursor = page.cursor
    return records


@settings(max_examples=40)
@given(
    st.integers(1, 6000),
    st.sets(st.integers(1, 6000), max_size=200),
    st.integers(0, 7000),
    st.integers(1, 3000),
    st.integers(1, 1_000_000),
)
def test_any_window_is_read_whole(count: int, gone: set[int], start: int, length: int, first: int) -> None:
    """Ids with holes, any window, times that are up to a second out of order."""
    trades = [(first + n, (10_000 + n) * SECOND + (n * 7919 % 9) * 100_000_000) for n in range(count) if n not in gone]
    walk = Walk("trades", BTC, (10_000 + start) * SECOND, (10_000 + start + length) * SECOND)
    records = read(Odd(trades), walk)
    ids = [t.trade_seq for t in records]
    assert len(ids) == len(set(ids))
    assert sorted(ids) == [i for i, ts in trades if walk.start <= ts < walk.end]


def test_a_window_in_a_long_history_takes_few_requests() -> None:
    class Long(Odd):
        """Nine hundred million trades, ten a second."""

        requests = 0

        def answer(self, url: str) -> HttpResponse:
            self.requests += 1
            query = dict(part.split("=") for part in url.partition("?")[2].split("&"))
            top = min(int(query.get("after", 10**18)) - 1, 900_000_000)
            ids = range(top, max(top - int(query["limit"]), 0), -1)
            return body(*((i, i * SECOND // 10) for i in ids))

    server = Long([])
    walk = Walk("trades", BTC, 5_000_000 * SECOND, 5_000_100 * SECOND)
    assert [t.trade_seq for t in read(server, walk)] == list(range(50_000_999, 49_999_999, -1))
    assert server.requests < 27


def test_the_newest_page_of_a_cache_is_asked_for_again() -> None:
    history = CoinbaseHistory(EXCHANGE.market)
    walk = Walk("trades", BTC, 0, 100 * SECOND)
    old = body((7, 90 * SECOND), (6, 80 * SECOND))
    page = history.page(walk, "", old, 101 * SECOND)
    assert (page.records, page.cursor, page.wait) == ((), "again:1", 5 * SECOND)
    assert "after" not in history.next(walk, "again:1", ENDPOINTS).url
    page = history.page(walk, "again:1", old, 105 * SECOND)
    assert page.cursor == "again:2"
    page = history.page(walk, "again:2", old, 106 * SECOND)
    assert (len(page.records), page.cursor) == (2, "after:6")


@pytest.mark.parametrize(
    "trades", [((5, 1), (6, 2)), ((5, 1), (5, 1))], ids=["oldest first", "an id twice"]
)  # fmt: skip
def test_a_page_in_another_order_is_refused(trades: tuple[tuple[int, int], ...]) -> None:
    history = CoinbaseHistory(EXCHANGE.market)
    with pytest.raises(ProtocolError, match="newest first"):
        history.page(Walk("trades", BTC, 0, DAY), "after:9", body(*trades), FUTURE)
    with pytest.raises(ProtocolError, match="after 5"):
        history.page(Walk("trades", BTC, 0, DAY), "after:5", body((6, 1)), FUTURE)
    with pytest.raises(ProtocolError, match="below 5"):
        history.page(Walk("trades", BTC, 0, DAY), "seek:0:10", body((6, 1)), FUTURE)


def advanced_body(*trades: tuple[int, int]) -> HttpResponse:
    rows = [
        {"trade_id": str(i), "product_id": BTC, "side": "BUY", "size": "1", "price": "2", "time": iso_text(ts, 9)}
        for i, ts in trades
    ]
    return HttpResponse(200, json.dumps({"trades": rows, "best_bid": "", "best_ask": ""}).encode())


class ByTime:
    """Advanced Trade with a page of its own size, and an end that is inclusive or not."""

    def __init__(self, trades: list[tuple[int, int]], page: int, *, inclusive: bool) -> None:
        self.trades, self.page, self.inclusive = trades, page, inclusive

    def answer(self, url: str) -> HttpResponse:
        query = dict(part.split("=") for part in url.partition("?")[2].split("&"))
        start, end = int(query["start"]) * SECOND, int(query["end"]) * SECOND
        found = [t for t in self.trades if start <= t[1] and (t[1] <= end if self.inclusive else t[1] < end)]
        return advanced_body(*reversed(found[-min(self.page, int(query["limit"])) :]))


@given(st.integers(1, 400), st.integers(20, 120), st.booleans(), st.integers(0, 40), st.integers(1, 60))
def test_advanced_trades_whatever_the_size_of_a_page(
    count: int, page: int, inclusive: bool, start: int, length: int
) -> None:
    """Nine trades a second: a page of twenty has more than two seconds, so nothing is lost."""
    trades = [(n, 1000 * SECOND + n * SECOND // 9) for n in range(count)]
    server = ByTime(trades, page, inclusive=inclusive)
    history = CoinbaseHistory(ADVANCED.market)
    walk = Walk("trades", BTC, (1000 + start) * SECOND, (1000 + start + length) * SECOND)
    cursor: str | None = ""
    found: set[int] = set()
    asked: set[str] = set()
    while cursor is not None:
        assert cursor not in asked
        asked.add(cursor)
        request = history.next(walk, cursor, ENDPOINTS) if cursor else history.first(walk, ENDPOINTS)
        answer = history.page(walk, cursor, server.answer(request.url), FUTURE)
        found |= {t.trade_seq or 0 for t in answer.records}
        cursor = answer.cursor
    assert found == {i for i, ts in trades if walk.start <= ts < walk.end}


def test_a_second_with_more_trades_than_a_page_is_told() -> None:
    trades = [(n, 1000 * SECOND + n * SECOND // 2500) for n in range(10_000)]
    server = ByTime(trades, 1000, inclusive=True)
    history = CoinbaseHistory(ADVANCED.market)
    walk = Walk("trades", BTC, 1000 * SECOND, 1004 * SECOND)
    cursor: str | None = ""
    lost = []
    found: set[int] = set()
    while cursor is not None:
        request = history.next(walk, cursor, ENDPOINTS) if cursor else history.first(walk, ENDPOINTS)
        page = history.page(walk, cursor, server.answer(request.url), FUTURE)
        found |= {t.trade_seq or 0 for t in page.records}
        if page.lost:
            lost.append(page.lost_span)
        cursor = page.cursor
    missing = [ts for n, ts in trades if n not in found]
    assert missing
    assert all(any(span and span[0] <= ts < span[1] for span in lost) for ts in missing)


def test_some_rows_may_precede_the_window_and_empty_ones_are_left_out() -> None:
    history = CoinbaseHistory(EXCHANGE.market)
    walk = Walk("candles", BTC, 600 * SECOND, 1200 * SECOND, "1m")
    rows = "[[660,1,4,2,3,7.5],[600,1.0,1.0,1.0,1.0,0.00000001],[540,1,1,1,1,1],[720,null,null,null,null,0]]"
    page = history.page(walk, "", HttpResponse(200, rows.encode()), FUTURE)
    assert [(c.open_time // SECOND, c.volume) for c in page.records if hasattr(c, "volume")] == [
        (600, 1e-8),
        (660, 7.5),
    ]
    assert page.cursor is None
