"""What is OKX's own in the feed: control frames, merged fills, resets, keepalives, checksums, odd numbers."""

from __future__ import annotations

import json
from typing import Any

import okx_wire as w
import pytest
from hypothesis import given
from hypothesis import strategies as st
from okx_wire import INSTRUMENTS, MS, NOW, SECOND, SPOT, SWAP

from cmd_common.feed import Feed, Output, Reconnect, Resubscribe, Send, Subscription
from cmd_common.records import INEXACT, BookDelta, BookSnapshot, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState
from cmd_okx import OKX

KNOWN = {i.symbol: i for i in OKX.parse_instruments(INSTRUMENTS)}


def feed_of(*types: str, symbols: tuple[str, ...] = (SPOT,), depth: int | None = None, **options: str) -> Feed:
    """One feed, connected and confirmed."""
    (feed,) = OKX.feeds(Subscription(symbols, types, depth=depth, options=options), KNOWN, OKX.endpoints)
    for action in feed.connected(NOW).actions:
        assert isinstance(action, Send)
        for reply in w.answer(action.frame):
            feed.receive(reply, NOW)
    return feed


def book_of(feed: Feed, symbol: str = SPOT) -> Any:
    return feed.books[symbol].book


def kinds(output: Output, kind: type[Any]) -> list[Any]:
    return [r for r in output.records if isinstance(r, kind)]


def live() -> Feed:
    feed = feed_of("book")
    feed.receive(w.snapshot(SPOT, 0), NOW)
    assert book_of(feed).state is BookState.LIVE
    return feed


# Control


def test_an_upgrade_notice_asks_for_another_connection_in_time() -> None:
    feed = feed_of("trades")
    frame = '{"event":"notice","code":"64008","msg":"The connection will soon be closed","connId":"1"}'
    (action,) = feed.receive(frame, NOW).actions
    assert isinstance(action, Reconnect)
    assert action.planned
    other = feed_of("trades").receive('{"event":"notice","code":"1","msg":"news"}', NOW)
    assert other.actions == []
    assert [r.state for r in kinds(other, FeedStatus)] == ["notice"]


def test_silence_is_pinged_and_a_dead_connection_left() -> None:
    feed = feed_of("trades")
    pings = []
    for second in range(1, 29):
        actions = feed.tick(NOW + second * SECOND).actions
        pings += [second for a in actions if isinstance(a, Send) and a.frame == "ping"]
    assert pings == [20, 25]
    assert feed.receive("pong", NOW + 29 * SECOND).records == []
    assert feed.receive(b"pong", NOW + 29 * SECOND).records == []
    assert feed.tick(NOW + 45 * SECOND).actions == []
    last = [a for second in range(46, 61) for a in feed.tick(NOW + second * SECOND).actions]
    assert [a for a in last if isinstance(a, Reconnect)]
    assert feed.receive("ping", NOW).actions == [Send("pong")]
    assert feed.counters.malformed == feed.counters.unknown_messages == 0


def test_a_refused_argument_is_left_out_and_the_others_confirmed() -> None:
    (feed,) = OKX.feeds(Subscription((SPOT, SWAP), ("trades", "book")), KNOWN, OKX.endpoints)
    feed.connected(NOW)
    refused = feed.receive(w.error("trades", SWAP), NOW)
    assert [(r.state, r.symbol, r.record_type) for r in kinds(refused, FeedStatus)] == [
        ("error", "", ""),
        ("rejected", SWAP, "trades"),
    ]
    for channel, symbol in (("books", SPOT), ("trades", SPOT), ("books", SWAP)):
        feed.receive(json.dumps({"event": "subscribe", "arg": {"channel": channel, "instId": symbol}}), NOW)
    later = [a for second in range(1, 19) for a in feed.tick(NOW + second * SECOND).actions]
    assert all(SWAP not in a.frame for a in later if isinstance(a, Send))
    assert feed.counters.errors == 1


