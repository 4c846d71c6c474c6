"""The preference among rows with one key: QuestDB ends with the same rows as the Parquet store, whatever the order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from qdb_kit import DAY, T0, VENUE, candle, gap, model, random_records, stored, to_batches, trade
from questdb_server import QuestDBServer
from writer_tools import conf_for, reader_of, writer_of

from cmd_common.records import Candle, Record, Trade
from cmd_common.schema import SCHEMA, TABLES
from cmd_parquet.store import ParquetStore
from cmd_questdb.conf import Conf
from cmd_questdb.merge import (
    any_better,
    class_sql,
    classes,
    drop_beaten,
    extent,
    insert_preferred,
    marker,
    present,
    stored_keys,
    wait_applied,
    without_keys,
)
from cmd_questdb.schema import all_column_types
from cmd_questdb.sql import MissingTable, SqlClient


@pytest.fixture
def conf(questdb: QuestDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conf:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return conf_for(questdb)


def test_every_table_has_a_column_that_marks_tombstones() -> None:
    for name, table in SCHEMA.items():
        column = next(c for c in table.columns if c.name == marker(name))
        assert not column.nullable
        assert column.name not in table.key
        assert present(name, "t.") == f"t.{column.name} IS NOT NULL"


def test_classes_are_the_same_here_and_on_the_server(questdb_server: QuestDBServer, conf: Conf) -> None:
    rows: list[Record] = []
    for i, state in enumerate(("provisional", "final", "corrected")):
        rows += [candle(2 * i, state, live=True), candle(2 * i + 1, state, live=False)]
    rows += [trade(1), trade(2, live=False), gap(1)]
    with writer_of(conf) as writer:
        writer.write(rows)
    batches = to_batches(rows)
    assert classes("candles", batches["candles"]).tolist() == [4, 5, 2, 3, 0, 1]
    assert classes("trades", batches["trades"]).tolist() == [0, 1]
    assert classes("gaps", batches["gaps"]).tolist() == [0]
    for name in ("candles", "trades", "gaps"):
        time = SCHEMA[name].time
        found = questdb_server.sql(f"SELECT {class_sql(name)} FROM {conf.table(name)} ORDER BY {time}")
        assert [r[0] for r in found] == classes(name, batches[name]).tolist()


def write_live(writers: list[Any], records: list[Record]) -> None:
    for writer in writers:
        writer.write(records)


def write_unit(writers: list[Any], records: list[Record]) -> None:
    for writer in writers:
        for name, batch in to_batches(records).items():
            writer.write_batch(name, batch)


@pytest.mark.parametrize("seed", range(4))
def test_random_interleavings_end_as_in_the_parquet_store(conf: Conf, tmp_path: Path, seed: int) -> None:
    """Live rows, archived rows, candle states, flushes and new writers in random order, with many equal keys."""
    rng = random.Random(seed)
    parquet = ParquetStore()
    location = str(tmp_path / "parquet")
    written: list[Record] = []
    writers: list[Any] = [parquet.writer(location), writer_of(conf)]
    for _ in range(12):
        records = random_records(rng, rng.randrange(1, 25))
        if rng.random() < 0.5:
            write_live(writers, records)
            written += records
        else:
            write_unit(writers, records)
            # What a batch writes comes table by table.
            written += records
        if rng.random() < 0.4:
            for writer in writers:
                writer.flush()
        if rng.random() < 0.15:
            for writer in writers:
                writer.close()
            writers = [parquet.writer(location), writer_of(conf)]
    for writer in writers:
        writer.close()
    with parquet.reader(location) as a, reader_of(conf) as b:
        ours, theirs = stored(b), stored(a)
        assert ours == theirs
        assert ours == model(written)


def test_the_same_order_of_states_in_one_flush_and_in_many(conf: Conf) -> None:
    """Every order of three states, with and without receive time: one candle each, the best of them."""
    import itertools

    states: list[tuple[Any, bool]] = [("provisional", True), ("final", False), ("final", True), ("corrected", False)]
    orders = list(itertools.permutations(states))
    many: list[list[Record]] = [[], [], [], []]
    for i, order in enumerate(orders):
        for step, (state, live) in enumerate(order):
            many[step].append(structs.replace(candle(i, state, live=live, close=1.0 + step), venue="many"))
    once = [structs.replace(r, venue="once") for step in many for r in step]  # type: ignore[type-var]
    with writer_of(conf) as writer:
        for step in many:
            writer.write(step)
            writer.flush()
        writer.write(once)
    with reader_of(conf) as reader:
        found = list(reader.records("candles"))
    assert len(found) == 2 * len(orders)
    for record in found:
        assert isinstance(record, Candle)
        assert record.state == "corrected"
        order = orders[(record.open_time - T0) // 60_000_000_000]
        assert record.close == 1.0 + order.index(("corrected", False))


def test_archived_rows_do_not_replace_live_ones_and_are_counted(conf: Conf) -> None:
    with writer_of(conf) as writer:
        writer.write([trade(i) for i in range(0, 2_000, 2)])
        writer.write_batch("trades", to_batches([trade(i, live=False, price=7.0) for i in range(2_000)])["trades"])
        writer.flush()
        assert writer.counters.beaten == 1_000
    with reader_of(conf) as reader:
        found = [r for r in reader.records("trades") if isinstance(r, Trade)]
    assert [int(r.trade_id) for r in found] == list(range(2_000))
    assert all(bool(r.ts_recv) == (int(r.trade_id) % 2 == 0) for r in found)
    assert all((r.price == 7.0) == (r.ts_recv == 0) for r in found)


def test_deletions_among_random_units_end_as_in_the_parquet_store(conf: Conf, tmp_path: Path) -> None:
    """Files of days that are replaced by other files, with live rows in between."""
    rng = random.Random(5)
    parquet = ParquetStore()
    writers: list[Any] = [parquet.writer(str(tmp_path / "p")), writer_of(conf)]
    for _ in range(8):
        live = [trade(rng.randrange(40), price=1.0 + rng.randrange(100)) for _ in range(5)]
        write_live(writers, list({r.trade_id: r for r in live}.values()))
        for writer in writers:
            writer.flush()
            if rng.random() < 2:  # both alike
                writer.delete("trades", VENUE, "BTCUSDT", T0, T0 + DAY)
        unit = [trade(rng.randrange(40), live=False, price=200.0 + rng.randrange(100)) for _ in range(15)]
        write_unit(writers, list({r.trade_id: r for r in unit}.values()))
        for writer in writers:
            writer.flush()
    for writer in writers:
        writer.close()
    with parquet.reader(str(tmp_path / "p")) as a, reader_of(conf) as b:
        assert stored(b) == stored(a)


# -- the parts --------------------------------------------------------------------------------------


@pytest.fixture
def client(conf: Conf) -> Any:
    writer_of(conf).close()
    with SqlClient(conf) as client:
        yield client


def stage(server: QuestDBServer, conf: Conf, table: str, records: list[Record]) -> str:
    """Put records into a table of the server that is no table of ours; returns the query that gives them, in order."""
    staged = structs.replace(conf, table_prefix=conf.table_prefix + "src_")
    with writer_of(staged) as writer:
        writer.write(records)
    server.wait_applied(staged.table(table))
    columns = ", ".join(c for c in all_column_types(table) if c not in ("best_bid", "best_ask"))
    return f"SELECT {columns} FROM {staged.table(table)}"


@pytest.mark.parametrize("named", [True, False])
def test_insert_preferred_keeps_better_rows_and_may_be_repeated(
    questdb_server: QuestDBServer, conf: Conf, client: SqlClient, named: bool
) -> None:
    with writer_of(conf) as writer:
        writer.write([trade(i) for i in range(0, 10, 2)])
        writer.write([candle(0, "corrected"), candle(1, "provisional"), candle(2, "final", live=False, close=9.0)])
    trades = stage(questdb_server, conf, "trades", [trade(i, live=False, price=7.0) for i in range(10)])
    candles = stage(questdb_server, conf, "candles", [candle(i, "final", live=False, close=3.0) for i in range(4)])
    for _ in range(2):
        for table, source in (("trades", trades), ("candles", candles)):
            venue, symbol = (VENUE, "BTCUSDT") if named else (None, None)
            insert_preferred(client, table, source, venue, symbol, T0, T0 + DAY)
            wait_applied(client, table)
    with reader_of(conf) as reader:
        found = {int(r.trade_id): r for r in reader.records("trades") if isinstance(r, Trade)}
        assert [i for i, r in found.items() if r.price == 7.0] == [1, 3, 5, 7, 9]
        closes = [(r.state, r.close) for r in reader.records("candles") if isinstance(r, Candle)]
    assert closes == [("corrected", 1.5), ("final", 3.0), ("final", 3.0), ("final", 3.0)]


def test_insert_preferred_takes_every_table(questdb_server: QuestDBServer, conf: Conf, client: SqlClient) -> None:
    from qdb_kit import one_of_each

    records = [r for i in range(3) for r in one_of_each(i)]
    for name in TABLES:
        source = stage(questdb_server, conf, name, records)
        insert_preferred(client, name, source, None, None, T0 - DAY, T0 + DAY)
    with reader_of(conf) as reader:
        assert stored(reader) == model(records)
    best = questdb_server.sql(f"SELECT best_bid, best_ask FROM {conf.table('book_snapshots')} LIMIT 1")
    assert best == [[67123.456789012, 67123.456789012]]


def test_keys_are_found_and_left_out(conf: Conf, client: SqlClient) -> None:
    with writer_of(conf) as writer:
        writer.write([trade(i, symbol=s) for i in range(6) for s in ("BTCUSDT", "ÄÖ'X")])
    wait_applied(client, "trades")
    keys = stored_keys(client, "trades", "symbol = 'ÄÖ''X'")
    assert keys.num_rows == 6
    assert keys.column_names == list(SCHEMA["trades"].key)
    batch = to_batches([trade(i, symbol=s, live=False) for i in range(8) for s in ("ÄÖ'X", "BTCUSDT")])["trades"]
    left = without_keys("trades", batch, keys)
    assert left.column("trade_id").to_pylist() == ["0", "1", "2", "3", "4", "5", "6", "6", "7", "7"]  # still in order
    times, equal = extent("trades", batch)
    assert equal["symbol"] == {"BTCUSDT", "ÄÖ'X"}
    assert times == (T0, T0 + 7_000_001)
    assert any_better(client, "trades", times, equal, 1)
    assert not any_better(client, "trades", times, {"symbol": ["none"]}, 1)
    assert not any_better(client, "trades", times, equal, 0)
    beaten = drop_beaten(client, "trades", batch, 1)
    assert beaten.column("trade_id").to_pylist() == ["6", "6", "7", "7"]
    assert stored_keys(client, "trades", "symbol = 'none'").num_rows == 0
    assert np.array_equal(classes("trades", batch), np.ones(16))


def test_a_dropped_table_is_named(questdb_server: QuestDBServer, conf: Conf, client: SqlClient) -> None:
    questdb_server.sql(f"DROP TABLE {conf.table('gaps')}")
    wait_applied(client, "gaps")  # nothing to wait for
    with pytest.raises(MissingTable, match="gaps"):
        stored_keys(client, "gaps", "1 = 1")
