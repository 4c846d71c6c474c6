"""install.sh on a machine that has nothing: a fresh Debian by debootstrap, its own user, its own cron; then nothing is left."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import require

REPOSITORY = Path(__file__).parents[2]
NAME = "cryptomarketdata"
CLI = f"/opt/{NAME}/current/bin/cmd-cli"
TIMEOUT = 600
# In a mount namespace of its own, so that nothing stays mounted; the network is this machine's loopback.
ENTER = (
    'r=$1; shift; mount -t proc proc "$r/proc"; mount --bind /dev "$r/dev"; exec chroot "$r" /usr/bin/env -i HOME=/srv '
    'LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$@"'
)
IGNORED = (
    "/src",
    "/srv",
    "/proc",
    "/dev",
    "/run/systemd",
    "/tmp",
    "/var/cache",
    "/var/log",
    "/etc/.pwd.lock",
)


class Machine:
    """A Debian in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *words: str, code: int | tuple[int, ...] = 0) -> str:
        """Run something as root inside; returns what it said."""
        ran = subprocess.run(
            ["unshare", "--mount", "--fork", "sh", "-c", ENTER, "sh", str(self.root), *words],
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert ran.returncode in ((code,) if isinstance(code, int) else code), ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def serve(self, job: str, *more: str, code: int | tuple[int, ...]) -> str:
        """Run a unit's ExecStart as its user, with its folders."""
        text = (self.root / f"etc/systemd/system/{NAME}-{job}.service").read_text()
        (line,) = [x.removeprefix("ExecStart=") for x in text.splitlines() if x.startswith("ExecStart=")]
        unit = ["env", "-C", f"/var/lib/{NAME}", f"HOME=/var/lib/{NAME}", f"RUNTIME_DIRECTORY=/run/{NAME}"]
        who = ["setpriv", f"--reuid={NAME}", f"--regid={NAME}", "--init-groups", "--no-new-privs"]
        return self.run(*who, *unit, *shlex.split(line), *more, code=code)

    def files(self) -> dict[str, str]:
        """Every path and what it is, but for caches and logs."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = "/" + str(path.relative_to(self.root))
            if not name.startswith(IGNORED) and "__pycache__" not in name:
                found[name] = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        return found


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    there = all(shutil.which(tool) for tool in ("debootstrap", "unshare", "apt-get")) and os.geteuid() == 0
    require("debootstrap", there, "needs root and Debian's debootstrap (apt install debootstrap)")
    root = tmp_path_factory.mktemp("debian") / "root"
    sources = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=True
    ).stdout.split()
    packages = "python3,python3-venv,ca-certificates,systemd,cron"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root), *sources[:1]],
        capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr
    for name in ("etc/pip.conf", "etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        if (Path("/") / name).exists():  # how this machine reaches the package index
            shutil.copyfile(Path("/") / name, root / name)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / "src" / name)
    yield Machine(root)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def exchange() -> Iterator[str]:
    """A simulated exchange on loopback, whose yesterday is in its archive."""
    words = [
        sys.executable, "-m", "cmd_cli", "replay", "--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT",
        "--start", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), "--history-days", "2", "--history-trades", "200",
    ]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["endpoint"])
        process.terminate()


def test_a_machine_from_nothing_to_running_and_back_to_nothing(machine: Machine, exchange: str) -> None:
    before = machine.files()
    users = (machine.root / "etc/passwd").read_text()
    said = machine.run(
        "/src/deploy/install.sh", "--no-start", "--endpoint", exchange, "--jobs", "record,serve,archive,repair",
        "--types", "trades",
    )  # fmt: skip
    assert "units checked by systemd-analyze: 0 findings" in said
    assert f"{NAME}:x:" in (machine.root / "etc/passwd").read_text()
    machine.run("install", "-d", "-o", NAME, "-g", NAME, "-m", "0755", f"/run/{NAME}")  # as RuntimeDirectory does

    machine.serve("record", "--duration", "3s", "--metrics", "127.0.0.1:0", code=(0, 3))
    machine.serve("serve", "--duration", "2s", code=(0, 3))
    machine.serve("archive", code=(0, 3))
    machine.serve("repair", code=(0, 3))
    config = ["--config", f"/etc/{NAME}/cmd.toml"]
    counted = machine.run(CLI, "query", "SELECT count(*) AS n FROM trades", "--format", "csv", *config)
    assert int(counted.split()[1]) > 200
    owners = {p.stat().st_uid for p in (machine.root / f"var/lib/{NAME}").rglob("*")}
    assert owners == {int(machine.run("id", "-u", NAME))}
    told = json.loads(machine.run(CLI, "status", "--json", "--all"))
    assert told["ok"]
    assert {p["command"] for p in told["processes"]} == {"record", "serve", "archive", "repair"}
    assert machine.run(CLI, "doctor", *config).startswith("state")

    # cron's own crontab, of the user
    machine.run("sh", "-c", "echo '1 2 3 4 5 true' | crontab -")
    machine.run(CLI, "deploy", "cron", "install", "--user", *config)
    lines = machine.run("crontab", "-l").splitlines()
    assert lines[0] == "1 2 3 4 5 true"
    (entry,) = [line for line in lines if "archive-daily.sh" in line]
    machine.run("sh", "-c", entry.split(maxsplit=5)[5].replace(r"\%", "%"), code=(0, 3, 4))
    machine.run(CLI, "deploy", "cron", "remove", "--user", *config)
    assert "archive-daily.sh" not in machine.run("crontab", "-l")
    machine.run("crontab", "-r")

    machine.run("/src/deploy/uninstall.sh", "--purge")
    assert (machine.root / "etc/passwd").read_text() == users
    after = machine.files()
    kept = ("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-")  # useradd's own copies
    assert {path: kind for path, kind in after.items() if path not in before and path not in kept} == {}
    assert {path for path in before if path not in after} == set()
