from __future__ import annotations

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from parquet_models import T0, VENUE, candle, gap, one_of_each, to_batches, trade

from cmd_common import open_reader
from cmd_common.errors import StoreError, UsageError
from cmd_common.schema import SCHEMA
from cmd_common.testing.simdisk import SimDisk
from cmd_parquet import ParquetReader, ParquetWriter
from cmd_parquet.sql import _fetch


@pytest.fixture
def reader(location: str) -> ParquetReader:
    with ParquetWriter(location) as writer:
        writer.write([r for i in range(2) for r in one_of_each(i)])
        writer.write([trade(i) for i in range(10)])
        writer.write([trade(i, symbol="X/Y'Z%é") for i in range(3)])
    return open_reader(f"parquet:{location}")  # type: ignore[return-value]


def rows(reader: ParquetReader, query: str, **parameters: object) -> list[tuple[object, ...]]:
    return list(reader.sql(query, parameters or None).rows())


def test_every_table_has_the_schemas_columns_and_types_full_or_empty(location: str) -> None:
    types = {"int64": "BIGINT", "int32": "INTEGER", "float64": "DOUBLE", "string": "VARCHAR", "bool": "BOOLEAN"}
    with ParquetWriter(location):
        pass
    for _ in range(2):
        with ParquetReader(location) as reader:
            for name, table in SCHEMA.items():
                found = [(r[0], r[1]) for r in rows(reader, f"DESCRIBE {name}")]
                assert found == [(c.name, types.get(c.type, "DOUBLE[]")) for c in table.columns]
            assert {r[0] for r in rows(reader, "SHOW TABLES")} == set(SCHEMA)
        with ParquetWriter(location) as writer:
            writer.write(one_of_each())


def test_values_are_the_stored_ones(reader: ParquetReader) -> None:
    quote = one_of_each()[2]
    (row,) = rows(reader, "SELECT * FROM quotes ORDER BY ts_event LIMIT 1")
    assert row == (quote.ts_event, quote.ts_recv, VENUE, "BTCUSDT", *[getattr(quote, f) for f in quote.__struct_fields__[4:]])  # type: ignore[attr-defined]  # fmt: skip
    assert rows(reader, "SELECT symbol, count(*) FROM trades GROUP BY symbol ORDER BY 1") == [
        ("BTCUSDT", 12),
        ("X/Y'Z%é", 3),
    ]
    assert rows(reader, "SELECT count(*) FROM trades WHERE symbol = $s", s="X/Y'Z%é") == [(3,)]
    assert rows(reader, "SELECT DISTINCT symbol, record_type FROM feed_status") == [("", "book")]
    assert rows(reader, "SELECT instrument FROM aggregated_books LIMIT 1") == [("BTC-USDT",)]
    assert rows(reader, "SELECT len(bids) FROM book_deltas LIMIT 1") == [(0,)]


