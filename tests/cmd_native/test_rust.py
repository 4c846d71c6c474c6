"""The tests that are written in Rust: of what knows no Python, allocation counts included."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import require

PACKAGE = Path(__file__).parents[2] / "packages" / "cmd-native"


def test_the_rust_tests_pass(tmp_path: Path) -> None:
    require("rust", shutil.which("cargo") is not None, "install a Rust toolchain")
    ran = subprocess.run(
        ["cargo", "test", "--no-default-features", "--quiet", "--manifest-path", str(PACKAGE / "Cargo.toml")],
        env={**os.environ, "CARGO_TARGET_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
