"""Rows of a store as files: all of them, exactly, or none."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmd_common.commands import ExportOptions, LogReporter
from cmd_common.errors import CmdError, UnknownNameError, UsageError
from cmd_common.io import open_reader, open_writer
from cmd_common.records import BookSnapshot, Gap, Record, Trade, pack_levels
from cmd_parquet.columns import to_records
from cmd_parquet.export import run

START = 1_735_689_600_000_000_001


@pytest.fixture
def store(tmp_path: Path) -> str:
    url = f"parquet:{tmp_path / 'data'}"
    rows: list[Record] = [
        Trade(
            START + n,
            START if n % 2 else 0,
            venue,
            symbol,
            f"i,{n}\n",
            None if n == 3 else 2**60 + n,
            0.1,
            1e-8,
            "sell",
        )
        for venue in ("v", "w")
        for symbol in ("A", "B")
        for n in range(5)
    ]
    rows.append(BookSnapshot(START, START, "v", "A", 1, 2, 1, 0, pack_levels([(1.5, 2.0), (1.25, 1e-9)]), b""))
    rows.append(Gap(START, START + 1, "v", "A", "trades", 'a "reason"', "lost"))
    with open_writer(url) as writer:
        writer.write(rows)
    return url


def export(store: str, target: Path, *tables: str, **more: object) -> dict[str, int]:
    options = ExportOptions(store=store, tables=tables, target=str(target), **more)  # type: ignore[arg-type]
    result = run(options, LogReporter())
    rows: dict[str, int] = result.summary["rows"]
    return rows


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_files_hold_the_records_exactly(store: str, tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "out"
    assert export(store, folder, "trades", "book_snapshots", "gaps", format=ending) == {
        "trades": 20, "book_snapshots": 1, "gaps": 1,
    }  # fmt: skip
    with open_reader(store) as reader:
        for table in ("trades", "book_snapshots", "gaps"):
            path = folder / f"{table}.{ending}"
            if ending == "parquet":
                data = pq.read_table(path)
            else:
                with pa.ipc.open_file(path) as file:
                    data = file.read_all()
            assert list(to_records(table, data)) == list(reader.records(table))
    assert not list(folder.glob("*.part"))


def test_csv_reads_back_the_same_text(store: str, tmp_path: Path) -> None:
    export(store, tmp_path / "t.csv", "trades", venue="v", symbols=("A",))
    with open(tmp_path / "t.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["trade_id"] for r in rows] == [f"i,{n}\n" for n in range(5)]
    assert rows[3]["trade_seq"] == ""
    assert int(rows[4]["trade_seq"]) == 2**60 + 4
    assert float(rows[0]["price"]) == 0.1
    assert float(rows[0]["quantity"]) == 1e-8
    assert int(rows[0]["ts_event"]) == START
    export(store, tmp_path / "b.csv", "book_snapshots")
    with open(tmp_path / "b.csv", newline="") as f:
        book = next(iter(csv.DictReader(f)))
    assert json.loads(book["bids"]) == [1.5, 2.0, 1.25, 1e-9]
    assert json.loads(book["asks"]) == []


def test_venue_symbols_and_times_choose_rows(store: str, tmp_path: Path) -> None:
    assert export(store, tmp_path / "1.parquet", "trades", venue="w") == {"trades": 10}
    assert export(store, tmp_path / "2.parquet", "trades", symbols=("A", "B")) == {"trades": 20}
    assert export(store, tmp_path / "3.parquet", "trades", symbols=("B",), start=START + 1, end=START + 4) == {
        "trades": 6
    }
    assert export(store, tmp_path / "4.parquet", "trades", symbols=("C",)) == {"trades": 0}
    assert pq.read_table(tmp_path / "4.parquet").num_rows == 0


def test_a_file_that_is_there_is_replaced_only_by_force(store: str, tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists; add --force"):
        export(store, target, "trades")
    assert target.read_bytes() == b"mine"
    assert export(store, target, "trades", force=True) == {"trades": 20}


def test_a_failure_leaves_no_file(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", fails)
    with pytest.raises(CmdError, match=r"cannot write .*No space left"):
        export(store, tmp_path / "out" / "t.parquet", "trades")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("tables", "target", "more", "kind"),
    [
        ((), "x.parquet", {}, UsageError),
        (("trade",), "x.parquet", {}, UnknownNameError),
        (("trades",), "", {}, UsageError),
        (("trades", "gaps"), "x.parquet", {}, UsageError),
        (("trades",), "x.parquet", {"format": "csv"}, UsageError),
        (("trades",), "x", {"format": "excel"}, UnknownNameError),
        (("aggregated_books",), "x", {"venue": "v"}, UsageError),
    ],
)
def test_what_cannot_be_exported_is_refused(
    store: str, tables: tuple[str, ...], target: str, more: dict[str, str], kind: type[CmdError]
) -> None:
    with pytest.raises(kind) as caught:
        run(ExportOptions(store=store, tables=tables, target=target, **more), LogReporter())
    assert caught.value.hint or kind is UsageError
