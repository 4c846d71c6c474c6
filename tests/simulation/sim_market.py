"""How the simulation reaches the parts by name: exchange, emulator and store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sim_options import SECOND, Options

from cmd_binance.rest import depth_request
from cmd_common.emulation import Emulator, MarketSource
from cmd_common.records import Record
from cmd_common.schema import TABLES
from cmd_common.seams import Disk
from cmd_parquet.checking import verify
from cmd_parquet.store import ParquetStore
from cmd_parquet.writer import WriterOptions

if TYPE_CHECKING:
    from sim_run import Run

logging.getLogger("cmd_parquet").setLevel(logging.ERROR)  # what it warns of is made on purpose here
LOCATION = "/store"
TRUTH_LEVELS = {"spot": 5000, "usdm": 1000, "coinm": 1000}


def make_emulator(exchange: Any, options: Options, start: int) -> Emulator:
    """The exchange's emulator over a small, slow market that never ends; it damages nothing."""
    source = MarketSource(
        venue=exchange.venue,
        simulate=True,
        symbols=options.symbols,
        seed=options.seed,
        start=start,
        rate=options.rate,
        levels=options.levels,
        history_days=0,
        history_trades=5,
    )
    emulator: Emulator = exchange.emulator(source)
    return emulator


def snapshot_limit(options: Options) -> int:
    """Levels a side that the recorder asks for."""
    return options.snapshot_limit


def feed_options(options: Options) -> dict[str, str]:
    """Settings of the feed."""
    return {"snapshot_limit": str(options.snapshot_limit)}


def depth_url(run: Run, symbol: str) -> str:
    """The request for the whole book."""
    limit = TRUTH_LEVELS[run.options.market]
    return depth_request(run.exchange.market, run._endpoints(), symbol, limit).url


def store(disk: Disk, clock: Any, options: Options) -> ParquetStore:
    """The Parquet store with small limits."""
    limits = WriterOptions(roll_interval=int(options.roll_every * SECOND), roll_bytes=options.roll_bytes)
    return ParquetStore(disk=disk, clock=clock, options=limits)


def open_parquet_writer(disk: Disk, run: Run) -> Any:
    """Open the store for writing, as a new process does."""
    return store(disk, run.clock, run.options).writer(LOCATION)


def open_parquet_reader(disk: Disk) -> Any:
    """Open the store for reading."""
    return ParquetStore(disk=disk).reader(LOCATION)


def read_parquet(disk: Disk) -> dict[str, list[Record]]:
    """Every row of every table, by the reader."""
    with ParquetStore(disk=disk).reader(LOCATION) as reader:
        return {table: list(reader.records(table)) for table in TABLES}


def verify_parquet(disk: Disk) -> list[str]:
    """What the store's own check finds."""
    return [f"{problem.kind} {problem}" for problem in verify(LOCATION, disk=disk)]
