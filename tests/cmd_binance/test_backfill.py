"""Binance's REST history page by page: the place in the ids, the way on, the end; a made-up exchange answers."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from cmd_binance import COINM, SPOT, USDM, BinanceExchange
from cmd_common.errors import ProtocolError, UsageError
from cmd_common.history import Walk
from cmd_common.http import HttpRequest, HttpResponse

START = 1_735_689_600_000_000_000
S = 1_000_000_000
HOUR = 3_600 * S


class Answers:
    """A market with a trade every ``every`` seconds from ``first`` on; two trades are one aggregate."""

    def __init__(self, venue: BinanceExchange, every: int = 1, trades: int = 5_000, first: int = START) -> None:
        self.venue = venue
        self.times = [first + n * every * S for n in range(trades)]
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.unit = 1_000_000 if venue.market.futures else 1_000

    def __call__(self, request: HttpRequest) -> HttpResponse:
        url = urlsplit(request.url)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        name = url.path.rpartition("/")[2]
        self.asked.append((name, query))
        limit = int(query["limit"])
        if name == "historicalTrades":
            rows = range(int(query["fromId"]), len(self.times))[:limit]
            return self._json([
                {"id": n, "price": "1.0", "qty": "2.0", "quoteQty": "2.0", "time": self.times[n] // self.unit, "isBuyerMaker": n % 2 == 0, "isBestMatch": True}
                for n in rows
            ])  # fmt: skip
        if name == "aggTrades":
            aggregates = range(len(self.times) // 2)
            if "fromId" in query:
                found = list(aggregates[int(query["fromId"]) :])
            else:
                low, high = int(query["startTime"]) * self.unit, int(query["endTime"]) * self.unit
                assert high - low < HOUR
                found = [a for a in aggregates if low <= self.times[2 * a] <= high]
            return self._json([
                {"a": a, "p": "1.0", "q": "4.0", "f": 2 * a, "l": 2 * a + 1, "T": self.times[2 * a] // self.unit, "m": False, "M": True}
                for a in found[:limit]
            ])  # fmt: skip
        low, high = int(query["startTime"]) * self.unit, int(query["endTime"]) * self.unit
        minute = 60 * S
        opens = range(-(-low // minute) * minute, high + 1, minute)[:limit]
        return self._json([
            [o // self.unit, "1", "1", "1", "1", "5", (o + minute) // self.unit - 1, "5", 5, "1", "1", "0"] for o in opens
        ])  # fmt: skip

    @staticmethod
    def _json(rows: object) -> HttpResponse:
        return HttpResponse(200, msgspec.json.encode(rows), {}, "OK")


def walk(answers: Answers, table: str, low: int, high: int, interval: str = "") -> list:
    source, endpoints = answers.venue.backfill, answers.venue.endpoints
    made = Walk(table, "BTCUSDT", low, high, interval)
    cursor, found, seen = "", [], set()
    while cursor is not None:
        assert cursor not in seen
        seen.add(cursor)
        request = source.next(made, cursor, endpoints) if cursor else source.first(made, endpoints)
        page = source.page(made, cursor, answers(request), START * 2)
        found += page.records
        cursor = page.cursor
    return found


@pytest.mark.parametrize(("low", "high"), [(0, 3000), (10, 11), (999, 2001), (4990, 9000)])
def test_trades_of_a_stretch_are_read_by_id(low: int, high: int) -> None:
    answers = Answers(SPOT)
    got = walk(answers, "trades", START + low * S, START + high * S)
    assert [t.trade_seq for t in got] == list(range(low, min(high, 5000)))
    assert [t.ts_event for t in got] == [START + n * S for n in range(low, min(high, 5000))]
    assert answers.asked[0][0] == "aggTrades"
    assert answers.asked[0][1]["limit"] == "1"


def test_empty_hours_are_passed_over() -> None:
    answers = Answers(SPOT, trades=10, first=START + 5 * HOUR)
    assert [t.trade_seq for t in walk(answers, "trades", START, START + 6 * HOUR)] == list(range(10))
    assert walk(Answers(SPOT, trades=0), "trades", START, START + 6 * HOUR) == []


@pytest.mark.parametrize("venue", [SPOT, USDM, COINM], ids=lambda v: v.venue)
@pytest.mark.parametrize("every", [1, 60])
def test_aggregate_trades_are_read_in_windows_and_by_id(venue: BinanceExchange, every: int) -> None:
    answers = Answers(venue, every=every)
    high = START + 3 * HOUR
    want = [a for a in range(2500) if answers.times[2 * a] < high]
    assert [a.trade_seq for a in walk(answers, "agg_trades", START, high)] == want


@pytest.mark.parametrize("venue", [SPOT, USDM, COINM], ids=lambda v: v.venue)
def test_candles_are_read_forwards(venue: BinanceExchange) -> None:
    got = walk(Answers(venue), "candles", START, START + 40 * HOUR, "1m")
    assert [c.open_time for c in got] == [START + n * 60 * S for n in range(2400)]


def test_what_is_not_given_and_what_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="gives no trades over REST"):
        USDM.backfill.first(Walk("trades", "BTCUSDT", 0, 1), USDM.endpoints)
    with pytest.raises(UsageError, match="no cursor"):
        SPOT.backfill.next(Walk("trades", "BTCUSDT", 0, 1), "x:1", SPOT.endpoints)
    row = {
        "id": 3,
        "price": "1",
        "qty": "2",
        "quoteQty": "2",
        "time": START // 1000,
        "isBuyerMaker": True,
        "isBestMatch": True,
    }
    with pytest.raises(ProtocolError, match="do not go on"):
        SPOT.backfill.page(Walk("trades", "BTCUSDT", START, START + S), "id:9", Answers._json([row]), START)
    assert USDM.backfill.reach("agg_trades") == 48 * HOUR
    assert SPOT.backfill.reach("trades") is None
