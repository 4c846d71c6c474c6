"""Bulk chunks are made ready while another is under way: whatever happens to that one, order and counts stay right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy
from msgspec import structs
from qdb_kit import T0, model, stored, to_batches, trade
from questdb_server import QuestDBServer
from writer_tools import QUICK, conf_for, ids, reader_of, through, writer_of

from cmd_common.errors import StoreError
from cmd_common.records import Record
from cmd_questdb import delivery
from cmd_questdb.conf import Conf
from cmd_questdb.frames import frame, regroup, rows, to_batch
from cmd_questdb.transport import HttpTransport, TransportError

REFUSED = (
    b'{"code":"invalid","message":"failed to parse line protocol:errors encountered on line(s):\\nerror in line 3: '
    b'table: trades, column: flags; line protocol value: 1099511627776 is out of bounds of column type: INT","line":3}'
)


@pytest.fixture
def conf(questdb: QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conf:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(delivery, "_BULK_CHUNK", 100)
    return conf_for(questdb, chunk_rows=40)


@pytest.fixture
def proxy(questdb_server: QuestDBServer, conf: Conf) -> Iterator[FaultProxy]:
    with FaultProxy(questdb_server.http) as found:
        yield found


def archived(numbers: range, price: float = 1.5) -> list[Record]:
    return [trade(i, live=False, price=price, at=T0 + i) for i in numbers]


def write(writer: Any, records: list[Record], piece: int = 30) -> None:
    for start in range(0, len(records), piece):
        writer.write_batch("trades", to_batches(records[start : start + piece])["trades"])
    writer.flush()


def test_a_chunk_that_fails_goes_again_before_the_next(conf: Conf, proxy: FaultProxy) -> None:
    """Later chunks hold the same keys, so that a chunk stored after them would bring old prices back."""
    records = [r for n in range(8) for r in archived(range(95), 2.0 + n)]
    with writer_of(through(conf, proxy.port)) as writer:
        proxy.drop_ack(skip=1)
        proxy.cut(after=500, skip=4)
        proxy.answer(503, b"busy", skip=9, times=2)
        write(writer, records)
        assert writer.counters.retries == writer.counters.in_doubt + writer.counters.failed == 4
        assert writer.counters.sent == len(records)
    with reader_of(conf) as reader:
        assert stored(reader) == model(records)


def test_live_rows_of_the_same_moments_stay(conf: Conf, proxy: FaultProxy) -> None:
    """Then chunks are looked at against what is stored, one under way included."""
    live = [trade(i, at=T0 + i) for i in range(0, 300, 3)]
    mixed = archived(range(300), 9.0) + [trade(i, price=4.0, at=T0 + i) for i in range(0, 300, 5)]
    mixed += archived(range(300), 8.0)
    with writer_of(through(conf, proxy.port)) as writer:
        writer.write(live)
        writer.flush()
        proxy.drop_ack(skip=2, times=2)
        write(writer, mixed)
    with reader_of(conf) as reader:
        assert stored(reader) == model(live + mixed)


def test_a_row_that_the_server_refuses_is_put_away_alone(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy
) -> None:
    with writer_of(through(conf, proxy.port)) as writer:
        proxy.answer(400, REFUSED, skip=1, times=2)  # the second chunk, and its first part when it goes again
        write(writer, archived(range(250)), piece=50)
        assert writer.counters.quarantined == 1
    assert ids(questdb_server, conf) == [i for i in range(250) if i != 102]


def test_a_call_that_hangs_is_given_up_and_its_chunk_is_stored_once(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy
) -> None:
    with writer_of(through(conf, proxy.port), structs.replace(QUICK, watchdog=0.5)) as writer:
        proxy.stall()
        write(writer, archived(range(450)))
        assert writer.counters.hung >= 1
        proxy.clear()
    assert ids(questdb_server, conf) == list(range(450))


def test_a_unit_that_gives_up_leaves_nothing_behind_for_the_next(conf: Conf, proxy: FaultProxy) -> None:
    with writer_of(through(conf, proxy.port, retry_timeout=200)) as writer:
        proxy.answer(503, b"busy", skip=2, times=1_000)
        with pytest.raises(StoreError):
            write(writer, archived(range(450), 7.0))
        proxy.clear()
        write(writer, archived(range(450), 6.0))
        assert writer.counters.quarantined == 0
    with reader_of(conf) as reader:
        assert stored(reader) == model(archived(range(450), 6.0))


def test_a_frame_is_made_ready_while_another_is_under_way(
    questdb_server: QuestDBServer, conf: Conf, proxy: FaultProxy
) -> None:
    with writer_of(conf):  # makes the tables
        pass
    transport = HttpTransport(through(conf, proxy.port))
    table = conf.table("trades")
    frames = [frame("trades", to_batch("trades", rows("trades", archived(range(n, n + 10))))) for n in (0, 10)]
    proxy.delay(0.3, path="/write")
    transport.start(transport.prepare(table, frames[0]))
    packet = transport.prepare(table, frames[1])
    assert transport.counters.sent == 0
    transport.finish()
    proxy.clear()
    proxy.answer(503, b"busy")
    transport.start(packet)
    with pytest.raises(TransportError, match="busy"):
        transport.finish()
    transport.start(packet)  # it can be sent again as it is
    transport.finish()
    transport.finish()  # nothing is under way
    assert (transport.counters.sent, transport.counters.rows) == (2, 20)
    transport.close()
    assert ids(questdb_server, conf) == list(range(20))


def test_small_pieces_are_put_together_in_their_order() -> None:
    data = to_batch("trades", rows("trades", archived(range(100))))
    sizes = (1, 30, 9, 60)
    pieces = [data.slice(sum(sizes[:i]), n) for i, n in enumerate(sizes)]
    found = list(regroup(pieces, 40))
    assert [f.num_rows for f in found] == [40, 60]
    assert [i for f in found for i in f.column("trade_seq").to_pylist()] == list(range(100))
    assert list(regroup([], 40)) == []
