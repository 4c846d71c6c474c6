from __future__ import annotations

import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_archiver.audit import Audit
from cmd_archiver.parse import CsvFile, arrow_schema, derive, to_ns
from cmd_archiver.spool import Spool, read_file
from cmd_archiver.unpack import inflate
from cmd_binance.archive import BinanceArchive
from cmd_binance.instruments import COINM, SPOT, USDM
from cmd_common.errors import DataError
from cmd_common.exchange import Endpoints
from cmd_common.schema import SCHEMA

pytestmark = pytest.mark.usefixtures("way")

DAY = date(2024, 8, 8)
HERE = Endpoints(ws="ws://x", rest="http://x", archive="http://x", listing="http://x")
SOURCES = {m.name: BinanceArchive(m) for m in (SPOT, USDM, COINM)}


def trades_file(market="spot", day=DAY, symbol="BTCUSDT"):
    return SOURCES[market].file("trades", symbol, day, HERE)


def put(folder: Path, kit, text: bytes, *, market="spot", day=DAY, **options) -> Path:
    file = trades_file(market, day)
    path = folder / file.name
    path.write_bytes(kit.zip(file.name.removesuffix(".zip"), text, **options))
    return path


def read(path: Path, market="spot", day=DAY) -> pa.Table:
    file = trades_file(market, day)
    csv = CsvFile(path, file, SOURCES[market])
    batches = [derive(b, csv.layout, file) for b in csv.batches()]
    return pa.Table.from_batches(batches, schema=arrow_schema("trades"))


def test_recorded_trades_become_the_schema_s_columns(tmp_path, kit, recorded):
    rows = recorded[DAY]
    table = read(put(tmp_path, kit, kit.trades_csv(rows)))
    assert table.schema.names == list(SCHEMA["trades"].names)
    assert table["ts_event"].to_pylist() == [r[3] * 1_000_000 for r in rows]
    assert table["trade_id"].to_pylist() == [str(r[0]) for r in rows]
    assert table["trade_seq"].to_pylist() == [r[0] for r in rows]
    assert [Decimal(repr(p)) for p in table["price"].to_pylist()] == [Decimal(r[1]).normalize() for r in rows]
    assert table["quantity"].to_pylist() == [float(r[2]) for r in rows]
    assert table["side"].to_pylist() == ["sell" if r[4] else "buy" for r in rows]
    assert table["ts_recv"].null_count == len(rows)
    assert set(table["flags"].to_pylist()) == {0}
    assert set(table["venue"].to_pylist()) == {"binance-spot"}
    assert set(table["symbol"].to_pylist()) == {"BTCUSDT"}


def test_microseconds_are_seen_by_value(tmp_path, kit, made_up):
    day = date(2025, 1, 1)
    rows = made_up(day, 50)
    table = read(put(tmp_path, kit, kit.trades_csv(rows, us=True), day=day), day=day)
    assert table["ts_event"].to_pylist() == [r[3] * 1_000_000 + 7_000 for r in rows]


@pytest.mark.parametrize("market", ["usdm", "coinm"])
@pytest.mark.parametrize("header", [False, True])
def test_futures_with_and_without_header(tmp_path, kit, made_up, market, header):
    rows = made_up(DAY, 20)
    path = put(tmp_path, kit, kit.trades_csv(rows, market=market, header=header), market=market)
    table = read(path, market)
    assert table["trade_seq"].to_pylist() == [r[0] for r in rows]
    assert table["side"].to_pylist() == ["sell" if r[4] else "buy" for r in rows]


def test_mixed_units_in_one_batch():
    values = pa.array([1_723_161_255_342, 1_735_689_600_000_007, 1_723_161_255, 1_723_161_255_342_000_001])
    assert to_ns(values).to_pylist() == [
        1_723_161_255_342_000_000,
        1_735_689_600_000_007_000,
        1_723_161_255_000_000_000,
        1_723_161_255_342_000_001,
    ]


