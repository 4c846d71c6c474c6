"""The recipes of docs/library.md run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
CLI = str(Path(sysconfig.get_path("scripts")) / "cmd-cli")


@pytest.fixture
def endpoint():
    process = subprocess.Popen(
        [CLI, "replay", "--exchange", "binance-spot", "--simulate", "--symbols", "1", "--speed", "5"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["endpoint"]
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


def test_live_records_and_queries(endpoint: str, tmp_path: Path) -> None:
    live = BLOCKS[0].replace('store=""', f'store="", endpoints={{"": "{endpoint}"}}')
    process = subprocess.Popen([sys.executable, "-u", "-c", live], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    process.wait(timeout=20)
    process.stdout.close()
    assert all(line.startswith("(") for line in lines), lines

    subprocess.run(
        [CLI, "record", "--exchange", "binance-spot", "--symbols", "all", "--types", "trades,book,candles", "--store",
         "parquet:data", "--endpoint", endpoint, "--duration", "3s"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", BLOCKS[1]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
