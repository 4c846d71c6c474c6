"""Helper modules lie beside the tests that use them; without the package only one test is left, which says so."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

try:
    import cmd_aeron
except ModuleNotFoundError as error:
    if error.name not in ("cmd_aeron", "cmd_aeron._native"):
        raise
    collect_ignore_glob = ["test_[!p]*.py", "test_pr[!e]*.py"]
else:
    from aeron_folders import fresh

    @pytest.fixture
    def directory() -> Iterator[str]:
        """A path for an Aeron directory, gone afterwards."""
        with fresh() as path:
            yield path

    @pytest.fixture(scope="module")
    def driver() -> Iterator[cmd_aeron.MediaDriver]:
        """A driver for a whole module, with small terms."""
        with fresh() as path, cmd_aeron.MediaDriver(path, term_length=1 << 16, ipc_term_length=1 << 16) as made:
            yield made

    @pytest.fixture
    def client(driver: cmd_aeron.MediaDriver) -> Iterator[cmd_aeron.Client]:
        """A client of that driver."""
        with cmd_aeron.Client(driver.directory, name="tests") as made:
            yield made
