"""``cmd-cli log``: what is shown, what is left out, what is said of losses; following a living log."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmd_common.log import Logger

from .conftest import Ran, finish, start


@pytest.fixture
def log() -> Path:
    """A log of two events."""
    logger = Logger()
    sent = logger.event("order.sent", "sent {price:f8} {n:i8}")
    late = logger.event("order.late", "{ns:i8} ns late: {why:s20}", "warning")
    with logger.open("app.cmdlog"):
        for n in range(20):
            sent(101.5, n)
        late(1500, "network")
    return Path("app.cmdlog")


def test_decode(run: Callable[..., Ran], log: Path) -> None:
    ran = run("log", "decode", str(log))
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert len(lines) == 21
    assert lines[3].split(" ", 1)[1] == "INFO order.sent sent 101.5 3"
    assert lines[20].split(" ", 1)[1] == "WARNING order.late 1500 ns late: network"


def test_decode_as_json(run: Callable[..., Ran], log: Path) -> None:
    for args in (["--json"], ["--format", "json"]):
        rows = [json.loads(line) for line in run("log", "decode", str(log), *args).out.splitlines()]
        assert rows[3]["fields"] == {"price": 101.5, "n": 3}
        assert rows[20]["level"] == "WARNING"


def test_filters(run: Callable[..., Ran], log: Path) -> None:
    def count(*args: str) -> int:
        return len(run("log", "decode", str(log), *args).out.splitlines())

    assert count("--level", "warning") == 1
    assert count("--event", "order.s*") == 20
    assert count("--event", "order.s*", "order.late") == 21
    assert count("--event", "order.s*,order.late") == 21
    assert count("--event", "none") == 0
    assert count("--start", "2024-01-01") == 21
    assert count("--end", "2024-01-01") == 0
    assert count("--start", "2999-01-01") == 0


def test_stats(run: Callable[..., Ran], log: Path) -> None:
    ran = run("log", "stats", str(log), "--json")
    stats = json.loads(ran.out)
    assert ran.code == 0
    assert (stats["records"], stats["files"], stats["sessions"], stats["not_closed"]) == (21, 1, 1, 0)
    assert stats["events"] == {"order.sent": 20, "order.late": 1}
    assert stats["levels"] == {"INFO": 20, "WARNING": 1}
    assert stats["lost"] == []
    assert "order.sent" in run("log", "stats", str(log)).out


def test_what_is_lost_is_said_and_is_exit_code_three(run: Callable[..., Ran], log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[-200] ^= 1
    log.write_bytes(data)
    ran = run("log", "decode", str(log))
    assert (ran.code, ran.out) == (3, "")
    assert "app.cmdlog: damaged or cut" in ran.err
    assert "missing, 21 records" in ran.err
    assert run("log", "stats", str(log)).code == 3


def test_a_text_log_is_no_binary_one(run: Callable[..., Ran]) -> None:
    Path("x.log").write_text("hello\n")
    ran = run("log", "decode", "x.log")
    assert ran.code == 2
    assert ran.err == ("cmd-cli: error: x.log is no binary log; logs of format text and json are read as they are\n")


def test_tail(run: Callable[..., Ran], log: Path) -> None:
    assert len(run("log", "tail", str(log)).out.splitlines()) == 10
    assert run("log", "tail", str(log), "--lines", "0").out == ""
    (line,) = run("log", "tail", str(log), "--lines", "1", "--level", "warning").out.splitlines()
    assert line.endswith("network")


def test_tail_follows_over_rotation(log: Path) -> None:
    process = start("log", "tail", str(log), "--follow", "--lines", "1")
    assert process.stdout is not None
    assert process.stdout.readline().endswith("network\n")
    logger = Logger()
    more = logger.event("more", "{n:i8}")
    with logger.open(log, rotate_bytes=1500, keep=0, thread=False):
        for n in range(100):
            more(n)
            if n % 10 == 0:
                logger.flush()
                time.sleep(0.01)
    seen = [process.stdout.readline().split()[-1] for _ in range(100)]
    assert seen == [str(n) for n in range(100)]
    ran = finish(process, signal.SIGTERM)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert len(list(log.parent.glob("app.cmdlog.0*"))) > 2
