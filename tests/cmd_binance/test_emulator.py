from __future__ import annotations

import csv
import hashlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from cmd_binance.emulator import BinanceEmulator
from cmd_binance.instruments import COINM, SPOT, USDM, Market, parse_exchange_info
from cmd_common.emulation import Accept, Close, MarketSource, Pending, ServerFrame, Text
from cmd_common.errors import UsageError
from cmd_common.faults import parse_fault
from cmd_common.http import HttpResponse
from cmd_common.recording import Line, frame_line, read
from cmd_common.simulation import day_of

SECOND = 1_000_000_000
T0 = 1_900_000_000 * SECOND
MARKETS = (SPOT, USDM, COINM)
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def simulated(market: Market = SPOT, *faults: str, **options: Any) -> BinanceEmulator:
    options = {"symbols": 2, "seed": 4, "duration": 20 * SECOND, "speed": 0, **options}
    made = tuple(parse_fault(f) for f in faults)
    return BinanceEmulator(market, MarketSource(market.venue, simulate=True, faults=made, **options))


def recorded(market: Market, *paths: Path, **options: Any) -> BinanceEmulator:
    options = {"speed": 0, **options}
    return BinanceEmulator(market, MarketSource(market.venue, recordings=tuple(map(str, paths)), **options))


class Session:
    """Drives an emulator on a clock that jumps."""

    def __init__(self, emulator: BinanceEmulator, now: int = T0) -> None:
        self.emulator = emulator
        self.now = now
        self.responses: dict[int, HttpResponse] = {}
        self.frames: list[ServerFrame] = []

    def open(self, target: str, connection: int = 1) -> Accept | HttpResponse:
        return self.emulator.ws_open(connection, target, {}, self.now)

    def send(self, message: object, connection: int = 1) -> list[Any]:
        self.now += SECOND  # stay below the limit of messages
        text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        frames = self.emulator.ws_receive(connection, text, self.now)
        return [msgspec.json.decode(f.text) if isinstance(f, Text) else f for f in frames]

    def get(self, target: str, **headers: str) -> HttpResponse:
        result = self.emulator.http("GET", target, {k.replace("_", "-"): v for k, v in headers.items()}, self.now)
        assert isinstance(result, HttpResponse)
        return result

    def json(self, target: str, **headers: str) -> Any:
        response = self.get(target, **headers)
        assert response.status == 200, response.body
        return msgspec.json.decode(response.body)

    def error(self, target: str) -> tuple[int, int, str]:
        response = self.get(target)
        body = msgspec.json.decode(response.body)
        return response.status, body["code"], body["msg"]

    def run(self, *, until_position: int | None = None, limit: int = 256) -> list[ServerFrame]:
        frames: list[ServerFrame] = []
        while True:
            poll = self.emulator.poll(self.now, limit)
            frames += poll.frames
            self.responses.update(poll.responses)
            if poll.finished or poll.next_time is None:
                break
            if until_position is not None and self.emulator.world.position >= until_position:
                break
            self.now = max(self.now + 1, poll.next_time)
        self.frames += frames
        return frames


def texts(frames: list[ServerFrame], connection: int = 1) -> list[str]:
    return [f.text for f in frames if isinstance(f, Text) and f.connection == connection]


def events(frames: list[ServerFrame], connection: int = 1) -> list[Any]:
    return [msgspec.json.decode(t) for t in texts(frames, connection)]


def codes(frames: list[ServerFrame]) -> list[tuple[int, int]]:
    return [(f.connection, f.code) for f in frames if isinstance(f, Close)]


def prefix(market: Market) -> str:
    return "/public" if market is USDM else ""


# Control frames


