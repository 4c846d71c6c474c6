"""Two days of Gemini's history through the real archiver, over sockets."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from cmd_archiver.command import archive
from cmd_common.commands import ArchiveOptions, LogReporter
from cmd_common.io import open_reader
from cmd_common.records import Candle, Gap, Trade
from cmd_common.seams import SystemClock, system_rng
from cmd_common.testing.session import simulated
from cmd_feed.net import SystemNet
from cmd_gemini import GEMINI
from cmd_gemini.emulator import GeminiEmulator
from cmd_replay.host import Host

SECOND = 1_000_000_000


class Newest(GeminiEmulator):
    """Pages behind an id hold the newest trades."""

    newest_behind_tid = True


class Later(SystemClock):
    """A clock that shows the day after the simulated history, so that REST still reaches it."""

    def now(self) -> int:
        return int(datetime(2026, 3, 5, 1, tzinfo=UTC).timestamp()) * SECOND


async def archived(host: Host, store: Path, **options: Any) -> dict[str, Any]:
    net = SystemNet()
    try:
        made = ArchiveOptions(
            exchanges=("gemini",),
            symbols=("BTCUSD",),
            start=date(2026, 3, 2),
            end=date(2026, 3, 3),
            store=f"parquet:{store}",
            endpoints={"gemini": host.endpoint},
            **options,
        )
        result = await archive(made, LogReporter(), net, Later(), system_rng())
    finally:
        await net.close()
    return result.summary


async def test_two_days_are_complete_though_pages_hold_the_newest_trades(tmp_path: Path) -> None:
    # The other direction of pages is walked in test_history, without the exchange's limit of two requests a second.
    start = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()) * SECOND
    made = simulated(
        GEMINI, "rate_limit:at=2,ms=1000", symbols=1, start=start, history_days=3, history_trades=540, speed=1
    )
    emulator = Newest(made)
    store = tmp_path / "store"
    async with Host(emulator, "127.0.0.1", 0) as host:
        first = await archived(host, store, types=("trades", "candles"), intervals=("1h",))
        assert (first["rows"], first["failed"], first["gaps"]) == ({"trades": 1080, "candles": 48}, 0, 0)
        again = await archived(host, store, types=("trades", "candles"), intervals=("1h",))
        assert (again["rows"], again["unchanged"]) == ({}, 4)
    reader = open_reader(f"parquet:{store}")
    trades = [r for r in reader.records("trades", venue="gemini") if isinstance(r, Trade)]
    expected = [
        (t.ts // 10**6 * 10**6, str(t.id), t.side)
        for day in (date(2026, 3, 2), date(2026, 3, 3))
        for t in emulator.market.day_trades("BTCUSD", day)
    ]
    assert sorted((t.ts_event, t.trade_id, t.side) for t in trades) == sorted(expected)
    candles = [r for r in reader.records("candles", venue="gemini") if isinstance(r, Candle)]
    assert sum(c.volume for c in candles) == pytest.approx(sum(t.quantity for t in trades))
    assert [r for r in reader.records("gaps", venue="gemini") if isinstance(r, Gap)] == []
