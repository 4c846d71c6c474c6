"""Gemini's feeds and what an exchange may send to them."""

from __future__ import annotations

import json
from math import isnan
from typing import Any

import gemini_wire as w
import pytest
from gemini_wire import MS, NOW, SECOND, A, B

from cmd_common.feed import Feed, Reconnect, Resubscribe, Send, Subscription
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState
from cmd_gemini import GEMINI

MINUTE = 60 * SECOND


class Client:
    """One feed, its records, and an exchange that sends books at first and confirms at once."""

    def __init__(self, *types: str, symbols: tuple[str, ...] = (A,), answers: bool = True, **options: str) -> None:
        known = {i.symbol: i for i in GEMINI.parse_instruments(w.DETAILS)}
        self.v2 = options.get("api") == "v2" or types == ("candles",)
        self.feed: Feed
        subscription = Subscription(symbols, types, options=options)
        (self.feed,) = GEMINI.feeds(subscription, known, GEMINI.endpoints)
        self.now = NOW
        self.at = 0  # messages that the exchange has sent
        self.answers = answers
        self.records: list[Record] = []
        self.sent: list[str] = []
        self.resubscribed = 0
        self.reconnects: list[str] = []
        self.take(self.feed.connected(self.now))

    def take(self, out: Any) -> None:
        self.records += out.records
        for action in out.actions:
            frames: tuple[str, ...] = ()
            if isinstance(action, Send):
                frames = (action.frame,)
            elif isinstance(action, Resubscribe):
                self.resubscribed += 1
                frames = action.frames
            elif isinstance(action, Reconnect):
                self.reconnects.append(action.reason)
            for frame in frames:
                self.sent.append(frame)
                if self.answers:
                    self.reply(frame)

    def reply(self, frame: str) -> None:
        if self.v2:
            for symbol in w.v2_seeds(frame):
                self.give(w.v2_snapshot(symbol, self.at))
            return
        if json.loads(frame)["method"] == "subscribe":
            for symbol in w.seeds(frame):
                self.give(w.snapshot(symbol, self.at))
        self.give(w.answer(frame)[0])

    def give(self, frame: str | bytes) -> None:
        self.take(self.feed.receive(frame, self.now))

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += SECOND
            self.take(self.feed.tick(self.now))

    def of(self, kind: type[Any]) -> list[Any]:
        return [r for r in self.records if isinstance(r, kind)]

    def states(self) -> list[str]:
        return [r.state for r in self.of(FeedStatus)]

    @property
    def state(self) -> BookState:
        return self.feed.books[A].state


def update(first: int, last: int, n: int = 1, symbol: str = A, **changes: Any) -> str:
    bids, asks = w.changes(n)
    body = {"e": "depthUpdate", "E": w.ns(n), "s": symbol.lower(), "U": first, "u": last, "b": bids, "a": asks}
    return w.text({**body, **changes})


# Current API: books


@pytest.mark.parametrize("offset", [0, 1])
def test_both_ways_to_continue_are_taken(offset: int) -> None:
    client = Client("book")
    client.give(update(1000 + offset, 1040))
    client.give(update(1040 + offset, 1050, 2))
    assert [(d.first_seq, d.seq) for d in client.of(BookDelta)] == [(1000 + offset, 1040), (1040 + offset, 1050)]
    assert client.of(Gap) == []


def test_a_hole_is_a_gap_and_a_new_book() -> None:
    client = Client("book")
    client.give(update(1000, 1010, 1))
    client.at = 3
    client.give(update(1020, 1030, 3))
    assert client.resubscribed == 1
    methods = [json.loads(f)["method"] for f in client.sent]
    assert methods == ["subscribe", "unsubscribe", "subscribe"]
    assert client.state is BookState.LIVE
    (gap,) = client.of(Gap)
    assert (gap.reason, gap.first_id, gap.last_id, gap.ts_from, gap.ts_to) == (
        "sequence", 1011, 1030, w.ns(1), w.ns(3),
    )  # fmt: skip
    client.give(update(1030, 1040, 4))
    assert [d.epoch for d in client.of(BookDelta)] == [1000, 1030]


