"""The log file, the state and the numbers of commands that run by themselves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cmd_cli.observed import job_families, last_success
from cmd_server.metrics import text_of

from .conftest import Ran, finish, replaying, start

S = 1_000_000_000


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_numbers_of_a_run_under_way_and_of_one_that_ended() -> None:
    began = text_of(
        job_families("archive", "parquet:data", began=S, ended=None, exit_code=None, succeeded=0.5, summary={})
    ).decode()
    found = samples(began)
    key = ("archive", "parquet:data")
    assert found["cmd_job_running", *key] == 1
    assert found["cmd_job_start_seconds", *key] == 1
    assert found["cmd_job_success_seconds", *key] == 0.5
    assert ("cmd_job_exit_code", *key) not in found
    assert last_success(began) == 0.5
    ended = text_of(
        job_families(
            "archive", "parquet:data", began=S, ended=4 * S, exit_code=3, succeeded=4e9, summary={"files": 2, "x": 0.5}
        )
    ).decode()
    found = samples(ended)
    assert found["cmd_job_running", *key] == 0
    assert found["cmd_job_duration_seconds", *key] == 3
    assert found["cmd_job_exit_code", *key] == 3
    assert found["cmd_job_summary", "archive", "files", "parquet:data"] == 2
    assert last_success(ended) == 4e9


@pytest.mark.parametrize("text", ["", "cmd_job_success_seconds 1", 'cmd_job_success_seconds{a="b"} x', "\0"])
def test_no_last_success(text: str) -> None:
    assert last_success(text) == 0


ARCHIVE = [
    "archive",
    "--exchange",
    "binance-spot",
    "--symbols",
    "BTCUSDT",
    "--types",
    "trades",
    "--store",
    "parquet:data",
]


def test_a_job_leaves_its_numbers_and_its_log(run: Callable[..., Ran]) -> None:
    with replaying(
        "--exchange",
        "binance-spot",
        "--simulate",
        "--symbols",
        "BTCUSDT",
        "--start",
        "2025-03-02",
        "--history-trades",
        "50",
    ) as endpoints:
        words = [
            *ARCHIVE, "--start", "2025-03-01", "--metrics-file", "numbers/archive.prom", "--log-file", "logs/{command}.log",
        ]  # fmt: skip
        there = ["--endpoint", endpoints["binance-spot"]]
        before = time.time()
        done = run(*words, *there)
        assert done.code == 0, done.err
        good = samples(Path("numbers/archive.prom").read_text())
        key = ("archive", "parquet:data")
        assert good["cmd_job_exit_code", *key] == 0
        assert good["cmd_job_running", *key] == 0
        assert before - 1 < good["cmd_job_start_seconds", *key] <= good["cmd_job_end_seconds", *key] < time.time() + 1
        assert good["cmd_job_success_seconds", *key] == good["cmd_job_end_seconds", *key]
        assert good["cmd_job_summary", "archive", "files", "parquet:data"] >= 1
        # a run that fails keeps the time of the last success
        failed = run(*words, "--force", "--endpoint", "http://127.0.0.1:1")
        assert failed.code == 1
        bad = samples(Path("numbers/archive.prom").read_text())
        assert bad["cmd_job_exit_code", *key] == 1
        assert bad["cmd_job_success_seconds", *key] == good["cmd_job_success_seconds", *key]
        # a dry run is no run
        mark = Path("numbers/archive.prom").read_bytes()
        assert run(*words, *there, "--dry-run").code == 0
        assert Path("numbers/archive.prom").read_bytes() == mark
    assert os.listdir("numbers") == ["archive.prom"]
    lines = [json.loads(line) for line in Path("logs/archive.log").read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("archive.started") == 3
    ends = [line["fields"] for line in lines if line["event"] == "archive.ended"]
    assert [end["exit_code"] for end in ends] == [0, 1, 0]
    assert "archive.warning" in events[events.index("archive.ended") :]
    assert all(isinstance(line["ts"], int) and line["level"] for line in lines)


def test_wrong_words(run: Callable[..., Ran]) -> None:
    ran = run(*ARCHIVE, "--start", "2025-03-01", "--metrics-file", "numbers.txt")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "cmd-cli: error: metrics file numbers.txt does not end in .prom; node_exporter reads no others\n"
    )
    ran = run(
        "record",
        "--exchange",
        "binance-spot",
        "--symbols",
        "BTCUSDT",
        "--store",
        "parquet:data",
        "--metrics",
        "0.0.0.0:0",
    )
    assert ran.code == 2
    assert "there is no token" in ran.err


def test_numbers_that_cannot_be_written_are_told_and_the_job_goes_on(run: Callable[..., Ran]) -> None:
    Path("file").write_text("")
    with replaying(
        "--exchange",
        "binance-spot",
        "--simulate",
        "--symbols",
        "BTCUSDT",
        "--start",
        "2025-03-02",
        "--history-trades",
        "50",
    ) as endpoints:
        ran = run(
            *ARCHIVE, "--start", "2025-03-01", "--endpoint", endpoints["binance-spot"], "--metrics-file", "file/a.prom"
        )
    assert ran.code == 0
    assert "cannot write the numbers to file/a.prom" in ran.err


def test_two_processes_do_not_share_a_log(run: Callable[..., Ran]) -> None:
    with replaying("--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT") as endpoints:
        words = [
            "record", "--exchange", "binance-spot", "--symbols", "BTCUSDT", "--types", "trades",
            "--endpoint", endpoints["binance-spot"], "--log-file", "one.log", "--log-format", "text",
        ]  # fmt: skip
        process = start(*words, "--store", "parquet:data")
        try:
            end = time.monotonic() + 60
            while not (Path("one.log").exists() and "recording trades" in Path("one.log").read_text()):
                assert time.monotonic() < end
                time.sleep(0.05)
            second = run(*words, "--store", "parquet:other", "--duration", "1s")
            assert second.code == 1, second.err
            assert "one.log is open in another process" in second.err
        finally:
            ran = finish(process, signal.SIGTERM)
        assert ran.code == 0, ran.err
    assert "record.ended" in Path("one.log").read_text()
