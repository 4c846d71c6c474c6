"""The examples of clients and of a writer run as they stand, against a real server fed by simulated venues."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import struct
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

from cmd_common.errors import UsageError
from cmd_common.records import AggregatedBook

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIENTS = EXAMPLES / "clients"
CLI = [sys.executable, "-m", "cmd_cli"]
TIMEOUT = 120
VENUES = ("binance-spot", "binance-usdm")
NAME = "binance-spot:BTCUSDT"


@contextmanager
def started(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[dict[str, Any]]:
    """Run a command of cmd-cli until the end of the block; yields what it says when it is ready."""
    process = subprocess.Popen(
        [*CLI, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        ready = process.stdout.readline()
        if not ready:
            pytest.fail(f"{arguments[0]} ended: {process.stderr.read()}")
        yield json.loads(ready)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()


def install_writer(target: Path) -> None:
    """Do what an installer does with a wheel, without a network."""
    project = tomllib.loads((EXAMPLES / "custom_writer" / "pyproject.toml").read_text())["project"]
    (package,) = (EXAMPLES / "custom_writer" / "src").iterdir()
    copytree(package, target / package.name, ignore=ignore_patterns("__pycache__"))
    info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.3\nName: {project['name']}\nVersion: {project['version']}\n")
    lines: list[str] = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process for which the example's writer is installed."""
    site = tmp_path_factory.mktemp("site")
    install_writer(site)
    found = {k: v for k, v in os.environ.items() if not k.startswith("CMD_")}
    return found | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[str]:
    """Two simulated venues of different seeds."""
    folder = tmp_path_factory.mktemp("venues")
    with ExitStack() as stack:
        found = []
        for seed, venue in enumerate(VENUES, 3):
            command = ["--exchange", venue, "--simulate", "--symbols", "BTCUSDT", "--speed", "5", "--seed", str(seed)]
            facts = stack.enter_context(started(folder, environment, "replay", *command))
            found.append(f"{venue}={facts['endpoint']}")
        yield ",".join(found)


def serve(folder: Path, environment: dict[str, str], endpoints: str, *more: str) -> Any:
    """A server of both venues over TCP and a Unix socket."""
    return started(
        folder, environment, "serve", "--exchange", ",".join(VENUES), "--symbols", "BTC-USDT", "--types", "trades,book",
        "--endpoint", endpoints, "--listen", "tcp:127.0.0.1:0", "--listen", f"unix:{folder / 's'}", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], endpoints: str
) -> Iterator[dict[str, str]]:
    """Where the server of most tests listens."""
    with serve(tmp_path_factory.mktemp("served"), environment, endpoints) as ready:
        yield dict(zip(("tcp", "unix"), ready["listen"], strict=True))


def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(CLIENTS / program), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_trades_and_the_book_beside_them(server: dict[str, str], tmp_path: Path) -> None:
    lines = run("trades_sync.py", server["tcp"], NAME, "20", folder=tmp_path).stdout.splitlines()
    assert len(lines) == 20
    for line in lines:
        trade, _, prices = line.partition("; ")
        bid, ask = (float(price) for price in prices.split(" | "))
        assert bid < ask
        assert trade.split()[0] in ("buy", "sell")


def test_trades_with_asyncio_and_events(server: dict[str, str], tmp_path: Path) -> None:
    done = run("trades_async.py", server["unix"], NAME, "10", folder=tmp_path)
    assert len(done.stdout.splitlines()) == 10
    assert "# Connected(" in done.stderr
    assert "# Subscribed(" in done.stderr


def test_the_book_in_numpy(server: dict[str, str], tmp_path: Path) -> None:
    (line,) = run("book_numpy.py", server["unix"], NAME, "1", folder=tmp_path).stdout.splitlines()
    found = eval(line, {"__builtins__": {}})
    assert -1 < found["imbalance"] < 1
    assert found["bid_quantity"] > 0
    assert found["price_of_half"] > 0