@given(st.lists(st.integers(10**11, 9 * 10**12) | st.integers(10**14, 9 * 10**15), min_size=1))
def test_times_follow_the_rule_value_by_value(values):
    expected = [v * 10**6 if v < 10**14 else v * 10**3 for v in values]
    assert to_ns(pa.array(values)).to_pylist() == expected
    ends = [(v + 1) * (10**6 if v < 10**14 else 10**3) for v in values]
    assert to_ns(pa.array(values), add=1).to_pylist() == ends


def test_candles_end_is_exclusive_and_own(tmp_path, kit, recorded):
    source = SOURCES["spot"]
    file = source.file("candles", "BTCUSDT", DAY, HERE, interval="1m")
    path = tmp_path / file.name
    path.write_bytes(kit.zip(file.name.removesuffix(".zip"), kit.klines_csv(recorded[DAY])))
    csv = CsvFile(path, file, source)
    table = pa.Table.from_batches([derive(b, csv.layout, file) for b in csv.batches()])
    assert table.schema == arrow_schema("candles")
    opens = table["open_time"].to_pylist()
    assert table["close_time"].to_pylist() == [o + 60_000_000_000 for o in opens]
    assert set(table["source"].to_pylist()) == {"exchange"}
    assert set(table["state"].to_pylist()) == {"final"}
    assert set(table["interval"].to_pylist()) == {"1m"}
    assert pc.sum(table["trades"]).as_py() == len(recorded[DAY])


def test_a_number_with_too_many_digits_is_flagged_inexact(tmp_path, kit):
    rows = [
        (1, "0.00000100", "12345678901.12345678", 1_723_075_200_000, True),  # 19 digits
        (2, "0.00000100", "12345678.5", 1_723_075_200_001, True),
        (3, "0.00000100", "98765432100.00000000", 1_723_075_200_002, True),
    ]
    table = read(put(tmp_path, kit, kit.trades_csv(rows)))
    assert table["flags"].to_pylist() == [2, 0, 0]


def test_stray_members_are_ignored(tmp_path, kit, made_up):
    rows = made_up(DAY, 5)
    assert read(put(tmp_path, kit, kit.trades_csv(rows), stray=True)).num_rows == 5


def test_a_real_zip_with_a_stray_member_inflates(recordings):
    path = recordings / "archives/binance/updates_2022-04-21_aggregate_trade_updates.zip"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        text = archive.read("2022-04-21_aggregate_trade_updates.csv")
    assert any(n.startswith("__MACOSX/") for n in names)

    name = "2022-04-21_aggregate_trade_updates.csv"
    assert b"".join(inflate(path, path.name, lambda names: name)) == text


GOOD = b"1,2.00000000,3.00000000,6.00000000,1723075200000,True,True\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + GOOD.replace(b"1,", b"2,", 1)[:20], "line 2: .*Expected 7 columns, got 3"),
        (GOOD * 3 + b"4,2.0,3.0,6.0,1723075200000,True\n" + GOOD, "line 4: .*Expected 7 columns, got 6"),
        (GOOD + b"x,2.0,3.0,6.0,1723075200000,True,True\n", "line 2: .*int64: invalid value 'x'"),
        (GOOD + b"2,,3.0,6.0,1723075200000,True,True\n", "line 2: .*double: invalid value ''"),
        (GOOD + b"2,nan,3.0,6.0,1723075200000,True,True\n", "line 2: price is nan, not a number"),
        (GOOD + b"2,2.0,3.0,6.0,1723075200000,Tru", "line 2: .*Expected 7 columns"),
        (GOOD + b"2,2.0,3.0,6.0,1723075200000,True,Tr", "line 2: .*bool: invalid value 'Tr'"),
        (GOOD + b"\n" + GOOD, "line 2"),
        (GOOD + b"2,2.0,3.0,6.0,0,True,True\n", "column time: 0 is not a time"),
        (b"1,2.0,3.0,6.0,1723075200000,True\n", "line 1: binance-spot trades have 7 columns, this file has 6"),
        (b"id,price,qty,quote_qty,time,maker,is_best_match\n" + GOOD, "line 1: header has unknown columns maker"),
        (b"", "holds no rows"),
        (b"\xff\xfe,2\n", "line 1"),
        (b"9" * 5_000_000, "longer than"),
    ],
)
def test_bad_lines_are_named(tmp_path, kit, text, words):
    with pytest.raises(DataError, match=words) as caught:
        read(put(tmp_path, kit, text))
    assert str(caught.value).startswith("BTCUSDT-trades-2024-08-08.zip")


