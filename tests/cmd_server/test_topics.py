from __future__ import annotations

import pytest

from cmd_common.errors import UnknownNameError, UsageError
from cmd_server.messages import Kind, view_code
from cmd_server.topics import BBO, Topic


@pytest.mark.parametrize(
    ("text", "kind", "view", "yes", "no"),
    [
        (
            "trades binance-spot:BTCUSDT",
            Kind.TRADES,
            0,
            ["binance-spot:BTCUSDT"],
            ["binance-spot:BTCUSDC", "x:BTCUSDT"],
        ),
        ("TRADES Binance-Spot:btcusdt", Kind.TRADES, 0, ["binance-spot:BTCUSDT"], ["binance-usdm:BTCUSDT"]),
        ("book@20 *:BTC*", Kind.BOOK, 20, ["a:BTCUSDT", "b:BTC-USD"], ["a:ETHBTC"]),
        ("book *", Kind.BOOK, 0, ["a:X", "b:Y-Z/1"], []),
        ("bbo coinbase:BTC-USD", Kind.QUOTES, BBO, ["coinbase:BTC-USD"], ["coinbase:BTC-USDT"]),
        ("quotes kraken:*", Kind.QUOTES, 0, ["kraken:XBT/USD"], ["okx:XBT/USD"]),
        ("quotes BTCUSDT", Kind.QUOTES, 0, ["a:BTCUSDT", "b:BTCUSDT"], ["a:BTCUSD"]),
        ("candles@5m kraken:[XE]*", Kind.CANDLES, view_code(Kind.CANDLES, "5m"), ["kraken:XBT"], ["kraken:BTC"]),
        ("candles@1M:built *", Kind.CANDLES, view_code(Kind.CANDLES, "1M:built"), ["a:B"], []),
        ("aggregate@20 BTC-USDT", Kind.AGGREGATE, 20, ["aggregate:BTC-USDT"], ["aggregate:BTC-USD"]),
        ("aggregate btc/usdt", Kind.AGGREGATE, 0, ["aggregate:BTC-USDT"], []),
        ("status ?:A", Kind.STATUS, 0, ["v:A"], ["vv:A"]),
        ("gaps *", Kind.GAPS, 0, ["v:A"], []),
        ("agg_trades v:*", Kind.AGG_TRADES, 0, ["v:A"], []),
        ("instruments v:*", Kind.NONE, 0, ["v:A"], []),
        ("trades v:a.c", Kind.TRADES, 0, ["v:A.C"], ["v:ABC"]),
    ],
)
def test_topics_mean_what_they_say(text: str, kind: Kind, view: int, yes: list[str], no: list[str]) -> None:
    topic = Topic(text)
    assert (topic.kind, topic.view) == (kind, view)
    for name in yes:
        assert topic.matches(*name.split(":", 1)), name
    for name in no:
        assert not topic.matches(*name.split(":", 1)), name


@pytest.mark.parametrize(
    "text",
    [
        "", "trades", "trades ", " :A", "trades a b", "book@0 *", "book@x *", "book@ *", "book@99999 *", "bbo@2 *",
        "trades@5 *", "candles *", "candles@5x *", "candles@0m *", "candles@4095M *", "aggregate v:BTC-USDT",
        "instruments@1 *", "trades v:", "trades :A", "trades \x00:A", "trades " + "a" * 300, "trades " + "a*" * 20,
        "trades v\n:A\x1b",
    ],
)  # fmt: skip
def test_what_is_no_topic_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Topic(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_misspelt_kind_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean trades"):
        Topic("trade *")


def test_a_hostile_pattern_comes_to_an_end() -> None:
    topic = Topic("trades " + "*a" * 16)  # with a matcher that tries every split this takes for ever
    assert not topic.matches("v", "a" * 2000 + "b")
    assert topic.matches("v", "b" + "a" * 2000)