def test_subscribe_and_its_kin_answer_as_binance_does() -> None:
    s = Session(simulated())
    assert s.open("/stream") == Accept()
    assert s.send({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}) == [{"result": None, "id": 1}]
    assert s.send({"method": "LIST_SUBSCRIPTIONS", "id": "x"}) == [{"result": ["btcusdt@trade"], "id": "x"}]
    assert s.send({"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": None}) == [{"result": None, "id": None}]
    assert s.send({"method": "LIST_SUBSCRIPTIONS", "id": 2}) == [{"result": [], "id": 2}]
    assert s.send({"method": "GET_PROPERTY", "params": ["combined"], "id": 3}) == [{"result": True, "id": 3}]
    assert s.send({"method": "SET_PROPERTY", "params": ["combined", False], "id": 4}) == [{"result": None, "id": 4}]
    assert s.send({"method": "GET_PROPERTY", "params": ["combined"], "id": 5}) == [{"result": False, "id": 5}]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", 3),
        ("", 3),
        ("[]", 2),
        ({"params": [], "id": 1}, 2),
        ({"method": "SUBSCRIBER", "params": [], "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": [], "id": 1.5}, 2),
        ({"method": "SUBSCRIBE", "params": [], "id": "x" * 37}, 2),
        ({"method": "SUBSCRIBE", "params": "a", "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": [1], "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": [f"s{n}@trade" for n in range(1025)], "id": 1}, 2),
        ({"method": "SET_PROPERTY", "params": ["combined", 1], "id": 1}, 1),
        ({"method": "SET_PROPERTY", "params": [1], "id": 1}, 2),
        ({"method": "GET_PROPERTY", "params": ["other"], "id": 1}, 0),
    ],
)
def test_wrong_requests_get_a_code(message: object, code: int) -> None:
    s = Session(simulated())
    s.open("/ws")
    (reply,) = s.send(message)
    assert reply["code"] == code
    assert isinstance(reply["msg"], str)


@pytest.mark.parametrize(("market", "allowed"), [(SPOT, 5), (USDM, 10), (COINM, 10)])
def test_the_limit_of_incoming_messages(market: Market, allowed: int) -> None:
    emulator = simulated(market)
    emulator.ws_open(1, f"{prefix(market)}/ws", {}, T0)
    ask = '{"method":"LIST_SUBSCRIPTIONS","id":1}'
    for n in range(allowed):
        assert not codes(emulator.ws_receive(1, ask, T0 + n))
    assert codes(emulator.ws_receive(1, ask, T0 + 99)) == [(1, 1008)]


@pytest.mark.parametrize(
    ("market", "target", "accepted"),
    [
        (SPOT, "/ws", True),
        (SPOT, "/ws/btcusdt@trade", True),
        (SPOT, "/stream?streams=btcusdt@trade/ethusdt@trade", True),
        (SPOT, "/public/ws", False),
        (SPOT, "/other", False),
        (USDM, "/ws", False),
        (USDM, "/stream?streams=btcusdt@trade", False),
        (USDM, "/public/ws/btcusdt@depth", True),
        (USDM, "/market/stream?streams=btcusdt@aggTrade", True),
        (COINM, "/stream", True),
    ],
)
def test_handshakes(market: Market, target: str, accepted: bool) -> None:
    result = Session(simulated(market)).open(target)
    assert (result == Accept()) is accepted
    if isinstance(result, HttpResponse):
        assert result.status == 404


def test_usdm_classes_wrong_ones_are_acknowledged_and_silent() -> None:
    s = Session(simulated(USDM))
    s.open("/public/stream", 1)
    s.open("/market/stream", 2)
    names = [f"btcusdt@{t}" for t in ("trade", "bookTicker", "depth@100ms", "depth5@100ms", "aggTrade", "kline_1m")]
    for connection in (1, 2):
        ask = {"method": "SUBSCRIBE", "params": names, "id": 1}
        assert s.send(ask, connection) == [{"result": None, "id": 1}]
        assert s.send({"method": "LIST_SUBSCRIPTIONS", "id": 2}, connection)[0]["result"] == names
    frames = s.run()
    got = {c: {e["stream"] for e in events(frames, c)} for c in (1, 2)}
    assert got[1] == set(names[:4])
    assert got[2] == set(names[4:])
    assert sorted(codes(frames)) == [(1, 4000), (2, 4000)]


# Simulated streams


