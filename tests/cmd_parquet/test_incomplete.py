"""Rows inside open gaps: left out or marked by the reader, by SQL, by the joins of docs/gaps.md, by the command."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from parquet_models import T0, VENUE, candle, trade

from cmd_common import open_reader, open_writer
from cmd_common.errors import UsageError
from cmd_common.gaps import GapIndex
from cmd_common.records import Gap, Record, Trade

CLI = str(Path(sysconfig.get_path("scripts")) / "cmd-cli")
PAGE = Path(__file__).parents[2] / "docs" / "gaps.md"
MS = 1_000_000
MINUTE = 60_000_000_000


def recipe(title: str) -> str:
    """The SQL of docs/gaps.md whose first line says so."""
    (found,) = re.findall(rf"```sql\n-- {re.escape(title)}\n(.*?)```", PAGE.read_text(), re.S)
    return str(found)


def ledger(rng: random.Random) -> list[Gap]:
    """Gaps of any kind of scope, some of them repaired, none twice."""
    gaps = {}
    for _ in range(12):
        table = rng.choice(("trades", "trades", "candles", ""))
        unit = rng.choice((MS, MS, MINUTE))
        low, high = sorted(T0 + rng.randrange(60) * unit for _ in range(2))
        gap = Gap(
            low, high, rng.choice((VENUE, VENUE, "kraken")), rng.choice(("BTCUSDT", "ETHUSDT", "")), table, "disconnect",
            "lost", repaired_by=rng.choice(("", "rest")),
        )  # fmt: skip
        gaps[gap.ts_from, gap.venue, gap.symbol, gap.record_type, gap.ts_to] = gap
    return list(gaps.values())


def rows() -> list[Record]:
    return [*(trade(i, symbol=s) for i in range(60) for s in ("BTCUSDT", "ETHUSDT")), *(candle(i) for i in range(60))]


def whole(gaps: list[Gap], record: Record, table: str) -> bool:
    low = record.ts_event if isinstance(record, Trade) else record.open_time  # type: ignore[union-attr]
    high = record.ts_event if isinstance(record, Trade) else record.close_time  # type: ignore[union-attr]
    return not any(
        g.venue == VENUE and g.symbol in (record.symbol, "") and g.record_type in (table, "") and not g.repaired_by  # type: ignore[union-attr]
        and low < g.ts_to and high > g.ts_from
        for g in gaps
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_dropped_marked_and_joined_rows_are_the_same(location: str, seed: int) -> None:
    gaps = ledger(random.Random(seed))
    with open_writer(f"parquet:{location}") as writer:
        writer.write(rows()[:90])
        writer.write(gaps)
        writer.flush()
        writer.write(rows()[90:])
    with open_reader(f"parquet:{location}") as reader:
        for table, key, words in (("trades", "trade_id", "trades"), ("candles", "open_time", "candles")):
            all_ = list(reader.records(table))
            wanted = [r for r in all_ if whole(gaps, r, table)]
            assert list(reader.records(table, incomplete="drop")) == wanted
            marks = [
                (row[key], row["complete"])
                for batch in reader.batches(table, columns=[key], incomplete="mark")
                for row in batch.to_pylist()
            ]
            assert marks == [(getattr(r, key), whole(gaps, r, table)) for r in all_]
            kept = [
                row[key]
                for batch in reader.batches(table, columns=[key], incomplete="drop")
                for row in batch.to_pylist()
            ]
            values = [getattr(r, key) for r in wanted]
            assert kept == values
            found = reader.sql(f"SELECT {key} FROM {table} ORDER BY ALL", complete_only=True)
            assert sorted(v for (v,) in found.rows()) == sorted(values)
            found = reader.sql(f"SELECT {key} FROM ({recipe(f'duckdb: {words} outside of any open gap')})")
            assert sorted(v for (v,) in found.rows()) == sorted(values)
            assert reader.left_out(f"SELECT * FROM {table}") == GapIndex(gaps).count([table])
        every = [g for g in gaps if not g.repaired_by]
        ((count,),) = reader.sql("SELECT count(*) FROM gaps WHERE repaired_by = ''", complete_only=True).rows()
        assert count == len(every)  # the ledger itself is never left out


def test_other_words_and_records_that_cannot_be_marked(location: str) -> None:
    with open_writer(f"parquet:{location}") as writer:
        writer.write([trade(1)])
    with open_reader(f"parquet:{location}") as reader:
        with pytest.raises(UsageError, match="unknown word 'none'"):
            reader.batches("trades", incomplete="none")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="records cannot be marked"):
            reader.records("trades", incomplete="mark")
        assert len(list(reader.records("trades", incomplete="drop"))) == 1


def test_the_command_says_how_many_intervals_it_left_out(location: str) -> None:
    gaps = [
        Gap(T0 + 2 * MS, T0 + 5 * MS, VENUE, "BTCUSDT", "trades", "disconnect", "lost"),
        Gap(T0 + 4 * MS, T0 + 6 * MS, VENUE, "BTCUSDT", "trades", "trade_id", "lost"),
        Gap(T0 + 8 * MS, T0 + 9 * MS, VENUE, "BTCUSDT", "trades", "trade_id", "lost", repaired_by="rest"),
    ]
    with open_writer(f"parquet:{location}") as writer:
        writer.write([*(trade(i) for i in range(10)), *gaps])
    sql = "SELECT trade_id FROM trades ORDER BY ts_event"
    ran = subprocess.run(
        [CLI, "query", sql, "--store", f"parquet:{location}", "--json", "--complete-only"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [row["trade_id"] for row in json.loads(ran.stdout)] == ["0", "1", "2", "6", "7", "8", "9"]
    assert ran.stderr.strip() == "left out the rows of 1 open gap interval"
