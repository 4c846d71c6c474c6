"""Feeds: order books, their snapshots and gaps. Messages are made up in Binance's form."""

from __future__ import annotations

import json

import pytest
from feed_wire import MS, NOW, SECOND, Wire, body, depth, synced

import cmd_binance
from cmd_common.errors import UsageError
from cmd_common.feed import FetchSnapshot, Send
from cmd_common.records import (
    BookDelta,
    BookSnapshot,
    FeedStatus,
    Gap,
    levels,
)
from cmd_common.sequence import BookState

# Books


def test_a_quiet_symbol_is_live_without_any_event() -> None:
    wire = Wire(types=("book",)).connect()
    (request,) = wire.did(FetchSnapshot)
    assert request.request.url.endswith("/api/v3/depth?symbol=BTCUSDT&limit=5000")
    assert request.request.weight == 250
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE
    assert wire.of(BookSnapshot) == []  # it is written with the first event's time
    snapshot, delta = wire.send(depth(101, 103, [["99.5", "2"]]))
    assert isinstance(snapshot, BookSnapshot)
    assert isinstance(delta, BookDelta)
    assert snapshot.ts_event == delta.ts_event == NOW + 103_000_000
    assert (snapshot.seq, snapshot.epoch, delta.epoch, delta.first_seq, delta.seq) == (100, 100, 100, 101, 103)
    assert list(levels(snapshot.bids)) == [(99.0, 1.0)]  # the book before the event
    assert list(levels(delta.bids)) == [(99.5, 2.0)]


def test_the_snapshot_is_asked_for_when_the_subscription_is_confirmed() -> None:
    wire = Wire(types=("book",), answer=False).connect()
    wire.send(depth(50, 60))
    assert wire.did(FetchSnapshot) == []
    wire.raw(json.dumps({"result": None, "id": json.loads(wire.did(Send)[0].frame)["id"]}))
    assert len(wire.did(FetchSnapshot)) == 1


def test_both_first_events_of_spot() -> None:
    for first in (95, 101):
        wire = Wire(types=("book",)).connect()
        wire.send(depth(first, 105, [["98", "7"]]))
        wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
        assert wire.feed.books["BTCUSDT"].book.bids() == [(99.0, 1.0), (98.0, 7.0)]
        assert [type(r) for r in wire.records if not isinstance(r, FeedStatus)] == [BookSnapshot, BookDelta]
        assert len(wire.did(FetchSnapshot)) == 1


def test_a_snapshot_with_a_hole_behind_it_is_asked_for_again() -> None:
    wire = Wire(types=("book",)).connect()
    wire.send(depth(102, 105))
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    assert wire.feed.books["BTCUSDT"].state is BookState.SYNCING
    assert len(wire.did(FetchSnapshot)) == 2
    wire.take(wire.feed.snapshot("BTCUSDT", body(101), wire.now))
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE


def test_futures_first_event_may_end_at_the_snapshot() -> None:
    wire = Wire(cmd_binance.USDM, ("book",)).connect()
    wire.send(depth(90, 100, [["98", "7"]], T=MS, pu=80))
    wire.take(wire.feed.snapshot("BTCUSDT", body(100, [["99", "1"], ["98", "7"]]), wire.now))
    wire.send(depth(150, 160, [["97", "1"]], T=MS + 1, pu=100))  # U jumps
    assert wire.feed.books["BTCUSDT"].last_id == 160
    assert len(wire.of(BookDelta)) == 2
    assert wire.of(Gap) == []


def test_levels_are_packed_best_first_whatever_their_order() -> None:
    wire = synced()
    (_, delta) = wire.send(depth(101, 102, [["97", "1"], ["99", "2"], ["98", "0"]], [["105", "1"], ["102", "3"]]))
    assert isinstance(delta, BookDelta)
    assert [p for p, _ in levels(delta.bids)] == [99.0, 98.0, 97.0]
    assert [p for p, _ in levels(delta.asks)] == [102.0, 105.0]


def test_periodic_snapshots_follow_event_time() -> None:
    wire = synced()
    for n in range(101, 401):
        wire.send(depth(n, n, [["98", str(n)]], E=MS + n))
    snapshots = wire.of(BookSnapshot)
    # the sync, then one with the first event of each 100 ms
    assert [s.seq for s in snapshots] == [100, 200, 300, 400]
    assert [s.ts_event - NOW for s in snapshots] == [n * 1_000_000 for n in (101, 200, 300, 400)]
    assert {s.epoch for s in snapshots} == {100}
    assert list(levels(snapshots[1].bids)) == [(99.0, 1.0), (98.0, 200.0)]  # after the event


