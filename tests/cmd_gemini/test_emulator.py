"""Gemini's emulator and feeds in one loop: books equal the truth, whatever is lost on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cmd_common.emulation import Accept
from cmd_common.feed import Subscription
from cmd_common.http import HttpResponse
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState
from cmd_common.testing.session import ENDPOINTS, SECOND, T0, VenueSession, simulated
from cmd_gemini import GEMINI
from cmd_gemini.emulator import GeminiEmulator

SYMBOLS = ("BTCUSD", "ETHUSD")


def session(*faults: str, **options: Any) -> VenueSession:
    return VenueSession(GEMINI, GeminiEmulator(simulated(GEMINI, *faults, **options)))


def assert_books(s: VenueSession, feed: Any) -> None:
    for symbol in SYMBOLS:
        builder = feed.books[symbol]
        builder.check()
        bids, asks = s.true_book(symbol)
        assert builder.book.bids()[:200] == bids[:200], symbol
        assert builder.book.asks()[:200] == asks[:200], symbol


def trades_of(s: VenueSession, symbol: str) -> list[str]:
    return sorted({t.trade_id for t in s.of(Trade, symbol)}, key=int)


@pytest.mark.parametrize("api", ["current", "v2"])
def test_a_session_gives_what_was_simulated(api: str) -> None:
    s = session()
    feeds = s.start(Subscription(SYMBOLS, ("trades", "quotes", "candles", "book"), options={"api": api}))
    assert len(feeds) == (2 if api == "current" else 1)
    live: dict[str, tuple[Any, ...]] = {}
    s.run()
    counters = feeds[0].counters
    assert counters.malformed == counters.unknown_messages == counters.unknown_fields == counters.errors == 0
    assert s.of(Gap) == []
    assert s.reconnects == []
    assert_books(s, feeds[0])
    truth = s.emulator.trade_ids()  # type: ignore[attr-defined]
    for symbol in SYMBOLS:
        assert trades_of(s, symbol)[-len(truth[symbol]) :] == truth[symbol]
        assert len(truth[symbol]) > 30
        live[symbol] = (len(s.of(BookDelta, symbol)), len(s.of(Quote, symbol)), len(s.of(Candle, symbol)))
        assert live[symbol][0] > 100
        assert live[symbol][1] > 50
        assert live[symbol][2] >= 3
        assert s.of(BookSnapshot, symbol)


@pytest.mark.parametrize(
    "fault", ["drop:stream=depth,at=50,count=3", "tear:rate=0.02,count=4", "disconnect:at=300", "repeat:rate=0.2"]
)
def test_damaged_books_of_the_current_api_are_noticed_and_loaded_anew(fault: str) -> None:
    s = session(fault, speed=1.0, duration=60 * SECOND)
    (feed,) = s.start(Subscription(SYMBOLS, ("trades", "book")))
    s.run()
    assert s.emulator.truth()["faults"]
    if not fault.startswith("repeat"):
        assert feed.counters.resyncs > 0
        assert [g for g in s.of(Gap) if g.record_type == "book_deltas"]
    assert all(b.state is BookState.LIVE for b in feed.books.values())
    assert_books(s, feed)


def test_a_damaged_book_without_ids_is_seen_by_a_fresh_copy() -> None:
    s = session("drop:stream=depth,at=40", speed=1.0)
    s.start(Subscription(SYMBOLS, ("book",), options={"api": "v2", "reseed": "2"}))
    s.run()
    assert s.emulator.truth()["faults"]
    assert [g.reason for g in s.of(Gap)] != []
    assert {g.reason for g in s.of(Gap)} <= {"reseed", "crossed"}


def test_the_best_levels_are_sent_whole() -> None:
    s = session()
    s.start(Subscription(SYMBOLS, ("book",), depth=5))
    s.run()
    snapshots = s.of(BookSnapshot, "BTCUSD")
    assert len(snapshots) > 50
    assert {len(r.bids) for r in snapshots} == {5 * 16}
    assert s.of(BookDelta) == []


def test_one_bad_name_is_named_and_left_out() -> None:
    s = session(duration=5 * SECOND)
    known = s.instruments()
    known["NOSUCHUSD"] = known["BTCUSD"].__class__(
        venue="gemini", symbol="NOSUCHUSD", base="NOSUCH", quote="USD", kind="spot",
        tick_size=known["BTCUSD"].tick_size, lot_size=known["BTCUSD"].lot_size,
    )  # fmt: skip
    s.instruments = lambda: known  # type: ignore[method-assign]
    (feed,) = s.start(Subscription(("BTCUSD", "NOSUCHUSD", "ETHUSD"), ("trades", "book")))
    s.run()
    rejected = [r for r in s.of(FeedStatus) if r.state == "rejected"]
    assert {r.symbol for r in rejected} == {"NOSUCHUSD"}
    assert {r.reason.partition(":")[0] for r in rejected} == {"nosuchusd@trade", "nosuchusd@depth@100ms"}
    assert feed.counters.errors == 2
    assert_books(s, feed)
    assert s.of(Trade, "BTCUSD")


def test_a_bad_name_that_the_error_does_not_tell_is_found_by_halves() -> None:
    s = session(duration=40 * SECOND, speed=1.0)
    emulator: Any = s.emulator
    original = emulator.command

    def silent_about_names(connection: Any, message: Any, now: int) -> Any:
        return [str(x).replace("nosuchusd@trade", "a stream") for x in original(connection, message, now)]

    emulator.command = silent_about_names
    known = s.instruments()
    template = known["BTCUSD"]
    known["NOSUCHUSD"] = template.__class__(
        "gemini", "NOSUCHUSD", "NOSUCH", "USD", "spot", template.tick_size, template.lot_size
    )
    s.instruments = lambda: known  # type: ignore[method-assign]
    s.start(Subscription(("BTCUSD", "NOSUCHUSD", "ETHUSD"), ("trades",)))
    s.run()
    rejected = [r for r in s.of(FeedStatus) if r.state == "rejected"]
    assert {r.symbol for r in rejected} == {"NOSUCHUSD"}
    assert s.of(Trade, "ETHUSD")
    assert s.of(Trade, "BTCUSD")


def open_current(s: VenueSession, target: str = "/?snapshot=-1") -> list[Any]:
    assert isinstance(s.emulator.ws_open(1, target, {}, T0), Accept)

    def send(message: Any) -> list[Any]:
        text = message if isinstance(message, str) else json.dumps(message)
        return [json.loads(f.text) for f in s.emulator.ws_receive(1, text, T0)]  # type: ignore[union-attr]

    return [send]


def test_control_frames_of_the_current_api() -> None:
    s = session()
    (send,) = open_current(s)
    assert send({"id": 1, "method": "ping"}) == [{"id": 1, "status": 200}]
    (snapshot, ack) = send({"id": "2", "method": "SUBSCRIBE", "params": ["BTCUSD@depth@100ms", "btcusd@trade"]})
    assert ack == {"id": "2", "status": 200}
    assert (snapshot["e"], snapshot["s"], snapshot["U"]) == ("depthUpdate", "btcusd", snapshot["u"])
    (refused,) = send({"id": 3, "method": "subscribe", "params": ["ethusd@trade", "x@trade"]})
    assert refused == {"id": 3, "status": 400, "error": {"code": -1013, "msg": "Invalid stream name: x@trade"}}
    (listed,) = send({"id": 4, "method": "list_subscriptions"})
    assert len(listed["result"]) == 2
    assert send({"id": 5, "method": "unsubscribe", "params": ["btcusd@trade"]}) == [{"id": 5, "status": 200}]
    assert send({"id": 6, "method": "time"})[0]["result"]["serverTime"] > 0
    for bad in ("{", "[]", {"id": 7}, {"id": 8, "method": "subscribe", "params": "x"}):
        assert send(bad)[0]["status"] == 400
    for target, status in (("/v3", 404), ("/?snapshot=x", 400)):
        refusal = s.emulator.ws_open(9, target, {}, T0)
        assert isinstance(refusal, HttpResponse)
        assert refusal.status == status


@pytest.mark.parametrize(("snapshot", "count"), [("0", 0), ("3", 3), ("-1", 800)])
def test_the_size_of_the_first_book_is_the_clients_choice(snapshot: str, count: int) -> None:
    s = session()
    (send,) = open_current(s, f"/?snapshot={snapshot}")
    *books, _ = send({"id": 1, "method": "subscribe", "params": ["btcusd@depth"]})
    assert [len(b["b"]) for b in books] == ([count] if count else [])


def test_control_frames_of_the_older_feed() -> None:
    s = session()
    (send,) = open_current(s, "/v2/marketdata")
    wanted = [{"name": "l2", "symbols": ["BTCUSD", "btcusd"]}, {"name": "candles_1m", "symbols": ["BTCUSD"]}]
    book, error, candles = send({"type": "subscribe", "subscriptions": wanted})
    assert book["type"] == "l2_updates"
    assert {side for side, _, _ in book["changes"]} == {"buy", "sell"}
    assert len(book["trades"]) == 50
    assert error["reason"] == "InvalidSymbol"  # upper case only
    assert candles["type"] == "candles_1m_updates"
    times = [row[0] for row in candles["changes"]]
    assert times == sorted(times, reverse=True)
    assert send({"type": "subscribe", "subscriptions": [{"name": "l3", "symbols": []}]})[0]["result"] == "error"
    assert send({"type": "hello"})[0]["result"] == "error"
    assert send("{") == []


def test_rest_answers_and_refusals() -> None:
    s = session(symbol_names=("BTC-USD", "ETH-GUSD-PERP"))
    known = s.instruments()
    assert {i.unified for i in known.values()} == {"BTC-USD", "ETH-GUSD-PERP"}
    assert "1E-" in s.get("/v1/symbols/details/all").body.decode()
    assert len(GEMINI.parse_instruments(s.get("/v1/symbols/details/ethgusdperp").body)) == 1
    assert json.loads(s.get("/v1/symbols").body) == ["btcusd", "ethgusdperp"]
    assert len(json.loads(s.get("/v1/book/btcusd?limit_bids=3&limit_asks=0").body)["bids"]) == 3
    for target, status in (
        ("/v1/book/nosuch", 400),
        ("/v1/symbols/details/nosuch", 400),
        ("/v1/trades/btcusd?since_tid=x", 400),
        ("/v1/book/btcusd?limit_bids=-1", 400),
        ("/v2/candles/btcusd/7m", 400),
        ("/v9/x", 404),
    ):
        response = s.get(target)
        assert response.status == status, target
        assert json.loads(response.body)["result"] == "error"
        error = GEMINI.check(response, f"{ENDPOINTS.rest}{target}")
        assert error is not None
        assert json.loads(response.body)["message"] in str(error)
    limited = session("rate_limit:at=1")
    error = GEMINI.check(limited.get("/v1/symbols"), "http://emulated/v1/symbols")
    assert type(error).__name__ == "RateLimitError"


@pytest.mark.parametrize("api", ["current", "v2"])
def test_what_was_recorded_can_be_served_again(api: str, tmp_path: Path) -> None:
    subscription = Subscription(SYMBOLS, ("trades", "quotes", "book"), options={"api": api})
    first = session(duration=10 * SECOND)
    (feed,) = first.start(subscription)
    first.run()
    url = "wss://ws.gemini.com/" if api == "current" else "wss://api.gemini.com/v2/marketdata"
    lines = [
        f'{{"recv_ns":{T0 + n * 1_000_000},"src":"ws","url":"{url}","msg":{t}}}' for n, t in enumerate(first.frames)
    ]
    path = tmp_path / "gemini.ndjson"
    path.write_text("\n".join(lines) + "\n")
    again = VenueSession(GEMINI, GeminiEmulator(simulated(GEMINI, simulate=False, recordings=(str(path),), duration=0)))
    known = first.instruments()
    again.instruments = lambda: known  # type: ignore[method-assign]
    (second,) = again.start(subscription)
    again.run()
    assert second.counters.malformed == second.counters.unknown_messages == 0
    assert again.of(Gap) == []
    for symbol in SYMBOLS:
        assert second.books[symbol].book.bids() == feed.books[symbol].book.bids()
        assert trades_of(again, symbol) == trades_of(first, symbol)
        # The recording's own book is apart from the code under test.
        bids, asks = again.true_book(symbol)
        assert second.books[symbol].book.bids()[:200] == bids[:200]
        assert second.books[symbol].book.asks()[:200] == asks[:200]
    if api == "current":
        kinds = [type(r) for r in again.records if isinstance(r, Trade | Quote | BookDelta)]
        assert len(kinds) == len([r for r in first.records if isinstance(r, Trade | Quote | BookDelta)])
    # A client of the other feed hears nothing of it.
    other = VenueSession(GEMINI, GeminiEmulator(simulated(GEMINI, simulate=False, recordings=(str(path),), duration=0)))
    other.instruments = lambda: known  # type: ignore[method-assign]
    wrong = "v2" if api == "current" else "current"
    (third,) = other.start(Subscription(SYMBOLS, ("trades", "book"), options={"api": wrong}))
    other.run()
    assert other.of(Trade) == []
    assert third.counters.unknown_messages == 0


ROOT = os.environ.get("CMD_RECORDINGS", "")
FOLDER = Path(ROOT) / "gemini"
RECORDING = FOLDER / "cryptofeed_v2_10symbols_20210624.ndjson"


@pytest.mark.skipif(not ROOT, reason="CMD_RECORDINGS is not set")
@pytest.mark.parametrize("late", [False, True])
def test_a_recording_of_the_older_feed_is_served_to_its_clients(late: bool) -> None:
    emulator = GeminiEmulator(simulated(GEMINI, simulate=False, recordings=(str(RECORDING),), duration=0))
    s = VenueSession(GEMINI, emulator)
    symbols = ("ANKRUSD", "FILUSD", "LINKETH", "LTCETH", "ZECLTC")
    assert set(s.instruments()) == set(symbols)
    (feed,) = s.start(Subscription(symbols, ("trades", "quotes", "book"), options={"api": "v2"}))
    if late:  # another client, whose book comes out of what was recorded before
        s.run(seconds=2)
    s.run()
    counters = feed.counters
    assert counters.malformed == counters.unknown_messages == counters.unknown_fields == 0
    truth = emulator.truth()["books"]
    assert {s for s, b in feed.books.items() if b.state is BookState.LIVE} == set(symbols)
    for symbol in symbols:
        bids, asks = s.true_book(symbol)
        assert feed.books[symbol].book.bids()[: len(bids)] == bids
        assert feed.books[symbol].book.asks()[: len(asks)] == asks
        assert truth[symbol]["bids"]
    assert len(s.of(Trade)) == 15 + 5 * 50
    assert s.of(Gap) == []
