"""The feed of Coinbase Exchange: subscriptions and refusals, losses, guards. Messages are made up in the real form."""

from __future__ import annotations

import json
from typing import Any

import coinbase_wire as w
import pytest
from coinbase_wire import BTC, ETH, NOW, SECOND
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.feed import Output, Resubscribe
from cmd_common.records import TS_FROM_RECV, BookDelta, BookSnapshot, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState


def states(records: list[Record], *names: str) -> list[tuple[str, str, str]]:
    return [
        (r.state, r.symbol, r.reason) for r in records if isinstance(r, FeedStatus) and (not names or r.state in names)
    ]


def gaps(records: list[Record]) -> list[Gap]:
    return [r for r in records if isinstance(r, Gap)]


class Client:
    """A feed and an exchange that answers it at once."""

    def __init__(self, *types: str, symbols: tuple[str, ...] = (BTC, ETH), known: Any = (BTC, ETH), **options: str):
        self.feed = w.feed_of(types, symbols, **options)
        self.server = w.Server(known)
        self.now = NOW
        self.records: list[Record] = []
        self.frames: list[dict[str, Any]] = []
        self.seed = True
        self.n = 0  # messages the books have had

    def connect(self) -> Client:
        self.take(self.feed.connected(self.now))
        return self

    def take(self, output: Output) -> list[Record]:
        before = len(self.records)
        self.records += output.records
        for frame in w.sent(output):
            self.frames.append(frame)
            text = json.dumps(frame)
            replies = self.server.exchange(text)
            for reply in replies:
                self.take(self.feed.receive(reply, self.now))
            if self.seed and '"error"' not in replies[0]:
                for symbol in w.seeds(text):
                    self.take(self.feed.receive(w.snapshot(symbol, self.n), self.now))
        return self.records[before:]

    def receive(self, *frames: str | bytes) -> list[Record]:
        return [r for frame in frames for r in self.take(self.feed.receive(frame, self.now))]

    def tick(self, seconds: int = 1) -> list[Record]:
        records: list[Record] = []
        for _ in range(seconds):
            self.now += SECOND
            if self.now // SECOND % 30 == 0:  # the connection lives
                self.take(self.feed.receive(w.heartbeat("OTHER-USD", 0), self.now))
            records += self.take(self.feed.tick(self.now))
        return records

    def state(self, symbol: str) -> BookState:
        state: BookState = self.feed.books[symbol].state
        return state


# Subscriptions


def test_channels_that_watch_over_the_data_go_with_it() -> None:
    def channels(*types: str, **options: str) -> list[list[str]]:
        return [m["channels"] for m in w.sent(w.feed_of(types, **options).connected(NOW))]

    assert channels("trades") == [["matches", "heartbeat"]]
    assert channels("quotes") == [["ticker", "heartbeat"]]
    assert channels("book") == [["level2_batch", "ticker", "heartbeat"]]
    assert channels("book", guard="0") == [["level2_batch", "heartbeat"]]
    assert channels("trades", "quotes", "book") == [["matches", "heartbeat"], ["ticker"], ["level2_batch"]]
    assert channels("quotes", quotes_from="book") == [["level2_batch", "ticker", "heartbeat"]]


def test_a_frame_names_at_most_a_hundred_products() -> None:
    names = tuple(f"A{n}-USD" for n in range(250))
    feed = w.feed_of(("trades",), names, symbols_per_connection="250")
    assert [len(m["product_ids"]) for m in w.sent(feed.connected(NOW))] == [100, 100, 50]


def test_confirmations_under_another_name_count() -> None:
    client = Client("trades", "quotes", "book").connect()
    assert "level2_50" in client.server.channels
    assert all(s.acked for s in client.feed._streams.values())
    client.receive(
        w.text({"type": "subscriptions", "channels": []}), w.text({"type": "subscriptions", "channels": None})
    )
    assert client.feed.counters.malformed == 0


