"""The emulators and the feeds in one loop: what was simulated arrives, what was damaged is told."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from coinbase_session import SECOND, T0, CoinbaseSession, recorded, simulated

from cmd_coinbase import ADVANCED, EXCHANGE
from cmd_common.emulation import Accept, Close, Text
from cmd_common.feed import Subscription
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState

SYMBOLS = ("BTC-USD", "ETH-USD")
BOTH = pytest.mark.parametrize("exchange", [EXCHANGE, ADVANCED], ids=["exchange", "advanced"])


def session(exchange: Any, *faults: str, **options: Any) -> CoinbaseSession:
    return CoinbaseSession(exchange, simulated(exchange, *faults, **options))


def assert_books(s: CoinbaseSession, feed: Any, symbols: tuple[str, ...] = SYMBOLS) -> None:
    books = s.emulator.truth()["books"]
    for symbol in symbols:
        builder = feed.books[symbol]
        builder.check()
        assert builder.state is BookState.LIVE, symbol
        assert builder.book.bids() == books[symbol]["bids"], symbol
        assert builder.book.asks() == books[symbol]["asks"], symbol


def assert_trades(s: CoinbaseSession, symbol: str) -> None:
    """All trades of the simulation are there or named as missing, but for some at the very end: nothing follows them."""
    truth = s.emulator.truth()["trades"][symbol]
    ids = [t.trade_seq for t in s.of(Trade, symbol)]
    assert ids == sorted(set(ids))
    missing = {i for g in s.of(Gap, symbol) if g.reason == "trade_id" for i in range(g.first_id, g.last_id + 1)}
    known = {i for i in ids if i >= truth["first_id"]} | missing
    assert known == set(range(truth["first_id"], max(known) + 1))
    assert truth["last_id"] - max(known) < 5


@BOTH
def test_a_session_gives_what_was_simulated(exchange: Any) -> None:
    s = session(exchange)
    (feed,) = s.start(Subscription(SYMBOLS, exchange.types, ("5m",)))
    s.run()
    counters = feed.counters
    assert counters.malformed == counters.unknown_messages == counters.unknown_fields == counters.errors == 0
    assert s.of(Gap) == []
    assert_books(s, feed)
    for symbol in SYMBOLS:
        assert_trades(s, symbol)
        assert {t.side for t in s.of(Trade, symbol)} == {"buy", "sell"}
        assert len(s.of(BookDelta, symbol)) > 100
        assert len(s.of(Quote, symbol)) > 10
        assert s.of(BookSnapshot, symbol)
    if exchange is ADVANCED:
        assert {c.interval for c in s.of(Candle)} == {"5m"}
        assert any(c.state == "final" for c in s.of(Candle))
    else:
        assert sum(g.agreed for g in feed._guards.values()) > 10
        assert not any(g.disagreed for g in feed._guards.values())


@BOTH
def test_the_aggressor_is_the_simulations(exchange: Any) -> None:
    s = session(exchange)
    s.start(Subscription(SYMBOLS, ("trades",)))
    s.run()
    sides = {t.id: t.side for t in s.emulator.market.passed_trades("BTC-USD")}
    seen = {t.trade_seq: t.side for t in s.of(Trade, "BTC-USD")}
    assert len(seen) > 20
    assert all(sides[i] == side for i, side in seen.items() if i in sides)


@BOTH
@pytest.mark.parametrize(
    "fault", ["drop:stream=trades,rate=0.1", "repeat:rate=0.1", "disconnect:at=200,ms=500", "tear:stream=trades,at=20"]
)
def test_trades_are_complete_or_named_as_missing(exchange: Any, fault: str) -> None:
    s = session(exchange, fault)
    s.start(Subscription(SYMBOLS, ("trades",)))
    s.run()
    assert s.emulator.truth()["faults"]
    for symbol in SYMBOLS:
        assert_trades(s, symbol)
    # After a disconnect Advanced Trade sends the last 100 trades, so that none is missing.
    whole = fault.startswith("repeat") or (fault.startswith("disconnect") and exchange is ADVANCED)
    assert any(g.reason == "trade_id" for g in s.of(Gap)) != whole


@pytest.mark.parametrize(
    "fault", ["drop:stream=depth,at=60", "reorder:stream=depth,at=60", "tear:stream=depth,at=60",
              "drop:stream=trades,at=10", "drop:stream=clock,at=3", "repeat:rate=0.05", "malformed:at=100,form=text",
              "disconnect:at=200,ms=500", "silence:stream=trades,at=5,ms=2000"],
)  # fmt: skip
def test_advanced_books_are_right_in_the_end_and_every_loss_is_a_gap(fault: str) -> None:
    s = session(ADVANCED, fault, speed=1.0)
    (feed,) = s.start(Subscription(SYMBOLS, ("trades", "quotes", "book")))
    s.run()
    assert s.emulator.truth()["faults"]
    assert_books(s, feed)
    reasons = {(g.symbol, g.reason) for g in s.of(Gap) if g.record_type == "book_deltas"}
    if fault.startswith("repeat"):
        assert feed.counters.duplicates > 5
        assert s.of(Gap) == []
    elif fault.startswith("disconnect"):
        assert reasons >= {(symbol, "disconnect") for symbol in SYMBOLS}
    elif fault.startswith("malformed"):
        assert feed.counters.malformed == 1
    else:  # a hole in the connection loses all of its books, whatever was in it
        assert reasons - {("", "malformed")} == {(symbol, "connection_sequence") for symbol in SYMBOLS}


@pytest.mark.parametrize("fault", ["drop:stream=depth,at=60", "tear:stream=depth,at=60", "disconnect:at=200,ms=500"])
def test_exchange_books_are_right_after_a_fresh_snapshot(fault: str) -> None:
    s = session(EXCHANGE, fault, speed=1.0, duration=30 * SECOND)
    (feed,) = s.start(Subscription(SYMBOLS, ("trades", "book"), options={"refresh": "8"}))
    s.run()
    assert s.emulator.truth()["faults"]
    assert_books(s, feed)
    reasons = {g.reason for g in s.of(Gap) if g.record_type == "book_deltas"}
    assert "refresh" in reasons
    assert reasons <= {"refresh", "malformed", "disconnect", "crossed", "ticker"}


def test_without_a_fresh_snapshot_a_lost_change_may_stay_unseen() -> None:
    """What the label of integrity says: nothing in the stream itself shows a loss."""
    s = session(EXCHANGE, "drop:stream=depth,at=60,symbol=BTC-USD")
    s.start(Subscription(("BTC-USD",), ("book",), options={"refresh": "0", "guard": "0"}))
    s.run()
    assert s.emulator.truth()["faults"]
    assert {g.reason for g in s.of(Gap)} <= {"crossed"}


def test_a_heartbeat_tells_of_a_loss_at_the_end_of_the_trades() -> None:
    s = session(EXCHANGE, "drop:stream=trades,rate=1,symbol=BTC-USD", speed=1.0, duration=30 * SECOND)
    s.start(Subscription(("BTC-USD",), ("trades",)))
    s.run()
    assert s.of(Trade) != []  # the last match, at the subscription
    gaps = [g for g in s.of(Gap) if "heartbeat" in g.detail]
    assert gaps
    truth = s.emulator.truth()["trades"]["BTC-USD"]
    named = {i for g in gaps for i in range(g.first_id, g.last_id + 1)}
    assert len(named) > 0.5 * truth["count"]


# Control


class Raw:
    """A client that speaks for itself."""

    def __init__(self, exchange: Any, **options: Any) -> None:
        self.emulator = simulated(exchange, **options)
        self.now = T0
        assert isinstance(self.emulator.ws_open(1, "/", {}, self.now), Accept)

    def send(self, message: Any) -> list[Any]:
        text = message if isinstance(message, str) else json.dumps(message)
        self.now += SECOND
        return [json.loads(f.text) if isinstance(f, Text) else f for f in self.emulator.ws_receive(1, text, self.now)]


def subscribe(*channels: Any, **more: Any) -> dict[str, Any]:
    return {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": list(channels), **more}


def test_what_a_subscription_gets_at_once() -> None:
    raw = Raw(EXCHANGE)
    reply, book, match, ticker = raw.send(subscribe("matches", "level2_batch", "ticker", "heartbeat"))
    names = [c["name"] for c in reply["channels"]]
    assert names == ["matches", "level2_50", "ticker", "heartbeat"]
    assert (book["type"], match["type"], ticker["type"]) == ("snapshot", "last_match", "ticker")
    assert float(ticker["best_bid"]) == float(book["bids"][0][0])
    (again,) = raw.send(subscribe("matches"))
    assert len(again["channels"]) == 4
    (less,) = raw.send({**subscribe("matches", "level2_batch"), "type": "unsubscribe"})
    assert [c["name"] for c in less["channels"]] == ["ticker", "heartbeat"]
    (objects,) = raw.send({"type": "subscribe", "channels": [{"name": "heartbeat", "product_ids": ["ETH-USD"]}]})
    assert objects["channels"][1]["product_ids"] == ["BTC-USD", "ETH-USD"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (subscribe("matches", product_ids=["BTC-USD", "GONE-USD"]), "GONE-USD is not a valid product"),
        (subscribe("trades"), "trades is not a valid channel"),
        (subscribe(), "No channels provided"),
        ({"type": "subscribe", "channels": ["matches"]}, "at least one product"),
        ({"type": "hello"}, "Type has to be"),
        ([], "Type has to be"),
        ("{", ""),
    ],
)
def test_refusals(message: Any, reason: str) -> None:
    raw = Raw(EXCHANGE)
    (error,) = raw.send(message)
    assert error["type"] == "error"
    assert reason in error["reason"]
    (reply, *_) = raw.send(subscribe("heartbeat"))
    assert [c["name"] for c in reply["channels"]] == ["heartbeat"]  # nothing of the refused frame was taken


def test_level2_needs_a_key() -> None:
    raw = Raw(EXCHANGE)
    error, reply = raw.send(subscribe("level2"))
    assert "now require authentication" in error["reason"]
    assert reply["channels"] == []
    old = {"signature": "x" * 44, "key": "k", "passphrase": "p", "timestamp": str(raw.now // SECOND - 100)}
    assert raw.send(subscribe("level2", **old))[0]["type"] == "error"

    secret = base64.b64encode(b"secret").decode()
    s = session(EXCHANGE)
    options = {"key": "k", "secret": secret, "passphrase": "p"}
    (feed,) = s.start(Subscription(SYMBOLS, ("trades", "book"), options=options))
    s.run()
    assert_books(s, feed)
    assert feed.counters.errors == 0


@BOTH
def test_who_does_not_subscribe_within_five_seconds_is_closed(exchange: Any) -> None:
    raw = Raw(exchange)
    assert raw.emulator.poll(T0 + 4 * SECOND).frames == []
    (close,) = raw.emulator.poll(T0 + 5 * SECOND).frames
    assert isinstance(close, Close)
    assert close.code == 1008
    assert raw.emulator.ws_open(2, "/nowhere", {}, T0).status == 404


def test_advanced_numbers_every_frame_and_sends_the_snapshot_before_the_confirmation() -> None:
    raw = Raw(ADVANCED)
    one = {"type": "subscribe", "product_ids": ["BTC-USD"]}
    frames = [f for c in ("level2", "market_trades", "ticker", "candles") for f in raw.send({**one, "channel": c})]
    assert [f["channel"] for f in frames] == [
        "l2_data", "subscriptions", "market_trades", "subscriptions", "ticker", "subscriptions", "candles", "subscriptions",
    ]  # fmt: skip
    assert [f["sequence_num"] for f in frames] == list(range(8))
    trades = [int(t["trade_id"]) for t in frames[2]["events"][0]["trades"]]
    assert trades == list(range(trades[0], trades[0] - 100, -1))
    starts = [int(c["start"]) for c in frames[6]["events"][0]["candles"]]
    assert starts == sorted(starts, reverse=True)
    assert len(starts) == 9  # the tenth, which has just begun, has no trade yet
    (beat,) = raw.send({"type": "subscribe", "channel": "heartbeats"})
    assert beat["events"][0]["subscriptions"]["heartbeats"] == ["heartbeats"]


def test_advanced_refusals_and_aliases() -> None:
    raw = Raw(ADVANCED)
    for message in (
        {"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USD", "GONE-USD"]},
        {"type": "subscribe", "channel": "user", "product_ids": ["BTC-USD"]},
        {"type": "subscribe", "channels": ["level2"], "product_ids": ["BTC-USD"]},
        {"type": "subscribe", "channel": "level2"},
        {"type": "x"},
        "{",
    ):
        (error,) = raw.send(message)
        assert error["type"] == "error"
    snapshot, reply = raw.send({"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USDC"]})
    assert snapshot["events"][0]["product_id"] == "BTC-USD"
    assert reply["sequence_num"] == 1


def test_one_bad_symbol_does_not_stop_the_others() -> None:
    for exchange in (EXCHANGE, ADVANCED):
        s = session(exchange)
        known = s.instruments()
        known["GONE-USD"] = type(known["BTC-USD"])(**{
            **{f: getattr(known["BTC-USD"], f) for f in known["BTC-USD"].__struct_fields__}, "symbol": "GONE-USD",
        })  # fmt: skip
        s.instruments = lambda known=known: known  # type: ignore[method-assign]
        (feed,) = s.start(Subscription((*SYMBOLS, "GONE-USD"), ("trades", "book")))
        s.run()
        assert_books(s, feed)
        rejected = {r.symbol for r in s.of(FeedStatus) if r.state == "rejected"}
        assert rejected == {"GONE-USD"}


# REST


def test_exchange_rest() -> None:
    s = session(EXCHANGE)
    assert sorted(s.instruments()) == list(SYMBOLS)
    assert s.json("/products/BTC-USD")["base_currency"] == "BTC"
    assert "iso" in s.json("/time")
    for level, count in ((1, 1), (2, 100), (3, 100)):
        book = s.json(f"/products/BTC-USD/book?level={level}")
        assert len(book["bids"]) == count
        assert isinstance(book["bids"][0][2], str) == (level == 3)
    newest = s.get("/products/BTC-USD/trades?limit=3")
    rows = json.loads(newest.body)
    ids = [r["trade_id"] for r in rows]
    assert ids == sorted(ids, reverse=True)
    assert (newest.header("cb-before"), newest.header("cb-after")) == (str(ids[0]), str(ids[-1]))
    older = s.json(f"/products/BTC-USD/trades?limit=3&after={ids[-1]}")
    assert [r["trade_id"] for r in older] == [ids[-1] - 1, ids[-1] - 2, ids[-1] - 3]
    # "before" gives the newest page above an id, not the page just above it.
    page = s.json(f"/products/BTC-USD/trades?limit=3&before={ids[0] - 100}")
    assert [r["trade_id"] for r in page] == ids
    assert s.json("/products/BTC-USD/trades?after=1") == []
    rows = s.json("/products/BTC-USD/candles?granularity=60")
    assert len(rows) > 100
    assert [len(r) for r in rows[:2]] == [6, 6]
    assert rows[0][0] > rows[-1][0]


@pytest.mark.parametrize(
    ("exchange", "target", "status"),
    [
        (EXCHANGE, "/products/GONE-USD/book", 404),
        (EXCHANGE, "/products/BTC-USD/nothing", 404),
        (EXCHANGE, "/nothing", 404),
        (EXCHANGE, "/products/BTC-USD/book?level=4", 400),
        (EXCHANGE, "/products/BTC-USD/trades?after=x", 400),
        (EXCHANGE, "/products/BTC-USD/candles?granularity=61", 400),
        (EXCHANGE, "/products/BTC-USD/candles?granularity=60&start=0&end=18001", 400),
        (EXCHANGE, "/products/BTC-USD/candles?granularity=60&start=x&end=y", 400),
        (ADVANCED, "/api/v3/brokerage/market/products/GONE-USD", 404),
        (ADVANCED, "/nothing", 404),
        (ADVANCED, "/api/v3/brokerage/market/product_book?product_id=X", 404),
        (ADVANCED, "/api/v3/brokerage/market/product_book?product_id=BTC-USD&limit=x", 400),
        (ADVANCED, "/api/v3/brokerage/market/products/BTC-USD/ticker", 400),
        (ADVANCED, "/api/v3/brokerage/market/products/BTC-USD/candles?granularity=ONE_MINUTE&start=0&end=21001", 400),
        (ADVANCED, "/api/v3/brokerage/market/products/BTC-USD/candles?granularity=X&start=0&end=1", 400),
        (ADVANCED, "/api/v3/brokerage/market/products/BTC-USD/candles?granularity=ONE_MINUTE", 400),
    ],
)
def test_bad_requests_are_refused_with_words(exchange: Any, target: str, status: int) -> None:
    response = session(exchange).get(target)
    assert response.status == status
    error = exchange.check(response, f"http://x{target}")
    assert f"HTTP {status} (" in str(error)


def test_advanced_rest() -> None:
    s = session(ADVANCED)
    base = "/api/v3/brokerage/market"
    assert sorted(s.instruments()) == list(SYMBOLS)
    assert s.json(f"{base}/products/BTC-USDC")["alias_to"] == ["BTC-USDC"]
    book = s.json(f"{base}/product_book?product_id=BTC-USD&limit=5")["pricebook"]
    assert [len(book[side]) for side in ("bids", "asks")] == [5, 5]
    assert int(s.json("/api/v3/brokerage/time")["epochSeconds"]) > 0
    body = s.json(f"{base}/products/BTC-USD/ticker?limit=7")
    ids = [int(t["trade_id"]) for t in body["trades"]]
    assert ids == list(range(ids[0], ids[0] - 7, -1))
    assert float(body["best_bid"]) < float(body["best_ask"])


@BOTH
def test_a_refused_request_is_a_rate_limit(exchange: Any) -> None:
    s = session(exchange, "rate_limit:at=1")
    response = s.get("/products")
    error = exchange.check(response, "http://x/products")
    assert error.retry_after > 0
    assert s.fetch(exchange.instruments_request(exchange.endpoints.override("http://x"))).status == 200


# Recordings


def test_a_recording_is_served_as_it_came(recordings: Path) -> None:
    folder = recordings / "coinbase_exchange"
    products = folder / "cryptofeed_products_20210417.ndjson"
    emulator = recorded(EXCHANGE, folder / "cryptofeed_10products_20210417.ndjson.gz", instruments=str(products))
    s = CoinbaseSession(EXCHANGE, emulator, now=T0)
    symbols = ("BAND-GBP", "NMR-EUR", "SKL-BTC", "SKL-GBP", "YFI-BTC")
    assert set(symbols) == set(emulator.market.symbols)
    (feed,) = s.start(Subscription(symbols, ("trades", "quotes", "book")))
    s.run()
    counters = feed.counters
    assert counters.malformed == counters.unknown_messages == counters.errors == 0
    assert len(s.of(Trade)) == 26
    assert len(s.of(Quote)) == 26
    assert len(s.of(BookDelta)) == 3451
    assert s.of(Gap) == []
    assert_books(s, feed, symbols)
    assert s.json("/products/NMR-EUR/trades?limit=2")[0]["side"] in ("buy", "sell")


def test_an_advanced_recording_is_numbered_anew(recordings: Path) -> None:
    path = recordings / "coinbase_advanced" / "tickvault_level2_btcusd_20260824_trimmed.ndjson"
    emulator = recorded(ADVANCED, path)
    s = CoinbaseSession(ADVANCED, emulator)
    (feed,) = s.start(Subscription(("BTC-USD",), ("trades", "book")))
    s.run()
    assert feed.counters.gaps == feed.counters.duplicates == 0
    assert len(s.of(BookDelta)) == 6
    numbers = [json.loads(f)["sequence_num"] for f in s.frames]
    assert numbers == list(range(len(numbers)))
    assert_books(s, feed, ("BTC-USD",))
