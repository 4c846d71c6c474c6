"""``deploy``: units that systemd accepts and whose commands run, the cron script by a real shell, and who is told of failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import require

from cmd_cli.deployment.plan import quoted
from cmd_common.io import open_reader

from .conftest import TIMEOUT, finish, replaying, start

JOBS = ("record", "serve", "archive", "repair")
SCRIPT = Path(__file__).parents[2] / "packages/cmd-cli/src/cmd_cli/deployment/archive-daily.sh"


def config(text: str = "", *, endpoint: str = "", jobs: str = "[record]\n[serve]\n[archive]\n[repair]\n") -> Path:
    path = Path("conf d", "cmd.toml")
    path.parent.mkdir(exist_ok=True)
    where = f'endpoint = "{endpoint}"\n' if endpoint else ""
    head = f'exchange = ["binance-spot"]\nsymbols = ["BTCUSDT"]\nstore = "parquet:{Path.cwd()}/data"\n{where}'
    path.write_text(head + text + jobs)
    return path


def call(*args: str) -> tuple[int, str, str]:
    ran = finish(start(*args))
    assert "Traceback" not in ran.err
    return ran.code, ran.out, ran.err


def units(root: str, scope: str) -> dict[str, str]:
    home = os.environ["HOME"].lstrip("/")
    folder = Path(root, "etc/systemd/system" if scope == "--system" else f"{home}/.config/systemd/user")
    return {p.name: p.read_text() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("scope", ["--user", "--system"])
def test_units_are_accepted_installed_once_and_removed(scope: str) -> None:
    require("systemd-analyze", shutil.which("systemd-analyze") is not None, "install systemd")
    path = str(config())
    code, _, err = call("deploy", "systemd", "check", scope, "--config", path)
    assert (code, "0 findings" in err) == (0, True), err
    code, shown, _ = call("deploy", "systemd", "show", scope, "--config", path)
    assert (code, shown.count("ExecStart=")) == (0, 5)
    code, _, err = call("deploy", "systemd", "install", scope, "--config", path, "--root", "root")
    assert (code, "7 of 7 units written" in err) == (0, True), err
    found = units("root", scope)
    assert set(found) == {
        *(f"cryptomarketdata-{job}.service" for job in JOBS), "cryptomarketdata-archive.timer", "cryptomarketdata-repair.timer",
        "cryptomarketdata-failure@.service",
    }  # fmt: skip
    assert all("NoNewPrivileges=yes" in text for name, text in found.items() if name.endswith("service"))
    assert ("ProtectSystem=strict" in found["cryptomarketdata-record.service"]) == (scope == "--system")
    assert "0 of 7 units written" in call("deploy", "systemd", "install", scope, "--config", path, "--root", "root")[2]
    code, _, err = call("deploy", "systemd", "remove", scope, "--root", "root")
    assert (code, "removed 7 units" in err) == (0, True)
    assert not [p for p in Path("root").rglob("*") if p.is_file()]


def test_a_unit_that_systemd_refuses_is_told() -> None:
    require("systemd-analyze", shutil.which("systemd-analyze") is not None, "install systemd")
    code, _, err = call(
        "deploy", "systemd", "check", "--system", "--config", str(config()), "--command", "/nowhere/cmd-cli"
    )
    assert code == 1
    assert "/nowhere/cmd-cli" in err


def exec_start(text: str) -> list[str]:
    """The words of a unit's ExecStart, as systemd reads them."""
    (line,) = [one.removeprefix("ExecStart=") for one in text.splitlines() if one.startswith("ExecStart=")]
    return unquote(line)


def unquote(line: str) -> list[str]:
    words: list[str] = []
    word, inside, n, begun = "", False, 0, False
    while n < len(line):
        c = line[n]
        if c == "\\":
            word, n = word + line[n + 1], n + 1
        elif c == '"':
            inside, begun = not inside, True
        elif c == " " and not inside:
            words += [word] if word or begun else []
            word, begun = "", False
        else:
            if c in "%$":
                assert line[n + 1] == c
                n += 1
            word += c
        n += 1
    return [*words, word] if word or begun else words


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126)), min_size=1))
def test_words_of_units_are_taken_as_they_are(words: list[str]) -> None:
    assert unquote(quoted(words)) == words