def test_one_bad_product_is_named_and_left_out() -> None:
    bad = "GONE-USD"
    client = Client("trades", "quotes", "book", symbols=(BTC, bad, ETH)).connect()
    rejected = states(client.records, "rejected")
    assert {(symbol, reason.partition(": ")[0]) for _, symbol, reason in rejected} == {
        (bad, f"{channel}:{bad}") for channel in ("matches", "ticker", "book")
    }
    assert all("GONE-USD is not a valid product" in reason for _, _, reason in rejected)
    assert client.feed.counters.errors == 3
    for symbol in (BTC, ETH):
        assert client.state(symbol) is BookState.LIVE
        assert any(isinstance(r, Trade) for r in client.receive(w.match(symbol, 1)))
    before = len(client.frames)
    client.tick(60)
    assert client.frames[before:] == []  # and it is not asked for again


def test_several_bad_products_are_left_out_one_by_one() -> None:
    bad = tuple(f"GONE{n}-USD" for n in range(12))
    client = Client("trades", symbols=(*bad[:6], BTC, *bad[6:], ETH)).connect()
    assert {symbol for _, symbol, _ in states(client.records, "rejected")} == set(bad)
    assert all(client.feed._streams[f"matches:{s}"].acked for s in (BTC, ETH))


def test_a_refusal_that_may_pass_is_tried_again() -> None:
    client = Client("trades", symbols=(BTC,))
    busy = w.text({"type": "error", "message": "Failed to subscribe", "reason": "too many requests for BTC-USD"})
    answers = [[busy], [busy]]
    honest = client.server.exchange
    client.server.exchange = lambda frame: answers.pop() if answers else honest(frame)  # type: ignore[method-assign]
    client.connect().tick(20)
    assert states(client.records, "rejected") == []
    assert client.feed._streams[f"matches:{BTC}"].acked
    assert len(client.frames) == 3


def test_a_refusal_that_names_nobody_is_narrowed_down() -> None:
    client = Client("trades", symbols=(BTC, "GONE-USD", ETH))
    refused = w.refusal("")[0]

    def exchange(frame: str) -> list[str]:
        if "GONE-USD" in frame:
            return [refused]
        return w.Server().exchange(frame)

    client.server.exchange = exchange  # type: ignore[method-assign]
    client.connect().tick(60)
    assert [symbol for _, symbol, _ in states(client.records, "rejected")] == ["GONE-USD"]
    assert all(client.feed._streams[f"matches:{s}"].acked for s in (BTC, ETH))
    assert len(client.frames) < 20


def test_level2_without_a_key_is_told_in_the_words_of_the_exchange() -> None:
    client = Client("book", symbols=(BTC,))
    words = "level2, level3, and full channels now require authentication."

    def exchange(frame: str) -> list[str]:
        error = w.text({"type": "error", "message": "Failed to subscribe", "reason": words})
        return [error, w.text({"type": "subscriptions", "channels": []})]

    client.server.exchange = exchange  # type: ignore[method-assign]
    client.seed = False
    client.connect().tick(60)
    assert all(words in reason for _, _, reason in states(client.records, "error"))
    ((_, symbol, reason),) = states(client.records, "rejected")
    assert symbol == BTC
    assert words in reason


def test_errors_about_nothing_of_ours_are_only_counted() -> None:
    client = Client("trades").connect()
    before = len(client.frames)
    client.receive(w.text({"type": "error", "message": "Failed to unsubscribe", "reason": "BTC-USD"}))
    client.receive(w.text({"type": "error", "message": "rate limit exceeded"}))
    client.receive(w.text({"type": "error"}))
    assert client.feed.counters.errors == 3
    assert len(client.frames) == before
    assert states(client.records, "rejected") == []


# Trades and heartbeats


