"""The command over a loopback archive into the real store."""

from __future__ import annotations

import errno
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from archive_kit import (
    DAY,
    NEXT,
    files_in,
    publish,
    rows,
    trades,
)

import cmd_archiver.download
import cmd_archiver.spool
from cmd_archiver.command import state_folder
from cmd_archiver.manifest import Manifest
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK
from cmd_common.errors import DisconnectedError, StoreError, UnknownNameError, UsageError
from cmd_common.io import open_reader, open_writer
from cmd_common.records import Trade


def test_recorded_trades_archived_twice_are_the_same_rows(go, server, store, recorded):
    keys = publish(server, recorded, stray=True)
    result, lines = go()
    assert result.exit_code == EXIT_OK
    assert result.summary["rows"] == {"trades": 19_904}
    assert (result.summary["files"], result.summary["gaps"], lines.warnings) == (2, 0, [])
    first = trades(store)
    assert len(first) == 19_904
    ids = [r[5] for r in first]
    assert ids == list(range(3735683259, 3735703162 + 1))
    assert lines.bars["files"] == (2, 2)
    assert lines.bars["download"] == (sum(len(server.files[k]) for k in keys),) * 2
    assert files_in(store, "_downloads") == []

    asked = len(server.downloads())
    again, _ = go()
    assert again.exit_code == EXIT_OK
    assert (again.summary["files"], again.summary["unchanged"]) == (0, 2)
    assert len(server.downloads()) == asked
    forced, _ = go(force=True)
    assert forced.summary["files"] == 2
    assert trades(store) == first


def test_days_are_done_one_by_one(go, server, store, recorded):
    publish(server, recorded)
    assert go(end=DAY)[0].summary["files"] == 1
    result, _ = go()
    assert (result.summary["files"], result.summary["unchanged"]) == (1, 1)
    assert len(trades(store)) == 19_904


def test_live_rows_of_the_same_trades_converge_to_one(go, server, store, recorded):
    publish(server, recorded)
    live = [
        Trade(
            t * 1_000_000,
            t * 1_000_000 + 5,
            "binance-spot",
            "BTCUSDT",
            str(i),
            i,
            float(p),
            float(q),
            "sell" if m else "buy",
        )
        for i, p, q, t, m in recorded[DAY][:1000]
    ]
    with open_writer(store) as writer:
        writer.write(live)
    go()
    assert rows(store, "SELECT count(*), count(DISTINCT trade_id), count(ts_recv) FROM trades") == [
        (19_904, 19_904, 1000)
    ]


def test_microsecond_files_of_2025(go, server, store, made_up):
    day = date(2025, 3, 1)
    made = made_up(day, 300)
    server.add_trades(day, made, us=True)
    assert go(start=day, end=day)[0].exit_code == EXIT_OK
    assert [r[0] for r in trades(store)] == [t * 1_000_000 + 7_000 for _, _, _, t, _ in made]


def test_candles_built_and_compared(go, server, store, recorded):
    publish(server, recorded)
    for day in (DAY, NEXT):
        server.add_klines(day, recorded[day])
    result, lines = go(types=("trades", "candles"), compare=True)
    assert result.exit_code == EXIT_OK
    compared = result.summary["comparison"]["binance-spot:BTCUSDT 1m"]
    total = rows(store, "SELECT count(*) FROM candles WHERE source = 'exchange'")[0][0]
    assert total == 12
    assert (compared["equal"], compared["different"], compared["only_exchange"], compared["only_built"]) == (
        12,
        0,
        0,
        0,
    )
    assert any("12 candles equal" in line for line in lines.infos)
    assert rows(store, "SELECT sum(trades) FROM candles WHERE source = 'built'") == [(19_904,)]


def test_candles_alone_can_be_built(go, server, store, recorded):
    publish(server, recorded)
    result, _ = go(types=("candles",), candles="built", intervals=("1m", "5m"))
    assert result.exit_code == EXIT_OK
    assert set(result.summary["rows"]) == {"built:1m", "built:5m"}
    with open_reader(store) as reader:
        assert "trades" not in reader.tables()
    later, _ = go(types=("trades", "candles"), candles="built", intervals=("1m",))
    assert later.summary["rows"] == {"trades": 19_904}


