"""The emulator over a simulation: what it says, and a feed that listens to it, with and without faults."""

from __future__ import annotations

import json
from typing import Any

import kraken_wire as w
import pytest
from kraken_session import SECOND, T0, Loop, simulated

from cmd_common.emulation import Accept, Close, Text
from cmd_common.errors import RateLimitError
from cmd_common.feed import Resubscribe
from cmd_common.history import Walk
from cmd_common.http import HttpResponse
from cmd_common.records import BookDelta, Candle, Quote, Trade
from cmd_common.sequence import BookState
from cmd_kraken import KRAKEN


class Client:
    """A client without a feed."""

    def __init__(self, emulator: Any, path: str = "/v2") -> None:
        self.emulator = emulator
        self.now = T0
        assert isinstance(emulator.ws_open(1, path, {}, self.now), Accept)

    def send(self, **message: Any) -> list[Any]:
        self.now += SECOND
        frames = self.emulator.ws_receive(1, json.dumps(message), self.now)
        return [json.loads(f.text) if isinstance(f, Text) else f for f in frames]

    def subscribe(self, channel: str, *symbols: str, **params: Any) -> list[Any]:
        return self.send(method="subscribe", params={"channel": channel, "symbol": symbols, **params}, req_id=7)


# What it says


def test_a_connection_begins_with_the_state_and_one_answer_a_symbol() -> None:
    client = Client(simulated())
    status, good, bad, also = client.subscribe("trade", "BTC/USD", "NO/SUCH", "ETH/USD", snapshot=False)
    assert (status["channel"], status["data"][0]["system"]) == ("status", "online")
    assert (good["success"], good["req_id"], good["result"]["symbol"]) == (True, 7, "BTC/USD")
    assert (bad["success"], bad["symbol"], bad["error"]) == (False, "NO/SUCH", "Currency pair not supported NO/SUCH")
    assert also["result"]["symbol"] == "ETH/USD"


@pytest.mark.parametrize(
    ("channel", "params", "words"),
    [
        ("book", {"depth": 20}, "Depth"),
        ("ohlc", {"interval": 2}, "interval"),
        ("novelty", {}, "Channel not supported"),
    ],
)
def test_what_does_not_exist_is_refused(channel: str, params: dict[str, Any], words: str) -> None:
    answer = Client(simulated()).subscribe(channel, "BTC/USD", **params)[-1]
    assert not answer["success"]
    assert words in answer["error"]


def test_control_frames() -> None:
    client = Client(simulated())
    assert client.send(method="ping", req_id=3)[-1]["method"] == "pong"
    assert client.send(method="nonsense")[-1]["error"] == "Method not supported"
    assert client.send(method="subscribe", params={"channel": "book", "symbol": "BTC/USD"})[-1]["success"] is False
    client.subscribe("book", "BTC/USD", depth=10)
    assert client.subscribe("book", "BTC/USD", depth=10)[0]["error"] == "Already subscribed"
    params = {"channel": "book", "symbol": ["BTC/USD"], "depth": 10}
    assert client.send(method="unsubscribe", params=params)[0]["success"]
    assert not client.send(method="unsubscribe", params=params)[0]["success"]
    frames = client.emulator.ws_receive(1, "{", client.now)
    assert frames == []
    assert client.emulator.ws_receive(1, "[]", client.now)


def test_subscriptions_begin_with_backlogs() -> None:
    client = Client(simulated())
    book = client.subscribe("book", "BTC/USD", depth=25)[-1]
    (row,) = book["data"]
    assert (book["type"], len(row["bids"]), len(row["asks"])) == ("snapshot", 25, 25)
    trades = client.subscribe("trade", "BTC/USD")[-1]["data"]
    ids = [t["trade_id"] for t in trades]
    assert ids == list(range(ids[0], ids[0] + 50))
    (ticker,) = client.subscribe("ticker", "BTC/USD", event_trigger="bbo")[-1]["data"]
    assert (ticker["bid"], ticker["ask"]) == (row["bids"][0]["price"], row["asks"][0]["price"])
    assert ticker["low"] <= ticker["vwap"] <= ticker["high"]
    candles = client.subscribe("ohlc", "BTC/USD", interval=5)[-1]["data"]
    assert [c["interval"] for c in candles] == [5] * 10
    assert all(c["low"] <= c["vwap"] <= c["high"] and c["trades"] for c in candles)