@pytest.mark.parametrize("market", MARKETS)
def test_depth_chains_from_the_rest_snapshot_and_ends_in_the_true_book(market: Market) -> None:
    emulator = simulated(market, symbols=2)
    s = Session(emulator)
    symbol = emulator.ready()["symbols"][0]
    s.open(f"{prefix(market)}/ws/{symbol.lower()}@depth@100ms")
    s.run(until_position=emulator.world.start + 3 * SECOND, limit=1)
    snapshot = s.json(f"{market.prefix}/depth?symbol={symbol}&limit={market.snapshot_limit}")
    s.run()
    frames = s.frames
    sides = [{Decimal(p): Decimal(q) for p, q in snapshot[side]} for side in ("bids", "asks")]
    assert min(len(side) for side in sides) > 300
    book_id, fresh, last = snapshot["lastUpdateId"], True, None
    for e in events(frames):
        if last is not None:
            assert e["U"] == last + 1 if market is SPOT else e["pu"] == last
        last = e["u"]
        if e["u"] < book_id or (market is SPOT and e["u"] == book_id):
            continue
        if fresh:
            first_fits = e["U"] <= book_id + 1 <= e["u"] if market is SPOT else e["U"] <= book_id <= e["u"]
            assert first_fits or e.get("pu") == book_id
        fresh = False
        for side, name in zip(sides, "ba", strict=True):
            for p, q in e[name]:
                side[Decimal(p)] = Decimal(q)
    truth = emulator.truth(depth=10_000)["books"][symbol]
    assert last == truth["last_id"]
    assert not fresh
    for side, name in zip(sides, ("bids", "asks"), strict=True):
        assert {float(p): float(q) for p, q in side.items() if q} == dict(truth[name])


@pytest.mark.parametrize("market", MARKETS)
def test_slow_and_partial_depth_agree_with_the_fast_stream(market: Market) -> None:
    emulator = simulated(market, symbols=1)
    low = emulator.ready()["symbols"][0].lower()
    s = Session(emulator)
    slow = "@depth" if market is SPOT else "@depth@500ms"
    target = f"{prefix(market)}/stream?streams={low}@depth@100ms/{low}{slow}/{low}@depth5@100ms"
    snapshot = s.json(f"{market.prefix}/depth?symbol={low.upper()}&limit={market.snapshot_limit}")
    s.open(target)
    books = {name: [dict(snapshot["bids"]), dict(snapshot["asks"])] for name in ("fast", "slow")}
    ids: dict[str, int] = {}
    partials = 0
    for e in events(s.run()):
        data = e["data"]
        if e["stream"] == f"{low}@depth5@100ms":
            bids = sorted(((p, q) for p, q in books["fast"][0].items() if float(q)), key=lambda x: -float(x[0]))
            partial = [tuple(level) for level in data["bids" if market is SPOT else "b"]]
            if (data["lastUpdateId"] if market is SPOT else data["u"]) == ids.get("fast"):
                assert partial == bids[:5]
                partials += 1
            continue
        name = "slow" if e["stream"] == f"{low}{slow}" else "fast"
        if name in ids:
            assert data["U"] == ids[name] + 1 if market is SPOT else data["pu"] == ids[name]
        ids[name] = data["u"]
        for side, key in zip(books[name], "ba", strict=True):
            side.update((p, q) for p, q in data[key])
    assert partials > 50
    assert ids["fast"] == ids["slow"]
    alive = {n: [{p: q for p, q in side.items() if float(q)} for side in sides] for n, sides in books.items()}
    assert alive["fast"] == alive["slow"]