def test_deltas_can_be_left_out() -> None:
    wire = synced(deltas="off")
    wire.send(depth(101, 102, [["98", "1"]]))
    assert wire.of(BookDelta) == []
    assert wire.feed.books["BTCUSDT"].last_id == 102


def test_a_gap_of_a_book_names_its_ids_and_its_time() -> None:
    wire = synced()
    wire.send(depth(101, 105))
    wire.send(depth(110, 115, [["98", "9"]]))
    book = wire.feed.books["BTCUSDT"]
    assert book.state is BookState.STALE
    request = wire.did(FetchSnapshot)[-1]
    assert request.priority == 0  # before books that nobody has had yet
    wire.take(wire.feed.snapshot("BTCUSDT", body(112), wire.now))
    assert book.state is BookState.LIVE
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.severity) == ("book_deltas", "sequence", "lost")
    assert (gap.ts_from - NOW, gap.ts_to - NOW) == (105_000_000, 115_000_000)
    assert (gap.first_id, gap.last_id) == (106, 112)
    order = [type(r) for r in wire.records if not isinstance(r, FeedStatus)]
    assert order == [BookSnapshot, BookDelta, Gap, BookSnapshot, BookDelta]


def test_a_snapshot_at_the_last_good_update_leaves_no_ids_missing() -> None:
    wire = synced()
    wire.send(depth(101, 105))
    wire.take(wire.feed.disconnected(wire.now, "reset"))
    wire.connect()
    wire.take(wire.feed.snapshot("BTCUSDT", body(105), wire.now))
    wire.send(depth(106, 108))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id, gap.last_id) == ("disconnect", None, None)


def test_a_book_that_never_began_is_a_gap_of_what_came_for_it() -> None:
    wire = Wire(types=["book"]).connect()
    wire.send(depth(1, 1))
    wire.send(depth(2, 2, E=MS + 9_000))
    wire.take(wire.feed.close(wire.now))
    assert wire.of(Gap) == []  # a start takes a moment
    wire.send(depth(3, 3, E=MS + 60_000))
    wire.take(wire.feed.close(wire.now))
    (gap,) = wire.of(Gap)
    assert (gap.record_type, gap.reason, gap.severity) == ("book_deltas", "no_snapshot", "lost")
    assert (gap.ts_from, gap.ts_to) == (NOW + 1_000_000, NOW + 60 * SECOND)


def test_a_gap_that_is_open_at_the_end_ends_with_the_last_message_in_the_exchanges_time() -> None:
    wire = synced()
    wire.send(depth(101, 101))
    wire.send(depth(103, 103, E=MS + 5_000))
    wire.now += 1_000_000 * SECOND  # our clock, when something recorded is played
    wire.take(wire.feed.close(wire.now))
    (gap,) = wire.of(Gap)
    assert (gap.reason, gap.first_id) == ("sequence", 102)
    assert (gap.ts_from, gap.ts_to) == (NOW + 101_000_000, NOW + 5 * SECOND)


def test_an_answer_that_nobody_waits_for_any_more_is_ignored() -> None:
    wire = Wire(types=("book",)).connect()
    wire.take(wire.feed.disconnected(wire.now, "reset"))
    assert wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now)) == []
    assert wire.take(wire.feed.snapshot("OTHER", body(100), wire.now)) == []
    wire.take(wire.feed.snapshot_failed("BTCUSDT", "late", wire.now))
    assert wire.statuses("snapshot_failed") == []


