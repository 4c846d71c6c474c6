"""The examples of every --help are run as they stand but for their ports, against a replay on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cmd_cli.command import Cmd
from cmd_cli.main import COMMANDS, cli
from cmd_common.log import Logger
from cmd_common.testing.ports import free_ports

from .conftest import finish, replaying


def _examples() -> list[tuple[str, str]]:
    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert isinstance(command, Cmd)
        found += [(name, line) for _, line in command.examples]
    return found


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Two simulated markets of Binance with the two days of history that the examples ask for."""
    both = ("--exchange", "binance-spot,binance-usdm")
    with replaying(*both, "--simulate", "--symbols", "BTCUSDT,ETHUSDT", "--start", "2024-08-10T12:00:00") as endpoints:
        yield ",".join(f"{venue}={url}" for venue, url in endpoints.items())


@pytest.fixture(scope="module")
def recorded(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for the queries."""
    folder = tmp_path_factory.mktemp("store") / "data"
    code, _, err = run(
        "cmd-cli record --exchange binance-spot --symbols BTCUSDT --types trades,book --duration 3s"
        f" --store parquet:{folder} --endpoint {endpoint}",
        endless=False,
    )
    assert code == 0, err
    return folder


def run(line: str, *, endless: bool) -> tuple[int, str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line}" if line.startswith("cmd-cli") else line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
    )
    first = ""
    if endless:
        assert process.stdout is not None
        first = process.stdout.readline()
    ran = finish(process, signal.SIGTERM if endless else None)
    return ran.code, first + ran.out, ran.err


def free_port(_: re.Match[str]) -> str:
    """A port that nobody uses: those of the examples may be taken on this machine, also by another test."""
    return f"127.0.0.1:{free_ports()[0]}"


@pytest.mark.parametrize(("name", "line"), _examples(), ids=lambda v: v.removeprefix("cmd-cli ")[:50])
def test_the_example_runs(endpoint: str, recorded: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str) -> None:
    monkeypatch.setenv("CMD_ENDPOINT", endpoint)
    if name in ("query", "store", "export", "verify", "repair") or "--from-store" in line:
        Path("data").symlink_to(recorded)
    if name == "deploy":
        Path("cmd.toml").write_text("[record]\n[archive]\n")
    if name == "log":
        with Logger().open("app.cmdlog") as logger:
            logger.event("order.late", "{ns:i8} ns late", "warning")(1500)
    endless = name == "replay" or "--follow" in line or (name == "watch" and "--duration" not in line)
    code, out, err = run(re.sub(r"127\.0\.0\.1:\d+", free_port, line), endless=endless)
    # The simulated exchange has no yesterday of ours: a day that is not there yet.
    assert code == (3 if "--since-last" in line else 0), err
    assert "error" not in err.casefold()
    if name == "serve":
        assert json.loads(out.splitlines()[0])["symbols"]
    if "--json" in line:
        json.loads(out if name in ("query", "symbols") else out.splitlines()[-1])
    if name in ("symbols", "query", "replay", "watch", "record", "archive", "store", "log", "verify", "repair"):
        assert out.strip()
    if name == "record":
        assert any(Path("data").iterdir())
