"""The emulator as the exchange: control frames, REST, files; and feeds against it, with and without faults."""

from __future__ import annotations

import gzip
import json
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from bybit_session import SECOND, T0, Loop, get, json_of, load, simulated

from cmd_bybit import LINEAR, SPOT, BybitExchange
from cmd_bybit.emulator import BybitEmulator
from cmd_common.emulation import Accept, Text
from cmd_common.errors import BlockedError, RateLimitError
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Trade

ALL = ("trades", "quotes", "candles", "book")
BOTH = pytest.mark.parametrize("exchange", [SPOT, LINEAR], ids=lambda e: e.venue)


def books_are_true(loop: Loop) -> None:
    truth = loop.emulator.truth(300)["books"]
    for feed in loop.feeds:
        for symbol, builder in feed.books.items():
            book = builder.book
            book.check()
            assert book.bids(300) == [tuple(level) for level in truth[symbol]["bids"]], symbol
            assert book.asks(300) == [tuple(level) for level in truth[symbol]["asks"]], symbol
            assert book.last_id == truth[symbol]["last_id"]


# Control


class Talk:
    """One connection to the emulator."""

    def __init__(self, emulator: BybitEmulator, target: str = "") -> None:
        self.emulator = emulator
        path = target or f"/v5/public/{emulator.bybit.category}"
        self.opened = emulator.ws_open(1, path, {}, T0)

    def say(self, text: str) -> list[Any]:
        frames = self.emulator.ws_receive(1, text, T0)
        return [json.loads(f.text) for f in frames if isinstance(f, Text)]

    def op(self, op: str, *args: str, req_id: str = "7") -> list[Any]:
        return self.say(json.dumps({"op": op, "args": list(args), "req_id": req_id}))


@BOTH
def test_only_the_markets_own_path_exists(exchange: BybitExchange) -> None:
    assert isinstance(Talk(simulated(exchange)).opened, Accept)
    other = LINEAR if exchange is SPOT else SPOT
    refused = Talk(simulated(exchange), f"/v5/public/{other.market.category}").opened
    assert isinstance(refused, HttpResponse)
    assert refused.status == 404


@BOTH
def test_answers_to_control_frames(exchange: BybitExchange) -> None:
    talk = Talk(simulated(exchange))
    (pong,) = talk.say('{"op":"ping"}')
    assert (pong["success"], pong["ret_msg"], pong["op"]) == (True, "pong", "ping")
    ack, snapshot = talk.op("subscribe", "publicTrade.BTCUSDT", "orderbook.50.BTCUSDT")
    assert (ack["success"], ack["req_id"], ack["op"]) == (True, "7", "subscribe")
    assert ack["ret_msg"] == ("subscribe" if exchange is SPOT else "")
    assert (snapshot["topic"], snapshot["type"]) == ("orderbook.50.BTCUSDT", "snapshot")
    assert (len(snapshot["data"]["b"]), len(snapshot["data"]["a"])) == (50, 50)
    (again,) = talk.op("subscribe", "publicTrade.BTCUSDT")
    assert again["ret_msg"] == "error:already subscribed,topic:publicTrade.BTCUSDT"
    for bad in ("orderbook.30.BTCUSDT", "orderbook.50.btcusdt", "orderbook.50.NOPE", "kline.7.BTCUSDT", "order"):
        (refused,) = talk.op("subscribe", "publicTrade.ETHUSDT", bad)
        assert (refused["success"], refused["ret_msg"]) == (False, f"error:handler not found,topic:{bad}")
    (left,) = talk.op("unsubscribe", "orderbook.50.BTCUSDT")
    assert left["success"]
    assert len(talk.op("subscribe", "orderbook.50.BTCUSDT")) == 2
    assert talk.op("nope")[0]["ret_msg"] == "error:invalid op"
    for text in ("hello", "[]", "1", '{"op":"subscribe","args":"x"}', '{"op":"subscribe","args":[1]}'):
        assert talk.say(text)[0]["ret_msg"].startswith("Failed to decode incoming data")


def test_limits_of_requests_and_connections() -> None:
    emulator = simulated(SPOT, symbols=30)
    talk = Talk(emulator)
    topics = [f"publicTrade.{s}" for s in emulator.market.symbols]
    assert talk.op("subscribe", *topics[:11])[0]["ret_msg"] == "args size >10"
    emulator.state(emulator.connections[1]).characters = 20_990
    assert not talk.op("subscribe", topics[0])[0]["success"]
    assert Talk(simulated(LINEAR, symbols=30)).op("subscribe", *topics[:11])[0]["success"]


