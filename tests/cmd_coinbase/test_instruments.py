"""Reference data of both APIs."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import coinbase_wire as w
import pytest
from coinbase_wire import BTC, USDC
from hypothesis import given
from hypothesis import strategies as st

from cmd_coinbase.instruments import ADVANCED, EXCHANGE, parse_products
from cmd_common.errors import ProtocolError


def one(market: Any, row: dict[str, Any]) -> Any:
    value: Any = [row] if market is EXCHANGE else {"products": [row]}
    (instrument,) = parse_products(market, json.dumps(value).encode())
    return instrument


def test_names_come_from_the_currencies_never_from_the_id() -> None:
    odd = one(EXCHANGE, w.product(BTC, base_currency="XBT", quote_currency="US-DOLLAR"))
    assert (odd.symbol, odd.base, odd.quote, odd.kind) == (BTC, "XBT", "US-DOLLAR", "spot")
    odd = one(ADVANCED, w.advanced_product(USDC, base_currency_id="XBT"))
    assert (odd.symbol, odd.base, odd.quote, odd.unified) == (USDC, "XBT", "USDC", "XBT-USDC")


def test_sizes_are_exact_and_without_trailing_zeros() -> None:
    i = one(EXCHANGE, w.product(BTC, min_market_funds="10.00"))
    assert [format(x, "f") for x in (i.tick_size, i.lot_size, i.min_notional, i.min_quantity)] == [
        "0.01", "0.00000001", "10", "0",
    ]  # fmt: skip
    i = one(ADVANCED, w.advanced_product(BTC))
    assert (i.tick_size, i.min_quantity, i.contract_size) == (Decimal("0.01"), Decimal("0.00000001"), None)
    old = w.advanced_product(BTC)
    del old["price_increment"]
    assert one(ADVANCED, {**old, "quote_increment": "0.05"}).tick_size == Decimal("0.05")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "trading"),
        ({"status": "delisted"}, "delisted"),
        ({"status": "offline"}, "halted"),
        ({"status": "internal"}, "pre_trading"),
        ({"status": "resting"}, "unknown"),
        ({"trading_disabled": True}, "halted"),
        ({"cancel_only": True}, "halted"),
        ({"status": "delisted", "trading_disabled": True}, "delisted"),
    ],
)
def test_status(changes: dict[str, Any], status: str) -> None:
    for i in (one(EXCHANGE, w.product(BTC, **changes)), one(ADVANCED, w.advanced_product(BTC, **changes))):
        assert (i.status, i.raw_status) == (status, changes.get("status", "online"))


def test_only_spot_products_of_advanced_trade_are_taken() -> None:
    rows = [w.advanced_product(BTC), w.advanced_product("BIT-PERP", product_type="FUTURE")]
    body = json.dumps({"products": rows}).encode()
    assert [i.symbol for i in parse_products(ADVANCED, body)] == [BTC]


@pytest.mark.parametrize(
    "changes",
    [{"quote_increment": "-1"}, {"base_increment": "NaN"}, {"base_increment": "x"}, {"quote_increment": None}],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        one(EXCHANGE, w.product(BTC, **changes))
    with pytest.raises(ProtocolError):
        one(ADVANCED, w.advanced_product(BTC, **changes, price_increment=""))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_list_or_a_protocol_error(body: bytes) -> None:
    for market in (EXCHANGE, ADVANCED):
        with pytest.raises(ProtocolError):
            parse_products(market, body)