def test_trades_to_csv_are_whole_and_in_order(server: dict[str, str], tmp_path: Path) -> None:
    run("trades_csv.py", server["tcp"], "trades *:BTCUSDT", "trades.csv", "200", folder=tmp_path)
    with (tmp_path / "trades.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 200
    venues = {row["venue"] for row in rows}  # where one connects late, only the other
    assert venues <= set(VENUES)
    for venue in venues:
        ids = [int(row["trade_id"]) for row in rows if row["venue"] == venue]
        assert ids == list(range(ids[0], ids[0] + len(ids)))  # no hole and no duplicate
    assert all(float(row["price"]) > 0 and row["time"].endswith("+00:00") for row in rows)


def test_an_alert_when_the_venues_cross(server: dict[str, str], tmp_path: Path) -> None:
    # Two markets of different seeds: sooner or later one bids more than the other asks.
    (line,) = run("crossed_alert.py", server["tcp"], "BTC-USDT", "0", "1", folder=tmp_path).stdout.splitlines()
    assert line.startswith("BTC-USDT: binance-")
    assert " bids " in line
    assert " crossed for " in line


@pytest.mark.parametrize("program", sorted(p.name for p in CLIENTS.glob("*.py")))
def test_a_mistake_is_one_clear_line(program: str, tmp_path: Path) -> None:
    for arguments, part in (
        ((), f"python {program}"),
        ((f"unix:{tmp_path}/none", NAME, "f.csv"), "error: no server at"),
    ):
        done = subprocess.run(
            [sys.executable, str(CLIENTS / program), *arguments[: 3 if program == "trades_csv.py" else 2]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 1
        assert part in done.stderr
        assert "Traceback" not in done.stderr


def test_an_alert_names_who_bids_and_who_asks() -> None:
    alert = runpy.run_path(str(CLIENTS / "crossed_alert.py"))["alert"]
    bids, asks = struct.pack("<ddd", 101.0, 2.0, 1.0), struct.pack("<ddd", 100.5, 3.0, 0.0)
    row = AggregatedBook(1, 2, "BTC-USDT", 0, "a:X,b:Y", "", bids, asks, 4_000_000)
    assert alert(row) == "BTC-USDT: b:Y bids 101, a:X asks 100.5, +0.5 for 2; crossed for 4 ms"


def test_a_writer_of_ones_own_stores_what_is_served(
    environment: dict[str, str], endpoints: str, tmp_path: Path
) -> None:
    with serve(tmp_path, environment, endpoints, "--store", f"jsonl:{tmp_path / 'stored'}") as ready:
        run("trades_csv.py", ready["listen"][1], f"trades {NAME}", "trades.csv", "50", folder=tmp_path)
    stored = {}
    for line in (tmp_path / "stored" / "trades.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["type"] == "trade"
        stored[row["venue"], row["trade_id"]] = row["price"], row["quantity"], row["side"]
    with (tmp_path / "trades.csv").open(newline="") as f:
        served = list(csv.DictReader(f))
    assert len(served) == 50
    for row in served:
        trade = float(row["price"]), float(row["quantity"]), row["side"]
        assert stored[row["venue"], row["trade_id"]] == trade
    assert (tmp_path / "stored" / "book_snapshots.jsonl").stat().st_size > 0


def test_the_writer_takes_arrow_batches_and_its_reader_tells_the_last_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.syspath_prepend(str(EXAMPLES / "custom_writer" / "src"))
    store = import_module("cmd_example_writer").JsonLines()
    trade = {"ts_event": 1, "ts_recv": 2, "venue": "v", "symbol": "S", "trade_id": "7", "trade_seq": 7, "price": 1.5}
    trade |= {"quantity": 2.0, "side": "buy", "flags": 0}
    rows = [trade, trade | {"trade_id": "8", "trade_seq": 8}]
    with store.writer(str(tmp_path)) as writer:
        assert writer.write_batch("trades", pa.Table.from_pylist(rows)) == 2
        assert writer.counters.records == {"trades": 2}
    with (tmp_path / "trades.jsonl").open("ab") as file:
        file.write(b'{"half a line of S')
    with store.reader(str(tmp_path)) as reader:
        assert reader.tables() == ["trades"]
        latest = reader.latest("trades", venue="v", symbol="S")
        assert (latest.trade_id, latest.price) == ("8", 1.5)
        assert reader.latest("trades", venue="v", symbol="other") is None
        with pytest.raises(UsageError, match="no queries"):
            reader.sql("SELECT 1")


def test_the_table_of_examples_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    there = {p.name for p in EXAMPLES.iterdir() if p.is_dir() and any(p.iterdir())} - {"clients"}
    there |= {f"clients/{p.name}" for p in CLIENTS.glob("*.py")}
    for name in sorted(there):
        assert f"]({name})" in text, name