@pytest.mark.parametrize(
    "words",
    [
        "Subscribe failed, wrong URL or channel:trades,instId:BTC-USDT doesn't exist. Please use the correct URL",
        "channel:trades,instType:SPOT,instId:BTC-USDT doesn't exist",
        "The service does not like it",  # only one argument waits for its answer
    ],
)
def test_errors_name_their_argument_in_several_ways(words: str) -> None:
    (feed,) = OKX.feeds(Subscription((SPOT,), ("trades",)), KNOWN, OKX.endpoints)
    feed.connected(NOW)
    out = feed.receive(json.dumps({"event": "error", "code": "60018", "msg": words}), NOW)
    assert [r.symbol for r in kinds(out, FeedStatus) if r.state == "rejected"] == [SPOT]


def test_a_limit_is_tried_again() -> None:
    (feed,) = OKX.feeds(Subscription((SPOT,), ("trades",)), KNOWN, OKX.endpoints)
    feed.connected(NOW)
    out = feed.receive(w.error("trades", SPOT, "60014"), NOW)
    assert [r.state for r in kinds(out, FeedStatus)] == ["error"]
    again = [a for second in range(1, 5) for a in feed.tick(NOW + second * SECOND).actions]
    assert [json.loads(a.frame)["op"] for a in again if isinstance(a, Send)] == ["subscribe"]


def test_an_error_about_nothing_that_waits_is_only_counted() -> None:
    feed = feed_of("trades", "quotes")
    out = feed.receive('{"event":"error","code":"60012","msg":"Illegal request"}', NOW)
    assert [r.state for r in kinds(out, FeedStatus)] == ["error"]
    assert feed.receive('{"event":"unsubscribe","arg":{"channel":"trades","instId":"BTC-USDT"}}', NOW).records == []


def test_a_connection_that_used_up_its_subscriptions_is_opened_anew() -> None:
    feed = live()
    for n in range(225):
        feed.add((SWAP,), NOW + n)
        feed.remove((SWAP,), NOW + n)
    assert feed.tick(NOW + SECOND).actions == []
    for n in range(10):
        feed.add((SWAP,), NOW + n)
        feed.remove((SWAP,), NOW + n)
    (action,) = [a for a in feed.tick(NOW + 2 * SECOND).actions if isinstance(a, Reconnect)]
    assert "subscriptions in an hour" in action.reason
    feed.disconnected(NOW + 3 * SECOND, "reconnect")
    feed.connected(NOW + 4 * SECOND)  # with an allowance of its own
    assert not [a for a in feed.tick(NOW + 5 * SECOND).actions if isinstance(a, Reconnect)]


def test_an_hour_gives_the_allowance_back() -> None:
    feed = live()
    for n in range(220):
        feed.add((SWAP,), NOW + n)
        feed.remove((SWAP,), NOW + n)
    later = NOW + 3601 * SECOND
    feed.receive("pong", later)
    assert feed.tick(later).actions == []
    for n in range(220):
        feed.add((SWAP,), later + n)
        feed.remove((SWAP,), later + n)
    assert not [a for a in feed.tick(later + SECOND).actions if isinstance(a, Reconnect)]


# Trades


def trade_frame(*rows: dict[str, Any], channel: str = "trades") -> str:
    return w.frame(channel, SPOT, *rows)


def test_merged_fills_cover_their_ids() -> None:
    feed = feed_of("trades")
    first = feed.receive(trade_frame(w.trade_row(SPOT, 103, count="3")), NOW)
    second = feed.receive(trade_frame(w.trade_row(SPOT, 105, count="2"), w.trade_row(SPOT, 106)), NOW)
    assert [r.trade_seq for r in first.records + second.records] == [103, 105, 106]  # type: ignore[union-attr]
    hole = feed.receive(trade_frame(w.trade_row(SPOT, 110, count="2")), NOW)
    gap, trade = hole.records
    assert isinstance(gap, Gap)
    assert isinstance(trade, Trade)
    assert (gap.reason, gap.first_id, gap.last_id, trade.trade_seq) == ("trade_id", 107, 108, 110)
    assert feed.receive(trade_frame(w.trade_row(SPOT, 110, count="2")), NOW).records == []
    assert feed.counters.duplicates == 1
    assert feed.receive(trade_frame(w.trade_row(SPOT, 111)), NOW).records[0].trade_id == "111"  # type: ignore[union-attr]


