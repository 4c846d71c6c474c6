"""Fixtures of the store's tests; what they share besides is in parquet_models.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def location(tmp_path: Path) -> str:
    return str(tmp_path / "store")
