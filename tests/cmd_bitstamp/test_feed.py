"""Bitstamp's feed and what an exchange may send to it."""

from __future__ import annotations

import json
from typing import Any

import bitstamp_wire as w
import pytest
from bitstamp_wire import NOW, SECOND, A, B

from cmd_bitstamp import BITSTAMP
from cmd_common.feed import Feed, FetchSnapshot, Reconnect, Send, Subscription
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState


class Client:
    """One feed, its records, and an exchange that confirms at once."""

    def __init__(self, *types: str, symbols: tuple[str, ...] = (A,), **options: str) -> None:
        known = {i.symbol: i for i in BITSTAMP.parse_instruments(w.PAIRS)}
        subscription = Subscription(symbols, types, options=options)
        self.feed: Feed
        (self.feed,) = BITSTAMP.feeds(subscription, known, BITSTAMP.endpoints)
        self.now = NOW
        self.records: list[Record] = []
        self.requests: list[str] = []
        self.reconnects: list[str] = []
        self.sent: list[str] = []
        self.take(self.feed.connected(self.now))

    def take(self, out: Any) -> None:
        self.records += out.records
        for action in out.actions:
            if isinstance(action, Send):
                self.sent.append(action.frame)
                for reply in w.answer(action.frame):
                    self.give(reply)
            elif isinstance(action, FetchSnapshot):
                self.requests.append(action.symbol)
            elif isinstance(action, Reconnect):
                self.reconnects.append(action.reason)

    def give(self, frame: str | bytes) -> None:
        self.take(self.feed.receive(frame, self.now))

    def seed(self, n: int, body: str = "") -> None:
        symbol = self.requests.pop(0)
        self.take(self.feed.snapshot(symbol, (body or w.snapshot(symbol, n)).encode(), self.now))

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += SECOND
            self.take(self.feed.tick(self.now))

    def of(self, kind: type[Any]) -> list[Any]:
        return [r for r in self.records if isinstance(r, kind)]

    def states(self) -> list[str]:
        return [r.state for r in self.of(FeedStatus)]


def live(n: int = 3, **options: str) -> Client:
    client = Client("quotes", "book", **options)
    client.give(w.depth(A, 1))
    client.seed(1)
    for k in range(2, n + 1):
        client.give(w.depth(A, k))
    assert client.feed.books[A].state is BookState.LIVE
    return client


def test_changes_before_the_snapshot_are_contained_in_it() -> None:
    client = Client("book")
    for n in (1, 2, 3, 4):
        client.give(w.depth(A, n))
    assert client.of(BookDelta) == []
    client.seed(2)
    assert [d.seq for d in client.of(BookDelta)] == [w.us(3), w.us(4)]
    (snapshot,) = client.of(BookSnapshot)
    assert (snapshot.seq, snapshot.ts_event) == (w.us(2), w.ns(3))


def test_a_snapshot_older_than_the_first_change_is_asked_for_again() -> None:
    client = Client("book")
    client.give(w.depth(A, 5))
    client.seed(4)
    client.tick(3)
    assert client.requests == [A]
    client.seed(6)
    client.give(w.depth(A, 7))
    assert client.feed.books[A].state is BookState.LIVE


def test_a_repeated_change_is_dropped_and_counted() -> None:
    client = live()
    before = client.feed.books[A].book.bids()
    client.give(w.depth(A, 3))
    client.give(w.depth(A, 3))
    assert client.feed.counters.duplicates == 2
    assert client.feed.books[A].book.bids() == before


def test_a_change_out_of_order_loses_the_book() -> None:
    client = live()
    client.give(w.depth(A, 2))
    assert client.feed.books[A].state is BookState.STALE
    assert client.requests == [A]
    client.seed(5)
    client.give(w.depth(A, 6))
    assert client.feed.books[A].state is BookState.LIVE
    gaps = client.of(Gap)
    assert [(g.record_type, g.reason) for g in gaps] == [("book_deltas", "sequence"), ("quotes", "sequence")]


