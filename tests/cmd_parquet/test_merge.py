from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from parquet_models import T0, candle, gap, key_of, model, trade

from cmd_common.records import Record
from cmd_parquet.columns import row_getter, rows_to_arrow, to_records
from cmd_parquet.merge import Source, merge, rechunk, sort_unique, sorted_and_unique


def table(name: str, records: list[Any], order: int = 0) -> pa.Table:
    return rows_to_arrow(name, [row_getter(name)(r) for r in records], range(order, order + len(records)))


def test_numbers_in_ids_stand_in_numeric_order() -> None:
    at = T0
    data = sort_unique("trades", table("trades", [trade(i, at=at) for i in (100, 9, 10, 99)]), inside=True)
    assert data.column("trade_id").to_pylist() == ["9", "10", "99", "100"]


def test_preference() -> None:
    rows: list[Record] = [candle(1, "final", close=1.0), candle(1, "provisional", close=2.0)]
    assert sort_unique("candles", table("candles", rows), inside=True).column("close").to_pylist() == [1.0]
    rows = [candle(1, "final", live=True, close=1.0), candle(1, "final", live=False, close=2.0)]
    assert sort_unique("candles", table("candles", rows), inside=True).column("close").to_pylist() == [1.0]
    rows = [candle(1, "corrected", live=False, close=1.0), candle(1, "final", live=True, close=2.0)]
    assert sort_unique("candles", table("candles", rows), inside=True).column("close").to_pylist() == [1.0]
    rows = [gap(1, "a"), gap(1, ""), gap(1, "b")]
    assert sort_unique("gaps", table("gaps", rows), inside=True).column("repaired_by").to_pylist() == ["b"]


@pytest.mark.parametrize("seed", range(40))
def test_merging_any_pieces_gives_each_key_once_in_order(seed: int) -> None:
    rng = random.Random(seed)
    written = []
    sources = []
    for _ in range(rng.randrange(1, 6)):
        low = rng.randrange(60)
        part = [
            trade(i % 37, at=T0 + (low + i) // rng.choice((1, 4)), live=rng.random() < 0.5, price=1 + rng.random())
            for i in range(rng.randrange(1, 30))
        ]
        data = sort_unique("trades", table("trades", part, len(written)), inside=True)
        assert sorted_and_unique("trades", data, inside=True)
        written += part
        size = rng.randrange(1, 8)

        def pieces(data: pa.Table = data, size: int = size) -> Iterator[pa.Table]:
            for i in range(0, data.num_rows, size):
                yield data.slice(i, size)

        sources.append(Source(data.column("ts_event")[0].as_py(), pieces))
    out = list(merge("trades", sources, inside=True))
    merged = pa.concat_tables(out)
    assert sorted_and_unique("trades", merged, inside=True)
    found = {key_of(r): r for r in to_records("trades", merged)}
    assert len(found) == merged.num_rows
    assert found == model(written)
    again = pa.concat_tables(rechunk(out, rows=5))
    assert again.equals(merged.combine_chunks())
    assert all(t.num_rows <= 5 for t in rechunk(out, rows=5))


def test_sources_that_do_not_overlap_are_opened_one_after_the_other() -> None:
    opened: list[int] = []

    def source(i: int) -> Source:
        data = table("trades", [trade(i * 10 + k) for k in range(5)])

        def rows() -> Iterator[pa.Table]:
            opened.append(i)
            yield data

        return Source(data.column("ts_event")[0].as_py(), rows)

    seen = [(d.num_rows, list(opened)) for d in merge("trades", [source(i) for i in (2, 0, 1)], inside=True)]
    assert [s for s in seen if s[0]] == [(5, [0]), (5, [0, 1]), (5, [0, 1, 2])]