def test_a_heartbeat_tells_of_a_trade_that_never_came() -> None:
    client = Client("trades").connect()
    client.receive(w.match(BTC, 1, "last_match"), w.match(ETH, 1))
    client.receive(w.heartbeat(BTC, 101), w.heartbeat(ETH, 5001))
    client.tick(8)
    assert gaps(client.records) == []
    client.receive(w.heartbeat(BTC, 104, 500))
    assert gaps(client.tick(4)) == []  # it may still be under way
    (gap,) = gaps(client.tick(2))
    assert (gap.symbol, gap.record_type, gap.reason) == (BTC, "trades", "trade_id")
    assert (gap.first_id, gap.last_id, gap.ts_from, gap.ts_to) == (102, 104, w.ns(1), w.ns(500))
    assert "heartbeat" in gap.detail
    assert gaps(client.tick(10)) == []
    # The next one follows; those that come after all close the gap.
    assert gaps(client.receive(w.match(BTC, 5))) == []
    late = [r for n in (2, 4, 3) for r in client.receive(w.match(BTC, n))]
    assert sum(isinstance(r, Trade) for r in late) == 3
    (closed,) = gaps(late)
    assert closed.repaired_by
    assert (closed.ts_from, closed.ts_to, closed.first_id) == (gap.ts_from, gap.ts_to, 102)


def test_a_heartbeat_before_its_match_is_no_loss() -> None:
    client = Client("trades").connect()
    client.receive(w.heartbeat(BTC, 200))  # nothing was seen yet: nothing is known to be missing
    client.tick(10)
    client.receive(w.match(BTC, 1))
    client.receive(w.heartbeat(BTC, 102))
    client.tick(2)
    client.receive(w.match(BTC, 2))
    client.receive(w.heartbeat(BTC, 102))
    client.tick(20)
    assert gaps(client.records) == []


def test_at_the_end_of_a_session_what_a_heartbeat_told_of_is_missing() -> None:
    client = Client("trades").connect()
    client.receive(w.match(BTC, 1), w.heartbeat(BTC, 103))
    (gap,) = gaps(client.take(client.feed.close(client.now)))
    assert (gap.first_id, gap.last_id) == (102, 103)


@given(st.sets(st.integers(2, 29)), st.sets(st.integers(2, 30)))
def test_every_missing_trade_is_in_a_gap_at_the_latest_after_its_heartbeat(lost: set[int], beats: set[int]) -> None:
    client = Client("trades", symbols=(BTC,)).connect()
    for n in range(1, 31):
        if n not in lost:
            client.receive(w.match(BTC, n))
        if n in beats:
            client.receive(w.heartbeat(BTC, 100 + n, n))
            client.tick(6)
    named = {i - 100 for g in gaps(client.records) for i in range(g.first_id or 0, (g.last_id or 0) + 1)}
    assert named == lost
    assert sum(isinstance(r, Trade) for r in client.records) == 30 - len(lost)


def test_the_last_match_of_a_new_connection_shows_what_was_missed() -> None:
    client = Client("trades", symbols=(BTC,)).connect()
    client.receive(w.match(BTC, 1, "last_match"), w.match(BTC, 2))
    client.take(client.feed.disconnected(client.now, "test"))
    client.connect()
    (gap,) = gaps(client.receive(w.match(BTC, 5, "last_match")))
    assert (gap.first_id, gap.last_id, gap.detail) == (103, 104, "disconnect")
    client.take(client.feed.disconnected(client.now, "test"))
    client.connect()
    assert gaps(client.receive(w.match(BTC, 5, "last_match"), w.match(BTC, 6))) == []
    assert client.feed.counters.duplicates == 1


# Quotes


def test_quotes_may_come_from_the_book() -> None:
    client = Client("quotes", quotes_from="book", symbols=(BTC,)).connect()
    quotes = [r for r in client.records if isinstance(r, Quote)]
    assert [(q.bid_price, q.ask_price, q.ask_quantity) for q in quotes] == [(99.5, 100.5, 2.0)]
    assert not any(isinstance(r, BookSnapshot | BookDelta) for r in client.receive(w.l2update(BTC, 1)))
    assert [r.ask_quantity for r in client.records if isinstance(r, Quote)] == [2.0, 2.1]
    client.receive(w.ticker(BTC, 5))  # the guard's
    assert sum(isinstance(r, Quote) for r in client.records) == 2


