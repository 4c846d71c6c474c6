"""Gemini's reference data, made up and recorded."""

from __future__ import annotations

import gzip
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import ProtocolError
from cmd_gemini.instruments import INTERVALS, REST_INTERVALS, interval_ns, parse_details

ROOT = os.environ.get("CMD_RECORDINGS", "")
FOLDER = Path(ROOT) / "gemini"

ONE = (
    '{"symbol":"BTCUSD","base_currency":"BTC","quote_currency":"USD","tick_size":%s,"quote_increment":%s,'
    '"min_order_size":"0.00001","status":"%s"}'
)


@pytest.mark.parametrize(
    ("lot", "tick", "exact"),
    [
        ("1E-8", "0.01", ("0.00000001", "0.01")),
        ("1e-06", "1E+1", ("0.000001", "10")),
        ("0.10", "5", ("0.1", "5")),
        ('"1E-8"', '"0.05"', ("0.00000001", "0.05")),
    ],
)
def test_steps_are_exact_and_the_right_way_round(lot: str, tick: str, exact: tuple[str, str]) -> None:
    (instrument,) = parse_details((ONE % (lot, tick, "open")).encode())
    assert (format(instrument.lot_size, "f"), format(instrument.tick_size, "f")) == exact
    assert instrument.min_quantity == Decimal("0.00001")


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("open", "trading"),
        ("limit_only", "trading"),
        ("cancel_only", "halted"),
        ("closed", "halted"),
        ("new", "unknown"),
    ],
)
def test_a_status_keeps_its_word(word: str, status: str) -> None:
    (instrument,) = parse_details((ONE % ("1E-8", "0.01", word)).encode())
    assert (instrument.status, instrument.raw_status) == (status, word)


@pytest.mark.parametrize(
    "size", ["-1", "1E999999999", "1E-999999999", "1E30", "NaN", '"Infinity"', '"x"', "null", "[]"]
)
def test_impossible_sizes_are_one_clear_error(size: str) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_details((ONE % (size, "0.01", "open")).encode())
    assert "\n" not in str(error.value)


@given(st.integers(0, 23), st.integers(1, 10**9))
def test_any_decimal_stays_exact(places: int, digits: int) -> None:
    value = Decimal(digits).scaleb(-places)
    for text in (format(value, "f"), str(value), f"{digits}E-{places}"):
        (instrument,) = parse_details((ONE % (text, "0.01", "open")).encode())
        assert instrument.lot_size == value


def test_intervals() -> None:
    assert [interval_ns(i) // 60_000_000_000 for i in INTERVALS] == [1, 5, 15, 30, 60, 360, 1440]
    assert set(REST_INTERVALS) == set(INTERVALS)


@pytest.mark.skipif(not ROOT, reason="CMD_RECORDINGS is not set")
def test_recorded_details_of_all_symbols() -> None:
    found = {}
    for line in (FOLDER / "cryptofeed_symbols_details_20210624.ndjson").read_text().splitlines():
        head = json.loads(line)
        if "/details/" in head["url"]:
            text = line[line.index('"msg":') + 6 : line.rindex("}")]
            (instrument,) = parse_details(text.encode())
            found[instrument.symbol] = instrument
    assert len(found) == 71
    assert (found["BTCUSD"].tick_size, found["BTCUSD"].lot_size) == (Decimal("0.01"), Decimal("1E-8"))
    assert found["1INCHUSD"].base == "1INCH"
    assert {i.status for i in found.values()} == {"trading", "halted"}
    with gzip.open(FOLDER / "rest_gocryptotrader_mock.ndjson.gz", "rt") as lines:
        bodies = [line for line in lines if "details/all" in line]
    for line in bodies:
        text = line[line.index('"msg":') + 6 : line.rindex("}")]
        every = {i.symbol: i for i in parse_details(text.encode())}
        assert len(every) == 111
        assert every["BTCGUSDPERP"].unified == "BTC-GUSD-PERP"
        assert {i.unified for i in every.values() if i.kind == "perpetual"} == {
            "BTC-GUSD-PERP",
            "ETH-GUSD-PERP",
            "PEPE-GUSD-PERP",
        }
    assert bodies
