from __future__ import annotations

import random

import pytest

from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.orderbook import OrderBook

pytestmark = pytest.mark.usefixtures("either_book")


def books() -> MultiSymbolOrderBook:
    multi = MultiSymbolOrderBook()
    multi.add("binance-spot", "BTCUSDT")
    multi.add("binance-usdm", "BTCUSDT")
    multi.add("binance-spot", "ETHUSDT", 7, tick_size=0.01, max_levels=5000)
    return multi


def test_books_are_found_by_full_name_and_by_id() -> None:
    multi = books()
    assert list(multi) == ["binance-spot:BTCUSDT", "binance-usdm:BTCUSDT", "binance-spot:ETHUSDT"]
    assert len(multi) == 3
    for name in multi:
        assert multi.by_id(multi.id_of(name)) is multi[name]
        assert name == f"{multi[name].venue}:{multi[name].symbol}"
    assert multi.id_of("binance-spot:ETHUSDT") == 7
    assert multi["binance-spot:ETHUSDT"].max_levels == 5000
    multi.check()


def test_a_bare_symbol_is_accepted_where_it_is_unique() -> None:
    multi = books()
    assert multi["ETHUSDT"] is multi.by_id(7)
    assert "ETHUSDT" in multi
    assert "BTCUSDT" not in multi
    with pytest.raises(UnknownNameError, match="say which: binance-spot:BTCUSDT, binance-usdm:BTCUSDT"):
        multi["BTCUSDT"]
    multi.remove("binance-usdm:BTCUSDT")
    assert multi["BTCUSDT"] is multi["binance-spot:BTCUSDT"]
    multi.check()


def test_an_unknown_name_is_a_key_error_that_names_the_nearest() -> None:
    multi = books()
    with pytest.raises(KeyError) as caught:
        multi["ETHUSD"]
    assert isinstance(caught.value, UnknownNameError)
    assert "ETHUSDT" in caught.value.nearest
    assert multi.get("nothing") is None
    assert 5 not in multi
    for number in (-1, 3, 8, 10**12):
        with pytest.raises(KeyError):
            multi.by_id(number)


def test_names_and_ids_are_never_used_twice() -> None:
    multi = books()
    for name, number in (("BTCUSDT", None), ("X", 7), ("X", -1), ("X", 10**9), ("", None)):
        with pytest.raises(UsageError):
            multi.add("binance-spot", name, number)
    with pytest.raises(UsageError):
        multi.add("a:b", "X")
    assert len(multi) == 3
    multi.check()


def test_symbols_may_contain_colons_and_given_books_are_kept() -> None:
    multi = MultiSymbolOrderBook()
    book = OrderBook(venue="v", symbol="A:B")
    assert multi.add("v", "A:B", book=book) is book
    assert multi["A:B"] is multi["v:A:B"] is book
    assert multi.remove("A:B") is book
    assert len(multi) == 0
    multi.check()


def test_random_adding_and_removing_keeps_all_ways_to_a_book_in_step() -> None:
    rng = random.Random(3)
    multi = MultiSymbolOrderBook()
    model: dict[str, OrderBook] = {}
    for _ in range(400):
        venue, symbol = rng.choice("abc"), rng.choice("STUVWXYZ")
        name = f"{venue}:{symbol}"
        if name in model:
            assert multi.remove(name) is model.pop(name)
        else:
            model[name] = multi.add(venue, symbol)
        multi.check()
        assert dict(multi) == model
