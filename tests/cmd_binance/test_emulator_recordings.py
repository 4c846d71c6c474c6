"""The Binance emulator: recordings served as the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from emulator_session import SECOND, Session, archive_file, codes, events, listing, prefix, recorded, texts

from cmd_binance.emulator import BinanceEmulator
from cmd_binance.instruments import COINM, SPOT, USDM, Market, parse_exchange_info
from cmd_common.emulation import MarketSource, Pending
from cmd_common.errors import UsageError
from cmd_common.faults import parse_fault
from cmd_common.recording import Line, frame_line, read

# Recordings


@pytest.fixture
def spot40(recordings: Path) -> Path:
    return recordings / "binance_spot" / "hft_btcusdt_20240808_first40s.ndjson"


def lines_of(path: Path) -> Iterator[Any]:
    return (line for line in read(path) if line.src == "ws")


def test_a_recording_is_served_verbatim_and_in_order(spot40: Path) -> None:
    s = Session(recorded(SPOT, spot40))
    s.open("/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker/btcusdt@trade")
    frames = s.run()
    assert texts(frames) == [line.text for line in lines_of(spot40)]
    assert codes(frames) == [(1, 4000)]


def test_a_raw_connection_gets_the_data_and_other_speeds_are_answered(recordings: Path) -> None:
    path = recordings / "binance_usdm" / "hft_btcusdt_20240808_first12s.ndjson"
    s = Session(recorded(USDM, path))
    s.open("/public/ws/btcusdt@depth@100ms", 1)
    s.open("/public/stream?streams=btcusdt@depth", 2)
    frames = s.run()
    original = [msgspec.json.decode(line.text) for line in lines_of(path) if "@depth" in line.text[:40]]
    assert events(frames, 1) == [m["data"] for m in original]
    assert {e["stream"] for e in events(frames, 2)} == {"btcusdt@depth"}
    assert [e["data"] for e in events(frames, 2)] == [m["data"] for m in original]


@pytest.mark.parametrize(
    ("market", "name"),
    [
        (SPOT, "binance_spot/hft_btcusdt_20240808_first40s.ndjson"),
        (USDM, "binance_usdm/hft_btcusdt_20240808_first12s.ndjson"),
        (COINM, "binance_coinm/hft_btcusd_perp_20240808_first15s.ndjson"),
    ],
)
def test_a_depth_request_waits_for_the_recorded_snapshot(recordings: Path, market: Market, name: str) -> None:
    emulator = recorded(market, recordings / name)
    symbol = emulator.ready()["symbols"][0]
    s = Session(emulator)
    s.open(f"{prefix(market)}/ws/{symbol.lower()}@depth@100ms")
    target = f"{market.prefix}/depth?symbol={symbol}&limit={market.snapshot_limit}"
    assert emulator.http("GET", target, {}, s.now) == Pending(1)
    s.run()
    body = msgspec.json.decode(s.responses[1].body)
    rest = next(line for line in read(recordings / name) if line.src == "rest")
    snapshot = msgspec.json.decode(rest.text)
    assert body["lastUpdateId"] >= snapshot["lastUpdateId"]
    assert abs(len(body["bids"]) - len(snapshot["bids"])) < 60
    assert ("E" in body) is market.futures


@pytest.mark.parametrize(
    "name",
    [
        "binance_spot/cryptofeed_4symbols_20211012.ndjson",
        "binance_spot/hft_btcusdt_20240808_first40s.ndjson",
        "binance_usdm/cryptofeed_4symbols_20210722.ndjson",
        "binance_coinm/hft_btcusd_perp_20240808_first15s.ndjson",
    ],
)
def test_snapshots_without_an_address_find_their_symbol(recordings: Path, tmp_path: Path, name: str) -> None:
    market = {"binance_spot": SPOT, "binance_usdm": USDM, "binance_coinm": COINM}[name.split("/")[0]]
    bare = tmp_path / "bare.ndjson"
    with bare.open("wb") as file:
        for line in read(recordings / name):
            file.write(frame_line(line.recv_ns or 0, line.src, "", line.text))
    truths = []
    for path in (recordings / name, bare):
        emulator = recorded(market, path)
        s = Session(emulator)
        s.open(f"{prefix(market)}/ws/{emulator.ready()['symbols'][0].lower()}@depth")
        s.run()
        truths.append(emulator.truth()["books"])
    assert truths[0] == truths[1]
    assert all(book["last_id"] for book in truths[0].values())


def depth_lines(path: Path) -> tuple[list[Line], list[int]]:
    """All lines, and the places of depth messages after the snapshot."""
    lines = list(read(path))
    rest = next(i for i, line in enumerate(lines) if line.src == "rest")
    return lines, [i for i, line in enumerate(lines) if i > rest + 50 and "@depth" in line.text[:60]]


@pytest.mark.parametrize("later", [False, True])
def test_after_a_hole_in_a_recording_the_book_settles(spot40: Path, tmp_path: Path, later: bool) -> None:
    lines, at = depth_lines(spot40)
    again = len(lines) // 2
    whole = Session(recorded(SPOT, spot40))
    whole.open("/ws/btcusdt@depth@100ms")
    whole.run(until_position=lines[again].recv_ns or 0, limit=1)
    body = whole.get("/api/v3/depth?symbol=BTCUSDT&limit=1000").body.decode()
    holed = tmp_path / "holed.ndjson"
    with holed.open("wb") as file:
        for number, line in enumerate(lines):
            if number in at[60:70]:
                continue
            file.write(frame_line(line.recv_ns or 0, line.src, line.url or "", line.text))
            if later and number == again:
                file.write(frame_line(line.recv_ns or 0, "rest", "", body))
    emulator = recorded(SPOT, holed)
    s = Session(emulator)
    s.open("/ws/btcusdt@depth@100ms")
    s.run(until_position=lines[at[75]].recv_ns or 0, limit=1)
    target = "/api/v3/depth?symbol=BTCUSDT&limit=1000"
    assert isinstance(emulator.http("GET", target, {}, s.now), Pending) is later
    s.run()
    whole.run()
    got, want = emulator.truth(1)["books"]["BTCUSDT"], whole.emulator.truth(1)["books"]["BTCUSDT"]
    assert got == want


def test_without_a_client_the_first_snapshot_is_given_at_once(spot40: Path) -> None:
    s = Session(recorded(SPOT, spot40))
    body = s.json("/api/v3/depth?symbol=BTCUSDT&limit=5")
    assert body["lastUpdateId"] == 50093239218
    assert len(body["bids"]) == 5


def test_the_true_book_agrees_with_the_recorded_quotes(spot40: Path) -> None:
    emulator = recorded(SPOT, spot40)
    s = Session(emulator)
    s.open("/ws/btcusdt@depth@100ms/btcusdt@bookTicker")
    quote: dict[str, Any] = {}
    compared = 0
    while not emulator.finished:
        poll = emulator.poll(s.now, 1)
        for e in events(poll.frames):
            if "e" not in e:
                quote = e
                continue
            book = emulator.truth(1)["books"].get("BTCUSDT")
            if book and book["last_id"] == e["u"] and quote.get("u", 1 << 62) <= e["u"]:
                best = (book["bids"][0], book["asks"][0])
                want = ((float(quote["b"]), float(quote["B"])), (float(quote["a"]), float(quote["A"])))
                if best == want:
                    compared += 1
        s.now = max(s.now + 1, poll.next_time or 0)
    # Quotes of later ids may precede a depth message: those are not comparable, most are.
    assert compared > 150


def test_exchange_info_is_derived_from_the_decimals_seen(spot40: Path, recordings: Path) -> None:
    (found,) = parse_exchange_info(SPOT, Session(recorded(SPOT, spot40)).get("/api/v3/exchangeInfo").body)
    assert (found.symbol, found.base, found.quote) == ("BTCUSDT", "BTC", "USDT")
    assert (found.tick_size, found.lot_size) == (Decimal("0.01"), Decimal("0.00001"))
    path = recordings / "binance_coinm" / "hft_btcusd_perp_20240808_first15s.ndjson"
    (coin,) = parse_exchange_info(COINM, Session(recorded(COINM, path)).get("/dapi/v1/exchangeInfo").body)
    assert (coin.symbol, coin.base, coin.quote) == ("BTCUSD_PERP", "BTC", "USD")
    assert (coin.tick_size, coin.lot_size, coin.kind) == (Decimal("0.1"), Decimal(1), "perpetual")


def test_exchange_info_from_a_file(spot40: Path, recordings: Path, tmp_path: Path) -> None:
    given = recordings / "binance_spot" / "cryptofeed_exchangeInfo_20211012.ndjson.gz"
    s = Session(recorded(SPOT, spot40, instruments=str(given)))
    assert len(parse_exchange_info(SPOT, s.get("/api/v3/exchangeInfo").body)) > 1000
    assert [x["symbol"] for x in s.json("/api/v3/exchangeInfo?symbol=ETHBTC")["symbols"]] == ["ETHBTC"]
    plain = tmp_path / "info.json"
    plain.write_bytes(b'{"symbols":[]}')
    assert Session(recorded(SPOT, spot40, instruments=str(plain))).json("/api/v3/exchangeInfo") == {"symbols": []}
    plain.write_bytes(b"[]")
    with pytest.raises(UsageError, match="holds no exchangeInfo"):
        recorded(SPOT, spot40, instruments=str(plain))
    with pytest.raises(UsageError, match="cannot read"):
        recorded(SPOT, spot40, instruments=str(tmp_path / "none.json"))


def test_several_symbols_and_recorded_candles(recordings: Path) -> None:
    path = recordings / "binance_spot" / "cryptofeed_4symbols_20211012.ndjson"
    emulator = recorded(SPOT, path)
    assert emulator.ready()["symbols"] == ["BLZETH", "LRCBTC", "NKNUSDT", "RUNEEUR"]
    listed = parse_exchange_info(SPOT, Session(emulator).get("/api/v3/exchangeInfo").body)
    assert {(i.symbol, i.base, i.quote) for i in listed} == {
        ("BLZETH", "BLZ", "ETH"), ("LRCBTC", "LRC", "BTC"), ("NKNUSDT", "NKN", "USDT"), ("RUNEEUR", "RUNE", "EUR")
    }  # fmt: skip
    s = Session(emulator)
    s.open("/ws/nknusdt@kline_1m/nknusdt@aggTrade/nknusdt@trade/nknusdt@kline_5m")
    assert [e["e"] for e in events(s.run())].count("kline") == 1
    assert "klines" not in emulator.ready().get("derived", ())
    assert set(emulator.truth(1)["books"]) == set(emulator.ready()["symbols"])


def test_frames_without_a_wrapper_and_without_times(recordings: Path) -> None:
    s = Session(recorded(SPOT, recordings / "binance_spot" / "tickvault_binanceus_depth100ms_20260824.ndjson"))
    s.open("/stream?streams=btcusdt@depth@100ms")
    got = events(s.run())
    assert len(got) == 25
    assert {e["stream"] for e in got} == {"btcusdt@depth@100ms"}
    assert s.emulator.truth(1)["books"]["BTCUSDT"]["last_id"] == got[-1]["data"]["u"]


@pytest.mark.parametrize(
    ("market", "name"),
    [
        (SPOT, "binance_spot/hft_btcusdt_20240808_first40s.ndjson"),
        (USDM, "binance_usdm/hft_btcusdt_20240808_first12s.ndjson"),
        (COINM, "binance_coinm/hft_btcusd_perp_20240808_first15s.ndjson"),
    ],
)
def test_partial_depth_is_derived_from_recorded_depth(recordings: Path, market: Market, name: str) -> None:
    emulator = recorded(market, recordings / name)
    symbol = next(iter(emulator.ready()["symbols"]))
    low = symbol.lower()
    s = Session(emulator)
    s.open(f"{prefix(market)}/stream?streams={low}@depth10/{low}@depth@100ms")
    token = emulator.http("GET", f"{market.prefix}/depth?symbol={symbol}&limit=1000", {}, s.now)
    assert isinstance(token, Pending)
    got = events(s.run())
    snapshot = msgspec.json.decode(s.responses[token.token].body)
    bids, asks = ({float(p): float(q) for p, q in snapshot[side]} for side in ("bids", "asks"))
    last, compared = snapshot["lastUpdateId"], 0
    for event in got:
        data = event["data"]
        if "@depth10" not in event["stream"]:
            if data["u"] > last:
                for side, changes in ((bids, data["b"]), (asks, data["a"])):
                    for p, q in changes:
                        side[float(p)] = float(q)
                        if not float(q):
                            del side[float(p)]
                last = data["u"]
            continue
        assert ("lastUpdateId" in data) == (market is SPOT)
        number = data["lastUpdateId"] if market is SPOT else data["u"]
        if number < last:
            continue  # before the snapshot that the client got
        assert number == last
        for side, key, reverse in ((bids, "bids", True), (asks, "asks", False)):
            part = data[key if market is SPOT else key[0]]
            assert [(float(p), float(q)) for p, q in part] == [(p, side[p]) for p in sorted(side, reverse=reverse)[:10]]
        compared += 1
    assert compared > 20


def test_candles_are_derived_from_recorded_trades(spot40: Path) -> None:
    emulator = recorded(SPOT, spot40)
    assert emulator.ready()["derived"] == ["klines", "partial_depth"]
    s = Session(emulator)
    s.open("/stream?streams=btcusdt@trade/btcusdt@kline_1m")
    frames = events(s.run())
    trades = [e["data"] for e in frames if e["stream"] == "btcusdt@trade"]
    last: dict[int, Any] = {}
    for e in frames:
        if "kline" in e["stream"]:
            last[e["data"]["k"]["t"]] = e["data"]["k"]
    assert sum(k["n"] for k in last.values()) == len(trades)
    assert sum(Decimal(k["v"]) for k in last.values()) == sum(Decimal(t["q"]) for t in trades)
    assert sum(Decimal(k["q"]) for k in last.values()) == sum(Decimal(t["q"]) * Decimal(t["p"]) for t in trades)


def test_the_archive_of_a_recording_holds_its_trades(recordings: Path) -> None:
    folder = recordings / "binance_spot"
    paths = [folder / "hft_btcusdt_20240808.ndjson.gz", folder / "hft_btcusdt_20240809.ndjson.gz"]
    s = Session(recorded(SPOT, *paths))
    keys = [k for k, _ in listing(s, "data/spot/daily/trades/")[0] if k.endswith(".zip")]
    assert [k[-14:-4] for k in keys] == ["2024-08-08", "2024-08-09"]
    rows = [row for k in keys for row in archive_file(s, k)]
    assert [int(r[0]) for r in rows] == list(range(3735683259, 3735703163))
    assert rows[0] == ["3735683259", "61837.63000000", "0.02000000", "1236.75260000", "1723161255342", "True", "True"]
    for row in rows:
        assert Decimal(row[1]) * Decimal(row[2]) == Decimal(row[3])
    days = [date(1970, 1, 1) + timedelta(milliseconds=int(r[4])) for r in rows]
    assert [d.isoformat() for d in sorted(set(days))] == ["2024-08-08", "2024-08-09"]
    bars = [
        row for d in (8, 9) for row in archive_file(s, f"data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-08-0{d}.zip")
    ]
    assert sum(int(bar[8]) for bar in bars) == 19_904
    aggs = [
        row
        for d in (8, 9)
        for row in archive_file(s, f"data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-08-0{d}.zip")
    ]
    assert [i for a in aggs for i in range(int(a[3]), int(a[4]) + 1)] == [int(r[0]) for r in rows]


def test_rest_trades_of_a_recording_end_at_its_position(spot40: Path) -> None:
    emulator = recorded(SPOT, spot40)
    s = Session(emulator)
    assert s.json("/api/v3/trades?symbol=BTCUSDT") == []
    s.open("/ws/btcusdt@trade")
    s.run(until_position=emulator.world.start + 5 * SECOND, limit=1)
    sent = events(s.frames)
    rows = s.json("/api/v3/trades?symbol=BTCUSDT&limit=1000")
    assert [r["id"] for r in rows] == [t["t"] for t in sent]
    assert s.json(f"/api/v3/historicalTrades?symbol=BTCUSDT&fromId={sent[2]['t']}&limit=2") == rows[2:4]


def test_faults_name_the_ids_that_were_lost(spot40: Path) -> None:
    source = MarketSource(
        "binance-spot", recordings=(str(spot40),), speed=0, faults=(parse_fault("drop:at=7,stream=trade"),)
    )
    emulator = BinanceEmulator(SPOT, source)
    s = Session(emulator)
    s.open("/ws/btcusdt@trade")
    ids = [t["t"] for t in events(s.run())]
    (fault,) = emulator.truth()["faults"]
    assert fault["kind"] == "drop"
    assert fault["t"] not in ids
    assert sorted([*ids, fault["t"]]) == list(range(min(ids), max(ids) + 1))
    assert emulator.truth()["trades"]["BTCUSDT"]["count"] == len(ids) + 1


def test_what_cannot_be_served_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to serve"):
        BinanceEmulator(SPOT, MarketSource("binance-spot"))
    empty = tmp_path / "empty.ndjson"
    empty.write_bytes(b"")
    with pytest.raises(UsageError, match="no message of binance-spot"):
        recorded(SPOT, empty)
    with pytest.raises(UsageError, match="cannot read"):
        recorded(SPOT, tmp_path / "none.ndjson")
