"""A real QuestDB for the tests: loopback, free ports, small files, a root of its own."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cmd_common.testing.ports import free_ports

VERSION = "9.3.4"
REPO = Path(__file__).resolve().parents[2]
HOW = (
    f"install Java 17 and run deploy/questdb/local.sh --fetch-only (with --jar PATH if you have questdb-{VERSION}.jar), "
    "or set CMD_QUESTDB_JAR to the jar"
)
# Small pages, or every open column of every table takes 16 MiB of disk; two workers, for machines with two cores.
SETTINGS: dict[str, str] = {
    "telemetry.enabled": "false",
    "line.tcp.enabled": "false",
    "line.auto.create.new.tables": "false",
    "line.auto.create.new.columns": "false",
    "cairo.writer.data.append.page.size": "128K",
    "cairo.system.writer.data.append.page.size": "128K",
    "cairo.o3.column.memory.size": "128K",
    "cairo.wal.writer.data.append.page.size": "128K",
    "cairo.system.wal.writer.data.append.page.size": "128K",
    "cairo.writer.data.index.value.append.page.size": "128K",
    "cairo.writer.data.index.key.append.page.size": "128K",
    "shared.worker.count": "2",
    "metrics.enabled": "true",
}


def cached_jar() -> Path:
    """Where ``deploy/questdb/local.sh`` keeps the jar."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "crypto-market-data" / "questdb" / f"questdb-{VERSION}.jar"


def find_jar() -> Path | None:
    """The jar named by CMD_QUESTDB_JAR or the one in the cache, if it is there."""
    named = os.environ.get("CMD_QUESTDB_JAR")
    jar = Path(named) if named else cached_jar()
    return jar if jar.is_file() else None


def find_java() -> str | None:
    """The Java that runs the server: CMD_QUESTDB_JAVA or the one on the path."""
    return shutil.which(os.environ.get("CMD_QUESTDB_JAVA") or "java")


