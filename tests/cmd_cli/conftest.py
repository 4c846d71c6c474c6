"""Running cmd-cli: in this process for words, as a process for everything else; a replay on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cmd_cli.main import main

TIMEOUT = 60


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables and files of the person who runs the tests; a folder of its own for each test."""
    for name in list(os.environ):
        if name.startswith("CMD_") and name not in ("CMD_RECORDINGS", "CMD_REQUIRE", "CMD_PURE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CMD_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME"):
        folder = tmp_path / f".{name.lower()}"
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process."""

    def call(*args: str) -> Ran:
        code = main(list(args))
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call


def start(*args: str, **kwargs: Any) -> subprocess.Popen[str]:
    """Start a command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cmd_cli", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def finish(process: subprocess.Popen[str], number: int | None = None) -> Ran:
    """Wait for a process, after a signal if one is given."""
    if number is not None:
        process.send_signal(number)
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{process.args} did not end; stdout {out[-2000:]!r}, stderr {err[-2000:]!r}")
    return Ran(process.returncode, out, err)


@contextmanager
def replaying(*args: str) -> Iterator[dict[str, str]]:
    """Run ``cmd-cli replay`` and yield the endpoints by venue; it must end cleanly on SIGTERM."""
    wanted = args[args.index("--exchange") + 1].split(",")
    process = start("replay", *args)
    endpoints: dict[str, str] = {}
    try:
        assert process.stdout is not None
        for _ in wanted:
            line = process.stdout.readline()
            if not line:
                ran = finish(process)
                pytest.fail(f"replay ended with {ran.code}: {ran.err}")
            ready = json.loads(line)
            endpoints[ready["venue"]] = ready["endpoint"]
        yield endpoints
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        ran = finish(process)
    assert ran.code == 0, ran.err
