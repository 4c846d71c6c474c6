"""Bitstamp's emulator and feed in one loop: books equal the truth, losses are found by comparison."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cmd_bitstamp import BITSTAMP
from cmd_bitstamp.emulator import BitstampEmulator
from cmd_common.emulation import Accept
from cmd_common.feed import Subscription
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState
from cmd_common.testing.session import SECOND, T0, VenueSession, simulated

SYMBOLS = ("BTCUSD", "ETHUSD")


def session(*faults: str, **options: Any) -> VenueSession:
    return VenueSession(BITSTAMP, BitstampEmulator(simulated(BITSTAMP, *faults, **options)))


def assert_books(s: VenueSession, feed: Any) -> None:
    for symbol in SYMBOLS:
        builder = feed.books[symbol]
        builder.check()
        assert builder.state is BookState.LIVE
        bids, asks = s.true_book(symbol)
        assert builder.book.bids()[:200] == bids[:200], symbol
        assert builder.book.asks()[:200] == asks[:200], symbol


def test_a_session_gives_what_was_simulated() -> None:
    s = session()
    (feed,) = s.start(Subscription(SYMBOLS, ("trades", "quotes", "book"), options={"reseed": "1"}))
    s.run()
    counters = feed.counters
    assert counters.malformed == counters.unknown_messages == counters.unknown_fields == counters.errors == 0
    assert s.of(Gap) == []
    assert_books(s, feed)
    truth = s.emulator.trade_ids()  # type: ignore[attr-defined]
    for symbol in SYMBOLS:
        trades = s.of(Trade, symbol)
        assert [t.trade_id for t in trades] == truth[symbol]
        assert {t.side for t in trades} == {"buy", "sell"}
        assert len(s.of(BookDelta, symbol)) > 100
        assert len(s.of(Quote, symbol)) > 50
        assert s.of(BookSnapshot, symbol)


@pytest.mark.parametrize("fault", ["drop:stream=depth,at=60", "tear:stream=depth,at=60", "disconnect:at=300"])
def test_a_lost_change_is_found_by_a_fresh_snapshot(fault: str) -> None:
    s = session(fault, speed=1.0, duration=40 * SECOND)
    (feed,) = s.start(Subscription(SYMBOLS, ("quotes", "book"), options={"reseed": "2"}))
    s.run()
    assert s.emulator.truth()["faults"]
    gaps = s.of(Gap)
    assert gaps
    assert {g.reason for g in gaps} <= {"reseed", "crossed", "malformed", "disconnect"}
    assert all(g.ts_from <= g.ts_to for g in gaps)
    if fault.startswith("drop"):
        assert {g.record_type for g in gaps} == {"book_deltas", "quotes"}
    assert_books(s, feed)


def test_without_comparisons_a_lost_change_stays_unseen() -> None:
    """What the integrity label says: nothing in the stream itself shows a loss."""
    s = session("drop:stream=depth,at=60,symbol=BTCUSD")
    s.start(Subscription(("BTCUSD",), ("book",), options={"reseed": "0"}))
    s.run()
    assert s.emulator.truth()["faults"]
    assert {g.reason for g in s.of(Gap)} <= {"crossed"}


def test_the_server_may_ask_for_a_new_connection() -> None:
    s = session("shutdown:at=200", speed=1.0)
    (feed,) = s.start(Subscription(SYMBOLS, ("trades", "book")))
    s.run()
    assert s.reconnects == ["the exchange asked for it"]
    assert [r.state for r in s.of(FeedStatus) if r.state == "shutdown"]
    assert_books(s, feed)


def test_the_best_levels_alone() -> None:
    s = session()
    s.start(Subscription(("BTCUSD",), ("book",), depth=100))
    s.run()
    assert {len(r.bids) for r in s.of(BookSnapshot)} == {100 * 16}


def test_an_unknown_channel_is_confirmed_and_silent() -> None:
    s = session(duration=100 * SECOND, speed=1.0)
    known = s.instruments()
    template = known["BTCUSD"]
    known["NOSUCHUSD"] = template.__class__(
        "bitstamp", "NOSUCHUSD", "NOSUCH", "USD", "spot", template.tick_size, template.lot_size
    )
    s.instruments = lambda: known  # type: ignore[method-assign]
    (feed,) = s.start(Subscription(("BTCUSD", "NOSUCHUSD", "ETHUSD"), ("trades", "book")))
    s.run()
    silent = {(r.symbol, r.record_type) for r in s.of(FeedStatus) if r.state == "silent"}
    assert silent == {("NOSUCHUSD", "trades"), ("NOSUCHUSD", "book_deltas")}
    assert {g.symbol for g in s.of(Gap) if g.reason == "silence"} == {"NOSUCHUSD"}
    assert_books(s, feed)


def test_control_frames() -> None:
    s = session()
    assert isinstance(s.emulator.ws_open(1, "/", {}, T0), Accept)
    assert s.emulator.ws_open(2, "/x", {}, T0).status == 404  # type: ignore[union-attr]

    def send(message: Any) -> Any:
        text = message if isinstance(message, str) else json.dumps(message)
        (frame,) = s.emulator.ws_receive(1, text, T0)
        return json.loads(frame.text)  # type: ignore[union-attr]

    assert send({"event": "bts:heartbeat"})["data"] == {"status": "success"}
    for channel in ("live_trades_btcusd", "live_trades_nosuch", "news"):
        assert send({"event": "bts:subscribe", "data": {"channel": channel}})["event"] == "bts:subscription_succeeded"
    assert send({"event": "bts:unsubscribe", "data": {"channel": "news"}})["event"] == "bts:unsubscription_succeeded"
    for bad in ("{", "[]", {"event": "bts:subscribe"}, {"event": "x"}, {"event": "bts:subscribe", "data": {}}):
        assert send(bad)["event"] == "bts:error"


def test_rest_answers_and_refusals() -> None:
    s = session()
    assert {i.unified for i in s.instruments().values()} == {"BTC-USD", "ETH-USD"}
    book = json.loads(s.get("/api/v2/order_book/btcusd/?group=1").body)
    assert len(book["bids"]) == 800
    assert int(book["microtimestamp"]) > int(book["timestamp"]) * 1_000_000 - 1
    for target, status in (
        ("/api/v2/order_book/nosuch/", 404),
        ("/api/v2/order_book/btcusd/?group=2", 400),
        ("/api/v2/transactions/btcusd/?time=year", 400),
        ("/api/v2/ohlc/btcusd/?step=61&limit=10", 400),
        ("/api/v2/ohlc/btcusd/?step=60&limit=1001", 400),
        ("/api/v2/ohlc/btcusd/?step=x&limit=1", 400),
        ("/api/v1/x", 404),
    ):
        response = s.get(target)
        assert response.status == status, target
        error = BITSTAMP.check(response, f"http://emulated{target}")
        assert error is not None
        assert json.loads(response.body)["reason"] in str(error)
    limited = session("rate_limit:at=1")
    error = BITSTAMP.check(limited.get("/api/v2/order_book/btcusd/"), "http://emulated/x")
    assert type(error).__name__ == "RateLimitError"


def test_what_was_recorded_can_be_served_again(tmp_path: Path) -> None:
    subscription = Subscription(SYMBOLS, ("trades", "quotes", "book"))
    first = session(duration=10 * SECOND)
    start = {s: first.get(f"/api/v2/order_book/{s.lower()}/").body.decode() for s in SYMBOLS}
    (feed,) = first.start(subscription)
    first.run()
    lines = [
        f'{{"recv_ns":{T0 + n},"src":"rest","url":"https://www.bitstamp.net/api/v2/order_book/{s.lower()}/","msg":{body}}}'
        for n, (s, body) in enumerate(start.items())
    ]
    url = "wss://ws.bitstamp.net/"
    lines += [
        f'{{"recv_ns":{T0 + (n + 2) * 1_000_000},"src":"ws","url":"{url}","msg":{t}}}'
        for n, t in enumerate(first.frames)
    ]
    path = tmp_path / "bitstamp.ndjson"
    path.write_text("\n".join(lines) + "\n")
    emulator = BitstampEmulator(simulated(BITSTAMP, simulate=False, recordings=(str(path),), duration=0))
    again = VenueSession(BITSTAMP, emulator)
    known = first.instruments()
    again.instruments = lambda: known  # type: ignore[method-assign]
    (second,) = again.start(subscription)
    again.run()
    assert second.counters.malformed == second.counters.unknown_messages == 0
    assert again.of(Gap) == []
    for symbol in SYMBOLS:
        assert second.books[symbol].book.bids() == feed.books[symbol].book.bids()
        assert [t.trade_id for t in again.of(Trade, symbol)] == [t.trade_id for t in first.of(Trade, symbol)]
        bids, asks = again.true_book(symbol)
        assert second.books[symbol].book.bids()[:200] == bids[:200]
        assert second.books[symbol].book.asks()[:200] == asks[:200]
    assert len(again.of(BookDelta)) == len(first.of(BookDelta))
    assert len(again.of(Quote)) == len(first.of(Quote))


ROOT = os.environ.get("CMD_RECORDINGS", "")
FOLDER = Path(ROOT) / "bitstamp"


@pytest.mark.skipif(not ROOT, reason="CMD_RECORDINGS is not set")
def test_a_recording_is_served_to_clients() -> None:
    path = str(FOLDER / "cryptofeed_10pairs_20220105.ndjson")
    emulator = BitstampEmulator(simulated(BITSTAMP, simulate=False, recordings=(path,), duration=0))
    s = VenueSession(BITSTAMP, emulator)
    symbols = ("BATEUR", "XRPEUR", "USDTUSD", "GALAEUR")
    assert set(symbols) <= set(s.instruments())
    (feed,) = s.start(Subscription(symbols, ("trades", "quotes", "book")))
    s.run()
    counters = feed.counters
    assert counters.malformed == counters.unknown_messages == counters.unknown_fields == 0
    for symbol in symbols:
        builder = feed.books[symbol]
        assert builder.state is BookState.LIVE
        bids, asks = s.true_book(symbol)
        assert builder.book.bids()[: len(bids)] == bids
        assert builder.book.asks()[: len(asks)] == asks
        assert not builder.book.crossed
    assert s.of(Gap) == []
    assert len(s.of(BookDelta)) > 150


@pytest.mark.skipif(not ROOT, reason="CMD_RECORDINGS is not set")
def test_recorded_order_events_reach_who_asks_for_them() -> None:
    path = str(FOLDER / "tickvault_live_orders_btcusd_20260824.ndjson")
    emulator = BitstampEmulator(simulated(BITSTAMP, simulate=False, recordings=(path,), duration=0))
    s = VenueSession(BITSTAMP, emulator)
    (feed,) = s.start(Subscription(("BTCUSD",), ("trades",), options={"live_orders": "on"}))
    s.run()
    assert feed.order_events == 500  # type: ignore[attr-defined]
    assert s.of(Gap) == []
