from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from aggregate_model import Naive, Single
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.tally import CountedSteps, amount

from cmd_common.equivalence import Match
from cmd_common.errors import UsageError
from cmd_common.following import BookFollower
from cmd_common.instruments import Instrument, ReferenceData
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import BookDelta, BookSnapshot, FeedStatus, Record, Trade
from cmd_common.sequence import BookState

pytestmark = pytest.mark.usefixtures("either_book")

S = 1_000_000_000


def instrument(venue: str, base: str, quote: str, **more: Any) -> Instrument:
    return Instrument(
        venue, f"{base}{quote}", base, quote, more.pop("kind", "spot"), Decimal("0.01"), Decimal(1), **more
    )


LISTED = ReferenceData(
    [
        instrument("a", "BTC", "USDT"),
        instrument("b", "BTC", "USD"),
        instrument("b", "BTC", "EUR"),
        instrument("c", "BTC", "USDT", kind="perpetual", contract_size=Decimal("0.5")),
        instrument("a", "ETH", "USDT"),
        instrument("b", "EUR", "USD"),
        instrument("a", "USDT", "EUR"),
    ]
)


def load(books: MultiSymbolOrderBook, name: str, bid: float, ask: float) -> None:
    book = books[name] if name in books else books.add(*name.split(":"))
    book.load([(bid, 1.0)], [(ask, 1.0)])
    book.state = BookState.LIVE


def delta(name: str, now: int) -> BookDelta:
    venue, symbol = name.split(":")
    return BookDelta(now - 1, now, venue, symbol, 1, 2, 2, b"", b"")


def status(name: str, state: str, now: int, what: str = "book") -> FeedStatus:
    venue, symbol = name.split(":")
    return FeedStatus(now, now, venue, symbol, what, "c", state, "")


def test_it_follows_books_that_come_and_go() -> None:
    books = MultiSymbolOrderBook()
    load(books, "a:BTCUSDT", 100.0, 101.0)
    follower = BookFollower(books, LISTED.get, "BTC-USDT")
    assert list(follower.book) == ["a:BTCUSDT"]
    load(books, "a:ETHUSDT", 5.0, 6.0)
    load(books, "b:BTCUSD", 99.0, 102.0)
    load(books, "c:BTCUSDT", 98.0, 100.5)
    assert not follower.update("a:ETHUSDT", S)
    assert not follower.update("b:BTCUSD", S)
    assert follower.update("c:BTCUSDT", S)
    assert list(follower.book) == ["a:BTCUSDT", "c:BTCUSDT"]
    assert follower.book.excluded == {"a:BTCUSDT": "no update"}
    ask = follower.book.best_ask
    assert ask is not None
    assert ask.quantity == 0.5
    books.remove("c:BTCUSDT")
    assert follower.update("a:BTCUSDT", S)
    assert list(follower.book) == ["a:BTCUSDT"]
    load(books, "c:BTCUSDT", 98.0, 100.25)  # another book of the same name
    follower.update("c:BTCUSDT", S)
    assert follower.book.best_prices == (100.0, 100.25)
    follower.check()


def test_equivalent_quotes() -> None:
    books = MultiSymbolOrderBook()
    for name in ("a:BTCUSDT", "b:BTCUSD", "b:BTCEUR"):
        load(books, name, 100.0, 101.0)
    follower = BookFollower(books, LISTED.get, "BTC-USDT", equivalents=["USD=USDT"])
    assert list(follower.book) == ["a:BTCUSDT", "b:BTCUSD"]
    own = BookFollower(books, LISTED.get, "BTC-USDT", match=lambda i: Match(i) if i.venue == "b" else None)
    assert list(own.book) == own.watched == ["b:BTCUSD", "b:BTCEUR"]


def test_books_without_reference_data_are_not_used() -> None:
    books = MultiSymbolOrderBook()
    load(books, "x:BTCUSDT", 100.0, 101.0)
    assert len(BookFollower(books, LISTED.get, "BTC-USDT").book) == 0


def test_what_is_no_instrument() -> None:
    with pytest.raises(UsageError):
        BookFollower(MultiSymbolOrderBook(), LISTED.get, "BTCUSDT")


