"""Real traffic: the chain of a recorded book, damage of it, and the emulator that serves it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from bybit_session import T0, Loop

from cmd_bybit import LINEAR, SPOT
from cmd_bybit.emulator import BybitEmulator
from cmd_common.emulation import MarketSource
from cmd_common.feed import Subscription
from cmd_common.instruments import Instrument
from cmd_common.orderbook import OrderBook
from cmd_common.recording import read
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Gap
from cmd_common.sequence import BookState

FILE = "bybit/tickvault_v5_spot_orderbook50_20260824.ndjson"
BTC = Instrument("bybit-spot", "BTCUSDT", "BTC", "USDT", "spot", Decimal("0.1"), Decimal("0.000001"))


def frames(recordings: Path) -> list[str]:
    return [line.text for line in read(recordings / FILE) if line.src == "ws"]


def play(texts: list[str]) -> tuple[list[object], OrderBook, object]:
    subscription = Subscription(("BTCUSDT",), ("book",), depth=50)
    (feed,) = SPOT.feeds(subscription, {"BTCUSDT": BTC}, SPOT.endpoints)
    records: list[object] = list(feed.connected(T0).records)
    for n, text in enumerate(texts):
        records += feed.receive(text, T0 + n).records
    return records, feed.books["BTCUSDT"].book, feed.counters


def test_the_chain_of_the_recorded_book(recordings: Path) -> None:
    """Oracle: u rises by one over all recorded deltas, and the book equals a naive one after each."""
    texts = frames(recordings)
    messages = [json.loads(t) for t in texts]
    books = [m for m in messages if m.get("topic") == "orderbook.50.BTCUSDT"]
    updates = [m["data"]["u"] for m in books]
    assert updates == list(range(updates[0], updates[0] + len(updates)))
    assert [m["type"] for m in books] == ["snapshot"] + ["delta"] * 8
    naive: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    for upto in range(1, len(books) + 1):
        message = books[upto - 1]
        for side, levels in naive.items():
            for price, quantity in message["data"][side]:
                if float(quantity):
                    levels[price] = quantity
                else:
                    assert price in levels  # no delete hits an unknown level
                    del levels[price]
        records, book, counters = play(texts[: len(texts) - len(books) + upto])
        book.check()
        assert book.state is BookState.LIVE
        assert dict(book.bids()) == {float(p): float(q) for p, q in naive["b"].items()}
        assert dict(book.asks()) == {float(p): float(q) for p, q in naive["a"].items()}
        assert len(book.bids()) <= 50
        assert len(book.asks()) <= 50
        assert not [r for r in records if isinstance(r, Gap)]
        assert getattr(counters, "malformed") == getattr(counters, "unknown_fields") == 0  # noqa: B009
        made = [r for r in records if isinstance(r, BookSnapshot | BookDelta)]
        assert [r.seq for r in made] == updates[:upto]
        assert made[-1].ts_event == message["cts"] * 1_000_000


@pytest.mark.parametrize("lost", range(1, 8))
def test_a_lost_message_is_noticed_at_the_next_one(recordings: Path, lost: int) -> None:
    texts = frames(recordings)
    books = [t for t in texts if "orderbook" in t]
    texts.remove(books[lost])
    records, book, _ = play(texts)
    assert book.state is BookState.STALE
    states = [r.state for r in records if isinstance(r, FeedStatus) and r.record_type == "book"]
    assert states == ["SYNCING", "LIVE", "STALE"]
    assert len([r for r in records if isinstance(r, BookDelta)]) == lost - 1


def test_the_emulator_serves_the_recording_as_it_is(recordings: Path) -> None:
    source = MarketSource("bybit-spot", recordings=(str(recordings / FILE),), speed=0)
    emulator = BybitEmulator(SPOT.market, source)
    assert emulator.ready()["streams"] == {"top:BTCUSDT:50": 9}
    loop = Loop(SPOT, emulator, ("book",), depth=50).run()
    truth = emulator.truth()["books"]["BTCUSDT"]
    (feed,) = loop.feeds
    book = feed.books["BTCUSDT"].book
    assert (book.bids(), book.asks(), book.last_id) == (
        [tuple(level) for level in truth["bids"]], [tuple(level) for level in truth["asks"]], truth["last_id"],
    )  # fmt: skip
    assert len(loop.of(BookDelta)) == 8
    assert loop.of(Gap) == []


def test_a_book_that_was_recorded_in_another_depth_is_served_under_the_name_that_is_asked_for(recordings: Path) -> None:
    source = MarketSource("bybit-spot", recordings=(str(recordings / FILE),), speed=0)
    loop = Loop(SPOT, BybitEmulator(SPOT.market, source), ("book",)).run()
    assert len(loop.of(BookDelta)) == 8
    assert loop.feeds[0].counters.skipped == 0


def test_samples_of_older_versions_do_no_harm(recordings: Path) -> None:
    """Messages of the API before v5: counted as unknown or not for us, never a record."""
    subscription = Subscription(("BTCUSDT",), ("trades", "quotes", "candles", "book"))
    (feed,) = LINEAR.feeds(subscription, {"BTCUSDT": BTC}, LINEAR.endpoints)
    feed.connected(T0)
    count = 0
    for line in read(recordings / "bybit" / "crypto_msg_parser_samples.ndjson"):
        count += 1
        for record in feed.receive(line.text, T0).records:
            assert isinstance(record, FeedStatus | Gap)
    assert count > 15
    assert feed.counters.unknown_messages + feed.counters.malformed == count
