"""Every recording and a simulated day through QuestDB and through Parquet: equal, record for record."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from msgspec import structs
from qdb_kit import key_of, location_of, one_of_each, random_records, to_batches

from cmd_common import open_reader, open_writer
from cmd_common.commands import RecordOptions, ReplayOptions
from cmd_common.feed import Subscription
from cmd_common.io import WriterCounters
from cmd_common.records import TABLE_OF, Candle, Record, Trade
from cmd_common.registry import exchange as find_exchange
from cmd_common.schema import TABLES
from cmd_common.schema import table as table_of
from cmd_common.testing.session import VenueSession, simulated
from cmd_feed.session import LiveSession
from cmd_replay.command import serve

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY_START = 1_748_712_600 * SECOND  # 2025-05-31 17:30
ALL = ("trades", "agg_trades", "quotes", "candles", "book")


class Play(NamedTuple):
    """A venue, what it sends, and what must come of it."""

    venue: str
    files: tuple[str, ...]
    tables: frozenset[str]
    options: Mapping[str, str] = MappingProxyType({})
    intervals: tuple[str, ...] = ("1m",)


BOOK = frozenset({"book_snapshots", "book_deltas"})
PLAYS = [
    Play(
        "binance-spot",
        ("binance_spot/hft_btcusdt_20240808.ndjson.gz", "binance_spot/hft_btcusdt_20240809.ndjson.gz"),
        BOOK | {"trades", "quotes"},
    ),
    Play("binance-spot", ("binance_spot/cryptofeed_4symbols_20211012.ndjson",), BOOK | {"agg_trades", "candles"}),
    Play("binance-usdm", ("binance_usdm/hft_btcusdt_20240808_first12s.ndjson",), BOOK | {"trades", "quotes"}),
    Play("binance-coinm", ("binance_coinm/hft_btcusd_perp_20240808_first15s.ndjson",), BOOK | {"trades", "quotes"}),
    Play("kraken", ("kraken/tickvault_v2_book10_btcusd_20260824.ndjson",), BOOK),
    Play("kraken", ("kraken/cryptofeed_v1_book1000_10pairs_20210417.ndjson",), BOOK, {"api": "v1"}),
    Play("kraken", ("kraken/cryptofeed_v1_trades_20210417.ndjson",), frozenset({"trades"}), {"api": "v1"}),
    Play("coinbase", ("coinbase_exchange/cryptofeed_10products_20210417.ndjson.gz",), BOOK | {"trades", "quotes"}),
    Play("gemini", ("gemini/cryptofeed_v2_10symbols_20210624.ndjson",), BOOK | {"trades"}, {"api": "v2"}),
    Play("bitstamp", ("bitstamp/cryptofeed_10pairs_20220105.ndjson",), BOOK | {"quotes"}),
    Play("okx", ("okx/tickvault_books_btcusdt_20260824.ndjson",), BOOK),
    Play("bybit-spot", ("bybit/tickvault_v5_spot_orderbook50_20260824.ndjson",), BOOK),
    Play(
        "coinbase-advanced",
        ("coinbase_advanced/tickvault_level2_btcusd_20260824_trimmed.ndjson",),
        BOOK,
        intervals=("5m",),
    ),
]


class Lines:
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.warnings: list[str] = []

    def info(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        self.facts.put_nowait(dict(facts))

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None: ...


class Keep:
    """A writer that keeps the records, to be given to both stores."""

    def __init__(self) -> None:
        self.counters = WriterCounters({})
        self.records: list[Record] = []

    def write(self, records: Sequence[Record]) -> None:
        self.records += records

    def write_batch(self, table: str, batch: Any) -> int:
        raise AssertionError("live records come one by one")

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Keep:
        return self

    def __exit__(self, *error: object) -> None: ...


async def live(replay: ReplayOptions, **options: Any) -> list[Record]:
    """Serve by the emulator, receive by the feeds: the records of the public path."""
    lines = Lines()
    server = asyncio.create_task(serve(replay, lines))
    ready = asyncio.create_task(lines.facts.get())
    await asyncio.wait({server, ready}, return_when=asyncio.FIRST_COMPLETED)
    assert ready.done(), server.exception()
    keep = Keep()
    session = LiveSession(
        RecordOptions(
            replay.exchanges, ("all",), ALL, "", endpoints={"": ready.result()["endpoint"]},
            until_end=True, **options,
        ),
        lines,
        writer=keep,
    )  # fmt: skip
    await session.start()
    try:
        async with asyncio.timeout(60):
            await session.wait()
    finally:
        await session.stop()
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
    return keep.records


def both(tmp_path: Path, server: Any, records: Sequence[Record]) -> tuple[str, str]:
    """Write records to a Parquet store and to QuestDB, in several flushes."""
    stores = (f"parquet:{tmp_path / 'parity'}", "questdb:" + location_of(server))
    for store in stores:
        with open_writer(store) as writer:
            for start in range(0, len(records), 20_000):
                writer.write(records[start : start + 20_000])
                writer.flush()
    return stores


def compare(parquet: str, questdb: str) -> Counter[str]:
    """Read both stores wholly and compare; returns the records by table."""
    found: Counter[str] = Counter()
    with open_reader(parquet) as one, open_reader(questdb) as other:
        assert one.tables() == other.tables()
        for table in one.tables():
            mine, theirs = list(one.records(table)), list(other.records(table))
            assert len(mine) == len(theirs), table
            for a, b in zip(mine, theirs, strict=True):
                assert a == b or repr(a) == repr(b), table  # NaN, which an exchange does not tell, equals nothing
            found[table] = len(mine)
    return found


def recorded(folder: Path, play: Play) -> list[Record]:
    files = tuple(str(folder / name) for name in play.files)
    replay = ReplayOptions((play.venue,), recordings=files, speed=0, exit_at_end=True)
    records = asyncio.run(live(replay, options=play.options, intervals=play.intervals))
    made = {TABLE_OF[type(r)] for r in records}
    assert play.tables <= made, f"{play.venue}: {play.tables - made} are not in {play.files}"
    return records


def test_every_recording_is_the_same_in_both_stores(questdb: Any, recordings: Path, tmp_path: Path) -> None:
    records = [record for play in PLAYS for record in recorded(recordings, play)]
    found = compare(*both(tmp_path, questdb, records))
    assert found["trades"] > 20_000
    assert found["quotes"] > 75_000
    assert found["book_deltas"] > 13_000
    assert {"agg_trades", "candles", "book_snapshots", "instruments", "feed_status"} <= set(found)


def test_midnight_is_the_same_in_both_stores(questdb: Any, tmp_path: Path) -> None:
    """All types of three venues over midnight, and the merged book over them."""
    start = 1_748_735_970 * SECOND  # half a minute before 2025-06-01
    records: list[Record] = []
    for venue in ("binance-spot", "kraken", "okx"):
        replay = ReplayOptions(
            (venue,), simulate=True, symbols=2, seed=11, speed=0, exit_at_end=True, start=start, duration=60 * SECOND
        )
        records += asyncio.run(live(replay, snapshot_every=5 * SECOND))
    for i in range(20):
        records += one_of_each(i)
    found = compare(*both(tmp_path, questdb, records))
    assert set(found) == set(TABLES)
    assert found["trades"] > 500


def simulated_day(venue: str, types: Sequence[str]) -> list[Record]:
    """24 hours of a venue in real time on a clock that jumps, from 17:30 to 17:30, as its feeds give them."""
    exchange = find_exchange(venue)
    source = simulated(
        exchange, symbols=2, seed=23, start=DAY_START, duration=24 * HOUR, rate=0.4, levels=20, speed=1.0
    )
    session = VenueSession(exchange, exchange.emulator(source), DAY_START)
    session.start(Subscription(tuple(session.instruments()), tuple(types), snapshot_every=600 * SECOND))
    session.run(polls=2_000_000)
    for table in ("trades", "quotes", "candles", "book_deltas", "book_snapshots"):
        times = [getattr(r, table_of(table).time) for r in session.records if TABLE_OF[type(r)] == table]
        assert len({t // HOUR for t in times}) == 25, f"{venue}: {table} lack hours"
    return session.records


def edges(hours: Sequence[int]) -> list[Record]:
    """One record of every type, with numbers that need all digits, at the first and the last ns of hours."""
    found = [
        structs.replace(record, **{table_of(TABLE_OF[type(record)]).time: at})
        for i, hour in enumerate(hours)
        for k, at in enumerate((hour, hour + HOUR - 1))
        for record in one_of_each(2 * i + k)
    ]
    return [r for r in found if not isinstance(r, Candle) or not r.open_time % SECOND]  # candles open at whole minutes


@pytest.mark.slow
def test_a_simulated_day_is_the_same_in_both_stores(questdb: Any, tmp_path: Path) -> None:
    """Every type over every hour and midnight, recorded live; then the day's trades come from the archive, too."""
    records = simulated_day("binance-spot", ALL)
    records += edges(range(DAY_START // HOUR * HOUR, DAY_START + 24 * HOUR, HOUR))
    random.Random(7).shuffle(records)  # as from many connections, and worse
    stores = both(tmp_path, questdb, records)
    found = compare(*stores)
    assert set(found) == set(TABLES)
    assert sum(found.values()) > 100_000
    assert sum(found.values()) == len({key_of(r) for r in records})
    trades = [r for r in records if isinstance(r, Trade)]
    archived = [structs.replace(r, ts_recv=0, price=r.price * 1.1) for r in trades[::2]]
    archived += [structs.replace(r, ts_recv=0, trade_id=f"{r.trade_id}-a") for r in trades[::3]]
    for store in stores:
        with open_writer(store) as writer:
            writer.write_batch("trades", to_batches(archived)["trades"])
    assert compare(*stores)["trades"] == found["trades"] + len(trades[::3])


def test_the_same_batches_are_the_same_in_both_stores(questdb: Any, tmp_path: Path) -> None:
    """Bulk rows, in frames and out of the import folder, after live rows and twice."""
    rng = random.Random(5)
    held = [r for i in range(30) for r in one_of_each(i)] + random_records(rng, 4_000)
    rows = held[:1_000] + [r for r in random_records(rng, 20_000) if getattr(r, "ts_recv", 1) == 0]
    bulk = to_batches(rows)
    for more in ({}, {"import_dir": questdb.import_dir}):
        stores = (f"parquet:{tmp_path / str(len(more))}", "questdb:" + location_of(questdb, **more))
        for store in stores:
            with open_writer(store) as writer:
                writer.write(held)
                writer.flush()
                for _ in range(2):
                    for table, batch in bulk.items():
                        writer.write_batch(table, batch)
                    writer.flush()
        compare(*stores)