def test_a_ticker_without_sizes_or_sides_is_no_error() -> None:
    client = Client("quotes", symbols=(BTC,)).connect()
    old = json.loads(w.ticker(BTC, 1))
    del old["best_bid_size"], old["best_ask_size"]
    (quote,) = (r for r in client.receive(w.text(old)) if isinstance(r, Quote))
    assert (quote.bid_price, quote.bid_quantity, quote.ask_quantity) == (99.5, 0.0, 0.0)
    (quote,) = (r for r in client.receive(w.ticker(BTC, 2, bid="0")) if isinstance(r, Quote))
    assert quote.bid_price == 0.0


# Books


def test_a_message_without_a_time_has_the_receive_time_and_says_so() -> None:
    client = Client("book", symbols=(BTC,)).connect()
    record, periodic = client.receive(w.l2update(BTC, 1, "0001-01-01T00:00:00.000000Z"))
    assert isinstance(record, BookDelta)
    assert (record.ts_event, record.flags) == (NOW, TS_FROM_RECV)
    assert isinstance(periodic, BookSnapshot)
    assert periodic.flags & TS_FROM_RECV
    (record,) = client.receive(w.l2update(BTC, 2, ""))
    assert isinstance(record, BookDelta)
    assert record.flags == TS_FROM_RECV
    assert client.feed.counters.malformed == 0


def test_of_two_changes_of_one_price_the_later_one_counts() -> None:
    client = Client("book", symbols=(BTC,)).connect()
    changes = [["buy", "99.50", "7"], ["sell", "100.50", "3"], ["buy", "99.50", "0"], ["sell", "100.50", "4.5"]]
    frame = w.text({"type": "l2update", "product_id": BTC, "changes": changes, "time": w.iso(1)})
    (record,) = client.receive(frame)
    assert isinstance(record, BookDelta)
    assert (len(record.bids), len(record.asks)) == (16, 16)
    book = client.feed.books[BTC].book
    assert (book.best_bid, book.best_ask) == ((99.0, 2.0), (100.5, 4.5))


def test_empty_sides_are_a_book() -> None:
    client = Client("book", symbols=(BTC,))
    client.seed = False
    client.connect()
    client.receive(w.snapshot(BTC, bids=[], asks=[]))
    assert client.state(BTC) is BookState.LIVE
    client.receive(w.l2update(BTC, 1), w.ticker(BTC, 1, bid="0"))
    assert client.feed.books[BTC].book.best_ask == (100.5, 2.1)
    client.tick(20)
    assert client.state(BTC) is BookState.LIVE


def test_a_crossed_book_is_lost_and_asked_for_anew() -> None:
    client = Client("book", symbols=(BTC, ETH)).connect()
    client.n = 1
    frame = w.text({"type": "l2update", "product_id": BTC, "changes": [["buy", "100.75", "1"]], "time": w.iso(1)})
    records = client.receive(frame)
    assert states(records, "STALE", "LIVE") == [("STALE", BTC, "crossed"), ("LIVE", BTC, "snapshot")]
    (gap,) = gaps(records)
    assert (gap.symbol, gap.record_type, gap.reason) == (BTC, "book_deltas", "crossed")
    assert client.feed.books[BTC].book.best_bid == (99.5, 1.5)
    unsubscribe, subscribe = client.frames[-2:]
    assert (unsubscribe["type"], subscribe["type"]) == ("unsubscribe", "subscribe")
    assert unsubscribe["product_ids"] == subscribe["product_ids"] == [BTC]


