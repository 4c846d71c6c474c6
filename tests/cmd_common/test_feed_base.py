"""What FeedBase does for every venue, shown with a toy protocol that is as small as a protocol can be."""

from __future__ import annotations

import json
import struct
from decimal import InvalidOperation
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from feed_toy import INSTRUMENTS, T0, OwnFeed, S, SeededFeed, Shell, ToyFeed
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from cmd_common.errors import ProtocolError, UnknownNameError, UsageError
from cmd_common.feed import FetchSnapshot, Output, Reconnect, Resubscribe, Send, Subscription
from cmd_common.feed_base import ParsedBook, Wire, check_subscription, inexact, inexact_flag
from cmd_common.feed_state import Recent
from cmd_common.orderbook import OrderBook
from cmd_common.records import INEXACT, BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState

# Books whose snapshot comes in the stream


def test_a_book_of_the_stream_is_live_at_once_and_chains() -> None:
    shell = Shell().connect()
    assert shell.state is BookState.SYNCING
    assert not shell.did(Resubscribe)  # the subscription itself brings the snapshot
    shell.book(5, ts=1)
    (snapshot,) = shell.of(BookSnapshot)
    assert (snapshot.epoch, snapshot.seq, snapshot.ts_event) == (5, 5, T0 + 1)
    (delta,) = shell.delta(6, 2, b=[[10.0, 0.0]])
    assert (delta.epoch, delta.seq, delta.first_seq) == (5, 6, 6)
    assert shell.feed.books["AAA"].book.best_bid == (9.0, 1.0)
    shell.feed.books["AAA"].check()


def test_a_hole_subscribes_again_and_leaves_a_gap_row() -> None:
    shell = Shell().connect()
    shell.book(5, ts=1)
    shell.delta(6, 2)
    shell.delta(8, 4)
    assert shell.state is BookState.STALE
    (again,) = shell.did(Resubscribe)
    assert [list(json.loads(f)) for f in again.frames] == [["unsubscribe"], ["subscribe"]]
    assert shell.delta(9, 5) == []
    shell.book(9, ts=6)
    (gap,) = shell.of(Gap)
    assert (gap.record_type, gap.reason, gap.ts_from, gap.ts_to) == ("book_deltas", "sequence", T0 + 2, T0 + 6)
    assert (gap.first_id, gap.last_id) == (7, 9)
    assert shell.state is BookState.LIVE
    (delta,) = shell.delta(10, 7, b=[[8.0, 1.0]])
    assert delta.epoch == 9


def test_a_book_that_keeps_breaking_is_asked_for_ever_more_slowly() -> None:
    shell = Shell().connect()
    asked = []
    for n in range(1, 400):
        shell.tick()
        if shell.state is not BookState.LIVE and shell.feed._symbols["AAA"].awaiting:
            shell.book(n * 10, ts=n)
        shell.delta(n * 10 + 5, n)  # a hole every time
        asked.append(len(shell.did(Resubscribe)))
    assert asked[3] >= 2
    assert asked[-1] < 30


def test_an_unasked_snapshot_replaces_the_book_and_is_a_gap() -> None:
    shell = Shell().connect()
    shell.book(100, ts=1)
    shell.delta(101, 2)
    shell.book(1, ts=9)  # the service began anew
    (gap,) = shell.of(Gap)
    assert (gap.reason, gap.ts_from, gap.ts_to, gap.first_id) == ("snapshot", T0 + 2, T0 + 9, None)
    assert shell.feed.books["AAA"].epoch == 1
    assert [r.epoch for r in shell.delta(2, 10)] == [1]
    shell.book(3, ts=11, continues=True)
    assert len(shell.of(Gap)) == 1
    assert not shell.did(Resubscribe)


def test_a_bad_snapshot_is_reported_and_asked_for_again() -> None:
    shell = Shell().connect()
    shell.send(k="b", s="AAA", ts=1, i=5, b=[[10.0, -1.0]], a=[])
    assert shell.state is BookState.SYNCING
    assert [r.state for r in shell.of(FeedStatus)][-1] == "snapshot_failed"
    assert shell.feed.counters.malformed == 1
    assert shell.did(Resubscribe)
    shell.send(k="b", s="AAA", ts=2, i=6, b=[[12.0, 1.0]], a=[[11.0, 1.0]])
    assert shell.state is not BookState.LIVE  # crossed
    shell.tick(40)
    shell.book(7, ts=3)
    assert shell.state is BookState.LIVE


