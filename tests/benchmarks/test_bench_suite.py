"""The suite of benchmarks: its parts run with tiny sizes, its results have one form, and the page says what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.conftest import require

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
KEYS = ["id", "path", "ours", "peer", "peer_name", "ratio", "target", "met"]


@pytest.fixture(scope="module")
def bench() -> Any:
    """Modules of the folder by name, without leaving it on the path."""
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(FOLDER))

    def load(name: str) -> ModuleType:
        spec = spec_from_file_location(f"bench_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path[:] = before
    for name in set(sys.modules) - known:  # harness, report: names that are too plain to stay
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CMD_BENCH_RESULTS": str(folder / "latest.json")}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=env, cwd=ROOT, timeout=240
    )


def test_every_entry_has_exactly_the_keys_and_says_rightly_whether_it_is_met() -> None:
    entries = json.loads((FOLDER / "results" / "latest.json").read_text())
    assert len({e["id"] for e in entries}) == len(entries) > 0
    for e in entries:
        assert list(e) == KEYS, e["id"]
        assert (e["target"] is None) == (e["met"] is None), e["id"]
        assert isinstance(e["path"], str)
        assert isinstance(e["peer_name"], str)
        if e["target"] is not None and e["ratio"] is not None and abs(e["ratio"] - e["target"]) > 0.002:
            assert e["met"] == (e["ratio"] >= e["target"]), e["id"]
        rate = e["id"].startswith("QD")  # rows a second: more is better
        if not rate and e["ratio"] is not None and e["ours"] > 1 and e["peer"] > 1:
            assert e["ratio"] == pytest.approx(e["peer"] / e["ours"], rel=0.1), e["id"]


def test_the_page_says_what_the_results_say(bench: Any) -> None:
    report = bench("report")
    old = report.PAGE.read_text()
    assert report.page(old, report.load(), report.places()) == old, "run: hatch run bench:report --write"


def test_the_table_names_every_row_of_the_targets_also_without_results(bench: Any) -> None:
    report = bench("report")
    table = report.text([])
    for row in [
        "B1",
        "B2",
        "B3",
        "B4",
        "B5",
        "B6",
        "B7",
        "B8",
        "BP",
        "W1",
        "W2",
        "F1",
        "F2",
        "F3",
        "L1",
        "L2",
        "I1",
        "I2",
        "S1",
    ]:
        assert f"{row} " in table
    assert table.count("not measured in this run") == 19


def test_an_entry_counts_as_met_from_the_target_on_and_ours_may_be_nothing(bench: Any) -> None:
    harness = bench("harness")
    made = harness.entry("X1/a", "path", 2.0, 3.0, "peer", 1.5)
    assert list(made) == KEYS
    assert (made["ratio"], made["met"]) == (1.5, True)
    assert not harness.entry("X1/b", "path", 2.0, 2.9, "peer", 1.5)["met"]
    assert harness.entry("X1/c", "path", 0.0, 0.0, "none", 1.0)["ratio"] is None
    assert harness.entry("X1/d", "path", 1.0, 2.0, "peer")["met"] is None


def test_results_are_merged_and_foreign_keys_refused(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = bench("harness")
    monkeypatch.setenv("CMD_BENCH_RESULTS", str(tmp_path / "latest.json"))
    harness.save([harness.entry("X1/a", "path", 1.0, 2.0, "peer"), harness.entry("X2/a", "path", 1.0, 2.0, "peer")])
    harness.save([harness.entry("X1/a", "path", 1.0, 4.0, "peer")])
    assert {e["id"]: e["ratio"] for e in harness.load()} == {"X1/a": 4.0, "X2/a": 2.0}
    assert set(json.loads((tmp_path / "machine.json").read_text())) == {"X1", "X2"}
    with pytest.raises(SystemExit, match="per_s is no key"):
        harness.save([harness.entry("X1/b", "path", 1.0, 4.0, "peer") | {"per_s": 3}])


def test_ways_take_turns_every_second_round_backwards(bench: Any) -> None:
    assert list(bench("harness").interleaved(3, ["a", "b"])) == ["a", "b", "b", "a", "a", "b"]


def test_the_gate_judges_counts(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = bench("instructions")
    monkeypatch.setattr(gate, "vector", lambda: True)
    recorded = {"full": 5000, "scalar": 12000, "book": 700}
    assert gate.judge({"full": 5149, "scalar": 12000, "book": 100}, recorded, "1", "1") == []
    (wrong,) = gate.judge({"full": 5151, "scalar": 12000, "book": 700}, recorded, "1", "2")
    assert "3.0% more" in wrong
    assert "rustc 2, this is 1" in wrong
    assert "--update" in wrong
    (wrong,) = gate.judge({"full": 6001, "scalar": 1, "book": 1}, {**recorded, "full": 6000}, "1", "1")
    assert "the target is at most 6,000" in wrong
    monkeypatch.setattr(gate, "vector", lambda: False)
    assert gate.judge({"full": 12000, "scalar": 12000, "book": 700}, recorded, "1", "1") == []


def test_the_recorded_counts_meet_the_targets(bench: Any) -> None:
    recorded = json.loads((FOLDER / "instructions.json").read_text())
    assert {way: recorded[way] <= limit for way, limit in bench("instructions").LIMITS.items()} == {
        "full": True,
        "book": True,
    }


def test_the_gate_without_valgrind_says_what_to_install(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cargo").symlink_to("/bin/true")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "instructions.py"), "--check"],
        capture_output=True, text=True, check=False, env=os.environ | {"PATH": str(tools)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "valgrind is missing; install it" in done.stderr


def test_an_unknown_part_is_a_clear_error(tmp_path: Path) -> None:
    for script in ("all.py", "book.py", "sockets.py"):
        done = run(tmp_path, str(FOLDER / script), "nonsense")
        assert done.returncode == 2
        assert "unknown part nonsense" in done.stderr


WAYS = ["bisect_bytes", "bisect_floats", "bisect_top20"]
OURS = ["feed_best", "floats_best", "top20_buffer", "top20_tuples", "snapshots"]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import book_stream; book_stream.write({str(folder)!r}, 60, 3)"
    assert run(folder, "-c", code).returncode == 0
    return folder


@pytest.mark.parametrize("way", WAYS + OURS)
def test_a_way_of_the_book_agrees_with_the_oracle(stream: Path, way: str) -> None:
    done = run(stream, str(FOLDER / "book_run.py"), way, str(stream))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["us"] > 0


@pytest.mark.parametrize("way", ["bytes_best", "round_robin_7", "allocations"])
def test_a_native_way_of_the_book_agrees_with_the_oracle(stream: Path, way: str, native_there: None) -> None:
    done = run(stream, str(FOLDER / "book_run.py"), way, str(stream))
    assert done.returncode == 0, done.stderr


def test_a_wrong_answer_ends_the_run(stream: Path, tmp_path: Path) -> None:
    for name in ("stream.txt", "top20.bin"):
        (tmp_path / name).write_bytes((stream / name).read_bytes())
    lines = (stream / "tops.txt").read_text().splitlines()
    lines[31] = "1.0 2.0"
    (tmp_path / "tops.txt").write_text("\n".join(lines))
    done = run(tmp_path, str(FOLDER / "book_run.py"), "bisect_bytes", str(tmp_path))
    assert done.returncode == 1
    assert "wrong results, first at 31 of 60" in done.stderr


@pytest.mark.parametrize("way", ["w1_ours", "w1_picows", "w1_websockets", "w2_feed", "w2_picows_bisect"])
def test_a_way_of_the_sockets_agrees_with_the_oracle(stream: Path, way: str) -> None:
    done = run(stream, str(FOLDER / "sockets_run.py"), way, str(stream))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["us"] > 0


@pytest.fixture
def native_there() -> None:
    require("native", find_spec("cmd_native") is not None, "install cmd-native")