def test_idle_connections_are_closed_and_others_hear_a_heartbeat() -> None:
    emulator = simulated(speed=1.0)
    client = Client(emulator)
    emulator.ws_open(2, "/v2", {}, T0)
    client.subscribe("trade", "BTC/USD")
    frames: list[Any] = []
    now = client.now
    for _ in range(70):
        now += SECOND
        frames += emulator.poll(now).frames
        if emulator.finished:
            break
    assert sum(f.text == '{"channel":"heartbeat"}' for f in frames if isinstance(f, Text) and f.connection == 1) >= 15
    emulator = simulated(speed=1.0, duration=200 * SECOND)
    emulator.ws_open(1, "/v2", {}, T0)
    closed = [f for n in range(90) for f in emulator.poll(T0 + n * SECOND).frames if isinstance(f, Close)]
    assert [(f.code, f.reason) for f in closed] == [(1000, "idle")]


def test_unknown_paths_are_refused() -> None:
    answer = simulated().ws_open(1, "/v3", {}, T0)
    assert isinstance(answer, HttpResponse)
    assert answer.status == 404


# A feed that listens


@pytest.mark.parametrize("depth", [10, 25, 100, 1000])
def test_a_session_without_faults(depth: int) -> None:
    loop = Loop(simulated(), depth=depth).run()
    truth = loop.emulator.truth()
    assert loop.faultless()
    assert loop.gaps() == []
    assert loop.books_are_true(depth)
    for symbol in loop.instruments:
        ids = loop.trade_ids(symbol)
        assert (ids[0], ids[-1], len(ids)) == tuple(
            truth["trades"][symbol][k] for k in ("first_id", "last_id", "count")
        )
        assert len(loop.of(BookDelta, symbol)) > 100
        assert loop.of(Quote, symbol)
        assert loop.of(Candle, symbol)


def test_quotes_are_the_best_levels_of_the_book() -> None:
    loop = Loop(simulated()).run()
    for symbol, builder in loop.feed.books.items():
        quote = loop.of(Quote, symbol)[-1]
        assert builder.book.best_bid == (quote.bid_price, quote.bid_quantity)
        assert builder.book.best_ask == (quote.ask_price, quote.ask_quantity)


def test_final_candles_are_those_of_the_trades() -> None:
    loop = Loop(simulated(duration=200 * SECOND, rate=10.0), ("trades", "candles"), intervals=("1m",)).run()
    for symbol in loop.instruments:
        final = [c for c in loop.of(Candle, symbol) if c.state == "final"]
        assert len(final) >= 3
        for candle in final[1:]:  # of the first, trades came before the start
            trades = [t for t in loop.of(Trade, symbol) if candle.open_time <= t.ts_event < candle.close_time]
            assert candle.trades == len(trades)
            assert candle.volume == pytest.approx(sum(t.quantity for t in trades))
            assert (candle.open, candle.close) == (trades[0].price, trades[-1].price)
    assert loop.gaps() == []


@pytest.mark.parametrize("fault", ["drop", "tear", "reorder", "delay"])
def test_a_damaged_book_message_is_noticed_and_repaired(fault: str) -> None:
    loop = Loop(simulated(f"{fault}:at=40,stream=top"), ("book",), depth=10).run()
    faults = [f for f in loop.emulator.truth()["faults"] if f["kind"] == fault]
    assert len(faults) == 1
    assert {g.symbol for g in loop.gaps()} - {""} == {faults[0]["symbol"]}  # "": torn before it told its symbol
    assert {g.reason for g in loop.gaps()} <= {"checksum", "crossed", "malformed"}
    assert loop.resubscriptions() >= 1
    assert loop.books_are_true(10)
    assert all(b.state is BookState.STALE for b in loop.feed.books.values())  # the session is over