def test_a_snapshot_that_never_comes_is_asked_for_again() -> None:
    shell = Shell().connect()
    shell.tick(14)
    assert not shell.did(Resubscribe)
    shell.tick(200)
    assert 2 <= len(shell.did(Resubscribe)) <= 6
    shell.book(5, ts=1)
    assert shell.state is BookState.LIVE


def test_a_reseed_keeps_the_book_until_the_new_one_comes() -> None:
    shell = Shell(OwnFeed).connect()
    shell.book(None, ts=10)
    state = shell.feed._symbols["AAA"]
    out = Output()
    shell.feed._reseed(state, shell.now, out)
    shell.take(out)
    assert shell.state is BookState.LIVE
    assert len(shell.did(Resubscribe)) == 1
    shell.book(None, ts=20)
    assert [g.reason for g in shell.of(Gap)] == ["reseed"]


# Books without ids


def test_own_counts_begin_at_the_event_time_of_the_snapshot() -> None:
    shell = Shell(OwnFeed).connect()
    assert shell.delta(0, 1, b=[[1.0, 1.0]]) == []  # of no use before the snapshot
    shell.book(None, ts=10)
    deltas = [r for n in (11, 11, 12) for r in shell.delta(0, n, b=[[8.0, float(n)]])]
    assert [d.seq for d in deltas] == [T0 + 11, T0 + 12, T0 + 13]
    assert {d.epoch for d in deltas} == {T0 + 10}
    assert shell.feed.books["AAA"].buffered == 0


def test_verify_is_asked_before_anything_is_published() -> None:
    shell = Shell(OwnFeed).connect()
    shell.book(None, ts=10)
    shell.delta(0, 11, b=[[8.0, 1.0]])
    records = shell.delta(0, 12, b=[[8.0, 2.0]], bad=True)
    assert not [r for r in records if isinstance(r, BookDelta | BookSnapshot | Quote)]
    assert shell.state is BookState.STALE
    shell.book(None, ts=20)
    (gap,) = shell.of(Gap)
    assert (gap.reason, gap.ts_from, gap.ts_to) == ("checksum", T0 + 11, T0 + 20)


def test_quotes_are_derived_when_the_touch_changes() -> None:
    shell = Shell(OwnFeed, ("quotes",)).connect()
    shell.book(None, ts=10)
    shell.delta(0, 11, b=[[8.0, 1.0]])
    shell.delta(0, 12, b=[[10.0, 5.0]])
    assert [(q.ts_event, q.bid_quantity) for q in shell.of(Quote)] == [(T0 + 10, 1.0), (T0 + 12, 5.0)]
    assert not shell.of(BookSnapshot)
    assert not shell.of(BookDelta)
    shell.take(shell.feed.disconnected(shell.now, "test"))
    shell.connect()
    shell.book(None, ts=90)
    assert [(g.record_type, g.reason, g.ts_to) for g in shell.of(Gap)] == [("quotes", "disconnect", T0 + 90)]


def test_with_books_and_derived_quotes_both_tables_get_the_gap() -> None:
    shell = Shell(OwnFeed, ("quotes", "book")).connect()
    shell.book(None, ts=10)
    shell.take(shell.feed.disconnected(shell.now, "test"))
    shell.connect()
    shell.book(None, ts=90)
    assert sorted(g.record_type for g in shell.of(Gap)) == ["book_deltas", "quotes"]


# Books seeded by REST


def test_a_seeded_book_asks_at_the_confirmation_and_chains_with_the_buffer() -> None:
    shell = Shell(SeededFeed)
    shell.confirm = False
    shell.connect()
    assert not shell.did(FetchSnapshot)
    shell.send(k="ack", names=["book:AAA"])
    assert [a.request.url for a in shell.did(FetchSnapshot)] == ["http://x/book/AAA"]
    shell.delta(6, 2, b=[[9.5, 1.0]])
    records = shell.take(shell.feed.snapshot("AAA", b"[5,[[10.0,1.0]],[[11.0,1.0]]]", shell.now))
    assert [type(r).__name__ for r in records] == ["BookSnapshot", "BookDelta", "FeedStatus"]
    assert records[0].ts_event == T0 + 2
    assert shell.state is BookState.LIVE


