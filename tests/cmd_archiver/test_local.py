"""Local dumps: zips of many CSVs without ids, cut into days in one pass, never beside rows that have ids."""

from __future__ import annotations

import gzip
import math
import random
import zipfile
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from archive_kit import files_in, rows
from history_venue import (
    DAY,
    DAY_NS,
    MINUTE,
    NEXT,
    SYMBOL,
    VENUE,
    Files,
    History,
    MadeUp,
    Row,
    rows_of,
    start_of,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import cmd_archiver.unpack
from cmd_archiver.local import LocalFiles, expand_paths
from cmd_archiver.parse import RowIds, seconds_to_ns
from cmd_archiver.plan import Unit, day_file
from cmd_common.archive import CsvColumn, CsvLayout
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK
from cmd_common.errors import DataError, StoreBusyError, UsageError
from cmd_common.io import open_reader, open_writer
from cmd_common.records import Trade

pytestmark = pytest.mark.usefixtures("way")

DUMPS = MadeUp(History(), Files())
FIRST = DAY - timedelta(days=3)


def dump(made: Sequence[Row]) -> bytes:
    """Rows as Kraken writes them: seconds, price, quantity."""
    return b"".join(b"%d,%s,%s\n" % (ns // 10**9, p.encode(), q.encode()) for _, ns, p, q, _ in made)


def many_days(per_day: int = 40) -> list[Row]:
    return [r for n in range(8) for r in rows_of(FIRST + timedelta(days=n), per_day, first_id=1 + n * per_day)]


@pytest.fixture
def made() -> list[Row]:
    return many_days()


@pytest.fixture
def zipped(tmp_path, made) -> str:
    path = tmp_path / "Dump_2025.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Dump/ETHUSD.csv", dump(made[:7]))
        archive.writestr("Dump/BTCUSD.csv", dump(made))
        archive.writestr("Dump/BTCUSD_1.csv", ohlcvt())
        archive.writestr("__MACOSX/._BTCUSD.csv", b"x")
    return str(path)


def ohlcvt() -> bytes:
    start = start_of(FIRST) // 10**9
    return b"".join(b"%d,1.5,3,1,2,7.25,4\n" % (start + n * 60) for n in range(8 * 1440) if n % 5)


def expected(made: Sequence[Row], first: date = DAY, last: date = NEXT) -> list[tuple[object, ...]]:
    count: dict[int, int] = {}
    out = []
    for _, ns, p, q, _ in made:
        at = ns // 10**9 * 10**9
        n = count.get(at, 0)
        count[at] = n + 1
        if start_of(first) <= at < start_of(last) + DAY_NS:
            out.append((at, f"dump:{at}:{n}", None, float(p), float(q), "unknown"))
    return out


def stored(store: str) -> list[tuple[object, ...]]:
    query = "SELECT ts_event, trade_id, trade_seq, price, quantity, side FROM trades ORDER BY ts_event, trade_id"
    return rows(store, query)


def test_the_wanted_days_of_a_zip_of_many_files(ask, store, zipped, made):
    result, lines = ask(DUMPS, from_files=(zipped,), types=("trades", "candles"))
    assert (result.exit_code, result.summary["rows"]) == (EXIT_OK, {"trades": 80, "candles": 2 * 1152}), lines.warnings
    assert stored(store) == sorted(expected(made))
    query = "SELECT min(close_time - open_time), max(open), sum(trades), count(*) FROM candles"
    assert rows(store, query) == [(MINUTE, 1.5, 4 * 2304, 2304)]
    assert files_in(store, "_downloads") == []
    assert files_in(store, "_locks") == []
    again, lines = ask(DUMPS, from_files=(zipped,), types=("trades", "candles"))
    assert (again.exit_code, again.summary["files"], again.summary["unchanged"]) == (EXIT_OK, 0, 4)
    assert not any("reading" in i for i in lines.infos)


@pytest.mark.parametrize("packed", [False, True])
def test_single_files_and_folders_and_ids_are_the_same_in_every_run(ask, store, tmp_path, made, packed):
    folder = tmp_path / "dumps"
    folder.mkdir()
    path = folder / f"BTCUSD.csv{'.gz' * packed}"
    path.write_bytes(gzip.compress(dump(made)) if packed else dump(made))
    assert ask(DUMPS, from_files=(str(folder),))[0].exit_code == EXIT_OK
    first = stored(store)
    assert first == sorted(expected(made))
    path.touch()
    result, _ = ask(DUMPS, from_files=(str(path),), force=True)
    assert (result.summary["files"], result.summary["replaced"]) == (2, 0)
    assert stored(store) == first
    path.write_bytes(gzip.compress(dump(made[::2])) if packed else dump(made[::2]))
    result, _ = ask(DUMPS, from_files=(str(path),))
    assert (result.exit_code, result.summary["replaced"]) == (EXIT_OK, 2)
    assert stored(store) == sorted(expected(made[::2]))


def test_small_blocks_and_rows_out_of_place_change_nothing(ask, store, tmp_path, made, monkeypatch):
    """Rows of one instant keep the file's order; late rows are sorted in."""
    shuffled = list(made)
    random.Random(3).shuffle(shuffled)
    path = tmp_path / "BTCUSD.csv"
    path.write_bytes(dump(shuffled))
    monkeypatch.setattr(cmd_archiver.unpack, "BLOCK", 100)
    monkeypatch.setattr("cmd_archiver.parse.BLOCK", 100)
    assert ask(DUMPS, from_files=(str(path),))[0].exit_code == EXIT_OK
    assert [(r[0], r[1]) for r in stored(store)] == [(r[0], r[1]) for r in sorted(expected(made))]


def test_a_day_that_is_not_in_the_file_is_missing(ask, store, zipped):
    late = FIRST + timedelta(days=8)
    result, _ = ask(DUMPS, from_files=(zipped,), start=late, end=late)
    assert (result.exit_code, result.summary["missing"]) == (EXIT_GAPS, 1)
    assert rows(store, "SELECT reason, detail FROM gaps") == [
        ("missing_file", "no row of this day is in the local files")
    ]


def test_what_the_files_do_not_hold_at_all_is_told_and_no_gap(ask, store, zipped):
    with pytest.raises(UsageError, match="hold no candles 1h of BTC/USD"):
        ask(DUMPS, from_files=(zipped,), types=("candles",), intervals=("1h",), end=DAY)
    result, lines = ask(DUMPS, from_files=(zipped,), types=("trades", "candles"), intervals=("1h",), end=DAY)
    assert (result.exit_code, result.summary["rows"], result.summary["gaps"]) == (EXIT_OK, {"trades": 40}, 0)
    assert any("hold no candles 1h" in w for w in lines.warnings)


def test_of_two_files_with_one_day_the_fuller_one_counts(ask, store, tmp_path, zipped, made):
    other = tmp_path / "BTCUSD.csv"
    other.write_bytes(dump([r for r in made if r[1] < start_of(DAY) + DAY_NS // 2]))
    result, lines = ask(DUMPS, from_files=(str(other), zipped))
    assert result.exit_code == EXIT_OK
    assert stored(store) == sorted(expected(made))
    assert any("another local file holds more" in w for w in lines.warnings)


class WithTruth(Files):
    """Dumps with one column more, of truth values."""

    def layout(self, table: str, header: Sequence[str] | None, width: int) -> CsvLayout:
        layout = super().layout(table, header, width - 1)
        return structs.replace(layout, columns=(*layout.columns, CsvColumn("maker", "bool")))


def test_how_rows_are_cut_into_batches_does_not_change_a_day(tmp_path, made, monkeypatch):
    """Nor does which way they were read: what one way stored, the other finds unchanged."""
    lines = [line + (b",true" if n % 3 else b",false") for n, line in enumerate(dump(made).splitlines())]
    path = tmp_path / "BTCUSD.csv"
    path.write_bytes(b"\n".join(lines))
    file = day_file("local", VENUE, "trades", SYMBOL, DAY)
    found = set()
    for limit in (0, 100, 1000, 7000):
        if limit:
            monkeypatch.setattr("cmd_archiver.parse.READER", None)
            monkeypatch.setattr("cmd_archiver.parse.BLOCK", limit)
            monkeypatch.setattr(cmd_archiver.unpack, "BLOCK", limit)
        local = LocalFiles([path], WithTruth(), tmp_path / str(limit))
        local.prepare([Unit(file, ("trades",))], lambda words: None)
        found.add(local.digest(file.key))
        local.close()
    ((digest, size),) = found
    assert (len(digest), size) == (64, 40 * (10 + 4 + 8 + 8 + 1))
    path.write_bytes(b"\n".join(lines).replace(b",true", b",false"))
    local = LocalFiles([path], WithTruth(), tmp_path / "other")
    local.prepare([Unit(file, ("trades",))], lambda words: None)
    assert local.digest(file.key) != (digest, size)
    local.close()


def test_rows_without_ids_do_not_come_beside_rows_with_them(ask, venue, store, zipped, made):
    venue.trades = made
    assert ask(DUMPS, source="rest", end=DAY)[0].exit_code == EXIT_OK
    result, lines = ask(DUMPS, from_files=(zipped,))
    assert (result.exit_code, result.summary["failed"], result.summary["files"]) == (EXIT_FAILED, 1, 1)
    assert any("have no ids" in w and "--force" in w for w in lines.warnings)
    assert rows(store, "SELECT count(*), count(trade_seq) FROM trades") == [(80, 40)]
    result, lines = ask(DUMPS, source="rest")  # and the other way round
    assert (result.exit_code, result.summary["failed"], result.summary["unchanged"]) == (EXIT_FAILED, 1, 1)
    assert ask(DUMPS, from_files=(zipped,), force=True)[0].exit_code == EXIT_OK
    assert stored(store) == sorted(expected(made))
    assert ask(DUMPS, source="rest", force=True)[0].exit_code == EXIT_OK
    assert rows(store, "SELECT count(*), count(trade_seq) FROM trades") == [(80, 80)]


def test_live_rows_of_the_day_refuse_a_dump(ask, store, zipped):
    with open_writer(store) as writer:
        writer.write([Trade(start_of(DAY) + 5, 7, VENUE, SYMBOL, "77", 77, 1.0, 1.0, "buy")])
    result, lines = ask(DUMPS, from_files=(zipped,))
    assert (result.exit_code, result.summary["failed"], result.summary["files"]) == (EXIT_FAILED, 1, 1)
    assert any("have no ids" in w for w in lines.warnings)
    assert ask(DUMPS, from_files=(zipped,), force=True)[0].exit_code == EXIT_OK
    assert rows(store, "SELECT count(*) FROM trades") == [(81,)]


def test_a_bad_line_is_named_and_the_user_s_file_stays(ask, store, tmp_path, made):
    path = tmp_path / "BTCUSD.csv"
    path.write_bytes(dump(made) + b"oops,1,2\n")
    with pytest.raises(DataError, match="'oops' is not a time"):
        ask(DUMPS, from_files=(str(path),))
    assert path.exists()
    assert files_in(store, "_downloads") == []
    path.write_bytes(dump(made) + b"1748736000,1\n")
    with pytest.raises(DataError, match="line 321"):
        ask(DUMPS, from_files=(str(path),))


def test_candles_are_built_of_a_dump(ask, store, zipped, made):
    result, _ = ask(DUMPS, from_files=(zipped,), types=("candles",), candles="built", end=DAY)
    assert result.exit_code == EXIT_OK
    assert rows(store, "SELECT sum(trades) FROM candles") == [(40,)]
    with open_reader(store) as reader:  # the sides of a dump are unknown, so what takers bought is, too
        assert all(math.isnan(c.taker_buy_volume) == (c.trades > 0) for c in reader.records("candles"))


def test_a_dry_run_of_local_files_reads_nothing(ask, store, tmp_path, zipped):
    result, _ = ask(DUMPS, from_files=(zipped,), dry_run=True)
    assert result.summary["local_days"] == 2
    assert not Path(store.partition(":")[2]).exists()


def test_wrong_paths_and_two_imports_at_once(ask, store, zipped, tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        ask(DUMPS, from_files=("nothing.zip",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no zip"):
        expand_paths([str(tmp_path / "empty")])
    with pytest.raises(UsageError, match="exclude each other"):
        ask(DUMPS, from_files=(zipped,), source="rest")
    from cmd_archiver.locks import FileLock

    lock = FileLock(Path(store.partition(":")[2]) / "_locks", "local")
    assert lock.acquire()
    with pytest.raises(StoreBusyError, match="another process"):
        ask(DUMPS, from_files=(zipped,))
    lock.release()


@given(
    st.lists(
        st.tuples(st.integers(1, 9_223_372_035), st.one_of(st.none(), st.from_regex(r"[0-9]{0,12}", fullmatch=True))),
        min_size=1,
    )
)
def test_decimal_seconds_are_exact(parts):
    texts = [str(whole) if fraction is None else f"{whole}.{fraction}" for whole, fraction in parts]
    exact = [int(Decimal(t) * 10**9) for t in texts]
    assert seconds_to_ns(pa.array(texts)).to_pylist() == exact


@pytest.mark.parametrize("text", ["", "-1", "1e9", "1.5.5", "nan", " 1", "0.0", "12345678901", "9223372037", "١"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(DataError, match="not a time"):
        seconds_to_ns(pa.array(["1.5", text]))


@given(st.lists(st.integers(1, 6), max_size=60), st.integers(1, 9))
def test_ids_of_rows_do_not_depend_on_batches(times, size):
    times = sorted(times)
    ids = RowIds()
    made = [
        i for n in range(0, len(times), size) for i in ids.next(pa.array(times[n : n + size], pa.int64())).to_pylist()
    ]
    count: dict[int, int] = {}
    for t, text in zip(times, made, strict=True):
        assert text == f"dump:{t}:{count.get(t, 0)}"
        count[t] = count.get(t, 0) + 1
