"""watch --aggregate and record --types aggregate as processes, over venues of several exchange packages."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .conftest import Ran, finish, replaying, start

VENUES = "binance-spot,kraken,bybit-spot"
NAMES = {"binance-spot:BTCUSDT", "kraken:BTC/USDT", "bybit-spot:BTCUSDT"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with replaying("--exchange", VENUES, "--simulate", "--symbols", "BTCUSDT,ETHUSDT") as endpoints:
        yield ",".join(f"{venue}={url}" for venue, url in endpoints.items())


def cmd(*args: str) -> Ran:
    return finish(start(*args))


def test_watch_in_a_pipe(endpoint: str) -> None:
    args = ["watch", "--aggregate", "BTC-USDT", "--exchange", VENUES, "--endpoint", endpoint, "--duration", "4s"]
    ran = cmd(*args, "--fee", "kraken=26,binance-spot=10", "--json")
    assert ran.code == 0, ran.err
    last = json.loads(ran.out.splitlines()[-1])
    assert last["instrument"] == "BTC-USDT"
    assert {*last["venues"], *last["excluded"]} == NAMES
    assert last["venues"], last
    for side, sign in (("bids", -1), ("asks", 1)):
        prices = [price for price, _, _ in last[side]]
        assert prices == sorted(prices, reverse=side == "bids")
        for price, quantity, parts in last[side]:
            assert quantity == sum(q for _, _, q in parts)
            for name, own, _ in parts:
                bps = {"kraken": 26, "binance-spot": 10}.get(name.partition(":")[0], 0)
                assert price == own * (1 + sign * (bps / 10_000))


def test_words_in_a_pipe(endpoint: str) -> None:
    args = ["--aggregate", "BTC-USDT", "--exchange", VENUES, "--endpoint", endpoint, "--duration", "2s"]
    ran = cmd("watch", *args)
    assert ran.code == 0, ran.err
    assert "BTC-USDT" in ran.out
    assert " bid " in ran.out.splitlines()[-1]


def test_record_and_query(endpoint: str) -> None:
    args = ["--exchange", VENUES, "--symbols", "BTC-USDT,ETH-USDT", "--types", "aggregate", "--endpoint", endpoint]
    more = ["--aggregate-every", "500ms", "--aggregate-depth", "7", "--duration", "4s", "--json"]
    ran = cmd("record", *args, "--store", "parquet:data", *more)
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out.splitlines()[-1])
    assert set(summary["records"]) == {"aggregated_books", "feed_status", "instruments"}
    assert set(summary["aggregates"]) == {"BTC-USDT", "ETH-USDT"}
    assert set(summary["aggregates"]["BTC-USDT"]["venues"]) <= NAMES
    sql = "SELECT instrument, count(*) n, max(len(list_distinct(asks[1:-:3]))) d FROM aggregated_books GROUP BY 1 ORDER BY 1"
    query = cmd("query", sql, "--store", "parquet:data", "--json")
    assert query.code == 0, query.err
    rows = json.loads(query.out)
    assert [row["instrument"] for row in rows] == ["BTC-USDT", "ETH-USDT"]
    assert all(row["d"] == 7 for row in rows)
    assert sum(row["n"] for row in rows) == summary["records"]["aggregated_books"]
    assert all(row["n"] >= 5 for row in rows)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--aggregate", "BTC-USDX"], "unknown instrument of binance-spot or kraken or bybit-spot 'BTC-USDX'; did you mean BTC-USDT"),
        (["--aggregate", "BTC-USDT", "--convert", "EUR"], ""),
    ],
)  # fmt: skip
def test_what_nobody_trades(endpoint: str, args: list[str], message: str) -> None:
    ran = cmd("watch", *args, "--exchange", VENUES, "--endpoint", endpoint, "--duration", "1s")
    assert ran.code == (2 if message else 0), ran.err
    assert message in ran.err
