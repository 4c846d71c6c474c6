"""The server the tests of this folder share: one for each pytest process, emptied before each test.

Fixtures: ``questdb`` (a running server with an empty database), ``questdb_server`` (the same server, as it is),
``questdb_auth`` (an empty one that asks for a name and password), ``questdb_factory`` (servers of a test's own),
``fault_proxy`` (a proxy before ``questdb`` that loses, delays, cuts), ``small_disk`` (a disk that can run full).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import questdb_server as qs
from fault_proxy import FaultProxy
from small_disk import HOW as DISK_HOW
from small_disk import SmallDisk

USER, PASSWORD = "cmd_ingest", "s3cret-word"
Factory = Callable[..., qs.QuestDBServer]


@pytest.fixture(scope="session")
def questdb_parts() -> None:
    """Java and the jar are there; otherwise the test is skipped (a failure with CMD_REQUIRE=all)."""
    if qs.find_jar() is None or qs.find_java() is None:
        pytest.skip(f"questdb is missing; {qs.HOW}")


@pytest.fixture(scope="session")
def questdb_server(questdb_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qs.QuestDBServer]:
    """The server of this pytest process, with whatever the tests before left in it."""
    server = qs.QuestDBServer(tmp_path_factory.mktemp("questdb"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def questdb(questdb_server: qs.QuestDBServer) -> Iterator[qs.QuestDBServer]:
    """The server, running, with an empty database; the test may stop, kill or pause it."""
    yield questdb_server.empty()
    questdb_server.resume()


@pytest.fixture(scope="session")
def _auth_server(questdb_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qs.QuestDBServer]:
    server = qs.QuestDBServer(
        tmp_path_factory.mktemp("questdb-auth"),
        user=USER,
        password=PASSWORD,
        settings={
            "pg.user": "cmd_admin",
            "pg.password": PASSWORD,
            "pg.readonly.user.enabled": "true",
            "pg.readonly.user": "cmd_reader",
            "pg.readonly.password": PASSWORD,
        },
    )
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def questdb_auth(_auth_server: qs.QuestDBServer) -> Iterator[qs.QuestDBServer]:
    """A server with an empty database that asks for ``USER`` and ``PASSWORD``; read-only PG user ``cmd_reader``."""
    yield _auth_server.empty()
    _auth_server.resume()


@pytest.fixture
def questdb_factory(questdb_parts: None, tmp_path: Path) -> Iterator[Factory]:
    """Make servers with settings of their own: ``questdb_factory(settings={...}, root=..., user=...)``, not started."""
    made: list[qs.QuestDBServer] = []

    def make(*, root: Path | None = None, **options: Any) -> qs.QuestDBServer:
        server = qs.QuestDBServer(root or tmp_path / f"questdb-{len(made)}", **options)
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()
        shutil.rmtree(server.root, ignore_errors=True)


@pytest.fixture
def fault_proxy(questdb: qs.QuestDBServer) -> Iterator[FaultProxy]:
    """A proxy before the server; it passes everything until it is told a fault."""
    with FaultProxy(questdb.http) as proxy:
        yield proxy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 64 MB at ``tmp_path/small/db``.

    A server on it: ``questdb_factory(root=small_disk.path.parent, prefix=small_disk.prefix)``.
    """
    if not SmallDisk.possible():
        pytest.skip(f"a small file system is missing; {DISK_HOW}")
    disk = SmallDisk(tmp_path / "small" / "db", 64)
    yield disk
    disk.close()
