"""The outsider's package: installed beside the workspace, it is an exchange like the others, and nothing else changes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

from cmd_common.feed_base import FeedBase

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "custom_exchange"
CLI = [sys.executable, "-m", "cmd_cli"]


def install(target: Path) -> None:
    """Do what an installer does with a wheel, without a network: modules, and metadata with the entry points."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    (package,) = (EXAMPLE / "src").iterdir()
    copytree(package, target / package.name, ignore=ignore_patterns("__pycache__"))
    info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.3\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process for which the package is installed; no source of the example is on its path."""
    target = tmp_path_factory.mktemp("site")
    install(target)
    return {**os.environ, "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}


def run(environment: dict[str, str], folder: Path, *arguments: str, code: int = 0) -> Any:
    done = subprocess.run(
        [*CLI, "--json", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def replay(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The emulator in a process of its own; the facts of its ready line."""
    command = [
        "replay",
        "--exchange",
        "exampex",
        "--simulate",
        "--symbols",
        "2",
        "--seed",
        "11",
        "--speed",
        "20",
        "--duration",
        "60s",
    ]
    process = subprocess.Popen([*CLI, *command], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def truth(endpoint: str) -> dict[str, Any]:
    import urllib.request

    with urllib.request.urlopen(f"{endpoint}/__replay/truth?trades=1", timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def test_it_passes_its_own_conformance_suite(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-c", os.devnull,
         "--rootdir", str(EXAMPLE), str(EXAMPLE / "tests")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 25


def test_symbols_are_listed(environment: dict[str, str], tmp_path: Path, replay: dict[str, Any]) -> None:
    endpoint = ["--endpoint", f"exampex={replay['endpoint']}"]
    listed = run(environment, tmp_path, "symbols", "--exchange", "exampex", "--symbols", "all", *endpoint)
    assert [(i["venue"], i["symbol"], i["unified"]) for i in listed] == [("exampex", s, s) for s in replay["symbols"]]


def test_it_is_recorded_and_equals_the_market_of_its_emulator(
    environment: dict[str, str], tmp_path: Path, replay: dict[str, Any]
) -> None:
    endpoint = ["--endpoint", f"exampex={replay['endpoint']}"]
    store = f"parquet:{tmp_path / 'store'}"
    summary = run(
        environment, tmp_path, "record", "--exchange", "exampex", "--symbols", "all", "--types",
        "trades,quotes,candles,book", "--store", store, *endpoint, "--until-end",
    )  # fmt: skip
    facts = truth(replay["endpoint"])
    assert summary["gaps"] == 0
    for symbol in replay["symbols"]:
        book, true = summary["books"][f"exampex:{symbol}"], facts["books"][symbol]
        assert book["state"] == "LIVE"
        assert (book["best_bid"], book["best_ask"]) == (true["bids"][0], true["asks"][0])
        rows = run(
            environment, tmp_path, "query", f"SELECT trade_id FROM trades WHERE symbol = '{symbol}'", "--store", store
        )
        assert sorted(r["trade_id"] for r in rows) == sorted(facts["trade_ids"][symbol])
    assert summary["records"]["quotes"] > 0
    assert summary["records"]["candles"] > 0


def test_two_days_of_history_are_archived_over_rest(
    environment: dict[str, str], tmp_path: Path, replay: dict[str, Any]
) -> None:
    endpoint = ["--endpoint", f"exampex={replay['endpoint']}"]
    store = f"parquet:{tmp_path / 'store'}"
    first, last = replay["history_days"]
    symbol = replay["symbols"][0]
    command = [
        "archive",
        "--exchange",
        "exampex",
        "--symbols",
        symbol,
        "--types",
        "trades,candles",
        "--start",
        first,
        "--end",
        last,
    ]
    summary = run(environment, tmp_path, *command, "--store", store, *endpoint)
    assert summary["gaps"] == 0
    (row,) = run(
        environment, tmp_path, "query",
        "SELECT count(*) AS n, count(DISTINCT trade_seq) AS ids, max(trade_seq) - min(trade_seq) + 1 AS span FROM trades",
        "--store", store,
    )  # fmt: skip
    assert row["n"] == row["ids"] == row["span"] == 2 * 8640
    again = run(environment, tmp_path, *command, "--store", store, *endpoint)
    assert again["rows"].get("trades", 0) == 0


def test_nothing_outside_its_folder_knows_it() -> None:
    """It is found by its entry point alone: no file of the workspace but its documents and this test name it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        files = [str(p.relative_to(ROOT)) for p in (ROOT / "packages").rglob("*.*")]
    else:
        files = listed.stdout.splitlines()
    naming = set()
    for name in files:
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".toml", ".txt", ".sh", ".json", ".md"):
            text = path.read_text("utf-8", "replace").lower()
            if "exampex" in text and not name.startswith("examples/custom_exchange/"):
                naming.add(name.split("/")[0] if name.count("/") else name)
    assert naming <= {"docs", "tests", "deploy", "CHANGELOG.md", "README.md"}
    assert tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"] == {
        "cmd.exchanges": {"exampex": "cmd_example_exchange:EXAMPEX"}
    }


def test_the_walk_quotes_the_example_as_it_is() -> None:
    """Every piece of code in docs/add-an-exchange.md stands in the example, word by word."""
    page = (ROOT / "docs" / "add-an-exchange.md").read_text()
    pieces = re.findall(r"^```(?:python|toml)\n(.*?)^```$", page, re.M | re.S)
    files = [p.read_text() for p in EXAMPLE.rglob("*") if p.suffix in (".py", ".toml")]
    assert len(pieces) >= 9
    for piece in pieces:
        assert any(piece in text for text in files), piece
    for name in re.findall(r"`(cmd_common\.[\w.]+)`", page):
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute) or import_module(name), name
    for name in re.findall(r"`(_[a-z_]+|[a-z_]+ = (?:True|False))`", page):
        assert hasattr(FeedBase, name.partition(" ")[0]), name