# Feeds in the loop


@BOTH
def test_everything_arrives_and_books_are_the_simulators_own(exchange: BybitExchange) -> None:
    loop = Loop(exchange, simulated(exchange), ALL).run()
    books_are_true(loop)
    truth = loop.emulator.truth()["trades"]
    for symbol, facts in truth.items():
        found = loop.of(Trade, symbol)
        assert len(found) == len({t.trade_id for t in found}) == facts["count"]
        assert {t.trade_id for t in found} == set(loop.emulator.trade_ids()[symbol])
        assert {t.side for t in found} == {"buy", "sell"}
        assert loop.of(Quote, symbol)
        assert {c.interval for c in loop.of(Candle, symbol)} == {"1m"}
        assert len(loop.of(BookSnapshot, symbol)) == 1
        assert len(loop.of(BookDelta, symbol)) > 100
        for trade in found[:5]:
            if exchange is LINEAR:
                assert str(UUID(trade.trade_id)) == trade.trade_id
                assert trade.trade_seq is None
            else:
                assert trade.trade_seq == int(trade.trade_id)
    assert loop.of(Gap) == []
    states = {r.state for r in loop.of(FeedStatus)}
    assert states <= {"connected", "disconnected", "SYNCING", "LIVE", "STALE"}
    for feed in loop.feeds:
        assert (feed.counters.malformed, feed.counters.errors, feed.counters.unknown_fields) == (0, 0, 0)


@pytest.mark.parametrize("depth", [50, 200])
def test_shallow_books_hold_the_best_levels(depth: int) -> None:
    loop = Loop(SPOT, simulated(SPOT), ("book",), depth=depth).run()
    truth = loop.emulator.truth(depth)["books"]
    for symbol, builder in loop.feeds[0].books.items():
        assert builder.book.bids() == [tuple(level) for level in truth[symbol]["bids"]]
        assert builder.book.asks() == [tuple(level) for level in truth[symbol]["asks"]]


def test_candles_are_those_of_the_trades() -> None:
    loop = Loop(SPOT, simulated(SPOT, duration=150 * SECOND), ("trades", "candles")).run()
    for symbol in loop.instruments:
        finals = [c for c in loop.of(Candle, symbol) if c.state == "final"]
        assert len(finals) >= 2
        last = finals[-1]
        trades = [t for t in loop.of(Trade, symbol) if last.open_time <= t.ts_event < last.close_time]
        assert last.volume == pytest.approx(sum(t.quantity for t in trades))
        assert (last.open, last.close) == (trades[0].price, trades[-1].price)


@BOTH
@pytest.mark.parametrize(
    ("faults", "reasons"),
    [
        (("drop:stream=top,symbol=BTCUSDT,at=30", "drop:stream=top,symbol=ETHUSDT,at=60"), {"sequence"}),
        (("repeat:rate=0.05",), set()),
        (("reorder:stream=top,at=40",), {"sequence"}),
        (("tear:stream=top,at=30",), {"sequence", "malformed"}),
        (("disconnect:at=200,ms=700",), {"disconnect", "sequence"}),
        (("malformed:rate=0.02",), {"malformed"}),
    ],
    ids=lambda v: v[0].partition(":")[0] if isinstance(v, tuple) else "",
)
def test_faults_become_gaps_and_books_recover(
    exchange: BybitExchange, faults: tuple[str, ...], reasons: set[str]
) -> None:
    loop = Loop(exchange, simulated(exchange, *faults), ALL).run()
    books_are_true(loop)
    assert loop.emulator.truth()["fault_counts"]
    gaps = loop.of(Gap)
    assert {g.reason for g in gaps} <= reasons
    if reasons:
        assert gaps
    assert all(g.ts_from <= g.ts_to for g in gaps)
    ids = [(t.symbol, t.trade_id) for t in loop.of(Trade)]
    assert len(ids) == len(set(ids))
    lost = {f["name"] for f in loop.emulator.truth()["faults"] if "name" in f}
    assert not {i for _, i in ids} - {n for names in loop.emulator.trade_ids().values() for n in names} - lost


