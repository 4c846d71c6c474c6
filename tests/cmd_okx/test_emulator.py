"""The emulator against the package's own feeds, REST parsers and bulk file layouts."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from okx_session import ENDPOINTS, SECOND, Session, check_books, check_trades, simulated

from cmd_common.candles import interval_bounds
from cmd_common.emulation import Accept, Close
from cmd_common.feed import Subscription
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState
from cmd_okx import OKX
from cmd_okx.emulator import OkxEmulator

DAY = 86_400 * SECOND
SPOTS = ("BTC-USDT", "ETH-USDT")
ALL = ("trades", "quotes", "candles", "book")


def test_a_quiet_session_is_complete() -> None:
    s = Session(simulated(symbol_names=("BTC-USDT", "ETH-USDT-PERP", "BTC-USD-PERP")))
    symbols = ("BTC-USDT", "ETH-USDT-SWAP", "BTC-USD-SWAP")
    instruments = s.instruments()
    assert {i.symbol: (i.unified, i.contract_size, i.inverse) for i in instruments.values()} == {
        "BTC-USDT": ("BTC-USDT", None, False),
        "ETH-USDT-SWAP": ("ETH-USDT-PERP", Decimal("0.1"), False),
        "BTC-USD-SWAP": ("BTC-USD-PERP", Decimal(100), True),
    }
    feeds = s.start(Subscription(symbols, ALL, ("1m",)))
    s.run()
    check_books(s, feeds)
    assert s.of(Gap) == []
    assert s.reconnects == []
    assert sum(f.counters.malformed + f.counters.unknown_fields + f.counters.unknown_messages for f in feeds) == 0
    truth = s.emulator.truth()
    for symbol in symbols:
        trades = s.of(Trade, symbol)
        ids = [t.trade_seq for t in trades]
        assert ids == list(range(truth["trades"][symbol]["first_id"], truth["trades"][symbol]["last_id"] + 1))
        assert {t.side for t in trades} == {"buy", "sell"}
        instrument = instruments[symbol]
        assert all(instrument.on_tick(t.price) and instrument.on_lot(t.quantity) for t in trades)
        assert len(s.of(BookSnapshot, symbol)) >= 1
        assert len(s.of(BookDelta, symbol)) > 100
        assert len(s.of(Quote, symbol)) > 50
        candles = s.of(Candle, symbol)
        assert candles
        whole = [c for c in candles if c.open_time >= s.emulator.market.start]
        assert all(c.low <= c.open <= c.high for c in candles)
        for c in whole[-1:]:
            inside = [t for t in trades if c.open_time <= t.ts_event < c.close_time]
            assert c.volume == pytest.approx(sum(t.quantity for t in inside))
            worth = sum(instrument.notional(t.price, t.quantity) for t in inside)
            assert c.quote_volume == pytest.approx(worth, rel=1e-6)


@pytest.mark.parametrize(
    "fault",
    [
        "drop:rate=0.02",
        "repeat:rate=0.05",
        "reorder:rate=0.02",
        "tear:rate=0.02",
        "delay:rate=0.02,ms=300",
        "malformed:rate=0.01",
        "disconnect:at=300,ms=500",
        "silence:at=200,ms=1500,stream=depth",
        "shutdown:at=150,ms=2000",
    ],
)
def test_faults_are_noticed_and_books_come_back(fault: str) -> None:
    s = Session(simulated(fault, duration=25 * SECOND))
    feeds = s.start(Subscription(SPOTS, ("trades", "quotes", "book")))
    s.run()
    assert s.emulator.truth()["fault_counts"]
    for symbol in SPOTS:
        check_trades(s, symbol)
    truth = s.emulator.truth(400)["books"]
    for feed in feeds:
        for symbol, builder in feed.books.items():
            builder.check()
            if builder.state is BookState.LIVE and builder.last_id == truth[symbol]["last_id"]:
                assert builder.book.bids(400) == truth[symbol]["bids"]
                assert builder.book.asks(400) == truth[symbol]["asks"]
    if fault.startswith("shutdown"):
        assert s.reconnects == ["the exchange closes this connection for an upgrade"]
    if fault.startswith(("drop", "tear", "silence")):
        assert any(g.record_type == "book_deltas" for g in s.of(Gap))


def test_single_fills_tickers_and_the_top_of_the_book() -> None:
    s = Session(simulated(duration=5 * SECOND))
    options = {"trades": "all", "quotes": "tickers"}
    feeds = s.start(Subscription(SPOTS, ("trades", "quotes", "book"), depth=5, options=options))
    s.run()
    assert [f.name for f in feeds] == ["okx/public-0", "okx/business-0"]
    for symbol in SPOTS:
        check_trades(s, symbol)
        assert len(s.of(Trade, symbol)) > 10
        assert len(s.of(Quote, symbol)) > 10
        snapshots = s.of(BookSnapshot, symbol)
        assert len(snapshots) > 10
        assert {(r.known_bids, r.known_asks) for r in snapshots} == {(5, 5)}
        truth = s.emulator.truth(5)["books"][symbol]
        assert feeds[0].books[symbol].book.bids(5) == truth["bids"]
    assert s.of(BookDelta) == s.of(Gap) == []


# Control


def test_what_is_wrong_is_named_and_the_rest_is_served() -> None:
    s = Session(simulated())
    e = s.emulator
    assert isinstance(e.ws_open(1, "/ws/v5/public", {}, s.now), Accept)
    refused = e.ws_open(2, "/ws/v5/private", {}, s.now)
    assert isinstance(refused, HttpResponse)
    assert refused.status == 404

    def send(text: str) -> list[Any]:
        s.now += SECOND
        return [json.loads(f.text) if f.text[0] == "{" else f.text for f in e.ws_receive(1, text, s.now)]  # type: ignore[union-attr]

    assert send("ping") == ["pong"]
    args = [
        {"channel": "books", "instId": "NO-SUCH"},
        {"channel": "candle1m", "instId": "BTC-USDT"},
        {"channel": "books", "instId": "BTC-USDT"},
    ]
    first, second, ack, book = send(json.dumps({"op": "subscribe", "args": args}))
    assert [r["code"] for r in (first, second)] == ["60018", "60018"]
    assert "channel:books,instId:NO-SUCH doesn't exist" in first["msg"]
    assert (ack["event"], ack["arg"]) == ("subscribe", args[2])
    assert book["action"] == "snapshot"
    assert (book["data"][0]["prevSeqId"], book["data"][0]["checksum"], len(book["data"][0]["bids"])) == (-1, 0, 400)
    assert send(json.dumps({"op": "unsubscribe", "args": args[2:]}))[0]["event"] == "unsubscribe"
    for wrong in ("{", "[]", '{"op":"login"}', '{"op":"subscribe","args":[]}', '{"op":"subscribe","args":[7]}'):
        (reply,) = send(wrong)
        assert reply["code"] in ("60012", "60018")


def test_an_hour_takes_480_requests() -> None:
    s = Session(simulated())
    s.emulator.ws_open(1, "/ws/v5/public", {}, s.now)
    frame = json.dumps({"op": "subscribe", "args": [{"channel": "trades", "instId": "BTC-USDT"}]})
    replies = []
    for _ in range(481):
        s.now += SECOND
        replies += s.emulator.ws_receive(1, frame, s.now)
    events = [json.loads(r.text)["event"] for r in replies if not isinstance(r, Close)]  # type: ignore[union-attr]
    assert events == ["subscribe"] * 480 + ["error"]


# REST


def walk(s: Session, w: Walk) -> list[Record]:
    history = OKX.history
    assert history is not None
    request = history.first(w, ENDPOINTS)
    cursor = ""
    records: list[Record] = []
    for _ in range(1000):
        response = s.fetch(request)
        assert OKX.check(response, request.url) is None
        # Each page is read as another process would: nothing but the cursor is remembered.
        page = history.page(w, cursor, response, s.now)
        assert page.lost == ""
        records += page.records
        if page.cursor is None:
            return records
        cursor = page.cursor
        request = history.next(w, cursor, ENDPOINTS)
    raise AssertionError("the walk never ends")


def test_history_of_trades_is_complete_and_comes_once() -> None:
    s = Session(simulated(history_trades=1440))
    market = s.emulator.market
    first = market.days("BTC-USDT")[0]
    start = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()) * SECOND
    s.now = market.start
    got = [t for t in walk(s, Walk("trades", "BTC-USDT", start + DAY // 2, start + DAY)) if isinstance(t, Trade)]
    expected = [t for t in market.day_trades("BTC-USDT", first) if t.ts >= start + DAY // 2]
    assert [t.trade_seq for t in reversed(got)] == [t.id for t in expected]
    assert [t.price for t in reversed(got)] == [float(t.price) for t in expected]
    ids = [t.trade_seq or 0 for t in got]
    assert ids == list(range(ids[0], ids[0] - len(ids), -1))
    assert len(got) > 600


@pytest.mark.parametrize("interval", ["1m", "1h", "6h", "1d"])
def test_history_of_candles_is_complete(interval: str) -> None:
    s = Session(simulated(history_trades=2880))
    market = s.emulator.market
    first = market.days("BTC-USDT")[0]
    start = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()) * SECOND
    s.now = market.start
    got = [c for c in walk(s, Walk("candles", "BTC-USDT", start, start + DAY, interval)) if isinstance(c, Candle)]
    assert all(
        c.state == "final" and interval_bounds(c.open_time, interval) == (c.open_time, c.close_time) for c in got
    )
    expected = market.day_candles("BTC-USDT", first, interval)
    assert [c.open_time for c in reversed(got)] == [c.open_time for c in expected]
    assert [c.volume for c in reversed(got)] == [float(c.volume) for c in expected]
    assert [c.quote_volume for c in reversed(got)] == [float(c.amount) for c in expected]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/api/v5/market/books?instId=NO-SUCH", "51001"),
        ("/api/v5/market/history-trades", "50014"),
        ("/api/v5/market/history-trades?instId=BTC-USDT&type=3", "51000"),
        ("/api/v5/market/history-trades?instId=BTC-USDT&after=x", "51000"),
        ("/api/v5/market/history-candles?instId=BTC-USDT&bar=1s", "51000"),
        ("/api/v5/market/candles?instId=BTC-USDT&limit=0", "51000"),
        ("/api/v5/public/instruments?instType=NOTHING", "51000"),
    ],
)
def test_refusals_come_with_http_200_and_a_code(target: str, code: str) -> None:
    s = Session(simulated())
    response = s.get(target)
    assert (response.status, json.loads(response.body)["code"]) == (200, code)
    assert OKX.check(response, target) is not None


def test_other_endpoints() -> None:
    from cmd_okx import rest

    s = Session(simulated())
    assert s.get("/api/v5/account/balance").status == 404
    assert s.get("/elsewhere").status == 404
    assert int(s.rows("/api/v5/public/time")[0]["ts"]) == s.emulator.market.start // 1_000_000
    book = rest.parse_book(s.fetch(rest.book_request(ENDPOINTS, "BTC-USDT")).body)
    assert (len(book.bids), len(book.asks), book.complete) == (400, 400, False)
    trades = rest.parse_trades("BTC-USDT", s.fetch(rest.trades_request(ENDPOINTS, "BTC-USDT", limit=7)).body, s.now)
    assert len(trades) == 7
    older = s.rows(f"/api/v5/market/history-trades?instId=BTC-USDT&before={trades[-1].trade_id}")
    assert [r["tradeId"] for r in older] == [t.trade_id for t in trades[:-1]]
    candles = s.rows("/api/v5/market/candles?instId=BTC-USDT&bar=1H&limit=3")
    assert len(candles) == 3
    assert [c[8] for c in candles] in (["0", "1", "1"], ["1", "1", "1"])


def test_rate_limits_and_bans_on_request() -> None:
    s = Session(simulated("rate_limit:at=1", "ban:at=2"))
    first, second = (s.get("/api/v5/public/time") for _ in range(2))
    assert (first.status, json.loads(first.body)["code"]) == (429, "50011")
    assert second.status == 403


# Bulk files


def bulk(s: Session, symbol: str, day: date) -> tuple[HttpResponse, list[list[str]]]:
    archive = OKX.archive
    assert archive is not None
    file = archive.file("trades", symbol, day, ENDPOINTS)
    response = s.get(file.url.removeprefix(ENDPOINTS.archive))
    if response.status != 200:
        return response, []
    with zipfile.ZipFile(io.BytesIO(response.body)) as z:
        raw = z.read(archive.member(z.namelist(), file))
    for encoding in archive.encodings:
        try:
            return response, list(csv.reader(io.StringIO(raw.decode(encoding))))
        except UnicodeDecodeError:
            continue
    raise AssertionError("no encoding fits")


def test_bulk_files_have_days_of_utc_plus_8_and_every_header() -> None:
    s = Session(simulated(history_days=3, history_trades=480))
    market, archive = s.emulator.market, OKX.archive
    assert archive is not None
    headers = set()
    found: list[tuple[int, int]] = []
    days = market.days("BTC-USDT")
    for day in [*days, days[-1] + timedelta(days=1)]:
        file = archive.file("trades", "BTC-USDT", day, ENDPOINTS)
        _, (header, *rows) = bulk(s, "BTC-USDT", day)
        layout = archive.layout("trades", header, len(header))
        headers.add(tuple(header))
        at = {c.name: i for i, c in enumerate(layout.columns)}
        for row in rows:
            time = int(row[at["created_time"]]) * 1_000_000
            assert file.start_ns <= time < file.end_ns
            found.append((int(row[at["trade_id"]]), time))
            assert row[at["side"]] in ("buy", "sell")
            assert float(row[at["price"]]) > float(row[at["size"]])
    assert len(headers) == 3
    ids = [i for i, _ in found]
    expected = [t.id for day in days for t in market.day_trades("BTC-USDT", day)]
    assert ids == expected
    assert s.get("/cdn/okex/traderecords/trades/daily/20200101/BTC-USDT-trades-2020-01-01.zip").status == 404
    assert s.get("/cdn/okex/traderecords/trades/daily/20200101/nonsense.zip").status == 404


def test_faults_of_bulk_files() -> None:
    emulator: OkxEmulator = simulated("missing_day:symbol=BTC-USDT", "truncated_zip:symbol=ETH-USDT")
    s = Session(emulator)
    day = emulator.market.days("BTC-USDT")[1]
    assert bulk(s, "BTC-USDT", day)[0].status == 404
    with pytest.raises(zipfile.BadZipFile):
        bulk(s, "ETH-USDT", day)


def test_one_bad_symbol_is_left_out_and_the_others_go_on() -> None:
    s = Session(simulated(duration=5 * SECOND))
    instruments = s.instruments()
    bad = "OLD-USDT"
    from msgspec.structs import replace

    instruments[bad] = replace(instruments["BTC-USDT"], symbol=bad, base="OLD")
    feeds = OKX.feeds(Subscription((bad, *SPOTS), ("trades", "book")), instruments, ENDPOINTS)
    for feed in feeds:
        s._open(feed)
    s.run()
    rejected = [r for r in s.of(FeedStatus) if r.state == "rejected"]
    assert {(r.symbol, r.record_type) for r in rejected} == {(bad, "trades"), (bad, "book_deltas")}
    assert all(bad in r.reason and "60018" in r.reason for r in rejected)
    assert s.reconnects == []
    for symbol in SPOTS:
        check_trades(s, symbol)
        assert feeds[0].books[symbol].state is BookState.LIVE
