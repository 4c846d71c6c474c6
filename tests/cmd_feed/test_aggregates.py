"""Books merged over venues in a session: what is planned, which rows are due, real sessions against emulators."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmd_common.commands import AggregateOptions, RecordOptions
from cmd_common.errors import UnknownNameError, UsageError
from cmd_common.instruments import Instrument
from cmd_common.multibook import MultiSymbolOrderBook
from cmd_common.records import AggregatedBook, BookDelta, FeedStatus, Gap, Record, venue_levels
from cmd_common.sequence import BookState
from cmd_feed.aggregates import Aggregates, plan
from cmd_feed.session import LiveSession

from .test_session import options, replay

S = 1_000_000_000
T0 = 1_700_000_000 * S


def instrument(venue: str, symbol: str, base: str, quote: str, kind: Any = "spot") -> Instrument:
    return Instrument(venue, symbol, base, quote, kind, Decimal("0.01"), Decimal(1))


LISTED = {
    "a": [
        instrument("a", "BTCUSDT", "BTC", "USDT"),
        instrument("a", "ETHUSDT", "ETH", "USDT"),
        instrument("a", "BTCUSDC", "BTC", "USDC"),
    ],
    "b": [
        instrument("b", "BTC-USD", "BTC", "USD"),
        instrument("b", "BTC-EUR", "BTC", "EUR"),
        instrument("b", "EUR-USD", "EUR", "USD"),
        instrument("b", "BTC-USD-SWAP", "BTC", "USD", "perpetual"),
    ],
    "c": [instrument("c", "BTCUSDT", "BTC", "USDT", "perpetual")],
}
DOLLARS = AggregateOptions(equivalents=("USD=USDT=USDC",))


class TestPlan:
    def test_one_instrument_on_all_venues(self) -> None:
        found = plan(["BTC-USDT"], LISTED, AggregateOptions())
        assert list(found.selectors) == ["a:BTCUSDT", "c:BTCUSDT"]
        assert [t.name for t in found.targets.values()] == ["BTC-USDT"]

    def test_equivalents_are_brought_in(self) -> None:
        found = plan(["BTC-USDT", "a:BTC-USDC"], LISTED, DOLLARS)
        assert list(found.selectors) == ["a:BTCUSDT", "a:BTCUSDC", "b:BTC-USD", "c:BTCUSDT"]
        assert [t.name for t in found.targets.values()] == ["BTC-USDT"]

    def test_a_venue_that_was_not_asked_for_stays_out(self) -> None:
        found = plan(["a:BTC-USDT", "b:BTC-USD"], LISTED, DOLLARS)
        assert list(found.selectors) == ["a:BTCUSDT", "a:BTCUSDC", "b:BTC-USD"]

    def test_the_exchanges_own_names_and_wildcards(self) -> None:
        assert [t.name for t in plan(["ETHUSDT"], LISTED, DOLLARS).targets.values()] == ["ETH-USDT"]
        found = plan(["BTC-USD-SWAP"], LISTED, DOLLARS)
        assert list(found.selectors) == ["b:BTC-USD-SWAP", "c:BTCUSDT"]
        assert [t.name for t in found.targets.values()] == ["BTC-USD-PERP"]
        assert [t.name for t in plan(["*USDT"], LISTED, AggregateOptions()).targets.values()] == [
            "BTC-USDT",
            "ETH-USDT",
            "BTC-USDT-PERP",
        ]

    def test_a_pair_that_converts_is_subscribed_too(self) -> None:
        found = plan(["BTC-USDT"], LISTED, AggregateOptions(("USD=USDT",), convert=("EUR",)))
        assert list(found.selectors) == ["a:BTCUSDT", "b:BTC-USD", "b:BTC-EUR", "c:BTCUSDT", "b:EUR-USD"]
        with pytest.raises(UsageError, match="EUR into USDT"):
            plan(["BTC-USDT"], LISTED, AggregateOptions(convert=("EUR",)))

    def test_what_nobody_has(self) -> None:
        with pytest.raises(UnknownNameError, match="BTC-USDT"):
            plan(["BTC-USDX"], LISTED, DOLLARS)
        with pytest.raises(UnknownNameError, match="BTCUSDT"):
            plan(["BTCUSDX"], LISTED, DOLLARS)


class Session:
    """Books of two venues and what follows them."""

    def __init__(self, **more: Any) -> None:
        self.books = MultiSymbolOrderBook()
        known = {i.name: i for found in LISTED.values() for i in found}
        found = plan(["BTC-USDT"], LISTED, AggregateOptions(**more))
        self.aggregates = Aggregates(found, self.books, lambda v, s: known.get(f"{v}:{s}"))
        for name in ("a", "c"):
            self.books.add(name, "BTCUSDT")
        self.now = 2 * T0

    def delta(self, venue: str, ts: int, bid: float = 100.0, ask: float = 101.0) -> list[AggregatedBook]:
        book = self.books[f"{venue}:BTCUSDT"]
        book.load([(bid, 1.0)], [(ask, 1.0)])
        book.state = BookState.LIVE
        book.ts_event = ts
        self.now += 1_000_000
        return self.rows(BookDelta(ts, self.now, venue, "BTCUSDT", 1, 2, 2, b"", b""))

    def lose(self, venue: str) -> list[AggregatedBook]:
        self.books[f"{venue}:BTCUSDT"].state = BookState.STALE
        return self.rows(FeedStatus(self.now, self.now, venue, "BTCUSDT", "book", "x", "STALE", "disconnect"))

    def rows(self, *records: Record) -> list[AggregatedBook]:
        return [r for r in self.aggregates.take(records) if isinstance(r, AggregatedBook)]


class TestRows:
    def test_the_first_update_of_a_bucket_of_exchange_time(self) -> None:
        session = Session()
        assert [r.venues for r in session.delta("a", T0 + 1)] == ["a:BTCUSDT"]
        assert [r.venues for r in session.delta("c", T0 + 2, 100.5)] == ["a:BTCUSDT,c:BTCUSDT"]
        assert session.delta("a", T0 + 3) == []
        assert session.delta("c", T0 + S - 1) == []
        (row,) = session.delta("a", T0 + S)
        assert (row.instrument, row.ts_event, row.ts_recv, row.seq) == ("BTC-USDT", T0 + S, session.now, 0)
        assert list(venue_levels(row.bids)) == [(100.0, 1.0, 0), (100.0, 1.0, 1)]
        assert session.delta("c", T0 + S + 1) == []
        assert len(session.delta("c", T0 + 5 * S)) == 1

    def test_no_row_knows_more_than_its_time_says(self) -> None:
        session = Session()
        session.delta("a", T0)
        session.delta("c", T0 + 7 * S)  # its clock is ahead
        assert session.delta("a", T0 + 2 * S) == []
        (row,) = session.delta("c", T0 + 8 * S)
        assert row.ts_event == T0 + 8 * S
        (row,) = session.lose("c")  # the time goes back with the venue
        assert (row.ts_event, row.excluded) == (T0 + 2 * S, "c:BTCUSDT=stale")
        assert session.delta("a", T0 + 2 * S + 1) == []
        assert len(session.delta("a", T0 + 3 * S)) == 1

    def test_every_change_of_trust(self) -> None:
        session = Session(max_age=10 * S)
        session.delta("a", T0)
        session.delta("c", T0)
        (row,) = session.lose("a")
        assert (row.venues, row.excluded, row.seq) == ("c:BTCUSDT", "a:BTCUSDT=stale", 2)
        (row,) = session.lose("c")
        assert (row.venues, row.bids, row.ts_event, row.seq) == ("", b"", T0, 3)
        assert session.lose("c") == []
        session.delta("c", T0)
        assert session.aggregates.tick(session.now + 10 * S) == []
        (gone,) = session.aggregates.tick(session.now + 10 * S + 1)
        assert isinstance(gone, AggregatedBook)
        assert gone.excluded == "a:BTCUSDT=stale,c:BTCUSDT=old"
        assert session.aggregates.tick(session.now + 11 * S) == []

    def test_nothing_is_said_before_a_book_is_there_or_has_a_time(self) -> None:
        session = Session()
        assert session.lose("a") == []
        assert session.aggregates.tick(session.now) == []
        assert session.delta("a", 0) == []
        assert len(session.delta("a", T0)) == 1

    def test_others_do_not_matter(self) -> None:
        session = Session()
        session.books.add("a", "ETHUSDT").state = BookState.LIVE
        assert session.rows(BookDelta(T0, T0, "a", "ETHUSDT", 1, 2, 2, b"", b"")) == []
        connection = FeedStatus(T0, T0, "a", "", "", "x", "connected", "")
        assert session.rows(connection) == []

    def test_states(self) -> None:
        session = Session()
        session.delta("a", T0, 102.0)
        session.delta("c", T0)
        info = session.aggregates.states()["BTC-USDT"]
        assert info.crossed
        assert info.best_bid == (102.0, 1.0, ("a:BTCUSDT",))
        assert info.best_ask == (101.0, 2.0, ("a:BTCUSDT", "c:BTCUSDT"))

    @given(
        st.lists(
            st.tuples(st.sampled_from("ac"), st.sampled_from(["delta", "delta", "delta", "lose"]), st.integers(0, S)),
            max_size=40,
        )
    )
    def test_rows_have_a_key_each_and_one_a_bucket_without_a_change(self, steps: list[tuple[str, str, int]]) -> None:
        session = Session(max_age=None)
        ts = T0
        rows: list[AggregatedBook] = []
        for venue, what, by in steps:
            ts += by
            rows += session.delta(venue, ts) if what == "delta" else session.lose(venue)
        keys = [(r.ts_event, r.instrument, r.seq) for r in rows]
        assert len(set(keys)) == len(keys)
        for before, after in pairwise(rows):
            same = (before.venues, before.excluded) == (after.venues, after.excluded)
            # a book that is lost and comes back between two rows of one bucket was a row of its own
            assert not same or before.ts_event // S != after.ts_event // S


class Writer:
    """A store in memory."""

    def __init__(self) -> None:
        self.rows: list[Record] = []

    def write(self, records: Any) -> None:
        self.rows += records

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def merged(self) -> list[AggregatedBook]:
        return [r for r in self.rows if isinstance(r, AggregatedBook)]


async def test_a_session_records_only_what_was_asked_for(words: Any) -> None:
    venues = ["binance-spot", "binance-usdm"]
    async with replay(exchanges=venues, simulate=True, symbols=2, speed=0, duration=20 * S) as endpoints:
        writer = Writer()
        found = options(
            endpoints, until_end=True, symbols=("BTC-USDT",), types=("aggregate",), aggregate=AggregateOptions(depth=5)
        )
        session = LiveSession(found, words, writer=writer, inline=True)  # type: ignore[arg-type]
        async with session, asyncio.timeout(60):
            await session.wait()
            assert session.symbols == {"binance-spot": ["BTCUSDT"], "binance-usdm": ["BTCUSDT"]}
            merged = session.aggregates["BTC-USDT"]
            merged.check()
            for name in merged.names:
                book = session.books[name]
                part = {p.price: p.quantity for level in merged.bids() for p in level.parts if p.name == name}
                assert part == dict(book.bids())
    kinds = {type(r) for r in writer.rows}
    assert AggregatedBook in kinds
    assert BookDelta not in kinds
    assert not any(isinstance(r, Gap) for r in writer.rows)
    both = [r for r in writer.merged if r.venues == "binance-spot:BTCUSDT,binance-usdm:BTCUSDT"]
    assert both
    for row in both:
        bids, asks = list(venue_levels(row.bids)), list(venue_levels(row.asks))
        assert {v for _, _, v in bids + asks} <= {0, 1}
        assert len({p for p, _, _ in bids}) == len({p for p, _, _ in asks}) == 5
        assert [p for p, _, _ in bids] == sorted((p for p, _, _ in bids), reverse=True)
    states = session.aggregate_states()["BTC-USDT"]
    assert states.venues == ("binance-spot:BTCUSDT", "binance-usdm:BTCUSDT")


async def test_a_venue_that_breaks_off_is_listed_and_comes_back(words: Any) -> None:
    venues = ["binance-spot", "kraken"]
    fault = {"kind": "disconnect", "parameters": {"venue": "kraken", "at": "60", "stream": "depth"}}
    settings = {"symbol_names": ["BTCUSDT"], "speed": 8.0, "duration": 30 * S, "faults": [fault]}
    async with replay(exchanges=venues, simulate=True, **settings) as endpoints:
        writer = Writer()
        found = options(endpoints, until_end=True, symbols=("BTC-USDT",), types=("aggregate", "book"))
        session = LiveSession(found, words, writer=writer, inline=True)  # type: ignore[arg-type]
        async with session, asyncio.timeout(60):
            await session.wait()
    venues_of = [(r.venues, r.excluded) for r in writer.merged]
    both = "binance-spot:BTCUSDT,kraken:BTC/USDT"
    lost = ("binance-spot:BTCUSDT", "kraken:BTC/USDT=stale")
    assert lost in venues_of, venues_of
    assert any(names == both for names, _ in venues_of[: venues_of.index(lost)])
    assert any(names == both for names, _ in venues_of[venues_of.index(lost) :])
    keys = [(r.ts_event, r.instrument, r.seq) for r in writer.merged]
    assert len(set(keys)) == len(keys)
    # and with type book its gap is there: the merged rows do not hide it
    assert any(isinstance(r, Gap) and r.venue == "kraken" and r.record_type == "book_deltas" for r in writer.rows)


async def test_symbols_that_are_added_and_removed_are_followed(words: Any) -> None:
    async with replay(
        exchanges=["binance-spot", "okx"], simulate=True, symbol_names=["BTCUSDT", "ETHUSDT"], speed=4.0
    ) as endpoints:
        found = options(endpoints, symbols=("binance-spot:BTC-USDT", "okx:all"), types=("aggregate",))
        async with LiveSession(found, words) as session, asyncio.timeout(60):
            merged = session.aggregates["BTC-USDT"]

            source: Any = session

            async def until(names: list[str]) -> None:
                async for _ in source.subscribe():
                    if merged.names == names:
                        return

            await until(["binance-spot:BTCUSDT", "okx:BTC-USDT"])
            session.remove("okx", ["BTC-USDT"])
            await until(["binance-spot:BTCUSDT"])
            assert list(merged) == ["binance-spot:BTCUSDT"]
            session.add("okx", ["BTC-USDT"])
            await until(["binance-spot:BTCUSDT", "okx:BTC-USDT"])
            merged.check()


async def test_books_in_another_currency_are_converted_at_the_live_price(words: Any) -> None:
    names = ["BTCUSDT", "BTCEUR", "EURUSDT"]
    async with replay(exchanges=["binance-spot"], simulate=True, symbol_names=names, speed=4.0) as endpoints:
        more = AggregateOptions(convert=("EUR",), fees={"binance-spot": 5.0})
        found = options(endpoints, symbols=("BTC-USDT",), types=("aggregate",), aggregate=more)
        async with LiveSession(found, words) as session, asyncio.timeout(60):
            merged = session.aggregates["BTC-USDT"]
            source: Any = session
            async for _ in source.subscribe():
                if len(merged.names) == 2:
                    break
            assert session.symbols == {"binance-spot": ["BTCUSDT", "BTCEUR", "EURUSDT"]}
            # records are handed on a moment after the books have changed: bring the rate up to the cross book
            assert session._aggregates is not None
            session._aggregates.tick(session._clock.now())
            cross = session.books["binance-spot:EURUSDT"]
            rates = {"binance-spot:BTCUSDT": (1.0, 1.0)}
            assert cross.best_bid
            assert cross.best_ask
            rates["binance-spot:BTCEUR"] = (cross.best_bid[0], cross.best_ask[0])
            for level in merged.bids():
                for part in level.parts:
                    assert level.price == part.price * (rates[part.name][0] * (1 - 5 / 10_000))
            for level in merged.asks():
                for part in level.parts:
                    assert level.price == part.price * (rates[part.name][1] * (1 + 5 / 10_000))
            merged.check()


def test_options_have_their_defaults() -> None:
    found = RecordOptions(exchanges=(), symbols=(), types=(), store="")
    assert found.aggregate == AggregateOptions()