def test_one_bad_symbol_is_named_and_the_others_go_on() -> None:
    emulator = simulated(LINEAR, symbols=4)
    loop = Loop(LINEAR, emulator, ("trades", "book"))
    gone = "ETHUSDT"
    emulator.market.symbols = tuple(s for s in emulator.market.symbols if s != gone)  # delisted meanwhile
    loop.run()
    rejected = [r for r in loop.of(FeedStatus) if r.state == "rejected"]
    assert {r.symbol for r in rejected} == {gone}
    assert {r.record_type for r in rejected} == {"trades", "book_deltas"}
    assert all("handler not found" in r.reason for r in rejected)
    assert {t.symbol for t in loop.of(Trade)} == set(loop.instruments) - {gone}
    feed = loop.feeds[0]
    assert feed.counters.errors == 2
    assert {s for s, b in feed.books.items() if b.book.last_id} == set(loop.instruments) - {gone}


# REST


def test_pages_of_instruments() -> None:
    emulator = simulated(LINEAR, symbols=30)
    first = json_of(get(emulator, "/v5/market/instruments-info?category=linear&limit=12"))["result"]
    assert len(first["list"]) == 12
    assert first["nextPageCursor"].startswith("first%3D")
    assert len(load(LINEAR, emulator, T0)) == 30
    names: list[str] = []
    cursor = ""
    while True:
        page = json_of(get(emulator, f"/v5/market/instruments-info?category=linear&limit=12&cursor={cursor}"))["result"]
        names += [row["symbol"] for row in page["list"]]
        cursor = page["nextPageCursor"]
        if not cursor:
            break
    assert sorted(names) == sorted(emulator.market.symbols)
    assert (
        len(json_of(get(emulator, "/v5/market/instruments-info?category=linear&symbol=BTCUSDT"))["result"]["list"]) == 1
    )


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("kline?category=linear&symbol=BTCUSDT&interval=1", 10001),
        ("kline?category=spot&symbol=NOPE&interval=1", 10001),
        ("kline?category=spot&symbol=BTCUSDT&interval=7", 10001),
        ("orderbook?symbol=BTCUSDT", 10001),
    ],
)
def test_errors_come_with_http_200(target: str, code: int) -> None:
    response = get(simulated(SPOT), f"/v5/market/{target}")
    assert json_of(response)["retCode"] == code
    assert SPOT.check(response, "http://x/v5") is not None


@BOTH
def test_other_requests(exchange: BybitExchange) -> None:
    emulator = simulated(exchange)
    category = exchange.market.category
    book = json_of(get(emulator, f"/v5/market/orderbook?category={category}&symbol=BTCUSDT&limit=5"))["result"]
    assert (len(book["b"]), len(book["a"]), book["s"]) == (5, 5, "BTCUSDT")
    recent = json_of(get(emulator, f"/v5/market/recent-trade?category={category}&symbol=BTCUSDT&limit=1000"))["result"]
    assert len(recent["list"]) == (60 if exchange is SPOT else 1000)
    assert json_of(get(emulator, "/v5/market/time"))["retCode"] == 0
    for path in ("/", "/v5/market/nope", "/v5/order/create", "/trading/NOPE/", "/spot/BTCUSDT/x.csv.gz"):
        assert get(emulator, path).status == 404


def test_a_host_of_files_refuses_in_http() -> None:
    """The API's refusals with HTTP 200 would be taken for the file."""
    emulator = simulated(SPOT, "rate_limit:count=1,ms=2000")
    answer = emulator.http("GET", "/spot/BTCUSDT/BTCUSDT_2025-06-01.csv.gz", {}, 0)
    assert (answer.status, answer.header("retry-after")) == (429, "2")


def test_rate_limit_and_ban() -> None:
    emulator = simulated(SPOT, "rate_limit:count=1,ms=2000")
    limited = SPOT.check(get(emulator, "/v5/market/time"), "http://x/v5/market/time")
    assert isinstance(limited, RateLimitError)
    assert limited.retry_after == 2 * SECOND
    emulator = simulated(SPOT, "ban:count=1,ms=3000")
    banned = SPOT.check(get(emulator, "/v5/market/time"), "http://x/v5/market/time")
    assert isinstance(banned, RateLimitError)
    assert not isinstance(banned, BlockedError)
    assert banned.retry_after == 3 * SECOND


