from __future__ import annotations

from typing import Any

import pytest

from cmd_common.commands import SymbolsOptions
from cmd_common.errors import BlockedError, ProtocolError, UnknownNameError, UsageError
from cmd_feed.symbols import symbols


def options(server: Any, *selectors: str) -> SymbolsOptions:
    return SymbolsOptions(("binance-spot",), selectors or ("all",), {"": server.http})


async def test_instruments_as_plain_values(spot: Any, words: Any) -> None:
    spot.symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    result = await symbols(options(spot, "*USDT"), words)
    assert result.exit_code == 0
    found = result.summary["instruments"]
    assert [i["symbol"] for i in found] == spot.symbols
    assert found[0]["venue"] == "binance-spot"
    assert found[0]["unified"] == "BTC-USDT"
    assert found[0]["tick_size"] == "0.01"
    assert found[0]["kind"] == "spot"
    assert found[0]["contract_size"] is None


async def test_one_unified_name(spot: Any, words: Any) -> None:
    result = await symbols(options(spot, "ETH-USDT"), words)
    assert [i["symbol"] for i in result.summary["instruments"]] == ["ETHUSDT"]


async def test_wrong_names(spot: Any, words: Any) -> None:
    with pytest.raises(UnknownNameError, match="did you mean BTCUSDT"):
        await symbols(options(spot, "BTCUSTD"), words)
    with pytest.raises(UnknownNameError, match="binance-spot"):
        await symbols(SymbolsOptions(("binance-spt",)), words)
    with pytest.raises(UsageError, match="no exchange"):
        await symbols(SymbolsOptions(()), words)


async def test_a_rate_limit_is_waited_for(spot: Any, words: Any) -> None:
    answer = spot.rest
    spot.rest = lambda path, n: (429, {"Retry-After": "1"}, b"") if n == 1 else answer(path, n)
    result = await symbols(options(spot), words)
    assert len(result.summary["instruments"]) == 2
    assert "next attempt in 1.0 s" in words.warnings[0]


async def test_a_blocked_address_and_a_body_that_is_no_reference_data(spot: Any, words: Any) -> None:
    spot.rest = lambda path, n: (451, {}, b"")
    with pytest.raises(BlockedError):
        await symbols(options(spot), words)
    assert len(spot.requests) == 1  # it is not asked again
    spot.rest = lambda path, n: (200, {}, b"<html>hello</html>")
    with pytest.raises(ProtocolError):
        await symbols(options(spot), words)