def test_fills_of_two_sources_that_interleave_are_all_kept() -> None:
    feed = feed_of("trades")
    feed.receive(trade_frame(w.trade_row(SPOT, 100)), NOW)
    feed.receive(trade_frame(w.trade_row(SPOT, 103, count="3")), NOW)  # 101, 103 and one more of another source
    kept = feed.receive(trade_frame(w.trade_row(SPOT, 102, source="1")), NOW)
    assert [r.trade_seq for r in kept.records] == [102]  # type: ignore[union-attr]
    assert feed.receive(trade_frame(w.trade_row(SPOT, 102, source="1")), NOW).records == []
    assert feed.receive(trade_frame(w.trade_row(SPOT, 104)), NOW).records[0].trade_id == "104"  # type: ignore[union-attr]


def test_a_message_that_begins_within_the_one_before_leaves_no_hole_behind() -> None:
    feed = feed_of("trades")
    feed.receive(trade_frame(w.trade_row(SPOT, 100)), NOW)
    feed.receive(trade_frame(w.trade_row(SPOT, 103, count="3")), NOW)  # two of 101 to 103 and one of another source
    feed.receive(trade_frame(w.trade_row(SPOT, 105, count="3", source="1")), NOW)
    out = feed.receive(trade_frame(w.trade_row(SPOT, 106)), NOW)
    assert [type(r) for r in out.records] == [Trade]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.data())
def test_a_lost_message_of_merged_fills_is_a_gap_with_exactly_its_ids(counts: list[int], data: st.DataObject) -> None:
    feed = feed_of("trades")
    lost = data.draw(st.integers(1, len(counts)))
    id_ = 500
    gaps: list[Gap] = []
    expected = None
    for n, count in enumerate([1, *counts, 1]):
        id_ += count
        row = w.trade_row(SPOT, id_, count=str(count))
        if n == lost:
            expected = (id_ - count + 1, id_)
            continue
        gaps += kinds(feed.receive(trade_frame(row), NOW), Gap)
    assert [(g.first_id, g.last_id) for g in gaps] == [expected]


def test_long_numbers_are_marked_and_exponents_read() -> None:
    feed = feed_of("trades")
    out = feed.receive(trade_frame(w.trade_row(SPOT, 1, px="123456789.123456789", sz="1e-7")), NOW)
    (trade,) = out.records
    assert isinstance(trade, Trade)
    assert (trade.price, trade.quantity, trade.flags) == (123456789.123456789, 1e-7, INEXACT)
    big = feed.receive(trade_frame(w.trade_row(SPOT, 2, sz="123456789")), NOW).records[0]
    assert isinstance(big, Trade)
    assert big.flags == 0


@pytest.mark.parametrize("field", [{"px": "0"}, {"px": "-1"}, {"px": "NaN"}, {"sz": "1e999"}, {"side": "none"}, {"ts": "soon"}, {"ts": "0"}, {"tradeId": "x"}, {"count": "0"}])  # fmt: skip
def test_values_that_cannot_be_make_a_frame_malformed(field: dict[str, str]) -> None:
    feed = feed_of("trades")
    feed.receive(trade_frame(w.trade_row(SPOT, 1)), NOW)
    out = feed.receive(trade_frame(w.trade_row(SPOT, 2, **field)), NOW)
    assert kinds(out, Trade) == []
    assert feed.counters.malformed == 1
    (gap, trade) = feed.receive(trade_frame(w.trade_row(SPOT, 3)), NOW).records
    assert isinstance(gap, Gap)
    assert (gap.first_id, gap.last_id, gap.detail) == (2, 2, "malformed")
    assert isinstance(trade, Trade)


