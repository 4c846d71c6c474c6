from __future__ import annotations

import pytest
from hub_world import T0, Reader, S, delta, publish, quote, same, snapshot, status, trade, world

from cmd_common.records import Gap, InstrumentRecord
from cmd_common.sequence import BookState
from cmd_server import codec
from cmd_server.messages import (
    CONFLATED,
    REPLAYED,
    Ack,
    BookFlag,
    Heartbeat,
    Hello,
    Kind,
    Login,
    Ping,
    Policy,
    Reject,
    StreamGap,
    Subscribe,
    Unsubscribe,
)
from cmd_server.queues import _WHERE


def of(reader: Reader, kind: type) -> list:  # type: ignore[type-arg]
    return [m for m in reader.service if isinstance(m, kind)]


def records(reader: Reader, kind: type) -> list:  # type: ignore[type-arg]
    return [r for _, r in reader.records if isinstance(r, kind)]


def instrument(symbol: str = "A", tick: str = "0.01", base: str = "A", quote: str = "USD") -> InstrumentRecord:
    return InstrumentRecord(
        T0, T0, "v", symbol, base, quote, quote, "spot", tick, "1", "0", "0", "", False, None, "trading"
    )


# -- the protocol


def test_a_client_is_greeted_and_must_log_in_first() -> None:
    hub = world()
    reader = Reader(hub, login=False)
    reader.subscribe("trades *")
    reader.drain()
    hello = reader.service[0]
    assert isinstance(hello, Hello)
    assert (hello.epoch, hello.token) == (7, False)
    assert reader.bye is not None
    assert reader.bye.code == "protocol"
    assert not reader.client.pending
    hub.detach(reader.client)
    hub.check()
    assert not hub.clients


def test_a_login_needs_the_token_where_one_is_set() -> None:
    hub = world(authorize=lambda token: token == "secret")
    wrong, right, trusted = Reader(hub, login=False), Reader(hub, login=False), Reader(hub, authorize=bool)
    hub.handle(wrong.client, Login("guess"), T0)
    hub.handle(right.client, Login("secret"), T0)
    for reader in (wrong, right, trusted):
        reader.drain()
    assert wrong.bye is not None
    assert wrong.bye.code == "token"
    assert of(wrong, Reject)[0].code == "token"
    assert right.service[0].token
    assert of(right, Ack) == [Ack(0)]
    assert of(trusted, Reject)[0].code == "token"  # its own judge wants any token
    hub.check()


def test_requests_are_answered_by_their_id_and_bad_ones_change_nothing() -> None:
    hub = world(topics=2, streams=9)
    publish(hub, trade(1), trade(1, symbol="B"))
    reader = Reader(hub)
    reader.subscribe("trades v:A")
    reader.subscribe("tradse v:A")
    reader.subscribe("trades v:A", "trades v:B", "book v:B")
    reader.subscribe("book@0 *")
    reader.subscribe("trades *")
    hub.handle(reader.client, Unsubscribe(9, ("trades x",)), T0)
    hub.handle(reader.client, Unsubscribe(10, ("trades v:A",)), T0)
    hub.handle(reader.client, Login(), T0)
    hub.handle(reader.client, Ping(), T0)
    hub.handle(reader.client, Subscribe(11, (), Policy.CONFLATE, -1), T0)
    reader.drain()
    answers = [(type(m).__name__, getattr(m, "request_id", None), getattr(m, "code", "")) for m in reader.service[2:]]
    assert answers == [
        ("Ack", 1, ""),
        ("Reject", 2, "usage"),
        ("Reject", 3, "limit"),
        ("Reject", 4, "usage"),
        ("Ack", 5, ""),
        ("Reject", 9, "unknown"),
        ("Ack", 10, ""),
        ("Reject", 0, "protocol"),
        ("Heartbeat", None, ""),
        ("Reject", 11, "usage"),
    ]
    assert "did you mean" in of(reader, Reject)[0].hint
    assert of(reader, Ack)[1].streams == 5  # trades, states and gaps of one instrument, states and gaps of all
    assert set(reader.client.topics) == {"trades *"}
    hub.check()


def test_one_client_too_many_is_told_so() -> None:
    hub = world(clients=1)
    one, two = Reader(hub), Reader(hub)
    two.drain()
    assert two.bye is not None
    assert two.bye.code == "limit"
    hub.detach(two.client)
    hub.detach(one.client)
    assert Reader(hub).client.logged_in


