"""The folder as other tools read it, without this package."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from parquet_models import DAY, one_of_each, trade

from cmd_parquet import ParquetWriter

SYMBOLS = ["BTCUSDT", "XBT/USD%é", "1INCHUSDT"]


@pytest.fixture
def folder(location: str) -> str:
    with ParquetWriter(location) as writer:
        writer.write([r for i in range(2) for r in one_of_each(i)])
        for symbol in SYMBOLS:
            writer.write([trade(i, symbol=symbol) for i in range(20)])
            writer.roll()
            writer.write([trade(i, symbol=symbol, at=trade(i).ts_event + (i % 2) * DAY) for i in range(10, 30)])
    return f"{location}/table=trades"


def expected() -> dict[str, int]:
    # 20 of the first write, 20 of the second, 5 of which were there; two more trades of BTCUSDT
    return {s: 35 + 2 * (s == "BTCUSDT") for s in SYMBOLS}


def test_duckdb(folder: str) -> None:
    for extra in ("", ", hive_partitioning = false", ", hive_partitioning = true"):
        query = f"SELECT symbol, count(*) FROM read_parquet('{folder}/**/*.parquet'{extra}) GROUP BY symbol"
        assert dict(duckdb.sql(query).fetchall()) == expected()
    ((count,),) = duckdb.sql(f"SELECT count(*) FROM '{folder}/**/*.parquet' WHERE symbol = 'XBT/USD%é'").fetchall()
    assert count == 35
    dates = duckdb.sql(f"SELECT DISTINCT date::VARCHAR FROM '{folder}/**/*.parquet' ORDER BY 1").fetchall()
    assert dates == [("2024-08-08",), ("2024-08-09",)]


def test_polars(folder: str) -> None:
    for frame in (
        pl.read_parquet(folder),
        pl.read_parquet(f"{folder}/**/*.parquet"),
        pl.scan_parquet(f"{folder}/**/*.parquet", hive_partitioning=True).collect(),
    ):
        counts = frame.group_by(pl.col("symbol").cast(pl.String)).len()
        assert dict(counts.rows()) == expected()
        assert frame.filter(pl.col("symbol").cast(pl.String) == "XBT/USD%é").height == 35
        assert frame.schema["ts_event"] == pl.Int64


def test_pandas(folder: str) -> None:
    frame = pd.read_parquet(folder)
    assert frame.groupby("symbol", observed=True).size().to_dict() == expected()
    files = sorted(str(p) for p in Path(folder).rglob("*.parquet"))
    assert len(pd.concat(pd.read_parquet(f, partitioning=None) for f in files)) == len(frame)
    assert frame["ts_event"].dtype == "int64"


def test_pyarrow(folder: str) -> None:
    table = ds.dataset(folder).to_table().unify_dictionaries()
    assert table.group_by("symbol").aggregate([([], "count_all")]).num_rows == len(SYMBOLS)
    assert pq.read_table(folder, filters=[("symbol", "=", "XBT/USD%é")]).num_rows == 35


def test_files_are_typed_sorted_compressed_and_have_statistics(folder: str) -> None:
    for path in Path(folder).rglob("*.parquet"):
        file = pq.ParquetFile(path)
        times = file.read(["ts_event"]).column(0).to_pylist()
        assert times == sorted(times)
        group = file.metadata.row_group(0)
        assert group.sorting_columns[0].column_index == 0
        assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
        assert group.column(0).statistics.min == times[0]
        assert file.metadata.metadata[b"cmd.table"] == b"trades"
        file.close()


def test_every_table_is_readable_alone(location: str, folder: str) -> None:
    del folder
    for path in sorted(Path(location).glob("table=*")):
        name = path.name.removeprefix("table=")
        ((count,),) = duckdb.sql(f"SELECT count(*) FROM '{path}/**/*.parquet'").fetchall()
        assert count == len(pd.read_parquet(path)) == pl.read_parquet(path).height, name
