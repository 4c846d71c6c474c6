"""Real processes: cmd-cli talking to cmd-cli over loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sysconfig
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

CLI = str(Path(sysconfig.get_path("scripts")) / "cmd-cli")


class Replay:
    """A running ``cmd-cli replay`` and its ready lines by venue."""

    def __init__(self, process: subprocess.Popen[str], venues: int) -> None:
        self.process = process
        self.ready: dict[str, dict[str, Any]] = {}
        assert process.stdout is not None
        for _ in range(venues):
            line = process.stdout.readline()
            assert line, f"replay ended with {process.wait()}: {process.stderr.read() if process.stderr else ''}"
            facts = json.loads(line)
            self.ready[facts["venue"]] = facts

    @property
    def endpoints(self) -> list[str]:
        """Options that point every venue here."""
        return [o for venue, facts in self.ready.items() for o in ("--endpoint", f"{venue}={facts['endpoint']}")]

    def truth(self, venue: str, query: str = "") -> dict[str, Any]:
        """What the emulator knows to be true; ``query`` such as ``depth=5000&trades=1``."""
        url = f"{self.ready[venue]['endpoint']}/__replay/truth?{query}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            result: dict[str, Any] = json.load(answer)
            return result

    def stop(self) -> int:
        """End the process as a user would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()


class Cmd:
    """Runs cmd-cli in a folder of its own and ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replays: list[Replay] = []
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a process without waiting for it."""
        process = subprocess.Popen(
            [CLI, *arguments], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.started.append(process)
        return process

    def replay(self, *arguments: str, venues: Sequence[str] = ("binance-spot",)) -> Replay:
        """Start a replay and wait until it is ready."""
        process = self.start("replay", "--exchange", ",".join(venues), *arguments)
        replay = Replay(process, len(venues))
        self.replays.append(replay)
        return replay

    def run(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            [CLI, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )

    def summary(self, *arguments: str, code: int | None = 0, timeout: float = 240) -> dict[str, Any]:
        """Run a command with ``--json`` and return its summary."""
        done = self.run(*arguments, "--json", timeout=timeout)
        assert code is None or done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return result

    def query(self, sql: str, store: str) -> list[dict[str, Any]]:
        """Rows of a query as dicts."""
        done = self.run("query", sql, "--store", store, "--format", "ndjson")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def close(self) -> None:
        """End whatever still runs."""
        for replay in self.replays:
            replay.stop()
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None and not pipe.closed:
                    pipe.close()


@pytest.fixture
def cmd(tmp_path: Path) -> Iterator[Cmd]:
    """cmd-cli as a user runs it."""
    runner = Cmd(tmp_path)
    yield runner
    runner.close()