@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_time_units_on_spot(unit: int) -> None:
    emulator = simulated()
    s = Session(emulator)
    s.open("/ws/btcusdt@trade?timeUnit=MICROSECOND" if unit == 1_000 else "/ws/btcusdt@trade")
    trades = events(s.run())
    made = list(emulator._world.day_trades("BTCUSDT", day_of(emulator.world.start)))  # type: ignore[attr-defined]
    by_id = {t.id: t for t in made}
    assert [t["T"] for t in trades] == [by_id[t["t"]].ts // unit for t in trades]
    header = {"X_MBX_TIME_UNIT": "MICROSECOND"} if unit == 1_000 else {}
    rest = s.json("/api/v3/historicalTrades?symbol=BTCUSDT&limit=1000&fromId=" + str(trades[0]["t"]), **header)
    assert [(r["id"], r["price"], r["qty"], r["time"]) for r in rest] == [
        (t["t"], t["p"], t["q"], t["T"]) for t in trades
    ]


def test_klines_are_exactly_the_trades() -> None:
    s = Session(simulated(duration=130 * SECOND))
    s.open("/stream?streams=btcusdt@trade/btcusdt@kline_1m/btcusdt@kline_1s")
    frames = events(s.run())
    trades = [e["data"] for e in frames if e["stream"] == "btcusdt@trade"]
    for name, width in (("btcusdt@kline_1m", 60_000), ("btcusdt@kline_1s", 1_000)):
        closed = [e["data"]["k"] for e in frames if e["stream"] == name and e["data"]["k"]["x"]]
        assert len(closed) >= 2
        for k in closed:
            inside = [t for t in trades if k["t"] <= t["T"] <= k["T"]]
            assert k["T"] == k["t"] + width - 1
            assert k["n"] == len(inside)
            assert Decimal(k["v"]) == sum((Decimal(t["q"]) for t in inside), Decimal(0))
            assert Decimal(k["q"]) == sum((Decimal(t["q"]) * Decimal(t["p"]) for t in inside), Decimal(0))
            if inside:
                prices = [t["p"] for t in inside]
                assert (k["o"], k["c"]) == (prices[0], prices[-1])
                assert (k["h"], k["l"]) == (max(prices, key=float), min(prices, key=float))
                assert (k["f"], k["L"]) == (inside[0]["t"], inside[-1]["t"])
        rest = s.json(f"/api/v3/klines?symbol=BTCUSDT&interval={name[14:]}&startTime={closed[0]['t']}&limit=1000")
        by_open = {row[0]: row for row in rest}
        for k in closed:
            if k["n"]:
                assert by_open[k["t"]][1:9] == [k["o"], k["h"], k["l"], k["c"], k["v"], k["T"], k["q"], k["n"]]


def test_aggregate_trades_cover_the_trades() -> None:
    s = Session(simulated(USDM))
    s.open("/public/ws/btcusdt@trade", 1)
    s.open("/market/ws/btcusdt@aggTrade", 2)
    frames = s.run()
    trades = {t["t"]: t for t in events(frames, 1)}
    aggs = events(frames, 2)
    assert [a["a"] for a in aggs] == list(range(aggs[0]["a"], aggs[0]["a"] + len(aggs)))
    covered = [i for a in aggs for i in range(a["f"], a["l"] + 1)]
    assert covered == sorted(trades)
    for a in aggs:
        fills = [trades[i] for i in range(a["f"], a["l"] + 1)]
        assert Decimal(a["q"]) == sum(Decimal(t["q"]) for t in fills)
        assert {(t["p"], t["T"], t["m"]) for t in fills} == {(a["p"], a["T"], a["m"])}
    rest = s.json(f"/fapi/v1/aggTrades?symbol=BTCUSDT&fromId={aggs[3]['a']}&limit=5")
    assert [r["a"] for r in rest] == [a["a"] for a in aggs[3:8]]
    window = s.json(f"/fapi/v1/aggTrades?symbol=BTCUSDT&startTime={aggs[2]['T']}&endTime={aggs[4]['T']}")
    assert {a["a"] for a in aggs[2:5]} <= {r["a"] for r in window}
    assert all(aggs[2]["T"] <= r["T"] <= aggs[4]["T"] for r in window)


def test_same_seed_same_bytes() -> None:
    def played(seed: int) -> list[str]:
        s = Session(simulated(seed=seed))
        s.open("/stream?streams=btcusdt@trade/btcusdt@depth@100ms/ethusdt@bookTicker/ethusdt@kline_1m")
        return texts(s.run())

    assert played(1) == played(1)
    assert played(1) != played(2)


def test_coinm_quantities_are_contracts() -> None:
    s = Session(simulated(COINM, symbols=1))
    info = parse_exchange_info(COINM, s.get("/dapi/v1/exchangeInfo").body)
    assert (info[0].symbol, info[0].contract_size, info[0].inverse) == ("BTCUSD_PERP", Decimal(100), True)
    s.open("/stream?streams=btcusd_perp@trade/btcusd_perp@kline_1m")
    frames = events(s.run())
    trades = [e["data"] for e in frames if e["stream"].endswith("@trade")]
    k = [e["data"]["k"] for e in frames if "kline" in e["stream"]][-1]
    assert Decimal(k["v"]) == sum(Decimal(t["q"]) for t in trades)
    base = sum(Decimal(t["q"]) * 100 / Decimal(t["p"]) for t in trades)
    assert abs(Decimal(k["q"]) - base) < Decimal("1e-6")


# REST


@pytest.mark.parametrize("market", MARKETS)
def test_reference_data_parses_and_has_the_sizes_in_use(market: Market) -> None:
    s = Session(simulated(market, symbols=3))
    found = parse_exchange_info(market, s.get(f"{market.prefix}/exchangeInfo").body)
    assert [i.symbol for i in found] == s.emulator.ready()["symbols"]
    for instrument in found:
        book = s.json(f"{market.prefix}/depth?symbol={instrument.symbol}&limit=100")
        for price, quantity in book["bids"] + book["asks"]:
            assert Decimal(price) % instrument.tick_size == 0
            assert Decimal(quantity) % instrument.lot_size == 0


@pytest.mark.parametrize(
    ("market", "target", "expected"),
    [
        (SPOT, "depth?symbol=NOPE", (400, -1121)),
        (SPOT, "depth", (400, -1102)),
        (SPOT, "depth?symbol=BTCUSDT&limit=x", (400, -1100)),
        (SPOT, "depth?symbol=BTCUSDT&limit=0", (400, -1130)),
        (USDM, "depth?symbol=BTCUSDT&limit=400", (400, -4021)),
        (SPOT, "klines?symbol=BTCUSDT", (400, -1102)),
        (SPOT, "klines?symbol=BTCUSDT&interval=7m", (400, -1120)),
        (USDM, "klines?symbol=BTCUSDT&interval=1s", (400, -1120)),
        (USDM, "aggTrades?symbol=BTCUSDT&fromId=1&startTime=1", (400, -1128)),
        (SPOT, "exchangeInfo?symbol=NOPE", (400, -1121)),
    ],
)
def test_wrong_rest_requests(market: Market, target: str, expected: tuple[int, int]) -> None:
    assert Session(simulated(market)).error(f"{market.prefix}/{target}")[:2] == expected


def test_unknown_paths_and_other_methods() -> None:
    s = Session(simulated())
    for path in ("/api/v3/nothing", "/api/v1/depth?symbol=BTCUSDT", "/fapi/v1/time", "/favicon.ico"):
        assert s.get(path).status == 404
    post = s.emulator.http("POST", "/api/v3/time", {}, T0)
    assert isinstance(post, HttpResponse)
    assert post.status == 405


def test_time_and_ping() -> None:
    s = Session(simulated())
    assert s.json("/api/v3/ping") == {}
    assert s.json("/api/v3/time")["serverTime"] == s.emulator.world.start // 1_000_000
    assert s.json("/api/v3/time", x_mbx_time_unit="MICROSECOND")["serverTime"] == s.emulator.world.start // 1_000


@pytest.mark.parametrize(
    ("market", "target", "weight"),
    [
        (SPOT, "exchangeInfo", 20),
        (SPOT, "depth?symbol=BTCUSDT", 5),
        (SPOT, "depth?symbol=BTCUSDT&limit=500", 25),
        (SPOT, "depth?symbol=BTCUSDT&limit=1000", 50),
        (SPOT, "depth?symbol=BTCUSDT&limit=5000", 250),
        (SPOT, "klines?symbol=BTCUSDT&interval=1m", 2),
        (SPOT, "aggTrades?symbol=BTCUSDT", 4),
        (SPOT, "trades?symbol=BTCUSDT", 25),
        (USDM, "depth?symbol=BTCUSDT&limit=1000", 20),
        (USDM, "depth?symbol=BTCUSDT&limit=50", 2),
        (USDM, "klines?symbol=BTCUSDT&interval=1m&limit=1500", 10),
        (USDM, "aggTrades?symbol=BTCUSDT", 20),
    ],
)
def test_weights(market: Market, target: str, weight: int) -> None:
    response = Session(simulated(market)).get(f"{market.prefix}/{target}")
    assert response.header("X-MBX-USED-WEIGHT-1M") == str(weight)


def test_the_weight_limit_refuses_then_bans_and_forgives() -> None:
    s = Session(simulated(), now=T0 // (60 * SECOND) * 60 * SECOND)
    target = "/api/v3/depth?symbol=BTCUSDT&limit=5000"
    assert [s.get(target).status for _ in range(24)] == [200] * 24
    refused = s.get(target)
    assert (refused.status, msgspec.json.decode(refused.body)["code"]) == (429, -1003)
    assert 1 <= int(refused.header("Retry-After")) <= 61
    statuses = [s.get(target).status for _ in range(30)]
    assert statuses == [429] * 19 + [418] * 11
    s.now += 60 * SECOND
    assert s.get(target).status == 418
    s.now += 61 * SECOND
    assert s.get(target).status == 200


def test_a_shutdown_is_announced_in_the_form_of_the_connection() -> None:
    s = Session(simulated(SPOT, "shutdown:at=3,stream=trade,ms=100", speed=1))
    s.open("/stream?streams=btcusdt@trade", 1)
    s.open("/ws/btcusdt@trade?timeUnit=MICROSECOND", 2)
    frames = s.run(until_position=s.emulator.world.start + 10 * SECOND)
    combined = next(e for e in events(frames, 1) if e["stream"] == "!serverShutdown")["data"]
    raw = next(e for e in events(frames, 2) if e["e"] == "serverShutdown")
    assert combined == {"e": "serverShutdown", "E": raw["E"] // 1000}
    assert codes(frames) == [(1, 1001), (2, 1001)]


def test_the_limit_of_connections_in_five_minutes() -> None:
    s = Session(simulated())
    answers = [s.open("/ws", n) for n in range(301)]
    assert all(isinstance(a, Accept) for a in answers[:300])
    last = answers[300]
    assert isinstance(last, HttpResponse)
    assert (last.status, last.header("Retry-After")) == (429, "300")


def test_rate_limit_and_ban_on_request() -> None:
    s = Session(simulated(SPOT, "rate_limit:at=2,path=depth,ms=3000", "ban:at=4,path=depth"))
    target = "/api/v3/depth?symbol=BTCUSDT"
    responses = [s.get(target) for _ in range(5)]
    assert [r.status for r in responses] == [200, 429, 200, 418, 200]
    assert responses[1].header("retry-after") == "3"
    assert s.get("/api/v3/time").status == 200
    assert s.emulator.truth()["fault_counts"] == {"rate_limit": 1, "ban": 1}


# Archive


def archive_file(s: Session, key: str) -> list[list[str]]:
    zipped, checksum = s.get(f"/{key}"), s.get(f"/{key}.CHECKSUM")
    assert (zipped.status, checksum.status) == (200, 200)
    name = key.rpartition("/")[2]
    assert checksum.body.decode() == f"{hashlib.sha256(zipped.body).hexdigest()}  {name}\n"
    with zipfile.ZipFile(io.BytesIO(zipped.body)) as archive:
        assert archive.namelist() == [name.replace(".zip", ".csv")]
        return list(csv.reader(io.StringIO(archive.read(archive.namelist()[0]).decode())))


def listing(s: Session, prefix: str, path: str = "/", **query: str) -> tuple[list[tuple[str, int]], list[str], str]:
    text = "&".join(f"{k.replace('_', '-')}={v}" for k, v in {"prefix": prefix, **query}.items())
    root = ElementTree.fromstring(s.get(f"{path}?{text}").body)
    keys = [
        (e.findtext(NAMESPACE + "Key") or "", int(e.findtext(NAMESPACE + "Size") or 0))
        for e in root.iter(NAMESPACE + "Contents")
    ]
    folders = [e.findtext(NAMESPACE + "Prefix") or "" for e in root.iter(NAMESPACE + "CommonPrefixes")]
    assert root.findtext(NAMESPACE + "IsTruncated") in ("true", "false")
    marker = root.findtext(NAMESPACE + "NextMarker") or root.findtext(NAMESPACE + "NextContinuationToken") or ""
    return keys, folders, marker if root.findtext(NAMESPACE + "IsTruncated") == "true" else ""


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
