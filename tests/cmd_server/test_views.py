from __future__ import annotations

import pytest
from hub_world import T0, Reader, S, delta, publish, same, snapshot, status, trade, world
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.candles import CandleBuilder
from cmd_common.commands import AggregateOptions
from cmd_common.orderbook import OrderBook
from cmd_common.records import (
    AggregatedBook,
    BookDelta,
    BookSnapshot,
    Candle,
    InstrumentRecord,
    Quote,
    levels,
    venue_levels,
)
from cmd_common.replica import BookReplica
from cmd_server.messages import CONFLATED, REPLAYED, Kind, Policy, Reject, view_code
from cmd_server.views import CandleView, DepthView, QuoteView

MINUTE = 60 * S
START = T0 // MINUTE * MINUTE


def records(reader: Reader, kind: type) -> list:  # type: ignore[type-arg]
    return [r for _, r in reader.records if isinstance(r, kind)]


# -- the top of a book

_LEVEL = st.tuples(st.integers(1, 12).map(float), st.sampled_from([0.0, 1.0, 2.0]))
_CHANGES = st.lists(st.tuples(st.lists(_LEVEL, max_size=4), st.lists(_LEVEL, max_size=4)), max_size=40)


@given(_CHANGES, st.integers(1, 4))
def test_a_reader_of_the_top_has_exactly_the_top(
    changes: list[tuple[list[tuple[float, float]], list[tuple[float, float]]]], depth: int
) -> None:
    source = BookReplica("v", "A")
    source.load(snapshot(1, [(5.0, 1.0)], [(25.0, 1.0)]))
    view, touch = DepthView(source, depth), QuoteView(source)
    reader, late = BookReplica("v", "A"), BookReplica("v", "A")
    first = view.current()
    assert first is not None
    reader.load(first)
    quote = touch.current()
    for n, (bids, asks) in enumerate(changes, 2):
        record = delta(n, bids, [(p + 20.0, q) for p, q in asks])
        source.apply(record)
        message = view.update(record)
        if message is not None:
            assert isinstance(message, BookDelta)
            assert message.bids or message.asks
            assert reader.apply(message)
            assert len(list(levels(message.bids))) <= 2 * depth
        quote = touch.update(record) or quote
        assert same(reader.book, _top(source.book, depth))
        bid, ask = source.book.best_bid, source.book.best_ask
        if bid and ask:
            assert quote is not None
            assert (quote.bid_price, quote.bid_quantity, quote.ask_price, quote.ask_quantity) == (*bid, *ask)
        current = view.current()
        assert current is not None
        late.load(current)
        assert same(late.book, reader.book)
        assert current.known_bids <= depth


def _top(book: OrderBook, depth: int) -> OrderBook:
    top = OrderBook()
    top.load(book.bids(depth), book.asks(depth))
    return top


def test_best_prices_are_told_only_when_they_change() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("bbo v:A", "book@1 v:A")
    publish(hub, snapshot(1))
    reader.drain()
    publish(hub, delta(2, [(98.0, 1.0)]), delta(3, [(98.0, 2.0)]), delta(4, [(99.0, 3.0)]), delta(5, [(99.0, 0.0)]))
    reader.drain()
    assert [(q.bid_price, q.bid_quantity, q.seq) for q in records(reader, Quote)] == [
        (99.0, 1.0, 1),
        (99.0, 3.0, 4),
        (98.0, 2.0, 5),
    ]
    assert [d.seq for d in records(reader, BookDelta)] == [4, 5]
    assert list(levels(records(reader, BookDelta)[-1].bids)) == [(99.0, 0.0), (98.0, 2.0)]
    assert [h.state for h, r in reader.records if isinstance(r, Quote | BookDelta)] == [3, 3, 3, 3, 3]


def test_a_view_that_nobody_reads_stands_still_and_goes_on_without_a_false_sequence() -> None:
    hub = world(replay_messages=2)
    publish(hub, snapshot(1))
    first = Reader(hub)
    first.subscribe("book@2 v:A")
    publish(hub, delta(2, [(98.0, 1.0)]))
    first.drain()
    hub.detach(first.client)
    messages = hub.counters.messages
    for n in range(3, 30):
        publish(hub, delta(n, [(98.0, float(n))]))
    assert hub.counters.messages <= messages + 4
    again = Reader(hub)
    again.resume(first, "book@2 v:A")
    again.drain()
    assert again.book(view=2).bids() == [(99.0, 1.0), (98.0, 29.0)]
    publish(hub, delta(30, [(98.5, 1.0)]))
    again.drain()
    again.check_complete()
    assert [g.reason for g in again.gaps] == ["resume"]
    assert again.book(view=2).bids() == [(99.0, 1.0), (98.5, 1.0)]