def test_an_update_out_of_order_loses_its_book() -> None:
    """Its levels may have changed since; one of the same time, or without a time, says nothing."""
    client = Client("book", symbols=(BTC, ETH)).connect()
    client.receive(
        w.l2update(BTC, 2), w.l2update(BTC, 3), w.l2update(BTC, 3), w.l2update(BTC, 4, ""), w.l2update(ETH, 1)
    )
    assert client.state(BTC) is BookState.LIVE
    records = client.receive(w.l2update(BTC, 2))
    assert states(records, "STALE", "LIVE") == [("STALE", BTC, "order"), ("LIVE", BTC, "snapshot")]
    assert [(g.symbol, g.record_type, g.reason) for g in gaps(client.records)] == [(BTC, "book_deltas", "order")]
    client.receive(w.l2update(BTC, 1))  # the first behind a snapshot is compared with none
    assert client.state(BTC) is BookState.LIVE


def test_a_book_that_the_ticker_contradicts_is_lost_and_asked_for_anew() -> None:
    client = Client("book", symbols=(BTC, ETH)).connect()
    for n in range(1, 12):
        client.receive(w.ticker(BTC, 1000 + n, bid="99.40", time="2026-01-01T00:00:05.000000Z"))
        client.receive(w.ticker(ETH, 1000 + n, time="2026-01-01T00:00:05.000000Z"))
        assert states(client.tick(), "STALE") == ([("STALE", BTC, "ticker")] if n == 10 else [])
    assert [g.reason for g in gaps(client.records)] == ["ticker"]
    assert client.state(BTC) is BookState.LIVE
    assert client.state(ETH) is BookState.LIVE
    assert client.feed.counters.resyncs == 1


def test_old_tickers_and_single_ones_prove_nothing() -> None:
    client = Client("book", symbols=(BTC,)).connect()
    for n in range(30):
        client.receive(w.ticker(BTC, n, bid="99.40", time="2025-12-31T23:59:40.000000Z"))
        client.tick()
    client.receive(w.ticker(BTC, 99, bid="99.40", time="2026-01-01T00:00:20.000000Z"))
    client.tick(60)
    assert states(client.records, "STALE") == []


def test_a_fresh_snapshot_is_asked_for_now_and_then_one_book_a_second() -> None:
    client = Client("book", refresh="100").connect()
    client.tick(99)
    assert states(client.records, "STALE") == []
    first = client.tick()
    second = client.tick()
    assert [s for s in states(first + second, "STALE", "LIVE") if s[0] == "STALE"] == [
        ("STALE", BTC, "refresh"),
        ("STALE", ETH, "refresh"),
    ]
    assert [client.state(s) for s in (BTC, ETH)] == [BookState.LIVE] * 2
    assert [g.reason for g in gaps(client.records)] == ["refresh"] * 2
    client.tick(99)
    assert client.feed.counters.resyncs == 3


def test_a_snapshot_that_does_not_come_is_asked_for_again_ever_more_slowly() -> None:
    client = Client("book", symbols=(BTC,))
    client.seed = False
    client.connect().tick(300)
    assert 3 <= len([f for f in client.frames if f["type"] == "subscribe"]) <= 12
    client.receive(w.snapshot(BTC))
    assert client.state(BTC) is BookState.LIVE


# Damage