# Books


def test_a_keepalive_changes_nothing_and_is_no_row() -> None:
    feed = live()
    keepalive = w.frame(
        "books", SPOT, {"asks": [], "bids": [], "ts": str(MS + 60_000), "checksum": 0, "seqId": 1000, "prevSeqId": 1000},
        action="update",
    )  # fmt: skip
    before = book_of(feed).bids()
    assert feed.receive(keepalive, NOW).records == []
    assert (book_of(feed).bids(), book_of(feed).last_id) == (before, 1000)
    assert feed.counters.skipped == 1
    assert len(kinds(feed.receive(w.depth(SPOT, 1), NOW), BookDelta)) == 1
    lost = feed.receive(keepalive.replace("1000", "2000"), NOW)  # shows that something is missing
    assert [type(a) for a in lost.actions] == [Resubscribe]
    assert book_of(feed).state is BookState.STALE


def test_a_sequence_reset_goes_on_as_a_new_epoch() -> None:
    feed = live()
    feed.receive(w.depth(SPOT, 1), NOW)
    out = feed.receive(w.depth(SPOT, 2, seqId=7, prevSeqId=1010), NOW)
    (snapshot,) = kinds(out, BookSnapshot)
    assert (snapshot.epoch, snapshot.seq) == (7, 7)
    assert kinds(out, BookDelta) == kinds(out, Gap) == []
    assert [r.state for r in kinds(out, FeedStatus)] == ["id_restart"]
    assert book_of(feed).state is BookState.LIVE
    (delta,) = kinds(feed.receive(w.depth(SPOT, 3, seqId=9, prevSeqId=7), NOW), BookDelta)
    assert (delta.epoch, delta.seq) == (7, 9)
    twin = live()
    for n in (1, 2, 3):
        twin.receive(w.depth(SPOT, n), NOW)
    assert (book_of(feed).bids(), book_of(feed).asks()) == (book_of(twin).bids(), book_of(twin).asks())
    book_of(feed).check()
    lost = feed.receive(w.depth(SPOT, 4, seqId=3, prevSeqId=8), NOW)  # a reset that does not chain
    assert [type(a) for a in lost.actions] == [Resubscribe]


def test_a_reset_that_crosses_the_book_loses_it() -> None:
    feed = live()
    row = {"asks": [], "bids": [w.level("500", "1")], "ts": str(MS), "checksum": 0, "seqId": 5, "prevSeqId": 1000}
    out = feed.receive(w.frame("books", SPOT, row, action="update"), NOW)
    assert book_of(feed).state is BookState.STALE
    assert [type(a) for a in out.actions] == [Resubscribe]


def test_a_checksum_that_is_not_zero_is_verified() -> None:
    feed = feed_of("book")
    out = feed.receive(w.snapshot(SPOT, 3, **w.summed(SPOT, 3)), NOW)
    assert len(kinds(out, BookSnapshot)) == 1
    for n in (4, 5, 6):
        assert len(kinds(feed.receive(w.depth(SPOT, n, **w.summed(SPOT, n)), NOW), BookDelta)) == 1
    wrong = feed.receive(w.depth(SPOT, 7, **w.summed(SPOT, 7, offset=1)), NOW)
    assert kinds(wrong, BookDelta) == []
    assert [type(a) for a in wrong.actions] == [Resubscribe]
    assert [(r.state, r.reason) for r in kinds(wrong, FeedStatus)] == [("STALE", "checksum")]
    assert book_of(feed).last_id == w.seq(SPOT, 6)
    back = feed.receive(w.snapshot(SPOT, 8), NOW)
    (gap,) = kinds(back, Gap)
    assert (gap.reason, gap.record_type) == ("checksum", "book_deltas")
    assert book_of(feed).state is BookState.LIVE