def test_a_bad_or_missing_rest_snapshot_is_retried() -> None:
    shell = Shell(SeededFeed).connect()
    shell.take(shell.feed.snapshot("AAA", b"<html>", shell.now))
    shell.take(shell.feed.snapshot_failed("AAA", "503", shell.now))
    shell.tick(10)
    assert len(shell.did(FetchSnapshot)) >= 2
    shell.take(shell.feed.snapshot("AAA", b"[5,[[10.0,1.0]],[[11.0,1.0]]]", shell.now))
    assert shell.state is BookState.LIVE


def test_damage_loses_books_that_would_not_notice() -> None:
    shell = Shell(SeededFeed).connect()
    shell.take(shell.feed.snapshot("AAA", b"[5,[[10.0,1.0]],[[11.0,1.0]]]", shell.now))
    shell.delta(6, 2)
    shell.raw('{"k":"d","s":"AA')
    assert shell.state is BookState.STALE
    assert {g.reason for g in shell.of(Gap)} == {"malformed"}
    sequenced = Shell().connect()
    sequenced.book(5)
    sequenced.raw('{"k":"d","s":"AA')
    assert sequenced.state is BookState.LIVE  # the next delta will tell


def test_lost_all_reaches_every_book_and_blind_stream() -> None:
    shell = Shell(OwnFeed, ("trades", "book")).connect()
    shell.book(None, ts=10)
    shell.send(k="t", s="AAA", ts=11, u="x1")
    shell.send(k="lost")
    assert shell.state is BookState.STALE
    shell.send(k="t", s="AAA", ts=15, u="x2")
    shell.book(None, ts=16)
    assert sorted((g.record_type, g.ts_from - T0, g.ts_to - T0) for g in shell.of(Gap)) == [
        ("book_deltas", 10, 16),
        ("trades", 11, 15),
    ]


# Partial books


def test_partial_books_are_snapshots_only() -> None:
    shell = Shell(depth=2).connect()
    for i in (1, 2, 2, 1):
        shell.send(k="p", s="AAA", i=i, ts=i, b=[[10.0, 1.0], [9.0, 1.0]], a=[[11.0, 1.0]])
    assert [r.seq for r in shell.of(BookSnapshot)] == [1, 2]
    assert shell.feed.counters.duplicates == 2
    shell.take(shell.feed.disconnected(shell.now, "test"))
    shell.connect()
    shell.send(k="p", s="AAA", i=9, ts=9, b=[[10.0, 1.0]], a=[[11.0, 1.0]])
    (gap,) = shell.of(Gap)
    assert (gap.record_type, gap.ts_from, gap.ts_to) == ("book_snapshots", T0 + 2, T0 + 9)


# Trades, quotes, candles


def test_trades_with_ids_find_holes_and_repeats() -> None:
    shell = Shell(types=("trades",)).connect()
    for i in (1, 2, 2, 5, 3):
        shell.send(k="t", s="AAA", ts=i, i=i)
    assert [t.trade_seq for t in shell.of(Trade)] == [1, 2, 5, 3]
    (gap,) = shell.of(Gap)
    assert (gap.first_id, gap.last_id, gap.reason) == (3, 4, "trade_id")
    assert shell.feed.counters.duplicates == 1


def test_trades_without_ids_lose_by_disconnects_unless_the_backlog_overlaps() -> None:
    shell = Shell(OwnFeed, ("trades",)).connect()
    for u in ("a", "b", "a"):
        shell.send(k="t", s="AAA", ts=1, u=u)
    assert len(shell.of(Trade)) == 2
    shell.take(shell.feed.disconnected(shell.now, "test"))
    shell.connect()
    for u in ("b", "c"):  # the backlog: b is known, so nothing is missing before c
        shell.send(k="t", s="AAA", ts=2, u=u)
    assert not shell.of(Gap)
    shell.take(shell.feed.disconnected(shell.now, "test"))
    shell.connect()
    shell.send(k="t", s="AAA", ts=9, u="z")
    assert [(g.record_type, g.ts_from, g.ts_to) for g in shell.of(Gap)] == [("trades", T0 + 2, T0 + 9)]


