"""API v1: control frames, arrays, damage; and whatever bytes come, both versions stay calm. All messages are made up."""

from __future__ import annotations

import json
from typing import Any

import kraken_wire as w
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kraken_wire import BTC, DOGE, NOW, SECOND

from cmd_common.feed import Send, Subscription
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState
from cmd_kraken import KRAKEN
from cmd_kraken._feed_base import KrakenFeedBase
from cmd_kraken._v1 import KrakenV1Feed, trade_names

TIME = "1767225600.000500"


def feed(*types: str, api: str = "v1", **changes: Any) -> Any:
    instruments = {i.symbol: i for i in KRAKEN.parse_instruments(w.INSTRUMENTS)}
    subscription = Subscription((BTC, DOGE), types or KRAKEN.types, options={"api": api}, **changes)
    (made,) = KRAKEN.feeds(subscription, instruments, KRAKEN.endpoints)
    assert isinstance(made, KrakenFeedBase)
    made.connected(NOW)
    return made


def data(made: Any, *frames: Any) -> list[Any]:
    out = []
    for frame in frames:
        text = frame if isinstance(frame, str) else json.dumps(frame)
        out += [r for r in made.receive(text, NOW).records if not isinstance(r, FeedStatus)]
    return out


def snapshot(n: int, pair: str = "XBT/USD") -> list[Any]:
    bids, asks = w.book(n)
    return [1, {"as": [[p, q, TIME] for p, q in asks], "bs": [[p, q, TIME] for p, q in bids]}, "book-1000", pair]


def update(n: int, *, parts: int = 1, checksum: int | None = None) -> list[Any]:
    bids, asks = ([[p, q, TIME] for p, q in side] for side in w.changes(n))
    crc = {"c": str(w.crc(*w.book(n)) if checksum is None else checksum)}
    dicts = [{"a": asks, "b": bids, **crc}] if parts == 1 else [{"a": asks}, {"b": bids, **crc}]
    return [1, *dicts, "book-1000", "XBT/USD"]


def test_subscriptions() -> None:
    made = feed(depth=100)
    assert isinstance(made, KrakenV1Feed)
    assert made.url == "wss://ws.kraken.com/"
    requests = [json.loads(a.frame) for a in made.connected(NOW).actions if isinstance(a, Send)]
    assert {r["event"] for r in requests} == {"subscribe"}
    assert all(r["pair"] == ["XBT/USD", "XDG/EUR"] for r in requests)
    assert [r["subscription"] for r in requests] == [
        {"name": "trade"},
        {"name": "ticker"},
        {"name": "ohlc", "interval": 1},
        {"name": "book", "depth": 100},
    ]


def status(state: str, pair: str | None, name: str, **more: Any) -> dict[str, Any]:
    message = {"channelID": 1, "event": "subscriptionStatus", "status": state, "subscription": {"name": name, **more}}
    return message | ({"pair": pair} if pair else {})


def test_one_bad_pair_is_named_and_left_out() -> None:
    made = feed("trades", "candles", "book")
    for name, more in (("trade", {}), ("book", {"depth": 1000}), ("ohlc", {"interval": 1})):
        made.receive(json.dumps(status("subscribed", "XBT/USD", name, **more)), NOW)
        refused = status("error", "XDG/EUR", name, **more) | {"errorMessage": "Currency pair not supported XDG/EUR"}
        states = [r.state for r in made.receive(json.dumps(refused), NOW).records]
        assert states == ["error", "rejected"]
    assert all(s.acked for s in made._streams.values() if s.symbol == BTC)
    assert all(s.rejected for s in made._streams.values() if s.symbol == DOGE)


def test_books_of_one_and_two_dictionaries() -> None:
    made = feed("book")
    records = data(made, snapshot(3), update(4), update(5, parts=2))
    assert [type(r) for r in records] == [BookSnapshot, BookDelta, BookDelta]
    assert records[1].ts_event == NOW + 500_000
    book = made.books[BTC].book
    assert (book.bids(), book.asks()) == tuple([(float(p), float(q)) for p, q in side] for side in w.book(5))
    again = update(6)
    again[1]["a"][0].append("r")  # a level that is sent again
    assert len(data(made, again)) == 1


def test_a_wrong_checksum_loses_the_book() -> None:
    made = feed("book")
    assert [type(r) for r in data(made, snapshot(3), update(4, checksum=1))] == [BookSnapshot]
    assert made.books[BTC].state is BookState.STALE
    assert [type(r) for r in data(made, update(5), snapshot(6), update(7))] == [Gap, BookSnapshot, BookDelta]


def row(price: str = "100.20000", side: str = "b", time: str = TIME) -> list[str]:
    return [price, "0.50000000", time, side, "l", ""]


def test_trades_are_known_by_what_they_say() -> None:
    made = feed("trades")
    frame = [1, [row(), row(side="s"), row()], "trade", "XBT/USD"]
    trades = data(made, frame)
    assert [(t.price, t.side, t.trade_seq) for t in trades] == [
        (100.2, "buy", None),
        (100.2, "sell", None),
        (100.2, "buy", None),
    ]
    assert len({t.trade_id for t in trades}) == 3
    assert data(made, frame) == []  # the backlog after a reconnect
    assert trade_names([row(), row()]) == trade_names([row(), row()])


def test_a_first_backlog_only_tells_where_trades_stand() -> None:
    made = feed("trades")
    backlog = [1, [row(price=f"{n}.0") for n in range(1, 51)], "trade", "XBT/USD"]
    assert data(made, backlog) == []
    assert (
        len(data(made, [1, [row(price="50.0")], "trade", "XBT/USD"], [1, [row(price="51.0")], "trade", "XBT/USD"])) == 1
    )


