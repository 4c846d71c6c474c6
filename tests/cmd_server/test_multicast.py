"""Multicast between the real server and real clients, each scenario in a network namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from multicast_children import SCENARIOS, isolated

CHILD = Path(__file__).with_name("multicast_children.py")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_multicast(scenario: str) -> None:
    done = subprocess.run(
        [*isolated(), sys.executable, "-W", "error", str(CHILD), scenario],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stdout + done.stderr
