"""The writer with a real server: what is written is read back, and what cannot be stored is refused and named."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from msgspec import structs
from qdb_kit import DAY, T0, VENUE, candle, gap, model, one_of_each, stored, to_batches, trade
from questdb_server import QuestDBServer
from writer_tools import QUICK, conf_for, ids, reader_of, writer_of

from cmd_common import open_writer
from cmd_common.errors import StoreError, UnknownNameError, UsageError
from cmd_common.records import Quote, Trade, pack_levels
from cmd_questdb.conf import Conf
from cmd_questdb.frames import Frame
from cmd_questdb.transport import TransportCounters, TransportError
from cmd_questdb.writer import QuestDBWriter, WriterOptions


@pytest.fixture
def conf(questdb: QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conf:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return conf_for(questdb)


@pytest.fixture
def writer(conf: Conf) -> Iterator[QuestDBWriter]:
    with writer_of(conf) as writer:
        yield writer


def test_every_record_comes_back_equal_live_and_as_batches(conf: Conf) -> None:
    records = [r for i in range(5) for r in one_of_each(i)]
    later = [r for i in range(5, 9) for r in one_of_each(i)]
    with writer_of(conf) as writer:
        writer.write(records)
        for name, batch in to_batches(later).items():
            assert writer.write_batch(name, batch) == batch.num_rows
        writer.flush()
        assert sum(writer.counters.records.values()) == len(records) + len(later)
    with reader_of(conf) as reader:
        assert stored(reader) == model([*records, *later])


def test_the_location_of_the_command_line_opens_it(questdb_server: QuestDBServer, conf: Conf) -> None:
    with open_writer(questdb_server.location(table_prefix="cli_")) as writer:
        writer.write([trade(1)])
    assert ids(questdb_server, structs.replace(conf, table_prefix="cli_")) == [1]


def test_writing_the_same_twice_changes_nothing(questdb_server: QuestDBServer, conf: Conf) -> None:
    records = [trade(i) for i in range(500)]
    for _ in range(2):
        with writer_of(conf) as writer:
            writer.write(records)
            writer.write(records[:100])
    assert ids(questdb_server, conf) == list(range(500))


def test_rows_of_one_burst_are_sent_before_the_flush_and_chunks_are_bounded(
    questdb_server: QuestDBServer, conf: Conf
) -> None:
    """Ten times what may wait: memory stays bounded, nothing is lost."""
    options = structs.replace(QUICK, hold=1_000)
    with writer_of(structs.replace(conf, chunk_rows=400), options) as writer:
        for start in range(0, 10_000, 500):
            writer.write([trade(i) for i in range(start, start + 500)])
            assert writer._waiting <= 1_500
        assert writer.counters.sent >= 8_000
        writer.flush()
        assert writer.counters.chunks >= 25
    assert ids(questdb_server, conf) == list(range(10_000))


# -- the door ---------------------------------------------------------------------------------------


def bad_rows() -> list[tuple[str, Any, str]]:
    good = trade(1)
    quote = Quote(T0, T0, VENUE, "BTCUSDT", 1, 1.0, 1.0, 2.0, 1.0)
    book = one_of_each()[4]
    return [
        ("nan", structs.replace(good, price=float("nan")), "price"),
        ("infinite", structs.replace(good, quantity=float("-inf")), "quantity"),
        ("long null", structs.replace(good, trade_seq=-(2**63)), "trade_seq"),
        ("int null", structs.replace(good, flags=-(2**31)), "flags"),
        ("long null that must be there", structs.replace(quote, seq=-(2**63)), "seq"),
        ("before 1970", structs.replace(good, ts_event=-1), "ts_event"),
        ("received before 1970", structs.replace(good, ts_recv=-5), "ts_recv"),
        ("NaT", structs.replace(good, ts_event=-(2**63)), "ts_event"),
        ("after 2262", structs.replace(good, ts_event=2**63 - 1), "ts_event"),
        ("far future", structs.replace(good, ts_event=4_000_000_000 * 10**9), "ts_event"),
        ("NUL", structs.replace(good, trade_id="a\0b"), "trade_id"),
        ("level", structs.replace(book, asks=pack_levels([(1.0, float("nan"))])), "asks"),
    ]


def test_values_that_questdb_cannot_hold_are_quarantined_and_the_rest_is_stored(
    questdb_server: QuestDBServer, conf: Conf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = bad_rows()
    with caplog.at_level(logging.WARNING, "cmd_questdb"), writer_of(conf) as writer:
        writer.write([trade(0), *(r for _, r, _ in bad), trade(2)])
        writer.flush()
        assert writer.counters.quarantined == len(bad)
        kept = writer._quarantine.rows()
    assert sorted(k.column for k in kept) == sorted(c for _, _, c in bad)
    assert ids(questdb_server, conf) == [0, 2]
    assert "was not stored" in caplog.text
    assert "NaN" not in caplog.text
    assert str(tmp_path) in str(writer._quarantine.path)


def test_bulk_rows_pass_the_same_door(questdb_server: QuestDBServer, conf: Conf) -> None:
    batch = to_batches([structs.replace(trade(i), price=float("nan") if i == 3 else 1.0) for i in range(6)])["trades"]
    with writer_of(conf) as writer:
        assert writer.write_batch("trades", batch) == 6
        writer.flush()
        assert writer.counters.quarantined == 1
    assert ids(questdb_server, conf) == [0, 1, 2, 4, 5]


def test_a_record_of_the_wrong_type_is_refused_with_all_of_its_call(
    questdb_server: QuestDBServer, conf: Conf, writer: QuestDBWriter
) -> None:
    for bad, words in [
        (structs.replace(trade(1), price="1.0"), "price|float"),  # type: ignore[arg-type]
        (structs.replace(trade(1), ts_event=None), "int"),  # type: ignore[arg-type]
        (structs.replace(trade(1), trade_seq=2**63), "<= 9223372036854775807"),
        (structs.replace(trade(1), trade_id="\ud800"), "does not fit"),
        (structs.replace(one_of_each()[5], bids=b"1234"), "bids is not whole levels"),
    ]:
        with pytest.raises(StoreError, match=words):
            writer.write([trade(0), bad])
    with pytest.raises(StoreError, match="not a record"):
        writer.write([object()])  # type: ignore[list-item]
    writer.flush()
    assert ids(questdb_server, conf) == []


def test_batches_that_do_not_fit_the_schema_are_refused(writer: QuestDBWriter) -> None:
    good = to_batches([trade(1)])["trades"]
    cases: list[tuple[Any, str]] = [
        (good.drop_columns(["price"]), "lacks price"),
        (good.append_column("more", pa.array([1])), "unknown more"),
        (good.set_column(6, "price", pa.array(["1"])), "price .* is string"),
        (good.set_column(6, "price", pa.array([None], pa.float64())), "price .* holds nulls"),
        ([1, 2], "cannot be read"),
    ]
    for batch, words in cases:
        with pytest.raises(StoreError, match=words):
            writer.write_batch("trades", batch)
    with pytest.raises(UnknownNameError, match="tradse"):
        writer.write_batch("tradse", good)
    writer.flush()


# -- units ------------------------------------------------------------------------------------------


def archived(numbers: range, price: float = 5.0) -> pa.Table:
    return to_batches([trade(i, live=False, price=price) for i in numbers])["trades"]


def test_a_unit_can_be_discarded_and_live_rows_stay(
    questdb_server: QuestDBServer, conf: Conf, writer: QuestDBWriter
) -> None:
    writer.write([trade(1)])
    writer.write_batch("trades", archived(range(10, 20)))
    writer.delete("trades", VENUE, "BTCUSDT", T0, T0 + DAY, archived_only=False)
    writer.discard()
    writer.flush()
    assert ids(questdb_server, conf) == [1]


def test_a_stream_that_breaks_drops_its_unit(questdb_server: QuestDBServer, conf: Conf, writer: QuestDBWriter) -> None:
    good = archived(range(4))

    def pieces() -> Iterator[pa.RecordBatch]:
        yield from good.to_batches()
        raise OSError("torn")

    writer.write_batch("trades", archived(range(10, 12)))
    with pytest.raises((StoreError, OSError), match="torn"):
        writer.write_batch("trades", pa.RecordBatchReader.from_batches(good.schema, pieces()))
    writer.flush()
    assert ids(questdb_server, conf) == []


def test_a_large_unit_goes_through_a_file_and_arrives_in_order(
    questdb_server: QuestDBServer, conf: Conf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmd_questdb.staging.Unit.__init__.__defaults__", (1_000,))
    with writer_of(conf) as writer:
        for start in range(0, 3_000, 500):
            writer.write_batch("trades", archived(range(start, start + 500)))
        writer.flush()  # visible on return: nothing waits here
        count = questdb_server.count(conf.table("trades"))
    assert count == 3_000


def test_deleting_takes_archived_rows_that_are_not_written_again(
    questdb_server: QuestDBServer, conf: Conf, writer: QuestDBWriter
) -> None:
    writer.write([trade(i) for i in (0, 1)])
    writer.write_batch("trades", archived(range(2, 10)))
    writer.write_batch("trades", to_batches([trade(3, symbol="ETHUSDT", live=False)])["trades"])
    writer.flush()
    writer.delete("trades", VENUE, "BTCUSDT", T0, T0 + 8 * 1_000_000)
    writer.write_batch("trades", archived(range(4, 6), price=7.0))
    writer.flush()
    assert writer.counters.deleted == 4
    with reader_of(conf) as reader:
        found = {(r.symbol, r.trade_id): r.price for r in reader.records("trades") if isinstance(r, Trade)}
        assert sorted(i for s, i in found if s == "BTCUSDT") == ["0", "1", "4", "5", "8", "9"]
        assert found["BTCUSDT", "4"] == 7.0
        assert ("ETHUSDT", "3") in found
    writer.write_batch("trades", archived(range(2, 3)))  # what was deleted can come again
    writer.flush()
    with reader_of(conf) as reader:
        assert "2" in {r.trade_id for r in reader.records("trades") if isinstance(r, Trade)}
    # The views that build candles know no deleted rows either.
    questdb_server.wait_applied()
    questdb_server.wait_for(
        lambda: questdb_server.value(f"SELECT sum(trades) FROM {conf.table('candles_1m')}") == 8, "the view follows"
    )


def test_deleting_live_rows_and_candles(conf: Conf, writer: QuestDBWriter) -> None:
    writer.write([trade(1), candle(0), candle(1), gap(1)])
    writer.flush()
    writer.delete("trades", VENUE, "BTCUSDT", T0, T0 + DAY, archived_only=False)
    writer.delete("candles", VENUE, "BTCUSDT", T0, T0 + 1, archived_only=False, interval="1m", source="exchange")
    writer.delete("gaps", VENUE, "BTCUSDT", T0, T0 + DAY)
    writer.flush()
    with reader_of(conf) as reader:
        assert list(reader.records("trades")) == []
        assert list(reader.records("candles")) == [candle(1)]
        assert list(reader.records("gaps")) == []
    with pytest.raises(StoreError, match="no column interval"):
        writer.delete("trades", VENUE, "X", 0, 1, interval="1m")


# -- rows that the server refuses -------------------------------------------------------------------


def test_a_row_that_the_server_names_is_put_away_and_the_chunk_is_stored(
    questdb_server: QuestDBServer, conf: Conf, writer: QuestDBWriter
) -> None:
    table = conf.table("trades")
    questdb_server.sql(f"ALTER TABLE {table} ALTER COLUMN trade_seq TYPE INT")
    questdb_server.wait_applied(table)
    writer.write([structs.replace(trade(i), trade_seq=2**40 if i in (3, 7) else i) for i in range(10)])
    writer.flush()
    assert writer.counters.quarantined == 2
    assert ids(questdb_server, conf) == [0, 1, 2, 4, 5, 6, 8, 9]
    kept = writer._quarantine.rows()
    assert [k.row["trade_id"] for k in kept] == ["3", "7"]
    assert all(k.column == "trade_seq" and "bounds of column type" in k.reason for k in kept)


class Picky:
    """A transport that refuses frames with certain trades and does not say which."""

    def __init__(self, bad: set[str]) -> None:
        self.counters = TransportCounters()
        self.bad = bad
        self.stored: list[str] = []
        self.calls = 0

    def send(self, table: str, frame: Frame) -> None:
        self.calls += 1
        found = list(frame.data["trade_id"])
        if self.bad & set(found):
            raise TransportError("refused", "no reason given")
        self.stored += found

    def close(self) -> None:
        pass


@pytest.mark.parametrize("bad", [{"0"}, {"499"}, {"17", "18", "333"}, {str(i) for i in range(100, 130)}])
def test_rows_that_nobody_names_are_found_by_halving(conf: Conf, bad: set[str]) -> None:
    picky = Picky(bad)
    with writer_of(conf, transport=picky) as writer:
        writer.write([trade(i) for i in range(500)])
        writer.flush()
        assert [k.row["trade_id"] for k in writer._quarantine.rows()] == sorted(bad, key=int)
    assert picky.stored == [str(i) for i in range(500) if str(i) not in bad]
    assert picky.calls <= 2 * len(bad) * 10 + 2


def test_when_everything_is_refused_it_is_not_the_rows(conf: Conf) -> None:
    picky = Picky({str(i) for i in range(1000)})
    writer = writer_of(conf, transport=picky)
    writer.write([trade(i) for i in range(1000)])
    with pytest.raises(StoreError, match="no reason given"):
        writer.flush()
    assert writer.counters.quarantined <= 110
    picky.bad.clear()
    writer.flush()  # the rows stayed with the writer
    assert len(picky.stored) == 1000
    writer.close()


# -- opening and closing ----------------------------------------------------------------------------


def test_an_empty_database_gets_the_schema_unless_it_must_not(conf: Conf) -> None:
    with pytest.raises(StoreError, match="cmd-cli store migrate"):
        writer_of(structs.replace(conf, create=False))
    writer_of(conf).close()
    writer_of(structs.replace(conf, create=False)).close()


@pytest.mark.parametrize(("change", "words"), [(-1, "store migrate"), (1, "newer|upgrade|update")])
def test_another_version_of_the_schema_is_refused(
    questdb_server: QuestDBServer, conf: Conf, change: int, words: str
) -> None:
    from cmd_questdb.migrations import VERSION_TABLE
    from cmd_questdb.schema import VERSION

    writer_of(conf).close()
    table = conf.table(VERSION_TABLE)
    questdb_server.sql(f"TRUNCATE TABLE {table}")
    questdb_server.sql(f"INSERT INTO {table} VALUES (now(), {VERSION + change}, 'test')")
    questdb_server.wait_applied(table)
    with pytest.raises(StoreError, match=words):
        writer_of(conf)


def test_a_closed_writer_says_so_and_closing_twice_is_fine(conf: Conf) -> None:
    writer = writer_of(conf)
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.write([trade(1)])
    with pytest.raises(StoreError, match="closed"):
        writer.flush()


def test_tcp_is_refused() -> None:
    with pytest.raises(UsageError, match="acknowledges nothing"):
        open_writer("questdb:tcp::addr=127.0.0.1:9009;")


def test_no_thread_and_no_file_is_left_behind(conf: Conf, tmp_path: Path) -> None:
    import threading

    spill = tmp_path / "spill"
    with writer_of(structs.replace(conf, spill=str(spill))) as writer:
        writer.write([trade(1)])
        writer.flush()
    assert not [t for t in threading.enumerate() if t.name.startswith("cmd-questdb")]
    assert os.listdir(spill) == []


def test_options_have_defaults_that_suit_a_recorder() -> None:
    assert WriterOptions().patience < 5