def test_a_first_message_without_the_form_of_a_snapshot_is_no_book() -> None:
    client = Client("book", answers=False)
    client.give(update(900, 1010))
    assert client.state is BookState.SYNCING
    client.give(w.answer(client.sent[0])[0])
    assert client.of(BookSnapshot) == []
    client.tick(16)
    assert "snapshot_failed" in client.states()
    assert client.resubscribed == 1
    client.give(w.snapshot(A, 5))
    assert client.state is BookState.LIVE


def test_a_later_message_of_one_id_is_no_snapshot() -> None:
    client = Client("book")
    client.give(update(1001, 1001, b=[["99.00", "7"]], a=[]))
    assert client.state is BookState.LIVE
    assert len(client.of(BookSnapshot)) == 1
    assert client.feed.books[A].book.best_bid == (99.0, 7.0)


def test_a_late_message_of_one_id_is_no_snapshot_of_the_next_subscription() -> None:
    client = Client("book")
    client.answers = False
    client.give(update(1000, 1010, 1))
    client.give(update(1020, 1030, 3))
    assert client.resubscribed == 1
    client.give(update(1031, 1031, 4))  # still of the subscription that is being left
    assert client.state is BookState.STALE
    client.give(w.snapshot(A, 5))
    assert client.state is BookState.LIVE
    assert [s.epoch for s in client.of(BookSnapshot)] == [1000, 1050]


def test_a_book_that_breaks_again_and_again_is_asked_for_ever_more_slowly() -> None:
    client = Client("book")
    for n in range(1, 40):
        client.give(update(10**6 * n, 10**6 * n + 5, n))
        client.tick(1)
    assert 3 <= client.resubscribed <= 12


def test_empty_sides_are_a_book() -> None:
    client = Client("quotes", "book", answers=False)
    client.give(update(5, 5, b=[], a=[]))
    assert client.state is BookState.LIVE
    client.give(update(5, 6, b=[["1E+2", "1E-8"]], a=[]))
    assert client.feed.books[A].book.bids() == [(100.0, 1e-08)]


@pytest.mark.parametrize(
    "changes",
    [
        {"b": [["-1", "1"]]},
        {"b": [["0", "1"]]},
        {"b": [["1", "-1"]]},
        {"b": [["1", "NaN"]]},
        {"b": [["1"]]},
        {"b": "x"},
        {"U": -1},
        {"u": 1 << 63},
        {"E": -5},
        {"E": 0},
        {"E": "x"},
        {"a": None},
    ],
)
def test_impossible_books_are_malformed_and_seen_at_the_next_message(changes: dict[str, Any]) -> None:
    client = Client("book", "trades")
    client.give(update(1000, 1010, **changes))
    assert client.feed.counters.malformed == 1
    assert client.of(BookDelta) == []
    client.at = 2
    client.give(update(1010, 1020, 2))
    assert [g.reason for g in client.of(Gap)] == ["sequence"]
    assert client.state is BookState.LIVE


def test_a_damaged_trade_is_a_gap_of_trades_only() -> None:
    client = Client("trades", "book")
    client.give(w.trade(A, 1))
    client.give(w.trade(A, 2).replace("100.25", "abc"))
    client.give(w.trade(A, 3))
    assert [(g.record_type, g.reason, g.ts_from, g.ts_to) for g in client.of(Gap)] == [
        ("trades", "malformed", w.ns(1), w.ns(3))
    ]
    assert client.state is BookState.LIVE


def test_quotes_only_rise() -> None:
    client = Client("quotes")
    quote = {"u": 400, "E": w.ns(1), "s": "btcusd", "b": "99.50", "B": "1.5", "a": "100.50", "A": "2"}
    for u in (400, 400, 390, 401):
        client.give(w.text({**quote, "u": u}))
    assert [q.seq for q in client.of(Quote)] == [400, 401]
    assert client.feed.counters.duplicates == 2


