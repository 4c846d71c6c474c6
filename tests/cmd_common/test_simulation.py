from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import date, timedelta
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmd_common.errors import UsageError
from cmd_common.simulation import (
    DAY,
    DEFAULT_START,
    MarketDepth,
    MarketEvent,
    MarketQuote,
    MarketTrade,
    SimulatedMarket,
    agg_id,
    catalogue,
    day_of,
    day_start,
    decimal_text,
)

SECOND = 1_000_000_000
FIRST_TRADE = ("BTCUSDT", 142253045, 1748907900107075000, 10514504)


def market(seed: int = 1, symbols: int = 3, seconds: int = 20, **options: object) -> SimulatedMarket:
    return SimulatedMarket(catalogue(symbols), seed=seed, duration=seconds * SECOND, **options)  # type: ignore[arg-type]


def digest(events: list[MarketEvent]) -> str:
    return sha256(repr(events).encode()).hexdigest()


def test_the_same_seed_gives_the_same_events_and_another_gives_others() -> None:
    assert digest(list(market(5))) == digest(list(market(5)))
    assert digest(list(market(5))) != digest(list(market(6)))


def test_a_symbol_does_not_depend_on_the_others() -> None:
    alone = list(market(symbols=1))
    among = [e for e in market(symbols=4) if e.symbol == alone[0].symbol]
    assert digest(alone) == digest(among)


def test_the_events_of_this_version_do_not_change_by_accident() -> None:
    events = list(market(seed=42, symbols=2, seconds=5))
    first = next(e for e in events if isinstance(e, MarketTrade))
    assert (first.symbol, first.id, first.ts, first.price) == FIRST_TRADE


@given(seed=st.integers(0, 10_000), jump=st.booleans(), start=st.integers(DEFAULT_START - 3 * DAY, DEFAULT_START + DAY))
@settings(max_examples=12)
def test_books_rebuilt_from_depth_agree_with_the_market_and_the_quotes(seed: int, jump: bool, start: int) -> None:
    sim = market(seed, symbols=2, seconds=15, start=start, jump=jump)
    books = {s: [dict(b.levels(0)), dict(b.levels(1))] for s, b in sim.symbols.items()}
    last = {s: b.update_id for s, b in sim.symbols.items()}
    quotes: dict[str, MarketQuote] = {}
    compared = 0
    ts = 0
    for event in sim:
        assert event.ts >= ts
        ts = event.ts
        if isinstance(event, MarketQuote):
            assert event.bid < event.ask
            quotes[event.symbol] = event
        elif isinstance(event, MarketDepth):
            assert event.prev_id == last[event.symbol]
            assert event.first_id > event.prev_id if jump else event.first_id == event.prev_id + 1
            assert event.last_id >= event.first_id
            last[event.symbol] = event.last_id
            for side, levels in zip(books[event.symbol], (event.bids, event.asks), strict=True):
                for price, lots in levels:
                    if lots:
                        side[price] = lots
                    else:
                        side.pop(price, None)
            bids, asks = books[event.symbol]
            quote = quotes.get(event.symbol)
            if quote is not None and quote.update_id <= event.last_id:
                best = (max(bids), bids[max(bids)], min(asks), asks[min(asks)])
                assert best == (quote.bid, quote.bid_quantity, quote.ask, quote.ask_quantity)
                compared += 1
    assert compared > 50
    for symbol, (bids, asks) in books.items():
        assert sorted(bids.items(), reverse=True) == sim.symbols[symbol].levels(0)
        assert sorted(asks.items()) == sim.symbols[symbol].levels(1)
        assert len(bids) >= 300
        assert len(asks) >= 300


def test_trades_hit_the_book_on_the_aggressors_side() -> None:
    sim = market(9, symbols=1, seconds=60)
    book = next(iter(sim.symbols.values()))
    hits = 0
    while sim.next_time() is not None:
        best_bid, best_ask = book.levels(0, 1)[0][0], book.levels(1, 1)[0][0]
        for event in sim.step():
            if isinstance(event, MarketTrade):
                assert event.price == (best_bid if event.buyer_maker else best_ask)
                hits += 1
    assert hits > 100


