"""What the tests of the command share: a Reporter, looks into the store, and the command as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from cmd_common.io import open_reader

DAY, NEXT = date(2024, 8, 8), date(2024, 8, 9)


class Lines:
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.bars: dict[str, tuple[int, int | None]] = {}

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def ready(self, facts: Mapping[str, Any]) -> None:
        raise AssertionError("no server here")

    def progress(self, task: str, done: int, total: int | None, *, unit: str = "bytes") -> None:
        self.bars[task] = (done, total)


def rows(store: str, query: str) -> list[tuple[Any, ...]]:
    with open_reader(store) as reader:
        return list(reader.sql(query).rows())


def trades(store: str) -> list[tuple[Any, ...]]:
    return rows(store, "SELECT * FROM trades ORDER BY ts_event, venue, symbol, trade_seq")


def files_in(store: str, folder: str) -> list[str]:
    root = Path(store.partition(":")[2]) / folder
    return sorted(p.name for p in root.rglob("*") if p.is_file())


def publish(server, recorded, **options):
    return [server.add_trades(day, recorded[day], **options) for day in (DAY, NEXT)]


ARCHIVE = """
import json, sys
from datetime import date
from cmd_archiver.command import run
from cmd_common.commands import ArchiveOptions
class Lines:
    def info(self, m): print(m, file=sys.stderr, flush=True)
    warn = info
    def ready(self, f): pass
    def progress(self, task, done, total, *, unit="bytes"): print(task, done, total, file=sys.stderr, flush=True)
url, store, end = sys.argv[1:4]
result = run(ArchiveOptions(("binance-spot",), ("BTCUSDT",), ("trades", "candles"), date(2024, 8, 8),
             date.fromisoformat(end), store, candles="built", endpoints={"": url}, parallel=2), Lines())
print(json.dumps({"code": result.exit_code, **result.summary}))
"""


def start(server, store: str, end: date, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", ARCHIVE, server.url, store, end.isoformat()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def end_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def everything(store: str) -> tuple[Sequence[Any], ...]:
    return (
        trades(store),
        rows(store, "SELECT * FROM candles ORDER BY open_time, interval, source"),
    )