def test_overlapping_files_and_the_journal_are_one_row_a_key(location: str) -> None:
    with ParquetWriter(location) as writer:
        writer.write([trade(i) for i in range(10)])
        writer.roll()
        writer.write_batch("trades", to_batches([trade(i, live=False, price=9.0) for i in range(5, 20)])["trades"])
        writer.flush()
        writer.write([trade(30), trade(4, price=7.0), gap(1), candle(1, "final", close=3.0)])
        writer.flush()
        writer.write([gap(1, "repair"), candle(1, "provisional", close=4.0)])
        writer.flush()
        with ParquetReader(location) as reader:
            assert rows(reader, "SELECT count(*), count(DISTINCT trade_id) FROM trades") == [(21, 21)]
            assert rows(reader, "SELECT price FROM trades WHERE trade_id = '4'") == [(7.0,)]
            assert rows(reader, "SELECT count(*) FROM trades WHERE ts_recv IS NULL AND price = 9.0") == [(10,)]
            assert rows(reader, "SELECT repaired_by FROM gaps") == [("repair",)]
            assert rows(reader, "SELECT state, close FROM candles") == [("final", 3.0)]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT pric FROM trades", 'Referenced column "pric" not found.*"price"'),
        ("SELECT * FROM trade", 'Table with name trade does not exist! Did you mean "trades"'),
        ("SELECT * FROM xyz", "Table with name xyz does not exist"),
        ("SELEC 1", "syntax error at or near"),
        ("", "the query is empty"),
        ("-- only a comment", "the query is empty"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT * FROM trades WHERE ts_event = 'abc'", "Could not convert string 'abc'"),
        ("SELECT $x", "x"),
        ("DELETE FROM trades", "DELETE is not a query; the store is read-only"),
        ("CREATE TABLE t AS SELECT 1", "CREATE is not a query"),
        ("COPY (SELECT 1) TO 'out.parquet'", "COPY is not a query"),
        ("COPY (PIVOT trades ON side) TO 'out.parquet'", "COPY is not a query"),
        ("/* a */ COPY trades TO 'out.csv'", "COPY is not a query"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'", "COPY is not a query"),
        ("ATTACH 'other.db'", "ATTACH is not a query"),
        ("SET enable_external_access = true", "SET is not a query"),
        ("PRAGMA database_list", "PRAGMA is not a query"),
        ("INSTALL httpfs", "INSTALL is not a query"),
        ("SELECT * FROM '/etc/passwd'", "file system operations are disabled|does not exist"),
        ("SELECT * FROM read_text('/etc/passwd')", "Cannot access.*a query reads the store's tables only"),
        ("SELECT * FROM glob('/*')", "Cannot access"),
        ("SELECT * FROM read_parquet('https://example.com/a.parquet')", "."),
    ],
)
def test_what_is_refused(reader: ParquetReader, query: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        reader.sql(query)
    assert "\n" not in str(caught.value)
    assert not Path("out.parquet").exists()


def test_a_query_leaves_nothing_behind(reader: ParquetReader, location: str) -> None:
    before = {p: p.read_bytes() for p in Path(location).rglob("*") if p.is_file()}
    file = next(p for p in before if p.suffix == ".parquet")
    for query in (
        f"COPY (SELECT 1 AS a) TO '{file}'",
        f"COPY (SELECT 1 AS a) TO '{file}' (USE_TMP_FILE false)",
        f"EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{file}' (USE_TMP_FILE false)",
        f"WITH a AS (SELECT 1) SELECT * FROM a; COPY trades TO '{file}'",
        f"EXPORT DATABASE '{location}/x'",
        f"ATTACH '{location}/_store/manifest.sqlite' AS m (TYPE sqlite)",
        f"SELECT * FROM read_text('{location}/_store/manifest.sum')",
    ):
        with pytest.raises(UsageError):
            reader.sql(query)
    assert {p: p.read_bytes() for p in Path(location).rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "query",
    [
        "FROM trades LIMIT 1",
        "(SELECT 1 AS a)",
        "WITH a AS (SELECT price FROM trades) SELECT max(price) FROM a",
        "VALUES (1)",
        "SUMMARIZE quotes",
        "EXPLAIN SELECT * FROM trades",
        "EXPLAIN ANALYZE SELECT count(*) FROM trades",
        "PIVOT trades ON side USING count(*)",
        "SELECT make_timestamp_ns(ts_event) FROM trades LIMIT 1",
        "-- newest\nSELECT * FROM trades ORDER BY ts_event DESC LIMIT 1",
    ],
)
def test_what_is_run(reader: ParquetReader, query: str) -> None:
    assert len(reader.sql(query)) >= 1


def test_results_in_every_form(reader: ParquetReader) -> None:
    result = reader.sql("SELECT symbol, count(*) AS n FROM trades GROUP BY symbol ORDER BY symbol")
    assert result.columns == ("symbol", "n")
    assert len(result) == 2
    assert isinstance(result.to_arrow(), pa.Table)
    assert result.to_polars().equals(pl.DataFrame({"symbol": ["BTCUSDT", "X/Y'Z%é"], "n": [12, 3]}))
    assert isinstance(result.to_pandas(), pd.DataFrame)
    assert list(reader.sql("SELECT 1 AS a WHERE false").rows()) == []


def test_a_condition_on_the_symbol_opens_only_its_files(reader: ParquetReader) -> None:
    plan = str(rows(reader, "EXPLAIN SELECT * FROM trades WHERE symbol = 'BTCUSDT'"))
    assert "1/2" in plan


def test_awkward_locations_and_symbols(tmp_path: Path) -> None:
    location = str(tmp_path / "it's a [store] é")
    symbols = ["NULL", "null", "A=B", "..", "a/b", "50%", "ключ", "__HIVE_DEFAULT_PARTITION__", "1000", "+", " "]
    with ParquetWriter(location) as writer:
        writer.write([trade(i, symbol=s) for i, s in enumerate(symbols)])
    with ParquetReader(location) as reader:
        assert [r.symbol for r in reader.records("trades")] == symbols  # type: ignore[union-attr]
        assert [r[0] for r in rows(reader, "SELECT symbol FROM trades ORDER BY ts_event")] == symbols
        for symbol in symbols:
            assert rows(reader, "SELECT count(*) FROM trades WHERE symbol = $s", s=symbol) == [(1,)]


def test_sql_on_another_disk() -> None:
    disk = SimDisk()
    with ParquetWriter("/s", disk=disk) as writer:
        writer.write([trade(i) for i in range(5)])
        writer.roll()
        writer.write([trade(i) for i in range(3, 8)])
        writer.flush()
        with ParquetReader("/s", disk=disk) as reader:
            assert rows(reader, "SELECT count(*) FROM trades") == [(8,)]
            assert rows(reader, "SELECT count(*) FROM quotes") == [(0,)]


def test_times_are_nanoseconds_as_numbers(reader: ParquetReader) -> None:
    assert rows(reader, "SELECT min(ts_event) FROM trades") == [(T0,)]


def test_ctrl_c_within_a_query_is_ctrl_c() -> None:
    class Interrupted:
        def sql(self, query: str, params: object) -> None:
            raise RuntimeError("Query interrupted")  # DuckDB's words

    with pytest.raises(KeyboardInterrupt):
        _fetch(Interrupted(), "SELECT 1", None)  # type: ignore[arg-type]


def test_a_damaged_file_is_a_store_error(reader: ParquetReader, location: str) -> None:
    file = next(p for p in Path(location).rglob("*.parquet") if "table=quotes" in str(p))
    file.write_bytes(b"PAR1" + file.read_bytes()[4:-50])
    with pytest.raises(StoreError, match="cannot be read"):
        reader.sql("SELECT * FROM quotes")