@BOTH
@pytest.mark.parametrize("interval", ["1m", "1h"])
def test_candles_of_two_days_by_the_walk(exchange: BybitExchange, interval: str) -> None:
    emulator = simulated(exchange, history_trades=500)
    assert exchange.history is not None
    day = date.fromisoformat(emulator.ready()["history_days"][0])
    start = (day.toordinal() - date(1970, 1, 1).toordinal()) * 86_400 * SECOND
    span = Walk("candles", "BTCUSDT", start, start + 2 * 86_400 * SECOND, interval)
    endpoints = exchange.endpoints.override("http://h")
    request = exchange.history.first(span, endpoints)
    found: list[Candle] = []
    cursor = ""
    pages = 0
    while True:
        response = get(emulator, request.url.removeprefix("http://h"))
        assert exchange.check(response, request.url) is None
        page = exchange.history.page(span, cursor, response, T0)
        found += [r for r in page.records if isinstance(r, Candle)]
        pages += 1
        if page.cursor is None:
            break
        cursor = page.cursor
        request = exchange.history.next(span, cursor, endpoints)
    expected = emulator.market.candles("BTCUSDT", interval, span.start, span.end - 1)
    assert len(expected) >= (2870 if interval == "1m" else 48)  # the very first may have no trade before it
    assert sorted(c.open_time for c in found) == [c.open_time for c in expected]
    assert {c.open_time: c.volume for c in found} == {c.open_time: float(c.volume) for c in expected}
    assert pages >= (3 if interval == "1m" else 1)


# Bulk files


@BOTH
def test_files_hold_the_trades_of_their_day(exchange: BybitExchange) -> None:
    emulator = simulated(exchange, history_trades=500)
    archive = exchange.archive
    assert archive is not None
    endpoints = exchange.endpoints.override("http://h")
    prefix = archive.listing_prefix("trades", "BTCUSDT")
    request = archive.listing_request(prefix, "", endpoints)
    assert request is not None
    listing = archive.parse_listing(get(emulator, request.url.removeprefix("http://h")).body, prefix)
    day = date.fromisoformat(emulator.ready()["history_days"][0])
    files = [archive.file("trades", "BTCUSDT", day + timedelta(days=n), endpoints) for n in range(3)]
    assert [key for key, _ in listing.keys] == [f.key for f in files[:2]]  # the third day is not over
    assert get(emulator, files[2].url.removeprefix("http://h")).status == 404
    text = gzip.decompress(get(emulator, files[0].url.removeprefix("http://h")).body).decode()
    lines = [line.split(",") for line in text.splitlines()]
    trades = emulator.market.day_trades("BTCUSDT", day)
    assert len(lines) == len(trades) + 1 == 501
    layout = archive.layout("trades", lines[0], len(lines[0]))
    columns = [c.name for c in layout.columns]
    for number, (row, trade) in enumerate(zip(lines[1:], trades, strict=True), 1):
        cells = dict(zip(columns, row, strict=True))
        assert cells["side"].lower() == trade.side
        if exchange is SPOT:
            assert (cells["id"], cells["timestamp"]) == (str(number), str(trade.ts // 1_000_000))
            assert (cells["price"], cells["volume"]) == (trade.price, trade.quantity)
        else:
            assert cells["trdMatchID"] == emulator.trade_name(trade)
            seconds, _, fraction = cells["timestamp"].partition(".")
            assert int(seconds) * SECOND + int(fraction.ljust(9, "0") or 0) == trade.ts // 100_000 * 100_000
            assert float(cells["foreignNotional"]) == pytest.approx(float(trade.price) * float(trade.quantity))
    root = archive.parse_listing(get(emulator, f"/{exchange.market.archive}/").body, f"{exchange.market.archive}/")
    assert root.prefixes == tuple(f"{exchange.market.archive}/{s}/" for s in emulator.market.symbols)


def test_faults_of_files() -> None:
    emulator = simulated(SPOT, "missing_day:count=1", history_trades=500)
    day = emulator.ready()["history_days"][0]
    target = f"/spot/BTCUSDT/BTCUSDT_{day}.csv.gz"
    assert get(emulator, target).status == 404
    emulator = simulated(SPOT, "truncated_zip:count=1", history_trades=500)
    with pytest.raises(EOFError):
        gzip.decompress(get(emulator, target).body)
