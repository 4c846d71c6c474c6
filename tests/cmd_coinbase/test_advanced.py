"""The feed of Advanced Trade: the connection's sequence, aliases, candles. Messages are made up in the real form."""

from __future__ import annotations

import json
from typing import Any

import coinbase_wire as w
import pytest
from coinbase_wire import BTC, ETH, NOW, SECOND, USDC
from hypothesis import given
from hypothesis import strategies as st

from cmd_coinbase import ADVANCED
from cmd_common.feed import Output
from cmd_common.records import BookDelta, BookSnapshot, Candle, FeedStatus, Gap, Quote, Record, Trade
from cmd_common.sequence import BookState

DAY = 1_767_225_600  # 2026-01-01, seconds


def gaps(records: list[Record]) -> list[Gap]:
    return [r for r in records if isinstance(r, Gap)]


class Client:
    """A feed and a numbered exchange that answers it at once."""

    def __init__(self, *types: str, symbols: tuple[str, ...] = (BTC, ETH), listed: Any = (), **options: str) -> None:
        inner = w.feed_of(types, symbols, exchange=ADVANCED, listed=listed, **options)
        self.feed: Any = w.NumberedFeed(inner)
        self.server = w.Server((BTC, ETH, USDC))
        self.now = NOW
        self.records: list[Record] = []
        self.frames: list[dict[str, Any]] = []
        self.seed = True

    def connect(self) -> Client:
        self.take(self.feed.connected(self.now))
        return self

    def take(self, output: Output) -> list[Record]:
        before = len(self.records)
        self.records += output.records
        for frame in w.sent(output):
            self.frames.append(frame)
            text = json.dumps(frame)
            if self.seed:
                for symbol in w.seeds(text):
                    self.take(self.feed.receive(w.l2_snapshot(symbol), self.now))
            for reply in self.server.advanced(text):
                self.take(self.feed.receive(reply, self.now))
        return self.records[before:]

    def receive(self, *frames: str) -> list[Record]:
        return [r for frame in frames for r in self.take(self.feed.receive(frame, self.now))]

    def lose(self, count: int = 1) -> None:
        self.feed.number += count

    def tick(self, seconds: int = 1) -> list[Record]:
        records: list[Record] = []
        for _ in range(seconds):
            self.now += SECOND
            records += self.take(self.feed.tick(self.now))
            records += self.receive(w.envelope("heartbeats", [{"current_time": "x", "heartbeat_counter": "3"}]))
        return records

    def state(self, symbol: str) -> BookState:
        state: BookState = self.feed.books[symbol].state
        return state


def test_one_channel_a_frame_and_heartbeats_first() -> None:
    feed = w.feed_of(("trades", "quotes", "candles", "book"), exchange=ADVANCED, status="on")
    sent = w.sent(feed.connected(NOW))
    assert [m["channel"] for m in sent] == ["heartbeats", "status", "market_trades", "ticker", "candles", "level2"]
    assert all(set(m) <= {"type", "product_ids", "channel"} for m in sent)


def test_heartbeats_and_confirmations_count() -> None:
    client = Client("book").connect()
    client.tick(30)
    client.receive(w.l2(BTC, 1), w.l2(ETH, 1))
    assert client.feed.counters.gaps == client.feed.counters.duplicates == 0
    assert client.feed._sequence.last == client.feed.number - 1 > 30


# The sequence


@pytest.mark.parametrize("lost", [1, 2, 50])
def test_a_hole_loses_every_book_and_marks_every_stream(lost: int) -> None:
    client = Client("trades", "quotes", "book").connect()
    client.receive(*(f for s in (BTC, ETH) for f in (w.l2(s, 1), w.trades(s, 1), w.advanced_ticker(s, 1))))
    client.lose(lost)
    records = client.tick()
    stale = [(r.symbol, r.reason) for r in records if isinstance(r, FeedStatus) and r.state == "STALE"]
    assert stale == [(BTC, "connection_sequence"), (ETH, "connection_sequence")]
    (said,) = [r for r in records if isinstance(r, FeedStatus) and r.state == "sequence"]
    assert "expected" in said.reason
    assert [client.state(s) for s in (BTC, ETH)] == [BookState.LIVE] * 2  # they were subscribed again
    client.receive(*(f for s in (BTC, ETH) for f in (w.l2(s, 3), w.trades(s, 2), w.advanced_ticker(s, 3, bid="99.4"))))
    found = {(g.symbol, g.record_type, g.reason) for g in gaps(client.records)}
    assert found == {(s, t, "connection_sequence") for s in (BTC, ETH) for t in ("book_deltas", "quotes")}
    # Trades are told by their ids: none of them was lost.
    assert sum(isinstance(r, Trade) for r in client.records) == 4