def test_the_best_levels_without_a_symbol_are_those_of_the_only_one() -> None:
    known = {i.symbol: i for i in GEMINI.parse_instruments(w.DETAILS)}
    body = {"lastUpdateId": 7, "bids": [["1", "2"]], "asks": [["3", "4"]]}
    (feed,) = GEMINI.feeds(Subscription((A,), ("book",), depth=5), known, GEMINI.endpoints)
    feed.connected(NOW)
    assert len([r for r in feed.receive(w.text(body), NOW).records if isinstance(r, BookSnapshot)]) == 1
    assert [r for r in feed.receive(w.text(body), NOW).records if isinstance(r, BookSnapshot)] == []
    (two,) = GEMINI.feeds(Subscription((A, B), ("book",), depth=5), known, GEMINI.endpoints)
    two.connected(NOW)
    assert two.receive(w.text(body), NOW).records == []
    assert two.counters.skipped == 1
    assert len(two.receive(w.text({**body, "symbol": "btcusd"}), NOW).records) == 2


# Current API: answers


def test_a_limit_is_no_bad_name() -> None:
    client = Client("trades", answers=False)
    request = json.loads(client.sent[0])
    client.give(w.text({"id": request["id"], "status": 429, "error": {"code": -1003, "msg": "Too many requests"}}))
    assert "rejected" not in client.states()
    client.answers = True
    client.tick(4)
    assert len(client.sent) == 2
    client.give(w.trade(A, 1))
    assert len(client.of(Trade)) == 1


def test_a_request_that_nobody_answers_ends_in_a_new_connection() -> None:
    client = Client("trades", answers=False)
    for _ in range(45):
        client.tick(1)
        client.give('{"id":99999,"status":200}')  # the connection is alive
    assert len(client.reconnects) == 1
    assert "not answered" in client.reconnects[0]


def test_a_quiet_connection_is_asked_for_a_sign_of_life() -> None:
    client = Client("trades")
    client.sent.clear()
    client.tick(70)
    assert [json.loads(f)["method"] for f in client.sent] == ["ping"] * 3
    assert client.reconnects == []
    client.answers = False
    client.tick(70)
    assert len(client.reconnects) == 1


@pytest.mark.parametrize("api", ["current", "v2"])
def test_huge_frames_are_not_decoded(api: str) -> None:
    client = Client("trades", api=api)
    client.give(w.trade(A, 1) + " " * 20_000_000)
    assert client.feed.counters.malformed == 1
    assert client.of(Trade) == []


def test_words_of_maintenance_are_an_error_row() -> None:
    client = Client("trades")
    client.give('{"id":null,"status":503,"error":{"code":-1001,"msg":"System is\\nunder maintenance"}}')
    (row,) = [r for r in client.of(FeedStatus) if r.state == "error"]
    assert row.reason == "-1001: System is under maintenance"
    client.give('{"id":"x","status":500}')
    assert client.feed.counters.errors == 2


# v2


def test_trades_of_a_fresh_book_close_the_gap_of_a_disconnect() -> None:
    client = Client("trades", "book", api="v2")
    client.give(w.v2_trade(A, 1))
    client.take(client.feed.disconnected(client.now, "test"))
    client.answers = False
    client.take(client.feed.connected(client.now))
    backlog = [json.loads(w.v2_trade(A, n)) for n in (3, 2, 1)]  # newest first; 2 and 3 were missed
    body = json.loads(w.v2_snapshot(A, 2))
    client.give(w.text({**body, "trades": backlog}))
    assert [t.trade_id for t in client.of(Trade)] == ["7000003", "7000006", "7000009"]
    assert [g.record_type for g in client.of(Gap)] == ["book_deltas"]


