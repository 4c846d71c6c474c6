from __future__ import annotations

from typing import Any

import pytest
from client_pair import MS, Market, Pair, check_numbers, same
from hub_world import T0, S, delta, quote, snapshot, status, trade, world
from hypothesis import given, settings
from hypothesis import strategies as st

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.records import BookDelta, InstrumentRecord, Trade
from cmd_common.sequence import BookState
from cmd_server import codec
from cmd_server.client.asking import policy_of
from cmd_server.client.core import ClientCore, ClientOptions
from cmd_server.client.events import BookChanged, Connected, Disconnected, Lost, Message, Subscribed
from cmd_server.errors import FrameError, RefusedError
from cmd_server.framing import Splitter
from cmd_server.hub import Hub
from cmd_server.messages import Ack, Bye, Hello, Kind, Login, Policy, Reject, StreamGap, Subscribe


def feed(core: ClientCore, *messages: Any, now: int = 1) -> list[Any]:
    return core.receive(b"".join(m if isinstance(m, bytes) else codec.encode_service(m) for m in messages), now)


def requests(core: ClientCore) -> list[Any]:
    return [codec.decode_request(f) for f in Splitter(1 << 20).feed(b"".join(core.outgoing(1)))]


def hello(epoch: int = 7, heartbeat: int = S) -> Hello:
    return Hello(epoch, T0, heartbeat, 1 << 20, False, "test")


def ready(*topics: str, **options: Any) -> ClientCore:
    core = ClientCore(ClientOptions(topics or ("trades *",), **options))
    core.connected(1, "tcp:test")
    feed(core, hello(), Ack(0))
    feed(core, Ack(1, 1))
    core.outgoing(1)
    assert core.ready
    return core


A = InstrumentRecord(T0, T0, "v", "A", "A", "USD", "USD", "spot", "0.01", "1", "0", "0", "", False, None, "trading")


# -- a connection


def test_a_client_greets_logs_in_and_subscribes() -> None:
    core = ClientCore(ClientOptions(("trades *",), token="secret", name="me", policy=Policy.DROP_OLDEST, queue=50))
    core.connected(1, "tcp:test")
    assert not core.outgoing(1)
    assert feed(core, hello()) == []
    assert requests(core) == [Login("secret", "me")]
    assert feed(core, Ack(0)) == []
    assert requests(core) == [Subscribe(1, ("trades *",), Policy.DROP_OLDEST, 50)]
    assert feed(core, Ack(1, 4)) == [Connected("tcp:test", "test", 7), Subscribed(("trades *",), 4)]
    assert core.ready


def test_records_books_quotes_and_instruments_follow_the_server() -> None:
    hub = world()
    pair = Pair("book v:A", "trades *", "quotes *")
    pair.connect(hub)
    pair.drain()
    hub.publish([A, snapshot(1), delta(2, [(98.5, 2.0)]), trade(1), quote(3)], T0 + 5)
    pair.drain()
    kinds = [type(i.record).__name__ for i in pair.items if isinstance(i, Message)]
    assert kinds[0] == "InstrumentRecord"
    assert pair.core.instruments["v:A"].tick_size in ("0.01", "")
    assert same(pair.core.local.of("v:A", None), hub.books["v:A"])
    assert pair.core.local.of("A", 0).bids() == [(99.0, 1.0), (98.5, 2.0)]
    assert pair.core.quotes["v:A"] == quote(3)
    assert pair.records(Trade) == [trade(1)]
    with pytest.raises(UnknownNameError, match="book@5"):
        pair.core.local.of("v:A", 5)


def test_a_book_of_some_levels_gives_way_to_the_whole_one() -> None:
    hub = world()
    hub.publish([snapshot(1, [(99.0, 1.0), (98.0, 1.0), (97.0, 1.0)], [(101.0, 1.0), (102.0, 1.0)])], T0)
    pair = Pair("book@1 v:A")
    pair.connect(hub)
    pair.drain()
    assert len(pair.core.local.mapping["v:A"].bids()) == 1
    pair.core.subscribe(["book@2 v:A"])
    pair.drain()
    assert len(pair.core.local.mapping["v:A"].bids()) == 2
    pair.core.subscribe(["book v:A"])
    pair.drain()
    assert len(pair.core.local.mapping["v:A"].bids()) == 3
    assert len(pair.core.local.of("v:A", 1).bids()) == 1
    hub.publish([delta(2, [(99.5, 1.0)])], T0 + 1)
    pair.drain()
    for view in (0, 1, 2):
        assert pair.core.local.of("v:A", view).best_bid == (99.5, 1.0)
    assert pair.core.local.mapping.id_of("v:A") == 0