def test_a_book_that_runs_low_is_refreshed_while_it_stays_live() -> None:
    """The known range is what the snapshot covered; eating into it asks for a new one, of low priority."""
    wire = Wire(types=("book",), options={"snapshot_limit": "100"}).connect()
    bids = [[str(1000 - n), "1"] for n in range(100)]
    wire.take(wire.feed.snapshot("BTCUSDT", body(100, bids, [["1001", "1"]]), wire.now))
    last = 100
    while len(wire.did(FetchSnapshot)) == 1:
        last += 1
        wire.send(depth(last, last, [[str(1000 - (last - 101)), "0"]]))
        assert last < 200
    builder = wire.feed.books["BTCUSDT"]
    assert builder.state is BookState.LIVE
    assert wire.did(FetchSnapshot)[-1].priority == 2
    wire.send(depth(last + 1, last + 1, [["500", "3"]]))
    before = len(wire.records)
    rest = [*[row for row in bids if float(row[0]) <= builder.book.best_bid[0]], ["800", "2"]]  # type: ignore[index]
    wire.take(wire.feed.snapshot("BTCUSDT", body(last, rest, [["1001", "1"]]), wire.now))
    assert builder.state is BookState.LIVE
    assert not wire.records[before:]  # what is stored does not depend on when a refresh arrives
    assert (500.0, 3.0) in builder.book.bids()  # brought up to where the old book was
    (delta,) = wire.send(depth(last + 2, last + 2, [["501", "1"]]))
    assert isinstance(delta, BookDelta)
    assert delta.epoch == 100  # the chain is unbroken
    assert wire.of(Gap) == []
    assert wire.feed.counters.resyncs == 0


def test_a_book_that_breaks_again_soon_asks_for_a_snapshot_that_costs_less() -> None:
    wire = Wire(types=("book",)).connect()
    number = 100
    for _ in range(2):
        wire.take(wire.feed.snapshot("BTCUSDT", body(number, [["1000", "1"]], [["1001", "1"]]), wire.now))
        wire.send(depth(number + 1, number + 1, [["999", "1"]]))
        wire.send(depth(number + 5, number + 5, [["998", "1"]]))  # a hole
        number += 10
    first, *again = [a.request for a in wire.did(FetchSnapshot)]
    assert "limit=5000" in first.url
    assert [("limit=1000" in r.url, r.weight) for r in again] == [(True, 50), (True, 50)]
    wire.take(wire.feed.snapshot("BTCUSDT", body(number, [["1000", "1"]], [["1001", "1"]]), wire.now))
    for _ in range(61):
        wire.tick()
    wire.send(depth(number + 1, number + 1, [["999", "1"]]))
    wire.send(depth(number + 5, number + 5, [["998", "1"]]))
    assert "limit=5000" in wire.did(FetchSnapshot)[-1].request.url  # a quiet minute: the whole depth again


def test_retries_of_snapshots_slow_down() -> None:
    wire = Wire(types=("book",)).connect()
    asked = []
    for second in range(120):
        if len(wire.did(FetchSnapshot)) > len(asked):
            asked.append(second)
            wire.take(wire.feed.snapshot_failed("BTCUSDT", "HTTP 503", wire.now))
        wire.tick()
    assert 5 <= len(asked) <= 10
    assert wire.statuses("snapshot_failed")[0].reason == "HTTP 503"


def test_a_crossed_book_is_a_gap_and_a_crossed_snapshot_is_not_asked_for_without_pause() -> None:
    wire = synced()
    wire.send(depth(101, 101, [["98", "1"]]))
    wire.send(depth(102, 102, [["500", "1"]]))
    builder = wire.feed.books["BTCUSDT"]
    assert (builder.state, builder.gap_reason) == (BookState.STALE, "crossed")
    asked = len(wire.did(FetchSnapshot))
    for last in range(103, 113):
        wire.take(wire.feed.snapshot("BTCUSDT", body(last, [["500", "1"]], [["101", "1"]]), wire.now))
    assert len(wire.did(FetchSnapshot)) - asked <= 3
    for _ in range(60):
        wire.tick()
    wire.take(wire.feed.snapshot("BTCUSDT", body(200), wire.now))
    wire.send(depth(201, 201, [["98", "2"]]))
    assert builder.state is BookState.LIVE
    (gap,) = wire.of(Gap)
    assert isinstance(gap, Gap)
    assert (gap.record_type, gap.reason, gap.first_id) == ("book_deltas", "crossed", 102)


# Self-audit


def audited(answer: bytes, seconds: int = 62) -> Wire:
    """A book at 105 that was audited after a minute, by this snapshot."""
    wire = synced(audit="60")
    wire.send(depth(101, 105, [["98", "7"]]))
    asked = len(wire.did(FetchSnapshot))
    for _ in range(seconds):
        wire.tick()
    assert len(wire.did(FetchSnapshot)) == asked + 1
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE
    wire.take(wire.feed.snapshot("BTCUSDT", answer, wire.now))
    return wire