def test_topics_that_match_too_much_are_refused_or_end_the_client() -> None:
    hub = world(streams=8)
    publish(hub, trade(1), trade(1, symbol="B"))
    reader = Reader(hub)
    reader.subscribe("trades *", "book *", "bbo *")
    reader.subscribe("trades *")
    reader.drain()
    assert [m.code for m in of(reader, Reject)] == ["limit"]
    publish(hub, trade(2, symbol="C"))
    reader.drain()
    assert reader.bye is not None
    assert reader.bye.code == "limit"


def test_answers_that_are_not_read_are_bounded() -> None:
    hub = world(answers=5)
    reader = Reader(hub)
    for _ in range(10):
        hub.handle(reader.client, Ping(), T0)
    assert reader.client.closing
    reader.drain()
    assert reader.bye is not None
    assert reader.bye.code == "limit"
    assert len(of(reader, Heartbeat)) <= 6


def test_asking_again_and_again_without_reading_is_bounded() -> None:
    hub = world(queue=50, queue_max=50, answers=10**6)
    publish(hub, *[quote(1, symbol=f"S{n}") for n in range(40)])
    reader = Reader(hub)
    for n in range(20):
        reader.subscribe("quotes *")
        hub.handle(reader.client, Unsubscribe(n, ("quotes *",)), T0)
    assert reader.client.closing
    reader.drain()
    assert reader.bye is not None
    assert reader.bye.code == "limit"


def test_time_limits_and_heartbeats() -> None:
    hub = world(login=10 * S, idle=60 * S, heartbeat=5 * S)
    silent, good = Reader(hub, login=False), Reader(hub)
    good.drain()
    for second in range(1, 70):
        hub.tick(T0 + second * S)
        good.drain()
        if second == 30:
            hub.handle(good.client, Ping(), T0 + second * S)
    silent.drain()
    assert silent.bye is not None
    assert silent.bye.code == "idle"
    assert good.bye is None
    assert 12 <= len(of(good, Heartbeat)) <= 14
    hub.tick(T0 + 91 * S)
    good.drain()
    assert good.bye is not None
    hub.check()


def test_shutdown_lets_a_client_read_what_waits() -> None:
    hub = world()
    publish(hub, trade(1))
    reader = Reader(hub)
    reader.subscribe("trades *")
    publish(hub, trade(2), trade(3))
    hub.bye(reader.client, "shutdown", "the server ends")
    publish(hub, trade(4))
    reader.drain(1)
    assert reader.seqs(Kind.TRADES) == [2, 3] or reader.seqs(Kind.TRADES) == [1, 2]
    assert reader.bye is not None
    assert reader.client.pending == 0


def test_the_shell_is_woken_once_until_it_has_taken_everything() -> None:
    hub = world()
    woken = hub.woken  # type: ignore[attr-defined]
    publish(hub, trade(1))
    reader = Reader(hub)
    reader.subscribe("trades *")
    reader.drain()
    woken.clear()
    publish(hub, trade(2))
    publish(hub, trade(3), trade(4))
    assert woken == [reader.client]
    assert len(reader.read(1)) == 1
    publish(hub, trade(5))
    assert woken == [reader.client]
    reader.drain()
    publish(hub, trade(6))
    assert woken == [reader.client, reader.client]
    assert reader.client.pending == 1


# -- streams


def test_a_message_is_encoded_once_for_all_and_numbered_for_all() -> None:
    hub = world()
    publish(hub, trade(1))
    early = Reader(hub)
    early.subscribe("trades *")
    publish(hub, trade(2))
    late = Reader(hub)
    late.subscribe("trades v:A")
    early.drain()
    late.drain()
    publish(hub, trade(3))
    one, two = early.read(), late.read()
    assert one[0] is two[0]
    assert early.seqs(Kind.TRADES)[-1] == late.seqs(Kind.TRADES)[-1]


def test_what_nobody_reads_is_not_encoded() -> None:
    hub = world()
    publish(hub, trade(1), snapshot(1), delta(2), quote(3))
    assert hub.counters.messages == 0
    assert hub.books["v:A"].state is BookState.LIVE


