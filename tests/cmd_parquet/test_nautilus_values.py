"""Values of a nautilus catalog: exact integers of 1e-16, and the precision that they need."""

from __future__ import annotations

from decimal import Context, Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import DataError
from cmd_parquet.nautilus_values import PRECISION, decimals, needed, raw

WIDE = Context(prec=400)


def floats(*values: float) -> pa.Array:
    return pa.array(values, pa.float64())


def numbers(array: pa.Array) -> list[int]:
    return [int.from_bytes(value, "little", signed=True) for value in array.to_pylist()]


@pytest.mark.parametrize(("text", "digits"), [("0.0100", 2), ("1", 0), ("1e-7", 7), ("5E1", 0), ("0.5", 1), ("0", 0)])
def test_digits_of_a_tick_size(text: str, digits: int) -> None:
    assert decimals(text) == digits


@given(st.lists(st.tuples(st.integers(0, 10**14), st.integers(0, 12)), min_size=1))
def test_a_decimal_comes_out_as_it_is(parts: list[tuple[int, int]]) -> None:
    exact = [Decimal(number).scaleb(-digits) for number, digits in parts]
    exact = [value for value in exact if value < 17_000_000_000_000] or [Decimal(0)]
    values = floats(*(float(value) for value in exact))
    precision = needed(values)
    assert precision == max(decimals(str(value)) for value in exact)
    assert numbers(raw(values, precision)) == [int(value.scaleb(PRECISION)) for value in exact]


@given(st.lists(st.floats(0, 1e13, allow_subnormal=False), min_size=1), st.integers(0, 5))
def test_any_number_is_kept_as_far_as_sixteen_digits_go(values: list[float], least: int) -> None:
    precision = needed(floats(*values), least)
    assert least <= precision <= PRECISION
    for value, number in zip(values, numbers(raw(floats(*values), precision)), strict=True):
        assert number % 10 ** (PRECISION - precision) == 0
        assert abs(Decimal(number) - Decimal(repr(value)).scaleb(PRECISION, WIDE)) <= 10 ** (PRECISION - precision)


def test_digits_that_are_more_than_float64_can_tell_at_once_are_kept_as_text() -> None:
    values = floats(9_999_999_999_999.123, 0.001)
    assert needed(values) == 3
    assert numbers(raw(values, 8)) == [99999999999991230000000000000, 10**13]
    assert numbers(raw(floats(), 3)) == []


@pytest.mark.parametrize("value", [-1.0, 2e13, float("nan"), float("inf")])
def test_what_nautilus_has_no_number_for_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="no price or quantity of nautilus_trader"):
        raw(floats(1.0, value), 2)