# -- sequences


def test_a_hole_that_nobody_explained_breaks_the_connection_and_is_filled_after_it() -> None:
    hub = world()
    pair = Pair("trades *")
    pair.connect(hub)
    pair.drain()
    hub.publish([trade(1), trade(2)], T0 + 1)
    pair.drain()
    hub.publish([trade(3)], T0 + 2)
    assert pair.client is not None
    pair.client.take(1 << 20)  # lost on the way
    hub.publish([trade(4)], T0 + 3)
    pair.drain()
    assert "did not come" in pair.core.broken
    assert pair.core.holes == 1
    pair.disconnect(pair.core.broken)
    pair.connect(hub)
    pair.drain()
    assert [t.trade_seq for t in pair.records(Trade)] == [1, 2, 3, 4]
    assert not pair.events(Lost)
    assert pair.events(Connected)[-1].resumed


def test_what_came_already_is_dropped() -> None:
    core = ready()
    frames = [codec.encode(A, 1, 0), codec.encode(trade(1), 1, 1), codec.encode(trade(2), 1, 2)]
    assert len(feed(core, *frames)) == 3
    assert feed(core, *frames[1:]) == []
    assert core.duplicates == 2
    assert [i.seq for i in feed(core, codec.encode(trade(3), 1, 3))] == [3]


def test_a_server_that_says_what_it_left_out_is_believed() -> None:
    core = ready()
    feed(core, codec.encode(A, 1, 0), codec.encode(trade(1), 1, 1))
    items = feed(core, StreamGap(1, Kind.TRADES, 0, 2, 9, "slow"), codec.encode(trade(10), 1, 10))
    assert items[0] == Lost("v", "A", Kind.TRADES, "", 2, 9, "slow")
    assert items[0].count == core.lost == 8
    assert isinstance(items[1], Message)
    assert feed(core, StreamGap(1, Kind.TRADES, 0, 2, 9, "slow")) == []  # told twice


def test_a_conflated_message_is_no_hole() -> None:
    core = ready("quotes *")
    feed(core, codec.encode(A, 1, 0), codec.encode(quote(1), 1, 1))
    (item,) = feed(core, codec.encode(quote(9), 1, 9, 0, 128))
    assert item.conflated
    assert not core.broken


def test_a_message_that_stands_for_what_was_lost_has_the_last_sequence_of_the_gap() -> None:
    core = ready("quotes *")
    feed(core, codec.encode(A, 1, 0), codec.encode(quote(1), 1, 1))
    items = feed(core, StreamGap(1, Kind.QUOTES, 0, 2, 9, "resume"), codec.encode(quote(9), 1, 9))
    assert [type(i) for i in items] == [Lost, Message]
    assert core.quotes["v:A"].seq == 9


# -- reconnecting


def test_a_client_goes_on_where_it_was_and_loses_nothing_within_the_replay_buffer() -> None:
    hub = world()
    pair = Pair("book *", "trades *")
    pair.connect(hub)
    pair.drain()
    hub.publish([snapshot(1), trade(1)], T0 + 1)
    pair.drain()
    book = pair.core.local.mapping["v:A"]
    assert book.state is BookState.LIVE
    pair.disconnect()
    assert book.state is BookState.STALE
    assert pair.events(BookChanged)[-1] == BookChanged("v", "A", "", BookState.STALE, "disconnected")
    hub.publish([delta(2, [(98.0, 1.0)]), trade(2), delta(3, [], [(101.0, 0.0), (102.0, 1.0)]), trade(3)], T0 + 2)
    pair.connect(hub)
    pair.drain()
    assert same(book, hub.books["v:A"])
    assert pair.core.local.mapping["v:A"] is book
    assert [t.trade_seq for t in pair.records(Trade)] == [1, 2, 3]
    assert len(pair.records(BookDelta)) == 2
    assert not pair.events(Lost)
    assert all(i.replayed for i in pair.items[-4:] if isinstance(i, Message))


def test_a_quiet_book_is_live_again_as_soon_as_its_stream_goes_on() -> None:
    hub = world()
    pair = Pair("book *")
    pair.connect(hub)
    pair.drain()
    hub.publish([snapshot(1)], T0 + 1)
    pair.drain()
    pair.disconnect()
    pair.connect(hub)
    pair.drain()
    assert pair.core.local.mapping["v:A"].state is BookState.LIVE
    assert pair.events(BookChanged)[-1].reason == "resumed"