def test_quotes_without_ids_count_within_their_instant() -> None:
    shell = Shell(types=("quotes",)).connect()
    values = [[1.0, 1.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0], [1.0, 3.0, 2.0, 1.0]]
    for ts, v in zip((1, 1, 2, 2), values, strict=True):
        shell.send(k="q", s="AAA", ts=ts, v=v)
    assert [(q.ts_event - T0, q.seq) for q in shell.of(Quote)] == [(1, 0), (1, 1), (2, 0)]
    with_ids = Shell(types=("quotes",)).connect()
    for i in (1, 3, 2, 3, 4):
        with_ids.send(k="q", s="AAA", ts=i, i=i, v=[1.0, 1.0, 2.0, 1.0])
    assert [q.seq for q in with_ids.of(Quote)] == [1, 3, 4]


def test_missing_candles_are_gaps_and_final_ones_are_not_repeated() -> None:
    shell = Shell(types=("candles",)).connect()
    for o, x in ((0, False), (0, True), (0, True), (120, False)):
        shell.send(k="c", s="AAA", ts=o * S, o=o * S, x=x)
    assert [c.state for c in shell.of(Candle)] == ["provisional", "final", "provisional"]
    (gap,) = shell.of(Gap)
    assert (gap.ts_from, gap.ts_to, gap.detail) == (T0 + 60 * S, T0 + 120 * S, "1m")


# Subscriptions


def test_a_bad_name_is_found_by_halves_and_left_out() -> None:
    shell = Shell(types=("trades",), symbols=("AAA", "BBB", "CCC", "DDD"))
    shell.confirm = False
    shell.connect()
    answered: set[str] = set()
    at = 0
    for _ in range(30):
        sent, shell_sent = shell.did(Send)[at:], len(shell.did(Send))
        at = shell_sent
        for action in sent:
            names = json.loads(action.frame)["subscribe"]
            if "trades:BBB" in names:
                shell.send(k="no", names=names, why="bad name")
            else:
                answered |= set(names)
                shell.send(k="ack", names=names)
        shell.tick()
    assert answered == {"trades:AAA", "trades:CCC", "trades:DDD"}
    (rejected,) = [r for r in shell.of(FeedStatus) if r.state == "rejected"]
    assert (rejected.symbol, rejected.record_type) == ("BBB", "trades")
    assert not shell.did(Reconnect)


def test_what_is_not_answered_is_left_out_but_only_if_others_are() -> None:
    shell = Shell(types=("trades",), symbols=("AAA", "BBB"))
    shell.confirm = False
    shell.connect()
    shell.send(k="ack", names=["trades:AAA"])
    shell.tick(40)
    (rejected,) = [r for r in shell.of(FeedStatus) if r.state == "rejected"]
    assert rejected.symbol == "BBB"
    assert not shell.did(Reconnect)
    alone = Shell(types=("trades",))
    alone.confirm = False
    alone.connect()
    alone.tick(40)
    assert len(alone.did(Send)) == 3
    assert len(alone.did(Reconnect)) == 1


def test_add_and_remove_while_connected() -> None:
    shell = Shell(types=("trades", "book")).connect()
    shell.take(shell.feed.add(["BBB", "AAA"], shell.now))
    assert set(shell.feed.symbols) == {"AAA", "BBB"}
    assert json.loads(shell.did(Send)[-1].frame) == {"subscribe": ["trades:BBB", "book:BBB"]}
    with pytest.raises(UnknownNameError):
        shell.feed.add(["ZZZ"], shell.now)
    shell.take(shell.feed.remove(["AAA"], shell.now))
    assert set(shell.feed.books) == {"BBB"}
    assert json.loads(shell.did(Send)[-1].frame) == {"unsubscribe": ["trades:AAA", "book:AAA"]}


def test_silence_is_reported_and_ends() -> None:
    shell = Shell(types=("trades",)).connect()
    shell.tick(61)
    assert [r.state for r in shell.of(FeedStatus)][-1] == "silent"
    shell.send(k="t", s="AAA", ts=1, i=1)
    assert [g.reason for g in shell.of(Gap)] == ["silence"]