def test_instruments_come_first_once_and_again_when_they_change() -> None:
    hub = world()
    publish(hub, instrument(), trade(1), trade(1, symbol="B"))
    reader = Reader(hub)
    reader.subscribe("instruments *", "trades v:A")
    reader.drain()
    found = records(reader, InstrumentRecord)
    assert [(r.symbol, r.tick_size) for r in found] == [("A", "0.01"), ("B", "")]
    publish(hub, instrument(), instrument(tick="0.1"), instrument("B"), trade(2))
    reader.drain()
    assert [(r.symbol, r.tick_size) for r in records(reader, InstrumentRecord)][2:] == [("A", "0.1"), ("B", "0.01")]
    assert len(reader.seqs(Kind.TRADES)) == 1


def test_instruments_that_appear_later_match_too() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("trades v:*")
    publish(hub, trade(1, symbol="B"), trade(1, venue="w"), trade(2, symbol="B"))
    reader.drain()
    assert reader.seqs(Kind.TRADES, "B") == [1, 2]
    assert list(reader.names.values()) == [("v", "B")]


def test_states_and_gaps_come_along_with_any_topic() -> None:
    hub = world()
    publish(hub, status("connected", 1, symbol="", what=""), status("silent", 2, what="trades"), trade(1))
    reader, other = Reader(hub), Reader(hub)
    reader.subscribe("trades v:A")
    other.subscribe("instruments *")
    reader.drain()
    states = [
        (r.state, h.flags & (CONFLATED | REPLAYED)) for h, r in reader.records if type(r).__name__ == "FeedStatus"
    ]
    assert states == [("connected", CONFLATED | REPLAYED), ("silent", CONFLATED | REPLAYED)]
    publish(
        hub,
        status("heard", 3, what="trades"),
        Gap(T0, T0 + 1, "v", "A", "trades", "trade_id", "lost", 1, 2),
        Gap(T0, T0 + 1, "v", "", "trades", "disconnect", "lost"),
        status("disconnected", 4, symbol="", what=""),
    )
    reader.drain()
    other.drain()
    assert [r.state for r in records(reader, type(status("x")))][2:] == ["heard", "disconnected"]
    assert len(records(reader, Gap)) == 2
    assert not records(other, Gap)
    reader.check_complete()


def test_a_stream_that_is_given_up_ends_and_what_another_topic_needs_goes_on() -> None:
    hub = world()
    publish(hub, trade(1), trade(1, symbol="B"))
    reader = Reader(hub)
    reader.subscribe("trades *", "trades v:B")
    hub.handle(reader.client, Unsubscribe(5, ("trades *",)), T0)
    publish(hub, trade(2), trade(2, symbol="B"))
    reader.drain()
    assert reader.seqs(Kind.TRADES) == []
    assert len(reader.seqs(Kind.TRADES, "B")) == 1


def test_nothing_comes_after_detach() -> None:
    hub = world()
    publish(hub, trade(1))
    reader = Reader(hub)
    reader.subscribe("trades *", "book *")
    hub.detach(reader.client)
    hub.detach(reader.client)
    publish(hub, trade(2), snapshot(3))
    assert not reader.client.queue
    hub.check()


def test_the_layout_that_the_queue_looks_at_is_the_codecs() -> None:
    frame = codec.encode(trade(5), 77, 2**40, 9, 0, 0)
    head = codec.head(frame)
    assert _WHERE.unpack_from(frame) == (head.template, head.seq, head.instrument_id, head.view) == (2, 2**40, 77, 9)


# -- books


def test_a_late_joiner_gets_the_book_and_then_what_follows_exactly() -> None:
    hub = world()
    early = Reader(hub)
    early.subscribe("book v:A")
    publish(hub, snapshot(1))
    early.drain()
    publish(hub, delta(2, bids=[(98.0, 2.0)]))
    late = Reader(hub)
    late.subscribe("book v:A")
    publish(hub, delta(3, asks=[(101.0, 0.0), (102.0, 1.0)]))
    late.drain()
    publish(hub, delta(4, bids=[(99.0, 5.0)]))
    early.drain()
    late.drain()
    assert early.seqs(Kind.BOOK) == [1, 2, 3, 4]
    assert late.seqs(Kind.BOOK) == [3, 4]
    assert same(early.book(), hub.books["v:A"])
    assert same(late.book(), hub.books["v:A"])
    assert early.book().bids() == [(99.0, 5.0), (98.0, 2.0)]


