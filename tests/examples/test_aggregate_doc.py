"""The recipes of docs/aggregate.md, and that of docs/library.md, run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "aggregate.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SQL = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
LIBRARY = re.findall(r"```python\n(.*?)```", (DOCS / "library.md").read_text(encoding="utf-8"), re.DOTALL)
CLI = str(Path(sysconfig.get_path("scripts")) / "cmd-cli")
VENUES = "binance-spot,binance-usdm"


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, str]]:
    process = subprocess.Popen(
        [CLI, "replay", "--exchange", VENUES, "--simulate", "--symbols", "1", "--speed", "5"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = [json.loads(process.stdout.readline()) for _ in VENUES.split(",")]
        yield {facts["venue"]: facts["endpoint"] for facts in ready}
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


def python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_book_in_a_program(tmp_path: Path) -> None:
    lines = python(PYTHON[0], tmp_path).splitlines()
    assert lines[0] == "101.0 1.0 [('binance-spot:BTCUSDT', 101.0, 1.0)]"
    assert lines[1].endswith("1.0 [('kraken:BTC/USDT', 101.5, 1.0)]")
    assert "{'binance-spot:BTCUSDT': 1.0, 'kraken:BTC/USDT': 0.5} 0.0" in lines[4]
    assert lines[5] == "{'binance-spot:BTCUSDT': 'old', 'kraken:BTC/USDT': 'old'}"


def test_a_session(endpoints: dict[str, str]) -> None:
    code = LIBRARY[2].replace('store=""', f'store="", endpoints={endpoints}')
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(40)]
    process.terminate()
    process.wait(timeout=20)
    process.stdout.close()
    assert all("binance-" in line for line in lines), lines


def test_stored_rows_are_unpacked(endpoints: dict[str, str], tmp_path: Path) -> None:
    subprocess.run(
        [CLI, "record", "--exchange", VENUES, "--symbols", "BTC-USDT", "--types", "aggregate", "--store", "parquet:data",
         "--endpoint", ",".join(f"{v}={u}" for v, u in endpoints.items()), "--duration", "2s"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert python(PYTHON[1], tmp_path).startswith("bid quantity of each row: [")
    done = subprocess.run(
        [CLI, "query", SQL[0], "--store", "parquet:data", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 10
    assert {row["venue"] for row in rows} <= {"binance-spot:BTCUSDT", "binance-usdm:BTCUSDT"}
    assert all(row["price"] > 0 and row["quantity"] > 0 for row in rows)