def test_a_missing_day_is_reported_and_repaired_later(go, server, store, recorded):
    server.add_trades(DAY, recorded[DAY])
    result, lines = go()
    assert result.exit_code == EXIT_GAPS
    assert (result.summary["files"], result.summary["missing"], result.summary["gaps"]) == (1, 1, 1)
    assert any("BTCUSDT-trades-2024-08-09.zip" in w and "missing" in w for w in lines.warnings)
    start = 1_723_161_600_000_000_000
    query = "SELECT ts_from, ts_to, record_type, reason, repaired_by FROM gaps"
    assert rows(store, query) == [(start, start + 86_400_000_000_000, "trades", "missing_file", "")]
    assert go()[0].exit_code == EXIT_GAPS
    server.add_trades(NEXT, recorded[NEXT])
    result, _ = go()
    assert (result.exit_code, result.summary["files"]) == (EXIT_OK, 1)
    assert [r[3:] for r in rows(store, query)] == [("missing_file", "archive")]
    assert go()[0].exit_code == EXIT_OK


def test_holes_in_and_between_files_become_gap_rows(go, server, store, recorded):
    first, second = list(recorded[DAY]), list(recorded[NEXT])
    lost = first[100:103]
    del first[100:103], first[-2:], second[:1]
    server.add_trades(DAY, first)
    server.add_trades(NEXT, second)
    result, lines = go()
    assert (result.exit_code, result.summary["gaps"]) == (EXIT_GAPS, 2)
    query = "SELECT first_id, last_id, reason, severity, repaired_by FROM gaps ORDER BY ts_from"
    edge = recorded[NEXT][0][0]
    assert rows(store, query) == [
        (lost[0][0], lost[-1][0], "archive_hole", "lost", ""),
        (edge - 2, edge, "archive_hole", "lost", ""),
    ]
    assert any("misses ids in 1 places" in w for w in lines.warnings)
    assert go()[0].exit_code == EXIT_GAPS  # done, and the gaps are still there
    publish(server, recorded)  # the exchange replaces both files by whole ones
    result, _ = go()
    assert (result.exit_code, result.summary["replaced"]) == (EXIT_OK, 2)
    assert {r[4] for r in rows(store, query)} == {"archive"}
    assert go()[0].exit_code == EXIT_OK
    assert len(trades(store)) == 19_904


def test_the_boundary_is_seen_whichever_day_comes_first(go, server, store, recorded):
    server.add_trades(DAY, recorded[DAY][:-1])
    server.add_trades(NEXT, recorded[NEXT])
    assert go(start=NEXT, end=NEXT)[0].exit_code == EXIT_OK
    assert go(start=DAY, end=DAY)[0].exit_code == EXIT_GAPS
    assert rows(store, "SELECT count(*) FROM gaps") == [(1,)]
    assert go(start=NEXT, end=NEXT)[0].exit_code == EXIT_GAPS
    server.add_trades(DAY, recorded[DAY])
    assert go()[0].exit_code == EXIT_OK
    assert rows(store, "SELECT repaired_by FROM gaps") == [("archive",)]


def test_a_replaced_file_replaces_its_rows_and_no_live_ones(go, server, store, made_up):
    made = made_up(DAY, 100)
    server.add_trades(DAY, made)
    with open_writer(store) as writer:
        i, p, q, t, _ = made[50]
        writer.write([Trade(t * 1_000_000, 7, "binance-spot", "BTCUSDT", str(i), i, float(p), float(q), "buy")])
    assert go(end=DAY)[0].summary["rows"] == {"trades": 100}
    moved = [(i, p, q, t + 1, m) for i, p, q, t, m in made[:40]]
    server.add_trades(DAY, moved)
    result, _ = go(end=DAY)
    assert (result.exit_code, result.summary["replaced"], result.summary["files"]) == (EXIT_OK, 1, 1)
    kept = trades(store)
    assert [(r[0], r[5]) for r in kept if r[1] is None] == [(t * 1_000_000, i) for i, _, _, t, _ in moved]
    assert [r[5] for r in kept if r[1] is not None] == [made[50][0]]


