"""Locks between owners: taken once, free after release, and gone with a killed process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cmd_common import filelock

HOLD = """
import sys
from cmd_common import filelock
assert filelock.take(sys.argv[1]) is not None
print("held", flush=True)
sys.stdin.read()
"""


def test_one_owner_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    path = str(tmp_path / "a.lock")
    fd = filelock.take(path)
    assert fd is not None
    assert filelock.take(path) is None  # in the same process too
    filelock.give_back(fd, path)
    assert os.name == "nt" or not os.path.exists(path)
    again = filelock.take(path)
    assert again is not None
    filelock.give_back(again, path)


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "a.lock")
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        assert filelock.take(path) is None
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    fd = filelock.take(path)
    assert fd is not None
    filelock.give_back(fd, path)
