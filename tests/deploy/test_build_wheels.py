"""deploy/build-wheels.sh as far as it can go wrong without building everything; deploy/check-members.sh runs it whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "build-wheels.sh"


def build(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("CMD_REQUIRE", "CMD_WHEEL_ENV")} | variables
    return subprocess.run(
        [str(SCRIPT), *map(str, arguments)], env=env, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture
def no_cargo(tmp_path: Path) -> str:
    """A PATH with all that is there but cargo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*") if Path(directory).is_dir() else ():
            link = folder / program.name
            if not program.name.startswith(("cargo", "rustc", "rustup")) and not link.is_symlink():
                link.symlink_to(program)
    assert shutil.which("cargo", path=str(folder)) is None
    return str(folder)


def test_without_rust_the_pure_wheels_are_built_and_a_line_tells_what_is_left_out(
    tmp_path: Path, no_cargo: str
) -> None:
    done = build("--out", tmp_path / "out", "--no-verify", "cmd-okx", "cmd-native", PATH=no_cargo)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["cmd_okx-0.1.0-py3-none-any.whl"]
    assert "no Rust toolchain (cargo): cmd-native left out; install one (rustup)" in done.stderr
    with zipfile.ZipFile(tmp_path / "out" / "cmd_okx-0.1.0-py3-none-any.whl") as wheel:
        assert "cmd_okx/py.typed" in wheel.namelist()


def test_where_everything_is_asked_for_a_missing_toolchain_is_an_error(tmp_path: Path, no_cargo: str) -> None:
    done = build("--out", tmp_path / "out", "cmd-common", "cmd-native", PATH=no_cargo, CMD_REQUIRE="all")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("build-wheels.sh: error: no Rust toolchain (cargo) for cmd-native")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cmd-nothing"], "no distribution cmd-nothing in packages/"),
        (["--fast"], "unknown option --fast"),
        (["--out"], "--out needs a folder"),
    ],
)
def test_what_it_does_not_know_is_told_in_one_line(arguments: list[str], told: str) -> None:
    done = build(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr
