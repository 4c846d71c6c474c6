"""Selecting symbols."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.instruments import Instrument, InstrumentKind, InstrumentStatus
from cmd_common.symbols import expand_selectors, get_symbols, native_symbols, nearest


def make(
    venue: str, symbol: str, base: str, quote: str, kind: InstrumentKind = "spot", status: InstrumentStatus = "trading"
) -> Instrument:
    return Instrument(venue, symbol, base, quote, kind, Decimal("0.01"), Decimal("0.001"), status=status)


SPOT = [
    make("spot", "BTCUSDT", "BTC", "USDT"),
    make("spot", "ETHUSDT", "ETH", "USDT"),
    make("spot", "ETHBTC", "ETH", "BTC"),
    make("spot", "LUNAUSDT", "LUNA", "USDT", status="halted"),
    make("spot", "OLDUSDT", "OLD", "USDT", status="delisted"),
]
PERP = [
    make("perp", "BTCUSDT", "BTC", "USDT", "perpetual"),
    make("perp", "BTCUSD_PERP", "BTC", "USD", "perpetual"),
    make("perp", "1000PEPEUSDT", "1000PEPE", "USDT", "perpetual"),
]
DASH = [make("dash", "BTC-USD", "BTC", "USD"), make("dash", "ETH-USD", "ETH", "USD")]
ALL = {"spot": SPOT, "perp": PERP, "dash": DASH}


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ("ETHUSDT,BTCUSDT", {"spot": ["ETHUSDT", "BTCUSDT"], "perp": ["BTCUSDT"]}),
        (["ETHUSDT", "ETHBTC , ETHUSDT"], {"spot": ["ETHUSDT", "ETHBTC"]}),
        ("btcusdt", {"spot": ["BTCUSDT"], "perp": ["BTCUSDT"]}),
        ("*USDT", {"spot": ["BTCUSDT", "ETHUSDT"], "perp": ["BTCUSDT", "1000PEPEUSDT"]}),
        ("eth*", {"spot": ["ETHUSDT", "ETHBTC"], "dash": ["ETH-USD"]}),
        ("ETH???", {"spot": ["ETHBTC"]}),
        ("spot:ETH*", {"spot": ["ETHUSDT", "ETHBTC"]}),
        ("BTC-USDT", {"spot": ["BTCUSDT"], "perp": ["BTCUSDT"]}),
        ("BTC/USDT", {"spot": ["BTCUSDT"], "perp": ["BTCUSDT"]}),
        ("btc-usd", {"perp": ["BTCUSD_PERP"], "dash": ["BTC-USD"]}),
        ("BTC-USDT-PERP", {"perp": ["BTCUSDT"]}),
        ("*-PERP", {"perp": ["BTCUSDT", "BTCUSD_PERP", "1000PEPEUSDT"]}),
        ("LUNAUSDT", {"spot": ["LUNAUSDT"]}),
        ("dash:all", {"dash": ["BTC-USD", "ETH-USD"]}),
        ("ALL", {"spot": ["BTCUSDT", "ETHUSDT", "ETHBTC"], "perp": [i.symbol for i in PERP], "dash": ["BTC-USD", "ETH-USD"]}),
        ({"spot": ["ETHBTC"], "dash": "all"}, {"spot": ["ETHBTC"], "dash": ["BTC-USD", "ETH-USD"]}),
        ({"all": "ETHUSDT", "perp": "perp:1000*"}, {"spot": ["ETHUSDT"], "perp": ["1000PEPEUSDT"]}),
    ],
)  # fmt: skip
def test_selectors_resolve_in_order_without_duplicates(selectors: object, expected: dict[str, list[str]]) -> None:
    found = get_symbols(selectors, ALL)  # type: ignore[arg-type]
    assert found == expected
    assert list(found) == list(expected)


def test_venues_choose_and_order() -> None:
    assert list(get_symbols("BTC-USDT", ALL, venues=["perp", "spot"])) == ["perp", "spot"]
    assert get_symbols("all", ALL, venues=["dash"]) == {"dash": ["BTC-USD", "ETH-USD"]}


def test_inactive_instruments_only_when_asked_for() -> None:
    assert get_symbols("*USDT", {"spot": SPOT}, include_inactive=True)["spot"][-2:] == ["LUNAUSDT", "OLDUSDT"]


@pytest.mark.parametrize(
    ("selectors", "kind", "message"),
    [
        ("BTCUSTD", UnknownNameError, "unknown symbol of spot or perp or dash 'BTCUSTD'; did you mean BTCUSDT"),
        ("spot:BTCUSD", UnknownNameError, "unknown symbol of spot 'BTCUSD'; did you mean BTCUSDT"),
        ("zzzzzz", UnknownNameError, "unknown symbol of spot or perp or dash 'zzzzzz'; list them with: cmd-cli symbols"),
        ("XRP*", UsageError, "no trading symbol of spot or perp or dash matches 'XRP*'; list them"),
        ("LUNA*", UsageError, "only halted or delisted instruments match"),
        ("sopt:BTCUSDT", UnknownNameError, "unknown exchange 'sopt'; did you mean spot?"),
        ({"sopt": "all"}, UnknownNameError, "unknown exchange 'sopt'; did you mean spot?"),
        ("spot:", UsageError, "spot: names no symbol"),
        ("", UsageError, "no symbols are given"),
        (" , ", UsageError, "no symbols are given"),
        ([], UsageError, "no symbols are given"),
        ([1], UsageError, "symbol 1 is not text"),
        (5, UsageError, "neither text nor a list"),
        ("@nowhere.txt", UsageError, "cannot read symbols from nowhere.txt: No such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_resolved_is_named(selectors: object, kind: type[UsageError], message: str) -> None:
    with pytest.raises(kind) as caught:
        get_symbols(selectors, ALL)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_symbol_carries_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_symbols("BTC-USTD", {"dash": DASH})
    assert caught.value.name == "BTC-USTD"
    assert "BTC-USD" in caught.value.nearest


def test_an_unknown_venue_to_choose_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="unknown exchange 'krakn'"):
        get_symbols("all", ALL, venues=["krakn"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# my symbols\nETHUSDT\n\n  BTCUSDT , ETHBTC  # three\n"),
        ("list.toml", 'symbols = ["ETHUSDT", "BTCUSDT", "ETHBTC"]\n'),
        ("venues.toml", 'spot = ["ETHUSDT", "BTCUSDT,ETHBTC"]\n'),
        ("list.json", json.dumps(["ETHUSDT", "BTCUSDT", "ETHBTC"])),
        ("venues.json", json.dumps({"symbols": {"spot": "ETHUSDT,BTCUSDT,ETHBTC"}})),
        ("list.yaml", "- ETHUSDT\n- BTCUSDT\n- ETHBTC\n"),
        ("venues.yml", "spot:\n  - ETHUSDT\n  - BTCUSDT\n  - ETHBTC\n"),
    ],
)
def test_files_hold_selectors(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    expected = {"spot": ["ETHUSDT", "BTCUSDT", "ETHBTC"]}
    assert get_symbols(f"@{path}", {"spot": SPOT}) == expected
    if "venues" not in name:
        assert get_symbols(f"spot:@{path}", ALL) == expected


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.toml", b"x = [", "cannot read symbols from"),
        ("a.json", b"{", "cannot read symbols from"),
        ("a.yaml", b"a: [", "cannot read symbols from"),
        ("a.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("a.json", b"[1]", "symbol 1 in"),
        ("a.txt", b"@b.txt", "cannot include another"),
        ("a.json", b'{"spot": {"x": "y"}}', "are a mapping"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        get_symbols(f"@{tmp_path / name}", ALL)
    assert name in str(caught.value)


def test_native_symbols_need_no_reference_data() -> None:
    assert native_symbols("btcusdt,dash:BTC-USD", venues=["spot", "dash"]) == {
        "spot": ["BTCUSDT"],
        "dash": ["BTCUSDT", "BTC-USD"],
    }


@pytest.mark.parametrize("selector", ["*USDT", "all", "BTC[AB]"])
def test_native_symbols_refuse_what_needs_reference_data(selector: str) -> None:
    with pytest.raises(UsageError, match="needs the exchange's list of instruments"):
        native_symbols(selector, venues=["spot"])


def test_venue_names_are_found_in_any_case() -> None:
    assert expand_selectors("SPOT:x,y", venues=["spot"]) == [("spot", "x"), (None, "y")]


def test_nearest_ignores_case_and_is_bounded() -> None:
    assert nearest("btcusdt", ["BTCUSDT", "ETHUSDT"])[0] == "BTCUSDT"
    assert len(nearest("a", ["aa", "ab", "ac", "ad"], 2)) <= 2


@given(st.lists(st.sampled_from([i.symbol for i in SPOT])), st.booleans())
def test_any_list_of_names_comes_back_once_each_in_order(names: list[str], joined: bool) -> None:
    if not names:
        return
    selectors = ",".join(names) if joined else names
    assert get_symbols(selectors, {"spot": SPOT}) == {"spot": list(dict.fromkeys(names))}


@given(st.text(max_size=20).filter(lambda t: not t.strip().startswith("@")))
def test_any_text_resolves_or_is_a_usage_error(text: str) -> None:
    try:
        found = get_symbols(text, ALL)
    except UsageError:
        return
    assert all(symbol in {i.symbol for i in ALL[venue]} for venue, symbols in found.items() for symbol in symbols)
