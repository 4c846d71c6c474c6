"""Records, clocks and models that the store's tests share."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from cmd_common.records import (
    TABLE_OF,
    AggregatedBook,
    AggTrade,
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Quote,
    Record,
    Trade,
    pack_levels,
)
from cmd_common.schema import SCHEMA

T0 = 1_723_075_200_000_000_000  # 2024-08-08T00:00Z
DAY = 86_400_000_000_000
VENUE = "binance-spot"


class ManualClock:
    """A clock that moves one microsecond a look, so that stamps differ."""

    def __init__(self, now: int = T0) -> None:
        self.t = now

    def now(self) -> int:
        self.t += 1_000
        return self.t

    def monotonic(self) -> int:
        return self.t

    async def sleep(self, ns: int) -> None:
        self.t += ns


def trade(i: int, *, symbol: str = "BTCUSDT", live: bool = True, price: float = 0.0, at: int | None = None) -> Trade:
    ts = T0 + i * 1_000_000 if at is None else at
    return Trade(ts, ts + 5 if live else 0, VENUE, symbol, str(i), i, price or 100.0 + i / 100, 0.25, "buy", 0)


def candle(i: int, state: Any = "final", *, live: bool = True, close: float = 1.5) -> Candle:
    start = T0 + i * 60_000_000_000
    return Candle(
        start, start + 60_000_000_000, start + 59, start + 60 if live else 0, VENUE, "BTCUSDT", "1m", "exchange", state,
        1.0, 2.0, 0.5, close, 10.0, 15.0, 3, 5.0, 7.5,
    )  # fmt: skip


def gap(i: int, repaired_by: str = "") -> Gap:
    return Gap(T0 + i, T0 + i + 10, VENUE, "BTCUSDT", "trades", "trade_id", "lost", i, i + 3, repaired_by, "")


def one_of_each(i: int = 0) -> list[Record]:
    """One record of every type, with numbers that need all digits and times that need all nanoseconds."""
    ts = T0 + 123_456_789 + i
    side = pack_levels([(67_123.456789012, 0.1 + i), (0.00000001, 12345678.9), (5e-324, 1.7976931348623157e308)])
    triples = pack_levels([(1.5, 2.5), (0.0, 1.25)]) + pack_levels([(0.5, 1.0)])
    s = "BTCUSDT"
    return [
        Trade(ts, ts + 1, VENUE, s, f"uuid-{i}", None, 0.1 + 0.2, 123456.789012345, "sell", 3),
        AggTrade(ts, ts - 7, VENUE, s, str(i), i, i * 3, i * 3 + 2, 1 / 3, 2 / 3, "unknown", 0),
        Quote(ts, ts + 1, VENUE, s, 2**62 + i, 99.99999999999999, 1e-8, 100.00000000000001, 1e15 + 0.125, 1),
        candle(i),
        BookSnapshot(ts, ts + 1, VENUE, s, 7, 9 + i, 3, 2, side, side[:16]),
        BookDelta(ts, ts + 1, VENUE, s, 7, 10 + i, 9 + i, b"", side),
        AggregatedBook(ts, ts + 1, "BTC-USDT", i, "a:X,b:Y", "c:Z=stale", triples, b"", 10**15 + i if i % 2 == 0 else None),
        FeedStatus(ts, ts + 1, VENUE, "", "book", "c-1", "LIVE", "é ✓"),
        Gap(ts, ts + 5, VENUE, s, "book_deltas", "sequence", "lost", None, None),
        InstrumentRecord(
            ts, ts, VENUE, s, "BTC", "USDT", "USDT", "spot", "0.01", "0.00001", "", "", "", False, None, "TRADING"
        ),
    ]  # fmt: skip


def key_of(record: Record) -> tuple[Any, ...]:
    table = TABLE_OF[type(record)]
    return (table, *(getattr(record, c) for c in SCHEMA[table].key))


def model(records: Iterable[Record]) -> dict[tuple[Any, ...], Record]:
    """The rows that a store must hold after these records were written in this order."""
    best: dict[tuple[Any, ...], tuple[tuple[int, int], Record]] = {}
    for record in records:
        key = key_of(record)
        prefer = SCHEMA[TABLE_OF[type(record)]].prefer
        rank = 0 if prefer is None else prefer[1].index(getattr(record, prefer[0]))
        merit = (-rank, 1 if getattr(record, "ts_recv", 1) else 0)
        if key not in best or merit >= best[key][0]:
            best[key] = (merit, record)
    return {key: record for key, (_, record) in best.items()}


def stored(reader: Any) -> dict[tuple[Any, ...], Record]:
    """Everything a reader gives; fails when a key comes twice or out of order."""
    found: dict[tuple[Any, ...], Record] = {}
    for table in reader.tables():
        last: tuple[Any, ...] | None = None
        for record in reader.records(table):
            key = key_of(record)
            assert key not in found, f"key twice: {key}"
            found[key] = record
            order = tuple(
                (len(v), v) if c == "trade_id" else v for c, v in zip(SCHEMA[table].key, key[1:], strict=True)
            )
            time = getattr(record, SCHEMA[table].time)
            assert last is None or last < (time, *order), f"out of order in {table}: {last} {order}"
            last = (time, *order)
    return found


def random_records(rng: random.Random, n: int) -> list[Record]:
    """Records of several tables with many equal keys."""
    out: list[Record] = []
    for _ in range(n):
        kind = rng.randrange(6)
        i = rng.randrange(20)
        live = rng.random() < 0.6
        symbol = rng.choice(("BTCUSDT", "ETHUSDT", "X/Y:Z"))
        if kind <= 2:
            out.append(trade(i, symbol=symbol, live=live, price=1.0 + rng.randrange(1000)))
        elif kind == 3:
            state = rng.choice(("provisional", "final", "corrected"))
            out.append(candle(i % 4, state, live=live, close=float(rng.randrange(1000))))
        elif kind == 4:
            out.append(gap(i % 5, rng.choice(("", "repair-1", "repair-2"))))
        else:
            ts = T0 + (i % 2) * DAY + i
            side = pack_levels([(float(rng.randrange(100)), 1.0)])
            out.append(BookDelta(ts, ts, VENUE, symbol, 1, i, i, side, b""))
    return out


def to_batches(records: Sequence[Record]) -> dict[str, Any]:
    """Records as Arrow tables with exactly the schema's columns, as an archiver makes them."""
    from cmd_parquet.columns import ORDER, arrow_schema, row_getter, rows_to_arrow

    by_table: dict[str, list[tuple[Any, ...]]] = {}
    for record in records:
        name = TABLE_OF[type(record)]
        by_table.setdefault(name, []).append(row_getter(name)(record))
    return {
        name: rows_to_arrow(name, rows, range(len(rows))).drop_columns([ORDER]).cast(arrow_schema(name))
        for name, rows in by_table.items()
    }