def test_trades_that_are_not_in_the_backlog_any_more_are_a_gap() -> None:
    client = Client("trades", api="v2")
    client.give(w.v2_trade(A, 1))
    client.take(client.feed.disconnected(client.now, "test"))
    client.answers = False
    client.take(client.feed.connected(client.now))
    body = json.loads(w.v2_snapshot(A, 2))
    client.give(w.text({**body, "trades": [json.loads(w.v2_trade(A, 9))]}))
    (gap,) = client.of(Gap)
    assert (gap.record_type, gap.reason) == ("trades", "disconnect")
    assert (gap.ts_from, gap.ts_to) == ((MS + 1) * 1_000_000, (MS + 9) * 1_000_000)


def test_a_fresh_copy_that_agrees_is_no_gap_and_one_that_differs_is() -> None:
    client = Client("book", api="v2", reseed="10")
    client.give(w.v2_depth(A, 1))
    client.at = 1
    client.tick(11)
    assert client.resubscribed == 1
    assert client.of(Gap) == []
    assert client.feed.counters.resyncs == 0
    client.at = 2  # the message was lost
    client.tick(11)
    assert [g.reason for g in client.of(Gap)] == ["reseed"]
    assert client.state is BookState.LIVE
    client.give('{"type":"heartbeat","timestamp":1}')
    assert client.reconnects == []


def test_a_book_whose_fresh_copy_does_not_come_is_not_live() -> None:
    client = Client("book", symbols=(A, w.B), api="v2", reseed="30")
    client.answers = False
    client.tick(20)
    client.give('{"type":"heartbeat","timestamp":1}')
    client.tick(10)
    assert client.resubscribed >= 1
    client.tick(4)
    assert client.state is BookState.STALE
    client.give(w.v2_snapshot(A, 3))
    assert client.state is BookState.LIVE
    (gap,) = client.of(Gap)
    assert (gap.symbol, gap.reason) == (A, "reseed")


def test_an_error_that_names_a_symbol_refuses_only_that_one() -> None:
    client = Client("book", symbols=(A, B), api="v2", answers=False)
    client.give('{"result":"error","reason":"InvalidSymbol","message":"Supplied value \'ETHGUSDPERP\' is not valid"}')
    (row,) = [r for r in client.of(FeedStatus) if r.state == "rejected"]
    assert row.symbol == B
    client.give(w.v2_snapshot(A, 1))
    assert client.state is BookState.LIVE


def test_what_is_not_answered_goes_out_one_by_one() -> None:
    client = Client("book", symbols=(A, B), api="v2", answers=False)
    for _ in range(34):
        client.tick(1)
        client.give(w.v2_snapshot(A, 1) if client.now == NOW + 15 * SECOND else '{"type":"heartbeat","timestamp":1}')
    symbols = [json.loads(f)["subscriptions"][0]["symbols"] for f in client.sent]
    assert symbols == [[A, B], [A], [B], [B]]
    assert [r.symbol for r in client.of(FeedStatus) if r.state == "rejected"] == [B]
    assert client.reconnects == []


# v2: candles


