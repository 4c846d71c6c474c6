"""Gemini's REST history against the emulator: both directions of pages, holes, limits."""

from __future__ import annotations

import json
from typing import Any

import gemini_wire as w
import pytest

from cmd_common.errors import ProtocolError, UsageError
from cmd_common.history import HistorySource, Walk
from cmd_common.http import HttpResponse
from cmd_common.records import REST, Candle, Trade
from cmd_common.testing.session import ENDPOINTS, SECOND, VenueSession, simulated
from cmd_gemini import GEMINI, rest
from cmd_gemini.archive import HISTORY, GeminiHistory
from cmd_gemini.emulator import GeminiEmulator

MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
START = 1_748_736_000 * SECOND + 2 * DAY + 6 * 60 * MINUTE  # 2025-06-03 06:00 UTC
SYMBOL = "BTCUSD"


class Newest(GeminiEmulator):
    """Pages behind an id hold the newest trades."""

    newest_behind_tid = True


class NewestOnly(Newest):
    """Pages from an instant on hold the newest trades, too."""

    def _trades(self, symbol: str, query: Any) -> HttpResponse:
        query = dict(query)
        if "timestamp" in query:
            since = int(query.pop("timestamp")) * 1_000_000
            earlier = self.market.trades_between(symbol, 0, since)
            query["since_tid"] = str(earlier[-1].id if earlier else 0)
        return super()._trades(symbol, query)


def session(kind: type[GeminiEmulator] = GeminiEmulator, history_trades: int = 8640) -> VenueSession:
    made = simulated(GEMINI, start=START, history_days=2, history_trades=history_trades, symbols=1)
    return VenueSession(GEMINI, kind(made))


def truth(s: VenueSession, start: int, end: int) -> list[str]:
    return [str(t.id) for t in s.emulator.market.trades_between(SYMBOL, start, end)]  # type: ignore[attr-defined]


WALKS = [(START - DAY, START - DAY + 6 * 60 * MINUTE), (START - 60 * MINUTE, START), (START - 2 * MINUTE, START + DAY)]


@pytest.mark.parametrize("kind", [GeminiEmulator, Newest])
@pytest.mark.parametrize(("start", "end"), WALKS)
def test_trades_are_complete_whichever_way_pages_go(kind: type[GeminiEmulator], start: int, end: int) -> None:
    s = session(kind)
    found = s.walk(Walk("trades", SYMBOL, start, end), START)
    rows, lost = found.rows(), found.lost
    assert lost == []
    assert sorted(rows, key=int) == truth(s, start, end)
    assert all(isinstance(r, Trade) and r.flags & REST and start <= r.ts_event < end for r in rows.values())


def test_pages_that_hold_only_the_newest_are_told_as_a_loss() -> None:
    s = session(NewestOnly)
    walk = Walk("trades", SYMBOL, START - DAY, START)
    found = s.walk(walk, START)
    rows, lost = found.rows(), found.lost
    assert len(lost) == 1
    assert "newest 500" in lost[0]
    assert sorted(rows, key=int) == truth(s, walk.start, walk.end)[-len(rows) :]
    assert len(rows) >= 499


