"""Rows inside open gaps in QuestDB: the reader, its SQL, and the joins of docs/gaps.md, against the model."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from qdb_kit import T0, VENUE, candle, conf_of, location_of, trade

from cmd_common import open_reader, open_writer
from cmd_common.errors import UsageError
from cmd_common.gaps import GapIndex, keep_complete
from cmd_common.records import Gap
from cmd_questdb.complete import only_complete

PAGE = Path(__file__).parents[2] / "docs" / "gaps.md"
MS = 1_000_000
MINUTE = 60_000_000_000


def recipe(title: str, prefix: str) -> str:
    """The SQL of docs/gaps.md whose first line says so, over tables with a prefix."""
    (found,) = re.findall(rf"```sql\n-- {re.escape(title)}\n(.*?)```", PAGE.read_text(), re.S)
    return re.sub(r"(FROM|JOIN) (\w+)", rf"\1 {prefix}\2", str(found))


def test_dropped_marked_and_joined_rows_are_the_same(questdb: Any) -> None:
    location = location_of(questdb)
    prefix = conf_of(location).table_prefix
    rng = random.Random(5)
    gaps = {}
    for _ in range(14):
        unit = rng.choice((MS, MINUTE))
        low, high = sorted(T0 + rng.randrange(60) * unit for _ in range(2))
        table, symbol = rng.choice(("trades", "candles", "")), rng.choice(("BTCUSDT", "ETHUSDT", ""))
        venue, repaired = rng.choice((VENUE, VENUE, "kraken")), rng.choice(("", "rest"))
        gaps[low, high, venue, symbol, table] = Gap(
            low, high, venue, symbol, table, "x", "lost", repaired_by=repaired
        )  # fmt: skip
    index = GapIndex(gaps.values())
    trades = [trade(i, symbol=s) for i in range(60) for s in ("BTCUSDT", "ETHUSDT")]
    candles = [candle(i) for i in range(60)]
    with open_writer(f"questdb:{location}") as writer:
        writer.write([*trades, *candles, *gaps.values()])
    with open_reader(f"questdb:{location}") as reader:
        for table, key in (("trades", "trade_id"), ("candles", "open_time")):
            all_ = list(reader.records(table))
            wanted = list(keep_complete(index, table, all_))
            assert 0 < len(wanted) < len(all_)
            assert list(reader.records(table, incomplete="drop")) == wanted
            marks = [m for b in reader.batches(table, incomplete="mark") for m in b.column("complete").to_pylist()]
            assert [r for r, mark in zip(all_, marks, strict=True) if mark] == wanted
            values = sorted(getattr(r, key) for r in wanted)
            name = prefix + table
            for query in (f"SELECT {key} FROM {name}", f"WITH x AS (SELECT {key} FROM {name}) SELECT {key} FROM x"):
                assert sorted(v for (v,) in reader.sql(query, complete_only=True).rows()) == values
            ((counted,),) = reader.sql(f"SELECT count() FROM {name} SAMPLE BY 30d", complete_only=True).to_arrow().select(
                ["count()"]
            ).to_pylist()[0].values(),  # fmt: skip
            assert counted == len(values)
            joined = recipe(f"questdb: {table} outside of any open gap", prefix)
            assert sorted(v for (v,) in reader.sql(f"SELECT {key} FROM ({joined})").rows()) == values
            assert reader.left_out(f"SELECT * FROM {name}") == index.count([table])
        with pytest.raises(UsageError, match="does not tell complete rows; query the table trades or candles"):
            reader.sql(f"SELECT * FROM {prefix}candles_1m", complete_only=True)


def test_what_names_no_table_with_gaps_is_as_it_was(questdb: Any) -> None:
    conf = conf_of(location_of(questdb))
    for query in ("SELECT 1", f"SELECT * FROM {conf.table('gaps')}", "SHOW TABLES"):
        assert only_complete(query, conf) == query
    with pytest.raises(UsageError, match="EXPLAIN has no complete rows"):
        only_complete(f"EXPLAIN SELECT * FROM {conf.table('trades')}", conf)