def candles(*rows: tuple[int, float, float]) -> str:
    """Rows of minute, close and volume, as they come: newest first."""
    made = [[NOW // 1_000_000 + 60_000 * m, 100.0, 102.0, 99.0, close, volume] for m, close, volume in rows]
    return w.text({"type": "candles_1m_updates", "symbol": A, "changes": made})


def seen(client: Client) -> list[tuple[int, str, float]]:
    return [((c.open_time - NOW) // MINUTE, c.state, c.volume) for c in client.of(Candle)]


def test_a_candle_is_final_when_a_later_one_is_there() -> None:
    client = Client("candles")
    client.give(candles((0, 101.0, 3.0), (-1, 100.0, 2.0), (-2, 100.0, 1.0)))
    client.give(candles((0, 101.5, 4.0)))
    client.give(candles((1, 101.0, 1.0), (0, 101.5, 5.0)))
    client.give(candles((1, 101.0, 2.0)))
    assert seen(client) == [
        (0, "provisional", 3.0),
        (0, "provisional", 4.0),
        (0, "provisional", 5.0),
        (0, "final", 5.0),
        (1, "provisional", 1.0),
        (1, "provisional", 2.0),
    ]
    assert client.of(Gap) == []
    first = client.of(Candle)[0]
    assert (first.trades, first.interval, first.close) == (-1, "1m", 101.0)
    assert isnan(first.quote_volume)


def test_a_candle_is_final_half_a_minute_after_its_end() -> None:
    client = Client("candles")
    client.give(candles((0, 101.0, 3.0)))
    for _ in range(95):
        client.tick(1)
        client.give('{"type":"heartbeat","timestamp":1}')
    assert seen(client) == [(0, "provisional", 3.0), (0, "final", 3.0)]
    client.give(candles((0, 101.0, 9.0)))  # too late
    assert len(seen(client)) == 2


def test_candles_that_a_disconnect_has_cost_come_with_the_next_subscription() -> None:
    client = Client("candles")
    client.give(candles((0, 101.0, 3.0)))
    client.take(client.feed.disconnected(client.now, "test"))
    client.take(client.feed.connected(client.now))
    client.give(candles((3, 1.0, 1.0), (2, 101.0, 7.0), (1, 100.0, 6.0), (0, 100.0, 5.0), (-1, 100.0, 4.0)))
    assert seen(client)[1:] == [
        (0, "provisional", 5.0),
        (0, "final", 5.0),
        (1, "provisional", 6.0),
        (1, "final", 6.0),
        (2, "provisional", 7.0),
        (2, "final", 7.0),
        (3, "provisional", 1.0),
    ]
    assert client.of(Gap) == []


def test_a_candle_whose_end_may_be_lost_waits_for_the_next_subscription() -> None:
    client = Client("candles")
    client.give(candles((0, 101.0, 3.0)))
    client.take(client.feed.disconnected(client.now, "test"))
    client.now += 2 * MINUTE
    client.take(client.feed.connected(client.now))
    client.tick(1)
    assert seen(client) == [(0, "provisional", 3.0)]
    client.give(candles((2, 101.0, 7.0), (1, 100.0, 6.0), (0, 100.0, 5.0), (-1, 100.0, 4.0)))
    assert seen(client)[1:3] == [(0, "provisional", 5.0), (0, "final", 5.0)]
    assert client.of(Gap) == []


def test_a_candle_whose_end_was_lost_is_not_made_final() -> None:
    client = Client("candles")
    client.give(candles((0, 101.0, 3.0)))
    client.take(client.feed.disconnected(client.now, "test"))
    client.now += 5 * MINUTE
    client.take(client.feed.connected(client.now))
    client.give(candles((5, 101.0, 7.0), (4, 100.0, 6.0)))
    assert (0, "final", 3.0) not in seen(client)
    (gap,) = client.of(Gap)
    assert (gap.severity, gap.ts_from, gap.ts_to) == ("suspect", NOW, NOW + 4 * MINUTE)


def test_a_missing_candle_is_a_suspect_gap() -> None:
    client = Client("candles")
    client.give(candles((0, 101.0, 3.0)))
    client.give(candles((2, 101.0, 3.0)))
    (gap,) = client.of(Gap)
    assert (gap.record_type, gap.severity, gap.ts_from, gap.ts_to) == (
        "candles", "suspect", NOW + MINUTE, NOW + 2 * MINUTE,
    )  # fmt: skip


@pytest.mark.parametrize("bad", ['"x"', "-1", "1e999", "null"])
def test_impossible_candles_are_malformed(bad: str) -> None:
    client = Client("candles")
    client.give(candles((0, 101.0, 3.0)).replace("102.0", bad))
    assert client.of(Candle) == []
    assert client.feed.counters.malformed == 1
