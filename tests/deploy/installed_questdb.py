"""Running the scripts of deploy/questdb, and what they installed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import questdb_server as qs

from cmd_common.testing.ports import free_ports

DEPLOY = Path(__file__).parents[2] / "deploy" / "questdb"


def run(script: str, *arguments: object, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of deploy/questdb; the jar in the cache or CMD_QUESTDB_JAR is used.

    COLUMNS: ps cuts its lines there unless it is told not to.
    """
    done = subprocess.run(
        [str(DEPLOY / script), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "COLUMNS": "80", **environment},
    )  # fmt: skip
    assert (done.returncode == 0) == ok, f"{script} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done


class Installed:
    """What install.sh put below a prefix, and the server started from the unit it wrote."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.ports = free_ports(3)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.prefix / "var/lib/questdb"

    @property
    def options(self) -> list[str]:
        names = ("--port", "--pg-port", "--min-port")
        ports = [text for name, port in zip(names, self.ports, strict=True) for text in (name, str(port))]
        return ["--prefix", str(self.prefix), *ports, "--heap", "512m"]

    def install(self, *more: str, ok: bool = True) -> str:
        return run("install.sh", *self.options, *more, ok=ok).stderr

    def setting(self, key: str) -> str:
        found = re.search(rf"^{re.escape(key)}=(.*)$", (self.data / "conf/server.conf").read_text(), re.MULTILINE)
        assert found is not None, key
        return found[1]

    def server(self) -> qs.QuestDBServer:
        """The running server as the other tests know it; it is started and ended here, not there."""
        server = qs.QuestDBServer(self.data, user=self.setting("http.user"), password=self.setting("http.password"))
        server.http, server.pg, server.min = self.ports
        return server

    def start(self) -> qs.QuestDBServer:
        """Run the unit's ExecStartPre and ExecStart, as systemd would, but as this user."""
        unit = (self.prefix / "etc/systemd/system/questdb.service").read_text()
        commands = re.findall(r"^ExecStart(?:Pre)?=(.*)$", unit, re.MULTILINE)
        assert len(commands) == 2
        before, main = (shlex.split(c.replace("%%", "%")) for c in commands)
        subprocess.run(before, check=True)
        tie = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QDB_")}
        self.process = subprocess.Popen(
            [*tie, *main], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        server = self.server()
        end = time.monotonic() + 180  # a machine may be busy with other tests
        while not server.healthy():
            assert self.process.poll() is None, self.logs()
            assert time.monotonic() < end, self.logs()
            time.sleep(0.05)
        return server

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def logs(self) -> str:
        return "".join(p.read_text(errors="replace")[-3000:] for p in sorted((self.data / "log").glob("*.log*")))