def test_a_hole_that_held_trades_names_their_ids() -> None:
    client = Client("trades", symbols=(BTC,)).connect()
    client.receive(w.trades(BTC, 1))
    client.lose()
    (gap,) = gaps(client.receive(w.trades(BTC, 4, 3)))
    assert (gap.reason, gap.first_id, gap.last_id, gap.detail) == ("trade_id", 102, 102, "connection_sequence")


def test_a_frame_that_comes_twice_is_taken_once() -> None:
    client = Client("book", symbols=(BTC,)).connect()
    client.receive(w.l2(BTC, 1))
    client.feed.number -= 1
    assert client.receive(w.l2(BTC, 1)) == []
    assert client.feed.counters.duplicates == 1
    assert client.state(BTC) is BookState.LIVE


def test_frames_in_the_wrong_order_are_a_hole_and_the_late_one_is_dropped() -> None:
    client = Client("book", symbols=(BTC,)).connect()
    number = client.feed.number
    client.feed.number = number + 1
    client.receive(w.l2(BTC, 2))
    behind = client.feed.number
    assert client.feed.counters.resyncs == 1
    client.feed.number = number
    assert client.receive(w.l2(BTC, 1)) == []
    client.feed.number = behind
    client.receive(w.l2(BTC, 3))
    assert client.feed.counters.resyncs == 1
    assert client.state(BTC) is BookState.LIVE


def test_counting_anew_on_one_connection_is_a_loss() -> None:
    client = Client("book", symbols=(BTC,)).connect()
    for n in range(1, 10):
        client.receive(w.l2(BTC, n))
    client.feed.number = 0
    for n in range(10, 13):
        client.receive(w.l2(BTC, n))
    assert client.feed.counters.duplicates == 2
    assert client.feed.counters.resyncs == 1
    before = client.feed.counters.duplicates
    client.receive(w.l2(BTC, 13))
    assert client.feed.counters.duplicates == before
    assert client.state(BTC) is BookState.LIVE


def test_a_torn_frame_shows_at_the_next_one() -> None:
    client = Client("book").connect()
    client.receive(w.l2(BTC, 1), w.l2(BTC, 2)[:-4])
    assert client.state(ETH) is BookState.LIVE
    client.tick()
    assert client.feed.counters.malformed == 1
    assert client.feed.counters.resyncs == 2


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_book_is_right_whatever_is_lost(lost: list[bool]) -> None:
    """A LIVE book always equals the exchange's own."""
    client = Client("book", symbols=(BTC,))
    client.seed = False
    client.connect()
    sent = 0
    client.receive(w.l2_snapshot(BTC, 0))
    for n, away in enumerate(lost, 1):
        sent = n
        if away:
            client.lose()
        else:
            asked = len(client.frames)
            client.receive(w.l2(BTC, n))
            if len(client.frames) > asked:
                client.receive(w.l2_snapshot(BTC, n))
        if client.state(BTC) is BookState.LIVE and not away:
            bids, asks = w.sides(sent)
            book = client.feed.books[BTC].book
            assert dict(book.bids()) == {float(p): float(q) for p, q in bids.items()}
            assert dict(book.asks()) == {float(p): float(q) for p, q in asks.items()}
        client.now += 61 * SECOND
        client.feed._last_frame = client.now
        client.take(client.feed.tick(client.now))
        if client.state(BTC) is not BookState.LIVE:
            client.receive(w.l2_snapshot(BTC, n))


# Refusals and other frames


def test_one_bad_product_is_named_and_left_out() -> None:
    client = Client("trades", "book", symbols=(BTC, "GONE-USD", ETH)).connect()
    rejected = {
        (r.symbol, r.record_type) for r in client.records if isinstance(r, FeedStatus) and r.state == "rejected"
    }
    assert rejected == {("GONE-USD", "trades"), ("GONE-USD", "book_deltas")}
    assert all(client.feed._streams[f"{c}:{s}"].acked for c in ("level2", "market_trades") for s in (BTC, ETH))
    client.seed = True
    client.receive(w.l2_snapshot(BTC), w.l2_snapshot(ETH))
    assert [client.state(s) for s in (BTC, ETH)] == [BookState.LIVE] * 2


def test_errors_without_a_number_do_not_disturb_the_sequence() -> None:
    client = Client("book", symbols=(BTC,)).connect()
    client.receive(w.text({"type": "error", "message": "rate limit exceeded"}))
    client.receive(w.text({"type": "notice"}), w.l2(BTC, 1))
    assert (client.feed.counters.errors, client.feed.counters.unknown_messages) == (1, 1)
    assert client.feed.counters.gaps == 0