def test_a_wrong_checksum_stores_nothing(go, server, store, recorded):
    keys = publish(server, recorded)
    server.checksums[keys[0]] = b"0" * 64 + b"  BTCUSDT-trades-2024-08-08.zip\n"
    result, lines = go()
    assert result.exit_code == EXIT_FAILED
    assert (result.summary["files"], result.summary["failed"], result.summary["quarantined"]) == (1, 1, 1)
    assert {r[0] // 86_400_000_000_000 for r in trades(store)} == {19_944}
    (bad,) = files_in(store, "_quarantine")
    assert bad.endswith("BTCUSDT-trades-2024-08-08.zip")
    assert any("SHA-256" in w and "_quarantine" in w for w in lines.warnings)
    assert files_in(store, "_downloads") == []
    day = 19_943 * 86_400_000_000_000
    gap = "SELECT ts_from, ts_to, record_type, reason, severity, repaired_by FROM gaps WHERE reason = 'bad_file'"
    assert rows(store, gap) == [(day, day + 86_400_000_000_000, "trades", "bad_file", "lost", "")]
    del server.checksums[keys[0]]
    assert go()[0].exit_code == EXIT_OK
    assert len(trades(store)) == 19_904
    assert [r[-1] != "" for r in rows(store, gap)] == [True]  # repaired


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda zipped, kit, text: zipped[: len(zipped) // 2], "not a whole zip"),
        (lambda zipped, kit, text: kit.zip("BTCUSDT-trades-2024-08-08", text[:-30]), "Expected 7 columns"),
        (
            lambda zipped, kit, text: kit.zip("BTCUSDT-trades-2024-08-08", text.replace(b",True\n", b"\n")),
            "have 7 columns",
        ),
        (lambda zipped, kit, text: kit.zip("another", text), "holds no BTCUSDT-trades-2024-08-08.csv"),
    ],
)
def test_a_damaged_file_with_a_right_checksum_stores_nothing(go, server, store, kit, recorded, damage, words):
    text = kit.trades_csv(recorded[DAY])
    key = server.add_trades(DAY, recorded[DAY])
    server.add(key, damage(server.files[key], kit, text))
    result, lines = go(end=DAY)
    assert (result.exit_code, result.summary["quarantined"]) == (EXIT_FAILED, 1)
    assert any(words in w and "BTCUSDT-trades-2024-08-08" in w for w in lines.warnings)
    with open_writer(store), open_reader(store) as reader:
        assert reader.tables() == ["gaps"]  # that the day is missing, and nothing of the file
    assert files_in(store, "_downloads") == []


def test_a_bad_replacement_leaves_the_good_rows(go, server, store, recorded):
    key = server.add_trades(DAY, recorded[DAY])
    go(end=DAY)
    before = trades(store)
    server.add(key, server.files[key][:1000])
    assert go(end=DAY)[0].exit_code == EXIT_FAILED
    assert trades(store) == before
    server.add_trades(DAY, recorded[DAY])
    result, _ = go(end=DAY)
    assert (result.exit_code, result.summary["unchanged"]) == (EXIT_OK, 1)


def test_a_withdrawn_file_keeps_its_rows(go, server, store, recorded):
    key = server.add_trades(DAY, recorded[DAY])
    go(end=DAY)
    del server.files[key]
    result, lines = go(end=DAY)
    assert (result.exit_code, result.summary["unchanged"]) == (EXIT_OK, 1)
    assert "no longer published" in lines.warnings[0]
    assert len(trades(store)) == len(recorded[DAY])


def test_a_withdrawn_file_cannot_give_new_candles(go, server, store, recorded):
    key = server.add_trades(DAY, recorded[DAY])
    go(end=DAY)
    del server.files[key]
    result, _ = go(end=DAY, types=("trades", "candles"), candles="built")
    assert (result.exit_code, result.summary["unchanged"], result.summary["missing"]) == (EXIT_GAPS, 1, 1)
    assert rows(store, "SELECT record_type, reason FROM gaps") == [("candles", "missing_file")]
    assert len(trades(store)) == len(recorded[DAY])


