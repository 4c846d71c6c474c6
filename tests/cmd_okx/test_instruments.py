"""Reference data: all kinds, exact sizes, words that are not known, damage."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import okx_wire as w
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import ProtocolError
from cmd_common.recording import read
from cmd_okx.instruments import parse_instruments


def test_spot_swap_and_future() -> None:
    spot, swap, future = parse_instruments(w.INSTRUMENTS)
    assert (spot.base, spot.quote, spot.settle, spot.contract_size, spot.kind) == ("BTC", "USDT", "", None, "spot")
    assert (spot.tick_size, spot.lot_size, spot.min_quantity) == tuple(map(Decimal, ("0.1", "0.00000001", "0.00001")))
    assert (swap.base, swap.quote, swap.settle, swap.contract_size) == ("BTC", "USD", "BTC", Decimal(100))
    assert swap.inverse
    assert swap.kind == "perpetual"
    assert swap.base_quantity(50_000, 10) == pytest.approx(0.02)
    assert (future.base, future.quote, future.settle, future.contract_size) == ("ETH", "USDT", "", Decimal("0.1"))
    assert future.expiry == 1_798_185_600_000_000_000
    assert future.notional(2000, 10) == pytest.approx(2000)


def test_multipliers_options_and_other_settlement() -> None:
    option = w.instrument(
        "OPTION", "BTC-USD-260925-50000-C", uly="BTC-USD", settleCcy="BTC", ctVal="1", ctMult="0.1", ctValCcy="BTC",
        expTime="1790323200000", optType="C", stk="50000", tickSz="0.0005", lotSz="1", minSz="1",
    )  # fmt: skip
    other = w.instrument(
        "SWAP", "BTC-USD_UM-SWAP", uly="BTC-USD", settleCcy="USDC", ctVal="0.01", ctMult="1", ctValCcy="BTC", ctType="linear",
    )  # fmt: skip
    first, second = parse_instruments(w.body(option, other))
    assert (first.kind, first.base, first.quote, first.settle) == ("option", "BTC", "USD", "BTC")
    assert first.contract_size == Decimal("0.1")
    assert (second.base, second.quote, second.settle) == ("BTC", "USD", "USDC")


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("live", "trading"),
        ("suspend", "halted"),
        ("preopen", "pre_trading"),
        ("expired", "delisted"),
        ("new word", "unknown"),
    ],
)
def test_status_keeps_the_word(word: str, status: str) -> None:
    (found,) = parse_instruments(w.body({**w.SPOT_ROW, "state": word}))
    assert (found.status, found.raw_status) == (status, word)


def test_sizes_that_are_not_set_yet_are_unknown_and_other_types_left_out() -> None:
    rows = [{**w.SPOT_ROW, "tickSz": ""}, {**w.SPOT_ROW, "instType": "MARGIN"}, {**w.SPOT_ROW, "instType": "EVENTS"}]
    unnamed = {**w.FUTURE_ROW, "ctValCcy": "", "uly": "", "state": "preopen"}
    (found,) = parse_instruments(w.body(*rows, unnamed))
    assert found.tick_size == 0


@pytest.mark.parametrize(
    "row",
    [
        {**w.SPOT_ROW, "tickSz": "x"},
        {**w.SPOT_ROW, "tickSz": "-1"},
        {**w.SPOT_ROW, "lotSz": "NaN"},
        {**w.FUTURE_ROW, "expTime": "soon"},
        {**w.FUTURE_ROW, "ctValCcy": ""},
        {**w.SPOT_ROW, "instId": 7},
        {"instType": "SPOT"},
    ],
)
def test_rows_that_cannot_be_are_protocol_errors(row: object) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_instruments(w.body(row))
    assert "\n" not in str(error.value)


def test_an_error_body_says_what_the_exchange_said() -> None:
    with pytest.raises(ProtocolError, match="50011: Too Many Requests"):
        parse_instruments(w.body(code="50011", msg="Too Many Requests"))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_list_or_a_protocol_error(body: bytes) -> None:
    words = ""
    try:
        assert isinstance(parse_instruments(body), list)
    except ProtocolError as error:
        words = str(error)
    assert "\n" not in words


def test_recorded_reference_data(recordings: Path) -> None:
    kinds: Counter[tuple[str, bool]] = Counter()
    names = set()
    for line in read(recordings / "okx" / "cryptofeed_instruments_20220513.ndjson.gz"):
        rows = json.loads(line.text)["data"]
        for instrument, row in zip(parse_instruments(line.text.encode()), rows, strict=True):
            kinds[instrument.kind, instrument.inverse] += 1
            names.add(instrument.name)
            assert instrument.status == "trading"
            assert instrument.tick_size > 0
            assert instrument.lot_size > 0
            if instrument.kind == "spot":
                assert instrument.contract_size is None
            else:
                assert f"{instrument.base}-{instrument.quote}" == row["uly"]
                assert instrument.contract_size == Decimal(row["ctVal"]) * Decimal(row["ctMult"])
                assert (instrument.expiry is None) == (instrument.kind == "perpetual")
    assert kinds[("spot", False)] % 513 == 0
    assert {k for k, _ in kinds} == {"spot", "perpetual", "future", "option"}
    assert {("perpetual", True), ("future", True), ("perpetual", False), ("future", False)} <= set(kinds)
    assert len(names) >= 513 + 166 + 104 + 350