@pytest.mark.parametrize(
    "frame",
    [
        w.l2(BTC, 1).replace('"bid"', '"buy"', 1),
        w.l2(BTC, 1).replace('"98.', '"-98.'),
        w.l2(BTC, 1).replace('"update"', '"change"'),
        w.trades(BTC, 1).replace('"100.25"', '"nan"'),
        w.trades(BTC, 1).replace('"0.5"', '"-0.5"'),
        w.advanced_ticker(BTC, 1, bid="x"),
        w.candles(w.candle(BTC, DAY + 60)),
        w.l2(BTC, 1).replace('"sequence_num":0', '"sequence_num":-1'),
    ],
)
def test_what_cannot_be_is_malformed(frame: str) -> None:
    client = Client("trades", "quotes", "candles", "book", symbols=(BTC,)).connect()
    records = client.receive(frame)
    assert client.feed.counters.malformed == 1
    assert not any(isinstance(r, BookDelta | Trade | Quote | Candle) for r in records)


def test_a_snapshot_of_levels_from_1970_has_the_time_of_the_frame() -> None:
    client = Client("book", symbols=(BTC,))
    client.seed = False
    client.connect()
    old = w.l2_snapshot(BTC).replace(w.iso(0), "1970-01-01T00:00:00Z")
    (snapshot,) = [r for r in client.receive(old) if isinstance(r, BookSnapshot)]
    assert snapshot.ts_event == 1_767_225_599_000_000_789 - 0


# Trades


def test_the_first_hundred_trades_come_oldest_first_and_once() -> None:
    client = Client("trades", symbols=(BTC,)).connect()
    records = client.receive(w.trades(BTC, *range(100, 0, -1), kind="snapshot"))
    assert [r.trade_seq for r in records if isinstance(r, Trade)] == list(range(101, 201))
    client.take(client.feed.disconnected(client.now, "test"))
    client.connect()
    records = client.receive(w.trades(BTC, *range(150, 50, -1), kind="snapshot"))
    assert [r.trade_seq for r in records if isinstance(r, Trade)] == list(range(201, 251))
    assert client.feed.counters.duplicates == 50
    assert gaps(client.records) == []


def test_a_side_that_is_not_known_is_unknown() -> None:
    client = Client("trades", symbols=(BTC,)).connect()
    (trade,) = client.receive(w.trades(BTC, 1).replace('"SELL"', '"UNKNOWN_ORDER_SIDE"'))
    assert isinstance(trade, Trade)
    assert trade.side == "unknown"


@pytest.mark.parametrize("price", ["0", "0.00", "0E5"])
def test_a_trade_without_a_price_is_malformed(price: str) -> None:
    client = Client("trades", symbols=(BTC,)).connect()
    good = w.trades(BTC, 1)
    text = json.loads(good)["events"][0]["trades"][0]["price"]
    records = client.receive(good.replace(f'"{text}"', f'"{price}"'))
    assert not any(isinstance(r, Trade) for r in records)
    assert client.feed.counters.malformed == 1


@pytest.mark.parametrize("bad", ["5", "null", "[]", "{}"])
def test_a_bad_row_of_a_numbered_frame_costs_only_what_it_was_about(bad: str) -> None:
    client = Client("trades", "quotes", "book").connect()
    client.receive(w.trades(BTC, 1), w.trades(ETH, 1), w.l2(BTC, 1), w.l2(ETH, 1))
    client.receive(w.trades(BTC, 2).replace('"SELL"', '"NEITHER"').replace('"BUY"', '"NEITHER"'))
    client.receive(w.l2(BTC, 2), w.trades(BTC, 3))
    assert (client.state(BTC), client.state(ETH)) == (BookState.LIVE, BookState.LIVE)
    (gap,) = gaps(client.records)
    assert (gap.symbol, gap.record_type, gap.detail) == (BTC, "trades", "malformed")
    client.seed = False
    client.receive(w.l2(BTC, 3).replace('"bid"', '"left"').replace('"offer"', '"right"'))
    assert (client.state(BTC), client.state(ETH)) == (BookState.STALE, BookState.LIVE)
    assert client.feed.counters.malformed == 2
    client.receive(w.l2(BTC, 4).replace(f'"{BTC}"', bad))  # nobody knows whose it was
    assert client.state(ETH) is BookState.STALE


def test_a_number_that_jumps_still_costs_everything() -> None:
    client = Client("book").connect()
    client.seed = False
    client.lose()
    client.receive(w.l2(ETH, 2))
    assert client.state(ETH) is BookState.STALE


