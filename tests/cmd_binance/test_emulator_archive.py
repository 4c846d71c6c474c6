"""The Binance emulator: the bulk archive."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from emulator_session import MARKETS, Session, archive_file, events, listing, prefix, simulated

from cmd_binance.instruments import COINM, SPOT, USDM, Market

# Archive


@pytest.mark.parametrize(("market", "unit"), [(SPOT, 1_000), (USDM, 1_000_000), (COINM, 1_000_000)])
def test_the_archive_of_the_live_day_ends_with_the_live_trades(market: Market, unit: int) -> None:
    emulator = simulated(market, symbols=1, history_trades=500)
    symbol = emulator.ready()["symbols"][0]
    s = Session(emulator)
    s.open(f"{prefix(market)}/ws/{symbol.lower()}@trade" + ("?timeUnit=MICROSECOND" if market is SPOT else ""))
    live = events(s.run())
    day = emulator.ready()["live_day"]
    rows = archive_file(s, f"data/{market.archive}/daily/trades/{symbol}/{symbol}-trades-{day}.zip")
    if market is SPOT:
        assert rows[0][0].isdigit()
        assert {row[5] for row in rows} == {"True", "False"}
    else:
        amount = "base_qty" if market is COINM else "quote_qty"
        assert rows.pop(0) == ["id", "price", "qty", amount, "time", "is_buyer_maker"]
        assert {row[5] for row in rows} == {"true", "false"}
    ids = [int(row[0]) for row in rows]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    last = rows[-len(live) :]
    assert [(int(r[0]), float(r[1]), float(r[2]), int(r[4]), r[5].lower() == "true") for r in last] == [
        (t["t"], float(t["p"]), float(t["q"]), t["T"], t["m"]) for t in live
    ]
    assert all(int(row[4]) * unit < emulator.world.start for row in rows[: -len(live)])


@pytest.mark.parametrize("market", MARKETS)
def test_candles_and_aggregates_of_the_archive_agree_with_its_trades(market: Market) -> None:
    emulator = simulated(market, symbols=1, history_trades=1_000)
    symbol = emulator.ready()["symbols"][0]
    s = Session(emulator)
    day = emulator.ready()["history_days"][-1]
    base = f"data/{market.archive}/daily"
    trades = archive_file(s, f"{base}/trades/{symbol}/{symbol}-trades-{day}.zip")
    aggs = archive_file(s, f"{base}/aggTrades/{symbol}/{symbol}-aggTrades-{day}.zip")
    bars = archive_file(s, f"{base}/klines/{symbol}/1h/{symbol}-1h-{day}.zip")
    if market is not SPOT:
        trades, aggs, bars = trades[1:], aggs[1:], bars[1:]
    assert len(trades) == 1_000
    assert len(aggs) == 800
    assert [i for a in aggs for i in range(int(a[3]), int(a[4]) + 1)] == [int(t[0]) for t in trades]
    assert len(bars) == 24
    assert sum(int(bar[8]) for bar in bars) == 1_000
    assert sum(Decimal(bar[5]) for bar in bars) == sum(Decimal(t[2]) for t in trades)
    assert sum(Decimal(bar[7]) for bar in bars) == sum(Decimal(t[3]) for t in trades)
    for bar in bars:
        inside = [t for t in trades if int(bar[0]) <= int(t[4]) <= int(bar[6])]
        assert (float(bar[1]), float(bar[4])) == (float(inside[0][1]), float(inside[-1][1]))
    minutes = archive_file(s, f"{base}/klines/{symbol}/1m/{symbol}-1m-{day}.zip")
    opens = [int(row[0]) for row in minutes if row[0].isdigit()]
    assert opens[0] == int(bars[0][0])
    assert {b - a for a, b in itertools.pairwise(opens)} == {60_000_000 if market is SPOT else 60_000}


def test_monthly_files_join_the_days() -> None:
    s = Session(simulated(symbols=1, history_trades=500, history_days=3))
    base = "data/spot"
    months = [k for k, _ in listing(s, f"{base}/monthly/trades/BTCUSDT/")[0] if k.endswith(".zip")]
    assert [m[-11:-4] for m in months] == ["2025-05", "2025-06"]
    rows = [row for m in months for row in archive_file(s, m)]
    ids = [int(row[0]) for row in rows]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    daily = [k for k, _ in listing(s, f"{base}/daily/trades/BTCUSDT/")[0] if k.endswith(".zip")]
    assert [row for d in daily for row in archive_file(s, d)] == rows
    month = archive_file(s, "data/spot/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2025-05.zip")
    assert len(month) == 1
    assert int(month[0][8]) == 500 * 2


@pytest.mark.parametrize("path", ["/", "/data.binance.vision"])
def test_the_listing_pages_and_groups(path: str) -> None:
    s = Session(simulated(symbols=2, history_trades=100))
    keys, folders, _ = listing(s, "data/spot/daily/", path, delimiter="/")
    assert (keys, folders) == ([], [f"data/spot/daily/{t}/" for t in ("aggTrades", "klines", "trades")])
    prefix = "data/spot/daily/trades/"
    whole, _, marker = listing(s, prefix, path)
    assert len(whole) == 2 * 3 * 2
    assert marker == ""
    assert [k for k, _ in whole] == sorted(k for k, _ in whole)
    for key, size in whole:
        assert size == len(s.get(f"/{key}").body)
    for query in ({"delimiter": "/"}, {}, {"list_type": "2"}):
        got: list[str] = []
        marker = ""
        for _ in range(20):
            name = "continuation_token" if "list_type" in query else "marker"
            page, _, following = listing(s, prefix + "BTCUSDT/", path, max_keys="4", **{name: marker}, **query)
            got += [k for k, _ in page]
            marker = following or (page[-1][0] if len(page) == 4 and not following and not query else "")
            if not marker:
                break
        assert got == [k for k, _ in whole if "/BTCUSDT/" in k]


def test_zips_are_deterministic_and_ranges_resume() -> None:
    key = "/data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2025-06-01.zip"
    body = Session(simulated(history_trades=500)).get(key).body
    s = Session(simulated(history_trades=500))
    assert s.get(key).body == body
    part = s.get(key, range="bytes=100-")
    assert (part.status, part.body) == (206, body[100:])
    assert part.header("content-range") == f"bytes 100-{len(body) - 1}/{len(body)}"
    assert s.get(key, range="bytes=0-9").body == body[:10]
    assert s.get(key, range="bytes=-9").body == body[-9:]
    assert s.get(key, range=f"bytes={len(body)}-").status == 416
    assert s.get(key, range="lines=1-2").status == 200


def test_missing_files_are_404_in_xml() -> None:
    s = Session(simulated())
    response = s.get("/data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-1999-01-01.zip")
    assert response.status == 404
    assert ElementTree.fromstring(response.body).findtext("Code") == "NoSuchKey"


def test_archive_faults() -> None:
    key = "/data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-{}.zip"
    d1, d2, d3 = "2025-05-31", "2025-06-01", "2025-06-02"
    s = Session(
        simulated(
            SPOT, f"bad_checksum:day={d1}", f"truncated_zip:day={d2}", f"missing_day:day={d3}", history_trades=500
        )
    )
    body = s.get(key.format(d1)).body
    assert hashlib.sha256(body).hexdigest() != s.get(key.format(d1) + ".CHECKSUM").body.decode()[:64]
    zipfile.ZipFile(io.BytesIO(body)).close()
    short = s.get(key.format(d2)).body
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(short))
    assert hashlib.sha256(short).hexdigest() != s.get(key.format(d2) + ".CHECKSUM").body.decode()[:64]
    assert s.get(key.format(d3)).status == 404
    assert s.get(key.format(d3) + ".CHECKSUM").status == 404
    assert d3 not in str(listing(s, "data/spot/daily/trades/BTCUSDT/"))
    assert set(s.emulator.truth()["fault_counts"]) == {"bad_checksum", "truncated_zip", "missing_day"}
    s = Session(simulated(SPOT, f"truncated_zip:day={d2},checksum=match", history_trades=500))
    short = s.get(key.format(d2)).body
    assert hashlib.sha256(short).hexdigest() == s.get(key.format(d2) + ".CHECKSUM").body.decode()[:64]


@pytest.mark.parametrize("market", MARKETS)
def test_a_day_that_is_over_has_a_candle_for_every_minute_whenever_its_last_trade_was(market: Market) -> None:
    emulator = simulated(market, symbols=2, history_trades=100, history_days=4)
    s = Session(emulator)
    for symbol in emulator.ready()["symbols"]:
        for day in emulator.ready()["history_days"]:
            rows = archive_file(s, f"data/{market.archive}/daily/klines/{symbol}/1m/{symbol}-1m-{day}.zip")
            times = [int(row[0]) for row in rows if row[0].isdigit()]
            first_of_all = (
                day == emulator.ready()["history_days"][0]
            )  # nothing was traded before: it begins with a trade
            assert len(times) == 1440 or first_of_all
            assert (times[-1] - times[0]) // (len(times) - 1) * 1440 in (86_400_000, 86_400_000_000)
