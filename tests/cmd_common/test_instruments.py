"""Instruments and reference data."""

from __future__ import annotations

import itertools
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cmd_common.errors import DataError, StoreError, UnknownNameError, UsageError
from cmd_common.instruments import Instrument, ReferenceData, Rounding
from cmd_common.seams import OsDisk

SPOT = Instrument(
    "spot", "BTCUSDT", "BTC", "USDT", "spot", Decimal("0.01"), Decimal("0.00001"), min_notional=Decimal("5")
)
LINEAR = Instrument(
    "linear", "BTC-SWAP", "BTC", "USDT", "perpetual", Decimal("0.1"), Decimal(1), contract_size=Decimal("0.01")
)
INVERSE = Instrument(
    "coinm",
    "BTCUSD_PERP",
    "BTC",
    "USD",
    "perpetual",
    Decimal("0.1"),
    Decimal(1),
    settle="BTC",
    contract_size=Decimal(100),
    inverse=True,
)
FUTURE = replace(INVERSE, symbol="BTCUSD_270326", kind="future", expiry=1_806_048_000_000_000_000)


def test_names() -> None:
    assert SPOT.name == "spot:BTCUSDT"
    assert [i.unified for i in (SPOT, LINEAR, INVERSE, FUTURE)] == [
        "BTC-USDT",
        "BTC-USDT-PERP",
        "BTC-USD-PERP",
        "BTC-USD-20270326",
    ]
    assert replace(FUTURE, expiry=None).unified == "BTC-USD-BTCUSD_270326"


def test_quantities_in_base_and_quote() -> None:
    assert SPOT.base_quantity(50_000.0, 0.5) == 0.5
    assert SPOT.notional(50_000.0, 0.5) == 25_000.0
    assert LINEAR.base_quantity(50_000.0, 3) == pytest.approx(0.03)
    assert LINEAR.notional(50_000.0, 3) == pytest.approx(1_500.0)
    assert INVERSE.base_quantity(50_000.0, 10) == pytest.approx(0.02)
    assert INVERSE.notional(50_000.0, 10) == 1_000.0
    with pytest.raises(ValueError, match="not positive"):
        INVERSE.base_quantity(0.0, 1)


@pytest.mark.parametrize(
    ("price", "rounding", "expected"),
    [
        (100.005, "nearest", "100.00"),
        (100.015, "nearest", "100.02"),
        (100.019, "down", "100.01"),
        (100.011, "up", "100.02"),
        (100.01, "up", "100.01"),
        (Decimal("100.01"), "down", "100.01"),
    ],
)
def test_prices_are_rounded_to_the_tick_exactly(price: float | Decimal, rounding: Rounding, expected: str) -> None:
    assert SPOT.round_price(price, rounding) == Decimal(expected)


def test_the_grid_is_exact_where_floats_are_not() -> None:
    assert SPOT.on_tick(0.07)  # 0.07 % 0.01 is not 0 in floats
    assert not SPOT.on_tick(0.075)
    assert SPOT.on_lot(0.00003)
    assert not SPOT.on_lot(0.000035)
    unknown = replace(SPOT, tick_size=Decimal(0))
    assert unknown.on_tick(1.23456)
    assert unknown.round_price(1.23456) == Decimal("1.23456")


@given(st.decimals("0.00000001", "1000000", places=8), st.sampled_from(["0.01", "0.05", "0.00000001", "2.5", "100"]))
def test_a_rounded_price_is_on_the_grid_and_near(price: Decimal, tick: str) -> None:
    instrument = replace(SPOT, tick_size=Decimal(tick))
    down, up = instrument.round_price(price, "down"), instrument.round_price(price, "up")
    assert instrument.on_tick(down)
    assert instrument.on_tick(up)
    assert down <= price <= up
    assert up - down in (0, Decimal(tick))
    assert instrument.round_price(price) in (down, up)


@pytest.mark.parametrize("instrument", [SPOT, LINEAR, INVERSE, FUTURE, replace(SPOT, tick_size=Decimal("1E-8"))])
def test_records_keep_everything_but_the_raw_status(instrument: Instrument) -> None:
    record = replace(instrument, raw_status="TRADING").to_record(1, 2)
    assert (record.ts_event, record.ts_recv) == (1, 2)
    assert "E" not in record.tick_size
    assert Instrument.from_record(record) == instrument


def test_a_malformed_record_is_a_data_error() -> None:
    with pytest.raises(DataError, match="spot:BTCUSDT is malformed"):
        Instrument.from_record(replace(SPOT.to_record(1, 1), tick_size="x"))
    with pytest.raises(DataError, match="malformed"):
        Instrument.from_record(replace(SPOT.to_record(1, 1), kind="swap"))