def test_a_quiet_connection_is_opened_anew_where_the_venue_has_heartbeats() -> None:
    class Quiet(ToyFeed):
        quiet_limit = 30 * S

    shell = Shell(Quiet).connect()
    shell.book(1)
    shell.tick(29)
    assert not shell.did(Reconnect)
    shell.tick(2)
    assert len(shell.did(Reconnect)) == 1


# Frames


def test_whatever_comes_is_counted() -> None:
    shell = Shell().connect()
    for frame in ("", "{", "[]", "null", '{"k":"d"}', '{"k":"d","s":"AAA"}', b"\xff", "[" * 5000):
        shell.raw(frame)
    assert shell.feed.counters.malformed == 8
    shell.send(k="new thing")
    shell.send(k="new thing")
    assert shell.feed.counters.unknown_messages == 2
    assert [r.state for r in shell.of(FeedStatus)].count("unknown_message") == 1


def test_a_frame_over_the_limit_is_not_decoded() -> None:
    class Small(ToyFeed):
        max_frame = 100

    shell = Shell(Small).connect()
    shell.raw(" " * 101)
    assert shell.feed.counters.malformed == 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_no_frame_raises(frame: str | bytes) -> None:
    shell = Shell(OwnFeed, ("trades", "quotes", "book")).connect()
    shell.book(None, ts=1)
    shell.raw(frame)
    for builder in shell.feed.books.values():
        builder.check()


# Helpers


class Inner(Struct, forbid_unknown_fields=True):
    a: int
    b: float = 1.0


class Outer(Struct, forbid_unknown_fields=True):
    data: list[Inner]
    x: Inner | None = None


def test_wire_finds_unknown_keys_and_then_stops_looking() -> None:
    wire = Wire(Outer)
    assert wire.decode('{"data":[{"a":"1","b":"2.5"}],"x":null}') == (Outer([Inner(1, 2.5)]), [])
    frame = '{"data":[{"a":1,"n":[]}],"x":{"a":2,"m":1},"o":0}'
    for _ in range(100):
        message, unknown = wire.decode(frame)
        assert isinstance(message, Outer)
        assert msgspec.to_builtins(message) == msgspec.to_builtins(Outer([Inner(1)], Inner(2)))
        assert unknown == ["data.n", "x.m", "o"]
    message, unknown = wire.decode(frame)
    assert (message.data[0].a, message.x.a if message.x else 0, unknown) == (1, 2, [])
    for bad in ('{"data":[{"a":"x"}]}', "{}", '{"data":[{"n":1}]}', "{"):
        with pytest.raises(msgspec.MsgspecError):
            wire.decode(bad)


class Priced(Struct, forbid_unknown_fields=True):
    price: msgspec.Raw


def test_wire_keeps_the_texts_of_numbers_beside_unknown_keys() -> None:
    message, unknown = Wire(Priced).decode('{"new":1,"price":0.00005100}')
    assert (bytes(message.price), unknown) == (b"0.00005100", ["new"])


@pytest.mark.parametrize(
    ("text", "long"),
    [
        ("0.00001305", False), ("123456789012345", False), ("1234567890123456", True), ("0.1234567890123456", True),
        ("1234567890123450", False), ("1.5e-8", False), ("1.2345678901234567e-8", True), ("-0.5", False),
    ],
)  # fmt: skip
def test_inexact(text: str, long: bool) -> None:
    assert inexact(text) is long
    assert inexact_flag("1.0", text) == (INEXACT if long else 0)


def test_recent_is_bounded() -> None:
    recent = Recent(2)
    assert [recent.add(x) for x in ("a", "b", "a", "c", "a", "c")] == [True, True, False, True, True, False]


def test_check_subscription() -> None:
    def check(**changes: Any) -> None:
        fields = {"symbols": ("AAA",), "types": ("trades",), **changes}
        check_subscription(
            "toy", Subscription(**fields), INSTRUMENTS, types=("trades", "candles"), intervals=("1m",), depths=(5,)
        )

    check()
    check(depth=5)
    with pytest.raises(UnknownNameError):
        check(types=("nonsense",))
    with pytest.raises(UnknownNameError, match="AAAX"):
        check(symbols=("AAAX",))
    for bad in ({"types": ()}, {"depth": 7}, {"types": ("candles",), "intervals": ("7m",)}, {"snapshot_every": 0}):
        with pytest.raises(UsageError):
            check(**bad)


