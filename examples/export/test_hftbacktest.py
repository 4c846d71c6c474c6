"""``cmd-cli export`` for hftbacktest, read back by hftbacktest itself: hatch run peers:test.

hftbacktest asks for another numpy than the workspace has, so that this runs in an environment of its own.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import hftbacktest

from cmd_common.commands import ExportOptions, LogReporter
from cmd_common.io import open_reader, open_writer
from cmd_common.orderbook import OrderBook
from cmd_common.records import BookDelta, BookSnapshot, Record, Trade, pack_levels
from cmd_parquet.export import run

MS = 1_000_000
START = 1_735_689_600_000_000_000
STEPS = 2_000
EVERY = 10 * MS
TICK = 0.01


def market() -> list[Record]:
    """Two chains of updates with periodic snapshots, trades, and trades that overtake updates and each other."""
    rng = random.Random(5)
    rows: list[Record] = []
    book = OrderBook(venue="v", symbol="A")
    epoch = seq = recv = 0
    for n in range(STEPS):
        ts = START + n * EVERY
        recv = max(recv, ts + rng.randrange(1, 30) * MS)  # of one connection: in order
        if n in (0, STEPS // 2):
            epoch += 1
            seq += 5
            mid = 100 + epoch
            book.load(
                [(round(mid - k * TICK, 2), 1.0 + k) for k in range(1, 20)],
                [(round(mid + k * TICK, 2), 1.0 + k) for k in range(1, 20)],
            )
        if n % 100 == 0:
            rows.append(BookSnapshot(ts, recv, "v", "A", epoch, seq, 19, 19, book.packed_bids(), book.packed_asks()))
            continue
        seq += 1
        bids, asks = [], []
        side, prices = rng.choice([(bids, book.bids()), (asks, book.asks())])
        price = rng.choice(prices)[0]
        side.append((price, 0.0 if len(prices) > 5 and rng.random() < 0.4 else round(rng.uniform(1, 9), 3)))
        book.apply(bids, asks)
        rows.append(BookDelta(ts, recv, "v", "A", epoch, seq, seq, pack_levels(bids), pack_levels(asks)))
        if n % 7 == 0:
            rows.append(
                Trade(
                    ts + MS,
                    ts + rng.randrange(1, 30) * MS,
                    "v",
                    "A",
                    str(n),
                    n,
                    price,
                    0.5,
                    rng.choice(["buy", "sell"]),
                )
            )
    return rows


def backtest(path: Path) -> Any:
    asset = (
        hftbacktest.BacktestAsset()
        .data([str(path)])
        .linear_asset(1.0)
        .constant_order_latency(MS, MS)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(0.0, 0.0)
        .tick_size(TICK)
        .lot_size(0.001)
        .last_trades_capacity(10_000)
    )
    return hftbacktest.HashMapMarketDepthBacktest([asset])


def test_hftbacktest_sees_the_book_and_the_trades_of_the_store(tmp_path: Path) -> None:
    store = f"parquet:{tmp_path / 'data'}"
    rows = market()
    with open_writer(store) as writer:
        writer.write(rows)
    options = ExportOptions(store, (), str(tmp_path / "a.npz"), venue="v", symbols=("A",))
    result = run(options, LogReporter())
    assert result.summary["events"]["A"]["reordered"] > 0
    assert result.summary["events"]["A"]["snapshots"] == 2
    trades = sorted((r for r in rows if isinstance(r, Trade)), key=lambda r: r.ts_recv)
    deltas = sorted((r for r in rows if not isinstance(r, Trade)), key=lambda r: r.ts_recv)
    hbt = backtest(tmp_path / "a.npz")
    with open_reader(store) as reader:
        seen = 0
        checked = 0
        while hbt.elapse(997 * MS) == 0:
            now = hbt.current_timestamp
            last = hbt.last_trades(0)
            assert [t["px"] for t in last] == [t.price for t in trades[seen : seen + len(last)]]
            assert all(t["exch_ts"] == r.ts_event for t, r in zip(last, trades[seen:], strict=False))
            seen += len(last)
            assert seen == sum(t.ts_recv <= now for t in trades)
            hbt.clear_last_trades(0)
            # What the trader has received by now is the store's book only where no update is on its way.
            if any(r.ts_event <= now < r.ts_recv for r in deltas):
                continue
            book = reader.book_at("v", "A", now)
            assert book is not None
            depth = hbt.depth(0)
            assert (round(depth.best_bid, 2), round(depth.best_ask, 2)) == (book.bids(1)[0][0], book.asks(1)[0][0])
            for side, of in (("bid", dict(book.bids())), ("ask", dict(book.asks()))):
                for price, quantity in of.items():
                    tick = round(price / TICK)
                    assert getattr(depth, f"{side}_qty_at_tick")(tick) == quantity
            checked += 1
        assert seen + len(hbt.last_trades(0)) == len(trades)
        assert checked > 0
    hbt.close()