def test_nothing_is_sent_of_a_book_that_is_not_live_but_its_state() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book v:A", "book@1 v:A", "bbo v:A")
    publish(hub, status("SYNCING"), delta(1, bids=[(1.0, 1.0)]))
    reader.drain()
    assert not reader.books
    publish(hub, status("LIVE"), snapshot(2), delta(3, bids=[(99.5, 1.0)]))
    reader.drain()
    publish(hub, status("STALE", 4), delta(5, bids=[(99.7, 1.0)]))
    reader.drain()
    late = Reader(hub)
    late.subscribe("book v:A", "book@1 v:A", "bbo v:A")
    late.drain()
    assert not late.books
    assert not late.quotes
    flags = [(r.state, h.state) for h, r in reader.records if type(r).__name__ == "FeedStatus"]
    assert flags == [("SYNCING", BookFlag.SYNCING), ("LIVE", BookFlag.SYNCING), ("STALE", BookFlag.STALE)]
    assert reader.book().state is BookState.STALE
    # The same book again: readers of every view must learn that it is good.
    publish(hub, status("LIVE", 6), snapshot(7, bids=[(99.5, 1.0), (99.0, 1.0)], epoch=7))
    for r in (reader, late):
        r.drain()
        r.check_complete()
        assert same(r.book(), hub.books["v:A"])
        assert r.book().state is BookState.LIVE
        assert same(r.book(view=1), hub.books["v:A"], 1)
        assert r.book(view=1).state is BookState.LIVE
    assert next(iter(late.quotes.values())).bid_price == 99.5


def test_a_book_that_comes_back_unchanged_is_live_for_readers_of_its_top() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book@1 v:A")
    publish(hub, snapshot(2))
    reader.drain()
    publish(hub, status("STALE", 4), status("LIVE", 5), snapshot(2))
    reader.drain()
    assert reader.book(view=1).state is BookState.LIVE


def test_snapshots_that_say_nothing_new_are_not_sent_and_others_are() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book *")
    publish(hub, snapshot(1))
    reader.drain()
    publish(hub, delta(2, bids=[(98.0, 1.0)]))
    publish(hub, snapshot(2, bids=[(99.0, 1.0), (98.0, 1.0)]))
    reader.drain()
    assert reader.seqs(Kind.BOOK) == [1, 2]
    publish(hub, snapshot(2, bids=[(99.0, 1.0)]))  # pruned
    reader.drain()
    assert reader.seqs(Kind.BOOK) == [1, 2, 3]
    assert same(reader.book(), hub.books["v:A"])


def test_a_change_of_an_unknown_epoch_or_malformed_makes_the_book_stale_for_all() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book *")
    publish(hub, snapshot(1))
    reader.drain()
    publish(hub, delta(2, epoch=9), delta(3))
    reader.drain()
    assert reader.book().state is hub.books["v:A"].state is BookState.STALE
    publish(hub, snapshot(4, epoch=4))
    publish(hub, delta(5, bids=[(-1.0, 1.0)], epoch=4))
    reader.drain()
    assert reader.book().state is BookState.STALE
    publish(hub, snapshot(6, epoch=6), snapshot(7, bids=[(float("nan"), 1.0)], epoch=7))
    reader.drain()
    assert reader.book().state is hub.books["v:A"].state is BookState.STALE
    assert hub.counters.ignored == 4
    publish(hub, snapshot(8, epoch=8))
    reader.drain()
    assert same(reader.book(), hub.books["v:A"])


# -- policies


def test_disconnect_lets_go_a_client_that_does_not_read_and_no_other() -> None:
    hub = world()
    publish(hub, trade(1))
    slow, good = Reader(hub), Reader(hub)
    slow.subscribe("trades *", policy=Policy.DISCONNECT, queue=10)
    good.subscribe("trades *", policy=Policy.DISCONNECT, queue=10)
    for n in range(2, 20):
        publish(hub, trade(n))
        good.drain()
    slow.drain()
    assert slow.bye is not None
    assert slow.bye.code == "slow"
    assert len(good.seqs(Kind.TRADES)) == 18
    good.check_complete()
    assert hub.counters.byes == {"slow": 1}


def test_drop_oldest_says_what_was_lost() -> None:
    hub = world()
    publish(hub, trade(1))
    reader = Reader(hub)
    reader.subscribe("trades *", queue=32)
    publish(hub, *[trade(n) for n in range(2, 102)])
    assert len(reader.client.queue) <= 32
    reader.drain()
    reader.check_complete()
    assert [g.reason for g in of(reader, StreamGap)] == ["slow"]
    assert reader.seqs(Kind.TRADES)[-1] == hub.entries[1].trades.seq  # type: ignore[union-attr]
    assert reader.client.counters.dropped >= 68
    assert 32 < reader.client.counters.high_water <= 32 + 64


