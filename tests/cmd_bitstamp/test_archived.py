"""Bitstamp's history through the real archiver, over sockets."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from cmd_archiver.command import archive
from cmd_bitstamp import BITSTAMP
from cmd_bitstamp.emulator import BitstampEmulator
from cmd_common.commands import ArchiveOptions, LogReporter
from cmd_common.io import open_reader
from cmd_common.records import Candle, Gap, Trade
from cmd_common.seams import SystemClock, system_rng
from cmd_common.testing.session import simulated
from cmd_feed.net import SystemNet
from cmd_replay.host import Host

SECOND = 1_000_000_000
START = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()) * SECOND


class Now(SystemClock):
    """A clock that shows the simulated time."""

    def now(self) -> int:
        return START + SECOND


async def archived(host: Host, store: Path, **options: Any) -> dict[str, Any]:
    net = SystemNet()
    try:
        made = ArchiveOptions(
            exchanges=("bitstamp",),
            symbols=("BTCUSD",),
            store=f"parquet:{store}",
            endpoints={"bitstamp": host.endpoint},
            **options,
        )
        result = await archive(made, LogReporter(), net, Now(), system_rng())
    finally:
        await net.close()
    return result.summary


async def test_two_days_of_candles_and_what_is_left_of_the_trades(tmp_path: Path) -> None:
    made = simulated(
        BITSTAMP, "rate_limit:at=2,ms=1000", symbols=1, start=START, history_days=3, history_trades=1440, speed=1
    )
    emulator = BitstampEmulator(made)
    store = tmp_path / "store"
    days = {"start": date(2026, 3, 2), "end": date(2026, 3, 3)}
    async with Host(emulator, "127.0.0.1", 0) as host:
        first = await archived(host, store, types=("candles",), intervals=("1m", "1h"), **days)
        assert (first["rows"], first["failed"], first["gaps"]) == ({"candles": 2880 + 48}, 0, 0)
        again = await archived(host, store, types=("candles",), intervals=("1m", "1h"), **days)
        assert (again["rows"], again["unchanged"]) == ({}, 4)
        half = await archived(host, store, types=("trades",), start=date(2026, 3, 3), end=date(2026, 3, 3))
        assert half["failed"] == 0
        assert half["gaps"] == 1
    reader = open_reader(f"parquet:{store}")
    trades = [r for r in reader.records("trades", venue="bitstamp") if isinstance(r, Trade)]
    truth = emulator.market.day_trades("BTCUSD", date(2026, 3, 3))
    assert {t.trade_id for t in trades} <= {str(t.id) for t in truth}
    assert 700 <= len(trades) <= 740  # from noon on
    (gap,) = [r for r in reader.records("gaps", venue="bitstamp") if isinstance(r, Gap)]
    assert gap.record_type == "trades"
    assert gap.ts_from == START - 36 * 3600 * SECOND  # midnight
    assert START - 24 * 3600 * SECOND <= gap.ts_to <= START - 24 * 3600 * SECOND + 60 * SECOND
    hours = [c for c in reader.records("candles", venue="bitstamp") if isinstance(c, Candle) and c.interval == "1h"]
    afternoon = sum(c.volume for c in hours if c.open_time >= START - 24 * 3600 * SECOND)
    assert afternoon == pytest.approx(sum(t.quantity for t in trades), rel=0.01)
