"""The recordings of Bitstamp through the feed: books that never cross, sides of trades, the chain of order events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmd_bitstamp import BITSTAMP
from cmd_common.feed import FeedCounters, FetchSnapshot, Output, Subscription
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Gap, Quote, Trade
from cmd_common.sequence import BookState

ROOT = os.environ.get("CMD_RECORDINGS", "")
FOLDER = Path(ROOT) / "bitstamp"
pytestmark = pytest.mark.skipif(not ROOT, reason="CMD_RECORDINGS is not set")

PAIRS = "cryptofeed_trading_pairs_info_20220105.ndjson"


def lines(name: str) -> Iterator[tuple[str, str, int, str]]:
    """Source, URL, receive time and the verbatim message of each line."""
    for number, line in enumerate((FOLDER / name).read_text().splitlines()):
        head = json.loads(line)
        text = line[line.index('"msg":') + 6 : line.rindex("}")]
        yield head["src"], head.get("url") or "", head["recv_ns"] or 1_787_612_490_000_000_000 + number, text


def instruments() -> dict[str, object]:
    ((_, _, _, body),) = lines(PAIRS)
    return {i.symbol: i for i in BITSTAMP.parse_instruments(body.encode())}


class Player:
    """Feeds a recording to the feed: REST bodies where they were received, or when they are asked for."""

    def __init__(self, name: str, symbols: tuple[str, ...], **options: str) -> None:
        known = instruments()
        subscription = Subscription(symbols, ("trades", "quotes", "book"), options=options)
        (self.feed,) = BITSTAMP.feeds(subscription, known, BITSTAMP.endpoints)  # type: ignore[arg-type]
        self.records: list[object] = []
        self.wanted: set[str] = set()
        self.bodies: dict[str, str] = {}
        self.now = 0
        self.crossed = self.looks = 0
        connected = False
        for src, url, now, text in lines(name):
            self.now = now
            if src == "rest" and "order_book" in url:
                self.bodies[url.split("order_book/")[1].split("/")[0].upper()] = text
            if not connected:
                connected = True
                self.take(self.feed.connected(now))
            if src == "ws":
                self.take(self.feed.receive(text, now))
            for symbol in list(self.wanted & self.bodies.keys()):
                self.wanted.discard(symbol)
                self.take(self.feed.snapshot(symbol, self.bodies[symbol].encode(), now))
            for builder in self.feed.books.values():
                if builder.state is BookState.LIVE:
                    self.looks += 1
                    self.crossed += builder.book.crossed

    def take(self, out: Output) -> None:
        self.records += out.records
        self.wanted |= {a.symbol for a in out.actions if isinstance(a, FetchSnapshot)}

    def of(self, kind: type) -> list[object]:
        return [r for r in self.records if isinstance(r, kind)]


def healthy(counters: FeedCounters) -> None:
    assert counters.malformed == counters.unknown_messages == counters.unknown_fields == counters.errors == 0


def test_recorded_books_never_cross() -> None:
    player = Player(
        "cryptofeed_10pairs_20220105.ndjson",
        ("SGBEUR", "ETHUSD", "XRPEUR", "BATEUR", "USDTEUR", "USDTUSD", "XLMGBP", "ADAEUR", "BATBTC", "GALAEUR"),
    )
    healthy(player.feed.counters)
    live = {s for s, b in player.feed.books.items() if b.state is BookState.LIVE}
    # Five pairs were confirmed, of which four sent changes; the others have no subscription.
    assert {"BATEUR", "XRPEUR", "USDTUSD", "GALAEUR"} <= live
    assert player.looks > 500
    assert player.crossed == 0
    assert len(player.of(BookDelta)) > 150
    assert player.of(Gap) == []
    assert len(player.of(Quote)) > 20


def test_the_recording_of_2026_joins_its_snapshot() -> None:
    player = Player("tickvault_diff_btcusd_20260824.ndjson", ("BTCUSD",))
    healthy(player.feed.counters)
    builder = player.feed.books["BTCUSD"]
    assert builder.state is BookState.LIVE
    assert len(player.of(BookSnapshot)) == 1
    # Eleven changes, of which the first eight are older than the snapshot.
    assert len(player.of(BookDelta)) + builder.dropped <= 11
    assert len(player.of(BookDelta)) >= 1
    assert player.crossed == 0
    builder.check()


def test_order_events_are_one_chain_and_a_missing_one_is_noticed() -> None:
    whole = Player("tickvault_live_orders_btcusd_20260824.ndjson", ("BTCUSD",), live_orders="on")
    healthy(whole.feed.counters)
    assert whole.feed.order_events == 500  # type: ignore[attr-defined]
    assert whole.of(Gap) == []
    texts = [t for src, _, _, t in lines("tickvault_live_orders_btcusd_20260824.ndjson") if src == "ws"]
    feed = whole.feed
    now = whole.now
    feed.disconnected(now, "test")
    feed.connected(now)
    gaps = []
    for number, text in enumerate(texts):
        if number != 100:
            gaps += [r for r in feed.receive(text, now + number).records if isinstance(r, Gap) and r.reason == "chain"]
    (gap,) = gaps
    assert gap.record_type == "live_orders"
    assert gap.ts_from <= gap.ts_to


def test_sample_messages_have_the_side_of_the_taker() -> None:
    player = Player("crypto_msg_parser_samples.ndjson", ("BTCUSD",))
    samples = [t for src, _, _, t in lines("crypto_msg_parser_samples.ndjson") if src == "sample"]
    records: list[object] = []
    for text in samples:
        records += player.feed.receive(text, 1_654_243_300_000_000_000).records
    trades = [r for r in records if isinstance(r, Trade)]
    assert [(t.side, t.price, t.quantity, t.trade_id) for t in trades] == [("buy", 57748.8, 1e-08, "158457579")]
    assert trades[0].ts_event == 1_616_297_318_187_000_000
    assert not [r for r in records if isinstance(r, FeedStatus) and r.state == "malformed"]