# Candles


def candles_of(records: list[Record]) -> list[tuple[int, str, float]]:
    return [(r.open_time // SECOND - DAY, r.state, r.close) for r in records if isinstance(r, Candle)]


def test_candles_become_final_when_they_are_over() -> None:
    client = Client("candles", symbols=(BTC,)).connect()
    # 2025-12-31T23:59:59 is the time of the frames: a second before the end of the candle.
    first = client.receive(w.candles(w.candle(BTC, DAY - 300), w.candle(BTC, DAY - 600, "99.5"), kind="snapshot"))
    assert candles_of(first) == [(-600, "final", 99.5), (-300, "provisional", 101.5)]
    (record,) = (r for r in client.receive(w.candles(w.candle(BTC, DAY - 300, "101.7"))) if isinstance(r, Candle))
    assert (record.close_time - record.open_time, record.trades, record.volume) == (300 * SECOND, -1, 12.5)
    after = client.receive(w.candles(w.candle(BTC, DAY, "101.8")))
    assert candles_of(after) == [(-300, "final", 101.7), (0, "provisional", 101.8)]
    assert candles_of(client.receive(w.candles(w.candle(BTC, DAY - 300, "101.7")))) == []  # a late repeat
    assert gaps(client.records) == []
    assert gaps(client.receive(w.candles(w.candle(BTC, DAY + 600)))) != []  # one is missing, or had no trade


def test_a_candle_whose_end_may_be_lost_is_not_made_final() -> None:
    client = Client("candles", symbols=(BTC,)).connect()
    client.receive(w.candles(w.candle(BTC, DAY - 300, "101.7")))
    client.lose()
    after = client.receive(w.candles(w.candle(BTC, DAY, "101.8")))
    assert candles_of(after) == [(0, "provisional", 101.8)]
    (gap,) = (g for g in gaps(after) if g.record_type == "candles")
    assert (gap.severity, gap.ts_from, gap.ts_to) == ("suspect", (DAY - 300) * SECOND, DAY * SECOND)
    client.lose()
    client.receive(w.candles(w.candle(BTC, DAY, "101.9")))  # the whole interval so far: nothing of it is lost
    assert candles_of(client.receive(w.candles(w.candle(BTC, DAY + 300)))) == [
        (0, "final", 101.9),
        (300, "provisional", 101.5),
    ]


# Aliases


@pytest.mark.parametrize("named", [USDC, BTC])
def test_a_product_in_usdc_is_found_under_either_name(named: str) -> None:
    client = Client("trades", "quotes", "book", symbols=(USDC,), listed=(BTC, USDC))
    client.seed = False
    client.server.known = (USDC,)
    client.connect()
    client.receive(w.l2_snapshot(named), w.l2(named, 1), w.trades(named, 1), w.advanced_ticker(named, 1))
    assert client.state(USDC) is BookState.LIVE
    data = [r for r in client.records if isinstance(r, Trade | Quote | BookDelta | BookSnapshot)]
    assert {type(r) for r in data} == {Trade, Quote, BookDelta, BookSnapshot}
    assert {r.symbol for r in data} == {USDC}
    assert client.feed.counters.skipped == 0


def test_a_confirmation_under_the_other_name_counts() -> None:
    client = Client("trades", "book", symbols=(USDC,), listed=(BTC, USDC))
    client.feed.connected(NOW)
    reply = w.envelope("subscriptions", [{"subscriptions": {"level2": [BTC], "market_trades": [BTC]}}])
    client.feed.receive(reply, NOW)
    assert all(s.acked for s in client.feed._streams.values())


def test_both_products_get_what_one_name_brings_until_the_other_is_used() -> None:
    client = Client("trades", symbols=(BTC, USDC)).connect()
    both = client.receive(w.trades(BTC, 1))
    assert [r.symbol for r in both if isinstance(r, Trade)] == [BTC, USDC]
    own = client.receive(w.trades(USDC, 1), w.trades(USDC, 2))
    assert [r.symbol for r in own if isinstance(r, Trade)] == [USDC]  # the first one is known
    assert [r.symbol for r in client.receive(w.trades(BTC, 2)) if isinstance(r, Trade)] == [BTC]


def test_maintenance_is_reported() -> None:
    client = Client("trades", symbols=(BTC,), status="on").connect()
    rows = [{"product_type": "SPOT", "id": BTC, "status": "delisted", "status_message": "moved"}]
    (said,) = client.receive(w.envelope("status", [{"type": "snapshot", "products": rows}]))
    assert isinstance(said, FeedStatus)
    assert (said.state, said.symbol, said.reason) == ("exchange_status", BTC, "delisted moved")
