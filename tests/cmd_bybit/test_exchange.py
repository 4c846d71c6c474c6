"""The conformance suite over both markets, and what an Exchange object promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bybit_wire import CASES, NOW, dumps, instrument_row, instruments_body

from cmd_bybit import LINEAR, SPOT, BybitExchange
from cmd_common import registry
from cmd_common.errors import ProtocolError, UsageError
from cmd_common.exchange import PagedInstruments, next_instruments_request
from cmd_common.feed import Send, Subscription
from cmd_common.instruments import Instrument
from cmd_common.testing.conformance import Conformance
from cmd_common.testing.harness import Harness

ALL = ("trades", "quotes", "candles", "book")


class TestSpot(Conformance):
    case = CASES["bybit-spot"]


class TestLinear(Conformance):
    case = CASES["bybit-linear"]


def known(exchange: BybitExchange) -> dict[str, Instrument]:
    return {i.symbol: i for i in exchange.parse_instruments(instruments_body(exchange))}


def args(frames: list[str]) -> list[str]:
    return [name for text in frames for name in json.loads(text).get("args", [])]


def test_exchanges_are_found_by_entry_point() -> None:
    for exchange in (SPOT, LINEAR):
        assert registry.exchange(exchange.venue) is exchange
        assert exchange.title in repr(exchange)
        assert isinstance(exchange, PagedInstruments)
    assert SPOT.limits.weight_pool == LINEAR.limits.weight_pool  # one address, one limit
    assert set(SPOT.recording_urls()).isdisjoint(LINEAR.recording_urls())


@pytest.mark.parametrize("exchange", [SPOT, LINEAR])
def test_topics_and_url(exchange: BybitExchange) -> None:
    harness = Harness(CASES[exchange.venue], types=ALL, symbols=("BTCUSDT",))
    (feed,) = harness.feeds
    assert feed.name == f"{exchange.venue}/public-0"
    assert feed.url == f"wss://stream.bybit.com/v5/public/{exchange.market.category}"
    harness.connect()
    assert args(harness.sent) == [
        "publicTrade.BTCUSDT", "orderbook.1.BTCUSDT", "kline.1.BTCUSDT", "orderbook.1000.BTCUSDT",
    ]  # fmt: skip


def test_the_same_symbol_on_both_markets_is_two_instruments() -> None:
    spot, linear = known(SPOT)["BTCUSDT"], known(LINEAR)["BTCUSDT"]
    assert (spot.name, spot.unified) == ("bybit-spot:BTCUSDT", "BTC-USDT")
    assert (linear.name, linear.unified) == ("bybit-linear:BTCUSDT", "BTC-USDT-PERP")


@pytest.mark.parametrize(("depth", "topic"), [(None, 1000), (50, 50), (200, 200), (1000, 1000)])
def test_depth_chooses_the_topic(depth: int | None, topic: int) -> None:
    (feed,) = SPOT.feeds(Subscription(("BTCUSDT",), ("book",), depth=depth), known(SPOT), SPOT.endpoints)
    (send,) = (a for a in feed.connected(NOW).actions if isinstance(a, Send))
    assert args([send.frame]) == [f"orderbook.{topic}.BTCUSDT"]


def test_a_depth_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="50, 200, 1000"):
        SPOT.feeds(Subscription(("BTCUSDT",), ("book",), depth=20), known(SPOT), SPOT.endpoints)


@pytest.mark.parametrize(
    ("types", "options"), [((), {}), (("agg_trades",), {}), (("trades",), {"block_trades": "some"})]
)
def test_what_does_not_exist_is_a_usage_error(types: tuple[str, ...], options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        SPOT.feeds(Subscription(("BTCUSDT",), types, options=options), known(SPOT), SPOT.endpoints)


def test_many_symbols_are_spread_by_characters_and_frames_hold_ten_topics() -> None:
    rows = [instrument_row(SPOT, f"LONGNAME{i:03d}USDT", f"LONGNAME{i:03d}", "USDT") for i in range(500)]
    instruments = {i.symbol: i for i in SPOT.parse_instruments(instruments_body(SPOT, rows))}
    subscription = Subscription(tuple(instruments), ALL, ("1m", "1h"))
    feeds = SPOT.feeds(subscription, instruments, SPOT.endpoints)
    assert len(feeds) > 1
    assert [s for f in feeds for s in f.symbols] == list(instruments)
    assert len({f.name for f in feeds}) == len(feeds)
    for feed in feeds:
        frames = [a.frame for a in feed.connected(NOW).actions if isinstance(a, Send)]
        assert all(len(json.loads(text)["args"]) <= 10 for text in frames)
        assert len(dumps(args(frames))) <= 21_000
        assert len({json.loads(text)["req_id"] for text in frames}) == len(frames)
    full = feeds[0]
    before = list(full.symbols)
    with pytest.raises(UsageError, match="21000 characters"):
        full.add(tuple(feeds[1].symbols), NOW)
    assert list(full.symbols) == before


# Reference data


def test_sizes_come_from_their_own_fields() -> None:
    spot, linear = known(SPOT)["BTCUSDT"], known(LINEAR)["BTCUSDT"]
    assert [str(v) for v in (spot.tick_size, spot.lot_size, spot.min_quantity, spot.min_notional)] == [
        "0.01", "0.000001", "0.000011", "5",
    ]  # fmt: skip
    assert [str(v) for v in (linear.tick_size, linear.lot_size, linear.min_quantity, linear.min_notional)] == [
        "0.1", "0.001", "0.001", "5",
    ]  # fmt: skip
    assert linear.contract_size is None
    assert known(LINEAR)["BTCPERP"].settle == "USDC"
    dated = known(LINEAR)["ETHUSDT-26DEC26"]
    assert (dated.kind, dated.expiry) == ("future", 1_798_272_000_000_000_000)


@pytest.mark.parametrize(
    ("word", "status"),
    [("Trading", "trading"), ("PreLaunch", "pre_trading"), ("Delivering", "halted"), ("Closed", "delisted"), ("New", "unknown")],
)  # fmt: skip
def test_status_words(word: str, status: str) -> None:
    row = instrument_row(LINEAR, "BTCUSDT", "BTC", "USDT") | {"status": word, "deliveryTime": "1798272000000"}
    (instrument,) = LINEAR.parse_instruments(instruments_body(LINEAR, [row]))
    assert (instrument.status, instrument.raw_status) == (status, word)
    assert (instrument.kind, instrument.expiry) == ("perpetual", None)  # the time of its delisting


def test_an_answer_of_the_other_market_is_refused() -> None:
    with pytest.raises(ProtocolError, match="category"):
        SPOT.parse_instruments(instruments_body(LINEAR))
    row = instrument_row(SPOT, "BTCUSDT", "BTC", "USDT") | {"priceFilter": {"tickSize": "NaN"}}
    with pytest.raises(ProtocolError):
        SPOT.parse_instruments(instruments_body(SPOT, [row]))


def test_pages_follow_the_cursor_as_it_came() -> None:
    first = LINEAR.instruments_request(LINEAR.endpoints)
    assert first.url == "https://api.bybit.com/v5/market/instruments-info?category=linear&limit=1000"
    body = instruments_body(LINEAR, cursor="first%3DBTCUSDT%26last%3DETHUSDT")
    second = next_instruments_request(LINEAR, first, body, LINEAR.endpoints)
    assert second is not None
    assert second.url == f"{first.url}&cursor=first%3DBTCUSDT%26last%3DETHUSDT"
    assert next_instruments_request(LINEAR, second, instruments_body(LINEAR), LINEAR.endpoints) is None
    with pytest.raises(ProtocolError, match="itself"):
        next_instruments_request(LINEAR, second, body, LINEAR.endpoints)
    odd = next_instruments_request(LINEAR, first, instruments_body(LINEAR, cursor="a=b&c"), LINEAR.endpoints)
    assert odd is not None
    assert odd.url.endswith("&cursor=a%3Db%26c")
    spot = SPOT.instruments_request(SPOT.endpoints)
    assert spot.url.endswith("?category=spot")
    assert next_instruments_request(SPOT, spot, instruments_body(SPOT), SPOT.endpoints) is None


def test_comments_point_to_headings_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "exchanges" / "bybit.md").read_text()
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page, re.M)}
    package = root / "packages" / "cmd-bybit" / "src" / "cmd_bybit"
    links = {a for f in package.glob("*.py") for a in re.findall(r"bybit\.md#([\w-]+)", f.read_text())}
    assert len(links) >= 4
    assert links <= headings


def test_recordings_of_the_two_markets_are_told_apart_by_the_path_of_their_url(tmp_path: Path) -> None:
    from cmd_replay.command import assign

    files = {}
    for exchange in (LINEAR, SPOT):
        path = tmp_path / f"{exchange.market.category}.ndjson"
        rest = {"recv_ns": 1, "src": "rest", "url": "https://api.bybit.com/v5/market/time", "msg": {}}
        opened = {"recv_ns": 2, "src": "ws_open", "url": f"wss://stream.bybit.com/v5/public/{exchange.market.category}"}
        path.write_text(f"{dumps(rest)}\n{dumps(opened | {'msg': None})}\n")
        files[exchange.venue] = [str(path)]
    assert assign([f for names in files.values() for f in names], {e.venue: e for e in (SPOT, LINEAR)}) == files