def test_a_book_that_went_stale_while_the_client_was_away_is_stale() -> None:
    hub = world()
    pair = Pair("book *")
    pair.connect(hub)
    pair.drain()
    hub.publish([snapshot(1)], T0 + 1)
    pair.drain()
    pair.disconnect()
    hub.publish([status("STALE", 5)], T0 + 5)
    pair.connect(hub)
    pair.drain()
    assert pair.core.local.mapping["v:A"].state is BookState.STALE
    hub.publish([snapshot(9)], T0 + 9)
    pair.drain()
    assert pair.core.local.mapping["v:A"].state is BookState.LIVE


def test_an_older_state_that_is_replayed_does_not_undo_a_newer_snapshot() -> None:
    hub = world()
    pair = Pair("book *")
    pair.connect(hub)
    pair.drain()
    hub.publish([snapshot(1)], T0 + 1)
    pair.drain()
    pair.disconnect()
    hub.publish([status("STALE", 5), snapshot(9), status("LIVE", 9)], T0 + 9)
    pair.connect(hub)
    pair.drain()
    assert same(pair.core.local.mapping["v:A"], hub.books["v:A"])
    assert pair.core.local.mapping["v:A"].state is BookState.LIVE


def test_a_client_that_comes_back_too_late_is_told_what_it_lost() -> None:
    hub = world(replay_messages=4)
    pair = Pair("book *", "trades *")
    pair.connect(hub)
    pair.drain()
    hub.publish([snapshot(1), trade(1)], T0 + 1)
    pair.drain()
    pair.disconnect()
    hub.publish([r for n in range(2, 30) for r in (delta(n, [(98.0, float(n))]), trade(n))], T0 + 2)
    pair.connect(hub)
    pair.drain()
    lost = {e.kind: e for e in pair.events(Lost)}
    assert set(lost) == {Kind.BOOK, Kind.TRADES}
    assert all(e.reason == "resume" and e.count for e in lost.values())
    assert same(pair.core.local.mapping["v:A"], hub.books["v:A"])
    hub.publish([trade(30)], T0 + 3)
    pair.drain()
    check_numbers(pair.items)
    assert pair.records(Trade)[-1].trade_seq == 30


def test_another_run_of_the_server_begins_every_stream_anew() -> None:
    hub = world(epoch=7)
    pair = Pair("book *", "trades *")
    pair.connect(hub)
    pair.drain()
    hub.publish([snapshot(1), trade(1)], T0 + 1)
    pair.drain()
    book = pair.core.local.mapping["v:A"]
    pair.disconnect()
    pair.take()
    other = world(epoch=8)
    other.publish([trade(1, symbol="Z"), trade(5), snapshot(50, [(42.0, 1.0)])], T0 + 2)  # other ids, other sequences
    pair.connect(other)
    pair.step()
    assert {(e.kind, e.reason, e.count) for e in pair.events(Lost)} >= {(Kind.BOOK, "restart", 0)}
    pair.drain()
    assert pair.core.local.mapping["v:A"] is book
    assert same(book, other.books["v:A"])
    other.publish([trade(6)], T0 + 3)
    pair.drain()
    assert pair.records(Trade)[-1].trade_seq == 6
    assert not pair.events(Connected)[-1].resumed
    assert not pair.core.broken


# -- refusals


def test_a_wrong_token_is_final_and_a_full_server_is_not_once_we_were_in() -> None:
    core = ClientCore(ClientOptions(("trades *",), token="wrong"))
    core.connected(1, "tcp:test")
    feed(core, hello(), Reject(0, "token", "the token is wrong", "give another"))
    assert isinstance(core.failure, RefusedError)
    assert core.failure.code == "token"
    assert core.final(None) is core.failure

    core = ready()
    core.disconnected("cut")
    core.connected(2, "tcp:test")
    feed(core, hello(), Bye("limit", "1000 clients are connected"))
    assert "1000 clients" in core.broken
    assert core.final(None) is None
    (gone,) = [e for e in core.disconnected("") if isinstance(e, Disconnected)]
    assert gone.code == "limit"


def test_a_goodbye_says_whether_to_come_back() -> None:
    for code, back in (("slow", True), ("shutdown", True), ("idle", True), ("protocol", False), ("token", False)):
        core = ready()
        feed(core, Bye(code, "why"))
        assert core.broken
        assert (core.final(None) is None) is back


