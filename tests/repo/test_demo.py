"""The demo's script, as far as it can go wrong without running the whole job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "deploy" / "demo.py"


@pytest.mark.parametrize("store", ["parquet", "questdb"])
@pytest.mark.parametrize("name", ["folder", "folder/notes.txt"])
def test_what_is_not_a_store_is_never_replaced(tmp_path: Path, name: str, store: str) -> None:
    notes = tmp_path / "folder" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("kept")
    done = subprocess.run(
        [sys.executable, str(DEMO), "--data", str(tmp_path / name), "--store", store],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "is not a store" in done.stderr
    assert "Traceback" not in done.stderr
    assert notes.read_text() == "kept"
