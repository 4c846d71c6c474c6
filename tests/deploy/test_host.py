"""install.sh into a fresh root, with an exchange on loopback: every job runs for real, upgrade, backup, restore, nothing left."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import require

from cmd_common.io import open_reader

DEPLOY = Path(__file__).parents[2] / "deploy"
TIMEOUT = 240


def script(name: str, *args: str, code: int = 0) -> str:
    ran = subprocess.run(
        [str(DEPLOY / name), *args], capture_output=True, text=True, timeout=TIMEOUT, check=False, env={**os.environ}
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A simulated exchange whose yesterday is in its archive."""
    today = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    words = [
        sys.executable, "-m", "cmd_cli", "replay", "--exchange", "binance-spot", "--simulate", "--symbols", "BTCUSDT",
        "--start", today, "--history-days", "2", "--history-trades", "200",
    ]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield str(process.stdout.readline().split('"endpoint":"')[1].split('"')[0])
        process.terminate()


@pytest.fixture(scope="module")
def host(exchange: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    require("systemd-analyze", shutil.which("systemd-analyze") is not None, "install systemd")
    root = tmp_path_factory.mktemp("host")
    said = script("install.sh", "--prefix", str(root), "--endpoint", exchange, "--jobs", "record,serve,archive,repair", "--types", "trades")  # fmt: skip
    assert "0 findings" in said
    yield root
    shutil.rmtree(root, ignore_errors=True)


def exec_start(root: Path, job: str) -> list[str]:
    text = (root / f"etc/systemd/system/cryptomarketdata-{job}.service").read_text()
    (line,) = [one.removeprefix("ExecStart=") for one in text.splitlines() if one.startswith("ExecStart=")]
    return shlex.split(line)


def trades(root: Path) -> int:
    with open_reader(f"parquet:{root}/var/lib/cryptomarketdata/data") as reader:
        return len(list(reader.records("trades"))) if "trades" in reader.tables() else 0


def each_job_runs_as_its_unit_says(host: Path) -> None:
    for job in ("record", "serve"):
        process = subprocess.Popen(exec_start(host, job), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = ""
        assert process.stderr is not None
        while "Ctrl-C stops" not in said:
            line = process.stderr.readline()
            assert line, f"{job} ended: {said}"
            said += line
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in (0, 3), said
    for job in ("archive", "repair"):
        ran = subprocess.run(exec_start(host, job), capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert ran.returncode in (0, 3), ran.stderr
    assert trades(host) >= 200
    again = subprocess.run(exec_start(host, "archive"), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert again.returncode == 0, again.stderr


def it_is_installed_once(host: Path, exchange: str) -> None:
    before = {p: p.stat().st_mtime_ns for p in (host / "etc").rglob("*") if p.is_file()}
    said = script("install.sh", "--prefix", str(host), "--endpoint", exchange)
    assert "the environment is there" in said
    assert "the configuration is there" in said
    assert {p: p.stat().st_mtime_ns for p in (host / "etc").rglob("*") if p.is_file()} == before
    assert (host / "etc/cryptomarketdata/secrets.env").stat().st_mode & 0o777 == 0o600
    assert (host / "etc/cryptomarketdata/cmd.toml").stat().st_mode & 0o777 == 0o640


def a_backup_comes_back(host: Path) -> None:
    count = trades(host)
    said = script("backup.sh", "--prefix", str(host), "--keep", "2")
    assert "backup" in said
    shutil.rmtree(host / "var/lib/cryptomarketdata/data")
    script("restore.sh", "--prefix", str(host), "--with-config")
    assert trades(host) == count


def a_new_version_is_switched_to_and_back(host: Path) -> None:
    current = host / "opt/cryptomarketdata/current"
    first = os.readlink(current)
    script("upgrade.sh", "--prefix", str(host))
    second = os.readlink(current)
    assert second != first
    assert Path(first).is_dir()  # to go back to
    script("upgrade.sh", "--prefix", str(host), "--rollback")
    assert os.readlink(current) == first
    config = host / "etc/cryptomarketdata/cmd.toml"
    text = config.read_text()
    config.write_text(text + "\n[nonsense]\n")
    try:
        said = script("upgrade.sh", "--prefix", str(host), code=1)
        assert "nothing was changed" in said
        assert os.readlink(current) == first
    finally:
        config.write_text(text)


def dry_runs_touch_nothing(host: Path, tmp_path: Path) -> None:
    script("install.sh", "--prefix", str(tmp_path / "new"), "--dry-run")
    assert not (tmp_path / "new").exists()
    before = sorted(p for p in host.rglob("*") if "__pycache__" not in p.parts)
    script("uninstall.sh", "--prefix", str(host), "--purge", "--dry-run")
    script("backup.sh", "--prefix", str(host), "--dry-run")
    assert sorted(p for p in host.rglob("*") if "__pycache__" not in p.parts) == before


def nothing_is_left(host: Path) -> None:
    script("uninstall.sh", "--prefix", str(host))
    assert sorted(p.name for p in host.iterdir()) == ["etc", "opt", "var"]
    assert not list((host / "etc/systemd/system").iterdir())
    assert (host / "etc/cryptomarketdata/cmd.toml").is_file()
    assert trades(host) >= 200
    script("uninstall.sh", "--prefix", str(host), "--purge")
    assert list(host.rglob("*")) == []


def test_the_life_of_a_host(host: Path, exchange: str, tmp_path: Path) -> None:
    """One test, in this order: an installation is made once, and its steps follow on each other."""
    each_job_runs_as_its_unit_says(host)
    it_is_installed_once(host, exchange)
    a_backup_comes_back(host)
    a_new_version_is_switched_to_and_back(host)
    dry_runs_touch_nothing(host, tmp_path)
    nothing_is_left(host)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("install.sh", ["--prefix", "relative"], "absolute path"),
        ("install.sh", ["--what"], "unknown option"),
        ("install.sh", ["--prefix", "/nowhere", "--config", "/nowhere/cmd.toml"], "no configuration at"),
        ("upgrade.sh", ["--prefix", "/nowhere"], "nothing is installed"),
        ("backup.sh", ["--prefix", "/nowhere"], "nothing is installed"),
        ("restore.sh", ["--prefix", "/nowhere"], "nothing is installed"),
    ],
)
def test_what_cannot_be_is_said(name: str, args: list[str], words: str) -> None:
    assert words in script(name, *args, code=1)


def test_the_scripts_of_cron_are_one() -> None:
    ours = DEPLOY.parent / "packages/cmd-cli/src/cmd_cli/deployment/archive-daily.sh"
    assert (DEPLOY / "cron/archive-daily.sh").read_text() == ours.read_text()
    entry = (DEPLOY / "cron/crontab").read_text().splitlines()[-1]
    assert entry.split()[:5] == ["40", "0", "*", "*", "*"]
