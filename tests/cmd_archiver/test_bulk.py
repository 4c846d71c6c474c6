"""Bulk files that are not Binance's: gzip, no checksum, days of UTC+8, header in two languages; REST where they lack."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from archive_kit import files_in, rows
from history_venue import (
    DAY,
    DAY_NS,
    NEXT,
    Files,
    History,
    MadeUp,
    Row,
    VenueServer,
    fill,
    rows_of,
    start_of,
    stored,
    truth,
)

from cmd_archiver.job import Archiver
from cmd_archiver.manifest import Manifest
from cmd_archiver.storing import Storing
from cmd_archiver.unpack import gunzip, members, pieces
from cmd_common.commands import EXIT_FAILED, EXIT_GAPS, EXIT_OK
from cmd_common.errors import DataError, StoreError

pytestmark = pytest.mark.usefixtures("way")

HOUR = 3_600_000_000_000
GZ = MadeUp(None, Files())
UTC8 = MadeUp(None, Files(offset=-8 * HOUR))


def gz_csv(made: Sequence[Row], *, extra: bool = False) -> bytes:
    """Rows as Bybit writes them: decimal seconds, text ids, exponents, one column more since some day."""
    out = ["timestamp,symbol,side,size,price,trdMatchID,grossValue" + ",RPI" * extra]
    for id_, ns, price, quantity, side in made:
        seconds = format((Decimal(ns) / 10**9).normalize(), "f")
        worth = f"{Decimal(price) * Decimal(quantity) * 10**8:.5e}"
        out.append(f"{seconds},BTCUSD,{side.title()},{quantity},{price},uuid-{id_},{worth}" + ",0" * extra)
    return ("\n".join(out) + "\n").encode()


def key(day: date, *, zipped: bool = False) -> str:
    return f"trading/BTCUSD/BTCUSD{day}.{'zip' if zipped else 'csv.gz'}"


def publish(venue: VenueServer, day: date, made: Sequence[Row], **options: bool) -> None:
    venue.files[key(day)] = gzip.compress(gz_csv(made, **options), mtime=0)


def publish_utc8(venue: VenueServer, day: date, made: Sequence[Row]) -> None:
    """A day of UTC+8 out of all rows, with a bilingual header in GBK."""
    start = start_of(day) - 8 * HOUR
    mine = [r for r in made if start <= r[1] < start + DAY_NS]
    header = "trade_id/成交id,side/交易方向,size/数量,price/价格,created_time/成交时间\n".encode("gbk")
    text = "".join(f"{i},{s.upper()},{q},{p},{ns // 1_000_000}\n" for i, ns, p, q, s in mine).encode()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            zipfile.ZipInfo(f"BTCUSD{day}.csv", (2025, 6, 9, 0, 0, 0)), header + text, zipfile.ZIP_DEFLATED
        )
    venue.files[key(day, zipped=True)] = data.getvalue()


def whole(made: Sequence[Row], first: date, last: date) -> list[tuple[object, ...]]:
    """What must be stored of UTC days, in ms."""
    return [
        (i, ns // 1_000_000 * 1_000_000, float(p), float(q), s)
        for i, ns, p, q, s in made
        if start_of(first) <= ns < start_of(last) + DAY_NS
    ]


def downloads(venue: VenueServer) -> list[str]:
    return [r for r in venue.requests if r.endswith((".gz", ".zip"))]


@pytest.mark.parametrize("extra", [False, True])
def test_gzip_files_with_decimal_seconds_are_exact_to_the_digit(ask, venue, store, extra):
    made = rows_of(DAY, 500)
    publish(venue, DAY, made, extra=extra)
    result, lines = ask(GZ, end=DAY)
    assert (result.exit_code, result.summary["rows"]) == (EXIT_OK, {"trades": 500}), lines.warnings
    query = "SELECT ts_event, trade_id, trade_seq, price, quantity, side FROM trades ORDER BY ts_event, trade_id"
    assert sorted(rows(store, query)) == sorted(
        (ns, f"uuid-{i}", None, float(p), float(q), s) for i, ns, p, q, s in made
    )
    assert files_in(store, "_downloads") == []


def test_a_file_without_checksum_is_done_until_the_server_says_that_it_changed(ask, venue, store):
    publish(venue, DAY, rows_of(DAY, 50))
    assert ask(GZ, end=DAY)[0].exit_code == EXIT_OK
    asked = len(downloads(venue))
    again, _ = ask(GZ, end=DAY)
    assert (again.summary["unchanged"], again.summary["bytes"]) == (1, 0)
    assert len(downloads(venue)) == asked + 1  # one byte of it
    venue.files[key(DAY)] = gzip.compress(gz_csv(rows_of(DAY, 40)), mtime=0)
    result, _ = ask(GZ, end=DAY)
    assert (result.exit_code, result.summary["replaced"]) == (EXIT_OK, 1)
    assert rows(store, "SELECT count(*) FROM trades") == [(40,)]


def test_a_server_that_says_nothing_of_a_file_keeps_it_done(ask, venue, store):
    publish(venue, DAY, rows_of(DAY, 50))
    venue.versions[key(DAY)] = ""
    venue.ranges = False
    assert ask(GZ, end=DAY)[0].exit_code == EXIT_OK
    assert ask(GZ, end=DAY)[0].summary["unchanged"] == 1
    assert ask(GZ, end=DAY, force=True)[0].summary["files"] == 1
    assert rows(store, "SELECT count(*) FROM trades") == [(50,)]


def test_rows_that_go_backwards_or_came_twice_are_put_right(ask, venue, store):
    made = rows_of(DAY, 300)
    publish(venue, DAY, [*made[::-1], made[0], made[0]])
    result, _ = ask(GZ, end=DAY, types=("trades", "candles"), candles="built")
    assert (result.exit_code, result.summary["rows"]["trades"], result.summary["duplicates"]) == (EXIT_OK, 300, 2)
    closes = rows(store, "SELECT open_time, close FROM candles WHERE trades > 0")
    last: dict[int, float] = {}
    for _, ns, price, _, _ in made:  # of two trades at one instant the later in the file of rising time
        last[ns // 60_000_000_000 * 60_000_000_000] = float(price)
    assert dict(closes) == last


@pytest.mark.parametrize("cut", [10, 200, -9, -4])
def test_a_gzip_that_is_cut_off_is_put_aside(ask, venue, store, cut):
    publish(venue, DAY, rows_of(DAY, 500))
    good = venue.files[key(DAY)]
    venue.files[key(DAY)] = good[:cut]
    result, lines = ask(GZ, end=DAY)
    assert (result.exit_code, result.summary["quarantined"]) == (EXIT_FAILED, 1)
    assert any("gzip" in w or "inflate" in w for w in lines.warnings)
    assert rows(store, "SELECT reason FROM gaps") == [("bad_file",)]
    assert files_in(store, "_quarantine")
    assert files_in(store, "_downloads") == []
    venue.files[key(DAY)] = good
    assert ask(GZ, end=DAY)[0].exit_code == EXIT_OK
    assert rows(store, "SELECT repaired_by FROM gaps") == [("archive",)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("abc,BTCUSD,Buy,1,2,u,3", "not a time in seconds"),
        ("1748736000.5,BTCUSD,Hold,1,2,u,3", "neither buy nor sell"),
        ("1748736000.5,BTCUSD,Buy,1,2,u", "Expected 7 columns"),
        ("1748736000.5,BTCUSD,Buy,x,2,u,3", "line 52"),
        ("0.5,BTCUSD,Buy,1,2,u,3", "not a time"),
    ],
)
def test_bad_rows_store_nothing(ask, venue, store, line, words):
    venue.files[key(DAY)] = gzip.compress(gz_csv(rows_of(DAY, 50)) + line.encode() + b"\n")
    result, lines = ask(GZ, end=DAY)
    assert (result.exit_code, result.summary["quarantined"]) == (EXIT_FAILED, 1)
    assert any(words in w for w in lines.warnings), lines.warnings
    assert rows(store, "SELECT reason FROM gaps") == [("bad_file",)]


def test_a_plain_listing_tells_a_dry_run_what_is_there(ask, venue, store):
    publish(venue, DAY, rows_of(DAY, 50))
    result, _ = ask(GZ, dry_run=True)
    assert (result.summary["files"], result.summary["not_listed"]) == (1, 1)


def all_days(per_day: int = 96) -> list[Row]:
    return [r for n in range(-2, 4) for r in rows_of(DAY + timedelta(days=n), per_day, first_id=1 + (n + 2) * per_day)]


def test_utc_days_are_taken_out_of_two_files_each_and_every_file_is_fetched_once(ask, venue, store):
    made = all_days()
    for n in range(-1, 4):
        publish_utc8(venue, DAY + timedelta(days=n), made)
    result, lines = ask(UTC8, types=("trades", "candles"), candles="built", parallel=1)
    assert (result.exit_code, result.summary["files"]) == (EXIT_OK, 2), lines.warnings
    assert stored(store) == whole(made, DAY, NEXT)
    assert result.summary["rows"]["trades"] == len(stored(store))
    bodies = [r for r in downloads(venue) if str(NEXT) in r]
    assert files_in(store, "_downloads") == []
    assert files_in(store, "_locks") == []
    assert result.summary["bytes"] == sum(len(venue.files[key(DAY + timedelta(days=n), zipped=True)]) for n in range(3))
    assert bodies
    again, _ = ask(UTC8, types=("trades", "candles"), candles="built")
    assert (again.summary["unchanged"], again.summary["bytes"]) == (2, 0)


def test_a_missing_half_is_a_gap_until_it_is_published(ask, venue, store):
    made = all_days()
    publish_utc8(venue, DAY, made)
    publish_utc8(venue, NEXT, made)
    result, lines = ask(UTC8)
    assert (result.exit_code, result.summary["files"]) == (EXIT_GAPS, 2)
    ends = start_of(NEXT) + 16 * HOUR
    assert stored(store) == [r for r in whole(made, DAY, NEXT) if r[1] < ends]
    assert rows(store, "SELECT ts_from, ts_to, reason FROM gaps") == [
        (ends, start_of(NEXT) + DAY_NS, "missing_file")
    ]  # fmt: skip
    assert any("not whole" in w and str(NEXT + timedelta(days=1)) in w for w in lines.warnings)
    publish_utc8(venue, NEXT + timedelta(days=1), made)
    result, _ = ask(UTC8)
    assert (result.exit_code, result.summary["unchanged"], result.summary["replaced"]) == (EXIT_OK, 1, 1)
    assert stored(store) == whole(made, DAY, NEXT)
    assert rows(store, "SELECT repaired_by FROM gaps") == [("archive",)]


def test_a_day_without_any_of_its_files_is_missing(ask, venue, store):
    result, _ = ask(UTC8, end=DAY)
    assert (result.exit_code, result.summary["missing"]) == (EXIT_GAPS, 1)
    assert rows(store, "SELECT ts_to - ts_from, reason FROM gaps") == [(DAY_NS, "missing_file")]


def test_a_hole_at_the_border_of_two_files_is_seen(ask, venue, store):
    made = [r for r in all_days() if not start_of(DAY) + 15 * HOUR < r[1] < start_of(DAY) + 17 * HOUR]
    for n in range(3):
        publish_utc8(venue, DAY + timedelta(days=n), made)
    result, _ = ask(UTC8, end=DAY)
    assert (result.exit_code, result.summary["gaps"]) == (EXIT_GAPS, 1)
    assert rows(store, "SELECT reason FROM gaps") == [("archive_hole",)]


def test_a_bad_half_is_put_aside_and_nothing_of_the_day_is_stored(ask, venue, store):
    made = all_days()
    publish_utc8(venue, DAY, made)
    venue.files[key(NEXT, zipped=True)] = b"PK not a zip"
    result, _ = ask(UTC8, end=DAY)
    assert (result.exit_code, result.summary["quarantined"]) == (EXIT_FAILED, 1)
    (name,) = files_in(store, "_quarantine")
    assert name.endswith(f"BTCUSD{NEXT}.zip")
    assert rows(store, "SELECT reason FROM gaps") == [("bad_file",)]


# Files and REST


def test_rest_fills_in_for_a_file_that_is_not_published(ask, venue, store):
    fill(venue)
    publish(venue, DAY, [r for r in venue.trades if start_of(DAY) <= r[1] < start_of(NEXT)])
    both = MadeUp(History(), Files())
    result, lines = ask(both)
    assert (result.exit_code, result.summary["rows"]) == (EXIT_OK, {"trades": 120})
    assert any("over REST" in i for i in lines.infos)
    kinds = rows(
        store, f"SELECT ts_event // {DAY_NS}, min(flags), max(flags), count(*) FROM trades GROUP BY 1 ORDER BY 1"
    )
    assert [k[1:] for k in kinds] == [(0, 0, 60), (16, 16, 60)]
    asked = len(venue.pages())
    again, _ = ask(both)
    assert (again.exit_code, again.summary["unchanged"], len(venue.pages())) == (EXIT_OK, 2, asked)


def test_source_says_where_from_and_what_is_done_is_not_asked_again_from_elsewhere(ask, venue, store):
    fill(venue)
    both = MadeUp(History(), Files())
    for day in (DAY, NEXT):
        publish(venue, day, [r for r in venue.trades if start_of(day) <= r[1] < start_of(day) + DAY_NS])
    assert ask(both, source="rest")[0].exit_code == EXIT_OK
    assert downloads(venue) == []
    assert stored(store) == truth(venue)
    asked = len(venue.pages())
    for source in ("auto", "files"):
        result, _ = ask(both, source=source)
        assert (result.exit_code, result.summary["unchanged"]) == (EXIT_OK, 2)
    assert (downloads(venue), len(venue.pages())) == ([], asked)
    result, _ = ask(both, source="files", force=True)
    assert (result.exit_code, result.summary["replaced"]) == (EXIT_OK, 2)
    assert rows(store, "SELECT count(*), max(flags) FROM trades") == [(120, 0)]
    assert len(Manifest(Path(store.partition(":")[2]) / "_archive.sqlite", read_only=True).entries()) == 2


def test_files_repair_what_rest_could_not_give(ask, venue, store):
    fill(venue)
    history = History(reach=10 * DAY_NS)
    assert ask(MadeUp(history, Files()))[0].exit_code == EXIT_GAPS
    assert {r[0] for r in rows(store, "SELECT reason FROM gaps")} == {"missing_file"}
    for day in (DAY, NEXT):
        publish(venue, day, [r for r in venue.trades if start_of(day) <= r[1] < start_of(day) + DAY_NS])
    assert ask(MadeUp(history, Files()))[0].exit_code == EXIT_OK
    assert {r[0] for r in rows(store, "SELECT repaired_by FROM gaps")} == {"archive"}


def test_a_takeover_that_is_cut_short_is_finished_by_either_source(ask, venue, store, monkeypatch):
    fill(venue)
    both = MadeUp(History(), Files())
    mine = [r for r in venue.trades if start_of(DAY) <= r[1] < start_of(NEXT)]
    publish(venue, DAY, mine[:-1])
    real = Storing.write

    def cut(self, *arguments):
        real(self, *arguments)
        raise StoreError("killed")

    for last in ("rest", "files"):
        place = f"{store}-{last}"
        assert ask(both, source="rest", end=DAY, store=place)[0].exit_code == EXIT_OK
        monkeypatch.setattr(Storing, "write", cut)
        with pytest.raises(StoreError, match="killed"):
            ask(both, source="files", end=DAY, store=place, force=True)
        monkeypatch.setattr(Storing, "write", real)
        assert ask(both, source=last, end=DAY, store=place)[0].exit_code == EXIT_OK
        expected = 60 if last == "rest" else 59
        assert rows(place, "SELECT count(*) FROM trades") == [(expected,)]


def test_a_half_published_day_comes_over_rest_as_a_whole_or_as_a_half_beyond_its_reach(ask, venue, store):
    fill(venue, 96)
    publish_utc8(venue, DAY, venue.trades)
    near = MadeUp(History(), Files(offset=-8 * HOUR))
    far = MadeUp(History(reach=5 * DAY_NS), Files(offset=-8 * HOUR))
    result, _ = ask(near, end=DAY, store=f"{store}-near")
    assert (result.exit_code, stored(f"{store}-near")) == (EXIT_OK, truth(venue, DAY, DAY))
    result, _ = ask(far, end=DAY)
    assert (result.exit_code, result.summary["files"]) == (EXIT_GAPS, 1)
    assert 0 < len(stored(store)) < 96


def test_a_killed_download_of_another_version_is_not_gone_on_with(ask, venue, store, monkeypatch):
    publish(venue, DAY, rows_of(DAY, 50))
    real = Archiver._take

    async def cut(self, *arguments):
        raise StoreError("killed")

    monkeypatch.setattr(Archiver, "_take", cut)
    with pytest.raises(StoreError):
        ask(GZ, end=DAY)
    assert files_in(store, "_downloads") == [f"BTCUSD{DAY}.csv.gz", f"BTCUSD{DAY}.csv.gz.tag"]
    monkeypatch.setattr(Archiver, "_take", real)
    publish(venue, DAY, rows_of(DAY, 40))
    assert ask(GZ, end=DAY)[0].exit_code == EXIT_OK
    assert rows(store, "SELECT count(*) FROM trades") == [(40,)]
    assert files_in(store, "_downloads") == []


# Packing


def text_of(path: Path) -> bytes:
    return b"".join(pieces(path, path.name, lambda names: names[0]))


def test_gzip_of_several_members_and_padding(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n") + b"\0" * 700)
    assert text_of(path) == b"one\ntwo\n"
    path.write_bytes(gzip.compress(b"one\n") + b"garbage")
    with pytest.raises(DataError, match="not a whole gzip"):
        text_of(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        list(gunzip(path, "x"))


def test_gzip_larger_than_a_piece(tmp_path):
    path = tmp_path / "x.gz"
    text = bytes(range(256)) * 40_000
    path.write_bytes(gzip.compress(text, 1))
    assert text_of(path) == text
    assert members(path, "x.gz") == ("x",)
    plain = tmp_path / "x.csv"
    plain.write_bytes(text)
    assert text_of(plain) == text


def test_a_wrong_trailer_is_found(tmp_path):
    path = tmp_path / "x.gz"
    body = bytearray(gzip.compress(b"1,2,3\n" * 1000))
    body[-6] ^= 1
    path.write_bytes(body)
    with pytest.raises(DataError):
        text_of(path)