def test_the_views_of_a_client_and_those_that_nobody_reads_are_bounded() -> None:
    hub = world(views=3)
    publish(hub, snapshot(1), trade(1, ts=START))
    greedy = Reader(hub)
    greedy.subscribe("book@1 *", "book@2 *", "candles@1m *")
    greedy.subscribe("bbo *", "trades *")
    greedy.drain()
    assert [m.code for m in greedy.service if isinstance(m, Reject)] == ["limit"]
    assert len(greedy.client.topics) == 3
    hub.detach(greedy.client)
    for n in range(2, 30):
        reader = Reader(hub)
        reader.subscribe(f"book@{n} *", f"candles@{n}m *")
        publish(hub, delta(n, [(90.0, float(n))]), trade(n, ts=START + n))
        reader.drain()
        reader.check_complete()
        assert same(reader.book(view=n), hub.books["v:A"], n)
        hub.detach(reader.client)
        assert sum(bool(key.view) for key in hub.streams) <= 3
    hub.check()


def test_a_position_in_a_view_that_was_dropped_is_a_gap_and_not_mistaken_for_a_newer_one() -> None:
    hub = world(views=1)
    publish(hub, snapshot(1))
    first = Reader(hub)
    first.subscribe("book@2 v:A")
    for n in range(2, 9):
        publish(hub, delta(n, [(98.0, float(n))]))
    first.drain()
    hub.detach(first.client)
    other = Reader(hub)
    other.subscribe("book@1 v:A")
    hub.detach(other.client)
    assert [key.view for key in hub.streams if key.kind is Kind.BOOK] == [1]
    publish(hub, delta(9, [(98.0, 50.0)]))
    second = Reader(hub)
    second.subscribe("book@2 v:A")  # it is made again, and counts on
    for n in range(10, 30):
        publish(hub, delta(n, [(98.0, float(n))]))
    again = Reader(hub)
    again.resume(first, "book@2 v:A")
    publish(hub, delta(30, [(98.5, 1.0)]))
    for reader in (second, again):
        reader.drain()
        reader.check_complete()
        assert reader.book(view=2).bids() == [(99.0, 1.0), (98.5, 1.0)]
    assert [g.reason for g in again.gaps] == ["resume"]


def test_a_new_epoch_of_a_live_book_is_a_snapshot_for_readers_of_its_top_too() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("book@1 v:A", "book v:A")
    publish(hub, snapshot(1))
    reader.drain()
    publish(hub, snapshot(5, [(98.0, 1.0)], epoch=5), delta(6, [(98.5, 1.0)], epoch=5))
    reader.drain()
    assert [s.epoch for s in records(reader, BookSnapshot)] == [1, 1, 5, 5]
    assert reader.book(view=1).bids() == [(98.5, 1.0)]
    assert same(reader.book(), hub.books["v:A"])


# -- candles


def test_candles_are_built_where_the_venue_publishes_none() -> None:
    hub = world()
    publish(hub, trade(1, ts=START))
    reader = Reader(hub)
    reader.subscribe("candles@1m v:A")
    oracle = CandleBuilder("v", "A", "1m", lateness=2 * S)
    expected: list[Candle] = []
    for n in range(2, 400):
        t = trade(n, ts=START + n * S, price=100.0 + n % 17)
        if t.ts_event >= START + MINUTE:
            expected += oracle.trade(t)
        publish(hub, t, now=T0 + n * S, check=False)
        reader.drain()
    final = [c for c in records(reader, Candle) if c.state == "final"]
    assert len(final) == 5
    assert final == expected
    assert final[0].open_time == START + MINUTE  # the first minute was not seen as a whole
    hub.check()
    reader.check_complete()
    stream = next(s for s in reader.client.streams if s.kind == Kind.CANDLES)
    assert stream.view == view_code(Kind.CANDLES, "1m")


def test_open_candles_are_told_once_a_second_and_end_without_a_trade() -> None:
    hub = world(idle=10**15, heartbeat=10**15)
    publish(hub, trade(1, ts=START))
    reader, late = Reader(hub), Reader(hub)
    reader.subscribe("candles@1m v:A")
    publish(hub, trade(2, ts=START + 10 * S), now=T0 + 10 * S)
    publish(hub, trade(3, ts=START + 70 * S), now=T0 + 70 * S)
    for second in range(71, 200):
        hub.tick(T0 + second * S)
    reader.drain()
    found = records(reader, Candle)
    assert [(c.state, c.open_time, c.trades) for c in found] == [
        ("provisional", START + MINUTE, 1),
        ("final", START + MINUTE, 1),
    ]
    late.subscribe("candles@1m v:A")
    late.drain()
    assert [h.flags & (CONFLATED | REPLAYED) for h, r in late.records if isinstance(r, Candle)] == [
        CONFLATED | REPLAYED
    ]
    hub.check()


def _candle(n: int, source: str = "exchange", interval: str = "1m") -> Candle:
    return Candle(
        *(START + n * MINUTE, START + (n + 1) * MINUTE, START + (n + 1) * MINUTE, T0, "v", "A", interval),
        *(source, "final", 1.0, 2.0, 0.5, 1.5, 10.0, 15.0, 3, 4.0, 5.0),  # type: ignore[arg-type]
    )