def test_a_crossed_book_is_seeded_anew() -> None:
    client = live()
    bad = json.loads(w.depth(A, 4))
    bad["data"]["bids"] = [["500.00", "1.0"]]
    client.give(w.text(bad))
    assert client.feed.books[A].state is BookState.STALE
    assert client.requests == [A]
    client.seed(5)
    client.give(w.depth(A, 6))
    gaps = client.of(Gap)
    assert [(g.record_type, g.reason) for g in gaps] == [("book_deltas", "crossed"), ("quotes", "crossed")]
    assert (gaps[0].ts_from, gaps[0].ts_to) == (w.ns(3), w.ns(6))


def test_a_fresh_snapshot_that_agrees_changes_nothing() -> None:
    client = live(reseed="10")
    client.tick(12)
    assert client.requests == [A]
    client.give(w.depth(A, 4))
    client.seed(4)
    client.give(w.depth(A, 5))
    assert client.of(Gap) == []
    assert "differs" not in client.states()
    assert len(client.of(BookDelta)) == 4
    assert client.feed.books[A].epoch == w.us(1)


def test_a_snapshot_may_hold_what_the_next_change_tells() -> None:
    """Changes are told some moments after they happened; a snapshot is of the moment itself."""
    client = live(reseed="10")
    client.tick(12)
    client.seed(5)  # the changes 4 and 5 come together, as 5
    assert client.feed.books[A].state is BookState.LIVE
    both = json.loads(w.depth(A, 6))
    for n in (4, 5, 6):
        for side, levels in zip(("bids", "asks"), w.changes(n), strict=True):
            both["data"][side] = [x for x in both["data"][side] if x[0] not in {p for p, _ in levels}] + levels
    client.give(w.text(both))
    assert client.of(Gap) == []
    assert client.feed.books[A].state is BookState.LIVE


@pytest.mark.parametrize("newer", [False, True])
def test_a_lost_change_is_a_gap_since_the_last_agreement(newer: bool) -> None:
    client = live(reseed="10")
    client.tick(12)
    client.give(w.depth(A, 4))
    client.seed(4)  # agrees
    client.give(w.depth(A, 5))
    client.give(w.depth(A, 7))  # 6 was lost
    client.tick(12)
    if newer:
        client.seed(8)
        assert client.of(Gap) == []
        client.give(w.depth(A, 9))
    else:
        client.give(w.depth(A, 8))
        client.seed(8)
    assert client.states().count("differs") == 1
    assert client.feed.books[A].state is BookState.STALE
    client.seed(10)
    client.give(w.depth(A, 11))
    gaps = client.of(Gap)
    assert {(g.record_type, g.reason, g.ts_from, g.ts_to) for g in gaps} == {
        ("book_deltas", "reseed", w.ns(4), w.ns(11)),
        ("quotes", "reseed", w.ns(4), w.ns(11)),
    }
    assert client.feed.books[A].state is BookState.LIVE


def test_a_damaged_frame_makes_its_own_book_suspect() -> None:
    client = Client("book", symbols=(A, B))
    for symbol in (A, B):
        client.give(w.depth(symbol, 1))
        client.seed(1)
        client.give(w.depth(symbol, 2))
    client.give(w.depth(A, 3).replace('"bids":[[', '"bids":[["x"],['))
    assert client.feed.books[A].state is BookState.STALE
    assert client.feed.books[B].state is BookState.LIVE
    assert client.feed.counters.malformed == 1
    client.give('{"event":')
    assert client.feed.books[B].state is BookState.STALE  # it may have been for this one, too


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.50000000", "-1"),
        ("0.50000000", "NaN"),
        ("0.50000000", "1e999"),
        ('"type":0', '"type":"x"'),
        ('"id":76', '"id":-1'),
        ('"id":76', '"id":99999999999999999999'),
        ('"microtimestamp":"', '"microtimestamp":"9'),
    ],
)
def test_impossible_trades_are_malformed(old: str, new: str) -> None:
    client = Client("trades")
    frame = w.trade(A, 2)
    assert old in frame
    client.give(frame.replace(old, new))
    assert client.of(Trade) == []
    assert client.feed.counters.malformed == 1
    client.give(w.trade(A, 4))
    assert len(client.of(Trade)) == 1


def test_empty_sides_and_numbers_as_exponents() -> None:
    client = Client("quotes", "book")
    client.seed(0, w.text({**w.times(1), "bids": [], "asks": []}))
    data = {**w.times(2), "bids": [["1E+2", "1E-8"]], "asks": []}
    client.give(w.text({"data": data, "channel": "diff_order_book_btcusd", "event": "data"}))
    assert client.feed.books[A].book.bids() == [(100.0, 1e-08)]
    assert client.of(Quote) == []  # there is no best offer
    assert len(client.of(BookDelta)) == 1


