"""The events of hftbacktest: read as numpy reads them, they rebuild the book of the store and hold every trade."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmd_common.commands import EXIT_GAPS, EXIT_OK, ExportOptions, LogReporter, Result
from cmd_common.errors import CmdError, UsageError
from cmd_common.io import open_reader, open_writer
from cmd_common.records import REST, BookDelta, BookSnapshot, Gap, Record, Trade, pack_levels
from cmd_parquet.export import run

MS = 1_000_000
START = 1_735_689_600_000_000_000
EXCH, LOCAL, BUY, SELL = 1 << 31, 1 << 30, 1 << 29, 1 << 28
DEPTH, TRADE, CLEAR, SNAPSHOT = 1, 2, 3, 4


def snapshot(at: int, epoch: int, seq: int, bid: float, ask: float) -> BookSnapshot:
    ts = START + at * MS
    bids, asks = pack_levels([(bid, 1.0), (bid - 1, 2.0)]), pack_levels([(ask, 1.5)])
    return BookSnapshot(ts, ts + 2 * MS, "v", "A", epoch, seq, 2, 1, bids, asks)


def delta(at: int, epoch: int, seq: int, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> BookDelta:
    ts = START + at * MS
    return BookDelta(ts, ts + 2 * MS, "v", "A", epoch, seq, seq, pack_levels(bids), pack_levels(asks))


def trade(at: int, n: int, side: Any = "buy", *, recv: int = 2, flags: int = 0) -> Trade:
    ts = START + at * MS
    return Trade(ts, ts + recv * MS if recv else 0, "v", "A", str(n), n, 100.0 + n, 0.5, side, flags)


def stored(tmp_path: Path, rows: list[Record]) -> str:
    url = f"parquet:{tmp_path / 'data'}"
    with open_writer(url) as writer:
        writer.write(rows)
    return url


def export(store: str, target: Path, **more: Any) -> Result:
    options: dict[str, Any] = {"tables": (), "venue": "v", "symbols": ("A",), **more}
    return run(ExportOptions(store=store, target=str(target), **options), LogReporter())


def events(path: Path) -> Any:
    with np.load(path) as file:
        assert file.files == ["data"]
        return file["data"]


def book(data: Any, reader_bit: int = EXCH) -> tuple[dict[float, float], dict[float, float]]:
    """The book that a reader of the events ends with."""
    sides: dict[int, dict[float, float]] = {BUY: {}, SELL: {}}
    for row in data:
        ev = int(row["ev"])
        kind, side = ev & 0xFF, ev & (BUY | SELL)
        if not ev & reader_bit or kind == TRADE:
            continue
        if kind == CLEAR:
            assert math.isnan(row["px"])
            sides[side].clear()
        elif row["qty"] == 0:
            sides[side].pop(float(row["px"]), None)
        else:
            sides[side][float(row["px"])] = float(row["qty"])
    return sides[BUY], sides[SELL]


ROWS: list[Record] = [
    snapshot(0, 1, 10, 99.0, 101.0),
    trade(1, 1),
    delta(2, 1, 11, [(99.0, 0.0), (98.5, 3.0)], [(100.5, 4.0)]),
    trade(3, 2, "sell"),
    trade(3, 3, "unknown"),
    snapshot(4, 1, 11, 50.0, 60.0),  # of an unbroken book: left out, so that these prices must not be seen
    delta(5, 2, 21, [(90.0, 7.0)], []),  # a new chain, whose snapshot comes after it
    snapshot(6, 2, 20, 91.0, 92.0),
    delta(7, 2, 22, [(89.0, 1.0)], [(92.0, 0.0), (93.0, 2.0)]),
]


def test_rows_are_those_of_the_store(tmp_path: Path) -> None:
    result = export(stored(tmp_path, ROWS), tmp_path / "a.npz")
    assert result.exit_code == EXIT_OK
    data = events(tmp_path / "a.npz")
    assert data.dtype.itemsize == 64
    assert data.dtype.names == ("ev", "exch_ts", "local_ts", "px", "qty", "order_id", "ival", "fval")
    assert result.summary["rows"] == {"A": len(data)}
    assert result.summary["events"]["A"] == {
        "rows": len(data), "trades": 3, "updates": 3, "snapshots": 2, "dropped_updates": 0, "raised_local_ts": 0,
        "reordered": 0,
    }  # fmt: skip
    trades = data[data["ev"] & 0xFF == TRADE]
    assert [int(e) for e in trades["ev"]] == [EXCH | LOCAL | TRADE | s for s in (BUY, SELL, 0)]
    assert list(trades["px"]) == [101.0, 102.0, 103.0]
    assert list(trades["exch_ts"]) == [START + n * MS for n in (1, 3, 3)]
    assert list(trades["local_ts"] - trades["exch_ts"]) == [2 * MS] * 3
    assert book(data[data["exch_ts"] < START + 6 * MS]) == ({98.0: 2.0, 98.5: 3.0}, {101.0: 1.5, 100.5: 4.0})
    assert book(data) == book(data, LOCAL) == ({91.0: 1.0, 90.0: 7.0, 89.0: 1.0}, {93.0: 2.0})


def test_an_interval_begins_with_the_book_of_that_moment(tmp_path: Path) -> None:
    store = stored(tmp_path, ROWS)
    start = START + 3 * MS
    export(store, tmp_path / "a.npz", start=start, end=START + 5 * MS)
    data = events(tmp_path / "a.npz")
    with open_reader(store) as reader:
        then = reader.book_at("v", "A", start - 1)
    assert then is not None
    assert book(data) == (dict(then.bids()), dict(then.asks()))
    assert int(data["exch_ts"].min()) == start


def test_a_broken_book_is_replaced_by_the_next_snapshot_and_the_gap_is_named(tmp_path: Path) -> None:
    gap = Gap(START + 3 * MS, START + 4 * MS, "v", "A", "book_deltas", "overflow", "lost")
    result = export(stored(tmp_path, [*ROWS, gap]), tmp_path / "a.npz")
    assert result.exit_code == EXIT_GAPS
    assert result.summary["open_gaps"] == 1
    data = events(tmp_path / "a.npz")
    assert book(data[data["exch_ts"] < START + 5 * MS]) == ({50.0: 1.0, 49.0: 2.0}, {60.0: 1.5})


@pytest.mark.parametrize(
    ("gap", "more"),
    [
        (Gap(START, START + MS, "v", "A", "trades", "silence", "lost", repaired_by="rest"), {}),
        (Gap(START, START + MS, "v", "B", "trades", "silence", "lost"), {}),
        (Gap(START, START + MS, "w", "A", "trades", "silence", "lost"), {}),
        (Gap(START, START + MS, "v", "A", "candles", "silence", "lost"), {}),
        (Gap(START, START + MS, "v", "A", "trades", "silence", "lost"), {"start": START + MS}),
        (Gap(START + MS, START + 2 * MS, "v", "A", "trades", "silence", "lost"), {"end": START + MS}),
    ],
)
def test_gaps_that_are_repaired_or_elsewhere_do_not_count(tmp_path: Path, gap: Gap, more: dict[str, int]) -> None:
    assert export(stored(tmp_path, [*ROWS, gap]), tmp_path / "a.npz", **more).exit_code == EXIT_OK


def test_a_receive_time_that_is_not_known_is_the_exchange_time_and_the_latency(tmp_path: Path) -> None:
    rows: list[Record] = [trade(0, 1, recv=0), trade(1, 2, recv=3_600_000, flags=REST), trade(2, 3, recv=-1)]
    result = export(stored(tmp_path, rows), tmp_path / "a.npz", tables=("trades",), latency=3 * MS)
    data = events(tmp_path / "a.npz")
    exch = data[(data["ev"] & EXCH) > 0]
    assert list(exch["local_ts"] - exch["exch_ts"]) == [3 * MS, 3 * MS, 0]
    local = data[(data["ev"] & LOCAL) > 0]
    assert list(local["local_ts"]) == sorted(local["local_ts"])
    assert result.summary["events"]["A"]["raised_local_ts"] == 1


def test_updates_without_a_beginning_are_left_out_and_counted(tmp_path: Path) -> None:
    result = export(stored(tmp_path, [delta(n, 1, n, [(1.0, 1.0)], []) for n in range(1, 4)]), tmp_path / "a.npz")
    assert result.summary["rows"] == {"A": 0}
    assert result.summary["events"]["A"]["dropped_updates"] == 3
    assert len(events(tmp_path / "a.npz")) == 0


def test_several_symbols_are_files_in_a_folder(tmp_path: Path) -> None:
    rows = [*ROWS, Trade(START, START, "v", "B", "1", 1, 5.0, 1.0, "buy")]
    export(stored(tmp_path, rows), tmp_path / "out", symbols=("A", "B"), format="hftbacktest")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["A.npz", "B.npz"]
    assert list(events(tmp_path / "out" / "B.npz")["px"]) == [5.0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"venue": ""}, "one file an instrument; add --exchange"),
        ({"symbols": ()}, "one file an instrument; add --exchange"),
        ({"symbols": ("A", "B")}, "several symbols do not fit into one file"),
        ({"tables": ("trades", "candles")}, "hftbacktest has no candles"),
        ({"format": "csv"}, "is no name of a csv file"),
    ],
)
def test_what_is_no_backtest_is_refused(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    store = stored(tmp_path, ROWS)
    with pytest.raises(UsageError, match=words):
        export(store, tmp_path / "a.npz", **more)


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    store = stored(tmp_path, ROWS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.npz.part").mkdir()
    with pytest.raises(CmdError, match="cannot write"):
        export(store, tmp_path / "out" / "a.npz")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.npz.part"]


def test_the_command_names_open_gaps_and_ends_with_3(tmp_path: Path) -> None:
    gap = Gap(START + 3 * MS, START + 4 * MS, "v", "A", "trades", "disconnect", "lost")
    store = stored(tmp_path, [*ROWS, gap])
    base = [sys.executable, "-m", "cmd_cli", "export", "--store", store, "--exchange", "v", "--symbols", "A"]
    done = subprocess.run([*base, "--to", str(tmp_path / "a.npz")], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_GAPS, done.stderr
    assert (
        "gap in v A trades from 2025-01-01T00:00:00.003000000Z to 2025-01-01T00:00:00.004000000Z: disconnect, lost"
        in done.stderr
    )
    assert len(events(tmp_path / "a.npz")) > 0
    for more, words in (
        (["--to", str(tmp_path / "a.npz")], "exists; add --force to replace it"),
        (["--to", str(tmp_path / "b.npz"), "--latency", "soon"], "--latency 'soon' is not a time"),
        (["--to", str(tmp_path / "b.npz"), "--types", "trade"], "did you mean trades"),
    ):
        done = subprocess.run([*base, *more], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_records_of_one_moment_come_as_trade_snapshot_update(tmp_path: Path) -> None:
    from cmd_parquet.book_messages import merged

    rows: list[Record] = [delta(n, 1, 10 + n, [(99.0, 2.0)], []) for n in range(4)]
    rows += [snapshot(n, 1, 9 + n, 99.0, 101.0) for n in range(4)]
    rows += [trade(n, n) for n in range(4)]
    with open_reader(stored(tmp_path, rows)) as reader:
        got = list(merged(reader, "v", "A", ("trades", "book_snapshots", "book_deltas"), None, None))
    assert [type(r) for r in got] == [Trade, BookSnapshot, BookDelta] * 4
    assert [r.ts_event for r in got] == sorted(r.ts_event for r in got)
