"""The command against the archive of Binance's own emulator, served by cmd-replay."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
from archive_kit import (
    DAY,
    NEXT,
    Lines,
    rows,
)

from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK
from cmd_common.io import open_reader


@pytest.fixture
def replay(recordings):
    """Serve Binance's own emulator on loopback; returns a function from options to the endpoint."""
    import asyncio
    import threading

    from cmd_common.commands import ReplayOptions
    from cmd_replay.command import serve

    stops = []

    def start(**options: Any) -> str:
        ready: list[str] = []
        begun = threading.Event()

        class Ready(Lines):
            def ready(self, facts: Mapping[str, Any]) -> None:
                ready.append(facts["endpoint"])
                begun.set()

        loop = asyncio.new_event_loop()

        async def main() -> None:
            task = asyncio.ensure_future(serve(ReplayOptions(("binance-spot",), **options), Ready()))
            stops.append((loop, task, thread))
            try:
                await task
            except asyncio.CancelledError:
                pass

        def body() -> None:
            loop.run_until_complete(main())
            loop.close()

        thread = threading.Thread(target=body)
        thread.start()
        assert begun.wait(20)
        return ready[0]

    yield start
    for loop, task, thread in stops:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)


def test_the_emulator_s_archive_of_a_recording(go, store, replay, recordings, recorded):
    names = ("hft_btcusdt_20240808", "hft_btcusdt_20240809")
    url = replay(recordings=tuple(str(recordings / "binance_spot" / f"{n}.ndjson.gz") for n in names))
    result, _ = go(endpoints={"": url})
    assert (result.exit_code, result.summary["rows"]) == (EXIT_OK, {"trades": 19_904})
    with open_reader(store) as reader:
        stored = [(r.trade_seq, r.ts_event, r.price, r.quantity, r.side) for r in reader.records("trades")]
    assert stored == [
        (i, t * 1_000_000, float(p), float(q), "sell" if m else "buy")
        for d in (DAY, NEXT)
        for i, p, q, t, m in recorded[d]
    ]


def test_the_emulator_s_simulated_archive_with_all_types(go, store, replay):
    begin = 1_748_736_000_000_000_000  # 2025-06-01: microseconds
    url = replay(simulate=True, symbols=2, seed=5, start=begin, history_days=2)
    day = date(2025, 5, 30)
    options = {
        "symbols": ("all",),
        "types": ("trades", "agg_trades", "candles"),
        "start": day,
        "end": date(2025, 5, 31),
    }
    result, lines = go(endpoints={"": url}, compare=True, **options)
    assert result.summary["failed"] == 0, lines.warnings
    assert result.exit_code == EXIT_OK, (result.summary, lines.warnings)
    assert result.summary["files"] == 2 * 2 * 3
    for compared in result.summary["comparison"].values():
        assert compared["different"] == 0
        assert compared["equal"] > 1000
    again, _ = go(endpoints={"": url}, compare=True, **options)
    assert (again.summary["files"], again.summary["unchanged"]) == (0, 12)
    assert rows(store, "SELECT max(ts_event % 1000000) > 0 FROM trades") == [(True,)]


@pytest.mark.parametrize(
    ("fault", "exit_code", "word"),
    [
        ("bad_checksum", EXIT_FAILED, "SHA-256"),
        ("truncated_zip", EXIT_FAILED, ""),
        ("missing_day", EXIT_GAPS, "missing"),
    ],
)
def test_the_emulator_s_faults(go, store, replay, fault, exit_code, word):
    from cmd_common.emulation import Fault

    url = replay(
        simulate=True, symbols=1, seed=5, start=1_748_736_000_000_000_000, faults=(Fault(fault, {"day": "2025-05-30"}),)
    )
    result, lines = go(endpoints={"": url}, symbols=("all",), start=date(2025, 5, 30), end=date(2025, 5, 31))
    assert result.exit_code == exit_code, (result.summary, lines.warnings)
    assert any(word in w and "2025-05-30" in w for w in lines.warnings)
    assert result.summary["files"] == 1
    days = rows(store, "SELECT DISTINCT ts_event // 86400000000000 FROM trades")
    assert days == [((date(2025, 5, 31) - date(1970, 1, 1)).days,)]