def test_a_goodbye_explains_the_end_of_its_own_connection_only() -> None:
    core = ready()
    feed(core, Bye("shutdown", "the server shuts down"))
    first, second = (
        [e.reason for e in core.disconnected("nobody listens there") if isinstance(e, Disconnected)] for _ in range(2)
    )
    assert first == ["the server closed the connection: the server shuts down"]
    assert second == ["nobody listens there"]


def test_a_topic_that_the_server_refuses_is_not_asked_for_again() -> None:
    hub = world()
    pair = Pair("trades *")
    pair.connect(hub)
    pair.drain()
    number = pair.core.subscribe(["nonsense *"])
    pair.drain()
    answer = pair.core.answer(number)
    assert isinstance(answer, Reject)
    assert list(pair.core.topics) == ["trades *"]
    assert pair.core.answer(number) is None


def test_requests_while_there_is_no_connection_are_part_of_the_next() -> None:
    hub = world()
    pair = Pair("trades *")
    first = pair.core.subscribe(["book *"])
    pair.connect(hub)
    pair.step()
    pair.step()  # the login is answered, the first subscription is not
    late = pair.core.subscribe(["quotes *"])
    pair.core.unsubscribe(["book *"])
    pair.drain()
    assert isinstance(pair.core.answer(first), Ack)
    assert isinstance(pair.core.answer(late), Ack)
    assert pair.client is not None
    assert set(pair.client.topics) == {"trades *", "quotes *"}


def test_what_was_unsubscribed_may_be_subscribed_again() -> None:
    hub = world()
    pair = Pair("trades *", "book *")
    pair.connect(hub)
    pair.drain()
    hub.publish([snapshot(1), trade(1)], T0 + 1)
    pair.drain()
    with pytest.raises(UsageError, match="not subscribed"):
        pair.core.unsubscribe(["trades v:A"])
    pair.core.unsubscribe(["trades *", "book *"])
    assert pair.core.local.mapping["v:A"].state is BookState.STALE
    pair.drain()
    hub.publish([trade(2), delta(2, [(98.0, 1.0)])], T0 + 2)
    pair.drain()
    assert len(pair.records(Trade)) == 1
    pair.core.subscribe(["trades *", "book *"])
    pair.drain()
    hub.publish([trade(3), delta(3, [(97.0, 1.0)])], T0 + 3)
    pair.drain()
    assert [t.trade_seq for t in pair.records(Trade)] == [1, 3]
    assert same(pair.core.local.mapping["v:A"], hub.books["v:A"])
    assert not pair.core.broken
    assert not pair.events(Lost)


# -- bytes


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=12), st.integers(0, 40))
@settings(max_examples=30)
def test_bytes_may_be_cut_anywhere_and_messages_may_be_longer_than_the_buffer(cuts: list[int], deep: int) -> None:
    core = ready("book *", "trades *")
    big = snapshot(1, [(1.0 + n, 1.0) for n in range(deep * 1000)], [(1e6, 2.0)])  # up to 640 kB
    frames = [codec.encode(A, 1, 0), *(codec.encode(trade(n), 1, n) for n in range(1, 400)), codec.encode(big, 1, 1)]
    frames += [codec.encode(trade(n), 1, n) for n in range(400, 800)]
    data, at, items = b"".join(frames), 0, []
    while at < len(data):
        for cut in cuts:
            items += core.receive(data[at : at + cut], 1)
            at += cut
    core.check()
    records = [i.record for i in items if isinstance(i, Message)]
    assert records == [A, *(trade(n) for n in range(1, 400)), big, *(trade(n) for n in range(400, 800))]


# -- damage and silence


def test_bytes_that_are_no_frames_end_the_connection() -> None:
    core = ClientCore(ClientOptions())
    core.connected(1, "tcp:test")
    with pytest.raises(FrameError) as caught:
        core.receive(b"HTTP/1.1 400 Bad Request\r\n", 1)
    assert core.final(caught.value) is caught.value


def test_a_template_of_a_newer_version_is_skipped() -> None:
    core = ready()
    frame = bytearray(codec.encode_service(Ack(5)))
    frame[8:10] = (99).to_bytes(2, "little")
    assert feed(core, bytes(frame), codec.encode(A, 1, 0)) != []
    assert core.unknown == 1


