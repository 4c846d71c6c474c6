"""Faults of server, network, disk and clock: the writer says what is wrong, loses nothing and stores nothing twice."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy
from msgspec import structs
from qdb_kit import T0, candle, gap, stored, to_batches, trade
from questdb_server import QuestDBServer
from small_disk import SmallDisk
from writer_tools import QUICK, conf_for, ids, reader_of, through, writer_of

from cmd_common.errors import StoreError
from cmd_common.testing.ports import free_ports
from cmd_questdb.conf import Conf
from cmd_questdb.sql import AuthError, ServerAway, TableSuspended
from cmd_questdb.writer import QuestDBWriter

DAY = 86_400_000_000_000


@pytest.fixture
def conf(questdb: QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conf:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return conf_for(questdb, retry_timeout=20_000, request_timeout=10_000)


@pytest.fixture
def proxy(questdb_server: QuestDBServer, conf: Conf) -> Any:
    with FaultProxy(questdb_server.http) as proxy:
        yield proxy


def spilling(conf: Conf, tmp_path: Path, **more: Any) -> Conf:
    return structs.replace(conf, spill=str(tmp_path / "spill"), **more)


def later(seconds: float, action: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        time.sleep(seconds)
        action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# -- who and where ----------------------------------------------------------------------------------


def test_a_wrong_port_is_one_clear_line(conf: Conf) -> None:
    with pytest.raises(ServerAway, match=r"cannot reach QuestDB at http://127.0.0.1:.*refused.*host and port right"):
        writer_of(through(conf, free_ports()[0]))


def test_a_wrong_host_is_one_clear_line(conf: Conf) -> None:
    with pytest.raises(ServerAway, match=r"cannot reach QuestDB at http://no-such-host.invalid"):
        writer_of(structs.replace(conf, addrs=(("no-such-host.invalid", 9000),)))


@pytest.mark.parametrize(
    "who",
    [{"username": "cmd_ingest", "password": "wrong"}, {"username": "nobody", "password": "x"}, {"token": "abc"}, {}],
)
def test_wrong_credentials_are_refused_at_once_also_with_a_spill(
    questdb_auth: QuestDBServer, tmp_path: Path, who: dict[str, str]
) -> None:
    conf = structs.replace(Conf.parse(questdb_auth.conf()), **({"username": "", "password": ""} | who))
    for given in (conf, spilling(conf, tmp_path)):
        with pytest.raises(AuthError, match=r"refuses.*check username and password") as caught:
            writer_of(given)
        assert "wrong" not in str(caught.value)


def test_the_right_user_writes(questdb_auth: QuestDBServer) -> None:
    conf = Conf.parse(questdb_auth.conf())
    with writer_of(conf) as writer:
        writer.write([trade(i) for i in range(10)])
    assert ids(questdb_auth, conf) == list(range(10))


# -- a server that is away --------------------------------------------------------------------------


def test_with_a_spill_a_server_that_is_down_at_the_start_is_no_error(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refuse()
    away = spilling(through(conf, proxy.port), tmp_path)
    with caplog.at_level(logging.WARNING, "cmd_questdb"):
        writer = writer_of(away)
        writer.write([trade(i) for i in range(100)])
        writer.write([candle(1)])
        writer.flush()  # durable: in the spill
        writer.write([trade(i) for i in range(100, 200)])
        writer.close()
    assert writer.counters.spilled == 201
    assert writer.counters.sent == 0
    assert "rows wait in" in caplog.text
    proxy.accept()
    with writer_of(away) as again:  # it also makes the schema
        assert "an earlier writer left" in again.notices[0]
        again.write([trade(i) for i in range(200, 250)])
    assert again.counters.drained == 201
    assert ids(questdb_server, conf) == list(range(250))
    assert list((tmp_path / "spill").iterdir()) == []


@pytest.mark.parametrize("confirmed", [0, 1, 2])
def test_a_gap_is_stored_before_the_rows_behind_the_hole(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy, confirmed: int
) -> None:
    """A recorder that dies between two tables must not leave rows on both sides of a hole and no gap."""
    writer = writer_of(through(conf, proxy.port, retry_timeout=100))
    writer.write([trade(1)])
    writer.flush()
    proxy.cut(after=0, times=1_000, skip=confirmed)
    writer.write([trade(2), gap(1), trade(9)])
    if confirmed < 2:
        with pytest.raises(StoreError):
            writer.flush()
    else:
        writer.flush()
    proxy.refuse()  # and it dies: nothing more of it comes
    with suppress(StoreError):
        writer.close()
    with reader_of(conf) as reader:
        found = {"gaps": 0, "trades": 0} | {t: len(list(reader.records(t))) for t in reader.tables()}
    assert found == {"gaps": int(confirmed > 0), "trades": 3 if confirmed == 2 else 1}


def test_rows_follow_the_spill_in_order_when_the_server_is_back(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy, tmp_path: Path
) -> None:
    writer = writer_of(spilling(through(conf, proxy.port), tmp_path))
    writer.write([trade(i, price=1.0) for i in range(10)])
    writer.flush()
    proxy.refuse()
    for price in (2.0, 3.0):
        writer.write([trade(i, price=price) for i in range(10)])
        writer.flush()
    assert writer.counters.spilled == 20
    proxy.accept()
    time.sleep(0.3)
    writer.write([trade(i, price=4.0) for i in range(5)])
    writer.flush()
    writer.flush()
    assert writer.counters.drained >= 20
    writer.close()
    assert writer.counters.refused > 0
    with reader_of(conf) as reader:
        prices = {int(r.trade_id): r.price for r in reader.records("trades")}  # type: ignore[union-attr]
    assert prices == {i: 4.0 if i < 5 else 3.0 for i in range(10)}


def test_without_a_spill_flush_fails_and_the_rows_stay_accepted(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy
) -> None:
    writer = writer_of(through(conf, proxy.port, retry_timeout=300))
    proxy.refuse()
    writer.write([trade(i) for i in range(50)])
    with pytest.raises(ServerAway, match=r"does not take rows.*spill=DIR"):
        writer.flush()
    assert writer.counters.retries > 0
    proxy.accept()
    writer.flush()
    assert ids(questdb_server, conf) == list(range(50))
    writer.close()


def test_a_server_that_is_killed_in_a_batch_and_restarted_ends_with_every_row(
    questdb_server: QuestDBServer, conf: Conf
) -> None:
    def work() -> None:
        try:
            with writer_of(structs.replace(conf, chunk_rows=500, retry_timeout=240_000)) as writer:
                count = 0
                while count < 60_000 or not back.is_set():  # so that it writes all the time, however fast it is
                    writer.write([trade(i) for i in range(count, count + 10_000)])
                    writer.flush()
                    count += 10_000
                    flushed.set()
                done.append((writer.counters.retries, count))
        finally:
            flushed.set()

    done: list[tuple[int, int]] = []
    flushed, back = threading.Event(), threading.Event()
    thread = later(0.0, work)
    flushed.wait()
    questdb_server.kill()
    questdb_server.start()
    back.set()
    thread.join()
    ((retries, count),) = done
    assert retries > 0
    assert ids(questdb_server, conf) == list(range(count))


def test_lost_acknowledgements_double_nothing(questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy) -> None:
    with writer_of(through(conf, proxy.port, chunk_rows=100)) as writer:
        proxy.drop_ack(times=3)
        writer.write([trade(i) for i in range(1_000)])
        writer.flush()
        assert proxy.count("drop_ack") == 3
        assert writer.counters.in_doubt == 3
        assert writer.counters.retries == 3
    assert ids(questdb_server, conf) == list(range(1_000))


def test_requests_that_are_cut_and_servers_that_fail_are_tried_again(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy
) -> None:
    with writer_of(through(conf, proxy.port, chunk_rows=100)) as writer:
        proxy.cut(after=500, times=2)
        proxy.answer(503, b"busy", times=2)
        proxy.answer(500, b'{"code":"internal error","message":"disk"}')
        writer.write([trade(i) for i in range(500)])
        writer.flush()
        assert writer.counters.failed == 3
        assert writer.counters.in_doubt == 2
    assert ids(questdb_server, conf) == list(range(500))


def test_a_4xx_is_never_tried_again(conf: Conf, proxy: FaultProxy) -> None:
    writer = writer_of(through(conf, proxy.port))
    proxy.answer(403, b"", times=100)
    writer.write([trade(1)])
    with pytest.raises(AuthError):
        writer.flush()
    assert proxy.count("answer") == 1
    assert writer.counters.retries == 0
    proxy.clear()
    writer.close()


def test_a_slow_server_is_waited_for(questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy) -> None:
    with writer_of(through(conf, proxy.port, chunk_rows=200)) as writer:
        proxy.delay(0.15, path="/write")
        writer.write([trade(i) for i in range(1_000)])
        writer.flush()
        proxy.clear()
        assert writer.counters.retries == 0
    assert ids(questdb_server, conf) == list(range(1_000))


def test_a_call_that_hangs_is_given_up_and_its_rows_are_stored_once(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy
) -> None:
    options = structs.replace(QUICK, watchdog=0.5)
    with writer_of(through(conf, proxy.port), options) as writer:
        proxy.stall(times=1)
        writer.write([trade(i) for i in range(100)])
        writer.flush()
        assert writer.counters.hung == 1
        proxy.clear()
    assert ids(questdb_server, conf) == list(range(100))


def test_a_server_that_stands_still_sends_rows_to_the_spill(
    questdb_server: QuestDBServer, conf: Conf, tmp_path: Path
) -> None:
    writer = writer_of(spilling(structs.replace(conf, request_timeout=400), tmp_path))
    writer.write([trade(1)])
    writer.flush()
    questdb_server.pause()
    writer.write([trade(2)])
    writer.flush()
    assert writer.counters.spilled == 1
    questdb_server.resume()
    writer.close()
    with writer_of(spilling(conf, tmp_path)):
        pass
    assert ids(questdb_server, conf) == [1, 2]


def test_a_unit_waits_for_the_server_but_is_never_spilled(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy, tmp_path: Path
) -> None:
    writer = writer_of(spilling(through(conf, proxy.port), tmp_path))
    unit = to_batches([trade(i, live=False) for i in range(100)])["trades"]
    proxy.refuse()
    thread = later(0.5, proxy.accept)
    writer.write_batch("trades", unit)
    writer.flush()
    thread.join()
    assert writer.counters.spilled == 0
    proxy.refuse()
    writer.conf = structs.replace(writer.conf, retry_timeout=200)
    writer.write_batch("trades", unit)
    with pytest.raises(StoreError):
        writer.flush()
    proxy.accept()
    writer.flush()  # the unit was dropped
    writer.close()
    assert ids(questdb_server, conf) == list(range(100))


# -- disks ------------------------------------------------------------------------------------------


def test_a_full_spill_refuses_and_the_rows_stay_accepted(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy, tmp_path: Path
) -> None:
    writer = writer_of(spilling(through(conf, proxy.port), tmp_path, spill_limit=20_000))
    proxy.refuse()
    writer.write([trade(i) for i in range(100)])
    writer.flush()
    writer.write([trade(i) for i in range(100, 1_000)])
    with pytest.raises(StoreError, match=r"takes no more.*raise spill_limit"):
        writer.flush()
    proxy.accept()
    time.sleep(0.3)
    deadline = time.monotonic() + 20
    while True:
        try:
            writer.flush()
            break
        except StoreError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    writer.close()
    assert ids(questdb_server, conf) == list(range(1_000))


def test_a_server_whose_disk_is_full_loses_nothing_that_was_confirmed(
    questdb_factory: Callable[..., QuestDBServer], small_disk: SmallDisk, tmp_path: Path
) -> None:
    server = questdb_factory(root=small_disk.path.parent, prefix=small_disk.prefix)
    server.start()
    conf = spilling(conf_for(server, request_timeout=5_000), tmp_path)
    writer = writer_of(conf)
    writer.write([trade(i) for i in range(1_000)])
    writer.flush()
    for leave in (0, 1 << 20, 2 << 20):  # the server takes some of it meanwhile
        with suppress(OSError):
            small_disk.fill(leave)
    # Later days, so that the server needs new files.
    for day in range(1, 6):
        writer.write([trade(i, at=T0 + day * DAY + i) for i in range(day * 20_000, day * 20_000 + 20_000)])
        writer.flush()
    small_disk.release()
    server.restart()
    for (table,) in server.sql("SELECT name FROM wal_tables() WHERE suspended"):
        server.sql(f'ALTER TABLE "{table}" RESUME WAL')
    writer.write([trade(0)])
    writer.close()
    with writer_of(conf) as again:
        again.flush()
    assert ids(server, conf) == [*range(1_000), *range(20_000, 120_000)]


# -- tables that are not as they should be ----------------------------------------------------------


def suspend(server: QuestDBServer, conf: Conf, name: str) -> None:
    """Suspend a table as it happens: an update meets a partition in Parquet form."""
    table = conf.table(name)
    with writer_of(conf) as writer:
        rows = (
            [candle(-i * 60 * 24 * 40) for i in range(2)]
            if name == "candles"
            else [trade(-i, at=T0 - i * DAY) for i in (1, 2)]
        )
        writer.write(rows)
    first = server.value(f"SELECT name FROM table_partitions('{table}') LIMIT 1")
    server.sql(f"ALTER TABLE {table} CONVERT PARTITION TO PARQUET LIST '{first}'")
    server.wait_applied(table)
    server.sql(f"UPDATE {table} SET flags = 2")
    server.wait_for(
        lambda: server.value(f"SELECT suspended FROM wal_tables() WHERE name = '{table}'") is True, "it is suspended"
    )


def resume(server: QuestDBServer, conf: Conf, name: str) -> None:
    table = conf.table(name)
    at = server.value(f"SELECT writerTxn FROM wal_tables() WHERE name = '{table}'")
    server.sql(f"ALTER TABLE {table} RESUME WAL FROM TXN {at + 2}")


def test_a_suspended_table_is_named_and_its_rows_wait(
    questdb_server: QuestDBServer, conf: Conf, tmp_path: Path
) -> None:
    """Candles need a look at what is stored, which a suspended table does not show."""
    suspend(questdb_server, conf, "candles")
    writer = writer_of(structs.replace(conf, retry_timeout=200))
    writer.write([candle(1, "final")])
    with pytest.raises(TableSuspended, match=f"{conf.table('candles')} is suspended"):
        writer.flush()
    writer.discard()
    spilled = writer_of(spilling(conf, tmp_path))
    spilled.write([candle(2, "final")])
    spilled.flush()
    assert spilled.counters.spilled == 1
    resume(questdb_server, conf, "candles")
    time.sleep(0.3)
    spilled.close()
    writer.close()
    with reader_of(conf) as reader:
        assert {candle(1), candle(2)} <= set(reader.records("candles"))


def test_rows_for_a_suspended_table_are_acknowledged_and_appear_when_it_is_resumed(
    questdb_server: QuestDBServer, conf: Conf
) -> None:
    suspend(questdb_server, conf, "trades")
    writer = writer_of(conf, structs.replace(QUICK, close=0.3))
    writer.write([trade(i) for i in range(5, 10)])
    writer.flush()
    writer.close()
    assert "cannot be read yet" in writer.notices[-1]
    assert "suspended" in writer.notices[-1]
    resume(questdb_server, conf, "trades")
    assert [i for i in ids(questdb_server, conf) if i > 0] == list(range(5, 10))


def test_a_column_changed_by_hand_is_named_and_nothing_is_lost(
    questdb_server: QuestDBServer, conf: Conf, tmp_path: Path
) -> None:
    table = conf.table("trades")
    writer = writer_of(spilling(conf, tmp_path))
    writer.write([trade(i) for i in range(5)])
    writer.flush()
    questdb_server.sql(f"ALTER TABLE {table} ALTER COLUMN price TYPE LONG")
    questdb_server.wait_applied(table)
    for i in range(5, 8):  # what it keeps open for a table may take one more transaction as before
        writer.write([trade(i)])
        with suppress(StoreError):
            writer.flush()
    writer.write([trade(i) for i in range(8, 10)])
    with pytest.raises(StoreError, match=f"{table} does not take rows.*changed by hand"):
        writer.flush()
    assert writer.counters.quarantined == 0
    with pytest.raises(StoreError, match="does not take rows"):
        writer.close()  # the rows are in the spill
    with pytest.raises(StoreError, match="changed by hand"):
        writer_of(spilling(conf, tmp_path))
    questdb_server.sql(f"ALTER TABLE {table} ALTER COLUMN price TYPE DOUBLE")
    questdb_server.wait_applied(table)
    with writer_of(spilling(conf, tmp_path)):
        pass
    assert ids(questdb_server, conf) == list(range(10))


def test_a_table_dropped_while_writing_is_named_and_not_made_without_keys(
    questdb_server: QuestDBServer, conf: Conf
) -> None:
    table = conf.table("trades")
    writer = writer_of(conf)
    writer.write([trade(1)])
    writer.flush()
    for view in ("candles_1d", "candles_1h", "candles_5m", "candles_1m"):
        questdb_server.sql(f"DROP MATERIALIZED VIEW {conf.table(view)}")
    questdb_server.sql(f"DROP TABLE {table}")
    # 9.3.4 still acknowledges the first transaction to a table that it has just dropped: it goes with the table.
    writer.write([trade(2)])
    with suppress(StoreError):
        writer.flush()
    writer.write([trade(3)])
    with pytest.raises(StoreError, match=f"{table}.*store migrate"):
        writer.flush()
    assert table not in questdb_server.tables()
    from cmd_questdb.migrations import migrate
    from cmd_questdb.sql import SqlClient

    with SqlClient(conf) as client:
        migrate(client)
    writer.close()
    assert ids(questdb_server, conf)[-1:] == [3]


# -- clocks and company -----------------------------------------------------------------------------


class Clock:
    """A clock that is wrong by a fixed time."""

    def __init__(self, off: int) -> None:
        self.off = off

    def now(self) -> int:
        return time.time_ns() + self.off

    def monotonic(self) -> int:
        return time.monotonic_ns()

    async def sleep(self, ns: int) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("off", [-40 * 365 * DAY, -3 * DAY, 3 * DAY, 20 * 365 * DAY])
def test_a_wrong_clock_is_told_of_and_only_rows_ahead_of_both_are_put_away(
    questdb_server: QuestDBServer, conf: Conf, off: int, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.time_ns()
    rows = [trade(1, at=now), trade(2, at=now + DAY // 2), trade(3, at=now + 2 * DAY), trade(4, at=now + off)]
    with caplog.at_level(logging.WARNING, "cmd_questdb"), writer_of(conf, clock=Clock(off)) as writer:
        assert "clocks of this machine and of" in writer.notices[0]
        writer.write(rows)
        writer.flush()
        assert writer.counters.quarantined == (0 if off > 0 else 1)
    assert ids(questdb_server, conf) == ([1, 2, 3, 4] if off > 0 else [1, 2, 4])


def test_two_writers_on_one_table_end_with_every_row_once(questdb_server: QuestDBServer, conf: Conf) -> None:
    """Overlapping rows, live and archived, at the same time."""
    writer_of(conf).close()
    problems: list[BaseException] = []

    def work(start: int, live: bool) -> None:
        try:
            with writer_of(structs.replace(conf, chunk_rows=250)) as writer:
                for at in range(start, start + 3_000, 500):
                    rows = [trade(i, live=live) for i in range(at, at + 500)]
                    if live:
                        writer.write(rows)
                    else:
                        writer.write_batch("trades", to_batches(rows)["trades"])
                    writer.flush()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=a) for a in ((0, True), (1_500, True), (2_000, False))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert ids(questdb_server, conf) == list(range(5_000))
    with reader_of(conf) as reader:
        assert len(stored(reader)) == 5_000


def test_a_burst_of_ten_times_the_usual_while_the_server_stumbles(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy, tmp_path: Path
) -> None:
    options = structs.replace(QUICK, hold=2_000)
    writer: QuestDBWriter = writer_of(spilling(through(conf, proxy.port, chunk_rows=1_000), tmp_path), options)
    number = 0
    for second in range(8):
        if second == 3:
            proxy.refuse()
        if second == 6:
            proxy.accept()
            time.sleep(0.25)
        for _ in range(10 if second in (3, 4) else 1):
            writer.write([trade(i) for i in range(number, number + 1_000)])
            number += 1_000
        writer.flush()
        assert writer._waiting == 0
    writer.close()
    assert writer.counters.spilled > 0
    assert ids(questdb_server, conf) == list(range(number))