@pytest.mark.parametrize("value", ["x", "nan", "1e12"])
def test_number_options(value: str) -> None:
    with pytest.raises(UsageError):
        Shell(options={"silence": value})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["delta", "skip", "repeat", "lost", "bad"]), max_size=40))
def test_a_live_book_is_always_the_exchanges_book(events: list[str]) -> None:
    """Deltas that are lost, repeated or damaged: LIVE means equal, and everything published chains."""
    shell = Shell().connect()
    truth = OrderBook()
    number = 1
    truth.load([(10.0, 1.0), (9.0, 1.0)], [(11.0, 1.0)])
    shell.book(1)
    last: tuple[int, list[Any]] = (1, [])
    for n, event in enumerate(events):
        if event in ("delta", "skip", "bad"):
            number += 1
            levels = [[float(1 + n % 9), float(n + 1)]]
            truth.apply([(p, q) for p, q in levels], [])
            last = (number, levels)
            if event == "delta":
                shell.delta(number, n, b=levels)
            elif event == "bad":
                shell.raw('{"k":"d","s":"AAA"')
        elif event == "repeat":
            shell.delta(last[0], n, b=last[1])
        else:
            shell.take(shell.feed.disconnected(shell.now, "test"))
            shell.connect()
        shell.tick()
        if shell.feed._symbols["AAA"].awaiting:
            shell.send(k="b", s="AAA", ts=n, i=number, b=truth.bids(), a=truth.asks())
        book = shell.feed.books["AAA"].book
        if book.state is BookState.LIVE and book.last_id == number:
            assert (book.bids(), book.asks()) == (truth.bids(), truth.asks())
    rows = [r for r in shell.records if isinstance(r, BookDelta | BookSnapshot)]
    for before, row in pairwise(rows):
        if isinstance(row, BookDelta):
            assert (row.epoch, row.first_seq) == (before.epoch, before.seq + 1)


@pytest.mark.parametrize(
    "error",
    [
        ProtocolError("a field that must not be"),
        InvalidOperation("no number"),
        ZeroDivisionError(),
        struct.error("no float"),
        KeyError("x"),
        msgspec.ValidationError("x"),
        RecursionError(),
        OverflowError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_no_error_of_bad_data_leaves_a_feed(error: Exception) -> None:
    class Broken(SeededFeed):
        def _on_frame(self, frame: str | bytes, now: int, out: Output) -> None:
            if "break" in str(frame):
                raise error
            super()._on_frame(frame, now, out)

        def _parse_snapshot(self, symbol: str, body: bytes) -> ParsedBook:
            raise error

    shell = Shell(Broken).connect()
    shell.raw('"break"')
    assert shell.feed.counters.malformed == 1
    (fetch,) = shell.did(FetchSnapshot)
    assert shell.take(shell.feed.snapshot(fetch.symbol, b"[]", shell.now))[0].state == "malformed"
    shell.tick(3)
    assert len(shell.did(FetchSnapshot)) > 1


def test_gaps_of_ids_whose_times_fall_have_their_times_in_order() -> None:
    shell = Shell(types=("trades",)).connect()
    shell.send(k="t", s="AAA", i=10, ts=5)
    shell.send(k="t", s="AAA", i=12, ts=3)
    (gap,) = shell.of(Gap)
    assert (gap.ts_from, gap.ts_to, gap.first_id, gap.last_id) == (T0 + 3, T0 + 5, 11, 11)


def test_a_seeded_book_without_a_last_delta_is_written_at_the_end_with_its_own_time() -> None:
    class Timed(SeededFeed):
        def _parse_snapshot(self, symbol: str, body: bytes) -> ParsedBook:
            parsed = super()._parse_snapshot(symbol, body)
            return ParsedBook(parsed.id, parsed.bids, parsed.asks, T0 + 77, complete=True)

    for kind, expected in ((Timed, [T0 + 77]), (SeededFeed, [])):
        shell = Shell(kind).connect()
        shell.take(shell.feed.snapshot("AAA", b"[5,[[10.0,1.0]],[[11.0,1.0]]]", shell.now))
        assert not shell.of(BookSnapshot)
        shell.take(shell.feed.close(shell.now))
        assert [r.ts_event for r in shell.of(BookSnapshot)] == expected