def test_more_trades_in_a_millisecond_than_a_page_holds_end_the_way_by_time() -> None:
    now = START
    rows = [
        {"tid": n, "timestampms": START // 1_000_000, "price": "1", "amount": "1", "type": "buy"} for n in range(1, 501)
    ]
    walk = Walk("trades", SYMBOL, START, START + DAY)
    body = HttpResponse(200, json.dumps(rows).encode())
    page = HISTORY.page(walk, f"time:500:{START}", body, now)
    assert (page.records, page.cursor) == ((), f"tid:500:{START}")
    page = HISTORY.page(walk, f"tid:500:{START}", body, now)
    assert (page.records, page.cursor) == ((), None)


def test_a_hole_that_time_does_not_close_is_lost_and_the_walk_goes_on() -> None:
    rows = [
        {"tid": n, "timestampms": START // 1_000_000 + n, "price": "1", "amount": "1", "type": "sell"}
        for n in range(1001, 1501)
    ]
    walk = Walk("trades", SYMBOL, START, START + DAY)
    body = HttpResponse(200, json.dumps(rows).encode())
    page = HISTORY.page(walk, f"tid:500:{START}", body, START)
    assert page.cursor == f"time:500:{START}"
    assert len(page.records) == 500
    page = HISTORY.page(walk, page.cursor, body, START)
    assert page.cursor == f"tid:1500:{START + 1500 * 1_000_000}"
    assert page.lost_span == (START, START + 1001 * 1_000_000)
    assert "behind id 500" in page.lost


def test_an_interrupted_walk_goes_on_from_its_cursor() -> None:
    s = session()
    walk = Walk("trades", SYMBOL, START - DAY, START - DAY // 2)
    request, cursor, found = HISTORY.first(walk, ENDPOINTS), "", set[str]()
    while True:
        page = type(HISTORY)().page(walk, cursor, s.fetch(request), START)  # a new process has only the cursor
        found |= {t.trade_id for t in page.records}  # type: ignore[union-attr]
        if page.cursor is None:
            break
        cursor = page.cursor
        request = type(HISTORY)().next(walk, cursor, ENDPOINTS)
    assert sorted(found, key=int) == truth(s, walk.start, walk.end)


def test_candles_are_the_newest_ones_and_the_rest_is_lost() -> None:
    s = session(history_trades=1440)
    start = START - 60 * MINUTE
    found = s.walk(Walk("candles", SYMBOL, start, START, "1m"), START)
    rows, lost = found.rows(), found.lost
    assert lost == []
    assert sorted(rows) == list(range(start, START, MINUTE))
    assert all(isinstance(r, Candle) and r.state == "final" and r.trades == -1 for r in rows.values())
    found = s.walk(Walk("candles", SYMBOL, START - 2 * DAY, START, "1m"), START)
    rows, lost = found.rows(), found.lost
    assert len(lost) == 1
    assert 1400 <= len(rows) <= 1441
    found = s.walk(Walk("candles", SYMBOL, START - DAY, START + DAY, "6h"), START)
    rows, lost = found.rows(), found.lost
    assert len(rows) == 4  # the open one is left out


def test_what_there_is_not_is_told() -> None:
    assert HistorySource in GeminiHistory.__mro__
    assert HISTORY.reach("trades") == 7 * DAY
    assert (HISTORY.reach("candles", "1m") or 0) >= DAY
    with pytest.raises(UsageError, match="no history of quotes"):
        HISTORY.first(Walk("quotes", SYMBOL, 0, 1), ENDPOINTS)
    with pytest.raises(UsageError, match="no candles of '7m'"):
        HISTORY.first(Walk("candles", SYMBOL, 0, 1, "7m"), ENDPOINTS)
    for cursor in ("x", "tid:1", "tid:a:b", "probe:1:2", "time:1:2:3", "tid:-1:2"):
        with pytest.raises(ProtocolError, match="no cursor"):
            HISTORY.next(Walk("trades", SYMBOL, 0, 1), cursor, ENDPOINTS)


# Bodies of REST


@pytest.mark.parametrize("body", [b"", b"{", b"[]x", b"{}", b"[1]", b'[{"tid":1}]', b"\xff", b"null"])
def test_damaged_bodies_are_one_clear_error(body: bytes) -> None:
    for parse in (
        lambda: rest.parse_trades("A", body, 0),
        lambda: rest.parse_book(body),
        lambda: rest.parse_candles("A", "1m", body, 0),
    ):
        with pytest.raises(ProtocolError) as error:
            parse()
        assert "\n" not in str(error.value)


def test_trades_of_auctions_have_no_side_and_broken_ones_are_left_out() -> None:
    row = {"tid": 5, "timestampms": w.MS, "price": "1E-8", "amount": "2", "type": "auction", "exchange": "gemini"}
    body = json.dumps([row, {**row, "tid": 4, "broken": True}, {**row, "tid": 3, "type": "sell"}]).encode()
    trades = rest.parse_trades("A", body, w.NOW)
    assert [(t.trade_seq, t.side, t.price) for t in trades] == [(3, "sell", 1e-8), (5, "unknown", 1e-8)]


def test_requests_are_refused_before_they_are_made() -> None:
    with pytest.raises(UsageError):
        rest.trades_request(ENDPOINTS, "A", limit=501)
    with pytest.raises(UsageError):
        rest.trades_request(ENDPOINTS, "A", since_tid=1, timestamp=1)
    with pytest.raises(UsageError):
        rest.book_request(ENDPOINTS, "A", -1)
    assert rest.book_request(ENDPOINTS, "BTCUSD").url.endswith("/v1/book/btcusd?limit_bids=0&limit_asks=0")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"result":"error","reason":"InvalidSymbol","message":"no"}', "InvalidSymbol: no"),
        (500, b"<html>", "failed, HTTP 500"),
        (503, b'{"result":"error","reason":"Maintenance","message":"down"}', "maintenance"),
        (429, b"[]", "too often"),
        (403, b"\xff", "refuses this address"),
    ],
)
def test_errors_are_clear_words(status: int, body: bytes, words: str) -> None:
    error = rest.check(HttpResponse(status, body, {"retry-after": "x"}), "https://api.gemini.com/v1/x?y")
    assert error is not None
    assert words in str(error)
    assert "gemini: /v1/x" in str(error)