def test_a_checksum_that_comes_back_later_is_verified_as_well() -> None:
    feed = live()
    assert len(kinds(feed.receive(w.depth(SPOT, 1, **w.summed(SPOT, 1)), NOW), BookDelta)) == 1
    feed.receive(w.depth(SPOT, 2, **w.summed(SPOT, 2, offset=9)), NOW)
    assert book_of(feed).state is BookState.STALE


def test_a_snapshot_with_a_wrong_checksum_is_not_used() -> None:
    feed = feed_of("book")
    out = feed.receive(w.snapshot(SPOT, 3, checksum=12345), NOW)
    assert kinds(out, BookSnapshot) == []
    assert book_of(feed).state is not BookState.LIVE
    assert any(r.state == "snapshot_failed" for r in kinds(out, FeedStatus))


def test_traffic_without_ids_is_counted_and_checked_by_its_checksum() -> None:
    feed = feed_of("book")
    feed.receive(w.old(w.snapshot(SPOT, 1, **w.summed(SPOT, 1))), NOW)
    for n in (2, 3):
        (delta,) = kinds(feed.receive(w.old(w.depth(SPOT, n, **w.summed(SPOT, n))), NOW), BookDelta)
        assert delta.epoch == MS * 1_000_000 + 1_000_000
        assert delta.seq == delta.epoch + n - 1
    out = feed.receive(w.old(w.depth(SPOT, 5, **w.summed(SPOT, 5))), NOW)  # the fourth is missing
    assert book_of(feed).state is BookState.STALE
    assert [type(a) for a in out.actions] == [Resubscribe]


@pytest.mark.parametrize(
    "row",
    [
        {"asks": [["1", "2", "0", "1"]], "bids": [["-1", "2", "0", "1"]]},
        {"asks": [["1"]], "bids": []},
        {"asks": None, "bids": []},
        {"asks": [["x", "1", "0", "1"]], "bids": []},
    ],
)
def test_levels_that_cannot_be_never_reach_a_book(row: dict[str, Any]) -> None:
    feed = live()
    before = book_of(feed).bids(), book_of(feed).asks()
    row |= {"ts": str(MS), "checksum": 0, "seqId": 1010, "prevSeqId": 1000}
    feed.receive(w.frame("books", SPOT, row, action="update"), NOW)
    assert feed.counters.malformed == 1
    assert (book_of(feed).bids(), book_of(feed).asks()) == before
    out = feed.receive(w.depth(SPOT, 2), NOW)  # the chain shows that one is missing
    assert [type(a) for a in out.actions] == [Resubscribe]


def test_empty_sides_and_exponents() -> None:
    feed = feed_of("book")
    row = {"asks": [["1.5e2", "1e-3", "0", "1"]], "bids": [], "ts": str(MS), "checksum": 0, "seqId": 5, "prevSeqId": -1}
    feed.receive(w.frame("books", SPOT, row, action="snapshot"), NOW)
    assert book_of(feed).asks() == [(150.0, 0.001)]
    assert book_of(feed).bids() == []
    row |= {"asks": [["150", "0", "0", "0"]], "seqId": 6, "prevSeqId": 5}
    feed.receive(w.frame("books", SPOT, row, action="update"), NOW)
    assert book_of(feed).asks() == []
    assert book_of(feed).state is BookState.LIVE


def test_frames_of_20_megabytes_are_not_decoded() -> None:
    feed = live()
    row = {"asks": [["150", "1", "0", "1"]] * 1_000_000, "bids": [], "ts": str(MS), "seqId": 5, "prevSeqId": 1000}
    text = w.frame("books", SPOT, row, action="update")
    assert len(text) > 20_000_000
    feed.receive(text, NOW)
    assert feed.counters.malformed == 1
    assert book_of(feed).last_id == 1000


