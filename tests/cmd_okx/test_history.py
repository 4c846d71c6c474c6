"""Two days of history through the real archiver, over sockets: bulk files and REST give the same rows."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from okx_session import simulated

from cmd_archiver.command import archive
from cmd_common.commands import ArchiveOptions, LogReporter
from cmd_common.io import open_reader
from cmd_common.records import Candle, Gap, Trade
from cmd_common.seams import SystemClock, system_rng
from cmd_feed.net import SystemNet
from cmd_replay.host import Host

SECOND = 1_000_000_000
SYMBOLS = ("BTC-USDT", "ETH-USDT-SWAP")
NAMES = ("BTC-USDT", "ETH-USDT-PERP")


class Later(SystemClock):
    """A clock that shows the day after the simulated history, so that REST still reaches it."""

    def now(self) -> int:
        return int(datetime(2026, 3, 5, 1, tzinfo=UTC).timestamp()) * SECOND


def rows(store: Path, table: str) -> list[Any]:
    reader = open_reader(f"parquet:{store}")
    return [r for symbol in SYMBOLS for r in reader.records(table, venue="okx", symbols=[symbol])]


async def archived(host: Host, store: Path, **options: Any) -> dict[str, Any]:
    net = SystemNet()
    try:
        result = await archive(
            ArchiveOptions(
                exchanges=("okx",),
                symbols=SYMBOLS,
                start=date(2026, 3, 2),
                end=date(2026, 3, 3),
                store=f"parquet:{store}",
                endpoints={"okx": host.endpoint},
                **options,
            ),
            LogReporter(),
            net,
            Later(),
            system_rng(),
        )
    finally:
        await net.close()
    return result.summary


@pytest.mark.parametrize("fault", ["", "rate_limit:at=3,ms=1000"])
async def test_bulk_files_and_rest_give_the_same_rows(tmp_path: Path, fault: str) -> None:
    start = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()) * SECOND
    faults = [fault] if fault else []
    emulator = simulated(*faults, symbol_names=NAMES, start=start, history_days=3, history_trades=240, speed=1)
    async with Host(emulator, "127.0.0.1", 0) as host:
        # All days at once: neighbours of UTC+8 share their files.
        files = await archived(host, tmp_path / "files", types=("trades",), source="files", parallel=8)
        assert (files["files"], files["rows"], files["failed"], files["gaps"]) == (4, {"trades": 960}, 0, 0)
        rest = await archived(host, tmp_path / "rest", types=("trades", "candles"), intervals=("1h",), source="rest")
        assert (rest["rows"], rest["failed"], rest["gaps"]) == ({"trades": 960, "candles": 96}, 0, 0)
        again = await archived(host, tmp_path / "rest", types=("trades", "candles"), intervals=("1h",), source="rest")
        assert (again["rows"], again["unchanged"]) == ({}, 8)

    def plain(store: Path) -> list[Any]:
        return [
            (r.symbol, r.ts_event, r.trade_id, r.trade_seq, r.price, r.quantity, r.side)
            for r in rows(store, "trades")
            if isinstance(r, Trade)
        ]

    found = plain(tmp_path / "files")
    assert found == plain(tmp_path / "rest")
    expected = [
        (symbol, t.ts // 10**6 * 10**6, str(t.id))
        for symbol in SYMBOLS
        for day in (date(2026, 3, 2), date(2026, 3, 3))
        for t in emulator.market.day_trades(symbol, day)
    ]
    assert sorted(r[:3] for r in found) == sorted(expected)
    candles = [r for r in rows(tmp_path / "rest", "candles") if isinstance(r, Candle)]
    volume = sum(c.volume for c in candles if c.symbol == "BTC-USDT")
    assert volume == pytest.approx(sum(r[5] for r in found if r[0] == "BTC-USDT"))
    assert [r for r in rows(tmp_path / "rest", "gaps") if isinstance(r, Gap)] == []
