"""cmd-cli status: the table of what runs, and real processes that live, end and are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from cmd_cli.status import age, as_json, details, row, shown
from cmd_common.processes import Found, Process, State

from .conftest import Ran, finish, replaying, start

S = 1_000_000_000


def found(command: str, state: State, started: int, store: str = "parquet:data", **more: Any) -> Found:
    phase = state if state in ("starting", "running", "stopping", "ended") else "ended"
    process = Process(command, 7, phase, started * S, started * S, store=store, **more)  # type: ignore[arg-type]
    return Found(process, state, f"/x/{command}-{started}.json")


def test_a_dead_one_is_shown_until_another_one_runs() -> None:
    killed, later = found("record", "killed", 1), found("record", "running", 2)
    jobs = [found("archive", "failed", 1), found("archive", "ended", 3), found("archive", "ended", 2)]
    other = found("archive", "failed", 1, "parquet:other")
    assert [f.state for f in shown([killed])] == ["killed"]
    assert shown([killed, later, *jobs, other]) == [later, jobs[1], other]
    assert len(shown([killed, later, *jobs, other], everything=True)) == 6
    two = [later, found("record", "stuck", 3)]
    assert [f.state for f in shown([*two, killed])] == ["stuck", "running"]


def test_a_line_of_the_table() -> None:
    running = found("record", "running", 10, words="recording trades", facts={"records": 1234, "books": {"LIVE": 2}})
    assert row(running, 75 * S) == ("record", "running", 7, "1m 5s", "recording trades", "records 1,234, books LIVE 2")
    failed = found("archive", "failed", 10, exit_code=1, error="the disk is full")
    assert row(failed, 20 * S) == ("archive", "failed (1)", "", "10s", "the disk is full", "")
    assert row(found("repair", "ended", 10), 10 * S)[3:5] == ("0s", "into parquet:data")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (-5, "0s"), (59, "59s"), (60, "1m"), (3_660, "1h 1m"), (86_400, "1d"), (90_061, "1d 1h")],
)
def test_ages(seconds: int, words: str) -> None:
    assert age(seconds * S) == words


def test_numbers_in_one_line() -> None:
    facts = {"connections": {"up": 1, "all": 2}, "queue": {"waiting": 1000, "limit": 200_000}, "rate_now": 2.5}
    assert details(facts) == "connections 1 of 2, queue 1,000 of 200,000, rate now 2.5"
    assert details({"books": {}, "said": "words", "error": "", "none": None}) == "said words"


def test_nothing_runs(run: Callable[..., Ran]) -> None:
    ran = run("status")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("nothing runs, as far as ")
    assert json.loads(run("status", "--json").out) == {"ok": True, "processes": []}


def wait_for(run: Callable[..., Ran], command: str, state: str) -> dict[str, Any]:
    """Wait until a process of this command has a state, and return what --json tells of it."""
    end = time.monotonic() + 60
    while True:
        told = json.loads(run("status", "--json").out)
        for one in told["processes"]:
            if (one["command"], one["state"]) == (command, state):
                return {**one, "ok": told["ok"]}
        assert time.monotonic() < end, told
        time.sleep(0.1)


def test_a_recorder_that_runs_is_killed_and_comes_back(run: Callable[..., Ran]) -> None:
    with replaying("--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT") as endpoints:
        words = [
            "record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades,book",
            "--store", "parquet:data", "--endpoint", endpoints["binance-spot"],
        ]  # fmt: skip
        process = start(*words)
        try:
            told = wait_for(run, "record", "running")
            assert told["ok"]
            assert told["pid"] == process.pid
            assert told["store"] == "parquet:data"
            end = time.monotonic() + 60
            while not (facts := wait_for(run, "record", "running")["facts"]).get("confirmed"):
                assert time.monotonic() < end, facts
            assert facts["connections"] == {"up": 1, "all": 1}
            assert "record" in run("status").out
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        told = wait_for(run, "record", "killed")
        assert not told["ok"]
        assert run("status").code == 1
        assert "look at: record" in run("status").err
        ran = finish(start(*words, "--duration", "1s"))
        assert ran.code in (0, 3), ran.err  # what the killed one missed is a gap
        told = wait_for(run, "record", "ended")
        assert told["ok"]
        assert told["exit_code"] == ran.code
        assert [line.split()[1] for line in run("status", "--all").out.splitlines()[1:]] == ["ended", "killed"]
        assert "forgot 2 processes" in run("status", "--forget").err
        assert os.listdir(os.environ["CMD_RUN_DIR"]) == []


def test_a_failed_start_is_told(run: Callable[..., Ran]) -> None:
    ran = finish(
        start(
            "record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--store", "parquet:data",
            "--endpoint", "http://127.0.0.1:1", "--types", "trades",
        )
    )  # fmt: skip
    assert ran.code == 1
    told = wait_for(run, "record", "failed")
    assert told["exit_code"] == 1
    assert told["error"]
    assert told["error"] in run("status").out


def test_json_has_every_field() -> None:
    (told,) = as_json([found("record", "running", 1)])
    assert set(told) == {
        "command", "state", "pid", "started", "updated", "version", "what", "store", "metrics", "exit_code", "error",
        "facts",
    }  # fmt: skip
