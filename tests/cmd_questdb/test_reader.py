"""The reader against a real server: order, filters, pages, latest, books of the past, SQL."""

from __future__ import annotations

import json
import random
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from qdb_kit import DAY, T0, VENUE, candle, conf_of, location_of, model, one_of_each, stored, to_batches, trade

from cmd_common import open_reader, open_writer
from cmd_common.errors import StoreError, UnknownNameError, UsageError
from cmd_common.records import AggregatedBook, BookDelta, BookSnapshot, FeedStatus, Gap, Trade, pack_levels
from cmd_common.schema import TABLES
from cmd_common.sequence import BookState
from cmd_questdb import reader as reader_module
from cmd_questdb.columns import arrow_schema
from cmd_questdb.reader import QuestDBReader
from cmd_questdb.sql import SqlClient, TableSuspended

CLI = str(Path(sysconfig.get_path("scripts")) / "cmd-cli")


@pytest.fixture(scope="module")
def location(questdb_server: Any) -> str:
    """One schema for all tests of this module; each uses symbols of its own."""
    found = location_of(questdb_server.empty())
    with open_writer(f"questdb:{found}") as writer:
        writer.write([r for i in range(3) for r in one_of_each(i)])
    return found


@pytest.fixture
def reader(location: str) -> Iterator[QuestDBReader]:
    with QuestDBReader(location) as found:
        yield found


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_PAGE_ROWS", 37)
    monkeypatch.setattr(reader_module, "_BATCH_ROWS", 11)
    monkeypatch.setattr(reader_module, "_PAGE", {})


def write(location: str, *records: Any) -> None:
    with open_writer(f"questdb:{location}") as writer:
        writer.write(records)


def test_no_store(questdb_server: Any) -> None:
    with pytest.raises(StoreError, match=r"there is no store at http://127.*; fill one with cmd-cli record"):
        open_reader(f"questdb:{questdb_server.conf(table_prefix='nobody_')}")


def test_every_table_holds_what_was_written(reader: QuestDBReader) -> None:
    assert set(reader.tables()) == set(TABLES)
    assert stored(reader) == model(r for i in range(3) for r in one_of_each(i))


def test_filters_and_order_in_small_pages(location: str, reader: QuestDBReader, small_pages: None) -> None:
    rng = random.Random(3)
    records = [
        Trade(
            T0 + 10 * DAY + rng.choice((rng.randrange(3 * DAY), rng.randrange(5))), T0, venue, symbol, str(i), i, 1.0,
            1.0, "buy",
        )
        for i in range(500)
        for venue, symbol in [(rng.choice(("one", "two")), rng.choice(("AAA", "BBB", "X/Y's", "")))]
    ]  # fmt: skip
    write(location, *records)
    wanted = sorted(records, key=lambda r: (r.ts_event, r.venue, r.symbol, len(r.trade_id), r.trade_id))
    since = T0 + 10 * DAY
    assert list(reader.records("trades", start=since)) == wanted
    for _ in range(25):
        start, end = sorted((since + rng.randrange(3 * DAY), since + rng.choice((3, DAY, 3 * DAY))))
        venue = rng.choice((None, "one", "nowhere"))
        symbols = rng.choice((None, ["AAA"], ["X/Y's", "BBB", ""], []))
        found = list(reader.records("trades", venue=venue, symbols=symbols, start=start, end=end))
        assert found == [
            r
            for r in wanted
            if start <= r.ts_event < end and venue in (None, r.venue) and (symbols is None or r.symbol in symbols)
        ]
    many = ["AAA", *(f"S{i}" for i in range(1_000))]
    assert list(reader.records("trades", symbols=many, start=since)) == [r for r in wanted if r.symbol == "AAA"]
    assert list(reader.records("trades", start=-(2**62), end=1)) == []
    assert list(reader.records("trades", venue="one", start=since, end=2**63 - 1)) == [
        r for r in wanted if r.venue == "one"
    ]


