"""The examples of raw Aeron run as they stand, each in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import require

EXAMPLES = Path(__file__).parents[2] / "examples" / "aeron"
TIMEOUT = 120


@pytest.fixture
def directory() -> Iterator[str]:
    require("aeron", find_spec("cmd_aeron") is not None, "build and install packages/cmd-aeron")
    shared = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="cmd-aeron-example-", dir=shared if shared.is_dir() else None)
    yield f"{folder}/aeron"
    shutil.rmtree(folder, ignore_errors=True)


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_price_arrives(directory) -> None:
    options = ("--dir", directory, "--count", "50000")
    publisher, subscriber = start("publish.py", *options), start("subscribe.py", *options, "--idle", "low-cpu")
    try:
        received, wrong = subscriber.communicate(timeout=TIMEOUT)
        assert (subscriber.returncode, wrong) == (0, "")
        sent, told = publisher.communicate(timeout=TIMEOUT)
        assert publisher.returncode == 0
        assert told == f"waiting for a subscriber in {directory}\n"
    finally:
        for process in (publisher, subscriber):
            process.kill()
            process.communicate()
    assert received.startswith("50000 prices, 0 lost, half of them within ")
    assert sent.startswith("50000 prices, 3200000 bytes, ")
    assert not Path(directory).exists()
