"""Reference data: the real exchangeInfo of three markets, and the forms of today."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from cmd_binance.instruments import COINM, SPOT, USDM, Market, parse_exchange_info, to_ns
from cmd_common.errors import ProtocolError
from cmd_common.instruments import Instrument
from cmd_common.recording import read

MARKETS = {"binance_spot": SPOT, "binance_usdm": USDM, "binance_coinm": COINM}


def recorded(recordings: Path, folder: str, pattern: str) -> dict[str, Instrument]:
    """The instruments of the exchangeInfo in the first file that matches."""
    (path,) = (recordings / folder).glob(pattern)
    (body,) = [line.text for line in read(str(path)) if line.url and line.url.endswith("exchangeInfo")]
    instruments = parse_exchange_info(MARKETS[folder], body.encode())
    assert len({i.symbol for i in instruments}) == len(instruments)
    return {i.symbol: i for i in instruments}


def test_spot_2021(recordings: Path) -> None:
    all_ = recorded(recordings, "binance_spot", "cryptofeed_exchangeInfo*")
    assert len(all_) == 1695
    assert all_["RAREUSDT"] == Instrument(
        venue="binance-spot",
        symbol="RAREUSDT",
        base="RARE",
        quote="USDT",
        kind="spot",
        tick_size=Decimal("0.001"),
        lot_size=Decimal("0.1"),
        min_quantity=Decimal("0.1"),
        min_notional=Decimal(10),
        status="trading",
        raw_status="TRADING",
    )
    assert str(all_["RAREUSDT"].min_notional) == "10"
    assert (all_["BCCBTC"].status, all_["BCCBTC"].raw_status) == ("halted", "BREAK")
    # A symbol cannot be split by rule: bases and quotes overlap.
    assert (all_["BTCUPUSDT"].base, all_["BTCUPUSDT"].quote) == ("BTCUP", "USDT")
    assert all(i.tick_size > 0 and i.lot_size > 0 for i in all_.values())


def test_usdm_2021(recordings: Path) -> None:
    all_ = recorded(recordings, "binance_usdm", "cryptofeed_exchangeInfo*")
    assert len(all_) == 122
    perpetual, dated, waiting = all_["BTCUSDT"], all_["BTCUSDT_210924"], all_["BTCSTUSDT"]
    assert (perpetual.kind, perpetual.unified, perpetual.expiry) == ("perpetual", "BTC-USDT-PERP", None)
    assert (perpetual.min_notional, perpetual.contract_size, perpetual.settle) == (Decimal(5), None, "")
    assert (dated.kind, dated.unified) == ("future", "BTC-USDT-20210924")
    assert dated.expiry == 1_632_470_400_000_000_000
    assert (waiting.status, waiting.raw_status, waiting.kind) == ("pre_trading", "PENDING_TRADING", "perpetual")


def test_coinm_2021_counts_in_contracts(recordings: Path) -> None:
    all_ = recorded(recordings, "binance_coinm", "cryptofeed_exchangeInfo*")
    assert len(all_) == 36
    assert all(i.inverse and i.contract_size in (10, 100) and i.settle == i.base for i in all_.values())
    assert all_["BTCUSD_PERP"].contract_size == 100
    assert all_["BTCUSD_PERP"].lot_size == 1
    assert all_["BTCUSD_210924"].unified == "BTC-USD-20210924"


@pytest.mark.parametrize("folder", list(MARKETS))
def test_later_forms(recordings: Path, folder: str) -> None:
    all_ = recorded(recordings, folder, "rest_gocryptotrader_mock*")
    assert all_
    assert all(i.tick_size > 0 and i.lot_size > 0 for i in all_.values())
    if folder == "binance_spot":
        assert all_["ETHBTC"].min_notional == Decimal("0.0001")  # filter NOTIONAL instead of MIN_NOTIONAL
    if folder == "binance_coinm":
        assert (all_["GALAUSD_PERP"].kind, all_["GALAUSD_PERP"].status) == ("perpetual", "halted")


def body(market: Market, **changes: object) -> bytes:
    symbol: dict[str, object] = {"symbol": "AUSDT", "baseAsset": "A", "quoteAsset": "USDT", "status": "TRADING"}
    filters = [
        {"filterType": "PRICE_FILTER", "tickSize": "0.10000000"},
        {"filterType": "LOT_SIZE", "stepSize": "1.00", "minQty": "10.00"},
    ]
    if market.futures:
        symbol |= {"contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000, "marginAsset": "USDT"}
    return json.dumps({"symbols": [symbol | {"filters": filters} | changes]}).encode()


def test_unknown_status_is_kept_in_its_own_words() -> None:
    (i,) = parse_exchange_info(SPOT, body(SPOT, status="SOMETHING_NEW"))
    assert (i.status, i.raw_status) == ("unknown", "SOMETHING_NEW")
    (i,) = parse_exchange_info(SPOT, body(SPOT, status="CANCEL_ONLY"))
    assert (i.status, i.raw_status) == ("halted", "CANCEL_ONLY")


def test_symbols_may_be_non_ascii() -> None:
    (i,) = parse_exchange_info(SPOT, body(SPOT, symbol="币安人生USDT", baseAsset="币安人生"))
    assert i.name == "binance-spot:币安人生USDT"


def test_perpetuals_of_traditional_assets() -> None:
    (i,) = parse_exchange_info(USDM, body(USDM, contractType="TRADIFI_PERPETUAL"))
    assert i.kind == "perpetual"


def test_a_delisted_perpetual_has_an_end_but_stays_one() -> None:
    (i,) = parse_exchange_info(USDM, body(USDM, status="SETTLING", deliveryDate=1_767_225_600_000))
    assert (i.kind, i.expiry, i.status) == ("perpetual", None, "halted")


def test_unknown_keys_and_filters_are_passed_over() -> None:
    filters = [{"filterType": "NEW_FILTER", "x": [1]}, {"filterType": "PRICE_FILTER", "tickSize": "0.5", "y": 1}]
    (i,) = parse_exchange_info(SPOT, body(SPOT, filters=filters, permissionSets=[["SPOT"]]))
    assert (i.tick_size, i.lot_size) == (Decimal("0.5"), Decimal(0))


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b'{"symbols":[{}]}', b'{"symbols":1}', b"<html>", b"[" * 10_000])
def test_other_forms_are_protocol_errors(bad: bytes) -> None:
    with pytest.raises(ProtocolError, match="exchangeInfo"):
        parse_exchange_info(SPOT, bad)


def test_units_follow_from_the_size() -> None:
    assert to_ns(1_723_161_255_208) == 1_723_161_255_208_000_000
    assert to_ns(1_767_225_600_000_001) == 1_767_225_600_000_001_000
    assert to_ns(9_199_999_999_999) == 9_199_999_999_999_000_000  # as either it fits 64 bits
    assert to_ns(9_200_000_000_000) == 9_200_000_000_000_000