def test_books_are_cut_to_400_levels() -> None:
    feed = feed_of("book")
    bids = [w.level(str(1000 - i), "1") for i in range(400)]
    row = {"asks": [], "bids": bids, "ts": str(MS), "checksum": 0, "seqId": 5, "prevSeqId": -1}
    feed.receive(w.frame("books", SPOT, row, action="snapshot"), NOW)
    for n in range(100):
        new = {"asks": [], "bids": [w.level(f"{1000 + n}.5", "1")], "ts": str(MS), "seqId": 6 + n, "prevSeqId": 5 + n}
        feed.receive(w.frame("books", SPOT, new, action="update"), NOW)
    book = book_of(feed)
    assert book.best_bid == (1099.5, 1.0)
    assert 400 <= len(book.bids()) <= 450
    book.check()


def test_partial_books_survive_a_reset_and_repeats() -> None:
    feed = feed_of("book", depth=5)

    def top(seq: int, ts: int) -> Output:
        row = {"asks": [w.level("101", "1")], "bids": [w.level("99", "1")], "ts": str(MS + ts), "seqId": seq}
        return feed.receive(w.frame("books5", SPOT, row), NOW)

    assert [len(kinds(top(*x), BookSnapshot)) for x in ((50, 1), (50, 1), (51, 2), (3, 3), (4, 4))] == [1, 0, 1, 1, 1]
    assert feed.receive(w.depth(SPOT, 1), NOW).records == []  # a book's update is no top


# Quotes and other channels of the same type


def ticker(seq: int, **changes: str) -> str:
    row = {"instType": "SPOT", "instId": SPOT, "last": "1", "lastSz": "1", "askPx": "101", "askSz": "2", "bidPx": "99"}
    row |= {"bidSz": "1", "ts": str(MS + seq), **changes}
    return w.frame("tickers", SPOT, row)


def test_tickers_give_quotes_and_empty_sides() -> None:
    feed = feed_of("quotes", quotes="tickers")
    (quote,) = feed.receive(ticker(1), NOW).records
    assert quote == Quote(NOW + 1_000_000, NOW, "okx", SPOT, 0, 99.0, 1.0, 101.0, 2.0)
    assert feed.receive(ticker(2), NOW).records == []  # nothing changed
    (empty,) = feed.receive(ticker(3, bidPx="", bidSz=""), NOW).records
    assert isinstance(empty, Quote)
    assert (empty.bid_price, empty.bid_quantity) == (0.0, 0.0)
    feed.receive(ticker(4, askPx="1e99"), NOW)
    assert feed.counters.malformed == 1


def test_another_channel_of_the_type_serves_while_the_own_is_silent() -> None:
    feed = feed_of("quotes", "trades")
    assert len(kinds(feed.receive(ticker(1), NOW), Quote)) == 1
    bbo = {"asks": [w.level("101", "2")], "bids": [w.level("99.5", "1")], "ts": str(MS + 2), "seqId": 400}
    assert len(kinds(feed.receive(w.frame("bbo-tbt", SPOT, bbo), NOW), Quote)) == 1
    assert feed.receive(ticker(3, bidPx="98"), NOW).records == []
    single = trade_frame(w.trade_row(SPOT, 5), channel="trades-all")
    assert len(kinds(feed.receive(single, NOW), Trade)) == 1


def test_a_new_column_of_candles_is_counted() -> None:
    feed = feed_of("candles")
    out = feed.receive(w.frame("candle1m", SPOT, [*w.CANDLE, "7"]), NOW)
    assert len(out.records) == 2
    assert feed.counters.unknown_fields == 1
    feed.receive(w.frame("candle1m", SPOT, [str(MS + 1), *w.CANDLE[1:]]), NOW)
    assert feed.counters.malformed == 1


@given(st.binary(max_size=80) | st.text(max_size=80))
def test_any_frame_is_survived(frame: bytes | str) -> None:
    feed = live()
    feed.receive(frame, NOW)
    feed.receive(f'{{"arg":{{"channel":"books","instId":"{SPOT}"}},"data":[{frame!r}]}}', NOW)
    assert book_of(feed).last_id == 1000
