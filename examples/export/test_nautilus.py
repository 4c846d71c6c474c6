"""A nautilus catalog of ``cmd-cli export``, read back by nautilus_trader itself: hatch run peers:test.

nautilus_trader asks for an older pandas than the workspace has, so that this runs in an environment of its own.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from nautilus_trader.backtest.engine import BacktestEngine  # type: ignore[import-not-found]
from nautilus_trader.config import BacktestEngineConfig, LoggingConfig  # type: ignore[import-not-found]
from nautilus_trader.model.book import OrderBook as NautilusBook  # type: ignore[import-not-found]
from nautilus_trader.model.data import OrderBookDeltas  # type: ignore[import-not-found]
from nautilus_trader.model.enums import AccountType, BookType, OmsType  # type: ignore[import-not-found]
from nautilus_trader.model.identifiers import InstrumentId, Venue  # type: ignore[import-not-found]
from nautilus_trader.model.objects import Money  # type: ignore[import-not-found]
from nautilus_trader.persistence.catalog import ParquetDataCatalog  # type: ignore[import-not-found]
from nautilus_trader.trading.strategy import Strategy  # type: ignore[import-not-found]

from cmd_common.commands import ExportOptions, LogReporter
from cmd_common.io import open_reader, open_writer
from cmd_common.orderbook import OrderBook
from cmd_common.records import (
    BookDelta,
    BookSnapshot,
    Candle,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_parquet.export import run

MS = 1_000_000
S = 1_000 * MS
START = 1_735_689_600 * S
STEPS = 3_000
VENUE = "binance-spot"


def market() -> list[Record]:
    """Reference data, a book of two chains with periodic snapshots, trades, quotes and candles, off any binary grid."""
    rng = random.Random(7)
    rows: list[Record] = [
        InstrumentRecord(START, START, VENUE, "BTCUSDT", "BTC", "USDT", "USDT", "spot", "0.01", "0.00001", "0.00001", "5", "", False, None, "trading")
    ]  # fmt: skip
    book = OrderBook(venue=VENUE, symbol="BTCUSDT")
    epoch = seq = 0
    recv = START
    for n in range(STEPS):
        ts = START + n * 10 * MS
        recv = max(recv, ts + rng.randrange(1, 30) * MS)
        if n in (0, STEPS // 2):
            epoch += 1
            seq += 5
            book.load(
                [(round(60_000 + epoch - k * 0.01, 2), round(rng.uniform(0.001, 9), 5)) for k in range(1, 40)],
                [(round(60_000 + epoch + k * 0.01, 2), round(rng.uniform(0.001, 9), 5)) for k in range(1, 40)],
            )
        if n % 500 == 0:
            rows.append(
                BookSnapshot(ts, recv, VENUE, "BTCUSDT", epoch, seq, 39, 39, book.packed_bids(), book.packed_asks())
            )
            continue
        seq += 1
        bids: list[tuple[float, float]] = []
        asks: list[tuple[float, float]] = []
        side, prices = rng.choice([(bids, book.bids()), (asks, book.asks())])
        price = rng.choice(prices)[0]
        side.append((price, 0.0 if len(prices) > 5 and rng.random() < 0.4 else round(rng.uniform(0.001, 9), 5)))
        book.apply(bids, asks)
        rows.append(BookDelta(ts, recv, VENUE, "BTCUSDT", epoch, seq, seq, pack_levels(bids), pack_levels(asks)))
        best_bid, best_ask = book.bids(1)[0], book.asks(1)[0]
        rows.append(Quote(ts, recv, VENUE, "BTCUSDT", seq, *best_bid, *best_ask))
        if n % 5 == 0:
            taken: Any = rng.choice(["buy", "sell", "unknown"])
            rows.append(
                Trade(
                    ts + MS,
                    ts + 20 * MS,
                    VENUE,
                    "BTCUSDT",
                    str(n),
                    n,
                    best_ask[0],
                    round(rng.uniform(0.00001, 3), 5),
                    taken,
                )
            )
    for n in range(5):
        at = START + n * 60 * S
        prices4 = 60_000.01, 60_010.07, 59_990.99, 60_001.13
        rows.append(
            Candle(
                at,
                at + 60 * S,
                at + 60 * S,
                0,
                VENUE,
                "BTCUSDT",
                "1m",
                "exchange",
                "final",
                *prices4,
                12.34567,
                1.0,
                9,
                1.0,
                1.0,
            )
        )
    return rows


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Record], Any]:
    folder = tmp_path_factory.mktemp("nautilus")
    store, rows = f"parquet:{folder / 'data'}", market()
    with open_writer(store) as writer:
        writer.write(rows)
    options = ExportOptions(store, (), str(folder / "catalog"), "nautilus", VENUE, ("BTCUSDT",))
    assert run(options, LogReporter()).exit_code == 0
    return store, rows, ParquetDataCatalog(str(folder / "catalog"))


def exact(value: Any) -> float:
    """A price or quantity as the float64 nearest to its digits; ``float(value)`` may miss it by one."""
    return float(value.as_decimal())


def of(rows: list[Record], kind: type) -> list[Any]:
    return [r for r in rows if isinstance(r, kind)]


def test_trades_and_quotes_are_those_of_the_store(exported: tuple[str, list[Record], Any]) -> None:
    _, rows, catalog = exported
    ticks = catalog.trade_ticks(instrument_ids=["BTCUSDT.BINANCE"])
    assert [(t.trade_id.value, t.price.as_decimal(), t.size.as_decimal(), t.ts_event) for t in ticks] == [
        (
            r.trade_id,
            Decimal(repr(r.price)).quantize(Decimal("0.01")),
            Decimal(repr(r.quantity)).quantize(Decimal("0.00001")),
            r.ts_event,
        )
        for r in of(rows, Trade)
    ]
    sides = {"buy": "BUYER", "sell": "SELLER", "unknown": "NO_AGGRESSOR"}
    assert [t.aggressor_side.name for t in ticks] == [sides[r.side] for r in of(rows, Trade)]
    assert [t.ts_init for t in ticks] == sorted(t.ts_init for t in ticks)
    quotes = catalog.quote_ticks(instrument_ids=["BTCUSDT.BINANCE"])
    assert [
        (exact(q.bid_price), exact(q.ask_price), exact(q.bid_size), exact(q.ask_size), q.ts_event) for q in quotes
    ] == [(r.bid_price, r.ask_price, r.bid_quantity, r.ask_quantity, r.ts_event) for r in of(rows, Quote)]


def test_bars_are_the_candles(exported: tuple[str, list[Record], Any]) -> None:
    _, rows, catalog = exported
    bars = catalog.bars(bar_types=["BTCUSDT.BINANCE-1-MINUTE-LAST-EXTERNAL"])
    assert [
        (exact(b.open), exact(b.high), exact(b.low), exact(b.close), exact(b.volume), b.ts_event) for b in bars
    ] == [(r.open, r.high, r.low, r.close, r.volume, r.close_time) for r in of(rows, Candle)]


def test_the_instrument_is_defined(exported: tuple[str, list[Record], Any]) -> None:
    (instrument,) = exported[2].instruments()
    assert instrument.id == InstrumentId.from_str("BTCUSDT.BINANCE")
    assert (str(instrument.price_increment), str(instrument.size_increment)) == ("0.01", "0.00001")
    assert (instrument.price_precision, instrument.size_precision) == (2, 5)


def test_its_book_is_that_of_the_store_after_every_message(exported: tuple[str, list[Record], Any]) -> None:
    store, rows, catalog = exported
    name = InstrumentId.from_str("BTCUSDT.BINANCE")
    deltas = catalog.order_book_deltas(instrument_ids=["BTCUSDT.BINANCE"])
    book = NautilusBook(name, BookType.L2_MBP)
    message: list[Any] = []
    ends = []
    with open_reader(store) as reader:
        for delta in deltas:
            message.append(delta)
            if not delta.flags & 128:
                continue
            book.apply_deltas(OrderBookDeltas(name, message))
            ends.append(message[0].ts_event)
            message = []
            if len(ends) % 97:
                continue
            ours = reader.book_at(VENUE, "BTCUSDT", delta.ts_event)
            assert ours is not None
            assert [(exact(level.price), level.size()) for level in book.bids()] == ours.bids()
            assert [(exact(level.price), level.size()) for level in book.asks()] == ours.asks()
    assert not message
    assert len(ends) == len(of(rows, BookDelta)) + 2


class Counting(Strategy):  # type: ignore[misc]
    """Counts what it is given."""

    def on_start(self) -> None:
        self.seen = 0
        self.best: list[tuple[float, float]] = []
        name = InstrumentId.from_str("BTCUSDT.BINANCE")
        self.subscribe_trade_ticks(name)
        self.subscribe_order_book_deltas(name, BookType.L2_MBP)

    def on_trade_tick(self, tick: Any) -> None:
        self.seen += 1

    def on_order_book_deltas(self, deltas: Any) -> None:
        book = self.cache.order_book(deltas.instrument_id)
        best = book.best_bid_price(), book.best_ask_price()
        if None not in best:  # rows of a snapshot come one by one
            self.best.append((exact(best[0]), exact(best[1])))


def test_a_backtest_runs_on_it(exported: tuple[str, list[Record], Any]) -> None:
    _, rows, catalog = exported
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        Venue("BINANCE"), OmsType.NETTING, AccountType.CASH, [Money.from_str("1000000 USDT")], book_type=BookType.L2_MBP
    )
    engine.add_instrument(catalog.instruments()[0])
    engine.add_data(catalog.trade_ticks())
    engine.add_data(catalog.order_book_deltas())
    strategy = Counting()
    engine.add_strategy(strategy)
    engine.run()
    assert strategy.seen == len(of(rows, Trade))
    assert strategy.best
    assert all(bid < ask for bid, ask in strategy.best)
    engine.dispose()
