"""The sums of a run, and that a goal that is not met is said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reliability_script", ROOT / "deploy" / "reliability.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(folder: Path, name: str, *facts: tuple[str, str, float]) -> None:
    text = "".join(json.dumps({"what": w, "of": of, "count": n}) + "\n" for w, of, n in facts)
    (folder / f"{name}.jsonl").write_text(text)


ENOUGH = (
    ("seeds", "feeds and store", 5_000),
    ("virtual_hours", "feeds and store", 12.5),
    ("same_seeds", "", 200),
    ("fuzz_seconds", "csv", 60),
    ("inputs", "csv", 1_000),
    ("model_steps", "BookMachine", 100_000),
    ("kills", "parquet", 150),
    ("damages", "parquet", 1_000),
    ("conformance_cases", "websocket", 494),
    ("connections", "at once", 500),
    ("connections", "stopped", 5),
    ("faults", "drop", 3),
)


def test_the_counts_of_all_processes_are_added_up(tmp_path: Path, script: ModuleType) -> None:
    lines(tmp_path, "1", *ENOUGH)
    lines(tmp_path, "2", ("kills", "questdb", 50), ("faults", "drop", 4), ("faults", "reset", 1))
    assert script.main([str(tmp_path), "--check", "ci", "--write", str(tmp_path / "r.json")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert {k: found[k] for k in ("seeds", "hours", "faults", "kills", "inputs")} == {
        "seeds": 5_000, "hours": 12.5, "faults": {"drop": 7, "reset": 1}, "kills": 200, "inputs": 1_000,
    }  # fmt: skip
    assert found["of"]["kills"] == {"parquet": 150, "questdb": 50}
    assert found["open_defects"] == script.open_defects((ROOT / "docs" / "reliability.md").read_text())


@pytest.mark.parametrize("left", [n for n, f in enumerate(ENOUGH) if f[0] != "faults"])
def test_every_goal_can_be_missed(
    tmp_path: Path, script: ModuleType, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(tmp_path, "1", *ENOUGH[:left], *ENOUGH[left + 1 :], ("kills", "questdb", 50))
    assert script.main([str(tmp_path), "--check", "ci"]) == 1
    assert "not met" in capsys.readouterr().err


def test_a_target_that_was_fuzzed_too_little_is_named(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(tmp_path, "1", *ENOUGH, ("kills", "questdb", 50), ("fuzz_seconds", "wire", 59))
    assert script.main([str(tmp_path), "--check", "ci"]) == 1
    assert capsys.readouterr().err == "reliability.py: not met: seconds of fuzzing a target: wire: 59 of 60\n"


def test_open_defects_are_the_rows_of_the_table(script: ModuleType) -> None:
    page = "# x\n\n## Open defects\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\n## Next\n\n| c |\n|---|\n| 5 |\n"
    assert script.open_defects(page) == 2
    assert script.open_defects("\n## Open defects\n\nNone.\n") == 0
    with pytest.raises(ValueError, match="no part"):
        script.open_defects("# x\n")


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text("{\n")
    script = str(ROOT / "deploy" / "reliability.py")
    ran = subprocess.run([sys.executable, script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "1.jsonl:1: not a line of counts" in ran.stderr


@pytest.mark.parametrize("wrong", [["--hours"], ["--hours", "x"], ["--seeds", "0"], ["now", "1"]])
def test_the_search_says_how_it_is_used(wrong: list[str]) -> None:
    command = ["bash", str(ROOT / "deploy" / "reliability.sh"), *wrong]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("reliability.sh: error: usage:")