def test_ids_are_stable_and_lookups_agree() -> None:
    data = ReferenceData([SPOT, LINEAR])
    assert [data.id("spot:BTCUSDT"), data.id("linear:BTC-SWAP")] == [0, 1]
    assert data.add(replace(SPOT, tick_size=Decimal("0.1"))) == 0
    assert data.add(INVERSE) == 2
    assert data["spot:BTCUSDT"].tick_size == Decimal("0.1")
    assert data[2] is data.by_id(2) is data["BTCUSD_PERP"] is INVERSE
    assert data.get("spot", "BTCUSDT") is data[0]
    assert data.get("spot", "X") is None
    assert ("spot:BTCUSDT" in data, 2 in data, "x" in data) == (True, True, False)
    assert (len(data), data.venues, data.of("coinm")) == (3, ["spot", "linear", "coinm"], [INVERSE])
    data.check()


def test_unified_names_over_venues() -> None:
    other = replace(SPOT, venue="b", symbol="BTC-USDT")
    data = ReferenceData([SPOT, other, LINEAR])
    assert data.by_unified("btc-usdt") == [SPOT, other]
    assert data.by_unified("BTC-USDT", venues=["b", "spot", "c"]) == [other, SPOT]
    assert data.by_unified("BTC-USDT", venues=["linear"]) == []


def test_names_that_do_not_resolve() -> None:
    data = ReferenceData([SPOT, replace(SPOT, venue="b")])
    with pytest.raises(UsageError, match="on several venues; say which: spot:BTCUSDT, b:BTCUSDT"):
        data.id("BTCUSDT")
    with pytest.raises(UnknownNameError, match="did you mean spot:BTCUSDT"):
        data.id("spot:BTCUSD")
    with pytest.raises(UnknownNameError, match="instrument id"):
        data.by_id(7)


def test_updates_report_what_changed() -> None:
    data = ReferenceData([SPOT, FUTURE, INVERSE])
    new = replace(SPOT, symbol="ETHUSDT", base="ETH")
    finer = replace(INVERSE, tick_size=Decimal("0.01"))
    changes = data.update([finer, new, SPOT], complete="coinm")
    assert [(c.kind, c.name) for c in changes] == [
        ("changed", "coinm:BTCUSD_PERP"),
        ("added", "spot:ETHUSDT"),
        ("removed", "coinm:BTCUSD_270326"),
    ]
    assert changes[0].before == {"tick_size": Decimal("0.1")}
    assert changes[0].after == {"tick_size": Decimal("0.01")}
    assert data["coinm:BTCUSD_270326"].status == "delisted"
    assert data.update([finer, SPOT], complete="coinm") == []  # said once
    data.check()


def test_saved_and_loaded_with_the_same_ids(tmp_path: Path) -> None:
    path = str(tmp_path / "instruments.json")
    data = ReferenceData([SPOT, LINEAR, FUTURE])
    data.save(path)
    loaded = ReferenceData.load(path)
    assert list(loaded) == list(data)
    assert [loaded.id(i.name) for i in data] == [0, 1, 2]
    assert loaded.add(INVERSE) == 3
    loaded.check()
    shared = itertools.count(10)
    assert ReferenceData.load(path, allocator=shared).id(SPOT.name) == 10
    assert list(tmp_path.iterdir()) == [Path(path)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("{}", "damaged"),
        ('{"version": 99, "instruments": "?"}', "version 99"),
        ('{"version": 1, "instruments": [{"id": 0}]}', "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instruments.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=message):
        ReferenceData.load(str(path))


def test_an_id_given_twice_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "instruments.json"
    ReferenceData([SPOT, LINEAR]).save(str(path))
    path.write_text(path.read_text().replace('"id": 1', '"id": 0'))
    with pytest.raises(StoreError, match="twice"):
        ReferenceData.load(str(path))


def test_every_truncation_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "instruments.json"
    ReferenceData([SPOT]).save(str(path))
    whole = path.read_bytes().rstrip()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError):
            ReferenceData.load(str(path))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    class FullDisk(OsDisk):
        def sync(self, path: str) -> None:
            raise OSError(28, "No space left on device")

    path = str(tmp_path / "instruments.json")
    ReferenceData([SPOT]).save(path)
    with pytest.raises(StoreError, match="No space left"):
        ReferenceData([LINEAR]).save(path, disk=FullDisk())
    assert list(ReferenceData.load(path)) == [SPOT]


def test_a_missing_file_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read reference data"):
        ReferenceData.load(str(tmp_path / "nothing"))


def test_a_repeating_allocator_is_refused() -> None:
    data = ReferenceData(allocator=iter([5, 5]))
    data.add(SPOT)
    with pytest.raises(ValueError, match="twice"):
        data.add(LINEAR)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["X", "Y", "Z"]), st.sampled_from(["0.1", "1"])))
)
def test_any_sequence_of_updates_keeps_the_invariants(steps: list[tuple[str, str, str]]) -> None:
    data = ReferenceData()
    ids: dict[str, int] = {}
    for venue, symbol, tick in steps:
        instrument = replace(SPOT, venue=venue, symbol=symbol, base=symbol, tick_size=Decimal(tick))
        data.update([instrument], complete=venue)
        assert ids.setdefault(instrument.name, data.id(instrument.name)) == data.id(instrument.name)
        data.check()