def test_a_gap_of_a_kind_of_a_newer_version_is_skipped() -> None:
    core = ready("trades *")
    before = core.unknown
    assert feed(core, StreamGap(1, 200, 0, 2, 9, "slow")) == []
    assert core.unknown == before + 1
    (lost,) = feed(core, StreamGap(1, Kind.CANDLES, 0x7001, 2, 9, "slow"))  # nor does the unit of an interval end it
    assert lost.view == "1?"
    core.check()


def test_a_message_that_cannot_be_read_is_asked_for_again() -> None:
    core = ready()
    whole = codec.encode(trade(2), 1, 2)
    cut = bytearray(whole[:-3])
    cut[0:4] = len(cut).to_bytes(4, "big")
    items = feed(core, codec.encode(A, 1, 0), codec.encode(trade(1), 1, 1), bytes(cut), codec.encode(trade(3), 1, 3))
    assert [i.seq for i in items] == [0, 1]
    assert "cannot be read" in core.broken
    assert core.positions()[0].seq == 1


def test_a_client_pings_and_finds_silence_but_not_its_own() -> None:
    core = ready()
    assert core.interval <= S // 2
    now = 1
    for _ in range(9):
        now += S // 4
        core.tick(now)
    assert len(requests(core)) >= 2
    assert not core.broken
    later = now + 3600 * S  # this process was stopped
    core.tick(later)
    assert not core.broken
    for _ in range(40):
        later += S // 4
        core.tick(later)
    assert "nothing was heard" in core.broken
    core = ClientCore(ClientOptions(hello_timeout=S))
    core.connected(0, "tcp:test")
    for n in range(30):
        core.tick(n * S // 20)
    assert "did not answer" in core.broken


def test_policies_by_name() -> None:
    assert policy_of("drop-oldest") is Policy.DROP_OLDEST
    assert policy_of(Policy.CONFLATE) is Policy.CONFLATE
    with pytest.raises(UnknownNameError, match="did you mean disconnect"):
        policy_of("disconect")


# -- all of it together


ACTION = st.tuples(
    st.sampled_from(("publish", "publish", "publish", "read", "read", "cut", "restart")), st.integers(0, 1 << 16)
)


@given(st.lists(ACTION, max_size=60), st.sampled_from(list(Policy)), st.integers(8, 40), st.integers(0, 12))
@settings(max_examples=120)
def test_whatever_happens_nothing_is_missing_in_silence_and_books_end_equal(
    actions: list[tuple[str, int]], policy: Policy, queue: int, ring: int
) -> None:
    market, epoch = Market(), 1

    def new_hub() -> Hub:
        return world(epoch=epoch, replay_messages=ring)

    hub = new_hub()
    pair = Pair("book *", "trades *", "book@1 v:A", policy=policy, queue=queue)
    pair.connect(hub)

    def settle() -> None:
        """What a shell does when the connection is broken."""
        while pair.core.broken:
            assert pair.core.final(None) is None
            pair.disconnect(pair.core.broken)
            pair.connect(hub)
            pair.step()

    for action, number in actions:
        if action == "publish":
            for k in range(1 + number % 7):
                hub.publish(market.records("AB"[(number >> k) & 1], (number >> (2 * k)) % 8), hub.now + MS)
        elif action == "read":
            pair.step(1 + number % 500, 1 + number % 300)
        elif action == "cut":
            pair.disconnect()
            pair.connect(hub)
        else:
            epoch += 1
            pair.disconnect()
            hub = new_hub()
            for symbol in "AB":
                market.live[symbol] = False
            pair.connect(hub)
        settle()
        hub.check()
    for _ in range(20):
        pair.drain()
        if not pair.core.broken:
            break
        settle()
    assert not pair.core.broken
    for symbol in "AB":
        hub.publish(market.records(symbol, 2), hub.now + MS)
        hub.publish(market.records(symbol, 0), hub.now + MS)
        hub.publish(market.records(symbol, 7), hub.now + MS)
    pair.drain()
    while pair.core.broken:
        settle()
        pair.drain()
    for symbol in "AB":
        assert same(pair.core.local.of(f"v:{symbol}", 0), hub.books[f"v:{symbol}"])
    assert pair.core.local.of("v:A", 1).best_bid == hub.books["v:A"].best_bid
    assert pair.core.holes == 0
    check_numbers(pair.items)
    for symbol in "AB":
        assert [t for t in pair.records(Trade) if t.symbol == symbol][-1].trade_seq == market.trades[symbol]
