from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cmd_common.equivalence import Equivalents, Target, match_instruments, matches, quote_pairs
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.instruments import Instrument


def spot(venue: str, base: str, quote: str, **more: Any) -> Instrument:
    return Instrument(venue, f"{base}{quote}", base, quote, more.pop("kind", "spot"), Decimal(1), Decimal(1), **more)


def perp(venue: str, base: str, quote: str, **more: Any) -> Instrument:
    return spot(venue, base, quote, kind="perpetual", **more)


DOLLARS = Equivalents(["USD=USDT=USDC"])
NONE = Equivalents()


class TestEquivalents:
    def test_groups(self) -> None:
        found = Equivalents(["usd = USDT", "BTC=WBTC", "USDC=USDT"])
        assert found.same("USD", "usdc")
        assert found.same("WBTC", "BTC")
        assert not found.same("USD", "BTC")
        assert found.of("ETH") == "ETH"
        assert sorted(map(sorted, found.groups.values())) == [["BTC", "WBTC"], ["USD", "USDC", "USDT"]]

    @pytest.mark.parametrize("text", ["", "USD", "USD=", "=USD", "USD==USDT"])
    def test_what_is_no_group(self, text: str) -> None:
        with pytest.raises(UsageError, match="USD=USDT=USDC"):
            Equivalents([text])


class TestTarget:
    @pytest.mark.parametrize("text", ["BTC-USDT", "btc/usdt", "BTC-USDT-PERP", "BTC-USD-20270326"])
    def test_names(self, text: str) -> None:
        assert Target.parse(text).name == text.upper().replace("/", "-")

    @pytest.mark.parametrize("text", ["", "BTCUSDT", "BTC-", "-USDT", "BTC-USDT-"])
    def test_what_is_no_name(self, text: str) -> None:
        with pytest.raises(UsageError, match="BTC-USDT"):
            Target.parse(text)


class TestMatching:
    @pytest.mark.parametrize(
        ("target", "instrument", "equivalents", "expected"),
        [
            ("BTC-USDT", spot("a", "BTC", "USDT"), NONE, True),
            ("BTC-USDT", spot("a", "BTC", "USD"), NONE, False),
            ("BTC-USDT", spot("a", "BTC", "USD"), DOLLARS, True),
            ("BTC-USDT", spot("a", "ETH", "USDT"), DOLLARS, False),
            ("BTC-USDT", perp("a", "BTC", "USDT"), DOLLARS, False),
            ("BTC-USD-PERP", perp("a", "BTC", "USDT"), DOLLARS, True),
            ("BTC-USD-PERP", spot("a", "BTC", "USDT"), DOLLARS, False),
            ("BTC-USD-20270326", spot("a", "BTC", "USD", kind="future", expiry=1_806_019_200_000_000_000), NONE, True),
            ("BTC-USD-20270327", spot("a", "BTC", "USD", kind="future", expiry=1_806_019_200_000_000_000), NONE, False),
        ],
    )
    def test_base_quote_and_kind(
        self, target: str, instrument: Instrument, equivalents: Equivalents, expected: bool
    ) -> None:
        assert (matches(Target.parse(target), instrument, equivalents) is not None) == expected

    def test_a_bare_pair_is_the_perpetual_where_there_is_no_spot(self) -> None:
        target = Target.parse("BTC-USDT")
        listed = {"s": [spot("s", "BTC", "USDT"), perp("s", "BTC", "USDT")], "p": [perp("p", "BTC", "USDT")]}
        assert [m.instrument.name for m in match_instruments(target, listed, NONE)] == ["s:BTCUSDT", "p:BTCUSDT"]

    def test_what_may_be_converted_says_from_what(self) -> None:
        listed = {"a": [spot("a", "BTC", "USD"), spot("a", "BTC", "EUR"), spot("a", "BTC", "GBP")]}
        found = match_instruments(Target.parse("BTC-USDT"), listed, DOLLARS, ["EUR"])
        assert [(m.instrument.symbol, m.convert_from) for m in found] == [("BTCUSD", ""), ("BTCEUR", "EUR")]

    def test_what_does_not_trade_is_left_out(self) -> None:
        listed = {"a": [spot("a", "BTC", "USDT", status="halted")], "b": [spot("b", "BTC", "USDT", status="unknown")]}
        assert [m.instrument.venue for m in match_instruments(Target.parse("BTC-USDT"), listed, NONE)] == ["b"]

    def test_nothing_matches(self) -> None:
        with pytest.raises(UnknownNameError, match="BTC-USDT"):
            match_instruments(Target.parse("BTC-USDX"), {"a": [spot("a", "BTC", "USDT")]}, NONE)

    def test_pairs_that_convert(self) -> None:
        listed = [spot("a", "EUR", "USD"), spot("a", "USDC", "EUR"), spot("a", "EUR", "GBP"), perp("a", "EUR", "USD")]
        found = quote_pairs("EUR", "USDT", listed, DOLLARS)
        assert [(i.symbol, inverted) for i, inverted in found] == [("EURUSD", False), ("USDCEUR", True)]
