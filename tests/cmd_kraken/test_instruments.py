"""Reference data: names, precisions, statuses; and the recorded AssetPairs."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import kraken_wire as w
import pytest

from cmd_common.errors import ProtocolError
from cmd_common.recording import read
from cmd_kraken import KRAKEN
from cmd_kraken.instruments import decimals_of, native_symbol, parse_asset_pairs, rest_pair, v1_pair


def test_names() -> None:
    assert native_symbol("XBT/USD") == "BTC/USD"
    assert native_symbol("XDG/XBT") == "DOGE/BTC"
    assert v1_pair("DOGE/BTC") == "XDG/XBT"
    assert rest_pair("BTC/USD") == "XBTUSD"
    assert rest_pair("ETH/USDT") == "ETHUSDT"


def one(**changes: Any) -> Any:
    (instrument,) = parse_asset_pairs(w.body({"XXBTZUSD": w.pair("XBT/USD", "XXBT", "ZUSD", **changes)}))
    return instrument


def test_an_instrument() -> None:
    i = one()
    assert (i.venue, i.symbol, i.base, i.quote, i.kind, i.status) == (
        "kraken",
        "BTC/USD",
        "BTC",
        "USD",
        "spot",
        "trading",
    )
    assert (i.tick_size, i.lot_size, i.min_quantity, i.min_notional) == tuple(
        map(Decimal, ("0.1", "1e-8", "0.00005", "0.5"))
    )
    assert i.unified == "BTC-USD"
    assert i.contract_size is None


def test_the_tick_keeps_the_places_of_prices() -> None:
    i = one(pair_decimals=2, tick_size="0.5")
    assert (i.tick_size, decimals_of(i.tick_size), decimals_of(i.lot_size)) == (Decimal("0.5"), 2, 8)
    assert i.on_tick(1.5)
    assert not i.on_tick(1.25)
    assert decimals_of(Decimal(100)) == 0


def test_display_names_are_taken_as_they_are() -> None:
    pairs = {"BTC/USD": w.pair("XBT/USD", "BTC", "USD"), "DOGE/EUR": w.pair("XDG/EUR", "DOGE", "EUR")}
    assert [i.symbol for i in parse_asset_pairs(w.body(pairs))] == ["BTC/USD", "DOGE/EUR"]


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("online", "trading"),
        ("post_only", "trading"),
        ("cancel_only", "halted"),
        ("maintenance", "halted"),
        ("new", "unknown"),
    ],
)
def test_statuses(word: str, status: str) -> None:
    i = one(status=word)
    assert (i.status, i.raw_status) == (status, word)


@pytest.mark.parametrize(
    "body",
    [
        w.body({}), w.body({"X": 1}), w.body({"X": {"altname": "X"}}), w.body({}, "EService:Unavailable"), b'{"result":[]}',
        w.body({"X": w.pair("A/B", "A", "B", pair_decimals=-1)}), w.body({"X": w.pair("A/B", "A", "B", tick_size="x")}),
    ],
)  # fmt: skip
def test_bad_bodies_are_one_clear_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="AssetPairs"):
        parse_asset_pairs(body)


def test_the_request_asks_for_display_names() -> None:
    assert (
        KRAKEN.instruments_request(KRAKEN.endpoints).url == "https://api.kraken.com/0/public/AssetPairs?assetVersion=1"
    )


def test_recorded_pairs(recordings: Path) -> None:
    (line,) = read(recordings / "kraken/cryptofeed_assetpairs_20210417.ndjson")
    instruments = {i.symbol: i for i in parse_asset_pairs(line.text.encode())}
    raw = {native_symbol(p["wsname"]): p for p in json.loads(line.text)["result"].values() if "wsname" in p}
    assert len(raw) == len(instruments) == 293
    assert all(rest_pair(symbol) == pair["altname"] for symbol, pair in raw.items())
    assert all(v1_pair(symbol) == pair["wsname"] for symbol, pair in raw.items())
    assert all(decimals_of(instruments[s].tick_size) == p["pair_decimals"] for s, p in raw.items())
    assert instruments["DOGE/BTC"].base == "DOGE"
    assert instruments["BTC/USD"].tick_size == Decimal("0.1")