def test_the_venues_own_candles_go_before_built_ones() -> None:
    hub = world()
    publish(hub, trade(1, ts=START), _candle(0, interval="1m"))
    reader = Reader(hub)
    reader.subscribe("candles@1m v:A", "candles@1m:built v:A", "candles@3m v:A")
    for n in range(2, 200):
        publish(hub, trade(n, ts=START + n * S), now=T0 + n * S, check=False)
    publish(hub, _candle(1), _candle(2), _candle(9, interval="3m"), _candle(9, interval="odd"))
    reader.drain()
    views = {k: len(v) for k, v in reader.got.items() if k.kind == Kind.CANDLES}
    own, built, three = (view_code(Kind.CANDLES, text) for text in ("1m", "1m:built", "3m"))
    assert {k.view: n for k, n in views.items()} == {own: 3, built: 2, three: 1}
    assert hub.counters.ignored == 1
    publish(hub, *[trade(n, ts=START + n * S) for n in range(200, 600)])
    reader.drain()
    assert [c.source for c in records(reader, Candle) if c.interval == "3m"] == ["exchange"]
    hub.check()


def test_a_trade_that_cannot_be_is_counted_and_left_out() -> None:
    view = CandleView("v", "A", "1m")
    assert view.trade(trade(1, price=-1.0), T0) == []
    assert view.trade(trade(2, ts=-5), T0) == []
    assert view.bad == 2
    assert view.tick(T0) == []


# -- merged books


def instrument(venue: str, symbol: str, base: str, quote: str) -> InstrumentRecord:
    return InstrumentRecord(
        T0, T0, venue, symbol, base, quote, quote, "spot", "0.01", "1", "0", "0", "", False, None, "trading"
    )


def test_one_instrument_is_merged_over_venues() -> None:
    hub = world(aggregate=AggregateOptions(equivalents=("USD=USDT",), every=S, max_age=10 * S))
    early = Reader(hub)
    early.subscribe("aggregate@2 BTC-USDT", "aggregate@1 ETH-*")
    publish(hub, instrument("v", "BTCUSDT", "BTC", "USDT"), instrument("w", "BTC-USD", "BTC", "USD"))
    late = Reader(hub)
    late.subscribe("aggregate btc/usd")
    now = hub.now
    for n in range(1, 8):
        publish(
            hub,
            snapshot(n, [(99.0 + n, 1.0), (90.0, 1.0), (80.0, 1.0)], [(110.0, 1.0)], symbol="BTCUSDT", epoch=n),
            snapshot(n, [(99.0 + n, 2.0)], [(109.0, 1.0)], venue="w", symbol="BTC-USD", epoch=n),
            now=now + n * S // 2,
        )
    early.drain()
    late.drain()
    mine, other = records(early, AggregatedBook), records(late, AggregatedBook)
    assert 3 <= len(mine) <= 5
    assert {r.instrument for r in mine} == {"BTC-USDT"}
    assert {r.instrument for r in other} == {"BTC-USD"}
    assert ("aggregate", "BTC-USDT") in early.names.values()
    last = mine[-1]
    assert last.venues == "v:BTCUSDT,w:BTC-USD"
    assert [price for price, _, _ in venue_levels(last.asks)] == [109.0, 110.0]
    assert {h.view for h, r in early.records if isinstance(r, AggregatedBook)} == {2}
    early.check_complete()
    # A venue that is not to be trusted leaves, and so do books that nobody updates.
    publish(hub, status("STALE", venue="w", symbol="BTC-USD"), now=now + 6 * S)
    hub.tick(now + 7 * S)
    early.drain()
    assert records(early, AggregatedBook)[-1].venues == "v:BTCUSDT"
    hub.tick(now + 60 * S)
    early.drain()
    hub.check()


def test_a_server_that_merges_nothing_says_so() -> None:
    hub = world()
    reader = Reader(hub)
    reader.subscribe("aggregate@2 BTC-USDT")
    reader.drain()
    assert [m.code for m in reader.service if isinstance(m, Reject)] == ["usage"]


def test_merged_books_are_conflated_too() -> None:
    hub = world(aggregate=AggregateOptions(every=1))
    publish(hub, instrument("v", "BTCUSDT", "BTC", "USDT"), snapshot(1, symbol="BTCUSDT"))
    reader = Reader(hub)
    reader.subscribe("aggregate@2 *", policy=Policy.CONFLATE, queue=8)
    for n in range(2, 100):
        publish(hub, delta(n, [(50.0, float(n)), (99.0, float(n))], symbol="BTCUSDT"))
    reader.drain()
    found = records(reader, AggregatedBook)
    assert len(found) < 30
    assert next(venue_levels(found[-1].bids))[1] == 99.0
    assert not records(reader, BookSnapshot)
    reader.check_complete()


@pytest.mark.parametrize("depth", [1, 5])
def test_conflated_tops_equal_the_hubs(depth: int) -> None:
    hub = world()
    publish(hub, snapshot(1))
    reader = Reader(hub)
    reader.subscribe(f"book@{depth} *", policy=Policy.CONFLATE, queue=4)
    for n in range(2, 60):
        publish(hub, delta(n, [(50.0 + n % 13, n % 4 * 1.0)], [(120.0 + n % 7, n % 3 * 1.0)]))
        if n % 20 == 0:
            reader.read(300)
    reader.drain()
    reader.check_complete()
    assert same(reader.book(view=depth), hub.books["v:A"], depth)