def test_a_checksum_without_its_file_keeps_the_rows(go, server, store, recorded):
    key = server.add_trades(DAY, recorded[DAY])
    go(end=DAY)
    first = trades(store)
    server.add_trades(DAY, recorded[DAY][:1000])
    server.status[key] = [404]
    result, lines = go(end=DAY)
    assert (result.exit_code, result.summary["missing"]) == (EXIT_OK, 0)
    assert "no longer published" in lines.warnings[0]
    assert trades(store) == first
    assert rows(store, "SELECT * FROM gaps") == []
    result, _ = go(end=DAY)
    assert result.summary["replaced"] == 1
    assert len(trades(store)) == 1000


def test_a_dry_run_writes_nothing(go, server, store, tmp_path, recorded):
    keys = publish(server, recorded)
    result, lines = go(dry_run=True)
    assert result.exit_code == EXIT_OK
    assert result.summary["files"] == 2
    assert result.summary["bytes"] == sum(len(server.files[k]) for k in keys)
    assert result.summary["estimated_rows"]["trades"] > 1000
    assert "2 files" in lines.infos[-1]
    assert list(tmp_path.iterdir()) == []
    assert server.downloads() == []
    go(end=DAY)
    result, _ = go(dry_run=True, end=NEXT + timedelta(days=1))
    assert (result.summary["files"], result.summary["done_before"], result.summary["not_listed"]) == (1, 1, 1)


def test_downloads_are_kept_on_request(go, server, store, recorded):
    publish(server, recorded)
    go(keep_downloads=True)
    assert files_in(store, "_downloads") == ["BTCUSDT-trades-2024-08-08.zip", "BTCUSDT-trades-2024-08-09.zip"]


def test_today_is_told_as_not_yet_published(go, store):
    today = datetime.now(UTC).date()
    result, lines = go(start=today, end=today)
    assert result.exit_code == EXIT_GAPS
    assert len(result.summary["unpublished"]) == 1
    assert "not published yet" in lines.warnings[-1]


def test_today_has_nothing_to_compare(go, store):
    today = datetime.now(UTC).date()
    result, _ = go(start=today, end=today, types=("candles",), candles="built", compare=True)
    assert (result.exit_code, len(result.summary["unpublished"])) == (EXIT_GAPS, 2)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"start": NEXT, "end": DAY}, UsageError, "before the start"),
        ({"end": date(2999, 1, 1)}, UsageError, "future"),
        ({"exchanges": ("binance-spit",)}, UnknownNameError, "did you mean binance-spot"),
        ({"exchanges": ()}, UsageError, "no exchange"),
        ({"types": ("book",)}, UsageError, "book"),
        ({"types": ("candles",), "intervals": ("7m",)}, UsageError, "7m"),
        ({"store": "nowhere"}, UsageError, "has no location"),
        ({"store": "parket:x"}, UnknownNameError, "parquet"),
        ({"parallel": 0}, UsageError, "parallel"),
        ({"symbols": ("*USDT",)}, UsageError, "list of instruments"),
        ({"endpoints": {"": "nonsense"}}, UsageError, "not a URL"),
    ],
)
def test_wrong_options(go, server, changes, kind, words):
    with pytest.raises(kind, match=words):
        go(**changes)
    assert server.downloads() == []


def test_a_symbol_that_the_exchange_does_not_list(go, server, store, recordings, made_up):
    import gzip

    path = recordings / "binance_spot/cryptofeed_exchangeInfo_20211012.ndjson.gz"
    with gzip.open(path) as lines:
        line = next(x for x in lines if b'"symbols"' in x)
    body = line[line.index(b'"msg":') + 6 : line.rindex(b"}")]
    server.add("api/v3/exchangeInfo", body)
    with pytest.raises(UnknownNameError, match=r"did you mean.*BTCUSDT"):
        go(symbols=("BTCUSDTT",), end=DAY)
    server.add_trades(DAY, made_up(DAY, 10), symbol="OLDUSDT")  # delisted, but archived
    assert go(symbols=("OLDUSDT",), end=DAY)[0].summary["rows"] == {"trades": 10}
    server.add_trades(DAY, made_up(DAY, 10))
    assert go(symbols=("btc-usdt",), end=DAY)[0].summary["rows"] == {"trades": 10}


