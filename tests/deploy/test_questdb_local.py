"""local.sh: a server of one's own, started, found again, ended; and clear words where a part is missing."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_questdb import DEPLOY, run
from questdb_server import SETTINGS

from cmd_common.testing.ports import free_ports


@pytest.fixture
def root(questdb_parts: None, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "local"
    run("local.sh", "--stop", "--root", tmp_path / "local")


def test_a_server_of_ones_own(root: Path) -> None:
    port, other, third = free_ports(3)
    ports = ("--port", port, "--pg-port", other, "--min-port", third)
    done = run("local.sh", "--root", root, *ports)
    assert done.stdout == f"http::addr=127.0.0.1:{port};import_dir={root}/import;root={root};\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/exec?query=SELECT+1", timeout=10) as answer:
        assert json.load(answer)["dataset"] == [[1]]
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    # Loopback only, all of its ports.
    pid = int((root / "questdb.pid").read_text())
    listening = {
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) in (port, other, third)
    }
    assert len(listening) == 3
    assert {a.rpartition(":")[0] for a in listening} <= {"0100007F", "0000000000000000FFFF00000100007F"}
    # Again: the same one. Another root: the port is taken.
    again = run("local.sh", "--root", root, "--port", 0)
    assert again.stdout == done.stdout
    assert "already running" in again.stderr
    assert run("local.sh", "--status", "--root", root).stdout == done.stdout
    taken = run("local.sh", "--root", f"{root}-2", "--port", port, ok=False)
    assert f"HTTP port {port} is in use" in taken.stderr
    run("local.sh", "--stop", "--root", root)
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    gone = subprocess.run([str(DEPLOY / "local.sh"), "--status", "--root", str(root)], capture_output=True, check=False)
    assert gone.returncode == 3
    # A killed one, whose pid file is left, does not stand in the way of the next.
    (root / "questdb.pid").write_text(f"{os.getpid()}\n")
    text = (root / "conf/server.conf").read_text()
    (root / "conf/server.conf").write_text(text + "query.timeout=5s\n")
    run("local.sh", "--root", root, *ports)
    assert (root / "conf/server.conf").read_text() == text + "query.timeout=5s\n"


def test_its_settings_are_those_of_the_tests(root: Path) -> None:
    """One list of small pages is enough: the fixture's and the script's must not drift apart."""
    text = (DEPLOY / "local.sh").read_text()
    for key in ("telemetry.enabled", "line.tcp.enabled", *(k for k in SETTINGS if k.endswith("page.size"))):
        assert f"{key}={SETTINGS[key]}\n" in text


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {"CMD_QUESTDB_JAVA": "/nowhere/java", "PATH": "EMPTY"}, "no Java 17 or newer; install one (Debian"),
        (["--fetch-only"], {"PATH": "EMPTY", "CMD_QUESTDB_JAR": ""}, "install Maven (Debian, Ubuntu: apt install maven"),
        (["--fetch-only", "--jar", "/nowhere.jar"], {}, "no such jar: /nowhere.jar"),
        (["--port", "70000"], {}, "a port is a number"),
        (["--port", "x"], {}, "a port is a number"),
        (["--root", "a b"], {}, "neither spaces nor semicolons"),
        (["--prot", "1"], {}, "unknown option --prot"),
        (["--root"], {}, "--root needs a value"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_one_clear_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "sed", "head", "basename", "cat"):  # a machine without Java and Maven
        (tools / name).symlink_to(Path("/usr/bin") / name if Path("/usr/bin", name).exists() else Path("/bin") / name)
    environment = {k: str(tools) if v == "EMPTY" else v for k, v in environment.items()}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data"), "JAVA_HOME": ""}
    done = run("local.sh", *arguments, ok=False, **environment)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not (tmp_path / "data").exists()


def test_an_old_java_is_named(tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    done = run("local.sh", "--root", tmp_path / "root", ok=False, CMD_QUESTDB_JAVA=str(java))
    assert "is Java 11; QuestDB 9.3.4 needs 17 or newer" in done.stderr


def test_free_ports_are_chosen_where_the_usual_ones_are_taken(root: Path) -> None:
    with socket.socket() as usual:
        usual.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            usual.bind(("127.0.0.1", 9000))
            usual.listen()
        except OSError:
            pass  # taken already: as good
        done = run("local.sh", "--root", root)
    assert done.stdout.startswith("http::addr=127.0.0.1:")
    assert ":9000;" not in done.stdout