def test_quotes_and_candles() -> None:
    made = feed("quotes", "candles")
    ticker = {"a": ["100.5", 2, "2.00000000"], "b": ["99.5", 1, "1.50000000"]}
    assert [(q.bid_price, q.ask_quantity) for q in data(made, [1, ticker, "ticker", "XBT/USD"])] == [(99.5, 2.0)]
    (quote,) = data(made, [1, ["99.6", "100.5", TIME, "1.0", "2.0"], "spread", "XBT/USD"])
    assert isinstance(quote, Quote)
    assert quote.ts_event == NOW + 500_000

    def candle(minute: int) -> list[Any]:
        end = f"{NOW // SECOND + 60 * (minute + 1)}.000000"
        return [1, [TIME, end, "100.0", "102.0", "99.0", "101.5", "100.7", "12.5", 7], "ohlc-1", "XBT/USD"]

    states = [(r.open_time - NOW, r.state) for r in data(made, candle(0), candle(2)) if isinstance(r, Candle)]
    assert states == [(0, "provisional"), (0, "final"), (120 * SECOND, "provisional")]


@pytest.mark.parametrize(
    ("frame", "state"),
    [
        ({"event": "systemStatus", "status": "maintenance", "version": "1"}, "maintenance"),
        ({"event": "error", "errorMessage": "Malformed request"}, "error"),
        ({"event": "novelty"}, "unknown_message"),
        ([1, {}, "novelty", "XBT/USD"], "unknown_message"),
        (status("strange", "XBT/USD", "trade"), "unknown_message"),
        (status("error", None, "trade") | {"errorMessage": "No"}, "error"),
    ],
)
def test_what_is_reported(frame: Any, state: str) -> None:
    assert [r.state for r in feed("trades").receive(json.dumps(frame), NOW).records] == [state]


@pytest.mark.parametrize(
    "frame",
    [
        {"event": "heartbeat"},
        {"event": "pong"},
        {"event": "systemStatus", "status": "online"},
        status("unsubscribed", "XBT/USD", "trade"),
    ],
)
def test_what_says_nothing(frame: Any) -> None:
    made = feed("trades")
    assert made.receive(json.dumps(frame), NOW).records == []
    assert made.counters.unknown_messages == made.counters.malformed == 0


@pytest.mark.parametrize(
    "frame",
    [
        [1, [["x", "1", TIME, "b", "l", ""]], "trade", "XBT/USD"], [1, [["1", "1", TIME, "x", "l", ""]], "trade", "XBT/USD"],
        [1, [["0.0", "1", TIME, "b", "l", ""]], "trade", "XBT/USD"], [1, [["1"]], "trade", "XBT/USD"], [1, 5, "trade", "XBT/USD"],
        [1, {"a": [["-1", "1", TIME]], "c": "1"}, "book-1000", "XBT/USD"], [1, {"a": [["1", "1", "x"]]}, "book-1000", "XBT/USD"],
        [1, {"a": [["1", "1", TIME]], "c": "x"}, "book-1000", "XBT/USD"], [1, {"a": 7}, "book-x", "XBT/USD"], [1, {}, "ticker", "XBT/USD"],
        [1, [TIME], "ohlc-1", "XBT/USD"],
    ],
)  # fmt: skip
def test_damage_is_counted(frame: Any) -> None:
    made = feed()
    data(made, snapshot(3))
    assert [r for r in data(made, frame) if not isinstance(r, Gap)] == []
    assert made.counters.malformed == 1


def test_pings_of_v1() -> None:
    made = feed("trades")
    frames = []
    for n in range(1, 25):
        made.receive('{"event":"heartbeat"}', NOW + n * SECOND)
        frames += [a.frame for a in made.tick(NOW + n * SECOND).actions if isinstance(a, Send)]
    assert frames.count('{"event":"ping"}') == 1


# Whatever comes

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats(allow_nan=False) | st.sampled_from(["XBT/USD", BTC, "book-1000", "trade", "x", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["channel", "type", "data", "symbol", "bids", "asks", "checksum", "method", "result", "success", "error", "a", "b", "as", "event"]),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip
FRAMES = [
    w.snapshot(BTC, 3), w.depth(BTC, 4), w.trade(BTC, 1), w.ticker(BTC), w.candles("update", w.candle_row(BTC, 1)),
    json.dumps(snapshot(3)), json.dumps(update(4)), json.dumps([1, [row()], "trade", "XBT/USD"]),
]  # fmt: skip


@given(
    st.sampled_from(["v1", "v2"]),
    st.lists(JSON.map(json.dumps) | st.text(max_size=20) | st.binary(max_size=20), max_size=4),
)
def test_arbitrary_json_is_never_an_exception_nor_market_data(api: str, frames: list[Any]) -> None:
    made = feed(api=api)
    for frame in frames:
        for record in made.receive(frame, NOW).records:
            assert isinstance(record, FeedStatus | Gap)
    made.tick(NOW + SECOND)


@given(
    st.sampled_from(FRAMES),
    st.integers(0, 400),
    st.text(alphabet='0123456789.-"{}[],:eEx', max_size=3),
    st.sampled_from(["v1", "v2"]),
)
def test_mutated_frames_are_never_an_exception_and_books_stay_sound(text: str, at: int, new: str, api: str) -> None:
    made = feed(api=api)
    for frame in FRAMES[:1] if api == "v2" else FRAMES[5:6]:
        made.receive(frame, NOW)
    at %= len(text)
    for record in made.receive(text[:at] + new + text[at + len(new) :], NOW).records:
        if isinstance(record, Trade):
            assert 0 < record.price < 1e25
            assert 0 <= record.quantity < 1e25
    for builder in made.books.values():
        builder.check()