def test_a_store_that_cannot_be_written_is_one_line(go, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to the store"):
        go(store=f"parquet:{tmp_path / 'file' / 'store'}")


def test_nobody_at_the_endpoint(go, monkeypatch):
    monkeypatch.setattr(cmd_archiver.download, "ATTEMPTS", 1)
    with pytest.raises(DisconnectedError):
        go(endpoints={"": "http://127.0.0.1:9"}, end=DAY + timedelta(days=3))


def test_a_full_disk_while_reading_is_one_line_and_leaves_nothing(go, server, store, recorded, monkeypatch):
    publish(server, recorded)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cmd_archiver.spool.pa.ipc, "new_stream", full)
    with pytest.raises(StoreError, match="no space left on the disk while reading BTCUSDT"):
        go()
    monkeypatch.undo()
    assert not any(name.endswith(".spool") for name in files_in(store, "_downloads"))
    assert go()[0].exit_code == EXIT_OK
    assert len(trades(store)) == 19_904


def test_a_full_disk_while_writing_leaves_no_row(go, server, store, recorded, monkeypatch):
    from cmd_parquet.writer import ParquetWriter

    publish(server, recorded)
    real = ParquetWriter.flush

    def full(self: ParquetWriter) -> None:
        raise StoreError("cannot write: No space left on device")

    monkeypatch.setattr(ParquetWriter, "flush", full)
    with pytest.raises(StoreError, match="No space left"):
        go()
    monkeypatch.setattr(ParquetWriter, "flush", real)
    with open_writer(store), open_reader(store) as reader:
        assert reader.tables() == []
    assert go()[0].exit_code == EXIT_OK
    assert len(trades(store)) == 19_904


def test_many_symbols_and_days_in_parallel(go, server, store, made_up):
    names = ["AAAUSDT", "BBBUSDT", "CCCUSDT"]
    expected = 0
    for n, symbol in enumerate(names):
        for d in range(4):
            count = 200 + n * 10 + d
            server.add_trades(
                DAY + timedelta(days=d), made_up(DAY + timedelta(days=d), count, first_id=1000 * (d + 1)), symbol=symbol
            )
            expected += count
    result, _ = go(symbols=("AAAUSDT,BBBUSDT", "CCCUSDT"), end=DAY + timedelta(days=3), parallel=8)
    assert result.summary["files"] == 12
    assert result.exit_code == EXIT_GAPS  # the made-up ids jump between the days
    assert rows(store, "SELECT count(*) FROM trades") == [(expected,)]
    assert rows(store, "SELECT count(*) FROM gaps") == [(9,)]


def test_candles_of_one_interval_do_not_close_the_gap_of_another(go, server, store, kit, recorded):
    options = {"types": ("candles",), "intervals": ("1m", "5m"), "end": DAY}
    assert go(**options)[0].exit_code == EXIT_GAPS
    server.add_klines(DAY, recorded[DAY])
    assert go(**options)[0].exit_code == EXIT_GAPS
    query = "SELECT record_type, reason, repaired_by FROM gaps"
    assert rows(store, query) == [("candles", "missing_file", "")]
    name = f"BTCUSDT-5m-{DAY}"
    server.add(f"data/spot/daily/klines/BTCUSDT/5m/{name}.zip", kit.zip(name, kit.klines_csv(recorded[DAY], 300_000)))
    assert go(**options)[0].exit_code == EXIT_OK
    assert rows(store, query) == [("candles", "missing_file", "archive")]


def test_the_manifest_knows_ids_and_checksums(go, server, store, recorded):
    publish(server, recorded)
    go()
    manifest = Manifest(state_folder(store) / "_archive.sqlite", read_only=True)
    entries = manifest.entries("binance-spot")
    manifest.close()
    assert [(e.state, e.rows, e.first_id, e.last_id) for e in entries] == [
        ("done", len(recorded[d]), recorded[d][0][0], recorded[d][-1][0]) for d in (DAY, NEXT)
    ]
    assert all(len(e.sha256) == 64 and e.size > 0 for e in entries)


def test_stores_without_a_folder_keep_their_manifest_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    one, two = state_folder("questdb:http::addr=host:9000;"), state_folder("questdb:http::addr=other:9000;")
    assert one != two
    assert one.is_relative_to(tmp_path)
    assert state_folder("parquet:/data/x") == Path("/data/x")