class TestCross:
    def make(self) -> tuple[MultiSymbolOrderBook, BookFollower]:
        books = MultiSymbolOrderBook()
        load(books, "a:BTCUSDT", 100.0, 200.0)
        load(books, "b:BTCEUR", 95.0, 97.0)
        follower = BookFollower(books, LISTED.get, "BTC-USDT", equivalents=["USD=USDT"], convert=["eur"], max_age=10)
        follower.update("a:BTCUSDT", S)
        follower.update("b:BTCEUR", S)
        return books, follower

    def test_by_the_live_book_of_the_pair(self) -> None:
        books, follower = self.make()
        assert follower.book.excluded == {"b:BTCEUR": "rate of EUR: none"}
        load(books, "b:EURUSD", 1.0625, 1.125)
        assert follower.update("b:EURUSD", S + 1)
        assert follower.book.best_prices == (95.0 * 1.0625, 97.0 * 1.125)
        books["b:EURUSD"].apply([], [(1.0625, 0.0), (1.09375, 1.0)])
        follower.update("b:EURUSD", S + 2)
        assert follower.book.best_prices == (95.0 * 1.0625, 97.0 * 1.09375)
        follower.check()

    def test_its_loss_excludes_what_needs_it(self) -> None:
        books, follower = self.make()
        load(books, "b:EURUSD", 1.0625, 1.125)
        follower.update("b:EURUSD", S)
        assert follower.book.excluded == {}
        books["b:EURUSD"].state = BookState.STALE
        assert follower.apply([status("b:EURUSD", "STALE", S + 1)])
        assert follower.book.excluded == {"b:BTCEUR": "rate of EUR: stale"}
        books["b:EURUSD"].state = BookState.LIVE
        assert follower.apply([status("b:EURUSD", "LIVE", S + 2)])
        assert follower.book.excluded == {}
        follower.refresh(S + 11)
        assert follower.book.excluded == {"a:BTCUSDT": "old", "b:BTCEUR": "old"}
        books["b:EURUSD"].apply([(1.0625, 0.0)], [])
        follower.update("b:BTCEUR", S + 11)
        follower.update("b:EURUSD", S + 11)
        assert follower.book.excluded == {"a:BTCUSDT": "old", "b:BTCEUR": "rate of EUR: one side is empty"}

    def test_an_inverted_pair_and_the_first_that_can_be_trusted(self) -> None:
        books, follower = self.make()
        load(books, "a:USDTEUR", 0.875, 0.9375)
        follower.update("a:USDTEUR", S + 1)
        assert follower.book.best_prices == (95.0 * (1 / 0.9375), 97.0 * (1 / 0.875))
        load(books, "b:EURUSD", 1.0, 1.0)
        follower.update("b:EURUSD", S + 2)
        assert follower.book.best_prices[1] == 97.0 * (1 / 0.875)
        books["a:USDTEUR"].state = BookState.STALE
        follower.apply([status("a:USDTEUR", "STALE", S + 3)])
        assert follower.book.best_prices == (100.0, 97.0)
        follower.refresh(S + 12)
        assert follower.book.excluded["b:BTCEUR"] == "old"
        follower.update("b:BTCEUR", S + 13)
        assert follower.book.excluded["b:BTCEUR"] == "rate of EUR: old"
        follower.check()


def test_records_of_a_live_source() -> None:
    books = MultiSymbolOrderBook()
    load(books, "a:BTCUSDT", 100.0, 101.0)
    load(books, "c:BTCUSDT", 98.0, 102.0)
    follower = BookFollower(books, LISTED.get, "BTC-USDT", max_age=10)
    trade = Trade(1, S, "a", "BTCUSDT", "1", 1, 1.0, 1.0, "buy")
    assert not follower.apply([trade, status("a:BTCUSDT", "LIVE", S, "trades"), status("a:ETHUSDT", "STALE", S)])
    assert follower.book.names == []
    snapshot = BookSnapshot(S - 1, S, "c", "BTCUSDT", 1, 1, 1, 1, b"", b"")
    records: list[Record] = [trade, delta("a:BTCUSDT", S), snapshot]
    assert follower.apply(records)
    assert follower.book.names == ["a:BTCUSDT", "c:BTCUSDT"]
    # a book that is lost is not thereby updated: its age goes on
    follower.apply([status("a:BTCUSDT", "STALE", S + 9)])
    assert [s.age for s in follower.book.status()] == [9, 9]


class FollowerMachine(CountedSteps):
    """Symbols of several venues are added and removed while books change: always the naive merge of those there."""

    @initialize()
    def begin(self) -> None:
        self.books = MultiSymbolOrderBook()
        self.naive = Naive(20)
        self.fees = {"c": 5.0}
        self.follower = BookFollower(
            self.books, LISTED.get, "BTC-USDT", equivalents=["USD=USDT"], max_age=20, fees=self.fees
        )

    @rule(name=st.sampled_from(["a:BTCUSDT", "b:BTCUSD", "b:BTCEUR", "c:BTCUSDT", "a:ETHUSDT"]))
    def add_or_remove(self, name: str) -> None:
        if name in self.books:
            self.books.remove(name)
            self.naive.singles.pop(name, None)
            return
        book = self.books.add(*name.split(":"))
        what = LISTED[name]
        if what.base == "BTC" and what.quote != "EUR":
            self.naive.singles[name] = Single(book, what, self.fees.get(what.venue, 0.0))

    @precondition(lambda self: len(self.books))
    @rule(
        data=st.data(), bid=st.integers(1, 20), by=st.integers(0, 6), state=st.sampled_from(["LIVE", "LIVE", "STALE"])
    )
    def change(self, data: st.DataObject, bid: int, by: int, state: str) -> None:
        name = data.draw(st.sampled_from(list(self.books)))
        load(self.books, name, float(bid), float(bid + by))
        self.books[name].state = BookState[state]
        self.naive.now += by
        if name in self.naive.singles:
            self.naive.singles[name].seen = self.naive.now
        self.follower.update(name, self.naive.now)

    @invariant()
    def is_the_naive_merge(self) -> None:
        self.follower.refresh(self.naive.now)
        found = {
            tuple(sorted((p.name, p.price, p.quantity) for p in level.parts)) for level in self.follower.book.bids()
        }
        assert found == {tuple(sorted(parts)) for _, _, parts in self.naive.merged(True)}
        assert self.follower.book.excluded == self.naive.excluded()
        self.follower.check()


def test_follower_machine() -> None:
    run_state_machine_as_test(
        FollowerMachine, settings=settings(max_examples=amount(50, 200), stateful_step_count=40, deadline=None)
    )