def test_drop_oldest_books_heal_by_a_snapshot() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book *", "trades *", queue=16)
    publish(hub, snapshot(1))
    reader.drain()
    for n in range(2, 60):
        publish(hub, delta(n, bids=[(50.0 + n % 7, float(n))]), trade(n))
    reader.drain()
    reader.check_complete()
    assert same(reader.book(), hub.books["v:A"])
    publish(hub, delta(60, bids=[(99.0, 7.0)]))
    reader.drain()
    reader.check_complete()
    assert same(reader.book(), hub.books["v:A"])


def test_a_loss_is_told_although_the_book_cannot_be_sent_again_yet() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book *", queue=4)
    publish(hub, snapshot(1))
    reader.drain()
    publish(hub, *[delta(n, bids=[(50.0, float(n))]) for n in range(2, 12)], status("STALE", 12))
    reader.drain()
    assert next((g.from_seq, g.to_seq) for g in of(reader, StreamGap)) == (2, 11)
    assert reader.book().state is BookState.STALE
    assert not reader.client.pending
    publish(hub, snapshot(13, epoch=13))
    reader.drain()
    reader.check_complete()
    assert reader.book().state is BookState.LIVE


def test_conflate_keeps_the_latest_book_and_quote_and_every_trade() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book *", "quotes *", "trades *", "bbo *", "book@1 *", policy=Policy.CONFLATE, queue=400)
    publish(hub, snapshot(1), quote(1), trade(1))
    reader.drain()
    for n in range(2, 200):
        publish(hub, delta(n, bids=[(90.0 + n % 11, float(n))]), quote(n), trade(n))
    reader.drain()
    assert reader.seqs(Kind.TRADES) == list(range(1, 200))
    assert len(reader.seqs(Kind.BOOK)) < 150
    assert same(reader.book(), hub.books["v:A"])
    assert same(reader.book(view=1), hub.books["v:A"], 1)
    assert [q.seq for q in reader.quotes.values() if q.seq == 199]
    assert reader.client.counters.conflated > 50
    reader.check_complete()
    assert not of(reader, StreamGap)
    assert reader.client.mark == 100


def test_conflate_lets_go_a_client_that_cannot_take_the_trades() -> None:
    hub = world()
    publish(hub, trade(1), snapshot(1))
    reader = Reader(hub)
    reader.subscribe("book *", "trades *", policy=Policy.CONFLATE, queue=50)
    publish(hub, *[r for n in range(2, 60) for r in (trade(n), delta(n, bids=[(50.0, 1.0 * n)]))])
    reader.drain()
    assert reader.bye is not None
    assert reader.bye.code == "slow"


@pytest.mark.parametrize("size", [1, 60, 200, 1000])
def test_taking_a_little_at_a_time_keeps_the_order(size: int) -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book *", "trades *", "quotes *", policy=Policy.CONFLATE, queue=64)
    publish(hub, snapshot(1))
    for n in range(2, 300):
        publish(hub, delta(n, bids=[(90.0 + n % 3, float(n))]), quote(n), *([trade(n)] if n % 9 == 0 else []))
        reader.read(size)
        assert reader.bye is None
    reader.drain(size)
    reader.check_complete()
    assert same(reader.book(), hub.books["v:A"])


def test_lag_is_the_age_of_the_oldest_message_that_waits() -> None:
    hub = world()
    publish(hub, trade(1))
    reader = Reader(hub)
    reader.subscribe("trades *")
    reader.drain()
    assert reader.client.lag(hub.now) == 0
    start = hub.now
    for n in range(2, 12):
        publish(hub, trade(n), now=start + n * S)
    assert reader.client.lag(start + 20 * S) == 18 * S
    size = len(reader.client.queue[0])
    reader.read(5 * size)
    assert reader.client.lag(start + 20 * S) == 13 * S
    reader.drain()
    assert reader.client.lag(start + 20 * S) == 0


