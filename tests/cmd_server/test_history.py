"""A store as one sequence of records: tables merged, ids in order, states where they belong, passes that go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cmd_common.io import IReader, open_reader, open_writer
from cmd_common.records import (
    BookDelta,
    BookSnapshot,
    Candle,
    FeedStatus,
    Gap,
    InstrumentRecord,
    Record,
    Trade,
    pack_levels,
)
from cmd_common.replica import BookReplica
from cmd_server.history import Reading, in_order, known_at

S = 1_000_000_000
T0 = 1_750_000_000 * S
ALL = ("trades", "book", "candles")


def trade(n: int, symbol: str = "A", ts: int | None = None) -> Trade:
    at = T0 + (n * S if ts is None else ts)
    return Trade(at, at + S // 20, "v", symbol, str(n), n, 100.0, 1.0, "buy")


def snapshot(seq: int, epoch: int) -> BookSnapshot:
    at = T0 + seq * S
    bids = pack_levels([(99.0, float(seq)), (98.0, 1.0)])
    return BookSnapshot(at, at + S // 20, "v", "A", epoch, seq, 2, 1, bids, pack_levels([(101.0, 1.0)]))


def delta(seq: int, epoch: int, ts: int | None = None) -> BookDelta:
    at = T0 + (seq * S if ts is None else ts)
    return BookDelta(at, at + S // 20, "v", "A", epoch, seq, seq, pack_levels([(99.0, float(seq))]), b"")


def candle(n: int) -> Candle:
    at = T0 + n * 60 * S
    return Candle(at, at + 60 * S, at + 60 * S, at + 60 * S, "v", "A", "1m", "exchange", "final", *[1.0] * 4, 1.0, 1.0, 1, 1.0, 1.0)  # fmt: skip


def state(word: str, at: int) -> FeedStatus:
    return FeedStatus(T0 + at, T0 + at, "v", "A", "book", "c", word, "")


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Callable[[], IReader]]:
    """Write records; returns what opens a reader."""
    url = f"parquet:{tmp_path / 'data'}"

    def write(*records: Record) -> Callable[[], IReader]:
        with open_writer(url) as writer:
            writer.write(records)
        return lambda: open_reader(url)

    return write


def everything(reading: Reading) -> list[Record]:
    found: list[Record] = []
    while rows := reading.next():
        found += rows
    return found


Store = Callable[..., Callable[[], IReader]]


def test_tables_are_merged_by_the_moment_at_which_a_row_was_known(store: Store) -> None:
    records = [trade(n) for n in range(1, 130)]
    gap = Gap(T0 + 3 * S, T0 + 80 * S, "v", "A", "trades", "disconnect", "lost")
    other = Gap(T0 + 3 * S, T0 + 81 * S, "v", "A", "quotes", "disconnect", "lost")
    opened = store(*records, candle(0), candle(1), gap, other, trade(500, "B"))
    found = everything(Reading(opened, {"v": ["A"]}, ALL))
    assert [known_at(r) for r in found] == sorted(known_at(r) for r in found)
    assert [r for r in found if isinstance(r, Trade)] == records
    assert found.index(candle(0)) > found.index(trade(59))
    assert found.index(candle(1)) > found.index(trade(119))
    assert found.index(gap) > found.index(trade(79))
    assert other not in found  # nobody asked for quotes


def test_ids_are_in_order_where_the_exchanges_clock_is_not(store: Store) -> None:
    records = [trade(1, ts=S), trade(2, ts=3 * S), trade(3, ts=2 * S), trade(4, ts=4 * S)]
    deltas = [delta(2, 1, 2 * S), delta(3, 1, 4 * S), delta(4, 1, 3 * S)]
    opened = store(*records, snapshot(1, 1), *deltas)
    found = everything(Reading(opened, {"v": ["A"]}, ALL))
    assert [r.trade_id for r in found if isinstance(r, Trade)] == ["1", "2", "3", "4"]
    assert [r.seq for r in found if isinstance(r, BookDelta | BookSnapshot)] == [1, 2, 3, 4]


def test_an_id_that_goes_back_by_an_epoch_is_not_moved() -> None:
    rows: list[Record] = [delta(9, 1), snapshot(3, 3), delta(4, 3)]
    assert in_order(list(rows)) == rows


def test_states_stand_where_our_own_clock_says(store: Store) -> None:
    # the exchange's clock is an hour behind ours
    hour = 3600 * S
    rows = [snapshot(1, 1), delta(2, 1), snapshot(9, 9), delta(10, 9)]
    late = [
        r.__class__(**{**{f: getattr(r, f) for f in r.__struct_fields__}, "ts_recv": r.ts_recv + hour}) for r in rows
    ]
    opened = store(*late, state("STALE", hour + 5 * S), state("LIVE", hour + 9 * S))
    found = everything(Reading(opened, {"v": ["A"]}, ALL))
    assert [getattr(r, "state", None) for r in found] == [None, None, "STALE", "LIVE", None, None]
    replica = BookReplica("v", "A")
    for record in found:
        if isinstance(record, BookSnapshot):
            replica.load(record)
        elif isinstance(record, BookDelta):
            replica.apply(record)
        elif isinstance(record, FeedStatus):
            replica.status(record)
    assert (replica.live, replica.book.last_id) == (True, 10)


def test_a_further_pass_gives_only_what_is_new(store: Store) -> None:
    opened = store(*[trade(n) for n in range(1, 60)], candle(0), state("LIVE", 5 * S))
    reading = Reading(opened, {"v": ["A"]}, ALL)
    first = everything(reading)
    assert everything(reading) == []
    store(*[trade(n) for n in range(58, 200)], candle(0), candle(1))
    second = everything(reading)
    assert [r.trade_seq for r in second if isinstance(r, Trade)] == list(range(60, 200))
    assert [r for r in second if isinstance(r, Candle)] == [candle(1)]
    assert everything(reading) == []
    assert len(first) == 61
    store(trade(190, ts=0), trade(201))  # a row that is written too late is not put before newer ones
    assert everything(reading) == [trade(201)]


def test_start_is_inclusive_and_end_exclusive(store: Store) -> None:
    opened = store(*[trade(n) for n in range(1, 50)])
    reading = Reading(opened, {"v": ["A"]}, ALL, start=T0 + 10 * S, end=T0 + 20 * S)
    assert [r.trade_seq for r in everything(reading) if isinstance(r, Trade)] == list(range(10, 20))
    assert everything(reading) == []


def test_the_book_at_the_start_chains_with_the_updates_behind_it(store: Store) -> None:
    opened = store(snapshot(1, 1), *[delta(n, 1) for n in range(2, 30)])
    reading = Reading(opened, {"v": ["A"]}, ("book",), start=T0 + 10 * S)
    (first,) = reading.book_at_start()
    assert isinstance(first, BookSnapshot)
    assert (first.seq, first.epoch) == (9, 1)
    replica = BookReplica("v", "A")
    replica.load(first)
    assert all(replica.apply(r) for r in everything(reading) if isinstance(r, BookDelta))
    assert replica.book.best_bid == (99.0, 29.0)
    assert Reading(opened, {"v": ["A"]}, ("book",), start=T0).book_at_start() == []


def test_the_newest_instruments(store: Store) -> None:
    rows = [
        InstrumentRecord(T0 + n, T0, "v", s, "A", "B", "", "spot", "1", "1", "", "", "", False, None, "trading")
        for n in range(3)
        for s in "AB"
    ]
    opened = store(*rows)
    assert Reading(opened, {"v": ["A"]}, ALL).instruments() == [rows[4]]