def test_one_stamp_that_fills_pages_is_given_whole(location: str, reader: QuestDBReader, small_pages: None) -> None:
    records = [trade(i, symbol="SAME", at=T0 + 20 * DAY + i // 100) for i in range(250)]
    write(location, *records)
    assert list(reader.records("trades", symbols=["SAME"])) == records


def test_batches_have_the_schemas_types_and_the_columns_asked_for(reader: QuestDBReader) -> None:
    for table in TABLES:
        for batch in reader.batches(table):
            assert batch.schema.types == arrow_schema(table).types
            assert batch.schema.names == arrow_schema(table).names
    (few,) = reader.batches("trades", columns=["price", "symbol"], symbols=["BTCUSDT"])
    assert few.schema.names == ["price", "symbol"]
    assert isinstance(few, pa.RecordBatch)
    with pytest.raises(UnknownNameError, match=r"column of trades 'pric'; did you mean price\?"):
        reader.batches("trades", columns=["pric"])
    with pytest.raises(UnknownNameError, match="unknown table"):
        reader.records("trade")


def test_memory_is_bounded_by_pages(location: str, reader: QuestDBReader, small_pages: None) -> None:
    write(location, *(trade(i, symbol="PAGES", at=T0 + 30 * DAY + i) for i in range(200)))
    sizes = [batch.num_rows for batch in reader.batches("trades", symbols=["PAGES"])]
    assert sum(sizes) == 200
    assert max(sizes) <= 11


def test_latest(location: str, reader: QuestDBReader) -> None:
    assert reader.latest("trades", venue=VENUE, symbol="LATE") is None
    rows = [trade(i, symbol="LATE", at=T0 + 40 * DAY + i // 3) for i in range(11)]
    write(location, *rows)
    assert reader.latest("trades", venue=VENUE, symbol="LATE") == rows[-1]
    assert reader.latest("trades", venue="elsewhere", symbol="LATE") is None
    book = reader.latest("aggregated_books", venue="", symbol="BTC-USDT")
    assert isinstance(book, AggregatedBook)
    assert book.seq == 2


def test_deleted_rows_are_not_there(location: str, reader: QuestDBReader) -> None:
    start = T0 + 50 * DAY
    rows = [trade(i, symbol="GONE", live=i % 2 == 0, at=start + i) for i in range(10)]
    with open_writer(f"questdb:{location}") as writer:
        for table, batch in to_batches(rows).items():
            writer.write_batch(table, batch)
        writer.flush()
        writer.delete("trades", VENUE, "GONE", start, start + 100)  # type: ignore[attr-defined]
        writer.flush()
    assert list(reader.records("trades", symbols=["GONE"])) == rows[::2]
    assert reader.latest("trades", venue=VENUE, symbol="GONE") == rows[8]


def snapshot(symbol: str, t: int, epoch: int, seq: int, price: float) -> BookSnapshot:
    bids = pack_levels([(price, 1.0), (price - 1, 2.0)])
    return BookSnapshot(T0 + t, T0 + t, VENUE, symbol, epoch, seq, 2, 1, bids, pack_levels([(price + 1, 1.0)]))


def delta(symbol: str, t: int, epoch: int, seq: int, bids: list[tuple[float, float]]) -> BookDelta:
    return BookDelta(T0 + t, T0 + t, VENUE, symbol, epoch, seq, seq, pack_levels(bids), b"")


def test_book_at(location: str, reader: QuestDBReader) -> None:
    s = "BOOK"
    write(
        location,
        snapshot(s, 10, 5, 5, 100.0),
        delta(s, 10, 5, 6, [(100.0, 3.0)]),
        delta(s, 20, 5, 7, [(100.5, 1.0)]),
        delta(s, 20, 5, 8, [(99.0, 0.0)]),
        delta(s, 30, 5, 9, [(100.5, 0.0)]),
        snapshot(s, 60, 20, 20, 200.0),
        delta(s, 70, 20, 21, [(200.0, 9.0)]),
        delta(s, 80, 33, 34, [(1.0, 1.0)]),
        Gap(T0 + 40, T0 + 60, VENUE, s, "book_deltas", "sequence", "lost"),
    )

    def book(t: int) -> tuple[object, ...] | None:
        found = reader.book_at(VENUE, s, T0 + t)
        if found is None:
            return None
        found.check()
        assert found.state is BookState.LIVE
        return found.bids(), found.asks(), found.last_id, found.ts_event - T0

    assert book(9) is None
    assert book(15) == ([(100.0, 3.0), (99.0, 2.0)], [(101.0, 1.0)], 6, 10)
    assert book(25) == ([(100.5, 1.0), (100.0, 3.0)], [(101.0, 1.0)], 8, 20)
    assert book(50) is None  # in the gap
    assert book(60) == ([(200.0, 1.0), (199.0, 2.0)], [(201.0, 1.0)], 20, 60)
    assert book(75) == ([(200.0, 9.0), (199.0, 2.0)], [(201.0, 1.0)], 21, 70)
    assert book(80) is None  # another epoch without its snapshot
    assert reader.book_at(VENUE, "NOBOOK", T0 + 20) is None


def test_sql_gives_times_in_ns_and_all_digits(reader: QuestDBReader) -> None:
    p = reader.conf.table_prefix
    (agg,) = (r for r in one_of_each(1) if type(r).__name__ == "AggTrade")
    query = (
        f"SELECT ts_event, ts_recv, price, quantity, first_trade_id, trade_id FROM {p}agg_trades WHERE trade_id = $id"
    )
    result = reader.sql(query, {"id": "1"})
    assert result.columns == ("ts_event", "ts_recv", "price", "quantity", "first_trade_id", "trade_id")
    row = (agg.ts_event, agg.ts_recv, agg.price, agg.quantity, agg.first_trade_id, "1")  # type: ignore[union-attr]
    assert list(result.rows()) == [row]
    assert result.to_arrow().schema.types == [
        pa.int64(),
        pa.int64(),
        pa.float64(),
        pa.float64(),
        pa.int64(),
        pa.string(),
    ]
    assert result.to_pandas().shape == (1, 6)
    assert result.to_polars().rows() == [row]
    assert len(result) == 1
    (bids,) = next(reader.sql(f"SELECT bids FROM {p}book_snapshots WHERE seq = 9").rows())
    assert bids == [[67_123.456789012, 1e-08, 5e-324], [0.1, 12_345_678.9, 1.7976931348623157e308]]
    times = reader.sql("SELECT '2024-08-08T00:00:00.000000001Z'::TIMESTAMP_NS a, '2024-08-08T00:00:00.5Z'::TIMESTAMP b")
    assert list(times.rows()) == [(T0 + 1, T0 + 500_000_000)]
    empty = reader.sql(f"SELECT ts_event, price FROM {p}trades WHERE symbol = 'none'")
    assert (list(empty.rows()), empty.to_arrow().num_rows, empty.columns) == ([], 0, ("ts_event", "price"))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "it's",
        "'; DROP TABLE trades; --",
        "a\\'b",
        "é ✓ 漢",
        "$x",
        0,
        -1,
        2**63 - 1,
        1.5,
        -1e-300,
        1e22,
        True,
        False,
    ],
)
def test_parameters_keep_their_value(reader: QuestDBReader, value: object) -> None:
    (found,) = next(reader.sql("SELECT $v AS v FROM long_sequence(1)", {"v": value}).rows())
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


def test_parameters_are_bound_outside_of_quotes_only(reader: QuestDBReader) -> None:
    query = "SELECT '$a' AS x, $a AS y, 1 AS \"$a\" /* $b */ FROM long_sequence(1) -- $c"
    assert list(reader.sql(query, {"a": "A"}).rows()) == [("$a", "A", 1)]
    times = reader.sql(f"SELECT count() FROM {reader.conf.table_prefix}quotes WHERE ts_event >= $t", {"t": T0})
    assert list(times.rows()) == [(3,)]


@pytest.mark.parametrize(
    ("query", "parameters", "words"),
    [
        ("SELECT pric FROM {}trades", {}, "Invalid column: pric"),
        ("SELECT * FROM {}trade", {}, "has no table d.*trade; did you mean .*trades"),
        ("SELEC 1", {}, "SELEC is not a query"),
        ("", {}, "the query is empty"),
        ("-- only a comment", {}, "the query is empty"),
        ("SELECT 1; SELECT 2", {}, "several statements"),
        ("SELECT 1; DROP TABLE {}trades", {}, "several statements"),
        ("SELECT 'a", {}, "a quote is not closed"),
        ("SELECT $x", {}, r"parameter \$x of the query is not given"),
        ("SELECT $venu", {"venue": "a"}, r"\$venu of the query is not given; did you mean \$venue"),
        ("SELECT 1", {"x": 1}, r"no parameter \$x"),
        ("SELECT $x", {"x": float("nan")}, "which QuestDB takes for NULL"),
        ("SELECT $x", {"x": 2**63}, "no LONG holds"),
        ("SELECT $x", {"x": [1]}, "is a list; give text"),
        ("DELETE FROM {}trades", {}, "DELETE is not a query; the store is read-only"),
        ("INSERT INTO {}gaps SELECT * FROM {}gaps", {}, "INSERT is not a query"),
        ("/* a */ -- b\n DROP TABLE {}trades", {}, "DROP is not a query"),
        ("WITH x AS (SELECT 1) INSERT INTO {}gaps SELECT * FROM {}gaps", {}, "INSERT is not a query"),
        ("WITH x AS (SELECT 1) UPDATE {}gaps SET detail = 'a'", {}, "UPDATE is not a query"),
        ("DECLARE @a := 1 UPDATE {}gaps SET detail = 'a'", {}, "UPDATE is not a query"),
        ("EXPLAIN UPDATE {}gaps SET detail = 'a'", {}, "UPDATE is not a query"),
        ("TRUNCATE TABLE {}trades", {}, "TRUNCATE is not a query"),
        ("COPY {}trades TO 'x' WITH FORMAT PARQUET", {}, "COPY is not a query"),
        ("ALTER TABLE {}trades SUSPEND WAL", {}, "ALTER is not a query"),
        ("CHECKPOINT CREATE", {}, "CHECKPOINT is not a query"),
        ("SELECT reload_config()", {}, r"reload_config\(\) is not run"),
    ],
)
def test_what_is_refused(reader: QuestDBReader, query: str, parameters: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        reader.sql(query.replace("{}", reader.conf.table_prefix), parameters)
    assert "\n" not in str(caught.value)
    assert len(list(reader.records("gaps", symbols=["BTCUSDT"]))) == 3
    assert {g.detail for g in reader.records("gaps")} == {""}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count() FROM {}trades;",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "WITH x AS (SELECT symbol FROM {}trades) SELECT * FROM x LIMIT 1",
        "DECLARE @n := 1 SELECT @n",
        "SHOW COLUMNS FROM {}trades",
        "EXPLAIN SELECT * FROM {}trades",
        "SELECT open_time, close FROM {}candles_1m LIMIT 1",
        "SELECT * FROM {}trades LATEST ON ts_event PARTITION BY venue, symbol",
        "SELECT ts_event, count() FROM {}trades SAMPLE BY 1h",
    ],
)
def test_what_is_run(reader: QuestDBReader, query: str) -> None:
    result = reader.sql(query.replace("{}", reader.conf.table_prefix))
    assert len(list(result.rows())) == result.to_arrow().num_rows > 0


def test_a_reader_waits_for_what_was_written_and_says_when_it_cannot(
    location: str, reader: QuestDBReader, questdb_server: Any
) -> None:
    start = T0 + 60 * DAY
    for i in range(5):
        write(location, trade(i, symbol="WAIT", at=start + i))
        assert len(list(reader.records("trades", symbols=["WAIT"]))) == i + 1
    table = reader.conf.table("feed_status")
    with SqlClient(conf_of(location)) as client:
        later = T0 + 60 * DAY  # another partition: the newest is not converted
        write(location, FeedStatus(later, later, VENUE, "", "book", "c-1", "LIVE", ""))
        client.exec(f"ALTER TABLE {table} CONVERT PARTITION TO PARQUET LIST '2024-08'")
        client.wait_applied([table])
        client.exec(f"UPDATE {table} SET reason = 'x'")  # 9.3.4 cannot do it on such a partition
        state = f"SELECT suspended, writerTxn FROM wal_tables() WHERE name = '{table}'"
        try:
            questdb_server.wait_for(lambda: client.exec(state).rows[0][0], "the table is suspended")
            for ask in (lambda: list(reader.records("feed_status")), lambda: reader.sql(f"SELECT * FROM {table}")):
                with pytest.raises(TableSuspended, match=f"table {table} is suspended.*cmd-cli store check"):
                    ask()
            assert len(list(reader.records("quotes"))) == 3  # others are not concerned
        finally:
            client.exec(f"ALTER TABLE {table} RESUME WAL FROM TXN {client.exec(state).rows[0][1] + 2}")
    assert len(list(reader.records("feed_status"))) == 4


def test_the_query_command_in_every_format(location: str) -> None:
    p = conf_of(location).table_prefix
    sql = f"SELECT symbol, ts_event, price FROM {p}trades WHERE trade_id = 'uuid-1'"

    def run(*more: str) -> str:
        done = subprocess.run(
            [CLI, "query", sql, "--store", f"questdb:{location}", *more], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    ts = T0 + 123_456_790
    assert run("--format", "csv").splitlines() == ["symbol,ts_event,price", f"BTCUSDT,{ts},0.30000000000000004"]
    row = {"symbol": "BTCUSDT", "ts_event": ts, "price": 0.30000000000000004}
    assert json.loads(run("--format", "ndjson")) == row
    assert json.loads(run("--json")) == [row]
    assert str(ts) in run("--format", "table")


def test_closed(location: str) -> None:
    reader = QuestDBReader(location)
    assert candle(0) in list(reader.records("candles"))
    reader.close()
    reader.close()
    for use in (reader.tables, lambda: reader.records("trades"), lambda: reader.sql("SELECT 1")):
        with pytest.raises(StoreError, match=r"the reader of http://127.* is closed"):
            use()
