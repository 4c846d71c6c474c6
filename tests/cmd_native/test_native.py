"""Which parts run: cmd-native where it is installed, pure Python where CMD_PURE says so or it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import require

HOW = "install cmd-native, which deploy/test.sh builds where a Rust toolchain is"
SHOW = "from cmd_common import native, log; print(native, log.logger.native)"


def shown(code: str = SHOW, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "CMD_PURE"} | variables
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("pure", "expected"), [("", "True True"), ("0", "True True"), ("1", "False False")])
def test_native_runs_unless_it_is_forbidden(pure: str, expected: str) -> None:
    require("native", find_spec("cmd_native") is not None, HOW)
    assert shown(CMD_PURE=pure).stdout.strip() == expected


def test_without_it_everything_is_pure() -> None:
    absent = "import sys; sys.modules['cmd_native'] = None; "
    # None in sys.modules raises ModuleNotFoundError of that name, as an absent module does
    assert shown(absent + SHOW).stdout.strip() == "False False"


def test_a_broken_one_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    (tmp_path / "cmd_native.py").write_text("import cmd_nothing_of_this_name\n")
    ran = shown(PYTHONPATH=str(tmp_path))
    assert ran.returncode == 1
    assert "No module named 'cmd_nothing_of_this_name'" in ran.stderr


def test_it_has_one_version_with_the_others() -> None:
    require("native", find_spec("cmd_native") is not None, HOW)
    import cmd_common
    import cmd_native

    assert cmd_native.__version__ == cmd_common.__version__


def test_the_build_says_in_one_line_that_there_is_no_toolchain(tmp_path: Path) -> None:
    backend = Path(__file__).parents[2] / "packages" / "cmd-native" / "backend"
    (tmp_path / "maturin.py").write_text("")  # the backend imports it; without a toolchain it is never asked
    code = "import cmd_native_build as b; b.build_wheel('.')"
    ran = shown(code, PATH=str(tmp_path), PYTHONPATH=f"{tmp_path}{os.pathsep}{backend}")
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert len(ran.stderr.strip().splitlines()) == 1
    assert "there is no cargo on the PATH" in ran.stderr