def test_a_dropped_update_is_noticed_at_the_next_message_by_the_checksum_alone() -> None:
    loop = Loop(simulated("drop:at=40,stream=top", symbols=1), ("book",), depth=1000).run()
    (gap,) = loop.gaps()
    (fault,) = [f for f in loop.emulator.truth()["faults"] if f["kind"] == "drop"]
    assert gap.reason == "checksum"
    deltas = loop.of(BookDelta)
    assert gap.ts_from < fault["ts"] <= gap.ts_to
    # The last good delta is the one before the dropped message, and the loss is told by the very next one.
    assert deltas[38].ts_event == gap.ts_from
    assert deltas[39].ts_event > gap.ts_to
    assert sum(isinstance(a, Resubscribe) for a in loop.actions) == 1
    assert loop.books_are_true()


def test_a_cut_connection_loses_no_trade() -> None:
    loop = Loop(simulated("disconnect:at=30,stream=trades,ms=10"), ("trades", "book"), depth=25).run()
    assert loop.connection >= 2
    truth = loop.emulator.truth()["trades"]
    for symbol in loop.instruments:
        ids = loop.trade_ids(symbol)
        missing = {
            n for g in loop.gaps("trades") if g.symbol == symbol for n in range(g.first_id or 0, (g.last_id or 0) + 1)
        }
        everything = set(range(truth[symbol]["first_id"], truth[symbol]["last_id"] + 1))
        assert set(ids) | missing == everything
        assert len(set(ids)) == len(ids)
        assert not missing  # the backlog closes the hole
    assert loop.books_are_true(25)


def test_dropped_trades_are_gaps_with_their_ids() -> None:
    loop = Loop(simulated("drop:rate=0.1,stream=trades"), ("trades",)).run()
    dropped = {(f["symbol"], f["id"]) for f in loop.emulator.truth()["faults"] if f["kind"] == "drop"}
    told = {(g.symbol, n) for g in loop.gaps() for n in range(g.first_id or 0, (g.last_id or 0) + 1)}
    seen = {(s, n) for s in loop.instruments for n in loop.trade_ids(s)}
    last = {(s, t["last_id"]) for s, t in loop.emulator.truth()["trades"].items()}
    first = {(s, t["first_id"]) for s, t in loop.emulator.truth()["trades"].items()}
    assert dropped
    assert told | (dropped & last) >= dropped - first
    assert not told & seen
    assert told <= dropped


@pytest.mark.parametrize("form", ["text", "unknown", "shape", "huge"])
def test_garbage_is_counted_and_books_go_on_right(form: str) -> None:
    loop = Loop(simulated(f"malformed:at=20,form={form},bytes=1000"), ("book", "trades"), depth=25).run()
    counters = loop.feed.counters
    assert counters.malformed + counters.unknown_messages > 0
    assert loop.books_are_true(25)


def test_a_maintenance_is_announced() -> None:
    loop = Loop(simulated("shutdown:at=20,ms=10"), ("trades",)).run()
    assert loop.states("maintenance")


# REST


