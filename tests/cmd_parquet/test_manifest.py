from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = """
import resource, signal, sys
from cmd_common.errors import StoreError
from cmd_common.seams import OsDisk
from cmd_parquet.manifest import Manifest

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
manifest = Manifest(OsDisk(), sys.argv[1], create=True)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
try:
    with manifest.transaction() as transaction:
        for number in range(10_000):  # more than SQLite keeps in memory
            transaction.journal_done(f"{number:0500}")
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
with manifest.transaction() as transaction:
    transaction.journal_done("after")
assert manifest.check() == []
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_disk_that_is_full_within_a_transaction_is_named_and_damages_nothing(tmp_path: Path) -> None:
    (tmp_path / "_store").mkdir()
    result = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("cannot use the manifest")
    assert "damaged" not in result.stdout