@given(seed=st.integers(0, 10_000), offset=st.integers(0, DAY - 1), seconds=st.integers(1, 40))
@settings(max_examples=15)
def test_the_days_trades_are_history_then_exactly_the_live_ones(seed: int, offset: int, seconds: int) -> None:
    start = day_start(date(2025, 3, 4)) + offset
    sim = market(seed, symbols=2, seconds=seconds, start=start, history_trades=500)
    live: dict[str, list[MarketTrade]] = defaultdict(list)
    for event in sim:
        if isinstance(event, MarketTrade):
            live[event.symbol].append(event)
    for symbol in sim.symbols:
        day, made = sim.first_day, []
        while day <= day_of(sim.end or 0):
            trades = sim.day_trades(symbol, day)
            assert all(day_of(t.ts) == day for t in trades)
            made += trades
            day += timedelta(days=1)
        assert [t.id for t in made] == list(range(made[0].id, made[0].id + len(made)))
        assert all(a.ts <= b.ts for a, b in itertools.pairwise(made))
        assert made[len(made) - len(live[symbol]) :] == live[symbol]
        assert all(t.ts <= sim.start for t in made[: len(made) - len(live[symbol])])


def test_days_are_a_function_of_seed_symbol_and_day() -> None:
    day = day_of(DEFAULT_START) - timedelta(days=1)
    one, other = market(3), market(3, symbols=2, seconds=90)
    assert one.day_trades("BTCUSDT", day) == other.day_trades("BTCUSDT", day)
    assert one.day_trades("BTCUSDT", day) != market(4).day_trades("BTCUSDT", day)
    assert len(one.day_trades("BTCUSDT", day)) == 8_640


def test_trades_by_id_and_by_time_agree_with_the_days() -> None:
    sim = market(3, seconds=30)
    first = day_of(sim.start) - timedelta(days=2)
    everything = [t for n in range(3) for t in sim.day_trades("ETHUSDT", first + timedelta(days=n))]
    until = sim.end or 0
    assert sim.trades_from("ETHUSDT", 0, 10, until) == everything[:10]
    middle = everything[9_000]
    assert sim.trades_from("ETHUSDT", middle.id, 10_000, until) == everything[9_000:19_000]
    assert sim.trades_between("ETHUSDT", middle.ts, everything[9_010].ts) == everything[9_000:9_010]


def test_fills_of_one_order_share_time_price_and_side() -> None:
    orders: dict[int, list[MarketTrade]] = defaultdict(list)
    sim = market(8, symbols=1, seconds=60)
    for t in [*sim.day_trades("BTCUSDT", day_of(sim.start)), *()]:
        orders[agg_id(t.id)].append(t)
    assert sorted(orders) == list(range(min(orders), min(orders) + len(orders)))
    assert {len(fills) for fills in orders.values()} == {1, 2}
    for fills in orders.values():
        assert len({(t.ts, t.price, t.buyer_maker) for t in fills}) == 1


def test_names_are_realistic_then_generated_and_can_be_given() -> None:
    assert [s.symbol for s in catalogue(3)] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert len({s.symbol for s in catalogue(400)}) == 400
    specs = catalogue(0, names=("ethbtc", "FOOUSDT"))
    assert [(s.symbol, s.base, s.quote) for s in specs] == [("ETHBTC", "ETH", "BTC"), ("FOOUSDT", "FOO", "USDT")]
    assert [s.symbol for s in catalogue(1, quote="USD", suffix="_PERP")] == ["BTCUSD_PERP"]
    with pytest.raises(UsageError):
        catalogue(0)
    with pytest.raises(UsageError):
        market(history_trades=7)


def test_an_endless_market_goes_on_over_midnight() -> None:
    start = day_start(date(2025, 6, 3)) - SECOND
    sim = SimulatedMarket(catalogue(1), seed=2, start=start)
    trades = []
    while not trades or day_of(trades[-1].ts) < date(2025, 6, 3) or len(trades) < 40:
        trades += [e for e in sim.step() if isinstance(e, MarketTrade)]
    assert [t.id for t in trades] == list(range(trades[0].id, trades[0].id + len(trades)))
    after = [t for t in trades if day_of(t.ts) == date(2025, 6, 3)]
    assert sim.day_trades("BTCUSDT", date(2025, 6, 3))[: len(after)] == after


@given(st.integers(-(10**12), 10**12), st.integers(0, 8))
def test_decimal_text_is_exact(value: int, decimals: int) -> None:
    from decimal import Decimal

    assert Decimal(decimal_text(value, decimals)) == Decimal(value).scaleb(-decimals)