def test_rest() -> None:
    loop = Loop(simulated())
    loop.run()
    plain, display = loop.json("AssetPairs")["result"], loop.json("AssetPairs?assetVersion=1")["result"]
    assert sorted(plain) == ["ETHUSD", "XBTUSD"]
    assert sorted(display) == ["BTC/USD", "ETH/USD"]
    depth = loop.json("Depth?pair=XBTUSD&count=5")["result"]["XBTUSD"]
    assert len(depth["asks"]) == len(depth["bids"]) == 5
    assert loop.json("Time")["error"] == []
    assert loop.json("SystemStatus")["result"]["status"] == "online"
    for pair in ("XBT/USD", "btcusd", "BTC/USD", "xbtusd"):
        assert loop.json(f"Trades?pair={pair}&count=3")["error"] == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("Trades?pair=NOSUCH", "EQuery:Unknown asset pair"),
        ("Trades", "EGeneral:Invalid arguments"),
        ("Trades?pair=XBTUSD&count=1001", "EGeneral:Invalid arguments:count"),
        ("Trades?pair=XBTUSD&since=x", "EGeneral:Invalid arguments:since"),
        ("OHLC?pair=XBTUSD&interval=2", "EGeneral:Invalid arguments:interval"),
        ("Depth?pair=XBTUSD&count=x", "EGeneral:Invalid arguments:count"),
        ("Nonsense", "EGeneral:Unknown method"),
    ],
)
def test_rest_errors(what: str, words: str) -> None:
    response = Loop(simulated()).get(what)
    assert json.loads(response.body)["error"] == [words]
    error = KRAKEN.check(response, what)
    assert error is not None
    assert words in str(error)


def test_the_fault_of_too_many_requests() -> None:
    emulator = simulated("rate_limit:at=2,ms=3000")
    loop = Loop(emulator)
    error = KRAKEN.check(loop.get("Time"), "/0/public/Time")
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 3 * SECOND


# History


def fetch(loop: Loop, walk: Walk) -> tuple[list[Any], int]:
    history = KRAKEN.history
    assert history is not None
    request, cursor, pages = history.first(walk, KRAKEN.endpoints), "", 0
    found: list[Any] = []
    while True:
        what = request.url.removeprefix(KRAKEN.endpoints.rest + "/0/public/")
        response = loop.get(what)
        assert KRAKEN.check(response, what) is None
        page = history.page(walk, cursor, response, loop.now)
        pages += 1
        found += page.records
        if page.cursor is None:
            return found, pages
        cursor = page.cursor
        request = history.next(walk, cursor, KRAKEN.endpoints)


def test_history_of_two_days_is_complete() -> None:
    loop = Loop(simulated(duration=5 * SECOND, symbols=1)).run()
    market = loop.emulator.market
    symbol = "BTC/USD"
    for day in market.days(symbol)[:2]:
        start = (day.toordinal() - 719_163) * 86_400 * SECOND
        walk = Walk("trades", symbol, start, start + 86_400 * SECOND)
        found, pages = fetch(loop, walk)
        true = market.day_trades(symbol, day)
        assert [(t.trade_seq, t.ts_event, t.side) for t in found] == [(t.id, t.ts, t.side) for t in true]
        assert [t.price for t in found] == [float(t.price) for t in true]
        assert 8 <= pages <= 12


def test_history_of_candles() -> None:
    loop = Loop(simulated(duration=5 * SECOND, symbols=1)).run()
    clock = loop.emulator.market.clock
    hour = 3600 * SECOND
    end = clock // hour * hour
    found, pages = fetch(loop, Walk("candles", "BTC/USD", end - 12 * hour, end, "1h"))
    assert pages == 1
    assert [c.open_time for c in found] == list(range(end - 12 * hour, end, hour))
    true = loop.emulator.market.candles("BTC/USD", "1h", end - 12 * hour, end - 1)
    assert [(c.close, c.volume, c.trades) for c in found] == [(float(c.close), float(c.volume), c.count) for c in true]
    early, _ = fetch(
        loop, Walk("candles", "BTC/USD", clock // hour * hour - 13 * hour, clock // hour * hour - 12 * hour, "1m")
    )
    assert len(early) < 60  # beyond 720 minutes there is nothing


def test_checksums_here_are_computed_apart() -> None:
    loop = Loop(simulated(symbols=1), ("book",), depth=10).run(until=simulated(symbols=1).world.start + 2 * SECOND)
    (snapshot,) = [
        json.loads(f, parse_float=str) for f in loop.frames if '"snapshot"' in f and '"channel":"book","type"' in f
    ]
    row = snapshot["data"][0]
    sides = [[(x["price"], x["qty"]) for x in row[side]] for side in ("bids", "asks")]
    assert row["checksum"] == w.crc(*sides)
