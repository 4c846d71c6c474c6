"""Recorded traffic of both APIs. Not in the repository: see CMD_RECORDINGS."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from coinbase_wire import envelope, instruments_of, text

from cmd_coinbase import ADVANCED, EXCHANGE
from cmd_coinbase._times import parse_iso
from cmd_coinbase.rest import parse_book
from cmd_common.feed import Subscription
from cmd_common.recording import Line, read
from cmd_common.records import TS_FROM_RECV, BookDelta, BookSnapshot, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState

PRODUCTS = ("SKL-USD", "SKL-BTC", "BAND-GBP", "NMR-EUR", "BAND-BTC", "YFI-BTC", "DASH-BTC", "NU-GBP", "CRV-EUR", "SKL-GBP")  # fmt: skip
WITH_DATA = {"BAND-GBP", "NMR-EUR", "SKL-BTC", "SKL-GBP", "YFI-BTC"}


def exchange_lines(recordings: Path) -> list[Line]:
    return list(read(recordings / "coinbase_exchange" / "cryptofeed_10products_20210417.ndjson.gz"))


def exchange_feed(recordings: Path, **options: str) -> Any:
    (body,) = read(recordings / "coinbase_exchange" / "cryptofeed_products_20210417.ndjson")
    instruments = {i.symbol: i for i in EXCHANGE.parse_instruments(body.text.encode())}
    subscription = Subscription(PRODUCTS, ("trades", "quotes", "book"), options=options)
    (feed,) = EXCHANGE.feeds(subscription, instruments, EXCHANGE.endpoints)
    return feed


def play(feed: Any, lines: list[Line]) -> list[Record]:
    records: list[Record] = []
    for line in lines:
        if line.src == "ws_open":
            records += feed.connected(line.recv_ns).records
        elif line.src == "ws":
            records += feed.receive(line.text, line.recv_ns).records
    return records


def test_reference_data_of_2021(recordings: Path) -> None:
    (body,) = read(recordings / "coinbase_exchange" / "cryptofeed_products_20210417.ndjson")
    instruments = {i.symbol: i for i in EXCHANGE.parse_instruments(body.text.encode())}
    assert len(instruments) == 162
    assert all(i.tick_size > 0 and i.lot_size > 0 and i.unified == f"{i.base}-{i.quote}" for i in instruments.values())
    skl = instruments["SKL-BTC"]
    assert (f"{skl.tick_size:f}", f"{skl.lot_size:f}") == ("0.00000001", "0.1")


def test_everything_of_the_recording_is_understood(recordings: Path) -> None:
    lines = exchange_lines(recordings)
    feed = exchange_feed(recordings)
    records = play(feed, lines)
    counters = feed.counters
    assert counters.messages == 3511
    assert (counters.malformed, counters.unknown_messages, counters.unknown_fields, counters.errors) == (0, 0, 0, 0)
    assert (counters.gaps, counters.duplicates, counters.skipped, counters.resyncs) == (0, 0, 0, 0)
    kinds = Counter(type(r) for r in records)
    assert (kinds[Trade], kinds[Quote], kinds[BookDelta]) == (26, 26, 3451)
    live = {r.symbol for r in records if isinstance(r, FeedStatus) and r.state == "LIVE"}
    assert live == WITH_DATA
    firsts = [r for r in records if isinstance(r, BookSnapshot) and r.seq == r.epoch]
    assert {r.symbol for r in firsts} == WITH_DATA
    assert all(r.flags & TS_FROM_RECV for r in firsts)  # snapshots had no time then
    for builder in feed.books.values():
        builder.check()
        assert not builder.book.crossed


def test_the_book_equals_the_ticker(recordings: Path) -> None:
    """After every message, in the order of arrival, each ticker of a match against its product's book.

    The ticker that comes with the subscription is of the last match before it, which may be much older than the
    book, so only tickers that are not older than the book (by a second) are compared.
    """
    feed = exchange_feed(recordings)
    equal = compared = old = 0
    for line in exchange_lines(recordings):
        play(feed, [line])
        if line.src != "ws":
            continue
        message = json.loads(line.text)
        if message["type"] in ("snapshot", "l2update"):
            assert not feed.books[message["product_id"]].book.crossed
        if message["type"] != "ticker":
            continue
        builder = feed.books[message["product_id"]]
        if parse_iso(message["time"]) < builder.epoch - 1_000_000_000:
            old += 1
            continue
        compared += 1
        book = builder.book
        bid, ask = float(message["best_bid"]), float(message["best_ask"])
        equal += (book.best_bid[0], book.best_ask[0]) == (bid, ask)
    assert (compared, old) == (22, 4)
    assert equal / compared >= 0.93
    assert equal == 22
    guards = feed._guards
    assert sum(g.agreed for g in guards.values()) == 22
    assert not any(g._misses for g in guards.values())


def test_the_taker_hits_the_side_of_the_book_that_we_say(recordings: Path) -> None:
    """The change of the book may come before its match, so a price may lie between; never on the wrong side."""
    feed = exchange_feed(recordings)
    hits: Counter[str] = Counter()
    for line in exchange_lines(recordings):
        if line.src == "ws" and '"type":"match"' in line.text:
            message = json.loads(line.text)
            book = feed.books[message["product_id"]].book
            bid, ask = book.best_bid[0], book.best_ask[0]
            (trade,) = play(feed, [line])
            assert isinstance(trade, Trade)
            on = "buy" if trade.price >= ask else "sell" if trade.price <= bid else ""
            hits["between" if not on else "right" if on == trade.side else "wrong"] += 1
        else:
            play(feed, [line])
    assert hits == {"right": 17, "between": 4}


def test_a_lost_match_is_a_gap_and_a_lost_change_of_the_touch_is_seen_by_the_ticker(recordings: Path) -> None:
    lines = exchange_lines(recordings)
    matches = [n for n, line in enumerate(lines) if '"type":"match"' in line.text and "SKL-BTC" in line.text]
    feed = exchange_feed(recordings)
    records = play(feed, [line for n, line in enumerate(lines) if n != matches[2]])
    (gap,) = [r for r in records if isinstance(r, Gap)]
    missing = json.loads(lines[matches[2]].text)["trade_id"]
    assert (gap.symbol, gap.reason, gap.first_id, gap.last_id) == ("SKL-BTC", "trade_id", missing, missing)

    # From here on no change of one product comes: its book stays what it was, and the ticker moves away.
    cut = next(n for n, line in enumerate(lines) if n > 500 and '"l2update"' in line.text)
    kept = [
        line for n, line in enumerate(lines) if n < cut or not ('"l2update"' in line.text and "NMR-EUR" in line.text)
    ]
    feed = exchange_feed(recordings, guard="1")
    records = []
    last = 0
    for line in kept:
        records += play(feed, [line])
        if line.src == "ws" and line.recv_ns - last >= 1_000_000_000:
            last = line.recv_ns
            records += feed.tick(last).records
    reasons = {r.reason for r in records if isinstance(r, FeedStatus) and r.state == "STALE"}
    assert reasons == {"ticker"}
    assert feed.books["NMR-EUR"].state is BookState.STALE


def test_single_messages_of_the_exchange(recordings: Path) -> None:
    known = instruments_of(EXCHANGE, "BTC-USD")
    (feed,) = EXCHANGE.feeds(Subscription(("BTC-USD",), ("trades", "quotes", "book")), known, EXCHANGE.endpoints)
    feed.connected(1)
    found: dict[str, list[Record]] = {}
    for line in read(recordings / "coinbase_exchange" / "crypto_msg_parser_samples.ndjson"):
        if '"type"' in line.text:
            kind = json.loads(line.text)["type"]
            found[kind] = [r for r in feed.receive(line.text, 2).records if not isinstance(r, FeedStatus)]
        else:
            book = parse_book(EXCHANGE.market, line.text.encode())
            assert (book.id, book.ts, len(book.bids), len(book.asks)) == (406959136, None, 5, 5)
    (trade,) = found["last_match"]
    assert isinstance(trade, Trade)
    assert (trade.trade_seq, trade.side) == (147587438, "buy")  # the maker sold
    (quote,) = found["ticker"]
    assert isinstance(quote, Quote)
    assert (quote.bid_price, quote.ask_price, quote.bid_quantity) == (29940.90, 29940.91, 0.0)  # no sizes in 2022-06
    assert len(found["snapshot"]) == 1
    assert found["l2update"] == []  # of another hour than the snapshot: the book would be crossed
    assert feed.books["BTC-USD"].gap_reason == "crossed"
    assert found["open"] == []
    assert feed.counters.unknown_messages == 1  # the full channel
    assert feed.counters.malformed == 0


# Advanced Trade


def advanced_lines(recordings: Path) -> list[Line]:
    return list(read(recordings / "coinbase_advanced" / "tickvault_level2_btcusd_20260824_trimmed.ndjson"))


def advanced_feed() -> Any:
    known = instruments_of(ADVANCED, "BTC-USD")
    (feed,) = ADVANCED.feeds(Subscription(("BTC-USD",), ("book",)), known, ADVANCED.endpoints)
    feed.connected(1_787_610_853_000_000_000)
    return feed


def test_the_sequence_counts_every_frame(recordings: Path) -> None:
    lines = advanced_lines(recordings)
    feed = advanced_feed()
    records: list[Record] = []
    for n, line in enumerate(lines):
        records += feed.receive(line.text, 1_787_610_853_000_000_000 + n).records
        assert feed.books["BTC-USD"].state is BookState.LIVE
        assert not feed.books["BTC-USD"].book.crossed
    assert feed._sequence.last == len(lines) - 1 == 11
    assert feed.counters.gaps == feed.counters.malformed == feed.counters.unknown_fields == 0
    assert sum(isinstance(r, BookDelta) for r in records) == 6
    assert feed.counters.skipped == 4  # frames without a change
    book = feed.books["BTC-USD"].book
    assert (book.best_bid, book.best_ask) == ((78856.05, 0.04868904), (78856.06, 0.08023149))
    assert book.ts_event == parse_iso("2026-08-24T22:34:14.005584Z")


@pytest.mark.parametrize("lost", [1, 3, 6])
def test_any_lost_frame_loses_the_book_at_the_next_one(recordings: Path, lost: int) -> None:
    """Also one that says nothing of the book: nobody knows what it was."""
    lines = advanced_lines(recordings)
    feed = advanced_feed()
    for line in lines[:lost]:
        feed.receive(line.text, 1_787_610_854_000_000_000)
    output = feed.receive(lines[lost + 1].text, 1_787_610_854_000_000_000)
    assert feed.books["BTC-USD"].state is BookState.STALE
    if feed._streams["level2:BTC-USD"].acked:
        assert [json.loads(f)["type"] for a in output.actions for f in a.frames] == ["unsubscribe", "subscribe"]
    assert any(isinstance(r, FeedStatus) and r.state == "sequence" for r in output.records)


def test_a_snapshot_of_the_size_of_the_real_one_is_taken(recordings: Path) -> None:
    """46,000 levels in one frame, as recorded before it was trimmed."""
    level = json.loads(advanced_lines(recordings)[0].text)["events"][0]["updates"][0]
    updates = [{**level, "price_level": f"{78_000 - k}.05"} for k in range(23_000)]
    updates += [{**level, "side": "offer", "price_level": f"{79_000 + k}.05"} for k in range(23_000)]
    frame = envelope("l2_data", [{"type": "snapshot", "product_id": "BTC-USD", "updates": updates}])
    assert len(frame) > 4_000_000
    feed = advanced_feed()
    feed.receive(frame, 1_787_610_854_000_000_000)
    assert feed.books["BTC-USD"].state is BookState.LIVE
    assert feed.books["BTC-USD"].book.known_depth == (23_000, 23_000)
    assert feed.counters.malformed == 0
    huge = feed.receive(frame[:-3] + " " * 20_000_000 + text("") + "}", 1_787_610_855_000_000_000)
    assert feed.counters.malformed == 1
    assert [r.state for r in huge.records if isinstance(r, FeedStatus)] == ["malformed"]
