"""The fault helpers do to the real server and client what they say."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable

import pytest
from fault_proxy import FaultProxy
from questdb_server import QuestDBServer
from small_disk import SmallDisk

TABLE = "CREATE TABLE t (ts TIMESTAMP_NS, n LONG, s VARCHAR) TIMESTAMP(ts) PARTITION BY DAY WAL"


def write(port: int, first: int, rows: int = 10, text: str = "x") -> int:
    """Send rows as the client would; the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = "".join(f't n={n}i,s="{text}" {1_767_225_600_000_000_000 + n}\n' for n in range(first, first + rows))
    try:
        connection.request("POST", "/write", body.encode())
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_lost_acknowledgement_is_a_commit_the_client_never_hears_of(
    questdb: QuestDBServer, fault_proxy: FaultProxy
) -> None:
    questdb.sql(TABLE)
    fault_proxy.drop_ack()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        write(fault_proxy.port, 0)
    assert write(fault_proxy.port, 10) == 204
    questdb.wait_applied("t")
    assert questdb.count("t") == 20
    assert (fault_proxy.count("drop_ack"), fault_proxy.count("pass")) == (1, 1)


def test_a_request_cut_in_the_middle_leaves_nothing(questdb: QuestDBServer, fault_proxy: FaultProxy) -> None:
    questdb.sql(TABLE)
    fault_proxy.cut(after=200, skip=1)
    assert write(fault_proxy.port, 0) == 204
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        write(fault_proxy.port, 100)
    assert write(fault_proxy.port, 200) == 204
    questdb.wait_applied("t")
    assert questdb.count("t", "n >= 100 AND n < 200") == 0
    assert questdb.count("t") == 20


def test_answers_of_the_proxy_never_reach_the_server(questdb: QuestDBServer, fault_proxy: FaultProxy) -> None:
    questdb.sql(TABLE)
    fault_proxy.answer(503, b"busy", times=2)
    assert [write(fault_proxy.port, n) for n in (0, 10, 20)] == [503, 503, 204]
    questdb.wait_applied("t")
    assert questdb.count("t") == 10


def test_refused_delayed_and_stalled(questdb: QuestDBServer, fault_proxy: FaultProxy) -> None:
    questdb.sql(TABLE)
    fault_proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        write(fault_proxy.port, 0)
    fault_proxy.accept()
    fault_proxy.delay(0.3, times=1)
    began = time.monotonic()
    assert write(fault_proxy.port, 0) == 204
    assert time.monotonic() - began >= 0.3
    fault_proxy.stall()
    failed: list[BaseException] = []

    def send() -> None:
        try:
            write(fault_proxy.port, 10)
        except (OSError, http.client.HTTPException) as error:
            failed.append(error)

    waiting = threading.Thread(target=send)
    waiting.start()
    questdb.wait_for(lambda: questdb.count("t") == 20, "the stalled rows are stored")
    assert waiting.is_alive()
    fault_proxy.clear()
    waiting.join(10)
    assert len(failed) == 1
    assert write(fault_proxy.port, 20) == 204


def test_a_full_disk_refuses_rows_and_takes_them_again_after_it_is_cleared(
    small_disk: SmallDisk, questdb_factory: Callable[..., QuestDBServer]
) -> None:
    server = questdb_factory(root=small_disk.path.parent, prefix=small_disk.prefix).start()
    server.sql(TABLE)
    assert write(server.http, 0) == 204
    server.wait_applied("t")
    small_disk.fill(leave=100_000)
    statuses = []
    for batch in range(1, 60):
        try:
            statuses.append(write(server.http, batch * 10_000, rows=2_000, text="y" * 60))
        except (OSError, http.client.HTTPException):
            statuses.append(0)
        if statuses[-1] != 204:
            break
    assert statuses[-1] != 204, "the disk never ran full"
    small_disk.release()
    server.restart()
    for name, suspended in server.sql("SELECT name, suspended FROM wal_tables()"):
        if suspended:
            server.sql(f'ALTER TABLE "{name}" RESUME WAL')
    assert write(server.http, 9_000_000) == 204
    server.wait_applied("t")
    assert server.count("t", "n >= 9000000 OR n < 10") == 20