def test_a_client_without_snapshots_gets_changes_only() -> None:
    hub = world()
    publish(hub, snapshot(1))
    client = hub.attach("multicast", T0, snapshots=False)
    hub.handle(client, Login(), T0)
    hub.handle(client, Subscribe(1, ("book *",), Policy.DROP_OLDEST, 8), T0)
    publish(hub, *[delta(n, bids=[(50.0, 1.0 * n)]) for n in range(2, 40)])
    frames = client.take(1 << 20)
    templates = [codec.head(frame).template for frame in frames]
    assert templates.count(23) == 1  # one gap
    assert templates.count(6) == 8 or templates.count(6) <= 8
    assert 5 not in templates
    hub.check()


# -- coming back


def test_a_client_that_comes_back_gets_what_it_has_missed() -> None:
    hub = world()
    publish(hub, trade(1))
    first = Reader(hub)
    first.subscribe("trades *", "book *")
    publish(hub, snapshot(1), trade(2))
    first.drain()
    hub.detach(first.client)
    publish(hub, delta(2, bids=[(98.0, 1.0)]), trade(3), trade(4))
    again = Reader(hub)
    again.resume(first, "trades *", "book *")
    publish(hub, delta(3, bids=[(97.0, 1.0)]), trade(5))
    again.drain()
    again.check_complete()
    assert not again.gaps
    assert again.seqs(Kind.TRADES)[-3:] == [3, 4, 5] or len(again.seqs(Kind.TRADES)) == 4
    assert [h.flags & REPLAYED for h, r in again.records if type(r).__name__ == "Trade"] == [REPLAYED, REPLAYED, 0]
    assert same(again.book(), hub.books["v:A"])


def test_what_the_ring_has_lost_is_a_gap_and_the_book_begins_anew() -> None:
    hub = world(replay_messages=5)
    publish(hub, trade(1))
    first = Reader(hub)
    first.subscribe("trades *", "book *", "quotes *")
    publish(hub, snapshot(1), quote(1), trade(2))
    first.drain()
    hub.detach(first.client)
    for n in range(2, 40):
        publish(hub, delta(n, bids=[(98.0, 1.0 * n)]), quote(n), trade(n + 1), status("x", n, what=f"t{n % 3}"))
    assert not any(s.active for s in hub.streams.values() if s.kind in (Kind.TRADES, Kind.BOOK, Kind.QUOTES))
    again = Reader(hub)
    again.resume(first, "trades *", "book *", "quotes *")
    again.drain()
    publish(hub, delta(50, bids=[(97.0, 1.0)]), trade(50), quote(50), status("y", 50))
    again.drain()
    again.check_complete()
    assert {g.reason for g in again.gaps} == {"resume"}
    assert same(again.book(), hub.books["v:A"])
    assert next(iter(again.quotes.values())).seq == 50


def test_positions_of_another_epoch_are_lost_and_everything_begins_anew() -> None:
    hub = world()
    publish(hub, trade(1), snapshot(1))
    first = Reader(hub)
    first.subscribe("trades *", "book *")
    publish(hub, trade(2), delta(2))
    first.drain()
    other = world(epoch=8)
    publish(other, trade(1), snapshot(1))
    again = Reader(other)
    again.resume(first, "trades *", "book *", epoch=7)
    publish(other, trade(2))
    again.drain()
    assert {(g.reason, g.to_seq) for g in again.gaps} == {("restart", 0)}
    assert len(again.gaps) == len(first.positions)
    assert same(again.book(), other.books["v:A"])


def test_a_position_ahead_of_the_server_is_told_to_be_lost() -> None:
    hub = world()
    publish(hub, trade(1), snapshot(1))
    first = Reader(hub)
    first.subscribe("trades *")
    publish(hub, trade(2))
    first.drain()
    for key in first.positions:
        first.positions[key] += 1000
    again = Reader(hub)
    again.resume(first, "trades *")
    publish(hub, trade(3))
    again.drain()
    assert {(g.reason, g.to_seq) for g in again.gaps} == {("restart", 0)}
    assert again.positions[next(k for k in again.positions if k.kind == Kind.TRADES)] < 1000


def test_records_of_a_store_are_marked() -> None:
    hub = world()
    hub.publish([trade(1)], T0)
    reader = Reader(hub)
    reader.subscribe("trades *")
    hub.publish([trade(2)], T0, flags=REPLAYED)
    hub.publish([trade(3)], T0)
    reader.drain()
    assert [h.flags for h, r in reader.records if type(r).__name__ == "Trade"] == [REPLAYED, 0]
