"""Recorded traffic of v2 and v1: every checksum, and the same through the emulator."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kraken_session import Loop, recorded

from cmd_common.faults import parse_fault
from cmd_common.feed import Subscription
from cmd_common.instruments import Instrument
from cmd_common.recording import Recording, read
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState
from cmd_kraken import KRAKEN

V2 = "kraken/tickvault_v2_book10_btcusd_20260824.ndjson"
V1_BOOK = "kraken/cryptofeed_v1_book1000_10pairs_20210417.ndjson"
V1_TRADES = "kraken/cryptofeed_v1_trades_20210417.ndjson"
V1_TICKER = "kraken/cryptofeed_v1_ticker_20210417.ndjson"
PAIRS = "kraken/cryptofeed_assetpairs_20210417.ndjson"
SAMPLES = "kraken/crypto_msg_parser_samples.ndjson"
V1 = {"api": "v1"}
STREAMED = {"WAVES/EUR", "KSM/BTC", "OMG/USD", "ADA/BTC", "GRT/ETH"}


def instruments(recordings: Path) -> dict[str, Instrument]:
    (line,) = read(recordings / PAIRS)
    return {i.symbol: i for i in KRAKEN.parse_instruments(line.text.encode())}


def play(
    recordings: Path, name: str, types: tuple[str, ...], symbols: set[str], **options: Any
) -> tuple[Any, list[Any]]:
    """Give a recording to a feed; returns the feed and its records."""
    subscription = Subscription(tuple(sorted(symbols)), types, **options)
    (feed,) = KRAKEN.feeds(subscription, instruments(recordings), KRAKEN.endpoints)
    start = next(line.recv_ns or 1 for line in read(recordings / name))
    records = list(feed.connected(start).records)
    for line in Recording(recordings / name):
        if line.src == "ws":
            records += feed.receive(line.text, line.recv_ns or start).records
    return feed, records


def clean(feed: Any) -> bool:
    c = feed.counters
    return c.malformed == c.unknown_messages == c.unknown_fields == c.errors == c.resyncs == c.gaps == 0  # type: ignore[no-any-return]


def checksums(recordings: Path, name: str) -> int:
    """How many messages of a v1 recording carry a checksum."""
    found = 0
    for line in read(recordings / name):
        if line.src == "ws" and line.text.startswith("["):
            found += any("c" in part for part in json.loads(line.text)[1:-2])
    return found


def test_v2_every_checksum(recordings: Path) -> None:
    feed, records = play(recordings, V2, ("book",), {"BTC/USD"})  # asked for 1000, confirmed 10
    assert clean(feed)
    assert [type(r) for r in records if not isinstance(r, FeedStatus)] == [
        BookSnapshot,
        BookDelta,
        BookDelta,
        BookDelta,
    ]
    book = feed.books["BTC/USD"].book
    assert book.state is BookState.LIVE
    assert book.best_bid == (78871.5, 0.01266503)
    assert book.ts_event == 1_787_610_118_345_080_000
    assert book.known_depth == (len(book.bids()), 10)


@pytest.mark.parametrize(
    ("old", "new"), [("2416540570", "2416540571"), ("0.34775324", "0.34775325"), ("0.00005100", "0.00005101")]
)
def test_v2_a_changed_text_is_noticed(recordings: Path, tmp_path: Path, old: str, new: str) -> None:
    text = (recordings / V2).read_text()
    assert old in text
    (tmp_path / "kraken").mkdir()
    (tmp_path / V2).write_text(text.replace(old, new))
    (tmp_path / PAIRS).write_text((recordings / PAIRS).read_text())
    feed, records = play(tmp_path, V2, ("book",), {"BTC/USD"})
    assert feed.counters.resyncs >= 1
    assert "checksum" in {r.reason for r in records if isinstance(r, FeedStatus)}


def test_v1_every_checksum(recordings: Path) -> None:
    feed, records = play(recordings, V1_BOOK, ("book",), STREAMED, options=V1)
    assert clean(feed)
    deltas = [r for r in records if isinstance(r, BookDelta)]
    assert len(deltas) == checksums(recordings, V1_BOOK) == 1851
    assert {r.symbol for r in records if isinstance(r, BookSnapshot)} == STREAMED
    for builder in feed.books.values():
        assert builder.state is BookState.LIVE
        builder.check()
        assert max(builder.book.known_depth) <= 1000


def test_v1_a_lost_update_is_noticed(recordings: Path, tmp_path: Path) -> None:
    lines = (recordings / V1_BOOK).read_text().splitlines(keepends=True)
    # One that changes the checksum: the next message's cannot come out right without it.
    updates = [(n, json.loads(line)["msg"]) for n, line in enumerate(lines) if '"c":' in line and "OMG/USD" in line]
    at = next(n for (_, a), (n, b) in pairwise(updates) if n > 800 and a[1]["c"] != b[1]["c"])
    (tmp_path / "kraken").mkdir()
    (tmp_path / V1_BOOK).write_text("".join(lines[:at] + lines[at + 1 :]))
    (tmp_path / PAIRS).write_text((recordings / PAIRS).read_text())
    feed, records = play(tmp_path, V1_BOOK, ("book",), STREAMED, options=V1)
    assert feed.books["OMG/USD"].state is BookState.STALE
    assert [(r.symbol, r.reason) for r in records if isinstance(r, FeedStatus) and r.state == "STALE"] == [
        ("OMG/USD", "checksum")
    ]
    assert all(b.state is BookState.LIVE for s, b in feed.books.items() if s != "OMG/USD")


def test_v1_trades_and_quotes(recordings: Path) -> None:
    symbols = {"XMR/USD", "SC/EUR", "WAVES/EUR"}
    feed, records = play(recordings, V1_TRADES, ("trades",), symbols, options=V1)
    trades = [r for r in records if isinstance(r, Trade)]
    assert [(t.symbol, t.price, t.quantity, t.side) for t in trades[:3]] == [
        ("XMR/USD", 354.11, 0.89594024, "sell"),
        ("XMR/USD", 354.55, 1.25690315, "buy"),
        ("SC/EUR", 0.04299, 15979.71727919, "sell"),
    ]
    assert trades[0].ts_event == 1_618_678_142_557_535_000
    assert len({t.trade_id for t in trades}) == len(trades) == 10
    assert feed.counters.duplicates == feed.counters.malformed == 0
    quotes_feed, records = play(recordings, V1_TICKER, ("quotes",), symbols, options=V1)
    quotes = [r for r in records if isinstance(r, Quote) and r.symbol == "XMR/USD"]
    assert (quotes[0].bid_price, quotes[0].bid_quantity, quotes[0].ask_price) == (354.32, 6.87748868, 355.24)
    assert clean(quotes_feed)
    # Trades hit the side that they say: the quote of their moment was told by another connection, so nearly.
    assert all(q.bid_price < q.ask_price for q in quotes)


def test_v1_single_messages(recordings: Path) -> None:
    subscription = Subscription(("BTC/USD",), KRAKEN.types, options=V1)
    (feed,) = KRAKEN.feeds(subscription, instruments(recordings), KRAKEN.endpoints)
    now = 1_700_000_000_000_000_000
    feed.connected(now)
    kinds = []
    for line in read(recordings / SAMPLES):
        if line.text.startswith("["):
            kinds += [type(r) for r in feed.receive(line.text, now).records if not isinstance(r, FeedStatus)]
    # The updates of the books do not follow the snapshot: their checksums say so.
    assert kinds == [Trade, BookSnapshot, Quote, Candle, Quote]
    assert feed.counters.malformed == 0


# Through the emulator


def test_v2_is_served_as_it_came(recordings: Path) -> None:
    loop = Loop(recorded(recordings / V2), ("book",)).run()
    recorded_texts = [line.text for line in read(recordings / V2) if '"channel":"book","type"' in line.text]
    assert [f for f in loop.frames if '"channel":"book","type"' in f] == recorded_texts
    assert loop.faultless()
    assert loop.books_are_true(10)
    assert len(loop.of(BookDelta)) == 3


def test_v1_is_served_to_clients_of_v1(recordings: Path) -> None:
    emulator = recorded(
        recordings / V1_BOOK, recordings / V1_TRADES, recordings / V1_TICKER, instruments=str(recordings / PAIRS)
    )
    loop = Loop(emulator, ("trades", "quotes", "book"), symbols=sorted(STREAMED | {"XMR/USD"}), options=V1)
    loop.run()
    # Nothing but books is recorded of most, nothing but trades and quotes of XMR/USD.
    assert {r.record_type for r in loop.states("rejected")} <= {"trades", "quotes", "book_deltas"}
    assert all(r.symbol == "XMR/USD" for r in loop.states("rejected") if r.record_type == "book_deltas")
    assert loop.feed.counters.malformed == loop.resubscriptions() == loop.feed.counters.gaps == 0
    assert len(loop.of(BookDelta)) == 1851
    books = loop.emulator.truth()["books"]
    for symbol in STREAMED:
        book = loop.feed.books[symbol].book
        assert [list(x) for x in book.bids()] == [list(x) for x in books[symbol]["bids"]]
        assert [list(x) for x in book.asks()] == [list(x) for x in books[symbol]["asks"]]
    assert loop.of(Trade, "XMR/USD")
    assert loop.of(Quote, "XMR/USD")


def test_clients_of_the_other_version_are_told(recordings: Path) -> None:
    loop = Loop(recorded(recordings / V1_BOOK, instruments=str(recordings / PAIRS)), ("book",), symbols=("ADA/BTC",))
    loop.connect()
    assert "api=v1" in loop.states("rejected")[0].reason
    loop = Loop(recorded(recordings / V2), ("book",), options=V1)
    loop.connect()
    assert "use API v2" in loop.states("rejected")[0].reason


def test_a_dropped_recorded_update_is_repaired(recordings: Path) -> None:
    emulator = recorded(
        recordings / V1_BOOK, faults=(parse_fault("drop:at=100,symbol=OMG/USD"),), instruments=str(recordings / PAIRS)
    )
    loop = Loop(emulator, ("book",), symbols=sorted(STREAMED), options=V1).run()
    book = loop.feed.books["OMG/USD"].book
    true = emulator.truth()["books"]["OMG/USD"]
    assert [list(x) for x in book.bids(10)] == [list(x) for x in true["bids"][:10]]
    assert [list(x) for x in book.asks(10)] == [list(x) for x in true["asks"][:10]]
    assert {g.reason for g in loop.of(Gap)} <= {"checksum"}
