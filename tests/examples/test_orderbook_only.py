"""The example runs with cmd-common alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "orderbook_only" / "main.py"
# Anything of the workspace but cmd_common, and every heavy library, is refused.
GUARD = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if (top.startswith("cmd_") and top != "cmd_common") or top in {"pyarrow", "duckdb", "httpx2", "websockets", "click"}:
            raise ModuleNotFoundError(f"the example must not need {name}", name=name)
sys.meta_path.insert(0, Refuse())
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_it_prints_a_ladder_with_cmd_common_alone() -> None:
    done = subprocess.run([sys.executable, "-c", GUARD, str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "LIVE" in done.stdout
    assert len(done.stdout.splitlines()) >= 8