def test_a_book_that_agrees_with_a_fresh_copy_is_told_and_goes_on() -> None:
    wire = audited(body(105, [["99", "1"], ["98", "7"]]))
    (told,) = wire.statuses("audited")
    assert (told.symbol, told.record_type, told.reason) == (
        "BTCUSDT",
        "book",
        "3 of 3 levels are those of a fresh copy",
    )
    assert wire.of(Gap) == []
    assert len(wire.of(BookSnapshot)) == 1  # of the beginning
    for _ in range(30):
        wire.tick()
    assert len(wire.statuses("audited")) == 1


def test_a_book_that_differs_is_a_gap_and_is_made_anew() -> None:
    wire = audited(body(105, [["99", "1"], ["98", "6"]]))
    assert wire.feed.books["BTCUSDT"].state is BookState.STALE
    (told,) = wire.statuses("audit_failed")
    assert told.reason == "2 of 3 levels are those of a fresh copy"
    (suspect,) = wire.of(Gap)
    assert (suspect.reason, suspect.severity, suspect.record_type) == ("audit", "suspect", "book_deltas")
    assert suspect.ts_to == NOW + 105_000_000
    wire.take(wire.feed.snapshot("BTCUSDT", body(106, [["99", "1"], ["98", "6"]]), wire.now))
    wire.send(depth(107, 107, [["98", "5"]]))
    assert wire.feed.books["BTCUSDT"].book.bids() == [(99.0, 1.0), (98.0, 5.0)]
    lost = wire.of(Gap)[-1]
    assert (lost.reason, lost.severity, lost.ts_from, lost.ts_to) == (
        "audit",
        "lost",
        NOW + 105_000_000,
        NOW + 107_000_000,
    )


def test_books_of_a_connection_are_audited_one_after_the_other() -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
    wire = Wire(types=("book",), symbols=symbols, options={"audit": "60"}).connect()
    for symbol in symbols:
        wire.take(wire.feed.snapshot(symbol, body(100), wire.now))
    for _ in range(100):
        before = len(wire.did(FetchSnapshot))
        wire.tick()
        asked = wire.did(FetchSnapshot)[before:]
        assert len(asked) <= 1
        for request in asked:
            wire.take(wire.feed.snapshot(request.symbol, body(100), wire.now))
    assert sorted(s.symbol for s in wire.statuses("audited")) == sorted(symbols)


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_audit_before_the_first_delta_leaves_the_first_snapshot_the_first(ahead: int) -> None:
    wire = Wire(types=("book",), options={"audit": "60"}).connect()
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    for _ in range(62):
        wire.tick()
    assert len(wire.did(FetchSnapshot)) == 2
    wire.take(wire.feed.snapshot("BTCUSDT", body(100 + ahead), wire.now))
    for update in range(101, 104):
        wire.send(depth(update, update, [["98", str(update)]]))
    (first,) = wire.of(BookSnapshot)
    assert (first.epoch, first.seq) == (100, 100)
    assert [(d.epoch, d.seq) for d in wire.of(BookDelta)] == [(100, 101), (100, 102), (100, 103)]


def test_an_audit_can_be_switched_off_and_not_be_too_often() -> None:
    wire = Wire(types=("book",), options={"audit": "0"}).connect()
    wire.take(wire.feed.snapshot("BTCUSDT", body(100), wire.now))
    for _ in range(2000):
        wire.send(depth(1, 2))
        wire.tick()
    assert wire.statuses("audited") == []
    with pytest.raises(UsageError, match="at least 60 seconds"):
        Wire(types=("book",), options={"audit": "5"})


# A snapshot that is late


@pytest.mark.parametrize("late", [9, 10])
def test_a_first_snapshot_that_is_late_is_a_gap_of_what_came_before_it(late: int) -> None:
    wire = Wire(types=("book",)).connect()
    wire.send(depth(101, 101))
    wire.now += late * 1_000_000_000
    wire.send(depth(102, 102))
    wire.take(wire.feed.snapshot("BTCUSDT", body(101), wire.now))
    assert wire.feed.books["BTCUSDT"].state is BookState.LIVE
    gaps = wire.of(Gap)
    if late < 10:
        assert gaps == []
        return
    (gap,) = gaps
    assert (gap.reason, gap.severity, gap.record_type) == ("late_snapshot", "lost", "book_deltas")
    assert (gap.symbol, gap.ts_from, gap.ts_to) == ("BTCUSDT", NOW + 101_000_000, NOW + 102_000_000)
    wire.take(wire.feed.disconnected(wire.now, "broken"))
    assert "late_snapshot" not in {g.reason for g in wire.of(Gap)[1:]}