class SqlError(Exception):
    """The server's answer to a statement it refused."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(f"HTTP {status}: {text}")


class QuestDBServer:
    """One server process and its root; every method may be called at any time."""

    def __init__(
        self,
        root: Path,
        *,
        settings: Mapping[str, str] | None = None,
        user: str = "",
        password: str = "",
        java_options: Iterable[str] = (),
        prefix: Iterable[str] = (),
    ) -> None:
        self.root = Path(root)
        self.settings = {**SETTINGS, **(settings or {})}
        self.user, self.password = user, password
        if user:
            self.settings |= {
                "http.user": user,
                "http.password": password,
                "http.health.check.authentication.required": "false",
            }
        self.java_options = tuple(java_options)
        self.prefix = tuple(prefix)
        self.host = "127.0.0.1"
        self.http, self.pg, self.min = free_ports(3)
        self.process: subprocess.Popen[bytes] | None = None
        self._log: BinaryIO | None = None
        self._paused = False

    # --- where it is

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.http}"

    def conf(self, **more: object) -> str:
        """The connection string, with ``more`` keys at its end: ``http::addr=127.0.0.1:PORT;``."""
        keys: dict[str, object] = {"addr": f"{self.host}:{self.http}"}
        if self.user:
            keys |= {"username": self.user, "password": self.password}
        keys |= more
        return "http::" + "".join(f"{k}={v};" for k, v in keys.items())

    def location(self, **more: object) -> str:
        """What ``--store`` takes."""
        return "questdb:" + self.conf(**more)

    @property
    def import_dir(self) -> Path:
        """The folder ``read_parquet`` and ``COPY`` read from."""
        folder = self.root / "import"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def log_text(self) -> str:
        path = self.root / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- its life

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, timeout: float = 90.0) -> QuestDBServer:
        """Start it and wait until it is healthy."""
        if self.running:
            return self
        jar, java = find_jar(), find_java()
        if jar is None or java is None:
            raise RuntimeError(f"no Java or no QuestDB jar; {HOW}")
        for folder in ("tmp", "import", "export", "db", "conf"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for left in (self.root / "tmp").iterdir():  # a killed server leaves its unpacked native libraries behind
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
        settings = self.settings | {
            "http.net.bind.to": f"{self.host}:{self.http}",
            "http.min.net.bind.to": f"{self.host}:{self.min}",
            "pg.net.bind.to": f"{self.host}:{self.pg}",
            "cairo.sql.copy.root": str(self.root / "import"),
        }
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QDB_")}
        environment |= {"QDB_" + k.upper().replace(".", "_"): v for k, v in settings.items()}
        # The server ends with the process that started it, however that one ends.
        tie = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*self.prefix, *tie, java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
                   *self.java_options, f"-Djava.io.tmpdir={self.root / 'tmp'}", "-p", str(jar),
                   "-m", "io.questdb/io.questdb.ServerMain", "-d", str(self.root)]  # fmt: skip
        self._log = (self.root / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._paused = False
        self.wait_healthy(timeout)
        return self

    def healthy(self, timeout: float = 1.0) -> bool:
        try:
            status, _ = self._get(self.min, "/status", timeout)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def wait_healthy(self, timeout: float = 90.0) -> None:
        end = time.monotonic() + timeout
        while not self.healthy():
            if not self.running:
                raise RuntimeError(f"QuestDB ended while it started: {self.log_text[-3000:]}")
            if time.monotonic() > end:
                raise TimeoutError(f"QuestDB was not ready after {timeout:g} s: {self.log_text[-3000:]}")
            time.sleep(0.03)

    def stop(self) -> None:
        """End it as systemd would; everything acknowledged is on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9, in the middle of whatever it does."""
        self._end(signal.SIGKILL)

    def restart(self) -> QuestDBServer:
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Stop it where it stands (SIGSTOP): it accepts connections and answers nothing."""
        if self.running and self.process is not None:
            os.kill(self.process.pid, signal.SIGSTOP)
            self._paused = True
            # The signal stops the threads one after the other; one that still runs may answer.
            until = time.monotonic() + 10
            while not _stands_still(self.process.pid) and time.monotonic() < until:
                time.sleep(0.005)

    def resume(self) -> None:
        if self._paused and self.running and self.process is not None:
            os.kill(self.process.pid, signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """End it and remove its root."""
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            if how != signal.SIGKILL:
                self.resume()
            if self.process.poll() is None:
                self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        self._paused = False
        if self._log is not None:
            self._log.close()
            self._log = None

    # --- SQL, without the code under test

    def _get(self, port: int, path: str, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, port, timeout=timeout)
        headers = {}
        if self.user:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def sql(self, statement: str, timeout: float = 60.0) -> list[list[Any]]:
        """Run one statement and return its rows ([] for DDL); SqlError when the server refuses it."""
        query = urllib.parse.urlencode({"query": statement})
        status, body = self._get(self.http, f"/exec?{query}", timeout)
        try:
            answer = json.loads(body)
        except ValueError:
            raise SqlError(status, body.decode(errors="replace").strip()) from None
        if status != 200 or "error" in answer:
            raise SqlError(status, str(answer.get("error", answer)))
        return list(answer.get("dataset", []))

    def value(self, statement: str) -> Any:
        """The one value a query gives."""
        return self.sql(statement)[0][0]

    def count(self, table: str, where: str = "") -> int:
        """Rows visible in a table."""
        return int(self.value(f'SELECT count() FROM "{table}"' + (f" WHERE {where}" if where else "")))

    def tables(self) -> list[str]:
        """Names of all tables and views but the server's own."""
        return [str(r[0]) for r in self.sql("SELECT table_name FROM tables()") if not str(r[0]).startswith("sys.")]

    def wait_applied(self, *tables: str, timeout: float = 60.0) -> None:
        """Wait until the WAL of the tables (all, when none is named) is applied; a suspended table is an error."""
        end = time.monotonic() + timeout
        while True:
            state = [
                r for r in self.sql("SELECT name, writerTxn, sequencerTxn, suspended FROM wal_tables()")
                if not tables or r[0] in tables
            ]  # fmt: skip
            suspended = [r[0] for r in state if r[3]]
            if suspended:
                raise RuntimeError(f"suspended: {suspended}")
            if all(r[1] == r[2] for r in state):
                return
            if time.monotonic() > end:
                raise TimeoutError(f"WAL not applied after {timeout:g} s: {state}")
            time.sleep(0.02)

    def wait_for(self, done: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        """Poll until ``done()``; fails with ``what``."""
        end = time.monotonic() + timeout
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"not after {timeout:g} s: {what}")
            time.sleep(0.03)

    def empty(self) -> QuestDBServer:
        """Running, resumed, and without any table, view or file to import."""
        self.resume()
        self.start()
        for name, kind in self.sql("SELECT table_name, table_type FROM tables() WHERE table_type <> 'T'"):
            self.sql(f'DROP {"MATERIALIZED VIEW" if kind == "M" else "VIEW"} IF EXISTS "{name}"')
        for name in self.tables():
            self.sql(f'DROP TABLE IF EXISTS "{name}"')
        for folder in (self.root / "import", self.root / "export"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        return self


def _stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped; where there is no /proc, a moment has to do."""
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except FileNotFoundError:
        time.sleep(0.2)
        return not Path("/proc").is_dir()
    return all(state in "Tt" for state in states)