@pytest.mark.parametrize(
    ("frame", "stale"),
    [
        (w.l2update(BTC, 2)[:-3], {BTC}),  # torn, but it names its product
        (w.l2update(BTC, 2).replace('"99', '"-99').replace("98.", "-98."), {BTC}),
        (w.l2update(BTC, 2).replace('"0.00000000"', '"nan"'), {BTC}),
        (w.l2update(BTC, 2).replace('"0.00000000"', '"1e400"'), {BTC}),
        (w.l2update(BTC, 2).replace('"buy"', '"bid"', 1), {BTC}),
        (w.l2update(BTC, 2, "yesterday"), {BTC, ETH}),
        ("<html>", {BTC, ETH}),
        ('{"type":7}', {BTC, ETH}),
        ("[" * 100_000, {BTC, ETH}),
        (w.heartbeat(BTC, 1)[:-3], set()),
        (w.ticker(BTC, 1)[:-3], set()),  # not wanted but by the guard
        ('{"type":"subscriptions","channels":7}', set()),
    ],
)
def test_damage_loses_what_it_may_have_been(frame: str, stale: set[str]) -> None:
    client = Client("book").connect()
    client.receive(w.l2update(BTC, 1), w.l2update(ETH, 1))
    client.seed = False
    records = client.receive(frame)
    assert client.feed.counters.malformed == 1
    assert {s for s in (BTC, ETH) if client.state(s) is BookState.STALE} == stale
    assert not any(isinstance(r, BookDelta) for r in records)
    assert states(records, "malformed")


def test_a_damaged_match_is_a_gap_by_its_id_at_the_next_one() -> None:
    client = Client("trades", symbols=(BTC,)).connect()
    client.receive(w.match(BTC, 1))
    client.receive(w.match(BTC, 2)[:-2])
    (gap,) = gaps(client.receive(w.match(BTC, 3)))
    assert (gap.first_id, gap.last_id, gap.detail) == (102, 102, "malformed")


def test_frames_of_twenty_megabytes_are_not_decoded() -> None:
    client = Client("trades", "book", symbols=(BTC,)).connect()
    records = client.receive(w.match(BTC, 1) + " " * 20_000_000)
    assert not any(isinstance(r, Trade) for r in records)
    assert client.feed.counters.malformed == 1


def test_products_that_nobody_asked_for_are_passed_over() -> None:
    client = Client("trades", "quotes", "book", symbols=(BTC,)).connect()
    frames = (w.match(ETH, 1), w.ticker(ETH), w.l2update(ETH, 1), w.snapshot(ETH), w.heartbeat(ETH, 7))
    assert client.receive(*frames) == []
    assert client.feed.counters.malformed == 0
    assert client.feed.counters.skipped == 4


# Status


def test_maintenance_of_a_product_is_reported_when_it_changes() -> None:
    client = Client("trades", symbols=(BTC,), status="on")
    output = client.feed.connected(NOW)
    assert w.sent(output)[0] == {"type": "subscribe", "channels": [{"name": "status"}]}

    def status(word: str, message: str | None = "") -> str:
        rows = [w.product(BTC, status=word, status_message=message), w.product(ETH, status="offline")]
        return w.text(
            {"type": "status", "products": rows, "currencies": [{"id": "BTC", "details": {"type": "crypto"}}]}
        )

    said = [
        states(client.receive(status(word, message)), "exchange_status")
        for word, message in (
            ("online", ""),
            ("offline", "maintenance until 08:00"),
            ("offline", "maintenance until 08:00"),
            ("online", None),
        )
    ]
    assert said == [
        [],
        [("exchange_status", BTC, "offline maintenance until 08:00")],
        [],
        [("exchange_status", BTC, "online")],
    ]


def test_a_removed_symbol_leaves_nothing_behind() -> None:
    client = Client("trades", "book").connect()
    client.receive(w.match(BTC, 1), w.heartbeat(BTC, 105))
    client.take(client.feed.remove((BTC,), client.now))
    assert gaps(client.tick(20)) == []
    assert BTC not in client.feed._guards
    assert client.server.channels["level2_50"] == [ETH]


def test_resubscription_is_limited() -> None:
    """A server whose book is always crossed is not asked without end."""
    client = Client("book", symbols=(BTC,)).connect()
    frame = w.text({"type": "l2update", "product_id": BTC, "changes": [["buy", "100.75", "1"]], "time": w.iso(1)})
    asked = 0
    for _ in range(600):
        output = client.feed.receive(frame, client.now)
        asked += sum(isinstance(a, Resubscribe) for a in output.actions)
        client.take(output)
        client.tick()
    assert asked + client.feed.counters.resyncs < 150
