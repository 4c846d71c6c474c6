"""A process is killed by SIGKILL: everything that it had logged is read, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from log_kit import in_order, records_of
from tests.tally import amount, note

from cmd_common.log import Follower, Logger, Record
from cmd_common.log.layout import PAGE

CHILD = Path(__file__).parent / "log_child.py"
Make = Callable[[], Logger]
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is needed")


def killed(folder: Path, kind: str, policy: str, thread: str, seconds: float) -> int:
    """Let a child log for a while, kill it, and return how many records it had logged."""
    progress = folder / "progress"
    progress.write_bytes(bytes(8))
    env = {k: v for k, v in os.environ.items() if k != "CMD_PURE"} | ({"CMD_PURE": "1"} if kind == "pure" else {})
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(folder / "a.log"), str(progress), policy, thread], env=env
    )
    until = time.monotonic() + 60
    while int.from_bytes(progress.read_bytes(), "little") == 0:
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.001)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    return int.from_bytes(progress.read_bytes(), "little")


def numbers(records: list[Record]) -> list[int]:
    for record in records:
        n = int(record.values[0])
        expected = (n, 2 * n, n / 2) if n % 10 else (n, f"number {n} of many")
        assert record.values == expected
    return [int(r.values[0]) for r in records]


@pytest.mark.parametrize("seed", range(amount(3, 24)))
@pytest.mark.parametrize("thread", ["thread", "none"])
@pytest.mark.parametrize("writer", ["pure", "native"])
def test_all_that_was_logged_is_read(kind: str, tmp_path: Path, writer: str, thread: str, seed: int) -> None:
    logged = killed(tmp_path, writer, "block", thread, random.Random(seed).uniform(0, 0.1))
    records, reader = records_of(tmp_path / "a.log")
    found = numbers(records)
    assert found[:logged] == list(range(1, logged + 1))
    assert len(found) <= logged + 1  # the last call may not have come back
    assert reader.lost == []
    assert reader.open_ends == 1
    assert all(r.checked for r in records) or writer == "pure"
    assert in_order(records)
    assert 0 <= time.time_ns() - records[-1].ts < 60_000_000_000
    note("kills", 1, "log")


@pytest.mark.parametrize("writer", ["pure", "native"])
def test_the_next_open_writes_it_into_the_log(make: Make, tmp_path: Path, writer: str) -> None:
    logger = make()
    two = logger.event("two", "{n:i8}")
    logged = killed(tmp_path, writer, "block", "thread", 0.02)
    for n in (logged + 1, logged + 2):  # twice: what was written is not written again
        with logger.open(tmp_path / "a.log"):
            two(n)
    records, reader = records_of(tmp_path / "a.log")
    own = [r for r in records if r.event.name != "two"]
    assert numbers(own)[:logged] == list(range(1, logged + 1))
    assert len(own) <= logged + 1
    assert reader.lost == []
    assert [r.values[0] for r in records if r.event.name == "two"] == [logged + 1, logged + 2]
    assert not (tmp_path / "a.log.ring").exists()


@pytest.mark.parametrize("writer", ["pure", "native"])
def test_a_flight_recorder_keeps_the_last_records(kind: str, tmp_path: Path, writer: str) -> None:
    logged = killed(tmp_path, writer, "overwrite", "none", 0.05)
    records, reader = records_of(tmp_path / "a.log")
    small = [n for n in numbers(records) if n % 10]
    assert small[-1] >= logged - 1
    assert len(small) >= 1024 - 1024 // 4 - 1
    assert small == [n for n in range(small[0], small[-1] + 1) if n % 10]
    assert all("overwritten" in lost.what for lost in reader.lost)
    assert reader.lost


def test_a_text_log_gets_what_was_in_the_ring(make: Make, tmp_path: Path) -> None:
    logger = make()
    one = logger.event("one", "{n:i8}")
    logger.open(tmp_path / "a.log", format="text", thread=False)
    one(1)
    logger.flush()
    one(2)
    copy = (tmp_path / "a.log.ring").read_bytes()
    logger.close()
    (tmp_path / "a.log").write_text((tmp_path / "a.log").read_text().splitlines(keepends=True)[0])
    (tmp_path / "a.log.ring").write_bytes(copy)  # as if it had been killed before the second was drained
    with logger.open(tmp_path / "a.log", format="text"):
        one(3)
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["1", "2", "3"]


@pytest.mark.parametrize("torn", [1, 3, 4, 8, 20, 64])
def test_a_record_that_was_being_written_is_not_read(make: Make, tmp_path: Path, torn: int) -> None:
    logger = make()
    one = logger.event("one", "{n:i8} {twice:i8} {half:f8}")
    logger.open(tmp_path / "a.log", thread=False)
    for n in range(1, 10):
        one(n, 2 * n, n / 2)
    data = bytearray((tmp_path / "a.log.ring").read_bytes())
    log = (tmp_path / "a.log").read_bytes()
    logger.close()
    end = PAGE + 9 * 64
    data[end - torn : end] = bytes(torn)  # the end of the ninth record was not reached
    (tmp_path / "a.log.ring").write_bytes(data)
    (tmp_path / "a.log").write_bytes(log)
    records, reader = records_of(tmp_path / "a.log")
    wanted = list(range(1, 9))
    if torn < 4:  # the number is there but for its empty upper bytes, as before
        wanted.append(9)
    assert numbers(records) == wanted
    assert reader.lost == []


def test_a_log_is_followed_over_rotations_and_death(kind: str, tmp_path: Path) -> None:
    follower = Follower(tmp_path / "a.log")
    assert list(follower.poll()) == []
    logger = Logger()
    one = logger.event("one", "{n:i8}")
    found: list[int] = []

    def look() -> None:
        found.extend(int(r.values[0]) for batch in follower.poll() for r in follower.known(batch))

    logger.open(tmp_path / "a.log", thread=False, rotate_bytes=1000, keep=0)
    for n in range(200):
        one(n)
        if n % 3 == 0:
            logger.flush()
        if n % 17 == 0:
            look()
    ring, log = (tmp_path / "a.log.ring").read_bytes(), (tmp_path / "a.log").read_bytes()
    one(200)
    ring = (tmp_path / "a.log.ring").read_bytes()
    logger.close()
    (tmp_path / "a.log.ring").write_bytes(ring)
    (tmp_path / "a.log").write_bytes(log)
    for _ in range(5):
        look()
    assert found == list(range(201))
    assert follower.lost == []
    with logger.open(tmp_path / "a.log", thread=False):
        one(201)
    look()
    assert found == list(range(202))
    follower.close()
