"""A day of one market with scripted faults, on virtual time: what was recorded, what happened, and when what was broken.

It is the world of ``sim_run`` with a script in place of a seed's rates, and it lasts a whole UTC day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import sim_checks
from sim_options import SECOND, Options
from sim_run import ParquetBackend, Run

from cmd_common.testing.simnet import NetFaults

START = 1_748_908_800 * SECOND  # 2025-06-03 00:00 UTC
LENGTH = 86_400 - 45  # virtual seconds; the rest is for the end
RECOVERY = 240  # seconds after a fault in which what it broke is mended


class Window(NamedTuple):
    """One fault: its name, and when it was, seconds of the day."""

    name: str
    at: float
    until: float

    def holds(self, low: int, high: int) -> bool:
        """Whether a stretch (ns) has to do with it: it lies within the fault or the time that its repair takes."""
        return low <= START + int((self.until + RECOVERY) * SECOND) and high >= START + int((self.at - 5) * SECOND)


class DayRun(Run):
    """A day; ``windows`` are its faults in order."""

    def __init__(self, seed: int = 1, *, length: float = LENGTH, rate: float = 1.0) -> None:
        options = Options(
            seed=seed, store="parquet", rate=rate, levels=40, snapshot_limit=100, snapshot_every=900.0, roll_every=1800.0,
            faults_for=length,
        )  # fmt: skip
        super().__init__(options, START, limit=2 * 86_400 * SECOND, steps=50_000_000)
        self.length = length
        self.windows: list[Window] = []
        self.faulty = True

    def _plan(self) -> None:
        assert isinstance(self.backend, ParquetBackend)
        disk, net, later = self.backend.disk, self.net, self.loop.call_later

        def during(seconds: float, on: Callable[[], None], off: Callable[[], None]) -> Callable[[], None]:
            def begin() -> None:
                on()
                later(seconds, off)

            return begin

        def rates(seconds: float, *, reset: bool = False, **values: float) -> Callable[[], None]:
            def on() -> None:
                net.faults = NetFaults(**values)
                if reset:
                    net.reset_all()

            return during(seconds, on, lambda: setattr(net, "faults", NetFaults()))

        def broken_disk(seconds: float, kind: str) -> Callable[[], None]:
            return during(seconds, lambda: disk.rates.update({kind: 1.0}), disk.rates.clear)  # type: ignore[dict-item]

        def banned() -> None:
            net.ban(120 * SECOND)
            net.reset_all()

        def power() -> None:
            disk.crash()
            disk.dead = True  # so that `die` does not choose
            self.die("power failure")

        hour = 3600.0
        script: list[tuple[str, float, float, Callable[[], None]]] = [
            ("disconnect", 0.7 * hour, 0, net.reset_all),
            ("partition", 2 * hour, 90, lambda: net.partition(90 * SECOND)),
            ("drops", 3 * hour, 20, rates(20, drop=0.6)),
            ("malformed", 4 * hour, 5, rates(5, malformed=0.6)),
            ("torn messages", 5 * hour, 5, rates(5, split=0.6)),
            ("silence", 6 * hour, 100, rates(100, drop=1.0)),
            ("connections refused", 7 * hour, 60, rates(60, refuse=1.0, reset=1.0)),
            ("24 h limit", 8 * hour, 0, net.reset_all),
            ("store outage", 9 * hour, 40, broken_disk(40, "eio")),
            ("disk full", 10 * hour, 40, broken_disk(40, "enospc")),
            ("kill -9", 11 * hour, 0, lambda: self.die("by plan")),
            ("power failure", 12 * hour, 0, power),
            ("kill in a write", 13 * hour, 5, lambda: disk.faults.update({disk.ops + 3: "kill"})),
            ("ban", 14 * hour, 120, banned),
            ("rate limit", 15 * hour, 60, rates(60, reset=True, rate_limit=1.0)),
            ("broken snapshots", 16 * hour, 60, rates(60, reset=True, request=1.0)),
        ]
        for name, at, seconds, action in script:
            if at + seconds + RECOVERY < self.length:
                self.windows.append(Window(name, at, at + seconds))
                later(at, action)

    def _again(self) -> None:
        # A supervisor takes its time, so that what happens meanwhile is missed.
        self.loop.call_later(20, super()._again)

    async def _scenario(self) -> None:
        self.main = asyncio.current_task()
        self.spy()
        self.backend.faults(False)
        self._plan()
        self.start()
        await asyncio.sleep(self.length)
        sim_checks.books(self)
        self.ending = True
        session = self.session
        assert session is not None
        await session.stop()
        if self.life is not None:
            await asyncio.wait([self.life])

    def save(self, folder: Path) -> None:
        """Write the store that the recorder left to a real folder."""
        assert isinstance(self.backend, ParquetBackend)
        for path, inode in self.backend.disk._files.items():
            target = folder / path.removeprefix("/store/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bytes(inode.data))
