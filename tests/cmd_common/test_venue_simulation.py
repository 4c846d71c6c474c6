"""Ladder and TopView against the plain way, and the simulated world's questions against its own stream."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from venue_sample import SECOND, simulated

from cmd_common.simulation import day_of, day_start
from cmd_common.venue_market import Numbers, decimals_of, scaled, trim
from cmd_common.venue_simulation import Ladder, TopView
from cmd_common.venue_world import BookChange, Listed, Trade, split_stream

CHANGES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), max_size=6)


@given(start=CHANGES, batches=st.lists(CHANGES, max_size=12), depth=st.integers(1, 6), side=st.integers(0, 1),
       pushed_out=st.booleans())  # fmt: skip
@settings(max_examples=300)
def test_a_client_that_follows_the_best_levels_always_has_them(
    start: list[tuple[int, int]], batches: list[list[tuple[int, int]]], depth: int, side: int, pushed_out: bool
) -> None:
    ladder = Ladder()
    for price, lots in start:
        ladder.set(side, price, lots)
    view = TopView(ladder, depth, pushed_out=pushed_out)
    client = dict(ladder.best(side, depth))
    for batch in batches:
        batch = list(dict(batch).items())
        before = dict(client)
        ladder.apply(*((batch, []) if side == 0 else ([], batch)))
        sent = view.update(*((batch, []) if side == 0 else ([], batch)))[side]
        assert len({p for p, _ in sent}) == len(sent)
        for price, lots in sent:
            if lots:
                assert before.get(price) != lots
                client[price] = lots
            else:
                assert client.pop(price, None) is not None  # no delete of what the client never had
        if pushed_out:
            assert len(client) <= depth
        client = dict(sorted(client.items(), reverse=side == 0)[:depth])
        assert client == dict(ladder.best(side, depth)) == view.shown[side]
        assert ladder.keys[side] == sorted(p if side else -p for p in ladder.levels[side])


def test_the_streams_of_a_symbol_agree_with_each_other_and_with_the_questions() -> None:
    emulator = simulated(symbols=1)
    world = emulator.market
    symbol = world.symbols[0]
    for stream in ("trades", "quotes", "depth", "top:10", "top:25", "candles:1m", "clock"):
        kind, _, rest = stream.partition(":")
        name = "clock" if kind == "clock" else f"{kind}:{symbol}" + (f":{rest}" if rest else "")
        assert world.resolve(name) == name
        world.subscribed(name)
    clients = {s: world.view(f"{s}") for s in (f"depth:{symbol}", f"top:{symbol}:10", f"top:{symbol}:25")}
    books = {s: [dict(v.bids), dict(v.asks)] for s, v in clients.items() if v is not None}
    last = {s: (v.last_id, v.number) for s, v in clients.items() if v is not None}
    seen: dict[str, list[object]] = {}
    while world.next_time() is not None:
        for item in world.step():
            seen.setdefault(split_stream(item.stream)[0], []).append(item.payload)
            if isinstance(item.payload, BookChange):
                change = item.payload
                assert (change.prev_id, change.number - 1) == last[item.stream]
                assert change.prev_id < change.first_id <= change.last_id
                last[item.stream] = (change.last_id, change.number)
                for side, levels in zip(books[item.stream], (change.bids, change.asks), strict=True):
                    for price, quantity in levels:
                        if Decimal(quantity):
                            side[price] = quantity
                        elif side.pop(price, None) is None:
                            # What came and went between two messages; a view of the best levels tells nothing of it.
                            assert item.stream.startswith("depth:")
                view = world.view(item.stream)
                assert view is not None
                assert (dict(view.bids), dict(view.asks)) == tuple(books[item.stream])
                assert (view.last_id, view.number) == last[item.stream]
    for item in world.finish():
        seen.setdefault(split_stream(item.stream)[0], []).append(item.payload)
    assert set(seen) == {"trades", "quotes", "depth", "top", "candles", "clock"}
    trades = [t for t in seen["trades"] if isinstance(t, Trade)]
    assert trades == world.passed_trades(symbol)
    assert [t.id for t in trades] == list(range(trades[0].id, trades[0].id + len(trades)))
    assert world.trades_from(symbol, trades[3].id, 5) == trades[3:8]
    assert world.trades_before(symbol, trades[10].id, 4) == trades[6:10]
    assert world.latest_trades(symbol, 6) == trades[-6:]
    assert world.trades_between(symbol, trades[2].ts, trades[9].ts) == [
        t for t in trades if trades[2].ts <= t.ts < trades[9].ts
    ]
    before = world.trades_before(symbol, trades[0].id, 3)
    assert [t.id for t in before] == [trades[0].id - 3 + n for n in range(3)]
    assert len(seen["clock"]) == 19  # the last second ends with the timeline
    day = day_of(trades[0].ts)
    assert [t for t in world.day_trades(symbol, day) if t.ts >= world.start] == trades
    candle = world.candles(symbol, "1m", world.start, world.position)[0]
    of_minute = [t for t in trades if candle.open_time <= t.ts < candle.close_time]
    assert candle.count == len(of_minute)
    assert Decimal(candle.volume) == sum(Decimal(t.quantity) for t in of_minute)
    assert Decimal(candle.amount) == sum(Decimal(t.quantity) * Decimal(t.price) for t in of_minute)
    assert (candle.open, candle.close) == (of_minute[0].price, of_minute[-1].price)
    assert candle in world.day_candles(symbol, day, "1m")
    last_candle = seen["candles"][-1]
    closed = [c for c in seen["candles"] if c.closed]  # type: ignore[attr-defined]
    assert last_candle.volume == world.candles(symbol, "1m", 0, world.position)[-1].volume  # type: ignore[attr-defined]
    assert len(closed) == (world.position - world.start) // (60 * SECOND)


def test_names_may_be_unified_or_native_and_contracts_are_scaled() -> None:
    emulator = simulated(symbol_names=("btc-usdt", "ETH/USD", "SOL-USD-PERP", "BTC-USDT", "XRPUSDC", "DOGE"))
    made = {s.symbol: s for s in emulator.market.listed()}
    assert list(made) == ["BTC-USDT", "ETH-USD", "SOL-USD-SWAP", "XRP-USDC", "DOGE-USD"]
    assert made["SOL-USD-SWAP"] == Listed("SOL-USD-SWAP", "SOL", "USD", "perpetual", 1, 2, Decimal("0.01"))
    assert (made["BTC-USDT"].tick, made["BTC-USDT"].lot) == ("0.01", "0.00001")
    book = emulator.market.book("SOL-USD-SWAP", 1)
    assert 140 < float(book.bids[0][0]) < 175
    assert book.bids[0][0].partition(".")[2].__len__() == 1
    assert emulator.find("btc-usdt") == "BTC-USDT"


def test_an_asset_costs_about_the_same_on_every_venue() -> None:
    worlds = [simulated(symbol_names=(n,), duration=0).market for n in ("BTC-USD", "BTC-USDT", "BTC-USDT-PERP")]
    for seconds, apart in ((0, 0.005), (40, 0.000_05), (60, 0.000_05)):
        prices = []
        for world in worlds:
            while (ts := world.next_time()) is not None and ts < world.start + seconds * SECOND:
                world.step()
            prices.append(float(world.book(world.symbols[0], 1).bids[0][0]))
        assert max(prices) / min(prices) < 1 + apart
    for one, other in pairwise(worlds):  # but they are different markets
        assert {t.ts for t in one.latest_trades(one.symbols[0], 50)}.isdisjoint(
            t.ts for t in other.latest_trades(other.symbols[0], 50)
        )


def test_numbers_are_written_with_their_decimals() -> None:
    linear = Numbers(1, 2, Decimal("0.001"))
    assert (linear.price(123), linear.quantity(5)) == ("12.3", "0.05")
    assert Decimal(linear.amount_text(linear.amount(123, 5))) == Decimal("12.3") * Decimal("0.05") * Decimal("0.001")
    inverse = Numbers(1, 0, Decimal(100), inverse=True)
    assert inverse.amount_text(inverse.amount(500_000, 3)) == "0.00600000"
    assert [decimals_of(t) for t in ("1", "1.50", "1E-8", "1e2", "2.5E-3")] == [0, 2, 8, 0, 4]
    assert (trim("1.500"), trim("100"), trim("0.0"), scaled("1.25", 3)) == ("1.5", "100", "0", 1250)


def test_candles_of_a_part_of_the_history_are_those_of_the_whole() -> None:
    world = simulated(symbols=1, history_trades=200).market  # most minutes have no trade
    symbol, minute = world.symbols[0], 60 * SECOND
    day = world.days(symbol)[0]
    begin = day_start(day)
    whole = list(world.day_candles(symbol, day, "1m"))
    assert len({c.open_time for c in whole}) == len(whole)
    for first in range(60, 1440, 97):
        part = world.candles(symbol, "1m", begin + first * minute, begin + (first + 29) * minute)
        assert [c.open_time for c in part] == [begin + n * minute for n in range(first, first + 30)]
        expected = {c.open_time: (c.open, c.high, c.low, c.close, c.count) for c in whole}
        for c in part:
            if c.open_time in expected:
                assert (c.open, c.high, c.low, c.close, c.count) == expected[c.open_time]