def test_the_line_is_right_beyond_the_first_block(tmp_path, kit, made_up):
    rows = made_up(DAY, 80_000, every=10)
    text = kit.trades_csv(rows)
    assert len(text) > 4 << 20
    lines = text.splitlines(keepends=True)
    lines[77_776] = b"torn,1.0\n"
    with pytest.raises(DataError, match="line 77777: "):
        read(put(tmp_path, kit, b"".join(lines)))


def test_truncated_and_damaged_zips_are_noticed(tmp_path, kit, made_up):
    path = put(tmp_path, kit, kit.trades_csv(made_up(DAY, 2000)))
    whole = path.read_bytes()
    for cut in (0, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read(path)
    for at in range(60, len(whole) - 200, 997):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with pytest.raises(DataError):
            read(path)


def test_a_wrong_crc_is_noticed_even_when_the_rows_look_good(tmp_path, kit):
    file = trades_file()
    path = tmp_path / file.name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("BTCUSDT-trades-2024-08-08.csv", GOOD)
    data = path.read_bytes()
    assert data.count(b"2.00000000") == 1
    path.write_bytes(data.replace(b"2.00000000", b"7.00000000"))
    with pytest.raises(DataError, match="has CRC"):
        read(path)


def test_the_audit_finds_holes_across_batches(made_up):
    file = trades_file()
    rows = made_up(DAY, 100)
    del rows[60:63], rows[10]
    audit = Audit(file, "trades", 1)
    for start in range(0, len(rows), 7):
        part = rows[start : start + 7]
        audit.feed(pa.array([r[0] for r in part]), pa.array([r[3] * 1_000_000 for r in part]))
    assert [(g.first_id, g.last_id) for g in audit.holes] == [(1010, 1010), (1060, 1062)]
    gap = audit.holes[0]
    assert (gap.record_type, gap.reason, gap.severity) == ("trades", "archive_hole", "lost")
    assert (gap.ts_from, gap.ts_to) == (rows[9][3] * 1_000_000, rows[10][3] * 1_000_000)
    assert audit.ordered
    assert (audit.first, audit.last, audit.outside) == (1000, 1099, 0)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60, unique=True), st.integers(1, 9))
def test_holes_are_exactly_the_missing_ids(ids, size):
    ids.sort()
    audit = Audit(trades_file(), "trades", 1)
    base = 1_723_075_200_000_000_000
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        audit.feed(pa.array(part), pa.array([base + i for i in part]))
    found = {i for g in audit.holes for i in range(g.first_id, g.last_id + 1)}
    assert found == set(range(ids[0], ids[-1] + 1)) - set(ids)


def test_unordered_rows_and_duplicates_are_put_right(tmp_path, kit, made_up):
    rows = made_up(DAY, 500)
    mixed = rows[250:] + rows[:260] + [rows[499]]
    path = put(tmp_path, kit, kit.trades_csv(mixed))
    spool = Spool(read_file(path, trades_file(), SOURCES["spot"]), trades_file(), tmp_path / "spool")
    table = pa.Table.from_batches([b for b, _ in spool.batches()])
    assert table["trade_seq"].to_pylist() == [r[0] for r in rows]
    assert spool.duplicates == 11
    assert spool.audit.holes == []
    spool.close()
    assert not (tmp_path / "spool").exists()


def test_a_broken_file_leaves_no_spool(tmp_path, kit):
    path = put(tmp_path, kit, GOOD + b"torn")
    with pytest.raises(DataError):
        Spool(read_file(path, trades_file(), SOURCES["spot"]), trades_file(), tmp_path / "spool")
    assert not (tmp_path / "spool").exists()
