"""Multicast between the real server and real clients, each scenario in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from multicast_children import SCENARIOS

CHILD = Path(__file__).with_name("multicast_children.py")


def isolated() -> list[str]:
    """The command that runs another without any network but its own loopback; skips where there is none."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is missing; install util-linux")
    command = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--net"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no network namespace; allow user namespaces or run as root")
    return command


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
