"""The quarantine: every kind of value kept as text, bounded, told of, never in the way."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cmd_questdb.quarantine import Quarantine


class Clock:
    def now(self) -> int:
        return 42

    def monotonic(self) -> int:
        return 0

    async def sleep(self, ns: int) -> None:
        raise NotImplementedError


def test_a_row_is_kept_with_its_reason_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quarantine = Quarantine(tmp_path / "q", clock=Clock())
    row = {"venue": "v", "symbol": "S", "price": float("nan"), "n": -(2**63), "bids": [float("inf"), 1.5], "none": None}
    with caplog.at_level(logging.WARNING, "cmd_questdb"):
        quarantine.put("trades", "price", "not a number", row)
    quarantine.sync()
    (kept,) = quarantine.rows()
    assert (kept.time, kept.table, kept.column, kept.reason) == (42, "trades", "price", "not a number")
    assert kept.row == {
        "venue": "v", "symbol": "S", "price": "nan", "n": -(2**63), "bids": ["inf", 1.5], "none": None,
    }  # fmt: skip
    assert "trades.price (v S) was not stored: not a number" in caplog.text
    assert str(quarantine.path) in caplog.text


def test_it_is_bounded_and_goes_on_counting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quarantine = Quarantine(tmp_path, limit=1_000)
    with caplog.at_level(logging.WARNING, "cmd_questdb"):
        for i in range(2_000):
            quarantine.put("trades", "", "no", {"trade_id": str(i)})
    assert quarantine.count == 2_000
    assert quarantine.path.stat().st_size <= 1_000
    assert quarantine.dropped == 2_000 - len(quarantine.rows())
    assert len(caplog.records) == 20 + 2  # the first 20, and every 1000th


def test_a_folder_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    quarantine = Quarantine(tmp_path / "file" / "q")
    quarantine.put("trades", "price", "no", {"price": 1.0})
    quarantine.sync()
    assert (quarantine.count, quarantine.dropped) == (1, 1)
    assert "could not be kept" in quarantine.last
    assert Quarantine(tmp_path / "absent").rows() == []