def test_huge_frames_are_not_decoded() -> None:
    client = Client("trades")
    client.give(w.trade(A, 2) + " " * 20_000_000)
    assert client.feed.counters.malformed == 1
    assert client.of(Trade) == []


def test_the_server_asks_for_a_new_connection() -> None:
    client = Client("trades")
    client.give('{"event":"bts:request_reconnect","channel":"","data":""}')
    assert client.reconnects == ["the exchange asked for it"]
    assert "shutdown" in client.states()


@pytest.mark.parametrize(
    "error",
    [
        {"event": "bts:error", "channel": "live_trades_btcusd", "data": {"code": 4, "message": "Bad channel"}},
        {"event": "bts:error", "channel": "", "data": {"message": "Unknown channel 'live_trades_btcusd' given"}},
    ],
)
def test_one_refused_channel_is_named_and_the_others_go_on(error: Any) -> None:
    known = {i.symbol: i for i in BITSTAMP.parse_instruments(w.PAIRS)}
    (feed,) = BITSTAMP.feeds(Subscription((A, B), ("trades",)), known, BITSTAMP.endpoints)
    feed.connected(NOW)
    records = feed.receive(w.text(error), NOW).records
    states = [r for r in records if isinstance(r, FeedStatus)]
    assert [(r.state, r.symbol) for r in states] == [("error", ""), ("rejected", A)]
    assert len(feed.receive(w.trade(B, 1), NOW).records) == 1


def test_a_quiet_connection_is_asked_for_a_sign_of_life() -> None:
    client = Client("trades")
    client.sent.clear()
    client.tick(70)
    assert client.sent == ['{"event":"bts:heartbeat"}'] * 3
    assert client.reconnects == []
    client.sent.clear()
    for _ in range(80):  # nobody answers
        client.now += SECOND
        out = client.feed.tick(client.now)
        client.reconnects += [a.reason for a in out.actions if isinstance(a, Reconnect)]
    assert len(client.reconnects) == 1


# Orders


def test_order_events_are_followed_but_are_no_records() -> None:
    client = Client("trades", live_orders="on")
    for n in (1, 2, 3, 5, 6):
        client.give(w.order(A, n))
    (gap,) = client.of(Gap)
    assert (gap.record_type, gap.reason, gap.ts_from, gap.ts_to) == ("live_orders", "chain", w.ns(3), w.ns(5))
    assert client.states().count("chain") == 1
    assert client.feed.order_events == 5  # type: ignore[attr-defined]
    assert client.feed.counters.malformed == 0


def test_a_disconnect_is_a_gap_of_orders() -> None:
    client = Client("trades", live_orders="on")
    client.give(w.order(A, 1))
    client.take(client.feed.disconnected(client.now, "test"))
    client.take(client.feed.connected(client.now))
    client.give(w.order(A, 9))
    (gap,) = client.of(Gap)
    assert (gap.record_type, gap.reason) == ("live_orders", "disconnect")


def test_orders_come_and_go_with_their_symbol() -> None:
    client = Client("trades", live_orders="on")
    client.sent.clear()
    client.take(client.feed.add((B,), client.now))
    assert [json.loads(f)["data"]["channel"] for f in client.sent] == ["live_trades_etheur", "live_orders_etheur"]
    client.give(w.order(B, 1))
    assert client.feed.order_events == 1  # type: ignore[attr-defined]
    client.sent.clear()
    client.take(client.feed.remove((B,), client.now))
    channels = {json.loads(f)["data"]["channel"] for f in client.sent}
    assert channels == {"live_trades_etheur", "live_orders_etheur"}
    client.give(w.order(B, 3))
    assert client.feed.order_events == 1  # type: ignore[attr-defined]
    assert client.of(Gap) == []


def test_orders_that_nobody_asked_for_are_passed_over() -> None:
    client = Client("trades")
    client.give(w.order(A, 1))
    client.give(w.order(A, 3))
    assert client.of(Gap) == []
    assert client.feed.counters.skipped == 2