@pytest.mark.parametrize("job", ["record", "serve"])
def test_each_endless_unit_runs_and_tells_systemd_how_it_is(job: str) -> None:
    with replaying("--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT") as endpoints:
        more = '[record]\ntypes = ["trades"]\n[serve]\ntypes = ["trades"]\nlisten = ["unix:m.sock"]\n'
        path = str(config(endpoint=endpoints["binance-spot"], jobs=more))
        call("deploy", "systemd", "install", "--system", "--config", path, "--root", "root")
        words = exec_start(units("root", "--system")[f"cryptomarketdata-{job}.service"])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind("notify")
            manager.settimeout(TIMEOUT)
            environ = {**os.environ, "NOTIFY_SOCKET": os.path.abspath("notify"), "WATCHDOG_USEC": "300000"}
            process = subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                said = [manager.recv(500)]
                while not (any(s.startswith(b"READY=1") for s in said) and said.count(b"WATCHDOG=1") >= 3):
                    said.append(manager.recv(500))
                process.send_signal(signal.SIGTERM)
                while b"STOPPING=1" not in said:
                    said.append(manager.recv(500))
                ran = finish(process)
            finally:
                process.kill()
        assert ran.code in (0, 3), ran.err  # what the unit calls a success


def test_the_units_of_every_day_run() -> None:
    simulated = ("--simulate", "--symbols", "BTCUSDT", "--history-days", "2", "--history-trades", "200")
    with replaying("--exchange", "binance-spot", *simulated) as endpoints:
        path = str(config(endpoint=endpoints["binance-spot"], jobs="[archive]\n[repair]\n"))
        # The simulated exchange's yesterday lies in the past: the range is given instead.
        call("deploy", "systemd", "install", "--system", "--config", path, "--root", "root")
        found = units("root", "--system")
        words = exec_start(found["cryptomarketdata-archive.service"])
        assert words[-3:] == ["--since-last", "--config", os.path.abspath(path)]
        ran = finish(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert ran.code in (0, 3), ran.err
        assert "OnCalendar=*-*-* 00:40:00 UTC" in found["cryptomarketdata-archive.timer"]
        assert "OnCalendar=*-*-* 01:30:00 UTC" in found["cryptomarketdata-repair.timer"]


class Hook:
    """A webhook on loopback."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[Any] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret-path"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


def run_script(path: Path, log: str = "logs/archive.log") -> subprocess.CompletedProcess[str]:
    words = ["sh", str(SCRIPT), str(path), log, sys.executable, "-m", "cmd_cli"]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def yesterday_server(**more: str) -> Any:
    """A simulated exchange whose day begins today, so that yesterday is in its archive."""
    today = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    options = [part for key, value in more.items() for part in (f"--{key.replace('_', '-')}", value)]
    return replaying(
        "--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT", "--start", today, "--history-days", "2",
        "--history-trades", "200", *options,
    )  # fmt: skip


def test_cron_archives_yesterday(hook: Hook) -> None:
    with yesterday_server() as endpoints:
        path = config(f'[deploy]\nwebhook = "{hook.url}"\n', endpoint=endpoints["binance-spot"], jobs="[archive]\n")
        done = run_script(path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # cron has nothing to mail
        with open_reader("parquet:data") as reader:
            assert len(list(reader.records("trades"))) == 200
        again = run_script(path)
        assert again.returncode == 0
        lines = Path("logs/archive.log").read_text().splitlines()
        assert sum(line.endswith("ends with 0") for line in lines) == 2
        summaries = [json.loads(line) for line in lines if line.startswith("{")]
        assert [s["files"] for s in summaries] == [1, 0]
        assert hook.bodies == []


def test_cron_tells_of_failures_and_tries_again(hook: Hook) -> None:
    with yesterday_server() as endpoints:
        url = endpoints["binance-spot"]
    more = f'[deploy]\nwebhook = "{hook.url}"\n'
    path = config(more, endpoint=url, jobs="[archive]\n")  # nobody is there any more
    done = run_script(path)
    assert done.returncode == 5
    assert "failed with exit code 5" in done.stderr
    assert [(b["unit"], b["code"]) for b in hook.bodies] == [("archive", "5")]
    assert "secret-path" not in Path("logs/archive.log").read_text()
    with yesterday_server() as endpoints:
        assert run_script(config(more, endpoint=endpoints["binance-spot"], jobs="[archive]\n")).returncode == 0
    assert len(hook.bodies) == 1


def test_the_log_of_cron_is_begun_anew_when_it_is_long() -> None:
    path = config(endpoint="http://127.0.0.1:9", jobs="[archive]\n")
    Path("logs").mkdir()
    Path("logs/archive.log").write_bytes(b"x" * 5_000_001)
    Path("logs/archive.log.1").write_text("old")
    assert run_script(path).returncode == 5
    assert Path("logs/archive.log").stat().st_size < 100_000
    assert Path("logs/archive.log.1").stat().st_size == 5_000_001
    assert Path("logs/archive.log.2").read_text() == "old"


def test_wrong_words_to_the_script_are_told() -> None:
    done = subprocess.run(["sh", str(SCRIPT), "x"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr.startswith("usage:")) == (2, True)


def test_the_entry_of_the_machine_is_installed_once_and_removed() -> None:
    path = str(config(jobs="[archive]\n"))
    where = ("--config", path, "--root", "root", "--system")
    assert "2 of 2 files written" in call("deploy", "cron", "install", *where)[2]
    entry = Path("root/etc/cron.d/cryptomarketdata").read_text()
    assert (
        f"40 0 * * * cryptomarketdata /usr/local/lib/cryptomarketdata/archive-daily.sh '{os.path.abspath(path)}'"
        in entry
    )
    script = Path("root/usr/local/lib/cryptomarketdata/archive-daily.sh")
    assert script.read_text() == SCRIPT.read_text()
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert call("deploy", "cron", "check", *where)[0] == 0
    assert "0 of 2 files written" in call("deploy", "cron", "install", *where)[2]
    script.write_text("changed")
    assert call("deploy", "cron", "check", *where)[0] == 1
    assert call("deploy", "cron", "remove", "--system", "--root", "root")[0] == 0
    assert not [p for p in Path("root").rglob("*") if p.is_file()]


def test_the_crontab_of_the_user_keeps_what_is_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # cron's own crontab(1) wants a spool of the machine: this one has the same two ways to be called.
    tool = tmp_path / "bin" / "crontab"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nif [ "$1" = -l ]; then cat "$CRONTAB_FILE"; else cat >"$CRONTAB_FILE"; fi\n')
    tool.chmod(0o755)
    file = tmp_path / "spool"
    file.write_text("MAILTO=me\n5 4 * * * other\n")
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CRONTAB_FILE", str(file))
    path = str(config(jobs="[archive]\n"))
    for _ in range(2):
        assert call("deploy", "cron", "install", "--user", "--config", path)[0] == 0
        assert file.read_text().count("archive-daily.sh") == 1
    assert file.read_text().startswith("MAILTO=me\n5 4 * * * other\n40 0 * * * ")
    assert call("deploy", "cron", "remove", "--user")[0] == 0
    assert file.read_text() == "MAILTO=me\n5 4 * * * other\n"


def test_failures_are_told_by_mail_and_webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Hook) -> None:
    tool = tmp_path / "bin" / "sendmail"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >"{tmp_path}/words"\ncat >"{tmp_path}/mail"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    Path("hook").write_text(hook.url + "\n")
    path = str(config('[deploy]\nmail = "ops@example.org"\nwebhook-file = "hook"\n', jobs=""))
    code, _, err = call("deploy", "notify", "--config", path, "--unit", "archive", "--code", "1")
    assert code == 0, err
    assert hook.bodies[0]["text"].startswith("CryptoMarketData: archive failed with exit code 1 on ")
    assert "To: ops@example.org" in (tmp_path / "mail").read_text()
    assert (tmp_path / "words").read_text() == "-t -oi\n"


@pytest.mark.parametrize("status", [0, 500])
def test_a_webhook_that_does_not_take_it_is_an_error_without_its_address(status: int) -> None:
    made = Hook(status or 200)
    url = made.url if status else "http://127.0.0.1:9/secret-path"
    try:
        path = str(config(f'[deploy]\nwebhook = "{url}"\n', jobs=""))
        code, out, err = call("deploy", "notify", "--config", path)
        assert code == 1
        assert "webhook" in err
        assert "secret-path" not in out + err + call("config", "show", "--config", path)[1]
    finally:
        made.server.shutdown()
        made.server.server_close()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["systemd"], "what to do"),
        (["systemd", "show"], "for whom"),
        (["systemd", "show", "--user"], "no configuration is given"),
        (["systemd", "show", "--user", "--config", "CONF", "--jobs", "recrod"], "unknown job"),
        (["systemd", "show", "--user", "--config", "EMPTY"], "no section of a job"),
        (["cron", "show", "--user", "--config", "CONF", "--jobs", "record"], "no section [archive]"),
        (["cron", "show", "--user", "--config", "CONF", "--at", "25:00"], "no time of a day"),
    ],
)
def test_what_cannot_be_is_said(args: list[str], words: str) -> None:
    Path("empty.toml").write_text("")
    found = {"CONF": str(config()), "EMPTY": "empty.toml"}
    code, _, err = call("deploy", *(found.get(a, a) for a in args))
    assert (code, words in err) == (2, True), err
