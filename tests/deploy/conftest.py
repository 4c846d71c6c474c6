"""Fixtures of the deployment tests; what they share besides is in installed_questdb.py."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "cmd_questdb")]

import questdb_server as qs  # noqa: E402
from installed_questdb import Installed  # noqa: E402


@pytest.fixture(scope="session")
def questdb_parts() -> None:
    """Java and the jar are there; otherwise the test is skipped (a failure with CMD_REQUIRE=all)."""
    if qs.find_jar() is None or qs.find_java() is None:
        pytest.skip(f"questdb is missing; {qs.HOW}")


@pytest.fixture
def installed(questdb_parts: None, tmp_path: Path) -> Iterator[Installed]:
    """A fresh root with an installed server, not started."""
    there = Installed(tmp_path / "root")
    there.install()
    yield there
    there.stop()
    shutil.rmtree(there.prefix, ignore_errors=True)


@pytest.fixture(scope="session")
def plain_questdb(questdb_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qs.QuestDBServer]:
    """A running server that nothing was installed for, with a read-only PG user as install.sh makes it."""
    reader = {"pg.readonly.user.enabled": "true", "pg.readonly.user": "cmd_reader", "pg.readonly.password": "reader"}
    server = qs.QuestDBServer(tmp_path_factory.mktemp("questdb-deploy"), settings=reader)
    try:
        yield server.start()
    finally:
        server.close()
