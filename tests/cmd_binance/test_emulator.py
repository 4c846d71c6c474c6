"""The Binance emulator: control frames, simulated streams, REST."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from emulator_session import MARKETS, SECOND, T0, Session, codes, events, prefix, simulated, texts

from cmd_binance.instruments import COINM, SPOT, USDM, Market, parse_exchange_info
from cmd_common.emulation import Accept
from cmd_common.http import HttpResponse
from cmd_common.simulation import day_of

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
